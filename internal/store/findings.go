package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/dhalion-go/dhalion"
)

// Evaluation is what one evaluation of a job found, and what it came from.
type Evaluation struct {
	Job      dhalion.JobID
	AsOf     time.Time
	Window   time.Duration
	History  string // digest of the values read
	Policy   string // digest of the policy with its parameters
	Model    string // digest of the model; empty when there was none
	Program  string // version of the program
	Findings dhalion.Findings
}

// SaveFindings stores an evaluation and returns its row's id. The same
// evaluation again is the same row, and the row stays as it is.
func (s *Store) SaveFindings(ctx context.Context, e Evaluation) (id int64, err error) {
	body, err := json.Marshal(e.Findings)
	if err != nil {
		return 0, fmt.Errorf("store: save findings of %s: %w", e.Job, err)
	}
	key := []any{e.Job, micros(e.AsOf), e.Window, e.History, e.Policy, e.Model, e.Program}
	err = s.inTx(ctx, func(tx pgx.Tx) error {
		if err := jobExists(ctx, tx, e.Job); err != nil {
			return err
		}
		err := tx.QueryRow(ctx, `
			INSERT INTO findings (job, as_of, window_length, history_digest, policy_digest, model, program, body)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
			ON CONFLICT ON CONSTRAINT findings_once DO NOTHING RETURNING id`, append(key, body)...).Scan(&id)
		if !errors.Is(err, pgx.ErrNoRows) {
			return err
		}
		return tx.QueryRow(ctx, `
			SELECT id FROM findings WHERE job = $1 AND as_of = $2 AND window_length = $3 AND history_digest = $4
			AND policy_digest = $5 AND model = $6 AND program = $7`, key...).Scan(&id)
	})
	if err != nil {
		return 0, fmt.Errorf("store: save findings of %s: %w", e.Job, err)
	}
	return id, nil
}

// Lease says which plan may act on a job, and until when.
type Lease struct {
	Job    dhalion.JobID
	Plan   string
	Holder string // the process that applies it
	Epoch  int64
	Until  time.Time
}

// Holder is who holds a job at a time; ok is false when nobody does.
func (s *Store) Holder(ctx context.Context, job dhalion.JobID, now time.Time) (l Lease, ok bool, err error) {
	err = s.pool.QueryRow(ctx, `
		SELECT job, plan, holder, epoch, until FROM leases WHERE job = $1 AND plan IS NOT NULL AND until > $2`,
		job, micros(now)).Scan(&l.Job, &l.Plan, &l.Holder, &l.Epoch, &l.Until)
	if errors.Is(err, pgx.ErrNoRows) {
		return Lease{}, false, nil
	}
	if err != nil {
		return Lease{}, false, fmt.Errorf("store: read lease of %s: %w", job, err)
	}
	return l, true, nil
}
