package diagnose

import (
	"cmp"
	"context"
	"crypto/sha256"
	bits "encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	dhalion "github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/features"
	"github.com/dhalion-go/dhalion/models"
	"github.com/dhalion-go/dhalion/plan/policy"
)

// seat is where a classifier sits: causes are learned one against the rest, each at
// the kinds of target at which it is judged.
type seat struct {
	Cause dhalion.Cause
	Kind  dhalion.TargetKind
}

// seats are all, in order of cause and kind.
func seats() []seat {
	var out []seat
	for _, cause := range dhalion.Causes {
		for _, kind := range policy.Kinds[cause] {
			out = append(out, seat{cause, kind})
		}
	}
	return out
}

func seatOf(p dhalion.Pair) seat { return seat{p.Cause, p.Target.Kind} }

// Learned is what training made: a classifier a seat, how loud each voice is, how
// probabilities are calibrated, and what was seen in training.
type Learned struct {
	ID          string // of the artefact; empty until it is encoded
	About       About
	Classifiers map[seat]models.Model
	Familiar    map[dhalion.TargetKind]*Familiar
	// Fused combines all voices, Alone those that remain where the classifier has none.
	Fused, Alone *Fusion
	Calibration  models.Calibration
	// References are how vectors were distributed in training, and last among their
	// features the greatest probability that a classifier gave.
	References map[dhalion.TargetKind]*models.Reference
	// Exemplars are incidents that it learned from, and times that only looked so.
	Exemplars []Exemplar
	columns   map[dhalion.TargetKind][]int
}

// Excluded says that no classifier gets a feature. The processor's share of a worker
// and its collections depend on what else runs on the machine that the corpus was
// recorded on. What the targets elsewhere in the job show is weighed by what explains
// what away, and by synthesis; from the corpus, in which mostly one thing is wrong at
// a time, a classifier learns to acquit one instance because another looks slow.
func Excluded(name string) bool {
	return strings.Contains(name, "elsewhere") || strings.Contains(name, "cpu_fraction") || strings.Contains(name, "gc_fraction")
}

// columnsOf are the positions of the features that classifiers get, and of others that
// shall be among them.
func columnsOf(kind dhalion.TargetKind, also func(string) bool) []int {
	var out []int
	for i, name := range features.JudgingSchema(kind).Names {
		if !Excluded(name) || also != nil && also(name) {
			out = append(out, i)
		}
	}
	return out
}

// TrainOptions are those of Train.
type TrainOptions struct {
	Learner models.Learner
	Seed    uint64
	// Also gives classifiers features that are Excluded; it may be nil.
	Also func(feature string) bool
	// Progress is told of fits that are done; it may be nil.
	Progress func(done, of int)
}

// LeastIncidents is how many incidents of a cause, at a kind of target, it takes to
// learn it.
const LeastIncidents = 4

