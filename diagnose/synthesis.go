package diagnose

import (
	"cmp"
	"math"
	"slices"

	dhalion "github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/features"
	"github.com/dhalion-go/dhalion/internal/twin"
	"github.com/dhalion-go/dhalion/plan/policy"
)

// Synthesis is what simulated hypotheses say of a pair: how much better the job as
// it was seen is explained with the cause than without, everything else that was
// found to hold being kept.
type Synthesis struct {
	LogOdds float64
	// Magnitude is the best-fitting one: how many times as slow, records over an
	// even share, load over capacity, share that a source still reads.
	Magnitude float64
	// Held says that the cause is part of the explanation of the window.
	Held    bool
	Figures []Figure
}

// Figure is one part of what was seen beside what the hypothesis and its absence
// would look like; NaN is unknown.
type Figure struct {
	Name                string
	Seen, With, Without float64
}

// Scales of the likelihoods. They are noise, not limits: chosen on the shapes
// wordcount, chain and windows of the lab's corpus.
const (
	driftSpread  = 0.10 // healthy instances' time per record, sd of the logarithm, beside what the past shows
	shareSpread  = 0.08 // the same of shares
	loadSpread   = 0.06 // of load over capacity
	readSpread   = 0.05 // of what a source reads over what arrives
	busySpread   = 0.02 // of a busy fraction: what an idle instance does beside its records
	fewRecords   = 0.6  // sd of the logarithm of a time per record seen once
	pressSpread  = 0.15 // fractions of time and of queues, simulated against seen
	flowSpread   = 0.10 // rates, the same, sd of the logarithm
	flowWeight   = 0.3  // fractions of one job rise and fall together: each counts for less than one
	flowMost     = 2.0  // log-odds that a simulated flow may add or take
	latelyCounts = 2.0 / 3
	evidenceMost = 15.0 // log-odds that evidence tends to
	unreadEven   = 0.92 // share of the arriving records read at which it is even odds that the source is the limit
	pressEven    = 0.25 // share of the time that a source waits for room below, the same for whether it is held up
	pressNarrow  = 0.08 // sd of that
	overloadEven = 0.98 // load over capacity, the same for too few instances
	othersNow    = 1.5  // times as many records for one as before, from which the past is not believed
	heldMost     = 6    // hypotheses in one explanation
	magnitudes   = 24   // tried per hypothesis
	foremostMost = 16   // instances of a component that are simulated
	cheaper      = 0.7  // times the healthy time per record, below which records have become cheaper
	slowLeast    = 1.4  // the range of factors of the slow: log-uniform
	slowMost     = 8.0
	alikeLeast   = 1.05 // of a component whose records cost more, which is no cause by itself
	hotLeast     = 1.4
	fullEven     = 0.93 // load over capacity of a hot instance, the same for whether it is or would be saturated
	gcNotable    = 0.08 // share of the time collecting garbage from which that explains what is slow beside it
	hopeless     = -6.0 // log-odds that no flow could make good
	loadsMost    = 3.0  // times the records seen that may really arrive, where nothing says
	loadsGuessed = 0.15 // sd of the logarithm of such a load
)

// costs are log-odds before anything was seen, per hypothesis.
var costs = map[dhalion.Cause]float64{
	dhalion.SlowInstance: -1.0, dhalion.SlowWorker: -1.0, dhalion.SinkLimited: -1.0, dhalion.DataSkew: -1.0,
	dhalion.SourceLimited: -0.5, dhalion.Underprovisioned: -0.3, "": -1.0,
}

// Synthesise judges by simulation. Past is the same job's before the window. Pairs
// of which nothing is known are left out; without a graph there are none.
//
// What holds shows in the window's last part; that it shows in all of it says that
// it is no blip. Log-odds are the weighted mean of both, or those of the last part
// where they are less.
func Synthesise(snap *features.Snapshot, past features.Healthy, p *policy.Policy) map[dhalion.Pair]Synthesis {
	if snap == nil || p == nil || !snap.HasTopology || len(snap.Topology.Edges) == 0 {
		return nil
	}
	out := newScene(snap, past, p, false).judge()
	lately := newScene(snap, past, p, true).judge()
	for pair, s := range lately {
		if all, ok := out[pair]; ok {
			s.LogOdds = math.Min(s.LogOdds, latelyCounts*s.LogOdds+(1-latelyCounts)*all.LogOdds)
			s.Held = s.Held && s.LogOdds > 0
		}
		out[pair] = s
	}
	return out
}

