package models

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

func TestDriftNamesTheFeatureThatMovedAndNoOther(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 1))
	draw := func(rows int, shift, unknown float64) *Data {
		d := &Data{Names: []string{"still", "moves", "vanishes", "constant"}, Rows: rows, Classes: 2, Y: make([]int, rows)}
		for range rows {
			v := random.NormFloat64()
			if random.Float64() < unknown {
				v = math.NaN()
			}
			d.X = append(d.X, random.NormFloat64(), random.NormFloat64()+shift, v, 3)
		}
		return d
	}
	r, err := NewReference(draw(5000, 0, .05))
	if err != nil {
		t.Fatal(err)
	}
	same, err := r.Of(draw(2000, 0, .05).X)
	if err != nil {
		t.Fatal(err)
	}
	if len(same.Shifted) != 0 || slices.Max(same.Index) > .03 {
		t.Errorf("without drift: %+v", same)
	}
	// One standard deviation is an index near 1 (the divergence of N(0,1) and N(1,1),
	// both ways: ½ + ½); half of the values unknown instead of a twentieth is
	// .45·ln(10) + .45·ln(1.9) = 1.33.
	moved, err := r.Of(draw(2000, 1, .5).X)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(moved.Shifted, []int{2, 1}) || math.Abs(moved.Index[1]-1) > .2 || math.Abs(moved.Index[2]-1.33) > .15 {
		t.Errorf("with drift: %+v", moved)
	}
}

func TestAFewRowsAreNoDrift(t *testing.T) {
	// Twelve rows spread unevenly over eleven bins by chance: an index of half or more.
	d := blobs(3000, 5, 2, 0, 1)
	r, err := NewReference(d)
	if err != nil {
		t.Fatal(err)
	}
	few, err := r.Of(d.Select(first(0, 12)).X)
	if err != nil {
		t.Fatal(err)
	}
	if len(few.Shifted) > 0 {
		t.Errorf("%+v", few)
	}
	if _, err := r.Of(d.X[:7]); err == nil {
		t.Error("7 values of 5 features were compared")
	}
}

func TestJudgedOutcomesAreComparedWithWhatWasPromised(t *testing.T) {
	judge := func(n, came int, p float64) Judged {
		holds := make([]bool, n)
		for i := range came {
			holds[i] = true
		}
		j, err := Judge(slices.Repeat([]float64{p}, n), holds)
		if err != nil {
			t.Fatal(err)
		}
		return j
	}
	// 10 of 100 came where 20 were promised: .5, and Byar's interval of a count of 10
	// is 4.79 to 18.39: .24 to .92.
	j := judge(100, 10, .2)
	if math.Abs(j.Ratio-.5) > 1e-9 || math.Abs(j.Low-.2395) > 1e-3 || math.Abs(j.High-.9195) > 1e-3 || !j.Drifted() {
		t.Errorf("%+v", j)
	}
	if j := judge(100, 17, .2); j.Drifted() {
		t.Errorf("17 of 20: %+v", j)
	}
	if j := judge(30, 0, .2); j.Low != 0 || !j.Drifted() { // none of 6: at most 3.69
		t.Errorf("none of 6: %+v", j)
	}
	if j := judge(0, 0, 0); !math.IsNaN(j.Ratio) || j.Drifted() {
		t.Errorf("nothing judged: %+v", j)
	}
	if _, err := Judge([]float64{math.NaN()}, []bool{true}); err == nil {
		t.Error("a probability of NaN was judged")
	}
}
