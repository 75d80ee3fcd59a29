package policy

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	dhalion "github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/features"
)

// known is a catalogue of a few features, so that these tests do not depend on
// what features there really are.
func known(kind dhalion.TargetKind, f string) bool {
	switch f {
	case "busy_fraction", "max(busy_fraction)", "peer_ratio(busy_fraction)", "slow_factor":
		return kind == dhalion.KindInstance
	case "load_ratio":
		return kind == dhalion.KindComponent
	}
	return false
}

func scopeFor() scope {
	return scope{
		kind: dhalion.KindInstance, known: known, names: []string{"limit"}, symptoms: []string{"hot"}, elsewhere: []string{"queue"}, diagnoses: true,
		parameters: func(n string) bool { return n == "limit" },
	}
}

// chained nests comparison chains, whose middle operand the parser shares.
func chained(n int) string {
	text := "1"
	for range n {
		text = "(1 < " + text + " < 2 ? 1 : 1)"
	}
	return text + " > 0"
}

// env knows busy_fraction 0.9, max(busy_fraction) 1, slow_factor unknown, the
// parameter limit 0.8, and that hot is seen with score 1.5.
var env = Env{
	Feature: func(f string) float64 {
		switch f {
		case "busy_fraction":
			return 0.9
		case "max(busy_fraction)":
			return 1
		}
		return math.NaN()
	},
	Symptom:   func(string) (bool, bool) { return true, true },
	Score:     func(string) float64 { return 1.5 },
	Diagnosis: func(dhalion.Cause) float64 { return 0.25 },
	Parameter: func(string) (float64, bool) { return 0.8, true },
}

func TestAnUnknownIsNeitherTrueNorFalse(t *testing.T) {
	const (
		no, yes, dunno = 0, 1, 2
	)
	for text, want := range map[string]int{
		"busy_fraction > limit":                           yes,
		"busy_fraction > 0.95":                            no,
		"max(busy_fraction) == 1":                         yes,
		"slow_factor > 1":                                 dunno,
		"!(slow_factor > 1)":                              dunno,
		"busy_fraction > 0.95 && slow_factor > 1":         no,
		"slow_factor > 1 && busy_fraction > 0.95":         no,
		"busy_fraction > limit && slow_factor > 1":        dunno,
		"busy_fraction > limit || slow_factor > 1":        yes,
		"slow_factor > 1 || busy_fraction > limit":        yes,
		"busy_fraction > 0.95 || slow_factor > 1":         dunno,
		"unknown(slow_factor)":                            yes,
		"known(slow_factor)":                              no,
		"ifknown(slow_factor, 1) == 1":                    yes,
		"busy_fraction > limit ? true : slow_factor > 1":  yes,
		"slow_factor > 1 ? true : true":                   dunno,
		"1 / 0 > 1":                                       dunno,
		"symptom('hot') && score('hot') > 1":              yes,
		"diagnosis('slow_worker') < 0.5":                  yes,
		"peer_ratio(busy_fraction) > 2":                   dunno,
		"parameter('limit') == limit":                     yes,
		"min(1, 2, busy_fraction) == busy_fraction":       yes,
		"clamp(5, 0, 2) == 2 && ceil(1.2) == 2":           yes,
		"exp(1000) > 5":                                   dunno,
		"1 > busy_fraction > 0.05":                        yes,
		"not (busy_fraction > limit) or 2 * 3 - 1 == 5.0": yes,
	} {
		e, err := compile(text, scopeFor())
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		value, isKnown, err := e.Bool(env)
		got := no
		switch {
		case err != nil:
			t.Errorf("%s: %v", text, err)
		case !isKnown:
			got = dunno
		case value:
			got = yes
		}
		if got != want {
			t.Errorf("%s is %d, want %d", text, got, want)
		}
	}
}

