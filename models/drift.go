package models

import (
	"fmt"
	"math"
	"slices"
)

// Reference is how training data were distributed: for each feature the share of rows
// in each tenth of its known values, beyond the range of 99 % of them, and of unknown
// ones.
type Reference struct {
	Limits [][]float64 `json:"limits"` // upper limits of all bins but the last
	Shares [][]float64 `json:"shares"` // of the bins, and of unknown
	// Usual is each feature's index that sources of rows show without any drift,
	// against others than themselves; empty where that was not measured.
	Usual []float64 `json:"usual,omitempty"`
	// Limit is what Drift.Excess is at most without any drift.
	Limit float64 `json:"limit,omitempty"`
}

// NewReference takes the shares of data's rows; weights do not count. Limits have four
// digits.
func NewReference(d *Data) (*Reference, error) {
	if err := d.Check(); err != nil {
		return nil, err
	}
	r := &Reference{}
	for f := range d.Names {
		limits := limitsOfTenths(d, f)
		r.Limits = append(r.Limits, limits)
		r.Shares = append(r.Shares, rounded(filling(limits, d.X, f, len(d.Names))))
	}
	return r, nil
}

// limitsOfTenths are those between tenths of a feature's known values and on either
// side of 99 % of them, so that what lies outside has bins of its own.
func limitsOfTenths(d *Data, f int) []float64 {
	var known []float64
	for i := range d.Rows {
		if v := d.Row(i)[f]; !math.IsNaN(v) {
			known = append(known, v)
		}
	}
	if len(known) == 0 {
		return []float64{}
	}
	slices.Sort(known)
	low, high := known[len(known)/200], known[len(known)-1-len(known)/200]
	beside := max(1e-3*(high-low), 1e-6*max(1, math.Abs(low), math.Abs(high)))
	limits := []float64{Digits(low-beside, 4, math.Floor), Digits(high+beside, 4, math.Ceil)}
	for _, l := range thin(d, f, 10) {
		limits = append(limits, Digits(l, 4, math.Round))
	}
	slices.Sort(limits)
	return slices.Compact(limits)
}

// Digits is a number rounded to so many significant digits.
func Digits(v float64, n int, round func(float64) float64) float64 {
	if v == 0 || math.IsNaN(v) || math.IsInf(v, 0) {
		return v
	}
	places := n - 1 - int(math.Floor(math.Log10(math.Abs(v))))
	// Dividing by a power of ten, not multiplying by its inverse, gives the nearest
	// number to the decimal.
	if places >= 0 {
		unit := math.Pow10(min(places, 300))
		return round(v*unit) / unit
	}
	unit := math.Pow10(-places)
	return round(v/unit) * unit
}

// rounded are shares in ten-thousandths that still add up to one: the greatest takes
// what is left.
func rounded(shares []float64) []float64 {
	left, most := 10000.0, 0
	for k, v := range shares {
		shares[k] = math.Round(v * 10000)
		left -= shares[k]
		if shares[k] > shares[most] {
			most = k
		}
	}
	shares[most] += left
	for k := range shares {
		shares[k] /= 10000
	}
	return shares
}

// Position is where a value lies among the known training values of a feature: the
// share of them that is less, in a straight line between two limits. Outside all
// limits it is below 0 or above 1, by how far outside in widths of their range; NaN
// where nothing was known.
func (r *Reference) Position(f int, v float64) float64 {
	limits, shares := r.Limits[f], r.Shares[f]
	if len(limits) < 2 || math.IsNaN(v) {
		return math.NaN()
	}
	first, last := limits[0], limits[len(limits)-1]
	switch {
	case v <= first:
		return (v - first) / (last - first)
	case v >= last:
		return 1 + (v-last)/(last-first)
	}
	below, all := 0.0, 0.0
	for k := 1; k < len(limits); k++ {
		all += shares[k]
		switch {
		case v >= limits[k]:
			below += shares[k]
		case v > limits[k-1]:
			below += shares[k] * (v - limits[k-1]) / (limits[k] - limits[k-1])
		}
	}
	return below / all
}

// Excess is the mean over features of how far their indices are above those that are
// usual, and above .25.
func Excess(index, usual []float64) float64 {
	sum := 0.0
	for f, v := range index {
		sum += max(0, v-max(shift, usual[f]))
	}
	return sum / float64(max(1, len(index)))
}

// shift is the index above which a feature counts as moved, by convention.
const shift = .25

func filling(limits, x []float64, f, features int) []float64 {
	out := make([]float64, len(limits)+2)
	rows := len(x) / features
	for i := range rows {
		b := binOf(limits, x[i*features+f])
		if b == missing {
			out[len(out)-1]++
		} else {
			out[b]++
		}
	}
	for k := range out {
		out[k] /= float64(rows)
	}
	return out
}

