package plan

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/plan/planfile"
	"github.com/dhalion-go/dhalion/plan/policy"
)

// Resolver proposes actions against a cause. It never acts, and it leaves the
// choice to the planner: whether a diagnosis is likely enough, what the policy
// allows and what conflicts is not its concern. For a diagnosis that is not its
// own it proposes nothing.
type Resolver interface {
	Propose(d dhalion.Diagnosis, s *Situation) []Proposal
}

// ResolverFunc makes a function a Resolver.
type ResolverFunc func(d dhalion.Diagnosis, s *Situation) []Proposal

// Propose calls f.
func (f ResolverFunc) Propose(d dhalion.Diagnosis, s *Situation) []Proposal { return f(d, s) }

// Proposal is an action with what speaks for and against it. Benefit, Cost and
// the disruption that follows from Stops are in the units of the package comment.
type Proposal struct {
	Action  dhalion.Action
	Benefit float64 // share of the offered load restored, if the cause holds
	Cost    float64 // of instances added; negative: freed
	Stops   float64 // seconds for which the touched instances stand still

	// Follows marks an action that is proposed only because another one of the
	// same resolver is: the next bottleneck is scaled together with the first.
	Follows bool

	// Refused is the reason why this must not be done; the planner lists it as an
	// alternative.
	Refused string
}

// Resolvers are the built-in ones.
func Resolvers() []Resolver {
	return []Resolver{
		ResolverFunc(scaleUp),
		ResolverFunc(scaleDown),
		ResolverFunc(relocate),
		ResolverFunc(rebalance),
		ResolverFunc(alert),
		ResolverFunc(wait),
	}
}

// floor is the least benefit of an action whose cause costs no throughput yet:
// latency and headroom are worth a twentieth of the load.
const floor = 0.05

// slowdown is the least factor by which a slow instance is slow, by the cause's
// definition; the real one is not known here.
const slowdown = 1.5

// told is the benefit of telling a person: little, but above nothing.
const told = 0.01

func (s *Situation) action(kind dhalion.ActionKind, d dhalion.Diagnosis, target dhalion.Target) dhalion.Action {
	return dhalion.Action{
		Kind: kind, Target: target, Because: []dhalion.Pair{pairOf(d)}, Probability: d.Probability,
		Expect: dhalion.Expectation{Checks: []dhalion.Check{}}, Affects: []dhalion.Affected{},
	}
}

// rescale proposes to change a component's parallelism. What it should achieve is
// filled in when all sizes of the plan are known.
func (s *Situation) rescale(d dhalion.Diagnosis, z *size, to int) Proposal {
	return s.resize(s.action(dhalion.SetParallelism, d, dhalion.ComponentTarget(s.Job, z.load.Component)), z, to)
}

// resize fills in a change of parallelism.
func (s *Situation) resize(a dhalion.Action, z *size, to int) Proposal {
	a.From, a.To = dhalion.NumberSetting(float64(z.now)), dhalion.NumberSetting(float64(to))
	a.Message = fmt.Sprintf("Scale %s from %d to %d %s", z.load.Component, z.now, to, plural(to, "instance"))
	a.Reverse = &dhalion.Reversal{
		Kind: dhalion.SetParallelism, Target: a.Target, From: a.To, To: a.From,
		Summary: fmt.Sprintf("set %s back to %d %s", z.load.Component, z.now, plural(z.now, "instance")),
	}
	// A rescale restarts the whole job (Flink's adaptive scheduler).
	n := s.Topology.Instances()
	a.Affects = []dhalion.Affected{{Job: s.Job, Instances: n, Of: n}}
	return Proposal{
		Action: a,
		Cost:   s.set.price * float64(to-z.now) / float64(max(1, n)),
		Stops:  s.set.restart.Seconds(),
	}
}

