package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/apply"
	"github.com/dhalion-go/dhalion/internal/engine/flink/flinktest"
	"github.com/dhalion-go/dhalion/internal/pgserver"
	"github.com/dhalion-go/dhalion/internal/store"
	"github.com/dhalion-go/dhalion/plan/policy"
)

const (
	orders  = dhalion.JobID("prod/orders")
	besides = dhalion.JobID("prod/besides")
)

// shop is the program of the job orders: --salt is its knob.
func shop([]string) (name string, vertices []flinktest.Vertex) {
	return "orders", []flinktest.Vertex{
		{Name: "lines", Parallelism: 2},
		{Name: "parse", Parallelism: 3, From: []string{"lines"}},
		{Name: "count", Parallelism: 4, From: []string{"parse"}},
		{Name: "store", Parallelism: 2, From: []string{"count"}},
	}
}

// bench is a database, a cluster that counts what was done to it, and a
// configuration that knows both.
type bench struct {
	t       *testing.T
	db      database
	cluster *flinktest.Cluster
	url     string
	dir     string
	config  string
	hooks   string // file to which the hook appends the id of each action that it does
}

// configured is the bench's dhalion.yaml with jobs of these lines.
func (b *bench) configured(jobs string) {
	b.t.Helper()
	// The hook writes down that it ran before it does anything.
	script := filepath.Join(b.dir, "lose-worker")
	lose := fmt.Sprintf(`#!/bin/bash
echo "$DHALION_ACTION_ID" >>%s
exec 3<>/dev/tcp/%s || exit 1
printf 'POST /lose/%%s HTTP/1.0\r\n\r\n' "$1" >&3
cat <&3 >/dev/null
`, b.hooks, strings.Replace(strings.TrimPrefix(b.url, "http://"), ":", "/", 1))
	b.write(script, lose, 0o700)
	b.write(b.config, fmt.Sprintf(`engines:
  prod: {kind: flink, url: %q, timeout: 5s}
hooks:
  lose-worker: {argv: [%q, "{worker}"], timeout: 20s, does: relocate}
jobs:
%s`, b.url, script, jobs), 0o600)
}

// hook adds one to dhalion.yaml, a script that gets one argument.
func (b *bench) hook(name, script, argument, does string) {
	b.t.Helper()
	text, err := os.ReadFile(b.config)
	if err != nil {
		b.t.Fatal(err)
	}
	path := filepath.Join(b.dir, name)
	b.write(path, "#!/bin/bash\n"+script+"\n", 0o700)
	b.write(b.config, strings.Replace(string(text), "hooks:\n", fmt.Sprintf("hooks:\n  %s: {argv: [%q, %q], timeout: 20s, does: %s}\n", name, path, argument, does), 1), 0o600)
}

// oneJob is what dhalion.yaml says of orders, and nothing of other jobs.
const oneJob = `  - match: prod/orders
    mode: propose
    start: {jar: shop.jar, arguments: [--salt, "1", --fast], savepoints: "file:///savepoints"}
`

func (b *bench) write(path, text string, mode os.FileMode) {
	b.t.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		b.t.Fatal(err)
	}
}

func newBench(t *testing.T, db database) *bench {
	t.Helper()
	b := &bench{t: t, db: db, dir: t.TempDir(), cluster: flinktest.New(time.Now, 4)}
	b.config, b.hooks = filepath.Join(b.dir, "dhalion.yaml"), filepath.Join(b.dir, "hooks.txt")
	// A short cache of metrics, for a poll waits for the half of its age.
	b.cluster.Refresh, b.cluster.Lag, b.cluster.Restart, b.cluster.Savepoint = 20*time.Millisecond, 60*time.Millisecond, 120*time.Millisecond, 80*time.Millisecond
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if worker, ok := strings.CutPrefix(r.URL.Path, "/lose/"); ok {
			b.cluster.Lose(worker)
			return
		}
		if salt, ok := strings.CutPrefix(r.URL.Path, "/turn/"); ok {
			b.cluster.SetState(b.cluster.Live("orders").Run, "CANCELED")
			b.cluster.StartJar(b.cluster.Upload("shop.jar", shop), "--salt", salt, "--fast")
			return
		}
		b.cluster.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	b.url = server.URL
	b.configured(oneJob)
	b.cluster.StartJar(b.cluster.Upload("shop.jar", shop), "--salt", "1", "--fast")
	b.ingest()
	return b
}

