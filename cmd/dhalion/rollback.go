package main

import (
	"context"
	"fmt"
	"slices"

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
or was ended in the middle it undoes what was done, or may have been.`,
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
	undo := reversals(d, done)
	if len(undo) == 0 {
		return nil, fmt.Errorf("rollback: nothing to roll back: no action of plan %s can be undone", d.id)
	}
	p.Reverses, p.Actions, p.Alternatives = d.id, undo, nil
	p.Sizing = resized(p)
	p.Warnings = append(p.Warnings, dhalion.Warning{Code: "W-rollback", Message: "this undoes plan " + d.id + "; whether what it answered to has gone is not weighed"})
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

// reversals are the actions that undo those of a plan that were done.
func reversals(d *document, done func(action int) bool) (undo []dhalion.Action) {
	for i, x := range slices.Backward(d.plan.Actions) {
		r := x.Reverse
		if r == nil || !done(i) {
			continue
		}
		undo = append(undo, dhalion.Action{
			Kind: r.Kind, Target: r.Target, From: r.From, To: r.To, Argument: x.Argument, Message: r.Summary,
			Because: x.Because, Probability: x.Probability,
			Expect:  dhalion.Expectation{Summary: "as before plan " + d.id, WithinSeconds: x.Expect.WithinSeconds},
			Reverse: &dhalion.Reversal{Kind: x.Kind, Target: x.Target, From: x.From, To: x.To, Summary: x.Message},
			Affects: x.Affects,
		})
	}
	return undo
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
