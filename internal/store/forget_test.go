package store

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/ingest"
)

func TestAForgottenJobIsGoneAndItsInputsMayComeAgain(t *testing.T) {
	s, url := openStore(t)
	segs := []dhalion.Segment{encode(t, table(wordcount, 2, noon, 5, constant(1))), encode(t, table("file/other", 2, noon, 5, constant(2)))}
	in := Input{Name: "a.csv", Hash: "a"}
	both := func(ctx context.Context, out ingest.Out) (ingest.Report, error) {
		if err := out.Topology(ctx, wordcount, topology(noon, 2)); err != nil {
			return ingest.Report{}, err
		}
		return handing(segs...)(ctx, out)
	}
	if _, _, err := s.Ingest(ctx, in, both); err != nil {
		t.Fatal(err)
	}
	mustIngest(t, s, "other", encode(t, table("file/other", 1, noon.Add(time.Hour), 5, constant(3))))
	saved(t, s, "a plan", "ann")
	digest, other := read(t, s, wordcount).Digest(), read(t, s, "file/other").Digest()

	rep, err := s.Forget(ctx, wordcount, "ann", noon)
	want := ForgetReport{Job: wordcount, Segments: 1, Topologies: 1, Plans: 1, Inputs: 1}
	if err != nil || rep != want {
		t.Errorf("forgotten %+v, want %+v, %v", rep, want, err)
	}
	_, err = s.Newest(ctx, wordcount)
	wantError[*NotFoundError](t, err)
	_, err = s.Forget(ctx, wordcount, "ann", noon)
	wantError[*NotFoundError](t, err)
	if read(t, s, "file/other").Digest() != other {
		t.Error("another job has lost something")
	}
	for table, n := range map[string]string{"plans": "0", "topologies": "0", "segments": "2", "inputs": "2"} {
		if got := count(t, url, table); got != n {
			t.Errorf("%s rows in %s, want %s", got, table, n)
		}
	}
	log, err := s.Log(ctx, LogFilter{Job: wordcount, Event: "forgotten"}, 0)
	if err != nil || len(log) != 1 || log[0].Person != "ann" {
		t.Errorf("log %+v, %v", log, err)
	}
	// The same file again: both jobs are as they were.
	if _, already, err := s.Ingest(ctx, in, both); err != nil || already {
		t.Fatalf("already %v, %v", already, err)
	}
	if read(t, s, wordcount).Digest() != digest || read(t, s, "file/other").Digest() != other {
		t.Error("ingested again it is another history")
	}
}

func TestARangeThatIsForgottenLeavesWhatIsAroundIt(t *testing.T) {
	s, url := openStore(t)
	second := func(k int) time.Time { return noon.Add(time.Duration(k) * time.Second) }
	mustIngest(t, s, "a", encode(t, table(wordcount, 1, noon, 10, func(k int) float64 { return float64(k) })))
	mustIngest(t, s, "b", encode(t, table(wordcount, 1, second(4), 2, constant(20))))
	mustIngest(t, s, "c", encode(t, table(wordcount, 1, second(20), 2, constant(30))))
	for i := range 4 {
		if _, _, err := s.Ingest(ctx, Input{}, func(ctx context.Context, out ingest.Out) (ingest.Report, error) {
			return ingest.Report{}, out.Topology(ctx, wordcount, topology(second(3*i), i+1))
		}); err != nil {
			t.Fatal(err)
		}
	}
	rep, err := s.ForgetBetween(ctx, wordcount, second(2), second(7), "ann", noon)
	// b is gone, a is cut. Of the topologies of seconds 3 and 6 the second is in
	// force afterwards.
	want := ForgetReport{Job: wordcount, Segments: 1, Cut: 1, Topologies: 1, Inputs: 2}
	if err != nil || rep != want {
		t.Errorf("forgotten %+v, want %+v, %v", rep, want, err)
	}
	if got := busy(read(t, s, wordcount)); !slices.Equal(got, []float64{0, 1, 2, 8, 9, 30, 30}) {
		t.Errorf("left %v", got)
	}
	if got := column(t, url, `SELECT (body->'components'->0->>'parallelism') FROM topologies ORDER BY from_time`); !slices.Equal(got, []string{"1", "3", "4"}) {
		t.Errorf("topologies %v", got)
	}
	// c has nothing in the range: it is there still. a and b may come again.
	if _, already, err := s.Ingest(ctx, Input{Hash: "c"}, handing()); err != nil || !already {
		t.Errorf("already %v, %v", already, err)
	}
	mustIngest(t, s, "a", encode(t, table(wordcount, 1, noon, 10, func(k int) float64 { return float64(k) })))
	if got := busy(read(t, s, wordcount)); !slices.Equal(got, []float64{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 30, 30}) {
		t.Errorf("ingested again %v", got)
	}
	if rep, err := s.ForgetBetween(ctx, wordcount, time.Time{}, second(100), "ann", noon); err != nil || rep.Segments != 3 || rep.Cut != 0 {
		t.Errorf("forgotten %+v, %v", rep, err)
	}
	if h := read(t, s, wordcount); len(h.Tables) != 0 || len(h.Topologies) != 1 {
		t.Errorf("left %+v", h)
	}
}

