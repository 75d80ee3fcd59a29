package apply

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/plan/planfile"
)

// What an action can be judged to have come to.
const (
	Met     = "met"
	Unmet   = "unmet"
	Unclear = "unclear"
)

// Holding is the probability from which a cause is taken to hold still.
const Holding = 0.5

// shortfall is how far below what is offered a source may stay and still keep up:
// the noise of a minute's mean is below a twentieth.
const shortfall = 0.05

// grown is by how much more than predicted must arrive before a miss says nothing
// about the action.
const grown = 1.1

// fallen is below which share of what was predicted less arrives than the plan spoke
// of, so that instances which it left are idle for another reason.
const fallen = 0.9

// Silence is how long after the end of an expectation its plan waits for
// measurements, before it is unclear for want of them.
const Silence = 10 * time.Minute

// Seen is what was measured over one window that began after an apply.
type Seen struct {
	At time.Time // the window's end
	// Value is the mean of a metric at a target, summed over the instances of a
	// component where it is a rate or a count; NaN: unknown.
	Value func(t dhalion.Target, m dhalion.Metric) float64
	// Offered is what arrives at a source, records/s; NaN: unknown.
	Offered func(component string) float64
	// Probability is that a cause holds; ok is false when that was not judged.
	Probability func(p dhalion.Pair) (v float64, ok bool)
	// Changed says what has become of the job since that is not of the plan; empty:
	// nothing.
	Changed string
}

// Verdict is what came of a plan, and of each of its actions.
type Verdict struct {
	State    dhalion.PlanState // met, unmet or unclear
	Why      string
	Outcomes []dhalion.Outcome // with Judged and Detail of every action that is judged
	At       time.Time         // the end of the window that decided

	blind bool // unclear because something was not measured
}

// Due is when a plan must have done what it should, if the job ran with it at a
// time; ok is false for a plan of which nothing is expected (alerts).
func Due(p dhalion.Plan, settled time.Time) (due time.Time, ok bool) {
	within := 0.0
	for _, a := range p.Actions {
		if a.Kind != dhalion.Alert {
			ok = true
			within = math.Max(within, a.Expect.WithinSeconds)
		}
	}
	return settled.Add(time.Duration(within * float64(time.Second))), ok
}

// Judge holds a plan's expectations against what was seen since the job ran with
// it, in order of time. It is met with the first window in which every check
// holds and no cause that it answers to does. When its time is over the next window
// in which all was measured decides: it is unmet where that one says otherwise, and
// unclear where it does not tell, for somebody changed the job meanwhile, more arrived
// than the plan spoke of, or so much less that what a scale-down left is idle again. For
// such a window it waits as long as Silence; then it is unclear, too. done is false while
// its time is not over.
//
// A plan that undoes another one has only to run: what that one answered to may
// be back.
func Judge(p dhalion.Plan, id string, settled, now time.Time, seen []Seen) (v Verdict, done bool) {
	due, expects := Due(p, settled)
	if !expects {
		return v, false
	}
	for i, s := range seen {
		if s.Changed != "" {
			return verdict(p, id, s, func(dhalion.Action) (string, string, bool) { return Unclear, s.Changed, false }), true
		}
		v = verdict(p, id, s, func(a dhalion.Action) (string, string, bool) { return hold(p, a, s) })
		over := !s.At.Before(due)
		switch {
		case v.State == dhalion.PlanMet, over && !v.blind, over && i+1 == len(seen) && !now.Before(due.Add(Silence)):
			return v, true
		}
	}
	if now.Before(due.Add(Silence)) {
		return v, false
	}
	last := Seen{At: due}
	if len(seen) > 0 {
		// Measurements ended before the time was over: what they say last is all there is.
		last.At = seen[len(seen)-1].At
	}
	return verdict(p, id, last, func(dhalion.Action) (string, string, bool) {
		return Unclear, fmt.Sprintf("nothing was measured between %s and %s, when it should have been met", rfc(last.At), rfc(due)), true
	}), true
}

