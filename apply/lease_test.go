package apply_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/apply"
)

// loses is a journal whose lease can be lost, or that cannot be reached.
type loses struct {
	memory
	renewed atomic.Int32
	fails   atomic.Pointer[error]
}

func (j *loses) Renew(context.Context, apply.Lease, time.Duration) error {
	j.renewed.Add(1)
	if err := j.fails.Load(); err != nil {
		return *err
	}
	return nil
}

func (j *loses) lose(err error) { j.fails.Store(&err) }

// slow is an actuator whose Act sends two requests, and does something between
// them.
type slow struct {
	between func(ctx context.Context)
	sent    int
	within  time.Duration
	limit   time.Duration // that Act was given, about
}

func (s *slow) Prepare(_ context.Context, c apply.Call) (apply.Intent, error) {
	return apply.Intent{ID: c.ID}, nil
}

func (s *slow) Act(ctx context.Context, c apply.Call, _ apply.Intent) apply.Result {
	if until, ok := ctx.Deadline(); ok {
		s.limit = time.Until(until)
	}
	send := func() apply.Result { s.sent++; return isDone }
	if r := c.Change(ctx, send); r.Outcome != apply.Done {
		return r
	}
	s.between(ctx)
	return c.Change(ctx, send)
}

func (s *slow) Look(context.Context, apply.Call, apply.Intent) (apply.Standing, string) {
	return apply.Settled, ""
}

func (s *slow) Within(apply.Call) time.Duration { return s.within }

var restarts = dhalion.Plan{Job: "prod/j", Actions: []dhalion.Action{{Kind: dhalion.Restart}}}

func TestALeaseLostBetweenTwoRequestsOfOneStepStopsTheSecond(t *testing.T) {
	for name, away := range map[string]error{
		"lost":                             &apply.LostError{Plan: "p", Job: "prod/j", By: "other"},
		"a journal that cannot be reached": errors.New("connection refused"),
	} {
		j := &loses{}
		s := &slow{between: func(context.Context) { j.lose(away) }}
		_, err := applier(j, func(dhalion.Action) (apply.Actuator, error) { return s, nil }).Apply(context.Background(), "p", restarts, false)
		if !errors.Is(err, away) || s.sent != 1 || j.ended != "" {
			t.Errorf("%s: %v after %d requests, ended as %q", name, err, s.sent, j.ended)
		}
		if e := j.entries[0]; e.Result == nil || e.Result.Outcome != apply.Unsure || !strings.Contains(e.Result.Detail, "not sent") {
			t.Errorf("%s: the journal has %+v", name, e.Result)
		}
	}
}

func TestALeaseIsRenewedWhileACallTakesLongAndItsLossEndsTheCall(t *testing.T) {
	lost := &apply.LostError{Plan: "p", Job: "prod/j", By: "other"}
	for name, c := range map[string]struct {
		away error
		says string
	}{
		"lost":                             {lost, "lost its lease"},
		"a journal that cannot be reached": {errors.New("connection refused"), "could not be renewed"},
	} {
		for _, looking := range []bool{false, true} {
			j := &loses{}
			hang := func(ctx context.Context) {
				for j.renewed.Load() < 5 { // by nobody but the one who keeps the lease
					select {
					case <-ctx.Done():
						t.Fatalf("%s: the call ended with %v before the lease was lost", name, context.Cause(ctx))
					default:
					}
				}
				j.lose(c.away)
				<-ctx.Done()
			}
			s := &slow{between: hang}
			var hand apply.Actuator = s
			if looking {
				s.between = func(context.Context) {}
				hand = looks{s, hang}
			}
			a := applier(j, func(dhalion.Action) (apply.Actuator, error) { return hand, nil })
			a.LeaseFor = 30 * time.Millisecond
			_, err := a.Apply(context.Background(), "p", restarts, false)
			if !errors.Is(err, c.away) || !strings.Contains(fmt.Sprint(err), c.says) || j.ended != "" {
				t.Errorf("%s: %v, ended as %q", name, err, j.ended)
			}
			if want := map[bool]int{false: 1, true: 2}[looking]; s.sent != want {
				t.Errorf("%s: %d requests", name, s.sent)
			}
		}
	}
}

// looks is slow whose Look hangs.
type looks struct {
	*slow
	hang func(ctx context.Context)
}

func (l looks) Look(ctx context.Context, _ apply.Call, _ apply.Intent) (apply.Standing, string) {
	l.hang(ctx)
	return apply.Settled, ""
}

func TestAnActuatorSaysItselfHowLongAnAttemptMayTake(t *testing.T) {
	for within, least := range map[time.Duration]time.Duration{0: 0, 24 * time.Hour: 23 * time.Hour} {
		s := &slow{within: within, between: func(context.Context) {}}
		if _, err := applier(&memory{}, func(dhalion.Action) (apply.Actuator, error) { return s, nil }).Apply(context.Background(), "p", restarts, false); err != nil {
			t.Fatal(err)
		}
		// An applier's own limit is a minute.
		if s.limit < least || within == 0 && s.limit > time.Minute {
			t.Errorf("an attempt that may take %s had %s", within, s.limit)
		}
	}
}
