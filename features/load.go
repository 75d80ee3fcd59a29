package features

import (
	"math"

	dhalion "github.com/dhalion-go/dhalion"
)

// offeredLoad works out, for every component, how many records per second would
// arrive there if everything above it kept up.
//
// A source's offered load is its arrival rate: what it puts out plus the growth
// of its lag. Downstream, a component's records in are stretched by the ratio of
// offered to put out of the sources that its records come from, each weighed by
// its share of the inflow. Over the graph the stretch is a weighted mean, so no
// selectivity needs to be known; where a source is shut off altogether, the past
// says how many records a source record becomes. What has ended puts out nothing,
// whatever its past, and what came of it is no part of what flows now.
func (r *Reader) offeredLoad(topology dhalion.Topology, states map[string]*componentState, order []string) {
	type flowOf struct {
		out             float64 // put out over the window
		offered, lately float64
		polls           []float64 // offered, poll by poll, lately
		past            bool      // out is from the past
	}
	sources := map[string]flowOf{}
	for _, name := range order {
		c := states[name]
		c.in, c.out = c.total(dhalion.RecordsIn), c.total(dhalion.RecordsOut)
		if !c.source {
			continue
		}
		f := flowOf{out: c.out}
		f.offered, f.lately, f.polls = c.arrivals()
		if past := r.past.outflow[name]; known(past) && past > 0 && !(f.out > 0.01*past) && !c.over() {
			f.out, f.past = past, true
		}
		c.weights[name] = 1
		c.offered, c.offeredRecent, c.offeredPolls = f.offered, f.lately, f.polls
		sources[name] = f
	}
	otherwise := map[string]bool{} // more came here in the past, of what has ended
	for _, name := range order {
		c := states[name]
		if c.source {
			continue
		}
		total := 0.0
		for _, up := range topology.Upstream(name) {
			share := states[up].out
			switch past := orNaN(r.past.outflow, up); {
			case states[up].over():
				otherwise[name] = otherwise[name] || past > 0
			case !(share > 0):
				share = orElse(past, share)
			}
			otherwise[name] = otherwise[name] || otherwise[up]
			for _, source := range sortedKeys(states[up].weights) {
				c.weights[source] += states[up].weights[source] * share
			}
			total += share
		}
		for source := range c.weights {
			c.weights[source] /= math.Max(total, 1e-9)
		}
		in := c.in
		stretch := func(value func(flowOf) float64) float64 {
			sum, any := 0.0, false
			for _, source := range sortedKeys(c.weights) {
				f := sources[source]
				if c.weights[source] == 0 {
					continue // nothing of it comes here, whatever waits there
				}
				v := ratio(value(f), f.out, 0)
				if !known(v) {
					return nan
				}
				sum += c.weights[source] * v
				any = true
			}
			if !any {
				return nan
			}
			return sum
		}
		for _, source := range sortedKeys(c.weights) {
			switch {
			case !sources[source].past || !known(r.past.inflow[name]):
			case otherwise[name]:
				in = nan
			default:
				in = r.past.inflow[name]
			}
		}
		c.offered = in * stretch(func(f flowOf) float64 { return f.offered })
		c.offeredRecent = in * stretch(func(f flowOf) float64 { return f.lately })
		n := -1
		for source, weight := range c.weights {
			if k := len(sources[source].polls); weight != 0 && (n < 0 || k < n) {
				n = k
			}
		}
		for k := range max(n, 0) {
			c.offeredPolls = append(c.offeredPolls, in*stretch(func(f flowOf) float64 { return f.polls[len(f.polls)-n+k] }))
		}
	}
	for _, name := range order {
		c := states[name]
		if !known(c.offered) {
			// Nothing says how much waits: what is taken in is the least it can be.
			c.offered = c.in
		}
		if !known(c.offeredRecent) {
			c.offeredRecent = c.offered
		}
	}
}

// total is the sum of the instances' means of a rate; where some instances have
// none, the others speak for them. One that has ended has none since.
func (c *componentState) total(m dhalion.Metric) float64 {
	sum, n := 0.0, 0
	for _, i := range c.instances {
		if v := i.row.get(string(m)); known(v) {
			sum += v * i.ran
			n++
		}
	}
	switch {
	case c.live == 0:
		return 0
	case n == 0:
		return c.wholeMean(m)
	}
	return sum * float64(c.live) / float64(n)
}

// wholeMean is the mean of a metric that was measured for the component as one.
func (c *componentState) wholeMean(m dhalion.Metric) float64 {
	if c.whole == nil {
		return nan
	}
	return mean(c.whole.col(m, c.wlo, c.whi))
}

