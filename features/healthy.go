package features

import (
	"math"

	dhalion "github.com/dhalion-go/dhalion"
)

// Healthy is what a job was like before the window while nothing held up the flow:
// what a model of it is built from. It is no baseline of a metric: it says nothing
// of times of day.
type Healthy struct {
	// Stretches of pastBlock that were healthy, of those that there are. With none
	// of them healthy, all count, and times per record are lowest quartiles with a
	// spread twice as wide.
	Stretches, Of int
	Service       map[dhalion.Target]Level // instances: busy seconds per record, on the worker that they are on
	Component     map[string]Level         // the median over its instances
	Share         map[dhalion.Target]Level // instances: records over an even share, at the present parallelism
	Offered       map[string]Level         // sources: records/s due
	Handled       map[string]Level         // components: records/s, of all instances
	// Busy and Queue are medians of components' means; their spread is in units of
	// the fraction, not in logarithms.
	Busy, Queue map[string]Level
}

// Level is a typical value with the standard deviation of its logarithm over
// stretches of pastBlock.
type Level struct {
	Value, Spread float64
	N             int // stretches
}

// Times per record that differ by less than leastSpread are not told apart,
// however quiet the past; unheardSpread is for what was seen in one stretch only.
const (
	leastSpread   = 0.03
	unheardSpread = 0.25
)

// A stretch is healthy when no instance is backpressured more than pressed, no
// source lags by more than behind seconds of its arrivals, and every component
// moves records.
const (
	pressed = 0.1
	behind  = 1.0
)

// Healthy reads the past of the Reader's own moment.
func (r *Reader) Healthy() Healthy {
	before := r.window(r.at).Start.UnixMicro()
	topology, _ := r.history.TopologyAt(r.at)
	h := Healthy{
		Service: map[dhalion.Target]Level{}, Component: map[string]Level{}, Share: map[dhalion.Target]Level{},
		Offered: map[string]Level{}, Handled: map[string]Level{}, Busy: map[string]Level{}, Queue: map[string]Level{},
	}
	first := before
	for _, byInstance := range r.instances {
		for _, s := range byInstance {
			if len(s.times) > 0 {
				first = min(first, s.times[0])
			}
		}
	}
	first = max(first, r.since())
	step := pastBlock.Microseconds()
	var starts []int64
	all := []int64{}
	for start := before - step; start >= first-step/2; start -= step {
		all = append(all, start)
		if r.calm(topology, start, start+step) {
			starts = append(starts, start)
		}
	}
	h.Stretches, h.Of = len(starts), len(all)
	widen := 1.0
	if len(starts) == 0 {
		starts, widen = all, 2
	}
	for _, c := range topology.Components {
		r.healthyComponent(&h, topology, c, starts, step, widen)
	}
	return h
}

// calm says that nothing held up the flow in (start, end].
func (r *Reader) calm(topology dhalion.Topology, start, end int64) bool {
	any := false
	for _, c := range topology.Components {
		moves, seen := false, false
		source := topology.IsSource(c.Name)
		for _, i := range sortedKeys(r.instances[c.Name]) {
			s := r.instances[c.Name][i]
			lo, hi := s.rows(start, end)
			if hi == lo {
				continue
			}
			seen = true
			if mean(s.col(dhalion.Backpressured, lo, hi)) > pressed {
				return false
			}
			rate := mean(handled(s, lo, hi))
			moves = moves || rate > 0
			if lag := perRead(s, lo, hi) * mean(s.col(dhalion.Lag, lo, hi)); source && lag > behind*math.Max(1, orElse(mean(s.col(dhalion.OfferedRecords, lo, hi)), rate)) {
				return false
			}
		}
		if seen && !moves {
			return false
		}
		any = any || seen
	}
	return any
}

