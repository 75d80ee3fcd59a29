package scenario

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The rhythm of a run: see lab/README.md.
const (
	healthyFirst = Duration(120 * time.Second)
	faultLength  = Duration(60 * time.Second)
	quietBetween = Duration(36 * time.Second)
	rounds       = 3
)

// Splits say which shapes train, validate and test: a shape is in one only. Those held
// out are in no schedule: scenarios of their own record them, into a folder of its own.
var Splits = map[string]string{
	"wordcount": "train", "chain": "train", "windows": "train", "diamond": "validation", "fanout": "test",
	"orders": HeldOut, "tally": HeldOut,
}

// HeldOut is the split of shapes that nothing was made on.
const HeldOut = "heldout"

// templates are the incidents of a mixed run; every shape gets each in one round.
// "a|b" is a for every second shape.
var templates = [][]string{
	{"slow_instance", "underprovisioned", "data_skew", "sink_limited", "memory_pressure", "failing", "transient", "pair", "quiet"},
	{"slow_worker", "overprovisioned", "source_limited", "checkpoint_failing", "slow_instance", "data_skew", "lost", "pair", "quiet"},
	{"underprovisioned", "slow_worker", "sink_limited", "failing|memory_pressure", "transient", "source_limited", "checkpoint_failing|overprovisioned", "triple", "quiet"},
}

// pairs and triples are what happens at once. "cheap" is a component that needs
// a tenth: overprovisioned alone, whatever the rest is.
var (
	pairs = [][]string{
		{"slow_worker", "underprovisioned"}, {"data_skew", "cheap"}, {"slow_instance", "sink_limited"}, {"data_skew", "slow_worker"}, {"underprovisioned", "cheap"},
		{"memory_pressure", "underprovisioned"}, {"slow_worker", "sink_limited"}, {"slow_instance", "cheap"}, {"data_skew", "sink_limited"}, {"checkpoint_failing", "slow_instance"},
	}
	triples = [][]string{
		{"slow_worker", "underprovisioned", "cheap"}, {"data_skew", "sink_limited", "slow_worker"}, {"slow_instance", "underprovisioned", "checkpoint_failing"},
		{"data_skew", "slow_worker", "cheap"}, {"slow_instance", "sink_limited", "cheap"},
	}
	quiets = []string{"rescale", "noise", "cost", "load"}
	burns  = []string{"slow_instance", "underprovisioned", "slow_worker", "slow_instance"}
)

// classes are the magnitudes in the order in which a cause gets them: 5, 8 and 7
// of 20.
var classes = strings.Fields("moderate strong mild moderate strong moderate mild strong moderate strong moderate strong mild moderate strong moderate mild strong moderate mild")

// Generate draws the scenarios of a whole corpus from a seed, in the order in
// which they are recorded: rounds of a mixed run of every shape, a quiet run and
// one that burns CPU. Equal shapes and seeds give equal scenarios.
func Generate(shapes Shapes, seed uint64) ([]Scenario, error) {
	names := slices.DeleteFunc(keys(shapes), func(name string) bool { return Splits[name] == HeldOut })
	for _, name := range names {
		if Splits[name] == "" {
			return nil, fmt.Errorf("scenario: schedule: shape %s is in no split", name)
		}
	}
	d := &drawer{random: newRandom(seed), drawn: map[string]int{}}
	for _, name := range []string{"slow_instance", "slow_worker", "underprovisioned", "overprovisioned", "data_skew", "sink_limited", "source_limited", "memory_pressure", "pair", "triple"} {
		d.drawn[name] = d.random.below(len(classes))
	}
	var all []Scenario
	add := func(shape, suffix string, incidents func(*run)) error {
		s := Scenario{
			Name: fmt.Sprintf("s%d-%02d-%s%s", seed, len(all)+1, shape, suffix), Shape: shape, Seed: d.random.next() >> 33, Split: Splits[shape], Healthy: healthyFirst, Gap: quietBetween,
			Load: Load{Wave: d.random.between(.05, .12), Period: Duration(time.Duration(60+d.random.below(90)) * time.Second), Jitter: d.random.between(.03, .08)},
		}
		r := &run{drawer: d, Scenario: &s, used: map[string]int{}}
		r.shape = shapes[shape]
		incidents(r)
		if at, err := s.check(shapes); err != nil {
			return fmt.Errorf("scenario: schedule: %s %v: %w", s.Name, at, err)
		}
		all = append(all, s)
		return nil
	}
	for round := range rounds {
		for k, name := range names {
			err := add(name, "", func(r *run) {
				for _, what := range shuffled(d.random, templates[(round+k)%len(templates)]) {
					if a, b, ok := strings.Cut(what, "|"); ok {
						what = []string{a, b}[k%2]
					}
					r.incident(what)
				}
			})
			if err != nil {
				return nil, err
			}
		}
		err := add(names[(2*round+1)%len(names)], "-quiet", func(r *run) {
			for range 7 {
				r.incident("quiet")
			}
		})
		if err != nil {
			return nil, err
		}
		name := []string{"wordcount", "diamond", "fanout"}[round]
		if shapes[name].Class == "" {
			continue
		}
		err = add(name, "-burn", func(r *run) {
			r.burn()
			for _, what := range shuffled(d.random, burns) {
				r.incident(what)
			}
		})
		if err != nil {
			return nil, err
		}
	}
	return all, nil
}

