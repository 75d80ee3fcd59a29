package main

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/diagnose"
	"github.com/dhalion-go/dhalion/internal/store"
	"github.com/dhalion-go/dhalion/models"
	"github.com/dhalion-go/dhalion/plan/planfile"
)

func (a *app) trainCommand() *cobra.Command {
	var f judgeFlags
	learner, holdout, note, as := "all", "", "", ""
	seed, noOutcomes, promote := uint64(1), false, false
	c := &cobra.Command{
		Use:   "train",
		Short: "Learn to diagnose from incidents",
		Long: `Learn to diagnose from the incidents that are known (dhalion incidents), and keep the model.
All learners are tried, and that of the least log loss is kept: booster, forest and logistic;
beside them golearn's cart and naive-bayes, which are not kept. --learner tries one alone.
Each is tried on kinds of job (families; else jobs) that it has not seen, and where
there is one alone on what came after all that it learned from; beside the rules alone. What
is kept is trained on all. With --holdout one family is left out of
everything, and the model is scored on it. Judged outcomes are learned from with their
certainty, and never scored by. A cause takes four incidents at a kind of target; what has
fewer is listed, and a model without any cause is none to promote. Labels that nothing is
judged by, or that are too short, are left out and listed.

Eleven incidents of two families take some four seconds on two cores, with the booster alone
two; two hundred of five families take the booster alone some minutes, and all learners
longer. A family more is a fit of everything more.`,
		Example: `  dhalion train
  dhalion train --learner booster --seed 7
  dhalion train --holdout orders --no-outcomes -o json
  dhalion train --promote --note "after the June incidents"`,
		Args: none,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.check(); err != nil {
				return err
			}
			names := []string{learner}
			if learner == "all" {
				names = slices.Concat(slices.Sorted(maps.Keys(diagnose.Learners())), slices.Sorted(maps.Keys(diagnose.Baselines())))
			} else if diagnose.Learners()[learner] == nil {
				return usagef("--learner %q is none of %s, all", learner, strings.Join(slices.Sorted(maps.Keys(diagnose.Learners())), ", "))
			}
			return a.withStore(cmd.Context(), func(ctx context.Context, st *store.Store) error {
				incidents, err := labels(ctx, st, noOutcomes)
				if err != nil {
					return fmt.Errorf("train: %w", err)
				}
				examples, left, err := a.examples(ctx, st, f, incidents)
				if err != nil {
					return fmt.Errorf("train: %w", err)
				}
				t := training{app: a, seed: seed, Tried: map[string]diagnose.Assessment{}, Left: list(left)}
				if err := t.train(ctx, incidents, examples, names, holdout); err != nil {
					return err
				}
				if _, err := st.SaveModel(ctx, t.model.ID, t.artefact, t.model.About, diagnose.Schema(), a.named(as), note, a.now()); err != nil {
					return err
				}
				if promote && len(t.Judges) > 0 {
					if _, _, err := st.Promote(ctx, t.model.ID, a.named(as), note, a.now()); err != nil {
						return err
					}
				}
				if err := t.tell(promote && len(t.Judges) > 0); err != nil {
					return err
				}
				if promote && len(t.Judges) == 0 {
					return hinted(fmt.Errorf("train: model %s has learned no cause, and is not promoted", t.model.ID), "each takes %d incidents", diagnose.LeastIncidents)
				}
				return nil
			})
		},
	}
	a.policyFlags(c, &f)
	c.Flags().StringVar(&learner, "learner", learner, "booster, forest or logistic alone, or all: that of the least log loss is kept")
	c.Flags().Uint64Var(&seed, "seed", seed, "of all that is drawn: equal incidents and seeds give equal models")
	c.Flags().StringVar(&holdout, "holdout", "", "leave this `family` (or job, by its id or bare name) out, and score the model on it")
	c.Flags().BoolVar(&noOutcomes, "no-outcomes", false, "leave incidents out that come from judged outcomes")
	c.Flags().BoolVar(&promote, "promote", false, "make it the active model")
	c.Flags().StringVar(&note, "note", "", "what to remember about it")
	c.Flags().StringVar(&as, "as", "", "`person` who trains it (default: the user)")
	a.complete(c, "learner", append(slices.Sorted(maps.Keys(diagnose.Learners())), "all")...)
	return c
}

// training is one call of train.
type training struct {
	app  *app
	seed uint64

	Learner string                         `json:"learner"`
	Tried   map[string]diagnose.Assessment `json:"tried"`             // by diagnose.Trials; "rules" beside
	Untried []string                       `json:"untried,omitempty"` // trials for which nothing sure was left to learn from
	Holdout *diagnose.Assessment           `json:"holdout,omitempty"`
	Left    []leftOut                      `json:"left_out"`
	Judges  []string                       `json:"judges"`  // causes that it has classifiers for
	TooFew  []diagnose.Lesson              `json:"too_few"` // what there are incidents of, and too few

	model    *diagnose.Learned
	artefact []byte
	learning bool // some trial had enough to learn a cause from
}

