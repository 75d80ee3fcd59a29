package features

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"pgregory.net/rapid"

	dhalion "github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/ingest/segment"
)

const job = dhalion.JobID("file/test")

var t0 = time.Date(2026, 11, 22, 8, 0, 0, 0, time.UTC)

func at(seconds int) time.Time { return t0.Add(time.Duration(seconds) * time.Second) }

// write is a history under construction: rows of instances every 5 s.
type write struct {
	rows []dhalion.Measurement
	topo []dhalion.Topology
}

func (w *write) instance(seconds int, component string, instance int, worker string, values map[dhalion.Metric]float64) {
	for m, v := range values {
		w.rows = append(w.rows, dhalion.Measurement{
			Target: dhalion.InstanceTarget(job, component, instance), Worker: worker, Metric: m, Time: at(seconds), Value: v,
		})
	}
}

func (w *write) of(t dhalion.Target, seconds int, m dhalion.Metric, v float64) {
	w.rows = append(w.rows, dhalion.Measurement{Target: t, Metric: m, Time: at(seconds), Value: v})
}

func (w *write) history(shuffle *rand.Rand) *segment.History {
	rows := append([]dhalion.Measurement{}, w.rows...)
	if shuffle != nil {
		shuffle.Shuffle(len(rows), func(i, j int) { rows[i], rows[j] = rows[j], rows[i] })
	}
	builders := map[dhalion.TargetKind]*segment.Builder{}
	for _, r := range rows {
		b := builders[r.Target.Kind]
		if b == nil {
			b = segment.NewBuilder(job, r.Target.Kind)
			builders[r.Target.Kind] = b
		}
		b.Add(r.Target, r.Worker, r.Time.UnixMicro(), r.Metric, r.Value)
	}
	h := &segment.History{Job: job, Tables: map[dhalion.TargetKind]*segment.Table{}, Topologies: w.topo}
	for kind, b := range builders {
		h.Tables[kind], _ = b.Build()
	}
	return h
}

// pipeline is source(1) -> work(2) -> sink(1): every source record becomes two
// records of work, work takes 1 ms a record.
func pipeline() dhalion.Topology {
	return dhalion.Topology{
		From: t0, By: dhalion.ChangeFirst,
		Components: []dhalion.Component{{Name: "sink", Parallelism: 1}, {Name: "source", Parallelism: 1}, {Name: "work", Parallelism: 2}},
		Edges:      []dhalion.Edge{{From: "source", To: "work"}, {From: "work", To: "sink"}},
	}
}

// flows writes one poll of the pipeline: the source puts out `out` a second,
// its lag is `lag`, and the two instances of work take 1 ms times slow.
func (w *write) flows(seconds int, out, lag float64, slow [2]float64) {
	w.instance(seconds, "source", 0, "w0", map[dhalion.Metric]float64{
		dhalion.RecordsOut: out, dhalion.Lag: lag, dhalion.Busy: 0.1, dhalion.Backpressured: 0, dhalion.Idle: 0.9,
	})
	for i := range 2 {
		busy := math.Min(1, out*0.001*slow[i])
		w.instance(seconds, "work", i, fmt.Sprintf("w%d", i), map[dhalion.Metric]float64{
			dhalion.RecordsIn: out, dhalion.RecordsOut: out, dhalion.Busy: busy, dhalion.Backpressured: 0, dhalion.Idle: 1 - busy,
		})
	}
	w.instance(seconds, "sink", 0, "w0", map[dhalion.Metric]float64{
		dhalion.RecordsIn: 2 * out, dhalion.Busy: 0.2, dhalion.Backpressured: 0, dhalion.Idle: 0.8,
	})
}

func near(t *testing.T, what string, got, want float64) {
	t.Helper()
	if math.IsNaN(want) != math.IsNaN(got) || math.Abs(got-want) > 1e-9*math.Max(1, math.Abs(want)) {
		t.Errorf("%s is %v, want %v", what, got, want)
	}
}

func instance(c string, i int) dhalion.Target { return dhalion.InstanceTarget(job, c, i) }
func component(c string) dhalion.Target       { return dhalion.ComponentTarget(job, c) }

func TestAWindowExcludesItsStart(t *testing.T) {
	w := &write{topo: []dhalion.Topology{pipeline()}}
	// A value of 900 exactly at the start, 100 at the three polls after it.
	for i, out := range []float64{900, 100, 100, 100} {
		w.flows(5*i, out, 0, [2]float64{1, 1})
	}
	s := NewReader(w.history(nil), at(15), Options{Window: 15 * time.Second}).At(at(15))
	near(t, "records in", s.Value(instance("work", 0), "records_in_per_second"), 100)
	near(t, "max", s.Value(instance("work", 0), "max(records_in_per_second)"), 100)
	if s.Polls != 3 || s.Span != 15*time.Second {
		t.Errorf("%d polls over %v, want 3 over 15s", s.Polls, s.Span)
	}
}

func TestAWindowStartsAfterTheOperatorsChangeAndNotAfterTheEngines(t *testing.T) {
	moved, rescaled := pipeline(), pipeline()
	moved.From, moved.By = at(30), dhalion.ChangeEngine
	rescaled.From, rescaled.By = at(40), dhalion.ChangeOperator
	for _, c := range []struct {
		topo []dhalion.Topology
		want time.Time
	}{
		{[]dhalion.Topology{pipeline(), moved}, at(0)},
		{[]dhalion.Topology{pipeline(), moved, rescaled}, at(40)},
	} {
		w := &write{topo: c.topo}
		for i := range 13 {
			w.flows(5*i, 100, 0, [2]float64{1, 1})
		}
		s := NewReader(w.history(nil), at(60), Options{Window: time.Minute}).At(at(60))
		if !s.Window.Start.Equal(c.want) {
			t.Errorf("window starts at %v, want %v", s.Window.Start, c.want)
		}
	}
}

