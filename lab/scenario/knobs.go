package scenario

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Placement says on which worker each instance runs: component → instance →
// worker's id.
type Placement map[string]map[int]string

// Workers are the ids that host anything, sorted.
func (p Placement) Workers() []string {
	seen := map[string]bool{}
	for _, instances := range p {
		for _, w := range instances {
			seen[w] = true
		}
	}
	return keys(seen)
}

// On lists what of the shape runs on a worker, sources left out: component →
// instances, in order.
func (p Placement) On(worker string, shape Shape) map[string][]int {
	on := map[string][]int{}
	for _, name := range shape.Stages() {
		for _, i := range slices.Sorted(maps.Keys(p[name])) {
			if p[name][i] == worker {
				on[name] = append(on[name], i)
			}
		}
	}
	return on
}

func count(on map[string][]int) (n int) {
	for _, l := range on {
		n += len(l)
	}
	return n
}

// Choose is the worker that a pick means in this placement: one of those that
// qualify, told by the seed, not the last one if there is another. It is empty
// when none qualifies.
func (p Pick) Choose(placement Placement, shape Shape, seed uint64, last string) string {
	var fit []string
	for _, w := range placement.Workers() {
		on := placement.On(w, shape)
		if count(on) >= max(1, p.Loaded) && (p.Hosts == "" || len(on[p.Hosts]) > 0) {
			fit = append(fit, w)
		}
	}
	if others := slices.DeleteFunc(slices.Clone(fit), func(w string) bool { return w == last }); len(others) > 0 {
		fit = others
	}
	if len(fit) == 0 {
		return ""
	}
	r := newRandom(seed)
	return fit[r.below(len(fit))]
}

// Resolved is a fault whose worker is known.
type Resolved struct {
	Fault
	On string // the worker's id, where the fault has one
}

// Knobs are the lines of the job's knob file while these faults are on: the base
// of the run, the load a time after its start, and the cut token (see lab/jobs).
// Equal input, equal text.
func (s Scenario) Knobs(sinceStart time.Duration, on []Resolved, cut string) string {
	rate := s.Load.At(sinceStart)
	wave, jitter := s.Load.Wave, s.Load.Jitter
	factors := map[string]float64{}
	times := func(key string, f float64) { factors[key] = cmp.Or(factors[key], 1) * f }
	knobs := map[string]string{}
	for _, f := range on {
		switch f.Kind {
		case LoadFactor:
			rate *= f.Factor
		case Noise:
			wave, jitter = cmp.Or(f.Wave, wave), cmp.Or(f.Jitter, jitter)
		case Cost:
			key := "cost." + f.Component
			if f.Instance != nil {
				key += "." + strconv.Itoa(*f.Instance)
			}
			times(key, f.Factor)
		case SlowWorker:
			times("worker."+f.On, f.Factor)
		case Hot:
			knobs["hot."+f.Component] = number(f.Share)
			knobs["hot."+f.Component+".key"] = strconv.Itoa(f.Key)
		case Salt:
			knobs["salt."+f.Component] = strconv.Itoa(f.Keys)
		case Memory:
			knobs["memory."+f.On] = number(f.Share)
		case Fail:
			knobs["fail."+f.Component+"."+strconv.Itoa(*f.Instance)] = number(f.Every.Seconds())
		}
	}
	for key, f := range factors {
		knobs[key] = number(f)
	}
	for name, share := range s.Base.Burn {
		knobs["burn."+name] = number(share)
	}
	knobs["rate"], knobs["wave"], knobs["jitter"] = number(rate), number(wave), number(jitter)
	knobs["wave.period"] = number(cmp.Or(s.Load.Period.Seconds(), 90))
	if cut != "" {
		knobs["cut"] = cut
	}
	var text strings.Builder
	for _, key := range keys(knobs) {
		text.WriteString(key + "=" + knobs[key] + "\n")
	}
	return text.String()
}

func keys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// random is splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number
// generators, OOPSLA 2014): a schedule must not change with the Go version.
type random struct{ state uint64 }

func newRandom(seed uint64) *random { return &random{seed} }

func (r *random) next() uint64 {
	r.state += 0x9e3779b97f4a7c15
	z := r.state
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// below is a number from 0 to n-1.
func (r *random) below(n int) int { return int(r.next() % uint64(n)) }

// between is a number from low to high with two decimals.
func (r *random) between(low, high float64) float64 {
	steps := int((high-low)*100 + 0.5)
	return float64(int(low*100+0.5)+r.below(steps+1)) / 100
}
