package apply

import (
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/dhalion-go/dhalion"
)

// expecting is a plan that scales counter from 8 to 14: within 120 s the source
// puts out 950 of 1,000 records/s, and counter is at most 80 % busy.
func expecting() dhalion.Plan {
	p := example()
	counter := dhalion.ComponentTarget(job, "counter")
	p.Actions = p.Actions[1:2]
	p.Actions[0].Expect = dhalion.Expectation{WithinSeconds: 120, Checks: []dhalion.Check{
		{Metric: dhalion.RecordsOut, Target: dhalion.ComponentTarget(job, "source"), Compare: "at_least", Value: 950, Low: 900, High: 1000},
		{Metric: dhalion.Busy, Target: counter, Compare: "at_most", Value: .8, Low: .5, High: .6},
	}}
	p.Findings.Diagnoses = []dhalion.Diagnosis{{Target: counter, Cause: dhalion.Underprovisioned, Probability: .9}}
	return p
}

// figures is a window that ends so many seconds after the job ran with the plan.
type figures struct {
	at                 float64
	out, busy, offered float64
	still              float64 // probability of the cause; NaN: not judged
	changed            string
}

var settled = time.Date(2025, 11, 3, 14, 1, 0, 0, time.UTC)

func (f figures) seen() Seen {
	return Seen{
		At: settled.Add(time.Duration(f.at * float64(time.Second))),
		Value: func(t dhalion.Target, m dhalion.Metric) float64 {
			switch {
			case m == dhalion.RecordsOut && t.Component == "source":
				return f.out
			case m == dhalion.Busy && t.Component == "counter":
				return f.busy
			}
			return math.NaN()
		},
		Offered: func(component string) float64 {
			if component == "source" {
				return f.offered
			}
			return math.NaN()
		},
		Probability: func(dhalion.Pair) (float64, bool) { return f.still, !math.IsNaN(f.still) },
		Changed:     f.changed,
	}
}

