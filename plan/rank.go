package plan

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/plan/policy"
)

// candidate is one action with all that was proposed for it: several diagnoses
// may ask for the same.
type candidate struct {
	action  dhalion.Action
	worth   map[dhalion.Cause]float64 // greatest P·benefit by cause
	cost    float64
	stops   float64
	follows bool
	leaders map[dhalion.Pair]bool // of a follower: the diagnoses that it follows
	gone    string                // why it was dropped
	sized   bool                  // asked for by the method of sizing, with or without a diagnosis
}

func sameAction(a, b dhalion.Action) bool {
	return a.Kind == b.Kind && a.Target == b.Target && a.Argument == b.Argument
}

// choose asks the resolvers about every diagnosis and gives the actions in the
// order in which they are applied, and everything refused.
func (s *Situation) choose(resolvers []Resolver) ([]dhalion.Action, []dhalion.Alternative) {
	var candidates []*candidate
	var alternatives []dhalion.Alternative
	refuse := func(a dhalion.Action, reason string) {
		alternatives = append(alternatives, dhalion.Alternative{Action: a, Reason: reason})
	}
	for _, p := range s.sized() {
		if p.Refused != "" {
			refuse(p.Action, p.Refused)
			continue
		}
		candidates = append(candidates, &candidate{action: p.Action, worth: map[dhalion.Cause]float64{}, cost: p.Cost, stops: p.Stops,
			leaders: map[dhalion.Pair]bool{}, sized: true})
	}
	transient := s.probability(dhalion.Transient)
	acted := "" // by the paper's method, the one component that is acted on
	for _, d := range s.findings.Diagnoses {
		if d.Probability < Listed {
			continue
		}
		var proposals []Proposal
		for _, r := range resolvers {
			proposals = append(proposals, r.Propose(d, s)...)
		}
		for i := range proposals {
			s.recall(d, &proposals[i])
		}
		if len(proposals) == 0 {
			refuse(s.alert(d, "is diagnosed with "+string(d.Cause)).Action, "no resolver answers this cause at "+words(d.Target))
			continue
		}
		// One line is enough for what is not acted upon at all.
		if reason := s.idle(d); reason != "" {
			first := proposals[len(proposals)-1] // an action that is meant comes after what is never done
			if first.Follows {
				first = proposals[0]
			}
			if first.Refused != "" && d.ExplainedBy == nil {
				reason = first.Refused
			}
			refuse(s.weighed(first), reason)
			continue
		}
		if s.set.sizing == policy.SizingPaper && d.Target.Component != "" {
			if acted != "" && acted != d.Target.Component {
				refuse(s.weighed(proposals[len(proposals)-1]), fmt.Sprintf("the paper acts on one component at a time, and now on %s", acted))
				continue
			}
			if !slices.ContainsFunc(proposals, blacklisted) {
				acted = d.Target.Component
			}
		}
		for _, p := range proposals {
			scalesUp := p.Action.Kind == dhalion.SetParallelism && d.Cause == dhalion.Underprovisioned
			switch {
			case p.Refused != "":
				refuse(s.weighed(p), p.Refused)
			case scalesUp && transient >= s.set.actAbove && transient >= d.Probability:
				if !p.Follows {
					refuse(s.weighed(p), fmt.Sprintf("a transient is as likely (%.0f %%) and drains by itself", 100*transient))
				}
			case !s.set.allows(p.Action.Kind):
				if !p.Follows {
					refuse(s.weighed(p), fmt.Sprintf("the policy's limits do not allow %s", p.Action.Kind))
				}
			default:
				candidates = merge(candidates, p, d)
			}
		}
	}
	slices.SortFunc(candidates, func(a, b *candidate) int { return compareActions(a.action, b.action) })
	s.conflicts(candidates)
	s.rank(candidates)
	s.rivals(candidates)
	s.bound(candidates)

	// Nothing follows what is not done.
	var actions []dhalion.Action
	for _, c := range candidates {
		s.evaluate(c, candidates)
		if c.gone != "" {
			refuse(c.action, c.gone)
			continue
		}
		actions = append(actions, c.action)
	}
	slices.SortFunc(actions, func(a, b dhalion.Action) int {
		return cmp.Or(cmp.Compare(order(a.Kind), order(b.Kind)), cmp.Compare(b.Utility, a.Utility), compareActions(a, b))
	})
	to := targets(actions)
	for i := range actions {
		if s.set.published() {
			s.expectByMethod(&actions[i])
		} else {
			s.expect(&actions[i], to)
		}
	}
	alternatives = slices.DeleteFunc(alternatives, func(a dhalion.Alternative) bool { return done(a.Action, actions) })
	slices.SortFunc(alternatives, func(a, b dhalion.Alternative) int {
		return cmp.Or(cmp.Compare(b.Action.Probability, a.Action.Probability), compareActions(a.Action, b.Action), cmp.Compare(a.Reason, b.Reason))
	})
	if actions == nil {
		actions = []dhalion.Action{}
	}
	if alternatives == nil {
		alternatives = []dhalion.Alternative{}
	}
	return actions, alternatives
}

