package file

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/bitutil"
	"github.com/apache/arrow/go/v15/arrow/ipc"
	"github.com/apache/arrow/go/v15/arrow/memory"
	"github.com/apache/arrow/go/v15/parquet"
	"github.com/apache/arrow/go/v15/parquet/compress"
	"github.com/apache/arrow/go/v15/parquet/pqarrow"
	"go.yaml.in/yaml/v3"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/ingest/segment"
)

// exportRows is how many rows a record batch, or a row group, has.
const exportRows = 128 << 10

// Outline is what a file must know of a history before its first row: the metrics
// are its columns, the names its dictionaries.
type Outline struct {
	metrics             map[dhalion.Metric]bool
	components, workers map[string]bool
}

// Add notes what a table has.
func (o *Outline) Add(t *segment.Table) {
	if o.metrics == nil {
		o.metrics, o.components, o.workers = map[dhalion.Metric]bool{}, map[string]bool{}, map[string]bool{}
	}
	for _, m := range t.Metrics() {
		o.metrics[m] = true
	}
	for _, s := range t.Spans() {
		if s.Target.Component != "" {
			o.components[s.Target.Component] = true
		}
		if s.Target.Worker != "" {
			o.workers[s.Target.Worker] = true
		}
		last := ""
		for row := s.Start; row < s.End && t.Kind() == dhalion.KindInstance; row++ {
			if w := t.Worker(row); w != last {
				last = w
				if w != "" {
					o.workers[w] = true
				}
			}
		}
	}
}

// Empty reports whether nothing was measured.
func (o *Outline) Empty() bool { return len(o.metrics) == 0 }

// Exported says what an Exporter wrote.
type Exported struct {
	Rows   int       // of the file, its header not counted
	Values int       // known values
	From   time.Time // time of the earliest row, UTC; zero when there is none
	To     time.Time // time of the latest row
}

// Exporter writes the tables of one job as a file that the formats of this
// package read. Its memory does not grow with what it has written.
type Exporter struct {
	job     string
	long    bool
	metrics []dhalion.Metric
	rows    rowWriter
	done    Exported
	values  []float64
	columns [][]float64
}

// rowWriter writes rows of one format. In long form a row has one value, and k is
// its metric's number.
type rowWriter interface {
	row(x dhalion.Target, worker string, at int64, k int, values []float64) error
	close() error
}

// errUnforeseen says that a history has something that its outline lacks.
var errUnforeseen = errors.New("the history has changed while it was exported; try again")

// NewExporter writes a history of the job of that name to w: FormatArrow (a file,
// lz4), FormatParquet (zstd), FormatCSV or FormatCSVWide. Arrow and Parquet have a
// row per target and time and a column per metric, or with long a row per value;
// names are dictionaries, absent and unknown are null. The outline must have seen
// every table that comes.
func NewExporter(w io.Writer, format Format, long bool, job string, o *Outline) (*Exporter, error) {
	e := &Exporter{job: job, long: long, metrics: slices.Sorted(maps.Keys(o.metrics))}
	switch format {
	case FormatCSV, FormatCSVWide:
		e.long = format == FormatCSV
		e.rows = newCSVWriter(w, job, e.metrics, e.long)
		return e, nil
	case FormatArrow, FormatParquet:
	default:
		return nil, fmt.Errorf("file: export: %s is read, not written", format)
	}
	r := newRecordWriter(job, e.metrics, o, long)
	e.rows = r
	var err error
	if format == FormatArrow {
		var f *ipc.FileWriter
		if f, err = ipc.NewFileWriter(&counted{w: w}, ipc.WithSchema(r.schema), ipc.WithLZ4()); err == nil {
			r.write, r.end = f.Write, f.Close
		}
	} else {
		props := parquet.NewWriterProperties(parquet.WithCompression(compress.Codecs.Zstd), parquet.WithMaxRowGroupLength(exportRows), parquet.WithDataPageSize(256<<10))
		var f *pqarrow.FileWriter
		// A writer that is no io.Closer stays open for the caller to close.
		if f, err = pqarrow.NewFileWriter(r.schema, struct{ io.Writer }{w}, props, pqarrow.NewArrowWriterProperties(pqarrow.WithStoreSchema())); err == nil {
			r.write, r.end = f.Write, f.Close
		}
	}
	if err != nil {
		return nil, fmt.Errorf("file: export: %w", err)
	}
	return e, nil
}

