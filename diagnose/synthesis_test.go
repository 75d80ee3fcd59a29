package diagnose_test

import (
	"cmp"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	dhalion "github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/diagnose"
	"github.com/dhalion-go/dhalion/features"
	"github.com/dhalion-go/dhalion/ingest/segment"
	"github.com/dhalion-go/dhalion/internal/twin"
	"github.com/dhalion-go/dhalion/plan/policy"
)

const jobOfTwin = dhalion.JobID("file/twin")

// twinJob is a job whose history is simulated: 4 min healthy, then a minute of what
// change does to it, polled every 5 s. Instance n of all is on worker n modulo 3.
type twinJob struct {
	model  twin.Model
	change func(*twin.Model)
	noise  float64 // sd of the logarithm of every number
	seed   uint64
	hide   map[dhalion.Metric]bool
	lost   func(t dhalion.Target, after time.Duration, m dhalion.Metric) bool
	ended  func(t dhalion.Target, after time.Duration) bool
	sick   bool // from the first poll on
}

func twinStage(name string, n int, service float64) twin.Component {
	c := twin.Component{Name: name}
	for range n {
		c.Instances = append(c.Instances, twin.Instance{Service: service, Share: 1 / float64(n), Limit: math.Inf(1)})
	}
	return c
}

// wordCount: 100 records/s, 400 words/s. Splitters are busy .5, counters .6, the
// writers .4.
func wordCount() twin.Model {
	m := twin.Model{
		Components: []twin.Component{twinStage("source", 2, .001), twinStage("splitter", 3, .015), twinStage("counter", 6, .009), twinStage("writer", 3, .003)},
		Edges:      []twin.Edge{{From: 0, To: 1, Selectivity: 1}, {From: 1, To: 2, Selectivity: 4}, {From: 2, To: 3, Selectivity: 1}},
	}
	for i := range m.Components[0].Instances {
		m.Components[0].Instances[i].Arrival = 50
	}
	return m
}

func (j twinJob) topology() dhalion.Topology {
	t := dhalion.Topology{From: twinStart, By: dhalion.ChangeFirst}
	n := 0
	for _, c := range j.model.Components {
		t.Components = append(t.Components, dhalion.Component{Name: c.Name, Parallelism: len(c.Instances)})
		for i := range c.Instances {
			t.Placement = append(t.Placement, dhalion.Placement{Component: c.Name, Instance: i, Worker: twinWorker(n)})
			n++
		}
	}
	for _, e := range j.model.Edges {
		t.Edges = append(t.Edges, dhalion.Edge{From: j.model.Components[e.From].Name, To: j.model.Components[e.To].Name})
	}
	t.Normalize()
	return t
}

func twinWorker(n int) string { return fmt.Sprint("w", n%3) }

var twinStart = time.Date(2026, 11, 23, 8, 0, 0, 0, time.UTC)

const (
	twinHealthy = 240 * time.Second
	twinAsked   = 300 * time.Second
	twinPoll    = 5 * time.Second
)

func (j twinJob) history() *segment.History {
	r := rand.New(rand.NewPCG(j.seed, 1))
	about := func(v float64) float64 { return v * math.Exp(j.noise*r.NormFloat64()) }
	b := segment.NewBuilder(jobOfTwin, dhalion.KindInstance)
	lag := map[dhalion.Target]float64{}
	for after := twinPoll; after <= twinAsked; after += twinPoll {
		m := twin.Model{Edges: j.model.Edges}
		for _, c := range j.model.Components {
			m.Components = append(m.Components, twin.Component{Name: c.Name, Instances: slices.Clone(c.Instances)})
		}
		if j.change != nil && (after > twinHealthy || j.sick) {
			j.change(&m)
		}
		n := 0
		for k, flows := range m.Steady() {
			for i, f := range flows {
				t := dhalion.InstanceTarget(jobOfTwin, m.Components[k].Name, i)
				n++
				if j.ended != nil && j.ended(t, after) {
					b.Add(t, twinWorker(n-1), twinStart.Add(after).UnixMicro(), dhalion.OfferedRecords, 0)
					continue
				}
				give := func(metric dhalion.Metric, v float64) {
					if !j.hide[metric] && (j.lost == nil || !j.lost(t, after, metric)) {
						b.Add(t, twinWorker(n-1), twinStart.Add(after).UnixMicro(), metric, v)
					}
				}
				give(dhalion.Busy, math.Min(1, about(f.Busy)))
				give(dhalion.Backpressured, f.Backpressured)
				give(dhalion.Idle, f.Idle)
				out := f.Rate
				for _, e := range m.Edges {
					if e.From == k {
						out = f.Rate * e.Selectivity
					}
				}
				if k == 0 {
					lag[t] = math.Max(0, lag[t]+f.LagGrowth*twinPoll.Seconds())
					rate := about(f.Rate)
					give(dhalion.RecordsOut, rate)
					give(dhalion.OfferedRecords, rate+f.LagGrowth)
					give(dhalion.Lag, lag[t])
				} else {
					give(dhalion.RecordsIn, about(f.Rate))
					give(dhalion.RecordsOut, about(out))
					give(dhalion.InputQueueFraction, f.Queue)
				}
			}
		}
	}
	h := &segment.History{Job: jobOfTwin, Tables: map[dhalion.TargetKind]*segment.Table{}, Topologies: []dhalion.Topology{j.topology()}}
	h.Tables[dhalion.KindInstance], _ = b.Build()
	return h
}

