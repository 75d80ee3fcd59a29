package diagnose

import (
	"cmp"
	"math"
	"slices"
	"strings"

	dhalion "github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/features"
	"github.com/dhalion-go/dhalion/models"
	"github.com/dhalion-go/dhalion/plan/policy"
)

// What would change a diagnosis is a counterfactual (S. Wachter, B. Mittelstadt,
// C. Russell, Counterfactual explanations without opening the black box, Harvard
// Journal of Law & Technology 31, 2018): the smallest change of what was seen by which
// the answer would be another. Rules and trees have no gradient, so values are tried.

// Inquiry asks the rules, and the model where there is one, again about a window.
type Inquiry struct {
	result *Result
	model  *Learned // nil: the rules alone
	cases  map[dhalion.Pair]Case
	job    []float64                // the vector of the job
	others map[dhalion.Pair]*judged // by the rules, those that may explain others
}

// Ask prepares questions about a result. The model is the one that it was fused with,
// nil where the rules answered alone.
func (r *Result) Ask(m *Learned) *Inquiry {
	if r.short {
		m = nil // as Fuse: what is said of a short window the rules say
	}
	q := &Inquiry{result: r, model: m, cases: map[dhalion.Pair]Case{}, others: map[dhalion.Pair]*judged{}}
	if m != nil {
		cases := r.Cases()
		q.job = jobOf(cases)
		for _, c := range cases {
			q.cases[c.Pair] = c
		}
	}
	for pair, j := range r.weighed {
		if j.alone >= Listed {
			q.others[pair] = j
		}
	}
	return q
}

// MostLike are the exemplars of the model that are most like the target of a pair, as
// Learned.MostLike gives them; nothing where the rules answered alone.
func (q *Inquiry) MostLike(pair dhalion.Pair, most int) (incidents []Likeness, other *Likeness) {
	c, ok := q.cases[pair]
	if !ok {
		return nil, nil
	}
	return q.model.MostLike(c, most)
}

// Change is a feature of a target at another value.
type Change struct {
	Target   dhalion.Target
	Feature  string
	From, To float64
	// Distance is the share of the training values that lie between the two; where
	// there are none, the difference over the sum of both.
	Distance float64
}

// Flip is the smallest change by which a diagnosis would be another: of one feature
// where one will do, else of two, and of those the one of least distance.
type Flip struct {
	Probability float64 // as it is
	Then        float64 // as it would be, on the other side of a half
	// Changes are one or two; empty where no change of so many was found.
	Changes []Change
}

// Flip seeks what takes the probability of a pair from above a half to at most a half,
// or from there to above; false where the pair is not judged. It changes what rules
// and classifier of the cause ask of the target, its component, its worker and its
// job, one value at a time between those that training saw or, without a model, a
// sixteenth and sixteen times as much; what is derived from a changed feature, the
// symptoms, and all other pairs stay. Every change that is returned has been asked of
// rules, classifier, simulation and their combination.
func (q *Inquiry) Flip(pair dhalion.Pair) (Flip, bool) {
	w := q.about(pair)
	if w == nil {
		return Flip{}, false
	}
	now, known := w.probability(q.result.Snapshot, false)
	if !known {
		return Flip{}, false
	}
	f := Flip{Probability: now, Then: now}
	w.up = now <= .5
	knobs := w.knobs()
	if f.Changes = w.one(knobs); f.Changes == nil {
		f.Changes = w.two(knobs)
	}
	if f.Changes != nil {
		f.Then, _ = w.probability(w.changed(f.Changes), true)
	}
	return f, true
}

// whatIf is a question about one pair.
type whatIf struct {
	*Inquiry
	pair  dhalion.Pair
	rules []policy.Rule
	// rival is the fused probability of what shares its own with the pair, NaN where
	// nothing does.
	rival float64
	up    bool // to where it would be likelier than not
}

func (q *Inquiry) about(pair dhalion.Pair) *whatIf {
	r := q.result
	w := &whatIf{Inquiry: q, pair: pair, rules: rulesFor(r.policy, pair.Cause, pair.Target.Kind), rival: nan}
	if q.model == nil {
		if len(w.rules) == 0 || r.short && pair.Cause != dhalion.Failing || !slices.Contains(r.Snapshot.Targets(pair.Target.Kind), pair.Target) {
			return nil
		}
		return w
	}
	if c, ok := q.cases[pair]; !ok || c.Unknown {
		return nil
	}
	for _, both := range [][2]dhalion.Cause{{dhalion.Underprovisioned, dhalion.Overprovisioned}, {dhalion.Overprovisioned, dhalion.Underprovisioned}} {
		if c, ok := q.cases[dhalion.Pair{Target: pair.Target, Cause: both[1]}]; ok && pair.Cause == both[0] {
			w.rival = q.model.judge(c, q.job).probability
		}
	}
	return w
}

