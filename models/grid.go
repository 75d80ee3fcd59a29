// Package models is where classifiers learn, are calibrated and judged. Data sets are
// Data; base.FixedDataGrid is golearn's, for its own learners and for those who bring
// theirs: what of golearn is used where, and why not more, is in docs/adr/0014.
package models

import (
	"fmt"
	"math"
	"slices"

	"github.com/sjwhitworth/golearn/base"

	dhalion "github.com/dhalion-go/dhalion"
)

// Imputation is what stands for an unknown value: per feature the median of the
// known values it was made from, 0 where none was known. Whether a value was
// unknown is kept beside it, as a feature of its own: NaN makes golearn's
// learners hang, and a zero would be a lie.
type Imputation struct {
	Schema  string // digest of the vectors' schema
	Names   []string
	Medians []float64
}

// NewImputation takes the medians of vectors of one schema with these feature
// names.
func NewImputation(names []string, vectors []dhalion.Vector) (*Imputation, error) {
	im := &Imputation{Names: slices.Clone(names), Medians: make([]float64, len(names))}
	for k, v := range vectors {
		if k == 0 {
			im.Schema = v.Schema
		}
		if err := im.fits(v); err != nil {
			return nil, err
		}
	}
	for i := range names {
		var known []float64
		for _, v := range vectors {
			if !math.IsNaN(v.Values[i]) {
				known = append(known, v.Values[i])
			}
		}
		im.Medians[i] = median(known)
	}
	return im, nil
}

func (im *Imputation) fits(v dhalion.Vector) error {
	if v.Schema != im.Schema || len(v.Values) != len(im.Names) {
		return fmt.Errorf("models: vector of %s: schema %.12s with %d values, not %.12s with %d", v.Target, v.Schema, len(v.Values), im.Schema, len(im.Names))
	}
	return nil
}

// Grid is the data set of labelled vectors: two float attributes per feature,
// its value and 1 where that was unknown, and the label as the class: a whole
// number, 1 where the cause holds and 0 where not (causes co-occur, so each is
// learned against the rest). It is a float attribute because golearn's CART takes
// no other. Rows keep the order of the vectors.
func (im *Imputation) Grid(vectors []dhalion.Vector, labels []int) (base.FixedDataGrid, error) {
	if len(vectors) != len(labels) {
		return nil, fmt.Errorf("models: grid of %d vectors with %d labels", len(vectors), len(labels))
	}
	grid := base.NewDenseInstances()
	specs := make([]base.AttributeSpec, 0, 2*len(im.Names))
	for _, name := range im.Names {
		specs = append(specs,
			grid.AddAttribute(base.NewFloatAttribute(name)),
			grid.AddAttribute(base.NewFloatAttribute("unknown("+name+")")))
	}
	class := base.NewFloatAttribute("label")
	classSpec := grid.AddAttribute(class)
	if err := grid.AddClassAttribute(class); err != nil {
		return nil, fmt.Errorf("models: grid: %w", err)
	}
	if err := grid.Extend(len(vectors)); err != nil {
		return nil, fmt.Errorf("models: grid: %w", err)
	}
	for row, v := range vectors {
		if err := im.fits(v); err != nil {
			return nil, err
		}
		for i, value := range v.Values {
			missing := 0.0
			if math.IsNaN(value) {
				value, missing = im.Medians[i], 1
			}
			grid.Set(specs[2*i], row, base.PackFloatToBytes(value))
			grid.Set(specs[2*i+1], row, base.PackFloatToBytes(missing))
		}
		grid.Set(classSpec, row, base.PackFloatToBytes(float64(labels[row])))
	}
	return grid, nil
}

func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	slices.Sort(values)
	n := len(values)
	return (values[(n-1)/2] + values[n/2]) / 2
}