func TestOfferedLoadIsWhatIsPutOutAndTheGrowthOfTheLag(t *testing.T) {
	w := &write{topo: []dhalion.Topology{pipeline()}}
	// 60 s at 400/s, then 60 s in which 800/s are put out while the lag grows by
	// 400/s: 1200/s are offered. Work has two records for each, 2400/s at 1 ms over
	// two instances: 1.2 instances' worth each.
	for s := 5; s <= 60; s += 5 {
		w.flows(s, 400, 0, [2]float64{1, 1})
	}
	for s := 65; s <= 120; s += 5 {
		w.flows(s, 800, 400*float64(s-60), [2]float64{1, 1})
	}
	s := NewReader(w.history(nil), at(120), Options{Window: 50 * time.Second}).At(at(120))
	near(t, "offered at the source", s.Value(component("source"), "offered_load"), 1200)
	near(t, "offered at work", s.Value(component("work"), "offered_load"), 2400)
	near(t, "load ratio", s.Value(component("work"), "load_ratio"), 1.2)
	near(t, "load over the past", s.Value(component("work"), "load_past_ratio"), 3) // 1200 over 400
	near(t, "healthy time", s.Value(component("work"), "healthy_service_seconds"), 0.001)
	near(t, "unread", s.Value(component("source"), "unread_growth"), 400.0/1200)
}

func TestALagInRecordsReadCountsAsWhatIsPutOutForThem(t *testing.T) {
	// As above, but what is put out is four words of each line that is read, and what
	// waits are lines: 100 more a second, as many as 400 words.
	w, plain := &write{topo: []dhalion.Topology{pipeline()}}, &write{topo: []dhalion.Topology{pipeline()}}
	for s := 5; s <= 120; s += 5 {
		out, lag := 400.0, 0.0
		if s > 60 {
			out, lag = 800, 400*float64(s-60)
		}
		plain.flows(s, out, lag, [2]float64{1, 1})
		w.flows(s, out, lag/4, [2]float64{1, 1})
		w.instance(s, "source", 0, "w0", map[dhalion.Metric]float64{dhalion.RecordsIn: out / 4})
	}
	read := func(w *write) *Snapshot {
		return NewReader(w.history(nil), at(120), Options{Window: 50 * time.Second}).At(at(120))
	}
	s, same := read(w), read(plain)
	near(t, "offered at the source", s.Value(component("source"), "offered_load"), 1200)
	for _, f := range []string{"offered_load", "load_ratio", "unread_growth", "unread_seconds"} {
		for _, c := range []string{"source", "work"} {
			near(t, f+" of "+c, s.Value(component(c), f), same.Value(component(c), f))
		}
	}
	near(t, "backlog", s.Value(dhalion.JobTarget(job), "backlog_seconds"), same.Value(dhalion.JobTarget(job), "backlog_seconds"))
	for k, l := range s.Loads() {
		near(t, "lag of "+l.Component, l.Lag, same.Loads()[k].Lag)
		if l.Source && l.PerRead != 4 {
			t.Errorf("%v are put out for each that is read, want 4", l.PerRead)
		}
	}
}

func TestASpikeShorterThanTheRecentPartIsInNoLoadRatio(t *testing.T) {
	w := &write{topo: []dhalion.Topology{pipeline()}}
	for s := 5; s <= 120; s += 5 {
		out := 400.0
		if s > 105 {
			out = 900 // for 15 s
		}
		w.flows(s, out, 0, [2]float64{1, 1})
	}
	// The mean of the last minute is (9·400 + 3·900)/12 = 525/s, of the last 20 s
	// (400 + 3·900)/4 = 775/s; the least of the last four polls is 400.
	s := NewReader(w.history(nil), at(120), Options{Window: time.Minute}).At(at(120))
	near(t, "load ratio", s.Value(component("work"), "load_ratio"), 0.525)
	near(t, "peak", s.Value(component("work"), "load_ratio_peak"), 0.775)
}

func TestAfterAStepTheLoadToSizeForIsTheNewOne(t *testing.T) {
	w := &write{topo: []dhalion.Topology{pipeline()}}
	for s := 5; s <= 120; s += 5 {
		out := 400.0
		if s > 80 {
			out = []float64{900, 800, 900, 1000}[s/5%4]
		}
		w.flows(s, out, 0, [2]float64{1, 1})
	}
	// The mean of the last minute is (4·400 + 8·900)/12 = 733/s, the least poll of
	// the last 20 s is 800/s and the usual one 900/s. Work has two records for each.
	for _, l := range NewReader(w.history(nil), at(120), Options{Window: time.Minute}).At(at(120)).Loads() {
		if l.Sink {
			continue
		}
		near(t, "sustained at "+l.Component, l.Offered, map[string]float64{"source": 800, "work": 1600}[l.Component])
		near(t, "lately at "+l.Component, l.Lately, map[string]float64{"source": 900, "work": 1800}[l.Component])
	}
}

