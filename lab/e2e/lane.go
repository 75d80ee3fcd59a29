package main

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/lab/cluster"
)

// lane is a cluster with jobs, a database, and an ingest that follows them, as an
// operator would have it.
type lane struct {
	*bench
	name   string
	home   string // DHALION_HOME
	config string // dhalion.yaml
	runs   map[string]string
	knobs  map[string]string
	turned time.Time // when something was done to a job last

	follow *exec.Cmd
	ended  chan error
	said   bytes.Buffer
}

func (l *lane) say(format string, args ...any) {
	l.bench.say("%-8s %s", l.name, fmt.Sprintf(format, args...))
}

// open starts the lane's cluster, its jobs, its database and the ingest.
func (b *bench) open(ctx context.Context, name string, c cluster.Config, shapes ...string) (l *lane, err error) {
	dir := filepath.Join(b.dir, name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	own := &bench{binary: b.binary, dir: dir, jar: b.jar, shapes: b.shapes, flink: b.flink, began: b.began}
	l = &lane{bench: own, name: name, config: filepath.Join(dir, "dhalion.yaml"), runs: map[string]string{}, knobs: map[string]string{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.close(context.WithoutCancel(ctx)))
		}
	}()
	c.Dir = filepath.Join(dir, "flink")
	if own.cluster, err = cluster.Start(ctx, b.flink, c); err != nil {
		return l, err
	}
	for _, shape := range shapes {
		if l.runs[shape], l.knobs[shape], err = own.submit(ctx, shape); err != nil {
			return l, err
		}
	}
	if l.home, err = own.home(ctx, "home"); err != nil {
		return l, err
	}
	if err = l.configure(""); err != nil {
		return l, err
	}
	l.follow = l.command(ctx, l.home, "ingest", "flink", "prod", "--every", "4s", "--config", l.config)
	l.follow.Stdout, l.follow.Stderr = &l.said, &l.said
	l.ended = make(chan error, 1)
	if err = l.follow.Start(); err != nil {
		l.follow = nil
		return l, err
	}
	go func() { l.ended <- l.follow.Wait() }()
	l.say("%s on %d TaskManagers", strings.Join(shapes, " and "), len(own.cluster.Workers()))
	return l, nil
}

// configure writes dhalion.yaml: the engine, and what is given.
func (l *lane) configure(more string) error {
	return os.WriteFile(l.config, []byte(fmt.Sprintf("engines:\n  prod: {kind: flink, url: %q}\n%s", l.cluster.URL(), more)), 0o644)
}

// turn does something to a job, and remembers when.
func (l *lane) turn(file string, settings ...string) error {
	l.turned = time.Now()
	return l.bench.turn(file, settings...)
}

// starting is what dhalion.yaml says of how a shape's job is started, with its salt.
func (l *lane) starting(job string) string {
	shape := l.shapes[job]
	var quoted []string
	for _, a := range append([]string{"--knobs", l.knobs[job], "--name", job, "--salt", "1"}, shape.Arguments()...) {
		quoted = append(quoted, fmt.Sprintf("%q", a))
	}
	return fmt.Sprintf("jobs:\n  - match: prod/%s\n    mode: propose\n    start: {jar: %s, class: %s, arguments: [%s]}\n",
		job, filepath.Base(l.jar), shape.Class, strings.Join(quoted, ", "))
}

func (l *lane) close(ctx context.Context) (err error) {
	if l.follow != nil {
		_ = l.follow.Process.Signal(syscall.SIGINT)
		if end := <-l.ended; end != nil {
			err = fmt.Errorf("dhalion ingest: %w: %s", end, l.said.String())
		}
	}
	for _, home := range l.homes {
		_, stopErr := l.bench.dhalion(ctx, home, "db", "stop")
		err = errors.Join(err, stopErr)
	}
	if l.cluster != nil {
		err = errors.Join(err, l.cluster.Stop())
	}
	return err
}

// run is one command; it fails when its exit code is another than want.
func (l *lane) run(ctx context.Context, want int, args ...string) (out []byte, err error) {
	cmd := l.command(ctx, l.home, append(args, "--config", l.config)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err = cmd.Output()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return nil, err
	}
	if code := cmd.ProcessState.ExitCode(); code != want {
		return out, fmt.Errorf("dhalion %s ended with %d, not %d: %s\n%s", strings.Join(args, " "), code, want, strings.TrimSpace(stderr.String()), out)
	}
	return out, nil
}