// Train learns from examples. What the classifiers say of an example, by which the
// fusion learns how far to trust them, comes from classifiers that have seen nothing
// of its family (where there is one family: of its run; of one run: of the incident).
func Train(ctx context.Context, examples []Example, opt TrainOptions) (*Learned, error) {
	examples = OneFamilyARun(examples)
	rows := rowsOf(examples)
	if len(rows) == 0 {
		return nil, errors.New("diagnose: train: no examples")
	}
	folds := foldsOf(examples)
	m := newLearned()
	m.About = about(examples, rows, opt)
	for _, kind := range dhalion.TargetKinds {
		m.columns[kind] = columnsOf(kind, opt.Also)
		m.Familiar[kind] = newFamiliar(kind, m.columns[kind], examples, folds)
	}
	k := slices.Max(folds) + 1
	all := seats()
	done := 0
	tell := func() {
		done++
		if opt.Progress != nil {
			opt.Progress(done, len(all)*(k+1))
		}
	}
	outside := make([]float64, len(rows)) // log-odds by classifiers that have not seen the row's fold
	for i := range outside {
		outside[i] = math.NaN()
	}
	for _, s := range all {
		of := slices.DeleteFunc(slices.Clone(rows), func(r exampleRow) bool { return seatOf(r.Pair) != s })
		for f := range k {
			c, err := m.fit(ctx, s, slices.DeleteFunc(slices.Clone(of), func(r exampleRow) bool { return folds[r.example] == f }), opt)
			if err != nil {
				return nil, err
			}
			for _, r := range of {
				if folds[r.example] == f && c != nil && !r.Unknown && m.strange(r.Case, jobOf(examples[r.example].Cases), f) == nil {
					outside[r.index] = m.ask(c, s.Kind, r.Vector.Values)
				}
			}
			tell()
		}
		c, err := m.fit(ctx, s, of, opt)
		if err != nil {
			return nil, err
		}
		if c != nil {
			m.Classifiers[s] = c
		}
		tell()
	}
	var fused, alone []said
	for _, r := range rows {
		if !r.sure {
			continue // judged outcomes teach classifiers, and are no measure of them
		}
		v := spoken{r.Rules, outside[r.index], r.Synthesis}
		fused = append(fused, said{r.Cause, v, r.holds, r.weight})
		v[byClassifier] = math.NaN()
		alone = append(alone, said{r.Cause, v, r.holds, r.weight})
	}
	var err error
	if m.Fused, err = fitFusion(fused); err != nil {
		return nil, err
	}
	if m.Alone, err = fitFusion(alone); err != nil {
		return nil, err
	}
	m.calibrate(fused, rows, folds)
	if m.References, err = m.references(examples, rows, folds, outside); err != nil {
		return nil, err
	}
	m.remember()
	m.Exemplars = m.exemplars(examples, rows, outside)
	return m, nil
}

func newLearned() *Learned {
	return &Learned{Classifiers: map[seat]models.Model{}, Familiar: map[dhalion.TargetKind]*Familiar{},
		References: map[dhalion.TargetKind]*models.Reference{}, columns: map[dhalion.TargetKind][]int{}}
}

// calibrate chooses how the combination's probabilities are bent, judged on families
// that the bend has not seen.
func (m *Learned) calibrate(fused []said, rows []exampleRow, folds []int) {
	var p, weight []float64
	var holds []bool
	var fold []int
	n := 0
	for _, r := range rows {
		if !r.sure {
			continue
		}
		z, _ := m.Fused.logOdds(fused[n].cause, fused[n].spoken)
		p, holds, weight = append(p, logistic(z)), append(holds, r.holds == 1), append(weight, r.weight)
		fold = append(fold, folds[r.example])
		n++
	}
	m.Calibration = models.Calibrate(p, holds, weight, fold)
}

// about is what a model will say of where it comes from.
func about(examples []Example, rows []exampleRow, opt TrainOptions) About {
	a := About{Learner: opt.Learner.Name(), Seed: opt.Seed, Windows: len(examples)}
	families, incidents := map[string]int{}, map[string]int{}
	sum := sha256.New()
	number := func(v float64) { _ = bits.Write(sum, bits.BigEndian, math.Float64bits(v)) }
	for _, r := range rows {
		e := examples[r.example]
		families[e.Family] = 0
		if r.holds == 1 && r.likely {
			incidents[e.Incident] = 0
		}
		fmt.Fprintf(sum, "%s %s %s %s\n", e.Run, e.At.UTC().Format(time.RFC3339Nano), r.Cause, r.Target)
		number(r.holds)
		number(r.weight)
		number(r.Rules)
		number(r.Synthesis)
		for _, v := range r.Vector.Values {
			number(v)
		}
	}
	a.Families, a.Incidents, a.Data = sorted(families), len(incidents), hex.EncodeToString(sum.Sum(nil))
	return a
}

// exampleRow is a pair of an example of which it is known whether it holds.
type exampleRow struct {
	Case
	index, example int
	incident       string
	holds          float64
	weight         float64
	sure           bool
	likely         bool // the example has no likelier row of the pair
}

