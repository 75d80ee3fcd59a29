package scenario

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"time"
)

// Held is an incident as it happened: its faults with the times between which
// they were on.
type Held struct {
	Load    float64 // the load factor without the incident's faults
	Settle  string  // cut or drain
	Faults  []HeldFault
	Drained time.Time // when the backlog was gone
	// Shares are what each instance got of its component's records while a hot
	// key was on: component → instance → share, adding up to 1.
	Shares map[string][]float64
}

// HeldFault is a fault that was on.
type HeldFault struct {
	Resolved
	Start, End time.Time
	Hosted     map[string][]int // what ran on its worker: component → instances
}

// Row is one line of labels: a cause at a target over a time.
type Row struct {
	Cause     string
	Component string
	Instance  *int
	Worker    string
	Start     time.Time
	End       time.Time
	Note      string
}

// overloaded, slower and skewed are the limits of the cause table: the share of
// capacity that is asked for, a time per record against the healthy one, and a
// share of the records against the fair one.
const (
	overloaded = 1.0
	slower     = 1.5
	skewed     = 1.5
	// target is the default policy's utilisation, by which a component is judged
	// to have more than it needs.
	target = 0.8
)

// Causes are what holds by the cause table of the documentation, each judged at
// the offered load with the others imagined away, from what was done to the job.
// An incident that makes no cause hold has one row: none.
func Causes(shape Shape, h Held) []Row {
	var rows []Row
	load := h.Load
	cheap := map[string]float64{} // components whose records cost less
	var loads, less []HeldFault   // what the judgement of over- and underprovision rests on
	for _, f := range h.Faults {
		switch {
		case f.Kind == LoadFactor:
			load *= f.Factor
			loads = append(loads, f)
		case f.Kind == Cost && f.Instance == nil && f.Factor < 1:
			cheap[f.Component] = cmp.Or(cheap[f.Component], 1) * f.Factor
			less = append(less, f)
		}
	}
	add := func(f HeldFault, r Row) {
		r.Start, r.End = f.Start, f.End
		rows = append(rows, r)
	}

	switch over := exceeds(shape, load); {
	case len(loads) == 0:
	case len(over) > 0 && h.Settle == "drain":
		add(loads[0], Row{Cause: "transient", Note: fmt.Sprintf("load x%s; switched off %s", number(load), stamp(loads[0].End))})
	default:
		for _, name := range over {
			add(both(loads), Row{Cause: "underprovisioned", Component: name, Note: fmt.Sprintf("needs %.2f of its capacity at load x%s", load*shape.Components[name].Utilisation, number(load))})
		}
	}
	if len(loads)+len(less) > 0 {
		if all, some := idle(shape, load, cheap); all {
			add(both(slices.Concat(loads, less)), Row{Cause: "overprovisioned", Note: "every component, at load x" + number(load)})
		} else {
			for _, name := range some {
				add(both(slices.Concat(loads, less)), Row{Cause: "overprovisioned", Component: name, Note: fmt.Sprintf("load x%s, cost x%s", number(load), number(cmp.Or(cheap[name], 1)))})
			}
		}
	}

	note := ""
	for _, f := range h.Faults {
		c := shape.Components[f.Component]
		switch f.Kind {
		case Cost:
			switch {
			case c.Kind == Source && f.Factor*c.Utilisation*load > overloaded:
				what := "every instance"
				if f.Instance != nil {
					what = fmt.Sprintf("instance %d", *f.Instance)
				}
				add(f, Row{Cause: "source_limited", Component: f.Component, Instance: f.Instance, Note: fmt.Sprintf("%s reads %.0f %% of what arrives for it", what, 100/(f.Factor*c.Utilisation*load))})
			case c.Kind == Source:
			case f.Instance != nil && f.Factor >= slower:
				add(f, Row{Cause: "slow_instance", Component: f.Component, Instance: f.Instance, Note: "x" + number(f.Factor)})
			case f.Instance == nil && c.Kind == Sink && f.Factor >= slower:
				add(f, Row{Cause: "sink_limited", Component: f.Component, Note: fmt.Sprintf("cost x%s: takes %.0f %% of what arrives", number(f.Factor), math.Min(100, 100/(f.Factor*c.Utilisation*load)))})
			}
		case SlowWorker:
			if f.Factor < slower {
				continue
			}
			what := hosted(f.Hosted)
			if count(f.Hosted) >= 2 {
				add(f, Row{Cause: "slow_worker", Worker: f.On, Note: "x" + number(f.Factor) + " on " + what})
			} else {
				for name, list := range f.Hosted { // of one instance
					add(f, Row{Cause: "slow_instance", Component: name, Instance: &list[0], Note: "x" + number(f.Factor) + " on " + f.On})
				}
			}
		case Hot:
			found := false
			for _, name := range shape.Stages() {
				shares := h.Shares[name]
				for i, share := range shares {
					p := float64(len(shares))
					if share*p >= skewed && load*shape.Components[name].Utilisation*p*share >= overloaded {
						found = true
						add(f, Row{Cause: "data_skew", Component: name, Instance: &i, Note: fmt.Sprintf("%.0f %% of the records of %s carry one key; it gets %.2f of them, of %d", 100*f.Share, f.Component, share, len(shares))})
					}
				}
			}
			if !found {
				note = "skew without saturation"
			}
		case Memory:
			add(f, Row{Cause: "memory_pressure", Worker: f.On, Note: fmt.Sprintf("collections take %.0f %% of the time; hosts %s", 100*f.Share, hosted(f.Hosted))})
		case Checkpoint:
			add(f, Row{Cause: "checkpoint_failing", Note: "checkpoints find no storage"})
		case Fail:
			add(f, Row{Cause: "failing", Component: f.Component, Instance: f.Instance, Note: fmt.Sprintf("throws at once, then %ss after each start", number(f.Every.Seconds()))})
		case LoseWorker:
			add(f, Row{Cause: "transient", Note: "worker " + f.On + " killed, a new one 10 s later; hosted " + hosted(f.Hosted)})
		case Rescale:
			note = fmt.Sprintf("rescale of %s by %+d and back, by PUT", f.Component, int(f.Factor))
			if _, some := idle(shape.resized(f.Component, int(f.Factor)), load, cheap); slices.Contains(some, f.Component) {
				add(f, Row{Cause: "overprovisioned", Component: f.Component, Note: note})
			}
		case Noise:
			note = fmt.Sprintf("wave %s, jitter %s", number(f.Wave), number(f.Jitter))
		}
	}
	for i, r := range rows {
		if r.Cause == "transient" && h.Drained.After(r.End) {
			rows[i].End = h.Drained
		}
	}
	if len(rows) == 0 {
		first := HeldFault{}
		for _, f := range h.Faults {
			if first.Start.IsZero() || f.Start.Before(first.Start) {
				first.Start = f.Start
			}
			if f.End.After(first.End) {
				first.End = f.End
			}
			first.Component = cmp.Or(first.Component, f.Component)
			if note == "" && (f.Kind == Cost || f.Kind == LoadFactor) {
				note = fmt.Sprintf("%s x%s", f.Kind, number(f.Factor))
			}
		}
		add(first, Row{Cause: "none", Component: first.Component, Note: note})
	}
	return rows
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }

