package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/dhalion-go/dhalion/lab/cluster"
	"github.com/dhalion-go/dhalion/lab/scenario"
)

type options struct {
	out, scenarios, corpus, binary, cache, flink, only string
	lanes                                              int
	spare                                              float64
	shapes                                             scenario.Shapes
}

// recorder is what all lanes share.
type recorder struct {
	options
	tool      string // our copy of the binary: others may build a new one meanwhile
	jar       string
	flinkDist cluster.Distribution
	machine   *machine
	mu        sync.Mutex // of progress
	corpusMu  sync.Mutex
	queue     *queue
}

// say prints a line of progress.
func (r *recorder) say(l *lane, format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	at := "      "
	if l != nil {
		at = fmt.Sprintf("lane %d", l.number)
	}
	fmt.Printf("%s %s %s  (ETA %s)\n", time.Now().UTC().Format("15:04:05"), at, fmt.Sprintf(format, args...), r.queue.eta(r.lanes).Format("15:04"))
}

// record records the runs that are not there yet.
func record(ctx context.Context, o options) error {
	raisePriority()
	if err := os.MkdirAll(o.out, 0o755); err != nil {
		return err
	}
	lock, err := os.OpenFile(filepath.Join(os.TempDir(), "dhalion-lab.lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return fmt.Errorf("another lab records on this machine (%s is locked): two would disturb each other", lock.Name())
	}
	all, err := readScenarios(o.scenarios, o.shapes)
	if err != nil {
		return err
	}
	if parts, err := filepath.Glob(filepath.Join(o.rest(), "*.yaml")); err != nil {
		return err
	} else if len(parts) > 0 {
		rest, err := readScenarios(o.rest(), o.shapes)
		if err != nil {
			return err
		}
		all = append(all, rest...)
	}
	for _, sub := range []string{"runs", "noisy", "failed", "part", "bin", "rest"} {
		if err := os.MkdirAll(filepath.Join(o.out, sub), 0o755); err != nil {
			return err
		}
	}
	if o.corpus != "" {
		if err := os.MkdirAll(o.corpus, 0o755); err != nil {
			return err
		}
	}
	var rows [][]string
	if o.corpus != "" {
		if rows, err = readTable(filepath.Join(o.corpus, "runs.csv"), runsHeader); err != nil {
			return err
		}
	}
	r := &recorder{options: o, queue: &queue{}}
	r.queue.cond = sync.NewCond(&r.queue.mu)
	for _, s := range all {
		if o.only != "" && o.only != s.Name {
			continue
		}
		if done, other := r.finished(s, rows); !done {
			r.queue.waiting = append(r.queue.waiting, task{s: s, attempt: 1})
		} else if other != "" {
			fmt.Println(other)
		}
	}
	if o.corpus != "" {
		if err := addMissing(ctx, o); err != nil {
			return err
		}
	}
	if len(r.queue.waiting) == 0 {
		fmt.Println("every run is recorded")
		return nil
	}
	if r.tool, err = filepath.Abs(filepath.Join(o.out, "bin", "dhalion")); err != nil {
		return err
	}
	if err := copyFile(r.tool, o.binary); err != nil {
		return fmt.Errorf("%w (make build makes it)", err)
	}
	if r.flinkDist, err = cluster.Fetch(ctx, o.cache, o.flink); err != nil {
		return err
	}
	if r.jar, err = cluster.BuildJobs(ctx, r.flinkDist, "lab/jobs/src", o.cache); err != nil {
		return err
	}
	lanes := make([]*lane, min(o.lanes, len(r.queue.waiting)))
	for i := range lanes {
		lanes[i] = &lane{recorder: r, number: i + 1}
		defer lanes[i].stop()
		if err := os.MkdirAll(lanes[i].dir(), 0o755); err != nil {
			return err
		}
		// One after the other, and all before the first run: a cluster that starts
		// takes the whole machine.
		r.say(lanes[i], "starts a cluster")
		if err := lanes[i].start(ctx); err != nil {
			return err
		}
	}
	watch, stopWatch := context.WithCancel(ctx)
	defer stopWatch()
	r.machine = watchMachine(watch)
	var wait sync.WaitGroup
	for _, l := range lanes {
		wait.Go(func() { l.work(ctx) })
	}
	go func() {
		<-watch.Done()
		r.queue.stop()
	}()
	wait.Wait()
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("stopped; the next call goes on: %w", err)
	}
	if len(r.queue.given) > 0 {
		return fmt.Errorf("given up: %v", r.queue.given)
	}
	return nil
}

// finished says whether a run is in the corpus, of which rows are the runs, or
// recorded; other tells of one in the corpus that bears its name and is another.
func (o options) finished(s scenario.Scenario, rows [][]string) (done bool, other string) {
	for _, row := range rows {
		if row[0] != s.Name {
			continue
		}
		if seed := fmt.Sprint(s.Seed); row[3] != seed {
			other = fmt.Sprintf("%s is in %s from another schedule (there its seed is %s, here %s) and is not recorded: a schedule of an unused seed has other names", s.Name, filepath.Join(o.corpus, "runs.csv"), row[3], seed)
		}
		return true, other
	}
	_, err := os.Stat(filepath.Join(o.out, "runs", s.Name+".json"))
	return err == nil, ""
}

// work records what the queue gives until it is empty.
func (l *lane) work(ctx context.Context) {
	for {
		t, ok := l.queue.next()
		if !ok {
			return
		}
		again, err := l.one(ctx, t)
		if err != nil {
			l.say(l, "%s: %v", t.s.Name, err)
		}
		l.queue.done(t, again, err)
	}
}

