// Package apply decides whether a plan may be carried out, and says in words
// what would be done.
//
// The decision is pure: [Gate] takes what the document, the store and the engine
// say and gives back nil or the one [Refusal] that comes first. It calls no
// engine, and reads no clock.
package apply

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/plan/planfile"
)

// MaxAge is how old a plan's as_of may be when it is applied to a live engine.
// A plan stays valid for longer on paper, but what it answers to does not.
const MaxAge = 15 * time.Minute

// Code names a reason for refusal; codes are stable.
type Code string

// The codes, in the order in which Gate looks for them.
const (
	Edited      Code = "edited"
	Expired     Code = "expired"
	Stale       Code = "stale"
	NotApproved Code = "not_approved"
	NotAllowed  Code = "not_allowed"
	Held        Code = "held"
	Nothing     Code = "nothing_to_act_on"
)

// exits are the exit codes of the command-line contract.
var exits = map[Code]int{Edited: 5, Expired: 6, Stale: 3, NotApproved: 4, NotAllowed: 4, Held: 7, Nothing: 0}

// Refusal says why a plan is not carried out. Exit is the exit code that the
// command line gives for it; that of Nothing is 0, for it is no failure. Hint is
// what mends it, as a rule a command; it may be empty.
type Refusal struct {
	Plan   string `json:"plan"`
	Code   Code   `json:"code"`
	Exit   int    `json:"exit"`
	Reason string `json:"reason"`
	Hint   string `json:"hint,omitempty"`
}

// Error leaves the hint out: it belongs on a line of its own.
func (r *Refusal) Error() string {
	return fmt.Sprintf("apply: refuse plan %s: %s", r.Plan, r.Reason)
}

// Row is what the store knows of a plan.
type Row struct {
	ID         string
	Digest     string
	State      dhalion.PlanState
	Author     string
	ProposedAt time.Time
	Approvals  []dhalion.Approval
}

// State is all that Gate looks at.
type State struct {
	Plan   dhalion.Plan
	ID     string // as the document says
	Digest string // as the document says

	// Edited is the error of planfile.Decode when the document does not match its
	// digest; nil otherwise. Plan, ID and Digest may then be empty.
	Edited *planfile.EditedError

	Row     *Row          // nil: the store does not know the plan
	Now     time.Time     // when it would be applied
	Present dhalion.Basis // topology, policy and model as they are now; the rest is not looked at

	// PresentPolicy is the name of the policy that holds now; empty: not known.
	PresentPolicy string

	// PresentTopology, when given, lets a refusal say what changed.
	PresentTopology *dhalion.Topology

	LiveEngine bool // false: the job is known only from files

	// Jobs are those that the plan touches, by its affects, each with the rules
	// that hold for it; Limits are those of the plan's policy.
	Jobs   []JobState
	Limits Limits
	// Sharing are jobs that the engine says share a worker from which the plan
	// moves instances, beside the plan's own.
	Sharing []Sharing
	// Unseen are jobs that the engine has and of which it did not tell where their
	// instances are, sorted by name.
	Unseen []dhalion.JobID
	// Unanswered: the engine did not tell of its jobs, so that nothing is known of
	// Sharing and Unseen.
	Unanswered bool

	DryRun bool // show, do not do
}

// JobState is what holds for one job that a plan touches.
type JobState struct {
	Job     dhalion.JobID
	Observe string // where it is said that it is only to be looked at; empty: it is not
	// Foreign are changes by somebody else on account of which the job is only to be
	// looked at until Until; a zero Until: it is not.
	Foreign []dhalion.Change
	Until   time.Time
	Quiet   string // the quiet hours that hold now; empty: none do
	HeldBy  string // id of the plan that holds its lease; empty: none
}

// Limits bound what a plan may touch; zero is no bound.
type Limits struct {
	Jobs      int
	Instances float64 // share of the affected jobs' instances
}

// Sharing is a job with instances on a worker, and how many it has in all.
type Sharing struct {
	Job       dhalion.JobID
	Worker    string
	Instances int // on the worker
	Of        int
}

