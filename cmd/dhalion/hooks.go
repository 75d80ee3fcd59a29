package main

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/apply"
	actuator "github.com/dhalion-go/dhalion/apply/flink"
	"github.com/dhalion-go/dhalion/apply/hook"
	"github.com/dhalion-go/dhalion/internal/store"
)

// renewing is a hook that starts a job anew: what it set is remembered in the
// journal, and it has done its work when another run of the job is there, of which the
// journal then says that it has what was set.
type renewing struct {
	*hook.Actuator
	engine *actuator.Actuator
	st     *store.Store
}

// Prepare is the hook's, with a note.
func (r *renewing) Prepare(ctx context.Context, c apply.Call) (apply.Intent, error) {
	i, err := r.Actuator.Prepare(ctx, c)
	if err != nil {
		return i, err
	}
	h, err := r.engine.Hooking(ctx, c)
	if err != nil {
		return i, err
	}
	if i.Note, err = json.Marshal(h); err != nil {
		return i, fmt.Errorf("hook: %s: note: %w", r.Name, err)
	}
	return i, nil
}

// Look asks the engine.
func (r *renewing) Look(ctx context.Context, c apply.Call, i apply.Intent) (apply.Standing, string) {
	standing, why, run := r.engine.Renewed(ctx, i, c.Before)
	if run == "" {
		return standing, why
	}
	if err := r.st.Followed(ctx, c.Plan, i.ID, run); err != nil {
		return apply.Unknown, err.Error()
	}
	return standing, why
}

// teller is the hook that is declared for the alerts of a job.
func (a *app) teller(job dhalion.JobID) func(dhalion.Action) apply.Actuator {
	return func(x dhalion.Action) apply.Actuator {
		conf, err := a.config()
		if err != nil {
			return nil // with a broken configuration nothing is applied
		}
		name, ok := conf.HookFor(x.Kind, job)
		if !ok {
			return nil
		}
		return &hook.Actuator{Name: name, Argv: conf.Hooks[name].Argv, Timeout: conf.Hooks[name].Timeout}
	}
}
