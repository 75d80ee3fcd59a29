package models

import (
	"bytes"
	"encoding/json"
	"math"
	"slices"
	"testing"
)

func TestADecodedModelAnswersAsBefore(t *testing.T) {
	for _, classes := range []int{2, 3} {
		d := blobs(300, 3, classes, .1, 2)
		for _, l := range learners() {
			if l.Name() == "naive-bayes" {
				continue // has no code
			}
			m := fit(t, l, d, 1)
			back, err := decode(encode(t, m), 3, classes)
			if err != nil {
				t.Fatalf("%s: %v", l.Name(), err)
			}
			p, q := make([]float64, classes), make([]float64, classes)
			for i := range d.Rows {
				m.Predict(d.Row(i), p)
				back.Predict(d.Row(i), q)
				if !slices.Equal(p, q) {
					t.Fatalf("%s, row %d: %v, decoded %v", l.Name(), i, p, q)
				}
			}
			if !bytes.Equal(encode(t, m), encode(t, back)) {
				t.Errorf("%s encodes otherwise after decoding", l.Name())
			}
			if _, err := decode(encode(t, m), 2, classes); err == nil && l.Name() != "booster" {
				t.Errorf("%s of 3 features passed for one of 2", l.Name())
			}
			if _, err := decode(encode(t, m), 3, classes+1); err == nil {
				t.Errorf("%s of %d classes passed for one more", l.Name(), classes)
			}
		}
	}
}

func TestTreesThatDoNotEndAreRefused(t *testing.T) {
	leaf := node{Value: 1}
	for what, broken := range map[string]tree{
		"no nodes":              {},
		"its own child":         {{Left: 1, Right: 2}, {Left: 1, Right: 2}, leaf},
		"a child before it":     {{Left: 1, Right: 2}, leaf, {Left: 1, Right: 3}, leaf},
		"a child out of range":  {{Left: 1, Right: 2}, leaf},
		"half a pair":           {{Left: 1}, leaf},
		"the other half":        {{Right: 1}, leaf},
		"a negative child":      {{Left: 1, Right: -1}, leaf},
		"a feature it has not":  {{Left: 1, Right: 2, Feature: 1}, leaf, leaf},
		"a feature below the 0": {{Left: 1, Right: 2, Feature: -1}, leaf, leaf},
		"a limit of NaN":        {{Left: 1, Right: 2, Limit: math.NaN()}, leaf, leaf},
	} {
		if _, err := Decode(Coded{Boosted: &Boosted{Classes: 2, Start: []float64{0}, Trees: [][]tree{{broken}}}}, 1, 2); err == nil {
			t.Errorf("boosted, %s: decoded", what)
		}
	}
	ok := countsNode{Counts: []int{1, 2}}
	for what, broken := range map[string]countsTree{
		"no nodes":              {},
		"its own child":         {{Left: 1, Right: 2}, {Left: 1, Right: 2}, ok},
		"a leaf without counts": {{}},
		"a leaf of no rows":     {{Counts: []int{0, 0}}},
		"a count below 0":       {{Counts: []int{3, -1}}},
		"counts of one class":   {{Counts: []int{3}}},
		"a feature it has not":  {{Left: 1, Right: 2, Feature: 2}, ok, ok},
	} {
		if _, err := Decode(Coded{Grown: &Grown{Imputed: Imputed{[]float64{0}}, Classes: 2, Trees: []countsTree{broken}}}, 1, 2); err == nil {
			t.Errorf("forest, %s: decoded", what)
		}
	}
}

// FuzzDecode asks whatever was decoded a question.
func FuzzDecode(f *testing.F) {
	for _, l := range []Learner{&Booster{Rounds: 2, Leaves: 3}, &Forest{Trees: 2}, &Logistic{}, &CART{Depth: 2}} {
		f.Add(encode(f, fit(f, l, blobs(60, 2, 2, .1, 1), 1)))
	}
	f.Add([]byte(`{"constant":{"shares":[0.5,0.5]}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decode(b, 2, 2)
		if err != nil {
			return
		}
		p := make([]float64, 2)
		m.Predict([]float64{1, math.NaN()}, p)
		again, err := Encode(m)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := json.Marshal(again); err != nil {
			t.Fatal(err)
		}
	})
}
