package plan

import (
	"fmt"
	"math"
	"slices"

	"github.com/dhalion-go/dhalion"
)

// size is what one component that is no source needs.
//
//	required = offered / (perInstance · target)
//
// is the fractional number of instances that carry the offered load at the
// policy's target utilisation. The number that a change goes to is
//
//	want = ⌈ max( f · required, min(1 + lag/(catchUp · sourceOffered), g) · offered/perInstance ) ⌉
//
// lag and sourceOffered are summed over the sources above; the second term lets
// the present backlog drain within catchUp while the instances are fully busy. g
// is how many times the offered load the job can carry at most: the least of
// most · perInstance / offered over all components, most being the number of
// instances that a component can be scaled to. f = min(1, g) is the feasible
// share of the offered load; where it is below 1 the rest is sized for that.
//
// DS2's word count: a source of 1M sentences/min, 100K sentences/min per FlatMap,
// 20 words a sentence, 1M words/min per Count, target 1.0:
// 1M/100K = 10 and 20M/1M = 20.
type size struct {
	load  ComponentLoad
	now   int
	most  int    // largest number of instances; 0: no bound
	bound string // what sets most
	known bool
	why   string // why it is not known

	required, low, high float64 // instances at the target utilisation; NaN unknown
	want                int     // not bounded by most
	to                  int     // want, bounded
	down                int     // to what a scale-down may go: the interval's upper end, and the hottest instance

	figures []dhalion.Figure // of a published method
	note    string           // why its answer is what it is, where that needs a word
}

// newSize is that of a component of which nothing is known yet.
func (s *Situation) newSize(c dhalion.Component, load ComponentLoad) size {
	z := size{load: load, now: c.Parallelism, required: math.NaN(), low: math.NaN(), high: math.NaN(), want: c.Parallelism, to: c.Parallelism, down: c.Parallelism}
	// Of instances of one component no two share a slot. Where one has more than there
	// are slots, these were told of an older state of the engine.
	slots := s.Topology.TotalSlots()
	if slices.ContainsFunc(s.Topology.Components, func(c dhalion.Component) bool { return c.Parallelism > slots }) {
		slots = 0
	}
	for _, b := range []struct {
		n    int
		what string
	}{{c.MaxParallelism, "its maximum parallelism"}, {s.set.maxParallelism, "the policy's max_parallelism"}, {slots, "the number of the engine's slots"}} {
		if b.n > 0 && (z.most == 0 || b.n < z.most) {
			z.most, z.bound = b.n, b.what
		}
	}
	return z
}

// rated reports whether it is known what the component has to do and can do.
func (z *size) rated() bool { return z.known && !math.IsNaN(z.utilisation(z.now)) }

// utilisation of n instances at the offered load.
func (z *size) utilisation(n int) float64 {
	return z.load.Offered / (float64(n) * z.load.PerInstance)
}

// ceil takes what is a billionth above a whole number for that number: 0.8 is no
// binary fraction, and 8/0.8 must be 10.
func ceil(x float64) int {
	if !(x < 1e9) {
		return 1e9
	}
	return int(math.Ceil(x - 1e-9*math.Max(1, math.Abs(x))))
}

// solve works out the sizes of all components at once.
func (s *Situation) solve(loads map[string]ComponentLoad) {
	stuck := s.notScalable()
	for _, name := range s.Topology.Order() {
		c, _ := s.Topology.Component(name)
		load, given := loads[name]
		if !given {
			load = unknownLoad(name)
		}
		if load.Source || s.Topology.IsSource(name) {
			s.sources = append(s.sources, load)
			continue
		}
		z := s.newSize(c, load)
		if stuck[name] {
			z.most, z.bound = z.now, "what is behind it"
		}
		// A component above its bound is not shrunk for that.
		if z.most > 0 {
			z.most = max(z.most, z.now)
		}
		switch {
		case math.IsNaN(load.Offered):
			z.why = "its offered load is not known"
		case !(load.PerInstance > 0):
			z.why = "the rate of a healthy instance is not known"
		default:
			z.known = true
		}
		s.sizes = append(s.sizes, z)
	}

	g := math.Inf(1)
	for i := range s.sizes {
		z := &s.sizes[i]
		if z.known && z.most > 0 && z.load.Offered > 0 {
			if share := 1 / z.utilisation(z.most); share < g {
				g, s.limiting = share, z.load.Component
			}
		}
	}
	s.feasible = math.Min(1, g)
	if s.feasible == 1 {
		s.limiting = ""
	}
	for i := range s.sizes {
		z := &s.sizes[i]
		if !z.known {
			continue
		}
		z.required = z.load.Offered / (z.load.PerInstance * s.set.target)
		if z.load.PerInstanceHigh > 0 {
			z.low = z.load.Offered / (z.load.PerInstanceHigh * s.set.target)
		}
		if z.load.PerInstanceLow > 0 {
			z.high = z.load.Offered / (z.load.PerInstanceLow * s.set.target)
		}
		full := z.load.Offered / z.load.PerInstance
		drain := math.Min(1+s.backlog(z.load.Component), g) * full
		z.want = max(1, ceil(math.Max(s.feasible*z.required, drain)))
		z.to = z.want
		if z.most > 0 {
			z.to = min(z.to, z.most)
		}
		// The hottest instance keeps its share or gets a greater one: shrinking must
		// leave it room, too.
		upper := z.required
		if z.high > upper {
			upper = z.high
		}
		if z.load.SkewShare > 1 {
			upper *= z.load.SkewShare
		}
		z.down = max(1, s.set.minParallelism, ceil(math.Max(upper, (1+s.backlog(z.load.Component))*full)))
	}
}

