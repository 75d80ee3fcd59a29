package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/dhalion-go/dhalion"
)

// NewPlan is a plan document to be stored.
type NewPlan struct {
	ID       string // the first 12 hex digits of Digest
	Digest   string // SHA-256 of the canonical body, hex
	Job      dhalion.JobID
	AsOf     time.Time
	ValidFor time.Duration
	Author   string
	Reverses string // id of the plan that this one rolls back; empty: none
	Body     []byte // the document, byte for byte; UTF-8
	// Policy says, as a JSON object, how the policy came about; nil: nothing is noted.
	// It is logged as EventPolicy, unless the plan's newest such entry says the same.
	Policy json.RawMessage
}

// EventPolicy is the log's entry that says which policy a plan was made by.
const EventPolicy = "policy"

// PlanRow is a stored plan and where it stands. Body is byte for byte what was
// saved.
type PlanRow struct {
	ID         string
	Digest     string
	Job        dhalion.JobID
	AsOf       time.Time
	Body       []byte
	Reverses   string
	Author     string
	Round      int // how often it was proposed
	ProposedAt time.Time
	ValidFor   time.Duration
	ExpiresAt  time.Time
	State      dhalion.PlanState
	StateSince time.Time
	Reason     string             // why it is in State; may be empty
	Approvals  []dhalion.Approval // those of this round, by time and person
}

// StateAt is the plan's state at a time: one that still waits for approval or
// for being applied is expired when its time is over, though nobody has noted it
// yet.
func (p *PlanRow) StateAt(now time.Time) dhalion.PlanState {
	if (p.State == dhalion.PlanProposed || p.State == dhalion.PlanApproved) && !now.Before(p.ExpiresAt) {
		return dhalion.PlanExpired
	}
	return p.State
}

// PlanFilter says which plans are wanted; an empty field does not restrict.
type PlanFilter struct {
	Job      dhalion.JobID
	States   []dhalion.PlanState
	Reverses string // the full id of the plan that they undo
}

// SavePlan stores a plan as proposed at now. Planning the same again finds the
// same row: it keeps its state, author and expiry, and proposed is false. The
// exception is a plan that has expired or gone stale. Planning gave it again, so
// it answers to the present state: it is proposed once more, with a new expiry
// and without its old approvals. One that a person discarded stays discarded.
//
// It returns *DigestError when another plan has this id, and *NotFoundError for
// a job that is not known. The plan and what is logged of it are there both or not
// at all.
func (s *Store) SavePlan(ctx context.Context, p NewPlan, now time.Time) (row *PlanRow, proposed bool, err error) {
	now = micros(now)
	validFor := p.ValidFor.Truncate(time.Microsecond)
	if !strings.HasPrefix(p.Digest, p.ID) || len(p.ID) != 12 {
		return nil, false, fmt.Errorf("store: save plan %s: the id does not begin the digest %s", p.ID, p.Digest)
	}
	save := func(tx pgx.Tx) error {
		if err := jobExists(ctx, tx, p.Job); err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, `
			INSERT INTO plans (id, digest, job, as_of, body, reverses, author, proposed_at, valid_for, expires_at, state_since)
			VALUES ($1, $2, $3, $4, $5, nullif($6, ''), $7, $8, $9, $10, $8)
			ON CONFLICT (id) DO NOTHING`,
			p.ID, p.Digest, p.Job, micros(p.AsOf), string(p.Body), p.Reverses, p.Author, now, validFor, now.Add(validFor))
		if err != nil {
			return err
		}
		proposed = tag.RowsAffected() == 1
		row, err = lockPlan(ctx, tx, p.ID)
		if err != nil {
			return err
		}
		if row.Digest != p.Digest {
			return &DigestError{Plan: p.ID, Stored: row.Digest, Given: p.Digest}
		}
		if string(row.Body) != string(p.Body) {
			return fmt.Errorf("another document has the digest %s", p.Digest)
		}
		if proposed {
			return logState(ctx, tx, row, p.Author, now)
		}
		if row.State != dhalion.PlanExpired && row.StateAt(now) == dhalion.PlanExpired {
			if err := expire(ctx, tx, row, now); err != nil {
				return err
			}
		}
		if row.State != dhalion.PlanExpired && row.State != dhalion.PlanStale {
			return nil
		}
		proposed = true
		if _, err := tx.Exec(ctx, `
			UPDATE plans SET state = 'proposed', state_since = $2, state_reason = 'planned again', round = round + 1,
			       author = $3, proposed_at = $2, valid_for = $4, expires_at = $5, approved_by = NULL
			WHERE id = $1`, p.ID, now, p.Author, validFor, now.Add(validFor)); err != nil {
			return err
		}
		if row, err = lockPlan(ctx, tx, p.ID); err != nil {
			return err
		}
		return logState(ctx, tx, row, p.Author, now)
	}
	err = s.inTx(ctx, func(tx pgx.Tx) error {
		if err := save(tx); err != nil {
			return err
		}
		return logPolicy(ctx, tx, p, now)
	})
	if err != nil {
		return nil, false, fmt.Errorf("store: save plan %s: %w", p.ID, err)
	}
	return row, proposed, nil
}

