package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/ingest"
	"github.com/dhalion-go/dhalion/ingest/segment"
)

var ctx = context.Background()

func read(t testing.TB, s *Store, job dhalion.JobID) *segment.History {
	t.Helper()
	h, err := s.History(ctx, job, time.Time{}, noon.AddDate(1, 0, 0))
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// busy is busy_fraction of every row of instances, in order.
func busy(h *segment.History) []float64 {
	if t := h.Tables[dhalion.KindInstance]; t != nil {
		return t.Values(dhalion.Busy)
	}
	return nil
}

// nothing fails unless the schema holds nothing of any ingest.
func nothing(t *testing.T, url string) {
	t.Helper()
	for _, table := range []string{"jobs", "inputs", "segments", "topologies"} {
		if n := count(t, url, table); n != "0" {
			t.Errorf("%s rows in %s", n, table)
		}
	}
}

func TestWhatIsIngestedIsReadBack(t *testing.T) {
	s, _ := openStore(t)
	first := table(wordcount, 2, noon, 5, func(k int) float64 { return float64(k) / 10 })
	rep, already, err := s.Ingest(ctx, Input{Name: "a.csv", Hash: "a", Format: "csv"}, func(ctx context.Context, out ingest.Out) (ingest.Report, error) {
		if err := out.Topology(ctx, wordcount, topology(noon, 2)); err != nil {
			return ingest.Report{}, err
		}
		return handing(encode(t, first))(ctx, out)
	})
	if err != nil || already || rep.Rows != 10 || rep.Values != 10 || rep.Segments != 1 {
		t.Fatalf("report %+v, already %v, %v", rep, already, err)
	}
	h := read(t, s, wordcount)
	if want := []float64{0, .1, .2, .3, .4, 0, .1, .2, .3, .4}; !slices.Equal(busy(h), want) {
		t.Errorf("busy fractions %v, want %v", busy(h), want)
	}
	if len(h.Topologies) != 1 || !h.Topologies[0].SameShape(topology(noon, 2)) || !h.Topologies[0].From.Equal(noon) {
		t.Errorf("topologies %+v", h.Topologies)
	}
	jobs, err := s.Jobs(ctx)
	want := []JobInfo{{ID: wordcount, Name: "wordcount", Engine: "file", From: noon, To: noon.Add(4 * time.Second), Components: 2, Instances: 3}}
	if err != nil || !reflect.DeepEqual(jobs, want) {
		t.Errorf("jobs %+v, want %+v, %v", jobs, want, err)
	}
	if newest, err := s.Newest(ctx, wordcount); err != nil || !newest.Equal(noon.Add(4*time.Second)) {
		t.Errorf("newest %v, %v", newest, err)
	}
	list, err := s.Catalogue(ctx, wordcount)
	if err != nil || len(list) != 1 || list[0].Seq != 1 || list[0].Rows != 10 || list[0].Bytes != nil || list[0].Hash != encode(t, first).Hash {
		t.Errorf("catalogue %+v, %v", list, err)
	}
}

func TestAHistoryExcludesItsStartAndIncludesItsEnd(t *testing.T) {
	s, _ := openStore(t)
	mustIngest(t, s, "a", encode(t, table(wordcount, 1, noon, 5, func(k int) float64 { return float64(k) })))
	for _, c := range []struct {
		after, upTo time.Time
		want        []float64
	}{
		{noon, noon.Add(2 * time.Second), []float64{1, 2}},
		{noon.Add(-time.Microsecond), noon, []float64{0}},
		{noon.Add(4 * time.Second), noon.Add(time.Hour), nil},
		{noon.Add(-time.Hour), noon.Add(-time.Minute), nil},
		{time.Time{}, time.Unix(1<<60, 0), []float64{0, 1, 2, 3, 4}},
		{time.Unix(-1<<60, 0), noon.Add(999999999 * time.Nanosecond), []float64{0}},
	} {
		h, err := s.History(ctx, wordcount, c.after, c.upTo)
		if err != nil || !slices.Equal(busy(h), c.want) {
			t.Errorf("(%v, %v]: %v, want %v, %v", c.after, c.upTo, busy(h), c.want, err)
		}
	}
}

func TestOfTwoInputsTheLaterOneWinsAndUnknownErasesNothing(t *testing.T) {
	s, _ := openStore(t)
	mustIngest(t, s, "a", encode(t, table(wordcount, 1, noon, 4, constant(1))))
	mustIngest(t, s, "b", encode(t, table(wordcount, 1, noon.Add(2*time.Second), 4, constant(2))))
	mustIngest(t, s, "c", encode(t, table(wordcount, 1, noon.Add(3*time.Second), 1, constant(3))))
	// seconds 0 1 from a, 2 4 5 from b, 3 from c
	if want := []float64{1, 1, 2, 3, 2, 2}; !slices.Equal(busy(read(t, s, wordcount)), want) {
		t.Errorf("busy fractions %v, want %v", busy(read(t, s, wordcount)), want)
	}
	// Back to what a said: the same segment again, in another input, wins again.
	mustIngest(t, s, "d", encode(t, table(wordcount, 1, noon, 4, constant(1))))
	if want := []float64{1, 1, 1, 1, 2, 2}; !slices.Equal(busy(read(t, s, wordcount)), want) {
		t.Errorf("busy fractions %v, want %v", busy(read(t, s, wordcount)), want)
	}
}

func TestOfTwoTopologiesOfOneTimeTheLaterIngestHolds(t *testing.T) {
	s, _ := openStore(t)
	say := func(hash string, list ...dhalion.Topology) {
		t.Helper()
		_, _, err := s.Ingest(ctx, Input{Hash: hash}, func(ctx context.Context, out ingest.Out) (ingest.Report, error) {
			for _, topo := range list {
				if err := out.Topology(ctx, wordcount, topo); err != nil {
					return ingest.Report{}, err
				}
			}
			return ingest.Report{}, nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	minute := func(n int) time.Time { return noon.Add(time.Duration(n) * time.Minute) }
	say("a", topology(minute(0), 9), topology(minute(0), 1), topology(minute(10), 2), topology(minute(20), 3))
	say("b", topology(minute(10), 4))
	for _, c := range []struct {
		after, upTo int
		want        []int // parallelism of the counter
	}{
		{-5, 30, []int{1, 4, 3}},
		{5, 10, []int{1, 4}},  // what held at the start counts
		{10, 19, []int{4}},    // a topology that begins at the start replaced the one before
		{25, 30, []int{3}},    //
		{-9, -8, []int(nil)},  // before the first
		{-9, 9, []int{1}},     //
		{19, 20, []int{4, 3}}, //
	} {
		list, err := s.Topologies(ctx, wordcount, minute(c.after), minute(c.upTo))
		var got []int
		for _, topo := range list {
			got = append(got, topo.Components[0].Parallelism)
		}
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("minutes (%d, %d]: %v, want %v, %v", c.after, c.upTo, got, c.want, err)
		}
	}
}

func TestTheSameInputTwiceChangesNothing(t *testing.T) {
	s, url := openStore(t)
	seg := encode(t, table(wordcount, 2, noon, 5, constant(1)))
	in := Input{Name: "a.csv", Hash: "a", Format: "csv", Options: "job=x"}
	full := func(ctx context.Context, out ingest.Out) (ingest.Report, error) {
		rep, err := handing(seg)(ctx, out)
		rep.Jobs = []dhalion.JobID{wordcount}
		rep.Targets, rep.Conflicts = 2, 3
		rep.Repairs = map[string]int{"duplicate": 4}
		rep.Skipped = []ingest.RowError{{File: "a.csv", Line: 7, Reason: "no time"}}
		return rep, err
	}
	first, already, err := s.Ingest(ctx, in, full)
	if err != nil || already {
		t.Fatal(already, err)
	}
	before := read(t, s, wordcount).Digest()
	in.Name = "elsewhere/a.csv"
	second, already, err := s.Ingest(ctx, in, func(context.Context, ingest.Out) (ingest.Report, error) {
		t.Error("an input that is stored was read again")
		return ingest.Report{}, nil
	})
	if err != nil || !already {
		t.Fatal(already, err)
	}
	a, _ := json.Marshal(first)
	b, _ := json.Marshal(second)
	if string(a) != string(b) {
		t.Errorf("second report\n%s, first\n%s", b, a)
	}
	if read(t, s, wordcount).Digest() != before || count(t, url, "inputs") != "1" || count(t, url, "segments") != "1" {
		t.Error("something changed")
	}
	in.Options = "job=y"
	if _, already, err := s.Ingest(ctx, in, full); err != nil || already {
		t.Errorf("other options are another input: already %v, %v", already, err)
	}
	for range 2 {
		if _, already, err := s.Ingest(ctx, Input{Name: "poll"}, full); err != nil || already {
			t.Errorf("an input without a hash is always new: already %v, %v", already, err)
		}
	}
}

func TestAnIngestThatFailsInTheMiddleLeavesNothing(t *testing.T) {
	s, url := openStore(t)
	broken := errors.New("a.csv:7: no time")
	segs := []dhalion.Segment{
		encode(t, table(wordcount, 2, noon, 5, constant(1))),
		encode(t, table(wordcount, 2, noon.AddDate(0, 0, 1), 5, constant(1))),
	}
	_, _, err := s.Ingest(ctx, Input{Name: "a.csv", Hash: "a"}, func(ctx context.Context, out ingest.Out) (ingest.Report, error) {
		if err := out.Topology(ctx, wordcount, topology(noon, 2)); err != nil {
			return ingest.Report{}, err
		}
		rep, err := handing(segs...)(ctx, out)
		return rep, errors.Join(err, broken)
	})
	if !errors.Is(err, broken) {
		t.Fatalf("error %v", err)
	}
	nothing(t, url)

	cancelled, cancel := context.WithCancelCause(ctx)
	why := errors.New("interrupted")
	_, _, err = s.Ingest(cancelled, Input{Name: "a.csv", Hash: "a"}, func(ctx context.Context, out ingest.Out) (ingest.Report, error) {
		rep, err := handing(segs...)(ctx, out)
		cancel(why)
		<-ctx.Done()
		return rep, errors.Join(err, context.Cause(ctx))
	})
	if !errors.Is(err, context.Canceled) && !errors.Is(err, why) {
		t.Fatalf("error %v", err)
	}
	nothing(t, url)

	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic was swallowed")
			}
		}()
		s.Ingest(ctx, Input{Name: "a.csv", Hash: "a"}, func(ctx context.Context, out ingest.Out) (ingest.Report, error) {
			handing(segs...)(ctx, out)
			panic("a bug in a reader")
		})
	}()
	nothing(t, url)

	mustIngest(t, s, "a", segs...) // and the way is free
}

