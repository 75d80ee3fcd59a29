package detect

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// normalMAD makes the median absolute deviation of normal noise its standard
// deviation: 1/Φ⁻¹(3/4).
const normalMAD = 1.4826

func known(values []float64) []float64 {
	out := make([]float64, 0, len(values))
	for _, v := range values {
		if !math.IsNaN(v) {
			out = append(out, v)
		}
	}
	return out
}

// quantile of sorted values, between neighbours in proportion; NaN of none.
func quantile(sorted []float64, q float64) float64 {
	if len(sorted) == 0 {
		return math.NaN()
	}
	at := q * float64(len(sorted)-1)
	i := int(at)
	if i+1 >= len(sorted) {
		return sorted[len(sorted)-1]
	}
	// A sum of shares, not a difference: that of two infinities is unknown.
	if at == float64(i) {
		return sorted[i]
	}
	return sorted[i]*(float64(i+1)-at) + sorted[i+1]*(at-float64(i))
}

// Level is the median of values and their spread, the median absolute deviation
// as a standard deviation. NaN is left out; of nothing, both are NaN. Up to half
// of the values may be anything without moving them far.
func Level(values []float64) (median, spread float64) {
	v := known(values)
	slices.Sort(v)
	median = quantile(v, 0.5)
	for i := range v {
		v[i] = math.Abs(v[i] - median)
	}
	slices.Sort(v)
	return median, normalMAD * quantile(v, 0.5)
}

// Rolling is the median of the last values, kept sorted: a value costs a binary
// search and a move.
type Rolling struct {
	ring   []float64
	sorted []float64
	next   int
}

// NewRolling keeps the last size values, at least one.
func NewRolling(size int) *Rolling { return &Rolling{ring: make([]float64, 0, max(size, 1))} }

// Add takes a value; NaN is left out.
func (r *Rolling) Add(v float64) {
	if math.IsNaN(v) {
		return
	}
	if len(r.ring) == cap(r.ring) {
		at, _ := slices.BinarySearch(r.sorted, r.ring[r.next])
		r.sorted = slices.Delete(r.sorted, at, at+1)
		r.ring[r.next] = v
		r.next = (r.next + 1) % len(r.ring)
	} else {
		r.ring = append(r.ring, v)
	}
	at, _ := slices.BinarySearch(r.sorted, v)
	r.sorted = slices.Insert(r.sorted, at, v)
}

// Len is how many values are kept.
func (r *Rolling) Len() int { return len(r.sorted) }

// Median of the values kept, NaN of none.
func (r *Rolling) Median() float64 { return quantile(r.sorted, 0.5) }

// Quantile of the values kept, NaN of none.
func (r *Rolling) Quantile(q float64) float64 { return quantile(r.sorted, q) }

// Season is a period cut into phases of one step each, counted from the Unix
// epoch: {time.Hour, 24} is the hours of a day in UTC. The zero Season is none.
type Season struct {
	Step   time.Duration
	Phases int
}

// Phase of a time, from 0.
func (s Season) Phase(at time.Time) int {
	if s.Step <= 0 || s.Phases <= 1 {
		return 0
	}
	p := at.UnixNano() / int64(s.Step) % int64(s.Phases)
	if p < 0 {
		p += int64(s.Phases)
	}
	return int(p)
}

// Point is a value at a time.
type Point struct {
	At    time.Time
	Value float64
}

// Baseline is what is normal for a series: its level at each phase of its season,
// and how far values are spread about their phase's level.
type Baseline struct {
	Season Season
	Levels []float64 // median by phase; NaN where fewer than leastPhase values were there
	Spread float64   // of all phases together, above zero
}

// leastSpread is the share of the level below which noise is rounding, not the
// series': a metric that has been constant is not thereby sure to the last digit.
const leastSpread = 1e-6

// leastPhase is how many values a phase of a season takes to have a level. Of fewer a
// limit raises more false alarms than it states: 1.7 times of five lognormal ones, 1.5 of
// eight, 1.2 of fifteen (TestALimitOfFewValuesAPhaseKeepsItsRate).
const leastPhase = 15

// byPhase are the values of each phase, ascending. NaN and the infinite are left out.
func byPhase(past []Point, season Season) [][]float64 {
	out := make([][]float64, max(season.Phases, 1))
	for _, p := range past {
		if !math.IsNaN(p.Value) && !math.IsInf(p.Value, 0) {
			k := season.Phase(p.At)
			out[k] = append(out[k], p.Value)
		}
	}
	for _, values := range out {
		slices.Sort(values)
	}
	return out
}

// LearnBaseline is the median by phase and the median absolute deviation about
// it. NaN is left out.
func LearnBaseline(past []Point, season Season) (Baseline, error) {
	return learnBaseline(byPhase(past, season), season)
}

func learnBaseline(byPhase [][]float64, season Season) (Baseline, error) {
	b := Baseline{Season: season, Levels: make([]float64, len(byPhase))}
	var all, off []float64
	for k, values := range byPhase {
		b.Levels[k] = math.NaN()
		if len(byPhase) > 1 && len(values) < leastPhase {
			continue
		}
		b.Levels[k], _ = Level(values)
		for _, v := range values {
			all, off = append(all, v), append(off, math.Abs(v-b.Levels[k]))
		}
	}
	if len(all) == 0 {
		return Baseline{}, fmt.Errorf("detect: learn baseline: no values, or fewer than %d in every part of the season", leastPhase)
	}
	overall, _ := Level(all)
	slices.Sort(off)
	b.Spread = normalMAD * quantile(off, 0.5)
	if b.Spread == 0 { // more than half of the values are alike
		b.Spread = normalMAD * quantile(off, 0.9)
	}
	b.Spread = max(b.Spread, leastSpread*math.Abs(overall), math.SmallestNonzeroFloat32)
	return b, nil
}