// An expression about an instance can ask for features and symptoms of its
// component; what is unknown there is unknown here.
func TestAnInstanceCanAskOfItsComponent(t *testing.T) {
	of := scope{kind: dhalion.KindComponent, known: known, symptoms: []string{"queue"}, elsewhere: []string{"hot"}, parameters: func(string) bool { return false }}
	sc := scopeFor()
	sc.component = &of
	inComponent := func(held, knows bool) Env {
		e := env
		e.Component = &Env{
			Feature: func(f string) float64 {
				if f == "load_ratio" {
					return 1.25
				}
				return math.NaN()
			},
			Symptom: func(string) (bool, bool) { return held, knows },
			Score:   func(string) float64 { return 3 },
		}
		return e
	}
	for _, c := range []struct {
		text        string
		env         Env
		want, known bool
	}{
		{"component.load_ratio > 1.2 && busy_fraction < component.load_ratio", inComponent(true, true), true, true},
		{"component.symptom('queue') && component.score('queue') == 3", inComponent(true, true), true, true},
		{"component.symptom('queue')", inComponent(false, true), false, true},
		{"component.symptom('queue')", inComponent(false, false), false, false},
		{"component.symptom('queue') && busy_fraction > 0.95", inComponent(false, false), false, true},
		{"component.symptom('queue') || busy_fraction > 0.5", inComponent(false, false), true, true},
		{"component.load_ratio > 1", env, false, false}, // no component
		{"unknown(component.load_ratio)", env, true, true},
	} {
		e, err := compile(c.text, sc)
		if err != nil {
			t.Errorf("%s: %v", c.text, err)
			continue
		}
		if got, isKnown, err := e.Bool(c.env); err != nil || got != c.want || isKnown != c.known {
			t.Errorf("%s is %v, known %v (%v), want %v and %v", c.text, got, isKnown, err, c.want, c.known)
		}
	}
	e, err := compile("component.symptom('queue') && symptom('hot') && component.load_ratio > busy_fraction", sc)
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(e.Features(), e.Symptoms()); got != "[component.load_ratio busy_fraction] [component.queue hot]" {
		t.Errorf("it names %s", got)
	}
	for text, want := range map[string]string{
		"component.load_ration > 1":            "load_ration is no feature of a component; did you mean load_ratio?",
		"component.busy_fraction > 1":          "busy_fraction is no feature of a component",
		"component.most(load_ratio) > 1":       "component.most(…) is no feature of a component",
		"component.symptom('hot')":             "looks at targets of another kind than component",
		"component.symptom('queueing')":        "no detector is named queueing",
		"component.diagnosis('data_skew') > 0": "is no feature of a component",
		"component.symptom('queue') > 1":       "needs two numbers",
		"component.load_ratio() > 1":           "is no feature of a component",
		"component?.load_ratio > 1":            "not part of the policy language",
		"component['load_ratio'] > 1":          "",
		"component.symptom.load_ratio > 1":     "not part of the policy language",
		"worker.load_ratio > 1":                "not part of the policy language",
		"component > 1":                        "component is neither a feature",
	} {
		_, err := compile(text, sc)
		if want == "" {
			if err != nil {
				t.Errorf("%s: %v", text, err)
			}
		} else if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
	sc.component, sc.kind = nil, dhalion.KindWorker
	if _, err := compile("component.load_ratio > 1", sc); err == nil || !strings.Contains(err.Error(), "not about a worker") {
		t.Error(err)
	}
}

func TestGradedEvidenceIsZeroAtTheLimitAndKeepsItsOrder(t *testing.T) {
	if graded(1.5, 1.5, 16) != 0 {
		t.Error("not 0 at the limit")
	}
	// 16·ln(2) = 11.09; 11.09/(1+11.09/7) = 4.2914.
	if got := graded(2, 1, 16); math.Abs(got-4.2914) > 1e-4 {
		t.Errorf("graded(2, 1, 16) is %v, want 4.2914", got)
	}
	rapid.Check(t, func(t *rapid.T) {
		a := rapid.Float64Range(0.01, 1000).Draw(t, "a")
		b := rapid.Float64Range(0.01, 1000).Draw(t, "b")
		if a < b && graded(a, 1, 16) > graded(b, 1, 16) || graded(b, 1, 16) > gradedMost || graded(b, 1, 16) < -gradedMost {
			t.Fatalf("graded(%v) = %v, graded(%v) = %v", a, graded(a, 1, 16), b, graded(b, 1, 16))
		}
	})
}

func TestWhatIsWrongWithAnExpressionIsSaid(t *testing.T) {
	for text, want := range map[string]string{
		"bussy_fraction > 1":             "bussy_fraction is neither a feature of a target of kind instance nor a parameter",
		"load_ratio > 1":                 "load_ratio is neither",
		"limitt > 1":                     "did you mean limit?",
		"busy_fraction":                  "",
		"busy_fraction + true > 1":       "needs two numbers",
		"busy_fraction && true":          "a condition is needed here",
		"symptom('hott')":                "no detector is named hott; did you mean hot?",
		"diagnosis('slow_wroker') > 1":   "slow_wroker is no cause; did you mean slow_worker?",
		"logg(2) > 1":                    "did you mean log?",
		"log(2, 3) > 1":                  "log takes 1 argument, not 2",
		"min(1) > 1":                     "min takes at least 2 arguments, not 1",
		"upper(1) == 1":                  "is neither a feature of a target of kind instance nor a function",
		"'a' == 'b'":                     "this is not part of the policy language",
		"busy_fraction >":                "unexpected token",
		"busy_fractoin > 1":              "did you mean busy_fraction?",
		"true // && slow_factor > 1":     "a comment inside an expression",
		"symptom('queue')":               "looks at targets of another kind",
		chained(20):                      "more than 2000 parts",
		strings.Repeat("(", 100):         "nested deeper",
		strings.Repeat("1+", 3000) + "1": "more than 4096",
	} {
		_, err := compile(text, scopeFor())
		if want == "" {
			if err != nil {
				t.Errorf("%s: %v", text, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40s: %v, want %q", text, err, want)
		}
	}
}

const base = `name: base
parameters: {limit: 0.8, patience: 120s, note: hello}
priors: {slow_instance: -3}
detectors:
  - {name: hot, target: instance, when: busy_fraction > limit, hold: 10s}
rules:
  - {name: slow, cause: slow_instance, target: instance, when: "slow_factor > 1.5", evidence: 2}
limits: {max_parallelism: 24}
`

func load(t testing.TB, files map[string]string, name string, params map[string]string) (*Policy, error) {
	t.Helper()
	return Load(name, func(path string) ([]byte, error) {
		if text, ok := files[path]; ok {
			return []byte(text), nil
		}
		return nil, os.ErrNotExist
	}, known, params)
}

func TestWhatIsWrongWithAFileIsSaidWithItsLine(t *testing.T) {
	for _, c := range []struct{ replace, with, want string }{
		{"hold: 10s", "hold: soon", "p.yaml:5: hold \"soon\" is no duration"},
		{"target: instance, when: busy_fraction > limit", "target: instants, when: busy_fraction > limit", "p.yaml:5: target \"instants\" is none of"},
		{"busy_fraction > limit", "busy_fraktion > limit", "p.yaml:5:41: busy_fraktion is neither"},
		{"slow_factor > 1.5", "slow_factor", "p.yaml:7: \"slow_factor\" is a number, and a condition is needed"},
		{"evidence: 2", "evidence: true", "p.yaml:7: \"true\" is a condition, and a number is needed"},
		{"cause: slow_instance", "cause: slow_instanse", "p.yaml:7: rule slow: there is no cause \"slow_instanse\"; did you mean slow_instance?"},
		{"limits: {max_parallelism", "limits: {max_paralelism", "p.yaml:8: there is no key max_paralelism here; did you mean max_parallelism?"},
		{"max_parallelism: 24", "max_parallelism: many", "p.yaml:8: \"many\" is not of the kind"},
		{"max_parallelism: 24", "quiet_hours: nightly", "quiet hours \"nightly\" are not like"},
		{"max_parallelism: 24", "quiet_hours: 22:00-06:00 Mars/Olympus", "no time zone \"Mars/Olympus\""},
		{"max_parallelism: 24", "actions: [set_paralelism]", "did you mean set_parallelism?"},
		{"name: base", "extends: other.yaml\nname: base", "policy: read other.yaml"},
		{"name: base", "extends: defualt\nname: base", "did you mean default?"},
		{"name: base\n", "", "p.yaml:1: the policy has no name"},
		{"max_parallelism: 24", "quiet_hours: 22:00-22:00", "p.yaml:8: quiet hours"},
		{"target: instance, when: \"slow", "target: job, when: \"slow", "p.yaml:7: rule slow: slow_instance is not judged at a target of kind job"},
		{"rules:", "rules:\n  - {name: slow, cause: slow_instance, evidence: 1}", "p.yaml:8: rule slow is there twice"},
		{"rules:", "rules:\n  - {name: gone, disable: true}", "p.yaml:7: there is no rule gone to disable"},
		{"parameters: {limit: 0.8", "parameters: {busy_fraction: 0.8", "p.yaml:2: parameter busy_fraction has the name of a feature"},
		{"limits:", "decisions: maybe\nlimits:", "p.yaml:8: decisions \"maybe\" are neither graded nor binary"},
		{"limits:", "decision: binary\nlimits:", "did you mean decisions?"},
		{"busy_fraction > limit", "component.symptom('hot')", "p.yaml:5:51: no detector is named hot"}, // a symptom is made of no other
		{"slow_factor > 1.5", "component.symptom('hot')", "looks at targets of another kind than component"},
		{"limits:", "minimum: {polls: -3}\nlimits:", "p.yaml:8: minimum polls -3 is negative"},
		{"limits:", "objective: {kind: throughput-slo}\nlimits:", "p.yaml:8: objective throughput-slo needs"},
		{"limits:", "approve: {auto_if: probability > nonsense}\nlimits:", "p.yaml:8: auto_if"},
		{"limits:", "outcome: {unmet: revert}\nlimits:", "p.yaml:8: unmet is keep or reverse, not \"revert\""},
		{"limits:", "outcome: {met: keep}\nlimits:", "met"},
		{"name: base", "name: base\nname: twice", "already defined"},
		{"limits:", " limits:", "p.yaml:8: did not find expected key"},
		{"max_parallelism: 24}", "max_parallelism: *most}", "p.yaml:8: unknown anchor 'most'"},
	} {
		text := strings.Replace(base, c.replace, c.with, 1)
		if _, err := load(t, map[string]string{"p.yaml": text}, "p.yaml", nil); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.with, err, c.want)
		}
	}
}

func TestAPolicyThatExtendsMergesByKeyAndName(t *testing.T) {
	files := map[string]string{"base.yaml": base, "sub/mine.yaml": `extends: ../base.yaml
name: mine
parameters: {limit: 0.7}
detectors:
  - {name: hot, target: instance, when: busy_fraction > 0.99, hold: 20s}
  - {name: mine, target: component, when: load_ratio > 1}
rules:
  - {name: slow, disable: true}
limits: {min_parallelism: 2}
`}
	p, err := load(t, files, "sub/mine.yaml", nil)
	if err != nil {
		t.Fatal(err)
	}
	if v, _ := p.Number("limit"); v != 0.7 || p.Name != "mine" {
		t.Errorf("%s has limit %v", p.Name, v)
	}
	if len(p.Detectors) != 2 || p.Detectors[0].Hold != 20*time.Second || p.Detectors[0].File != "sub/mine.yaml" || p.Detectors[0].Line != 5 {
		t.Errorf("detectors %+v", p.Detectors)
	}
	if len(p.Rules) != 0 || p.Limits.MaxParallelism != 24 || p.Limits.MinParallelism != 2 {
		t.Errorf("rules %v, limits %+v", p.Rules, p.Limits)
	}
}

func TestPoliciesThatExtendOneAnotherAreRefused(t *testing.T) {
	files := map[string]string{"a.yaml": "extends: b.yaml\nname: a\n", "b.yaml": "extends: a.yaml\nname: b\n"}
	if _, err := load(t, files, "a.yaml", nil); err == nil || !strings.Contains(err.Error(), "extends itself") {
		t.Error(err)
	}
}

func TestParametersAreOverriddenInTheirKindAndAreInTheDigest(t *testing.T) {
	files := map[string]string{"p.yaml": base}
	plain, err := load(t, files, "p.yaml", nil)
	if err != nil {
		t.Fatal(err)
	}
	changed, err := load(t, files, "p.yaml", map[string]string{"limit": "0.5", "patience": "90s"})
	if err != nil {
		t.Fatal(err)
	}
	if d, _ := changed.Parameters.Duration("patience"); d != 90*time.Second {
		t.Errorf("patience %v", d)
	}
	if plain.Digest == changed.Digest {
		t.Error("the digest is blind to parameters")
	}
	for key, value := range map[string]string{"limt": "1", "limit": "10s", "patience": "12"} {
		if _, err := load(t, files, "p.yaml", map[string]string{key: value}); err == nil {
			t.Errorf("%s=%s was taken", key, value)
		} else if key == "limt" && !strings.Contains(err.Error(), "did you mean limit?") {
			t.Error(err)
		}
	}
}

func TestAParameterThatNeedNotBeWrittenCanBeSetAndLeavesTheDigestAloneUntilThen(t *testing.T) {
	files := map[string]string{"p.yaml": base}
	plain, err := load(t, files, "p.yaml", nil)
	if err != nil {
		t.Fatal(err)
	}
	if d, ok := plain.Parameters.Duration("outcome_half_life"); !ok || d != 720*time.Hour || strings.Contains(string(plain.YAML()), "outcome_half_life") {
		t.Errorf("%v, %v, written in\n%s", d, ok, plain.YAML())
	}
	set, err := load(t, files, "p.yaml", map[string]string{"outcome_half_life": "24h"})
	if err != nil {
		t.Fatal(err)
	}
	if d, _ := set.Parameters.Duration("outcome_half_life"); d != 24*time.Hour || set.Digest == plain.Digest || len(set.Lint()) != len(plain.Lint()) {
		t.Errorf("%v, warnings %v", d, set.Lint())
	}
	if _, err := load(t, files, "p.yaml", map[string]string{"outcome_half_life": "30"}); err == nil {
		t.Error("a duration without a unit was taken")
	}
	for _, name := range Builtins() {
		source, _ := Source(name)
		for key := range unwritten {
			if strings.Contains(string(source), "\n  "+key+":") {
				t.Errorf("%s is written in %s", key, name)
			}
		}
	}
}

func TestTheDigestIsBlindToLayoutOrderAndComments(t *testing.T) {
	other := `# the same, otherwise written
limits:
  max_parallelism: 24
rules:
  - evidence: 2
    when: slow_factor > 1.5
    target: instance
    cause: slow_instance
    name: slow
detectors: [{hold: 10000ms, when: "busy_fraction > limit", target: instance, name: hot}]
priors: {slow_instance: -3.0}
parameters: {note: hello, patience: 2m, limit: 0.80}
name: base
`
	a, err := load(t, map[string]string{"p.yaml": base}, "p.yaml", nil)
	if err != nil {
		t.Fatal(err)
	}
	b, err := load(t, map[string]string{"q.yaml": other}, "q.yaml", nil)
	if err != nil {
		t.Fatal(err)
	}
	if a.Digest != b.Digest {
		t.Errorf("digests differ:\n%s\n%s", a.YAML(), b.YAML())
	}
}

func TestThePolicyInEffectLoadsAsItself(t *testing.T) {
	all := features.Known
	for _, name := range Builtins() {
		p, err := Load(name, nil, all, nil)
		if err != nil {
			t.Fatal(err)
		}
		q, err := Load("again.yaml", func(string) ([]byte, error) { return p.YAML(), nil }, all, nil)
		if err != nil {
			t.Fatalf("%v in\n%s", err, p.YAML())
		}
		if p.Digest != q.Digest {
			t.Errorf("%s is not itself when written and read again", name)
		}
		if w := p.Lint(); len(w) > 0 {
			t.Errorf("%s: %v", name, w)
		}
	}
}

func TestDecisionsAreGradedUnlessThePolicySaysOtherwise(t *testing.T) {
	plain, err := load(t, map[string]string{"p.yaml": base}, "p.yaml", nil)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{"p.yaml": base + "decisions: graded\n", "q.yaml": base + "decisions: binary\n", "r.yaml": "extends: q.yaml\nname: r\n"}
	for name, want := range map[string]Decisions{"p.yaml": DecideGraded, "q.yaml": DecideBinary, "r.yaml": DecideBinary} {
		p, err := load(t, files, name, nil)
		if err != nil {
			t.Fatal(err)
		}
		if p.Decisions != want || name == "p.yaml" && p.Digest != plain.Digest || name == "q.yaml" && p.Digest == plain.Digest {
			t.Errorf("%s: decisions %s, digest %.8s beside %.8s", name, p.Decisions, p.Digest, plain.Digest)
		}
	}
}

func TestWhatIsUnmetIsKeptUnlessThePolicySaysOtherwise(t *testing.T) {
	plain, err := load(t, map[string]string{"p.yaml": base}, "p.yaml", nil)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{"p.yaml": base + "outcome: {unmet: keep}\n", "q.yaml": base + "outcome: {unmet: reverse}\n",
		"r.yaml": "extends: q.yaml\nname: r\n", "s.yaml": "extends: q.yaml\noutcome: {unmet: keep}\n"}
	for name, want := range map[string]bool{"p.yaml": false, "q.yaml": true, "r.yaml": true, "s.yaml": false} {
		p, err := load(t, files, name, nil)
		if err != nil {
			t.Fatal(err)
		}
		again, err := load(t, map[string]string{"again.yaml": string(p.YAML())}, "again.yaml", nil)
		if err != nil || again.Outcome != p.Outcome || p.Outcome.ReverseUnmet != want {
			t.Errorf("%s: %+v, written and read again %+v, %v", name, p.Outcome, again, err)
		}
		if same := p.Digest == plain.Digest; name == "p.yaml" && !same || name == "q.yaml" && same {
			t.Errorf("%s: digest %.8s beside %.8s", name, p.Digest, plain.Digest)
		}
	}
}

func TestQuietHoursCrossMidnightByTheirOwnClock(t *testing.T) {
	q, err := parseQuietHours("22:00-06:00 Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	// Berlin is one hour ahead of UTC in November.
	for at, want := range map[string]bool{
		"2026-11-22T20:59:59Z": false, "2026-11-22T21:00:00Z": true, "2026-11-22T23:30:00Z": true,
		"2026-11-23T04:59:59Z": true, "2026-11-23T05:00:00Z": false, "2026-11-22T12:00:00Z": false,
	} {
		moment, _ := time.Parse(time.RFC3339, at)
		if q.Quiet(moment) != want {
			t.Errorf("%s: quiet is %v", at, !want)
		}
	}
	if (QuietHours{}).Quiet(time.Time{}) {
		t.Error("no quiet hours are quiet")
	}
}

func FuzzLoad(f *testing.F) {
	f.Add([]byte(base))
	source, _ := Source("default")
	f.Add(source)
	files, _ := filepath.Glob("builtin/*.yaml")
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	all := features.Known
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := Load("f.yaml", func(string) ([]byte, error) { return data, nil }, all, nil)
		if err != nil {
			return
		}
		for _, r := range p.Rules {
			if v, ok, _ := r.Evidence.Number(env); ok && (math.IsNaN(v) || math.IsInf(v, 0)) {
				t.Fatalf("evidence %s is %v and said to be known", r.Evidence, v)
			}
		}
		q, err := Load("g.yaml", func(string) ([]byte, error) { return p.YAML(), nil }, all, nil)
		if err != nil {
			t.Fatalf("the policy in effect does not load: %v\n%s", err, p.YAML())
		}
		if p.Digest != q.Digest {
			t.Fatalf("the policy in effect is another:\n%s\n%s", p.YAML(), q.YAML())
		}
	})
}