func TestAPlanIsJudgedByTheFirstWindowThatMeetsItOrTheLastOfItsTime(t *testing.T) {
	nan := math.NaN()
	good := figures{at: 60, out: 990, busy: .55, offered: 1000, still: .1}
	with := func(change func(*figures)) figures {
		f := good
		change(&f)
		return f
	}
	catchingUp := with(func(f *figures) { f.busy = 1 })
	late := with(func(f *figures) { f.at = 120; f.busy = .95 })
	for _, c := range []struct {
		name  string
		now   float64
		seen  []figures
		state dhalion.PlanState // empty: not yet
		words string
	}{
		{"nothing seen yet", 10, nil, "", ""},
		{"all holds in the first window", 60, []figures{good}, dhalion.PlanMet, "underprovisioned no longer holds at counter (p 0.10)"},
		{"it still works the backlog off", 60, []figures{catchingUp}, "", ""},
		{"met after the backlog", 90, []figures{catchingUp, with(func(f *figures) { f.at = 90 })}, dhalion.PlanMet, ""},
		{"its time is over and it is too busy", 120, []figures{late}, dhalion.PlanUnmet, "not met: 95 %"},
		{"the source does not keep up", 120, []figures{with(func(f *figures) { f.at = 120; f.out = 700 })}, dhalion.PlanUnmet, "not met: 700"},
		{"less arrives, and all of it is read", 120, []figures{with(func(f *figures) { f.at, f.offered, f.out = 120, 500, 480 })}, dhalion.PlanMet, "only 500 records/s arrive"},
		{"less arrives, and not all is read", 120, []figures{with(func(f *figures) { f.at, f.offered, f.out = 120, 500, 400 })}, dhalion.PlanUnmet, ""},
		{"a tenth more arrives than the plan spoke of", 120, []figures{with(func(f *figures) { f.at, f.offered, f.busy = 120, 1101, .9 })}, dhalion.PlanUnclear, "more arrives"},
		{"just less than a tenth more", 120, []figures{with(func(f *figures) { f.at, f.offered, f.busy = 120, 1099, .9 })}, dhalion.PlanUnmet, ""},
		{"a fifth more arrives, and the busy share is as it should be at less", 120, []figures{with(func(f *figures) { f.at, f.offered, f.out, f.busy = 120, 1200, 1200, .9 })}, dhalion.PlanMet, "at most 80 %: 75 %, and 90 % at 1.20 times what the plan spoke of"},
		{"a fifth more arrives, and that is too much for it", 120, []figures{with(func(f *figures) { f.at, f.offered, f.out, f.busy, f.still = 120, 1200, 1200, .9, .8 })}, dhalion.PlanUnclear, "still holds at counter (p 0.80): more arrives"},
		{"a fifth more arrives, and it is too busy even for less", 120, []figures{with(func(f *figures) { f.at, f.offered, f.out, f.busy = 120, 1200, 1200, .97 })}, dhalion.PlanUnclear, "not met at 97 %: more arrives"},
		{"it works a backlog off, faster than it came", 60, []figures{with(func(f *figures) { f.out, f.busy = 1300, 1 })}, dhalion.PlanMet, "77 %"},
		{"the cause holds still", 120, []figures{with(func(f *figures) { f.at, f.still = 120, .5 })}, dhalion.PlanUnmet, "still holds"},
		{"the cause cannot be judged yet", 120, []figures{with(func(f *figures) { f.at, f.still = 120, nan })}, "", ""},
		{"the cause cannot be judged", 120 + 600, []figures{with(func(f *figures) { f.at, f.still = 120, nan })}, dhalion.PlanUnclear, "is not known"},
		{"a figure is missing, and may come", 120 + 599, []figures{with(func(f *figures) { f.at, f.busy = 120, nan })}, "", ""},
		{"a figure is missing", 120 + 600, []figures{with(func(f *figures) { f.at, f.busy = 120, nan })}, dhalion.PlanUnclear, "not measured"},
		{"a figure was missing, and came", 150, []figures{with(func(f *figures) { f.at, f.busy = 120, nan }), with(func(f *figures) { f.at = 150 })}, dhalion.PlanMet, ""},
		{"a figure was missing, and came, and is bad", 150, []figures{with(func(f *figures) { f.at, f.busy = 120, nan }), with(func(f *figures) { f.at, f.busy = 150, .95 })}, dhalion.PlanUnmet, "not met: 95 %"},
		{"one is missing and one is bad", 120, []figures{with(func(f *figures) { f.at, f.busy, f.out = 120, nan, 1 })}, dhalion.PlanUnmet, ""},
		{"somebody changed the job", 60, []figures{with(func(f *figures) { f.changed = "counter has 3 instances" })}, dhalion.PlanUnclear, "counter has 3"},
		{"measurements ended, and may come", 120 + 599, []figures{catchingUp}, "", ""},
		{"measurements ended and did not come", 120 + 600, []figures{catchingUp}, dhalion.PlanUnclear, "nothing was measured between 2025-11-03T14:02:00Z and 2025-11-03T14:03:00Z"},
		{"none came at all", 120 + 600, nil, dhalion.PlanUnclear, "nothing was measured"},
	} {
		var seen []Seen
		for _, f := range c.seen {
			seen = append(seen, f.seen())
		}
		v, done := Judge(expecting(), "0123456789ab", settled, settled.Add(time.Duration(c.now*float64(time.Second))), seen)
		if v.State != c.state && done || done != (c.state != "") || !strings.Contains(v.Why, c.words) {
			t.Errorf("%s: %s (%v): %s; want %s: …%s…", c.name, v.State, done, v.Why, c.state, c.words)
		}
		if done && (len(v.Outcomes) != 1 || v.Outcomes[0].Judged != string(c.state) || v.Outcomes[0].Cause != dhalion.Underprovisioned) {
			t.Errorf("%s: outcomes %+v", c.name, v.Outcomes)
		}
	}
}

func TestBusySharesCountByTheSourceThatPutsOutLeastBeyondThePlan(t *testing.T) {
	p := expecting()
	p.Actions[0].Expect.Checks = append(p.Actions[0].Expect.Checks,
		dhalion.Check{Metric: dhalion.RecordsOut, Target: dhalion.ComponentTarget(job, "other"), Compare: "at_least", Value: 95, Low: 90, High: 100})
	for _, c := range []struct {
		other float64
		state dhalion.PlanState
	}{{120, dhalion.PlanMet}, {110, dhalion.PlanUnmet}, {96, dhalion.PlanUnmet}} {
		s := figures{at: 120, out: 2000, busy: .95, offered: 1000, still: .1}.seen()
		value := s.Value
		s.Value = func(t dhalion.Target, m dhalion.Metric) float64 {
			if t.Component == "other" {
				return c.other
			}
			return value(t, m)
		}
		if v, done := Judge(p, "0123456789ab", settled, s.At, []Seen{s}); !done || v.State != c.state {
			t.Errorf("with %v/s of the other: %s: %s", c.other, v.State, v.Why)
		}
	}
}

