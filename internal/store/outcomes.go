package store

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/apply"
)

// Outcome is what came of an action, and the state of its plan.
type Outcome struct {
	dhalion.Outcome
	JudgedAt *time.Time // nil: not yet
	State    dhalion.PlanState
}

// OutcomeFilter says which outcomes are wanted; an empty field does not restrict.
type OutcomeFilter struct {
	Job  dhalion.JobID
	Plan string // the full id
}

// Outcomes lists what came of actions, the newest first, at most limit of them
// (0: all).
func (s *Store) Outcomes(ctx context.Context, f OutcomeFilter, limit int) ([]Outcome, error) {
	rows, err := s.pool.Query(ctx, `
		SELECT o.plan, o.action, o.job, o.kind, o.target, `+argument+`, o.cause, o.applied, coalesce(o.judged, ''), o.at, o.detail, o.judged_at, p.state
		FROM outcomes o JOIN plans p ON p.id = o.plan
		WHERE ($1 = '' OR o.job = $1) AND ($2 = '' OR o.plan = $2)
		ORDER BY o.at DESC, o.plan COLLATE "C", o.action LIMIT nullif($3::bigint, 0)`, f.Job, f.Plan, limit)
	if err != nil {
		return nil, fmt.Errorf("store: list outcomes: %w", err)
	}
	outcomes, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (o Outcome, err error) {
		err = row.Scan(&o.Plan, &o.Action, &o.Job, &o.Kind, &o.Target, &o.Argument, &o.Cause, &o.Applied, &o.Judged, &o.At, &o.Detail, &o.JudgedAt, &o.State)
		return o, err
	})
	if err != nil {
		return nil, fmt.Errorf("store: list outcomes: %w", err)
	}
	return outcomes, nil
}

// noteOutcomes writes down what came of a plan's actions, where they are not judged.
func noteOutcomes(ctx context.Context, tx pgx.Tx, plan string, outcomes []dhalion.Outcome) error {
	for _, o := range outcomes {
		if _, err := tx.Exec(ctx, `
			INSERT INTO outcomes (plan, action, job, kind, target, cause, applied, at, detail)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
			ON CONFLICT (plan, action) DO UPDATE SET applied = excluded.applied, at = excluded.at, detail = excluded.detail
			WHERE outcomes.judged IS NULL`,
			plan, o.Action, o.Job, o.Kind, o.Target, o.Cause, o.Applied, micros(o.At), o.Detail); err != nil {
			return fmt.Errorf("store: note outcome %d of plan %s: %w", o.Action, plan, err)
		}
	}
	return nil
}

// argument is what an action sets, which only the plan's document says; other kinds
// of action have none.
const argument = `CASE WHEN o.kind IN ('set_knob', 'repartition') THEN coalesce(p.body::jsonb -> 'actions' -> o.action ->> 'argument', '') ELSE '' END`

// Judged lists the outcomes that say whether an action helped, of actions done in
// (after, upTo], by time; of one job, or of all when job is empty. A rollback has only
// to run, and tells nothing.
func (s *Store) Judged(ctx context.Context, job dhalion.JobID, after, upTo time.Time) ([]dhalion.Outcome, error) {
	rows, err := s.pool.Query(ctx, `
		SELECT o.plan, o.action, o.job, o.kind, o.target, `+argument+`, o.cause, o.applied, o.judged, o.at
		FROM outcomes o JOIN plans p ON p.id = o.plan
		WHERE ($1 = '' OR o.job = $1) AND o.judged IN ('met', 'unmet') AND p.reverses IS NULL AND o.at > $2 AND o.at <= $3
		ORDER BY o.at, o.plan COLLATE "C", o.action`, job, clamp(start(after)), clamp(upTo))
	if err != nil {
		return nil, fmt.Errorf("store: list judged outcomes: %w", err)
	}
	outcomes, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (o dhalion.Outcome, err error) {
		err = row.Scan(&o.Plan, &o.Action, &o.Job, &o.Kind, &o.Target, &o.Argument, &o.Cause, &o.Applied, &o.Judged, &o.At)
		return o, err
	})
	if err != nil {
		return nil, fmt.Errorf("store: list judged outcomes: %w", err)
	}
	return outcomes, nil
}

