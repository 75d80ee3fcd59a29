package detect

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func noiseOf(kind string, seed uint64, n int) []float64 {
	r := rand.New(rand.NewPCG(seed, 7))
	out := make([]float64, n)
	for i := range out {
		z := r.NormFloat64()
		switch kind {
		case "normal":
			out[i] = z
		case "exponential":
			out[i] = r.ExpFloat64()
		case "lognormal":
			out[i] = math.Exp(z)
		case "student t, 3 degrees":
			chi := 0.0
			for range 3 {
				g := r.NormFloat64()
				chi += g * g
			}
			out[i] = z / math.Sqrt(chi/3)
		case "Pareto, shape 0.5":
			out[i] = math.Pow(1-r.Float64(), -0.5)
		}
	}
	return out
}

var noises = []string{"normal", "exponential", "lognormal", "student t, 3 degrees", "Pareto, shape 0.5"}

// 10 series of 20,000 values after 2,000 to learn from, at q = 1e-3: 200 false
// alarms of 200,000 are stated. A first tail is fitted to 40 peaks, so that one
// series' rate varies; over all it must be within a factor of 1.5.
func TestTheFalseAlarmRateOfAStreamIsTheOneStated(t *testing.T) {
	const q = 1e-3
	for _, kind := range noises {
		for _, depth := range []int{0, 50} {
			seen, judged := 0, 0
			for seed := range uint64(10) {
				s, err := NewSPOT(q, 0.98, 2000, depth)
				if err != nil {
					t.Fatal(err)
				}
				for _, v := range noiseOf(kind, seed, 22_000) {
					if got := s.Next(v); got.Known {
						judged++
						if got.Seen {
							seen++
						}
					}
				}
			}
			rate := float64(seen) / float64(judged)
			t.Logf("%s, depth %d: %.2e of %d", kind, depth, rate, judged)
			if rate < q/1.5 || rate > q*1.5 {
				t.Errorf("%s, depth %d: %.2e false alarms a value, %.0e are stated", kind, depth, rate, q)
			}
		}
	}
}

// The same shape from 1,000 excesses, of shape 0.5 and scale 2.
func TestATailIsFoundAgain(t *testing.T) {
	for _, want := range []Pareto{{0.5, 2}, {0, 2}, {-0.3, 2}, {0.2, 1e-9}, {0.2, 1e9}} {
		r := rand.New(rand.NewPCG(1, 1))
		y := make([]float64, 1000)
		for i := range y {
			y[i] = want.Quantile(1 - r.Float64())
		}
		got, err := FitPareto(slices.DeleteFunc(y, func(v float64) bool { return v <= 0 }))
		if err != nil || math.Abs(got.Shape-want.Shape) > 0.1 || math.Abs(got.Scale/want.Scale-1) > 0.12 {
			t.Errorf("fitted %v to excesses of %v: %v", got, want, err)
		}
	}
}

func TestAQuantileOfATailIsExceededWithItsProbability(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := Pareto{Shape: rapid.Float64Range(-1, 1).Draw(t, "shape"), Scale: math.Exp(rapid.Float64Range(-10, 10).Draw(t, "ln scale"))}
		s := math.Exp(-rapid.Float64Range(0.01, 12).Draw(t, "-ln s"))
		if got := p.Survival(p.Quantile(s)); math.Abs(got/s-1) > 1e-6 {
			t.Fatalf("%v: survival of quantile %g is %g", p, s, got)
		}
		tail := Tail{Threshold: 3, N: 1000, Peaks: 20, Excess: p}
		q := 0.02 * s
		if got := tail.Judge(tail.Limit(q), q).Score; math.Abs(got-1) > 1e-5 {
			t.Fatalf("%v: score at the limit is %g", tail, got)
		}
	})
}

func TestAFitTakesAnyExcessesWithoutHarm(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		y := rapid.SliceOfN(rapid.Float64Range(1e-12, 1e12), 5, 60).Draw(t, "excesses")
		before := slices.Clone(y)
		p, err := FitPareto(y)
		if err != nil || math.IsNaN(p.Shape) || !(p.Scale > 0) || math.IsInf(p.Scale, 0) {
			t.Fatalf("%v: %v", p, err)
		}
		if !slices.Equal(before, y) {
			t.Fatal("the caller's excesses were moved")
		}
		last := 1.0
		for v := 1e-12; v < 1e13; v *= 10 {
			s := p.Survival(v)
			if !(s >= 0) || s > last {
				t.Fatalf("%v: survival %g of %g, %g before", p, s, v, last)
			}
			last = s
		}
	})
	for _, bad := range [][]float64{nil, {1, 2, 3, 4}, {0, 1, 2, 3, 4}, {1, 2, 3, 4, math.Inf(1)}, {1, 2, 3, 4, math.NaN()}} {
		if _, err := FitPareto(bad); err == nil {
			t.Errorf("excesses %v were fitted", bad)
		}
	}
}

