package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/apply"
)

const leaseFor = 30 * time.Second

// approved is a plan that may be applied.
func approved(t testing.TB, s *Store, body string) *PlanRow {
	t.Helper()
	p := saved(t, s, body, "ann")
	p, err := s.Approve(ctx, approval(p, "bob", noon), true)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func beginning(p *PlanRow, holder string, now time.Time) apply.Beginning {
	return apply.Beginning{Plan: p.ID, Jobs: []dhalion.JobID{p.Job}, Holder: holder, Now: now, Length: leaseFor}
}

// lapse lets all leases run out.
func lapse(t testing.TB, url string) {
	t.Helper()
	exec(t, url, `UPDATE leases SET until = clock_timestamp() - interval '1 s' WHERE plan IS NOT NULL`)
}

func mustBegin(t testing.TB, s *Store, b apply.Beginning) apply.Lease {
	t.Helper()
	l, err := s.Begin(ctx, b)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestOf200AppliersOfOnePlanOneWinsAndTheRestAreToldWhoDid(t *testing.T) {
	s, _ := withJob(t)
	p := approved(t, s, `{"race":1}`)
	var wg sync.WaitGroup
	errs := make([]error, 200)
	for i := range errs {
		wg.Add(1)
		go func() {
			defer wg.Done()
			_, errs[i] = s.Begin(ctx, beginning(p, fmt.Sprintf("applier %d", i), noon))
		}()
	}
	wg.Wait()
	winner := slices.Index(errs, nil)
	if winner < 0 {
		t.Fatal("nobody won:", errs[0])
	}
	for i, err := range errs {
		if i == winner {
			continue
		}
		var held *apply.HeldError
		if !errors.As(err, &held) || held.Plan != p.ID || held.Holder != fmt.Sprintf("applier %d", winner) || held.Over {
			t.Fatalf("applier %d: %v; applier %d won", i, err, winner)
		}
		if message := err.Error(); !strings.Contains(message, p.ID) || !strings.Contains(message, held.Holder) {
			t.Errorf("the refusal does not say who holds the job: %s", message)
		}
	}
}

func TestTwoPlansOfOneJobNeverOverlap(t *testing.T) {
	s, url := withJob(t)
	a, b := approved(t, s, `{"plan":"a"}`), approved(t, s, `{"plan":"b"}`)
	lease := mustBegin(t, s, beginning(a, "one", noon))
	var held *apply.HeldError
	// An applier whose clock is far ahead is no less kept out.
	for _, ahead := range []time.Duration{0, leaseFor, 50 * time.Minute} {
		if _, err := s.Begin(ctx, beginning(b, "two", noon.Add(ahead))); !errors.As(err, &held) || held.Plan != a.ID || held.Over {
			t.Fatalf("b began while a held the job: %v", err)
		}
	}
	// Its time is over and it has not ended: what it began may be half done, so b stays
	// out, however long that takes.
	lapse(t, url)
	now := noon.Add(leaseFor)
	for _, late := range []time.Duration{0, 59 * time.Minute} {
		_, err := s.Begin(ctx, beginning(b, "two", now.Add(late)))
		if !errors.As(err, &held) || held.Plan != a.ID || !held.Over || !strings.Contains(err.Error(), "has not ended") {
			t.Fatalf("b began while a was half done: %v", err)
		}
	}
	// A person ends a: b takes the job, and a can write nothing more.
	if _, err := s.Abort(ctx, a.ID, "ann", "its machine is gone", "", nil, now); err != nil {
		t.Fatal(err)
	}
	mustBegin(t, s, beginning(b, "two", now))
	var lost *apply.LostError
	if err := s.Renew(ctx, lease, leaseFor); !errors.As(err, &lost) || lost.By != b.ID {
		t.Errorf("a renewed a lease that it lost: %v", err)
	}
	if _, err := s.Intend(ctx, lease, 0, 1, apply.Intent{ID: "x"}, now); !errors.As(err, &lost) {
		t.Errorf("a wrote an intent without a lease: %v", err)
	}
	if err := s.End(ctx, lease, dhalion.PlanApplied, "", nil, now); !errors.As(err, &lost) {
		t.Errorf("a ended without a lease: %v", err)
	}
	if entries, err := s.Entries(ctx, a.ID); err != nil || len(entries) != 0 {
		t.Errorf("a's journal has %v, %v", entries, err)
	}
}

func TestAnUnclearPlanIsNotTakenUpWhenAnotherHasActedSince(t *testing.T) {
	s, _ := withJob(t)
	a, b := approved(t, s, `{"plan":"a"}`), approved(t, s, `{"plan":"b"}`)
	acts := func(p *PlanRow, to dhalion.PlanState, resume bool) error {
		begin := beginning(p, "applier of "+p.ID, noon)
		begin.Resume = resume
		lease, err := s.Begin(ctx, begin)
		if err != nil {
			return err
		}
		entries, err := s.Entries(ctx, p.ID)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Intend(ctx, lease, 0, len(entries)+1, apply.Intent{ID: p.ID + "-0"}, noon); err != nil {
			t.Fatal(err)
		}
		return s.End(ctx, lease, to, "as the test has it", nil, noon)
	}
	for _, resume := range []bool{false, true, true} { // nobody was in between
		if err := acts(a, dhalion.PlanUnclear, resume); err != nil {
			t.Fatal(err)
		}
	}
	if err := acts(approved(t, s, `{"actions":[{"kind":"alert"}]}`), dhalion.PlanApplied, false); err != nil {
		t.Fatal(err)
	}
	if err := acts(a, dhalion.PlanUnclear, true); err != nil {
		t.Errorf("a was not taken up after somebody was told of something: %v", err)
	}
	if err := acts(b, dhalion.PlanApplied, false); err != nil {
		t.Fatal(err)
	}
	var overtaken *apply.OvertakenError
	if err := acts(a, dhalion.PlanApplied, true); !errors.As(err, &overtaken) || overtaken.By != b.ID {
		t.Errorf("a was taken up after b had changed the job: %v", err)
	}
	if row, err := s.Plan(ctx, a.ID); err != nil || row.State != dhalion.PlanUnclear {
		t.Errorf("a is %v, %v", row, err)
	}
}

// TestAnApplierWritesItsIntentWhileOthersWaitForItsLease has one come for a plan that
// is being applied: it has the plan's row, and waits for the lease's. The applier has
// the lease's row and writes to the journal, which refers to the plan.
func TestAnApplierWritesItsIntentWhileOthersWaitForItsLease(t *testing.T) {
	s, url := withJob(t)
	p := approved(t, s, `{"waits":1}`)
	lease := mustBegin(t, s, beginning(p, "one", noon))
	came := make(chan error, 1)
	err := s.inTx(ctx, func(tx pgx.Tx) error {
		if err := mine(ctx, tx, lease); err != nil {
			return err
		}
		go func() {
			_, err := s.Begin(ctx, beginning(p, "two", noon))
			came <- err
		}()
		conn, err := pgx.Connect(ctx, url)
		if err != nil {
			return err
		}
		defer conn.Close(ctx)
		for deadline, waits := time.Now().Add(20*time.Second), false; !waits; {
			if err := conn.QueryRow(ctx, `SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%FROM leases%' AND datname = current_database()`).Scan(&waits); err != nil {
				return err
			}
			if time.Now().After(deadline) {
				return errors.New("the other one does not come to the lease")
			}
		}
		_, err = tx.Exec(ctx, `INSERT INTO journal (plan, action, attempt, step, epoch, at, call) VALUES ($1, 0, 1, 'intent', 1, $2, '{}')`, p.ID, noon)
		return err
	})
	if err != nil {
		t.Errorf("the applier: %v", err)
	}
	var held *apply.HeldError
	if err := <-came; !errors.As(err, &held) {
		t.Errorf("the other one: %v", err)
	}
}

func TestALeaseIsOfAllJobsOrOfNone(t *testing.T) {
	s, url := withJob(t)
	exec(t, url, `INSERT INTO jobs (id, engine, name) SELECT 'file/other', engine, 'other' FROM jobs WHERE id = $1`, wordcount)
	a, b := approved(t, s, `{"plan":"a"}`), approved(t, s, `{"plan":"b"}`)
	of := func(p *PlanRow, jobs ...dhalion.JobID) apply.Beginning {
		begin := beginning(p, "applier of "+p.ID, noon)
		begin.Jobs = jobs
		return begin
	}
	mustBegin(t, s, of(a, wordcount))
	var held *apply.HeldError
	if _, err := s.Begin(ctx, of(b, "file/other", wordcount)); !errors.As(err, &held) || held.Job != wordcount {
		t.Fatalf("b took a job that a holds: %v", err)
	}
	if l, ok, err := s.Holder(ctx, "file/other", noon); ok || err != nil {
		t.Errorf("b holds the other job: %v, %v", l, err)
	}
	if row, err := s.Plan(ctx, b.ID); err != nil || row.State != dhalion.PlanApproved {
		t.Errorf("b is %v, %v", row, err)
	}
}

func TestTheJournalTellsWhatACrashLeft(t *testing.T) {
	s, _ := withJob(t)
	p := approved(t, s, `{"crash":1}`)
	lease := mustBegin(t, s, beginning(p, "one", noon))
	first := apply.Intent{ID: p.ID + "-0", Requests: []apply.Request{{Method: "PUT", Path: "/x", Body: json.RawMessage(`{"a": 1}`)}}}
	id, err := s.Intend(ctx, lease, 0, 1, first, noon)
	if err != nil {
		t.Fatal(err)
	}
	done := apply.Result{Outcome: apply.Done, Detail: "ok"}
	for range 2 { // the second time after an answer of the database was lost
		if err := s.Confirm(ctx, id, done, noon.Add(time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Intend(ctx, lease, 2, 1, apply.Intent{ID: p.ID + "-2", Argv: []string{"kill", "tm-1"}}, noon.Add(2*time.Second)); err != nil {
		t.Fatal(err)
	}
	entries, err := s.Entries(ctx, p.ID)
	if err != nil || len(entries) != 2 {
		t.Fatalf("entries %v, %v", entries, err)
	}
	if e := entries[0]; e.Action != 0 || e.Attempt != 1 || e.Result == nil || e.Result.Outcome != apply.Done || e.Intent.ID != first.ID || e.Intent.Requests[0].Path != "/x" {
		t.Errorf("first entry %+v", e)
	}
	if e := entries[1]; e.Action != 2 || e.Result != nil || e.Intent.Argv[1] != "tm-1" || !e.At.Equal(noon.Add(2*time.Second)) {
		t.Errorf("second entry %+v", e)
	}
}

func TestHowARunWasStartedIsKnownHoweverOftenItWasRescaledSince(t *testing.T) {
	s, _ := withJob(t)
	p := approved(t, s, `{"started":1}`)
	lease := mustBegin(t, s, beginning(p, "one", noon))
	write := func(attempt int, note, outcome string) {
		t.Helper()
		id, err := s.Intend(ctx, lease, 0, attempt, apply.Intent{ID: p.ID + "-0", Note: json.RawMessage(note)}, noon)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Confirm(ctx, id, apply.Result{Outcome: outcome}, noon); err != nil {
			t.Fatal(err)
		}
	}
	write(1, `{"run": "a", "next": "b", "arguments": ["--salt", "4"]}`, apply.Partly)
	write(2, `{"run": "a", "next": "b", "arguments": ["--salt", "4"]}`, apply.Done)
	for i := range 60 {
		write(3+i, `{"run": "b"}`, apply.Done)
	}
	entries, err := s.Done(ctx, p.Job, 50)
	if err != nil || len(entries) != 1 || !strings.Contains(string(entries[0].Intent.Note), `"--salt"`) {
		t.Errorf("%d attempts: %+v, %v", len(entries), entries, err)
	}
}

func TestTheFirstRunThatFollowedAHookIsNotedWithItsResult(t *testing.T) {
	s, _ := withJob(t)
	p := approved(t, s, `{"followed":1}`)
	lease := mustBegin(t, s, beginning(p, "one", noon))
	for action, outcome := range []string{apply.Done, apply.Unsure, apply.Done} {
		i := apply.Intent{ID: fmt.Sprintf("%s-%d", p.ID, action), Note: json.RawMessage(`{"ends": "a", "left": ["--salt", "4"]}`)}
		id, err := s.Intend(ctx, lease, action, 1, i, noon)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Confirm(ctx, id, apply.Result{Outcome: outcome, Detail: "said"}, noon); err != nil {
			t.Fatal(err)
		}
	}
	for _, run := range []string{"b", "c"} {
		if err := s.Followed(ctx, p.ID, p.ID+"-0", run); err != nil {
			t.Fatal(err)
		}
	}
	entries, err := s.Hooked(ctx, p.Job, 50)
	if err != nil || len(entries) != 2 || entries[0].Action != 2 || entries[0].Result.Run != "" || entries[1].Result.Run != "b" || entries[1].Result.Detail != "said" {
		t.Errorf("%+v, %v", entries, err)
	}
}

func TestAPlanIsResumedWhenItsLeaseIsOverOrItsHolderIsDead(t *testing.T) {
	s, url := withJob(t)
	p := approved(t, s, `{"resume":1}`)
	before := mustBegin(t, s, beginning(p, "one", noon))
	again := beginning(p, "two", noon.Add(time.Second))
	again.Resume = true
	var held *apply.HeldError
	if _, err := s.Begin(ctx, again); !errors.As(err, &held) || held.Holder != "one" {
		t.Fatalf("a living applier was pushed aside: %v", err)
	}
	again.Dead = "somebody else"
	if _, err := s.Begin(ctx, again); !errors.As(err, &held) {
		t.Fatalf("a living applier was pushed aside: %v", err)
	}
	again.Dead = "one"
	after := mustBegin(t, s, again)
	if after.Epochs[p.Job] <= before.Epochs[p.Job] {
		t.Errorf("epoch %d follows %d", after.Epochs[p.Job], before.Epochs[p.Job])
	}
	var lost *apply.LostError
	if err := s.Renew(ctx, before, leaseFor); !errors.As(err, &lost) || lost.By != "" {
		t.Errorf("the first applier still holds the lease: %v", err)
	}
	if got := events(t, s, p.ID); got != "proposed:ann approved:bob applying resumed" {
		t.Errorf("log: %s", got)
	}
	// The second one's time is over, and nobody knows whether it lives.
	third := beginning(p, "three", noon.Add(-time.Hour))
	third.Resume = true
	if _, err := s.Begin(ctx, third); !errors.As(err, &held) || held.Holder != "two" {
		t.Fatalf("a living applier was pushed aside: %v", err)
	}
	lapse(t, url)
	mustBegin(t, s, third)
	lapse(t, url)
	// Without being asked to resume, a plan that is being applied is refused.
	late := beginning(p, "three", noon.Add(time.Hour-time.Minute))
	var state *StateError
	if _, err := s.Begin(ctx, late); !errors.As(err, &state) || state.State != dhalion.PlanApplying {
		t.Errorf("it began anew: %v", err)
	}
}

func TestTheEndOfAnApplyNotesWhatCameOfEachAction(t *testing.T) {
	s, _ := withJob(t)
	p := approved(t, s, `{"end":1}`)
	lease := mustBegin(t, s, beginning(p, "one", noon))
	counter := dhalion.ComponentTarget(p.Job, "counter")
	outcomes := []dhalion.Outcome{
		{Action: 0, Job: p.Job, Kind: dhalion.SetParallelism, Target: counter, Cause: dhalion.Underprovisioned, Applied: "applied", At: noon},
		{Action: 1, Job: p.Job, Kind: dhalion.Relocate, Target: counter, Cause: dhalion.SlowWorker, Applied: "failed", At: noon, Detail: "hook ended with 1"},
	}
	if err := s.End(ctx, lease, dhalion.PlanFailed, "hook ended with 1", outcomes, noon); err != nil {
		t.Fatal(err)
	}
	row, err := s.Plan(ctx, p.ID)
	if err != nil || row.State != dhalion.PlanFailed || row.Reason != "hook ended with 1" {
		t.Errorf("plan %+v, %v", row, err)
	}
	if l, ok, err := s.Holder(ctx, p.Job, noon); ok || err != nil {
		t.Errorf("the lease is still held: %+v, %v", l, err)
	}
	rows, err := s.pool.Query(ctx, `SELECT applied || ':' || detail FROM outcomes WHERE plan = $1 ORDER BY action`, p.ID)
	if err != nil {
		t.Fatal(err)
	}
	if list, err := pgx.CollectRows(rows, pgx.RowTo[string]); err != nil || !slices.Equal(list, []string{"applied:", "failed:hook ended with 1"}) {
		t.Errorf("outcomes %q, %v", list, err)
	}
}

func TestAPersonEndsAPlanThatNobodyApplies(t *testing.T) {
	s, url := withJob(t)
	p := approved(t, s, `{"abort":1}`)
	var state *StateError
	if _, err := s.Abort(ctx, p.ID, "ann", "no more", "", nil, noon); !errors.As(err, &state) {
		t.Errorf("a plan that was not begun was aborted: %v", err)
	}
	lease := mustBegin(t, s, beginning(p, "one", noon))
	var held *apply.HeldError
	if _, err := s.Abort(ctx, p.ID, "ann", "no more", "somebody else", nil, noon.Add(time.Hour)); !errors.As(err, &held) {
		t.Errorf("a plan was aborted under its applier: %v", err)
	}
	lapse(t, url)
	done := []dhalion.Outcome{{Action: 0, Job: p.Job, Kind: dhalion.SetParallelism, Target: dhalion.ComponentTarget(p.Job, "counter"), Applied: "applied", At: noon, Detail: "it was done"}}
	row, err := s.Abort(ctx, p.ID, "ann", "no more", "", done, noon)
	if err != nil || row.State != dhalion.PlanAborted || row.Reason != "no more" {
		t.Fatalf("plan %+v, %v", row, err)
	}
	if noted, err := s.Outcomes(ctx, OutcomeFilter{Plan: p.ID}, 0); err != nil || len(noted) != 1 || noted[0].Applied != "applied" || noted[0].Detail != "it was done" {
		t.Errorf("what it came to: %+v, %v", noted, err)
	}
	var lost *apply.LostError
	if err := s.Renew(ctx, lease, leaseFor); !errors.As(err, &lost) {
		t.Errorf("the applier of an aborted plan goes on: %v", err)
	}
}

// crashed is what an applier that is killed leaves: nothing of it runs on.
type crashed struct{ at apply.Point }

// double is an engine that is none and counts effects: an engine whose state is a number, and
// a command that fires.
type double struct {
	mu          sync.Mutex
	parallelism float64
	puts        int
	fired       map[string]int
	loses       map[dhalion.ActionKind]int // answers that do not come although it was done
}

func (c *double) Prepare(_ context.Context, call apply.Call) (apply.Intent, error) {
	return apply.Intent{ID: call.ID}, nil
}

func (c *double) Act(ctx context.Context, call apply.Call, i apply.Intent) apply.Result {
	return call.Change(ctx, func() apply.Result { return c.act(call, i) })
}

func (c *double) act(call apply.Call, i apply.Intent) apply.Result {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch a := call.Actions[0]; a.Kind {
	case dhalion.SetParallelism:
		c.puts++
		c.parallelism, _ = a.To.Number()
	default:
		c.fired[i.ID]++
	}
	if kind := call.Actions[0].Kind; c.loses[kind] > 0 {
		c.loses[kind]--
		return apply.Result{Outcome: apply.Unsure, Detail: "no answer"}
	}
	return apply.Result{Outcome: apply.Done}
}

func (c *double) Look(_ context.Context, call apply.Call, i apply.Intent) (apply.Standing, string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	a := call.Actions[0]
	if a.Kind == dhalion.SetParallelism {
		if want, _ := a.To.Number(); c.parallelism == want {
			return apply.Settled, ""
		}
		return apply.Undone, "not yet"
	}
	if c.fired[i.ID] > 0 {
		return apply.Settled, ""
	}
	return apply.Undone, "not done"
}

// threeActions are one of each class: repeatable, checkable, opaque.
func threeActions(job dhalion.JobID) dhalion.Plan {
	counter := dhalion.ComponentTarget(job, "counter")
	affects := []dhalion.Affected{{Job: job, Instances: 1, Of: 8}}
	return dhalion.Plan{Job: job, Actions: []dhalion.Action{
		{Kind: dhalion.SetParallelism, Target: counter, To: dhalion.NumberSetting(12), Affects: affects},
		{Kind: dhalion.SetKnob, Target: counter, Argument: "--salt", To: dhalion.NumberSetting(4), Affects: affects},
		{Kind: dhalion.Relocate, Target: dhalion.WorkerTarget(job, "tm-2"), From: dhalion.TextSetting("tm-2"), Affects: affects},
	}}
}

// TestWhereverAnApplierIsKilledEachActionHasItsEffect kills the applier at every
// point of every step, and resumes until the plan is over. A repeatable and a
// checkable action must have their effect once, an opaque one at most once, and
// an opaque one whose fate is not known must leave the plan unclear.
func TestWhereverAnApplierIsKilledEachActionHasItsEffect(t *testing.T) {
	s, _ := withJob(t)
	kills := 0
	for nth := 0; ; nth++ {
		p := approved(t, s, fmt.Sprintf(`{"kill":%d}`, nth))
		c := &double{fired: map[string]int{}}
		left, at := nth, apply.Point("")
		applier := applierOf(s, c, "first")
		applier.Observe = func(point apply.Point) {
			if left--; left == -1 {
				at = point
				panic(crashed{point})
			}
		}
		killed := crash(t, func() { mustApply(t, applier, p, false) })
		if !killed {
			if c.parallelism != 12 || c.puts != 1 || c.fired[p.ID+"-1"] != 1 || c.fired[p.ID+"-2"] != 1 {
				t.Fatalf("without a kill: %+v", c)
			}
			if state := stateOf(t, s, p.ID); state != dhalion.PlanApplied {
				t.Fatalf("without a kill the plan is %s", state)
			}
			break
		}
		kills++
		row, err := s.Plan(ctx, p.ID)
		if err != nil {
			t.Fatal(err)
		}
		if row.State == dhalion.PlanApplied {
			continue // killed behind the end
		}
		second := applierOf(s, c, "second")
		second.Dead = func(holder string) bool { return holder == "first" }
		report := mustApply(t, second, p, true)
		if c.parallelism != 12 || c.fired[p.ID+"-1"] != 1 {
			t.Errorf("killed at %s (%d): after the resume %+v", at, nth, c)
		}
		switch fired := c.fired[p.ID+"-2"]; {
		case fired > 1:
			t.Errorf("killed at %s (%d): the opaque action was done %d times", at, nth, fired)
		case report.State == dhalion.PlanApplied && fired != 1:
			t.Errorf("killed at %s (%d): applied, and the opaque action was never done", at, nth)
		case report.State != dhalion.PlanApplied && report.State != dhalion.PlanUnclear:
			t.Errorf("killed at %s (%d): the plan is %s: %s", at, nth, report.State, report.Why)
		}
		if l, ok, err := s.Holder(ctx, p.Job, noon); ok || err != nil {
			t.Fatalf("killed at %s (%d): the lease is still held by %s, %v", at, nth, l.Plan, err)
		}
	}
	// Two points around the beginning, ten in each of three steps (intent, renewal, call,
	// confirmation, renewal while it settles), two at the end.
	if kills != 2+3*10+2 {
		t.Errorf("%d places were tried", kills)
	}
}

// TestWhereverTheNextApplierIsKilledTooEachActionHasItsEffect kills one behind its
// first call, whose answer it does not write down, and the one that takes it up at
// every point, those of writing down what it finds done among them.
func TestWhereverTheNextApplierIsKilledTooEachActionHasItsEffect(t *testing.T) {
	s, _ := withJob(t)
	for nth, killed := 0, true; killed; nth++ {
		p := approved(t, s, fmt.Sprintf(`{"kill next":%d}`, nth))
		c := &double{fired: map[string]int{}}
		first := applierOf(s, c, "first")
		first.Observe = func(point apply.Point) {
			if point == apply.AfterAct {
				panic(crashed{point})
			}
		}
		if !crash(t, func() { mustApply(t, first, p, false) }) {
			t.Fatal("it was not killed")
		}
		left, passed := nth, []apply.Point{}
		second := applierOf(s, c, "second")
		second.Dead = func(string) bool { return true }
		second.Observe = func(point apply.Point) {
			passed = append(passed, point)
			if left--; left == -1 {
				panic(crashed{point})
			}
		}
		killed = crash(t, func() { mustApply(t, second, p, true) })
		if !killed && !slices.Equal(passed[2:6], []apply.Point{apply.BeforeIntent, apply.AfterIntent, apply.BeforeConfirm, apply.AfterConfirm}) {
			t.Errorf("what it finds done it does not write down first: %v", passed)
		}
		if stateOf(t, s, p.ID) == dhalion.PlanApplying {
			third := applierOf(s, c, "third")
			third.Dead = func(string) bool { return true }
			mustApply(t, third, p, true)
		}
		state := stateOf(t, s, p.ID)
		if c.puts != 1 || c.fired[p.ID+"-1"] != 1 || c.fired[p.ID+"-2"] > 1 || state != dhalion.PlanApplied && state != dhalion.PlanUnclear {
			t.Errorf("killed behind %v: it is %s, and %+v", passed, state, c)
		}
	}
}

func TestAnAnswerThatDoesNotComeIsAskedForOrRepeatedOrLeftAlone(t *testing.T) {
	s, _ := withJob(t)
	p := approved(t, s, `{"unsure":1}`)
	c := &double{fired: map[string]int{}, loses: map[dhalion.ActionKind]int{dhalion.SetParallelism: 1, dhalion.SetKnob: 1}}
	applier := applierOf(s, c, "one")
	report := mustApply(t, applier, p, false)
	// Both were done, and are found done: neither is sent again.
	if report.State != dhalion.PlanApplied || c.puts != 1 || c.fired[p.ID+"-1"] != 1 || c.fired[p.ID+"-2"] != 1 {
		t.Errorf("%s (%s): %+v", report.State, report.Why, c)
	}
	p = approved(t, s, `{"unsure":2}`)
	plan := threeActions(p.Job)
	plan.Actions = plan.Actions[2:]
	c = &double{fired: map[string]int{}, loses: map[dhalion.ActionKind]int{dhalion.Relocate: 1}}
	report, err := applierOf(s, c, "one").Apply(ctx, p.ID, plan, false)
	if err != nil || report.State != dhalion.PlanUnclear || c.fired[p.ID+"-0"] != 1 {
		t.Errorf("an opaque action without an answer: %s (%s), %v, %+v", report.State, report.Why, err, c)
	}
}

func TestAnApplierThatLostItsLeaseStopsBeforeItsNextCall(t *testing.T) {
	s, url := withJob(t)
	p, other := approved(t, s, `{"lost":1}`), approved(t, s, `{"lost":2}`)
	c := &double{fired: map[string]int{}}
	now := noon
	applier := applierOf(s, c, "slow")
	applier.Now = func() time.Time { return now }
	applier.Observe = func(point apply.Point) {
		if point == apply.AfterIntent { // it sleeps, and somebody else takes the job
			now = now.Add(leaseFor)
			lapse(t, url)
			if _, err := s.Abort(ctx, p.ID, "ann", "it does not answer", "", nil, now); err != nil {
				t.Fatal(err)
			}
			mustBegin(t, s, beginning(other, "other", now))
		}
	}
	_, err := applier.Apply(ctx, p.ID, threeActions(p.Job), false)
	var lost *apply.LostError
	if !errors.As(err, &lost) || lost.By != other.ID {
		t.Fatalf("it went on: %v", err)
	}
	if c.puts != 0 || len(c.fired) != 0 {
		t.Errorf("it called the engine without a lease: %+v", c)
	}
}

func applierOf(s *Store, c *double, holder string) *apply.Applier {
	return &apply.Applier{
		Journal: s, Actuator: func(dhalion.Action) (apply.Actuator, error) { return c, nil }, Holder: holder,
		Now: func() time.Time { return noon }, Wait: func(context.Context, time.Duration) error { return nil },
		LeaseFor: leaseFor, TryFor: time.Minute, Attempts: 3, SettleIn: time.Minute,
	}
}

func mustApply(t testing.TB, a *apply.Applier, p *PlanRow, resume bool) apply.Report {
	t.Helper()
	report, err := a.Apply(ctx, p.ID, threeActions(p.Job), resume)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

func stateOf(t testing.TB, s *Store, plan string) dhalion.PlanState {
	t.Helper()
	row, err := s.Plan(ctx, plan)
	if err != nil {
		t.Fatal(err)
	}
	return row.State
}

// crash runs f and reports whether it was killed.
func crash(t testing.TB, f func()) (killed bool) {
	t.Helper()
	defer func() {
		switch r := recover().(type) {
		case nil:
		case crashed:
			killed = true
		default:
			panic(r)
		}
	}()
	f()
	return false
}
