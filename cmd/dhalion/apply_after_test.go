package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/apply"
	"github.com/dhalion-go/dhalion/internal/engine/flink/flinktest"
	"github.com/dhalion-go/dhalion/internal/store"
)

func TestAPersonDecidesWhatBecomesOfAHookThatWasBegun(t *testing.T) {
	db := calling(t, newSession(t).url, "decided")
	for _, c := range []struct {
		at      apply.Point // where the first apply is killed
		decided string      // what the person says; empty: the plan is ended
		ran     int         // how often the hook has run afterwards
		state   string
	}{
		{apply.BeforeAct, "undone", 1, "applied"},
		{apply.AfterAct, "done", 1, "applied"},
		{apply.AfterAct, "", 1, "aborted"},
		{apply.BeforeAct, "", 0, "aborted"},
	} {
		t.Run(string(c.at)+" "+c.decided, func(t *testing.T) {
			b, id := ready(t, db, planKinds[2])
			if !endedByKill(t, b.applying(id, "DHALION_CRASH_AT="+string(c.at))) {
				t.Fatal("it was not killed")
			}
			said, code := b.try(time.Now, "apply", id, "--resume", "--no-wait")
			if code != 1 || !strings.Contains(said, "nobody knows whether it was done") {
				t.Fatalf("without a word it ends with %d: %s", code, said)
			}
			if state, _ := b.state(id); state != "unclear" {
				t.Fatalf("it is %s", state)
			}
			if c.decided == "" {
				b.run("apply", id, "--abort", "--reason", "looked at it")
			} else {
				b.run("apply", id, "--resume", "--decided", c.decided, "--as", "eve", "--no-wait")
				said := b.db.text(`SELECT person || ': ' || (detail ->> 'reason') FROM log WHERE plan = $1 AND event = 'decided'`, id)
				want := map[string]string{"done": "eve: the step that was begun was done", "undone": "eve: the step that was begun was not done"}[c.decided]
				if strings.Join(said, ", ") != want {
					t.Errorf("the log says %q, not %q", said, want)
				}
			}
			if state, why := b.state(id); state != c.state {
				t.Errorf("it is %s (%s), not %s", state, why, c.state)
			}
			if ran := b.hooksRun(); len(ran) != c.ran {
				t.Errorf("the hook ran for %v", ran)
			}
			if _, code := b.try(time.Now, "apply", id, "--resume"); code == 0 {
				t.Error("what has ended can be taken up")
			}
		})
	}
}

func TestAPlanOfWhichNothingIsMeasuredIsUnclearWhenItsTimeIsOver(t *testing.T) {
	b, id := ready(t, calling(t, newSession(t).url, "unmeasured"), planKinds[0])
	b.run("apply", id, "--no-wait")
	outcomes := func(after time.Duration) (judged []string, waiting int) {
		t.Helper()
		said, code := b.try(func() time.Time { return time.Now().Add(after) }, "outcomes", id, "--judge", "-o", "json")
		var rows struct {
			Outcomes []struct{ Applied, Judged, Detail string }
			Waiting  []string
		}
		if err := json.Unmarshal([]byte(said), &rows); code != 0 || err != nil {
			t.Fatalf("outcomes ended with %d, %v: %s", code, err, said)
		}
		for _, o := range rows.Outcomes {
			judged = append(judged, o.Applied+" "+o.Judged)
			if o.Judged == "unclear" && !strings.Contains(o.Detail, "nothing was measured") {
				t.Errorf("it does not say why: %s", o.Detail)
			}
		}
		return judged, len(rows.Waiting)
	}
	// It has 60 s, and 10 min for measurements to come.
	if judged, waiting := outcomes(9 * time.Minute); strings.Join(judged, ",") != "applied ,applied " || waiting != 1 {
		t.Errorf("before its time is over: %q, %d waiting", judged, waiting)
	}
	if judged, waiting := outcomes(12 * time.Minute); strings.Join(judged, ",") != "applied unclear,applied unclear" || waiting != 0 {
		t.Errorf("after it: %q, %d waiting", judged, waiting)
	}
	if state, _ := b.state(id); state != "unclear" {
		t.Errorf("the plan is %s", state)
	}
}

func TestAJudgementThatIsCutOffIsMadeOnceByTheNext(t *testing.T) {
	db := calling(t, newSession(t).url, "judgement")
	for at, left := range map[apply.Point]string{apply.BeforeJudge: "applied", apply.AfterJudge: "unclear"} {
		b, id := ready(t, db, planKinds[0])
		b.run("apply", id, "--no-wait")
		// It has 60 s, and 10 min for measurements to come; none do.
		judging, out, _ := b.app(func() time.Time { return time.Now().Add(12 * time.Minute) })
		met := false
		judging.observe = func(p apply.Point) {
			if p == at {
				met = true
				runtime.Goexit()
			}
		}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			judging.run(context.Background(), []string{"outcomes", id, "--judge"})
		}()
		<-ended
		if state, _ := b.state(id); state != left || !met {
			t.Errorf("cut off at %s (%v) it is %s: %s", at, met, state, out)
		}
		if said, code := b.try(after(12*time.Minute), "outcomes", id, "--judge"); code != 0 {
			t.Fatalf("outcomes ended with %d: %s", code, said)
		}
		if state, _ := b.state(id); state != "unclear" {
			t.Errorf("after %s it is %s", at, state)
		}
		if n := b.db.text(`SELECT count(*)::text FROM log WHERE plan = $1 AND event = 'unclear'`, id)[0]; n != "1" {
			t.Errorf("after %s it was judged %s times", at, n)
		}
	}
}

