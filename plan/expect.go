package plan

import (
	"cmp"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/plan/planfile"
)

// tolerance is how far below its prediction a throughput may stay and still be
// met: the noise of a minute's mean is below a twentieth.
const tolerance = 0.05

// settle is how long the job is given after it runs again: one window to measure
// in.
const settle = time.Minute

// smallLag is the lag that a job in order has, in seconds of its offered load.
const smallLag = 5

// expect fills in what an action of the plan should achieve, given the sizes that
// the whole plan leads to. The checks are true of the plan as a whole: one
// rescale has one effect on throughput.
func (s *Situation) expect(a *dhalion.Action, to map[string]int) {
	if a.Kind == dhalion.Alert {
		return
	}
	carries, low, high := s.carries(to, 0), s.carries(to, -1), s.carries(to, +1)
	within := s.set.restart + settle
	if math.IsNaN(carries) {
		a.Expect.WithinSeconds = within.Seconds()
		if a.Expect.Summary == "" {
			a.Expect.Summary = "the offered load is kept up with (no figures: rates are not known)"
		}
		return
	}

	components := s.about(*a)
	sources := s.feeding(components)
	var drain time.Duration
	lag := 0.0
	for _, src := range sources {
		if !(carries > 1+1e-9) {
			continue
		}
		due := src.Offered * s.set.restart.Seconds() // what arrives while the job stands still
		if src.Lag > 0 {
			due += src.Lag
		}
		if src.Lag > smallLag*src.Offered {
			lag += src.Lag
		}
		// Above a day it is no prediction any more.
		d := math.Min(86400, due/((carries-1)*src.Offered))
		drain = max(drain, time.Duration(d*float64(time.Second)))
	}
	within = (within + drain).Round(time.Second)
	if rest := within % (10 * time.Second); rest > 0 {
		within += 10*time.Second - rest
	}
	a.Expect.WithinSeconds = within.Seconds()

	var said []string
	for _, src := range sources {
		predicted := src.Offered * math.Min(1, carries)
		a.Expect.Checks = append(a.Expect.Checks, dhalion.Check{
			Metric: dhalion.RecordsOut, Target: dhalion.ComponentTarget(s.Job, src.Component), Compare: "at_least",
			Value: predicted * (1 - tolerance), Low: src.Offered * math.Min(1, low), High: src.Offered * math.Max(math.Min(1, carries), math.Min(1, high)),
		})
		said = append(said, fmt.Sprintf("%s puts out %s of the %s records/s offered", src.Component, planfile.Quantity(predicted), planfile.Quantity(src.Offered)))
	}
	for _, name := range components {
		z := s.size(name)
		if z == nil || !z.known {
			continue
		}
		n, changed := to[name]
		if !changed {
			n = z.now
		}
		// Where the job as a whole cannot carry the load, less arrives here.
		share := math.Min(1, carries)
		busy := math.Min(1, share*z.utilisation(n))
		check := dhalion.Check{Metric: dhalion.Busy, Target: s.watched(*a, name), Compare: "at_most", Value: busy, Low: busy, High: busy}
		if z.load.PerInstanceHigh > 0 {
			check.Low = math.Min(busy, share*z.load.Offered/(float64(n)*z.load.PerInstanceHigh))
		}
		if z.load.PerInstanceLow > 0 {
			check.High = math.Max(busy, math.Min(1, share*z.load.Offered/(float64(n)*z.load.PerInstanceLow)))
		}
		// Halfway between what was aimed at, or the upper end of the prediction, and
		// saturation: what is nearer to the first did what it should.
		check.Value = (1 + math.Max(s.set.target, check.High)) / 2
		said = append(said, fmt.Sprintf("%s is %s busy", name, planfile.Percent(busy)))
		if check.Value < 1 { // at most wholly busy says nothing
			a.Expect.Checks = append(a.Expect.Checks, check)
		}
	}
	for _, src := range sources {
		if !(src.Lag > smallLag*src.Offered) || carries <= 1+1e-9 {
			continue
		}
		left := src.Lag + src.Offered*s.set.restart.Seconds() - math.Max(0, low-1)*src.Offered*drain.Seconds()
		perRead := cmp.Or(src.PerRead, 1) // the lag is measured in records to be read
		a.Expect.Checks = append(a.Expect.Checks, dhalion.Check{
			Metric: dhalion.Lag, Target: dhalion.ComponentTarget(s.Job, src.Component), Compare: "at_most",
			Value: smallLag * src.Offered / perRead, Low: 0, High: math.Max(0, left) / perRead,
		})
	}
	if lag > 0 {
		said = append(said, fmt.Sprintf("the backlog of %s records drains in %s, with what the restart adds", planfile.Quantity(lag), planfile.Duration(drain)))
	}
	if a.Expect.Summary != "" {
		said = append([]string{a.Expect.Summary}, said...)
	}
	a.Expect.Summary = strings.Join(said, "; ")
}

// about are the components that an action is about: its target's, or those on the
// worker.
func (s *Situation) about(a dhalion.Action) []string {
	if a.Target.Component != "" {
		return []string{a.Target.Component}
	}
	if a.Target.Kind == dhalion.KindWorker {
		on, _ := s.placed()
		here := map[string]bool{}
		for _, p := range on[a.Target.Worker] {
			here[p.Component] = true
		}
		var names []string
		for i := range s.sizes {
			if here[s.sizes[i].load.Component] {
				names = append(names, s.sizes[i].load.Component)
			}
		}
		return names
	}
	for _, b := range a.Because {
		if b.Target.Component != "" {
			return []string{b.Target.Component}
		}
	}
	return nil
}

// feeding are the sources above the components, of which the offered load is
// known; all such sources when no component is given.
func (s *Situation) feeding(components []string) []ComponentLoad {
	above := map[string]bool{}
	for _, c := range components {
		for name := range s.above(c) {
			above[name] = true
		}
	}
	var sources []ComponentLoad
	for _, src := range s.sources {
		if src.Offered > 0 && (len(components) == 0 || above[src.Component]) {
			sources = append(sources, src)
		}
	}
	return sources
}

// watched is where the busy share of a component is looked at: the instance that
// was sick, where there is one.
func (s *Situation) watched(a dhalion.Action, component string) dhalion.Target {
	for _, b := range a.Because {
		if b.Target.Kind == dhalion.KindInstance && b.Target.Component == component && a.Kind != dhalion.SetParallelism {
			return b.Target
		}
	}
	return dhalion.ComponentTarget(s.Job, component)
}
