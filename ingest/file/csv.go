package file

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/ingest"
)

// The columns of canonical CSV; any other is a metric's (wide form).
const (
	timeColumn      = "time"
	jobColumn       = "job"
	componentColumn = "component"
	instanceColumn  = "instance"
	workerColumn    = "worker"
	metricColumn    = "metric"
	valueColumn     = "value"
)

// NewCSV is the history in a canonical CSV file, in long form
// (time,job,component,instance,worker,metric,value) or in wide form (a column
// per metric instead of the last two); the header says which. Columns come in
// any order; job, component, instance and worker may be absent or empty. A row
// is about the instance when it has one (worker is then where that ran), else
// about the component, else about the worker, else about the job. Job names, not
// ids, are in the column job.
//
// Times are RFC 3339, or seconds or milliseconds since 1970: numbers from 1e11
// on are milliseconds. An empty value and NaN are unknown. Name is for messages.
func NewCSV(name string, r io.Reader, opts Options) ingest.Source {
	return &csvFile{history: newHistory(name, opts), rows: newRows(r), cache: map[string]*entry{}}
}

type csvFile struct {
	history
	rows *rows

	columns  int
	at       map[string]int // index of a canonical column
	metrics  []int          // wide: indices of the metrics' columns
	names    []dhalion.Metric
	keyed    []int // indices of the columns that say what a row is about
	straight bool  // long form with time first and value last

	cache map[string]*entry
	last  *entry

	fields [][]byte
	spare  []byte
	key    []byte
	values []float64

	lastTime   []byte // the newest time as written, and what it means
	lastMicros int64
}

// entry is what rows with the same key are about. In long form the metric is
// part of the key and there is one handle, in wide form there is one a column,
// looked up when it first has a value.
type entry struct {
	key     string
	next    *entry // what came after it last time: polls repeat themselves
	job     *job
	target  dhalion.Target
	worker  string
	handles []ingest.Handle
	used    bool
}

// maxCache bounds the keys that are remembered, at some 300 bytes each, above the
// targets × metrics of a large job. When there are more, all are forgotten and
// looked up again.
const maxCache = 1 << 19

// Read is ingest.Source's.
func (f *csvFile) Read(ctx context.Context, to *ingest.Collector) error {
	f.to = to
	if err := f.header(); err != nil {
		return err
	}
	for n := 1; ; n++ {
		if n%4096 == 0 {
			if err := ctx.Err(); err != nil {
				return err
			}
		}
		record, line, quoted, err := f.rows.next()
		if err == io.EOF {
			break
		}
		if errors.Is(err, errLong) || errors.Is(err, errOpen) {
			return ingest.RowError{File: f.name, Line: line, Reason: err.Error()}
		}
		if err != nil {
			return fmt.Errorf("file: read %s near line %d: %w", f.name, line, err)
		}
		if len(record) == 0 {
			continue
		}
		if err := f.row(record, quoted); err != nil {
			if err := f.bad(line, err); err != nil {
				return err
			}
		}
	}
	return f.end()
}

