package apply

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/plan/planfile"
)

// Call is one step of a plan as an actuator sees it: actions of one kind that
// are carried out together.
type Call struct {
	ID      string // PLAN-ACTION; the same in every attempt
	Plan    string
	Job     dhalion.JobID
	Actions []dhalion.Action
	// After are the intents of the plan's earlier steps where these are not carried out
	// yet: Prepare works out what is sent when they are.
	After []Intent
	// Before is the topology that the plan was made from.
	Before dhalion.Topology
}

// Standing is how a call stands with the engine.
type Standing int

// What an engine can say of a call.
const (
	Unknown Standing = iota // it cannot tell
	Undone
	Working // it was told, and is not there yet
	Settled // it runs with what was asked for
	Failed  // it will not come to run with what was asked for
)

// String is the word for people.
func (s Standing) String() string {
	return [...]string{"unknown", "undone", "working", "settled", "failed"}[s]
}

// Actuator is the only hand on an engine.
type Actuator interface {
	// Prepare works out what Act will send, and refuses with an error what cannot
	// work (no free slots, no such hook); *AwayError is no refusal. It reads and
	// changes nothing. The same call gives the same ids in every attempt.
	Prepare(ctx context.Context, c Call) (Intent, error)
	// Act sends it. It is called again with the same intent only for a call that is
	// repeatable or checkable.
	Act(ctx context.Context, c Call, i Intent) Result
	// Look asks the engine how the call stands; why is for people.
	Look(ctx context.Context, c Call, i Intent) (s Standing, why string)
}

// AwayError says that an engine can be asked for nothing now, and may be in a while:
// it does not answer, or the job is on its way up.
type AwayError struct{ Err error }

// Error is what was met.
func (e *AwayError) Error() string { return e.Err.Error() }

// Unwrap is what was met.
func (e *AwayError) Unwrap() error { return e.Err }

// Classed is an Actuator that says itself what a crash in the middle of its
// actions means; of any other that follows from the kind of action.
type Classed interface {
	Class() string
}

func classOf(actuator Actuator, s Step) string {
	if c, ok := actuator.(Classed); ok {
		return c.Class()
	}
	return s.Class
}

// Point is a place where an applier may be interrupted, for tests.
type Point string

// The points around every journal write and every engine call.
const (
	BeforeBegin   Point = "before-begin"
	AfterBegin    Point = "after-begin"
	BeforeIntent  Point = "before-intent"
	AfterIntent   Point = "after-intent"
	BeforeAct     Point = "before-act"
	AfterAct      Point = "after-act"
	BeforeConfirm Point = "before-confirm"
	AfterConfirm  Point = "after-confirm"
	BeforeEnd     Point = "before-end"
	AfterEnd      Point = "after-end"
)

// Points lists them in the order in which an apply passes them.
var Points = []Point{BeforeBegin, AfterBegin, BeforeIntent, AfterIntent, BeforeAct, AfterAct, BeforeConfirm, AfterConfirm, BeforeEnd, AfterEnd}

// Applier carries out plans that have passed the gate.
type Applier struct {
	Journal  Journal
	Actuator func(dhalion.Action) (Actuator, error) // by kind
	// Tell gives who is told of an alert, beside whoever reads the outcome; it and what
	// it gives may be nil: nobody.
	Tell   func(dhalion.Action) Actuator
	Holder string
	Dead   func(holder string) bool // whether that holder is known to have ended; may be nil
	Now    func() time.Time
	// Wait sleeps, and returns early with the context's error when it ends.
	Wait func(ctx context.Context, d time.Duration) error

	// Decided is a person's word on an opaque step that a crash left open: Done, it
	// was done; Refused, it was not and is tried again. Empty: nobody said.
	Decided   string
	DecidedBy string // who said so

	LeaseFor time.Duration // length of a lease; renewed before it is over
	TryFor   time.Duration // of one attempt at a step
	Attempts int           // at a repeatable or checkable step
	SettleIn time.Duration // how long the engine may take to run with what was asked

	Say     func(format string, args ...any) // progress, for people; may be nil
	Observe func(Point)                      // for tests; may be nil
}

