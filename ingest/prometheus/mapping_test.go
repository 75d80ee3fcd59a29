package prometheus

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dhalion-go/dhalion"
)

func TestTheBundledMappingsAreGood(t *testing.T) {
	for _, name := range BundledNames {
		data, ok := Bundled(name)
		if !ok {
			t.Fatalf("there is no %s", name)
		}
		m, err := ReadMapping(name+".yaml", bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		if m.Name != name || len(m.Queries) < 5 {
			t.Errorf("%s: name %s, %d queries", name, m.Name, len(m.Queries))
		}
		seen := map[Query]bool{}
		for _, q := range m.Queries {
			q.Line = 0
			if seen[q] {
				t.Errorf("%s: %s of %s is there twice", name, q.Metric, q.Target)
			}
			seen[q] = true
		}
	}
	if _, ok := Bundled("../mapping"); ok {
		t.Error("a path is no name")
	}
}

func TestAQueryHasItsOwnLabelsAndVariables(t *testing.T) {
	m, err := ReadMapping("m.yaml", strings.NewReader(`
name: mine
labels: {job: app, component: op, instance: i, worker: pod}
window: 90s
queries:
  - metric: records_in_per_second
    target: instance
    query: rate(in{op=~"a.*$"}[$window]) / $step
    scale: 2
    labels: {instance: shard, worker: ""}
`))
	if err != nil {
		t.Fatal(err)
	}
	q := m.Queries[0]
	if want := (Labels{Job: "app", Component: "op", Instance: "shard"}); q.Labels != want || q.Scale != 2 || q.Line != 6 || m.Window != 90*time.Second {
		t.Errorf("%+v, window %s", q, m.Window)
	}
	if got, want := q.text(1500*time.Millisecond, m.Window), `rate(in{op=~"a.*$"}[90s]) / 1500ms`; got != want {
		t.Errorf("%s, not %s", got, want)
	}
}

func TestABrokenMappingIsToldWithItsLine(t *testing.T) {
	const head = "name: x\nlabels: {job: j, component: c, instance: i, worker: w}\nqueries:\n"
	for content, want := range map[string]string{
		"":                                    "m.yaml:1: the file is empty",
		"[]":                                  "m.yaml:1: a mapping is a mapping of name, labels, window, queries",
		"name: x\n":                           "m.yaml:1: queries is missing or no list",
		"name: x\nqueries: []\n":              "m.yaml:1: queries is missing or no list",
		"name: x\nquerys: []\n":               `m.yaml:2: a mapping has no key "querys"`,
		"name: x\nname: y\n":                  "m.yaml:2: the key name is there twice",
		"name: x\n---\nname: y\n":             "m.yaml:2: there is a second document",
		"name: [\n":                           "m.yaml:1: did not find expected node content",
		"labels:\n  job: x\n worker: y\n":     "m.yaml:3: did not find expected key",
		"name: x\nqueries: *all\n":            "m.yaml:2: unknown anchor 'all'",
		"name: x\nwindow: soon\n":             "m.yaml:2: window is a duration",
		"name: x\nwindow: 1ns\n":              "m.yaml:2: window is a duration",
		"name: x\nlabels: {x: y}":             `m.yaml:2: labels has no key "x"`,
		"name: &a x\nlabels: *a\n":            "m.yaml:2: anchors and aliases are not understood here",
		"name: x\nlabels: {job: 'a-b'}\n":     "m.yaml:2: job is the name of a label",
		head + "  - {target: job, query: up}": "m.yaml:4: metric is missing",
		head + "  - {metric: busy, target: job, query: up}":                                           "m.yaml:4: there is no metric busy; is it busy_fraction?",
		head + "  - {metric: restarts_total, target: pod, query: up}":                                 "m.yaml:4: target is one of job, component, instance, worker, not pod",
		head + "  - {metric: restarts_total, target: job}":                                            "m.yaml:4: query is missing",
		head + "  - {metric: restarts_total, target: job, query: ' '}":                                "m.yaml:4: query is no text",
		head + "  - {metric: restarts_total, target: job, query: 'rate(x[$interval])'}":               "m.yaml:4: the query has $interval; its variables are $step and $window",
		head + "  - {metric: restarts_total, target: job, query: up, scale: 0}":                       "m.yaml:4: scale is a number other than 0",
		head + "  - {metric: restarts_total, target: job, query: up, scale: .nan}":                    "m.yaml:4: scale is a number other than 0",
		head + "  - {metric: restarts_total, target: job, query: up, scale: .inf}":                    "m.yaml:4: scale is a number other than 0",
		head + "  - {metric: busy_fraction, target: instance, query: up, labels: {component: ''}}":    "m.yaml:4: a query of target instance needs a label for the component",
		head + "  - {metric: busy_fraction, target: instance, query: up, labels: {instance: ''}}":     "m.yaml:4: a query of target instance needs a label for the instance",
		head + "  - {metric: cpu_fraction, target: worker, query: up, labels: {worker: ''}}":          "m.yaml:4: a query of target worker needs a label for the worker",
		head + strings.Repeat("  - {metric: restarts_total, target: job, query: up}\n", maxQueries+1): "m.yaml:4: more than 500 queries",
	} {
		m, err := ReadMapping("m.yaml", strings.NewReader(content))
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%.80q: %+v, %v, not %s", content, m, err, want)
		}
	}
	if _, err := ReadMapping("m.yaml", strings.NewReader(strings.Repeat("#", maxMappingBytes+1))); err == nil || !strings.Contains(err.Error(), "at most 1 MiB") {
		t.Errorf("a large file: %v", err)
	}
}

// FuzzMapping: whatever is read can be used; it never panics.
func FuzzMapping(f *testing.F) {
	for _, name := range BundledNames {
		data, _ := Bundled(name)
		f.Add(data)
	}
	f.Add([]byte("name: x\nlabels: {job: j}\nqueries: [{metric: restarts_total, target: job, query: $window, scale: -1e308}]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := ReadMapping("m.yaml", bytes.NewReader(data))
		if err != nil {
			return
		}
		for _, q := range m.Queries {
			if !q.Metric.Valid() || !slices.Contains(dhalion.TargetKinds, q.Target) || q.Scale == 0 || strings.Contains(q.text(time.Second, m.Window), "$window") {
				t.Errorf("%+v", q)
			}
		}
	})
}
