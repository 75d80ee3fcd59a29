package store

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sync/errgroup"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/ingest/segment"
)

// CompactOptions says what is compacted, and how far.
type CompactOptions struct {
	Job dhalion.JobID // empty: every job
	// Shrink gives the room that the old segments leave back to the file system.
	// For that the partitions of which more than a quarter is free are rewritten,
	// during which nobody reads or writes those days. One that is in use is left.
	Shrink bool
	// Progress is told how many of the segments have been looked at; may be nil.
	Progress func(done, total int)
}

// CompactReport is what a compaction did. Bytes are those of segments, Disk is
// what the partitions that were touched take with all that belongs to them.
type CompactReport struct {
	Merges         int   `json:"merges"`          // transactions that replaced segments
	SegmentsBefore int   `json:"segments_before"` // of the jobs that were looked at
	SegmentsAfter  int   `json:"segments_after"`  //
	ValuesRead     int64 `json:"values_read"`     // in the segments that were replaced
	ValuesWritten  int64 `json:"values_written"`  // in those that replace them
	BytesDead      int64 `json:"bytes_dead"`      // of the segments that were replaced
	BytesWritten   int64 `json:"bytes_written"`   //
	DiskBefore     int64 `json:"disk_before"`     //
	DiskAfter      int64 `json:"disk_after"`      //
	// NotShrunk are the partitions that were in use.
	NotShrunk []string `json:"not_shrunk"`
}

// compactor says how much is done at once; tests make it less.
type compactor struct {
	store *Store
	plan  func([]entry) []entry
	cells int // of one merge: what it holds decoded at once
	most  int // cells that one merge may have altogether
	// yields: when another caller changes the history, it leaves that to them.
	yields bool
}

// passCells are decoded at once: 32 MiB, and as much again merged.
const passCells = 8 * segment.MaxCells

// Compact merges the segments of a job, kind of target and day until none
// overlap in time and no two neighbours fit into one. What History returns stays
// the same, bit by bit.
//
// Each merge is a transaction of its own, so a compaction that is killed has
// done its part and loses nothing. One job is compacted by one caller at a time;
// ingests and readers do not wait for it, and an ingest that commits meanwhile
// wins as it would have, because its sequence number is greater than all that are
// merged. Memory is bounded, however large a day is.
//
// It returns *NotFoundError for a job that is not known.
func (s *Store) Compact(ctx context.Context, opts CompactOptions) (CompactReport, error) {
	c := compactor{store: s, plan: planAll, cells: passCells, most: math.MaxInt}
	rep, err := c.run(ctx, opts)
	if err != nil {
		return rep, fmt.Errorf("store: compact: %w", err)
	}
	return rep, nil
}

// pile is the segments of one job, kind and day.
type pile struct {
	job  dhalion.JobID
	kind dhalion.TargetKind
	day  time.Time
	n    int
}

func (p pile) partition() string { return partitionName(p.day) }

func (c *compactor) run(ctx context.Context, opts CompactOptions) (rep CompactReport, err error) {
	rep.NotShrunk = []string{}
	piles, err := c.piles(ctx, opts.Job)
	if err != nil {
		return rep, err
	}
	total, done := 0, 0
	for _, p := range piles {
		total += p.n
	}
	rep.SegmentsBefore, rep.SegmentsAfter = total, total
	for start := 0; start < len(piles); {
		end := start
		for end < len(piles) && piles[end].day.Equal(piles[start].day) {
			end++
		}
		// One day after the other: a day's room is given back before the next takes
		// more.
		if err := c.day(ctx, opts, piles[start:end], &rep, func(n int) {
			done += n
			if opts.Progress != nil {
				opts.Progress(done, total)
			}
		}); err != nil {
			return rep, err
		}
		start = end
	}
	return rep, nil
}

