// Package twin is a fluid model of a job: what its graph does in steady state when
// a record costs each instance so much time, is dealt out so, and so many arrive.
//
// Records are a fluid and queues are short against the time that is looked at.
// Backpressure blocks, as in Flink: what sends to an instance that is full waits,
// and with it all that it sends elsewhere, since records are dealt out in fixed
// shares. So one saturated instance sets the pace of all sources above it.
// Where several sources meet at it, their channels are served in turn: each gets a
// like share, and what one does not use is the others' (max-min fairness; Bertsekas
// and Gallager, Data Networks, 6.5.2).
//
// The model has no memory: it says where a job comes to rest and how fast a lag
// then grows, not how long it takes to get there.
package twin

import (
	"fmt"
	"math"
)

// Instance is one parallel copy of a component.
type Instance struct {
	// Service is busy seconds per record handled: taken in, or at a source put out.
	// NaN is unknown: it limits nothing, and its busy share is unknown.
	Service float64
	// Share is its part of the records that reach the component; shares of a
	// component add up to 1. Of no meaning at a source.
	Share float64
	// Of a source only: records per second that arrive; whether a lag waits, so that
	// it reads as fast as it can; and the most that it can read, +Inf for no limit.
	Arrival float64
	Lagging bool
	Limit   float64
}

// Component is one stage of the job.
type Component struct {
	Name      string
	Instances []Instance
}

// Edge carries records to another component, Selectivity of them for each that From
// handles. Components are named by their position.
type Edge struct {
	From, To    int
	Selectivity float64
}

// Model is a job. Components stand in an order in which every edge leads forward; a
// component without an edge into it is a source.
type Model struct {
	Components []Component
	Edges      []Edge
}

// Flow is what an instance comes to rest at. Shares are of the time, 0 to 1.
type Flow struct {
	Rate          float64 // records handled per second
	Busy          float64 // NaN where its time per record is unknown
	Backpressured float64 // waiting for room below; NaN where it waits and Busy is
	Idle          float64 // NaN where Busy is
	Queue         float64 // how full its input is: 0 or 1, and at a source 0
	Saturated     bool    // sets the pace of a source above it
	// Offered is the busy share that it would take to handle all that arrives at the
	// sources, above 1 where it cannot.
	Offered   float64
	LagGrowth float64 // of a source, records per second; negative while it catches up
}

// Steady is the state of rest of every instance, by component.
type Steady [][]Flow

// even is how exactly rates are compared.
const even = 1e-9

// Check says what is wrong with a model.
func (m *Model) Check() error {
	inflow := make([]bool, len(m.Components))
	for _, e := range m.Edges {
		if e.From < 0 || e.To >= len(m.Components) || e.From >= e.To {
			return fmt.Errorf("twin: check edge %d → %d: does not lead forward in %d components", e.From, e.To, len(m.Components))
		}
		if !(e.Selectivity >= 0) || math.IsInf(e.Selectivity, 1) {
			return fmt.Errorf("twin: check edge %d → %d: selectivity %g", e.From, e.To, e.Selectivity)
		}
		inflow[e.To] = true
	}
	for k, c := range m.Components {
		if len(c.Instances) == 0 {
			return fmt.Errorf("twin: check %s: no instance", c.Name)
		}
		sum := 0.0
		for i, n := range c.Instances {
			sum += n.Share
			switch {
			case n.Service < 0 || math.IsInf(n.Service, 1):
				return fmt.Errorf("twin: check %s[%d]: %g s per record", c.Name, i, n.Service)
			case inflow[k] && !(n.Share >= 0):
				return fmt.Errorf("twin: check %s[%d]: a share of %g", c.Name, i, n.Share)
			case !inflow[k] && (!(n.Arrival >= 0) || math.IsInf(n.Arrival, 1) || !(n.Limit >= 0)):
				return fmt.Errorf("twin: check %s[%d]: %g arrive per second, at most %g are read", c.Name, i, n.Arrival, n.Limit)
			case !inflow[k] && n.Lagging && math.IsInf(most(n), 1):
				return fmt.Errorf("twin: check %s[%d]: lags, and nothing limits what it reads", c.Name, i)
			}
		}
		if inflow[k] && math.Abs(sum-1) > 1e-6 {
			return fmt.Errorf("twin: check %s: shares add up to %g", c.Name, sum)
		}
	}
	return nil
}

