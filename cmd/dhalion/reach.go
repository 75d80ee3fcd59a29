package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/apply"
	actuator "github.com/dhalion-go/dhalion/apply/flink"
	"github.com/dhalion-go/dhalion/apply/hook"
	"github.com/dhalion-go/dhalion/ingest/flink"
	client "github.com/dhalion-go/dhalion/internal/engine/flink"
	"github.com/dhalion-go/dhalion/internal/store"
	"github.com/dhalion-go/dhalion/plan/policy"
)

// liveEngine is an engine that can be asked and acted on.
type liveEngine struct {
	engine string
	server *client.Client
}

// reach is the engine of a job, if dhalion.yaml has one of that name; nil when it
// has not, and the job is known only from files.
func (a *app) reach(job dhalion.JobID) (*liveEngine, error) {
	c, err := a.config()
	if err != nil {
		return nil, err
	}
	if _, ok := c.Engines[job.Engine()]; !ok {
		return nil, nil
	}
	name, address, options, err := a.engine(job.Engine(), &engineFlags{})
	if err != nil {
		return nil, err
	}
	server, err := client.NewClient(address, options)
	if err != nil {
		return nil, fmt.Errorf("engine %s: %w", name, err)
	}
	return &liveEngine{engine: name, server: server}, nil
}

func (c *liveEngine) close() {
	if c != nil {
		c.server.Close()
	}
}

// topologies are those of the engine's jobs that run now, by one poll. unseen are
// the jobs that have not ended and of which it is not known where all their
// instances are: their questions were not answered, or they are on their way up.
func (c *liveEngine) topologies(ctx context.Context, now func() time.Time) (all map[dhalion.JobID]dhalion.Topology, unseen []dhalion.JobID, err error) {
	poller := client.NewPoller(c.server, client.PollOptions{Every: 10 * time.Second, Now: now})
	answers, err := poller.Poll(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("engine %s: %w", c.engine, err)
	}
	result, err := flink.NewAssembler(flink.Options{Engine: c.engine}).Poll(answers)
	if err != nil {
		return nil, nil, fmt.Errorf("engine %s: %w", c.engine, err)
	}
	all = map[dhalion.JobID]dhalion.Topology{}
	placed := map[string]bool{}
	for _, t := range result.Topologies {
		all[t.Job] = t.Topology
		placed[t.Topology.Run] = len(t.Topology.Placement) == t.Topology.Instances()
	}
	overview, err := client.Decode[client.JobsOverview](answers[0].Body)
	if err != nil {
		return nil, nil, fmt.Errorf("engine %s: %w", c.engine, err)
	}
	for _, run := range overview.Jobs {
		if !client.Terminal(run.State) && !placed[run.ID] {
			unseen = append(unseen, dhalion.JobID(c.engine+"/"+client.Name(run.Name, client.First8(run.ID))))
		}
	}
	slices.Sort(unseen)
	return all, unseen, nil
}

// sharing are the jobs beside a plan's own on the workers from which it moves
// instances.
func sharing(p dhalion.Plan, all map[dhalion.JobID]dhalion.Topology) []apply.Sharing {
	var found []apply.Sharing
	for _, x := range p.Actions {
		worker := apply.Leaves(x)
		if worker == "" {
			continue
		}
		for job, t := range all {
			s := apply.Sharing{Job: job, Worker: worker, Of: t.Instances()}
			for _, at := range t.Placement {
				if at.Worker == worker {
					s.Instances++
				}
			}
			if job != p.Job && s.Instances > 0 {
				found = append(found, s)
			}
		}
	}
	slices.SortFunc(found, func(x, y apply.Sharing) int {
		return dhalion.JobTarget(x.Job).Compare(dhalion.JobTarget(y.Job))
	})
	return found
}

// arguments are those with which a run of a job was started, as far as is known:
// what we or a hook started it with, else what a hook left of which nobody noted which run
// followed it, else what dhalion.yaml says, for then somebody else did; nil when that says nothing.
func (a *app) arguments(ctx context.Context, st *store.Store, job dhalion.JobID, run string) ([]string, error) {
	engine, err := a.starter(ctx, st, job)
	if err != nil {
		return nil, err
	}
	return engine.Arguments(run), nil
}

// starter is the engine's actuator for a job with what is known of how its runs were
// started, and how one is started anew. It has no engine yet.
func (a *app) starter(ctx context.Context, st *store.Store, job dhalion.JobID) (*actuator.Actuator, error) {
	c, err := a.config()
	if err != nil {
		return nil, err
	}
	engine := &actuator.Actuator{Job: job.Name(), Wait: pause}
	if i, ok := c.JobFor(job); ok && c.Jobs[i].Start != nil {
		s := c.Jobs[i].Start
		engine.Start = &actuator.Start{Jar: s.Jar, Class: s.Class, Arguments: s.Arguments, Savepoints: s.Savepoints}
	}
	engine.Started, engine.Left, err = started(ctx, st, job)
	return engine, err
}

