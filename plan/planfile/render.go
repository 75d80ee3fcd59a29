package planfile

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/dhalion-go/dhalion"
)

// Meta is what the store knows of a plan beside its body. All of it may be
// empty: a document can be read without a store.
type Meta struct {
	ID         string
	Digest     string
	State      dhalion.PlanState
	Author     string
	ProposedAt time.Time
	Expires    time.Time // zero: not known
	Now        time.Time // zero: no remark on how long the plan is still valid
	Approvals  []dhalion.Approval
}

// Options of a text rendering. Width is in columns; 0 means 100, and less than
// 60 is taken as 60.
type Options struct {
	Color bool
	Width int
}

// evidenceShown bounds the evidence of a diagnosis in renderings; the document
// has all of it.
const evidenceShown = 5

// Text renders a plan for a person at a terminal.
func Text(w io.Writer, p dhalion.Plan, meta Meta, opts Options) error {
	p = normal(p)
	t := &text{width: opts.Width, color: opts.Color}
	if t.width == 0 {
		t.width = 100
	}
	t.width = max(t.width, 60)
	t.head(p, meta)
	t.findings(p)
	t.actions(p)
	t.sizing(p)
	t.rest(p)
	t.next(p, meta)
	_, err := w.Write(t.out.Bytes())
	return err
}

// text lays out lines. A style is an ANSI code, never part of a line's width.
type text struct {
	out   bytes.Buffer
	width int
	color bool
}

const (
	bold  = "1"
	dim   = "2"
	red   = "31"
	green = "32"
)

