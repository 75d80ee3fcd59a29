package main

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/apply"
	actuator "github.com/dhalion-go/dhalion/apply/flink"
	client "github.com/dhalion-go/dhalion/internal/engine/flink"
	"github.com/dhalion-go/dhalion/internal/engine/flink/flinktest"
	"github.com/dhalion-go/dhalion/internal/store"
	"github.com/dhalion-go/dhalion/plan/planfile"
)

// turned is a clock that only the waiting of an applier moves.
type turned struct {
	mu  sync.Mutex
	now time.Time
}

func (c *turned) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *turned) wait(ctx context.Context, d time.Duration) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
	return ctx.Err()
}

// drawn is a job and a plan for it, as a property draws them.
type drawn struct {
	vertices  []flinktest.Vertex
	arguments []string
	actions   []dhalion.Action
	lost      int // the request of this number has its effect and no answer
	broken    int // that of this number is answered with 500 and has none
	away      int // so many questions are not answered at first
}

func draw(t *rapid.T) (d drawn) {
	for i := range rapid.IntRange(2, 5).Draw(t, "components") {
		v := flinktest.Vertex{Name: fmt.Sprint("stage ", i), Parallelism: rapid.IntRange(1, 8).Draw(t, "parallelism")}
		if i > 0 {
			v.From = []string{fmt.Sprint("stage ", rapid.IntRange(0, i-1).Draw(t, "upstream"))}
		}
		d.vertices = append(d.vertices, v)
	}
	values := map[string]string{}
	for _, name := range []string{"--salt", "--batch"} {
		values[name] = rapid.StringMatching(`[0-9]{1,3}`).Draw(t, name)
	}
	d.arguments = []string{"--first", "--salt", values["--salt"], "--batch=" + values["--batch"], "last"}
	now := map[string]int{}
	for _, v := range d.vertices {
		now[v.Name] = v.Parallelism
	}
	changed := map[string]bool{}
	for range rapid.IntRange(1, 5).Draw(t, "actions") {
		i := rapid.IntRange(0, len(d.vertices)-1).Draw(t, "component")
		at := dhalion.ComponentTarget(orders, d.vertices[i].Name)
		a := dhalion.Action{Target: at, Because: []dhalion.Pair{{Target: at, Cause: dhalion.Underprovisioned}}, Message: "as drawn", Expect: dhalion.Expectation{Summary: "it runs", WithinSeconds: 60}}
		what := rapid.SampledFrom([]string{"rescale", "rescale", "--salt", "--batch", "restart"}).Draw(t, "what")
		key := what
		switch what {
		case "rescale":
			key = at.Component
			a.Kind, a.From = dhalion.SetParallelism, dhalion.NumberSetting(float64(now[at.Component]))
			a.To = dhalion.NumberSetting(float64(rapid.IntRange(1, 12).Draw(t, "to")))
		case "restart":
			a.Kind, a.Target = dhalion.Restart, dhalion.JobTarget(orders)
		default:
			a.Kind, a.Argument, a.From = dhalion.SetKnob, what, dhalion.TextSetting(values[what])
			a.To = dhalion.TextSetting(rapid.StringMatching(`[0-9]{1,3}`).Draw(t, "value"))
		}
		if changed[key] {
			continue // a plan sets nothing twice
		}
		changed[key] = true
		if a.Kind != dhalion.Restart {
			a.Reverse = &dhalion.Reversal{Kind: a.Kind, Target: a.Target, From: a.To, To: a.From, Summary: "back"}
		}
		d.actions = append(d.actions, a)
	}
	d.lost, d.broken = rapid.IntRange(0, 5).Draw(t, "lost"), rapid.IntRange(0, 5).Draw(t, "broken")
	d.away = rapid.IntRange(0, 6).Draw(t, "away")
	return d
}

// wanted is what a job runs with when a plan's actions have been carried out.
func (d drawn) wanted() (parallelism map[string]int, arguments []string) {
	parallelism, arguments = map[string]int{}, slices.Clone(d.arguments)
	for _, v := range d.vertices {
		parallelism[v.Name] = v.Parallelism
	}
	for _, a := range d.actions {
		switch a.Kind {
		case dhalion.SetParallelism:
			n, _ := a.To.Number()
			parallelism[a.Target.Component] = int(n)
		case dhalion.SetKnob:
			if a.Argument == "--salt" {
				arguments[2] = a.To.String()
			} else {
				arguments[3] = "--batch=" + a.To.String()
			}
		}
	}
	return parallelism, arguments
}

