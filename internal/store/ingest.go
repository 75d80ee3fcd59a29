package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/ingest"
)

// Input says what is ingested. It is not the content.
type Input struct {
	Name    string // as the user named it
	Hash    string // SHA-256 of the content, hex; empty (a live poll): never the same as another
	Format  string
	Options string // everything else that decides the result, such as --job; at most 1024 bytes
}

// Ingest stores what read hands out, all of it or nothing, in one transaction.
// When an input with this hash and these options is stored already, read is not
// called, nothing changes, and the report is the one of then.
//
// read may call the functions of its Out from one goroutine at a time, and not
// after it returned. Segments belong to the store from then on.
//
// Ingests do not wait for each other while they read, not even those of one job:
// one that follows a pipe for an hour does not hold up the poll of an engine.
// Only their ends are in line. There, under one lock that the commit gives back,
// an ingest gets its sequence number and writes its jobs: the order of sequence
// numbers is the order of commits (see inputs in the migration for why that
// matters), and no cycle of waiting can form between inputs of several jobs,
// because every ingest takes this lock last. A lock per job, taken when its first
// segment comes, could deadlock and a stream cannot be read twice. What it costs:
// commits of ingests cannot share a disk flush, so there are at most some
// hundreds of ingests a second.
func (s *Store) Ingest(ctx context.Context, in Input, read func(context.Context, ingest.Out) (ingest.Report, error)) (rep ingest.Report, already bool, err error) {
	var wrote *receiver
	err = s.inTx(ctx, func(tx pgx.Tx) error {
		// Statements here wait: for the same input, for the end of the line.
		if _, err := tx.Exec(ctx, `SET LOCAL statement_timeout = 0`); err != nil {
			return err
		}
		var id int64
		err := tx.QueryRow(ctx, `
			INSERT INTO inputs (name, hash, format, options) VALUES ($1, $2, $3, $4)
			ON CONFLICT (hash, options) WHERE hash <> '' AND forgotten_at IS NULL DO NOTHING
			RETURNING id`, in.Name, in.Hash, in.Format, in.Options).Scan(&id)
		if errors.Is(err, pgx.ErrNoRows) {
			already = true
			rep, err = report(ctx, tx, in)
			return err
		}
		if err != nil {
			return err
		}
		wrote = &receiver{store: s, tx: tx, input: id, jobs: map[dhalion.JobID]bool{}, days: map[string]time.Time{}}
		rep, err = wrote.receive(ctx, read)
		return err
	})
	if err != nil {
		return ingest.Report{}, false, fmt.Errorf("store: ingest %s: %w", in.Name, err)
	}
	if wrote != nil && !s.untidy {
		// It is stored, whatever becomes of this; see tidyUp.
		_ = s.tidyUp(ctx, slices.Collect(maps.Keys(wrote.jobs)), slices.Collect(maps.Values(wrote.days)))
	}
	return rep, already, nil
}

// receiver writes what comes for one input. Its methods run on one goroutine,
// beside the one that reads: decoding the next segment and writing this one
// overlap.
type receiver struct {
	store *Store
	tx    pgx.Tx
	input int64
	jobs  map[dhalion.JobID]bool
	days  map[string]time.Time // whose partition is known to exist
	side  *pgx.Conn            // for making partitions; opened when needed
}

// queued is how many segments may wait to be written: some MiB each.
const queued = 2

