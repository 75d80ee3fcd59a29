package main

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/ingest/segment"
	"github.com/dhalion-go/dhalion/internal/store"
	"github.com/dhalion-go/dhalion/plan/planfile"
)

// historyShown is how much history is read when --since does not say: a day of a
// large job is some 100 million values, a year of it would not fit in memory.
const historyShown = 24 * time.Hour

// gapFactor is how many times the median distance between polls makes a gap.
const gapFactor = 3

// seriesPoints is the most points of a series.
const seriesPoints = 60

type historyJSON struct {
	Job        dhalion.JobID    `json:"job"`
	From       *time.Time       `json:"from"` // of all that is known
	To         *time.Time       `json:"to"`
	Since      time.Time        `json:"since"` // what is shown
	Until      time.Time        `json:"until"`
	Polls      int              `json:"polls"`
	PollEvery  *float64         `json:"poll_seconds"` // median
	Targets    map[string]int   `json:"targets"`
	Metrics    []metricJSON     `json:"metrics"`
	Gaps       []gapJSON        `json:"gaps"`
	Topologies []topologyChange `json:"topologies"`
	Series     []seriesJSON     `json:"series"`
}

type metricJSON struct {
	Kind    dhalion.TargetKind `json:"target"`
	Name    dhalion.Metric     `json:"name"`
	Unit    string             `json:"unit"`
	Derived bool               `json:"derived"`
	Targets int                `json:"targets"`
	Values  int                `json:"values"`
}

type gapJSON struct {
	From    time.Time `json:"from"`
	To      time.Time `json:"to"`
	Seconds float64   `json:"seconds"`
}

type topologyChange struct {
	From    time.Time        `json:"from"`
	By      dhalion.ChangeBy `json:"by"`
	Run     string           `json:"run,omitempty"`
	Changes []string         `json:"changes"`
}

// seriesJSON is a metric over time, of a target or added up over a component's
// instances or the workers, in Points stretches of equal length; null is unknown.
type seriesJSON struct {
	Of     string         `json:"of"`
	Metric dhalion.Metric `json:"metric"`
	Unit   string         `json:"unit"`
	Over   string         `json:"aggregate"` // "mean", "sum", or "none"
	Low    float64        `json:"low"`
	High   float64        `json:"high"`
	Last   float64        `json:"last"`
	Points []*float64     `json:"points"`
}

func (a *app) historyCommand() *cobra.Command {
	var since, until, target, metric string
	var windows int
	var window time.Duration
	c := &cobra.Command{
		Use:   "history JOB",
		Short: "Show what is known of a job: ranges, targets, metrics, gaps, changes",
		Long: `Show what is known of a job: ranges, targets, metrics, gaps between polls, changes of
its topology, and each metric over time. A metric of several instances is their mean,
or their sum where it is a rate or a number of things. A blank is unknown.

With --windows N: count, mean, standard deviation, least-squares slope, median and
95th percentile of every series in the N windows before --until.`,
		Example: `  dhalion history wordcount
  dhalion history wordcount --target counter --metric busy_fraction
  dhalion history wordcount --since 2026-11-22T08:37:00Z --until 2026-11-22T08:41:00Z
  dhalion history wordcount --windows 3 --window 30s --target 'counter[3]'`,
		Args:              one("JOB"),
		ValidArgsFunction: a.completeJob(),
		RunE: func(cmd *cobra.Command, args []string) error {
			var from, to time.Time
			var err error
			if since != "" {
				if from, err = parseTime("--since", since); err != nil {
					return err
				}
			}
			if until != "" {
				if to, err = parseTime("--until", until); err != nil {
					return err
				}
			}
			if since != "" && until != "" && !from.Before(to) {
				return usagef("--since %s is not before --until %s", since, until)
			}
			switch {
			case windows < 0:
				return usagef("--windows %d is negative", windows)
			case window <= 0:
				return usagef("--window %s is no length of time", window)
			case windows > 0 && since != "":
				return usagef("--windows says how far back to look: it goes without --since")
			}
			if metric != "" && !dhalion.Metric(metric).Valid() {
				return &failure{code: exitUsage, err: fmt.Errorf("--metric %q is no metric", metric), hint: "dhalion metrics csv lists them"}
			}
			return a.withStore(cmd.Context(), func(ctx context.Context, st *store.Store) error {
				job, err := findJob(ctx, st, args[0])
				if err != nil {
					return err
				}
				if windows > 0 {
					return a.statistics(ctx, st, job, to, window, windows, target, dhalion.Metric(metric))
				}
				s, err := a.survey(ctx, st, job, from, to, target, dhalion.Metric(metric))
				if err != nil {
					return err
				}
				if a.json() {
					return a.writeJSON(s.historyJSON)
				}
				a.historyText(s)
				return nil
			})
		},
	}
	c.Flags().StringVar(&since, "since", "", "begin after this `time` (default: a day before the end)")
	c.Flags().StringVar(&until, "until", "", "end at this `time` (default: the newest measurement)")
	c.Flags().StringVar(&target, "target", "", "only this `target`: job, counter, counter[3], workers, tm-2")
	c.Flags().StringVar(&metric, "metric", "", "only this `metric`")
	c.Flags().IntVar(&windows, "windows", 0, "statistics of each series in the last `N` windows")
	c.Flags().DurationVar(&window, "window", time.Minute, "length of a window, with --windows")
	var metrics []string
	for _, m := range dhalion.Metrics {
		metrics = append(metrics, string(m.Name))
	}
	a.complete(c, "metric", metrics...)
	return c
}