func TestASlowInstanceStandsOutAgainstPeersAndPast(t *testing.T) {
	w := &write{topo: []dhalion.Topology{pipeline()}}
	for s := 5; s <= 180; s += 5 {
		slow := [2]float64{1, 1}
		if s > 90 {
			slow[1] = 2
		}
		w.flows(s, 400, 0, slow)
	}
	s := NewReader(w.history(nil), at(180), Options{Window: time.Minute}).At(at(180))
	near(t, "peer ratio", s.Value(instance("work", 1), "service_peer_ratio"), 2)
	near(t, "past ratio", s.Value(instance("work", 1), "service_past_ratio"), 2)
	near(t, "slow factor", s.Value(instance("work", 1), "slow_factor"), 2)
	near(t, "slow factor of the peer", s.Value(instance("work", 0), "slow_factor"), 0.5)
	// All its instances alike slower is no slow instance: work as a whole is not.
	near(t, "the component's past ratio", s.Value(component("work"), "service_past_ratio"), 1)
	near(t, "worker", s.Value(dhalion.WorkerTarget(job, "w1"), "slow_lowest"), 2)
}

func TestWhatWasNotMeasuredIsUnknownAndNotZero(t *testing.T) {
	w := &write{topo: []dhalion.Topology{pipeline()}}
	for i := range 13 {
		w.instance(5*i, "work", 0, "w0", map[dhalion.Metric]float64{dhalion.Busy: 0.9})
		w.instance(5*i, "work", 1, "w1", map[dhalion.Metric]float64{dhalion.Busy: 0.1})
	}
	s := NewReader(w.history(nil), at(60), Options{Window: time.Minute}).At(at(60))
	for _, f := range []string{"records_in_per_second", "service_seconds", "slow_factor", "uneven_share", "busy_at_offered_load"} {
		near(t, f, s.Value(instance("work", 0), f), nan)
	}
	near(t, "busy", s.Value(instance("work", 0), "busy_fraction"), 0.9)
	near(t, "load ratio", s.Value(component("work"), "load_ratio"), nan)
	near(t, "no such target", s.Value(instance("work", 7), "busy_fraction"), nan)
	near(t, "no such feature", s.Value(instance("work", 0), "speed"), nan)
}

func TestOutagesLessThanTenSecondsApartAreOne(t *testing.T) {
	w := &write{topo: []dhalion.Topology{pipeline()}}
	// The counter rises at 100, 105 (5 s later: the same outage), 130, and falls to
	// 0 at 200 because the watcher began anew; it rises again at 300.
	for s := 0; s <= 330; s += 5 {
		total := 0.0
		switch {
		case s >= 300:
			total = 1
		case s >= 200:
			total = 0
		case s >= 130:
			total = 3
		case s >= 105:
			total = 2
		case s >= 100:
			total = 1
		}
		w.flows(s, 100, 0, [2]float64{1, 1})
		w.of(dhalion.JobTarget(job), s, dhalion.Restarts, total)
	}
	s := NewReader(w.history(nil), at(330), Options{Window: time.Minute}).At(at(330))
	near(t, "outages", s.Value(dhalion.JobTarget(job), "outages"), 3)
	near(t, "in the window", s.Value(dhalion.JobTarget(job), "outages_in_window"), 1)
}

func TestTwoSourcesAreWeighedByTheirShareOfTheInflow(t *testing.T) {
	// a(100/s, offered 100) and b(300/s, offered 600) flow into join: its inflow of
	// 400/s would be 100 + 600 = 700/s if b kept up.
	topo := dhalion.Topology{
		From: t0, By: dhalion.ChangeFirst,
		Components: []dhalion.Component{{Name: "a", Parallelism: 1}, {Name: "b", Parallelism: 1}, {Name: "join", Parallelism: 1}},
		Edges:      []dhalion.Edge{{From: "a", To: "join"}, {From: "b", To: "join"}},
	}
	w := &write{topo: []dhalion.Topology{topo}}
	for s := 5; s <= 60; s += 5 {
		w.instance(s, "a", 0, "", map[dhalion.Metric]float64{dhalion.RecordsOut: 100, dhalion.OfferedRecords: 100, dhalion.Backpressured: 0})
		w.instance(s, "b", 0, "", map[dhalion.Metric]float64{dhalion.RecordsOut: 300, dhalion.OfferedRecords: 600, dhalion.Backpressured: 0})
		w.instance(s, "join", 0, "", map[dhalion.Metric]float64{dhalion.RecordsIn: 400, dhalion.Busy: 0.4})
	}
	s := NewReader(w.history(nil), at(60), Options{Window: time.Minute}).At(at(60))
	near(t, "offered at the join", s.Value(component("join"), "offered_load"), 700)
}

func TestASourceThatSendsNothingHereDoesNotHideTheLoadOfOthers(t *testing.T) {
	// control(0/s, arrival unknown) and data(100/s, offered 300) flow into work.
	topo := dhalion.Topology{
		From: t0, By: dhalion.ChangeFirst,
		Components: []dhalion.Component{{Name: "control", Parallelism: 1}, {Name: "data", Parallelism: 1}, {Name: "work", Parallelism: 1}},
		Edges:      []dhalion.Edge{{From: "control", To: "work"}, {From: "data", To: "work"}},
	}
	w := &write{topo: []dhalion.Topology{topo}}
	for s := 5; s <= 60; s += 5 {
		w.instance(s, "control", 0, "", map[dhalion.Metric]float64{dhalion.RecordsOut: 0})
		w.instance(s, "data", 0, "", map[dhalion.Metric]float64{dhalion.RecordsOut: 100, dhalion.OfferedRecords: 300})
		w.instance(s, "work", 0, "", map[dhalion.Metric]float64{dhalion.RecordsIn: 100, dhalion.Busy: 0.9})
	}
	s := NewReader(w.history(nil), at(60), Options{Window: time.Minute}).At(at(60))
	near(t, "offered at work", s.Value(component("work"), "offered_load"), 300)
}

