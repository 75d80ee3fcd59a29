package apply

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/dhalion-go/dhalion"
)

// Lease is the right to act on jobs for one plan. It is lost when somebody else
// takes one of the jobs: each job's epoch only ever grows, and every intent is
// written under the epochs of the lease or not at all.
type Lease struct {
	Plan   string
	Holder string                  // the process that applies, as people read it
	Epochs map[dhalion.JobID]int64 // of every job that the plan touches
}

// LostError says that a lease is no longer held.
type LostError struct {
	Plan string
	Job  dhalion.JobID
	By   string // the plan that holds the job now; empty: nobody
}

// Error names the plan that took over.
func (e *LostError) Error() string {
	if e.By == "" {
		return fmt.Sprintf("apply: plan %s lost its lease of %s", e.Plan, e.Job)
	}
	return fmt.Sprintf("apply: plan %s lost its lease of %s to plan %s", e.Plan, e.Job, e.By)
}

// OvertakenError says that another plan has acted on a job since a plan that is to be
// taken up did.
type OvertakenError struct {
	Plan string
	Job  dhalion.JobID
	By   string // the other plan
}

// Error names both.
func (e *OvertakenError) Error() string {
	return fmt.Sprintf("apply: plan %s cannot be gone on with: plan %s has changed %s since", e.Plan, e.By, e.Job)
}

// HeldError says that somebody else holds a job.
type HeldError struct {
	Job    dhalion.JobID
	Plan   string // that holds it
	Holder string // the process that applies it
	Until  time.Time
	// Over: the lease ran out and its plan did not end. Nobody may be at work any
	// more, and until a person takes it up or ends it no other plan may be.
	Over bool
}

// Error says who holds the job and until when at least.
func (e *HeldError) Error() string {
	if e.Over {
		return fmt.Sprintf("apply: plan %s holds %s: it was begun and has not ended, and nothing was heard of its applier %s since its lease ran out at %s", e.Plan, e.Job, e.Holder, rfc(e.Until))
	}
	return fmt.Sprintf("apply: plan %s holds %s, applied by %s; its lease is good until %s", e.Plan, e.Job, e.Holder, rfc(e.Until))
}

// Entry is what the journal says of one attempt at a step: the intent, written
// before the engine is called, and what came back. An entry without a result is
// what a crash left.
type Entry struct {
	ID      int64
	Action  int // index of the step's first action
	Attempt int // from 1
	At      time.Time
	Intent  Intent
	Result  *Result // nil: nobody knows
}

// Intent is what is about to be sent, with every id that makes it recognisable
// afterwards. It is written to the journal and printed by a dry run.
type Intent struct {
	// ID is the same for every attempt at a step: DHALION_ACTION_ID of a hook.
	ID       string    `json:"id"`
	Requests []Request `json:"requests,omitempty"`
	Argv     []string  `json:"argv,omitempty"` // of a hook
	// Note is what an actuator must remember between attempts.
	Note json.RawMessage `json:"note,omitempty"`
	// Back: it has the job run as before the step, which has failed.
	Back bool `json:"back,omitempty"`
}

// Request is one call of an engine.
type Request struct {
	Method string          `json:"method"`
	Path   string          `json:"path"`
	Body   json.RawMessage `json:"body,omitempty"`
	// Where is on what it depends whether it is sent, in words; empty: it is.
	Where string `json:"where,omitempty"`
}

// Result is what came of an attempt.
type Result struct {
	Outcome string          `json:"outcome"` // one of the constants below
	Detail  string          `json:"detail,omitempty"`
	Answer  json.RawMessage `json:"answer,omitempty"`
	Next    *Intent         `json:"next,omitempty"` // of Partly: what is left, with what was learned
	// Run is the run of the job that followed, of a hook that has started it anew; it is
	// added when that runs.
	Run string `json:"run,omitempty"`
}

// What an attempt can come to. Unsure is an answer that did not come, or not
// whole: it may have been done. Partly is what is written down in the middle of a
// checkable step because the engine may forget it.
const (
	Done    = "done"
	Partly  = "partly"
	Refused = "refused" // the engine said no: nothing changed
	Unsure  = "unsure"
)

// Beginning is what an applier asks for before it does anything.
type Beginning struct {
	Plan   string
	Jobs   []dhalion.JobID // sorted; every job that the plan touches
	Holder string
	Now    time.Time
	Length time.Duration // of the lease
	// Resume allows a plan that a crash left in applying, or that is unclear.
	Resume bool
	// Decided is what a person said of a step that a crash left open, in words, and
	// Person who did; empty: nobody said anything.
	Decided, Person string
	// Dead is a holder of whom it is known that he will not renew his lease; it is
	// taken from him before it is over. Empty: nobody.
	Dead string
}

// Journal is where an applier writes down what it is about to do, and by what
// right. Every method is one transaction.
type Journal interface {
	// Begin moves a plan to applying and takes the lease of its jobs, all or none.
	// It returns *HeldError, *OvertakenError, or the store's refusal of the plan's state.
	Begin(ctx context.Context, b Beginning) (Lease, error)
	// Renew prolongs the lease, or returns *LostError. A lease's time is the journal's:
	// appliers' clocks differ.
	Renew(ctx context.Context, l Lease, length time.Duration) error
	// Intend writes an intent under the lease, or returns *LostError.
	Intend(ctx context.Context, l Lease, action, attempt int, i Intent, now time.Time) (id int64, err error)
	// Confirm writes what came of an intent. It needs no lease: what happened has
	// happened.
	Confirm(ctx context.Context, id int64, r Result, now time.Time) error
	// Entries are all attempts of a plan, in order.
	Entries(ctx context.Context, plan string) ([]Entry, error)
	// End moves the plan from applying to a state, notes what came of each action,
	// and gives the lease back if it is still held.
	End(ctx context.Context, l Lease, to dhalion.PlanState, why string, outcomes []dhalion.Outcome, now time.Time) error
}