// survey is a history as it is shown.
type survey struct {
	historyJSON
	cut bool // there is more before Since that was not asked for
}

func (a *app) survey(ctx context.Context, st *store.Store, job dhalion.JobID, from, to time.Time, target string, metric dhalion.Metric) (*survey, error) {
	jobs, err := st.Jobs(ctx)
	if err != nil {
		return nil, err
	}
	s := &survey{historyJSON: historyJSON{
		Job: job, Targets: map[string]int{}, Metrics: []metricJSON{}, Gaps: []gapJSON{}, Topologies: []topologyChange{}, Series: []seriesJSON{},
	}}
	var info store.JobInfo
	for _, j := range jobs {
		if j.ID == job {
			info = j
		}
	}
	s.From, s.To = known(info.From), known(info.To)
	if to.IsZero() {
		to = info.To
	}
	if from.IsZero() {
		// The range is open at its start, and the first measurement belongs to it.
		from = info.From.Add(-time.Microsecond)
		if day := to.Add(-historyShown); from.Before(day) {
			from, s.cut = day, true
		}
	}
	s.Since, s.Until = from.UTC(), to.UTC()
	if s.Since.Before(info.From) && !info.From.IsZero() {
		s.Since = info.From.UTC()
	}
	h, err := st.History(ctx, job, from, to)
	if err != nil {
		return nil, err
	}
	times := polls(h)
	s.Polls = len(times)
	every := median(times)
	if every > 0 {
		v := time.Duration(every * int64(time.Microsecond)).Seconds()
		s.PollEvery = &v
	}
	for i := 1; i < len(times); i++ {
		if d := times[i] - times[i-1]; every > 0 && d > gapFactor*every {
			s.Gaps = append(s.Gaps, gapJSON{micros(times[i-1]), micros(times[i]), (time.Duration(d) * time.Microsecond).Seconds()})
		}
	}
	by, _, err := attributed(ctx, st, job, h.Topologies, to)
	if err != nil {
		return nil, err
	}
	s.topologies(h, by)
	s.metrics(h)
	s.series(h, target, metric, every)
	if target != "" && len(s.Series) == 0 {
		return nil, hinted(fmt.Errorf("history %s: nothing is known of target %q", job, target), "the targets are %s", strings.Join(targetNames(h), ", "))
	}
	return s, nil
}

func micros(t int64) time.Time { return time.UnixMicro(t).UTC() }

// polls are the times at which anything was measured, ascending.
func polls(h *segment.History) []int64 {
	seen := map[int64]bool{}
	for _, t := range h.Tables {
		for _, at := range t.Times() {
			seen[at] = true
		}
	}
	times := make([]int64, 0, len(seen))
	for at := range seen {
		times = append(times, at)
	}
	slices.Sort(times)
	return times
}

// median is the median distance between successive times; 0 with fewer than two.
func median(times []int64) int64 {
	if len(times) < 2 {
		return 0
	}
	d := make([]int64, len(times)-1)
	for i := range d {
		d[i] = times[i+1] - times[i]
	}
	slices.Sort(d)
	return d[len(d)/2]
}

