package main

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/dhalion-go/dhalion/lab/scenario"
)

// labelled is an incident with what held in it, and whether the recording shows
// it.
type labelled struct {
	incidentLog
	number int
	rows   []scenario.Row
	doubts []string // why it may not be so; empty: verified
	// unchecked are the rows that the raw numbers say nothing of, or of which there
	// are none.
	unchecked map[scenario.Row]bool
}

const (
	// seenAfter is when a fault is in the numbers: a knob is read every half
	// second and a poll takes up to five.
	seenAfter = 3 * time.Second
	// visible is by how much a slow instance's time per record must really have
	// risen: 1.5 less noise and drift.
	visible = 1.35
	before  = 50 * time.Second
)

// label makes the rows of a run from its log and its recording.
func label(log runLog, r *raw) []labelled {
	var all []labelled
	for i, in := range log.Incidents {
		h := scenario.Held{Load: in.Load, Settle: in.Settle, Drained: in.Drained, Shares: map[string][]float64{}}
		for _, f := range in.Faults {
			h.Faults = append(h.Faults, scenario.HeldFault{Resolved: scenario.Resolved{Fault: f.Fault, On: f.On}, Start: f.Start, End: f.End, Hosted: f.Hosted})
			if f.Fault.Kind == scenario.Hot {
				for _, name := range log.Shape.Stages() {
					if log.Shape.Components[name].Keyed {
						h.Shares[name] = r.shares(name, f.Start.Add(seenAfter), f.End)
					}
				}
			}
		}
		l := labelled{incidentLog: in, number: i + 1, rows: scenario.Causes(log.Shape, h), unchecked: map[scenario.Row]bool{}}
		for _, row := range l.rows {
			why, known := doubt(log, in, r, row)
			if why != "" {
				l.doubts = append(l.doubts, row.Cause+": "+why)
			}
			l.unchecked[row] = !known
		}
		all = append(all, l)
	}
	return all
}

// doubt says why the recording does not show what a row says, empty when it does;
// known is false when it cannot tell, or lacks the numbers that would.
func doubt(log runLog, in incidentLog, r *raw, row scenario.Row) (why string, known bool) {
	if hidden(log, in, row) {
		return "", false
	}
	from, to := row.Start.Add(seenAfter), row.End
	if at := row.Start.Add(row.End.Sub(row.Start) / 4); at.After(from) {
		from = at // queues fill and clients settle in the first quarter
	}
	cost := func(name string, i int) (now, past float64, ok bool) {
		now, ok1 := r.over(name, i, from, to).cost()
		past, ok2 := r.over(name, i, in.Start.Add(-before), in.Start).cost()
		return now, past, ok1 && ok2
	}
	component := log.Shape.Components[row.Component]
	utilisation := func(name string) (mean float64, ok bool) {
		n := log.Shape.Components[name].Parallelism
		for i := range n {
			s := r.over(name, i, from, to)
			busy, ok := s.share(s.busy)
			if !ok {
				return 0, false
			}
			mean += busy / float64(n)
		}
		return mean, true
	}
	known = true
	switch row.Cause {
	case "slow_instance":
		now, past, ok := cost(row.Component, *row.Instance)
		var peers []float64
		for i := range component.Parallelism {
			if c, _, ok := cost(row.Component, i); ok && i != *row.Instance {
				peers = append(peers, c)
			}
		}
		if !ok || len(peers) == 0 {
			return "", false
		}
		if now < visible*past && now < visible*median(peers) {
			return fmt.Sprintf("time per record x%.2f of its past, x%.2f of its peers", now/past, now/median(peers)), true
		}
	case "slow_worker":
		slow, seen, hosted := 0, 0, 0
		for _, f := range in.Faults {
			if f.On != row.Worker || f.Fault.Kind != scenario.SlowWorker {
				continue
			}
			for name, list := range f.Hosted {
				for _, i := range list {
					hosted++
					if now, past, ok := cost(name, i); ok {
						seen++
						if now >= visible*past {
							slow++
						}
					}
				}
			}
		}
		switch {
		case slow >= 2:
		case slow+hosted-seen >= 2:
			return "", false
		default:
			return fmt.Sprintf("%d of %d instances took longer", slow, seen), true
		}
	case "sink_limited":
		for i := range component.Parallelism {
			now, past, ok := cost(row.Component, i)
			if ok && now < visible*past {
				return fmt.Sprintf("time per record of instance %d x%.2f of its past", i, now/past), true
			}
			known = known && ok
		}
	case "source_limited":
		var due, read, pressed float64
		for i := range component.Parallelism {
			if row.Instance != nil && i != *row.Instance {
				continue
			}
			s := r.over(row.Component, i, from, to)
			share, ok := s.share(s.pressed)
			if !ok {
				return "", false
			}
			read += s.out
			due += in.Load * component.Rate / float64(component.Parallelism) * s.seconds
			pressed = math.Max(pressed, share)
		}
		if read > .93*due {
			return fmt.Sprintf("read %.2f of what arrived", read/due), true
		}
		if pressed > .3 {
			return fmt.Sprintf("backpressured %.2f of the time", pressed), true
		}
	case "underprovisioned":
		u, ok := utilisation(row.Component)
		if ok && u < .9 {
			return fmt.Sprintf("busy %.2f", u), true
		}
		known = ok
	case "overprovisioned":
		names := log.Shape.Stages()
		if row.Component != "" {
			names = []string{row.Component}
		}
		for _, name := range names {
			p := float64(log.Shape.Components[name].Parallelism)
			u, ok := utilisation(name)
			if ok && math.Ceil(u*p/.8-.05) > p/2 {
				return fmt.Sprintf("%s busy %.2f", name, u), true
			}
			known = known && ok
		}
	case "data_skew":
		s := r.over(row.Component, *row.Instance, from, to)
		busy, ok := s.share(s.busy)
		if ok && busy < .85 {
			return fmt.Sprintf("busy %.2f", busy), true
		}
		known = ok
	case "memory_pressure":
		collecting, used, ok := r.memory(row.Worker, row.Start.Add(15*time.Second), to)
		if ok && collecting <= .1 && used <= .9 {
			return fmt.Sprintf("collections took %.2f of the time, heap after them %.2f", collecting, used), true
		}
		known = ok
	case "checkpoint_failing":
		begin, end := in.Checkpoints[0], in.Checkpoints[1]
		if begin == nil || end == nil {
			return "", false
		}
		if n := *end - *begin; n < 2 {
			return fmt.Sprintf("%.0f checkpoints failed", n), true
		}
	case "failing":
		if log.Outages == nil {
			return "", false
		}
		var times []time.Time
		for _, at := range log.Outages {
			if at.After(row.Start.Add(-time.Second)) && at.Before(row.End.Add(time.Second)) {
				times = append(times, at)
			}
		}
		slices.SortFunc(times, time.Time.Compare)
		outages := 0
		for i, at := range times {
			if i == 0 || at.Sub(times[i-1]) >= 10*time.Second {
				outages++
			}
		}
		if outages < 2 {
			return fmt.Sprintf("%d outages", outages), true
		}
	case "transient":
		if in.Drained.IsZero() {
			return "the backlog did not drain", true
		}
	case "none":
		if in.Backlog == nil {
			return "", false
		}
		if *in.Backlog > 5*sourceRate(log.Shape) {
			return fmt.Sprintf("a backlog of %.0f", *in.Backlog), true
		}
	}
	return "", known
}

