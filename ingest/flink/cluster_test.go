package flink

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/ingest"
	"github.com/dhalion-go/dhalion/internal/engine/flink"
)

// epoch is when the made-up cluster begins, in its own milliseconds 0.
var epoch = time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC)

// cluster is a made-up Flink: a source and a sink, one job, answers on demand.
type cluster struct {
	t      testing.TB
	out    bytes.Buffer
	name   string
	run    string
	state  string
	start  int // timestamps.RUNNING, ms after the epoch
	tries  int // attempt of every subtask
	failed int // failed tasks of the sink
	n      map[string]int
	tm     string
	work   func(ms int) map[string]any // a subtask's metrics
	gauges []string                    // "id=value" of source and sink, given when not nil

	done map[string]int     // how many of a vertex's subtasks have finished
	held map[string]float64 // share of time that a vertex is held up, if not that of work
}

func newCluster(t testing.TB) *cluster {
	return &cluster{
		t: t, name: "job", run: "aaaaaaaa1111", state: "RUNNING", start: -60_000, tries: 0, tm: "tm-1",
		n: map[string]int{"source": 1, "sink": 2},
		work: func(ms int) map[string]any {
			// 100 records/s in and out; of a second .3 s busy, .1 s held up.
			return map[string]any{
				"read-records": ms/10 + 100000, "read-records-complete": true, "write-records": ms/10 + 100000, "write-records-complete": true,
				"accumulated-busy-time": float64(ms)*.3 + 1e5, "accumulated-backpressured-time": float64(ms)*.1 + 1e5, "accumulated-idle-time": float64(ms)*.6 + 1e5,
			}
		},
	}
}

func (c *cluster) line(ms int, method, path string, status int, body, request any) {
	line, err := json.Marshal(map[string]any{
		"time": epoch.Add(time.Duration(ms) * time.Millisecond), "engine": "flink", "method": method, "path": path, "status": status, "body": body, "request": request,
	})
	if err != nil {
		c.t.Fatal(err)
	}
	c.out.Write(append(line, '\n'))
}

func stamp(ms int) int64 { return epoch.UnixMilli() + int64(ms) }

func (c *cluster) overview(ms int) {
	c.line(ms, "GET", "/jobs/overview", 200, map[string]any{"jobs": []any{map[string]any{
		"jid": c.run, "name": c.name, "state": c.state, "tasks": map[string]int{"total": 3, "running": 3 - c.failed},
	}}}, nil)
}

func (c *cluster) detail(ms int) {
	var vertices []any
	for _, v := range []string{"source", "sink"} {
		bad := 0
		if v == "sink" {
			bad = c.failed
		}
		vertices = append(vertices, map[string]any{
			"id": v, "name": " " + v + " ", "parallelism": c.n[v], "maxParallelism": 128, "tasks": map[string]int{"RUNNING": c.n[v] - bad - c.done[v], "FAILED": bad, "FINISHED": c.done[v]},
		})
	}
	body := map[string]any{"jid": c.run, "name": c.name, "state": c.state, "start-time": stamp(c.start), "now": stamp(ms), "vertices": vertices, "timestamps": map[string]int64{"RUNNING": stamp(c.start)}}
	body["plan"] = map[string]any{"nodes": []any{
		map[string]any{"id": "source"},
		map[string]any{"id": "sink", "inputs": []any{map[string]any{"id": "source", "ship_strategy": "FORWARD"}}},
	}}
	c.line(ms, "GET", "/jobs/"+c.run, 200, body, nil)
}

func (c *cluster) vertices(ms int) {
	for _, v := range []string{"source", "sink"} {
		var all []any
		for i := range c.n[v] {
			status := "RUNNING"
			if v == "sink" && i < c.failed {
				status = "FAILED"
			}
			if i < c.done[v] {
				status = "FINISHED"
			}
			metrics := c.work(ms)
			if held, ok := c.held[v]; ok {
				metrics["accumulated-backpressured-time"], metrics["accumulated-idle-time"] = float64(ms)*held+1e5, float64(ms)*(.7-held)+1e5
			}
			all = append(all, map[string]any{
				"subtask": i, "status": status, "attempt": c.tries, "start-time": stamp(c.start), "taskmanager-id": c.tm, "metrics": metrics,
			})
		}
		c.line(ms, "GET", "/jobs/"+c.run+"/vertices/"+v, 200, map[string]any{"id": v, "name": v, "now": stamp(ms), "subtasks": all}, nil)
		if c.gauges != nil {
			metrics := []any{}
			for _, g := range c.gauges {
				id, value, _ := strings.Cut(g, "=")
				metrics = append(metrics, map[string]string{"id": id, "value": value})
			}
			c.line(ms, "GET", "/jobs/"+c.run+"/vertices/"+v+"/metrics?get=…", 200, metrics, nil)
		}
	}
}

// poll answers everything at one moment.
func (c *cluster) poll(seconds int) {
	c.overview(seconds * 1000)
	c.detail(seconds * 1000)
	c.vertices(seconds * 1000)
}