func (s *survey) topologies(h *segment.History, by []dhalion.ChangeBy) {
	var before *dhalion.Topology
	for i, t := range h.Topologies {
		change := topologyChange{From: t.From.UTC(), By: by[i], Run: t.Run, Changes: []string{}}
		if before == nil {
			var parts []string
			for _, name := range orderOf(t) {
				c, _ := t.Component(name)
				parts = append(parts, fmt.Sprintf("%s %d", c.Name, c.Parallelism))
			}
			change.Changes = append(change.Changes, strings.Join(parts, ", "))
		} else {
			change.Changes = append(change.Changes, differences(*before, t)...)
		}
		if before != nil && len(change.Changes) == 0 {
			continue // said again by another input
		}
		before = &t
		s.Topologies = append(s.Topologies, change)
	}
}

// orderOf lists components from the sources down; those on a cycle come last.
func orderOf(t dhalion.Topology) []string {
	order := t.Order()
	for _, c := range t.Components {
		if !slices.Contains(order, c.Name) {
			order = append(order, c.Name)
		}
	}
	return order
}

// differences says what changed from one topology to the next.
func differences(was, is dhalion.Topology) []string {
	out := []string{}
	for _, name := range orderOf(is) {
		now, _ := is.Component(name)
		before, ok := was.Component(name)
		switch {
		case !ok:
			out = append(out, fmt.Sprintf("%s is new, with %d instances", name, now.Parallelism))
		case before.Parallelism != now.Parallelism:
			out = append(out, fmt.Sprintf("%s %d → %d instances", name, before.Parallelism, now.Parallelism))
		}
	}
	for _, c := range was.Components {
		if _, ok := is.Component(c.Name); !ok {
			out = append(out, c.Name+" is gone")
		}
	}
	if len(out) == 0 && !slices.Equal(sorted(was).Edges, sorted(is).Edges) {
		out = append(out, "the edges changed")
	}
	moved := 0
	for _, p := range is.Placement {
		if w := was.WorkerOf(p.Component, p.Instance); w != "" && w != p.Worker {
			moved++
		}
	}
	if moved > 0 {
		out = append(out, plural(moved, "instance")+" on another worker")
	}
	if len(out) == 0 && was.Run != is.Run {
		out = append(out, "a new run")
	}
	return out
}

func sorted(t dhalion.Topology) dhalion.Topology {
	t.Components, t.Edges, t.Placement = slices.Clone(t.Components), slices.Clone(t.Edges), slices.Clone(t.Placement)
	t.Normalize()
	return t
}

func (s *survey) metrics(h *segment.History) {
	for _, kind := range dhalion.TargetKinds {
		t := h.Tables[kind]
		if t == nil {
			continue
		}
		s.Targets[string(kind)] = len(t.Spans())
		for _, m := range t.Metrics() {
			info, _ := m.Info()
			row := metricJSON{Kind: kind, Name: m, Unit: info.Unit, Derived: info.Derived}
			values := t.Values(m)
			for _, span := range t.Spans() {
				n := 0
				for _, v := range values[span.Start:span.End] {
					if !math.IsNaN(v) {
						n++
					}
				}
				if n > 0 {
					row.Targets++
					row.Values += n
				}
			}
			if row.Values > 0 {
				s.Metrics = append(s.Metrics, row)
			}
		}
	}
}

// gathered adds up one metric of one group of targets, time by time.
type gathered struct {
	of     string
	metric dhalion.Metric
	kind   dhalion.TargetKind
	single bool // one target: nothing is added up
	sum    []float64
	n      []int
}

// adds reports whether a metric of several targets is their sum; else it is their
// mean.
func adds(m dhalion.Metric) bool {
	info, _ := m.Info()
	return info.Unit == "1/s" || info.Unit == "count" || info.Unit == "B"
}

// series makes one line per metric of the job, of each component and of the
// workers together.
func (s *survey) series(h *segment.History, target string, only dhalion.Metric, every int64) {
	times := polls(h)
	if len(times) == 0 {
		return
	}
	groups := map[string]map[dhalion.Metric]*gathered{}
	for _, kind := range []dhalion.TargetKind{dhalion.KindJob, dhalion.KindInstance, dhalion.KindComponent, dhalion.KindWorker} {
		t := h.Tables[kind]
		if t == nil {
			continue
		}
		at := make([]int, 0, 1024)
		for _, span := range t.Spans() {
			of, single, ok := groupOf(span.Target, target)
			if !ok {
				continue
			}
			at = at[:0]
			k := 0
			for _, x := range t.Times()[span.Start:span.End] {
				for times[k] < x {
					k++
				}
				at = append(at, k)
			}
			for _, m := range t.Metrics() {
				if only != "" && m != only {
					continue
				}
				g := groups[of][m]
				if g == nil {
					g = &gathered{of: of, metric: m, kind: kind, single: single, sum: make([]float64, len(times)), n: make([]int, len(times))}
					if groups[of] == nil {
						groups[of] = map[dhalion.Metric]*gathered{}
					}
					groups[of][m] = g
				}
				if g.kind != kind {
					continue // what the instances say goes before what the component says
				}
				for i, v := range t.Values(m)[span.Start:span.End] {
					if !math.IsNaN(v) {
						g.sum[at[i]] += v
						g.n[at[i]]++
					}
				}
			}
		}
	}
	for _, of := range groupOrder(h, groups) {
		for _, info := range dhalion.Metrics {
			if g := groups[of][info.Name]; g != nil {
				if line, ok := g.line(times, every); ok {
					line.Unit = info.Unit
					s.Series = append(s.Series, line)
				}
			}
		}
	}
}

