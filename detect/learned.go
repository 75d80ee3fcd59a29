package detect

import (
	"fmt"
	"math"
	"slices"
	"time"

	dhalion "github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/features"
	"github.com/dhalion-go/dhalion/internal/parallel"
	"github.com/dhalion-go/dhalion/plan/planfile"
	"github.com/dhalion-go/dhalion/plan/policy"
)

// A policy's detector may have no limit written: it is learned, from the job's own
// past or from peers (policy.Learn). The past is cut into windows that do not overlap
// and stand at multiples of their length, so that one evaluation learns from the same
// as the next. Of them only those teach in which nothing held up the flow and, at a
// component or an instance, its component had as many instances as now; and none that
// reaches into the trail that is judged.

// How many windows of the past are read at most, evenly spread, and how many of them
// it takes to learn a tail; the windows whose median is the level of what drifts; and
// how long peers are looked at: three moments more seen than not.
const (
	mostPast    = 720
	leastPast   = 60
	driftDepth  = 10
	peerPersist = 3
	peerMost    = 6
	peerLeast   = .1 // least spread of peers, as a share of their level
)

// seen is a history as a learned detector looks at it.
type seen struct {
	past    []taught             // oldest first
	trail   []*features.Snapshot // at the moments that are judged
	moments []time.Time
	// numbers are what detectors ask for, by the detector's name.
	numbers map[string]*numbers
}

// taught is a window of the past. Of its snapshot no more is kept: hundreds of a wide
// job would fill the memory.
type taught struct {
	end      time.Time
	calm     bool // nothing held up the flow
	topology dhalion.Topology
}

// numbers are an expression's values about every target in every window of the past,
// NaN where unknown.
type numbers struct {
	of, per map[dhalion.Target][]float64 // per: nil where a detector has none
	err     error
}

// learner makes learned detectors for one evaluation.
type learner struct {
	reader  *features.Reader
	policy  *policy.Policy
	moments []time.Time
	now     *features.Snapshot
	cache   map[[3]time.Duration]*seen              // by window, how far back, season
	peers   map[string]map[dhalion.Target][]Verdict // of the detector that is asked, by component
	// why a limit could not be learned though the number is known, and how many windows
	// there were of it: of the target with most.
	reason string
	known  int
}

func newLearner(r *features.Reader, p *policy.Policy, moments []time.Time, now *features.Snapshot) *learner {
	return &learner{reader: r, policy: p, moments: moments, now: now, cache: map[[3]time.Duration]*seen{}}
}

// begin forgets what was worked out for the detector before.
func (l *learner) begin() {
	l.peers, l.reason, l.known = map[string]map[dhalion.Target][]Verdict{}, "", -1
}

// see reads the windows that a detector learns from and judges; the past, for all
// detectors that learn from the same.
func (l *learner) see(spec policy.Detector) *seen {
	window, over, season := spec.Learn.Window, spec.Learn.Over, spec.Learn.Season
	key := [3]time.Duration{window, over, season}
	if s := l.cache[key]; s != nil {
		return s
	}
	r := l.reader.Windows(window)
	s := &seen{moments: l.moments, trail: snapshotsAt(r, l.moments), numbers: map[string]*numbers{}}
	last := l.moments[0].Add(-window).Truncate(window)
	var times []time.Time
	if measured := r.Times(l.moments[len(l.moments)-1].Add(-over), last); len(measured) > 0 {
		times = pastWindows(measured[0], last, window, seasonOf(spec))
	}
	s.past = make([]taught, len(times))
	type column struct {
		about  *policy.Expr
		target dhalion.Target
		values []float64
		errs   []error
		of     *numbers
	}
	var columns []column
	for _, d := range l.policy.Detectors {
		if d.Learn == nil || d.Learn.Window != window || d.Learn.Over != over || d.Learn.Season != season {
			continue
		}
		n := &numbers{of: map[dhalion.Target][]float64{}}
		s.numbers[d.Name] = n
		add := func(about *policy.Expr, to map[dhalion.Target][]float64) {
			for _, t := range slices.Concat(l.now.Targets(d.Target), s.trail[len(s.trail)-1].Targets(d.Target)) {
				if to[t] == nil {
					to[t] = make([]float64, len(times))
					columns = append(columns, column{about, t, to[t], make([]error, len(times)), n})
				}
			}
		}
		add(d.Learn.Of, n.of)
		if d.Learn.Per != nil {
			n.per = map[dhalion.Target][]float64{}
			add(d.Learn.Per, n.per)
		}
	}
	parallel.Each(len(times), func(i int) {
		snap := r.At(times[i])
		s.past[i] = taught{snap.Window.End, r.Calm(times[i]), snap.Topology}
		for _, c := range columns {
			c.values[i], c.errs[i] = l.value(c.about, snap, c.target)
		}
	})
	for _, c := range columns {
		for _, err := range c.errs {
			if c.of.err == nil {
				c.of.err = err
			}
		}
	}
	l.cache[key] = s
	return s
}

