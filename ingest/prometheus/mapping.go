package prometheus

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/ingest"
	"github.com/dhalion-go/dhalion/internal/yamlerr"
)

// Far above what a person writes; a file beyond them is some other file.
const (
	maxMappingBytes = 1 << 20
	maxQueries      = 500
)

// DefaultWindow is what $window stands for in a mapping that names none.
const DefaultWindow = time.Minute

//go:embed mappings/*.yaml
var bundled embed.FS

// BundledNames lists the mappings that come with the program.
var BundledNames = []string{"flink", "storm"}

// Bundled is the text of a mapping that comes with the program.
func Bundled(name string) (data []byte, ok bool) {
	if !slices.Contains(BundledNames, name) {
		return nil, false
	}
	data, err := bundled.ReadFile("mappings/" + name + ".yaml")
	return data, err == nil
}

// Labels are the names of the labels that say what a series is about; one that
// is empty is not used.
type Labels struct {
	Job       string `json:"job,omitempty"`
	Component string `json:"component,omitempty"`
	Instance  string `json:"instance,omitempty"`
	Worker    string `json:"worker,omitempty"`
}

// Query is where a metric of one kind of target comes from. It is not a series:
// it gives one per target, as a rule.
type Query struct {
	Metric dhalion.Metric     `json:"metric"`
	Target dhalion.TargetKind `json:"target"`
	Query  string             `json:"query"` // PromQL with $step and $window
	Scale  float64            `json:"scale"` // what values are multiplied by, to the metric's unit
	Labels Labels             `json:"labels"`
	Line   int                `json:"-"` // in the mapping's file
}

// Mapping says which queries give which metrics.
type Mapping struct {
	Name    string        `json:"name"`
	File    string        `json:"-"` // for messages
	Window  time.Duration `json:"-"`
	Queries []Query       `json:"queries"` // in the order of the file
}

// text is the query with its variables replaced.
func (q Query) text(step, window time.Duration) string {
	return strings.NewReplacer("$step", promDuration(step), "$window", promDuration(window)).Replace(q.Query)
}

// promDuration writes a duration as PromQL has it: in whole milliseconds.
func promDuration(d time.Duration) string {
	if d%time.Second == 0 {
		return strconv.FormatInt(int64(d/time.Second), 10) + "s"
	}
	return strconv.FormatInt(d.Milliseconds(), 10) + "ms"
}

// ReadMapping reads a mapping file: a YAML mapping of
//
//	name: flink
//	labels: {job: job_name, component: task_name, instance: subtask_index, worker: tm_id}
//	window: 60s
//	queries:
//	  - {metric: busy_fraction, target: instance, query: flink_taskmanager_job_task_busyTimeMsPerSecond, scale: 0.001}
//
// A query may have labels of its own, which replace those of the file one by
// one; an empty one takes a label away. It is strict: unknown keys and metrics,
// targets without the labels that they need and variables other than $step and
// $window are errors, FILE:LINE: reason. Name is for messages.
func ReadMapping(name string, r io.Reader) (*Mapping, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxMappingBytes+1))
	if err != nil {
		return nil, fmt.Errorf("prometheus: read %s: %w", name, err)
	}
	if len(data) > maxMappingBytes {
		return nil, fmt.Errorf("prometheus: read %s: a mapping has at most 1 MiB", name)
	}
	return mappingFile{name}.read(data)
}

// mappingFile reads nodes by hand: only so does every error have its line.
type mappingFile struct{ file string }

func (f mappingFile) bad(line int, format string, args ...any) error {
	return ingest.RowError{File: f.file, Line: max(1, line), Reason: fmt.Sprintf(format, args...)}
}

func (f mappingFile) read(data []byte) (*Mapping, error) {
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	var document, more yaml.Node
	if err := decoder.Decode(&document); errors.Is(err, io.EOF) {
		return nil, f.bad(1, "the file is empty")
	} else if err != nil {
		return nil, f.syntax(data, err)
	}
	if err := decoder.Decode(&more); err == nil {
		return nil, f.bad(more.Line, "there is a second document")
	} else if !errors.Is(err, io.EOF) {
		return nil, f.syntax(data, err)
	}
	if document.Kind != yaml.DocumentNode || len(document.Content) != 1 {
		return nil, f.bad(document.Line, "it is no mapping")
	}
	root := document.Content[0]
	fields, err := f.fields(root, "a mapping", "name", "labels", "window", "queries")
	if err != nil {
		return nil, err
	}
	m := &Mapping{File: f.file, Window: DefaultWindow}
	if m.Name, err = f.text(root, fields, "name"); err != nil {
		return nil, err
	}
	if err := ingest.CheckName("name", m.Name); err != nil {
		return nil, f.bad(fields["name"].Line, "%v", err)
	}
	if n := fields["window"]; n != nil {
		if m.Window, err = f.duration(n, "window"); err != nil {
			return nil, err
		}
	}
	var labels Labels
	if n := fields["labels"]; n != nil {
		if labels, err = f.labels(n, labels); err != nil {
			return nil, err
		}
	}
	list := fields["queries"]
	switch {
	case list == nil || list.Kind != yaml.SequenceNode || len(list.Content) == 0:
		return nil, f.bad(root.Line, "queries is missing or no list")
	case len(list.Content) > maxQueries:
		return nil, f.bad(list.Line, "more than %d queries", maxQueries)
	}
	for _, n := range list.Content {
		q, err := f.query(n, labels)
		if err != nil {
			return nil, err
		}
		m.Queries = append(m.Queries, q)
	}
	return m, nil
}

func (f mappingFile) syntax(data []byte, err error) error {
	line, reason := yamlerr.Split(data, err)
	return f.bad(line, "%s", reason)
}

