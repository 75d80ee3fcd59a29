package prometheus

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/ingest"
	"github.com/dhalion-go/dhalion/ingest/segment"
	"github.com/dhalion-go/dhalion/internal/engine/prometheus"
	"github.com/dhalion-go/dhalion/internal/engine/prometheus/promtest"
)

const wordcount = dhalion.JobID("prometheus/word_count")

// noon begins the history: 270 scrapes, 10 s apart, 44 min 50 s.
var noon = time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)

const (
	scrapes = 270
	every   = 10 // seconds
)

// text writes OpenMetrics: all samples of a family one after the other.
type text struct{ bytes.Buffer }

func (x *text) family(name string) { fmt.Fprintf(x, "# TYPE %s gauge\n", name) }

func (x *text) sample(name, labels string, k int, v float64) {
	fmt.Fprintf(x, "%s{%s} %v %d\n", name, labels, v, noon.Unix()+int64(k)*every)
}

type subtask struct {
	task   string
	index  int
	worker string
}

var subtasks = []subtask{
	{"Source:_lines", 0, "tm_1"}, {"Source:_lines", 1, "tm_2"},
	{"counter", 0, "tm_1"}, {"counter", 1, "tm_2"}, {"counter", 2, "tm_2"},
}

func (s subtask) labels() string {
	return fmt.Sprintf(`host="h",job="flink",instance="%s:9249",job_id="j1",job_name="word_count",task_id="%s_id",task_name="%s",subtask_index="%d",tm_id="%s",task_attempt_id="a1",task_attempt_num="0"`,
		s.worker, strings.ToLower(s.task), s.task, s.index, s.worker)
}

// flinkHistory is what Flink's reporter would have given: rates are constant, so
// that PromQL's rate and deriv are exact.
func flinkHistory() []byte {
	var x text
	per := func(name string, value func(s subtask, k int) (float64, bool)) {
		x.family(name)
		for _, s := range subtasks {
			for k := range scrapes {
				if v, ok := value(s, k); ok {
					x.sample(name, s.labels(), k, v)
				}
			}
		}
	}
	source := func(s subtask) bool { return strings.HasPrefix(s.task, "Source") }
	per("flink_taskmanager_job_task_numRecordsIn", func(s subtask, k int) (float64, bool) {
		if source(s) {
			return 0, true // a source counts no input
		}
		return float64(5000 + k*every*100*(s.index+1)), true
	})
	per("flink_taskmanager_job_task_numRecordsOut", func(s subtask, k int) (float64, bool) {
		if !source(s) {
			return 0, true // a sink counts no output
		}
		return float64(7000 + k*every*300), true
	})
	per("flink_taskmanager_job_task_busyTimeMsPerSecond", func(s subtask, k int) (float64, bool) {
		switch {
		case source(s):
			return math.NaN(), true
		case s.index == 2 && k == 100:
			return math.Inf(1), true
		}
		return float64(100*s.index + k%7), true
	})
	per("flink_taskmanager_job_task_backPressuredTimeMsPerSecond", func(s subtask, k int) (float64, bool) { return 250, source(s) })
	per("flink_taskmanager_job_task_idleTimeMsPerSecond", func(s subtask, k int) (float64, bool) { return 750, source(s) })
	per("flink_taskmanager_job_task_Shuffle_Netty_Input_Buffers_inputQueueLength", func(s subtask, k int) (float64, bool) { return float64(s.index), s.index < 2 })
	per("flink_taskmanager_job_task_buffers_inputQueueLength", func(s subtask, k int) (float64, bool) { return 9, s.index == 2 })
	per("flink_taskmanager_job_task_Shuffle_Netty_Output_Buffers_outPoolUsage", func(s subtask, k int) (float64, bool) { return 1.25, true })
	x.family("flink_taskmanager_job_task_operator_pendingRecords")
	for _, s := range subtasks[:2] {
		for _, operator := range []string{"one", "two"} {
			for k := range scrapes {
				x.sample("flink_taskmanager_job_task_operator_pendingRecords", s.labels()+fmt.Sprintf(`,operator_id="%[1]s",operator_name="%[1]s"`, operator), k, float64(k*every*5))
			}
		}
	}
	for _, w := range []struct {
		name  string
		value float64
	}{
		{"flink_taskmanager_Status_JVM_CPU_Load", .25}, {"flink_taskmanager_Status_JVM_Memory_Heap_Used", 1000},
		{"flink_taskmanager_Status_JVM_Memory_Heap_Max", -1}, {"flink_taskmanager_Status_JVM_GarbageCollector_All_TimeMsPerSecond", 40},
	} {
		x.family(w.name)
		for _, tm := range []string{"tm_1", "tm_2", "tm_idle"} {
			for k := range scrapes {
				x.sample(w.name, fmt.Sprintf(`host="h",instance="%[1]s:9249",job="flink",tm_id="%[1]s"`, tm), k, w.value)
			}
		}
	}
	for _, j := range []struct {
		name  string
		value float64
	}{
		{"flink_jobmanager_job_lastCheckpointDuration", 1500}, {"flink_jobmanager_job_numberOfCompletedCheckpoints", 12},
		{"flink_jobmanager_job_numberOfFailedCheckpoints", 0}, {"flink_jobmanager_job_numRestarts", 3},
	} {
		x.family(j.name)
		for k := range scrapes {
			x.sample(j.name, `host="h",instance="jm:9249",job="flink",job_id="j1",job_name="word_count"`, k, j.value)
		}
	}
	x.WriteString("# EOF\n")
	return x.Bytes()
}