func TestAPlanThatWasStoppedBeforeItBeganIsAppliedByResumeToo(t *testing.T) {
	b, id := ready(t, calling(t, newSession(t).url, "unbegun"), planKinds[0])
	if !endedByKill(t, b.applying(id, "DHALION_CRASH_AT="+string(apply.BeforeBegin))) {
		t.Fatal("it was not killed")
	}
	b.run("apply", id, "--resume", "--no-wait")
	if err := planKinds[0].after(b.cluster.Live(orders.Name())); err != nil {
		t.Error(err)
	}
}

func TestAPlanThatIsNotMetIsUndoneWhereItsPolicySaysSo(t *testing.T) {
	b := newBench(t, calling(t, newSession(t).url, "unmet"))
	b.ruled("outcome: {unmet: reverse}\nwindow: 4s\nminimum: {span: 0s, polls: 1}\nlimits: {max_instances_touched: 1.0}\n", "")
	p := b.draft(one6)
	p.Actions[0].Expect = dhalion.Expectation{Summary: "hardly anything to do", WithinSeconds: 8,
		Checks: []dhalion.Check{{Metric: dhalion.Busy, Target: dhalion.ComponentTarget(orders, "count"), Compare: "at_most", Value: 1e-6}}}
	id, _ := b.approvedPlan(p)
	following, stop := context.WithCancel(t.Context())
	defer stop()
	follow := exec.CommandContext(following, "dhalion", "ingest", "flink", "prod", "--every", "500ms", "--config", b.config)
	follow.Env = append(os.Environ(), b.db.env...)
	if err := follow.Start(); err != nil {
		t.Fatal(err)
	}
	a, out, errs := b.app(time.Now)
	code := a.run(t.Context(), []string{"apply", id, "-o", "json", "--config", b.config})
	said := out.String()
	if code != exitFailure {
		t.Errorf("it ended with %d: %s", code, errs)
	}
	stop()
	_ = follow.Wait() // it was killed
	var came struct {
		Result   string
		Reversal *struct{ Plan, Result, State string }
	}
	if err := json.Unmarshal([]byte(said), &came); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	if came.Result != "unmet" || came.Reversal == nil || came.Reversal.Result != "met" {
		t.Fatalf("%s", said)
	}
	if state, why := b.state(id); state != "unmet" || !strings.Contains(why, "busy") {
		t.Errorf("the plan is %s: %s", state, why)
	}
	// As before: count had 4 instances, and each way was one request.
	if err := wants(map[string]int{"lines": 2, "parse": 3, "count": 4, "store": 2}, "--salt", "1", "--fast")(b.cluster.Live("orders")); err != nil {
		t.Error(err)
	}
	if n := len(b.cluster.Effects()); n != 2 {
		t.Errorf("%d effects: %+v", n, b.cluster.Effects())
	}
	if n := b.db.text(`SELECT count(*)::text FROM incidents WHERE certainty <= 0.7`)[0]; n == "0" {
		t.Error("nothing was learned from it")
	}
	if late := b.db.text(`SELECT end_time::text FROM incidents WHERE source = 'outcome of ' || $1
		AND end_time > (SELECT min(at) FROM journal WHERE plan = $1)`, id); len(late) > 0 {
		t.Errorf("the stretch that is labelled as sick goes on after the plan was begun, to %v", late)
	}
}

// refusing has the cluster say no to requests of a kind.
func (b *bench) refusing(method, suffix string) {
	b.cluster.SetFault(func(m, path string) (f flinktest.Fault) {
		if m == method && strings.HasSuffix(path, suffix) {
			f.Status = http.StatusBadRequest
		}
		return f
	})
}

// undone proposes and applies what undoes a plan, from what the job is now.
func (b *bench) undone(id string) {
	b.t.Helper()
	b.settled()
	b.ingest()
	undo := filepath.Join(b.dir, "undo.json")
	b.run("rollback", id, "--out", undo)
	b.run("approve", undo, "--as", "bob")
	b.run("apply", undo, "--no-wait")
	b.settled()
}

func TestWhatAFailedPlanDidIsRolledBack(t *testing.T) {
	b := newBench(t, calling(t, newSession(t).url, "partly"))
	id, _ := b.approvedPlan(b.draft(func(t dhalion.Topology) []dhalion.Action {
		return []dhalion.Action{rescale(t, "count", 6), knob(t, "--salt", "1", "4"), rescale(t, "parse", 5)}
	}))
	b.refusing("POST", "/stop")
	said, code := b.try(time.Now, "apply", id, "--no-wait")
	if code != exitFailure || !strings.Contains(said, "dhalion rollback "+id) {
		t.Fatalf("it ended with %d: %s", code, said)
	}
	if state, why := b.state(id); state != "failed" {
		t.Fatalf("it is %s: %s", state, why)
	}
	b.undone(id)
	if err := wants(map[string]int{"lines": 2, "parse": 3, "count": 4, "store": 2}, "--salt", "1", "--fast")(b.cluster.Live("orders")); err != nil {
		t.Error(err)
	}
	// parse was never touched, so what undoes the plan does not touch it.
	if n := len(b.cluster.Effects()); n != 2 {
		t.Errorf("%d effects: %+v", n, b.cluster.Effects())
	}
	undo := b.db.text(`SELECT jsonb_array_length(body::jsonb -> 'actions')::text FROM plans WHERE reverses = $1`, id)
	if strings.Join(undo, ",") != "1" {
		t.Errorf("it is undone by %v actions", undo)
	}
}