// property is a database in which one job is known, for plans that are carried out
// by a clock of their own.
type property struct {
	st    *store.Store
	clock *turned
}

// carryOut stores, approves and applies actions as a plan of the job, of which
// dhalion.yaml says with which arguments it was first started.
func (p *property) carryOut(t *rapid.T, url string, topology dhalion.Topology, arguments []string, actions []dhalion.Action, reverses string) (*document, apply.Report) {
	ctx := context.Background()
	now := p.clock.Now()
	digest := strings.Repeat("0", 64)
	doc, id, sum, err := planfile.Encode(dhalion.Plan{
		Version: 1, Job: orders, AsOf: now, Window: dhalion.Window{Start: now.Add(-time.Minute), End: now}, ValidForSeconds: 3600, Policy: "default", Reverses: reverses,
		Basis:    dhalion.Basis{History: digest, Topology: topology.Digest(), Policy: digest, Model: noModel, Outcomes: digest, Program: program},
		Topology: topology, Actions: actions,
	})
	if err != nil {
		t.Fatal(err)
	}
	d := &document{doc: doc, id: id, digest: sum}
	if d.plan, _, _, err = planfile.Decode(doc, id); err != nil {
		t.Fatal(err)
	}
	if _, _, err := p.st.SavePlan(ctx, store.NewPlan{ID: id, Digest: sum, Job: orders, AsOf: now, ValidFor: time.Hour, Author: "ann", Reverses: reverses, Body: doc}, now); err != nil {
		t.Fatal(err)
	}
	if _, err := p.st.Approve(ctx, dhalion.Approval{Plan: id, Digest: sum, Person: "bob", At: now}, true); err != nil {
		t.Fatal(err)
	}
	server, err := client.NewClient(url, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	hand := &actuator.Actuator{Client: server, Job: orders.Name(), Wait: p.clock.wait, Start: &actuator.Start{Jar: "drawn.jar", Arguments: arguments, Savepoints: "file:///s"}}
	if hand.Started, hand.Left, err = started(ctx, p.st, orders); err != nil {
		t.Fatal(err)
	}
	a := &apply.Applier{
		Journal: p.st, Actuator: func(dhalion.Action) (apply.Actuator, error) { return hand, nil }, Holder: "property", Now: p.clock.Now, Wait: p.clock.wait,
		LeaseFor: leaseFor, TryFor: tryFor, Attempts: attempts, SettleIn: settleIn,
	}
	report, err := a.Apply(ctx, id, d.plan, false)
	if err != nil {
		t.Fatal(err)
	}
	if d.row, err = p.st.Plan(ctx, id); err != nil {
		t.Fatal(err)
	}
	return d, report
}

func TestApplyThenRollbackRestoresTheTopologyAndTheArguments(t *testing.T) {
	t.Parallel()
	b := newBench(t, newDatabase(t)) // so that the job is known
	st, err := store.Open(context.Background(), b.db.url, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	p := &property{st: st, clock: &turned{now: time.Now().UTC().Truncate(time.Second)}}
	// A check takes a tenth of a second, and more than one with the race detector.
	checks := "12"
	if os.Getenv("DHALION_APPLY_CRASHES") != "" {
		checks = "500"
	}
	if err := flag.Set("rapid.checks", checks); err != nil {
		t.Fatal(err)
	}
	var plans, kinds atomic.Int64
	rapid.Check(t, func(t *rapid.T) {
		d := draw(t)
		if err := p.clock.wait(context.Background(), time.Minute); err != nil { // plans of one content are one plan
			t.Fatal(err)
		}
		cluster := flinktest.New(p.clock.Now, 3)
		cluster.Lag, cluster.Restart, cluster.Savepoint = 1500*time.Millisecond, 2*time.Second, 600*time.Millisecond
		var number, asked atomic.Int32
		server := httptest.NewServer(cluster)
		defer server.Close()
		cluster.StartJar(cluster.Upload("drawn.jar", func([]string) (string, []flinktest.Vertex) { return "orders", d.vertices }), d.arguments...)
		cluster.SetFault(func(method, _ string) flinktest.Fault {
			if method == "GET" {
				if int(asked.Add(1)) <= d.away {
					return flinktest.Fault{Status: 503}
				}
				return flinktest.Fault{}
			}
			switch n := int(number.Add(1)); n {
			case d.lost:
				return flinktest.Fault{Lost: true}
			case d.broken:
				return flinktest.Fault{Status: 500}
			}
			return flinktest.Fault{}
		})
		before, topology := cluster.Live("orders"), topologyOf(d.vertices)

		done, report := p.carryOut(t, server.URL, topology, d.arguments, d.actions, "")
		if report.State != dhalion.PlanApplied {
			t.Fatalf("it is %s: %s\n%+v", report.State, report.Why, cluster.Requests())
		}
		parallelism, arguments := d.wanted()
		after := cluster.Live("orders")
		if !maps.Equal(after.Parallelism, parallelism) || !slices.Equal(after.Arguments, arguments) {
			t.Fatalf("it runs with %v %v, not %v %v", after.Parallelism, after.Arguments, parallelism, arguments)
		}
		undo, _, err := reversals(done, func(int) bool { return true }, asMeasured{})
		if err != nil {
			t.Fatal(err)
		}
		if len(undo) == 0 {
			if slices.ContainsFunc(d.actions, func(a dhalion.Action) bool { return a.Reverse != nil }) {
				t.Fatal("nothing undoes it")
			}
			return // a restart is not undone
		}
		if _, report = p.carryOut(t, server.URL, topologyOf(resizedTo(d.vertices, parallelism)), d.arguments, undo, done.id); report.State != dhalion.PlanApplied {
			t.Fatalf("undoing it is %s: %s\n%+v", report.State, report.Why, cluster.Requests())
		}
		back := cluster.Live("orders")
		if !maps.Equal(back.Parallelism, before.Parallelism) || !slices.Equal(back.Arguments, before.Arguments) {
			t.Fatalf("it runs with %v %v, and ran with %v %v", back.Parallelism, back.Arguments, before.Parallelism, before.Arguments)
		}
		if ids, alive := cluster.RunsOf("orders"); alive != 1 {
			t.Fatalf("of the runs %v %d are alive", ids, alive)
		}
		plans.Add(2)
		kinds.Add(int64(len(d.actions)))
	})
	t.Logf("%d plans with %d actions and as many that undo them", plans.Load()/2, kinds.Load())
}

// resizedTo are the vertices with another parallelism.
func resizedTo(vertices []flinktest.Vertex, parallelism map[string]int) []flinktest.Vertex {
	vertices = slices.Clone(vertices)
	for i := range vertices {
		vertices[i].Parallelism = parallelism[vertices[i].Name]
	}
	return vertices
}

// topologyOf is what a plan says that a job looked like.
func topologyOf(vertices []flinktest.Vertex) (t dhalion.Topology) {
	for _, v := range vertices {
		t.Components = append(t.Components, dhalion.Component{Name: v.Name, Parallelism: v.Parallelism, MaxParallelism: 128})
		for _, from := range v.From {
			t.Edges = append(t.Edges, dhalion.Edge{From: from, To: v.Name})
		}
	}
	t.Normalize()
	return t
}

// TestApplyThenRollbackByTheCommandLineRestoresTheTopology goes the whole way of
// a person once, with both kinds of actions in one plan.
func TestApplyThenRollbackByTheCommandLineRestoresTheTopology(t *testing.T) {
	t.Parallel()
	b := newBench(t, newDatabase(t))
	was, before := b.live()[orders], b.cluster.Live("orders")
	id, _ := b.approvedPlan(b.draft(func(t dhalion.Topology) []dhalion.Action {
		return []dhalion.Action{rescale(t, "count", 6), rescale(t, "lines", 1), knob(t, "--salt", "1", "4")}
	}))
	b.run("apply", id, "--no-wait")
	if err := wants(map[string]int{"lines": 1, "parse": 3, "count": 6, "store": 2}, "--salt", "4", "--fast")(b.cluster.Live("orders")); err != nil {
		t.Fatal(err)
	}
	b.ingest()
	undo := filepath.Join(b.dir, "undo.json")
	b.run("rollback", id, "--out", undo)
	b.run("approve", undo, "--as", "bob")
	b.run("apply", undo, "--no-wait")
	after := b.cluster.Live("orders")
	if !maps.Equal(after.Parallelism, before.Parallelism) || !slices.Equal(after.Arguments, before.Arguments) || !was.SameShape(b.live()[orders]) {
		text, _ := os.ReadFile(undo)
		t.Fatalf("it ran with %v %v, and runs with %v %v; undone by\n%s", before.Parallelism, before.Arguments, after.Parallelism, after.Arguments, text)
	}
}
