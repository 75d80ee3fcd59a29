package detect_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	dhalion "github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/detect"
	"github.com/dhalion-go/dhalion/ingest/segment"
)

// polled is minutes of a job of a source and a bolt of four, polled every 5 s. Every
// instance is busy .4 ± .02 with 100 ± 5 records/s, unless change says otherwise of
// the bolt's instance i at a time.
func polled(seed uint64, length time.Duration, change func(at time.Duration, i int, busy, rate *float64)) *segment.History {
	return polledWide(seed, 4, 5*time.Second, length, change)
}

func polledWide(seed uint64, bolts int, every, length time.Duration, change func(at time.Duration, i int, busy, rate *float64)) *segment.History {
	random := rand.New(rand.NewPCG(seed, 7))
	b := segment.NewBuilder(job, dhalion.KindInstance)
	for at := every; at <= length; at += every {
		us := start.Add(at).UnixMicro()
		add := func(c string, i int, busy, rate float64) {
			t := dhalion.InstanceTarget(job, c, i)
			b.Add(t, "", us, dhalion.Busy, math.Min(1, busy))
			b.Add(t, "", us, dhalion.RecordsIn, rate)
			b.Add(t, "", us, dhalion.RecordsOut, rate)
			b.Add(t, "", us, dhalion.Backpressured, 0)
		}
		add("in", 0, .1, 100*float64(bolts))
		for i := range bolts {
			busy, rate := .4+.02*random.NormFloat64(), 100+5*random.NormFloat64()
			change(at, i, &busy, &rate)
			add("bolt", i, busy, rate)
		}
	}
	h := &segment.History{Job: job, Tables: map[dhalion.TargetKind]*segment.Table{}, Topologies: []dhalion.Topology{{From: start, By: dhalion.ChangeFirst,
		Components: []dhalion.Component{{Name: "in", Parallelism: 1}, {Name: "bolt", Parallelism: bolts}}, Edges: []dhalion.Edge{{From: "in", To: "bolt"}}}}}
	h.Tables[dhalion.KindInstance], _ = b.Build()
	return h
}

func asAlways(time.Duration, int, *float64, *float64) {}

const learning = `name: learning
detectors:
  - {name: past, target: instance, of: busy_fraction, against: past, window: 10s, hold: 10s, clear: 10s}
  - {name: quiet, target: instance, of: busy_fraction, against: past, side: below, window: 10s, hold: 10s, clear: 10s}
  - {name: recent, target: instance, of: busy_fraction, against: recent, side: either, window: 10s, hold: 10s, clear: 10s}
  - {name: peers, target: instance, of: busy_fraction, per: records_in_per_second, against: peers, floor: 0.1, window: 10s}
`

func TestALearnedLimitSeesWhatIsUnlikeThePastAndSinceWhen(t *testing.T) {
	p := load(t, learning)
	const length, fault = 20 * time.Minute, 19 * time.Minute
	bolt2 := dhalion.InstanceTarget(job, "bolt", 2)
	for name, c := range map[string]struct {
		busy, rate float64 // times as much, at bolt[2]
		want       string
	}{
		"slower":          {1.6, 1, "past bolt[2], peers bolt[2], recent bolt[2]"},
		"busier for more": {1.6, 1.6, "past bolt[2], recent bolt[2]"}, // more work explains it among peers
		"idler":           {.3, .3, "quiet bolt[2], recent bolt[2]"},
		"as always":       {1, 1, ""},
	} {
		h := polled(1, length, func(at time.Duration, i int, busy, rate *float64) {
			if at > fault && i == 2 {
				*busy, *rate = *busy*c.busy, *rate*c.rate
			}
		})
		r := evaluate(t, h, start.Add(length), p)
		if got := kinds(r); got != c.want {
			t.Errorf("%s: it sees %q, want %q", name, got, c.want)
		}
		for _, s := range r.Symptoms {
			if off := s.Since.Sub(start.Add(fault)).Abs(); off > 15*time.Second || s.Score <= 1 || s.Probability < .9 {
				t.Errorf("%s: %s with %v of its limit, sure %v, %v off", name, s.Kind, s.Score, s.Probability, off)
			}
		}
		if n := len(r.Unknown); n != 0 {
			t.Errorf("%s: unknown: %+v", name, r.Unknown)
		}
		if score := r.Score("past", bolt2); !(score >= 0) || math.Signbit(score) {
			t.Errorf("%s: the score is %v", name, score)
		}
	}
}

