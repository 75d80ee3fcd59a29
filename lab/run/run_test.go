package main

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dhalion-go/dhalion/internal/engine/flink"
	"github.com/dhalion-go/dhalion/lab/scenario"
)

func TestAMachineIsNoisyAfterFiveTakenSecondsInARow(t *testing.T) {
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	series := func(free ...float64) (all []sample) {
		for i, f := range free {
			all = append(all, sample{at: at.Add(time.Duration(i) * time.Second), idle: f / 2, nice: f / 2})
		}
		return all
	}
	if _, reason := noisy(series(.05, .05, .05, .05, .12, .05, .05, .05, .05), .1); reason != "" {
		t.Errorf("four seconds twice are not five in a row: %s", reason)
	}
	if from, reason := noisy(series(.5, .05, .05, .05, .05, .05, .5), .1); !strings.Contains(reason, "00:00:05Z") || !from.Equal(at.Add(time.Second)) {
		t.Errorf("five seconds in a row: from %v, %q", from, reason)
	}
	least, mean := freeShares(series(.2, .6))
	if least != .2 || mean != .4 {
		t.Errorf("least %v and mean %v of .2 and .6", least, mean)
	}
}

func TestASampleIsTheShareOfTheTimeBetweenTwoReadings(t *testing.T) {
	file := filepath.Join(t.TempDir(), "stat")
	read := func(text string) [8]float64 {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		v, err := readStat(file)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	a := read("cpu  100 10 50 1000 20 0 0 0 0 0\ncpu0 1 2 3 4\n")
	b := read("cpu  160 30 70 1080 40 0 0 0 0 0\n")
	// 60 user, 20 nice, 20 system, 80 idle, 20 waiting for a disk: of 200
	if s := between(a, b, time.Time{}); s.idle != .5 || s.nice != .1 {
		t.Errorf("idle %v, nice %v; want .5, .1", s.idle, s.nice)
	}
	if err := os.WriteFile(file, []byte("intr 1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := readStat(file); err == nil {
		t.Error("a file of another kind was read")
	}
}

// run20 is a recording of two subtasks, polled every five seconds: each reads
// 100 records/s and is busy 50 % of the time, and from the 100th second on
// subtask 1 takes twice as long. At 50 s both start again.
func run20(t *testing.T, begin time.Time) *raw {
	t.Helper()
	path := filepath.Join(t.TempDir(), "r.jsonl.gz")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	z := gzip.NewWriter(f)
	for s := 0; s <= 200; s += 5 {
		at := begin.Add(time.Duration(s) * time.Second).UTC()
		since, start := s, 1
		if s >= 50 {
			since, start = s-50, 2
		}
		var tasks []string
		for i := range 2 {
			busy := 500 * since
			if i == 1 && s > 100 {
				busy += 500 * (s - 100)
			}
			tasks = append(tasks, fmt.Sprintf(`{"subtask":%d,"status":"RUNNING","attempt":0,"start-time":%d,"taskmanager-id":"tm-1","metrics":{"read-records":%d,"read-records-complete":true,"write-records":%d,"write-records-complete":true,"accumulated-busy-time":%d,"accumulated-backpressured-time":0,"accumulated-idle-time":%d}}`,
				i, start, 100*since, 100*since, busy, 1000*since-busy))
		}
		fmt.Fprintf(z, `{"time":%q,"engine":"flink","method":"GET","path":"/jobs/j/vertices/v","status":200,"body":{"id":"v","name":"count","subtasks":[%s]}}`+"\n", at.Format(time.RFC3339Nano), strings.Join(tasks, ","))
		fmt.Fprintf(z, `{"time":%q,"engine":"flink","method":"GET","path":"/taskmanagers/tm-1/metrics?get=x","status":200,"body":[{"id":"Status.JVM.Memory.Heap.Used","value":"50"},{"id":"Status.JVM.Memory.Heap.Max","value":"100"},{"id":"Status.JVM.GarbageCollector.All.Time","value":"%d"}]}`+"\n", at.Format(time.RFC3339Nano), 200*s)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	r, err := readRecording(path)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestARecordingsNumbersAreDifferencesThatLeaveRestartsOut(t *testing.T) {
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	at := func(s int) time.Time { return begin.Add(time.Duration(s) * time.Second) }
	r := run20(t, begin)
	// 30 to 70 s without 45–50, across which they start again
	if s := r.over("count", 0, at(30), at(70)); s.seconds != 35 || s.in != 3500 || s.busy != 17500 {
		t.Errorf("over the restart: %+v", s)
	}
	for subtask, want := range []float64{5, 10} {
		if cost, ok := r.over("count", subtask, at(100), at(160)).cost(); !ok || cost != want {
			t.Errorf("a record costs subtask %d %v ms, not %v", subtask, cost, want)
		}
	}
	if _, ok := r.over("count", 0, at(300), at(400)).cost(); ok {
		t.Error("a cost out of no records")
	}
	if shares := r.shares("count", at(100), at(160)); !slices.Equal(shares, []float64{.5, .5}) {
		t.Errorf("shares are %v", shares)
	}
	if collecting, used, ok := r.memory("tm-1", at(100), at(160)); !ok || collecting != .2 || used != .5 {
		t.Errorf("collections took %v of the time and left %v; want .2 and .5", collecting, used)
	}
}

func testLog(begin time.Time, f scenario.Fault, hosted map[string][]int) runLog {
	at := func(s int) time.Time { return begin.Add(time.Duration(s) * time.Second) }
	shape := scenario.Shape{Class: "x", Components: map[string]scenario.Component{
		"source": {Kind: "source", Parallelism: 1, Rate: 200, Utilisation: .05},
		"count":  {Kind: "stage", Keyed: true, Parallelism: 2, Utilisation: .5, Inputs: map[string]string{"source": "hash"}},
	}}
	backlog, failed := 12.0, 0.0
	return runLog{
		Scenario: scenarioJSON{scenario.Scenario{Name: "words-1", Shape: "words", Split: "train", Seed: 3}}, Shape: shape, Begin: begin, End: at(200), Flink: "2.3.0", Outages: []time.Time{},
		Incidents: []incidentLog{{Name: "01-x", Magnitude: "moderate", Settle: "cut", Load: 1, Start: at(100), End: at(160), Drained: at(165), Backlog: &backlog, Checkpoints: [2]*float64{&failed, &failed},
			Faults: []faultLog{{Fault: f, On: map[bool]string{true: "tm-1"}[f.Worker != nil], Hosted: hosted, Start: at(100), End: at(160)}}}},
		Machine: machineLog{Idle: []int{500, 300}, Nice: []int{0, 100}},
	}
}

func TestARowIsVerifiedByTheRecordingsOwnNumbers(t *testing.T) {
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	r := run20(t, begin)
	zero, one := 0, 1
	for name, c := range map[string]struct {
		fault  scenario.Fault
		hosted map[string][]int
		want   string
	}{
		"the slow one":      {scenario.Fault{Kind: scenario.Cost, Component: "count", Instance: &one, Factor: 2}, nil, "slow_instance,count,1,,2026-01-01T00:01:40.000Z,2026-01-01T00:02:40.000Z,x2; backlog 12; cut to 2 s of load; drained=2026-01-01T00:02:45.000Z; verified=yes"},
		"another than said": {scenario.Fault{Kind: scenario.Cost, Component: "count", Instance: &zero, Factor: 2}, nil, "verified=no(slow_instance: time per record x1.00 of its past, x0.50 of its peers)"},
		"one of the worker": {scenario.Fault{Kind: scenario.SlowWorker, Worker: &scenario.Pick{}, Factor: 2}, map[string][]int{"count": {0, 1}}, "slow_worker: 1 of 2 instances took longer"},
		"collections":       {scenario.Fault{Kind: scenario.Memory, Worker: &scenario.Pick{}, Share: .2}, nil, "verified=yes"},
		"no outage":         {scenario.Fault{Kind: scenario.Fail, Component: "count", Instance: &one, Every: 1}, nil, "failing: 0 outages"},
		"no failed snapshot": {
			scenario.Fault{Kind: scenario.Checkpoint}, nil, "checkpoint_failing: 0 checkpoints failed"},
		"not overloaded": {scenario.Fault{Kind: scenario.LoadFactor, Factor: 2.4}, nil, "underprovisioned: busy 0.75"},
	} {
		log := testLog(begin, c.fault, c.hosted)
		all := label(log, r)
		rows := lines(log, all, "words-1.parquet")
		if len(rows) != 2 {
			t.Fatalf("%s: rows %v", name, rows)
		}
		if got := strings.Join(rows[1], ","); !strings.Contains(got, c.want) || !strings.HasSuffix(got, "words-1,words,moderate,train,words-1/01-x") {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
		if rows[0][2] != "none" || rows[0][7] != "2026-01-01T00:01:40.000Z" {
			t.Errorf("%s: the healthy start is %v", name, rows[0])
		}
		// 200 s less 100–165
		if got := faultless(log, all); got != 135*time.Second {
			t.Errorf("%s: %v without a fault", name, got)
		}
	}
}

func TestARowThatTheRecordingSaysNothingOfIsUnchecked(t *testing.T) {
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	one := 1
	all := run20(t, begin)
	// Subtask 0 alone, which is as fast as ever: it cannot speak for both.
	half := &raw{subtasks: map[string]map[int][]count{"count": {0: all.subtasks["count"][0]}}}
	for name, c := range map[string]struct {
		fault scenario.Fault
		cause string
		part  bool // half of the numbers do not tell either
	}{
		"an instance":       {scenario.Fault{Kind: scenario.Cost, Component: "count", Instance: &one, Factor: 2}, "slow_instance", true},
		"a worker":          {scenario.Fault{Kind: scenario.SlowWorker, Worker: &scenario.Pick{}, Factor: 2}, "slow_worker", false},
		"a sink":            {scenario.Fault{Kind: scenario.Cost, Component: "sink", Factor: 4}, "sink_limited", true},
		"a source":          {scenario.Fault{Kind: scenario.Cost, Component: "source", Factor: 40}, "source_limited", true},
		"too much":          {scenario.Fault{Kind: scenario.LoadFactor, Factor: 2.4}, "underprovisioned", true},
		"too little":        {scenario.Fault{Kind: scenario.LoadFactor, Factor: .1}, "overprovisioned", true},
		"a heap":            {scenario.Fault{Kind: scenario.Memory, Worker: &scenario.Pick{}, Share: .2}, "memory_pressure", true},
		"checkpoints":       {scenario.Fault{Kind: scenario.Checkpoint}, "checkpoint_failing", true},
		"failures":          {scenario.Fault{Kind: scenario.Fail, Component: "count", Instance: &one, Every: 1}, "failing", true},
		"nothing but noise": {scenario.Fault{Kind: scenario.Noise, Wave: .2}, "none", true},
	} {
		log := testLog(begin, c.fault, map[string][]int{"count": {0, 1}})
		log.Shape.Components["sink"] = scenario.Component{Kind: scenario.Sink, Parallelism: 2, Utilisation: .45, Inputs: map[string]string{"count": "hash"}}
		log.Outages = nil
		log.Incidents[0].Backlog, log.Incidents[0].Checkpoints = nil, [2]*float64{}
		recordings := map[string]*raw{"an empty recording": {}}
		if c.part {
			recordings["half of one"] = half
		}
		for which, r := range recordings {
			rows := lines(log, label(log, r), "words-1.parquet")
			if len(rows) < 2 {
				t.Fatalf("%s: rows %v", name, rows)
			}
			for _, row := range rows[1:] {
				if row[2] != c.cause || !strings.HasSuffix(row[8], "verified=unchecked") || !strings.Contains(row[8], "backlog unknown; ") {
					t.Errorf("%s, by %s: %s, %q", name, which, row[2], row[8])
				}
			}
		}
	}
}

func TestWhatFlinkDoesNotSayIsUnknownAndNotNone(t *testing.T) {
	answers := map[string]string{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, ok := answers[r.URL.Path]
		if !ok {
			http.Error(w, "away", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprint(w, body)
	}))
	defer server.Close()
	client, err := flink.NewClient(server.URL, flink.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	v := &view{client: client, job: "j", vertex: map[string]string{"source": "s"}, lag: map[string][]string{"source": {"0.x.pendingRecords"}}, sources: []string{"source"}}
	ctx := context.Background()
	if backlog, failed, outages := v.backlog(ctx), v.failedCheckpoints(ctx), v.outages(ctx); backlog != nil || failed != nil || outages != nil {
		t.Errorf("of a Flink that does not answer: backlog %v, %v failed checkpoints, outages %v", backlog, failed, outages)
	}
	answers["/jobs/j/vertices/s/metrics"] = `[{"id":"0.x.pendingRecords","value":"0"}]`
	answers["/jobs/j/checkpoints"] = `{"counts":{"failed":0}}`
	answers["/jobs/j/exceptions"] = `{"exceptionHistory":{"entries":[]}}`
	if backlog, failed, outages := v.backlog(ctx), v.failedCheckpoints(ctx), v.outages(ctx); backlog == nil || *backlog != 0 || failed == nil || *failed != 0 || outages == nil {
		t.Errorf("of one that says none: backlog %v, %v failed checkpoints, outages %v", backlog, failed, outages)
	}
	answers["/jobs/j/checkpoints"] = `{"counts":{}}`
	if failed := v.failedCheckpoints(ctx); failed != nil {
		t.Errorf("of one that does not count: %v failed checkpoints", *failed)
	}
}

func TestLabellingARunAgainChangesNothing(t *testing.T) {
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	one := 1
	dir := t.TempDir()
	rows := func(note string) [][]string {
		log := testLog(begin, scenario.Fault{Kind: scenario.Cost, Component: "count", Instance: &one, Factor: 2}, nil)
		all := label(log, &raw{})
		out := lines(log, all, "words-1.parquet")
		out[1][8] = note
		return out
	}
	path := filepath.Join(dir, "labels.csv")
	other := slices.Clone(rows("x")[1])
	other[9] = "words-2"
	for _, put := range []struct {
		run  string
		rows [][]string
	}{{"words-1", rows("first")}, {"words-2", [][]string{other}}, {"words-1", rows("second")}, {"words-1", rows("second")}} {
		if err := replaceRows(path, labelsHeader, 9, put.run, put.rows); err != nil {
			t.Fatal(err)
		}
	}
	got, err := readTable(path, labelsHeader)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 3 || got[1][8] != "second" || got[2][9] != "words-2" {
		t.Errorf("the table is %v", got)
	}
	text := counts(got, [][]string{{"words-1", "words", "train", "3", "", "", "1", "120"}}, 1e6)
	// The two runs' rows are of one incident: they bear one id.
	if !strings.Contains(text, "1 runs, 1 incidents, 2 min of job time") || !strings.Contains(text, "| slow_instance | 1 | 0 | 1 | 0 | 1 |") {
		t.Errorf("the counts are %s", text)
	}
}

func TestLintTakesTheScenariosHereAndAsksForFiles(t *testing.T) {
	t.Chdir("../..")
	ctx := context.Background()
	files := []string{}
	for _, dir := range []string{"lab/scenarios", "lab/scenarios/heldout"} {
		found, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
		if err != nil || len(found) == 0 {
			t.Fatalf("no scenarios in %s: %v", dir, err)
		}
		files = append(files, found...)
	}
	if err := run(ctx, append([]string{"lint"}, files...)); err != nil {
		t.Error(err)
	}
	var wrong usage
	if err := run(ctx, []string{"lint"}); !errors.As(err, &wrong) {
		t.Errorf("without a file: %v, and that is wrong usage", err)
	}
}

func TestARunOfAnotherScheduleUnderItsNameIsTold(t *testing.T) {
	out := t.TempDir()
	if err := os.Mkdir(filepath.Join(out, "runs"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(out, "runs", "s2-09-chain.json"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	o := options{out: out, corpus: "lab/corpus"}
	rows := [][]string{{"s2-07-chain", "chain", "train", "7"}, {"s2-08-chain", "chain", "train", "8"}}
	for name, want := range map[string]struct {
		done  bool
		other string
	}{
		"s2-07-chain": {true, ""},
		"s2-08-chain": {true, "s2-08-chain is in lab/corpus/runs.csv from another schedule (there its seed is 8, here 7)"},
		"s2-09-chain": {true, ""}, // recorded, not yet in the corpus
		"s2-10-chain": {false, ""},
	} {
		done, other := o.finished(scenario.Scenario{Name: name, Seed: 7}, rows)
		if done != want.done || (other == "") != (want.other == "") || !strings.HasPrefix(other, want.other) {
			t.Errorf("%s: %v, %q; want %v, %q", name, done, other, want.done, want.other)
		}
	}
}

func TestALogReadsBackAsItWasWritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run.json")
	one := 1
	log := testLog(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), scenario.Fault{Kind: scenario.Cost, For: scenario.Duration(time.Minute), Component: "count", Instance: &one, Factor: 2}, nil)
	log.Scenario.Incidents = []scenario.Incident{{Name: "01-x", Faults: []scenario.Fault{log.Incidents[0].Faults[0].Fault}}}
	if err := log.write(path); err != nil {
		t.Fatal(err)
	}
	back, err := readLog(path)
	if err != nil {
		t.Fatal(err)
	}
	f := back.Incidents[0].Faults[0].Fault
	if back.Scenario.Name != "words-1" || *f.Instance != 1 || f.For != scenario.Duration(time.Minute) || *back.Scenario.Incidents[0].Faults[0].Instance != 1 || back.Shape.Components["count"].Parallelism != 2 {
		t.Errorf("it reads back as %+v", back)
	}
}

func TestARunThatMustBeAloneWaitsForTheOthersAndTheyForIt(t *testing.T) {
	q := &queue{}
	q.cond = sync.NewCond(&q.mu)
	for _, name := range []string{"a", "b", "burn!", "c", "d"} {
		q.waiting = append(q.waiting, task{s: scenario.Scenario{Name: name, Alone: strings.HasSuffix(name, "!")}, attempt: 1})
	}
	var mu sync.Mutex
	running, order, failed := map[string]bool{}, []string{}, false
	var wait sync.WaitGroup
	for range 3 {
		wait.Go(func() {
			for {
				x, ok := q.next()
				if !ok {
					return
				}
				mu.Lock()
				running[x.s.Name] = true
				order = append(order, x.s.Name)
				if running["burn!"] && len(running) > 1 {
					t.Errorf("it runs beside others: %v", running)
				}
				again := x.s.Name == "b" && !failed
				failed = failed || again
				mu.Unlock()
				mu.Lock()
				delete(running, x.s.Name)
				mu.Unlock()
				q.done(x, again, nil)
			}
		})
	}
	wait.Wait()
	if len(order) != 6 || slices.Index(order, "burn!") < 2 {
		t.Errorf("the order was %v: five runs, b twice", order)
	}
}

func TestOnlyWhatEndsSoonGoesBeforeARunThatMustBeAlone(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	run := func(name string, healthy time.Duration, alone bool) task {
		return task{s: scenario.Scenario{Name: name, Healthy: scenario.Duration(healthy), Alone: alone}}
	}
	// A run without incidents takes 20 s and its healthy time.
	q := &queue{waiting: []task{run("burn", time.Minute, true), run("long", 10*time.Minute, false), run("short", 4*time.Minute, false)}}
	if i := q.choose(now); i != 0 {
		t.Errorf("on a free machine: %d, want the one that must be alone", i)
	}
	other := run("other", 0, false)
	other.ends = now.Add(4 * time.Minute)
	q.running = []task{other}
	// 4:20 is within a minute of the end of the other one, 10:20 is not.
	if i := q.choose(now); i != 2 {
		t.Errorf("beside one that ends in 4 min: %d, want the short one", i)
	}
	q.running[0].ends = now.Add(3 * time.Minute)
	if i := q.choose(now); i != -1 {
		t.Errorf("beside one that ends in 3 min: %d, want none", i)
	}
	q.running[0].s.Alone = true
	q.running[0].ends = now.Add(time.Hour)
	if i := q.choose(now); i != -1 {
		t.Errorf("beside one that must be alone: %d, want none", i)
	}
}
