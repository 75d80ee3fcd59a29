package segment

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/dhalion-go/dhalion"
)

const testJob = dhalion.JobID("file/wordcount")

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// cell is one measurement as the tests think of it.
type cell struct {
	target dhalion.Target
	worker string
	at     int64
	metric dhalion.Metric
	value  float64
}

func build(kind dhalion.TargetKind, cells []cell) (*Table, int) {
	b := NewBuilder(testJob, kind)
	for _, c := range cells {
		b.Add(c.target, c.worker, c.at, c.metric, c.value)
	}
	return b.Build()
}

func history(tables ...*Table) *History {
	h := &History{Job: testJob, Tables: map[dhalion.TargetKind]*Table{}}
	for _, t := range tables {
		h.Tables[t.Kind()] = t
	}
	return h
}

// cellsOf draws measurements with many collisions: few targets, times, values.
func cellsOf(kind dhalion.TargetKind) *rapid.Generator[[]cell] {
	one := rapid.Custom(func(t *rapid.T) cell {
		var target dhalion.Target
		component := rapid.SampledFrom([]string{"source", "counter", "größe"}).Draw(t, "component")
		worker := rapid.SampledFrom([]string{"", "tm-1", "tm-2"}).Draw(t, "worker")
		switch kind {
		case dhalion.KindJob:
			target = dhalion.JobTarget(testJob)
		case dhalion.KindComponent:
			target = dhalion.ComponentTarget(testJob, component)
		case dhalion.KindInstance:
			target = dhalion.InstanceTarget(testJob, component, rapid.IntRange(0, 3).Draw(t, "instance"))
		case dhalion.KindWorker:
			target = dhalion.WorkerTarget(testJob, "tm-"+component)
		}
		return cell{
			target: target,
			worker: worker,
			at:     noon.UnixMicro() + int64(rapid.IntRange(0, 6).Draw(t, "second"))*1e6,
			metric: rapid.SampledFrom([]dhalion.Metric{dhalion.Busy, dhalion.Idle, dhalion.Lag}).Draw(t, "metric"),
			value:  rapid.SampledFrom([]float64{0, math.Copysign(0, -1), 0.25, 0.5, 1, 1e300, math.NaN()}).Draw(t, "value"),
		}
	})
	return rapid.SliceOfN(one, 1, 60)
}

func drawKind(t *rapid.T) dhalion.TargetKind {
	return rapid.SampledFrom(dhalion.TargetKinds).Draw(t, "kind")
}

// check says what is wrong with a table's form.
func check(t *Table) error {
	row := 0
	for i, s := range t.Spans() {
		if s.Start != row || s.End <= s.Start {
			return fmt.Errorf("span %d is [%d, %d), rows before end at %d", i, s.Start, s.End, row)
		}
		if i > 0 && t.Spans()[i-1].Target.Compare(s.Target) >= 0 {
			return fmt.Errorf("targets not sorted at %s", s.Target)
		}
		for r := s.Start + 1; r < s.End; r++ {
			if t.Times()[r] <= t.Times()[r-1] {
				return fmt.Errorf("times of %s not sorted", s.Target)
			}
		}
		row = s.End
	}
	if row != t.Rows() {
		return fmt.Errorf("spans cover %d of %d rows", row, t.Rows())
	}
	return nil
}

func encoded(t *rapid.T, table *Table) []byte {
	if table.Rows() == 0 {
		return nil
	}
	s, err := Encode(table)
	if err != nil {
		t.Fatal(err)
	}
	return s.Bytes
}

// reference settles cells one by one in the plainest way: the greatest seq, then
// the greatest value.
type key struct {
	target dhalion.Target
	at     int64
	metric dhalion.Metric // empty for the row's worker
}

type settled struct {
	seq   int64
	value float64
	name  string
}