// offeredOf is a source instance's arrival rate, row by row: as the adapter
// derived it, else what it put out plus the growth of its lag over the rows.
func (i *instanceState) offeredOf() []float64 {
	if offered := i.series.col(dhalion.OfferedRecords, i.lo, i.hi); known(mean(offered)) {
		return offered
	}
	// The row before the window is where the first row's interval began.
	before := min(1, i.lo)
	out, lag := i.series.col(dhalion.RecordsOut, i.lo-before, i.hi), i.series.col(dhalion.Lag, i.lo-before, i.hi)
	if out == nil || lag == nil {
		return nil
	}
	rows, perRead := make([]float64, i.hi-i.lo), i.perRead()
	for k := range rows {
		rows[k] = nan
		if at := k + before; at > 0 {
			seconds := float64(i.series.times[i.lo+k]-i.series.times[i.lo+k-1]) / 1e6
			if v := out[at] + perRead*(lag[at]-lag[at-1])/seconds; known(v) {
				rows[k] = math.Max(0, v)
			}
		}
	}
	return rows
}

// perRead is how many records a source instance puts out for each that it reads; 1
// where it does not say what it reads. Its lag is in records to be read, all else here
// in records put out.
func (i *instanceState) perRead() float64 { return perRead(i.series, i.lo, i.hi) }

func perRead(s *series, lo, hi int) float64 {
	return putOutPerRead(mean(s.col(dhalion.RecordsOut, lo, hi)), mean(s.col(dhalion.RecordsIn, lo, hi)))
}

func putOutPerRead(out, in float64) float64 { return orElse(ratio(out, in, 0), 1) }

// arrivals is a source's offered load: the mean over the window, lately, and
// poll by poll lately. The rows of its instances are added where they carry one
// time; where they do not, only the means are known.
func (c *componentState) arrivals() (window, lately float64, polls []float64) {
	window, lately = 0, 0
	byTime := map[int64][]float64{}
	some := false
	for _, i := range c.instances {
		some = some || known(mean(i.offered))
	}
	for _, i := range c.instances {
		rows := i.offered
		if some && !known(mean(rows)) {
			// No lag of its own beside others that have one: nothing is dealt to it
			// that it could leave lying.
			rows = i.series.col(dhalion.RecordsOut, i.lo, i.hi)
		}
		if !known(mean(rows)) {
			return nan, nan, nil
		}
		part := rows[i.mid-i.lo:]
		window += mean(rows) * i.ran
		lately += orElse(mean(part), mean(rows)) * i.lately
		for _, at := range i.ends {
			byTime[at] = append(byTime[at], 0)
		}
		for k, v := range part {
			if known(v) {
				at := i.series.times[i.mid+k]
				byTime[at] = append(byTime[at], v)
			}
		}
	}
	if c.live == 0 {
		return 0, 0, nil
	}
	if len(c.instances) == 0 {
		offered := c.wholeMean(dhalion.OfferedRecords)
		return offered, offered, nil
	}
	missing := float64(c.live) / float64(len(c.instances))
	for _, at := range sortedKeys(byTime) {
		if values := byTime[at]; len(values) == len(c.instances) {
			polls = append(polls, mean(values)*float64(len(values))*missing)
		}
	}
	return window * missing, lately * missing, polls
}

// healthyService is the component's time per record when nothing is wrong: its
// past, or the present median where that is less; without a past, the quicker
// quarter of the instances.
func (c *componentState) healthyService(past float64) float64 {
	var now []float64
	for _, i := range c.instances {
		now = append(now, i.service)
	}
	if len(now) == 0 {
		return ratio(c.wholeMean(dhalion.Busy)*float64(c.spec.Parallelism), c.in, 0)
	}
	if known(past) {
		return least(past, median(now))
	}
	// Not interpolated: between a healthy and a sick one lies neither.
	sorted := knownSorted(now)
	if len(sorted) == 0 {
		return nan
	}
	return sorted[(len(sorted)-1)/4]
}

// loadRatios are instances needed over instances there are at full utilisation.
// sustained is what the load has asked for at every poll lately, or on average
// both lately and over the window, whichever is more: a spike shorter than the
// recent part is in neither. peak is the greater of window and recent part.
func (c *componentState) loadRatios() (sustained, peak float64) {
	if c.source || !known(c.healthy) {
		return nan, nan
	}
	perLoad := c.healthy / float64(c.live)
	return c.sustained() * perLoad, most(c.offered, c.offeredRecent) * perLoad
}