// Report is what an apply came to.
type Report struct {
	State    dhalion.PlanState // applied, failed, unclear
	Why      string
	Outcomes []dhalion.Outcome // one per action
	Settled  time.Time         // when the engine ran with what was asked
}

// Jobs are those that a plan touches, sorted by name: leases are taken in this
// order, so that two plans do not wait for each other.
func Jobs(p dhalion.Plan) []dhalion.JobID {
	jobs := map[dhalion.JobID]bool{p.Job: true}
	for _, a := range p.Actions {
		for _, t := range a.Affects {
			jobs[t.Job] = true
		}
	}
	return slices.Sorted(maps.Keys(jobs))
}

// Apply carries out a plan. The caller has asked the gate. With resume it goes
// on where a crash stopped it: a repeatable step is repeated, the engine is asked
// whether a checkable one was done, and an opaque one with an open intent is left
// alone: the plan becomes unclear, and a person decides.
//
// The error is *HeldError or *LostError, the journal's, or the context's; the
// plan is then left to whoever resumes it. Everything else is in the report.
func (a *Applier) Apply(ctx context.Context, id string, p dhalion.Plan, resume bool) (Report, error) {
	a.observe(BeforeBegin)
	lease, err := a.begin(ctx, id, p, resume)
	if err != nil {
		return Report{}, err
	}
	a.observe(AfterBegin)
	r := &round{a: a, ctx: ctx, id: id, plan: p, lease: lease, outcomes: notBegun(id, p, a.Now())}
	state, why, err := r.steps()
	if err != nil {
		return Report{}, err
	}
	a.observe(BeforeEnd)
	if err := a.Journal.End(ctx, lease, state, why, r.outcomes, a.Now()); err != nil {
		return Report{}, err
	}
	a.observe(AfterEnd)
	return Report{State: state, Why: why, Outcomes: r.outcomes, Settled: r.settled}, nil
}

// begin takes the lease; from a holder that is dead at once, without waiting for
// the end of its time.
func (a *Applier) begin(ctx context.Context, id string, p dhalion.Plan, resume bool) (Lease, error) {
	b := Beginning{Plan: id, Jobs: Jobs(p), Holder: a.Holder, Now: a.Now(), Length: a.LeaseFor, Resume: resume}
	switch a.Decided {
	case Done:
		b.Decided, b.Person = "the step that was begun was done", a.DecidedBy
	case Refused:
		b.Decided, b.Person = "the step that was begun was not done", a.DecidedBy
	}
	lease, err := a.Journal.Begin(ctx, b)
	var held *HeldError
	if errors.As(err, &held) && held.Plan == id && resume && a.Dead != nil && a.Dead(held.Holder) {
		b.Dead = held.Holder
		return a.Journal.Begin(ctx, b)
	}
	return lease, err
}

func (a *Applier) observe(p Point) {
	if a.Observe != nil {
		a.Observe(p)
	}
}

func (a *Applier) say(format string, args ...any) {
	if a.Say != nil {
		a.Say(format, args...)
	}
}

// round is one Apply.
type round struct {
	a        *Applier
	ctx      context.Context
	id       string
	plan     dhalion.Plan
	lease    Lease
	outcomes []dhalion.Outcome
	settled  time.Time
}

// steps does one after the other. A step that failed ends the plan; what was done
// before it stays done and is told.
func (r *round) steps() (state dhalion.PlanState, why string, err error) {
	entries, err := r.a.Journal.Entries(r.ctx, r.id)
	if err != nil {
		return "", "", err
	}
	untold := false
	for _, s := range Steps(r.plan) {
		if len(s.Actions) == 0 {
			continue // what stands around the actions
		}
		if s.Class == Harmless {
			untold = r.tell(s) || untold
			continue
		}
		before := entriesOf(entries, s.Actions[0])
		if later := slices.ContainsFunc(entries, func(e Entry) bool { return e.Action > s.Actions[len(s.Actions)-1] }); later && isDone(before) {
			// A step is begun when the one before it has settled; and after a restart the
			// engine no longer tells of the run that this one changed.
			r.note(s, "applied", "it had settled before the next step was begun")
			continue
		}
		done, why, err := r.step(s, callOf(r.id, r.plan, s), before)
		if err != nil {
			return "", "", err
		}
		switch done {
		case Done:
			r.note(s, "applied", why)
		case Refused:
			r.note(s, "failed", why)
			return dhalion.PlanFailed, r.told(s, why), nil
		default:
			r.note(s, "failed", why)
			return dhalion.PlanUnclear, r.told(s, why), nil
		}
	}
	if untold && !slices.ContainsFunc(r.plan.Actions, func(x dhalion.Action) bool { return x.Kind != dhalion.Alert }) {
		return dhalion.PlanFailed, "nobody was told", nil
	}
	return dhalion.PlanApplied, "", nil
}

