package models

import (
	"context"
	"errors"
	"fmt"
	"math"

	"gonum.org/v1/gonum/mat"
)

// Logistic learns a logistic regression with a penalty on the squared weights, by
// Newton's method (iteratively reweighted least squares). Features are scaled to mean
// 0 and deviation 1; an unknown one counts as the mean, with an indicator beside it.
// More than two classes are learned one against the rest and scaled to sum to 1.
type Logistic struct {
	L2 float64 // default 1, in rows
}

// Name is "logistic".
func (l *Logistic) Name() string { return "logistic" }

// Linear is what a Logistic learns.
type Linear struct {
	Mean    []float64   `json:"mean"`
	Scale   []float64   `json:"scale"`
	Weights [][]float64 `json:"weights"` // a class each, of two one: intercept, features, indicators
}

// bound is how many deviations from the mean a value counts at most: a far outlier
// must not decide alone.
const bound = 5

func (m *Linear) row(x, into []float64) {
	n := len(m.Mean)
	into[0] = 1
	for f, v := range x {
		into[1+f], into[1+n+f] = math.Max(-bound, math.Min(bound, (v-m.Mean[f])/m.Scale[f])), 0
		if math.IsNaN(v) {
			into[1+f], into[1+n+f] = 0, 1
		}
	}
}

// Predict is the logistic function of the weighted sum.
func (m *Linear) Predict(x, into []float64) {
	n := len(m.Mean)
	sums := into[len(into)-len(m.Weights):]
	for k, beta := range m.Weights {
		sums[k] = beta[0]
	}
	for f, v := range x[:n] {
		at, z := 1+f, math.Max(-bound, math.Min(bound, (v-m.Mean[f])/m.Scale[f]))
		if math.IsNaN(v) {
			at, z = 1+n+f, 1
		}
		for k, beta := range m.Weights {
			sums[k] += beta[at] * z
		}
	}
	for k, z := range sums {
		sums[k] = sigmoid(z)
	}
	if len(m.Weights) == 1 {
		into[0] = 1 - into[1]
		return
	}
	sum := 0.0
	for _, p := range into {
		sum += p
	}
	for k := range into {
		into[k] /= sum
	}
}

// Fit learns.
func (l *Logistic) Fit(ctx context.Context, d *Data, _ uint64) (Model, error) {
	if err := d.Check(); err != nil {
		return nil, err
	}
	if oneClass(d) {
		return &Constant{d.shares()}, nil
	}
	penalty := l.L2
	if penalty == 0 {
		penalty = 1
	}
	n := len(d.Names)
	m := &Linear{Mean: make([]float64, n), Scale: make([]float64, n)}
	for f := range n {
		var count, sum, squares float64
		for i := range d.Rows {
			if v := d.X[i*n+f]; !math.IsNaN(v) {
				count++
				sum += v
			}
		}
		m.Scale[f] = 1
		if count == 0 {
			continue
		}
		m.Mean[f] = sum / count
		for i := range d.Rows {
			if v := d.X[i*n+f] - m.Mean[f]; !math.IsNaN(v) {
				squares += v * v
			}
		}
		if squares > 0 {
			m.Scale[f] = math.Sqrt(squares / count)
		}
	}
	if !finite(m.Mean...) || !finite(m.Scale...) {
		return nil, errors.New("models: fit: values too great to add up")
	}
	outputs := d.Classes
	if outputs == 2 {
		outputs = 1
	}
	for k := range outputs {
		class := k
		if outputs == 1 {
			class = 1
		}
		beta, err := m.newton(ctx, d, class, penalty)
		if err != nil {
			return nil, err
		}
		m.Weights = append(m.Weights, beta)
	}
	return m, nil
}

func (m *Linear) newton(ctx context.Context, d *Data, class int, penalty float64) ([]float64, error) {
	n := 1 + 2*len(d.Names)
	beta, row := make([]float64, n), make([]float64, n)
	for range 30 {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("models: fit: %w", err)
		}
		gradient, hessian := make([]float64, n), make([]float64, n*n)
		for i := range n {
			p := penalty
			if i == 0 {
				p = 1e-6
			}
			gradient[i] = p * beta[i]
			hessian[i*n+i] = p
		}
		for i := range d.Rows {
			m.row(d.Row(i), row)
			z := 0.0
			for j, v := range row {
				z += v * beta[j]
			}
			p, y := sigmoid(z), 0.0
			if d.Y[i] == class {
				y = 1
			}
			g, h := d.weight(i)*(p-y), d.weight(i)*math.Max(p*(1-p), 1e-6)
			for a, v := range row {
				if v == 0 {
					continue
				}
				gradient[a] += g * v
				for b := a; b < n; b++ {
					hessian[a*n+b] += h * v * row[b]
				}
			}
		}
		var chol mat.Cholesky
		if !chol.Factorize(mat.NewSymDense(n, hessian)) {
			return nil, errors.New("models: fit: the data leave the weights open")
		}
		var step mat.VecDense
		if err := chol.SolveVecTo(&step, mat.NewVecDense(n, gradient)); err != nil {
			return nil, errors.New("models: fit: the data leave the weights open")
		}
		moved := 0.0
		for i := range beta {
			s := math.Max(-2, math.Min(2, step.AtVec(i)))
			beta[i] -= s
			moved = math.Max(moved, math.Abs(s))
		}
		if moved < 1e-6 {
			break
		}
	}
	return beta, nil
}

func (m *Linear) check(features, classes int) error {
	outputs := classes
	if classes == 2 {
		outputs = 1
	}
	if len(m.Mean) != features || len(m.Scale) != features || len(m.Weights) != outputs || !finite(m.Mean...) || !finite(m.Scale...) {
		return fmt.Errorf("models: decode: a regression of %d features and %d outputs, not of %d and %d", len(m.Mean), len(m.Weights), features, outputs)
	}
	for _, s := range m.Scale {
		if !(s > 0) {
			return fmt.Errorf("models: decode: a scale of %v", s)
		}
	}
	for _, beta := range m.Weights {
		if len(beta) != 1+2*features || !finite(beta...) {
			return errors.New("models: decode: a regression whose weights do not fit its features")
		}
	}
	return nil
}

// sigmoid is the logistic function.
func sigmoid(x float64) float64 { return 1 / (1 + math.Exp(-x)) }
