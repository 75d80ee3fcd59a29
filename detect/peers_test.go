package detect

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func newPeers(t interface{ Fatal(...any) }, p Peers) *Peers {
	out, err := NewPeers(p)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

var usual = Peers{Q: 1e-3, Floor: 0.2, Least: 0.1, History: 120, Persist: 3, Most: 6}

// play gives eight instances of load 100 and value .5, with five per cent noise,
// as change makes them at a moment, and returns the last verdicts.
func play(p *Peers, moments int, change func(moment int, r []Reading)) []PeerVerdict {
	r := rand.New(rand.NewPCG(3, 4))
	var out []PeerVerdict
	for m := range moments {
		now := make([]Reading, 8)
		for i := range now {
			now[i] = Reading{Value: 0.5 * (1 + 0.05*r.NormFloat64()), Load: 100 * (1 + 0.05*r.NormFloat64())}
		}
		change(m, now)
		out = p.Next(now)
	}
	return out
}

func TestASlowInstanceIsReportedWhenItPersists(t *testing.T) {
	slow := func(m int, r []Reading) {
		if m >= 40 {
			r[2].Value *= 2
		}
	}
	for _, c := range []struct {
		moments  int
		reported bool
	}{{41, false}, {42, false}, {43, true}, {60, true}} {
		got := play(newPeers(t, usual), c.moments, slow)
		for i, v := range got {
			if v.Reported != (i == 2 && c.reported) {
				t.Errorf("moment %d, instance %d: %+v", c.moments, i, v)
			}
		}
	}
	// Persistence falls by one a moment from 6: reported for four moments more.
	well := func(m int, r []Reading) {
		if m >= 40 && m < 60 {
			r[2].Value *= 2
		}
	}
	if play(newPeers(t, usual), 63, well)[2].Reported != true || play(newPeers(t, usual), 64, well)[2].Reported {
		t.Error("persistence is not counted down")
	}
}

// Twice the load explains twice the busy time.
func TestMoreWorkIsNoSlowness(t *testing.T) {
	busy := func(m int, r []Reading) {
		if m >= 40 {
			r[2].Value, r[2].Load = 2*r[2].Value, 2*r[2].Load
		}
	}
	if v := play(newPeers(t, usual), 60, busy)[2]; v.Reported || v.Seen {
		t.Errorf("%+v", v)
	}
	unloaded := func(m int, r []Reading) {
		busy(m, r)
		for i := range r {
			r[i].Load = math.NaN()
		}
	}
	if v := play(newPeers(t, usual), 60, unloaded)[2]; !v.Reported {
		t.Errorf("with no load known the raw metric decides: %+v", v)
	}
}

// All become slow together: no peer is unlike, each is unlike its own history.
func TestAllSlowTogetherAreUnlikeTheirOwnHistory(t *testing.T) {
	for i, v := range play(newPeers(t, usual), 60, func(m int, r []Reading) {
		for i := range r {
			if m >= 40 {
				r[i].Value *= 2
			}
		}
	}) {
		if !v.Reported || !v.Own {
			t.Errorf("instance %d: %+v", i, v)
		}
	}
}

// Slow from the start: no history is better, the peers are.
func TestAnInstanceSlowFromTheStartIsUnlikeItsPeers(t *testing.T) {
	v := play(newPeers(t, usual), 60, func(m int, r []Reading) { r[5].Value *= 2 })[5]
	if !v.Reported || v.Own {
		t.Errorf("%+v", v)
	}
}

func TestBelowTheFloorNothingIsSeen(t *testing.T) {
	v := play(newPeers(t, usual), 60, func(m int, r []Reading) {
		for i := range r {
			r[i].Value /= 10
		}
		r[2].Value *= 3
	})[2]
	if v.Seen || v.Score > 1 || v.Reported {
		t.Errorf("%+v", v)
	}
}

// 16,000 verdicts at q = .01: 160 are stated. Few peers say little of the tail, so
// that heavy noise may be seen two and a half times as often, and no more.
func TestNoiseAmongPeersIsSeenNoMoreOftenThanStated(t *testing.T) {
	for _, kind := range []string{"normal", "student t, 3 degrees"} {
		for _, instances := range []int{3, 8, 32} {
			p, seen := newPeers(t, Peers{Q: 0.01, Floor: 0, Least: 0.01, History: 120, Persist: 1, Most: 1}), 0
			noise := noiseOf(kind, uint64(instances), 16_000)
			for len(noise) >= instances {
				now := make([]Reading, instances)
				for i := range now {
					now[i] = Reading{Value: 100 + noise[i], Load: math.NaN()}
				}
				noise = noise[instances:]
				for _, v := range p.Next(now) {
					seen += b2i(v.Seen)
				}
			}
			t.Logf("%s, %d instances: %d of 160", kind, instances, seen)
			if seen > 400 {
				t.Errorf("%s, %d instances: %d verdicts of noise, 160 are stated", kind, instances, seen)
			}
		}
	}
}

func TestUnknownInstancesAreNotJudgedAndPersistenceWaits(t *testing.T) {
	p := newPeers(t, usual)
	play(p, 60, func(m int, r []Reading) {
		if m >= 40 {
			r[2].Value *= 2
		}
	})
	now := make([]Reading, 8)
	for i := range now {
		now[i] = Reading{math.NaN(), math.NaN()}
	}
	if v := p.Next(now)[2]; v.Known || !v.Reported {
		t.Errorf("%+v", v)
	}
	if len(p.Next(nil)) != 0 {
		t.Error("no instance has a verdict")
	}
}

func TestPeersThatCannotBeAreRefused(t *testing.T) {
	for _, p := range []Peers{{}, {Q: 2, Least: .1, Persist: 1, Most: 1}, {Q: .1, Least: .1, Persist: 2, Most: 1}, {Q: .1, Persist: 1, Most: 1}, {Q: .1, Least: .1, Floor: math.NaN(), Persist: 1, Most: 1}} {
		if _, err := NewPeers(p); err == nil {
			t.Errorf("%+v was taken", p)
		}
	}
}

func TestPeersTakeAnyReadings(t *testing.T) {
	value := rapid.OneOf(rapid.Float64(), rapid.Just(math.NaN()), rapid.Just(math.Inf(1)), rapid.Just(0.0))
	rapid.Check(t, func(t *rapid.T) {
		p := newPeers(t, usual)
		for range rapid.IntRange(1, 30).Draw(t, "moments") {
			now := make([]Reading, rapid.IntRange(0, 4).Draw(t, "instances"))
			for i := range now {
				now[i] = Reading{value.Draw(t, "value"), value.Draw(t, "load")}
			}
			for _, v := range p.Next(now) {
				if v.Known && (math.IsNaN(v.Score) || math.IsInf(v.Score, 0) || v.Probability < 0 || v.Probability > 1) {
					t.Fatalf("%+v of %v", v, now)
				}
			}
		}
	})
}

func TestTheLevelOfAllButOneIsThatOfTheRest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		values := rapid.SliceOfN(rapid.OneOf(rapid.Float64Range(-10, 10), rapid.SampledFrom([]float64{0, 1, 2, math.NaN()})), 3, 40).Draw(t, "values")
		i := rapid.IntRange(0, len(values)-1).Draw(t, "i")
		if math.IsNaN(values[i]) {
			t.Skip("it is compared with nothing")
		}
		rest := slices.DeleteFunc(slices.Delete(slices.Clone(values), i, i+1), math.IsNaN)
		if len(rest) == 0 {
			t.Skip("there is no other")
		}
		wantMedian, wantSpread := Level(rest)
		if median, spread, n := newOthers(values).level(values[i]); median != wantMedian || spread != wantSpread || n != len(rest) {
			t.Fatalf("level %v ± %v of %d, want %v ± %v of %d", median, spread, n, wantMedian, wantSpread, len(rest))
		}
	})
}
