package main

import (
	"errors"
	"math"

	"gonum.org/v1/gonum/mat"

	"github.com/dhalion-go/dhalion/detect"
)

// All that is asked about a second t looks at most 160 s back: decided after t,
// 80 s before it, and the loss's gathering.
const (
	decided = 15 // seconds after a loss at which it is judged: by then a stop has taken all, and a lost one is often back
	before  = 80 // seconds before a loss in which its run is normal
	quiet   = 25 // seconds before a loss that are not normal any more, if it is a fault: Flink notices a dead TaskManager after its heartbeat timeout
	stalled = 10 // seconds before a loss in which a fault stalls the job
)

// A rescale stops a job that worked until then; a TaskManager that the network
// cut off stalls the whole job first (latency repeats its last value, the
// processors idle, while the number of TaskManagers stands), is then declared
// lost, alone, and comes back. The features say how much of that was seen.
var featureNames = []string{
	"cpu before the loss, ln of its ratio to normal",
	"cpu before the loss, in spreads",
	"share of seconds without a new latency",
	"TaskManagers lost beyond one, share",
	"one lost and back",
	"collapse: at most half left",
	"throughput before the loss, ln of its ratio to normal",
	"number of TaskManagers stood before",
}

// event is a loss of TaskManagers: at is the second of the first, and its
// features are known decided seconds later.
type event struct {
	at       int
	features []float64
	since    int // when the stall before it began, by change points of the processor's load
}

// events finds the losses of a run. Decreases within decided seconds of the first
// are one.
func events(r *run) []event {
	tm := r.values[managers]
	var out []event
	for t := before; t+decided < r.seconds(); t++ {
		b := lastKnown(tm, t, 5)
		if !(tm[t] < b) {
			continue
		}
		out = append(out, event{at: t, features: featuresAt(r, t, b), since: sinceOf(r, t)})
		t += decided
	}
	return out
}

// lastKnown is the last known value in the n seconds before t.
func lastKnown(v []float64, t, n int) float64 {
	for i := t - 1; i >= max(t-n, 0); i-- {
		if !math.IsNaN(v[i]) {
			return v[i]
		}
	}
	return math.NaN()
}

func featuresAt(r *run, t int, base float64) []float64 {
	ratio := func(m int) float64 {
		normal, _ := detect.Level(r.values[m][t-before : t-quiet])
		now, _ := detect.Level(r.values[m][t-stalled : t])
		l := math.Log(now / normal)
		if math.IsNaN(l) { // unknown, or nothing on both sides
			return 0
		}
		return min(max(l, -4), 4)
	}
	normal, spread := detect.Level(r.values[cpu][t-before : t-quiet])
	now, _ := detect.Level(r.values[cpu][t-stalled : t])
	deviation := (now - normal) / math.Max(spread, 0.02)
	if math.IsNaN(deviation) {
		deviation = 0
	}
	repeated := 0.0
	for i := t - 15; i < t; i++ {
		if v := r.values[latency]; math.IsNaN(v[i]) || v[i] == v[i-1] {
			repeated++
		}
	}
	least, end, stood := base, base, 0.0
	for i := t; i <= t+decided; i++ {
		if v := r.values[managers][i]; !math.IsNaN(v) {
			least, end = min(least, v), v
		}
	}
	for i := t - 60; i < t; i++ {
		if r.values[managers][i] == base {
			stood++
		}
	}
	return []float64{
		ratio(cpu),
		min(max(deviation, -10), 10),
		repeated / 15,
		(base - least - 1) / base,
		indicator(least == base-1 && end == base),
		indicator(least <= base/2),
		ratio(throughput),
		stood / 60,
	}
}

