package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/apply"
	"github.com/dhalion-go/dhalion/internal/store"
)

func (a *app) applyCommand() *cobra.Command {
	var f judgeFlags
	var dryRun bool
	c := &cobra.Command{
		Use:   "apply PLAN",
		Short: "Carry out an approved plan, or say what that would do",
		Long: `Carry out an approved plan. It is refused, in this order, when it was edited (5), has
expired (6), is stale (3: the job's topology, the policy or the model is not the one it
was made from), is not approved (4), or another plan holds the job (7). A job that is
known only from files has nothing to act on: apply says so and ends with 0.

A dry run looks at the same things, needs no approval and does nothing.`,
		Example: `  dhalion apply slow.plan.json --dry-run
  dhalion apply 10701d65f69c`,
		Args:              one("PLAN"),
		ValidArgsFunction: a.completePlan(),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.check(); err != nil {
				return err
			}
			given := cmd.Flags().Changed("policy") || cmd.Flags().Changed("param") || cmd.Flags().Changed("window")
			return a.withStore(cmd.Context(), func(ctx context.Context, st *store.Store) error {
				d, err := find(ctx, st, args[0])
				if refusal := apply.AsRefusal(err); refusal != nil {
					return a.refuse(refusal)
				}
				if err != nil {
					return err
				}
				if d.row == nil && len(d.plan.Actions) == 0 {
					// Such a plan is not stored: nobody has to look at it.
					return a.nothing(&apply.Refusal{Plan: d.id, Code: apply.Nothing, Reason: "plan " + d.id + " has no actions"}, apply.State{Plan: d.plan, ID: d.id})
				}
				state, err := a.gateState(ctx, st, d, f, given)
				if err != nil {
					return err
				}
				state.DryRun = dryRun
				refusal := apply.Gate(state)
				switch {
				case refusal != nil && refusal.Code == apply.Nothing:
					return a.nothing(refusal, state)
				case refusal != nil:
					if !dryRun {
						if err := a.note(ctx, st, d, refusal, given); err != nil {
							return err
						}
					}
					return a.refuse(refusal)
				case dryRun:
					return a.dryRun(d)
				}
				// Not reached while every job is known only from files: Gate says so.
				return fmt.Errorf("apply: plan %s: no engine is configured for %s", d.id, d.plan.Job)
			})
		},
	}
	c.Flags().BoolVar(&dryRun, "dry-run", false, "say what would be done and do nothing")
	a.policyFlags(c, &f)
	return c
}

// gateState gathers what the gate looks at: the document, its row, and the
// present topology, policy and model.
func (a *app) gateState(ctx context.Context, st *store.Store, d *document, f judgeFlags, given bool) (apply.State, error) {
	s := apply.State{
		Plan: d.plan, ID: d.id, Digest: d.digest, Now: a.now(),
		// No engine can be configured yet: every job is known only from files.
		LiveEngine: false,
	}
	if r := d.row; r != nil {
		s.Row = &apply.Row{ID: r.ID, Digest: r.Digest, State: r.State, Author: r.Author, ProposedAt: r.ProposedAt, Approvals: r.Approvals}
	}
	topology, err := a.presentTopology(ctx, st, d.plan.Job)
	if err != nil {
		return s, err
	}
	s.Present.Model = noModel
	if topology != nil {
		s.Present.Topology, s.PresentTopology = topology.Digest(), topology
	}
	if s.Present.Policy, err = presentPolicy(ctx, st, d, f, given); err != nil {
		return s, err
	}
	lease, ok, err := st.Holder(ctx, d.plan.Job, s.Now)
	if ok {
		s.HeldBy = lease.Plan
	}
	return s, err
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
	h, err := st.History(ctx, job, newest.Add(-defaultLookback), newest)
	if err != nil {
		return nil, err
	}
	topology, ok := h.TopologyAt(newest)
	if !ok {
		topology = dhalion.Topology{} // as in a plan that was made without one
	}
	return &topology, nil
}

// presentPolicy is the digest of the policy that the plan would be made by now:
// the one that the flags name, the one that was noted when it was proposed, or
// the built-in one of its name. A policy that is gone or broken is not the one
// that it was: its digest is empty. Of a document that was never proposed here it
// is not known what its policy was read from, so nothing can be said against it;
// it is not approved either.
func presentPolicy(ctx context.Context, st *store.Store, d *document, f judgeFlags, given bool) (string, error) {
	if given {
		return f.loaded.Digest, nil
	}
	if d.row == nil {
		return d.plan.Basis.Policy, nil
	}
	source, ok, err := policyOf(ctx, st, d.id)
	if err != nil {
		return "", err
	}
	if !ok {
		source = policySource{Policy: d.plan.Policy}
	}
	p, err := source.load()
	if err != nil {
		return "", nil
	}
	return p.Digest, nil
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

// applied is the answer of apply where nothing is refused.
type applied struct {
	Plan   string        `json:"plan"`
	Job    dhalion.JobID `json:"job"`
	Result string        `json:"result"` // "dry_run" or "nothing_to_act_on"
	Reason string        `json:"reason,omitempty"`
	Hint   string        `json:"hint,omitempty"`
	Steps  []apply.Step  `json:"steps"`
}

func (a *app) nothing(r *apply.Refusal, s apply.State) error {
	if a.json() {
		return a.writeJSON(applied{s.ID, s.Plan.Job, string(r.Code), r.Reason, r.Hint, []apply.Step{}})
	}
	a.printf("Nothing is done: %s.\n", plain(r.Reason))
	if r.Hint != "" {
		a.printf("hint: %s\n", plain(r.Hint))
	}
	return nil
}

func (a *app) dryRun(d *document) error {
	if a.json() {
		return a.writeJSON(applied{Plan: d.id, Job: d.plan.Job, Result: "dry_run", Steps: list(apply.Steps(d.plan))})
	}
	if err := apply.DryRun(&a.out, d.plan, d.id); err != nil {
		return err
	}
	if d.row != nil && d.row.State == dhalion.PlanProposed {
		a.next([2]string{command("approve", d.id), "allow it"})
	}
	return nil
}
