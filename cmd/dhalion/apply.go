package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/apply"
	"github.com/dhalion-go/dhalion/diagnose"
	"github.com/dhalion-go/dhalion/internal/store"
	"github.com/dhalion-go/dhalion/plan/policy"
)

// How an apply goes about its work.
const (
	leaseFor = 30 * time.Second // renewed before every call and while the job settles
	tryFor   = 60 * time.Second // one attempt; a savepoint of a large state takes that long
	attempts = 3
	settleIn = 5 * time.Minute
)

// applyFlags are those of the command apply.
type applyFlags struct {
	judge         judgeFlags
	dryRun        bool
	resume, abort bool
	noWait        bool
	decided       string
	reason, as    string
}

func (f *applyFlags) check() error {
	n := 0
	for _, on := range []bool{f.dryRun, f.resume, f.abort} {
		if on {
			n++
		}
	}
	switch {
	case n > 1:
		return usagef("--dry-run, --resume and --abort: one at a time")
	case f.decided != "" && !f.resume:
		return usagef("--decided goes with --resume")
	case f.decided != "" && f.decided != "done" && f.decided != "undone":
		return usagef("--decided is done or undone, not %q", f.decided)
	case f.reason != "" && !f.abort:
		return usagef("--reason goes with --abort")
	case f.as != "" && !f.abort && f.decided == "":
		return usagef("--as goes with --abort and --decided")
	}
	return f.judge.check()
}

func (a *app) applyCommand() *cobra.Command {
	var f applyFlags
	c := &cobra.Command{
		Use:   "apply PLAN",
		Short: "Carry out an approved plan and check that it helped, or say what that would do",
		Long: `Carry out an approved plan. It is refused, in this order, when it was edited (5), has
expired (6), is stale (3: the job's topology, the policy or the model is not the one it
was made from, or it looks at more than 15 min ago), is not approved or not allowed now
(4: mode observe, quiet hours, too many jobs or instances, a job of which it is not known
whether it is on the worker that the plan empties), or another plan holds a job that it
touches (7). The job's engine must be in dhalion.yaml: a job that is known only
from files has nothing to act on; apply says so and ends with 0.

Every call is written to a journal before it is sent, under a lease that only one applier
has. When the job runs with what was asked for, apply follows it until what the plan
expects is met or its time is over; that is the outcome, and evidence for later plans.

What was interrupted is taken up with --resume: what can be repeated or asked for is; a
hook that was begun is not run again, and a person says with --decided what it came to.
It is refused when the job is neither what it was nor what the plan has made of it (3), and
when mode, quiet hours or limits forbid it now (4). Until it is taken up or ended no other
plan may touch its jobs. --abort ends a plan that nobody carries on; what was done stays done, and
a job that it has stopped stays down: it says from which savepoint to start it.

A dry run looks at the same things, prints the exact calls, needs no approval and does
nothing.

Exits with 0 when it was done and met, or cannot be told yet; 1 when it failed or was not
met.`,
		Example: `  dhalion apply slow.plan.json --dry-run
  dhalion apply 10701d65f69c
  dhalion apply 10701d65f69c --no-wait && dhalion outcomes --judge
  dhalion apply 10701d65f69c --resume
  dhalion apply 10701d65f69c --abort --reason "the job was replaced"`,
		Args:              one("PLAN"),
		ValidArgsFunction: a.completePlan(),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.check(); err != nil {
				return err
			}
			return a.withStore(cmd.Context(), func(ctx context.Context, st *store.Store) error {
				return a.apply(ctx, st, args[0], f)
			})
		},
	}
	c.Flags().BoolVar(&f.dryRun, "dry-run", false, "say what would be done and do nothing")
	c.Flags().BoolVar(&f.resume, "resume", false, "go on with a plan whose apply was interrupted, or that is unclear")
	c.Flags().StringVar(&f.decided, "decided", "", "with --resume: what a hook that was begun came to, `done|undone`")
	c.Flags().BoolVar(&f.abort, "abort", false, "end a plan that was begun and that nobody applies any more")
	c.Flags().StringVar(&f.reason, "reason", "", "with --abort: why, for the log")
	c.Flags().BoolVar(&f.noWait, "no-wait", false, "end when the job runs with it; dhalion outcomes --judge judges it later")
	c.Flags().StringVar(&f.as, "as", "", "`person` who ends it or decides (default: the user)")
	a.policyFlags(c, &f.judge)
	a.modelFlag(c, &f.judge)
	a.complete(c, "decided", "done", "undone")
	return c
}