// hidden says that the raw numbers cannot tell whether a row holds: behind the
// component that holds up the flow, or beside another fault, neither the load that is
// too much for an instance nor what a hot key would do to it shows.
func hidden(log runLog, in incidentLog, row scenario.Row) bool {
	switch row.Cause {
	case "underprovisioned":
		return len(in.Faults) > 1 || row.Component != first(log)
	case "data_skew":
		return len(in.Faults) > 1
	}
	return false
}

// first is the component that an overload is worst for.
func first(log runLog) string {
	best := ""
	for _, name := range log.Shape.Stages() {
		if best == "" || log.Shape.Components[name].Utilisation > log.Shape.Components[best].Utilisation {
			best = name
		}
	}
	return best
}

func sourceRate(s scenario.Shape) (sum float64) {
	for _, c := range s.Components {
		if c.Kind == scenario.Source {
			sum += c.Rate
		}
	}
	return sum
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }

// note is what a row's note says: what was done, what came of it.
func (l labelled) note(row scenario.Row) string {
	parts := []string{}
	add := func(s string) {
		if s != "" {
			parts = append(parts, s)
		}
	}
	add(row.Note)
	add(l.Note)
	if l.Backlog == nil {
		add("backlog unknown")
	} else {
		add(fmt.Sprintf("backlog %.0f", *l.Backlog))
	}
	if l.Settle == "cut" {
		add("cut to 2 s of load")
	}
	if l.Drained.IsZero() {
		add("not drained")
	} else {
		add("drained=" + stamp(l.Drained))
	}
	mine := slices.DeleteFunc(slices.Clone(l.doubts), func(d string) bool { return !strings.HasPrefix(d, row.Cause+": ") })
	switch {
	case len(mine) == 0 && l.unchecked[row]:
		add("verified=unchecked")
	case len(mine) == 0:
		add("verified=yes")
	default:
		add("verified=no(" + strings.ReplaceAll(strings.Join(mine, ", "), ";", ",") + ")")
	}
	return strings.Join(parts, "; ")
}

// quiet says that nothing of the incident is a fault.
func (l labelled) quiet() bool {
	return !slices.ContainsFunc(l.rows, func(r scenario.Row) bool { return r.Cause != "none" })
}

// faultless is how much of a run's time had no fault in it: not from a fault's
// start to when its backlog was gone.
func faultless(log runLog, all []labelled) time.Duration {
	total := log.End.Sub(log.Begin)
	for _, l := range all {
		if !l.quiet() {
			end := l.End
			if l.Drained.After(end) {
				end = l.Drained
			}
			total -= end.Sub(l.Start)
		}
	}
	return total
}

func text(i *int) string {
	if i == nil {
		return ""
	}
	return fmt.Sprint(*i)
}

// lines are a run's rows of labels.csv.
func lines(log runLog, all []labelled, file string) [][]string {
	s := log.Scenario
	line := func(incident, magnitude, note string, r scenario.Row) []string {
		return []string{file, s.Name, r.Cause, r.Component, text(r.Instance), r.Worker, stamp(r.Start), stamp(r.End), note, s.Name, s.Shape, magnitude, s.Split, s.Name + "/" + incident}
	}
	end := log.End
	if len(all) > 0 {
		end = all[0].Start
	}
	out := [][]string{line("00-healthy", "", "", scenario.Row{Cause: "none", Start: log.Begin, End: end})}
	for _, l := range all {
		rows := slices.Clone(l.rows)
		slices.SortStableFunc(rows, func(a, b scenario.Row) int { return cmp.Or(a.Start.Compare(b.Start)) })
		for _, row := range rows {
			out = append(out, line(l.Name, l.Magnitude, l.note(row), row))
		}
	}
	return out
}
