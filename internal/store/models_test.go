package store

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dhalion-go/dhalion"
)

func TestOneModelIsActiveAndAPromotionIsTakenBackStepByStep(t *testing.T) {
	t.Parallel()
	s, _ := openStore(t)
	ids := []string{"aaaaaaaaaaaa", "abbbbbbbbbbb", "cccccccccccc"}
	for i, id := range ids {
		if added, err := s.SaveModel(ctx, id, []byte(id), map[string]int{"n": i}, "", "ann", "", noon.Add(time.Duration(i)*time.Minute)); err != nil || !added {
			t.Fatal(added, err)
		}
	}
	if added, err := s.SaveModel(ctx, ids[0], []byte(ids[0]), nil, "", "bob", "", noon); err != nil || added {
		t.Errorf("saved twice: %v, %v", added, err)
	}
	if _, err := s.TakeBack(ctx, "ann", "", noon); !errors.Is(err, ErrNothingPromoted) {
		t.Errorf("nothing to take back: %v", err)
	}
	active := func(want string) {
		t.Helper()
		id, err := s.ActiveModel(ctx)
		all, err2 := s.Models(ctx)
		if err := errors.Join(err, err2); err != nil || id != want {
			t.Fatalf("%q is active, not %q: %v", id, want, err)
		}
		for _, m := range all {
			if m.Active != (m.ID == want) {
				t.Errorf("%s: active %v", m.ID, m.Active)
			}
		}
	}
	active("")
	promote := func(ref, want string) {
		t.Helper()
		if id, changed, err := s.Promote(ctx, ref, "ann", "", noon); err != nil || id != want || !changed {
			t.Fatal(id, changed, err)
		}
		if id, changed, err := s.Promote(ctx, ref, "bob", "", noon); err != nil || id != want || changed {
			t.Fatal("again: ", id, changed, err)
		}
		active(want)
	}
	back := func(want string) {
		t.Helper()
		if id, err := s.TakeBack(ctx, "bob", "", noon); err != nil || id != want {
			t.Fatal(id, err)
		}
		active(want)
	}
	promote("aa", ids[0])
	promote("c", ids[2])
	promote("ab", ids[1])
	back(ids[2])
	promote("ab", ids[1])
	back(ids[2])
	back(ids[0])
	back("")
	if _, err := s.TakeBack(ctx, "bob", "", noon); !errors.Is(err, ErrNothingPromoted) {
		t.Errorf("taken back once too often: %v", err)
	}
	var ambiguous *AmbiguousError
	if _, _, err := s.Promote(ctx, "a", "ann", "", noon); !errors.As(err, &ambiguous) || ambiguous.What != "model" {
		t.Errorf("a beginning of two: %v", err)
	}
	var missing *NotFoundError
	if _, _, err := s.Artefact(ctx, "ff"); !errors.As(err, &missing) || missing.What != "model" {
		t.Errorf("none of that name: %v", err)
	}
	if _, bytes, err := s.Artefact(ctx, "cc"); err != nil || string(bytes) != ids[2] {
		t.Errorf("artefact %q, %v", bytes, err)
	}
}

func TestTheSchemaOfAModelsVectorsIsKeptBesideIt(t *testing.T) {
	t.Parallel()
	s, _ := openStore(t)
	schema, other := strings.Repeat("0a", 32), strings.Repeat("0b", 32)
	save := func(id, schema string, want bool) {
		t.Helper()
		if added, err := s.SaveModel(ctx, id, []byte(id), nil, schema, "ann", "", noon); err != nil || added != want {
			t.Fatal(added, err)
		}
	}
	kept := func(want ...string) {
		t.Helper()
		all, err := s.Models(ctx)
		if err != nil || len(all) != len(want) {
			t.Fatal(all, err)
		}
		for i, m := range all {
			if m.Schema != want[i] {
				t.Errorf("%s has the schema %q, not %q", m.ID, m.Schema, want[i])
			}
		}
	}
	save("aaaaaaaaaaaa", schema, true)
	save("bbbbbbbbbbbb", "", true) // as an older program left it
	kept(schema, "")
	save("bbbbbbbbbbbb", schema, false)
	save("aaaaaaaaaaaa", other, false) // what is known stays
	kept(schema, schema)
	if _, err := s.SaveModel(ctx, "cccccccccccc", nil, nil, "tired", "ann", "", noon); err == nil {
		t.Error("what is no digest was kept")
	}
}

