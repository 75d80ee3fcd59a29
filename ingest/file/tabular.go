package file

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/ingest"
)

const (
	// frameRows is how many rows go through the loops below at once: what they
	// need of them, some 50 bytes a row, stays in a processor's cache.
	frameRows = 8 << 10

	// maxNames bounds the distinct texts of a file, and maxNameBytes what they
	// take: more are unique ids taken for names, as in ingest.MaxTargets.
	maxNames     = 1 << 20
	maxNameBytes = 128 << 20
)

// The columns with names. Their numbers are the order in frame.keys.
const (
	keyJob = iota
	keyComponent
	keyWorker
	keyMetric
	keyCount
)

// frame is some rows of a table of a binary format, with names as numbers.
type frame struct {
	n     int
	first int64 // number of the first row in the file, from 1

	times    []int64           // µs since 1970 UTC
	keys     [keyCount][]int32 // index in names; 0 is the empty name
	instance []int32           // noInstance: none
	values   [][]float64       // a column per metric, or one in long form; NaN is unknown

	names []string // all that the keys of this frame refer to; shared, append-only
	bad   []badCell
}

const noInstance = -1

// badCell says why a row of a frame is broken.
type badCell struct {
	row int
	err error
}

// spoil marks a row as broken because of a column.
func (f *frame) spoil(row int, column, format string, args ...any) {
	f.bad = append(f.bad, badCell{row, fmt.Errorf("row %d of column %s: "+format, append([]any{f.first + int64(row), column}, args...)...)})
}

// layout says which columns a table has.
type layout struct {
	columns map[string]int // canonical columns, their place in the file
	metrics []dhalion.Metric
	places  []int // of the metrics' columns in the file
}

// long reports whether metric and value are columns.
func (l *layout) long() bool { return len(l.metrics) == 0 }

// newLayout looks at the names of a table's columns, with the rules of canonical
// CSV. Pandas' own index column is passed over.
func newLayout(columns []string, jobGiven bool) (*layout, error) {
	l := &layout{columns: map[string]int{}}
	var strange []string
	seen := map[string]bool{}
	for i, name := range columns {
		name = strings.TrimSpace(name)
		if strings.HasPrefix(name, "__index_level_") {
			continue
		}
		if seen[name] {
			return nil, fmt.Errorf("the column %s is there twice", excerpt([]byte(name)))
		}
		seen[name] = true
		switch name {
		case timeColumn, jobColumn, componentColumn, instanceColumn, workerColumn, metricColumn, valueColumn:
			l.columns[name] = i
			continue
		}
		if !dhalion.Metric(name).Valid() {
			strange = append(strange, name)
			continue
		}
		l.metrics = append(l.metrics, dhalion.Metric(name))
		l.places = append(l.places, i)
	}
	if len(strange) > 0 {
		why := fmt.Sprintf("unknown column %s", excerpt([]byte(strange[0])))
		if near := ingest.NearestMetric(strange[0]); near != "" {
			why += fmt.Sprintf("; did you mean %s?", near)
		}
		return nil, fmt.Errorf("%s (known are time, job, component, instance, worker, and metric and value or a column per metric)", why)
	}
	has := func(name string) bool { _, ok := l.columns[name]; return ok }
	switch {
	case !has(timeColumn):
		return nil, errors.New("there is no column time")
	case has(metricColumn) != has(valueColumn):
		return nil, errors.New("the columns metric and value go together")
	case has(metricColumn) && len(l.metrics) > 0:
		return nil, fmt.Errorf("the columns metric and value do not go with a column per metric (%s)", l.metrics[0])
	case !has(metricColumn) && len(l.metrics) == 0:
		return nil, errors.New("there are neither columns metric and value nor a column per metric")
	case has(instanceColumn) && !has(componentColumn):
		return nil, errors.New("there is a column instance but no column component")
	case !has(jobColumn) && !jobGiven:
		return nil, errors.New("there is no column job: say which job it is with --job NAME")
	}
	return l, nil
}

// texts numbers the names of a file, so that rows are compared by numbers.
type texts struct {
	names []string
	ids   map[string]int32
	bytes int
}

func newTexts() *texts { return &texts{names: []string{""}, ids: map[string]int32{"": 0}} }

