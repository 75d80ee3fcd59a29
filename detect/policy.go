package detect

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"

	dhalion "github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/features"
	"github.com/dhalion-go/dhalion/plan/policy"
)

// replay is how far before the evaluation trails begin, beyond hold and clear:
// what began earlier and still holds is seen as having begun there.
const replay = 2 * time.Minute

// Result is what the policy's detectors saw at one time.
type Result struct {
	Symptoms []dhalion.Symptom // seen, sorted by target, then kind
	Unknown  []dhalion.Unknown
	Snapshot *features.Snapshot // at that time

	sightings map[string]map[dhalion.Target]Sighting
}

// Symptom reports whether a detector's symptom holds at a target, and whether
// that is known. A name that is no detector's is unknown.
func (r Result) Symptom(name string, target dhalion.Target) (held, known bool) {
	s, ok := r.sightings[name][target]
	return s.Seen, ok && s.Known
}

// Score is a detector's score at a target, NaN when unknown.
func (r Result) Score(name string, target dhalion.Target) float64 {
	if s, ok := r.sightings[name][target]; ok && s.Known {
		return s.Score
	}
	return math.NaN()
}

// Evaluate runs a policy's detectors over a history at one time. The Reader must
// have been made for that time.
func Evaluate(r *features.Reader, at time.Time, p *policy.Policy) (Result, error) {
	longest := time.Duration(0)
	for _, d := range p.Detectors {
		longest = max(longest, d.Hold+d.Clear)
	}
	moments := r.Times(at.Add(-longest-replay), at)
	if len(moments) == 0 || !moments[len(moments)-1].Equal(at) {
		moments = append(moments, at)
	}
	snapshots := make([]*features.Snapshot, len(moments))
	for i, t := range moments {
		snapshots[i] = r.At(t)
	}
	now := snapshots[len(snapshots)-1]

	result := Result{Snapshot: now, sightings: map[string]map[dhalion.Target]Sighting{}}
	trails := map[dhalion.Target]Trail{}
	for _, v := range now.Vectors {
		trail := make(Trail, len(moments))
		for i, t := range moments {
			trail[i] = Moment{At: t, Value: func(f string) float64 { return snapshots[i].Value(v.Target, f) }}
		}
		trails[v.Target] = trail
	}
	for _, spec := range p.Detectors {
		byTarget := map[dhalion.Target]Sighting{}
		result.sightings[spec.Name] = byTarget
		unknown := 0
		targets := now.Targets(spec.Target)
		for _, target := range targets {
			var failure error
			d := Hold(spec.Hold, spec.Clear, expression(spec, p, &failure))
			s := d.Detect(trails[target])
			if failure != nil {
				return Result{}, fmt.Errorf("detect: evaluate %s at %s: %w", spec.Name, target, failure)
			}
			byTarget[target] = s
			if !s.Known {
				unknown++
				continue
			}
			if s.Seen {
				result.Symptoms = append(result.Symptoms, dhalion.Symptom{
					Kind: spec.Name, Target: target, Score: s.Score, Probability: s.Probability, Since: s.Since,
				})
			}
		}
		if unknown > 0 && unknown == len(targets) {
			result.Unknown = append(result.Unknown, dhalion.Unknown{
				Target: dhalion.JobTarget(now.Job),
				Reason: fmt.Sprintf("symptom %s: its features are unknown at every %s", spec.Name, spec.Target),
			})
		}
	}
	slices.SortFunc(result.Symptoms, func(a, b dhalion.Symptom) int {
		return cmp.Or(a.Target.Compare(b.Target), cmp.Compare(a.Kind, b.Kind))
	})
	return result, nil
}

// expression is the detector that a policy writes: its condition says whether it
// is seen, its score how badly.
func expression(spec policy.Detector, p *policy.Policy, failure *error) Detector {
	return Func(func(t Trail) Sighting {
		if len(t) == 0 {
			return Sighting{}
		}
		m := t[len(t)-1]
		env := policy.Env{Feature: m.Value, Parameter: p.Number}
		seen, known, err := spec.When.Bool(env)
		if err != nil {
			*failure = err
			return Sighting{}
		}
		if !known {
			return Sighting{}
		}
		s := Sighting{Known: true, Seen: seen, Score: float64(b2i(seen)), Probability: certainty(b2i(seen), 1), Since: m.At}
		if spec.Score != nil {
			score, known, err := spec.Score.Number(env)
			if err != nil {
				*failure = err
				return Sighting{}
			}
			if known {
				s.Score = score
			}
		}
		return s
	})
}
