package store

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/ingest"
	"github.com/dhalion-go/dhalion/ingest/segment"
)

// model is the naive history: every value that was ever ingested, settled at
// once. The later input wins, within one input the greater value.
type model struct {
	values  map[cell]settledValue
	workers map[row]settledName
}

type row struct {
	target dhalion.Target
	at     int64
}

type cell struct {
	row
	metric dhalion.Metric
}

type settledValue struct {
	seq int
	v   float64
}

type settledName struct {
	seq  int
	name string
}

func newModel() *model {
	return &model{map[cell]settledValue{}, map[row]settledName{}}
}

func (m *model) add(seq int, c cell, v float64, worker string) {
	if was, ok := m.values[c]; !ok || was.seq < seq || was.seq == seq && was.v < v {
		m.values[c] = settledValue{seq, v}
	}
	if worker == "" {
		return
	}
	if was, ok := m.workers[c.row]; !ok || was.seq < seq || was.seq == seq && was.name < worker {
		m.workers[c.row] = settledName{seq, worker}
	}
}

func (m *model) digest(job dhalion.JobID) string {
	builders := map[dhalion.TargetKind]*segment.Builder{}
	for c, v := range m.values {
		kind := c.target.Kind
		if builders[kind] == nil {
			builders[kind] = segment.NewBuilder(job, kind)
		}
		builders[kind].Add(c.target, m.workers[c.row].name, c.at, c.metric, v.v)
	}
	h := segment.History{Job: job, Tables: map[dhalion.TargetKind]*segment.Table{}}
	for kind, b := range builders {
		h.Tables[kind], _ = b.Build()
	}
	return h.Digest()
}

func TestCompactionNeverChangesAHistory(t *testing.T) {
	t.Parallel()
	s, _ := openStore(t)
	s.untidy = true
	number := 0
	rapid.Check(t, func(t *rapid.T) {
		number++
		job := dhalion.JobID(fmt.Sprint("file/job", number))
		m := newModel()
		// 20 s before midnight: inputs fall on both days.
		begin := time.Date(2026, 3, 4, 23, 59, 40, 0, time.UTC)
		merges := 0
		for seq := range rapid.IntRange(2, 6).Draw(t, "inputs") {
			tables := map[int]*segment.Builder{}
			for range rapid.IntRange(1, 3).Draw(t, "blocks") {
				// A segment each, so that those of one input overlap, too.
				part := len(tables)
				tables[part] = segment.NewBuilder(job, dhalion.KindInstance)
				from := rapid.IntRange(0, 40).Draw(t, "from")
				metric := rapid.SampledFrom([]dhalion.Metric{dhalion.Busy, dhalion.Idle}).Draw(t, "metric")
				target := dhalion.InstanceTarget(job, "counter", rapid.IntRange(0, 1).Draw(t, "instance"))
				worker := rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "worker")
				for k := range rapid.IntRange(1, 12).Draw(t, "rows") {
					v := float64(rapid.IntRange(0, 9).Draw(t, "value"))
					at := begin.Add(time.Duration(from+k) * time.Second).UnixMicro()
					m.add(seq, cell{row{target, at}, metric}, v, worker)
					tables[part].Add(target, worker, at, metric, v)
				}
			}
			var segs []dhalion.Segment
			for _, b := range tables {
				if _, _, err := b.Flush(func(tab *segment.Table) error {
					seg, err := segment.Encode(tab)
					segs = append(segs, seg)
					return err
				}); err != nil {
					t.Fatal(err)
				}
			}
			if _, _, err := s.Ingest(ctx, Input{Hash: fmt.Sprint(number, " ", seq)}, handing(segs...)); err != nil {
				t.Fatal(err)
			}
			for range rapid.IntRange(0, 2).Draw(t, "compactions") {
				// Any set that the rule allows, not only those that the plans would take.
				some := func(list []entry) []entry {
					in := make([]bool, len(list))
					var group []entry
					for i := range list {
						if in[i] = rapid.Bool().Draw(t, "in"); in[i] {
							group = append(group, list[i])
						}
					}
					if !mergeable(list, in) {
						return nil
					}
					return group
				}
				c := compactor{store: s, plan: some, cells: rapid.IntRange(3, 60).Draw(t, "cells at once"), most: math.MaxInt}
				if rapid.IntRange(0, 5).Draw(t, "all") == 0 {
					c.plan = planAll
				}
				rep, err := c.oneEach(job)
				if err != nil {
					t.Fatal(err)
				}
				merges += rep
				h, err := s.History(ctx, job, time.Time{}, begin.AddDate(1, 0, 0))
				if err != nil {
					t.Fatal(err)
				}
				if h.Digest() != m.digest(job) {
					t.Fatalf("after %d inputs and %d merges the history is another", seq+1, merges)
				}
			}
		}
		if _, err := s.Compact(ctx, CompactOptions{Job: job}); err != nil {
			t.Fatal(err)
		}
		h, err := s.History(ctx, job, time.Time{}, begin.AddDate(1, 0, 0))
		if err != nil || h.Digest() != m.digest(job) {
			t.Fatal("compacted wholly, the history is another", err)
		}
		list, err := s.Catalogue(ctx, job)
		if err != nil || len(list) > 2 {
			t.Fatalf("%d segments are left of two days, %v", len(list), err)
		}
	})
}