func (c *compactor) piles(ctx context.Context, job dhalion.JobID) (piles []pile, err error) {
	err = pgx.BeginTxFunc(ctx, c.store.pool, reading, func(tx pgx.Tx) error {
		if job != "" {
			if err := jobExists(ctx, tx, job); err != nil {
				return err
			}
		}
		rows, err := tx.Query(ctx, `
			SELECT job, kind, day, count(*) FROM segments WHERE $1 = '' OR job = $1
			GROUP BY job, kind, day ORDER BY day, job COLLATE "C", kind`, job)
		if err != nil {
			return err
		}
		piles, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (p pile, err error) {
			err = row.Scan(&p.job, &p.kind, &p.day, &p.n)
			return p, err
		})
		return err
	})
	return piles, err
}

// day compacts the piles of one day and looks after its partition.
func (c *compactor) day(ctx context.Context, opts CompactOptions, piles []pile, rep *CompactReport, looked func(int)) error {
	partition := piles[0].partition()
	var before, dead, sinceVacuum int64
	for _, p := range piles {
		for p.n > 1 {
			r, err := c.merge(ctx, p)
			if err != nil {
				return fmt.Errorf("%s %s of %s: %w", p.job, p.kind, p.day.Format(time.DateOnly), err)
			}
			if r.replaced == 0 {
				break
			}
			if before == 0 {
				before = r.disk
			}
			rep.Merges++
			rep.SegmentsAfter += r.written - r.replaced
			rep.ValuesRead += r.valuesRead
			rep.ValuesWritten += r.valuesWritten
			rep.BytesDead += r.bytesDead
			rep.BytesWritten += r.bytesWritten
			dead += r.bytesDead
			sinceVacuum += r.bytesDead
			// What is free soon is filled by the next merge: a day grows by a part of
			// itself instead of to its double.
			if sinceVacuum > max(16<<20, before/8) {
				sinceVacuum = 0
				if err := c.store.vacuum(ctx, partition, false); err != nil {
					return err
				}
			}
		}
		looked(p.n)
	}
	if dead > 0 {
		if err := c.store.vacuum(ctx, partition, false); err != nil {
			return err
		}
	}
	var live, after int64
	err := c.store.pool.QueryRow(ctx, `
		SELECT coalesce(sum(octet_length(bytes)), 0), coalesce(pg_total_relation_size(to_regclass($2)), 0)
		FROM segments WHERE day = $1`, piles[0].day, partition).Scan(&live, &after)
	if err != nil {
		return err
	}
	// TOAST has 4 rows of 1996 bytes a page, and an index; a quarter of a MiB more is
	// for what even an almost empty partition has.
	if need := live + live/16 + 256<<10; opts.Shrink && after-need > after/4 {
		if before == 0 {
			before = after
		}
		switch err := c.store.vacuum(ctx, partition, true); {
		case isLockTimeout(err):
			rep.NotShrunk = append(rep.NotShrunk, partition)
		case err != nil:
			return err
		}
		if err := c.store.pool.QueryRow(ctx, `SELECT coalesce(pg_total_relation_size(to_regclass($1)), 0)`, partition).Scan(&after); err != nil {
			return err
		}
	}
	if before > 0 {
		rep.DiskBefore += before
		rep.DiskAfter += after
	}
	return nil
}

// merged is what one merge did; the zero value says that there was nothing to do.
type merged struct {
	replaced, written         int
	valuesRead, valuesWritten int64
	bytesDead, bytesWritten   int64
	disk                      int64 // of the partition before
}

// merge replaces the next segments of a pile, if any, in one transaction.
func (c *compactor) merge(ctx context.Context, p pile) (r merged, err error) {
	err = c.store.inTx(ctx, func(tx pgx.Tx) error {
		r = merged{}
		if _, err := tx.Exec(ctx, `SET LOCAL statement_timeout = 0`); err != nil {
			return err
		}
		if c.yields {
			var free bool
			if err := tx.QueryRow(ctx, `SELECT pg_try_advisory_xact_lock(`+historyLock+`)`, p.job).Scan(&free); err != nil || !free {
				return err
			}
		} else if err := lockHistory(ctx, tx, p.job); err != nil {
			return err
		}
		list, err := entries(ctx, tx, p)
		if err != nil {
			return err
		}
		group := c.plan(list)
		cells := 0
		for i := range group {
			cells += group[i].cells()
		}
		if len(group) < 2 || cells > c.most {
			return nil
		}
		if err := tx.QueryRow(ctx, `SELECT pg_total_relation_size(to_regclass($1))`, p.partition()).Scan(&r.disk); err != nil {
			return err
		}
		return c.replace(ctx, tx, p, group, cells, &r)
	})
	return r, err
}

