package flink_test

import (
	"context"
	"encoding/json"
	"maps"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/apply"
	actuator "github.com/dhalion-go/dhalion/apply/flink"
	"github.com/dhalion-go/dhalion/internal/engine/flink"
	"github.com/dhalion-go/dhalion/internal/engine/flink/flinktest"
)

// words is a cluster with one job, whose clock only the actuator's waiting moves.
type words struct {
	*flinktest.Cluster
	t    *testing.T
	hand *actuator.Actuator
	jar  string
	mu   sync.Mutex
	at   time.Time
}

func (w *words) now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.at
}

func (w *words) wait(ctx context.Context, d time.Duration) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.at = w.at.Add(d)
	return ctx.Err()
}

func newWords(t *testing.T) *words {
	w := &words{t: t, at: time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)}
	w.Cluster = flinktest.New(w.now, 3)
	w.Restart, w.Savepoint = time.Second, time.Second
	server := httptest.NewServer(w)
	t.Cleanup(server.Close)
	client, err := flink.NewClient(server.URL, flink.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	w.jar = w.Upload("words.jar", func([]string) (string, []flinktest.Vertex) {
		return "words", []flinktest.Vertex{{Name: "lines", Parallelism: 2}, {Name: "count", Parallelism: 3, From: []string{"lines"}}}
	})
	first := []string{"--salt", "1", "--batch=10"}
	w.StartJar(w.jar, first...)
	w.hand = &actuator.Actuator{Client: client, Job: "words", Wait: w.wait, Start: &actuator.Start{Jar: "words.jar", Arguments: first, Savepoints: "file:///s"}}
	return w
}

func rescaled(id string, to float64) apply.Call {
	return apply.Call{ID: id, Job: "prod/words", Actions: []dhalion.Action{
		{Kind: dhalion.SetParallelism, Target: dhalion.ComponentTarget("prod/words", "count"), To: dhalion.NumberSetting(to)}}}
}

func turnedTo(id, argument, to string) apply.Call {
	return apply.Call{ID: id, Job: "prod/words", Actions: []dhalion.Action{
		{Kind: dhalion.SetKnob, Target: dhalion.ComponentTarget("prod/words", "count"), Argument: argument, To: dhalion.TextSetting(to)}}}
}

func (w *words) prepared(c apply.Call) apply.Intent {
	w.t.Helper()
	i, err := w.hand.Prepare(context.Background(), c)
	if err != nil {
		w.t.Fatal(err)
	}
	return i
}

// done acts and waits until the cluster runs with it.
func (w *words) done(c apply.Call, i apply.Intent) {
	w.t.Helper()
	ctx := context.Background()
	r := w.hand.Act(ctx, c, i)
	if r.Outcome == apply.Partly {
		i = *r.Next
		r = w.hand.Act(ctx, c, i)
	}
	if r.Outcome != apply.Done {
		w.t.Fatalf("%s is %s: %s", c.ID, r.Outcome, r.Detail)
	}
	for range 60 {
		if standing, _ := w.hand.Look(ctx, c, i); standing == apply.Settled {
			return
		}
		if err := w.wait(ctx, time.Second); err != nil {
			w.t.Fatal(err)
		}
	}
	w.t.Fatalf("%s does not settle", c.ID)
}

func (w *words) runs(parallelism map[string]int, arguments ...string) {
	w.t.Helper()
	live := w.Live("words")
	if !maps.Equal(live.Parallelism, parallelism) || !slices.Equal(live.Arguments, arguments) {
		w.t.Fatalf("it runs with %v %v, not %v %v", live.Parallelism, live.Arguments, parallelism, arguments)
	}
}

func (w *words) effects(want ...string) {
	w.t.Helper()
	var got []string
	for _, e := range w.Effects() {
		got = append(got, e.Kind)
	}
	if !slices.Equal(got, want) {
		w.t.Fatalf("effects %v, not %v", got, want)
	}
}

func TestARestartKeepsTheParallelismAndWhatWasSetBefore(t *testing.T) {
	w := newWords(t)
	for _, c := range []apply.Call{rescaled("a-0", 5), turnedTo("a-1", "--salt", "4"), turnedTo("a-2", "--batch", "20")} {
		w.done(c, w.prepared(c))
	}
	w.runs(map[string]int{"lines": 2, "count": 5}, "--salt", "4", "--batch=20")
	// A run from a jar has the program's parallelism, and is told at once.
	w.effects(flinktest.Rescaled, flinktest.Stopped, flinktest.Submitted, flinktest.Rescaled, flinktest.Stopped, flinktest.Submitted, flinktest.Rescaled)
}

