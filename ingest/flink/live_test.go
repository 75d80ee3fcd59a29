package flink_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dhalion-go/dhalion"
	base "github.com/dhalion-go/dhalion/ingest"
	ingest "github.com/dhalion-go/dhalion/ingest/flink"
	"github.com/dhalion-go/dhalion/internal/engine/flink"
	"github.com/dhalion-go/dhalion/internal/engine/flink/flinktest"
)

// live polls a cluster over HTTP by a clock that waiting moves, and gives the
// answers and the results.
func live(t *testing.T, c *clock, cluster http.Handler, every time.Duration, polls int, between func(k int)) (answers [][]flink.Answer, results []ingest.Result) {
	t.Helper()
	server := httptest.NewServer(cluster)
	defer server.Close()
	client, err := flink.NewClient(server.URL, flink.Options{Now: c.now})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	poller := flink.NewPoller(client, flink.PollOptions{Every: every, Now: c.now, Wait: c.wait})
	assembler := ingest.NewAssembler(ingest.Options{Engine: "flink"})
	for k := range polls {
		between(k)
		all, err := poller.Poll(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		result, err := assembler.Poll(all)
		if err != nil {
			t.Fatal(err)
		}
		answers, results = append(answers, all), append(results, result)
	}
	return answers, results
}

func value(r ingest.Result, target dhalion.Target, m dhalion.Metric) float64 {
	for _, x := range r.Measurements {
		if x.Target == target && x.Metric == m {
			return x.Value
		}
	}
	return math.NaN()
}

// TestWhatTheCacheRepeatsIsNoNews polls twice as often as Flink renews its
// metrics: every second poll is answered with what the one before was. What is
// measured is exact, or not given; it is never 0 and then twice the truth.
func TestWhatTheCacheRepeatsIsNoNews(t *testing.T) {
	c := &clock{at: noon}
	cluster := flinktest.New(c.now, 2)
	cluster.Refresh, cluster.Fetch = 10*time.Second, 100*time.Millisecond
	run := cluster.Start("job", orders...)
	job := dhalion.NewJobID("flink", "job")
	_, results := live(t, c, cluster, 5*time.Second, 41, func(int) {})
	rates := func(vertex string) flinktest.Rates { return flinktest.RatesOf(run, flinktest.ID("job", vertex), 0) }
	enrich, source := dhalion.InstanceTarget(job, "enrich", 0), dhalion.InstanceTarget(job, "Source: orders", 0)
	in, out, queue := rates("enrich"), rates("Source: orders"), flinktest.Queue(run, flinktest.ID("job", "enrich"), 0)
	for _, x := range []struct {
		target dhalion.Target
		metric dhalion.Metric
		want   float64
		least  int // of the 40 polls that can have it
	}{
		{enrich, dhalion.RecordsIn, float64(in.In), 19},
		{enrich, dhalion.Busy, float64(in.Busy) / 1e3, 19},
		{enrich, dhalion.InputQueueBuffers, float64(queue), 20},
		{source, dhalion.RecordsOut, float64(out.Out), 19},
		{source, dhalion.OfferedRecords, float64(out.Out + out.Pending), 18},
		{dhalion.WorkerTarget(job, "tm-2"), dhalion.GC, .003, 18},
	} {
		given := 0
		for k, r := range results {
			got := value(r, x.target, x.metric)
			if math.IsNaN(got) {
				continue
			}
			given++
			// Counters are whole numbers: over 10 s a rate is .1 off, at most.
			if math.Abs(got-x.want) > .11 {
				t.Errorf("poll %d: %s of %s is %v, want %v", k, x.metric, x.target, got, x.want)
			}
		}
		if given < x.least || given > 22 {
			t.Errorf("%s of %s is given %d times, want at least %d", x.metric, x.target, given, x.least)
		}
	}
}

// withoutClock is a cluster in which a vertex has no busy time, as one made of a
// SourceFunction in Flink 1.18 to 1.20; metrics may change more.
func withoutClock(cluster http.Handler, vertex string, metrics func(i int, m map[string]any)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasSuffix(r.URL.Path, "/vertices/"+vertex) {
			cluster.ServeHTTP(w, r)
			return
		}
		answer := httptest.NewRecorder()
		cluster.ServeHTTP(answer, r)
		var body map[string]any
		if err := json.Unmarshal(answer.Body.Bytes(), &body); err != nil {
			panic(err)
		}
		for i, s := range body["subtasks"].([]any) {
			m := s.(map[string]any)["metrics"].(map[string]any)
			m["accumulated-busy-time"], m["accumulated-idle-time"] = "NaN", 0
			metrics(i, m)
		}
		if err := json.NewEncoder(w).Encode(body); err != nil {
			panic(err)
		}
	})
}