// restart begins a new execution at that second.
func (c *cluster) restart(seconds int) {
	c.state, c.failed, c.start, c.tries = "RUNNING", 0, seconds*1000, c.tries+1
}

type failure struct {
	second   int
	task, tm string
}

func (c *cluster) exceptions(seconds int, all ...failure) {
	entries := []any{}
	for _, f := range all {
		e := map[string]any{"timestamp": stamp(f.second * 1000), "exceptionName": "E", "taskName": nil, "taskManagerId": nil}
		if f.task != "" {
			e["taskName"] = f.task
		}
		if f.tm != "" {
			e["taskManagerId"] = f.tm
		}
		entries = append(entries, e)
	}
	c.line(seconds*1000+500, "GET", "/jobs/"+c.run+"/exceptions", 200, map[string]any{"exceptionHistory": map[string]any{"entries": entries}}, nil)
}

func (c *cluster) put(seconds, source, sink int) {
	bound := func(n int) any {
		return map[string]any{"parallelism": map[string]int{"lowerBound": 1, "upperBound": n}}
	}
	c.line(seconds*1000, "PUT", "/jobs/"+c.run+"/resource-requirements", 200, "{}", map[string]any{"source": bound(source), "sink": bound(sink)})
}

func (c *cluster) results() []Result { return assemble(c.t, Options{}, c.out.Bytes()) }

func (c *cluster) wantRestarts(want ...float64) {
	c.t.Helper()
	if got := values(c.results(), dhalion.JobTarget("file/job"), dhalion.Restarts); !same64(got, want) {
		c.t.Errorf("restarts %v, want %v", got, want)
	}
}

func (c *cluster) wantTopologies(want ...string) {
	c.t.Helper()
	var got []string
	for _, t := range topologies(c.results()) {
		sink, _ := t.Component("sink")
		got = append(got, fmt.Sprintf("%s %s sink:%d", t.From.Format("05"), t.By, sink.Parallelism))
	}
	if !slices.Equal(got, want) {
		c.t.Errorf("topologies %q, want %q", got, want)
	}
}

func TestARestartBetweenTwoPollsIsAnOutage(t *testing.T) {
	c := newCluster(t)
	c.poll(0)
	c.poll(5)
	c.restart(7)
	c.poll(10)
	c.poll(15)
	c.wantRestarts(0, 0, 1, 1)
	c.wantTopologies("00 first sink:2")
	busy := values(c.results(), dhalion.InstanceTarget("file/job", "sink", 0), dhalion.Busy)
	if busy[2] == busy[2] || !near(busy[3], .3) {
		t.Errorf("busy %v, want unknown at the third poll and .3 at the fourth", busy)
	}
}

func TestAnOutageIsCountedAtTheFirstPollThatShowsItAndOnce(t *testing.T) {
	c := newCluster(t)
	c.poll(0)
	c.state, c.failed = "RESTARTING", 1
	c.poll(5)
	c.poll(10)
	c.restart(13)
	c.poll(15)
	c.poll(20)
	c.exceptions(20, failure{second: 4})
	c.poll(25)
	c.wantRestarts(0, 1, 1, 1, 1, 1)
}

func TestRestartsLessThanTenSecondsApartAreOneOutage(t *testing.T) {
	c := newCluster(t)
	c.poll(0)
	for _, at := range []int{5, 10, 15} { // a crash loop: started at 4, 9, 14
		c.restart(at - 1)
		c.poll(at)
	}
	c.restart(30)
	c.poll(31)
	c.wantRestarts(0, 1, 1, 1, 2)
}

func TestSubtasksThatWereRestartedAloneAreAnOutage(t *testing.T) {
	c := newCluster(t)
	c.poll(0)
	c.tries++ // timestamps.RUNNING stays: a region failed over
	c.poll(5)
	c.poll(10)
	c.wantRestarts(0, 1, 1)
}

func TestAChangeOfParallelismWithoutAFailureIsTheOperators(t *testing.T) {
	c := newCluster(t)
	c.poll(0)
	c.state = "RESTARTING" // nothing failed; no PUT was recorded
	c.poll(5)
	c.restart(6)
	c.n["sink"] = 3
	c.poll(10)
	c.wantRestarts(0, 0, 0)
	c.wantTopologies("00 first sink:2", "10 operator sink:3")
}

func TestAChangeOfParallelismByAFailureIsTheEngines(t *testing.T) {
	c := newCluster(t)
	c.poll(0)
	c.state, c.failed = "RESTARTING", 1
	c.poll(5)
	c.restart(6)
	c.n["sink"] = 1 // too few slots are left
	c.poll(10)
	c.wantRestarts(0, 1, 1)
	c.wantTopologies("00 first sink:2", "10 engine sink:1")
}

func TestAPUTExplainsTheRestartThatFollowsAndNoOther(t *testing.T) {
	c := newCluster(t)
	c.poll(0)
	c.put(1, 1, 3)
	c.poll(5) // waits for a checkpoint
	c.restart(8)
	c.n["sink"] = 3
	c.poll(10)
	c.restart(33)
	c.poll(35)
	c.wantRestarts(0, 0, 0, 1)
	c.wantTopologies("00 first sink:2", "10 operator sink:3")
}