// verdict judges every action and takes the worst for the plan.
func verdict(p dhalion.Plan, id string, s Seen, judge func(dhalion.Action) (judged, detail string, blind bool)) Verdict {
	v := Verdict{State: dhalion.PlanMet, At: s.At}
	var why []string
	for i, a := range p.Actions {
		if a.Kind == dhalion.Alert {
			continue
		}
		o := dhalion.Outcome{Plan: id, Action: i, Job: p.Job, Kind: a.Kind, Target: a.Target, Applied: "applied", At: s.At}
		if len(a.Because) > 0 {
			o.Cause = a.Because[0].Cause
		}
		blind := false
		o.Judged, o.Detail, blind = judge(a)
		v.blind = v.blind || blind
		v.Outcomes = append(v.Outcomes, o)
		if len(why) == 0 || why[len(why)-1] != o.Detail {
			why = append(why, o.Detail)
		}
		switch {
		case o.Judged == Unmet:
			v.State = dhalion.PlanUnmet
		case o.Judged == Unclear && v.State == dhalion.PlanMet:
			v.State = dhalion.PlanUnclear
		}
	}
	v.Why = strings.Join(why, "; ")
	v.blind = v.blind && v.State == dhalion.PlanUnclear
	return v
}

// hold holds one action's checks and causes against a window; blind says that some
// were not measured.
func hold(p dhalion.Plan, a dhalion.Action, s Seen) (judged, detail string, blind bool) {
	judged = Met
	pace := paceOf(a, s)
	var said []string
	worse := func(to, format string, args ...any) {
		if to == Unmet || judged == Met {
			judged = to
		}
		said = append(said, fmt.Sprintf(format, args...))
	}
	for _, c := range a.Expect.Checks {
		value, limit := s.Value(c.Target, c.Metric), c.Value
		words := planfile.Bound(c)
		offered := math.NaN()
		if c.Target.Kind == dhalion.KindComponent {
			offered = s.Offered(c.Target.Component)
		}
		if c.Metric == dhalion.RecordsOut && c.Compare == "at_least" && offered*(1-shortfall) < limit {
			// Less arrives than the plan spoke of: nobody can put out more than that.
			limit = offered * (1 - shortfall)
			words = fmt.Sprintf("%s (only %s records/s arrive)", words, planfile.Quantity(offered))
		}
		switch met := value >= limit && c.Compare == "at_least" || value <= limit && c.Compare == "at_most"; {
		case math.IsNaN(value):
			blind = true
			worse(Unclear, "not measured: %s", words)
		case met:
			said = append(said, fmt.Sprintf("%s: %s", words, planfile.Value(c.Metric, value)))
		case c.Metric == dhalion.Busy && c.Compare == "at_most" && value/pace <= limit:
			said = append(said, fmt.Sprintf("%s: %s, and %s at %.2f times what the plan spoke of", words,
				planfile.Value(c.Metric, value/pace), planfile.Value(c.Metric, value), pace))
		case loadGrew(p, s):
			worse(Unclear, "%s, not met at %s: more arrives than the plan spoke of", words, planfile.Value(c.Metric, value))
		default:
			worse(Unmet, "%s, not met: %s", words, planfile.Value(c.Metric, value))
		}
	}
	if p.Reverses == "" {
		for _, b := range a.Because {
			switch v, ok := s.Probability(b); {
			case !ok:
				blind = true
				worse(Unclear, "whether %s still holds at %s is not known", b.Cause, b.Target)
			case v >= Holding && b.Cause == dhalion.Overprovisioned && loadFell(a, s):
				// It took away what it should, and there is less to do again; but one short dip is
				// no proof of that.
				worse(Unclear, "%s still holds at %s (p %.2f): less arrives than the plan spoke of", b.Cause, b.Target, v)
			case v >= Holding && b.Cause == dhalion.Underprovisioned && loadGrew(p, s):
				worse(Unclear, "%s still holds at %s (p %.2f): more arrives than the plan spoke of", b.Cause, b.Target, v)
			case v >= Holding:
				worse(Unmet, "%s still holds at %s (p %.2f)", b.Cause, b.Target, v)
			default:
				said = append(said, fmt.Sprintf("%s no longer holds at %s (p %.2f)", b.Cause, b.Target, v))
			}
		}
	}
	if len(said) == 0 {
		said = append(said, "it runs with what was asked for")
	}
	return judged, strings.Join(said, "; "), blind
}