func TestASlownessThatHoldsIsUnmetWhateverArrives(t *testing.T) {
	p := expecting()
	p.Actions[0].Because = []dhalion.Pair{{Target: dhalion.InstanceTarget(job, "counter", 3), Cause: dhalion.SlowInstance}}
	v, done := Judge(p, "0123456789ab", settled, settled.Add(2*time.Minute), []Seen{figures{at: 120, out: 1200, busy: .6, offered: 1200, still: .9}.seen()})
	if !done || v.State != dhalion.PlanUnmet {
		t.Errorf("%v, %+v", done, v)
	}
}

func TestWhatStandsIdleBecauseLessArrivesIsNotHeldAgainstAScaleDown(t *testing.T) {
	p := expecting()
	p.Actions[0].From, p.Actions[0].To = dhalion.NumberSetting(8), dhalion.NumberSetting(4)
	p.Actions[0].Because[0].Cause = dhalion.Overprovisioned
	for _, c := range []struct {
		name  string
		seen  figures
		cause dhalion.Cause
		state dhalion.PlanState
		words string
	}{
		{"as much arrives as the plan spoke of", figures{out: 990, busy: .2, offered: 1000, still: .9}, dhalion.Overprovisioned, dhalion.PlanUnmet, "still holds"},
		{"just less than a tenth less", figures{out: 901, busy: .2, offered: 901, still: .9}, dhalion.Overprovisioned, dhalion.PlanUnmet, "still holds"},
		{"more than a tenth less", figures{out: 899, busy: .2, offered: 899, still: .9}, dhalion.Overprovisioned, dhalion.PlanUnclear, "still holds at counter (p 0.90): less arrives"},
		{"less arrives, and not all of it is read", figures{out: 300, busy: .2, offered: 400, still: .9}, dhalion.Overprovisioned, dhalion.PlanUnmet, "not met: 300"},
		{"less arrives, and it is too busy", figures{out: 400, busy: .9, offered: 400, still: .9}, dhalion.Overprovisioned, dhalion.PlanUnmet, "not met: 90 %"},
		{"what arrives is not known", figures{out: 990, busy: .2, offered: math.NaN(), still: .9}, dhalion.Overprovisioned, dhalion.PlanUnmet, "still holds"},
		{"less arrives, and it has still too little", figures{out: 400, busy: .2, offered: 400, still: .9}, dhalion.Underprovisioned, dhalion.PlanUnmet, "still holds"},
	} {
		c.seen.at, p.Actions[0].Because[0].Cause = 120, c.cause
		v, done := Judge(p, "0123456789ab", settled, settled.Add(2*time.Minute), []Seen{c.seen.seen()})
		if !done || v.State != c.state || !strings.Contains(v.Why, c.words) {
			t.Errorf("%s: %v, %s: %s; want %s", c.name, done, v.State, v.Why, c.state)
		}
	}
	// A dip before its time is over proves nothing.
	p.Actions[0].Because[0].Cause = dhalion.Overprovisioned
	var seen []Seen
	for i, offered := range []float64{1000, 890, 1000, 1000} {
		seen = append(seen, figures{at: 30 * float64(i+1), out: offered, busy: .2, offered: offered, still: .9}.seen())
	}
	if v, done := Judge(p, "0123456789ab", settled, settled.Add(2*time.Minute), seen); !done || v.State != dhalion.PlanUnmet {
		t.Errorf("a dip: %v, %s: %s", done, v.State, v.Why)
	}
	// Nor does one source of two.
	other := p.Actions[0].Expect.Checks[0]
	other.Target, other.High = dhalion.ComponentTarget(job, "beside"), 100
	two := p
	two.Actions = slices.Clone(p.Actions)
	two.Actions[0].Expect.Checks = append(slices.Clone(p.Actions[0].Expect.Checks), other)
	s := figures{at: 120, out: 400, busy: .2, offered: 400, still: .9}.seen()
	all := s.Offered
	s.Offered = func(component string) float64 {
		if component == "beside" {
			return 100
		}
		return all(component)
	}
	if v, done := Judge(two, "0123456789ab", settled, settled.Add(2*time.Minute), []Seen{s}); !done || v.State != dhalion.PlanUnmet {
		t.Errorf("one source of two: %v, %s: %s", done, v.State, v.Why)
	}
	// Whatever arrives, a figure that is missing leaves it unclear, for the reason that is true.
	blind := figures{at: 720, out: 400, busy: math.NaN(), offered: 400, still: .9}
	p.Actions[0].Because[0].Cause = dhalion.Overprovisioned
	v, done := Judge(p, "0123456789ab", settled, settled.Add(12*time.Minute), []Seen{blind.seen()})
	if !done || v.State != dhalion.PlanUnclear || !strings.Contains(v.Why, "not measured") {
		t.Errorf("%v, %s: %s", done, v.State, v.Why)
	}
}

