package segment

import (
	"cmp"
	"fmt"
	"math"
	"runtime"
	"slices"
	"sync"

	"github.com/dhalion-go/dhalion"
)

// Layer is a table with the sequence number of the ingest that it came from.
type Layer struct {
	Table *Table
	Seq   int64
}

// Merge lays the tables of one job and kind over one another. For each
// (target, metric, time) the value of the greatest Seq is kept; of several with
// that Seq the greatest value, and when they differ it is one conflict. A row's
// worker is settled likewise, by name. Unknown never erases known. The order of
// the layers does not matter. The result may share its columns with a layer.
func Merge(layers []Layer) (t *Table, conflicts int, err error) {
	if len(layers) == 0 {
		return nil, 0, fmt.Errorf("segment: merge: no tables")
	}
	first := layers[0].Table
	for _, l := range layers[1:] {
		if l.Table.job != first.job || l.Table.kind != first.kind {
			return nil, 0, fmt.Errorf("segment: merge: a %s table of %s with a %s table of %s", first.kind, first.job, l.Table.kind, l.Table.job)
		}
	}
	if len(layers) == 1 {
		return first.tidy(), 0, nil
	}
	m := newMerger(layers)
	m.plan()
	return m.build().tidy(), m.conflicts, nil
}

// merger builds the rows in two steps: it decides once which rows of which
// layers become which row, then fills one column after the other, which is what
// memory likes. Most rows come in blocks from one layer alone, since segments
// mostly follow one another in time; only rows in several layers are compared.
type merger struct {
	layers    []Layer // the greatest Seq first
	out       *Table
	blocks    []block
	shared    []sharedRows
	rows      []layerRow // what the shared rows refer to
	conflicts int
}

// block is rows that one layer alone has.
type block struct {
	layer, from int // first row in the layer
	to, n       int // first row in the result, and how many
}

// sharedRows are n rows of the result that the same layers have: those of
// merger.rows[start:end], the greatest Seq first, which name the first of the n.
type sharedRows struct{ to, n, start, end int }

type layerRow struct{ layer, row int }

func newMerger(layers []Layer) *merger {
	m := &merger{layers: slices.Clone(layers)}
	slices.SortStableFunc(m.layers, func(a, b Layer) int { return cmp.Compare(b.Seq, a.Seq) })
	return m
}

// part is a layer's rows of one target that are not yet planned.
type part struct {
	layer      int
	start, end int
}

// plan decides where each row comes from.
func (m *merger) plan() {
	first := m.layers[0].Table
	m.out = &Table{job: first.job, kind: first.kind}
	rows := 0
	for _, l := range m.layers {
		rows += l.Table.Rows()
	}
	m.out.times = make([]int64, 0, rows)

	next := make([]int, len(m.layers)) // the next span of each layer
	var parts []part
	for {
		// The least target of all layers, and the layers that have it. A binary
		// heap would save comparisons only for far more layers than a window has.
		parts = parts[:0]
		var target dhalion.Target
		for i, l := range m.layers {
			if next[i] == len(l.Table.spans) {
				continue
			}
			s := l.Table.spans[next[i]]
			order := -1
			if len(parts) > 0 {
				order = s.Target.Compare(target)
			}
			if order < 0 {
				parts, target = parts[:0], s.Target
			}
			if order <= 0 {
				parts = append(parts, part{i, s.Start, s.End})
			}
		}
		if len(parts) == 0 {
			return
		}
		for _, p := range parts {
			next[p.layer]++
		}
		start := len(m.out.times)
		m.planTarget(parts)
		m.out.spans = append(m.out.spans, Span{target, start, len(m.out.times)})
	}
}

