package apply

import (
	"strings"
	"time"

	"github.com/dhalion-go/dhalion"
)

// Outcomes are what the journal says of a plan's actions, for one that nobody
// carries on: applied where the last attempt is confirmed as done, failed where it
// was refused or nobody knows, refused where none was begun. Of a step that is half done
// they say what was written down of that half.
func Outcomes(id string, p dhalion.Plan, entries []Entry, now time.Time) []dhalion.Outcome {
	outcomes := notBegun(id, p, now)
	for _, s := range Steps(p) {
		if len(s.Actions) == 0 {
			continue
		}
		attempts := entriesOf(entries, s.Actions[0])
		if len(attempts) == 0 {
			continue
		}
		last := attempts[len(attempts)-1]
		applied, detail := "failed", "it was begun and nobody knows whether it was done"
		switch {
		case last.Intent.Back && isDone(attempts):
			detail = "it failed, and the job runs as before"
		case isDone(attempts):
			applied, detail = "applied", "it was done"
		case last.Result != nil && last.Result.Detail != "":
			detail = last.Result.Detail
		}
		if half := halfOf(attempts); half != "" && !isDone(attempts) && !strings.Contains(detail, half) {
			detail = half + "; of the rest: " + detail
		}
		for _, i := range s.Actions {
			outcomes[i].Applied, outcomes[i].Detail, outcomes[i].At = applied, detail, last.At
		}
	}
	return outcomes
}

// halfOf is what was written down in the middle of a step, the newest; empty: nothing.
func halfOf(attempts []Entry) (detail string) {
	for _, e := range attempts {
		if e.Result != nil && e.Result.Outcome == Partly {
			detail = e.Result.Detail
		}
	}
	return detail
}

// Stopped says of a plan that nobody carries on that its last step, which begins with an
// action, has stopped its job, or may have, and is not known to have started it again.
// how says with which savepoint; empty: whether it is stopped is not known.
func Stopped(p dhalion.Plan, entries []Entry) (action int, how string, ok bool) {
	if entries = acting(p, entries); !down(p, entries) {
		return 0, "", false
	}
	action = entries[len(entries)-1].Action
	return action, halfOf(entriesOf(entries, action)), true
}

// Begun reports whether an action was done, or may have been, by the journal: its
// last attempt was not refused.
func Begun(p dhalion.Plan, entries []Entry, action int) bool {
	for _, s := range Steps(p) {
		for _, i := range s.Actions {
			if i != action {
				continue
			}
			attempts := entriesOf(entries, s.Actions[0])
			if len(attempts) == 0 {
				return false
			}
			last := attempts[len(attempts)-1]
			if last.Intent.Back && isDone(attempts) {
				return false // it was undone at once
			}
			return last.Result == nil || last.Result.Outcome != Refused
		}
	}
	return false
}

// notBegun are the outcomes before anything was done.
func notBegun(id string, p dhalion.Plan, now time.Time) []dhalion.Outcome {
	outcomes := make([]dhalion.Outcome, len(p.Actions))
	for i, x := range p.Actions {
		o := dhalion.Outcome{Plan: id, Action: i, Job: p.Job, Kind: x.Kind, Target: x.Target, Applied: "refused", At: now, Detail: "not begun"}
		if len(x.Because) > 0 {
			o.Cause = x.Because[0].Cause
		}
		outcomes[i] = o
	}
	return outcomes
}