// app is a command line in this process, by a clock.
func (b *bench) app(now func() time.Time) (a *app, out, errs *bytes.Buffer) {
	out, errs = new(bytes.Buffer), new(bytes.Buffer)
	env := map[string]string{"USER": "ann", "DHALION_CONFIG": b.config}
	for _, v := range b.db.env {
		name, value, _ := strings.Cut(v, "=")
		env[name] = value
	}
	return &app{in: strings.NewReader(""), stdout: out, err: errs, now: now, getenv: func(name string) string { return env[name] }}, out, errs
}

// try runs a command in this process.
func (b *bench) try(now func() time.Time, args ...string) (said string, code int) {
	a, out, errs := b.app(now)
	code = a.run(context.Background(), args)
	return out.String() + errs.String(), code
}

// run runs a command in this process, which must end with 0.
func (b *bench) run(args ...string) string {
	b.t.Helper()
	said, code := b.try(time.Now, args...)
	if code != 0 {
		b.t.Fatalf("dhalion %s ended with %d:\n%s", strings.Join(args, " "), code, said)
	}
	return said
}

// ingest stores what the cluster's jobs are now.
func (b *bench) ingest() {
	b.t.Helper()
	b.run("ingest", "flink", "prod", "--every", "20ms", "--for", "20ms")
}

// live are the topologies of the cluster's jobs.
func (b *bench) live() map[dhalion.JobID]dhalion.Topology {
	b.t.Helper()
	a, _, _ := b.app(time.Now)
	engine, err := a.reach(orders)
	if err != nil {
		b.t.Fatal(err)
	}
	defer engine.close()
	all, _, err := engine.topologies(context.Background(), time.Now)
	if err != nil {
		b.t.Fatal(err)
	}
	return all
}

// because is what every action of these tests answers to.
func because(component string) []dhalion.Pair {
	return []dhalion.Pair{{Target: dhalion.ComponentTarget(orders, component), Cause: dhalion.Underprovisioned}}
}

func all(t dhalion.Topology) []dhalion.Affected {
	return []dhalion.Affected{{Job: orders, Instances: t.Instances(), Of: t.Instances()}}
}

// rescale, knob and relocation are actions on the job as it is.
func rescale(t dhalion.Topology, component string, to int) dhalion.Action {
	c, _ := t.Component(component)
	target, from, next := dhalion.ComponentTarget(orders, component), dhalion.NumberSetting(float64(c.Parallelism)), dhalion.NumberSetting(float64(to))
	return dhalion.Action{Kind: dhalion.SetParallelism, Target: target, From: from, To: next, Message: "rescale " + component, Because: because(component), Probability: .9,
		Expect:  dhalion.Expectation{Summary: "it keeps up", WithinSeconds: 60},
		Reverse: &dhalion.Reversal{Kind: dhalion.SetParallelism, Target: target, From: next, To: from, Summary: "back"}, Affects: all(t)}
}

func knob(t dhalion.Topology, argument, from, to string) dhalion.Action {
	target := dhalion.ComponentTarget(orders, "count")
	was, next := dhalion.TextSetting(from), dhalion.TextSetting(to)
	return dhalion.Action{Kind: dhalion.SetKnob, Target: target, From: was, To: next, Argument: argument, Message: "set " + argument, Because: because("count"), Probability: .9,
		Expect:  dhalion.Expectation{Summary: "it keeps up", WithinSeconds: 60},
		Reverse: &dhalion.Reversal{Kind: dhalion.SetKnob, Target: target, From: next, To: was, Summary: "back"}, Affects: all(t)}
}