// part is an instance as it was seen, with what it should be like.
type part struct {
	target  dhalion.Target
	worker  string
	service float64 // seconds per record seen
	healthy float64 // the same when nothing is wrong
	slower  float64 // logarithm of one over the other
	spread  float64 // sd of that
	rate    float64 // records handled per second
	uneven  float64 // records over an even share of those that are known
	usual   float64 // the same in the past
	loose   float64 // sd of the logarithm of one over the other
	press   float64 // backpressured
	queue   float64
	busy    float64
	arrival float64 // of a source
	lagging bool
}

// stageSeen is a component as it was seen, without the instances that have ended.
type stageSeen struct {
	name             string
	source, external bool
	parts            []part
	offered          float64 // records/s that would reach it if everything above kept up
	capacity         float64 // records/s of all instances at their healthy time per record
	wobble           float64 // sd of its busy fraction in the past
}

// scene is a window with what is needed to simulate it.
type scene struct {
	job    dhalion.JobID
	stages []stageSeen
	edges  []twin.Edge
	rest   twin.Steady // without any cause
	shift  float64     // logarithm of how much slower everything is, and no more
	gc     map[string]bool
	// alike are pairs that are not simulated, with the one whose evidence they get.
	alike  map[dhalion.Pair]dhalion.Pair
	broken bool // the job stood still in the window: it is not at rest
	// measured says that it is known what arrives at the sources.
	measured bool
	target   float64 // utilisation
}

func newScene(snap *features.Snapshot, past features.Healthy, p *policy.Policy, lately bool) *scene {
	target, _ := p.Number("target_utilisation")
	s := &scene{job: snap.Job, gc: map[string]bool{}, alike: map[dhalion.Pair]dhalion.Pair{}, target: target}
	value := func(t dhalion.Target, m dhalion.Metric) float64 {
		if lately {
			if v := snap.Value(t, "recent("+string(m)+")"); !math.IsNaN(v) {
				return v
			}
		}
		return snap.Value(t, string(m))
	}
	position := map[string]int{}
	ended := map[string]bool{}
	for _, load := range snap.Loads() {
		if ended[load.Component] = len(load.Ended) > 0 && !slices.Contains(load.Ended, false); ended[load.Component] {
			continue
		}
		position[load.Component] = len(s.stages)
		s.stages = append(s.stages, s.stage(snap, past, load, value, lately))
	}
	s.connect(snap.Topology, past, position, ended)
	for _, w := range snap.Targets(dhalion.KindWorker) {
		if value(w, dhalion.GC) > gcNotable {
			s.gc[w.Worker] = true
		}
	}
	s.broken = snap.Value(dhalion.JobTarget(snap.Job), "outages_in_window") > 0
	s.shift = s.common()
	s.rest = s.simulate(s.plain())
	return s
}

func (s *scene) stage(snap *features.Snapshot, past features.Healthy, load features.Load, value func(dhalion.Target, dhalion.Metric) float64, lately bool) stageSeen {
	c, _ := snap.Topology.Component(load.Component)
	st := stageSeen{name: c.Name, source: load.Source, external: load.External, offered: load.Offered, capacity: math.NaN()}
	st.wobble = orElse(past.Busy[c.Name].Spread, 0)
	total, flows := 0.0, 0
	for i := range c.Parallelism {
		if len(load.Ended) > 0 && load.Ended[i] {
			continue
		}
		t := dhalion.InstanceTarget(snap.Job, c.Name, i)
		n := part{target: t, worker: snap.Topology.WorkerOf(c.Name, i)}
		n.busy, n.press, n.queue = value(t, dhalion.Busy), value(t, dhalion.Backpressured), value(t, dhalion.InputQueueFraction)
		n.rate = value(t, dhalion.RecordsIn)
		if load.Source || math.IsNaN(n.rate) {
			n.rate = value(t, dhalion.RecordsOut)
		}
		records := orElse(snap.Value(t, "records_seen"), 0)
		n.service = math.NaN()
		if n.busy > 0.01 && n.rate > 0 && records >= 5 {
			n.service = n.busy / n.rate
		}
		n.healthy, n.spread = healthyOf(past, load, t)
		if load.Source && load.PerRead > 0 {
			n.healthy /= load.PerRead // the twin knows what a source puts out, not what it reads
		}
		if lately {
			records = math.Min(records, n.rate*features.DefaultRecent.Seconds())
		}
		n.slower = math.NaN()
		if n.service > 0 && n.healthy > 0 {
			n.slower = math.Log(n.service / n.healthy)
		}
		n.spread = math.Sqrt(sq(n.spread) + sq(driftSpread) + sq(fewRecords)/math.Max(1, records) + sq(busySpread/math.Max(math.Min(n.busy, orElse(n.healthy*n.rate, 1)), 0.001)))
		if load.Source {
			growth := snap.Value(t, "trend("+string(dhalion.Lag)+")")
			n.arrival = value(t, dhalion.OfferedRecords)
			s.measured = s.measured || !math.IsNaN(n.arrival) || !math.IsNaN(growth)
			n.arrival = orElse(n.arrival, math.Max(0, n.rate+load.PerRead*orElse(growth, 0)))
			n.lagging = load.PerRead*snap.Value(t, "min("+string(dhalion.Lag)+")") > math.Max(1, 1.5*n.arrival)
		}
		if n.rate >= 0 {
			total += n.rate
			flows++
		}
		st.parts = append(st.parts, n)
	}
	if load.Source {
		st.arrivals()
	}
	var healthy, now []float64
	for i := range st.parts {
		n := &st.parts[i]
		if n.service > 0 {
			now = append(now, n.service)
		}
		n.uneven = math.NaN()
		if flows > 1 || len(st.parts) == 1 { // beside itself alone every share is even
			n.uneven = n.rate * float64(flows) / total // NaN where nothing flows
		}
		n.usual, n.loose = 1, shareSpread
		if l, ok := past.Share[n.target]; ok {
			// What was always uneven is a hot key too: the past excuses little.
			n.usual, n.loose = math.Max(0.5, math.Min(1.25, l.Value)), math.Hypot(shareSpread, l.Spread)
		}
		if !math.IsNaN(n.healthy) {
			healthy = append(healthy, n.healthy)
		}
	}
	if len(healthy) > 0 {
		// Records that have become much cheaper since are no noise: then the present tells
		// what the component can do.
		seconds := middle(healthy)
		if 2*len(now) > len(st.parts) && middle(now) < cheaper*seconds {
			seconds = middle(now)
		}
		st.capacity = float64(len(st.parts)) / seconds
	}
	return st
}

