package dhalion

import (
	"cmp"
	"slices"
	"time"
)

// Deed is an action of ours that an engine has carried out on a job, as far as it
// changes parallelism. It is not an action: it says when, and not why.
type Deed struct {
	Plan string
	// Component is what was set to To instances. It is empty for a restart or a move,
	// in whose course the parallelism of any component may change.
	Component string
	To        int
	Begun     time.Time // when its first intent was written
	Ended     time.Time // when the job had settled, or was given up; zero: not yet
}

// Change is a change of a component's parallelism, and who made it.
type Change struct {
	At        time.Time `json:"at"` // of the topology that shows it
	Component string    `json:"component"`
	From      int       `json:"from"`
	To        int       `json:"to"`
	By        ChangeBy  `json:"by"`
	Plan      string    `json:"plan,omitempty"` // of ours
}

// Attribute says who made each topology of a job what it is, and lists the changes
// of parallelism by time and component. Topologies are in order of time; by has one
// for each. What an adapter takes for an operator's is
//
//   - ours, where a deed explains it: the same component is set to the same
//     parallelism, or is on the way there, after the deed was begun and before it had
//     settled, or in what is the first topology after that, for polls come late;
//   - the engine's, where it goes back towards the parallelism that somebody had
//     asked for, after the engine had gone below it: lost slots that came back;
//   - else an operator's: foreign.
//
// Of a topology that is the first that an adapter saw, in the middle of a history, it is
// not known whether anything failed before. Fewer instances are left open there, unless
// all workers from before still have some: then no slots were lost with a worker.
func Attribute(topologies []Topology, deeds []Deed) (by []ChangeBy, changes []Change) {
	deeds = slices.Clone(deeds)
	slices.SortFunc(deeds, func(a, b Deed) int {
		return cmp.Or(b.Begun.Compare(a.Begun), cmp.Compare(a.Plan, b.Plan), cmp.Compare(a.Component, b.Component), cmp.Compare(a.To, b.To))
	})
	asked := map[string]int{} // parallelism that somebody set, by component
	for i, t := range topologies {
		by = append(by, t.By)
		if i == 0 {
			for _, c := range t.Components {
				asked[c.Name] = c.Parallelism
			}
			continue
		}
		before := topologies[i-1]
		var made []Change
		for _, c := range t.Components {
			was, ok := before.Component(c.Name)
			if !ok {
				asked[c.Name] = c.Parallelism
				continue
			}
			if was.Parallelism == c.Parallelism {
				continue
			}
			x := Change{At: t.From, Component: c.Name, From: was.Parallelism, To: c.Parallelism, By: t.By}
			switch deed, ours := explained(deeds, before, t, x); {
			case ours:
				x.By, x.Plan = ChangeDhalion, deed.Plan
				if deed.Component != "" {
					// A restart or a move asks for nothing: what it comes to for want of slots grows
					// again when they are back.
					asked[c.Name] = deed.To
				}
			case t.By == ChangeEngine || t.By == ChangeDhalion:
			case x.From < x.To && x.To <= asked[c.Name]:
				x.By = ChangeEngine
			case t.By == ChangeFirst && x.To < x.From && !keepsWorkers(before, t):
			default:
				x.By = ChangeOperator
				asked[c.Name] = x.To
			}
			made = append(made, x)
		}
		slices.SortFunc(made, func(a, b Change) int { return cmp.Compare(a.Component, b.Component) })
		changes = append(changes, made...)
		switch {
		case len(made) > 0:
			by[i] = maker(made)
		case t.By == ChangeOperator:
			// A new run of the same shape is ours where we restarted the job.
			if _, ours := explained(deeds, before, t, Change{At: t.From}); ours {
				by[i] = ChangeDhalion
			}
		}
	}
	return by, changes
}

// keepsWorkers reports whether every worker of the first topology has an instance in
// the second; false where places are not known.
func keepsWorkers(before, t Topology) bool {
	has := map[string]bool{}
	for _, p := range t.Placement {
		has[p.Worker] = true
	}
	return len(before.Placement) > 0 && !slices.ContainsFunc(before.Placement, func(p Placement) bool { return !has[p.Worker] })
}

// maker is who made a topology: an operator who made a part of it is named.
func maker(made []Change) ChangeBy {
	for _, by := range []ChangeBy{ChangeOperator, ChangeDhalion, ChangeEngine} {
		if slices.ContainsFunc(made, func(c Change) bool { return c.By == by }) {
			return by
		}
	}
	return made[0].By
}

// seenLate is how long after a restart has settled a poll may be the first to see what
// it came to.
const seenLate = time.Minute

// explained is the newest deed that explains what one topology changed of the one
// before; a change of no component is a new run.
func explained(deeds []Deed, before, t Topology, x Change) (Deed, bool) {
	for _, d := range deeds {
		if d.Begun.After(t.From) {
			continue
		}
		during := d.Ended.IsZero() || !t.From.After(d.Ended)
		switch {
		case d.Component == "":
			// A new run comes up as the program has it and then gets the parallelism of the
			// one before: that is two topologies, of which polls may see the second late.
			late := !before.From.After(d.Ended) && !t.From.After(d.Ended.Add(seenLate))
			if during || before.From.Before(d.Begun) || late {
				return d, true
			}
		case d.Component != x.Component:
		case x.To == d.To && (during || !before.From.After(d.Ended)),
			during && min(x.From, d.To) <= x.To && x.To <= max(x.From, d.To):
			return d, true
		}
	}
	return Deed{}, false
}

// Changes by somebody else, of this number at different times within this time, have
// a job looked at only: two that steer one job work against each other.
const (
	ForeignMost   = 2
	ForeignWithin = time.Hour
)

// Foreign lists the changes that an operator made in the hour up to a time. until is
// when fewer than ForeignMost of their times will lie within an hour, and zero where it
// is so already: until then the job is to be looked at only.
func Foreign(changes []Change, at time.Time) (foreign []Change, until time.Time) {
	var times []time.Time
	for _, c := range changes {
		if c.By != ChangeOperator || c.At.After(at) || !c.At.After(at.Add(-ForeignWithin)) {
			continue
		}
		foreign = append(foreign, c)
		if len(times) == 0 || !times[len(times)-1].Equal(c.At) {
			times = append(times, c.At)
		}
	}
	if len(times) >= ForeignMost {
		until = times[len(times)-ForeignMost].Add(ForeignWithin)
	}
	return foreign, until
}