func TestASegmentThatCannotBeStoredEndsTheReading(t *testing.T) {
	s, url := openStore(t)
	good := encode(t, table(wordcount, 1, noon, 5, constant(1)))
	for name, bad := range map[string]func(*dhalion.Segment){
		"job without an engine": func(s *dhalion.Segment) { s.Job = "wordcount" },
		"kind":                  func(s *dhalion.Segment) { s.Kind = "host" },
		"no bytes":              func(s *dhalion.Segment) { s.Bytes = nil },
		"over midnight":         func(s *dhalion.Segment) { s.To = s.To.AddDate(0, 0, 1) },
		"ends before it begins": func(s *dhalion.Segment) { s.To = s.From.Add(-time.Second) },
	} {
		seg := good
		bad(&seg)
		handed := 0
		_, _, err := s.Ingest(ctx, Input{Hash: "a"}, func(ctx context.Context, out ingest.Out) (ingest.Report, error) {
			if err := out.Segment(ctx, seg); err != nil {
				return ingest.Report{}, err
			}
			for { // would go on for ever
				if err := out.Segment(ctx, good); err != nil {
					return ingest.Report{}, err
				}
				handed++
			}
		})
		if err == nil || handed > 2*queued+2 {
			t.Errorf("%s: error %v after %d more", name, err, handed)
		}
		nothing(t, url)
	}
}