// The stated rate is one of single windows: nothing is held here.
func TestALearnedLimitRaisesAsManyFalseAlarmsAsItSays(t *testing.T) {
	p := load(t, strings.NewReplacer("10s, hold: 10s, clear: 10s", "5s, false_alarms: 0.02").Replace(learning))
	seen, asked := map[string]int{}, 0
	for seed := range uint64(30) {
		h := polled(100+seed, 30*time.Minute, asAlways)
		r := evaluate(t, h, start.Add(30*time.Minute), p)
		for i := range 4 {
			asked++
			for _, kind := range []string{"past", "quiet", "recent", "peers"} {
				if held, known := r.Symptom(kind, dhalion.InstanceTarget(job, "bolt", i)); !known {
					t.Fatalf("%s is unknown", kind)
				} else if held {
					seen[kind]++
				}
			}
		}
	}
	// Of 120 at .02, 2.4 are expected; more than 9 come by chance once in 5,000 times.
	for kind, n := range seen {
		if n > 9 {
			t.Errorf("%s: %d false alarms of %d", kind, n, asked)
		}
	}
	if seen["past"]+seen["quiet"] == 0 {
		t.Error("not one false alarm of 240 at .02: the limit is not what it says")
	}
}

func TestALimitIsNotLearnedFromTooLittleNorFromAnotherNumberOfInstances(t *testing.T) {
	p := load(t, learning)
	reasons := func(r detect.Result) string {
		var all []string
		for _, u := range r.Unknown {
			all = append(all, u.Reason)
		}
		return strings.Join(all, "; ")
	}
	h := polled(1, 8*time.Minute, asAlways)
	r := evaluate(t, h, start.Add(8*time.Minute), p)
	for _, want := range []string{"symptom past: ", "undisturbed windows of 10 s in the 6 h before, and 60 are needed", "symptom recent: ", "and 70 are needed"} {
		if !strings.Contains(reasons(r), want) {
			t.Errorf("%q is missing in %q", want, reasons(r))
		}
	}
	if _, known := r.Symptom("peers", dhalion.InstanceTarget(job, "bolt", 0)); !known {
		t.Error("what peers say takes no such past, and is unknown")
	}
	// Two minutes lie within the trail that is judged: nothing is left to learn from.
	h = polled(1, 2*time.Minute, asAlways)
	if got := reasons(evaluate(t, h, start.Add(2*time.Minute), p)); !strings.Contains(got, "symptom past: 0 undisturbed windows of 10 s") {
		t.Errorf("unknown says %q", got)
	}
	// Twenty minutes, of which the bolt had three instances in the first fifteen.
	h = polled(1, 20*time.Minute, asAlways)
	before := h.Topologies[0]
	before.Components = []dhalion.Component{{Name: "in", Parallelism: 1}, {Name: "bolt", Parallelism: 3}}
	after := h.Topologies[0]
	after.From, after.By = start.Add(15*time.Minute), dhalion.ChangeOperator
	h.Topologies = []dhalion.Topology{before, after}
	r = evaluate(t, h, start.Add(20*time.Minute), p)
	if _, known := r.Symptom("past", dhalion.InstanceTarget(job, "bolt", 0)); known {
		t.Error("three instances taught the limit of one of four")
	}
	if _, known := r.Symptom("past", dhalion.InstanceTarget(job, "in", 0)); !known {
		t.Error("the source has always been one, and has no limit")
	}
	if _, known := evaluate(t, polled(1, 20*time.Minute, asAlways), start.Add(20*time.Minute), p).Symptom("past", dhalion.InstanceTarget(job, "in", 0)); !known {
		t.Error("a constant has no limit")
	}
}

func TestAFaultDoesNotTeachItsOwnLimit(t *testing.T) {
	p := load(t, learning)
	// The flow is held up for the last half of the past: none of it is normal.
	h := polled(1, 40*time.Minute, func(at time.Duration, i int, busy, rate *float64) {
		if at > 20*time.Minute && i == 2 {
			*busy = .95
		}
	})
	pressed := segment.NewBuilder(job, dhalion.KindInstance)
	table := h.Tables[dhalion.KindInstance]
	for _, span := range table.Spans() {
		for row := span.Start; row < span.End; row++ {
			for _, m := range table.Metrics() {
				v := table.Values(m)[row]
				if span.Target.Component == "in" && m == dhalion.Backpressured && table.Times()[row] > start.Add(20*time.Minute).UnixMicro() {
					v = .5
				}
				pressed.Add(span.Target, table.Worker(row), table.Times()[row], m, v)
			}
		}
	}
	h.Tables[dhalion.KindInstance], _ = pressed.Build()
	r := evaluate(t, h, start.Add(40*time.Minute), p)
	if held, known := r.Symptom("past", dhalion.InstanceTarget(job, "bolt", 2)); !held || !known {
		t.Errorf("after twenty minutes it has become normal: %v", kinds(r))
	}
	for _, s := range r.Symptoms {
		if s.Kind == "past" && s.Target.Instance == 2 {
			if off := s.Since.Sub(start.Add(20 * time.Minute)).Abs(); off > 20*time.Second {
				t.Errorf("it began at %v", s.Since.Sub(start))
			}
		}
	}
}

