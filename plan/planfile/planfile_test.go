package planfile

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/dhalion-go/dhalion"
)

var asOf = time.Date(2025, 11, 3, 14, 2, 10, 250_000_000, time.UTC)

const job = dhalion.JobID("prod/wordcount")

func at(component string) dhalion.Target { return dhalion.ComponentTarget(job, component) }

func pointer(v float64) *float64 { return &v }

// example is a plan with every part filled.
func example() dhalion.Plan {
	under := dhalion.Pair{Target: at("counter"), Cause: dhalion.Underprovisioned}
	scale := func(component string, from, to float64) dhalion.Action {
		return dhalion.Action{
			Kind: dhalion.SetParallelism, Target: at(component), From: dhalion.NumberSetting(from), To: dhalion.NumberSetting(to),
			Message: fmt.Sprintf("Scale %s from %v to %v instances", component, from, to),
			Because: []dhalion.Pair{under}, Probability: 0.873,
			Expect: dhalion.Expectation{
				Summary:       "source puts out 2,700 of the 2,700 records/s offered; " + component + " is 77 % busy; the backlog of 61,000 records drains in 8 min 20 s",
				WithinSeconds: 590,
				Checks: []dhalion.Check{
					{Metric: dhalion.RecordsOut, Target: at("source"), Compare: "at_least", Value: 2565, Low: 2500, High: 2700},
					{Metric: dhalion.Busy, Target: at(component), Compare: "at_most", Value: 0.82, Low: 0.71, High: 0.82},
				},
			},
			Reverse: &dhalion.Reversal{Kind: dhalion.SetParallelism, Target: at(component), From: dhalion.NumberSetting(to), To: dhalion.NumberSetting(from),
				Summary: fmt.Sprintf("set %s back to %v instances", component, from)},
			Affects: []dhalion.Affected{{Job: job, Instances: 17, Of: 17}},
			Utility: 0.21,
		}
	}
	relocate := dhalion.Action{
		Kind: dhalion.Relocate, Target: dhalion.WorkerTarget(job, "tm-2"), From: dhalion.TextSetting("tm-2"), To: dhalion.TextSetting(""),
		Message:     "Move the 3 instances of worker tm-2 to other workers",
		Because:     []dhalion.Pair{{Target: dhalion.WorkerTarget(job, "tm-2"), Cause: dhalion.SlowWorker}},
		Probability: 0.64, Affects: []dhalion.Affected{{Job: job, Instances: 3, Of: 17}},
	}
	refused := scale("sink", 3, 4)
	refused.Probability, refused.Utility = 0.07, 0
	return dhalion.Plan{
		Version: Version, Job: job, AsOf: asOf, Window: dhalion.Window{Start: asOf.Add(-time.Minute), End: asOf},
		ValidForSeconds: 3600, Policy: "default", FourEyes: true,
		Basis: dhalion.Basis{History: strings.Repeat("1a", 32), Topology: strings.Repeat("2b", 32), Policy: strings.Repeat("3c", 32), Program: "dhalion v0.1.0"},
		Topology: dhalion.Topology{
			From: asOf.Add(-time.Hour), By: dhalion.ChangeFirst, Run: "a1b2",
			Components: []dhalion.Component{{Name: "counter", Parallelism: 8, MaxParallelism: 128}, {Name: "sink", Parallelism: 3, External: true},
				{Name: "source", Parallelism: 2}, {Name: "splitter", Parallelism: 4}},
			Edges:     []dhalion.Edge{{From: "counter", To: "sink", Ship: "rebalance"}, {From: "source", To: "splitter", Ship: "rebalance"}, {From: "splitter", To: "counter", Ship: "hash"}},
			Placement: []dhalion.Placement{{Component: "counter", Instance: 0, Worker: "tm-1"}, {Component: "counter", Instance: 1, Worker: "tm-2"}},
		},
		Findings: dhalion.Findings{
			Symptoms: []dhalion.Symptom{{Kind: "backpressure", Target: at("splitter"), Score: 4.2, Probability: 0.99, Since: asOf.Add(-40 * time.Second)}},
			Diagnoses: []dhalion.Diagnosis{
				{Target: at("counter"), Cause: dhalion.Underprovisioned, Probability: 0.873, Evidence: []dhalion.Evidence{
					{Name: "more is offered than its instances can take", Weight: 2.5, Value: 1.35},
					{Name: "first busy one downstream of the backpressure", Weight: 0.8, Value: math.NaN()},
					{Name: "one instance is hotter than its peers", Weight: -0.4, Value: 1.2},
				}},
				{Target: dhalion.WorkerTarget(job, "tm-2"), Cause: dhalion.SlowWorker, Probability: 0.64, Evidence: []dhalion.Evidence{{Name: "a like factor on both instances", Weight: 1.1, Value: 1.62}}},
				{Target: at("splitter"), Cause: dhalion.Underprovisioned, Probability: 0.07, ExplainedBy: &under},
				{Target: dhalion.InstanceTarget(job, "counter", 3), Cause: dhalion.DataSkew, Probability: 0.0512},
			},
			Unknown: []dhalion.Unknown{
				{Target: dhalion.WorkerTarget(job, "tm-1"), Cause: dhalion.MemoryPressure, Reason: "gc_fraction is unknown"},
				{Target: dhalion.WorkerTarget(job, "tm-2"), Cause: dhalion.MemoryPressure, Reason: "gc_fraction is unknown"},
			},
		},
		Sizing: []dhalion.Sizing{
			{Component: "splitter", From: 4, To: 6, Required: pointer(5.67), RequiredLow: pointer(5.4), RequiredHigh: pointer(6.02)},
			{Component: "counter", From: 8, To: 14, Required: pointer(13.5), RequiredLow: pointer(12.9), RequiredHigh: pointer(14.2)},
			{Component: "sink", From: 3, To: 3, Reason: "the rate of a healthy instance is not known"},
		},
		Actions:      []dhalion.Action{relocate, scale("counter", 8, 14), scale("splitter", 4, 6)},
		Alternatives: []dhalion.Alternative{{Action: refused, Reason: "7 % is too unlikely to act on: the policy asks for 50 %"}},
		Warnings:     []dhalion.Warning{{Code: "W-rescale-all", Message: "the rescale restarts all 17 instances: expect about 30 s without output, and a new backlog of that length"}},
	}
}