func loadDefault() (*policy.Policy, error) { return policy.Load("default", nil, features.Known, nil) }

type synthesised struct {
	dhalion.Pair
	diagnose.Synthesis
}

// synthesise gives what is said of faults, the likeliest first.
func (j twinJob) synthesise(t interface{ Fatal(...any) }) []synthesised {
	p, err := loadDefault()
	if err != nil {
		t.Fatal(err)
	}
	at := twinStart.Add(twinAsked)
	r := features.NewReader(j.history(), at, diagnose.FeatureOptions(p))
	var all []synthesised
	for pair, s := range diagnose.Synthesise(r.At(at), r.Healthy(), p) {
		if pair.Cause != dhalion.Overprovisioned {
			all = append(all, synthesised{pair, s})
		}
	}
	slices.SortFunc(all, func(a, b synthesised) int {
		return cmp.Or(cmp.Compare(b.LogOdds, a.LogOdds), a.Target.Compare(b.Target), cmp.Compare(a.Cause, b.Cause))
	})
	return all
}

// faults are what can be done to wordCount, and what then holds.
var faults = []struct {
	name   string
	change func(m *twin.Model, by float64)
	holds  dhalion.Pair
}{
	{"a slow counter", func(m *twin.Model, by float64) { m.Components[2].Instances[4].Service *= by },
		dhalion.Pair{Target: dhalion.InstanceTarget(jobOfTwin, "counter", 4), Cause: dhalion.SlowInstance}},
	{"a slow worker", func(m *twin.Model, by float64) {
		n := 0
		for k, c := range m.Components {
			for i := range c.Instances {
				if k > 0 && twinWorker(n) == "w1" {
					m.Components[k].Instances[i].Service *= by
				}
				n++
			}
		}
	}, dhalion.Pair{Target: dhalion.WorkerTarget(jobOfTwin, "w1"), Cause: dhalion.SlowWorker}},
	{"a hot counter", func(m *twin.Model, by float64) {
		for i := range m.Components[2].Instances {
			m.Components[2].Instances[i].Share = (1 - by/6) / 5
		}
		m.Components[2].Instances[1].Share = by / 6
	}, dhalion.Pair{Target: dhalion.InstanceTarget(jobOfTwin, "counter", 1), Cause: dhalion.DataSkew}},
	{"a slow outside", func(m *twin.Model, by float64) {
		for i := range m.Components[3].Instances {
			m.Components[3].Instances[i].Service *= 1.5 * by
		}
	}, dhalion.Pair{Target: dhalion.ComponentTarget(jobOfTwin, "writer"), Cause: dhalion.SinkLimited}},
	{"more load", func(m *twin.Model, by float64) {
		for i := range m.Components[0].Instances {
			m.Components[0].Instances[i].Arrival *= by
		}
	}, dhalion.Pair{Target: dhalion.ComponentTarget(jobOfTwin, "counter"), Cause: dhalion.Underprovisioned}},
	{"a source that cannot read", func(m *twin.Model, by float64) {
		for i := range m.Components[0].Instances {
			m.Components[0].Instances[i].Limit = 50 / by
		}
	}, dhalion.Pair{Target: dhalion.ComponentTarget(jobOfTwin, "source"), Cause: dhalion.SourceLimited}},
}

