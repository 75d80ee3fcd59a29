package features

import (
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	dhalion "github.com/dhalion-go/dhalion"
)

// past writes polls of the pipeline up to some second; sick says how slow the first
// instance of work is then, and by how much it holds the source up.
func past(until int, sick func(seconds int) (slow, pressed float64)) *write {
	w := &write{topo: []dhalion.Topology{pipeline()}}
	for _, i := range []int{0, 1} {
		w.topo[0].Placement = append(w.topo[0].Placement, dhalion.Placement{Component: "work", Instance: i, Worker: fmt.Sprint("w", i)})
	}
	for s := 5; s <= until; s += 5 {
		slow, pressed := sick(s)
		w.flows(s, 100, 0, [2]float64{slow, 1})
		w.of(instance("source", 0), s, dhalion.Backpressured, pressed)
	}
	return w
}

func TestStretchesInWhichTheFlowIsHeldUpDoNotCountAsHealthy(t *testing.T) {
	// Sick for longer than healthy: 120 s of 200.
	w := past(260, func(s int) (float64, float64) {
		if s > 20 && s <= 140 {
			return 4, .8
		}
		return 1, 0
	})
	h := NewReader(w.history(nil), at(260), Options{Window: time.Minute}).Healthy()
	if h.Stretches != 4 || h.Of != 10 {
		t.Errorf("%d of %d stretches are healthy, want 4 of 10", h.Stretches, h.Of)
	}
	near(t, "time per record", h.Service[instance("work", 0)].Value, .001)
	near(t, "of the component", h.Component["work"].Value, .001)
	near(t, "share", h.Share[instance("work", 1)].Value, 1)
	near(t, "handled by work", h.Handled["work"].Value, 200)
	near(t, "busy", h.Busy["work"].Value, .1)
}

func TestWithoutAHealthyStretchTheLowestQuartileStandsInAndIsLessSure(t *testing.T) {
	// Held up all the time; 1 ms a record in a third of it, else 4 ms.
	w := past(300, func(s int) (float64, float64) {
		if s <= 80 {
			return 1, .5
		}
		return 4, .5
	})
	h := NewReader(w.history(nil), at(300), Options{Window: time.Minute}).Healthy()
	if h.Stretches != 0 || h.Of != 12 {
		t.Errorf("%d of %d stretches are healthy, want 0 of 12", h.Stretches, h.Of)
	}
	l := h.Service[instance("work", 0)]
	near(t, "time per record", l.Value, .001)
	if l.Spread < 2*leastSpread {
		t.Errorf("spread %g of what may never have been healthy", l.Spread)
	}
}

func TestAHealthyTimePerRecordIsThatOfTheWorkerThatTheInstanceIsOn(t *testing.T) {
	w := past(260, func(int) (float64, float64) { return 1, 0 })
	for i, r := range w.rows { // moved in the window; its past was on w0
		if r.Target == instance("work", 0) && r.Time.After(at(200)) {
			w.rows[i].Worker = "w7"
		}
	}
	h := NewReader(w.history(nil), at(260), Options{Window: time.Minute}).Healthy()
	if l, ok := h.Service[instance("work", 0)]; ok {
		t.Errorf("%+v from another worker", l)
	}
	near(t, "its peer", h.Service[instance("work", 1)].Value, .001)
}

func TestTheSpreadIsThatOfTheStretches(t *testing.T) {
	// Alternately e^-.2 and e^.2 times 1 ms: the median deviation of the logarithm
	// from either is 0 or .4, about the centre 1.06·e^-.2 at most .3.
	w := past(460, func(s int) (float64, float64) { return math.Exp(.2 * float64(1-2*((s-5)/20%2))), 0 })
	h := NewReader(w.history(nil), at(460), Options{Window: time.Minute}).Healthy()
	if l := h.Service[instance("work", 0)]; l.Spread < .15 || l.Spread > .6 || l.N != 20 {
		t.Errorf("%+v", l)
	}
	near(t, "spread of what never varies", h.Service[instance("work", 1)].Spread, leastSpread)
}

func TestHealthIsReadBeforeTheWindowAndInAnyOrderOfRows(t *testing.T) {
	sick := func(s int) (float64, float64) {
		if s > 200 {
			return 9, 0
		}
		return 1, 0
	}
	w := past(260, sick)
	first := NewReader(w.history(nil), at(260), Options{Window: time.Minute}).Healthy()
	near(t, "time per record", first.Service[instance("work", 0)].Value, .001)
	for seed := range uint64(4) {
		again := NewReader(w.history(rand.New(rand.NewPCG(seed, 1))), at(260), Options{Window: time.Minute}).Healthy()
		if !reflect.DeepEqual(first, again) {
			t.Fatalf("%+v\n%+v", first, again)
		}
	}
	short := NewReader(w.history(nil), at(40), Options{Window: time.Minute}).Healthy()
	if short.Of != 0 || len(short.Service) != 0 {
		t.Errorf("no past, and yet %+v", short)
	}
}
