package plan

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/plan/planfile"
	"github.com/dhalion-go/dhalion/plan/policy"
)

const day = 24 * time.Hour

// turned is what came of setting an argument at counter against a hot key, so long
// before the plan.
func turned(argument, judged string, age time.Duration) dhalion.Outcome {
	return dhalion.Outcome{Plan: argument + fmt.Sprint(age), Job: job, Kind: dhalion.SetKnob, Target: at("counter"), Argument: argument,
		Cause: dhalion.DataSkew, Applied: "applied", Judged: judged, At: asOf.Add(-age), Detail: "as seen"}
}

// hot is a job with a hot key at counter: 3.6 times its share at half busy, so that
// mending it restores 1 − 1/1.8 = .444 of the load, and two knobs that mend it.
func hot(outcomes ...dhalion.Outcome) (Input, settings) {
	in := wordcount(1, found(dhalion.DataSkew, dhalion.InstanceTarget(job, "counter", 6), 0.9))
	for i := range in.Load {
		if in.Load[i].Component == "counter" {
			in.Load[i].SkewShare = 3.6
		}
	}
	in.Outcomes = outcomes
	set := defaults()
	for _, name := range []string{"salt", "merge"} {
		set.knobs = append(set.knobs, policy.Knob{Name: name, Argument: "--" + name, Values: []dhalion.Setting{dhalion.NumberSetting(1), dhalion.NumberSetting(8)},
			Mends: dhalion.DataSkew})
	}
	return in, set
}

