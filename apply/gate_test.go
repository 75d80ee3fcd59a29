package apply

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/plan/planfile"
)

const job = dhalion.JobID("prod/wordcount")

var asOf = time.Date(2025, 11, 3, 14, 0, 0, 0, time.UTC)

func topology() dhalion.Topology {
	return dhalion.Topology{
		Components: []dhalion.Component{{Name: "counter", Parallelism: 8}, {Name: "source", Parallelism: 2}},
		Edges:      []dhalion.Edge{{From: "source", To: "counter"}},
		Placement:  []dhalion.Placement{{Component: "counter", Instance: 0, Worker: "tm-1"}},
	}
}

func example() dhalion.Plan {
	counter := dhalion.ComponentTarget(job, "counter")
	because := []dhalion.Pair{{Target: counter, Cause: dhalion.Underprovisioned}}
	check := dhalion.Check{Metric: dhalion.Busy, Target: counter, Compare: "at_most", Value: 0.8, Low: 0.7, High: 0.8}
	affects := []dhalion.Affected{{Job: job, Instances: 10, Of: 10}}
	scale := func(component string, from, to float64) dhalion.Action {
		return dhalion.Action{Kind: dhalion.SetParallelism, Target: dhalion.ComponentTarget(job, component), From: dhalion.NumberSetting(from), To: dhalion.NumberSetting(to),
			Because: because, Probability: 0.9, Message: "not to be trusted", Affects: affects, Expect: dhalion.Expectation{WithinSeconds: 120, Checks: []dhalion.Check{check}}}
	}
	return dhalion.Plan{
		Version: planfile.Version, Job: job, AsOf: asOf, Window: dhalion.Window{Start: asOf.Add(-time.Minute), End: asOf}, ValidForSeconds: 3600,
		Policy: "default", Topology: topology(), Basis: dhalion.Basis{History: "h", Topology: topology().Digest(), Policy: "p1", Model: "m1", Outcomes: "o"},
		Actions: []dhalion.Action{
			{Kind: dhalion.Relocate, Target: dhalion.WorkerTarget(job, "tm-1"), From: dhalion.TextSetting("tm-1"), To: dhalion.TextSetting(""), Because: because, Probability: 0.7,
				Affects: []dhalion.Affected{{Job: job, Instances: 1, Of: 10}}},
			scale("counter", 8, 14), scale("source", 2, 3),
			{Kind: dhalion.Alert, Target: dhalion.JobTarget(job), Because: []dhalion.Pair{{Target: dhalion.JobTarget(job), Cause: dhalion.Failing}}, Probability: 0.6},
		},
	}
}

// ready is a plan that may be applied to a live engine, five minutes after it was
// proposed.
func ready(p dhalion.Plan) State {
	_, id, digest, err := planfile.Encode(p)
	if err != nil {
		panic(err)
	}
	proposed := asOf.Add(time.Second)
	return State{
		Plan: p, ID: id, Digest: digest, Now: proposed.Add(5 * time.Minute), Present: p.Basis, LiveEngine: true, Jobs: []JobState{{Job: job}},
		Row: &Row{ID: id, Digest: digest, State: dhalion.PlanApproved, Author: "ann", ProposedAt: proposed,
			Approvals: []dhalion.Approval{{Plan: id, Digest: digest, Person: "bob", At: proposed.Add(time.Minute)}}},
	}
}

func fourEyes(s *State) {
	p := s.Plan
	p.FourEyes = true
	*s = ready(p)
}

