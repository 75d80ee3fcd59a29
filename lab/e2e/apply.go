package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/internal/store"
	"github.com/dhalion-go/dhalion/lab/cluster"
)

// quick is the policy of these runs: shorter windows than the default, so that
// what follows a change is seen sooner, and two people. Where three clusters share a
// few cores, instances sleep longer than they are told and look a tenth busier: more
// is left free than by default.
const quick = `name: quick
extends: default
window: 40s
parameters: {restart_time: 20s, target_utilisation: 0.7}
limits: {max_jobs_touched: 2}
approve: {four_eyes: true}
knobs:
  - {name: salt, argument: --salt, values: [1, 2, 4, 8], mends: data_skew, component: counter}
`

// window is that of the policy quick.
const window = 40 * time.Second

// warmUp is how long a job runs in order before anything is done to it.
const warmUp = 60 * time.Second

// lanes are the stories that are told side by side, each on its own cluster.
var lanes = map[string]func(context.Context, *bench) error{"sizes": sizes, "workers": workers, "keys": keys}

// applyAll has plans made, approved, applied and judged on real jobs, three
// clusters side by side.
func applyAll(ctx context.Context, b *bench) error {
	names := b.only
	if len(names) == 0 {
		names = slices.Sorted(maps.Keys(lanes))
	}
	b.say("%d clusters", len(names))
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	errs := make([]error, len(names))
	for i, name := range names {
		wg.Add(1)
		go func() {
			defer wg.Done()
			if errs[i] = lanes[name](ctx, b); errs[i] != nil {
				cancel(errs[i])
			}
		}()
	}
	wg.Wait()
	if cause := context.Cause(ctx); cause != nil {
		return errors.Join(cause, errors.Join(slices.DeleteFunc(errs, func(err error) bool { return err == nil || err == cause || errors.Is(err, context.Canceled) })...))
	}
	if len(b.only) == 0 {
		b.say("scaled up and down, relocated, salted, left alone, resumed and reconciled, each once")
	}
	return nil
}

// policy writes a policy file into the lane's folder.
func (l *lane) policy(text string) (string, error) {
	file := filepath.Join(l.dir, "quick.yaml")
	return file, os.WriteFile(file, []byte(text), 0o644)
}

// sizes: under-provisioned, scaled up; over-provisioned, scaled down by an applier
// that is killed in the middle and taken up.
func sizes(ctx context.Context, b *bench) (err error) {
	const job = "wordcount"
	l, err := b.open(ctx, "sizes", cluster.Config{TaskManagers: 3, Slots: 10}, job)
	if err != nil {
		return fmt.Errorf("sizes: %w", err)
	}
	defer func() { err = errors.Join(err, l.close(context.WithoutCancel(ctx))) }()
	policy, err := l.policy(quick)
	if err != nil {
		return err
	}
	if err := pass(ctx, warmUp); err != nil {
		return err
	}
	l.say("the load doubles")
	if err := l.turn(l.knobs[job], "rate=2"); err != nil {
		return err
	}
	up, err := l.await(ctx, job, policy, string(dhalion.SetParallelism), 2*time.Minute)
	if err != nil {
		return fmt.Errorf("under-provisioned: %w", err)
	}
	if err := l.apply(ctx, up, "met"); err != nil {
		return fmt.Errorf("under-provisioned: %w", err)
	}
	if err := l.has(ctx, l.runs[job], up.sizes()); err != nil {
		return fmt.Errorf("under-provisioned: %w", err)
	}
	load := 2 * l.shapes[job].Components["source"].Rate
	if err := l.drained(ctx, job, load, time.Minute); err != nil {
		return fmt.Errorf("under-provisioned: %w", err)
	}

	l.say("the load falls to a third")
	if err := l.turn(l.knobs[job], "rate=0.65"); err != nil {
		return err
	}
	down, err := l.await(ctx, job, policy, string(dhalion.SetParallelism), 3*time.Minute)
	if err != nil {
		return fmt.Errorf("over-provisioned: %w", err)
	}
	for name, n := range down.sizes() {
		if was, ok := up.sizes()[name]; ok && n >= was {
			return fmt.Errorf("over-provisioned: the plan sets %s from %d to %d", name, was, n)
		}
	}
	if _, err := l.run(ctx, 0, "approve", down.file, "--as", "bob"); err != nil {
		return err
	}
	killed := l.command(ctx, l.home, "apply", down.file, "--config", l.config)
	if err := killed.Start(); err != nil {
		return err
	}
	if err := l.logged(ctx, down, "applying", time.Minute); err != nil {
		return err
	}
	if err := killed.Process.Kill(); err != nil {
		return err
	}
	_ = killed.Wait()
	l.say("the applier is killed, and taken up")
	if _, err := l.run(ctx, 7, "apply", down.file); err != nil {
		return fmt.Errorf("taken up without --resume: %w", err)
	}
	if err := l.carry(ctx, down, "met", "--resume"); err != nil {
		return fmt.Errorf("over-provisioned: %w", err)
	}
	if err := l.has(ctx, l.runs[job], down.sizes()); err != nil {
		return fmt.Errorf("over-provisioned: %w", err)
	}
	return l.remembered(ctx, job, "met", len(up.Actions)+len(down.Actions))
}

