package apply

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/plan/planfile"
)

// After a crash an action is repeated, asked for, or left alone, by its class.
const (
	Repeatable = "repeatable" // doing it twice is doing it once
	Checkable  = "checkable"  // the engine can say whether it was done
	Opaque     = "opaque"     // nobody can say; it is never repeated
	Harmless   = "harmless"   // it tells a person and changes nothing
)

// Step is one thing that applying a plan does. Actions are the indexes of the
// actions that it carries out, from zero: several changes of parallelism are one
// step, because one rescale is one interruption. A step without actions is what
// apply does around them.
type Step struct {
	Text    string   `json:"text"`
	Class   string   `json:"class,omitempty"`
	Details []string `json:"details,omitempty"`
	Actions []int    `json:"actions"`
	Call    *Intent  `json:"call,omitempty"`    // what would be sent, where that was worked out
	Refused string   `json:"refused,omitempty"` // why it cannot be sent as things are
}

// Class says what a crash in the middle of an action means.
func Class(kind dhalion.ActionKind) string {
	switch kind {
	case dhalion.SetParallelism:
		return Repeatable
	case dhalion.Restart, dhalion.SetKnob, dhalion.Repartition:
		return Checkable
	case dhalion.Alert:
		return Harmless
	}
	return Opaque
}

// Steps lists what applying the plan does, in order. It reads what apply acts
// on, kind, target, from and to, and never an action's message.
func Steps(p dhalion.Plan) []Step {
	var steps []Step
	var checks []string
	changes := false
	for i := 0; i < len(p.Actions); i++ {
		a := p.Actions[i]
		step := Step{Text: planfile.Describe(a), Class: Class(a.Kind), Actions: []int{i}}
		if a.Kind == dhalion.SetParallelism {
			parts := []string{planfile.Describe(a)}
			for i+1 < len(p.Actions) && p.Actions[i+1].Kind == dhalion.SetParallelism {
				i++
				parts = append(parts, planfile.Describe(p.Actions[i]))
				step.Actions = append(step.Actions, i)
			}
			step.Text = "rescale in one request: " + strings.Join(parts, ", ")
		}
		for _, t := range a.Affects {
			step.Details = append(step.Details, fmt.Sprintf("touches %d of %d instances of %s", t.Instances, t.Of, planfile.Plain(string(t.Job))))
		}
		changes = changes || a.Kind != dhalion.Alert
		steps = append(steps, step)
	}
	if !changes {
		return steps
	}
	for _, a := range p.Actions {
		for _, c := range a.Expect.Checks {
			words := planfile.Check(c, a.Expect.WithinSeconds)
			if !slices.Contains(checks, words) {
				checks = append(checks, words)
			}
		}
	}
	var jobs []string
	for _, j := range Jobs(p) {
		jobs = append(jobs, planfile.Plain(string(j)))
	}
	it := "it"
	if len(jobs) > 1 {
		it = "them"
	}
	first := Step{Text: fmt.Sprintf("take the lease of %s, so that no other plan changes %s meanwhile", strings.Join(jobs, " and "), it), Actions: []int{}}
	steps = append([]Step{first}, steps...)
	steps = append(steps, Step{Text: "wait until the job runs with what was asked for and has settled", Actions: []int{}})
	if len(checks) > 0 {
		steps = append(steps, Step{Text: "judge the outcome", Details: checks, Actions: []int{}})
	}
	return steps
}

// DryRun writes in words what applying the plan would do, with the calls that
// were worked out for its steps. It does none of it.
func DryRun(w io.Writer, p dhalion.Plan, id string, steps []Step) error {
	var b strings.Builder
	if len(p.Actions) == 0 {
		fmt.Fprintf(&b, "Plan %s has no actions: apply would do nothing.\n", id)
	} else {
		fmt.Fprintf(&b, "Plan %s for %s, as of %s. Apply would:\n", id, planfile.Plain(string(p.Job)), p.AsOf.UTC().Format(time.RFC3339))
	}
	for i, s := range steps {
		class := ""
		if s.Class != "" {
			class = " (" + s.Class + ")"
		}
		fmt.Fprintf(&b, "  %d. %s%s\n", i+1, s.Text, class)
		for _, d := range s.Details {
			fmt.Fprintf(&b, "     - %s\n", d)
		}
		for _, line := range calls(s) {
			fmt.Fprintf(&b, "     > %s\n", line)
		}
		if s.Refused != "" {
			fmt.Fprintf(&b, "     ! it would be refused: %s\n", planfile.Plain(s.Refused))
		}
	}
	fmt.Fprintln(&b, "Nothing was done: this is a dry run.")
	_, err := io.WriteString(w, b.String())
	return err
}

// calls are the lines of what a step sends.
func calls(s Step) (lines []string) {
	if s.Call == nil {
		return nil
	}
	for _, r := range s.Call.Requests {
		line := planfile.Plain(strings.TrimSpace(fmt.Sprintf("%s %s %s", r.Method, r.Path, r.Body)))
		if r.Where != "" {
			line += " (where " + r.Where + ")"
		}
		lines = append(lines, line)
	}
	if len(s.Call.Argv) > 0 {
		lines = append(lines, fmt.Sprintf("run %s with DHALION_ACTION_ID=%s", planfile.Command(s.Call.Argv...), s.Call.ID))
	}
	return lines
}
