package plan

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/features"
	"github.com/dhalion-go/dhalion/plan/planfile"
	"github.com/dhalion-go/dhalion/plan/policy"
)

// autoscalerSettings are the parameters of Apache Flink's autoscaler, under its
// names with _ for - and . where it has one.
type autoscalerSettings struct {
	target, boundary float64
	busy             string // max, avg, min: which instance's busy time counts
	catchUp, restart time.Duration
	down, up         float64 // greatest change in one step, as a share
	least, most      int
	alignment        string // on, even, off
	lagThreshold     time.Duration
	delay            time.Duration
	stabilization    time.Duration
	window           time.Duration
	observeLag       time.Duration // of input from which a source's true rate is observed
	observeSwitch    float64
	observations     int
}

// Values of the parameters alignment and busy_aggregator.
const (
	alignOn, alignEven, alignOff = "on", "even", "off"
	busyMax, busyAvg, busyMin    = "max", "avg", "min"
)

func autoscalerSettingsOf(p *policy.Policy) (autoscalerSettings, error) {
	word := func(name, otherwise string) string {
		if text, ok := p.Parameters.Text(name); ok {
			return text
		}
		return otherwise
	}
	s := autoscalerSettings{
		target:        number(p, "utilization_target", 0.7),
		boundary:      number(p, "utilization_boundary", 0.3),
		busy:          word("busy_aggregator", busyMax),
		catchUp:       duration(p, "catch_up", 30*time.Minute),
		restart:       duration(p, "restart", 5*time.Minute),
		down:          number(p, "max_scale_down_factor", 0.6),
		up:            number(p, "max_scale_up_factor", 100_000),
		least:         whole(number(p, "min_parallelism", 1)),
		most:          whole(number(p, "max_parallelism", 200)),
		alignment:     word("alignment", alignOn),
		lagThreshold:  duration(p, "lag_threshold", 5*time.Minute),
		delay:         duration(p, "scale_down_delay", time.Hour),
		stabilization: duration(p, "stabilization", 5*time.Minute),
		window:        p.Window,
		observeLag:    duration(p, "observed_rate_lag", 30*time.Second),
		observeSwitch: number(p, "observed_rate_switch", 0.15),
		observations:  whole(number(p, "observed_rate_observations", 2)),
	}
	switch {
	case !(s.target > 0 && s.target <= 1):
		return s, fmt.Errorf("policy %s: utilization_target %v is not above 0 and at most 1", p.Name, s.target)
	case !(s.boundary >= 0 && s.boundary <= 1):
		return s, fmt.Errorf("policy %s: utilization_boundary %v is not within 0 and 1", p.Name, s.boundary)
	case !(s.down >= 0 && s.down <= 1) || !(s.up >= 0):
		return s, fmt.Errorf("policy %s: max_scale_down_factor %v is not within 0 and 1, or max_scale_up_factor %v is negative", p.Name, s.down, s.up)
	case s.least < 1 || s.most < s.least:
		return s, fmt.Errorf("policy %s: min_parallelism %d is below 1 or above max_parallelism %d", p.Name, s.least, s.most)
	case !slices.Contains([]string{busyMax, busyAvg, busyMin}, s.busy):
		return s, fmt.Errorf("policy %s: busy_aggregator is %s, %s or %s, not %q", p.Name, busyMax, busyAvg, busyMin, s.busy)
	case !slices.Contains([]string{alignOn, alignEven, alignOff}, s.alignment):
		return s, fmt.Errorf("policy %s: alignment is %s, %s or %s, not %q", p.Name, alignOn, alignEven, alignOff, s.alignment)
	case s.catchUp < 0 || s.restart < 0 || s.lagThreshold < 0 || s.delay < 0 || s.stabilization < 0 || s.observeLag < 0:
		return s, fmt.Errorf("policy %s: a duration is negative", p.Name)
	case !(s.observeSwitch >= 0):
		return s, fmt.Errorf("policy %s: observed_rate_switch %v is negative", p.Name, s.observeSwitch)
	}
	return s, nil
}