// applied is the answer of apply where nothing is refused.
type applied struct {
	Plan     string            `json:"plan"`
	Job      dhalion.JobID     `json:"job"`
	Result   string            `json:"result"` // "dry_run", "nothing_to_act_on", "applied", "met", "unmet", "unclear", "failed" or "aborted"
	State    dhalion.PlanState `json:"state,omitempty"`
	Reason   string            `json:"reason,omitempty"`
	Hint     string            `json:"hint,omitempty"`
	Steps    []apply.Step      `json:"steps"`
	Outcomes []dhalion.Outcome `json:"outcomes"`
	Reversal *applied          `json:"reversal,omitempty"` // of the plan that the policy had undo this one
}

func (a *app) apply(ctx context.Context, st *store.Store, ref string, f applyFlags) error {
	d, err := find(ctx, st, ref)
	if refusal := apply.AsRefusal(err); refusal != nil {
		return a.refuse(refusal)
	}
	if err != nil {
		return err
	}
	switch {
	case d.row == nil && len(d.plan.Actions) == 0:
		// Such a plan is not stored: nobody has to look at it.
		return a.nothing(&apply.Refusal{Plan: d.id, Code: apply.Nothing, Reason: "plan " + d.id + " has no actions"}, d)
	case f.abort:
		return a.abort(ctx, st, d, f)
	}
	engine, err := a.reach(d.plan.Job)
	if err != nil {
		return err
	}
	defer engine.close()
	// A plan that was stopped before it was begun has nothing to be taken up: it is
	// applied like any other.
	if f.resume && (d.row == nil || d.row.State != dhalion.PlanApproved) {
		return a.resume(ctx, st, engine, d, f)
	}
	state, err := a.gateState(ctx, st, engine, d, f)
	if err != nil {
		return err
	}
	refusal := apply.Gate(state)
	switch {
	case refusal != nil && refusal.Code == apply.Nothing:
		return a.nothing(refusal, d)
	case refusal != nil:
		if !f.dryRun {
			if err := a.note(ctx, st, d, refusal, f.judge.given()); err != nil {
				return err
			}
		}
		return a.refuse(refusal)
	case f.dryRun:
		return a.dryRun(ctx, st, engine, d)
	}
	if err := a.preflight(ctx, st, engine, d); err != nil {
		return err
	}
	done, err := a.carryOut(ctx, st, engine, d, f)
	return a.ended(done, err)
}

// ended prints what an apply came to and picks the exit code.
func (a *app) ended(done *applied, err error) error {
	if err != nil {
		return err
	}
	if err := a.tellApplied(done); err != nil {
		return err
	}
	for x := done; x != nil; x = x.Reversal {
		switch x.State {
		case dhalion.PlanFailed, dhalion.PlanUnmet:
			return errFailed
		case dhalion.PlanUnclear:
			if x.Result != "unclear" { // it is not known what was done
				return errFailed
			}
		}
	}
	return nil
}

// gateState gathers what the gate looks at: the document, its row, the present
// topology, policy and model, and the rules of every job that it touches.
func (a *app) gateState(ctx context.Context, st *store.Store, engine *liveEngine, d *document, f applyFlags) (apply.State, error) {
	s := apply.State{Plan: d.plan, ID: d.id, Digest: d.digest, Now: a.now(), LiveEngine: engine != nil, DryRun: f.dryRun}
	if r := d.row; r != nil {
		s.Row = &apply.Row{ID: r.ID, Digest: r.Digest, State: r.State, Author: r.Author, ProposedAt: r.ProposedAt, Approvals: r.Approvals}
	}
	// What comes first in the order of refusals needs no engine: an old plan, or one
	// that is being applied, is told so although its engine does not answer.
	s.Present = d.plan.Basis
	if r := apply.Gate(s); r != nil && (r.Code == apply.Edited || r.Code == apply.Expired || r.Code == apply.Held) {
		return s, nil
	}
	s.Present = dhalion.Basis{}
	topology, err := a.present(ctx, st, engine, &s)
	if err != nil {
		return s, err
	}
	if topology != nil {
		s.Present.Topology, s.PresentTopology = topology.Digest(), topology
	}
	by, err := a.madeBy(ctx, st, d, f.judge, true)
	if err != nil {
		return s, err
	}
	policy := by.policy
	s.Present.Policy, s.Present.Model = by.digest, by.modelID
	if policy != nil {
		s.PresentPolicy = policy.Name
		s.Limits = apply.Limits{Jobs: policy.Limits.MaxJobsTouched, Instances: policy.Limits.MaxInstancesTouched}
	}
	s.Jobs, err = a.rules(ctx, st, d.plan, policy, s.Now)
	return s, err
}

