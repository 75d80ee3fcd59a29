package dhalion

import (
	"encoding/json"
	"math"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func anyTarget(t *rapid.T) Target {
	name := rapid.StringMatching(`[a-z :\[\]"é]{1,12}`)
	switch rapid.SampledFrom(TargetKinds).Draw(t, "kind") {
	case KindComponent:
		return ComponentTarget("file/j", name.Draw(t, "component"))
	case KindInstance:
		return InstanceTarget("file/j", name.Draw(t, "component"), rapid.IntRange(0, 1000).Draw(t, "instance"))
	case KindWorker:
		return WorkerTarget("file/j", name.Draw(t, "worker"))
	default:
		return JobTarget("file/j")
	}
}

func TestATargetIsItselfAfterJSONAndSortsAgainstItselfAsEqual(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := anyTarget(t), anyTarget(t)
		data, err := json.Marshal(a)
		if err != nil {
			t.Fatal(err)
		}
		var back Target
		if err := json.Unmarshal(data, &back); err != nil || back != a {
			t.Fatalf("%s became %+v, %v", data, back, err)
		}
		if (a.Compare(b) == 0) != (a == b) || a.Compare(b) != -b.Compare(a) {
			t.Fatalf("%v and %v compare as %d and %d", a, b, a.Compare(b), b.Compare(a))
		}
	})
}

func TestATargetLeavesOutThePartsThatItsKindDoesNotHave(t *testing.T) {
	for want, target := range map[string]Target{
		`{"kind":"job","job":"file/j"}`:                                   JobTarget("file/j"),
		`{"kind":"component","job":"file/j","component":"c"}`:             ComponentTarget("file/j", "c"),
		`{"kind":"instance","job":"file/j","component":"c","instance":0}`: InstanceTarget("file/j", "c", 0),
		`{"kind":"worker","job":"file/j","worker":"w"}`:                   WorkerTarget("file/j", "w"),
	} {
		if data, err := json.Marshal(target); err != nil || string(data) != want {
			t.Errorf("%s, %v, want %s", data, err, want)
		}
	}
	for _, broken := range []string{
		`{"kind":"node"}`, `{"kind":"instance","job":"j","component":"c"}`, `{"kind":"component","job":"j","component":"c","instance":1}`,
		`{"kind":"worker","job":"j"}`, `{"kind":"job","job":"j","worker":"w"}`, `{"kind":"instance","job":"j","component":"c","instance":-1}`,
	} {
		var target Target
		if err := json.Unmarshal([]byte(broken), &target); err == nil {
			t.Errorf("%s was taken as %+v", broken, target)
		}
	}
}

func TestAnUnknownEvidenceValueIsNull(t *testing.T) {
	data, err := json.Marshal(Evidence{Name: "e", Weight: 1, Value: math.NaN()})
	if err != nil || string(data) != `{"name":"e","weight":1,"value":null}` {
		t.Errorf("%s, %v", data, err)
	}
	var back Evidence
	if err := json.Unmarshal(data, &back); err != nil || !math.IsNaN(back.Value) {
		t.Errorf("%+v, %v", back, err)
	}
}

func TestASettingIsANumberATextOrNothing(t *testing.T) {
	for text, want := range map[string]Setting{`8`: NumberSetting(8), `"tm-1"`: TextSetting("tm-1"), `null`: {}} {
		var s Setting
		if err := json.Unmarshal([]byte(text), &s); err != nil || s != want {
			t.Errorf("%s became %v, %v", text, s, err)
		}
		if data, err := json.Marshal(want); err != nil || string(data) != text {
			t.Errorf("%v became %s, %v", want, data, err)
		}
	}
	var s Setting
	if err := json.Unmarshal([]byte(`[1]`), &s); err == nil {
		t.Error("a list was taken")
	}
}

func diamond() Topology {
	return Topology{
		Components: []Component{{Name: "join", Parallelism: 3}, {Name: "a", Parallelism: 1}, {Name: "left", Parallelism: 2}, {Name: "right", Parallelism: 2, MaxParallelism: 128}},
		Edges:      []Edge{{From: "right", To: "join"}, {From: "a", To: "left"}, {From: "left", To: "join"}, {From: "a", To: "right", Ship: "hash"}},
		Placement:  []Placement{{Component: "join", Instance: 1, Worker: "w2"}, {Component: "join", Instance: 0, Worker: "w1"}},
	}
}

