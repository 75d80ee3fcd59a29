package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/diagnose"
	"github.com/dhalion-go/dhalion/internal/store"
	"github.com/dhalion-go/dhalion/plan/policy"
)

// How close together the windows are that are learned from.
const (
	learnEvery      = 5 * time.Second
	learnQuietEvery = 15 * time.Second
)

// mostAsked is how many windows in order are judged of one job, and of one label of a
// cause: no alarm in 400 bounds the rate of false alarms at 1 % (Wilson, 95 %:
// 3.84/(400 + 3.84)), and all examples are in memory, some 270 kB each at 25 instances.
// What is left out for that is not made up for by weights: how long somebody says that a
// job was in order is not how seldom it is sick, and beside months in order the incidents
// would not be heard. An incident weighs the same however often it is asked for.
const mostAsked = 400

// spread is how far apart so many windows of a stretch are at least, in whole seconds.
func spread(stretch, least time.Duration) time.Duration {
	return max(least, (stretch/mostAsked).Truncate(time.Second)+time.Second)
}

// lesson is what is known of one job: its incidents, and when they are looked at.
type lesson struct {
	job       dhalion.JobID
	policy    *policy.Policy
	incidents []store.Incident
	held      []dhalion.Incident // those with a cause
	questions []question
	left      []leftOut
}

// question is one window that is learned from.
type question struct {
	n        int // its place among the questions
	at       time.Time
	incident int // the place of what it shows
}

// labels are the incidents that are known.
func labels(ctx context.Context, st *store.Store, noOutcomes bool) ([]store.Incident, error) {
	all, err := st.Incidents(ctx, store.IncidentFilter{}, 0)
	if err != nil {
		return nil, err
	}
	if noOutcomes {
		all = slices.DeleteFunc(all, func(in store.Incident) bool { return strings.HasPrefix(in.Source, "outcome of ") })
	}
	if len(all) == 0 {
		return nil, hinted(errors.New("there are no incidents to learn from, or to be judged by"), "dhalion incidents import labels.csv")
	}
	return all, nil
}

// examples are the windows of incidents, judged by the rules, in their order by job,
// and the labels that are left out.
func (a *app) examples(ctx context.Context, st *store.Store, f judgeFlags, incidents []store.Incident) ([]diagnose.Example, []leftOut, error) {
	byJob := map[dhalion.JobID][]store.Incident{}
	for _, in := range incidents {
		byJob[in.Job] = append(byJob[in.Job], in)
	}
	known, err := st.Jobs(ctx)
	if err != nil {
		return nil, nil, err
	}
	measured := map[dhalion.JobID]store.JobInfo{}
	for _, j := range known {
		measured[j.ID] = j
	}
	var jobs []*lesson
	total := 0
	for _, job := range slices.Sorted(maps.Keys(byJob)) {
		of, err := a.forJob(f, job)
		if err != nil {
			return nil, nil, err
		}
		l := newLesson(job, of.loaded, byJob[job], measured[job])
		jobs, total = append(jobs, l), total+len(l.questions)
	}
	progress, end := a.steps("judging the incidents' windows")
	defer end()
	done := 0
	var out []diagnose.Example
	var left []leftOut
	for _, l := range jobs {
		some, err := l.examples(ctx, st, func() {
			if done++; progress != nil {
				progress(done, total)
			}
		})
		if err != nil {
			return nil, nil, err
		}
		out, left = append(out, some...), append(left, l.left...)
	}
	if len(out) == 0 {
		return nil, nil, untaught(incidents, left)
	}
	families := familiesOf(incidents)
	for i := range out {
		out[i].Family = families[out[i].Run]
	}
	return out, left, nil
}

// familiesOf are the families of the jobs that labels are of, also where all of a job's
// are left out.
func familiesOf(incidents []store.Incident) map[string]string {
	all := make([]diagnose.Example, len(incidents))
	for i, in := range incidents {
		all[i] = diagnose.Example{Run: string(in.Job), Family: in.Family}
	}
	families := map[string]string{}
	for _, e := range diagnose.OneFamilyARun(all) {
		families[e.Run] = e.Family
	}
	return families
}

// untaught says why none of some labels gave an example: all were left out, or nothing
// is known of the times of others.
func untaught(incidents []store.Incident, left []leftOut) error {
	for _, in := range incidents {
		if !slices.ContainsFunc(left, func(l leftOut) bool { return l.hides(in.Incident) }) {
			return hinted(errors.New("nothing is known of the times of the incidents"), "ingest the histories that the labels are about")
		}
	}
	return hinted(fmt.Errorf("%s: none of the labels can be learned from, or judged by", left[0].words()), "label what lasted longer, at a target at which its cause is judged")
}

