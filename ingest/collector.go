package ingest

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/ingest/segment"
	"github.com/dhalion-go/dhalion/internal/spell"
)

// The repairs that every source can have made, as they are counted in
// Report.Repairs. A source may count others of its own.
const (
	Duplicate    = "duplicate"     // a value that came again
	Conflict     = "conflict"      // another value for the same target, metric and time: the greater is kept
	OutOfOrder   = "out_of_order"  // a measurement earlier than one of the same target before it: sorted in
	Clamped      = "clamped"       // a fraction a little outside 0 to 1: brought to the edge
	MissingValue = "missing_value" // a place for a value with none in it: unknown
	SkippedRow   = "skipped_row"   // a broken row that the caller allowed to skip
)

const (
	// DefaultMaxValues holds about 64 MiB of values before they become segments.
	DefaultMaxValues = 4 << 20

	// MaxTargets bounds the targets, and the names of workers, that a collector
	// remembers. A history with more has most likely a column of unique ids where
	// names should be.
	MaxTargets = 200_000

	// MaxInstance is far above the parallelism that any engine allows (Flink's
	// is 32,768).
	MaxInstance = 1<<20 - 1

	maxName = 1024 // bytes

	// fractionNoise is how far outside 0 to 1 a fraction is still taken for the
	// edge: engines divide counters by clocks that were read at another moment,
	// and 1.02 busy happens. What is further off is in another unit.
	fractionNoise = 0.05

	keepSkipped = 20
)

var (
	minMicros = time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC).UnixMicro()
	maxMicros = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC).UnixMicro() - 1
)

// Options are the limits of a Collector.
type Options struct {
	// MaxValues is how many values are held before they become segments; 0 is
	// DefaultMaxValues. What is stored does not depend on it: only into how many
	// segments it is cut, and whether a value that comes twice is counted here or
	// settled when segments are merged.
	MaxValues int
}

// Report says what an ingest did.
type Report struct {
	Rows      int             `json:"rows"`     // rows of all segments: (target, time) pairs
	Values    int             `json:"values"`   // known values of all segments
	Segments  int             `json:"segments"` // segments handed on
	Jobs      []dhalion.JobID `json:"jobs"`     // sorted
	Targets   int             `json:"targets"`  // distinct targets of all jobs
	From      time.Time       `json:"from"`     // time of the earliest value, UTC; zero when there is none
	To        time.Time       `json:"to"`       // time of the latest value, UTC
	Repairs   map[string]int  `json:"repairs"`  // how often, by kind
	Conflicts int             `json:"conflicts"`
	Skipped   []RowError      `json:"skipped"` // the first 20; Repairs["skipped_row"] counts them all
}

// Collector takes measurements in any order, refuses broken ones, and hands
// segments on whenever MaxValues are held. It is not safe for use by several
// goroutines at once.
type Collector struct {
	ctx      context.Context
	out      Out
	max      int
	buffered int
	tables   map[tableKey]*table
	targets  map[dhalion.Target]*target
	workers  map[string]bool
	rep      Report
	order    int // measurements out of order
	clamped  int
	from, to int64
}

type tableKey struct {
	job  dhalion.JobID
	kind dhalion.TargetKind
}

type table struct {
	key     tableKey
	builder *segment.Builder
	expects bool // the builder makes room ahead
}

type target struct {
	newest int64
	table  *table
	target dhalion.Target
}

// Handle is the place of one metric of one target on one worker in a Collector.
// A source that yields millions of values looks it up once and then uses AddAt.
type Handle struct {
	target *target
	series *segment.Series
	worker int32
	// top is the greatest value that needs no second look.
	top float64
}

// Valid reports whether h came from Series.
func (h Handle) Valid() bool { return h.series != nil }

