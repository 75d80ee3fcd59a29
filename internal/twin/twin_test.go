package twin

import (
	"fmt"
	"math"
	"reflect"
	"testing"

	"pgregory.net/rapid"
)

// stage is a component of n instances with even shares.
func stage(name string, n int, service float64) Component {
	c := Component{Name: name}
	for range n {
		c.Instances = append(c.Instances, Instance{Service: service, Share: 1 / float64(n), Limit: math.Inf(1)})
	}
	return c
}

// source is one of n instances at which rate records arrive in all.
func source(name string, n int, rate float64) Component {
	c := stage(name, n, 1e-4)
	for i := range c.Instances {
		c.Instances[i].Arrival = rate / float64(n)
	}
	return c
}

// wordCount: 100 records/s become 400 words/s, for which 5 counters of 10 ms have
// room for 500/s.
func wordCount() Model {
	return Model{
		Components: []Component{source("source", 2, 100), stage("splitter", 2, .01), stage("counter", 5, .01), stage("sink", 1, .001)},
		Edges:      []Edge{{0, 1, 1}, {1, 2, 4}, {2, 3, 1}},
	}
}

func near(t *testing.T, what string, got, want float64) {
	t.Helper()
	if math.Abs(got-want) > 1e-6 {
		t.Errorf("%s: %g, want %g", what, got, want)
	}
}

func TestAJobWithRoomToSpareHandlesAllThatArrives(t *testing.T) {
	m := wordCount()
	s := m.Steady()
	near(t, "source", s[0][0].Rate, 50)
	near(t, "splitter", s[1][0].Busy, .5) // 50/s · 10 ms
	near(t, "counter", s[2][4].Busy, .8)  // 80/s · 10 ms
	near(t, "counter idle", s[2][4].Idle, .2)
	near(t, "lag", s[0][1].LagGrowth, 0)
}

func TestOneSlowInstanceSetsThePaceOfAllAboveIt(t *testing.T) {
	m := wordCount()
	m.Components[2].Instances[3].Service = .02 // 50/s of the fifth part: 250 words/s, 62.5 records/s
	s := m.Steady()
	near(t, "source", s[0][0].Rate, 31.25)
	near(t, "lag grows", s[0][0].LagGrowth, 18.75)
	near(t, "slow counter busy", s[2][3].Busy, 1)
	near(t, "slow counter's queue", s[2][3].Queue, 1)
	near(t, "other counter busy", s[2][0].Busy, .5)
	near(t, "other counter's queue", s[2][0].Queue, 0)
	near(t, "splitter busy", s[1][0].Busy, .3125)
	near(t, "splitter backpressured", s[1][0].Backpressured, .6875)
	near(t, "sink backpressured", s[3][0].Backpressured, 0)
	near(t, "slow counter asked for", s[2][3].Offered, 1.6)
}

func TestASourceThatCannotReadHoldsUpNothing(t *testing.T) {
	m := wordCount()
	m.Components[0].Instances[1].Limit = 20 // of 50
	s := m.Steady()
	near(t, "lag grows", s[0][1].LagGrowth, 30)
	near(t, "the other reads", s[0][0].Rate, 50)
	near(t, "backpressured", s[0][1].Backpressured, 0)
	near(t, "counter busy", s[2][0].Busy, .56) // 70 · 4 / 5 · 10 ms
}

func TestALagIsReadAsFastAsTheGraphTakesIt(t *testing.T) {
	m := wordCount()
	m.Components[0].Instances[0].Lagging = true
	s := m.Steady()
	// The counters take 500 words/s, 125 records/s; the other source's 50 are less
	// than its half.
	near(t, "catches up", s[0][0].Rate, 75)
	near(t, "lag shrinks", s[0][0].LagGrowth, -25)
	near(t, "counter busy", s[2][0].Busy, 1)
}

func TestTwoSourcesThatMeetAtABottleneckShareItByChannels(t *testing.T) {
	m := Model{
		Components: []Component{source("a", 3, 90), source("b", 1, 30), stage("join", 1, .01)},
		Edges:      []Edge{{0, 2, 1}, {1, 2, 1}},
	}
	s := m.Steady()
	// 100/s over 4 channels, 25 each; b asks for 30 and gets 25, a gets 75.
	near(t, "a", s[0][0].Rate, 25)
	near(t, "b", s[1][0].Rate, 25)
	m.Components[1] = source("b", 1, 10)
	s = m.Steady()
	near(t, "a, with what b leaves", s[0][0].Rate, 30)
	near(t, "b", s[1][0].Rate, 10)
	if s[1][0].Backpressured != 0 {
		t.Error("b gets all it asks for and is not held up")
	}
}