// tell carries out an alert and reports whether it failed. It ends no plan: what is
// wrong is mended although nobody hears of it.
func (r *round) tell(s Step) (failed bool) {
	c := callOf(r.id, r.plan, s)
	message := c.Actions[0].Message
	who := r.a.teller(c.Actions[0])
	if who == nil {
		r.note(s, "applied", message)
		return false
	}
	ctx, cancel := context.WithTimeout(r.ctx, r.a.TryFor)
	defer cancel()
	intent, err := who.Prepare(ctx, c)
	if err != nil {
		r.note(s, "failed", message+"; "+err.Error())
		return true
	}
	r.a.say("%s", s.Text)
	if result := who.Act(ctx, c, intent); result.Outcome != Done {
		r.note(s, "failed", message+"; "+result.Detail)
		return true
	}
	r.note(s, "applied", message)
	return false
}

func (a *Applier) teller(x dhalion.Action) Actuator {
	if a.Tell == nil {
		return nil
	}
	return a.Tell(x)
}

// Prepare works out what every step of a plan would send, and which of them would
// be refused. It changes nothing.
func (a *Applier) Prepare(ctx context.Context, id string, p dhalion.Plan) []Step {
	steps := Steps(p)
	var before []Intent
	for i, s := range steps {
		if len(s.Actions) == 0 {
			continue
		}
		if s.Class == Harmless {
			if who := a.teller(p.Actions[s.Actions[0]]); who != nil {
				if intent, err := who.Prepare(ctx, callOf(id, p, s)); err != nil {
					steps[i].Details = append(steps[i].Details, "nobody would be told: "+planfile.Plain(err.Error()))
				} else {
					steps[i].Call = &intent
				}
			}
			continue
		}
		actuator, err := a.Actuator(p.Actions[s.Actions[0]])
		if err != nil {
			steps[i].Refused = err.Error()
			continue
		}
		steps[i].Class = classOf(actuator, s)
		try, cancel := context.WithTimeout(ctx, a.TryFor)
		c := callOf(id, p, s)
		c.After = before
		intent, err := actuator.Prepare(try, c)
		cancel()
		if err != nil {
			steps[i].Refused = err.Error()
			continue
		}
		steps[i].Call = &intent
		before = append(before, intent)
	}
	return steps
}

// callOf is a step as an actuator sees it.
func callOf(id string, p dhalion.Plan, s Step) Call {
	c := Call{ID: fmt.Sprintf("%s-%d", id, s.Actions[0]), Plan: id, Job: p.Job, Before: p.Topology}
	for _, i := range s.Actions {
		c.Actions = append(c.Actions, p.Actions[i])
	}
	return c
}

// told says which step ended a plan, and what was done before it.
func (r *round) told(s Step, why string) string {
	before := 0
	for _, o := range r.outcomes {
		if o.Applied == "applied" {
			before++
		}
	}
	if before == 0 {
		return s.Text + ": " + why
	}
	return fmt.Sprintf("%s: %s (%d of %d actions were done before)", s.Text, why, before, len(r.outcomes))
}

func (r *round) note(s Step, applied, detail string) {
	for _, i := range s.Actions {
		r.outcomes[i].Applied, r.outcomes[i].Detail, r.outcomes[i].At = applied, detail, r.a.Now()
	}
}

func entriesOf(all []Entry, action int) []Entry {
	return slices.DeleteFunc(slices.Clone(all), func(e Entry) bool { return e.Action != action })
}