func (r *receiver) receive(ctx context.Context, read func(context.Context, ingest.Out) (ingest.Report, error)) (ingest.Report, error) {
	defer r.close(ctx)

	reading, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	work := make(chan func() error, queued)
	done := make(chan struct{})
	var failed error // of the writer; read when it is done
	go func() {
		defer close(done)
		for do := range work {
			if failed != nil {
				continue // so that nobody waits to hand over more
			}
			if failed = do(); failed != nil {
				stop(failed)
			}
		}
	}()
	hand := func(ctx context.Context, do func() error) error {
		if err := context.Cause(reading); err != nil {
			return err
		}
		select {
		case work <- do:
			return nil
		case <-reading.Done():
			return context.Cause(reading)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	rep, err := func() (ingest.Report, error) {
		// Also when read panics: the writer must end before the transaction does.
		defer func() { close(work); <-done }()
		return read(reading, ingest.Out{
			Segment: func(c context.Context, seg dhalion.Segment) error {
				return hand(c, func() error { return r.segment(ctx, seg) })
			},
			Topology: func(c context.Context, job dhalion.JobID, t dhalion.Topology) error {
				return hand(c, func() error { return r.topology(ctx, job, t) })
			},
		})
	}()
	if failed != nil {
		return rep, failed // what read returned follows from it
	}
	if err != nil {
		return rep, err
	}
	return rep, r.finish(ctx, rep)
}

func (r *receiver) close(ctx context.Context) {
	if r.side != nil {
		r.side.Close(context.WithoutCancel(ctx))
	}
}

func (r *receiver) segment(ctx context.Context, seg dhalion.Segment) error {
	switch {
	case !seg.Kind.Valid():
		return fmt.Errorf("segment of an unknown kind %q", seg.Kind)
	case len(seg.Bytes) == 0 || seg.Hash == "":
		return fmt.Errorf("segment of %s without bytes or hash", seg.Job)
	}
	if err := r.job(seg.Job); err != nil {
		return err
	}
	day := seg.From.UTC().Truncate(24 * time.Hour)
	partition, err := r.partition(ctx, day)
	if err != nil {
		return err
	}
	// Into the partition itself: a transaction that has the parent locked does
	// not look for partitions that others have made since. The same bytes twice
	// in one input are one segment.
	_, err = r.tx.Exec(ctx, `
		INSERT INTO `+partition+` (day, job, kind, input, from_time, to_time, row_count, value_count, hash, bytes)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
		ON CONFLICT DO NOTHING`,
		day, seg.Job, seg.Kind, r.input, micros(seg.From), micros(seg.To), seg.Rows, seg.Values, seg.Hash, seg.Bytes)
	if err != nil {
		return fmt.Errorf("write segment of %s: %w", seg.Job, err)
	}
	return nil
}

func (r *receiver) topology(ctx context.Context, job dhalion.JobID, t dhalion.Topology) error {
	if err := r.job(job); err != nil {
		return err
	}
	t.From = micros(t.From)
	body, err := json.Marshal(t)
	if err != nil {
		return fmt.Errorf("topology of %s: %w", job, err)
	}
	// Within one input the last one said for a time holds.
	_, err = r.tx.Exec(ctx, `
		INSERT INTO topologies (job, from_time, input, digest, body) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (job, from_time, input) DO UPDATE SET digest = excluded.digest, body = excluded.body`,
		job, t.From, r.input, t.Digest(), body)
	if err != nil {
		return fmt.Errorf("write topology of %s: %w", job, err)
	}
	return nil
}

func (r *receiver) job(job dhalion.JobID) error {
	if r.jobs[job] {
		return nil
	}
	if job.Engine() == "" || job.Name() == "" {
		return fmt.Errorf("job id %q is not ENGINE/NAME", job)
	}
	r.jobs[job] = true
	return nil
}

// lockInputs is the end of the line: who has it is the only one to end an ingest,
// or to forget a job.
const lockInputs = `SELECT pg_advisory_xact_lock('inputs'::regclass::oid::int4, 0)`

// finish takes the place at the end of the line and closes the input's row.
func (r *receiver) finish(ctx context.Context, rep ingest.Report) error {
	if _, err := r.tx.Exec(ctx, lockInputs); err != nil {
		return fmt.Errorf("wait to commit: %w", err)
	}
	jobs := slices.Sorted(maps.Keys(r.jobs))
	var engines, names []string
	for _, job := range jobs {
		engines, names = append(engines, job.Engine()), append(names, job.Name())
	}
	if _, err := r.tx.Exec(ctx, `
		INSERT INTO jobs (id, engine, name) SELECT * FROM unnest($1::text[], $2::text[], $3::text[])
		ON CONFLICT DO NOTHING`, texts(jobs), engines, names); err != nil {
		return fmt.Errorf("write jobs: %w", err)
	}
	repairs, skipped := rep.Repairs, rep.Skipped
	if repairs == nil {
		repairs = map[string]int{}
	}
	if skipped == nil {
		skipped = []ingest.RowError{}
	}
	repairsJSON, err := json.Marshal(repairs)
	if err != nil {
		return fmt.Errorf("repairs: %w", err)
	}
	skippedJSON, err := json.Marshal(skipped)
	if err != nil {
		return fmt.Errorf("skipped rows: %w", err)
	}
	// max is over what is committed: the lock was taken by an earlier statement.
	_, err = r.tx.Exec(ctx, `
		UPDATE inputs SET seq = (SELECT coalesce(max(seq), 0) + 1 FROM inputs),
		       jobs = $2, row_count = $3, value_count = $4, segment_count = $5, target_count = $6, conflict_count = $7,
		       repairs = $8, skipped = $9, from_time = $10, to_time = $11
		WHERE id = $1`,
		r.input, texts(jobs), rep.Rows, rep.Values, rep.Segments, rep.Targets, rep.Conflicts,
		repairsJSON, skippedJSON, known(rep.From), known(rep.To))
	if err != nil {
		return fmt.Errorf("write input: %w", err)
	}
	return nil
}

// partition makes sure that a day has one and returns its name.
//
// It is made in a transaction of its own, over a connection of its own: within
// the ingest's it would stay locked until the ingest ends, and the pool may have
// no connection left when every one of them is held by an ingest that asks for
// one more. An empty partition that outlives a failed ingest holds nothing of it.
// ATTACH, unlike CREATE TABLE … PARTITION OF, lets others read and write on.
func (r *receiver) partition(ctx context.Context, day time.Time) (string, error) {
	name := partitionName(day)
	if _, known := r.days[name]; known {
		return name, nil
	}
	const exists = `SELECT EXISTS (SELECT FROM pg_inherits WHERE inhparent = 'segments'::regclass AND inhrelid = to_regclass($1))`
	var there bool
	if err := r.tx.QueryRow(ctx, exists, name).Scan(&there); err != nil {
		return "", fmt.Errorf("look for partition %s: %w", name, err)
	}
	if !there {
		if err := r.attach(ctx, name, exists, day); err != nil {
			return "", fmt.Errorf("make partition %s: %w", name, err)
		}
	}
	r.days[name] = day
	return name, nil
}

// partitionSQL makes a day's partition, named as partitionName says.
func partitionSQL(day time.Time) string {
	next := day.AddDate(0, 0, 1) // its year may be 10000, which time.DateOnly cannot write
	return fmt.Sprintf(`
		CREATE TABLE %[1]s (LIKE segments INCLUDING ALL);
		ALTER TABLE segments ATTACH PARTITION %[1]s FOR VALUES FROM ('%[2]s') TO ('%04[3]d-%02[4]d-%02[5]d')`,
		partitionName(day), day.Format(time.DateOnly), next.Year(), next.Month(), next.Day())
}

// partitionName is the table that has a UTC day's segments.
func partitionName(day time.Time) string { return "segments_" + day.Format("20060102") }

func (r *receiver) attach(ctx context.Context, name, exists string, day time.Time) (err error) {
	if r.side == nil {
		if r.side, err = pgx.ConnectConfig(ctx, r.store.pool.Config().ConnConfig); err != nil {
			return err
		}
	}
	return pgx.BeginFunc(ctx, r.side, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock('segments'::regclass::oid::int4, 0)`); err != nil {
			return err
		}
		var there bool
		if err := tx.QueryRow(ctx, exists, name).Scan(&there); err != nil || there {
			return err
		}
		_, err := tx.Exec(ctx, partitionSQL(day))
		return err
	})
}

// report is what was reported when the input was stored.
func report(ctx context.Context, tx pgx.Tx, in Input) (rep ingest.Report, err error) {
	var jobs []string
	var repairs, skipped []byte
	var from, to *time.Time
	err = tx.QueryRow(ctx, `
		SELECT jobs, row_count, value_count, segment_count, target_count, conflict_count, repairs, skipped, from_time, to_time
		FROM inputs WHERE hash = $1 AND options = $2 AND forgotten_at IS NULL`, in.Hash, in.Options).
		Scan(&jobs, &rep.Rows, &rep.Values, &rep.Segments, &rep.Targets, &rep.Conflicts, &repairs, &skipped, &from, &to)
	if err != nil {
		return rep, err
	}
	for _, job := range jobs {
		rep.Jobs = append(rep.Jobs, dhalion.JobID(job))
	}
	if from != nil && to != nil {
		rep.From, rep.To = *from, *to
	}
	return rep, errors.Join(json.Unmarshal(repairs, &rep.Repairs), json.Unmarshal(skipped, &rep.Skipped))
}

// known is a time for a column in which NULL is no time.
func known(at time.Time) *time.Time {
	if at.IsZero() {
		return nil
	}
	at = micros(at)
	return &at
}

func texts[T ~string](in []T) []string {
	out := make([]string, len(in))
	for i, v := range in {
		out[i] = string(v)
	}
	return out
}
