package apply_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/apply"
)

// memory is a journal without a store; its lease is always good.
type memory struct {
	entries []apply.Entry
	ended   dhalion.PlanState
}

func (m *memory) Begin(_ context.Context, b apply.Beginning) (apply.Lease, error) {
	return apply.Lease{Plan: b.Plan, Holder: b.Holder}, nil
}

func (m *memory) Renew(context.Context, apply.Lease, time.Duration) error { return nil }

func (m *memory) Intend(_ context.Context, _ apply.Lease, action, attempt int, i apply.Intent, now time.Time) (int64, error) {
	for _, e := range m.entries {
		if e.Action == action && e.Attempt == attempt {
			return 0, fmt.Errorf("attempt %d of action %d is there twice", attempt, action)
		}
	}
	m.entries = append(m.entries, apply.Entry{ID: int64(len(m.entries) + 1), Action: action, Attempt: attempt, At: now, Intent: i})
	return int64(len(m.entries)), nil
}

func (m *memory) Confirm(_ context.Context, id int64, r apply.Result, _ time.Time) error {
	if e := &m.entries[id-1]; e.Result == nil {
		e.Result = &r
	}
	return nil
}

func (m *memory) Entries(context.Context, string) ([]apply.Entry, error) {
	return slices.Clone(m.entries), nil
}

func (m *memory) End(_ context.Context, _ apply.Lease, to dhalion.PlanState, _ string, _ []dhalion.Outcome, _ time.Time) error {
	m.ended = to
	return nil
}

// last is what the journal says of an action's last attempt.
func (m *memory) last(action int) string {
	result := "no attempt"
	for _, e := range m.entries {
		if e.Action == action {
			result = "open"
			if e.Result != nil {
				result = e.Result.Outcome
			}
		}
	}
	return result
}

// engine is an actuator that remembers what it was asked and answers as a test has
// it.
type engine struct {
	prepared int
	acted    []string         // ids of the intents
	prepare  []error          // one after the other, the last again and again; none: it can
	act      []apply.Result   // one after the other, the last again and again
	look     []apply.Standing // the same
}

func next[T any](all *[]T) (v T) {
	v = (*all)[0]
	if len(*all) > 1 {
		*all = (*all)[1:]
	}
	return v
}

func (e *engine) Prepare(_ context.Context, c apply.Call) (apply.Intent, error) {
	e.prepared++
	i := apply.Intent{ID: fmt.Sprintf("%s prepared %d", c.ID, e.prepared)}
	if len(e.prepare) == 0 {
		return i, nil
	}
	return i, next(&e.prepare)
}

func (e *engine) Act(ctx context.Context, c apply.Call, i apply.Intent) apply.Result {
	return c.Change(ctx, func() apply.Result {
		e.acted = append(e.acted, i.ID)
		return next(&e.act)
	})
}

func (e *engine) Look(context.Context, apply.Call, apply.Intent) (apply.Standing, string) {
	return next(&e.look), "as the test has it"
}

var (
	isDone  = apply.Result{Outcome: apply.Done}
	unsure  = apply.Result{Outcome: apply.Unsure, Detail: "no answer"}
	refused = apply.Result{Outcome: apply.Refused, Detail: "hook ended with 1"}
	open    *apply.Result

	errNoRun = errors.New("no run is alive")
)