// header reads the first record.
func (f *csvFile) header() error {
	record, line, _, err := f.rows.next()
	bad := func(format string, args ...any) error {
		return ingest.RowError{File: f.name, Line: line, Reason: fmt.Sprintf(format, args...)}
	}
	switch {
	case err == io.EOF:
		return bad("the file is empty")
	case errors.Is(err, errLong) || errors.Is(err, errOpen):
		return bad("%v", err)
	case err != nil:
		return fmt.Errorf("file: read %s: %w", f.name, err)
	case bytes.HasPrefix(record, []byte{0xFF, 0xFE}) || bytes.HasPrefix(record, []byte{0xFE, 0xFF}):
		return bad("the file is UTF-16; save it as UTF-8")
	}
	fields, err := split(bytes.TrimPrefix(record, []byte(byteOrderMark)), nil, nil)
	if err != nil {
		return bad("%v", err)
	}
	f.columns = len(fields)
	f.at = map[string]int{}
	wide := map[dhalion.Metric]bool{}
	var strange []string
	for i, field := range fields {
		name := strings.TrimSpace(string(field))
		switch name {
		case timeColumn, jobColumn, componentColumn, instanceColumn, workerColumn, metricColumn, valueColumn:
			if _, twice := f.at[name]; twice {
				return bad("the column %s is there twice", name)
			}
			f.at[name] = i
			continue
		}
		m := dhalion.Metric(name)
		if !m.Valid() {
			strange = append(strange, name)
			continue
		}
		if wide[m] {
			return bad("the column %s is there twice", name)
		}
		wide[m] = true
		f.metrics = append(f.metrics, i)
		f.names = append(f.names, m)
	}
	if len(strange) > 0 {
		why := fmt.Sprintf("unknown column %s", excerpt([]byte(strange[0])))
		if near := ingest.NearestMetric(strange[0]); near != "" {
			why += fmt.Sprintf("; did you mean %s?", near)
		}
		return bad("%s (known are time, job, component, instance, worker, and metric and value or a column per metric)", why)
	}
	_, hasTime := f.at[timeColumn]
	metric, hasMetric := f.at[metricColumn]
	value, hasValue := f.at[valueColumn]
	_, hasComponent := f.at[componentColumn]
	_, hasInstance := f.at[instanceColumn]
	_, hasJob := f.at[jobColumn]
	switch {
	case !hasTime:
		return bad("there is no column time")
	case hasMetric != hasValue:
		return bad("the columns metric and value go together")
	case hasMetric && len(wide) > 0:
		return bad("the columns metric and value do not go with a column per metric (%s)", f.names[0])
	case !hasMetric && len(wide) == 0:
		return bad("there are neither columns metric and value nor a column per metric")
	case hasInstance && !hasComponent:
		return bad("there is a column instance but no column component")
	case !hasJob && f.opts.Job == "":
		return bad("there is no column job: say which job it is with --job NAME")
	}
	for _, name := range []string{jobColumn, componentColumn, instanceColumn, workerColumn, metricColumn} {
		if i, ok := f.at[name]; ok {
			f.keyed = append(f.keyed, i)
		}
	}
	// With time first and value last, all that is between them is the key, and
	// no field of a key that was seen before needs to be looked at.
	f.straight = hasMetric && f.at[timeColumn] == 0 && value == f.columns-1 && metric < value
	f.values = make([]float64, len(f.metrics))
	return nil
}

// row takes one record. An error is the row's, unless it is an *ingest.OutError.
func (f *csvFile) row(record []byte, quoted bool) error {
	if f.straight && !quoted {
		i, j := bytes.IndexByte(record, ','), bytes.LastIndexByte(record, ',')
		if i < j {
			key := record[i+1 : j]
			e := f.known(key)
			if e == nil {
				fields, err := f.split(record)
				if err != nil {
					return err
				}
				if e, err = f.lookUp(key, fields); err != nil {
					return err
				}
			}
			return f.long(e, record[:i], record[j+1:])
		}
	}
	fields, err := f.split(record)
	if err != nil {
		return err
	}
	// Lengths in front keep ("a,b", "c") and ("a", "b,c") apart.
	f.key = f.key[:0]
	for _, i := range f.keyed {
		n := len(fields[i])
		f.key = append(f.key, byte(n), byte(n>>8), byte(n>>16))
		f.key = append(f.key, fields[i]...)
	}
	e := f.known(f.key)
	if e == nil {
		if e, err = f.lookUp(f.key, fields); err != nil {
			return err
		}
	}
	if len(f.metrics) == 0 {
		return f.long(e, fields[f.at[timeColumn]], fields[f.at[valueColumn]])
	}
	return f.wide(e, fields)
}

func (f *csvFile) split(record []byte) ([][]byte, error) {
	var err error
	if cap(f.spare) < len(record) {
		f.spare = make([]byte, 0, 2*len(record))
	}
	f.fields, err = split(record, f.fields[:0], f.spare[:0])
	if err != nil {
		return nil, err
	}
	if len(f.fields) != f.columns {
		return nil, fmt.Errorf("the row has %d fields, the header %d", len(f.fields), f.columns)
	}
	return f.fields, nil
}

