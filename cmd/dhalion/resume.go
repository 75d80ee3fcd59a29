package main

import (
	"context"

	"github.com/dhalion-go/dhalion/apply"
	"github.com/dhalion-go/dhalion/internal/store"
)

// resumable asks again what may be otherwise since a plan was begun. An engine that
// does not answer, or on which the job is on its way up, is no refusal where no worker is
// still to be emptied: the applier waits for it.
func (a *app) resumable(ctx context.Context, st *store.Store, engine *liveEngine, d *document, f applyFlags) (*apply.Refusal, error) {
	s := apply.State{Plan: d.plan, ID: d.id, Digest: d.digest, Now: a.now(), LiveEngine: true,
		Row: &apply.Row{ID: d.row.ID, Digest: d.row.Digest, State: d.row.State, ProposedAt: d.row.ProposedAt}}
	by, err := a.madeBy(ctx, st, d, f.judge, true)
	if err != nil {
		return nil, err
	}
	if by.policy != nil {
		s.Limits = apply.Limits{Jobs: by.policy.Limits.MaxJobsTouched, Instances: by.policy.Limits.MaxInstancesTouched}
	}
	if s.Jobs, err = a.rules(ctx, st, d.plan, by.policy, s.Now); err != nil {
		return nil, err
	}
	journal, err := st.Entries(ctx, d.id)
	if err != nil {
		return nil, err
	}
	if s.PresentTopology, err = a.present(ctx, st, engine, &s); err != nil && ctx.Err() != nil {
		return nil, err
	}
	return apply.Resumable(s, journal), nil
}