// isDone reports whether the last of a step's attempts is confirmed as done.
func isDone(attempts []Entry) bool {
	if len(attempts) == 0 {
		return false
	}
	last := attempts[len(attempts)-1]
	return last.Result != nil && last.Result.Outcome == Done
}

// step carries out one step and waits until the engine runs with it. outcome is
// Done, Refused (it was not done) or Unsure (nobody knows).
func (r *round) step(s Step, c Call, before []Entry) (outcome, why string, err error) {
	actuator, err := r.a.Actuator(c.Actions[0])
	if err != nil {
		return Refused, err.Error(), nil
	}
	s.Class = classOf(actuator, s)
	attempt := len(before)
	var last *Entry
	if attempt > 0 {
		last = &before[attempt-1]
	}
	if last != nil { // an earlier process came so far
		switch {
		case isDone(before):
			r.a.say("%s: it was sent before", s.Text)
			return r.settle(actuator, c, last.Intent, s)
		case last.Result != nil && last.Result.Outcome == Refused:
			// It was refused and is tried again: a person asked for that.
		case s.Class == Opaque && r.a.Decided == Done:
			if err := r.found(s, last.Intent, attempt+1, r.a.DecidedBy+" said that it was done"); err != nil {
				return "", "", err
			}
			return r.settle(actuator, c, last.Intent, s)
		case s.Class == Opaque && r.a.Decided == Refused:
			// A person said that it was not done.
		case s.Class == Opaque:
			return Unsure, fmt.Sprintf("it was begun at %s and nobody knows whether it was done; it is never repeated by itself", rfc(last.At)), nil
		default:
			// A repeatable step is asked for, too: while a job changes, there is nothing to
			// be sent to it.
			standing, why, err := r.ask(actuator, s, c, last.Intent)
			if err != nil {
				return "", "", err
			}
			switch {
			case standing == Settled || standing == Working:
				if err := r.found(s, last.Intent, attempt+1, "found done after a crash"); err != nil {
					return "", "", err
				}
				return r.settle(actuator, c, last.Intent, s)
			case standing == Failed:
				return Refused, why, nil
			case standing == Unknown && s.Class == Checkable:
				return Unsure, "the engine does not tell whether it was done: " + why, nil
			}
		}
	}
	open := last != nil && (last.Result == nil || last.Result.Outcome == Unsure)
	var intent Intent
	if open {
		intent = last.Intent
	}
	until, away := r.a.Now().Add(r.a.SettleIn), false
	for try := 1; ; try++ {
		attempt++
		// A checkable step is gone on with by the ids that it was begun with: half of
		// it may be done, and what it changes is no longer as it was.
		if !open || s.Class != Checkable {
			prepared, err := r.prepare(actuator, c)
			var gone *AwayError
			// One that was away has no jobs and no slots at first.
			away = away || errors.As(err, &gone)
			switch {
			case err == nil:
				intent = prepared
			case r.ctx.Err() != nil:
				return "", "", r.ctx.Err()
			case (open || away) && r.a.Now().Before(until):
				// The engine may be on its way up again.
				if err := r.later(s, err.Error()); err != nil {
					return "", "", err
				}
				try, attempt = try-1, attempt-1
				continue
			case open:
				return Unsure, "it was begun before, and cannot be repeated: " + err.Error(), nil
			case away:
				return Refused, fmt.Sprintf("nothing was sent: after %s still %s", r.a.SettleIn, err), nil
			default:
				return Refused, err.Error(), nil
			}
		}
		result, err := r.try(actuator, s, c, intent, attempt)
		if err != nil {
			return "", "", err
		}
		switch {
		case result.Outcome == Done:
			return r.settle(actuator, c, intent, s)
		case result.Outcome == Refused:
			return Refused, result.Detail, nil
		case s.Class == Opaque:
			return Unsure, result.Detail, nil
		default:
			standing, _, err := r.ask(actuator, s, c, intent)
			if err != nil {
				return "", "", err
			}
			switch standing {
			case Settled, Working:
				attempt++
				if err := r.found(s, intent, attempt, "found done although its answer was lost"); err != nil {
					return "", "", err
				}
				return r.settle(actuator, c, intent, s)
			}
		}
		open = true
		if try >= r.a.Attempts {
			return Unsure, result.Detail, nil
		}
		r.a.say("%s: %s; trying again", s.Text, result.Detail)
		if err := r.a.Wait(r.ctx, time.Second<<min(try-1, 4)); err != nil {
			return "", "", err
		}
	}
}

