package models

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func learners() []Learner {
	return []Learner{
		&Booster{Rounds: 20}, &Booster{Rounds: 10, Rows: .5, Columns: .5, Depth: 3, L2: 1},
		&Forest{Trees: 20}, &Logistic{}, &CART{}, NaiveBayes{},
	}
}

// blobs are rows around a centre for each class, with some values unknown.
func blobs(rows, features, classes int, unknown float64, seed uint64) *Data {
	random := rand.New(rand.NewPCG(seed, 7))
	d := &Data{Rows: rows, Classes: classes}
	for f := range features {
		d.Names = append(d.Names, fmt.Sprint("x", f))
	}
	centre := make([]float64, features*classes)
	for i := range centre {
		centre[i] = 1.5 * random.NormFloat64()
	}
	for range rows {
		y := random.IntN(classes)
		d.Y = append(d.Y, y)
		for f := range features {
			v := centre[y*features+f] + random.NormFloat64()
			if random.Float64() < unknown {
				v = math.NaN()
			}
			d.X = append(d.X, v)
		}
	}
	return d
}

func right(m Model, d *Data) float64 {
	n, p := 0, make([]float64, d.Classes)
	for i := range d.Rows {
		m.Predict(d.Row(i), p)
		if slices.Index(p, slices.Max(p)) == d.Y[i] {
			n++
		}
	}
	return float64(n) / float64(d.Rows)
}

func fit(t testing.TB, l Learner, d *Data, seed uint64) Model {
	t.Helper()
	m, err := l.Fit(t.Context(), d, seed)
	if err != nil {
		t.Fatalf("%s: %v", l.Name(), err)
	}
	return m
}

func TestEveryLearnerTellsSeparateClassesApart(t *testing.T) {
	for _, classes := range []int{2, 4} {
		d := blobs(1200, 6, classes, .1, 5)
		train, test := d.Select(first(0, 800)), d.Select(first(800, 1200))
		for _, l := range learners() {
			if share := right(fit(t, l, train, 1), test); share < .8 {
				t.Errorf("%d classes, %s: %.3f right", classes, l.Name(), share)
			}
		}
	}
}

func first(lo, hi int) (rows []int) {
	for i := lo; i < hi; i++ {
		rows = append(rows, i)
	}
	return rows
}

func TestEqualDataAndSeedGiveEqualBytesOnAnyNumberOfProcessors(t *testing.T) {
	for _, classes := range []int{2, 3} {
		d := blobs(700, 9, classes, .2, 3)
		for i := range d.Rows {
			d.Weight = append(d.Weight, .5+float64(i%3))
		}
		for _, l := range learners() {
			var files [][]byte
			for _, n := range []int{1, 4, 4} {
				was := runtime.GOMAXPROCS(n)
				m := fit(t, l, d, 11)
				runtime.GOMAXPROCS(was)
				files = append(files, encode(t, m))
			}
			if !bytes.Equal(files[0], files[1]) || !bytes.Equal(files[1], files[2]) {
				t.Errorf("%s of %d classes differs between runs", l.Name(), classes)
			}
		}
	}
}

