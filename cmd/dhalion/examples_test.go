package main

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/internal/store"
	"github.com/dhalion-go/dhalion/plan/policy"
)

func TestOfLongLabelsSoManyWindowsAreJudgedEvenlyOverThem(t *testing.T) {
	start := time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)
	measured := store.JobInfo{From: start, To: start.AddDate(1, 0, 0)}
	label := func(from, to time.Time, cause dhalion.Cause) store.Incident {
		return store.Incident{Incident: dhalion.Incident{Job: "file/a", Target: dhalion.JobTarget("file/a"), Cause: cause, Start: from, End: to, Certainty: 1}}
	}
	ask := func(measured store.JobInfo, labels ...store.Incident) (quiet []time.Time, sick int) {
		l := newLesson("file/a", &policy.Policy{Window: time.Minute}, labels, measured)
		for i, q := range l.questions {
			if q.n != i {
				t.Fatalf("question %d says that it is number %d", i, q.n)
			}
			if labels[q.incident].Cause == "" {
				quiet = append(quiet, q.at)
			} else {
				sick++
			}
		}
		return quiet, sick
	}
	steps := func(at []time.Time) (least, most time.Duration) {
		for i := 1; i < len(at); i++ {
			d := at[i].Sub(at[i-1])
			if i == 1 {
				least = d
			}
			least, most = min(least, d), max(most, d)
		}
		return least, most
	}

	// 46 minutes have 181 windows of a minute, 15 s apart.
	quiet, _ := ask(measured, label(start, start.Add(46*time.Minute), ""))
	if least, most := steps(quiet); len(quiet) != 181 || least != 15*time.Second || most != least {
		t.Errorf("46 minutes: %d windows, %s to %s apart", len(quiet), least, most)
	}
	// 90 days are 7,776,000 s: each of 399 windows, or 400, is 19,441 s after the one
	// before. What is wrong within them is asked as ever: 10 minutes from 25 s on have 116
	// windows 5 s apart.
	sickAt := start.Add(100 * time.Hour)
	quiet, sick := ask(measured, label(start, start.AddDate(0, 0, 90), ""), label(sickAt, sickAt.Add(10*time.Minute), dhalion.Failing))
	least, most := steps(quiet)
	if len(quiet) != 400 && len(quiet) != 399 || least != 19441*time.Second || most > 2*least || sick != 116 {
		t.Errorf("90 days: %d windows, %s to %s apart, and %d of the incident", len(quiet), least, most, sick)
	}
	// A label of all times asks for those in which there is something to see.
	hour := store.JobInfo{From: start, To: start.Add(time.Hour)}
	quiet, _ = ask(hour, label(time.Time{}, start.AddDate(500, 0, 0), ""))
	if least, most := steps(quiet); len(quiet) != 241 || least != 15*time.Second || most != least {
		t.Errorf("an hour of all times: %d windows, %s to %s apart", len(quiet), least, most)
	}
	// What is wrong for a day of 86,400 s is asked every 217 s, from 25 s on.
	if _, sick = ask(measured, label(start, start.Add(24*time.Hour), dhalion.Failing)); sick != 399 {
		t.Errorf("a day that is wrong: %d windows", sick)
	}
	if quiet, _ = ask(store.JobInfo{}, label(start, start.Add(time.Hour), "")); len(quiet) != 0 {
		t.Errorf("of a job without measurements %d windows are asked", len(quiet))
	}
	// A thousand labels of two minutes, an hour apart, have a window each, of which two in
	// five are asked.
	var many []store.Incident
	for n := range 1000 {
		at := start.Add(time.Duration(n) * time.Hour)
		many = append(many, label(at, at.Add(2*time.Minute), ""))
	}
	quiet, _ = ask(measured, many...)
	if least, most := steps(quiet); len(quiet) != 400 || least != 2*time.Hour || most != 3*time.Hour {
		t.Errorf("a thousand labels: %d windows, %s to %s apart", len(quiet), least, most)
	}
}

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
