package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/apply"
	"github.com/dhalion-go/dhalion/internal/store"
	"github.com/dhalion-go/dhalion/plan/planfile"
)

func (a *app) rollbackCommand() *cobra.Command {
	var f judgeFlags
	var out, as string
	c := &cobra.Command{
		Use:   "rollback PLAN",
		Short: "Propose a plan that undoes an applied one",
		Long: `Propose a plan that undoes an applied one, its actions in the opposite order. It is a
plan like any other: it waits for approve, and apply carries it out. Of a plan that failed
or was ended in the middle it undoes what was done, or may have been. It is refused where
the job no longer has what the plan set: undo what came later first.`,
		Example:           "  dhalion rollback 10701d65f69c --out undo.plan.json",
		Args:              one("PLAN"),
		ValidArgsFunction: a.completePlan(),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.check(); err != nil {
				return err
			}
			return a.withStore(cmd.Context(), func(ctx context.Context, st *store.Store) error {
				d, err := find(ctx, st, args[0])
				if err != nil {
					return err
				}
				undone, err := a.rollback(ctx, st, d, f, as)
				if err != nil {
					return err
				}
				if out != "" {
					if err := planfile.WriteFile(out, undone.doc); err != nil {
						return err
					}
				}
				if a.json() {
					a.out.Write(undone.doc)
					return nil
				}
				return planfile.Text(&a.out, undone.plan, a.meta(undone), planfile.Options{Color: a.color(), Width: a.width()})
			})
		},
	}
	a.policyFlags(c, &f)
	a.modelFlag(c, &f)
	c.Flags().StringVar(&out, "out", "", "also write the document to a `file`")
	c.Flags().StringVar(&as, "as", "", "`person` who proposes it (default: the user)")
	return c
}

// rollback proposes the plan that undoes a plan.
func (a *app) rollback(ctx context.Context, st *store.Store, d *document, f judgeFlags, as string) (*document, error) {
	done, err := whatWasDone(ctx, st, d)
	if err != nil {
		return nil, err
	}
	e, err := a.evaluate(ctx, st, string(d.plan.Job), f)
	if err != nil {
		return nil, err
	}
	p, err := a.makePlan(ctx, st, e)
	if err != nil {
		return nil, err
	}
	now := asMeasured{at: e.at, topology: e.result.Snapshot.Topology}
	if now.arguments, err = a.arguments(ctx, st, e.job, now.topology.Run); err != nil {
		return nil, err
	}
	undo, left, err := reversals(d, done, now)
	if err != nil {
		return nil, hinted(err, "see what changed it: %s", command("log", string(d.plan.Job)))
	}
	if len(undo) == 0 {
		return nil, fmt.Errorf("rollback: nothing to roll back: of plan %s %s", d.id, strings.Join(left, "; "))
	}
	p.Reverses, p.Actions, p.Alternatives = d.id, undo, nil
	p.Sizing = resized(p)
	p.Warnings = append(p.Warnings, dhalion.Warning{Code: "W-rollback", Message: "this undoes plan " + d.id + "; whether what it answered to has gone is not weighed"})
	for _, words := range left {
		p.Warnings = append(p.Warnings, dhalion.Warning{Code: "W-rollback-part", Message: "of plan " + d.id + " " + words})
	}
	return a.propose(ctx, st, p, e.flags, as)
}

// whatWasDone tells of which of a plan's actions it is not known that they have no
// effect; the error says that none has, or that the plan goes on.
func whatWasDone(ctx context.Context, st *store.Store, d *document) (done func(action int) bool, err error) {
	if d.row == nil {
		return nil, fmt.Errorf("rollback: nothing to roll back: this database has never seen plan %s", d.id)
	}
	switch d.row.State {
	case dhalion.PlanApplied, dhalion.PlanMet, dhalion.PlanUnmet:
		return func(int) bool { return true }, nil
	case dhalion.PlanUnclear, dhalion.PlanFailed, dhalion.PlanAborted:
	case dhalion.PlanApplying:
		return nil, hinted(fmt.Errorf("rollback: plan %s is being applied", d.id), "when nobody applies it any more: %s, or %s",
			command("apply", d.id, "--resume"), command("apply", d.id, "--abort"))
	case dhalion.PlanProposed, dhalion.PlanApproved:
		return nil, hinted(fmt.Errorf("rollback: nothing to roll back: plan %s was never applied, it is %s", d.id, d.row.State),
			"drop it instead: %s", command("discard", d.id))
	default:
		return nil, fmt.Errorf("rollback: nothing to roll back: plan %s was never applied, it is %s", d.id, d.row.State)
	}
	entries, err := st.Entries(ctx, d.id)
	if err != nil {
		return nil, err
	}
	noted, err := st.Outcomes(ctx, store.OutcomeFilter{Plan: d.id}, 0)
	if err != nil {
		return nil, err
	}
	outcomes := make([]dhalion.Outcome, len(noted))
	for i, o := range noted {
		outcomes[i] = o.Outcome
	}
	done = func(action int) bool { return mayBeInEffect(d.plan, outcomes, entries, action) }
	for i, x := range d.plan.Actions {
		if x.Kind != dhalion.Alert && done(i) {
			return done, nil
		}
	}
	return nil, fmt.Errorf("rollback: nothing to roll back: plan %s is %s, and nothing of it was done", d.id, d.row.State)
}

