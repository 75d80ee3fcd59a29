package main

import (
	"math"
	"testing"
	"time"
)

func labelled(incident, cause, vertex, subtask, worker string, start, end int) label {
	at := func(s int) time.Time { return time.Date(2026, 11, 23, 8, 0, s, 0, time.UTC) }
	return label{incident: incident, cause: cause, vertex: vertex, subtask: subtask, worker: worker, start: at(start), end: at(end)}
}

func found(cause, component string, instance int, p float64) diagnosis {
	d := diagnosis{Cause: cause, Probability: p, Target: target{Component: component}}
	if instance >= 0 {
		d.Target.Instance = &instance
	}
	return d
}

func TestRowsOfOneIncidentAreOneIncident(t *testing.T) {
	all := incidents([]label{
		labelled("b", "slow_instance", "counter", "3", "", 30, 40),
		labelled("a", "underprovisioned", "counter", "", "", 10, 20),
		labelled("a", "underprovisioned", "sink", "", "", 12, 18),
	})
	if len(all) != 2 || all[0].id != "a" || all[1].id != "b" {
		t.Fatalf("incidents: %+v", all)
	}
	// Asked before the first fault ends; quiet again only after the last.
	if a := all[0]; a.start.Second() != 10 || a.end.Second() != 18 || a.last.Second() != 20 {
		t.Errorf("incident a is from %v to %v, the last to %v", a.start, a.end, a.last)
	}
}

func TestAnOverloadIsFoundAtAnyComponentThatItIsTooMuchFor(t *testing.T) {
	in := incidents([]label{labelled("a", "underprovisioned", "counter", "", "", 10, 20), labelled("a", "underprovisioned", "sink", "", "", 10, 20)})[0]
	for _, c := range []struct {
		found []diagnosis
		right bool
	}{
		{[]diagnosis{found("underprovisioned", "sink", -1, .9), found("slow_instance", "counter", 1, .4)}, true},
		{[]diagnosis{found("underprovisioned", "splitter", -1, .9), found("underprovisioned", "sink", -1, .8)}, false},
		{[]diagnosis{found("slow_instance", "counter", 1, .9), found("underprovisioned", "sink", -1, .8)}, false},
		{nil, false},
	} {
		if got := in.right(c.found); got != c.right {
			t.Errorf("%v: right is %v", c.found, got)
		}
	}
}

func TestEveryCauseOfACompoundMustStandAboveTheRest(t *testing.T) {
	in := incidents([]label{labelled("a", "slow_instance", "counter", "3", "", 10, 20), labelled("a", "sink_limited", "sink", "", "", 10, 20)})[0]
	both := []diagnosis{found("slow_instance", "counter", 3, .8), found("sink_limited", "sink", -1, .6)}
	for name, c := range map[string]struct {
		found []diagnosis
		right bool
	}{
		"both":                 {both, true},
		"one below a half":     {[]diagnosis{both[0], found("sink_limited", "sink", -1, .49)}, false},
		"another in between":   {append([]diagnosis{found("data_skew", "counter", 1, .7)}, both...), false},
		"another below":        {append([]diagnosis{found("data_skew", "counter", 1, .5)}, both...), true},
		"another's instance":   {[]diagnosis{found("slow_instance", "counter", 2, .8), both[1]}, false},
		"the same cause twice": {append([]diagnosis{found("slow_instance", "counter", 5, .9)}, both...), true},
	} {
		if got := in.right(c.found); got != c.right {
			t.Errorf("%s: right is %v", name, got)
		}
	}
}

func TestWilsonsIntervalIsTheTextbooks(t *testing.T) {
	// Newcombe (1998), table I: 81/263 is (0.2553, 0.3662), 0/20 is (0, 0.1611).
	for _, c := range []struct {
		right, all int
		low, high  float64
	}{{81, 263, .2553, .3662}, {0, 20, 0, .1611}} {
		low, high := wilson(c.right, c.all)
		if math.Abs(low-c.low) > 5e-5 || math.Abs(high-c.high) > 5e-5 {
			t.Errorf("%d/%d: %.4f to %.4f, not %.4f to %.4f", c.right, c.all, low, high, c.low, c.high)
		}
	}
}
