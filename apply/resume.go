package apply

import (
	"slices"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/plan/planfile"
)

// Resumable returns why a plan that was begun must not be gone on with, or nil.
// Its content, approval and time were looked at when it was begun; what may be
// otherwise since is asked again: whether the job is as the plan found it or as its
// own steps made it, whom it shares the workers with that a step not yet begun moves
// instances from, mode, quiet hours and limits, and who holds the jobs. journal are the
// plan's entries. Without s.PresentTopology the job's shape is left to its
// actuator, which sees it when the job is up again.
//
// A job that the plan has stopped and not yet started again, or may have, is not left
// down for the sake of a mode, an hour, a limit or changes by somebody else.
func Resumable(s State, journal []Entry) *Refusal {
	journal = acting(s.Plan, journal)
	if down(s.Plan, journal) {
		s.Jobs, s.Limits = slices.Clone(s.Jobs), Limits{}
		for i, j := range s.Jobs {
			s.Jobs[i] = JobState{Job: j.Job, HeldBy: j.HeldBy}
		}
	}
	// What the plan has begun may have its own jobs on their way up.
	listed := Jobs(s.Plan)
	s.Unseen = slices.DeleteFunc(slices.Clone(s.Unseen), func(job dhalion.JobID) bool { return slices.Contains(listed, job) })
	if !slices.ContainsFunc(unbegun(s.Plan, journal), func(a dhalion.Action) bool { return Leaves(a) != "" }) {
		s.Unseen, s.Unanswered = nil, false
	}
	for _, check := range []func(State) *Refusal{edited, func(s State) *Refusal { return elsewhere(s, journal) }, notAllowed, held} {
		if r := check(s); r != nil {
			r.Plan, r.Exit = s.ID, exits[r.Code]
			return r
		}
	}
	return nil
}

// acting is a plan's journal without alerts: whoever was told of something has changed
// nothing by it.
func acting(p dhalion.Plan, journal []Entry) []Entry {
	return slices.DeleteFunc(slices.Clone(journal), func(e Entry) bool { return Class(p.Actions[e.Action].Kind) == Harmless })
}

// unbegun are the actions of a plan of which the journal has no intent.
func unbegun(p dhalion.Plan, journal []Entry) []dhalion.Action {
	var all []dhalion.Action
	for i, a := range p.Actions {
		if len(entriesOf(journal, i)) == 0 {
			all = append(all, a)
		}
	}
	return all
}

// down reports whether the last step has stopped a job and not started it again, or
// may have, as the journal knows.
//
// From the stop's request until its savepoint is confirmed the journal has no more than an
// intent. It may be that nothing was sent, and then to go on stops the job once, at a bad
// hour, as was approved; to wait may have it down until somebody sees that. To ask the
// engine is no help: the job runs until its savepoint is written. A hook is left out:
// whether it stopped anything only a person can say, and after it did nothing there is
// time.
func down(p dhalion.Plan, journal []Entry) bool {
	if len(journal) == 0 {
		return false
	}
	last := journal[len(journal)-1]
	switch {
	case last.Result != nil && last.Result.Outcome == Done:
		return false
	case Class(p.Actions[last.Action].Kind) == Checkable && len(last.Intent.Argv) == 0 && (last.Result == nil || last.Result.Outcome == Unsure):
		return true
	}
	return slices.ContainsFunc(journal, func(e Entry) bool {
		return e.Action == last.Action && e.Result != nil && e.Result.Outcome == Partly
	})
}

// elsewhere refuses a plan whose job is neither what it was nor what the plan's
// steps as far as they were begun have made of it.
func elsewhere(s State, journal []Entry) *Refusal {
	because := func(reason string) *Refusal {
		return &Refusal{Code: Stale, Reason: reason, Hint: "end it: " + planfile.Command("dhalion", "apply", s.ID, "--abort")}
	}
	// What was begun may have moved others' instances, too: then their number says nothing.
	if reason := sharedOtherwise(s, unbegun(s.Plan, journal), len(journal) == 0); reason != "" {
		return because(reason)
	}
	if s.PresentTopology == nil {
		return nil
	}
	refuse := func() *Refusal {
		return because("the job is neither what it was nor what the plan has made of it: " + changed(s))
	}
	if len(journal) == 0 {
		if s.PresentTopology.Digest() != s.Plan.Basis.Topology {
			return refuse()
		}
		return nil
	}
	shape := s.Plan.Topology
	known := sameGraph(shape, *s.PresentTopology)
	for _, step := range Steps(s.Plan) {
		if len(step.Actions) == 0 || len(entriesOf(journal, step.Actions[0])) == 0 {
			continue
		}
		if step.Class == Checkable {
			// A run that is just begun has its program's parallelism for a moment; by their
			// ids the actuator knows the old run and the new one from any other.
			known = true
			continue
		}
		shape = after(shape, s.Plan, step)
		known = known || sameGraph(shape, *s.PresentTopology)
	}
	if !known {
		return refuse()
	}
	return nil
}

// after is a job when a step has been carried out.
func after(t dhalion.Topology, p dhalion.Plan, s Step) dhalion.Topology {
	t.Components = slices.Clone(t.Components)
	for _, i := range s.Actions {
		a := p.Actions[i]
		to, ok := a.To.Number()
		if !ok || a.Kind != dhalion.SetParallelism {
			continue
		}
		for k := range t.Components {
			if t.Components[k].Name == a.Target.Component {
				t.Components[k].Parallelism = int(to)
			}
		}
	}
	return t
}

// sameGraph reports whether components, parallelism and edges are the same.
func sameGraph(x, y dhalion.Topology) bool {
	bare := func(t dhalion.Topology) dhalion.Topology {
		t.Components = slices.Clone(t.Components)
		for i := range t.Components {
			t.Components[i].MaxParallelism = 0
		}
		return t
	}
	return bare(x).SameShape(bare(y))
}
