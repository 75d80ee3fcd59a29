package diagnose_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	dhalion "github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/detect"
	"github.com/dhalion-go/dhalion/diagnose"
	"github.com/dhalion-go/dhalion/features"
	"github.com/dhalion-go/dhalion/ingest/segment"
	"github.com/dhalion-go/dhalion/plan/policy"
)

const boltJob = dhalion.JobID("file/bolt")

var boltAt = time.Date(2026, 3, 1, 0, 5, 0, 0, time.UTC)

func paper(t testing.TB) *policy.Policy {
	t.Helper()
	p, err := policy.Load("paper", nil, features.Known, nil)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// value is one of an instance of bolt, seconds before boltAt.
type value struct {
	instance int
	metric   dhalion.Metric
	v        float64
	ago      int
}

// bolts is a history of word -> bolt(n) in which the values were measured, in the
// order given.
func bolts(n int, values []value) *segment.History {
	b := segment.NewBuilder(boltJob, dhalion.KindInstance)
	for _, x := range values {
		b.Add(dhalion.InstanceTarget(boltJob, "bolt", x.instance), "", boltAt.Add(-time.Duration(x.ago)*time.Second).UnixMicro(), x.metric, x.v)
	}
	h := &segment.History{Job: boltJob, Tables: map[dhalion.TargetKind]*segment.Table{}, Topologies: []dhalion.Topology{{
		From: boltAt.Add(-time.Hour), By: dhalion.ChangeFirst,
		Components: []dhalion.Component{{Name: "bolt", Parallelism: n}, {Name: "word", Parallelism: 1}},
		Edges:      []dhalion.Edge{{From: "word", To: "bolt"}},
	}}}
	h.Tables[dhalion.KindInstance], _ = b.Build()
	return h
}

// now are one value of a metric for each instance, at boltAt.
func now(m dhalion.Metric, list ...float64) []value {
	var out []value
	for i, v := range list {
		out = append(out, value{i, m, v, 0})
	}
	return out
}

func decisions(r *diagnose.Result) string {
	var list []string
	for _, d := range r.Diagnoses {
		list = append(list, fmt.Sprintf("%s %s %v", d.Cause, d.Target, d.Probability))
	}
	return strings.Join(list, ", ")
}

func judge(t testing.TB, h *segment.History, p *policy.Policy) *diagnose.Result {
	t.Helper()
	r, err := diagnose.Evaluate(h, boltAt, p)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestFindingsAloneMakeADiagnosis(t *testing.T) {
	p := paper(t)
	h := bolts(2, slices.Concat(now(dhalion.BackpressureCaused, 0.5, 0), now(dhalion.QueueBytes, 10000, 500), now(dhalion.RecordsIn, 100, 100)))
	snap := features.NewReader(h, boltAt, diagnose.FeatureOptions(p)).At(boltAt)
	bolt := dhalion.ComponentTarget(boltJob, "bolt")
	finding := func(kinds ...string) []dhalion.Symptom {
		var list []dhalion.Symptom
		for _, k := range kinds {
			list = append(list, dhalion.Symptom{Kind: k, Target: bolt, Score: 2, Probability: 1, Since: boltAt})
		}
		return list
	}
	for _, c := range []struct {
		name     string
		findings []dhalion.Symptom
		want     string
	}{
		{"UP1", finding("backpressure"), "underprovisioned bolt 1"},
		{"UP2", finding("backpressure", "queue-skew"), "slow_instance bolt[0] 1"}, // and not underprovisioned
		{"a rate skew alone", finding("backpressure", "rate-skew"), ""},
		{"no backpressure", finding("rate-skew", "queue-skew"), ""},
		{"nothing", nil, ""},
	} {
		r, err := diagnose.Conclude(detect.Given(snap, p, c.findings), p)
		if err != nil {
			t.Fatal(err)
		}
		if got := decisions(r); got != c.want || len(r.Unknown) != 0 {
			t.Errorf("%s: %q, want %q; unknown %v", c.name, got, c.want, r.Unknown)
		}
	}
	if _, err := diagnose.Conclude(detect.Result{}, p); err == nil {
		t.Error("a conclusion from nothing is no error")
	}
	if _, err := diagnose.Evaluate(h, boltAt, nil); err == nil {
		t.Error("an evaluation by no policy is no error")
	}
}

func TestTheMissingMetricIsNamedWhereItDecides(t *testing.T) {
	p := paper(t)
	for _, c := range []struct {
		name   string
		values []value
		want   []string // cause and part of the reason
	}{
		{"no queue", slices.Concat(now(dhalion.BackpressureCaused, 0.5, 0), now(dhalion.RecordsIn, 100, 100)),
			[]string{"slow_instance not judged at 2 instances: unknown input_queue_buffers", "underprovisioned not judged here: unknown least(input_queue_buffers), least(queue_bytes)"}},
		{"no queue, and a skewed rate", slices.Concat(now(dhalion.BackpressureCaused, 0.5, 0), now(dhalion.RecordsIn, 500, 100)),
			[]string{"data_skew not judged at 1 instance: unknown input_queue_buffers"}}, // the other does not do the most
		{"no rate", slices.Concat(now(dhalion.BackpressureCaused, 0.5, 0), now(dhalion.QueueBytes, 800, 800)),
			[]string{"underprovisioned not judged here: unknown least(records_in_per_second), most(records_in_per_second)"}},
		{"no backpressure, whatever the queues", slices.Concat(now(dhalion.BackpressureCaused, 0, 0), now(dhalion.RecordsIn, 100, 100)),
			[]string{"overprovisioned not judged here: unknown most(input_queue_buffers), most(queue_bytes)"}},
		{"backpressure not measured", slices.Concat(now(dhalion.QueueBytes, 800, 800), now(dhalion.RecordsIn, 100, 100)),
			[]string{"underprovisioned not judged here: unknown leads_backpressure, sum(backpressure_caused_fraction)"}},
	} {
		r := judge(t, bolts(2, c.values), p)
		var got []string
		for _, u := range r.Unknown {
			if u.Target != dhalion.ComponentTarget(boltJob, "bolt") {
				t.Errorf("%s: unknown at %s: %s", c.name, u.Target, u.Reason)
			}
			got = append(got, string(u.Cause)+" "+u.Reason)
		}
		if len(r.Diagnoses) != 0 || len(got) != len(c.want) {
			t.Errorf("%s: %s; unknown %q", c.name, decisions(r), got)
			continue
		}
		for i, want := range c.want {
			if !strings.HasPrefix(got[i], want) {
				t.Errorf("%s: unknown is %q, want %q", c.name, got[i], want)
			}
		}
	}
}

func TestARuleThatFailsIsUnknownAndLeavesTheOthersAlone(t *testing.T) {
	p := paper(t)
	rules := slices.Clone(p.Rules)
	for i := range rules {
		if rules[i].Cause == dhalion.SlowInstance {
			rules[i].When = rules[i].Evidence // a number where a condition stands
		}
	}
	broken := *p
	broken.Rules = rules
	h := bolts(2, slices.Concat(now(dhalion.BackpressureCaused, 0.5, 0), now(dhalion.QueueBytes, 800, 800), now(dhalion.RecordsIn, 100, 100)))
	r := judge(t, h, &broken)
	if got := decisions(r); got != "underprovisioned bolt 1" {
		t.Errorf("%s", got)
	}
	if len(r.Unknown) != 1 || r.Unknown[0].Cause != dhalion.SlowInstance || !strings.Contains(r.Unknown[0].Reason, "rule longest-queue-at-an-even-rate") {
		t.Errorf("unknown %+v", r.Unknown)
	}
}

func TestNothingIsExplainedAwayFromABinaryDecision(t *testing.T) {
	// Graded, a failing component explains 0.95 of the job's transient, and what is
	// left of that, 0.88·0.05, is not listed.
	const text = `name: both
DECISIONS
minimum: {span: 0s, polls: 1}
rules:
  - {name: f, cause: failing, target: component, when: instances > 1, evidence: 3}
  - {name: t, cause: transient, target: job, when: polls > 0, evidence: 2}
  - {name: no, cause: data_skew, target: instance, when: queue_bytes > 0, evidence: 0}
`
	h := bolts(2, now(dhalion.QueueBytes, 800, 800))
	for with, want := range map[string]string{
		"":                  "failing bolt 0.9525741268224334, data_skew bolt[0] 0.5, data_skew bolt[1] 0.5",
		"decisions: binary": "transient job 1, failing bolt 1", // evidence of 0 is no yes
	} {
		p, err := policy.Load("p.yaml", func(string) ([]byte, error) { return []byte(strings.Replace(text, "DECISIONS", with, 1)), nil }, features.Known, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := decisions(judge(t, h, p)); got != want {
			t.Errorf("%q: %s, want %s", with, got, want)
		}
	}
}

// drawn is a history of up to six instances with some metrics measured at some
// times.
func drawn(t *rapid.T) (int, []value) {
	n := rapid.IntRange(1, 6).Draw(t, "instances")
	var values []value
	for _, m := range []dhalion.Metric{dhalion.BackpressureCaused, dhalion.RecordsIn, dhalion.QueueBytes, dhalion.InputQueueBuffers} {
		most := 5000.0
		if m == dhalion.BackpressureCaused {
			most = 1
		}
		for i := range n {
			for _, ago := range rapid.SliceOfNDistinct(rapid.IntRange(0, 299), 0, 4, rapid.ID[int]).Draw(t, "times") {
				v := rapid.OneOf(rapid.Just(0.0), rapid.Just(most), rapid.Float64Range(0, most)).Draw(t, "value")
				values = append(values, value{i, m, v, ago})
			}
		}
	}
	return n, values
}

func TestThePapersDecisionIsBlindToTheOrderOfRows(t *testing.T) {
	p := paper(t)
	rapid.Check(t, func(rt *rapid.T) {
		n, values := drawn(rt)
		answer := func(values []value) string {
			h := bolts(n, values)
			if h.Tables[dhalion.KindInstance] == nil {
				rt.Skip("nothing measured")
			}
			r := judge(t, h, p)
			for _, d := range r.Diagnoses {
				if d.Probability != 1 || d.ExplainedBy != nil {
					rt.Fatalf("%s at %s with %v", d.Cause, d.Target, d.Probability)
				}
			}
			data, err := json.Marshal(r.Findings())
			if err != nil {
				rt.Fatal(err)
			}
			return string(data)
		}
		want := answer(values)
		shuffled := slices.Clone(values)
		rand.New(rand.NewPCG(1, uint64(len(values)))).Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		if got := answer(shuffled); got != want {
			rt.Fatalf("in another order:\n%s\nnot\n%s", got, want)
		}
	})
}

func TestEqualInstancesNeverShowSkew(t *testing.T) {
	p := paper(t)
	rapid.Check(t, func(rt *rapid.T) {
		n := rapid.IntRange(1, 8).Draw(rt, "instances")
		var values []value
		for _, m := range []dhalion.Metric{dhalion.RecordsIn, dhalion.QueueBytes, dhalion.InputQueueBuffers} {
			v := rapid.OneOf(rapid.Just(0.0), rapid.Float64Range(0, 1e9)).Draw(rt, string(m))
			for i := range n {
				values = append(values, value{i, m, v, 0})
			}
		}
		caused := rapid.Float64Range(0, 1).Draw(rt, "caused")
		for i := range n {
			values = append(values, value{i, dhalion.BackpressureCaused, caused, 0})
		}
		r := judge(t, bolts(n, values), p)
		for _, s := range r.Symptoms {
			if strings.Contains(s.Kind, "skew") {
				rt.Fatalf("%s at %s", s.Kind, s.Target)
			}
		}
		want := ""
		if float64(n)*caused > 0.021 {
			want = "underprovisioned bolt 1"
		}
		if got := decisions(r); want != "" && got != want {
			rt.Fatalf("%q, want %q", got, want)
		}
	})
}

func TestThePapersDecisionsOnTheRecordings(t *testing.T) {
	p := paper(t).WithWindow(time.Minute)
	for _, c := range []struct{ file, at, want string }{
		{overload, "2026-11-22T08:33:34.730Z", "underprovisioned counter 1"},
		{slow, "2026-11-22T08:40:16.879Z", "slow_instance counter[3] 1"},
	} {
		at, err := time.Parse(time.RFC3339, c.at)
		if err != nil {
			t.Fatal(err)
		}
		r, err := diagnose.Evaluate(upTo(recorded(t, c.file), at), at, p)
		if err != nil {
			t.Fatal(err)
		}
		if got := decisions(r); got != c.want {
			t.Errorf("%s: %s, want %s", c.file, got, c.want)
		}
	}
}