const (
	ofJob     = "job"
	ofWorkers = "workers"
)

// groupOf says under which name a target's metrics are gathered, given the
// target that was asked for.
func groupOf(t dhalion.Target, asked string) (of string, single, ok bool) {
	if asked != "" && (asked == t.String() || t.Kind == dhalion.KindWorker && asked == t.Worker) && t.Kind != dhalion.KindComponent {
		return asked, true, true
	}
	switch t.Kind {
	case dhalion.KindJob:
		of, single = ofJob, true
	case dhalion.KindWorker:
		of = ofWorkers
	default:
		of, single = t.Component, t.Kind == dhalion.KindComponent
	}
	return of, single, asked == "" || asked == of
}

func groupOrder(h *segment.History, groups map[string]map[dhalion.Metric]*gathered) []string {
	var order []string
	take := func(name string) {
		if groups[name] != nil && !slices.Contains(order, name) {
			order = append(order, name)
		}
	}
	take(ofJob)
	if n := len(h.Topologies); n > 0 {
		for _, name := range orderOf(h.Topologies[n-1]) {
			take(name)
		}
	}
	var rest []string
	for name := range groups {
		if name != ofWorkers && !slices.Contains(order, name) {
			rest = append(rest, name)
		}
	}
	slices.Sort(rest)
	return append(append(order, rest...), func() []string {
		if groups[ofWorkers] != nil {
			return []string{ofWorkers}
		}
		return nil
	}()...)
}

// line brings a metric to a number of points. A stretch without a measurement
// keeps the last value for as long as the next is not overdue: polls do not fall
// evenly into stretches.
func (g *gathered) line(times []int64, every int64) (seriesJSON, bool) {
	line := seriesJSON{Of: g.of, Metric: g.metric, Over: "mean", Low: math.Inf(1), High: math.Inf(-1), Points: []*float64{}}
	if g.single {
		line.Over = "none"
	} else if adds(g.metric) {
		line.Over = "sum"
	}
	first, last := times[0], times[len(times)-1]
	span := last - first
	points := seriesPoints
	if every > 0 {
		points = min(points, int(span/every)+1)
	}
	sum, n := make([]float64, points), make([]int, points)
	var own []int64 // times at which this metric is known
	for i, at := range times {
		if g.n[i] == 0 {
			continue
		}
		v := g.sum[i]
		if line.Over == "mean" {
			v /= float64(g.n[i])
		}
		own = append(own, at)
		line.Low, line.High, line.Last = min(line.Low, v), max(line.High, v), v
		k := 0
		if span > 0 {
			k = min(points-1, int(float64(at-first)/float64(span)*float64(points)))
		}
		sum[k] += v
		n[k]++
	}
	if len(own) == 0 {
		return line, false
	}
	overdue := gapFactor * max(median(own), every)
	var held float64
	heldAt, have := int64(0), false
	step := float64(span) / float64(points)
	for k := range points {
		begin := first + int64(float64(k)*step)
		switch {
		case n[k] > 0:
			held, heldAt, have = sum[k]/float64(n[k]), begin, true
			line.Points = append(line.Points, number(held))
		case have && begin-heldAt < overdue:
			line.Points = append(line.Points, number(held))
		default:
			line.Points = append(line.Points, nil)
		}
	}
	return line, true
}

var sparks = []rune("▁▂▃▄▅▆▇█")

// spark draws points from zero, or from the lowest below it, to the highest; a
// share of something is drawn from 0 to 1. A blank is unknown.
func spark(l seriesJSON) string {
	low, high := min(0, l.Low), l.High
	if l.Metric.Fraction() {
		high = max(1, high)
	}
	var b strings.Builder
	for _, p := range l.Points {
		if p == nil {
			b.WriteByte(' ')
			continue
		}
		k := 0
		if high > low {
			k = int((*p - low) / (high - low) * float64(len(sparks)))
		}
		b.WriteRune(sparks[max(0, min(len(sparks)-1, k))])
	}
	return b.String()
}

