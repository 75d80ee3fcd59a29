package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// healthy is how long the job runs in order before the first fault: its past.
	healthy = 100 * time.Second
	// faulty is how long a fault lasts; it is asked for at its end.
	faulty = 60 * time.Second
	// between is how long the job is left in order after a fault.
	between = 40 * time.Second
)

// fault is what is done to the job, and what must be said of it.
type fault struct {
	knob  string
	cause string
	at    string // component, component[instance], or worker
}

type diagnosis struct {
	Target struct {
		Component string `json:"component"`
		Instance  *int   `json:"instance"`
		Worker    string `json:"worker"`
	} `json:"target"`
	Cause       string  `json:"cause"`
	Probability float64 `json:"probability"`
}

func (d diagnosis) at() string {
	if d.Target.Component == "" {
		return d.Target.Worker
	}
	if d.Target.Instance != nil {
		return fmt.Sprintf("%s[%d]", d.Target.Component, *d.Target.Instance)
	}
	return d.Target.Component
}

func (d diagnosis) String() string {
	return fmt.Sprintf("%s at %s (%.2f)", d.Cause, d.at(), d.Probability)
}

type answer struct {
	At        time.Time   `json:"at"`
	Diagnoses []diagnosis `json:"diagnoses"`
}

// asked is an answer that was given live.
type asked struct {
	what string
	at   time.Time
	body []byte
}

// watched is a job and what is done to it, one fault after the other.
type watched struct {
	shape, run, knobs string
	faults            []fault
}

func (w watched) job() string { return engine + "/" + w.shape }

// engine is the first part of the jobs' ids.
const engine = "prod"

// watch starts two jobs side by side, each with two of the four faults.
func (b *bench) watch(ctx context.Context) ([]watched, error) {
	words, diamond := watched{shape: "wordcount"}, watched{shape: "diamond"}
	for _, w := range []*watched{&words, &diamond} {
		var err error
		if w.run, w.knobs, err = b.submit(ctx, w.shape); err != nil {
			return nil, err
		}
	}
	hot, err := b.hottest(ctx, words, "counter")
	if err != nil {
		return nil, err
	}
	worker, err := b.loaded(ctx, diamond.run, "enrich", "join")
	if err != nil {
		return nil, err
	}
	words.faults = []fault{{"cost.splitter.2=4", "slow_instance", "splitter[2]"}, {"hot.counter=0.5", "data_skew", hot}}
	diamond.faults = []fault{{"worker." + worker + "=3.5", "slow_worker", worker}, {"rate=2.6", "underprovisioned", "join"}}
	return []watched{words, diamond}, nil
}

// observe follows two real jobs through four faults and a healthy stretch, diagnoses
// them live, and afterwards from the recording of the same minutes: both must be
// right, and the same to the byte.
func observe(ctx context.Context, b *bench) error {
	jobs, err := b.watch(ctx)
	if err != nil {
		return err
	}
	live, err := b.home(ctx, "live")
	if err != nil {
		return err
	}
	recording := filepath.Join(b.dir, "recording.jsonl.gz")
	follow := b.command(ctx, live, "ingest", "flink", b.cluster.URL(), "--engine", engine, "--every", "5s", "--record", recording)
	var said bytes.Buffer
	follow.Stdout, follow.Stderr = &said, &said
	follow.Cancel = func() error { return follow.Process.Signal(syscall.SIGINT) }
	if err := follow.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- follow.Wait() }()

	b.say("following %s and %s", jobs[0].job(), jobs[1].job())
	answers, wrong := make([][]asked, len(jobs)), []string{}
	var group sync.WaitGroup
	errs := make([]error, len(jobs))
	var mu sync.Mutex
	for i, w := range jobs {
		group.Add(1)
		go func() {
			defer group.Done()
			var not []string
			answers[i], not, errs[i] = b.faults(ctx, live, w)
			mu.Lock()
			defer mu.Unlock()
			wrong = append(wrong, not...)
		}()
	}
	group.Wait()
	if err := errors.Join(errs...); err != nil {
		select {
		case end := <-ended:
			return fmt.Errorf("%w (dhalion ingest ended: %v: %s)", err, end, said.String())
		default:
			return err
		}
	}
	if err := follow.Process.Signal(syscall.SIGINT); err != nil {
		return fmt.Errorf("dhalion ingest has ended before: %w: %s", err, said.String())
	}
	if err := <-ended; err != nil {
		return fmt.Errorf("dhalion ingest: %w: %s", err, said.String())
	}

	again, err := b.home(ctx, "again")
	if err != nil {
		return err
	}
	if _, err := b.dhalion(ctx, again, "ingest", recording, "--engine", engine); err != nil {
		return err
	}
	same, all := 0, 0
	for i, w := range jobs {
		for _, a := range answers[i] {
			all++
			body, err := b.dhalion(ctx, again, "diagnose", w.job(), "--at", a.at.Format(time.RFC3339Nano), "-o", "json")
			if err != nil {
				return err
			}
			if bytes.Equal(body, a.body) {
				same++
				continue
			}
			wrong = append(wrong, fmt.Sprintf("%s: the recording gives another answer than the live engine did:\n%s\n%s", a.what, a.body, body))
		}
	}
	b.say("the recording of the same minutes gives %d of %d answers to the byte", same, all)
	if len(wrong) > 0 {
		return fmt.Errorf("%d wrong:\n%s", len(wrong), strings.Join(wrong, "\n"))
	}
	b.say("four faults were found live, two healthy jobs were left alone, and the recording says the same")
	return nil
}