// NewCollector is an empty collector that hands on to out.
func NewCollector(out Out, opts Options) *Collector {
	c := &Collector{
		ctx:     context.Background(),
		out:     out,
		max:     opts.MaxValues,
		tables:  map[tableKey]*table{},
		targets: map[dhalion.Target]*target{},
		workers: map[string]bool{},
		rep:     Report{Repairs: map[string]int{}},
		from:    math.MaxInt64,
		to:      math.MinInt64,
	}
	if c.max <= 0 {
		c.max = DefaultMaxValues
	}
	return c
}

// Series looks up the place of a metric of a target. Worker is where an instance
// ran, empty when that is not known; for other kinds of target it has no
// meaning. The error says what is wrong with the target or metric; names must
// have come trimmed.
func (c *Collector) Series(x dhalion.Target, worker string, m dhalion.Metric) (Handle, error) {
	if !m.Valid() {
		return Handle{}, unknownMetric(m)
	}
	t := c.targets[x]
	if t == nil {
		if err := checkTarget(x); err != nil {
			return Handle{}, err
		}
		if len(c.targets) >= MaxTargets {
			return Handle{}, fmt.Errorf("more than %d targets: is a column of unique ids taken for names?", MaxTargets)
		}
		key := tableKey{x.Job, x.Kind}
		own := c.tables[key]
		if own == nil {
			own = &table{key: key, builder: segment.NewBuilder(x.Job, x.Kind)}
			c.tables[key] = own
		}
		t = &target{target: x, table: own, newest: math.MinInt64}
		c.targets[x] = t
	}
	if !c.workers[worker] {
		if err := checkName("worker", worker, true); err != nil {
			return Handle{}, err
		}
		if len(c.workers) >= MaxTargets {
			return Handle{}, fmt.Errorf("more than %d workers: is a column of unique ids taken for names?", MaxTargets)
		}
		c.workers[worker] = true
	}
	h := Handle{target: t, series: t.table.builder.Series(x, m), worker: t.table.builder.Name(worker), top: math.MaxFloat64}
	if m.Fraction() {
		h.top = 1
	}
	return h, nil
}

// Add takes one measurement. An error says why it is broken: an unknown metric,
// a broken target, a value that is NaN, infinite, negative or no fraction, a time
// outside the years 1 to 9999. Errors of Out come through it too, as *OutError.
func (c *Collector) Add(m dhalion.Measurement) error {
	h, err := c.Series(m.Target, m.Worker, m.Metric)
	if err != nil {
		return err
	}
	// A time.Time can be so far off that its microseconds do not fit.
	if y := m.Time.UTC().Year(); y < 1 || y > 9999 {
		return fmt.Errorf("the year %d is outside 1 to 9999", y)
	}
	return c.AddAt(h, m.Time.UnixMicro(), m.Value)
}

// AddAt is Add for a place that Series found; at is in microseconds since 1970
// UTC.
func (c *Collector) AddAt(h Handle, at int64, v float64) error {
	if !(v >= 0 && v <= h.top) {
		var err error
		if v, err = h.repair(v); err != nil {
			return err
		}
		c.clamped++
	}
	if at < minMicros || at > maxMicros {
		return fmt.Errorf("the time is outside the years 1 to 9999")
	}
	if t := h.target; at >= t.newest {
		if at != t.newest { // a target's metrics come together: one write for all
			t.newest = at
			c.from, c.to = min(c.from, at), max(c.to, at)
		}
	} else {
		c.order++
		c.from = min(c.from, at)
	}
	h.series.Add(h.worker, at, v)
	c.buffered++
	if c.buffered >= c.max {
		return c.flush(c.ctx, c.max/2)
	}
	return nil
}

// Accepts says what is wrong with a value, as AddAt would, without adding it.
func (h Handle) Accepts(v float64) error {
	if v >= 0 && v <= h.top {
		return nil
	}
	_, err := h.repair(v)
	return err
}