// remembered checks that so many actions of a job have an outcome.
func (l *lane) remembered(ctx context.Context, job, judged string, want int) error {
	out, err := l.run(ctx, 0, "outcomes", "prod/"+job, "-o", "json")
	if err != nil {
		return err
	}
	if n := strings.Count(string(out), `"judged": "`+judged+`"`); n != want {
		return fmt.Errorf("%d outcomes are %s, and there were %d actions: %s", n, judged, want, out)
	}
	return nil
}

// workers: a slow worker that two jobs share. Its plan lists both, is refused for
// the other one's sake, and then carried out by a hook under both leases.
func workers(ctx context.Context, b *bench) (err error) {
	const job, other = "wordcount", "fanout"
	l, err := b.open(ctx, "workers", cluster.Config{TaskManagers: 4, Slots: 20}, job, other)
	if err != nil {
		return fmt.Errorf("workers: %w", err)
	}
	defer func() { err = errors.Join(err, l.close(context.WithoutCancel(ctx))) }()
	policy, err := l.policy(quick)
	if err != nil {
		return err
	}
	always := filepath.Join(l.dir, "always.yaml")
	if err := os.WriteFile(always, []byte("name: always\nextends: default\nlimits: {quiet_hours: \"00:00-24:00\"}\n"), 0o644); err != nil {
		return err
	}
	kill := filepath.Join(l.dir, "kill-tm")
	// Ten seconds in which both leases can be seen.
	script := fmt.Sprintf("#!/bin/sh\necho \"$DHALION_ACTION_ID $1\" >> %[1]s/killed\nsleep 5\nkill -9 $(cat %[2]s/$1.pid)\n", l.dir, l.cluster.Dir())
	if err := os.WriteFile(kill, []byte(script), 0o755); err != nil {
		return err
	}
	hooks := fmt.Sprintf("hooks:\n  kill-tm: {argv: [%q, \"{worker}\"], timeout: 30s, does: relocate}\n", kill)
	if err := l.turn(l.knobs[other], "rate=0.7"); err != nil {
		return err
	}
	if err := pass(ctx, warmUp); err != nil {
		return err
	}
	slow, err := l.loaded(ctx, l.runs[job], "splitter", "counter")
	if err != nil {
		return err
	}
	l.say("worker %s is slow", slow)
	if err := l.turn(l.knobs[job], "rate=1", "worker."+slow+"=3", "cut=slow"); err != nil {
		return err
	}
	p, err := l.await(ctx, job, policy, string(dhalion.Relocate), 2*time.Minute)
	if err != nil {
		return fmt.Errorf("slow worker: %w", err)
	}
	var touched []string
	for _, t := range p.Actions[0].Affects {
		touched = append(touched, t.Job)
	}
	if p.Actions[0].Target.Worker != slow || !slices.Equal(touched, []string{"prod/" + other, "prod/" + job}) {
		return fmt.Errorf("slow worker: the plan moves %s and touches %v", p.Actions[0].Target.Worker, touched)
	}
	if _, err := l.run(ctx, 0, "approve", p.file, "--as", "bob"); err != nil {
		return err
	}
	for _, refused := range []struct{ jobs, why string }{
		{"  - {match: prod/" + other + ", mode: observe}\n", "may only be looked at"},
		{"  - {match: prod/" + other + ", mode: propose, policy: always.yaml}\n", "quiet hours"},
	} {
		if err := l.configure(hooks + "jobs:\n" + refused.jobs); err != nil {
			return err
		}
		out, err := l.run(ctx, 4, "apply", p.file, "-o", "json")
		if err != nil || !strings.Contains(string(out), refused.why) {
			return fmt.Errorf("slow worker: apply was to say %q: %w: %s", refused.why, err, out)
		}
		l.say("refused for the other job's sake: %s", refused.why)
	}
	if err := l.configure(hooks); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- l.carry(ctx, p, "met") }()
	leases := l.bothHeld(ctx, p, job, other)
	if err := errors.Join(leases, <-done); err != nil {
		return fmt.Errorf("slow worker: %w", err)
	}
	for _, name := range []string{"source", "splitter", "counter", "sink"} {
		all, err := l.cluster.Subtasks(ctx, l.runs[job], name)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(all, func(s cluster.Subtask) bool { return s.Worker == slow || s.Status != "RUNNING" }) {
			return fmt.Errorf("slow worker: by Flink %s is as %v", name, all)
		}
	}
	ran, err := os.ReadFile(filepath.Join(l.dir, "killed"))
	if want := fmt.Sprintf("%s-0 %s\n", p.id, slow); err != nil || string(ran) != want {
		return fmt.Errorf("slow worker: the hook ran as %q, not once as %q: %w", ran, want, err)
	}
	return nil
}