func TestTheSimulatedFaultIsTheLikeliestHypothesis(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		fault := faults[rapid.IntRange(0, len(faults)-1).Draw(t, "fault")]
		by := rapid.Float64Range(2, 4).Draw(t, "by")
		j := twinJob{
			model: wordCount(), change: func(m *twin.Model) { fault.change(m, by) },
			noise: rapid.Float64Range(0, .05).Draw(t, "noise"), seed: rapid.Uint64().Draw(t, "seed"),
		}
		all := j.synthesise(t)
		if all[0].Pair != fault.holds || !all[0].Held || !(all[0].LogOdds > 1) {
			t.Fatalf("%s by %.2f: %+v", fault.name, by, all[:3])
		}
	})
}

func TestAHealthyJobHasNoHypothesisMoreLikelyThanNot(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		j := twinJob{model: wordCount(), noise: rapid.Float64Range(0, .05).Draw(t, "noise"), seed: rapid.Uint64().Draw(t, "seed")}
		// Load inside capacity is no fault: counters are busy .6 at 1, .84 at 1.4.
		load := rapid.Float64Range(.8, 1.4).Draw(t, "load")
		j.change = func(m *twin.Model) { faults[4].change(m, load) }
		if all := j.synthesise(t); all[0].LogOdds > 0 {
			t.Fatalf("%+v", all[0])
		}
	})
}

func TestTwoFaultsAtOnceAreBothExplained(t *testing.T) {
	j := twinJob{model: wordCount(), noise: .03, seed: 7}
	j.change = func(m *twin.Model) { // a slow worker of which the outside knows nothing
		faults[1].change(m, 3)
		faults[3].change(m, 4)
	}
	all := j.synthesise(t)
	found := map[dhalion.Pair]bool{}
	for _, s := range all {
		if s.LogOdds > 0 {
			found[s.Pair] = true
		}
	}
	if !found[faults[1].holds] || !found[faults[3].holds] || len(found) != 2 {
		t.Errorf("found %v", found)
	}
}

// The instances of a slow worker are slow because of it: mended with it, nothing
// is left of them to explain.
func TestOneExplanationLeavesNothingForTheOthers(t *testing.T) {
	j := twinJob{model: wordCount(), noise: .03, seed: 3, change: func(m *twin.Model) { faults[1].change(m, 3) }}
	for _, s := range j.synthesise(t)[1:] {
		if s.LogOdds > 0 || s.Held {
			t.Errorf("%s at %s %+.1f beside the worker", s.Cause, s.Target, s.LogOdds)
		}
	}
}

func TestMagnitudeAndFiguresSayWhatTheHypothesisLooksLike(t *testing.T) {
	j := twinJob{model: wordCount(), change: func(m *twin.Model) { faults[0].change(m, 3) }}
	s := j.synthesise(t)[0]
	if s.Magnitude < 2.8 || s.Magnitude > 3.2 {
		t.Errorf("three times as slow is %g", s.Magnitude)
	}
	figures := map[string]diagnose.Figure{}
	for _, f := range s.Figures {
		figures[f.Name] = f
	}
	// A counter of 27 ms with a sixth of the words takes 222 words/s, 55.6 records/s.
	// Six of 9 ms would take 667 words/s, and there is a lag to read: 166.7 records/s.
	if f := figures["records read per second"]; math.Abs(f.Seen-55.6) > .1 || math.Abs(f.With-55.6) > 4 || math.Abs(f.Without-166.7) > 1 {
		t.Errorf("records read: %+v", f)
	}
	if f := figures["seconds per record"]; math.Abs(f.Seen-.027) > 1e-6 || math.Abs(f.Without-.009) > 1e-6 {
		t.Errorf("seconds per record: %+v", f)
	}
}

// Where no engine tells what waits, backpressure above counters that are all busy
// is what more load looks like.
func TestLoadThatNobodyMeasuresIsSeenByWhatItDoes(t *testing.T) {
	hide := map[dhalion.Metric]bool{dhalion.Lag: true, dhalion.OfferedRecords: true}
	j := twinJob{model: wordCount(), noise: .02, seed: 5, hide: hide, change: func(m *twin.Model) { faults[4].change(m, 2.5) }}
	all := j.synthesise(t)
	if all[0].Pair != faults[4].holds || all[0].LogOdds <= 0 {
		t.Errorf("%+v", all[:2])
	}
	j.change = nil
	if all := j.synthesise(t); all[0].LogOdds > 0 {
		t.Errorf("of a healthy job: %+v", all[0])
	}
}

