package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/internal/pgserver"
	"github.com/dhalion-go/dhalion/internal/store"
)

// ran is what became of one job in a run.
type ran struct {
	Job     dhalion.JobID     `json:"job"`
	At      *time.Time        `json:"at"`
	Result  string            `json:"result"` // "nothing", "waits", "discarded" or "failed"
	Plan    string            `json:"plan,omitempty"`
	State   dhalion.PlanState `json:"state,omitempty"`
	Actions []string          `json:"actions"`
	Error   string            `json:"error,omitempty"`
}

func (a *app) runCommand() *cobra.Command {
	var f judgeFlags
	var once bool
	var only string
	c := &cobra.Command{
		Use:   "run --once",
		Short: "Judge every job once, store what is found, and propose plans",
		Long: `Judge every job once, store what is found, and propose a plan where there is something
to do. Nothing is applied. Only --once is there yet, for a scheduler such as cron; the
loop that runs by itself comes with the fleet.

Exits with 0 when there is nothing to do, 2 when at least one plan waits for review,
1 when at least one job failed; the others go on.`,
		Example: `  dhalion run --once
  dhalion run --once --job wordcount -o json
  */5 * * * *  DATABASE_URL=… dhalion run --once || [ $? -eq 2 ]`,
		Args: none,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !once {
				return &failure{code: exitUsage, err: fmt.Errorf("run: the loop comes with the fleet; only --once is there yet"),
					hint: "from cron: */5 * * * * dhalion run --once"}
			}
			if err := f.check(); err != nil {
				return err
			}
			url, _, err := a.database()
			if err != nil {
				return err
			}
			if url == "" {
				home, err := pgserver.Home(a.getenv)
				if err != nil {
					return err
				}
				fmt.Fprintf(a.err, "dhalion: warning: this uses the private server in %s; for a schedule, set DATABASE_URL, or database in dhalion.yaml, to a server that stays\n", home)
			}
			return a.withStore(cmd.Context(), func(ctx context.Context, st *store.Store) error {
				jobs, err := runJobs(ctx, st, only)
				if err != nil {
					return err
				}
				results := []ran{}
				waits, failed := false, false
				for _, job := range jobs {
					r, err := a.runOne(ctx, st, job, f)
					if ctx.Err() != nil {
						return context.Cause(ctx)
					}
					if err != nil {
						r.Result, r.Error = "failed", err.Error()
						failed = true
						a.report(ctx, fmt.Errorf("%s: %w", job, err))
					}
					waits = waits || r.Result == "waits"
					results = append(results, r)
				}
				if err := a.ranAll(results); err != nil {
					return err
				}
				switch {
				case failed:
					return errFailed
				case waits:
					return errChanges
				}
				return nil
			})
		},
	}
	a.judgeFlags(c, &f)
	a.modelFlag(c, &f)
	c.Flags().BoolVar(&once, "once", false, "judge every job once and end")
	c.Flags().StringVar(&only, "job", "", "only this `JOB`")
	_ = c.RegisterFlagCompletionFunc("job", a.completeJob())
	return c
}

func runJobs(ctx context.Context, st *store.Store, only string) ([]dhalion.JobID, error) {
	if only != "" {
		job, err := findJob(ctx, st, only)
		return []dhalion.JobID{job}, err
	}
	jobs, err := st.Jobs(ctx)
	if err != nil {
		return nil, err
	}
	ids := make([]dhalion.JobID, len(jobs))
	for i, j := range jobs {
		ids[i] = j.ID
	}
	return ids, nil
}

// runOne judges one job, keeps the findings and proposes a plan.
func (a *app) runOne(ctx context.Context, st *store.Store, job dhalion.JobID, f judgeFlags) (ran, error) {
	r := ran{Job: job, Result: "nothing", Actions: []string{}}
	e, err := a.evaluate(ctx, st, string(job), f)
	if err != nil {
		return r, err
	}
	r.At = known(e.at)
	p, err := a.makePlan(ctx, st, e)
	if err != nil {
		return r, err
	}
	if _, err := st.SaveFindings(ctx, store.Evaluation{
		Job: job, AsOf: e.at, Window: e.policy.Window,
		History: p.Basis.History, Policy: p.Basis.Policy, Model: p.Basis.Model, Program: program, Findings: e.result.Findings(),
	}); err != nil {
		return r, err
	}
	d, err := a.propose(ctx, st, p, e.flags, "")
	if err != nil {
		return r, err
	}
	if d.row != nil {
		r.Plan, r.State, r.Actions = d.id, d.row.State, actionWords(d.plan)
		switch {
		case d.waits():
			r.Result = "waits"
		case d.row.State == dhalion.PlanDiscarded:
			r.Result = "discarded"
		}
	}
	return r, nil
}

func (a *app) ranAll(results []ran) error {
	if a.json() {
		return a.writeJSON(struct {
			Jobs []ran `json:"jobs"`
		}{results})
	}
	if len(results) == 0 {
		a.printf("No jobs yet.\n")
		a.next([2]string{"dhalion ingest FILE", "read a history"})
		return nil
	}
	t := &table{head: []string{"job", "result", "plan", "actions"}, wide: 3}
	first := ""
	for _, r := range results {
		switch {
		case r.Result == "failed":
			t.add(string(r.Job), "failed", "", "see the error")
		case r.Result == "waits":
			if first == "" {
				first = r.Plan
			}
			result := "waits for review"
			if r.State == dhalion.PlanApproved {
				result = "waits for apply"
			}
			t.add(string(r.Job), result, r.Plan, joined(r.Actions))
		case r.Plan != "":
			t.add(string(r.Job), string(r.State)+" before", r.Plan, joined(r.Actions))
		default:
			t.add(string(r.Job), "nothing to do", "", "")
		}
	}
	a.table("", t)
	if first != "" {
		a.next([2]string{command("show", first), "review it"})
	}
	return nil
}