func TestAnUnknownTimePerRecordLimitsNothingAndStaysUnknown(t *testing.T) {
	m := wordCount()
	m.Components[2].Instances[0].Service = math.NaN()
	s := m.Steady()
	near(t, "rate", s[2][0].Rate, 80)
	if !math.IsNaN(s[2][0].Busy) || !math.IsNaN(s[2][0].Offered) {
		t.Errorf("busy %g of an instance whose time per record is unknown", s[2][0].Busy)
	}
	if f := s[2][0]; f.Backpressured != 0 || !math.IsNaN(f.Idle) {
		t.Errorf("one that waits for nobody waits %g, and is idle %g of the time, which nobody knows", f.Backpressured, f.Idle)
	}
	m = wordCount()
	m.Components[1].Instances[0].Service = math.NaN()
	for i := range m.Components[2].Instances {
		m.Components[2].Instances[i].Service *= 10 // sets the pace
	}
	if f := m.Steady()[1][0]; f.Queue != 1 || !math.IsNaN(f.Backpressured) || !math.IsNaN(f.Idle) {
		t.Errorf("one that waits the rest of an unknown time: %+v", f)
	}
}

func TestAModelThatMakesNoSenseIsRefused(t *testing.T) {
	for name, spoil := range map[string]func(*Model){
		"an edge back":              func(m *Model) { m.Edges[0] = Edge{1, 0, 1} },
		"an edge to nowhere":        func(m *Model) { m.Edges[0].To = 9 },
		"a selectivity below zero":  func(m *Model) { m.Edges[0].Selectivity = -1 },
		"shares of more than one":   func(m *Model) { m.Components[1].Instances[0].Share = 1 },
		"a share that is unknown":   func(m *Model) { m.Components[1].Instances[0].Share = math.NaN() },
		"a component of nothing":    func(m *Model) { m.Components[1].Instances = nil },
		"time that runs backwards":  func(m *Model) { m.Components[1].Instances[0].Service = -1 },
		"arrivals that are unknown": func(m *Model) { m.Components[0].Instances[0].Arrival = math.NaN() },
		"a lag read without limit": func(m *Model) {
			m.Components[0].Instances[0] = Instance{Lagging: true, Limit: math.Inf(1), Service: math.NaN()}
		},
	} {
		m := wordCount()
		spoil(&m)
		if m.Check() == nil {
			t.Errorf("%s was let pass", name)
		}
	}
	m := wordCount()
	if err := m.Check(); err != nil {
		t.Error(err)
	}
}

// draw is a job of at most 7 components, of which the first `sources` are sources.
func draw(t *rapid.T, sources int) Model {
	var m Model
	n := sources + rapid.IntRange(1, 6).Draw(t, "stages")
	for k := range n {
		c := Component{Name: fmt.Sprint("c", k)}
		p := rapid.IntRange(1, 4).Draw(t, "parallelism")
		sum := 0.0
		for range p {
			i := Instance{
				Service: rapid.Float64Range(.0005, .05).Draw(t, "service"),
				Share:   rapid.Float64Range(.1, 1).Draw(t, "share"),
				Limit:   math.Inf(1),
			}
			if k < sources {
				i.Arrival = rapid.Float64Range(0, 200).Draw(t, "arrival")
				i.Lagging = rapid.Bool().Draw(t, "lagging")
			}
			sum += i.Share
			c.Instances = append(c.Instances, i)
		}
		for i := range c.Instances {
			c.Instances[i].Share /= sum
		}
		m.Components = append(m.Components, c)
		if k < sources {
			continue
		}
		from := rapid.IntRange(0, k-1).Draw(t, "from")
		for u := range k {
			if u == from || rapid.IntRange(0, 3).Draw(t, "edge") == 0 {
				m.Edges = append(m.Edges, Edge{u, k, rapid.Float64Range(.1, 3).Draw(t, "selectivity")})
			}
		}
	}
	if err := m.Check(); err != nil {
		t.Fatal(err)
	}
	return m
}

func rate(flows []Flow) float64 {
	sum := 0.0
	for _, f := range flows {
		sum += f.Rate
	}
	return sum
}

