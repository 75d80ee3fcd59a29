package models

import (
	"fmt"
	"math"
	"slices"
)

// Reference is how training data were distributed: for each feature the share of rows
// in each tenth of its known values, and of unknown ones.
type Reference struct {
	Limits [][]float64 `json:"limits"` // upper limits of all bins but the last
	Shares [][]float64 `json:"shares"` // of the bins, and of unknown
}

// NewReference takes the shares of data's rows; weights do not count.
func NewReference(d *Data) (*Reference, error) {
	if err := d.Check(); err != nil {
		return nil, err
	}
	r := &Reference{}
	for f := range d.Names {
		limits := thin(d, f, 10)
		if limits == nil {
			limits = []float64{}
		}
		r.Limits = append(r.Limits, limits)
		r.Shares = append(r.Shares, filling(limits, d.X, f, len(d.Names)))
	}
	return r, nil
}

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
		if len(l) >= maxBins || !slices.IsSorted(l) || !finite(l...) {
			return fmt.Errorf("models: reference: limits of feature %d do not rise", f)
		}
		if len(r.Shares[f]) != len(l)+2 {
			return fmt.Errorf("models: reference: feature %d has %d shares of %d bins", f, len(r.Shares[f]), len(l)+2)
		}
		if err := shares(r.Shares[f], len(l)+2); err != nil {
			return fmt.Errorf("models: reference: feature %d: %w", f, err)
		}
	}
	return nil
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
		if d.Index[f] > .25 && d.Index[f] > d.Chance[f] {
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