func TestAPUTOfWhatIsThereAlreadyExplainsNothing(t *testing.T) {
	c := newCluster(t)
	c.poll(0)
	c.put(1, 1, 2)
	c.restart(3)
	c.poll(5)
	c.wantRestarts(0, 1)
}

func TestANewRunIsNoOutage(t *testing.T) {
	c := newCluster(t)
	c.poll(0)
	c.state = "FINISHED"
	c.poll(5)
	c.run, c.tm = "bbbbbbbb2222", "tm-2"
	c.restart(8)
	c.poll(10)
	c.poll(15)
	c.wantRestarts(0, 0, 0, 0)
	c.wantTopologies("00 first sink:2", "10 operator sink:2")
	if seen := topologies(c.results()); seen[1].Run != "bbbbbbbb2222" {
		t.Errorf("run %s", seen[1].Run)
	}
}

func TestAJobIsRememberedForADayWithoutARun(t *testing.T) {
	for gap, want := range map[int]string{23: "first 0, operator 1", 26: "first 0, first 0"} {
		c := newCluster(t)
		c.poll(0)
		c.restart(4)
		c.poll(5)
		c.state = "CANCELED"
		const hour = 3600
		c.overview(10_000)
		for h := 1; h < gap; h++ {
			if h > 2 {
				c.line(h*hour*1000, "GET", "/jobs/overview", 200, map[string]any{"jobs": []any{}}, nil)
			} else {
				c.overview(h * hour * 1000)
			}
		}
		c.run = "bbbbbbbb2222"
		c.restart(gap * hour)
		c.poll(gap*hour + 5)
		all := c.results()
		counts := values(all, dhalion.JobTarget("file/job"), dhalion.Restarts)
		seen := topologies(all)
		if got := fmt.Sprintf("%s %v, %s %v", seen[0].By, counts[0], seen[1].By, counts[len(counts)-1]); got != want || len(seen) != 2 || counts[1] != 1 {
			t.Errorf("after %d h: %s, want %s", gap, got, want)
		}
	}
}

func TestJobsThatAreNoMoreAreForgotten(t *testing.T) {
	a := NewAssembler(Options{})
	for day := range 30 {
		c := newCluster(t)
		c.name, c.run = fmt.Sprintf("nightly-%d", day), fmt.Sprintf("%032x", day)
		c.poll(day * 86400)
		c.line(day*86400_000+5000, "GET", "/jobs/overview", 503, "busy", nil)
		c.line(day*86400_000+10_000, "GET", "/jobs/overview", 200, map[string]any{"jobs": []any{}}, nil)
		for in := flink.NewReader(&c.out); ; {
			answer, err := in.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := a.Answer(answer); err != nil {
				t.Fatal(err)
			}
		}
		if len(a.jobs) > 3 {
			t.Fatalf("day %d: %d jobs are remembered", day, len(a.jobs))
		}
	}
}

func TestTwoJobsOfOneNameAtOneTimeAreToldApart(t *testing.T) {
	c := newCluster(t)
	for s := range 2 {
		c.run = "aaaaaaaa1111"
		c.poll(5 * s)
		c.run = "bbbbbbbb2222"
		c.detail(5000*s + 1)
		c.vertices(5000*s + 1)
	}
	jobs := map[dhalion.JobID]bool{}
	for _, r := range c.results() {
		for _, m := range r.Measurements {
			jobs[m.Target.Job] = true
		}
	}
	if len(jobs) != 2 || !jobs["file/job [aaaaaaaa]"] || !jobs["file/job [bbbbbbbb]"] {
		t.Errorf("jobs %v", jobs)
	}
	a := NewAssembler(Options{Job: "mine"})
	in := flink.NewReader(&c.out)
	var err error
	for err == nil {
		var answer flink.Answer
		if answer, err = in.Next(); err == nil {
			_, _, err = a.Answer(answer)
		}
	}
	if err == io.EOF {
		_, _, err = a.Flush()
	}
	if err == nil || !strings.Contains(err.Error(), "more than one job") {
		t.Errorf("both renamed to one name: %v", err)
	}
}

func TestAJobThatIsOnlyInTheOverviewIsNone(t *testing.T) {
	c := newCluster(t)
	c.overview(0)
	c.overview(5000)
	for _, r := range c.results() {
		if len(r.Measurements) != 0 || len(r.Topologies) != 0 {
			t.Errorf("%+v", r)
		}
	}
}

func TestExceptionsTellOutagesThatNoPollSaw(t *testing.T) {
	c := newCluster(t)
	c.poll(0)
	c.exceptions(0, failure{second: -300}) // history
	c.restart(52)                          // polls were missed; three failures, two of them 5 s apart
	c.poll(60)
	c.exceptions(60, failure{second: -300}, failure{second: 10}, failure{second: 45}, failure{second: 50})
	c.poll(65)
	c.exceptions(65, failure{second: -300}, failure{second: 10}, failure{second: 45}, failure{second: 50})
	// One at 10 and one from 45 to 50.
	c.wantRestarts(0, 2, 2)
}