// Leaves is the worker from which an action moves instances; empty: it moves none.
func Leaves(a dhalion.Action) string {
	switch {
	case a.Kind == dhalion.Alert || a.Kind != dhalion.Relocate && a.Target.Kind != dhalion.KindWorker:
		return ""
	case a.Target.Worker != "":
		return a.Target.Worker
	}
	return a.From.String()
}

// Gate returns why the plan must not be carried out, or nil. It looks for the
// reasons in the order of the exit codes' contract: edited, expired, stale, not
// approved, not allowed (mode, changes by somebody else, quiet hours, a job that may
// share a worker, blast radius), held by another plan,
// nothing to act on. A plan that is being applied is held by its applier, and that
// comes behind edited: its time and the world have been looked at, and it moves the
// world itself. A dry run needs no approval, no lease and no engine, and may
// be made in quiet hours; a plan that is over and done is refused
// there, too, for nothing would be done.
func Gate(s State) *Refusal {
	for _, check := range []func(State) *Refusal{edited, underWay, expired, stale, notApproved, notAllowed, held, nothing} {
		if r := check(s); r != nil {
			r.Plan = s.ID
			if r.Plan == "" {
				r.Plan = "(edited)"
				if s.Edited != nil && s.Edited.Name != "" {
					r.Plan = s.Edited.Name
				}
			}
			r.Exit = exits[r.Code]
			return r
		}
	}
	return nil
}

func edited(s State) *Refusal {
	again := replan(s.Plan)
	if s.Edited != nil {
		return &Refusal{Code: Edited, Reason: "the document was changed after it was written: its digest does not match its body",
			Hint: "restore the file, or see the plan as it was proposed: dhalion show PLAN"}
	}
	_, id, digest, err := planfile.Encode(s.Plan)
	switch {
	case err != nil:
		return &Refusal{Code: Edited, Reason: "its body is not one that this program writes: " + err.Error(), Hint: again}
	case digest != s.Digest:
		return &Refusal{Code: Edited, Reason: fmt.Sprintf("its digest %s is not that of its body, %s", brief(s.Digest), brief(digest)), Hint: again}
	case id != s.ID:
		return &Refusal{Code: Edited, Reason: fmt.Sprintf("its id is not that of its body, %s", id), Hint: again}
	case s.Row == nil:
		return nil
	case s.Row.ID != s.ID || s.Row.Digest != s.Digest:
		return &Refusal{Code: Edited, Reason: fmt.Sprintf("the store has another content for it (digest %s, here %s)", brief(s.Row.Digest), brief(s.Digest)),
			Hint: "see what was proposed: " + planfile.Command("dhalion", "show", s.Row.ID)}
	}
	return nil
}

func underWay(s State) *Refusal {
	if s.Row == nil || s.Row.State != dhalion.PlanApplying {
		return nil
	}
	return &Refusal{Code: Held, Reason: "it is being applied already", Hint: "when nobody applies it any more: " + planfile.Command("dhalion", "apply", s.ID, "--resume") +
		", or end it: " + planfile.Command("dhalion", "apply", s.ID, "--abort")}
}

func expired(s State) *Refusal {
	if s.Row == nil {
		return nil // never proposed here, so the clock has not started; it is not approved either
	}
	at := planfile.Expires(s.Plan, s.Row.ProposedAt)
	switch {
	case s.Row.State == dhalion.PlanExpired && s.Now.Before(at):
		return &Refusal{Code: Expired, Reason: "it was marked as expired", Hint: replan(s.Plan)}
	case !s.Now.Before(at):
		reason := fmt.Sprintf("it expired %s ago, at %s", planfile.Duration(s.Now.Sub(at)), rfc(at))
		return &Refusal{Code: Expired, Reason: reason + over(s.Row.State), Hint: replan(s.Plan)}
	}
	return nil
}

