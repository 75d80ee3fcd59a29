package detect

import (
	"errors"
	"fmt"
	"math"
	"slices"
)

// Verdict is what a learned limit says of one value. Tail is the probability
// that a value of the series' normal past is at least as far out. Score is
// ln(Tail)/ln(q), with q the false-alarm rate at which the limit was set: 1 is at
// the limit, 2 is as rare as q·q. Probability is that the value is no noise.
// Known is false when the value, or what it is held against, is unknown.
type Verdict struct {
	Known       bool
	Seen        bool
	Score       float64
	Probability float64
	Tail        float64
}

// rarest keeps scores finite: beyond the end point of a fitted tail the
// probability is zero, and the score would be infinite.
const rarest = 1e-300

// judged is the verdict on a value of a tail probability, at a false-alarm rate q.
func judged(tail, q float64) Verdict {
	if math.IsNaN(tail) || !rate(q) {
		return Verdict{}
	}
	tail = min(max(tail, rarest), 1)
	score := max(0, math.Log(tail)/math.Log(q)) // and never −0
	return Verdict{Known: true, Seen: score > 1, Score: score, Probability: noNoise(tail), Tail: tail}
}

func rate(q float64) bool { return q > 0 && q < 1 }

// noNoise is the probability that a value is no noise, from its tail probability p,
// where noise and not are equally likely beforehand: 1/(1+B) with the Bayes factor
// B = −e·p·ln p below p = 1/e, else 1 (Sellke, Bayarri, Berger 2001). B is the
// least that any alternative gives to noise, so the probability is the highest
// that p supports: .98 at p = .001, .71 at p = .05.
func noNoise(p float64) float64 {
	if p >= 1/math.E {
		return 0.5
	}
	return 1 / (1 - math.E*p*math.Log(p))
}

// Pareto is a generalized Pareto distribution of excesses over a threshold:
// P(Y > y) = (1 + Shape·y/Scale)^(−1/Shape), exponential at Shape 0, with an end
// point at −Scale/Shape below. Scale is positive, in the unit of the excesses.
type Pareto struct{ Shape, Scale float64 }

// Survival is P(Y > y).
func (p Pareto) Survival(y float64) float64 {
	if y <= 0 {
		return 1
	}
	if math.Abs(p.Shape) < 1e-9 {
		return math.Exp(-y / p.Scale)
	}
	inside := 1 + p.Shape*y/p.Scale
	if inside <= 0 {
		return 0
	}
	return math.Exp(-math.Log(inside) / p.Shape)
}

// Quantile is the excess that is exceeded with probability s, 0 < s ≤ 1.
func (p Pareto) Quantile(s float64) float64 {
	if math.Abs(p.Shape) < 1e-9 {
		return -p.Scale * math.Log(s)
	}
	return p.Scale / p.Shape * math.Expm1(-p.Shape*math.Log(s))
}

// Few excesses say little of the shape: it is drawn to priorShape with the weight
// of priorPeaks excesses, as Vehtari, Gelman and Gabry do (Pareto smoothed
// importance sampling, 2015). The prior is the tail of a Student t with ten
// degrees of freedom: heavier than the normal, as metrics are, with two moments.
const (
	priorShape = 0.1
	priorPeaks = 10
)

// FitPareto fits excesses, all above zero, by the profile likelihood averaged
// over a prior of its one parameter (Zhang and Stephens 2009): as efficient as
// maximum likelihood by Grimshaw's roots, and always there, also where the
// likelihood has no maximum. It wants five of them.
func FitPareto(excesses []float64) (Pareto, error) {
	y := slices.Clone(excesses)
	slices.Sort(y)
	n := len(y)
	if n < 5 {
		return Pareto{}, fmt.Errorf("detect: fit tail: %d excesses, five are needed", n)
	}
	if !(y[0] > 0) || math.IsInf(y[n-1], 1) {
		return Pareto{}, errors.New("detect: fit tail: an excess is not a positive number")
	}
	if y[n-1] == y[0] {
		return Pareto{Shape: priorShape, Scale: y[0]}, nil
	}
	quartile, largest := y[int(float64(n)/4+0.5)-1], y[n-1]
	m := 20 + int(math.Sqrt(float64(n)))
	theta, fit := make([]float64, m), make([]float64, m)
	shape := func(theta float64) float64 {
		sum := 0.0
		for _, v := range y {
			sum += math.Log1p(-theta * v)
		}
		return sum / float64(n)
	}
	best := math.Inf(-1)
	for j := range theta {
		theta[j] = 1/largest + (1-math.Sqrt(float64(m)/(float64(j)+0.5)))/(3*quartile)
		k := shape(theta[j])
		fit[j] = float64(n) * (math.Log(-theta[j]/k) - k - 1)
		if math.IsNaN(fit[j]) {
			fit[j] = math.Inf(-1)
		}
		best = max(best, fit[j])
	}
	sum, weights := 0.0, 0.0
	for j := range theta {
		w := math.Exp(fit[j] - best)
		sum, weights = sum+w*theta[j], weights+w
	}
	at := sum / weights
	k := shape(at)
	scale := -k / at
	if at == 0 || math.IsNaN(scale) || scale <= 0 {
		mean := 0.0
		for _, v := range y {
			mean += v / float64(n)
		}
		k, scale = 0, mean
	}
	return Pareto{Shape: (k*float64(n) + priorShape*priorPeaks) / float64(n+priorPeaks), Scale: scale}, nil
}