// unknownLoad is the load of a component of which nothing is known.
func unknownLoad(component string) ComponentLoad {
	nan := math.NaN()
	return ComponentLoad{Component: component, Offered: nan, PerInstance: nan, PerInstanceLow: nan, PerInstanceHigh: nan,
		Busy: nan, Caused: nan, Lag: nan, SkewShare: nan}
}

// notScalable are the components that have a reason of their own why more
// instances would not help: something outside the job limits them.
func (s *Situation) notScalable() map[string]bool {
	stuck := map[string]bool{}
	for _, d := range s.findings.Diagnoses {
		if d.Cause == dhalion.SinkLimited && d.Target.Kind == dhalion.KindComponent && d.ExplainedBy == nil && d.Probability >= s.set.actAbove {
			stuck[d.Target.Component] = true
		}
	}
	return stuck
}

// backlog is the rate at which the lag of the sources above a component must be
// worked off, as a share of their offered load. Unknown lag is none.
func (s *Situation) backlog(component string) float64 {
	if s.set.catchUp <= 0 {
		return 0
	}
	above := s.above(component)
	lag, offered := 0.0, 0.0
	for _, src := range s.sources {
		if above[src.Component] && src.Offered > 0 {
			offered += src.Offered
			if src.Lag > 0 {
				lag += src.Lag
			}
		}
	}
	if offered == 0 {
		return 0
	}
	return lag / (s.set.catchUp.Seconds() * offered)
}

// above are all components from which records reach the given one.
func (s *Situation) above(component string) map[string]bool {
	found := map[string]bool{}
	next := []string{component}
	for len(next) > 0 {
		name := next[len(next)-1]
		next = next[:len(next)-1]
		for _, up := range s.Topology.Upstream(name) {
			if !found[up] {
				found[up] = true
				next = append(next, up)
			}
		}
	}
	return found
}

// size of a component; nil for sources and for what does not exist.
func (s *Situation) size(component string) *size {
	for i := range s.sizes {
		if s.sizes[i].load.Component == component {
			return &s.sizes[i]
		}
	}
	return nil
}

// carries is the share of the offered load that the job carries when the given
// components have other numbers of instances, by PerInstance (rate 0) or the ends
// of its interval (-1, +1). It may exceed 1. Components of unknown rate are
// taken to keep up. NaN when none is known.
func (s *Situation) carries(to map[string]int, rate int) float64 {
	share := math.NaN()
	for i := range s.sizes {
		z := &s.sizes[i]
		if !z.rated() || z.load.Offered == 0 {
			continue
		}
		per := z.load.PerInstance
		switch {
		case rate < 0 && z.load.PerInstanceLow > 0:
			per = z.load.PerInstanceLow
		case rate > 0 && z.load.PerInstanceHigh > 0:
			per = z.load.PerInstanceHigh
		}
		n, changed := to[z.load.Component]
		if !changed {
			n = z.now
		}
		if c := float64(n) * per / z.load.Offered; !(share <= c) {
			share = c
		}
	}
	return share
}

// sizing is the table of the plan: every component that the method sizes, in the
// order of flow.
func (s *Situation) sizing(actions []dhalion.Action) []dhalion.Sizing {
	to := targets(actions)
	table := make([]dhalion.Sizing, 0, len(s.sizes))
	for i := range s.sizes {
		z := &s.sizes[i]
		row := dhalion.Sizing{Component: z.load.Component, From: z.now, To: z.now, Reason: z.why, Figures: z.figures}
		if n, ok := to[z.load.Component]; ok {
			row.To = n
		}
		if z.known {
			row.Required = pointer(z.required)
			row.RequiredLow, row.RequiredHigh = pointer(z.low), pointer(z.high)
			row.Reason = z.note
			if z.most > 0 && z.want > z.most {
				row.Reason = fmt.Sprintf("%d wanted; %s allows %d", z.want, z.bound, z.most)
			}
		}
		table = append(table, row)
	}
	return table
}

// targets are the numbers of instances that actions set.
func targets(actions []dhalion.Action) map[string]int {
	to := map[string]int{}
	for _, a := range actions {
		if n, ok := a.To.Number(); ok && a.Kind == dhalion.SetParallelism {
			to[a.Target.Component] = int(n)
		}
	}
	return to
}

func pointer(v float64) *float64 {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return nil
	}
	return &v
}