func (t *training) train(ctx context.Context, incidents []store.Incident, examples []diagnose.Example, names []string, holdout string) error {
	var out []diagnose.Example
	if holdout != "" {
		of, some, err := partOf(incidents, "--holdout", holdout)
		if err != nil {
			return err
		}
		var in []diagnose.Example
		for _, e := range examples {
			if of(dhalion.JobID(e.Run)) {
				out = append(out, e)
			} else {
				in = append(in, e)
			}
		}
		if len(out) == 0 {
			return fmt.Errorf("train: --holdout %q: %w", holdout, untaught(some, lefts(t.Left, of)))
		}
		if out = sure(out); len(out) == 0 {
			return usagef("--holdout %q: none of its incidents is sure, and the others are no measure", holdout)
		}
		examples = in
	}
	if !slices.ContainsFunc(examples, certain) {
		what := "none of the labels is certain (1)"
		if holdout != "" {
			what += " without what is held out"
		}
		return hinted(fmt.Errorf("train: %s, and from others nobody learns how far to trust the rules, the classifiers and the simulation", what),
			"label what somebody knows, with --certainty 1: dhalion incidents add --help")
	}
	learnable := false
	t.TooFew = []diagnose.Lesson{}
	for _, l := range diagnose.Lessons(examples) {
		if l.Incidents < diagnose.LeastIncidents {
			t.TooFew = append(t.TooFew, l)
		} else {
			learnable = true
		}
	}
	if !learnable {
		names = names[:1] // without a classifier all learners give the same
	}
	trials, untried := diagnose.Trials(examples)
	t.Untried = untried
	best := math.Inf(1)
	t.Learner = names[0]
	var asked []diagnose.Example
	for _, trial := range trials {
		asked = append(asked, trial.Asked...)
	}
	if len(trials) > 0 {
		t.Tried["rules"] = diagnose.Assess(asked, each(asked, diagnose.ByRules))
	} else {
		names = nil // there is nothing to try them on
	}
	for _, name := range names {
		var p [][]float64
		for i, trial := range trials {
			m, err := t.fit(ctx, trial.From, name, fmt.Sprintf("%s, %s (%d of %d)", name, trial.Name, i+1, len(trials)))
			if err != nil {
				return err
			}
			t.learning = t.learning || len(m.Judges()) > 0
			p = append(p, each(trial.Asked, m.Probabilities)...)
		}
		t.Tried[name] = diagnose.Assess(asked, p)
		if loss := t.Tried[name].LogLoss; loss < best && diagnose.Learners()[name] != nil {
			best, t.Learner = loss, name
		}
	}
	var err error
	if t.model, err = t.fit(ctx, examples, t.Learner, t.Learner+", on all"); err != nil {
		return err
	}
	t.model.About.Metrics = t.Tried[t.Learner].Metrics()
	t.Judges = list(t.model.Judges())
	if holdout != "" {
		score := diagnose.Assess(out, each(out, t.model.Probabilities))
		t.Holdout = &score
	}
	t.artefact, err = t.model.Encode()
	return err
}

func (t *training) fit(ctx context.Context, from []diagnose.Example, name, what string) (*diagnose.Learned, error) {
	progress, end := t.app.steps(what)
	defer end()
	learner := diagnose.Learners()[name]
	if learner == nil {
		learner = diagnose.Baselines()[name]
	}
	m, err := diagnose.Train(ctx, from, diagnose.TrainOptions{Learner: learner, Seed: t.seed, Progress: progress})
	if err != nil {
		return nil, fmt.Errorf("train: %s: %w", what, err)
	}
	return m, nil
}

func each(examples []diagnose.Example, ask func([]diagnose.Case) []float64) [][]float64 {
	p := make([][]float64, len(examples))
	for i, e := range examples {
		p[i] = ask(e.Cases)
	}
	return p
}

// partOf picks the labels of a family or job that a flag names, of a job also by its
// bare name where that is unique, and says which jobs have them.
func partOf(incidents []store.Incident, flag, name string) (of func(job dhalion.JobID) bool, some []store.Incident, err error) {
	families, jobs := map[string]bool{}, map[string]bool{}
	all := familiesOf(incidents)
	for job, family := range all {
		families[family] = true
		if job == name || dhalion.JobID(job).Name() == name {
			jobs[job] = true
		}
	}
	meant := slices.Sorted(maps.Keys(jobs))
	switch {
	case families[name] || jobs[name]:
		of = func(job dhalion.JobID) bool { return all[string(job)] == name || string(job) == name }
	case len(meant) == 1:
		of = func(job dhalion.JobID) bool { return string(job) == meant[0] }
	case len(meant) > 1:
		return nil, nil, usagef("%s %q is the name of several jobs: %s", flag, name, strings.Join(meant, ", "))
	default:
		return nil, nil, usagef("%s %q is no family and no job of the incidents: the families are %s", flag, name, strings.Join(slices.Sorted(maps.Keys(families)), ", "))
	}
	return of, slices.DeleteFunc(slices.Clone(incidents), func(in store.Incident) bool { return !of(in.Job) }), nil
}