func reference(layers map[int64][]cell) map[key]settled {
	out := map[key]settled{}
	for seq, cells := range layers {
		for _, c := range cells {
			if c.value == c.value {
				k := key{c.target, c.at, c.metric}
				if old, ok := out[k]; !ok || seq > old.seq || seq == old.seq && c.value > old.value {
					out[k] = settled{seq: seq, value: c.value}
				}
			}
			if c.worker != "" && c.target.Kind == dhalion.KindInstance {
				k := key{c.target, c.at, ""}
				if old, ok := out[k]; !ok || seq > old.seq || seq == old.seq && c.worker > old.name {
					out[k] = settled{seq: seq, name: c.worker}
				}
			}
		}
	}
	return out
}

func compare(t *Table, want map[key]settled) error {
	n := 0
	for _, s := range t.Spans() {
		for row := s.Start; row < s.End; row++ {
			for _, m := range t.Metrics() {
				v := t.Values(m)[row]
				w, ok := want[key{s.Target, t.Times()[row], m}]
				if ok != (v == v) || ok && v != w.value {
					return fmt.Errorf("%s %s at %d: got %v, want %v (known %v)", s.Target, m, t.Times()[row], v, w.value, ok)
				}
				if ok {
					n++
				}
			}
			w, ok := want[key{s.Target, t.Times()[row], ""}]
			if t.Worker(row) != w.name {
				return fmt.Errorf("%s at %d: worker %q, want %q", s.Target, t.Times()[row], t.Worker(row), w.name)
			}
			if ok {
				n++
			}
		}
	}
	if n != len(want) {
		return fmt.Errorf("%d cells, want %d", n, len(want))
	}
	return nil
}

func TestABuilderKeepsTheGreatestValueOfEveryCell(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		kind := drawKind(t)
		cells := cellsOf(kind).Draw(t, "cells")
		table, _ := build(kind, cells)
		if err := check(table); err != nil {
			t.Fatal(err)
		}
		if err := compare(table, reference(map[int64][]cell{1: cells})); err != nil {
			t.Fatal(err)
		}
	})
}

func TestRowsInAnyOrderGiveTheSameBytesConflictsAndDigest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		kind := drawKind(t)
		cells := cellsOf(kind).Draw(t, "cells")
		a, conflicts := build(kind, cells)
		shuffled := rapid.Permutation(cells).Draw(t, "shuffled")
		b, again := build(kind, shuffled)
		if conflicts != again {
			t.Fatalf("%d conflicts, in another order %d", conflicts, again)
		}
		if !bytes.Equal(encoded(t, a), encoded(t, b)) {
			t.Fatal("another order of rows gives other bytes")
		}
		if history(a).Digest() != history(b).Digest() {
			t.Fatal("another order of rows gives another digest")
		}
	})
}

func TestBatchesOfAnySizeMergeToTheSameTable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		kind := drawKind(t)
		cells := cellsOf(kind).Draw(t, "cells")
		whole, _ := build(kind, cells)
		var layers []Layer
		for rest := cells; len(rest) > 0; {
			n := rapid.IntRange(1, len(rest)).Draw(t, "batch")
			part, _ := build(kind, rest[:n])
			layers = append(layers, Layer{part, 7})
			rest = rest[n:]
		}
		merged, _, err := Merge(layers)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(encoded(t, whole), encoded(t, merged)) {
			t.Fatal("batches give other bytes than the whole")
		}
		if history(whole).Digest() != history(merged).Digest() {
			t.Fatal("batches give another digest than the whole")
		}
	})
}

func TestMergeTakesTheGreatestSeqThenTheGreatestValueWhateverTheOrderOfLayers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		kind := drawKind(t)
		want := map[int64][]cell{}
		var layers []Layer
		for range rapid.IntRange(1, 5).Draw(t, "layers") {
			seq := int64(rapid.IntRange(1, 3).Draw(t, "seq"))
			cells := cellsOf(kind).Draw(t, "cells")
			table, _ := build(kind, cells)
			layers = append(layers, Layer{table, seq})
			want[seq] = append(want[seq], cells...)
		}
		merged, conflicts, err := Merge(layers)
		if err != nil {
			t.Fatal(err)
		}
		if err := check(merged); err != nil {
			t.Fatal(err)
		}
		if err := compare(merged, reference(want)); err != nil {
			t.Fatal(err)
		}
		other, again, err := Merge(rapid.Permutation(layers).Draw(t, "order"))
		if err != nil {
			t.Fatal(err)
		}
		if conflicts != again || !bytes.Equal(encoded(t, merged), encoded(t, other)) {
			t.Fatalf("another order of layers gives another table (%d and %d conflicts)", conflicts, again)
		}
	})
}

