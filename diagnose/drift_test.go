package diagnose_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	dhalion "github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/diagnose"
	"github.com/dhalion-go/dhalion/internal/twin"
	"github.com/dhalion-go/dhalion/models"
)

// trainedOnTwins is a model of jobs of three shapes, two runs each, in order and then
// with a slow counter.
func trainedOnTwins(t *testing.T) *diagnose.Learned {
	t.Helper()
	p, err := loadDefault()
	if err != nil {
		t.Fatal(err)
	}
	var examples []diagnose.Example
	for shape := range 3 {
		for run := range 2 {
			j := likeTrained(shape, uint64(10*shape+run))
			j.change = func(m *twin.Model) { faults[0].change(m, 3) }
			h := j.history()
			for after := 100 * time.Second; after <= twinAsked; after += 10 * time.Second {
				at := twinStart.Add(after)
				r, err := diagnose.Evaluate(h, at, p)
				if err != nil {
					t.Fatal(err)
				}
				in := dhalion.Incident{Job: jobOfTwin, Target: faults[0].holds.Target, Cause: faults[0].holds.Cause, Start: twinStart.Add(twinHealthy), End: twinStart.Add(twinAsked), Certainty: 1}
				e := diagnose.NewExample(r, []dhalion.Incident{in})
				e.Family, e.Run, e.Incident = fmt.Sprint("shape", shape), fmt.Sprint(shape, "/", run), fmt.Sprint(shape, "/", run, "/", after > twinHealthy)
				examples = append(examples, e)
			}
		}
	}
	m, err := diagnose.Train(t.Context(), examples, diagnose.TrainOptions{Learner: &models.Booster{Rounds: 10, Leaves: 4, Least: 5}, Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// likeTrained is a job of one of the shapes: they differ in load and costs.
func likeTrained(shape int, seed uint64) twinJob {
	m := wordCount()
	for i := range m.Components[0].Instances {
		m.Components[0].Instances[i].Arrival *= 1 + .1*float64(shape)
	}
	for i := range m.Components[1].Instances {
		m.Components[1].Instances[i].Service *= 1 - .1*float64(shape)
	}
	return twinJob{model: m, noise: .05, seed: seed}
}

func TestAJobLikeThoseOfTheTrainingHasNotDriftedAndAnotherHas(t *testing.T) {
	p, err := loadDefault()
	if err != nil {
		t.Fatal(err)
	}
	trained := trainedOnTwins(t)
	artefact, err := trained.Encode()
	if err != nil {
		t.Fatal(err)
	}
	m, err := diagnose.Decode(artefact) // what is kept is enough
	if err != nil {
		t.Fatal(err)
	}
	drift := func(j twinJob) *diagnose.Drift {
		r, err := diagnose.Evaluate(j.history(), twinStart.Add(twinAsked), p)
		if err != nil {
			t.Fatal(err)
		}
		d, err := r.Fuse(m).Drift(m)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	for shape := range 3 {
		d := drift(likeTrained(shape, uint64(100+shape)))
		if d.Moments != 5 || d.To != twinStart.Add(twinAsked) || d.To.Sub(d.From) != 4*time.Minute || len(d.Kinds) != 4 {
			t.Errorf("%d moments from %v to %v", d.Moments, d.From, d.To)
		}
		if all := d.Drifted(); len(all) > 0 {
			t.Errorf("shape %d has drifted: %+v", shape, all)
		}
	}
	// A job that waits for room all the time, at a fifth of the cost.
	other := likeTrained(0, 7)
	for k := range other.model.Components {
		for i := range other.model.Components[k].Instances {
			other.model.Components[k].Instances[i].Service /= 5
		}
	}
	other.noise = .4
	d := drift(other)
	i := slices.IndexFunc(d.Drifted(), func(k diagnose.KindDrift) bool { return k.Kind == dhalion.KindInstance })
	if i < 0 {
		t.Fatalf("it has not drifted: %+v", d.Kinds)
	}
	k := d.Drifted()[i]
	if len(k.Moved) != 3 || k.Rows != 5*12 {
		t.Errorf("%+v", k)
	}
	for _, f := range k.Moved {
		if f.Index <= f.Usual {
			t.Errorf("%+v has not moved", f)
		}
	}
}

func TestAShortHistoryIsNotComparedWithTheTraining(t *testing.T) {
	p, err := loadDefault()
	if err != nil {
		t.Fatal(err)
	}
	r, err := diagnose.Evaluate(likeTrained(0, 1).history(), twinStart.Add(3*time.Minute), p)
	if err != nil {
		t.Fatal(err)
	}
	d, err := r.Drift(programsModel(t))
	if err != nil || len(d.Kinds) != 0 || d.Moments != 3 {
		t.Errorf("%+v, %v", d, err)
	}
}
