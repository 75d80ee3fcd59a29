// Command e2e runs the dhalion program against a real Flink with the lab's jobs,
// as a user would, and fails when what it says is not what was done to the job.
//
//	go run ./lab/e2e observe
//	go run ./lab/e2e actuate
//	go run ./lab/e2e apply [sizes|workers|keys]...
//	go run ./lab/e2e crash
//
// Everything it starts is its own: a cluster on loopback and a private PostgreSQL,
// in folders that it removes.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/dhalion-go/dhalion/lab/cluster"
	"github.com/dhalion-go/dhalion/lab/scenario"
)

func main() {
	binary := flag.String("binary", "bin/dhalion", "the program to run")
	cache := flag.String("cache", ".cache", "where Flink is kept, and fetched to")
	keep := flag.Bool("keep", false, "leave the folder with logs and databases")
	flag.Parse()
	parts := map[string]part{"observe": {observe, true}, "actuate": {actuate, true}, "apply": {applyAll, false}, "crash": {crash, false}}
	part, ok := parts[flag.Arg(0)]
	only := flag.Args()[min(1, flag.NArg()):]
	if !ok || flag.Arg(0) != "apply" && len(only) > 0 || slices.ContainsFunc(only, func(name string) bool { return lanes[name] == nil }) {
		fmt.Fprintln(os.Stderr, "usage: e2e [-binary FILE] [-cache DIR] [-keep] observe|actuate|apply [sizes|workers|keys]...|crash")
		os.Exit(64)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *binary, *cache, *keep, part, only); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		os.Exit(1)
	}
}

// thinned is which share of its shape's records a job gets.
const thinned = 1.0 / 3

// part is one of the program's parts.
type part struct {
	run     func(context.Context, *bench) error
	cluster bool // it works on a cluster that is there when it begins
}

func run(ctx context.Context, binary, cache string, keep bool, p part, only []string) (err error) {
	path, err := filepath.Abs(binary)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "dhalion-e2e-")
	if err != nil {
		return err
	}
	// PostgreSQL may run as another user and must pass through.
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	if keep {
		fmt.Println("everything is kept in", dir)
	} else {
		defer os.RemoveAll(dir)
	}
	b := &bench{binary: path, dir: dir, only: only}
	data, err := os.ReadFile("lab/jobs/shapes.yaml")
	if err != nil {
		return err
	}
	if b.shapes, err = scenario.ReadShapes("lab/jobs/shapes.yaml", data); err != nil {
		return err
	}
	// Half a dozen jobs share few cores: records come at a third of the shapes' rates and
	// cost three times as much, which keeps the utilisations.
	for _, shape := range b.shapes {
		for name, c := range shape.Components {
			c.Rate *= thinned
			shape.Components[name] = c
		}
	}
	if b.flink, err = cluster.Fetch(ctx, cache, cluster.Default); err != nil {
		return err
	}
	if b.jar, err = cluster.BuildJobs(ctx, b.flink, "lab/jobs/src", cache); err != nil {
		return err
	}
	if !p.cluster {
		return p.run(ctx, b)
	}
	b.say("starting a Flink %s", b.flink.Version)
	if b.cluster, err = cluster.Start(ctx, b.flink, cluster.Config{Dir: filepath.Join(dir, "flink"), TaskManagers: 4, Slots: 8}); err != nil {
		return err
	}
	defer func() {
		for _, home := range b.homes {
			_, stopErr := b.dhalion(context.WithoutCancel(ctx), home, "db", "stop")
			err = errors.Join(err, stopErr)
		}
		err = errors.Join(err, b.cluster.Stop())
	}()
	return p.run(ctx, b)
}

// bench is what a part works with.
type bench struct {
	binary  string
	dir     string
	jar     string
	shapes  scenario.Shapes
	flink   cluster.Distribution
	cluster *cluster.Cluster
	homes   []string
	only    []string // lanes to run; empty: all
	began   time.Time
	saying  sync.Mutex // several parts of a run speak at once
}

func (b *bench) say(format string, args ...any) {
	b.saying.Lock()
	defer b.saying.Unlock()
	if b.began.IsZero() {
		b.began = time.Now()
	}
	fmt.Printf("%4.0f s  %s\n", time.Since(b.began).Seconds(), fmt.Sprintf(format, args...))
}

// home is a new DHALION_HOME with its own PostgreSQL.
func (b *bench) home(ctx context.Context, name string) (string, error) {
	home := filepath.Join(b.dir, name)
	if err := os.Mkdir(home, 0o755); err != nil {
		return "", err
	}
	if _, err := b.dhalion(ctx, home, "db", "start"); err != nil {
		return "", err
	}
	b.homes = append(b.homes, home)
	return home, nil
}

// command is a dhalion that uses a home and nothing else of its surroundings.
func (b *bench) command(ctx context.Context, home string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, b.binary, args...)
	cmd.Dir = b.dir
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "DATABASE_URL=") && !strings.HasPrefix(e, "DHALION_") {
			cmd.Env = append(cmd.Env, e)
		}
	}
	cmd.Env = append(cmd.Env, "DHALION_HOME="+home)
	return cmd
}

func (b *bench) dhalion(ctx context.Context, home string, args ...string) ([]byte, error) {
	cmd := b.command(ctx, home, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("dhalion %s: %w: %s", args[0], err, strings.TrimSpace(stderr.String()))
	}
	return out, nil
}

// submit starts a shape and waits until it runs; knobs is the file that steers it.
func (b *bench) submit(ctx context.Context, shape string) (run, knobs string, err error) {
	s, ok := b.shapes[shape]
	if !ok {
		return "", "", fmt.Errorf("no shape %s", shape)
	}
	knobs = filepath.Join(b.dir, shape+".properties")
	if err := b.turn(knobs, "rate=1"); err != nil {
		return "", "", err
	}
	if run, err = b.cluster.Submit(ctx, b.jar, s.Class, append([]string{"--knobs", knobs, "--name", shape}, s.Arguments()...)); err != nil {
		return "", "", err
	}
	return run, knobs, b.cluster.WaitRunning(ctx, run)
}

// turn sets the knobs of a job, all at once.
func (b *bench) turn(file string, lines ...string) error {
	next := file + ".next"
	if err := os.WriteFile(next, []byte(strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
		return err
	}
	return os.Rename(next, file)
}

// pass lets time pass: a fault must last before it can be told from a blip.
func pass(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