// TestWhatTheCacheRepeatsOfASourceWithoutAClockIsNoNews, either: the clocks of the others
// tell that it was repeated. Where they moved a source that stands still reads nothing.
func TestWhatTheCacheRepeatsOfASourceWithoutAClockIsNoNews(t *testing.T) {
	c := &clock{at: noon}
	cluster := flinktest.New(c.now, 2)
	cluster.Refresh, cluster.Fetch = 10*time.Second, 100*time.Millisecond
	run := cluster.Start("job", orders...)
	vertex := flinktest.ID("job", "Source: orders")
	written := map[int]any{} // of a source that stands still
	stands := false
	server := withoutClock(cluster, vertex, func(i int, m map[string]any) {
		if stands {
			m["write-records"], m["accumulated-backpressured-time"] = written[i], 0
		}
		written[i] = m["write-records"]
	})
	_, results := live(t, c, server, 5*time.Second, 61, func(k int) { stands = k > 40 })
	rates := flinktest.RatesOf(run, vertex, 0)
	source := dhalion.InstanceTarget(dhalion.NewJobID("flink", "job"), "Source: orders", 0)
	for _, x := range []struct {
		metric   dhalion.Metric
		from, to int // polls
		want     float64
	}{
		{dhalion.RecordsOut, 0, 41, float64(rates.Out)},
		{dhalion.OfferedRecords, 0, 41, float64(rates.Out + rates.Pending)},
		{dhalion.RecordsOut, 43, 61, 0},
		{dhalion.OfferedRecords, 43, 61, float64(rates.Pending)},
	} {
		given := 0
		for k, r := range results[x.from:x.to] {
			got := value(r, source, x.metric)
			if math.IsNaN(got) {
				continue
			}
			given++
			// By the answers' clock: the cache was read some milliseconds more or less before.
			if math.Abs(got-x.want) > .11+.01*x.want {
				t.Errorf("poll %d: %s is %v, want %v", x.from+k, x.metric, got, x.want)
			}
		}
		if polls := x.to - x.from; given < polls/2-2 || given > polls/2+2 {
			t.Errorf("%s is given %d times in %d polls", x.metric, given, polls)
		}
	}
}

// TestAChainedSourcesLagIsAskedForWithWhatItHasReadOrNotAtAll: how many it reads is in
// other units than how many it puts out, and the lag without the counter would be added
// to the latter.
func TestAChainedSourcesLagIsAskedForWithWhatItHasReadOrNotAtAll(t *testing.T) {
	for _, x := range []struct {
		parallelism int
		name        string
		asked       bool
	}{
		// Of a subtask "57.Source__orders.pendingRecords," and "57.Source__orders.numRecordsOut,"
		// are 65 bytes: 58 take 3,770, more than a request holds and less than the two that
		// 58 subtasks of a source may have; 120 take 8,040 of three.
		{8, "Source: orders", true},
		{58, "Source: orders", true},
		{64, "Source: orders", true},
		{120, "Source: orders", true},
		// 300 bytes a subtask would take six requests, and there are three.
		{64, "Source: " + strings.Repeat("o", 130), false},
	} {
		c := &clock{at: noon}
		cluster := flinktest.New(c.now, 2)
		vertex := x.name + " -> split"
		run := cluster.Start("job", flinktest.Vertex{Name: vertex, Parallelism: x.parallelism}, flinktest.Vertex{Name: "sink", Parallelism: 2, From: []string{vertex}})
		job := dhalion.NewJobID("flink", "job")
		_, results := live(t, c, cluster, 10*time.Second, 5, func(int) {})
		given := 0
		for i := range x.parallelism {
			source, rates := dhalion.InstanceTarget(job, vertex, i), flinktest.RatesOf(run, flinktest.ID("job", vertex), i)
			lines := float64(rates.Out) / flinktest.PerLine
			for k, r := range results {
				offered, in, lag := value(r, source, dhalion.OfferedRecords), value(r, source, dhalion.RecordsIn), value(r, source, dhalion.Lag)
				if !math.IsNaN(offered) {
					given++
				}
				// Lines are whole numbers: over 10 s .1 a second off, which makes half a percent of
				// the 20 and more that are read a second.
				if most := 1 + .005*flinktest.PerLine*float64(rates.Pending); math.Abs(offered-float64(rates.Out+flinktest.PerLine*rates.Pending)) > most {
					t.Errorf("%d of %.20s…, subtask %d, poll %d: offered %v, want %d + %d × %d", x.parallelism, x.name, i, k, offered, rates.Out, flinktest.PerLine, rates.Pending)
				}
				if math.Abs(in-lines) > .11 {
					t.Errorf("%d of %.20s…, subtask %d, poll %d: reads %v a second, want %v", x.parallelism, x.name, i, k, in, lines)
				}
				if math.IsNaN(in) && k > 2 && !math.IsNaN(lag) {
					t.Errorf("%d of %.20s…, subtask %d, poll %d: a lag of %v beside no counter", x.parallelism, x.name, i, k, lag)
				}
			}
		}
		want := 0
		if x.asked {
			want = 3 * x.parallelism // the first poll learns the names, the second has nothing to compare with
		}
		if given != want {
			t.Errorf("%d of %.20s…: what is offered is known %d times, want %d", x.parallelism, x.name, given, want)
		}
	}
}

