package features

import (
	"math"
	"slices"
)

var nan = math.NaN()

func known(v float64) bool { return !math.IsNaN(v) }

// mean of the known values; NaN when there are none.
func mean(values []float64) float64 {
	sum, n := 0.0, 0
	for _, v := range values {
		if known(v) {
			sum += v
			n++
		}
	}
	if n == 0 {
		return nan
	}
	return sum / float64(n)
}

// told is how many of the values are known.
func told(values []float64) int {
	n := 0
	for _, v := range values {
		if known(v) {
			n++
		}
	}
	return n
}

// knownSorted returns the known values in ascending order, in a slice of its own.
func knownSorted(values []float64) []float64 {
	out := make([]float64, 0, len(values))
	for _, v := range values {
		if known(v) {
			out = append(out, v)
		}
	}
	slices.Sort(out)
	return out
}

// quantileSorted interpolates linearly between order statistics (Hyndman and
// Fan's type 7); NaN for none.
func quantileSorted(sorted []float64, q float64) float64 {
	if len(sorted) == 0 {
		return nan
	}
	pos := q * float64(len(sorted)-1)
	i := int(math.Floor(pos))
	if i+1 >= len(sorted) {
		return sorted[len(sorted)-1]
	}
	return sorted[i] + (pos-float64(i))*(sorted[i+1]-sorted[i])
}

// medianWithout is the median of sorted values but those at some places, which
// ascend.
func medianWithout(sorted []float64, places []int) float64 {
	n := len(sorted) - len(places)
	if n == 0 {
		return nan
	}
	at := func(i int) float64 {
		for _, p := range places {
			if p > i {
				break
			}
			i++
		}
		return sorted[i]
	}
	if n%2 == 1 {
		return at(n / 2)
	}
	low := at(n/2 - 1)
	return low + 0.5*(at(n/2)-low)
}

func quantile(values []float64, q float64) float64 { return quantileSorted(knownSorted(values), q) }

func median(values []float64) float64 { return quantile(values, 0.5) }

// slope is the least-squares slope of values over times in µs, per second; NaN
// below three values, since a line through two points says nothing about noise.
func slope(times []int64, values []float64) float64 {
	var w window
	w.take(times, values)
	_, _, perSecond := w.moments()
	return perSecond
}

// ratio is a/b, unknown where b is not above floor.
func ratio(a, b, floor float64) float64 {
	if !known(a) || !known(b) || b <= floor {
		return nan
	}
	return a / b
}

// least and most of the known values.
func least(values ...float64) float64 {
	out := nan
	for _, v := range values {
		if known(v) && !(v >= out) {
			out = v
		}
	}
	return out
}

func most(values ...float64) float64 {
	out := nan
	for _, v := range values {
		if known(v) && !(v <= out) {
			out = v
		}
	}
	return out
}

// both is the smaller of two, unknown when either is.
func both(a, b float64) float64 {
	if !known(a) || !known(b) {
		return nan
	}
	return math.Min(a, b)
}

func flag(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
