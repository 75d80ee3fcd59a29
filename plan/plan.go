// Package plan turns what was found and measured into a plan: which actions to
// take, how big each component should be, what to expect, what was refused and
// why. It is pure: equal inputs, in any order, give equal plans.
//
// Resolvers propose actions against a cause. The planner sizes all components
// together, drops what policy, conflicts or missing knowledge forbid, ranks the
// rest by expected utility, and writes down the reason for everything that it
// refuses.
//
// # Utility
//
//	utility = Σ P(cause) · benefit(action | cause) − cost − disruption
//
// All terms are shares of the offered load over the time for which the plan is
// valid, so 0.26 is "a quarter of what arrives". Benefit is the share that the
// action restores if the cause holds. Cost is the price of the instances added
// (negative: freed), as a share of the job's instances times the parameter
// instance_price. Disruption is the share of the job's instances that stop, times
// how long they stop, over the plan's validity. Diagnoses are taken as independent:
// what one explains of another was taken out of its probability before.
//
// What the same action against the same cause came to before multiplies the benefit,
// and what is freed (outcomes.go): it is evidence, and forbids nothing.
package plan

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/features"
	"github.com/dhalion-go/dhalion/plan/planfile"
	"github.com/dhalion-go/dhalion/plan/policy"
)

// Input is everything that a plan is made of.
type Input struct {
	Job      dhalion.JobID
	AsOf     time.Time
	Window   dhalion.Window
	Topology dhalion.Topology
	Findings dhalion.Findings
	Load     []ComponentLoad // in any order; a component may be missing: unknown
	Policy   *policy.Policy

	// Rates are what the methods ds2 and flink-autoscaler read; the others ask for
	// none. Earlier are those of the time for which the autoscaler delays a
	// scale-down.
	Rates   []features.Rates
	Earlier []EarlierRates
	// SourceRates are records per second and instance that DS2 takes a source to
	// put out instead of what was measured; -1 stands for what it was seen to.
	SourceRates map[string]float64

	// Neighbours are the other jobs with instances on this job's workers at AsOf.
	Neighbours []Neighbour
	// Arguments are those with which the present run was started; nil: not known.
	Arguments []string
	// Changes are those of the job's parallelism, in order of time, with who made them;
	// those of the last hour are looked at.
	Changes []dhalion.Change
	// Outcomes are what came of actions before, in any order; those that Remembered
	// leaves out are passed over.
	Outcomes []dhalion.Outcome

	Basis    dhalion.Basis     // goes into the plan, with the digest of the outcomes that were used
	Warnings []dhalion.Warning // of earlier stages
}

// Neighbour is another job of the same engine that shares workers with the one
// that is planned for.
type Neighbour struct {
	Job       dhalion.JobID
	Instances int            // of all its components
	On        map[string]int // how many of them by worker, of the workers that are shared
}

// EarlierRates are rates as they were read at a time before.
type EarlierRates struct {
	At    time.Time
	Rates []features.Rates
}

// ComponentLoad is what one component has to do and what its instances can do.
// NaN is unknown, everywhere.
type ComponentLoad struct {
	Component string

	// Offered is the records per second that would arrive here if everything
	// upstream kept up with what arrives at the sources; of a source, its arrivals.
	Offered float64

	// PerInstance is the records that one healthy instance takes per second of
	// busy time, and the interval around that.
	PerInstance                     float64
	PerInstanceLow, PerInstanceHigh float64

	Busy      float64 // mean share of the time spent working, now
	Caused    float64 // shares of the time that its instances hold up what is above, added up
	Lag       float64 // of a source: what it would put out for the records due and not yet read
	PerRead   float64 // of a source: records put out for each that it reads; 0 is 1
	SkewShare float64 // share of the hottest instance × parallelism; 1 = even
	// Shares are the same of each instance, by its number; nil: not known.
	Shares []float64

	Source, Sink, External bool
}

// Listed is the least probability of a diagnosis that the planner answers to,
// with an action or with a reason for none.
const Listed = 0.05

// Make makes the plan with the built-in resolvers.
func Make(in Input) (dhalion.Plan, error) { return MakeWith(in, Resolvers()) }

// MakeWith makes the plan with the given resolvers, each asked about every
// diagnosis. Not enough data is a warning in the plan; an error is an input that
// contradicts itself: no policy, a broken topology, load of a component that does
// not exist, a rate that is infinite or negative, a probability outside 0 to 1.
func MakeWith(in Input, resolvers []Resolver) (dhalion.Plan, error) {
	set, err := settingsOf(in.Policy)
	if err != nil {
		return dhalion.Plan{}, fmt.Errorf("plan: make plan of %s: %w", in.Job, err)
	}
	return makePlan(in, set, resolvers)
}

func makePlan(in Input, set settings, resolvers []Resolver) (dhalion.Plan, error) {
	s, err := newSituation(in, set)
	if err != nil {
		return dhalion.Plan{}, fmt.Errorf("plan: make plan of %s: %w", in.Job, err)
	}
	chosen, alternatives := s.choose(resolvers)
	chosen = append(chosen, s.meddled()...)
	p := dhalion.Plan{
		Version:         planfile.Version,
		Job:             in.Job,
		AsOf:            in.AsOf.UTC(),
		Window:          dhalion.Window{Start: in.Window.Start.UTC(), End: in.Window.End.UTC()},
		ValidForSeconds: s.set.validFor.Seconds(),
		Policy:          s.set.name,
		FourEyes:        s.set.fourEyes,
		Basis:           in.Basis,
		Topology:        s.Topology,
		Findings:        s.findings,
		Sizing:          s.sizing(chosen),
		Actions:         chosen,
		Alternatives:    alternatives,
	}
	if p.Basis.Outcomes, err = s.past.digest(); err != nil {
		return dhalion.Plan{}, fmt.Errorf("plan: make plan of %s: digest outcomes: %w", in.Job, err)
	}
	p.Warnings = s.lint(p, append(slices.Clone(in.Warnings), s.warnings...))
	return p, nil
}

