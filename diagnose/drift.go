package diagnose

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"

	dhalion "github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/features"
	"github.com/dhalion-go/dhalion/models"
)

// The vectors of one job never lie as those of many do: it has its own shares,
// loads and costs, and keeps them. Its population stability index against all that
// was seen in training is above .25 in most features with nothing amiss. So what is
// usual is measured in training: the index of every job (run) against the jobs of
// the other families. Drift is what exceeds that.

// How many moments of a job are compared, how many it takes, and how much more a
// job may exceed what is usual than any did in training.
const (
	driftMoments = 20
	leastMoments = 5
	driftSlack   = 1.5
	leastExcess  = .1 // the limit is at least this: of forty features four by one each
)

// ofProbability names the feature of a Reference that is the greatest probability of
// the classifiers.
const ofProbability = "probability"

// driftNames are the features of a kind's Reference.
func (m *Learned) driftNames(kind dhalion.TargetKind) []string {
	schema := features.JudgingSchema(kind)
	var names []string
	for _, i := range m.columns[kind] {
		names = append(names, schema.Names[i])
	}
	return append(names, ofProbability)
}

// driftRow is a vector of a Reference: of one target at one time.
type driftRow struct {
	run    string
	at     int64 // ns since 1970
	fold   int
	sick   bool
	values []float64
}

// references are how the training vectors lie, per kind of target. The probabilities
// come from classifiers that have not seen the example.
func (m *Learned) references(examples []Example, rows []exampleRow, folds []int, outside []float64) (map[dhalion.TargetKind]*models.Reference, error) {
	type place struct {
		example int
		target  dhalion.Target
	}
	top := map[place]float64{}
	for _, r := range rows {
		at := place{r.example, r.Target}
		if z := outside[r.index]; !math.IsNaN(z) {
			top[at] = math.Max(top[at], logistic(z))
		}
	}
	out := map[dhalion.TargetKind]*models.Reference{}
	for _, kind := range dhalion.TargetKinds {
		var all []driftRow
		for n := range examples {
			e := &examples[n]
			seen := map[dhalion.Target]bool{}
			for _, c := range e.Cases {
				if c.Target.Kind != kind || seen[c.Target] {
					continue
				}
				seen[c.Target] = true
				p, ok := top[place{n, c.Target}]
				if !ok {
					p = nan
				}
				all = append(all, driftRow{e.Run, e.At.UnixNano(), folds[n], e.sick(), m.driftValues(kind, c.Vector.Values, p)})
			}
		}
		if len(all) == 0 {
			continue
		}
		r, err := m.reference(kind, all)
		if err != nil {
			return nil, fmt.Errorf("diagnose: train: how vectors of a %s lie: %w", kind, err)
		}
		out[kind] = r
	}
	return out, nil
}

func (m *Learned) driftValues(kind dhalion.TargetKind, vector []float64, top float64) []float64 {
	values := make([]float64, 0, len(m.columns[kind])+1)
	for _, i := range m.columns[kind] {
		values = append(values, vector[i])
	}
	return append(values, top)
}

// reference is that of all rows, with what is usual: the greatest index that a job
// showed against the other folds, as a whole, where it was in order, and where it was
// not. The limit comes from the first two: a minute of an incident may be anything.
func (m *Learned) reference(kind dhalion.TargetKind, all []driftRow) (*models.Reference, error) {
	names := m.driftNames(kind)
	matrix := func(rows []driftRow) *models.Data {
		d := &models.Data{Names: names, Rows: len(rows), Classes: 2, Y: make([]int, len(rows))}
		for _, r := range rows {
			d.X = append(d.X, r.values...)
		}
		return d
	}
	only := func(rows []driftRow, use func(driftRow) bool) []driftRow {
		return slices.DeleteFunc(slices.Clone(rows), func(r driftRow) bool { return !use(r) })
	}
	whole, err := models.NewReference(matrix(all))
	if err != nil {
		return nil, err
	}
	type part struct {
		fold  int
		sick  bool // in incidents only
		index []float64
	}
	var parts []part
	folds := slices.MaxFunc(all, func(a, b driftRow) int { return a.fold - b.fold }).fold + 1
	for f := range folds {
		own, rest := only(all, func(r driftRow) bool { return r.fold == f }), only(all, func(r driftRow) bool { return r.fold != f })
		if len(own) == 0 || len(rest) == 0 {
			continue
		}
		other, err := models.NewReference(matrix(rest))
		if err != nil {
			return nil, err
		}
		runs := map[string]int{}
		for _, r := range own {
			runs[r.run] = 0
		}
		for _, run := range sorted(runs) {
			job := only(own, func(r driftRow) bool { return r.run == run })
			quiet, sick := only(job, func(r driftRow) bool { return !r.sick }), only(job, func(r driftRow) bool { return r.sick })
			for n, rows := range [][]driftRow{job, quiet, sick} {
				some := thinned(rows)
				if some == nil {
					continue
				}
				d, err := other.Of(matrix(some).X)
				if err != nil {
					return nil, err
				}
				parts = append(parts, part{f, n == 2, d.Index})
			}
		}
	}
	most := func(use func(part) bool) []float64 {
		usual := make([]float64, len(names))
		for _, p := range parts {
			if use(p) {
				for f, v := range p.index {
					usual[f] = math.Max(usual[f], v)
				}
			}
		}
		return usual
	}
	if len(parts) == 0 {
		return whole, nil
	}
	for _, p := range parts {
		if !p.sick {
			others := most(func(o part) bool { return o.fold != p.fold })
			whole.Limit = math.Max(whole.Limit, models.Excess(p.index, others))
		}
	}
	whole.Usual = most(func(part) bool { return true })
	for f, v := range whole.Usual {
		whole.Usual[f] = math.Ceil(v*100) / 100
	}
	whole.Limit = math.Ceil(math.Max(leastExcess, driftSlack*whole.Limit)*1000) / 1000
	return whole, nil
}

