package plan

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/plan/planfile"
)

// The codes of the warnings that the planner gives; they are stable.
const (
	WarnRescaleAll     = "W-rescale-all"     // a rescale restarts every instance
	WarnUnknownSize    = "W-unknown-size"    // a component's size cannot be worked out
	WarnUnknownPlace   = "W-unknown-place"   // it is not known where a sick instance runs
	WarnUnknownJobs    = "W-unknown-jobs"    // other jobs on a worker are not known
	WarnMaxParallelism = "W-max-parallelism" // a bound keeps a component smaller than wanted
	WarnInfeasible     = "W-infeasible"      // the offered load cannot be carried whatever is done
	WarnIntervalWide   = "W-interval-wide"   // a size rests on a rough estimate
	WarnKeyGroups      = "W-key-groups"      // the new parallelism deals out key groups unevenly
	WarnQuietHours     = "W-quiet-hours"     // as_of lies in the policy's quiet hours
	WarnExternal       = "W-external"        // a component that is scaled up works for a system outside the job
	WarnKnob           = "W-knob-unknown"    // the present value of a knob is not known, so there is no way back
	WarnIgnored        = "W-ignored"         // the published method leaves out what the history shows
	WarnOldRates       = "W-old-rates"       // the newest rates are from before the window
	WarnWaits          = "W-waits"           // the published program itself would not decide yet
	WarnForeign        = "W-foreign-changes" // somebody else changes the job's parallelism: it may only be looked at
)

// wide is the ratio of an interval's ends above which a size is a rough guess.
const wide = 2

// lint says what a reviewer should know of a plan.
func (s *Situation) lint(p dhalion.Plan, earlier []dhalion.Warning) []dhalion.Warning {
	warnings := slices.Clone(earlier)
	warn := func(code, format string, args ...any) {
		warnings = append(warnings, dhalion.Warning{Code: code, Message: fmt.Sprintf(format, args...)})
	}
	if foreign, until := dhalion.Foreign(s.changes, s.AsOf); !until.IsZero() {
		warn(WarnForeign, "somebody else changed its parallelism: %s; apply refuses until %s, as in mode observe", planfile.Changes(foreign), until.UTC().Format(time.RFC3339))
	}
	to := targets(p.Actions)
	if len(to) > 0 {
		warn(WarnRescaleAll, "the rescale restarts all %d instances: expect about %s without output, and a new backlog of that length",
			s.Topology.Instances(), planfile.Duration(s.set.restart))
	}
	for _, a := range p.Actions {
		switch {
		case a.Kind == dhalion.Relocate || (a.Kind == dhalion.Restart && a.Target.Kind == dhalion.KindWorker):
			worker := a.From.String()
			if a.Target.Kind == dhalion.KindWorker {
				worker = a.Target.Worker
			}
			warn(WarnUnknownJobs, "other jobs may have instances on worker %s; only those of %s are counted here", worker, s.Job)
		case a.Kind == dhalion.SetKnob && a.Reverse == nil:
			warn(WarnKnob, "the present value of %s is not known: note it before it is changed, or there is no way back", a.Argument)
		}
	}
	for _, d := range s.findings.Diagnoses {
		if d.Cause == dhalion.SlowInstance && d.Probability >= s.set.actAbove && s.Topology.WorkerOf(d.Target.Component, d.Target.Instance) == "" {
			warn(WarnUnknownPlace, "it is not known on which worker %s runs", d.Target)
		}
	}
	for i := range s.sizes {
		z := &s.sizes[i]
		name := z.load.Component
		n, changes := to[name]
		if !changes {
			n = z.now
		}
		switch {
		case !z.known:
			warn(WarnUnknownSize, "the size of %s cannot be worked out: %s", name, z.why)
			continue
		case z.most > 0 && z.want > z.most && s.set.published():
			warn(WarnMaxParallelism, "%s wants %d instances, and %s allows %d", name, z.want, z.bound, z.most)
		case z.most > 0 && z.want > z.most && (changes || z.utilisation(z.now) > 1):
			warn(WarnMaxParallelism, "%s wants %d instances, and %s allows %d: it would be %s busy", name, z.want, z.bound, z.most,
				planfile.Percent(math.Min(1, s.feasible*z.utilisation(n))))
		}
		if changes && n > z.now && z.load.External {
			warn(WarnExternal, "what %s costs is set by a system outside the job, which %d instances press harder than %d", name, n, z.now)
		}
		if changes && z.high > wide*z.low {
			warn(WarnIntervalWide, "the size of %s rests on a rough estimate: %s to %s instances are needed", name, planfile.Quantity(z.low), planfile.Quantity(z.high))
		}
		c, _ := s.Topology.Component(name)
		if changes && c.MaxParallelism > 0 && s.hashed(name) {
			// Key groups are dealt out whole: 128 over 72 instances gives some 2 and some
			// 1, and those with 2 get 1.13 times their share.
			uneven := math.Ceil(float64(c.MaxParallelism)/float64(n)) * float64(n) / float64(c.MaxParallelism)
			if uneven > 1.1 {
				warn(WarnKeyGroups, "%d key groups over %d instances of %s are dealt out unevenly: some get %s times their share", c.MaxParallelism, n, name, planfile.Quantity(uneven))
			}
		}
	}
	if s.feasible < 1 {
		warn(WarnInfeasible, "%s can carry %s of the offered load at most; the rest of the job is sized for that", s.limiting, planfile.Percent(s.feasible))
	}
	if s.set.quiet.Quiet(s.AsOf) && len(p.Actions) > 0 {
		warn(WarnQuietHours, "%s lies in the policy's quiet hours, %s", s.AsOf.UTC().Format("15:04 UTC"), s.set.quiet)
	}
	slices.SortFunc(warnings, func(a, b dhalion.Warning) int {
		return cmp.Or(cmp.Compare(a.Code, b.Code), cmp.Compare(a.Message, b.Message))
	})
	return slices.Compact(warnings)
}

// hashed reports whether records are dealt out to a component by key.
func (s *Situation) hashed(component string) bool {
	return slices.ContainsFunc(s.Topology.Edges, func(e dhalion.Edge) bool { return e.To == component && e.Ship == "hash" })
}