// bothHeld waits until a plan holds the leases of two jobs.
func (l *lane) bothHeld(ctx context.Context, p proposal, jobs ...string) error {
	url, err := l.run(ctx, 0, "db", "url")
	if err != nil {
		return err
	}
	st, err := store.Open(ctx, strings.TrimSpace(string(url)), store.Options{})
	if err != nil {
		return err
	}
	defer st.Close()
	for deadline := time.Now().Add(time.Minute); ; {
		held := 0
		for _, job := range jobs {
			lease, ok, err := st.Holder(ctx, dhalion.NewJobID("prod", job), time.Now())
			if err != nil {
				return err
			}
			if ok && lease.Plan == p.id {
				held++
			}
		}
		if held == len(jobs) {
			l.say("plan %s holds %s", p.id, strings.Join(jobs, " and "))
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("plan %s holds %d of %d leases", p.id, held, len(jobs))
		}
		if err := pass(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
}

// keys: a job in order, with noise, is left alone for three minutes; beside it a hot
// key is mended by a knob. Then the JobManager is killed in the middle of an apply.
func keys(ctx context.Context, b *bench) (err error) {
	const job, calm = "wordcount", "windows"
	l, err := b.open(ctx, "keys", cluster.Config{TaskManagers: 2, Slots: 24, HighAvailability: true}, job, calm)
	if err != nil {
		return fmt.Errorf("keys: %w", err)
	}
	defer func() { err = errors.Join(err, l.close(context.WithoutCancel(ctx))) }()
	policy, err := l.policy(quick)
	if err != nil {
		return err
	}
	if err := l.configure(l.starting(job)); err != nil {
		return err
	}
	if err := l.turn(l.knobs[calm], "rate=0.9", "wave=0.2", "wave.period=70", "jitter=0.15"); err != nil {
		return err
	}
	if err := pass(ctx, warmUp); err != nil {
		return err
	}
	quiet := make(chan error, 1)
	go func() { quiet <- l.leftAlone(ctx, calm, 3*time.Minute) }()

	key := saltable(8, l.shapes[job].Components["counter"].Parallelism)
	l.say("a key is hot")
	if err := l.turn(l.knobs[job], "rate=1", "hot.counter=0.5", fmt.Sprintf("hot.counter.key=%d", key)); err != nil {
		return err
	}
	p, err := l.await(ctx, job, policy, string(dhalion.SetKnob), 2*time.Minute)
	if err != nil {
		return fmt.Errorf("hot key: %w", err)
	}
	if to, _ := p.Actions[0].To.(float64); to != 8 {
		return fmt.Errorf("hot key: the plan sets the knob to %v", p.Actions[0].To)
	}
	if err := l.apply(ctx, p, "met"); err != nil {
		return fmt.Errorf("hot key: %w", err)
	}
	runs, err := l.alive(ctx, job)
	if err != nil || len(runs) != 1 || runs[0] == l.runs[job] {
		return fmt.Errorf("hot key: by Flink the runs are %v after %s: %w", runs, l.runs[job], err)
	}
	l.runs[job] = runs[0]
	if err := l.has(ctx, runs[0], map[string]int{"counter": 8, "splitter": 4}); err != nil {
		return fmt.Errorf("hot key: %w", err)
	}
	if err := <-quiet; err != nil {
		return fmt.Errorf("in order, with noise: %w", err)
	}

	l.say("the load doubles")
	if err := l.turn(l.knobs[job], "rate=2", "cut=double"); err != nil {
		return err
	}
	up, err := l.await(ctx, job, policy, string(dhalion.SetParallelism), 2*time.Minute)
	if err != nil {
		return fmt.Errorf("JobManager killed: %w", err)
	}
	if _, err := l.run(ctx, 0, "approve", up.file, "--as", "bob"); err != nil {
		return err
	}
	applying := l.command(ctx, l.home, "apply", up.file, "--no-wait", "--config", l.config, "-o", "json")
	var said strings.Builder
	applying.Stdout, applying.Stderr = &said, &said
	if err := applying.Start(); err != nil {
		return err
	}
	if err := l.logged(ctx, up, "applying", time.Minute); err != nil {
		return err
	}
	if err := l.cluster.KillJobManager(); err != nil {
		return err
	}
	l.say("the JobManager is killed in the middle of an apply")
	if err := l.cluster.StartJobManager(); err != nil {
		return err
	}
	err = applying.Wait()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit) && exit.ExitCode() == 1:
		// It did not find out in its time what had become of it: then it is taken up.
		l.say("the applier gave up: %s", said.String())
		if err := l.carry(ctx, up, "applied", "--resume", "--no-wait"); err != nil {
			return fmt.Errorf("JobManager killed: %w", err)
		}
	case err != nil:
		return fmt.Errorf("JobManager killed: %w: %s", err, said.String())
	}
	runs, err = l.alive(ctx, job)
	if err != nil || len(runs) != 1 || runs[0] != l.runs[job] {
		return fmt.Errorf("JobManager killed: by Flink the runs are %v, and was %s: %w", runs, l.runs[job], err)
	}
	if err := l.has(ctx, runs[0], up.sizes()); err != nil {
		return fmt.Errorf("JobManager killed: %w", err)
	}
	l.say("reconciled: the job runs as planned")
	return nil
}

// leftAlone plans for a job in order for a time, and wants no action.
func (l *lane) leftAlone(ctx context.Context, job string, span time.Duration) error {
	n := 0
	for end := time.Now().Add(span); time.Now().Before(end); n++ {
		p, err := l.plan(ctx, job, "default")
		if err != nil {
			return err
		}
		if len(p.Actions) > 0 {
			found, _ := l.run(ctx, 0, "diagnose", "prod/"+job)
			return fmt.Errorf("a plan of %v: %s", p.kinds(), found)
		}
		if err := pass(ctx, 5*time.Second); err != nil {
			return err
		}
	}
	l.say("%s, in order with noise, had no plan in %s (asked %d times)", job, span, n)
	return nil
}