// newLesson works out the windows of a job's incidents, as far as it was measured; no
// time is asked twice.
func newLesson(job dhalion.JobID, pol *policy.Policy, incidents []store.Incident, measured store.JobInfo) *lesson {
	l := &lesson{job: job, policy: pol, incidents: incidents}
	var inOrder time.Duration
	for _, in := range incidents {
		if in.Cause != "" {
			l.held = append(l.held, in.Incident)
		} else if start, end := within(in, measured); end.After(start) {
			inOrder += end.Sub(start)
		}
	}
	asked := map[time.Time]bool{}
	quiet := 0
	for i, in := range incidents {
		start, end := within(in, measured)
		wait, step := leastShown, spread(end.Sub(start), learnEvery)
		if in.Cause == "" {
			wait, step = pol.Window, spread(inOrder, learnQuietEvery)
		}
		if in.Start.Add(wait).After(in.End) {
			l.left = leaveOut(l.left, in.Incident, tooShort, 0)
		}
		at := in.Start.Add(wait)
		if at.Before(measured.From) {
			at = measured.From
		}
		for ; !at.After(end); at = at.Add(step) {
			if asked[at] || in.Cause == "" && recent(l.held, at) {
				continue
			}
			asked[at] = true
			l.questions = append(l.questions, question{len(l.questions), at, i})
			if in.Cause == "" {
				quiet++
			}
		}
	}
	l.thin(quiet)
	return l
}

// within is the part of a label in which the job was measured.
func within(in store.Incident, measured store.JobInfo) (start, end time.Time) {
	start, end = in.Start, in.End
	if start.Before(measured.From) {
		start = measured.From
	}
	if end.After(measured.To) {
		end = measured.To
	}
	return start, end
}

// thin leaves mostAsked of so many windows in order, evenly, where there are more: each
// of many short labels has one at least.
func (l *lesson) thin(quiet int) {
	n := 0
	kept := l.questions[:0]
	for _, q := range l.questions {
		if l.incidents[q.incident].Cause == "" {
			n++
			if quiet > mostAsked && n*mostAsked/quiet == (n-1)*mostAsked/quiet {
				continue
			}
		}
		q.n = len(kept)
		kept = append(kept, q)
	}
	l.questions = kept
}

// batches sorts questions by time and cuts them, so that of the history no more is in
// memory than twice the reach: incidents may be months apart, and a job may be
// labelled as in order for months.
func batches(questions []question, reach time.Duration) (out [][]question) {
	sorted := slices.SortedStableFunc(slices.Values(questions), func(a, b question) int { return a.at.Compare(b.at) })
	for len(sorted) > 0 {
		n := 1
		for n < len(sorted) && sorted[n].at.Sub(sorted[0].at) <= reach {
			n++
		}
		out, sorted = append(out, sorted[:n]), sorted[n:]
	}
	return out
}

// examples judges the windows on all processors; judged is called after each.
func (l *lesson) examples(ctx context.Context, st *store.Store, judged func()) ([]diagnose.Example, error) {
	all := make([]diagnose.Example, len(l.questions))
	var mu sync.Mutex
	reach := l.policy.Reach()
	for _, batch := range batches(l.questions, reach) {
		h, err := st.History(ctx, l.job, batch[0].at.Add(-reach), batch[len(batch)-1].at)
		if err != nil {
			return nil, err
		}
		group, ctx := errgroup.WithContext(ctx)
		group.SetLimit(runtime.GOMAXPROCS(0))
		for _, q := range batch {
			group.Go(func() error {
				if err := ctx.Err(); err != nil {
					return err
				}
				r, err := diagnose.Evaluate(h, q.at, l.policy)
				if err != nil {
					return err
				}
				all[q.n] = diagnose.NewExample(r, l.held)
				mu.Lock()
				defer mu.Unlock()
				judged()
				return nil
			})
		}
		if err := group.Wait(); err != nil {
			return nil, err
		}
	}
	var out []diagnose.Example
	for _, q := range l.questions {
		e, in := all[q.n], l.incidents[q.incident]
		if e.Stray != nil {
			l.left = leaveOut(l.left, *e.Stray, notJudged, 1)
		}
		if e.Cases == nil {
			continue // too little was known, or it is left out
		}
		e.Family, e.Run = in.Family, string(l.job)
		// Two jobs may each have an incident "1".
		e.Incident = fmt.Sprintf("%s %s", l.job, cmp.Or(in.Name, stamp(in.Start)))
		e.Certainty = min(e.Certainty, in.Certainty)
		if in.Cause == "" {
			e.Incident += " " + stamp(q.at) // each window in order is one of its own
		}
		out = append(out, e)
	}
	return out, nil
}

// recent says that a window shows an incident, or what is left of one.
func recent(held []dhalion.Incident, at time.Time) bool {
	return slices.ContainsFunc(held, func(in dhalion.Incident) bool {
		return at.After(in.Start) && at.Before(in.End.Add(diagnose.Lingers(in.Cause)))
	})
}
