package detect

import (
	"math"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// steps is noise about 0, 6 from 100, 1 from 180, with two outliers that are no
// change.
func steps(seed uint64) []float64 {
	v := noiseOf("student t, 3 degrees", seed, 300)
	for i := range v {
		switch {
		case i >= 180:
			v[i]++
		case i >= 100:
			v[i] += 6
		}
	}
	v[50], v[240] = 500, -500
	return v
}

func TestChangesOfLevelAreFoundWithinAFewValues(t *testing.T) {
	right := 0
	for seed := range uint64(50) {
		got := Changes(steps(seed), 3*math.Log(300))
		if len(got) == 2 && math.Abs(float64(got[0]-100)) <= 2 && math.Abs(float64(got[1]-180)) <= 2 {
			right++
		}
	}
	if right < 45 {
		t.Errorf("%d of 50 right", right)
	}
}

func TestNoiseHasNoChange(t *testing.T) {
	falsely := 0
	for _, kind := range []string{"normal", "student t, 3 degrees"} {
		for seed := range uint64(100) {
			falsely += b2i(len(Changes(noiseOf(kind, seed, 300), 3*math.Log(300))) > 0)
		}
	}
	if falsely > 10 {
		t.Errorf("%d of 200 noises have a change", falsely)
	}
	if Changes(make([]float64, 50), 10) != nil || Changes(nil, 10) != nil || Changes([]float64{math.NaN()}, 10) != nil {
		t.Error("a constant has a change")
	}
}

// One change of a constant, exactly where it is, with unknown values before it.
func TestAStepWithoutNoiseIsFoundWhereItIs(t *testing.T) {
	v := slices.Repeat([]float64{1}, 60)
	for i := 30; i < 60; i++ {
		v[i] = 2
	}
	v[28], v[29] = math.NaN(), math.NaN()
	if got := Changes(v, 10); !slices.Equal(got, []int{30}) {
		t.Errorf("changes %v, want [30]", got)
	}
}

// The optimum by trying all segmentations of short series by dynamic programming
// without pruning.
func TestPruningLosesNoOptimum(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := rapid.SliceOfN(rapid.Map(rapid.IntRange(0, 8), func(i int) float64 { return float64(i * i) }), 6, 40).Draw(t, "values")
		penalty := rapid.Float64Range(0.5, 20).Draw(t, "penalty")
		sigma := noise(v)
		if sigma == 0 {
			return
		}
		cost := func(from, to int) float64 {
			m, _ := Level(v[from:to])
			sum := 0.0
			for _, x := range v[from:to] {
				sum += math.Abs(x - m)
			}
			return sum / sigma
		}
		best := make([]float64, len(v)+1)
		best[0] = -penalty
		for end := 1; end <= len(v); end++ {
			best[end] = math.Inf(1)
			for from := range end - leastLevel + 1 {
				best[end] = min(best[end], best[from]+cost(from, end)+penalty)
			}
		}
		got, from := -penalty, 0
		for _, end := range append(Changes(v, penalty), len(v)) {
			got += cost(from, end) + penalty
			from = end
		}
		if math.Abs(got-best[len(v)]) > 1e-9*(1+math.Abs(got)) {
			t.Fatalf("cost %g, the least is %g", got, best[len(v)])
		}
	})
}

// One spread more than usual from value 500 on: (1 − ½) a value reaches 8 after
// about 16 values, and since points near 500.
func TestACUSUMSeesALastingShiftAndSaysSinceWhen(t *testing.T) {
	v := noiseOf("normal", 11, 1000)
	c := CUSUM{Slack: 0.5, Clip: 3, Limit: 8}
	for i := range v {
		if i >= 500 {
			v[i]++
		}
		s := c.Next(v[i])
		if s.Seen {
			if i < 500 || i > 560 || !s.Up || i-s.Since < 480 || i-s.Since > 515 {
				t.Errorf("seen at %d, since %d, %+v", i, i-s.Since, s)
			}
			return
		}
	}
	t.Error("never seen")
}

func TestACUSUMIsNotMovedByOneOutlierOrTheUnknown(t *testing.T) {
	c := CUSUM{Slack: 0.5, Clip: 3, Limit: 8}
	for i := range 100 {
		d := 0.0
		if i == 50 {
			d = -1e9
		}
		if c.Next(d).Seen || c.Next(math.NaN()).Known {
			t.Fatalf("value %d is seen", i)
		}
	}
}

// Noise of 20,000 values: about two alarms at most.
func TestACUSUMOfNoiseRarelyAlarms(t *testing.T) {
	for _, kind := range []string{"normal", "student t, 3 degrees"} {
		c, seen := CUSUM{Slack: 0.5, Clip: 3, Limit: 10}, 0
		v := noiseOf(kind, 3, 20_000)
		m, s := Level(v)
		for _, x := range v {
			if c.Next((x - m) / s).Seen {
				seen++
				c = CUSUM{Slack: 0.5, Clip: 3, Limit: 10}
			}
		}
		if seen > 12 {
			t.Errorf("%s: %d alarms", kind, seen)
		}
	}
}

// The load rises at moment 10; the limit is passed at once, but the hold ends
// three moments later: since is moment 10, at 50 s, either way.
func TestASymptomBeganWhenTheLevelChanged(t *testing.T) {
	d := SinceChange("busy_fraction", Checks(3, Above("busy_fraction", 0.95)))
	s := d.Detect(series(t, `busy_fraction 0.4 0.42 0.41 0.4 0.43 0.4 0.41 0.42 0.4 0.41 0.93 0.92 0.96 0.97 0.98`))
	if want := start.Add(50 * time.Second); !s.Seen || !s.Since.Equal(want) {
		t.Errorf("%+v, want since %v", s, want)
	}
	if s := d.Detect(series(t, `busy_fraction 0.4x10`)); s.Seen {
		t.Errorf("%+v", s)
	}
	if s := d.Detect(series(t, `busy_fraction 0.97x5`)); !s.Seen {
		t.Errorf("no change: %+v", s)
	}
}