// id is the number of a name, which is copied when it is new. Space around it is
// no part of it.
func (t *texts) id(name string) (int32, error) {
	if id, ok := t.ids[name]; ok {
		return id, nil
	}
	trimmed := strings.TrimSpace(name)
	id, ok := t.ids[trimmed]
	if !ok {
		t.bytes += len(trimmed)
		if len(t.names) >= maxNames || t.bytes > maxNameBytes {
			return 0, fmt.Errorf("more than %d distinct names, or %d MiB of them: is a column of unique ids taken for names?", maxNames, maxNameBytes>>20)
		}
		id = int32(len(t.names))
		trimmed = strings.Clone(trimmed)
		t.names = append(t.names, trimmed)
		t.ids[trimmed] = id
	}
	return id, nil
}

// rowKey is whom a row is about, as numbers.
type rowKey struct {
	job, component, worker, metric, instance int32
}

// place is what rows with one key come to: in long form one handle, in wide form
// one a metric, looked up when it first has a value.
type place struct {
	key     rowKey
	handle  ingest.Handle
	next    *place // what came after it last time: polls repeat themselves
	job     *job
	target  dhalion.Target
	worker  string
	handles []ingest.Handle
	used    bool
	err     error // the key is broken: so is every row with it
}

// tabular gives frames to the collector.
type tabular struct {
	history
	layout *layout
	cache  map[rowKey]*place
	last   *place
}

func newTabular(name string, opts Options) tabular {
	return tabular{history: newHistory(name, opts), cache: map[rowKey]*place{}, last: &place{}}
}

// frames makes frames, on a goroutine of its own, until there are no more.
type frames func(emit func(*frame) error) error

// run takes the frames that produce emits. Decoding the next and taking this one
// overlap; two frames are in use, so memory does not grow.
func (t *tabular) run(ctx context.Context, to *ingest.Collector, produce frames) error {
	t.to = to
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	work := make(chan *frame)
	done := make(chan error, 1)
	go func() {
		defer close(work)
		done <- guarded(func() error {
			return produce(func(f *frame) error {
				select {
				case work <- f:
					return nil
				case <-ctx.Done():
					return context.Cause(ctx)
				}
			})
		})
	}()
	var failed error
	for f := range work {
		if failed == nil {
			if failed = t.take(f); failed != nil {
				stop()
			}
		}
	}
	err := <-done
	switch {
	case failed != nil:
		return failed
	case err != nil && ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return fmt.Errorf("file: read %s: %w", t.name, err)
	}
	return t.end()
}

// guarded turns a panic into an error. Arrow's readers follow offsets and sizes
// without looking and panic on malformed input; that is an answer about the
// input, not a fault of the program.
func guarded(do func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("malformed data: %v", p)
		}
	}()
	return do()
}

// take gives the rows of a frame to the collector.
func (t *tabular) take(f *frame) error {
	// The broken rows in order, the first reason of each.
	slices.SortStableFunc(f.bad, func(a, b badCell) int { return a.row - b.row })
	from := 0
	for _, cell := range f.bad {
		if cell.row < from {
			continue
		}
		if err := t.rows(f, from, cell.row); err != nil {
			return err
		}
		if err := t.bad(0, cell.err); err != nil {
			return err
		}
		from = cell.row + 1
	}
	return t.rows(f, from, f.n)
}

func (t *tabular) rows(f *frame, from, to int) error {
	if t.layout.long() {
		return t.long(f, from, to)
	}
	return t.wide(f, from, to)
}

// long takes the rows [from, to), all with good cells.
func (t *tabular) long(f *frame, from, to int) error {
	if from >= to {
		return nil
	}
	times, values, instances := f.times[:to], f.values[0][:to], f.instance[:to]
	jobs, components, workers, metrics := f.keys[keyJob][:to], f.keys[keyComponent][:to], f.keys[keyWorker][:to], f.keys[keyMetric][:to]
	collector, last := t.to, t.last
	for i := from; i < to; i++ {
		p := last.next
		if p == nil || p.key.metric != metrics[i] || p.key.instance != instances[i] || p.key.component != components[i] || p.key.worker != workers[i] || p.key.job != jobs[i] {
			p = t.find(rowKey{jobs[i], components[i], workers[i], metrics[i], instances[i]}, f.names)
			last.next = p
		}
		last = p
		if p.err != nil {
			if err := t.bad(0, fmt.Errorf("row %d: %w", f.first+int64(i), p.err)); err != nil {
				return err
			}
			continue
		}
		v := values[i]
		if v != v {
			t.missing++
			continue
		}
		if err := collector.AddAt(p.handle, times[i], v); err != nil {
			if err := t.bad(0, inRow(f.first+int64(i), valueColumn, err)); err != nil {
				return err
			}
			continue
		}
		p.job.seen(times[i])
		if !p.used {
			p.used = true
			p.job.has(p.target)
		}
	}
	t.last = last
	return nil
}