func mustEncode(t interface{ Fatal(...any) }, p dhalion.Plan) ([]byte, string, string) {
	doc, id, digest, err := Encode(p)
	if err != nil {
		t.Fatal(err)
	}
	return doc, id, digest
}

func TestADocumentDecodesToWhatEncodesToTheSameBytes(t *testing.T) {
	doc, id, digest := mustEncode(t, example())
	p, id2, digest2, err := Decode(doc, "p.json")
	if err != nil {
		t.Fatal(err)
	}
	if id != id2 || digest != digest2 || len(digest) != 64 || id != digest[:12] {
		t.Errorf("encode gave %s %s, decode %s %s", id, digest, id2, digest2)
	}
	again, _, _ := mustEncode(t, p)
	if !bytes.Equal(doc, again) {
		t.Errorf("the second encoding differs:\n%s\n%s", doc, again)
	}
}

func TestADigestStaysWhatItIs(t *testing.T) {
	// An empty plan, digested by hand:
	// printf '{"version":1,"job":"a/b",…}' | sha256sum. A change of this digest makes
	// every plan that waits for approval unreadable: raise Version with it.
	doc, _, digest := mustEncode(t, dhalion.Plan{Version: 1, Job: "a/b"})
	const body = `{"version":1,"job":"a/b","as_of":"0001-01-01T00:00:00Z","window":{"start":"0001-01-01T00:00:00Z","end":"0001-01-01T00:00:00Z"},` +
		`"valid_for_seconds":0,"policy":"","four_eyes":false,"basis":{"history":"","topology":"","policy":"","model":"","outcomes":"","program":""},` +
		`"topology":{"from":"0001-01-01T00:00:00Z","components":[],"edges":[]},"findings":{"symptoms":[],"diagnoses":[],"unknown":[]},` +
		`"sizing":[],"actions":[],"alternatives":[],"warnings":[]}`
	if want := digestOf([]byte(body)); digest != want {
		t.Errorf("digest %s, want %s of\n%s\nthe document is\n%s", digest, want, body, doc)
	}
}