// Tail is the upper tail of a series' normal values: of N values, the share
// Peaks/N is above Threshold, by excesses that Excess describes.
type Tail struct {
	Threshold float64
	N, Peaks  int
	Excess    Pareto
}

// FitTail fits the upper tail above the level-quantile of the values (.98 in
// Siffer et al. 2017, peaks over threshold). NaN is left out. A constant series
// has no tail, which is an error: what leaves it must be judged by a floor.
func FitTail(values []float64, level float64) (Tail, error) {
	if !rate(level) {
		return Tail{}, fmt.Errorf("detect: fit tail: level %v is not inside 0–1", level)
	}
	sorted := known(values)
	slices.Sort(sorted)
	if len(sorted) == 0 {
		return Tail{}, errors.New("detect: fit tail: no values")
	}
	threshold := quantile(sorted, level)
	excesses := excessesOver(sorted, threshold)
	excesses = excesses[:len(excesses)-astray(excesses)]
	p, err := FitPareto(excesses)
	if err != nil {
		return Tail{}, err
	}
	return Tail{Threshold: threshold, N: len(sorted), Peaks: len(excesses), Excess: p}, nil
}

// strayed is how unlikely the least of the largest excesses must be, by the fit
// of those below it and for all of their number, to be no part of the tail.
const strayed = 1e-3

// astray counts the largest of sorted excesses that the others do not reach to,
// a tenth at most: anomalies of a past that was held to be normal. Many are tried
// before few, so that two do not hide each other.
func astray(sorted []float64) int {
	n := len(sorted)
	for k := n / 10; k > 0; k-- {
		rest, err := FitPareto(sorted[:n-k])
		if err == nil && rest.Survival(sorted[n-k])*float64(n) < strayed {
			return k
		}
	}
	return 0
}

func excessesOver(values []float64, threshold float64) []float64 {
	var out []float64
	for _, v := range values {
		if v > threshold && !math.IsInf(v, 1) {
			out = append(out, v-threshold)
		}
	}
	return out
}

// Probability is that a normal value is above v: exact above the threshold, and
// at most Peaks/N there; below it, 1 is returned, since the tail says no more.
func (t Tail) Probability(v float64) float64 {
	if math.IsNaN(v) || t.N == 0 {
		return math.NaN()
	}
	if v <= t.Threshold {
		return 1
	}
	return float64(t.Peaks) / float64(t.N) * t.Excess.Survival(v-t.Threshold)
}

// Limit is the value that a normal value exceeds with probability q, for q below
// Peaks/N: z_q of Siffer et al. 2017, formula 1. Above, it is the threshold.
func (t Tail) Limit(q float64) float64 {
	s := q * float64(t.N) / float64(t.Peaks)
	if !(s < 1) {
		return t.Threshold
	}
	return t.Threshold + t.Excess.Quantile(s)
}

// Judge holds a value against the tail at a false-alarm rate q.
func (t Tail) Judge(v, q float64) Verdict { return judged(t.Probability(v), q) }

