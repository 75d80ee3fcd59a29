package models

import "math"

// grower grows one tree after the other on the same binned rows.
type grower struct {
	bins     *binned
	set      Booster
	gradient []float32
	hessian  []float32

	rows, spare []uint32  // rows by leaf
	ordered     []float32 // gradients and hessians of one leaf's rows, in their order
	pool        []*histogram
}

// cell is what a bin of a feature holds.
type cell struct {
	g, h float64
	n    uint32
}

// histogram has the bins of every feature; the last of each is the unknown.
type histogram struct{ cells []cell }

const binsPerFeature = maxBins + 1

// leaf is a node that may still be split.
type leaf struct {
	node   int32
	lo, hi int // in rows
	depth  int
	g, h   float64
	hist   *histogram
	best   split
}

type split struct {
	gain        float64
	feature     int
	bin         uint8
	missingLeft bool
	left        cell // sums of the left side
}

func newGrower(b *binned, s Booster) *grower {
	return &grower{bins: b, set: s, gradient: make([]float32, b.rows), hessian: make([]float32, b.rows),
		rows: make([]uint32, b.rows), spare: make([]uint32, b.rows), ordered: make([]float32, 2*b.rows)}
}

func (g *grower) take() *histogram {
	if n := len(g.pool); n > 0 {
		h := g.pool[n-1]
		g.pool = g.pool[:n-1]
		return h
	}
	return &histogram{make([]cell, len(g.bins.column)*binsPerFeature)}
}

func (g *grower) give(h *histogram) { g.pool = append(g.pool, h) }

// grow grows a tree on some rows and features, and adds its values to the scores of
// all rows.
func (g *grower) grow(rows []uint32, columns []int, scores []float64) tree {
	n := copy(g.rows, rows)
	t := tree{{}}
	root := &leaf{hi: n}
	for _, i := range rows {
		root.g += float64(g.gradient[i])
		root.h += float64(g.hessian[i])
	}
	root.hist = g.take()
	g.fill(root, columns)
	g.search(root, columns)
	leaves := []*leaf{root}
	for len(leaves) < g.set.Leaves {
		at := -1
		for i, l := range leaves {
			if l.best.gain > g.set.Gain && (at < 0 || l.best.gain > leaves[at].best.gain) {
				at = i
			}
		}
		if at < 0 {
			break
		}
		left, right := g.split(leaves[at], &t)
		if g.wants(left) || g.wants(right) {
			// The smaller child's rows are counted, the greater's are what remains.
			small, great := left, right
			if right.hi-right.lo < left.hi-left.lo {
				small, great = right, left
			}
			small.hist, great.hist = g.take(), leaves[at].hist
			g.fill(small, columns)
			for _, f := range columns {
				a, b := great.hist.of(f), small.hist.of(f)
				for k := range a {
					a[k].g -= b[k].g
					a[k].h -= b[k].h
					a[k].n -= b[k].n
				}
			}
			g.search(left, columns)
			g.search(right, columns)
		} else {
			g.give(leaves[at].hist)
		}
		leaves[at] = left
		leaves = append(leaves, right)
	}
	for _, l := range leaves {
		v := -l.g / (l.h + g.set.L2) * g.set.Rate
		if math.IsNaN(v) {
			v = 0 // neither weight nor penalty
		}
		t[l.node].Value = v
		for _, i := range g.rows[l.lo:l.hi] {
			scores[i] += v
		}
		if l.hist != nil {
			g.give(l.hist)
		}
	}
	if n < g.bins.rows {
		g.rest(rows, t, scores)
	}
	return t
}

// rest adds a tree's values to the scores of the rows that it was not grown on.
func (g *grower) rest(rows []uint32, t tree, scores []float64) {
	next := 0
	for i := range scores {
		if next < len(rows) && rows[next] == uint32(i) {
			next++
			continue
		}
		at := int32(0)
		for t[at].Left != 0 {
			n := t[at]
			b := g.bins.column[n.Feature][i]
			if b == missing && n.MissingLeft || b != missing && b <= binOf(g.bins.limits[n.Feature], n.Limit) {
				at = n.Left
			} else {
				at = n.Right
			}
		}
		scores[i] += t[at].Value
	}
}

