package segment

import (
	"cmp"
	"math"
	"slices"

	"github.com/dhalion-go/dhalion"
)

// Builder collects the measurements of one job and one kind of target, in any
// order, until Build or Flush makes tables of them. It is not safe for use by
// several goroutines at once.
//
// It keeps 16 bytes a value: each series is a list of (time, value) that is
// sorted only at the end, and only when it came out of order.
type Builder struct {
	job     dhalion.JobID
	kind    dhalion.TargetKind
	targets map[dhalion.Target]*targetRows
	names   []string // worker names; names[0] is ""
	nameOf  map[string]int32
	values  int
	// Found while sorting; reset by Build and Flush.
	duplicates, conflicts int
}

// targetRows is what has come for one target.
type targetRows struct {
	target dhalion.Target
	series []*Series
}

// Series is the place of one metric of one target in a Builder. It stays valid
// over Build and Flush.
type Series struct {
	// What Add needs comes first: a poll goes through thousands of series, and
	// each is then one line of the processor's cache.
	points   []point
	builder  *Builder
	worker   int32 // of the last point; that of the last run
	unsorted bool
	expect   int // points that are likely to come
	runs     []run
	metric   dhalion.Metric
}

type point struct {
	at int64
	v  float64
}

// run says that the points from a number on were measured on a worker, until the
// next run. Instances seldom move, so this takes next to no room.
type run struct {
	from   int
	worker int32
}

// NewBuilder starts an empty table.
func NewBuilder(job dhalion.JobID, kind dhalion.TargetKind) *Builder {
	return &Builder{
		job:     job,
		kind:    kind,
		targets: map[dhalion.Target]*targetRows{},
		names:   []string{""},
		nameOf:  map[string]int32{"": 0},
	}
}

// Add takes one value. The target must be of the builder's job and kind; worker
// is where an instance ran, empty when unknown. NaN adds a row without a value.
func (b *Builder) Add(target dhalion.Target, worker string, atMicros int64, m dhalion.Metric, v float64) {
	b.Series(target, m).Add(b.Name(worker), atMicros, v)
}

// Name gives the number under which a Series takes a worker's name. Rows that
// are not about instances have no worker beside their target.
func (b *Builder) Name(worker string) int32 {
	if b.kind != dhalion.KindInstance {
		return 0
	}
	i, ok := b.nameOf[worker]
	if !ok {
		i = int32(len(b.names))
		b.names = append(b.names, worker)
		b.nameOf[worker] = i
	}
	return i
}

// Series finds or makes the place of a metric of a target. What uses it need not
// look the target up for every value.
func (b *Builder) Series(target dhalion.Target, m dhalion.Metric) *Series {
	rows := b.targets[target]
	if rows == nil {
		rows = &targetRows{target: target}
		b.targets[target] = rows
	}
	i, ok := slices.BinarySearchFunc(rows.series, m, func(s *Series, m dhalion.Metric) int { return cmp.Compare(s.metric, m) })
	if !ok {
		rows.series = slices.Insert(rows.series, i, &Series{builder: b, metric: m})
	}
	return rows.series[i]
}

// Add takes one value measured on the worker of that number; see Builder.Name.
func (s *Series) Add(worker int32, atMicros int64, v float64) {
	n := len(s.points)
	if n > 0 && atMicros <= s.points[n-1].at {
		s.unsorted = true
	}
	if worker != s.worker {
		s.runs = append(s.runs, run{n, worker})
		s.worker = worker
	}
	if n == 0 && s.points == nil && s.expect > 0 {
		s.points = make([]point, 0, s.expect)
	}
	// Adding zero turns -0 into 0, which is the same number in other bytes.
	s.points = append(s.points, point{atMicros, v + 0})
	s.builder.values++
}

// Len is the number of values since the last Build or Flush, duplicates included.
func (b *Builder) Len() int { return b.values }

