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
// journal, and it has done its work when another run of the job is there.
type renewing struct {
	*hook.Actuator
	engine *actuator.Actuator
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
	return r.engine.Renewed(ctx, i, c.Before)
}

// hooked are the arguments that hooks which started a job anew have left it with: had
// are those of the runs that they ended, left those of the run that the newest one
// started; nil: none did.
func hooked(ctx context.Context, st *store.Store, job dhalion.JobID) (had map[string][]string, left []string, err error) {
	intents, err := st.Hooked(ctx, job, 50)
	if err != nil {
		return nil, nil, err
	}
	had = map[string][]string{}
	for _, i := range intents {
		var h actuator.Hooked
		if json.Unmarshal(i.Note, &h) != nil || h.Left == nil {
			continue
		}
		if left == nil {
			left = h.Left
		}
		if h.Ends != "" && h.Had != nil {
			had[h.Ends] = h.Had
		}
	}
	return had, left, nil
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
