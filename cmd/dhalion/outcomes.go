package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/apply"
	"github.com/dhalion-go/dhalion/internal/store"
)

// outcomeRow is an outcome as programs read it.
type outcomeRow struct {
	dhalion.Outcome
	JudgedAt *time.Time        `json:"judged_at"`
	State    dhalion.PlanState `json:"plan_state"`
}

func (a *app) outcomesCommand() *cobra.Command {
	limit, judge := 0, false
	c := &cobra.Command{
		Use:   "outcomes [JOB|PLAN]",
		Short: "Say what came of the actions that were carried out, the newest first",
		Long: `Say what came of the actions that were carried out: applied, refused or failed, then met,
unmet or unclear against what the plan expected.

With --judge, plans that were applied and not judged (apply --no-wait, or an apply that was
interrupted after its work) are judged first, from the job's history: keep ingesting it.
Where a policy has undone what is not met, the plan that undoes it is proposed and applied,
also for a plan whose apply was stopped between the two; where it asks for four eyes it
waits for approval. One plan that cannot be judged does not keep the others from it; the
command then ends with 1.`,
		Example: `  dhalion outcomes
  dhalion outcomes prod/orders --limit 20 -o json
  dhalion outcomes --judge`,
		Args:              atMostOne,
		ValidArgsFunction: a.completeJob(),
		RunE: func(cmd *cobra.Command, args []string) error {
			if limit < 0 {
				return usagef("--limit %d is negative", limit)
			}
			return a.withStore(cmd.Context(), func(ctx context.Context, st *store.Store) error {
				var f store.OutcomeFilter
				if len(args) > 0 {
					found, err := logFilter(ctx, st, args[0])
					if err != nil {
						return err
					}
					f = store.OutcomeFilter{Job: found.Job, Plan: found.Plan}
				}
				came := &judgements{}
				if judge {
					var err error
					if came, err = a.judgeApplied(ctx, st, f); err != nil {
						return err
					}
				}
				outcomes, err := st.Outcomes(ctx, f, limit)
				if err != nil {
					return err
				}
				if err := a.tellOutcomes(outcomes, came); err != nil {
					return err
				}
				if came.failed {
					return errFailed
				}
				return nil
			})
		},
	}
	c.Flags().IntVar(&limit, "limit", 50, "at most so many; 0: all")
	c.Flags().BoolVar(&judge, "judge", false, "judge what was applied and is not judged yet")
	return c
}

// judgements are what judging the plans that wait for it came to.
type judgements struct {
	waiting   []string   // what is said of those that could not be judged or undone
	reversals []*applied // of plans that their policies had undone
	failed    bool       // for one at least; the others were gone on with
}

// judgeApplied judges the plans that are applied, as far as their time is over, and
// undoes those that were not met where their policies say so.
func (a *app) judgeApplied(ctx context.Context, st *store.Store, f store.OutcomeFilter) (*judgements, error) {
	rows, err := st.Plans(ctx, store.PlanFilter{Job: f.Job, States: []dhalion.PlanState{dhalion.PlanApplied, dhalion.PlanUnmet}}, 0)
	if err != nil {
		return nil, err
	}
	came := &judgements{}
	for _, row := range rows {
		if f.Plan != "" && row.ID != f.Plan {
			continue
		}
		err := a.judgeOne(ctx, st, row, came)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if err != nil {
			came.failed = true
			a.report(ctx, fmt.Errorf("plan %s: %w", row.ID, err))
		}
	}
	return came, nil
}

// judgeOne judges a plan that is applied. One that is unmet was judged before: an
// apply may have been stopped before it undid it.
func (a *app) judgeOne(ctx context.Context, st *store.Store, row *store.PlanRow, came *judgements) error {
	if row.State == dhalion.PlanUnmet && a.now().Sub(row.StateSince) > undoneFor {
		return nil
	}
	d, err := documentOf(row)
	if err != nil {
		return err
	}
	due, expects := apply.Due(d.plan, row.StateSince)
	if !expects {
		return nil
	}
	flags := judgeFlags{changed: func(string) bool { return false }}
	by, err := a.madeBy(ctx, st, d, flags, false)
	if err != nil {
		return err
	}
	if row.State == dhalion.PlanApplied {
		if by.policy == nil {
			came.waiting = append(came.waiting, fmt.Sprintf("plan %s cannot be judged: its policy %s is gone or broken", d.id, d.plan.Policy))
			return nil
		}
		j := &judge{app: a, st: st, doc: d, by: by, settled: row.StateSince}
		v, over, err := j.look(ctx)
		if err != nil {
			return err
		}
		if !over {
			came.waiting = append(came.waiting, fmt.Sprintf("plan %s is judged after %s, from measurements until then", d.id, when(due)))
			return nil
		}
		err = a.keepVerdict(ctx, st, d, v, row.StateSince)
		var other *store.StateError
		if errors.As(err, &other) { // somebody else judged it in between
			return nil
		}
		if err != nil || v.State != dhalion.PlanUnmet {
			return err
		}
		if d.row, err = st.Plan(ctx, d.id); err != nil {
			return err
		}
	}
	if undo, err := a.toUndo(ctx, st, d, by); err != nil || !undo {
		return err
	}
	engine, err := a.reach(d.plan.Job)
	if err != nil {
		return err
	}
	defer engine.close()
	done := &applied{}
	// One that waited for the outcome would keep the others from being judged.
	if err := a.reverse(ctx, st, engine, d, applyFlags{judge: flags, noWait: true}, done); err != nil {
		return err
	}
	switch {
	case done.Reversal != nil:
		came.reversals = append(came.reversals, done.Reversal)
		came.failed = came.failed || done.Reversal.State != dhalion.PlanApplied
	case done.Hint != "":
		came.waiting = append(came.waiting, fmt.Sprintf("plan %s was not met: %s", d.id, done.Hint))
	}
	return nil
}

func (a *app) tellOutcomes(outcomes []store.Outcome, came *judgements) error {
	if a.json() {
		rows := make([]outcomeRow, len(outcomes))
		for i, o := range outcomes {
			rows[i] = outcomeRow{o.Outcome, o.JudgedAt, o.State}
			rows[i].At = o.At.UTC()
			if o.JudgedAt != nil {
				at := o.JudgedAt.UTC()
				rows[i].JudgedAt = &at
			}
		}
		return a.writeJSON(struct {
			Outcomes  []outcomeRow `json:"outcomes"`
			Waiting   []string     `json:"waiting"`
			Reversals []*applied   `json:"reversals"`
		}{rows, list(came.waiting), list(came.reversals)})
	}
	if len(outcomes) == 0 {
		a.printf("Nothing was applied yet.\n")
	} else {
		t := &table{head: []string{"time", "job", "plan", "action", "cause", "outcome", "seen"}, wide: 6}
		for _, o := range outcomes {
			outcome := o.Applied
			if o.Judged != "" {
				outcome += ", " + o.Judged
			}
			t.add(when(o.At), string(o.Job), o.Plan, fmt.Sprintf("%s at %s", o.Kind, o.Target), string(o.Cause), outcome, o.Detail)
		}
		a.table("", t)
	}
	for _, w := range came.waiting {
		a.printf("%s\n", plain(w))
	}
	for _, r := range came.reversals {
		a.printf("\nIts policy has a plan undone that was not met.\n")
		if err := a.tellApplied(r); err != nil {
			return err
		}
	}
	return nil
}
