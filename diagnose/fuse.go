package diagnose

import (
	"fmt"
	"math"
	"slices"
	"strings"

	dhalion "github.com/dhalion-go/dhalion"
)

var nan = math.NaN()

// combination names what the voices alone do not come to.
const combination = "combination"

// Fuse is the result with the probabilities of a model: what the rules say, what its
// classifiers say, and what simulated hypotheses say, combined as it has learned.
// The evidence of each diagnosis adds up to its log-odds: the rules' as far as they
// are trusted, the other voices', and under "combination" what remains (the cause's
// bias, calibration, what another diagnosis explains). Where a case, or the job as a
// whole, is unlike any that the model has seen, its classifier is not asked, and
// Unknown says so. What the rules could not judge for want of data gets no probability:
// of what is unknown to all in training a classifier knows nothing.
//
// A window that is too short to be judged stays as it is, and so does everything
// without a model (nil).
func (r *Result) Fuse(m *Learned) *Result {
	if m == nil {
		return r
	}
	cases := r.Cases()
	if cases == nil {
		return r
	}
	fused := *r
	fused.fused = map[dhalion.Pair]float64{}
	fused.Unknown = slices.Clone(r.Unknown)
	pairs := map[dhalion.Pair]*judged{}
	strange := map[dhalion.Cause][]string{}
	job := jobOf(cases)
	alien := m.alien(job)
	if alien != nil {
		fused.Unknown = append(fused.Unknown, dhalion.Unknown{Target: dhalion.JobTarget(r.Job),
			Reason: fmt.Sprintf("the model's classifiers were not asked: the job is unlike all that they have seen (%s)", strings.Join(alien, ", "))})
	}
	for _, c := range cases {
		if c.Unknown {
			continue
		}
		o := m.judge(c, job)
		if o.strange != nil && alien == nil && len(strange[c.Cause]) == 0 {
			strange[c.Cause] = append([]string{at(c.Target)}, o.strange...)
		}
		j := &judged{Diagnosis: dhalion.Diagnosis{Target: c.Target, Cause: c.Cause, Probability: o.probability, Evidence: []dhalion.Evidence{}}, alone: o.probability}
		rest := logit(o.probability)
		add := func(name string, weight, value float64) {
			rest -= weight
			j.Evidence = append(j.Evidence, dhalion.Evidence{Name: name, Weight: weight, Value: value})
		}
		if w := r.weighed[c.Pair]; w != nil {
			j.ExplainedBy = w.ExplainedBy
			trust := m.Fused.Weight[byRules]
			if math.IsNaN(o.said[byClassifier]) {
				trust = m.Alone.Weight[byRules]
			}
			for _, e := range w.Evidence {
				if e.Name != "prior" {
					add(e.Name, trust*e.Weight, e.Value)
				}
			}
		}
		for _, v := range []voice{byClassifier, bySynthesis} {
			if !math.IsNaN(o.said[v]) {
				add(voiceNames[v], o.parts[v], logistic(o.said[v]))
			}
		}
		if math.Abs(rest) >= .05 {
			add(combination, rest, nan)
		}
		pairs[c.Pair] = j
	}
	fused.Diagnoses = append([]dhalion.Diagnosis{}, list(pairs)...)
	for pair, j := range pairs {
		fused.fused[pair] = j.Probability
	}
	for _, cause := range dhalion.Causes {
		if s := strange[cause]; len(s) > 0 {
			fused.Unknown = append(fused.Unknown, dhalion.Unknown{Target: dhalion.JobTarget(r.Job), Cause: cause,
				Reason: fmt.Sprintf("the model's classifier was not asked: %s is unlike all that it has seen (%s)", s[0], strings.Join(s[1:], ", "))})
		}
	}
	return &fused
}

// Probability is how likely a pair is, listed or not; ok is false where that was not
// judged: the window is too short, or what it takes is unknown.
func (r *Result) Probability(p dhalion.Pair) (v float64, ok bool) {
	if v, ok = r.fused[p]; ok {
		return v, true
	}
	for _, d := range r.Diagnoses {
		if d.Target == p.Target && d.Cause == p.Cause {
			return d.Probability, true
		}
	}
	if r.unjudged[p] {
		return 0, false
	}
	for _, u := range r.Unknown {
		if u.Cause == "" || u.Cause == p.Cause && u.Target == p.Target {
			return 0, false
		}
	}
	return 0, true
}

// at is a target in words.
func at(t dhalion.Target) string {
	switch t.Kind {
	case dhalion.KindInstance:
		return fmt.Sprintf("%s[%d]", t.Component, t.Instance)
	case dhalion.KindWorker:
		return "worker " + t.Worker
	case dhalion.KindJob:
		return "the job"
	}
	return t.Component
}