// kept is what an ingest gives out.
type kept struct {
	rows       map[key]float64
	workers    map[dhalion.Target]string
	topologies []dhalion.Topology
	report     ingest.Report
}

type key struct {
	target dhalion.Target
	metric dhalion.Metric
	at     int64 // s
}

func gather(t testing.TB, sources ...ingest.Source) kept {
	t.Helper()
	k, err := tryGather(context.Background(), sources...)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func tryGather(ctx context.Context, sources ...ingest.Source) (kept, error) {
	k := kept{rows: map[key]float64{}, workers: map[dhalion.Target]string{}}
	rep, err := ingest.Collect(ctx, ingest.Out{
		Segment: func(_ context.Context, s dhalion.Segment) error {
			table, err := segment.Decode(s)
			if err != nil {
				return err
			}
			for _, span := range table.Spans() {
				for row := span.Start; row < span.End; row++ {
					for _, m := range table.Metrics() {
						if v := table.Values(m)[row]; v == v {
							k.rows[key{span.Target, m, table.Times()[row] / 1e6}] = v
						}
					}
					if w := table.Worker(row); w != "" {
						k.workers[span.Target] = w
					}
				}
			}
			return nil
		},
		Topology: func(_ context.Context, _ dhalion.JobID, topology dhalion.Topology) error {
			k.topologies = append(k.topologies, topology)
			return nil
		},
	}, ingest.Options{}, sources...)
	k.report = rep
	return k, err
}

func reader(t testing.TB, from Asker, mapping string, o Options) *Reader {
	t.Helper()
	data := []byte(mapping)
	if bundled, ok := Bundled(mapping); ok {
		data = bundled
	}
	m, err := ReadMapping("mapping.yaml", bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	if o.Engine == "" {
		o.Engine = "prometheus"
	}
	r, err := NewReader(from, m, o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func client(t testing.TB, url string) *prometheus.Client {
	t.Helper()
	c, err := prometheus.NewClient(prometheus.Options{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestFlinksMetricsComeOutOfARealPrometheusExactly(t *testing.T) {
	url := promtest.Start(t, flinkHistory())
	r := reader(t, client(t, url), "flink", Options{Step: every * time.Second})
	// From 2 min on every window of 60 s is full. 250 times: 2 min to 43 min 30 s.
	from, to := noon.Add(2*time.Minute), noon.Add(2*time.Minute+249*every*time.Second)
	got := gather(t, r.Range(from, to))

	instance := func(name string, i int) dhalion.Target { return dhalion.InstanceTarget(wordcount, name, i) }
	want := map[key]float64{}
	for k := range 250 {
		at := from.Unix() + int64(k)*every
		scrape := k + 12
		set := func(x dhalion.Target, m dhalion.Metric, v float64) { want[key{x, m, at}] = v }
		for i := range 3 {
			set(instance("counter", i), dhalion.RecordsIn, 100*float64(i+1))
			set(instance("counter", i), dhalion.InputQueueBuffers, []float64{0, 1, 9}[i])
			if i != 2 || scrape != 100 { // +Inf
				set(instance("counter", i), dhalion.Busy, float64(100*i+scrape%7)/1000)
			}
		}
		for i := range 2 {
			x := instance("Source:_lines", i)
			set(x, dhalion.RecordsOut, 300)
			set(x, dhalion.Backpressured, .25)
			set(x, dhalion.Idle, .75)
			set(x, dhalion.OutputQueueFraction, 1)         // 1.25, overdraft
			set(x, dhalion.Lag, float64(2*scrape*every*5)) // two operators
			set(x, dhalion.OfferedRecords, 310)            // 300 read, and 2 × 5 more unread
		}
		for _, tm := range []string{"tm_1", "tm_2"} { // tm_idle has no instance
			x := dhalion.WorkerTarget(wordcount, tm)
			set(x, dhalion.CPU, .25)
			set(x, dhalion.HeapUsed, 1000)
			set(x, dhalion.GC, .04)
		}
		x := dhalion.JobTarget(wordcount)
		set(x, dhalion.CheckpointSeconds, 1.5)
		set(x, dhalion.CheckpointsCompleted, 12)
		set(x, dhalion.CheckpointFailures, 0)
		set(x, dhalion.Restarts, 3)
	}
	compare(t, got.rows, want)
	// A source's busy time is NaN: 2 × 250. Heap.Max is -1, and filtered out.
	for kind, n := range map[string]int{ingest.MissingValue: 500, InfiniteValue: 1, ImpossibleValue: 0, EmptyQuery: 3, UnusableSeries: 0, ingest.Conflict: 0, ingest.Duplicate: 0} {
		if got.report.Repairs[kind] != n {
			t.Errorf("%s: %d, not %d", kind, got.report.Repairs[kind], n)
		}
	}
	// With its job named an idle TaskManager is not taken for the job's either.
	compare(t, gather(t, reader(t, client(t, url), "flink", Options{Step: every * time.Second, Job: "word_count"}).Range(from, to)).rows, want)
	if w := got.workers[instance("counter", 2)]; w != "tm_2" {
		t.Errorf("counter[2] ran on %q, not tm_2", w)
	}
	if len(got.topologies) != 1 || !got.topologies[0].From.Equal(from) || got.topologies[0].By != dhalion.ChangeFirst ||
		!slices.Equal(got.topologies[0].Components, []dhalion.Component{{Name: "Source:_lines", Parallelism: 2}, {Name: "counter", Parallelism: 3}}) {
		t.Errorf("topologies %+v", got.topologies)
	}
	r.Stored()
	if again := gather(t, r.Range(from, to)); len(again.topologies) != 0 {
		t.Errorf("the same topology is told again: %+v", again.topologies)
	} else {
		compare(t, again.rows, want)
	}

	// In steps of 1 s there are 2,400 times, more than one piece's, and between
	// scrapes the last value holds: 10 times each.
	fine := gather(t, reader(t, client(t, url), `
name: fine
labels: {job: job_name, component: task_name, instance: subtask_index}
queries: [{metric: lag_records, target: instance, query: 'sum without (operator_id, operator_name) (flink_taskmanager_job_task_operator_pendingRecords)'}]
`, Options{Step: time.Second}).Range(noon, noon.Add(2399*time.Second)))
	want = map[key]float64{}
	for second := range 2400 {
		for i := range 2 {
			want[key{instance("Source:_lines", i), dhalion.Lag, noon.Unix() + int64(second)}] = float64(2 * (second / every) * every * 5)
		}
	}
	compare(t, fine.rows, want)

	t.Run("what it refuses is told in its own words", func(t *testing.T) {
		_, err := tryGather(context.Background(), reader(t, client(t, url), "name: x\nlabels: {job: j}\nqueries:\n  - {metric: restarts_total, target: job, query: 'rate(x)'}\n", Options{Step: time.Second}).Range(noon, noon))
		if err == nil || !strings.Contains(err.Error(), "mapping.yaml:4: restarts_total") || !strings.Contains(err.Error(), "bad_data") || !strings.Contains(err.Error(), "expected type range vector") {
			t.Errorf("error %v", err)
		}
	})
	t.Run("more samples than it holds are asked for in smaller pieces", func(t *testing.T) {
		url := promtest.Start(t, flinkHistory(), "--query.max-samples=400")
		small := gather(t, reader(t, client(t, url), "name: x\nlabels: {job: job_name}\nqueries: [{metric: restarts_total, target: job, query: flink_jobmanager_job_numRestarts}]", Options{Step: every * time.Second}).Range(noon, noon.Add(269*every*time.Second)))
		if len(small.rows) != scrapes {
			t.Errorf("%d values, not %d", len(small.rows), scrapes)
		}
	})
}

// compare wants equal times and values equal to 1e-9 of themselves.
func compare(t *testing.T, got, want map[key]float64) {
	t.Helper()
	wrong := 0
	tell := func(format string, args ...any) {
		if wrong++; wrong <= 10 {
			t.Errorf(format, args...)
		}
	}
	for k, v := range want {
		if g, ok := got[k]; !ok {
			tell("%s of %s at %d: unknown, not %v", k.metric, k.target, k.at, v)
		} else if math.Abs(g-v) > 1e-9*math.Max(1, math.Abs(v)) {
			tell("%s of %s at %d: %v, not %v", k.metric, k.target, k.at, g, v)
		}
	}
	for k, v := range got {
		if _, ok := want[k]; !ok {
			tell("%s of %s at %d: %v, and nothing should be there", k.metric, k.target, k.at, v)
		}
	}
	if wrong > 10 {
		t.Errorf("and %d more", wrong-10)
	}
}
