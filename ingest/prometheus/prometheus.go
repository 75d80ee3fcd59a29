// Package prometheus reads histories out of a Prometheus by PromQL: a mapping
// says which query gives which metric and which labels name the target.
//
// A range is asked for in pieces: Prometheus refuses more than 11,000 steps at
// once, and an answer is held in memory whole, so that one that breaks off can be
// asked for again and is taken once. How many steps a piece has follows from how
// many values the piece before it gave.
package prometheus

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/ingest"
	"github.com/dhalion-go/dhalion/internal/engine/prometheus"
)

// What a Reader leaves out, as it is counted in ingest.Report.Repairs. A NaN is
// counted as ingest.MissingValue.
const (
	InfiniteValue   = "infinite_value"   // +Inf or -Inf
	ImpossibleValue = "impossible_value" // a negative one, or no fraction where one should be
	UnusableSeries  = "unusable_series"  // its labels do not name a target; Report.Skipped says why
	EmptyQuery      = "empty_query"      // a query with no series in the range
)

const (
	firstPoints = 500     // of the first piece of a query
	wantValues  = 200_000 // of a piece: some 6 MiB of JSON
	maxReasons  = 20      // of unusable series that are told, a range
)

// Asker is what answers range queries: *prometheus.Client.
type Asker interface {
	QueryRange(ctx context.Context, r prometheus.Range) ([]byte, error)
}

// Options say what is read and how it is named.
type Options struct {
	Engine   string             // first part of the jobs' ids
	Job      string             // only the job of this name; series that name none are its own
	Step     time.Duration      // between two times; whole milliseconds
	Topology []dhalion.Topology // of the one job; none: derived from the targets seen
}

// Reader reads ranges of one Prometheus, one after the other. It remembers which
// topologies were told, so that a poll tells changes only. It is not safe for use
// by several goroutines at once.
type Reader struct {
	from    Asker
	mapping *Mapping
	opts    Options
	told    map[dhalion.JobID]dhalion.Topology
	pending map[dhalion.JobID]dhalion.Topology
	smaller map[dhalion.JobID]time.Time // since when fewer instances are seen than were told
}

// NewReader reads with a mapping's queries. The step must be at least a
// millisecond.
func NewReader(from Asker, m *Mapping, o Options) (*Reader, error) {
	if o.Step < time.Millisecond || o.Step%time.Millisecond != 0 {
		return nil, fmt.Errorf("prometheus: the step %s is not of whole milliseconds", o.Step)
	}
	return &Reader{
		from: from, mapping: m, opts: o,
		told: map[dhalion.JobID]dhalion.Topology{}, smaller: map[dhalion.JobID]time.Time{},
	}, nil
}

// Align is the latest multiple of the step, since 1970, that is not after at: the
// times of one range are also those of every other, and reading one again gives
// equal values.
func (r *Reader) Align(at time.Time) time.Time {
	ms, step := at.UnixMilli(), r.opts.Step.Milliseconds()
	rest := ms % step
	if rest < 0 {
		rest += step
	}
	return time.UnixMilli(ms - rest).UTC()
}

// Range is the history at the multiples of the step from one time to another,
// both inclusive. Queries of workers are asked last: a worker's metrics that name
// no job are those of every job with an instance there. An error names the
// mapping's line and what Prometheus said.
func (r *Reader) Range(from, to time.Time) ingest.Source {
	return ingest.SourceFunc(func(ctx context.Context, collector *ingest.Collector) error {
		first, last := r.Align(from), r.Align(to)
		if first.Before(from) {
			first = first.Add(r.opts.Step)
		}
		g := &gathering{
			reader: r, to: collector, jobs: map[dhalion.JobID]*gathered{}, hosts: map[string]map[dhalion.JobID]bool{}, warned: map[string]bool{},
		}
		order := slices.Clone(r.mapping.Queries)
		slices.SortStableFunc(order, func(a, b Query) int { return cmp.Compare(rank(a), rank(b)) })
		for _, q := range order {
			if err := g.query(ctx, q, first, last); err != nil {
				return err
			}
		}
		return g.topologies(last)
	})
}

func rank(q Query) int {
	if q.Target == dhalion.KindWorker {
		return 1
	}
	return 0
}

// Stored says that what the last Range gave is kept: its topologies need not be
// told again.
func (r *Reader) Stored() {
	maps.Copy(r.told, r.pending)
	r.pending = nil
}

// gathering is one range on its way into a collector.
type gathering struct {
	reader  *Reader
	to      *ingest.Collector
	jobs    map[dhalion.JobID]*gathered
	hosts   map[string]map[dhalion.JobID]bool // worker: jobs with an instance there
	reasons int
	warned  map[string]bool
	values  int
}

// gathered is what a range said of one job.
type gathered struct {
	first      int64          // µs
	components map[string]int // greatest instance; 0 for a component seen as a whole
}