// sustained is the load that loadRatios calls so, in records per second.
func (c *componentState) sustained() float64 {
	floor := nan
	// One or two polls do not show that a load stays.
	if len(c.offeredPolls) >= 3 {
		floor = least(c.offeredPolls...)
	}
	return most(floor, both(c.offered, c.offeredRecent))
}

// lately is the sustained load, or the median poll of the recent part where that is
// more. After a step the window's mean still holds what was before; who sizes for it
// is behind at once. A spike shorter than half the recent part is not in the median.
func (c *componentState) lately() float64 {
	level := nan
	if len(c.offeredPolls) >= 3 {
		level = median(c.offeredPolls)
	}
	return most(c.sustained(), level)
}

// componentRows fills in the components' features and what instances need of
// their component.
func (r *Reader) componentRows(topology dhalion.Topology, states map[string]*componentState, order []string, start, end int64) {
	for _, name := range order {
		c := states[name]
		c.healthy = c.healthyService(orNaN(r.past.component, name))
		for _, m := range flow {
			aggregateMetric(c, m)
		}
	}
	worst := nan
	for _, c := range states {
		worst = most(worst, c.row.get(call("sum", dhalion.BackpressureCaused)))
	}
	for _, name := range order {
		c := states[name]
		c.row.set("instances", float64(c.spec.Parallelism))
		c.row.set("is_source", flag(c.source))
		c.row.set("is_external", flag(r.external(topology, c)))
		c.row.set("offered_load", c.offered)
		c.row.set("healthy_service_seconds", c.healthy)
		sustained, peak := c.loadRatios()
		c.row.set("load_ratio", sustained)
		c.row.set("load_ratio_peak", peak)
		pastOffered, nowOffered := 0.0, 0.0
		for _, source := range sortedKeys(c.weights) {
			if w := c.weights[source]; w != 0 {
				pastOffered += w * orNaN(r.past.offered, source)
				nowOffered += w * states[source].offered
			}
		}
		c.row.set("load_past_ratio", ratio(nowOffered, pastOffered, 0))
		for _, m := range flow {
			near := func(names []string, pick func(...float64) float64) float64 {
				v := nan
				for _, other := range names {
					v = pick(v, states[other].row.get(string(m)))
				}
				return v
			}
			c.row.set(call("upstream", m), near(topology.Upstream(name), most))
			c.row.set(call("downstream", m), near(topology.Downstream(name), most))
		}
		above, own := c.row.get(call("upstream", dhalion.Backpressured)), c.row.get(string(dhalion.Backpressured))
		if known(above) && known(own) {
			c.row.set("bottleneck", math.Max(0, above-own))
		}
		c.row.set("leads_backpressure", leads(topology, states, name))
		c.row.set("most_backpressure", worst)
		if c.source {
			c.unread()
		}
		for _, i := range c.instances {
			if !c.source && known(c.healthy) {
				share := i.row.get("uneven_share")
				if c.live == 1 || !known(share) && c.compared && known(both(i.rate, i.rateRecent)) {
					share = 1 // alone, or nothing flows
				}
				i.row.set("busy_at_offered_load", c.sustained()/float64(c.live)*share*c.healthy)
			}
		}
		if s := r.aggregate[name]; s != nil {
			c.row.setOutages(s, start, end)
		}
	}
}

// leads says which of several components in backpressure is the one to look at:
// the bottleneck holds up the flow nearly all the time, the others now and then.
func leads(topology dhalion.Topology, states map[string]*componentState, name string) float64 {
	caused := func(name string) float64 { return states[name].row.get(call("sum", dhalion.BackpressureCaused)) }
	own := caused(name)
	if !known(own) {
		return nan
	}
	below := map[string]bool{}
	next := topology.Downstream(name)
	for len(next) > 0 {
		n := next[len(next)-1]
		next = next[:len(next)-1]
		if !below[n] {
			below[n] = true
			next = append(next, topology.Downstream(n)...)
		}
	}
	for other := range states {
		v := caused(other)
		// Two that hold up one and the same component share a number up to rounding.
		if alike := math.Abs(v-own) <= 1e-9*own; v > own && !alike || alike && below[other] {
			return 0
		}
	}
	return flag(own > 0)
}

// external: a sink, or marked so in topology or policy.
func (r *Reader) external(topology dhalion.Topology, c *componentState) bool {
	return c.spec.External || r.opt.External[c.spec.Name] || topology.IsSink(c.spec.Name)
}

