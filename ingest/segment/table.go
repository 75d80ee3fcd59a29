// Package segment is the only encoder, decoder and merger of the Arrow tables
// in which metric histories are kept.
//
// A Builder collects measurements in any order, a Table is what they come to,
// Encode and Decode turn a Table into a dhalion.Segment and back, Merge lays
// several tables over one another, and a History is everything known of a job in
// a stretch of time. Equal contents give equal tables, equal bytes and equal
// digests, whatever the order in which they came.
package segment

import (
	"fmt"
	"slices"
	"sort"
	"time"

	"github.com/dhalion-go/dhalion"
)

const (
	microsPerDay = int64(24 * time.Hour / time.Microsecond)

	// MaxCells bounds the values and keys of one segment: 512 Ki cells of 8 bytes
	// are 4 MiB before compression, so no segment is more than that and a row more.
	MaxCells = 512 << 10

	// keyCells is what a row's keys (time, target, worker) count for beside its
	// values when a table is cut to MaxCells.
	keyCells = 2
)

// Span is the rows [Start, End) of one target in a Table.
type Span struct {
	Target     dhalion.Target
	Start, End int
}

// Table is the history of the targets of one kind of one job: a row per
// (target, time), sorted so and each there once, and a column of numbers per
// metric in which NaN is unknown. It is read-only: tables share their columns.
// It is not what is stored (a dhalion.Segment is), nor a window of it.
type Table struct {
	job     dhalion.JobID
	kind    dhalion.TargetKind
	spans   []Span
	times   []int64 // µs since 1970 UTC
	metrics []dhalion.Metric
	columns [][]float64 // one per metric, each as long as times
	names   []string    // names[0] is "", the unknown worker
	workers []int32     // index into names per row; nil when no row knows its worker
}

// Job is whose history it is.
func (t *Table) Job() dhalion.JobID { return t.job }

// Kind is the kind of target that every row is about.
func (t *Table) Kind() dhalion.TargetKind { return t.kind }

// Rows is the number of (target, time) pairs.
func (t *Table) Rows() int { return len(t.times) }

// Spans lists the rows of each target, in the order of Target.Compare. Read-only.
func (t *Table) Spans() []Span { return t.spans }

// Span looks up the rows of one target.
func (t *Table) Span(target dhalion.Target) (Span, bool) {
	i, ok := slices.BinarySearchFunc(t.spans, target, func(s Span, x dhalion.Target) int { return s.Target.Compare(x) })
	if !ok {
		return Span{}, false
	}
	return t.spans[i], true
}

// Times are the rows' times in microseconds since 1970 UTC, ascending within
// each span. Read-only.
func (t *Table) Times() []int64 { return t.times }

// Metrics lists the metrics that have a column, sorted.
func (t *Table) Metrics() []dhalion.Metric { return slices.Clone(t.metrics) }

// Values is the column of a metric, one value per row, NaN where unknown; nil
// when the table has no such column. Read-only and not copied.
func (t *Table) Values(m dhalion.Metric) []float64 {
	if i, ok := slices.BinarySearch(t.metrics, m); ok {
		return t.columns[i]
	}
	return nil
}

// Worker says where the instance of a row ran at the row's time, empty when that
// is not known or the rows are not about instances.
func (t *Table) Worker(row int) string {
	if t.workers == nil {
		return ""
	}
	return t.names[t.workers[row]]
}

// Known counts the values that are not NaN.
func (t *Table) Known() int {
	n := 0
	for _, column := range t.columns {
		for _, v := range column {
			if v == v {
				n++
			}
		}
	}
	return n
}

// Bounds are the earliest and the latest time of any row, in microseconds since
// 1970 UTC; false when there is no row.
func (t *Table) Bounds() (from, to int64, ok bool) {
	for i, s := range t.spans {
		first, last := t.times[s.Start], t.times[s.End-1]
		if i == 0 {
			from, to = first, last
		}
		from, to = min(from, first), max(to, last)
	}
	return from, to, len(t.spans) > 0
}

// Between keeps the rows with a time in (after, upTo]. It returns t itself when
// these are all.
func Between(t *Table, after, upTo time.Time) *Table {
	return t.between(after.UnixMicro(), upTo.UnixMicro())
}

