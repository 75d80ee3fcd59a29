package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/apply"
	"github.com/dhalion-go/dhalion/diagnose"
	"github.com/dhalion-go/dhalion/ingest/flink"
	client "github.com/dhalion-go/dhalion/internal/engine/flink"
	"github.com/dhalion-go/dhalion/internal/store"
	"github.com/dhalion-go/dhalion/plan/policy"
)

// How a job is followed after an apply.
const (
	followEvery = 5 * time.Second
	// looksEvery is how far the windows by which a past apply is judged are apart.
	looksEvery = 10 * time.Second
	// fedWithin is how new measurements are when somebody else ingests the job.
	fedWithin = 20 * time.Second
)

// verify follows the job of a plan that was applied until the outcome is known.
func (a *app) verify(ctx context.Context, st *store.Store, engine *liveEngine, d *document, f applyFlags, done *applied) error {
	row, err := st.Plan(ctx, d.id)
	if err != nil {
		return err
	}
	settled := row.StateSince
	due, expects := apply.Due(d.plan, settled)
	if !expects {
		return nil
	}
	by, err := a.madeBy(ctx, st, d, f.judge, false)
	if err != nil {
		return err
	}
	if by.policy == nil {
		done.Hint = fmt.Sprintf("policy %s is gone, and by it the plan would be judged", d.plan.Policy)
		return nil
	}
	if _, shown := terminal(a.err); shown {
		a.remark("the job runs with it; what is expected must be seen by %s", when(due))
	}
	follower := &follower{app: a, st: st, engine: engine, job: d.plan.Job}
	j := &judge{app: a, st: st, doc: d, by: by, settled: settled}
	for {
		if err := follower.poll(ctx); err != nil {
			return a.unjudged(ctx, d, err)
		}
		v, over, err := j.look(ctx)
		if err != nil {
			return a.unjudged(ctx, d, err)
		}
		if over {
			return a.judged(ctx, st, engine, d, f, by.policy, v, settled, done)
		}
		if err := pause(ctx, followEvery); err != nil {
			return a.unjudged(ctx, d, err)
		}
	}
}

// unjudged says that a plan was applied although what came after it failed.
func (a *app) unjudged(ctx context.Context, d *document, err error) error {
	if ctx.Err() != nil {
		err = errors.New("interrupted")
	}
	return &failure{code: exitFailure, err: fmt.Errorf("plan %s is applied and not judged: %w", d.id, err),
		hint: "judge it when its time is over: " + command("outcomes", "--judge")}
}

// judged writes the verdict down, and undoes the plan where its policy says so.
func (a *app) judged(ctx context.Context, st *store.Store, engine *liveEngine, d *document, f applyFlags, pol *policy.Policy, v apply.Verdict, settled time.Time, done *applied) error {
	if err := a.keepVerdict(ctx, st, d, v, settled); err != nil {
		return err
	}
	done.Result, done.State, done.Reason = string(v.State), v.State, v.Why
	for _, o := range v.Outcomes {
		for i := range done.Outcomes {
			if done.Outcomes[i].Action == o.Action {
				done.Outcomes[i] = o
			}
		}
	}
	if v.State != dhalion.PlanUnmet || d.plan.Reverses != "" {
		return nil
	}
	if !pol.Outcome.ReverseUnmet {
		done.Hint = "undo it: " + command("rollback", d.id)
		return nil
	}
	return a.reverse(ctx, st, engine, d, f, done)
}

// keepVerdict stores what a plan came to and what that teaches. What it answered to
// held until its first call was sent: from then on the job was another one, although
// it took its time to settle.
func (a *app) keepVerdict(ctx context.Context, st *store.Store, d *document, v apply.Verdict, settled time.Time) error {
	began := settled
	entries, err := st.Entries(ctx, d.id)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.At.Before(began) && d.plan.Actions[e.Action].Kind != dhalion.Alert {
			began = e.At
		}
	}
	a.at(apply.BeforeJudge)
	_, err = st.Judge(ctx, d.id, v.State, v.Why, v.Outcomes, apply.Incidents(d.plan, d.id, v, began), a.now())
	if err == nil {
		a.at(apply.AfterJudge)
	}
	return err
}

// byPolicy is who undoes a plan by its policy.
func byPolicy(p dhalion.Plan) string { return "policy " + p.Policy }

// undoneFor is how long after its verdict a plan is undone that its policy has
// undone, where nobody did: what the job is like later has other reasons.
const undoneFor = 24 * time.Hour

