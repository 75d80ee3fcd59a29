package main

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/apply"
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
				b.run("apply", id, "--resume", "--decided", c.decided, "--no-wait")
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
}