// TestTwinsHaveTheirNamesWhicheverIsAnsweredAbout: two runs of one name are told
// apart from the first poll that lists them both.
func TestTwinsHaveTheirNamesWhicheverIsAnsweredAbout(t *testing.T) {
	c := &clock{at: noon}
	cluster := flinktest.New(c.now, 2)
	one, two := cluster.Start("job", orders...), cluster.Start("job", orders...)
	k := 0
	spoiled := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if k < 3 && strings.HasPrefix(r.URL.Path, "/jobs/"+one) {
			http.NotFound(w, r)
			return
		}
		cluster.ServeHTTP(w, r)
	})
	_, results := live(t, c, spoiled, 5*time.Second, 6, func(now int) { k = now })
	for k, r := range results {
		var jobs []string
		for _, m := range r.Measurements {
			jobs = append(jobs, string(m.Target.Job))
		}
		slices.Sort(jobs)
		want := []string{"flink/job [" + two[:8] + "]"}
		if k >= 3 {
			want = append(want, "flink/job ["+one[:8]+"]")
		}
		slices.Sort(want)
		if got := slices.Compact(jobs); !slices.Equal(got, want) {
			t.Errorf("poll %d: jobs %q, want %q", k, got, want)
		}
	}
}

// TestWhoIsLeftOfTwoOfOneNameHasItAgain: a new version runs beside the old one for two
// polls, and takes its place. Ten minutes after they were last seen together it has the
// name, and only then: of two that go on together one may be started anew.
func TestWhoIsLeftOfTwoOfOneNameHasItAgain(t *testing.T) {
	c := &clock{at: noon}
	cluster := flinktest.New(c.now, 2)
	blue := cluster.Start("job", orders...)
	var green, third string
	answers, results := live(t, c, cluster, 30*time.Second, 60, func(k int) {
		switch k {
		case 4:
			green = cluster.Start("job", orders...)
		case 6: // they were last seen together at poll 5
			cluster.SetState(blue, "CANCELED")
		case 30: // the name is back since poll 25
			third = cluster.Start("job", orders...)
		case 35:
			cluster.SetState(third, "CANCELED")
		case 50: // 8 minutes after poll 34
			third = cluster.Start("job", orders...)
		}
	})
	again := ingest.NewAssembler(ingest.Options{Engine: "flink"})
	for k, r := range results {
		plain := k < 4 || k >= 25 && k < 30
		jobs := map[dhalion.JobID]bool{}
		for _, m := range r.Measurements {
			jobs[m.Target.Job] = true
		}
		if jobs["flink/job"] != plain || jobs[dhalion.JobID("flink/job ["+green[:8]+"]")] == plain {
			t.Errorf("poll %d: jobs %v", k, jobs)
		}
		if seen := r.Topologies; k == 25 && (len(seen) != 1 || seen[0].Job != "flink/job" || seen[0].Topology.Run != green || seen[0].Topology.By != dhalion.ChangeOperator) {
			t.Errorf("poll %d: %+v", k, seen)
		}
		// A recording is read in the same way.
		var file bytes.Buffer
		for _, a := range answers[k] {
			if err := flink.WriteAnswer(&file, a); err != nil {
				t.Fatal(err)
			}
		}
		var read []flink.Answer
		for in := flink.NewReader(&file); ; {
			a, err := in.Next()
			if err != nil {
				break
			}
			read = append(read, a)
		}
		if recorded, err := again.Poll(read); err != nil || !reflect.DeepEqual(r, recorded) {
			t.Fatalf("poll %d: live and recorded differ, %v", k, err)
		}
	}
}

