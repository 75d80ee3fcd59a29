package apply

import (
	"strings"
	"testing"
	"time"

	"github.com/dhalion-go/dhalion"
)

func TestAPlanThatWasBegunIsGoneOnWithOnlyWhereItMayBeAndTheJobIsItsOwn(t *testing.T) {
	// The relocation is action 0, the rescale of counter to 14 and of source to 3 is the
	// step of actions 1 and 2.
	relocated, rescaled := Entry{Action: 0, Attempt: 1}, Entry{Action: 1, Attempt: 1}
	sized := func(counter, source int) func(*State) {
		return present(func(t *dhalion.Topology) {
			t.Components[0].Parallelism, t.Components[1].Parallelism = counter, source
			t.Placement[0].Worker = "tm-7"
		})
	}
	// A knob of the job is action 4, and everything forbids to touch it.
	night := func(s *State) {
		p := s.Plan
		p.Actions = append(p.Actions, dhalion.Action{Kind: dhalion.SetKnob, Target: dhalion.ComponentTarget(job, "counter"), Argument: "--salt",
			From: dhalion.NumberSetting(1), To: dhalion.NumberSetting(4), Because: p.Actions[1].Because, Probability: .9, Affects: p.Actions[1].Affects})
		*s = ready(p)
		s.Row.State, s.Limits = dhalion.PlanApplying, Limits{Instances: .5}
		s.Jobs = []JobState{{Job: job, Observe: "mode observe, d.yaml:3", Quiet: "22:00-06:00 UTC", Until: s.Now.Add(time.Hour),
			Foreign: []dhalion.Change{{At: s.Now, Component: "counter", From: 8, To: 9}, {At: s.Now, Component: "source", From: 2, To: 1}}}}
	}
	knob := func(results ...string) (all []Entry) { // of its attempts; empty: nobody knows
		all = []Entry{relocated, rescaled}
		all[0].Result, all[1].Result = &Result{Outcome: Done}, &Result{Outcome: Done}
		for i, outcome := range results {
			e := Entry{Action: 4, Attempt: i + 1}
			if outcome != "" {
				e.Result = &Result{Outcome: outcome}
			}
			all = append(all, e)
		}
		return all
	}
	by := func(argv string, all []Entry) []Entry {
		all[len(all)-1].Intent.Argv = []string{argv}
		return all
	}
	for _, c := range []struct {
		name    string
		change  func(*State)
		journal []Entry
		code    Code // empty: it may go on
		says    string
	}{
		{"two hours later, with another policy and model", func(s *State) { s.Now, s.Present.Policy = s.Now.Add(2*time.Hour), "p2" }, nil, "", ""},
		{"its job is not to be seen", func(s *State) { s.PresentTopology = nil }, []Entry{relocated}, "", ""},
		{"nothing was begun and the job is as it was", present(func(*dhalion.Topology) {}), nil, "", ""},
		{"nothing was begun and instances were placed anew", sized(8, 2), nil, Stale, "placed anew"},
		{"only an alert was told, and instances were placed anew", sized(8, 2), []Entry{{Action: 3, Attempt: 1}}, Stale, "placed anew"},
		{"a hook placed instances anew", sized(8, 2), []Entry{relocated}, "", ""},
		{"a rescale was begun and not done", sized(8, 2), []Entry{relocated, rescaled}, "", ""},
		{"a rescale was begun and done", sized(14, 3), []Entry{relocated, rescaled}, "", ""},
		{"a rescale was not begun and somebody did it", sized(14, 3), []Entry{relocated}, Stale, "counter had 8 instances and has 14"},
		{"half of a rescale is there", sized(14, 2), []Entry{relocated, rescaled}, Stale, "counter had 8 instances and has 14"},
		{"somebody rescaled on", sized(15, 3), []Entry{relocated, rescaled}, Stale, "counter had 8 instances and has 15"},
		{"the graph is another", present(func(t *dhalion.Topology) { t.Edges = nil }), []Entry{relocated}, Stale, "neither what it was"},
		{"a job came to share the worker before the move", func(s *State) { s.Sharing = []Sharing{{Job: "prod/late", Worker: "tm-1", Instances: 1, Of: 2}} },
			[]Entry{rescaled}, Stale, "prod/late has instances on worker tm-1, too"},
		{"it came there, and the job itself is not to be seen", func(s *State) {
			s.Sharing, s.PresentTopology = []Sharing{{Job: "prod/late", Worker: "tm-1", Instances: 1, Of: 2}}, nil
		}, []Entry{rescaled}, Stale, "prod/late has instances on worker tm-1, too"},
		{"a listed job has more there, and nothing was begun", func(s *State) {
			beside(s)
			s.Sharing = []Sharing{{Job: "prod/zebra", Worker: "tm-1", Instances: 2, Of: 4}}
		}, nil, Stale, "prod/zebra has 2 of 4 instances"},
		{"a listed job has more there after what was begun", func(s *State) {
			beside(s)
			s.Sharing = []Sharing{{Job: "prod/zebra", Worker: "tm-1", Instances: 2, Of: 4}}
		}, []Entry{rescaled}, "", ""},
		{"a job came to share the worker after the move", func(s *State) { s.Sharing = []Sharing{{Job: "prod/late", Worker: "tm-1", Instances: 1, Of: 2}} },
			[]Entry{relocated}, "", ""},
		{"it is not known where a job is, before the move", func(s *State) { s.Unseen = []dhalion.JobID{"prod/late"} }, []Entry{rescaled}, NotAllowed, "whether prod/late has instances on worker tm-1 is not known"},
		{"it is not known where a job is, after the move", func(s *State) { s.Unseen = []dhalion.JobID{"prod/late"} }, []Entry{relocated}, "", ""},
		{"the engine does not answer, before the move", func(s *State) { s.Unanswered = true }, []Entry{rescaled}, NotAllowed, "whether another job has instances on worker tm-1 is not known"},
		{"the engine does not answer, after the move", func(s *State) { s.Unanswered = true }, []Entry{relocated}, "", ""},
		{"only to be looked at", func(s *State) { s.Jobs[0].Observe = "mode observe, d.yaml:3" }, nil, NotAllowed, "mode observe"},
		{"quiet hours", func(s *State) { s.Jobs[0].Quiet = "22:00-06:00 UTC" }, nil, NotAllowed, "quiet hours"},
		{"quiet hours, and a restart is in its middle", func(s *State) { s.Jobs[0].Quiet = "22:00-06:00 UTC" },
			[]Entry{{Action: 1, Attempt: 1, Result: &Result{Outcome: Partly}}, {Action: 1, Attempt: 2}}, "", ""},
		{"quiet hours, and a restart is done", func(s *State) { s.Jobs[0].Quiet = "22:00-06:00 UTC" },
			[]Entry{{Action: 1, Attempt: 1, Result: &Result{Outcome: Partly}}, {Action: 1, Attempt: 2, Result: &Result{Outcome: Done}}}, NotAllowed, "quiet hours"},
		{"at night, and the knob is not begun", night, knob(), NotAllowed, "mode observe"},
		{"at night, and whether the job is stopped nobody knows", night, knob(""), "", ""},
		{"at night, and the stop was not answered", night, knob(Unsure), "", ""},
		{"at night, and the job is stopped", night, knob(Partly), "", ""},
		{"at night, and the job is stopped and whether it is started nobody knows", night, knob(Partly, ""), "", ""},
		{"at night, and the job is stopped and its start was refused", night, knob(Partly, Refused), "", ""},
		{"at night, and the job was not stopped", night, knob(Refused), NotAllowed, "mode observe"},
		{"at night, and the job is started", night, knob(Partly, Done), NotAllowed, "mode observe"},
		{"at night, and a hook is to have set the knob", night, by("/opt/turn", knob("")), NotAllowed, "mode observe"},
		{"at night, and another plan holds the job that is stopped", func(s *State) { night(s); s.Jobs[0].HeldBy = "aaaaaaaaaaaa" }, knob(Partly), Held, "plan aaaaaaaaaaaa holds"},
		{"tighter limits", func(s *State) { s.Limits.Instances = .5 }, nil, NotAllowed, "it touches 100 % of the instances"},
		{"another plan holds its job", func(s *State) { s.Jobs[0].HeldBy = "aaaaaaaaaaaa" }, nil, Held, "plan aaaaaaaaaaaa holds"},
		{"edited", func(s *State) { s.Plan.Actions[1].To = dhalion.NumberSetting(15) }, nil, Edited, "is not that of its body"},
	} {
		s := ready(example())
		s.Row.State = dhalion.PlanApplying
		c.change(&s)
		r := Resumable(s, c.journal)
		switch {
		case r == nil && c.code == "":
		case r == nil || r.Code != c.code || !strings.Contains(r.Reason, c.says) || r.Plan != s.ID || r.Exit != exits[c.code]:
			t.Errorf("%s: %+v, want %s: …%s…", c.name, r, c.code, c.says)
		}
	}
}
