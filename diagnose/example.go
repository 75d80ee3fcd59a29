package diagnose

import (
	"math"
	"slices"
	"time"

	dhalion "github.com/dhalion-go/dhalion"
)

// How long a label must have held for its window to show it, and how long after
// its end windows still show what was: a label holds for a window if it was true
// in its last 20 s; a poll takes some seconds. An outage is seen for as long as it
// is in the window.
const (
	Shows       = 20 * time.Second
	lingers     = 25 * time.Second
	outageTrail = 65 * time.Second
)

// Lingers is how long after an incident's end windows still show it.
func Lingers(c dhalion.Cause) time.Duration {
	if c == dhalion.Failing {
		return outageTrail
	}
	return lingers
}

// Example is a window of which it is known what was wrong: what learners learn
// from, and what they are judged on.
type Example struct {
	// Family names what must not be on both sides of a validation: a shape of job, or
	// the job. Run is the recording, and Incident what the window is about.
	Family, Run, Incident string
	// Magnitude is how strong the incident was, in the words of who labelled it; empty
	// where nobody said.
	Magnitude string
	At        time.Time
	// Window is how far back it looks, by the policy.
	Window time.Duration
	Cases  []Case
	// Holds says of each case whether its cause holds at its target: 1, 0, or NaN
	// where the labels do not tell.
	Holds []float64
	// Chances are how likely each case is to hold by labels that are not certain, NaN
	// where none speaks of it; nil where all are certain. Holds is what is likelier.
	Chances []float64
	// Certainty is that of the labels, 0 to 1.
	Certainty float64
	// Stray is a label that the window shows and that none of its pairs is of: the target
	// is none at which the cause is judged, or was not there at that time. Which of the
	// pairs hold is not known then, and there are no Cases: the window teaches nothing,
	// and is no measure. nil: there is no such label.
	Stray *dhalion.Incident
}

// NewExample is what a judged window teaches, given the job's incidents. A pair of
// an incident that has begun so lately, or ended so lately, that the window may or
// may not show it is left open; so are pairs that its labels do not speak of.
func NewExample(r *Result, incidents []dhalion.Incident) Example {
	e := Example{At: r.At, Window: r.policy.Window, Cases: r.Cases(), Certainty: 1}
	e.Holds = make([]float64, len(e.Cases))
	chances := make([]float64, len(e.Cases)) // 0: no label says so
	for _, in := range incidents {
		if !r.At.After(in.Start) || r.At.After(in.End.Add(Lingers(in.Cause))) {
			continue
		}
		shown := !r.At.Before(in.Start.Add(Shows)) && !r.At.After(in.End)
		if shown {
			e.Certainty = math.Min(e.Certainty, in.Certainty)
			if len(e.Cases) > 0 && !slices.ContainsFunc(e.Cases, func(c Case) bool { return speaksOf(in, c.Pair) == 1 }) {
				return Example{At: e.At, Window: e.Window, Certainty: e.Certainty, Stray: &in}
			}
		}
		for i, c := range e.Cases {
			switch same := speaksOf(in, c.Pair); {
			case same == 1 && shown:
				// What did not help against a cause is a label, too: that it more likely did
				// not hold.
				chances[i] = math.Max(chances[i], in.Certainty)
				e.Holds[i] = flag(chances[i] >= .5)
			case same > 0 && chances[i] == 0:
				e.Holds[i] = math.NaN()
			}
		}
	}
	for i, c := range chances {
		if c > 0 && c < 1 {
			if e.Chances == nil {
				e.Chances = slices.Repeat([]float64{nan}, len(e.Cases))
			}
			e.Chances[i] = c
		}
	}
	return e
}

// speaksOf is 1 where an incident's label says that a pair holds, 1/2 where it
// leaves open whether it does, else 0.
func speaksOf(in dhalion.Incident, p dhalion.Pair) float64 {
	switch {
	case in.Cause == dhalion.Failing && p.Cause == dhalion.Failing:
		// Whatever threw: at which target it is said depends on whether the engine names
		// the task. The job fails in any case.
		if p.Target.Kind == dhalion.KindJob {
			return 1
		}
		return .5
	case in.Cause == p.Cause && in.Target == p.Target:
		return 1
	case in.Cause == dhalion.Failing:
		return flag(p.Cause == dhalion.Transient || p.Cause == dhalion.CheckpointFailing || p.Cause == dhalion.SourceLimited) / 2
	case in.Cause == dhalion.Overprovisioned && p.Cause == in.Cause:
		return flag(in.Target.Kind == dhalion.KindJob) / 2
	}
	return 0
}
