package main

import (
	"context"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/diagnose"
	"github.com/dhalion-go/dhalion/features"
	"github.com/dhalion-go/dhalion/internal/store"
	"github.com/dhalion-go/dhalion/plan"
	"github.com/dhalion-go/dhalion/plan/planfile"
	"github.com/dhalion-go/dhalion/plan/policy"
)

// explanation is a diagnosis with all that led to it.
type explanation struct {
	dhalion.Pair
	Probability float64       `json:"probability"`
	ExplainedBy *dhalion.Pair `json:"explained_by"`
	Evidence    []voice       `json:"evidence"`
	Features    []seenAt      `json:"features"`
	Neighbours  []neighbour   `json:"neighbours"`
	// Flip is the smallest change that would take it across a half; null where none of
	// one or two features does.
	Flip *flip `json:"flip"`
	// Incidents of the model's training are most like it, and Other is the one most
	// like it that was something else; without a model there are none.
	Incidents []diagnose.Likeness `json:"incidents"`
	Other     *diagnose.Likeness  `json:"other"`
	// Tried is what was done against the cause before, and what came of it.
	Tried []plan.Trial `json:"tried"`
}

// flip is what it would take, and the probability then.
type flip struct {
	Probability float64   `json:"probability"`
	Changes     []changed `json:"changes"`
}

// changed is a feature at another value; Distance is the share of the training values
// between the two.
type changed struct {
	Target   dhalion.Target `json:"target"`
	Feature  string         `json:"feature"`
	From     float64        `json:"from"`
	To       float64        `json:"to"`
	Distance float64        `json:"distance"`
}

// voice is one piece of evidence with the rule that gave it.
type voice struct {
	Name   string   `json:"name"`
	Weight float64  `json:"weight"`
	Value  *float64 `json:"value"`
	When   string   `json:"when,omitempty"`
	Rule   string   `json:"rule,omitempty"` // the expression of the weight
	File   string   `json:"file,omitempty"`
	Line   int      `json:"line,omitempty"`
}

// seenAt is a feature that the rules looked at, here and at the target's peers.
type seenAt struct {
	Name  string     `json:"name"`
	Value *float64   `json:"value"`
	Peers []peerSeen `json:"peers"`
}

type peerSeen struct {
	Target dhalion.Target `json:"target"`
	Value  *float64       `json:"value"`
}

// neighbour is a component that records come from or go to.
type neighbour struct {
	Side          string         `json:"side"` // upstream or downstream
	Target        dhalion.Target `json:"target"`
	Busy          *float64       `json:"busy_fraction"`
	Backpressured *float64       `json:"backpressured_fraction"`
	LoadRatio     *float64       `json:"load_ratio"`
}

func number(v float64) *float64 {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return nil
	}
	return &v
}