func TestAFailureThatTheExceptionsShowFirstIsCountedOnce(t *testing.T) {
	c := newCluster(t)
	c.poll(0)
	c.poll(5)
	c.exceptions(5, failure{second: 5}) // after /jobs/:id was answered
	c.restart(7)
	c.poll(10)
	c.wantRestarts(0, 1, 1)
}

func TestOutagesAreJudgedByFlinksClock(t *testing.T) {
	c := newCluster(t)
	c.poll(0)
	c.exceptions(0, failure{second: -300})
	c.put(1, 1, 3)
	c.restart(3)
	c.n["sink"] = 3
	c.poll(5)
	c.restart(22)
	c.poll(25)
	c.exceptions(25, failure{second: -300}, failure{second: 21})
	// The recorder's clock is ten minutes slow.
	data := strings.ReplaceAll(c.out.String(), `"time":"2026-01-02T03:00`, `"time":"2026-01-02T02:50`)
	if got := values(assemble(t, Options{}, []byte(data)), dhalion.JobTarget("file/job"), dhalion.Restarts); !same64(got, []float64{0, 0, 1}) {
		t.Errorf("restarts %v, want 0 0 1", got)
	}
}

func TestAnOutageIsLaidOnWhomTheExceptionNames(t *testing.T) {
	c := newCluster(t)
	c.poll(0)
	c.restart(4)
	c.poll(5)
	c.exceptions(5, failure{3, "sink (1/2) - execution #0", "tm-1"}, failure{4, "sink (2/2)", ""})
	c.poll(10)
	all := c.results()
	for target, want := range map[dhalion.Target][]float64{
		dhalion.ComponentTarget("file/job", "sink"):   {0, 1, 1},
		dhalion.WorkerTarget("file/job", "tm-1"):      {0, 1, 1},
		dhalion.ComponentTarget("file/job", "source"): {math.NaN(), math.NaN(), math.NaN()},
	} {
		var got []float64
		for _, r := range all {
			v := math.NaN()
			for _, later := range all {
				for _, m := range later.Measurements {
					if m.Target == target && m.Metric == dhalion.Restarts && m.Time.Equal(r.At) {
						v = m.Value
					}
				}
			}
			got = append(got, v)
		}
		if !same64(got, want) {
			t.Errorf("restarts of %s: %v, want %v", target, got, want)
		}
	}
}

func TestSourcesThatMeasureNoBusyTimeHaveNone(t *testing.T) {
	c := newCluster(t)
	work := c.work
	c.work = func(ms int) map[string]any {
		m := work(ms)
		m["accumulated-busy-time"] = "NaN"
		return m
	}
	c.gauges = []string{"0.busyTimeMsPerSecond=NaN", "0.backPressuredTimeMsPerSecond=100", "0.idleTimeMsPerSecond=0"}
	c.poll(0)
	c.poll(5)
	all, source := c.results(), dhalion.InstanceTarget("file/job", "source", 0)
	if v := values(all, source, dhalion.Busy)[1]; v == v {
		t.Errorf("busy is %v", v)
	}
	if v := values(all, source, dhalion.Backpressured)[1]; v != .1 {
		t.Errorf("backpressured is %v, want .1", v)
	}
}

func TestASourceThatMeasuresNoBusyTimeIsSeenToBeHeldUp(t *testing.T) {
	c := newCluster(t)
	work := c.work
	c.held = map[string]float64{"source": .5, "sink": 0}
	c.work = func(ms int) map[string]any {
		m := work(ms)
		m["accumulated-busy-time"] = "NaN"
		return m
	}
	c.poll(0)
	c.poll(5)
	c.poll(10)
	all, source := c.results(), dhalion.InstanceTarget("file/job", "source", 0)
	for m, want := range map[dhalion.Metric][]float64{
		dhalion.Backpressured: {math.NaN(), .5, .5},
		dhalion.Busy:          {math.NaN(), math.NaN(), math.NaN()},
		dhalion.Idle:          {math.NaN(), math.NaN(), math.NaN()},
		dhalion.RecordsOut:    {math.NaN(), 100, 100},
	} {
		if got := values(all, source, m); !same64(got, want) {
			t.Errorf("%s is %v, want %v", m, got, want)
		}
	}
	if got := values(all, dhalion.ComponentTarget("file/job", "sink"), dhalion.BackpressureCaused); !same64(got, []float64{math.NaN(), .5, .5}) {
		t.Errorf("the sink causes %v", got)
	}
}

