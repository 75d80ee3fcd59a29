package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/apply"
)

var _ apply.Journal = (*Store)(nil)

// Begin moves an approved plan to applying and takes the lease of its jobs, all
// or none, each under a new epoch. With b.Resume it takes up a plan in applying or
// unclear, too. It returns *apply.HeldError while somebody else's lease of a job
// is good, or the plan that had it is still in applying: what that has begun may be
// half done. Else it returns *ExpiredError, *StateError, *apply.OvertakenError for a
// plan that was unclear and of whose job another has made something else, and
// *NotFoundError for a job that is not known.
func (s *Store) Begin(ctx context.Context, b apply.Beginning) (lease apply.Lease, err error) {
	now := micros(b.Now)
	_, err = s.changePlan(ctx, b.Plan, func(tx pgx.Tx, row *PlanRow) error {
		lease = apply.Lease{Plan: row.ID, Holder: b.Holder, Epochs: map[dhalion.JobID]int64{}}
		// Who holds a job comes before the plan's state: of many that race for one plan
		// the losers are told by whom it is applied.
		for _, job := range b.Jobs {
			if err := jobExists(ctx, tx, job); err != nil {
				return err
			}
			if _, err := tx.Exec(ctx, `INSERT INTO leases (job) VALUES ($1) ON CONFLICT DO NOTHING`, job); err != nil {
				return err
			}
			held, good, err := lockLease(ctx, tx, job)
			if err != nil {
				return err
			}
			if err := refuseHeld(ctx, tx, held, good, b, row.ID); err != nil {
				return err
			}
		}
		from := []dhalion.PlanState{dhalion.PlanApproved}
		if b.Resume {
			from = []dhalion.PlanState{dhalion.PlanApproved, dhalion.PlanApplying, dhalion.PlanUnclear}
		}
		if err := refuseExpired(ctx, tx, row, now); err != nil {
			return err
		}
		switch {
		case !slices.Contains(from, row.State):
			return &StateError{Plan: row.ID, State: row.State, Reason: row.Reason, To: dhalion.PlanApplying, Want: from}
		}
		if err := refuseOvertaken(ctx, tx, row); err != nil {
			return err
		}
		switch {
		case row.State == dhalion.PlanApplying:
			entry := LogEntry{At: now, Job: row.Job, Plan: row.ID, Event: "resumed", Detail: reason(b.Holder)}
			if err := appendLog(ctx, tx, entry); err != nil {
				return err
			}
		default:
			if err := setState(ctx, tx, row, from, dhalion.PlanApplying, "by "+b.Holder, "", now); err != nil {
				return err
			}
		}
		if b.Decided != "" {
			if err := appendLog(ctx, tx, LogEntry{At: now, Job: row.Job, Plan: row.ID, Person: b.Person, Event: "decided", Detail: reason(b.Decided)}); err != nil {
				return err
			}
		}
		for _, job := range b.Jobs {
			var epoch int64
			if err := tx.QueryRow(ctx, `UPDATE leases SET plan = $2, holder = $3, until = clock_timestamp() + $4::interval, epoch = epoch + 1 WHERE job = $1 RETURNING epoch`,
				job, row.ID, b.Holder, b.Length).Scan(&epoch); err != nil {
				return fmt.Errorf("store: take lease of %s: %w", job, err)
			}
			lease.Epochs[job] = epoch
		}
		return nil
	})
	if err != nil {
		return apply.Lease{}, err
	}
	return lease, nil
}

// refuseHeld returns *apply.HeldError when a job's lease, which is locked, keeps a
// plan out.
func refuseHeld(ctx context.Context, tx pgx.Tx, l Lease, good bool, b apply.Beginning, plan string) error {
	held := &apply.HeldError{Job: l.Job, Plan: l.Plan, Holder: l.Holder, Until: l.Until}
	switch {
	case l.Plan == "":
		return nil
	case l.Plan == plan && b.Dead != "" && l.Holder == b.Dead:
		return nil
	case good:
		return held
	case l.Plan == plan:
		return nil
	}
	var state dhalion.PlanState
	if err := tx.QueryRow(ctx, `SELECT state FROM plans WHERE id = $1`, l.Plan).Scan(&state); err != nil {
		return fmt.Errorf("store: read plan %s: %w", l.Plan, err)
	}
	if held.Over = state == dhalion.PlanApplying; held.Over {
		return held
	}
	return nil
}