func (a *app) explainCommand() *cobra.Command {
	var f judgeFlags
	var causeFlag, targetFlag string
	c := &cobra.Command{
		Use:   "explain JOB",
		Short: "Show how diagnoses came about, what would change them, and what is like them",
		Long: `Show how diagnoses came about: the rules and other voices, the numbers behind them, peers and
neighbours; the smallest change of one or two of these numbers by which the answer would be
another; and the incidents most like it that the model learned from. With --cause and --target
that is said of an unlikely diagnosis, too.`,
		Example: `  dhalion explain wordcount --at 2026-11-22T08:40:16.879Z
  dhalion explain wordcount --cause slow_instance --target 'counter[3]'`,
		Args:              one("JOB"),
		ValidArgsFunction: a.completeJob(),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.check(); err != nil {
				return err
			}
			cause, err := parseCause(causeFlag)
			if err != nil {
				return err
			}
			return a.withStore(cmd.Context(), func(ctx context.Context, st *store.Store) error {
				e, err := a.evaluate(ctx, st, args[0], f)
				if err != nil {
					return err
				}
				of := meant(e.result.Snapshot, targetFlag)
				if err := askable(e.result.Snapshot, cause, targetFlag, of); err != nil {
					return err
				}
				explained, unlikely := []explanation{}, []explanation{}
				q := e.result.Ask(e.model)
				for _, d := range e.result.Diagnoses {
					if (cause == "" || d.Cause == cause) && (targetFlag == "" || of(d.Target)) {
						explained = append(explained, explain(e, q, d))
					}
				}
				if len(explained) == 0 && cause != "" && targetFlag != "" {
					unlikely = explainUnlikely(e, q, cause, of)
				}
				if err := tried(ctx, st, e, explained, unlikely); err != nil {
					return err
				}
				if a.json() {
					return a.writeJSON(struct {
						Job       dhalion.JobID     `json:"job"`
						At        time.Time         `json:"at"`
						Diagnoses []explanation     `json:"diagnoses"`
						Unlikely  []explanation     `json:"unlikely"` // asked for and below 5 %
						Unknown   []dhalion.Unknown `json:"unknown"`
					}{e.job, e.at, explained, unlikely, list(e.result.Unknown)})
				}
				a.head(e, e.result.Window)
				switch {
				case len(explained)+len(unlikely) > 0:
					for _, x := range append(explained, unlikely...) {
						a.explanation(e, x)
					}
				case len(e.result.Diagnoses) > 0:
					a.printf("\nNo such diagnosis is as likely as 5 %%. Those that are:\n\n")
					a.diagnoses(e.result.Diagnoses)
				default:
					a.printf("\n")
					a.verdict(ctx, st, e)
				}
				a.unknown(e.result.Unknown)
				a.next(
					[2]string{command("plan", string(e.job), "--at", stamp(e.at)), "see what to do"},
					[2]string{command("policy", "show", e.policy.Name), "see all rules"},
				)
				return nil
			})
		},
	}
	a.judgeFlags(c, &f)
	a.modelFlag(c, &f)
	c.Flags().StringVar(&causeFlag, "cause", "", "only this `cause`")
	c.Flags().StringVar(&targetFlag, "target", "", "only this `target`: counter, counter[3], tm-2 or worker:tm-2, job")
	causes := make([]string, len(dhalion.Causes))
	for i, known := range dhalion.Causes {
		causes[i] = string(known)
	}
	a.complete(c, "cause", causes...)
	return c
}

// tried fills in what was done against each cause before.
func tried(ctx context.Context, st past, e *evaluation, lists ...[]explanation) error {
	outcomes, err := recalled(ctx, st, e)
	if err != nil {
		return err
	}
	for _, of := range lists {
		for i := range of {
			trials, err := plan.Tried(e.policy, of[i].Pair, e.job, e.at, outcomes)
			if err != nil {
				return err
			}
			of[i].Tried = list(trials)
		}
	}
	return nil
}

func parseCause(s string) (dhalion.Cause, error) {
	if s == "" {
		return "", nil
	}
	cause := dhalion.Cause(strings.NewReplacer(" ", "_", "-", "_").Replace(strings.ToLower(s)))
	if !cause.Valid() {
		names := make([]string, len(dhalion.Causes))
		for i, c := range dhalion.Causes {
			names[i] = string(c)
		}
		return "", usagef("--cause %q is none of %s", s, strings.Join(names, ", "))
	}
	return cause, nil
}

// meant picks the targets that a person may mean by a name: those that are called so,
// and where none is the worker that is behind the prefix.
func meant(snap *features.Snapshot, name string) func(dhalion.Target) bool {
	called := func(t dhalion.Target) bool {
		if t.Kind == dhalion.KindWorker {
			return name == t.Worker
		}
		return name == t.String() || t.Kind == dhalion.KindInstance && name == t.Component
	}
	w, prefixed := workerNamed(name)
	for _, kind := range dhalion.TargetKinds {
		prefixed = prefixed && !slices.ContainsFunc(snap.Targets(kind), called)
	}
	if prefixed {
		return func(t dhalion.Target) bool { return t.Kind == dhalion.KindWorker && t.Worker == w }
	}
	return called
}