// done reports whether an alternative is done for another reason and all its own
// reasons have another answer: that scaling cannot mend a slow instance is no news
// in a plan that scales the component for its load.
func done(a dhalion.Action, actions []dhalion.Action) bool {
	answered := map[dhalion.Pair]bool{}
	same := false
	for _, o := range actions {
		same = same || (sameAction(a, o) && a.To == o.To)
		for _, b := range o.Because {
			answered[b] = true
		}
	}
	return same && !slices.ContainsFunc(a.Because, func(b dhalion.Pair) bool { return !answered[b] })
}

// idle is the reason why a diagnosis is not acted upon at all, or empty.
func (s *Situation) idle(d dhalion.Diagnosis) string {
	if d.ExplainedBy != nil {
		return fmt.Sprintf("explained by %s at %s: mend that first and look again", d.ExplainedBy.Cause, words(d.ExplainedBy.Target))
	}
	if d.Probability < s.set.actAbove {
		return fmt.Sprintf("%.0f %% is too unlikely to act on: the policy asks for %.0f %%", 100*d.Probability, 100*s.set.actAbove)
	}
	return ""
}

// probability of a cause, wherever it is likeliest.
func (s *Situation) probability(cause dhalion.Cause) float64 {
	p := 0.0
	for _, d := range s.findings.Diagnoses {
		if d.Cause == cause {
			p = math.Max(p, d.Probability)
		}
	}
	return p
}

func compareActions(a, b dhalion.Action) int {
	na, _ := a.To.Number()
	nb, _ := b.To.Number()
	return cmp.Or(a.Target.Compare(b.Target), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Argument, b.Argument),
		cmp.Compare(na, nb), cmp.Compare(a.To.String(), b.To.String()), slices.CompareFunc(a.Because, b.Because, comparePairs))
}

// order in which actions are applied. What takes a sick instance or worker away
// comes first, so that a rescale does not place instances there again; asking a
// person comes last.
func order(kind dhalion.ActionKind) int {
	return slices.Index([]dhalion.ActionKind{dhalion.Relocate, dhalion.Restart, dhalion.SetKnob, dhalion.Repartition, dhalion.SetParallelism, dhalion.Alert}, kind)
}

func merge(candidates []*candidate, p Proposal, d dhalion.Diagnosis) []*candidate {
	i := slices.IndexFunc(candidates, func(c *candidate) bool {
		if !sameAction(c.action, p.Action) {
			return false
		}
		if c.sized {
			return true // what the method says holds
		}
		// To more and to fewer instances are two answers.
		return c.action.Kind != dhalion.SetParallelism || grows(c.action) == grows(p.Action)
	})
	if i < 0 {
		candidates = append(candidates, &candidate{action: p.Action, worth: map[dhalion.Cause]float64{}, cost: p.Cost, stops: p.Stops,
			follows: true, leaders: map[dhalion.Pair]bool{}})
		i = len(candidates) - 1
	}
	c := candidates[i]
	c.worth[d.Cause] = math.Max(c.worth[d.Cause], d.Probability*p.Benefit)
	c.follows = c.follows && p.Follows
	if p.Follows {
		c.leaders[pairOf(d)] = true
	}
	c.action.Probability = math.Max(c.action.Probability, d.Probability)
	c.action.Before = both(c.action.Before, p.Action.Before)
	if !slices.Contains(c.action.Because, pairOf(d)) {
		c.action.Because = append(slices.Clone(c.action.Because), pairOf(d))
		slices.SortFunc(c.action.Because, comparePairs)
	}
	return candidates
}

func grows(a dhalion.Action) bool {
	from, _ := a.From.Number()
	to, _ := a.To.Number()
	return to > from
}

