package main

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

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