// historyLock is the key of an advisory lock; $1 is the job.
const historyLock = `'segments'::regclass::oid::int4, hashtext($1)`

// lockHistory makes the caller the only one who replaces or removes segments of
// a job that are there, until its transaction ends. Ingests only add.
func lockHistory(ctx context.Context, tx pgx.Tx, job dhalion.JobID) error {
	if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock(`+historyLock+`)`, job); err != nil {
		return fmt.Errorf("wait for who else changes the history of %s: %w", job, err)
	}
	return nil
}

// entries lists a pile's segments as committed, in order of time.
func entries(ctx context.Context, tx pgx.Tx, p pile) ([]entry, error) {
	rows, err := tx.Query(ctx, `
		SELECT s.input, s.hash, i.seq, s.from_time, s.to_time, s.row_count, s.value_count, octet_length(s.bytes), s.filled
		FROM segments s JOIN inputs i ON i.id = s.input
		WHERE s.job = $1 AND s.kind = $2 AND s.day = $3`, p.job, p.kind, p.day)
	if err != nil {
		return nil, err
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (e entry, err error) {
		var from, to time.Time
		err = row.Scan(&e.input, &e.hash, &e.seq, &from, &to, &e.rows, &e.values, &e.size, &e.filled)
		e.from, e.to = from.UnixMicro(), to.UnixMicro()
		return e, err
	})
	sortEntries(list)
	return list, err
}

// replace writes the merger of a group and removes the group.
//
// A group that is too large to hold is cut by time: each pass decodes what
// overlaps its stretch and keeps the rows within. The last, unfilled part of a
// pass goes on into the next.
func (c *compactor) replace(ctx context.Context, tx pgx.Tx, p pile, group []entry, cells int, r *merged) error {
	w := writer{tx: tx, pile: p, into: group[0], wrote: map[string]bool{}, report: r}
	for _, e := range group {
		if e.seq > w.into.seq {
			w.into = e
		}
		r.replaced++
		r.valuesRead += int64(e.values)
		r.bytesDead += e.size
	}
	var carry *segment.Table
	stretches := passes(group, (cells+c.cells-1)/c.cells)
	for _, s := range stretches {
		layers, err := s.layers(ctx, tx, p, group)
		if err != nil {
			return err
		}
		if carry != nil {
			layers = append(layers, segment.Layer{Table: carry, Seq: w.into.seq})
			carry = nil
		}
		if len(layers) == 0 {
			continue
		}
		table, _, err := segment.Merge(layers)
		if err != nil {
			return err
		}
		parts := segment.Split(table)
		last := len(parts) - 1
		for _, part := range parts[:last] {
			if err := w.write(ctx, part, true); err != nil {
				return err
			}
		}
		carry = parts[last]
	}
	if carry != nil {
		if err := w.write(ctx, carry, false); err != nil {
			return err
		}
	}
	return w.remove(ctx, group)
}

// writer writes the segments that replace a group.
type writer struct {
	tx     pgx.Tx
	pile   pile
	into   entry           // the one with the greatest seq, whose input they get
	wrote  map[string]bool // their hashes
	report *merged
}

func (w *writer) write(ctx context.Context, t *segment.Table, filled bool) error {
	seg, err := segment.Encode(t)
	if err != nil {
		return err
	}
	// It may be what is there already: then only its mark is new.
	_, err = w.tx.Exec(ctx, `
		INSERT INTO `+w.pile.partition()+` (day, job, kind, input, from_time, to_time, row_count, value_count, hash, bytes, filled)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
		ON CONFLICT (job, kind, day, input, hash) DO UPDATE SET filled = excluded.filled`,
		w.pile.day, seg.Job, seg.Kind, w.into.input, seg.From, seg.To, seg.Rows, seg.Values, seg.Hash, seg.Bytes, filled)
	if err != nil {
		return fmt.Errorf("write segment: %w", err)
	}
	w.wrote[seg.Hash] = true
	w.report.written++
	w.report.valuesWritten += int64(seg.Values)
	w.report.bytesWritten += int64(len(seg.Bytes))
	return nil
}

// remove deletes the group but for what was written again as it was.
func (w *writer) remove(ctx context.Context, group []entry) error {
	var inputs []int64
	var hashes []string
	for _, e := range group {
		if e.input == w.into.input && w.wrote[e.hash] {
			continue
		}
		inputs, hashes = append(inputs, e.input), append(hashes, e.hash)
	}
	tag, err := w.tx.Exec(ctx, `
		DELETE FROM `+w.pile.partition()+` s USING unnest($3::bigint[], $4::text[]) AS old (input, hash)
		WHERE s.job = $1 AND s.kind = $2 AND s.input = old.input AND s.hash = old.hash`,
		w.pile.job, w.pile.kind, inputs, hashes)
	if err != nil {
		return fmt.Errorf("remove segments: %w", err)
	}
	if n := int(tag.RowsAffected()); n != len(hashes) {
		return fmt.Errorf("remove segments: %d of %d are gone already", len(hashes)-n, len(hashes))
	}
	return nil
}

// stretch is the times (after, upTo], in microseconds.
type stretch struct{ after, upTo int64 }

// passes cuts a group's time into n stretches of about equal cells, as far as a
// catalogue tells: each segment counts as spread evenly over its time.
func passes(group []entry, n int) []stretch {
	from, to := group[0].from, group[0].to
	total := 0.0
	for _, e := range group {
		from, to = min(from, e.from), max(to, e.to)
		total += float64(e.cells())
	}
	before := func(at int64) (cells float64) { // that are at or before a time
		for _, e := range group {
			switch {
			case at >= e.to:
				cells += float64(e.cells())
			case at >= e.from:
				cells += float64(e.cells()) * float64(at-e.from) / float64(e.to-e.from)
			}
		}
		return cells
	}
	out := []stretch{{from - 1, to}}
	for i := 1; i < n; i++ {
		lo, hi := out[len(out)-1].after+1, to
		for lo < hi { // the first time with its share before it
			mid := lo + (hi-lo)/2
			if before(mid) < total*float64(i)/float64(n) {
				lo = mid + 1
			} else {
				hi = mid
			}
		}
		if lo >= to {
			break
		}
		out[len(out)-1].upTo = lo
		out = append(out, stretch{lo, to})
	}
	return out
}

// layers decodes what a group has in a stretch.
func (s stretch) layers(ctx context.Context, tx pgx.Tx, p pile, group []entry) ([]segment.Layer, error) {
	var inputs []int64
	var hashes []string
	for _, e := range group {
		if e.to > s.after && e.from <= s.upTo {
			inputs, hashes = append(inputs, e.input), append(hashes, e.hash)
		}
	}
	rows, err := tx.Query(ctx, `
		SELECT i.seq, s.from_time, s.to_time, s.row_count, s.hash, s.bytes
		FROM `+p.partition()+` s JOIN inputs i ON i.id = s.input
		JOIN unnest($3::bigint[], $4::text[]) AS old (input, hash) ON s.input = old.input AND s.hash = old.hash
		WHERE s.job = $1 AND s.kind = $2`, p.job, p.kind, inputs, hashes)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	after, upTo := time.UnixMicro(s.after).UTC(), time.UnixMicro(s.upTo).UTC()
	var mu sync.Mutex
	var layers []segment.Layer
	n := 0
	decoders, _ := errgroup.WithContext(ctx)
	decoders.SetLimit(runtime.GOMAXPROCS(0))
	for rows.Next() {
		seg := dhalion.Segment{Job: p.job, Kind: p.kind}
		if err := rows.Scan(&seg.Seq, &seg.From, &seg.To, &seg.Rows, &seg.Hash, &seg.Bytes); err != nil {
			return nil, errors.Join(err, decoders.Wait())
		}
		n++
		decoders.Go(func() error {
			table, err := segment.Decode(seg)
			if err != nil {
				return fmt.Errorf("segment %s of %s: %w", seg.Hash, seg.From.Format(time.RFC3339), err)
			}
			if table = segment.Between(table, after, upTo); table.Rows() == 0 {
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			layers = append(layers, segment.Layer{Table: table, Seq: seg.Seq})
			return nil
		})
	}
	if err := errors.Join(rows.Err(), decoders.Wait()); err != nil {
		return nil, err
	}
	if n != len(hashes) {
		return nil, fmt.Errorf("read segments: %d of %d are gone", len(hashes)-n, len(hashes))
	}
	return layers, nil
}

// vacuum frees what removed segments took, for new ones of the same day; wholly,
// it rewrites the partition and gives the room back. Then it returns at once,
// with an error that isLockTimeout knows, when the partition is in use.
func (s *Store) vacuum(ctx context.Context, partition string, wholly bool) error {
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	var lock, statement string
	if err := conn.QueryRow(ctx, `
		SELECT current_setting('lock_timeout'), current_setting('statement_timeout'),
		       set_config('lock_timeout', $1, false), set_config('statement_timeout', '0', false)`,
		fmt.Sprint(vacuumWait.Milliseconds())).Scan(&lock, &statement, nil, nil); err != nil {
		return err
	}
	how := ""
	if wholly {
		how = "(FULL) "
	}
	_, err = conn.Exec(ctx, `VACUUM `+how+partition)
	if undefinedTable(err) || !wholly && isLockTimeout(err) {
		err = nil // retention dropped it; or another one vacuums it
	}
	// Also when ctx has ended: the connection goes back to the pool.
	_, e := conn.Exec(context.WithoutCancel(ctx), `
		SELECT set_config('lock_timeout', $1, false), set_config('statement_timeout', $2, false)`, lock, statement)
	if err == nil {
		err = e
	}
	if err != nil {
		return fmt.Errorf("vacuum %s: %w", partition, err)
	}
	return nil
}

// vacuumWait is how long a rewrite waits for the readers of a day, who wait
// behind it meanwhile.
const vacuumWait = 2 * time.Second

func isLockTimeout(err error) bool { return hasCode(err, "55P03") }

func undefinedTable(err error) bool { return hasCode(err, "42P01") }

// hasCode reports whether err is PostgreSQL's of that SQLSTATE.
func hasCode(err error, code string) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == code
}

// After an ingest, what is worth merging in the days it wrote to is merged, so
// that live polls do not pile up. It is bounded work: at most autoMerges merges
// of at most autoCells each, only days with at least fan segments of a kind, and
// none at all while another caller changes the job's history.
const (
	autoMerges = 4
	autoCells  = 4 * segment.MaxCells
)

// tidyUp is that. What goes wrong in it is left to the next ingest or to
// Compact, which report nothing less: the ingest itself is stored.
func (s *Store) tidyUp(ctx context.Context, jobs []dhalion.JobID, days []time.Time) error {
	rows, err := s.pool.Query(ctx, `
		SELECT job, kind, day, count(*) FROM segments WHERE job = ANY ($1) AND day = ANY ($2)
		GROUP BY job, kind, day HAVING count(*) >= $3`, texts(jobs), days, fan)
	if err != nil {
		return err
	}
	piles, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (p pile, err error) {
		err = row.Scan(&p.job, &p.kind, &p.day, &p.n)
		return p, err
	})
	if err != nil {
		return err
	}
	c := compactor{store: s, plan: planSome, cells: passCells, most: autoCells, yields: true}
	for _, p := range piles {
		for range autoMerges {
			if r, err := c.merge(ctx, p); err != nil || r.replaced == 0 {
				return err
			}
		}
	}
	return nil
}
