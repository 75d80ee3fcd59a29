package models

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"github.com/dhalion-go/dhalion/internal/parallel"
)

// Booster learns additive trees on histograms of binned features by gradient
// descent on the log loss (J. Friedman, Greedy function approximation, Annals of
// Statistics 29, 2001), with second-order leaves (T. Chen, C. Guestrin, XGBoost, KDD
// 2016) and trees grown at the leaf that gains most (G. Ke et al., LightGBM, NIPS
// 2017). Two classes have one tree a round, more have one each. Unknown values go
// where they did better. The zero Booster has the settings of NewBooster.
type Booster struct {
	Rounds  int     // default 100
	Rate    float64 // learning rate, default .1
	Leaves  int     // of a tree, default 31
	Depth   int     // of a tree, 0: any
	Least   int     // rows in a leaf, default 20
	L2      float64 // on leaf values
	Gain    float64 // least gain of a split
	Rows    float64 // share of the rows that a round sees, default 1
	Columns float64 // share of the features that a tree sees, default 1
	// Progress is told of rounds that are done; it may be nil.
	Progress func(done, of int)
}

// NewBooster has the usual settings.
func NewBooster() *Booster { return new(Booster) }

// Name is "booster".
func (b *Booster) Name() string { return "booster" }

func (b *Booster) defaults() Booster {
	s := *b
	set := func(v *float64, def float64) {
		if *v == 0 {
			*v = def
		}
	}
	count := func(v *int, def int) {
		if *v == 0 {
			*v = def
		}
	}
	count(&s.Rounds, 100)
	count(&s.Leaves, 31)
	count(&s.Least, 20)
	set(&s.Rate, .1)
	set(&s.Rows, 1)
	set(&s.Columns, 1)
	return s
}

// Boosted is what a Booster learns: for each class (of two: for the second) a sum of
// trees, on the scale of log-odds or of softmax.
type Boosted struct {
	Classes int       `json:"classes"`
	Start   []float64 `json:"start"` // a class each; of two one
	Trees   [][]tree  `json:"trees"` // by round, then class
}

// tree is a regression tree; node 0 is its root.
type tree []node

// node sends a row to the left where its feature is at most Limit. A leaf has no
// children (0, which is the root's) and a value.
type node struct {
	Limit   float64 `json:"l,omitempty"`
	Value   float64 `json:"v,omitempty"`
	Feature int32   `json:"f,omitempty"`
	Left    int32   `json:"a,omitempty"`
	Right   int32   `json:"b,omitempty"`
	// MissingLeft sends rows whose value is unknown to the left.
	MissingLeft bool `json:"m,omitempty"`
}

func (t tree) value(x []float64) float64 {
	i := int32(0)
	for {
		n := &t[i]
		if n.Left == 0 {
			return n.Value
		}
		v := x[n.Feature]
		switch {
		case v <= n.Limit:
			i = n.Left
		case v > n.Limit:
			i = n.Right
		case n.MissingLeft:
			i = n.Left
		default:
			i = n.Right
		}
	}
}

// Predict is the softmax, or of two classes the logistic function, of the trees'
// sums.
func (m *Boosted) Predict(x, into []float64) {
	if m.Classes == 2 {
		z := m.Start[0]
		for _, round := range m.Trees {
			z += round[0].value(x)
		}
		into[1] = 1 / (1 + math.Exp(-z))
		into[0] = 1 - into[1]
		return
	}
	copy(into, m.Start)
	for _, round := range m.Trees {
		for k, t := range round {
			into[k] += t.value(x)
		}
	}
	softmax(into)
}

// PredictAll predicts the rows of a matrix, row-major, on all processors: trees are
// passed over blocks of rows, so that a tree stays in the cache.
func (m *Boosted) PredictAll(x []float64, features int) []float64 {
	rows := len(x) / features
	out := make([]float64, rows*m.Classes)
	const block = 128
	parallel.Each((rows+block-1)/block, func(b int) {
		lo, hi := b*block, min((b+1)*block, rows)
		outputs := len(m.Start)
		sums := make([]float64, (hi-lo)*outputs)
		for k, s := range m.Start {
			for i := lo; i < hi; i++ {
				sums[(i-lo)*outputs+k] = s
			}
		}
		for _, round := range m.Trees {
			for k, t := range round {
				for i := lo; i < hi; i++ {
					sums[(i-lo)*outputs+k] += t.value(x[i*features : (i+1)*features])
				}
			}
		}
		for i := lo; i < hi; i++ {
			into := out[i*m.Classes : (i+1)*m.Classes]
			if m.Classes == 2 {
				into[1] = 1 / (1 + math.Exp(-sums[i-lo]))
				into[0] = 1 - into[1]
				continue
			}
			copy(into, sums[(i-lo)*outputs:])
			softmax(into)
		}
	})
	return out
}

