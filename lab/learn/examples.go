package main

import (
	"context"
	"maps"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/diagnose"
	"github.com/dhalion-go/dhalion/lab/recorded"
	"github.com/dhalion-go/dhalion/plan/policy"
)

// asked is when a fault is asked for: 30 and 60 s into it, and 3 s before its end.
type asked int

const (
	never asked = iota
	at30
	at60
	atEnd
	quiet // one of the non-overlapping windows in which nothing is wrong
)

func (a asked) String() string {
	return [...]string{"-", "30 s", "60 s", "end - 3 s", "quiet"}[a]
}

// window is an example with what scores need to know about it.
type window struct {
	diagnose.Example
	Asked []asked
	About recorded.Incident // zero in quiet windows
	Burn  bool
	Paper []bool // whether the paper's policy says so, of each case; where asked
	// Right says of a window that is too short to be judged, which has no cases, that
	// what is said of it all the same, by rules alone, is right.
	Right bool
}

func (w window) when(a asked) bool {
	for _, b := range w.Asked {
		if a == b {
			return true
		}
	}
	return false
}

// every is the distance of the windows that learners see of an incident, and of
// those between incidents.
const (
	every      = 5 * time.Second
	everyQuiet = 15 * time.Second
)

// windows judges every run by a policy at the times that scores and learners ask
// for, and by the paper's at those of scores.
func windows(ctx context.Context, runs []recorded.Run, p, paper *policy.Policy) ([]window, error) {
	all := make([][]window, len(runs))
	errs := make([]error, len(runs))
	next := make(chan int)
	var group sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		group.Go(func() {
			for i := range next {
				all[i], errs[i] = windowsOf(ctx, runs[i], p, paper)
			}
		})
	}
	for i := range runs {
		next <- i
	}
	close(next)
	group.Wait()
	var out []window
	for i := range runs {
		if errs[i] != nil {
			return nil, errs[i]
		}
		out = append(out, all[i]...)
	}
	return out, nil
}

func windowsOf(ctx context.Context, run recorded.Run, p, paper *policy.Policy) ([]window, error) {
	var held []dhalion.Incident
	for _, in := range run.Incidents {
		held = append(held, in.Held...)
	}
	var out []window
	add := func(at time.Time, in recorded.Incident, when ...asked) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		r, err := diagnose.Evaluate(run.History, at, p)
		if err != nil {
			return err
		}
		e := diagnose.NewExample(r, held)
		if e.Cases == nil && (len(when) == 0 || in.Name == "") {
			return nil // too little data, and no fault that could be missed
		}
		e.Family, e.Run, e.Incident = run.Shape, run.Name, in.Name
		if in.Name == "" {
			e.Incident = run.Name + "/" + at.Format("150405")
		}
		w := window{Example: e, Asked: when, About: in, Burn: run.Burn}
		if e.Cases == nil && len(r.Diagnoses) > 0 {
			d := r.Diagnoses[0]
			w.Right = slices.ContainsFunc(in.Held, func(h dhalion.Incident) bool {
				return h.Cause == d.Cause && (h.Target == d.Target || h.Cause == dhalion.Failing)
			})
		}
		if len(when) > 0 {
			r, err := diagnose.Evaluate(run.History, at, paper)
			if err != nil {
				return err
			}
			for _, c := range e.Cases {
				w.Paper = append(w.Paper, slices.ContainsFunc(r.Diagnoses, func(d dhalion.Diagnosis) bool { return d.Target == c.Target && d.Cause == c.Cause }))
			}
		}
		out = append(out, w)
		return nil
	}
	for _, in := range run.Incidents {
		if in.Quiet() {
			continue
		}
		times := map[time.Time][]asked{}
		for at := in.Start.Add(diagnose.Shows + every); !at.After(in.End); at = at.Add(every) {
			times[at] = nil
		}
		minute := in.Start.Add(time.Minute)
		if minute.After(in.End) {
			minute = in.End
		}
		for a, at := range map[asked]time.Time{at30: in.Start.Add(30 * time.Second), at60: minute, atEnd: in.End.Add(-3 * time.Second)} {
			times[at] = append(times[at], a)
		}
		for _, at := range slices.SortedFunc(maps.Keys(times), time.Time.Compare) {
			when := times[at]
			if err := add(at, in, when...); err != nil {
				return nil, err
			}
		}
	}
	var last time.Time // quiet window that was scored
	for at := run.First.Add(time.Minute); !at.After(run.Last); at = at.Add(everyQuiet) {
		if disturbed(run, at) {
			continue
		}
		var when []asked
		if !at.Before(last.Add(time.Minute)) {
			when, last = []asked{quiet}, at
		}
		if err := add(at, recorded.Incident{}, when...); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// disturbed says that a window shows a fault, or what is left of one.
func disturbed(run recorded.Run, at time.Time) bool {
	for _, in := range run.Incidents {
		if in.Quiet() {
			continue
		}
		after := time.Duration(0)
		for _, h := range in.Held {
			after = max(after, diagnose.Lingers(h.Cause))
		}
		if at.After(in.Start) && at.Before(in.Last.Add(after)) {
			return true
		}
	}
	return false
}