func TestOfAKnobThatStandsTwiceTheLastIsSet(t *testing.T) {
	for _, c := range []struct{ was, want []string }{
		{[]string{"--salt", "1", "--batch=10", "--salt", "2"}, []string{"--salt", "1", "--batch=10", "--salt", "4"}},
		{[]string{"--salt", "1", "--batch=10", "--salt=2"}, []string{"--salt", "1", "--batch=10", "--salt=4"}},
		{[]string{"--salt=1", "--salt", "2", "--salt"}, []string{"--salt=1", "--salt", "4", "--salt"}}, // behind the last no value
	} {
		w := newWords(t)
		w.hand.Start.Arguments = c.was
		call := turnedTo("a-0", "--salt", "4")
		w.done(call, w.prepared(call))
		w.runs(map[string]int{"lines": 2, "count": 3}, c.want...)
	}
}

func TestARestartOfAJobThatWasNeverRescaledIsTwoRequests(t *testing.T) {
	w := newWords(t)
	c := turnedTo("a-0", "--salt", "4")
	w.done(c, w.prepared(c))
	w.runs(map[string]int{"lines": 2, "count": 3}, "--salt", "4", "--batch=10")
	if n := len(w.Requests()); n != 2 {
		t.Errorf("%d requests: %+v", n, w.Requests())
	}
}

func TestARestartThatWasCutOffAnywhereGoesOnByItsIds(t *testing.T) {
	for _, cut := range []struct {
		name  string
		fault func(method, path string) bool // what is not answered, once
	}{
		{"the stop's answer", func(method, path string) bool { return method == "POST" && path[:6] == "/jobs/" }},
		{"the run's answer", func(method, path string) bool { return method == "POST" && path[:6] == "/jars/" }},
		{"the answer to its parallelism", func(method, path string) bool { return method == "PUT" }},
	} {
		for _, forgotten := range []bool{false, true} {
			t.Run(cut.name, func(t *testing.T) {
				w := newWords(t)
				before := rescaled("a-0", 5)
				w.done(before, w.prepared(before))
				c := turnedTo("a-1", "--salt", "4")
				i := w.prepared(c)
				var once sync.Once
				w.SetFault(func(method, path string) (f flinktest.Fault) {
					if cut.fault(method, path) {
						once.Do(func() { f.Lost = true })
					}
					return f
				})
				r := w.hand.Act(context.Background(), c, i)
				if r.Outcome == apply.Partly {
					i = *r.Next
					r = w.hand.Act(context.Background(), c, i)
				}
				if r.Outcome != apply.Unsure {
					t.Fatalf("it is %s: %s", r.Outcome, r.Detail)
				}
				if forgotten { // the JobManager was started anew meanwhile
					if err := w.wait(context.Background(), time.Minute); err != nil {
						t.Fatal(err)
					}
					w.ForgetTriggers()
				}
				w.done(c, i)
				w.runs(map[string]int{"lines": 2, "count": 5}, "--salt", "4", "--batch=10")
				w.effects(flinktest.Rescaled, flinktest.Stopped, flinktest.Submitted, flinktest.Rescaled)
			})
		}
	}
}

