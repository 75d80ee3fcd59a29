package main

import (
	"cmp"
	"maps"
	"math"
	"slices"
)

// profile weighs what a detector does, as config/profiles.json of NAB does.
type profile struct {
	name       string
	tp, fn, fp float64
}

var profiles = []profile{
	{"standard", 1, 1, 0.11},
	{"reward low FP rate", 1, 1, 0.22},
	{"reward low FN rate", 1, 2, 0.11},
}

// row is a scored row of a file: what a detection at it is worth, and the window
// that it is in, -1 for none.
type row struct {
	score  float64
	window int
	worth  float64
}

// sigmoid is NAB's: 1 far ahead of a window's end, 0 at it, -1 beyond three widths.
func sigmoid(position float64) float64 {
	if position > 3 {
		return -1
	}
	return 2/(1+math.Exp(5*position)) - 1
}

// probation is how many rows at a file's beginning are not scored.
func probation(rows int) int { return int(0.15 * float64(min(rows, 5000))) }

// worths says what a detection at each row is worth (Lavin and Ahmad 2015): in a
// window, by how far ahead of its end it is, 1 at its first row; after one, ever
// more of a false positive's weight; before the first, all of it. Rows on
// probation are left out, and with them windows that end there.
func worths(s *series, scores []float64, p profile) []row {
	var out []row
	current, next := -1, 0
	right, width := -1, 0 // of the last window that ended
	for i := range s.values {
		if next < len(s.windows) && i == s.windows[next].first {
			current, next = next, next+1
		}
		r := row{score: scores[i], window: current}
		if current >= 0 {
			w := s.windows[current]
			n := float64(w.last - w.first + 1)
			r.worth = sigmoid(-float64(w.last-i+1)/n) * p.tp / sigmoid(-1)
		} else {
			r.worth = -p.fp
			if right >= 0 {
				r.worth = p.fp * sigmoid(float64(i-right)/float64(width-1))
			}
		}
		if i >= probation(len(s.values)) {
			out = append(out, r)
		}
		if current >= 0 && i == s.windows[current].last {
			right, width, current = i, s.windows[current].last-s.windows[current].first+1, -1
		}
	}
	return out
}

// total is a file's raw score at a threshold: the best detection of each window,
// or what missing it costs, and the sum of those outside.
func total(rows []row, threshold float64, p profile) float64 {
	sum, best := 0.0, map[int]float64{}
	for _, r := range rows {
		if r.window >= 0 {
			if _, ok := best[r.window]; !ok {
				best[r.window] = -p.fn
			}
		}
		if !(r.score >= threshold) {
			continue
		}
		if r.window < 0 {
			sum += r.worth
		} else {
			best[r.window] = max(best[r.window], r.worth)
		}
	}
	for _, w := range slices.Sorted(maps.Keys(best)) {
		sum += best[w]
	}
	return sum
}

// optimum is the threshold at which the files together score highest, as NAB's
// optimiser finds it: by going down all scores. Of equals, the higher.
func optimum(files [][]row, p profile) (threshold, score float64) {
	type mark struct {
		row
		file int
	}
	var all []mark
	best := map[[2]int]float64{}
	for f, rows := range files {
		for _, r := range rows {
			all = append(all, mark{r, f})
			if r.window >= 0 {
				best[[2]int{f, r.window}] = -p.fn
			}
		}
	}
	slices.SortStableFunc(all, func(a, b mark) int { return cmp.Compare(b.score, a.score) })
	now := -p.fn * float64(len(best))
	threshold, score = math.Inf(1), now
	for i, m := range all {
		if m.window < 0 {
			now += m.worth
		} else if at := [2]int{m.file, m.window}; m.worth > best[at] {
			now += m.worth - best[at]
			best[at] = m.worth
		}
		if (i+1 == len(all) || all[i+1].score < m.score) && now > score {
			threshold, score = m.score, now
		}
	}
	return threshold, score
}

// normalised is a raw score on NAB's scale: 0 for a detector that says nothing,
// 100 for one that says all at the first row of each window.
func normalised(raw float64, windows int, p profile) float64 {
	null, perfect := -p.fn*float64(windows), p.tp*float64(windows)
	return 100 * (raw - null) / (perfect - null)
}
