package models

import (
	"math"
	"math/rand/v2"
	"testing"
)

func TestLogisticRegressionFindsTheWeightsThatMadeTheData(t *testing.T) {
	// Log-odds 1 + 2·x − 1·y of x, y ~ N(0, 1): standardised, the weights stay 2 and −1.
	random := rand.New(rand.NewPCG(1, 2))
	d := &Data{Names: []string{"x", "y"}, Rows: 20000, Classes: 2}
	for range d.Rows {
		x, y := random.NormFloat64(), random.NormFloat64()
		class := 0
		if random.Float64() < sigmoid(1+2*x-y) {
			class = 1
		}
		d.X, d.Y = append(d.X, x, y), append(d.Y, class)
	}
	m, err := new(Logistic).Fit(t.Context(), d, 0)
	if err != nil {
		t.Fatal(err)
	}
	w := m.(*Linear).Weights[0]
	for i, want := range []float64{1, 2, -1} {
		if math.Abs(w[i]-want) > .08 { // standard errors are about .02
			t.Errorf("weight %d: %.3f, want %.0f", i, w[i], want)
		}
	}
	if w[3] != 0 || w[4] != 0 {
		t.Errorf("indicators of what never was unknown have weights %v", w[3:])
	}
}

func TestLogisticRegressionOfTwoClassesAgreesWithSoftmaxOfThree(t *testing.T) {
	// A third class that never comes takes next to nothing from the two others. Softmax
	// spreads a difference w over two halves, which cost half the penalty of one whole.
	random := rand.New(rand.NewPCG(3, 4))
	two := &Data{Names: []string{"x"}, Rows: 4000, Classes: 2}
	for range two.Rows {
		x := random.NormFloat64()
		class := 0
		if random.Float64() < sigmoid(x) {
			class = 1
		}
		two.X, two.Y = append(two.X, x), append(two.Y, class)
	}
	three := *two
	three.Classes = 3
	a, err := (&Logistic{L2: 1}).Fit(t.Context(), two, 0)
	if err != nil {
		t.Fatal(err)
	}
	b, err := (&Logistic{L2: 2}).Fit(t.Context(), &three, 0)
	if err != nil {
		t.Fatal(err)
	}
	p, q := make([]float64, 2), make([]float64, 3)
	for _, x := range []float64{-2, -.5, 0, 1, 3} {
		a.Predict([]float64{x}, p)
		b.Predict([]float64{x}, q)
		if math.Abs(p[1]-q[1]) > 5e-3 || q[2] > 5e-3 {
			t.Errorf("at %v: %.4f of two, %.4f of three classes", x, p, q)
		}
	}
}