func TestARollbackHasOnlyToRun(t *testing.T) {
	p := expecting()
	p.Reverses, p.Actions[0].Expect.Checks = "ba9876543210", nil
	v, done := Judge(p, "0123456789ab", settled, settled.Add(time.Minute), []Seen{figures{at: 60, out: 1, busy: 1, offered: 1000, still: .99}.seen()})
	if !done || v.State != dhalion.PlanMet || !strings.Contains(v.Why, "runs with what was asked for") {
		t.Errorf("%v, %+v", done, v)
	}
	if i := Incidents(p, "0123456789ab", v, settled); i != nil {
		t.Errorf("it teaches %+v", i)
	}
}

func TestNothingIsExpectedOfAlerts(t *testing.T) {
	p := example()
	p.Actions = p.Actions[3:]
	if _, expects := Due(p, settled); expects {
		t.Error("an alert is expected to achieve something")
	}
	if v, done := Judge(p, "0123456789ab", settled, settled.Add(time.Hour), nil); done {
		t.Errorf("judged: %+v", v)
	}
}

func TestAnOutcomeTeachesByItsOddsAndNeverMoreThanSevenTenths(t *testing.T) {
	p := expecting()
	for _, c := range []struct {
		prior, certain float64
		judged         string
	}{
		{.9, .7, Met},         // .9·3 / (.9·3 + .1) = .96, bounded
		{.4, 2.0 / 3, Met},    // .4·3 / (.4·3 + .6)
		{.9, .5625, Unmet},    // .9/7 / (.9/7 + .1)
		{.5, .125, Unmet},     // 1/7 / (1/7 + 1)
		{.5, -1, Unclear},     // nothing
		{1, .7, Unmet},        // whatever came of it
		{0, 0, Met},           //
		{.55, .7, Met},        // .55·3 / (.55·3 + .45) = .786, bounded
		{.2, 3.0 / 7, Met},    // .6 / (.6 + .8)
		{.1, 1.0 / 64, Unmet}, // .1/7 / (.1/7 + .9)
	} {
		p.Findings.Diagnoses[0].Probability = c.prior
		v := Verdict{Outcomes: []dhalion.Outcome{{Action: 0, Judged: c.judged}}}
		got := Incidents(p, "0123456789ab", v, settled)
		switch {
		case c.certain < 0 && got == nil:
		case len(got) != 1 || math.Abs(got[0].Certainty-c.certain) > 1e-9:
			t.Errorf("%v %s: %+v, want %v", c.prior, c.judged, got, c.certain)
		case got[0].Start != p.Window.Start || got[0].End != settled || got[0].Cause != dhalion.Underprovisioned:
			t.Errorf("%+v", got[0])
		}
	}
}

func TestAVerdictIsTheWorstOfItsActionsAndMoreTimeNeverTakesMetBack(t *testing.T) {
	draw := rapid.Custom(func(t *rapid.T) figures {
		share := rapid.SampledFrom([]float64{math.NaN(), 0, .3, .5, .8, .81, 1})
		rate := rapid.SampledFrom([]float64{math.NaN(), 0, 400, 949, 950, 1000, 2000})
		return figures{out: rate.Draw(t, "out"), busy: share.Draw(t, "busy"), offered: rate.Draw(t, "offered"), still: share.Draw(t, "still")}
	})
	rapid.Check(t, func(t *rapid.T) {
		all := rapid.SliceOfN(draw, 1, 6).Draw(t, "windows")
		p := expecting()
		met := false
		var seen []Seen
		for i := range all {
			all[i].at = 60 + 20*float64(i)
			seen = append(seen, all[i].seen())
			v, done := Judge(p, "0123456789ab", settled, seen[i].At, seen)
			if met && v.State != dhalion.PlanMet {
				t.Fatalf("met, and then %s: %s", v.State, v.Why)
			}
			met = met || v.State == dhalion.PlanMet && done
			blind := done || all[i].at < 120 || math.IsNaN(all[i].out) || math.IsNaN(all[i].busy) || math.IsNaN(all[i].still)
			if done && !met && all[i].at < 120 || !blind {
				t.Fatalf("after %v s done is %v", all[i].at, done)
			}
			if done && string(v.State) != v.Outcomes[0].Judged {
				t.Fatalf("%s of %+v", v.State, v.Outcomes)
			}
		}
	})
}
