package scenario

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func at(seconds int) time.Time {
	return time.Date(2026, 1, 1, 0, 0, seconds, 0, time.UTC)
}

// says writes rows as CAUSE TARGET FROM-TO, in the order in which they came.
func says(rows []Row) string {
	var all []string
	for _, r := range rows {
		target := r.Component + r.Worker
		if r.Instance != nil {
			target += fmt.Sprintf("[%d]", *r.Instance)
		}
		if target == "" {
			target = "job"
		}
		all = append(all, fmt.Sprintf("%s %s %d-%d", r.Cause, target, r.Start.Unix()-at(0).Unix(), r.End.Unix()-at(0).Unix()))
	}
	return strings.Join(all, "; ")
}

func TestCausesFollowFromWhatWasDone(t *testing.T) {
	shape := wordShapes(t)["words"]
	i := func(n int) *int { return &n }
	on := func(f Fault, from, to int, hosted map[string][]int) HeldFault {
		r := Resolved{Fault: f}
		if f.Worker != nil {
			r.On = "tm-2"
		}
		return HeldFault{r, at(from), at(to), hosted}
	}
	worker := &Pick{}
	for name, c := range map[string]struct {
		held Held
		want string
	}{
		// count .6 × 1.8 = 1.08; split .5 × 1.8 = .9
		"one component is short": {Held{Faults: []HeldFault{on(Fault{Kind: LoadFactor, Factor: 1.8}, 0, 60, nil)}}, "underprovisioned count 0-60"},
		// × 2.05: count 1.23, split 1.025, audit .984, sink .92
		"the worst comes first": {Held{Faults: []HeldFault{on(Fault{Kind: LoadFactor, Factor: 2.05}, 0, 60, nil)}}, "underprovisioned count 0-60; underprovisioned split 0-60"},
		// a run at half its load: .5 × 2.05 is nothing
		"the run's own load counts": {Held{Load: .5, Faults: []HeldFault{on(Fault{Kind: LoadFactor, Factor: 2.05}, 0, 60, nil)}}, "none job 0-60"},
		"inside capacity":           {Held{Faults: []HeldFault{on(Fault{Kind: LoadFactor, Factor: 1.3}, 0, 60, nil)}}, "none job 0-60"},
		"a spike drains":            {Held{Settle: "drain", Drained: at(40), Faults: []HeldFault{on(Fault{Kind: LoadFactor, Factor: 3}, 0, 12, nil)}}, "transient job 0-40"},
		// ceil(.2 × .6 × 8 / .8) = 2 of 8, 1 of 4, 1 of 3, 1 of 2
		"every component has twice what it needs": {Held{Faults: []HeldFault{on(Fault{Kind: LoadFactor, Factor: .2}, 0, 60, nil)}}, "overprovisioned job 0-60"},
		// count ceil(.65 × .6 × 8 / .8) = 4 of 8, split ceil(1.63) = 2 of 4, audit 1 of 2; sink ceil(1.1) = 2 of 3
		"some components have": {Held{Faults: []HeldFault{on(Fault{Kind: LoadFactor, Factor: .65}, 0, 60, nil)}}, "overprovisioned audit 0-60; overprovisioned count 0-60; overprovisioned split 0-60"},
		"a cheap component":    {Held{Faults: []HeldFault{on(Fault{Kind: Cost, Component: "split", Factor: .2}, 0, 60, nil)}}, "overprovisioned split 0-60"},
		"someone's change":     {Held{Faults: []HeldFault{on(Fault{Kind: Cost, Component: "split", Factor: 1.1}, 0, 60, nil)}}, "none split 0-60"},
		// a knob on the cost is no load: .6 × 1.3 × 1.6 would be above 1, .6 × 1.6 is not
		"cost and load are apart": {Held{Faults: []HeldFault{on(Fault{Kind: LoadFactor, Factor: 1.6}, 0, 60, nil), on(Fault{Kind: Cost, Component: "count", Factor: 1.3}, 0, 60, nil)}}, "none count 0-60"},
		"a slow instance":         {Held{Faults: []HeldFault{on(Fault{Kind: Cost, Component: "sink", Instance: i(1), Factor: 1.6}, 3, 60, nil)}}, "slow_instance sink[1] 3-60"},
		"hardly slower":           {Held{Faults: []HeldFault{on(Fault{Kind: Cost, Component: "sink", Instance: i(1), Factor: 1.4}, 0, 60, nil)}}, "none sink 0-60"},
		"a slow sink":             {Held{Faults: []HeldFault{on(Fault{Kind: Cost, Component: "sink", Factor: 2.8}, 0, 60, nil)}}, "sink_limited sink 0-60"},
		// .05 × 25 = 1.25: reads 80 %
		"a slow source":     {Held{Faults: []HeldFault{on(Fault{Kind: Cost, Component: "source", Factor: 25}, 0, 60, nil)}}, "source_limited source 0-60"},
		"a source that can": {Held{Faults: []HeldFault{on(Fault{Kind: Cost, Component: "source", Factor: 15}, 0, 60, nil)}}, "none source 0-60"},
		"a slow worker":     {Held{Faults: []HeldFault{on(Fault{Kind: SlowWorker, Worker: worker, Factor: 2}, 0, 60, map[string][]int{"split": {1}, "count": {3, 7}})}}, "slow_worker tm-2 0-60"},
		"with one instance": {Held{Faults: []HeldFault{on(Fault{Kind: SlowWorker, Worker: worker, Factor: 2}, 0, 60, map[string][]int{"count": {3}})}}, "slow_instance count[3] 0-60"},
		// .35 of the records of 8 instances at .6: .35 × 8 × .6 = 1.68
		"a hot key": {Held{Shares: map[string][]float64{"count": {.1, .1, .1, .35, .1, .1, .1, .05}}, Faults: []HeldFault{on(Fault{Kind: Hot, Component: "count", Share: .3}, 0, 60, nil)}}, "data_skew count[3] 0-60"},
		// .19 × 8 = 1.52 of its share, but .19 × 8 × .6 = .91
		"a hot key that fits": {Held{Shares: map[string][]float64{"count": {.19, .12, .12, .12, .12, .11, .11, .11}}, Faults: []HeldFault{on(Fault{Kind: Hot, Component: "count", Share: .1}, 0, 60, nil)}}, "none count 0-60"},
		// ... and does not at load 1.3: 1.19
		"at the offered load": {Held{Shares: map[string][]float64{"count": {.19, .12, .12, .12, .12, .11, .11, .11}},
			Faults: []HeldFault{on(Fault{Kind: Hot, Component: "count", Share: .1}, 0, 60, nil), on(Fault{Kind: LoadFactor, Factor: 1.3}, 0, 60, nil)}}, "data_skew count[0] 0-60"},
		"memory":      {Held{Faults: []HeldFault{on(Fault{Kind: Memory, Worker: worker, Share: .3}, 0, 60, nil)}}, "memory_pressure tm-2 0-60"},
		"checkpoints": {Held{Faults: []HeldFault{on(Fault{Kind: Checkpoint}, 0, 60, nil)}}, "checkpoint_failing job 0-60"},
		"failures":    {Held{Faults: []HeldFault{on(Fault{Kind: Fail, Component: "split", Instance: i(0), Every: Duration(15 * time.Second)}, 0, 60, nil)}}, "failing split[0] 0-60"},
		"a lost worker": {Held{Drained: at(31), Faults: []HeldFault{on(Fault{Kind: LoseWorker, Worker: worker}, 0, 15, nil)}},
			"transient job 0-31"},
		"a rescale": {Held{Faults: []HeldFault{on(Fault{Kind: Rescale, Component: "split", Factor: 1}, 0, 60, nil)}}, "none split 0-60"},
		// sink needs ceil(.45 × 3 / .8) = 2, of 4
		"a rescale to twice the need": {Held{Faults: []HeldFault{on(Fault{Kind: Rescale, Component: "sink", Factor: 1}, 0, 60, nil)}}, "overprovisioned sink 0-60"},
		"three at once, from when each holds": {Held{Faults: []HeldFault{
			on(Fault{Kind: LoadFactor, Factor: 1.8}, 0, 60, nil),
			on(Fault{Kind: SlowWorker, Worker: worker, Factor: 3}, 5, 60, map[string][]int{"split": {0, 1}}),
			on(Fault{Kind: Cost, Component: "sink", Factor: 3}, 10, 60, nil)}},
			"underprovisioned count 0-60; slow_worker tm-2 5-60; sink_limited sink 10-60"},
		"cheap only while both are on": {Held{Faults: []HeldFault{
			on(Fault{Kind: LoadFactor, Factor: .9}, 0, 60, nil),
			on(Fault{Kind: Cost, Component: "split", Factor: .5}, 10, 50, nil)}},
			"overprovisioned split 10-50"},
	} {
		if c.held.Load == 0 {
			c.held.Load = 1
		}
		if got := says(Causes(shape, c.held)); got != c.want {
			t.Errorf("%s: %s, not %s", name, got, c.want)
		}
	}
}
