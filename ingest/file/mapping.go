package file

import (
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/ingest"
)

// Unmapped counts values of series that no mapping names, which are passed over
// where there is a mapping. Without one they are broken: a misspelt name would
// otherwise never be found.
const Unmapped = "unmapped_value"

const (
	canonicalPrefix = "dhalion_"
	nameLabel       = "__name__"
	cumulative      = "_total"
	maxMappings     = 500
)

// Labels are the names of the labels that say what a sample is about; one that is
// empty is not used.
type Labels struct{ Job, Component, Instance, Worker string }

// canonicalLabels are those of samples with canonical names.
var canonicalLabels = Labels{Job: jobColumn, Component: componentColumn, Instance: instanceColumn, Worker: workerColumn}

// Renaming says that a foreign metric is one of ours. It is no query: it computes
// nothing but a change of unit.
type Renaming struct {
	Name   string             // the foreign name
	Match  map[string]string  // labels that must have these values; those of other samples are passed over
	Metric dhalion.Metric     // what it is here
	Target dhalion.TargetKind // what a sample is about
	Scale  float64            // what values are multiplied by, to the metric's unit
	Labels Labels
}

// Mapping is what the foreign names of an exporter mean. Samples with canonical
// names need none.
type Mapping struct{ Metrics []Renaming }

// of lists the renamings of a name in the order of the file.
func (m *Mapping) of(name string) []Renaming {
	if m == nil {
		return nil
	}
	var list []Renaming
	for _, r := range m.Metrics {
		if r.Name == name {
			list = append(list, r)
		}
	}
	return list
}

// ReadMapping reads a mapping file: a YAML mapping of
//
//	labels: {job: job_name, component: task_name, instance: subtask_index, worker: tm_id}
//	metrics:
//	  - {metric: busy_fraction, target: instance, name: flink_taskmanager_job_task_busyTimeMsPerSecond, scale: 0.001}
//	  - {metric: heap_used_bytes, target: worker, name: jvm_memory_used, match: {area: heap}, labels: {worker: host}}
//
// A metric may have labels of its own, which replace those of the file one by
// one; an empty one takes a label away. It is strict: unknown keys and metrics,
// targets without the labels that they need, and counters for what is a rate are
// errors, FILE:LINE: reason. Name is for messages.
func ReadMapping(name string, r io.Reader) (*Mapping, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxTopologyBytes+1))
	if err != nil {
		return nil, fmt.Errorf("file: read %s: %w", name, err)
	}
	if len(data) > maxTopologyBytes {
		return nil, fmt.Errorf("file: read %s: a mapping has at most 1 MiB", name)
	}
	f := topologyFile{file: name}
	root, err := f.root(data, "a mapping")
	if err != nil {
		return nil, err
	}
	fields, err := f.mapping(root, "a mapping", "labels", "metrics")
	if err != nil {
		return nil, err
	}
	var shared Labels
	if err := f.labels(fields["labels"], &shared); err != nil {
		return nil, err
	}
	nodes, err := f.list(fields["metrics"], "metrics", maxMappings)
	if err != nil {
		return nil, err
	}
	if len(nodes) == 0 {
		return nil, f.bad(root.Line, "a mapping needs metrics")
	}
	m := &Mapping{}
	for _, n := range nodes {
		r, err := f.renaming(n, shared)
		if err != nil {
			return nil, err
		}
		m.Metrics = append(m.Metrics, r)
	}
	return m, nil
}

func (f topologyFile) renaming(node *yaml.Node, shared Labels) (r Renaming, err error) {
	fields, err := f.mapping(node, "a metric of a mapping", "metric", "target", "name", "match", "scale", "labels")
	if err != nil {
		return r, err
	}
	r = Renaming{Labels: shared, Scale: 1}
	metric, err := f.name(node, fields, "metric")
	if err != nil {
		return r, err
	}
	if r.Metric = dhalion.Metric(metric); !r.Metric.Valid() {
		if near := ingest.NearestMetric(metric); near != "" {
			return r, f.bad(fields["metric"].Line, "unknown metric %q; did you mean %s?", metric, near)
		}
		return r, f.bad(fields["metric"].Line, "unknown metric %q", metric)
	}
	target, err := f.name(node, fields, "target")
	if err != nil {
		return r, err
	}
	if r.Target = dhalion.TargetKind(target); !r.Target.Valid() {
		return r, f.bad(fields["target"].Line, "target is job, component, instance or worker, not %s", excerpt([]byte(target)))
	}
	if r.Name, err = f.name(node, fields, "name"); err != nil {
		return r, err
	}
	if strings.HasSuffix(r.Name, cumulative) && !strings.HasSuffix(metric, cumulative) {
		return r, f.bad(fields["name"].Line, "%s is a counter and %s is none: ask Prometheus for its rate (dhalion ingest prometheus)", r.Name, metric)
	}
	if n := fields["scale"]; n != nil {
		v, perr := strconv.ParseFloat(n.Value, 64)
		if n.Kind != yaml.ScalarNode || perr != nil || !(v > 0) || math.IsInf(v, 0) {
			return r, f.bad(n.Line, "scale is a number above 0")
		}
		r.Scale = v
	}
	if n := fields["match"]; n != nil {
		if n.Kind != yaml.MappingNode {
			return r, f.bad(n.Line, "match is a mapping of labels to values")
		}
		r.Match = map[string]string{}
		for i := 0; i+1 < len(n.Content); i += 2 {
			key, value := n.Content[i], n.Content[i+1]
			if _, twice := r.Match[key.Value]; twice || key.Kind != yaml.ScalarNode || value.Kind != yaml.ScalarNode {
				return r, f.bad(key.Line, "match is a mapping of labels, each once, to values")
			}
			r.Match[key.Value] = value.Value
		}
	}
	if err := f.labels(fields["labels"], &r.Labels); err != nil {
		return r, err
	}
	needs := map[dhalion.TargetKind][]string{
		dhalion.KindComponent: {r.Labels.Component},
		dhalion.KindInstance:  {r.Labels.Component, r.Labels.Instance},
		dhalion.KindWorker:    {r.Labels.Worker},
	}[r.Target]
	if slices.Contains(needs, "") {
		return r, f.bad(node.Line, "target %s needs labels of its parts (labels: {component: …, instance: …, worker: …})", r.Target)
	}
	return r, nil
}