// planTarget puts one target's rows in order of time. Parts that follow one
// another are taken whole; only those that overlap are interleaved.
func (m *merger) planTarget(parts []part) {
	slices.SortFunc(parts, func(a, b part) int {
		return cmp.Or(cmp.Compare(m.begin(a), m.begin(b)), cmp.Compare(a.layer, b.layer))
	})
	for len(parts) > 0 {
		n, last := 1, m.end(parts[0])
		for n < len(parts) && m.begin(parts[n]) <= last {
			last = max(last, m.end(parts[n]))
			n++
		}
		m.interleave(parts[:n:n])
		parts = parts[n:]
	}
}

func (m *merger) begin(p part) int64 { return m.layers[p.layer].Table.times[p.start] }
func (m *merger) end(p part) int64   { return m.layers[p.layer].Table.times[p.end-1] }

// interleave puts overlapping parts in order of time.
func (m *merger) interleave(parts []part) {
	times := func(p part) []int64 { return m.layers[p.layer].Table.times }
	for len(parts) > 0 {
		// The part that is next, and the time at which another one begins.
		least := 0
		for i, p := range parts {
			if times(p)[p.start] < times(parts[least])[parts[least].start] {
				least = i
			}
		}
		p := &parts[least]
		at := times(*p)[p.start]
		same := 0
		until, bounded := int64(0), false
		for i, q := range parts {
			switch begin := times(q)[q.start]; {
			case i == least:
			case begin == at:
				same++
			case !bounded || begin < until:
				until, bounded = begin, true
			}
		}
		if same > 0 {
			// Metrics that came one after the other, or a file that came twice, have
			// long stretches of equal times.
			n := commonTimes(parts, times, at, until, bounded)
			start := len(m.rows)
			to := len(m.out.times)
			m.out.times = append(m.out.times, times(*p)[p.start:p.start+n]...)
			for i := range parts {
				if q := &parts[i]; times(*q)[q.start] == at {
					m.rows = append(m.rows, layerRow{q.layer, q.start})
					q.start += n
				}
			}
			// The layers are in order of Seq, so their numbers are.
			slices.SortFunc(m.rows[start:], func(a, b layerRow) int { return cmp.Compare(a.layer, b.layer) })
			m.shared = append(m.shared, sharedRows{to, n, start, len(m.rows)})
		} else {
			own := times(*p)[p.start:p.end]
			n := len(own)
			if bounded && own[n-1] >= until {
				n, _ = slices.BinarySearch(own, until)
			}
			m.blocks = append(m.blocks, block{p.layer, p.start, len(m.out.times), n})
			m.out.times = append(m.out.times, own[:n]...)
			p.start += n
		}
		parts = slices.DeleteFunc(parts, func(q part) bool { return q.start == q.end })
	}
}

// commonTimes is how many times those parts that begin at a time have in common
// from there on, before another part begins.
func commonTimes(parts []part, times func(part) []int64, at, until int64, bounded bool) int {
	var common []int64
	for _, q := range parts {
		own := times(q)[q.start:q.end]
		if own[0] != at {
			continue
		}
		if common == nil {
			common = own
			continue
		}
		n := min(len(common), len(own))
		for i := range n {
			if common[i] != own[i] {
				n = i
				break
			}
		}
		common = common[:n]
	}
	if n := len(common); bounded && common[n-1] >= until {
		n, _ = slices.BinarySearch(common, until)
		return n
	}
	return len(common)
}

// build fills the columns.
func (m *merger) build() *Table {
	rows := len(m.out.times)
	for _, l := range m.layers {
		m.out.metrics = append(m.out.metrics, l.Table.metrics...)
	}
	slices.Sort(m.out.metrics)
	m.out.metrics = slices.Compact(m.out.metrics)
	m.out.columns = make([][]float64, len(m.out.metrics))
	conflicts := make([]int, len(m.out.metrics))
	fill := func(k int) {
		from := make([][]float64, len(m.layers))
		for i, l := range m.layers {
			from[i] = l.Table.Values(m.out.metrics[k])
		}
		m.out.columns[k], conflicts[k] = m.column(from, rows)
	}
	// Columns have nothing to do with one another, and most of the time is the
	// memory's. A small table is done before a goroutine would have begun.
	workers := min(runtime.GOMAXPROCS(0), len(m.out.metrics), rows*len(m.out.metrics)/MaxCells+1)
	var all sync.WaitGroup
	for w := range workers {
		all.Go(func() {
			for k := w; k < len(m.out.metrics); k += workers {
				fill(k)
			}
		})
	}
	all.Wait()
	for _, n := range conflicts {
		m.conflicts += n
	}
	m.placeWorkers(rows)
	return m.out
}

