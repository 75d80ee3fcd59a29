package main

import (
	"bufio"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"strconv"
	"time"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/ipc"
	"github.com/apache/arrow/go/v15/arrow/memory"
	"github.com/apache/arrow/go/v15/parquet"
	"github.com/apache/arrow/go/v15/parquet/compress"
	"github.com/apache/arrow/go/v15/parquet/pqarrow"

	"github.com/dhalion-go/dhalion"
)

// The job that is measured: 500 instances of ten components on 25 workers, ten
// metrics each, polled every 10 s.
const (
	job          = "big"
	components   = 10
	perComponent = 50
	instances    = components * perComponent
	workers      = 25
	every        = 10 * time.Second
)

var first = time.Date(2026, 3, 1, 6, 0, 10, 0, time.UTC)

var metrics = []dhalion.Metric{
	dhalion.RecordsIn, dhalion.RecordsOut, dhalion.Busy, dhalion.Backpressured, dhalion.Idle,
	dhalion.InputQueueBuffers, dhalion.InputQueueFraction, dhalion.OutputQueueFraction, dhalion.TrueRecordsIn, dhalion.Lag,
}

// value is what an engine would give: shares of time in milliseconds of the poll's
// ten seconds, rates from counted records, buffers and lag whole. A wave of the
// load, and noise from a hash, so that no two series are alike.
func value(i, m, k int) float64 {
	x := uint64(i)*0x9E3779B97F4A7C15 ^ uint64(m)*0xC2B2AE3D27D4EB4F ^ uint64(k)*0x165667B19E3779F9
	x ^= x >> 31
	x *= 0xBF58476D1CE4E5B9
	x ^= x >> 29
	noise := float64(x>>40)/(1<<24) - 0.5 // -0.5 to 0.5
	wave := 1 + 0.3*math.Sin(float64(k)/200+float64(i%perComponent)/10)
	switch metrics[m] {
	case dhalion.RecordsIn, dhalion.RecordsOut, dhalion.TrueRecordsIn:
		return math.Round(wave*(50_000+10_000*float64(m))*(1+0.1*noise)) / 10
	case dhalion.InputQueueBuffers:
		return math.Floor(4 * wave * (0.5 + noise))
	case dhalion.Lag:
		return math.Floor(2_000 * wave * (1 + noise))
	default:
		return math.Round(4_500*wave*(1+0.2*noise)) / 10_000
	}
}

type order string

const (
	timeMajor   order = "time-major"
	metricMajor order = "metric-major"
	shuffled    order = "shuffled"
)

// walk visits every row in an order.
func walk(times int, by order, row func(i, m, k int)) {
	switch by {
	case timeMajor:
		for k := range times {
			for i := range instances {
				for m := range metrics {
					row(i, m, k)
				}
			}
		}
	case metricMajor:
		for m := range metrics {
			for i := range instances {
				for k := range times {
					row(i, m, k)
				}
			}
		}
	case shuffled:
		all := make([]uint32, times*instances*len(metrics))
		for n := range all {
			all[n] = uint32(n)
		}
		r := rand.New(rand.NewPCG(1, 2))
		r.Shuffle(len(all), func(a, b int) { all[a], all[b] = all[b], all[a] })
		for _, n := range all {
			row(int(n)/len(metrics)%instances, int(n)%len(metrics), int(n)/len(metrics)/instances)
		}
	}
}

func component(i int) string { return "operator-" + strconv.Itoa(i/perComponent) }
func worker(i int) string    { return "taskmanager-" + strconv.Itoa(i%workers) }

// writeCSV writes canonical CSV and returns its size.
func writeCSV(path string, times int, by order) (int64, error) {
	f, err := os.Create(path)
	if err != nil {
		return 0, err
	}
	w := bufio.NewWriterSize(f, 1<<20)
	w.WriteString("time,job,component,instance,worker,metric,value\n")
	stamps := make([]string, times)
	for k := range stamps {
		stamps[k] = first.Add(time.Duration(k) * every).Format("2006-01-02T15:04:05.000Z")
	}
	middles := make([]string, instances)
	for i := range middles {
		middles[i] = fmt.Sprintf(",%s,%s,%d,%s,", job, component(i), i%perComponent, worker(i))
	}
	var line []byte
	walk(times, by, func(i, m, k int) {
		line = append(line[:0], stamps[k]...)
		line = append(line, middles[i]...)
		line = append(line, metrics[m]...)
		line = append(line, ',')
		line = strconv.AppendFloat(line, value(i, m, k), 'f', -1, 64)
		line = append(line, '\n')
		w.Write(line)
	})
	if err := w.Flush(); err != nil {
		return 0, err
	}
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), f.Close()
}

var text = &arrow.DictionaryType{IndexType: arrow.PrimitiveTypes.Int32, ValueType: arrow.BinaryTypes.String}