// probability is the pair's in a snapshot; again says to simulate again, too, and to
// ask whether the job is still one that the model knows. It is not known where the rules alone answer and what they need is unknown.
func (w *whatIf) probability(snap *features.Snapshot, again bool) (p float64, known bool) {
	r := w.result
	byRules := nan
	if len(w.rules) > 0 {
		d, missing := judge(w.rules, r.policy.Priors[w.pair.Cause], w.pair.Target, snap, r.seen, r.policy)
		switch {
		case d != nil:
			byRules = w.besideOthers(*d, snap)
		case missing != nil && w.model == nil:
			return 0, false
		}
	}
	if w.model == nil {
		return orElse(byRules, 0), true
	}
	c := w.cases[w.pair]
	c.Vector, c.Rules = snap.Judging(w.pair.Target), nan
	if !math.IsNaN(byRules) {
		c.Rules = logit(byRules)
	}
	job := w.job
	if again && r.reader != nil && snap != r.Snapshot {
		job = snap.Judging(dhalion.JobTarget(r.Job)).Values
		if s, ok := Synthesise(snap, r.reader.Healthy(), r.policy)[w.pair]; ok {
			c.Synthesis = s.LogOdds
		}
	}
	p = w.model.judge(c, job).probability
	if sum := p + w.rival; sum > 1 {
		p /= sum
	}
	return p, true
}

// besideOthers is the rules' probability after what others explain of it, those being
// as they are.
func (w *whatIf) besideOthers(d dhalion.Diagnosis, snap *features.Snapshot) float64 {
	pairs := map[dhalion.Pair]*judged{}
	for pair, j := range w.others {
		own := *j
		own.Probability, own.ExplainedBy = j.alone, nil
		pairs[pair] = &own
	}
	pairs[w.pair] = &judged{Diagnosis: d, alone: d.Probability}
	if !binary(w.result.policy) {
		explain(pairs, snap)
	}
	share(pairs)
	return pairs[w.pair].Probability
}

// flips says whether the answer would be another.
func (w *whatIf) flips(snap *features.Snapshot, again bool) bool {
	p, known := w.probability(snap, again)
	return known && (p > .5) == w.up
}

func (w *whatIf) changed(changes []Change) *features.Snapshot {
	snap := w.result.Snapshot
	for _, c := range changes {
		snap = snap.With(c.Target, c.Feature, c.To)
	}
	return snap
}

// knob is a feature that may be changed, and the values to try.
type knob struct {
	target  dhalion.Target
	feature string
	now     float64
	count   bool                    // whole numbers
	sides   [2][]float64            // below and above now, from there on
	place   func(v float64) float64 // among the training values; nil: there are none
}

func (k *knob) distance(v float64) float64 {
	apart := 0.0
	if v != k.now {
		apart = math.Abs(v-k.now) / (math.Abs(v) + math.Abs(k.now))
	}
	if k.place == nil {
		return apart
	}
	// Where training saw nothing between the two, less is still nearer.
	return math.Abs(k.place(v)-k.place(k.now)) + apart/1000
}

func (k *knob) to(v float64) Change {
	return Change{Target: k.target, Feature: k.feature, From: k.now, To: v, Distance: k.distance(v)}
}

// given are features that say how a job is made, or of how much others are known, and
// not how it fares.
var given = map[string]bool{
	"is_source": true, "is_external": true, "instances": true, "smallest_parallelism": true, "peers_elsewhere": true, "polls": true, "records_seen": true,
	"loaded_instances": true,
}

