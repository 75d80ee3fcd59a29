package detect

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	dhalion "github.com/dhalion-go/dhalion"
)

var start = time.Date(2026, 11, 22, 8, 0, 0, 0, time.UTC)

// series reads a trail in series notation, one feature per line, a moment every
// 5 s: `busy_fraction 0.5x3 0.95 _x2` is 0.5 three times, 0.95 once, unknown
// twice. A feature shorter than the longest is unknown at the end.
func series(t testing.TB, text string) Trail {
	t.Helper()
	values := map[string][]float64{}
	longest := 0
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		for _, f := range fields[1:] {
			v, times := f, 1
			if head, n, ok := strings.Cut(f, "x"); ok {
				k, err := strconv.Atoi(n)
				if err != nil {
					t.Fatalf("series %q: %v", f, err)
				}
				v, times = head, k
			}
			x := math.NaN()
			if v != "_" {
				var err error
				if x, err = strconv.ParseFloat(v, 64); err != nil {
					t.Fatalf("series %q: %v", f, err)
				}
			}
			for range times {
				values[fields[0]] = append(values[fields[0]], x)
			}
		}
		longest = max(longest, len(values[fields[0]]))
	}
	trail := make(Trail, longest)
	for i := range trail {
		trail[i] = Moment{At: start.Add(time.Duration(i) * 5 * time.Second), Value: func(name string) float64 {
			if v, ok := values[name]; ok && i < len(v) {
				return v[i]
			}
			return math.NaN()
		}}
	}
	return trail
}

func TestDetectorsSeeWhatTheyAreFor(t *testing.T) {
	busy := "busy_fraction"
	hot := Hold(10*time.Second, 15*time.Second, Above(busy, 0.9))
	for _, c := range []struct {
		name     string
		detector Detector
		trail    string
		seen     bool
		known    bool
		score    float64
	}{
		{"above its limit", Above(busy, 0.8), "busy_fraction 0.96", true, true, 1.2},
		{"at its limit is not above", Above(busy, 0.8), "busy_fraction 0.8", false, true, 1},
		{"unknown is not below", Below(busy, 0.1), "busy_fraction _", false, false, 0},
		{"zero is a value and below", Below(busy, 0.1), "busy_fraction 0", true, true, 2},
		{"only the last moment counts", Above(busy, 0.8), "busy_fraction 0.96 0.4", false, true, 0.5},
		{"growing by slope", Growing(dhalion.Lag, 10), "trend(lag_records) 25", true, true, 2.5},
		{"a skew above the floor", PeerSkew(dhalion.RecordsIn, 1.5, 1), "records_in_per_second 300\npeer_ratio(records_in_per_second) 3", true, true, 2},
		{"a skew below the floor is none", PeerSkew(dhalion.RecordsIn, 1.5, 1), "records_in_per_second 0.2\npeer_ratio(records_in_per_second) 40", false, true, 1},
		{"peers at nothing are no skew", PeerSkew(dhalion.RecordsIn, 1.5, 1), "records_in_per_second 0.2\npeer_ratio(records_in_per_second) _", false, true, 0},
		{"backpressure", Backpressure(0.1), "backpressured_fraction 0.4", true, true, 4},
		{"idle", Idle(0.9), "idle_fraction 0.99", true, true, 1.1},
		// Hold 10 s: seen at three moments 5 s apart.
		{"one blip is no symptom", hot, "busy_fraction 0.5x4 1 0.5x2", false, true, 0.5 / 0.9},
		{"short of the hold", hot, "busy_fraction 0.5x4 1x2", false, true, 1 / 0.9},
		{"held", hot, "busy_fraction 0.5x4 1x3", true, true, 1 / 0.9},
		{"a gap in the hold begins it anew", hot, "busy_fraction 1x2 0.5 1x2", false, true, 1 / 0.9},
		{"not yet cleared", hot, "busy_fraction 1x3 0.5x3", true, true, 0.5 / 0.9},
		{"cleared after 15 s", hot, "busy_fraction 1x3 0.5x4", false, true, 0.5 / 0.9},
		{"unknown moments neither begin nor end it", hot, "busy_fraction 1x3 _x10", true, true, 1 / 0.9},
		{"nothing known", hot, "busy_fraction _x5", false, false, 0},
		{"all of them", All(Above(busy, 0.8), Idle(0.1)), "busy_fraction 0.88\nidle_fraction 0.3", true, true, 1.1},
		{"known absence outweighs the unknown", All(Above(busy, 0.8), Idle(0.1)), "busy_fraction 0.4\nidle_fraction _", false, true, 0.5},
		{"unknown among the seen", All(Above(busy, 0.8), Idle(0.1)), "busy_fraction 0.9\nidle_fraction _", false, false, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := c.detector.Detect(series(t, c.trail))
			if s.Seen != c.seen || s.Known != c.known {
				t.Fatalf("seen %v known %v, want %v and %v", s.Seen, s.Known, c.seen, c.known)
			}
			if c.known && math.Abs(s.Score-c.score) > 1e-12 {
				t.Errorf("score %v, want %v", s.Score, c.score)
			}
		})
	}
}