// Deviation of a value from its phase's level, in spreads; above zero is above.
func (b Baseline) Deviation(at time.Time, v float64) float64 {
	if len(b.Levels) == 0 {
		return math.NaN()
	}
	return (v - b.Levels[b.Season.Phase(at)%len(b.Levels)]) / b.Spread
}

// FindPeriod finds the period of evenly spaced values, in steps from least to
// most, or 0. It is the first peak of the autocorrelation that is near its
// highest, of values clipped at three spreads so that outliers neither make nor
// hide one; it must exceed .3 and be seen in three periods. NaN is left out pair
// by pair.
func FindPeriod(values []float64, least, most int) int {
	median, spread := Level(values)
	if !(spread > 0) {
		return 0
	}
	z := make([]float64, len(values))
	for i, v := range values {
		z[i] = min(max((v-median)/spread, -3), 3)
	}
	least, most = max(least, 2), min(most, len(values)/3)
	if most < least {
		return 0
	}
	corr := make([]float64, most+2)
	for lag := least - 1; lag <= most+1 && lag < len(z); lag++ {
		corr[lag] = correlation(z[lag:], z[:len(z)-lag])
	}
	best := 0.0
	for lag := least; lag <= most; lag++ {
		if corr[lag] >= corr[lag-1] && corr[lag] >= corr[lag+1] {
			best = max(best, corr[lag])
		}
	}
	for lag := least; lag <= most && best > 0.3; lag++ {
		if corr[lag] >= 0.95*best && corr[lag] >= corr[lag-1] && corr[lag] >= corr[lag+1] {
			return lag
		}
	}
	return 0
}

func correlation(a, b []float64) float64 {
	var n, sa, sb float64
	for i := range a {
		if !math.IsNaN(a[i]) && !math.IsNaN(b[i]) {
			n, sa, sb = n+1, sa+a[i], sb+b[i]
		}
	}
	if n < 3 {
		return 0
	}
	ma, mb := sa/n, sb/n
	var ab, aa, bb float64
	for i := range a {
		if x, y := a[i]-ma, b[i]-mb; !math.IsNaN(x) && !math.IsNaN(y) {
			ab, aa, bb = ab+x*y, aa+x*x, bb+y*y
		}
	}
	if aa == 0 || bb == 0 {
		return 0
	}
	return ab / math.Sqrt(aa*bb)
}

// Limit is a limit that a series' own normal past taught: its baseline, and the
// tail of the deviations from it, above and below.
type Limit struct {
	Q            float64 // false alarms a value
	Baseline     Baseline
	Above, Below Tail // Below is that of the deviations' negatives
}

// limitLevel is the quantile above which deviations are the tail that a Limit is
// fitted to: lower than SPOT's .98, since a job's healthy past is short.
const limitLevel = 0.9

// LearnLimit learns from values that were normal, at least 60 of them in phases of
// which there are enough. A value's deviation is that from the level of the others of its
// phase, as it will be for those that are judged: from a level that it is part of it
// strays less, the fewer there are.
func LearnLimit(past []Point, season Season, q float64) (Limit, error) {
	if !rate(q) || q >= 1-limitLevel {
		return Limit{}, fmt.Errorf("detect: learn limit: want 0 < q < %.1f, have %v", 1-limitLevel, q)
	}
	phases := byPhase(past, season)
	b, err := learnBaseline(phases, season)
	if err != nil {
		return Limit{}, err
	}
	n := 0
	for k := range phases {
		if math.IsNaN(b.Levels[k]) {
			phases[k] = nil
		}
		n += len(phases[k])
	}
	if n < 60 {
		return Limit{}, fmt.Errorf("detect: learn limit: %d values, sixty are needed", n)
	}
	var up, down []float64
	for _, values := range phases {
		for i, v := range values {
			d := (v - medianWithout(values, i)) / b.Spread
			up, down = append(up, d), append(down, -d)
		}
	}
	return Limit{Q: q, Baseline: b, Above: tailOf(up), Below: tailOf(down)}, nil
}

// medianWithout is the median of sorted values but one.
func medianWithout(sorted []float64, but int) float64 {
	at := func(i int) float64 {
		if i >= but {
			i++
		}
		return sorted[i]
	}
	n := len(sorted) - 1
	return at((n-1)/2)*.5 + at(n/2)*.5
}

// tailOf is the tail of deviations; of a series too constant to have one it is
// that of normal noise of the least spread: exponential excesses above 1.28, as
// at the .9 quantile, falling by e in .56.
func tailOf(deviations []float64) Tail {
	t, err := FitTail(deviations, limitLevel)
	if err != nil {
		n := len(deviations)
		return Tail{Threshold: 1.28, N: n, Peaks: n / 10, Excess: Pareto{Scale: 0.56}}
	}
	return t
}

// Judge holds a value against the limit above and the limit below, each at half
// of the false-alarm rate.
func (l Limit) Judge(at time.Time, v float64) Verdict {
	d := l.Baseline.Deviation(at, v)
	if d < 0 {
		return judged(2*l.Below.Probability(-d), l.Q)
	}
	return judged(2*l.Above.Probability(d), l.Q)
}

// Beyond sees a feature beyond its learned limit, above or below.
func Beyond(feature string, l Limit) Detector {
	return Func(func(t Trail) Sighting {
		if len(t) == 0 {
			return Sighting{}
		}
		at := t[len(t)-1].At
		v := l.Judge(at, last(t, feature))
		if !v.Known {
			return Sighting{}
		}
		return Sighting{Known: true, Seen: v.Seen, Score: v.Score, Probability: v.Probability, Since: at}
	})
}