// Nothing healthy was ever seen: peers say which of them is slow.
func TestAFaultFromTheFirstPollOnIsSeenAgainstPeers(t *testing.T) {
	j := twinJob{model: wordCount(), noise: .02, seed: 2, sick: true, change: func(m *twin.Model) { faults[0].change(m, 4) }}
	all := j.synthesise(t)
	if all[0].Pair != faults[0].holds || all[0].LogOdds <= 0 {
		t.Errorf("%+v", all[:2])
	}
}

func TestWhatIsNotMeasuredIsNotJudged(t *testing.T) {
	metrics := []dhalion.Metric{dhalion.Busy, dhalion.Backpressured, dhalion.Idle, dhalion.RecordsIn, dhalion.RecordsOut, dhalion.OfferedRecords, dhalion.Lag, dhalion.InputQueueFraction}
	rapid.Check(t, func(t *rapid.T) {
		hide := map[dhalion.Metric]bool{}
		for _, m := range metrics {
			hide[m] = rapid.Bool().Draw(t, string(m))
		}
		fault := faults[rapid.IntRange(0, len(faults)-1).Draw(t, "fault")]
		j := twinJob{model: wordCount(), noise: .02, seed: 1, hide: hide, change: func(m *twin.Model) { fault.change(m, 3) }}
		for _, s := range j.synthesise(t) {
			if math.IsNaN(s.LogOdds) || math.IsInf(s.LogOdds, 0) {
				t.Fatalf("%s at %s: log-odds %g", s.Cause, s.Target, s.LogOdds)
			}
			if slow := s.Cause == dhalion.SlowInstance || s.Cause == dhalion.SlowWorker; slow && hide[dhalion.Busy] {
				t.Fatalf("%s at %s is judged without busy shares", s.Cause, s.Target)
			}
		}
	})
}

// recordsLost loses the record rates of a component's instances but the first some,
// always or in the last minute.
func recordsLost(component string, keep int, always bool) func(dhalion.Target, time.Duration, dhalion.Metric) bool {
	return func(t dhalion.Target, after time.Duration, m dhalion.Metric) bool {
		return (m == dhalion.RecordsIn || m == dhalion.RecordsOut) && t.Component == component && t.Instance >= keep && (always || after > twinHealthy)
	}
}

func TestRecordsThatSomeInstancesDoNotTellMakeNoHotKey(t *testing.T) {
	p, err := loadDefault()
	if err != nil {
		t.Fatal(err)
	}
	model := programsModel(t)
	for _, c := range wordCount().Components[1:] {
		for keep := 1; keep < len(c.Instances); keep++ {
			for _, always := range []bool{false, true} {
				name := fmt.Sprintf("%d of %d at %s, always %v", keep, len(c.Instances), c.Name, always)
				j := twinJob{model: wordCount(), noise: .01, seed: 1, lost: recordsLost(c.Name, keep, always)}
				for _, s := range j.synthesise(t) {
					if s.Cause == dhalion.DataSkew && s.Target.Component == c.Name && (s.LogOdds > 0 || keep == 1) {
						t.Errorf("%s: %s at %s with %+.1f", name, s.Cause, s.Target, s.LogOdds)
					}
				}
				r, err := diagnose.Evaluate(j.history(), twinStart.Add(twinAsked), p)
				if err != nil {
					t.Fatal(err)
				}
				r = r.Fuse(model)
				for _, d := range r.Diagnoses {
					if d.Cause == dhalion.DataSkew && d.Probability >= .05 {
						t.Errorf("%s: %s at %s with %.2f", name, d.Cause, d.Target, d.Probability)
					}
				}
			}
		}
	}
}

