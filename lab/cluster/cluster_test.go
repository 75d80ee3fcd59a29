package cluster

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// cache is the checkout's: the 300 MB of a Flink are fetched once.
const cache = "../../.cache"

// needsFlink skips a test only where somebody said so: a Flink that cannot be
// fetched or started is a failure.
func needsFlink(t *testing.T) {
	t.Helper()
	if os.Getenv("DHALION_LAB") == "off" {
		t.Skip("DHALION_LAB=off")
	}
}

func TestAWorkerThatIsKilledIsMissedAndItsReplacementIsUsed(t *testing.T) {
	needsFlink(t)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	flink, err := Fetch(ctx, cache, Default)
	if err != nil {
		t.Fatal(err)
	}
	jar, err := BuildJobs(ctx, flink, "../jobs/src", cache)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	// Four instances share four slots: with one worker less there are too few, and
	// the new one must be used.
	c, err := Start(ctx, flink, Config{Dir: dir, TaskManagers: 2, Slots: 2})
	if err != nil {
		t.Fatal(err)
	}
	pids := c.pids()
	t.Cleanup(func() {
		if err := c.Stop(); err != nil {
			t.Error(err)
		}
		for _, pid := range pids {
			if syscall.Kill(pid, 0) == nil {
				t.Errorf("process %d still runs", pid)
			}
		}
	})
	if workers := c.Workers(); !slices.Equal(workers, []string{"tm-1", "tm-2"}) {
		t.Fatalf("workers: %v", workers)
	}
	run := words(t, ctx, c, jar)
	flows(t, ctx, c, run)

	if err := c.KillWorker("tm-1"); err != nil {
		t.Fatal(err)
	}
	if err := c.AddWorker("tm-3"); err != nil {
		t.Fatal(err)
	}
	pids = append(pids, c.pids()...)
	err = c.wait(ctx, readyWithin, "tasks on tm-3", func() (bool, error) {
		on, err := c.placed(ctx, run, "counter")
		return err == nil && slices.Contains(on, "tm-3") && !slices.Contains(on, "tm-1"), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	flows(t, ctx, c, run)
}

func TestTheJobsRunOnOlderFlinks(t *testing.T) {
	if os.Getenv("DHALION_LAB") != "all" {
		t.Skip("fetches 230 MB a version; DHALION_LAB=all runs it")
	}
	for _, version := range []string{"1.18.1", "1.20.5"} {
		t.Run(version, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Minute)
			defer cancel()
			flink, err := Fetch(ctx, cache, version)
			if err != nil {
				t.Fatal(err)
			}
			jar, err := BuildJobs(ctx, flink, "../jobs/src", cache)
			if err != nil {
				t.Fatal(err)
			}
			c, err := Start(ctx, flink, Config{Dir: t.TempDir(), TaskManagers: 1, Slots: 4})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := c.Stop(); err != nil {
					t.Error(err)
				}
			})
			run := words(t, ctx, c, jar)
			flows(t, ctx, c, run)
			if err := c.Cancel(ctx, run); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// words submits a small word count and waits until it runs.
func words(t *testing.T, ctx context.Context, c *Cluster, jar string) (run string) {
	t.Helper()
	knobs := filepath.Join(c.Dir(), "knobs.properties")
	if err := os.WriteFile(knobs, []byte("rate=1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	run, err := c.Submit(ctx, jar, "lab.WordCount", []string{"--knobs", knobs, "--name", "words",
		"--component", "source,parallelism=1,cost=0.1,rate=100", "--component", "splitter,parallelism=2,cost=5,fan=2",
		"--component", "counter,parallelism=4,cost=5", "--component", "sink,parallelism=1,cost=1"})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.WaitRunning(ctx, run); err != nil {
		t.Fatal(err)
	}
	return run
}

// flows waits until the counter has taken in more than it had.
func flows(t *testing.T, ctx context.Context, c *Cluster, run string) {
	t.Helper()
	first := -1.0
	err := c.wait(ctx, readyWithin, "records", func() (bool, error) {
		n, err := c.read(ctx, run, "counter")
		if err != nil || n == 0 {
			return false, nil
		}
		if first < 0 || n < first { // counters begin anew in another attempt
			first = n
		}
		return n > first, nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// pids are the processes of a cluster.
func (c *Cluster) pids() []int {
	pids := []int{c.manager.cmd.Process.Pid}
	for _, p := range c.workers {
		pids = append(pids, p.cmd.Process.Pid)
	}
	return pids
}

// read is how many records a component has taken in.
func (c *Cluster) read(ctx context.Context, run, name string) (sum float64, err error) {
	all, err := c.Subtasks(ctx, run, name)
	for _, s := range all {
		sum += s.Read
	}
	return sum, err
}

// placed are the workers of a component's running instances.
func (c *Cluster) placed(ctx context.Context, run, name string) (on []string, err error) {
	all, err := c.Subtasks(ctx, run, name)
	for _, s := range all {
		if s.Status == "RUNNING" {
			on = append(on, s.Worker)
		}
	}
	return on, err
}

func TestProcessesDieWithTheOneThatStartedThem(t *testing.T) {
	if os.Getenv("DHALION_LAB_CHILD") != "" {
		child(t)
		return
	}
	needsFlink(t)
	out := filepath.Join(t.TempDir(), "pid") // the child's cluster lies beside it
	p, err := os.StartProcess(os.Args[0], []string{os.Args[0], "-test.run", "^" + t.Name() + "$"}, &os.ProcAttr{
		Env: append(os.Environ(), "DHALION_LAB_CHILD="+out), Files: []*os.File{nil, os.Stdout, os.Stderr}})
	if err != nil {
		t.Fatal(err)
	}
	state, err := p.Wait()
	if err != nil {
		t.Fatal(err)
	}
	if status := state.Sys().(syscall.WaitStatus); !status.Signaled() || status.Signal() != syscall.SIGKILL {
		t.Fatalf("the child ended with %v, and should have killed itself", state)
	}
	data, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); running(pid); {
		if time.Now().After(deadline) {
			t.Fatalf("JVM %d outlives the process that started it", pid)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// running reports whether a process is there and no zombie: its new parent may be
// slow to bury it.
func running(pid int) bool {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return false
	}
	_, after, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(after, "Z")
}

// child starts a JobManager, says which, and dies.
func child(t *testing.T) {
	ctx := context.Background()
	flink, err := Fetch(ctx, cache, Default)
	if err != nil {
		t.Fatal(err)
	}
	jars, err := flink.classPath()
	if err != nil {
		t.Fatal(err)
	}
	c := &Cluster{config: Config{Dir: filepath.Dir(os.Getenv("DHALION_LAB_CHILD"))}, flink: flink, jars: jars, workers: map[string]*process{}}
	if err := c.configure(); err != nil {
		t.Fatal(err)
	}
	if err := c.StartJobManager(); err != nil {
		t.Fatal(err)
	}
	pid := c.manager.cmd.Process.Pid
	if err := os.WriteFile(os.Getenv("DHALION_LAB_CHILD"), []byte(strconv.Itoa(pid)), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	select {}
}