func TestNumbersAreWrittenWithTwelveDigits(t *testing.T) {
	for v, want := range map[float64]string{
		1.0 / 3: "0.333333333333", 2e6 / 3: "666666.666667", 1e15: "1e+15", 0: "0", 5: "5", 1e-9: "1e-09", math.Copysign(0, -1): "0",
		0.1 + 0.2: "0.3", math.MaxFloat64: "1.79769313486e+308",
	} {
		p := example()
		p.Findings.Symptoms[0].Score = v
		doc, _, _ := mustEncode(t, p)
		if !strings.Contains(string(doc), `"score": `+want+",") {
			t.Errorf("%v is not written as %s", v, want)
		}
		if _, _, _, err := Decode(doc, "p.json"); err != nil {
			t.Errorf("%v: %v", v, err)
		}
	}
}

func TestAPlanThatCannotBeWrittenIsRefused(t *testing.T) {
	for name, change := range map[string]func(*dhalion.Plan){
		"infinite weight":       func(p *dhalion.Plan) { p.Findings.Diagnoses[0].Evidence[0].Weight = math.Inf(1) },
		"unknown weight":        func(p *dhalion.Plan) { p.Findings.Diagnoses[0].Evidence[0].Weight = math.NaN() },
		"infinite score":        func(p *dhalion.Plan) { p.Findings.Symptoms[0].Score = math.Inf(-1) },
		"unknown validity":      func(p *dhalion.Plan) { p.ValidForSeconds = math.NaN() },
		"negative validity":     func(p *dhalion.Plan) { p.ValidForSeconds = -1 },
		"unknown setting":       func(p *dhalion.Plan) { p.Actions[0].To = dhalion.NumberSetting(math.NaN()) },
		"probability over 1":    func(p *dhalion.Plan) { p.Actions[0].Probability = 1.01 },
		"no cause":              func(p *dhalion.Plan) { p.Findings.Diagnoses[0].Cause = "bad_luck" },
		"no kind of action":     func(p *dhalion.Plan) { p.Actions[0].Kind = "pray" },
		"no kind of reversal":   func(p *dhalion.Plan) { p.Actions[1].Reverse.Kind = "pray" },
		"no metric":             func(p *dhalion.Plan) { p.Actions[1].Expect.Checks[0].Metric = "mood" },
		"no comparison":         func(p *dhalion.Plan) { p.Actions[1].Expect.Checks[0].Compare = "around" },
		"no target":             func(p *dhalion.Plan) { p.Alternatives[0].Action.Target = dhalion.Target{} },
		"no such cause unknown": func(p *dhalion.Plan) { p.Findings.Unknown[0].Cause = "x" },
		"no job":                func(p *dhalion.Plan) { p.Job = "" },
		"another version":       func(p *dhalion.Plan) { p.Version = 2 },
		"a component twice":     func(p *dhalion.Plan) { p.Topology.Components[0].Name = "sink" },
		"a huge instance":       func(p *dhalion.Plan) { p.Actions[1].Affects[0].Of = 2_000_000_000_000 },
		"a negative size":       func(p *dhalion.Plan) { p.Sizing[0].To = -1 },
		"a figure without name": func(p *dhalion.Plan) { p.Sizing[0].Figures = []dhalion.Figure{{Value: 1}} },
		"a figure twice":        func(p *dhalion.Plan) { p.Sizing[0].Figures = []dhalion.Figure{{Name: "B"}, {Name: "B"}} },
		"an infinite figure":    func(p *dhalion.Plan) { p.Sizing[0].Figures = []dhalion.Figure{{Name: "B", Value: math.Inf(1)}} },
		"a year too far":        func(p *dhalion.Plan) { p.AsOf = time.Date(12345, 1, 1, 0, 0, 0, 0, time.UTC) },
	} {
		p := example()
		change(&p)
		if doc, _, _, err := Encode(p); err == nil {
			t.Errorf("%s was written: %s", name, doc)
		} else if !strings.HasPrefix(err.Error(), "planfile: encode plan of ") {
			t.Errorf("%s: error %q", name, err)
		}
	}
}