func targetNames(h *segment.History) []string {
	var names []string
	seen := map[string]bool{}
	for _, kind := range dhalion.TargetKinds {
		t := h.Tables[kind]
		if t == nil {
			continue
		}
		for _, s := range t.Spans() {
			of, _, _ := groupOf(s.Target, "")
			if !seen[of] {
				seen[of] = true
				names = append(names, of)
			}
		}
	}
	return names
}

// numbers are the ends of a metric's range: "⌀ 4 % to 98 %", with Σ for a sum and
// ⌀ for a mean.
func (l seriesJSON) numbers() string {
	how := map[string]string{"sum": "Σ ", "mean": "⌀ "}[l.Over]
	low, high := planfile.Value(l.Metric, l.Low), planfile.Value(l.Metric, l.High)
	if low == high {
		return how + low
	}
	// The unit is said once.
	if _, unit, ok := strings.Cut(high, " "); ok && !strings.Contains(unit, " ") {
		low = strings.TrimSuffix(low, " "+unit)
	}
	return how + low + " to " + high
}

// narrowed brings points to fewer: the mean of the known ones in each stretch.
func narrowed(points []*float64, most int) []*float64 {
	if len(points) <= most {
		return points
	}
	out := make([]*float64, most)
	for i := range out {
		sum, n := 0.0, 0
		for _, p := range points[i*len(points)/most : (i+1)*len(points)/most] {
			if p != nil {
				sum += *p
				n++
			}
		}
		if n > 0 {
			out[i] = number(sum / float64(n))
		}
	}
	return out
}

// changesShown bounds the gaps and topologies of the text.
const changesShown = 12

func (a *app) historyText(s *survey) {
	a.printf("%s\n", a.style(bold, plain(string(s.Job))))
	if s.From == nil {
		a.printf("  nothing was measured\n")
		a.next([2]string{"dhalion ingest FILE", "read a history"})
		return
	}
	t := &table{head: []string{"", ""}, wide: 1}
	t.add("known", when(*s.From)+" to "+when(*s.To))
	shown := when(s.Since) + " to " + when(s.Until)
	if s.cut {
		shown += " (--since for more)"
	}
	t.add("shown", shown)
	how := plural(s.Polls, "poll")
	if s.PollEvery != nil {
		how += ", one every " + planfile.Duration(seconds(*s.PollEvery))
	}
	t.add("measured", how)
	var parts []string
	for _, kind := range dhalion.TargetKinds {
		if n := s.Targets[string(kind)]; n > 0 {
			parts = append(parts, plural(n, string(kind)))
		}
	}
	t.add("targets", strings.Join(parts, ", "))
	a.table("  ", t)

	if len(s.Topologies) > 0 {
		a.title("Topology")
		for i, c := range s.Topologies {
			if i == changesShown {
				a.printf("  and %d more changes\n", len(s.Topologies)-i)
				break
			}
			by := ""
			if c.By != "" && c.By != dhalion.ChangeFirst {
				by = " (by " + string(c.By) + ")"
			}
			a.printf("  %s  %s\n", when(c.From), wrap(plain(strings.Join(c.Changes, "; ")+by), a.width()-27, strings.Repeat(" ", 27)))
		}
	}
	if len(s.Gaps) > 0 {
		a.title("Gaps")
		for i, g := range s.Gaps {
			if i == changesShown {
				a.printf("  and %d more\n", len(s.Gaps)-i)
				break
			}
			a.printf("  %s to %s  nothing for %s\n", when(g.From), when(g.To), planfile.Duration(seconds(g.Seconds)))
		}
	}
	names, figures := 0, 0
	for _, l := range s.Series {
		names, figures = max(names, columns(string(l.Metric))), max(figures, columns(l.numbers()))
	}
	points := max(10, a.width()-names-figures-6)
	of := ""
	for _, l := range s.Series {
		if l.Of != of {
			of = l.Of
			a.title(plain(of))
		}
		l.Points = narrowed(l.Points, points)
		a.printf("  %s  %s  %s\n", pad(string(l.Metric), names), spark(l), l.numbers())
	}
	a.next([2]string{command("diagnose", string(s.Job), "--at", stamp(s.Until)), "see what is wrong with it then"})
}