// proposal is a plan as far as these runs look into it.
type proposal struct {
	file, id string
	Actions  []struct {
		Kind   string `json:"kind"`
		Target struct {
			Component string `json:"component"`
			Worker    string `json:"worker"`
		} `json:"target"`
		To      any `json:"to"`
		Affects []struct {
			Job string `json:"job"`
		} `json:"affects"`
	} `json:"actions"`
	Window dhalion.Window `json:"window"`
}

// sizes are the parallelisms that a plan sets, by component.
func (p proposal) sizes() map[string]int {
	sizes := map[string]int{}
	for _, a := range p.Actions {
		if n, ok := a.To.(float64); ok && a.Kind == "set_parallelism" {
			sizes[a.Target.Component] = int(n)
		}
	}
	return sizes
}

// kinds are the kinds of a plan's actions, sorted, each once.
func (p proposal) kinds() []string {
	var kinds []string
	for _, a := range p.Actions {
		kinds = append(kinds, a.Kind)
	}
	slices.Sort(kinds)
	return slices.Compact(kinds)
}

// plan makes a plan now.
func (l *lane) plan(ctx context.Context, job, policy string) (p proposal, err error) {
	p.file = filepath.Join(l.dir, fmt.Sprintf("plan-%d.json", time.Now().UnixNano()))
	out, err := l.run(ctx, 0, "plan", "prod/"+job, "--policy", policy, "--as", "ann", "--out", p.file, "-o", "json")
	if err != nil {
		return p, err
	}
	return p, p.read(out)
}

// read takes a plan's document in.
func (p *proposal) read(document []byte) error {
	var doc struct {
		ID   string          `json:"id"`
		Body json.RawMessage `json:"body"`
	}
	if err := json.Unmarshal(document, &doc); err != nil {
		return err
	}
	p.id = doc.ID
	if doc.Body == nil {
		doc.Body = document
	}
	return json.Unmarshal(doc.Body, p)
}

// await plans until the plan is of one kind of action, and fails when the time is
// over. Only plans count whose whole window has seen what was done, so that its
// figures are those of the fault and not of its first seconds: what is measured is some
// seconds old. It asks for the same kind twice in a row.
func (l *lane) await(ctx context.Context, job, policy, kind string, within time.Duration) (proposal, error) {
	if err := pass(ctx, window); err != nil {
		return proposal{}, err
	}
	seen := 0
	for deadline := time.Now().Add(within); ; {
		p, err := l.plan(ctx, job, policy)
		if err != nil {
			return p, err
		}
		if !p.Window.Start.Before(l.turned) && slices.Equal(p.kinds(), []string{kind}) {
			if seen++; seen == 2 {
				return p, nil
			}
		} else {
			seen = 0
		}
		if time.Now().After(deadline) {
			found, _ := l.run(ctx, 0, "diagnose", "prod/"+job, "--policy", policy)
			return p, fmt.Errorf("no plan to %s within %s: the last one has %v; %s", kind, within, p.kinds(), found)
		}
		if err := pass(ctx, 5*time.Second); err != nil {
			return p, err
		}
	}
}

// came is what an apply came to.
type came struct {
	Result string `json:"result"`
	State  string `json:"state"`
	Reason string `json:"reason"`
}

// apply approves a plan as somebody else, applies it, and wants a result.
func (l *lane) apply(ctx context.Context, p proposal, want string, flags ...string) error {
	if _, err := l.run(ctx, 0, "approve", p.file, "--as", "bob"); err != nil {
		return err
	}
	return l.carry(ctx, p, want, flags...)
}

func (l *lane) carry(ctx context.Context, p proposal, want string, flags ...string) error {
	out, err := l.run(ctx, 0, append([]string{"apply", p.file, "-o", "json"}, flags...)...)
	if err != nil {
		return err
	}
	var c came
	if err := json.Unmarshal(out, &c); err != nil {
		return err
	}
	if c.Result != want {
		return fmt.Errorf("plan %s is %s, not %s: %s", p.id, c.Result, want, c.Reason)
	}
	l.say("%s: %s", c.Result, c.Reason)
	return nil
}