// rowsOf are the pairs of all examples that the labels tell of. Every incident, and
// every quiet minute, has the same weight however often it was asked for. A pair that
// holds by a label that is not certain is there twice, as one that holds and as one
// that does not, each by its chance: what is unlikely to hold teaches that it does not.
func rowsOf(examples []Example) []exampleRow {
	windows := map[string]float64{}
	for _, e := range examples {
		windows[e.Incident]++
	}
	var rows []exampleRow
	for n, e := range examples {
		for i, c := range e.Cases {
			if math.IsNaN(e.Holds[i]) {
				continue
			}
			r := exampleRow{Case: c, index: len(rows), example: n, incident: e.Incident, holds: e.Holds[i],
				weight: e.Certainty / windows[e.Incident], sure: e.sure(), likely: true}
			if e.Chances != nil && !math.IsNaN(e.Chances[i]) {
				p := e.Chances[i]
				r.holds, r.weight, r.likely = 1, p/windows[e.Incident], p >= .5
				rows = append(rows, r)
				r.index, r.holds, r.weight, r.likely = len(rows), 0, (1-p)/windows[e.Incident], p < .5
			}
			rows = append(rows, r)
		}
	}
	return rows
}

func sorted(m map[string]int) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Table is what the classifier of one cause at one kind of target learns from.
type Table struct {
	Cause dhalion.Cause
	Kind  dhalion.TargetKind
	Data  *models.Data // classes 0 and 1: whether it holds; weights of mean 1
}

// Tables are those of examples, one a cause and kind of target of which there is
// enough to learn from; features are those of Inputs.
func Tables(examples []Example) []Table {
	rows := rowsOf(examples)
	var out []Table
	for _, s := range seats() {
		of := slices.DeleteFunc(slices.Clone(rows), func(r exampleRow) bool { return seatOf(r.Pair) != s })
		if d := tableOf(s, columnsOf(s.Kind, nil), of); d != nil {
			out = append(out, Table{s.Cause, s.Kind, d})
		}
	}
	return out
}

// Inputs are the features of a case that classifiers get.
func Inputs(c Case) []float64 {
	var x []float64
	for _, i := range columnsOf(c.Target.Kind, nil) {
		x = append(x, c.Vector.Values[i])
	}
	return x
}

// incidentsOf is in how many incidents rows hold.
func incidentsOf(rows []exampleRow) int {
	held := map[string]bool{}
	for _, r := range rows {
		if r.holds == 1 && r.likely {
			held[r.incident] = true
		}
	}
	return len(held)
}

// Lesson is how many incidents there are of a cause at a kind of target.
type Lesson struct {
	Cause     dhalion.Cause      `json:"cause"`
	Kind      dhalion.TargetKind `json:"kind"`
	Incidents int                `json:"incidents"`
}

// Lessons are those that examples have incidents for, in order of cause and kind. From
// LeastIncidents on there is a classifier. Failing is none: it is not learned.
func Lessons(examples []Example) []Lesson {
	rows := map[seat][]exampleRow{}
	for _, r := range rowsOf(examples) {
		rows[seatOf(r.Pair)] = append(rows[seatOf(r.Pair)], r)
	}
	var out []Lesson
	for _, s := range seats() {
		if n := incidentsOf(rows[s]); n > 0 && s.Cause != dhalion.Failing {
			out = append(out, Lesson{s.Cause, s.Kind, n})
		}
	}
	return out
}

// tableOf is the data of a seat's rows, nil where there is too little to learn from.
func tableOf(s seat, columns []int, rows []exampleRow) *models.Data {
	d := &models.Data{Classes: 2}
	for _, i := range columns {
		d.Names = append(d.Names, features.JudgingSchema(s.Kind).Names[i])
	}
	var weight float64
	for _, r := range rows {
		for _, i := range columns {
			d.X = append(d.X, r.Vector.Values[i])
		}
		d.Y = append(d.Y, int(r.holds))
		d.Weight = append(d.Weight, r.weight)
		weight += r.weight
		d.Rows++
	}
	if incidentsOf(rows) < LeastIncidents || s.Cause == dhalion.Failing {
		return nil // failing is a count of outages by definition: there is nothing to learn
	}
	// Learners count rows: weights of mean one keep what they ask of a leaf.
	for i := range d.Weight {
		d.Weight[i] *= float64(d.Rows) / weight
	}
	return d
}

// fit is the classifier of a seat, nil where there is too little to learn from.
func (m *Learned) fit(ctx context.Context, s seat, rows []exampleRow, opt TrainOptions) (models.Model, error) {
	d := tableOf(s, m.columns[s.Kind], rows)
	if d == nil {
		return nil, nil
	}
	c, err := opt.Learner.Fit(ctx, d, opt.Seed)
	if err != nil {
		return nil, fmt.Errorf("diagnose: train %s at %ss: %w", s.Cause, s.Kind, err)
	}
	return c, nil
}

