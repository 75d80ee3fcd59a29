package store

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/apply"
	actuator "github.com/dhalion-go/dhalion/apply/flink"
	"github.com/dhalion-go/dhalion/internal/engine/flink"
	"github.com/dhalion-go/dhalion/internal/engine/flink/flinktest"
)

// bed is a cluster that runs one job, words, and an applier of it by a clock that
// only the applier's waiting moves.
type bed struct {
	*flinktest.Cluster
	t    *testing.T
	s    *Store
	url  string
	mu   sync.Mutex
	now  time.Time
	each func(at time.Time) // is called whenever somebody has waited
}

var saltOne = []string{"--salt", "1"}

func newBed(t *testing.T, s *Store) *bed {
	t.Helper()
	b := &bed{t: t, s: s, now: noon, each: func(time.Time) {}}
	b.Cluster = flinktest.New(b.clock, 3)
	b.Restart, b.Savepoint = time.Second, time.Second
	server := httptest.NewServer(b)
	t.Cleanup(server.Close)
	b.url = server.URL
	b.StartJar(b.Upload("words.jar", func([]string) (string, []flinktest.Vertex) {
		return "words", []flinktest.Vertex{{Name: "lines", Parallelism: 2}, {Name: "counter", Parallelism: 3, From: []string{"lines"}}}
	}), saltOne...)
	return b
}

func (b *bed) clock() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.now
}

func (b *bed) wait(ctx context.Context, d time.Duration) error {
	b.mu.Lock()
	b.now = b.now.Add(d)
	at := b.now
	b.mu.Unlock()
	b.each(at)
	return ctx.Err()
}

func (b *bed) applier(holder string) *apply.Applier {
	client, err := flink.NewClient(b.url, flink.Options{})
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(client.Close)
	hand := &actuator.Actuator{Client: client, Job: "words", Wait: b.wait, Start: &actuator.Start{Jar: "words.jar", Arguments: saltOne}}
	return &apply.Applier{Journal: b.s, Actuator: func(dhalion.Action) (apply.Actuator, error) { return hand, nil }, Holder: holder, Now: b.clock, Wait: b.wait,
		LeaseFor: leaseFor, TryFor: time.Minute, Attempts: 3, SettleIn: 5 * time.Minute}
}

// saltFour is the plan that sets --salt to 4.
func saltFour(job dhalion.JobID) dhalion.Plan {
	plan := threeActions(job)
	plan.Actions = plan.Actions[1:2]
	plan.Actions[0].To = dhalion.TextSetting("4")
	return plan
}

// TestARestartThatLosesItsLeaseWhileTheSavepointIsWrittenStartsNoRun has a savepoint
// of 45 s under a lease of 30 s that nobody renews meanwhile: at 31 s a person ends
// the plan and another one takes the job.
func TestARestartThatLosesItsLeaseWhileTheSavepointIsWrittenStartsNoRun(t *testing.T) {
	s, url := withJob(t)
	p, other := approved(t, s, `{"lost":11}`), approved(t, s, `{"lost":12}`)
	b := newBed(t, s)
	b.Savepoint = 45 * time.Second
	taken := false
	b.each = func(at time.Time) {
		if !taken && at.Sub(noon) > leaseFor+time.Second {
			taken = true
			lapse(t, url)
			if _, err := s.Abort(ctx, p.ID, "ann", "its machine does not answer", "", nil, at); err != nil {
				t.Error(err)
			}
			mustBegin(t, s, beginning(other, "another machine", at))
		}
	}
	_, err := b.applier("one").Apply(ctx, p.ID, saltFour(p.Job), false)
	var lost *apply.LostError
	if !errors.As(err, &lost) || lost.By != other.ID || !taken {
		t.Errorf("it came to %v", err)
	}
	requests := b.Requests()
	if len(requests) != 1 || requests[0].Method != "POST" || requests[0].Path[:6] != "/jobs/" {
		t.Errorf("it sent %+v, and only the stop was under its lease", requests)
	}
}

