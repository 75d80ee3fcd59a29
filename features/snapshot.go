package features

import (
	"math"
	"slices"
	"strings"
	"time"

	dhalion "github.com/dhalion-go/dhalion"
)

// ofComponent stands before a feature that is asked of an instance's component,
// as rules write it (policy.OfComponent, which this package does not import).
const ofComponent = "component."

// Snapshot is every target's vector over one window, and the topology at its
// end.
type Snapshot struct {
	Job      dhalion.JobID
	Window   dhalion.Window
	Topology dhalion.Topology
	// HasTopology is false when nothing is known of the graph: what needs it is
	// unknown then.
	HasTopology bool
	// Polls is how often the job was measured in the window; Span is the time
	// that those measurements speak for.
	Polls   int
	Span    time.Duration
	Vectors []dhalion.Vector // sorted by target

	index map[dhalion.Target]int
	load  map[string]Load
}

// Load is what sizing needs to know of a component; NaN is unknown.
type Load struct {
	Component  string
	Offered    float64 // records/s that would arrive if everything upstream kept up
	Service    float64 // healthy busy seconds per record
	ServiceLow float64 // interval of it
	ServiceTop float64
	Busy       float64 // mean busy share
	Caused     float64 // shares of the time that its instances hold up what is above, added up over those that reported it
	Lag        float64 // records due and unread, sources only
	HotShare   float64 // greatest share of an instance over an even share
	// Shares are the records of each instance over an even share, by its number.
	Shares   []float64
	Source   bool
	Sink     bool
	External bool
}

// Value is a feature of a target or, behind "component.", of the component that
// an instance is part of; NaN when it is unknown or there is no such feature
// or target.
func (s *Snapshot) Value(t dhalion.Target, feature string) float64 {
	if f, ok := strings.CutPrefix(feature, ofComponent); ok && t.Kind == dhalion.KindInstance {
		return s.Value(dhalion.ComponentTarget(t.Job, t.Component), f)
	}
	i, ok := s.index[t]
	if !ok {
		return nan
	}
	at, ok := schemas[t.Kind].index[feature]
	if !ok {
		return nan
	}
	return s.Vectors[i].Values[at]
}

// Targets lists the targets of one kind, sorted.
func (s *Snapshot) Targets(kind dhalion.TargetKind) []dhalion.Target {
	var out []dhalion.Target
	for _, v := range s.Vectors {
		if v.Target.Kind == kind {
			out = append(out, v.Target)
		}
	}
	return out
}

// Loads lists what sizing needs, in the topology's order from the sources down.
func (s *Snapshot) Loads() []Load {
	var out []Load
	for _, name := range s.Topology.Order() {
		out = append(out, s.load[name])
	}
	return out
}

// row is one vector under construction.
type row struct {
	schema *Schema
	values []float64
}

func newRow(kind dhalion.TargetKind) row {
	s := schemas[kind]
	values := make([]float64, len(s.Names))
	for i := range values {
		values[i] = nan
	}
	return row{s, values}
}

// set panics for a name that the schema does not have: it would be a slip in this
// package, and would overwrite another feature.
func (r row) set(name string, v float64) {
	i, ok := r.schema.index[name]
	if !ok {
		panic("features: no feature " + name + " of a " + string(r.schema.Kind))
	}
	r.values[i] = v
}

func (r row) get(name string) float64 { return r.values[r.schema.index[name]] }

// setPast sets what a metric was before the window, and the present over it.
func (r row) setPast(m dhalion.Metric, level map[dhalion.Metric]float64) {
	if v, ok := level[m]; ok {
		r.set(call("past", m), v)
		r.set(call("past_ratio", m), ratio(r.get(string(m)), v, 0))
	}
}

// instanceState is what an instance shows in one window, before it is compared
// with others.
type instanceState struct {
	target  dhalion.Target
	series  *series
	lo, mid int // rows of the window; mid is where the recent part begins
	hi      int
	worker  string
	row     row

	rate, rateRecent       float64
	service, serviceRecent float64
	busy                   float64
	offered                []float64 // of a source, row by row
	slow                   float64   // slow_factor
	slowHere               float64   // the same against peers on other workers only, else against the past
}