func relocation(t dhalion.Topology, worker string, others ...dhalion.Affected) dhalion.Action {
	n := 0
	for _, p := range t.Placement {
		if p.Worker == worker {
			n++
		}
	}
	affects := append([]dhalion.Affected{{Job: orders, Instances: n, Of: t.Instances()}}, others...)
	return dhalion.Action{Kind: dhalion.Relocate, Target: dhalion.WorkerTarget(orders, worker), From: dhalion.TextSetting(worker), Message: "leave " + worker,
		Because: because("count"), Probability: .9, Expect: dhalion.Expectation{Summary: "it keeps up", WithinSeconds: 60}, Affects: affects}
}

// alert tells a person something.
func alert(dhalion.Topology) dhalion.Action {
	return dhalion.Action{Kind: dhalion.Alert, Target: dhalion.JobTarget(orders), Message: "checkpoints fail", Because: because("count"), Probability: .9,
		Expect: dhalion.Expectation{Summary: "somebody looks"}, Affects: []dhalion.Affected{}}
}

// builtIn is policy default, loaded once: with the race detector that takes long.
var builtIn = sync.OnceValues(func() (*policy.Policy, error) {
	return policySource{Policy: "default"}.load()
})

// draft is a plan for the job as it is now, by the policy of the configuration.
func (b *bench) draft(actions func(t dhalion.Topology) []dhalion.Action) dhalion.Plan {
	b.t.Helper()
	a, _, _ := b.app(time.Now)
	f, err := a.forJob(judgeFlags{policy: "default", changed: func(string) bool { return false }}, orders)
	if err == nil && f.loaded == nil {
		f.loaded, err = builtIn()
	}
	if err != nil {
		b.t.Fatal(err)
	}
	topology, ok := b.live()[orders]
	if !ok {
		b.t.Fatal("orders does not run")
	}
	model, err := ownModel()
	if err != nil {
		b.t.Fatal(err)
	}
	now := time.Now().UTC().Truncate(time.Millisecond)
	return dhalion.Plan{
		Version: 1, Job: orders, AsOf: now, Window: dhalion.Window{Start: now.Add(-time.Minute), End: now}, ValidForSeconds: 3600,
		Policy: f.loaded.Name, FourEyes: f.loaded.Approve.FourEyes,
		Basis:    dhalion.Basis{History: strings.Repeat("0", 64), Topology: topology.Digest(), Policy: f.loaded.Digest, Model: idOf(model), Outcomes: strings.Repeat("0", 64), Program: program},
		Topology: topology, Findings: dhalion.Findings{}, Actions: actions(topology),
	}
}

// propose stores a plan of the author's and writes its document to a file.
func (b *bench) propose(p dhalion.Plan, author string) (id, file string) {
	b.t.Helper()
	ctx := context.Background()
	a, _, _ := b.app(time.Now)
	f, err := a.forJob(judgeFlags{policy: "default", changed: func(string) bool { return false }}, orders)
	if err != nil {
		b.t.Fatal(err)
	}
	st, err := store.Open(ctx, b.db.url, store.Options{})
	if err != nil {
		b.t.Fatal(err)
	}
	defer st.Close()
	d, err := a.propose(ctx, st, p, f, author)
	if err != nil {
		b.t.Fatal(err)
	}
	file = filepath.Join(b.dir, d.id+".json")
	b.write(file, string(d.doc), 0o600)
	return d.id, file
}

// state is that of a plan, and why it is in it.
func (b *bench) state(id string) (state, why string) {
	b.t.Helper()
	text := b.db.text(`SELECT state || ' ' || state_reason FROM plans WHERE id = $1`, id)
	if len(text) != 1 {
		b.t.Fatalf("plan %s is %v", id, text)
	}
	state, why, _ = strings.Cut(text[0], " ")
	return state, why
}

// settled waits until the job runs with what it was told.
func (b *bench) settled() {
	b.t.Helper()
	b.rests("orders")
}