// Table writes the rows of a table.
func (e *Exporter) Table(t *segment.Table) error {
	e.columns = e.columns[:0]
	for _, m := range e.metrics {
		e.columns = append(e.columns, t.Values(m))
	}
	for _, m := range t.Metrics() {
		if _, ok := slices.BinarySearch(e.metrics, m); !ok {
			return fmt.Errorf("file: export: %w", errUnforeseen)
		}
	}
	times := t.Times()
	for _, s := range t.Spans() {
		for row := s.Start; row < s.End; row++ {
			if err := e.row(t, s.Target, row, times[row]); err != nil {
				return fmt.Errorf("file: export: %w", err)
			}
		}
	}
	return nil
}

func (e *Exporter) row(t *segment.Table, x dhalion.Target, row int, at int64) error {
	worker := x.Worker
	if x.Kind == dhalion.KindInstance {
		worker = t.Worker(row)
	}
	e.values = e.values[:0]
	known := 0
	for k, column := range e.columns {
		v := math.NaN()
		if column != nil {
			v = column[row]
		}
		if v == v {
			known++
			if e.long {
				e.values = append(e.values[:0], v)
				if err := e.rows.row(x, worker, at, k, e.values); err != nil {
					return err
				}
			}
		}
		if !e.long {
			e.values = append(e.values, v)
		}
	}
	if known == 0 {
		return nil
	}
	if moment := time.UnixMicro(at).UTC(); e.done.Rows == 0 {
		e.done.From, e.done.To = moment, moment
	} else if moment.Before(e.done.From) {
		e.done.From = moment
	} else if moment.After(e.done.To) {
		e.done.To = moment
	}
	e.done.Values += known
	if e.long {
		e.done.Rows += known
		return nil
	}
	e.done.Rows++
	return e.rows.row(x, worker, at, 0, e.values)
}

// Close writes what is left and says what was written. It does not close the
// writer below.
func (e *Exporter) Close() (Exported, error) {
	if err := e.rows.close(); err != nil {
		return e.done, fmt.Errorf("file: export: %w", err)
	}
	return e.done, nil
}

// counted gives the position of what can only be written, which Arrow asks for.
type counted struct {
	w io.Writer
	n int64
}

// Write is io.Writer's.
func (c *counted) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// Seek tells the position; it cannot change it.
func (c *counted) Seek(offset int64, whence int) (int64, error) {
	if offset != 0 || whence != io.SeekCurrent {
		return c.n, errors.New("it cannot be moved in")
	}
	return c.n, nil
}

// recordWriter collects rows into Arrow records.
type recordWriter struct {
	schema *arrow.Schema
	write  func(arrow.Record) error
	end    func() error
	long   bool

	components, workers, metrics *nameColumn
	jobs                         *nameColumn
	times                        []int64
	instances                    []int32
	values                       [][]float64
	wrote                        bool
}

// nameColumn is a dictionary column: all its batches have the dictionary of the
// first, since a file has one.
type nameColumn struct {
	dictionary arrow.Array
	number     map[string]int32
	indices    []int32 // -1: null
}

func newNameColumn(names []string) *nameColumn {
	c := &nameColumn{number: make(map[string]int32, len(names))}
	b := array.NewStringBuilder(memory.DefaultAllocator)
	if len(names) == 0 {
		b.Append("") // for the indices of nulls
	}
	for i, n := range names {
		c.number[n] = int32(i)
		b.Append(n)
	}
	c.dictionary = b.NewArray()
	return c
}

// add takes a name, empty for null.
func (c *nameColumn) add(name string) error {
	if name == "" {
		c.indices = append(c.indices, -1)
		return nil
	}
	n, ok := c.number[name]
	if !ok {
		return errUnforeseen
	}
	c.indices = append(c.indices, n)
	return nil
}

var (
	exportName = &arrow.DictionaryType{IndexType: arrow.PrimitiveTypes.Int32, ValueType: arrow.BinaryTypes.String}
	exportTime = &arrow.TimestampType{Unit: arrow.Microsecond, TimeZone: "UTC"}
)

func newRecordWriter(job string, metrics []dhalion.Metric, o *Outline, long bool) *recordWriter {
	w := &recordWriter{
		long:       long,
		jobs:       newNameColumn([]string{job}),
		components: newNameColumn(slices.Sorted(maps.Keys(o.components))),
		workers:    newNameColumn(slices.Sorted(maps.Keys(o.workers))),
	}
	fields := []arrow.Field{
		{Name: timeColumn, Type: exportTime},
		{Name: jobColumn, Type: exportName},
		{Name: componentColumn, Type: exportName, Nullable: true},
		{Name: instanceColumn, Type: arrow.PrimitiveTypes.Int32, Nullable: true},
		{Name: workerColumn, Type: exportName, Nullable: true},
	}
	if long {
		names := make([]string, len(metrics))
		for i, m := range metrics {
			names[i] = string(m)
		}
		w.metrics = newNameColumn(names)
		w.values = make([][]float64, 1)
		fields = append(fields, arrow.Field{Name: metricColumn, Type: exportName}, arrow.Field{Name: valueColumn, Type: arrow.PrimitiveTypes.Float64})
	} else {
		w.values = make([][]float64, len(metrics))
		for _, m := range metrics {
			fields = append(fields, arrow.Field{Name: string(m), Type: arrow.PrimitiveTypes.Float64, Nullable: true})
		}
	}
	w.schema = arrow.NewSchema(fields, nil)
	return w
}