// written is the document of a plan.
func written(t interface{ Fatal(...any) }, in Input, set settings) []byte {
	doc, _, _, err := planfile.Encode(made(t, in, set))
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

func TestAKnobThatWasUnmetTwiceLosesToAnotherAndWinsAgainWhenThatIsLongAgo(t *testing.T) {
	// Two unmet of yesterday weigh 2·2^(−1/30) = 1.954: 3/5.954 = .504, over .75 it is
	// .672. One unmet elsewhere weighs .2·.977 = .195, and gives 3/4.195/.75 = .953.
	elsewhere := turned("--merge", unmet, day)
	elsewhere.Job = "prod/other"
	recent := []dhalion.Outcome{turned("--salt", unmet, day), turned("--salt", unmet, day), elsewhere}
	recent[1].Action = 1
	in, set := hot(recent...)
	p := made(t, in, set)
	same(t, briefly(p), "set --merge to 8 at counter")
	hasReason(t, p, "--merge mends the same and is worth more by what came of both before")
	alternative := p.Alternatives[slices.IndexFunc(p.Alternatives, func(a dhalion.Alternative) bool { return a.Action.Argument == "--salt" })].Action
	for _, c := range []struct {
		before                      []dhalion.Before
		unmet                       int
		weight, probability, factor float64
	}{{alternative.Before, 2, 1.954, 0.504, 0.672}, {p.Actions[0].Before, 1, 0.195, 0.715, 0.953}} {
		if len(c.before) != 1 {
			t.Fatalf("%d causes: %+v", len(c.before), c.before)
		}
		b := c.before[0]
		if b.Cause != dhalion.DataSkew || b.Met != 0 || b.Unmet != c.unmet || math.Abs(b.Weight-c.weight) > 1e-3 ||
			math.Abs(b.Probability-c.probability) > 1e-3 || math.Abs(b.Factor-c.factor) > 1e-3 {
			t.Errorf("before: %+v, want %+v", b, c)
		}
	}
	// .9·.444·.672 − 30 s/3600 s
	if want := 0.9*(1-1/1.8)*0.672 - 30.0/3600; math.Abs(alternative.Utility-want) > 1e-3 {
		t.Errorf("utility %v, want %v", alternative.Utility, want)
	}

	// Four half-lives later they weigh 2/16 together, which is less than .195.
	old := []dhalion.Outcome{turned("--salt", unmet, 120*day), turned("--salt", unmet, 120*day), elsewhere}
	old[1].Action = 1
	in.Outcomes = old
	p = made(t, in, set)
	same(t, briefly(p), "set --salt to 8 at counter")
	hasReason(t, p, "--salt mends the same and is worth more by what came of both before")
}

func TestWhatSaysNothingOfAnActionLeavesThePlanAsItIs(t *testing.T) {
	with := func(change func(*dhalion.Outcome)) dhalion.Outcome {
		o := turned("--salt", unmet, day)
		change(&o)
		return o
	}
	none, set := hot()
	want := written(t, none, set)
	if nothing := sha256.Sum256(nil); !strings.Contains(string(want), `"outcomes": "`+hex.EncodeToString(nothing[:])) || bytes.Contains(want, []byte(`"before"`)) {
		t.Errorf("with no outcomes it says something of them:\n%s", want)
	}
	for name, o := range map[string]dhalion.Outcome{
		"not judged":               with(func(o *dhalion.Outcome) { o.Judged = "" }),
		"unclear":                  with(func(o *dhalion.Outcome) { o.Judged = "unclear" }),
		"refused":                  with(func(o *dhalion.Outcome) { o.Applied, o.Judged = "refused", "" }),
		"of a later time":          turned("--salt", unmet, -time.Second),
		"ten half-lives ago":       turned("--salt", unmet, 300*day),
		"of another cause":         with(func(o *dhalion.Outcome) { o.Cause = dhalion.SlowInstance }),
		"of another kind":          with(func(o *dhalion.Outcome) { o.Kind = dhalion.Restart }),
		"of a knob that is no one": turned("--other", unmet, day),
	} {
		in, _ := hot(o)
		if got := written(t, in, set); !bytes.Equal(got, want) {
			t.Errorf("%s: it is another plan:\n%s", name, got)
		}
	}
}

func TestTheOutcomesOfABasisAreThoseThatWereUsed(t *testing.T) {
	in, set := hot(turned("--salt", unmet, day))
	used := made(t, in, set).Basis.Outcomes
	in.Outcomes = append(in.Outcomes, turned("--other", met, day))
	if got := made(t, in, set).Basis.Outcomes; got != used {
		t.Error("an outcome that was not used is in the digest")
	}
	in.Outcomes[0].Detail = "in other words"
	if got := made(t, in, set).Basis.Outcomes; got != used {
		t.Error("words that do not count are in the digest")
	}
	in.Outcomes[0].Judged = met
	if got := made(t, in, set).Basis.Outcomes; got == used {
		t.Error("an outcome that was used is not in the digest")
	}
	in.Basis.Outcomes = "of somebody else"
	if got := made(t, in, set).Basis.Outcomes; got == "of somebody else" {
		t.Error("the basis is not of what was used")
	}
}

func TestFreedInstancesCountLessWhereTakingThemAwayWentWrong(t *testing.T) {
	in := wordcount(0.06, found(dhalion.Overprovisioned, at("counter"), 0.8))
	free := made(t, in, defaults()).Actions[0]
	in.Outcomes = []dhalion.Outcome{{Plan: "p", Job: job, Kind: dhalion.SetParallelism, Target: at("counter"), Cause: dhalion.Overprovisioned, Judged: unmet, At: asOf}}
	p := made(t, in, defaults())
	same(t, briefly(p), "counter 8 → 1 instances")
	// 7 of 17 instances at .1 are .0412; 3/5/.75 = .8 of them are .0329. A restart is
	// 30/3600.
	if got, want := p.Actions[0].Utility, 0.8*0.7/17-30.0/3600; math.Abs(got-want) > 1e-9 || free.Utility <= got {
		t.Errorf("it is worth %v, and %v without; want %v", got, free.Utility, want)
	}
	// Of the sink that says little: a fifth.
	in.Outcomes[0].Target = at("sink")
	if b := made(t, in, defaults()).Actions[0].Before; len(b) != 1 || b[0].Weight != 0.2 {
		t.Errorf("of another component: %+v", b)
	}
}

func TestAnActionAgainstTwoCausesSaysWhatCameOfItAgainstEach(t *testing.T) {
	a := both(nil, []dhalion.Before{{Cause: dhalion.SlowWorker, Met: 1}})
	a = both(a, []dhalion.Before{{Cause: dhalion.SlowInstance, Met: 2}})
	a = both(a, []dhalion.Before{{Cause: dhalion.SlowWorker, Met: 3}})
	if len(a) != 2 || a[0].Cause != dhalion.SlowInstance || a[1].Met != 1 {
		t.Errorf("%+v", a)
	}
}

func TestWhatWasTriedAgainstADiagnosisIsListed(t *testing.T) {
	restart := turned("", met, day)
	restart.Kind, restart.Target = dhalion.Restart, dhalion.JobTarget(job)
	pair := dhalion.Pair{Target: dhalion.InstanceTarget(job, "counter", 6), Cause: dhalion.DataSkew}
	trials, err := Tried(builtIn(t, "default", nil), pair, job, asOf,
		[]dhalion.Outcome{turned("--salt", unmet, day), turned("--merge", met, 0), restart, turned("--salt", met, 2*day), turned("--salt", "unclear", day)})
	got := ""
	for _, x := range trials {
		got += fmt.Sprintf("%s %s %d %d; ", x.Kind, x.Argument, x.Met, x.Unmet)
	}
	if want := "restart  1 0; set_knob --merge 1 0; set_knob --salt 1 1; "; got != want || err != nil {
		t.Errorf("%s, %v; want %s", got, err, want)
	}
}

// anyOutcomes are up to eight of either knob and of none, of this job and others, of
// the last forty half-lives.
func anyOutcomes(t *rapid.T) []dhalion.Outcome {
	var list []dhalion.Outcome
	for i := range rapid.IntRange(0, 8).Draw(t, "outcomes") {
		o := turned(rapid.SampledFrom([]string{"--salt", "--merge", "--other"}).Draw(t, "argument"),
			rapid.SampledFrom([]string{met, unmet, "unclear", ""}).Draw(t, "judged"), time.Duration(rapid.Int64Range(-int64(day), 1200*int64(day)).Draw(t, "age")))
		o.Plan, o.Action = fmt.Sprint("plan", i%3), i
		o.Job = rapid.SampledFrom([]dhalion.JobID{job, "prod/other"}).Draw(t, "job")
		list = append(list, o)
	}
	return list
}

// worth is the utility of setting --salt, done or refused.
func worth(t *rapid.T, p dhalion.Plan) float64 {
	for _, a := range p.Actions {
		if a.Argument == "--salt" {
			return a.Utility
		}
	}
	for _, a := range p.Alternatives {
		if a.Action.Argument == "--salt" {
			return a.Action.Utility
		}
	}
	t.Fatal("nobody thought of --salt")
	return 0
}

func TestMoreUnmetNeverRaisesAnActionAndMoreMetNeverLowersIt(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in, set := hot(anyOutcomes(t)...)
		before := worth(t, made(t, in, set))
		age := time.Duration(rapid.Int64Range(0, 1200*int64(day)).Draw(t, "age"))
		for judged, sign := range map[string]float64{unmet: -1, met: 1, "unclear": 0} {
			more := in
			more.Outcomes = append(slices.Clone(in.Outcomes), turned("--salt", judged, age))
			after := worth(t, made(t, more, set))
			if moved := after - before; moved*sign < -1e-12 || sign == 0 && moved != 0 {
				t.Fatalf("one more %s moves it from %v to %v", judged, before, after)
			}
		}
	})
}