// thinned are the rows of so many moments as drift is judged by, nil where there are
// too few.
func thinned(rows []driftRow) []driftRow {
	var times []int64
	for _, r := range rows {
		times = append(times, r.at)
	}
	slices.Sort(times)
	times = slices.Compact(times)
	if len(times) < leastMoments {
		return nil
	}
	some := map[int64]bool{}
	most := min(len(times), driftMoments)
	for k := range most {
		some[times[k*(len(times)-1)/(most-1)]] = true
	}
	return slices.DeleteFunc(slices.Clone(rows), func(r driftRow) bool { return !some[r.at] })
}

// Drift is how far a job's vectors are from those that a model was trained on.
type Drift struct {
	From, To time.Time // the first and the last moment
	Moments  int
	Kinds    []KindDrift // kinds of target that can be compared
}

// KindDrift is that of the vectors of one kind of target.
type KindDrift struct {
	Kind dhalion.TargetKind
	Rows int
	// Excess is the mean over features of how far the population stability index is
	// above what is usual, Limit what it is at most without drift.
	Excess, Limit float64
	// Moved are the features farthest above what is usual for them, at most three.
	Moved []MovedFeature
}

// MovedFeature is a feature with its population stability index, and the greatest
// that any job of another family showed in training. "probability" is the greatest
// probability that a classifier gives.
type MovedFeature struct {
	Name         string
	Index, Usual float64
}

// Drifted are the kinds of target whose vectors are beyond the limit.
func (d *Drift) Drifted() []KindDrift {
	return slices.DeleteFunc(slices.Clone(d.Kinds), func(k KindDrift) bool { return k.Excess <= k.Limit })
}

// Drift compares the job's vectors at moments of the policy's lookback, at most 20 and
// a window apart, with those that a model was trained on. All are seen with the past
// that the last one has. With fewer than 5 moments that can be judged, or for a model
// of a single job, there are no kinds to compare.
func (r *Result) Drift(m *Learned) (*Drift, error) {
	d := &Drift{}
	if r.reader == nil {
		return d, nil
	}
	rows := map[dhalion.TargetKind][]driftRow{}
	for _, t := range r.moments() {
		snap := r.reader.At(t)
		if tooLittle(snap, r.policy) != "" {
			continue
		}
		if d.Moments++; d.From.IsZero() {
			d.From = t
		}
		d.To = t
		job := snap.Judging(dhalion.JobTarget(r.Job)).Values
		for _, kind := range dhalion.TargetKinds {
			for _, target := range snap.Targets(kind) {
				if !judgedAt(target, snap) {
					continue // training has not seen it either
				}
				v := snap.Judging(target).Values
				rows[kind] = append(rows[kind], driftRow{at: t.UnixNano(), values: m.driftValues(kind, v, m.top(kind, v, job))})
			}
		}
	}
	if d.Moments < leastMoments {
		return d, nil
	}
	for _, kind := range dhalion.TargetKinds {
		trained := m.References[kind]
		if trained == nil || len(trained.Usual) == 0 || len(rows[kind]) == 0 {
			continue
		}
		var x []float64
		for _, row := range rows[kind] {
			x = append(x, row.values...)
		}
		live, err := trained.Of(x)
		if err != nil {
			return nil, fmt.Errorf("diagnose: drift of %ss: %w", kind, err)
		}
		k := KindDrift{Kind: kind, Rows: live.Rows, Excess: models.Excess(live.Index, trained.Usual), Limit: trained.Limit}
		for f, name := range m.driftNames(kind) {
			if live.Index[f] > math.Max(trained.Usual[f], live.Chance[f]) {
				k.Moved = append(k.Moved, MovedFeature{name, live.Index[f], trained.Usual[f]})
			}
		}
		slices.SortStableFunc(k.Moved, func(a, b MovedFeature) int { return cmp.Compare(b.Index-b.Usual, a.Index-a.Usual) })
		k.Moved = k.Moved[:min(3, len(k.Moved))]
		d.Kinds = append(d.Kinds, k)
	}
	return d, nil
}

// top is the greatest probability that the classifiers of a kind give a vector; NaN
// where they are not asked.
func (m *Learned) top(kind dhalion.TargetKind, values, job []float64) float64 {
	top := nan
	if m.alien(job) != nil || !m.Familiar[kind].Knows(values) {
		return top
	}
	for _, s := range seats() {
		if c := m.Classifiers[s]; s.Kind == kind && c != nil {
			if p := logistic(m.ask(c, kind, values)); !(p <= top) {
				top = p
			}
		}
	}
	return top
}

// moments are evenly spread over the policy's lookback, as far as there are
// measurements, and at least a window apart. The last is the one that was judged.
func (r *Result) moments() []time.Time {
	measured := r.reader.Times(r.At.Add(-r.policy.Lookback()), r.At)
	if len(measured) == 0 {
		return nil
	}
	span := r.At.Sub(measured[0])
	step := max(r.policy.Window, span/(driftMoments-1))
	var moments []time.Time
	for t := r.At; step > 0 && r.At.Sub(t) <= span && len(moments) < driftMoments; t = t.Add(-step) {
		moments = append(moments, t)
	}
	slices.Reverse(moments)
	return moments
}