func TestAJobThatSomebodyElseChangedIsNotPreparedFor(t *testing.T) {
	found := dhalion.Topology{Components: []dhalion.Component{{Name: "count", Parallelism: 3}, {Name: "lines", Parallelism: 2}}}
	for _, c := range []struct {
		name  string
		now   func(w *words)
		moved string // empty: it is as it was
	}{
		{"as it was", func(*words) {}, ""},
		{"as the call itself leaves it", func(w *words) { w.Rescale(w.Live("words").Run, "count", 5) }, ""},
		{"rescaled to something else", func(w *words) { w.Rescale(w.Live("words").Run, "count", 4) }, "count has 4 instances, and had 3"},
		{"rescaled elsewhere", func(w *words) { w.Rescale(w.Live("words").Run, "lines", 1) }, "lines has 1 instances, and had 2"},
		{"replaced", func(w *words) {
			w.Forget(w.Live("words").Run)
			w.Start("words", flinktest.Vertex{Name: "lines", Parallelism: 2}, flinktest.Vertex{Name: "tally", Parallelism: 3, From: []string{"lines"}})
		}, "component tally is new"},
	} {
		w := newWords(t)
		c.now(w)
		if err := w.wait(context.Background(), time.Minute); err != nil {
			t.Fatal(err)
		}
		call := rescaled("a-0", 5)
		call.Before = found
		_, err := w.hand.Prepare(context.Background(), call)
		if (err != nil) != (c.moved != "") || err != nil && !strings.Contains(err.Error(), "is not as the plan found it: "+c.moved) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// place is where a run's newest savepoint is.
func (w *words) place(run string) string {
	w.t.Helper()
	_, body := w.Do("GET", "/jobs/"+run+"/checkpoints", nil)
	var history struct {
		Latest struct {
			Savepoint struct {
				Path string `json:"external_path"`
			}
		}
	}
	if err := json.Unmarshal(body, &history); err != nil {
		w.t.Fatal(err)
	}
	return history.Latest.Savepoint.Path
}

// byHand is a request of somebody else's.
func (w *words) byHand(path, body string) {
	w.t.Helper()
	if status, answer := w.Do("POST", path, []byte(body)); status/100 != 2 {
		w.t.Fatalf("POST %s: %d %s", path, status, answer)
	}
	if err := w.wait(context.Background(), time.Minute); err != nil {
		w.t.Fatal(err)
	}
}

func TestARestartThatSomebodyElseHasCompletedStartsNoSecondRun(t *testing.T) {
	for _, stopped := range []bool{false, true} { // by us, before the applier was killed
		w := newWords(t)
		ctx := context.Background()
		c := turnedTo("a-0", "--salt", "4")
		i := w.prepared(c)
		old := w.Live("words").Run
		if stopped {
			r := w.hand.Act(ctx, c, i)
			if r.Outcome != apply.Partly {
				t.Fatalf("it is %s: %s", r.Outcome, r.Detail)
			}
			i = *r.Next
		} else {
			w.byHand("/jobs/"+old+"/stop", `{"drain":false,"targetDirectory":"file:///ops"}`)
		}
		w.byHand("/jars/"+w.jar+"/run", `{"programArgsList":["--salt","2"],"savepointPath":"`+w.place(old)+`"}`)
		theirs := w.Live("words").Run
		r := w.hand.Act(ctx, c, i)
		if r.Outcome != apply.Refused || !strings.Contains(r.Detail, "run "+theirs+" of words is alive, which somebody else started") {
			t.Errorf("it is %s: %s", r.Outcome, r.Detail)
		}
		if stopped && !strings.Contains(r.Detail, w.place(old)) {
			t.Errorf("it does not say where the savepoint is: %s", r.Detail)
		}
		if ids, alive := w.RunsOf("words"); alive != 1 {
			t.Errorf("of the runs %v %d are alive", ids, alive)
		}
	}
}

func TestASavepointThatWasThereBeforeIsNotTakenForTheOneOfTheStop(t *testing.T) {
	w := newWords(t)
	ctx := context.Background()
	c := turnedTo("a-0", "--salt", "4")
	i := w.prepared(c)
	old := w.Live("words").Run
	w.byHand("/jobs/"+old+"/stop", `{"drain":false}`)
	before := w.place(old)
	// As if the savepoint had been there when the step was prepared, and the run had
	// finished by itself since.
	var kept map[string]any
	if err := json.Unmarshal(i.Note, &kept); err != nil {
		t.Fatal(err)
	}
	kept["had"] = before
	note, err := json.Marshal(kept)
	if err != nil {
		t.Fatal(err)
	}
	i.Note = note
	if r := w.hand.Act(ctx, c, i); r.Outcome != apply.Unsure || !strings.Contains(r.Detail, "its savepoint is not known") {
		t.Errorf("it is %s: %s", r.Outcome, r.Detail)
	}
	if _, alive := w.RunsOf("words"); alive != 0 {
		t.Error("a run was started from an old savepoint")
	}
}

func TestARunThatSomebodyElseRescaledSinceIsNotStopped(t *testing.T) {
	w := newWords(t)
	c := turnedTo("a-0", "--salt", "4")
	i := w.prepared(c)
	w.Rescale(w.Live("words").Run, "count", 5)
	if r := w.hand.Act(context.Background(), c, i); r.Outcome != apply.Refused || !strings.Contains(r.Detail, "somebody else has rescaled") {
		t.Errorf("it is %s: %s", r.Outcome, r.Detail)
	}
	if n := len(w.Requests()); n != 0 {
		t.Errorf("%d requests", n)
	}
}

func TestAJobWithoutCheckpointingIsRestartedToo(t *testing.T) {
	w := newWords(t)
	w.SetFault(func(_, path string) (f flinktest.Fault) {
		if strings.HasSuffix(path, "/checkpoints") {
			f.Status = 404
		}
		return f
	})
	c := turnedTo("a-0", "--salt", "4")
	w.done(c, w.prepared(c))
	w.runs(map[string]int{"lines": 2, "count": 3}, "--salt", "4", "--batch=10")
}

func TestASavepointMayTakeLongerThanARescale(t *testing.T) {
	w := newWords(t)
	if rescale, restart := w.hand.Within(rescaled("a-0", 5)), w.hand.Within(turnedTo("a-1", "--salt", "4")); rescale != 0 || restart < 10*time.Minute {
		t.Errorf("a rescale has %s (0: the applier's), a restart %s", rescale, restart)
	}
}
