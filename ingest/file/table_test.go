package file_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"runtime/metrics"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/ipc"
	"github.com/apache/arrow/go/v15/arrow/memory"
	"github.com/apache/arrow/go/v15/parquet/compress"

	"github.com/dhalion-go/dhalion/ingest"
	"github.com/dhalion-go/dhalion/ingest/file"
	"github.com/dhalion-go/dhalion/ingest/segment"
)

// csvOf writes records of the long form as CSV.
func csvOf(records []arrow.Record) string {
	var b strings.Builder
	b.WriteString("time,job,component,instance,worker,metric,value\n")
	for _, r := range records {
		for i := range int(r.NumRows()) {
			name := func(c int) string {
				d := r.Column(c).(*array.Dictionary)
				return d.Dictionary().(*array.String).Value(d.GetValueIndex(i))
			}
			fmt.Fprintf(&b, "%d,%s,%s,%d,%s,%s,%v\n", r.Column(0).(*array.Timestamp).Value(i), name(1), name(2), r.Column(3).(*array.Int32).Value(i), name(4), name(5), r.Column(6).(*array.Float64).Value(i))
		}
	}
	return b.String()
}

func ofArrow(data []byte, opts file.Options) ingest.Source {
	return file.NewArrow("x", bytes.NewReader(data), opts)
}

func ofParquet(data []byte, opts file.Options) ingest.Source {
	return file.NewParquet("x", bytes.NewReader(data), int64(len(data)), opts)
}

