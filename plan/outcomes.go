package plan

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/plan/policy"
)

// What was seen of an action, as apply judges it. Anything else (unclear, refused,
// failed, not judged) says nothing about whether the action helps.
const (
	met   = "met"
	unmet = "unmet"
)

// memory is how what came of actions before counts.
//
// Whether an action does what it should against a cause is a coin of unknown bias, of
// which a Beta distribution is believed:
//
//	Beta(strength·prior + Σ w(met), strength·(1 − prior) + Σ w(unmet))
//	w = 2^(−age / halfLife) · (elsewhere, of another job or component)
//
// Its mean over the prior is the factor by which the benefit counts, at least floor:
// 1 with no outcome, at most 1/prior. By the defaults, 3/4 worth four outcomes, two
// fresh ones that were unmet give 3/6, and a factor of 2/3.
type memory struct {
	prior     float64
	strength  float64
	halfLife  time.Duration
	elsewhere float64
	floor     float64

	blacklist float64 // by the paper's method, the share of unmet ones above which an action is not used
	forgets   bool    // a published method that knows no outcomes
	forbids   bool    // the paper's method
}

// remembered is after how many half-lives an outcome is left out: it would count
// less than a thousandth.
const remembered = 10

func memoryOf(p *policy.Policy) (memory, error) {
	m := memory{
		prior: number(p, "outcome_prior", 0), strength: number(p, "outcome_prior_weight", 0), halfLife: duration(p, "outcome_half_life", 0),
		elsewhere: number(p, "outcome_elsewhere", -1), floor: number(p, "outcome_floor", 0), blacklist: number(p, "blacklist", -1),
		forgets: p.Sizing == policy.SizingDS2 || p.Sizing == policy.SizingAutoscaler, forbids: p.Sizing == policy.SizingPaper,
	}
	switch {
	case !(m.prior > 0 && m.prior < 1):
		return m, fmt.Errorf("policy %s: outcome_prior %v is not above 0 and below 1", p.Name, m.prior)
	case !(m.strength > 0):
		return m, fmt.Errorf("policy %s: outcome_prior_weight %v is not above 0", p.Name, m.strength)
	case m.halfLife <= 0:
		return m, fmt.Errorf("policy %s: outcome_half_life is no duration above 0, such as 720h", p.Name)
	case !(m.elsewhere >= 0 && m.elsewhere <= 1):
		return m, fmt.Errorf("policy %s: outcome_elsewhere %v is not within 0 and 1", p.Name, m.elsewhere)
	case !(m.floor > 0 && m.floor <= 1):
		return m, fmt.Errorf("policy %s: outcome_floor %v is not above 0 and at most 1", p.Name, m.floor)
	case !(m.blacklist >= 0 && m.blacklist <= 1):
		return m, fmt.Errorf("policy %s: blacklist %v is not within 0 and 1", p.Name, m.blacklist)
	}
	return m, nil
}

// reach is how old an outcome may be; false when none is looked at. The paper's
// blacklist forgets nothing.
func (m memory) reach() (time.Duration, bool) {
	switch {
	case m.forgets:
		return 0, false
	case m.forbids, m.halfLife > math.MaxInt64/remembered:
		return math.MaxInt64, true
	}
	return remembered * m.halfLife, true
}

// Memory says which outcomes a policy looks at.
type Memory struct {
	Job   dhalion.JobID // only of this job; empty: of all
	After time.Time     // only of actions done after this; zero: of all times
}

// Remembered is which outcomes planning for a job at a time by a policy looks at; ok
// is false where it looks at none. Those of actions done later are never looked at.
func Remembered(p *policy.Policy, job dhalion.JobID, asOf time.Time) (m Memory, ok bool, err error) {
	set, err := settingsOf(p)
	if err != nil {
		return m, false, fmt.Errorf("plan: recall outcomes of %s: %w", job, err)
	}
	reach, ok := set.memory.reach()
	if ok && reach < math.MaxInt64 {
		m.After = asOf.Add(-reach)
	}
	if set.memory.forbids || set.memory.elsewhere == 0 {
		m.Job = job
	}
	return m, ok, nil
}

// past is what came of actions before, sorted, and which of that was asked for.
type past struct {
	memory
	job  dhalion.JobID
	asOf time.Time
	list []dhalion.Outcome
	used []bool
}

func newPast(outcomes []dhalion.Outcome, m memory, job dhalion.JobID, asOf time.Time) *past {
	p := &past{memory: m, job: job, asOf: asOf}
	reach, ok := m.reach()
	if !ok {
		return p
	}
	for _, o := range outcomes {
		age := asOf.Sub(o.At)
		if (o.Judged != met && o.Judged != unmet) || age < 0 || age >= reach {
			continue
		}
		// What is digested is what counts.
		p.list = append(p.list, dhalion.Outcome{Plan: o.Plan, Action: o.Action, Job: o.Job, Kind: o.Kind, Target: o.Target,
			Argument: o.Argument, Cause: o.Cause, Judged: o.Judged, At: o.At.UTC().Truncate(time.Microsecond)})
	}
	slices.SortFunc(p.list, func(a, b dhalion.Outcome) int {
		return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.Plan, b.Plan), cmp.Compare(a.Action, b.Action), cmp.Compare(a.Job, b.Job),
			cmp.Compare(a.Kind, b.Kind), a.Target.Compare(b.Target), cmp.Compare(a.Argument, b.Argument), cmp.Compare(a.Cause, b.Cause),
			cmp.Compare(a.Judged, b.Judged))
	})
	p.used = make([]bool, len(p.list))
	return p
}

