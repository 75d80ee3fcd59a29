// Package diagnose says which causes hold where, and how sure that is.
//
// A policy's rules speak in evidence, log-odds for or against a cause at a
// target. The sum of a cause's prior and the evidence gives a probability by the
// logistic function; then what one diagnosis explains of another is taken away
// (explain.go). A cause whose features are unknown is not judged: it is reported
// as unknown and never as absent.
//
// Where the policy's decisions are binary, a cause whose prior and evidence add up
// to more than nothing holds with probability 1, any other is not listed, and
// nothing is explained away.
package diagnose

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	dhalion "github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/detect"
	"github.com/dhalion-go/dhalion/features"
	"github.com/dhalion-go/dhalion/ingest/segment"
	"github.com/dhalion-go/dhalion/plan/policy"
)

// Listed is the probability from which a pair is reported.
const Listed = 0.05

// Result is what is wrong with a job at one time. Diagnoses are sorted by
// falling probability, then target, then cause.
type Result struct {
	Job       dhalion.JobID
	At        time.Time
	Window    dhalion.Window
	Symptoms  []dhalion.Symptom
	Diagnoses []dhalion.Diagnosis
	Unknown   []dhalion.Unknown
	// Snapshot is what the diagnoses were drawn from.
	Snapshot *features.Snapshot

	// weighed is every pair that a rule speaks of, likely or not.
	weighed map[dhalion.Pair]*judged
	short   bool // the window is too short to be judged as a whole
	// unjudged are the pairs that Unknown speaks of.
	unjudged map[dhalion.Pair]bool
	// fused is what Fuse came to, likely or not; nil: rules only.
	fused map[dhalion.Pair]float64

	reader *features.Reader // of Evaluate; nil: the past is not known
	policy *policy.Policy
	seen   detect.Result
}

// Findings is the part of a result that a plan carries.
func (r *Result) Findings() dhalion.Findings {
	return dhalion.Findings{Symptoms: r.Symptoms, Diagnoses: r.Diagnoses, Unknown: r.Unknown}
}

// FeatureOptions is how a policy asks for its features.
func FeatureOptions(p *policy.Policy) features.Options {
	external := map[string]bool{}
	for name, c := range p.Components {
		external[name] = c.External
	}
	return features.Options{Window: p.Window, Lookback: p.Lookback(), External: external}
}

// Evaluate diagnoses a job at one time from its history, which should reach back
// as far as the policy's lookback. With too little data it abstains: no
// diagnoses, and Unknown says what is missing.
func Evaluate(h *segment.History, at time.Time, p *policy.Policy) (*Result, error) {
	if p == nil {
		return nil, fmt.Errorf("diagnose: evaluate %s: no policy", h.Job)
	}
	reader := features.NewReader(h, at, FeatureOptions(p))
	seen, err := detect.Evaluate(reader, at, p)
	if err != nil {
		return nil, fmt.Errorf("diagnose: evaluate %s: %w", h.Job, err)
	}
	result, err := Conclude(seen, p)
	if err != nil {
		return nil, fmt.Errorf("diagnose: evaluate %s: %w", h.Job, err)
	}
	result.reader = reader
	return result, nil
}

// Conclude is the second half of Evaluate: what the symptoms and features that
// were seen say of the causes. An error is that there is no policy or nothing
// seen.
func Conclude(seen detect.Result, p *policy.Policy) (*Result, error) {
	snap := seen.Snapshot
	if p == nil || snap == nil {
		return nil, errors.New("diagnose: conclude: no policy, or no snapshot")
	}
	result := &Result{
		Job: snap.Job, At: snap.Window.End, Window: snap.Window, Snapshot: snap,
		Symptoms: []dhalion.Symptom{}, Diagnoses: []dhalion.Diagnosis{}, Unknown: []dhalion.Unknown{},
	}
	short := tooLittle(snap, p)
	if seen.Symptoms != nil {
		result.Symptoms = seen.Symptoms
	}
	pairs, silent := weigh(snap, seen, p, short != "")
	unknown := silent.list()
	if short != "" {
		unknown = append([]dhalion.Unknown{{Target: dhalion.JobTarget(snap.Job), Reason: short}}, unknown...)
	}
	result.Unknown = append(result.Unknown, unknown...)
	if !binary(p) {
		explain(pairs, snap)
	}
	result.weighed, result.unjudged, result.short = pairs, silent.unjudged(), short != ""
	result.policy, result.seen = p, seen
	result.Diagnoses = append(result.Diagnoses, list(pairs)...)
	return result, nil
}