func (b *bench) rests(job string) {
	b.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !b.cluster.Settled(job); {
		if time.Now().After(deadline) {
			b.t.Fatalf("%s does not come to rest", job)
		}
	}
}

// planKind is a kind of plan that a crash may meet, and what must be in effect
// after it.
type planKind struct {
	name    string
	actions func(t dhalion.Topology) []dhalion.Action
	steps   int
	writes  int // attempts in the journal; a restart writes down its savepoint in between
	calls   int // requests that change something, and hooks
	opaque  bool
	told    bool          // by a hook, of an alert
	takes   time.Duration // from the process's start to its end, about
	effects map[string]int
	after   func(live flinktest.Shape) error
}

func wants(parallelism map[string]int, arguments ...string) func(flinktest.Shape) error {
	return func(live flinktest.Shape) error {
		if !maps.Equal(live.Parallelism, parallelism) {
			return fmt.Errorf("it runs with %v, not %v", live.Parallelism, parallelism)
		}
		if !slices.Equal(live.Arguments, arguments) {
			return fmt.Errorf("it runs with arguments %v, not %v", live.Arguments, arguments)
		}
		return nil
	}
}

var planKinds = []planKind{
	{
		name: "rescale",
		actions: func(t dhalion.Topology) []dhalion.Action {
			return []dhalion.Action{rescale(t, "count", 6), rescale(t, "parse", 2)}
		},
		steps: 1, writes: 1, calls: 1, takes: 1300 * time.Millisecond, effects: map[string]int{flinktest.Rescaled: 1},
		after: wants(map[string]int{"lines": 2, "parse": 2, "count": 6, "store": 2}, "--salt", "1", "--fast"),
	},
	{
		name: "knob", actions: func(t dhalion.Topology) []dhalion.Action { return []dhalion.Action{knob(t, "--salt", "1", "4")} },
		steps: 1, writes: 2, calls: 2, takes: 1500 * time.Millisecond, effects: map[string]int{flinktest.Stopped: 1, flinktest.Submitted: 1},
		after: wants(map[string]int{"lines": 2, "parse": 3, "count": 4, "store": 2}, "--salt", "4", "--fast"),
	},
	{
		name: "relocation", actions: func(t dhalion.Topology) []dhalion.Action { return []dhalion.Action{relocation(t, "tm-2")} },
		steps: 1, writes: 1, calls: 1, opaque: true, takes: 1200 * time.Millisecond, effects: map[string]int{flinktest.WorkerLost: 1},
		after: func(live flinktest.Shape) error {
			if n := live.On["tm-2"]; n > 0 {
				return fmt.Errorf("%d instances are on tm-2", n)
			}
			return wants(map[string]int{"lines": 2, "parse": 3, "count": 4, "store": 2}, "--salt", "1", "--fast")(live)
		},
	},
	{
		name: "alert", actions: func(t dhalion.Topology) []dhalion.Action {
			return []dhalion.Action{alert(t), rescale(t, "count", 6)}
		},
		steps: 1, writes: 2, calls: 2, told: true, takes: 1300 * time.Millisecond, effects: map[string]int{flinktest.Rescaled: 1},
		after: wants(map[string]int{"lines": 2, "parse": 3, "count": 6, "store": 2}, "--salt", "1", "--fast"),
	},
	{
		name: "mixed", actions: func(t dhalion.Topology) []dhalion.Action {
			return []dhalion.Action{rescale(t, "count", 6), knob(t, "--salt", "1", "4")}
		},
		steps: 2, writes: 3, calls: 4, takes: 2600 * time.Millisecond, effects: map[string]int{flinktest.Rescaled: 2, // of the old run, and the new one like it
			flinktest.Stopped: 1, flinktest.Submitted: 1},
		after: wants(map[string]int{"lines": 2, "parse": 3, "count": 6, "store": 2}, "--salt", "4", "--fast"),
	},
}