// drained waits until a job has worked off what came to lie since it was turned last:
// at least a second's worth of a load, in records/s, of which less than half may be left.
func (l *lane) drained(ctx context.Context, job string, load float64, within time.Duration) error {
	for deadline := time.Now().Add(within); ; {
		most, left, err := l.lag(ctx, job, l.turned)
		switch {
		case err != nil:
			return err
		case most < load:
			return fmt.Errorf("at most %.0f records lay at the sources of %s, and %.0f/s came: no backlog to work off", most, job, load)
		case left < load/2:
			l.say("the backlog of up to %.0f records is worked off to %.0f", most, left)
			return nil
		case time.Now().After(deadline):
			return fmt.Errorf("of a backlog of up to %.0f records at the sources of %s, %.0f are left", most, job, left)
		}
		if err := pass(ctx, time.Second); err != nil {
			return err
		}
	}
}

// lag is how many records lay at a job's sources since a time: the most of them, and
// the newest.
func (l *lane) lag(ctx context.Context, job string, since time.Time) (most, newest float64, err error) {
	out, err := l.run(ctx, 0, "export", "prod/"+job, "--kind", "instance", "--format", "csv", "--from", since.UTC().Format(time.RFC3339Nano), "--out", "-")
	if err != nil {
		return 0, 0, err
	}
	rows, err := csv.NewReader(bytes.NewReader(out)).ReadAll()
	if err != nil || len(rows) == 0 {
		return 0, 0, fmt.Errorf("the history of %s is %q: %w", job, out, err)
	}
	metric, value := slices.Index(rows[0], "metric"), slices.Index(rows[0], "value")
	total := map[string]float64{} // by time
	for _, row := range rows[1:] {
		if row[metric] == string(dhalion.Lag) {
			v, err := strconv.ParseFloat(row[value], 64)
			if err != nil {
				return 0, 0, fmt.Errorf("the history of %s: %w", job, err)
			}
			total[row[0]] += v
		}
	}
	if len(total) == 0 {
		return 0, 0, fmt.Errorf("no lag of %s is known since %s", job, since)
	}
	for _, v := range total {
		most = max(most, v)
	}
	return most, total[slices.Max(slices.Collect(maps.Keys(total)))], nil
}

// has checks by Flink's own word that components have so many instances, all of
// them running.
func (l *lane) has(ctx context.Context, run string, sizes map[string]int) error {
	for name, want := range sizes {
		all, err := l.cluster.Subtasks(ctx, run, name)
		if err != nil {
			return err
		}
		up := 0
		for _, s := range all {
			if s.Status == "RUNNING" {
				up++
			}
		}
		if len(all) != want || up != want {
			return fmt.Errorf("by Flink %s has %d instances, %d running, and the plan says %d", name, len(all), up, want)
		}
	}
	return nil
}

// alive are the runs of a job that have not ended, by Flink's word.
func (l *lane) alive(ctx context.Context, job string) ([]string, error) {
	all, err := l.states(ctx, job)
	maps.DeleteFunc(all, func(_, state string) bool { return slices.Contains([]string{"FINISHED", "CANCELED", "FAILED"}, state) })
	return slices.Sorted(maps.Keys(all)), err
}

// states are the runs that a job has had, and their states, by Flink's word.
func (l *lane) states(ctx context.Context, job string) (map[string]string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, l.cluster.URL()+"/jobs/overview", nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var all struct {
		Jobs []struct{ JID, Name, State string }
	}
	if err := json.NewDecoder(resp.Body).Decode(&all); err != nil {
		return nil, err
	}
	states := map[string]string{}
	for _, j := range all.Jobs {
		if j.Name == job {
			states[j.JID] = j.State
		}
	}
	return states, nil
}

// logged waits until the log of a plan has an event.
func (l *lane) logged(ctx context.Context, p proposal, event string, within time.Duration) error {
	for deadline := time.Now().Add(within); ; {
		out, err := l.run(ctx, 0, "log", p.id, "-o", "json")
		if err != nil {
			return err
		}
		if bytes.Contains(out, []byte(`"`+event+`"`)) {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("plan %s is not %s within %s: %s", p.id, event, within, out)
		}
		if err := pass(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
}