// scaleUp answers underprovisioned: the component itself, and with it every other
// that would be the next to hold up the load.
func scaleUp(d dhalion.Diagnosis, s *Situation) []Proposal {
	if d.Cause != dhalion.Underprovisioned || d.Target.Kind != dhalion.KindComponent {
		return nil
	}
	z := s.size(d.Target.Component)
	if z == nil {
		return refused(s.alert(d, "is said to have too few instances"), "a source is never scaled: it reads what arrives")
	}
	own := s.grow(d, z)
	switch {
	case !z.known:
		return refused(own, fmt.Sprintf("the size that %s needs cannot be worked out: %s", z.load.Component, z.why))
	case z.to <= z.now && z.want > z.now:
		return refused(own, fmt.Sprintf("%s wants %d instances, and %s allows %d", z.load.Component, z.want, z.bound, z.most))
	case z.to <= z.now && s.set.published():
		return refused(own, fmt.Sprintf("the method asks for %.3g of %d instances", z.required, z.now))
	case z.to <= z.now:
		return refused(own, fmt.Sprintf("by the estimate %.3g of %d instances are enough for the offered load at %.0f %% utilisation",
			z.required, z.now, 100*s.set.target))
	}
	proposals := []Proposal{own}
	if s.set.sizing == policy.SizingPaper {
		return proposals // one component at a time
	}
	for i := range s.sizes {
		other := &s.sizes[i]
		if other == z || !other.known || other.to <= other.now {
			continue
		}
		p := s.grow(d, other)
		p.Follows = true
		proposals = append(proposals, p)
	}
	return proposals
}

func (s *Situation) grow(d dhalion.Diagnosis, z *size) Proposal {
	to := z.to
	if to <= z.now {
		to = max(z.want, z.now+1) // what is refused names what would have been done
	}
	p := s.rescale(d, z, to)
	p.Benefit = floor
	if z.rated() {
		p.Benefit = math.Max(floor, 1-1/z.utilisation(z.now))
	}
	return p
}

// scaleDown answers overprovisioned, of a component or of the job.
func scaleDown(d dhalion.Diagnosis, s *Situation) []Proposal {
	if d.Cause != dhalion.Overprovisioned {
		return nil
	}
	var proposals []Proposal
	for i := range s.sizes {
		z := &s.sizes[i]
		if d.Target.Kind == dhalion.KindComponent && z.load.Component != d.Target.Component {
			continue
		}
		if z.known && z.down < z.now {
			proposals = append(proposals, s.rescale(d, z, z.down))
			continue
		}
		if d.Target.Kind != dhalion.KindComponent {
			continue
		}
		p := s.rescale(d, z, max(1, z.now-1))
		if !z.known {
			return refused(p, fmt.Sprintf("the size that %s needs cannot be worked out: %s", z.load.Component, z.why))
		}
		if s.set.published() {
			return refused(p, fmt.Sprintf("the method leaves %s its %s", z.load.Component, count(z.now, "instance")))
		}
		return refused(p, fmt.Sprintf("with headroom %s needs %d of its %d instances", z.load.Component, z.down, z.now))
	}
	if len(proposals) == 0 {
		return refused(s.alert(d, "is said to have too many instances"), "no component can go to fewer instances with headroom left")
	}
	return proposals
}

// relocate answers slow instances and slow workers: away from the worker, or,
// where there is no other, a restart.
func relocate(d dhalion.Diagnosis, s *Situation) []Proposal {
	var worker string
	switch d.Cause {
	case dhalion.SlowWorker:
		worker = d.Target.Worker
	case dhalion.SlowInstance:
		worker = s.Topology.WorkerOf(d.Target.Component, d.Target.Instance)
	default:
		return nil
	}
	proposals := s.scalingCannotMend(d, "the slow one stays slow and keeps its share")
	if worker == "" {
		p := s.alert(d, "is slow, and where it runs is not known: find its machine and move it, or restart it")
		return append(proposals, p)
	}
	on, workers := s.placed()
	n, all := len(on[worker]), s.Topology.Instances()
	if n == 0 {
		n = 1 // a worker that the diagnosis saw and the placement does not list
	}
	var a dhalion.Action
	if len(workers) > 1 || (len(workers) == 1 && workers[0] != worker) {
		a = s.action(dhalion.Relocate, d, d.Target)
		a.From, a.To = dhalion.TextSetting(worker), dhalion.TextSetting("") // to any other
		a.Message = fmt.Sprintf("Move the %s of worker %s to other workers", count(n, "instance"), worker)
		if d.Target.Kind == dhalion.KindInstance {
			a.Message = fmt.Sprintf("Move %s off worker %s, with the %s there", d.Target, worker, count(n, "instance"))
		}
		a.Expect.Summary = "its instances run as fast as their peers again"
	} else {
		target := d.Target
		if target.Kind == dhalion.KindInstance {
			target, n = dhalion.JobTarget(s.Job), all
		}
		a = s.action(dhalion.Restart, d, target)
		a.Message = fmt.Sprintf("Restart %s: there is no other worker to move %s to", words(target), words(d.Target))
		a.Expect.Summary = "after the restart " + words(d.Target) + " runs as fast as its peers"
	}
	a.Affects = s.affected(a, worker, n)
	components := []string{d.Target.Component}
	if d.Cause == dhalion.SlowWorker {
		components = nil
		for _, p := range on[worker] {
			components = append(components, p.Component)
		}
		slices.Sort(components)
		components = slices.Compact(components)
	}
	benefit := 2 * floor
	for _, c := range components {
		// n instances of which one is slowed by k carry, dealt out evenly, 1/k of what
		// they could: at utilisation u the loss is 1 − 1/(k·u).
		if z := s.size(c); z != nil && z.rated() {
			benefit = math.Max(benefit, 1-1/(slowdown*z.utilisation(z.now)))
		}
	}
	return append(proposals, Proposal{Action: a, Benefit: benefit, Stops: s.set.restart.Seconds()})
}

