package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/ingest/segment"
)

// HeldError says that a job cannot be forgotten now, because somebody acts on it.
type HeldError struct {
	Job  dhalion.JobID
	Plan string // that is being applied
}

// Error names the plan.
func (e *HeldError) Error() string {
	return fmt.Sprintf("store: forget %s: plan %s is being applied to it", e.Job, e.Plan)
}

// ForgetReport says what is gone.
type ForgetReport struct {
	Job        dhalion.JobID `json:"job"`
	Segments   int64         `json:"segments"`
	Cut        int64         `json:"cut"` // segments of which only the rows in the range went
	Topologies int64         `json:"topologies"`
	Findings   int64         `json:"findings"`
	Plans      int64         `json:"plans"`
	Incidents  int64         `json:"incidents"`
	Inputs     int64         `json:"inputs"` // that may be ingested again
}

// Forget removes all that is known of a job: its history, topologies, findings,
// plans with their approvals and outcomes, incidents. The log stays, and gets an
// entry in the name of person. What was ingested can be ingested again.
//
// It returns *NotFoundError, and *HeldError while a plan is being applied.
func (s *Store) Forget(ctx context.Context, job dhalion.JobID, person string, now time.Time) (ForgetReport, error) {
	rep := ForgetReport{Job: job}
	err := s.forgetting(ctx, job, now, func(tx pgx.Tx) error {
		if err := tx.QueryRow(ctx, `
			SELECT (SELECT count(*) FROM segments WHERE job = $1), (SELECT count(*) FROM topologies WHERE job = $1),
			       (SELECT count(*) FROM findings WHERE job = $1), (SELECT count(*) FROM plans WHERE job = $1),
			       (SELECT count(*) FROM incidents WHERE job = $1)`, job).
			Scan(&rep.Segments, &rep.Topologies, &rep.Findings, &rep.Plans, &rep.Incidents); err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, `UPDATE inputs SET forgotten_at = $2 WHERE $1 = ANY (jobs) AND forgotten_at IS NULL`, job, micros(now))
		if err != nil {
			return err
		}
		rep.Inputs = tag.RowsAffected()
		if _, err := tx.Exec(ctx, `DELETE FROM jobs WHERE id = $1`, job); err != nil { // and what refers to it
			return err
		}
		return logForgotten(ctx, tx, rep, nil, person, now)
	})
	if err != nil {
		return ForgetReport{}, forgetError(job, err)
	}
	return rep, nil
}

// ForgetBetween removes what is known of a job in (after, upTo]: measurements and
// topologies that began then, but the last of these, if it is in force
// afterwards, and the findings and plans as of a time then, and incidents wholly
// within. The zero time for after is the beginning. Else as Forget.
func (s *Store) ForgetBetween(ctx context.Context, job dhalion.JobID, after, upTo time.Time, person string, now time.Time) (ForgetReport, error) {
	rep := ForgetReport{Job: job}
	from, to := clamp(start(after)), clamp(upTo)
	err := s.forgetting(ctx, job, now, func(tx pgx.Tx) error {
		if err := cutSegments(ctx, tx, job, from, to, &rep); err != nil {
			return err
		}
		var released int64
		for _, c := range []struct {
			n   *int64
			sql string
		}{
			// A topology is in force until the next; the newest one at the end of the
			// range goes on after it.
			{&rep.Topologies, `DELETE FROM topologies WHERE job = $1 AND from_time > $2 AND from_time <= $3
				AND from_time < (SELECT max(from_time) FROM topologies WHERE job = $1 AND from_time <= $3)`},
			{&rep.Findings, `DELETE FROM findings WHERE job = $1 AND as_of > $2 AND as_of <= $3`},
			// A lease's epoch must never fall, so its row outlives the plan.
			{&released, `UPDATE leases SET plan = NULL, holder = NULL, until = NULL FROM plans p
				WHERE p.id = leases.plan AND p.job = $1 AND p.as_of > $2 AND p.as_of <= $3`},
			{&rep.Plans, `DELETE FROM plans WHERE job = $1 AND as_of > $2 AND as_of <= $3`},
			{&rep.Incidents, `DELETE FROM incidents WHERE job = $1 AND start_time > $2 AND end_time <= $3`},
		} {
			tag, err := tx.Exec(ctx, c.sql, job, from, to)
			if err != nil {
				return err
			}
			*c.n = tag.RowsAffected()
		}
		tag, err := tx.Exec(ctx, `
			UPDATE inputs SET forgotten_at = $4 WHERE $1 = ANY (jobs) AND forgotten_at IS NULL AND to_time > $2 AND from_time <= $3`,
			job, from, to, micros(now))
		if err != nil {
			return err
		}
		rep.Inputs = tag.RowsAffected()
		return logForgotten(ctx, tx, rep, &dhalion.Window{Start: after, End: upTo}, person, now)
	})
	if err != nil {
		return ForgetReport{}, forgetError(job, err)
	}
	return rep, nil
}

