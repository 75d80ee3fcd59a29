package features

import (
	"cmp"
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
	Offered    float64 // records/s that would arrive if everything upstream kept up, at least and all the time
	Lately     float64 // the usual one of the window's recent part, where that is more: what a change has to carry
	Service    float64 // healthy busy seconds per record
	ServiceLow float64 // interval of it
	ServiceTop float64
	Busy       float64 // mean busy share
	Caused     float64 // shares of the time that its instances hold up what is above, added up over those that reported it
	Lag        float64 // of a source: what it would put out for the records that are due and unread
	PerRead    float64 // of a source: records put out for each that it reads
	HotShare   float64 // greatest share of an instance over an even share
	// Shares are the records of each instance over an even share, by its number.
	Shares   []float64
	Source   bool
	Sink     bool
	External bool
	// Ended says of each instance, by its number, whether it has: nothing arrives there
	// any more. nil where none has.
	Ended []bool
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

// With is the snapshot with one feature of one target at another value; what is
// derived from that feature stays as it was. Where there is no such feature or target
// it is the snapshot itself.
func (s *Snapshot) With(t dhalion.Target, feature string, v float64) *Snapshot {
	i, ok := s.index[t]
	if !ok {
		return s
	}
	at, ok := schemas[t.Kind].index[feature]
	if !ok {
		return s
	}
	other := *s
	other.Vectors = slices.Clone(s.Vectors)
	other.Vectors[i].Values = slices.Clone(s.Vectors[i].Values)
	other.Vectors[i].Values[at] = v
	return &other
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
	ends    []int64 // of the recent part: times at which it had ended
	ran     float64 // the share of the window in which it had not
	lately  float64 // the same of the recent part

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
	live      int              // instances that had not ended before the window
	ended     []bool           // of each instance, by its end; nil where none has
	row       row
	in, out   float64 // records/s of the window, all instances
	healthy   float64
	compared  bool // the records of two instances are known, so that shares are
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
		offered: nan, offeredRecent: nan, live: spec.Parallelism,
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
		ends := s.endedIn(start, end)
		if n := len(ends); n > 0 && (hi == lo || ends[n-1] > s.times[hi-1]) {
			if c.ended == nil {
				c.ended = make([]bool, spec.Parallelism)
			}
			c.ended[i] = true
		}
		if hi == lo {
			if len(ends) > 0 {
				c.live--
			}
			continue
		}
		mid, _ := s.rows(recent, end)
		st := &instanceState{target: s.target, series: s, lo: lo, mid: mid, hi: hi, row: newRow(dhalion.KindInstance), slow: nan, slowHere: nan}
		st.ends = s.endedIn(recent, end)
		st.ran, st.lately = shareRan(hi-lo, len(ends)), shareRan(hi-mid, len(st.ends))
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

// shareRan is the share of the time in which an instance had not ended, from how often
// it was measured and how often it had ended.
func shareRan(rows, ends int) float64 {
	if ends == 0 {
		return 1
	}
	return float64(rows) / float64(rows+ends)
}

// over says that all instances have ended.
func (c *componentState) over() bool { return c.ended != nil && !slices.Contains(c.ended, false) }

func (st *instanceState) measure(p pasts) {
	level := p.level[st.target]
	times := st.series.times[st.lo:st.hi]
	var w window
	for _, m := range flow {
		values := st.series.col(m, st.lo, st.hi)
		if values == nil {
			continue
		}
		lately := values[st.mid-st.lo:]
		setStats(st.row, m, &w, times, values, lately)
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

// setStats sets what one metric shows in one window; w is memory for it.
func setStats(r row, m dhalion.Metric, w *window, times []int64, values, lately []float64) {
	w.take(times, values)
	if len(w.values) == 0 {
		return
	}
	at := r.schema.stats[m]
	r.values[at.mean], r.values[at.std], r.values[at.trend] = w.moments()
	r.values[at.p50], r.values[at.p95] = w.quantiles()
	r.values[at.min], r.values[at.max] = w.values[0], w.values[len(w.values)-1]
	r.values[at.recent] = mean(lately)
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
		}
		c.comparePeers()
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

// comparePeers compares every instance of a component with the others, with those
// on other workers where there are any: a slow worker must not hide behind itself.
func (c *componentState) comparePeers() {
	n := len(c.instances)
	column := func(value func(*instanceState) float64) []float64 {
		values := make([]float64, n)
		for k, i := range c.instances {
			values[k] = value(i)
		}
		return values
	}
	beside := c.beside()
	now, elsewhere := beside.medians(column(func(i *instanceState) float64 { return i.service }))
	lately, _ := beside.medians(column(func(i *instanceState) float64 { return i.serviceRecent }))
	rates := column(func(i *instanceState) float64 { return i.rate })
	recent := column(func(i *instanceState) float64 { return i.rateRecent })
	rate, rateRecent := mean(rates), mean(recent)
	c.compared = min(told(rates), told(recent)) > 1 // beside itself alone every share is even
	for k, i := range c.instances {
		i.row.set("peers_elsewhere", float64(elsewhere[k]))
		i.row.set("service_peer_ratio", both(ratio(i.service, now[k], 0), ratio(i.serviceRecent, lately[k], 0)))
		if c.compared {
			i.row.set("uneven_share", both(ratio(i.rate, rate, 0), ratio(i.rateRecent, rateRecent, 0)))
		}
	}
	for _, m := range flow {
		values := column(func(i *instanceState) float64 { return i.row.get(string(m)) })
		peers, _ := beside.medians(values)
		ofPeers, share := call("peer_ratio", m), call("share", m)
		for k, i := range c.instances {
			own := values[k]
			if !known(own) {
				continue
			}
			i.row.set(ofPeers, ratio(own, peers[k], peerFloor(m)))
			sum, told := own, 1
			for o, v := range values {
				if o != k && known(v) {
					sum += v
					told++
				}
			}
			if told > 1 || c.live == 1 {
				i.row.set(share, ratio(own*float64(told), sum, 0))
			}
		}
	}
}

// mates are the instances of a component by where they run: for each the number
// of its group. One whose worker is not known is a group of its own.
type mates struct {
	group  []int
	groups int
}

func (c *componentState) beside() mates {
	m := mates{group: make([]int, len(c.instances))}
	of := map[string]int{}
	for k, i := range c.instances {
		g, seen := of[i.worker]
		if !seen || i.worker == "" {
			g = m.groups
			of[i.worker] = g
			m.groups++
		}
		m.group[k] = g
	}
	return m
}

// medians are, for each instance, the median of the known values of those outside
// its group and of how many; of all others, and 0, where there are none outside.
// Instances of one group have one median: it takes O(n log n) for all.
func (m mates) medians(values []float64) (of []float64, outside []int) {
	order := make([]int, 0, len(values))
	for k, v := range values {
		if known(v) {
			order = append(order, k)
		}
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Compare(values[a], values[b]) })
	sorted := make([]float64, len(order))
	inside := make([][]int, m.groups) // places of a group's values among the sorted, ascending
	place := make([]int, len(values))
	for p, k := range order {
		sorted[p], place[k] = values[k], p
		inside[m.group[k]] = append(inside[m.group[k]], p)
	}
	of, outside = make([]float64, len(values)), make([]int, len(values))
	byGroup := make([]float64, m.groups)
	for g, own := range inside {
		byGroup[g] = medianWithout(sorted, own)
	}
	for k, g := range m.group {
		of[k], outside[k] = byGroup[g], len(sorted)-len(inside[g])
		if outside[k] > 0 {
			continue
		}
		if known(values[k]) {
			of[k] = medianWithout(sorted, []int{place[k]})
		} else {
			of[k] = medianWithout(sorted, nil)
		}
	}
	return of, outside
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