func TestWhatACrashLeftOpenIsAskedForBeforeItIsRepeated(t *testing.T) {
	for _, c := range []struct {
		name     string
		kind     dhalion.ActionKind
		left     *apply.Result // of the attempt that an earlier process made
		engine   engine
		state    dhalion.PlanState
		acted    []string
		prepared int
		journal  string // the action's last attempt
	}{
		{"a rescale that is on its way is waited for", dhalion.SetParallelism, open,
			engine{look: []apply.Standing{apply.Working, apply.Working, apply.Settled}}, dhalion.PlanApplied, nil, 0, apply.Done},
		{"a rescale that was not done is worked out anew", dhalion.SetParallelism, open,
			engine{look: []apply.Standing{apply.Undone, apply.Settled}, act: []apply.Result{isDone}}, dhalion.PlanApplied, []string{"p-0 prepared 1"}, 1, apply.Done},
		{"a rescale of which the engine does not tell is repeated", dhalion.SetParallelism, open,
			engine{look: []apply.Standing{apply.Unknown, apply.Settled}, act: []apply.Result{isDone}}, dhalion.PlanApplied, []string{"p-0 prepared 1"}, 1, apply.Done},
		{"a rescale that cannot be repeated is tried for a minute and may have been done", dhalion.SetParallelism, open,
			engine{look: []apply.Standing{apply.Unknown}, prepare: []error{errNoRun}}, dhalion.PlanUnclear, nil, 61, "open"},
		{"a restart that is half done goes on by the ids that it was begun with", dhalion.SetKnob, open,
			engine{look: []apply.Standing{apply.Undone, apply.Undone, apply.Settled}, act: []apply.Result{unsure, isDone}, prepare: []error{errNoRun}},
			dhalion.PlanApplied, []string{"p-0 begun", "p-0 begun"}, 0, apply.Done},
		{"a restart that was done though its answer was lost is known as done", dhalion.SetKnob, &unsure,
			engine{look: []apply.Standing{apply.Settled}}, dhalion.PlanApplied, nil, 0, apply.Done},
		{"a hook that said that it failed is not run again", dhalion.Relocate, &refused,
			engine{}, dhalion.PlanFailed, nil, 0, apply.Refused},
		{"a restart that was refused is not begun anew", dhalion.SetKnob, &refused,
			engine{}, dhalion.PlanFailed, nil, 0, apply.Refused},
		{"a rescale that was refused is tried again", dhalion.SetParallelism, &refused,
			engine{act: []apply.Result{isDone}, look: []apply.Standing{apply.Settled}}, dhalion.PlanApplied, []string{"p-0 prepared 1"}, 1, apply.Done},
		{"a restart of which the engine does not tell is left alone", dhalion.SetKnob, open,
			engine{look: []apply.Standing{apply.Unknown}}, dhalion.PlanUnclear, nil, 0, "open"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := &memory{entries: []apply.Entry{{ID: 1, Action: 0, Attempt: 1, Intent: apply.Intent{ID: "p-0 begun"}, Result: c.left}}}
			report := apply1(t, m, &c.engine, dhalion.Plan{Job: "prod/j", Actions: []dhalion.Action{{Kind: c.kind}}}, true)
			if report.State != c.state || m.ended != c.state {
				t.Errorf("it is %s (%s), the journal says %s, want %s", report.State, report.Why, m.ended, c.state)
			}
			if !slices.Equal(c.engine.acted, c.acted) || c.engine.prepared != c.prepared {
				t.Errorf("sent %q, prepared %d times; want %q, %d", c.engine.acted, c.engine.prepared, c.acted, c.prepared)
			}
			if got := m.last(0); got != c.journal {
				t.Errorf("the last attempt is %s, want %s", got, c.journal)
			}
		})
	}
}

func TestAPersonsWordOnAHookComesBeforeItsOwn(t *testing.T) {
	for _, c := range []struct {
		name    string
		left    *apply.Result // of the attempt that an earlier process made
		decided string
		look    apply.Standing // until the hook is run again
		state   dhalion.PlanState
		ran     int
		journal string
	}{
		{"it ended well and did nothing", &isDone, apply.Refused, apply.Undone, dhalion.PlanApplied, 1, apply.Done},
		{"it ended well and did nothing, and nobody said so", &isDone, "", apply.Undone, dhalion.PlanUnclear, 0, apply.Done},
		{"it ended well and is done", &isDone, apply.Done, apply.Settled, dhalion.PlanApplied, 0, apply.Done},
		{"it failed and is done all the same", &refused, apply.Done, apply.Settled, dhalion.PlanApplied, 0, apply.Done},
		{"it failed and is not done", &refused, apply.Refused, apply.Undone, dhalion.PlanApplied, 1, apply.Done},
		{"it was cut off and is done", open, apply.Done, apply.Settled, dhalion.PlanApplied, 0, apply.Done},
		{"it was cut off and is not done", open, apply.Refused, apply.Undone, dhalion.PlanApplied, 1, apply.Done},
		{"it was cut off and nobody said anything", open, "", apply.Settled, dhalion.PlanUnclear, 0, "open"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := &memory{entries: []apply.Entry{{ID: 1, Action: 0, Attempt: 1, Intent: apply.Intent{ID: "p-0 begun"}, Result: c.left}}}
			e := &engine{act: []apply.Result{isDone}, look: []apply.Standing{c.look}}
			a := applier(m, func(dhalion.Action) (apply.Actuator, error) { return e, nil })
			a.Decided, a.DecidedBy = c.decided, "eve"
			a.Observe = func(p apply.Point) {
				if p == apply.AfterAct {
					e.look = []apply.Standing{apply.Settled}
				}
			}
			report, err := a.Apply(context.Background(), "p", dhalion.Plan{Job: "prod/j", Actions: []dhalion.Action{{Kind: dhalion.Relocate}}}, true)
			if err != nil || report.State != c.state || len(e.acted) != c.ran || m.last(0) != c.journal {
				t.Errorf("it is %s (%s), %v; it ran %d times and is noted as %s", report.State, report.Why, err, len(e.acted), m.last(0))
			}
		})
	}
}