// Judge writes down what was seen of an applied plan: its state (met, unmet or
// unclear), what was judged of each action, and the incidents that follow from it.
// It returns *StateError when the plan is not applied, so of several that judge at
// once one does.
func (s *Store) Judge(ctx context.Context, ref string, to dhalion.PlanState, why string, outcomes []dhalion.Outcome, incidents []dhalion.Incident, now time.Time) (*PlanRow, error) {
	now = micros(now)
	return s.changePlan(ctx, ref, func(tx pgx.Tx, row *PlanRow) error {
		if err := setState(ctx, tx, row, []dhalion.PlanState{dhalion.PlanApplied}, to, why, "", now); err != nil {
			return err
		}
		for _, o := range outcomes {
			if o.Judged == "" {
				continue
			}
			if _, err := tx.Exec(ctx, `UPDATE outcomes SET judged = $3, judged_at = $4, detail = $5 WHERE plan = $1 AND action = $2 AND applied = 'applied'`,
				row.ID, o.Action, o.Judged, now, o.Detail); err != nil {
				return fmt.Errorf("store: judge outcome %d of plan %s: %w", o.Action, row.ID, err)
			}
		}
		for _, i := range incidents {
			if _, err := tx.Exec(ctx, `
				INSERT INTO incidents (job, target, cause, start_time, end_time, certainty, source, note, created_at)
				VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT ON CONSTRAINT incidents_once DO NOTHING`,
				i.Job, i.Target, i.Cause, micros(i.Start), micros(i.End), i.Certainty, i.Source, i.Note, now); err != nil {
				return fmt.Errorf("store: note incident of plan %s: %w", row.ID, err)
			}
		}
		return nil
	})
}

// Done lists the attempts of a job's plans that started a run of it and are confirmed
// as done, the newest first, at most limit of them: what is known of how it was
// started. Whatever was done without starting one does not count, so that the present
// run is among the first, however often it was rescaled since.
func (s *Store) Done(ctx context.Context, job dhalion.JobID, limit int) ([]apply.Entry, error) {
	return s.confirmed(ctx, job, `i.call -> 'note' ->> 'next' <> ''`, limit)
}

// Hooked lists the attempts of hooks that started a job anew and are confirmed as done,
// the newest first, at most limit of them: those with a note of what they left it with.
func (s *Store) Hooked(ctx context.Context, job dhalion.JobID, limit int) ([]apply.Entry, error) {
	return s.confirmed(ctx, job, `i.call -> 'note' -> 'left' IS NOT NULL`, limit)
}

// confirmed lists the attempts of a job's plans that are confirmed as done and of which
// a condition in SQL holds, the newest first.
func (s *Store) confirmed(ctx context.Context, job dhalion.JobID, condition string, limit int) ([]apply.Entry, error) {
	rows, err := s.pool.Query(ctx, `
		SELECT i.id, i.action, i.attempt, i.at, i.call, c.result FROM journal i JOIN journal c ON c.intent = i.id JOIN plans p ON p.id = i.plan
		WHERE p.job = $1 AND c.result ->> 'outcome' = $2 AND `+condition+` ORDER BY i.id DESC LIMIT $3`, job, apply.Done, limit)
	if err != nil {
		return nil, fmt.Errorf("store: read journal of %s: %w", job, err)
	}
	entries, err := pgx.CollectRows(rows, attempted)
	if err != nil {
		return nil, fmt.Errorf("store: read journal of %s: %w", job, err)
	}
	return entries, nil
}

// Followed notes which run came of a hook that started a job anew, with the result of
// its action. The first that is noted stays: a later one is somebody else's.
func (s *Store) Followed(ctx context.Context, plan, action, run string) error {
	_, err := s.pool.Exec(ctx, `
		UPDATE journal c SET result = c.result || jsonb_build_object('run', $3::text) FROM journal i
		WHERE c.intent = i.id AND i.plan = $1 AND i.call ->> 'id' = $2 AND c.result ->> 'outcome' = $4 AND NOT c.result ? 'run'`, plan, action, run, apply.Done)
	if err != nil {
		return fmt.Errorf("store: journal: note run %s of action %s: %w", run, action, err)
	}
	return nil
}
