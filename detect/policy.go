package detect

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	dhalion "github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/features"
	"github.com/dhalion-go/dhalion/internal/parallel"
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

// Given is a Result in which the given symptoms are seen and every other symptom
// of the policy is known not to be: what a diagnosis is drawn from when findings
// come from elsewhere, or from a test.
func Given(snap *features.Snapshot, p *policy.Policy, symptoms []dhalion.Symptom) Result {
	r := Result{Symptoms: slices.Clone(symptoms), Snapshot: snap, sightings: map[string]map[dhalion.Target]Sighting{}}
	sortSymptoms(r.Symptoms)
	for _, spec := range p.Detectors {
		r.sightings[spec.Name] = map[dhalion.Target]Sighting{}
		for _, target := range snap.Targets(spec.Target) {
			r.sightings[spec.Name][target] = Sighting{Known: true}
		}
	}
	for _, s := range symptoms {
		if r.sightings[s.Kind] == nil {
			r.sightings[s.Kind] = map[dhalion.Target]Sighting{}
		}
		r.sightings[s.Kind][s.Target] = Sighting{Known: true, Seen: true, Score: s.Score, Probability: s.Probability, Since: s.Since}
	}
	return r
}

func sortSymptoms(list []dhalion.Symptom) {
	slices.SortFunc(list, func(a, b dhalion.Symptom) int {
		return cmp.Or(a.Target.Compare(b.Target), cmp.Compare(a.Kind, b.Kind))
	})
}

// Evaluate runs a policy's detectors over a history at one time. The Reader must
// have been made for that time. A detector that fails is unknown, says so in
// Unknown, and leaves the others alone; it is an error that there is no policy.
func Evaluate(r *features.Reader, at time.Time, p *policy.Policy) (Result, error) {
	if p == nil {
		return Result{}, errors.New("detect: evaluate: no policy")
	}
	moments := momentsOf(r, at, p)
	snapshots := snapshotsAt(r, moments)
	now := snapshots[len(snapshots)-1]

	result := Result{Snapshot: now, sightings: map[string]map[dhalion.Target]Sighting{}}
	trails := map[dhalion.Target]Trail{}
	trailOf := func(target dhalion.Target) Trail {
		if t, ok := trails[target]; ok {
			return t
		}
		trail := make(Trail, len(moments))
		for i, t := range moments {
			trail[i] = Moment{At: t, Value: func(f string) float64 { return snapshots[i].Value(target, f) }}
		}
		trails[target] = trail
		return trail
	}
	learned := newLearner(r, p, moments, now)
	for _, spec := range p.Detectors {
		byTarget := map[dhalion.Target]Sighting{}
		result.sightings[spec.Name] = byTarget
		unknown := 0
		targets := now.Targets(spec.Target)
		var failure error
		learned.begin()
		for _, target := range targets {
			s := detectorOf(spec, p, learned, target, &failure).Detect(trailOf(target))
			if failure != nil {
				break
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
		switch {
		case failure != nil:
			clear(byTarget)
			result.Symptoms = slices.DeleteFunc(result.Symptoms, func(s dhalion.Symptom) bool { return s.Kind == spec.Name })
			result.Unknown = append(result.Unknown, dhalion.Unknown{
				Target: dhalion.JobTarget(now.Job),
				Reason: fmt.Sprintf("symptom %s: its detector failed: %v", spec.Name, failure),
			})
		case unknown > 0 && unknown == len(targets):
			reason := fmt.Sprintf("its features are unknown at every %s", spec.Target)
			if learned.reason != "" {
				reason = learned.reason
			}
			result.Unknown = append(result.Unknown, dhalion.Unknown{Target: dhalion.JobTarget(now.Job), Reason: fmt.Sprintf("symptom %s: %s", spec.Name, reason)})
		}
	}
	sortSymptoms(result.Symptoms)
	return result, nil
}

func snapshotsAt(r *features.Reader, times []time.Time) []*features.Snapshot {
	all := make([]*features.Snapshot, len(times))
	parallel.Each(len(times), func(i int) { all[i] = r.At(times[i]) })
	return all
}

// momentary: asked at the one time alone.
func momentary(spec policy.Detector, p *policy.Policy) bool {
	return spec.Learn == nil && p.Decisions == policy.DecideBinary && spec.Hold == 0 && spec.Clear == 0
}

// momentsOf are the times at which the features are needed, the last one is at.
func momentsOf(r *features.Reader, at time.Time, p *policy.Policy) []time.Time {
	longest := time.Duration(-1)
	for _, d := range p.Detectors {
		if !momentary(d, p) {
			longest = max(longest, d.Hold+d.Clear)
		}
	}
	var moments []time.Time
	if longest >= 0 {
		moments = r.Times(at.Add(-longest-replay), at)
	}
	if len(moments) == 0 || !moments[len(moments)-1].Equal(at) {
		moments = append(moments, at)
	}
	return moments
}

// detectorOf is the detector that a policy writes, for a target.
func detectorOf(spec policy.Detector, p *policy.Policy, l *learner, target dhalion.Target, failure *error) Detector {
	if spec.Learn != nil {
		d, err := l.detector(spec, target)
		if err != nil {
			*failure = err
			return Func(func(Trail) Sighting { return Sighting{} })
		}
		return d
	}
	d := expression(spec, p, failure)
	if !momentary(spec, p) {
		return Hold(spec.Hold, spec.Clear, d)
	}
	return Func(func(t Trail) Sighting {
		s := d.Detect(t)
		if s.Known {
			s.Probability = float64(b2i(s.Seen)) // yes or no
		}
		return s
	})
}

// expression is the detector that a policy's condition and score make: the one
// says whether it is seen, the other how badly.
func expression(spec policy.Detector, p *policy.Policy, failure *error) Detector {
	return Func(func(t Trail) Sighting {
		if len(t) == 0 {
			return Sighting{}
		}
		m := t[len(t)-1]
		ofComponent := func(f string) float64 { return m.Value(policy.OfComponent + f) }
		env := policy.Env{Feature: m.Value, Parameter: p.Number, Component: &policy.Env{Feature: ofComponent, Parameter: p.Number}}
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