// query asks for one query's whole range, piece by piece.
func (g *gathering) query(ctx context.Context, q Query, first, last time.Time) error {
	step := g.reader.opts.Step
	text := q.text(step, g.reader.mapping.Window)
	points, series := firstPoints, 0
	for at := first; !at.After(last); {
		end := at.Add(time.Duration(points-1) * step)
		if end.After(last) {
			end = last
		}
		piece := prometheus.Range{Query: text, From: at, To: end, Step: step}
		body, err := g.reader.from.QueryRange(ctx, piece)
		if tooLarge(err) && piece.Points() > 1 {
			points = piece.Points() / 2
			continue
		}
		if err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return g.wrap(q, fmt.Errorf("ask for %s to %s: %w", at.Format(time.RFC3339), end.Format(time.RFC3339), err))
		}
		before := g.values
		n, err := g.answer(q, body)
		if err != nil {
			return g.wrap(q, err)
		}
		series += n
		at = end.Add(step)
		points = prometheus.MaxPoints
		if got := g.values - before; got > 0 {
			points = min(points, max(1, piece.Points()*wantValues/got))
		}
	}
	if series == 0 {
		g.to.Repaired(EmptyQuery, 1)
	}
	return nil
}

func (g *gathering) wrap(q Query, err error) error {
	return fmt.Errorf("%s:%d: %s: %w", g.reader.mapping.File, q.Line, q.Metric, err)
}

// tooLarge reports whether half the range may be answered.
func tooLarge(err error) bool {
	var large *prometheus.TooLargeError
	var refused *prometheus.APIError
	return errors.As(err, &large) || errors.As(err, &refused) && refused.TooLarge()
}

// answer gives an answer's values to the collector and counts its series.
func (g *gathering) answer(q Query, body []byte) (series int, err error) {
	a, err := prometheus.Decode(bytes.NewReader(body), func(labels map[string]string) (prometheus.Values, error) {
		found, worker, err := g.targets(q, labels)
		if err != nil {
			g.skip(q, labels, err)
			return nil, nil
		}
		places, jobs := make([]ingest.Handle, len(found)), make([]*gathered, len(found))
		for i, x := range found {
			if places[i], err = g.to.Series(x, worker, q.Metric); err != nil {
				g.skip(q, labels, err)
				return nil, nil
			}
			jobs[i] = g.seen(x, worker)
		}
		return func(at int64, v float64) error {
			v *= q.Scale
			switch {
			case v != v:
				g.to.Repaired(ingest.MissingValue, len(places))
				return nil
			case math.IsInf(v, 0):
				g.to.Repaired(InfiniteValue, len(places))
				return nil
			}
			for i, place := range places {
				if place.Accepts(v) != nil {
					g.to.Repaired(ImpossibleValue, 1)
					continue
				}
				if err := g.to.AddAt(place, at, v); err != nil {
					return err
				}
				jobs[i].first = min(jobs[i].first, at)
			}
			return nil
		}, nil
	})
	g.values += a.Values
	for _, w := range a.Warnings {
		g.warn(q, w)
	}
	return a.Series, err
}

// warn passes on what Prometheus says an answer lacks, once for each query.
func (g *gathering) warn(q Query, warning string) {
	reason := fmt.Sprintf("%s: Prometheus warns: %s", q.Metric, warning)
	if g.warned[reason] || len(g.warned) == maxReasons {
		return
	}
	g.warned[reason] = true
	g.to.Skip(ingest.RowError{File: g.reader.mapping.File, Line: q.Line, Reason: reason})
}

// skip leaves a series out and says why, the first few times.
func (g *gathering) skip(q Query, labels map[string]string, reason error) {
	g.to.Repaired(UnusableSeries, 1)
	if g.reasons++; g.reasons > maxReasons {
		return
	}
	g.to.Skip(ingest.RowError{File: g.reader.mapping.File, Line: q.Line, Reason: fmt.Sprintf("%s of %s: %v", q.Metric, short(labels), reason)})
}

// short writes labels as PromQL does, not too many of them.
func short(labels map[string]string) string {
	var b strings.Builder
	for i, name := range slices.Sorted(maps.Keys(labels)) {
		if b.Len() > 200 {
			b.WriteString(", …")
			break
		}
		if i > 0 {
			b.WriteString(", ")
		}
		value := labels[name]
		if len(value) > 60 {
			value = strings.ToValidUTF8(value[:60], "") + "…"
		}
		fmt.Fprintf(&b, "%s=%q", name, value)
	}
	return "{" + b.String() + "}"
}

