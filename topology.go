package dhalion

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

// Component is one operator, vertex, bolt, spout or stage. Its name is the
// engine's name for it, trimmed. External marks a component whose cost is set
// by a system outside the job, as a sink's usually is.
type Component struct {
	Name           string `json:"name"`
	Parallelism    int    `json:"parallelism"`
	MaxParallelism int    `json:"max_parallelism,omitempty"`
	External       bool   `json:"external,omitempty"`
}

// Edge is one stream from a component to another. Ship is how records are dealt
// out over the receiving instances: "hash", "rebalance", "forward", "broadcast",
// or empty when that is not known.
type Edge struct {
	From string `json:"from"`
	To   string `json:"to"`
	Ship string `json:"ship,omitempty"`
}

// Placement says on which worker an instance runs.
type Placement struct {
	Component string `json:"component"`
	Instance  int    `json:"instance"`
	Worker    string `json:"worker"`
}

// Slots says how many instances of one job a worker has room for, by slots: of those
// that share a slot Flink counts one. They are the worker's, free or taken.
type Slots struct {
	Worker string `json:"worker"`
	Slots  int    `json:"slots"`
}

// ChangeBy says who made a topology what it is.
type ChangeBy string

// Who can change a topology. An engine's own restart may move instances; it is
// no change of the job by anyone.
const (
	ChangeFirst    ChangeBy = "first"    // the first that was seen
	ChangeEngine   ChangeBy = "engine"   // restart, lost worker, scheduler
	ChangeOperator ChangeBy = "operator" // rescale, new run, by a person or another tool
	ChangeDhalion  ChangeBy = "dhalion"  // an action of ours
)

// Topology is the graph, parallelism, maximum parallelism and placement of a job
// from one time on, until the next Topology of that job. Run is the engine's own
// id of the run. It is not a plan of what should be.
type Topology struct {
	From       time.Time   `json:"from"`
	By         ChangeBy    `json:"by,omitempty"`
	Run        string      `json:"run,omitempty"`
	Components []Component `json:"components"`
	Edges      []Edge      `json:"edges"`
	Placement  []Placement `json:"placement,omitempty"`
	// Slots are those of all workers of the engine, also of those that host nothing of
	// the job; none where the engine has none or they are not known.
	Slots []Slots `json:"slots,omitempty"`
}

