package store

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/ingest/segment"
)

// tenMetrics are those of a large job.
var tenMetrics = []dhalion.Metric{
	dhalion.RecordsIn, dhalion.RecordsOut, dhalion.Busy, dhalion.Backpressured, dhalion.Idle,
	dhalion.InputQueueBuffers, dhalion.InputQueueFraction, dhalion.OutputQueueFraction, dhalion.CPU, dhalion.HeapUsed,
}

// benchmarkSegments are 500 instances × 10 metrics × 500 times, 5 s apart:
// 2.5 million values that move a little from one time to the next.
func benchmarkSegments(b *testing.B) (segs []dhalion.Segment, values int) {
	b.Helper()
	builder := segment.NewBuilder(wordcount, dhalion.KindInstance)
	for i := range 500 {
		target := dhalion.InstanceTarget(wordcount, fmt.Sprint("component", i/50), i%50)
		worker := builder.Name(fmt.Sprint("tm-", i%25))
		for m, metric := range tenMetrics {
			series := builder.Series(target, metric)
			for k := range 500 {
				v := math.Round(1000*(1+math.Sin(float64(i*k+m)))) / 1000
				series.Add(worker, noon.Add(time.Duration(5*k)*time.Second).UnixMicro(), v)
			}
		}
	}
	if _, _, err := builder.Flush(func(t *segment.Table) error {
		seg := encode(b, t)
		segs = append(segs, seg)
		values += seg.Values
		return nil
	}); err != nil {
		b.Fatal(err)
	}
	return segs, values
}

func BenchmarkWritingSegments(b *testing.B) {
	s, _ := openStore(b)
	segs, values := benchmarkSegments(b)
	bytes := 0
	for _, seg := range segs {
		bytes += len(seg.Bytes)
	}
	n := 0
	for b.Loop() {
		n++
		mustIngest(b, s, fmt.Sprint(n), segs...)
	}
	b.ReportMetric(float64(n)*float64(values)/b.Elapsed().Seconds(), "values/s")
	b.ReportMetric(float64(bytes)/float64(values), "B/value")
}

func BenchmarkReadingAHistory(b *testing.B) {
	s, _ := openStore(b)
	segs, values := benchmarkSegments(b)
	mustIngest(b, s, "a", segs...)
	n := 0
	for b.Loop() {
		n++
		if h := read(b, s, wordcount); h.Tables[dhalion.KindInstance].Rows() != 500*500 {
			b.Fatal("rows are missing")
		}
	}
	b.ReportMetric(float64(n)*float64(values)/b.Elapsed().Seconds(), "values/s")
}

func BenchmarkReadingOneWindow(b *testing.B) {
	s, _ := openStore(b)
	segs, _ := benchmarkSegments(b)
	mustIngest(b, s, "a", segs...)
	end := noon.Add(499 * 5 * time.Second)
	for b.Loop() {
		h, err := s.History(ctx, wordcount, end.Add(-time.Minute), end)
		if err != nil || h.Tables[dhalion.KindInstance].Rows() != 500*12 {
			b.Fatal("rows are missing", err)
		}
	}
}