func TestAnAlertIsWrittenDownBeforeItIsToldAndIsToldOnce(t *testing.T) {
	for _, c := range []struct {
		name    string
		left    []apply.Entry // by an earlier process
		told    int
		outcome string
		journal string
	}{
		{"nobody began it", nil, 1, "applied: checkpoints fail", apply.Done},
		{"it was told", []apply.Entry{{ID: 1, Attempt: 1, Result: &isDone}}, 0, "applied: checkpoints fail", apply.Done},
		{"its hook failed", []apply.Entry{{ID: 1, Attempt: 1, Result: &refused}}, 0, "failed: checkpoints fail; hook ended with 1", apply.Refused},
		{"its applier died over it", []apply.Entry{{ID: 1, Attempt: 1, At: time.Date(2026, 3, 4, 11, 0, 0, 0, time.UTC)}}, 0,
			"failed: checkpoints fail; it was begun at 2026-03-04T11:00:00Z and nobody knows whether anybody was told; it is never repeated", "open"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := &memory{entries: c.left}
			pager, e := &engine{act: []apply.Result{isDone}}, &engine{act: []apply.Result{isDone}, look: []apply.Standing{apply.Settled}}
			a := applier(m, func(dhalion.Action) (apply.Actuator, error) { return e, nil })
			a.Tell = func(dhalion.Action) apply.Actuator { return pager }
			a.Observe = func(p apply.Point) {
				if p == apply.BeforeAct && len(e.acted) == 0 && len(pager.acted) == 0 && len(c.left) == 0 && m.last(0) != "open" {
					t.Error("it is told, and the journal says nothing of it")
				}
			}
			p := dhalion.Plan{Job: "prod/j", Actions: []dhalion.Action{{Kind: dhalion.Alert, Message: "checkpoints fail"}, {Kind: dhalion.SetParallelism}}}
			report, err := a.Apply(context.Background(), "p", p, true)
			if err != nil || report.State != dhalion.PlanApplied || len(e.acted) != 1 {
				t.Fatalf("it is %s (%s), %v; the rescale was sent %d times", report.State, report.Why, err, len(e.acted))
			}
			if got := report.Outcomes[0].Applied + ": " + report.Outcomes[0].Detail; len(pager.acted) != c.told || got != c.outcome || m.last(0) != c.journal {
				t.Errorf("it was told %d times, noted as %s, and came to %s", len(pager.acted), m.last(0), got)
			}
		})
	}
}

