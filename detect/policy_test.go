package detect_test

import (
	"strings"
	"testing"
	"time"

	dhalion "github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/detect"
	"github.com/dhalion-go/dhalion/features"
	"github.com/dhalion-go/dhalion/ingest/segment"
	"github.com/dhalion-go/dhalion/plan/policy"
)

const job = dhalion.JobID("file/test")

var start = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)

// bolt is a job of one component, whose instances have a value of a metric at
// each of some seconds.
func bolt(m dhalion.Metric, values map[int][]float64) *segment.History {
	b := segment.NewBuilder(job, dhalion.KindInstance)
	n := 0
	for second, list := range values {
		for i, v := range list {
			b.Add(dhalion.InstanceTarget(job, "bolt", i), "", start.Add(time.Duration(second)*time.Second).UnixMicro(), m, v)
			n = max(n, i+1)
		}
	}
	h := &segment.History{Job: job, Tables: map[dhalion.TargetKind]*segment.Table{}, Topologies: []dhalion.Topology{
		{From: start, By: dhalion.ChangeFirst, Components: []dhalion.Component{{Name: "bolt", Parallelism: n}}},
	}}
	h.Tables[dhalion.KindInstance], _ = b.Build()
	return h
}

func load(t testing.TB, text string) *policy.Policy {
	t.Helper()
	p, err := policy.Load("p.yaml", func(string) ([]byte, error) { return []byte(text), nil }, features.Known, nil)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func evaluate(t testing.TB, h *segment.History, at time.Time, p *policy.Policy) detect.Result {
	t.Helper()
	r, err := detect.Evaluate(features.NewReader(h, at, features.Options{Window: p.Window}), at, p)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func kinds(r detect.Result) string {
	var list []string
	for _, s := range r.Symptoms {
		list = append(list, s.Kind+" "+s.Target.String())
	}
	return strings.Join(list, ", ")
}

const two = `name: two
window: 60s
decisions: DECISIONS
detectors:
  - {name: long, target: instance, when: queue_bytes > 100}
  - {name: longest, target: instance, when: component.most(queue_bytes) > 100 && queue_bytes == component.most(queue_bytes)}
  - {name: wide, target: component, when: sum(queue_bytes) > 150}
`

func TestADetectorThatFailsLeavesTheOthersAlone(t *testing.T) {
	p := load(t, strings.Replace(two, "DECISIONS", "binary", 1))
	h := bolt(dhalion.QueueBytes, map[int][]float64{60: {120, 110}})
	at := start.Add(time.Minute)
	if got := kinds(evaluate(t, h, at, p)); got != "wide bolt, long bolt[0], longest bolt[0], long bolt[1]" {
		t.Fatalf("sees %s", got)
	}
	number := load(t, "name: n\nrules:\n  - {name: n, cause: slow_instance, evidence: queue_bytes}\n").Rules[0].Evidence
	for i := range p.Detectors {
		if p.Detectors[i].Name == "long" {
			p.Detectors[i].When = number // a number where a condition stands: it cannot be evaluated
		}
	}
	r := evaluate(t, h, at, p)
	if got := kinds(r); got != "wide bolt, longest bolt[0]" {
		t.Errorf("beside one that fails, the others see %s", got)
	}
	if len(r.Unknown) != 1 || !strings.Contains(r.Unknown[0].Reason, "symptom long: its detector failed") {
		t.Errorf("unknown says %+v", r.Unknown)
	}
	if _, known := r.Symptom("long", dhalion.InstanceTarget(job, "bolt", 0)); known {
		t.Error("the symptom of a detector that failed is known")
	}
}

func TestABinaryPolicyLooksAtOneTimeAlone(t *testing.T) {
	// Measured at 30 s, changed by the operator at 31 s, measured no more: at 40 s
	// nothing is known. A hold keeps what was seen; a decision at one time does not.
	for decisions, want := range map[string]string{"binary": "", "graded": "wide bolt"} {
		h := bolt(dhalion.QueueBytes, map[int][]float64{30: {120, 110}})
		p := load(t, strings.Replace(two, "DECISIONS", decisions, 1))
		at := start.Add(30 * time.Second)
		now := evaluate(t, h, at, p)
		if len(now.Symptoms) != 4 {
			t.Errorf("%s: inside the window it sees %s", decisions, kinds(now))
		}
		for _, s := range now.Symptoms {
			if decisions == "binary" && (s.Probability != 1 || !s.Since.Equal(at)) {
				t.Errorf("%s at %s with %v since %v", s.Kind, s.Target, s.Probability, s.Since)
			}
		}
		h.Topologies = append(h.Topologies, dhalion.Topology{
			From: start.Add(31 * time.Second), By: dhalion.ChangeOperator, Components: h.Topologies[0].Components,
		})
		if got := kinds(evaluate(t, h, start.Add(40*time.Second), p)); got != want {
			t.Errorf("%s: after the change it sees %q, want %q", decisions, got, want)
		}
	}
}

func TestNoPolicyIsAnErrorAndNoPanic(t *testing.T) {
	h := bolt(dhalion.QueueBytes, map[int][]float64{60: {1}})
	if _, err := detect.Evaluate(features.NewReader(h, start, features.Options{Window: time.Minute}), start, nil); err == nil {
		t.Error("no error")
	}
}