func (w *recordWriter) row(x dhalion.Target, worker string, at int64, k int, values []float64) error {
	w.times = append(w.times, at)
	w.jobs.indices = append(w.jobs.indices, 0)
	instance := int32(noInstance)
	if x.Kind == dhalion.KindInstance {
		instance = int32(x.Instance)
	}
	w.instances = append(w.instances, instance)
	if err := w.components.add(x.Component); err != nil {
		return err
	}
	if err := w.workers.add(worker); err != nil {
		return err
	}
	if w.long {
		w.metrics.indices = append(w.metrics.indices, int32(k))
	}
	for i, v := range values {
		w.values[i] = append(w.values[i], v)
	}
	if len(w.times) < exportRows {
		return nil
	}
	return w.flush()
}

// flush writes a batch.
func (w *recordWriter) flush() error {
	n := len(w.times)
	columns := []arrow.Array{
		column(exportTime, n, arrow.Int64Traits.CastToBytes(w.times), nil),
		w.jobs.array(),
		w.components.array(),
		column(arrow.PrimitiveTypes.Int32, n, arrow.Int32Traits.CastToBytes(w.instances), func(i int) bool { return w.instances[i] != noInstance }),
		w.workers.array(),
	}
	if w.long {
		columns = append(columns, w.metrics.array(), column(arrow.PrimitiveTypes.Float64, n, arrow.Float64Traits.CastToBytes(w.values[0]), nil))
	} else {
		for _, values := range w.values {
			columns = append(columns, column(arrow.PrimitiveTypes.Float64, n, arrow.Float64Traits.CastToBytes(values), func(i int) bool { return values[i] == values[i] }))
		}
	}
	w.wrote = true
	if err := w.write(array.NewRecord(w.schema, columns, int64(n))); err != nil {
		return err
	}
	w.times, w.instances = w.times[:0], w.instances[:0]
	for _, c := range []*nameColumn{w.jobs, w.components, w.workers, w.metrics} {
		if c != nil {
			c.indices = c.indices[:0]
		}
	}
	for i := range w.values {
		w.values[i] = w.values[i][:0]
	}
	return nil
}

func (w *recordWriter) close() error {
	// A file without a batch would lack its dictionaries.
	if len(w.times) > 0 || !w.wrote {
		if err := w.flush(); err != nil {
			return err
		}
	}
	return w.end()
}

func (c *nameColumn) array() arrow.Array {
	indices := column(arrow.PrimitiveTypes.Int32, len(c.indices), arrow.Int32Traits.CastToBytes(c.indices), func(i int) bool { return c.indices[i] >= 0 })
	// What is null still has an index, which polars wants to be one of the dictionary.
	for i, n := range c.indices {
		c.indices[i] = max(n, 0)
	}
	return array.NewDictionaryArray(exportName, indices, c.dictionary)
}

// column wraps values without copying them; known says which are not null.
func column(t arrow.DataType, n int, data []byte, known func(int) bool) arrow.Array {
	nulls := 0
	var bitmap *memory.Buffer
	if known != nil {
		bits := make([]byte, bitutil.BytesForBits(int64(n)))
		for i := range n {
			if known(i) {
				bitutil.SetBit(bits, i)
			} else {
				nulls++
			}
		}
		if nulls > 0 {
			bitmap = memory.NewBufferBytes(bits)
		}
	}
	return array.MakeFromData(array.NewData(t, n, []*memory.Buffer{bitmap, memory.NewBufferBytes(data)}, nil, nulls, 0))
}

// csvWriter writes canonical CSV.
type csvWriter struct {
	w       *bufio.Writer
	job     string
	long    bool
	metrics []dhalion.Metric
	line    []byte
	at      int64
	stamp   []byte
}

func newCSVWriter(w io.Writer, job string, metrics []dhalion.Metric, long bool) *csvWriter {
	c := &csvWriter{w: bufio.NewWriterSize(w, 256<<10), job: quoteCSV(job), long: long, metrics: metrics}
	c.line = append(c.line, "time,job,component,instance,worker"...)
	if long {
		c.line = append(c.line, ",metric,value"...)
	} else {
		for _, m := range metrics {
			c.line = append(append(c.line, ','), m...)
		}
	}
	c.line = append(c.line, '\n')
	return c
}