// counter[1] has three times its share, the other five have .6 each. Of three that are
// known it has 3 of 4.2, which is 2.14 times an even share of theirs.
func TestAHotKeyIsFoundAmongThoseWhoseRecordsAreKnown(t *testing.T) {
	for _, always := range []bool{false, true} {
		j := twinJob{model: wordCount(), noise: .01, seed: 1, lost: recordsLost("counter", 3, always), change: func(m *twin.Model) { faults[2].change(m, 3) }}
		s := j.synthesise(t)[0]
		if s.Pair != faults[2].holds || !s.Held || !(s.LogOdds > 1) || s.Magnitude < 2.7 || s.Magnitude > 3.3 {
			t.Errorf("always %v: %s at %s, %+v", always, s.Cause, s.Target, s.Synthesis)
		}
	}
}

// figure is one of the likeliest hypothesis.
func (j twinJob) figure(t *testing.T, name string) (diagnose.Figure, bool) {
	t.Helper()
	figures := j.synthesise(t)[0].Figures
	i := slices.IndexFunc(figures, func(f diagnose.Figure) bool { return f.Name == name })
	if i < 0 {
		return diagnose.Figure{}, false
	}
	return figures[i], true
}

func TestThoseWhoseRatesAreKnownSpeakForTheOthersInTheSimulation(t *testing.T) {
	const read = "records read per second"
	// A splitter of 45 ms with a third of the lines lets 66.7 lines/s through. If the other
	// two did nothing, it would be 200.
	slow := func(m *twin.Model) { m.Components[1].Instances[0].Service *= 3 }
	j := twinJob{model: wordCount(), change: slow, lost: recordsLost("splitter", 1, true)}
	if f, ok := j.figure(t, read); !ok || math.Abs(f.With-66.7) > 4 {
		t.Errorf("with one splitter of three known: %+v", f)
	}
	// A counter half as fast again is busy .9, and all 100 lines/s are read; one of the
	// two sources does not tell what arrives.
	j = twinJob{model: wordCount(), change: func(m *twin.Model) { faults[0].change(m, 1.6) }, lost: func(t dhalion.Target, after time.Duration, m dhalion.Metric) bool {
		rates := m == dhalion.RecordsOut || m == dhalion.OfferedRecords || m == dhalion.Lag
		return t.Component == "source" && t.Instance == 1 && rates && after > twinHealthy
	}}
	if f, ok := j.figure(t, read); !ok || math.Abs(f.Without-100) > 1 {
		t.Errorf("with one source of two known: %+v", f)
	}
	for name, lost := range map[string]func(dhalion.Target, time.Duration, dhalion.Metric) bool{
		"what arrives is": func(t dhalion.Target, _ time.Duration, m dhalion.Metric) bool {
			return t.Component == "source" && (m == dhalion.RecordsOut || m == dhalion.OfferedRecords || m == dhalion.Lag)
		},
		"what a line becomes is": recordsLost("splitter", 0, true),
	} {
		j := twinJob{model: wordCount(), change: func(m *twin.Model) { faults[0].change(m, 3) }, lost: lost}
		if f, ok := j.figure(t, read); ok {
			t.Errorf("%s unknown, and simulated: %+v", name, f)
		}
		for _, s := range j.synthesise(t) {
			if s.Cause == dhalion.SourceLimited {
				t.Errorf("%s unknown: %s with %+.1f", name, s.Cause, s.LogOdds)
			}
		}
	}
}

// backfilled is wordCount with a second source that has one instance and has put out rate
// records/s until it ended.
func backfilled(rate float64) twin.Model {
	m := wordCount()
	backfill := twinStage("backfill", 1, .001)
	backfill.Instances[0].Arrival = rate
	edges := []twin.Edge{{From: 0, To: 2, Selectivity: 1}, {From: 1, To: 2, Selectivity: 1}}
	for _, e := range m.Edges[1:] {
		edges = append(edges, twin.Edge{From: e.From + 1, To: e.To + 1, Selectivity: e.Selectivity})
	}
	return twin.Model{Components: append([]twin.Component{m.Components[0], backfill}, m.Components[1:]...), Edges: edges}
}