// Check says what is wrong with a reference that was read, of so many features.
func (r *Reference) Check(features int) error {
	if len(r.Limits) != features || len(r.Shares) != features {
		return fmt.Errorf("models: reference of %d and %d features, not %d", len(r.Limits), len(r.Shares), features)
	}
	for f, l := range r.Limits {
		if len(l) >= maxBins || !rising(l) || !finite(l...) {
			return fmt.Errorf("models: reference: limits of feature %d do not rise", f)
		}
		if len(r.Shares[f]) != len(l)+2 {
			return fmt.Errorf("models: reference: feature %d has %d shares of %d bins", f, len(r.Shares[f]), len(l)+2)
		}
		if err := shares(r.Shares[f], len(l)+2); err != nil {
			return fmt.Errorf("models: reference: feature %d: %w", f, err)
		}
	}
	if n := len(r.Usual); n != 0 && n != features || !finite(r.Usual...) || !finite(r.Limit) {
		return fmt.Errorf("models: reference: %d indices are usual, of %d features", n, features)
	}
	return nil
}

func rising(v []float64) bool {
	for i := 1; i < len(v); i++ {
		if !(v[i] > v[i-1]) {
			return false
		}
	}
	return true
}

// Drift is how far live vectors are from the training ones.
type Drift struct {
	Rows int
	// Index is each feature's population stability index, Σ (live − trained)·ln(live ÷
	// trained) over its bins: 0 where alike; by convention above .25 a shift worth a
	// warning.
	Index []float64
	// Chance is the index that so many rows would show without any drift: to expect
	// at most this in 95 of 100 cases.
	Chance []float64
	// Shifted are the features with an index above .25 and above chance, the farthest
	// first.
	Shifted []int
}

// Of compares the rows of a matrix, row-major, with the training data. Bins are given
// half a row each, so that an empty one is no infinity.
func (r *Reference) Of(x []float64) (*Drift, error) {
	n := len(r.Limits)
	if n == 0 || len(x) == 0 || len(x)%n != 0 {
		return nil, fmt.Errorf("models: drift: %d values of %d features", len(x), n)
	}
	d := &Drift{Rows: len(x) / n, Index: make([]float64, n), Chance: make([]float64, n)}
	for f, limits := range r.Limits {
		live := filling(limits, x, f, n)
		bins, rows := float64(len(live)), float64(d.Rows)
		used := -1.0
		for k, l := range live {
			a := (l*rows + .5) / (rows + .5*bins)
			b := (r.Shares[f][k]*rows + .5) / (rows + .5*bins)
			d.Index[f] += (a - b) * math.Log(a/b)
			if r.Shares[f][k] > 0 {
				used++
			}
		}
		// Without drift rows × index is nearly χ² with a degree less than there are bins
		// (B. Yurdakul, J. Naranjo, Statistical properties of the population stability
		// index, Journal of Risk Model Validation 14, 2020); its 95 % quantile by E.
		// Wilson and M. Hilferty, 1931.
		if used > 0 {
			c := 1 - 2/(9*used) + 1.645*math.Sqrt(2/(9*used))
			d.Chance[f] = used * c * c * c / rows
		}
		if d.Index[f] > shift && d.Index[f] > d.Chance[f] {
			d.Shifted = append(d.Shifted, f)
		}
	}
	slices.SortStableFunc(d.Shifted, func(a, b int) int {
		switch {
		case d.Index[a] > d.Index[b]:
			return -1
		case d.Index[a] < d.Index[b]:
			return 1
		}
		return 0
	})
	return d, nil
}

// Judged compares what came with what probabilities had promised.
type Judged struct {
	Observed int
	Expected float64
	// Ratio is observed ÷ expected, with its 95 % interval; NaN when nothing was expected.
	Ratio, Low, High float64
}

// Drifted says that the interval leaves out 1.
func (j Judged) Drifted() bool { return j.Low > 1 || j.High < 1 }

// Judge counts judged outcomes. The interval takes what came as a Poisson count (Byar's
// approximation; N. Breslow, N. Day, Statistical methods in cancer research II, 1987),
// which is wider than it need be for large probabilities.
func Judge(p []float64, holds []bool) (Judged, error) {
	if len(p) != len(holds) {
		return Judged{}, fmt.Errorf("models: judge: %d probabilities and %d outcomes", len(p), len(holds))
	}
	var j Judged
	for i, v := range p {
		if !(v >= 0 && v <= 1) {
			return Judged{}, fmt.Errorf("models: judge: a probability of %v", v)
		}
		j.Expected += v
		if holds[i] {
			j.Observed++
		}
	}
	const z = 1.959964
	o := float64(j.Observed)
	low := 0.0
	if o > 0 {
		low = o * math.Pow(max(0, 1-1/(9*o)-z/(3*math.Sqrt(o))), 3)
	}
	high := (o + 1) * math.Pow(1-1/(9*(o+1))+z/(3*math.Sqrt(o+1)), 3)
	j.Ratio, j.Low, j.High = o/j.Expected, low/j.Expected, high/j.Expected
	if j.Expected == 0 {
		j.Ratio, j.Low, j.High = math.NaN(), math.NaN(), math.NaN()
	}
	return j, nil
}