// arrivals lets the instances of a source of which it is known what arrives speak for
// the others.
func (st *stageSeen) arrivals() {
	sum, known := 0.0, 0.0
	for _, n := range st.parts {
		if !math.IsNaN(n.arrival) {
			sum += n.arrival
			known++
		}
	}
	for i := range st.parts {
		st.parts[i].arrival = orElse(st.parts[i].arrival, sum/known)
	}
}

// healthyOf is an instance's time per record when nothing is wrong: by its own past
// on its worker, else its peers', else the quicker of the component's now. Where no
// stretch of the past was healthy, an instance may always have been slow, and its
// peers are asked first.
func healthyOf(past features.Healthy, load features.Load, t dhalion.Target) (seconds, spread float64) {
	own, okOwn := past.Service[t]
	peers, okPeers := past.Component[t.Component]
	switch {
	case okOwn && okPeers && (own.N < 2 || past.Stretches == 0):
		return peers.Value, math.Hypot(peers.Spread, own.Spread)
	case okOwn:
		return own.Value, own.Spread
	case okPeers:
		return peers.Value, math.Hypot(0.1, peers.Spread)
	}
	return load.Service, 0.3
}

func sq(v float64) float64 { return v * v }

func middle(values []float64) float64 { return ranked(values, 0.5) }

// ranked is a quantile of known values, not interpolated.
func ranked(values []float64, q float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[int(q*float64(len(sorted)-1)+.5)]
}

func orElse(v, otherwise float64) float64 {
	if math.IsNaN(v) {
		return otherwise
	}
	return v
}

// most is the greater of two; what is unknown is left out.
func most(a, b float64) float64 { return math.Max(orElse(a, b), orElse(b, a)) }

// connect gives every edge the records that arrive for one handled above. Where
// several lead into a component, what arrives is shared out by what they handle.
// While queues fill up less arrives below than was sent, so the past is asked first,
// unless the records have become others, or some came from what has ended. Where
// neither is known, an edge's are not, and no flow is simulated.
func (s *scene) connect(t dhalion.Topology, past features.Healthy, position map[string]int, ended map[string]bool) {
	now := func(name string) float64 {
		k, ok := position[name]
		if !ok {
			return 0
		}
		sum, known, of := 0.0, 0, len(s.stages[k].parts)
		for _, n := range s.stages[k].parts {
			if !math.IsNaN(n.rate) {
				sum += n.rate
				known++
			}
		}
		if known < of {
			sum *= float64(of) / float64(known) // NaN of none
		}
		return sum
	}
	before := func(name string) float64 {
		if l, ok := past.Handled[name]; ok {
			return l.Value
		}
		return math.NaN()
	}
	for k, st := range s.stages {
		others := false
		above := slices.DeleteFunc(t.Upstream(st.name), func(name string) bool {
			others = others || ended[name] && before(name) > 0
			return ended[name]
		})
		sent := func(rate func(string) float64) float64 {
			sum := 0.0
			for _, name := range above {
				sum += rate(name)
			}
			return sum
		}
		arrives, of := now(st.name), sent(now)
		selectivity, was := arrives/of, before(st.name)/sent(before)
		if was > 0 && !others && !(math.Abs(math.Log(selectivity/was)) > math.Log(othersNow)) {
			selectivity = was
		} else if of == 0 && arrives >= 0 { // nothing flows
			selectivity = 1
		}
		for _, name := range above {
			if from, ok := position[name]; ok { // what is on a cycle has no place in the order
				s.edges = append(s.edges, twin.Edge{From: from, To: k, Selectivity: selectivity})
			}
		}
	}
}