func binary(p *policy.Policy) bool { return p.Decisions == policy.DecideBinary }

// tooLittle says why a window cannot be judged; empty when it can.
func tooLittle(snap *features.Snapshot, p *policy.Policy) string {
	if snap.Polls >= p.Minimum.Polls && snap.Span >= p.Minimum.Span {
		return ""
	}
	return fmt.Sprintf("too little data since %s: %d polls over %s, and the policy asks for %d over %s",
		snap.Window.Start.UTC().Format(time.RFC3339), snap.Polls, snap.Span.Round(time.Second), p.Minimum.Polls, p.Minimum.Span)
}

// judged is a pair with its probability before and after explaining away.
type judged struct {
	dhalion.Diagnosis
	alone float64 // probability on its own evidence
}

// weigh adds up the evidence for every pair that a rule speaks of. Where the
// window is too short, only what reads across windows is judged: a job that
// keeps failing never has a window long enough.
func weigh(snap *features.Snapshot, seen detect.Result, p *policy.Policy, short bool) (map[dhalion.Pair]*judged, *silence) {
	pairs := map[dhalion.Pair]*judged{}
	silent := newSilence(snap.Job)
	silent.apart = binary(p)
	for _, cause := range dhalion.Causes {
		if short && cause != dhalion.Failing {
			continue
		}
		anywhere := false
		for _, kind := range dhalion.TargetKinds {
			rules := rulesFor(p, cause, kind)
			if len(rules) == 0 {
				continue
			}
			for _, target := range snap.Targets(kind) {
				d, missing := judge(rules, p.Priors[cause], target, snap, seen, p)
				if d == nil {
					if missing != nil {
						silent.add(cause, target, missing)
					} else if possible(cause, target, snap) {
						anywhere = true // looked at, and no rule applies
					}
					continue
				}
				pair := dhalion.Pair{Target: target, Cause: cause}
				pairs[pair] = &judged{Diagnosis: *d, alone: d.Probability}
				anywhere = true
			}
		}
		if anywhere && !silent.apart {
			// Judged at some kind of target: that others say nothing of it (an engine
			// that lays no outage on a component) leaves no question open.
			silent.forget(cause)
		}
	}
	return pairs, silent
}

func rulesFor(p *policy.Policy, cause dhalion.Cause, kind dhalion.TargetKind) []policy.Rule {
	var rules []policy.Rule
	for _, r := range p.Rules {
		if r.Cause == cause && r.Target == kind {
			rules = append(rules, r)
		}
	}
	return rules
}

// envOf is what rules about a target can ask for.
func envOf(target dhalion.Target, snap *features.Snapshot, seen detect.Result, p *policy.Policy) policy.Env {
	env := policy.Env{
		Feature:   func(f string) float64 { return snap.Value(target, f) },
		Symptom:   func(name string) (bool, bool) { return seen.Symptom(name, target) },
		Score:     func(name string) float64 { return seen.Score(name, target) },
		Diagnosis: func(dhalion.Cause) float64 { return math.NaN() },
		Parameter: p.Number,
	}
	if target.Kind == dhalion.KindInstance {
		of := envOf(dhalion.ComponentTarget(target.Job, target.Component), snap, seen, p)
		env.Component = &of
	}
	return env
}