// logPolicy notes how a plan's policy came about, if that is news. The plan's row
// is locked, so two do not note it twice.
func logPolicy(ctx context.Context, tx pgx.Tx, p NewPlan, now time.Time) error {
	if p.Policy == nil {
		return nil
	}
	var known bool
	err := tx.QueryRow(ctx, `
		SELECT coalesce((SELECT detail = $3::jsonb FROM log WHERE plan = $1 AND event = $2 ORDER BY id DESC LIMIT 1), false)`,
		p.ID, EventPolicy, string(p.Policy)).Scan(&known)
	if err != nil || known {
		return err
	}
	return appendLog(ctx, tx, LogEntry{At: now, Job: p.Job, Plan: p.ID, Person: p.Author, Event: EventPolicy, Detail: p.Policy})
}

// Plan finds a plan by its id, its digest, or a prefix of them that only it has.
// It returns *NotFoundError or *AmbiguousError.
func (s *Store) Plan(ctx context.Context, ref string) (row *PlanRow, err error) {
	err = pgx.BeginTxFunc(ctx, s.pool, reading, func(tx pgx.Tx) error {
		id, err := planID(ctx, tx, ref)
		if err != nil {
			return err
		}
		row, err = readPlan(ctx, tx, id, "")
		return err
	})
	return row, err
}

// Plans lists plans, the newest proposal first, at most limit of them (0: all).
func (s *Store) Plans(ctx context.Context, f PlanFilter, limit int) (plans []*PlanRow, err error) {
	err = pgx.BeginTxFunc(ctx, s.pool, reading, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `SELECT `+planColumns+` FROM plans
			WHERE ($1 = '' OR job = $1) AND (cardinality($2::text[]) = 0 OR state = ANY ($2)) AND ($4 = '' OR reverses = $4)
			ORDER BY proposed_at DESC, id LIMIT nullif($3::bigint, 0)`, f.Job, texts(f.States), limit, f.Reverses)
		if err != nil {
			return err
		}
		if plans, err = pgx.CollectRows(rows, scanPlan); err != nil {
			return err
		}
		return readApprovals(ctx, tx, plans)
	})
	if err != nil {
		return nil, fmt.Errorf("store: list plans: %w", err)
	}
	return plans, nil
}

// Approve records a person's consent to a plan as it stood, and approves the
// plan with the first one. a.Plan is an id or a unique prefix; a.At is now. The
// same person's second approval changes nothing; another person's is added.
//
// It refuses, in this order, with *DigestError (the digest is not the stored
// plan's), *ExpiredError (and notes that), *StateError (neither proposed nor
// approved), and *SelfApprovalError (fourEyes, and the person is the author,
// however the name is capitalised).
func (s *Store) Approve(ctx context.Context, a dhalion.Approval, fourEyes bool) (*PlanRow, error) {
	person := strings.TrimSpace(a.Person)
	if person == "" {
		return nil, fmt.Errorf("store: approve plan %s: no person is named", a.Plan)
	}
	return s.changePlan(ctx, a.Plan, func(tx pgx.Tx, row *PlanRow) error {
		now := micros(a.At)
		if row.Digest != a.Digest {
			return &DigestError{Plan: row.ID, Stored: row.Digest, Given: a.Digest}
		}
		if err := refuseExpired(ctx, tx, row, now); err != nil {
			return err
		}
		if row.State != dhalion.PlanProposed && row.State != dhalion.PlanApproved {
			return &StateError{Plan: row.ID, State: row.State, Reason: row.Reason, To: dhalion.PlanApproved, Want: []dhalion.PlanState{dhalion.PlanProposed}}
		}
		if fourEyes && strings.EqualFold(person, strings.TrimSpace(row.Author)) {
			return &SelfApprovalError{Plan: row.ID, Person: person}
		}
		tag, err := tx.Exec(ctx, `
			INSERT INTO approvals (plan, round, person, digest, at, note) VALUES ($1, $2, $3, $4, $5, $6)
			ON CONFLICT (plan, round, person) DO NOTHING`, row.ID, row.Round, person, a.Digest, now, a.Note)
		if err != nil || tag.RowsAffected() == 0 {
			return err
		}
		if row.State == dhalion.PlanProposed {
			if _, err := tx.Exec(ctx, `
				UPDATE plans SET state = 'approved', state_since = $2, state_reason = $3, approved_by = $4 WHERE id = $1`,
				row.ID, now, a.Note, person); err != nil {
				return err
			}
		}
		return appendLog(ctx, tx, LogEntry{At: now, Job: row.Job, Plan: row.ID, Person: person, Event: string(dhalion.PlanApproved), Detail: reason(a.Note)})
	})
}