func indicator(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// sinceOf is the last change of the processor's load, in the minute before a loss
// at t, to less than before; without one, t.
func sinceOf(r *run, t int) int {
	from := t - 60
	v := make([]float64, 60)
	for i := range v { // load is a share: its logarithm shifts by factors
		v[i] = math.Log(math.Max(r.values[cpu][from+i], 1e-3))
	}
	changes := detect.Changes(v, 3*math.Log(60))
	for i := len(changes) - 1; i >= 0; i-- {
		start := 0
		if i > 0 {
			start = changes[i-1]
		}
		was, _ := detect.Level(v[start:changes[i]])
		is, _ := detect.Level(v[changes[i]:min(changes[i]+5, len(v))])
		if is < was-0.3 {
			return from + changes[i]
		}
	}
	return t
}

// scorer is a logistic regression over standardised features: the probability
// that a loss of TaskManagers is a fault.
type scorer struct {
	mean, scale []float64
	weights     []float64 // the last is the intercept
}

// ridge is the penalty on squared weights, against the sum of log losses: features
// that separate the classes leave weights finite.
const ridge = 1.0

// fitScorer takes features and whether each is a fault, and maximises the
// penalised likelihood by Newton's method.
func fitScorer(x [][]float64, y []bool) (*scorer, error) {
	positives := 0
	for _, b := range y {
		if b {
			positives++
		}
	}
	if positives == 0 || positives == len(y) {
		return nil, errors.New("fit: all events are of one class")
	}
	d := len(x[0])
	s := &scorer{mean: make([]float64, d), scale: make([]float64, d), weights: make([]float64, d+1)}
	for j := range d {
		for i := range x {
			s.mean[j] += x[i][j] / float64(len(x))
		}
		for i := range x {
			s.scale[j] += (x[i][j] - s.mean[j]) * (x[i][j] - s.mean[j]) / float64(len(x))
		}
		if s.scale[j] = math.Sqrt(s.scale[j]); s.scale[j] == 0 {
			s.scale[j] = 1
		}
	}
	for range 50 {
		gradient := mat.NewVecDense(d+1, nil)
		hessian := mat.NewSymDense(d+1, nil)
		for j := range d {
			gradient.SetVec(j, ridge*s.weights[j])
			hessian.SetSym(j, j, ridge)
		}
		hessian.SetSym(d, d, 1e-6)
		for i := range x {
			z, p := s.row(x[i]), s.probability(x[i])
			w := max(p*(1-p), 1e-9)
			for j := range z {
				gradient.SetVec(j, gradient.AtVec(j)+(p-indicator(y[i]))*z[j])
				for k := j; k < len(z); k++ {
					hessian.SetSym(j, k, hessian.At(j, k)+w*z[j]*z[k])
				}
			}
		}
		var chol mat.Cholesky
		var step mat.VecDense
		if !chol.Factorize(hessian) || chol.SolveVecTo(&step, gradient) != nil {
			return nil, errors.New("fit: no step")
		}
		largest := 0.0
		for j := range s.weights {
			s.weights[j] -= step.AtVec(j)
			largest = max(largest, math.Abs(step.AtVec(j)))
		}
		if largest < 1e-9 {
			break
		}
	}
	return s, nil
}

func (s *scorer) row(x []float64) []float64 {
	z := make([]float64, len(x)+1)
	for j := range x {
		z[j] = (x[j] - s.mean[j]) / s.scale[j]
	}
	z[len(x)] = 1
	return z
}

func (s *scorer) probability(x []float64) float64 {
	sum := 0.0
	for j, z := range s.row(x) {
		sum += s.weights[j] * z
	}
	return 1 / (1 + math.Exp(-sum))
}

// raised are alarms of a run: seconds at which they were raised, in order.
func (s *scorer) raised(r *run, threshold float64) []alarm {
	var out []alarm
	for _, e := range events(r) {
		if p := s.probability(e.features); p > threshold {
			out = append(out, alarm{at: e.at + decided, since: e.since, probability: p})
		}
	}
	return out
}

// alarm is raised at a second, about something that began at since.
type alarm struct {
	at, since   int
	probability float64
}

// byLatency is the plain alarm to stand beside: latency above ten times the
// median of the ten minutes before.
func byLatency(r *run) []alarm {
	past := detect.NewRolling(600)
	var out []alarm
	for t, v := range r.values[latency] {
		if past.Len() >= 60 && v > 10*past.Median() && past.Median() > 0 {
			out = append(out, alarm{at: t, since: t})
		}
		past.Add(v)
	}
	return out
}
