package models

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
)

// Data is a labelled matrix: Rows × len(Names) values in row-major order, NaN where
// a value is unknown, and the class of each row, 0 to Classes-1. Nil weights are all
// one.
type Data struct {
	Names   []string
	Rows    int
	X       []float64
	Y       []int
	Classes int
	Weight  []float64
}

// Row is one row of the matrix; it shares the data's memory.
func (d *Data) Row(i int) []float64 {
	n := len(d.Names)
	return d.X[i*n : (i+1)*n : (i+1)*n]
}

func (d *Data) weight(i int) float64 {
	if d.Weight == nil {
		return 1
	}
	return d.Weight[i]
}

// Check says what makes data unfit to learn from: sizes that do not agree, classes
// out of range, values or weights that are infinite.
func (d *Data) Check() error {
	switch n := len(d.Names); {
	case d.Rows < 1 || n < 1:
		return fmt.Errorf("models: data of %d rows and %d features", d.Rows, n)
	case d.Classes < 2:
		return fmt.Errorf("models: data of %d classes: at least two are needed, if only one occurs", d.Classes)
	case len(d.X) != d.Rows*n || len(d.Y) != d.Rows || d.Weight != nil && len(d.Weight) != d.Rows:
		return fmt.Errorf("models: data of %d rows × %d features with %d values, %d labels and %d weights", d.Rows, n, len(d.X), len(d.Y), len(d.Weight))
	}
	for i, y := range d.Y {
		if y < 0 || y >= d.Classes {
			return fmt.Errorf("models: row %d: class %d of %d", i, y, d.Classes)
		}
		if w := d.weight(i); !(w >= 0) || math.IsInf(w, 0) {
			return fmt.Errorf("models: row %d: weight %v", i, w)
		}
	}
	for i, v := range d.X {
		if math.IsInf(v, 0) {
			return fmt.Errorf("models: row %d: %s is infinite", i/len(d.Names), d.Names[i%len(d.Names)])
		}
	}
	return nil
}

// Select is the data of some rows.
func (d *Data) Select(rows []int) *Data {
	s := &Data{Names: d.Names, Rows: len(rows), Classes: d.Classes}
	for _, i := range rows {
		s.X = append(s.X, d.Row(i)...)
		s.Y = append(s.Y, d.Y[i])
		if d.Weight != nil {
			s.Weight = append(s.Weight, d.Weight[i])
		}
	}
	return s
}

// shares are the classes' shares of the weight, each at least a row in a thousand
// rows more than there are: nothing that was not seen is impossible.
func (d *Data) shares() []float64 {
	out := make([]float64, d.Classes)
	sum := 0.0
	for i, y := range d.Y {
		out[y] += d.weight(i)
		sum += d.weight(i)
	}
	for k := range out {
		out[k] = (out[k] + .5) / (sum + .5*float64(d.Classes))
	}
	return out
}

// Learner makes a model from data. Equal data and seeds give equal models, on any
// number of processors.
type Learner interface {
	Name() string
	// Fit learns. It stops with the context's error when that ends.
	Fit(ctx context.Context, d *Data, seed uint64) (Model, error)
}

// Model gives a row's probabilities.
type Model interface {
	// Predict writes the probability of each class of a row of the features that the
	// model learned from into a slice as long as there are classes. Several may call it
	// at once.
	Predict(x, into []float64)
}

// Constant gives every row the same probabilities: what a learner makes of data of one
// class, or of nothing that tells the classes apart.
type Constant struct {
	Shares []float64 `json:"shares"`
}

// Predict is the shares.
func (c *Constant) Predict(_, into []float64) { copy(into, c.Shares) }

// Folds deals groups out to k folds, so that none is on both sides of one. Groups
// come in the order of their times (the least of each), so that folds are
// stretches of time; equal numbers of rows are aimed at. It returns each row's fold.
func Folds(groups []string, times []int64, k int) ([]int, error) {
	if len(groups) != len(times) {
		return nil, fmt.Errorf("models: folds of %d groups and %d times", len(groups), len(times))
	}
	first, size := map[string]int64{}, map[string]int{}
	for i, g := range groups {
		if t, ok := first[g]; !ok || times[i] < t {
			first[g] = times[i]
		}
		size[g]++
	}
	if k < 2 || len(first) < k {
		return nil, errors.New("models: folds: there are fewer groups than folds")
	}
	order := make([]string, 0, len(first))
	for g := range first {
		order = append(order, g)
	}
	slices.SortFunc(order, func(a, b string) int {
		switch {
		case first[a] != first[b]:
			if first[a] < first[b] {
				return -1
			}
			return 1
		case a < b:
			return -1
		}
		return 1
	})
	fold, done := map[string]int{}, 0
	at := 0
	for i, g := range order {
		// So many groups must be left that no fold stays empty.
		left := len(order) - i
		if at < k-1 && (done*k >= (at+1)*len(groups) || left <= k-1-at) && i > 0 {
			at++
		}
		fold[g] = at
		done += size[g]
	}
	out := make([]int, len(groups))
	for i, g := range groups {
		out[i] = fold[g]
	}
	return out, nil
}