// Discard says no to a plan that is proposed or approved; it returns *StateError
// for any other. To discard a discarded plan changes nothing.
func (s *Store) Discard(ctx context.Context, ref, person, why string, now time.Time) (*PlanRow, error) {
	return s.changePlan(ctx, ref, func(tx pgx.Tx, row *PlanRow) error {
		if row.State == dhalion.PlanDiscarded {
			return nil
		}
		return setState(ctx, tx, row, []dhalion.PlanState{dhalion.PlanProposed, dhalion.PlanApproved}, dhalion.PlanDiscarded, why, person, micros(now))
	})
}

// Transition moves a plan to a state if it is in one of from now; else it returns
// *StateError. Only one of several that try at once succeeds. A pair of states
// that no plan ever goes through is a *TransitionError, also to approved (call
// Approve) and to proposed (call SavePlan). An expired plan cannot begin to be
// applied: that is noted and returned as *ExpiredError. Every change is logged
// under the name of the new state.
func (s *Store) Transition(ctx context.Context, ref string, from []dhalion.PlanState, to dhalion.PlanState, why, person string, now time.Time) (*PlanRow, error) {
	return s.changePlan(ctx, ref, func(tx pgx.Tx, row *PlanRow) error {
		if to == dhalion.PlanApproved || to == dhalion.PlanProposed {
			return &TransitionError{Plan: row.ID, From: row.State, To: to}
		}
		if to == dhalion.PlanApplying {
			if err := refuseExpired(ctx, tx, row, micros(now)); err != nil {
				return err
			}
		}
		return setState(ctx, tx, row, from, to, why, person, micros(now))
	})
}

