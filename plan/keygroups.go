package plan

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/dhalion-go/dhalion"
)

// keyGroups are the numbers of key groups that Flink gives to each of n instances,
// of groups in all: instance i has those from ceil(i·groups/n) to
// floor(((i+1)·groups − 1)/n). Source: KeyGroupRangeAssignment of Flink 1.18 to
// 2.3. groups is the maximum parallelism, and at least n.
func keyGroups(groups, n int) []int {
	counts := make([]int, n)
	for i := range counts {
		first, last := (i*groups+n-1)/n, ((i+1)*groups-1)/n
		counts[i] = last - first + 1
	}
	return counts
}

// unevenness is the largest number of key groups of an instance over an even share.
func unevenness(groups, n int) float64 {
	return float64(slices.Max(keyGroups(groups, n))) * float64(n) / float64(groups)
}

const (
	// evenEnough is the unevenness of key groups that is proposed: a tenth more work
	// for some instances is within what sizing leaves free.
	evenEnough = 1.1
	// unevenRanges is the unevenness from which ranges alone explain a diagnosis of
	// skew, of 1.5 by definition, with a fifth of it being noise.
	unevenRanges = slowdown / 1.2
	// byRange is how much more than its key groups explain an instance may take.
	byRange = 1.25
)

// regroup answers skew that follows from the number of key groups that instances
// have, and not from keys: by the nearest parallelism that deals the groups out
// evenly and is large enough. It is nil where the shares say that keys are hot, or
// where groups are not what records are dealt out by.
func (s *Situation) regroup(d dhalion.Diagnosis, z *size) []Proposal {
	groups, ok := s.groupsOf(d.Target.Component)
	if !ok || z == nil || d.Target.Kind != dhalion.KindInstance || len(z.load.Shares) != z.now || groups < z.now {
		return nil
	}
	counts := keyGroups(groups, z.now)
	even := float64(groups) / float64(z.now)
	if d.Target.Instance >= z.now || float64(counts[d.Target.Instance])/even < unevenRanges {
		return nil
	}
	for i, share := range z.load.Shares {
		if !(share <= byRange*float64(counts[i])/even) { // unknown, too
			return nil
		}
	}
	was := fmt.Sprintf("%d key groups dealt out over %d instances give some of them %d and some %d", groups, z.now, slices.Max(counts), slices.Min(counts))
	to := s.evenly(z, groups)
	if to == 0 {
		none := "no parallelism within the limits"
		if !z.known {
			none = fmt.Sprintf("whether fewer carry the load is unknown (%s), and no larger parallelism within the limits", z.why)
		}
		return []Proposal{s.alert(d, fmt.Sprintf("has its share by the number of its key groups, not by hot keys: %s, and %s deals them "+
			"out evenly: raise the maximum parallelism, which takes a new state", was, none))}
	}
	p := s.rescale(d, z, to)
	p.Action.Message = fmt.Sprintf("%s: %s; over %d all have %s", p.Action.Message, was, to, each(keyGroups(groups, to)))
	p.Action.Expect.Summary = "the key groups are dealt out evenly"
	p.Benefit = 2 * floor
	if z.rated() && z.load.SkewShare > 1 {
		p.Benefit = math.Max(p.Benefit, 1-1/(z.load.SkewShare*z.utilisation(z.now)))
	}
	return []Proposal{p}
}

// evenly is the parallelism nearest to the present one that deals groups out evenly
// enough and is large enough for the load, the smaller of two; 0: there is none.
// Where it is not known what the load takes, more than at present is large enough, and
// fewer is not.
func (s *Situation) evenly(z *size, groups int) int {
	most := groups
	if z.most > 0 {
		most = min(most, z.most)
	}
	best := 0
	for n := max(1, s.set.minParallelism); n <= most; n++ {
		u := unevenness(groups, n)
		if u > evenEnough || n == z.now || z.known && float64(n) < z.required*u || !z.known && n < z.now {
			continue
		}
		if best == 0 || cmp.Compare(distance(n, z.now), distance(best, z.now)) < 0 {
			best = n
		}
	}
	return best
}

func distance(a, b int) int { return max(a-b, b-a) }

// each says how many groups instances have: "2", or "2 or 3".
func each(counts []int) string {
	if low, high := slices.Min(counts), slices.Max(counts); low != high {
		return fmt.Sprintf("%d or %d", low, high)
	}
	return fmt.Sprint(counts[0])
}

// groupsOf is how many key groups a component's records are dealt out by; false
// where they are not, or where that is not known.
func (s *Situation) groupsOf(component string) (int, bool) {
	c, ok := s.Topology.Component(component)
	if !ok || c.MaxParallelism <= 0 {
		return 0, false
	}
	keyed := slices.ContainsFunc(s.Topology.Edges, func(e dhalion.Edge) bool { return e.To == component && strings.EqualFold(e.Ship, "hash") })
	return c.MaxParallelism, keyed
}

// keysTogether adds to advice on a hot instance what one cannot tell from outside:
// one hot key and several that meet on the instance look alike.
func (s *Situation) keysTogether(d dhalion.Diagnosis) string {
	groups, ok := s.groupsOf(d.Target.Component)
	c, _ := s.Topology.Component(d.Target.Component)
	if !ok || c.Parallelism <= 0 || d.Target.Kind != dhalion.KindInstance || d.Target.Instance >= c.Parallelism || groups < c.Parallelism {
		return ""
	}
	return fmt.Sprintf("; its %d of %d key groups do not explain it, so it is one hot key, or several that meet there: another parallelism would part several and leave one "+
		"as it is, a count of its keys tells which", keyGroups(groups, c.Parallelism)[d.Target.Instance], groups)
}
