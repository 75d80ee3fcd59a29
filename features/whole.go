package features

import (
	"math"

	dhalion "github.com/dhalion-go/dhalion"
)

// workerRows is a row per worker that hosts instances or was measured.
func (r *Reader) workerRows(states map[string]*componentState, order []string, start, recent, end int64) map[string]row {
	rows := map[string]row{}
	rowOf := func(name string) row {
		if _, ok := rows[name]; !ok {
			rows[name] = newRow(dhalion.KindWorker)
		}
		return rows[name]
	}
	// A source's time per record says little: it waits for what it reads from. Its
	// word counts only where nothing else is loaded enough to ask.
	slow, sources := map[string][]float64{}, map[string][]float64{}
	for _, name := range order {
		for _, i := range states[name].instances {
			if i.worker == "" {
				continue
			}
			rowOf(i.worker)
			if i.busy < loadedBusy || !known(i.slowHere) {
				continue
			}
			if states[name].source {
				sources[i.worker] = append(sources[i.worker], i.slowHere)
			} else {
				slow[i.worker] = append(slow[i.worker], i.slowHere)
			}
		}
	}
	var memory window
	for name, s := range r.workers {
		lo, hi := s.rows(start, end)
		if hi == lo {
			continue
		}
		row := rowOf(name)
		mid, _ := s.rows(recent, end)
		times := s.times[lo:hi]
		level := r.past.level[s.target]
		for _, m := range workerMetrics {
			values := s.col(m, lo, hi)
			if values == nil {
				continue
			}
			setStats(row, m, &memory, times, values, values[min(mid, hi)-lo:])
			row.setPast(m, level)
		}
		if !known(row.get(string(dhalion.HeapAfterGC))) {
			row.set(string(dhalion.HeapAfterGC), heapFloor(s, lo, hi))
		}
		row.set("gc_lowest", row.get(call("min", dhalion.GC)))
		row.setOutages(s, start, end)
	}
	for name, row := range rows {
		if len(slow[name]) < 2 {
			slow[name] = append(slow[name], sources[name]...)
		}
		factors := knownSorted(slow[name])
		row.set("loaded_instances", float64(len(factors)))
		if len(factors) > 0 {
			row.set("slow_factor", quantileSorted(factors, 0.5))
			row.set("slow_lowest", factors[0])
			row.set("slow_agreement", factors[0]/factors[len(factors)-1])
		}
	}
	return rows
}

// heapFloor is the window's minimum of used over maximum: what is left after a
// collection, where the engine gives no such number. It needs three values, or
// one poll just before a collection would look like a full heap.
func heapFloor(s *series, lo, hi int) float64 {
	used, limit := s.col(dhalion.HeapUsed, lo, hi), s.col(dhalion.HeapMax, lo, hi)
	if used == nil || limit == nil {
		return nan
	}
	var shares []float64
	for i := range used {
		shares = append(shares, ratio(used[i], limit[i], 0))
	}
	if len(knownSorted(shares)) < 3 {
		return nan
	}
	return least(shares...)
}

// setOutages sets what outages counts.
func (r row) setOutages(s *series, start, end int64) {
	n, inside := outages(s, end, start)
	r.set("outages", n)
	r.set("outages_in_window", inside)
}

// outages counts the rises of restarts_total in the 10 min up to end, and those
// after start. Rises at polls less than outageGap apart are one outage; a
// counter that falls began anew.
func outages(s *series, end, start int64) (count, inside float64) {
	total := s.cols[dhalion.Restarts]
	if total == nil {
		return nan, nan
	}
	_, hi := s.rows(0, end)
	last := nan
	lastOutage := int64(math.MinInt64 / 2)
	seen := false
	for i := 0; i < hi; i++ {
		if !known(total[i]) {
			continue
		}
		seen = true
		rose := 0.0
		if known(last) && total[i] > last {
			rose = total[i] - last
		}
		last = total[i]
		at := s.times[i]
		if rose == 0 {
			continue
		}
		joined := at-lastOutage < outageGap.Microseconds()
		lastOutage = at
		if joined {
			rose--
		}
		if rose <= 0 || at <= end-outageSpan.Microseconds() {
			continue
		}
		count += rose
		if at > start {
			inside += rose
		}
	}
	if !seen {
		return nan, nan
	}
	return count, inside
}