func TestWhatAnAbortedPlanDidIsNotedAndRolledBack(t *testing.T) {
	b := newBench(t, calling(t, newSession(t).url, "ended"))
	id, _ := b.approvedPlan(b.draft(func(t dhalion.Topology) []dhalion.Action {
		return []dhalion.Action{rescale(t, "count", 6), knob(t, "--salt", "1", "4")}
	}))
	if !endedByKill(t, b.applying(id, "DHALION_CRASH_AT="+string(apply.BeforeAct)+":2")) {
		t.Fatal("it was not killed")
	}
	said := b.run("apply", id, "--abort", "--reason", "looked at it")
	if !strings.Contains(said, "dhalion rollback "+id) {
		t.Errorf("it does not say how what was done is undone: %s", said)
	}
	noted := b.db.text(`SELECT kind || ' ' || applied FROM outcomes WHERE plan = $1 ORDER BY action`, id)
	if strings.Join(noted, ", ") != "set_parallelism applied, set_knob failed" {
		t.Errorf("it came to %q", noted)
	}
	b.settled()
	b.ingest()
	if said := b.run("rollback", id, "-o", "json"); !strings.Contains(said, `"to": 4`) {
		t.Errorf("count is not set back: %s", said)
	}
}

func TestAnAbortInTheMiddleOfARestartSaysFromWhereTheJobIsStarted(t *testing.T) {
	db := calling(t, newSession(t).url, "halfway")
	knobs := func(more ...dhalion.Action) func(t dhalion.Topology) []dhalion.Action {
		return func(t dhalion.Topology) []dhalion.Action { return append(more, knob(t, "--salt", "1", "4")) }
	}
	for _, c := range []struct {
		name    string
		at      string // where the apply is killed
		actions func(t dhalion.Topology) []dhalion.Action
		stopped bool // whether the savepoint is known
		undo    bool // whether there is something to undo, too
	}{
		{"the savepoint is confirmed", "after-confirm:1", knobs(), true, false},
		{"the next run was begun", "before-act:2", knobs(), true, false},
		{"the stop was sent", "after-act:1", knobs(), false, false},
		{"after a rescale", "before-act:3", func(t dhalion.Topology) []dhalion.Action { return knobs(rescale(t, "count", 6))(t) }, true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, db)
			id, _ := b.approvedPlan(b.draft(c.actions))
			if !endedByKill(t, b.applying(id, "DHALION_CRASH_AT="+c.at)) {
				t.Fatal("it was not killed")
			}
			var ended applied
			said := b.run("apply", id, "--abort", "--reason", "looked at it", "-o", "json")
			if err := json.Unmarshal([]byte(said), &ended); err != nil {
				t.Fatalf("%v: %s", err, said)
			}
			stopped, from := "prod/orders may be stopped", "its newest savepoint"
			if c.stopped {
				kept := b.db.text(`SELECT 'run ' || (result #>> '{next,note,run}') || ' is stopped with savepoint ' || (result #>> '{next,note,savepoint}')
					FROM journal WHERE plan = $1 AND result ->> 'outcome' = 'partly'`, id)
				if len(kept) != 1 {
					t.Fatalf("the journal has %q", kept)
				}
				stopped, from = kept[0], "that savepoint"
				if last := ended.Outcomes[len(ended.Outcomes)-1]; last.Applied != "failed" || !strings.Contains(last.Detail, stopped) {
					t.Errorf("it came to %s: %s", last.Applied, last.Detail)
				}
			}
			want := stopped + ": where no run of prod/orders is alive, start it from " + from + " (--resume in place of --abort would have)"
			if c.undo {
				want += "; then undo what was done: dhalion rollback " + id
			}
			if ended.Hint != want {
				t.Errorf("it says %q, not %q", ended.Hint, want)
			}
			if _, why := b.state(id); why != "looked at it; "+stopped {
				t.Errorf("the log says %q", why)
			}
		})
	}
}

func TestOfAPlanThatDidNothingThereIsNothingToRollBack(t *testing.T) {
	b := newBench(t, calling(t, newSession(t).url, "undone"))
	id, _ := b.approvedPlan(b.draft(func(t dhalion.Topology) []dhalion.Action {
		return []dhalion.Action{knob(t, "--salt", "1", "4"), rescale(t, "count", 6)}
	}))
	b.refusing("POST", "/stop")
	if said, code := b.try(time.Now, "apply", id, "--no-wait"); code != exitFailure || strings.Contains(said, "rollback") {
		t.Fatalf("it ended with %d: %s", code, said)
	}
	said, code := b.try(time.Now, "rollback", id)
	if code != exitFailure || !strings.Contains(said, "plan "+id+" is failed, and nothing of it was done") || strings.Contains(said, "discard") {
		t.Errorf("rollback ended with %d: %s", code, said)
	}
}

// hopeless is an approved plan that a policy has undone, for what it expects cannot
// be.
func (b *bench) hopeless(policy string) (id string) {
	b.t.Helper()
	b.ruled("outcome: {unmet: reverse}\nwindow: 2s\nminimum: {span: 0s, polls: 1}\nlimits: {max_instances_touched: 1.0}\n"+policy, "")
	p := b.draft(one6)
	p.Actions[0].Expect = dhalion.Expectation{Summary: "hardly anything to do", WithinSeconds: 4,
		Checks: []dhalion.Check{{Metric: dhalion.Busy, Target: dhalion.ComponentTarget(orders, "count"), Compare: "at_most", Value: 1e-6}}}
	id, _ = b.approvedPlan(p)
	return id
}

// unmet judges a plan without anything that follows from it, as an apply does that
// is killed thereafter.
func (b *bench) unmet(id string) {
	b.t.Helper()
	b.store(func(ctx context.Context, st *store.Store) error {
		_, err := st.Judge(ctx, id, dhalion.PlanUnmet, "as the test has it", nil, nil, time.Now())
		return err
	})
}

