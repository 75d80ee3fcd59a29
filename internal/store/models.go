package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// ModelRow is a model in the registry.
type ModelRow struct {
	ID        string          `json:"id"`
	About     json.RawMessage `json:"about"`
	Schema    string          `json:"schema,omitempty"` // digest of its vectors' schemas; empty: not known
	CreatedAt time.Time       `json:"created_at,omitzero"`
	Person    string          `json:"person"`
	Note      string          `json:"note,omitempty"`
	Bytes     int             `json:"bytes"`
	Active    bool            `json:"active"`
}

// Promotion is when a model became the active one, and by whom; an empty Model: none
// was from then on.
type Promotion struct {
	Model    string    `json:"model"`
	At       time.Time `json:"at"`
	Person   string    `json:"person"`
	Note     string    `json:"note,omitempty"`
	Rollback bool      `json:"rollback"`
}

// SaveModel stores an artefact under its id, once, with the digest of its vectors'
// schemas; added says whether it was new.
func (s *Store) SaveModel(ctx context.Context, id string, artefact []byte, about any, schema, person, note string, now time.Time) (added bool, err error) {
	text, err := json.Marshal(about)
	if err != nil {
		return false, fmt.Errorf("store: save model %s: %w", id, err)
	}
	err = s.inTx(ctx, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `INSERT INTO models (id, artefact, about, schema_digest, created_at, person, note) VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING`,
			id, artefact, text, schema, micros(now), person, note)
		if err != nil {
			return fmt.Errorf("store: save model %s: %w", id, err)
		}
		if added = tag.RowsAffected() > 0; !added {
			// An older program did not write it down.
			if _, err := tx.Exec(ctx, `UPDATE models SET schema_digest = $2 WHERE id = $1 AND schema_digest = ''`, id, schema); err != nil {
				return fmt.Errorf("store: save model %s: %w", id, err)
			}
			return nil
		}
		return logModel(ctx, tx, "model-saved", id, person, note, now)
	})
	return added, err
}

func logModel(ctx context.Context, tx pgx.Tx, event, id, person, note string, now time.Time) error {
	detail, err := json.Marshal(map[string]string{"model": id, "note": note})
	if err != nil {
		return fmt.Errorf("store: log model %s: %w", id, err)
	}
	return appendLog(ctx, tx, LogEntry{At: now, Person: person, Event: event, Detail: detail})
}

// active is the model that the newest promotion names.
const active = `(SELECT model FROM promotions ORDER BY id DESC LIMIT 1)`

// Models lists the registry, the newest first.
func (s *Store) Models(ctx context.Context) ([]ModelRow, error) {
	rows, err := s.pool.Query(ctx, `
		SELECT id, about, schema_digest, created_at, person, note, length(artefact), coalesce(id = `+active+`, false) FROM models ORDER BY created_at DESC, id COLLATE "C"`)
	if err != nil {
		return nil, fmt.Errorf("store: list models: %w", err)
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (m ModelRow, err error) {
		err = row.Scan(&m.ID, &m.About, &m.Schema, &m.CreatedAt, &m.Person, &m.Note, &m.Bytes, &m.Active)
		m.CreatedAt = m.CreatedAt.UTC()
		return m, err
	})
	if err != nil {
		return nil, fmt.Errorf("store: list models: %w", err)
	}
	return all, nil
}