func (r *Reader) jobRow(snap *Snapshot, states map[string]*componentState, order []string, start, recent, end int64) row {
	row := newRow(dhalion.KindJob)
	row.set("polls", float64(snap.Polls))
	load, peak, smallest := nan, nan, nan
	lag, arriving := nan, nan
	slowest, lost := 0.0, false // s, in which the last backlog has drained; NaN: one does not
	for _, name := range order {
		c := states[name]
		if !c.source && c.over() {
			continue // it takes nothing more
		}
		if !c.source {
			load = most(load, c.row.get("load_ratio"))
			peak = most(peak, c.row.get("load_ratio_peak"))
			smallest = least(smallest, float64(c.spec.Parallelism))
			if !known(c.row.get("load_ratio_peak")) {
				peak = math.Inf(1) // one that cannot be judged: not all can be said to be too many
			}
			continue
		}
		waiting, drain, any := c.backlog()
		lost = lost || any && !(known(waiting) && known(c.offeredRecent))
		lag = addKnown(lag, waiting)
		// A second of load is no backlog worth a word; of the others every one must
		// drain, or the whole does not.
		if ratio(waiting, c.offeredRecent, 0) > 1 {
			slowest = math.Max(slowest, drain) // NaN stays
		}
		if known(c.offeredRecent) {
			arriving = orElse(arriving, 0) + c.offeredRecent
		}
	}
	if math.IsInf(peak, 1) {
		peak = nan
	}
	if lost {
		lag = nan // what one source leaves lying is not known of the job
	}
	row.set("load_ratio", load)
	row.set("load_ratio_peak", peak)
	row.set("smallest_parallelism", smallest)
	row.set("backlog_seconds", ratio(lag, arriving, 0))
	for _, name := range order {
		states[name].row.set("backlog_seconds", row.get("backlog_seconds"))
	}
	if known(lag) {
		row.set("drain_seconds", slowest)
	}
	s := r.job
	if s == nil {
		return row
	}
	lo, hi := s.rows(start, end)
	mid, _ := s.rows(recent, end)
	var memory window
	for _, m := range jobMetrics {
		if values := s.col(m, lo, hi); len(values) > 0 {
			setStats(row, m, &memory, s.times[lo:hi], values, values[min(mid, hi)-lo:])
		}
	}
	row.set("checkpoint_failures_in_a_row", lastKnown(s, dhalion.CheckpointFailuresInARow, hi))
	row.set("checkpoint_overrun", ratio(lastKnown(s, dhalion.CheckpointSeconds, hi), lastKnown(s, dhalion.CheckpointInterval, hi), 0))
	row.setOutages(s, start, end)
	row.set("down_seconds", downSeconds(s, hi, end))
	return row
}

// backlog is what waits at a source, as what it would put out for it, and in how many
// seconds that has drained at the present rate; NaN when it does not drain. Of those
// that have a lag in the window every one must have one lately, or what waits is
// unknown; whether there are any is told. Only polls at which all of them reported are
// compared, or one that is missing would look like records worked off.
func (c *componentState) backlog() (waiting, drain float64, any bool) {
	at, reported := map[int64]float64{}, map[int64]int{}
	newest, have := 0.0, 0
	for _, i := range c.instances {
		if !known(i.row.get(string(dhalion.Lag))) || c.ended != nil && c.ended[i.target.Instance] {
			continue // nothing is dealt to it that it could leave lying
		}
		have++
		perRead, last := i.perRead(), nan
		for k, v := range i.series.col(dhalion.Lag, i.mid, i.hi) {
			if known(v) {
				last = perRead * v
				at[i.series.times[i.mid+k]] += last
				reported[i.series.times[i.mid+k]]++
			}
		}
		newest += last
	}
	var times []int64
	var lags []float64
	for _, t := range sortedKeys(at) {
		if reported[t] == have {
			times, lags = append(times, t), append(lags, at[t])
		}
	}
	switch {
	case have == 0:
		return nan, nan, false
	case len(times) == 0:
		return newest, nan, true // each is measured at times of its own
	}
	waiting = lags[len(lags)-1]
	if rate := drainRate(times, lags); rate > 0 {
		return waiting, waiting / rate, true
	}
	return waiting, nan, true
}

// addKnown adds what is known; two unknowns stay unknown.
func addKnown(a, b float64) float64 {
	switch {
	case !known(a):
		return b
	case !known(b):
		return a
	}
	return a + b
}

// drainRate is how fast a lag has fallen since it was last at its greatest, per
// second; 0 when it has not fallen by a twentieth, which is noise. A slope over
// all rows would still rise while a spike that has just ended is being worked
// off.
func drainRate(times []int64, lag []float64) float64 {
	top := 0
	for k, v := range lag {
		if v >= lag[top] {
			top = k
		}
	}
	end := len(lag) - 1
	if end < 0 || top == end || lag[end] > 0.95*lag[top] {
		return 0
	}
	return (lag[top] - lag[end]) / (float64(times[end]-times[top]) / 1e6)
}

func lastKnown(s *series, m dhalion.Metric, hi int) float64 {
	values := s.col(m, 0, hi)
	for i := len(values) - 1; i >= 0; i-- {
		if known(values[i]) {
			return values[i]
		}
	}
	return nan
}

// downSeconds is how long before end the job was last seen running.
func downSeconds(s *series, hi int, end int64) float64 {
	running := s.col(dhalion.Running, 0, hi)
	if len(knownSorted(running)) == 0 {
		return nan
	}
	down := nan
	for i := len(running) - 1; i >= 0; i-- {
		if !known(running[i]) {
			continue
		}
		if running[i] > 0 {
			break
		}
		down = float64(end-s.times[i]) / 1e6
	}
	return orElse(down, 0)
}