type componentState struct {
	spec      dhalion.Component
	source    bool
	sink      bool
	instances []*instanceState // only those with rows in the window
	row       row
	in, out   float64 // records/s of the window, all instances
	healthy   float64
	// weights say which share of the inflow comes from which source
	weights map[string]float64
	// offered by source over the window, lately, and poll by poll lately
	offered, offeredRecent float64
	offeredPolls           []float64
	// whole is the component measured as one, and its rows of the window; for
	// histories that do not tell instances apart
	whole    *series
	wlo, whi int
}

// At evaluates the history over the window that ends at t, which must not be
// after the Reader's own moment.
func (r *Reader) At(t time.Time) *Snapshot {
	w := r.window(t)
	snap := &Snapshot{Job: r.history.Job, Window: w, index: map[dhalion.Target]int{}, load: map[string]Load{}}
	snap.Topology, snap.HasTopology = r.history.TopologyAt(t)
	start, end := w.Start.UnixMicro(), w.End.UnixMicro()
	recent := max(start, t.Add(-r.opt.Recent).UnixMicro())
	r.measureSpan(snap, start, end)

	topology := snap.Topology
	if !snap.HasTopology {
		topology = r.seenTopology(start, end)
	}
	states := map[string]*componentState{}
	order := topology.Order()
	for _, name := range order {
		states[name] = r.component(topology, name, start, recent, end)
	}
	compareInstances(states, order, r.past)
	r.offeredLoad(topology, states, order)
	r.componentRows(topology, states, order, start, end)

	add := func(target dhalion.Target, row row) {
		snap.Vectors = append(snap.Vectors, dhalion.Vector{Target: target, Window: w, Schema: row.schema.Digest, Values: row.values})
	}
	add(dhalion.JobTarget(r.history.Job), r.jobRow(snap, states, order, start, recent, end))
	for _, name := range order {
		c := states[name]
		add(dhalion.ComponentTarget(r.history.Job, name), c.row)
		for _, i := range c.instances {
			add(i.target, i.row)
		}
		snap.load[name] = r.loadOf(c)
	}
	for name, row := range r.workerRows(states, order, start, recent, end) {
		add(dhalion.WorkerTarget(r.history.Job, name), row)
	}
	slices.SortFunc(snap.Vectors, func(a, b dhalion.Vector) int { return a.Target.Compare(b.Target) })
	for i, v := range snap.Vectors {
		snap.index[v.Target] = i
	}
	return snap
}

// seenTopology stands in where no topology is known: the components that have
// measurements, without edges. Nothing of it is reported.
func (r *Reader) seenTopology(start, end int64) dhalion.Topology {
	var t dhalion.Topology
	names := map[string]bool{}
	for name := range r.instances {
		names[name] = true
	}
	for name := range r.aggregate {
		names[name] = true
	}
	for _, name := range sortedKeys(names) {
		n := 0
		if s := r.aggregate[name]; s != nil {
			if lo, hi := s.rows(start, end); hi > lo {
				n = 1
			}
		}
		for i, s := range r.instances[name] {
			if lo, hi := s.rows(start, end); hi > lo {
				n = max(n, i+1)
			}
		}
		if n > 0 {
			t.Components = append(t.Components, dhalion.Component{Name: name, Parallelism: n})
		}
	}
	return t
}

// measureSpan counts the polls of the window. An interval's value speaks for
// the time since the poll before, so the span reaches back one typical distance
// beyond the first poll, but never beyond the window.
func (r *Reader) measureSpan(snap *Snapshot, start, end int64) {
	seen := map[int64]bool{}
	visit := func(s *series) {
		lo, hi := s.rows(start, end)
		for _, t := range s.times[lo:hi] {
			seen[t] = true
		}
	}
	for _, byInstance := range r.instances {
		for _, s := range byInstance {
			visit(s)
		}
	}
	for _, s := range r.aggregate {
		visit(s)
	}
	if len(seen) == 0 {
		return
	}
	times := sortedKeys(seen)
	step := int64(0)
	if len(times) > 1 {
		step = (times[len(times)-1] - times[0]) / int64(len(times)-1)
	}
	snap.Polls = len(times)
	snap.Span = time.Duration(times[len(times)-1]-max(start, times[0]-step)) * time.Microsecond
}

