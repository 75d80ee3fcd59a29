package diagnose

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/dhalion-go/dhalion/models"
)

// Trial is a way to try a learner: what it may learn from, and what it is asked about
// then. No run, or of a single one no incident, is on both sides.
type Trial struct {
	Name        string
	From, Asked []Example
}

// mostFolds is how many stretches of time a single family's examples are cut into.
const mostFolds = 5

// Trials are those that examples allow. Of several families each is left out once.
// A single one is cut into stretches of time, and each but the first is asked of what
// was learned from windows that ended before its first: runs at the same time teach as
// far as that. What is asked about is sure: outcomes that were judged teach, and are no
// measure. There are none of a single incident. Untried are trials that there would be
// if anything sure were left to learn from.
func Trials(examples []Example) (trials []Trial, untried []string) {
	examples = OneFamilyARun(examples)
	families := familiesOf(examples)
	folds := foldsOf(examples)
	for f := range slices.Max(append(folds, 0)) + 1 {
		t := Trial{}
		if len(families) == 1 && f == 0 {
			continue // there is nothing before it
		}
		var first time.Time
		for i, e := range examples {
			if folds[i] == f && e.sure() {
				t.Asked = append(t.Asked, e)
				if first.IsZero() || e.At.Before(first) {
					first = e.At
				}
			}
		}
		if len(t.Asked) == 0 {
			continue
		}
		teaches := false
		for i, e := range examples {
			if len(families) > 1 && folds[i] != f || folds[i] < f && e.At.Before(first) {
				t.From = append(t.From, e)
				teaches = teaches || e.sure()
			}
		}
		if len(families) > 1 {
			t.Name = "without " + families[f]
		} else {
			t.Name = fmt.Sprintf("on what came before %s", first.UTC().Format(time.DateTime))
		}
		if teaches {
			trials = append(trials, t)
		} else {
			untried = append(untried, t.Name)
		}
	}
	return trials, untried
}

func (e *Example) sure() bool { return e.Certainty >= 1 }

// OneFamilyARun is the examples with families that keep whole runs apart: what is told
// of a run without naming a family belongs to the family that something else told of it
// names, and families that have a run in common are one, named after all of them. A run
// of which nothing names any is a family by itself.
func OneFamilyARun(examples []Example) []Example {
	named := map[string]map[string]int{} // the families that are one with a run's
	for _, e := range examples {
		all := named[e.Run]
		if all == nil {
			all = map[string]int{}
			named[e.Run] = all
		}
		if _, known := all[e.Family]; known || e.Family == "" || e.Family == e.Run {
			continue
		}
		all[e.Family] = 0
		for run, other := range named {
			if _, ok := other[e.Family]; ok && run != e.Run {
				for name := range other {
					all[name] = 0
				}
			}
		}
		for run, other := range named {
			if slices.ContainsFunc(sorted(other), func(name string) bool { _, ok := all[name]; return ok }) {
				named[run] = all
			}
		}
	}
	out := slices.Clone(examples)
	for i, e := range out {
		if out[i].Family = strings.Join(sorted(named[e.Run]), "+"); out[i].Family == "" {
			out[i].Family = e.Run
		}
	}
	return out
}

func familiesOf(examples []Example) []string {
	names := map[string]int{}
	for _, e := range examples {
		names[e.Family] = 0
	}
	return sorted(names)
}

// foldsOf deals the examples out: a fold a family; where there is one alone, runs, and of
// a single run incidents, in stretches of time.
func foldsOf(examples []Example) []int {
	folds := make([]int, len(examples))
	if families := familiesOf(examples); len(families) > 1 {
		for i, e := range examples {
			folds[i], _ = slices.BinarySearch(families, e.Family)
		}
		return folds
	}
	of := func(e Example) string { return e.Run }
	if slices.IndexFunc(examples, func(e Example) bool { return e.Run != examples[0].Run }) < 0 {
		of = func(e Example) string { return e.Incident }
	}
	groups, times, seen := make([]string, len(examples)), make([]int64, len(examples)), map[string]bool{}
	for i, e := range examples {
		groups[i], times[i] = of(e), e.At.UnixNano()
		seen[groups[i]] = true
	}
	if some, err := models.Folds(groups, times, min(mostFolds, len(seen))); err == nil {
		return some
	}
	return folds // one group: there is nothing to deal out
}