// affected are all jobs with an instance on a worker that an action empties or
// restarts, sorted by name, n instances of this one.
func (s *Situation) affected(a dhalion.Action, worker string, n int) []dhalion.Affected {
	all := []dhalion.Affected{{Job: s.Job, Instances: n, Of: s.Topology.Instances()}}
	if a.Target.Kind == dhalion.KindJob {
		return all // the job alone restarts
	}
	for _, other := range s.neighbours {
		if on := other.On[worker]; on > 0 {
			all = append(all, dhalion.Affected{Job: other.Job, Instances: on, Of: other.Instances})
		}
	}
	slices.SortFunc(all, func(x, y dhalion.Affected) int { return cmp.Compare(x.Job, y.Job) })
	return all
}

// rebalance answers data skew: where the engine deals key groups out unevenly,
// another parallelism; a hot key is never answered by scaling, but by a knob of the
// policy that mends it, else by a person.
func rebalance(d dhalion.Diagnosis, s *Situation) []Proposal {
	if d.Cause != dhalion.DataSkew {
		return nil
	}
	z := s.size(d.Target.Component)
	if proposals := s.regroup(d, z); proposals != nil {
		return proposals
	}
	proposals := s.scalingCannotMend(d, "the hot key stays on one instance")
	benefit := 2 * floor
	share := math.NaN()
	if z != nil {
		share = z.load.SkewShare
		if z.rated() && share > 1 {
			benefit = math.Max(benefit, 1-1/(share*z.utilisation(z.now)))
		}
	}
	component, _ := s.Topology.Component(d.Target.Component)
	instances := component.Parallelism
	found := false
	var spent []string // knobs that have no value left
	for _, k := range s.set.knobs {
		if k.Mends != dhalion.DataSkew || (k.Component != "" && k.Component != d.Target.Component) || len(k.Values) == 0 {
			continue
		}
		a := s.action(dhalion.SetKnob, d, dhalion.ComponentTarget(s.Job, d.Target.Component))
		a.Argument = k.Argument
		a.From = present(k, s.arguments)
		if a.To = pick(k, a.From, share, instances); a.To.IsZero() {
			a.To = a.From
			a.Message = fmt.Sprintf("Set %s of %s", k.Argument, d.Target.Component)
			spent = append(spent, fmt.Sprintf("%s is at %s already, and the policy has no value beyond that", k.Argument, a.From))
			proposals = append(proposals, refused(Proposal{Action: a, Benefit: benefit, Stops: s.set.restart.Seconds()}, spent[len(spent)-1])...)
			continue
		}
		found = true
		if !a.From.IsZero() {
			a.Reverse = &dhalion.Reversal{Kind: dhalion.SetKnob, Target: a.Target, From: a.To, To: a.From,
				Summary: fmt.Sprintf("set %s back to %s", k.Argument, a.From)}
		}
		a.Message = fmt.Sprintf("Set %s to %s, which spreads the hot keys of %s", k.Argument, a.To, d.Target.Component)
		a.Expect.Summary = fmt.Sprintf("the records of %s are shared out evenly", d.Target.Component)
		// Arguments change by a restart of the whole job.
		n := s.Topology.Instances()
		a.Affects = []dhalion.Affected{{Job: s.Job, Instances: n, Of: n}}
		proposals = append(proposals, Proposal{Action: a, Benefit: benefit, Stops: s.set.restart.Seconds()})
	}
	if !found {
		hot := "more than"
		if share >= slowdown {
			hot = fmt.Sprintf("%.2g times", share)
		}
		what := "declare a knob that does it in the policy (mends: data_skew)"
		if len(spent) > 0 {
			what = "give the policy more values for its knob: " + strings.Join(spent, "; ")
		}
		proposals = append(proposals, s.alert(d, fmt.Sprintf("gets %s its share of the records: split its hot keys (salt them, or combine before "+
			"the shuffle), or %s%s", hot, what, s.keysTogether(d))))
	}
	return proposals
}