// vertex is one component in the autoscaler's terms. Rates are records per second.
type vertex struct {
	component dhalion.Component
	in        float64 // over the window
	load      float64 // busy share
	observed  float64 // OBSERVED_TPR
	rate      float64 // TPR; +Inf where nothing comes in
	target    float64 // TARGET
	catchUp   float64 // CATCHUP
	capacity  float64 // at the target utilisation, with a restart
	tooSlow   float64 // below this rate it must grow
	tooFast   float64 // above this rate it may shrink
	factor    float64 // f
	aligned   int     // what numbers are aligned to; 0: nothing
	want      int     // recommended
	outside   bool    // of the band within which nothing is done
	why       string  // why nothing can be recommended
	note      string
}

// recommend is the autoscaler's evaluation of one window, in the order of flow.
func (a autoscalerSettings) recommend(t dhalion.Topology, rates map[string]features.Rates) []vertex {
	backlog := a.behind(rates)
	of := map[string]*vertex{}
	list := make([]vertex, 0, len(t.Components))
	for _, name := range t.Order() {
		c, _ := t.Component(name)
		list = append(list, vertex{component: c})
		v := &list[len(list)-1]
		of[name] = v
		r, ok := rates[name]
		if !ok {
			nan := math.NaN()
			r = features.Rates{Component: name, Span: features.Span{In: nan, Out: nan, InMean: nan, BusyMost: nan, BusyLeast: nan, BusyMean: nan, Lag: nan, LagRate: nan}}
		}
		a.demand(t, v, r, of, rates)
		a.trueRate(v, r, t.IsSource(name))
		upper, lower := a.target+a.boundary, a.target-a.boundary
		if backlog {
			upper, lower = 1, 0
		}
		v.capacity = a.capacity(v, a.target, true)
		v.tooSlow, v.tooFast = a.capacity(v, upper, false), a.capacity(v, lower, true)
		// No band at all is asked for by a boundary of 0.
		v.outside = v.rate < v.tooSlow || v.rate > v.tooFast || a.boundary == 0 && !backlog
		v.want = c.Parallelism
		switch {
		case math.IsNaN(v.in):
			v.why = "the rate of its records in is not known"
		case math.IsNaN(v.load):
			v.why = "its busy time is not known"
		case math.IsNaN(v.rate):
			v.why = "its true processing rate is not known"
		case math.IsNaN(v.capacity):
			v.why = "its target rate is not known"
		default:
			a.size(v, slices.ContainsFunc(t.Edges, func(e dhalion.Edge) bool { return e.To == name && e.Ship == "hash" }))
		}
	}
	return list
}

// behind reports whether a source is so far behind that nothing may shrink.
func (a autoscalerSettings) behind(rates map[string]features.Rates) bool {
	for _, r := range rates {
		if r.Source && !math.IsNaN(r.Span.In) && r.Span.Lag/r.Span.In > a.lagThreshold.Seconds() {
			return true
		}
	}
	return false
}

// demand works out TARGET and CATCHUP: of a source what arrives and what has to be
// caught up with, below it what of that comes along the edges. A lag that no source
// tells counts as none, as the autoscaler has it.
func (a autoscalerSettings) demand(t dhalion.Topology, v *vertex, r features.Rates, of map[string]*vertex, rates map[string]features.Rates) {
	name := v.component.Name
	ups := t.Upstream(name)
	v.in = inRate(t, name, rates)
	if len(ups) == 0 {
		lag, growth := r.Span.Lag, r.Span.LagRate
		if math.IsNaN(lag) {
			lag, v.note = 0, "its lag is not known and counts as none"
		}
		if math.IsNaN(growth) {
			growth = 0
		}
		v.target = math.Max(0, v.in+growth)
		if a.catchUp > 0 {
			v.catchUp = lag / a.catchUp.Seconds()
		}
		return
	}
	for _, up := range ups {
		u := of[up]
		ratio := 0.0 // of an idle component: nothing is known of what a record becomes
		if u.in != 0 {
			ratio = edgeRate(t, up, name, rates) / u.in
		}
		v.target += u.target * ratio
		v.catchUp += u.catchUp * ratio
	}
}

