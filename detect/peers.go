package detect

import (
	"fmt"
	"math"
	"slices"

	"gonum.org/v1/gonum/stat/distuv"

	"github.com/dhalion-go/dhalion/internal/parallel"
)

// Reading is what one instance shows at one moment: a metric of which more is
// worse, and the load that it had. NaN is unknown.
type Reading struct{ Value, Load float64 }

// normalised is the metric for each unit of load: unknown where there is no load.
func (r Reading) normalised() float64 {
	if !(r.Load > 0) {
		return math.NaN()
	}
	return r.Value / r.Load
}

// Peers looks for the instances of a component that are unlike their own history
// or unlike the others, as the slow-broker finder of LinkedIn's Cruise Control
// does. Raw and load-normalised metric must both say so: more work alone explains
// a high metric, less work alone a high one for each record. The load unknown,
// the raw one decides.
//
// It keeps a score of persistence for each instance: up by one when it is seen,
// down when it is not, between 0 and Most; unknown leaves it. An instance is
// reported while its score is at least Persist.
type Peers struct {
	Q       float64 // false alarms an instance and a moment
	Floor   float64 // a value at or below it is never seen
	Least   float64 // least spread, as a share of the level: peers that agree to the digit are not thereby exact
	History int     // readings of its own that an instance is held against
	Persist int
	Most    int

	instances []history
}

type history struct {
	raw, norm []float64
	score     int
}

// PeerVerdict is what is said of one instance. Verdict is the moment's; Score and
// Persistence are on their own scales: persistence 1 is at the limit.
type PeerVerdict struct {
	Verdict
	Persistence float64
	Reported    bool
	Own         bool // unlike its own history, rather than unlike its peers
}

// leastHistory is how many readings of its own say what is normal for an instance.
const leastHistory = 20

// NewPeers checks the settings: Q .001, Least .1, History 120, Persist 3, Most 6
// are good ones; the floor is the metric's.
func NewPeers(p Peers) (*Peers, error) {
	switch {
	case !rate(p.Q):
		return nil, fmt.Errorf("detect: peers: q %v is not inside 0–1", p.Q)
	case p.Persist < 1 || p.Most < p.Persist:
		return nil, fmt.Errorf("detect: peers: want 1 <= persist <= most, have %d and %d", p.Persist, p.Most)
	case !(p.Least > 0) || math.IsNaN(p.Floor):
		return nil, fmt.Errorf("detect: peers: least %v or floor %v is not a limit", p.Least, p.Floor)
	}
	p.instances = nil
	return &p, nil
}

// Next judges all instances at the next moment, in their order; instance i is
// always the i-th. A reading as rare as q·q does not enter its instance's history;
// leaving out all that are seen would cut the tail, as with SPOT.
func (p *Peers) Next(now []Reading) []PeerVerdict {
	out := p.Judge(now)
	for i, r := range now {
		if !(out[i].Score > 2) {
			h := &p.instances[i]
			h.raw, h.norm = keep(h.raw, r.Value, p.History), keep(h.norm, r.normalised(), p.History)
		}
	}
	return out
}

// Judge judges as Next does, and does not learn from it.
func (p *Peers) Judge(now []Reading) []PeerVerdict {
	for len(p.instances) < len(now) {
		p.instances = append(p.instances, history{})
	}
	raw, norm := make([]float64, len(now)), make([]float64, len(now))
	for i, r := range now {
		raw[i], norm[i] = r.Value, r.normalised()
	}
	out := make([]PeerVerdict, len(now))
	peersRaw, peersNorm := newOthers(raw), newOthers(norm)
	parallel.Each(len(now), func(i int) {
		out[i] = p.judge(raw[i], norm[i], peersRaw, peersNorm, p.instances[i])
	})
	for i := range now {
		h := &p.instances[i]
		if out[i].Known {
			if out[i].Seen {
				h.score = min(h.score+1, p.Most)
			} else {
				h.score = max(h.score-1, 0)
			}
		}
		out[i].Persistence = float64(h.score) / float64(p.Persist)
		out[i].Reported = h.score >= p.Persist
	}
	return out
}

func keep(past []float64, v float64, most int) []float64 {
	if math.IsNaN(v) || most < 1 {
		return past
	}
	if len(past) >= most {
		past = past[:copy(past, past[len(past)-most+1:])]
	}
	return append(past, v)
}