// judge is one pair. A pair of which no rule speaks is not considered: it returns
// nil. Where what the rules need is unknown it returns nil and the features
// missing: when no rule could speak, or when the first, which by convention
// carries the cause, could not and the others do not speak for it. A rule that
// fails is unknown, too. A binary decision leaves nothing to the others: with any
// rule unknown, what the rest says against the cause is not the last word.
func judge(rules []policy.Rule, prior float64, target dhalion.Target, snap *features.Snapshot, seen detect.Result, p *policy.Policy) (*dhalion.Diagnosis, []string) {
	env := envOf(target, snap, seen, p)
	d := &dhalion.Diagnosis{Target: target, Cause: rules[0].Cause, Evidence: []dhalion.Evidence{}}
	odds := prior
	var missing []string
	mainUnknown := false
	for n, rule := range rules {
		applies, known := true, true
		var err error
		if rule.When != nil {
			applies, known, err = rule.When.Bool(env)
		}
		if err == nil && known && !applies {
			continue
		}
		weight := math.NaN()
		if err == nil && known {
			weight, known, err = rule.Evidence.Number(env)
		}
		if err != nil {
			missing = append(missing, fmt.Sprintf("the answer of rule %s (%v)", rule.Name, err))
			mainUnknown = mainUnknown || n == 0
			continue
		}
		if !known {
			mainUnknown = mainUnknown || n == 0
			missing = append(missing, unknownIn(rule, target, snap, seen, p)...)
			continue
		}
		odds += weight
		e := dhalion.Evidence{Name: rule.Name, Weight: weight, Value: math.NaN()}
		if rule.Value != nil {
			if v, ok, err := rule.Value.Number(env); err == nil && ok {
				e.Value = v
			}
		}
		d.Evidence = append(d.Evidence, e)
	}
	switch {
	case binary(p) && len(missing) > 0 && odds <= 0:
		return nil, missing
	case len(missing) > 0 && (len(d.Evidence) == 0 || mainUnknown && odds <= prior):
		return nil, missing
	case len(d.Evidence) == 0:
		return nil, nil
	}
	if prior != 0 {
		d.Evidence = append([]dhalion.Evidence{{Name: "prior", Weight: prior, Value: math.NaN()}}, d.Evidence...)
	}
	d.Probability = logistic(odds)
	if binary(p) {
		d.Probability = flag(odds > 0)
	}
	return d, nil
}

// unknownIn names the features that a rule needs and that are unknown: its own,
// and those of the symptoms that it asks for.
func unknownIn(rule policy.Rule, target dhalion.Target, snap *features.Snapshot, seen detect.Result, p *policy.Policy) []string {
	var out []string
	look := func(target dhalion.Target, names []string) {
		for _, f := range names {
			if math.IsNaN(snap.Value(target, f)) {
				out = append(out, strings.TrimPrefix(f, policy.OfComponent))
			}
		}
	}
	for _, e := range []*policy.Expr{rule.When, rule.Evidence} {
		if e == nil {
			continue
		}
		look(target, e.Features())
		for _, name := range e.Symptoms() {
			of := target
			if component, ok := strings.CutPrefix(name, policy.OfComponent); ok {
				name, of = component, dhalion.ComponentTarget(target.Job, target.Component)
			}
			if _, known := seen.Symptom(name, of); known {
				continue
			}
			for _, d := range p.Detectors {
				switch {
				case d.Name != name:
				case d.Learn != nil:
					look(of, d.Learn.Of.Features())
				default:
					look(of, d.When.Features())
				}
			}
		}
	}
	if len(out) == 0 {
		out = append(out, "what rule "+rule.Name+" asks for") // a quotient by zero, a detector that failed
	}
	return out
}

func logistic(x float64) float64 { return 1 / (1 + math.Exp(-x)) }

