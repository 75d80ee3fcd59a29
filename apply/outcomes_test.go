package apply

import (
	"testing"
	"time"

	"github.com/dhalion-go/dhalion"
)

func TestOfAStepThatIsHalfDoneItsOutcomeSaysWhatWasWrittenDown(t *testing.T) {
	half := &Result{Outcome: Partly, Detail: "run a is stopped with savepoint s"}
	unknown := "it was begun and nobody knows whether it was done"
	for _, c := range []struct {
		name   string
		later  []Entry // behind the half
		detail string
	}{
		{"and no more", nil, half.Detail},
		{"and the rest is open", []Entry{{}}, half.Detail + "; of the rest: " + unknown},
		{"and the rest got no answer", []Entry{{Result: &Result{Outcome: Unsure, Detail: "no answer"}}}, half.Detail + "; of the rest: no answer"},
		{"and the rest says so itself", []Entry{{Result: &Result{Outcome: Unsure, Detail: half.Detail + " and run b did not start"}}}, half.Detail + " and run b did not start"},
		{"and the way back is open", []Entry{{Result: &Result{Outcome: Done}}, {Intent: Intent{Back: true}}}, half.Detail + "; of the rest: " + unknown},
		{"and it is done", []Entry{{Result: &Result{Outcome: Done}}}, "it was done"},
		{"and it is undone", []Entry{{Intent: Intent{Back: true}, Result: &Result{Outcome: Done}}}, "it failed, and the job runs as before"},
	} {
		got := Outcomes("p", dhalion.Plan{Job: job, Actions: []dhalion.Action{{Kind: dhalion.SetKnob}}}, append([]Entry{{Result: half}}, c.later...), time.Time{})
		if got[0].Detail != c.detail {
			t.Errorf("%s: it says %q, not %q", c.name, got[0].Detail, c.detail)
		}
	}
}