func TestWithoutAccumulatedTimesFlinksOwnMeansAreTaken(t *testing.T) {
	c := newCluster(t)
	work := c.work
	c.work = func(ms int) map[string]any {
		m := work(ms)
		delete(m, "accumulated-busy-time")
		delete(m, "accumulated-backpressured-time")
		delete(m, "accumulated-idle-time")
		return m
	}
	c.gauges = []string{"0.busyTimeMsPerSecond=1000", "0.backPressuredTimeMsPerSecond=0", "0.idleTimeMsPerSecond=0"}
	c.poll(0)
	c.gauges[0] = "0.busyTimeMsPerSecond=250"
	c.poll(5)
	all, sink := c.results(), dhalion.InstanceTarget("file/job", "sink", 0)
	// The first value after a start always reads 1000.
	if got := values(all, sink, dhalion.Busy); !same64(got, []float64{math.NaN(), .25}) {
		t.Errorf("busy %v", got)
	}
	if got := values(all, sink, dhalion.TrueRecordsIn)[1]; !near(got, 100/.25) {
		t.Errorf("true rate %v, want 400", got)
	}
}

func TestACounterThatIsIncompleteOrFellGivesNoRate(t *testing.T) {
	for name, odd := range map[string]func(m map[string]any){
		"incomplete": func(m map[string]any) { m["read-records-complete"], m["write-records-complete"] = false, false },
		"missing":    func(m map[string]any) { delete(m, "read-records"); delete(m, "accumulated-busy-time") },
		"fell":       func(m map[string]any) { m["read-records"] = 3 },
		"odd":        func(m map[string]any) { m["read-records"], m["accumulated-busy-time"] = []int{1}, "many" },
	} {
		c := newCluster(t)
		c.poll(0)
		work := c.work
		c.work = func(ms int) map[string]any { m := work(ms); odd(m); return m }
		c.poll(5)
		c.work = work
		c.poll(10)
		c.poll(15)
		all, sink := c.results(), dhalion.InstanceTarget("file/job", "sink", 0)
		for _, m := range []dhalion.Metric{dhalion.RecordsIn, dhalion.Busy} {
			got := values(all, sink, m)
			// After a fall the next difference is right in form: 100,100+… since 3.
			if got[1] == got[1] || got[3] != got[3] {
				t.Errorf("%s: %s is %v, want unknown at 5 s and known at 15 s", name, m, got)
			}
		}
	}
}

func TestBusyTimeThatFallsALittleCountsAsNone(t *testing.T) {
	c := newCluster(t)
	c.work = func(ms int) map[string]any {
		// Busy -10 ms in 5 s, as Flink's sources that only wait show it.
		return map[string]any{
			"write-records": ms / 10, "write-records-complete": true,
			"accumulated-busy-time": 1000 - ms/500, "accumulated-backpressured-time": 0, "accumulated-idle-time": ms,
		}
	}
	c.poll(0)
	c.poll(5)
	all, source := c.results(), dhalion.InstanceTarget("file/job", "source", 0)
	if busy, idle, out := values(all, source, dhalion.Busy)[1], values(all, source, dhalion.Idle)[1], values(all, source, dhalion.RecordsOut)[1]; busy != 0 || idle != 1 || out != 100 {
		t.Errorf("busy %v, idle %v, %v records/s out", busy, idle, out)
	}
}

func TestWhatIsNotAnsweredIsUnknownForThatPoll(t *testing.T) {
	c := newCluster(t)
	c.poll(0)
	c.line(5000, "GET", "/jobs/overview", 0, nil, nil)
	c.line(5000, "GET", "/jobs/"+c.run, 503, "busy", nil)
	c.line(5000, "GET", "/jobs/"+c.run+"/vertices/sink", 200, "<html>", nil)
	c.poll(10)
	all, sink := c.results(), dhalion.InstanceTarget("file/job", "sink", 0)
	if len(all[1].Measurements) != 0 || all[1].Repairs[Unanswered] != 2 || all[1].Repairs[UnreadableAnswer] != 1 {
		t.Errorf("%+v", all[1])
	}
	// 1,000 records in the 10 s that the two intervals take.
	if got := values(all, sink, dhalion.RecordsIn); !same64(got, []float64{math.NaN(), math.NaN(), 100}) {
		t.Errorf("records in %v", got)
	}
}

func TestPendingRecordsOfSeveralOperatorsAreAdded(t *testing.T) {
	c := newCluster(t)
	c.gauges = []string{"0.Source__a.pendingRecords=10", "0.Source__b.pendingRecords=5", "0.Shuffle.Netty.Input.Buffers.inputQueueSize=4096"}
	c.poll(0)
	c.gauges = []string{"0.Source__a.pendingRecords=60", "0.Source__b.pendingRecords=5"}
	c.poll(5)
	c.gauges = []string{"0.Source__a.pendingRecords=60", "0.Source__b.pendingRecords=-1"}
	c.poll(10)
	all, source := c.results(), dhalion.InstanceTarget("file/job", "source", 0)
	if got := values(all, source, dhalion.Lag); !same64(got, []float64{15, 65, math.NaN()}) {
		t.Errorf("lag %v", got)
	}
	// 100/s are read while 50 more wait after 5 s.
	if got := values(all, source, dhalion.OfferedRecords); !same64(got, []float64{math.NaN(), 110, math.NaN()}) {
		t.Errorf("offered %v", got)
	}
	if got := values(all, dhalion.InstanceTarget("file/job", "sink", 0), dhalion.QueueBytes)[0]; got != 4096 {
		t.Errorf("queued bytes %v", got)
	}
}