// between keeps the rows with a time in (after, upTo], in microseconds.
func (t *Table) between(after, upTo int64) *Table {
	kept := make([]Span, 0, len(t.spans))
	rows := 0
	for _, s := range t.spans {
		lo := s.Start + sort.Search(s.End-s.Start, func(i int) bool { return t.times[s.Start+i] > after })
		hi := lo + sort.Search(s.End-lo, func(i int) bool { return t.times[lo+i] > upTo })
		if lo < hi {
			kept = append(kept, Span{s.Target, lo, hi})
			rows += hi - lo
		}
	}
	if rows == len(t.times) {
		return t
	}
	return t.pick(kept, rows).tidy()
}

// pick copies the rows of the given spans, which are in order.
func (t *Table) pick(spans []Span, rows int) *Table {
	out := &Table{job: t.job, kind: t.kind, metrics: t.metrics, names: t.names, spans: make([]Span, len(spans))}
	out.times = make([]int64, 0, rows)
	for i, s := range spans {
		out.spans[i] = Span{s.Target, len(out.times), len(out.times) + s.End - s.Start}
		out.times = append(out.times, t.times[s.Start:s.End]...)
	}
	if t.workers != nil {
		out.workers = make([]int32, 0, rows)
		for _, s := range spans {
			out.workers = append(out.workers, t.workers[s.Start:s.End]...)
		}
	}
	out.columns = make([][]float64, len(t.columns))
	for i, column := range t.columns {
		out.columns[i] = make([]float64, 0, rows)
		for _, s := range spans {
			out.columns[i] = append(out.columns[i], column[s.Start:s.End]...)
		}
	}
	return out
}

// Split cuts a table so that no part crosses midnight UTC or is larger than
// MaxCells: first by time, so that a window of it is in few parts, and where one
// instant alone is too large, by target. The parts together are the table.
func Split(t *Table) []*Table {
	times := slices.Clone(t.times)
	slices.Sort(times)
	var parts []*Table
	for _, c := range cuts(times, rowLimit(len(t.metrics))) {
		parts = append(parts, splitTargets(t.between(c.after, c.upTo))...)
	}
	return parts
}

// rowLimit is how many rows with that many metrics fit into a segment.
func rowLimit(metrics int) int { return max(1, MaxCells/(metrics+keyCells)) }

// cut is the times (after, upTo], in microseconds.
type cut struct{ after, upTo int64 }

// cuts divides sorted row times into stretches within one day of at most limit
// rows, unless a single instant has more.
func cuts(times []int64, limit int) []cut {
	var out []cut
	for start := 0; start < len(times); {
		end := min(start+limit, len(times))
		midnight := (day(times[start]) + 1) * microsPerDay
		end = max(start+1, start+sort.Search(end-start, func(i int) bool { return times[start+i] >= midnight }))
		if end < len(times) && times[end] == times[end-1] {
			// Rows of one instant stay together: go back to where it begins, or
			// when that is the start, forward to where it ends.
			instant := times[end]
			end = start + sort.Search(end-start, func(i int) bool { return times[start+i] >= instant })
			if end == start {
				end = start + sort.Search(len(times)-start, func(i int) bool { return times[start+i] > instant })
			}
		}
		out = append(out, cut{times[start] - 1, times[end-1]})
		start = end
	}
	return out
}

// splitTargets cuts a table by target where it is too large. A single target's
// rows come from at most rowLimit instants, so no target is cut.
func splitTargets(t *Table) []*Table {
	limit := rowLimit(len(t.metrics))
	if len(t.times) <= limit {
		return []*Table{t}
	}
	var parts []*Table
	for start := 0; start < len(t.spans); {
		end, rows := start, 0
		for end < len(t.spans) && (end == start || rows+t.spans[end].End-t.spans[end].Start <= limit) {
			rows += t.spans[end].End - t.spans[end].Start
			end++
		}
		parts = append(parts, t.pick(t.spans[start:end], rows))
		start = end
	}
	return parts
}

// day is the number of the UTC day of a time in microseconds, rounded down also
// before 1970.
func day(micros int64) int64 {
	d := micros / microsPerDay
	if micros%microsPerDay < 0 {
		d--
	}
	return d
}

// checkKind says why a target cannot be in a table.
func checkKind(job dhalion.JobID, kind dhalion.TargetKind) error {
	if job == "" {
		return fmt.Errorf("segment: table without a job")
	}
	if !kind.Valid() {
		return fmt.Errorf("segment: unknown kind of target %q", kind)
	}
	return nil
}