// inRate is the rate of records in over the window; of a component with one input
// that counts none, what its one producer puts out for it alone.
func inRate(t dhalion.Topology, name string, rates map[string]features.Rates) float64 {
	r, ok := rates[name]
	if ok && !math.IsNaN(r.Span.In) {
		return r.Span.In
	}
	if ups := t.Upstream(name); len(ups) == 1 && len(t.Downstream(ups[0])) == 1 {
		return outRate(ups[0], rates)
	}
	return math.NaN()
}

func outRate(name string, rates map[string]features.Rates) float64 {
	if r, ok := rates[name]; ok {
		return r.Span.Out
	}
	return math.NaN()
}

// edgeRate is how many records per second go from one component to another. Flink
// counts none by edge: with one input that is what the receiver takes in; else what
// it takes in less what its other producers put out, if they feed it alone; else
// all that the sender puts out.
func edgeRate(t dhalion.Topology, from, to string, rates map[string]features.Rates) float64 {
	ups := t.Upstream(to)
	others := 0.0
	for _, up := range ups {
		if up == from {
			continue
		}
		if len(t.Downstream(up)) > 1 {
			return outRate(from, rates)
		}
		others += outRate(up, rates)
	}
	if math.IsNaN(others) {
		return outRate(from, rates)
	}
	return inRate(t, to, rates) - others
}

// trueRate works out LOAD and TPR.
func (a autoscalerSettings) trueRate(v *vertex, r features.Rates, source bool) {
	rate := r.Span.InMean
	switch a.busy {
	case busyAvg:
		// Busy time comes from counters then, and the rate must, too.
		v.load, rate = r.Span.BusyMean, v.in
	case busyMin:
		v.load = r.Span.BusyLeast
	default:
		v.load = r.Span.BusyMost
	}
	if math.IsNaN(rate) {
		rate = v.in
	}
	v.rate = rate / v.load
	if rate == 0 {
		v.rate = math.Inf(1) // nothing comes in: what it could do is not known
	}
	v.observed = math.NaN()
	if source {
		v.observed = a.observe(r.Span.Reads)
	}
	if !math.IsNaN(v.observed) && (math.IsInf(v.rate, 0) || math.IsNaN(v.rate) || v.rate > v.observed*(1+a.observeSwitch)) {
		v.rate = v.observed
	}
}

// observe is OBSERVED_TPR: what a source reads while there is more to read than it
// can, as a mean over the polls. A poll that shows nothing repeats the mean of those
// before it, as the program has it.
func (a autoscalerSettings) observe(reads []features.Read) float64 {
	sum, n, infinite := 0.0, 0, false
	mean := func(least int) float64 {
		switch {
		case n == 0 && infinite:
			return math.Inf(1)
		case n == 0 || n < least:
			return math.NaN()
		}
		return sum / float64(n)
	}
	for _, r := range reads {
		rate := math.NaN()
		switch {
		case r.In == 0:
			rate = math.Inf(1)
		case r.Lag >= a.observeLag.Seconds()*r.In && r.Backpressured < 1:
			rate = r.In / (1 - r.Backpressured)
		}
		if math.IsNaN(rate) {
			rate = mean(a.observations)
		}
		switch {
		case math.IsInf(rate, 0):
			infinite = true
		case !math.IsNaN(rate):
			sum += rate
			n++
		}
	}
	return mean(a.observations)
}