// refuseOvertaken returns *apply.OvertakenError when another plan has acted on a
// plan's job since it did itself: an alert changes nothing. While a plan is in applying
// none can.
func refuseOvertaken(ctx context.Context, tx pgx.Tx, row *PlanRow) error {
	if row.State != dhalion.PlanUnclear {
		return nil
	}
	var by string
	err := tx.QueryRow(ctx, `
		SELECT j.plan FROM journal j JOIN plans p ON p.id = j.plan
		WHERE p.job = $2 AND j.plan <> $1 AND j.id > (SELECT max(id) FROM journal WHERE plan = $1)
			AND p.body::jsonb -> 'actions' -> j.action ->> 'kind' IS DISTINCT FROM $3 ORDER BY j.id DESC LIMIT 1`, row.ID, row.Job, dhalion.Alert).Scan(&by)
	switch {
	case err == nil:
		return &apply.OvertakenError{Plan: row.ID, Job: row.Job, By: by}
	case !errors.Is(err, pgx.ErrNoRows):
		return fmt.Errorf("store: read journal of %s: %w", row.Job, err)
	}
	return nil
}

// lockLease reads a job's lease so that nobody else changes it meanwhile; Plan is
// empty when it is free. Whether it is good is PostgreSQL's word: the clocks of two
// appliers may differ by more than a lease is long.
func lockLease(ctx context.Context, tx pgx.Tx, job dhalion.JobID) (l Lease, good bool, err error) {
	var until *time.Time
	err = tx.QueryRow(ctx, `SELECT job, coalesce(plan, ''), coalesce(holder, ''), epoch, until FROM leases WHERE job = $1 FOR UPDATE`, job).
		Scan(&l.Job, &l.Plan, &l.Holder, &l.Epoch, &until)
	if errors.Is(err, pgx.ErrNoRows) {
		return Lease{Job: job}, false, nil
	}
	if err == nil && until != nil {
		l.Until = *until
		good, err = isGood(ctx, tx, l)
	}
	if err != nil {
		return l, false, fmt.Errorf("store: read lease of %s: %w", job, err)
	}
	return l, good, nil
}

// isGood reports whether a lease's time is not over. It is asked for after the row is
// locked: to come by the lock may have taken longer than the lease was good for.
func isGood(ctx context.Context, tx pgx.Tx, l Lease) (good bool, err error) {
	err = tx.QueryRow(ctx, `SELECT $1 > clock_timestamp()`, l.Until).Scan(&good)
	return good, err
}

// mine checks that every job of a lease is still under its epoch, and locks the
// rows, in order of name.
func mine(ctx context.Context, tx pgx.Tx, l apply.Lease) error {
	for _, job := range sortedJobs(l.Epochs) {
		now, _, err := lockLease(ctx, tx, job)
		if err != nil {
			return err
		}
		if now.Epoch != l.Epochs[job] || now.Plan != l.Plan {
			by := now.Plan
			if by == l.Plan {
				by = "" // another process applies the same plan
			}
			return &apply.LostError{Plan: l.Plan, Job: job, By: by}
		}
	}
	return nil
}

func sortedJobs(epochs map[dhalion.JobID]int64) []dhalion.JobID {
	jobs := make([]dhalion.JobID, 0, len(epochs))
	for job := range epochs {
		jobs = append(jobs, job)
	}
	slices.Sort(jobs)
	return jobs
}

// Renew prolongs a lease by PostgreSQL's clock, to length from now. A lease whose time was over, and which
// nobody took, is prolonged as well. Else it returns *apply.LostError.
func (s *Store) Renew(ctx context.Context, l apply.Lease, length time.Duration) error {
	return s.inTx(ctx, func(tx pgx.Tx) error {
		if err := mine(ctx, tx, l); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `UPDATE leases SET until = greatest(until, clock_timestamp() + $2::interval) WHERE plan = $1`, l.Plan, length)
		if err != nil {
			return fmt.Errorf("store: renew leases of plan %s: %w", l.Plan, err)
		}
		return nil
	})
}

// Intend writes an intent under the lease, or returns *apply.LostError.
func (s *Store) Intend(ctx context.Context, l apply.Lease, action, attempt int, i apply.Intent, now time.Time) (id int64, err error) {
	call, err := json.Marshal(i)
	if err != nil {
		return 0, fmt.Errorf("store: journal of plan %s: %w", l.Plan, err)
	}
	err = s.inTx(ctx, func(tx pgx.Tx) error {
		if err := mine(ctx, tx, l); err != nil {
			return err
		}
		// The plan's own job stands for the lease; the others were checked above.
		return tx.QueryRow(ctx, `
			INSERT INTO journal (plan, action, attempt, step, epoch, at, call)
			SELECT p.id, $2, $3, 'intent', l.epoch, $4, $5 FROM plans p JOIN leases l ON l.job = p.job WHERE p.id = $1
			RETURNING id`, l.Plan, action, attempt, micros(now), call).Scan(&id)
	})
	var lost *apply.LostError
	if err != nil && !errors.As(err, &lost) {
		err = fmt.Errorf("store: journal of plan %s: write intent: %w", l.Plan, err)
	}
	return id, err
}