// ExpirePlans notes which plans have expired by now and returns their ids.
func (s *Store) ExpirePlans(ctx context.Context, now time.Time) (ids []string, err error) {
	now = micros(now)
	err = s.inTx(ctx, func(tx pgx.Tx) error {
		// In order of id, so that two that do this at once do not deadlock.
		rows, err := tx.Query(ctx, `SELECT `+planColumns+` FROM plans
			WHERE state IN ('proposed', 'approved') AND expires_at <= $1 ORDER BY id FOR UPDATE`, now)
		if err != nil {
			return err
		}
		plans, err := pgx.CollectRows(rows, scanPlan)
		if err != nil {
			return err
		}
		for _, row := range plans {
			if err := expire(ctx, tx, row, now); err != nil {
				return err
			}
			ids = append(ids, row.ID)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("store: expire plans: %w", err)
	}
	return ids, nil
}

// changePlan runs f with a plan that nobody else can change meanwhile, and
// returns it as f left it. What f did is kept when f's error is *ExpiredError:
// the refusal itself is something that happened.
func (s *Store) changePlan(ctx context.Context, ref string, f func(pgx.Tx, *PlanRow) error) (row *PlanRow, err error) {
	var expired *ExpiredError
	err = s.inTx(ctx, func(tx pgx.Tx) error {
		id, err := planID(ctx, tx, ref)
		if err != nil {
			return err
		}
		if row, err = lockPlan(ctx, tx, id); err != nil {
			return err
		}
		if err := f(tx, row); err != nil {
			if errors.As(err, &expired) {
				return nil
			}
			return err
		}
		row, err = readPlan(ctx, tx, id, "")
		return err
	})
	if err == nil && expired != nil {
		err = expired
	}
	if err != nil {
		return nil, err
	}
	return row, nil
}

// setState is the conditional change of state; the row is locked.
func setState(ctx context.Context, tx pgx.Tx, row *PlanRow, from []dhalion.PlanState, to dhalion.PlanState, why, person string, now time.Time) error {
	if !slices.Contains(from, row.State) {
		return &StateError{Plan: row.ID, State: row.State, Reason: row.Reason, To: to, Want: from}
	}
	tag, err := tx.Exec(ctx, `
		UPDATE plans SET state = $2, state_since = $3, state_reason = $4 WHERE id = $1 AND state = $5 AND state <> $2`,
		row.ID, to, now, why, row.State)
	if violated(err, "plans_transition", "plans_need_approval", "plans_state_check") || err == nil && tag.RowsAffected() == 0 {
		return &TransitionError{Plan: row.ID, From: row.State, To: to}
	}
	if err != nil {
		return fmt.Errorf("store: plan %s: %w", row.ID, err)
	}
	row.State, row.Reason = to, why
	return logState(ctx, tx, row, person, now)
}

// refuseExpired notes and returns that a plan's time is over.
func refuseExpired(ctx context.Context, tx pgx.Tx, row *PlanRow, now time.Time) error {
	if row.StateAt(now) != dhalion.PlanExpired {
		return nil
	}
	if row.State != dhalion.PlanExpired {
		if err := expire(ctx, tx, row, now); err != nil {
			return err
		}
	}
	return &ExpiredError{Plan: row.ID, At: row.ExpiresAt}
}

func expire(ctx context.Context, tx pgx.Tx, row *PlanRow, now time.Time) error {
	return setState(ctx, tx, row, []dhalion.PlanState{dhalion.PlanProposed, dhalion.PlanApproved}, dhalion.PlanExpired, "", "", now)
}

func logState(ctx context.Context, tx pgx.Tx, row *PlanRow, person string, now time.Time) error {
	return appendLog(ctx, tx, LogEntry{At: now, Job: row.Job, Plan: row.ID, Person: person, Event: string(row.State), Detail: reason(row.Reason)})
}

// reason is the detail of a log entry; none for an empty text.
func reason(text string) json.RawMessage {
	if text == "" {
		return nil
	}
	detail, err := json.Marshal(map[string]string{"reason": text})
	if err != nil {
		return nil // a map of strings always encodes
	}
	return detail
}

// planID finds the one plan that a reference stands for.
func planID(ctx context.Context, tx pgx.Tx, ref string) (string, error) {
	if ref == "" || len(ref) > 64 || strings.Trim(ref, "0123456789abcdef") != "" {
		return "", &NotFoundError{What: "plan", Ref: strings.ToValidUTF8(ref, "?")}
	}
	rows, err := tx.Query(ctx, `SELECT id FROM plans WHERE starts_with(digest, $1) ORDER BY id LIMIT 10`, ref)
	if err != nil {
		return "", fmt.Errorf("store: find plan %s: %w", ref, err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return "", fmt.Errorf("store: find plan %s: %w", ref, err)
	}
	switch len(ids) {
	case 0:
		return "", &NotFoundError{What: "plan", Ref: ref}
	case 1:
		return ids[0], nil
	}
	return "", &AmbiguousError{What: "plan", Ref: ref, Candidates: ids}
}

const planColumns = `id, digest, job, as_of, body, coalesce(reverses, ''), author, round,
	proposed_at, valid_for, expires_at, state, state_since, state_reason`

func scanPlan(row pgx.CollectableRow) (*PlanRow, error) {
	var p PlanRow
	var body string
	err := row.Scan(&p.ID, &p.Digest, &p.Job, &p.AsOf, &body, &p.Reverses, &p.Author, &p.Round,
		&p.ProposedAt, &p.ValidFor, &p.ExpiresAt, &p.State, &p.StateSince, &p.Reason)
	p.Body = []byte(body)
	return &p, err
}

// lockPlan reads a plan so that nobody else changes it meanwhile. What refers to it,
// as the journal of its applier does under the lease, may be written: that would wait
// for a plan's lock with the lease's in hand, and here it is the other way round.
func lockPlan(ctx context.Context, tx pgx.Tx, id string) (*PlanRow, error) {
	return readPlan(ctx, tx, id, "FOR NO KEY UPDATE")
}

func readPlan(ctx context.Context, tx pgx.Tx, id, lock string) (*PlanRow, error) {
	rows, err := tx.Query(ctx, `SELECT `+planColumns+` FROM plans WHERE id = $1 `+lock, id)
	if err != nil {
		return nil, fmt.Errorf("store: read plan %s: %w", id, err)
	}
	p, err := pgx.CollectExactlyOneRow(rows, scanPlan)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, &NotFoundError{What: "plan", Ref: id}
	}
	if err == nil {
		err = readApprovals(ctx, tx, []*PlanRow{p})
	}
	if err != nil {
		return nil, fmt.Errorf("store: read plan %s: %w", id, err)
	}
	return p, nil
}

// readApprovals fills in those of the present round.
func readApprovals(ctx context.Context, tx pgx.Tx, plans []*PlanRow) error {
	byID := map[string]*PlanRow{}
	var ids []string
	for _, p := range plans {
		byID[p.ID] = p
		ids = append(ids, p.ID)
	}
	rows, err := tx.Query(ctx, `
		SELECT a.plan, a.digest, a.person, a.at, a.note FROM approvals a JOIN plans p ON p.id = a.plan AND p.round = a.round
		WHERE a.plan = ANY ($1) ORDER BY a.at, a.person COLLATE "C"`, ids)
	if err != nil {
		return err
	}
	approvals, err := pgx.CollectRows(rows, pgx.RowToStructByPos[dhalion.Approval])
	if err != nil {
		return err
	}
	for _, a := range approvals {
		byID[a.Plan].Approvals = append(byID[a.Plan].Approvals, a)
	}
	return nil
}
