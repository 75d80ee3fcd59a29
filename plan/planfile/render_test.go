package planfile

import (
	"bytes"
	"errors"
	"flag"
	"io"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/dhalion-go/dhalion"
)

var update = flag.Bool("update", false, "write the golden files anew")

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs (-update writes it anew); got:\n%s", path, got)
	}
}

func proposed(t *testing.T, p dhalion.Plan) Meta {
	_, id, digest := mustEncode(t, p)
	at := asOf.Add(5 * time.Second)
	return Meta{ID: id, Digest: digest, State: dhalion.PlanProposed, Author: "ann", ProposedAt: at, Expires: Expires(p, at), Now: at.Add(90 * time.Second)}
}

func rendered(t *testing.T, p dhalion.Plan, m Meta, o Options) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := Text(&b, p, m, o); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestAPlanReadsAsText(t *testing.T) {
	p := example()
	golden(t, "plan.txt", rendered(t, p, proposed(t, p), Options{}))
}

func TestAnApprovedPlanReadsAsTextInColourAndNarrow(t *testing.T) {
	p := example()
	m := proposed(t, p)
	m.State = dhalion.PlanApproved
	m.Approvals = []dhalion.Approval{
		{Plan: m.ID, Digest: m.Digest, Person: "bob", At: asOf.Add(time.Minute), Note: "looks right"},
		{Plan: m.ID, Digest: strings.Repeat("0", 64), Person: "eve", At: asOf},
	}
	golden(t, "plan-colour-70.txt", rendered(t, p, m, Options{Color: true, Width: 70}))
}

func TestAPlanReadsAsMarkdown(t *testing.T) {
	var b bytes.Buffer
	p := example()
	if err := Markdown(&b, p, proposed(t, p)); err != nil {
		t.Fatal(err)
	}
	golden(t, "plan.md", b.Bytes())
}

func TestAPlanWithNothingToDoReadsAsText(t *testing.T) {
	p := dhalion.Plan{Version: 1, Job: job, AsOf: asOf, Window: dhalion.Window{Start: asOf.Add(-time.Minute), End: asOf}, ValidForSeconds: 3600, Policy: "default"}
	golden(t, "nothing.txt", rendered(t, p, Meta{ID: "0123456789ab"}, Options{}))
}

func TestANameCannotSteerTheTerminalOrTheMarkup(t *testing.T) {
	p := example()
	evil := "x\x1b[2J\n# <script>|`y`\u202e"
	p.Job = dhalion.JobID(evil)
	p.Actions[0].Message, p.Policy, p.Warnings[0].Message, p.Sizing[0].Component = evil, evil, evil, evil
	p.Findings.Diagnoses[0].Evidence[0].Name = evil
	out := string(rendered(t, p, Meta{ID: evil, State: dhalion.PlanState(evil), Author: evil}, Options{}))
	if strings.Contains(out, "\x1b") || strings.Contains(out, "\u202e") || strings.Contains(out, "\n#") {
		t.Errorf("it got through:\n%s", out)
	}
	var b bytes.Buffer
	if err := Markdown(&b, p, Meta{}); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(b.String(), "<script>") || strings.Contains(b.String(), "\x1b") {
		t.Errorf("it got through:\n%s", b.String())
	}
}

func TestAMissingEdgeOfTimeOrNumberIsReadable(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0 s", 250 * time.Millisecond: "250 ms", 59 * time.Second: "59 s", 90 * time.Second: "1 min 30 s", time.Hour: "1 h",
		90 * time.Minute: "1 h 30 min", 49 * time.Hour: "2 d 1 h", 500 * time.Second: "8 min 20 s", -time.Minute: "-1 min",
	} {
		if got := Duration(d); got != want {
			t.Errorf("Duration(%v) = %q, want %q", d, got, want)
		}
	}
	for p, want := range map[float64]string{0: "0 %", 1: "100 %", 0.873: "87 %", 0.999: ">99 %", 0.001: "<1 %", 0.005: "1 %"} {
		if got := Percent(p); got != want {
			t.Errorf("Percent(%v) = %q, want %q", p, got, want)
		}
	}
	for v, want := range map[float64]string{2700: "2,700", 13.5: "13.5", 13.04: "13", 1234567: "1,234,567", -1200: "-1,200", 100: "100", 10: "10", 0.042: "0.042", 0: "0", 5.67: "5.67"} {
		if got := Quantity(v); got != want {
			t.Errorf("Quantity(%v) = %q, want %q", v, got, want)
		}
	}
	if Percent(math.NaN()) != "unknown" || Quantity(math.NaN()) != "unknown" {
		t.Error("unknown is not said")
	}
}

