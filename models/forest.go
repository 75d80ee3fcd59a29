package models

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"

	"github.com/dhalion-go/dhalion/internal/parallel"
	"github.com/sjwhitworth/golearn/base"
	"github.com/sjwhitworth/golearn/trees"
)

// Forest learns a random forest (L. Breiman, Machine Learning 45, 2001) on
// histograms of binned features: each tree on rows drawn with replacement, each
// split the best by Gini's impurity of as many features as the square root of their
// number. What is unknown becomes the training median, with an indicator beside it,
// for golearn's trees, which hold the result, know no unknown. The zero Forest has
// 100 trees with at least one row a leaf.
type Forest struct {
	Trees    int
	Least    int
	Progress func(done, of int)
}

// Name is "forest".
func (f *Forest) Name() string { return "forest" }

// Grown is what a Forest learns.
type Grown struct {
	Imputed Imputed      `json:"imputed"`
	Classes int          `json:"classes"`
	Trees   []countsTree `json:"trees"`
}

// countsTree is a tree whose leaves hold the rows of each class.
type countsTree []countsNode

type countsNode struct {
	Limit   float64 `json:"l,omitempty"`
	Feature int32   `json:"f,omitempty"`
	Left    int32   `json:"a,omitempty"` // 0: a leaf
	Right   int32   `json:"b,omitempty"`
	Counts  []int   `json:"n,omitempty"`
}

// Imputed says what stands for the unknown: each feature's median, behind which
// comes an indicator for each feature.
type Imputed struct {
	Medians []float64 `json:"medians"`
}

func impute(d *Data) (Imputed, *Data) {
	n := len(d.Names)
	im := Imputed{make([]float64, n)}
	for f := range n {
		var known []float64
		for i := range d.Rows {
			if v := d.X[i*n+f]; !math.IsNaN(v) {
				known = append(known, v)
			}
		}
		im.Medians[f] = median(known)
	}
	out := &Data{Rows: d.Rows, Y: d.Y, Classes: d.Classes, Weight: d.Weight, X: make([]float64, 2*len(d.X))}
	out.Names = slices.Clone(d.Names)
	for _, name := range d.Names {
		out.Names = append(out.Names, "unknown("+name+")")
	}
	for i := range d.Rows {
		im.fill(d.Row(i), out.Row(i))
	}
	return im, out
}

// fill writes a row of twice the features.
func (im Imputed) fill(x, into []float64) {
	n := len(x)
	for f, v := range x {
		into[f], into[n+f] = v, 0
		if math.IsNaN(v) {
			into[f], into[n+f] = im.Medians[f], 1
		}
	}
}

// Predict is the mean of the trees' shares.
func (m *Grown) Predict(x, into []float64) {
	clear(into)
	for _, t := range m.Trees {
		n := &t[0]
		for n.Left != 0 {
			if m.Imputed.value(x, int(n.Feature)) <= n.Limit {
				n = &t[n.Left]
			} else {
				n = &t[n.Right]
			}
		}
		sum := 0
		for _, c := range n.Counts {
			sum += c
		}
		for k, c := range n.Counts {
			into[k] += float64(c) / float64(sum)
		}
	}
	for k := range into {
		into[k] /= float64(len(m.Trees))
	}
}

// value is one value of the row that fill would write.
func (im Imputed) value(x []float64, f int) float64 {
	n := len(x)
	if f >= n {
		if math.IsNaN(x[f-n]) {
			return 1
		}
		return 0
	}
	if math.IsNaN(x[f]) {
		return im.Medians[f]
	}
	return x[f]
}

// Fit learns.
func (f *Forest) Fit(ctx context.Context, d *Data, seed uint64) (Model, error) {
	if err := d.Check(); err != nil {
		return nil, err
	}
	if oneClass(d) {
		return &Constant{d.shares()}, nil
	}
	count, least := f.Trees, max(1, f.Least)
	if count == 0 {
		count = 100
	}
	im, full := impute(d)
	bins := newBinned(full)
	m := &Grown{Imputed: im, Classes: d.Classes, Trees: make([]countsTree, count)}
	// Rows are drawn by weight; a cumulative sum finds them.
	cumulated := make([]float64, d.Rows)
	sum := 0.0
	for i := range cumulated {
		sum += d.weight(i)
		cumulated[i] = sum
	}
	if sum == 0 {
		return &Constant{d.shares()}, nil
	}
	parallel.Each(count, func(k int) {
		if ctx.Err() != nil {
			return
		}
		random := rand.New(rand.NewPCG(seed, uint64(k)))
		rows := make([]int, d.Rows)
		for i := range rows {
			at, _ := slices.BinarySearch(cumulated, random.Float64()*sum)
			rows[i] = min(at, d.Rows-1)
		}
		slices.Sort(rows)
		t := countsTree{{}}
		(&sower{bins: bins, y: d.Y, classes: d.Classes, least: least, random: random}).grow(&t, 0, rows)
		m.Trees[k] = t
	})
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("models: fit: %w", err)
	}
	if f.Progress != nil {
		f.Progress(count, count)
	}
	return m, nil
}

