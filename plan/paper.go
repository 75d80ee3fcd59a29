package plan

import (
	"fmt"
	"math"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/plan/policy"
)

// paperSettings are the parameters of the Dhalion paper's sizing (VLDB 2017) and
// Heron's health manager.
type paperSettings struct {
	scaleDown float64 // share of the instances that stay; not within 0 and 1: none are taken away
	noise     float64 // share of the time in backpressure that is none
}

func paperSettingsOf(p *policy.Policy) (paperSettings, error) {
	s := paperSettings{scaleDown: number(p, "scale_down", 0), noise: number(p, "noise_limit", 0.02)}
	if !(s.scaleDown >= 0 && s.scaleDown <= 1) || !(s.noise >= 0 && s.noise <= 1) {
		return s, fmt.Errorf("policy %s: scale_down %v or noise_limit %v is not within 0 and 1", p.Name, s.scaleDown, s.noise)
	}
	return s, nil
}

// solvePaper sizes every component from the time for which its n instances hold
// up what is above them, B ms per second in all:
//
//	f = min(4, B/(1000 − B)), B ≥ 1000 counting as 999
//	want = ⌈n·(1 + f)⌉
//
// 500 doubles, 750 gives four times as many, from 800 on it is five times. n is
// the topology's number: instances that report nothing are there all the same. The
// resolvers act only where a diagnosis asks for it.
func (s *Situation) solvePaper(loads map[string]ComponentLoad) {
	s.feasible = 1
	for _, name := range s.Topology.Order() {
		load, given := loads[name]
		if !given {
			load = unknownLoad(name)
		}
		if load.Source || s.Topology.IsSource(name) {
			s.sources = append(s.sources, load)
			continue
		}
		c, _ := s.Topology.Component(name)
		z := s.newSize(c, load)
		switch {
		case math.IsNaN(load.Caused):
			z.why = "nobody reports how long it holds up what is above"
		default:
			z.known = true
			// Shares of the time come from divisions; a millionth of a millisecond is
			// their rounding, and must not cost an instance.
			held := math.Round(load.Caused*1e9) / 1e6
			b := held
			if b >= 1000 {
				b = 999
			}
			f := math.Min(4, b/(1000-b))
			z.required = float64(z.now) * (1 + f)
			s.give(&z, ceil(z.required))
			z.figures = figures(dhalion.Figure{Name: "B", Value: held, Unit: "ms/s"}, dhalion.Figure{Name: "f", Value: f})
		}
		z.down = z.now
		if z.known && s.set.paper.scaleDown > 0 && s.set.paper.scaleDown < 1 {
			fewer := int(math.Floor(float64(z.now)*s.set.paper.scaleDown + 1e-9))
			z.down = max(1, min(z.now, s.set.minParallelism), fewer)
		}
		s.sizes = append(s.sizes, z)
	}
}