// measured ingests the job until its history goes on for so long after a plan was
// applied.
func (b *bench) measured(id string, long time.Duration) {
	b.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; {
		b.run("ingest", "flink", "prod", "--every", "500ms", "--for", "2s")
		var newest time.Time
		b.store(func(ctx context.Context, st *store.Store) (err error) {
			newest, err = st.Newest(ctx, orders)
			return err
		})
		var since time.Time
		if err := since.UnmarshalText([]byte(b.db.text(`SELECT to_char(state_since AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') FROM plans WHERE id = $1`, id)[0])); err != nil {
			b.t.Fatal(err)
		}
		if newest.Sub(since) >= long {
			return
		}
		if time.Now().After(deadline) {
			b.t.Fatalf("the newest measurement is of %s, and the plan was applied at %s", newest, since)
		}
	}
}

func TestAPlanThatIsJudgedLaterIsUndoneWhereItsPolicySaysSo(t *testing.T) {
	g := newTogether(t)
	for name, late := range map[string]time.Duration{"at once": 0, "an hour later": time.Hour} {
		g.run(name, func(t *testing.T) {
			b := newBench(t, newDatabase(t))
			id := b.hopeless("")
			b.run("apply", id, "--no-wait")
			// It has 4 s; windows end 2 s and 12 s after it was applied.
			b.measured(id, 12*time.Second)
			for _, args := range [][]string{{"ingest", "flink", "prod", "--every", "20ms", "--for", "20ms"}, {"outcomes", "--judge"}} {
				if said, code := b.try(after(late), args...); code != 0 {
					t.Fatalf("%s ended with %d: %s", args[0], code, said)
				} else if args[0] == "outcomes" && !strings.Contains(said, "Its policy has a plan undone that was not met.") {
					t.Errorf("it does not say that the plan was undone: %s", said)
				}
			}
			if state, why := b.state(id); state != "unmet" || b.count() != 4 {
				t.Fatalf("it is %s (%s), and count has %d instances", state, why, b.count())
			}
			undo := b.db.text(`SELECT author || ' ' || state FROM plans WHERE reverses = $1`, id)
			if strings.Join(undo, ",") != "policy shop applied" {
				t.Errorf("it is undone by %q", undo)
			}
			if n := b.db.text(`SELECT count(*)::text FROM incidents WHERE source = 'outcome of ' || $1`, id)[0]; n == "0" {
				t.Error("nothing was learned from it")
			}
			if said, code := b.try(after(late), "outcomes", "--judge"); code != 0 {
				t.Errorf("judging again ended with %d: %s", code, said)
			}
			if n := len(b.cluster.Effects()); n != 2 {
				t.Errorf("%d effects: %+v", n, b.cluster.Effects())
			}
		})
	}
	g.all.Wait()
}

func TestAHistoryThatWentOnGivesTheSameVerdictHoweverLateItIsJudged(t *testing.T) {
	b := newBench(t, newDatabase(t))
	b.ruled("window: 10s\nminimum: {span: 0s, polls: 1}\n", "")
	settled := time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		job   dhalion.JobID
		calm  time.Duration // from when on after the plan it is half as busy; of windows of 10 s, the third is the first that shows no more than .6
		state string
	}{{"made/met", 15 * time.Second, "met"}, {"made/unmet", 2 * time.Hour, "unmet"}} {
		p := b.draft(one6)
		p.Job, p.Actions[0].Because, p.Actions[0].Affects = c.job, nil, nil
		count := dhalion.ComponentTarget(c.job, "count")
		p.Actions[0].Target, p.Actions[0].Reverse.Target = count, count
		p.Actions[0].Expect = dhalion.Expectation{Summary: "it has less to do", WithinSeconds: 30,
			Checks: []dhalion.Check{{Metric: dhalion.Busy, Target: count, Compare: "at_most", Value: .6}}}
		rows := "time,job,component,instance,metric,value\n"
		for at := -time.Minute; at <= time.Hour; at += 5 * time.Second {
			busy := "1"
			if at > c.calm {
				busy = "0.5"
			}
			rows += fmt.Sprintf("%s,%s,count,0,busy_fraction,%s\n", settled.Add(at).Format(time.RFC3339), c.job.Name(), busy)
		}
		history := filepath.Join(b.dir, c.job.Name()+".csv")
		b.write(history, rows, 0o600)
		b.run("ingest", history, "--engine", "made")
		var verdicts []string
		for _, late := range []time.Duration{time.Minute, 11 * time.Minute, time.Hour} {
			p.AsOf = p.AsOf.Add(time.Second) // another plan each time
			id, _ := b.approvedPlan(p)
			b.store(func(ctx context.Context, st *store.Store) error {
				lease, err := st.Begin(ctx, apply.Beginning{Plan: id, Jobs: apply.Jobs(p), Holder: "the test", Now: settled, Length: time.Minute})
				if err != nil {
					return err
				}
				return st.End(ctx, lease, dhalion.PlanApplied, "", []dhalion.Outcome{{Plan: id, Job: c.job, Kind: dhalion.SetParallelism, Target: count, Applied: "applied", At: settled}}, settled)
			})
			if said, code := b.try(func() time.Time { return settled.Add(late) }, "outcomes", id, "--judge"); code != 0 {
				t.Fatalf("outcomes ended with %d: %s", code, said)
			}
			state, why := b.state(id)
			verdicts = append(verdicts, state+": "+why)
		}
		if verdicts = slices.Compact(verdicts); len(verdicts) != 1 || !strings.HasPrefix(verdicts[0], c.state+": ") {
			t.Errorf("after a minute, eleven, and an hour %s is %q", c.job, verdicts)
		}
	}
}