func TestASourceThatHasEndedHidesNothing(t *testing.T) {
	limited := func(m *twin.Model) {
		for i := range m.Components[0].Instances {
			m.Components[0].Instances[i].Limit = 30
		}
	}
	find := func(j twinJob) synthesised {
		all := j.synthesise(t)
		for _, s := range all {
			if s.Target.Component == "backfill" {
				t.Errorf("%s at %s, which has ended", s.Cause, s.Target)
			}
		}
		return all[0]
	}
	alone := twinJob{model: wordCount(), change: limited, noise: .02, seed: 1}
	want := find(alone)
	due, _ := alone.figure(t, "records read per second")
	if want.Cause != dhalion.SourceLimited || !(want.LogOdds > 5) {
		t.Fatalf("without another source: %s at %s, %+v", want.Cause, want.Target, want.Synthesis)
	}
	for name, j := range map[string]twinJob{
		"never seen": {model: backfilled(0), change: limited, ended: func(t dhalion.Target, _ time.Duration) bool { return t.Component == "backfill" }},
		// 30 of 130 lines/s in the past: its part is no selectivity of what flows now.
		"ended with the healthy part": {model: backfilled(30), change: func(m *twin.Model) {
			limited(m)
			m.Components[1].Instances[0].Arrival = 0
		}, ended: func(t dhalion.Target, after time.Duration) bool {
			return t.Component == "backfill" && after > twinHealthy
		}},
	} {
		j.noise, j.seed = .02, 1
		got := find(j)
		if got.Pair != want.Pair || !got.Held || math.Abs(got.LogOdds-want.LogOdds) > 1 {
			t.Errorf("%s: %s at %s with %+.1f, want %+.1f", name, got.Cause, got.Target, got.LogOdds, want.LogOdds)
		}
		if f, ok := j.figure(t, due.Name); !ok || math.Abs(math.Log(f.Without/due.Without)) > .03 {
			t.Errorf("%s: %+v, want %+v", name, f, due)
		}
	}
	// One of four sources has ended, or is not heard of: the three give 90 lines/s, or
	// speak for a fourth. A slow counter holds nothing up at 90.
	m := wordCount()
	m.Components[0] = twinStage("source", 4, .001)
	for i := range m.Components[0].Instances {
		m.Components[0].Instances[i].Arrival = 30
	}
	second := func(t dhalion.Target, after time.Duration) bool {
		return t.Component == "source" && t.Instance == 1 && after > twinHealthy
	}
	j := twinJob{model: m, noise: .02, seed: 1, ended: second, change: func(m *twin.Model) {
		m.Components[0].Instances[1].Arrival = 0
		m.Components[2].Instances[2].Service *= 1.6
	}}
	if f, ok := j.figure(t, "records read per second"); !ok || math.Abs(f.Without-90) > 2 {
		t.Errorf("of three sources that go on: %+v", f)
	}
	j.ended, j.lost = nil, func(t dhalion.Target, after time.Duration, _ dhalion.Metric) bool { return second(t, after) }
	if f, ok := j.figure(t, "records read per second"); !ok || math.Abs(f.Without-120) > 3 {
		t.Errorf("where one does not report: %+v", f)
	}
}

func TestWithoutAGraphNothingIsSimulated(t *testing.T) {
	p, err := loadDefault()
	if err != nil {
		t.Fatal(err)
	}
	h := twinJob{model: wordCount()}.history()
	h.Topologies = nil
	at := twinStart.Add(twinAsked)
	r := features.NewReader(h, at, diagnose.FeatureOptions(p))
	if all := diagnose.Synthesise(r.At(at), r.Healthy(), p); len(all) != 0 {
		t.Errorf("%d pairs", len(all))
	}
}

func TestEqualHistoriesAreExplainedAlikeToTheLastBit(t *testing.T) {
	j := twinJob{model: wordCount(), noise: .04, seed: 9, change: func(m *twin.Model) { faults[1].change(m, 2); faults[2].change(m, 3) }}
	first := fmt.Sprint(j.synthesise(t))
	for range 5 {
		if again := fmt.Sprint(j.synthesise(t)); again != first {
			t.Fatal("another answer")
		}
	}
}

func BenchmarkSynthesise(b *testing.B) {
	p, err := loadDefault()
	if err != nil {
		b.Fatal(err)
	}
	j := twinJob{model: wordCount(), noise: .04, seed: 9, change: func(m *twin.Model) { faults[1].change(m, 3) }}
	at := twinStart.Add(twinAsked)
	r := features.NewReader(j.history(), at, diagnose.FeatureOptions(p))
	snap, past := r.At(at), r.Healthy()
	for b.Loop() {
		diagnose.Synthesise(snap, past, p)
	}
}