// common is how much slower everything is: what the quicker third of the components
// slowed down by. A machine that is short of processors is no fault of one of them.
func (s *scene) common() float64 {
	var all []float64
	for _, st := range s.stages {
		var own []float64
		for _, n := range st.parts {
			if !st.source && !math.IsNaN(n.slower) {
				own = append(own, n.slower)
			}
		}
		if len(own) > 0 {
			all = append(all, middle(own))
		}
	}
	if len(all) < 2 {
		return 0
	}
	return math.Max(-0.1, math.Min(0.3, ranked(all, 0.3)))
}

// hypothesis is a cause at a target. Without a cause it is something else that
// makes records dearer: a component's work changed, or a worker collects garbage.
type hypothesis struct {
	cause  dhalion.Cause
	target dhalion.Target
	parts  [][2]int // component and instance of those that it touches
	least  float64  // of its range of magnitudes
	most   float64
}

func (s *scene) hypotheses() []hypothesis {
	var all []hypothesis
	workers := map[string][][2]int{}
	for k, st := range s.stages {
		if st.source {
			all = append(all, hypothesis{cause: dhalion.SourceLimited, target: dhalion.ComponentTarget(s.job, st.name)})
			continue
		}
		var every [][2]int
		slow := s.foremost(st, dhalion.SlowInstance, func(n part) float64 { return n.slower })
		hot := s.foremost(st, dhalion.DataSkew, func(n part) float64 { return n.uneven })
		for i, n := range st.parts {
			one := [][2]int{{k, i}}
			every = append(every, one[0])
			if !math.IsNaN(n.slower) {
				if slow(n) {
					all = append(all, hypothesis{dhalion.SlowInstance, n.target, one, slowLeast, slowMost})
				}
				if n.worker != "" {
					workers[n.worker] = append(workers[n.worker], one[0])
				}
			}
			if even := float64(len(st.parts)); even > 1 && !math.IsNaN(n.uneven) && hot(n) {
				all = append(all, hypothesis{dhalion.DataSkew, n.target, one, hotLeast, math.Max(1.6, even*.97)})
			}
		}
		t := dhalion.ComponentTarget(s.job, st.name)
		switch {
		case st.external:
			all = append(all, hypothesis{dhalion.SinkLimited, t, every, slowLeast, slowMost})
		case len(st.parts) > 1:
			all = append(all, hypothesis{"", t, every, alikeLeast, slowMost})
		}
	}
	for name, on := range workers {
		t := dhalion.WorkerTarget(s.job, name)
		if len(on) > 1 {
			all = append(all, hypothesis{dhalion.SlowWorker, t, on, slowLeast, slowMost})
		}
		if s.gc[name] {
			all = append(all, hypothesis{"", t, on, alikeLeast, slowMost})
		}
	}
	slices.SortFunc(all, func(a, b hypothesis) int {
		if c := a.target.Compare(b.target); c != 0 {
			return c
		}
		return slices.Index(dhalion.Causes, a.cause) - slices.Index(dhalion.Causes, b.cause)
	})
	return all
}

// foremost says of a component's instances whether they are among those that stand out
// most; only these are simulated. The others cannot be likelier than the last of them,
// and get its evidence.
func (s *scene) foremost(st stageSeen, cause dhalion.Cause, by func(part) float64) func(part) bool {
	all := slices.DeleteFunc(slices.Clone(st.parts), func(n part) bool { return math.IsNaN(by(n)) })
	if len(all) <= foremostMost {
		return func(part) bool { return true }
	}
	slices.SortStableFunc(all, func(a, b part) int { return cmp.Compare(by(b), by(a)) })
	last := all[foremostMost-1]
	for _, n := range all[foremostMost:] {
		s.alike[dhalion.Pair{Target: n.target, Cause: cause}] = dhalion.Pair{Target: last.target, Cause: cause}
	}
	in := map[dhalion.Target]bool{}
	for _, n := range all[:foremostMost] {
		in[n.target] = true
	}
	return func(n part) bool { return in[n.target] }
}

