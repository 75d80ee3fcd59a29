package main

import (
	"context"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/dhalion-go/dhalion/diagnose"
	"github.com/dhalion-go/dhalion/models"
)

// learners are those that train compares; small data want small trees.
func learners() map[string]models.Learner {
	return map[string]models.Learner{
		"booster": &models.Booster{Rounds: 80, Rate: .1, Leaves: 8, Depth: 3, Least: 10, L2: 5, Rows: .7, Columns: .5},
		"forest":  &models.Forest{Trees: 200, Least: 3},
	}
}

// shipped is the learner of the default model.
const shipped = "booster"

func diagnosers(seed uint64) []diagnoser {
	rules := func(w window) []float64 {
		p := make([]float64, len(w.Cases))
		for i, c := range w.Cases {
			if !math.IsNaN(c.Rules) {
				p[i] = logistic(c.Rules)
			}
		}
		return p
	}
	all := []diagnoser{
		{"rules", func(context.Context, []window) (func(window) []float64, error) { return rules, nil }},
		{"rules+platt", func(_ context.Context, from []window) (func(window) []float64, error) {
			var p []float64
			var h []bool
			for _, w := range from {
				if !scored(w) {
					continue
				}
				for i, v := range rules(w) {
					if !math.IsNaN(w.Holds[i]) {
						p, h = append(p, v), append(h, w.Holds[i] == 1)
					}
				}
			}
			c := models.Platt(p, h, nil)
			return func(w window) []float64 {
				p := rules(w)
				for i := range p {
					p[i] = c.Of(p[i])
				}
				return p
			}, nil
		}},
	}
	for _, name := range slices.Sorted(maps.Keys(learners())) {
		// What a learner says alone and in the fusion comes from one training.
		trained := map[string]*diagnose.Learned{}
		train := func(ctx context.Context, from []window) (*diagnose.Learned, error) {
			key := shapesOf(from)
			if m := trained[key]; m != nil {
				return m, nil
			}
			m, err := diagnose.Train(ctx, examples(from), diagnose.TrainOptions{Learner: learners()[name], Seed: seed})
			trained[key] = m
			return m, err
		}
		all = append(all,
			diagnoser{name, func(ctx context.Context, from []window) (func(window) []float64, error) {
				m, err := train(ctx, from)
				return func(w window) []float64 { return m.Classified(w.Cases) }, err
			}},
			diagnoser{"fusion with " + name, func(ctx context.Context, from []window) (func(window) []float64, error) {
				m, err := train(ctx, from)
				return func(w window) []float64 { return m.Probabilities(w.Cases) }, err
			}})
	}
	return all
}

// shapesOf names what windows are of.
func shapesOf(all []window) string {
	shapes := map[string]bool{}
	for _, w := range all {
		shapes[w.Family] = true
	}
	return strings.Join(slices.Sorted(maps.Keys(shapes)), " ")
}