// toUndo reports whether a plan that was not met is still to be undone by its
// policy: by its present one if that is the one that it was made by, and unless a
// plan that undoes it was begun, or a person has the say on it.
func (a *app) toUndo(ctx context.Context, st *store.Store, d *document, by judgedBy) (bool, error) {
	if d.plan.Reverses != "" || by.policy == nil || by.digest != d.plan.Basis.Policy || !by.policy.Outcome.ReverseUnmet ||
		a.now().Sub(d.row.StateSince) > undoneFor {
		return false, nil
	}
	rows, err := st.Plans(ctx, store.PlanFilter{Reverses: d.id}, 0)
	if err != nil {
		return false, err
	}
	for _, row := range rows {
		switch row.State {
		case dhalion.PlanProposed, dhalion.PlanApproved, dhalion.PlanStale, dhalion.PlanExpired:
			if row.Author != byPolicy(d.plan) || d.plan.FourEyes {
				return false, nil
			}
		default:
			return false, nil
		}
	}
	return true, nil
}

// reversal is the plan that undoes one in the name of its policy: the one that
// waits already, else a new one.
func (a *app) reversal(ctx context.Context, st *store.Store, d *document, f judgeFlags) (*document, error) {
	rows, err := st.Plans(ctx, store.PlanFilter{Reverses: d.id, States: []dhalion.PlanState{dhalion.PlanProposed, dhalion.PlanApproved}}, 0)
	if err != nil {
		return nil, err
	}
	for _, row := range rows {
		if row.Author == byPolicy(d.plan) && row.StateAt(a.now()) == row.State {
			return documentOf(row)
		}
	}
	return a.rollback(ctx, st, d, f, byPolicy(d.plan))
}

// reverse proposes the plan that undoes one, approves it in the name of the policy
// and applies it. Where the policy asks for four eyes it waits for a person.
func (a *app) reverse(ctx context.Context, st *store.Store, engine *liveEngine, d *document, f applyFlags, done *applied) error {
	row, err := st.Plan(ctx, d.id)
	if err != nil {
		return err
	}
	d.row = row
	flags, err := a.flagsOf(ctx, st, d, f.judge)
	if err != nil {
		return err
	}
	undo, err := a.reversal(ctx, st, d, flags)
	if err != nil {
		done.Hint = "it cannot be undone: " + err.Error()
		return nil
	}
	if undo.plan.FourEyes {
		done.Hint = "its policy has it undone, and asks for four eyes: " + command("approve", undo.id)
		return nil
	}
	if undo.row, err = st.Approve(ctx, dhalion.Approval{Plan: undo.id, Digest: undo.digest, Person: byPolicy(d.plan), At: a.now(), Note: "plan " + d.id + " was not met"}, false); err != nil {
		return err
	}
	// What was decided on the plan, and that it was taken up, is not said of its reversal.
	own := applyFlags{judge: f.judge, noWait: f.noWait}
	state, err := a.gateState(ctx, st, engine, undo, own)
	if err != nil {
		return err
	}
	if r := apply.Gate(state); r != nil {
		if err := a.note(ctx, st, undo, r, f.judge.given()); err != nil {
			return err
		}
		done.Hint = fmt.Sprintf("its policy has it undone by plan %s, which is refused: %s", undo.id, r.Reason)
		return nil
	}
	var unfit *failure
	switch err := a.preflight(ctx, st, engine, undo); {
	case err == nil:
	case ctx.Err() != nil || !errors.As(err, &unfit):
		return err
	default:
		done.Hint = fmt.Sprintf("its policy has it undone: %v; %s", err, unfit.hint)
		return nil
	}
	done.Reversal, err = a.carryOut(ctx, st, engine, undo, own)
	return err
}

// flagsOf are the flags by which a stored plan was made.
func (a *app) flagsOf(ctx context.Context, st *store.Store, d *document, given judgeFlags) (judgeFlags, error) {
	if given.given() {
		return given, nil
	}
	source, ok, err := policyOf(ctx, st, d.id)
	if err != nil {
		return given, err
	}
	if !ok {
		source = policySource{Policy: d.plan.Policy}
	}
	f := judgeFlags{policy: source.Policy, model: source.Model, changed: func(flag string) bool { return flag != "policy" || source.Named }}
	for key, value := range source.Params {
		f.params = append(f.params, key+"="+value)
	}
	slices.Sort(f.params)
	if source.Window != "" {
		if f.window, err = time.ParseDuration(source.Window); err != nil {
			return given, fmt.Errorf("policy of plan %s: %w", d.id, err)
		}
	}
	f.loaded, err = f.loadPolicy()
	return f, err
}

// follower ingests a job while nobody else does.
type follower struct {
	app    *app
	st     *store.Store
	engine *liveEngine
	job    dhalion.JobID

	poller    *client.Poller
	assembler *flink.Assembler
	in        store.Input
}