func TestAJobWhoseNewRunDoesNotComeUpIsStartedAsItWas(t *testing.T) {
	s, _ := withJob(t)
	for i, c := range []struct {
		name  string
		state string // into which the new run comes; empty: it is never there
		runs  int    // of the job, with the first
		alive int
		says  string
	}{
		{"it fails", "FAILED", 3, 1, "is FAILED; it was started from savepoint file:/savepoints/"},
		{"its program does not take the argument", "", 2, 1, "did not start: HTTP 400"},
		{"somebody cancels it", "CANCELED", 2, 0, "is CANCELED; it was started from savepoint file:/savepoints/"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := approved(t, s, fmt.Sprintf(`{"comes up":%d}`, i))
			b := newBed(t, s)
			b.each = func(time.Time) {
				if live := b.Live("words"); c.state != "" && slices.Equal(live.Arguments, []string{"--salt", "4"}) {
					b.SetState(live.Run, c.state)
				}
			}
			var starts atomic.Int32
			b.SetFault(func(method, path string) (f flinktest.Fault) {
				// Three attempts.
				if c.state == "" && method == "POST" && strings.HasPrefix(path, "/jars/") && starts.Add(1) <= 3 {
					f.Status = 400
				}
				return f
			})
			report, err := b.applier("one").Apply(ctx, p.ID, saltFour(p.Job), false)
			if err != nil || report.State != dhalion.PlanFailed || !strings.Contains(report.Why, c.says) {
				t.Fatalf("it is %s (%s), %v", report.State, report.Why, err)
			}
			ids, alive := b.RunsOf("words")
			if len(ids) != c.runs || alive != c.alive {
				t.Fatalf("of the runs %v %d are alive", ids, alive)
			}
			again := "runs again as it did before"
			if c.alive == 0 {
				if strings.Contains(report.Why, again) {
					t.Error(report.Why)
				}
				return
			}
			if live := b.Live("words"); !slices.Equal(live.Arguments, saltOne) || !strings.Contains(report.Why, again) {
				t.Errorf("it runs with %v: %s", live.Arguments, report.Why)
			}
			// The run that was started again is known by its arguments.
			entries, err := s.Done(ctx, p.Job, 1)
			if err != nil || len(entries) != 1 || !entries[0].Intent.Back || !strings.Contains(string(entries[0].Intent.Note), b.Live("words").Run) {
				t.Errorf("the journal has %+v, %v", entries, err)
			}
			entries, err = s.Entries(ctx, p.ID)
			if err != nil || entries[0].Result.Outcome != apply.Partly || !strings.Contains(entries[0].Result.Detail, "savepoint file:/savepoints/") {
				t.Errorf("where the savepoint is was not written down: %+v, %v", entries[0].Result, err)
			}
		})
	}
}

func TestARunThatRestartsOnAndOnLeavesThePlanUnclearAndTellsTheSavepoint(t *testing.T) {
	s, _ := withJob(t)
	p := approved(t, s, `{"comes up":"never"}`)
	b := newBed(t, s)
	b.each = func(time.Time) {
		if live := b.Live("words"); slices.Equal(live.Arguments, []string{"--salt", "4"}) {
			b.SetState(live.Run, "RESTARTING")
		}
	}
	report, err := b.applier("one").Apply(ctx, p.ID, saltFour(p.Job), false)
	if err != nil || report.State != dhalion.PlanUnclear || !strings.Contains(report.Why, "is RESTARTING; it was started from savepoint file:/savepoints/") {
		t.Errorf("it is %s (%s), %v", report.State, report.Why, err)
	}
	if ids, alive := b.RunsOf("words"); alive != 1 {
		t.Errorf("of the runs %v %d are alive", ids, alive)
	}
}

func TestWhereverAnApplierIsKilledAJobWhoseNewRunFailsIsStartedAsItWasOnce(t *testing.T) {
	s, _ := withJob(t)
	for nth := 0; ; nth++ {
		p := approved(t, s, fmt.Sprintf(`{"kill back":%d}`, nth))
		b := newBed(t, s)
		b.each = func(time.Time) {
			if live := b.Live("words"); slices.Equal(live.Arguments, []string{"--salt", "4"}) {
				b.SetState(live.Run, "FAILED")
			}
		}
		left, at := nth, apply.Point("")
		first := b.applier("first")
		first.Observe = func(point apply.Point) {
			if left--; left == -1 {
				at = point
				panic(crashed{point})
			}
		}
		apply1 := func(a *apply.Applier, resume bool) {
			if _, err := a.Apply(ctx, p.ID, saltFour(p.Job), resume); err != nil {
				t.Fatal(err)
			}
		}
		killed := crash(t, func() { apply1(first, false) })
		if killed && stateOf(t, s, p.ID) == dhalion.PlanApplying {
			second := b.applier("second")
			second.Dead = func(string) bool { return true }
			apply1(second, true)
		} else if killed && stateOf(t, s, p.ID) == dhalion.PlanApproved {
			apply1(b.applier("second"), false)
		}
		if state := stateOf(t, s, p.ID); state != dhalion.PlanFailed {
			t.Errorf("killed at %s (%d): it is %s", at, nth, state)
		}
		ids, alive := b.RunsOf("words")
		if live := b.Live("words"); len(ids) != 3 || alive != 1 || !slices.Equal(live.Arguments, saltOne) {
			t.Errorf("killed at %s (%d): of the runs %v %d are alive, with %v", at, nth, ids, alive, live.Arguments)
		}
		if !killed {
			return
		}
	}
}