// encode is a model's bytes: its code, or of one that has none what it is.
func encode(t testing.TB, m Model) []byte {
	t.Helper()
	var v any = m
	if _, ok := m.(*Naive); !ok {
		c, err := Encode(m)
		if err != nil {
			t.Fatal(err)
		}
		v = c
	}
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func decode(b []byte, features, classes int) (Model, error) {
	var c Coded
	if err := Strict(b, &c); err != nil {
		return nil, err
	}
	return Decode(c, features, classes)
}

func TestPredictionsAreProbabilitiesWhateverIsAsked(t *testing.T) {
	d := blobs(300, 4, 3, .1, 9)
	var fitted []Model
	for _, l := range learners() {
		fitted = append(fitted, fit(t, l, d, 1))
	}
	value := rapid.OneOf(rapid.Float64(), rapid.SampledFrom([]float64{math.NaN(), math.Inf(1), math.Inf(-1), 0, math.MaxFloat64, -math.MaxFloat64}))
	rapid.Check(t, func(t *rapid.T) {
		x := rapid.SliceOfN(value, 4, 4).Draw(t, "x")
		for i, m := range fitted {
			p := make([]float64, 3)
			m.Predict(x, p)
			sum := 0.0
			for _, v := range p {
				if !(v >= 0 && v <= 1+1e-9) {
					t.Fatalf("%s: %v", learners()[i].Name(), p)
				}
				sum += v
			}
			if math.Abs(sum-1) > 1e-9 {
				t.Fatalf("%s: %v sum to %v", learners()[i].Name(), p, sum)
			}
		}
	})
}

func TestOddDataNeitherHangNorPanic(t *testing.T) {
	nan := math.NaN()
	same := func(rows int, x ...float64) *Data {
		d := &Data{Names: []string{"a", "b"}, Rows: rows, Classes: 2}
		for i := range rows {
			d.X = append(d.X, x...)
			d.Y = append(d.Y, i%2)
		}
		return d
	}
	one := blobs(50, 3, 2, .2, 1)
	clear(one.Y)
	half := blobs(100, 3, 2, .1, 2)
	half.Classes = 5 // three of them never come
	huge := blobs(100, 2, 2, 0, 3)
	for i := range huge.X {
		huge.X[i] *= 1e307
	}
	tiny := blobs(100, 2, 2, 0, 3)
	for i := range tiny.X {
		tiny.X[i] *= 1e-310
	}
	unweighted := blobs(100, 2, 2, 0, 4)
	unweighted.Weight = make([]float64, 100)
	mostly := blobs(100, 2, 2, 0, 4)
	mostly.Weight = make([]float64, 100)
	mostly.Weight[17] = 3
	outlier := blobs(100, 2, 2, 0, 5)
	outlier.X[0] = math.MaxFloat64
	outlier.X[3] = -math.MaxFloat64
	for name, d := range map[string]*Data{
		"nothing known": same(60, nan, nan), "constant columns": same(60, 4, -1), "one class": one, "ten rows": blobs(10, 4, 3, .3, 6),
		"one row": same(1, 1, 2), "two rows": same(2, 1, nan), "duplicated rows": same(500, 1, 2), "classes that never come": half,
		"huge values": huge, "tiny values": tiny, "no weight": unweighted, "one row's weight": mostly, "outliers": outlier,
	} {
		for _, l := range learners() {
			m, err := l.Fit(t.Context(), d, 1)
			if err != nil {
				// Logistic regression says so where sums overflow.
				if l.Name() != "logistic" || name != "huge values" && name != "outliers" {
					t.Errorf("%s, %s: %v", name, l.Name(), err)
				}
				continue
			}
			p := make([]float64, d.Classes)
			for _, x := range [][]float64{d.Row(0), slices.Repeat([]float64{nan}, len(d.Names))} {
				m.Predict(x, p)
				sum := 0.0
				for _, v := range p {
					sum += v
				}
				if math.Abs(sum-1) > 1e-9 {
					t.Errorf("%s, %s: %v", name, l.Name(), p)
				}
			}
			if l.Name() == "naive-bayes" {
				continue // has no code
			}
			if _, err := decode(encode(t, m), len(d.Names), d.Classes); err != nil {
				t.Errorf("%s, %s: %v", name, l.Name(), err)
			}
		}
	}
}

func TestDataThatNobodyCanLearnFromAreRefused(t *testing.T) {
	for want, spoil := range map[string]func(d *Data){
		"x1 is infinite": func(d *Data) { d.X[1] = math.Inf(1) },
		"class 2 of 2":   func(d *Data) { d.Y[3] = 2 },
		"class -1 of 2":  func(d *Data) { d.Y[3] = -1 },
		"weight -1":      func(d *Data) { d.Weight = slices.Repeat([]float64{-1}, d.Rows) },
		"weight NaN":     func(d *Data) { d.Weight = slices.Repeat([]float64{math.NaN()}, d.Rows) },
		"39 values":      func(d *Data) { d.X = d.X[:39] },
		"0 rows":         func(d *Data) { *d = Data{Names: d.Names, Classes: 2} },
		"0 features":     func(d *Data) { d.Names, d.X = nil, nil },
		"1 classes":      func(d *Data) { d.Classes = 1 },
		"19 labels":      func(d *Data) { d.Y = d.Y[1:] },
	} {
		for _, l := range learners() {
			d := blobs(20, 2, 2, 0, 1)
			spoil(d)
			if _, err := l.Fit(t.Context(), d, 0); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %q", l.Name(), err, want)
			}
		}
	}
}

func TestAFitEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, l := range learners() {
		if _, err := l.Fit(ctx, blobs(100, 3, 2, 0, 1), 0); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", l.Name(), err)
		}
	}
}

func TestARowOfWeightTwoIsTwoRows(t *testing.T) {
	// Whole weights and repeated rows are the same problem to learners that do not
	// draw. Booster: counts of rows differ, so leaves of one row are allowed. Logistic:
	// features are scaled by the deviation of unweighted rows, which moves the penalty.
	d := blobs(200, 3, 2, .1, 8)
	var twice []int
	for i := range d.Rows {
		w := 1 + i%2
		d.Weight = append(d.Weight, float64(w))
		for range w {
			twice = append(twice, i)
		}
	}
	repeated := d.Select(twice)
	repeated.Weight = nil
	for _, l := range []Learner{&Booster{Rounds: 5, Least: 1}, &Logistic{}} {
		a, b := fit(t, l, d, 0), fit(t, l, repeated, 0)
		p, q := make([]float64, 2), make([]float64, 2)
		for i := range d.Rows {
			a.Predict(d.Row(i), p)
			b.Predict(d.Row(i), q)
			if math.Abs(p[1]-q[1]) > 5e-3 {
				t.Fatalf("%s, row %d: %.4f weighted, %.4f repeated", l.Name(), i, p[1], q[1])
			}
		}
	}
}

