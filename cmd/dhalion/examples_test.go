package main

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestNoMoreHistoryIsReadForWindowsThanTheyReachBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		start := time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)
		reach := time.Duration(rapid.IntRange(1, 100).Draw(t, "reach")) * time.Minute
		var questions []question
		for _, minutes := range rapid.SliceOfDistinct(rapid.IntRange(0, 500_000), rapid.ID[int]).Draw(t, "minutes") {
			questions = append(questions, question{n: len(questions), at: start.Add(time.Duration(minutes) * time.Minute)})
		}
		before := slices.Clone(questions)
		var all []question
		for _, batch := range batches(questions, reach) {
			first, last := batch[0], batch[len(batch)-1]
			if last.at.Sub(first.at) > reach {
				t.Fatalf("a batch from %s to %s, with a reach of %s", first.at, last.at, reach)
			}
			if len(all) > 0 && first.at.Sub(all[len(all)-1].at) <= 0 {
				t.Fatalf("a batch begins at %s, and the one before ends at %s", first.at, all[len(all)-1].at)
			}
			all = append(all, batch...)
		}
		if !slices.Equal(questions, before) {
			t.Fatal("the questions are in another order")
		}
		slices.SortFunc(all, func(a, b question) int { return a.n - b.n })
		if !slices.Equal(all, before) {
			t.Fatalf("of %d questions %d are asked", len(before), len(all))
		}
	})
}
