package flink

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/internal/engine/flink"
)

// maxPollBytes bounds what one poll may hold: a recording in which no poll ever
// ends would otherwise be held whole.
const maxPollBytes = 512 << 20

// timed is a decoded body and when it was answered.
type timed[T any] struct {
	value T
	at    time.Time
}

type vertexKey struct{ run, vertex string }

// poll is what was answered from one GET /jobs/overview to the next. Nothing in
// it depends on the order of the answers after the first: of two answers to one
// question the later one counts.
type poll struct {
	at          time.Time
	bytes       int
	listed      bool // whether the overview was answered
	overview    map[string]flink.JobSummary
	details     map[string]timed[flink.Job]
	plans       map[string]timed[flink.Plan]
	vertices    map[vertexKey]timed[flink.VertexDetail]
	gauges      map[vertexKey]map[string]timed[flink.Number] // by the metric's id
	checkpoints map[string]timed[flink.Checkpoints]
	intervals   map[string]timed[flink.Number]
	configs     map[string]bool // runs whose checkpoint interval was asked for, answered or not
	exceptions  map[string]timed[flink.Exceptions]
	requests    map[string]timed[flink.Requirements]
	workers     map[string]map[string]timed[flink.Number]
	managers    map[string]timed[[]dhalion.Slots] // one, under ""

	unanswered, unreadable int
}

func newPoll(at time.Time) *poll {
	return &poll{
		at:          at,
		overview:    map[string]flink.JobSummary{},
		details:     map[string]timed[flink.Job]{},
		plans:       map[string]timed[flink.Plan]{},
		vertices:    map[vertexKey]timed[flink.VertexDetail]{},
		gauges:      map[vertexKey]map[string]timed[flink.Number]{},
		checkpoints: map[string]timed[flink.Checkpoints]{},
		intervals:   map[string]timed[flink.Number]{},
		configs:     map[string]bool{},
		exceptions:  map[string]timed[flink.Exceptions]{},
		requests:    map[string]timed[flink.Requirements]{},
		workers:     map[string]map[string]timed[flink.Number]{},
		managers:    map[string]timed[[]dhalion.Slots]{},
	}
}

// add sorts an answer in. What was not answered, or not readably, is counted and
// stays unknown.
func (p *poll) add(a flink.Answer) error {
	r := a.Resource()
	if r.Kind == flink.KindOther {
		return nil
	}
	if r.Kind == flink.KindCheckpointConfig {
		p.configs[r.Job] = true
	}
	if !a.OK() {
		p.unanswered++
		return nil
	}
	if p.bytes += len(a.Body); p.bytes > maxPollBytes {
		return fmt.Errorf("flink: read poll of %s: it has more than %d bytes", p.at.Format(time.RFC3339), maxPollBytes)
	}
	var err error
	switch {
	case a.Method == "PUT" && r.Kind == flink.KindRequirements:
		err = decode(p.requests, r.Job, a.Time, a.Request, same[flink.Requirements])
	case a.Method != "GET":
	case r.Kind == flink.KindJobs:
		var all flink.JobsOverview
		all, err = flink.Decode[flink.JobsOverview](a.Body)
		p.listed = p.listed || err == nil && all.Jobs != nil
		for _, s := range all.Jobs {
			p.overview[s.ID] = s
		}
	case r.Kind == flink.KindJob:
		err = decode(p.details, r.Job, a.Time, a.Body, func(v flink.Job) (flink.Job, error) { return v, isAbout(v.ID, r.Job) })
	case r.Kind == flink.KindPlan:
		err = decode(p.plans, r.Job, a.Time, a.Body, func(v flink.PlanAnswer) (flink.Plan, error) { return v.Plan, nil })
	case r.Kind == flink.KindVertex:
		err = decode(p.vertices, vertexKey{r.Job, r.Vertex}, a.Time, a.Body, func(v flink.VertexDetail) (flink.VertexDetail, error) { return v, isAbout(v.ID, r.Vertex) })
	case r.Kind == flink.KindVertexMetrics:
		err = addGauges(p.gauges, vertexKey{r.Job, r.Vertex}, a, func(id string) bool {
			_, name, ok := flink.Metric{ID: id}.Subtask()
			return ok && wanted(name)
		})
	case r.Kind == flink.KindTaskManagerMetrics:
		err = addGauges(p.workers, r.TaskManager, a, func(id string) bool {
			switch id {
			case cpuLoad, cpuTime, heapUsed, heapMax, gcTime, gcCount:
				return true
			}
			return false
		})
	case r.Kind == flink.KindTaskManagers:
		err = decode(p.managers, "", a.Time, a.Body, slotsOf)
	case r.Kind == flink.KindCheckpoints:
		err = decode(p.checkpoints, r.Job, a.Time, a.Body, same[flink.Checkpoints])
	case r.Kind == flink.KindCheckpointConfig:
		err = decode(p.intervals, r.Job, a.Time, a.Body, func(v flink.CheckpointConfig) (flink.Number, error) { return v.Interval, nil })
	case r.Kind == flink.KindExceptions:
		err = decode(p.exceptions, r.Job, a.Time, a.Body, same[flink.Exceptions])
	}
	if err != nil {
		p.unreadable++
	}
	return nil
}