func TestAConnectionThatIsCutInTheMiddleLeavesNothing(t *testing.T) {
	url := emptySchema(t)
	name := "cut " + column(t, url, "SELECT current_schema()")[0]
	s, err := Open(ctx, withSetting(t, url, "application_name", name), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	seg := encode(t, table(wordcount, 2, noon, 5, constant(1)))
	_, _, err = s.Ingest(ctx, Input{Name: "a.csv", Hash: "a"}, func(ctx context.Context, out ingest.Out) (ingest.Report, error) {
		rep, err := handing(seg)(ctx, out)
		if err != nil {
			return rep, err
		}
		// Once the segment is written.
		const written = ` FROM pg_stat_activity WHERE application_name = $1 AND state = 'idle in transaction' AND query LIKE '%INSERT INTO segments%'`
		for len(column(t, url, `SELECT pid::text`+written, name)) == 0 {
			if ctx.Err() != nil {
				return rep, ctx.Err()
			}
		}
		if n := column(t, url, `SELECT pg_terminate_backend(pid)::text`+written, name); !slices.Equal(n, []string{"true"}) {
			t.Errorf("cut %v", n)
		}
		return rep, nil
	})
	if err == nil {
		t.Fatal("the ingest was reported as stored")
	}
	nothing(t, url)
	mustIngest(t, s, "a", seg)
}

func TestEightIngestsOfOneJobAtOnceGiveTheHistoryOfOneAfterTheOther(t *testing.T) {
	s, url := openStore(t)
	// Overlapping stretches over midnight: partitions of both days are made at once.
	late := time.Date(2026, 3, 4, 23, 59, 50, 0, time.UTC)
	segs := make([][]dhalion.Segment, 8)
	for i := range segs {
		b := segment.NewBuilder(wordcount, dhalion.KindInstance)
		for k := range 20 {
			b.Add(dhalion.InstanceTarget(wordcount, "counter", 0), "", late.Add(time.Duration(i+k)*time.Second).UnixMicro(), dhalion.Busy, float64(i))
		}
		if _, _, err := b.Flush(func(tab *segment.Table) error { segs[i] = append(segs[i], encode(t, tab)); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	var all sync.WaitGroup
	for i, list := range segs {
		all.Go(func() {
			// Each also brings a second job, in another order: nothing may deadlock.
			other := encode(t, table(dhalion.JobID(fmt.Sprint("file/other", i%3)), 1, noon, 3, constant(float64(i))))
			list := append(slices.Clone(list), other)
			rand.Shuffle(len(list), func(a, b int) { list[a], list[b] = list[b], list[a] })
			if _, _, err := s.Ingest(ctx, Input{Hash: fmt.Sprint(i)}, handing(list...)); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if t.Failed() {
		return
	}
	order := column(t, url, "SELECT hash FROM inputs ORDER BY seq")
	if seqs := column(t, url, "SELECT seq::text FROM inputs ORDER BY seq"); !slices.Equal(seqs, []string{"1", "2", "3", "4", "5", "6", "7", "8"}) {
		t.Errorf("sequence numbers %v", seqs)
	}
	again, _ := openStore(t)
	for _, hash := range order {
		var i int
		fmt.Sscan(hash, &i)
		mustIngest(t, again, hash, segs[i]...)
	}
	if a, b := read(t, s, wordcount).Digest(), read(t, again, wordcount).Digest(); a != b {
		t.Errorf("at once %v, one after the other %v", busy(read(t, s, wordcount)), busy(read(t, again, wordcount)))
	}
}

func TestEightIngestsOfTheSameInputAtOnceStoreItOnce(t *testing.T) {
	s, url := openStore(t)
	seg := encode(t, table(wordcount, 1, noon, 3, constant(1)))
	var all sync.WaitGroup
	var mu sync.Mutex
	stored := 0
	for range 8 {
		all.Go(func() {
			_, already, err := s.Ingest(ctx, Input{Hash: "a"}, handing(seg))
			if err != nil {
				t.Error(err)
			}
			if !already {
				mu.Lock()
				defer mu.Unlock()
				stored++
			}
		})
	}
	all.Wait()
	if stored != 1 || count(t, url, "segments") != "1" {
		t.Errorf("stored %d times, %s segments", stored, count(t, url, "segments"))
	}
}

func TestAnIngestThatTakesLongHoldsUpNobody(t *testing.T) {
	s, _ := openStore(t)
	_, _, err := s.Ingest(ctx, Input{Hash: "long"}, func(c context.Context, out ingest.Out) (ingest.Report, error) {
		rep, err := handing(encode(t, table(wordcount, 1, noon, 3, constant(1))))(c, out)
		if err != nil {
			return rep, err
		}
		// Meanwhile another input of the same job comes and is seen, days that have
		// no partition yet included.
		mustIngest(t, s, "short", encode(t, table(wordcount, 1, noon, 3, constant(2))), encode(t, table(wordcount, 1, noon.AddDate(0, 0, 1), 1, constant(2))))
		if got := busy(read(t, s, wordcount)); !slices.Equal(got, []float64{2, 2, 2, 2}) {
			t.Errorf("meanwhile %v", got)
		}
		return rep, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	// It ended last, so it is the later one.
	if got := busy(read(t, s, wordcount)); !slices.Equal(got, []float64{1, 1, 1, 2}) {
		t.Errorf("afterwards %v", got)
	}
}

func TestTheYears1And9999HavePartitions(t *testing.T) {
	s, url := openStore(t)
	for i, at := range []time.Time{
		time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC),
		time.Date(1, 12, 31, 23, 59, 59, 999999000, time.UTC),
		time.Date(1969, 12, 31, 23, 59, 59, 0, time.UTC),
		time.Date(2024, 2, 29, 12, 0, 0, 0, time.UTC),
		time.Date(9999, 12, 31, 23, 59, 59, 999999000, time.UTC),
	} {
		mustIngest(t, s, fmt.Sprint(i), encode(t, table(wordcount, 1, at, 1, constant(float64(i)))))
	}
	names := column(t, url, "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'segments'::regclass ORDER BY 1")
	if want := []string{"segments_00010101", "segments_00011231", "segments_19691231", "segments_20240229", "segments_99991231"}; !slices.Equal(names, want) {
		t.Errorf("partitions %v, want %v", names, want)
	}
	h, err := s.History(ctx, wordcount, time.Time{}, time.Date(9999, 12, 31, 23, 59, 59, 999999999, time.UTC))
	if err != nil || !slices.Equal(busy(h), []float64{0, 1, 2, 3, 4}) {
		t.Errorf("history %v, %v", busy(h), err)
	}
	if storage := column(t, url, "SELECT attstorage::text FROM pg_attribute WHERE attrelid = 'segments_00010101'::regclass AND attname = 'bytes'"); storage[0] != "e" {
		t.Errorf("storage of bytes in a partition is %q, not external", storage[0])
	}
}

func TestManyIngestsShareAPoolOfOneConnection(t *testing.T) {
	url := emptySchema(t)
	s, err := Open(ctx, withSetting(t, url, "pool_max_conns", "1"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			if _, _, err := s.Ingest(ctx, Input{Hash: fmt.Sprint(i)}, handing(encode(t, table(wordcount, 1, noon.AddDate(0, 0, i), 1, constant(1))))); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
}

func TestAJobIsFoundByItsIDOrItsUniqueName(t *testing.T) {
	s, _ := openStore(t)
	for i, job := range []dhalion.JobID{"prod/wordcount", "test/wordcount", "prod/sessions", "x/prod/sessions"} {
		mustIngest(t, s, fmt.Sprint(i), encode(t, table(job, 1, noon, 1, constant(1))))
	}
	for ref, want := range map[string]dhalion.JobID{"prod/wordcount": "prod/wordcount", "sessions": "prod/sessions", "prod/sessions": "prod/sessions"} {
		if got, err := s.FindJob(ctx, ref); err != nil || got != want {
			t.Errorf("%s: %s, %v", ref, got, err)
		}
	}
	_, err := s.FindJob(ctx, "wordcount")
	if e := wantError[*AmbiguousError](t, err); !slices.Equal(e.Candidates, []string{"prod/wordcount", "test/wordcount"}) {
		t.Errorf("candidates %v", e.Candidates)
	}
	_, err = s.FindJob(ctx, "nobody")
	wantError[*NotFoundError](t, err)
	_, err = s.History(ctx, "nobody/none", time.Time{}, noon)
	wantError[*NotFoundError](t, err)
	_, err = s.Newest(ctx, "nobody/none")
	wantError[*NotFoundError](t, err)
	_, err = s.Catalogue(ctx, "nobody/none")
	wantError[*NotFoundError](t, err)
}

func TestAJobThatIsDeletedTakesAllButTheLogAlong(t *testing.T) {
	s, url := openStore(t)
	for i, job := range []dhalion.JobID{wordcount, "file/other"} {
		_, _, err := s.Ingest(ctx, Input{Hash: fmt.Sprint(i)}, func(ctx context.Context, out ingest.Out) (ingest.Report, error) {
			if err := out.Topology(ctx, job, topology(noon, 1)); err != nil {
				return ingest.Report{}, err
			}
			return handing(encode(t, table(job, 1, noon, 1, constant(1))))(ctx, out)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	p := saved(t, s, "a plan", "ann")
	if _, err := s.Approve(ctx, dhalion.Approval{Plan: p.ID, Digest: p.Digest, Person: "bob", At: noon}, true); err != nil {
		t.Fatal(err)
	}
	if _, err := s.SaveFindings(ctx, Evaluation{Job: wordcount, AsOf: noon}); err != nil {
		t.Fatal(err)
	}
	exec(t, url, "INSERT INTO leases (job, plan, holder, epoch, until) VALUES ($1, $2, 'x', 1, now())", string(wordcount), p.ID)
	exec(t, url, "DELETE FROM jobs WHERE id = $1", string(wordcount))
	for table, want := range map[string]string{"jobs": "1", "segments": "1", "topologies": "1", "plans": "0", "approvals": "0", "findings": "0", "leases": "0", "log": "2"} {
		if got := count(t, url, table); got != want {
			t.Errorf("%s rows in %s, want %s", got, table, want)
		}
	}
}
