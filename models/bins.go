package models

import (
	"math"
	"slices"

	"github.com/dhalion-go/dhalion/internal/parallel"
)

// binned is a matrix whose values are numbered by quantile: column-major bytes, of
// which missing stands for unknown.
type binned struct {
	rows   int
	column [][]uint8
	limits [][]float64 // per feature, ascending: a value is in the first bin whose limit is not below it
}

const (
	maxBins = 255
	missing = 255
)

// newBinned numbers each feature's values: one bin a value where there are at most
// 255, else quantiles.
func newBinned(d *Data) *binned {
	n := len(d.Names)
	b := &binned{rows: d.Rows, column: make([][]uint8, n), limits: make([][]float64, n)}
	parallel.Each(n, func(f int) {
		values := make([]float64, 0, d.Rows)
		for i := range d.Rows {
			if v := d.X[i*n+f]; !math.IsNaN(v) {
				values = append(values, v)
			}
		}
		slices.Sort(values)
		b.limits[f] = limitsOf(values)
		b.column[f] = make([]uint8, d.Rows)
		for i := range d.Rows {
			b.column[f][i] = binOf(b.limits[f], d.X[i*n+f])
		}
	})
	return b
}

// limitsOf are the upper limits of the bins of sorted values, halfway between two
// neighbours, for all bins but the last.
func limitsOf(sorted []float64) []float64 {
	distinct := slices.Compact(slices.Clone(sorted))
	var limits []float64
	if len(distinct) <= maxBins {
		for i := 1; i < len(distinct); i++ {
			limits = append(limits, middle(distinct[i-1], distinct[i]))
		}
		return limits
	}
	for k := 1; k < maxBins; k++ {
		at := float64(k) / maxBins * float64(len(sorted)-1)
		i := int(at)
		v := sorted[i] + (at-float64(i))*(sorted[min(i+1, len(sorted)-1)]-sorted[i])
		if len(limits) == 0 || v > limits[len(limits)-1] {
			limits = append(limits, v)
		}
	}
	return limits
}

// middle is a number from a up to below b, in their middle where there is one.
func middle(a, b float64) float64 {
	if m := a/2 + b/2; m < b {
		return m
	}
	return a
}

func binOf(limits []float64, v float64) uint8 {
	if math.IsNaN(v) {
		return missing
	}
	i, _ := slices.BinarySearch(limits, v)
	return uint8(i)
}
