package diagnose

import (
	"math"
	"slices"

	dhalion "github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/features"
	"github.com/dhalion-go/dhalion/plan/policy"
)

// Case is a pair that may be a diagnosis, with what is known about it: what a
// classifier is asked, and what it learns from.
type Case struct {
	dhalion.Pair
	Vector dhalion.Vector // of the target, by features.JudgingSchema
	// Rules is the log-odds of the policy's rules after explaining away, NaN where
	// none speaks of the pair.
	Rules float64
	// Synthesis is the evidence of simulated hypotheses, NaN where there is none.
	Synthesis float64
	// Unknown says that what it takes to judge the pair is missing, and that the result
	// says so: no classifier is asked of it.
	Unknown bool
}

// possible says whether a cause may hold at a target by its definition.
func possible(c dhalion.Cause, t dhalion.Target, snap *features.Snapshot) bool {
	switch c {
	case dhalion.Underprovisioned, dhalion.SlowInstance, dhalion.DataSkew:
		return snap.Value(t, "is_source") == 0
	case dhalion.Overprovisioned:
		return t.Kind == dhalion.KindJob || snap.Value(t, "is_source") == 0
	case dhalion.SourceLimited:
		return snap.Value(t, "is_source") == 1
	case dhalion.SinkLimited:
		return snap.Value(t, "is_external") == 1
	}
	return true
}

// judgedAt says whether any cause may hold at a target.
func judgedAt(t dhalion.Target, snap *features.Snapshot) bool {
	for cause, kinds := range policy.Kinds {
		if slices.Contains(kinds, t.Kind) && possible(cause, t, snap) {
			return true
		}
	}
	return false
}

// Cases are the pairs of a judged window, in order of cause and target. Where the
// window is too short there are none.
func (r *Result) Cases() []Case {
	if r.short {
		return nil
	}
	vectors := map[dhalion.Target]dhalion.Vector{}
	var simulated map[dhalion.Pair]Synthesis
	if r.reader != nil {
		simulated = Synthesise(r.Snapshot, r.reader.Healthy(), r.policy)
	}
	var cases []Case
	for _, cause := range dhalion.Causes {
		for _, kind := range policy.Kinds[cause] {
			for _, target := range r.Snapshot.Targets(kind) {
				if !possible(cause, target, r.Snapshot) {
					continue
				}
				v, ok := vectors[target]
				if !ok {
					v = r.Snapshot.Judging(target)
					vectors[target] = v
				}
				c := Case{Pair: dhalion.Pair{Target: target, Cause: cause}, Vector: v, Rules: math.NaN(), Synthesis: math.NaN()}
				c.Unknown = r.unjudged[c.Pair]
				if j := r.weighed[c.Pair]; j != nil {
					c.Rules = logit(j.Probability)
				}
				if s, ok := simulated[c.Pair]; ok {
					c.Synthesis = s.LogOdds
				}
				cases = append(cases, c)
			}
		}
	}
	return cases
}

// surest bounds log-odds: what is surer is not told apart.
const surest = 12

func logit(p float64) float64 {
	return math.Max(-surest, math.Min(surest, math.Log(p/(1-p))))
}
