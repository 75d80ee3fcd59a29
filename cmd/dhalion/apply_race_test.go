package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dhalion-go/dhalion/apply"
	"github.com/dhalion-go/dhalion/internal/engine/flink/flinktest"
	"github.com/dhalion-go/dhalion/internal/store"
)

// TestOf200ApplysOfOnePlanOneActsAndTheRestAreRefusedAlike has everyone go the whole
// way, through the gate, the lease and the engine; half of them begin when somebody is
// about to act. Who is waits until the others have been refused, wherever they had
// come to.
func TestOf200ApplysOfOnePlanOneActsAndTheRestAreRefusedAlike(t *testing.T) {
	t.Parallel()
	b, id := ready(t, newDatabase(t), planKinds[0])
	const n = 200
	type end struct {
		err  error
		said string
	}
	ends, first := make(chan end, n), make(chan end, n)
	refused, acts := make(chan struct{}), make(chan int, n)
	acting := make(chan struct{})
	var once sync.Once
	b.store(func(_ context.Context, st *store.Store) error {
		ctx, stop := context.WithTimeout(context.Background(), 2*time.Minute)
		defer stop()
		for i := range n {
			go func() {
				if i >= n/2 {
					select {
					case <-acting:
					case <-ctx.Done():
					}
				}
				a, _, errs := b.app(time.Now)
				a.observe = func(p apply.Point) {
					if p == apply.BeforeAct {
						acts <- i
						once.Do(func() { close(acting) })
						select {
						case <-refused:
						case <-ctx.Done():
						}
					}
				}
				err := a.apply(ctx, st, id, applyFlags{noWait: true, judge: judgeFlags{changed: func(string) bool { return false }}})
				a.started = true
				a.report(ctx, err)
				first <- end{err, fmt.Sprint(&a.out, errs)}
			}()
		}
		for i := range n {
			if i == n-1 {
				close(refused)
			}
			select {
			case e := <-first:
				ends <- e
			case <-ctx.Done():
				return fmt.Errorf("after two minutes %d of them have ended", i)
			}
		}
		return nil
	})
	close(ends)
	won, words := 0, map[string]int{}
	for e := range ends {
		var refusal *apply.Refusal
		switch {
		case e.err == nil:
			won++
		case !errors.As(e.err, &refusal) || refusal.Code != apply.Held || refusal.Exit != exitHeld || refusal.Plan != id:
			t.Errorf("one ended with %v: %s", e.err, e.said)
		case !strings.Contains(e.said, "hint: "):
			t.Errorf("it is not said what to do: %s", e.said)
		case strings.Contains(e.said, "it is being applied already"):
			words["by the gate"]++
		case strings.Contains(e.said, "plan "+id+" holds prod/orders, applied by "):
			words["by the lease"]++
		default:
			t.Errorf("it is not said why: %s", e.said)
		}
	}
	if won != 1 || len(acts) != 1 {
		t.Errorf("%d won, and %d were about to act", won, len(acts))
	}
	if words["by the gate"] < n/2 || words["by the gate"]+words["by the lease"] != n-1 {
		t.Errorf("refused: %v", words)
	}
	if effects := b.cluster.Effects(); len(effects) != 1 || effects[0].Kind != flinktest.Rescaled || len(b.cluster.Requests()) != 1 {
		t.Errorf("effects %+v of %d requests", effects, len(b.cluster.Requests()))
	}
	if n := b.db.text(`SELECT count(*)::text FROM journal WHERE step = 'intent'`)[0]; n != "1" {
		t.Errorf("%s intents", n)
	}
	if state, why := b.state(id); state != "applied" {
		t.Errorf("it is %s: %s", state, why)
	}
}