// most is what a source's instance can read.
func most(n Instance) float64 {
	if n.Service > 0 {
		return math.Min(n.Limit, 1/n.Service)
	}
	return n.Limit
}

// solver is a model with what is worked out on the way to its state of rest.
type solver struct {
	*Model
	source   []int       // component of each source
	reach    [][]float64 // component, source: records there for one that the source puts out
	channels [][]float64 // component, source: channels that bring them
	want     []float64   // source: what it would read if nothing held it up
	rate     []float64   // source: what it reads
	capacity []float64   // component: what its first instance to saturate lets through
}

// Steady works out where the model comes to rest. The model must pass Check.
func (m *Model) Steady() Steady {
	s := m.solve()
	s.throttle()
	s.raise()
	return s.state()
}

func (m *Model) solve() *solver {
	s := &solver{Model: m, capacity: make([]float64, len(m.Components))}
	inflow := make([]bool, len(m.Components))
	for _, e := range m.Edges {
		inflow[e.To] = true
	}
	for k, c := range m.Components {
		s.capacity[k] = math.Inf(1)
		if inflow[k] {
			for _, n := range c.Instances {
				if need := n.Service * n.Share; need > 0 {
					s.capacity[k] = math.Min(s.capacity[k], 1/need)
				}
			}
			continue
		}
		s.source = append(s.source, k)
		want := 0.0
		for _, n := range c.Instances {
			want += wanted(n)
		}
		s.want = append(s.want, want)
	}
	s.rate = append(s.rate, s.want...)
	table := func() [][]float64 {
		cells := make([]float64, len(m.Components)*len(s.source))
		rows := make([][]float64, len(m.Components))
		for k := range rows {
			rows[k] = cells[k*len(s.source) : (k+1)*len(s.source)]
		}
		return rows
	}
	s.reach, s.channels = table(), table()
	for n, k := range s.source {
		s.reach[k][n] = 1
	}
	for k := range m.Components {
		for _, e := range m.Edges { // those into k, all of whose ends are done
			if e.To != k {
				continue
			}
			total := 0.0
			for n := range s.source {
				total += s.reach[e.From][n] * s.want[n]
			}
			for n := range s.source {
				s.reach[k][n] += e.Selectivity * s.reach[e.From][n]
				if total > 0 {
					s.channels[k][n] += float64(len(m.Components[e.From].Instances)) * s.reach[e.From][n] * s.want[n] / total
				}
			}
		}
	}
	return s
}

// wanted is what a source's instance reads while nothing holds it up.
func wanted(n Instance) float64 {
	if n.Lagging {
		return most(n)
	}
	return math.Min(n.Arrival, most(n))
}

func (s *solver) flow(k int) float64 {
	sum := 0.0
	for n, r := range s.rate {
		sum += s.reach[k][n] * r
	}
	return sum
}

// throttle slows the sources down until nothing gets more than it can handle, the
// most overloaded component first. Rates only fall, so each component is looked at
// once.
func (s *solver) throttle() {
	for range s.Components {
		worst, over := -1, 1+even
		for k := range s.Components {
			if v := s.flow(k) / s.capacity[k]; v > over {
				worst, over = k, v
			}
		}
		if worst < 0 {
			return
		}
		asked := make([]float64, len(s.rate))
		for n, r := range s.rate {
			asked[n] = s.reach[worst][n] * r
		}
		for n, v := range share(asked, s.channels[worst], s.capacity[worst]) {
			if asked[n] > 0 {
				s.rate[n] *= v / asked[n]
			}
		}
	}
}

