package store

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/ingest/segment"
)

// JobInfo is what `dhalion jobs` shows of a job. Components and Instances count
// those of its newest topology; they are 0, and From and To the zero time, when
// nothing is known.
type JobInfo struct {
	ID         dhalion.JobID `json:"id"`
	Name       string        `json:"name"`
	Engine     string        `json:"engine"`
	From       time.Time     `json:"from"`
	To         time.Time     `json:"to"`
	Components int           `json:"components"`
	Instances  int           `json:"instances"`
}

// Jobs lists every job, sorted by id.
func (s *Store) Jobs(ctx context.Context) ([]JobInfo, error) {
	rows, err := s.pool.Query(ctx, `
		WITH spans AS (
			SELECT job, min(from_time) AS from_time, max(to_time) AS to_time FROM segments GROUP BY job
		), newest AS (
			SELECT DISTINCT ON (t.job) t.job, t.body
			FROM topologies t JOIN inputs i ON i.id = t.input
			ORDER BY t.job, t.from_time DESC, i.seq DESC
		)
		SELECT j.id, j.name, j.engine, s.from_time, s.to_time, n.body
		FROM jobs j LEFT JOIN spans s ON s.job = j.id LEFT JOIN newest n ON n.job = j.id
		ORDER BY j.id COLLATE "C"`)
	if err != nil {
		return nil, fmt.Errorf("store: list jobs: %w", err)
	}
	jobs, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (j JobInfo, err error) {
		var from, to *time.Time
		var body []byte
		if err := row.Scan(&j.ID, &j.Name, &j.Engine, &from, &to, &body); err != nil {
			return j, err
		}
		if from != nil && to != nil {
			j.From, j.To = *from, *to
		}
		if body != nil {
			var t dhalion.Topology
			if err := json.Unmarshal(body, &t); err != nil {
				return j, err
			}
			j.Components, j.Instances = len(t.Components), t.Instances()
		}
		return j, nil
	})
	if err != nil {
		return nil, fmt.Errorf("store: list jobs: %w", err)
	}
	return jobs, nil
}

