package main

import (
	"context"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/diagnose"
	"github.com/dhalion-go/dhalion/models"
)

// shipped is the learner of the default model.
const shipped = "booster"

// fusionOf is the name of the fusion with a learner.
func fusionOf(learner string) string { return "fusion with " + learner }

// withProcessor is the fusion whose classifiers get what is excluded for the sake of
// other machines.
const withProcessor = "fusion with cpu and gc"

// matched is scikit-learn's booster at the settings of ours; the others of its rows are
// as it comes.
const matched = "HistGradientBoosting at our settings"

// diagnosers are all that are compared, the shipped fusion last.
func diagnosers(seed uint64, foreign *sklearn) []diagnoser {
	all := []diagnoser{
		{"paper", paper},
		{"rules", rules},
		{"rules+platt", rulesScaled},
		{"synthesis", synthesis},
	}
	for _, some := range []map[string]models.Learner{diagnose.Baselines(), diagnose.Learners()} {
		for _, name := range slices.Sorted(maps.Keys(some)) {
			all = append(all, diagnoser{name, alone(some[name], seed)})
		}
	}
	for _, name := range []string{"HistGradientBoosting", matched, "RandomForest"} {
		all = append(all, diagnoser{"scikit-learn " + name, foreign.learn(name, seed)})
	}
	all = append(all, diagnoser{withProcessor, fusion(diagnose.TrainOptions{Learner: diagnose.Learners()[shipped], Seed: seed, Also: func(name string) bool {
		return strings.Contains(name, "cpu_fraction") || strings.Contains(name, "gc_fraction")
	}})})
	names := slices.DeleteFunc(slices.Sorted(maps.Keys(diagnose.Learners())), func(name string) bool { return name == shipped })
	for _, name := range append(names, shipped) {
		all = append(all, diagnoser{fusionOf(name), fusion(diagnose.TrainOptions{Learner: diagnose.Learners()[name], Seed: seed})})
	}
	return all
}

// asker gives the probabilities of windows' cases.
type asker func([]window) ([][]float64, error)

func each(ask func(window) []float64) asker {
	return func(all []window) ([][]float64, error) {
		out := make([][]float64, len(all))
		for i, w := range all {
			out[i] = ask(w)
		}
		return out, nil
	}
}

func byRules(w window) []float64 { return diagnose.ByRules(w.Cases) }

// rates are how often a cause holds at a kind of target where a voice has no answer: a
// silence that counted as certainty would cost it more than any error.
type rates map[place]float64

// ratesOf counts the scored windows of the shapes that are known; what there is little
// of is held to the rate of all.
func ratesOf(from []window, silent func(diagnose.Case) bool) rates {
	held, asked := rates{}, rates{}
	var allHeld, all float64
	for _, w := range from {
		for i, c := range w.Cases {
			if scored(w) && !math.IsNaN(w.Holds[i]) && silent(c) {
				held[placeOf(c)] += w.Holds[i]
				asked[placeOf(c)]++
				allHeld += w.Holds[i]
				all++
			}
		}
	}
	overall := (allHeld + 1) / (all + 2)
	out := rates{}
	for _, cause := range dhalion.Causes {
		for _, kind := range dhalion.TargetKinds {
			at := place{cause, kind}
			out[at] = (held[at] + overall) / (asked[at] + 1)
		}
	}
	return out
}

// voice is one that answers by log-odds, NaN where it has no answer.
func voice(of func(diagnose.Case) float64) func(context.Context, []window) (asker, error) {
	return func(_ context.Context, from []window) (asker, error) {
		rate := ratesOf(from, func(c diagnose.Case) bool { return math.IsNaN(of(c)) })
		return each(func(w window) []float64 {
			p := make([]float64, len(w.Cases))
			for i, c := range w.Cases {
				if p[i] = logistic(of(c)); math.IsNaN(p[i]) {
					p[i] = rate[placeOf(c)]
				}
			}
			return p
		}), nil
	}
}

var (
	rules     = voice(func(c diagnose.Case) float64 { return c.Rules })
	synthesis = voice(func(c diagnose.Case) float64 { return c.Synthesis })
)

// paper is the Dhalion paper's policy, which says yes or no. Its yes is worth as much
// as it was on the shapes that are known, and so is its no, by Laplace's rule.
func paper(_ context.Context, from []window) (asker, error) {
	var held, said [2]float64
	for _, w := range from {
		for i, yes := range w.Paper {
			if scored(w) && !math.IsNaN(w.Holds[i]) {
				k := 0
				if yes {
					k = 1
				}
				held[k] += w.Holds[i]
				said[k]++
			}
		}
	}
	return each(func(w window) []float64 {
		p := make([]float64, len(w.Cases))
		for i := range p {
			k := 0
			if i < len(w.Paper) && w.Paper[i] {
				k = 1
			}
			p[i] = (held[k] + 1) / (said[k] + 2)
		}
		return p
	}), nil
}

// rulesScaled are the rules after Platt scaling on the shapes that are known.
func rulesScaled(_ context.Context, from []window) (asker, error) {
	var p []float64
	var h []bool
	for _, w := range from {
		if !scored(w) {
			continue
		}
		for i, v := range byRules(w) {
			if !math.IsNaN(w.Holds[i]) {
				p, h = append(p, v), append(h, w.Holds[i] == 1)
			}
		}
	}
	c := models.Platt(p, h, nil)
	return each(func(w window) []float64 {
		p := byRules(w)
		for i := range p {
			p[i] = c.Of(p[i])
		}
		return p
	}), nil
}

// place is where a classifier sits.
type place struct {
	cause dhalion.Cause
	kind  dhalion.TargetKind
}

func placeOf(c diagnose.Case) place { return place{c.Cause, c.Target.Kind} }

// alone is a learner by itself, a classifier a cause and kind of target; where it has
// too little to learn from, it answers by the rate.
func alone(l models.Learner, seed uint64) func(context.Context, []window) (asker, error) {
	return func(ctx context.Context, from []window) (asker, error) {
		learned := map[place]models.Model{}
		for _, t := range diagnose.Tables(examples(from)) {
			m, err := l.Fit(ctx, t.Data, seed)
			if err != nil {
				return nil, err
			}
			learned[place{t.Cause, t.Kind}] = m
		}
		rate := ratesOf(from, func(c diagnose.Case) bool { return learned[placeOf(c)] == nil })
		return each(func(w window) []float64 {
			p := make([]float64, len(w.Cases))
			for i, c := range w.Cases {
				p[i] = rate[placeOf(c)]
				if m := learned[placeOf(c)]; m != nil {
					var two [2]float64
					m.Predict(diagnose.Inputs(c), two[:])
					p[i] = two[1]
				}
			}
			return p
		}), nil
	}
}

func fusion(opt diagnose.TrainOptions) func(context.Context, []window) (asker, error) {
	return func(ctx context.Context, from []window) (asker, error) {
		m, err := diagnose.Train(ctx, examples(from), opt)
		return each(func(w window) []float64 { return m.Probabilities(w.Cases) }), err
	}
}