// sure are the examples that a model may be scored by: a judged outcome is what a plan
// thought of itself.
func sure(examples []diagnose.Example) []diagnose.Example {
	return slices.DeleteFunc(examples, func(e diagnose.Example) bool { return !certain(e) })
}

func certain(e diagnose.Example) bool { return e.Certainty >= 1 }

func (t *training) tell(promoted bool) error {
	a := t.app
	if a.json() {
		return a.writeJSON(struct {
			Model    string         `json:"model"`
			About    diagnose.About `json:"about"`
			Promoted bool           `json:"promoted"`
			*training
		}{t.model.ID, t.model.About, promoted, t})
	}
	a.printf("Model %s, a %s: %d incidents, %d windows of %s.\n\n", t.model.ID, t.Learner, t.model.About.Incidents, t.model.About.Windows, strings.Join(t.model.About.Families, ", "))
	a.printf("%s\n\n", wrap(plain(t.learned()), a.width(), ""))
	switch {
	case len(t.Tried) == 0:
		a.printf("It was tried on nothing: there is a single incident, or what is labelled for sure is all of one time.\n")
	case len(t.model.About.Families) > 1:
		a.printf("On families that it has not seen:\n\n")
	default:
		a.printf("On what came after all that it had learned from:\n\n")
	}
	if len(t.Tried) > 0 {
		a.assessments(t.Tried)
		if len(t.Judges) > 0 && !t.learning {
			a.printf("\nIn no trial were there enough incidents of a cause to learn it before: all learners are alike.\n")
		}
		if len(t.Judges) > 0 && t.Tried[t.Learner].LogLoss > t.Tried["rules"].LogLoss {
			a.printf("\nThe rules alone did better: label more incidents before you promote it.\n")
		}
	}
	for _, name := range t.Untried {
		a.printf("\nNot tried %s: of other jobs nothing was labelled for sure by then.\n", name)
	}
	if t.Holdout != nil {
		a.printf("\nOn what was held out:\n\n")
		a.assessments(map[string]diagnose.Assessment{t.Learner: *t.Holdout})
	}
	a.leftOut(t.Left)
	switch {
	case len(t.Judges) == 0:
		a.next([2]string{"dhalion incidents import labels.csv", "label more"})
	case !promoted:
		a.next([2]string{command("diagnose", "JOB", "--model", t.model.ID), "try it"}, [2]string{command("models", "promote", t.model.ID), "make it the active one"})
	}
	return nil
}

// learned says what the model has learned, and what it has not.
func (t *training) learned() string {
	var few []string
	for _, l := range t.TooFew {
		few = append(few, fmt.Sprintf("%s at %ss (%d)", l.Cause, l.Kind, l.Incidents))
	}
	text := "It has learned " + strings.Join(t.Judges, ", ") + "."
	if len(few) > 0 {
		text += fmt.Sprintf(" There are too few incidents, of %d that it takes, of %s.", diagnose.LeastIncidents, strings.Join(few, ", "))
	}
	if len(t.Judges) > 0 {
		return text
	}
	text = fmt.Sprintf("It has learned no cause: each takes %d incidents at a kind of target", diagnose.LeastIncidents)
	if len(few) > 0 {
		text += ", and there are " + strings.Join(few, ", ")
	}
	return text + ". It only says how far to trust the rules and the simulation; promoted, it would take the place of a model that knows causes, as the program's own does, and what that one has learned would be lost."
}

func (a *app) assessments(all map[string]diagnose.Assessment) {
	t := &table{head: []string{"", "log loss", "calibration error", "first is right", "false alarms"}, wide: 4}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		s := all[name]
		low, high := models.Wilson(s.First, s.Incidents)
		_, worst := models.Wilson(s.Alarms, s.Quiet)
		t.add(name, fmt.Sprintf("%.4f (%.4f–%.4f)", s.LogLoss, s.LogLossLow, s.LogLossHigh), fmt.Sprintf("%.3f", s.CalibrationError),
			fmt.Sprintf("%d/%d (%.2f–%.2f)", s.First, s.Incidents, low, high), fmt.Sprintf("%d/%d (up to %s)", s.Alarms, s.Quiet, planfile.Percent(worst)))
	}
	a.table("  ", t)
}