// Confirm writes what came of an intent. The same again changes nothing.
func (s *Store) Confirm(ctx context.Context, id int64, r apply.Result, now time.Time) error {
	result, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("store: journal: %w", err)
	}
	_, err = s.pool.Exec(ctx, `
		INSERT INTO journal (plan, action, attempt, step, intent, epoch, at, result)
		SELECT plan, action, attempt, 'confirm', id, epoch, $2, $3 FROM journal WHERE id = $1
		ON CONFLICT (plan, action, attempt, step) DO NOTHING`, id, micros(now), result)
	if err != nil {
		return fmt.Errorf("store: journal: confirm intent %d: %w", id, err)
	}
	return nil
}

// Entries are all attempts of a plan, by action and attempt.
func (s *Store) Entries(ctx context.Context, plan string) ([]apply.Entry, error) {
	rows, err := s.pool.Query(ctx, `
		SELECT i.id, i.action, i.attempt, i.at, i.call, c.result
		FROM journal i LEFT JOIN journal c ON c.intent = i.id
		WHERE i.plan = $1 AND i.step = 'intent' ORDER BY i.action, i.attempt`, plan)
	if err != nil {
		return nil, fmt.Errorf("store: read journal of plan %s: %w", plan, err)
	}
	entries, err := pgx.CollectRows(rows, attempted)
	if err != nil {
		return nil, fmt.Errorf("store: read journal of plan %s: %w", plan, err)
	}
	return entries, nil
}

// attempted is an attempt with what came of it.
func attempted(row pgx.CollectableRow) (e apply.Entry, err error) {
	err = row.Scan(&e.ID, &e.Action, &e.Attempt, &e.At, &e.Intent, &e.Result)
	return e, err
}

// End moves a plan from applying to a state, notes what came of its actions, and
// gives the lease back. It returns *apply.LostError when the lease is another's,
// and changes nothing then.
func (s *Store) End(ctx context.Context, l apply.Lease, to dhalion.PlanState, why string, outcomes []dhalion.Outcome, now time.Time) error {
	now = micros(now)
	_, err := s.changePlan(ctx, l.Plan, func(tx pgx.Tx, row *PlanRow) error {
		if err := mine(ctx, tx, l); err != nil {
			return err
		}
		if err := setState(ctx, tx, row, []dhalion.PlanState{dhalion.PlanApplying}, to, why, "", now); err != nil {
			return err
		}
		if err := noteOutcomes(ctx, tx, row.ID, outcomes); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `UPDATE leases SET plan = NULL, holder = NULL, until = NULL WHERE plan = $1`, row.ID)
		return err
	})
	return err
}

// Abort ends a plan that is applying or unclear, by a person's word, and gives
// its lease back. It returns *apply.HeldError while an applier holds the lease,
// unless that is the one of whom it is known that he is dead, and *StateError for any
// other plan. What was done stays done, and is noted: the outcomes.
func (s *Store) Abort(ctx context.Context, ref, person, why, dead string, outcomes []dhalion.Outcome, now time.Time) (*PlanRow, error) {
	now = micros(now)
	return s.changePlan(ctx, ref, func(tx pgx.Tx, row *PlanRow) error {
		rows, err := tx.Query(ctx, `SELECT job, plan, holder, epoch, until FROM leases WHERE plan = $1 ORDER BY job FOR UPDATE`, row.ID)
		if err != nil {
			return fmt.Errorf("store: read leases of plan %s: %w", row.ID, err)
		}
		held, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Lease])
		if err != nil {
			return fmt.Errorf("store: read leases of plan %s: %w", row.ID, err)
		}
		for _, l := range held {
			good, err := isGood(ctx, tx, l)
			if err != nil {
				return fmt.Errorf("store: read lease of %s: %w", l.Job, err)
			}
			if good && (dead == "" || l.Holder != dead) {
				return &apply.HeldError{Job: l.Job, Plan: l.Plan, Holder: l.Holder, Until: l.Until}
			}
		}
		from := []dhalion.PlanState{dhalion.PlanApplying, dhalion.PlanUnclear}
		if err := setState(ctx, tx, row, from, dhalion.PlanAborted, why, person, now); err != nil {
			return err
		}
		if err := noteOutcomes(ctx, tx, row.ID, outcomes); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `UPDATE leases SET plan = NULL, holder = NULL, until = NULL, epoch = epoch + 1 WHERE plan = $1`, row.ID)
		return err
	})
}
