package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/dhalion-go/dhalion/internal/engine/flink"
	"github.com/dhalion-go/dhalion/lab/cluster"
	"github.com/dhalion-go/dhalion/lab/scenario"
)

// lane is one cluster, which records one run at a time.
type lane struct {
	*recorder
	number  int
	cluster *cluster.Cluster
	added   int // TaskManagers that were started after the first ones
}

const (
	workers = 4
	slots   = 8
	// drainWithin bounds the wait for a backlog: a cut one is gone in seconds, a
	// spike's in a minute.
	drainWithin = 150 * time.Second
	// drainedBelow is the backlog that counts as none, in seconds of load.
	drainedBelow = 0.35
	pollEvery    = 5 * time.Second
)

// errNoisy is a run that other work disturbed, from a time on.
type errNoisy struct {
	reason string
	from   time.Time
}

func (e errNoisy) Error() string { return e.reason }

func (l *lane) dir() string { return filepath.Join(l.out, "lanes", strconv.Itoa(l.number)) }

// start starts the lane's cluster if there is none, or if it is not whole.
func (l *lane) start(ctx context.Context) error {
	if l.cluster != nil {
		if l.cluster.Check() == nil && len(l.cluster.Workers()) == workers {
			return nil
		}
		l.stop()
	}
	dir := filepath.Join(l.dir(), "cluster")
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	c, err := cluster.Start(ctx, l.flinkDist, cluster.Config{Dir: dir, TaskManagers: workers, Slots: slots})
	if err != nil {
		return err
	}
	l.cluster, l.added = c, 0
	return nil
}

func (l *lane) stop() {
	if l.cluster != nil {
		if err := l.cluster.Stop(); err != nil {
			l.say(l, "stop: %v", err)
		}
		l.cluster = nil
	}
}

// drive is one run that is being recorded.
type drive struct {
	*lane
	s       scenario.Scenario
	shape   scenario.Shape
	log     *runLog
	view    *view
	command *exec.Cmd
	ended   chan error // of the recorder
	knobs   string     // file
	wrote   string     // its text
	on      []scenario.Resolved
	cut     int
	last    string // the worker that the incident before was at
}

// record records a run into DIR/NAME.jsonl.gz and returns what is known of it,
// also when it failed.
func (l *lane) record(ctx context.Context, s scenario.Scenario, attempt int, dir string) (log runLog, err error) {
	shape, err := s.ShapeOf(l.shapes)
	if err != nil {
		return log, err
	}
	log = runLog{Scenario: scenarioJSON{s}, Shape: shape, Flink: l.flink, Attempt: attempt, Begin: time.Now().UTC(), Incidents: []incidentLog{}}
	d := &drive{lane: l, s: s, shape: shape, log: &log, knobs: filepath.Join(l.dir(), s.Name+".properties")}
	defer func() {
		log.End = time.Now().UTC()
		log.setMachine(l.machine.since(log.Begin))
	}()
	if err := d.turn(); err != nil {
		return log, err
	}
	knobs, err := filepath.Abs(d.knobs)
	if err != nil {
		return log, err
	}
	args := append([]string{"--knobs", knobs, "--name", s.Name, "--seed", strconv.FormatUint(s.Seed%(1<<31), 10)}, shape.Arguments()...)
	if log.JobID, err = l.cluster.Submit(ctx, l.jar, shape.Class, args); err != nil {
		return log, err
	}
	defer func() {
		// The run is over even when ctx is: the lane's next run needs the slots.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		err = errors.Join(err, mendStorage(l.cluster.CheckpointDir()), l.cluster.Cancel(ctx, log.JobID))
	}()
	if err := l.cluster.WaitRunning(ctx, log.JobID); err != nil {
		return log, err
	}
	client, err := flink.NewClient(l.cluster.URL(), flink.Options{Timeout: 20 * time.Second})
	if err != nil {
		return log, err
	}
	defer client.Close()
	if d.view, err = newView(ctx, client, log.JobID, shape); err != nil {
		return log, err
	}
	if err := d.calm(ctx); err != nil {
		return log, err
	}
	log.Begin = time.Now().UTC()
	if err := d.startRecorder(filepath.Join(dir, s.Name+".jsonl.gz")); err != nil {
		return log, err
	}
	defer func() { err = errors.Join(err, d.stopRecorder()) }()
	err = d.incidents(ctx)
	log.Outages = d.view.outages(context.WithoutCancel(ctx))
	return log, err
}