func (r *Reader) healthyComponent(h *Healthy, topology dhalion.Topology, c dhalion.Component, starts []int64, step int64, widen float64) {
	since, source := r.sameParallelism(topology, c), topology.IsSource(c.Name)
	service, share := map[int][]float64{}, map[int][]float64{}
	var offered, flows, busy, queue []float64
	for _, start := range starts {
		rates := make([]float64, c.Parallelism)
		total, arrived, n := 0.0, nan, 0
		var busyNow, queueNow []float64
		for i := range c.Parallelism {
			rates[i] = nan
			s := r.instances[c.Name][i]
			if s == nil {
				continue
			}
			lo, hi := s.rows(start, start+step)
			if hi == lo {
				continue
			}
			if was := s.worker(hi - 1); was == "" || was == topology.WorkerOf(c.Name, i) {
				service[i] = append(service[i], serviceOf(s, lo, hi))
			}
			if rates[i] = mean(handled(s, lo, hi)); source {
				rates[i] = orElse(mean(s.col(dhalion.RecordsOut, lo, hi)), rates[i])
			}
			if known(rates[i]) {
				total += rates[i]
				n++
			}
			arrived = addKnown(arrived, orElse(mean(s.col(dhalion.OfferedRecords, lo, hi)), rates[i]))
			busyNow = append(busyNow, mean(s.col(dhalion.Busy, lo, hi)))
			queueNow = append(queueNow, mean(s.col(dhalion.InputQueueFraction, lo, hi)))
		}
		if n == c.Parallelism {
			flows = append(flows, total)
		}
		offered, busy, queue = append(offered, arrived), append(busy, mean(busyNow)), append(queue, mean(queueNow))
		if start < since || n < c.Parallelism || total <= 0 {
			continue
		}
		for i, rate := range rates {
			share[i] = append(share[i], rate*float64(c.Parallelism)/total)
		}
	}
	var typical, spread []float64
	for i := range c.Parallelism {
		target := dhalion.InstanceTarget(r.history.Job, c.Name, i)
		if l := levelOf(service[i], healthyOf, widen); l.N > 0 {
			h.Service[target] = l
			typical, spread = append(typical, l.Value), append(spread, l.Spread)
		}
		if l := levelOf(share[i], median, widen); l.N > 0 {
			h.Share[target] = l
		}
	}
	if len(typical) > 0 {
		h.Component[c.Name] = Level{Value: median(typical), Spread: math.Hypot(median(spread), spreadOf(typical, median(typical))), N: len(typical)}
	}
	if l := levelOf(offered, median, 1); l.N > 0 {
		h.Offered[c.Name] = l
	}
	if l := levelOf(flows, median, 1); l.N > 0 {
		h.Handled[c.Name] = l
	}
	plain := func(into map[string]Level, values []float64) {
		sorted := knownSorted(values)
		if len(sorted) == 0 {
			return
		}
		middle := median(sorted)
		off := make([]float64, len(sorted))
		for k, v := range sorted {
			off[k] = math.Abs(v - middle)
		}
		into[c.Name] = Level{Value: middle, Spread: 1.4826 * median(off), N: len(sorted)}
	}
	plain(h.Busy, busy)
	plain(h.Queue, queue)
}

// sameParallelism is when the component got the parallelism that it has.
func (r *Reader) sameParallelism(topology dhalion.Topology, c dhalion.Component) int64 {
	since := int64(math.MinInt64)
	for _, t := range r.history.Topologies {
		if t.From.After(r.at) {
			break
		}
		if was, ok := t.Component(c.Name); ok && was.Parallelism != c.Parallelism {
			since = math.MaxInt64
		} else if since == math.MaxInt64 {
			since = t.From.UnixMicro()
		}
	}
	return since
}

// levelOf is a centre with the spread around it; N is 0 where nothing is known.
func levelOf(values []float64, centre func([]float64) float64, widen float64) Level {
	sorted := knownSorted(values)
	for len(sorted) > 0 && sorted[0] <= 0 {
		sorted = sorted[1:]
	}
	if len(sorted) == 0 {
		return Level{Value: nan, Spread: nan}
	}
	l := Level{Value: centre(sorted), N: len(sorted)}
	if widen > 1 {
		l.Value = quantileSorted(sorted, 0.25)
	}
	l.Spread = widen * unheardSpread
	if len(sorted) > 1 {
		l.Spread = widen * math.Max(leastSpread, spreadOf(sorted, l.Value))
	}
	if len(sorted) < 4 { // a median of few deviations is itself uncertain
		l.Spread = math.Max(l.Spread, widen*unheardSpread/float64(len(sorted)))
	}
	return l
}

// spreadOf is the standard deviation of logarithms about a centre, as 1.4826 times
// the median deviation: of a past that is sick in less than half, the healthy part.
func spreadOf(values []float64, centre float64) float64 {
	off := make([]float64, 0, len(values))
	for _, v := range values {
		if v > 0 {
			off = append(off, math.Abs(math.Log(v/centre)))
		}
	}
	return orElse(1.4826*median(off), 0)
}