func TestLagThatBackpressureCausesIsNotUnread(t *testing.T) {
	w := &write{topo: []dhalion.Topology{pipeline()}}
	for s := 5; s <= 60; s += 5 {
		values := map[dhalion.Metric]float64{dhalion.RecordsOut: 100, dhalion.OfferedRecords: 100, dhalion.Backpressured: 0}
		if s > 50 { // the last two of twelve polls: a mean of 0.13
			values[dhalion.OfferedRecords], values[dhalion.Backpressured] = 400, 0.8
		}
		w.instance(s, "source", 0, "w0", values)
	}
	s := NewReader(w.history(nil), at(60), Options{Window: time.Minute}).At(at(60))
	near(t, "unread", s.Value(component("source"), "unread_growth"), 0)
}

func TestTheNewestCheckpointAnswerCountsAndNotTheirMean(t *testing.T) {
	w := &write{topo: []dhalion.Topology{pipeline()}}
	for s := 5; s <= 60; s += 5 {
		w.flows(s, 100, 0, [2]float64{1, 1})
	}
	w.of(dhalion.JobTarget(job), 10, dhalion.CheckpointFailuresInARow, 1)
	w.of(dhalion.JobTarget(job), 40, dhalion.CheckpointFailuresInARow, 2)
	s := NewReader(w.history(nil), at(60), Options{Window: time.Minute}).At(at(60))
	near(t, "failures in a row", s.Value(dhalion.JobTarget(job), "checkpoint_failures_in_a_row"), 2)
}

func TestEqualHistoriesGiveEqualVectorsInAnyRowOrder(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := &write{topo: []dhalion.Topology{pipeline()}}
		polls := rapid.IntRange(1, 30).Draw(rt, "polls")
		for i := range polls {
			w.flows(5*i, rapid.Float64Range(0, 2000).Draw(rt, "out"), rapid.Float64Range(0, 1e6).Draw(rt, "lag"),
				[2]float64{rapid.Float64Range(0, 3).Draw(rt, "slow 0"), rapid.Float64Range(0, 3).Draw(rt, "slow 1")})
		}
		moment := at(5 * polls)
		opt := Options{Window: time.Minute}
		a := NewReader(w.history(nil), moment, opt).At(moment)
		b := NewReader(w.history(rand.New(rand.NewPCG(1, uint64(polls)))), moment, opt).At(moment)
		if fmt.Sprint(a.Vectors) != fmt.Sprint(b.Vectors) {
			rt.Fatal("the vectors differ")
		}
		for _, v := range a.Vectors {
			if v.Schema != SchemaOf(v.Target.Kind).Digest || len(v.Values) != len(SchemaOf(v.Target.Kind).Names) {
				rt.Fatalf("vector of %s does not fit its schema", v.Target)
			}
			for i, x := range v.Values {
				if math.IsInf(x, 0) {
					rt.Fatalf("%s of %s is infinite", SchemaOf(v.Target.Kind).Names[i], v.Target)
				}
			}
		}
	})
}

func TestASumIsOverThoseThatReportedAndTheSteepestIsTheGreatestTrend(t *testing.T) {
	topo := dhalion.Topology{From: t0, By: dhalion.ChangeFirst, Components: []dhalion.Component{{Name: "work", Parallelism: 10}}}
	w := &write{topo: []dhalion.Topology{topo}}
	for s := 10; s <= 60; s += 10 {
		for i, v := range []float64{0.25, 0.25, 0} {
			w.instance(s, "work", i, "", map[dhalion.Metric]float64{
				dhalion.BackpressureCaused: v, dhalion.QueueBytes: float64(i * s), // 0, 1 and 2 bytes a second
			})
		}
	}
	s := NewReader(w.history(nil), at(60), Options{Window: time.Minute}).At(at(60))
	// Three of ten reported: the mean over them stands for ten, the sum for itself.
	near(t, "sum", s.Value(component("work"), "sum(backpressure_caused_fraction)"), 0.5)
	near(t, "all ten", s.Value(component("work"), "backpressure_caused_fraction"), 10*0.5/3)
	near(t, "steepest", s.Value(component("work"), "steepest(queue_bytes)"), 2)
	near(t, "trend of the sum", s.Value(component("work"), "trend(queue_bytes)"), 10)
	near(t, "asked of the component", s.Value(instance("work", 1), "component.steepest(queue_bytes)"), 2)
	near(t, "a component is part of none", s.Value(component("work"), "component.steepest(queue_bytes)"), nan)
	near(t, "sum of what nobody reported", s.Value(component("work"), "sum(lag_records)"), nan)
	if l := s.Loads()[0]; l.Caused != 0.5 {
		t.Errorf("for sizing it caused %v", l.Caused)
	}
}