// SPOT judges a stream by peaks over threshold (Siffer et al., KDD 2017). In the
// paper a value beyond the limit teaches nothing, which cuts the tail at the limit
// and brings it nearer with every refit: at q = .001 we measured three times the
// stated rate after 20,000 exponential values, six times after 150,000. Here only a
// value as rare as q·q teaches nothing; other peaks refit the tail. With Depth above zero it is DSPOT: what
// is judged is the distance from the median of the last Depth normal values (the
// paper takes their mean, which one missed anomaly moves). A stream and a batch
// are one and the same: Next in order.
type SPOT struct {
	Q     float64 // false alarms a value, e.g. 1e-4
	Level float64 // quantile above which a value is a peak, e.g. 0.98
	Learn int     // values that the first fit takes; none of them is judged
	Depth int     // normal values whose median is the level; 0: no drift

	tail   Tail
	peaks  []float64
	fitted int // peaks at the last fit
	first  []float64
	recent *Rolling
}

// mostPeaks bounds memory and the cost of a fit: at that many, the older half is
// forgotten with its share of N.
const mostPeaks = 1000

// NewSPOT is a SPOT that has seen nothing.
func NewSPOT(q, level float64, learn, depth int) (*SPOT, error) {
	switch {
	case !rate(q) || !rate(level) || q >= 1-level:
		return nil, fmt.Errorf("detect: spot: want 0 < q < 1-level < 1, have q %v, level %v", q, level)
	case float64(learn)*(1-level) < 6-1e-9:
		return nil, fmt.Errorf("detect: spot: %d values hold too few peaks above the %v-quantile; six are wanted", learn, level)
	case depth < 0:
		return nil, fmt.Errorf("detect: spot: depth %d is below zero", depth)
	}
	s := &SPOT{Q: q, Level: level, Learn: learn, Depth: depth}
	if depth > 0 {
		s.recent = NewRolling(depth)
	}
	return s, nil
}

// Tail is the tail as it is fitted now; its values are distances from the level
// where there is drift.
func (s *SPOT) Tail() Tail { return s.tail }

// Next judges the next value of the stream, then learns from it. NaN is unknown
// and teaches nothing; so is every value until the first fit.
func (s *SPOT) Next(v float64) Verdict {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return Verdict{}
	}
	x, known := s.distance(v)
	if !known {
		s.recent.Add(v)
		return Verdict{}
	}
	if s.tail.N == 0 {
		s.learn(v, x)
		return Verdict{}
	}
	verdict := s.tail.Judge(x, s.Q)
	if verdict.Score > 2 {
		return verdict
	}
	s.level(v)
	s.tail.N++
	if x > s.tail.Threshold {
		s.peaks = append(s.peaks, x-s.tail.Threshold)
		if len(s.peaks) > mostPeaks {
			s.peaks = slices.Delete(s.peaks, 0, mostPeaks/2)
			s.tail.N = int(math.Round(float64(s.tail.N) * float64(len(s.peaks)) / (mostPeaks + 1)))
			s.fitted = 0
		}
		s.tail.Peaks = len(s.peaks)
		if s.tail.Peaks < s.fitted+s.fitted/50+1 { // two per cent more change little
			return verdict
		}
		if p, err := FitPareto(s.peaks); err == nil {
			s.tail.Excess, s.fitted = p, s.tail.Peaks
		}
	}
	return verdict
}

// Judge judges a value as Next does, and does not learn from it.
func (s *SPOT) Judge(v float64) Verdict {
	x, known := s.distance(v)
	if !known || s.tail.N == 0 || math.IsInf(v, 0) {
		return Verdict{}
	}
	return s.tail.Judge(x, s.Q)
}

// distance of a value from the level, the value itself where there is no drift; not
// known before there is a level.
func (s *SPOT) distance(v float64) (x float64, known bool) {
	if s.recent == nil {
		return v, true
	}
	return v - s.recent.Median(), s.recent.Len() >= s.Depth
}

func (s *SPOT) level(v float64) {
	if s.recent != nil {
		s.recent.Add(v)
	}
}

// learn gathers values for the first fit. A series so constant that it has no
// peaks keeps on gathering, Learn values at a time.
func (s *SPOT) learn(v, x float64) {
	s.level(v)
	s.first = append(s.first, x)
	if len(s.first)%s.Learn != 0 {
		return
	}
	tail, err := FitTail(s.first, s.Level)
	if err != nil {
		if len(s.first) >= 4*s.Learn {
			s.first = s.first[:0]
		}
		return
	}
	s.peaks = excessesOver(s.first, tail.Threshold)
	slices.Sort(s.peaks)
	s.peaks = s.peaks[:tail.Peaks]
	s.tail, s.fitted, s.first = tail, tail.Peaks, nil
}
