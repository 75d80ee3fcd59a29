package plan

import (
	"fmt"
	"math"
	"time"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/plan/planfile"
	"github.com/dhalion-go/dhalion/plan/policy"
)

// sized are the changes that a published method asks for without a diagnosis.
func (s *Situation) sized() []Proposal {
	if s.set.sizing != policy.SizingDS2 && s.set.sizing != policy.SizingAutoscaler {
		return nil
	}
	var proposals []Proposal
	for i := range s.sizes {
		z := &s.sizes[i]
		if !z.known || z.to == z.now {
			continue
		}
		p := s.resize(dhalion.Action{
			Kind: dhalion.SetParallelism, Target: dhalion.ComponentTarget(s.Job, z.load.Component), Because: []dhalion.Pair{},
			Expect: dhalion.Expectation{Checks: []dhalion.Check{}}, Affects: []dhalion.Affected{},
		}, z, z.to)
		if !s.set.allows(dhalion.SetParallelism) {
			p.Refused = fmt.Sprintf("the policy's limits do not allow %s", dhalion.SetParallelism)
		}
		proposals = append(proposals, p)
	}
	return proposals
}

// give sets what a method wants of a component, within what can be done: not
// above the component's and the policy's greatest number, nor shrunk below the
// policy's least, and never to none.
func (s *Situation) give(z *size, want int) {
	z.want = want
	z.to = max(1, want)
	if z.to > z.now && z.most > 0 {
		z.to = max(z.now, min(z.to, z.most))
	}
	if least := min(z.now, s.set.minParallelism); z.to < least {
		z.to = least
		z.note = fmt.Sprintf("%d wanted; the policy's min_parallelism is %d", want, s.set.minParallelism)
	}
	z.down = z.to
}

// whole is a number of instances; what no engine could run is cut off.
func whole(x float64) int {
	if !(x < 1e9) {
		return 1e9
	}
	return int(x)
}

// figures are those that are finite.
func figures(list ...dhalion.Figure) []dhalion.Figure {
	var out []dhalion.Figure
	for _, f := range list {
		if !math.IsNaN(f.Value) && !math.IsInf(f.Value, 0) {
			out = append(out, f)
		}
	}
	return out
}

// expectByMethod fills in what a change should achieve by the method that asked
// for it.
func (s *Situation) expectByMethod(a *dhalion.Action) {
	if a.Kind == dhalion.Alert {
		return
	}
	within := (s.set.restart + settle).Round(time.Second)
	a.Expect.WithinSeconds = within.Seconds()
	z := s.size(a.Target.Component)
	n, scales := a.To.Number()
	if z == nil || a.Kind != dhalion.SetParallelism || !scales {
		if a.Expect.Summary == "" {
			a.Expect.Summary = "the load is kept up with"
		}
		return
	}
	name := z.load.Component
	if s.set.sizing == policy.SizingPaper {
		limit := s.set.paper.noise
		a.Expect.Summary = fmt.Sprintf("%s holds up nothing", name)
		a.Expect.Checks = append(a.Expect.Checks, dhalion.Check{
			Metric: dhalion.BackpressureCaused, Target: a.Target, Compare: "at_most", Value: limit, Low: 0, High: limit,
		})
		return
	}
	if busy := z.utilisation(int(n)); !math.IsNaN(busy) {
		busy = math.Min(1, busy)
		a.Expect.Summary = fmt.Sprintf("%s takes %s records/s and is %s busy", name, planfile.Quantity(z.load.Offered), planfile.Percent(busy))
		if busy < 1 {
			// The method takes the load for as high as it can be: less is no failure.
			a.Expect.Checks = append(a.Expect.Checks, dhalion.Check{
				Metric: dhalion.Busy, Target: a.Target, Compare: "at_most", Value: math.Max(s.set.target, busy), Low: 0, High: busy,
			})
		}
		return
	}
	a.Expect.Summary = fmt.Sprintf("%s keeps up", name)
}