func TestOfSeveralComponentsInBackpressureOneLeads(t *testing.T) {
	topo := dhalion.Topology{
		From: t0, By: dhalion.ChangeFirst,
		Components: []dhalion.Component{{Name: "a", Parallelism: 1}, {Name: "b", Parallelism: 1}, {Name: "c", Parallelism: 1}, {Name: "s", Parallelism: 1}},
		Edges:      []dhalion.Edge{{From: "s", To: "a"}, {From: "a", To: "b"}, {From: "a", To: "c"}},
	}
	for _, x := range []struct {
		a, b, c float64
		want    [3]float64
	}{
		{0.1, 0.6, 0, [3]float64{0, 1, 0}},
		{0.6, 0.1, 0, [3]float64{1, 0, 0}},       // the greater, even above
		{0.6, 0.6, 0, [3]float64{0, 1, 0}},       // alike: the one below
		{0, 0.3, 0.1 + 0.2, [3]float64{0, 1, 1}}, // alike but for rounding, neither below the other
		{0, 0, 0, [3]float64{0, 0, 0}},
		{nan, 0.2, nan, [3]float64{nan, 1, nan}},
	} {
		w := &write{topo: []dhalion.Topology{topo}}
		for i, v := range []float64{x.a, x.b, x.c} {
			values := map[dhalion.Metric]float64{dhalion.Busy: 1}
			if known(v) {
				values[dhalion.BackpressureCaused] = v
			}
			w.instance(60, string("abc"[i]), 0, "", values)
		}
		s := NewReader(w.history(nil), at(60), Options{Window: time.Minute}).At(at(60))
		for i, want := range x.want {
			near(t, fmt.Sprintf("%v: leads at %c", x, "abc"[i]), s.Value(component(string("abc"[i])), "leads_backpressure"), want)
		}
	}
}

func TestDerivedFeaturesAreSortedAndDescribed(t *testing.T) {
	seen := map[string]bool{}
	for _, d := range DerivedFeatures {
		key := string(d.Kind) + " " + d.Name
		if seen[key] || d.Help == "" || d.Unit == "" {
			t.Errorf("%s: twice, or without help or unit", key)
		}
		seen[key] = true
		if !Known(d.Kind, d.Name) {
			t.Errorf("%s is in no schema", key)
		}
	}
}

func TestWhatLiesBeforeTheLookbackIsNotThePast(t *testing.T) {
	// Three minutes at 1 ms a record, then four at 3 ms.
	w := &write{topo: []dhalion.Topology{pipeline()}}
	for s := 5; s <= 420; s += 5 {
		slow := 1.0
		if s > 180 {
			slow = 3
		}
		w.flows(s, 100, 0, [2]float64{slow, slow})
	}
	h := w.history(nil)
	// Of a past that was partly sick the lowest quartile is drawn up by .06 (healthyOf).
	for lookback, want := range map[time.Duration]float64{0: 3 / 1.06, time.Hour: 3 / 1.06, 4 * time.Minute: 1} {
		r := NewReader(h, at(420), Options{Window: time.Minute, Lookback: lookback})
		near(t, "the past ratio with "+lookback.String(), r.At(at(420)).Value(instance("work", 0), "service_past_ratio"), want)
		near(t, "the healthy time per record with "+lookback.String(), r.Healthy().Service[instance("work", 0)].Value, .003/want)
	}
}

func TestPeersAreThoseElsewhereAndElseAllOthers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := &componentState{}
		var values []float64
		for range rapid.IntRange(1, 12).Draw(t, "instances") {
			c.instances = append(c.instances, &instanceState{worker: rapid.SampledFrom([]string{"", "a", "b", "c"}).Draw(t, "worker")})
			v := float64(rapid.IntRange(-3, 9).Draw(t, "value"))
			if v < 0 {
				v = nan
			}
			values = append(values, v)
		}
		medians, outside := c.beside().medians(values)
		for k, i := range c.instances {
			var elsewhere, others []float64
			for o, v := range values {
				if o == k || !known(v) {
					continue
				}
				others = append(others, v)
				if i.worker == "" || c.instances[o].worker != i.worker {
					elsewhere = append(elsewhere, v)
				}
			}
			want := median(others)
			if len(elsewhere) > 0 {
				want = median(elsewhere)
			}
			if outside[k] != len(elsewhere) || medians[k] != want && (known(medians[k]) || known(want)) {
				t.Fatalf("instance %d on %q has %v of %d, want %v of %d", k, i.worker, medians[k], outside[k], want, len(elsewhere))
			}
		}
	})
}

func TestAShareIsOverThoseWhoseRecordsAreKnown(t *testing.T) {
	topo := dhalion.Topology{From: t0, By: dhalion.ChangeFirst, Components: []dhalion.Component{{Name: "in", Parallelism: 1}, {Name: "work", Parallelism: 4}},
		Edges: []dhalion.Edge{{From: "in", To: "work"}}}
	read := func(rates ...float64) *Snapshot {
		w := &write{topo: []dhalion.Topology{topo}}
		for s := 5; s <= 60; s += 5 {
			w.instance(s, "in", 0, "", map[dhalion.Metric]float64{dhalion.RecordsOut: 400})
			for i, rate := range rates {
				values := map[dhalion.Metric]float64{dhalion.Busy: .5}
				if known(rate) {
					values[dhalion.RecordsIn] = rate
				}
				w.instance(s, "work", i, "", values)
			}
		}
		return NewReader(w.history(nil), at(60), Options{Window: time.Minute}).At(at(60))
	}
	for name, c := range map[string]struct{ rates, want []float64 }{
		"all four":           {[]float64{100, 100, 100, 300}, []float64{2. / 3, 2. / 3, 2. / 3, 2}},
		"two of four":        {[]float64{100, nan, nan, 100}, []float64{1, nan, nan, 1}},
		"two, one of it hot": {[]float64{100, nan, nan, 300}, []float64{.5, nan, nan, 1.5}},
		"one of four":        {[]float64{nan, 100, nan, nan}, []float64{nan, nan, nan, nan}}, // beside whom?
		"the only one seen":  {[]float64{100}, []float64{nan}},
	} {
		s := read(c.rates...)
		for i, want := range c.want {
			near(t, fmt.Sprintf("%s: share of %d", name, i), s.Value(instance("work", i), "share(records_in_per_second)"), want)
			near(t, fmt.Sprintf("%s: uneven share of %d", name, i), s.Value(instance("work", i), "uneven_share"), want)
			busy := s.Value(instance("work", i), "busy_at_offered_load")
			if known(busy) != known(want) {
				t.Errorf("%s: %d would be busy %v at the offered load, and its share is %v", name, i, busy, want)
			}
		}
		near(t, name+": share of the only instance", s.Value(instance("in", 0), "share(records_out_per_second)"), 1)
	}
	if s := read(0, 0, 0, 0); known(s.Value(instance("work", 0), "uneven_share")) {
		t.Error("of nothing there is a share")
	}
}

