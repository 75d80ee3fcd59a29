package diagnose_test

import (
	"context"
	"encoding/json"
	"math"
	"strings"
	"testing"
	"time"

	dhalion "github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/diagnose"
	"github.com/dhalion-go/dhalion/features"
	"github.com/dhalion-go/dhalion/ingest"
	"github.com/dhalion-go/dhalion/ingest/file"
	"github.com/dhalion-go/dhalion/ingest/flink"
	"github.com/dhalion-go/dhalion/ingest/segment"
	"github.com/dhalion-go/dhalion/plan/policy"
)

// recorded is the history in a bundled recording.
func recorded(t *testing.T, name string) *segment.History {
	t.Helper()
	r, err := file.Open("../testdata/recordings/" + name)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	h := &segment.History{Tables: map[dhalion.TargetKind]*segment.Table{}}
	layers := map[dhalion.TargetKind][]segment.Layer{}
	out := ingest.Out{
		Segment: func(_ context.Context, s dhalion.Segment) error {
			h.Job = s.Job
			table, err := segment.Decode(s)
			layers[s.Kind] = append(layers[s.Kind], segment.Layer{Table: table})
			return err
		},
		Topology: func(_ context.Context, _ dhalion.JobID, top dhalion.Topology) error {
			h.Topologies = append(h.Topologies, top)
			return nil
		},
	}
	if _, err := ingest.Collect(t.Context(), out, ingest.Options{}, flink.NewRecording(name, r, flink.Options{})); err != nil {
		t.Fatal(err)
	}
	for kind, l := range layers {
		if h.Tables[kind], _, err = segment.Merge(l); err != nil {
			t.Fatal(err)
		}
	}
	return h
}

func upTo(h *segment.History, at time.Time) *segment.History {
	cut := &segment.History{Job: h.Job, Topologies: h.Topologies, Tables: map[dhalion.TargetKind]*segment.Table{}}
	for kind, t := range h.Tables {
		cut.Tables[kind] = segment.Between(t, time.Time{}, at)
	}
	return cut
}