func shuffled(r *random, list []string) []string {
	list = slices.Clone(list)
	for i := len(list) - 1; i > 0; i-- {
		k := r.below(i + 1)
		list[i], list[k] = list[k], list[i]
	}
	return list
}

// drawer is what the runs of a schedule share.
type drawer struct {
	*random
	drawn                  map[string]int // of a cause: how often
	pair, triple, quietest int
}

// class is the next magnitude of a cause.
func (d *drawer) class(cause string) string {
	d.drawn[cause]++
	return classes[d.drawn[cause]%len(classes)]
}

// size is a number of the class, between pairs of limits for mild, moderate and
// strong.
func (d *drawer) size(class string, limits ...float64) float64 {
	k := 2 * slices.Index([]string{"mild", "moderate", "strong"}, class)
	return d.between(min(limits[k], limits[k+1]), max(limits[k], limits[k+1]))
}

// run is a scenario as it is drawn.
type run struct {
	*drawer
	*Scenario
	shape Shape
	used  map[string]int // components as targets so far
}

// burn gives the stage that limits the shape two or three instances, which take
// CPU: 1.2 cores if all are busy.
func (r *run) burn() {
	name, _ := r.shape.limiting()
	n := 2 + r.below(2)
	r.Alone = true
	r.Base = Base{Parallelism: map[string]int{name: n}, Burn: map[string]float64{name: math.Round(100*math.Min(1, 1.2/float64(n))) / 100}}
	with := Shape{Class: r.shape.Class, Components: map[string]Component{}}
	for k, c := range r.shape.Components {
		if k == name {
			c.Parallelism = n
		}
		with.Components[k] = c
	}
	r.shape = with
}

// pick takes the component that was a target the least often so far, by chance
// among equals.
func (r *run) pick(from []string, not map[string]bool) string {
	from = slices.DeleteFunc(slices.Clone(from), func(n string) bool { return not[n] })
	if len(from) == 0 {
		return ""
	}
	from = shuffled(r.random, from)
	slices.SortStableFunc(from, func(a, b string) int { return cmp.Compare(r.used[a], r.used[b]) })
	r.used[from[0]]++
	return from[0]
}

func (r *run) of(fits func(name string, c Component) bool) (names []string) {
	for _, name := range r.shape.Names() {
		if fits(name, r.shape.Components[name]) {
			names = append(names, name)
		}
	}
	return names
}

func (r *run) incident(what string) {
	in := Incident{Name: strconv.Itoa(len(r.Incidents) + 1)}
	causes := []string{what}
	switch what {
	case "pair":
		causes = pairs[r.pair%len(pairs)]
		r.pair++
	case "triple":
		causes = triples[r.triple%len(triples)]
		r.triple++
	case "quiet":
		r.quietest++
		causes = []string{quiets[r.quietest%len(quiets)]}
	}
	switch what {
	case "quiet", "transient", "lost", "failing", "checkpoint_failing":
	default:
		in.Magnitude = r.class(what)
	}
	if what == "transient" || what == "lost" {
		in.Settle = "drain"
	}
	in.Name = fmt.Sprintf("%02d-%s", len(r.Incidents)+1, strings.ReplaceAll(strings.Join(causes, "-"), "_", "-"))
	taken := map[string]bool{}
	for _, cause := range causes {
		f, class := r.fault(cause, in.Magnitude, taken)
		if f.Component != "" {
			taken[f.Component] = true
		}
		f.For = cmp.Or(f.For, faultLength)
		in.Faults = append(in.Faults, f)
		in.Magnitude = class
	}
	r.Incidents = append(r.Incidents, in)
}

