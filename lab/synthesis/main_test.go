package main

import (
	"testing"
	"time"
)

func TestSynthesisAloneCarriesOverToShapesThatNobodyLookedAt(t *testing.T) {
	if testing.Short() {
		t.Skip("judges some hundred windows")
	}
	total, err := measure(t.Context(), "../corpus", []string{"diamond", "fanout"}, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	held := total.counts["held out"]
	for key, least := range map[string]float64{
		"first": .9, "first: slow_instance": .85, "first: slow_worker": .85, "first: data_skew": .85,
		"first: underprovisioned": .85, "first: sink_limited": .85, "first: source_limited": .85,
		"compounds, every part more likely than not": .6, "quiet minutes without an alarm": .95,
	} {
		c := held[key]
		if c == nil || float64(c.right) < least*float64(c.all) {
			t.Errorf("%s: %+v, at least %g", key, c, least)
		}
	}
	if t.Failed() {
		for _, m := range total.misses {
			t.Log(m)
		}
	}
}