func TestAnEngineThatIsAwayWhenAStepIsBegunIsWaitedFor(t *testing.T) {
	away := fmt.Errorf("wrapped: %w", &apply.AwayError{Err: errors.New("connection refused")})
	for _, c := range []struct {
		name     string
		prepare  []error
		state    dhalion.PlanState
		prepared int
		acted    int
	}{
		{"a refusal ends it at once", []error{errNoRun}, dhalion.PlanFailed, 1, 0},
		{"one that is away is asked again", []error{away, away, nil}, dhalion.PlanApplied, 3, 1},
		{"one that comes up knows of no job at first", []error{away, errNoRun, errNoRun, nil}, dhalion.PlanApplied, 4, 1},
		{"one that stays away for a minute was sent nothing", []error{away}, dhalion.PlanFailed, 61, 0},
		{"one that comes up without the job refuses after the minute", []error{away, errNoRun}, dhalion.PlanFailed, 61, 0},
	} {
		for _, kind := range []dhalion.ActionKind{dhalion.SetParallelism, dhalion.SetKnob, dhalion.Relocate} {
			for _, resume := range []bool{false, true} { // a crash may have been before the first intent
				m, e := &memory{}, &engine{prepare: slices.Clone(c.prepare), act: []apply.Result{isDone}, look: []apply.Standing{apply.Settled}}
				report := apply1(t, m, e, dhalion.Plan{Job: "prod/j", Actions: []dhalion.Action{{Kind: kind}}}, resume)
				if report.State != c.state || e.prepared != c.prepared || len(e.acted) != c.acted || len(m.entries) != c.acted {
					t.Errorf("%s: %s is %s (%s), prepared %d times, sent %d, %d intents", c.name, kind, report.State, report.Why, e.prepared, len(e.acted), len(m.entries))
				}
			}
		}
	}
}

func TestAnAnswerThatWasLostIsConfirmedByWhatTheEngineTells(t *testing.T) {
	for _, kind := range []dhalion.ActionKind{dhalion.SetParallelism, dhalion.SetKnob} {
		m, e := &memory{}, &engine{act: []apply.Result{unsure}, look: []apply.Standing{apply.Working, apply.Settled}}
		report := apply1(t, m, e, dhalion.Plan{Job: "prod/j", Actions: []dhalion.Action{{Kind: kind}}}, false)
		if report.State != dhalion.PlanApplied || len(e.acted) != 1 || m.last(0) != apply.Done {
			t.Errorf("%s is %s, was sent %d times and noted as %s", kind, report.State, len(e.acted), m.last(0))
		}
	}
}

func TestAStepThatHadSettledBeforeTheNextWasBegunIsNotAskedForAgain(t *testing.T) {
	m := &memory{entries: []apply.Entry{
		{ID: 1, Action: 0, Attempt: 1, Intent: apply.Intent{ID: "p-0"}, Result: &isDone},
		{ID: 2, Action: 1, Attempt: 1, Intent: apply.Intent{ID: "p-1"}},
	}}
	// Asked for the first step, the engine would say that its run has failed.
	first, second := &engine{look: []apply.Standing{apply.Failed}}, &engine{look: []apply.Standing{apply.Settled}}
	p := dhalion.Plan{Job: "prod/j", Actions: []dhalion.Action{{Kind: dhalion.SetParallelism}, {Kind: dhalion.SetKnob}}}
	a := applier(m, func(x dhalion.Action) (apply.Actuator, error) {
		if x.Kind == dhalion.SetKnob {
			return second, nil
		}
		return first, nil
	})
	report, err := a.Apply(context.Background(), "p", p, true)
	if err != nil || report.State != dhalion.PlanApplied {
		t.Fatalf("it is %s (%s), %v", report.State, report.Why, err)
	}
	for _, o := range report.Outcomes {
		if o.Applied != "applied" {
			t.Errorf("action %d is %s: %s", o.Action, o.Applied, o.Detail)
		}
	}
}

func applier(j apply.Journal, by func(dhalion.Action) (apply.Actuator, error)) *apply.Applier {
	now := time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)
	return &apply.Applier{
		Journal: j, Actuator: by, Holder: "a test", LeaseFor: time.Minute, TryFor: time.Minute, Attempts: 3, SettleIn: time.Minute,
		Now:  func() time.Time { return now },
		Wait: func(ctx context.Context, d time.Duration) error { now = now.Add(d); return ctx.Err() },
	}
}

func apply1(t *testing.T, j apply.Journal, e *engine, p dhalion.Plan, resume bool) apply.Report {
	t.Helper()
	report, err := applier(j, func(dhalion.Action) (apply.Actuator, error) { return e, nil }).Apply(context.Background(), "p", p, resume)
	if err != nil {
		t.Fatal(err)
	}
	return report
}