// known finds the entry of a key that was there before.
func (f *csvFile) known(key []byte) *entry {
	if f.last != nil {
		if e := f.last.next; e != nil && e.key == text(key) {
			f.last = e
			return e
		}
	}
	e := f.cache[text(key)]
	if e != nil {
		if f.last != nil {
			f.last.next = e
		}
		f.last = e
	}
	return e
}

// lookUp makes the entry of a new key. What is wrong with it is found here, once.
func (f *csvFile) lookUp(key []byte, fields [][]byte) (*entry, error) {
	field := func(column string) string {
		if i, ok := f.at[column]; ok {
			return string(bytes.TrimSpace(fields[i]))
		}
		return ""
	}
	e := &entry{}
	var err error
	e.target, e.worker, e.job, err = f.resolve(names{
		job: field(jobColumn), component: field(componentColumn), instance: field(instanceColumn), worker: field(workerColumn),
	})
	if err != nil {
		return nil, err
	}
	if len(f.metrics) == 0 {
		h, err := f.to.Series(e.target, e.worker, dhalion.Metric(field(metricColumn)))
		if err != nil {
			return nil, err
		}
		e.handles = []ingest.Handle{h}
	} else {
		e.handles = make([]ingest.Handle, len(f.metrics))
	}
	e.key = string(key)
	if len(f.cache) >= maxCache {
		clear(f.cache)
		f.last = nil
	}
	f.cache[e.key] = e
	if f.last != nil {
		f.last.next = e
	}
	f.last = e
	return e, nil
}

// time reads a time; most rows have that of the row before.
func (f *csvFile) time(field []byte) (int64, error) {
	if len(f.lastTime) > 0 && bytes.Equal(field, f.lastTime) {
		return f.lastMicros, nil
	}
	at, err := parseTime(bytes.TrimSpace(field))
	if err != nil {
		return 0, err
	}
	f.lastTime = append(f.lastTime[:0], field...)
	f.lastMicros = at
	return at, nil
}

// long takes a row of the long form.
func (f *csvFile) long(e *entry, timeField, valueField []byte) error {
	at, err := f.time(timeField)
	if err != nil {
		return err
	}
	valueField = trim(valueField)
	if unknown(valueField) {
		f.missing++
		return nil
	}
	v, err := parseValue(valueField)
	if err != nil {
		return err
	}
	if err := f.to.AddAt(e.handles[0], at, v); err != nil {
		return err
	}
	f.seen(e, at)
	return nil
}

// wide takes a row of the wide form: all of it or, when one value is broken, none.
func (f *csvFile) wide(e *entry, fields [][]byte) error {
	at, err := f.time(fields[f.at[timeColumn]])
	if err != nil {
		return err
	}
	missing := 0
	for k, i := range f.metrics {
		field := trim(fields[i])
		if unknown(field) {
			f.values[k] = math.NaN()
			missing++
			continue
		}
		v, err := parseValue(field)
		if err != nil {
			return fmt.Errorf("%s: %w", f.names[k], err)
		}
		if !e.handles[k].Valid() {
			if e.handles[k], err = f.to.Series(e.target, e.worker, f.names[k]); err != nil {
				return err
			}
		}
		if err := e.handles[k].Accepts(v); err != nil {
			return fmt.Errorf("%s: %w", f.names[k], err)
		}
		f.values[k] = v
	}
	f.missing += missing
	if missing == len(f.values) {
		return nil
	}
	for k, v := range f.values {
		if v != v {
			continue
		}
		if err := f.to.AddAt(e.handles[k], at, v); err != nil {
			return err
		}
	}
	f.seen(e, at)
	return nil
}

// seen remembers what a good row says of its job's topology.
func (f *csvFile) seen(e *entry, at int64) {
	e.job.seen(at)
	if !e.used {
		e.used = true
		e.job.has(e.target)
	}
}

// trim takes spaces off a field; almost none has any.
func trim(b []byte) []byte {
	if n := len(b); n > 0 && (b[0] <= ' ' || b[n-1] <= ' ') {
		return bytes.TrimSpace(b)
	}
	return b
}