// refusals are the ways in which a plan that was ready is so no more.
var refusals = []struct {
	name   string
	change func(*State)
	code   Code
	exit   int
	reason string
	hint   string
}{
	{"the file does not match its digest", func(s *State) { *s = State{Edited: &planfile.EditedError{Name: "p.json"}} }, Edited, 5, "its digest does not match its body", "dhalion show PLAN"},
	{"the body changed in memory", func(s *State) { s.Plan.Actions[1].To = dhalion.NumberSetting(15) }, Edited, 5, "is not that of its body", "dhalion plan prod/wordcount"},
	{"the digest is another", func(s *State) { s.Digest = strings.Repeat("0", 64) }, Edited, 5, "its digest 000000000000 is not that of its body", ""},
	{"the id is another", func(s *State) { s.ID = "000000000000" }, Edited, 5, "its id is not that of its body", ""},
	{"the body cannot be written", func(s *State) { s.Plan.Version = 9 }, Edited, 5, "not one that this program writes", ""},
	{"the store has another content", func(s *State) { s.Row.Digest = strings.Repeat("f", 64) }, Edited, 5, "the store has another content", "dhalion show "},
	{"the store's row is another plan's", func(s *State) { s.Row.ID = "ffffffffffff" }, Edited, 5, "the store has another content", "dhalion show ffffffffffff"},
	{"the hour is over", func(s *State) { s.Now = s.Row.ProposedAt.Add(time.Hour + 90*time.Second) }, Expired, 6, "it expired 1 min 30 s ago, at 2025-11-03T15:00:01Z", "dhalion plan prod/wordcount"},
	{"the hour is just over", func(s *State) { s.Now = s.Row.ProposedAt.Add(time.Hour) }, Expired, 6, "it expired 0 s ago", ""},
	{"it was marked as expired", func(s *State) { s.Row.State = dhalion.PlanExpired }, Expired, 6, "marked as expired", ""},
	{"it was applied long ago", func(s *State) { s.Row.State, s.Now = dhalion.PlanMet, s.Now.Add(time.Hour) }, Expired, 6, "(and it is met)", ""},
	{"the topology changed", func(s *State) { s.Present.Topology = "x" }, Stale, 3, "the job is not what it was: topology ", "dhalion plan prod/wordcount"},
	{"the parallelism changed", present(func(t *dhalion.Topology) { t.Components[0].Parallelism = 9 }), Stale, 3, "counter had 8 instances and has 9", ""},
	{"a component went", present(func(t *dhalion.Topology) { t.Components, t.Edges = t.Components[:1], nil }), Stale, 3, "component source is gone", ""},
	{"a component came", present(func(t *dhalion.Topology) {
		t.Components = append(t.Components, dhalion.Component{Name: "sink", Parallelism: 1})
	}), Stale, 3, "component sink is new", ""},
	{"an instance moved", present(func(t *dhalion.Topology) { t.Placement[0].Worker = "tm-9" }), Stale, 3, "instances were placed anew", ""},
	{"an edge changed", present(func(t *dhalion.Topology) { t.Edges = nil }), Stale, 3, "the job is not what it was: topology ", ""},
	{"the policy changed", func(s *State) { s.Present.Policy = "p2" }, Stale, 3, "policy default changed since (digest p1, now p2)", ""},
	{"another policy holds", func(s *State) { s.Present.Policy, s.PresentPolicy = "p2", "strict" }, Stale, 3, "policy strict holds for the job now, and it was made by policy default", ""},
	{"the model changed", func(s *State) { s.Present.Model = "" }, Stale, 3, "the model changed since (digest m1, now none)", ""},
	{"it looks too far back for a live engine", func(s *State) { s.Now = asOf.Add(15*time.Minute + time.Second) }, Stale, 3, "it looks at 2025-11-03T14:00:00Z, 15 min 1 s ago", ""},
	{"it was marked as stale", func(s *State) { s.Row.State = dhalion.PlanStale }, Stale, 3, "marked as stale", ""},
	{"it was applied and the job changed by that", func(s *State) { s.Row.State, s.Present.Topology = dhalion.PlanApplied, "x" }, Stale, 3, "(and it is applied)", ""},
	{"the store has never seen it", func(s *State) { s.Row = nil }, NotApproved, 4, "this store has never seen it", ""},
	{"nobody approved it", func(s *State) { s.Row.State, s.Row.Approvals = dhalion.PlanProposed, nil }, NotApproved, 4, "nobody has approved it", "dhalion approve "},
	{"it says approved and nobody did", func(s *State) { s.Row.Approvals = nil }, NotApproved, 4, "no approval of it names a person", "dhalion approve "},
	{"the approval names nobody", func(s *State) { s.Row.Approvals[0].Person = " " }, NotApproved, 4, "no approval of it names a person", ""},
	{"the approval is of another content", func(s *State) { s.Row.Approvals[0].Digest = strings.Repeat("1", 64) }, NotApproved, 4, "its approval is of another content", ""},
	{"the approval is of another plan", func(s *State) { s.Row.Approvals[0].Plan = "111111111111" }, NotApproved, 4, "its approval is of another content", ""},
	{"its author approved it under four eyes", func(s *State) { fourEyes(s); s.Row.Approvals[0].Person = " Ann" }, NotApproved, 4, "only its author, ann, has approved it", "--as NAME"},
	{"its author approved it twice under four eyes", func(s *State) {
		fourEyes(s)
		again := s.Row.Approvals[0]
		s.Row.Approvals[0].Person, again.Person = "ann", "ANN"
		s.Row.Approvals = append(s.Row.Approvals, again)
	}, NotApproved, 4, "only its author", ""},
	{"four eyes and no author", func(s *State) { fourEyes(s); s.Row.Author = "" }, NotApproved, 4, "its author is not known: two people", ""},
	{"it is being applied", func(s *State) { s.Row.State = dhalion.PlanApplying }, Held, 7, "it is being applied already", "--resume"},
	{"it is being applied, and has changed the job and come to the end of its time", func(s *State) {
		s.Row.State, s.Present.Topology, s.Now = dhalion.PlanApplying, "", s.Now.Add(1000*time.Hour)
	}, Held, 7, "it is being applied already", "--abort"},
	{"it was applied", func(s *State) { s.Row.State = dhalion.PlanApplied }, NotApproved, 4, "it is applied, and only", ""},
	{"it was discarded", func(s *State) { s.Row.State = dhalion.PlanDiscarded }, NotApproved, 4, "it is discarded, and only", ""},
	{"it failed", func(s *State) { s.Row.State = dhalion.PlanFailed }, NotApproved, 4, "it is failed, and only", ""},
	{"it was aborted", func(s *State) { s.Row.State = dhalion.PlanAborted }, NotApproved, 4, "it is aborted, and only", ""},
	{"its end is unclear", func(s *State) { s.Row.State = dhalion.PlanUnclear }, NotApproved, 4, "it is unclear, and a person decides", "--abort"},
	{"its state is unknown", func(s *State) { s.Row.State = "" }, NotApproved, 4, "and only a plan that waits", ""},
	{"the job may only be looked at", func(s *State) { s.Jobs[0].Observe = "dhalion.yaml:7" }, NotAllowed, 4, "prod/wordcount may only be looked at: dhalion.yaml:7", "propose"},
	{"a job beside it may only be looked at", func(s *State) { beside(s); s.Jobs[1].Observe = "dhalion.yaml:9" }, NotAllowed, 4, "prod/zebra may only be looked at", ""},
	{"somebody else changes it", func(s *State) {
		s.Jobs[0].Until = asOf.Add(40 * time.Minute)
		s.Jobs[0].Foreign = []dhalion.Change{{At: asOf.Add(-20 * time.Minute), Component: "counter", From: 8, To: 12}, {At: asOf.Add(-5 * time.Minute), Component: "counter", From: 12, To: 8}}
	}, NotAllowed, 4, "prod/wordcount may only be looked at until 2025-11-03T14:40:00Z: somebody else changed its parallelism, counter 8 → 12 instances at 2025-11-03T13:40:00Z and counter 12 → 8 instances at 2025-11-03T13:55:00Z",
		"dhalion log prod/wordcount"},
	{"quiet hours hold", func(s *State) { s.Jobs[0].Quiet = "22:00-06:00" }, NotAllowed, 4, "within the quiet hours of prod/wordcount, 22:00-06:00", "wait"},
	{"quiet hours hold of a job beside it", func(s *State) { beside(s); s.Jobs[1].Quiet = "00:00-24:00" }, NotAllowed, 4, "the quiet hours of prod/zebra", ""},
	{"it touches too many jobs", func(s *State) { beside(s); s.Limits.Jobs = 1 }, NotAllowed, 4, "it touches 2 jobs, and policy default allows 1", ""},
	{"it touches too many instances", func(s *State) { s.Limits.Instances = .01 }, NotAllowed, 4, " % of the instances, and policy default allows 1 %", ""},
	{"a job came to share a worker", func(s *State) { s.Sharing = []Sharing{{Job: "prod/late", Worker: "tm-1", Instances: 1, Of: 2}} }, Stale, 3, "prod/late has instances on worker tm-1, too", ""},
	{"a job beside it has more instances on the worker", func(s *State) {
		beside(s)
		s.Sharing = []Sharing{{Job: "prod/zebra", Worker: "tm-1", Instances: 2, Of: 4}}
	}, Stale, 3, "prod/zebra has 2 of 4 instances on worker tm-1, and the plan speaks of 1 of 4", ""},
	{"a job beside it has fewer instances in all", func(s *State) {
		beside(s)
		s.Sharing = []Sharing{{Job: "prod/zebra", Worker: "tm-1", Instances: 1, Of: 2}}
	}, Stale, 3, "prod/zebra has 1 of 2 instances on worker tm-1, and the plan speaks of 1 of 4", ""},
	{"it is not known where a job is", func(s *State) { s.Unseen = []dhalion.JobID{"prod/late"} }, NotAllowed, 4, "whether prod/late has instances on worker tm-1 is not known", "dhalion apply"},
	{"another plan holds a job beside it", func(s *State) { beside(s); s.Jobs[1].HeldBy = "222222222222" }, Held, 7, "plan 222222222222 holds prod/zebra", ""},
	{"another plan holds the job", func(s *State) { s.Jobs[0].HeldBy = "222222222222" }, Held, 7, "plan 222222222222 holds prod/wordcount", "dhalion show 222222222222"},
	{"there is no engine", func(s *State) { s.LiveEngine = false }, Nothing, 0, "prod/wordcount is known only from files: there is nothing to act on", "--dry-run"},
	{"there is nothing in it", func(s *State) {
		p := s.Plan
		p.Actions = nil
		*s = ready(p)
	}, Nothing, 0, "it has no actions", ""},
}