// paceOf is by how much more the sources of an action put out than the plan predicted,
// the least of them; 1 where none puts out more. An instance's busy share is in
// proportion to what it works off, so that divided by the pace it is what it would be
// at the load that the plan spoke of: loads vary, and a backlog is worked off faster than
// it came.
func paceOf(a dhalion.Action, s Seen) float64 {
	pace := math.Inf(1)
	for _, c := range loads(a) {
		pace = math.Min(pace, s.Value(c.Target, c.Metric)/c.High)
	}
	if !(pace > 1) || math.IsInf(pace, 1) {
		return 1
	}
	return pace
}

// loadGrew reports whether more arrives at a source than the plan was made for.
func loadGrew(p dhalion.Plan, s Seen) bool {
	return slices.ContainsFunc(p.Actions, func(a dhalion.Action) bool {
		return slices.ContainsFunc(loads(a), func(c dhalion.Check) bool { return s.Offered(c.Target.Component) > grown*c.High })
	})
}

// loadFell reports whether less arrives at every source above an action's target than
// the plan was made for.
func loadFell(a dhalion.Action, s Seen) bool {
	all := loads(a)
	return len(all) > 0 && !slices.ContainsFunc(all, func(c dhalion.Check) bool { return !(s.Offered(c.Target.Component) < fallen*c.High) })
}

// loads are an action's checks that say how much each source is to put out.
func loads(a dhalion.Action) []dhalion.Check {
	return slices.DeleteFunc(slices.Clone(a.Expect.Checks), func(c dhalion.Check) bool {
		return c.Metric != dhalion.RecordsOut || c.Compare != "at_least" || !(c.High > 0)
	})
}

// Incidents are what a judged plan teaches about the stretch of history that it
// was made from. How certain each is follows from the diagnosis and from what came
// of mending it, by Bayes' rule with odds of 3 to 1 for met (what helped against a
// cause helps by chance, too) and 1 to 7 for unmet; never above .7, because nobody
// looked. An unclear outcome, a rollback and an action without a cause teach
// nothing.
func Incidents(p dhalion.Plan, id string, v Verdict, began time.Time) []dhalion.Incident {
	if p.Reverses != "" {
		return nil
	}
	var incidents []dhalion.Incident
	known := map[dhalion.Pair]bool{}
	for _, o := range v.Outcomes {
		odds := map[string]float64{Met: 3, Unmet: 1.0 / 7}[o.Judged]
		if odds == 0 || o.Action >= len(p.Actions) {
			continue
		}
		a := p.Actions[o.Action]
		for _, b := range a.Because {
			if known[b] {
				continue
			}
			known[b] = true
			prior := probabilityOf(p, b, a.Probability)
			posterior := prior * odds / (prior*odds + 1 - prior)
			incidents = append(incidents, dhalion.Incident{
				Job: p.Job, Target: b.Target, Cause: b.Cause, Start: p.Window.Start, End: began,
				Certainty: math.Min(mostCertain, posterior), Source: "outcome of " + id,
				Note: fmt.Sprintf("%s was %s", planfile.Describe(a), o.Judged),
			})
		}
	}
	return incidents
}

// mostCertain bounds what an outcome says about a cause.
const mostCertain = 0.7

func probabilityOf(p dhalion.Plan, b dhalion.Pair, otherwise float64) float64 {
	for _, d := range p.Findings.Diagnoses {
		if d.Target == b.Target && d.Cause == b.Cause {
			return d.Probability
		}
	}
	return otherwise
}