func TestEqualPlansGiveEqualBytes(t *testing.T) {
	a, b := example(), example()
	b.AsOf = b.AsOf.In(time.FixedZone("CET", 3600))
	slices.Reverse(b.Topology.Components)
	slices.Reverse(b.Topology.Edges)
	b.Actions[0].Expect.Checks = []dhalion.Check{}
	b.Findings.Diagnoses[2].Evidence = []dhalion.Evidence{}
	b.AsOf = b.AsOf.Add(300 * time.Nanosecond) // below PostgreSQL's resolution
	docA, _, _ := mustEncode(t, a)
	docB, _, _ := mustEncode(t, b)
	if !bytes.Equal(docA, docB) {
		t.Errorf("they differ:\n%s\n%s", docA, docB)
	}
}

func TestEncodingLeavesThePlanAlone(t *testing.T) {
	p := example()
	slices.Reverse(p.Topology.Components)
	p.AsOf = p.AsOf.In(time.FixedZone("CET", 3600))
	before := fmt.Sprintf("%+v", p)
	mustEncode(t, p)
	if after := fmt.Sprintf("%+v", p); after != before {
		t.Errorf("Encode changed its argument from\n%s to\n%s", before, after)
	}
}

func TestWhitespaceAndEscapesDoNotMatter(t *testing.T) {
	p := example()
	p.Warnings[0].Message = `a < b & c > d, "é"`
	doc, _, digest := mustEncode(t, p)
	if !strings.Contains(string(doc), `a < b & c > d, \"é\"`) {
		t.Error("HTML is escaped in the document")
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, doc); err != nil {
		t.Fatal(err)
	}
	tabs := bytes.ReplaceAll(doc, []byte("\n"), []byte("\r\n\t"))
	escaped := bytes.ReplaceAll(doc, []byte("é"), []byte(`\u00e9`))
	escaped = bytes.ReplaceAll(escaped, []byte("<"), []byte(`\u003c`))
	for name, data := range map[string][]byte{"compact": compact.Bytes(), "tabs": tabs, "escaped": escaped} {
		if _, _, got, err := Decode(data, "p.json"); err != nil || got != digest {
			t.Errorf("%s: digest %s, %v", name, got, err)
		}
	}
}

// mutations are a document's text with one line changed: the indented form has
// one value, or one bracket, on each.
func mutations(doc string) map[string]string {
	changed := map[string]string{}
	lines := strings.SplitAfter(doc, "\n")
	for i, line := range lines {
		put := func(what, with string) {
			changed[fmt.Sprintf("line %d, %s: %s", i+1, what, strings.TrimSpace(line))] = strings.Join(lines[:i], "") + with + strings.Join(lines[i+1:], "")
		}
		value := strings.TrimRight(line, ",\n")
		end := line[len(value):]
		_, after, isKey := strings.Cut(value, `": `)
		if !isKey {
			after = strings.TrimSpace(value)
		}
		before := strings.TrimSuffix(value, after)
		switch {
		case after == "{":
			put("a key more", line+`"extra": 1,`)
		case after == "[":
			put("an element more", line+`"extra",`)
		case after == "" || strings.Contains("}]", after):
		case after == "[]":
			put("an element more", before+`["extra"]`+end)
		case strings.HasPrefix(after, `"`):
			put("another text", strings.TrimSuffix(value, `"`)+`x"`+end)
			put("another type", before+"1"+end)
		case after == "true" || after == "false":
			put("the opposite", before+map[string]string{"true": "false", "false": "true"}[after]+end)
		case after == "null":
			put("a value", before+"1"+end)
		default:
			last := len(after) - 1
			put("another digit", before+after[:last]+string('0'+(after[last]-'0'+1)%10)+end)
			digits, negative := strings.CutPrefix(after, "-")
			sign := map[bool]string{true: "-", false: ""}
			put("another number", before+sign[negative]+"7"+strings.TrimPrefix(digits, "0")+end)
			put("the other sign", before+sign[!negative]+digits+end)
			put("a text", before+`"`+after+`"`+end)
		}
		if isKey && strings.HasSuffix(end, ",\n") && !strings.ContainsAny(after, "{[") {
			put("left out", "")
			put("in other letters", strings.Replace(line, `"`, `"X`, 1))
		}
	}
	return changed
}

