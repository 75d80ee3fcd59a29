package file_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"testing"
	"time"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/ipc"
	"github.com/apache/arrow/go/v15/arrow/memory"
	"github.com/apache/arrow/go/v15/parquet"
	"github.com/apache/arrow/go/v15/parquet/compress"
	"github.com/apache/arrow/go/v15/parquet/pqarrow"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/ingest"
	"github.com/dhalion-go/dhalion/ingest/file"
)

// longSchema is the long form as a table program writes it.
func longSchema() *arrow.Schema {
	name := &arrow.DictionaryType{IndexType: arrow.PrimitiveTypes.Int32, ValueType: arrow.BinaryTypes.String}
	return arrow.NewSchema([]arrow.Field{
		{Name: "time", Type: &arrow.TimestampType{Unit: arrow.Millisecond, TimeZone: "UTC"}},
		{Name: "job", Type: name}, {Name: "component", Type: name},
		{Name: "instance", Type: arrow.PrimitiveTypes.Int32, Nullable: true},
		{Name: "worker", Type: name}, {Name: "metric", Type: name},
		{Name: "value", Type: arrow.PrimitiveTypes.Float64, Nullable: true},
	}, nil)
}

var benchMetrics = []dhalion.Metric{
	dhalion.Busy, dhalion.Idle, dhalion.Backpressured, dhalion.RecordsIn, dhalion.RecordsOut,
	dhalion.InputQueueFraction, dhalion.OutputQueueFraction, dhalion.QueueBytes, dhalion.CPU, dhalion.HeapUsed,
}

// longRecords are the measurements of 500 instances at so many seconds, 10
// metrics each, time by time, in batches of a whole number of times.
func longRecords(times int) []arrow.Record {
	const instances, perBatch = 500, 20
	schema := longSchema()
	var records []arrow.Record
	b := array.NewRecordBuilder(memory.DefaultAllocator, schema)
	for t := range times {
		at := arrow.Timestamp(1_767_225_600_000 + int64(t)*1000)
		for i := range instances {
			for k, m := range benchMetrics {
				b.Field(0).(*array.TimestampBuilder).Append(at)
				for column, name := range map[int]string{1: "bench", 2: fmt.Sprintf("op-%d", i/50), 4: fmt.Sprintf("tm-%d", i%25), 5: string(m)} {
					if err := b.Field(column).(*array.BinaryDictionaryBuilder).AppendString(name); err != nil {
						panic(err)
					}
				}
				b.Field(3).(*array.Int32Builder).Append(int32(i % 50))
				b.Field(6).(*array.Float64Builder).Append(float64((i*7+k*13+t*29)%1000) / 1000)
			}
		}
		if (t+1)%perBatch == 0 || t+1 == times {
			records = append(records, b.NewRecord())
		}
	}
	return records
}

func arrowBytes(tb testing.TB, records []arrow.Record, opts ...ipc.Option) []byte {
	tb.Helper()
	var out bytes.Buffer
	w := ipc.NewWriter(&out, append(opts, ipc.WithSchema(records[0].Schema()))...)
	for _, r := range records {
		if err := w.Write(r); err != nil {
			tb.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return out.Bytes()
}

func parquetBytes(tb testing.TB, records []arrow.Record, codec compress.Compression) []byte {
	tb.Helper()
	var out bytes.Buffer
	props := parquet.NewWriterProperties(parquet.WithCompression(codec), parquet.WithDictionaryDefault(true))
	w, err := pqarrow.NewFileWriter(records[0].Schema(), &out, props, pqarrow.DefaultWriterProps())
	if err != nil {
		tb.Fatal(err)
	}
	for _, r := range records {
		if err := w.WriteBuffered(r); err != nil {
			tb.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return out.Bytes()
}

func ingestAll(tb testing.TB, source ingest.Source) ingest.Report {
	tb.Helper()
	rep, err := ingest.Collect(context.Background(), ingest.Out{}, ingest.Options{}, source)
	if err != nil {
		tb.Fatal(err)
	}
	return rep
}

func benchmarkSource(b *testing.B, rows int, source func() ingest.Source) {
	start := time.Now()
	n := 0
	for b.Loop() {
		if rep := ingestAll(b, source()); rows > 0 && rep.Values != rows {
			b.Fatalf("%d values of %d", rep.Values, rows)
		} else {
			n += rep.Values
		}
	}
	b.ReportMetric(float64(n)/time.Since(start).Seconds()/1e6, "Mrows/s")
}

// BenchmarkLong ingests a million long rows into segments that go nowhere.
func BenchmarkLong(b *testing.B) {
	records := longRecords(200)
	rows := 200 * 500 * len(benchMetrics)
	stream, zstd := arrowBytes(b, records, ipc.WithLZ4()), arrowBytes(b, records, ipc.WithZstd())
	b.Run("arrow-lz4", func(b *testing.B) {
		benchmarkSource(b, rows, func() ingest.Source { return file.NewArrow("x", bytes.NewReader(stream), file.Options{}) })
	})
	b.Run("arrow-zstd", func(b *testing.B) {
		benchmarkSource(b, rows, func() ingest.Source { return file.NewArrow("x", bytes.NewReader(zstd), file.Options{}) })
	})
	for name, codec := range map[string]compress.Compression{"parquet-snappy": compress.Codecs.Snappy, "parquet-zstd": compress.Codecs.Zstd} {
		data := parquetBytes(b, records, codec)
		b.Run(name, func(b *testing.B) {
			benchmarkSource(b, rows, func() ingest.Source {
				return file.NewParquet("x", bytes.NewReader(data), int64(len(data)), file.Options{})
			})
		})
	}
}

// BenchmarkFile ingests the file that DHALION_BENCH_FILE names.
func BenchmarkFile(b *testing.B) {
	name := os.Getenv("DHALION_BENCH_FILE")
	if name == "" {
		b.Skip("DHALION_BENCH_FILE names no file")
	}
	f, err := os.Open(name)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		b.Fatal(err)
	}
	head := make([]byte, 64<<10)
	n, err := f.ReadAt(head, 0)
	if err != nil && err != io.EOF {
		b.Fatal(err)
	}
	format, err := file.Detect(head[:n])
	if err != nil {
		b.Fatal(err)
	}
	benchmarkSource(b, 0, func() ingest.Source {
		r := io.NewSectionReader(f, 0, info.Size())
		switch format {
		case file.FormatArrow:
			return file.NewArrow(name, r, file.Options{})
		case file.FormatParquet:
			return file.NewParquet(name, r, info.Size(), file.Options{})
		}
		return file.NewCSV(name, r, file.Options{})
	})
}