func TestATopologyRunsFromItsSourcesDown(t *testing.T) {
	top := diamond()
	if got := strings.Join(top.Order(), " "); got != "a left right join" {
		t.Errorf("order %q", got)
	}
	if !top.IsSource("a") || top.IsSource("left") || !top.IsSink("join") || top.IsSink("a") {
		t.Error("sources or sinks are wrong")
	}
	if got := top.Upstream("join"); !slices.Equal(got, []string{"left", "right"}) {
		t.Errorf("upstream of join %v", got)
	}
	if top.Instances() != 8 || top.WorkerOf("join", 1) != "w2" || top.WorkerOf("join", 2) != "" {
		t.Error("instances or workers are wrong")
	}
}

func TestATopologysDigestIsBlindToOrderTimeAndRun(t *testing.T) {
	a, b := diamond(), diamond()
	slices.Reverse(b.Components)
	slices.Reverse(b.Edges)
	slices.Reverse(b.Placement)
	b.From, b.Run, b.By = time.Unix(1, 0), "run", ChangeOperator
	before := b.Components[0].Name
	if a.Digest() != b.Digest() || !a.SameShape(b) {
		t.Error("equal topologies have two digests or shapes")
	}
	if b.Components[0].Name != before {
		t.Error("the digest sorted its topology in place")
	}
	b.Components[0].Parallelism++
	if a.Digest() == b.Digest() || a.SameShape(b) {
		t.Error("another parallelism is not seen")
	}
	c := diamond()
	c.Placement[0].Worker = "w9"
	if a.Digest() == c.Digest() || !a.SameShape(c) {
		t.Error("placement is part of the digest and not of the shape")
	}
}

func TestWhatIsWrongWithATopologyIsSaid(t *testing.T) {
	for want, change := range map[string]func(*Topology){
		"has no name":        func(t *Topology) { t.Components[0].Name = "" },
		"is listed twice":    func(t *Topology) { t.Components[0].Name = "a" },
		"is below 1":         func(t *Topology) { t.Components[0].Parallelism = 0 },
		"maximum":            func(t *Topology) { t.Components[3].MaxParallelism = 1 },
		"no component":       func(t *Topology) { t.Edges[0].To = "nowhere" },
		"no such component":  func(t *Topology) { t.Placement[0].Component = "nowhere" },
		"it has 3 instances": func(t *Topology) { t.Placement[0].Instance = 3 },
		"form a cycle":       func(t *Topology) { t.Edges = append(t.Edges, Edge{From: "join", To: "left"}) },
	} {
		top := diamond()
		change(&top)
		if err := top.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	if err := diamond().Validate(); err != nil {
		t.Error(err)
	}
}

func TestTheCataloguesAreSortedAndComplete(t *testing.T) {
	if !sort.SliceIsSorted(Causes, func(i, j int) bool { return Causes[i] < Causes[j] }) {
		t.Error("causes are not sorted")
	}
	if !sort.SliceIsSorted(Metrics, func(i, j int) bool { return Metrics[i].Name < Metrics[j].Name }) {
		t.Error("metrics are not sorted")
	}
	for _, m := range Metrics {
		if m.Unit == "" || m.Help == "" || !m.Name.Valid() {
			t.Errorf("%s has no unit or help", m.Name)
		}
	}
	if Metric("speed").Valid() || Cause("bad_luck").Valid() || ActionKind("reboot").Valid() {
		t.Error("a name that does not exist is valid")
	}
}

func TestAJobsIdIsEngineAndName(t *testing.T) {
	id := NewJobID("prod", "a/b")
	if id.Engine() != "prod" || id.Name() != "a/b" {
		t.Errorf("%q is %q and %q", id, id.Engine(), id.Name())
	}
	if bare := JobID("name"); bare.Engine() != "" || bare.Name() != "name" {
		t.Errorf("%q is %q and %q", bare, bare.Engine(), bare.Name())
	}
}

func TestAWindowIsOpenAtItsStartAndClosedAtItsEnd(t *testing.T) {
	w := Window{Start: time.Unix(10, 0), End: time.Unix(20, 0)}
	for second, want := range map[int64]bool{10: false, 11: true, 20: true, 21: false} {
		if w.Contains(time.Unix(second, 0)) != want {
			t.Errorf("second %d: %v", second, !want)
		}
	}
}
