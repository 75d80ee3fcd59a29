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

// ds2Settings are the parameters of DS2 (Kalavri et al., OSDI 2018).
type ds2Settings struct {
	factor     float64 // instances more than needed, as a share
	sourceRate float64 // records per second of every instance of a source; 0: as measured
}

func ds2SettingsOf(p *policy.Policy) (ds2Settings, error) {
	s := ds2Settings{factor: number(p, "factor", 0), sourceRate: number(p, "source_rate", 0)}
	if !(s.factor >= 0 && s.factor <= 1e6) {
		return s, fmt.Errorf("policy %s: factor %v is not a number from 0", p.Name, s.factor)
	}
	if !(s.sourceRate >= 0 && s.sourceRate <= mostRate) {
		return s, fmt.Errorf("policy %s: source_rate %v is not a rate", p.Name, s.sourceRate)
	}
	return s, nil
}

// unthrottled is by how much what a source could put out must be above what it does
// for a word about it. In DS2's own word count it is 1.4 times.
const unthrottled = 1.5

// observedRate among SourceRates stands for what the source was seen to put out.
const observedRate = -1

// solveDS2 sizes every component from one observation. Down the graph, of a
// component with p instances:
//
//	x    = in / (true processing rate / p)
//	want = ⌈x·(1 + factor)⌉
//	out  = true output rate · x / p
//
// in being the sum of what is above it puts out; every edge carries all of it. A
// source puts out its true output rate, which is what it could, or what it is said
// to. The quotients are taken in DS2's order, and the ceiling has no tolerance: its
// integers are reproduced, also where a rounding decides.
func (s *Situation) solveDS2(in Input, loads map[string]ComponentLoad) error {
	s.feasible = 1
	for _, name := range sortedNames(in.SourceRates) {
		rate := in.SourceRates[name]
		if _, ok := s.Topology.Component(name); !ok || !s.Topology.IsSource(name) {
			return fmt.Errorf("source rate of %q: the job has no such source", name)
		}
		if !(rate >= 0 && rate <= mostRate) && rate != observedRate {
			return fmt.Errorf("source rate of %q: %v is not a rate", name, rate)
		}
	}
	rates, err := ratesOf(in.Rates, s.Topology)
	if err != nil {
		return err
	}
	newest := time.Time{}
	output := map[string]float64{} // records per second; NaN unknown
	for _, name := range s.Topology.Order() {
		c, _ := s.Topology.Component(name)
		p := float64(c.Parallelism)
		r, given := rates[name]
		epoch := r.Epoch
		if !given {
			epoch = features.Epoch{TrueIn: math.NaN(), TrueOut: math.NaN(), Out: math.NaN()}
		}
		if epoch.At.After(newest) {
			newest = epoch.At
		}
		load, ok := loads[name]
		if !ok {
			load = unknownLoad(name)
		}
		s.ignoredByDS2(load)
		if s.Topology.IsSource(name) {
			rate, said := in.SourceRates[name]
			switch {
			case said && rate == observedRate:
				output[name] = epoch.Out
			case said:
				output[name] = rate * p
			case s.set.ds2.sourceRate > 0:
				output[name] = s.set.ds2.sourceRate * p
			default:
				if output[name] = epoch.TrueOut; epoch.TrueOut > unthrottled*epoch.Out {
					s.warn(WarnIgnored, "%s puts out %s records/s; DS2 sizes for the %s/s that it could (--param source_rate=N says what it should)",
						name, planfile.Quantity(epoch.Out), planfile.Quantity(epoch.TrueOut))
				}
			}
			load.Offered = output[name]
			s.sources = append(s.sources, load)
			continue
		}
		arriving, from := 0.0, ""
		for _, up := range s.Topology.Upstream(name) {
			if arriving += output[up]; math.IsNaN(output[up]) {
				from = up
			}
		}
		z := s.newSize(c, unknownLoad(name))
		output[name] = math.NaN()
		switch x := arriving / (epoch.TrueIn / p); {
		case from != "":
			z.why = fmt.Sprintf("what %s puts out is not known", from)
		case math.IsNaN(epoch.TrueIn):
			z.why = "its true processing rate is not known"
		case math.IsNaN(x) || math.IsInf(x, 0):
			z.why = "its true processing rate is 0"
		default:
			z.known = true
			z.required = x
			z.load.Offered, z.load.PerInstance = arriving, epoch.TrueIn/p
			if epoch.KnownIn < epoch.Of {
				z.note = fmt.Sprintf("%d of its %d instances have a true rate, and speak for the others", epoch.KnownIn, epoch.Of)
			}
			s.give(&z, whole(math.Ceil(x*(1+s.set.ds2.factor))))
			output[name] = epoch.TrueOut * (x / p)
		}
		if from == "" {
			z.figures = figures(
				dhalion.Figure{Name: "in", Value: arriving, Unit: "1/s"},
				dhalion.Figure{Name: "true_processing_rate", Value: epoch.TrueIn, Unit: "1/s"},
				dhalion.Figure{Name: "true_output_rate", Value: epoch.TrueOut, Unit: "1/s"},
				dhalion.Figure{Name: "out", Value: output[name], Unit: "1/s"})
		}
		s.sizes = append(s.sizes, z)
	}
	if len(s.Topology.Edges) == 0 {
		s.warn(WarnUnknownSize, "the topology has no edges, so every component is a source and there is nothing to size: give ingest a --topology")
	}
	if !newest.IsZero() && newest.Before(in.Window.Start) {
		s.warn(WarnOldRates, "the newest rates are of %s, %s before", newest.Format(time.RFC3339), planfile.Duration(s.AsOf.Sub(newest)))
	}
	return nil
}

// ignoredByDS2 says what of a component's load DS2 does not look at.
func (s *Situation) ignoredByDS2(load ComponentLoad) {
	if load.Source && load.Lag > smallLag*load.Offered {
		s.warn(WarnIgnored, "%s records wait at %s; DS2 leaves them out", planfile.Quantity(load.Lag), load.Component)
	}
	if !load.Source && load.SkewShare >= slowdown {
		s.warn(WarnIgnored, "an instance of %s gets %s times its share; DS2 takes all for alike", load.Component, planfile.Quantity(load.SkewShare))
	}
}

func (s *Situation) warn(code, format string, args ...any) {
	s.warnings = append(s.warnings, dhalion.Warning{Code: code, Message: fmt.Sprintf(format, args...)})
}

func sortedNames(m map[string]float64) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// ratesOf checks rates and finds them by component.
func ratesOf(list []features.Rates, t dhalion.Topology) (map[string]features.Rates, error) {
	rates := map[string]features.Rates{}
	for _, r := range list {
		if _, ok := t.Component(r.Component); !ok {
			return nil, fmt.Errorf("rates of %q: no such component", r.Component)
		}
		if _, twice := rates[r.Component]; twice {
			return nil, fmt.Errorf("rates of %q are given twice", r.Component)
		}
		for _, v := range []float64{r.Epoch.TrueIn, r.Epoch.TrueOut, r.Epoch.Out, r.Span.In, r.Span.Out, r.Span.InMean, r.Span.BusyMost, r.Span.BusyLeast, r.Span.BusyMean} {
			if v < 0 || v > mostRate {
				return nil, fmt.Errorf("rates of %q: %v is not within 0 and %g", r.Component, v, float64(mostRate))
			}
		}
		rates[r.Component] = r
	}
	return rates, nil
}