// has says that a run is there: one that is over and only listed still is not.
func (p *poll) has(run string) bool {
	s, ok := p.overview[run]
	_, asked := p.details[run]
	return asked || ok && !isOver(s.State)
}

// slotsOf are the slots of the TaskManagers, by the worker's name; an error where the
// answer does not say them of each.
func slotsOf(v flink.TaskManagers) ([]dhalion.Slots, error) {
	if v.TaskManagers == nil {
		return nil, errors.New("it lists no TaskManagers")
	}
	var all []dhalion.Slots
	for _, m := range v.TaskManagers {
		name, n := workerName(m.ID), m.Slots.Int()
		if name == "" || n < 0 || slices.ContainsFunc(all, func(s dhalion.Slots) bool { return s.Worker == name }) {
			return nil, errors.New("a TaskManager without an id or slots")
		}
		all = append(all, dhalion.Slots{Worker: name, Slots: n})
	}
	slices.SortFunc(all, func(a, b dhalion.Slots) int { return cmp.Compare(a.Worker, b.Worker) })
	return all, nil
}

func same[T any](v T) (T, error) { return v, nil }

// isAbout refuses an answer that does not name what was asked about: whatever
// sent it, Flink names it.
func isAbout(id, asked string) error {
	if id != asked {
		return errors.New("it is about something else")
	}
	return nil
}

// decode puts a body under key, unless a later answer is already there.
func decode[K comparable, B, T any](into map[K]timed[T], key K, at time.Time, body []byte, pick func(B) (T, error)) error {
	if len(body) == 0 {
		return errors.New("no body")
	}
	if before, ok := into[key]; ok && at.Before(before.at) {
		return nil
	}
	v, err := flink.Decode[B](body)
	if err != nil {
		return err
	}
	picked, err := pick(v)
	if err != nil {
		return err
	}
	into[key] = timed[T]{picked, at}
	return nil
}

// addGauges adds the wanted metrics of an answer to those of other answers about
// the same: one question is split over several requests when it gets too long.
func addGauges[K comparable](into map[K]map[string]timed[flink.Number], key K, a flink.Answer, want func(id string) bool) error {
	metrics, err := flink.Decode[[]flink.Metric](a.Body)
	if err != nil {
		return err
	}
	all := into[key]
	if all == nil {
		all = map[string]timed[flink.Number]{}
		into[key] = all
	}
	for _, m := range metrics {
		if before, ok := all[m.ID]; want(m.ID) && (!ok || !a.Time.Before(before.at)) {
			all[m.ID] = timed[flink.Number]{m.Value, a.Time}
		}
	}
	return nil
}