// share deals capacity out by weight; who asks for less gets that, and the rest is
// for the others.
func share(asked, weight []float64, capacity float64) []float64 {
	got := make([]float64, len(asked))
	open := make([]bool, len(asked))
	for n := range asked {
		open[n] = asked[n] > 0
	}
	for {
		total := 0.0
		for n := range asked {
			if open[n] {
				total += weight[n]
			}
		}
		if !(total > 0) {
			return got
		}
		unit, settled := capacity/total, false
		for n := range asked {
			if open[n] && asked[n] <= unit*weight[n] {
				got[n], open[n], settled = asked[n], false, true
				capacity -= asked[n]
			}
		}
		if settled {
			continue
		}
		for n := range asked {
			if open[n] {
				got[n] = unit * weight[n]
			}
		}
		return got
	}
}

// raise gives back what throttle took for a component that a later step relieved.
func (s *solver) raise() {
	for n := range s.rate {
		room := s.want[n] - s.rate[n]
		for k := range s.Components {
			if s.reach[k][n] > 0 {
				room = math.Min(room, (s.capacity[k]-s.flow(k))/s.reach[k][n])
			}
		}
		s.rate[n] += math.Max(0, room)
	}
}

// heldUp is which sources read less than they would, and for each component whether
// it sets the pace of one of them and whether it waits for one below that does.
func (s *solver) heldUp() (sources, saturated, waits []bool) {
	sources, saturated, waits = make([]bool, len(s.rate)), make([]bool, len(s.Components)), make([]bool, len(s.Components))
	for n := range s.rate {
		sources[n] = s.rate[n] < s.want[n]*(1-even)
	}
	carries := func(k int) bool {
		for n := range s.rate {
			if sources[n] && s.reach[k][n]*s.rate[n] > 0 {
				return true
			}
		}
		return false
	}
	for k := range s.Components {
		saturated[k] = carries(k) && s.flow(k) >= s.capacity[k]*(1-even)
	}
	for k := len(s.Components) - 1; k >= 0; k-- {
		for _, e := range s.Edges {
			if e.From == k && e.Selectivity > 0 && (saturated[e.To] || waits[e.To]) && carries(k) {
				waits[k] = true
			}
		}
	}
	return sources, saturated, waits
}

func (s *solver) state() Steady {
	sources, saturated, waits := s.heldUp()
	out := make(Steady, len(s.Components))
	arrivals := make([]float64, len(s.source))
	for n, k := range s.source {
		for _, i := range s.Components[k].Instances {
			arrivals[n] += i.Arrival
		}
		out[k] = s.sourceState(n, sources[n])
	}
	for k, c := range s.Components {
		if out[k] != nil {
			continue
		}
		out[k] = make([]Flow, len(c.Instances))
		flow, offered := s.flow(k), 0.0
		for n, v := range arrivals {
			offered += s.reach[k][n] * v
		}
		for i, n := range c.Instances {
			f := Flow{Rate: flow * n.Share, Offered: offered * n.Share * n.Service}
			f.Busy = math.Min(1, f.Rate*n.Service)
			f.Saturated = saturated[k] && f.Busy >= 1-2*even
			if f.Saturated || waits[k] {
				f.Queue = 1
			}
			if waits[k] && !f.Saturated {
				f.Backpressured = 1 - f.Busy
			}
			f.Idle = math.Max(0, 1-f.Busy-f.Backpressured)
			out[k][i] = f
		}
	}
	return out
}

// sourceState deals the rate of the n-th source out to its instances; their
// channels too are served in turn.
func (s *solver) sourceState(n int, held bool) []Flow {
	c := s.Components[s.source[n]]
	asked, weight := make([]float64, len(c.Instances)), make([]float64, len(c.Instances))
	for i, v := range c.Instances {
		asked[i], weight[i] = wanted(v), 1
	}
	got := asked
	if held {
		got = share(asked, weight, s.rate[n])
	}
	out := make([]Flow, len(c.Instances))
	for i, v := range c.Instances {
		f := Flow{Rate: got[i], Offered: v.Arrival * v.Service, LagGrowth: v.Arrival - got[i]}
		f.Busy = math.Min(1, got[i]*v.Service)
		if got[i] < asked[i]*(1-even) {
			f.Backpressured = 1 - f.Busy
		}
		f.Idle = math.Max(0, 1-f.Busy-f.Backpressured)
		out[i] = f
	}
	return out
}