// world is what is taken to hold: for every instance the logarithm of how many
// times as slow, its share over an even one, and how much a source can read.
type world struct {
	slow  [][]float64
	share [][]float64
	limit [][]float64
	load  float64 // times the arrivals seen
}

func (s *scene) plain() world {
	w := world{load: 1}
	for _, st := range s.stages {
		slow, share, limit := make([]float64, len(st.parts)), make([]float64, len(st.parts)), make([]float64, len(st.parts))
		for i, n := range st.parts {
			slow[i], share[i], limit[i] = s.shift, n.usual, math.Inf(1)
		}
		w.slow, w.share, w.limit = append(w.slow, slow), append(w.share, share), append(w.limit, limit)
	}
	return w
}

// with is the world with a hypothesis of some magnitude; of w only what changes is
// copied.
func (w world) with(s *scene, h hypothesis, magnitude float64) world {
	switch h.cause {
	case dhalion.DataSkew:
		k, i := h.parts[0][0], h.parts[0][1]
		w.share = slices.Clone(w.share)
		w.share[k] = skewed(w.share[k], i, magnitude)
	case dhalion.SourceLimited:
		for k, st := range s.stages {
			if st.name != h.target.Component {
				continue
			}
			own := make([]float64, len(st.parts))
			for i, n := range st.parts {
				own[i] = math.Inf(1)
				if read := n.rate; read < .97*n.arrival {
					own[i] = read
				}
			}
			w.limit = slices.Clone(w.limit)
			w.limit[k] = own
		}
	default:
		w.slow = slices.Clone(w.slow)
		last := -1
		for _, at := range h.parts {
			if at[0] != last {
				last = at[0]
				w.slow[last] = slices.Clone(w.slow[last])
			}
			w.slow[last][at[1]] += math.Log(magnitude)
		}
	}
	return w
}

// skewed are shares of which one is some times an even one; the others lose alike.
func skewed(shares []float64, i int, uneven float64) []float64 {
	out := slices.Clone(shares)
	rest := 0.0
	for n, v := range out {
		if n != i {
			rest += v
		}
	}
	for n := range out {
		out[n] *= math.Max(0, float64(len(out))-uneven) / rest
	}
	out[i] = uneven
	return out
}

// simulate is the state of rest of a world; nil where what arrives or what records
// become is unknown.
func (s *scene) simulate(w world) twin.Steady {
	m := twin.Model{Edges: s.edges}
	for k, st := range s.stages {
		c := twin.Component{Name: st.name, Instances: make([]twin.Instance, len(st.parts))}
		sum := 0.0
		for _, v := range w.share[k] {
			sum += v
		}
		for i, n := range st.parts {
			v := twin.Instance{Share: w.share[k][i] / sum, Limit: w.limit[k][i], Service: math.NaN()}
			if n.healthy > 0 {
				v.Service = n.healthy * math.Exp(w.slow[k][i])
			}
			if st.source {
				v.Arrival = n.arrival * w.load
				v.Lagging = n.lagging && w.load == 1 && (v.Service > 0 || !math.IsInf(v.Limit, 1))
			}
			c.Instances[i] = v
		}
		m.Components = append(m.Components, c)
	}
	if m.Check() != nil {
		return nil
	}
	return m.Steady()
}

// odd is the logarithm of Student's t with four degrees of freedom, z deviations
// off, over its height: what happens now and then does not decide.
func odd(z float64) float64 {
	if math.IsNaN(z) {
		return 0
	}
	return -2.5 * math.Log1p(z*z/4)
}

// above is the log-odds that a value lies above a limit, z deviations below it.
func above(z float64) float64 {
	z = math.Max(-8, math.Min(8, z))
	return math.Log(math.Erfc(-z/math.Sqrt2)) - math.Log(math.Erfc(z/math.Sqrt2))
}

// local is how well a world agrees with what instances of a hypothesis show by
// themselves: their time per record, or their component's shares. By is the logarithm
// of the magnitude; NaN is the world as it is.
func (s *scene) local(w world, h hypothesis, by float64) float64 {
	sum := 0.0
	if h.cause == dhalion.DataSkew {
		k := h.parts[0][0]
		own := w.share[k]
		if !math.IsNaN(by) {
			own = skewed(own, h.parts[0][1], math.Exp(by))
		}
		even := evenOf(own, s.stages[k].parts)
		for i, n := range s.stages[k].parts {
			if n.uneven > 0 && own[i] > 0 {
				sum += odd(math.Log(n.uneven/own[i]*even) / n.loose)
			}
		}
		return sum
	}
	by = orElse(by, 0)
	for _, at := range h.parts {
		n := &s.stages[at[0]].parts[at[1]]
		sum += odd((n.slower - w.slow[at[0]][at[1]] - by) / n.spread)
	}
	return sum
}

