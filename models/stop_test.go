package models

import "testing"

func TestTheBestRoundsAreThoseBeforeTheBoosterLearnsNoiseByHeart(t *testing.T) {
	for _, classes := range []int{2, 3} {
		d := blobs(600, 4, classes, .1, 4)
		for i := range d.Rows {
			if i%3 == 0 { // a third of the labels say nothing
				d.Y[i] = (i / 3) % classes
			}
		}
		train, validation := d.Select(first(0, 300)), d.Select(first(300, 600))
		all := fit(t, &Booster{Rounds: 200, Least: 2}, train, 1).(*Boosted)
		best, err := all.Best(validation)
		if err != nil {
			t.Fatal(err)
		}
		if n := len(best.Trees); n < 2 || n > 100 {
			t.Errorf("%d classes: best after %d of 200 rounds", classes, n)
		}
		loss := func(rounds int) float64 {
			m := &Boosted{Classes: classes, Start: all.Start, Trees: all.Trees[:rounds]}
			sum, p := 0.0, make([]float64, classes)
			for i, y := range validation.Y {
				m.Predict(validation.Row(i), p)
				sum += LossOf(p[y], true)
			}
			return sum
		}
		n := len(best.Trees)
		for _, other := range []int{1, n - 1, n + 1, 200} {
			if loss(other) < loss(n)-1e-9 {
				t.Errorf("%d classes: %d rounds lose %.4f, %d lose %.4f", classes, n, loss(n), other, loss(other))
			}
		}
		if _, err := all.Best(blobs(20, 3, classes, 0, 1)); classes == 3 && err == nil {
			// Its trees ask for a fourth feature.
			t.Error("data of other features were taken")
		}
	}
}
