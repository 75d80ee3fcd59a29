package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/diagnose"
	"github.com/dhalion-go/dhalion/internal/store"
	"github.com/dhalion-go/dhalion/models"
	"github.com/dhalion-go/dhalion/plan/planfile"
)

// How close together the windows are that are learned from.
const (
	learnEvery      = 5 * time.Second
	learnQuietEvery = 15 * time.Second
)

func (a *app) trainCommand() *cobra.Command {
	var f judgeFlags
	learner, holdout, note, as := "booster", "", "", ""
	seed, noOutcomes, promote := uint64(1), false, false
	c := &cobra.Command{
		Use:   "train",
		Short: "Learn to diagnose from incidents",
		Long: `Learn to diagnose from the incidents that are known (dhalion incidents), and keep the model.
Each learner is tried on kinds of job (families; else jobs) that it has not seen, beside the
rules alone; what is kept is trained on all. With --holdout one family is left out of
everything, and the model is scored on it. Judged outcomes are learned from with their
certainty, and never scored by.`,
		Example: `  dhalion train
  dhalion train --learner all --seed 7
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
				examples, err := a.examples(ctx, st, f, noOutcomes)
				if err != nil {
					return err
				}
				t := training{app: a, seed: seed, Tried: map[string]diagnose.Assessment{}}
				if err := t.train(ctx, examples, names, holdout); err != nil {
					return err
				}
				if _, err := st.SaveModel(ctx, t.model.ID, t.artefact, t.model.About, a.named(as), note, a.now()); err != nil {
					return err
				}
				if promote {
					if _, err := st.Promote(ctx, t.model.ID, a.named(as), note, a.now()); err != nil {
						return err
					}
				}
				return t.tell(promote)
			})
		},
	}
	a.policyFlags(c, &f)
	c.Flags().StringVar(&learner, "learner", learner, "booster, forest, logistic, or all: that of the least log loss is kept; beside them golearn's cart and naive-bayes are tried")
	c.Flags().Uint64Var(&seed, "seed", seed, "of all that is drawn: equal incidents and seeds give equal models")
	c.Flags().StringVar(&holdout, "holdout", "", "leave this `family` (or job) out, and score the model on it")
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
	Tried   map[string]diagnose.Assessment `json:"tried"` // on families that were not seen; "rules" beside
	Holdout *diagnose.Assessment           `json:"holdout,omitempty"`

	model    *diagnose.Learned
	artefact []byte
}

func (t *training) train(ctx context.Context, examples []diagnose.Example, names []string, holdout string) error {
	var out []diagnose.Example
	if holdout != "" {
		var in []diagnose.Example
		for _, e := range examples {
			if e.Family == holdout || e.Run == holdout {
				out = append(out, e)
			} else {
				in = append(in, e)
			}
		}
		if len(out) == 0 {
			return usagef("--holdout %q is no family and no job of the incidents", holdout)
		}
		examples = in
	}
	families := map[string]bool{}
	for _, e := range examples {
		families[e.Family] = true
	}
	// Outcomes are learned from; what is scored is what somebody labelled.
	sure := slices.DeleteFunc(slices.Clone(examples), func(e diagnose.Example) bool { return e.Certainty < 1 })
	t.Tried["rules"] = diagnose.Assess(sure, each(sure, diagnose.ByRules))
	best := math.Inf(1)
	for _, name := range names {
		if len(families) < 2 {
			t.Learner = names[0] // there is nothing to try it on
			break
		}
		var scored []diagnose.Example
		var p [][]float64
		for i, family := range slices.Sorted(maps.Keys(families)) {
			from := slices.DeleteFunc(slices.Clone(examples), func(e diagnose.Example) bool { return e.Family == family })
			m, err := t.fit(ctx, from, name, fmt.Sprintf("%s, without %s (%d of %d)", name, family, i+1, len(families)))
			if err != nil {
				return err
			}
			for _, e := range sure {
				if e.Family == family {
					scored, p = append(scored, e), append(p, m.Probabilities(e.Cases))
				}
			}
		}
		t.Tried[name] = diagnose.Assess(scored, p)
		if loss := t.Tried[name].LogLoss; loss < best && diagnose.Learners()[name] != nil {
			best, t.Learner = loss, name
		}
	}
	var err error
	if t.model, err = t.fit(ctx, examples, t.Learner, t.Learner+", on all"); err != nil {
		return err
	}
	t.model.About.Metrics = metrics(t.Tried[t.Learner])
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

func metrics(s diagnose.Assessment) map[string]float64 {
	if s.Windows == 0 {
		return nil
	}
	return map[string]float64{"log_loss": s.LogLoss, "calibration_error": s.CalibrationError, "windows": float64(s.Windows),
		"first_right": float64(s.First), "incidents": float64(s.Incidents), "alarms": float64(s.Alarms), "quiet": float64(s.Quiet)}
}

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
	a.printf("On families that it has not seen:\n\n")
	a.assessments(t.Tried)
	if t.Holdout != nil {
		a.printf("\nOn what was held out:\n\n")
		a.assessments(map[string]diagnose.Assessment{t.Learner: *t.Holdout})
	}
	if !promoted {
		a.next([2]string{command("diagnose", "JOB", "--model", t.model.ID), "try it"}, [2]string{command("models", "promote", t.model.ID), "make it the active one"})
	}
	return nil
}

func (a *app) assessments(all map[string]diagnose.Assessment) {
	t := &table{head: []string{"", "log loss", "calibration error", "first is right", "false alarms"}, wide: 4}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		s := all[name]
		low, high := models.Wilson(s.First, s.Incidents)
		_, worst := models.Wilson(s.Alarms, s.Quiet)
		t.add(name, fmt.Sprintf("%.4f", s.LogLoss), fmt.Sprintf("%.3f", s.CalibrationError),
			fmt.Sprintf("%d/%d (%.2f–%.2f)", s.First, s.Incidents, low, high), fmt.Sprintf("%d/%d (up to %s)", s.Alarms, s.Quiet, planfile.Percent(worst)))
	}
	a.table("  ", t)
}

// examples are the windows of all incidents, judged by the rules.
func (a *app) examples(ctx context.Context, st *store.Store, f judgeFlags, noOutcomes bool) ([]diagnose.Example, error) {
	all, err := st.Incidents(ctx, store.IncidentFilter{}, 0)
	if err != nil {
		return nil, err
	}
	byJob := map[dhalion.JobID][]store.Incident{}
	for _, in := range all {
		if noOutcomes && strings.HasPrefix(in.Source, "outcome of ") {
			continue
		}
		byJob[in.Job] = append(byJob[in.Job], in)
	}
	if len(byJob) == 0 {
		return nil, hinted(errors.New("train: there are no incidents to learn from"), "dhalion incidents import labels.csv")
	}
	progress, end := a.steps("judging the incidents' windows")
	defer end()
	var out []diagnose.Example
	for i, job := range slices.Sorted(maps.Keys(byJob)) {
		if progress != nil {
			progress(i, len(byJob))
		}
		some, err := a.examplesOf(ctx, st, job, byJob[job], f)
		if err != nil {
			return nil, err
		}
		out = append(out, some...)
	}
	if len(out) == 0 {
		return nil, hinted(errors.New("train: nothing is known of the times of the incidents"), "ingest the histories that the labels are about")
	}
	return out, nil
}

func (a *app) examplesOf(ctx context.Context, st *store.Store, job dhalion.JobID, incidents []store.Incident, f judgeFlags) ([]diagnose.Example, error) {
	f, err := a.forJob(f, job)
	if err != nil {
		return nil, err
	}
	pol := f.loaded
	from, to := incidents[0].Start, incidents[0].End
	var held []dhalion.Incident
	for _, in := range incidents {
		if in.Start.Before(from) {
			from = in.Start
		}
		if in.End.After(to) {
			to = in.End
		}
		if in.Cause != "" {
			held = append(held, in.Incident)
		}
	}
	h, err := st.History(ctx, job, from.Add(-lookbackOf(pol)), to)
	if err != nil {
		return nil, err
	}
	asked := map[time.Time]bool{}
	var out []diagnose.Example
	for _, in := range incidents {
		first, step := in.Start.Add(diagnose.Shows+learnEvery), learnEvery
		if in.Cause == "" {
			first, step = in.Start.Add(pol.Window), learnQuietEvery
		}
		for at := first; !at.After(in.End); at = at.Add(step) {
			if asked[at] || in.Cause == "" && recent(held, at) {
				continue
			}
			asked[at] = true
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			r, err := diagnose.Evaluate(h, at, pol)
			if err != nil {
				return nil, err
			}
			e := diagnose.NewExample(r, held)
			if e.Cases == nil {
				continue
			}
			e.Family, e.Run, e.Incident = in.Family, string(job), in.Name
			if e.Family == "" {
				e.Family = string(job)
			}
			if e.Incident == "" {
				e.Incident = fmt.Sprintf("%s %s", job, stamp(in.Start))
			}
			if in.Cause == "" {
				e.Incident += " " + stamp(at) // each minute in order is one of its own
			}
			out = append(out, e)
		}
	}
	return out, nil
}

// recent says that a window shows an incident, or what is left of one.
func recent(held []dhalion.Incident, at time.Time) bool {
	return slices.ContainsFunc(held, func(in dhalion.Incident) bool {
		return at.After(in.Start) && at.Before(in.End.Add(diagnose.Lingers(in.Cause)))
	})
}