// capacity is the rate that a component must be able to do, rounded to whole
// records as the program does; +Inf at a utilisation of 0 or less.
func (a autoscalerSettings) capacity(v *vertex, utilisation float64, restart bool) float64 {
	utilisation = math.Max(0, math.Min(1, utilisation))
	if math.IsNaN(v.catchUp) || math.IsNaN(v.target) {
		return math.NaN()
	}
	if utilisation == 0 {
		return math.Inf(1)
	}
	again := 0.0
	if restart && a.catchUp > 0 {
		again = v.target * a.restart.Seconds() / a.catchUp.Seconds()
	}
	return math.Floor(v.catchUp + again + v.target/utilisation + 0.5)
}

// size works out f and the number of instances.
func (a autoscalerSettings) size(v *vertex, keyed bool) {
	now := v.component.Parallelism
	v.factor = math.Max(1-a.down, math.Min(1+a.up, v.capacity/v.rate))
	upper := max(now, a.most)
	if m := v.component.MaxParallelism; m > 0 {
		upper = min(m, upper)
	}
	want := whole(math.Ceil(v.factor * float64(now)))
	want = min(max(min(now, a.least), want), upper)
	if keyed && a.alignment != alignOff && v.component.MaxParallelism > 0 {
		v.aligned = v.component.MaxParallelism
		fit := a.align(now, want, v.aligned, upper)
		if fit != want {
			v.note = fmt.Sprintf("%d wanted; with %d key groups it is %d", want, v.aligned, fit)
		}
		want = fit
	}
	v.want = want
}

// align finds a number of instances over which n key groups are dealt out better:
// the first, from the wanted one up, that divides n or gives an instance fewer
// groups (alignment even: that divides n). Shrinking it looks no further than the
// present number; where it finds none, below the wanted one for where an instance
// gets more; and never in the other direction than wanted.
func (a autoscalerSettings) align(now, want, n, upper int) int {
	if want == now || want < 1 {
		return want
	}
	grows := want > now
	last := min(n, upper)
	if !grows {
		last = min(now, last)
	}
	for p := want; p <= last; p++ {
		if n%p == 0 || a.alignment == alignOn && n/p < n/want {
			return p
		}
	}
	p := want
	for ; p > 0; p-- {
		if n/p > n/want {
			if n%p != 0 {
				p++
			}
			break
		}
	}
	p = max(p, min(now, a.least))
	if grows == (p > now) && p != now {
		return p
	}
	return now
}

