package file

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/ingest"
	"github.com/dhalion-go/dhalion/internal/yamlerr"
)

// Far above what a person writes; a file beyond them is some other file.
const (
	maxTopologyBytes = 1 << 20
	maxComponents    = 2000
	maxEdges         = 10_000
)

// ReadTopology reads a topology file: a YAML mapping of
//
//	components: [{name: source, parallelism: 2}, {name: counter, parallelism: 8, max_parallelism: 128, external: false}]
//	edges: [{from: source, to: counter, ship: hash}]     # or "source -> counter"
//	placement: [{component: counter, instance: 0, worker: tm-1}]
//	from: 2026-03-01T00:00:00Z
//
// or a list of such, each with the time from which it holds. Without a time
// From is zero: it holds from the beginning of the history that it goes with. It
// is strict: unknown keys, components that do not exist and cycles are errors,
// FILE:LINE: reason. The result is normalized and ascends by From. Name is for
// messages.
func ReadTopology(name string, r io.Reader) ([]dhalion.Topology, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxTopologyBytes+1))
	if err != nil {
		return nil, fmt.Errorf("file: read %s: %w", name, err)
	}
	if len(data) > maxTopologyBytes {
		return nil, fmt.Errorf("file: read %s: a topology file has at most 1 MiB", name)
	}
	f := topologyFile{file: name}
	topologies, err := f.read(data)
	if err != nil {
		return nil, err
	}
	return topologies, nil
}

// topologyFile reads nodes by hand: only so does every error have its line, also
// those that a decoder into structs finds too late.
type topologyFile struct{ file string }

func (f topologyFile) bad(line int, format string, args ...any) error {
	return ingest.RowError{File: f.file, Line: max(1, line), Reason: fmt.Sprintf(format, args...)}
}

func (f topologyFile) read(data []byte) ([]dhalion.Topology, error) {
	root, err := f.root(data, "a topology")
	if err != nil {
		return nil, err
	}
	if root.Kind != yaml.SequenceNode {
		t, err := f.topology(root)
		if err != nil {
			return nil, err
		}
		return []dhalion.Topology{t}, nil
	}
	var topologies []dhalion.Topology
	for _, node := range root.Content {
		t, err := f.topology(node)
		if err != nil {
			return nil, err
		}
		if t.From.IsZero() && len(root.Content) > 1 {
			return nil, f.bad(node.Line, "a topology in a list needs from: TIME")
		}
		for _, other := range topologies {
			if other.From.Equal(t.From) {
				return nil, f.bad(node.Line, "two topologies hold from %s", t.From.Format(time.RFC3339Nano))
			}
		}
		topologies = append(topologies, t)
	}
	if len(topologies) == 0 {
		return nil, f.bad(root.Line, "the list has no topology")
	}
	slices.SortFunc(topologies, func(a, b dhalion.Topology) int { return a.From.Compare(b.From) })
	return topologies, nil
}

// root is the one document of a file.
func (f topologyFile) root(data []byte, what string) (*yaml.Node, error) {
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	var document yaml.Node
	if err := decoder.Decode(&document); err == io.EOF {
		return nil, f.bad(1, "the file is empty")
	} else if err != nil {
		return nil, f.syntax(data, err)
	}
	var more yaml.Node
	if err := decoder.Decode(&more); err == nil {
		return nil, f.bad(more.Line, "there is a second document: %s is one (several topologies are a list, each with from: TIME)", what)
	} else if err != io.EOF {
		return nil, f.syntax(data, err)
	}
	if document.Kind != yaml.DocumentNode || len(document.Content) != 1 {
		return nil, f.bad(document.Line, "it is not %s", what)
	}
	return document.Content[0], nil
}

func (f topologyFile) syntax(data []byte, err error) error {
	line, reason := yamlerr.Split(data, err)
	return f.bad(line, "%s", reason)
}