// forgetError says what failed, once.
func forgetError(job dhalion.JobID, err error) error {
	var held *HeldError
	if errors.As(err, &held) {
		return held
	}
	return fmt.Errorf("store: forget %s: %w", job, err)
}

// forgetting runs f when nobody acts on the job, compacts it, or ends an ingest.
// Ingests that are under way end after it: what they bring is there then.
func (s *Store) forgetting(ctx context.Context, job dhalion.JobID, now time.Time, f func(pgx.Tx) error) error {
	return s.inTx(ctx, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SET LOCAL statement_timeout = 0`); err != nil {
			return err
		}
		if err := lockHistory(ctx, tx, job); err != nil {
			return err
		}
		// The order is that of ingests, whose last lock this is: no cycle can form.
		if _, err := tx.Exec(ctx, lockInputs); err != nil {
			return err
		}
		if err := jobExists(ctx, tx, job); err != nil {
			return err
		}
		// Locked: whoever begins to apply a plan of the job waits, and finds none.
		rows, err := tx.Query(ctx, `
			SELECT id, state = 'applying' FROM plans WHERE job = $1 ORDER BY id FOR NO KEY UPDATE`, job)
		if err != nil {
			return err
		}
		var id string
		var applying bool
		if _, err := pgx.ForEachRow(rows, []any{&id, &applying}, func() error {
			if applying {
				return &HeldError{Job: job, Plan: id}
			}
			return nil
		}); err != nil {
			return err
		}
		rows, err = tx.Query(ctx, `SELECT plan FROM leases WHERE job = $1 AND until > $2 FOR UPDATE`, job, micros(now))
		if err != nil {
			return err
		}
		if held, err := pgx.CollectRows(rows, pgx.RowTo[string]); err != nil {
			return err
		} else if len(held) > 0 {
			return &HeldError{Job: job, Plan: held[0]}
		}
		return f(tx)
	})
}

// cutSegments removes the rows in (after, upTo]. A segment that has others, too,
// is written anew without them; it keeps its place in the order of ingests.
func cutSegments(ctx context.Context, tx pgx.Tx, job dhalion.JobID, after, upTo time.Time, rep *ForgetReport) error {
	tag, err := tx.Exec(ctx, `DELETE FROM segments WHERE job = $1 AND from_time > $2 AND to_time <= $3`, job, after, upTo)
	if err != nil {
		return err
	}
	rep.Segments = tag.RowsAffected()
	type place struct {
		day   time.Time
		input int64
		seg   dhalion.Segment
	}
	rows, err := tx.Query(ctx, `SELECT day, input, kind, hash FROM segments WHERE job = $1 AND to_time > $2 AND from_time <= $3`, job, after, upTo)
	if err != nil {
		return err
	}
	// At most one segment for each moment at which the range begins or ends, and
	// those that overlap it; their bytes are read one by one.
	places, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (p place, err error) {
		p.seg.Job = job
		return p, row.Scan(&p.day, &p.input, &p.seg.Kind, &p.seg.Hash)
	})
	if err != nil {
		return err
	}
	for _, p := range places {
		const one = ` FROM segments WHERE job = $1 AND kind = $2 AND day = $3 AND input = $4 AND hash = $5`
		key := []any{job, p.seg.Kind, p.day, p.input, p.seg.Hash}
		if err := tx.QueryRow(ctx, `SELECT bytes`+one, key...).Scan(&p.seg.Bytes); err != nil {
			return err
		}
		table, err := segment.Decode(p.seg)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `DELETE`+one, key...); err != nil {
			return err
		}
		var layers []segment.Layer
		for _, kept := range []*segment.Table{segment.Between(table, minTime, after), segment.Between(table, upTo, maxTime)} {
			if kept.Rows() > 0 {
				layers = append(layers, segment.Layer{Table: kept})
			}
		}
		if len(layers) == 0 {
			rep.Segments++
			continue
		}
		rest, _, err := segment.Merge(layers)
		if err != nil {
			return err
		}
		seg, err := segment.Encode(rest)
		if err != nil {
			return err
		}
		rep.Cut++
		if _, err := tx.Exec(ctx, `
			INSERT INTO `+partitionName(p.day)+` (day, job, kind, input, from_time, to_time, row_count, value_count, hash, bytes)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT DO NOTHING`,
			p.day, job, seg.Kind, p.input, seg.From, seg.To, seg.Rows, seg.Values, seg.Hash, seg.Bytes); err != nil {
			return err
		}
	}
	return nil
}

func logForgotten(ctx context.Context, tx pgx.Tx, rep ForgetReport, within *dhalion.Window, person string, now time.Time) error {
	detail, err := json.Marshal(struct {
		Segments int64           `json:"segments"`
		Plans    int64           `json:"plans"`
		Range    *dhalion.Window `json:"range,omitempty"`
	}{rep.Segments + rep.Cut, rep.Plans, within})
	if err != nil {
		return err
	}
	return appendLog(ctx, tx, LogEntry{At: now, Job: rep.Job, Person: person, Event: "forgotten", Detail: detail})
}