func TestWhatIsDecodedEncodesToTheSameBytes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		kind := drawKind(t)
		table, _ := build(kind, cellsOf(kind).Draw(t, "cells"))
		if table.Rows() == 0 {
			t.Skip("only unknown values")
		}
		s, err := Encode(table)
		if err != nil {
			t.Fatal(err)
		}
		back, err := Decode(s)
		if err != nil {
			t.Fatal(err)
		}
		if err := check(back); err != nil {
			t.Fatal(err)
		}
		again, err := Encode(back)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(s.Bytes, again.Bytes) || s.Hash != again.Hash {
			t.Fatal("decoding and encoding changes the bytes")
		}
		if s.Rows != back.Rows() || s.Values != back.Known() {
			t.Fatalf("the catalogue says %d rows, %d values; there are %d, %d", s.Rows, s.Values, back.Rows(), back.Known())
		}
		if history(table).Digest() != history(back).Digest() {
			t.Fatal("decoding changes the digest")
		}
	})
}

func TestOneChangedByteIsRefusedByTheHash(t *testing.T) {
	s := sample(t)
	s.Bytes = slices.Clone(s.Bytes)
	s.Bytes[len(s.Bytes)/2] ^= 1
	if _, err := Decode(s); err == nil || !strings.Contains(err.Error(), "hash") {
		t.Fatalf("got %v", err)
	}
}

func TestNoChangedByteOrCutMakesDecodePanicOrBreakTheOrder(t *testing.T) {
	s := sample(t)
	s.Hash, s.Rows = "", 0
	whole := s.Bytes
	for i := range whole {
		for _, flip := range []byte{1, 0x80, 0xFF} {
			s.Bytes = slices.Clone(whole)
			s.Bytes[i] ^= flip
			if table, err := Decode(s); err == nil {
				if err := check(table); err != nil {
					t.Fatalf("byte %d ^ %#x: %v", i, flip, err)
				}
			}
		}
		s.Bytes = whole[:i]
		if _, err := Decode(s); err == nil {
			t.Fatalf("%d of %d bytes are accepted", i, len(whole))
		}
	}
}

func TestAHugeDeclaredSizeIsRefusedBeforeMemoryIsTaken(t *testing.T) {
	// A message whose metadata declares 2 GiB.
	data := binary.LittleEndian.AppendUint32([]byte{0xFF, 0xFF, 0xFF, 0xFF}, 0x7FFFFFFF)
	if _, err := Decode(dhalion.Segment{Bytes: append(data, 0, 0, 0, 0)}); err == nil || !strings.Contains(err.Error(), "2147483647 bytes") {
		t.Fatalf("got %v", err)
	}
	// Every 8 bytes of a real segment in turn become a huge length.
	s := sample(t)
	s.Hash = ""
	whole := s.Bytes
	for i := 0; i+8 <= len(whole); i += 4 {
		s.Bytes = slices.Clone(whole)
		binary.LittleEndian.PutUint64(s.Bytes[i:], 1<<40)
		_, _ = Decode(s) // it must return; the limit on memory is the test's own
	}
}