// Build makes one table of what has come and empties the builder. Of several
// values for one (target, metric, time) the greatest is kept; conflicts counts
// those that differed from another. A row that turned up on two workers is kept
// on the one whose name sorts last, and is a conflict too.
func (b *Builder) Build() (t *Table, conflicts int) {
	b.prepare()
	t = b.table(cut{math.MinInt64, math.MaxInt64})
	conflicts = b.conflicts
	b.empty()
	return t, conflicts
}

// Flush makes tables of what has come, each within one UTC day and MaxCells, in
// order of time, gives them to emit one by one, and empties the builder.
// Duplicates are values that came again; conflicts as in Build. It stops at
// emit's first error.
func (b *Builder) Flush(emit func(*Table) error) (duplicates, conflicts int, err error) {
	b.prepare()
	var times []int64
	metrics := map[dhalion.Metric]bool{}
	for _, rows := range b.targets {
		times = append(times, rows.times(cut{math.MinInt64, math.MaxInt64})...)
		for _, s := range rows.series {
			if len(s.points) > 0 {
				metrics[s.metric] = true
			}
		}
	}
	slices.Sort(times)
	for _, c := range cuts(times, rowLimit(len(metrics))) {
		t := b.table(c)
		duplicates, conflicts = b.duplicates, b.conflicts
		for _, part := range splitTargets(t) {
			if err := emit(part); err != nil {
				return duplicates, conflicts, err
			}
		}
	}
	duplicates, conflicts = b.duplicates, b.conflicts
	b.empty()
	return duplicates, conflicts, nil
}

// empty drops what has come. Each series remembers how much that was, so that it
// makes room for the next as much at once: a history goes on as it began.
func (b *Builder) empty() {
	for _, rows := range b.targets {
		for _, s := range rows.series {
			s.expect = len(s.points)
			s.points, s.runs, s.worker, s.unsorted = nil, nil, 0, false
		}
	}
	b.values, b.duplicates, b.conflicts = 0, 0, 0
}

// Forget drops what Build and Flush left of how much to expect, in memory that
// several builders share.
func (b *Builder) Forget() {
	for _, rows := range b.targets {
		for _, s := range rows.series {
			s.expect = 0
		}
	}
}

// prepare sorts every series and settles several values for one time.
func (b *Builder) prepare() {
	for _, rows := range b.targets {
		for _, s := range rows.series {
			if s.unsorted {
				s.settle()
			}
		}
	}
}

// settle sorts the points by time, keeps the greatest of one time, and brings
// the runs of workers into the same order.
func (s *Series) settle() {
	s.unsorted = false
	b := s.builder
	if len(s.runs) <= 1 && (len(s.runs) == 0 || s.runs[0].from == 0) {
		// One worker, or none, for all: nothing but the points to sort.
		slices.SortFunc(s.points, comparePoints)
		out := s.points[:0]
		for _, p := range s.points {
			if n := len(out); n > 0 && out[n-1].at == p.at {
				b.again(&out[n-1], p)
				continue
			}
			out = append(out, p)
		}
		s.points = out
		return
	}
	type placed struct {
		point
		worker int32
	}
	all := make([]placed, len(s.points))
	next, worker := 0, int32(0)
	for i, p := range s.points {
		for next < len(s.runs) && s.runs[next].from <= i {
			worker = s.runs[next].worker
			next++
		}
		all[i] = placed{p, worker}
	}
	slices.SortFunc(all, func(x, y placed) int {
		return cmp.Or(comparePoints(x.point, y.point), cmp.Compare(b.names[x.worker], b.names[y.worker]))
	})
	s.points, s.runs, s.worker = s.points[:0], s.runs[:0], 0
	for i := 0; i < len(all); {
		keep := all[i]
		j := i + 1
		for ; j < len(all) && all[j].at == keep.at; j++ {
			b.again(&keep.point, all[j].point)
			keep.worker = b.settleWorker(keep.worker, all[j].worker)
		}
		if keep.worker != s.worker {
			s.runs = append(s.runs, run{len(s.points), keep.worker})
			s.worker = keep.worker
		}
		s.points = append(s.points, keep.point)
		i = j
	}
}