// conflicts drops what must not be done together.
func (s *Situation) conflicts(candidates []*candidate) {
	sick := map[string]dhalion.Diagnosis{} // by component, what else is wrong there
	failing := 0.0
	for _, d := range s.findings.Diagnoses {
		if d.Probability < s.set.actAbove || d.ExplainedBy != nil {
			continue
		}
		switch d.Cause {
		case dhalion.Failing:
			failing = math.Max(failing, d.Probability)
		case dhalion.SlowInstance, dhalion.DataSkew, dhalion.SinkLimited:
			if _, ok := sick[d.Target.Component]; !ok {
				sick[d.Target.Component] = d
			}
		}
	}
	for i, c := range candidates {
		a := c.action
		if a.Kind == dhalion.SetParallelism && !grows(a) {
			up := slices.ContainsFunc(candidates, func(o *candidate) bool {
				return o.action.Kind == dhalion.SetParallelism && o.action.Target == a.Target && grows(o.action)
			})
			d, ill := sick[a.Target.Component]
			switch {
			case up:
				c.gone = "the same plan scales " + words(a.Target) + " up"
			case ill && !slices.Contains(a.Because, pairOf(d)):
				c.gone = fmt.Sprintf("%s holds at %s: mend that before instances are taken away", d.Cause, words(d.Target))
			case failing > 0:
				c.gone = "the job keeps failing: what it needs cannot be told from how it runs now"
			}
		}
		// A worker is emptied once, however many of its instances are slow.
		if a.Kind == dhalion.Relocate {
			for _, o := range candidates[:i] {
				if o.gone == "" && o.action.Kind == dhalion.Relocate && o.action.From == a.From {
					loser, winner := c, o
					if a.Target.Kind == dhalion.KindWorker || (o.action.Target.Kind != dhalion.KindWorker && a.Probability > o.action.Probability) {
						loser, winner = o, c
					}
					loser.gone = fmt.Sprintf("worker %s is emptied already, for %s", a.From, words(winner.action.Target))
				}
			}
		}
	}
}

// rank drops what is not worth it. All changes of parallelism are one rescale and
// share its disruption: as one is dropped the others bear more, so this goes on
// until nothing changes.
func (s *Situation) rank(candidates []*candidate) {
	for {
		s.orphans(candidates)
		if s.set.published() {
			return // nothing is weighed
		}
		var worst *candidate
		for _, c := range candidates {
			s.evaluate(c, candidates)
			if c.gone == "" && !(c.action.Utility > 0) && (worst == nil || c.action.Utility < worst.action.Utility) {
				worst = c
			}
		}
		if worst == nil {
			return
		}
		worst.gone = fmt.Sprintf("not worth it: its utility is %.3f", worst.action.Utility)
	}
}

// rivals keeps the worthiest of several knobs that mend one cause at one component,
// the first by its argument's name of those worth the same, once outcomes tell of any
// of them. Of knobs that were never tried nothing says which one it takes, and all
// are set.
func (s *Situation) rivals(candidates []*candidate) {
	if s.set.published() {
		return
	}
	var of []*candidate
	told := map[dhalion.Pair]bool{} // by component and cause
	for _, c := range candidates {
		if c.gone != "" || c.action.Kind != dhalion.SetKnob {
			continue
		}
		of = append(of, c)
		for _, b := range c.action.Before {
			told[dhalion.Pair{Target: c.action.Target, Cause: b.Cause}] = true
		}
	}
	slices.SortStableFunc(of, func(a, b *candidate) int { return cmp.Compare(b.action.Utility, a.action.Utility) })
	best := map[dhalion.Pair]*candidate{}
	for _, c := range of {
		for _, cause := range dhalion.Causes {
			p := dhalion.Pair{Target: c.action.Target, Cause: cause}
			if _, mends := c.worth[cause]; !mends || !told[p] {
				continue
			}
			if o := best[p]; o == nil {
				best[p] = c
			} else {
				c.gone = fmt.Sprintf("%s mends the same and is worth more by what came of both before: %.3f, not %.3f", o.action.Argument, o.action.Utility, c.action.Utility)
				if o.action.Utility == c.action.Utility {
					c.gone = fmt.Sprintf("%s mends the same and is worth as much", o.action.Argument)
				}
			}
		}
	}
}

// evaluate sets a candidate's utility beside what else is still to be done.
func (s *Situation) evaluate(c *candidate, candidates []*candidate) {
	if s.set.published() {
		return
	}
	together := 0
	for _, o := range candidates {
		if o.gone == "" && o.action.Kind == dhalion.SetParallelism {
			together++
		}
	}
	c.action.Utility = s.utility(c.worth, c.cost, c.stops, c.action, together)
}

func (s *Situation) utility(benefits map[dhalion.Cause]float64, cost, stops float64, a dhalion.Action, together int) float64 {
	sum := 0.0
	for _, cause := range dhalion.Causes { // in one order, for the sum's last digit
		sum += benefits[cause]
	}
	disruption := touched(a) * stops / math.Max(1, s.set.validFor.Seconds())
	if a.Kind == dhalion.SetParallelism && together > 1 {
		disruption /= float64(together)
	}
	return sum - cost - disruption
}