func TestEveryChangeOfOneValueIsSeen(t *testing.T) {
	doc, _, _ := mustEncode(t, example())
	all := mutations(string(doc))
	if len(all) < 1000 {
		t.Fatalf("only %d changes found", len(all))
	}
	for name, changed := range all {
		_, _, _, err := Decode([]byte(changed), "p.json")
		var edited *EditedError
		head := strings.Contains(name, `"version"`) || strings.Contains(name, `"id"`) || strings.Contains(name, `"digest"`)
		if err == nil || !json.Valid([]byte(changed)) || (!head && !errors.As(err, &edited)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAForgedDigestDoesNotHelpAgainstWhatWouldNotBeWritten(t *testing.T) {
	doc, _, _ := mustEncode(t, example())
	var compact bytes.Buffer
	if err := json.Compact(&compact, doc); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string][2]string{
		"more digits than count":  {`"probability":0.873`, `"probability":0.8730000000000001`},
		"a key in other letters":  {`"job":"prod/wordcount","as_of"`, `"Job":"prod/wordcount","as_of"`},
		"a key of a target":       {`{"kind":"worker",`, `{"kind":"worker","colour":"red",`},
		"a key missing":           {`"four_eyes":true,`, ``},
		"null for a list":         {`"checks":[]`, `"checks":null`},
		"another order":           {`"policy":"default","four_eyes":true`, `"four_eyes":true,"policy":"default"`},
		"a time in another zone":  {`"as_of":"2025-11-03T14:02:10.25Z"`, `"as_of":"2025-11-03T15:02:10.25+01:00"`},
		"an unknown key":          {`"four_eyes":true`, `"four_eyes":true,"six_eyes":true`},
		"a number as a string":    {`"valid_for_seconds":3600`, `"valid_for_seconds":"3600"`},
		"a fraction of instances": {`"parallelism":8`, `"parallelism":8.5`},
	} {
		body := strings.Replace(compact.String(), change[0], change[1], 1)
		if body == compact.String() {
			t.Fatalf("%s: nothing to replace", name)
		}
		rest := body[strings.Index(body, `"version"`):]
		digest := digestOf([]byte("{" + rest))
		forged := fmt.Sprintf(`{"id":"%s","digest":"%s",%s`, digest[:12], digest, rest)
		if _, _, _, err := Decode([]byte(forged), "p.json"); err == nil {
			t.Errorf("%s was read", name)
		}
	}
}

func TestWhatIsNoPlanIsRefused(t *testing.T) {
	doc, id, digest := mustEncode(t, example())
	text := string(doc)
	for name, c := range map[string]struct{ data, want string }{
		"empty":           {"", "line 1: unexpected end of JSON input"},
		"a list":          {"[]", "not an object"},
		"another object":  {`{"a": 1}`, "no version"},
		"a number":        {"1", "not an object"},
		"trailing data":   {text + "{}", "after top-level value"},
		"cut off":         {text[:len(text)/2], "unexpected end of JSON input"},
		"a newer version": {strings.Replace(text, `"version": 1`, `"version": 7`, 1), "version 7: this program reads version 1"},
		"a key twice":     {strings.Replace(text, `"four_eyes": true`, `"four_eyes": true, "four_eyes": false`, 1), `key "four_eyes" is repeated`},
		"the id twice":    {strings.Replace(text, `"id"`, `"id": "x", "id"`, 1), `key "id" is repeated`},
		"a deep one":      {strings.Repeat("[", 1000) + strings.Repeat("]", 1000), "nested over 32 levels deep"},
		"not UTF-8":       {strings.Replace(text, "default", "d\xffault", 1), "not UTF-8"},
		"no digest":       {strings.Replace(text, digest, "", 1), "no id and digest"},
		"a number as id":  {strings.Replace(text, `"`+id+`"`, "12", 1), "id: "},
		"a syntax error":  {strings.Replace(text, `"policy": "default"`, `"policy" "default"`, 1), "line 1"},
	} {
		_, _, _, err := Decode([]byte(c.data), "p.json")
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "planfile: decode p.json: ") {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	_, _, _, err := Decode([]byte(strings.Replace(text, `"to": 14`, `"to": 40`, 1)), "p.json")
	var edited *EditedError
	if !errors.As(err, &edited) || edited.Want != digest || edited.Got == digest || edited.Name != "p.json" {
		t.Errorf("an edit gave %#v", err)
	} else if err.Error() != "planfile: decode p.json: digest does not match body" {
		t.Errorf("an edit gave %q", err)
	}
}

func TestATooLargeDocumentIsRefusedUnread(t *testing.T) {
	_, _, _, err := Decode(make([]byte, MaxBytes+1), "p.json")
	if err == nil || !strings.Contains(err.Error(), "over the bound") {
		t.Error(err)
	}
}

func TestAFileIsReplacedWholeAndPrivate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "p.json")
	if err := os.WriteFile(path, []byte("old"), 0o644); err != nil {
		t.Fatal(err)
	}
	doc, id, _ := mustEncode(t, example())
	if err := WriteFile(path, doc); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if _, got, _, err := ReadFile(path); err != nil || got != id {
		t.Errorf("read back %s, %v", got, err)
	}
	entries, _ := os.ReadDir(filepath.Dir(path))
	if len(entries) != 1 {
		t.Errorf("something was left behind: %v", entries)
	}
	if err := WriteFile(filepath.Join(path, "below-a-file"), doc); err == nil || !strings.HasPrefix(err.Error(), "planfile: write ") {
		t.Error(err)
	}
	if _, _, _, err := ReadFile(path + ".none"); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

func TestAFailedWriteLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	target := filepath.Join(dir, "p.json")
	if err := os.Mkdir(target, 0o700); err != nil { // a rename over a folder fails
		t.Fatal(err)
	}
	if err := WriteFile(target, []byte("{}")); err == nil {
		t.Fatal("written over a folder")
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("left behind: %v", entries)
	}
}

func TestAPlanExpiresItsValidityAfterItWasProposed(t *testing.T) {
	p := dhalion.Plan{ValidForSeconds: 5400.5}
	if got, want := Expires(p, asOf), asOf.Add(5400500*time.Millisecond); !got.Equal(want) {
		t.Errorf("%v, want %v", got, want)
	}
	p.ValidForSeconds = 1e300
	if got := Expires(p, asOf); got.Before(asOf.AddDate(200, 0, 0)) {
		t.Errorf("for ever ends at %v", got)
	}
}

// anyPlan draws plans of every shape that validate allows.
func anyPlan(t *rapid.T) dhalion.Plan {
	names := []string{"a", "b <c>", "Sink: é\n", "d\u2028&"}
	number := rapid.Float64Range(-1e12, 1e12)
	prob := rapid.Float64Range(0, 1)
	text := rapid.String()
	when := rapid.Custom(func(t *rapid.T) time.Time {
		return time.UnixMicro(rapid.Int64Range(-1e15, 1e16).Draw(t, "µs")).In(time.FixedZone("z", rapid.IntRange(-12, 12).Draw(t, "zone")*3600))
	})
	target := rapid.Custom(func(t *rapid.T) dhalion.Target {
		name := rapid.SampledFrom(names).Draw(t, "name")
		switch rapid.IntRange(0, 3).Draw(t, "kind") {
		case 0:
			return dhalion.JobTarget(job)
		case 1:
			return dhalion.ComponentTarget(job, name)
		case 2:
			return dhalion.InstanceTarget(job, name, rapid.IntRange(0, 9999).Draw(t, "instance"))
		}
		return dhalion.WorkerTarget(job, name)
	})
	pairs := rapid.Custom(func(t *rapid.T) dhalion.Pair {
		return dhalion.Pair{Target: target.Draw(t, "target"), Cause: rapid.SampledFrom(dhalion.Causes).Draw(t, "cause")}
	})
	setting := rapid.Custom(func(t *rapid.T) dhalion.Setting {
		switch rapid.IntRange(0, 2).Draw(t, "setting") {
		case 0:
			return dhalion.Setting{}
		case 1:
			return dhalion.NumberSetting(number.Draw(t, "number"))
		}
		return dhalion.TextSetting(text.Draw(t, "text"))
	})
	action := rapid.Custom(func(t *rapid.T) dhalion.Action {
		a := dhalion.Action{
			Kind: rapid.SampledFrom(dhalion.ActionKinds).Draw(t, "kind"), Target: target.Draw(t, "target"), From: setting.Draw(t, "from"), To: setting.Draw(t, "to"),
			Argument: text.Draw(t, "argument"), Message: text.Draw(t, "message"), Because: rapid.SliceOfN(pairs, 0, 2).Draw(t, "because"),
			Probability: prob.Draw(t, "p"), Utility: number.Draw(t, "utility"),
			Affects: []dhalion.Affected{{Job: job, Instances: rapid.IntRange(0, 1e9).Draw(t, "n"), Of: 1e9}},
			Expect: dhalion.Expectation{Summary: text.Draw(t, "summary"), WithinSeconds: number.Draw(t, "within"),
				Checks: []dhalion.Check{{Metric: dhalion.Busy, Target: target.Draw(t, "checked"), Compare: "at_most", Value: number.Draw(t, "value"), Low: number.Draw(t, "low")}}},
		}
		if rapid.Bool().Draw(t, "reversible") {
			a.Reverse = &dhalion.Reversal{Kind: a.Kind, Target: a.Target, From: a.To, To: a.From, Summary: text.Draw(t, "undo")}
		}
		return a
	})
	p := dhalion.Plan{
		Version: Version, Job: job, AsOf: when.Draw(t, "as_of"), Window: dhalion.Window{Start: when.Draw(t, "start"), End: when.Draw(t, "end")},
		ValidForSeconds: rapid.Float64Range(0, 1e9).Draw(t, "valid"), Policy: text.Draw(t, "policy"), FourEyes: rapid.Bool().Draw(t, "four"),
		Reverses: text.Draw(t, "reverses"), Basis: dhalion.Basis{History: text.Draw(t, "history"), Program: text.Draw(t, "program")},
		Topology: dhalion.Topology{From: when.Draw(t, "from"), Components: []dhalion.Component{{Name: "b <c>", Parallelism: 3}, {Name: "a", Parallelism: 1}},
			Edges: []dhalion.Edge{{From: "a", To: "b <c>"}}},
		Actions: rapid.SliceOfN(action, 0, 2).Draw(t, "actions"),
	}
	if rapid.Bool().Draw(t, "found") {
		d := dhalion.Diagnosis{Target: target.Draw(t, "sick"), Cause: dhalion.Failing, Probability: prob.Draw(t, "p"),
			Evidence: []dhalion.Evidence{{Name: text.Draw(t, "name"), Weight: number.Draw(t, "weight"), Value: math.NaN()}, {Value: number.Draw(t, "value")}}}
		if rapid.Bool().Draw(t, "explained") {
			by := pairs.Draw(t, "by")
			d.ExplainedBy = &by
		}
		p.Findings.Diagnoses = append(p.Findings.Diagnoses, d)
		p.Findings.Unknown = append(p.Findings.Unknown, dhalion.Unknown{Target: target.Draw(t, "unknown"), Reason: text.Draw(t, "reason")})
		p.Sizing = append(p.Sizing, dhalion.Sizing{Component: "a", From: 1, To: 2, Required: pointer(number.Draw(t, "required"))})
	}
	return p
}

func TestAnyPlanRoundTripsAndReads(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := anyPlan(t)
		doc, id, digest := mustEncode(t, p)
		back, id2, digest2, err := Decode(doc, "p.json")
		if err != nil {
			t.Fatal(err)
		}
		again, _, _ := mustEncode(t, back)
		if !bytes.Equal(doc, again) || id != id2 || digest != digest2 {
			t.Fatalf("it does not round trip:\n%s\n%s", doc, again)
		}
		var b bytes.Buffer
		if err := Text(&b, back, Meta{ID: id, Now: asOf, Expires: asOf}, Options{Width: 80}); err != nil {
			t.Fatal(err)
		}
		for _, line := range strings.Split(b.String(), "\n") {
			// A command is for pasting and is never broken.
			if columns(line) > 80 && !strings.HasPrefix(line, "  dhalion ") {
				t.Fatalf("a line of %d columns: %q", columns(line), line)
			}
		}
		if strings.ContainsFunc(b.String(), func(r rune) bool { return r < ' ' && r != '\n' }) {
			t.Fatalf("control characters reach the terminal: %q", b.String())
		}
		if err := Markdown(&b, back, Meta{ID: id}); err != nil {
			t.Fatal(err)
		}
	})
}