// Situation is what a resolver sees: the job, sorted and checked, and what each
// component needs. It is read-only.
type Situation struct {
	Job      dhalion.JobID
	AsOf     time.Time
	Topology dhalion.Topology

	findings   dhalion.Findings
	set        settings
	neighbours []Neighbour
	arguments  []string
	past       *past
	changes    []dhalion.Change
	sizes      []size // in order of flow; non-sources, by the autoscaler's method all
	sources    []ComponentLoad
	feasible   float64 // share of the offered load that can be kept up with, at most 1
	limiting   string  // the component that sets feasible; empty when it is 1
	warnings   []dhalion.Warning
}

func newSituation(in Input, set settings) (*Situation, error) {
	if in.Job == "" {
		return nil, errors.New("no job")
	}
	if err := in.Topology.Validate(); err != nil {
		return nil, err
	}
	s := &Situation{Job: in.Job, AsOf: in.AsOf, Topology: in.Topology, set: set, neighbours: in.Neighbours, arguments: in.Arguments,
		changes: in.Changes, past: newPast(in.Outcomes, set.memory, in.Job, in.AsOf)}
	s.Topology.Components = slices.Clone(in.Topology.Components)
	s.Topology.Edges = slices.Clone(in.Topology.Edges)
	s.Topology.Placement = slices.Clone(in.Topology.Placement)
	s.Topology.Normalize()
	var err error
	if s.findings, err = sorted(in.Findings); err != nil {
		return nil, err
	}
	loads, err := loadsOf(in.Load, s.Topology)
	if err != nil {
		return nil, err
	}
	switch set.sizing {
	case policy.SizingDS2:
		err = s.solveDS2(in, loads)
	case policy.SizingAutoscaler:
		err = s.solveAutoscaler(in)
	case policy.SizingPaper:
		s.solvePaper(loads)
	default:
		s.solve(loads)
	}
	return s, err
}

// sorted gives the findings in the order of the contract, whatever order they
// came in.
func sorted(f dhalion.Findings) (dhalion.Findings, error) {
	f.Symptoms = slices.Clone(f.Symptoms)
	f.Diagnoses = slices.Clone(f.Diagnoses)
	f.Unknown = slices.Clone(f.Unknown)
	slices.SortFunc(f.Symptoms, func(a, b dhalion.Symptom) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), a.Target.Compare(b.Target), a.Since.Compare(b.Since), cmp.Compare(a.Score, b.Score))
	})
	slices.SortFunc(f.Diagnoses, func(a, b dhalion.Diagnosis) int {
		return cmp.Or(cmp.Compare(b.Probability, a.Probability), a.Target.Compare(b.Target), cmp.Compare(a.Cause, b.Cause))
	})
	slices.SortFunc(f.Unknown, func(a, b dhalion.Unknown) int {
		return cmp.Or(a.Target.Compare(b.Target), cmp.Compare(a.Cause, b.Cause), cmp.Compare(a.Reason, b.Reason))
	})
	seen := map[dhalion.Pair]bool{}
	for _, d := range f.Diagnoses {
		p := pairOf(d)
		if seen[p] {
			return f, fmt.Errorf("%s at %s is diagnosed twice", d.Cause, d.Target)
		}
		seen[p] = true
		if !(d.Probability >= 0 && d.Probability <= 1) {
			return f, fmt.Errorf("%s at %s: probability %v is not within 0 and 1", d.Cause, d.Target, d.Probability)
		}
	}
	return f, nil
}

func loadsOf(list []ComponentLoad, t dhalion.Topology) (map[string]ComponentLoad, error) {
	loads := map[string]ComponentLoad{}
	for _, l := range list {
		if _, ok := t.Component(l.Component); !ok {
			return nil, fmt.Errorf("load of %q: no such component", l.Component)
		}
		if _, twice := loads[l.Component]; twice {
			return nil, fmt.Errorf("load of %q is given twice", l.Component)
		}
		for _, v := range []float64{l.Offered, l.PerInstance, l.PerInstanceLow, l.PerInstanceHigh, l.Busy, l.Caused, l.Lag, l.PerRead, l.SkewShare} {
			if v < 0 || v > mostRate {
				return nil, fmt.Errorf("load of %q: %v is not within 0 and %g", l.Component, v, float64(mostRate))
			}
		}
		if l.Offered < leastRate {
			l.Offered = 0
		}
		for _, per := range []*float64{&l.PerInstance, &l.PerInstanceLow, &l.PerInstanceHigh} {
			if *per < leastRate {
				*per = math.NaN()
			}
		}
		loads[l.Component] = l
	}
	return loads, nil
}

// Rates outside of these, in records per second, are no rates that a job has, and
// their quotients would not be finite: a record in eleven days, 10^15 a second.
const (
	leastRate = 1e-6
	mostRate  = 1e15
)

func pairOf(d dhalion.Diagnosis) dhalion.Pair { return dhalion.Pair{Target: d.Target, Cause: d.Cause} }

func comparePairs(a, b dhalion.Pair) int {
	return cmp.Or(a.Target.Compare(b.Target), cmp.Compare(a.Cause, b.Cause))
}