// The names of what is read of a TaskManager.
const (
	cpuLoad  = "Status.JVM.CPU.Load"
	cpuTime  = "Status.JVM.CPU.Time" // ns
	heapUsed = "Status.JVM.Memory.Heap.Used"
	heapMax  = "Status.JVM.Memory.Heap.Max"
	gcTime   = "Status.JVM.GarbageCollector.All.TimeMsPerSecond"
	gcCount  = "Status.JVM.GarbageCollector.All.Time" // ms, since the process began
)

// gauge is what is read of a subtask's metrics at one poll.
type gauge struct {
	queueLength, queueSize, inPool, outPool flink.Number
	busy, backpressured, idle               flink.Number // accumulated, ms
	busyRate, backpressuredRate, idleRate   flink.Number // ms per s, means over 60 s
	pending                                 flink.Number // sum over the operators
	pendingAt                               time.Time
	hasPending                              bool
	// taken is what the operators that have pending records have read, sum of their
	// own counters; unknown if one has none. What the subtask puts out differs from it
	// where Flink has chained a filter or a flatMap to the source.
	taken flink.Number
}

const (
	pendingSuffix = "pendingRecords"
	takenSuffix   = "numRecordsOut"
)

// field finds where a metric's name, without the subtask, belongs; nil when it
// is not read. Up to Flink 1.13 the buffers' names had no "Shuffle.Netty.…".
func (g *gauge) field(name string) *flink.Number {
	switch name {
	case "Shuffle.Netty.Input.Buffers.inputQueueLength", "buffers.inputQueueLength":
		return &g.queueLength
	case "Shuffle.Netty.Input.Buffers.inputQueueSize", "buffers.inputQueueSize":
		return &g.queueSize
	case "Shuffle.Netty.Input.Buffers.inPoolUsage", "buffers.inPoolUsage":
		return &g.inPool
	case "Shuffle.Netty.Output.Buffers.outPoolUsage", "buffers.outPoolUsage":
		return &g.outPool
	case "accumulateBusyTimeMs":
		return &g.busy
	case "accumulateBackPressuredTimeMs":
		return &g.backpressured
	case "accumulateIdleTimeMs":
		return &g.idle
	case "busyTimeMsPerSecond":
		return &g.busyRate
	case "backPressuredTimeMsPerSecond":
		return &g.backpressuredRate
	case "idleTimeMsPerSecond":
		return &g.idleRate
	}
	return nil
}

func isPending(name string) bool {
	return name == pendingSuffix || strings.HasSuffix(name, "."+pendingSuffix)
}

func wanted(name string) bool {
	var g gauge
	return isPending(name) || strings.HasSuffix(name, "."+takenSuffix) || g.field(name) != nil
}

// read sorts the metrics of a vertex by subtask.
func read(all map[string]timed[flink.Number]) map[int]*gauge {
	bySubtask := map[int]*gauge{}
	for _, id := range sorted(all) {
		m := all[id]
		index, name, ok := flink.Metric{ID: id}.Subtask()
		if !ok {
			continue
		}
		g := bySubtask[index]
		if g == nil {
			g = &gauge{}
			bySubtask[index] = g
		}
		if f := g.field(name); f != nil {
			*f = m.value
			continue
		}
		if !isPending(name) {
			continue // read with the operator's pending records, below
		}
		taken := flink.Number{}
		if operator, ok := strings.CutSuffix(id, pendingSuffix); ok && strings.HasSuffix(name, "."+pendingSuffix) {
			taken = all[operator+takenSuffix].value
		}
		if g.hasPending {
			taken = plus(g.taken, taken)
		}
		g.taken = taken
		// A negative number of pending records is a connector's "unknown", and
		// with one part unknown so is the sum.
		pending := m.value
		if v, _ := pending.Get(); v < 0 {
			pending = flink.Number{}
		}
		if g.hasPending {
			pending = plus(g.pending, pending)
		}
		g.pending, g.hasPending = pending, true
		if m.at.After(g.pendingAt) {
			g.pendingAt = m.at
		}
	}
	return bySubtask
}

// plus is a sum; unknown if a part is.
func plus(a, b flink.Number) flink.Number {
	x, known := a.Get()
	y, also := b.Get()
	if !known || !also {
		return flink.Number{}
	}
	return flink.Known(x + y)
}