// evenOf is an even share among the instances whose records are known, in even shares
// among all.
func evenOf(shares []float64, parts []part) float64 {
	var all, seen, n float64
	for i, p := range parts {
		all += shares[i]
		if !math.IsNaN(p.uneven) {
			seen += shares[i]
			n++
		}
	}
	return seen / n / (all / float64(len(parts)))
}

// flow is how well a simulated state agrees with what the whole job shows. Queues
// take their time to fill: the job may still be half way from the state of rest
// without any cause.
func (s *scene) flow(steady twin.Steady) float64 {
	if steady == nil || s.rest == nil || s.broken {
		return 0
	}
	return math.Max(s.agree(steady, 1), s.agree(steady, 0.5)-math.Ln2)
}

func (s *scene) agree(steady twin.Steady, way float64) float64 {
	sum := 0.0
	for k, st := range s.stages {
		var press, queue, busy, rate, want float64
		for i, n := range st.parts {
			f, r := steady[k][i], s.rest[k][i]
			f.Backpressured += (1 - way) * (r.Backpressured - f.Backpressured)
			f.Queue += (1 - way) * (r.Queue - f.Queue)
			f.Busy += (1 - way) * (r.Busy - f.Busy)
			f.Rate += (1 - way) * (r.Rate - f.Rate)
			press += n.press - f.Backpressured
			queue += n.queue - f.Queue
			busy += n.busy - f.Busy
			rate += n.rate
			want += f.Rate
		}
		p := float64(len(st.parts))
		sum += odd(press / p / pressSpread)
		if !st.source {
			sum += odd(queue/p/(2*pressSpread)) + odd(busy/p/math.Hypot(pressSpread, st.wobble))
		}
		if rate > 0 && want > 0 {
			sum += odd(math.Log(rate/want) / flowSpread)
		}
	}
	return flowWeight * sum
}

// base is a world with what it looks like.
type base struct {
	world
	steady twin.Steady
	agrees float64
}

func (s *scene) base(w world) base {
	b := base{world: w, steady: s.simulate(w)}
	b.agrees = s.flow(b.steady)
	return b
}

// found is what a hypothesis comes to in a world that lacks it.
type found struct {
	logOdds, magnitude float64
	without, with      base
}

// weigh is the evidence for a hypothesis in a world that lacks it. The magnitude is
// averaged over its range, log-uniformly, which is what keeps a free parameter from
// explaining everything (Occam's razor; MacKay, Information Theory, ch. 28); flows
// are compared at the one that fits best.
func (s *scene) weigh(w base, h hypothesis) found {
	if h.cause == dhalion.SourceLimited {
		return s.weighSource(w, h)
	}
	f := found{magnitude: math.NaN(), without: w}
	best, sum := math.Inf(-1), 0.0
	var tried [magnitudes]float64
	low, wide := math.Log(h.least), math.Log(h.most/h.least)
	for n := range tried {
		by := low + wide*(float64(n)+.5)/magnitudes
		tried[n] = s.local(w.world, h, by)
		if tried[n] > best {
			best, f.magnitude = tried[n], math.Exp(by)
		}
	}
	for _, v := range tried {
		sum += math.Exp(v-best) / magnitudes
	}
	f.logOdds = costs[h.cause] + best + math.Log(sum) - s.local(w.world, h, math.NaN())
	if h.cause == dhalion.DataSkew {
		// By definition it is saturated, or would be at the offered load.
		k, i := h.parts[0][0], h.parts[0][1]
		st := s.stages[k]
		need := st.offered / st.capacity * st.parts[i].uneven
		if !math.IsNaN(need) {
			f.logOdds += math.Min(0, above(math.Log(need/fullEven)/loadSpread))
		}
	}
	if f.logOdds > hopeless {
		f.with = s.base(w.with(s, h, f.magnitude))
		f.logOdds += bounded(f.with.agrees-w.agrees, flowMost)
	}
	return f
}

