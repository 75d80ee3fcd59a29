package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
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

// observe follows a real job through four faults and a healthy stretch, diagnoses
// it live, and afterwards from the recording of the same minutes: both must be
// right, and the same to the byte.
func observe(ctx context.Context, b *bench) error {
	const job, engine = "wordcount", "prod"
	run, knobs, err := b.submit(ctx, job)
	if err != nil {
		return err
	}
	hot, worker, err := b.targets(ctx, run)
	if err != nil {
		return err
	}
	faults := []fault{
		{"cost.splitter.2=4", "slow_instance", "splitter[2]"},
		{"worker." + worker + "=3.5", "slow_worker", worker},
		{"hot.counter=0.5", "data_skew", hot},
		{"rate=2.6", "underprovisioned", "counter"},
	}

	live, err := b.home(ctx, "live")
	if err != nil {
		return err
	}
	recording := filepath.Join(b.dir, "recording.jsonl.gz")
	follow := b.command(ctx, live, "ingest", "flink", b.cluster.URL(), "--engine", engine, "--job", job, "--every", "5s", "--record", recording)
	var said bytes.Buffer
	follow.Stdout, follow.Stderr = &said, &said
	follow.Cancel = func() error { return follow.Process.Signal(syscall.SIGINT) }
	if err := follow.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- follow.Wait() }()

	b.say("following %s/%s", engine, job)
	answers, wrong, err := b.faults(ctx, live, engine+"/"+job, knobs, faults)
	if err != nil {
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
	same := 0
	for _, a := range answers {
		body, err := b.dhalion(ctx, again, "diagnose", engine+"/"+job, "--at", a.at.Format(time.RFC3339Nano), "-o", "json")
		if err != nil {
			return err
		}
		if bytes.Equal(body, a.body) {
			same++
			continue
		}
		wrong = append(wrong, fmt.Sprintf("%s: the recording gives another answer than the live engine did:\n%s\n%s", a.what, a.body, body))
	}
	b.say("the recording of the same minutes gives %d of %d answers to the byte", same, len(answers))
	if len(wrong) > 0 {
		return fmt.Errorf("%d wrong:\n%s", len(wrong), strings.Join(wrong, "\n"))
	}
	b.say("four faults were found live, a healthy job was left alone, and the recording says the same")
	return nil
}

// faults does one after the other and asks at the end of each, and once before.
func (b *bench) faults(ctx context.Context, home, job, knobs string, faults []fault) (answers []asked, wrong []string, err error) {
	ask := func(what string) ([]diagnosis, error) {
		body, err := b.dhalion(ctx, home, "diagnose", job, "-o", "json")
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
	b.say("healthy: %v", found)
	for _, d := range found {
		if d.Probability >= 0.5 && d.Cause != "transient" {
			wrong = append(wrong, "healthy: "+d.String())
		}
	}
	for i, f := range faults {
		if err := b.turn(knobs, "rate=1", f.knob, fmt.Sprintf("cut=%d", i)); err != nil {
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
		b.say("%s → %v", f.knob, found[:min(3, len(found))])
		if !right {
			wrong = append(wrong, fmt.Sprintf("%s: %s at %s was to come first: %v", f.knob, f.cause, f.at, found))
		}
		if err := b.turn(knobs, "rate=1", fmt.Sprintf("cut=%d", i+1)); err != nil {
			return nil, nil, err
		}
		if i+1 < len(faults) {
			if err := pass(ctx, between); err != nil {
				return nil, nil, err
			}
		}
	}
	return answers, wrong, nil
}

// targets are the instance that the hot key of the knobs goes to, and a worker
// with at least two loaded instances of other components than the source.
func (b *bench) targets(ctx context.Context, run string) (hot, worker string, err error) {
	knobs := filepath.Join(b.dir, "wordcount.properties")
	// The key's instance is the one that takes nearly all when nearly all has the key.
	if err := b.turn(knobs, "rate=0.3", "hot.counter=0.97"); err != nil {
		return "", "", err
	}
	before, err := b.cluster.Subtasks(ctx, run, "counter")
	if err != nil {
		return "", "", err
	}
	for deadline := time.Now().Add(time.Minute); ; {
		if err := pass(ctx, 2*time.Second); err != nil {
			return "", "", err
		}
		now, err := b.cluster.Subtasks(ctx, run, "counter")
		if err != nil {
			return "", "", err
		}
		sum, most, at := 0.0, 0.0, 0
		for i, s := range now {
			n := s.Read - before[i].Read
			if sum += n; n > most {
				most, at = n, i
			}
		}
		if sum > 300 && most > sum/2 {
			hot = fmt.Sprintf("counter[%d]", at)
			break
		}
		if time.Now().After(deadline) {
			return "", "", fmt.Errorf("no instance of counter gets the hot key: %v of %v records", most, sum)
		}
	}
	splitters, err := b.cluster.Subtasks(ctx, run, "splitter")
	if err != nil {
		return "", "", err
	}
	counters, err := b.cluster.Subtasks(ctx, run, "counter")
	if err != nil {
		return "", "", err
	}
	for _, s := range splitters {
		for _, c := range counters {
			if s.Worker == c.Worker {
				return hot, s.Worker, b.turn(knobs, "rate=1", "cut=start")
			}
		}
	}
	return "", "", fmt.Errorf("no worker has instances of splitter and counter")
}
