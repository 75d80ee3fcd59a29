package detect

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// daily is a level of 100 that swings by 50 over 24 hourly phases, with noise.
func daily(kind string, seed uint64, n int) []Point {
	eps := noiseOf(kind, seed, n)
	out := make([]Point, n)
	for i := range out {
		out[i] = Point{At: start.Add(time.Duration(i) * time.Hour), Value: 100 + 50*math.Sin(2*math.Pi*float64(i%24)/24) + 3*eps[i]}
	}
	return out
}

func TestARollingMedianIsTheMedianOfTheLast(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		values := rapid.SliceOfN(rapid.Float64Range(-1e6, 1e6), 1, 60).Draw(t, "values")
		size := rapid.IntRange(1, 20).Draw(t, "size")
		r := NewRolling(size)
		for i, v := range values {
			r.Add(v)
			r.Add(math.NaN())
			if want, _ := Level(values[max(0, i+1-size) : i+1]); r.Median() != want {
				t.Fatalf("after %d: %g, want %g", i+1, r.Median(), want)
			}
		}
	})
}

func TestALevelIsNotMovedByAFewOutliers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(11, 101).Draw(t, "n")
		values := make([]float64, n)
		for i := range values {
			values[i] = float64(i % 10)
		}
		for i := range rapid.IntRange(0, n/4).Draw(t, "outliers") {
			values[i] = 1e9
		}
		if m, s := Level(values); m < 0 || m > 9 || s > 9*normalMAD {
			t.Fatalf("level %g, spread %g", m, s)
		}
	})
	if m, s := Level([]float64{math.NaN()}); !math.IsNaN(m) || !math.IsNaN(s) {
		t.Error("unknown values have a level")
	}
}

// At 14:00 UTC 100 is 50 too many; without the season it would be the mean.
func TestASeasonKnowsWhatIsNormalAtItsHour(t *testing.T) {
	day := Season{Step: time.Hour, Phases: 24}
	past := daily("normal", 1, 24*21)
	past[100].Value = math.NaN()
	past[200].Value = 1e6
	l, err := LearnLimit(past, day, 1e-3)
	if err != nil {
		t.Fatal(err)
	}
	high := start.Add(24*21*time.Hour + 6*time.Hour) // sin = 1: level 150
	for _, c := range []struct {
		value float64
		seen  bool
	}{{150, false}, {154, false}, {100, true}, {200, true}} {
		if v := l.Judge(high, c.value); !v.Known || v.Seen != c.seen || v.Seen != (v.Score > 1) {
			t.Errorf("%g where 150 is normal: %+v", c.value, v)
		}
	}
	flat, _ := LearnLimit(past, Season{}, 1e-3)
	if flat.Judge(high, 100).Seen {
		t.Error("without a season the mean of the day is an anomaly")
	}
	if l.Judge(high, math.NaN()).Known {
		t.Error("an unknown value was judged")
	}
}

// 40 series: 1,000 hours to learn from, 2,000 judged, at q = .002: 160 false
// alarms of 80,000 are stated. Limits learned once from 100 peaks a side vary
// more than a stream's: a factor of two.
func TestALearnedLimitKeepsItsRate(t *testing.T) {
	for _, kind := range noises[:4] {
		seen := 0
		for seed := range uint64(40) {
			points := daily(kind, seed, 3000)
			l, err := LearnLimit(points[:1000], Season{Step: time.Hour, Phases: 24}, 2e-3)
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range points[1000:] {
				seen += b2i(l.Judge(p.At, p.Value).Seen)
			}
		}
		t.Logf("%s: %d of 160", kind, seen)
		if seen < 80 || seen > 320 {
			t.Errorf("%s: %d false alarms, 160 are stated", kind, seen)
		}
	}
}

func TestAPeriodIsFoundAndNoneIsInvented(t *testing.T) {
	values := make([]float64, 24*14)
	for i, p := range daily("student t, 3 degrees", 2, len(values)) {
		values[i] = p.Value
	}
	values[77], values[78] = 1e6, math.NaN()
	if got := FindPeriod(values, 2, 100); got != 24 {
		t.Errorf("period %d, want 24", got)
	}
	for seed := range uint64(20) {
		if got := FindPeriod(noiseOf("normal", seed, 500), 2, 150); got != 0 {
			t.Errorf("seed %d: period %d in noise", seed, got)
		}
	}
	if FindPeriod(make([]float64, 100), 2, 30) != 0 || FindPeriod(nil, 2, 30) != 0 {
		t.Error("a constant has a period")
	}
}