// weighSource: a source that reads less than arrives, more than what is below it
// explains.
func (s *scene) weighSource(w base, h hypothesis) found {
	f := found{magnitude: math.NaN(), logOdds: math.NaN(), without: w}
	if s.broken || w.steady == nil {
		return f
	}
	k := slices.IndexFunc(s.stages, func(st stageSeen) bool { return st.name == h.target.Component })
	var read, due, could, press, short float64
	for i, n := range s.stages[k].parts {
		read += n.rate
		due += n.arrival
		could += math.Min(n.arrival, w.steady[k][i].Rate)
		if left := math.Max(0, n.arrival-n.rate); !math.IsNaN(n.press) {
			press += left * n.press
			short += left
		}
	}
	if !(read > 0) || !(could > 0) {
		return f
	}
	f.magnitude = read / due
	f.logOdds = costs[h.cause] + above(math.Log(unreadEven*could/read)/readSpread)
	if short > 0 { // what waits for room below is not the source's own limit
		f.logOdds += math.Min(0, 2*above((pressEven-press/short)/pressNarrow))
	}
	f.with = s.base(w.with(s, h, f.magnitude))
	f.logOdds += bounded(f.with.agrees-w.agrees, flowMost)
	return f
}

func bounded(v, most float64) float64 { return math.Max(-most, math.Min(most, v)) }

// held is a hypothesis of the explanation; n is its place among all.
type held struct {
	hypothesis
	n         int
	magnitude float64
}

// world is that of an explanation without some of it.
func (s *scene) world(all []held, but func(held) bool) world {
	w := s.plain()
	for _, h := range all {
		if but == nil || !but(h) {
			w = w.with(s, h.hypothesis, h.magnitude)
		}
	}
	return w
}

// merge puts one hypothesis in the place of the slow instances that it covers, where
// it explains more than they do: what is best first need not be best in the end.
func (s *scene) merge(chosen []held, all []hypothesis) []held {
	for n, h := range all {
		if len(h.parts) < 2 || slices.ContainsFunc(chosen, func(c held) bool { return c.n == n }) {
			continue
		}
		covered := func(c held) bool {
			return c.cause == dhalion.SlowInstance && slices.Contains(h.parts, c.parts[0])
		}
		var parts []held
		for _, c := range chosen {
			if covered(c) {
				parts = append(parts, c)
			}
		}
		if len(parts) == 0 {
			continue
		}
		w := s.base(s.world(chosen, covered))
		f, apart := s.weigh(w, h), 0.0
		for _, c := range parts {
			one := s.weigh(w, c.hypothesis)
			apart += one.logOdds
			w = s.base(w.with(s, c.hypothesis, c.magnitude))
		}
		if f.logOdds > apart {
			return append(slices.DeleteFunc(chosen, covered), held{h, n, f.magnitude})
		}
	}
	return chosen
}

// explanation is the hypotheses that together explain the window: the best first,
// then the best of what is left to explain. What later ones make needless is dropped.
func (s *scene) explanation(all []hypothesis) []held {
	var chosen []held
	for len(chosen) < heldMost {
		best, at := found{}, -1
		w := s.base(s.world(chosen, nil))
		for n, h := range all {
			if slices.ContainsFunc(chosen, func(c held) bool { return c.n == n }) {
				continue
			}
			if f := s.weigh(w, h); f.logOdds > best.logOdds {
				best, at = f, n
			}
		}
		if at < 0 {
			break
		}
		chosen = s.merge(append(chosen, held{all[at], at, best.magnitude}), all)
	}
	for n := 0; n < len(chosen); {
		h := chosen[n]
		if s.weigh(s.base(s.world(chosen, h.same)), h.hypothesis).logOdds > 0 {
			n++
			continue
		}
		chosen = slices.Delete(chosen, n, n+1)
	}
	return chosen
}

func (h held) same(c held) bool { return c.n == h.n }

// judge explains the window, then judges each pair by adding it to the explanation
// or leaving it out.
func (s *scene) judge() map[dhalion.Pair]Synthesis {
	all := s.hypotheses()
	chosen := s.explanation(all)
	out := map[dhalion.Pair]Synthesis{}
	full := s.base(s.world(chosen, nil))
	for n, h := range all {
		if h.cause == "" {
			continue
		}
		w := full
		place := slices.IndexFunc(chosen, func(c held) bool { return c.n == n })
		if place >= 0 {
			w = s.base(s.world(chosen, chosen[place].same))
		}
		f := s.weigh(w, h)
		if math.IsNaN(f.logOdds) {
			continue
		}
		out[dhalion.Pair{Target: h.target, Cause: h.cause}] = Synthesis{
			LogOdds: tamed(f.logOdds), Magnitude: f.magnitude, Held: place >= 0, Figures: s.figures(h, f),
		}
	}
	for pair, as := range s.alike {
		if e, ok := out[as]; ok {
			out[pair] = Synthesis{LogOdds: e.LogOdds, Magnitude: math.NaN()}
		}
	}
	s.loads(full, out)
	return out
}

