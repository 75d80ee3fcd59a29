package ingest_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/ingest"
	"github.com/dhalion-go/dhalion/ingest/segment"
)

const job = dhalion.JobID("file/wordcount")

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// sink keeps what a collector hands on.
type sink struct {
	segments   []dhalion.Segment
	topologies []dhalion.Topology
}

func (s *sink) out() ingest.Out {
	return ingest.Out{
		Segment: func(_ context.Context, seg dhalion.Segment) error {
			s.segments = append(s.segments, seg)
			return nil
		},
		Topology: func(_ context.Context, _ dhalion.JobID, t dhalion.Topology) error {
			s.topologies = append(s.topologies, t)
			return nil
		},
	}
}

// digest merges all segments and is the history's.
func (s *sink) digest(t interface{ Fatal(...any) }) string {
	layers := map[dhalion.TargetKind][]segment.Layer{}
	for _, seg := range s.segments {
		table, err := segment.Decode(seg)
		if err != nil {
			t.Fatal(err)
		}
		layers[seg.Kind] = append(layers[seg.Kind], segment.Layer{Table: table, Seq: 1})
	}
	h := &segment.History{Job: job, Tables: map[dhalion.TargetKind]*segment.Table{}}
	for kind, own := range layers {
		table, _, err := segment.Merge(own)
		if err != nil {
			t.Fatal(err)
		}
		h.Tables[kind] = table
	}
	return h.Digest()
}

func busy(instance int, at time.Time, v float64) dhalion.Measurement {
	return dhalion.Measurement{Target: dhalion.InstanceTarget(job, "counter", instance), Worker: "tm-1", Metric: dhalion.Busy, Time: at, Value: v}
}

func TestBrokenMeasurementsAreRefusedWithTheReason(t *testing.T) {
	good := busy(0, noon, .5)
	for want, change := range map[string]func(*dhalion.Measurement){
		"did you mean busy_fraction?":      func(m *dhalion.Measurement) { m.Metric = "bussy_fraction" },
		"unknown metric":                   func(m *dhalion.Measurement) { m.Metric = "" },
		"NaN":                              func(m *dhalion.Measurement) { m.Value = math.NaN() },
		"infinite":                         func(m *dhalion.Measurement) { m.Value = math.Inf(-1) },
		"no fraction":                      func(m *dhalion.Measurement) { m.Value = 1.06 },
		"the value -0.06 is no fraction":   func(m *dhalion.Measurement) { m.Value = -.06 },
		"is negative":                      func(m *dhalion.Measurement) { m.Metric, m.Value = dhalion.RecordsIn, -1 },
		"the year 0":                       func(m *dhalion.Measurement) { m.Time = time.Date(0, 12, 31, 0, 0, 0, 0, time.UTC) },
		"the year 10000":                   func(m *dhalion.Measurement) { m.Time = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) },
		"the instance -1":                  func(m *dhalion.Measurement) { m.Target.Instance = -1 },
		"the instance 1048576 is above":    func(m *dhalion.Measurement) { m.Target.Instance = ingest.MaxInstance + 1 },
		"the component is empty":           func(m *dhalion.Measurement) { m.Target.Component = "" },
		"control character":                func(m *dhalion.Measurement) { m.Target.Component = "a\x1b[31mb" },
		"space around":                     func(m *dhalion.Measurement) { m.Worker = " tm" },
		"not UTF-8":                        func(m *dhalion.Measurement) { m.Worker = "\xff" },
		"is not ENGINE/NAME":               func(m *dhalion.Measurement) { m.Target.Job = "wordcount" },
		"parts that do not belong to it":   func(m *dhalion.Measurement) { m.Target.Kind = dhalion.KindComponent; m.Target.Instance = 3 },
		"unknown kind of target":           func(m *dhalion.Measurement) { m.Target.Kind = "node" },
		"the component has 2000 bytes":     func(m *dhalion.Measurement) { m.Target.Component = strings.Repeat("x", 2000) },
		"did you mean lag_records?":        func(m *dhalion.Measurement) { m.Metric = "lag" },
		"did you mean latency_seconds?":    func(m *dhalion.Measurement) { m.Metric = "Latency_Second" },
		"did you mean idle_fraction?":      func(m *dhalion.Measurement) { m.Metric = "idle_fractoin" },
		"unknown metric \"temperature_c\"": func(m *dhalion.Measurement) { m.Metric = "temperature_c" },
	} {
		c := ingest.NewCollector(ingest.Out{}, ingest.Options{})
		m := good
		change(&m)
		if err := c.Add(m); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
		rep, err := c.Close(context.Background())
		if err != nil || rep.Values != 0 {
			t.Errorf("%s: a broken measurement was kept: %+v, %v", want, rep, err)
		}
	}
}