func (f topologyFile) topology(node *yaml.Node) (dhalion.Topology, error) {
	var t dhalion.Topology
	parallelism := map[string]int{}
	fields, err := f.mapping(node, "a topology", "components", "edges", "placement", "slots", "from")
	if err != nil {
		return t, err
	}
	if n := fields["from"]; n != nil {
		micros, err := parseTopologyTime(n)
		if err != nil {
			return t, f.bad(n.Line, "from: %v", err)
		}
		t.From = time.UnixMicro(micros).UTC()
	}
	components, err := f.list(fields["components"], "components", maxComponents)
	if err != nil {
		return t, err
	}
	if len(components) == 0 {
		return t, f.bad(node.Line, "a topology needs components")
	}
	for _, n := range components {
		c, err := f.component(n)
		if err != nil {
			return t, err
		}
		if _, twice := parallelism[c.Name]; twice {
			return t, f.bad(n.Line, "the component %s is listed twice", c.Name)
		}
		parallelism[c.Name] = c.Parallelism
		t.Components = append(t.Components, c)
	}
	edges, err := f.list(fields["edges"], "edges", maxEdges)
	if err != nil {
		return t, err
	}
	drawn := map[dhalion.Edge]bool{}
	for _, n := range edges {
		some, err := f.edges(n)
		if err != nil {
			return t, err
		}
		for _, e := range some {
			for _, end := range []string{e.From, e.To} {
				if _, ok := parallelism[end]; !ok {
					return t, f.bad(n.Line, "edge %s -> %s: there is no component %s", e.From, e.To, end)
				}
			}
			if drawn[e] {
				return t, f.bad(n.Line, "edge %s -> %s is listed twice", e.From, e.To)
			}
			drawn[e] = true
		}
		t.Edges = append(t.Edges, some...)
		if len(t.Edges) > maxEdges {
			return t, f.bad(n.Line, "more than %d edges", maxEdges)
		}
	}
	placement, err := f.list(fields["placement"], "placement", maxTopologyBytes)
	if err != nil {
		return t, err
	}
	type instance struct {
		component string
		number    int
	}
	placed := map[instance]bool{}
	for _, n := range placement {
		p, err := f.placement(n)
		if err != nil {
			return t, err
		}
		count, ok := parallelism[p.Component]
		switch {
		case !ok:
			return t, f.bad(n.Line, "placement: there is no component %s", p.Component)
		case p.Instance >= count:
			return t, f.bad(n.Line, "placement: %s has %d instances, counted from 0; there is no %d", p.Component, count, p.Instance)
		case placed[instance{p.Component, p.Instance}]:
			return t, f.bad(n.Line, "placement: %s[%d] is placed twice", p.Component, p.Instance)
		}
		placed[instance{p.Component, p.Instance}] = true
		t.Placement = append(t.Placement, p)
	}
	if t.Slots, err = f.slots(fields["slots"]); err != nil {
		return t, err
	}
	t.Normalize()
	if err := t.Validate(); err != nil {
		line := node.Line
		if n := fields["edges"]; n != nil {
			line = n.Line // what is left to find is a cycle
		}
		return t, f.bad(line, "%s", strings.TrimPrefix(err.Error(), "dhalion: topology: "))
	}
	return t, nil
}

func (f topologyFile) component(node *yaml.Node) (c dhalion.Component, err error) {
	fields, err := f.mapping(node, "a component", "name", "parallelism", "max_parallelism", "external")
	if err != nil {
		return c, err
	}
	if c.Name, err = f.name(node, fields, "name"); err != nil {
		return c, err
	}
	if fields["parallelism"] == nil {
		return c, f.bad(node.Line, "the component %s has no parallelism", c.Name)
	}
	if c.Parallelism, err = f.integer(fields["parallelism"], "parallelism", 1); err != nil {
		return c, err
	}
	if n := fields["max_parallelism"]; n != nil {
		if c.MaxParallelism, err = f.integer(n, "max_parallelism", 1); err != nil {
			return c, err
		}
		if c.MaxParallelism < c.Parallelism {
			return c, f.bad(n.Line, "the component %s: max_parallelism %d is below its parallelism %d", c.Name, c.MaxParallelism, c.Parallelism)
		}
	}
	if n := fields["external"]; n != nil {
		if n.Kind != yaml.ScalarNode || n.Tag != "!!bool" || n.Decode(&c.External) != nil {
			return c, f.bad(n.Line, "external is true or false")
		}
	}
	return c, nil
}

// ships are the ways to deal out records that an edge can name.
var ships = []string{"hash", "rebalance", "forward", "broadcast"}

// edges reads {from, to, ship} or "a -> b", of which several may be chained.
func (f topologyFile) edges(node *yaml.Node) ([]dhalion.Edge, error) {
	if node.Kind == yaml.ScalarNode {
		names := strings.Split(node.Value, "->")
		if len(names) < 2 {
			return nil, f.bad(node.Line, "the edge %s is not \"FROM -> TO\"", excerpt([]byte(node.Value)))
		}
		var out []dhalion.Edge
		for i := 1; i < len(names); i++ {
			out = append(out, dhalion.Edge{From: strings.TrimSpace(names[i-1]), To: strings.TrimSpace(names[i])})
		}
		return out, nil
	}
	fields, err := f.mapping(node, "an edge", "from", "to", "ship")
	if err != nil {
		return nil, err
	}
	var e dhalion.Edge
	if e.From, err = f.name(node, fields, "from"); err != nil {
		return nil, err
	}
	if e.To, err = f.name(node, fields, "to"); err != nil {
		return nil, err
	}
	if n := fields["ship"]; n != nil {
		if e.Ship = strings.ToLower(strings.TrimSpace(n.Value)); n.Kind != yaml.ScalarNode || !slices.Contains(ships, e.Ship) {
			return nil, f.bad(n.Line, "ship is one of %s", strings.Join(ships, ", "))
		}
	}
	return []dhalion.Edge{e}, nil
}