// brief is the example with one of each part: the fuzzer gets nowhere with a long
// seed.
func brief() dhalion.Plan {
	p := example()
	p.Topology.Components, p.Topology.Edges, p.Topology.Placement = p.Topology.Components[:1], nil, p.Topology.Placement[:1]
	p.Findings.Diagnoses, p.Findings.Unknown = p.Findings.Diagnoses[:1], p.Findings.Unknown[:1]
	p.Findings.Diagnoses[0].Evidence = p.Findings.Diagnoses[0].Evidence[:1]
	p.Actions, p.Alternatives, p.Sizing = p.Actions[1:2], nil, p.Sizing[:1]
	p.Actions[0].Expect.Checks = p.Actions[0].Expect.Checks[:1]
	return p
}

func FuzzDecode(f *testing.F) {
	doc, _, _ := mustEncode(f, brief())
	f.Add(doc)
	empty, _, _ := mustEncode(f, dhalion.Plan{Version: 1, Job: "a/b"})
	f.Add(empty)
	f.Add([]byte(`{"id":"","digest":"","version":1}`))
	f.Add([]byte(`[[[[`))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, id, digest, err := Decode(data, "fuzz")
		if err != nil {
			return
		}
		again, id2, digest2, err := Encode(p)
		if err != nil || id != id2 || digest != digest2 {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		if _, _, _, err := Decode(again, "again"); err != nil {
			t.Fatal(err)
		}
	})
}