// repair brings a value a little outside its range to the edge, or says what is
// wrong with it.
func (h Handle) repair(v float64) (float64, error) {
	fraction := h.top == 1
	switch {
	case v != v:
		return 0, fmt.Errorf("the value is NaN")
	case math.IsInf(v, 0):
		return 0, fmt.Errorf("the value is infinite")
	case fraction && v > 1 && v <= 1+fractionNoise:
		return 1, nil
	case v < 0 && fraction && v >= -fractionNoise:
		return 0, nil
	case fraction:
		return 0, fmt.Errorf("the value %v is no fraction of 0 to 1", v)
	default:
		return 0, fmt.Errorf("the value %v is negative", v)
	}
}

// Topology hands a topology on, sorted. It is refused when it contradicts itself.
func (c *Collector) Topology(job dhalion.JobID, t dhalion.Topology) error {
	if err := checkTarget(dhalion.JobTarget(job)); err != nil {
		return err
	}
	t.Components, t.Edges, t.Placement = slices.Clone(t.Components), slices.Clone(t.Edges), slices.Clone(t.Placement)
	t.Normalize()
	if err := t.Validate(); err != nil {
		return err
	}
	if !slices.Contains(c.rep.Jobs, job) {
		c.rep.Jobs = append(c.rep.Jobs, job)
	}
	if c.out.Topology == nil {
		return nil
	}
	if err := c.out.Topology(c.ctx, job, t); err != nil {
		return &OutError{err}
	}
	return nil
}

// Repaired counts n repairs of a kind that the source made itself.
func (c *Collector) Repaired(kind string, n int) {
	if n > 0 {
		c.rep.Repairs[kind] += n
	}
}

// Skip records a broken row that the caller allowed to skip.
func (c *Collector) Skip(e RowError) {
	c.Repaired(SkippedRow, 1)
	if len(c.rep.Skipped) < keepSkipped {
		c.rep.Skipped = append(c.rep.Skipped, e)
	}
}

// Close hands on what is still held and reports. The collector is empty then.
func (c *Collector) Close(ctx context.Context) (Report, error) {
	err := c.flush(ctx, 0)
	return c.report(), err
}

// OutError is an error of what takes the segments, not of the input: no row is
// to blame and none can be skipped.
type OutError struct{ Err error }

// Error is the message of what it wraps.
func (e *OutError) Error() string { return e.Err.Error() }

// Unwrap gives the error of Out.
func (e *OutError) Unwrap() error { return e.Err }

// flush makes segments of the fullest tables until at most left values are held.
func (c *Collector) flush(ctx context.Context, left int) error {
	order := make([]*table, 0, len(c.tables))
	for _, t := range c.tables {
		order = append(order, t)
	}
	slices.SortFunc(order, func(a, b *table) int {
		return cmp.Or(
			cmp.Compare(b.builder.Len(), a.builder.Len()),
			cmp.Compare(a.key.job, b.key.job),
			cmp.Compare(a.key.kind, b.key.kind),
		)
	})
	for _, t := range order {
		n := t.builder.Len()
		if n == 0 || c.buffered <= left {
			break
		}
		duplicates, conflicts, err := t.builder.Flush(func(part *segment.Table) error { return c.emit(ctx, part) })
		if err != nil {
			return &OutError{err}
		}
		c.Repaired(Duplicate, duplicates)
		c.Repaired(Conflict, conflicts)
		c.rep.Conflicts += conflicts
		c.buffered -= n
		c.expect(t)
	}
	return nil
}

// expect lets only the table flushed last make room ahead: of several, all
// would make it for values that come to one.
func (c *Collector) expect(flushed *table) {
	for _, t := range c.tables {
		if t != flushed && t.expects {
			t.builder.Forget()
			t.expects = false
		}
	}
	flushed.expects = true
}

func (c *Collector) emit(ctx context.Context, t *segment.Table) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s, err := segment.Encode(t)
	if err != nil {
		return err
	}
	c.rep.Rows += s.Rows
	c.rep.Values += s.Values
	c.rep.Segments++
	if c.out.Segment == nil {
		return nil
	}
	return c.out.Segment(ctx, s)
}

