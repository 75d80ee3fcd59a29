package store

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/apply"
	"github.com/dhalion-go/dhalion/plan/planfile"
)

// rescaling is an approved plan of one rescale of counter and sink, a knob after it and
// an alert.
func rescaling(t *testing.T, s *Store, counter int) *PlanRow {
	t.Helper()
	set := func(kind dhalion.ActionKind, component string, to int) dhalion.Action {
		return dhalion.Action{Kind: kind, Target: dhalion.ComponentTarget(wordcount, component), To: dhalion.NumberSetting(float64(to))}
	}
	body, id, digest, err := planfile.Encode(dhalion.Plan{
		Version: planfile.Version, Job: wordcount, AsOf: noon, ValidForSeconds: 3600, Policy: "default",
		Actions: []dhalion.Action{set(dhalion.SetParallelism, "counter", counter), set(dhalion.SetParallelism, "sink", 3), set(dhalion.SetKnob, "counter", 4),
			{Kind: dhalion.Alert, Target: dhalion.JobTarget(wordcount)}},
	})
	if err != nil {
		t.Fatal(err)
	}
	row, _, err := s.SavePlan(ctx, NewPlan{ID: id, Digest: digest, Job: wordcount, AsOf: noon, ValidFor: time.Hour, Author: "ann", Body: body}, noon)
	if err != nil {
		t.Fatal(err)
	}
	if row, err = s.Approve(ctx, approval(row, "bob", noon), false); err != nil {
		t.Fatal(err)
	}
	return row
}

func TestWhatPlansDidToAJobIsReadFromTheJournal(t *testing.T) {
	s, _ := withJob(t)
	minute := func(n int) time.Time { return noon.Add(time.Duration(n) * time.Minute) }
	p := rescaling(t, s, 12)
	lease := mustBegin(t, s, beginning(p, "one", minute(1)))
	attempt := func(action, n, at int, outcome string) {
		t.Helper()
		id, err := s.Intend(ctx, lease, action, n, apply.Intent{ID: fmt.Sprint(p.ID, action)}, minute(at))
		if err != nil || outcome == "" {
			if err != nil {
				t.Fatal(err)
			}
			return
		}
		if err := s.Confirm(ctx, id, apply.Result{Outcome: outcome}, minute(at)); err != nil {
			t.Fatal(err)
		}
	}
	said := func(after, upTo time.Time) string {
		t.Helper()
		deeds, err := s.Deeds(ctx, wordcount, after, upTo)
		if err != nil {
			t.Fatal(err)
		}
		var words []string
		for _, d := range deeds {
			ended := "-"
			if !d.Ended.IsZero() {
				ended = d.Ended.Format("15:04")
			}
			words = append(words, fmt.Sprintf("%s %d %s %s", d.Component, d.To, d.Begun.Format("15:04"), ended))
		}
		return strings.Join(words, ", ")
	}
	at := func(n int) string { return minute(n).Format("15:04") }
	attempt(0, 1, 2, "") // a crash: nobody knows
	begun := fmt.Sprintf("counter 12 %s -, sink 3 %s -", at(2), at(2))
	if got := said(noon, minute(60)); got != begun {
		t.Errorf("of what nobody knows: %s, want %s", got, begun)
	}
	attempt(0, 2, 4, apply.Done)
	if got := said(noon, minute(60)); got != begun {
		t.Errorf("confirmed: %s, want %s", got, begun)
	}
	attempt(2, 1, 6, apply.Refused)
	if got := said(noon, minute(60)); got != begun {
		t.Errorf("with a refused one: %s, want %s", got, begun)
	}
	attempt(2, 2, 7, apply.Done)
	attempt(3, 1, 7, apply.Done) // it changes nothing
	if err := s.End(ctx, lease, dhalion.PlanApplied, "", nil, minute(8)); err != nil {
		t.Fatal(err)
	}
	// Judged as unclear long after it had settled.
	if _, err := s.Judge(ctx, p.ID, dhalion.PlanUnclear, "", nil, nil, minute(30)); err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("counter 12 %s %s, sink 3 %s %s,  0 %s %s", at(2), at(8), at(2), at(8), at(6), at(8))
	if got := said(noon, minute(60)); got != want {
		t.Errorf("ended: %s, want %s", got, want)
	}
	if got, want := said(minute(2), minute(60)), fmt.Sprintf(" 0 %s %s", at(6), at(8)); got != want {
		t.Errorf("after minute 2: %s, want %s", got, want)
	}
	if got := said(noon, minute(1)); got != "" {
		t.Errorf("before it was begun: %s", got)
	}
	if deeds, err := s.Deeds(ctx, "file/other", noon, minute(60)); err != nil || deeds != nil {
		t.Errorf("of another job: %v, %v", deeds, err)
	}
}

func TestAForeignChangeIsLoggedOnce(t *testing.T) {
	s, _ := withJob(t)
	changes := []dhalion.Change{
		{At: noon, Component: "counter", From: 8, To: 12}, {At: noon, Component: "sink", From: 1, To: 3}, {At: noon.Add(time.Minute), Component: "counter", From: 12, To: 8},
	}
	var wg sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		wg.Add(1)
		go func() {
			defer wg.Done()
			errs[i] = s.LogForeign(ctx, wordcount, changes[:1+i%3])
		}()
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
	entries, err := s.Log(ctx, LogFilter{Job: wordcount, Event: EventForeign}, 0)
	if err != nil || len(entries) != 3 {
		t.Fatalf("%d entries, %v", len(entries), err)
	}
	for _, c := range changes {
		n := 0
		for _, e := range entries {
			if e.At.Equal(c.At) && strings.Contains(string(e.Detail), fmt.Sprintf("%s %d → %d instances", c.Component, c.From, c.To)) {
				n++
			}
		}
		if n != 1 {
			t.Errorf("%+v is logged %d times", c, n)
		}
	}
	if err := s.LogForeign(ctx, wordcount, nil); err != nil {
		t.Error(err)
	}
}
