package store

import (
	"cmp"
	"slices"

	"github.com/dhalion-go/dhalion/ingest/segment"
)

// entry is what compaction knows of a segment without its bytes.
type entry struct {
	input    int64
	hash     string
	seq      int64
	from, to int64 // µs since 1970 UTC, both inclusive
	rows     int
	values   int
	size     int64 // bytes
	filled   bool
}

// cells is about how much of segment.MaxCells it takes. It is too little where
// many values are unknown.
func (e *entry) cells() int { return e.values + 2*e.rows }

// fan is how many segments of one size class are merged into one of the next. A
// value is rewritten once a class, so log 16 (MaxCells / cells of a poll) times,
// and a read finds at most 15 segments of each class.
const fan = 16

// crowd is how many small segments of one kind and day are too many, whatever
// merging them costs: late data scattered between large segments.
const crowd = 256

// The classes by size: 0 from a thirty-second of a full segment on, then each 16
// times smaller. A segment of at least half the size is large, and in no class.
func (e *entry) class() int {
	c := 0
	for n := max(1, e.cells()) * 2 * fan; n < segment.MaxCells; n *= fan {
		c++
	}
	return c
}

func (e *entry) large() bool { return e.filled || 2*e.cells() >= segment.MaxCells }

// A value at (target, metric, time) is settled by the greatest sequence number,
// and among equal ones by the greater value. Segments that are merged get the
// greatest number among them, so merging lifts the others up to it. That changes
// nothing as long as no segment that stays outside and may share a time with one
// of them has a number that is passed on the way: not above its own and at or
// below the greatest, and not equal to its own unless that is the greatest.
//
// What commits while a compaction runs is no concern: its number is greater than
// all (see inputs in the first migration).

// mergeable reports whether the entries of list that in marks may become one.
func mergeable(list []entry, in []bool) bool {
	top, from, to := int64(0), int64(0), int64(0)
	first := true
	for i, e := range list {
		if !in[i] {
			continue
		}
		if first {
			from, to, first = e.from, e.to, false
		}
		top, from, to = max(top, e.seq), min(from, e.from), max(to, e.to)
	}
	for i, x := range list {
		if in[i] || x.to < from || x.from > to || x.seq > top {
			continue
		}
		for k, e := range list {
			if !in[k] || x.to < e.from || x.from > e.to {
				continue
			}
			if x.seq > e.seq || x.seq == e.seq && e.seq != top {
				return false
			}
		}
	}
	return true
}

// cluster is list[start:end], which overlap in time, if only through others, and
// overlap nothing else.
type cluster struct {
	start, end int
	cells      int
}

// sortEntries puts entries in order of time.
func sortEntries(list []entry) {
	slices.SortFunc(list, func(a, b entry) int {
		return cmp.Or(cmp.Compare(a.from, b.from), cmp.Compare(a.to, b.to), cmp.Compare(a.seq, b.seq), cmp.Compare(a.hash, b.hash))
	})
}

func clusters(list []entry) []cluster {
	var out []cluster
	var until int64
	for i, e := range list {
		if n := len(out); n == 0 || e.from > until {
			out = append(out, cluster{start: i})
			until = e.to
		}
		c := &out[len(out)-1]
		c.end = i + 1
		c.cells += e.cells()
		until = max(until, e.to)
	}
	return out
}

// settled reports whether a cluster needs no merging: it is one segment, or one
// instant of one input that alone is too large for one, cut by target.
func (c cluster) settled(list []entry) bool {
	open := 0
	first := list[c.start]
	for _, e := range list[c.start:c.end] {
		if e.input != first.input || e.from != first.from || e.to != first.from {
			return c.end-c.start == 1
		}
		if !e.filled {
			open++
		}
	}
	return c.end-c.start == 1 || open <= 1
}

// planAll is the next segments to merge until none overlap and no two
// neighbours fit into one; nil when that is so. The list is of one job, kind and
// day, and in order of time.
func planAll(list []entry) []entry {
	start, end, cells := 0, 0, 0 // list[start:end] is gathered
	worth := func() bool { return end-start > 1 }
	for _, c := range clusters(list) {
		lone := c.settled(list)
		full := lone && (c.end-c.start > 1 || list[c.start].filled || 4*c.cells >= 3*segment.MaxCells)
		if end > start && (full || cells+c.cells > segment.MaxCells) {
			if worth() {
				return list[start:end]
			}
			end = start
		}
		if full {
			continue
		}
		if end == start {
			start, cells = c.start, 0
		}
		end = c.end
		cells += c.cells
		if cells >= segment.MaxCells && worth() {
			return list[start:end]
		}
	}
	if worth() {
		return list[start:end]
	}
	return nil
}

// planSome is the next segments that are worth merging now: fan of one size
// class, or large ones under as much late data as half of the largest; nil when
// there are none. The list is as for planAll.
func planSome(list []entry) []entry {
	if len(list) < 2 {
		return nil
	}
	small, deepest := 0, -1
	for i := range list {
		if e := &list[i]; !e.large() {
			small++
			deepest = max(deepest, e.class())
		}
	}
	for class := deepest; class >= 0 && small >= fan/2; class-- {
		for start := 0; start < len(list); {
			// Smaller ones between them come along, but are no reason to rewrite larger
			// ones.
			end, cells, n := start, 0, 0
			for end < len(list) && !list[end].large() && list[end].class() >= class && (end == start || cells+list[end].cells() <= segment.MaxCells) {
				if list[end].class() == class {
					n++
				}
				cells += list[end].cells()
				end++
			}
			if n >= fan || end-start > 1 && 4*cells >= 3*segment.MaxCells {
				in := make([]bool, len(list))
				for i := start; i < end; i++ {
					in[i] = true
				}
				if mergeable(list, in) {
					return list[start:end]
				}
			}
			start = max(end, start+1)
		}
	}
	for _, c := range clusters(list) {
		if c.settled(list) || 2*c.cells < segment.MaxCells {
			continue
		}
		largest := 0
		for i := c.start; i < c.end; i++ {
			largest = max(largest, list[i].cells())
		}
		if 3*largest <= 2*c.cells {
			return list[c.start:c.end]
		}
	}
	if small >= crowd {
		return planAll(list)
	}
	return nil
}
