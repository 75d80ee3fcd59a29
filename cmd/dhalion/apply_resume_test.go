package main

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/apply"
	"github.com/dhalion-go/dhalion/internal/engine/flink/flinktest"
)

// interrupted is an approved plan of one rescale, count from 4 to 6, whose applier
// was killed at a point.
func interrupted(t *testing.T, at apply.Point) (b *bench, id string) {
	t.Helper()
	b = newBench(t, newDatabase(t))
	id, _ = b.approvedPlan(b.draft(one6))
	if !endedByKill(t, b.applying(id, "DHALION_CRASH_AT="+string(at))) {
		t.Fatal("it was not killed")
	}
	return b, id
}

// after is a clock that is so much ahead.
func after(d time.Duration) func() time.Time {
	return func() time.Time { return time.Now().Add(d) }
}

// count is how many instances the component count was told to have.
func (b *bench) count() int { return b.cluster.Live("orders").Parallelism["count"] }

func TestAPlanThatWasBegunAndHasNotEndedKeepsEveryOtherPlanOut(t *testing.T) {
	t.Parallel()
	b, id := interrupted(t, apply.BeforeAct)
	other, _ := b.approvedPlan(b.draft(func(t dhalion.Topology) []dhalion.Action {
		return []dhalion.Action{rescale(t, "count", 3), rescale(t, "parse", 1)}
	}))
	// Its lease was good for 30 s.
	b.db.text(`UPDATE leases SET until = now() - interval '10 s' RETURNING job`)
	said, code := b.try(time.Now, "apply", other, "--no-wait")
	if code != exitHeld || !strings.Contains(said, "plan "+id+" holds prod/orders") || !strings.Contains(said, "--resume") || !strings.Contains(said, "--abort") {
		t.Errorf("the other plan ended with %d: %s", code, said)
	}
	if state, _ := b.state(other); state != "approved" || len(b.cluster.Effects()) != 0 {
		t.Errorf("the other plan is %s, effects %+v", state, b.cluster.Effects())
	}
	said, code = b.try(time.Now, "apply", id, "--no-wait")
	if code != exitHeld || !strings.Contains(said, "it is being applied already") || !strings.Contains(said, "--resume") {
		t.Errorf("without --resume it ended with %d: %s", code, said)
	}
	b.run("apply", id, "--abort", "--reason", "replaced")
	b.run("apply", other, "--no-wait")
	if n := b.count(); n != 3 {
		t.Errorf("count has %d instances", n)
	}
}

func TestWhatForbidsAPlanNowForbidsItsResumeToo(t *testing.T) {
	t.Parallel()
	rows := newTogether(t)
	for _, c := range []struct {
		name string
		at   apply.Point
		now  func(b *bench) // what is otherwise since
		code int
		says string
	}{
		{"mode observe", apply.BeforeAct, func(b *bench) {
			b.configured(strings.Replace(oneJob, "mode: propose", "mode: observe", 1))
		}, exitNotApproved, "may only be looked at"},
		{"quiet hours", apply.BeforeAct, func(b *bench) {
			from := time.Now().UTC()
			b.ruled(fmt.Sprintf("limits: {quiet_hours: \"%s-%s UTC\"}\n", from.Format("15:04"), from.Add(4*time.Hour).Format("15:04")), "")
		}, exitNotApproved, "within the quiet hours of prod/orders"},
		{"somebody rescaled what the plan would", apply.BeforeAct, func(b *bench) {
			b.cluster.Rescale(b.cluster.Live("orders").Run, "count", 3)
			b.settled()
		}, exitStale, "count had 4 instances and has 3"},
		{"somebody rescaled something else, and nothing was begun", apply.AfterBegin, func(b *bench) {
			b.cluster.Rescale(b.cluster.Live("orders").Run, "parse", 5)
			b.settled()
		}, exitStale, "parse had 3 instances and has 5"},
		{"somebody undid what the plan did", apply.AfterAct, func(b *bench) {
			b.settled()
			b.cluster.Rescale(b.cluster.Live("orders").Run, "parse", 5)
			b.settled()
		}, exitStale, "parse had 3 instances and has 5"},
	} {
		rows.run(c.name, func(t *testing.T) {
			b, id := interrupted(t, c.at)
			c.now(b)
			effects := len(b.cluster.Effects())
			// Two hours later it has expired, which is no reason to leave it half done.
			said, code := b.try(after(2*time.Hour), "apply", id, "--resume", "--no-wait")
			if code != c.code || !strings.Contains(said, c.says) {
				t.Errorf("it ended with %d, want %d and %q: %s", code, c.code, c.says, said)
			}
			if n := len(b.cluster.Effects()); n != effects {
				t.Errorf("it did %+v", b.cluster.Effects()[effects:])
			}
			if state, _ := b.state(id); state != "applying" {
				t.Errorf("it is %s", state)
			}
			b.run("apply", id, "--abort")
		})
	}
	rows.all.Wait()
}