func (f topologyFile) placement(node *yaml.Node) (p dhalion.Placement, err error) {
	fields, err := f.mapping(node, "a placement", "component", "instance", "worker")
	if err != nil {
		return p, err
	}
	if p.Component, err = f.name(node, fields, "component"); err != nil {
		return p, err
	}
	if p.Worker, err = f.name(node, fields, "worker"); err != nil {
		return p, err
	}
	if fields["instance"] == nil {
		return p, f.bad(node.Line, "a placement has no instance")
	}
	p.Instance, err = f.integer(fields["instance"], "instance", 0)
	return p, err
}

func (f topologyFile) slots(node *yaml.Node) ([]dhalion.Slots, error) {
	list, err := f.list(node, "slots", maxTopologyBytes)
	if err != nil {
		return nil, err
	}
	var out []dhalion.Slots
	seen := map[string]bool{}
	for _, n := range list {
		fields, err := f.mapping(n, "slots", "worker", "slots")
		if err != nil {
			return nil, err
		}
		var s dhalion.Slots
		if s.Worker, err = f.name(n, fields, "worker"); err != nil {
			return nil, err
		}
		if fields["slots"] == nil || seen[s.Worker] {
			return nil, f.bad(n.Line, "slots: %s is listed once, with its slots", s.Worker)
		}
		seen[s.Worker] = true
		if s.Slots, err = f.integer(fields["slots"], "slots", 0); err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

// mapping gives the values of a mapping that has no other keys than these.
func (f topologyFile) mapping(node *yaml.Node, what string, keys ...string) (map[string]*yaml.Node, error) {
	if node.Kind != yaml.MappingNode {
		return nil, f.bad(node.Line, "%s is a mapping of %s", what, strings.Join(keys, ", "))
	}
	out := map[string]*yaml.Node{}
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		if !slices.Contains(keys, key.Value) || key.Kind != yaml.ScalarNode {
			return nil, f.bad(key.Line, "%s has no key %s; its keys are %s", what, excerpt([]byte(key.Value)), strings.Join(keys, ", "))
		}
		if out[key.Value] != nil {
			return nil, f.bad(key.Line, "the key %s is there twice", key.Value)
		}
		if value.Kind == yaml.AliasNode {
			return nil, f.bad(value.Line, "anchors and aliases are not understood here")
		}
		out[key.Value] = value
	}
	return out, nil
}

// list gives the elements of a list; none when it is absent or null.
func (f topologyFile) list(node *yaml.Node, what string, most int) ([]*yaml.Node, error) {
	switch {
	case node == nil || node.Kind == yaml.ScalarNode && node.Tag == "!!null":
		return nil, nil
	case node.Kind != yaml.SequenceNode:
		return nil, f.bad(node.Line, "%s is a list", what)
	case len(node.Content) > most:
		return nil, f.bad(node.Line, "more than %d %s", most, what)
	}
	return node.Content, nil
}

func (f topologyFile) name(node *yaml.Node, fields map[string]*yaml.Node, key string) (string, error) {
	n := fields[key]
	if n == nil || n.Kind != yaml.ScalarNode || n.Tag == "!!null" || strings.TrimSpace(n.Value) == "" {
		line := node.Line
		if n != nil {
			line = n.Line
		}
		return "", f.bad(line, "%s is missing or no name", key)
	}
	name := strings.TrimSpace(n.Value)
	if err := ingest.CheckName(key, name); err != nil {
		return "", f.bad(n.Line, "%v", err)
	}
	return name, nil
}

func (f topologyFile) integer(n *yaml.Node, what string, least int) (int, error) {
	var v int
	if n.Kind != yaml.ScalarNode || n.Tag != "!!int" || n.Decode(&v) != nil {
		return 0, f.bad(n.Line, "%s is a whole number", what)
	}
	if v < least || v > ingest.MaxInstance+1 {
		return 0, f.bad(n.Line, "%s %d is not between %d and %d", what, v, least, ingest.MaxInstance+1)
	}
	return v, nil
}

// parseTopologyTime reads a time as CSV has it, or a date alone.
func parseTopologyTime(n *yaml.Node) (int64, error) {
	if n.Kind != yaml.ScalarNode {
		return 0, errors.New("it is no time")
	}
	value := strings.TrimSpace(n.Value)
	if len(value) == len(time.DateOnly) {
		if at, err := time.Parse(time.DateOnly, value); err == nil && at.Year() > 0 {
			return at.UnixMicro(), nil
		}
	}
	at, err := parseTime([]byte(value))
	if err != nil {
		return 0, err
	}
	if y := time.UnixMicro(at).UTC().Year(); y < 1 || y > 9999 {
		return 0, fmt.Errorf("the year %d is outside 1 to 9999", y)
	}
	return at, nil
}