func TestAPlanWhoseApplyIsKilledBetweenTheVerdictAndItsReversalIsUndone(t *testing.T) {
	for _, c := range []struct {
		name    string
		policy  string
		between func(b *bench, id string)
		after   time.Duration
		count   int
		says    string
	}{
		{"nothing was proposed", "", nil, 0, 4, "Its policy has a plan undone"},
		{"it was proposed and not approved", "", func(b *bench, id string) { b.run("rollback", id, "--as", "policy shop") }, 0, 4, "Its policy has a plan undone"},
		{"a person has proposed it", "", func(b *bench, id string) { b.run("rollback", id, "--as", "ann") }, 0, 6, ""},
		{"a person said no", "", func(b *bench, id string) {
			b.run("rollback", id, "--as", "policy shop")
			b.run("discard", b.db.text(`SELECT id FROM plans WHERE reverses = $1`, id)[0])
		}, 0, 6, ""},
		{"two days ago", "", nil, 48 * time.Hour, 6, ""},
		{"under four eyes", "approve: {four_eyes: true}\n", nil, 0, 6, "its policy has it undone, and asks for four eyes: dhalion approve"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, newDatabase(t))
			id := b.hopeless(c.policy)
			b.run("apply", id, "--no-wait")
			b.unmet(id)
			b.settled()
			b.ingest()
			if c.between != nil {
				c.between(b, id)
			}
			said, code := b.try(func() time.Time { return time.Now().Add(c.after) }, "outcomes", id, "--judge")
			if code != 0 || !strings.Contains(said, c.says) || b.count() != c.count {
				t.Errorf("it ended with %d and %d instances: %s", code, b.count(), said)
			}
			if n := b.db.text(`SELECT count(*)::text FROM plans WHERE reverses = $1`, id)[0]; n > "1" {
				t.Errorf("%s plans undo it", n)
			}
		})
	}
}

// reversed has what follows from a verdict done by flags of the apply before it.
func (b *bench) reversed(id string, f applyFlags) (done *applied) {
	b.t.Helper()
	done, f.judge.changed = &applied{}, func(string) bool { return false }
	a, _, _ := b.app(time.Now)
	b.store(func(ctx context.Context, st *store.Store) error {
		d, err := find(ctx, st, id)
		if err != nil {
			return err
		}
		engine, err := a.reach(orders)
		if err != nil {
			return err
		}
		defer engine.close()
		return a.reverse(ctx, st, engine, d, f, done)
	})
	return done
}

func TestAReversalIsAnApplyOfItsOwn(t *testing.T) {
	b := newBench(t, calling(t, newSession(t).url, "own"))
	id := b.hopeless("")
	b.run("apply", id, "--no-wait")
	b.unmet(id)
	b.settled()
	b.ingest()
	done := b.reversed(id, applyFlags{noWait: true, resume: true, decided: "done", as: "eve"})
	if done.Reversal == nil || done.Reversal.Result != "applied" || b.count() != 4 {
		t.Fatalf("count has %d instances: %+v", b.count(), done)
	}
	if said := b.db.text(`SELECT plan || ' ' || person FROM log WHERE event = 'decided'`); len(said) > 0 {
		t.Errorf("the log says that it was decided: %q", said)
	}
}

func TestAReversalThatTheEngineWouldRefuseIsNotBegun(t *testing.T) {
	b := newBench(t, calling(t, newSession(t).url, "unfit"))
	b.ruled("outcome: {unmet: reverse}\nminimum: {span: 0s, polls: 1}\nlimits: {max_instances_touched: 1.0}\n", "")
	id, _ := b.approvedPlan(b.draft(planKinds[1].actions))
	b.run("apply", id, "--no-wait")
	b.unmet(id)
	b.settled()
	b.ingest()
	text, err := os.ReadFile(b.config)
	if err != nil {
		t.Fatal(err)
	}
	b.write(b.config, strings.Replace(string(text), "jar: shop.jar", "jar: gone.jar", 1), 0o600)
	done := b.reversed(id, applyFlags{noWait: true})
	if done.Reversal != nil || !strings.Contains(done.Hint, "is not begun") || !strings.Contains(done.Hint, "no uploaded jar is called gone.jar; when that is mended: dhalion apply ") {
		t.Errorf("it came to %+v: %s", done.Reversal, done.Hint)
	}
	if state := b.db.text(`SELECT state FROM plans WHERE reverses = $1`, id); strings.Join(state, ",") != "approved" {
		t.Errorf("what undoes it is %q", state)
	}
}

func TestAPlanThatCannotBeJudgedDoesNotKeepTheOthersFromIt(t *testing.T) {
	b, id := ready(t, calling(t, newSession(t).url, "others"), planKinds[0])
	b.run("apply", id, "--no-wait")
	b.settled()
	b.ingest()
	last, _ := b.approvedPlan(b.draft(func(t dhalion.Topology) []dhalion.Action { return []dhalion.Action{rescale(t, "lines", 3)} }))
	b.run("apply", last, "--no-wait")
	// By which policy it was made cannot be read.
	if err := execute(b.db.url, `INSERT INTO log (at, job, plan, event, detail) VALUES (now(), 'prod/orders', '`+last+`', 'policy', '[]')`); err != nil {
		t.Fatal(err)
	}
	said, code := b.try(func() time.Time { return time.Now().Add(12 * time.Minute) }, "outcomes", "--judge")
	if state, why := b.state(id); state != "unclear" {
		t.Errorf("the other is %s: %s", state, why)
	}
	if code != exitFailure || !strings.Contains(said, "plan "+last) {
		t.Errorf("it ended with %d: %s", code, said)
	}
}