func TestWhereNothingFlowsLatelyTheOfferedLoadIsTakenToBeDealtOutEvenly(t *testing.T) {
	w := &write{topo: []dhalion.Topology{pipeline()}}
	for s := 5; s <= 60; s += 5 {
		out := 400.0
		if s > 40 {
			out = 0
		}
		w.flows(s, out, 0, [2]float64{1, 1})
	}
	// 400/s through 8 of 12 polls, and nothing in the last four.
	s := NewReader(w.history(nil), at(60), Options{Window: time.Minute}).At(at(60))
	near(t, "uneven share", s.Value(instance("work", 0), "uneven_share"), nan)
	near(t, "busy at the offered load", s.Value(instance("work", 0), "busy_at_offered_load"), 0)
}

// two is a source of two instances that put out 100 records/s each, of which lag of the
// instance i is waiting at a time, NaN where it is not told.
func two(lag func(seconds, i int) float64) *write {
	w := &write{topo: []dhalion.Topology{{From: t0, By: dhalion.ChangeFirst, Components: []dhalion.Component{{Name: "source", Parallelism: 2}, {Name: "work", Parallelism: 1}},
		Edges: []dhalion.Edge{{From: "source", To: "work"}}}}}
	for s := 5; s <= 60; s += 5 {
		for i := range 2 {
			values := map[dhalion.Metric]float64{dhalion.RecordsOut: 100, dhalion.OfferedRecords: 100, dhalion.Backpressured: 0}
			if v := lag(s, i); known(v) {
				values[dhalion.Lag] = v
			}
			w.instance(s, "source", i, "", values)
		}
		w.instance(s, "work", 0, "", map[dhalion.Metric]float64{dhalion.RecordsIn: 200, dhalion.Busy: .5})
	}
	return w
}

func TestALagThatWasNotReportedIsNotWorkedOff(t *testing.T) {
	grows := func(s, _ int) float64 { return 100 * float64(s) } // 12,000 in all at the end, 60 s of 200/s
	for name, c := range map[string]struct {
		lag            func(s, i int) float64
		backlog, drain float64
	}{
		"all are told": {grows, 60, nan},
		"one misses the last poll": {func(s, i int) float64 {
			if i == 1 && s == 60 {
				return nan
			}
			return grows(s, i)
		}, 55, nan}, // as it was 5 s before
		"one misses the last 20 s": {func(s, i int) float64 {
			if i == 1 && s > 40 {
				return nan
			}
			return grows(s, i)
		}, nan, nan},
		"one never has a lag": {func(s, i int) float64 {
			if i == 1 {
				return nan
			}
			return grows(s, i)
		}, 30, nan},
		"each at times of its own": {func(s, i int) float64 {
			if s/5%2 == i {
				return nan
			}
			return grows(s, i)
		}, (5500 + 6000) / 200.0, nan},
		// 6,000 at 40 s, 4,000 at 55 s: 2,000 in 15 s, and 4,000 more take 30 s.
		"it drains, and one misses the last poll": {func(s, i int) float64 {
			if i == 1 && s == 60 {
				return nan
			}
			return 3000 - 1000*math.Max(0, float64(s-40))/15
		}, 20, 30},
	} {
		s := NewReader(two(c.lag).history(nil), at(60), Options{Window: time.Minute}).At(at(60))
		near(t, name+": backlog", s.Value(dhalion.JobTarget(job), "backlog_seconds"), c.backlog)
		near(t, name+": drain", s.Value(dhalion.JobTarget(job), "drain_seconds"), c.drain)
	}
}

func TestWhatLiesUnreadIsUnknownWhereTheLagIs(t *testing.T) {
	for name, c := range map[string]struct {
		lag  [2]float64
		want float64
	}{
		"both lags":    {[2]float64{400, 200}, 3}, // 600 at 200/s
		"no lag waits": {[2]float64{0, 0}, 0},
		"one lag":      {[2]float64{400, nan}, nan},
		"no lag":       {[2]float64{nan, nan}, nan},
	} {
		s := NewReader(two(func(_, i int) float64 { return c.lag[i] }).history(nil), at(60), Options{Window: time.Minute}).At(at(60))
		near(t, name, s.Value(component("source"), "unread_seconds"), c.want)
	}
}

