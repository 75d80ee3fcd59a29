package scenario

import (
	"strings"
	"testing"
	"time"
)

// words is small enough to work out by hand: 1000 sentences/s, 4000 words/s.
const words = `
shapes:
  words:
    class: lab.Words
    components:
      source: {kind: source, parallelism: 2, rate: 1000, utilisation: .05}
      split: {kind: stage, parallelism: 4, utilisation: .50, inputs: {source: rebalance}, fan: 4}
      count: {kind: stage, keyed: true, parallelism: 8, utilisation: .60, inputs: {split: hash}}
      sink: {kind: sink, parallelism: 3, utilisation: .45, inputs: {count: rebalance}}
      audit: {kind: sink, parallelism: 2, utilisation: .48, inputs: {count: rebalance}, share: .25}
`

func wordShapes(t *testing.T) Shapes {
	t.Helper()
	shapes, err := ReadShapes("words.yaml", []byte(words))
	if err != nil {
		t.Fatal(err)
	}
	return shapes
}

func TestRatesAndCostsFollowTheGraph(t *testing.T) {
	s := wordShapes(t)["words"]
	for _, c := range []struct {
		name       string
		rate, cost float64
	}{
		{"source", 1000, .1}, // .05 of 2 instances, 1000/s
		{"split", 1000, 2},   // .5 of 4, 1000/s
		{"count", 4000, 1.2}, // .6 of 8, 4 words a sentence
		{"sink", 4000, .3375},
		{"audit", 1000, .96}, // a quarter of what count reads
	} {
		if rate := s.RateIn(c.name); rate != c.rate {
			t.Errorf("%s gets %v records/s, not %v", c.name, rate, c.rate)
		}
		if cost := s.Cost(c.name); cost < c.cost*.999 || cost > c.cost*1.001 {
			t.Errorf("a record costs %s %v ms, not %v", c.name, cost, c.cost)
		}
	}
	args := strings.Join(s.Arguments(), " ")
	if want := "--component count,parallelism=8,cost=1.2 --component sink"; !strings.Contains(args, want) {
		t.Errorf("the arguments %q have no %q", args, want)
	}
	if want := "source,parallelism=2,cost=0.1,rate=1000"; !strings.Contains(args, want) {
		t.Errorf("the arguments %q have no %q", args, want)
	}
}

func TestShapesThatCannotBeAreRefused(t *testing.T) {
	for _, c := range []struct{ old, new, want string }{
		{"inputs: {split: hash}", "inputs: {nobody: hash}", "input nobody is no component"},
		{"inputs: {split: hash}", "inputs: {sink: hash}", "reads itself"},
		{"utilisation: .60", "utilisation: 1.2", "is not between 0 and 1"},
		{"rate: 1000", "rate: 0", "a source needs a rate"},
		{"keyed: true", "keys: true", "words.yaml:8: there is no key keys here"},
	} {
		_, err := ReadShapes("words.yaml", []byte(strings.Replace(words, c.old, c.new, 1)))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.new, err, c.want)
		}
	}
}

const example = `name: words-1
job: words
seed: 7
split: train
healthy: 120s
gap: 36s
load: {wave: 0.1, period: 90s, jitter: 0.06}
incidents:
  - name: 01-slow
    magnitude: mild
    faults:
      - {kind: cost, for: 60s, component: count, instance: 2, factor: 1.6}
      - {kind: load, at: 10s, for: 50s, factor: 2}
`

func TestAnErrorSaysFileAndLine(t *testing.T) {
	shapes := wordShapes(t)
	if _, err := Parse("a.yaml", []byte(example), shapes); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ old, new, want string }{
		{"name: words-1", "name: Words 1", "a.yaml:1: name"},
		{"job: words", "job: verbs", "a.yaml:2: there is no shape"},
		{"split: train", "split: both", "a.yaml:4: split"},
		{"healthy: 120s", "healthy: long", `a.yaml:5: "long" is no duration`},
		{"jitter: 0.06", "jitters: 0.06", "a.yaml:7: there is no key jitters here"},
		{"wave: 0.1", "wave: 2", "a.yaml:7: wave"},
		{"magnitude: mild", "magnitude: big", "a.yaml:10: magnitude"},
		{"kind: cost", "kind: costs", "a.yaml:12: costs: there is no such kind"},
		{"component: count", "component: counts", "a.yaml:12: cost: there is no component"},
		{"instance: 2", "instance: 8", "a.yaml:12: cost: instance 8"},
		{"factor: 2", "factor: 20", "a.yaml:13: load: needs a factor"},
		{"seed: 7", "seed: seven", "a.yaml:3: "},
		{"    faults:", "   faults:", "a.yaml:11: did not find expected"},
		{"jitter: 0.06}", "jitter: 0.06", "a.yaml:7: did not find expected ',' or '}'"},
		{"factor: 2}", "factor: *twice}", "a.yaml:13: unknown anchor 'twice'"},
		{"healthy: 120s\n", "", "a.yaml:1: healthy says how long"},
		{"gap: 36s", "gap: 0s", "a.yaml:6: gap says how long"},
		{"{kind: cost, for: 60s, component: count, instance: 2,", "{kind: worker, for: 60s, worker: {hosts: nosuch},", `a.yaml:12: worker: hosts "nosuch" is no component`},
		{"{kind: cost, for: 60s, component: count, instance: 2,", "{kind: worker, for: 60s, worker: {hosts: source},", `a.yaml:12: worker: hosts "source" is no component`},
		{"factor: 2}", "factor: 2,\n         component: count}", "a.yaml:14: load: does not use component; it uses factor, at, for"},
		{"factor: 1.6", "factor: 1.6, worker: {}", "a.yaml:12: cost: does not use worker"},
		{"seed: 7", "seed: 7\nbase: {burn: {count: .4}}", "a.yaml:4: a run that burns CPU must be alone"},
	} {
		_, err := Parse("a.yaml", []byte(strings.Replace(example, c.old, c.new, 1)), shapes)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.new, err, c.want)
		}
	}
	if _, err := Parse("a.yaml", []byte(example+"---\nname: two\n"), shapes); err == nil || !strings.Contains(err.Error(), "one scenario to a file") {
		t.Errorf("two documents: %v", err)
	}
}