// FindJob finds a job by its id, or by its bare name where that is unique. It
// returns *NotFoundError or *AmbiguousError.
func (s *Store) FindJob(ctx context.Context, ref string) (dhalion.JobID, error) {
	rows, err := s.pool.Query(ctx, `SELECT id FROM jobs WHERE id = $1 OR name = $1 ORDER BY id COLLATE "C"`, ref)
	if err != nil {
		return "", fmt.Errorf("store: find job: %w", err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return "", fmt.Errorf("store: find job: %w", err)
	}
	for _, id := range found {
		if id == ref { // an id wins over a job of another engine with that name
			return dhalion.JobID(id), nil
		}
	}
	switch len(found) {
	case 0:
		return "", &NotFoundError{What: "job", Ref: ref}
	case 1:
		return dhalion.JobID(found[0]), nil
	}
	return "", &AmbiguousError{What: "job", Ref: ref, Candidates: found}
}

// Newest is the time of a job's newest measurement; the zero time when it has
// none. It returns *NotFoundError for a job that is not known.
func (s *Store) Newest(ctx context.Context, job dhalion.JobID) (time.Time, error) {
	var exists bool
	var newest *time.Time
	err := s.pool.QueryRow(ctx, `
		SELECT EXISTS (SELECT FROM jobs WHERE id = $1), (SELECT max(to_time) FROM segments WHERE job = $1)`,
		job).Scan(&exists, &newest)
	switch {
	case err != nil:
		return time.Time{}, fmt.Errorf("store: newest of %s: %w", job, err)
	case !exists:
		return time.Time{}, &NotFoundError{What: "job", Ref: string(job)}
	case newest == nil:
		return time.Time{}, nil
	}
	return *newest, nil
}

// History reads everything known of a job in (after, upTo], merged: of two
// values for one (target, metric, time) the one of the later ingest. The zero
// time for after is the beginning, inclusive. It returns *NotFoundError for a
// job that is not known; a job without rows in that time has no tables.
//
// It is one state of the database, however many ingests commit meanwhile.
func (s *Store) History(ctx context.Context, job dhalion.JobID, after, upTo time.Time) (*segment.History, error) {
	h := &segment.History{
		Job:    job,
		Window: dhalion.Window{Start: after.UTC(), End: upTo.UTC()},
		Tables: map[dhalion.TargetKind]*segment.Table{},
	}
	from, to := clamp(start(after)), clamp(upTo)
	layers := map[dhalion.TargetKind][]segment.Layer{}
	var mu sync.Mutex
	decoders, decoding := errgroup.WithContext(ctx)
	decoders.SetLimit(runtime.GOMAXPROCS(0)) // so many segments are held undecoded
	err := pgx.BeginTxFunc(ctx, s.pool, reading, func(tx pgx.Tx) (err error) {
		if h.Topologies, err = topologies(ctx, tx, job, from, to); err != nil {
			return err
		}
		n := 0
		err = each(decoding, tx, job, from, to, true, func(seg dhalion.Segment) error {
			n++
			decoders.Go(func() error {
				table, err := segment.Decode(seg)
				if err != nil {
					return fmt.Errorf("segment %s of %s: %w", seg.Hash, seg.From.Format(time.RFC3339), err)
				}
				if table = segment.Between(table, from, to); table.Rows() == 0 {
					return nil
				}
				mu.Lock()
				defer mu.Unlock()
				layers[seg.Kind] = append(layers[seg.Kind], segment.Layer{Table: table, Seq: seg.Seq})
				return nil
			})
			return nil
		})
		if failed := decoders.Wait(); failed != nil {
			return failed // it has ended the reading, too
		}
		if err == nil && n == 0 && len(h.Topologies) == 0 {
			return jobExists(ctx, tx, job)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("store: read history of %s: %w", job, err)
	}
	for kind, of := range layers {
		table, _, err := segment.Merge(of)
		if err != nil {
			return nil, fmt.Errorf("store: merge history of %s: %w", job, err)
		}
		h.Tables[kind] = table
	}
	return h, nil
}

// Catalogue lists a job's segments without their bytes, by kind, time and
// sequence number.
func (s *Store) Catalogue(ctx context.Context, job dhalion.JobID) ([]dhalion.Segment, error) {
	var list []dhalion.Segment
	err := pgx.BeginTxFunc(ctx, s.pool, reading, func(tx pgx.Tx) error {
		if err := jobExists(ctx, tx, job); err != nil {
			return err
		}
		return each(ctx, tx, job, minTime, maxTime, false, func(seg dhalion.Segment) error {
			list = append(list, seg)
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("store: list segments of %s: %w", job, err)
	}
	return list, nil
}

// Segments hands the segments of a job that overlap (after, upTo] to f one by
// one, with their bytes, by kind, time and sequence number. They are not merged.
// It stops at f's first error.
func (s *Store) Segments(ctx context.Context, job dhalion.JobID, after, upTo time.Time, f func(dhalion.Segment) error) error {
	err := pgx.BeginTxFunc(ctx, s.pool, reading, func(tx pgx.Tx) error {
		if err := jobExists(ctx, tx, job); err != nil {
			return err
		}
		return each(ctx, tx, job, clamp(start(after)), clamp(upTo), true, f)
	})
	if err != nil {
		return fmt.Errorf("store: read segments of %s: %w", job, err)
	}
	return nil
}

// Topologies lists a job's topologies in force at any time in (after, upTo],
// ascending.
func (s *Store) Topologies(ctx context.Context, job dhalion.JobID, after, upTo time.Time) (list []dhalion.Topology, err error) {
	err = pgx.BeginTxFunc(ctx, s.pool, reading, func(tx pgx.Tx) (err error) {
		if err := jobExists(ctx, tx, job); err != nil {
			return err
		}
		list, err = topologies(ctx, tx, job, clamp(start(after)), clamp(upTo))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("store: read topologies of %s: %w", job, err)
	}
	return list, nil
}

// The times that PostgreSQL is asked about: a program may ask for any time that
// Go can hold, histories are within the years 1 to 9999.
var (
	minTime = time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC).Add(-time.Microsecond)
	maxTime = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)
)

func start(after time.Time) time.Time {
	if after.IsZero() {
		return minTime
	}
	return after
}

func clamp(at time.Time) time.Time {
	switch at = at.UTC(); {
	case at.Before(minTime):
		return minTime
	case at.After(maxTime):
		return maxTime
	}
	return micros(at)
}

// each hands the segments that overlap (after, upTo] to f, as one statement saw
// them. It sorts by what is in the row itself: bytes stay where they are until a
// row is sent.
func each(ctx context.Context, tx pgx.Tx, job dhalion.JobID, after, upTo time.Time, bytes bool, f func(dhalion.Segment) error) error {
	columns := "s.kind, s.from_time, s.to_time, s.row_count, s.value_count, i.seq, s.hash"
	if bytes {
		columns += ", s.bytes"
	}
	rows, err := tx.Query(ctx, `
		SELECT `+columns+`
		FROM segments s JOIN inputs i ON i.id = s.input
		WHERE s.job = $1 AND s.day BETWEEN $2 AND $3 AND s.to_time > $4 AND s.from_time <= $5
		ORDER BY s.kind, s.from_time, i.seq, s.hash`,
		job, after.Truncate(24*time.Hour), upTo.Truncate(24*time.Hour), after, upTo)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		seg := dhalion.Segment{Job: job}
		into := []any{&seg.Kind, &seg.From, &seg.To, &seg.Rows, &seg.Values, &seg.Seq, &seg.Hash}
		if bytes {
			into = append(into, &seg.Bytes)
		}
		if err := rows.Scan(into...); err != nil {
			return err
		}
		if err := f(seg); err != nil {
			return err
		}
	}
	return rows.Err()
}

func topologies(ctx context.Context, tx pgx.Tx, job dhalion.JobID, after, upTo time.Time) ([]dhalion.Topology, error) {
	rows, err := tx.Query(ctx, `
		WITH known AS (
			SELECT DISTINCT ON (t.from_time) t.from_time, t.body
			FROM topologies t JOIN inputs i ON i.id = t.input
			WHERE t.job = $1 AND t.from_time <= $3
			ORDER BY t.from_time, i.seq DESC
		)
		SELECT body FROM known
		WHERE from_time >= coalesce((SELECT max(from_time) FROM known WHERE from_time <= $2), '-infinity')
		ORDER BY from_time`, job, after, upTo)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (t dhalion.Topology, err error) {
		var body []byte
		if err := row.Scan(&body); err != nil {
			return t, err
		}
		if err := json.Unmarshal(body, &t); err != nil {
			return t, err
		}
		t.From = t.From.UTC()
		return t, nil
	})
}

func jobExists(ctx context.Context, tx pgx.Tx, job dhalion.JobID) error {
	var exists bool
	if err := tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM jobs WHERE id = $1)`, job).Scan(&exists); err != nil {
		return err
	}
	if !exists {
		return &NotFoundError{What: "job", Ref: strings.ToValidUTF8(string(job), "?")}
	}
	return nil
}