func (f mappingFile) query(node *yaml.Node, labels Labels) (q Query, err error) {
	fields, err := f.fields(node, "a query", "metric", "target", "query", "scale", "labels")
	if err != nil {
		return q, err
	}
	q = Query{Scale: 1, Labels: labels, Line: node.Line}
	metric, err := f.text(node, fields, "metric")
	if err != nil {
		return q, err
	}
	if q.Metric = dhalion.Metric(metric); !q.Metric.Valid() {
		hint := ""
		if near := ingest.NearestMetric(metric); near != "" {
			hint = fmt.Sprintf("; is it %s?", near)
		}
		return q, f.bad(fields["metric"].Line, "there is no metric %s%s", metric, hint)
	}
	target, err := f.text(node, fields, "target")
	if err != nil {
		return q, err
	}
	if q.Target = dhalion.TargetKind(target); !q.Target.Valid() {
		return q, f.bad(fields["target"].Line, "target is one of job, component, instance, worker, not %s", target)
	}
	if q.Query, err = f.text(node, fields, "query"); err != nil {
		return q, err
	}
	if name := unknownVariable(q.Query); name != "" {
		return q, f.bad(fields["query"].Line, "the query has %s; its variables are $step and $window", name)
	}
	if n := fields["scale"]; n != nil {
		if n.Kind != yaml.ScalarNode || n.Decode(&q.Scale) != nil || !(math.Abs(q.Scale) > 0) || math.IsInf(q.Scale, 0) {
			return q, f.bad(n.Line, "scale is a number other than 0")
		}
	}
	if n := fields["labels"]; n != nil {
		if q.Labels, err = f.labels(n, labels); err != nil {
			return q, err
		}
	}
	for _, need := range []struct {
		label string
		what  string
		kinds []dhalion.TargetKind
	}{
		{q.Labels.Component, "component", []dhalion.TargetKind{dhalion.KindComponent, dhalion.KindInstance}},
		{q.Labels.Instance, "instance", []dhalion.TargetKind{dhalion.KindInstance}},
		{q.Labels.Worker, "worker", []dhalion.TargetKind{dhalion.KindWorker}},
	} {
		if need.label == "" && slices.Contains(need.kinds, q.Target) {
			return q, f.bad(node.Line, "a query of target %s needs a label for the %s", q.Target, need.what)
		}
	}
	return q, nil
}

// unknownVariable is the first $name that is none of ours. A $ inside quotes is
// the end of a regular expression, as a rule: only a letter after it makes a name.
func unknownVariable(query string) string {
	for rest := query; ; {
		_, after, ok := strings.Cut(rest, "$")
		if !ok {
			return ""
		}
		end := strings.IndexFunc(after, func(r rune) bool { return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r == '_') })
		if end < 0 {
			end = len(after)
		}
		if name := after[:end]; name != "" && name != "step" && name != "window" {
			return "$" + name
		}
		rest = after[end:]
	}
}

func (f mappingFile) labels(node *yaml.Node, base Labels) (Labels, error) {
	fields, err := f.fields(node, "labels", "job", "component", "instance", "worker")
	if err != nil {
		return base, err
	}
	for key, to := range map[string]*string{"job": &base.Job, "component": &base.Component, "instance": &base.Instance, "worker": &base.Worker} {
		n := fields[key]
		if n == nil {
			continue
		}
		if n.Kind != yaml.ScalarNode || n.Tag != "!!str" || n.Value != "" && !isLabel(n.Value) {
			return base, f.bad(n.Line, "%s is the name of a label: letters, digits and _", key)
		}
		*to = n.Value
	}
	return base, nil
}

func isLabel(s string) bool {
	for i, r := range s {
		if !(r == '_' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || i > 0 && r >= '0' && r <= '9') {
			return false
		}
	}
	return s != ""
}

// fields gives the values of a YAML mapping that has no other keys than these.
func (f mappingFile) fields(node *yaml.Node, what string, keys ...string) (map[string]*yaml.Node, error) {
	if node.Kind != yaml.MappingNode {
		return nil, f.bad(node.Line, "%s is a mapping of %s", what, strings.Join(keys, ", "))
	}
	out := map[string]*yaml.Node{}
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		switch {
		case key.Kind != yaml.ScalarNode || !slices.Contains(keys, key.Value):
			return nil, f.bad(key.Line, "%s has no key %q; its keys are %s", what, key.Value, strings.Join(keys, ", "))
		case out[key.Value] != nil:
			return nil, f.bad(key.Line, "the key %s is there twice", key.Value)
		case value.Kind == yaml.AliasNode:
			return nil, f.bad(value.Line, "anchors and aliases are not understood here")
		}
		out[key.Value] = value
	}
	return out, nil
}

func (f mappingFile) text(node *yaml.Node, fields map[string]*yaml.Node, key string) (string, error) {
	n := fields[key]
	if n == nil {
		return "", f.bad(node.Line, "%s is missing", key)
	}
	if n.Kind != yaml.ScalarNode || n.Tag == "!!null" || strings.TrimSpace(n.Value) == "" {
		return "", f.bad(n.Line, "%s is no text", key)
	}
	return strings.TrimSpace(n.Value), nil
}

func (f mappingFile) duration(n *yaml.Node, key string) (time.Duration, error) {
	d, err := time.ParseDuration(n.Value)
	if n.Kind != yaml.ScalarNode || err != nil || d < time.Millisecond || d%time.Millisecond != 0 {
		return 0, f.bad(n.Line, "%s is a duration like 60s or 2m, in whole milliseconds", key)
	}
	return d, nil
}