func TestTooLittleToLearnFromIsSaid(t *testing.T) {
	if _, err := LearnLimit(daily("normal", 1, 59), Season{}, 1e-3); err == nil {
		t.Error("59 values taught a limit")
	}
	if _, err := LearnBaseline([]Point{{start, math.NaN()}}, Season{}); err == nil {
		t.Error("unknown values taught a baseline")
	}
	if _, err := LearnLimit(daily("normal", 1, 100), Season{}, 0.2); err == nil {
		t.Error("a rate above the tail's share was taken")
	}
}

// A constant past: the limit is a millionth of it times a few, not zero.
func TestAConstantPastTeachesALimitThatIsNotRounding(t *testing.T) {
	past := make([]Point, 100)
	for i := range past {
		past[i] = Point{start.Add(time.Duration(i) * time.Second), 5}
	}
	l, err := LearnLimit(past, Season{}, 1e-3)
	if err != nil {
		t.Fatal(err)
	}
	if l.Judge(start, 5).Seen || l.Judge(start, 5+1e-9).Seen || !l.Judge(start, 5.1).Seen {
		t.Error("5 is normal, 5.1 is not")
	}
}

func TestALimitTakesNoNoticeOfTheOrderOfItsPast(t *testing.T) {
	past := daily("lognormal", 4, 500)
	season := Season{Step: time.Hour, Phases: 24}
	a, _ := LearnLimit(past, season, 1e-3)
	r := rand.New(rand.NewPCG(1, 2))
	r.Shuffle(len(past), func(i, j int) { past[i], past[j] = past[j], past[i] })
	b, _ := LearnLimit(past, season, 1e-3)
	if a.Above != b.Above || a.Below != b.Below || !slices.Equal(a.Baseline.Levels, b.Baseline.Levels) || a.Baseline.Spread != b.Baseline.Spread {
		t.Error("another order teaches another limit")
	}
}

func TestAFeatureBeyondItsLearnedLimitIsSeen(t *testing.T) {
	l, err := LearnLimit(daily("normal", 1, 500), Season{Step: time.Hour, Phases: 24}, 1e-3)
	if err != nil {
		t.Fatal(err)
	}
	d := Beyond("busy_fraction", l)
	if s := d.Detect(series(t, `busy_fraction 100x3 300`)); !s.Seen || s.Score <= 1 || s.Probability < 0.98 {
		t.Errorf("%+v", s)
	}
	if s := d.Detect(series(t, `busy_fraction 100x3`)); !s.Known || s.Seen {
		t.Errorf("%+v", s)
	}
	if d.Detect(series(t, `busy_fraction 100 _`)).Known || d.Detect(nil).Known {
		t.Error("unknown was judged")
	}
}

// 24 phases, 300 limits of each number of values, 200 values judged by each: 600 false
// alarms of 60,000 are stated. At the least number there are 36 values beyond the .9
// quantile to fit a tail to.
func TestALimitOfFewValuesAPhaseKeepsItsRate(t *testing.T) {
	season := Season{Step: time.Minute, Phases: 24}
	for _, kind := range noises[:4] {
		for _, each := range []int{leastPhase, 20, 30} {
			seen := 0
			for seed := range uint64(300) {
				learn := 24 * each
				values := noiseOf(kind, seed, learn+200)
				points := make([]Point, len(values))
				for i, v := range values {
					points[i] = Point{start.Add(time.Duration(i) * time.Minute), 100 + v}
				}
				l, err := LearnLimit(points[:learn], season, .01)
				if err != nil {
					t.Fatal(err)
				}
				for _, p := range points[learn:] {
					seen += b2i(judged(l.Above.Probability(l.Baseline.Deviation(p.At, p.Value)), l.Q).Seen)
				}
			}
			t.Logf("%s, %d a phase: %d of 600", kind, each, seen)
			if seen < 480 || seen > 780 {
				t.Errorf("%s, %d values a phase: %d false alarms, 600 are stated", kind, each, seen)
			}
		}
	}
}

func TestAPartOfTheSeasonWithTooFewValuesHasNoLimit(t *testing.T) {
	season := Season{Step: time.Minute, Phases: 24}
	var past []Point
	for i, v := range noiseOf("normal", 1, 24*leastPhase) {
		if i != 7 { // the eighth phase has one less
			past = append(past, Point{start.Add(time.Duration(i) * time.Minute), v})
		}
	}
	l, err := LearnLimit(past, season, 1e-3)
	if err != nil {
		t.Fatal(err)
	}
	for k := range 24 {
		if v := l.Judge(start.Add(time.Duration(k)*time.Minute), 1000); v.Known != (k != 7) || v.Seen != v.Known {
			t.Errorf("phase %d: %+v", k, v)
		}
	}
	if _, err := LearnLimit(past[:24*(leastPhase-1)], season, 1e-3); err == nil {
		t.Error("one value less in every phase taught a limit")
	}
}
