package store

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/dhalion-go/dhalion"
)

// LogEntry is one thing that happened: to a job or a plan, by a person or by
// dhalion itself (Person empty).
type LogEntry struct {
	At     time.Time       `json:"at"`
	Job    dhalion.JobID   `json:"job,omitempty"`
	Plan   string          `json:"plan,omitempty"`
	Person string          `json:"person,omitempty"`
	Event  string          `json:"event"`            // "proposed", "approved", …: the states of a plan, and what else is logged
	Detail json.RawMessage `json:"detail,omitempty"` // a JSON object
}

// LogFilter says which entries are wanted; an empty field does not restrict.
type LogFilter struct {
	Job   dhalion.JobID
	Plan  string // the full id
	Event string
}

// AppendLog adds an entry. Entries are never changed or removed.
func (s *Store) AppendLog(ctx context.Context, e LogEntry) error {
	return s.inTx(ctx, func(tx pgx.Tx) error { return appendLog(ctx, tx, e) })
}

// Log returns the newest entries that match, at most limit of them (0: all),
// oldest first.
func (s *Store) Log(ctx context.Context, f LogFilter, limit int) ([]LogEntry, error) {
	rows, err := s.pool.Query(ctx, `
		SELECT at, job, plan, person, event, detail FROM log
		WHERE ($1 = '' OR job = $1) AND ($2 = '' OR plan = $2) AND ($3 = '' OR event = $3)
		ORDER BY id DESC LIMIT nullif($4::bigint, 0)`, f.Job, f.Plan, f.Event, limit)
	if err != nil {
		return nil, fmt.Errorf("store: read log: %w", err)
	}
	entries, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (e LogEntry, err error) {
		var detail []byte
		err = row.Scan(&e.At, &e.Job, &e.Plan, &e.Person, &e.Event, &detail)
		if string(detail) != "{}" {
			e.Detail = detail
		}
		return e, err
	})
	if err != nil {
		return nil, fmt.Errorf("store: read log: %w", err)
	}
	slices.Reverse(entries)
	return entries, nil
}

func appendLog(ctx context.Context, tx pgx.Tx, e LogEntry) error {
	if e.Detail == nil {
		e.Detail = json.RawMessage("{}")
	}
	_, err := tx.Exec(ctx, `INSERT INTO log (at, job, plan, person, event, detail) VALUES ($1, $2, $3, $4, $5, $6)`,
		micros(e.At), e.Job, e.Plan, e.Person, e.Event, []byte(e.Detail))
	if err != nil {
		return fmt.Errorf("store: append to log: %w", err)
	}
	return nil
}
