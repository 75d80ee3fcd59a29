package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/internal/store"
)

// standing is where a plan stands after a command changed that.
type standing struct {
	Plan      string             `json:"plan"`
	Job       dhalion.JobID      `json:"job"`
	State     dhalion.PlanState  `json:"state"`
	Reason    string             `json:"reason,omitempty"`
	ExpiresAt time.Time          `json:"expires_at"`
	Approvals []dhalion.Approval `json:"approvals"`
}

func standingOf(r *store.PlanRow) standing {
	return standing{r.ID, r.Job, r.State, r.Reason, r.ExpiresAt.UTC(), list(r.Approvals)}
}

func (a *app) approveCommand() *cobra.Command {
	var as, note string
	c := &cobra.Command{
		Use:   "approve PLAN",
		Short: "Allow a plan, as it stands, to be applied",
		Long: `Allow a plan, as it stands, to be applied. The approval names the plan's content and
the person; a plan that is edited afterwards is not the approved one. Where the policy
asks for four eyes, its author cannot approve it.`,
		Example: `  dhalion approve slow.plan.json
  dhalion approve 10701d65f69c --as alice --note "after the sale"`,
		Args:              one("PLAN"),
		ValidArgsFunction: a.completePlan(),
		RunE: func(cmd *cobra.Command, args []string) error {
			if as == "" {
				as = a.person()
			}
			return a.withStore(cmd.Context(), func(ctx context.Context, st *store.Store) error {
				d, err := find(ctx, st, args[0])
				if err != nil {
					return err
				}
				if d.row == nil && len(d.plan.Actions) == 0 {
					return fmt.Errorf("plan %s has no actions: there is nothing to approve", d.id)
				}
				if d.row == nil {
					return hinted(fmt.Errorf("plan %s: this database has never seen it", d.id), "make it here: %s", command("plan", string(d.plan.Job), "--at", stamp(d.plan.AsOf)))
				}
				row, err := st.Approve(ctx, dhalion.Approval{Plan: d.id, Digest: d.digest, Person: as, At: a.now(), Note: note}, d.plan.FourEyes)
				if err != nil {
					return err
				}
				if a.json() {
					return a.writeJSON(standingOf(row))
				}
				a.printf("Plan %s for %s is approved by %s. It expires at %s.\n", row.ID, plain(string(row.Job)), plain(as), when(row.ExpiresAt))
				a.next(
					[2]string{command("apply", row.ID, "--dry-run"), "see each step and do none"},
					[2]string{command("apply", row.ID), "do it"},
				)
				return nil
			})
		},
	}
	c.Flags().StringVar(&as, "as", "", "`person` who approves (default: the user)")
	c.Flags().StringVar(&note, "note", "", "why, for the log")
	return c
}

func (a *app) discardCommand() *cobra.Command {
	var as, reason string
	c := &cobra.Command{
		Use:   "discard PLAN",
		Short: "Say no to a plan",
		Long:  "Say no to a plan that is proposed or approved. It stays discarded, also when the same is\nplanned again.",
		Example: `  dhalion discard 10701d65f69c --reason "the load is a test"
  dhalion discard slow.plan.json`,
		Args:              one("PLAN"),
		ValidArgsFunction: a.completePlan(),
		RunE: func(cmd *cobra.Command, args []string) error {
			if as == "" {
				as = a.person()
			}
			return a.withStore(cmd.Context(), func(ctx context.Context, st *store.Store) error {
				d, err := find(ctx, st, args[0])
				if err != nil {
					return err
				}
				if d.row == nil {
					return fmt.Errorf("plan %s: this database has never seen it", d.id)
				}
				row, err := st.Discard(ctx, d.id, as, reason, a.now())
				if err != nil {
					return err
				}
				if a.json() {
					return a.writeJSON(standingOf(row))
				}
				a.printf("Plan %s for %s is discarded.\n", row.ID, plain(string(row.Job)))
				a.next([2]string{command("plan", string(row.Job)), "make a new plan from what is known now"})
				return nil
			})
		},
	}
	c.Flags().StringVar(&reason, "reason", "", "why, for the log")
	c.Flags().StringVar(&as, "as", "", "`person` who discards (default: the user)")
	return c
}
