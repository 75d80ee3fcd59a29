package main

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/internal/store"
)

// How far back is looked for changes of a job, and for what of ours explains them: it
// takes the time before to tell what the engine goes back to, and an action may have
// been begun long before a poll sees what it did.
const (
	changesReach = 24 * time.Hour
	deedsReach   = 24 * time.Hour
)

// deeds gives what plans of ours did to a job, of actions begun in (after, upTo].
type deeds interface {
	Deeds(ctx context.Context, job dhalion.JobID, after, upTo time.Time) ([]dhalion.Deed, error)
}

// attributed says who made each topology of a job, and lists the changes of its
// parallelism. Topologies are in order of time.
func attributed(ctx context.Context, st deeds, job dhalion.JobID, topologies []dhalion.Topology, upTo time.Time) ([]dhalion.ChangeBy, []dhalion.Change, error) {
	if len(topologies) < 2 {
		by, changes := dhalion.Attribute(topologies, nil)
		return by, changes, nil
	}
	ours, err := st.Deeds(ctx, job, topologies[1].From.Add(-deedsReach), upTo)
	if err != nil {
		return nil, nil, err
	}
	by, changes := dhalion.Attribute(topologies, ours)
	return by, changes, nil
}

// noteChanges lists the changes of a job's parallelism in the day up to a time, and
// logs those that somebody else made. A job that is not known has none.
func noteChanges(ctx context.Context, st *store.Store, job dhalion.JobID, at time.Time) ([]dhalion.Change, error) {
	topologies, err := st.Topologies(ctx, job, at.Add(-changesReach), at)
	var missing *store.NotFoundError
	if errors.As(err, &missing) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	_, changes, err := attributed(ctx, st, job, topologies, at)
	if err != nil {
		return nil, err
	}
	foreign := slices.DeleteFunc(slices.Clone(changes), func(c dhalion.Change) bool { return c.By != dhalion.ChangeOperator })
	return changes, st.LogForeign(ctx, job, foreign)
}