// passes is how often an apply of this kind passes a point, at least.
func (k planKind) passes(at apply.Point) int {
	switch at {
	case apply.BeforeBegin, apply.AfterBegin, apply.BeforeEnd, apply.AfterEnd:
		return 1
	case apply.BeforeRenew, apply.AfterRenew:
		return k.calls + k.steps // and once a second while it settles
	case apply.BeforeAct, apply.AfterAct:
		return k.calls
	}
	return k.writes
}

// byDefault reports whether a point is among those of every run of the tests: all
// of the simplest kind, the last of each of the others, those of an alert, and those
// between a restart's stop and start, where the job is down.
func (k planKind) byDefault(at apply.Point, last bool) bool {
	switch at {
	case apply.BeforeBegin, apply.AfterBegin, apply.BeforeEnd, apply.AfterEnd, apply.BeforeRenew, apply.AfterRenew:
		return k.name == "rescale" && last
	}
	if k.told {
		return !last // what comes after the alert is the simplest kind again
	}
	switch at {
	case apply.BeforeAct, apply.AfterAct, apply.BeforeConfirm, apply.AfterConfirm:
		return last || k.name == "knob"
	}
	return last
}

// tally counts what crashes came to.
type tally struct {
	mu       sync.Mutex
	points   int
	met      int // that came while the process ran
	commands int // that took them up
	requests int
	effects  map[string]int
	outcomes map[string]int
	slowest  time.Duration
}

func (s *tally) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return fmt.Sprintf("%d points, %d of which met a process that ran, taken up by %d commands; %d requests, effects %v; outcomes %v; the slowest took %s",
		s.points, s.met, s.commands, s.requests, s.effects, s.outcomes, s.slowest.Round(time.Millisecond))
}

// finish applies a plan that something interrupted until it has ended, and holds
// what was done against what was asked for.
func (b *bench) finish(id string, kind planKind, met bool, sum *tally) {
	b.t.Helper()
	began := time.Now()
	var said []string
	final := func(state string) bool { return !slices.Contains([]string{"approved", "applying"}, state) }
	state, why := b.state(id)
	for deadline := time.Now().Add(time.Minute); !final(state); state, why = b.state(id) {
		if time.Now().After(deadline) {
			b.t.Fatalf("plan %s stays %s: %s\n%s", id, state, why, strings.Join(said, "\n"))
		}
		args := []string{"apply", id, "--no-wait", "--resume"}
		if state == "approved" {
			args = args[:3] // it was not begun
		}
		cmd := exec.Command("dhalion", append(args, "--config", b.config)...)
		cmd.Env = append(os.Environ(), b.db.env...)
		out, err := cmd.CombinedOutput()
		said = append(said, fmt.Sprintf("%s: %v\n%s", strings.Join(args, " "), err, out))
	}
	told := fmt.Sprintf("plan %s is %s (%s)\n%s", id, state, why, strings.Join(said, "\n"))

	// The engine settles by itself, also of what nobody waits for any more.
	b.settled()
	live := b.cluster.Live("orders")
	if ids, alive := b.cluster.RunsOf("orders"); alive != 1 {
		b.t.Fatalf("of the runs %v %d are alive: %s", ids, alive, told)
	}
	got := map[string]int{}
	for _, e := range b.cluster.Effects() {
		got[e.Kind]++
	}
	hooks := b.hooksRun()
	switch {
	case kind.opaque && state == "unclear":
		// Nobody knows, and a person decides: it was done at most once.
		if len(hooks) > 1 || got[flinktest.WorkerLost] > 1 || len(got) > 1 {
			b.t.Errorf("the hook ran for %v, and effects are %v: %s", hooks, got, told)
		}
	case state != "applied":
		b.t.Errorf("want applied: %s", told)
	case !maps.Equal(got, kind.effects):
		b.t.Errorf("effects %v, want %v: %s", got, kind.effects, told)
	case kind.opaque && !slices.Equal(hooks, []string{id + "-0"}):
		b.t.Errorf("the hook ran for %v: %s", hooks, told)
	default:
		if err := kind.after(live); err != nil {
			b.t.Errorf("%v: %s", err, told)
		}
	}
	if held := b.db.text(`SELECT job || ' by ' || coalesce(holder, '?') FROM leases WHERE plan IS NOT NULL`); len(held) > 0 {
		b.t.Errorf("a lease is held still: %v: %s", held, told)
	}
	want := len(kind.actions(dhalion.Topology{}))
	if kind.told {
		// Of an alert whose applier died over it nobody knows, and it is told at most once.
		unknown := len(b.db.text(`SELECT detail FROM outcomes WHERE plan = $1 AND kind = 'alert' AND applied = 'failed' AND detail LIKE '%nobody knows%'`, id))
		want -= unknown
		if len(hooks) > 1 || len(hooks)+unknown < 1 {
			b.t.Errorf("it was told for %v, and %d alerts are not known to be: %s", hooks, unknown, told)
		}
	}
	if state == "applied" {
		if n := b.db.text(`SELECT count(*)::text FROM outcomes WHERE plan = $1 AND applied = 'applied'`, id)[0]; n != strconv.Itoa(want) {
			b.t.Errorf("%s outcomes are noted: %s", n, told)
		}
	}
	sum.mu.Lock()
	defer sum.mu.Unlock()
	sum.points++
	sum.commands += len(said)
	if met {
		sum.met++
	}
	sum.requests += len(b.cluster.Requests())
	for k, n := range got {
		sum.effects[k] += n
	}
	sum.outcomes[kind.name+" "+state]++
	sum.slowest = max(sum.slowest, time.Since(began))
}