// TestARunThatIsCancelledBesideANewOneIsNoTwin: the newest that runs is the job.
func TestARunThatIsCancelledBesideANewOneIsNoTwin(t *testing.T) {
	c := &clock{at: noon}
	cluster := flinktest.New(c.now, 2)
	old := cluster.Start("job", orders...)
	_, results := live(t, c, cluster, 5*time.Second, 6, func(k int) {
		switch k {
		case 2:
			cluster.SetState(old, "CANCELLING")
			cluster.Start("job", orders...)
		case 3:
			cluster.SetState(old, "CANCELED")
		}
	})
	target := dhalion.JobTarget(dhalion.NewJobID("flink", "job"))
	for k, r := range results {
		if got := value(r, target, dhalion.Restarts); got != 0 {
			t.Errorf("poll %d: %v restarts", k, got)
		}
		if got := value(r, target, dhalion.Running); got != 1 {
			t.Errorf("poll %d: %v of it runs", k, got)
		}
		for _, m := range r.Measurements {
			if m.Target.Job != target.Job {
				t.Fatalf("poll %d: %s", k, m.Target)
			}
		}
	}
}

// TestARunThatSomebodyCancelsIsNotDown: for three minutes after it Flink lists the run,
// none of whose tasks runs. A job of which running_fraction is 0 for two is failing.
func TestARunThatSomebodyCancelsIsNotDown(t *testing.T) {
	unknown := math.NaN()
	for _, x := range []struct {
		state string
		want  float64 // of it runs
		out   float64 // outages in the end
	}{
		{"CANCELLING", unknown, 0}, {"CANCELED", unknown, 0}, {"FINISHED", unknown, 0},
		{"FAILED", 0, 1}, {"SUSPENDED", 0, 0}, {"RESTARTING", 0, 0}, // whose outage counts from the start that follows
	} {
		c := &clock{at: noon}
		cluster := flinktest.New(c.now, 2)
		run := cluster.Start("job", orders...)
		_, results := live(t, c, cluster, 10*time.Second, 38, func(k int) {
			if k == 20 {
				cluster.SetState(run, x.state)
			}
		})
		job, outages := dhalion.NewJobID("flink", "job"), unknown
		for k, r := range results {
			want := 1.0
			if k >= 20 {
				want = x.want
			}
			if got := value(r, dhalion.JobTarget(job), dhalion.Running); got != want && (got == got || want == want) {
				t.Errorf("%s: poll %d: %v of it runs, want %v", x.state, k, got, want)
			}
			if got := value(r, dhalion.ComponentTarget(job, "enrich"), dhalion.Running); got == got && got != want {
				t.Errorf("%s: poll %d: %v of enrich runs, want %v", x.state, k, got, want)
			}
			if n := value(r, dhalion.JobTarget(job), dhalion.Restarts); n == n {
				outages = n
			}
		}
		if outages != x.out {
			t.Errorf("%s: %v outages, want %v", x.state, outages, x.out)
		}
	}
}

// TestAJobThatHasEndedHasNoWorkers, though those that it was on go on working for another.
func TestAJobThatHasEndedHasNoWorkers(t *testing.T) {
	for _, state := range []string{"FINISHED", "CANCELED", "FAILED", ""} {
		c := &clock{at: noon}
		cluster := flinktest.New(c.now, 2)
		night := cluster.Start("nightly", orders...)
		cluster.Start("always", orders...)
		_, results := live(t, c, cluster, 10*time.Second, 8, func(k int) {
			switch {
			case k == 3 && state != "":
				cluster.SetState(night, state)
			case k == 3 || k == 6:
				cluster.Forget(night)
			}
		})
		for k, r := range results {
			for job, want := range map[dhalion.JobID]float64{"flink/nightly": math.NaN(), "flink/always": .125} {
				if k < 3 {
					want = .125
				}
				if got := value(r, dhalion.WorkerTarget(job, "tm-1"), dhalion.CPU); got != want && (got == got || want == want) {
					t.Errorf("%q: poll %d: CPU of tm-1 for %s is %v, want %v", state, k, job, got, want)
				}
			}
		}
	}
}