func (c *Collector) report() Report {
	c.Repaired(OutOfOrder, c.order)
	c.Repaired(Clamped, c.clamped)
	c.order, c.clamped = 0, 0
	for key := range c.tables {
		if !slices.Contains(c.rep.Jobs, key.job) {
			c.rep.Jobs = append(c.rep.Jobs, key.job)
		}
	}
	slices.Sort(c.rep.Jobs)
	c.rep.Targets = len(c.targets)
	if c.from <= c.to {
		c.rep.From, c.rep.To = time.UnixMicro(c.from).UTC(), time.UnixMicro(c.to).UTC()
	}
	return c.rep
}

func checkTarget(x dhalion.Target) error {
	if err := checkName("job", string(x.Job), false); err != nil {
		return err
	}
	if x.Job.Name() == "" || x.Job.Engine() == "" {
		return fmt.Errorf("the job %q is not ENGINE/NAME", x.Job)
	}
	hasComponent := x.Kind == dhalion.KindComponent || x.Kind == dhalion.KindInstance
	switch {
	case !x.Kind.Valid():
		return fmt.Errorf("unknown kind of target %q", x.Kind)
	case !hasComponent && x.Component != "", x.Kind != dhalion.KindInstance && x.Instance != 0, x.Kind != dhalion.KindWorker && x.Worker != "":
		return fmt.Errorf("a target of kind %s has parts that do not belong to it", x.Kind)
	case x.Instance < 0:
		return fmt.Errorf("the instance %d is negative", x.Instance)
	case x.Instance > MaxInstance:
		return fmt.Errorf("the instance %d is above %d", x.Instance, MaxInstance)
	}
	if hasComponent {
		return checkName("component", x.Component, false)
	}
	if x.Kind == dhalion.KindWorker {
		return checkName("worker", x.Worker, false)
	}
	return nil
}

// checkName keeps out what would break logs, terminals and files downstream.
func checkName(what, name string, mayBeEmpty bool) error {
	switch {
	case name == "" && !mayBeEmpty:
		return fmt.Errorf("the %s is empty", what)
	case len(name) > maxName:
		return fmt.Errorf("the %s has %d bytes, more than %d", what, len(name), maxName)
	case !utf8.ValidString(name):
		return fmt.Errorf("the %s is not UTF-8", what)
	case strings.TrimSpace(name) != name:
		return fmt.Errorf("the %s %q has space around it", what, name)
	case strings.ContainsFunc(name, unicode.IsControl):
		return fmt.Errorf("the %s %q has a control character in it", what, name)
	}
	return nil
}

func unknownMetric(m dhalion.Metric) error {
	if near := NearestMetric(string(m)); near != "" {
		return fmt.Errorf("unknown metric %q; did you mean %s?", m, near)
	}
	return fmt.Errorf("unknown metric %q", m)
}

// NearestMetric is the metric of the catalogue that a misspelt name may have
// meant: the one with the fewest letters to change, if that is at most a third
// of them, or the first that begins with it. Empty when there is none.
func NearestMetric(name string) dhalion.Metric {
	if len(name) < 3 || len(name) > 64 {
		return ""
	}
	name = strings.ToLower(name)
	best, least := dhalion.Metric(""), max(2, len(name)/3)+1
	for _, info := range dhalion.Metrics {
		if d := spell.Distance(name, string(info.Name)); d < least {
			best, least = info.Name, d
		}
	}
	if best != "" {
		return best
	}
	for _, info := range dhalion.Metrics {
		if strings.HasPrefix(string(info.Name), name) {
			return info.Name
		}
	}
	return ""
}

// CheckName says what is wrong with a name of a component, worker or job: empty,
// too long, not UTF-8, space around it or a control character in it. What is
// the word for it in the error.
func CheckName(what, name string) error { return checkName(what, name, false) }
