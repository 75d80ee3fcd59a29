package store

import (
	"context"
	"errors"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/apply"
	actuator "github.com/dhalion-go/dhalion/apply/flink"
	"github.com/dhalion-go/dhalion/internal/engine/flink"
	"github.com/dhalion-go/dhalion/internal/engine/flink/flinktest"
)

// TestARestartThatLosesItsLeaseWhileTheSavepointIsWrittenStartsNoRun has a savepoint
// of 45 s under a lease of 30 s that nobody renews meanwhile: at 31 s a person ends
// the plan and another one takes the job.
func TestARestartThatLosesItsLeaseWhileTheSavepointIsWrittenStartsNoRun(t *testing.T) {
	s, _ := withJob(t)
	p, other := approved(t, s, `{"lost":11}`), approved(t, s, `{"lost":12}`)
	var mu sync.Mutex
	now := noon
	clock := func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		return now
	}
	cluster := flinktest.New(clock, 3)
	cluster.Restart, cluster.Savepoint = time.Second, 45*time.Second
	server := httptest.NewServer(cluster)
	defer server.Close()
	client, err := flink.NewClient(server.URL, flink.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	first := []string{"--salt", "1"}
	cluster.StartJar(cluster.Upload("words.jar", func([]string) (string, []flinktest.Vertex) {
		return "words", []flinktest.Vertex{{Name: "lines", Parallelism: 2}, {Name: "counter", Parallelism: 3, From: []string{"lines"}}}
	}), first...)
	taken := false
	wait := func(ctx context.Context, d time.Duration) error {
		mu.Lock()
		now = now.Add(d)
		at := now
		mu.Unlock()
		if !taken && at.Sub(noon) > leaseFor+time.Second {
			taken = true
			if _, err := s.Abort(ctx, p.ID, "ann", "its machine does not answer", at); err != nil {
				t.Error(err)
			}
			mustBegin(t, s, beginning(other, "another machine", at))
		}
		return ctx.Err()
	}
	hand := &actuator.Actuator{Client: client, Job: "words", Wait: wait, Start: &actuator.Start{Jar: "words.jar", Arguments: first}}
	a := &apply.Applier{Journal: s, Actuator: func(dhalion.Action) (apply.Actuator, error) { return hand, nil }, Holder: "one", Now: clock, Wait: wait,
		LeaseFor: leaseFor, TryFor: time.Minute, Attempts: 3, SettleIn: 5 * time.Minute}
	plan := threeActions(p.Job)
	plan.Actions = plan.Actions[1:2] // the knob
	plan.Actions[0].To = dhalion.TextSetting("4")
	_, err = a.Apply(ctx, p.ID, plan, false)
	var lost *apply.LostError
	if !errors.As(err, &lost) || lost.By != other.ID || !taken {
		t.Errorf("it came to %v", err)
	}
	requests := cluster.Requests()
	if len(requests) != 1 || requests[0].Method != "POST" || requests[0].Path[:6] != "/jobs/" {
		t.Errorf("it sent %+v, and only the stop was under its lease", requests)
	}
}