func TestTheLagOfAChainedSourceCountsAsWhatIsPutOutForIt(t *testing.T) {
	c := newCluster(t)
	// Lines are read, four words a line are put out: 25 lines/s, 100 words/s. Since the
	// attempt began 100,000 words of 20,000 lines were.
	c.gauges = []string{"0.Source__lines.pendingRecords=10", "0.Source__lines.numRecordsOut=20000", "0.split.numRecordsOut=7"}
	c.poll(0)
	c.gauges = []string{"0.Source__lines.pendingRecords=60", "0.Source__lines.numRecordsOut=20125", "0.split.numRecordsOut=8"}
	c.poll(5)
	c.gauges = []string{"0.Source__lines.pendingRecords=110", "0.Source__lines.numRecordsOut=20125"} // held up
	c.poll(10)
	c.gauges = []string{"0.Source__lines.pendingRecords=160"} // not asked
	c.poll(15)
	for name, want := range map[string]struct{ in, offered []float64 }{
		// 10 lines/s more wait: 100 + 4 × 10, then 100 + (100,500+500)/20,125 × 10, then as many
		// words as are in 10 lines.
		"source -> split": {[]float64{math.NaN(), 25, 0, math.NaN()}, []float64{math.NaN(), 140, 100 + 101000.0/20125*10, math.NaN()}},
		"source":          {[]float64{math.NaN(), math.NaN(), math.NaN(), math.NaN()}, []float64{math.NaN(), 110, 110, 110}},
	} {
		all := assemble(t, Options{}, []byte(strings.ReplaceAll(c.out.String(), `" source "`, `"`+strings.ReplaceAll(name, ">", `\u003e`)+`"`)))
		source := dhalion.InstanceTarget("file/job", name, 0)
		if got := values(all, source, dhalion.RecordsIn); !same64(got, want.in) {
			t.Errorf("%s: records in %v", name, got)
		}
		if got := values(all, source, dhalion.OfferedRecords); !same64(got, want.offered) {
			t.Errorf("%s: offered %v, want %v", name, got, want.offered)
		}
		if got := values(all, source, dhalion.Lag); !same64(got, []float64{10, 60, 110, 160}) {
			t.Errorf("%s: lag %v", name, got)
		}
	}
}

func TestWhereNoPollAsksWhatAChainedSourceHasReadItsLagCountsAsItIs(t *testing.T) {
	c := newCluster(t)
	for k := range 3 {
		c.gauges = []string{fmt.Sprintf("0.Source__lines.pendingRecords=%d", 10+50*k), "0.split.numRecordsOut=7"}
		c.poll(5 * k)
	}
	all := assemble(t, Options{}, []byte(strings.ReplaceAll(c.out.String(), `" source "`, `"source -\u003e split"`)))
	if got := values(all, dhalion.InstanceTarget("file/job", "source -> split", 0), dhalion.OfferedRecords); !same64(got, []float64{math.NaN(), 110, 110}) {
		t.Errorf("offered %v, want 100 + 10", got)
	}
}

func TestLatencyIsTheTimeThatARecordWaitsOnItsWay(t *testing.T) {
	c := newCluster(t)
	work := c.work
	c.work = func(ms int) map[string]any {
		m := work(ms)
		m["read-bytes"], m["read-bytes-complete"] = ms*3/2+1000, true // 1,500 bytes/s
		return m
	}
	const queue = "Shuffle.Netty.Input.Buffers.inputQueueSize"
	c.gauges = []string{"0.Source__a.pendingRecords=200", "0." + queue + "=2000", "1." + queue + "=4000"}
	c.poll(0)
	c.poll(5)
	c.gauges = c.gauges[:2] // of the second sink nothing is known
	c.poll(10)
	c.gauges = []string{"0.Source__a.pendingRecords=0", "0." + queue + "=0", "1." + queue + "=0"}
	c.poll(15)
	// 200 records at 100/s, then 6,000 bytes at 3,000/s: 4 s.
	if got := values(c.results(), dhalion.JobTarget("file/job"), dhalion.Latency); !same64(got, []float64{math.NaN(), 4, math.NaN(), 0}) {
		t.Errorf("latency %v", got)
	}
}

