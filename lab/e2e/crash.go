package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/apply"
	"github.com/dhalion-go/dhalion/lab/cluster"
)

// crash kills appliers at work on a real job: at each point at which a rescale
// passes, at each of a step of a restart from a savepoint, and at random moments.
// Each is taken up. By Flink's word the job is then as planned, and what was done to
// it was done once: one rescale more, or one run more.
func crash(ctx context.Context, b *bench) (err error) {
	const job = "wordcount"
	// The test binary of the command line, under this name, is the program with points
	// at which it can be told to die.
	crashing := filepath.Join(b.dir, "crashing", "dhalion")
	build := exec.CommandContext(ctx, "go", "test", "-c", "-o", crashing, "./cmd/dhalion")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", build, err, out)
	}
	l, err := b.open(ctx, "crash", cluster.Config{TaskManagers: 2, Slots: 24}, job)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.close(context.WithoutCancel(ctx))) }()
	policy, err := l.policy(quick)
	if err != nil {
		return err
	}
	if err := l.configure(l.starting(job)); err != nil {
		return err
	}
	if err := pass(ctx, warmUp); err != nil {
		return err
	}

	l.say("the load doubles")
	if err := l.turn(l.knobs[job], "rate=2"); err != nil {
		return err
	}
	p, err := l.await(ctx, job, policy, string(dhalion.SetParallelism), 2*time.Minute)
	if err != nil {
		return err
	}
	if err := l.apply(ctx, p, "applied", "--no-wait"); err != nil {
		return err
	}
	if err := l.turn(l.knobs[job], "rate=1", "cut=back"); err != nil {
		return err
	}
	c := crasher{lane: l, job: job, binary: crashing, plan: p, numbers: rand.New(rand.NewPCG(17, 1))}
	for _, at := range apply.Points {
		if err := c.killed(ctx, string(at), 0); err != nil {
			return fmt.Errorf("rescale at %s: %w", at, err)
		}
	}
	for range 4 {
		if err := c.killed(ctx, "", 4*time.Second); err != nil {
			return fmt.Errorf("rescale: %w", err)
		}
	}

	l.say("a key is hot")
	if err := l.turn(l.knobs[job], "rate=1", "hot.counter=0.5", fmt.Sprintf("hot.counter.key=%d", saltable(8, l.shapes[job].Components["counter"].Parallelism))); err != nil {
		return err
	}
	if p, err = l.await(ctx, job, policy, string(dhalion.SetKnob), 2*time.Minute); err != nil {
		return err
	}
	if err := l.apply(ctx, p, "applied", "--no-wait"); err != nil {
		return err
	}
	if err := l.turn(l.knobs[job], "rate=1", "cut=cool"); err != nil {
		return err
	}
	c.plan, c.restart = p, true
	// Between its first and its second request the job is stopped and not yet started.
	for _, at := range []apply.Point{apply.BeforeIntent, apply.AfterIntent, apply.BeforeAct, apply.AfterAct, apply.BeforeConfirm, apply.AfterConfirm,
		apply.BeforeIntent + ":2", apply.BeforeAct + ":2", apply.AfterAct + ":2", apply.BeforeConfirm + ":2"} {
		if err := c.killed(ctx, string(at), 0); err != nil {
			return fmt.Errorf("restart at %s: %w", at, err)
		}
	}
	for range 4 {
		if err := c.killed(ctx, "", 8*time.Second); err != nil {
			return fmt.Errorf("restart: %w", err)
		}
	}
	l.say("killed %d times, %d of them at work: each plan in effect once", c.times, c.met)
	return nil
}

// crasher undoes a plan, and what undid it, and so on, each by an applier that dies.
type crasher struct {
	*lane
	job, binary string
	plan        proposal // that the job runs with
	restart     bool     // it starts the job anew, and does not rescale it
	numbers     *rand.Rand
	times, met  int
}