// share makes under- and overprovisioned at one target sum to at most 1.
func share(pairs map[dhalion.Pair]*judged) {
	for pair, under := range pairs {
		if pair.Cause != dhalion.Underprovisioned {
			continue
		}
		over := pairs[dhalion.Pair{Target: pair.Target, Cause: dhalion.Overprovisioned}]
		if over == nil {
			continue
		}
		if sum := under.Probability + over.Probability; sum > 1 {
			under.Probability /= sum
			over.Probability /= sum
		}
	}
}

// list keeps what is likely enough to be said, in the order of the contract.
// Evidence is sorted by weight, so that what decided comes first, and what the voices
// alone do not come to last.
func list(pairs map[dhalion.Pair]*judged) []dhalion.Diagnosis {
	share(pairs)
	var out []dhalion.Diagnosis
	for _, d := range pairs {
		if d.Probability < Listed {
			continue
		}
		slices.SortStableFunc(d.Evidence, func(a, b dhalion.Evidence) int {
			last := func(e dhalion.Evidence) float64 { return flag(e.Name == combination) }
			return cmp.Or(cmp.Compare(last(a), last(b)), cmp.Compare(math.Abs(b.Weight), math.Abs(a.Weight)), strings.Compare(a.Name, b.Name))
		})
		out = append(out, d.Diagnosis)
	}
	slices.SortFunc(out, func(a, b dhalion.Diagnosis) int {
		return cmp.Or(cmp.Compare(b.Probability, a.Probability), a.Target.Compare(b.Target), cmp.Compare(a.Cause, b.Cause))
	})
	return out
}

// silence gathers what could not be judged: one line per cause and kind of
// target, with the features that are missing, not one per instance. Apart says to
// keep the components apart.
type silence struct {
	job     dhalion.JobID
	apart   bool
	targets map[dhalion.Pair][]dhalion.Target
	missing map[dhalion.Pair]map[string]bool
	order   []dhalion.Pair
}

func newSilence(job dhalion.JobID) *silence {
	return &silence{job: job, targets: map[dhalion.Pair][]dhalion.Target{}, missing: map[dhalion.Pair]map[string]bool{}}
}

func (s *silence) add(cause dhalion.Cause, target dhalion.Target, missing []string) {
	key := dhalion.Pair{Target: dhalion.Target{Kind: target.Kind}, Cause: cause}
	if s.apart {
		key.Target.Component = target.Component
	}
	if s.missing[key] == nil {
		s.missing[key] = map[string]bool{}
		s.order = append(s.order, key)
	}
	s.targets[key] = append(s.targets[key], target)
	for _, f := range missing {
		s.missing[key][f] = true
	}
}

func (s *silence) forget(cause dhalion.Cause) {
	s.order = slices.DeleteFunc(s.order, func(key dhalion.Pair) bool { return key.Cause == cause })
}

// unjudged are the pairs that list speaks of.
func (s *silence) unjudged() map[dhalion.Pair]bool {
	out := map[dhalion.Pair]bool{}
	for _, key := range s.order {
		for _, target := range s.targets[key] {
			out[dhalion.Pair{Target: target, Cause: key.Cause}] = true
		}
	}
	return out
}

func (s *silence) list() []dhalion.Unknown {
	var out []dhalion.Unknown
	for _, key := range s.order {
		var names []string
		for f := range s.missing[key] {
			names = append(names, f)
		}
		slices.Sort(names)
		at := dhalion.JobTarget(s.job)
		if key.Target.Component != "" {
			at = dhalion.ComponentTarget(s.job, key.Target.Component)
		}
		what := "at 1 " + string(key.Target.Kind)
		if n := len(s.targets[key]); n > 1 {
			what = fmt.Sprintf("at %d %ss", n, key.Target.Kind)
		}
		if at.Kind == dhalion.KindComponent && key.Target.Kind == dhalion.KindComponent {
			what = "here"
		}
		out = append(out, dhalion.Unknown{
			Target: at, Cause: key.Cause,
			Reason: fmt.Sprintf("not judged %s: unknown %s", what, strings.Join(names, ", ")),
		})
	}
	return out
}
