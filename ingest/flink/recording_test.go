package flink

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/ingest"
	"github.com/dhalion-go/dhalion/internal/engine/flink"
)

const wordcount = dhalion.JobID("file/wordcount")

var recordings = []string{"slow_instance", "rescale", "worker_lost", "failing"}

func unpacked(t testing.TB, name string) []byte {
	t.Helper()
	f, err := os.Open(filepath.Join("testdata", name+".jsonl.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// assemble gives the results of all polls of a recording.
func assemble(t testing.TB, opts Options, data []byte) []Result {
	t.Helper()
	in, a := flink.NewReader(bytes.NewReader(data)), NewAssembler(opts)
	var all []Result
	for {
		answer, err := in.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		r, done, err := a.Answer(answer)
		if err != nil {
			t.Fatal(err)
		}
		if done {
			all = append(all, r)
		}
	}
	r, done, err := a.Flush()
	if err != nil {
		t.Fatal(err)
	}
	if done {
		all = append(all, r)
	}
	return all
}

// values gives one metric of one target, poll by poll; NaN where it is unknown.
func values(all []Result, target dhalion.Target, m dhalion.Metric) []float64 {
	var out []float64
	for _, r := range all {
		v := math.NaN()
		for _, x := range r.Measurements {
			if x.Target == target && x.Metric == m && x.Time.Equal(r.At) {
				v = x.Value
			}
		}
		out = append(out, v)
	}
	return out
}

func topologies(all []Result) []dhalion.Topology {
	var out []dhalion.Topology
	for _, r := range all {
		for _, t := range r.Topologies {
			out = append(out, t.Topology)
		}
	}
	return out
}

// changes are the topologies in which something of the job is other than in the one
// before; what they leave out tells of the engine's slots, and of nothing else.
func changes(t *testing.T, all []Result) []dhalion.Topology {
	t.Helper()
	var out []dhalion.Topology
	for _, next := range topologies(all) {
		if last := len(out) - 1; last >= 0 && out[last].Run == next.Run && out[last].Digest() == next.Digest() {
			if next.By != dhalion.ChangeEngine || len(next.Slots) == 0 {
				t.Errorf("the same again: %+v", next)
			}
			continue
		}
		out = append(out, next)
	}
	return out
}

func near(a, b float64) bool { return math.Abs(a-b) <= 1e-9*math.Max(1, math.Abs(b)) }

func same64(a, b []float64) bool {
	return slices.EqualFunc(a, b, func(x, y float64) bool { return near(x, y) || x != x && y != y })
}

func TestRatesAreDifferencesOverTheSubtasksOwnClock(t *testing.T) {
	all := assemble(t, Options{}, unpacked(t, "slow_instance"))
	if len(all) != 4 {
		t.Fatalf("%d polls, want 4", len(all))
	}
	slow := dhalion.InstanceTarget(wordcount, "counter", 3)
	source := dhalion.InstanceTarget(wordcount, "Source: source", 0)
	for _, c := range []struct {
		target dhalion.Target
		metric dhalion.Metric
		want   float64
	}{
		// Polls 08:40:02.312 and 08:40:07.310. counter[3] has read 809,888 and
		// 811,438 records. The answers are 5.029 s apart, but it was busy, and
		// nothing else, for 6.327 s between the readings that they were made of:
		// 885,447 and 891,774 ms. 308 records/s at 4.5 ms a record cannot be.
		{slow, dhalion.RecordsIn, 1550 / 6.327},
		{slow, dhalion.RecordsOut, 1550 / 6.327}, // 809,887 and 811,437
		{slow, dhalion.Busy, 1},
		{slow, dhalion.Backpressured, 0},
		{slow, dhalion.Idle, 0},
		{slow, dhalion.TrueRecordsIn, 1550 / 6.327},
		// source[0] has written 839,418 and 840,788: busy +85, backpressured +4,923,
		// idle +0 ms.
		{source, dhalion.RecordsOut, 1370 / 5.008},
		{source, dhalion.Busy, 85.0 / 5008},
		{source, dhalion.Backpressured, 4923.0 / 5008},
		{source, dhalion.TrueRecordsOut, 1370 / .085},
		{source, dhalion.Lag, 19621},
		// 18,372 records were pending, then 19,621.
		{source, dhalion.OfferedRecords, (1370 + 1249) / 5.008},
	} {
		if got := values(all, c.target, c.metric)[1]; !near(got, c.want) {
			t.Errorf("%s of %s is %v, want %v", c.metric, c.target, got, c.want)
		}
	}
	for _, r := range all {
		for _, m := range r.Measurements {
			if !m.Time.Equal(r.At) {
				t.Fatalf("%s of %s is stamped %v in the poll of %v", m.Metric, m.Target, m.Time, r.At)
			}
		}
	}
	if want := time.Date(2026, 11, 22, 8, 40, 7, 310e6, time.UTC); !all[1].At.Equal(want) {
		t.Errorf("the second poll is of %v, want %v, when its overview was answered", all[1].At, want)
	}
}

func TestWhatFlinkDoesNotMeasureIsUnknownAndNotZero(t *testing.T) {
	all := assemble(t, Options{}, unpacked(t, "slow_instance"))
	for _, c := range []struct {
		target dhalion.Target
		metric dhalion.Metric
	}{
		// A source's read-records and a sink's write-records are always 0.
		{dhalion.InstanceTarget(wordcount, "Source: source", 0), dhalion.RecordsIn},
		{dhalion.InstanceTarget(wordcount, "Source: source", 0), dhalion.TrueRecordsIn},
		{dhalion.InstanceTarget(wordcount, "Source: source", 0), dhalion.InputQueueBuffers},
		{dhalion.InstanceTarget(wordcount, "sink: Writer", 0), dhalion.RecordsOut},
		{dhalion.InstanceTarget(wordcount, "sink: Writer", 0), dhalion.OutputQueueFraction},
		{dhalion.InstanceTarget(wordcount, "counter", 0), dhalion.Lag},
		{dhalion.JobTarget(wordcount), dhalion.Latency},
	} {
		for i, v := range values(all, c.target, c.metric) {
			if v == v {
				t.Errorf("poll %d: %s of %s is %v, want unknown", i, c.metric, c.target, v)
			}
		}
	}
	for _, m := range []dhalion.Metric{dhalion.Busy, dhalion.RecordsIn, dhalion.BackpressureCaused} {
		if v := values(all, dhalion.InstanceTarget(wordcount, "counter", 0), m)[0]; v == v {
			t.Errorf("%s is %v at the first poll, with nothing to compare with", m, v)
		}
	}
}

func TestTheSharesOfAnInstancesTimeSumToOne(t *testing.T) {
	for _, name := range recordings {
		for _, r := range assemble(t, Options{}, unpacked(t, name)) {
			sums, parts := map[dhalion.Target]float64{}, map[dhalion.Target]int{}
			for _, m := range r.Measurements {
				switch m.Metric {
				case dhalion.Busy, dhalion.Backpressured, dhalion.Idle:
					sums[m.Target] += m.Value
					parts[m.Target]++
				}
			}
			for target, sum := range sums {
				if parts[target] != 3 || math.Abs(sum-1) > 1e-9 {
					t.Errorf("%s: %v: %s: %d shares sum to %v", name, r.At, target, parts[target], sum)
				}
			}
		}
	}
}

func TestWhatSplitterSendsCounterReceives(t *testing.T) {
	for _, name := range []string{"slow_instance", "failing"} {
		all := assemble(t, Options{}, unpacked(t, name))
		out, in := 0.0, 0.0
		for _, r := range all {
			for _, m := range r.Measurements {
				switch {
				case m.Metric == dhalion.RecordsOut && m.Target.Component == "splitter":
					out += m.Value
				case m.Metric == dhalion.RecordsIn && m.Target.Component == "counter":
					in += m.Value
				}
			}
		}
		// The two are asked some milliseconds apart, and about 3 polls of 5 s are
		// added: 6 % of 15 s is 0.9 s of cache.
		if math.Abs(in/out-1) > .06 || out < 1000 {
			t.Errorf("%s: splitter sends %v/s, counter receives %v/s", name, out, in)
		}
	}
}

func TestTheInstanceThatHoldsUpItsUpstreamIsSeen(t *testing.T) {
	all := assemble(t, Options{}, unpacked(t, "slow_instance"))
	whole := values(all, dhalion.ComponentTarget(wordcount, "counter"), dhalion.BackpressureCaused)[2]
	sum, upstream := 0.0, 0.0
	for i := range 8 {
		sum += values(all, dhalion.InstanceTarget(wordcount, "counter", i), dhalion.BackpressureCaused)[2]
	}
	for i := range 4 {
		upstream += values(all, dhalion.InstanceTarget(wordcount, "splitter", i), dhalion.Backpressured)[2] / 4
	}
	if !near(whole, upstream) || !near(sum, whole) || whole < .7 {
		t.Errorf("counter causes %v, its instances %v in all, splitter waits %v", whole, sum, upstream)
	}
	if slow := values(all, dhalion.InstanceTarget(wordcount, "counter", 3), dhalion.BackpressureCaused)[2]; slow < .5 {
		t.Errorf("counter[3] causes %v", slow)
	}
	for _, name := range []string{"Source: source", "splitter", "sink: Writer"} {
		if v := values(all, dhalion.ComponentTarget(wordcount, name), dhalion.BackpressureCaused)[2]; v != 0 {
			t.Errorf("%s causes %v, want 0", name, v)
		}
	}
}

func TestARescaleIsOneChangeByTheOperatorAndNoOutage(t *testing.T) {
	all := assemble(t, Options{}, unpacked(t, "rescale"))
	seen := topologies(all)
	if len(seen) != 2 {
		t.Fatalf("%d topologies, want 2: %+v", len(seen), seen)
	}
	// The PUT was answered at 09:09:00.964; the poll of 09:09:05.325 finds the
	// tasks cancelled, that of 09:09:10.278 all running.
	want := time.Date(2026, 11, 22, 9, 9, 10, 278e6, time.UTC)
	before, after := seen[0], seen[1]
	if before.By != dhalion.ChangeFirst || after.By != dhalion.ChangeOperator || !after.From.Equal(want) {
		t.Errorf("by %s, then by %s from %v on", before.By, after.By, after.From)
	}
	a, _ := before.Component("counter")
	b, _ := after.Component("counter")
	if a.Parallelism != 8 || b.Parallelism != 10 || b.MaxParallelism != 128 || len(after.Placement) != 2+4+10+3 {
		t.Errorf("counter %d, then %d of at most %d; %d places", a.Parallelism, b.Parallelism, b.MaxParallelism, len(after.Placement))
	}
	edges := []dhalion.Edge{
		{From: "Source: source", To: "splitter", Ship: "rebalance"},
		{From: "counter", To: "sink: Writer", Ship: "rebalance"},
		{From: "splitter", To: "counter", Ship: "hash"},
	}
	if !slices.Equal(after.Edges, edges) || after.Run != "691447de230f8c76d74a76de9f53576e" {
		t.Errorf("run %s, edges %v", after.Run, after.Edges)
	}
	if got := values(all, dhalion.JobTarget(wordcount), dhalion.Restarts); !same64(got, []float64{0, 0, 0, 0, 0, 0}) {
		t.Errorf("restarts %v, want none", got)
	}
	// 1 of 19 tasks runs at the third poll. What is measured across the rescale is
	// unknown: there is no rate before the second poll after it.
	if got := values(all, dhalion.JobTarget(wordcount), dhalion.Running); !same64(got, []float64{1, 1, 1.0 / 19, 1, 1, 1}) {
		t.Errorf("running %v", got)
	}
	known := []bool{false, true, false, false, true, true}
	for i, v := range values(all, dhalion.InstanceTarget(wordcount, "counter", 0), dhalion.Busy) {
		if (v == v) != known[i] {
			t.Errorf("poll %d: busy is %v", i, v)
		}
	}
}

func TestALostWorkerIsOneOutageThoughThreeStartsFailed(t *testing.T) {
	all := assemble(t, Options{}, unpacked(t, "worker_lost"))
	// Killed at 09:04:01.964; attempts go from 2 to 5; exceptions at 02.110,
	// 03.551 and 05.386 come with the last poll. The polls are 09:03:53, 58,
	// 09:04:03 (RESTARTING), 08 (half deployed), 13, 18.
	if got := values(all, dhalion.JobTarget(wordcount), dhalion.Restarts); !same64(got, []float64{0, 0, 1, 1, 1, 1}) {
		t.Errorf("restarts %v", got)
	}
	if got := values(all, dhalion.JobTarget(wordcount), dhalion.Running); !same64(got, []float64{1, 1, 0, 1, 1, 1}) {
		t.Errorf("running %v", got)
	}
	seen := changes(t, all)
	if len(seen) != 2 || seen[1].By != dhalion.ChangeEngine || !seen[0].SameShape(seen[1]) {
		t.Fatalf("topologies %+v", seen)
	}
	if a, b := seen[0].WorkerOf("counter", 2), seen[1].WorkerOf("counter", 2); a != "tm-2" || b == "tm-2" || b == "" {
		t.Errorf("counter[2] ran on %s, then on %s", a, b)
	}
	if want := time.Date(2026, 11, 22, 9, 4, 13, 205e6, time.UTC); !seen[1].From.Equal(want) {
		t.Errorf("from %v on, want %v: at the poll before, 5 of 17 subtasks were still deploying", seen[1].From, want)
	}
}

func TestFailuresTwentySecondsApartAreTwoOutages(t *testing.T) {
	all := assemble(t, Options{}, unpacked(t, "failing"))
	// Failures at 09:06:05.580 (seen RESTARTING at 06.464) and 09:06:25.230 (seen
	// half deployed at 26.471); polls every 5 s from 09:05:56 on.
	if got := values(all, dhalion.JobTarget(wordcount), dhalion.Restarts); !same64(got, []float64{0, 0, 1, 1, 1, 1, 2, 2}) {
		t.Errorf("restarts %v", got)
	}
	if seen := changes(t, all); len(seen) != 1 {
		t.Errorf("%d topologies, want 1: the instances come back to their places", len(seen))
	}
	for _, r := range all {
		for _, m := range r.Measurements {
			if m.Metric == dhalion.Restarts && m.Target.Kind != dhalion.KindJob {
				t.Errorf("an outage is laid on %s, which no exception names", m.Target)
			}
		}
	}
}

// The order in which a poll's questions were answered does not matter, nor that
// a long one was split.
func TestAPollsAnswersCountInAnyOrder(t *testing.T) {
	for _, name := range recordings {
		data := unpacked(t, name)
		want := assemble(t, Options{}, data)
		var polls [][][]byte
		for _, line := range bytes.Split(bytes.TrimSpace(data), []byte("\n")) {
			if len(polls) == 0 || bytes.Contains(line, []byte(`"/jobs/overview"`)) {
				polls = append(polls, nil)
			}
			polls[len(polls)-1] = append(polls[len(polls)-1], line)
		}
		for seed := range uint64(4) {
			random := rand.New(rand.NewPCG(1, seed))
			var lines [][]byte
			for _, p := range polls {
				p = slices.Clone(p)
				random.Shuffle(len(p)-1, func(a, b int) { p[1+a], p[1+b] = p[1+b], p[1+a] })
				lines = append(lines, p...)
			}
			got := assemble(t, Options{}, bytes.Join(lines, []byte("\n")))
			if len(got) != len(want) {
				t.Fatalf("%d polls, want %d", len(got), len(want))
			}
			for i := range want {
				if !slices.Equal(got[i].Measurements, want[i].Measurements) {
					t.Fatalf("%s: poll %d gives other measurements", name, i)
				}
				if a, b := topologies(got[i:i+1]), topologies(want[i:i+1]); len(a) != len(b) || len(a) > 0 && a[0].Digest() != b[0].Digest() {
					t.Fatalf("%s: poll %d gives another topology", name, i)
				}
			}
		}
	}
}

func TestARecordingIsASource(t *testing.T) {
	topologies := 0
	out := ingest.Out{Topology: func(_ context.Context, job dhalion.JobID, _ dhalion.Topology) error {
		if topologies++; job != "prod/words" {
			t.Errorf("a topology of %s", job)
		}
		return nil
	}}
	opts := Options{Engine: "prod", Job: "words"}
	rep, err := ingest.Collect(context.Background(), out, ingest.Options{}, NewRecording("a.jsonl", bytes.NewReader(unpacked(t, "rescale")), opts))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(rep.Jobs, []dhalion.JobID{"prod/words"}) || topologies != 2 || rep.Conflicts != 0 || len(rep.Repairs) != 0 {
		t.Errorf("%d topologies, report %+v", topologies, rep)
	}
	// job, 4 components, 2+4+10+3 instances, tm-1, 3, 4, 5 before and tm-6 after.
	if rep.Targets != 1+4+19+5 {
		t.Errorf("%d targets, want 29", rep.Targets)
	}
}

func TestABrokenLineIsRefusedWithItsPlaceUnlessSkipped(t *testing.T) {
	lines := bytes.SplitAfter(unpacked(t, "slow_instance"), []byte("\n"))
	lines[6] = []byte(`{"time":"2026-11-22T08:40:02` + "\n")
	data := bytes.Join(lines, nil)

	_, err := ingest.Collect(context.Background(), ingest.Out{}, ingest.Options{}, NewRecording("r.gz", bytes.NewReader(data), Options{}))
	var row ingest.RowError
	if !errors.As(err, &row) || row.File != "r.gz" || row.Line != 7 || !strings.HasPrefix(err.Error(), "r.gz:7: ") {
		t.Errorf("got %v", err)
	}
	rep, err := ingest.Collect(context.Background(), ingest.Out{}, ingest.Options{}, NewRecording("r.gz", bytes.NewReader(data), Options{SkipBad: 1}))
	if err != nil || len(rep.Skipped) != 1 || rep.Skipped[0].Line != 7 || rep.Repairs[ingest.SkippedRow] != 1 {
		t.Errorf("skipping one: %v, %+v", err, rep)
	}
}

func TestAFileThatIsNoRecordingIsRefused(t *testing.T) {
	for _, data := range []string{"", `{"time":"2026-11-22T08:38:00.996Z","engine":"flink","method":"GET","path":"/config","status":200,"body":{}}`} {
		_, err := ingest.Collect(context.Background(), ingest.Out{}, ingest.Options{}, NewRecording("r", strings.NewReader(data), Options{}))
		if err == nil || !strings.HasPrefix(err.Error(), "r: it has no poll") {
			t.Errorf("%q: %v", data, err)
		}
	}
	_, err := ingest.Collect(context.Background(), ingest.Out{}, ingest.Options{}, NewRecording("r.csv", strings.NewReader("time,job\n"), Options{}))
	if err == nil || !strings.HasPrefix(err.Error(), "r.csv:1: ") {
		t.Errorf("CSV: %v", err)
	}
}

func TestTheMappingListsWhatIsGivenAndNothingElse(t *testing.T) {
	type key struct {
		kind   dhalion.TargetKind
		metric dhalion.Metric
	}
	listed := map[key]bool{}
	byTarget := func(a, b MetricMapping) int {
		return cmp.Or(dhalion.Target{Kind: a.Target}.Compare(dhalion.Target{Kind: b.Target}), cmp.Compare(a.Metric, b.Metric))
	}
	if !slices.IsSortedFunc(Mapping(), byTarget) {
		t.Error("the mapping is not in order of targets and names")
	}
	for _, m := range Mapping() {
		k := key{m.Target, m.Metric}
		if listed[k] || !m.Metric.Valid() || !m.Target.Valid() || m.From == "" {
			t.Errorf("row %+v", m)
		}
		listed[k] = true
	}
	given := map[key]bool{}
	for _, name := range recordings {
		for _, r := range assemble(t, Options{}, unpacked(t, name)) {
			for _, m := range r.Measurements {
				given[key{m.Target.Kind, m.Metric}] = true
			}
		}
	}
	for k := range given {
		if !listed[k] {
			t.Errorf("%s of a %s is given and not listed", k.metric, k.kind)
		}
	}
	// These recordings have no inputQueueSize, so no latency, and no exception that names anyone.
	for _, k := range []key{{dhalion.KindInstance, dhalion.QueueBytes}, {dhalion.KindJob, dhalion.Latency}, {dhalion.KindComponent, dhalion.Restarts}, {dhalion.KindWorker, dhalion.Restarts}} {
		given[k] = true
	}
	for k := range listed {
		if !given[k] {
			t.Errorf("%s of a %s is listed and never given", k.metric, k.kind)
		}
	}
}