func (r *Reader) component(topology dhalion.Topology, name string, start, recent, end int64) *componentState {
	spec, _ := topology.Component(name)
	c := &componentState{
		spec: spec, row: newRow(dhalion.KindComponent), weights: map[string]float64{},
		source: len(topology.Edges) > 0 && topology.IsSource(name), sink: topology.IsSink(name),
		offered: nan, offeredRecent: nan,
	}
	if s := r.aggregate[name]; s != nil {
		c.whole = s
		c.wlo, c.whi = s.rows(start, end)
	}
	for i := range spec.Parallelism {
		s := r.instances[name][i]
		if s == nil {
			continue
		}
		lo, hi := s.rows(start, end)
		if hi == lo {
			continue
		}
		mid, _ := s.rows(recent, end)
		st := &instanceState{target: s.target, series: s, lo: lo, mid: mid, hi: hi, row: newRow(dhalion.KindInstance), slow: nan, slowHere: nan}
		for k := hi - 1; k >= 0 && st.worker == ""; k-- {
			st.worker = s.worker(k)
		}
		if st.worker == "" {
			st.worker = topology.WorkerOf(name, i)
		}
		st.measure(r.past)
		if c.source {
			st.offered = st.offeredOf()
		}
		st.row.set("is_source", flag(c.source))
		c.instances = append(c.instances, st)
	}
	return c
}

func (st *instanceState) measure(p pasts) {
	level := p.level[st.target]
	times := st.series.times[st.lo:st.hi]
	for _, m := range flow {
		values := st.series.col(m, st.lo, st.hi)
		if values == nil {
			continue
		}
		lately := values[st.mid-st.lo:]
		setStats(st.row, m, times, values, lately)
		st.row.setPast(m, level)
	}
	st.busy = st.row.get(string(dhalion.Busy))
	st.rate = mean(handled(st.series, st.lo, st.hi))
	st.rateRecent = mean(handled(st.series, st.mid, st.hi))
	st.service = serviceOf(st.series, st.lo, st.hi)
	st.serviceRecent = serviceOf(st.series, st.mid, st.hi)
	seconds := 0.0
	if len(times) > 1 {
		seconds = float64(times[len(times)-1]-times[0]) / 1e6 * float64(len(times)) / float64(len(times)-1)
	}
	seen := st.rate * seconds
	st.row.set("records_seen", seen)
	if !(seen >= leastRecords) {
		st.service, st.serviceRecent = nan, nan
	}
	if !known(st.serviceRecent) {
		st.serviceRecent = st.service
	}
	st.row.set("service_seconds", st.service)
}

func setStats(r row, m dhalion.Metric, times []int64, values, lately []float64) {
	var w window
	w.take(times, values)
	if len(w.values) == 0 {
		return
	}
	average, std, trend := w.moments()
	p50, p95 := w.quantiles()
	r.set(string(m), average)
	r.set(call("min", m), w.values[0])
	r.set(call("max", m), w.values[len(w.values)-1])
	r.set(call("std", m), std)
	r.set(call("trend", m), trend)
	r.set(call("p50", m), p50)
	r.set(call("p95", m), p95)
	r.set(call("recent", m), mean(lately))
}