// ask asks the engine how a call stands, and goes on asking while it cannot tell:
// one that was killed takes its time to come up again. What can be repeated is
// asked for once.
func (r *round) ask(actuator Actuator, s Step, c Call, intent Intent) (Standing, string, error) {
	until := r.a.Now().Add(r.a.SettleIn)
	for {
		standing, why := actuator.Look(r.ctx, c, intent)
		if s.Class == Repeatable || standing != Unknown || !r.a.Now().Before(until) {
			return standing, why, nil
		}
		if err := r.later(s, why); err != nil {
			return standing, why, err
		}
	}
}

// later waits a second under the lease.
func (r *round) later(s Step, why string) error {
	r.a.say("%s: %s; asking again", s.Text, why)
	if err := r.renew(); err != nil {
		return err
	}
	return r.a.Wait(r.ctx, time.Second)
}

// found writes down that a step is done of which the journal says that nobody
// knows: what was set is known by what is confirmed.
func (r *round) found(s Step, intent Intent, attempt int, why string) error {
	id, err := r.a.Journal.Intend(r.ctx, r.lease, s.Actions[0], attempt, intent, r.a.Now())
	if err != nil {
		return err
	}
	return r.confirm(id, Result{Outcome: Done, Detail: why})
}

func (r *round) prepare(actuator Actuator, c Call) (Intent, error) {
	ctx, cancel := context.WithTimeout(r.ctx, r.a.TryFor)
	defer cancel()
	return actuator.Prepare(ctx, c)
}

// try is one attempt: intent, call, confirm.
func (r *round) try(actuator Actuator, s Step, c Call, intent Intent, attempt int) (Result, error) {
	r.a.observe(BeforeIntent)
	id, err := r.a.Journal.Intend(r.ctx, r.lease, s.Actions[0], attempt, intent, r.a.Now())
	if err != nil {
		return Result{}, err
	}
	r.a.observe(AfterIntent)
	if err := r.renew(); err != nil {
		return Result{}, err
	}
	r.a.say("%s", s.Text)
	r.a.observe(BeforeAct)
	ctx, cancel := context.WithTimeout(r.ctx, r.a.TryFor)
	result := actuator.Act(ctx, c, intent)
	cancel()
	r.a.observe(AfterAct)
	// What came back is written down although the apply was interrupted meanwhile.
	r.a.observe(BeforeConfirm)
	if err := r.confirm(id, result); err != nil {
		return Result{}, err
	}
	r.a.observe(AfterConfirm)
	return result, r.ctx.Err()
}

func (r *round) confirm(id int64, result Result) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.ctx), 10*time.Second)
	defer cancel()
	return r.a.Journal.Confirm(ctx, id, result, r.a.Now())
}

func (r *round) renew() error {
	return r.a.Journal.Renew(r.ctx, r.lease, r.a.Now(), r.a.LeaseFor)
}

// settle waits until the engine runs with what was asked for.
func (r *round) settle(actuator Actuator, c Call, intent Intent, s Step) (outcome, why string, err error) {
	began, said := r.a.Now(), ""
	for {
		if err := r.renew(); err != nil {
			return "", "", err
		}
		standing, why := actuator.Look(r.ctx, c, intent)
		switch standing {
		case Settled:
			r.settled = r.a.Now()
			return Done, why, nil
		case Failed:
			return Refused, why, nil
		}
		if r.a.Now().Sub(began) > r.a.SettleIn {
			reason := fmt.Sprintf("after %s it does not run with what was asked for", r.a.SettleIn)
			if why != "" {
				reason += ": " + why
			}
			return Unsure, reason, nil
		}
		if why != "" && why != said {
			r.a.say("%s: %s", strings.ToLower(standing.String()), why)
			said = why
		}
		if err := r.a.Wait(r.ctx, time.Second); err != nil {
			return "", "", err
		}
	}
}