// Artefact is a model's bytes, by its id or the beginning of it. It returns
// *NotFoundError and *AmbiguousError.
func (s *Store) Artefact(ctx context.Context, ref string) (id string, artefact []byte, err error) {
	rows, err := s.pool.Query(ctx, `SELECT id FROM models WHERE starts_with(id, $1) ORDER BY id COLLATE "C"`, ref)
	if err != nil {
		return "", nil, fmt.Errorf("store: find model %q: %w", ref, err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return "", nil, fmt.Errorf("store: find model %q: %w", ref, err)
	}
	switch {
	case ref == "" || len(ids) == 0:
		return "", nil, &NotFoundError{"model", ref}
	case len(ids) > 1:
		return "", nil, &AmbiguousError{"model", ref, ids}
	}
	if err := s.pool.QueryRow(ctx, `SELECT artefact FROM models WHERE id = $1`, ids[0]).Scan(&artefact); err != nil {
		return "", nil, fmt.Errorf("store: read model %s: %w", ids[0], err)
	}
	return ids[0], artefact, nil
}

// ActiveModel is the id of the active model; empty when there is none.
func (s *Store) ActiveModel(ctx context.Context) (id string, err error) {
	if err := s.pool.QueryRow(ctx, `SELECT coalesce(`+active+`, '')`).Scan(&id); err != nil {
		return "", fmt.Errorf("store: find active model: %w", err)
	}
	return id, nil
}

// Promotions are all there were, the newest first.
func (s *Store) Promotions(ctx context.Context) ([]Promotion, error) {
	rows, err := s.pool.Query(ctx, `SELECT coalesce(model, ''), at, person, note, rollback FROM promotions ORDER BY id DESC`)
	if err != nil {
		return nil, fmt.Errorf("store: list promotions: %w", err)
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (p Promotion, err error) {
		err = row.Scan(&p.Model, &p.At, &p.Person, &p.Note, &p.Rollback)
		p.At = p.At.UTC()
		return p, err
	})
	if err != nil {
		return nil, fmt.Errorf("store: list promotions: %w", err)
	}
	return all, nil
}

// Promote makes a model the active one; of the one that is active already changed is
// false, and nothing is noted: to take a promotion back shall bring another model. It
// returns *NotFoundError.
func (s *Store) Promote(ctx context.Context, ref, person, note string, now time.Time) (id string, changed bool, err error) {
	if id, _, err = s.Artefact(ctx, ref); err != nil {
		return "", false, err
	}
	err = s.promoting(ctx, func(tx pgx.Tx) error {
		var was string
		if err := tx.QueryRow(ctx, `SELECT coalesce(`+active+`, '')`).Scan(&was); err != nil {
			return fmt.Errorf("store: promote model %s: %w", id, err)
		}
		if changed = was != id; !changed {
			return nil
		}
		if _, err := tx.Exec(ctx, `INSERT INTO promotions (model, at, person, note) VALUES ($1, $2, $3, $4)`, id, micros(now), person, note); err != nil {
			return fmt.Errorf("store: promote model %s: %w", id, err)
		}
		return logModel(ctx, tx, "model-promoted", id, person, note, now)
	})
	return id, changed, err
}

// ErrNothingPromoted says that there is no promotion to take back.
var ErrNothingPromoted = errors.New("store: take back a promotion: no model was promoted")

// TakeBack takes the newest promotion back that was not taken back: the model from
// before it is active again, be it none. It returns that one's id.
func (s *Store) TakeBack(ctx context.Context, person, note string, now time.Time) (id string, err error) {
	err = s.promoting(ctx, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `SELECT coalesce(model, ''), rollback FROM promotions ORDER BY id`)
		if err != nil {
			return fmt.Errorf("store: take back a promotion: %w", err)
		}
		type step struct {
			Model    string
			Rollback bool
		}
		steps, err := pgx.CollectRows(rows, pgx.RowToStructByPos[step])
		if err != nil {
			return fmt.Errorf("store: take back a promotion: %w", err)
		}
		var stack []string
		for _, s := range steps {
			if s.Rollback {
				stack = stack[:len(stack)-1]
			} else {
				stack = append(stack, s.Model)
			}
		}
		if len(stack) == 0 {
			return ErrNothingPromoted
		}
		if len(stack) > 1 {
			id = stack[len(stack)-2]
		}
		if _, err := tx.Exec(ctx, `INSERT INTO promotions (model, at, person, note, rollback) VALUES (nullif($1, ''), $2, $3, $4, true)`, id, micros(now), person, note); err != nil {
			return fmt.Errorf("store: take back a promotion: %w", err)
		}
		return logModel(ctx, tx, "model-taken-back", stack[len(stack)-1], person, note, now)
	})
	return id, err
}

// promoting keeps others from promoting at the same time.
func (s *Store) promoting(ctx context.Context, f func(pgx.Tx) error) error {
	return s.inTx(ctx, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `LOCK TABLE promotions IN EXCLUSIVE MODE`); err != nil {
			return fmt.Errorf("store: promote: %w", err)
		}
		return f(tx)
	})
}