// knobs are what rules and classifier ask for and is known, in order of target and
// name.
func (w *whatIf) knobs() []knob {
	snap, t := w.result.Snapshot, w.pair.Target
	var all []knob
	add := func(name string, points []float64, place func(float64) float64) {
		of, feature := t, name
		for prefix, target := range map[string]dhalion.Target{
			policy.OfComponent: dhalion.ComponentTarget(t.Job, t.Component),
			"worker.":          dhalion.WorkerTarget(t.Job, snap.Topology.WorkerOf(t.Component, t.Instance)),
			"job.":             dhalion.JobTarget(t.Job),
		} {
			if rest, ok := strings.CutPrefix(name, prefix); ok {
				of, feature = target, rest
			}
		}
		now := snap.Value(of, feature)
		if math.IsNaN(now) || given[feature] || slices.ContainsFunc(all, func(k knob) bool { return k.target == of && k.feature == feature }) {
			return
		}
		k := knob{target: of, feature: feature, now: now, count: counts(of.Kind, feature), place: place}
		k.fill(points)
		all = append(all, k)
	}
	asked := map[string]bool{}
	for _, rule := range w.rules {
		for _, e := range []*policy.Expr{rule.When, rule.Evidence} {
			if e != nil {
				for _, name := range e.Features() {
					asked[name] = true
				}
			}
		}
	}
	if w.model != nil {
		w.model.asked(seatOf(w.pair), asked, add)
	}
	names := map[string]int{}
	for name := range asked {
		names[name] = 0
	}
	for _, name := range sorted(names) {
		add(name, nil, nil)
	}
	slices.SortFunc(all, func(a, b knob) int { return cmp.Or(a.target.Compare(b.target), cmp.Compare(a.feature, b.feature)) })
	return all
}

// asked adds the features of a seat's vectors that rules ask for or its classifier
// uses, each with values between which answers may change.
func (m *Learned) asked(s seat, byRules map[string]bool, add func(name string, points []float64, place func(float64) float64)) {
	limits, all := splits(m.Classifiers[s])
	r := m.References[s.Kind]
	for f, i := range m.columns[s.Kind] {
		name := features.JudgingSchema(s.Kind).Names[i]
		if !byRules[name] && !all && limits[f] == nil {
			continue
		}
		points := slices.Clone(limits[f])
		if r == nil || len(r.Limits[f]) < 2 {
			add(name, points, nil)
			continue
		}
		add(name, append(points, r.Limits[f]...), func(v float64) float64 { return r.Position(f, v) })
	}
}

// splits are the limits at which a classifier's trees part each of its features; all
// says that it uses every feature without any.
func splits(c models.Model) (limits map[int][]float64, all bool) {
	limits = map[int][]float64{}
	switch c := c.(type) {
	case nil, *models.Constant:
	case *models.Boosted:
		for _, round := range c.Trees {
			for _, tree := range round {
				for _, n := range tree {
					if n.Left != 0 && n.Limit < math.MaxFloat64 {
						limits[int(n.Feature)] = append(limits[int(n.Feature)], n.Limit)
					}
				}
			}
		}
	default:
		return limits, true
	}
	return limits, false
}

func counts(kind dhalion.TargetKind, feature string) bool {
	return slices.ContainsFunc(features.DerivedFeatures, func(d features.Derived) bool {
		return d.Kind == kind && d.Name == feature && d.Unit == "count"
	})
}

// steps of a value of which no others are known, as factors: up to sixteen, four to an
// octave.
const (
	octaves   = 4
	perOctave = 4
)

// fill lists the values to try: between points, or in steps from the present one.
func (k *knob) fill(points []float64) {
	var values []float64
	slices.Sort(points)
	points = slices.Compact(points)
	switch {
	case k.count:
		for v := range int(math.Max(8, 2*k.now)) + 1 {
			values = append(values, float64(v))
		}
	case len(points) > 1:
		values = append(values, points[0])
		for i := 1; i < len(points); i++ {
			values = append(values, points[i-1]/2+points[i]/2)
		}
		values = append(values, points[len(points)-1])
	default:
		from := k.now
		if from == 0 {
			from = .1
		}
		for n := -octaves * perOctave; n <= octaves*perOctave; n++ {
			values = append(values, from*math.Exp2(float64(n)/perOctave))
		}
		values = append(values, 0)
	}
	most := math.Inf(1)
	if strings.Contains(k.feature, "_fraction") && !strings.Contains(k.feature, "ratio(") && !strings.HasPrefix(k.feature, "trend(") && k.now <= 1 {
		most = 1
		values = append(values, 1)
	}
	slices.Sort(values)
	for _, v := range slices.Compact(values) {
		switch {
		case v > most || v < 0 && k.now >= 0 && !strings.HasPrefix(k.feature, "trend("):
		case v < k.now:
			k.sides[0] = append(k.sides[0], v)
		case v > k.now:
			k.sides[1] = append(k.sides[1], v)
		}
	}
	slices.Reverse(k.sides[0])
}

