package models

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func near(t *testing.T, what string, got, want, within float64) {
	t.Helper()
	if !(math.Abs(got-want) <= within) {
		t.Errorf("%s = %v, want %v", what, got, want)
	}
}

func TestScoresAgreeWithWhatHandsWorkOut(t *testing.T) {
	p, holds := []float64{.9, .4, .2}, []bool{true, false, true}
	near(t, "log loss", LogLoss(p, holds, nil), -(math.Log(.9)+math.Log(.6)+math.Log(.2))/3, 1e-12)
	near(t, "weighted log loss", LogLoss(p, holds, []float64{1, 3, 0}), -(math.Log(.9)+3*math.Log(.6))/4, 1e-12)
	near(t, "Brier", Brier(p, holds, nil), (.01+.16+.64)/3, 1e-12)
	// Pairs (holds, not): .9 > .4 and .2 < .4: one of two. A tie counts half.
	near(t, "AUC", AUC(p, holds), .5, 1e-12)
	near(t, "AUC of a tie", AUC([]float64{.4, .4}, []bool{true, false}), .5, 1e-12)
	near(t, "AUC of order", AUC([]float64{.1, .2, .8, .9}, []bool{false, false, true, true}), 1, 1e-12)
	if v := AUC([]float64{.1}, []bool{true}); !math.IsNaN(v) {
		t.Errorf("AUC of one class = %v", v)
	}
	if v := LogLoss([]float64{0, 1}, []bool{true, false}, nil); math.IsInf(v, 0) || v < 10 {
		t.Errorf("log loss of certain errors = %v", v)
	}
	if v := LogLoss(nil, nil, nil); !math.IsNaN(v) {
		t.Errorf("log loss of nothing = %v", v)
	}
	// Wilson, 9 of 10: .5958 to .9821 (Newcombe, Statistics in Medicine 17, 1998, formula 3).
	low, high := Wilson(9, 10)
	near(t, "Wilson low", low, .5958, 1e-4)
	near(t, "Wilson high", high, .9821, 1e-4)
	if low, high := Wilson(0, 0); low != 0 || high != 1 {
		t.Errorf("Wilson of nothing: %v to %v", low, high)
	}
}

func TestCalibrationErrorOfTrueProbabilitiesIsChanceAlone(t *testing.T) {
	// 300 rows in ten bins err by √(2/π)·√(p(1−p)/30), .05 and more, without any bias.
	random := rand.New(rand.NewPCG(2, 3))
	sumRaw, sumClean := 0.0, 0.0
	for range 40 {
		p, holds := make([]float64, 300), make([]bool, 300)
		for i := range p {
			p[i] = random.Float64()
			holds[i] = random.Float64() < p[i]
		}
		raw, clean := CalibrationError(p, holds, 10, 200, 1)
		sumRaw += raw / 40
		sumClean += clean / 40
	}
	if sumRaw < .04 || sumClean > .012 {
		t.Errorf("raw %.4f, debiased %.4f", sumRaw, sumClean)
	}
	// Always .8 where half holds: off by .3.
	p, holds := slices.Repeat([]float64{.8}, 1000), make([]bool, 1000)
	for i := range 500 {
		holds[2*i] = true
	}
	raw, clean := CalibrationError(p, holds, 10, 200, 1)
	near(t, "raw", raw, .3, 1e-9)
	near(t, "debiased", clean, .27, .02) // chance: √(2/π)·√(.16/100) = .032
}

func TestABootstrapByGroupKnowsThatRowsOfAGroupAreAlike(t *testing.T) {
	// Twenty groups of means ±1 with fifty equal rows each: the mean's deviation is
	// 1/√20 = .22, not 1/√1000 = .03.
	var difference []float64
	var group []string
	for g := range 20 {
		for range 50 {
			difference = append(difference, float64(g%2)*2-1)
			group = append(group, fmt.Sprint(g))
		}
	}
	mean, low, high := PairedBootstrap(difference, group, 1000, 1)
	near(t, "mean", mean, 0, 1e-12)
	near(t, "low", low, -.44, .11)
	near(t, "high", high, .44, .11)
	m, l, h := PairedBootstrap(difference, group, 1000, 1)
	if m != mean || l != low || h != high {
		t.Error("equal seeds give other intervals")
	}
	slices.Reverse(difference)
	slices.Reverse(group)
	if _, l, h := PairedBootstrap(difference, group, 1000, 1); l != low || h != high {
		t.Error("another order of rows gives another interval")
	}
}

