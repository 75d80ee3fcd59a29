package plan

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/features"
	"github.com/dhalion-go/dhalion/plan/planfile"
	"github.com/dhalion-go/dhalion/plan/policy"
)

const job = dhalion.JobID("prod/wordcount")

var asOf = time.Date(2025, 11, 3, 14, 2, 10, 0, time.UTC)

func defaults() settings {
	return settings{name: "default", target: 0.8, actAbove: 0.5, price: 0.1, catchUp: 10 * time.Minute, restart: 30 * time.Second,
		validFor: time.Hour, patience: 2 * time.Minute,
		memory: memory{prior: 0.75, strength: 4, halfLife: 720 * time.Hour, elsewhere: 0.2, floor: 0.1, blacklist: 0.5}}
}

func at(component string) dhalion.Target { return dhalion.ComponentTarget(job, component) }

func found(cause dhalion.Cause, target dhalion.Target, p float64) dhalion.Diagnosis {
	return dhalion.Diagnosis{Target: target, Cause: cause, Probability: p}
}

// load is that of a component whose rates are known to within a tenth.
func load(component string, offered, perInstance float64) ComponentLoad {
	return ComponentLoad{Component: component, Offered: offered, PerInstance: perInstance, PerInstanceLow: perInstance / 1.1,
		PerInstanceHigh: perInstance * 1.1, Busy: 0.5, Lag: math.NaN(), SkewShare: 1}
}

// wordcount is the job of the recordings at a multiple of its healthy load:
// 1000 sentences/s, 4000 words/s; 1.68 ms, 1 ms and 0.315 ms a record.
func wordcount(times float64, diagnoses ...dhalion.Diagnosis) Input {
	source := load("source", 1000*times, math.NaN())
	source.PerInstanceLow, source.PerInstanceHigh, source.Source, source.Lag = math.NaN(), math.NaN(), true, 0
	sink := load("sink", 4000*times, 1/0.000315)
	sink.Sink = true
	in := Input{
		Job: job, AsOf: asOf, Window: dhalion.Window{Start: asOf.Add(-time.Minute), End: asOf},
		Topology: dhalion.Topology{
			From: asOf.Add(-time.Hour),
			Components: []dhalion.Component{{Name: "counter", Parallelism: 8, MaxParallelism: 128}, {Name: "sink", Parallelism: 3, MaxParallelism: 128},
				{Name: "source", Parallelism: 2}, {Name: "splitter", Parallelism: 4, MaxParallelism: 128}},
			Edges: []dhalion.Edge{{From: "counter", To: "sink", Ship: "rebalance"}, {From: "source", To: "splitter", Ship: "rebalance"},
				{From: "splitter", To: "counter", Ship: "hash"}},
		},
		Findings: dhalion.Findings{Diagnoses: diagnoses},
		Load:     []ComponentLoad{source, load("splitter", 1000*times, 1/0.00168), load("counter", 4000*times, 1000), sink},
	}
	// Dealt out over five workers in turn: tm-2 gets counter[1], counter[6], sink[0],
	// source[0], splitter[0] and so on.
	n := 0
	for _, c := range in.Topology.Components {
		for i := range c.Parallelism {
			in.Topology.Placement = append(in.Topology.Placement, dhalion.Placement{Component: c.Name, Instance: i, Worker: fmt.Sprintf("tm-%d", 1+n%5)})
			n++
		}
	}
	return in
}

