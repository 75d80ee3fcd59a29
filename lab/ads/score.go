package main

import (
	"cmp"
	"math"
	"slices"
)

const (
	early  = -5  // seconds from a fault's start within which an alarm is a hit
	late   = 240 //
	merged = 300 // seconds for which an alarm swallows those after it
)

// tally counts faults found and missed, and alarms that are of no fault.
type tally struct{ hit, missed, falsely int }

func (t tally) add(o tally) tally {
	return tally{t.hit + o.hit, t.missed + o.missed, t.falsely + o.falsely}
}

func (t tally) precision() float64 { return share(t.hit, t.hit+t.falsely) }
func (t tally) recall() float64    { return share(t.hit, t.hit+t.missed) }

// f1 is 2·hits/(2·hits + missed + false).
func (t tally) f1() float64 { return share(2*t.hit, 2*t.hit+t.missed+t.falsely) }

func share(k, n int) float64 {
	if n == 0 {
		return math.NaN()
	}
	return float64(k) / float64(n)
}

// merge keeps the first of alarms that are less than merged seconds apart from it.
func merge(alarms []alarm) []alarm {
	var out []alarm
	for _, a := range alarms {
		if len(out) == 0 || a.at-out[len(out)-1].at >= merged {
			out = append(out, a)
		}
	}
	return out
}

// judge matches merged alarms, in order, to the faults of a run: an alarm of a
// fault found before is false, and so is one about nothing.
func judge(faults []int, alarms []alarm) (t tally, found []alarm, of []int) {
	taken := make([]bool, len(faults))
	for _, a := range merge(alarms) {
		i := slices.IndexFunc(faults, func(f int) bool { return a.at-f >= early && a.at-f <= late })
		if i < 0 || taken[i] {
			t.falsely++
			continue
		}
		taken[i] = true
		t.hit++
		found, of = append(found, a), append(of, faults[i])
	}
	t.missed = len(faults) - t.hit
	return t, found, of
}

// isFault says whether a loss is the effect of a labelled fault.
func isFault(r *run, e event) bool {
	return slices.ContainsFunc(r.faults, func(f int) bool { return e.at-f >= early && e.at-f <= 60 })
}

// wilson is the 95 % interval of a share of k in n.
func wilson(k, n int) (low, high float64) {
	if n == 0 {
		return 0, 1
	}
	const z = 1.959964
	p, m := float64(k)/float64(n), float64(n)
	middle := (p + z*z/(2*m)) / (1 + z*z/m)
	half := z * math.Sqrt(p*(1-p)/m+z*z/(4*m*m)) / (1 + z*z/m)
	return middle - half, middle + half
}

// median of whole seconds; the lower of two.
func median(v []int) int {
	if len(v) == 0 {
		return 0
	}
	s := slices.SortedFunc(slices.Values(v), cmp.Compare)
	return s[(len(s)-1)/2]
}