func (f topologyFile) labels(node *yaml.Node, into *Labels) error {
	if node == nil {
		return nil
	}
	fields, err := f.mapping(node, "labels", jobColumn, componentColumn, instanceColumn, workerColumn)
	if err != nil {
		return err
	}
	for key, l := range map[string]*string{jobColumn: &into.Job, componentColumn: &into.Component, instanceColumn: &into.Instance, workerColumn: &into.Worker} {
		n := fields[key]
		if n == nil {
			continue
		}
		if n.Kind != yaml.ScalarNode || n.Tag == "!!null" {
			return f.bad(n.Line, "%s is the name of a label", key)
		}
		*l = strings.TrimSpace(n.Value)
	}
	return nil
}

// labelled gives samples with labels to the collector.
type labelled struct {
	history
	unmapped int
}

// series is what the samples with one name and the same labels come to.
type series struct {
	key    string
	next   *series
	passed bool // no mapping names it
	handle ingest.Handle
	target dhalion.Target
	job    *job
	scale  float64
	used   bool
}

// lookUp makes the series of a name and labels. What is wrong with them is found
// here, once.
func (l *labelled) lookUp(name string, label func(string) string) (*series, error) {
	if name == "" {
		return nil, errors.New(`the series has no name: give it one in the query, as with label_replace(…, "__name__", "busy_fraction", "", "")`)
	}
	renamed := l.opts.Mapping.of(name)
	for _, r := range renamed {
		if r.matches(label) {
			return l.renamed(r, label)
		}
	}
	metric := dhalion.Metric(strings.TrimPrefix(name, canonicalPrefix))
	if !metric.Valid() && l.opts.Mapping != nil || len(renamed) > 0 {
		return &series{passed: true}, nil
	}
	if !metric.Valid() {
		return nil, foreign(name)
	}
	return l.series(names{
		job: label(canonicalLabels.Job), component: label(canonicalLabels.Component),
		instance: label(canonicalLabels.Instance), worker: label(canonicalLabels.Worker),
	}, metric, 1)
}

// foreign says of a name that is none of ours what it may be.
func foreign(name string) error {
	if near := ingest.NearestMetric(strings.TrimPrefix(name, canonicalPrefix)); near != "" {
		return fmt.Errorf("unknown metric %s; did you mean %s?", excerpt([]byte(name)), near)
	}
	if strings.HasSuffix(name, cumulative) {
		return fmt.Errorf("%s is a counter of another program's: ask Prometheus for its rate (dhalion ingest prometheus)", excerpt([]byte(name)))
	}
	return fmt.Errorf("unknown metric %s (--mapping FILE says what foreign names mean)", excerpt([]byte(name)))
}

func (r Renaming) matches(label func(string) string) bool {
	for name, value := range r.Match {
		if label(name) != value {
			return false
		}
	}
	return true
}

func (l *labelled) renamed(r Renaming, label func(string) string) (*series, error) {
	var n names
	missing := ""
	take := func(name string, needed bool) string {
		if name == "" {
			return ""
		}
		v := label(name)
		if v == "" && needed && missing == "" {
			missing = name
		}
		return v
	}
	n.job = take(r.Labels.Job, l.opts.Job == "")
	switch r.Target {
	case dhalion.KindComponent:
		n.component = take(r.Labels.Component, true)
	case dhalion.KindInstance:
		n.component, n.instance = take(r.Labels.Component, true), take(r.Labels.Instance, true)
		n.worker = take(r.Labels.Worker, false)
	case dhalion.KindWorker:
		n.worker = take(r.Labels.Worker, true)
	}
	if missing != "" {
		return nil, fmt.Errorf("%s has no label %s", r.Name, missing)
	}
	return l.series(n, r.Metric, r.Scale)
}

func (l *labelled) series(n names, metric dhalion.Metric, scale float64) (*series, error) {
	for _, part := range []*string{&n.job, &n.component, &n.instance, &n.worker} {
		*part = strings.TrimSpace(*part)
	}
	target, worker, own, err := l.resolve(n)
	if err != nil {
		return nil, err
	}
	h, err := l.to.Series(target, worker, metric)
	if err != nil {
		return nil, err
	}
	return &series{handle: h, target: target, job: own, scale: scale}, nil
}

// give takes a value of a series.
func (l *labelled) give(s *series, at int64, v float64) error {
	switch {
	case s.passed:
		l.unmapped++
		return nil
	case v != v:
		l.missing++
		return nil
	}
	if err := l.to.AddAt(s.handle, at, v*s.scale); err != nil {
		return err
	}
	s.job.seen(at)
	if !s.used {
		s.used = true
		s.job.has(s.target)
	}
	return nil
}

// end reports what was counted and hands the topologies on.
func (l *labelled) end() error {
	l.to.Repaired(Unmapped, l.unmapped)
	return l.history.end()
}