func (t *text) style(code, s string) string {
	if !t.color || s == "" || code == "" {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

func (t *text) title(s string) { fmt.Fprintf(&t.out, "\n%s\n", t.style(bold, s)) }

// para writes lead and then words, wrapped to the width; further lines are
// indented to where the words began.
func (t *text) para(lead, leadStyle, words, wordStyle string) {
	indent := columns(lead)
	prefix := lead
	for i, line := range wrap(Plain(words), t.width-indent) {
		if i > 0 {
			prefix, leadStyle = strings.Repeat(" ", indent), ""
		}
		t.out.WriteString(strings.TrimRight(t.style(leadStyle, prefix)+t.style(wordStyle, line), " "))
		t.out.WriteByte('\n')
	}
}

func (t *text) line(lead, words string) { t.para(lead, "", words, "") }

func columns(s string) int { return utf8.RuneCountInString(s) }

// wrap breaks at spaces; a word that is wider than a line is broken inside.
func wrap(s string, width int) []string {
	var lines []string
	line := ""
	s = strings.ReplaceAll(s, " %", nbsp+"%")
	// Not strings.Fields: it breaks at no-break spaces, too.
	for _, word := range strings.FieldsFunc(s, func(r rune) bool { return r == ' ' }) {
		for {
			switch {
			case line == "" && columns(word) <= width:
				line = word
			case line == "":
				runes := []rune(word)
				lines = append(lines, string(runes[:width]))
				word = string(runes[width:])
				continue
			case columns(line)+1+columns(word) <= width:
				line += " " + word
			default:
				lines = append(lines, line)
				line = ""
				continue
			}
			break
		}
	}
	if line != "" || len(lines) == 0 {
		lines = append(lines, line)
	}
	// "87 %" stays on one line: the no-break space is for wrapping only.
	for i := range lines {
		lines[i] = strings.ReplaceAll(lines[i], nbsp, " ")
	}
	return lines
}

// nbsp binds a number to its unit while lines are broken.
const nbsp = "\u00a0"

func (t *text) head(p dhalion.Plan, meta Meta) {
	title := "Plan"
	if meta.ID != "" {
		title += " " + Plain(meta.ID)
	}
	title += " for " + Plain(string(p.Job))
	if meta.State != "" {
		title += " (" + Plain(string(meta.State)) + ")"
	}
	fmt.Fprintln(&t.out, t.style(bold, title))
	for _, kv := range headLines(p, meta) {
		t.para("  "+pad(kv[0], 10), dim, kv[1], "")
	}
}

func headLines(p dhalion.Plan, meta Meta) [][2]string {
	lines := [][2]string{
		{"in short", summary(p)},
		{"as of", fmt.Sprintf("%s, from the %s before it", moment(p.AsOf), Duration(p.Window.Span()))},
		{"policy", p.Policy},
	}
	if p.Reverses != "" {
		lines = append(lines, [2]string{"undoes", "plan " + p.Reverses})
	}
	if !meta.ProposedAt.IsZero() {
		by := ""
		if meta.Author != "" {
			by = " by " + meta.Author
		}
		lines = append(lines, [2]string{"proposed", moment(meta.ProposedAt) + by})
	}
	if !meta.Expires.IsZero() {
		left := ""
		if !meta.Now.IsZero() {
			if d := meta.Expires.Sub(meta.Now); d > 0 {
				left = ", in " + Duration(d)
			} else {
				left = ", " + Duration(-d) + " ago"
			}
		}
		lines = append(lines, [2]string{"expires", moment(meta.Expires) + left})
	} else {
		lines = append(lines, [2]string{"valid for", Duration(seconds(p.ValidForSeconds)) + " from when it is proposed"})
	}
	for _, a := range meta.Approvals {
		words := "by " + a.Person + " at " + moment(a.At)
		if a.Note != "" {
			words += ": " + a.Note
		}
		if meta.Digest != "" && a.Digest != meta.Digest {
			words += " (of another content: " + short(a.Digest) + ")"
		}
		lines = append(lines, [2]string{"approved", words})
	}
	if p.FourEyes {
		lines = append(lines, [2]string{"approval", "by somebody else than its author (four eyes)"})
	}
	return lines
}

// summary is the plan in one sentence.
func summary(p dhalion.Plan) string {
	var parts []string
	for _, a := range p.Actions {
		parts = append(parts, bind(Describe(a)))
	}
	switch {
	case len(parts) > 3:
		parts = append(parts[:2], fmt.Sprintf("and %d more", len(parts)-2))
		return strings.Join(parts, ", ")
	case len(parts) > 0:
		return strings.Join(parts, ", ")
	case len(p.Findings.Diagnoses) == 0 && len(p.Findings.Unknown) > 0:
		return "nothing to do; but not everything could be judged"
	case len(p.Findings.Diagnoses) == 0:
		return "nothing wrong was found, nothing to do"
	}
	return "nothing to do"
}

// Describe is an action in a few words, from what apply acts on and not from its
// message: "counter 8 → 12 instances", "move worker tm-2's instances away".
func Describe(a dhalion.Action) string {
	where := Where(a.Target)
	switch a.Kind {
	case dhalion.SetParallelism:
		return fmt.Sprintf("%s %s → %s instances", where, a.From, a.To)
	case dhalion.Relocate:
		from := Where(a.Target)
		if a.Target.Kind == dhalion.KindInstance {
			from = where + " off " + cmp.Or(Plain(a.From.String()), "its worker")
			return "move " + from + destination(a.To)
		}
		return "move the instances of " + from + " away" + destination(a.To)
	case dhalion.Restart:
		return "restart " + where
	case dhalion.Repartition, dhalion.SetKnob:
		from := ""
		if !a.From.IsZero() {
			from = " from " + Plain(a.From.String())
		}
		return fmt.Sprintf("set %s%s to %s at %s", Plain(a.Argument), from, Plain(a.To.String()), where)
	}
	causes := make([]string, 0, len(a.Because))
	for _, b := range a.Because {
		causes = append(causes, causeWords(b.Cause))
	}
	if len(causes) == 0 {
		return "tell a person about " + where
	}
	return "tell a person about " + strings.Join(causes, " and ") + " at " + where
}

func destination(to dhalion.Setting) string {
	if to.IsZero() || to.String() == "" {
		return ""
	}
	return " to worker " + Plain(to.String())
}

func (t *text) findings(p dhalion.Plan) {
	t.title("What is wrong")
	if len(p.Findings.Diagnoses) == 0 {
		t.line("  ", "Nothing was found.")
	}
	for _, d := range p.Findings.Diagnoses {
		words := pairWords(dhalion.Pair{Target: d.Target, Cause: d.Cause})
		if d.ExplainedBy != nil {
			words += ", explained by " + pairWords(*d.ExplainedBy)
		}
		t.para(fmt.Sprintf("  %5s  ", Percent(d.Probability)), bold, words, "")
		shown, more := strongest(d.Evidence)
		for _, e := range shown {
			sign, style := "+", red // red speaks for the sickness
			if e.Weight < 0 {
				sign, style = "−", green
			}
			t.para(fmt.Sprintf("         %s%4.1f  ", sign, math.Abs(e.Weight)), style, evidenceWords(e), "")
		}
		if more > 0 {
			t.para("                ", "", fmt.Sprintf("and %d weaker ones", more), dim)
		}
	}
	if len(p.Findings.Unknown) > 0 {
		t.title("What could not be judged")
		for _, u := range grouped(p.Findings.Unknown) {
			t.line("  - ", u)
		}
	}
}

// grouped folds the unknowns that have one reason into one line.
func grouped(unknown []dhalion.Unknown) []string {
	type group struct {
		reason string
		what   []string
	}
	var groups []group
	for _, u := range unknown {
		what := Where(u.Target)
		if u.Cause != "" {
			what = pairWords(dhalion.Pair{Target: u.Target, Cause: u.Cause})
		}
		i := slices.IndexFunc(groups, func(g group) bool { return g.reason == u.Reason })
		if i < 0 {
			groups = append(groups, group{reason: u.Reason})
			i = len(groups) - 1
		}
		groups[i].what = append(groups[i].what, what)
	}
	lines := make([]string, len(groups))
	for i, g := range groups {
		what := g.what
		more := ""
		if len(what) > 4 {
			what, more = what[:3], fmt.Sprintf(" and %d more", len(g.what)-3)
		}
		lines[i] = strings.Join(what, ", ") + more + ": " + g.reason
	}
	return lines
}

func strongest(evidence []dhalion.Evidence) (shown []dhalion.Evidence, more int) {
	shown = slices.Clone(evidence)
	slices.SortStableFunc(shown, func(a, b dhalion.Evidence) int {
		return cmp.Or(cmp.Compare(math.Abs(b.Weight), math.Abs(a.Weight)), cmp.Compare(a.Name, b.Name))
	})
	if len(shown) > evidenceShown {
		more = len(shown) - evidenceShown
		shown = shown[:evidenceShown]
	}
	return shown, more
}

func evidenceWords(e dhalion.Evidence) string {
	words := e.Name
	if !math.IsNaN(e.Value) {
		words += " (" + Quantity(e.Value) + ")"
	}
	return words
}

// pairWords is a finding in words: "underprovisioned at counter", "slow worker
// tm-2".
func pairWords(p dhalion.Pair) string {
	if p.Cause == dhalion.SlowWorker && p.Target.Kind == dhalion.KindWorker {
		return "slow " + Where(p.Target)
	}
	return causeWords(p.Cause) + " at " + Where(p.Target)
}

func (t *text) actions(p dhalion.Plan) {
	t.title("What to do")
	if len(p.Actions) == 0 {
		t.line("  ", "Nothing.")
	}
	said := map[string]bool{}
	for i, a := range p.Actions {
		lead := fmt.Sprintf("  %d. ", i+1)
		t.para(lead, bold, cmp.Or(a.Message, Describe(a)), bold)
		indent := strings.Repeat(" ", columns(lead))
		for _, kv := range actionLines(a, said) {
			t.para(indent+pad(kv[0], 9), dim, kv[1], "")
		}
	}
}

// actionLines explains an action, a key and words to a line. What was said of an
// action before is not said again: one rescale has one effect on the source.
func actionLines(a dhalion.Action, said map[string]bool) [][2]string {
	var lines [][2]string
	why := make([]string, 0, len(a.Because))
	for _, b := range a.Because {
		why = append(why, pairWords(b))
	}
	reason := strings.Join(why, "; ") + " (" + bind(Percent(a.Probability)) + " sure)"
	if len(a.Because) == 0 {
		reason = "the policy's method of sizing asks for it; no cause is claimed"
		if a.Kind == dhalion.Alert {
			reason = "it was seen; no cause is claimed"
		}
	}
	lines = append(lines, [2]string{"why", reason})
	key := "before"
	for _, b := range a.Before {
		lines = append(lines, [2]string{key, Past(b)})
		key = ""
	}
	var fresh []string
	for _, part := range strings.Split(a.Expect.Summary, "; ") {
		if part != "" && !said[part] {
			said[part] = true
			fresh = append(fresh, part)
		}
	}
	if len(fresh) > 0 {
		lines = append(lines, [2]string{"expect", strings.Join(fresh, "; ")})
	}
	key = "check"
	for _, c := range a.Expect.Checks {
		words := check(c, a.Expect.WithinSeconds)
		if said[words] {
			continue
		}
		said[words] = true
		lines = append(lines, [2]string{key, words})
		key = ""
	}
	undo := ""
	switch {
	case a.Reverse != nil:
		undo = cmp.Or(a.Reverse.Summary, fmt.Sprintf("%s back to %s", a.Reverse.Kind, a.Reverse.To))
	case a.Kind == dhalion.Alert:
		undo = "nothing to undo"
	case a.Kind == dhalion.Relocate || a.Kind == dhalion.Restart:
		undo = "nothing to undo: where instances run changes, the job does not"
	default:
		undo = "no way back is known"
	}
	lines = append(lines, [2]string{"undo", undo})
	lines = append(lines, [2]string{"touches", affectsWords(a.Affects)})
	return lines
}

// Past is what came of an action before in words: "against data skew 1 met and 2
// unmet, weighing 2.4: succeeds at 59 %, its benefit counts 0.78-fold".
func Past(b dhalion.Before) string {
	return fmt.Sprintf("against %s %d met and %d unmet, weighing %s: succeeds at %s, its benefit counts %s-fold",
		causeWords(b.Cause), b.Met, b.Unmet, Quantity(b.Weight), bind(Percent(b.Probability)), Quantity(b.Factor))
}

// refusal is the reason why an alternative was refused, and what came of it before.
func refusal(a dhalion.Alternative) string {
	words := a.Reason
	for _, b := range a.Action.Before {
		words += "; before, " + Past(b)
	}
	return words
}

// Check is a check in words: "busy at counter: at most 80 % within 5 min
// (70 % to 76 % predicted)".
func Check(c dhalion.Check, withinSeconds float64) string {
	return strings.ReplaceAll(check(c, withinSeconds), nbsp, " ")
}

// Bound is what a check asks for, in words: "busy at counter: at most 80 %".
func Bound(c dhalion.Check) string { return strings.ReplaceAll(bound(c), nbsp, " ") }

func bound(c dhalion.Check) string {
	sense := "at least "
	if c.Compare == "at_most" {
		sense = "at most "
	}
	return fmt.Sprintf("%s at %s: %s%s", metricWords(c.Metric), Where(c.Target), sense, bind(Value(c.Metric, c.Value)))
}

func check(c dhalion.Check, within float64) string {
	low, high := bind(Value(c.Metric, c.Low)), bind(Value(c.Metric, c.High))
	if low != high {
		high = low + " to " + high
	}
	return fmt.Sprintf("%s within %s (%s predicted)", bound(c), bind(Duration(seconds(within))), high)
}

func affectsWords(affects []dhalion.Affected) string {
	if len(affects) == 0 {
		return "nobody"
	}
	parts := make([]string, len(affects))
	for i, a := range affects {
		if a.Instances == a.Of {
			parts[i] = fmt.Sprintf("%s: all %d instances", a.Job, a.Of)
		} else {
			parts[i] = fmt.Sprintf("%s: %d of %d instances", a.Job, a.Instances, a.Of)
		}
	}
	return strings.Join(parts, "; ")
}

// sizingRow is a line of the table of sizes: component, now, planned, required,
// remark.
type sizingRow [5]string

var sizingHead = sizingRow{"component", "now", "planned", "required", ""}

func sizingRows(p dhalion.Plan) []sizingRow {
	rows := make([]sizingRow, 0, len(p.Sizing))
	for _, s := range p.Sizing {
		required := "unknown"
		if s.Required != nil {
			required = Quantity(*s.Required)
			if s.RequiredLow != nil && s.RequiredHigh != nil {
				required += fmt.Sprintf(" (%s to %s)", Quantity(*s.RequiredLow), Quantity(*s.RequiredHigh))
			}
		}
		planned := "="
		if s.To != s.From {
			planned = fmt.Sprint(s.To)
		}
		rows = append(rows, sizingRow{Plain(s.Component), fmt.Sprint(s.From), planned, required, Plain(s.Reason)})
	}
	return rows
}

// figuresWords are a method's figures in one line: "in 109,705/s, x 1.12".
func figuresWords(s dhalion.Sizing) string {
	words := make([]string, len(s.Figures))
	for i, f := range s.Figures {
		words[i] = bind(f.Name + " " + figureValue(f))
	}
	return strings.Join(words, ", ")
}

func figureValue(f dhalion.Figure) string {
	switch f.Unit {
	case "":
		return Quantity(f.Value)
	case "1/s":
		return Quantity(f.Value) + "/s"
	}
	return Quantity(f.Value) + " " + f.Unit
}

func (t *text) sizing(p dhalion.Plan) {
	if len(p.Sizing) == 0 {
		return
	}
	t.title("Sizes")
	rows := append([]sizingRow{sizingHead}, sizingRows(p)...)
	var widths [4]int
	for _, r := range rows {
		for i := range widths {
			widths[i] = max(widths[i], columns(r[i]))
		}
	}
	// A long name must not push the numbers off the page.
	widths[0] = min(widths[0], max(12, t.width-widths[1]-widths[2]-widths[3]-30))
	for i, r := range rows {
		style := ""
		if i == 0 {
			style = dim
		}
		lead := fmt.Sprintf("  %s  %s  %s  %s  ", pad(clip(r[0], widths[0]), widths[0]), padLeft(r[1], widths[1]),
			padLeft(r[2], widths[2]), pad(r[3], widths[3]))
		if r[4] == "" {
			t.out.WriteString(t.style(style, strings.TrimRight(lead, " ")) + "\n")
		} else {
			t.para(lead, "", r[4], dim)
		}
		if i > 0 && len(p.Sizing[i-1].Figures) > 0 {
			t.para("    ", "", figuresWords(p.Sizing[i-1]), dim)
		}
	}
}

func (t *text) rest(p dhalion.Plan) {
	if len(p.Alternatives) > 0 {
		t.title("Considered and refused")
		for _, a := range p.Alternatives {
			t.line("  - ", Describe(a.Action)+": "+refusal(a))
		}
	}
	if len(p.Warnings) > 0 {
		t.title("Mind")
		for _, w := range p.Warnings {
			t.line("  - ", w.Message+" ["+w.Code+"]")
		}
	}
	t.title("Drawn from")
	t.line("  ", basisWords(p.Basis))
}

func basisWords(b dhalion.Basis) string {
	words := fmt.Sprintf("history %s, topology %s, policy %s, model %s, outcomes %s", short(b.History), short(b.Topology),
		short(b.Policy), short(b.Model), short(b.Outcomes))
	if b.Program != "" {
		words += ", by " + b.Program
	}
	return words
}

func (t *text) next(p dhalion.Plan, meta Meta) {
	steps := nextSteps(p, meta)
	if len(steps) == 0 {
		return
	}
	t.title("Next")
	width := 0
	for _, s := range steps {
		width = max(width, columns(s[0]))
	}
	for _, s := range steps {
		t.para("  "+pad(s[0], width)+"  ", "", s[1], dim)
	}
}

// nextSteps are the commands that make sense in the plan's state, each with what
// it does.
func nextSteps(p dhalion.Plan, meta Meta) [][2]string {
	if meta.ID == "" {
		return nil
	}
	approve := [2]string{Command("dhalion", "approve", meta.ID), "allow it"}
	if p.FourEyes {
		approve = [2]string{Command("dhalion", "approve", meta.ID, "--as", "NAME"), "allow it, as somebody else than its author"}
	}
	dry := [2]string{Command("dhalion", "apply", meta.ID, "--dry-run"), "see each step and do none"}
	apply := [2]string{Command("dhalion", "apply", meta.ID), "do it"}
	discard := [2]string{Command("dhalion", "discard", meta.ID), "drop it"}
	again := [2]string{Command("dhalion", "plan", string(p.Job)), "make a new plan from what is known now"}
	explain := [2]string{Command("dhalion", "explain", string(p.Job), "--at", p.AsOf.UTC().Format(time.RFC3339Nano)), "see how the findings came about"}
	switch meta.State {
	case dhalion.PlanProposed, "":
		if len(p.Actions) == 0 {
			return [][2]string{explain}
		}
		return [][2]string{approve, dry, explain, discard}
	case dhalion.PlanApproved:
		return [][2]string{dry, apply, discard}
	case dhalion.PlanApplying:
		return nil
	}
	return [][2]string{again}
}

// Markdown renders a plan for a merge request or a ticket.
func Markdown(w io.Writer, p dhalion.Plan, meta Meta) error {
	p = normal(p)
	var b bytes.Buffer
	title := "# Plan"
	if meta.ID != "" {
		title += " " + md(meta.ID)
	}
	title += " for " + md(string(p.Job))
	if meta.State != "" {
		title += " (" + md(string(meta.State)) + ")"
	}
	fmt.Fprintln(&b, title)
	fmt.Fprintln(&b)
	for _, kv := range headLines(p, meta) {
		fmt.Fprintf(&b, "- %s: %s\n", kv[0], md(kv[1]))
	}

	fmt.Fprint(&b, "\n## What is wrong\n\n")
	if len(p.Findings.Diagnoses) == 0 {
		fmt.Fprintln(&b, "Nothing was found.")
	}
	for _, d := range p.Findings.Diagnoses {
		fmt.Fprintf(&b, "- **%s** %s", md(Percent(d.Probability)), md(pairWords(dhalion.Pair{Target: d.Target, Cause: d.Cause})))
		if d.ExplainedBy != nil {
			fmt.Fprintf(&b, ", explained by %s", md(pairWords(*d.ExplainedBy)))
		}
		fmt.Fprintln(&b)
		shown, more := strongest(d.Evidence)
		for _, e := range shown {
			sign := "+"
			if e.Weight < 0 {
				sign = "−"
			}
			fmt.Fprintf(&b, "  - %s%.1f %s\n", sign, math.Abs(e.Weight), md(evidenceWords(e)))
		}
		if more > 0 {
			fmt.Fprintf(&b, "  - and %d weaker ones\n", more)
		}
	}
	if len(p.Findings.Unknown) > 0 {
		fmt.Fprint(&b, "\n## What could not be judged\n\n")
		for _, u := range grouped(p.Findings.Unknown) {
			fmt.Fprintf(&b, "- %s\n", md(u))
		}
	}

	fmt.Fprint(&b, "\n## What to do\n\n")
	if len(p.Actions) == 0 {
		fmt.Fprintln(&b, "Nothing.")
	}
	said := map[string]bool{}
	for i, a := range p.Actions {
		fmt.Fprintf(&b, "%d. **%s**\n", i+1, md(cmp.Or(a.Message, Describe(a))))
		for _, kv := range actionLines(a, said) {
			fmt.Fprintf(&b, "   - %s: %s\n", cmp.Or(kv[0], "check"), md(kv[1]))
		}
	}

	if len(p.Sizing) > 0 {
		fmt.Fprint(&b, "\n## Sizes\n\n| component | now | planned | required | remark |\n|---|--:|--:|---|---|\n")
		for i, r := range sizingRows(p) {
			remark := md(r[4])
			if words := md(figuresWords(p.Sizing[i])); words != "" && remark != "" {
				remark += "; " + words
			} else if words != "" {
				remark = words
			}
			fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", md(r[0]), r[1], r[2], r[3], remark)
		}
	}
	if len(p.Alternatives) > 0 {
		fmt.Fprint(&b, "\n## Considered and refused\n\n")
		for _, a := range p.Alternatives {
			fmt.Fprintf(&b, "- %s: %s\n", md(Describe(a.Action)), md(refusal(a)))
		}
	}
	if len(p.Warnings) > 0 {
		fmt.Fprint(&b, "\n## Mind\n\n")
		for _, wn := range p.Warnings {
			fmt.Fprintf(&b, "- %s [%s]\n", md(wn.Message), md(wn.Code))
		}
	}
	fmt.Fprintf(&b, "\n## Drawn from\n\n%s\n", md(basisWords(p.Basis)))
	if steps := nextSteps(p, meta); len(steps) > 0 {
		fmt.Fprint(&b, "\n## Next\n\n")
		for _, s := range steps {
			fmt.Fprintf(&b, "- `%s`: %s\n", s[0], md(s[1]))
		}
	}
	_, err := w.Write(b.Bytes())
	return err
}

// md escapes what Markdown or HTML would take as markup.
func md(s string) string {
	s = strings.ReplaceAll(Plain(strings.ReplaceAll(s, nbsp, " ")), `\`, `\\`)
	for _, c := range []string{"`", "*", "_", "[", "]", "|", "#"} {
		s = strings.ReplaceAll(s, c, `\`+c)
	}
	return strings.NewReplacer("<", "&lt;", ">", "&gt;").Replace(s)
}

func pad(s string, width int) string     { return s + strings.Repeat(" ", max(0, width-columns(s))) }
func padLeft(s string, width int) string { return strings.Repeat(" ", max(0, width-columns(s))) + s }

func clip(s string, width int) string {
	if columns(s) <= width {
		return s
	}
	return string([]rune(s)[:width-1]) + "…"
}

func bind(s string) string { return strings.ReplaceAll(s, " ", nbsp) }

// seconds is exact enough for people; 285 years stand for anything longer.
func seconds(s float64) time.Duration {
	return time.Duration(math.Max(-9e9, math.Min(s, 9e9)) * float64(time.Second))
}
