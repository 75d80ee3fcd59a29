package diagnose

import (
	"fmt"
	"math"
	"slices"
	"strings"

	dhalion "github.com/dhalion-go/dhalion"
)

var nan = math.NaN()

// Fuse is the result with the probabilities of a model: what the rules say, what its
// classifiers say, and what simulated hypotheses say, combined as it has learned.
// The evidence of each diagnosis adds up to its log-odds: the rules' as far as they
// are trusted, the other voices', and under "combination" what remains (the cause's
// bias, calibration, what another diagnosis explains). Where a case is unlike any
// that the model has seen, its classifier is not asked, and Unknown says so.
//
// A window that is too short to be judged stays as it is.
func (r *Result) Fuse(m *Learned) *Result {
	cases := r.Cases()
	if cases == nil {
		return r
	}
	fused := *r
	fused.Unknown = slices.Clone(r.Unknown)
	pairs := map[dhalion.Pair]*judged{}
	strange := map[dhalion.Cause][]string{}
	for _, c := range cases {
		o := m.judge(c)
		if o.strange != nil && len(strange[c.Cause]) == 0 {
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
			add("combination", rest, nan)
		}
		pairs[c.Pair] = j
	}
	fused.Diagnoses = append([]dhalion.Diagnosis{}, list(pairs)...)
	for _, cause := range dhalion.Causes {
		if s := strange[cause]; len(s) > 0 {
			fused.Unknown = append(fused.Unknown, dhalion.Unknown{Target: dhalion.JobTarget(r.Job), Cause: cause,
				Reason: fmt.Sprintf("the model was not asked: %s is unlike all that it has seen (%s)", s[0], strings.Join(s[1:], ", "))})
		}
	}
	return &fused
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
