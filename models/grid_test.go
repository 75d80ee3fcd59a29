package models

import (
	"math"
	"testing"

	"github.com/sjwhitworth/golearn/base"
	"github.com/sjwhitworth/golearn/trees"

	dhalion "github.com/dhalion-go/dhalion"
)

var names = []string{"slow_factor", "uneven_share"}

func vector(values ...float64) dhalion.Vector { return dhalion.Vector{Schema: "s", Values: values} }

func TestAnUnknownValueBecomesTheMedianAndIsMarked(t *testing.T) {
	vectors := []dhalion.Vector{vector(1, math.NaN()), vector(math.NaN(), 2), vector(4, 4), vector(7, 9)}
	im, err := NewImputation(names, vectors)
	if err != nil {
		t.Fatal(err)
	}
	grid, err := im.Grid(vectors, []int{1, 0, 1, 0})
	if err != nil {
		t.Fatal(err)
	}
	read := func(attribute string, row int) float64 {
		for _, a := range grid.AllAttributes() {
			if a.GetName() == attribute {
				spec, err := grid.GetAttribute(a)
				if err != nil {
					t.Fatal(err)
				}
				return base.UnpackBytesToFloat(grid.Get(spec, row))
			}
		}
		t.Fatalf("no attribute %q", attribute)
		return 0
	}
	// Known slow factors 1, 4, 7: median 4. Known shares 2, 4, 9: median 4.
	for _, want := range []struct {
		attribute string
		row       int
		value     float64
	}{
		{"slow_factor", 0, 1}, {"unknown(slow_factor)", 0, 0},
		{"slow_factor", 1, 4}, {"unknown(slow_factor)", 1, 1},
		{"uneven_share", 0, 4}, {"unknown(uneven_share)", 0, 1},
	} {
		if got := read(want.attribute, want.row); got != want.value {
			t.Errorf("%s of row %d is %v, want %v", want.attribute, want.row, got, want.value)
		}
	}
}

func TestAVectorOfAnotherSchemaIsRefused(t *testing.T) {
	im, err := NewImputation(names, []dhalion.Vector{vector(1, 2)})
	if err != nil {
		t.Fatal(err)
	}
	other := dhalion.Vector{Schema: "other", Values: []float64{1, 2}}
	if _, err := im.Grid([]dhalion.Vector{other}, []int{1}); err == nil {
		t.Error("a vector of another schema was taken")
	}
	if _, err := im.Grid([]dhalion.Vector{vector(1)}, []int{1}); err == nil {
		t.Error("a vector with too few values was taken")
	}
}

func TestGolearnsTreeLearnsFromAGridWithUnknowns(t *testing.T) {
	var vectors []dhalion.Vector
	var labels []int
	for i := range 40 {
		x := float64(i % 20)
		label := 0
		if x >= 10 {
			label = 1
		}
		share := 1.0
		if i%3 == 0 {
			share = math.NaN()
		}
		vectors, labels = append(vectors, vector(x, share)), append(labels, label)
	}
	im, err := NewImputation(names, vectors)
	if err != nil {
		t.Fatal(err)
	}
	grid, err := im.Grid(vectors, labels)
	if err != nil {
		t.Fatal(err)
	}
	tree := trees.NewDecisionTreeClassifier("gini", -1, []int64{0, 1})
	if err := tree.Fit(grid); err != nil {
		t.Fatal(err)
	}
	// CART numbers the classes itself: what matters is that the two sides of 10
	// are told apart.
	predicted := tree.Predict(grid)
	for i, p := range predicted {
		if (p == predicted[0]) != (labels[i] == labels[0]) {
			t.Errorf("row %d (%d) is on the wrong side", i, labels[i])
		}
	}
}