func TestAnOlderOutcomeCountsLess(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in, set := hot(anyOutcomes(t)...)
		judged := rapid.SampledFrom([]string{met, unmet}).Draw(t, "judged")
		young := time.Duration(rapid.Int64Range(0, 600*int64(day)).Draw(t, "young"))
		old := young + time.Duration(rapid.Int64Range(0, 600*int64(day)).Draw(t, "older by"))
		none := worth(t, made(t, in, set))
		moved := func(age time.Duration) float64 {
			more := in
			more.Outcomes = append(slices.Clone(in.Outcomes), turned("--salt", judged, age))
			return math.Abs(worth(t, made(t, more, set)) - none)
		}
		if moved(old) > moved(young)+1e-12 {
			t.Fatalf("of %s old it moves by %v, of %s by %v", old, moved(old), young, moved(young))
		}
	})
}

func TestTheOrderOfOutcomesDoesNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in, set := hot(anyOutcomes(t)...)
		first := written(t, in, set)
		in.Outcomes = rapid.Permutation(in.Outcomes).Draw(t, "outcomes")
		in.AsOf = in.AsOf.In(time.FixedZone("CET", 3600))
		for i := range in.Outcomes {
			in.Outcomes[i].At = in.Outcomes[i].At.In(time.FixedZone("EST", -5*3600))
		}
		if second := written(t, in, set); !bytes.Equal(first, second) {
			t.Fatalf("they differ:\n%s\n%s", first, second)
		}
	})
}

func TestNoOutcomeForbidsAnAction(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in, set := hot()
		for i := range rapid.IntRange(1, 2000).Draw(t, "times") {
			o := turned("--salt", unmet, 0)
			o.Action = i
			in.Outcomes = append(in.Outcomes, o)
		}
		set.knobs = set.knobs[:1]
		p := made(t, in, set)
		if len(p.Actions) != 1 || !(p.Actions[0].Before[0].Factor >= 0.1) || !(p.Actions[0].Before[0].Probability > 0) {
			t.Fatalf("%+v", p.Actions)
		}
	})
}

