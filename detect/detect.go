// Package detect turns the vectors of a target into symptoms: what was seen,
// not yet why.
//
// A Detector looks at a Trail, a target's features at successive moments, and
// says whether it sees its symptom at the last of them. Detectors compose by
// wrapping: Hold(30*time.Second, 0, Above("busy_fraction", 0.9)). Hold and clear
// are worked out from the trail, never from what an earlier run remembered, so
// that a live evaluation and one of the recorded history agree.
package detect

import (
	"math"
	"time"

	dhalion "github.com/dhalion-go/dhalion"
)

// Moment is one target's features at one time. Value returns NaN for what is
// unknown.
type Moment struct {
	At    time.Time
	Value func(feature string) float64
}

// Trail is a target's moments, oldest first. The last is the one judged.
type Trail []Moment

// Sighting is what a detector says of the last moment of a trail. Score is in
// units of the detector's limit: 1 is at the limit, more is worse. Known is
// false when what it looks at is unknown; Seen and Score then mean nothing.
// Probability is that the sighting is no noise; Since is when it began.
type Sighting struct {
	Known       bool
	Seen        bool
	Score       float64
	Probability float64
	Since       time.Time
}

// Detector looks for one symptom.
type Detector interface {
	Detect(Trail) Sighting
}

// Func is a Detector made of a function.
type Func func(Trail) Sighting

// Detect calls f.
func (f Func) Detect(t Trail) Sighting { return f(t) }

func sight(t Trail, score float64) Sighting {
	if len(t) == 0 || math.IsNaN(score) {
		return Sighting{}
	}
	return Sighting{Known: true, Seen: score > 1, Score: score, Probability: certainty(b2i(score > 1), 1), Since: t[len(t)-1].At}
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// certainty is the Krichevsky-Trofimov estimate (k+1/2)/(n+1) of how likely the
// symptom is to be seen at a moment, from k sightings at n moments: one moment
// alone is 3/4, never 1.
func certainty(k, n int) float64 { return (float64(k) + 0.5) / (float64(n) + 1) }

func last(t Trail, feature string) float64 {
	if len(t) == 0 {
		return math.NaN()
	}
	return t[len(t)-1].Value(feature)
}

// Above sees a feature above a limit, which must be positive. Its score is
// value/limit.
func Above(feature string, limit float64) Detector {
	return Func(func(t Trail) Sighting { return sight(t, last(t, feature)/limit) })
}

// Below sees a feature below a limit, which must be positive. Zero is a value
// and is below. Its score is 1 at the limit and 2 at zero.
func Below(feature string, limit float64) Detector {
	return Func(func(t Trail) Sighting { return sight(t, 2-last(t, feature)/limit) })
}

// Growing sees a metric whose least-squares slope over the window is above
// perSecond. Its score is slope/perSecond.
func Growing(m dhalion.Metric, perSecond float64) Detector {
	return Func(func(t Trail) Sighting { return sight(t, last(t, "trend("+string(m)+")")/perSecond) })
}

// PeerSkew sees an instance whose metric is more than times the median of its
// peers and above floor: without a floor, peers at nothing would make any
// activity a skew. Its score is the ratio over times; below the floor it is at
// most 1.
func PeerSkew(m dhalion.Metric, times, floor float64) Detector {
	return Func(func(t Trail) Sighting {
		value, peers := last(t, string(m)), last(t, "peer_ratio("+string(m)+")")
		if math.IsNaN(value) {
			return Sighting{}
		}
		score := peers / times
		if value <= floor {
			score = math.Min(1, orZero(score))
		}
		return sight(t, score)
	})
}

func orZero(v float64) float64 {
	if math.IsNaN(v) {
		return 0
	}
	return v
}

// Backpressure sees a target that is backpressured for more than the limit's
// share of the time. On Flink that is who suffers it.
func Backpressure(limit float64) Detector { return Above(string(dhalion.Backpressured), limit) }

// Idle sees a target that is idle for more than the limit's share of the time.
func Idle(limit float64) Detector { return Above(string(dhalion.Idle), limit) }

// All sees what every one of the detectors sees; its score is the smallest. It
// is unknown when one is unknown and none is known not to see.
func All(detectors ...Detector) Detector {
	return Func(func(t Trail) Sighting {
		out := Sighting{Known: true, Seen: true, Score: math.Inf(1), Probability: 1}
		for _, d := range detectors {
			s := d.Detect(t)
			switch {
			case s.Known && !s.Seen:
				return s
			case !s.Known:
				out.Known = false
			case s.Score < out.Score:
				out.Score, out.Since = s.Score, s.Since
				out.Probability = math.Min(out.Probability, s.Probability)
			}
		}
		if !out.Known || len(detectors) == 0 {
			return Sighting{}
		}
		return out
	})
}

// Checks wraps a detector: the symptom is seen when it was seen at each of the
// last n moments, the one judged included; n below 1 is 1. It is unknown when one
// of them is unknown, or before the trail begins, and at none it is known not to
// be seen. Score is the last moment's; Since is the first of the n.
func Checks(n int, d Detector) Detector {
	n = max(n, 1)
	return Func(func(t Trail) Sighting {
		now, known := d.Detect(t), true
		out := now
		for back := range n {
			if back >= len(t) {
				known = false
				break
			}
			s := d.Detect(t[:len(t)-back])
			if s.Known && !s.Seen {
				return Sighting{Known: true, Score: now.Score, Probability: certainty(0, n), Since: t[len(t)-1].At}
			}
			known = known && s.Known
			out.Since = s.Since
		}
		if !known {
			return Sighting{}
		}
		out.Probability = certainty(n, n)
		return out
	})
}

// Hold wraps a detector: the symptom begins when it has been seen at every
// moment for hold, and ends when it has not been seen for clear. Moments at
// which it is unknown neither begin nor end it. Since is when the run of
// sightings that began it started; Score is the last known; Probability grows
// with the share of moments in the run at which it was seen.
func Hold(hold, clear time.Duration, d Detector) Detector {
	return Func(func(t Trail) Sighting {
		var s Sighting
		var since, unseen time.Time
		var on, seenBefore, unseenBefore bool
		k, n := 0, 0
		for i := range t {
			now := d.Detect(t[:i+1])
			if !now.Known {
				continue
			}
			s.Known, s.Score = true, now.Score
			at := t[i].At
			if now.Seen {
				if !seenBefore && !on {
					since, k, n = at, 0, 0
				}
				seenBefore, unseenBefore = true, false
				k++
				n++
				if at.Sub(since) >= hold {
					on = true
				}
				continue
			}
			n++
			if !unseenBefore {
				unseen, unseenBefore = at, true
			}
			seenBefore = false
			if on && at.Sub(unseen) >= clear {
				on = false
			}
		}
		if !s.Known {
			return Sighting{}
		}
		s.Seen = on
		if on {
			s.Since, s.Probability = since, certainty(k, n)
		} else if len(t) > 0 {
			s.Since = t[len(t)-1].At
		}
		return s
	})
}