// ask is a classifier's log-odds.
func (m *Learned) ask(c models.Model, kind dhalion.TargetKind, values []float64) float64 {
	var p [2]float64
	x := make([]float64, 0, 64)
	for _, i := range m.columns[kind] {
		x = append(x, values[i])
	}
	c.Predict(x, p[:])
	return logit(p[1])
}

// opinion is what all voices together say of a case.
type opinion struct {
	probability float64
	logOdds     float64
	parts       [voices]float64
	said        spoken
	strange     []string // features unlike any seen in training; the classifier is not asked then
	silent      bool     // there is no classifier for it, or what it takes is unknown
}

// everyFold asks what is familiar of all that was seen in training.
const everyFold = -1

// strange says where a case is unlike what was seen in training, but in one fold: the
// features that stand out, of its target or of the job as a whole, whose instances
// mean little to a classifier that knows no such job. nil: it is familiar.
func (m *Learned) strange(c Case, job []float64, fold int) []string {
	for _, x := range []struct {
		kind   dhalion.TargetKind
		values []float64
	}{{c.Target.Kind, c.Vector.Values}, {dhalion.KindJob, job}} {
		f := m.Familiar[x.kind]
		if fold != everyFold {
			f = f.without(fold)
		}
		if x.values != nil && !f.Knows(x.values) {
			return f.Strange(x.values)
		}
	}
	return nil
}

// alien says where a job as a whole is unlike what was seen in training.
func (m *Learned) alien(job []float64) []string {
	if f := m.Familiar[dhalion.KindJob]; job != nil && !f.Knows(job) {
		return f.Strange(job)
	}
	return nil
}

// jobOf is the vector of the job that cases are of, nil where there is none.
func jobOf(cases []Case) []float64 {
	for _, c := range cases {
		if c.Target.Kind == dhalion.KindJob {
			return c.Vector.Values
		}
	}
	return nil
}

// judge is the probability of a case of a job with that vector.
func (m *Learned) judge(c Case, job []float64) opinion {
	o := opinion{said: spoken{c.Rules, math.NaN(), c.Synthesis}}
	fusion, calibration := m.Fused, m.Calibration
	if classifier := m.Classifiers[seatOf(c.Pair)]; classifier == nil || c.Unknown {
		o.silent = true
	} else if o.strange = m.strange(c, job, everyFold); o.strange == nil {
		o.said[byClassifier] = m.ask(classifier, c.Target.Kind, c.Vector.Values)
	}
	if math.IsNaN(o.said[byClassifier]) {
		fusion, calibration = m.Alone, models.Calibration{} // which was chosen for the fusion of all
	}
	o.logOdds, o.parts = fusion.logOdds(c.Cause, o.said)
	o.probability = calibration.Of(logistic(o.logOdds))
	return o
}

// Probabilities are those of cases, in their order, with which *Learned is a
// Classifier.
func (m *Learned) Probabilities(cases []Case) []float64 {
	out := make([]float64, len(cases))
	job := jobOf(cases)
	for i, c := range cases {
		out[i] = m.judge(c, job).probability
	}
	return out
}

// remember takes from the references how often each feature was unknown in training.
func (m *Learned) remember() {
	for kind, r := range m.References {
		f := m.Familiar[kind]
		f.lacked = make([]float64, len(f.columns))
		for k := range f.columns {
			f.lacked[k] = r.Shares[k][len(r.Shares[k])-1]
		}
	}
}

// Familiar knows the range of what was seen in training, per feature, and tells
// vectors that are unlike it.
type Familiar struct {
	Kind  dhalion.TargetKind `json:"kind"`
	Low   []float64          `json:"low"`  // .5 % quantile
	High  []float64          `json:"high"` // 99.5 %
	Limit float64            `json:"limit"`

	columns []int
	lacked  []float64 // share of the rows in which the feature was unknown; empty: none is told
	folds   []*Familiar
}

// rarely is the share of rows below which a feature was as good as always known: that
// it is unknown then is as strange as any value can be. A classifier sends what is
// unknown one way at each split, which such rows had no say in.
const rarely = .001