// calm waits until the job's classes are compiled, which takes the whole machine
// for some seconds: until it had room for 8 s, a minute at most.
func (d *drive) calm(ctx context.Context) error {
	begin := time.Now()
	for time.Since(begin) < time.Minute {
		last := d.machine.since(time.Now().Add(-8 * time.Second))
		if len(last) >= 7 && !slices.ContainsFunc(last, func(s sample) bool { return s.free() < d.spare }) {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
	return nil
}

func (d *drive) startRecorder(file string) error {
	errs, err := os.Create(file + ".log")
	if err != nil {
		return err
	}
	defer errs.Close()
	// What an interrupted runner left is of no use.
	d.command = exec.Command(d.tool, "record", "flink", d.cluster.URL(), "--job", d.s.Name, "--out", file, "--force", "--every", pollEvery.String(), "--for", (2 * expected(d.s)).String())
	d.command.Stdout, d.command.Stderr = errs, errs
	if err := d.command.Start(); err != nil {
		return fmt.Errorf("record: %w", err)
	}
	d.ended = make(chan error, 1)
	go func() { d.ended <- d.command.Wait() }()
	return nil
}

// stopRecorder asks the recorder to end, which writes what it has.
func (d *drive) stopRecorder() error {
	if d.ended == nil {
		return nil
	}
	if err := d.command.Process.Signal(os.Interrupt); err != nil {
		return nil // it has ended, and the wait below it said how
	}
	select {
	case err := <-d.ended:
		if err != nil {
			return fmt.Errorf("record: %w", err)
		}
		return nil
	case <-time.After(time.Minute):
		return errors.Join(errors.New("record: did not end within a minute"), d.command.Process.Kill())
	}
}

// turn writes the knob file if it says something new.
func (d *drive) turn() error {
	token := ""
	if d.cut > 0 {
		token = strconv.Itoa(d.cut)
	}
	text := d.s.Knobs(time.Since(d.log.Begin), d.on, token)
	if text == d.wrote {
		return nil
	}
	d.wrote = text
	return writeFile(d.knobs, []byte(text))
}

// wait waits until a time, keeps the load on its curve, and returns early when
// the run is not worth going on with.
func (d *drive) wait(ctx context.Context, until time.Time) error {
	for {
		if from, reason := noisy(d.machine.since(d.log.Begin), d.spare); reason != "" {
			return errNoisy{reason, from}
		}
		if err := d.cluster.Check(); err != nil {
			return err
		}
		if err := d.turn(); err != nil {
			return err
		}
		left := time.Until(until)
		if left <= 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-d.ended:
			d.ended = nil
			return fmt.Errorf("record: ended early: %w", cmp.Or(err, errors.New("without an error")))
		case <-time.After(min(left, 500*time.Millisecond)):
		}
	}
}

// until asks until it is so, and says whether it was in time.
func (d *drive) until(ctx context.Context, within time.Duration, so func() (bool, error)) (bool, error) {
	end := time.Now().Add(within)
	for {
		if ok, err := so(); ok || err != nil {
			return ok, err
		}
		if time.Now().After(end) {
			return false, nil
		}
		if err := d.wait(ctx, time.Now().Add(1100*time.Millisecond)); err != nil {
			return false, err
		}
	}
}

func (d *drive) incidents(ctx context.Context) error {
	if err := d.wait(ctx, d.log.Begin.Add(time.Duration(d.s.Healthy))); err != nil {
		return err
	}
	for i, in := range d.s.Incidents {
		d.say(d.lane, "%s %d/%d %s %s", d.s.Name, i+1, len(d.s.Incidents), in.Name, in.Magnitude)
		l, err := d.incident(ctx, in)
		d.log.Incidents = append(d.log.Incidents, l)
		if err != nil {
			return fmt.Errorf("%s: %w", in.Name, err)
		}
		from := l.End
		if l.Drained.After(from) {
			from = l.Drained
		}
		if err := d.wait(ctx, from.Add(time.Duration(d.s.Gap))); err != nil {
			return err
		}
	}
	return nil
}

// step is what happens at one time of an incident.
type step struct {
	at time.Duration
	do func() error
}

func (d *drive) incident(ctx context.Context, in scenario.Incident) (l incidentLog, err error) {
	l = incidentLog{Name: in.Name, Magnitude: in.Magnitude, Settle: cmp.Or(in.Settle, "cut"), Note: in.Note, Load: d.s.Load.At(time.Since(d.log.Begin))}
	if l.Placement, err = d.view.placement(ctx); err != nil {
		return l, err
	}
	l.Checkpoints[0] = d.view.failedCheckpoints(ctx)
	steps, err := d.steps(ctx, in, &l)
	if err != nil {
		return l, err
	}
	begin := time.Now()
	l.Start = begin.UTC()
	ended := false
	for _, s := range steps {
		if err := d.wait(ctx, begin.Add(s.at)); err != nil {
			return l, err
		}
		if s.at == in.Length() && !ended {
			ended = true
			l.Backlog = d.view.backlog(ctx)
			l.Checkpoints[1] = d.view.failedCheckpoints(ctx)
			if l.Settle == "cut" {
				d.cut++
			}
		}
		if err := s.do(); err != nil {
			return l, err
		}
		if err := d.turn(); err != nil {
			return l, err
		}
	}
	l.End = time.Now().UTC()
	for i := range l.Faults {
		if l.Faults[i].End.IsZero() {
			l.Faults[i].End = l.End
		}
	}
	ok, err := d.until(ctx, time.Minute, func() (bool, error) { return d.view.running(ctx, "", 0) })
	if err != nil || !ok {
		return l, cmp.Or(err, errors.New("the job does not run again within a minute"))
	}
	for i, f := range l.Faults {
		if f.Fault.Kind == scenario.LoseWorker {
			l.Faults[i].End = time.Now().UTC()
		}
	}
	limit := 0.0
	for _, name := range d.view.sources {
		limit += drainedBelow * d.s.Load.At(time.Since(d.log.Begin)) * d.shape.Components[name].Rate
	}
	calm := 0
	ok, err = d.until(ctx, drainWithin, func() (bool, error) {
		if n := d.view.backlog(ctx); n != nil && *n < limit {
			calm++
		} else {
			calm = 0
		}
		return calm >= 2, nil
	})
	if ok {
		l.Drained = time.Now().UTC()
	}
	return l, err
}

// steps turns an incident into what is done at which time, and its faults into
// their logs, with their workers chosen.
func (d *drive) steps(ctx context.Context, in scenario.Incident, l *incidentLog) ([]step, error) {
	var steps []step
	taken := d.last
	for i, f := range in.Faults {
		r := scenario.Resolved{Fault: f}
		if f.Worker != nil {
			h := fnv.New64a()
			fmt.Fprintf(h, "%d/%s/%d", d.s.Seed, in.Name, i)
			r.On = f.Worker.Choose(l.Placement, d.shape, h.Sum64(), taken)
			if r.On == "" {
				return nil, fmt.Errorf("no worker hosts %d instances", f.Worker.Loaded)
			}
			taken = r.On
		}
		fl := faultLog{Fault: f, On: r.On}
		if r.On != "" {
			fl.Hosted = l.Placement.On(r.On, d.shape)
		}
		l.Faults = append(l.Faults, fl)
		on := func() error {
			l.Faults[i].Start = time.Now().UTC()
			d.on = append(d.on, r)
			return nil
		}
		off := func() error {
			l.Faults[i].End = time.Now().UTC()
			d.on = slices.DeleteFunc(d.on, func(o scenario.Resolved) bool { return o == r })
			return nil
		}
		switch f.Kind {
		case scenario.LoseWorker:
			on = func() error {
				l.Faults[i].Start = time.Now().UTC()
				return d.cluster.KillWorker(r.On)
			}
			off = func() error { return nil }
			steps = append(steps, step{time.Duration(f.At) + 10*time.Second, func() error {
				d.added++
				id := fmt.Sprintf("tm-%d", workers+d.added)
				go startGently(ctx, 25*time.Second, "resource-id="+id, filepath.Join(d.cluster.Dir(), "conf"))
				return d.cluster.AddWorker(id)
			}})
		case scenario.Checkpoint:
			on = func() error {
				l.Faults[i].Start = time.Now().UTC()
				return breakStorage(d.cluster.CheckpointDir())
			}
			off = func() error {
				l.Faults[i].End = time.Now().UTC()
				return mendStorage(d.cluster.CheckpointDir())
			}
		case scenario.Rescale:
			was := d.shape.Components[f.Component].Parallelism
			resize := func(copies int) error {
				if err := d.view.rescale(ctx, f.Component, copies); err != nil {
					return err
				}
				ok, err := d.until(ctx, time.Minute, func() (bool, error) { return d.view.running(ctx, f.Component, copies) })
				if err == nil && !ok {
					err = fmt.Errorf("%s does not run with %d copies within a minute", f.Component, copies)
				}
				return err
			}
			on = func() error {
				l.Faults[i].Start = time.Now().UTC()
				return resize(was + int(f.Factor))
			}
			off = func() error {
				err := resize(was)
				l.Faults[i].End = time.Now().UTC()
				return err
			}
		}
		steps = append(steps, step{time.Duration(f.At), on}, step{time.Duration(f.At + f.For), off})
	}
	d.last = taken
	slices.SortStableFunc(steps, func(a, b step) int { return cmp.Compare(a.at, b.at) })
	return steps, nil
}

// breakStorage puts a plain file where the folder of the checkpoints is: none can
// be written.
func breakStorage(dir string) error {
	if err := os.Rename(dir, dir+".away"); err != nil {
		return err
	}
	return os.WriteFile(dir, nil, 0o644)
}

// mendStorage undoes that, if it was done.
func mendStorage(dir string) error {
	if _, err := os.Stat(dir + ".away"); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err := os.Remove(dir); err != nil {
		return err
	}
	return os.Rename(dir+".away", dir)
}

// expected is about how long a run takes.
func expected(s scenario.Scenario) time.Duration {
	total := 20*time.Second + time.Duration(s.Healthy)
	for _, in := range s.Incidents {
		total += in.Length() + 8*time.Second + time.Duration(s.Gap)
		if in.Settle == "drain" && in.Length() < time.Minute {
			total += 20 * time.Second
		}
	}
	return total
}