// askable says that nothing that is seen of the job has a target's name, or that none of
// what has it is judged for the cause, and what there is. Where nothing is seen nobody
// knows.
func askable(snap *features.Snapshot, cause dhalion.Cause, name string, of func(dhalion.Target) bool) error {
	if name == "" || len(snap.Targets(dhalion.KindComponent)) == 0 {
		return nil
	}
	var judged []string
	known, first := false, dhalion.Target{}
	for _, kind := range dhalion.TargetKinds {
		for _, t := range snap.Targets(kind) {
			known = known || of(t)
			switch {
			case cause != "" && !slices.Contains(policy.Kinds[cause], kind):
			case of(t):
				return nil
			case kind == dhalion.KindInstance && t.Component == first.Component:
				judged[len(judged)-1] = fmt.Sprintf("%s to %s", first, t)
			default:
				first = dhalion.Target{}
				if kind == dhalion.KindInstance {
					first = t
				}
				judged = append(judged, t.String())
			}
		}
	}
	there := strings.Join(judged, ", ")
	switch {
	case !known:
		return usagef("--target %q: the job has no such target then: there are %s", name, there)
	case there == "":
		return usagef("--target %q: %s is not judged there, and the job has nothing at which it is", name, cause)
	}
	return usagef("--target %q: %s is not judged there, but at %s", name, cause, there)
}

// How many incidents that are like a diagnosis are named.
const mostLike = 3

// explainUnlikely explains pairs of a cause that are below what is listed.
func explainUnlikely(e *evaluation, q *diagnose.Inquiry, cause dhalion.Cause, of func(dhalion.Target) bool) []explanation {
	all := []explanation{}
	for _, kind := range policy.Kinds[cause] {
		for _, t := range e.result.Snapshot.Targets(kind) {
			if !of(t) {
				continue
			}
			if f, ok := q.Flip(dhalion.Pair{Target: t, Cause: cause}); ok {
				all = append(all, explain(e, q, dhalion.Diagnosis{Target: t, Cause: cause, Probability: f.Probability}))
			}
		}
	}
	return all
}

// explain gathers what led to a diagnosis.
func explain(e *evaluation, q *diagnose.Inquiry, d dhalion.Diagnosis) explanation {
	snap := e.result.Snapshot
	x := explanation{
		Pair: dhalion.Pair{Target: d.Target, Cause: d.Cause}, Probability: d.Probability, ExplainedBy: d.ExplainedBy,
		Evidence: []voice{}, Features: []seenAt{}, Neighbours: []neighbour{},
	}
	if f, ok := q.Flip(x.Pair); ok && len(f.Changes) > 0 {
		x.Flip = &flip{Probability: f.Then}
		for _, c := range f.Changes {
			x.Flip.Changes = append(x.Flip.Changes, changed(c))
		}
	}
	x.Incidents, x.Other = q.MostLike(x.Pair, mostLike)
	x.Incidents = list(x.Incidents)
	var looked []string
	for _, ev := range d.Evidence {
		v := voice{Name: ev.Name, Weight: ev.Weight, Value: number(ev.Value)}
		if r, ok := ruleOf(e.policy, d, ev.Name); ok {
			v.File, v.Line = r.File, r.Line
			for _, part := range []*policy.Expr{r.Value, r.Evidence, r.When} {
				if part != nil {
					looked = append(looked, part.Features()...)
				}
			}
			if r.When != nil {
				v.When = r.When.String()
			}
			if r.Evidence != nil {
				v.Rule = r.Evidence.String()
			}
		}
		x.Evidence = append(x.Evidence, v)
	}
	peers := peersOf(snap, d.Target)
	seen := map[string]bool{}
	for _, name := range looked {
		if seen[name] {
			continue
		}
		seen[name] = true
		s := seenAt{Name: name, Value: number(snap.Value(d.Target, name)), Peers: []peerSeen{}}
		for _, p := range peers {
			s.Peers = append(s.Peers, peerSeen{p, number(snap.Value(p, name))})
		}
		x.Features = append(x.Features, s)
	}
	if d.Target.Component != "" {
		look := func(side string, names []string) {
			for _, name := range names {
				t := dhalion.ComponentTarget(e.job, name)
				x.Neighbours = append(x.Neighbours, neighbour{
					side, t, number(snap.Value(t, string(dhalion.Busy))), number(snap.Value(t, string(dhalion.Backpressured))), number(snap.Value(t, "load_ratio")),
				})
			}
		}
		look("upstream", snap.Topology.Upstream(d.Target.Component))
		look("downstream", snap.Topology.Downstream(d.Target.Component))
	}
	return x
}