func TestASourceOfWhichLittleIsKnownIsNotTakenForNone(t *testing.T) {
	topo := dhalion.Topology{
		From: t0, By: dhalion.ChangeFirst,
		Components: []dhalion.Component{{Name: "a", Parallelism: 1}, {Name: "b", Parallelism: 2}, {Name: "join", Parallelism: 1}},
		Edges:      []dhalion.Edge{{From: "a", To: "join"}, {From: "b", To: "join"}},
	}
	read := func(of func(w *write, s int)) *Snapshot {
		w := &write{topo: []dhalion.Topology{topo}}
		for s := 5; s <= 120; s += 5 {
			w.instance(s, "join", 0, "", map[dhalion.Metric]float64{dhalion.RecordsIn: 300, dhalion.Busy: .3})
			of(w, s)
		}
		return NewReader(w.history(nil), at(120), Options{Window: time.Minute}).At(at(120))
	}
	rates := func(v float64) map[dhalion.Metric]float64 {
		return map[dhalion.Metric]float64{dhalion.RecordsOut: v, dhalion.OfferedRecords: v}
	}
	// Three times as much waits at a. What b sends nobody says: a's share of the inflow
	// is unknown, and what is taken in the least that is known.
	s := read(func(w *write, s int) {
		w.instance(s, "a", 0, "", map[dhalion.Metric]float64{dhalion.RecordsOut: 100, dhalion.OfferedRecords: 300})
		for i := range 2 {
			w.instance(s, "b", i, "", map[dhalion.Metric]float64{dhalion.Busy: .5})
		}
	})
	near(t, "offered beside a source that does not say what it sends", s.Value(component("join"), "offered_load"), 300)
	// b was measured as one: what it was before, the past of instances does not say.
	s = read(func(w *write, s int) {
		w.instance(s, "a", 0, "", rates(100))
		for m, v := range rates(200) {
			w.of(component("b"), s, m, v)
		}
	})
	near(t, "load over the past, of which half is unknown", s.Value(component("join"), "load_past_ratio"), nan)
	// One of b's two did not tell its rates before: the other speaks for both.
	s = read(func(w *write, s int) {
		w.instance(s, "a", 0, "", rates(100))
		w.instance(s, "b", 0, "", rates(100))
		values := map[dhalion.Metric]float64{dhalion.Busy: .5}
		if s > 60 {
			values = rates(100)
		}
		w.instance(s, "b", 1, "", values)
	})
	near(t, "load over the past of one that did not tell", s.Value(component("b"), "load_past_ratio"), 1)
	near(t, "the same below", s.Value(component("join"), "load_past_ratio"), 1)
}

// ended says of an instance what an adapter says of one that has finished.
func (w *write) ended(s int, component string, i int) {
	w.instance(s, component, i, "", map[dhalion.Metric]float64{dhalion.OfferedRecords: 0})
}

// fed is backfill(2) → parse(2) and source(2), both → work(2), polled from 5 s to 180 s
// and read at 180 s over 60 s. Live instances of source put out 500/s; work takes in what
// comes and is wholly busy.
func fed(backfill func(w *write, s int), source func(w *write, s int), into func(s int) float64) *Snapshot {
	w := &write{topo: []dhalion.Topology{{
		From: t0, By: dhalion.ChangeFirst,
		Components: []dhalion.Component{{Name: "backfill", Parallelism: 2}, {Name: "parse", Parallelism: 2}, {Name: "source", Parallelism: 2}, {Name: "work", Parallelism: 2}},
		Edges:      []dhalion.Edge{{From: "backfill", To: "parse"}, {From: "parse", To: "work"}, {From: "source", To: "work"}},
	}}}
	for s := 5; s <= 180; s += 5 {
		backfill(w, s)
		source(w, s)
		for i := range 2 {
			w.instance(s, "work", i, fmt.Sprint("w", i), map[dhalion.Metric]float64{dhalion.RecordsIn: into(s) / 2, dhalion.Busy: 1})
		}
	}
	return NewReader(w.history(nil), at(180), Options{Window: time.Minute}).At(at(180))
}

// reads is a source's instance that puts out 500/s of the offered.
func reads(w *write, s int, component string, i int, offered float64) {
	w.instance(s, component, i, "", map[dhalion.Metric]float64{dhalion.RecordsOut: 500, dhalion.OfferedRecords: offered})
}

// filled is a backfill that puts out 1,000/s until it ends after so many seconds.
func filled(until int) func(w *write, s int) {
	return func(w *write, s int) {
		for i := range 2 {
			if s > until {
				w.ended(s, "backfill", i)
				w.ended(s, "parse", i)
				continue
			}
			reads(w, s, "backfill", i, 500)
			w.instance(s, "parse", i, "", map[dhalion.Metric]float64{dhalion.RecordsIn: 500, dhalion.RecordsOut: 500, dhalion.Busy: .5})
		}
	}
}

func constant(v float64) func(int) float64 { return func(int) float64 { return v } }

// falls is 2,000 until so many seconds, and 1,000 then.
func falls(until int) func(int) float64 {
	return func(s int) float64 {
		if s <= until {
			return 2000
		}
		return 1000
	}
}