// compareInstances fills in what needs the other instances: shares, peer and
// past ratios, slow factors.
func compareInstances(states map[string]*componentState, order []string, p pasts) {
	slowdown := map[string]float64{} // by how much a component's instances slowed down, median
	for _, name := range order {
		c := states[name]
		var own []float64
		for _, i := range c.instances {
			past, ok := p.service[i.target]
			if !ok {
				past = orNaN(p.component, name)
			}
			v := both(ratio(i.service, past, 0), ratio(i.serviceRecent, past, 0))
			i.row.set("service_past_ratio", v)
			own = append(own, v)
			c.comparePeers(i)
		}
		slowdown[name] = median(own)
	}
	for _, name := range order {
		c := states[name]
		var others []float64
		for _, other := range order {
			if other != name && !states[other].source {
				others = append(others, slowdown[other])
			}
		}
		// What slowed down everything, and no more: in a small job most of the others
		// may be part of what is wrong.
		common := math.Max(1, orElse(least(others...), 1))
		var alike []float64
		for _, i := range c.instances {
			own, peer := i.row.get("service_past_ratio"), i.row.get("service_peer_ratio")
			switch {
			case known(peer) && known(own):
				// Slower than its peers and than its past: believed as far as
				// both say so. All alike slower than before is no slow instance.
				i.slow = math.Min(peer, math.Sqrt(peer*own))
			case known(peer):
				i.slow = peer
			case known(own):
				i.slow = own / common
			}
			i.row.set("slow_factor", i.slow)
			// Peers on the same worker are as slow as it is: for the worker only
			// those elsewhere count, or else the past.
			if i.slowHere = i.slow; i.row.get("peers_elsewhere") == 0 && known(own) {
				i.slowHere = own / common
			}
			alike = append(alike, own)
		}
		c.row.set("service_past_ratio", least(alike...)/common)
		var now []float64
		for _, i := range c.instances {
			now = append(now, i.service)
		}
		c.row.set("service_evenness", ratio(most(now...), least(now...), 0))
	}
	byWorker := map[string][]*instanceState{}
	for _, name := range order {
		for _, i := range states[name].instances {
			if i.worker != "" {
				byWorker[i.worker] = append(byWorker[i.worker], i)
			}
		}
	}
	for _, together := range byWorker {
		for _, i := range together {
			var others []float64
			for _, o := range together {
				if o != i && o.busy >= loadedBusy {
					others = append(others, o.slowHere)
				}
			}
			i.row.set("worker_others_slow_factor", median(others))
		}
	}
}

// comparePeers compares one instance with the others of its component, with
// those on other workers where there are any: a slow worker must not hide
// behind itself.
func (c *componentState) comparePeers(i *instanceState) {
	gather := func(value func(*instanceState) float64) (values []float64, elsewhereOnly int) {
		var elsewhere, all []float64
		for _, o := range c.instances {
			if o == i {
				continue
			}
			v := value(o)
			if !known(v) {
				continue
			}
			all = append(all, v)
			if o.worker != i.worker || o.worker == "" {
				elsewhere = append(elsewhere, v)
			}
		}
		if len(elsewhere) > 0 {
			return elsewhere, len(elsewhere)
		}
		return all, 0
	}
	now, n := gather(func(o *instanceState) float64 { return o.service })
	lately, _ := gather(func(o *instanceState) float64 { return o.serviceRecent })
	i.row.set("peers_elsewhere", float64(n))
	i.row.set("service_peer_ratio", both(ratio(i.service, median(now), 0), ratio(i.serviceRecent, median(lately), 0)))

	var rates, ratesRecent []float64
	for _, o := range c.instances {
		rates = append(rates, o.rate)
		ratesRecent = append(ratesRecent, o.rateRecent)
	}
	if len(c.instances) > 1 {
		i.row.set("uneven_share", both(ratio(i.rate, mean(rates), 0), ratio(i.rateRecent, mean(ratesRecent), 0)))
	}
	for _, m := range flow {
		own := i.row.get(string(m))
		if !known(own) {
			continue
		}
		peers, _ := gather(func(o *instanceState) float64 { return o.row.get(string(m)) })
		i.row.set(call("peer_ratio", m), ratio(own, median(peers), peerFloor(m)))
		sum := own
		for _, o := range c.instances {
			if v := o.row.get(string(m)); o != i && known(v) {
				sum += v
			}
		}
		i.row.set(call("share", m), ratio(own*float64(len(c.instances)), sum, 0))
	}
}

// peerFloor is the least median that a ratio is taken against: without a floor,
// one that is nearly zero makes every positive value an outlier.
func peerFloor(m dhalion.Metric) float64 {
	switch {
	case m.Fraction():
		return 0.01
	case m == dhalion.InputQueueBuffers:
		return 0.5
	default:
		return 0
	}
}

func orElse(v, otherwise float64) float64 {
	if known(v) {
		return v
	}
	return otherwise
}