// present gives a state in which the job is another one now.
func present(change func(*dhalion.Topology)) func(*State) {
	return func(s *State) {
		now := topology()
		change(&now)
		s.PresentTopology, s.Present.Topology = &now, now.Digest()
	}
}

// still has the plan leave no worker.
func still(s *State) {
	p := s.Plan
	p.Actions = p.Actions[1:]
	*s = ready(p)
}

// beside has the plan's first action touch a second job, too.
func beside(s *State) {
	p := s.Plan
	p.Actions = slices.Clone(p.Actions)
	p.Actions[0].Affects = append(slices.Clone(p.Actions[0].Affects), dhalion.Affected{Job: "prod/zebra", Instances: 1, Of: 4})
	*s = ready(p)
	s.Jobs = append(s.Jobs, JobState{Job: "prod/zebra"})
}

func TestAPlanThatIsReadyPasses(t *testing.T) {
	for name, change := range map[string]func(*State){
		"as it is":        func(*State) {},
		"the last moment": func(s *State) { s.LiveEngine = true; s.Now = asOf.Add(MaxAge) },
		"it is not known where a job is, and it moves nothing": func(s *State) { still(s); s.Unseen = []dhalion.JobID{"prod/late"} },
		"a job beside it is as it says": func(s *State) {
			beside(s)
			s.Sharing = []Sharing{{Job: "prod/zebra", Worker: "tm-1", Instances: 1, Of: 4}}
		},
		"newer history alone": func(s *State) { s.Present.History, s.Present.Outcomes, s.Present.Program = "h2", "o2", "v2" },
		"four eyes":           fourEyes,
		"four eyes, the author and bob": func(s *State) {
			fourEyes(s)
			a := s.Row.Approvals[0]
			a.Person = "ann"
			s.Row.Approvals = append(s.Row.Approvals, a)
		},
		"four eyes of two, author hidden": func(s *State) {
			fourEyes(s)
			a := s.Row.Approvals[0]
			a.Person = "eve"
			s.Row.Author = ""
			s.Row.Approvals = append(s.Row.Approvals, a)
		},
		"the author without four eyes":         func(s *State) { s.Row.Approvals[0].Person = "ann" },
		"somebody else changed it an hour ago": func(s *State) { s.Jobs[0].Until = s.Now },
		"it holds the job itself":              func(s *State) { s.Jobs[0].HeldBy = s.ID },
		"an old approval beside a good": func(s *State) {
			s.Row.Approvals = append([]dhalion.Approval{{Plan: s.ID, Digest: "x", Person: "eve"}}, s.Row.Approvals...)
		},
	} {
		s := ready(example())
		change(&s)
		if r := Gate(s); r != nil {
			t.Errorf("%s: %v", name, r)
		}
	}
}