// Normalize sorts the parts so that equal topologies are equal values.
func (t *Topology) Normalize() {
	slices.SortFunc(t.Components, func(a, b Component) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(t.Edges, func(a, b Edge) int {
		return cmp.Or(cmp.Compare(a.From, b.From), cmp.Compare(a.To, b.To), cmp.Compare(a.Ship, b.Ship))
	})
	slices.SortFunc(t.Placement, func(a, b Placement) int {
		return cmp.Or(cmp.Compare(a.Component, b.Component), cmp.Compare(a.Instance, b.Instance))
	})
	slices.SortFunc(t.Slots, func(a, b Slots) int { return cmp.Or(cmp.Compare(a.Worker, b.Worker), cmp.Compare(a.Slots, b.Slots)) })
}

// Validate says what is wrong with a topology: components without a name or
// parallelism, edges or placements of components that do not exist, cycles.
func (t Topology) Validate() error {
	seen := map[string]int{}
	for _, c := range t.Components {
		if c.Name == "" {
			return fmt.Errorf("dhalion: topology: a component has no name")
		}
		if _, twice := seen[c.Name]; twice {
			return fmt.Errorf("dhalion: topology: component %q is listed twice", c.Name)
		}
		if c.Parallelism < 1 {
			return fmt.Errorf("dhalion: topology: component %q: parallelism %d is below 1", c.Name, c.Parallelism)
		}
		if c.MaxParallelism != 0 && c.MaxParallelism < c.Parallelism {
			return fmt.Errorf("dhalion: topology: component %q: maximum parallelism %d is below its parallelism %d", c.Name, c.MaxParallelism, c.Parallelism)
		}
		seen[c.Name] = c.Parallelism
	}
	for _, e := range t.Edges {
		for _, end := range []string{e.From, e.To} {
			if _, ok := seen[end]; !ok {
				return fmt.Errorf("dhalion: topology: edge %s -> %s: no component %q", e.From, e.To, end)
			}
		}
	}
	for _, p := range t.Placement {
		n, ok := seen[p.Component]
		if !ok {
			return fmt.Errorf("dhalion: topology: placement of %s[%d]: no such component", p.Component, p.Instance)
		}
		if p.Instance < 0 || p.Instance >= n {
			return fmt.Errorf("dhalion: topology: placement of %s[%d]: it has %d instances", p.Component, p.Instance, n)
		}
	}
	workers := map[string]bool{}
	for _, s := range t.Slots {
		if s.Worker == "" || s.Slots < 0 || workers[s.Worker] {
			return fmt.Errorf("dhalion: topology: %d slots of worker %q: each worker is listed once, with 0 or more", s.Slots, s.Worker)
		}
		workers[s.Worker] = true
	}
	if len(t.Order()) != len(t.Components) {
		return fmt.Errorf("dhalion: topology: the edges form a cycle")
	}
	return nil
}

// Component looks a component up by name.
func (t Topology) Component(name string) (Component, bool) {
	for _, c := range t.Components {
		if c.Name == name {
			return c, true
		}
	}
	return Component{}, false
}

// Upstream lists the components with an edge into name, sorted, each once.
func (t Topology) Upstream(name string) []string {
	var names []string
	for _, e := range t.Edges {
		if e.To == name {
			names = append(names, e.From)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Downstream lists the components with an edge from name, sorted, each once.
func (t Topology) Downstream(name string) []string {
	var names []string
	for _, e := range t.Edges {
		if e.From == name {
			names = append(names, e.To)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// IsSource reports whether no edge leads into name.
func (t Topology) IsSource(name string) bool {
	return !slices.ContainsFunc(t.Edges, func(e Edge) bool { return e.To == name })
}

// IsSink reports whether edges lead into name and none out of it.
func (t Topology) IsSink(name string) bool {
	return !t.IsSource(name) && !slices.ContainsFunc(t.Edges, func(e Edge) bool { return e.From == name })
}

// Order lists the components from the sources down, ties by name. Components on
// a cycle are left out.
func (t Topology) Order() []string {
	indegree := map[string]int{}
	for _, c := range t.Components {
		indegree[c.Name] = len(t.Upstream(c.Name))
	}
	var ready, order []string
	for name, n := range indegree {
		if n == 0 {
			ready = append(ready, name)
		}
	}
	for len(ready) > 0 {
		slices.Sort(ready)
		name := ready[0]
		ready = ready[1:]
		order = append(order, name)
		for _, next := range t.Downstream(name) {
			if indegree[next]--; indegree[next] == 0 {
				ready = append(ready, next)
			}
		}
	}
	return order
}

// WorkerOf returns where an instance runs, empty when that is not known.
func (t Topology) WorkerOf(component string, instance int) string {
	for _, p := range t.Placement {
		if p.Component == component && p.Instance == instance {
			return p.Worker
		}
	}
	return ""
}

// Instances is the number of instances of all components.
func (t Topology) Instances() int {
	n := 0
	for _, c := range t.Components {
		n += c.Parallelism
	}
	return n
}

// SameShape reports whether graph and parallelism are equal; placement, run and
// time may differ.
func (t Topology) SameShape(o Topology) bool {
	t.Components, t.Edges, t.Placement = slices.Clone(t.Components), slices.Clone(t.Edges), nil
	o.Components, o.Edges, o.Placement = slices.Clone(o.Components), slices.Clone(o.Edges), nil
	t.Normalize()
	o.Normalize()
	return slices.Equal(t.Components, o.Components) && slices.Equal(t.Edges, o.Edges)
}

// TotalSlots are those of all workers; 0 where they are not known.
func (t Topology) TotalSlots() int {
	n := 0
	for _, s := range t.Slots {
		n += s.Slots
	}
	return n
}

// Digest is the SHA-256, in hex, of graph, parallelism and placement; the time
// from which it holds, the run, who made it and what room the engine has are no part
// of it.
func (t Topology) Digest() string {
	t.Components = slices.Clone(t.Components)
	t.Edges = slices.Clone(t.Edges)
	t.Placement = slices.Clone(t.Placement)
	t.From, t.By, t.Run, t.Slots = time.Time{}, "", "", nil
	t.Normalize()
	data, err := json.Marshal(t)
	if err != nil {
		// A struct of strings and ints always encodes.
		panic(fmt.Sprintf("dhalion: topology digest: %v", err))
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}