// both is the time in which all of them were on.
func both(faults []HeldFault) HeldFault {
	f := faults[0]
	for _, o := range faults[1:] {
		if o.Start.After(f.Start) {
			f.Start = o.Start
		}
		if o.End.Before(f.End) {
			f.End = o.End
		}
	}
	return f
}

func hosted(on map[string][]int) (text string) {
	for _, name := range keys(on) {
		for _, i := range on[name] {
			text += " " + name + "[" + strconv.Itoa(i) + "]"
		}
	}
	if text == "" {
		return "nothing"
	}
	return text[1:]
}

// resized is the shape with so many instances more of a component, which share
// its work.
func (s Shape) resized(name string, by int) Shape {
	components := maps.Clone(s.Components)
	c := components[name]
	c.Utilisation *= float64(c.Parallelism) / float64(c.Parallelism+by)
	c.Parallelism += by
	components[name] = c
	s.Components = components
	return s
}

// exceeds lists the non-sources that a load asks more of than they have, the
// worst first.
func exceeds(shape Shape, load float64) []string {
	over := slices.DeleteFunc(shape.Stages(), func(n string) bool { return load*shape.Components[n].Utilisation <= overloaded })
	slices.SortStableFunc(over, func(a, b string) int {
		return cmp.Compare(shape.Components[b].Utilisation, shape.Components[a].Utilisation)
	})
	return over
}

// idle lists the non-sources that need at most half of their instances and one
// less at least, at a load, with some components cheaper; all says that all do.
func idle(shape Shape, load float64, cheap map[string]float64) (all bool, some []string) {
	all = true
	for _, name := range shape.Stages() {
		c := shape.Components[name]
		p := float64(c.Parallelism)
		need := math.Ceil(load*cmp.Or(cheap[name], 1)*c.Utilisation*p/target - 1e-9)
		if need <= p/2 && need <= p-1 {
			some = append(some, name)
		} else {
			all = false
		}
	}
	return all, some
}