// present is what the job is now: by its engine where there is one, else by its
// newest measurement. nil: it is not known to run.
func (a *app) present(ctx context.Context, st *store.Store, engine *liveEngine, s *apply.State) (*dhalion.Topology, error) {
	if engine == nil {
		return a.presentTopology(ctx, st, s.Plan.Job)
	}
	all, unseen, err := engine.topologies(ctx, a.now)
	if s.Unanswered = err != nil; s.Unanswered {
		return nil, err
	}
	// Where the plan's own job is, its topology says.
	s.Sharing, s.Unseen = sharing(s.Plan, all), slices.DeleteFunc(unseen, func(job dhalion.JobID) bool { return job == s.Plan.Job })
	topology, ok := all[s.Plan.Job]
	if !ok {
		return nil, fmt.Errorf("apply: %s does not run on engine %s, or is on its way up or down", s.Plan.Job, engine.engine)
	}
	return &topology, nil
}

// presentTopology is what the job is known to be at its newest measurement; nil
// when nothing is known.
func (a *app) presentTopology(ctx context.Context, st *store.Store, job dhalion.JobID) (*dhalion.Topology, error) {
	newest, err := st.Newest(ctx, job)
	var missing *store.NotFoundError
	if errors.As(err, &missing) || err == nil && newest.IsZero() {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	h, err := st.History(ctx, job, newest.Add(-policy.DefaultLookback), newest)
	if err != nil {
		return nil, err
	}
	topology, ok := h.TopologyAt(newest)
	if !ok {
		topology = dhalion.Topology{} // as in a plan that was made without one
	}
	return &topology, nil
}

// judgedBy is what a plan would be made by now.
type judgedBy struct {
	policy  *policy.Policy // nil: not known, gone or broken
	model   *diagnose.Learned
	digest  string // of the policy
	modelID string // as in a plan's basis
}

// madeBy is the policy and model that the plan would be made by now: those
// that the flags name, those that were noted when it was proposed, or the built-in
// policy of its name. With present, the policy that dhalion.yaml has for the job comes
// before the noted one, unless that was named on the command line: a plan is applied
// under the rules of the day, and judged by those that it was made by. A policy or model that is gone or broken is not the one that it
// was: its digest is empty. Of a document that was never proposed here it is not
// known what its policy was read from, so nothing can be said against it; it is not
// approved either.
func (a *app) madeBy(ctx context.Context, st *store.Store, d *document, f judgeFlags, present bool) (by judgedBy, err error) {
	named := f.model
	switch {
	case f.given():
		by.policy = f.loaded
	case d.row == nil:
		by.digest, by.modelID = d.plan.Basis.Policy, d.plan.Basis.Model
		return by, nil
	default:
		source, ok, err := policyOf(ctx, st, d.id)
		if err != nil {
			return by, err
		}
		if !ok {
			source = policySource{Policy: d.plan.Policy}
		}
		if present && !source.Named {
			c, err := a.config()
			if err != nil {
				return by, err
			}
			if i, ok := c.JobFor(d.plan.Job); ok {
				source.Policy = c.Jobs[i].Policy
			}
		}
		named = source.Model
		if by.policy, err = source.load(); err != nil {
			by.policy = nil
			return by, nil
		}
	}
	by.digest = by.policy.Digest
	if by.model, err = a.modelFor(ctx, st, by.policy, named); err != nil {
		if ctx.Err() != nil {
			return by, err
		}
		return by, nil
	}
	by.modelID = idOf(by.model)
	return by, nil
}

// note keeps in the store what the gate saw: that a plan's time is over, or that
// the world has moved on. A policy that was only named on this command line says
// nothing about the plan.
func (a *app) note(ctx context.Context, st *store.Store, d *document, refusal *apply.Refusal, given bool) error {
	if d.row == nil || d.row.State != dhalion.PlanProposed && d.row.State != dhalion.PlanApproved {
		return nil
	}
	switch {
	case refusal.Code == apply.Expired:
		_, err := st.ExpirePlans(ctx, a.now())
		return err
	case refusal.Code == apply.Stale && !given:
		_, err := st.Transition(ctx, d.id, []dhalion.PlanState{dhalion.PlanProposed, dhalion.PlanApproved}, dhalion.PlanStale, refusal.Reason, "", a.now())
		var other *store.StateError
		if errors.As(err, &other) {
			return nil // somebody else moved it in between
		}
		return err
	}
	return nil
}

// refuse ends with the refusal's exit code; programs get it as JSON, too.
func (a *app) refuse(r *apply.Refusal) error {
	if a.json() {
		if err := a.writeJSON(r); err != nil {
			return err
		}
	}
	return r
}

func (a *app) nothing(r *apply.Refusal, d *document) error {
	if a.json() {
		return a.writeJSON(applied{Plan: d.id, Job: d.plan.Job, Result: string(r.Code), Reason: r.Reason, Hint: r.Hint, Steps: []apply.Step{}, Outcomes: []dhalion.Outcome{}})
	}
	a.printf("Nothing is done: %s.\n", plain(r.Reason))
	if r.Hint != "" {
		a.printf("hint: %s\n", plain(r.Hint))
	}
	return nil
}

func (a *app) dryRun(ctx context.Context, st *store.Store, engine *liveEngine, d *document) error {
	steps := apply.Steps(d.plan)
	if engine != nil {
		applier, err := a.applier(ctx, st, engine, d, applyFlags{})
		if err != nil {
			return err
		}
		steps = applier.Prepare(ctx, d.id, d.plan)
	}
	if a.json() {
		return a.writeJSON(applied{Plan: d.id, Job: d.plan.Job, Result: "dry_run", Steps: list(steps), Outcomes: []dhalion.Outcome{}})
	}
	if err := apply.DryRun(&a.out, d.plan, d.id, steps); err != nil {
		return err
	}
	if d.row != nil && d.row.State == dhalion.PlanProposed {
		a.next([2]string{command("approve", d.id), "allow it"})
	}
	return nil
}

// preflight finds out what would be refused by the engine, before anything is
// begun: the plan then stays approved.
func (a *app) preflight(ctx context.Context, st *store.Store, engine *liveEngine, d *document) error {
	applier, err := a.applier(ctx, st, engine, d, applyFlags{})
	if err != nil {
		return err
	}
	for _, s := range applier.Prepare(ctx, d.id, d.plan) {
		if s.Refused != "" {
			return hinted(fmt.Errorf("apply: plan %s is not begun: %s: %s", d.id, s.Text, s.Refused), "when that is mended: %s", command("apply", d.id))
		}
	}
	return nil
}

// applier is what carries out a plan.
func (a *app) applier(ctx context.Context, st *store.Store, engine *liveEngine, d *document, f applyFlags) (*apply.Applier, error) {
	hand, err := a.hand(ctx, st, engine, d.plan.Job)
	if err != nil {
		return nil, err
	}
	x := &apply.Applier{
		Journal: st, Actuator: hand, Tell: a.teller(d.plan.Job), Holder: holder(), Dead: dead, Now: a.now, Wait: pause,
		LeaseFor: leaseFor, TryFor: tryFor, Attempts: attempts, SettleIn: settleIn, Observe: a.observe,
		Decided: map[string]string{"done": apply.Done, "undone": apply.Refused}[f.decided], DecidedBy: f.as,
	}
	if x.DecidedBy == "" {
		x.DecidedBy = a.person()
	}
	if _, shown := terminal(a.err); shown {
		x.Say = func(format string, args ...any) { a.remark("%s", plain(fmt.Sprintf(format, args...))) }
	}
	return x, nil
}

func (a *app) at(p apply.Point) {
	if a.observe != nil {
		a.observe(p)
	}
}

// carryOut applies a plan that has passed the gate, follows the job, judges the
// outcome, and undoes the plan where its policy says so.
func (a *app) carryOut(ctx context.Context, st *store.Store, engine *liveEngine, d *document, f applyFlags) (*applied, error) {
	applier, err := a.applier(ctx, st, engine, d, f)
	if err != nil {
		return nil, err
	}
	report, err := applier.Apply(ctx, d.id, d.plan, f.resume)
	if err != nil {
		return nil, a.stopped(ctx, d, err)
	}
	done := &applied{Plan: d.id, Job: d.plan.Job, Result: string(report.State), State: report.State, Reason: report.Why,
		Steps: list(apply.Steps(d.plan)), Outcomes: list(report.Outcomes)}
	switch report.State {
	case dhalion.PlanApplied:
	case dhalion.PlanUnclear:
		done.Result = "failed"
		done.Hint = fmt.Sprintf("see what happened: %s; go on: %s", command("log", d.id), command("apply", d.id, "--resume"))
		return done, nil
	default:
		entries, err := st.Entries(ctx, d.id)
		done.Hint = a.undoHint(d, report.Outcomes, entries)
		return done, err
	}
	if f.noWait {
		done.Hint = "judge it when its time is over: " + command("outcomes", "--judge")
		return done, nil
	}
	return done, a.verify(ctx, st, engine, d, f, done)
}

// stopped says how an apply that did not come to its end is taken up.
func (a *app) stopped(ctx context.Context, d *document, err error) error {
	var state *store.StateError
	var expired *store.ExpiredError
	var held *apply.HeldError
	switch {
	case errors.As(err, &held):
		// As the gate has it: of many who race some are refused there and some here.
		return a.refuse(apply.RefuseHeld(d.id, held, classify(err).hint))
	case ctx.Err() != nil:
		// Not the context's own error, of which it is said that nothing was done.
		return &failure{code: exitFailure, err: fmt.Errorf("apply: plan %s was interrupted and is not finished", d.id),
			hint: "go on with it: " + command("apply", d.id, "--resume")}
	case errors.As(err, &state):
		return &failure{code: exitNotApproved, err: err, hint: "see how it stands: " + command("show", d.id)}
	case errors.As(err, &expired):
		return err
	}
	if f := classify(err); f.hint != "" {
		return err
	}
	return hinted(err, "go on with it: %s", command("apply", d.id, "--resume"))
}

// resume takes up a plan that was begun, by what still holds for it.
func (a *app) resume(ctx context.Context, st *store.Store, engine *liveEngine, d *document, f applyFlags) error {
	if d.row == nil {
		return fmt.Errorf("apply: plan %s: this database has never seen it", d.id)
	}
	if engine == nil {
		return fmt.Errorf("apply: plan %s: no engine %s in dhalion.yaml", d.id, d.plan.Job.Engine())
	}
	switch d.row.State {
	case dhalion.PlanApplying, dhalion.PlanUnclear:
	default:
		return hinted(fmt.Errorf("apply: plan %s is %s, and was not interrupted", d.id, d.row.State), "%s", command("show", d.id))
	}
	refusal, err := a.resumable(ctx, st, engine, d, f)
	if err != nil {
		return err
	}
	if refusal != nil {
		return a.refuse(refusal)
	}
	done, err := a.carryOut(ctx, st, engine, d, f)
	return a.ended(done, err)
}

func (a *app) abort(ctx context.Context, st *store.Store, d *document, f applyFlags) error {
	if d.row == nil {
		return fmt.Errorf("apply: plan %s: this database has never seen it", d.id)
	}
	if f.as == "" {
		f.as = a.person()
	}
	entries, err := st.Entries(ctx, d.id)
	if err != nil {
		return err
	}
	outcomes := apply.Outcomes(d.id, d.plan, entries, a.now())
	hint, stopped := a.leftHint(d, outcomes, entries)
	if stopped != "" {
		f.reason = strings.TrimPrefix(f.reason+"; "+stopped, "; ")
	}
	row, err := st.Abort(ctx, d.id, f.as, f.reason, "", outcomes, a.now())
	var held *apply.HeldError
	if errors.As(err, &held) && dead(held.Holder) {
		// Its applier is gone: nobody renews the lease.
		row, err = st.Abort(ctx, d.id, f.as, f.reason, held.Holder, outcomes, a.now())
	}
	if err != nil {
		return err
	}
	return a.tellApplied(&applied{Plan: row.ID, Job: row.Job, Result: "aborted", State: row.State, Reason: row.Reason,
		Hint: hint, Steps: []apply.Step{}, Outcomes: list(outcomes)})
}

// leftHint says how a job is started that a plan which is ended has left stopped, or may
// have, and how what was done is undone. stopped is what is known of the stop; empty:
// nothing was stopped.
func (a *app) leftHint(d *document, outcomes []dhalion.Outcome, entries []apply.Entry) (hint, stopped string) {
	action, stopped, ok := apply.Stopped(d.plan, entries)
	if !ok {
		return a.undoHint(d, outcomes, entries), ""
	}
	from := "that savepoint"
	if stopped == "" {
		stopped, from = fmt.Sprintf("%s may be stopped", d.plan.Job), "its newest savepoint"
	}
	hint = fmt.Sprintf("%s: where no run of %s is alive, start it from %s (--resume in place of --abort would have)", stopped, d.plan.Job, from)
	// A rollback of the stop would find no run to change; one of what came before it can
	// be made when the job runs.
	before := slices.DeleteFunc(slices.Clone(entries), func(e apply.Entry) bool { return e.Action == action })
	if undo := a.undoHint(d, outcomes, before); undo != "" {
		hint += "; then " + undo
	}
	return hint, stopped
}

// undoHint says how what was done of a plan that did not come to its end is undone;
// empty: nothing was.
func (a *app) undoHint(d *document, outcomes []dhalion.Outcome, entries []apply.Entry) string {
	for _, o := range outcomes {
		if mayBeInEffect(d.plan, outcomes, entries, o.Action) && d.plan.Actions[o.Action].Reverse != nil {
			return "undo what was done: " + command("rollback", d.id)
		}
	}
	return ""
}

// tellApplied says what an apply came to.
func (a *app) tellApplied(done *applied) error {
	if a.json() {
		return a.writeJSON(done)
	}
	for x := done; x != nil; x = x.Reversal {
		words := map[string]string{
			"applied": "is applied: the job runs with it", "failed": "failed", "aborted": "is ended; what was done stays done",
			"met": "is applied, and what it expected is met", "unmet": "is applied, and what it expected is not met",
			"unclear": "is applied, and it cannot be told whether it helped",
		}[x.Result]
		a.printf("Plan %s for %s %s.\n", x.Plan, plain(string(x.Job)), words)
		if len(x.Outcomes) == 0 && x.Reason != "" {
			a.printf("  %s\n", wrap(plain(x.Reason), a.width(), "  "))
		}
		for _, o := range x.Outcomes {
			verdict := o.Applied
			if o.Judged != "" {
				verdict = o.Judged
			}
			a.printf("  %-7s  %s\n", verdict, wrap(fmt.Sprintf("%s at %s: %s", o.Kind, plain(o.Target.String()), plain(o.Detail)), a.width(), "           "))
		}
		if x.Hint != "" {
			a.printf("hint: %s\n", plain(x.Hint))
		}
		if x.Reversal != nil {
			a.printf("\nIts policy has it undone.\n")
		}
	}
	return nil
}

// holder names this process in a way that tells, on this machine, whether it still
// lives: HOST:PID@MACHINE, where MACHINE stands for the boot and the space in which
// process ids are counted.
func holder() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return fmt.Sprintf("%s:%d@%s", host, os.Getpid(), machine())
}

// machine is empty where the system does not tell.
func machine() string {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	space, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		return ""
	}
	sum := sha256.Sum256([]byte(strings.TrimSpace(string(boot)) + space))
	return hex.EncodeToString(sum[:6])
}

// dead reports whether a holder is a process of this machine that has ended. Of
// any other it is not known: its lease must run out.
func dead(holder string) bool {
	process, on, ok := strings.Cut(holder, "@")
	if !ok || on == "" || on != machine() {
		return false
	}
	pid, err := strconv.Atoi(process[strings.LastIndexByte(process, ':')+1:])
	return err == nil && pid > 0 && errors.Is(syscall.Kill(pid, 0), syscall.ESRCH)
}
