package diagnose_test

import (
	"math"
	"os"
	"slices"
	"sync"
	"testing"

	"pgregory.net/rapid"

	dhalion "github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/detect"
	"github.com/dhalion-go/dhalion/diagnose"
	"github.com/dhalion-go/dhalion/features"
	"github.com/dhalion-go/dhalion/internal/twin"
	"github.com/dhalion-go/dhalion/plan/policy"
)

// programsModel is the model that comes with the program.
func programsModel(t testing.TB) *diagnose.Learned {
	t.Helper()
	artefact, err := os.ReadFile("../cmd/dhalion/default.model")
	if err != nil {
		t.Fatal(err)
	}
	m, err := diagnose.Decode(artefact)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// judgedTwins are jobs with something wrong, or nothing, as they were judged.
var judgedTwins = sync.OnceValues(func() ([]*diagnose.Result, error) {
	p, err := loadDefault()
	if err != nil {
		return nil, err
	}
	var all []*diagnose.Result
	for n := range 2 * (len(faults) + 1) {
		j := twinJob{model: wordCount(), noise: .05, seed: uint64(n)}
		if k := n / 2; k < len(faults) {
			j.change = func(m *twin.Model) { faults[k].change(m, 1.6+float64(n%2)) }
		}
		r, err := diagnose.Evaluate(j.history(), twinStart.Add(twinAsked), p)
		if err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	return all, nil
})

func TestAFlipReallyFlipsAndNoNearerChangeOfOneFeatureDoes(t *testing.T) {
	m := programsModel(t)
	twins, err := judgedTwins()
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	rapid.Check(t, func(t *rapid.T) {
		r, model := twins[rapid.IntRange(0, len(twins)-1).Draw(t, "job")], m
		if rapid.Bool().Draw(t, "rules alone") {
			model = nil
		}
		cases := r.Cases()
		pair := cases[rapid.IntRange(0, len(cases)-1).Draw(t, "pair")].Pair
		if listed := r.Fuse(model).Diagnoses; len(listed) > 0 && rapid.Bool().Draw(t, "listed") {
			d := listed[rapid.IntRange(0, len(listed)-1).Draw(t, "which")]
			pair = dhalion.Pair{Target: d.Target, Cause: d.Cause}
		}
		q := r.Ask(model)
		f, ok := q.Flip(pair)
		if !ok {
			return
		}
		now, known := q.After(pair, nil, true)
		if p, listed := r.Fuse(model).Probability(pair); !known || f.Probability != now || listed && p >= diagnose.Listed && math.Abs(p-now) > 1e-9 {
			t.Fatalf("%v is %v, asked again %v, listed with %v", pair, f.Probability, now, p)
		}
		distance := math.Inf(1)
		if len(f.Changes) > 0 {
			found++
			p, known := q.After(pair, f.Changes, true)
			if !known || (p > .5) == (now > .5) || p != f.Then {
				t.Fatalf("%v at %v with %v is %v, and said to be %v", pair, now, f.Changes, p, f.Then)
			}
			distance = f.Changes[0].Distance
		}
		if len(f.Changes) == 2 {
			distance = math.Inf(1) // no change of one feature may do
			for _, c := range f.Changes {
				if p, known := q.After(pair, []diagnose.Change{c}, true); known && (p > .5) != (now > .5) {
					t.Fatalf("of %v, %v alone does", f.Changes, c)
				}
			}
		}
		for _, c := range q.OneChanges(pair) {
			one := []diagnose.Change{c}
			if p, known := q.After(pair, one, false); c.Distance >= distance || !known || (p > .5) == (now > .5) {
				continue
			}
			if p, known := q.After(pair, one, true); known && (p > .5) != (now > .5) {
				t.Fatalf("%v: %v (%v) is nearer than %v", pair, c, p, f.Changes)
			}
		}
	})
	if found < 20 {
		t.Errorf("%d of 100 flipped: the test says little", found)
	}
}

// What Flip says of the rules is asked of them by another way: the job is judged anew
// from a snapshot that has the change.
func TestARuleThatIsToldOfTheChangeSaysTheOther(t *testing.T) {
	p, err := loadDefault()
	if err != nil {
		t.Fatal(err)
	}
	j := twinJob{model: wordCount(), noise: .03, seed: 4, change: func(m *twin.Model) { faults[0].change(m, 3) }}
	at := twinStart.Add(twinAsked)
	seen, err := detect.Evaluate(features.NewReader(j.history(), at, diagnose.FeatureOptions(p)), at, p)
	if err != nil {
		t.Fatal(err)
	}
	r, err := diagnose.Conclude(seen, p)
	if err != nil {
		t.Fatal(err)
	}
	f, ok := r.Ask(nil).Flip(faults[0].holds)
	if !ok || f.Probability < .9 || len(f.Changes) != 1 || f.Changes[0].Feature != "slow_factor" || f.Changes[0].Target != faults[0].holds.Target {
		t.Fatalf("%+v", f)
	}
	// slow: 1.28 is even odds by definition.
	if to := f.Changes[0].To; to != 1.28 {
		t.Errorf("it flips below %v", to)
	}
	seen.Snapshot = r.Snapshot.With(f.Changes[0].Target, f.Changes[0].Feature, f.Changes[0].To)
	again, err := diagnose.Conclude(seen, p)
	if err != nil {
		t.Fatal(err)
	}
	if p, _ := again.Probability(faults[0].holds); p > .5 || math.Abs(p-f.Then) > 1e-9 {
		t.Errorf("judged anew it is %v, and said to be %v", p, f.Then)
	}
	if r.Snapshot.Value(faults[0].holds.Target, "slow_factor") != f.Changes[0].From {
		t.Error("the snapshot itself was changed")
	}
}

func TestWhereNoChangeOfTwoFeaturesDoesNoneIsGiven(t *testing.T) {
	p, err := policy.Load("never.yaml", func(string) ([]byte, error) {
		return []byte("name: never\nextends: default\npriors: {slow_instance: -200}\n"), nil
	}, features.Known, nil)
	if err != nil {
		t.Fatal(err)
	}
	j := twinJob{model: wordCount(), noise: .03, seed: 4}
	r, err := diagnose.Evaluate(j.history(), twinStart.Add(twinAsked), p)
	if err != nil {
		t.Fatal(err)
	}
	f, ok := r.Ask(nil).Flip(faults[0].holds)
	if !ok || f.Changes != nil || f.Then != f.Probability {
		t.Errorf("%+v, %v", f, ok)
	}
	if _, ok := r.Ask(nil).Flip(dhalion.Pair{Target: dhalion.ComponentTarget(jobOfTwin, "nobody"), Cause: dhalion.Underprovisioned}); ok {
		t.Error("a component that there is not was judged")
	}
}

func TestADiagnosisIsMostLikeIncidentsOfItsCause(t *testing.T) {
	m := programsModel(t)
	twins, err := judgedTwins()
	if err != nil {
		t.Fatal(err)
	}
	q := twins[1].Fuse(m).Ask(m) // a slow counter
	like, other := q.MostLike(faults[0].holds, 3)
	if len(like) != 3 || other == nil {
		t.Fatalf("%d like it, and %v", len(like), other)
	}
	for i, l := range like {
		if !l.Holds(dhalion.SlowInstance) || l.Target.Kind != dhalion.KindInstance || l.Incident == "" || !(l.Likeness > .5 && l.Likeness < 1) {
			t.Errorf("%+v", l)
		}
		if i > 0 && l.Likeness > like[i-1].Likeness {
			t.Errorf("%v stands before %v", like[i-1].Likeness, l.Likeness)
		}
	}
	if other.Holds(dhalion.SlowInstance) || other.Target.Kind != dhalion.KindInstance {
		t.Errorf("%+v", other)
	}
	if like, other := twins[1].Ask(nil).MostLike(faults[0].holds, 3); like != nil || other != nil {
		t.Error("without a model there is something like it")
	}
}

func TestEveryKindHasExemplarsThatDifferAndNotTooMany(t *testing.T) {
	m := programsModel(t)
	type seat struct {
		cause dhalion.Cause
		kind  dhalion.TargetKind
	}
	incidents := map[seat]map[string]bool{}
	for _, e := range m.Exemplars {
		for _, cause := range dhalion.Causes {
			if s := (seat{cause, e.Target.Kind}); e.Holds(cause) {
				if incidents[s] == nil {
					incidents[s] = map[string]bool{}
				}
				incidents[s][e.Incident] = true
			}
		}
	}
	for _, cause := range []dhalion.Cause{dhalion.SlowInstance, dhalion.DataSkew, dhalion.Underprovisioned, dhalion.SlowWorker, dhalion.SinkLimited, dhalion.SourceLimited} {
		for _, kind := range policy.Kinds[cause] {
			if n := len(incidents[seat{cause, kind}]); n < 8 {
				t.Errorf("%d incidents of %s at %ss", n, cause, kind)
			}
		}
	}
	if n := len(m.Exemplars); n > 14*12 {
		t.Errorf("%d exemplars of 14 causes and kinds", n)
	}
	families := map[string]bool{}
	for _, e := range m.Exemplars {
		families[e.Family] = true
	}
	for _, f := range m.About.Families {
		if !families[f] {
			t.Errorf("none is of %s", f)
		}
	}
	info, err := os.Stat("../cmd/dhalion/default.model")
	if err != nil || info.Size() > 150_000 {
		t.Errorf("%v, %v", info.Size(), err)
	}
}

// BenchmarkClassifier judges one vector for all causes of its kind, calibrated, by the
// model that comes with the program; the bar is 50 µs on one core.
func BenchmarkClassifier(b *testing.B) {
	m := programsModel(b)
	var c diagnose.Classifier = m
	for _, kind := range dhalion.TargetKinds {
		i := slices.IndexFunc(m.Exemplars, func(e diagnose.Exemplar) bool { return e.Target.Kind == kind })
		cases := m.CasesOf(m.Exemplars[i])
		if !m.Asks(cases) {
			b.Fatalf("the classifiers of a %s are not asked", kind)
		}
		b.Run(string(kind), func(b *testing.B) {
			for b.Loop() {
				c.Probabilities(cases)
			}
			b.ReportMetric(float64(len(cases)), "causes")
		})
	}
}