func ruleOf(p *policy.Policy, d dhalion.Diagnosis, name string) (policy.Rule, bool) {
	i := slices.IndexFunc(p.Rules, func(r policy.Rule) bool {
		return r.Name == name && r.Cause == d.Cause && r.Target == d.Target.Kind
	})
	if i < 0 {
		return policy.Rule{}, false
	}
	return p.Rules[i], true
}

// peersOf are the targets that one is compared with: the other instances of its
// component, the other components, the other workers.
func peersOf(snap *features.Snapshot, t dhalion.Target) []dhalion.Target {
	var peers []dhalion.Target
	for _, other := range snap.Targets(t.Kind) {
		if other != t && (t.Kind != dhalion.KindInstance || other.Component == t.Component) {
			peers = append(peers, other)
		}
	}
	return peers
}

// explanation writes one diagnosis.
func (a *app) explanation(e *evaluation, x explanation) {
	a.title(fmt.Sprintf("%s at %s: %s", words(x.Cause), planfile.Where(x.Target), planfile.Percent(x.Probability)))
	sum := 0.0
	for _, v := range x.Evidence {
		sum += v.Weight
	}
	if x.ExplainedBy != nil {
		a.printf("  %s\n", wrap(fmt.Sprintf("This is what remains beside %s at %s, which explains the rest: on its own evidence it is %s.",
			words(x.ExplainedBy.Cause), planfile.Where(x.ExplainedBy.Target), planfile.Percent(1/(1+math.Exp(-sum)))), a.width()-2, "  "))
	}
	if len(x.Evidence) > 0 {
		a.printf("  %s\n", a.style(dim, fmt.Sprintf("evidence, in log-odds; together %s", weight(sum))))
	}
	for _, v := range x.Evidence {
		if v.Weight == 0 && v.Rule == "" {
			continue // a prior of even odds says nothing
		}
		line := fmt.Sprintf("  %s  %s", padLeft(weight(v.Weight), 5), strings.ReplaceAll(v.Name, "-", " "))
		if v.Value != nil {
			line += " (" + planfile.Quantity(*v.Value) + ")"
		}
		a.printf("%s\n", plain(line))
		if v.Rule == "" {
			continue
		}
		const indent = "         "
		if v.When != "" {
			a.printf("%s%s\n", indent, a.style(dim, "when   ")+wrap(plain(v.When), a.width()-16, indent+"       "))
		}
		a.printf("%s%s\n", indent, a.style(dim, "gives  ")+wrap(plain(v.Rule), a.width()-16, indent+"       "))
		if with := parametersIn(e.policy, v.When+" "+v.Rule); with != "" {
			a.printf("%s%s\n", indent, a.style(dim, "with   ")+wrap(plain(with), a.width()-16, indent+"       "))
		}
		a.printf("%s%s\n", indent, a.style(dim, fmt.Sprintf("from   %s:%d", plain(v.File), v.Line)))
	}
	if len(x.Features) > 0 {
		a.printf("  %s\n", a.style(dim, "the numbers behind it"))
		t := &table{head: []string{"", ">here", "peers"}, wide: 2}
		for _, s := range x.Features {
			t.add(s.Name, quantity(s.Value), peerWords(s.Peers))
		}
		a.table("    ", t)
	}
	if len(x.Neighbours) > 0 {
		a.printf("  %s\n", a.style(dim, "its neighbours"))
		t := &table{head: []string{"", "", ">busy", ">backpressured", ">load ratio"}, wide: 1}
		for _, n := range x.Neighbours {
			t.add(n.Side, planfile.Where(n.Target), percent(n.Busy), percent(n.Backpressured), quantity(n.LoadRatio))
		}
		a.table("    ", t)
	}
	a.flip(x)
	a.alike(x)
	a.tried(x)
}

// tried writes what was done against a cause before.
func (a *app) tried(x explanation) {
	if len(x.Tried) == 0 {
		return
	}
	a.printf("  %s\n", a.style(dim, "what was done against it before"))
	for _, t := range x.Tried {
		what := string(t.Kind)
		if t.Argument != "" {
			what += " " + t.Argument
		}
		a.printf("    %s\n", wrap(plain(what+" "+planfile.Past(t.Before)), a.width()-4, "    "))
	}
}