func TestEveryRepairIsCounted(t *testing.T) {
	var s sink
	c := ingest.NewCollector(s.out(), ingest.Options{})
	for _, m := range []dhalion.Measurement{
		busy(0, noon, 1.02),                          // clamped to 1
		busy(0, noon.Add(2*time.Second), -1e-9),      // clamped to 0
		busy(0, noon.Add(time.Second), .5),           // out of order
		busy(0, noon.Add(2*time.Second), 0),          // duplicate
		busy(0, noon.Add(2*time.Second), .25),        // conflict, .25 wins
		busy(1, noon, .5),                            // another target is not out of order
		busy(1, noon.Add(1500*time.Nanosecond), .75), // cut to a microsecond after noon
	} {
		if err := c.Add(m); err != nil {
			t.Fatal(err)
		}
	}
	c.Repaired(ingest.MissingValue, 3)
	c.Repaired("nothing", 0)
	rep, err := c.Close(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]int{ingest.Clamped: 2, ingest.OutOfOrder: 1, ingest.Duplicate: 1, ingest.Conflict: 1, ingest.MissingValue: 3}
	if fmt.Sprint(rep.Repairs) != fmt.Sprint(want) || rep.Conflicts != 1 {
		t.Errorf("repairs %v, want %v; %d conflicts", rep.Repairs, want, rep.Conflicts)
	}
	// Instance 0 has three times, instance 1 two.
	if rep.Rows != 5 || rep.Values != 5 || rep.Segments != 1 || rep.Targets != 2 || !slices.Equal(rep.Jobs, []dhalion.JobID{job}) ||
		!rep.From.Equal(noon) || !rep.To.Equal(noon.Add(2*time.Second)) {
		t.Errorf("report %+v", rep)
	}
	table, err := segment.Decode(s.segments[0])
	if err != nil || !slices.Equal(table.Values(dhalion.Busy), []float64{1, .5, .25, .5, .75}) {
		t.Errorf("values %v, %v", table.Values(dhalion.Busy), err)
	}
}

func TestTheOrderOfRowsAndTheSizeOfBatchesDoNotChangeTheHistory(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		one := rapid.Custom(func(t *rapid.T) dhalion.Measurement {
			m := busy(rapid.IntRange(0, 3).Draw(t, "instance"), noon.Add(time.Duration(rapid.IntRange(0, 10).Draw(t, "hours"))*2*time.Hour),
				rapid.SampledFrom([]float64{0, .25, .5, 1, 1.01}).Draw(t, "value"))
			m.Worker = rapid.SampledFrom([]string{"", "tm-1", "tm-2"}).Draw(t, "worker")
			if rapid.Bool().Draw(t, "worker's") {
				m.Target, m.Metric, m.Worker = dhalion.WorkerTarget(job, "tm-1"), dhalion.GC, ""
			}
			return m
		})
		measurements := rapid.SliceOfN(one, 1, 50).Draw(t, "measurements")
		digest := func(ms []dhalion.Measurement, most int) string {
			var s sink
			_, err := ingest.Collect(context.Background(), s.out(), ingest.Options{MaxValues: most}, ingest.SourceFunc(func(_ context.Context, to *ingest.Collector) error {
				for _, m := range ms {
					if err := to.Add(m); err != nil {
						return err
					}
				}
				return nil
			}))
			if err != nil {
				t.Fatal(err)
			}
			for _, seg := range s.segments {
				if seg.From.UTC().YearDay() != seg.To.UTC().YearDay() {
					t.Fatalf("a segment crosses midnight: %v to %v", seg.From, seg.To)
				}
			}
			return s.digest(t)
		}
		want := digest(measurements, 0)
		if got := digest(rapid.Permutation(measurements).Draw(t, "order"), rapid.IntRange(1, 20).Draw(t, "most")); got != want {
			t.Fatal("another order and batch size give another history")
		}
	})
}