func TestASourceThatHasEndedGivesNothing(t *testing.T) {
	half := func(w *write, s int) { // 2,000/s are offered, half of it is read
		reads(w, s, "source", 0, 1000)
		reads(w, s, "source", 1, 1000)
	}
	for name, c := range map[string]struct {
		backfill func(w *write, s int)
		into     func(int) float64
		offered  float64
		ratio    float64
	}{
		// 2 ms a record: 2,000/s ask for 4 instances of 2.
		"before there was anything": {filled(0), constant(1000), 2000, 2},
		"before the window":         {filled(60), falls(60), 2000, nan},
		// Half of the window 2,000/s come of it at 1,000/s and 1,000/s else: 2,500/s are
		// offered on average, and 2,000/s lately.
		"half a minute ago": {filled(150), falls(150), 2500, nan},
		// It did not report: its share is unknown, and what is taken in the least.
		"it is only not known": {func(*write, int) {}, constant(1000), 1000, 1},
	} {
		s := fed(c.backfill, half, c.into)
		near(t, name+": offered", s.Value(component("work"), "offered_load"), c.offered)
		if known(c.ratio) {
			near(t, name+": load", s.Value(component("work"), "load_ratio"), c.ratio)
			near(t, name+": load of the job", s.Value(dhalion.JobTarget(job), "load_ratio"), c.ratio)
		}
	}
	s := fed(filled(150), half, falls(150))
	for _, l := range s.Loads() {
		if l.Component == "work" {
			near(t, "lately", l.Lately, 2000)
		}
		if over := len(l.Ended) == 2 && l.Ended[0] && l.Ended[1]; over != (l.Component == "backfill" || l.Component == "parse") {
			t.Errorf("%s has ended: %v", l.Component, l.Ended)
		}
	}
}

func TestThePastOfWhatHasEndedIsNoShareOfWhatFlows(t *testing.T) {
	// A source that is shut off altogether: 1,000/s of it became 1,000/s of work, and
	// 3,000/s are offered. What came of another that has ended since is in work's past.
	shut := func(w *write, s int) {
		for i := range 2 {
			out, offered := 500.0, 500.0
			if s > 120 {
				out, offered = 0, 1500
			}
			w.instance(s, "source", i, "", map[dhalion.Metric]float64{dhalion.RecordsOut: out, dhalion.OfferedRecords: offered})
		}
	}
	into := func(s int) float64 {
		switch {
		case s <= 60:
			return 2000
		case s <= 120:
			return 1000
		}
		return 0
	}
	near(t, "offered where the past is another's too", fed(filled(60), shut, into).Value(component("work"), "offered_load"), 0)
	near(t, "offered where the past is the source's", fed(filled(0), shut, func(s int) float64 { return math.Min(1000, into(s)) }).Value(component("work"), "offered_load"), 3000)
}

func TestOfASourceThatHasPartlyEndedTheOthersSpeakForThemselves(t *testing.T) {
	for name, c := range map[string]struct {
		second  func(w *write, s int)
		offered float64
		out     float64
	}{
		"ended":     {func(w *write, s int) { w.ended(s, "source", 1) }, 1000, 500},
		"not heard": {func(*write, int) {}, 2000, 1000},
		"long since": {func(w *write, s int) {
			if s <= 60 {
				reads(w, s, "source", 1, 1000)
			} else {
				w.ended(s, "source", 1)
			}
		}, 1000, 500},
	} {
		s := fed(filled(0), func(w *write, s int) {
			reads(w, s, "source", 0, 1000)
			c.second(w, s)
		}, constant(500))
		near(t, name+": offered", s.Value(component("source"), "offered_load"), c.offered)
		near(t, name+": put out", s.Value(component("source"), "records_out_per_second"), c.out)
		near(t, name+": offered below", s.Value(component("work"), "offered_load"), 1000)
		if v := s.Value(instance("source", 1), "uneven_share"); known(v) {
			t.Errorf("%s: has %v of an even share", name, v)
		}
	}
	// Of two instances of parse the one that goes on has an even share of what comes.
	s := fed(func(w *write, s int) {
		reads(w, s, "backfill", 0, 500)
		w.ended(s, "backfill", 1)
		w.instance(s, "parse", 0, "", map[dhalion.Metric]float64{dhalion.RecordsIn: 500, dhalion.RecordsOut: 500, dhalion.Busy: .5})
		w.ended(s, "parse", 1)
	}, func(w *write, s int) { reads(w, s, "source", 0, 500) }, constant(1500))
	near(t, "load of the instance that goes on", s.Value(component("parse"), "load_ratio"), .5)
	near(t, "its busy share at the offered load", s.Value(instance("parse", 0), "busy_at_offered_load"), .5)
	near(t, "its share", s.Value(instance("parse", 0), "share(records_in_per_second)"), 1)
}

func TestASourceInstanceToWhichNothingIsDealtLeavesNothingUnread(t *testing.T) {
	for name, c := range map[string]struct {
		second map[dhalion.Metric]float64
		growth float64
	}{
		"nothing is dealt to it":     {map[dhalion.Metric]float64{dhalion.RecordsOut: 0}, .5},
		"nothing arrives there":      {map[dhalion.Metric]float64{dhalion.RecordsOut: 0, dhalion.OfferedRecords: 0}, .5},
		"it reads, and has no lag":   {map[dhalion.Metric]float64{dhalion.RecordsOut: 500}, nan},
		"it is held up, without lag": {map[dhalion.Metric]float64{dhalion.RecordsOut: 0, dhalion.Backpressured: 1}, nan},
		"nothing is known of it":     {map[dhalion.Metric]float64{dhalion.Busy: .5}, nan},
	} {
		s := fed(filled(0), func(w *write, s int) {
			w.instance(s, "source", 0, "", map[dhalion.Metric]float64{dhalion.RecordsOut: 500, dhalion.OfferedRecords: 1000, dhalion.Lag: 500 * float64(s)})
			w.instance(s, "source", 1, "", c.second)
		}, constant(500))
		near(t, name, s.Value(component("source"), "unread_growth"), c.growth)
	}
}