// killed undoes the plan that is in effect by an applier that dies at a point, or at a
// random moment within a span, and is taken up.
func (c *crasher) killed(ctx context.Context, at string, within time.Duration) error {
	p, err := c.undo(ctx)
	if err != nil {
		return err
	}
	before, err := c.counted(ctx)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, c.binary, "apply", p.file, "--no-wait", "--config", c.config)
	cmd.Dir, cmd.Env = c.dir, c.command(ctx, c.home).Env
	if at != "" {
		cmd.Env = append(cmd.Env, "DHALION_CRASH_AT="+at)
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	if at == "" {
		span := time.Duration(c.numbers.Float64() * float64(within))
		timer := time.AfterFunc(span, func() { _ = cmd.Process.Kill() })
		defer timer.Stop()
		at = "after " + span.Round(time.Millisecond).String()
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); err != nil && !errors.As(err, &exit) {
		return err
	}
	dead := !cmd.ProcessState.Exited()
	if code := cmd.ProcessState.ExitCode(); !dead && code != 0 {
		return fmt.Errorf("the applier ended with %d before it was killed", code)
	}
	state, err := c.state(ctx, p)
	if err != nil {
		return err
	}
	if state != string(dhalion.PlanApplied) {
		if err := c.carry(ctx, p, "applied", "--no-wait", "--resume"); err != nil {
			return fmt.Errorf("taken up when %s: %w", state, err)
		}
	}
	c.plan = p
	c.times++
	if dead {
		c.met++
	}
	runs, err := c.alive(ctx, c.job)
	if err != nil || len(runs) != 1 {
		return fmt.Errorf("by Flink the runs are %v: %w", runs, err)
	}
	if !c.restart && runs[0] != c.runs[c.job] {
		return fmt.Errorf("by Flink the run is %s, and was %s", runs[0], c.runs[c.job])
	}
	c.runs[c.job] = runs[0]
	if err := c.has(ctx, runs[0], p.sizes()); err != nil {
		return err
	}
	after, err := c.counted(ctx)
	if err != nil {
		return err
	}
	if after-before != 1 {
		return fmt.Errorf("plan %s was in effect %d times (%d before, %d after)", p.id, after-before, before, after)
	}
	c.say("%-14s %s: in effect once", at, map[bool]string{true: "killed while " + state, false: "was through already"}[dead])
	return nil
}

// undo has the plan that undoes the one in effect, approved. What is in effect must
// have been seen first.
func (c *crasher) undo(ctx context.Context) (p proposal, err error) {
	if _, err := c.run(ctx, 0, "ingest", "flink", "prod", "--every", "1s", "--for", "2s"); err != nil {
		return p, err
	}
	p.file = filepath.Join(c.dir, fmt.Sprintf("undo-%d.json", c.times))
	if _, err := c.run(ctx, 0, "rollback", c.plan.id, "--as", "ann", "--out", p.file); err != nil {
		return p, err
	}
	data, err := os.ReadFile(p.file)
	if err != nil {
		return p, err
	}
	if err := p.read(data); err != nil {
		return p, err
	}
	_, err = c.run(ctx, 0, "approve", p.file, "--as", "bob")
	return p, err
}

// state is a plan's.
func (c *crasher) state(ctx context.Context, p proposal) (string, error) {
	out, err := c.run(ctx, 0, "show", "-o", "json")
	if err != nil {
		return "", err
	}
	var listed struct {
		Plans []struct{ ID, State string } `json:"plans"`
	}
	if err := json.Unmarshal(out, &listed); err != nil {
		return "", err
	}
	for _, x := range listed.Plans {
		if x.ID == p.id {
			return x.State, nil
		}
	}
	return "", fmt.Errorf("plan %s is not listed: %s", p.id, out)
}

// counted is how often something was done to the job: by Flink's word the runs that
// it has had, or the restarts of its run, of which a rescale is one.
func (c *crasher) counted(ctx context.Context) (int, error) {
	if c.restart {
		all, err := c.states(ctx, c.job)
		return len(all), err
	}
	n := 0
	// Flink answers metrics from a cache that it renews every few seconds: the same
	// number thrice in a row, a cache's age apart, is the present one.
	for same := 0; same < 3; {
		text, err := c.cluster.JobMetric(ctx, c.runs[c.job], "numRestarts")
		if err != nil {
			return 0, err
		}
		m, err := strconv.Atoi(text)
		if err != nil {
			return 0, err
		}
		if same++; m != n {
			n, same = m, 1
		}
		if err := pass(ctx, 1500*time.Millisecond); err != nil {
			return 0, err
		}
	}
	return n, nil
}