func sample(t testing.TB) dhalion.Segment {
	b := NewBuilder(testJob, dhalion.KindInstance)
	for i := range 3 {
		for s := range 5 {
			at := noon.Add(time.Duration(s) * time.Second).UnixMicro()
			target := dhalion.InstanceTarget(testJob, "counter", i)
			b.Add(target, fmt.Sprintf("tm-%d", i%2), at, dhalion.Busy, float64(s)/8)
			b.Add(target, "", at, dhalion.RecordsIn, float64(100*i+s))
		}
	}
	table, _ := b.Build()
	s, err := Encode(table)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestACatalogueEntryThatDoesNotFitItsBytesIsRefused(t *testing.T) {
	for _, change := range []func(*dhalion.Segment){
		func(s *dhalion.Segment) { s.Job = "file/other" },
		func(s *dhalion.Segment) { s.Kind = dhalion.KindWorker },
		func(s *dhalion.Segment) { s.Rows++ },
	} {
		s := sample(t)
		change(&s)
		if _, err := Decode(s); err == nil || !strings.Contains(err.Error(), "the catalogue says") {
			t.Errorf("got %v", err)
		}
	}
}

func TestEncodeRefusesWhatIsNoSegment(t *testing.T) {
	job := dhalion.JobTarget(testJob)
	midnight := time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)
	for want, cells := range map[string][]cell{
		"no rows":            {},
		"midnight":           {{job, "", midnight.UnixMicro() - 1, dhalion.Lag, 1}, {job, "", midnight.UnixMicro(), dhalion.Lag, 1}},
		"infinite":           {{job, "", 0, dhalion.Lag, math.Inf(1)}},
		"years 1 to 9999":    {{job, "", minMicros - 1, dhalion.Lag, 1}},
		"the years 1 to 999": {{job, "", maxMicros + 1, dhalion.Lag, 1}},
	} {
		table, _ := build(dhalion.KindJob, cells)
		if _, err := Encode(table); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}

func TestUnknownNeverErasesKnown(t *testing.T) {
	job := dhalion.JobTarget(testJob)
	at := noon.UnixMicro()
	early, _ := build(dhalion.KindJob, []cell{{job, "", at, dhalion.Lag, 5}, {job, "", at, dhalion.Latency, 1}})
	late, _ := build(dhalion.KindJob, []cell{{job, "", at, dhalion.Lag, math.NaN()}, {job, "", at, dhalion.Latency, 2}})
	merged, conflicts, err := Merge([]Layer{{late, 2}, {early, 1}})
	if err != nil {
		t.Fatal(err)
	}
	// Lag is known only early; latency is 1 early and 2 late, and the later
	// ingest is no conflict but a correction.
	if lag, latency := merged.Values(dhalion.Lag)[0], merged.Values(dhalion.Latency)[0]; lag != 5 || latency != 2 || conflicts != 0 {
		t.Fatalf("lag %v, latency %v, %d conflicts", lag, latency, conflicts)
	}
}

func TestTwoValuesOfOneIngestAreAConflictAndTheGreaterWins(t *testing.T) {
	job := dhalion.JobTarget(testJob)
	a, _ := build(dhalion.KindJob, []cell{{job, "", 0, dhalion.Lag, 5}})
	b, _ := build(dhalion.KindJob, []cell{{job, "", 0, dhalion.Lag, 9}})
	merged, conflicts, err := Merge([]Layer{{a, 4}, {b, 4}, {a, 4}})
	if err != nil || conflicts != 1 || merged.Values(dhalion.Lag)[0] != 9 {
		t.Fatalf("%v, %d conflicts, %v", merged.Values(dhalion.Lag), conflicts, err)
	}
}

func TestMergeRefusesTablesOfDifferentJobsOrKindsAndNoTables(t *testing.T) {
	a, _ := build(dhalion.KindJob, []cell{{dhalion.JobTarget(testJob), "", 0, dhalion.Lag, 5}})
	b, _ := build(dhalion.KindComponent, []cell{{dhalion.ComponentTarget(testJob, "x"), "", 0, dhalion.Lag, 5}})
	for _, layers := range [][]Layer{nil, {{a, 1}, {b, 2}}} {
		if _, _, err := Merge(layers); err == nil {
			t.Errorf("%d layers are accepted", len(layers))
		}
	}
}

func TestBetweenExcludesItsStartAndIncludesItsEnd(t *testing.T) {
	job := dhalion.JobTarget(testJob)
	var cells []cell
	for s := range 10 {
		cells = append(cells, cell{job, "", noon.Add(time.Duration(s) * time.Second).UnixMicro(), dhalion.Lag, float64(s)})
	}
	table, _ := build(dhalion.KindJob, cells)
	got := Between(table, noon.Add(2*time.Second), noon.Add(5*time.Second)).Values(dhalion.Lag)
	if !slices.Equal(got, []float64{3, 4, 5}) {
		t.Fatalf("got %v", got)
	}
	if Between(table, noon.Add(-time.Second), noon.Add(time.Hour)) != table {
		t.Error("a table that is all inside is copied")
	}
	if n := Between(table, noon.Add(time.Hour), noon.Add(2*time.Hour)).Rows(); n != 0 {
		t.Errorf("%d rows outside", n)
	}
	zone := time.FixedZone("far", 5*3600)
	if a, b := Between(table, noon, noon.Add(3*time.Second)), Between(table, noon.In(zone), noon.Add(3*time.Second).In(zone)); history(a).Digest() != history(b).Digest() {
		t.Error("the time zone matters")
	}
}

func TestSplitCutsAtMidnightAndAtItsSizeAndLosesNothing(t *testing.T) {
	b := NewBuilder(testJob, dhalion.KindInstance)
	start := time.Date(2026, 3, 1, 23, 59, 0, 0, time.UTC)
	for s := range 120 {
		for i := range 2000 {
			at := start.Add(time.Duration(s) * time.Second).UnixMicro()
			b.Add(dhalion.InstanceTarget(testJob, "counter", i), "tm", at, dhalion.RecordsIn, float64(i*s))
		}
	}
	table, _ := b.Build()
	parts := Split(table)
	var layers []Layer
	for _, p := range parts {
		s, err := Encode(p)
		if err != nil {
			t.Fatal(err)
		}
		if len(s.Bytes) > 5<<20 {
			t.Errorf("a segment has %d bytes", len(s.Bytes))
		}
		layers = append(layers, Layer{p, 1})
	}
	// 60 s before and 60 s after midnight, each 120,000 rows of three cells, of
	// which MaxCells (524,288) holds 174,762: one part a day.
	if len(parts) != 2 {
		t.Errorf("%d parts, want 2", len(parts))
	}
	merged, conflicts, err := Merge(layers)
	if err != nil || conflicts != 0 || history(merged).Digest() != history(table).Digest() {
		t.Fatalf("the parts are not the whole: %d conflicts, %v", conflicts, err)
	}
}

func TestFlushGivesTheTablesThatSplitWould(t *testing.T) {
	fill := func() *Builder {
		b := NewBuilder(testJob, dhalion.KindInstance)
		r := rand.New(rand.NewPCG(1, 2))
		for range 300_000 {
			at := noon.Add(time.Duration(r.IntN(50_000)) * time.Second).UnixMicro()
			b.Add(dhalion.InstanceTarget(testJob, "counter", r.IntN(8)), "tm", at, dhalion.Busy, r.Float64())
		}
		return b
	}
	whole, conflicts := fill().Build()
	b := fill()
	var layers []Layer
	_, found, err := b.Flush(func(t *Table) error {
		if err := check(t); err != nil {
			return err
		}
		if _, err := Encode(t); err != nil {
			return err
		}
		if n := t.Rows() * (len(t.Metrics()) + keyCells); n > MaxCells {
			return fmt.Errorf("%d cells", n)
		}
		layers = append(layers, Layer{t, 1})
		return nil
	})
	if err != nil || found != conflicts || b.Len() != 0 || len(layers) < 2 {
		t.Fatalf("%v; %d conflicts, want %d; %d left; %d tables", err, found, conflicts, b.Len(), len(layers))
	}
	merged, again, err := Merge(layers)
	if err != nil || again != 0 || history(merged).Digest() != history(whole).Digest() {
		t.Fatalf("%v: the flushed tables are not the whole", err)
	}
}

func TestOneInstantThatIsTooLargeIsCutByTarget(t *testing.T) {
	b := NewBuilder(testJob, dhalion.KindInstance)
	n := MaxCells/3 + 100
	for i := range n {
		b.Add(dhalion.InstanceTarget(testJob, "counter", i), "", noon.UnixMicro(), dhalion.Busy, .5)
	}
	rows, parts := 0, 0
	if _, _, err := b.Flush(func(t *Table) error { rows += t.Rows(); parts++; return nil }); err != nil {
		t.Fatal(err)
	}
	if rows != n || parts != 2 {
		t.Fatalf("%d rows in %d parts", rows, parts)
	}
}

func TestTheDigestTellsTargetsMetricsTimesValuesAndWorkersApart(t *testing.T) {
	base := cell{dhalion.InstanceTarget(testJob, "counter", 1), "tm-1", noon.UnixMicro(), dhalion.Busy, .5}
	seen := map[string]string{}
	for name, change := range map[string]func(*cell){
		"as it is":    func(*cell) {},
		"component":   func(c *cell) { c.target.Component = "sink" },
		"instance":    func(c *cell) { c.target.Instance = 2 },
		"metric":      func(c *cell) { c.metric = dhalion.Idle },
		"time":        func(c *cell) { c.at++ },
		"value":       func(c *cell) { c.value = .25 },
		"worker":      func(c *cell) { c.worker = "tm-2" },
		"worker gone": func(c *cell) { c.worker = "" },
	} {
		c := base
		change(&c)
		table, _ := build(dhalion.KindInstance, []cell{c})
		d := history(table).Digest()
		if other, twice := seen[d]; twice {
			t.Errorf("%s and %s have one digest", name, other)
		}
		seen[d] = name
	}
}

func TestThePlacementIsTheNewestThatIsKnownAtATime(t *testing.T) {
	at := func(s int) time.Time { return noon.Add(time.Duration(s) * time.Second) }
	b := NewBuilder(testJob, dhalion.KindInstance)
	add := func(instance, second int, worker string) {
		b.Add(dhalion.InstanceTarget(testJob, "counter", instance), worker, at(second).UnixMicro(), dhalion.Busy, .5)
	}
	add(0, 1, "tm-1")
	add(0, 2, "")
	add(0, 3, "tm-2")
	add(1, 1, "tm-9")
	add(1, 5, "tm-3")
	add(7, 1, "tm-1") // there is no instance 7
	table, _ := b.Build()
	h := history(table)
	first := dhalion.Topology{
		From:       at(0),
		Components: []dhalion.Component{{Name: "counter", Parallelism: 2}},
		Placement:  []dhalion.Placement{{Component: "counter", Instance: 1, Worker: "tm-0"}},
	}
	second := first
	second.From = at(4)
	h.Topologies = []dhalion.Topology{first, second}

	if _, ok := h.TopologyAt(at(-1)); ok {
		t.Error("there is a topology before the first")
	}
	for _, c := range []struct {
		second   int
		zero, on string
		from     int
	}{
		{0, "", "tm-0", 0},     // before any row, the topology's own placement
		{1, "tm-1", "tm-9", 0}, // a row's worker wins over it
		{2, "tm-1", "tm-9", 0}, // an unknown worker changes nothing
		{3, "tm-2", "tm-9", 0},
		{4, "tm-2", "tm-0", 4}, // the newer topology knows better than rows from before it
		{5, "tm-2", "tm-3", 4},
	} {
		topology, ok := h.TopologyAt(at(c.second))
		if !ok || topology.WorkerOf("counter", 0) != c.zero || topology.WorkerOf("counter", 1) != c.on || !topology.From.Equal(at(c.from)) {
			t.Errorf("at %d s: %+v", c.second, topology)
		}
		if err := topology.Validate(); err != nil {
			t.Error(err)
		}
	}
	if first.WorkerOf("counter", 1) != "tm-0" {
		t.Error("the history's own topology was changed")
	}
	if got := h.Newest(); !got.Equal(at(5)) {
		t.Errorf("newest is %v", got)
	}
}

func FuzzDecode(f *testing.F) {
	s := sample(f)
	f.Add(s.Bytes)
	f.Add(s.Bytes[:len(s.Bytes)/2])
	for _, kind := range dhalion.TargetKinds {
		target := map[dhalion.TargetKind]dhalion.Target{
			dhalion.KindJob:       dhalion.JobTarget(testJob),
			dhalion.KindComponent: dhalion.ComponentTarget(testJob, "counter"),
			dhalion.KindInstance:  dhalion.InstanceTarget(testJob, "counter", 1),
			dhalion.KindWorker:    dhalion.WorkerTarget(testJob, "tm"),
		}[kind]
		table, _ := build(kind, []cell{{target, "tm", 0, dhalion.Lag, 1}, {target, "", 1e6, dhalion.Busy, .5}})
		s, err := Encode(table)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(s.Bytes)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		table, err := Decode(dhalion.Segment{Bytes: data})
		if err != nil {
			return
		}
		if err := check(table); err != nil {
			t.Fatal(err)
		}
		if table.Rows() == 0 {
			return
		}
		again, err := Encode(table)
		if err != nil {
			t.Fatal(err)
		}
		back, err := Decode(again)
		if err != nil {
			t.Fatal(err)
		}
		if history(table).Digest() != history(back).Digest() {
			t.Fatal("the content changed on its way")
		}
	})
}

