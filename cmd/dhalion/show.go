package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/internal/store"
	"github.com/dhalion-go/dhalion/plan/planfile"
)

func (a *app) showCommand() *cobra.Command {
	var format string
	c := &cobra.Command{
		Use:   "show [PLAN]",
		Short: "Show a plan, or list the plans",
		Long: `Show a plan: a file, an id, or the beginning of one. Without PLAN, list the newest
plans and where they stand. With -o json a plan is its document, byte for byte.`,
		Example: `  dhalion show
  dhalion show 10701d65f69c
  dhalion show slow.plan.json --format markdown`,
		Args:              atMostOne,
		ValidArgsFunction: a.completePlan(),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch format {
			case "":
				format = a.output
			case "text", "json", "markdown":
			default:
				return usagef("--format is text, json or markdown, not %q", format)
			}
			if len(args) == 0 {
				return a.withStore(cmd.Context(), a.listPlans)
			}
			var d *document
			look := func(ctx context.Context, st *store.Store) (err error) {
				d, err = find(ctx, st, args[0])
				return err
			}
			if isID(args[0]) || a.atHand() {
				if err := a.withStore(cmd.Context(), look); err != nil {
					return err
				}
			} else {
				// A document can be read without a database: none is started for it.
				var err error
				if d, err = readDocument(args[0]); err != nil {
					return err
				}
			}
			switch format {
			case "json":
				a.out.Write(d.doc)
				return nil
			case "markdown":
				return planfile.Markdown(&a.out, d.plan, a.meta(d))
			}
			return planfile.Text(&a.out, d.plan, a.meta(d), planfile.Options{Color: a.color(), Width: a.width()})
		},
	}
	c.Flags().StringVar(&format, "format", "", "text, json or markdown (default: as --output)")
	a.complete(c, "format", "text", "json", "markdown")
	return c
}

type planJSON struct {
	ID         string            `json:"id"`
	Job        dhalion.JobID     `json:"job"`
	State      dhalion.PlanState `json:"state"`
	Reason     string            `json:"reason,omitempty"`
	AsOf       time.Time         `json:"as_of"`
	ProposedAt time.Time         `json:"proposed_at"`
	ExpiresAt  time.Time         `json:"expires_at"`
	Author     string            `json:"author"`
	Reverses   string            `json:"reverses,omitempty"`
	Actions    []string          `json:"actions"`
}

// plansListed bounds the list of plans.
const plansListed = 50

func (a *app) listPlans(ctx context.Context, st *store.Store) error {
	rows, err := st.Plans(ctx, store.PlanFilter{}, plansListed)
	if err != nil {
		return err
	}
	plans := []planJSON{}
	now := a.now()
	for _, r := range rows {
		p := planJSON{r.ID, r.Job, r.StateAt(now), r.Reason, r.AsOf.UTC(), r.ProposedAt.UTC(), r.ExpiresAt.UTC(), r.Author, r.Reverses, []string{}}
		if body, _, _, err := planfile.Decode(r.Body, r.ID); err == nil {
			p.Actions = actionWords(body)
		}
		plans = append(plans, p)
	}
	if a.json() {
		return a.writeJSON(struct {
			Plans []planJSON `json:"plans"`
		}{plans})
	}
	if len(plans) == 0 {
		a.printf("No plans yet.\n")
		a.next([2]string{"dhalion plan JOB", "make one"})
		return nil
	}
	t := &table{head: []string{"plan", "job", "state", "proposed", "actions"}, wide: 4}
	for _, p := range plans {
		t.add(p.ID, string(p.Job), string(p.State), when(p.ProposedAt), joined(p.Actions))
	}
	a.table("", t)
	a.next([2]string{command("show", plans[0].ID), "see the newest"})
	return nil
}

func actionWords(p dhalion.Plan) []string {
	out := make([]string, len(p.Actions))
	for i, x := range p.Actions {
		out[i] = planfile.Describe(x)
	}
	return out
}

func joined(parts []string) string {
	s := ""
	for i, p := range parts {
		if i > 0 {
			s += ", "
		}
		s += p
	}
	return s
}