// advice is what to tell a person about the causes that only a person can mend.
var advice = map[dhalion.Cause]string{
	dhalion.SinkLimited: "takes longer per record than in its healthy past, in all instances, while the load has not risen: look at the system " +
		"behind it; more instances would press that harder",
	dhalion.SourceLimited: "reads less than arrives while nothing downstream pushes back: look at partitions, quotas, fetch sizes and " +
		"the network between it and what it reads from",
	dhalion.MemoryPressure:    "is short of memory: give it a larger heap, or find what holds on to it; moving its instances moves the trouble along",
	dhalion.CheckpointFailing: "cannot finish its checkpoints, and a failure now would replay far back: look at state size, checkpoint storage and backpressure",
	dhalion.Failing:           "keeps failing: look at the exceptions in its log before anything is resized",
}

// alert answers what only a person can mend.
func alert(d dhalion.Diagnosis, s *Situation) []Proposal {
	words, ok := advice[d.Cause]
	if !ok {
		return nil
	}
	var proposals []Proposal
	if d.Cause == dhalion.SinkLimited {
		proposals = s.scalingCannotMend(d, "what limits it is outside the job")
	}
	return append(proposals, s.alert(d, words))
}

// wait answers a transient, by doing nothing.
func wait(d dhalion.Diagnosis, s *Situation) []Proposal {
	if d.Cause != dhalion.Transient {
		return nil
	}
	return refused(s.alert(d, "has a passing backlog"),
		fmt.Sprintf("no action: it is predicted to drain by itself within %.0f s", s.set.patience.Seconds()))
}

// alert asks a person. What is said begins with a verb; the target goes before.
func (s *Situation) alert(d dhalion.Diagnosis, what string) Proposal {
	a := s.action(dhalion.Alert, d, d.Target)
	where := words(d.Target)
	a.Message = strings.ToUpper(where[:1]) + where[1:] + " " + what
	if d.Target.Kind == dhalion.KindComponent || d.Target.Kind == dhalion.KindInstance {
		a.Message = where + " " + what // names keep their letters
	}
	a.Expect.Summary = "a person looks at it; nothing is changed"
	return Proposal{Action: a, Benefit: told}
}

// meddled is the alert that somebody else changes the parallelism of the job, where
// that is so. No cause is claimed.
func (s *Situation) meddled() []dhalion.Action {
	foreign, until := dhalion.Foreign(s.changes, s.AsOf)
	if until.IsZero() || !s.set.allows(dhalion.Alert) {
		return nil
	}
	return []dhalion.Action{{
		Kind: dhalion.Alert, Target: dhalion.JobTarget(s.Job), Because: []dhalion.Pair{}, Affects: []dhalion.Affected{}, Utility: told,
		Message: fmt.Sprintf("Find out who else changes the job's parallelism: %s; until %s nothing is applied to it", planfile.Changes(foreign), until.UTC().Format(time.RFC3339)),
		Expect:  dhalion.Expectation{Summary: "a person looks at it; nothing is changed", Checks: []dhalion.Check{}},
	}}
}

// scalingCannotMend is the answer that is never given, written down because it is
// what an autoscaler would do.
func (s *Situation) scalingCannotMend(d dhalion.Diagnosis, because string) []Proposal {
	z := s.size(d.Target.Component)
	if z == nil {
		return nil
	}
	return refused(s.grow(d, z), fmt.Sprintf("scaling cannot mend %s: %s", d.Cause, because))
}

func refused(p Proposal, reason string) []Proposal {
	p.Refused = reason
	return []Proposal{p}
}

// placed gives the instances on each worker and the workers, sorted.
func (s *Situation) placed() (map[string][]dhalion.Placement, []string) {
	on := map[string][]dhalion.Placement{}
	var workers []string
	for _, p := range s.Topology.Placement {
		if p.Worker == "" {
			continue
		}
		if _, ok := on[p.Worker]; !ok {
			workers = append(workers, p.Worker)
		}
		on[p.Worker] = append(on[p.Worker], p)
	}
	slices.Sort(workers)
	return on, workers
}

func words(t dhalion.Target) string {
	if t.Kind == dhalion.KindJob {
		return "the job"
	}
	return t.String()
}

func count(n int, noun string) string { return fmt.Sprintf("%d %s", n, plural(n, noun)) }

func plural(n int, noun string) string {
	if n == 1 {
		return noun
	}
	return noun + "s"
}