func TestEachReasonForRefusalIsSaid(t *testing.T) {
	for _, c := range refusals {
		t.Run(c.name, func(t *testing.T) {
			s := ready(example())
			c.change(&s)
			r := Gate(s)
			if r == nil {
				t.Fatal("it passed")
			}
			if r.Code != c.code || r.Exit != c.exit || !strings.Contains(r.Reason, c.reason) || !strings.Contains(r.Hint, c.hint) {
				t.Errorf("got %+v, want %s (%d) %q, hint %q", r, c.code, c.exit, c.reason, c.hint)
			}
			if !strings.HasPrefix(r.Error(), "apply: refuse plan ") || r.Plan == "" {
				t.Errorf("error %q", r)
			}
			if r.Hint == "" && r.Code != Nothing {
				t.Error("it does not say what mends it")
			}
		})
	}
}

func TestADryRunNeedsNoApprovalLeaseOrEngine(t *testing.T) {
	pass := []string{"the store has never seen it", "nobody approved it", "it says approved and nobody did", "the approval names nobody",
		"the approval is of another content", "the approval is of another plan", "its author approved it under four eyes",
		"its author approved it twice under four eyes", "four eyes and no author", "another plan holds the job", "another plan holds a job beside it",
		"the job may only be looked at", "a job beside it may only be looked at", "somebody else changes it", "quiet hours hold", "quiet hours hold of a job beside it",
		"it touches too many jobs", "it touches too many instances", "it is not known where a job is", "there is no engine", "there is nothing in it"}
	for _, c := range refusals {
		s := ready(example())
		c.change(&s)
		s.DryRun = true
		r := Gate(s)
		if want := slices.Contains(pass, c.name); (r == nil) != want {
			t.Errorf("%s: %v, want it to pass: %v", c.name, r, want)
		}
		if r != nil && r.Code != c.code {
			t.Errorf("%s: code %s, want %s", c.name, r.Code, c.code)
		}
	}
}

