package features

import (
	"fmt"
	"math"
	"testing"
	"time"

	dhalion "github.com/dhalion-go/dhalion"
)

func ratesOf(t *testing.T, w *write, when time.Time, window time.Duration) map[string]Rates {
	t.Helper()
	h := w.history(nil)
	topology, ok := h.TopologyAt(when)
	if !ok {
		t.Fatal("no topology")
	}
	out := map[string]Rates{}
	for _, r := range NewRateReader(h).At(topology, when, window) {
		out[r.Component] = r
	}
	return out
}

func pair(by dhalion.ChangeBy, from time.Time, instances int) dhalion.Topology {
	return dhalion.Topology{From: from, By: by,
		Components: []dhalion.Component{{Name: "source", Parallelism: 1}, {Name: "work", Parallelism: instances}},
		Edges:      []dhalion.Edge{{From: "source", To: "work"}}}
}

func TestAnEpochIsTheNewestPollAndTrueRatesCanBeWorkedOut(t *testing.T) {
	w := &write{topo: []dhalion.Topology{pair(dhalion.ChangeFirst, t0, 2)}}
	for s := 10; s <= 30; s += 10 {
		w.instance(s, "source", 0, "", map[dhalion.Metric]float64{dhalion.RecordsOut: 10 * float64(s), dhalion.TrueRecordsOut: 1000})
		w.instance(s, "work", 0, "", map[dhalion.Metric]float64{dhalion.RecordsIn: float64(s), dhalion.RecordsOut: 2 * float64(s), dhalion.Busy: 0.5})
		w.instance(s, "work", 1, "", map[dhalion.Metric]float64{dhalion.RecordsIn: float64(s), dhalion.TrueRecordsIn: 70, dhalion.Busy: 0.5})
	}
	got := ratesOf(t, w, at(29), time.Minute)
	e := got["work"].Epoch
	// At 20 s: 20/0.5 worked out and 70 told; put out 40/0.5 by the one that tells, and
	// as much by the other.
	near(t, "true in", e.TrueIn, 20/0.5+70)
	near(t, "true out", e.TrueOut, 2*40/0.5)
	if e.Instances != 2 || e.Of != 2 || e.KnownIn != 2 || e.KnownOut != 1 || !e.At.Equal(at(20)) {
		t.Errorf("%+v", e)
	}
	s := got["source"]
	near(t, "source", s.Epoch.TrueOut, 1000)
	near(t, "what it puts out", s.Epoch.Out, 200)
	if !s.Source || got["work"].Source {
		t.Error("who is a source?")
	}
	// An hour later it is still the newest, whatever the window.
	near(t, "an hour later", ratesOf(t, w, at(3600), time.Minute)["work"].Epoch.TrueIn, 30/0.5+70)
}

func TestAnEpochLeavesOutWhoHasNoRowInIt(t *testing.T) {
	w := &write{topo: []dhalion.Topology{pair(dhalion.ChangeFirst, t0, 3)}}
	for s := 10; s <= 30; s += 10 {
		w.instance(s, "work", 0, "", map[dhalion.Metric]float64{dhalion.TrueRecordsIn: 100})
		w.instance(s-3, "work", 1, "", map[dhalion.Metric]float64{dhalion.TrueRecordsIn: 200}) // measured on its own
		if s < 30 {
			w.instance(s, "work", 2, "", map[dhalion.Metric]float64{dhalion.TrueRecordsIn: 999})
		}
	}
	e := ratesOf(t, w, at(30), time.Minute)["work"].Epoch
	near(t, "two speak for three", e.TrueIn, 300*3.0/2)
	if e.Instances != 2 || e.KnownIn != 2 || e.Of != 3 {
		t.Errorf("%+v", e)
	}

	// What was measured before the last rescale is of another job; a row at the
	// moment itself is of the new one.
	w = &write{topo: []dhalion.Topology{pair(dhalion.ChangeFirst, t0, 2), pair(dhalion.ChangeOperator, at(20), 1)}}
	w.instance(10, "work", 0, "", map[dhalion.Metric]float64{dhalion.TrueRecordsIn: 100})
	if e := ratesOf(t, w, at(25), time.Minute)["work"].Epoch; e.Instances != 0 || known(e.TrueIn) || !e.At.IsZero() {
		t.Errorf("from before the rescale: %+v", e)
	}
	w.instance(20, "work", 0, "", map[dhalion.Metric]float64{dhalion.TrueRecordsIn: 50})
	near(t, "after the rescale", ratesOf(t, w, at(25), time.Minute)["work"].Epoch.TrueIn, 50)
}