func TestCalibrationMendsWhatWasBentOnPurpose(t *testing.T) {
	// True log-odds z; told is 2·z + 1. Platt: slope ½, shift −½.
	random := rand.New(rand.NewPCG(5, 5))
	n := 20000
	told, holds := make([]float64, n), make([]bool, n)
	for i := range n {
		z := 1.5 * random.NormFloat64()
		told[i] = sigmoid(2*z + 1)
		holds[i] = random.Float64() < sigmoid(z)
	}
	c := Platt(told, holds, nil)
	near(t, "slope", c.Slope, .5, .03)
	near(t, "shift", c.Shift, -.5, .06)
	for _, fit := range []func([]float64, []bool, []float64) Calibration{Platt, Isotonic} {
		c := fit(told, holds, nil)
		for _, z := range []float64{-2, -1, 0, 1, 2} {
			near(t, fmt.Sprint(c.Kind, " at ", z), c.Of(sigmoid(2*z+1)), sigmoid(z), .05)
		}
	}
	folds := make([]int, n)
	for i := range folds {
		folds[i] = i * 5 / n
	}
	if c := Calibrate(told, holds, nil, folds); LogLoss(apply(c, told), holds, nil) > LogLoss(apply(Platt(told, holds, nil), told), holds, nil)+1e-3 {
		t.Errorf("chose %s", c.Kind)
	}
}

func apply(c Calibration, p []float64) []float64 {
	out := make([]float64, len(p))
	for i, v := range p {
		out[i] = c.Of(v)
	}
	return out
}

func TestCalibrationIsAProbabilityAndKeepsTheOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 40).Draw(t, "n")
		p, holds, folds, weight := make([]float64, n), make([]bool, n), make([]int, n), make([]float64, n)
		for i := range n {
			p[i] = rapid.OneOf(rapid.Float64Range(0, 1), rapid.SampledFrom([]float64{0, .5, 1})).Draw(t, "p")
			holds[i] = rapid.Bool().Draw(t, "holds")
			folds[i] = i % 3
			weight[i] = rapid.SampledFrom([]float64{0, .3, 1, 7}).Draw(t, "weight")
		}
		for _, c := range []Calibration{
			Platt(p, holds, weight), Temperature(p, holds, weight), Isotonic(p, holds, weight), Calibrate(p, holds, weight, folds), {},
		} {
			last := -1.0
			for i := range 101 {
				q := c.Of(float64(i) / 100)
				if !(q >= 0 && q <= 1) || c.Kind == "isotonic" && (q == 0 || q == 1) {
					t.Fatalf("%+v makes %v of %v", c, q, float64(i)/100)
				}
				if q < last-1e-12 {
					t.Fatalf("%+v falls at %v", c, float64(i)/100)
				}
				last = q
			}
		}
	})
}

func TestCalibrationOfNothingChangesNothing(t *testing.T) {
	c := Calibrate(nil, nil, nil, nil)
	near(t, "calibrated", c.Of(.3), .3, 1e-12)
}

func TestAStepFunctionIsNotChosenForAHandfulOfRows(t *testing.T) {
	// 500 rows at .01 that do not hold, 500 at .99 that do, and between them three at .2
	// that happen to hold, in three folds.
	var p []float64
	var holds []bool
	var folds []int
	add := func(n int, v float64, h bool) {
		for i := range n {
			p, holds, folds = append(p, v), append(holds, h), append(folds, i%3)
		}
	}
	add(500, .01, false)
	add(3, .2, true)
	add(500, .99, true)
	// The three are pooled with the 500 above them: .99 · 503.5/504 + .01 · .2 = .991.
	step := Isotonic(p, holds, nil)
	if q := step.Of(.2); math.Abs(q-.991) > .0005 {
		t.Errorf("a step of three rows makes %.2f of .2", q)
	}
	c := Calibrate(p, holds, nil, folds)
	if q := c.Of(.2); c.Kind == "isotonic" || q > .7 {
		t.Errorf("%q makes %.2f of .2", c.Kind, q)
	}
}
