package plan

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/features"
	"github.com/dhalion-go/dhalion/plan/planfile"
	"github.com/dhalion-go/dhalion/plan/policy"
)

var nan = math.NaN()

func builtIn(t *testing.T, name string, params map[string]string) *policy.Policy {
	t.Helper()
	p, err := policy.Load(name, nil, features.Known, params)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// chain is a job whose components feed one another, NAME:INSTANCES each.
func chain(t *testing.T, components ...string) dhalion.Topology {
	t.Helper()
	topology := dhalion.Topology{From: asOf.Add(-24 * time.Hour)}
	for i, c := range components {
		name, n, _ := strings.Cut(c, ":")
		p := 1
		if _, err := fmt.Sscan(n, &p); err != nil {
			t.Fatal(err)
		}
		topology.Components = append(topology.Components, dhalion.Component{Name: name, Parallelism: p})
		if i > 0 {
			before, _, _ := strings.Cut(components[i-1], ":")
			topology.Edges = append(topology.Edges, dhalion.Edge{From: before, To: name})
		}
	}
	return topology
}

func epoch(component string, in, out float64) features.Rates {
	return features.Rates{Component: component, Epoch: features.Epoch{At: asOf, Instances: 1, Of: 1, KnownIn: 1, KnownOut: 1, TrueIn: in, TrueOut: out, Out: nan}}
}

func method(p *policy.Policy, topology dhalion.Topology, rates ...features.Rates) Input {
	return Input{Job: job, AsOf: asOf, Window: dhalion.Window{Start: asOf.Add(-p.Window), End: asOf}, Topology: topology, Policy: p, Rates: rates}
}

func document(t *testing.T, in Input) dhalion.Plan {
	t.Helper()
	p, err := Make(in)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := planfile.Encode(p); err != nil {
		t.Fatalf("the plan is no document: %v", err)
	}
	return p
}

// sizes are FROM→TO of every row, in order.
func sizes(p dhalion.Plan) string {
	var out []string
	for _, s := range p.Sizing {
		out = append(out, fmt.Sprintf("%s %d→%d", s.Component, s.From, s.To))
	}
	return strings.Join(out, ", ")
}

func figure(t *testing.T, p dhalion.Plan, component, name string) float64 {
	t.Helper()
	for _, s := range p.Sizing {
		for _, f := range s.Figures {
			if s.Component == component && f.Name == name {
				return f.Value
			}
		}
	}
	t.Fatalf("no figure %s of %s", name, component)
	return 0
}

// The word count's rates of every epoch, added up over the instances, and what the
// original program makes of them.
func TestDS2sSizesAreThoseOfTheOriginalProgram(t *testing.T) {
	topology := chain(t, "source:1", "splitter:2", "count:1")
	for e, c := range []struct {
		source, in, out, count float64
		sum, with80000         float64
		want                   string
	}{
		{119930.98013431721, 94787.41353006093 + 92095.47188098813, 962970.2199066337 + 936020.134953293, 1576794.3360236867, 2.056363638384399, 1.3717, "splitter 2→2, count 1→1"},
		{108193.90544123527, 116090.26189249655 + 113231.660485392, 1179743.9431207492 + 1150538.3370288974, 1907733.509870665, 1.5198976936581707, 1.1238, "splitter 2→1, count 1→1"},
		{104564.52360691679, 119648.78198883888 + 114766.40001507911, 1216014.4522923864 + 1166021.9904982615, 2037284.180094098, 1.4136803443391814, 1.0816, "splitter 2→1, count 1→1"},
		{109348.8319507938, 115503.98915754694 + 116223.3424394184, 1173712.6445460345 + 1181306.2159253326, 1872794.290116418, 1.5371628898374565, 1.1246, "splitter 2→1, count 1→1"},
		{106973.50156458346, 114190.039484046 + 109975.68991996873, 1160276.6535047453 + 1117758.4246714618, 1918816.1125298687, 1.5209589349219073, 1.1374, "splitter 2→1, count 1→1"},
		{109705.37486387165, 122512.72886314773 + 122613.65236651529, 1244599.9522210688 + 1246045.8737637822, 1845391.0738689527, 1.4991263904952872, 1.0932, "splitter 2→1, count 1→1"},
	} {
		for rate, want := range map[string]float64{"0": c.sum, "80000": c.with80000} {
			in := method(builtIn(t, "ds2", map[string]string{"source_rate": rate}), topology, epoch("source", 0, c.source), epoch("splitter", c.in, c.out), epoch("count", c.count, 0))
			p := document(t, in)
			within := 1e-9
			wanted := c.want
			if rate != "0" {
				within, wanted = 5e-5, "splitter 2→1, count 1→1" // the reference has four digits
			}
			if sum := *p.Sizing[0].Required + *p.Sizing[1].Required; math.Abs(sum-want) > within || sizes(p) != wanted {
				t.Errorf("e%d at a source rate of %s: %.16g and %s, want %.16g and %s", e, rate, sum, sizes(p), want, wanted)
			}
		}
	}
}

func TestDS2sCeilingHasNoTolerance(t *testing.T) {
	// A tenth and two tenths are a little more than three in binary, so x is a little
	// above 3 and four instances are wanted; three would be kinder and not DS2.
	tenths := 0.30000000000000004
	p := document(t, method(builtIn(t, "ds2", nil), chain(t, "s:1", "a:1"), epoch("s", 0, tenths), epoch("a", 0.1, 0)))
	if got := sizes(p); got != "a 1→4" {
		t.Errorf("%s", got)
	}
	// Every edge carries the full output, and inputs are added up: 100 into a and b of
	// 50/s, which put out 400 and 100 per 50: 800 + 200 into c of 100/s.
	topology := chain(t, "s:1", "a:1", "c:1")
	topology.Components = append(topology.Components, dhalion.Component{Name: "b", Parallelism: 1})
	topology.Edges = append(topology.Edges, dhalion.Edge{From: "s", To: "b"}, dhalion.Edge{From: "b", To: "c"})
	p = document(t, method(builtIn(t, "ds2", nil), topology, epoch("s", 0, 100), epoch("a", 50, 400), epoch("b", 50, 100), epoch("c", 100, 0)))
	if got := sizes(p); got != "a 1→2, b 1→2, c 1→10" {
		t.Errorf("%s", got)
	}
}

func TestDS2SaysWhatItDoesNotKnowAndWhatItLeavesOut(t *testing.T) {
	topology := chain(t, "s:2", "a:2", "b:1", "c:1")
	in := method(builtIn(t, "ds2", nil), topology, epoch("s", 0, 100), epoch("a", 0, 400), epoch("b", 10, 1))
	in.Load = []ComponentLoad{load("s", 100, nan), load("a", 100, 10)}
	in.Load[0].Source, in.Load[0].Lag, in.Load[1].SkewShare = true, 5000, 1.8
	p := document(t, in)
	reasons := ""
	for _, s := range p.Sizing {
		reasons += s.Reason + "; "
	}
	if reasons != "its true processing rate is 0; what a puts out is not known; what b puts out is not known; " || len(p.Actions) != 0 {
		t.Errorf("%s, %d actions", reasons, len(p.Actions))
	}
	warned := ""
	for _, w := range p.Warnings {
		warned += w.Code + ": " + w.Message + "\n"
	}
	for _, want := range []string{"W-ignored: 5,000 records wait at s", "W-ignored: an instance of a gets 1.8 times its share", "W-unknown-size: the size of c"} {
		if !strings.Contains(warned, want) {
			t.Errorf("no %q in %s", want, warned)
		}
	}

	// Of three instances two have a rate: 200/2 each. The rest of what is wrong with an
	// input is an error.
	r := epoch("a", 300, 300)
	r.Epoch.KnownIn, r.Epoch.Of = 2, 3
	r.Epoch.At = asOf.Add(-time.Hour)
	p = document(t, method(builtIn(t, "ds2", nil), chain(t, "s:1", "a:3"), features.Rates{Component: "s", Epoch: features.Epoch{TrueOut: 200}}, r))
	if p.Sizing[0].Reason != "2 of its 3 instances have a true rate, and speak for the others" || p.Sizing[0].To != 2 {
		t.Errorf("%+v", p.Sizing[0])
	}
	if !slices.ContainsFunc(p.Warnings, func(w dhalion.Warning) bool { return w.Code == WarnOldRates }) {
		t.Errorf("no word about rates of an hour before: %v", p.Warnings)
	}
	p = document(t, method(builtIn(t, "ds2", nil), dhalion.Topology{From: asOf, Components: []dhalion.Component{{Name: "a", Parallelism: 2}}}, epoch("a", 1, 1)))
	if len(p.Sizing) != 0 || !strings.Contains(fmt.Sprint(p.Warnings), "the topology has no edges") {
		t.Errorf("without edges: %v, %v", p.Sizing, p.Warnings)
	}
	for want, broken := range map[string]Input{
		`source rate of "a": the job has no such source`: {SourceRates: map[string]float64{"a": 5}},
		`source rate of "s": -2 is not a rate`:           {SourceRates: map[string]float64{"s": -2}},
		`rates of "x": no such component`:                {Rates: []features.Rates{epoch("x", 1, 1)}},
		`rates of "s" are given twice`:                   {Rates: []features.Rates{epoch("s", 1, 1), epoch("s", 1, 1)}},
		`rates of "s": -1 is not within 0`:               {Rates: []features.Rates{epoch("s", -1, 1)}},
	} {
		in := method(builtIn(t, "ds2", nil), chain(t, "s:1", "a:3"), broken.Rates...)
		in.SourceRates = broken.SourceRates
		if _, err := Make(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

// The policy's limits hold for published methods, too.
func TestAMethodsChangesKeepToTheLimits(t *testing.T) {
	topology := chain(t, "s:1", "a:2", "b:4")
	topology.Components[1].MaxParallelism = 6
	rates := []features.Rates{epoch("s", 0, 1000), epoch("a", 200, 200), epoch("b", 4000, 0)}
	// a: 1000/100 = 10, b: 1000/1000 = 1.
	p := builtIn(t, "ds2", nil)
	plan := document(t, method(p, topology, rates...))
	if sizes(plan) != "a 2→6, b 4→1" || plan.Sizing[0].Reason != "10 wanted; its maximum parallelism allows 6" {
		t.Errorf("%s, %q", sizes(plan), plan.Sizing[0].Reason)
	}
	p.Limits.MaxParallelism, p.Limits.MinParallelism = 3, 2
	plan = document(t, method(p, topology, rates...))
	if sizes(plan) != "a 2→3, b 4→2" || plan.Sizing[1].Reason != "1 wanted; the policy's min_parallelism is 2" {
		t.Errorf("%s, %q", sizes(plan), plan.Sizing[1].Reason)
	}
	p.Limits.MaxInstancesTouched = 0.5
	plan = document(t, method(p, topology, rates...))
	if sizes(plan) != "a 2→2, b 4→4" || len(plan.Alternatives) != 2 {
		t.Errorf("%s, %d alternatives", sizes(plan), len(plan.Alternatives))
	}
}

func TestThePapersSizes(t *testing.T) {
	topology := chain(t, "s:1", "bolt:2")
	for caused, want := range map[float64]int{0.5: 4, 0.75: 8, 0.8: 10, 0.9: 10, 1.7: 10, 0.1 + 0.2 + 0.3: 5, 0.02: 3} {
		l := load("bolt", nan, nan)
		l.PerInstanceLow, l.PerInstanceHigh, l.Caused = nan, nan, caused
		in := method(builtIn(t, "paper", nil), topology)
		in.Load = []ComponentLoad{l}
		in.Findings.Diagnoses = []dhalion.Diagnosis{found(dhalion.Underprovisioned, at("bolt"), 1)}
		p := document(t, in)
		if len(p.Actions) != 1 || p.Sizing[0].To != want {
			t.Errorf("%v held up: %s with %d actions, want %d", caused, sizes(p), len(p.Actions), want)
		}
		if b := figure(t, p, "bolt", "B"); math.Abs(b-1000*caused) > 1e-6 {
			t.Errorf("B is %v, of %v", b, caused)
		}
	}
}

func TestThePaperActsOnOneComponentAtATime(t *testing.T) {
	topology := chain(t, "s:1", "a:10", "b:5")
	in := method(builtIn(t, "paper", nil), topology)
	for _, name := range []string{"a", "b"} {
		l := load(name, nan, nan)
		l.PerInstanceLow, l.PerInstanceHigh, l.Caused = nan, nan, 0.5
		in.Load = append(in.Load, l)
	}
	in.Findings.Diagnoses = []dhalion.Diagnosis{found(dhalion.Underprovisioned, at("a"), 1), found(dhalion.Underprovisioned, at("b"), 1)}
	p := document(t, in)
	if sizes(p) != "a 10→20, b 5→5" || len(p.Alternatives) != 1 || p.Alternatives[0].Reason != "the paper acts on one component at a time, and now on a" {
		t.Errorf("%s, %v", sizes(p), p.Alternatives)
	}
	// Fewer: eight tenths of ten, and with one no share is left.
	for i := range in.Load {
		in.Load[i].Caused = 0
	}
	in.Findings.Diagnoses = []dhalion.Diagnosis{found(dhalion.Overprovisioned, at("a"), 1)}
	if p := document(t, in); sizes(p) != "a 10→8, b 5→5" || p.Actions[0].Reverse == nil {
		t.Errorf("%s", sizes(p))
	}
	in.Policy = builtIn(t, "paper", map[string]string{"scale_down": "0"})
	if p := document(t, in); sizes(p) != "a 10→10, b 5→5" {
		t.Errorf("switched off: %s", sizes(p))
	}
	// A hot key is not answered by more instances.
	in.Policy = builtIn(t, "paper", nil)
	in.Load[0].Caused = 0.5
	in.Findings.Diagnoses = []dhalion.Diagnosis{found(dhalion.DataSkew, dhalion.InstanceTarget(job, "a", 3), 1)}
	if p := document(t, in); sizes(p) != "a 10→10, b 5→5" || len(p.Actions) != 1 || p.Actions[0].Kind != dhalion.Alert {
		t.Errorf("%s, %v", sizes(p), p.Actions)
	}
	in.Load[0].Caused = nan
	in.Findings.Diagnoses = []dhalion.Diagnosis{found(dhalion.Underprovisioned, at("a"), 1)}
	if p := document(t, in); p.Sizing[0].Required != nil || len(p.Actions) != 0 || p.Sizing[0].Reason != "nobody reports how long it holds up what is above" {
		t.Errorf("%+v", p.Sizing[0])
	}
}

// span is what the autoscaler reads of a component: records in a second, busy share.
func span(component string, in, busy float64) features.Rates {
	return features.Rates{Component: component, Span: features.Span{In: in, InMean: in, Out: in, BusyMost: busy, BusyLeast: busy, BusyMean: busy, Lag: nan, LagRate: nan}}
}

func source(component string, in, busy, lag, growth float64) features.Rates {
	r := span(component, in, busy)
	r.Source, r.Span.Lag, r.Span.LagRate = true, lag, growth
	r.Span.Reads = []features.Read{{In: in, Lag: lag, Backpressured: nan}}
	return r
}

// bare are the parameters of the autoscaler's own unit tests.
func bare(more ...string) map[string]string {
	params := map[string]string{"utilization_boundary": "0", "catch_up": "0s", "alignment": "off", "scale_down_delay": "0s", "max_parallelism": "720"}
	for i := 0; i < len(more); i += 2 {
		params[more[i]] = more[i+1]
	}
	return params
}

func TestTheAutoscalersUnitCases(t *testing.T) {
	for _, c := range []struct {
		p           int
		target, tpr float64
		utilisation string
		up, down    string
		want        int
	}{
		{10, 50, 100, "1.0", "100000", "0.6", 5},
		{10, 80, 100, "0.8", "100000", "0.6", 10},
		{2, 100, 40, "0.5", "100000", "0.6", 10},
		{10, 10, 100, "1.0", "100000", "0.5", 5},
		{10, 200, 10, "1.0", "0.5", "0.6", 15},
	} {
		topology := chain(t, "s:1", fmt.Sprintf("op:%d", c.p))
		topology.Components[1].MaxParallelism = 720
		p := builtIn(t, "flink-autoscaler", bare("utilization_target", c.utilisation, "max_scale_up_factor", c.up, "max_scale_down_factor", c.down))
		in := min(c.target, c.tpr)
		plan := document(t, method(p, topology, source("s", in, nan, 0, c.target-in), span("op", in, in/c.tpr)))
		if got := plan.Sizing[1].To; got != c.want {
			t.Errorf("%+v: %d", c, got)
		}
	}
}

func TestTheAutoscalersRatesGoAlongTheEdges(t *testing.T) {
	// s puts out 300: a gets 200 of them, b 100; j joins a, which has another reader,
	// and b, which has none. So a→j is what j takes in without b's 100: 250 − 100 = 150
	// of a's 200, and t→j, too.
	topology := dhalion.Topology{From: asOf.Add(-24 * time.Hour)}
	for _, name := range []string{"s", "a", "b", "j", "k"} {
		topology.Components = append(topology.Components, dhalion.Component{Name: name, Parallelism: 1})
	}
	for _, e := range [][2]string{{"s", "a"}, {"s", "b"}, {"a", "j"}, {"b", "j"}, {"a", "k"}} {
		topology.Edges = append(topology.Edges, dhalion.Edge{From: e[0], To: e[1]})
	}
	p := builtIn(t, "flink-autoscaler", bare("catch_up", "10s", "restart", "0s"))
	plan := document(t, method(p, topology, source("s", 300, 0.5, 600, 30), span("a", 200, 0.5), span("b", 100, 0.5), span("j", 250, 0.5), span("k", 40, 0.5)))
	// TARGET 330, CATCHUP 60; a 2/3 of it, b 1/3. b→j: a has two readers, so all that b
	// puts out, 100. j: 220·150/200 + 110·100/100 = 275, 40·.75 + 20 = 50; k: 220·40/200.
	for name, want := range map[string][2]float64{"s": {330, 60}, "a": {220, 40}, "b": {110, 20}, "j": {275, 50}, "k": {44, 8}} {
		if got := [2]float64{figure(t, plan, name, "TARGET"), figure(t, plan, name, "CATCHUP")}; math.Abs(got[0]-want[0]) > 1e-9 || math.Abs(got[1]-want[1]) > 1e-9 {
			t.Errorf("%s has %v, want %v", name, got, want)
		}
	}
	// A component that takes in nothing hands nothing on, and could do anything.
	plan = document(t, method(p, topology, source("s", 300, 0.5, 0, 0), span("a", 0, 0), span("b", 300, 0.5), span("j", 300, 0.5), span("k", 0, 0)))
	if got := figure(t, plan, "k", "TARGET"); got != 0 {
		t.Errorf("k has a target of %v", got)
	}
	for _, f := range plan.Sizing[1].Figures {
		if f.Name == "TPR" {
			t.Errorf("an idle component has a true rate of %v", f.Value)
		}
	}
}

func TestTheAutoscalerObservesASourceThatIsBehind(t *testing.T) {
	a, err := autoscalerSettingsOf(builtIn(t, "flink-autoscaler", nil))
	if err != nil {
		t.Fatal(err)
	}
	read := func(in, lag, pressed float64) features.Read {
		return features.Read{In: in, Lag: lag, Backpressured: pressed}
	}
	for _, c := range []struct {
		reads []features.Read
		want  float64
	}{
		{[]features.Read{read(100, 3000, 0), read(100, 3000, 0.5)}, 150}, // (100 + 200)/2; 3000 is 30 s of 100
		{[]features.Read{read(100, 2999, 0), read(100, 3000, 0.5)}, nan}, // one observation is too few
		// Two observed, a quiet one that repeats their mean, one more: (100+200+150+300)/4.
		{[]features.Read{read(100, 1e6, 0), read(100, 1e6, 0.5), read(100, 0, 0), read(300, 1e6, 0)}, 187.5},
		{[]features.Read{read(100, 1e6, 1), read(100, 1e6, nan)}, nan},
		{[]features.Read{read(0, 0, 0), read(0, 0, 0)}, math.Inf(1)},
		{nil, nan},
	} {
		if got := a.observe(c.reads); got != c.want && !(math.IsNaN(got) && math.IsNaN(c.want)) {
			t.Errorf("%v: %v, want %v", c.reads, got, c.want)
		}
	}
	// By busy time it could do 1000, observed are 300: more than 15 % off, so 300.
	topology := chain(t, "s:1", "a:1")
	s := source("s", 300, 0.3, 1e6, 0)
	s.Span.Reads = []features.Read{read(300, 1e6, 0), read(300, 1e6, 0)}
	p := document(t, method(builtIn(t, "flink-autoscaler", bare()), topology, s, span("a", 300, 0.3)))
	if got := figure(t, p, "s", "TPR"); got != 300 {
		t.Errorf("TPR is %v", got)
	}
	// 1.15 · 300 = 345 is not above itself.
	s.Span.BusyMost = 300.0 / 345
	p = document(t, method(builtIn(t, "flink-autoscaler", bare()), topology, s, span("a", 300, 0.3)))
	if got := figure(t, p, "s", "TPR"); math.Abs(got-345) > 1e-9 {
		t.Errorf("TPR is %v", got)
	}
}

func TestTheAutoscalersBusyTimeIsOfOneInstanceOrAll(t *testing.T) {
	r := span("a", 90, 0)
	r.Span.InMean, r.Span.BusyMost, r.Span.BusyMean, r.Span.BusyLeast = 100, 0.8, 0.5, 0.25
	for aggregator, want := range map[string]float64{"max": 125, "min": 400, "avg": 180} { // avg: of counters, 90/0.5
		p := document(t, method(builtIn(t, "flink-autoscaler", bare("busy_aggregator", aggregator)), chain(t, "s:1", "a:1"), source("s", 90, 0.5, 0, 0), r))
		if got := figure(t, p, "a", "TPR"); got != want {
			t.Errorf("%s: %v, want %v", aggregator, got, want)
		}
	}
}

func TestTheAutoscalerActsOutsideOfItsBandOnly(t *testing.T) {
	topology := chain(t, "s:1", "a:10", "b:10")
	params := bare("utilization_boundary", "0.1", "utilization_target", "0.7")
	// a could do 100 and should do 75: 75/0.7 = 107, so 11 instances are wanted; but
	// only from 75/0.8 = 94 down, or 75/0.6 = 125 up, it is worth a restart.
	quiet := []features.Rates{source("s", 75, nan, 0, 0), span("a", 75, 0.75), span("b", 75, 0.7)}
	p := document(t, method(builtIn(t, "flink-autoscaler", params), topology, quiet...))
	if sizes(p) != "s 1→1, a 10→10, b 10→10" || p.Sizing[1].Reason != "11 wanted; but 100/s within 94/s and 125/s is near enough" {
		t.Errorf("%s, %q", sizes(p), p.Sizing[1].Reason)
	}
	// With b far off, a is set as well.
	loud := []features.Rates{source("s", 75, nan, 0, 0), span("a", 75, 0.75), span("b", 75, 0.3)}
	p = document(t, method(builtIn(t, "flink-autoscaler", params), topology, loud...))
	if sizes(p) != "s 1→1, a 10→11, b 10→5" { // 107/250·10 = 4.28
		t.Errorf("%s", sizes(p))
	}
	// Behind by more than five minutes of input nothing is too fast, and all are full
	// enough: no restart while it catches up.
	behind := slices.Clone(loud)
	behind[0] = source("s", 75, nan, 75*301, 0)
	p = document(t, method(builtIn(t, "flink-autoscaler", params), topology, behind...))
	if sizes(p) != "s 1→1, a 10→10, b 10→10" {
		t.Errorf("%s", sizes(p))
	}
	behind[0] = source("s", 75, nan, 75*299, 0)
	if p = document(t, method(builtIn(t, "flink-autoscaler", params), topology, behind...)); sizes(p) != "s 1→1, a 10→11, b 10→5" {
		t.Errorf("%s", sizes(p))
	}
	// A restart's backlog counts for the upper edge: 75 + 75·300/1800 + 75/0.7.
	p = document(t, method(builtIn(t, "flink-autoscaler", bare("catch_up", "30m")), topology, quiet...))
	if got := figure(t, p, "a", "capacity"); got != math.Floor(75*300.0/1800+75/0.7+0.5) {
		t.Errorf("capacity %v", got)
	}
}

func TestTheAutoscalerAlignsToKeyGroups(t *testing.T) {
	a := autoscalerSettings{alignment: alignOn, least: 1, most: 200}
	even := a
	even.alignment = alignEven
	for _, c := range []struct {
		now, want, n, upper int
		on, even            int
	}{
		{8, 15, 128, 128, 16, 16},  // 128/15 = 8, 128/16 = 8: the first that divides
		{10, 33, 128, 128, 43, 64}, // 128/33 = 3 groups; 43 is the first with 2
		{10, 70, 128, 128, 128, 128},
		{10, 70, 128, 100, 64, 64}, // none up to 100: back to where an instance has one group more
		{10, 100, 128, 110, 64, 64},
		{60, 70, 128, 100, 64, 64},
		{64, 70, 128, 100, 64, 64}, // 64 is no growth: it stays
		{20, 12, 128, 128, 13, 16}, // 10 groups; 13 is the first with 9
		{13, 11, 128, 128, 12, 11}, // even: nothing from 11 to 13 divides 128, so it stays
		{10, 10, 128, 128, 10, 10},
	} {
		if got := a.align(c.now, c.want, c.n, c.upper); got != c.on {
			t.Errorf("%+v: %d", c, got)
		}
		if got := even.align(c.now, c.want, c.n, c.upper); got != c.even {
			t.Errorf("%+v, even: %d", c, got)
		}
	}
	// Only what is dealt out by key is aligned.
	topology := chain(t, "s:1", "a:8", "b:8")
	topology.Edges[1].Ship = "hash"
	topology.Components[1].MaxParallelism, topology.Components[2].MaxParallelism = 128, 128
	params := bare("alignment", "on", "utilization_target", "1")
	p := document(t, method(builtIn(t, "flink-autoscaler", params), topology, source("s", 80, nan, 0, 0.5), span("a", 80, 1.0/1.76), span("b", 80, 1)))
	// b: 81/80 · 8 = 8.1, so 9 with 14 groups at most; 10 is the first with fewer.
	if got := sizes(p); got != "s 1→1, a 8→5, b 8→10" {
		t.Errorf("%s", got)
	}
}

func TestTheAutoscalerShrinksOnlyAfterItsDelayAndToTheMostOfIt(t *testing.T) {
	topology := chain(t, "s:1", "a:10")
	rates := func(busy float64) []features.Rates {
		return []features.Rates{source("s", 100, nan, 0, 0), span("a", 100, busy)}
	}
	params := bare("scale_down_delay", "3m", "utilization_target", "1")
	in := method(builtIn(t, "flink-autoscaler", params), topology, rates(0.5)...) // wants 5
	for _, c := range []struct {
		busy []float64 // 3, 2 and 1 min before
		to   int
		note string
	}{
		{[]float64{0.5, 0.5, 0.5}, 5, ""},
		{[]float64{0.5, 0.72, 0.5}, 8, ""},                  // 7.2 was wanted once
		{[]float64{0.72, 0.5, 0.5}, 8, ""},                  // at the very beginning, too
		{[]float64{0.5, 1, 0.5}, 10, "5 wanted, for 1 min"}, // all ten were needed in between
		{[]float64{1, 0.5, 0.5}, 10, "5 wanted, for 2 min"},
		{[]float64{nan, 0.5, 0.5}, 10, "5 wanted, for 2 min"},
		{[]float64{0.5, nan, 0.5}, 5, ""}, // a moment without figures takes nothing back
	} {
		in.Earlier = nil
		for i, busy := range c.busy {
			in.Earlier = append(in.Earlier, EarlierRates{At: asOf.Add(time.Duration(i-3) * time.Minute), Rates: rates(busy)})
		}
		slices.Reverse(in.Earlier)
		p := document(t, in)
		if row := p.Sizing[1]; row.To != c.to || !strings.HasPrefix(row.Reason, c.note) {
			t.Errorf("%v: %d, %q; want %d, %q", c.busy, row.To, row.Reason, c.to, c.note)
		}
	}
	in.Earlier = nil
	if p := document(t, in); sizes(p) != "s 1→1, a 10→10" {
		t.Errorf("without a history: %s", sizes(p))
	}
}

func TestTheAutoscalerWarnsThatItWouldNotDecideYet(t *testing.T) {
	topology := chain(t, "s:1", "a:10")
	for ago, warns := range map[time.Duration]bool{19 * time.Minute: true, 20 * time.Minute: false} {
		topology.From = asOf.Add(-ago)
		p := document(t, method(builtIn(t, "flink-autoscaler", nil), topology, source("s", 100, nan, 0, 0), span("a", 100, 0.5)))
		if got := slices.ContainsFunc(p.Warnings, func(w dhalion.Warning) bool { return w.Code == WarnWaits }); got != warns {
			t.Errorf("%s after a change: warns %v", ago, got)
		}
	}
}
