package apply

import (
	"cmp"
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
	// Before is the job as the step should find it: the topology that the plan was made
	// from, with what the plan's earlier steps have set.
	Before dhalion.Topology
	// Guard stands around every request of Act that changes something; nil: nothing
	// does. See Change.
	Guard func(ctx context.Context, send func() Result) Result
}

// Change sends one request that changes something. Act sends each of them by it:
// between two requests of one step the lease may have been lost, and then the
// second is not sent and the result is Unsure.
func (c Call) Change(ctx context.Context, send func() Result) Result {
	if c.Guard == nil {
		return send()
	}
	return c.Guard(ctx, send)
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
	// Act sends it, every request that changes something by c.Change. It is called
	// again with the same intent only for a call that is repeatable or checkable. Its
	// context ends when the lease is lost.
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

// Restorer is an Actuator that can have a job run as before that a call has brought
// down.
type Restorer interface {
	// Restore is the intent that does so, with Back, for Act and Look. ok is false where
	// the job is not known to be down, or not by this call.
	Restore(ctx context.Context, c Call, i Intent) (back Intent, ok bool)
}

// Timed is an Actuator that says itself how long one Act of a call may take; of any
// other, and where it says 0, that is Applier.TryFor.
type Timed interface {
	Within(c Call) time.Duration
}

func classOf(actuator Actuator, s Step) string {
	if c, ok := actuator.(Classed); ok {
		return c.Class()
	}
	return s.Class
}

// Point is a place where an applier may be interrupted, for tests.
type Point string

// The points around every journal write and every request that changes something. A
// restart has several requests and writes, and passes them as often.
const (
	BeforeBegin   Point = "before-begin"
	AfterBegin    Point = "after-begin"
	BeforeIntent  Point = "before-intent"
	AfterIntent   Point = "after-intent"
	BeforeRenew   Point = "before-renew" // not of the renewals that go on beside a call
	AfterRenew    Point = "after-renew"
	BeforeAct     Point = "before-act"
	AfterAct      Point = "after-act"
	BeforeConfirm Point = "before-confirm"
	AfterConfirm  Point = "after-confirm"
	BeforeEnd     Point = "before-end"
	AfterEnd      Point = "after-end"
	BeforeJudge   Point = "before-judge" // by whoever judges the outcome, afterwards
	AfterJudge    Point = "after-judge"
)

// Points lists those of an apply, in the order in which it passes them first.
var Points = []Point{BeforeBegin, AfterBegin, BeforeIntent, AfterIntent, BeforeRenew, AfterRenew, BeforeAct, AfterAct, BeforeConfirm, AfterConfirm, BeforeEnd, AfterEnd}

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

	// Decided is a person's word on the opaque step that was begun last, and comes before
	// the step's own: Done, it was done; Refused, it was not and is tried again. Empty:
	// nobody said.
	Decided   string
	DecidedBy string // who said so

	LeaseFor time.Duration // length of a lease; renewed before it is over
	TryFor   time.Duration // of one attempt at a step whose actuator is not Timed
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
	stopped  error // why a request was not sent: the lease could not be renewed
}

// steps does one after the other. A step that failed ends the plan; what was done
// before it stays done and is told.
func (r *round) steps() (state dhalion.PlanState, why string, err error) {
	entries, err := r.a.Journal.Entries(r.ctx, r.id)
	if err != nil {
		return "", "", err
	}
	untold := false
	now := r.plan.Topology
	for _, s := range Steps(r.plan) {
		if len(s.Actions) == 0 {
			continue // what stands around the actions
		}
		before := entriesOf(entries, s.Actions[0])
		if s.Class == Harmless {
			failed, err := r.tell(s, before)
			if err != nil {
				return "", "", err
			}
			untold = untold || failed
			continue
		}
		if later := slices.ContainsFunc(entries, func(e Entry) bool { return e.Action > s.Actions[len(s.Actions)-1] }); later && isDone(before) {
			// A step is begun when the one before it has settled; and after a restart the
			// engine no longer tells of the run that this one changed.
			r.note(s, "applied", "it had settled before the next step was begun")
			now = after(now, r.plan, s)
			continue
		}
		done, why, err := r.step(s, callOf(r.id, r.plan, s, now), before)
		if err != nil {
			return "", "", err
		}
		switch done {
		case Done:
			r.note(s, "applied", why)
			now = after(now, r.plan, s)
		case Refused:
			r.note(s, "failed", why)
			return dhalion.PlanFailed, r.told(s, why), nil
		default:
			r.note(s, "failed", why)
			return dhalion.PlanUnclear, r.told(s, why), nil
		}
	}
	if untold && !slices.ContainsFunc(r.plan.Actions, func(x dhalion.Action) bool { return x.Kind != dhalion.Alert }) {
		return dhalion.PlanFailed, "nobody is known to have been told", nil
	}
	return dhalion.PlanApplied, "", nil
}