// faults does a job's faults one after the other and asks at the end of each, and
// once before.
func (b *bench) faults(ctx context.Context, home string, w watched) (answers []asked, wrong []string, err error) {
	ask := func(what string) ([]diagnosis, error) {
		body, err := b.dhalion(ctx, home, "diagnose", w.job(), "-o", "json")
		if err != nil {
			return nil, err
		}
		var a answer
		if err := json.Unmarshal(body, &a); err != nil {
			return nil, err
		}
		answers = append(answers, asked{what, a.At, body})
		return a.Diagnoses, nil
	}
	if err := pass(ctx, healthy); err != nil {
		return nil, nil, err
	}
	found, err := ask("healthy")
	if err != nil {
		return nil, nil, err
	}
	b.say("%s, healthy: %v", w.shape, found)
	for _, d := range found {
		if d.Probability >= 0.5 && d.Cause != "transient" {
			wrong = append(wrong, w.shape+", healthy: "+d.String())
		}
	}
	for i, f := range w.faults {
		if err := b.turn(w.knobs, "rate=1", f.knob, fmt.Sprintf("cut=%d", i)); err != nil {
			return nil, nil, err
		}
		if err := pass(ctx, faulty); err != nil {
			return nil, nil, err
		}
		found, err := ask(f.cause)
		if err != nil {
			return nil, nil, err
		}
		right := len(found) > 0 && found[0].Cause == f.cause && found[0].at() == f.at
		b.say("%s, %s → %v", w.shape, f.knob, found[:min(3, len(found))])
		if !right {
			wrong = append(wrong, fmt.Sprintf("%s: %s at %s was to come first: %v", f.knob, f.cause, f.at, found))
		}
		if err := b.turn(w.knobs, "rate=1", fmt.Sprintf("cut=%d", i+1)); err != nil {
			return nil, nil, err
		}
		if i+1 < len(w.faults) {
			if err := pass(ctx, between); err != nil {
				return nil, nil, err
			}
		}
	}
	return answers, wrong, nil
}

// hottest is the instance of a keyed component that the hot key of the knobs goes
// to.
func (b *bench) hottest(ctx context.Context, w watched, component string) (string, error) {
	// It is the one that takes nearly all when nearly all has the key.
	if err := b.turn(w.knobs, "rate=0.3", "hot."+component+"=0.97"); err != nil {
		return "", err
	}
	before, err := b.cluster.Subtasks(ctx, w.run, component)
	if err != nil {
		return "", err
	}
	for deadline := time.Now().Add(time.Minute); ; {
		if err := pass(ctx, 2*time.Second); err != nil {
			return "", err
		}
		now, err := b.cluster.Subtasks(ctx, w.run, component)
		if err != nil {
			return "", err
		}
		sum, most, at := 0.0, 0.0, 0
		for i, s := range now {
			n := s.Read - before[i].Read
			if sum += n; n > most {
				most, at = n, i
			}
		}
		if sum > 300 && most > sum/2 {
			return fmt.Sprintf("%s[%d]", component, at), b.turn(w.knobs, "rate=1", "cut=start")
		}
		if time.Now().After(deadline) {
			return "", fmt.Errorf("no instance of %s gets the hot key: %v of %v records", component, most, sum)
		}
	}
}

// loaded is a worker with instances of two components of a run.
func (b *bench) loaded(ctx context.Context, run, one, two string) (worker string, err error) {
	ones, err := b.cluster.Subtasks(ctx, run, one)
	if err != nil {
		return "", err
	}
	twos, err := b.cluster.Subtasks(ctx, run, two)
	if err != nil {
		return "", err
	}
	for _, s := range ones {
		for _, c := range twos {
			if s.Worker == c.Worker {
				return s.Worker, nil
			}
		}
	}
	return "", fmt.Errorf("no worker has instances of %s and %s", one, two)
}