// Attempts of a run: one that failed is tried once more, one that was disturbed
// more often, after the others.
const (
	attempts      = 2
	noisyAttempts = 5
)

// one records a run and puts its files where they belong; again says that it is
// to be tried once more.
func (l *lane) one(ctx context.Context, t task) (again bool, err error) {
	if err := l.start(ctx); err != nil {
		return t.attempt < attempts && ctx.Err() == nil, err
	}
	part := filepath.Join(l.out, "part")
	log, err := l.record(ctx, t.s, t.attempt, part)
	stopped := ctx.Err()
	name := t.s.Name
	var disturbed errNoisy
	if err != nil {
		sound := log.End
		switch {
		case errors.As(err, &disturbed):
			sound = disturbed.from.Add(-time.Second)
		case stopped == nil:
			l.stop() // the next run gets a fresh cluster
		}
		if rest, ok := log.keep(sound); ok {
			l.say(l, "%s: %v: what was before is kept, %d incidents are left", name, err, len(rest.Incidents))
			if err := l.split(part, log, rest); err != nil {
				return false, err
			}
			err, disturbed = nil, errNoisy{}
		}
	}
	switch to := ""; {
	case err != nil && stopped != nil:
		return false, stopped // it begins anew in the next call
	case errors.As(err, &disturbed):
		to, again = "noisy", t.attempt < noisyAttempts
		fallthrough
	case err != nil:
		if to == "" {
			to, again = "failed", t.attempt < attempts
		}
		log.Why = err.Error()
		aside := filepath.Join(l.out, to, fmt.Sprintf("%s-%d", name, t.attempt))
		moved := os.Rename(filepath.Join(part, name+".jsonl.gz"), aside+".jsonl.gz")
		if errors.Is(moved, os.ErrNotExist) {
			moved = nil // it failed before there was one
		}
		return again, errors.Join(fmt.Errorf("put aside in %s: %w", to, err), log.write(aside+".json"), moved)
	}
	// The log last: it says that the run is finished.
	if err := os.Rename(filepath.Join(part, name+".jsonl.gz"), filepath.Join(l.out, "runs", name+".jsonl.gz")); err != nil {
		return false, err
	}
	if err := log.write(filepath.Join(l.out, "runs", name+".json")); err != nil {
		return false, err
	}
	l.say(l, "%s recorded", name)
	if l.corpus == "" || stopped != nil {
		return false, stopped // the next call exports it
	}
	l.corpusMu.Lock()
	text, err := addRun(ctx, l.options, l.tool, name)
	l.corpusMu.Unlock()
	if err == nil {
		l.say(l, "%s in the corpus: %s", name, text)
	}
	return false, err
}

func copyFile(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	if err := os.Remove(to); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err // it may be running: then the old file stays as it is
	}
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}

// task is a run that waits.
type task struct {
	s       scenario.Scenario
	attempt int
	ends    time.Time // about, of one that runs
}

// queue gives out runs in order; one that must be alone waits for the others to
// end, and they for it.
type queue struct {
	mu      sync.Mutex
	cond    *sync.Cond
	waiting []task
	running []task
	given   []string // runs that were given up
	stopped bool
}

func (q *queue) next() (task, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for {
		switch {
		case q.stopped || len(q.waiting) == 0 && len(q.running) == 0:
			return task{}, false
		case len(q.waiting) == 0: // one of those that run may have to be tried again
		default:
			if i := q.choose(time.Now()); i >= 0 {
				t := q.waiting[i]
				t.ends = time.Now().Add(expected(t.s))
				q.waiting = slices.Delete(q.waiting, i, i+1)
				q.running = append(q.running, t)
				return t, true
			}
		}
		q.cond.Wait()
	}
}

// choose is the next run that may begin, -1 when none may. While one that must be
// alone waits for others to end, one that ends as soon as they may go before.
func (q *queue) choose(now time.Time) int {
	if len(q.running) == 0 {
		return 0
	}
	var last time.Time
	for _, t := range q.running {
		if t.s.Alone {
			return -1
		}
		if t.ends.After(last) {
			last = t.ends
		}
	}
	if !q.waiting[0].s.Alone {
		return 0
	}
	return slices.IndexFunc(q.waiting, func(t task) bool { return !t.s.Alone && now.Add(expected(t.s)).Before(last.Add(time.Minute)) })
}

func (q *queue) add(t task) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiting = append(q.waiting, t)
	q.cond.Broadcast()
}

func (q *queue) done(t task, again bool, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.running = slices.DeleteFunc(q.running, func(o task) bool { return o.s.Name == t.s.Name })
	switch {
	case err != nil && !again:
		q.given = append(q.given, t.s.Name)
	case again:
		q.waiting = append(q.waiting, task{s: t.s, attempt: t.attempt + 1})
	}
	q.cond.Broadcast()
}

func (q *queue) stop() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.stopped = true
	q.cond.Broadcast()
}

// eta is about when all will be recorded.
func (q *queue) eta(lanes int) time.Time {
	q.mu.Lock()
	defer q.mu.Unlock()
	var left time.Duration
	for _, t := range q.waiting {
		if t.s.Alone {
			left += expected(t.s)
		} else {
			left += expected(t.s) / time.Duration(max(1, lanes))
		}
	}
	for _, t := range q.running {
		left += expected(t.s) / time.Duration(2*max(1, len(q.running)))
	}
	return time.Now().UTC().Add(left)
}