func (c *csvWriter) row(x dhalion.Target, worker string, at int64, k int, values []float64) error {
	if c.stamp == nil || at != c.at {
		c.at = at
		c.stamp = time.UnixMicro(at).UTC().AppendFormat(c.stamp[:0], "2006-01-02T15:04:05.999999Z07:00")
	}
	b := append(c.line, c.stamp...) // the line begins with the header once
	b = append(append(b, ','), c.job...)
	b = append(append(b, ','), quoteCSV(x.Component)...)
	b = append(b, ',')
	if x.Kind == dhalion.KindInstance {
		b = strconv.AppendInt(b, int64(x.Instance), 10)
	}
	b = append(append(b, ','), quoteCSV(worker)...)
	if c.long {
		b = append(append(b, ','), c.metrics[k]...)
	}
	for _, v := range values {
		b = append(b, ',')
		if v == v {
			b = appendNumber(b, v)
		}
	}
	b = append(b, '\n')
	_, err := c.w.Write(b)
	c.line = b[:0]
	return err
}

func (c *csvWriter) close() error {
	if _, err := c.w.Write(c.line); err != nil { // the header of a file without rows
		return err
	}
	return c.w.Flush()
}

// appendNumber writes a number in as few digits as tell it from its neighbours,
// without an exponent where a person would not write one.
func appendNumber(b []byte, v float64) []byte {
	if v == 0 || v >= 1e-6 && v < 1e18 {
		return strconv.AppendFloat(b, v, 'f', -1, 64)
	}
	return strconv.AppendFloat(b, v, 'e', -1, 64)
}

// quoteCSV quotes a name where it must be.
func quoteCSV(s string) string {
	if !strings.ContainsAny(s, "\",\r\n") {
		return s
	}
	return `"` + strings.ReplaceAll(s, `"`, `""`) + `"`
}

// WriteTopology writes topologies as the file that ReadTopology reads: a list,
// each with the time from which it holds. Who made a topology what it is, and the
// engine's id of the run, are not in it.
func WriteTopology(w io.Writer, topologies []dhalion.Topology) error {
	type component struct {
		Name           string `yaml:"name"`
		Parallelism    int    `yaml:"parallelism"`
		MaxParallelism int    `yaml:"max_parallelism,omitempty"`
		External       bool   `yaml:"external,omitempty"`
	}
	type edge struct {
		From string `yaml:"from"`
		To   string `yaml:"to"`
		Ship string `yaml:"ship,omitempty"`
	}
	type placement struct {
		Component string `yaml:"component"`
		Instance  int    `yaml:"instance"`
		Worker    string `yaml:"worker"`
	}
	type slots struct {
		Worker string `yaml:"worker"`
		Slots  int    `yaml:"slots"`
	}
	flow := func(v any) (*yaml.Node, error) {
		var n yaml.Node
		if err := n.Encode(v); err != nil {
			return nil, err
		}
		n.Style = yaml.FlowStyle
		return &n, nil
	}
	list := make([]struct {
		From       string       `yaml:"from"`
		Components []*yaml.Node `yaml:"components"`
		Edges      []*yaml.Node `yaml:"edges,omitempty"`
		Placement  []*yaml.Node `yaml:"placement,omitempty"`
		Slots      []*yaml.Node `yaml:"slots,omitempty"`
	}, len(topologies))
	var failed error
	add := func(to *[]*yaml.Node, v any) {
		n, err := flow(v)
		failed = errors.Join(failed, err)
		*to = append(*to, n)
	}
	for i, t := range topologies {
		list[i].From = t.From.UTC().Format("2006-01-02T15:04:05.999999Z07:00")
		for _, c := range t.Components {
			add(&list[i].Components, component{c.Name, c.Parallelism, c.MaxParallelism, c.External})
		}
		for _, e := range t.Edges {
			if !slices.Contains(ships, e.Ship) {
				e.Ship = ""
			}
			add(&list[i].Edges, edge{e.From, e.To, e.Ship})
		}
		for _, p := range t.Placement {
			if p.Worker != "" {
				add(&list[i].Placement, placement{p.Component, p.Instance, p.Worker})
			}
		}
		for _, s := range t.Slots {
			add(&list[i].Slots, slots{s.Worker, s.Slots})
		}
	}
	enc := yaml.NewEncoder(w)
	enc.SetIndent(2)
	if err := errors.Join(failed, enc.Encode(list), enc.Close()); err != nil {
		return fmt.Errorf("file: write topology: %w", err)
	}
	return nil
}