// solveAutoscaler sizes every component, sources as well, as Apache Flink's
// autoscaler does:
//
//	LOAD     = busy share, of the busiest instance
//	TPR      = records in / LOAD; of a source that is behind, what it was seen to read
//	TARGET   = of a source records in + growth of its lag; below, along the edges
//	CATCHUP  = of a source lag / catch_up; below, along the edges
//	capacity = round(CATCHUP + TARGET·restart/catch_up + TARGET/utilization_target)
//	f        = capacity/TPR, at least 1 − max_scale_down_factor, at most 1 + max_scale_up_factor
//	want     = ⌈f·p⌉ within min_parallelism and max_parallelism, aligned to key groups
//
// It is done if some component that would change has a TPR outside of the band
// around the target, and less instances not before they were asked for during
// scale_down_delay.
func (s *Situation) solveAutoscaler(in Input) error {
	s.feasible = 1
	a := s.set.scaler
	rates, err := ratesOf(in.Rates, s.Topology)
	if err != nil {
		return err
	}
	list := a.recommend(s.Topology, rates)
	earlier, err := a.earlier(in, s.Topology)
	if err != nil {
		return err
	}
	act := false
	for i := range list {
		v := &list[i]
		if v.want < v.component.Parallelism && v.why == "" {
			a.wait(v, s.AsOf, earlier)
		}
		act = act || v.why == "" && v.outside && v.want != v.component.Parallelism
	}
	for _, v := range list {
		z := s.newSize(v.component, unknownLoad(v.component.Name))
		z.why = v.why
		if v.why == "" {
			z.known = true
			z.note = v.note
			z.required = float64(z.now) * v.capacity / v.rate
			z.load.Offered, z.load.PerInstance = v.target, v.rate/float64(z.now)
			want := v.want
			if !act && want != z.now {
				z.note = fmt.Sprintf("%d wanted; but %s within %s and %s is near enough", want, perSecond(v.rate), perSecond(v.tooSlow), perSecond(v.tooFast))
				want = z.now
			}
			s.give(&z, want)
			if math.IsInf(v.rate, 1) {
				z.load.PerInstance = math.NaN()
				if z.note == "" {
					z.note = "nothing comes in: its true rate counts as without bound"
				}
			}
		}
		z.figures = figures(
			dhalion.Figure{Name: "in", Value: v.in, Unit: "1/s"},
			dhalion.Figure{Name: "LOAD", Value: v.load},
			dhalion.Figure{Name: "OBSERVED_TPR", Value: v.observed, Unit: "1/s"},
			dhalion.Figure{Name: "TPR", Value: v.rate, Unit: "1/s"},
			dhalion.Figure{Name: "TARGET", Value: v.target, Unit: "1/s"},
			dhalion.Figure{Name: "CATCHUP", Value: v.catchUp, Unit: "1/s"},
			dhalion.Figure{Name: "capacity", Value: v.capacity, Unit: "1/s"},
			dhalion.Figure{Name: "grow_below", Value: v.tooSlow, Unit: "1/s"},
			dhalion.Figure{Name: "shrink_above", Value: v.tooFast, Unit: "1/s"})
		if v.why == "" {
			z.figures = append(z.figures, dhalion.Figure{Name: "f", Value: v.factor})
		}
		s.sizes = append(s.sizes, z)
	}
	if ready := s.Topology.From.Add(a.stabilization + a.window); ready.After(s.AsOf) {
		s.warn(WarnWaits, "the autoscaler itself would not decide before %s: it lets a job settle for %s after a start or change and then fills a window of %s",
			ready.UTC().Format(time.RFC3339), planfile.Duration(a.stabilization), planfile.Duration(a.window))
	}
	return nil
}

func perSecond(v float64) string {
	if math.IsInf(v, 1) {
		return "any rate"
	}
	return planfile.Quantity(v) + "/s"
}

// recommendation is what was recommended at a time before.
type recommendation struct {
	at   time.Time
	list map[string]vertex
}

// earlier are the recommendations of the delay before the plan's time, ascending.
func (a autoscalerSettings) earlier(in Input, t dhalion.Topology) ([]recommendation, error) {
	var out []recommendation
	for _, e := range in.Earlier {
		if e.At.Before(in.AsOf.Add(-a.delay)) || !e.At.Before(in.AsOf) {
			continue
		}
		rates, err := ratesOf(e.Rates, t)
		if err != nil {
			return nil, err
		}
		r := recommendation{at: e.At, list: map[string]vertex{}}
		for _, v := range a.recommend(t, rates) {
			r.list[v.component.Name] = v
		}
		out = append(out, r)
	}
	slices.SortFunc(out, func(x, y recommendation) int { return x.at.Compare(y.at) })
	return out, nil
}

// wait lets a component shrink only if that was recommended during all of the
// delay, and then to the greatest number recommended in it.
func (a autoscalerSettings) wait(v *vertex, at time.Time, earlier []recommendation) {
	if a.delay == 0 {
		return
	}
	now, wanted := v.component.Parallelism, v.want
	since := at
	for _, r := range slices.Backward(earlier) {
		e := r.list[v.component.Name]
		if e.why != "" {
			continue // nothing was known: neither asked for nor taken back
		}
		if e.want >= now {
			break
		}
		since = r.at
		if e.want > v.want {
			v.want, v.outside = e.want, e.outside
		}
	}
	if since.After(at.Add(-a.delay)) {
		v.want = now
		v.note = fmt.Sprintf("%d wanted, for %s; fewer instances wait until that has been so for %s", wanted, planfile.Duration(at.Sub(since)), planfile.Duration(a.delay))
	}
}