// pastWindows are the ends of the windows to learn from, ascending, of all that there
// are from first to last: mostPast, evenly spread, or as many of each phase of a season.
func pastWindows(first, last time.Time, window time.Duration, season Season) []time.Time {
	step := window
	if season.Phases == 1 {
		step *= max(1, (last.Sub(first)/window+mostPast-1)/mostPast)
	}
	byPhase := make([][]time.Time, season.Phases)
	for t := last; !t.Add(-window).Before(first.Add(-window / 2)); t = t.Add(-step) {
		k := season.Phase(t)
		byPhase[k] = append(byPhase[k], t)
	}
	var times []time.Time
	for _, all := range byPhase {
		most := len(all)
		if season.Phases > 1 {
			most = min(most, mostPast/season.Phases)
		}
		for i := range most {
			at := float64(i)
			if most < len(all) {
				// Anywhere in its stretch, or what comes again after as long as from one to the
				// next would be seen in all of them or in none.
				_, part := math.Modf(float64(i) * goldenRatio)
				at = (float64(i) + part) * float64(len(all)) / float64(most)
			}
			times = append(times, all[int(at)])
		}
	}
	slices.SortFunc(times, time.Time.Compare)
	return times
}

// goldenRatio spreads the fractions of its multiples most evenly (Weyl; Knuth, The Art
// of Computer Programming 3, 6.4).
const goldenRatio = 1.618033988749895

// teaches says that a window of the past is one to learn from for a target.
func (s *seen) teaches(i int, t dhalion.Target) bool {
	if !s.past[i].calm {
		return false
	}
	if t.Component == "" {
		return true
	}
	then, known := s.past[i].topology.Component(t.Component)
	now, still := s.trail[len(s.trail)-1].Topology.Component(t.Component)
	return !known || !still || then.Parallelism == now.Parallelism
}

// value is an expression about a target of a snapshot; NaN for what is unknown.
func (l *learner) value(e *policy.Expr, snap *features.Snapshot, t dhalion.Target) (float64, error) {
	of := func(f string) float64 { return snap.Value(t, f) }
	component := func(f string) float64 { return snap.Value(t, policy.OfComponent+f) }
	v, known, err := e.Number(policy.Env{Feature: of, Parameter: l.policy.Number, Component: &policy.Env{Feature: component, Parameter: l.policy.Number}})
	if err != nil || !known {
		return math.NaN(), err
	}
	return v, nil
}

