package main

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/apply"
	actuator "github.com/dhalion-go/dhalion/apply/flink"
	"github.com/dhalion-go/dhalion/internal/engine/flink"
)

// actuate lets the hand on Flink rescale a job, refuse what cannot work, and start
// it anew with another argument, each twice: the second time nothing may happen.
func actuate(ctx context.Context, b *bench) error {
	const job = dhalion.JobID("prod/wordcount")
	run, _, err := b.submit(ctx, "wordcount")
	if err != nil {
		return err
	}
	client, err := flink.NewClient(b.cluster.URL(), flink.Options{})
	if err != nil {
		return err
	}
	defer client.Close()
	shape := b.shapes["wordcount"]
	start := append([]string{"--knobs", filepath.Join(b.dir, "wordcount.properties"), "--name", "wordcount"}, shape.Arguments()...)
	hand := &actuator.Actuator{Client: client, Job: "wordcount", Wait: pass,
		Start: &actuator.Start{Jar: filepath.Base(b.jar), Class: shape.Class, Arguments: start, Savepoints: "file://" + filepath.Join(b.cluster.Dir(), "savepoints")}}

	scale := func(id string, to map[string]int) apply.Call {
		c := apply.Call{ID: id, Plan: id, Job: job}
		for _, name := range []string{"counter", "splitter"} {
			if n, ok := to[name]; ok {
				c.Actions = append(c.Actions, dhalion.Action{Kind: dhalion.SetParallelism, Target: dhalion.ComponentTarget(job, name), To: dhalion.NumberSetting(float64(n))})
			}
		}
		return c
	}
	rescale := scale("rescale-0", map[string]int{"counter": 10, "splitter": 3})
	if err := b.twice(ctx, hand, rescale, "counter 8 → 10 and splitter 4 → 3 in one request"); err != nil {
		return err
	}
	for name, want := range map[string]int{"counter": 10, "splitter": 3} {
		if got, err := b.cluster.Subtasks(ctx, run, name); err != nil || len(got) != want {
			return fmt.Errorf("%s has %d instances, not %d: %w", name, len(got), want, err)
		}
	}
	for id, c := range map[string]struct {
		call apply.Call
		why  string
	}{
		"more than there are slots":  {scale("slots", map[string]int{"counter": 33}), "slots"},
		"more than there are groups": {scale("groups", map[string]int{"counter": 129}), "maximum parallelism"},
	} {
		if _, err := hand.Prepare(ctx, c.call); err == nil {
			return fmt.Errorf("%s: it was not refused", id)
		} else {
			b.say("%s: refused: %v", id, err)
		}
	}

	salt := apply.Call{ID: "salt-0", Plan: "salt", Job: job, Actions: []dhalion.Action{
		{Kind: dhalion.SetKnob, Target: dhalion.ComponentTarget(job, "counter"), Argument: "--salt", To: dhalion.NumberSetting(4)}}}
	if err := b.twice(ctx, hand, salt, "restart from a savepoint with --salt 4"); err != nil {
		return err
	}
	if state, err := b.cluster.State(ctx, run); err != nil || state != flink.Finished {
		return fmt.Errorf("the old run is %s: %w", state, err)
	}
	b.say("rescaled, refused and started anew, each once")
	return nil
}

// twice carries a call out, waits until it has settled, and carries it out again.
func (b *bench) twice(ctx context.Context, hand *actuator.Actuator, c apply.Call, what string) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	intent, err := hand.Prepare(ctx, c)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	began := time.Now()
	for n := range 2 {
		if r := hand.Act(ctx, c, intent); r.Outcome != apply.Done {
			return fmt.Errorf("%s, time %d: %s: %s", what, n+1, r.Outcome, r.Detail)
		}
		for {
			standing, why := hand.Look(ctx, c, intent)
			if standing == apply.Settled {
				break
			}
			if standing == apply.Failed || ctx.Err() != nil {
				return fmt.Errorf("%s, time %d: %s: %s", what, n+1, standing, why)
			}
			if err := pass(ctx, 250*time.Millisecond); err != nil {
				return fmt.Errorf("%s, time %d: %s: %s", what, n+1, standing, why)
			}
		}
		b.say("%s: settled after %.1f s", []string{what, "the same again"}[n], time.Since(began).Seconds())
	}
	return nil
}