var longSchema = arrow.NewSchema([]arrow.Field{
	{Name: "time", Type: &arrow.TimestampType{Unit: arrow.Millisecond, TimeZone: "UTC"}},
	{Name: "job", Type: text}, {Name: "component", Type: text}, {Name: "instance", Type: arrow.PrimitiveTypes.Int32}, {Name: "worker", Type: text},
	{Name: "metric", Type: text}, {Name: "value", Type: arrow.PrimitiveTypes.Float64},
}, nil)

// longRecords gives the rows of walk in records of 100,000.
func longRecords(times int, by order, emit func(arrow.Record) error) error {
	const batch = 100_000
	jobs, comps, works, mets := dictionary(1, func(int) string { return job }), dictionary(components, func(n int) string { return component(n * perComponent) }),
		dictionary(workers, worker), dictionary(len(metrics), func(n int) string { return string(metrics[n]) })
	defer jobs.Release()
	defer comps.Release()
	defer works.Release()
	defer mets.Release()
	at := array.NewTimestampBuilder(memory.DefaultAllocator, longSchema.Field(0).Type.(*arrow.TimestampType))
	ints := make([]*array.Int32Builder, 5) // job, component, instance, worker, metric
	for n := range ints {
		ints[n] = array.NewInt32Builder(memory.DefaultAllocator)
	}
	vals := array.NewFloat64Builder(memory.DefaultAllocator)
	var failed error
	flush := func() {
		n := int64(at.Len())
		if n == 0 || failed != nil {
			return
		}
		cols := make([]arrow.Array, 7)
		cols[0], cols[6] = at.NewArray(), vals.NewArray()
		for c, dict := range []arrow.Array{jobs, comps, nil, works, mets} {
			index := ints[c].NewArray()
			if dict == nil {
				cols[c+1] = index
				continue
			}
			cols[c+1] = array.NewDictionaryArray(text, index, dict)
			index.Release()
		}
		record := array.NewRecord(longSchema, cols, n)
		failed = emit(record)
		record.Release()
		for _, c := range cols {
			c.Release()
		}
	}
	walk(times, by, func(i, m, k int) {
		at.Append(arrow.Timestamp(first.Add(time.Duration(k) * every).UnixMilli()))
		for c, v := range []int{0, i / perComponent, i % perComponent, i % workers, m} {
			ints[c].Append(int32(v))
		}
		vals.Append(value(i, m, k))
		if at.Len() == batch {
			flush()
		}
	})
	flush()
	return failed
}

func dictionary(n int, name func(int) string) arrow.Array {
	b := array.NewStringBuilder(memory.DefaultAllocator)
	defer b.Release()
	for i := range n {
		b.Append(name(i))
	}
	return b.NewArray()
}

func writeArrow(path string, times int, by order) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	w, err := ipc.NewFileWriter(f, ipc.WithSchema(longSchema), ipc.WithLZ4())
	if err != nil {
		return err
	}
	if err := longRecords(times, by, w.Write); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	return f.Close()
}

// writeParquet closes the file with its writer.
func writeParquet(path string, times int, by order) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	w, err := pqarrow.NewFileWriter(longSchema, f, parquet.NewWriterProperties(parquet.WithCompression(compress.Codecs.Zstd), parquet.WithMaxRowGroupLength(1<<20)), pqarrow.DefaultWriterProps())
	if err != nil {
		return err
	}
	if err := longRecords(times, by, w.WriteBuffered); err != nil {
		return err
	}
	return w.Close()
}

// writeWide writes a row per instance and time, a column per metric, by instance
// and time, zstd, in row groups of DuckDB's own size: what suits its readers best.
func writeWide(path string, times int) error {
	fields := []arrow.Field{{Name: "time", Type: &arrow.TimestampType{Unit: arrow.Millisecond, TimeZone: "UTC"}},
		{Name: "component", Type: text}, {Name: "instance", Type: arrow.PrimitiveTypes.Int32}}
	for _, m := range metrics {
		fields = append(fields, arrow.Field{Name: string(m), Type: arrow.PrimitiveTypes.Float64})
	}
	schema := arrow.NewSchema(fields, nil)
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	w, err := pqarrow.NewFileWriter(schema, f, parquet.NewWriterProperties(parquet.WithCompression(compress.Codecs.Zstd), parquet.WithMaxRowGroupLength(122_880)), pqarrow.DefaultWriterProps())
	if err != nil {
		return err
	}
	b := array.NewRecordBuilder(memory.DefaultAllocator, schema)
	defer b.Release()
	for i := range instances {
		for k := range times {
			b.Field(0).(*array.TimestampBuilder).Append(arrow.Timestamp(first.Add(time.Duration(k) * every).UnixMilli()))
			if err := b.Field(1).(*array.BinaryDictionaryBuilder).AppendString(component(i)); err != nil {
				return err
			}
			b.Field(2).(*array.Int32Builder).Append(int32(i % perComponent))
			for m := range metrics {
				b.Field(3 + m).(*array.Float64Builder).Append(value(i, m, k))
			}
		}
		record := b.NewRecord()
		err := w.WriteBuffered(record)
		record.Release()
		if err != nil {
			return err
		}
	}
	return w.Close()
}