func (l *learner) values(e *policy.Expr, snaps []*features.Snapshot, t dhalion.Target) ([]float64, error) {
	out := make([]float64, len(snaps))
	for i, snap := range snaps {
		var err error
		if out[i], err = l.value(e, snap, t); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// detector is a learned one for a target; what it says of a trail's last moment rests
// on the moments of the evaluation that the trail is made of.
func (l *learner) detector(spec policy.Detector, t dhalion.Target) (Detector, error) {
	s := l.see(spec)
	now, err := l.values(spec.Learn.Of, s.trail, t)
	if err != nil {
		return nil, err
	}
	learned := s.numbers[spec.Name]
	if learned.err != nil {
		return nil, learned.err
	}
	past := learned.of[t]
	var verdicts []Verdict
	switch spec.Learn.Against {
	case policy.AgainstPeers:
		verdicts, err = l.againstPeers(spec, s, t)
	case policy.AgainstRecent:
		verdicts = l.againstRecent(spec, s, t, past, now)
	default:
		verdicts = l.againstPast(spec, s, t, past, now)
	}
	if err != nil {
		return nil, err
	}
	if verdicts == nil {
		return Func(func(Trail) Sighting { return Sighting{} }), nil
	}
	d := Hold(spec.Hold, spec.Clear, Func(func(trail Trail) Sighting {
		if len(trail) == 0 || !verdicts[len(trail)-1].Known {
			return Sighting{}
		}
		v := verdicts[len(trail)-1]
		if now[len(trail)-1] <= spec.Learn.Floor {
			v.Seen, v.Score = false, math.Min(v.Score, 1)
		}
		return Sighting{Known: true, Seen: v.Seen, Score: v.Score, Probability: v.Probability, Since: trail[len(trail)-1].At}
	}))
	return Func(func(trail Trail) Sighting {
		sighting := d.Detect(trail)
		if sighting.Seen {
			// How likely it is no noise, the last verdict knows better than a count.
			if v := verdicts[len(trail)-1]; v.Known && v.Seen {
				sighting.Probability = math.Max(sighting.Probability, v.Probability)
			}
			var times []time.Time
			for _, w := range s.past {
				times = append(times, w.end)
			}
			// A window blurs a change by its own length, and polls by theirs.
			series := slices.Concat(past, now)
			if at := sinceChange(append(times, s.moments...), series, sighting.Since.Add(2*spec.Learn.Window)); at.Before(sighting.Since) {
				sighting.Since = at
			}
		}
		return sighting
	}), nil
}

// points are the values of the past that teach.
func (s *seen) points(t dhalion.Target, past []float64) (points []Point, known int) {
	for i, v := range past {
		if s.teaches(i, t) {
			points = append(points, Point{s.past[i].end, v})
			if !math.IsNaN(v) {
				known++
			}
		}
	}
	return points, known
}

// enough says whether so many windows of a number teach, and notes why not.
func (l *learner) enough(spec policy.Detector, known int, now []float64) bool {
	needed := leastPast
	if spec.Learn.Against == policy.AgainstRecent {
		needed += driftDepth
	}
	if known > l.known && known < needed && !math.IsNaN(now[len(now)-1]) {
		l.known = known
		l.reason = fmt.Sprintf("%d undisturbed windows of %s in the %s before, and %d are needed to learn its limit", known, planfile.Duration(spec.Learn.Window), planfile.Duration(spec.Learn.Over), needed)
	}
	return known >= needed
}

// againstPast holds values against the tail of the deviations from the seasonal level.
func (l *learner) againstPast(spec policy.Detector, s *seen, t dhalion.Target, past, now []float64) []Verdict {
	points, known := s.points(t, past)
	if !l.enough(spec, known, now) {
		return nil
	}
	limit, err := LearnLimit(points, seasonOf(spec), spec.Learn.FalseAlarms)
	if err != nil {
		l.reason = err.Error()
		return nil
	}
	if k := limit.Baseline.Season.Phase(s.moments[len(now)-1]); math.IsNaN(limit.Baseline.Levels[k]) {
		l.reason = fmt.Sprintf("fewer than %d undisturbed windows of %s at this part of the season of %s in the %s before", leastPhase,
			planfile.Duration(spec.Learn.Window), planfile.Duration(spec.Learn.Season), planfile.Duration(spec.Learn.Over))
	}
	out := make([]Verdict, len(now))
	for i, v := range now {
		d := limit.Baseline.Deviation(s.moments[i], v)
		switch spec.Learn.Side {
		case policy.SideAbove:
			out[i] = judged(limit.Above.Probability(d), limit.Q)
		case policy.SideBelow:
			out[i] = judged(limit.Below.Probability(-d), limit.Q)
		default:
			out[i] = limit.Judge(s.moments[i], v)
		}
	}
	return out
}

// seasonPhases is how many phases a season has: hours of a day.
const seasonPhases = 24

func seasonOf(spec policy.Detector) Season {
	if spec.Learn.Season > 0 {
		return Season{Step: spec.Learn.Season / seasonPhases, Phases: seasonPhases}
	}
	return Season{Phases: 1}
}

// againstRecent holds values against the level just before, by SPOT with drift.
func (l *learner) againstRecent(spec policy.Detector, s *seen, t dhalion.Target, past, now []float64) []Verdict {
	points, known := s.points(t, past)
	if !l.enough(spec, known, now) {
		return nil
	}
	signs, q := []float64{1}, spec.Learn.FalseAlarms
	switch spec.Learn.Side {
	case policy.SideBelow:
		signs = []float64{-1}
	case policy.SideEither:
		signs, q = []float64{1, -1}, q/2
	}
	out := make([]Verdict, len(now))
	for _, sign := range signs {
		spot, err := NewSPOT(q, limitLevel, leastPast, driftDepth)
		if err != nil {
			l.reason = err.Error()
			return nil
		}
		for _, p := range points {
			spot.Next(sign * p.Value)
		}
		// What is judged does not teach: the windows of a trail overlap, and a fault that
		// has lasted would have become normal.
		for i, v := range now {
			if verdict := spot.Judge(sign * v); verdict.Known && (!out[i].Known || verdict.Score > out[i].Score) {
				out[i] = verdict
			}
		}
	}
	return out
}

// againstPeers holds the instances of a component, or a job's workers, against each
// other and their own past.
func (l *learner) againstPeers(spec policy.Detector, s *seen, t dhalion.Target) ([]Verdict, error) {
	if all, ok := l.peers[t.Component]; ok {
		return all[t], nil
	}
	var peers []dhalion.Target
	for _, o := range s.trail[len(s.trail)-1].Targets(spec.Target) {
		if o.Component == t.Component {
			peers = append(peers, o)
		}
	}
	readings := func(snap *features.Snapshot) ([]Reading, error) {
		out := make([]Reading, len(peers))
		for i, o := range peers {
			v, err := l.value(spec.Learn.Of, snap, o)
			if err != nil {
				return nil, err
			}
			out[i] = Reading{Value: v, Load: math.NaN()}
			if spec.Learn.Per != nil {
				if out[i].Load, err = l.value(spec.Learn.Per, snap, o); err != nil {
					return nil, err
				}
			}
		}
		return out, nil
	}
	finder, err := NewPeers(Peers{Q: spec.Learn.FalseAlarms, Floor: spec.Learn.Floor, Least: peerLeast, History: 120, Persist: peerPersist, Most: peerMost})
	if err != nil {
		return nil, err
	}
	learned := s.numbers[spec.Name]
	for i := range s.past {
		if !s.teaches(i, t) {
			continue
		}
		then := make([]Reading, len(peers))
		for k, o := range peers {
			then[k] = Reading{Value: learned.of[o][i], Load: math.NaN()}
			if learned.per != nil {
				then[k].Load = learned.per[o][i]
			}
		}
		finder.Next(then)
	}
	all := map[dhalion.Target][]Verdict{}
	for _, snap := range s.trail {
		now, err := readings(snap)
		if err != nil {
			return nil, err
		}
		for i, v := range finder.Judge(now) {
			v.Seen = v.Reported
			all[peers[i]] = append(all[peers[i]], v.Verdict)
		}
	}
	l.peers[t.Component] = all
	return all[t], nil
}