// weighed is a proposal's action with the utility that it would have alone.
func (s *Situation) weighed(p Proposal) dhalion.Action {
	benefits := map[dhalion.Cause]float64{}
	for _, b := range p.Action.Because {
		benefits[b.Cause] = p.Action.Probability * p.Benefit
	}
	a := p.Action
	if s.set.published() {
		return a
	}
	a.Utility = s.utility(benefits, p.Cost, p.Stops, a, 1)
	return a
}

// touched is the greatest share of a job's instances that an action stops or
// moves.
func touched(a dhalion.Action) float64 {
	share := 0.0
	for _, t := range a.Affects {
		if t.Of > 0 {
			share = math.Max(share, float64(t.Instances)/float64(t.Of))
		}
	}
	return share
}

// orphans drops followers that no longer have anything to follow.
func (s *Situation) orphans(candidates []*candidate) {
	for _, c := range candidates {
		if c.gone != "" || !c.follows {
			continue
		}
		led := slices.ContainsFunc(candidates, func(o *candidate) bool {
			return o.gone == "" && !o.follows && slices.ContainsFunc(o.action.Because, func(b dhalion.Pair) bool { return c.leaders[b] })
		})
		if !led {
			c.gone = "the component that it was to be scaled with is not scaled"
		}
	}
}

// bound drops what would touch more instances or jobs than the policy allows,
// keeping what is worth most. A rescale is kept or dropped as a whole.
func (s *Situation) bound(candidates []*candidate) {
	byWorth := slices.Clone(candidates)
	slices.SortStableFunc(byWorth, func(a, b *candidate) int { return cmp.Compare(b.action.Utility, a.action.Utility) })
	on, _ := s.placed()
	moved := map[dhalion.Placement]bool{}
	left := map[string]bool{} // workers from which something is moved
	of, touches := map[dhalion.JobID]int{}, map[dhalion.JobID]int{}
	for _, c := range byWorth {
		if c.gone != "" || len(c.action.Affects) == 0 {
			continue
		}
		nowOf, now, nowMoved := maps.Clone(of), maps.Clone(touches), map[dhalion.Placement]bool{}
		for _, t := range c.action.Affects {
			nowOf[t.Job] = t.Of
		}
		worker := workerOf(c.action)
		if touched(c.action) >= 1 {
			now[s.Job] = nowOf[s.Job]
		} else {
			for _, p := range on[worker] {
				if !moved[p] {
					nowMoved[p] = true
					now[s.Job] = min(nowOf[s.Job], now[s.Job]+1)
				}
			}
		}
		for _, t := range c.action.Affects {
			if t.Job != s.Job && !left[worker] {
				now[t.Job] = min(t.Of, now[t.Job]+t.Instances)
			}
		}
		instances, all := 0, 0
		for job, n := range nowOf {
			instances, all = instances+now[job], all+n
		}
		switch {
		case s.set.maxJobs > 0 && len(nowOf) > s.set.maxJobs:
			c.gone = fmt.Sprintf("it would touch %d jobs; the policy's max_jobs_touched is %d", len(nowOf), s.set.maxJobs)
			if others := beside(c.action, s.Job); others != "" {
				c.gone = fmt.Sprintf("it would touch %s, too; the policy's max_jobs_touched is %d", others, s.set.maxJobs)
			}
		case s.set.maxTouched > 0 && float64(instances) > s.set.maxTouched*float64(all)+1e-9:
			c.gone = fmt.Sprintf("the plan would touch %d of %d instances; the policy's max_instances_touched is %.3g", instances, all, s.set.maxTouched)
		default:
			of, touches = nowOf, now
			maps.Copy(moved, nowMoved)
			left[worker] = true
		}
	}
	s.orphans(candidates)
}

// workerOf is the worker that an action moves instances off; empty: none.
func workerOf(a dhalion.Action) string {
	switch {
	case a.Kind != dhalion.Relocate && a.Target.Kind != dhalion.KindWorker:
		return ""
	case a.Target.Worker != "":
		return a.Target.Worker
	}
	return a.From.String()
}

// beside names the jobs that an action touches beside the plan's own.
func beside(a dhalion.Action, own dhalion.JobID) string {
	var names []string
	for _, t := range a.Affects {
		if t.Job != own {
			names = append(names, string(t.Job))
		}
	}
	return strings.Join(names, " and ")
}