// comparePoints orders by time, then value, NaN first.
func comparePoints(a, b point) int {
	if a.at != b.at {
		return cmp.Compare(a.at, b.at)
	}
	return cmp.Compare(a.v, b.v)
}

// again lays a second value of the same time, not less than the first, over it.
func (b *Builder) again(kept *point, p point) {
	switch {
	case p.v != p.v:
	case kept.v != kept.v:
	case kept.v == p.v:
		b.duplicates++
	default:
		b.conflicts++
	}
	if p.v == p.v {
		kept.v = p.v
	}
}

// settleWorker chooses between two workers of one row.
func (b *Builder) settleWorker(x, y int32) int32 {
	switch {
	case x == y || y == 0:
		return x
	case x == 0:
		return y
	}
	b.conflicts++
	if b.names[x] < b.names[y] {
		return y
	}
	return x
}

// within is the range of the points with a time in c.
func (s *Series) within(c cut) (lo, hi int) {
	if n := len(s.points); n == 0 || c.after < s.points[0].at && s.points[n-1].at <= c.upTo {
		return 0, n
	}
	after := func(p point, at int64) int {
		if p.at > at {
			return 1
		}
		return -1
	}
	lo, _ = slices.BinarySearchFunc(s.points, c.after, after)
	hi, _ = slices.BinarySearchFunc(s.points, c.upTo, after)
	return lo, hi
}

// times is the union of the series' times within c, sorted.
func (r *targetRows) times(c cut) []int64 {
	var union, spare []int64
	for _, s := range r.series {
		lo, hi := s.within(c)
		points := s.points[lo:hi]
		if len(points) == 0 || sameTimes(union, points) {
			continue
		}
		merged := spare[:0]
		i := 0
		for _, p := range points {
			for i < len(union) && union[i] < p.at {
				merged = append(merged, union[i])
				i++
			}
			if i < len(union) && union[i] == p.at {
				i++
			}
			merged = append(merged, p.at)
		}
		merged = append(merged, union[i:]...)
		union, spare = merged, union
	}
	return union
}

func sameTimes(times []int64, points []point) bool {
	if len(times) != len(points) {
		return false
	}
	for i, p := range points {
		if times[i] != p.at {
			return false
		}
	}
	return true
}

// table makes the rows with a time in c. Every series must be settled.
func (b *Builder) table(c cut) *Table {
	t := &Table{job: b.job, kind: b.kind}
	targets := make([]*targetRows, 0, len(b.targets))
	for _, rows := range b.targets {
		targets = append(targets, rows)
	}
	slices.SortFunc(targets, func(x, y *targetRows) int { return x.target.Compare(y.target) })

	known := map[dhalion.Metric]bool{}
	placed := false
	kept := targets[:0]
	for _, rows := range targets {
		times := rows.times(c)
		if len(times) == 0 {
			continue
		}
		kept = append(kept, rows)
		t.spans = append(t.spans, Span{rows.target, len(t.times), len(t.times) + len(times)})
		t.times = append(t.times, times...)
		for _, s := range rows.series {
			if lo, hi := s.within(c); lo < hi {
				known[s.metric] = true
			}
			placed = placed || len(s.runs) > 0
		}
	}
	for m := range known {
		t.metrics = append(t.metrics, m)
	}
	slices.Sort(t.metrics)
	t.columns = make([][]float64, len(t.metrics))
	for i := range t.columns {
		t.columns[i] = make([]float64, len(t.times))
		fillUnknown(t.columns[i])
	}
	if placed {
		t.names = b.names
		t.workers = make([]int32, len(t.times))
	}
	for i, rows := range kept {
		span := t.spans[i]
		times := t.times[span.Start:span.End]
		for _, s := range rows.series {
			lo, hi := s.within(c)
			if lo == hi {
				continue
			}
			k, _ := slices.BinarySearch(t.metrics, s.metric)
			column := t.columns[k][span.Start:span.End]
			points := s.points[lo:hi]
			if len(points) == len(times) {
				// As many times as the union has: the same times.
				for j, p := range points {
					column[j] = p.v
				}
			} else {
				row := 0
				for _, p := range points {
					for times[row] != p.at {
						row++
					}
					column[row] = p.v
				}
			}
			if len(s.runs) > 0 {
				b.place(t.workers[span.Start:span.End], times, s, lo, hi)
			}
		}
	}
	return t.tidy()
}

