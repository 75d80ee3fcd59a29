package diagnose_test

import (
	"fmt"
	"math"
	"testing"

	dhalion "github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/diagnose"
	"github.com/dhalion-go/dhalion/internal/twin"
	"github.com/dhalion-go/dhalion/models"
)

// labelledFault is the word count with its first fault, judged at its end, and the label of
// that, of certainty 1.
func labelledFault(t *testing.T) (*diagnose.Result, dhalion.Incident) {
	t.Helper()
	p, err := loadDefault()
	if err != nil {
		t.Fatal(err)
	}
	fault := faults[0]
	j := twinJob{model: wordCount(), noise: .05, seed: 1}
	j.change = func(m *twin.Model) { fault.change(m, 3) }
	r, err := diagnose.Evaluate(j.history(), twinStart.Add(twinAsked), p)
	if err != nil {
		t.Fatal(err)
	}
	return r, dhalion.Incident{Job: jobOfTwin, Target: fault.holds.Target, Cause: fault.holds.Cause, Start: twinStart.Add(twinHealthy), End: twinStart.Add(twinAsked), Certainty: 1}
}

func TestWhatMostLikelyDidNotHoldTeachesThatItDidNot(t *testing.T) {
	r, label := labelledFault(t)
	k := -1
	cases := r.Cases()
	for i, c := range cases {
		if c.Pair.Cause == label.Cause && c.Pair.Target == label.Target {
			k = i
		}
	}
	labelled := func(certainty float64) dhalion.Incident {
		in := label
		in.Certainty = certainty
		return in
	}
	for _, c := range []struct {
		labels []float64
		holds  float64
		chance float64
	}{
		{[]float64{1}, 1, math.NaN()},
		{[]float64{.7}, 1, .7},
		{[]float64{.18}, 0, .18},
		{[]float64{.18, 1}, 1, math.NaN()}, // somebody looked, and knows
	} {
		var incidents []dhalion.Incident
		for _, l := range c.labels {
			incidents = append(incidents, labelled(l))
		}
		e := diagnose.NewExample(r, incidents)
		chance := math.NaN()
		if e.Chances != nil {
			chance = e.Chances[k]
		}
		if e.Holds[k] != c.holds || chance != c.chance && !(math.IsNaN(chance) && math.IsNaN(c.chance)) {
			t.Errorf("labels of certainty %v: it holds %v, with %v, not %v with %v", c.labels, e.Holds[k], chance, c.holds, c.chance)
		}
	}

	// Forty judged outcomes say of the same picture that the cause did not hold, at .18:
	// a classifier that learns from them says less than that it is likelier than not.
	// When they are of .7 it is likelier.
	learned := func(certainty float64) float64 {
		var examples []diagnose.Example
		for n := range 40 {
			e := diagnose.NewExample(r, []dhalion.Incident{labelled(certainty)})
			e.Family, e.Run, e.Incident = "one", fmt.Sprint("run", n), fmt.Sprint("outcome ", n)
			examples = append(examples, e)
		}
		for _, table := range diagnose.Tables(examples) {
			if table.Cause != label.Cause {
				continue
			}
			m, err := (&models.Booster{Rounds: 20, Leaves: 4, Least: 5}).Fit(t.Context(), table.Data, 1)
			if err != nil {
				t.Fatal(err)
			}
			var two [2]float64
			m.Predict(diagnose.Inputs(cases[k]), two[:])
			return two[1]
		}
		return math.NaN() // there is nothing to learn from
	}
	if v := learned(.18); v >= .5 {
		t.Errorf("what was unmet teaches that it holds with %.2f", v)
	}
	if v := learned(.7); !(v > .5) {
		t.Errorf("what was met teaches that it holds with %.2f", v)
	}
}

func TestAWindowOfALabelThatNoPairIsOfTeachesNothing(t *testing.T) {
	r, label := labelledFault(t)
	at := func(target dhalion.Target) dhalion.Incident {
		in := label
		in.Target = target
		return in
	}
	gone := at(dhalion.InstanceTarget(jobOfTwin, "counter", 99))
	for name, c := range map[string]struct {
		labels []dhalion.Incident
		stray  bool
	}{
		"of the pair":                     {[]dhalion.Incident{label}, false},
		"of the job":                      {[]dhalion.Incident{at(dhalion.JobTarget(jobOfTwin))}, true},
		"of an instance that is not":      {[]dhalion.Incident{gone}, true},
		"of the pair and of one that not": {[]dhalion.Incident{label, gone}, true},
	} {
		e := diagnose.NewExample(r, c.labels)
		if stray := e.Stray != nil; stray != c.stray || stray != (len(e.Cases) == 0) || len(e.Cases) != len(e.Holds) {
			t.Errorf("%s: stray is %v, and there are %d pairs", name, e.Stray, len(e.Cases))
		}
	}
	// One that the window is too early to show leaves the window as it is.
	gone.Start = twinStart.Add(twinAsked - diagnose.Shows/2)
	if e := diagnose.NewExample(r, []dhalion.Incident{label, gone}); e.Stray != nil || len(e.Cases) == 0 {
		t.Errorf("not yet shown: stray is %v, and there are %d pairs", e.Stray, len(e.Cases))
	}
}

func TestWindowsOfOneIncidentAreNotEnoughToLearnFrom(t *testing.T) {
	r, label := labelledFault(t)
	tables := func(incidents int) int {
		var examples []diagnose.Example
		for n := range 12 {
			e := diagnose.NewExample(r, []dhalion.Incident{label})
			e.Family, e.Run, e.Incident = "one", "run", fmt.Sprint(n%incidents)
			examples = append(examples, e)
		}
		return len(diagnose.Tables(examples))
	}
	// Four incidents is what it takes.
	if few, enough := tables(3), tables(4); few != 0 || enough != 1 {
		t.Errorf("twelve windows of three incidents give %d classifiers, of four %d", few, enough)
	}
}