// of is what an action against a cause came to before. component is where it acts,
// empty where that does not matter; ok is false when nothing counts.
func (p *past) of(cause dhalion.Cause, kind dhalion.ActionKind, argument, component string) (b dhalion.Before, ok bool) {
	b.Cause = cause
	var helped, failed float64
	for i, o := range p.list {
		if o.Cause != cause || o.Kind != kind || o.Argument != argument {
			continue
		}
		w := 1.0
		if !p.forbids {
			w = math.Exp2(-float64(p.asOf.Sub(o.At)) / float64(p.halfLife))
		}
		if here := o.Job == p.job && (component == "" || o.Target.Component == component); !here {
			if p.forbids || p.elsewhere == 0 {
				continue
			}
			w *= p.elsewhere
		}
		p.used[i] = true
		if o.Judged == met {
			b.Met, helped = b.Met+1, helped+w
		} else {
			b.Unmet, failed = b.Unmet+1, failed+w
		}
	}
	if b.Met+b.Unmet == 0 {
		return b, false
	}
	b.Weight = helped + failed
	if p.forbids {
		b.Probability, b.Factor = helped/b.Weight, 1
		if failed/b.Weight > p.blacklist {
			b.Factor = 0
		}
		return b, true
	}
	b.Probability = (p.strength*p.prior + helped) / (p.strength + b.Weight)
	b.Factor = math.Max(p.floor, b.Probability/p.prior)
	return b, true
}

// digest is the SHA-256, in hex, over the outcomes that were used, which is that of
// nothing when none was.
func (p *past) digest() (string, error) {
	sum := sha256.New()
	lines := json.NewEncoder(sum)
	for i, o := range p.list {
		if !p.used[i] {
			continue
		}
		if err := lines.Encode(o); err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// place is the component at which it matters that an action is done: the size or
// setting of one component says little about another's. Where instances or workers
// are taken away from does not matter.
func place(kind dhalion.ActionKind, t dhalion.Target) string {
	switch kind {
	case dhalion.SetParallelism, dhalion.SetKnob, dhalion.Repartition:
		return t.Component
	}
	return ""
}

// recall weighs a proposal by what the same action against the same cause came to
// before. Freed instances are the benefit of taking them away.
func (s *Situation) recall(d dhalion.Diagnosis, p *Proposal) {
	b, ok := s.past.of(d.Cause, p.Action.Kind, p.Action.Argument, place(p.Action.Kind, p.Action.Target))
	if !ok {
		return
	}
	p.Action.Before = []dhalion.Before{b}
	p.Benefit *= b.Factor
	if p.Cost < 0 {
		p.Cost *= b.Factor
	}
	if blacklisted(*p) && p.Refused == "" {
		p.Refused = fmt.Sprintf("the paper's blacklist: it did not help %d of %d times, and %.0f %% is the limit", b.Unmet, b.Met+b.Unmet, 100*s.past.blacklist)
	}
}

// blacklisted reports whether the paper's blacklist has a proposal.
func blacklisted(p Proposal) bool {
	return slices.ContainsFunc(p.Action.Before, func(b dhalion.Before) bool { return b.Factor == 0 })
}

// both joins what came of one action against several causes, by cause.
func both(a, b []dhalion.Before) []dhalion.Before {
	for _, x := range b {
		if !slices.ContainsFunc(a, func(y dhalion.Before) bool { return x.Cause == y.Cause }) {
			a = append(slices.Clone(a), x)
		}
	}
	slices.SortFunc(a, func(x, y dhalion.Before) int { return cmp.Compare(x.Cause, y.Cause) })
	return a
}

// Trial is a sort of action that was tried against a cause, and what came of it.
type Trial struct {
	Kind     dhalion.ActionKind `json:"kind"`
	Argument string             `json:"argument,omitempty"`
	dhalion.Before
}

// Tried lists what was tried against a diagnosis, as planning at asOf by a policy
// weighs it, sorted by kind and argument.
func Tried(p *policy.Policy, d dhalion.Pair, job dhalion.JobID, asOf time.Time, outcomes []dhalion.Outcome) ([]Trial, error) {
	set, err := settingsOf(p)
	if err != nil {
		return nil, fmt.Errorf("plan: recall outcomes of %s: %w", job, err)
	}
	known := newPast(outcomes, set.memory, job, asOf)
	var all []Trial
	for _, o := range known.list {
		t := Trial{Kind: o.Kind, Argument: o.Argument}
		if o.Cause != d.Cause || slices.ContainsFunc(all, func(x Trial) bool { return x.Kind == t.Kind && x.Argument == t.Argument }) {
			continue
		}
		var ok bool
		if t.Before, ok = known.of(d.Cause, t.Kind, t.Argument, place(t.Kind, d.Target)); ok {
			all = append(all, t)
		}
	}
	slices.SortFunc(all, func(a, b Trial) int { return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Argument, b.Argument)) })
	return all, nil
}