func TestASeasonIsNoAnomaly(t *testing.T) {
	// Each hour is as every hour: busy twice as much from minute 30 on.
	p := load(t, `name: season
detectors:
  - {name: plain, target: instance, of: busy_fraction, against: past, window: 30s, over: 5h, hold: 10s}
  - {name: seasonal, target: instance, of: busy_fraction, against: past, season: 1h, window: 30s, over: 5h, hold: 10s}
`)
	wave := func(odd bool) *segment.History {
		const length = 4*time.Hour + 40*time.Minute
		return polled(3, length, func(at time.Duration, i int, busy, _ *float64) {
			high := at%time.Hour > 30*time.Minute
			if odd && at > length-time.Minute && i == 1 {
				high = !high
			}
			if high {
				*busy *= 1.5
			}
		})
	}
	at := start.Add(4*time.Hour + 40*time.Minute)
	if got := kinds(evaluate(t, wave(false), at, p)); got != "" {
		t.Errorf("in season it sees %s", got)
	}
	below := load(t, `name: season
detectors:
  - {name: plain, target: instance, of: busy_fraction, against: past, side: below, window: 30s, over: 5h, hold: 10s}
  - {name: seasonal, target: instance, of: busy_fraction, against: past, side: below, season: 1h, window: 30s, over: 5h, hold: 10s}
`)
	if got := kinds(evaluate(t, wave(true), at, below)); got != "seasonal bolt[1]" {
		t.Errorf("out of season it sees %s", got)
	}
}

// Of every hour five minutes are three times as busy. Of 30 days there are sixty windows
// for each that is read: at a stride of an hour and more all would be at one minute of it.
func TestASeasonIsKnownHoweverFarBackALimitIsLearned(t *testing.T) {
	const length = 30 * 24 * time.Hour
	at := start.Add(length - 17*time.Minute) // minute 43
	history := func(odd bool) *segment.History {
		return polledWide(3, 1, time.Minute, length, func(after time.Duration, i int, busy, _ *float64) {
			peak := after%time.Hour >= 40*time.Minute && after%time.Hour < 45*time.Minute // two phases
			if odd && start.Add(after).After(at.Add(-2*time.Minute)) {
				peak = !peak
			}
			if *busy /= 4; peak {
				*busy *= 3
			}
		})
	}
	for _, over := range []string{"24h", "168h", "240h", "360h", "720h"} {
		text := strings.ReplaceAll(`name: season
detectors:
  - {name: above, target: instance, of: busy_fraction, against: past, season: 1h, window: 60s, over: OVER, hold: 10s}
  - {name: below, target: instance, of: busy_fraction, against: past, side: below, season: 1h, window: 60s, over: OVER, hold: 10s}
`, "OVER", over)
		for odd, want := range map[bool]string{false: "", true: "below bolt[0]"} {
			if r := evaluate(t, history(odd), at, load(t, text)); kinds(r) != want || len(r.Unknown) > 0 {
				t.Errorf("over %s, the peak is missing %v: it sees %q, want %q; unknown: %v", over, odd, kinds(r), want, r.Unknown)
			}
		}
	}
}

func TestEqualHistoriesGiveEqualLearnedSightings(t *testing.T) {
	p := load(t, learning)
	first := ""
	for range 3 {
		h := polled(5, 20*time.Minute, func(at time.Duration, i int, busy, _ *float64) {
			if at > 19*time.Minute && i == 2 {
				*busy *= 2
			}
		})
		if got := fmt.Sprintf("%+v", evaluate(t, h, start.Add(20*time.Minute), p).Symptoms); first == "" {
			first = got
		} else if got != first {
			t.Fatalf("%s\n%s", first, got)
		}
	}
}

// BenchmarkLearnedWide is one evaluation of four learned limits of six hours of a job.
func BenchmarkLearnedWide(b *testing.B) {
	p := load(b, strings.NewReplacer("10s, hold", "30s, over: 6h, hold", "window: 10s}", "window: 30s, over: 6h}").Replace(learning))
	for _, bolts := range []int{25, 500} {
		b.Run(fmt.Sprint(bolts), func(b *testing.B) {
			h := polledWide(1, bolts, 10*time.Second, 6*time.Hour, asAlways)
			b.ReportAllocs()
			for b.Loop() {
				evaluate(b, h, start.Add(6*time.Hour), p)
			}
		})
	}
}
