package flinkautoscaler

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/ingest"
)

// What is left out, as it is counted in ingest.Report.Repairs.
const (
	UnmappedMetric  = "unmapped_metric"  // a value that no metric of ours means
	ImpossibleValue = "impossible_value" // a counter that fell, a busy share above 1
)

// State is what the autoscaler keeps of one job; what is not there or cannot be
// read is empty.
type State struct {
	Polls     []Poll
	Scalings  []Scaling
	Overrides map[string]int
}

// Mapping says where a component's metric comes from.
type Mapping struct {
	Metric dhalion.Metric `json:"metric"`
	From   string         `json:"from"`
	Help   string         `json:"help"`
}

// Mappings lists every metric that this package gives, all of components, by
// name. LOAD is no busy_fraction: it is the busiest subtask's.
var Mappings = []Mapping{
	{dhalion.Busy, "ACCUMULATED_BUSY_TIME", "its growth over time and instances; of one instance else LOAD; unknown while the parallelism is"},
	{dhalion.Lag, "LAG", "of a source; a source that reads 0 at all times has no such metric, or no lag: unknown"},
	{dhalion.OfferedRecords, "NUM_RECORDS_IN, LAG", "of a source: what it took in and the lag's growth, at least 0"},
	{dhalion.RecordsIn, "NUM_RECORDS_IN", "its growth per second; not of a source"},
	{dhalion.RecordsOut, "NUM_RECORDS_OUT", "its growth per second; unknown where nothing was put out: what leaves the job is not counted"},
}

// used are the names whose values are taken; LOAD only of one instance.
var used = []string{"ACCUMULATED_BUSY_TIME", "LAG", "LOAD", "NUM_RECORDS_IN", "NUM_RECORDS_OUT"}

// Source is the history of one job in a state: measurements of its components,
// which are called by their vertex's id, and its topologies, without edges, where
// the parallelism of all vertices is known.
func Source(job dhalion.JobID, s State) ingest.Source {
	return ingest.SourceFunc(func(ctx context.Context, to *ingest.Collector) error {
		h := &history{job: job, state: s, to: to, vertices: map[string]bool{}, lagging: map[string]bool{}, scalings: map[string][]Scaling{}}
		for _, p := range s.Polls {
			for id, metrics := range p.Vertices {
				h.vertices[id] = true
				h.lagging[id] = h.lagging[id] || metrics["LAG"] > 0
			}
		}
		for _, sc := range s.Scalings {
			h.vertices[sc.Vertex] = true
			h.scalings[sc.Vertex] = append(h.scalings[sc.Vertex], sc)
		}
		for id := range s.Overrides {
			h.vertices[id] = true
		}
		if err := h.topologies(); err != nil {
			return err
		}
		for i, p := range s.Polls {
			if err := ctx.Err(); err != nil {
				return context.Cause(ctx)
			}
			for _, id := range slices.Sorted(maps.Keys(p.Vertices)) {
				var before map[string]float64
				seconds := 0.0
				if i > 0 {
					before = s.Polls[i-1].Vertices[id]
					seconds = p.At.Sub(s.Polls[i-1].At).Seconds()
				}
				if err := h.vertex(id, p.At, p.Vertices[id], before, seconds); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

type history struct {
	job      dhalion.JobID
	state    State
	to       *ingest.Collector
	vertices map[string]bool // all that are known of
	lagging  map[string]bool // whose LAG was ever above 0
	scalings map[string][]Scaling
}

// parallelism of a vertex at a time; 0 when it is not known. A rescale is in
// force from its time on. A vertex that was not rescaled has, and had, what the
// overrides say, which name every vertex.
func (h *history) parallelism(id string, at time.Time) int {
	own := h.scalings[id]
	if len(own) == 0 {
		return h.state.Overrides[id]
	}
	known := own[0].From
	for _, s := range own {
		if !s.At.After(at) {
			known = s.To
		}
	}
	return known
}

func (h *history) topologies() error {
	var times []time.Time
	if len(h.state.Polls) > 0 {
		times = append(times, h.state.Polls[0].At)
	}
	for _, s := range h.state.Scalings {
		times = append(times, s.At)
	}
	slices.SortFunc(times, time.Time.Compare)
	most := map[string]int{}
	for _, s := range h.state.Scalings {
		most[s.Vertex] = max(most[s.Vertex], s.MaxParallelism)
	}
	var before dhalion.Topology
	for i, at := range times {
		t := dhalion.Topology{From: at, By: dhalion.ChangeOperator}
		if i == 0 && len(h.state.Polls) > 0 && at.Equal(h.state.Polls[0].At) {
			t.By = dhalion.ChangeFirst
		}
		for _, id := range slices.Sorted(maps.Keys(h.vertices)) {
			p := h.parallelism(id, at)
			if p == 0 {
				return nil
			}
			c := dhalion.Component{Name: id, Parallelism: p}
			if most[id] >= p {
				c.MaxParallelism = most[id]
			}
			t.Components = append(t.Components, c)
		}
		if i > 0 && t.SameShape(before) {
			continue
		}
		if err := h.to.Topology(h.job, t); err != nil {
			return err
		}
		before = t
	}
	return nil
}

// vertex gives what one vertex's numbers at a poll say, with those of the poll
// before, nil when there are none, so many seconds ago.
func (h *history) vertex(id string, at time.Time, now, before map[string]float64, seconds float64) error {
	unmapped := 0
	for name := range now {
		if !slices.Contains(used, name) {
			unmapped++
		}
	}
	h.to.Repaired(UnmappedMetric, unmapped)

	get := func(of map[string]float64, name string) float64 {
		v, ok := of[name]
		if !ok || math.IsInf(v, 0) {
			return math.NaN()
		}
		return v
	}
	// growth is that of a counter; one that fell began anew.
	growth := func(name string) float64 {
		if !(seconds > 0) {
			return math.NaN()
		}
		d := get(now, name) - get(before, name)
		if d < 0 {
			h.to.Repaired(ImpossibleValue, 1)
			return math.NaN()
		}
		return d
	}
	target := dhalion.ComponentTarget(h.job, id)
	var failed error
	emit := func(m dhalion.Metric, v float64) {
		if v != v || failed != nil {
			return
		}
		place, err := h.to.Series(target, "", m)
		if err != nil {
			failed = fmt.Errorf("flinkautoscaler: %s of %s: %w", m, id, err)
			return
		}
		if place.Accepts(v) != nil {
			h.to.Repaired(ImpossibleValue, 1)
			return
		}
		failed = h.to.AddAt(place, at.UnixMicro(), v)
	}

	_, source := now["LAG"] // given of sources, and of them always
	in := growth("NUM_RECORDS_IN")
	if source {
		if h.lagging[id] {
			emit(dhalion.Lag, get(now, "LAG"))
			emit(dhalion.OfferedRecords, math.Max(0, (in+get(now, "LAG")-get(before, "LAG"))/seconds))
		}
	} else if get(now, "NUM_RECORDS_IN") > 0 {
		emit(dhalion.RecordsIn, in/seconds)
	}
	if get(now, "NUM_RECORDS_OUT") > 0 {
		emit(dhalion.RecordsOut, growth("NUM_RECORDS_OUT")/seconds)
	}
	switch p := h.parallelism(id, at); {
	case p == 0:
	case !math.IsNaN(get(now, "ACCUMULATED_BUSY_TIME")):
		emit(dhalion.Busy, growth("ACCUMULATED_BUSY_TIME")/1e3/seconds/float64(p))
	case p == 1:
		emit(dhalion.Busy, get(now, "LOAD"))
	}
	return failed
}
