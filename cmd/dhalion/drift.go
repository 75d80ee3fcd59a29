package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/apply"
	"github.com/dhalion-go/dhalion/diagnose"
	"github.com/dhalion-go/dhalion/internal/store"
	"github.com/dhalion-go/dhalion/models"
	"github.com/dhalion-go/dhalion/plan/planfile"
)

// From so many judged outcomes on a model's probabilities are held against them, and
// so many, the newest, are looked at.
const (
	leastJudged = 20
	mostJudged  = 500
)

// driftWarnings say that the model of an evaluation has drifted: the job's vectors lie
// elsewhere than those of its training, or what came of the job's actions is not what
// it had promised.
func (a *app) driftWarnings(ctx context.Context, st *store.Store, e *evaluation) ([]dhalion.Warning, error) {
	if e.model == nil {
		return nil, nil
	}
	var warnings []dhalion.Warning
	add := func(format string, args ...any) {
		warnings = append(warnings, dhalion.Warning{Code: "W-model-drift", Message: fmt.Sprintf(format, args...)})
	}
	d, err := e.result.Drift(e.model)
	if err != nil {
		return nil, err
	}
	if what := shifted(d); what != "" {
		add("the job is not as those that model %s was trained on (%s): its probabilities may be off; label incidents and train", e.model.ID, what)
	}
	j, n, err := promises(ctx, st, store.OutcomeFilter{Job: e.job}, e.model.ID)
	if err != nil {
		return nil, err
	}
	if n >= leastJudged && j.Drifted() {
		add("%s: train anew", fulfilled(j, n, e.model.ID))
	}
	return warnings, nil
}

// shifted names the kinds of target that have drifted and the features that moved most;
// empty where none has.
func shifted(d *diagnose.Drift) string {
	var parts []string
	for _, k := range d.Drifted() {
		var names []string
		for _, f := range k.Moved {
			names = append(names, f.Name)
		}
		parts = append(parts, fmt.Sprintf("%ss: %s", k.Kind, strings.Join(names, ", ")))
	}
	return strings.Join(parts, "; ")
}

// fulfilled says how a model kept its promises.
func fulfilled(j models.Judged, n int, id string) string {
	return fmt.Sprintf("of %d judged actions %d were met, where model %s had made one expect %s", n, j.Observed, id, planfile.Quantity(j.Expected))
}

// promises holds judged outcomes of plans that were drawn from a model against the
// probabilities that it gave to their causes, and says how many there are.
func promises(ctx context.Context, st *store.Store, f store.OutcomeFilter, model string) (j models.Judged, n int, err error) {
	outcomes, err := st.Outcomes(ctx, f, mostJudged)
	if err != nil {
		return j, 0, err
	}
	plans := map[string]dhalion.Plan{}
	var p []float64
	var holds []bool
	for _, o := range outcomes {
		if o.Judged != apply.Met && o.Judged != apply.Unmet {
			continue
		}
		pl, ok := plans[o.Plan]
		if !ok {
			row, err := st.Plan(ctx, o.Plan)
			if err != nil {
				return j, 0, err
			}
			if pl, _, _, err = planfile.Decode(row.Body, row.ID); err != nil {
				return j, 0, err
			}
			plans[o.Plan] = pl
		}
		if pl.Basis.Model == model && o.Action < len(pl.Actions) {
			p, holds = append(p, pl.Actions[o.Action].Probability), append(holds, o.Judged == apply.Met)
		}
	}
	j, err = models.Judge(p, holds)
	return j, len(p), err
}

// How many jobs doctor looks at, and how lately one must have been measured.
const (
	doctorJobs   = 10
	doctorLately = time.Hour
)

// models looks whether the models in use have drifted: at the vectors of the jobs
// measured lately, and at what came of all actions.
func (d *doctor) models(ctx context.Context, st *store.Store) error {
	f := judgeFlags{policy: "default", changed: func(string) bool { return false }}
	if err := f.check(); err != nil {
		return err
	}
	jobs, err := st.Jobs(ctx)
	if err != nil {
		return err
	}
	now := d.app.now()
	jobs = slices.DeleteFunc(jobs, func(j store.JobInfo) bool { return j.To.Before(now.Add(-doctorLately)) })
	slices.SortStableFunc(jobs, func(a, b store.JobInfo) int { return b.To.Compare(a.To) })
	used := map[string]bool{}
	for _, job := range jobs[:min(doctorJobs, len(jobs))] {
		e, err := d.app.evaluate(ctx, st, string(job.ID), f)
		if ctx.Err() != nil {
			return err
		}
		if err != nil {
			d.findings.add(levelWarning, string(job.ID), "", "whether it is as its model's training is not known: %v", firstLine(err))
			continue
		}
		if e.model == nil {
			continue
		}
		used[e.model.ID] = true
		drift, err := e.result.Drift(e.model)
		if err != nil {
			return err
		}
		switch what := shifted(drift); {
		case what != "":
			d.findings.add(levelWarning, string(job.ID), "label what was wrong (dhalion incidents), then dhalion train", "it is not as the jobs that model %s was trained on: %s", e.model.ID, what)
		case len(drift.Kinds) > 0:
			d.findings.add(levelOK, string(job.ID), "", "its vectors lie where those of model %s's training do (%d moments in %s)", e.model.ID, drift.Moments, planfile.Duration(drift.To.Sub(drift.From)))
		}
	}
	for _, id := range slices.Sorted(maps.Keys(used)) {
		j, n, err := promises(ctx, st, store.OutcomeFilter{}, id)
		if err != nil {
			return err
		}
		switch {
		case n < leastJudged:
		case j.Drifted():
			d.findings.add(levelWarning, "model "+id, "dhalion train, and dhalion evaluate-model", "%s", fulfilled(j, n, id))
		default:
			d.findings.add(levelOK, "model "+id, "", "%s", fulfilled(j, n, id))
		}
	}
	return nil
}