func TestALostWorkerIsNotAfterAFailureOfItsRun(t *testing.T) {
	shapes := realShapes(t)
	for seed := range uint64(20) {
		all, err := Generate(shapes, seed)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range all {
			failed := false
			for _, in := range s.Incidents {
				for _, f := range in.Faults {
					if f.Kind == LoseWorker && failed {
						t.Errorf("seed %d: %s: a worker is lost after a failure: two outages in ten minutes are failing, not transient", seed, s.Name)
					}
					failed = failed || f.Kind == Fail || f.Kind == LoseWorker
				}
			}
		}
	}
}

func TestAPickIsOneThatQualifiesAndNotTheLast(t *testing.T) {
	shape := wordShapes(t)["words"]
	p := Placement{
		"source": {0: "tm-3", 1: "tm-3"},
		"split":  {0: "tm-1", 1: "tm-2", 2: "tm-1", 3: "tm-2"},
		"count":  {0: "tm-1", 1: "tm-2", 2: "tm-4"},
	}
	seen := map[string]bool{}
	for seed := range uint64(50) {
		w := Pick{Loaded: 2}.Choose(p, shape, seed, "")
		seen[w] = true
		if w != (Pick{Loaded: 2}).Choose(p, shape, seed, "") {
			t.Fatal("the same seed picks another worker")
		}
		if last := (Pick{Loaded: 2}).Choose(p, shape, seed, "tm-1"); last != "tm-2" {
			t.Errorf("after tm-1 comes %s, not tm-2", last)
		}
	}
	if len(seen) != 2 || !seen["tm-1"] || !seen["tm-2"] {
		t.Errorf("picked %v: tm-3 hosts sources only, tm-4 one instance", seen)
	}
	if w := (Pick{Loaded: 9}).Choose(p, shape, 1, ""); w != "" {
		t.Errorf("%s was picked and hosts no nine instances", w)
	}
	if w := (Pick{Loaded: 1, Hosts: "count"}).Choose(Placement{"count": {0: "tm-9"}}, shape, 1, "tm-9"); w != "tm-9" {
		t.Errorf("%q was picked: the only one that qualifies is the last one again", w)
	}
}

func TestKnobsAreThoseOfTheFaultsThatAreOn(t *testing.T) {
	two := 2
	s := Scenario{Load: Load{Wave: .1, Period: Duration(80 * time.Second), Jitter: .05, Steps: []Step{{At: Duration(10 * time.Second), Rate: 1.2}}},
		Base: Base{Burn: map[string]float64{"count": .4}}}
	on := []Resolved{
		{Fault: Fault{Kind: LoadFactor, Factor: 2}},
		{Fault: Fault{Kind: Cost, Component: "count", Instance: &two, Factor: 1.5}},
		{Fault: Fault{Kind: SlowWorker, Factor: 3}, On: "tm-2"},
		{Fault: Fault{Kind: Hot, Component: "count", Share: .3, Key: 5}},
		{Fault: Fault{Kind: Fail, Component: "split", Instance: &two, Every: Duration(15 * time.Second)}},
		{Fault: Fault{Kind: Memory, Share: .25}, On: "tm-1"},
	}
	want := "burn.count=0.4\ncost.count.2=1.5\ncut=3\nfail.split.2=15\nhot.count=0.3\nhot.count.key=5\njitter=0.05\nmemory.tm-1=0.25\nrate=2.4\nwave=0.1\nwave.period=80\nworker.tm-2=3\n"
	if got := s.Knobs(11*time.Second, on, "3"); got != want {
		t.Errorf("knobs are\n%s, not\n%s", got, want)
	}
	if got := s.Knobs(0, nil, ""); got != "burn.count=0.4\njitter=0.05\nrate=1\nwave=0.1\nwave.period=80\n" {
		t.Errorf("with nothing on, knobs are\n%s", got)
	}
}

func TestTheLoadStepsAndRamps(t *testing.T) {
	l := Load{Steps: []Step{{At: Duration(10 * time.Second), Rate: 2}, {At: Duration(20 * time.Second), Rate: 1, Ramp: true}}}
	for at, want := range map[time.Duration]float64{0: 1, 9 * time.Second: 1, 10 * time.Second: 2, 15 * time.Second: 1.5, 20 * time.Second: 1, time.Hour: 1} {
		if got := l.At(at); got != want {
			t.Errorf("after %s the load is %v, not %v", at, got, want)
		}
	}
}