func TestAJobThatSomebodyActsOnIsNotForgotten(t *testing.T) {
	s, url := openStore(t)
	mustIngest(t, s, "a", encode(t, table(wordcount, 1, noon, 5, constant(1))))
	p := saved(t, s, "a plan", "ann")
	exec(t, url, "INSERT INTO leases (job, plan, holder, epoch, until) VALUES ($1, $2, 'x', 7, $3)", string(wordcount), p.ID, noon.Add(time.Minute))
	refused := func(now time.Time) {
		t.Helper()
		_, err := s.Forget(ctx, wordcount, "ann", now)
		if e := wantError[*HeldError](t, err); e.Plan != p.ID {
			t.Errorf("error %v", e)
		}
		_, err = s.ForgetBetween(ctx, wordcount, time.Time{}, noon.Add(time.Hour), "ann", now)
		wantError[*HeldError](t, err)
	}
	refused(noon)
	if _, err := s.Approve(ctx, dhalion.Approval{Plan: p.ID, Digest: p.Digest, Person: "bob", At: noon}, true); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Transition(ctx, p.ID, []dhalion.PlanState{dhalion.PlanApproved}, dhalion.PlanApplying, "", "bob", noon); err != nil {
		t.Fatal(err)
	}
	refused(noon.Add(time.Hour)) // the lease is over, and the plan says that it is being applied
	if _, err := s.Transition(ctx, p.ID, []dhalion.PlanState{dhalion.PlanApplying}, dhalion.PlanApplied, "", "bob", noon); err != nil {
		t.Fatal(err)
	}
	if _, err := s.ForgetBetween(ctx, wordcount, time.Time{}, noon.Add(time.Hour), "ann", noon.Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if got := column(t, url, "SELECT epoch::text FROM leases"); count(t, url, "plans") != "0" || !slices.Equal(got, []string{"7"}) {
		t.Errorf("the epoch of the lease fell: %v", got)
	}
}

func TestRetentionDropsWholeDaysOfEveryJob(t *testing.T) {
	s, url := openStore(t)
	day := func(n int) time.Time { return noon.AddDate(0, 0, n) }
	for i, job := range []dhalion.JobID{wordcount, "file/other"} {
		for d := range 5 {
			mustIngest(t, s, fmt.Sprint(i, d), encode(t, table(job, 1, day(d), 3, constant(float64(d)))))
		}
		mustIngest(t, s, fmt.Sprint(i, " long"), encode(t, table(job, 1, day(1).Add(time.Hour), 3, constant(7))), encode(t, table(job, 1, day(4).Add(time.Hour), 3, constant(8))))
	}
	if _, _, err := s.Ingest(ctx, Input{}, func(ctx context.Context, out ingest.Out) (ingest.Report, error) {
		return ingest.Report{}, out.Topology(ctx, wordcount, topology(day(0), 2))
	}); err != nil {
		t.Fatal(err)
	}
	opts := RetainOptions{Before: day(2), Person: "ann", Now: day(9), DryRun: true}
	plan, err := s.Retain(ctx, opts)
	if err != nil || !slices.Equal(plan.Days, []string{"2026-03-04", "2026-03-05"}) || plan.Inputs != 4 || plan.Disk == 0 {
		t.Errorf("would drop %+v, %v", plan, err)
	}
	if count(t, url, "segments") != "14" {
		t.Error("a dry run dropped something")
	}
	opts.DryRun = false
	rep, err := s.Retain(ctx, opts)
	a, _ := json.Marshal(plan)
	b, _ := json.Marshal(rep)
	if err != nil || string(a) != string(b) {
		t.Errorf("dropped %s, the dry run said %s, %v", b, a, err)
	}
	names := column(t, url, "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'segments'::regclass ORDER BY 1")
	if !slices.Equal(names, []string{"segments_20260306", "segments_20260307", "segments_20260308"}) {
		t.Errorf("partitions %v", names)
	}
	h := read(t, s, wordcount)
	if got := busy(h); !slices.Equal(got, []float64{2, 2, 2, 3, 3, 3, 4, 4, 4, 8, 8, 8}) {
		t.Errorf("left %v", got)
	}
	if len(h.Topologies) != 1 {
		t.Error("the topology in force is gone")
	}
	mustIngest(t, s, "0 0", encode(t, table(wordcount, 1, day(0), 3, constant(0)))) // may come again
	for _, hash := range []string{"0 2", "0 long"} {
		if _, already, err := s.Ingest(ctx, Input{Hash: hash}, handing()); err != nil || !already {
			t.Errorf("%s: already %v, %v", hash, already, err)
		}
	}
	if again, err := s.Retain(ctx, opts); err != nil || !slices.Equal(again.Days, []string{"2026-03-04"}) || again.Inputs != 1 {
		t.Errorf("again %+v, %v", again, err)
	}
}

func TestADayThatIsBeingReadIsLeftForTheNextTime(t *testing.T) {
	s, _ := openStore(t)
	mustIngest(t, s, "a", encode(t, table(wordcount, 1, noon, 3, constant(1))))
	opts := RetainOptions{Before: noon.AddDate(0, 0, 5), Now: noon}
	err := s.Segments(ctx, wordcount, time.Time{}, noon.AddDate(1, 0, 0), func(dhalion.Segment) error {
		rep, err := s.Retain(ctx, opts)
		if len(rep.Days) != 0 || !slices.Equal(rep.InUse, []string{"2026-03-04"}) || rep.Inputs != 0 {
			t.Errorf("while it is read: %+v", rep)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if rep, err := s.Retain(ctx, opts); err != nil || len(rep.Days) != 1 || rep.Inputs != 1 {
		t.Errorf("afterwards: %+v, %v", rep, err)
	}
}

func TestHowAPolicyCameAboutIsLoggedWithThePlan(t *testing.T) {
	s, _ := openStore(t)
	mustIngest(t, s, "a", encode(t, table(wordcount, 1, noon, 1, constant(1))))
	p := document("a plan", "ann")
	said := func() (list []string) {
		entries, err := s.Log(ctx, LogFilter{Plan: p.ID, Event: EventPolicy}, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			list = append(list, string(e.Detail))
		}
		return list
	}
	for i, policy := range []string{`{"a": 1, "b": 2}`, `{"b":2,"a":1}`, ``, `{"a": 3}`, `{"a": 1, "b": 2}`} {
		if p.Policy = nil; policy != "" {
			p.Policy = json.RawMessage(policy)
		}
		if _, _, err := s.SavePlan(ctx, p, noon.Add(time.Duration(i)*time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	if got := said(); !slices.Equal(got, []string{`{"a": 1, "b": 2}`, `{"a": 3}`, `{"a": 1, "b": 2}`}) {
		t.Errorf("logged %v", got)
	}
	q := document("another", "ann")
	q.Policy = json.RawMessage(`no JSON`)
	if _, _, err := s.SavePlan(ctx, q, noon); err == nil {
		t.Fatal("saved")
	}
	_, err := s.Plan(ctx, q.ID)
	wantError[*NotFoundError](t, err) // both or neither
}