// The shape of the benchmarks: 500 instances × 10 metrics × 360 polls, as one
// hour of a job polled every ten seconds; 1.8 M values.
const (
	benchInstances = 500
	benchPolls     = 360
)

var benchMetrics = []dhalion.Metric{
	dhalion.RecordsIn, dhalion.RecordsOut, dhalion.Busy, dhalion.Backpressured, dhalion.Idle,
	dhalion.InputQueueBuffers, dhalion.InputQueueFraction, dhalion.Lag, dhalion.Latency, dhalion.QueueBytes,
}

func benchFill(b *Builder) {
	r := rand.New(rand.NewPCG(1, 2))
	var series []*Series
	for i := range benchInstances {
		for _, m := range benchMetrics {
			series = append(series, b.Series(dhalion.InstanceTarget(testJob, "counter", i), m))
		}
	}
	tm := b.Name("tm-1")
	for p := range benchPolls {
		at := noon.Add(time.Duration(p) * 10 * time.Second).UnixMicro()
		for _, s := range series {
			s.Add(tm, at, math.Round(r.Float64()*1000)/1000)
		}
	}
}

func benchValues(b *testing.B) {
	b.ReportMetric(float64(benchInstances*len(benchMetrics)*benchPolls)*float64(b.N)/b.Elapsed().Seconds()/1e6, "Mvalues/s")
}