func TestWhatFlowsInIsWhatWasSentAndNoInstanceDoesMoreThanItCan(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := draw(t, rapid.IntRange(1, 3).Draw(t, "sources"))
		s := m.Steady()
		in := make([]float64, len(s))
		for _, e := range m.Edges {
			in[e.To] += e.Selectivity * rate(s[e.From])
		}
		for k, flows := range s {
			if total := rate(flows); in[k] > 0 && math.Abs(total-in[k]) > 1e-6*in[k] {
				t.Fatalf("component %d handles %g of %g", k, total, in[k])
			}
			for i, f := range flows {
				n := m.Components[k].Instances[i]
				if f.Rate*n.Service > 1+1e-6 || f.Rate < 0 {
					t.Fatalf("component %d[%d]: %g/s at %g s", k, i, f.Rate, n.Service)
				}
				if sum := f.Busy + f.Backpressured + f.Idle; math.Abs(sum-1) > 1e-6 {
					t.Fatalf("component %d[%d]: shares of time add up to %g", k, i, sum)
				}
				if in[k] == 0 && math.Abs(f.LagGrowth-(n.Arrival-f.Rate)) > 1e-9 {
					t.Fatalf("component %d[%d]: lag grows by %g", k, i, f.LagGrowth)
				}
			}
		}
	})
}

func TestBackpressureIsSeenOnlyAboveASaturatedInstance(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := draw(t, rapid.IntRange(1, 3).Draw(t, "sources"))
		s := m.Steady()
		stuck := make([]bool, len(s)) // a saturated instance here or below
		for k := len(s) - 1; k >= 0; k-- {
			below := false
			for _, e := range m.Edges {
				below = below || e.From == k && stuck[e.To]
			}
			for i, f := range s[k] {
				if f.Backpressured > 0 && !below {
					t.Fatalf("component %d[%d] is backpressured %g, and nothing below is saturated", k, i, f.Backpressured)
				}
				stuck[k] = stuck[k] || f.Saturated
			}
			stuck[k] = stuck[k] || below
		}
	})
}

// With one source the pace is set by the tightest instance. With several this does
// not hold of each: who is relieved above takes more of what is shared below.
func TestMoreCapacityNeverSlowsAJobOfOneSourceDown(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := draw(t, 1)
		before := m.Steady()
		k := rapid.IntRange(0, len(m.Components)-1).Draw(t, "component")
		i := rapid.IntRange(0, len(m.Components[k].Instances)-1).Draw(t, "instance")
		m.Components[k].Instances[i].Service *= rapid.Float64Range(.1, 1).Draw(t, "quicker by")
		if after := m.Steady(); rate(after[0]) < rate(before[0])*(1-1e-9) {
			t.Fatalf("%g/s, and %g/s before", rate(after[0]), rate(before[0]))
		}
	})
}

func TestAnotherUnitOfTimeChangesRatesOnly(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := draw(t, rapid.IntRange(1, 3).Draw(t, "sources"))
		before := m.Steady()
		by := math.Ldexp(1, rapid.IntRange(-6, 6).Draw(t, "power")) // exact in floating point
		for k := range m.Components {
			for i := range m.Components[k].Instances {
				n := &m.Components[k].Instances[i]
				n.Service, n.Arrival = n.Service/by, n.Arrival*by
			}
		}
		for k, flows := range m.Steady() {
			for i, f := range flows {
				f.Rate, f.LagGrowth = f.Rate/by, f.LagGrowth/by
				if w := before[k][i]; math.Abs(f.Rate-w.Rate) > 1e-9*w.Rate || math.Abs(f.Busy-w.Busy) > 1e-9 || math.Abs(f.Backpressured-w.Backpressured) > 1e-9 || f.Queue != w.Queue {
					t.Fatalf("component %d[%d]: %+v, and %+v before", k, i, f, w)
				}
			}
		}
	})
}

func TestEqualModelsComeToEqualRest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := draw(t, 2)
		if a, b := m.Steady(), m.Steady(); !reflect.DeepEqual(a, b) {
			t.Fatal("two answers of one model differ")
		}
	})
}

// A chain of 12 components of 5 instances.
func BenchmarkSteadyOf60Instances(b *testing.B) {
	m := Model{Components: []Component{source("source", 5, 400)}}
	for k := range 11 {
		m.Components = append(m.Components, stage(fmt.Sprint("stage", k), 5, .01))
		m.Edges = append(m.Edges, Edge{k, k + 1, 1})
	}
	m.Components[7].Instances[2].Service = .03
	for b.Loop() {
		m.Steady()
	}
}