func TestNoMoreThanMaxValuesAreHeld(t *testing.T) {
	var s sink
	c := ingest.NewCollector(s.out(), ingest.Options{MaxValues: 1000})
	for i := range 10_000 {
		if err := c.Add(busy(i%10, noon.Add(time.Duration(i/10)*time.Second), .5)); err != nil {
			t.Fatal(err)
		}
		handed := 0
		for _, seg := range s.segments {
			handed += seg.Values
		}
		if held := i + 1 - handed; held > 1000 {
			t.Fatalf("%d values are held", held)
		}
	}
	rep, err := c.Close(context.Background())
	if err != nil || rep.Values != 10_000 {
		t.Fatalf("%+v, %v", rep, err)
	}
}

func TestAnErrorOfTheStoreIsNotTheRows(t *testing.T) {
	broken := errors.New("disk full")
	c := ingest.NewCollector(ingest.Out{Segment: func(context.Context, dhalion.Segment) error { return broken }}, ingest.Options{MaxValues: 1})
	err := c.Add(busy(0, noon, .5))
	var out *ingest.OutError
	if !errors.As(err, &out) || !errors.Is(err, broken) {
		t.Fatalf("got %v", err)
	}
}

func TestACancelledIngestStops(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := ingest.Collect(ctx, ingest.Out{}, ingest.Options{}, ingest.SourceFunc(func(_ context.Context, to *ingest.Collector) error {
		return to.Add(busy(0, noon, .5))
	}))
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
}

func TestATopologyThatContradictsItselfIsRefused(t *testing.T) {
	var s sink
	c := ingest.NewCollector(s.out(), ingest.Options{})
	good := dhalion.Topology{Components: []dhalion.Component{{Name: "b", Parallelism: 1}, {Name: "a", Parallelism: 1}}, Edges: []dhalion.Edge{{From: "a", To: "b"}}}
	if err := c.Topology(job, good); err != nil {
		t.Fatal(err)
	}
	if s.topologies[0].Components[0].Name != "a" || good.Components[0].Name != "b" {
		t.Error("the topology is not sorted, or the caller's own was")
	}
	good.Edges = append(good.Edges, dhalion.Edge{From: "b", To: "a"})
	if err := c.Topology(job, good); err == nil {
		t.Error("a cycle is accepted")
	}
}

func TestOnlyTheFirstSkippedRowsAreKeptButAllAreCounted(t *testing.T) {
	c := ingest.NewCollector(ingest.Out{}, ingest.Options{})
	for i := range 30 {
		c.Skip(ingest.RowError{File: "x.csv", Line: i + 2, Reason: "broken"})
	}
	rep, err := c.Close(context.Background())
	if err != nil || len(rep.Skipped) != 20 || rep.Repairs[ingest.SkippedRow] != 30 {
		t.Fatalf("%d kept, %v, %v", len(rep.Skipped), rep.Repairs, err)
	}
	if got := rep.Skipped[0].Error(); got != "x.csv:2: broken" {
		t.Error(got)
	}
}