func TestAHeldSymptomSaysSinceWhen(t *testing.T) {
	d := Hold(10*time.Second, 15*time.Second, Above("busy_fraction", 0.9))
	// Moments 3 to 7 are above: it began at 3·5 s.
	s := d.Detect(series(t, "busy_fraction 0.5x3 1x5"))
	if want := start.Add(15 * time.Second); !s.Since.Equal(want) {
		t.Errorf("since %v, want %v", s.Since, want)
	}
	// Five sightings at five moments: (5+1/2)/(5+1).
	if want := 5.5 / 6; math.Abs(s.Probability-want) > 1e-12 {
		t.Errorf("probability %v, want %v", s.Probability, want)
	}
}

// The instances that a detector sees, "1 4" being the second and the fifth; now
// holds a value per instance, before those of the check before it.
func instancesSeen(d Detector, now, before []float64) string {
	var seen []string
	for i := range now {
		var trail Trail
		for _, values := range [][]float64{before, now} {
			if values != nil {
				trail = append(trail, Moment{At: start.Add(time.Duration(len(trail)) * time.Minute), Value: func(string) float64 { return values[i] }})
			}
		}
		if s := d.Detect(trail); s.Known && s.Seen {
			seen = append(seen, strconv.Itoa(i))
		}
	}
	return strings.Join(seen, " ")
}

func TestHeronsLimitsSeeTheSameInstances(t *testing.T) {
	now := []float64{10, 91, 50, 60, 95, 80, 9, 60}
	before := []float64{10, 9, 50, 60, 95, 80, 9, 60}
	low := []float64{10, 91, 50, 60, 20, 80, 9, 60}
	zero := []float64{0, 91, 50, 60, 20, 80, 15, 60}
	for _, c := range []struct {
		name        string
		d           Detector
		now, before []float64
		want        string
	}{
		{"AT1: above 90 at this check", Checks(1, Above("x", 90)), now, nil, "1 4"},
		{"AT2: above 90 at this check and the one before", Checks(2, Above("x", 90)), now, before, "4"},
		{"BT1: below 15 at this check", Checks(1, Below("x", 15)), low, nil, "0 6"},
		{"zero is below a limit, and a value at the limit is not", Checks(1, Below("x", 15)), zero, nil, "0"},
		{"one check is not two", Checks(2, Above("x", 90)), now, nil, ""},
	} {
		if got := instancesSeen(c.d, c.now, c.before); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestACheckThatIsUnknownIsNeitherSeenNorUnseen(t *testing.T) {
	d := Checks(3, Above("x", 90))
	for _, c := range []struct {
		trail       string
		seen, known bool
	}{
		{"x 95x3", true, true},
		{"x 10 95x3", true, true},
		{"x 95 _ 95", false, false},
		{"x 10 _ 95", false, true}, // whatever the second was
		{"x 95x2", false, false},   // there are only two
		{"x 10 95", false, true},
		{"x 95x2 _", false, false},
	} {
		s := d.Detect(series(t, c.trail))
		if s.Seen != c.seen || s.Known != c.known {
			t.Errorf("%s: seen %v known %v, want %v and %v", c.trail, s.Seen, s.Known, c.seen, c.known)
		}
	}
	// Three sightings, 5 s apart: since the first.
	if s := d.Detect(series(t, "x 10 95x3")); !s.Since.Equal(start.Add(5*time.Second)) || s.Probability != 3.5/4 {
		t.Errorf("since %v with %v", s.Since, s.Probability)
	}
}

// What a live evaluation says at a moment must not depend on what comes later:
// the trail up to that moment gives the same as a longer one cut there, and a
// longer hold is never seen when a shorter one is not.
func TestHoldReadsTheTrailAlone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		values := rapid.SliceOfN(rapid.SampledFrom([]float64{0.2, 0.95, math.NaN()}), 1, 40).Draw(t, "values")
		hold := time.Duration(rapid.IntRange(0, 6).Draw(t, "hold")) * 5 * time.Second
		trail := make(Trail, len(values))
		for i, v := range values {
			trail[i] = Moment{At: start.Add(time.Duration(i) * 5 * time.Second), Value: func(string) float64 { return v }}
		}
		short, long := Hold(hold, 0, Above("x", 0.9)), Hold(hold+5*time.Second, 0, Above("x", 0.9))
		for n := 1; n <= len(trail); n++ {
			a, b := short.Detect(trail[:n]), long.Detect(trail[:n])
			if b.Seen && !a.Seen {
				t.Fatalf("after %d moments: held for %v and not for %v", n, hold+5*time.Second, hold)
			}
			if fmt.Sprint(short.Detect(append(Trail{}, trail[:n]...))) != fmt.Sprint(a) {
				t.Fatalf("after %d moments: two evaluations differ", n)
			}
		}
	})
}