// one is the least change of one feature, nil for none.
func (w *whatIf) one(knobs []knob) []Change {
	var best []Change
	least := math.Inf(1)
	for i := range knobs {
		k := &knobs[i]
		for _, side := range k.sides {
			before := k.now
			for _, v := range side {
				if k.distance(before) >= least {
					break
				}
				if !w.flips(w.changed([]Change{k.to(v)}), false) {
					before = v
					continue
				}
				if c := w.refine([]Change{k.to(v)}, []float64{before}, []*knob{k}); c != nil {
					if c[0].Distance < least {
						best, least = c, c[0].Distance
					}
					break
				}
				before = v
			}
		}
	}
	return best
}

// refine draws changes in as far as they still flip, one after the other, to values of
// few digits, and asks all voices; nil where those disagree.
func (w *whatIf) refine(changes []Change, before []float64, knobs []*knob) []Change {
	whole := slices.Clone(changes)
	for i, k := range knobs {
		out, in := changes[i].To, before[i]
		for range 14 {
			mid := in/2 + out/2
			if k.count || mid == in || mid == out {
				break
			}
			changes[i] = k.to(mid)
			if w.flips(w.changed(changes), false) {
				out = mid
			} else {
				in = mid
			}
		}
		changes[i] = k.to(out)
		for _, v := range brief(out, k.now) {
			if k.count || v == k.now || k.distance(v) > whole[i].Distance {
				continue
			}
			if changes[i] = k.to(v); w.flips(w.changed(changes), false) {
				break
			}
			changes[i] = k.to(out)
		}
	}
	switch {
	case w.flips(w.changed(changes), true):
		return changes
	case w.flips(w.changed(whole), true):
		return whole
	}
	return nil
}

// brief are a value rounded to ever more digits, three first, each to the nearest and
// away from another value.
func brief(v, from float64) []float64 {
	away := math.Ceil
	if v < from {
		away = math.Floor
	}
	var all []float64
	for n := 3; v != 0 && n < 10; n++ {
		all = append(all, models.Digits(v, n, math.Round), models.Digits(v, n, away))
	}
	return all
}

// How many features are tried two at a time, each at how many values a side.
const (
	pairedKnobs  = 8
	pairedValues = 6
)

// two is the least change of two features among those that move the probability
// farthest alone, nil for none.
func (w *whatIf) two(knobs []knob) []Change {
	now, _ := w.probability(w.result.Snapshot, false)
	type lever struct {
		knob   *knob
		gain   float64
		values []float64
	}
	var levers []lever
	for i := range knobs {
		l := lever{knob: &knobs[i]}
		for _, side := range knobs[i].sides {
			some := thinnedTo(side, pairedValues)
			for _, v := range some {
				if p, known := w.probability(w.changed([]Change{l.knob.to(v)}), false); known {
					gain := logit(p) - logit(now)
					if !w.up {
						gain = -gain
					}
					l.gain = math.Max(l.gain, gain)
				}
			}
			l.values = append(l.values, some...)
		}
		if l.gain > 0 {
			levers = append(levers, l)
		}
	}
	slices.SortStableFunc(levers, func(a, b lever) int { return cmp.Compare(b.gain, a.gain) })
	levers = levers[:min(pairedKnobs, len(levers))]
	type both struct {
		knobs   [2]*knob
		changes [2]Change
	}
	var all []both
	for i, a := range levers {
		for _, b := range levers[i+1:] {
			for _, v := range a.values {
				for _, u := range b.values {
					all = append(all, both{[2]*knob{a.knob, b.knob}, [2]Change{a.knob.to(v), b.knob.to(u)}})
				}
			}
		}
	}
	slices.SortStableFunc(all, func(a, b both) int {
		return cmp.Compare(a.changes[0].Distance+a.changes[1].Distance, b.changes[0].Distance+b.changes[1].Distance)
	})
	for _, b := range all {
		if !w.flips(w.changed(b.changes[:]), false) {
			continue
		}
		c := w.refine(b.changes[:], []float64{b.knobs[0].now, b.knobs[1].now}, b.knobs[:])
		for i := range c {
			if w.flips(w.changed(c[i:i+1]), true) {
				return c[i : i+1] // of a value between those that were tried alone
			}
		}
		if c != nil {
			return c
		}
	}
	return nil
}

func thinnedTo(values []float64, most int) []float64 {
	if len(values) <= most {
		return values
	}
	var out []float64
	for k := range most {
		out = append(out, values[k*(len(values)-1)/(most-1)])
	}
	return out
}