// A limit is a quantile: the values' order, and a factor, do not matter to it.
func TestATailTakesNoNoticeOfOrderAndScalesWithItsUnit(t *testing.T) {
	values := noiseOf("lognormal", 3, 2000)
	a, err := FitTail(values, 0.98)
	if err != nil {
		t.Fatal(err)
	}
	slices.Reverse(values)
	if b, _ := FitTail(values, 0.98); a != b {
		t.Errorf("reversed: %v, was %v", b, a)
	}
	for i := range values {
		values[i] *= 1000
	}
	b, _ := FitTail(values, 0.98)
	if l, m := a.Limit(1e-4), b.Limit(1e-4); math.Abs(m/l/1000-1) > 1e-9 {
		t.Errorf("limit %g of values, %g of a thousand times as much", l, m)
	}
}

// The fit of a batch is the stream's first, a stream cut anywhere goes on as if
// it had not been, and unknown values change nothing.
func TestAStreamSaysWhatABatchSays(t *testing.T) {
	values := noiseOf("student t, 3 degrees", 5, 1500)
	values[1200] = 100
	for _, depth := range []int{0, 30} {
		whole, _ := NewSPOT(1e-4, 0.98, 500, depth)
		var want []Verdict
		for _, v := range values {
			want = append(want, whole.Next(v))
		}
		if !want[1200].Seen {
			t.Errorf("depth %d: a hundred spreads are not seen", depth)
		}
		gaps, _ := NewSPOT(1e-4, 0.98, 500, depth)
		for i, v := range values {
			if got := gaps.Next(v); got != want[i] {
				t.Fatalf("depth %d, value %d: %v, was %v", depth, i, got, want[i])
			}
			if gaps.Next(math.NaN()).Known {
				t.Fatal("an unknown value was judged")
			}
		}
	}
	s, _ := NewSPOT(1e-4, 0.98, 500, 0)
	for _, v := range values[:500] {
		s.Next(v)
	}
	if batch, _ := FitTail(values[:500], 0.98); batch != s.Tail() {
		t.Errorf("batch %v, stream %v", batch, s.Tail())
	}
}

// p = .001 at q = .001 is the limit: score 1, and no noise with
// 1/(1 − e·.001·ln .001) = .982.
func TestAScoreIsOneAtTheLimitAndTwoAtItsSquare(t *testing.T) {
	for _, c := range []struct{ p, score, probability float64 }{{1e-3, 1, 0.98157}, {1e-6, 2, 0.99996}, {1, 0, 0.5}, {0, 100, 1}} {
		v := judged(c.p, 1e-3)
		if math.Abs(v.Score-c.score) > 1e-9 || math.Abs(v.Probability-c.probability) > 1e-5 || v.Seen != (v.Score > 1) {
			t.Errorf("tail probability %g: %+v", c.p, v)
		}
	}
	if judged(math.NaN(), 1e-3).Known || judged(0.5, 0).Known || judged(0.5, 1).Known {
		t.Error("an unknown value, or a rate that is none, was judged")
	}
}

func TestASPOTThatCannotBeIsRefused(t *testing.T) {
	for _, c := range []struct {
		q, level float64
		n, depth int
	}{{0, .98, 1000, 0}, {.03, .98, 1000, 0}, {math.NaN(), .98, 1000, 0}, {1e-3, 1, 1000, 0}, {1e-3, .98, 100, 0}, {1e-3, .98, 1000, -1}} {
		if _, err := NewSPOT(c.q, c.level, c.n, c.depth); err == nil {
			t.Errorf("%+v was taken", c)
		}
	}
}

// A million values, then a thousand peaks at most are kept and the rate stands.
func TestALongStreamForgetsAndKeepsItsRate(t *testing.T) {
	s, _ := NewSPOT(1e-3, 0.98, 2000, 0)
	seen := 0
	for _, v := range noiseOf("exponential", 9, 150_000) {
		if s.Next(v).Seen {
			seen++
		}
	}
	if len(s.peaks) > mostPeaks || seen < 100 || seen > 210 {
		t.Errorf("%d peaks kept, %d false alarms of 150 stated", len(s.peaks), seen)
	}
}

func TestAConstantStreamIsNoCrashAndNoAlarm(t *testing.T) {
	s, _ := NewSPOT(1e-3, 0.98, 400, 10)
	for range 5000 {
		if s.Next(3).Known {
			t.Fatal("a constant has no tail to judge by")
		}
	}
}