// inRow says which row and column an error of the collector's is about, unless
// it is about none.
func inRow(row int64, column string, err error) error {
	var out *ingest.OutError
	if errors.As(err, &out) {
		return err
	}
	return fmt.Errorf("row %d of column %s: %w", row, column, err)
}

// wide takes the rows [from, to), each all or not at all.
func (t *tabular) wide(f *frame, from, to int) error {
	for i := from; i < to; i++ {
		key := rowKey{f.keys[keyJob][i], f.keys[keyComponent][i], f.keys[keyWorker][i], 0, f.instance[i]}
		p := t.last.next
		if p == nil || p.key != key {
			p = t.find(key, f.names)
			t.last.next = p
		}
		t.last = p
		if p.err != nil {
			if err := t.bad(0, fmt.Errorf("row %d: %w", f.first+int64(i), p.err)); err != nil {
				return err
			}
			continue
		}
		if err := t.wideRow(f, p, i); err != nil {
			if err := t.bad(0, err); err != nil {
				return err
			}
		}
	}
	return nil
}

func (t *tabular) wideRow(f *frame, p *place, i int) error {
	row := f.first + int64(i)
	missing := 0
	for k, column := range f.values {
		v := column[i]
		if v != v {
			missing++
			continue
		}
		if !p.handles[k].Valid() {
			h, err := t.to.Series(p.target, p.worker, t.layout.metrics[k])
			if err != nil {
				return inRow(row, string(t.layout.metrics[k]), err)
			}
			p.handles[k] = h
		}
		if err := p.handles[k].Accepts(v); err != nil {
			return inRow(row, string(t.layout.metrics[k]), err)
		}
	}
	t.missing += missing
	if missing == len(f.values) {
		return nil
	}
	at := f.times[i]
	for k, column := range f.values {
		if v := column[i]; v == v {
			if err := t.to.AddAt(p.handles[k], at, v); err != nil {
				return inRow(row, timeColumn, err) // the value was good
			}
		}
	}
	p.job.seen(at)
	if !p.used {
		p.used = true
		p.job.has(p.target)
	}
	return nil
}

// find looks up the place of a key, or makes it. What is wrong with a key is
// found here, once.
func (t *tabular) find(key rowKey, all []string) *place {
	if p := t.cache[key]; p != nil {
		return p
	}
	p := &place{key: key}
	n := names{job: all[key.job], component: all[key.component], worker: all[key.worker]}
	if key.instance != noInstance {
		n.instance = strconv.Itoa(int(key.instance))
	}
	p.target, p.worker, p.job, p.err = t.resolve(n)
	switch {
	case p.err != nil:
	case t.layout.long():
		p.handle, p.err = t.to.Series(p.target, p.worker, dhalion.Metric(all[key.metric]))
	default:
		p.handles = make([]ingest.Handle, len(t.layout.metrics))
	}
	if len(t.cache) >= maxCache {
		clear(t.cache)
	}
	t.cache[key] = p
	return p
}

// epochMicros reads a whole number as a time, by its size: seconds, milliseconds
// (as in CSV), microseconds or nanoseconds since 1970, each up to the year 9999
// where the next begins to be read as one in 1978 or later.
func epochMicros(n int64) int64 {
	const lastMillis = 253_402_300_799_999 // the end of 9999
	size := n
	if size < 0 {
		if size = -n; size < 0 {
			size = math.MaxInt64
		}
	}
	switch {
	case size < epochMillis:
		return n * 1e6
	case size <= lastMillis:
		return n * 1e3
	case size <= lastMillis*1000:
		return n
	}
	return floorDiv(n, 1000)
}

func floorDiv(n, by int64) int64 {
	q := n / by
	if n%by < 0 {
		q--
	}
	return q
}

// clock says how a column counts time: a tick is up/down microseconds, of which
// one is 1.
type clock struct{ up, down int64 }

// micros is a tick in microseconds, rounded down; false when that does not fit.
func (c clock) micros(n int64) (int64, bool) {
	if c.down > 1 {
		return floorDiv(n, c.down), true
	}
	if n > math.MaxInt64/c.up || n < math.MinInt64/c.up {
		return 0, false
	}
	return n * c.up, true
}