func TestWhatHasFinishedNeitherWaitsNorIsWaitedFor(t *testing.T) {
	c := newCluster(t)
	c.n["source"], c.held, c.done = 2, map[string]float64{"source": .5, "sink": 0}, map[string]int{}
	work := c.work
	c.work = func(ms int) map[string]any {
		m := work(ms)
		m["read-bytes"], m["read-bytes-complete"] = ms*3/2+1000, true // 1,500 bytes/s
		return m
	}
	for i, queue := range []string{"2000 9", "4000 1"} {
		bytes, buffers, _ := strings.Cut(queue, " ")
		c.gauges = append(c.gauges, fmt.Sprintf("%d.Source__a.pendingRecords=200", i),
			fmt.Sprintf("%d.Shuffle.Netty.Input.Buffers.inputQueueSize=%s", i, bytes), fmt.Sprintf("%d.Shuffle.Netty.Input.Buffers.inputQueueLength=%s", i, buffers))
	}
	unknown := math.NaN()
	for k, x := range []struct {
		source, sink                      int // that have finished
		latency, caused, causes0, causes1 float64
	}{
		{0, 0, unknown, unknown, unknown, unknown},
		// 400 records at 200/s, 6,000 bytes at 3,000/s; 9 and 1 buffers.
		{0, 0, 4, .5, .45, .05},
		// 200 records at 100/s.
		{1, 0, 4, .5, .45, .05},
		// 4,000 bytes at 1,500/s.
		{1, 1, 2 + 4000.0/1500, .5, unknown, .5},
		{2, 1, 4000.0 / 1500, 0, unknown, 0},
		// A job that has finished but for its state: nothing is on its way.
		{2, 2, 0, unknown, unknown, unknown},
	} {
		c.done["source"], c.done["sink"] = x.source, x.sink
		c.poll(5 * k)
		all := c.results()
		for _, y := range []struct {
			target dhalion.Target
			metric dhalion.Metric
			want   float64
		}{
			{dhalion.JobTarget("file/job"), dhalion.Latency, x.latency},
			{dhalion.ComponentTarget("file/job", "sink"), dhalion.BackpressureCaused, x.caused},
			{dhalion.InstanceTarget("file/job", "sink", 0), dhalion.BackpressureCaused, x.causes0},
			{dhalion.InstanceTarget("file/job", "sink", 1), dhalion.BackpressureCaused, x.causes1},
		} {
			if got := values(all, y.target, y.metric)[k:]; !same64(got, []float64{y.want}) {
				t.Errorf("poll %d: %s of %s is %v, want %v", k, y.metric, y.target, got, y.want)
			}
		}
	}
}

func TestOfWhatHasFinishedItIsGivenThatNothingArrives(t *testing.T) {
	c := newCluster(t)
	c.n["source"] = 2
	c.gauges = []string{"0.Source__a.pendingRecords=200", "1.Source__a.pendingRecords=200"}
	for k, done := range []map[string]int{{}, {}, {"source": 1}, {"source": 2, "sink": 1}} {
		c.done = done
		c.poll(5 * k)
	}
	all := c.results()
	for target, finished := range map[dhalion.Target]int{ // the first poll of which it has
		dhalion.InstanceTarget("file/job", "source", 0): 2,
		dhalion.InstanceTarget("file/job", "source", 1): 3,
		dhalion.InstanceTarget("file/job", "sink", 0):   3,
		dhalion.InstanceTarget("file/job", "sink", 1):   4,
	} {
		for k, r := range all {
			given := map[dhalion.Metric]float64{}
			for _, m := range r.Measurements {
				if m.Target == target {
					given[m.Metric] = m.Value
				}
			}
			offered, ok := given[dhalion.OfferedRecords]
			if ended := ok && offered == 0 && len(given) == 1; ended != (k >= finished) {
				t.Errorf("poll %d: %s gives %v", k, target, given)
			}
		}
	}
	// While the job is not as it should be, nothing is given of any subtask.
	c.state = "RESTARTING"
	c.poll(20)
	if got := values(c.results(), dhalion.InstanceTarget("file/job", "source", 0), dhalion.OfferedRecords)[4]; got == got {
		t.Errorf("offered %v in a job that is down", got)
	}
}

func TestCheckpointsThatFailInARowAreCounted(t *testing.T) {
	c := newCluster(t)
	c.poll(0)
	one := func(id int, status string, second int, savepoint bool) any {
		return map[string]any{"id": id, "status": status, "trigger_timestamp": stamp(second * 1000), "is_savepoint": savepoint, "end_to_end_duration": 1500}
	}
	c.line(100, "GET", "/jobs/"+c.run+"/checkpoints", 200, map[string]any{
		"counts": map[string]int{"completed": 7, "failed": 3}, "latest": map[string]any{"completed": one(7, "COMPLETED", -40, false)},
		"history": []any{
			one(11, "IN_PROGRESS", 0, false), one(10, "FAILED", -10, false), one(9, "FAILED", -20, false),
			one(8, "COMPLETED", -25, true), one(7, "COMPLETED", -40, false), one(6, "FAILED", -50, false),
		},
	}, nil)
	all, job := c.results(), dhalion.JobTarget("file/job")
	for m, want := range map[dhalion.Metric]float64{
		dhalion.CheckpointsCompleted: 7, dhalion.CheckpointFailures: 3, dhalion.CheckpointFailuresInARow: 2, dhalion.CheckpointSeconds: 1.5,
		// Triggered at -50, -40, -20, -10, 0: gaps of 10, 20, 10, 10 s.
		dhalion.CheckpointInterval: 10,
	} {
		if got := values(all, job, m)[0]; got != want {
			t.Errorf("%s is %v, want %v", m, got, want)
		}
	}
	c.line(200, "GET", "/jobs/"+c.run+"/checkpoints/config", 200, map[string]int{"interval": 30_000}, nil)
	if got := values(c.results(), job, dhalion.CheckpointInterval)[0]; got != 30 {
		t.Errorf("interval %v, want the configured 30 s", got)
	}
}

