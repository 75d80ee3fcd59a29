package main

import (
	"math"
	"testing"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/diagnose"
	"github.com/dhalion-go/dhalion/lab/recorded"
)

func failing(n string) recorded.Incident {
	return recorded.Incident{Name: n, Held: []dhalion.Incident{{Job: "file/a", Target: dhalion.JobTarget("file/a"), Cause: dhalion.Failing}}}
}

func TestAFaultOfWhichNothingIsSaidIsMissed(t *testing.T) {
	pair := dhalion.Pair{Target: dhalion.JobTarget("file/a"), Cause: dhalion.Failing}
	all := []window{
		{Example: diagnose.Example{Incident: "seen", Cases: []diagnose.Case{{Pair: pair}}, Holds: []float64{1}}, Asked: []asked{at60}, About: failing("seen")},
		{Example: diagnose.Example{Incident: "abstained"}, Asked: []asked{at60}, About: failing("abstained")},
		{Example: diagnose.Example{Incident: "by rules"}, Asked: []asked{at60}, About: failing("by rules"), Right: true},
	}
	s := judge("some", all, [][]float64{{.9}, {}, {}}, 1)
	// Two of three: one is seen, of one rules tell that read across windows.
	if c := s.byCause["failing"]; c == nil || c.right != 2 || c.all != 3 {
		t.Errorf("%v of three faults are right", c)
	}
	if len(s.losses) != 1 || s.n != 1 {
		t.Errorf("%d log losses and %d first diagnoses of the one window that has probabilities", len(s.losses), s.n)
	}
	if learned := examples(all); len(learned) != 1 {
		t.Errorf("%d windows are learned from, and one has something to learn", len(learned))
	}
}

func TestAVoiceWithoutAnAnswerGivesTheRateAndNotNought(t *testing.T) {
	pair := dhalion.Pair{Target: dhalion.JobTarget("file/a"), Cause: dhalion.Failing}
	silent := diagnose.Case{Pair: pair, Rules: 3, Synthesis: math.NaN()}
	var from []window
	for i := range 9 { // it held in three
		from = append(from, window{Example: diagnose.Example{Cases: []diagnose.Case{silent}, Holds: []float64{float64(i % 3 / 2)}}, Asked: []asked{at60}})
	}
	ask, err := synthesis(t.Context(), from)
	if err != nil {
		t.Fatal(err)
	}
	p, err := ask([]window{{Example: diagnose.Example{Cases: []diagnose.Case{silent, {Pair: pair, Synthesis: 2}}}}})
	if err != nil {
		t.Fatal(err)
	}
	// (3 + 4/11) ÷ 10: three of nine, and once the rate of all, (3 + 1) ÷ (9 + 2).
	if want := (3 + 4.0/11) / 10; math.Abs(p[0][0]-want) > 1e-12 || p[0][1] != logistic(2) {
		t.Errorf("%v, not %v and %v", p[0], want, logistic(2))
	}
}
