package store

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/dhalion-go/dhalion"
)

// NewerError says that the database's schema is newer than this program knows.
type NewerError struct {
	Database int64 // the schema's version
	Program  int64 // the newest version that this program knows
}

// Error says what to do about it.
func (e *NewerError) Error() string {
	return fmt.Sprintf("store: open database: its schema has version %d, this program knows version %d: install the newer dhalion that wrote it, or restore a backup from before the upgrade", e.Database, e.Program)
}

// OlderError says that the database's schema must be migrated first.
type OlderError struct {
	Database int64 // the schema's version
	Program  int64 // the version that this program needs
}

// Error says what to do about it.
func (e *OlderError) Error() string {
	return fmt.Sprintf("store: open database: its schema has version %d, this program needs version %d: make a backup, then run `dhalion db migrate`", e.Database, e.Program)
}

// NotFoundError says that there is nothing of that name.
type NotFoundError struct {
	What string // "job" or "plan"
	Ref  string // what was asked for
}

// Error names what was looked for.
func (e *NotFoundError) Error() string { return fmt.Sprintf("store: no %s %q", e.What, e.Ref) }

// AmbiguousError says that a short name stands for several things.
type AmbiguousError struct {
	What       string // "job" or "plan"
	Ref        string
	Candidates []string // sorted
}

// Error lists the candidates.
func (e *AmbiguousError) Error() string {
	return fmt.Sprintf("store: %s %q is ambiguous: %s", e.What, e.Ref, strings.Join(e.Candidates, ", "))
}

// DigestError says that a plan was approved, or saved, with another digest than
// the stored one: it was edited, or another plan has the same id.
type DigestError struct {
	Plan   string
	Stored string
	Given  string
}

// Error shows both digests.
func (e *DigestError) Error() string {
	return fmt.Sprintf("store: plan %s: digest %s does not match the stored %s", e.Plan, e.Given, e.Stored)
}

// SelfApprovalError says that a plan's author tried to approve it although the
// policy asks for four eyes.
type SelfApprovalError struct {
	Plan   string
	Person string
}

// Error names the person.
func (e *SelfApprovalError) Error() string {
	return fmt.Sprintf("store: approve plan %s: %s wrote it, and its policy asks for a second person", e.Plan, e.Person)
}

// StateError says that a plan is in a state in which what was asked cannot be
// done.
type StateError struct {
	Plan   string
	State  dhalion.PlanState
	Reason string // why it is in that state; may be empty
	To     dhalion.PlanState
	Want   []dhalion.PlanState // the states in which it can be done
}

// Error names the state, why the plan is in it, and the states that would do.
func (e *StateError) Error() string {
	state := string(e.State)
	if e.Reason != "" {
		state += " (" + e.Reason + ")"
	}
	want := make([]string, len(e.Want))
	for i, s := range e.Want {
		want[i] = string(s)
	}
	return fmt.Sprintf("store: plan %s: it is %s and cannot become %s: it would have to be %s", e.Plan, state, e.To, strings.Join(want, " or "))
}

// TransitionError says that no plan ever goes from one of these states to the
// other, or not by the method that was called.
type TransitionError struct {
	Plan string
	From dhalion.PlanState
	To   dhalion.PlanState
}

// Error names both states.
func (e *TransitionError) Error() string {
	return fmt.Sprintf("store: plan %s: there is no way from %s to %s", e.Plan, e.From, e.To)
}

// ExpiredError says that a plan's time to be approved and applied is over.
type ExpiredError struct {
	Plan string
	At   time.Time // when it expired
}

// Error says when it expired and what to do.
func (e *ExpiredError) Error() string {
	return fmt.Sprintf("store: plan %s expired at %s: plan again", e.Plan, e.At.Format(time.RFC3339))
}

// violated reports whether err is the refusal of one of the named constraints.
func violated(err error, constraints ...string) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && slices.Contains(constraints, pg.ConstraintName)
}