func BenchmarkBuildAndEncode(b *testing.B) {
	builder := NewBuilder(testJob, dhalion.KindInstance)
	total := 0
	for b.Loop() {
		total = 0
		benchFill(builder)
		if _, _, err := builder.Flush(func(t *Table) error {
			s, err := Encode(t)
			total += len(s.Bytes)
			return err
		}); err != nil {
			b.Fatal(err)
		}
	}
	benchValues(b)
	b.ReportMetric(float64(total)/float64(benchInstances*len(benchMetrics)*benchPolls), "B/value")
}

func BenchmarkDecodeAndMerge(b *testing.B) {
	builder := NewBuilder(testJob, dhalion.KindInstance)
	benchFill(builder)
	var segments []dhalion.Segment
	if _, _, err := builder.Flush(func(t *Table) error {
		s, err := Encode(t)
		segments = append(segments, s)
		return err
	}); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		var layers []Layer
		for _, s := range segments {
			t, err := Decode(s)
			if err != nil {
				b.Fatal(err)
			}
			layers = append(layers, Layer{t, 1})
		}
		if _, _, err := Merge(layers); err != nil {
			b.Fatal(err)
		}
	}
	benchValues(b)
}

func BenchmarkDigest(b *testing.B) {
	builder := NewBuilder(testJob, dhalion.KindInstance)
	benchFill(builder)
	table, _ := builder.Build()
	h := history(table)
	for b.Loop() {
		h.Digest()
	}
	benchValues(b)
}