func TestAPlanThatWasFollowedByAnotherChangeIsNotRolledBack(t *testing.T) {
	for _, c := range []struct {
		name    string
		actions func(t dhalion.Topology) []dhalion.Action
		then    func(t dhalion.Topology) []dhalion.Action
		says    string
	}{
		{"rescaled", one6, func(t dhalion.Topology) []dhalion.Action { return []dhalion.Action{rescale(t, "count", 10)} }, "that is 10"},
		{"set back", one6, func(t dhalion.Topology) []dhalion.Action { return []dhalion.Action{rescale(t, "count", 4)} }, "this is set back already"},
		{
			"turned", func(t dhalion.Topology) []dhalion.Action { return []dhalion.Action{knob(t, "--salt", "1", "4")} },
			func(t dhalion.Topology) []dhalion.Action { return []dhalion.Action{knob(t, "--salt", "4", "8")} }, "that is 8",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, newDatabase(t))
			var first string
			for _, actions := range []func(dhalion.Topology) []dhalion.Action{c.actions, c.then} {
				id, _ := b.approvedPlan(b.draft(actions))
				b.run("apply", id, "--no-wait")
				b.settled()
				b.ingest()
				if first == "" {
					first = id
				}
			}
			said, code := b.try(time.Now, "rollback", first)
			if code != exitFailure || !strings.Contains(said, c.says) {
				t.Errorf("rollback ended with %d: %s", code, said)
			}
			if n := b.db.text(`SELECT count(*)::text FROM plans WHERE reverses = $1`, first)[0]; n != "0" {
				t.Errorf("%s plans undo it", n)
			}
		})
	}
}

func TestWhatNothingUndoesIsToldByTheRollback(t *testing.T) {
	b := newBench(t, calling(t, newSession(t).url, "stays"))
	id, _ := b.approvedPlan(b.draft(func(t dhalion.Topology) []dhalion.Action {
		return []dhalion.Action{relocation(t, "tm-2"), rescale(t, "count", 6)}
	}))
	b.run("apply", id, "--no-wait")
	b.settled()
	b.ingest()
	said := b.run("rollback", id, "-o", "json")
	if !strings.Contains(said, "W-rollback-part") || !strings.Contains(said, "nothing is known that undoes it") {
		t.Errorf("it does not say that the instances stay where they are: %s", said)
	}
}

func TestADryRunOfSeveralStepsPrintsTheCallsThatApplySends(t *testing.T) {
	for _, c := range []struct {
		name    string
		actions func(t dhalion.Topology) []dhalion.Action
	}{
		{"rescale, then knob", func(t dhalion.Topology) []dhalion.Action {
			return []dhalion.Action{rescale(t, "count", 6), knob(t, "--salt", "1", "4")}
		}},
		{"two knobs, then rescale", func(t dhalion.Topology) []dhalion.Action {
			return []dhalion.Action{rescale(t, "parse", 4), knob(t, "--salt", "1", "4"), knob(t, "--batch", "10", "20"), rescale(t, "count", 2), rescale(t, "parse", 5)}
		}},
		{"a hook between", func(t dhalion.Topology) []dhalion.Action {
			return []dhalion.Action{knob(t, "--salt", "1", "4"), relocation(t, "tm-2"), rescale(t, "count", 6)}
		}},
		{"the program's own parallelism", func(t dhalion.Topology) []dhalion.Action { return []dhalion.Action{knob(t, "--salt", "1", "4")} }},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, newDatabase(t))
			id, _ := b.approvedPlan(b.draft(c.actions))
			var dry struct{ Steps []apply.Step }
			if err := json.Unmarshal([]byte(b.run("apply", id, "--dry-run", "-o", "json")), &dry); err != nil {
				t.Fatal(err)
			}
			savepoint := regexp.MustCompile(`"savepointPath":"[^"]*"`)
			line := func(method, path string, body []byte) string {
				var compact bytes.Buffer
				if err := json.Compact(&compact, body); err != nil {
					t.Fatalf("%s: %v", body, err)
				}
				return method + " " + path + " " + savepoint.ReplaceAllString(compact.String(), `"savepointPath":"…"`)
			}
			b.run("apply", id, "--no-wait")
			var sent []string
			for _, r := range b.cluster.Requests() {
				sent = append(sent, line(r.Method, r.Path, r.Body))
			}
			for _, s := range dry.Steps {
				if s.Refused != "" {
					t.Errorf("%s would be refused: %s", s.Text, s.Refused)
				}
				if s.Call == nil {
					continue
				}
				for _, r := range s.Call.Requests {
					said := line(r.Method, r.Path, r.Body)
					switch {
					case len(sent) > 0 && sent[0] == said:
						sent = sent[1:]
					case r.Where == "":
						t.Fatalf("it said\n%s\nand sent\n%s", said, strings.Join(sent, "\n"))
					}
				}
			}
			if len(sent) > 0 {
				t.Errorf("it did not say %q", sent)
			}
		})
	}
}

// turning has dhalion.yaml say that knobs are set by a hook, which asks the bench to
// start the job anew with --salt as it is told, or does nothing.
func (b *bench) turning(works bool) {
	b.t.Helper()
	b.configured(oneJob)
	do := "exit 0"
	if works {
		do = fmt.Sprintf(`exec 3<>/dev/tcp/%s || exit 1
printf 'POST /turn/%%s HTTP/1.0\r\n\r\n' "$1" >&3
cat <&3 >/dev/null`, strings.Replace(strings.TrimPrefix(b.url, "http://"), ":", "/", 1))
	}
	b.hook("turn", do, "{to}", "set_knob")
}