func TestASpanIsWhatCountersWouldSay(t *testing.T) {
	w := &write{topo: []dhalion.Topology{pair(dhalion.ChangeFirst, t0, 2)}}
	for _, r := range []struct {
		second           int
		in, lag, pressed float64
		busy             [2]float64
	}{
		{10, 999, 100, 0, [2]float64{0.2, 0.4}}, // its rate is of the time before
		{20, 10, 150, 0.2, [2]float64{0.6, 0.4}},
		{40, 40, 400, 0.4, [2]float64{0.4, 0.5}}, // 20 s
	} {
		w.instance(r.second, "source", 0, "", map[dhalion.Metric]float64{dhalion.RecordsIn: 0, dhalion.RecordsOut: r.in, dhalion.Lag: r.lag, dhalion.Backpressured: r.pressed})
		for i, busy := range r.busy {
			w.instance(r.second, "work", i, "", map[dhalion.Metric]float64{dhalion.RecordsIn: r.in / 2, dhalion.Busy: busy})
		}
	}
	got := ratesOf(t, w, at(40), time.Minute)
	s := got["source"].Span
	near(t, "in between the polls", s.In, (10*10+40*20)/30.0) // no records in counted: those out
	near(t, "mean of the polls", s.InMean, (999+10+40)/3.0)
	near(t, "lag", s.Lag, 400)
	near(t, "its growth", s.LagRate, 300/30.0)
	if fmt.Sprint(s.Reads) != "[{999 100 0} {10 150 0.2} {40 400 0.4}]" {
		t.Errorf("reads %v", s.Reads)
	}
	v := got["work"].Span
	near(t, "in", v.In, (10*10+40*20)/30.0)
	near(t, "busiest", v.BusyMost, (0.4+0.6+0.5)/3)
	near(t, "least busy", v.BusyLeast, (0.2+0.4+0.4)/3)
	near(t, "busy between the polls", v.BusyMean, (0.5*10+0.45*20)/30)
	near(t, "no lag", v.Lag, nan)

	// One poll speaks for itself; outside of the window there is nothing.
	one := ratesOf(t, w, at(40), 15*time.Second)["work"].Span
	near(t, "one poll", one.In, 40)
	near(t, "before", ratesOf(t, w, at(400), 15*time.Second)["work"].Span.In, nan)
}

func TestAComponentMeasuredAsOneSpeaksForAllItsInstances(t *testing.T) {
	w := &write{topo: []dhalion.Topology{pair(dhalion.ChangeFirst, t0, 4)}}
	for s := 10; s <= 20; s += 10 {
		w.of(component("work"), s, dhalion.RecordsIn, 100)
		w.of(component("work"), s, dhalion.Busy, 0.5)
	}
	r := ratesOf(t, w, at(20), time.Minute)["work"]
	near(t, "true in", r.Epoch.TrueIn, 200)
	near(t, "in", r.Span.In, 100)
	near(t, "busy", r.Span.BusyMean, 0.5)
	near(t, "busiest", r.Span.BusyMost, 0.5)
	if r.Epoch.Of != 1 || math.IsNaN(r.Span.InMean) {
		t.Errorf("%+v", r)
	}
}

func TestALagThatSomeDidNotReportIsUnknownAtThatPoll(t *testing.T) {
	w := two(func(s, i int) float64 {
		if i == 1 && s == 55 {
			return nan
		}
		return 1000
	})
	reads := ratesOf(t, w, at(60), time.Minute)["source"].Span.Reads
	for k, want := range []float64{2000, nan, 2000} {
		near(t, fmt.Sprintf("lag of poll %d", k), reads[len(reads)-3+k].Lag, want)
	}
}
