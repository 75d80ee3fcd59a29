package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/diagnose"
	"github.com/dhalion-go/dhalion/plan/planfile"
)

// Why windows of a label teach nothing.
const (
	notJudged = "not_judged_there" // no pair that is judged is of its target and cause
	tooShort  = "too_short"        // it is over before the first window would be asked for
)

// leastShown is how long a label of a cause lasts that one window shows.
const leastShown = diagnose.Shows + learnEvery

// leftOut is a label of which windows, or all, teach nothing and are no measure.
type leftOut struct {
	Job     dhalion.JobID  `json:"job"`
	Cause   string         `json:"cause"`
	Target  dhalion.Target `json:"target"`
	Start   time.Time      `json:"start"`
	End     time.Time      `json:"end"`
	Why     string         `json:"why"`
	Windows int            `json:"windows"` // that were judged in vain
}

func (l leftOut) words() string {
	return fmt.Sprintf("%s at %s of %s, %s", l.Cause, planfile.Where(l.Target), l.Job, when(l.Start))
}

// of says that a label is this one.
func (l leftOut) of(in dhalion.Incident) bool {
	return l.Job == in.Job && l.Cause == causeOr(in.Cause) && l.Target == in.Target && l.Start.Equal(in.Start) && l.End.Equal(in.End)
}

// hides says that a label taught nothing because this one is left out: it is the same, or
// of the time of one whose windows are.
func (l leftOut) hides(in dhalion.Incident) bool {
	return l.of(in) || l.Job == in.Job && l.Why == notJudged && in.Start.Before(l.End) && l.Start.Before(in.End)
}

// leaveOut counts windows of a label as left out.
func leaveOut(all []leftOut, in dhalion.Incident, why string, windows int) []leftOut {
	l := leftOut{in.Job, causeOr(in.Cause), in.Target, in.Start.UTC(), in.End.UTC(), why, windows}
	for i := range all {
		if all[i].of(in) && all[i].Why == why {
			all[i].Windows += windows
			return all
		}
	}
	return append(all, l)
}

// lefts are those of some jobs.
func lefts(all []leftOut, of func(job dhalion.JobID) bool) []leftOut {
	return slices.DeleteFunc(slices.Clone(all), func(l leftOut) bool { return !of(l.Job) })
}

// leftOut says what was left out, a paragraph a reason.
func (a *app) leftOut(all []leftOut) {
	for _, why := range []string{notJudged, tooShort} {
		of := slices.DeleteFunc(slices.Clone(all), func(l leftOut) bool { return l.Why != why })
		if len(of) == 0 {
			continue
		}
		windows := 0
		for _, l := range of {
			windows += l.Windows
		}
		text := fmt.Sprintf("Left out: %s of %s whose cause is not judged at the target then, or without that target", plural(windows, "window"), plural(len(of), "label"))
		if why == tooShort {
			text = fmt.Sprintf("Left out: %s too short to be judged, which takes %s of a cause, and of none the policy's window", plural(len(of), "label"), planfile.Duration(leastShown))
		}
		const most = 3
		var some []string
		for _, l := range of[:min(most, len(of))] {
			some = append(some, l.words())
		}
		if n := len(of) - len(some); n > 0 {
			some = append(some, fmt.Sprintf("and %d more", n))
		}
		a.printf("\n%s\n", wrap(plain(text+": "+strings.Join(some, "; ")+"."), a.width(), ""))
	}
}
