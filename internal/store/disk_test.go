package store

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/ingest/segment"
)

// measured is a value as engines give them: rates to a tenth, shares as whole
// milliseconds of a second or of ten, queues as whole buffers of 32, heaps as whole
// kilobytes of a sawtooth under 512 MiB.
func measured(random *rand.Rand, metric dhalion.Metric, instance, k int) float64 {
	load := 1 + .3*math.Sin(float64(k)/200+float64(instance)) + .05*random.NormFloat64()
	share := min(1, max(0, .55*load))
	switch metric {
	case dhalion.RecordsIn, dhalion.RecordsOut:
		return math.Round(10*400*load) / 10
	case dhalion.Busy, dhalion.Idle:
		return math.Round(1000*share) / 1000
	case dhalion.Backpressured:
		return math.Round(10000*max(0, share-.7)) / 10000
	case dhalion.InputQueueBuffers:
		return math.Round(32 * share)
	case dhalion.InputQueueFraction, dhalion.OutputQueueFraction:
		return math.Round(32*share) / 32
	case dhalion.CPU:
		return math.Round(10000*share) / 10000
	}
	return 1024 * math.Round(1024*(128+float64((k*37+instance*61)%384)+random.Float64()))
}

// noise has 53 random bits, of which nothing can be spared.
func noise(random *rand.Rand, _ dhalion.Metric, _, _ int) float64 { return random.Float64() }

// largeJob writes a history of ten metrics of n instances at so many times, ten
// seconds apart, one segment table after the other as they are asked for: all
// times of a metric (by metric), or all metrics of 50 times.
func largeJob(t testing.TB, n, times int, byMetric bool, value func(*rand.Rand, dhalion.Metric, int, int) float64, emit func(*segment.Table) error) {
	t.Helper()
	random := rand.New(rand.NewPCG(1, 2))
	flush := func(metrics []dhalion.Metric, from, to int) {
		b := segment.NewBuilder(wordcount, dhalion.KindInstance)
		for i := range n {
			target := dhalion.InstanceTarget(wordcount, fmt.Sprint("component", i/50), i%50)
			worker := b.Name(fmt.Sprint("tm-", i%25))
			for _, metric := range metrics {
				series := b.Series(target, metric)
				for k := from; k < to; k++ {
					series.Add(worker, midnight.Add(time.Duration(10*k)*time.Second).UnixMicro(), value(random, metric, i, k))
				}
			}
		}
		if _, _, err := b.Flush(emit); err != nil {
			t.Fatal(err)
		}
	}
	if byMetric {
		for _, metric := range tenMetrics {
			flush([]dhalion.Metric{metric}, 0, times)
		}
		return
	}
	for from := 0; from < times; from += 50 {
		flush(tenMetrics, from, min(times, from+50))
	}
}

var midnight = time.Date(2026, 3, 4, 0, 0, 0, 0, time.UTC)

// onDisk is what all partitions take, with indexes and TOAST.
func onDisk(t testing.TB, url string) float64 {
	t.Helper()
	n, err := strconv.ParseFloat(column(t, url, `
		SELECT coalesce(sum(pg_total_relation_size(inhrelid)), 0)::text FROM pg_inherits WHERE inhparent = 'segments'::regclass`)[0], 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestACompactedHistoryTakesAtMostFiveBytesAValueOnDisk(t *testing.T) {
	for _, byMetric := range []bool{false, true} {
		s, url := openStore(t)
		values := 0
		var segs []dhalion.Segment
		largeJob(t, 100, 600, byMetric, measured, func(tab *segment.Table) error {
			segs = append(segs, encode(t, tab))
			values += tab.Known()
			return nil
		})
		mustIngest(t, s, "a", segs...)
		digest := read(t, s, wordcount).Digest()
		before := onDisk(t, url) / float64(values)
		rep, err := s.Compact(ctx, CompactOptions{Shrink: true})
		if err != nil {
			t.Fatal(err)
		}
		after := onDisk(t, url) / float64(values)
		t.Logf("by metric %v: %d values, %.2f B a value before, %.2f after: %+v", byMetric, values, before, after, rep)
		if after > 5 {
			t.Errorf("by metric %v: %.2f bytes a value", byMetric, after)
		}
		if rep.Merges == 0 || read(t, s, wordcount).Digest() != digest {
			t.Error("nothing was merged, or the history is another")
		}
		if again, err := s.Compact(ctx, CompactOptions{Shrink: true}); err != nil || again.Merges != 0 || again.DiskBefore != 0 {
			t.Errorf("a second compaction touched the disk: %+v, %v", again, err)
		}
	}
}

// BenchmarkDisk prints what a value takes on disk, as ingested and compacted.
func BenchmarkDisk(b *testing.B) {
	for name, value := range map[string]func(*rand.Rand, dhalion.Metric, int, int) float64{"measured": measured, "noise": noise} {
		for _, byMetric := range []bool{false, true} {
			b.Run(fmt.Sprintf("%s/by-metric=%v", name, byMetric), func(b *testing.B) {
				s, url := openStore(b)
				values := 0
				var segs []dhalion.Segment
				largeJob(b, 500, 2160, byMetric, value, func(tab *segment.Table) error {
					segs = append(segs, encode(b, tab))
					values += tab.Known()
					return nil
				})
				mustIngest(b, s, "a", segs...)
				before := onDisk(b, url)
				began := time.Now()
				if _, err := s.Compact(ctx, CompactOptions{Shrink: true}); err != nil {
					b.Fatal(err)
				}
				took, after := time.Since(began), onDisk(b, url)
				for b.Loop() {
					read(b, s, wordcount)
				}
				b.ReportMetric(before/float64(values), "B/value-ingested")
				b.ReportMetric(after/float64(values), "B/value-compacted")
				b.ReportMetric(float64(values)/took.Seconds(), "compacted-values/s")
				b.ReportMetric(float64(b.N)*float64(values)/b.Elapsed().Seconds(), "read-values/s")
			})
		}
	}
}
