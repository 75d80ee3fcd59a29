package store

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/apply"
	"github.com/dhalion-go/dhalion/plan/planfile"
)

// EventForeign is logged of a change of a job's parallelism that no plan of ours
// made, at the time of the topology that shows it.
const EventForeign = "foreign"

// Deeds lists what plans of ours did to a job, of actions begun in (after, upTo], by when
// they were begun: those confirmed as done, and those of which nobody knows because an
// applier died over them. It knows no more of what came after upTo than whether an
// action was confirmed, and when it had settled.
func (s *Store) Deeds(ctx context.Context, job dhalion.JobID, after, upTo time.Time) ([]dhalion.Deed, error) {
	// A plan that is judged as unclear had settled before; one that is given up has not.
	rows, err := s.pool.Query(ctx, `
		WITH begun AS (
			SELECT i.plan, i.action, min(i.at) AS at
			FROM journal i LEFT JOIN journal c ON c.intent = i.id JOIN plans p ON p.id = i.plan
			WHERE p.job = $1 AND i.step = 'intent' AND i.at <= $3
			GROUP BY i.plan, i.action
			HAVING bool_or(c.id IS NULL OR c.result ->> 'outcome' = $4) AND min(i.at) > $2
		)
		SELECT b.plan, b.action, b.at, (
			SELECT coalesce(min(l.at) FILTER (WHERE l.event = 'applied'), max(l.at)) FROM log l
			WHERE l.plan = b.plan AND l.event IN ('applied', 'failed', 'unclear', 'aborted') AND l.at >= b.at), p.body
		FROM begun b JOIN plans p ON p.id = b.plan
		ORDER BY b.at, b.plan COLLATE "C", b.action`, job, clamp(start(after)), clamp(upTo), apply.Done)
	if err != nil {
		return nil, fmt.Errorf("store: read what was done to %s: %w", job, err)
	}
	deeds, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) ([]dhalion.Deed, error) {
		var plan, body string
		var action int
		var begun time.Time
		var ended *time.Time
		if err := row.Scan(&plan, &action, &begun, &ended, &body); err != nil {
			return nil, err
		}
		d := dhalion.Deed{Plan: plan, Begun: begun.UTC()}
		if ended != nil {
			d.Ended = ended.UTC()
		}
		p, _, _, err := planfile.Decode([]byte(body), plan)
		if err != nil {
			return nil, err
		}
		return deedsOf(p, action, d), nil
	})
	if err != nil {
		return nil, fmt.Errorf("store: read what was done to %s: %w", job, err)
	}
	var all []dhalion.Deed
	for _, of := range deeds {
		all = append(all, of...)
	}
	return all, nil
}

// deedsOf are what the step of a plan that begins with an action did: one rescale
// sets several components.
func deedsOf(p dhalion.Plan, action int, d dhalion.Deed) []dhalion.Deed {
	for _, step := range apply.Steps(p) {
		if len(step.Actions) == 0 || step.Actions[0] != action || step.Class == apply.Harmless {
			continue
		}
		var all []dhalion.Deed
		for _, i := range step.Actions {
			if a := p.Actions[i]; a.Kind == dhalion.SetParallelism {
				n, _ := a.To.Number()
				d.Component, d.To = a.Target.Component, int(n)
			}
			all = append(all, d)
		}
		return all
	}
	return nil
}

// LogForeign logs each change of a job's parallelism once: what was logged before, at
// the same time of the same component, is not logged again.
func (s *Store) LogForeign(ctx context.Context, job dhalion.JobID, changes []dhalion.Change) error {
	if len(changes) == 0 {
		return nil
	}
	return s.inTx(ctx, func(tx pgx.Tx) error {
		// Of two that look at once one waits for the other here.
		if _, err := tx.Exec(ctx, `SELECT FROM jobs WHERE id = $1 FOR NO KEY UPDATE`, job); err != nil {
			return fmt.Errorf("store: log changes of %s: %w", job, err)
		}
		for _, c := range changes {
			words := fmt.Sprintf("%s %d → %d instances", c.Component, c.From, c.To)
			var known bool
			if err := tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM log WHERE job = $1 AND event = $2 AND at = $3 AND detail ->> 'reason' = $4)`,
				job, EventForeign, micros(c.At), words).Scan(&known); err != nil {
				return fmt.Errorf("store: log changes of %s: %w", job, err)
			}
			if known {
				continue
			}
			if err := appendLog(ctx, tx, LogEntry{At: c.At, Job: job, Event: EventForeign, Detail: reason(words)}); err != nil {
				return err
			}
		}
		return nil
	})
}