// hooksRun are the ids of the actions for which the hook was run.
func (b *bench) hooksRun() []string {
	b.t.Helper()
	text, err := os.ReadFile(b.hooks)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		b.t.Fatal(err)
	}
	return strings.Fields(string(text))
}

// ready is a bench with an approved plan of a kind.
func ready(t *testing.T, db database, kind planKind) (b *bench, id string) {
	t.Helper()
	b = newBench(t, db)
	if kind.told {
		b.hook("page", `echo "$DHALION_ACTION_ID" >>`+b.hooks, "{message}", "alert")
	}
	id, _ = b.propose(b.draft(kind.actions), "ann")
	b.run("approve", id, "--as", "bob")
	return b, id
}

// applying begins an apply in a process of its own.
func (b *bench) applying(id string, env ...string) *exec.Cmd {
	b.t.Helper()
	cmd := exec.Command("dhalion", "apply", id, "--no-wait", "--config", b.config)
	cmd.Env = append(append(os.Environ(), b.db.env...), env...)
	if err := cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	return cmd
}

// ended waits for a process and reports whether it was killed.
func endedByKill(t *testing.T, cmd *exec.Cmd) bool {
	t.Helper()
	err := cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return !cmd.ProcessState.Exited()
}

// random is how many random moments there are: DHALION_APPLY_CRASHES (`make
// crash`), else so few that all tests of this file are quick.
func randomMoments(t *testing.T, def int) int {
	t.Helper()
	if s := os.Getenv("DHALION_APPLY_CRASHES"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if testing.Short() {
		t.Skip("kills processes for half a minute")
	}
	return def
}

// together runs subtests, six at a time however few processors there are: an apply
// mostly waits.
type together struct {
	t     *testing.T
	slots chan struct{}
	all   sync.WaitGroup
}

func newTogether(t *testing.T) *together {
	return &together{t: t, slots: make(chan struct{}, 6)}
}

func (g *together) run(name string, f func(t *testing.T)) {
	g.all.Go(func() {
		g.slots <- struct{}{}
		defer func() { <-g.slots }()
		g.t.Run(name, f)
	})
}

func TestAnApplyThatIsKilledIsTakenUpAndEachActionIsInEffectOnce(t *testing.T) {
	t.Parallel()
	random, whole := randomMoments(t, 8), os.Getenv("DHALION_APPLY_CRASHES") != ""
	sum := &tally{effects: map[string]int{}, outcomes: map[string]int{}}
	points := newTogether(t)
	for _, kind := range planKinds {
		for _, at := range apply.Points {
			passes := kind.passes(at)
			for n := range passes {
				if !whole && !kind.byDefault(at, n+1 == passes) {
					continue
				}
				where := fmt.Sprintf("%s:%d", at, n+1)
				points.run(kind.name+" at "+where, func(t *testing.T) {
					b, id := ready(t, newDatabase(t), kind)
					if !endedByKill(t, b.applying(id, "DHALION_CRASH_AT="+where)) {
						t.Fatal("it was not killed")
					}
					b.finish(id, kind, true, sum)
				})
			}
		}
	}
	numbers := rand.New(rand.NewPCG(11, uint64(random)))
	for i := range random {
		kind, share := planKinds[i%len(planKinds)], numbers.Float64()
		points.run(fmt.Sprintf("%s at random moment %d", kind.name, i), func(t *testing.T) {
			b, id := ready(t, newDatabase(t), kind)
			cmd := b.applying(id)
			timer := time.AfterFunc(time.Duration(share*float64(kind.takes)), func() { _ = cmd.Process.Kill() })
			defer timer.Stop()
			b.finish(id, kind, endedByKill(t, cmd), sum)
		})
	}
	points.all.Wait()
	t.Log(sum)
}

func TestAnApplyWhosePostgreSQLIsKilledIsTakenUpToo(t *testing.T) {
	t.Parallel()
	n := randomMoments(t, 4)
	if os.Getenv("DHALION_APPLY_CRASHES") != "" {
		n = max(1, n/25) // each takes as long as a server's start and recovery
	}
	home, err := openDir()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = pgserver.Stop(context.Background(), home, true)
		os.RemoveAll(home)
	})
	env := []string{"DATABASE_URL=", "DHALION_HOME=" + home}
	must(t, env, "db", "start")
	sum := &tally{effects: map[string]int{}, outcomes: map[string]int{}}
	numbers := rand.New(rand.NewPCG(13, uint64(n)))
	for i := range n {
		kind, share := planKinds[i%len(planKinds)], numbers.Float64()
		t.Run(fmt.Sprintf("%s %d", kind.name, i), func(t *testing.T) {
			schema := fmt.Sprintf("crash_%d", i)
			private := private(t, home)
			if err := execute(private.url, "CREATE SCHEMA "+schema); err != nil {
				t.Fatal(err)
			}
			own := calling(t, withSearchPath(t, private.url, schema), "crash")
			b, id := ready(t, own, kind)
			status, err := pgserver.GetStatus(home)
			if err != nil || status.PID == 0 {
				t.Fatal("no server runs:", err)
			}
			children := own.text(`SELECT pid::text FROM pg_stat_activity WHERE pid <> pg_backend_pid()`)
			cmd := b.applying(id)
			ended := make(chan error, 1)
			go func() { ended <- cmd.Wait() }()
			timer := time.NewTimer(time.Duration(share * float64(kind.takes)))
			<-timer.C
			met := len(ended) == 0
			kill(t, status.PID)
			for _, pid := range children {
				p, err := strconv.Atoi(pid)
				if err != nil {
					t.Fatal(err)
				}
				kill(t, p)
			}
			gone(t, status.PID)
			must(t, env, "db", "start") // and recovers
			select {
			case <-ended:
			case <-time.After(30 * time.Second):
				_ = cmd.Process.Kill() // nobody would take up what it holds
				<-ended
			}
			b.finish(id, kind, met, sum)
		})
	}
	t.Log(sum)
}

// withSearchPath is a URL of the server with a schema of its own.
func withSearchPath(t *testing.T, base, schema string) string {
	t.Helper()
	if !strings.Contains(base, "://") {
		return base + " search_path=" + schema
	}
	joint := cmp.Or(map[bool]string{true: "&"}[strings.Contains(base, "?")], "?")
	return base + joint + "search_path=" + schema
}