// tell carries out an alert, once, and reports whether it failed. It ends no plan: what is
// wrong is mended although nobody hears of it. before are its entries by an earlier
// process, which are not added to.
func (r *round) tell(s Step, before []Entry) (failed bool, err error) {
	c := callOf(r.id, r.plan, s, r.plan.Topology)
	message := c.Actions[0].Message
	who, result := r.a.teller(c.Actions[0]), Result{Outcome: Done}
	switch {
	case len(before) > 0:
		last := before[len(before)-1]
		result = Result{Outcome: Unsure, Detail: fmt.Sprintf("it was begun at %s and nobody knows whether anybody was told; it is never repeated", rfc(last.At))}
		if last.Result != nil {
			result = *last.Result
		}
	case who != nil:
		intent, err := r.prepare(who, c)
		switch {
		case err == nil:
			if result, err = r.try(who, s, c, intent, 1); err != nil {
				return false, err
			}
		case r.ends(err) != nil:
			return false, r.ends(err)
		default:
			result = Result{Outcome: Refused, Detail: err.Error()}
		}
	}
	if result.Outcome != Done {
		r.note(s, "failed", message+"; "+result.Detail)
		return true, nil
	}
	r.note(s, "applied", message)
	return false, nil
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
				if intent, err := who.Prepare(ctx, callOf(id, p, s, p.Topology)); err != nil {
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
		c := callOf(id, p, s, p.Topology)
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
func callOf(id string, p dhalion.Plan, s Step, before dhalion.Topology) Call {
	c := Call{ID: fmt.Sprintf("%s-%d", id, s.Actions[0]), Plan: id, Job: p.Job, Before: before}
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
	var intent Intent
	if last != nil {
		if intent = last.Intent; last.Result != nil && last.Result.Outcome == Partly {
			intent = *last.Result.Next
		}
		if intent.Back {
			return r.back(actuator, s, c, intent, attempt, "it had failed before", last)
		}
	}
	if last != nil { // an earlier process came so far
		switch {
		case s.Class == Opaque && r.a.Decided == Refused:
			// A person said that it was not done, whatever the hook said.
		case isDone(before):
			r.a.say("%s: it was sent before", s.Text)
			return r.land(actuator, s, c, intent, attempt)
		case s.Class == Opaque && r.a.Decided == Done:
			if err := r.found(s, intent, attempt+1, r.a.DecidedBy+" said that it was done"); err != nil {
				return "", "", err
			}
			return r.land(actuator, s, c, intent, attempt+1)
		case last.Result != nil && last.Result.Outcome == Refused && s.Class == Repeatable:
			// It was refused and is tried again: a person asked for that.
		case last.Result != nil && last.Result.Outcome == Refused:
			// The applier died before it had said so. A hook that failed may have done a part
			// of its work, and a restart may have been refused because of a run that somebody
			// else has started since: neither is begun anew.
			return Refused, last.Result.Detail, nil
		case s.Class == Opaque:
			return Unsure, fmt.Sprintf("it was begun at %s and nobody knows whether it was done; it is never repeated by itself", rfc(last.At)), nil
		default:
			// A repeatable step is asked for, too: while a job changes, there is nothing to
			// be sent to it.
			standing, why, err := r.ask(actuator, s, c, intent)
			if err != nil {
				return "", "", err
			}
			switch {
			case standing == Settled || standing == Working:
				if err := r.found(s, intent, attempt+1, "found done after a crash"); err != nil {
					return "", "", err
				}
				return r.land(actuator, s, c, intent, attempt+1)
			case standing == Failed:
				outcome, why, _, err := r.restore(actuator, s, c, intent, attempt, why)
				return outcome, why, err
			case standing == Unknown && s.Class == Checkable:
				return Unsure, "the engine does not tell whether it was done: " + why, nil
			}
		}
	}
	open := last != nil && (last.Result == nil || last.Result.Outcome == Unsure || last.Result.Outcome == Partly)
	// Whether every request that may have had an effect was answered.
	heard := last == nil || last.Result != nil && last.Result.Outcome != Unsure
	until, away := r.a.Now().Add(r.a.SettleIn), false
	for try := 1; ; try++ {
		attempt++
		// A checkable step is gone on with by the ids that it was begun with: half of
		// it may be done, and what it changes is no longer as it was.
		if !open || s.Class != Checkable {
			prepared, err := r.prepare(actuator, c)
			var gone *AwayError
			// One that was away has no jobs and no slots at first, and runs a job with fewer
			// instances until its workers are there.
			away = away || errors.As(err, &gone)
			switch {
			case err == nil:
				intent = prepared
			case r.ends(err) != nil:
				return "", "", r.ends(err)
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
		standing := Unknown
		switch {
		case result.Outcome == Done:
			return r.land(actuator, s, c, intent, attempt)
		case result.Outcome == Partly:
			intent, open, try = *result.Next, true, 0
			continue
		case result.Outcome == Refused:
			return Refused, result.Detail, nil
		case s.Class == Opaque:
			return Unsure, result.Detail, nil
		default:
			if standing, _, err = r.ask(actuator, s, c, intent); err != nil {
				return "", "", err
			}
			switch standing {
			case Settled, Working:
				attempt++
				if err := r.found(s, intent, attempt, "found done although its answer was lost"); err != nil {
					return "", "", err
				}
				return r.land(actuator, s, c, intent, attempt)
			}
		}
		open, heard = true, heard && result.Answer != nil
		if try >= r.a.Attempts {
			if standing == Undone && heard {
				if outcome, why, ok, err := r.restore(actuator, s, c, intent, attempt, result.Detail); ok || err != nil {
					return outcome, why, err
				}
			}
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
		standing, why, err := r.look(actuator, c, intent)
		if err != nil {
			return standing, why, err
		}
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
	id, err := r.intend(s, intent, attempt)
	if err != nil {
		return err
	}
	return r.confirm(id, Result{Outcome: Done, Detail: why})
}

func (r *round) prepare(actuator Actuator, c Call) (intent Intent, err error) {
	lost := r.leased(func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, r.a.TryFor)
		defer cancel()
		intent, err = actuator.Prepare(ctx, c)
	})
	return intent, cmp.Or(lost, err)
}

// ends is the error with which the round ends when a call gave err: that it was
// interrupted, or that its lease is gone. nil: err is the call's own.
func (r *round) ends(err error) error {
	switch {
	case r.ctx.Err() != nil:
		return r.ctx.Err()
	case errors.As(err, new(*LostError)) || errors.As(err, new(*unrenewedError)):
		return err
	}
	return nil
}

func (r *round) look(actuator Actuator, c Call, intent Intent) (standing Standing, why string, err error) {
	err = r.leased(func(ctx context.Context) {
		standing, why = actuator.Look(ctx, c, intent)
	})
	return standing, why, err
}

// try is one attempt: intent, call, confirm.
func (r *round) try(actuator Actuator, s Step, c Call, intent Intent, attempt int) (Result, error) {
	id, err := r.intend(s, intent, attempt)
	if err != nil {
		return Result{}, err
	}
	r.a.say("%s", s.Text)
	limit := r.a.TryFor
	if timed, ok := actuator.(Timed); ok {
		limit = cmp.Or(timed.Within(c), limit)
	}
	c.Guard = r.guard
	var result Result
	lost := r.leased(func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		result = actuator.Act(ctx, c, intent)
	})
	// What came back is written down although the apply was interrupted or lost its
	// lease meanwhile.
	unwritten := r.confirm(id, result)
	return result, cmp.Or(lost, r.stopped, unwritten, r.ctx.Err())
}

func (r *round) intend(s Step, intent Intent, attempt int) (id int64, err error) {
	r.a.observe(BeforeIntent)
	if id, err = r.a.Journal.Intend(r.ctx, r.lease, s.Actions[0], attempt, intent, r.a.Now()); err == nil {
		r.a.observe(AfterIntent)
	}
	return id, err
}

func (r *round) confirm(id int64, result Result) error {
	r.a.observe(BeforeConfirm)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.ctx), 10*time.Second)
	defer cancel()
	err := r.a.Journal.Confirm(ctx, id, result, r.a.Now())
	if err == nil {
		r.a.observe(AfterConfirm)
	}
	return err
}

// settle waits until the engine runs with what was asked for.
func (r *round) settle(actuator Actuator, c Call, intent Intent, s Step) (outcome, why string, err error) {
	began, said := r.a.Now(), ""
	for {
		if err := r.renew(); err != nil {
			return "", "", err
		}
		standing, why, err := r.look(actuator, c, intent)
		if err != nil {
			return "", "", err
		}
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

// land waits until the engine runs with a step, and has the job run as before when
// it will not.
func (r *round) land(actuator Actuator, s Step, c Call, intent Intent, attempt int) (outcome, why string, err error) {
	outcome, why, err = r.settle(actuator, c, intent, s)
	if outcome != Refused {
		return outcome, why, err
	}
	outcome, why, _, err = r.restore(actuator, s, c, intent, attempt, why)
	return outcome, why, err
}

// restore has a job run as before that a step has brought down; why says how it
// did. ok is false, and the outcome Refused, when there is nothing to be done.
func (r *round) restore(actuator Actuator, s Step, c Call, intent Intent, attempt int, why string) (outcome, told string, ok bool, err error) {
	restorer, can := actuator.(Restorer)
	if !can {
		return Refused, why, false, nil
	}
	var back Intent
	if err := r.leased(func(ctx context.Context) { back, ok = restorer.Restore(ctx, c, intent) }); err != nil || !ok {
		return Refused, why, false, err
	}
	outcome, told, err = r.back(actuator, s, c, back, attempt, why, nil)
	return outcome, told, true, err
}

// back carries out what has a job run as before. last is an earlier process's
// attempt at it. The step has failed, whatever comes of it.
func (r *round) back(actuator Actuator, s Step, c Call, back Intent, attempt int, why string, last *Entry) (outcome, told string, err error) {
	r.a.say("%s: %s; the job is started as it was before", s.Text, why)
	sent := last != nil
	for try := 1; last == nil || last.Result == nil || last.Result.Outcome != Done; try++ {
		if sent {
			standing, _, err := r.ask(actuator, s, c, back)
			if err != nil {
				return "", "", err
			}
			if standing == Settled || standing == Working {
				if err := r.found(s, back, attempt+1, "found done although its answer was lost"); err != nil {
					return "", "", err
				}
				break
			}
		}
		attempt++
		result, err := r.try(actuator, s, c, back, attempt)
		switch {
		case err != nil:
			return "", "", err
		case result.Outcome == Refused:
			return Refused, why + "; and it was not started as it was before: " + result.Detail, nil
		case result.Outcome != Done && try >= r.a.Attempts:
			return Unsure, why + "; and whether it was started as it was before is not known: " + result.Detail, nil
		}
		if result.Outcome == Done {
			break
		}
		sent = true
		if err := r.a.Wait(r.ctx, time.Second<<min(try-1, 4)); err != nil {
			return "", "", err
		}
	}
	outcome, told, err = r.settle(actuator, c, back, s)
	switch {
	case err != nil:
		return "", "", err
	case outcome == Done:
		return Refused, why + "; the job runs again as it did before: " + told, nil
	case outcome == Refused:
		return Refused, why + "; and so it is as it was before: " + told, nil
	}
	return Unsure, why + "; started as it was before: " + told, nil
}