// tamed tends to evidenceMost either way and keeps order.
func tamed(v float64) float64 { return v / (1 + math.Abs(v)/evidenceMost) }

// loads grades what the offered load asks for. Where it was measured it is no
// hypothesis: what is weighed is whether it really is more than the component can
// do, and whether the job looks like it. Where nothing says what waits, it is the
// least that makes the job look as it does.
func (s *scene) loads(w base, out map[dhalion.Pair]Synthesis) {
	seen, spread, times := w, loadSpread, 1.0
	if !s.measured {
		spread = loadsGuessed
		for more := 1.2; more <= loadsMost; more *= 1.25 {
			up := w.world
			up.load = more
			if b := s.base(up); b.agrees > seen.agrees+0.5 {
				seen, times = b, more
			}
		}
	}
	everywhere, greatest := math.Inf(1), 0.0 // evidence that all components have too many
	for _, st := range s.stages {
		need := times * st.offered / st.capacity
		if st.source {
			continue
		}
		if !(need > 0) {
			everywhere = math.NaN()
			continue
		}
		t := dhalion.ComponentTarget(s.job, st.name)
		f := found{costs[dhalion.Underprovisioned] + above(math.Log(need/overloadEven)/spread), need, seen, seen}
		if need > 0.95 {
			less := seen.world
			less.load *= 0.95 / need
			f.without = s.base(less)
			f.logOdds += bounded(seen.agrees-f.without.agrees, flowMost)
		}
		out[dhalion.Pair{Target: t, Cause: dhalion.Underprovisioned}] = Synthesis{
			LogOdds: tamed(f.logOdds), Magnitude: need, Held: f.logOdds > 0,
			Figures: append([]Figure{{"load over capacity", need, need, math.Min(need, 0.95)}}, s.figures(hypothesis{}, f)...),
		}
		greatest = math.Max(greatest, need)
		p := float64(len(st.parts))
		if p < 2 {
			everywhere = math.Inf(-1)
		} else if s.target > 0 {
			enough := math.Floor(p/2) * s.target / p // load over capacity that half of them would bear
			less := tooMany(need, enough, spread)
			out[dhalion.Pair{Target: t, Cause: dhalion.Overprovisioned}] = less
			everywhere = math.Min(everywhere, less.LogOdds)
		}
	}
	if !math.IsNaN(everywhere) && !math.IsInf(everywhere, 0) {
		out[dhalion.Pair{Target: dhalion.JobTarget(s.job), Cause: dhalion.Overprovisioned}] = Synthesis{
			LogOdds: everywhere, Magnitude: greatest, Held: everywhere > 0,
			Figures: []Figure{{"greatest load over capacity", greatest, math.NaN(), math.NaN()}},
		}
	}
}

// tooMany grades how far the load is below what half of the instances would bear.
// Waste does not come before a fault: it is never sure.
func tooMany(need, enough, spread float64) Synthesis {
	return Synthesis{
		LogOdds: math.Min(2, tamed(above(math.Log(enough/need)/(2*spread)))), Magnitude: need, Held: need < enough,
		Figures: []Figure{{"load over capacity", need, enough, math.NaN()}},
	}
}

// figures are what the hypothesis is about, at its target and in the whole job.
func (s *scene) figures(h hypothesis, f found) []Figure {
	var out []Figure
	if len(h.parts) > 0 {
		n := s.stages[h.parts[0][0]].parts[h.parts[0][1]]
		switch h.cause {
		case dhalion.DataSkew:
			out = append(out, Figure{"records over an even share", n.uneven, f.magnitude, n.usual})
		default:
			out = append(out, Figure{"seconds per record", n.service, n.healthy * f.magnitude, n.healthy})
		}
	}
	if f.with.steady == nil || f.without.steady == nil {
		return out
	}
	source, pressed := Figure{Name: "records read per second"}, Figure{"backpressured above", math.NaN(), math.NaN(), math.NaN()}
	for k, st := range s.stages {
		for i, n := range st.parts {
			if st.source {
				source.Seen += n.rate
				source.With += f.with.steady[k][i].Rate
				source.Without += f.without.steady[k][i].Rate
			}
			pressed.Seen = most(pressed.Seen, n.press)
			pressed.With = most(pressed.With, f.with.steady[k][i].Backpressured)
			pressed.Without = most(pressed.Without, f.without.steady[k][i].Backpressured)
		}
	}
	return append(out, source, pressed, Figure{"log-likelihood of the flows", math.NaN(), f.with.agrees, f.without.agrees})
}