func defaultPolicy(t *testing.T) *policy.Policy {
	t.Helper()
	p, err := policy.Load("default", nil, features.Known, nil)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func evaluate(t *testing.T, h *segment.History, at string) *diagnose.Result {
	t.Helper()
	moment, err := time.Parse(time.RFC3339, at)
	if err != nil {
		t.Fatal(err)
	}
	r, err := diagnose.Evaluate(upTo(h, moment), moment, defaultPolicy(t))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

const (
	overload = "03_underprovisioned.jsonl.gz"
	slow     = "05_slow_instance.jsonl.gz"
)

func TestTheRecordedFaultIsTheFirstDiagnosis(t *testing.T) {
	for _, c := range []struct {
		file, at string
		cause    dhalion.Cause
		target   string
	}{
		// 3 s before the end of each fault (labels in testdata/recordings).
		{overload, "2026-11-22T08:33:34.730Z", dhalion.Underprovisioned, "counter"},
		{slow, "2026-11-22T08:40:16.879Z", dhalion.SlowInstance, "counter[3]"},
	} {
		r := evaluate(t, recorded(t, c.file), c.at)
		if len(r.Diagnoses) == 0 {
			t.Fatalf("%s: no diagnosis", c.file)
		}
		first := r.Diagnoses[0]
		if first.Cause != c.cause || first.Target.String() != c.target || first.Probability < 0.9 {
			t.Errorf("%s: %s at %s with %.3f comes first, want %s at %s", c.file, first.Cause, first.Target, first.Probability, c.cause, c.target)
		}
		sum := 0.0
		for _, e := range first.Evidence {
			sum += e.Weight
		}
		if p := 1 / (1 + math.Exp(-sum)); math.Abs(p-first.Probability) > 1e-12 {
			t.Errorf("%s: the evidence adds up to %v, and the probability is %v", c.file, p, first.Probability)
		}
	}
}

func TestWhatTheFaultLeavesAloneIsNotBlamed(t *testing.T) {
	r := evaluate(t, recorded(t, slow), "2026-11-22T08:40:16.879Z")
	// Seven healthy counters wait for work, the splitter and the source are
	// backpressured, and four workers host nothing slow: none of it is a cause.
	for _, d := range r.Diagnoses[1:] {
		if d.Probability >= 0.5 {
			t.Errorf("%s at %s with %.3f", d.Cause, d.Target, d.Probability)
		}
	}
	seen := map[string]bool{}
	for _, s := range r.Symptoms {
		seen[s.Kind+" "+s.Target.String()] = true
	}
	for _, want := range []string{"backpressure splitter", "bottleneck counter", "slow-against-peers counter[3]", "saturated counter[3]"} {
		if !seen[want] {
			t.Errorf("symptom %q is missing among %v", want, seen)
		}
	}
}

func TestTheHealthyPartsOfTheRecordingsAreQuiet(t *testing.T) {
	for _, c := range []struct{ file, at string }{
		{overload, "2026-11-22T08:32:00Z"}, {slow, "2026-11-22T08:38:43Z"},
	} {
		for _, d := range evaluate(t, recorded(t, c.file), c.at).Diagnoses {
			if d.Probability >= 0.5 {
				t.Errorf("%s at %s: %s at %s with %.3f", c.file, c.at, d.Cause, d.Target, d.Probability)
			}
		}
	}
}

func TestTooLittleDataAbstainsAndSaysWhatIsMissing(t *testing.T) {
	r := evaluate(t, recorded(t, slow), "2026-11-22T08:38:10Z")
	if len(r.Diagnoses) != 0 {
		t.Errorf("%d diagnoses from the first seconds", len(r.Diagnoses))
	}
	if len(r.Unknown) == 0 || !strings.Contains(r.Unknown[0].Reason, "too little data") {
		t.Errorf("unknown says %+v", r.Unknown)
	}
}

func TestAMetricThatIsMissingMakesItsCausesUnknownAndNotAbsent(t *testing.T) {
	h := recorded(t, slow)
	workers := h.Tables[dhalion.KindWorker]
	if workers == nil {
		t.Fatal("the recording has worker metrics")
	}
	delete(h.Tables, dhalion.KindWorker)
	r := evaluate(t, h, "2026-11-22T08:40:16.879Z")
	found := false
	for _, u := range r.Unknown {
		found = found || u.Cause == dhalion.MemoryPressure && strings.Contains(u.Reason, "gc_lowest")
	}
	if !found {
		t.Errorf("memory_pressure without worker metrics is not reported: %+v", r.Unknown)
	}
	if r.Diagnoses[0].Cause != dhalion.SlowInstance {
		t.Errorf("%s comes first without worker metrics", r.Diagnoses[0].Cause)
	}
}

// pair of instances on two workers; w1's are k times as slow.
func twoWorkers(k float64, rows int, gc float64) *segment.History {
	const job = dhalion.JobID("file/two")
	start := time.Date(2026, 11, 22, 8, 0, 0, 0, time.UTC)
	topo := dhalion.Topology{From: start, By: dhalion.ChangeFirst,
		Components: []dhalion.Component{{Name: "in", Parallelism: 1}, {Name: "a", Parallelism: 4}, {Name: "b", Parallelism: 4}},
		Edges:      []dhalion.Edge{{From: "in", To: "a"}, {From: "a", To: "b"}}}
	instances, workers := segment.NewBuilder(job, dhalion.KindInstance), segment.NewBuilder(job, dhalion.KindWorker)
	for row := 1; row <= rows; row++ {
		at := start.Add(time.Duration(row) * 5 * time.Second).UnixMicro()
		add := func(c string, i int, w string, m dhalion.Metric, v float64) {
			instances.Add(dhalion.InstanceTarget(job, c, i), w, at, m, v)
		}
		add("in", 0, "w3", dhalion.RecordsOut, 400)
		add("in", 0, "w3", dhalion.Lag, 0)
		add("in", 0, "w3", dhalion.Backpressured, 0)
		for i := range 4 {
			w, slow := "w"+string(rune('0'+i)), 1.0
			if i == 1 {
				slow = k
			}
			for _, c := range []string{"a", "b"} {
				add(c, i, w, dhalion.RecordsIn, 100)
				add(c, i, w, dhalion.RecordsOut, 100)
				add(c, i, w, dhalion.Busy, math.Min(1, 0.42*slow))
				add(c, i, w, dhalion.Backpressured, 0)
			}
			g := 0.01
			if i == 1 {
				g = gc
			}
			workers.Add(dhalion.WorkerTarget(job, w), "", at, dhalion.GC, g)
		}
	}
	h := &segment.History{Job: job, Topologies: []dhalion.Topology{topo}, Tables: map[dhalion.TargetKind]*segment.Table{}}
	h.Tables[dhalion.KindInstance], _ = instances.Build()
	h.Tables[dhalion.KindWorker], _ = workers.Build()
	return h
}

func find(r *diagnose.Result, cause dhalion.Cause, target string) *dhalion.Diagnosis {
	for i, d := range r.Diagnoses {
		if d.Cause == cause && d.Target.String() == target {
			return &r.Diagnoses[i]
		}
	}
	return nil
}

func TestASlowWorkerExplainsItsInstances(t *testing.T) {
	r := evaluate(t, twoWorkers(3, 12, 0.01), "2026-11-22T08:01:00Z")
	w := find(r, dhalion.SlowWorker, "worker w1")
	if w == nil || w.Probability < 0.9 {
		t.Fatalf("slow_worker at w1: %+v", r.Diagnoses)
	}
	for _, i := range []string{"a[1]", "b[1]"} {
		if d := find(r, dhalion.SlowInstance, i); d != nil && (d.Probability > 0.1 || d.ExplainedBy == nil) {
			t.Errorf("%s is said to be slow for a reason of its own: %+v", i, d)
		}
	}
}

func TestMemoryPressureExplainsASlowWorker(t *testing.T) {
	r := evaluate(t, twoWorkers(3, 12, 0.3), "2026-11-22T08:01:00Z")
	m := find(r, dhalion.MemoryPressure, "worker w1")
	if m == nil || m.Probability < 0.9 || r.Diagnoses[0].Cause != dhalion.MemoryPressure {
		t.Fatalf("memory_pressure at w1: %+v", r.Diagnoses)
	}
	if w := find(r, dhalion.SlowWorker, "worker w1"); w != nil && (w.Probability > 0.3 || w.ExplainedBy == nil || w.ExplainedBy.Cause != dhalion.MemoryPressure) {
		t.Errorf("slow_worker is not explained: %+v", w)
	}
}

// small is in(1) -> work(2) -> out(1): work runs on w1 alone, the rest on w2. From
// the 13th of 24 rows on, work takes slow and out late times as long per record.
func small(slow, late float64) *segment.History {
	const job = dhalion.JobID("file/small")
	start := time.Date(2026, 11, 22, 8, 0, 0, 0, time.UTC)
	h := &segment.History{Job: job, Tables: map[dhalion.TargetKind]*segment.Table{}, Topologies: []dhalion.Topology{{
		From: start, By: dhalion.ChangeFirst,
		Components: []dhalion.Component{{Name: "in", Parallelism: 1}, {Name: "other", Parallelism: 1}, {Name: "out", Parallelism: 1}, {Name: "work", Parallelism: 2}},
		Edges:      []dhalion.Edge{{From: "in", To: "work"}, {From: "work", To: "other"}, {From: "other", To: "out"}},
	}}}
	b := segment.NewBuilder(job, dhalion.KindInstance)
	for row := 1; row <= 24; row++ {
		at := start.Add(time.Duration(row) * 5 * time.Second).UnixMicro()
		add := func(c string, i int, w string, rate, busy float64) {
			target := dhalion.InstanceTarget(job, c, i)
			if c != "in" {
				b.Add(target, w, at, dhalion.RecordsIn, rate)
			} else {
				b.Add(target, w, at, dhalion.Lag, 0)
			}
			b.Add(target, w, at, dhalion.RecordsOut, rate)
			b.Add(target, w, at, dhalion.Busy, math.Min(1, busy))
			b.Add(target, w, at, dhalion.Backpressured, 0)
		}
		s, l := 1.0, 1.0
		if row > 12 {
			s, l = slow, late
		}
		add("in", 0, "w2", 200, 0.05)
		add("work", 0, "w1", 100, 0.45*s)
		add("work", 1, "w1", 100, 0.45*s)
		add("other", 0, "w2", 200, 0.45)
		add("out", 0, "w2", 200, 0.45*l)
	}
	h.Tables[dhalion.KindInstance], _ = b.Build()
	return h
}

func TestASlowWorkerIsSeenWhereAllInstancesOfAComponentRunOnIt(t *testing.T) {
	r := evaluate(t, small(2, 1), "2026-11-22T08:02:00Z")
	if len(r.Diagnoses) == 0 || r.Diagnoses[0].Cause != dhalion.SlowWorker || r.Diagnoses[0].Target.Worker != "w1" {
		t.Errorf("first is %+v", r.Diagnoses)
	}
}

func TestASinkOfOneInstanceIsLimitedAndNotASlowInstance(t *testing.T) {
	r := evaluate(t, small(1, 2), "2026-11-22T08:02:00Z")
	if len(r.Diagnoses) == 0 || r.Diagnoses[0].Cause != dhalion.SinkLimited || r.Diagnoses[0].Target.Component != "out" {
		t.Errorf("first is %+v", r.Diagnoses)
	}
	if d := find(r, dhalion.SlowInstance, "out[0]"); d != nil && (d.Probability > 0.2 || d.ExplainedBy == nil) {
		t.Errorf("out[0] is slow for a reason of its own: %+v", d)
	}
}

func TestASinkThatRunsOnASlowWorkerAloneIsExplainedByIt(t *testing.T) {
	h := small(1, 1)
	// other and out share w2; both take twice as long from the 13th row on.
	b := segment.NewBuilder(h.Job, dhalion.KindInstance)
	table := h.Tables[dhalion.KindInstance]
	for _, span := range table.Spans() {
		for row := span.Start; row < span.End; row++ {
			for _, m := range table.Metrics() {
				v := table.Values(m)[row]
				if math.IsNaN(v) {
					continue
				}
				late := row-span.Start >= 12 && m == dhalion.Busy
				if c := span.Target.Component; late && (c == "other" || c == "out") {
					v = math.Min(1, 2*v)
				}
				b.Add(span.Target, table.Worker(row), table.Times()[row], m, v)
			}
		}
	}
	h.Tables[dhalion.KindInstance], _ = b.Build()
	r := evaluate(t, h, "2026-11-22T08:02:00Z")
	if len(r.Diagnoses) == 0 || r.Diagnoses[0].Cause != dhalion.SlowWorker || r.Diagnoses[0].Target.Worker != "w2" {
		t.Fatalf("first is %+v", r.Diagnoses)
	}
	if d := find(r, dhalion.SinkLimited, "out"); d != nil && (d.Probability > 0.3 || d.ExplainedBy == nil) {
		t.Errorf("the sink is limited for a reason of its own: %+v", d)
	}
}

func TestNothingIsWrongWithASmallHealthyJob(t *testing.T) {
	for _, d := range evaluate(t, small(1, 1), "2026-11-22T08:02:00Z").Diagnoses {
		if d.Probability >= 0.5 {
			t.Errorf("%s at %s with %.3f", d.Cause, d.Target, d.Probability)
		}
	}
}

func TestUnderAndOverprovisionedAtOneTargetSumToAtMostOne(t *testing.T) {
	for _, k := range []float64{0.2, 1, 2, 4, 6} {
		r := evaluate(t, twoWorkers(k, 12, 0.01), "2026-11-22T08:01:00Z")
		for _, d := range r.Diagnoses {
			if d.Cause != dhalion.Underprovisioned {
				continue
			}
			if o := find(r, dhalion.Overprovisioned, d.Target.String()); o != nil && o.Probability+d.Probability > 1+1e-12 {
				t.Errorf("%s: %v + %v", d.Target, o.Probability, d.Probability)
			}
		}
	}
}

func TestEqualHistoriesGiveEqualDiagnoses(t *testing.T) {
	h := recorded(t, slow)
	var first []byte
	for range 5 {
		data, err := json.Marshal(evaluate(t, h, "2026-11-22T08:40:16.879Z").Findings())
		if err != nil {
			t.Fatal(err)
		}
		if first == nil {
			first = data
		} else if string(first) != string(data) {
			t.Fatalf("two evaluations differ:\n%s\n%s", first, data)
		}
	}
}