// column fills one metric's; conflicts counts the rows on which values of one Seq
// differ.
func (m *merger) column(from [][]float64, rows int) (column []float64, conflicts int) {
	column = make([]float64, rows)
	for _, b := range m.blocks {
		if values := from[b.layer]; values != nil {
			copy(column[b.to:b.to+b.n], values[b.from:b.from+b.n])
		} else {
			fillUnknown(column[b.to : b.to+b.n])
		}
	}
	var have []layerRow
	for _, rows := range m.shared {
		have = have[:0]
		for _, r := range m.rows[rows.start:rows.end] {
			if from[r.layer] != nil {
				have = append(have, r)
			}
		}
		into := column[rows.to : rows.to+rows.n]
		switch len(have) {
		case 0:
			fillUnknown(into)
		case 1:
			copy(into, from[have[0].layer][have[0].row:])
		default:
			for i := range into {
				v, differ := m.settle(from, have, i)
				into[i] = v
				if differ {
					conflicts++
				}
			}
		}
	}
	return column, conflicts
}

// settle chooses among the values of the i-th of some shared rows.
func (m *merger) settle(from [][]float64, have []layerRow, i int) (kept float64, differ bool) {
	kept = math.NaN()
	var seq int64
	for _, r := range have {
		v := from[r.layer][r.row+i]
		if v != v {
			continue
		}
		if kept != kept {
			kept, seq = v, m.layers[r.layer].Seq
			continue
		}
		if m.layers[r.layer].Seq != seq {
			break
		}
		differ = differ || v != kept
		kept = max(kept, v)
	}
	return kept, differ
}

// placeWorkers settles where the rows' instances ran.
func (m *merger) placeWorkers(rows int) {
	number := map[string]int32{"": 0}
	names := []string{""}
	ours := make([][]int32, len(m.layers)) // a layer's number of a name to the result's
	for i, l := range m.layers {
		for _, name := range l.Table.names {
			n, ok := number[name]
			if !ok {
				n = int32(len(names))
				number[name] = n
				names = append(names, name)
			}
			ours[i] = append(ours[i], n)
		}
	}
	if len(names) == 1 {
		return
	}
	m.out.names = names
	m.out.workers = make([]int32, rows)
	for _, b := range m.blocks {
		workers := m.layers[b.layer].Table.workers
		if workers == nil {
			continue
		}
		for i, w := range workers[b.from : b.from+b.n] {
			m.out.workers[b.to+i] = ours[b.layer][w]
		}
	}
	var have []layerRow
	for _, rows := range m.shared {
		have = have[:0]
		for _, r := range m.rows[rows.start:rows.end] {
			if m.layers[r.layer].Table.workers != nil {
				have = append(have, r)
			}
		}
		for i := range rows.n {
			m.out.workers[rows.to+i] = m.settleWorker(ours, have, i)
		}
	}
}

// settleWorker chooses among the workers of the i-th of some shared rows.
func (m *merger) settleWorker(ours [][]int32, have []layerRow, i int) (kept int32) {
	var seq int64
	differ := false
	for _, r := range have {
		l := m.layers[r.layer]
		w := l.Table.workers[r.row+i]
		if w == 0 {
			continue
		}
		w = ours[r.layer][w]
		if kept != 0 && l.Seq != seq {
			break
		}
		if kept == 0 {
			kept, seq = w, l.Seq
		}
		differ = differ || w != kept
		if m.out.names[kept] < m.out.names[w] {
			kept = w
		}
	}
	if differ {
		m.conflicts++
	}
	return kept
}