// started are the arguments of the runs of a job that we or hooks started, or hooks
// ended, by run; and the hook that did last, where nothing says which run followed it:
// nobody looked in time, or an older program did not note it.
func started(ctx context.Context, st *store.Store, job dhalion.JobID) (known map[string][]string, left *actuator.Hooked, err error) {
	ours, err := st.Done(ctx, job, 50)
	if err != nil {
		return nil, nil, err
	}
	hooks, err := st.Hooked(ctx, job, 50)
	if err != nil {
		return nil, nil, err
	}
	known = map[string][]string{}
	var last int64 // the newest attempt of which it is known which run it started
	if len(ours) > 0 {
		last = ours[0].ID
	}
	for _, e := range hooks {
		var h actuator.Hooked
		if json.Unmarshal(e.Intent.Note, &h) != nil || h.Left == nil {
			continue
		}
		if h.Ends != "" && h.Had != nil {
			known[h.Ends] = h.Had
		}
		switch {
		case e.Result.Run != "":
			known[e.Result.Run], last = h.Left, max(last, e.ID)
		case left == nil && e.ID > last:
			left = &h
		}
	}
	for _, e := range ours {
		var kept struct {
			Next      string
			Arguments []string
		}
		if json.Unmarshal(e.Intent.Note, &kept) == nil && kept.Next != "" {
			known[kept.Next] = kept.Arguments
		}
	}
	return known, left, nil
}

// hand gives the actuators for a job: the hook that is declared for a kind of
// action, else the engine's own.
func (a *app) hand(ctx context.Context, st *store.Store, c *liveEngine, job dhalion.JobID) (func(dhalion.Action) (apply.Actuator, error), error) {
	conf, err := a.config()
	if err != nil {
		return nil, err
	}
	engine, err := a.starter(ctx, st, job)
	if err != nil {
		return nil, err
	}
	engine.Client = c.server
	return func(x dhalion.Action) (apply.Actuator, error) {
		name, ok := conf.HookFor(x.Kind, job)
		switch {
		case ok:
			h := conf.Hooks[name]
			does := &hook.Actuator{Name: name, Argv: h.Argv, Timeout: h.Timeout}
			if x.Kind == dhalion.Relocate {
				does.Settled = func(ctx context.Context, c apply.Call) (apply.Standing, string) {
					return engine.Moved(ctx, apply.Leaves(c.Actions[0]), c.Before)
				}
			}
			if x.Kind == dhalion.SetKnob || x.Kind == dhalion.Restart {
				return &renewing{Actuator: does, engine: engine, st: st}, nil
			}
			return does, nil
		case x.Kind == dhalion.Relocate || x.Kind == dhalion.Repartition:
			return nil, fmt.Errorf("apply: Flink has no request that does %s: declare a hook with does: %s in dhalion.yaml", x.Kind, x.Kind)
		}
		return engine, nil
	}, nil
}

// pause waits, and returns early with the context's error when it ends.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// rules are what holds for every job that a plan touches: its mode and quiet hours
// by dhalion.yaml, whether somebody else changes it, and who holds its lease. own is the policy that the plan was
// made by.
func (a *app) rules(ctx context.Context, st *store.Store, p dhalion.Plan, own *policy.Policy, now time.Time) ([]apply.JobState, error) {
	c, err := a.config()
	if err != nil {
		return nil, err
	}
	var all []apply.JobState
	for _, job := range apply.Jobs(p) {
		s := apply.JobState{Job: job}
		var policies []*policy.Policy
		if job == p.Job && own != nil {
			policies = append(policies, own)
		}
		if i, ok := c.JobFor(job); ok {
			entry := c.Jobs[i]
			if entry.Mode == "observe" {
				line := c.Line("jobs", fmt.Sprint(i), "mode")
				if line == 0 {
					line = c.Line("jobs", fmt.Sprint(i))
				}
				s.Observe = fmt.Sprintf("mode observe, %s:%d", c.File, line)
			}
			theirs, err := policySource{Policy: entry.Policy}.load()
			if err != nil {
				return nil, fmt.Errorf("apply: rules of %s: %w", job, err)
			}
			policies = append(policies, theirs)
		}
		for _, p := range policies {
			if q := p.Limits.QuietHours; q.Quiet(now) {
				s.Quiet = q.String()
			}
		}
		changes, err := noteChanges(ctx, st, job, now)
		if err != nil {
			return nil, err
		}
		s.Foreign, s.Until = dhalion.Foreign(changes, now)
		lease, ok, err := st.Holder(ctx, job, now)
		if err != nil {
			return nil, err
		}
		if ok {
			s.HeldBy = lease.Plan
		}
		all = append(all, s)
	}
	return all, nil
}