func made(t interface{ Fatal(...any) }, in Input, set settings) dhalion.Plan {
	p, err := makePlan(in, set, Resolvers())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// briefly is a plan's actions as "counter 8 → 14 instances", in order.
func briefly(p dhalion.Plan) []string {
	var all []string
	for _, a := range p.Actions {
		all = append(all, planfile.Describe(a))
	}
	return all
}

func same(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func reasons(p dhalion.Plan) string {
	var b strings.Builder
	for _, a := range p.Alternatives {
		fmt.Fprintf(&b, "%s: %s\n", planfile.Describe(a.Action), a.Reason)
	}
	return b.String()
}

func hasReason(t *testing.T, p dhalion.Plan, want string) {
	t.Helper()
	if !strings.Contains(reasons(p), want) {
		t.Errorf("no reason %q among\n%s", want, reasons(p))
	}
}

func hasWarning(t *testing.T, p dhalion.Plan, code, want string) {
	t.Helper()
	if !slices.ContainsFunc(p.Warnings, func(w dhalion.Warning) bool { return w.Code == code && strings.Contains(w.Message, want) }) {
		t.Errorf("no warning %s %q among %v", code, want, p.Warnings)
	}
}

// The word count of the DS2 paper (OSDI 2018, 5.3): 1M sentences/min, 100K
// sentences/min a FlatMap, 20 words a sentence, 1M words/min a Count. 1M/100K =
// 10 and 20M/1M = 20, from one instance each, in one step.
func TestTheWordCountOfDS2IsSizedInOneStep(t *testing.T) {
	const perMinute = 1.0 / 60
	rate := func(name string, offered, per float64) ComponentLoad {
		return ComponentLoad{Component: name, Offered: offered * perMinute, PerInstance: per * perMinute, PerInstanceLow: math.NaN(), PerInstanceHigh: math.NaN(), Lag: math.NaN(), SkewShare: math.NaN()}
	}
	source := rate("Source", 1e6, math.NaN())
	source.Source = true
	in := Input{
		Job: job, AsOf: asOf,
		Topology: dhalion.Topology{
			Components: []dhalion.Component{{Name: "Source", Parallelism: 1}, {Name: "FlatMap", Parallelism: 1}, {Name: "Count", Parallelism: 1}},
			Edges:      []dhalion.Edge{{From: "Source", To: "FlatMap"}, {From: "FlatMap", To: "Count"}},
		},
		Findings: dhalion.Findings{Diagnoses: []dhalion.Diagnosis{found(dhalion.Underprovisioned, at("FlatMap"), 0.9)}},
		Load:     []ComponentLoad{source, rate("FlatMap", 1e6, 1e5), rate("Count", 20e6, 1e6)},
	}
	set := defaults()
	set.target = 1
	p := made(t, in, set)
	same(t, briefly(p), "FlatMap 1 → 10 instances", "Count 1 → 20 instances")
	for i, want := range []float64{10, 20} { // in order of flow
		if got := *p.Sizing[i].Required; math.Abs(got-want) > 1e-9 {
			t.Errorf("%s requires %v, want %v", p.Sizing[i].Component, got, want)
		}
	}
}

// 2.7 times the load: counter 10800/s · 1 ms / 0.8 = 13.5, splitter 2700/s ·
// 1.68 ms / 0.8 = 5.67, sink 10800/s · 0.315 ms / 0.8 = 4.25.
func TestTheNextBottlenecksAreScaledWithTheFirst(t *testing.T) {
	p := made(t, wordcount(2.7, found(dhalion.Underprovisioned, at("counter"), 0.95)), defaults())
	same(t, briefly(p), "counter 8 → 14 instances", "sink 3 → 5 instances", "splitter 4 → 6 instances")
	for _, a := range p.Actions {
		if want := []dhalion.Pair{{Target: at("counter"), Cause: dhalion.Underprovisioned}}; !slices.Equal(a.Because, want) {
			t.Errorf("%s is because of %v", a.Target, a.Because)
		}
		if !slices.Equal(a.Affects, []dhalion.Affected{{Job: job, Instances: 17, Of: 17}}) {
			t.Errorf("%s affects %v", a.Target, a.Affects)
		}
		if back, _ := a.Reverse.To.Number(); a.Reverse.Kind != dhalion.SetParallelism || a.From != a.Reverse.To || back == 0 {
			t.Errorf("%s is undone by %+v", a.Target, a.Reverse)
		}
		if a.Utility <= 0 || a.Message == "" || a.Expect.Summary == "" {
			t.Errorf("%s: %+v", a.Target, a)
		}
	}
	for i, want := range []struct {
		component string
		to        int
		required  float64
	}{{"splitter", 6, 5.67}, {"counter", 14, 13.5}, {"sink", 5, 4.2525}} {
		s := p.Sizing[i]
		if s.Component != want.component || s.To != want.to || math.Abs(*s.Required-want.required) > 1e-9 || *s.RequiredLow >= *s.Required || *s.RequiredHigh <= *s.Required {
			t.Errorf("sizing %+v, want %+v", s, want)
		}
	}
	hasWarning(t, p, WarnRescaleAll, "all 17 instances")
}

// At 2.7 times the load splitter stays a bottleneck at 4 instances: 4/(1.68 ms) =
// 2381/s of 2700/s. With all three scaled: counter 10800/14/1000 = 77 % busy.
func TestAnExpectationSaysWhatThePlanAsAWholeAchieves(t *testing.T) {
	in := wordcount(2.7, found(dhalion.Underprovisioned, at("counter"), 0.95))
	in.Load[0].Lag = 61_000
	p := made(t, in, defaults())
	counter := p.Actions[0].Expect
	want := []dhalion.Check{
		// 14 instances · 1000/s / 1.1 = 12727/s, more than the 10800/s offered; splitter
		// is the narrowest: 6/(1.68 ms)/1.1 = 3247/s of 2700/s. So all is carried.
		{Metric: dhalion.RecordsOut, Target: at("source"), Compare: "at_least", Value: 2565, Low: 2700, High: 2700},
		// 10800/14000 = .771, at the slow end .849, at the fast end .701; halfway from
		// .849 to saturation is .924.
		{Metric: dhalion.Busy, Target: at("counter"), Compare: "at_most", Value: 0.9243, Low: 0.7013, High: 0.8486},
		{Metric: dhalion.Lag, Target: at("source"), Compare: "at_most", Value: 13500, Low: 0, High: 0},
	}
	if len(counter.Checks) != len(want) {
		t.Fatalf("checks %+v", counter.Checks)
	}
	for i, c := range counter.Checks {
		w := want[i]
		if c.Metric != w.Metric || c.Target != w.Target || c.Compare != w.Compare || math.Abs(c.Value-w.Value) > 1e-3*w.Value {
			t.Errorf("check %+v, want %+v", c, w)
		}
		if i < 2 && (math.Abs(c.Low-w.Low) > 1e-3*w.Low || math.Abs(c.High-w.High) > 1e-3*w.High) {
			t.Errorf("check %+v, want %+v", c, w)
		}
	}
	// The narrowest after the change: counter 14/10.8 = 1.296, splitter 6/4.536 = 1.323,
	// sink 5/3.402 = 1.47. Above the 2700/s there is room for .296·2700 = 800/s: 61000
	// and the 81000 of a restart of 30 s drain in 178 s; 30 s + 60 s + 178 s is 270 s in
	// whole tens.
	if counter.WithinSeconds != 270 {
		t.Errorf("within %v s, want 270", counter.WithinSeconds)
	}
	for _, words := range []string{"2,700 of the 2,700", "77 % busy", "61,000 records drains in 2 min 58 s"} {
		if !strings.Contains(counter.Summary, words) {
			t.Errorf("%q is not in %q", words, counter.Summary)
		}
	}
}

// A lag of 3,240,000 records of 2700/s that should drain in 600 s asks for
// (2700+5400)/2700 = 3 times the offered load: counter 10800·3/1000 = 32.4.
func TestABacklogAsksForMore(t *testing.T) {
	in := wordcount(2.7, found(dhalion.Underprovisioned, at("counter"), 0.95))
	in.Load[0].Lag = 3_240_000
	p := made(t, in, defaults())
	if got, _ := p.Actions[0].To.Number(); got != 33 {
		t.Errorf("counter goes to %v, want 33", got)
	}
	if *p.Sizing[1].Required != 13.5 {
		t.Errorf("required counts the backlog: %v", *p.Sizing[1].Required)
	}
}

func TestEachDiagnosisHasItsAnswer(t *testing.T) {
	hot := dhalion.InstanceTarget(job, "counter", 6)
	slow := dhalion.InstanceTarget(job, "counter", 1)
	for name, c := range map[string]struct {
		d       dhalion.Diagnosis
		actions []string
		refused string
	}{
		"slow instance":      {found(dhalion.SlowInstance, slow, 0.9), []string{"move counter[1] off tm-2"}, "scaling cannot mend slow_instance"},
		"slow worker":        {found(dhalion.SlowWorker, dhalion.WorkerTarget(job, "tm-2"), 0.9), []string{"move the instances of worker tm-2 away"}, ""},
		"data skew":          {found(dhalion.DataSkew, hot, 0.9), []string{"tell a person about data skew at counter[6]"}, "scaling cannot mend data_skew: the hot key stays on one instance"},
		"sink limited":       {found(dhalion.SinkLimited, at("sink"), 0.9), []string{"tell a person about sink limited at sink"}, "scaling cannot mend sink_limited"},
		"source limited":     {found(dhalion.SourceLimited, at("source"), 0.9), []string{"tell a person about source limited at source"}, ""},
		"memory pressure":    {found(dhalion.MemoryPressure, dhalion.WorkerTarget(job, "tm-1"), 0.9), []string{"tell a person about memory pressure at worker tm-1"}, ""},
		"checkpoint failing": {found(dhalion.CheckpointFailing, dhalion.JobTarget(job), 0.9), []string{"tell a person about checkpoint failing at the job"}, ""},
		"failing":            {found(dhalion.Failing, dhalion.JobTarget(job), 0.9), []string{"tell a person about failing at the job"}, ""},
		"transient":          {found(dhalion.Transient, dhalion.JobTarget(job), 0.9), nil, "predicted to drain by itself within 120 s"},
		"a source":           {found(dhalion.Underprovisioned, at("source"), 0.9), nil, "a source is never scaled"},
		"enough":             {found(dhalion.Underprovisioned, at("counter"), 0.9), nil, "5 of 8 instances are enough"},
		"not too many":       {found(dhalion.Overprovisioned, at("splitter"), 0.9), nil, "with headroom splitter needs 4 of its 4"},
		"unlikely":           {found(dhalion.SlowInstance, slow, 0.3), nil, "30 % is too unlikely to act on: the policy asks for 50 %"},
	} {
		t.Run(name, func(t *testing.T) {
			in := wordcount(1, c.d)
			if name == "not too many" {
				in.Load[1].PerInstanceLow = 1 / 0.0026 // 1000·2.6 ms/.8 = 3.25
			}
			p := made(t, in, defaults())
			same(t, briefly(p), c.actions...)
			hasReason(t, p, c.refused)
			if len(p.Actions) == 0 && len(p.Alternatives) == 0 {
				t.Error("no answer and no reason")
			}
			if _, _, _, err := planfile.Encode(p); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestARelocationTouchesWhatRunsOnTheWorker(t *testing.T) {
	in := wordcount(1, found(dhalion.SlowWorker, dhalion.WorkerTarget(job, "tm-2"), 0.9))
	a := made(t, in, defaults()).Actions[0]
	// 17 instances over 5 workers: tm-1 and tm-2 have 4.
	if !slices.Equal(a.Affects, []dhalion.Affected{{Job: job, Instances: 4, Of: 17}}) {
		t.Errorf("affects %v", a.Affects)
	}
	if a.From.String() != "tm-2" || a.To.String() != "" || a.To.IsZero() || a.Reverse != nil {
		t.Errorf("from %v to %q, reverse %v", a.From, a.To, a.Reverse)
	}
}

func TestWithoutAnotherWorkerThereIsARestart(t *testing.T) {
	in := wordcount(1, found(dhalion.SlowInstance, dhalion.InstanceTarget(job, "counter", 1), 0.9))
	for i := range in.Topology.Placement {
		in.Topology.Placement[i].Worker = "tm-1"
	}
	p := made(t, in, defaults())
	same(t, briefly(p), "restart the job")
	if p.Actions[0].Affects[0].Instances != 17 {
		t.Errorf("affects %v", p.Actions[0].Affects)
	}
}

func TestWithoutAKnownPlaceAPersonIsAsked(t *testing.T) {
	in := wordcount(1, found(dhalion.SlowInstance, dhalion.InstanceTarget(job, "counter", 1), 0.9))
	in.Topology.Placement = nil
	p := made(t, in, defaults())
	same(t, briefly(p), "tell a person about slow instance at counter[1]")
	hasWarning(t, p, WarnUnknownPlace, "counter[1]")
}

func TestAKnobOfThePolicyMendsSkew(t *testing.T) {
	in := wordcount(1, found(dhalion.DataSkew, dhalion.InstanceTarget(job, "counter", 6), 0.9))
	in.Load[2].SkewShare = 0.45 * 8 // 3.6 times its share; 3.6/4 is the first below 1.5
	set := defaults()
	numbers := func(values ...float64) (s []dhalion.Setting) {
		for _, v := range values {
			s = append(s, dhalion.NumberSetting(v))
		}
		return s
	}
	set.knobs = []policy.Knob{
		{Name: "other", Argument: "--other", Values: numbers(1, 2), Mends: dhalion.MemoryPressure},
		{Name: "elsewhere", Argument: "--else", Values: numbers(1, 2), Mends: dhalion.DataSkew, Component: "sink"},
		{Name: "salt", Argument: "--salt", Values: numbers(1, 2, 4, 8), Mends: dhalion.DataSkew, Component: "counter"},
	}
	p := made(t, in, set)
	same(t, briefly(p), "set --salt to 8 at counter")
	hasWarning(t, p, WarnKnob, "--salt")
	if c := p.Actions[0].Expect.Checks[1]; c.Target != dhalion.InstanceTarget(job, "counter", 6) || c.Metric != dhalion.Busy {
		t.Errorf("the hot instance is not looked at: %+v", c)
	}
}

func TestAKnobIsSetToTheLeastValueThatSpreadsEnough(t *testing.T) {
	number, text := dhalion.NumberSetting, dhalion.TextSetting
	salt := policy.Knob{Values: []dhalion.Setting{number(1), number(2), number(4), number(8)}}
	// Of 3.6 on one of 8, (8 − 3.6)/7 = .63 stays: over 4 it is .63 + 2.97/4 = 1.37,
	// over 8 it is 1.
	for share, want := range map[float64]string{1.2: "1", 1.4: "2", 1.6: "4", 3.6: "8", 7: "8", 100: "8", math.NaN(): "2", 0.9: "2"} {
		if got := pick(salt, dhalion.Setting{}, share, 8).String(); got != want {
			t.Errorf("a share of %v sets %s, want %s", share, got, want)
		}
	}
	if got := pick(policy.Knob{Values: []dhalion.Setting{text("off"), text("on")}}, dhalion.Setting{}, 5, 8).String(); got != "on" {
		t.Errorf("texts: %s", got)
	}
	if got := pick(policy.Knob{Values: []dhalion.Setting{text("on")}}, dhalion.Setting{}, 5, 8).String(); got != "on" {
		t.Errorf("one value: %s", got)
	}
	// From a present value: the share is what was seen with keys spread already.
	for _, c := range []struct {
		now   dhalion.Setting
		share float64
		want  string
	}{
		{number(1), 3.6, "8"}, {number(2), 3, "8"}, {number(2), 1.4, "4"}, {number(4), 100, "8"}, {number(8), 3, "-"},
		{number(3), 1.6, "8"}, {number(2), math.NaN(), "4"}, {number(8), math.NaN(), "-"}, {text("x"), 3, "8"},
	} {
		if got := pick(salt, c.now, c.share, 8); got.String() != c.want && !(c.want == "-" && got.IsZero()) {
			t.Errorf("from %s a share of %v sets %s, want %s", c.now, c.share, got, c.want)
		}
	}
	onOff := policy.Knob{Values: []dhalion.Setting{text("off"), text("on")}}
	for now, want := range map[string]string{"off": "on", "other": "off"} {
		if got := pick(onOff, text(now), 5, 8).String(); got != want {
			t.Errorf("from %s to %s, want %s", now, got, want)
		}
	}
	if got := pick(onOff, text("on"), 5, 8); !got.IsZero() {
		t.Errorf("from the last to %s", got)
	}
}

func TestWhatAKnobIsSetToIsReadFromTheArguments(t *testing.T) {
	k := policy.Knob{Argument: "--salt", Values: []dhalion.Setting{dhalion.NumberSetting(1), dhalion.TextSetting("many")}}
	for _, c := range []struct {
		arguments string
		want      dhalion.Setting
	}{
		{"", dhalion.Setting{}}, {"--salts 4", dhalion.Setting{}}, {"--salt", dhalion.Setting{}},
		{"--salt 1", dhalion.NumberSetting(1)}, {"--a b --salt=7", dhalion.NumberSetting(7)}, {"--salt many", dhalion.TextSetting("many")},
		{"--salt 1 --salt 2", dhalion.NumberSetting(2)}, {"--salt=x", dhalion.TextSetting("x")},
	} {
		if got := present(k, strings.Fields(c.arguments)); got != c.want {
			t.Errorf("%q: %s, want %s", c.arguments, got, c.want)
		}
	}
}

func TestAKnobThatIsKnownToBeSetCanBeSetBackAndOneThatIsSpentIsNotSetAgain(t *testing.T) {
	in := wordcount(1, found(dhalion.DataSkew, dhalion.InstanceTarget(job, "counter", 6), 0.9))
	in.Load = slices.Clone(in.Load)
	for i := range in.Load {
		if in.Load[i].Component == "counter" {
			in.Load[i].SkewShare = 3.6
		}
	}
	set := defaults()
	set.knobs = []policy.Knob{{Name: "salt", Argument: "--salt", Values: []dhalion.Setting{dhalion.NumberSetting(1), dhalion.NumberSetting(4)}, Mends: dhalion.DataSkew}}
	in.Arguments = []string{"--salt", "1"}
	p := made(t, in, set)
	same(t, briefly(p), "set --salt from 1 to 4 at counter")
	a := p.Actions[0]
	if a.From != dhalion.NumberSetting(1) || a.Reverse == nil || a.Reverse.To != a.From || a.Reverse.From != a.To || a.Reverse.Kind != dhalion.SetKnob {
		t.Errorf("from %s, back by %+v", a.From, a.Reverse)
	}
	in.Arguments = []string{"--salt=4"}
	p = made(t, in, set)
	if len(p.Actions) != 1 || p.Actions[0].Kind != dhalion.Alert || !strings.Contains(p.Actions[0].Message, "more values for its knob") {
		t.Errorf("%+v", p.Actions)
	}
	hasReason(t, p, "is at 4 already")
}

func TestARelocationTouchesEveryJobOnItsWorker(t *testing.T) {
	in := wordcount(1, found(dhalion.SlowWorker, dhalion.WorkerTarget(job, "tm-2"), 0.9))
	in.Neighbours = []Neighbour{
		{Job: "file/a", Instances: 10, On: map[string]int{"tm-2": 2, "tm-3": 8}}, {Job: "file/z", Instances: 5, On: map[string]int{"tm-3": 5}},
	}
	set := defaults()
	set.maxJobs = 2
	p := made(t, in, set)
	same(t, briefly(p), "move the instances of worker tm-2 away")
	if got := fmt.Sprint(p.Actions[0].Affects); got != "[{file/a 2 10} {prod/wordcount 4 17}]" {
		t.Errorf("it touches %s", got)
	}
	set.maxTouched = 0.22 // (4 + 2) of (17 + 10) is .222; of its own job alone 4/17 is .235
	p = made(t, in, set)
	hasReason(t, p, "would touch 6 of 27 instances")
	set.maxTouched = 0.23
	p = made(t, in, set)
	same(t, briefly(p), "move the instances of worker tm-2 away")
	set.maxJobs = 1
	p = made(t, in, set)
	hasReason(t, p, "it would touch file/a, too; the policy's max_jobs_touched is 1")
}

// At .06 of the load: splitter 60·1.68 ms/.8 = .126, counter 240·1 ms/.8 = .3.
func TestAnOversizedJobIsScaledDownWithHeadroom(t *testing.T) {
	in := wordcount(0.06, found(dhalion.Overprovisioned, dhalion.JobTarget(job), 0.9), found(dhalion.Overprovisioned, at("counter"), 0.8))
	p := made(t, in, defaults())
	same(t, briefly(p), "counter 8 → 1 instances", "splitter 4 → 1 instances", "sink 3 → 1 instances")
	if len(p.Actions[0].Because) != 2 || p.Actions[0].Probability != 0.9 {
		t.Errorf("counter because %v (%v)", p.Actions[0].Because, p.Actions[0].Probability)
	}
	set := defaults()
	set.minParallelism = 2
	same(t, briefly(made(t, in, set)), "counter 8 → 2 instances", "splitter 4 → 2 instances", "sink 3 → 2 instances")
	// A hot instance with 3.4 times its share keeps room: .3·1.1·3.4 = 1.12.
	in.Load[2].SkewShare = 3.4
	if got, _ := made(t, in, defaults()).Actions[0].To.Number(); got != 2 {
		t.Errorf("with a hot instance counter goes to %v, want 2", got)
	}
}

// Freeing one of 17 instances is worth .1/17 = .0059; the rescale costs 30 s of an
// hour, .0083.
func TestASmallSavingIsNotWorthARestart(t *testing.T) {
	in := wordcount(1, found(dhalion.Overprovisioned, at("sink"), 0.9))
	p := made(t, in, defaults()) // 4000·.315 ms/.8·1.1 = 1.73 of 3
	same(t, briefly(p))
	hasReason(t, p, "not worth it: its utility is -0.00")
	set := defaults()
	set.restart = 10 * time.Second
	same(t, briefly(made(t, in, set)), "sink 3 → 2 instances")
}

func TestNoComponentGetsMoreInstancesThanTheEngineHasSlots(t *testing.T) {
	in := wordcount(4, found(dhalion.Underprovisioned, at("counter"), 0.95))
	in.Topology.Slots = []dhalion.Slots{{Worker: "tm-1", Slots: 8}, {Worker: "tm-2", Slots: 4}}
	p := made(t, in, defaults())
	// 12 slots bound it as a maximum parallelism of 12 does, below.
	same(t, briefly(p), "counter 8 → 12 instances", "sink 3 → 5 instances", "splitter 4 → 7 instances")
	hasWarning(t, p, WarnMaxParallelism, "counter wants 15 instances, and the number of the engine's slots allows 12")
	in.Topology.Slots = in.Topology.Slots[1:] // fewer than it has instances: they were counted before
	same(t, briefly(made(t, in, defaults())), "counter 8 → 20 instances", "sink 3 → 7 instances", "splitter 4 → 9 instances")
}

func TestABoundSetsTheRateForTheRest(t *testing.T) {
	in := wordcount(4, found(dhalion.Underprovisioned, at("counter"), 0.95))
	in.Topology.Components[0].MaxParallelism = 12
	p := made(t, in, defaults())
	// counter can take 12000/s of 16000/s: f = .75. splitter 4000·.75·1.68 ms/.8 = 6.3,
	// sink 16000·.75·.315 ms/.8 = 4.725.
	same(t, briefly(p), "counter 8 → 12 instances", "sink 3 → 5 instances", "splitter 4 → 7 instances")
	hasWarning(t, p, WarnInfeasible, "counter can carry 75 %")
	hasWarning(t, p, WarnMaxParallelism, "counter wants 15 instances, and its maximum parallelism allows 12: it would be 100 % busy")
	if want := 3000 * 0.95; math.Abs(p.Actions[0].Expect.Checks[0].Value-want) > 1e-6 {
		t.Errorf("source is to put out %v, want %v", p.Actions[0].Expect.Checks[0].Value, want)
	}
	set := defaults()
	set.maxParallelism = 8
	p = made(t, in, set)
	hasReason(t, p, "counter wants 10 instances, and the policy's max_parallelism allows 8")
	if len(p.Actions) != 0 {
		t.Errorf("something is scaled without the bottleneck: %v", briefly(p))
	}
}

func TestWhatThePolicyForbidsIsRefused(t *testing.T) {
	slow := found(dhalion.SlowWorker, dhalion.WorkerTarget(job, "tm-2"), 0.9)
	under := found(dhalion.Underprovisioned, at("counter"), 0.8)
	set := defaults()
	set.actions = []dhalion.ActionKind{dhalion.Relocate, dhalion.Alert}
	p := made(t, wordcount(2.7, slow, under), set)
	same(t, briefly(p), "move the instances of worker tm-2 away")
	hasReason(t, p, "limits do not allow set_parallelism")

	set = defaults()
	set.maxTouched = 0.5 // a rescale is 1.0, the worker 4/17
	p = made(t, wordcount(2.7, slow, under), set)
	same(t, briefly(p), "move the instances of worker tm-2 away")
	hasReason(t, p, "would touch 17 of 17 instances; the policy's max_instances_touched is 0.5")

	set.maxTouched = 0.3
	other := found(dhalion.SlowWorker, dhalion.WorkerTarget(job, "tm-3"), 0.7)
	p = made(t, wordcount(1, slow, other), set)
	same(t, briefly(p), "move the instances of worker tm-2 away")
	hasReason(t, p, "would touch 7 of 17 instances")
}

func TestConflictsAreResolvedAndSaid(t *testing.T) {
	in := wordcount(2.7, found(dhalion.Underprovisioned, at("counter"), 0.9), found(dhalion.Overprovisioned, at("sink"), 0.6))
	in.Load[3].Offered = 100 // sink has little to do
	p := made(t, in, defaults())
	same(t, briefly(p), "counter 8 → 14 instances", "splitter 4 → 6 instances", "sink 3 → 1 instances")

	slow := dhalion.InstanceTarget(job, "counter", 1)
	p = made(t, wordcount(0.1, found(dhalion.SlowInstance, slow, 0.9), found(dhalion.Overprovisioned, at("counter"), 0.8)), defaults())
	same(t, briefly(p), "move counter[1] off tm-2")
	hasReason(t, p, "slow_instance holds at counter[1]: mend that before instances are taken away")

	p = made(t, wordcount(0.1, found(dhalion.Failing, dhalion.JobTarget(job), 0.9), found(dhalion.Overprovisioned, at("counter"), 0.8)), defaults())
	same(t, briefly(p), "tell a person about failing at the job")
	hasReason(t, p, "the job keeps failing")

	p = made(t, wordcount(1, found(dhalion.SlowWorker, dhalion.WorkerTarget(job, "tm-2"), 0.7), found(dhalion.SlowInstance, slow, 0.9)), defaults())
	same(t, briefly(p), "move the instances of worker tm-2 away")
	hasReason(t, p, "worker tm-2 is emptied already, for worker tm-2")

	p = made(t, wordcount(2.7, found(dhalion.Transient, dhalion.JobTarget(job), 0.8), found(dhalion.Underprovisioned, at("counter"), 0.6)), defaults())
	same(t, briefly(p))
	hasReason(t, p, "a transient is as likely (80 %)")
}

func TestWhatIsExplainedGetsNoActionOfItsOwn(t *testing.T) {
	slow := found(dhalion.SlowWorker, dhalion.WorkerTarget(job, "tm-2"), 0.9)
	by := pairOf(slow)
	under := found(dhalion.Underprovisioned, at("counter"), 0.6)
	under.ExplainedBy = &by
	p := made(t, wordcount(2.7, slow, under), defaults())
	same(t, briefly(p), "move the instances of worker tm-2 away")
	hasReason(t, p, "counter 8 → 14 instances: explained by slow_worker at worker tm-2: mend that first")
}

func TestALimitedSinkIsNotScaledWithTheRest(t *testing.T) {
	p := made(t, wordcount(2.7, found(dhalion.SinkLimited, at("sink"), 0.9), found(dhalion.Underprovisioned, at("counter"), 0.8)), defaults())
	// 3 sink instances in health take 9524/s of 10800/s: f = .882. counter 13.5·.882 =
	// 11.9, splitter 5.67·.882 = 5.0000: 3/.315·1.68/.8/4 = 5 exactly.
	same(t, briefly(p), "counter 8 → 12 instances", "splitter 4 → 5 instances", "tell a person about sink limited at sink")
	hasWarning(t, p, WarnInfeasible, "sink can carry 88 %")
}

func TestWhatIsUnknownIsSaid(t *testing.T) {
	in := wordcount(2.7, found(dhalion.Underprovisioned, at("counter"), 0.9))
	in.Load[2].PerInstance = math.NaN()
	in.Load = in.Load[:3] // nothing of sink
	p := made(t, in, defaults())
	same(t, briefly(p))
	hasReason(t, p, "the size that counter needs cannot be worked out: the rate of a healthy instance is not known")
	hasWarning(t, p, WarnUnknownSize, "sink cannot be worked out: its offered load is not known")
	if p.Sizing[1].Required != nil || p.Sizing[2].Required != nil || p.Sizing[0].Required == nil {
		t.Errorf("sizing %+v", p.Sizing)
	}
	if _, _, _, err := planfile.Encode(p); err != nil {
		t.Error(err)
	}
}

func TestRoughEstimatesAndUnevenKeyGroupsAreWarnedOf(t *testing.T) {
	in := wordcount(2.7, found(dhalion.Underprovisioned, at("counter"), 0.9))
	in.Topology.Components[0].MaxParallelism = 20 // ⌈20/14⌉ = 2 of 20 groups, 1.4 times a 14th
	in.Load[2].PerInstanceLow, in.Load[2].PerInstanceHigh = 600, 1500
	p := made(t, in, defaults())
	hasWarning(t, p, WarnIntervalWide, "counter rests on a rough estimate: 9 to 22.5 instances")
	hasWarning(t, p, WarnKeyGroups, "20 key groups over 14 instances of counter are dealt out unevenly: some get 1.4 times")
}

func TestAnOutsideSystemIsWarnedOf(t *testing.T) {
	in := wordcount(2.7, found(dhalion.Underprovisioned, at("counter"), 0.9))
	in.Load[3].External = true
	hasWarning(t, made(t, in, defaults()), WarnExternal, "5 instances press harder than 3")
}

func TestAnInputThatContradictsItselfIsAnError(t *testing.T) {
	for name, change := range map[string]func(*Input){
		"no job":                func(in *Input) { in.Job = "" },
		"a broken topology":     func(in *Input) { in.Topology.Edges[0].To = "nowhere" },
		"load of nothing":       func(in *Input) { in.Load[0].Component = "nowhere" },
		"load twice":            func(in *Input) { in.Load = append(in.Load, in.Load[0]) },
		"infinite load":         func(in *Input) { in.Load[1].Offered = math.Inf(1) },
		"negative rate":         func(in *Input) { in.Load[1].PerInstance = -1 },
		"certainty above one":   func(in *Input) { in.Findings.Diagnoses[0].Probability = 1.1 },
		"no certainty":          func(in *Input) { in.Findings.Diagnoses[0].Probability = math.NaN() },
		"one finding two times": func(in *Input) { in.Findings.Diagnoses = append(in.Findings.Diagnoses, in.Findings.Diagnoses[0]) },
	} {
		in := wordcount(1, found(dhalion.Underprovisioned, at("counter"), 0.9))
		change(&in)
		if _, err := makePlan(in, defaults(), Resolvers()); err == nil || !strings.HasPrefix(err.Error(), "plan: make plan of ") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Make(wordcount(1)); err == nil || !strings.Contains(err.Error(), "no policy") {
		t.Errorf("no policy: %v", err)
	}
	for name, change := range map[string]func(*settings){
		"target above one": func(s *settings) { s.target = 1.2 }, "no target": func(s *settings) { s.target = 0 },
		"no validity": func(s *settings) { s.validFor = 0 }, "a price below zero": func(s *settings) { s.price = -1 },
		"an odd threshold": func(s *settings) { s.actAbove = math.NaN() }, "time backwards": func(s *settings) { s.catchUp = -1 },
	} {
		s := defaults()
		change(&s)
		if s.check() == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

func TestHealthGivesNoPlan(t *testing.T) {
	p := made(t, wordcount(1), defaults())
	if len(p.Actions)+len(p.Alternatives)+len(p.Warnings) != 0 || len(p.Sizing) != 3 {
		t.Errorf("%+v", p)
	}
}

// anyInput draws a job of three to six components and what is wrong with it.
func anyInput(t *rapid.T) Input {
	n := rapid.IntRange(2, 6).Draw(t, "components")
	in := Input{Job: job, AsOf: asOf, Window: dhalion.Window{Start: asOf.Add(-time.Minute), End: asOf}}
	unknown := func(v float64) float64 {
		if rapid.IntRange(0, 9).Draw(t, "unknown") == 0 {
			return math.NaN()
		}
		return v
	}
	for i := range n {
		name := string(rune('a' + i))
		c := dhalion.Component{Name: name, Parallelism: rapid.IntRange(1, 12).Draw(t, "parallelism")}
		if rapid.Bool().Draw(t, "bounded") {
			c.MaxParallelism = c.Parallelism + rapid.IntRange(0, 20).Draw(t, "room")
		}
		in.Topology.Components = append(in.Topology.Components, c)
		if i > 0 {
			in.Topology.Edges = append(in.Topology.Edges, dhalion.Edge{From: string(rune('a' + rapid.IntRange(0, i-1).Draw(t, "from"))), To: name})
		}
		for k := range c.Parallelism {
			in.Topology.Placement = append(in.Topology.Placement, dhalion.Placement{Component: name, Instance: k, Worker: fmt.Sprintf("w%d", rapid.IntRange(0, 3).Draw(t, "worker"))})
		}
		per := rapid.Float64Range(1, 1e4).Draw(t, "per instance")
		l := ComponentLoad{Component: name, Offered: unknown(rapid.Float64Range(0, 1e5).Draw(t, "offered")), PerInstance: unknown(per),
			PerInstanceLow: unknown(per * 0.8), PerInstanceHigh: unknown(per * 1.3), Busy: unknown(0.5), SkewShare: unknown(rapid.Float64Range(1, 4).Draw(t, "skew")),
			Lag: unknown(0), Source: i == 0}
		if i == 0 {
			l.Lag = unknown(rapid.Float64Range(0, 1e6).Draw(t, "lag"))
		}
		in.Load = append(in.Load, l)

		for _, cause := range dhalion.Causes {
			if rapid.IntRange(0, 4).Draw(t, string(cause)) != 0 {
				continue
			}
			target := dhalion.ComponentTarget(job, name)
			switch cause {
			case dhalion.SlowInstance, dhalion.DataSkew:
				target = dhalion.InstanceTarget(job, name, rapid.IntRange(0, c.Parallelism-1).Draw(t, "instance"))
			case dhalion.SlowWorker, dhalion.MemoryPressure:
				target = dhalion.WorkerTarget(job, fmt.Sprintf("w%d", i))
			case dhalion.Failing, dhalion.Transient, dhalion.CheckpointFailing:
				target = dhalion.JobTarget(job)
			}
			d := found(cause, target, rapid.Float64Range(0, 1).Draw(t, "p"))
			if rapid.IntRange(0, 5).Draw(t, "explained") == 0 {
				d.ExplainedBy = &dhalion.Pair{Target: dhalion.JobTarget(job), Cause: dhalion.Failing}
			}
			if !slices.ContainsFunc(in.Findings.Diagnoses, func(o dhalion.Diagnosis) bool { return pairOf(o) == pairOf(d) }) {
				in.Findings.Diagnoses = append(in.Findings.Diagnoses, d)
			}
		}
	}
	return in
}

func encoded(t *rapid.T, p dhalion.Plan) []byte {
	doc, _, _, err := planfile.Encode(p)
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

func TestTheOrderOfTheInputDoesNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := anyInput(t)
		first := encoded(t, made(t, in, defaults()))
		before, _ := json.Marshal(in.Topology)
		in2 := in
		in2.Load = rapid.Permutation(in.Load).Draw(t, "load")
		in2.Findings.Diagnoses = rapid.Permutation(in.Findings.Diagnoses).Draw(t, "diagnoses")
		in2.Topology.Components = rapid.Permutation(in.Topology.Components).Draw(t, "components")
		in2.Topology.Edges = rapid.Permutation(in.Topology.Edges).Draw(t, "edges")
		in2.Topology.Placement = rapid.Permutation(in.Topology.Placement).Draw(t, "placement")
		in2.AsOf = in.AsOf.In(time.FixedZone("CET", 3600))
		resolvers := rapid.Permutation([]int{0, 1, 2, 3, 4, 5}).Draw(t, "resolvers")
		var shuffled []Resolver
		for _, i := range resolvers {
			shuffled = append(shuffled, Resolvers()[i])
		}
		p, err := makePlan(in2, defaults(), shuffled)
		if err != nil {
			t.Fatal(err)
		}
		if second := encoded(t, p); !bytes.Equal(first, second) {
			t.Fatalf("they differ:\n%s\n%s", first, second)
		}
		if after, _ := json.Marshal(in.Topology); !bytes.Equal(before, after) {
			t.Fatal("the input was changed")
		}
	})
}

func TestAPlanKeepsItsPromises(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := anyInput(t)
		set := defaults()
		p := made(t, in, set)
		to := targets(p.Actions)
		s, err := newSituation(in, set)
		if err != nil {
			t.Fatal(err)
		}
		seen := map[string]bool{}
		for _, a := range p.Actions {
			if a.Utility <= 0 {
				t.Fatalf("%s has utility %v", planfile.Describe(a), a.Utility)
			}
			if a.Probability < set.actAbove {
				t.Fatalf("%s is done at %v", planfile.Describe(a), a.Probability)
			}
			key := fmt.Sprint(a.Kind, a.Target, a.Argument)
			if seen[key] {
				t.Fatalf("%s is done twice", planfile.Describe(a))
			}
			seen[key] = true
			if a.Kind != dhalion.SetParallelism {
				continue
			}
			for _, b := range a.Because {
				if b.Cause != dhalion.Underprovisioned && b.Cause != dhalion.Overprovisioned {
					t.Fatalf("%s scales for %s", planfile.Describe(a), b.Cause)
				}
			}
			z := s.size(a.Target.Component)
			if z == nil {
				t.Fatalf("a source is scaled: %s", planfile.Describe(a))
			}
			n := to[a.Target.Component]
			if n < 1 || n == z.now || (z.most > 0 && n > max(z.most, z.now)) {
				t.Fatalf("%s of at most %d", planfile.Describe(a), z.most)
			}
			// Feasible and scaled: at the offered load within the target.
			if s.feasible == 1 && (z.most == 0 || z.want <= z.most) && z.utilisation(n) > set.target*(1+1e-6) {
				t.Fatalf("%s leaves it %v busy", planfile.Describe(a), z.utilisation(n))
			}
		}
		// Every diagnosis that counts is answered or refused with a reason.
		for _, d := range p.Findings.Diagnoses {
			if d.Probability < Listed {
				continue
			}
			names := func(a dhalion.Action) bool { return slices.Contains(a.Because, pairOf(d)) }
			if !slices.ContainsFunc(p.Actions, names) &&
				!slices.ContainsFunc(p.Alternatives, func(a dhalion.Alternative) bool { return a.Reason != "" && names(a.Action) }) {
				t.Fatalf("%s at %s (%v) has no answer", d.Cause, d.Target, d.Probability)
			}
		}
	})
}

func TestSizesGrowWithTheLoad(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := anyInput(t)
		more := in
		more.Load = slices.Clone(in.Load)
		k := rapid.Float64Range(1, 5).Draw(t, "k")
		for i := range more.Load {
			more.Load[i].Offered *= k
			more.Load[i].Lag *= k // as long a backlog, in time
		}
		a, err := newSituation(in, defaults())
		if err != nil {
			t.Fatal(err)
		}
		b, err := newSituation(more, defaults())
		if err != nil {
			t.Fatal(err)
		}
		for i := range a.sizes {
			x, y := a.sizes[i], b.sizes[i]
			if y.to < x.to || y.down < x.down || (x.known && y.required < x.required) {
				t.Fatalf("%s: %d (down %d, required %v) at the load, %d (%d, %v) at %v times it", x.load.Component, x.to, x.down, x.required, y.to, y.down, y.required, k)
			}
		}
	})
}

func TestSkewIsNeverAnsweredByScaling(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := anyInput(t)
		in.Findings.Diagnoses = slices.DeleteFunc(in.Findings.Diagnoses, func(d dhalion.Diagnosis) bool {
			return d.Cause == dhalion.Underprovisioned || d.Cause == dhalion.Overprovisioned
		})
		for _, a := range made(t, in, defaults()).Actions {
			if a.Kind == dhalion.SetParallelism {
				t.Fatalf("%s", planfile.Describe(a))
			}
		}
	})
}

func loaded(t *testing.T, text string) *policy.Policy {
	t.Helper()
	p, err := policy.Load("test.yaml", func(string) ([]byte, error) { return []byte(text), nil }, features.Known, nil)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestThePolicyIsObeyed(t *testing.T) {
	in := wordcount(2.7, found(dhalion.Underprovisioned, at("counter"), 0.7), found(dhalion.DataSkew, dhalion.InstanceTarget(job, "counter", 6), 0.9))
	in.Load[2].SkewShare = 3.6
	in.Policy = loaded(t, `
name: night
extends: default
parameters: {target_utilisation: 0.9, act_above: 0.65, valid_for: 30m, catch_up: 1m}
knobs:
  - {name: salt, argument: --salt, values: [1, 2, 4, 8], mends: data_skew, component: counter}
limits: {max_parallelism: 24, quiet_hours: "15:00-16:00 Europe/Berlin"}
approve: {four_eyes: true}
`)
	in.Warnings = []dhalion.Warning{{Code: "W-earlier", Message: "from before"}, {Code: "W-earlier", Message: "from before"}}
	p, err := Make(in)
	if err != nil {
		t.Fatal(err)
	}
	// 13.5·.8/.9 = 12, 5.67·.8/.9 = 5.04, 4.2525·.8/.9 = 3.78
	same(t, briefly(p), "set --salt to 8 at counter", "counter 8 → 12 instances", "sink 3 → 4 instances", "splitter 4 → 6 instances")
	if p.Policy != "night" || !p.FourEyes || p.ValidForSeconds != 1800 || p.Version != planfile.Version {
		t.Errorf("policy %s, four eyes %v, valid for %v", p.Policy, p.FourEyes, p.ValidForSeconds)
	}
	hasWarning(t, p, WarnQuietHours, "14:02 UTC lies in the policy's quiet hours, 15:00-16:00 Europe/Berlin")
	hasWarning(t, p, "W-earlier", "from before")
	if n := len(slices.DeleteFunc(slices.Clone(p.Warnings), func(w dhalion.Warning) bool { return w.Code != "W-earlier" })); n != 1 {
		t.Errorf("an equal warning is said %d times", n)
	}
}

func TestADefaultPolicyNeedsNoMore(t *testing.T) {
	in := wordcount(2.7, found(dhalion.Underprovisioned, at("counter"), 0.95))
	in.Policy = loaded(t, "name: mine\nextends: default\n")
	p, err := Make(in)
	if err != nil {
		t.Fatal(err)
	}
	same(t, briefly(p), "counter 8 → 14 instances", "sink 3 → 5 instances", "splitter 4 → 6 instances")
}

func TestTwoChangesBySomebodyElseInAnHourAreWarnedOfWithAnAlert(t *testing.T) {
	in := wordcount(1)
	in.Changes = []dhalion.Change{
		{At: asOf.Add(-50 * time.Minute), Component: "counter", From: 4, To: 8, By: dhalion.ChangeDhalion},
		{At: asOf.Add(-40 * time.Minute), Component: "counter", From: 8, To: 12, By: dhalion.ChangeOperator},
	}
	if p := made(t, in, defaults()); len(p.Actions) != 0 || len(p.Warnings) != 0 {
		t.Errorf("of one change: %+v, %v", p.Actions, p.Warnings)
	}
	in.Changes = append(in.Changes, dhalion.Change{At: asOf.Add(-10 * time.Minute), Component: "counter", From: 12, To: 8, By: dhalion.ChangeOperator})
	p := made(t, in, defaults())
	const both = "counter 8 → 12 instances at 2025-11-03T13:22:10Z and counter 12 → 8 instances at 2025-11-03T13:52:10Z"
	hasWarning(t, p, WarnForeign, "somebody else changed its parallelism: "+both+"; apply refuses until 2025-11-03T14:22:10Z")
	if len(p.Actions) != 1 || p.Actions[0].Kind != dhalion.Alert || p.Actions[0].Target != dhalion.JobTarget(job) || !strings.Contains(p.Actions[0].Message, both) {
		t.Errorf("%+v", p.Actions)
	}
	if _, _, _, err := planfile.Encode(p); err != nil {
		t.Error(err)
	}
	// What is wrong is planned for all the same, and the alert comes last.
	sick := wordcount(2.7, found(dhalion.Underprovisioned, at("counter"), 0.95))
	sick.Changes = in.Changes
	if p := made(t, sick, defaults()); len(p.Actions) != 4 || p.Actions[3].Kind != dhalion.Alert {
		t.Errorf("%q", briefly(p))
	}
	// A policy that allows no alert has the warning alone.
	set := defaults()
	set.actions = []dhalion.ActionKind{dhalion.SetParallelism}
	if p := made(t, in, set); len(p.Actions) != 0 {
		t.Errorf("%+v", p.Actions)
	} else {
		hasWarning(t, p, WarnForeign, "somebody else")
	}
	in.AsOf = asOf.Add(20 * time.Minute)
	if p := made(t, in, defaults()); len(p.Warnings) != 0 {
		t.Errorf("an hour after the first: %v", p.Warnings)
	}
}