func TestArrowAndParquetAreTheSameHistoryAsCSV(t *testing.T) {
	records := longRecords(7) // 35,000 rows: several frames
	text := strings.ReplaceAll(csvOf(records), ",bench,", ",wc,")
	want, err := readCSV(text, file.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if want.report.Values != 7*500*10 {
		t.Fatalf("%d values", want.report.Values)
	}
	for i, r := range records {
		records[i] = renamed(r, 1, "wc")
	}
	for name, s := range map[string]ingest.Source{
		"arrow":            ofArrow(arrowBytes(t, records), file.Options{}),
		"arrow lz4":        ofArrow(arrowBytes(t, records, ipc.WithLZ4()), file.Options{}),
		"arrow zstd":       ofArrow(arrowBytes(t, records, ipc.WithZstd()), file.Options{}),
		"arrow in bytes":   file.NewArrow("x", iotest.OneByteReader(bytes.NewReader(arrowBytes(t, records, ipc.WithLZ4()))), file.Options{}),
		"parquet":          ofParquet(parquetBytes(t, records, compress.Codecs.Uncompressed), file.Options{}),
		"parquet snappy":   ofParquet(parquetBytes(t, records, compress.Codecs.Snappy), file.Options{}),
		"parquet gzip":     ofParquet(parquetBytes(t, records, compress.Codecs.Gzip), file.Options{}),
		"parquet brotli":   ofParquet(parquetBytes(t, records, compress.Codecs.Brotli), file.Options{}),
		"parquet zstd":     ofParquet(parquetBytes(t, records, compress.Codecs.Zstd), file.Options{}),
		"parquet and read": file.NewParquet("x", bytes.NewReader(parquetBytes(t, records, compress.Codecs.Zstd)), int64(len(parquetBytes(t, records, compress.Codecs.Zstd))), file.Options{Job: "other"}),
	} {
		got := mustRead(t, s)
		if got.history.Digest() != want.history.Digest() {
			t.Errorf("%s: another history; %d values, not %d", name, got.report.Values, want.report.Values)
		}
		if fmt.Sprint(got.topologies) != fmt.Sprint(want.topologies) {
			t.Errorf("%s: %v, not %v", name, got.topologies, want.topologies)
		}
	}
}

// renamed gives a record another name in a column where all are the same.
func renamed(r arrow.Record, column int, name string) arrow.Record {
	b := array.NewStringBuilder(memory.DefaultAllocator)
	b.Append(name)
	d := r.Column(column).(*array.Dictionary)
	columns := append([]arrow.Array{}, r.Columns()...)
	columns[column] = array.NewDictionaryArray(d.DataType(), d.Indices(), b.NewArray())
	return array.NewRecord(r.Schema(), columns, r.NumRows())
}

// small is a record with the columns given; a column is a type and the JSON of
// its values.
func small(t *testing.T, columns ...any) arrow.Record {
	t.Helper()
	var fields []arrow.Field
	var arrays []arrow.Array
	for i := 0; i < len(columns); i += 3 {
		dt := columns[i+1].(arrow.DataType)
		a, _, err := array.FromJSON(memory.DefaultAllocator, dt, strings.NewReader(columns[i+2].(string)), array.WithUseNumber())
		if err != nil {
			t.Fatalf("%s: %v", columns[i], err)
		}
		fields = append(fields, arrow.Field{Name: columns[i].(string), Type: dt, Nullable: true})
		arrays = append(arrays, a)
	}
	return array.NewRecord(arrow.NewSchema(fields, nil), arrays, int64(arrays[0].Len()))
}

var (
	utf8     = arrow.BinaryTypes.String
	float64s = arrow.PrimitiveTypes.Float64
	micros   = &arrow.TimestampType{Unit: arrow.Microsecond, TimeZone: "UTC"}
)

func TestColumnsOfManyTypesAreTheSameHistory(t *testing.T) {
	const want = "2026-03-01T12:00:00Z counter[1] lag_records 3"
	type column struct {
		t    arrow.DataType
		json string
	}
	dictionary := func(index arrow.DataType) arrow.DataType {
		return &arrow.DictionaryType{IndexType: index, ValueType: utf8}
	}
	defaults := map[string]column{
		"time": {micros, `["2026-03-01 12:00:00"]`}, "job": {utf8, `["wc"]`}, "component": {utf8, `["counter"]`},
		"instance": {arrow.PrimitiveTypes.Int32, `[1]`}, "metric": {utf8, `["lag_records"]`}, "value": {float64s, `[3]`},
	}
	order := []string{"time", "job", "component", "instance", "metric", "value"}
	build := func(name string, c column) arrow.Record {
		var columns []any
		for _, n := range order {
			own := defaults[n]
			if n == name {
				own = c
			}
			columns = append(columns, n, own.t, own.json)
		}
		return small(t, columns...)
	}
	reference := dump(mustRead(t, ofArrow(arrowBytes(t, []arrow.Record{build("", column{})}), file.Options{})).history)
	if !strings.Contains(reference, "lag_records") {
		t.Fatalf("got %s, want %s", reference, want)
	}
	p := arrow.PrimitiveTypes
	for _, c := range []struct {
		name    string
		t       arrow.DataType
		json    string
		parquet bool // Go's writer can write it
	}{
		{"time", &arrow.TimestampType{Unit: arrow.Second}, `["2026-03-01 12:00:00"]`, true},
		{"time", &arrow.TimestampType{Unit: arrow.Millisecond, TimeZone: "Asia/Tokyo"}, `["2026-03-01 12:00:00"]`, true},
		{"time", &arrow.TimestampType{Unit: arrow.Nanosecond}, `["2026-03-01 12:00:00.000000999"]`, true},
		{"time", p.Int64, `[1772366400]`, true},
		{"time", p.Int64, `[1772366400000]`, true},
		{"time", p.Int64, `[1772366400000000]`, true},
		{"time", p.Int64, `[1772366400000000999]`, true},
		{"time", p.Int32, `[1772366400]`, true},
		{"time", p.Uint32, `[1772366400]`, false},
		{"time", utf8, `["2026-03-01T13:00:00+01:00"]`, true},
		{"time", arrow.BinaryTypes.LargeString, `["1772366400.0"]`, true},
		{"job", arrow.BinaryTypes.LargeString, `["wc"]`, true},
		{"job", arrow.BinaryTypes.Binary, `["d2M="]`, true}, // "wc" in base 64
		{"component", dictionary(p.Int8), `["counter"]`, true},
		{"component", dictionary(p.Uint16), `["counter"]`, true},
		{"component", dictionary(p.Int64), `["counter"]`, true},
		{"component", utf8, `[" counter "]`, true},
		{"instance", p.Int8, `[1]`, true},
		{"instance", p.Uint64, `[1]`, true},
		{"instance", p.Int64, `[1]`, true},
		{"instance", float64s, `[1]`, true},
		{"instance", p.Float32, `[1]`, true},
		{"instance", utf8, `["1"]`, true},
		{"instance", utf8, `["1.0"]`, true},
		{"value", p.Float32, `[3]`, true},
		{"value", arrow.FixedWidthTypes.Float16, `[3]`, false},
		{"value", p.Int8, `[3]`, true},
		{"value", p.Uint8, `[3]`, true},
		{"value", p.Int16, `[3]`, true},
		{"value", p.Uint16, `[3]`, true},
		{"value", p.Int32, `[3]`, true},
		{"value", p.Uint32, `[3]`, true},
		{"value", p.Int64, `[3]`, true},
		{"value", p.Uint64, `[3]`, true},
	} {
		records := []arrow.Record{build(c.name, column{c.t, c.json})}
		if got := dump(mustRead(t, ofArrow(arrowBytes(t, records), file.Options{})).history); got != reference {
			t.Errorf("arrow: %s of %s: got %s, want %s", c.name, c.t, got, reference)
		}
		if !c.parquet {
			continue
		}
		if got := dump(mustRead(t, ofParquet(parquetBytes(t, records, 0), file.Options{})).history); got != reference {
			t.Errorf("parquet: %s of %s: got %s, want %s", c.name, c.t, got, reference)
		}
	}
}

func TestAWideTableHasAColumnForEachMetric(t *testing.T) {
	r := small(t, "time", micros, `["2026-03-01 12:00:00", "2026-03-01 12:00:00", "2026-03-01 12:00:00", "2026-03-01 12:00:01"]`,
		"component", utf8, `["counter", null, null, "counter"]`, "instance", float64s, `[1, null, null, 1]`, "worker", utf8, `["tm-1", "tm-1", null, "tm-1"]`,
		"busy_fraction", float64s, `[0.5, null, null, null]`, "lag_records", arrow.PrimitiveTypes.Int64, `[null, null, 7, null]`, "cpu_fraction", float64s, `[null, 1, null, null]`)
	want, err := readCSV("time,component,instance,worker,metric,value\n2026-03-01T12:00:00Z,counter,1,tm-1,busy_fraction,.5\n2026-03-01T12:00:00Z,,,tm-1,cpu_fraction,1\n2026-03-01T12:00:00Z,,,,lag_records,7\n", file.Options{Job: "wc"})
	if err != nil {
		t.Fatal(err)
	}
	for name, s := range map[string]ingest.Source{
		"arrow":   ofArrow(arrowBytes(t, []arrow.Record{r}), file.Options{Job: "wc"}),
		"parquet": ofParquet(parquetBytes(t, []arrow.Record{r}, 0), file.Options{Job: "wc"}),
	} {
		got := mustRead(t, s)
		if dump(got.history) != dump(want.history) {
			t.Errorf("%s:\n%s\nnot\n%s", name, dump(got.history), dump(want.history))
		}
		if got.report.Repairs[ingest.MissingValue] != 9 {
			t.Errorf("%s: %v", name, got.report.Repairs)
		}
	}
}

func TestADictionaryCanChangeBetweenBatches(t *testing.T) {
	name := &arrow.DictionaryType{IndexType: arrow.PrimitiveTypes.Int8, ValueType: utf8}
	batch := func(at, names, values string) arrow.Record {
		return small(t, "time", arrow.PrimitiveTypes.Int64, at, "job", utf8, `["wc","wc"]`, "metric", name, names, "value", float64s, values)
	}
	records := []arrow.Record{
		batch(`[1,1]`, `["lag_records","queue_bytes"]`, `[1,2]`),
		batch(`[2,2]`, `["queue_bytes","lag_records"]`, `[4,3]`),
		batch(`[3,3]`, `["latency_seconds","lag_records"]`, `[6,5]`),
	}
	want, err := readCSV("time,job,metric,value\n1,wc,lag_records,1\n1,wc,queue_bytes,2\n2,wc,lag_records,3\n2,wc,queue_bytes,4\n3,wc,lag_records,5\n3,wc,latency_seconds,6\n", file.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for name, opts := range map[string][]ipc.Option{"replaced": nil, "with deltas": {ipc.WithDictionaryDeltas(true)}} {
		if got := mustRead(t, ofArrow(arrowBytes(t, records, opts...), file.Options{})); got.history.Digest() != want.history.Digest() {
			t.Errorf("%s: got\n%s\nnot\n%s", name, dump(got.history), dump(want.history))
		}
	}
}

func TestABrokenRowOfATableIsNamedByItsNumberAndColumn(t *testing.T) {
	times := `[1,2,3,4]`
	for name, c := range map[string]struct {
		column string
		t      arrow.DataType
		json   string
		want   string
	}{
		"a negative value":    {"value", float64s, `[1,2,-1,4]`, "x: row 3 of column value: the value -1 is negative"},
		"an infinite value":   {"value", float64s, `[1,2,"Inf",4]`, "x: row 3 of column value: the value is infinite"},
		"a missing time":      {"time", micros, `[1,2,null,4]`, "x: row 3 of column time: the time is empty"},
		"a time in words":     {"time", utf8, `["1","2","noon","4"]`, `x: row 3 of column time: the time "noon"`},
		"a time too early":    {"time", arrow.PrimitiveTypes.Int64, `[1,2,-62135596801,4]`, "x: row 3 of column value: the time is outside the years 1 to 9999"},
		"a time too far":      {"time", &arrow.TimestampType{Unit: arrow.Second}, `[1,2,9223372036854775807,4]`, "x: row 3 of column time: the time is outside the years 1 to 9999"},
		"a negative instance": {"instance", arrow.PrimitiveTypes.Int32, `[1,2,-1,4]`, "x: row 3 of column instance: the instance -1 is negative"},
		"half an instance":    {"instance", float64s, `[1,2,1.5,4]`, "x: row 3 of column instance: the instance 1.5 is no whole number"},
		"a far instance":      {"instance", arrow.PrimitiveTypes.Int64, `[1,2,1048576,4]`, "x: row 3 of column instance: the instance 1.048576e+06 is above 1048575"},
		"an instance's name":  {"instance", utf8, `["1","2","x","4"]`, `x: row 3 of column instance: the instance "x" is no number`},
		"no component":        {"component", utf8, `["c","c",null,"c"]`, `x: row 3: there is an instance, "0", but no component`},
		"another metric":      {"metric", utf8, `["lag_records","lag_records","lag_record","lag_records"]`, `x: row 3: unknown metric "lag_record"; did you mean lag_records?`},
	} {
		columns := []any{}
		for _, own := range []struct {
			name string
			t    arrow.DataType
			json string
		}{{"time", arrow.PrimitiveTypes.Int64, times}, {"component", utf8, `["c","c","c","c"]`}, {"instance", arrow.PrimitiveTypes.Int32, `[0,0,0,0]`}, {"metric", utf8, `["lag_records","lag_records","lag_records","lag_records"]`}, {"value", float64s, `[1,2,3,4]`}} {
			if own.name == c.column {
				own.t, own.json = c.t, c.json
			}
			columns = append(columns, own.name, own.t, own.json)
		}
		records := []arrow.Record{small(t, columns...)}
		for format, open := range map[string]func(file.Options) ingest.Source{
			"arrow":   func(o file.Options) ingest.Source { return ofArrow(arrowBytes(t, records), o) },
			"parquet": func(o file.Options) ingest.Source { return ofParquet(parquetBytes(t, records, 0), o) },
		} {
			_, err := readSource(open(file.Options{Job: "wc"}), ingest.Options{})
			if err == nil || !strings.HasPrefix(err.Error(), c.want) {
				if format == "parquet" && name == "a time too far" {
					continue // Parquet has no seconds: the writer multiplies
				}
				t.Errorf("%s, %s: got %v, want %s", name, format, err, c.want)
				continue
			}
			got := mustRead(t, open(file.Options{Job: "wc", SkipBad: 1}))
			if got.report.Values != 3 || len(got.report.Skipped) != 1 || got.report.Skipped[0].Line != 0 {
				t.Errorf("%s, %s: with one allowed: %+v", name, format, got.report)
			}
		}
	}
}

func TestATableOfAnotherShapeIsRefused(t *testing.T) {
	list := arrow.ListOf(float64s)
	for name, c := range map[string]struct {
		columns []any
		want    string
	}{
		"no time":           {[]any{"value", float64s, `[1]`, "metric", utf8, `["lag_records"]`}, "there is no column time"},
		"a strange column":  {[]any{"time", micros, `[1]`, "busy_fracton", float64s, `[1]`}, `unknown column "busy_fracton"; did you mean busy_fraction?`},
		"a list of values":  {[]any{"time", micros, `[1]`, "busy_fraction", list, `[[1]]`}, ""},
		"times of booleans": {[]any{"time", arrow.FixedWidthTypes.Boolean, `[true]`, "busy_fraction", float64s, `[1]`}, "column time is "},
		"values of texts":   {[]any{"time", micros, `[1]`, "busy_fraction", utf8, `["1"]`}, "column busy_fraction is "},
		"names of numbers":  {[]any{"time", micros, `[1]`, "component", float64s, `[1]`, "busy_fraction", float64s, `[1]`}, "column component is "},
		"decimals":          {[]any{"time", micros, `[1]`, "busy_fraction", &arrow.Decimal128Type{Precision: 5, Scale: 2}, `["0.50"]`}, "column busy_fraction is "},
	} {
		records := []arrow.Record{small(t, c.columns...)}
		for format, s := range map[string]ingest.Source{
			"arrow":   ofArrow(arrowBytes(t, records), file.Options{Job: "wc"}),
			"parquet": ofParquet(parquetBytes(t, records, 0), file.Options{Job: "wc"}),
		} {
			if _, err := readSource(s, ingest.Options{}); err == nil || !strings.HasPrefix(err.Error(), "file: read x: "+c.want) {
				t.Errorf("%s, %s: got %v, want %s", name, format, err, c.want)
			}
		}
	}
}

func TestACutOffTableIsAnError(t *testing.T) {
	records := longRecords(1)
	stream, table := arrowBytes(t, records), parquetBytes(t, records, 0)
	for _, n := range []int{9, 100, len(stream) / 2, len(stream) - 20} {
		if _, err := readSource(ofArrow(stream[:n], file.Options{}), ingest.Options{}); err == nil {
			t.Errorf("arrow: %d of %d bytes were taken", n, len(stream))
		}
	}
	for _, n := range []int{0, 11, 100, len(table) - 1} {
		if _, err := readSource(ofParquet(table[:n], file.Options{}), ingest.Options{}); err == nil {
			t.Errorf("parquet: %d of %d bytes were taken", n, len(table))
		}
	}
}

// exportOf writes a history with an Exporter.
func exportOf(t *testing.T, h *segment.History, format file.Format, long bool) []byte {
	t.Helper()
	var outline file.Outline
	for _, table := range h.Tables {
		outline.Add(table)
	}
	var out bytes.Buffer
	e, err := file.NewExporter(&out, format, long, h.Job.Name(), &outline)
	if err != nil {
		t.Fatal(err)
	}
	for _, table := range h.Tables {
		if err := e.Table(table); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := e.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestAnExportOfAwkwardNamesAndNumbersComesBack(t *testing.T) {
	want, err := readCSV("time,job,component,instance,worker,metric,value\n"+
		"0001-01-01T00:00:00Z,wc,\"a,b\",0,\"tm \"\"1\"\"\",lag_records,5e-324\n"+
		"9999-12-31T23:59:59.999999Z,wc,\"a,b\",0,,lag_records,1.7976931348623157e308\n"+
		"2026-03-01T12:00:00.000001Z,wc,é😀,7,tm-1,lag_records,0.1\n2026-03-01T12:00:00Z,wc,,,,queue_bytes,123456789012345678\n", file.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for name, s := range map[string]ingest.Source{
		"arrow":        ofArrow(exportOf(t, want.history, file.FormatArrow, false), file.Options{}),
		"arrow long":   ofArrow(exportOf(t, want.history, file.FormatArrow, true), file.Options{}),
		"parquet":      ofParquet(exportOf(t, want.history, file.FormatParquet, false), file.Options{}),
		"parquet long": ofParquet(exportOf(t, want.history, file.FormatParquet, true), file.Options{}),
		"csv":          file.NewCSV("x", bytes.NewReader(exportOf(t, want.history, file.FormatCSV, false)), file.Options{}),
		"csv wide":     file.NewCSV("x", bytes.NewReader(exportOf(t, want.history, file.FormatCSVWide, false)), file.Options{}),
	} {
		if got := mustRead(t, s); got.history.Digest() != want.history.Digest() {
			t.Errorf("%s:\n%s\nnot\n%s", name, dump(got.history), dump(want.history))
		}
	}
	if _, err := file.NewExporter(io.Discard, file.FormatOpenMetrics, false, "wc", &file.Outline{}); err == nil {
		t.Error("a format that is not written was taken")
	}
	e, err := file.NewExporter(io.Discard, file.FormatArrow, false, "wc", &file.Outline{})
	if err != nil {
		t.Fatal(err)
	}
	for _, table := range want.history.Tables {
		if err := e.Table(table); err == nil || !strings.Contains(err.Error(), "has changed while it was exported") {
			t.Errorf("a table that the outline has not seen: %v", err)
		}
	}
}

// allocated is how many bytes f allocates, in all.
func allocated(f func()) uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample)
	before := sample[0].Value.Uint64()
	f()
	metrics.Read(sample)
	return sample[0].Value.Uint64() - before
}

// TestNoByteOfATableMakesItTakeMemory changes single bytes of small files to
// values that make numbers large: whatever these are, there is an error or a
// history, no more memory than a small file needs, and no end of the process.
func TestNoByteOfATableMakesItTakeMemory(t *testing.T) {
	records := []arrow.Record{small(t, "time", micros, `[1,2,3,4]`, "job", &arrow.DictionaryType{IndexType: arrow.PrimitiveTypes.Int32, ValueType: utf8}, `["wc","wc","wc","wc"]`, "component", utf8, `["a","b","a",null]`, "lag_records", float64s, `[1,null,3,4]`)}
	const most = 64 << 20
	for format, c := range map[string]struct {
		data []byte
		open func([]byte, file.Options) ingest.Source
	}{
		"arrow":          {arrowBytes(t, records), ofArrow},
		"arrow zstd":     {arrowBytes(t, records, ipc.WithZstd()), ofArrow},
		"parquet snappy": {parquetBytes(t, records, compress.Codecs.Snappy), ofParquet},
		"parquet zstd":   {parquetBytes(t, records, compress.Codecs.Zstd), ofParquet},
	} {
		worst, at := uint64(0), 0
		step := int(size(1, 4)) // all of them with DHALION_HUGE=1
		for i := 0; i < len(c.data); i += step {
			for _, b := range []byte{0x7F, 0xFF} {
				data := bytes.Clone(c.data)
				data[i] = b
				if took := allocated(func() { _, _ = readSource(c.open(data, file.Options{}), ingest.Options{}) }); took > worst {
					worst, at = took, i
				}
			}
		}
		if worst > most {
			t.Errorf("%s: byte %d of %d makes it allocate %d MiB", format, at, len(c.data), worst>>20)
		}
	}
}

func TestDeclaredSizesAreHeldAgainstWhatThereIs(t *testing.T) {
	stream := arrowBytes(t, longRecords(1))
	lie := func(at int, n uint32) []byte {
		data := bytes.Clone(stream)
		binary.LittleEndian.PutUint32(data[at:], n)
		return data
	}
	for name, data := range map[string][]byte{
		"4 GiB of metadata":   lie(4, math.MaxUint32),
		"4 MiB of metadata":   lie(4, 4<<20),
		"no continuation":     lie(0, 7),
		"a table at the end":  lie(8, uint32(len(stream))),
		"a stream of nothing": {0xFF, 0xFF, 0xFF, 0xFF, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0},
	} {
		var err error
		if took := allocated(func() { _, err = readSource(ofArrow(data, file.Options{}), ingest.Options{}) }); err == nil || took > 16<<20 {
			t.Errorf("%s: %v, and %d MiB", name, err, took>>20)
		}
	}
	table := parquetBytes(t, longRecords(1), compress.Codecs.Zstd)
	binary.LittleEndian.PutUint32(table[len(table)-8:], math.MaxInt32)
	var err error
	if took := allocated(func() { _, err = readSource(ofParquet(table, file.Options{}), ingest.Options{}) }); err == nil || took > 16<<20 {
		t.Errorf("a footer of 2 GiB: %v, and %d MiB", err, took>>20)
	}
}

func fuzzTable(f *testing.F, open func([]byte, file.Options) ingest.Source) {
	f.Fuzz(func(t *testing.T, data []byte) {
		var strict, lenient read
		var err, lenientErr error
		took := allocated(func() {
			strict, err = readSource(open(data, file.Options{Job: "wc"}), ingest.Options{MaxValues: 1000})
			lenient, lenientErr = readSource(open(data, file.Options{Job: "wc", SkipBad: len(data)}), ingest.Options{MaxValues: 3})
		})
		if took > 1<<30+1000*uint64(len(data)) {
			t.Fatalf("%d bytes made it allocate %d MiB", len(data), took>>20)
		}
		if err == nil && (lenientErr != nil || strict.history.Digest() != lenient.history.Digest()) {
			t.Fatalf("batches or broken rows that are allowed change the history: %v", lenientErr)
		}
	})
}

func fuzzSeeds(t testing.TB) []arrow.Record {
	name := &arrow.DictionaryType{IndexType: arrow.PrimitiveTypes.Int32, ValueType: utf8}
	var records []arrow.Record
	build := func(columns ...any) {
		var fields []arrow.Field
		var arrays []arrow.Array
		for i := 0; i < len(columns); i += 3 {
			a, _, err := array.FromJSON(memory.DefaultAllocator, columns[i+1].(arrow.DataType), strings.NewReader(columns[i+2].(string)))
			if err != nil {
				t.Fatal(err)
			}
			fields = append(fields, arrow.Field{Name: columns[i].(string), Type: columns[i+1].(arrow.DataType), Nullable: true})
			arrays = append(arrays, a)
		}
		records = append(records, array.NewRecord(arrow.NewSchema(fields, nil), arrays, int64(arrays[0].Len())))
	}
	build("time", micros, `[1,2,3]`, "job", name, `["wc","wc","wc"]`, "component", utf8, `["a",null,"b"]`, "instance", arrow.PrimitiveTypes.Int32, `[0,null,1]`, "worker", name, `["x","y",null]`, "lag_records", float64s, `[1,null,3]`, "busy_fraction", arrow.PrimitiveTypes.Float32, `[0,1,0.5]`)
	build("time", utf8, `["2026-03-01T12:00:00Z","2"]`, "metric", name, `["lag_records","busy_fraction"]`, "value", arrow.PrimitiveTypes.Int64, `[1,0]`, "component", arrow.BinaryTypes.LargeString, `["a","b"]`, "instance", utf8, `["1",""]`)
	return records
}

func FuzzArrow(f *testing.F) {
	for _, r := range fuzzSeeds(f) {
		for _, opts := range [][]ipc.Option{nil, {ipc.WithLZ4()}, {ipc.WithZstd()}} {
			f.Add(arrowBytes(f, []arrow.Record{r, r}, opts...))
		}
	}
	fuzzTable(f, ofArrow)
}

func FuzzParquet(f *testing.F) {
	for _, r := range fuzzSeeds(f) {
		for _, codec := range []compress.Compression{compress.Codecs.Uncompressed, compress.Codecs.Snappy, compress.Codecs.Zstd, compress.Codecs.Gzip} {
			f.Add(parquetBytes(f, []arrow.Record{r}, codec))
		}
	}
	fuzzTable(f, ofParquet)
}