func TestACommandCanBePasted(t *testing.T) {
	if got := Command("dhalion", "plan", "file/it's a job"); got != `dhalion plan 'file/it'\''s a job'` {
		t.Error(got)
	}
	if got := Command("dhalion", "plan", "prod/wc", "--at", "2025-11-03T14:02:10Z", ""); got != "dhalion plan prod/wc --at 2025-11-03T14:02:10Z ''" {
		t.Error(got)
	}
}

// What a published method came to on its way is in the document, and is shown
// below its row; a plan without has none of it.
func TestAMethodsFiguresAreKeptAndShown(t *testing.T) {
	p := example()
	p.Sizing = []dhalion.Sizing{
		{Component: "counter", From: 8, To: 12, Required: pointer(11.25), Figures: []dhalion.Figure{
			{Name: "in", Value: 109705.374864, Unit: "1/s"}, {Name: "B", Value: 126, Unit: "ms/s"}, {Name: "f", Value: 0.144}}},
		{Component: "sink", From: 3, To: 3, Required: pointer(2)},
	}
	p.Actions[0].Because, p.Actions[0].Probability = nil, 0
	doc, id, _, err := Encode(p)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(doc), `"figures"`); n != 1 {
		t.Errorf("%d rows have figures", n)
	}
	again, _, _, err := Decode(doc, id)
	if err != nil || !reflect.DeepEqual(again.Sizing, p.Sizing) {
		t.Errorf("read again: %+v, %v", again.Sizing, err)
	}
	var text, markdown strings.Builder
	if err := errors.Join(Text(&text, p, Meta{}, Options{}), Markdown(&markdown, p, Meta{})); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"\n    in 109,705/s, B 126 ms/s, f 0.144\n  sink", "why      the policy's method of sizing asks for it; no cause is claimed"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("no %q in\n%s", want, text.String())
		}
	}
	if want := "| 11.2 | in 109,705/s, B 126 ms/s, f 0.144 |"; !strings.Contains(markdown.String(), want) {
		t.Errorf("no %q in\n%s", want, markdown.String())
	}
}

func TestWhatCameOfAnActionBeforeIsSaidOfActionsAndAlternatives(t *testing.T) {
	p := example()
	p.Actions[0].Before = []dhalion.Before{{Cause: dhalion.Underprovisioned, Met: 1, Unmet: 2, Weight: 2.4, Probability: 0.59, Factor: 0.78}}
	p.Alternatives[0].Action.Before = []dhalion.Before{{Cause: dhalion.DataSkew, Unmet: 1, Weight: 1, Probability: 0.6, Factor: 0.8}}
	for name, render := range map[string]func(io.Writer) error{
		"text":     func(w io.Writer) error { return Text(w, p, Meta{}, Options{Width: 400}) },
		"markdown": func(w io.Writer) error { return Markdown(w, p, Meta{}) },
	} {
		var out strings.Builder
		if err := render(&out); err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{
			"against underprovisioned 1 met and 2 unmet, weighing 2.4: succeeds at 59 %, its benefit counts 0.78-fold",
			"; before, against data skew 0 met and 1 unmet, weighing 1: succeeds at 60 %, its benefit counts 0.8-fold",
		} {
			if !strings.Contains(out.String(), want) {
				t.Errorf("%s has no %q:\n%s", name, want, out.String())
			}
		}
	}
}
