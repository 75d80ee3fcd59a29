package diagnose_test

import (
	"bytes"
	"context"
	"math"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	dhalion "github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/diagnose"
	"github.com/dhalion-go/dhalion/ingest"
	"github.com/dhalion-go/dhalion/ingest/file"
	"github.com/dhalion-go/dhalion/ingest/segment"
)

// corpusRun is the history of a run of the lab's corpus.
func corpusRun(t *testing.T, name string) *segment.History {
	t.Helper()
	data, err := os.ReadFile("../lab/corpus/" + name + ".parquet")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("../lab/corpus/" + name + ".topology.yaml")
	if err != nil {
		t.Fatal(err)
	}
	topologies, err := file.ReadTopology(name, bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	h := &segment.History{Tables: map[dhalion.TargetKind]*segment.Table{}}
	layers := map[dhalion.TargetKind][]segment.Layer{}
	_, err = ingest.Collect(t.Context(), ingest.Out{
		Segment: func(_ context.Context, s dhalion.Segment) error {
			h.Job = s.Job
			table, err := segment.Decode(s)
			layers[s.Kind] = append(layers[s.Kind], segment.Layer{Table: table, Seq: 1})
			return err
		},
		Topology: func(_ context.Context, _ dhalion.JobID, top dhalion.Topology) error {
			h.Topologies = append(h.Topologies, top)
			return nil
		},
	}, ingest.Options{}, file.NewParquet(name, bytes.NewReader(data), int64(len(data)), file.Options{Engine: "file", Job: name, Topology: topologies}))
	if err != nil {
		t.Fatal(err)
	}
	for kind, l := range layers {
		if h.Tables[kind], _, err = segment.Merge(l); err != nil {
			t.Fatal(err)
		}
	}
	return h
}

// only is a history of which nothing but some metrics is known.
func only(h *segment.History, keep func(dhalion.Metric) bool) *segment.History {
	return where(h, func(_ dhalion.Target, _ int64, m dhalion.Metric) bool { return keep(m) })
}

// where is a history of which nothing but some values is known, by their target, time
// and metric.
func where(h *segment.History, keep func(dhalion.Target, int64, dhalion.Metric) bool) *segment.History {
	out := &segment.History{Job: h.Job, Topologies: h.Topologies, Tables: map[dhalion.TargetKind]*segment.Table{}}
	for kind, t := range h.Tables {
		b := segment.NewBuilder(h.Job, kind)
		for _, m := range t.Metrics() {
			values := t.Values(m)
			for _, s := range t.Spans() {
				for row := s.Start; row < s.End; row++ {
					if v := values[row]; !math.IsNaN(v) && keep(s.Target, t.Times()[row], m) {
						b.Add(s.Target, t.Worker(row), t.Times()[row], m, v)
					}
				}
			}
		}
		if table, _ := b.Build(); table.Rows() > 0 {
			out.Tables[kind] = table
		}
	}
	return out
}

func metrics(names ...dhalion.Metric) func(dhalion.Metric) bool {
	return func(m dhalion.Metric) bool { return slices.Contains(names, m) }
}

func but(names ...dhalion.Metric) func(dhalion.Metric) bool {
	return func(m dhalion.Metric) bool { return !slices.Contains(names, m) }
}

func TestWhatAnEngineDoesNotGiveIsNoFaultOfAHealthyJob(t *testing.T) {
	model := programsModel(t)
	p, err := loadDefault()
	if err != nil {
		t.Fatal(err)
	}
	run := corpusRun(t, "s1-02-diamond") // nothing is wrong from 07:58:00 to 08:00:00
	twins := twinJob{model: wordCount(), noise: .02, seed: 3}.history()
	for name, c := range map[string]struct {
		keep    func(dhalion.Metric) bool
		unknown []dhalion.Cause // what cannot be judged without the rest
		run     bool            // what a twin never gives cannot be taken from it
	}{
		"record rates only": {metrics(dhalion.RecordsIn, dhalion.RecordsOut),
			[]dhalion.Cause{dhalion.Underprovisioned, dhalion.SlowInstance, dhalion.CheckpointFailing, dhalion.MemoryPressure}, false},
		"busy shares only": {metrics(dhalion.Busy),
			[]dhalion.Cause{dhalion.Underprovisioned, dhalion.SlowInstance, dhalion.CheckpointFailing, dhalion.MemoryPressure}, false},
		"no checkpoints": {but(dhalion.CheckpointSeconds, dhalion.CheckpointInterval, dhalion.CheckpointsCompleted, dhalion.CheckpointFailures, dhalion.CheckpointFailuresInARow),
			[]dhalion.Cause{dhalion.CheckpointFailing}, true},
		"no busy shares": {but(dhalion.Busy), []dhalion.Cause{dhalion.Underprovisioned, dhalion.SlowInstance}, false},
		"no heap":        {but(dhalion.GC, dhalion.HeapUsed, dhalion.HeapMax, dhalion.HeapAfterGC), []dhalion.Cause{dhalion.MemoryPressure}, true},
		"what Storm gives": {metrics(dhalion.RecordsIn, dhalion.RecordsOut, dhalion.Busy, dhalion.Latency, dhalion.Running, dhalion.Restarts),
			[]dhalion.Cause{dhalion.CheckpointFailing, dhalion.MemoryPressure}, false},
	} {
		t.Run(name, func(t *testing.T) {
			judge := func(h *segment.History, at time.Time) {
				t.Helper()
				r, err := diagnose.Evaluate(only(h, c.keep), at, p)
				if err != nil {
					t.Fatal(err)
				}
				r = r.Fuse(model)
				for _, d := range r.Diagnoses {
					if d.Probability >= .5 {
						t.Errorf("%s: %s at %s with %.2f of a job that is in order: %v", at.Format(time.TimeOnly), d.Cause, d.Target, d.Probability, d.Evidence)
					}
					if slices.Contains(c.unknown, d.Cause) {
						t.Errorf("%s: %s at %s with %.2f, which nobody can know", at.Format(time.TimeOnly), d.Cause, d.Target, d.Probability)
					}
				}
				for _, pair := range r.Cases() {
					if !slices.Contains(c.unknown, pair.Cause) {
						continue
					}
					if p, ok := r.Probability(pair.Pair); ok {
						t.Errorf("%s: %s at %s has a probability, %.2f", at.Format(time.TimeOnly), pair.Cause, pair.Target, p)
					}
					if f, ok := r.Ask(model).Flip(pair.Pair); ok {
						t.Errorf("%s: %s at %s would be another: %v", at.Format(time.TimeOnly), pair.Cause, pair.Target, f)
					}
				}
				for _, cause := range c.unknown {
					i := slices.IndexFunc(r.Unknown, func(u dhalion.Unknown) bool { return u.Cause == cause && u.Reason != "" })
					if i < 0 {
						t.Errorf("%s: nothing says that %s could not be judged: %v", at.Format(time.TimeOnly), cause, r.Unknown)
					}
				}
			}
			for _, at := range []time.Duration{20 * time.Second, 40 * time.Second, 55 * time.Second} {
				judge(run, time.Date(2026, 11, 23, 7, 59, 0, 0, time.UTC).Add(at))
			}
			if !c.run {
				judge(twins, twinStart.Add(twinAsked))
			}
		})
	}
}

// Nothing is wrong from 07:58:00 to 08:00:00. The window's record rates of all but one
// instance of a component are taken away.
func TestOneInstanceThatTellsItsRecordsHasNoHotKey(t *testing.T) {
	model := programsModel(t)
	p, err := loadDefault()
	if err != nil {
		t.Fatal(err)
	}
	run := corpusRun(t, "s1-02-diamond")
	at := time.Date(2026, 11, 23, 7, 59, 40, 0, time.UTC)
	for _, c := range run.Topologies[0].Components {
		lost := where(run, func(target dhalion.Target, when int64, m dhalion.Metric) bool {
			mute := target.Component == c.Name && target.Instance > 0 && when > at.Add(-time.Minute).UnixMicro()
			return !mute || m != dhalion.RecordsIn && m != dhalion.RecordsOut
		})
		r, err := diagnose.Evaluate(lost, at, p)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range r.Fuse(model).Diagnoses {
			if d.Cause == dhalion.DataSkew || d.Probability >= .5 {
				t.Errorf("%s[0] alone tells its records: %s at %s with %.2f: %v", c.Name, d.Cause, d.Target, d.Probability, d.Evidence)
			}
		}
	}
}

func TestAClassifierIsNotAskedWithoutWhatAllItsTrainingHad(t *testing.T) {
	model := programsModel(t)
	p, err := loadDefault()
	if err != nil {
		t.Fatal(err)
	}
	run := corpusRun(t, "s1-02-diamond")
	at := time.Date(2026, 11, 23, 7, 59, 40, 0, time.UTC)
	spoken := func(h *segment.History) (asked bool, why string) {
		r, err := diagnose.Evaluate(h, at, p)
		if err != nil {
			t.Fatal(err)
		}
		r = r.Fuse(model)
		for _, u := range r.Unknown {
			if strings.Contains(u.Reason, "not asked") {
				why += u.Reason + "\n"
			}
		}
		return model.Asks(r.Cases()), why
	}
	if _, why := spoken(run); why != "" {
		t.Errorf("with all that training had: %s", why)
	}
	if asked, why := spoken(only(run, but(dhalion.Busy))); asked || !strings.Contains(why, "is unknown") {
		t.Errorf("without busy shares classifiers are asked: %v, and the reason is %q", asked, why)
	}
}