// place writes the workers of a series' points [lo, hi) into the rows.
func (b *Builder) place(workers []int32, times []int64, s *Series, lo, hi int) {
	row, next, worker := 0, 0, int32(0)
	for i := lo; i < hi; i++ {
		for next < len(s.runs) && s.runs[next].from <= i {
			worker = s.runs[next].worker
			next++
		}
		for times[row] != s.points[i].at {
			row++
		}
		workers[row] = b.settleWorker(workers[row], worker)
	}
}

// tidy brings a table into the one form that its content has: no column without
// a known value, no row without a value or worker, worker names sorted and each
// in use. Then equal contents are equal tables.
func (t *Table) tidy() *Table {
	out := *t // tables share their parts: nothing of t itself may change
	t = &out
	metrics, columns := t.metrics, t.columns
	t.metrics, t.columns = make([]dhalion.Metric, 0, len(metrics)), make([][]float64, 0, len(columns))
	for i, column := range columns {
		if slices.ContainsFunc(column, func(v float64) bool { return v == v }) {
			t.metrics, t.columns = append(t.metrics, metrics[i]), append(t.columns, column)
		}
	}
	t.tidyNames()
	if !t.hasBareRow() {
		return t
	}
	var spans []Span
	rows := 0
	for _, s := range t.spans {
		start := -1
		for row := s.Start; row <= s.End; row++ {
			bare := row == s.End || t.bare(row)
			switch {
			case bare && start >= 0:
				spans = append(spans, Span{s.Target, start, row})
				rows += row - start
				start = -1
			case !bare && start < 0:
				start = row
			}
		}
	}
	full := t.pick(spans, rows)
	joined := full.spans[:0]
	for _, s := range full.spans {
		if n := len(joined); n > 0 && joined[n-1].Target == s.Target {
			joined[n-1].End = s.End
			continue
		}
		joined = append(joined, s)
	}
	full.spans = joined
	return full
}

// bare reports whether a row says nothing.
func (t *Table) bare(row int) bool {
	if t.workers != nil && t.workers[row] != 0 {
		return false
	}
	for _, column := range t.columns {
		if column[row] == column[row] {
			return false
		}
	}
	return true
}

func (t *Table) hasBareRow() bool {
	if len(t.times) == 0 {
		return false
	}
	for _, column := range t.columns {
		// Most tables have a metric that every row knows.
		if !slices.ContainsFunc(column, func(v float64) bool { return v != v }) {
			return false
		}
	}
	for row := range t.times {
		if t.bare(row) {
			return true
		}
	}
	return false
}

// tidyNames keeps the worker names that are in use, sorted, after "".
func (t *Table) tidyNames() {
	if t.workers == nil {
		t.names = nil
		return
	}
	used := make([]bool, len(t.names))
	for _, w := range t.workers {
		used[w] = true
	}
	order := make([]int32, 0, len(t.names))
	for i := 1; i < len(used); i++ {
		if used[i] {
			order = append(order, int32(i))
		}
	}
	if len(order) == 0 {
		t.names, t.workers = nil, nil
		return
	}
	slices.SortFunc(order, func(x, y int32) int { return cmp.Compare(t.names[x], t.names[y]) })
	names := make([]string, 1, len(order)+1)
	number := make([]int32, len(t.names))
	changed := len(order)+1 != len(t.names)
	for _, old := range order {
		changed = changed || int(old) != len(names)
		number[old] = int32(len(names))
		names = append(names, t.names[old])
	}
	t.names = names
	if !changed {
		return
	}
	workers := make([]int32, len(t.workers))
	for i, w := range t.workers {
		workers[i] = number[w]
	}
	t.workers = workers
}

func fillUnknown(column []float64) {
	nan := math.NaN()
	for i := range column {
		column[i] = nan
	}
}