func stale(s State) *Refusal {
	refuse := func(reason string) *Refusal {
		if s.Row != nil {
			reason += over(s.Row.State)
		}
		return &Refusal{Code: Stale, Reason: reason, Hint: replan(s.Plan)}
	}
	was, is := s.Plan.Basis, s.Present
	switch {
	case was.Topology != is.Topology:
		return refuse("the job is not what it was: " + changed(s))
	case was.Policy != is.Policy && s.PresentPolicy != "" && s.PresentPolicy != s.Plan.Policy:
		return refuse(fmt.Sprintf("policy %s holds for the job now, and it was made by policy %s", s.PresentPolicy, s.Plan.Policy))
	case was.Policy != is.Policy:
		return refuse(fmt.Sprintf("policy %s changed since (digest %s, now %s)", s.Plan.Policy, brief(was.Policy), brief(is.Policy)))
	case was.Model != is.Model:
		return refuse(fmt.Sprintf("the model changed since (digest %s, now %s)", brief(was.Model), brief(is.Model)))
	case s.Row != nil && s.Row.State == dhalion.PlanStale:
		return refuse("it was marked as stale")
	}
	if reason := sharedOtherwise(s, s.Plan.Actions, true); reason != "" {
		return refuse(reason)
	}
	if age := s.Now.Sub(s.Plan.AsOf); s.LiveEngine && age > MaxAge {
		return refuse(fmt.Sprintf("it looks at %s, %s ago; on a live engine at most %s are allowed", rfc(s.Plan.AsOf), planfile.Duration(age), planfile.Duration(MaxAge)))
	}
	return nil
}

// sharedOtherwise says what is not as actions have it that move instances off a
// worker: a job there that they do not list, or, with counts, another number of its
// instances. Empty: all is as they say.
func sharedOtherwise(s State, actions []dhalion.Action, counts bool) string {
	listed := Jobs(s.Plan)
	for _, x := range s.Sharing {
		for _, a := range actions {
			if Leaves(a) != x.Worker {
				continue
			}
			of := slices.IndexFunc(a.Affects, func(t dhalion.Affected) bool { return t.Job == x.Job })
			_, known := slices.BinarySearch(listed, x.Job)
			switch {
			case !known:
				return fmt.Sprintf("%s has instances on worker %s, too, and the plan does not list it", x.Job, x.Worker)
			case of < 0:
				return fmt.Sprintf("%s has instances on worker %s, too, and the action that leaves it does not list it", x.Job, x.Worker)
			case counts && (a.Affects[of].Instances != x.Instances || a.Affects[of].Of != x.Of):
				return fmt.Sprintf("%s has %d of %d instances on worker %s, and the plan speaks of %d of %d",
					x.Job, x.Instances, x.Of, x.Worker, a.Affects[of].Instances, a.Affects[of].Of)
			}
		}
	}
	return ""
}

// changed says how the topology differs, as far as that is known.
func changed(s State) string {
	digests := fmt.Sprintf("topology %s, now %s", brief(s.Plan.Basis.Topology), brief(s.Present.Topology))
	if s.PresentTopology == nil {
		return digests
	}
	was, is := s.Plan.Topology, *s.PresentTopology
	var parts []string
	for _, c := range was.Components {
		switch now, ok := is.Component(c.Name); {
		case !ok:
			parts = append(parts, "component "+c.Name+" is gone")
		case now.Parallelism != c.Parallelism:
			parts = append(parts, fmt.Sprintf("%s had %d instances and has %d", c.Name, c.Parallelism, now.Parallelism))
		}
	}
	for _, c := range is.Components {
		if _, ok := was.Component(c.Name); !ok {
			parts = append(parts, "component "+c.Name+" is new")
		}
	}
	switch {
	case len(parts) > 0:
		return strings.Join(parts, "; ")
	case was.SameShape(is):
		return "instances were placed anew (" + digests + ")"
	}
	return digests
}