func TestAKnobThatAHookSetIsRememberedAndIsSetBackByIt(t *testing.T) {
	b := newBench(t, calling(t, newSession(t).url, "hooked"))
	b.turning(true)
	before := b.cluster.Live("orders").Run
	id, _ := b.approvedPlan(b.draft(func(t dhalion.Topology) []dhalion.Action { return []dhalion.Action{knob(t, "--salt", "1", "4")} }))
	b.run("apply", id, "--no-wait")
	live := b.cluster.Live("orders")
	if live.Run == before || !slices.Equal(live.Arguments, []string{"--salt", "4", "--fast"}) {
		t.Fatalf("run %s has arguments %v", live.Run, live.Arguments)
	}
	b.startedWith(map[string]string{before: "[--salt 1 --fast]", live.Run: "[--salt 4 --fast]"})
	b.undone(id)
	if live := b.cluster.Live("orders"); !slices.Equal(live.Arguments, []string{"--salt", "1", "--fast"}) {
		t.Errorf("it has arguments %v", live.Arguments)
	}
}

func TestWhatAHookSetHoldsForTheRunThatFollowedIt(t *testing.T) {
	b := newBench(t, newDatabase(t))
	b.turning(true)
	id, _ := b.approvedPlan(b.draft(func(t dhalion.Topology) []dhalion.Action { return []dhalion.Action{knob(t, "--salt", "1", "4")} }))
	b.run("apply", id, "--no-wait")
	hooks := b.cluster.Live("orders").Run
	// A person starts a new release by hand, and dhalion.yaml says with what; the hook is gone.
	b.cluster.SetState(hooks, "CANCELED")
	b.cluster.StartJar(b.cluster.Upload("shop.jar", shop), "--salt", "2", "--fast", "--audit")
	b.configured(strings.Replace(oneJob, `[--salt, "1", --fast]`, `[--salt, "2", --fast, --audit]`, 1))
	b.ingest()
	b.startedWith(map[string]string{hooks: "[--salt 4 --fast]", b.cluster.Live("orders").Run: "[--salt 2 --fast --audit]"})
	id, _ = b.approvedPlan(b.draft(func(t dhalion.Topology) []dhalion.Action { return []dhalion.Action{knob(t, "--salt", "2", "8")} }))
	b.run("apply", id, "--no-wait")
	if live := b.cluster.Live("orders"); !slices.Equal(live.Arguments, []string{"--salt", "8", "--fast", "--audit"}) {
		t.Errorf("it has arguments %v", live.Arguments)
	}
}

// startedWith holds with which arguments runs of orders are said to have been started.
func (b *bench) startedWith(want map[string]string) {
	b.t.Helper()
	b.store(func(ctx context.Context, st *store.Store) error {
		a, _, _ := b.app(time.Now)
		for run, want := range want {
			if got, err := a.arguments(ctx, st, orders, run); err != nil || fmt.Sprint(got) != want {
				b.t.Errorf("run %s was started with %v, not %s: %v", run, got, want, err)
			}
		}
		return nil
	})
}

func TestWhatAHookSetHoldsWhereNobodyNotedWhichRunFollowedIt(t *testing.T) {
	for name, again := range map[string]func(b *bench){
		"ours": func(b *bench) { b.configured(oneJob) },
		"hook": func(b *bench) {},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, newDatabase(t))
			b.turning(true)
			before := b.cluster.Live("orders").Run
			id, _ := b.approvedPlan(b.draft(func(t dhalion.Topology) []dhalion.Action { return []dhalion.Action{knob(t, "--salt", "1", "4")} }))
			b.run("apply", id, "--no-wait")
			// Older programs did not.
			if err := execute(b.db.url, `UPDATE journal SET result = result - 'run'`); err != nil {
				t.Fatal(err)
			}
			turned := b.cluster.Live("orders").Run
			b.startedWith(map[string]string{before: "[--salt 1 --fast]", turned: "[--salt 4 --fast]"})
			b.ingest()
			again(b)
			id, _ = b.approvedPlan(b.draft(func(t dhalion.Topology) []dhalion.Action { return []dhalion.Action{knob(t, "--salt", "4", "8")} }))
			b.run("apply", id, "--no-wait")
			if live := b.cluster.Live("orders"); !slices.Equal(live.Arguments, []string{"--salt", "8", "--fast"}) {
				t.Errorf("it has arguments %v", live.Arguments)
			}
			// From then on the journal says which run has what, and of others dhalion.yaml does.
			b.startedWith(map[string]string{b.cluster.Live("orders").Run: "[--salt 8 --fast]", "somebody's": "[--salt 1 --fast]"})
		})
	}
}

func TestWhatAHookSetHoldsForARunThatCameUpTooLate(t *testing.T) {
	b := newBench(t, newDatabase(t))
	before := b.cluster.Live("orders").Run
	id := b.idle()
	b.cluster.SetState(before, "CANCELED")
	b.cluster.StartJar(b.cluster.Upload("shop.jar", shop), "--salt", "4", "--fast")
	late := b.cluster.Live("orders").Run
	b.run("apply", id, "--abort", "--reason", "it took too long")
	b.startedWith(map[string]string{before: "[--salt 1 --fast]", late: "[--salt 4 --fast]"})
	// A restart of ours that sets another knob leaves it.
	b.ingest()
	b.configured(oneJob)
	id, _ = b.approvedPlan(b.draft(func(t dhalion.Topology) []dhalion.Action { return []dhalion.Action{knob(t, "--batch", "10", "20")} }))
	b.run("apply", id, "--no-wait")
	if live := b.cluster.Live("orders"); !strings.Contains(fmt.Sprint(live.Arguments), "--salt 4 --fast") {
		t.Errorf("it has arguments %v", live.Arguments)
	}
}