func (f *follower) poll(ctx context.Context) error {
	if f.poller == nil {
		// Two who poll at once would measure everything twice.
		newest, err := f.st.Newest(ctx, f.job)
		if err != nil {
			return err
		}
		if f.app.now().Sub(newest) < fedWithin {
			return nil
		}
		f.poller = client.NewPoller(f.engine.server, client.PollOptions{Job: f.job.Name(), Every: followEvery, Now: f.app.now})
		f.assembler = flink.NewAssembler(flink.Options{Engine: f.engine.engine})
		options, err := json.Marshal(map[string]string{"engine": f.engine.engine, "job": clip(f.job.Name(), 200), "every": followEvery.String(), "by": "apply"})
		if err != nil {
			return fmt.Errorf("ingest: %w", err)
		}
		f.in = store.Input{Name: f.engine.server.Name(), Format: "flink", Options: string(options)}
	}
	answers, failed := f.poller.Poll(ctx)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if failed != nil {
		return nil // the engine may be on its way up again; the next poll asks anew
	}
	given, err := f.assembler.Poll(answers)
	if err != nil {
		return nil
	}
	if _, err := f.app.ingestSource(ctx, f.st, f.in, given.Source()); err != nil && !errors.Is(err, errNothing) {
		return err
	}
	return nil
}

// judge holds what a plan expects against the history.
type judge struct {
	app     *app
	st      *store.Store
	doc     *document
	by      judgedBy
	settled time.Time

	seen []apply.Seen
	last time.Time
}

// look evaluates the windows that have ended since it looked last.
func (j *judge) look(ctx context.Context) (v apply.Verdict, over bool, err error) {
	newest, err := j.st.Newest(ctx, j.doc.plan.Job)
	if err != nil {
		return v, false, err
	}
	first := j.settled.Add(j.by.policy.Window)
	for at := later(first, j.last.Add(looksEvery)); !at.After(newest); at = at.Add(looksEvery) {
		s, err := j.at(ctx, at)
		if err != nil {
			return v, false, err
		}
		j.seen, j.last = append(j.seen, s), at
		// As if it were looked at when the window ended: whoever judges later has the same
		// windows before him, and nothing says that those after this one are missing.
		if v, over = apply.Judge(j.doc.plan, j.doc.id, j.settled, at, j.seen); over {
			return v, true, nil
		}
	}
	v, over = apply.Judge(j.doc.plan, j.doc.id, j.settled, j.app.now(), j.seen)
	return v, over, nil
}

// later is the later of two times.
func later(x, y time.Time) time.Time {
	if x.After(y) {
		return x
	}
	return y
}

// at is what the window that ends at a time shows.
func (j *judge) at(ctx context.Context, at time.Time) (apply.Seen, error) {
	p := j.doc.plan
	h, err := j.st.History(ctx, p.Job, at.Add(-j.by.policy.Reach()), at)
	if err != nil {
		return apply.Seen{}, err
	}
	result, err := diagnose.Evaluate(h, at, j.by.policy)
	if err != nil {
		return apply.Seen{}, err
	}
	result = result.Fuse(j.by.model)
	snap := result.Snapshot
	offered := map[string]float64{}
	for _, l := range snap.Loads() {
		if l.Source {
			offered[l.Component] = l.Offered
		}
	}
	return apply.Seen{
		At: at,
		Value: func(t dhalion.Target, m dhalion.Metric) float64 {
			feature := string(m)
			if t.Kind == dhalion.KindComponent && !m.Fraction() {
				feature = "sum(" + feature + ")"
			}
			return snap.Value(t, feature)
		},
		Offered: func(component string) float64 {
			if v, ok := offered[component]; ok {
				return v
			}
			return math.NaN()
		},
		Probability: result.Probability,
		// A topology from before the plan was in effect says nothing of what came after.
		Changed: changedSince(p, snap.Topology, snap.HasTopology && snap.Topology.From.After(j.settled)),
	}, nil
}

// changedSince says how many instances the job has where that is not what the plan
// left it with.
func changedSince(p dhalion.Plan, now dhalion.Topology, known bool) string {
	if !known {
		return ""
	}
	want := map[string]int{}
	for _, c := range p.Topology.Components {
		want[c.Name] = c.Parallelism
	}
	for _, x := range p.Actions {
		if n, ok := x.To.Number(); ok && x.Kind == dhalion.SetParallelism {
			want[x.Target.Component] = int(n)
		}
	}
	for _, c := range now.Components {
		if n, ok := want[c.Name]; ok && n != c.Parallelism {
			return fmt.Sprintf("%s has %d instances, and the plan left it with %d: somebody else changed the job", c.Name, c.Parallelism, n)
		}
	}
	return ""
}
