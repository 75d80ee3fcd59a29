package detect

import (
	"container/heap"
	"math"
	"slices"
	"time"
)

// Changes finds where the level of a series changes: the indices at which new
// levels begin, in order, without 0. It is the exact optimum of Σ|v − median of
// its segment| / σ + penalty for each change (optimal partitioning with PELT's
// pruning, Killick et al. 2012; the median cost follows no
// outlier). σ is the noise, the spread of first differences over √2, so that a
// drift does not hide in it. A level lasts at least three values, so that an outlier
// is no level. A penalty of 3·ln n is a good one. NaN is passed over: a change is at
// a known value.
func Changes(values []float64, penalty float64) []int {
	var v []float64
	var at []int
	for i, x := range values {
		if !math.IsNaN(x) && !math.IsInf(x, 0) {
			v, at = append(v, x), append(at, i)
		}
	}
	n := len(v)
	sigma := noise(v)
	if n < 2*leastLevel || sigma == 0 {
		return nil
	}
	best, from := make([]float64, n+1), make([]int, n+1)
	best[0] = -penalty
	var open []*segment
	for end := 1; end <= n; end++ {
		open = append(open, &segment{start: end - 1})
		best[end] = math.Inf(1)
		for _, s := range open {
			s.add(v[end-1])
			if c := best[s.start] + s.cost()/sigma + penalty; c < best[end] && end-s.start >= leastLevel {
				best[end], from[end] = c, s.start
			}
		}
		// What is worse than a change here stays worse, from where a level that
		// begins here is long enough.
		open = slices.DeleteFunc(open, func(s *segment) bool {
			if s.lost == 0 && best[s.start]+s.cost()/sigma > best[end] {
				s.lost = end
			}
			return math.IsInf(best[s.start], 1) || s.lost > 0 && end >= s.lost+leastLevel
		})
	}
	var changes []int
	for end := from[n]; end > 0; end = from[end] {
		changes = append(changes, at[end])
	}
	slices.Reverse(changes)
	return changes
}

// leastLevel is how many values a level lasts at least.
const leastLevel = 3

// noise is the spread of a series' first differences, over √2. Where most
// neighbours are alike, it is that of the others, else zero: constant.
func noise(v []float64) float64 {
	var steps, moved []float64
	for i := 1; i < len(v); i++ {
		d := math.Abs(v[i] - v[i-1])
		steps = append(steps, d)
		if d > 0 {
			moved = append(moved, d)
		}
	}
	slices.Sort(steps)
	if m := quantile(steps, 0.5); m > 0 {
		return normalMAD * m / math.Sqrt2
	}
	if len(moved) == 0 {
		return 0
	}
	slices.Sort(moved)
	return normalMAD * moved[0] / math.Sqrt2
}

// segment keeps Σ|v − median| of a growing segment in two heaps: a value costs
// the logarithm of the segment's length.
type segment struct {
	start     int
	lost      int    // the end at which it could have been cut to gain, 0: none
	low, high floats // low holds negatives: its least is the largest of the lower half
	sumLow    float64
	sumHigh   float64
}

func (s *segment) add(v float64) {
	if len(s.low) > 0 && v > -s.low[0] {
		heap.Push(&s.high, v)
		s.sumHigh += v
	} else {
		heap.Push(&s.low, -v)
		s.sumLow += v
	}
	for len(s.low) > len(s.high)+1 {
		v := -heap.Pop(&s.low).(float64)
		s.sumLow -= v
		heap.Push(&s.high, v)
		s.sumHigh += v
	}
	for len(s.high) > len(s.low) {
		v := heap.Pop(&s.high).(float64)
		s.sumHigh -= v
		heap.Push(&s.low, -v)
		s.sumLow += v
	}
}

func (s *segment) cost() float64 {
	median := -s.low[0]
	return s.sumHigh - s.sumLow + median*float64(len(s.low)-len(s.high))
}

type floats []float64

func (f floats) Len() int           { return len(f) }
func (f floats) Less(i, j int) bool { return f[i] < f[j] }
func (f floats) Swap(i, j int)      { f[i], f[j] = f[j], f[i] }
func (f *floats) Push(v any)        { *f = append(*f, v.(float64)) }
func (f *floats) Pop() any {
	old := *f
	v := old[len(old)-1]
	*f = old[:len(old)-1]
	return v
}

// CUSUM watches a stream of deviations, in spreads, for a lasting shift either
// way (Page 1954). A deviation counts for at most Clip, so that one outlier is no
// shift: it takes Limit/(Clip−Slack) values.
type CUSUM struct {
	Slack float64 // half of the shift worth seeing, in spreads
	Clip  float64 // above Slack
	Limit float64 // e.g. 8: with slack ½, one false alarm in 10⁴ values or fewer

	n          int
	up, down   float64
	upAt, dnAt int
}

// Shift is what a CUSUM says: Score is 1 at its limit; Since is how many values
// ago the shift began, 0 the last.
type Shift struct {
	Known bool
	Seen  bool
	Up    bool
	Score float64
	Since int
}

// Next takes the next deviation; NaN is unknown and passed over.
func (c *CUSUM) Next(deviation float64) Shift {
	c.n++
	if math.IsNaN(deviation) || !(c.Limit > 0) {
		return Shift{}
	}
	d := min(max(deviation, -c.Clip), c.Clip)
	if c.up == 0 {
		c.upAt = c.n
	}
	if c.down == 0 {
		c.dnAt = c.n
	}
	c.up, c.down = max(0, c.up+d-c.Slack), max(0, c.down-d-c.Slack)
	s := Shift{Known: true, Up: c.up >= c.down, Score: max(c.up, c.down) / c.Limit}
	if at := c.upAt; s.Score > 0 {
		if !s.Up {
			at = c.dnAt
		}
		s.Since = c.n - at
	}
	s.Seen = s.Score > 1
	return s
}

// SinceChange wraps a detector: what it sees began at the last change of the
// feature's level at or before the moment that it was first seen for, else at
// the trail's first change; with no change at all its own Since stands.
func SinceChange(feature string, d Detector) Detector {
	return Func(func(t Trail) Sighting {
		s := d.Detect(t)
		if !s.Known || !s.Seen {
			return s
		}
		values := make([]float64, len(t))
		for i, m := range t {
			values[i] = m.Value(feature)
		}
		times := make([]time.Time, len(t))
		for i, m := range t {
			times[i] = m.At
		}
		s.Since = sinceChange(times, values, s.Since)
		return s
	})
}

// sinceChange is the last change of a series' level at or before a time, else its
// first change; with none the time stands.
func sinceChange(times []time.Time, values []float64, since time.Time) time.Time {
	at := since
	for i, c := range Changes(values, 3*math.Log(float64(max(len(values), 2)))) {
		if i == 0 || !times[c].After(since) {
			at = times[c]
		}
	}
	return at
}