func (p *Peers) judge(raw, norm float64, peersRaw, peersNorm *others, h history) PeerVerdict {
	if math.IsNaN(raw) {
		return PeerVerdict{}
	}
	peers := worse(p.unlike(raw, peersRaw), p.unlike(norm, peersNorm))
	ownRaw, ownNorm := p.against(raw, h.raw), p.against(norm, h.norm)
	own := worse(ownRaw, ownNorm)
	// The history's own tail only ever makes a value likelier, and is slow to fit: it is
	// not asked where the peers are the smaller of the two already.
	if !(own >= peers) {
		own = worse(heavier(ownRaw, raw, h.raw), heavier(ownNorm, norm, h.norm))
	}
	var tail float64
	switch {
	case math.IsNaN(own):
		tail = peers
	case math.IsNaN(peers):
		tail = own
	default:
		tail = min(1, 2*min(own, peers)) // either of two may raise a false alarm
	}
	v := PeerVerdict{Verdict: judged(tail, p.Q), Own: own < peers || math.IsNaN(peers)}
	if v.Seen && raw <= p.Floor {
		v.Seen, v.Score, v.Probability = false, 1, 0.5
	}
	return v
}

// worse of two tail probabilities is the likelier to be noise; the second may be
// unknown, the first decides alone then.
func worse(raw, norm float64) float64 {
	if math.IsNaN(norm) {
		return raw
	}
	return max(raw, norm)
}

// others are what the instances show at one moment, for each to be held against
// all but itself: sorted once, and the deviations once for each of the at most
// three medians that leaving one out gives.
type others struct {
	sorted     []float64
	deviations map[float64][]float64 // by the median that they are from, sorted
}

func newOthers(values []float64) *others {
	o := &others{sorted: known(values), deviations: map[float64][]float64{}}
	slices.Sort(o.sorted)
	if len(o.sorted) < 2 {
		return o
	}
	for _, at := range []int{0, len(o.sorted) / 2, len(o.sorted) - 1} {
		if m := medianBut(o.sorted, at); o.deviations[m] == nil {
			o.deviations[m] = deviations(o.sorted, m)
		}
	}
	return o
}

// level is Level of the values but v, which is one of them, and how many they are.
func (o *others) level(v float64) (median, spread float64, n int) {
	at, _ := slices.BinarySearch(o.sorted, v)
	median = medianBut(o.sorted, at)
	d := o.deviations[median]
	if d == nil {
		d = deviations(o.sorted, median)
	}
	at, _ = slices.BinarySearch(d, math.Abs(v-median))
	return median, normalMAD * medianBut(d, at), len(o.sorted) - 1
}

func deviations(values []float64, from float64) []float64 {
	d := make([]float64, len(values))
	for i, v := range values {
		d[i] = math.Abs(v - from)
	}
	slices.Sort(d)
	return d
}

// medianBut is the median of sorted values but the one at a place.
func medianBut(sorted []float64, place int) float64 {
	n := len(sorted) - 1
	at := func(i int) float64 {
		if i >= place {
			i++
		}
		return sorted[i]
	}
	if n%2 == 1 {
		return at(n / 2)
	}
	return at(n/2-1)*0.5 + at(n/2)*0.5
}

// heavier is a tail probability by an instance's own history, out, or once the
// history has sixty readings that of its own tail if it is greater.
func heavier(out, v float64, past []float64) float64 {
	if len(past) < 60 || math.IsNaN(out) {
		return out
	}
	if t, err := FitTail(past, limitLevel); err == nil {
		return max(out, t.Probability(v))
	}
	return out
}

// small is what the median absolute deviation of two to nine values falls short
// by (Croux and Rousseeuw 1992).
var small = [...]float64{2: 1.196, 3: 1.495, 4: 1.363, 5: 1.206, 6: 1.200, 7: 1.140, 8: 1.129, 9: 1.107}

const (
	efficiency = 0.37 // of the median absolute deviation: n values tell as much of the spread as 0.37·n by their variance
	leastFrom  = 10   // degrees of freedom of the least spread, which is given, not estimated
)

// unlike is the tail probability of an instance's value by all others; NaN of fewer
// than two.
func (p *Peers) unlike(v float64, all *others) float64 {
	if math.IsNaN(v) || len(all.sorted) < 3 {
		return math.NaN()
	}
	return p.tail(v, all.level)
}

// against is the tail probability of a value by an instance's own past; NaN of less
// than leastHistory.
func (p *Peers) against(v float64, past []float64) float64 {
	if math.IsNaN(v) || len(past) < leastHistory {
		return math.NaN()
	}
	return p.tail(v, func(float64) (float64, float64, int) {
		median, spread := Level(past)
		return median, spread, len(past)
	})
}

// tail is the tail probability of a value by the median and spread of n others: a
// Student t, widened by the median's own error σ·√(π/2n).
func (p *Peers) tail(v float64, level func(v float64) (median, spread float64, n int)) float64 {
	median, spread, n := level(v)
	if n < len(small) {
		spread *= small[n]
	}
	given := max(p.Least*math.Abs(median), math.SmallestNonzeroFloat32)
	nu := efficiency * float64(n)
	if spread > given {
		nu += leastFrom * given * given / (spread * spread)
	} else {
		spread, nu = given, nu+leastFrom
	}
	t := (v - median) / (spread * math.Sqrt(1+math.Pi/(2*float64(n))))
	return distuv.StudentsT{Mu: 0, Sigma: 1, Nu: nu}.Survival(t)
}