func TestAJobThatThePlanHasStoppedIsStartedWhateverForbidsItNow(t *testing.T) {
	t.Parallel()
	rows := newTogether(t)
	for name, forbid := range map[string]func(b *bench){
		"mode observe": func(b *bench) { b.configured(strings.Replace(oneJob, "mode: propose", "mode: observe", 1)) },
		"quiet hours":  func(b *bench) { b.ruled(fmt.Sprintf("limits: {quiet_hours: %q}\n", hoursNow()), "") },
		"limits":       func(b *bench) { b.ruled("limits: {max_instances_touched: 0.5}\n", "") },
	} {
		// The stop is sent, and its savepoint not heard of; and the savepoint is confirmed.
		for _, at := range []apply.Point{apply.AfterAct, apply.AfterConfirm} {
			rows.run(fmt.Sprintf("%s at %s", name, at), func(t *testing.T) {
				b, id := ready(t, newDatabase(t), planKinds[1])
				if !endedByKill(t, b.applying(id, "DHALION_CRASH_AT="+string(at))) {
					t.Fatal("it was not killed")
				}
				for deadline := time.Now().Add(10 * time.Second); ; {
					if _, alive := b.cluster.RunsOf("orders"); alive == 0 {
						break
					}
					if time.Now().After(deadline) {
						t.Fatal("the job does not stop")
					}
				}
				forbid(b)
				said, code := b.try(time.Now, "apply", id, "--resume", "--no-wait")
				if _, alive := b.cluster.RunsOf("orders"); code != 0 || alive != 1 {
					t.Fatalf("it ended with %d, and %d runs are alive: %s", code, alive, said)
				}
				if err := planKinds[1].after(b.cluster.Live("orders")); err != nil {
					t.Error(err)
				}
			})
		}
	}
	rows.all.Wait()
}

func TestAWorkerIsNotEmptiedWhileTheEngineDoesNotTellWhoSharesIt(t *testing.T) {
	t.Parallel()
	b := newBench(t, newDatabase(t))
	id, _ := b.approvedPlan(b.draft(func(t dhalion.Topology) []dhalion.Action {
		return []dhalion.Action{rescale(t, "count", 6), relocation(t, "tm-2")}
	}))
	if !endedByKill(t, b.applying(id, "DHALION_CRASH_AT="+string(apply.BeforeIntent)+":2")) {
		t.Fatal("it was not killed")
	}
	b.settled()
	b.shared()
	var asked atomic.Bool
	b.cluster.SetFault(func(method, path string) (f flinktest.Fault) { // once: a hook asks for nothing
		if path == "/jobs/overview" && asked.CompareAndSwap(false, true) {
			f.Status = http.StatusServiceUnavailable
		}
		return f
	})
	said, code := b.try(time.Now, "apply", id, "--resume", "--no-wait")
	if code != exitNotApproved || !strings.Contains(said, "whether another job has instances on worker tm-2 is not known") || !strings.Contains(said, "dhalion apply "+id+" --resume") {
		t.Errorf("it ended with %d: %s", code, said)
	}
	if said, code := b.try(time.Now, "apply", id, "--resume", "--no-wait"); code != exitStale || !strings.Contains(said, "prod/besides has instances on worker tm-2, too") {
		t.Errorf("when the engine answers it ended with %d: %s", code, said)
	}
	if ran := b.hooksRun(); len(ran) > 0 {
		t.Errorf("the hook ran for %v", ran)
	}
}

func TestAPlanIsResumedFromWhatItsOwnStepsHaveMade(t *testing.T) {
	t.Parallel()
	for _, at := range []apply.Point{apply.BeforeAct, apply.AfterAct, apply.AfterConfirm} {
		b, id := interrupted(t, at)
		b.settled()
		if said, code := b.try(after(2*time.Hour), "apply", id, "--resume", "--no-wait"); code != 0 {
			t.Errorf("killed at %s it ended with %d: %s", at, code, said)
		}
		if n := b.count(); n != 6 || len(b.cluster.Effects()) != 1 {
			t.Errorf("killed at %s: count has %d instances after %d effects", at, n, len(b.cluster.Effects()))
		}
	}
}