// sower grows one tree.
type sower struct {
	bins    *binned
	y       []int
	classes int
	least   int
	random  *rand.Rand
}

func (s *sower) grow(t *countsTree, at int32, rows []int) {
	counts := make([]int, s.classes)
	for _, i := range rows {
		counts[s.y[i]]++
	}
	feature, bin, ok := s.best(rows, counts)
	if !ok {
		(*t)[at] = countsNode{Counts: counts}
		return
	}
	column := s.bins.column[feature]
	var left, right []int
	for _, i := range rows {
		if column[i] <= bin {
			left = append(left, i)
		} else {
			right = append(right, i)
		}
	}
	a := int32(len(*t))
	(*t)[at] = countsNode{Limit: s.bins.limits[feature][bin], Feature: int32(feature), Left: a, Right: a + 1}
	*t = append(*t, countsNode{}, countsNode{})
	s.grow(t, a, left)
	s.grow(t, a+1, right)
}

// best looks at as many features as the square root of their number, and at more
// while none of them parts the rows.
func (s *sower) best(rows, counts []int) (feature int, bin uint8, ok bool) {
	if len(rows) < 2*s.least || slices.Contains(counts, len(rows)) {
		return 0, 0, false
	}
	n := len(s.bins.column)
	wanted := max(1, int(math.Sqrt(float64(n))))
	least := math.Inf(1)
	cells := make([]int, binsPerFeature*s.classes)
	for tried, f := range s.random.Perm(n) {
		if tried >= wanted && ok {
			break
		}
		limits := s.bins.limits[f]
		if len(limits) == 0 {
			continue
		}
		used := cells[:(len(limits)+1)*s.classes]
		clear(used)
		column := s.bins.column[f]
		for _, i := range rows {
			used[int(column[i])*s.classes+s.y[i]]++
		}
		left := make([]int, s.classes)
		on := 0
		for b := range limits {
			here := 0
			for k := range s.classes {
				c := used[b*s.classes+k]
				left[k] += c
				here += c
			}
			on += here
			if here == 0 || on < s.least || len(rows)-on < s.least {
				continue
			}
			// Gini's impurity, times the rows: what is left of the squares' sums.
			var a, r float64
			for k, c := range left {
				a += float64(c) * float64(c)
				o := float64(counts[k] - c)
				r += o * o
			}
			impurity := -a/float64(on) - r/float64(len(rows)-on)
			if impurity < least-1e-12 {
				least, feature, bin, ok = impurity, f, uint8(b), true
			}
		}
	}
	return feature, bin, ok
}

// Nodes are the trees as golearn holds them, over these attributes: the features',
// and their indicators'. A golearn tree sends values above SplitVal to child "1".
func (m *Grown) Nodes(attributes []base.Attribute, class base.Attribute) []*trees.DecisionTreeNode {
	out := make([]*trees.DecisionTreeNode, len(m.Trees))
	for i, t := range m.Trees {
		out[i] = t.node(0, attributes, class)
	}
	return out
}

func (t countsTree) node(at int32, attributes []base.Attribute, class base.Attribute) *trees.DecisionTreeNode {
	n := t[at]
	if n.Left == 0 {
		dist, top := map[string]int{}, 0
		for k, c := range n.Counts {
			if c > 0 {
				dist[strconv.Itoa(k)] = c
			}
			if c > n.Counts[top] {
				top = k
			}
		}
		return &trees.DecisionTreeNode{Type: trees.LeafNode, ClassDist: dist, Class: strconv.Itoa(top), ClassAttr: class, SplitRule: &trees.DecisionTreeRule{}}
	}
	return &trees.DecisionTreeNode{
		Type: trees.RuleNode, ClassAttr: class,
		SplitRule: &trees.DecisionTreeRule{SplitAttr: attributes[n.Feature], SplitVal: n.Limit},
		Children: map[string]*trees.DecisionTreeNode{
			"0": t.node(n.Left, attributes, class), "1": t.node(n.Right, attributes, class)},
	}
}
