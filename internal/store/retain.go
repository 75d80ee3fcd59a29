package store

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// RetainOptions says what retention keeps.
type RetainOptions struct {
	Before time.Time // days that end at or before it go
	Person string    // for the log; empty: dhalion itself
	Now    time.Time
	DryRun bool // say what would go, and keep it
}

// RetainReport says what is gone, or would be.
type RetainReport struct {
	Before time.Time `json:"before"` // the day's begin from which on all is kept
	Days   []string  `json:"days"`   // YYYY-MM-DD
	Inputs int64     `json:"inputs"` // all of whose days are gone: they may be ingested again
	Disk   int64     `json:"disk"`   // bytes given back
	InUse  []string  `json:"in_use"` // days that somebody was reading; the next time takes them
}

// Retain drops the histories of whole UTC days of every job. A day's partition is
// dropped, not emptied: its room is free at once. Topologies, findings, plans and
// the log stay: a topology of long ago may still be in force.
//
// Each day is a transaction of its own. A day that is being read or written for
// longer than some seconds is left for the next time.
func (s *Store) Retain(ctx context.Context, opts RetainOptions) (RetainReport, error) {
	rep := RetainReport{Before: opts.Before.UTC().Truncate(24 * time.Hour), Days: []string{}, InUse: []string{}}
	if err := s.retain(ctx, opts, &rep); err != nil {
		return rep, fmt.Errorf("store: retain: %w", err)
	}
	return rep, nil
}

func (s *Store) retain(ctx context.Context, opts RetainOptions, rep *RetainReport) error {
	rows, err := s.pool.Query(ctx, `
		SELECT c.relname::text, pg_total_relation_size(c.oid) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
		WHERE i.inhparent = 'segments'::regclass ORDER BY 1`)
	if err != nil {
		return err
	}
	type partition struct {
		Name string
		Disk int64
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[partition])
	if err != nil {
		return err
	}
	for _, p := range all {
		day, err := time.Parse("segments_20060102", p.Name)
		if err != nil || !day.Before(rep.Before) {
			continue // not one of ours; or to be kept
		}
		name := day.Format(time.DateOnly)
		if !opts.DryRun {
			switch err := s.dropDay(ctx, p.Name); {
			case isLockTimeout(err):
				rep.InUse = append(rep.InUse, name)
				continue
			case err != nil:
				return err
			}
		}
		rep.Days = append(rep.Days, name)
		rep.Disk += p.Disk
	}
	return s.inTx(ctx, func(tx pgx.Tx) error {
		// All that they brought is older: so nothing is left of them.
		const gone = ` FROM inputs WHERE to_time < $1 AND seq IS NOT NULL AND forgotten_at IS NULL AND cardinality(jobs) > 0`
		if opts.DryRun {
			return tx.QueryRow(ctx, `SELECT count(*)`+gone, rep.Before).Scan(&rep.Inputs)
		}
		if len(rep.InUse) > 0 {
			return nil // they may come again when their days are gone
		}
		tag, err := tx.Exec(ctx, `UPDATE inputs SET forgotten_at = $2 WHERE id IN (SELECT id`+gone+`)`, rep.Before, micros(opts.Now))
		if err != nil {
			return err
		}
		rep.Inputs = tag.RowsAffected()
		if len(rep.Days) == 0 && rep.Inputs == 0 {
			return nil
		}
		detail, err := json.Marshal(struct {
			Before time.Time `json:"before"`
			Days   int       `json:"days"`
			Bytes  int64     `json:"bytes"`
		}{rep.Before, len(rep.Days), rep.Disk})
		if err != nil {
			return err
		}
		return appendLog(ctx, tx, LogEntry{At: opts.Now, Person: opts.Person, Event: "retained", Detail: detail})
	})
}

// dropDay drops a partition. For that nobody may read histories, if only for a
// moment: who holds one up for long holds up all that come after, so it gives up
// after a while.
func (s *Store) dropDay(ctx context.Context, partition string) error {
	return s.inTx(ctx, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, fmt.Sprintf(`SET LOCAL lock_timeout = %d`, vacuumWait.Milliseconds())); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `DROP TABLE IF EXISTS `+partition)
		return err
	})
}
