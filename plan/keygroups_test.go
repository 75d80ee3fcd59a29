package plan

import (
	"math"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/dhalion-go/dhalion"
)

func TestEveryKeyGroupBelongsToTheInstanceThatFlinkSendsItsRecordsTo(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		groups := rapid.IntRange(1, 1<<15).Draw(t, "groups")
		n := rapid.IntRange(1, min(groups, 3000)).Draw(t, "instances")
		counts := keyGroups(groups, n)
		group := 0
		for i, count := range counts {
			if count < 1 {
				t.Fatalf("instance %d of %d has %d of %d groups", i, n, count, groups)
			}
			for range count {
				// The instance of a group: KeyGroupRangeAssignment.computeOperatorIndexForKeyGroup.
				if at := group * n / groups; at != i {
					t.Fatalf("group %d of %d is in the range of instance %d of %d, and goes to %d", group, groups, i, n, at)
				}
				group++
			}
		}
		if group != groups {
			t.Fatalf("%d of %d groups are dealt out", group, groups)
		}
	})
}

// keyed is the word count with counter at so many instances and groups; shares are
// what each instance takes over an even share.
func keyed(instances, groups int, shares func(i int, byGroups float64) float64) Input {
	in := wordcount(1, found(dhalion.DataSkew, dhalion.InstanceTarget(job, "counter", 0), 0.9))
	in.Topology.Components = slices.Clone(in.Topology.Components)
	for i := range in.Topology.Components {
		if c := &in.Topology.Components[i]; c.Name == "counter" {
			c.Parallelism, c.MaxParallelism = instances, groups
		}
	}
	in.Topology.Placement = nil
	in.Topology.Edges = slices.Clone(in.Topology.Edges)
	for i := range in.Topology.Edges {
		if in.Topology.Edges[i].To == "counter" {
			in.Topology.Edges[i].Ship = "hash"
		}
	}
	in.Load = slices.Clone(in.Load)
	for i := range in.Load {
		l := &in.Load[i]
		if l.Component != "counter" {
			continue
		}
		l.SkewShare, l.Shares = 0, nil
		for k, n := range keyGroups(groups, instances) {
			share := shares(k, float64(n)*float64(instances)/float64(groups))
			l.Shares, l.SkewShare = append(l.Shares, share), math.Max(l.SkewShare, share)
		}
	}
	return in
}

func TestUnevenKeyGroupsAreMendedByAnotherParallelism(t *testing.T) {
	as := func(_ int, byGroups float64) float64 { return byGroups }
	// 12 groups over 8 instances: two or one, 2·8/12 = 1.33 times an even share. Over
	// 12 all have one, over 6 all have two; 4 would do as well and is farther.
	p := made(t, keyed(8, 12, as), defaults())
	same(t, briefly(p), "counter 8 → 6 instances")
	a := p.Actions[0]
	for _, words := range []string{"12 key groups dealt out over 8 instances give some of them 2 and some 1", "over 6 all have 2"} {
		if !strings.Contains(a.Message, words) {
			t.Errorf("it does not say %q: %s", words, a.Message)
		}
	}
	if a.Reverse == nil || a.Reverse.To != dhalion.NumberSetting(8) || a.Because[0].Cause != dhalion.DataSkew {
		t.Errorf("%+v", a)
	}

	// At 1.3 times the load it takes 4·1.3/.8 = 6.5, so 6 are too few.
	in := keyed(8, 12, as)
	for i := range in.Load {
		in.Load[i].Offered *= 1.3
	}
	p = made(t, in, defaults())
	if got := p.Actions[0].To; p.Actions[0].Target.Component != "counter" || got != dhalion.NumberSetting(12) {
		t.Errorf("at a greater load: %s, %s", got, p.Actions[0].Message)
	}

	// Where the policy allows no such number, a person is told why.
	set := defaults()
	set.maxParallelism = 8
	set.minParallelism = 7
	p = made(t, keyed(8, 12, as), set)
	if len(p.Actions) != 1 || p.Actions[0].Kind != dhalion.Alert || !strings.Contains(p.Actions[0].Message, "no parallelism within the limits") {
		t.Errorf("%+v", p.Actions)
	}
}

func TestUnevenKeyGroupsTakeNoInstanceAwayWhereItIsNotKnownWhatTheLoadTakes(t *testing.T) {
	as := func(_ int, byGroups float64) float64 { return byGroups }
	for name, unknown := range map[string]func(*ComponentLoad){
		"its offered load": func(l *ComponentLoad) { l.Offered = math.NaN() },
		"the rate of a healthy instance": func(l *ComponentLoad) {
			l.PerInstance, l.PerInstanceLow, l.PerInstanceHigh, l.Busy = math.NaN(), math.NaN(), math.NaN(), 1
		},
	} {
		in := keyed(8, 12, as)
		for i := range in.Load {
			unknown(&in.Load[i])
		}
		// 6 are nearest and all have two groups; whether 6 carry the load nobody knows. 12 do if 8 do.
		p := made(t, in, defaults())
		if len(p.Actions) != 1 || p.Actions[0].Kind != dhalion.SetParallelism || p.Actions[0].To != dhalion.NumberSetting(12) {
			t.Errorf("without knowing %s: %s", name, briefly(p))
		}
		set := defaults()
		set.maxParallelism = 8
		p = made(t, in, set)
		if len(p.Actions) != 1 || p.Actions[0].Kind != dhalion.Alert || !strings.Contains(p.Actions[0].Message, "whether fewer carry the load is unknown ("+name+" is not known), and no larger") {
			t.Errorf("without knowing %s and with no more than 8: %s, %s", name, briefly(p), p.Actions[0].Message)
		}
	}
}

func TestAHotKeyIsNotAnsweredByAnotherParallelism(t *testing.T) {
	for name, in := range map[string]Input{
		"one hot instance among even ranges": keyed(8, 128, func(i int, byGroups float64) float64 {
			if i == 0 {
				return 3
			}
			return byGroups * 5 / 7
		}),
		"a hot instance beyond what its groups explain": keyed(8, 12, func(i int, byGroups float64) float64 {
			if i == 0 {
				return 1.3 * byGroups
			}
			return byGroups
		}),
		"a share that is not known": keyed(8, 12, func(i int, byGroups float64) float64 {
			if i == 5 {
				return math.NaN()
			}
			return byGroups
		}),
	} {
		p := made(t, in, defaults())
		if len(p.Actions) != 1 || p.Actions[0].Kind != dhalion.Alert || !strings.Contains(p.Actions[0].Message, "split its hot keys") ||
			!strings.Contains(p.Actions[0].Message, "key groups do not explain it") {
			t.Errorf("%s: %+v", name, p.Actions)
		}
		hasReason(t, p, "scaling cannot mend data_skew")
	}
	in := keyed(8, 12, func(_ int, byGroups float64) float64 { return byGroups })
	for i := range in.Topology.Edges {
		in.Topology.Edges[i].Ship = "rebalance"
	}
	if p := made(t, in, defaults()); p.Actions[0].Kind != dhalion.Alert {
		t.Errorf("records that are not dealt out by keys: %+v", p.Actions)
	}
}