// oneEach merges once in every pile of a job.
func (c *compactor) oneEach(job dhalion.JobID) (merges int, err error) {
	piles, err := c.piles(ctx, job)
	if err != nil {
		return 0, err
	}
	for _, p := range piles {
		r, err := c.merge(ctx, p)
		if err != nil {
			return merges, err
		}
		if r.replaced > 0 {
			merges++
		}
	}
	return merges, nil
}

func TestASetIsMergedOnlyWhenNoSequenceNumberIsPassed(t *testing.T) {
	at := func(seq, from, to int64) entry { return entry{seq: seq, from: from, to: to} }
	for _, c := range []struct {
		name string
		list []entry
		in   []bool
		want bool
	}{
		{"nothing else", []entry{at(1, 0, 9), at(2, 5, 20)}, []bool{true, true}, true},
		{"another one between them", []entry{at(1, 0, 9), at(2, 5, 6), at(3, 0, 9)}, []bool{true, false, true}, false},
		{"between them, elsewhere in time", []entry{at(1, 0, 9), at(2, 30, 40), at(3, 0, 9)}, []bool{true, false, true}, true},
		{"between them, beside the lower in time", []entry{at(1, 0, 9), at(2, 10, 20), at(3, 10, 20)}, []bool{true, false, true}, true},
		{"between them, touching the lower", []entry{at(1, 0, 9), at(2, 9, 20), at(3, 10, 20)}, []bool{true, false, true}, false},
		{"above them", []entry{at(1, 0, 9), at(9, 0, 9), at(3, 0, 9)}, []bool{true, false, true}, true},
		{"below them", []entry{at(2, 0, 9), at(1, 0, 9), at(3, 0, 9)}, []bool{true, false, true}, true},
		{"as the lower", []entry{at(1, 0, 9), at(1, 0, 9), at(3, 0, 9)}, []bool{true, false, true}, false},
		{"as the greater, over the lower", []entry{at(1, 0, 9), at(3, 0, 9), at(3, 0, 9)}, []bool{true, false, true}, false},
		{"as all of them", []entry{at(3, 0, 9), at(3, 0, 9), at(3, 0, 9)}, []bool{true, false, true}, true},
	} {
		if got := mergeable(c.list, c.in); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

// poll is one time of n instances × 10 metrics.
func poll(t testing.TB, job dhalion.JobID, n int, at time.Time) dhalion.Segment {
	t.Helper()
	b := segment.NewBuilder(job, dhalion.KindInstance)
	for i := range n {
		for m, metric := range tenMetrics {
			b.Add(dhalion.InstanceTarget(job, "counter", i), fmt.Sprint("tm-", i%5), at.UnixMicro(), metric, float64((i*m+int(at.Unix()))%1000)/1000)
		}
	}
	tab, _ := b.Build()
	return encode(t, tab)
}

func TestLivePollsAreMergedAsTheyCome(t *testing.T) {
	t.Parallel()
	s, _ := openStore(t)
	// 20 instances × (10 metrics and the key) are 240 cells: 16 polls are 3,840,
	// and 256 are 61,440.
	const polls = 500
	values := 0
	for k := range polls {
		seg := poll(t, wordcount, 20, noon.Add(time.Duration(k)*time.Second))
		values += seg.Values
		mustIngest(t, s, fmt.Sprint(k), seg)
	}
	list, err := s.Catalogue(ctx, wordcount)
	if err != nil {
		t.Fatal(err)
	}
	// At most 15 of the class of 240 cells and of that of 3,840, and one larger.
	if len(list) > 31 {
		t.Errorf("%d polls left %d segments", polls, len(list))
	}
	t.Logf("%d polls left %d segments", polls, len(list))
	h := read(t, s, wordcount)
	if n := h.Tables[dhalion.KindInstance].Known(); n != values {
		t.Errorf("%d values, want %d", n, values)
	}
	digest := h.Digest()
	rep, err := s.Compact(ctx, CompactOptions{Job: wordcount})
	if err != nil || rep.SegmentsAfter != 1 {
		t.Errorf("compacted: %+v, %v", rep, err)
	}
	if read(t, s, wordcount).Digest() != digest {
		t.Error("compaction changed the history")
	}
	again, err := s.Compact(ctx, CompactOptions{Job: wordcount})
	if err != nil || again.Merges != 0 || again.SegmentsBefore != 1 {
		t.Errorf("compacted again: %+v, %v", again, err)
	}
}

func TestEachValueOfADayOfPollsIsRewrittenFewTimes(t *testing.T) {
	// The plan alone, on a catalogue: ten-second polls of four sizes, and of two
	// pollers whose stretches overlap.
	for _, c := range []struct {
		name    string
		values  int
		length  int64 // of a poll's stretch, s
		at      int   // s between polls
		lateOf  int   // every so many polls comes an hour late; 0: none
		most    float64
		atMost  int // segments in the end
		notOver int // entries looked at in one plan
	}{
		{"100 values", 100, 0, 10, 0, 4, 60, 300},
		{"1000 values", 1000, 0, 10, 0, 3, 60, 300},
		{"10000 values", 10000, 0, 10, 0, 2.5, 300, 400},
		{"overlapping minutes", 600, 60, 30, 0, 7, 70, 300},
		{"late ones", 1000, 0, 10, 7, 7, 300, 600},
	} {
		var list []entry
		ingested, rewritten, longest := 0.0, 0.0, 0
		seq := int64(0)
		for at := 0; at < 86400; at += c.at {
			seq++
			from := int64(at) * 1e6
			if c.lateOf > 0 && int(seq)%c.lateOf == 0 {
				from = max(0, from-3600e6-500000)
			}
			list = append(list, entry{seq: seq, input: seq, hash: fmt.Sprint(seq), from: from, to: from + c.length*1e6, values: c.values, rows: max(1, c.values/10)})
			ingested += float64(c.values)
			sortEntries(list)
			longest = max(longest, len(list))
			for {
				group := planSome(list)
				if len(group) == 0 {
					break
				}
				in := make([]bool, len(list))
				total := entry{hash: fmt.Sprint("merged ", rewritten), from: group[0].from}
				for i := range list {
					in[i] = slices.ContainsFunc(group, func(e entry) bool { return e.hash == list[i].hash })
				}
				if !mergeable(list, in) {
					t.Fatalf("%s: a set that must not be merged", c.name)
				}
				var rest []entry
				for i, e := range list {
					if !in[i] {
						rest = append(rest, e)
						continue
					}
					total.seq, total.from, total.to = max(total.seq, e.seq), min(total.from, e.from), max(total.to, e.to)
					total.values += e.values
					total.rows += e.rows
				}
				total.input = total.seq
				rewritten += float64(total.values)
				// As segment.Split: full ones, then the rest.
				n := max(1, (total.cells()+segment.MaxCells-1)/segment.MaxCells)
				for k := range n {
					part := total
					part.hash = fmt.Sprint(total.hash, " ", k)
					part.from = total.from + (total.to-total.from)*int64(k)/int64(n) + int64(min(k, 1))
					part.to = total.from + (total.to-total.from)*int64(k+1)/int64(n)
					part.values, part.rows = total.values/n, total.rows/n
					part.filled = k < n-1
					rest = append(rest, part)
				}
				list = rest
				sortEntries(list)
			}
		}
		amplification := rewritten / ingested
		t.Logf("%s: %d polls became %d segments; each value was rewritten %.2f times; at most %d segments at once", c.name, seq, len(list), amplification, longest)
		if amplification > c.most || len(list) > c.atMost || longest > c.notOver {
			t.Errorf("%s: rewritten %.2f times (at most %v), %d segments left (%d), %d at once (%d)", c.name, amplification, c.most, len(list), c.atMost, longest, c.notOver)
		}
	}
}

func TestLateDataKeepsItsPlaceThroughCompaction(t *testing.T) {
	s, _ := openStore(t)
	compact := func() {
		t.Helper()
		if _, err := s.Compact(ctx, CompactOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	mustIngest(t, s, "b", encode(t, table(wordcount, 1, noon.Add(4*time.Second), 4, constant(2)))) // 4..7
	mustIngest(t, s, "c", encode(t, table(wordcount, 1, noon.Add(8*time.Second), 2, constant(3)))) // 8..9
	compact()
	// Older times, later: wins over what was compacted, and is won over after.
	mustIngest(t, s, "late", encode(t, table(wordcount, 1, noon.Add(2*time.Second), 4, constant(1)))) // 2..5
	want := []float64{1, 1, 1, 1, 2, 2, 3, 3}
	if got := busy(read(t, s, wordcount)); !slices.Equal(got, want) {
		t.Errorf("late data beside a compacted segment: %v, want %v", got, want)
	}
	compact()
	mustIngest(t, s, "later", encode(t, table(wordcount, 1, noon.Add(5*time.Second), 1, constant(0)))) // 5
	want[3] = 0
	for range 2 {
		if got := busy(read(t, s, wordcount)); !slices.Equal(got, want) {
			t.Errorf("later data: %v, want %v", got, want)
		}
		compact()
	}
	list, err := s.Catalogue(ctx, wordcount)
	if err != nil || len(list) != 1 || list[0].Seq != 4 {
		t.Errorf("catalogue %+v, %v", list, err)
	}
}

func TestAnIngestThatEndsAfterACompactionWinsOverWhatWasCompacted(t *testing.T) {
	s, _ := openStore(t)
	mustIngest(t, s, "a", encode(t, table(wordcount, 1, noon, 4, constant(1))))
	mustIngest(t, s, "b", encode(t, table(wordcount, 1, noon.Add(2*time.Second), 4, constant(2))))
	_, _, err := s.Ingest(ctx, Input{Hash: "long"}, func(c context.Context, out ingest.Out) (ingest.Report, error) {
		rep, err := handing(encode(t, table(wordcount, 1, noon.Add(time.Second), 2, constant(7))))(c, out)
		if err != nil {
			return rep, err
		}
		mustIngest(t, s, "c", encode(t, table(wordcount, 1, noon.Add(2*time.Second), 1, constant(3))))
		if rep, err := s.Compact(c, CompactOptions{}); err != nil || rep.SegmentsBefore != 3 || rep.SegmentsAfter != 1 {
			t.Errorf("compacted meanwhile: %+v, %v", rep, err)
		}
		if got := busy(read(t, s, wordcount)); !slices.Equal(got, []float64{1, 1, 3, 2, 2, 2}) {
			t.Errorf("meanwhile %v", got)
		}
		return rep, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := busy(read(t, s, wordcount)); !slices.Equal(got, []float64{1, 7, 7, 2, 2, 2}) {
		t.Errorf("afterwards %v", got)
	}
}

func TestCompactorsAndIngestsAtOnceLoseNothing(t *testing.T) {
	t.Parallel()
	s, _ := openStore(t)
	s.untidy = true
	m := newModel()
	var all sync.WaitGroup
	stop := make(chan struct{})
	for range 3 {
		all.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := s.Compact(ctx, CompactOptions{Job: wordcount}); err != nil {
					var none *NotFoundError
					if !errors.As(err, &none) { // before the first ingest
						t.Error(err)
						return
					}
				}
			}
		})
	}
	random := rand.New(rand.NewPCG(1, 2))
	target := dhalion.InstanceTarget(wordcount, "counter", 0)
	for seq := range 40 {
		from, n := random.IntN(50), 1+random.IntN(20)
		for k := range n {
			m.add(seq, cell{row{target, noon.Add(time.Duration(from+k) * time.Second).UnixMicro()}, dhalion.Busy}, float64(seq), "tm-0")
		}
		mustIngest(t, s, fmt.Sprint(seq), encode(t, table(wordcount, 1, noon.Add(time.Duration(from)*time.Second), n, constant(float64(seq)))))
	}
	close(stop)
	all.Wait()
	if read(t, s, wordcount).Digest() != m.digest(wordcount) {
		t.Error("the history is another")
	}
}

func TestAGroupLargerThanOnePassIsCutByTime(t *testing.T) {
	if testing.Short() {
		t.Skip("1.2 million values")
	}
	s, _ := openStore(t)
	// Metric-major: each of 10 segments has one metric of 100 instances over 1200
	// times, so that all overlap. 1.2 M values and 120,000 rows are 1.44 M cells:
	// three segments.
	builder := segment.NewBuilder(wordcount, dhalion.KindInstance)
	var segs []dhalion.Segment
	for m, metric := range tenMetrics {
		part := segment.NewBuilder(wordcount, dhalion.KindInstance)
		for i := range 100 {
			target := dhalion.InstanceTarget(wordcount, "counter", i)
			for k := range 1200 {
				v := math.Round(1e4*(1+math.Sin(float64(i*k+m)))) / 1e4
				at := noon.Add(time.Duration(k) * time.Second).UnixMicro()
				part.Add(target, "", at, metric, v)
				builder.Add(target, "", at, metric, v)
			}
		}
		if _, _, err := part.Flush(func(tab *segment.Table) error { segs = append(segs, encode(t, tab)); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	mustIngest(t, s, "a", segs...)
	want, _ := builder.Build()
	digest := (&segment.History{Job: wordcount, Tables: map[dhalion.TargetKind]*segment.Table{dhalion.KindInstance: want}}).Digest()
	if read(t, s, wordcount).Digest() != digest {
		t.Fatal("the history was another before")
	}
	c := compactor{store: s, plan: planAll, cells: segment.MaxCells, most: math.MaxInt}
	rep, err := c.run(ctx, CompactOptions{Job: wordcount})
	if err != nil || rep.Merges == 0 {
		t.Fatal(rep, err)
	}
	list, err := s.Catalogue(ctx, wordcount)
	if err != nil {
		t.Fatal(err)
	}
	if len(list) != 3 {
		t.Errorf("%d segments, want 3", len(list))
	}
	for i := 1; i < len(list); i++ {
		if !list[i].From.After(list[i-1].To) {
			t.Errorf("segment %d overlaps the one before", i)
		}
	}
	if read(t, s, wordcount).Digest() != digest {
		t.Error("the history is another")
	}
}