func TestAHookThatStartsNothingAnewHasNotSetAKnob(t *testing.T) {
	b := newBench(t, calling(t, newSession(t).url, "idle"))
	b.idle()
	b.startedWith(map[string]string{b.cluster.Live("orders").Run: "[--salt 1 --fast]"})
}

// idle applies a plan whose hook should set --salt from 1 to 4, and does nothing.
func (b *bench) idle() (id string) {
	t := b.t
	t.Helper()
	b.turning(false)
	id, _ = b.approvedPlan(b.draft(func(t dhalion.Topology) []dhalion.Action { return []dhalion.Action{knob(t, "--salt", "1", "4")} }))
	// From when the hook has ended on every look at the clock takes some minutes.
	var ended atomic.Bool
	var looks atomic.Int64
	a, _, errs := b.app(func() time.Time {
		if ended.Load() {
			looks.Add(1)
		}
		return time.Now().Add(time.Duration(looks.Load()) * settleIn / 2)
	})
	a.observe = func(p apply.Point) {
		if p == apply.AfterConfirm {
			ended.Store(true)
		}
	}
	code := a.run(t.Context(), []string{"apply", id, "--no-wait"})
	if state, why := b.state(id); code != exitFailure || state != "unclear" || !strings.Contains(why, "no other was started") {
		t.Errorf("it ended with %d and is %s: %s %s", code, state, why, errs)
	}
	return id
}

func TestAMoveThatLeavesFewerInstancesIsDoneWhenTheyAreBack(t *testing.T) {
	b := newBench(t, newDatabase(t))
	b.cluster.Slots, b.cluster.Lag = 1, 0 // and four workers: without tm-2 count has 3 of its 4 instances
	b.ingest()
	id, _ := b.approvedPlan(b.draft(planKinds[2].actions))
	// From when the job has come to rest without tm-2 on every look at the clock takes some minutes.
	var looks atomic.Int64
	a, _, errs := b.app(func() time.Time {
		if !slices.Contains(b.cluster.Workers(), "tm-2") && b.cluster.Settled("orders") {
			looks.Add(1)
		}
		return time.Now().Add(time.Duration(looks.Load()) * settleIn / 2)
	})
	code := a.run(t.Context(), []string{"apply", id, "--no-wait"})
	if state, why := b.state(id); code != exitFailure || state != "unclear" || !strings.Contains(why, "the engine runs fewer instances than before: count 3 of 4") {
		t.Fatalf("it ended with %d and is %s: %s %s", code, state, why, errs)
	}
	// The hook's replacement has joined, and the engine has noticed.
	b.cluster.Join("tm-5")
	b.cluster.Rescale(b.cluster.Live("orders").Run, "count", 4)
	b.run("apply", id, "--resume", "--no-wait")
	if state, why := b.state(id); state != "applied" || len(b.hooksRun()) != 1 {
		t.Errorf("it is %s (%s), and the hook ran for %v", state, why, b.hooksRun())
	}
}

func TestAnAlertIsPrintedAndToldByAHook(t *testing.T) {
	for _, c := range []struct {
		name    string
		hook    string // what it does with the message; empty: there is none
		more    bool   // whether the plan rescales, too
		code    int
		state   string
		outcome string
		told    string
	}{
		{"without a hook", "", false, exitDone, "applied", "applied checkpoints fail", ""},
		{"by a hook", `printf '%s\n' "$1" >>`, true, exitDone, "applied", "applied checkpoints fail", "checkpoints fail\n"},
		{"by a hook that fails", "exit 3", false, exitFailure, "failed", "failed checkpoints fail; hook page ended with 3", ""},
		{"by a hook that fails, with a rescale", "exit 3", true, exitDone, "applied", "failed checkpoints fail; hook page ended with 3", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, newDatabase(t))
			told := filepath.Join(b.dir, "told.txt")
			if c.hook != "" {
				b.hook("page", strings.Replace(c.hook, ">>", ">>"+told, 1), "{message}", "alert")
			}
			id, _ := b.approvedPlan(b.draft(func(t dhalion.Topology) []dhalion.Action {
				if c.more {
					return []dhalion.Action{alert(t), rescale(t, "count", 6)}
				}
				return []dhalion.Action{alert(t)}
			}))
			if dry := b.run("apply", id, "--dry-run"); c.hook != "" && !strings.Contains(dry, "/page 'checkpoints fail'") {
				t.Errorf("the dry run does not say who is told: %s", dry)
			}
			said, code := b.try(time.Now, "apply", id, "--no-wait")
			if state, why := b.state(id); code != c.code || state != c.state || !strings.Contains(said, "checkpoints fail") {
				t.Errorf("it ended with %d and is %s (%s): %s", code, state, why, said)
			}
			noted := b.db.text(`SELECT applied || ' ' || detail FROM outcomes WHERE plan = $1 AND kind = 'alert'`, id)
			if strings.Join(noted, ",") != c.outcome {
				t.Errorf("it came to %q", noted)
			}
			if text, err := os.ReadFile(told); string(text) != c.told || err != nil && c.told != "" {
				t.Errorf("it told %q, %v", text, err)
			}
			if c.more && b.count() != 6 {
				t.Errorf("count has %d instances", b.count())
			}
		})
	}
}