func notApproved(s State) *Refusal {
	refuse := func(reason, hint string) *Refusal {
		return &Refusal{Code: NotApproved, Reason: reason, Hint: hint}
	}
	approve := planfile.Command("dhalion", "approve", s.ID)
	if s.Plan.FourEyes {
		approve = planfile.Command("dhalion", "approve", s.ID, "--as", "NAME")
	}
	if s.Row == nil {
		if s.DryRun {
			return nil
		}
		return refuse("this store has never seen it, so nobody can have approved it", replan(s.Plan))
	}
	switch s.Row.State {
	case dhalion.PlanProposed:
		if s.DryRun {
			return nil
		}
		return refuse("nobody has approved it", approve)
	case dhalion.PlanApproved:
		if s.DryRun {
			return nil
		}
	case dhalion.PlanUnclear:
		return refuse("it is unclear, and a person decides what becomes of it", "go on: "+planfile.Command("dhalion", "apply", s.ID, "--resume")+
			", or end it: "+planfile.Command("dhalion", "apply", s.ID, "--abort"))
	default:
		return refuse(fmt.Sprintf("it is %s, and only a plan that waits can be applied", s.Row.State), replan(s.Plan))
	}
	return consent(s, approve, refuse)
}

// consent looks at the approvals themselves: the state alone would let an
// approval of another content, or of the author's own, pass.
func consent(s State, approve string, refuse func(reason, hint string) *Refusal) *Refusal {
	var people []string // that approved this content, each once
	other := 0
	for _, a := range s.Row.Approvals {
		switch name := person(a.Person); {
		case a.Digest != s.Digest || a.Plan != s.ID:
			other++
		case name == "":
		default:
			if !contains(people, name) {
				people = append(people, name)
			}
		}
	}
	author := person(s.Row.Author)
	switch {
	case len(people) == 0 && other > 0:
		return refuse("its approval is of another content", approve)
	case len(people) == 0:
		return refuse("no approval of it names a person", approve)
	case !s.Plan.FourEyes:
		return nil
	case author == "" && len(people) < 2:
		return refuse("the policy asks for four eyes and its author is not known: two people must approve it", approve)
	case len(people) == 1 && strings.EqualFold(people[0], author):
		return refuse(fmt.Sprintf("the policy asks for four eyes, and only its author, %s, has approved it", s.Row.Author), approve)
	}
	return nil
}

// person is a name as it is compared: "Ann" and "ann " are one pair of eyes.
func person(name string) string { return strings.Join(strings.Fields(name), " ") }

func contains(people []string, name string) bool {
	for _, p := range people {
		if strings.EqualFold(p, name) {
			return true
		}
	}
	return false
}

// notAllowed asks what the configuration and the policy let through at this time.
// Of several jobs the first by name answers, so that the answer is always the same.
func notAllowed(s State) *Refusal {
	refuse := func(hint, format string, args ...any) *Refusal {
		return &Refusal{Code: NotAllowed, Reason: fmt.Sprintf(format, args...), Hint: hint}
	}
	if s.DryRun || len(s.Plan.Actions) == 0 {
		return nil
	}
	for _, j := range s.Jobs {
		if j.Observe != "" {
			return refuse("set its mode to propose when it may be changed", "%s may only be looked at: %s", j.Job, j.Observe)
		}
	}
	for _, j := range s.Jobs {
		if s.Now.Before(j.Until) {
			return refuse("see who changes it: "+planfile.Command("dhalion", "log", string(j.Job))+", and wait until then",
				"%s may only be looked at until %s: somebody else changed its parallelism, %s", j.Job, rfc(j.Until), planfile.Changes(j.Foreign))
		}
	}
	for _, j := range s.Jobs {
		if j.Quiet != "" {
			return refuse("wait until they are over", "it is within the quiet hours of %s, %s", j.Job, j.Quiet)
		}
	}
	if i := slices.IndexFunc(s.Plan.Actions, func(a dhalion.Action) bool { return Leaves(a) != "" }); i >= 0 && (s.Unanswered || len(s.Unseen) > 0) {
		again := []string{"dhalion", "apply", s.ID}
		if s.Row != nil && (s.Row.State == dhalion.PlanApplying || s.Row.State == dhalion.PlanUnclear) {
			again = append(again, "--resume")
		}
		who, why := "another job", "the engine does not answer"
		if !s.Unanswered {
			who, why = string(s.Unseen[0]), "the engine does not tell where they are"
		}
		return refuse("when the engine tells of it: "+planfile.Command(again...),
			"whether %s has instances on worker %s is not known: %s", who, Leaves(s.Plan.Actions[i]), why)
	}
	jobs, share := BlastRadius(s.Plan)
	again := replan(s.Plan)
	if s.Limits.Jobs > 0 && jobs > s.Limits.Jobs {
		return refuse(again, "it touches %d jobs, and policy %s allows %d", jobs, s.Plan.Policy, s.Limits.Jobs)
	}
	if s.Limits.Instances > 0 && share > s.Limits.Instances+1e-9 {
		return refuse(again, "it touches %.0f %% of the instances, and policy %s allows %.0f %%", 100*share, s.Plan.Policy, 100*s.Limits.Instances)
	}
	return nil
}