func softmax(z []float64) {
	top, sum := slices.Max(z), 0.0
	for k, v := range z {
		z[k] = math.Exp(v - top)
		sum += z[k]
	}
	for k := range z {
		z[k] /= sum
	}
}

// Fit learns. Data of one class, or of which no feature varies, give a Constant.
func (b *Booster) Fit(ctx context.Context, d *Data, seed uint64) (Model, error) {
	if err := d.Check(); err != nil {
		return nil, err
	}
	s := b.defaults()
	shares := d.shares()
	if oneClass(d) {
		return &Constant{shares}, nil
	}
	bins := newBinned(d)
	outputs := d.Classes
	start := make([]float64, outputs)
	if d.Classes == 2 {
		outputs, start = 1, []float64{math.Log(shares[1] / shares[0])}
	} else {
		for k, p := range shares {
			start[k] = math.Log(p)
		}
	}
	m := &Boosted{Classes: d.Classes, Start: start}
	scores := make([][]float64, outputs)
	growers := make([]*grower, outputs)
	for k := range scores {
		scores[k] = slices.Repeat([]float64{start[k]}, d.Rows)
		growers[k] = newGrower(bins, s)
	}
	random := rand.New(rand.NewPCG(seed, 0x9e3779b97f4a7c15))
	chances := make([][]float64, outputs)
	for k := range chances {
		chances[k] = make([]float64, d.Rows)
	}
	for round := range s.Rounds {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("models: fit: %w", err)
		}
		rows := sample(random, d.Rows, s.Rows)
		columns := make([][]int, outputs)
		for k := range columns {
			columns[k] = sampleColumns(random, len(d.Names), s.Columns)
		}
		probabilities(scores, chances)
		trees := make([]tree, outputs)
		grow := func(k int) {
			g, class := growers[k], k
			if outputs == 1 {
				class = 1
			}
			for i := range d.Rows {
				p, y := chances[k][i], 0.0
				if d.Y[i] == class {
					y = 1
				}
				w := d.weight(i)
				g.gradient[i], g.hessian[i] = float32(w*(p-y)), float32(w*math.Max(p*(1-p), 1e-12))
			}
			trees[k] = g.grow(rows, columns[k], scores[k])
		}
		if outputs > 1 {
			parallel.Each(outputs, grow)
		} else {
			grow(0)
		}
		m.Trees = append(m.Trees, trees)
		if b.Progress != nil {
			b.Progress(round+1, s.Rounds)
		}
	}
	return m, nil
}

func oneClass(d *Data) bool {
	return !slices.ContainsFunc(d.Y, func(y int) bool { return y != d.Y[0] })
}

// probabilities are those of each output and row.
func probabilities(scores, into [][]float64) {
	if len(scores) == 1 {
		for i, z := range scores[0] {
			into[0][i] = 1 / (1 + math.Exp(-z))
		}
		return
	}
	rows := len(scores[0])
	const block = 1024
	parallel.Each((rows+block-1)/block, func(b int) {
		z := make([]float64, len(scores))
		for i := b * block; i < min((b+1)*block, rows); i++ {
			for k := range scores {
				z[k] = scores[k][i]
			}
			softmax(z)
			for k := range scores {
				into[k][i] = z[k]
			}
		}
	})
}

// sample is a share of the rows, ascending.
func sample(random *rand.Rand, rows int, share float64) []uint32 {
	out := make([]uint32, 0, rows)
	for i := range rows {
		if share >= 1 || random.Float64() < share {
			out = append(out, uint32(i))
		}
	}
	if len(out) == 0 {
		out = append(out, uint32(random.IntN(rows)))
	}
	return out
}

// sampleColumns is a share of the features, ascending, at least one.
func sampleColumns(random *rand.Rand, n int, share float64) []int {
	all := make([]int, n)
	for i := range all {
		all[i] = i
	}
	if share >= 1 {
		return all
	}
	random.Shuffle(n, func(i, j int) { all[i], all[j] = all[j], all[i] })
	all = all[:max(1, int(share*float64(n)+.5))]
	slices.Sort(all)
	return all
}