// fault is one that makes a cause hold, at a component that is not taken. The
// class is a stronger one where the shape cannot have it in that class.
func (r *run) fault(cause, class string, taken map[string]bool) (Fault, string) {
	stage := func(_ string, c Component) bool { return c.Kind == "stage" }
	nonSource := func(_ string, c Component) bool { return c.Kind != Source }
	instance := func(name string) *int {
		i := r.below(r.shape.Components[name].Parallelism)
		return &i
	}
	switch cause {
	case "underprovisioned":
		_, u := r.shape.limiting()
		for {
			factor := round2(r.size(class, 1.15, 1.25, 1.4, 1.6, 2, 2.6) / u)
			// No other component so near to its capacity that its label would be chance.
			near := func(_ string, c Component) bool {
				return c.Kind != Source && math.Abs(c.Utilisation*factor-overloaded) < .04
			}
			if len(r.of(near)) == 0 {
				return Fault{Kind: LoadFactor, Factor: factor}, class
			}
		}
	case "overprovisioned":
		return Fault{Kind: LoadFactor, Factor: r.size(class, .18, .22, .11, .13, .05, .07)}, class
	case "cheap":
		return Fault{Kind: Cost, Component: r.pick(r.of(stage), taken), Factor: .1}, class
	case "slow_instance":
		fits := func(_ string, c Component) bool { return c.Kind != Source && c.Parallelism >= 3 }
		if len(r.Base.Burn) > 0 {
			fits = func(name string, _ Component) bool { return r.Base.Burn[name] > 0 }
		}
		name := r.pick(r.of(fits), taken)
		return Fault{Kind: Cost, Component: name, Instance: instance(name), Factor: r.size(class, 1.53, 1.7, 2, 3, 4, 6)}, class
	case "slow_worker":
		p := &Pick{Loaded: 2}
		for name := range r.Base.Burn {
			p.Hosts = name
		}
		return Fault{Kind: SlowWorker, Worker: p, Factor: r.size(class, 1.53, 1.7, 2, 3, 4, 6)}, class
	case "data_skew":
		for {
			low, high := hotShares(class)
			fit := r.of(func(_ string, c Component) bool { return c.Keyed && enough(c) <= high })
			if name := r.pick(fit, taken); name != "" {
				least := math.Max(low, enough(r.shape.Components[name]))
				return Fault{Kind: Hot, Component: name, Share: r.between(least, high), Key: 1 + r.below(9999)}, class
			}
			if class == "strong" {
				name := r.pick(r.of(func(_ string, c Component) bool { return c.Keyed }), nil)
				return Fault{Kind: Hot, Component: name, Share: high, Key: 1 + r.below(9999)}, class
			}
			class = map[string]string{"mild": "moderate", "moderate": "strong"}[class]
		}
	case "sink_limited":
		name := r.pick(r.of(func(_ string, c Component) bool { return c.Kind == Sink }), taken)
		return Fault{Kind: Cost, Component: name, Factor: round2(1 / r.shape.Components[name].Utilisation / r.size(class, .78, .84, .55, .65, .35, .45))}, class
	case "source_limited":
		name := r.pick(r.of(func(_ string, c Component) bool { return c.Kind == Source }), taken)
		return Fault{Kind: Cost, Component: name, Instance: instance(name), Factor: round2(1 / r.shape.Components[name].Utilisation / r.size(class, .78, .84, .55, .65, .35, .45))}, class
	case "memory_pressure":
		return Fault{Kind: Memory, Worker: &Pick{Loaded: 2}, Share: map[string]float64{"mild": .15, "moderate": .25, "strong": .4}[class]}, class
	case "checkpoint_failing":
		return Fault{Kind: Checkpoint}, class
	case "failing":
		name := r.pick(r.of(nonSource), taken)
		return Fault{Kind: Fail, Component: name, Instance: instance(name), Every: Duration(time.Duration(11+r.below(8)) * time.Second)}, class
	case "transient":
		return Fault{Kind: LoadFactor, Factor: r.between(2.5, 3.5), For: Duration(time.Duration(8+r.below(8)) * time.Second)}, class
	case "lost":
		return Fault{Kind: LoseWorker, Worker: &Pick{Loaded: 1}, For: Duration(12 * time.Second)}, class
	case "rescale":
		name := r.pick(r.of(func(_ string, c Component) bool {
			p := float64(c.Parallelism)
			return c.Kind == "stage" && p >= 3 && math.Ceil(.9*c.Utilisation*p/target) > (p+1)/2 // or one more would be too many
		}), taken)
		by := 1.0
		// One less must still do.
		if c := r.shape.Components[name]; r.below(2) == 0 && c.Utilisation*float64(c.Parallelism) < .75*float64(c.Parallelism-1) {
			by = -1
		}
		return Fault{Kind: Rescale, Component: name, Factor: by}, class
	case "noise":
		return Fault{Kind: Noise, Wave: r.between(.15, .25), Jitter: r.between(.1, .2), For: Duration(90 * time.Second)}, class
	case "cost":
		return Fault{Kind: Cost, Component: r.pick(r.of(stage), taken), Factor: 1.1}, class
	}
	// A step of the load inside the capacity, and not so low that half would do.
	return Fault{Kind: LoadFactor, Factor: []float64{.93, 1.1, 1.2, 1.3}[r.below(4)], For: Duration(90 * time.Second)}, class
}

// hotShares are the limits of a class of skew.
func hotShares(class string) (low, high float64) {
	switch class {
	case "mild":
		return .18, .28
	case "moderate":
		return .3, .42
	}
	return .45, .6
}

// enough is the share of hot records with which the instance that gets them needs
// 1.05 times what it has: u·p·(s+(1−s)/p) = 1.05.
func enough(c Component) float64 {
	p := float64(c.Parallelism)
	return math.Ceil(100*(overloaded*1.05/c.Utilisation-1)/(p-1)) / 100
}

func round2(v float64) float64 { return math.Round(100*v) / 100 }