// BlastRadius is how many jobs a plan touches and which share of all their
// instances it stops or moves. What several actions touch of a job is added up, to
// all of it at most.
func BlastRadius(p dhalion.Plan) (jobs int, share float64) {
	touched := map[dhalion.JobID]dhalion.Affected{}
	for _, a := range p.Actions {
		for _, t := range a.Affects {
			sum := touched[t.Job]
			sum.Of = max(sum.Of, t.Of)
			sum.Instances = min(sum.Of, sum.Instances+t.Instances)
			touched[t.Job] = sum
		}
	}
	n, all := 0, 0
	for _, t := range touched {
		n, all = n+t.Instances, all+t.Of
	}
	if all == 0 {
		return len(touched), 0
	}
	return len(touched), float64(n) / float64(all)
}

func held(s State) *Refusal {
	if s.DryRun {
		return nil
	}
	for _, j := range s.Jobs {
		if j.HeldBy != "" && j.HeldBy != s.ID {
			return &Refusal{Code: Held, Reason: fmt.Sprintf("plan %s holds %s", j.HeldBy, j.Job),
				Hint: "wait for it, or see how it stands: " + planfile.Command("dhalion", "show", j.HeldBy)}
		}
	}
	return nil
}

// RefuseHeld is the refusal of a plan whose lease another has.
func RefuseHeld(plan string, e *HeldError, hint string) *Refusal {
	return &Refusal{Plan: plan, Code: Held, Exit: exits[Held], Reason: strings.TrimPrefix(e.Error(), "apply: "), Hint: hint}
}

func nothing(s State) *Refusal {
	switch {
	case s.DryRun:
		return nil
	case len(s.Plan.Actions) == 0:
		return &Refusal{Code: Nothing, Reason: "it has no actions"}
	case !s.LiveEngine:
		return &Refusal{Code: Nothing, Reason: fmt.Sprintf("%s is known only from files: there is nothing to act on", s.Plan.Job),
			Hint: fmt.Sprintf("see what would be done: %s; an engine %s in dhalion.yaml can be acted on", planfile.Command("dhalion", "apply", s.ID, "--dry-run"), s.Plan.Job.Engine())}
	}
	return nil
}

// AsRefusal gives the refusal for an error of planfile.Decode that says that the
// document was edited, and nil for any other error.
func AsRefusal(err error) *Refusal {
	var e *planfile.EditedError
	if !errors.As(err, &e) {
		return nil
	}
	return Gate(State{Edited: e})
}

// over adds what has become of a plan to a reason that comes first only by
// order: that a finished plan expired is true and not what its reader wants to
// know.
func over(state dhalion.PlanState) string {
	switch state {
	case dhalion.PlanProposed, dhalion.PlanApproved, dhalion.PlanExpired, dhalion.PlanStale:
		return ""
	}
	return fmt.Sprintf(" (and it is %s)", state)
}

func replan(p dhalion.Plan) string {
	return "make a new one: " + planfile.Command("dhalion", "plan", string(p.Job))
}

func brief(digest string) string {
	switch {
	case digest == "":
		return "none"
	case len(digest) > planfile.IDLength:
		return digest[:planfile.IDLength]
	}
	return digest
}

func rfc(t time.Time) string { return t.UTC().Format(time.RFC3339) }