func TestWithoutAHistoryOfCheckpointsHowManyFailedInARowIsUnknown(t *testing.T) {
	c := newCluster(t)
	for k, failed := range []int{0, 1, 4} {
		c.poll(5 * k)
		c.line(5000*k+100, "GET", "/jobs/"+c.run+"/checkpoints", 200, map[string]any{"counts": map[string]int{"completed": 7, "failed": failed}, "history": []any{}}, nil)
	}
	all, job := c.results(), dhalion.JobTarget("file/job")
	if got := values(all, job, dhalion.CheckpointFailuresInARow); !same64(got, []float64{0, math.NaN(), math.NaN()}) {
		t.Errorf("failed in a row %v, want 0 while none has failed at all", got)
	}
	if got := values(all, job, dhalion.CheckpointFailures); !same64(got, []float64{0, 1, 4}) {
		t.Errorf("failed %v", got)
	}
}

func TestNamesAreTrimmedAndToldApart(t *testing.T) {
	c := newCluster(t)
	c.poll(0)
	data := strings.ReplaceAll(c.out.String(), `" source "`, `" same\n"`)
	data = strings.ReplaceAll(data, `" sink "`, `"same"`)
	seen := topologies(assemble(t, Options{}, []byte(data)))
	if len(seen) != 1 || len(seen[0].Components) != 2 || seen[0].Components[0].Name != "same [sink]" || seen[0].Components[1].Name != "same [source]" {
		t.Errorf("%+v", seen)
	}
	long := strings.Repeat("é", 2000)
	seen = topologies(assemble(t, Options{}, []byte(strings.ReplaceAll(c.out.String(), `" source "`, `"`+long+`"`))))
	if len(seen) != 1 || !strings.HasSuffix(seen[0].Components[1].Name, "é [source]") || len(seen[0].Components[1].Name) > 1024 {
		t.Errorf("%+v", seen)
	}
}

func TestTheSlotsOfAllWorkersAreInTheTopologyOnceTheyAreTold(t *testing.T) {
	c := newCluster(t)
	managers := func(seconds int, body any) {
		c.line(seconds*1000+50, "GET", "/taskmanagers", 200, body, nil)
	}
	list := func(slots ...int) any {
		var all []any
		for i, n := range slots {
			all = append(all, map[string]any{"id": fmt.Sprintf("tm-%d", i+1), "slotsNumber": n, "freeSlots": 1})
		}
		return map[string]any{"taskmanagers": all}
	}
	c.poll(0) // not asked yet
	c.poll(5)
	managers(5, list(8, 4))
	c.poll(10)
	managers(10, list(8, 4)) // the same
	c.poll(15)
	managers(15, map[string]any{"taskmanagers": []any{map[string]any{"id": "tm-1"}}}) // no slots said
	c.poll(20)
	managers(20, list(8)) // one is gone
	var said []string
	for _, topology := range topologies(c.results()) {
		said = append(said, fmt.Sprintf("%v %s %v %d", topology.From.Sub(epoch), topology.By, topology.Slots, topology.TotalSlots()))
	}
	want := []string{"0s first [] 0", "5s engine [{tm-1 8} {tm-2 4}] 12", "20s engine [{tm-1 8}] 8"}
	if !slices.Equal(said, want) {
		t.Errorf("topologies %q, want %q", said, want)
	}
}

func TestAGraphWithACycleGivesNoTopology(t *testing.T) {
	c := newCluster(t)
	c.poll(0)
	data := strings.Replace(c.out.String(), `{"id":"source"}`, `{"id":"source","inputs":[{"id":"sink"}]}`, 1)
	all := assemble(t, Options{}, []byte(data))
	if len(topologies(all)) != 0 || all[0].Repairs[UnusableTopology] != 1 {
		t.Errorf("%+v", all)
	}
}

// Whatever a recording says, what is made of it is fit for the collector.
func FuzzRecording(f *testing.F) {
	c := newCluster(f)
	c.gauges = []string{"0.Source__a.pendingRecords=10", "1.Shuffle.Netty.Input.Buffers.inPoolUsage=1.5"}
	c.poll(0)
	c.exceptions(1, failure{1, "sink (1/2)", "tm-1"})
	c.restart(4)
	c.poll(5)
	c.line(5100, "GET", "/taskmanagers/tm-1/metrics?get=…", 200, []any{map[string]string{"id": heapMax, "value": "-1"}, map[string]string{"id": cpuLoad, "value": "0.1"}}, nil)
	c.poll(10)
	f.Add(c.out.Bytes())
	f.Add([]byte(`{"time":"2026-01-02T03:00:00Z","method":"GET","path":"/jobs/overview","status":0}` + "\n{\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		_, err := ingest.Collect(context.Background(), ingest.Out{}, ingest.Options{}, NewRecording("r", bytes.NewReader(data), Options{SkipBad: 1 << 30}))
		if err != nil && strings.Contains(err.Error(), ": poll of ") {
			t.Error(err)
		}
	})
}