func TestAPlanOfAJobFromFilesMayBeOld(t *testing.T) {
	s := ready(example())
	s.LiveEngine = false
	s.Row.ProposedAt = asOf.AddDate(1, 0, 0)
	s.Now = s.Row.ProposedAt.Add(time.Minute)
	if r := Gate(s); r == nil || r.Code != Nothing || r.Exit != 0 {
		t.Errorf("got %v", r)
	}
}

// Of several reasons the first in the order of the contract is given: edited,
// expired, stale, not approved, held, nothing to act on.
func TestOfSeveralReasonsTheFirstInOrderIsGiven(t *testing.T) {
	rank := func(c Code) int { return slices.Index([]Code{Edited, Expired, Stale, NotApproved, Held, Nothing}, c) }
	simple := map[string]bool{
		"the body changed in memory": true, "the hour is over": true, "the model changed": true, "nobody approved it": true,
		"another plan holds the job": true, "there is no engine": true,
	}
	rapid.Check(t, func(t *rapid.T) {
		s := ready(example())
		first := Nothing
		any := false
		for _, c := range refusals {
			if simple[c.name] && rapid.Bool().Draw(t, c.name) {
				c.change(&s)
				any = true
				if rank(c.code) < rank(first) {
					first = c.code
				}
			}
		}
		switch r := Gate(s); {
		case !any && r != nil:
			t.Fatalf("refused without a reason: %v", r)
		case any && (r == nil || r.Code != first):
			t.Fatalf("got %v, want %s", r, first)
		}
	})
}