// targets are what a series is about: one target, as a rule; of a worker whose
// labels name no job, one for each job with an instance there. None is no error:
// the series belongs to jobs that are not asked for.
func (g *gathering) targets(q Query, labels map[string]string) (found []dhalion.Target, worker string, err error) {
	name, named := g.reader.opts.Job, false
	if q.Labels.Job != "" && labels[q.Labels.Job] != "" {
		name, named = strings.TrimSpace(labels[q.Labels.Job]), true
		if g.reader.opts.Job != "" && name != g.reader.opts.Job {
			return nil, "", nil
		}
	}
	if q.Labels.Worker != "" {
		worker = strings.TrimSpace(labels[q.Labels.Worker])
	}
	if q.Target == dhalion.KindWorker {
		if worker == "" {
			return nil, "", fmt.Errorf("it has no label %s for the worker", q.Labels.Worker)
		}
		if !named {
			for job := range g.hosts[worker] {
				found = append(found, dhalion.WorkerTarget(job, worker))
			}
			slices.SortFunc(found, dhalion.Target.Compare)
			// Where instances name no worker, all are the job's that is asked for.
			if len(found) > 0 || len(g.hosts) > 0 || name == "" {
				return found, "", nil
			}
		}
	}
	if name == "" {
		if q.Labels.Job == "" {
			return nil, "", errors.New("the mapping has no label for the job: name it with --job")
		}
		return nil, "", fmt.Errorf("it has no label %s for the job", q.Labels.Job)
	}
	job := dhalion.JobID(g.reader.opts.Engine + "/" + name)
	if q.Target == dhalion.KindWorker {
		return []dhalion.Target{dhalion.WorkerTarget(job, worker)}, "", nil
	}
	if q.Target == dhalion.KindJob {
		return []dhalion.Target{dhalion.JobTarget(job)}, "", nil
	}
	component := strings.TrimSpace(labels[q.Labels.Component])
	if component == "" {
		return nil, "", fmt.Errorf("it has no label %s for the component", q.Labels.Component)
	}
	if q.Target == dhalion.KindComponent {
		return []dhalion.Target{dhalion.ComponentTarget(job, component)}, "", nil
	}
	number, ok := labels[q.Labels.Instance]
	if !ok || number == "" {
		return nil, "", fmt.Errorf("it has no label %s for the instance", q.Labels.Instance)
	}
	instance, err := strconv.Atoi(number)
	if err != nil || instance < 0 || instance > ingest.MaxInstance {
		return nil, "", fmt.Errorf("its label %s is no number of an instance", q.Labels.Instance)
	}
	return []dhalion.Target{dhalion.InstanceTarget(job, component, instance)}, worker, nil
}

// seen remembers what a series says of its job's topology and workers.
func (g *gathering) seen(x dhalion.Target, worker string) *gathered {
	job := g.jobs[x.Job]
	if job == nil {
		job = &gathered{first: math.MaxInt64, components: map[string]int{}}
		g.jobs[x.Job] = job
	}
	if x.Component != "" {
		job.components[x.Component] = max(job.components[x.Component], x.Instance)
	}
	if worker != "" {
		if g.hosts[worker] == nil {
			g.hosts[worker] = map[dhalion.JobID]bool{}
		}
		g.hosts[worker][x.Job] = true
	}
	return job
}

// topologies hands on the given topology, or one derived for each job, where it
// is not what was told before. Series vanish while a job restarts: that a derived
// topology lost something is told only when it has lasted for the mapping's
// window.
func (g *gathering) topologies(last time.Time) error {
	r := g.reader
	r.pending = map[dhalion.JobID]dhalion.Topology{}
	jobs := slices.DeleteFunc(slices.Sorted(maps.Keys(g.jobs)), func(job dhalion.JobID) bool { return g.jobs[job].first == math.MaxInt64 })
	if len(r.opts.Topology) > 0 && len(jobs) > 1 {
		return fmt.Errorf("prometheus: a topology is of one job, and there are %d: choose one with --job: %s", len(jobs), names(jobs))
	}
	for _, job := range jobs {
		own := g.jobs[job]
		before, known := r.told[job]
		var list []dhalion.Topology
		switch {
		case len(r.opts.Topology) > 0 && known, len(own.components) == 0:
			continue
		case len(r.opts.Topology) > 0:
			list = slices.Clone(r.opts.Topology)
		default:
			t := dhalion.Topology{}
			for _, component := range slices.Sorted(maps.Keys(own.components)) {
				t.Components = append(t.Components, dhalion.Component{Name: component, Parallelism: own.components[component] + 1})
			}
			if known && t.SameShape(before) {
				delete(r.smaller, job)
				continue
			}
			if known && lost(before, t) {
				since, waiting := r.smaller[job]
				if !waiting {
					r.smaller[job] = last
				}
				if !waiting || last.Sub(since) < r.mapping.Window {
					continue
				}
			}
			delete(r.smaller, job)
			list = []dhalion.Topology{t}
		}
		for i, t := range list {
			if t.From.IsZero() {
				t.From = time.UnixMicro(own.first).UTC()
			}
			if t.By == "" {
				t.By = dhalion.ChangeOperator
				if i == 0 && !known {
					t.By = dhalion.ChangeFirst
				}
			}
			if err := g.to.Topology(job, t); err != nil {
				return err
			}
			r.pending[job] = t
		}
	}
	return nil
}

// lost reports whether a component has fewer instances than before, or is gone.
func lost(before, now dhalion.Topology) bool {
	return slices.ContainsFunc(before.Components, func(c dhalion.Component) bool {
		own, ok := now.Component(c.Name)
		return !ok || own.Parallelism < c.Parallelism
	})
}

func names(jobs []dhalion.JobID) string {
	out := make([]string, 0, 6)
	for i, job := range jobs {
		if i == 5 {
			out = append(out, "…")
			break
		}
		out = append(out, job.Name())
	}
	return strings.Join(out, ", ")
}