// mayBeInEffect reports whether an action was done, or begun without anybody
// knowing what it came to: to set back what was not set is safe, too.
func mayBeInEffect(p dhalion.Plan, outcomes []dhalion.Outcome, entries []apply.Entry, action int) bool {
	return apply.Begun(p, entries, action) ||
		slices.ContainsFunc(outcomes, func(o dhalion.Outcome) bool { return o.Action == action && o.Applied == "applied" })
}

// asMeasured is what a job was seen to be, and with which arguments that run was
// started; nil: not known.
type asMeasured struct {
	at        time.Time
	topology  dhalion.Topology
	arguments []string
}

// set says what a job has where an action set something; ok is false where that is
// not known.
func (m asMeasured) set(kind dhalion.ActionKind, target dhalion.Target, argument string) (value dhalion.Setting, ok bool) {
	switch kind {
	case dhalion.SetParallelism:
		c, ok := m.topology.Component(target.Component)
		return dhalion.NumberSetting(float64(c.Parallelism)), ok
	case dhalion.SetKnob:
		for i, x := range m.arguments {
			if v, is := strings.CutPrefix(x, argument+"="); is {
				value, ok = dhalion.TextSetting(v), true
			} else if x == argument && i+1 < len(m.arguments) {
				value, ok = dhalion.TextSetting(m.arguments[i+1]), true
			}
		}
	}
	return value, ok
}

// reversals are the actions that undo those of a plan that were done, and what is
// said of those that nothing undoes. It is an error when the job has something else
// than what the plan set: what came later would be undone with it.
func reversals(d *document, done func(action int) bool, now asMeasured) (undo []dhalion.Action, left []string, err error) {
	// What did not come to its end may be in effect in part, and be asked for still.
	sure := slices.Contains([]dhalion.PlanState{dhalion.PlanApplied, dhalion.PlanMet, dhalion.PlanUnmet}, d.row.State)
	for i, x := range slices.Backward(d.plan.Actions) {
		r := x.Reverse
		switch {
		case !done(i) || x.Kind == dhalion.Alert:
			continue
		case r == nil:
			left = append(left, fmt.Sprintf("this stays: %s; nothing is known that undoes it", planfile.Describe(x)))
			continue
		}
		if has, ok := now.set(x.Kind, x.Target, x.Argument); ok && has.String() != r.From.String() {
			switch back := has.String() == r.To.String(); {
			case !sure && (back || between(has, r.From, r.To)):
			case back:
				left = append(left, fmt.Sprintf("this is set back already, as of %s: %s", stamp(now.at), planfile.Describe(x)))
				continue
			default:
				return nil, nil, fmt.Errorf("rollback: plan %s was followed by another change: it did %s, and as of %s that is %s", d.id, planfile.Describe(x), stamp(now.at), has)
			}
		}
		undo = append(undo, dhalion.Action{
			Kind: r.Kind, Target: r.Target, From: r.From, To: r.To, Argument: x.Argument, Message: r.Summary,
			Because: x.Because, Probability: x.Probability,
			Expect:  dhalion.Expectation{Summary: "as before plan " + d.id, WithinSeconds: x.Expect.WithinSeconds},
			Reverse: &dhalion.Reversal{Kind: x.Kind, Target: x.Target, From: x.From, To: x.To, Summary: x.Message},
			Affects: x.Affects,
		})
	}
	return undo, left, nil
}

// between reports whether a number lies between two others.
func between(x, a, b dhalion.Setting) bool {
	n, ok := x.Number()
	low, lowOK := a.Number()
	high, highOK := b.Number()
	return ok && lowOK && highOK && min(low, high) <= n && n <= max(low, high)
}

// resized is the sizing with what the plan's actions set, and what the topology
// has for the rest.
func resized(p dhalion.Plan) []dhalion.Sizing {
	out := slices.Clone(p.Sizing)
	for i := range out {
		out[i].To = out[i].From
		for _, x := range p.Actions {
			if n, ok := x.To.Number(); ok && x.Kind == dhalion.SetParallelism && x.Target.Component == out[i].Component {
				out[i].To = int(n)
			}
		}
	}
	return out
}
