package models

import (
	"math"
	"path/filepath"
	"slices"
	"testing"

	"github.com/sjwhitworth/golearn/base"
	"github.com/sjwhitworth/golearn/evaluation"
	"github.com/sjwhitworth/golearn/trees"
)

// gridOf is the grid that golearn's users have: NaN is in it.
func gridOf(t testing.TB, d *Data) base.FixedDataGrid {
	t.Helper()
	grid := base.NewDenseInstances()
	var specs []base.AttributeSpec
	for _, name := range d.Names {
		specs = append(specs, grid.AddAttribute(base.NewFloatAttribute(name)))
	}
	class := base.NewCategoricalAttribute()
	class.SetName("cause")
	spec := grid.AddAttribute(class)
	if err := grid.AddClassAttribute(class); err != nil {
		t.Fatal(err)
	}
	if err := grid.Extend(d.Rows); err != nil {
		t.Fatal(err)
	}
	for i := range d.Rows {
		for f, v := range d.Row(i) {
			grid.Set(specs[f], i, base.PackFloatToBytes(v))
		}
		grid.Set(spec, i, class.GetSysValFromString([]string{"none", "skew", "slow"}[d.Y[i]]))
	}
	return grid
}

func TestLearnersAreClassifiersOfGolearn(t *testing.T) {
	d := blobs(900, 5, 3, .1, 4)
	train, test := gridOf(t, d.Select(first(0, 600))), gridOf(t, d.Select(first(600, 900)))
	for _, l := range learners() {
		c := &Classifier{Learner: l, Seed: 1}
		if _, err := c.Predict(test); err == nil {
			t.Errorf("%s predicted before it learned", c)
		}
		if err := c.Fit(train); err != nil {
			t.Fatalf("%s: %v", c, err)
		}
		predicted, err := c.Predict(test)
		if err != nil {
			t.Fatalf("%s: %v", c, err)
		}
		confusion, err := evaluation.GetConfusionMatrix(test, predicted)
		if err != nil {
			t.Fatalf("%s: %v", c, err)
		}
		accuracy := evaluation.GetAccuracy(confusion)
		if accuracy < .75 {
			t.Errorf("%s: accuracy %.3f", c, accuracy)
		}
		if l.Name() == "naive-bayes" {
			continue // has no code
		}
		path := filepath.Join(t.TempDir(), "model")
		if err := c.Save(path); err != nil {
			t.Fatalf("%s: %v", c, err)
		}
		loaded := &Classifier{Learner: l}
		if err := loaded.Load(path); err != nil {
			t.Fatalf("%s: %v", c, err)
		}
		again, err := loaded.Predict(test)
		if err != nil {
			t.Fatalf("%s: %v", c, err)
		}
		for i := range 300 {
			if base.GetClass(again, i) != base.GetClass(predicted, i) {
				t.Fatalf("%s: row %d is %s, loaded %s", c, i, base.GetClass(predicted, i), base.GetClass(again, i))
			}
		}
	}
}

func TestAGridOfOtherFeaturesIsRefused(t *testing.T) {
	d := blobs(50, 2, 2, 0, 1)
	c := &Classifier{Learner: &Logistic{}}
	if err := c.Fit(gridOf(t, d)); err != nil {
		t.Fatal(err)
	}
	d.Names = []string{"x0", "x2"}
	if _, err := c.Predict(gridOf(t, d)); err == nil {
		t.Error("other features were taken")
	}
}

func TestCARTPredictsAsGolearnsTreeThatItWasReadFrom(t *testing.T) {
	d := blobs(600, 5, 3, .1, 6)
	_, full := impute(d)
	grid, _, err := coarseGrid(full)
	if err != nil {
		t.Fatal(err)
	}
	tree := trees.NewDecisionTreeClassifier(trees.GINI, 6, []int64{0, 1, 2})
	if err := tree.Fit(grid); err != nil {
		t.Fatal(err)
	}
	theirs := tree.Predict(grid)
	m, p := fit(t, &CART{}, d, 1), make([]float64, 3)
	for i := range d.Rows {
		m.Predict(d.Row(i), p)
		// Of equally frequent classes either may be named.
		if p[theirs[i]] < slices.Max(p) {
			t.Fatalf("row %d: golearn says %d, we say %v", i, theirs[i], p)
		}
	}
}

func TestTheForestAsGolearnHoldsItPredictsTheSame(t *testing.T) {
	d := blobs(400, 4, 3, .15, 3)
	m := fit(t, &Forest{Trees: 7}, d, 1).(*Grown)
	grid := base.NewDenseInstances()
	var attributes []base.Attribute
	var specs []base.AttributeSpec
	for _, name := range append(slices.Clone(d.Names), "u0", "u1", "u2", "u3") {
		attributes = append(attributes, base.NewFloatAttribute(name))
		specs = append(specs, grid.AddAttribute(attributes[len(attributes)-1]))
	}
	class := base.NewCategoricalAttribute()
	class.SetName("label")
	grid.AddAttribute(class)
	if err := grid.AddClassAttribute(class); err != nil {
		t.Fatal(err)
	}
	for _, label := range []string{"0", "1", "2"} {
		class.GetSysValFromString(label)
	}
	if err := grid.Extend(d.Rows); err != nil {
		t.Fatal(err)
	}
	row := make([]float64, 8)
	for i := range d.Rows {
		m.Imputed.fill(d.Row(i), row)
		for f, v := range row {
			grid.Set(specs[f], i, base.PackFloatToBytes(v))
		}
	}
	p := make([]float64, 3)
	for k, root := range m.Nodes(attributes, class) {
		predicted, err := root.Predict(grid)
		if err != nil {
			t.Fatal(err)
		}
		one := &Grown{Imputed: m.Imputed, Classes: 3, Trees: m.Trees[k : k+1]}
		for i := range d.Rows {
			one.Predict(d.Row(i), p)
			if want := string(rune('0' + slices.Index(p, slices.Max(p)))); base.GetClass(predicted, i) != want {
				t.Fatalf("tree %d, row %d: golearn says %s, we say %s", k, i, base.GetClass(predicted, i), want)
			}
		}
	}
}

func TestNaiveBayesAgreesWithSmoothedCountsDoneByHand(t *testing.T) {
	// Class 0: x = 0 six times, 1 twice; class 1: x = 0 once, 1 seven times. golearn's
	// chance of a bit is (true + 1)/(rows + 1): class 0 has 7/9 and 3/9, class 1 2/9
	// and 8/9; unknown, never true, has 1/9 in both. At x = 1 with unknown false:
	// class 0: (2/9)·(3/9)·(8/9), class 1: (7/9)·(8/9)·(8/9): p = 56/(56+6).
	d := &Data{Names: []string{"x"}, Rows: 16, Classes: 2}
	for y, counts := range [][2]int{{6, 2}, {1, 7}} {
		for x, n := range counts {
			for range n {
				d.X, d.Y = append(d.X, float64(x)), append(d.Y, y)
			}
		}
	}
	p := make([]float64, 2)
	fit(t, NaiveBayes{}, d, 0).Predict([]float64{1}, p)
	if math.Abs(p[1]-56./62) > 1e-12 {
		t.Errorf("p = %v, want %v", p[1], 56./62)
	}
}