func TestOfPromotionsAtOnceEachIsWrittenDownAndOneIsActive(t *testing.T) {
	t.Parallel()
	s, _ := openStore(t)
	var all sync.WaitGroup
	for i := range 8 {
		id := strings.Repeat(fmt.Sprint(i), 12)
		if _, err := s.SaveModel(ctx, id, []byte(id), nil, "", "ann", "", noon); err != nil {
			t.Fatal(err)
		}
		all.Go(func() {
			if _, _, err := s.Promote(ctx, id, "ann", "", noon); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	promotions, err := s.Promotions(ctx)
	id, err2 := s.ActiveModel(ctx)
	if err := errors.Join(err, err2); err != nil || len(promotions) != 8 || promotions[0].Model != id {
		t.Errorf("%s is active after %+v: %v", id, promotions, err)
	}
}

func TestALabelIsKeptOnceAndAllOrNoneOfAFile(t *testing.T) {
	t.Parallel()
	s, _ := withJob(t)
	label := func(job dhalion.JobID, cause dhalion.Cause, minute int) Incident {
		return Incident{Name: "one", Family: "count", Incident: dhalion.Incident{Job: job, Target: dhalion.ComponentTarget(job, "counter"), Cause: cause,
			Start: noon.Add(time.Duration(minute) * time.Minute), End: noon.Add(time.Duration(minute+1) * time.Minute), Certainty: 1, Source: "import a.csv"}}
	}
	two := []Incident{label(wordcount, dhalion.SlowInstance, 1), label(wordcount, "", 0)}
	for want, times := 2, 0; times < 2; want, times = 0, times+1 {
		if n, err := s.AddIncidents(ctx, two, "ann", noon); err != nil || n != want {
			t.Errorf("time %d: %d added, %v", times+1, n, err)
		}
	}
	var missing *NotFoundError
	if _, err := s.AddIncidents(ctx, []Incident{label(wordcount, dhalion.Failing, 5), label("file/nobody", dhalion.Failing, 5)}, "ann", noon); !errors.As(err, &missing) {
		t.Errorf("a job that is not known: %v", err)
	}
	all, err := s.Incidents(ctx, IncidentFilter{Job: wordcount}, 0)
	if err != nil || len(all) != 2 || all[0].Cause != "" || all[1].Cause != dhalion.SlowInstance || all[1].Name != "one" || all[1].Family != "count" || all[1].Person != "ann" {
		t.Fatalf("%+v, %v", all, err)
	}
	for _, f := range []IncidentFilter{{Source: "import"}, {Source: "import a.csv"}, {Cause: dhalion.SlowInstance}} {
		if some, err := s.Incidents(ctx, f, 0); err != nil || !slices.ContainsFunc(some, func(i Incident) bool { return i.ID == all[1].ID }) {
			t.Errorf("%+v: %+v, %v", f, some, err)
		}
	}
	if some, err := s.Incidents(ctx, IncidentFilter{Source: "%"}, 0); err != nil || len(some) > 0 {
		t.Errorf("a source with a wild card: %+v, %v", some, err)
	}
	if gone, err := s.RemoveIncident(ctx, all[0].ID, "bob", noon); err != nil || gone.ID != all[0].ID {
		t.Errorf("%+v, %v", gone, err)
	}
	if _, err := s.RemoveIncident(ctx, all[0].ID, "bob", noon); !errors.As(err, &missing) {
		t.Errorf("removed twice: %v", err)
	}
}