func TestAnEditedDocumentIsARefusal(t *testing.T) {
	doc, _, _, err := planfile.Encode(example())
	if err != nil {
		t.Fatal(err)
	}
	_, _, _, err = planfile.Decode(bytes.Replace(doc, []byte(`"to": 14`), []byte(`"to": 40`), 1), "p.json")
	r := AsRefusal(fmt.Errorf("cmd: %w", err))
	if r == nil || r.Exit != 5 || r.Plan != "p.json" {
		t.Errorf("%v gave %v", err, r)
	}
	if AsRefusal(errors.New("no such file")) != nil {
		t.Error("any error is taken for an edit")
	}
}

func TestADryRunSaysEachStep(t *testing.T) {
	var b bytes.Buffer
	if err := DryRun(&b, example(), "0123456789ab", Steps(example())); err != nil {
		t.Fatal(err)
	}
	want := `Plan 0123456789ab for prod/wordcount, as of 2025-11-03T14:00:00Z. Apply would:
  1. take the lease of prod/wordcount, so that no other plan changes it meanwhile
  2. move the instances of worker tm-1 away (opaque)
     - touches 1 of 10 instances of prod/wordcount
  3. rescale in one request: counter 8 → 14 instances, source 2 → 3 instances (repeatable)
     - touches 10 of 10 instances of prod/wordcount
  4. tell a person about failing at the job (harmless)
  5. wait until the job runs with what was asked for and has settled
  6. judge the outcome
     - busy at counter: at most 80 % within 2 min (70 % to 80 % predicted)
Nothing was done: this is a dry run.
`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}

func TestADryRunOfAnAlertTakesNoLease(t *testing.T) {
	p := example()
	p.Actions = p.Actions[3:]
	if steps := Steps(p); len(steps) != 1 || steps[0].Class != Harmless {
		t.Errorf("%+v", steps)
	}
	p.Actions = nil
	var b bytes.Buffer
	if err := DryRun(&b, p, "0123456789ab", Steps(p)); err != nil || !strings.Contains(b.String(), "apply would do nothing") {
		t.Errorf("%s, %v", b.String(), err)
	}
}

func TestEveryActionIsCarriedOutByOneStep(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := example()
		p.Actions = nil
		kinds := rapid.SliceOf(rapid.SampledFrom(dhalion.ActionKinds)).Draw(t, "kinds")
		for _, k := range kinds {
			p.Actions = append(p.Actions, dhalion.Action{Kind: k, Target: dhalion.JobTarget(job)})
		}
		var done []int
		for _, s := range Steps(p) {
			done = append(done, s.Actions...)
			for _, i := range s.Actions {
				if Class(p.Actions[i].Kind) != s.Class {
					t.Fatalf("step %+v does %s", s, p.Actions[i].Kind)
				}
			}
		}
		for i := range p.Actions {
			if i >= len(done) || done[i] != i {
				t.Fatalf("%d actions are done as %v", len(p.Actions), done)
			}
		}
	})
}
