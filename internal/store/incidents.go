package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/dhalion-go/dhalion"
)

// Incident is a labelled stretch as it is kept. Rows of one Job and Name are one
// incident; Family says which jobs are alike (empty: each job is its own). An empty
// Cause says that nothing was wrong.
type Incident struct {
	ID int64 `json:"id"`
	dhalion.Incident
	Name      string    `json:"incident,omitempty"`
	Family    string    `json:"family,omitempty"`
	Person    string    `json:"person,omitempty"`
	CreatedAt time.Time `json:"created_at"`
}

// IncidentFilter says which incidents are wanted; an empty field does not restrict.
type IncidentFilter struct {
	Job     dhalion.JobID
	Cause   dhalion.Cause
	InOrder bool   // only those that say that nothing was wrong
	Source  string // the whole of it, or its beginning
}

// AddIncidents stores incidents, all or none, and returns how many were not known
// yet: the same label from the same source is one. Their jobs must be known, else it
// returns *NotFoundError.
func (s *Store) AddIncidents(ctx context.Context, all []Incident, person string, now time.Time) (added int, err error) {
	err = s.inTx(ctx, func(tx pgx.Tx) error {
		jobs := map[dhalion.JobID]int{}
		for _, in := range all {
			if _, asked := jobs[in.Job]; !asked {
				var known bool
				if err := tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM jobs WHERE id = $1)`, in.Job).Scan(&known); err != nil {
					return fmt.Errorf("store: add incidents: %w", err)
				}
				if !known {
					return &NotFoundError{"job", string(in.Job)}
				}
				jobs[in.Job] = 0
			}
			tag, err := tx.Exec(ctx, `
				INSERT INTO incidents (job, target, cause, start_time, end_time, certainty, source, note, incident, family, person, created_at)
				VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) ON CONFLICT ON CONSTRAINT incidents_once DO NOTHING`,
				in.Job, in.Target, in.Cause, micros(in.Start), micros(in.End), in.Certainty, in.Source, in.Note, in.Name, in.Family, person, micros(now))
			if err != nil {
				return fmt.Errorf("store: add incident of %s: %w", in.Job, err)
			}
			added += int(tag.RowsAffected())
			jobs[in.Job] += int(tag.RowsAffected())
		}
		for job, n := range jobs {
			if n == 0 {
				continue
			}
			detail, err := json.Marshal(map[string]int{"incidents": n})
			if err != nil {
				return fmt.Errorf("store: add incidents: %w", err)
			}
			if err := appendLog(ctx, tx, LogEntry{At: now, Job: job, Person: person, Event: "labelled", Detail: detail}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	return added, nil
}

const incidentColumns = `id, job, target, cause, start_time, end_time, certainty, source, note, incident, family, person, created_at`

func scanIncident(row pgx.CollectableRow) (in Incident, err error) {
	err = row.Scan(&in.ID, &in.Job, &in.Target, &in.Cause, &in.Start, &in.End, &in.Certainty, &in.Source, &in.Note, &in.Name, &in.Family, &in.Person, &in.CreatedAt)
	in.Start, in.End, in.CreatedAt = in.Start.UTC(), in.End.UTC(), in.CreatedAt.UTC()
	return in, err
}

// Incidents lists incidents by job and start, at most limit of them (0: all).
func (s *Store) Incidents(ctx context.Context, f IncidentFilter, limit int) ([]Incident, error) {
	rows, err := s.pool.Query(ctx, `
		SELECT `+incidentColumns+` FROM incidents
		WHERE ($1 = '' OR job = $1) AND ($2 = '' OR cause = $2) AND (NOT $6 OR cause = '') AND ($3 = '' OR source = $3 OR source LIKE $5 ESCAPE '\')
		ORDER BY job COLLATE "C", start_time, end_time, cause COLLATE "C", target::text COLLATE "C", source COLLATE "C", id LIMIT nullif($4::bigint, 0)`,
		f.Job, f.Cause, f.Source, limit, strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`).Replace(f.Source)+"%", f.InOrder)
	if err != nil {
		return nil, fmt.Errorf("store: list incidents: %w", err)
	}
	all, err := pgx.CollectRows(rows, scanIncident)
	if err != nil {
		return nil, fmt.Errorf("store: list incidents: %w", err)
	}
	return all, nil
}

// Incident is the one of a number; *NotFoundError when there is none.
func (s *Store) Incident(ctx context.Context, id int64) (in Incident, err error) {
	rows, err := s.pool.Query(ctx, `SELECT `+incidentColumns+` FROM incidents WHERE id = $1`, id)
	if err != nil {
		return in, fmt.Errorf("store: read incident %d: %w", id, err)
	}
	in, err = pgx.CollectExactlyOneRow(rows, scanIncident)
	if errors.Is(err, pgx.ErrNoRows) {
		return in, &NotFoundError{"incident", fmt.Sprint(id)}
	}
	if err != nil {
		return in, fmt.Errorf("store: read incident %d: %w", id, err)
	}
	return in, nil
}

// RemoveIncident removes one label and says which it was; *NotFoundError when there
// is none of that number.
func (s *Store) RemoveIncident(ctx context.Context, id int64, person string, now time.Time) (in Incident, err error) {
	err = s.inTx(ctx, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `DELETE FROM incidents WHERE id = $1 RETURNING `+incidentColumns, id)
		if err != nil {
			return fmt.Errorf("store: remove incident %d: %w", id, err)
		}
		gone, err := pgx.CollectRows(rows, scanIncident)
		if err != nil {
			return fmt.Errorf("store: remove incident %d: %w", id, err)
		}
		if len(gone) == 0 {
			return &NotFoundError{"incident", fmt.Sprint(id)}
		}
		in = gone[0]
		detail, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("store: remove incident %d: %w", id, err)
		}
		return appendLog(ctx, tx, LogEntry{At: now, Job: in.Job, Person: person, Event: "label-removed", Detail: detail})
	})
	return in, err
}