func TestUnknownValuesGoWhereTheyDidBetter(t *testing.T) {
	// The class is 1 where x is unknown or above 5, so no stand-in value serves both.
	d := &Data{Names: []string{"x"}, Rows: 400, Classes: 2}
	for i := range d.Rows {
		v, y := float64(i%10), 0
		switch {
		case i%4 == 0:
			v, y = math.NaN(), 1
		case v > 5:
			y = 1
		}
		d.X, d.Y = append(d.X, v), append(d.Y, y)
	}
	for _, l := range []Learner{&Booster{Rounds: 30}, &Forest{Trees: 30}} {
		m, p := fit(t, l, d, 1), make([]float64, 2)
		for _, c := range []struct{ x, low, high float64 }{{math.NaN(), .9, 1}, {9, .9, 1}, {2, 0, .1}} {
			if m.Predict([]float64{c.x}, p); p[1] < c.low || p[1] > c.high {
				t.Errorf("%s: p(1 | %v) = %.3f", l.Name(), c.x, p[1])
			}
		}
	}
}

func TestOneRoundOfBoostingMovesByStepsDoneByHand(t *testing.T) {
	// Four rows of class 0 at x = 0, four of class 1 at x = 1; p = 1/2, g = ±1/2, h = 1/4.
	// A leaf is −Σg/Σh·rate = 2/1·.1 = .2 after one round: p = 1/(1+e^−.2) = .549834.
	d := &Data{Names: []string{"x"}, Rows: 8, Classes: 2, X: []float64{0, 0, 0, 0, 1, 1, 1, 1}, Y: []int{0, 0, 0, 0, 1, 1, 1, 1}}
	p := make([]float64, 2)
	fit(t, &Booster{Rounds: 1, Least: 2}, d, 0).Predict([]float64{1}, p)
	if math.Abs(p[1]-.549834) > 1e-6 {
		t.Errorf("p = %.6f, want .549834", p[1])
	}
	fit(t, &Booster{Rounds: 1, Least: 2}, d, 0).Predict([]float64{0}, p)
	if math.Abs(p[0]-.549834) > 1e-6 {
		t.Errorf("p = %.6f of the other class, want .549834", p[0])
	}
	// With L2 = 1 the leaf is 2/(1+1)·.1 = .1: p = .524979.
	fit(t, &Booster{Rounds: 1, Least: 2, L2: 1}, d, 0).Predict([]float64{1}, p)
	if math.Abs(p[1]-.524979) > 1e-6 {
		t.Errorf("with L2 p = %.6f, want .524979", p[1])
	}
}

func TestPredictingAllRowsIsPredictingEach(t *testing.T) {
	for _, classes := range []int{2, 3} {
		d := blobs(333, 5, classes, .2, 4)
		m := fit(t, &Booster{Rounds: 8}, d, 0).(*Boosted)
		all, p := m.PredictAll(d.X, len(d.Names)), make([]float64, classes)
		for i := range d.Rows {
			if m.Predict(d.Row(i), p); !slices.Equal(p, all[i*classes:(i+1)*classes]) {
				t.Fatalf("row %d: %v and %v", i, p, all[i*classes:(i+1)*classes])
			}
		}
	}
}

func TestFoldsKeepGroupsWholeAndTimesInOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(2, 60).Draw(t, "rows")
		groups, times := make([]string, n), make([]int64, n)
		start := map[string]int64{}
		for i := range n {
			groups[i] = fmt.Sprint(rapid.IntRange(0, 9).Draw(t, "group"))
			times[i] = rapid.Int64Range(0, 50).Draw(t, "time")
			if s, ok := start[groups[i]]; !ok || times[i] < s {
				start[groups[i]] = times[i]
			}
		}
		k := rapid.IntRange(2, 5).Draw(t, "k")
		folds, err := Folds(groups, times, k)
		if len(start) < k {
			if err == nil {
				t.Fatal("fewer groups than folds were dealt out")
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		used := map[int]bool{}
		for i := range n {
			used[folds[i]] = true
			for j := range n {
				if groups[i] == groups[j] && folds[i] != folds[j] {
					t.Fatalf("group %s is in folds %d and %d", groups[i], folds[i], folds[j])
				}
				if folds[i] < folds[j] && start[groups[i]] > start[groups[j]] {
					t.Fatalf("fold %d has a group of %d, fold %d one of %d", folds[i], start[groups[i]], folds[j], start[groups[j]])
				}
			}
		}
		if len(used) != k {
			t.Fatalf("%d of %d folds used", len(used), k)
		}
	})
}

func BenchmarkPredict(b *testing.B) {
	d := blobs(5000, 60, 2, .1, 1)
	for i := range d.Rows { // labels half at random, so that trees grow all their leaves
		if i%4 == 0 {
			d.Y[i] = 1 - d.Y[i]
		}
	}
	for _, l := range []Learner{&Booster{}, &Forest{}, &Logistic{}, &CART{}, NaiveBayes{}} {
		m := fit(b, l, d, 1)
		b.Run(l.Name(), func(b *testing.B) {
			b.ReportAllocs()
			p, i := make([]float64, 2), 0
			for b.Loop() {
				m.Predict(d.Row(i%d.Rows), p)
				i++
			}
		})
	}
}
