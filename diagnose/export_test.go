package diagnose

import (
	dhalion "github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/features"
)

// OneChanges are the changes of one feature that Flip tries for a pair.
func (q *Inquiry) OneChanges(pair dhalion.Pair) []Change {
	var all []Change
	for _, k := range q.about(pair).knobs() {
		for _, side := range k.sides {
			for _, v := range side {
				all = append(all, k.to(v))
			}
		}
	}
	return all
}

// After is a pair's probability with changes; all says to ask the simulation, too.
func (q *Inquiry) After(pair dhalion.Pair, changes []Change, all bool) (float64, bool) {
	w := q.about(pair)
	return w.probability(w.changed(changes), all)
}

// CasesOf are the cases of an exemplar's target, of all causes that classifiers judge
// there.
func (m *Learned) CasesOf(e Exemplar) []Case {
	v := dhalion.Vector{Target: e.Target, Values: make([]float64, len(features.JudgingSchema(e.Target.Kind).Names))}
	for i := range v.Values {
		v.Values[i] = nan
	}
	for f, i := range m.columns[e.Target.Kind] {
		v.Values[i] = e.Values[f]
	}
	var cases []Case
	for _, s := range seats() {
		if s.Kind == e.Target.Kind && m.Classifiers[s] != nil {
			cases = append(cases, Case{Pair: dhalion.Pair{Target: e.Target, Cause: s.Cause}, Vector: v, Rules: .5, Synthesis: .5})
		}
	}
	return cases
}

// Asks says whether the classifiers of all cases are asked.
func (m *Learned) Asks(cases []Case) bool {
	for _, c := range cases {
		if o := m.judge(c, jobOf(cases)); o.silent || o.strange != nil {
			return false
		}
	}
	return len(cases) > 0
}