func TestThePapersBlacklistLeavesOutWhatMoreOftenThanNotDidNotHelp(t *testing.T) {
	topology := chain(t, "s:1", "a:10", "b:5")
	in := method(builtIn(t, "paper", nil), topology)
	for _, name := range []string{"a", "b"} {
		l := load(name, nan, nan)
		l.PerInstanceLow, l.PerInstanceHigh, l.Caused = nan, nan, 0.5
		in.Load = append(in.Load, l)
	}
	in.Findings.Diagnoses = []dhalion.Diagnosis{found(dhalion.Underprovisioned, at("a"), 1)}
	scaled := func(judged string, component string, age time.Duration) dhalion.Outcome {
		return dhalion.Outcome{Plan: judged + fmt.Sprint(age), Job: job, Kind: dhalion.SetParallelism, Target: at(component),
			Cause: dhalion.Underprovisioned, Judged: judged, At: asOf.Add(-age)}
	}
	other := scaled(unmet, "a", day)
	other.Job = "prod/other"
	for _, c := range []struct {
		name     string
		outcomes []dhalion.Outcome
		limit    string
		want     string
	}{
		{"nothing is known", nil, "0.5", "a 10→20, b 5→5"},
		{"the one time did not help", []dhalion.Outcome{scaled(unmet, "a", day)}, "0.5", "a 10→10, b 5→5"},
		{"years ago counts as much", []dhalion.Outcome{scaled(unmet, "a", 3000*day)}, "0.5", "a 10→10, b 5→5"},
		{"one of two is not above a half", []dhalion.Outcome{scaled(unmet, "a", day), scaled(met, "a", 3000*day)}, "0.5", "a 10→20, b 5→5"},
		{"but above 0.4", []dhalion.Outcome{scaled(unmet, "a", day), scaled(met, "a", 3000*day)}, "0.4", "a 10→10, b 5→5"},
		{"no share is above 1", []dhalion.Outcome{scaled(unmet, "a", day)}, "1", "a 10→20, b 5→5"},
		{"another job's and component's, and unclear", []dhalion.Outcome{other, scaled(unmet, "b", day), scaled("unclear", "a", day)}, "0.5", "a 10→20, b 5→5"},
	} {
		in.Policy, in.Outcomes = builtIn(t, "paper", map[string]string{"blacklist": c.limit}), c.outcomes
		if p := document(t, in); sizes(p) != c.want {
			t.Errorf("%s: %s, want %s", c.name, sizes(p), c.want)
		}
	}
	// What is on it is said, and the next component has its turn.
	in.Policy, in.Outcomes = builtIn(t, "paper", nil), []dhalion.Outcome{scaled(unmet, "a", day)}
	in.Findings.Diagnoses = append(in.Findings.Diagnoses, found(dhalion.Underprovisioned, at("b"), 1))
	p := document(t, in)
	if sizes(p) != "a 10→10, b 5→10" || len(p.Alternatives) != 1 ||
		p.Alternatives[0].Reason != "the paper's blacklist: it did not help 1 of 1 times, and 50 % is the limit" || p.Alternatives[0].Action.Before[0].Factor != 0 {
		t.Errorf("%s, %+v", sizes(p), p.Alternatives)
	}
}

func TestEachPolicyLooksAtItsOutcomes(t *testing.T) {
	for _, c := range []struct {
		policy string
		params map[string]string
		want   Memory
		ok     bool
	}{
		{"default", nil, Memory{After: asOf.Add(-300 * day)}, true},
		{"default", map[string]string{"outcome_half_life": "1h", "outcome_elsewhere": "0"}, Memory{Job: job, After: asOf.Add(-10 * time.Hour)}, true},
		{"paper", nil, Memory{Job: job}, true},
		{"ds2", nil, Memory{}, false},
		{"flink-autoscaler", nil, Memory{}, false},
	} {
		got, ok, err := Remembered(builtIn(t, c.policy, c.params), job, asOf)
		if err != nil || ok != c.ok || ok && got != c.want {
			t.Errorf("%s %v: %+v, %v, %v; want %+v", c.policy, c.params, got, ok, err, c.want)
		}
	}
	for _, wrong := range []string{"outcome_prior=1", "outcome_prior=0", "outcome_prior_weight=0", "outcome_half_life=0s", "outcome_elsewhere=1.5",
		"outcome_elsewhere=-1", "outcome_floor=0", "outcome_floor=2", "blacklist=2"} {
		name, value, _ := strings.Cut(wrong, "=")
		if _, _, err := Remembered(builtIn(t, "default", map[string]string{name: value}), job, asOf); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", wrong, err)
		}
	}
	if _, err := Make(Input{Job: job, Policy: loaded(t, "name: mine\nextends: default\nparameters: {outcome_half_life: 30}\n")}); err == nil ||
		!strings.Contains(err.Error(), "outcome_half_life is no duration above 0, such as 720h") {
		t.Errorf("days without a unit: %v", err)
	}
}