// oddness is the mean over features of how far outside the range the vector is, in
// widths of the range, each at most 1. What is unknown, and hardly ever was, is outside.
func (f *Familiar) oddness(values []float64) float64 {
	sum := 0.0
	for k, i := range f.columns {
		sum += f.outside(k, values[i])
	}
	return sum / float64(max(1, len(f.columns)))
}

func (f *Familiar) outside(k int, v float64) float64 {
	switch {
	case math.IsNaN(v):
		return flag(len(f.lacked) > 0 && f.lacked[k] < rarely)
	case math.IsNaN(f.Low[k]):
		return 0
	case v > f.High[k]:
		return math.Min(1, (v-f.High[k])/math.Max(f.High[k]-f.Low[k], 1e-6))
	case v < f.Low[k]:
		return math.Min(1, (f.Low[k]-v)/math.Max(f.High[k]-f.Low[k], 1e-6))
	}
	return 0
}

// Knows says that a vector is like those seen in training.
func (f *Familiar) Knows(values []float64) bool { return f.oddness(values) <= f.Limit }

// Strange names the features farthest outside their range, at most three.
func (f *Familiar) Strange(values []float64) []string {
	type odd struct {
		name string
		by   float64
	}
	var all []odd
	for k, i := range f.columns {
		if by := f.outside(k, values[i]); by > 0 {
			name := features.JudgingSchema(f.Kind).Names[i]
			if math.IsNaN(values[i]) {
				name += " is unknown"
			}
			all = append(all, odd{name, by})
		}
	}
	slices.SortFunc(all, func(a, b odd) int { return cmp.Or(cmp.Compare(b.by, a.by), cmp.Compare(a.name, b.name)) })
	var names []string
	for _, o := range all[:min(3, len(all))] {
		names = append(names, o.name)
	}
	return names
}

func (f *Familiar) without(fold int) *Familiar {
	if fold < len(f.folds) {
		return f.folds[fold]
	}
	return f
}

// newFamiliar takes ranges over all examples, and over those outside each fold. The
// limit is the oddness that one in a thousand vectors of a fold exceeds by what is
// known without it: a job of another kind is no stranger, a measurement from another
// world is.
func newFamiliar(kind dhalion.TargetKind, columns []int, examples []Example, folds []int) *Familiar {
	vectors := map[dhalion.Target]bool{}
	var values [][]float64
	var fold []int
	for n, e := range examples {
		clear(vectors)
		for _, c := range e.Cases {
			if c.Target.Kind == kind && !vectors[c.Target] {
				vectors[c.Target] = true
				values = append(values, c.Vector.Values)
				fold = append(fold, folds[n])
			}
		}
	}
	ranges := func(use func(int) bool) *Familiar {
		f := &Familiar{Kind: kind, columns: columns}
		for _, i := range columns {
			var known []float64
			rows := 0
			for k, v := range values {
				if use(k) {
					rows++
					if !math.IsNaN(v[i]) {
						known = append(known, v[i])
					}
				}
			}
			f.lacked = append(f.lacked, 1-float64(len(known))/float64(max(1, rows)))
			slices.Sort(known)
			low, high := math.NaN(), math.NaN()
			if n := len(known); n > 0 {
				low, high = known[n/200], known[n-1-n/200]
			}
			f.Low, f.High = append(f.Low, low), append(f.High, high)
		}
		return f
	}
	all := ranges(func(int) bool { return true })
	k := slices.Max(folds) + 1
	var odd []float64
	for n := range k {
		other := ranges(func(i int) bool { return fold[i] != n })
		all.folds = append(all.folds, other)
		for i, v := range values {
			if fold[i] == n {
				odd = append(odd, other.oddness(v))
			}
		}
	}
	slices.Sort(odd)
	if len(odd) > 0 {
		all.Limit = odd[len(odd)-1-len(odd)/1000]
	}
	for _, f := range all.folds {
		f.Limit = all.Limit
	}
	return all
}

// Judges names the causes that the model has classifiers for, sorted.
func (m *Learned) Judges() []string {
	var out []string
	for _, s := range seats() {
		if m.Classifiers[s] != nil && !slices.Contains(out, string(s.Cause)) {
			out = append(out, string(s.Cause))
		}
	}
	return out
}
