package diagnose_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/dhalion-go/dhalion/diagnose"
	"github.com/dhalion-go/dhalion/features"
	"github.com/dhalion-go/dhalion/ingest/segment"
	"github.com/dhalion-go/dhalion/internal/twin"
)

// wide is a job of times 11 instances with a fault, and when it is asked about.
func wide(times int) (*segment.History, time.Time) {
	m := twin.Model{
		Components: []twin.Component{twinStage("source", 2*times, .001), twinStage("splitter", 3*times, .015), twinStage("counter", 4*times, .009), twinStage("writer", 2*times, .003)},
		Edges:      []twin.Edge{{From: 0, To: 1, Selectivity: 1}, {From: 1, To: 2, Selectivity: 2}, {From: 2, To: 3, Selectivity: 1}},
	}
	for i := range m.Components[0].Instances {
		m.Components[0].Instances[i].Arrival = 50
	}
	j := twinJob{model: m, noise: .04, seed: 9, change: func(m *twin.Model) { faults[1].change(m, 3) }}
	return j.history(), twinStart.Add(twinAsked)
}

// BenchmarkSynthesiseWide is one judgement of a job of 110 to 550 instances.
func BenchmarkSynthesiseWide(b *testing.B) {
	p, err := loadDefault()
	if err != nil {
		b.Fatal(err)
	}
	for _, times := range []int{10, 50} {
		b.Run(fmt.Sprint(times*11), func(b *testing.B) {
			h, at := wide(times)
			r := features.NewReader(h, at, diagnose.FeatureOptions(p))
			snap, past := r.At(at), r.Healthy()
			for b.Loop() {
				diagnose.Synthesise(snap, past, p)
			}
		})
	}
}

// BenchmarkEvaluateWide is one evaluation of such a job, from its history to the
// diagnoses of the rules.
func BenchmarkEvaluateWide(b *testing.B) {
	p, err := loadDefault()
	if err != nil {
		b.Fatal(err)
	}
	for _, times := range []int{1, 10, 50} {
		b.Run(fmt.Sprint(times*11), func(b *testing.B) {
			h, at := wide(times)
			for b.Loop() {
				if _, err := diagnose.Evaluate(h, at, p); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
