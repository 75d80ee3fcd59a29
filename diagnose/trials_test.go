package diagnose

import (
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// asOneRun is made's examples as one job's that came one after the other.
func asOneRun(families int, seed uint64) []Example {
	out := made(families, seed)
	for i := range out {
		out[i].Family, out[i].Run = "orders", "prod/orders"
		out[i].At = time.Unix(int64(60*i), 0).UTC()
	}
	return out
}

func TestOfASingleJobTheClassifierIsTrustedAsFarAsItForesees(t *testing.T) {
	m := trained(t, asOneRun(3, 1))
	if w := m.Fused.Weight[byClassifier]; !(w > .3) {
		t.Errorf("a classifier that is always right has the weight %v", w)
	}
	missed := 0
	for _, e := range made(1, 99) {
		for i, p := range m.Probabilities(e.Cases) {
			if (e.Holds[i] == 1) != (p > .5) {
				missed++
			}
		}
	}
	if missed > 0 {
		t.Errorf("%d of 160 on the wrong side of a half", missed)
	}
}

func TestTrialsKeepRunsAndTimesApart(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		// Who labels a run may name its family, another, or none.
		families, runs := rapid.IntRange(1, 3).Draw(t, "families"), rapid.IntRange(1, 4).Draw(t, "runs")
		mixed := rapid.Bool().Draw(t, "mixed")
		apartBy := rapid.SampledFrom([]int{100000, 1500, 0}).Draw(t, "runs apart by")
		var all []Example
		for i := range rapid.IntRange(1, 40).Draw(t, "n") {
			r := rapid.IntRange(0, runs-1).Draw(t, "run")
			f := fmt.Sprint("family", r%families)
			if mixed {
				f = rapid.SampledFrom([]string{f, f, "", "run" + fmt.Sprint(r), "family0"}).Draw(t, "family")
			}
			in := rapid.IntRange(0, 5).Draw(t, "incident")
			// A run's incidents come one after the other; runs do, or run at the same time.
			at := apartBy*r + 1000*in + i
			all = append(all, Example{Family: f, Run: fmt.Sprint("run", r), Incident: fmt.Sprint(r, "/", in), At: time.Unix(int64(at), 0), Certainty: rapid.SampledFrom([]float64{1, 1, .7}).Draw(t, "certainty")})
		}
		different := func(of func(Example) string) int {
			seen := map[string]bool{}
			for _, e := range all {
				seen[of(e)] = true
			}
			return len(seen)
		}
		several, manyRuns := apart(named(all)) > 1, different(func(e Example) string { return e.Run }) > 1
		trials, _ := Trials(all)
		for _, trial := range trials {
			latest := time.Unix(math.MinInt32, 0)
			runs, incidents, families := map[string]bool{}, map[string]bool{}, map[string]bool{}
			sure := false
			for _, e := range trial.From {
				runs[e.Run], incidents[e.Incident], families[e.Family] = true, true, true
				sure = sure || e.Certainty == 1
				if e.At.After(latest) {
					latest = e.At
				}
			}
			if !sure || len(trial.Asked) == 0 {
				t.Fatalf("%s: nothing to learn from, or nothing asked", trial.Name)
			}
			for _, e := range trial.Asked {
				switch {
				case e.Certainty < 1:
					t.Fatal("an outcome is a measure")
				case incidents[e.Incident], (several || manyRuns) && runs[e.Run], several && families[e.Family]:
					t.Fatalf("%s: %s is on both sides", trial.Name, e.Incident)
				case !several && !e.At.After(latest):
					t.Fatalf("%s: it learned from what came later", trial.Name)
				}
			}
		}
	})
}

// named are the examples with a family of its own for each that names none.
func named(all []Example) []Example {
	all = slices.Clone(all)
	for i, e := range all {
		if e.Family == "" {
			all[i].Family = e.Run
		}
	}
	return all
}

// apart counts the groups of examples that no run and no family connects.
func apart(all []Example) int {
	group := make([]int, len(all))
	for i := range group {
		group[i] = i
	}
	for range all {
		for i, a := range all {
			for j, b := range all {
				if a.Run == b.Run || a.Family == b.Family {
					group[i] = min(group[i], group[j])
				}
			}
		}
	}
	slices.Sort(group)
	return len(slices.Compact(group))
}

func TestASingleIncidentIsTriedOnNothing(t *testing.T) {
	e := made(1, 1)[0]
	for _, examples := range [][]Example{{e, e}, nil} {
		if trials, untried := Trials(examples); len(trials)+len(untried) != 0 {
			t.Errorf("%d examples: %+v, and %q not tried", len(examples), trials, untried)
		}
	}
}

// Three runs of one family, an hour apart every day for ten days: two folds are the last
// two runs. Of what came before 01:00 and 02:00 on the first day there is one window and
// there are two.
func TestOfRunsAtTheSameTimeOnlyWhatCameBeforeTeaches(t *testing.T) {
	start := time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
	var all []Example
	for day := range 10 {
		for k, run := range []string{"prod/a", "prod/b", "prod/c"} {
			all = append(all, Example{Family: "orders", Run: run, Incident: fmt.Sprint(run, day), At: start.AddDate(0, 0, day).Add(time.Duration(k) * time.Hour), Certainty: 1})
		}
	}
	trials, untried := Trials(all)
	if len(trials) != 2 || len(trials[0].From) != 1 || len(trials[1].From) != 2 || len(trials[0].Asked) != 10 || len(untried) != 0 {
		t.Errorf("%d trials, %q not tried: %+v", len(trials), untried, trials)
	}
	for i := range all {
		all[i].At = start.AddDate(0, 0, i/3) // to the second at the same time
	}
	want := []string{"on what came before 2026-06-01 00:00:00", "on what came before 2026-06-01 00:00:00"}
	if trials, untried = Trials(all); len(trials) != 0 || !slices.Equal(untried, want) {
		t.Errorf("of runs at the very same times: %d trials, %q not tried", len(trials), untried)
	}
}

func TestAFamilyNamedForSomeOfARunHoldsForAllOfIt(t *testing.T) {
	var families []string
	for _, e := range OneFamilyARun([]Example{
		{Run: "file/a", Family: "diamond"}, {Run: "file/a"}, {Run: "file/a", Family: "file/a"}, // a label, an outcome, one by hand
		{Run: "file/b", Family: "chain"}, {Run: "file/c", Family: "fanout"}, {Run: "file/b", Family: "fanout"}, // one run, two families
		{Run: "file/d"}, {Run: "file/e", Family: "file/e"},
	}) {
		families = append(families, e.Family)
	}
	want := []string{"diamond", "diamond", "diamond", "chain+fanout", "chain+fanout", "chain+fanout", "file/d", "file/e"}
	if !slices.Equal(families, want) {
		t.Errorf("%q, not %q", families, want)
	}
}