// TestWhereTheIntervalWasAskedForItIsNotGuessed: an answer that did not come is
// no reason for an estimate from the history of checkpoints.
func TestWhereTheIntervalWasAskedForItIsNotGuessed(t *testing.T) {
	c := &clock{at: noon}
	cluster := flinktest.New(c.now, 2)
	cluster.Start("job", orders...)
	target := dhalion.JobTarget(dhalion.NewJobID("flink", "job"))
	spoiled := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/checkpoints/config") {
			http.NotFound(w, r)
			return
		}
		cluster.ServeHTTP(w, r)
	})
	for _, x := range []struct {
		server http.Handler
		want   int
	}{{spoiled, 0}, {cluster, 2}} {
		_, results := live(t, c, x.server, 10*time.Second, 5, func(int) {})
		given, counted := 0, 0
		for _, r := range results {
			if !math.IsNaN(value(r, target, dhalion.CheckpointInterval)) {
				given++
			}
			if !math.IsNaN(value(r, target, dhalion.CheckpointsCompleted)) {
				counted++
			}
		}
		if counted < 2 || given != min(counted, x.want) {
			t.Errorf("the interval is given %d times, want %d; checkpoints are counted %d times", given, x.want, counted)
		}
	}
}

// TestARecordingThatWasCutOffIsReadUpToThere, where that is allowed.
func TestARecordingThatWasCutOffIsReadUpToThere(t *testing.T) {
	c := &clock{at: noon}
	cluster := flinktest.New(c.now, 2)
	cluster.Start("job", orders...)
	answers, _ := live(t, c, cluster, 5*time.Second, 4, func(int) {})
	var file bytes.Buffer
	lines := 0
	for _, poll := range answers {
		z := gzip.NewWriter(&file)
		for _, a := range poll {
			if err := flink.WriteAnswer(z, a); err != nil {
				t.Fatal(err)
			}
			lines++
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
	}
	read := func(cut, skip int) (base.Report, error) {
		z, err := gzip.NewReader(bytes.NewReader(file.Bytes()[:file.Len()-cut]))
		if err != nil {
			t.Fatal(err)
		}
		out := base.Out{
			Segment:  func(context.Context, dhalion.Segment) error { return nil },
			Topology: func(context.Context, dhalion.JobID, dhalion.Topology) error { return nil },
		}
		return base.Collect(context.Background(), out, base.Options{}, ingest.NewRecording("x.gz", z, ingest.Options{SkipBad: skip}))
	}
	whole, err := read(0, 0)
	if err != nil || whole.Values == 0 {
		t.Fatalf("%+v, %v", whole, err)
	}
	var row base.RowError
	if _, err := read(20, 0); !errors.As(err, &row) || !strings.Contains(err.Error(), "the file was cut off here") || row.Line < lines/2 {
		t.Errorf("without --skip-bad: %v", err)
	}
	part, err := read(20, 2) // the cut, and the line that it cut
	if err != nil || part.Values == 0 || part.Values >= whole.Values || len(part.Skipped) == 0 {
		t.Errorf("with --skip-bad: %d of %d values, %v, %v", part.Values, whole.Values, part.Skipped, err)
	}
}

// BenchmarkLivePollOf500Subtasks is a poll with what is made of it.
func BenchmarkLivePollOf500Subtasks(b *testing.B) {
	c := &clock{at: noon}
	cluster := flinktest.New(c.now, 50)
	vertices := []flinktest.Vertex{{Name: "Source: a", Parallelism: 50}}
	for i, n := range []int{100, 150, 120, 80} {
		vertices = append(vertices, flinktest.Vertex{Name: fmt.Sprint("stage ", i), Parallelism: n, From: []string{vertices[i].Name}})
	}
	cluster.Start("wide", vertices...)
	server := httptest.NewServer(cluster)
	defer server.Close()
	client, err := flink.NewClient(server.URL, flink.Options{Now: c.now})
	if err != nil {
		b.Fatal(err)
	}
	defer client.Close()
	poller := flink.NewPoller(client, flink.PollOptions{Every: 10 * time.Second, Now: c.now, Wait: c.wait})
	assembler := ingest.NewAssembler(ingest.Options{})
	values := 0
	for b.Loop() {
		answers, err := poller.Poll(context.Background())
		if err != nil {
			b.Fatal(err)
		}
		result, err := assembler.Poll(answers)
		if err != nil {
			b.Fatal(err)
		}
		values = len(result.Measurements)
	}
	b.ReportMetric(float64(poller.Requests()), "requests/poll")
	b.ReportMetric(float64(values), "values/poll")
}
