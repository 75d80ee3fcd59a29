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
	"github.com/dhalion-go/dhalion/plan/planfile"
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
interrupted after its work) are judged first, from the job's history: keep ingesting it.`,
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
				var waiting []string
				if judge {
					var err error
					if waiting, err = a.judgeApplied(ctx, st, f); err != nil {
						return err
					}
				}
				outcomes, err := st.Outcomes(ctx, f, limit)
				if err != nil {
					return err
				}
				return a.tellOutcomes(outcomes, waiting)
			})
		},
	}
	c.Flags().IntVar(&limit, "limit", 50, "at most so many; 0: all")
	c.Flags().BoolVar(&judge, "judge", false, "judge what was applied and is not judged yet")
	return c
}

// judgeApplied judges the plans that are applied, as far as their time is over, and
// returns what it says of the others.
func (a *app) judgeApplied(ctx context.Context, st *store.Store, f store.OutcomeFilter) (waiting []string, err error) {
	plans, err := st.Plans(ctx, store.PlanFilter{Job: f.Job, States: []dhalion.PlanState{dhalion.PlanApplied}}, 0)
	if err != nil {
		return nil, err
	}
	for _, row := range plans {
		if f.Plan != "" && row.ID != f.Plan {
			continue
		}
		d := &document{doc: row.Body, row: row}
		if d.plan, d.id, d.digest, err = planfile.Decode(row.Body, row.ID); err != nil {
			return nil, err
		}
		due, expects := apply.Due(d.plan, row.StateSince)
		if !expects {
			continue
		}
		by, err := a.presentPolicy(ctx, st, d, judgeFlags{changed: func(string) bool { return false }})
		if err != nil {
			return nil, err
		}
		if by.policy == nil {
			waiting = append(waiting, fmt.Sprintf("plan %s cannot be judged: its policy %s is gone or broken", d.id, d.plan.Policy))
			continue
		}
		j := &judge{app: a, st: st, doc: d, by: by, settled: row.StateSince}
		v, over, err := j.look(ctx)
		if err != nil {
			return nil, err
		}
		if !over {
			waiting = append(waiting, fmt.Sprintf("plan %s is judged after %s, from measurements until then", d.id, when(due)))
			continue
		}
		err = a.keepVerdict(ctx, st, d, v, row.StateSince)
		var other *store.StateError
		if err != nil && !errors.As(err, &other) { // somebody else judged it in between
			return nil, err
		}
	}
	return waiting, nil
}

func (a *app) tellOutcomes(outcomes []store.Outcome, waiting []string) error {
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
			Outcomes []outcomeRow `json:"outcomes"`
			Waiting  []string     `json:"waiting"`
		}{rows, list(waiting)})
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
	for _, w := range waiting {
		a.printf("%s\n", plain(w))
	}
	return nil
}