// flip writes what would change a diagnosis.
func (a *app) flip(x explanation) {
	a.printf("  %s\n", a.style(dim, "what would change its mind"))
	if x.Flip == nil {
		a.printf("    no change of one or two of these numbers\n")
		return
	}
	var parts []string
	for _, c := range x.Flip.Changes {
		side := "above"
		if c.To < c.From {
			side = "below"
		}
		if c.To == 0 {
			side = "to"
		}
		parts = append(parts, fmt.Sprintf("%s of %s %s -> %s %s", c.Feature, planfile.Where(c.Target), planfile.Quantity(c.From), side, planfile.Quantity(c.To)))
	}
	a.printf("    %s\n", wrap(plain(strings.Join(parts, ", and ")), a.width()-4, "    "))
}

// alike writes which incidents of the training are like a diagnosis.
func (a *app) alike(x explanation) {
	if len(x.Incidents) == 0 && x.Other == nil {
		return
	}
	a.printf("  %s\n", a.style(dim, "most like it, of what the model learned from"))
	t := &table{head: []string{">alike", "", "", "incident"}, wide: 3}
	add := func(l diagnose.Likeness, what string) {
		t.add(planfile.Percent(l.Likeness), what, l.Magnitude, l.Incident)
	}
	for _, l := range x.Incidents {
		add(l, fmt.Sprintf("%s at %s", words(x.Cause), planfile.Where(l.Target)))
	}
	if o := x.Other; o != nil {
		what := "nothing was wrong"
		if len(o.Held) > 0 {
			what = fmt.Sprintf("%s at %s", words(o.Held[0].Cause), planfile.Where(o.Held[0].Target))
			if n := len(o.Held) - 1; n > 0 {
				what += fmt.Sprintf(" and %d more", n)
			}
		}
		add(*o, "but at "+planfile.Where(o.Target)+": "+what)
	}
	a.table("    ", t)
}

func quantity(v *float64) string {
	if v == nil {
		return "unknown"
	}
	return planfile.Quantity(*v)
}

func percent(v *float64) string {
	if v == nil {
		return "unknown"
	}
	return planfile.Percent(*v)
}

// peerWords says how a feature is spread over the peers: all of a few, else the
// ends and the middle.
func peerWords(peers []peerSeen) string {
	var values []peerSeen
	for _, p := range peers {
		if p.Value != nil {
			values = append(values, p)
		}
	}
	switch {
	case len(peers) == 0:
		return "-"
	case len(values) == 0:
		return "unknown"
	}
	slices.SortStableFunc(values, func(x, y peerSeen) int {
		switch {
		case *x.Value < *y.Value:
			return -1
		case *x.Value > *y.Value:
			return 1
		}
		return x.Target.Compare(y.Target)
	})
	say := func(p peerSeen) string { return planfile.Quantity(*p.Value) + " at " + planfile.Where(p.Target) }
	if *values[0].Value == *values[len(values)-1].Value {
		return fmt.Sprintf("%s at all %d", planfile.Quantity(*values[0].Value), len(values))
	}
	if len(values) <= 3 {
		var parts []string
		for _, p := range values {
			parts = append(parts, say(p))
		}
		return strings.Join(parts, ", ")
	}
	middle := (*values[(len(values)-1)/2].Value + *values[len(values)/2].Value) / 2
	return fmt.Sprintf("%s, median %s, %s", say(values[0]), planfile.Quantity(middle), say(values[len(values)-1]))
}

var identifier = regexp.MustCompile(`[A-Za-z_][A-Za-z0-9_]*`)

// parametersIn lists the policy's parameters that an expression names.
func parametersIn(p *policy.Policy, text string) string {
	var parts []string
	seen := map[string]bool{}
	for _, name := range identifier.FindAllString(text, -1) {
		if v, ok := p.Parameters.Text(name); ok && !seen[name] {
			seen[name] = true
			parts = append(parts, name+" = "+v)
		}
	}
	return strings.Join(parts, ", ")
}