// FuzzDecodeBody gives the body a digest that matches, so that the fuzzer gets
// past it.
func FuzzDecodeBody(f *testing.F) {
	doc, _, _ := mustEncode(f, brief())
	var compact bytes.Buffer
	if err := json.Compact(&compact, doc); err != nil {
		f.Fatal(err)
	}
	body := compact.Bytes()[bytes.Index(compact.Bytes(), []byte(`"version"`)):]
	f.Add(body)
	f.Fuzz(func(t *testing.T, body []byte) {
		raw := append([]byte("{"), body...)
		if !json.Valid(raw) || shallow(raw) != nil {
			return
		}
		written, err := rewrite(raw, func(n json.Number) (string, error) { return n.String(), nil })
		if err != nil {
			return
		}
		digest := digestOf(written)
		doc := fmt.Appendf(nil, `{"id":"%s","digest":"%s",%s`, digest[:IDLength], digest, body)
		p, id, _, err := Decode(doc, "fuzz")
		if err != nil {
			return
		}
		if _, id2, _, err := Encode(p); err != nil || id != id2 {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		if err := Text(&bytes.Buffer{}, p, Meta{}, Options{}); err != nil {
			t.Fatal(err)
		}
	})
}

func TestWhatCameOfAnActionBeforeIsReadBackAndMustMakeSense(t *testing.T) {
	good := dhalion.Before{Cause: dhalion.DataSkew, Met: 1, Unmet: 2, Weight: 2.5, Probability: 0.6, Factor: 0.8}
	with := func(b dhalion.Before) dhalion.Plan {
		p := example()
		p.Actions[0].Before = []dhalion.Before{b}
		return p
	}
	doc, _, _, err := Encode(with(good))
	if err != nil {
		t.Fatal(err)
	}
	if p, _, _, err := Decode(doc, "p.json"); err != nil || len(p.Actions[0].Before) != 1 || p.Actions[0].Before[0] != good {
		t.Errorf("%+v, %v", p.Actions, err)
	}
	for name, change := range map[string]func(*dhalion.Before){
		"a cause that is none": func(b *dhalion.Before) { b.Cause = "bad luck" },
		"less than never":      func(b *dhalion.Before) { b.Unmet = -1 },
		"no weight":            func(b *dhalion.Before) { b.Weight = math.NaN() },
		"a negative factor":    func(b *dhalion.Before) { b.Factor = -0.1 },
		"a probability of 2":   func(b *dhalion.Before) { b.Probability = 2 },
	} {
		b := good
		change(&b)
		if _, _, _, err := Encode(with(b)); err == nil {
			t.Errorf("%s was written", name)
		}
	}
}