func FuzzExpr(f *testing.F) {
	for _, text := range []string{"busy_fraction > limit", "max(busy_fraction) / 0", "symptom('hot') ? 1 : -2", "graded(slow_factor, 1.36, 16)", "!!!true", "component.load_ratio > 1 && component.symptom('queue')"} {
		f.Add(text)
	}
	sc := scopeFor()
	sc.component = &scope{kind: dhalion.KindComponent, known: known, symptoms: []string{"queue"}, parameters: func(string) bool { return false }}
	f.Fuzz(func(t *testing.T, text string) {
		e, err := compile(text, sc)
		if err != nil {
			return
		}
		a := fmt.Sprint(e.Bool(env))
		b := fmt.Sprint(e.Bool(env))
		if a != b {
			t.Fatalf("%q: %s, then %s", text, a, b)
		}
		if v, ok, err := e.Number(env); err == nil && ok && (math.IsNaN(v) || math.IsInf(v, 0)) {
			t.Fatalf("%q is %v and said to be known", text, v)
		}
	})
}

func TestAParameterTakesZeroWithoutAUnitAndTextAsItIs(t *testing.T) {
	p, err := Load("ds2", nil, nil, map[string]string{"source_rates": "2026"})
	if err != nil {
		t.Fatal(err)
	}
	if text, _ := p.Parameters.Text("source_rates"); text != "2026" {
		t.Errorf("source_rates is %q", text)
	}
	if p, err = Load("flink-autoscaler", nil, nil, map[string]string{"catch_up": "0"}); err != nil {
		t.Fatal(err)
	}
	if d, ok := p.Parameters.Duration("catch_up"); !ok || d != 0 {
		t.Errorf("catch_up is %v, %v", d, ok)
	}
	if _, err := Load("flink-autoscaler", nil, nil, map[string]string{"catch_up": "30"}); err == nil {
		t.Error("30 of what is not said, and was taken")
	}
}