func aggregateMetric(c *componentState, m dhalion.Metric) {
	combine := func(values []float64) float64 {
		v := mean(values)
		if summed[m] {
			return v * float64(c.live)
		}
		return v
	}
	collect := func(feature string) []float64 {
		out := make([]float64, 0, len(c.instances))
		for _, i := range c.instances {
			out = append(out, i.row.get(feature))
		}
		return out
	}
	level := collect(string(m))
	if !known(mean(level)) {
		c.wholeMetric(m)
		return
	}
	c.row.set(string(m), combine(level))
	c.row.set(call("trend", m), combine(collect(call("trend", m))))
	c.row.set(call("recent", m), combine(collect(call("recent", m))))
	past := combine(collect(call("past", m)))
	c.row.set(call("past", m), past)
	c.row.set(call("past_ratio", m), ratio(c.row.get(string(m)), past, 0))
	c.row.set(call("most", m), most(level...))
	c.row.set(call("least", m), least(level...))
	// Of those that reported, and no more: where an engine reports only who has
	// something to report, the others stand at nothing.
	sum := nan
	for _, v := range level {
		sum = addKnown(sum, v)
	}
	c.row.set(call("sum", m), sum)
	c.row.set(call("steepest", m), most(collect(call("trend", m))...))
}

// wholeMetric is for components that were measured as a whole only.
func (c *componentState) wholeMetric(m dhalion.Metric) {
	if v := c.wholeMean(m); known(v) {
		c.row.set(string(m), v)
		if !summed[m] {
			v *= float64(c.spec.Parallelism)
		}
		c.row.set(call("sum", m), v)
		c.row.set(call("trend", m), slope(c.whole.times[c.wlo:c.whi], c.whole.col(m, c.wlo, c.whi)))
	}
}

// unread is what a source leaves lying while nothing downstream holds it up:
// only instances that are hardly backpressured count.
func (c *componentState) unread() {
	var left, arriving, leftRecent, arrivingRecent, lag float64
	for _, i := range c.instances {
		// Lately counts as well: a window's mean dilutes what has just begun.
		pressed := most(i.row.get(string(dhalion.Backpressured)), i.row.get(call("recent", dhalion.Backpressured)))
		out := i.row.get(string(dhalion.RecordsOut))
		offered := i.offered
		if !known(i.row.get(string(dhalion.Lag))) && orElse(mean(offered), out) == 0 && !(pressed > 0.2) {
			continue // nothing is dealt to it that it could leave lying
		}
		if offered == nil {
			return
		}
		all := mean(offered)
		lately := orElse(mean(offered[i.mid-i.lo:]), all) * i.lately
		all *= i.ran
		arriving += all
		arrivingRecent += lately
		lag += i.perRead() * i.row.get(string(dhalion.Lag)) * i.ran
		if known(pressed) && pressed > 0.2 {
			continue
		}
		left += math.Max(0, all-out*i.ran)
		leftRecent += math.Max(0, lately-orElse(i.row.get(call("recent", dhalion.RecordsOut)), out)*i.lately)
	}
	c.row.set("unread_growth", both(ratio(left, arriving, 0), ratio(leftRecent, arrivingRecent, 0)))
	c.row.set("unread_seconds", ratio(lag, arriving, 0))
}

func (r *Reader) loadOf(c *componentState) Load {
	hot := nan
	shares := make([]float64, 0, len(c.instances))
	for _, i := range c.instances {
		shares = append(shares, i.row.get("uneven_share"))
		hot = most(hot, i.row.get("uneven_share"))
	}
	lo, hi := orNaN(r.past.low, c.spec.Name), orNaN(r.past.high, c.spec.Name)
	lag, perRead := c.row.get(string(dhalion.Lag)), 1.0
	if c.source {
		perRead = putOutPerRead(c.row.get(string(dhalion.RecordsOut)), c.row.get(string(dhalion.RecordsIn)))
		lag *= perRead
	}
	return Load{
		Component: c.spec.Name, Offered: c.sustained(), Lately: c.lately(),
		Service: c.healthy, ServiceLow: least(lo, c.healthy), ServiceTop: most(hi, c.healthy),
		Caused: c.row.get(call("sum", dhalion.BackpressureCaused)),
		Busy:   c.row.get(string(dhalion.Busy)), Lag: lag, PerRead: perRead, HotShare: hot, Shares: shares,
		Source: c.source, Sink: c.sink, External: c.row.get("is_external") == 1,
		Ended: c.ended,
	}
}