func (h *histogram) of(feature int) []cell {
	return h.cells[feature*binsPerFeature : (feature+1)*binsPerFeature]
}

// wants says that a leaf may be split again.
func (g *grower) wants(l *leaf) bool {
	return l.hi-l.lo >= 2*g.set.Least && (g.set.Depth == 0 || l.depth < g.set.Depth)
}

// fill counts a leaf's rows into its histogram.
func (g *grower) fill(l *leaf, columns []int) {
	rows := g.rows[l.lo:l.hi]
	ordered := g.ordered[:2*len(rows)]
	for k, i := range rows {
		ordered[2*k], ordered[2*k+1] = g.gradient[i], g.hessian[i]
	}
	count := func(f int) {
		cells := (*[binsPerFeature]cell)(l.hist.of(f))
		clear(cells[:])
		column := g.bins.column[f]
		for k, i := range rows {
			c := &cells[column[i]]
			c.g += float64(ordered[2*k])
			c.h += float64(ordered[2*k+1])
			c.n++
		}
	}
	for _, f := range columns {
		count(f)
	}
}

// search finds the split of a leaf that gains most; of equal ones the first feature
// and the lowest limit.
func (g *grower) search(l *leaf, columns []int) {
	l.best = split{}
	if !g.wants(l) {
		return
	}
	whole := cell{l.g, l.h, uint32(l.hi - l.lo)}
	before := g.worth(l.g, l.h)
	least := uint32(g.set.Least)
	for _, f := range columns {
		cells := l.hist.of(f)
		limits := len(g.bins.limits[f])
		unknown := cells[missing]
		try := func(left cell, bin int, missingLeft bool) {
			if left.n < least || whole.n-left.n < least || left.h < 1e-3 || whole.h-left.h < 1e-3 {
				return
			}
			gain := g.worth(left.g, left.h) + g.worth(whole.g-left.g, whole.h-left.h) - before
			if gain > l.best.gain {
				l.best = split{gain, f, uint8(bin), missingLeft, left}
			}
		}
		var sum cell
		for k := range limits {
			if cells[k].n == 0 && k > 0 {
				continue // parts the rows as the limit before it does
			}
			sum.g += cells[k].g
			sum.h += cells[k].h
			sum.n += cells[k].n
			try(sum, k, false)
			if unknown.n > 0 {
				try(cell{sum.g + unknown.g, sum.h + unknown.h, sum.n + unknown.n}, k, true)
			}
		}
		if unknown.n > 0 {
			// The known to one side, the unknown to the other.
			k := limits
			sum.g += cells[k].g
			sum.h += cells[k].h
			sum.n += cells[k].n
			try(sum, k, false)
		}
	}
}

func (g *grower) worth(gradient, hessian float64) float64 {
	return gradient * gradient / (hessian + g.set.L2)
}

// split parts a leaf's rows, which keep their order, and its node.
func (g *grower) split(l *leaf, t *tree) (left, right *leaf) {
	s := l.best
	column := g.bins.column[s.feature]
	rows := g.rows[l.lo:l.hi]
	at, other := 0, 0
	for _, i := range rows {
		b := column[i]
		if b == missing && s.missingLeft || b != missing && b <= s.bin {
			rows[at] = i
			at++
		} else {
			g.spare[other] = i
			other++
		}
	}
	copy(rows[at:], g.spare[:other])
	a, b := int32(len(*t)), int32(len(*t)+1)
	limit := math.MaxFloat64
	if int(s.bin) < len(g.bins.limits[s.feature]) {
		limit = g.bins.limits[s.feature][s.bin]
	}
	(*t)[l.node] = node{Limit: limit, Feature: int32(s.feature), Left: a, Right: b, MissingLeft: s.missingLeft}
	*t = append(*t, node{}, node{})
	left = &leaf{node: a, lo: l.lo, hi: l.lo + at, depth: l.depth + 1, g: s.left.g, h: s.left.h}
	right = &leaf{node: b, lo: l.lo + at, hi: l.hi, depth: l.depth + 1, g: l.g - s.left.g, h: l.h - s.left.h}
	return left, right
}
