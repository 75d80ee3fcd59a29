package flink

import (
	"math"
	"slices"
	"time"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/internal/engine/flink"
)

// maxInstance bounds the numbers of subtasks that are believed; Flink's own
// limit on parallelism is 32,768.
const maxInstance = 1 << 20

// leastBusy is the busy fraction below which records per busy second says
// nothing: the times are whole milliseconds.
const leastBusy = 0.01

// leastTaken is from how many records on a source's records out per record read is
// believed.
const leastTaken = 20

// The limits of backpressure_caused_fraction: who waits less than this himself
// while others wait for him holds them up.
const backpressureLimit = 0.1

// reading is what a vertex answered at one poll.
type reading struct {
	now      flink.Number // ms, by Flink's clock
	at       time.Time    // by the recorder's
	deployed bool
	subtasks map[int]flink.Subtask
	gauges   map[int]*gauge
}

// seconds between two answers of one kind: by the answers' own clock when both
// have it. It is 0 or less when there is nothing to divide by.
func (r *reading) seconds(before *reading) float64 {
	if now, ok := r.now.Get(); ok {
		if then, ok := before.now.Get(); ok {
			return (now - then) / 1e3
		}
	}
	return r.at.Sub(before.at).Seconds()
}

// shares of time, NaN unknown.
type shares struct{ busy, backpressured, idle float64 }

var unknownShares = shares{math.NaN(), math.NaN(), math.NaN()}

// giveInstances gives what is measured at subtasks, and what follows for whom
// holds up whom.
func (e *evaluation) giveInstances() {
	r := e.job.run
	all := map[string]*reading{}
	e.queues = map[string]queued{}
	waiting := map[string]map[int]float64{} // backpressured, by vertex and subtask that has not finished
	for _, vid := range r.graph.order {
		v, ok := e.poll.vertices[vertexKey{r.id, vid}]
		if !ok {
			continue
		}
		now := &reading{now: v.value.Now, at: v.at, deployed: e.deployed, subtasks: map[int]flink.Subtask{}}
		for _, s := range v.value.Subtasks {
			if i := s.Index.Int(); i >= 0 && i < maxInstance {
				now.subtasks[i] = s
			}
		}
		now.gauges = read(e.poll.gauges[vertexKey{r.id, vid}])
		for _, g := range now.gauges {
			r.counted[vid] = r.counted[vid] || g.taken.Known()
		}
		all[vid] = now
		if len(now.subtasks) > 0 {
			waiting[vid], e.queues[vid] = map[int]float64{}, queued{}
		}
	}
	moved := r.clocks(all)
	for _, vid := range r.graph.order {
		now := all[vid]
		if now == nil {
			continue
		}
		before := r.seen[vid]
		r.seen[vid] = map[int]*reading{}
		for _, i := range sorted(now.subtasks) {
			old := before[i]
			switch {
			case now.subtasks[i].Status == flink.Finished:
				// It waits for nobody and nothing waits for it, as runningShare has it. That
				// nothing arrives there any more is all that is given.
				r.seen[vid][i] = now
				if s := now.subtasks[i]; e.deployed {
					e.emit(dhalion.InstanceTarget(e.job.id, r.graph.name[vid], i), workerName(s.Worker()), dhalion.OfferedRecords, 0)
				}
			case e.deployed && old != nil && old.deployed && sameReading(old.subtasks[i], now.subtasks[i], moved):
				// Flink answers from a cache. What it says a second time is not news, and
				// the next difference is to what it said the first time.
				r.seen[vid][i], waiting[vid][i] = old, math.NaN()
				e.queues[vid] = queued{math.NaN(), math.NaN()}
			case e.deployed:
				var q queued
				waiting[vid][i], q = e.giveInstance(vid, i, now, old)
				sum := e.queues[vid]
				e.queues[vid] = queued{sum.amount + q.amount, sum.rate + q.rate}
				fallthrough
			default:
				r.seen[vid][i] = now
			}
		}
	}
	if e.deployed {
		for _, vid := range r.graph.order {
			e.giveCaused(vid, all[vid], waiting)
		}
		e.giveLatency()
	}
}

// queued is what waits in front of subtasks and how much of it they take in a second:
// bytes, or records at a source; NaN unknown.
type queued struct{ amount, rate float64 }

// wait is how long the last in the queue waits (Little, 1961): 3,000 queued bytes of
// which 1,500 are taken in a second wait 2 s. Where something waits and nothing is
// taken it is unknown.
func (q queued) wait() float64 {
	switch {
	case q.amount == 0 && q.rate >= 0:
		return 0
	case q.rate > 0:
		return q.amount / q.rate
	}
	return math.NaN()
}

// giveLatency estimates how long a record takes from its arrival to a sink: lag over
// consumption at the source, then queued over taken at each component, along the path
// that takes longest. What a record takes while it is worked on is left out. A path
// with an unknown part is unknown, and so is the job.
func (e *evaluation) giveLatency() {
	g := e.job.run.graph
	if !g.known {
		return
	}
	until := map[string]float64{}
	var at func(vid string) float64
	at = func(vid string) float64 {
		if v, ok := until[vid]; ok {
			return v
		}
		until[vid] = math.NaN() // for a cycle, which has no longest path
		above := 0.0
		for _, up := range g.up[vid] {
			above = math.Max(above, at(up)) // NaN stays
		}
		q, ok := e.queues[vid]
		if !ok {
			return math.NaN()
		}
		until[vid] = above + q.wait()
		return until[vid]
	}
	longest := 0.0
	for _, vid := range g.order {
		if !g.down[vid] {
			longest = math.Max(longest, at(vid))
		}
	}
	e.emit(dhalion.JobTarget(e.job.id), "", dhalion.Latency, longest)
}

// giveInstance gives one subtask's metrics and returns its backpressured
// fraction, NaN unknown, and what waits in front of it.
func (e *evaluation) giveInstance(vid string, index int, now, before *reading) (float64, queued) {
	r := e.job.run
	unknown := queued{math.NaN(), math.NaN()}
	s := now.subtasks[index]
	if s.Status != flink.Running {
		return math.NaN(), unknown
	}
	worker := workerName(s.Worker())
	target := dhalion.InstanceTarget(e.job.id, r.graph.name[vid], index)
	emit := func(m dhalion.Metric, v float64) { e.emit(target, worker, m, v) }

	hasInput, hasOutput := e.ends(vid, s)
	g := now.gauges[index]
	if g == nil || !fetched(s.Metrics) {
		g = &gauge{}
	}
	if hasInput {
		emit(dhalion.InputQueueBuffers, atLeast0(g.queueLength))
		emit(dhalion.QueueBytes, atLeast0(g.queueSize))
		emit(dhalion.InputQueueFraction, fraction(g.inPool))
	}
	if hasOutput {
		emit(dhalion.OutputQueueFraction, fraction(g.outPool))
	}
	if g.hasPending {
		emit(dhalion.Lag, g.pending.Float())
	}
	if before == nil || !before.deployed {
		return math.NaN(), unknown
	}
	old, ok := before.subtasks[index]
	seconds := now.seconds(before)
	if !ok || !oneAttempt(old, s) || !(seconds > 0) {
		return math.NaN(), unknown
	}
	oldGauge := before.gauges[index]
	if oldGauge == nil {
		oldGauge = &gauge{}
	}

	share, busyMs, counted := timeShares(s, old, g, oldGauge, seconds)
	if counted > 0 {
		// The three times add up to the clock of the task. Counters and lag were read
		// with them, a moment or a whole life of Flink's cache before the answer: over
		// the answers' clock rates of one job were up to 27 % off at polls of 5 s.
		seconds = counted / 1e3
	}
	emit(dhalion.Busy, share.busy)
	emit(dhalion.Backpressured, share.backpressured)
	emit(dhalion.Idle, share.idle)

	in, out := math.NaN(), math.NaN()
	if hasInput && s.Metrics.ReadRecordsComplete && old.Metrics.ReadRecordsComplete {
		in = s.Metrics.ReadRecords.Float() - old.Metrics.ReadRecords.Float()
	}
	if hasOutput && s.Metrics.WriteRecordsComplete && old.Metrics.WriteRecordsComplete {
		out = s.Metrics.WriteRecords.Float() - old.Metrics.WriteRecords.Float()
	}
	fan := 1.0 // records put out per record read
	if !hasInput && r.graph.chained[vid] {
		in, fan = takenBy(g, oldGauge, s, out, r.counted[vid])
	}
	emit(dhalion.RecordsIn, in/seconds)
	emit(dhalion.RecordsOut, out/seconds)
	if share.busy >= leastBusy {
		busySeconds := share.busy * seconds
		if busyMs > 0 {
			busySeconds = busyMs / 1e3
		}
		emit(dhalion.TrueRecordsIn, in/busySeconds)
		emit(dhalion.TrueRecordsOut, out/busySeconds)
	}
	if !hasInput && g.hasPending && oldGauge.hasPending {
		growth := (g.pending.Float() - oldGauge.pending.Float()) / g.pendingAt.Sub(oldGauge.pendingAt).Seconds()
		if counted > 0 {
			growth = (g.pending.Float() - oldGauge.pending.Float()) / seconds
		}
		emit(dhalion.OfferedRecords, math.Max(0, out/seconds+growth*fan))
	}
	q := unknown
	switch {
	case hasInput && s.Metrics.ReadBytesComplete && old.Metrics.ReadBytesComplete:
		q = queued{atLeast0(g.queueSize), (s.Metrics.ReadBytes.Float() - old.Metrics.ReadBytes.Float()) / seconds}
	case !hasInput && g.hasPending:
		q = queued{g.pending.Float(), out / seconds / fan}
	}
	return share.backpressured, q
}

// takenBy is how many records a chained source has read since before, by its
// operator's own counter, NaN unknown; and how many the subtask puts out for each: since
// before or, where hardly any was read since, as when it is held up, since its attempt
// began. Where the operator was not asked it is unknown if other polls asked (counted),
// else one: a recording without the counter is read as if nothing were chained.
func takenBy(g, before *gauge, s flink.Subtask, out float64, counted bool) (taken, fan float64) {
	taken, fan = g.taken.Float()-before.taken.Float(), 1
	if taken < 0 {
		taken = math.NaN()
	}
	switch all := g.taken.Float(); {
	case counted && !g.taken.Known():
		fan = math.NaN()
	case taken >= leastTaken && out >= 0:
		fan = out / taken
	case all >= leastTaken && s.Metrics.WriteRecordsComplete && s.Metrics.WriteRecords.Known():
		fan = s.Metrics.WriteRecords.Float() / all
	}
	return taken, fan
}

// ends says whether a subtask takes records from inside the job and whether it
// gives records to it. Without a plan its counters tell: Flink counts no record
// that crosses the job's border.
func (e *evaluation) ends(vid string, s flink.Subtask) (hasInput, hasOutput bool) {
	g := e.job.run.graph
	if g.known {
		return len(g.up[vid]) > 0, g.down[vid]
	}
	in, _ := s.Metrics.ReadRecords.Get()
	out, _ := s.Metrics.WriteRecords.Get()
	return in > 0, out > 0
}

// sameReading reports whether two answers about a subtask were made of one reading of its
// metrics: nothing moved, and its clock is among what did not. One without a clock may as
// well have done nothing; Flink renews the metrics of a worker's subtasks together, so the
// clocks of the others there tell, or where none has one those of the job.
func sameReading(old, now flink.Subtask, moved map[string]bool) bool {
	a, b := old.Metrics, now.Metrics
	if a != b || !fetched(a) || !oneAttempt(old, now) {
		return false
	}
	if hasClock(a) {
		return true
	}
	news, ok := moved[workerName(now.Worker())]
	if !ok {
		news, ok = moved[""]
	}
	return ok && !news
}

// hasClock says that a subtask's busy, idle and backpressured times are known. They add
// up to its clock. A source made of a SourceFunction has no busy time.
func hasClock(m flink.IOMetrics) bool {
	return m.Busy.Known() && m.Backpressured.Known() && m.Idle.Known()
}

// clocks says of each worker whether the clock of some subtask there has moved since its
// newest reading, and of all workers under "". A worker without clocks is not in it.
func (r *run) clocks(all map[string]*reading) map[string]bool {
	moved := map[string]bool{}
	for vid, now := range all {
		for i, s := range now.subtasks {
			old := r.seen[vid][i]
			if old == nil || s.Status != flink.Running || !hasClock(s.Metrics) || !oneAttempt(old.subtasks[i], s) {
				continue
			}
			for _, worker := range []string{"", workerName(s.Worker())} {
				moved[worker] = moved[worker] || old.subtasks[i].Metrics != s.Metrics
			}
		}
	}
	return moved
}

// fetched says that Flink has asked the subtask for its metrics. Before it has, the
// times read 0, and what is kept by the subtask's number is of the attempt before: a
// worker that dies while Flink asks it holds up all metrics for web.timeout, which is
// 10 min unless set.
func fetched(m flink.IOMetrics) bool { return m.ReadRecordsComplete || m.WriteRecordsComplete }

// oneAttempt reports whether two answers are about one attempt of a subtask that
// ran at both: no counter fell.
func oneAttempt(old, now flink.Subtask) bool {
	if old.Status != flink.Running || old.Attempt != now.Attempt || old.StartTime != now.StartTime || old.TaskManager != now.TaskManager {
		return false
	}
	a, b := old.Metrics, now.Metrics
	// An unknown counter is NaN, which is neither less nor more.
	return !(b.ReadRecords.Float() < a.ReadRecords.Float()) && !(b.WriteRecords.Float() < a.WriteRecords.Float()) && !timesFell(a, b)
}

// clockSlack is the share of an interval by which a time may fall and still be
// of the same attempt. Flink does not measure busy time: it is what idle and
// backpressured time leave of the clock, and of a source that only waits it falls
// by some milliseconds now and then (49 of 5,064 were seen). Such a difference
// counts as 0.
const clockSlack = 0.02

func timesFell(a, b flink.IOMetrics) bool {
	fell, grew := 0.0, 0.0
	for _, pair := range [][2]flink.Number{{a.Busy, b.Busy}, {a.Backpressured, b.Backpressured}, {a.Idle, b.Idle}} {
		if d := pair[1].Float() - pair[0].Float(); d < 0 {
			fell -= d
		} else if d > 0 {
			grew += d
		}
	}
	return fell > clockSlack*grew
}

// timeShares is how a subtask spent its time between two answers: each
// accumulated time's difference over the sum of the three. busyMs is the busy
// one and counted that sum (ms), 0 when they are not known. Where the vertex's
// answer has no times its metrics may. Where busy time alone is unknown, as of a source
// made of a SourceFunction, of which idle time means nothing, backpressured time is
// divided by the seconds between the answers. Where there are none at all there is Flink's
// own mean over 60 s, which is all that is left.
func timeShares(s, old flink.Subtask, g, oldGauge *gauge, seconds float64) (share shares, busyMs, counted float64) {
	a, b := old.Metrics, s.Metrics
	if fetched(a) && fetched(b) {
		if share, busyMs, counted := differences([3]flink.Number{a.Busy, a.Backpressured, a.Idle}, [3]flink.Number{b.Busy, b.Backpressured, b.Idle}); counted > 0 {
			return share, busyMs, counted
		}
	}
	if share, busyMs, counted := differences([3]flink.Number{oldGauge.busy, oldGauge.backpressured, oldGauge.idle}, [3]flink.Number{g.busy, g.backpressured, g.idle}); counted > 0 {
		return share, busyMs, 0 // which was not read with the counters
	}
	if b.Busy.Known() || g.busy.Known() {
		return unknownShares, 0, 0 // there are times, but they did not move
	}
	if held := b.Backpressured.Float() - a.Backpressured.Float(); held == held && fetched(a) && fetched(b) {
		return shares{math.NaN(), math.Min(1, math.Max(0, held/1e3/seconds)), math.NaN()}, 0, 0
	}
	return shares{rate(g.busyRate), rate(g.backpressuredRate), rate(g.idleRate)}, 0, 0
}

func differences(old, now [3]flink.Number) (share shares, busyMs, counted float64) {
	var d [3]float64
	for i := range d {
		d[i] = math.Max(0, now[i].Float()-old[i].Float())
		counted += d[i]
	}
	if !(counted > 0) { // not if one is NaN, either
		return unknownShares, 0, 0
	}
	return shares{d[0] / counted, d[1] / counted, d[2] / counted}, d[0], counted
}

// rate is a *TimeMsPerSecond as a fraction.
func rate(n flink.Number) float64 {
	v := n.Float() / 1e3
	if v < 0 || v > 1.05 {
		return math.NaN()
	}
	return math.Min(v, 1)
}

// fraction is a share that Flink gives: overdraft buffers lift a pool's above 1.
func fraction(n flink.Number) float64 {
	v := n.Float()
	if v < 0 {
		return math.NaN()
	}
	return math.Min(v, 1)
}

// atLeast0 leaves a negative number unknown: it is Flink's "none".
func atLeast0(n flink.Number) float64 {
	if v := n.Float(); v >= 0 {
		return v
	}
	return math.NaN()
}

// giveCaused derives who causes backpressure, which Flink, unlike Heron, does not
// say. With two splitter instances backpressured .6 and .8 and a counter that is
// not, the counter causes .7; of its instances with 9 and 1 buffers queued, one
// causes .63 and the other .07.
func (e *evaluation) giveCaused(vid string, now *reading, waiting map[string]map[int]float64) {
	r := e.job.run
	if now == nil || !r.graph.known {
		return
	}
	own, ok := mean(waiting[vid])
	if !ok || len(waiting[vid]) == 0 {
		return
	}
	caused, sum, n := 0.0, 0.0, 0
	over := false
	for _, up := range r.graph.up[vid] {
		theirs, ok := mean(waiting[up])
		if !ok {
			return
		}
		over = over || theirs > backpressureLimit
		sum, n = sum+theirs*float64(len(waiting[up])), n+len(waiting[up])
	}
	if over && own < backpressureLimit {
		caused = math.Min(1, sum/float64(n))
	}
	name := r.graph.name[vid]
	e.emit(dhalion.ComponentTarget(e.job.id, name), "", dhalion.BackpressureCaused, caused)

	queued := 0.0
	instances := sorted(waiting[vid])
	for _, i := range instances {
		if g := now.gauges[i]; g != nil {
			queued += atLeast0(g.queueLength)
		} else {
			queued = math.NaN()
		}
	}
	for _, i := range instances {
		part := 0.0
		switch {
		case caused == 0:
		case queued > 0:
			part = caused * (now.gauges[i].queueLength.Float() / queued)
		case queued == 0:
			part = caused / float64(len(instances))
		default:
			continue
		}
		s := now.subtasks[i]
		e.emit(dhalion.InstanceTarget(e.job.id, name, i), workerName(s.Worker()), dhalion.BackpressureCaused, part)
	}
}

// mean is that of all instances; not ok when one is unknown. Where all have finished
// values is empty, and it is 0; where there is none values is nil.
func mean(values map[int]float64) (float64, bool) {
	if values != nil && len(values) == 0 {
		return 0, true
	}
	sum := 0.0
	for _, i := range sorted(values) {
		sum += values[i]
	}
	v := sum / float64(len(values))
	return v, v == v
}

// giveComponents gives what is known of components as wholes.
func (e *evaluation) giveComponents() {
	r := e.job.run
	if !e.hasRun || isOver(e.detail.State) {
		return
	}
	given := map[string]bool{}
	for _, v := range e.detail.Vertices {
		name := r.graph.name[v.ID]
		if share, ok := runningShare(v.Tasks); ok && name != "" && !given[name] {
			given[name] = true
			e.emit(dhalion.ComponentTarget(e.job.id, name), "", dhalion.Running, share)
		}
	}
}

// giveJob gives what is measured of the job as a whole, and the outages of all
// targets that have some.
func (e *evaluation) giveJob() {
	j, r := e.job, e.job.run
	target := dhalion.JobTarget(j.id)
	if s, ok := e.poll.overview[r.id]; ok {
		share, known := runningShare(s.Tasks)
		switch {
		case isDown(s.State) && !known:
			e.emit(target, "", dhalion.Running, 0) // waiting for slots it has no tasks
		case known && !isOver(s.State):
			e.emit(target, "", dhalion.Running, share)
		}
	}
	if e.hasRun {
		e.emit(target, "", dhalion.Restarts, float64(j.restarts))
		blamed := make([]dhalion.Target, 0, len(j.laid))
		for t := range j.laid {
			blamed = append(blamed, t)
		}
		slices.SortFunc(blamed, dhalion.Target.Compare)
		for _, t := range blamed {
			e.emit(t, "", dhalion.Restarts, float64(j.laid[t]))
		}
	}
	j.asked = j.asked || e.poll.configs[r.id]
	if interval, ok := e.poll.intervals[r.id]; ok {
		// 2^63-1 ms says that checkpoints are off.
		if j.intervalCfg = interval.value.Float() / 1e3; !(j.intervalCfg > 0 && j.intervalCfg < 1e9) {
			j.intervalCfg = math.NaN()
		}
	}
	if c, ok := e.poll.checkpoints[r.id]; ok {
		e.giveCheckpoints(target, c.value)
	}
}

func (e *evaluation) giveCheckpoints(target dhalion.Target, c flink.Checkpoints) {
	e.emit(target, "", dhalion.CheckpointsCompleted, atLeast0(c.Counts.Completed))
	e.emit(target, "", dhalion.CheckpointFailures, atLeast0(c.Counts.Failed))
	if c.Latest.Completed != nil {
		e.emit(target, "", dhalion.CheckpointSeconds, atLeast0(c.Latest.Completed.Duration)/1e3)
	}
	interval, newest, failed := e.job.intervalCfg, math.Inf(-1), 0
	var triggers []float64
	for _, one := range c.History {
		at, ok := one.Triggered.Get()
		if !ok || one.Savepoint {
			continue
		}
		triggers = append(triggers, at)
		if one.Status == "COMPLETED" {
			newest = math.Max(newest, at)
		}
	}
	for _, one := range c.History {
		if at, ok := one.Triggered.Get(); ok && !one.Savepoint && one.Status == "FAILED" && at > newest {
			failed++
		}
	}
	// Flink keeps as much history as web.checkpoints.history says, which may be none.
	kept := len(c.History) > 0 || !(c.Counts.Failed.Float() > 0)
	if len(triggers) > 0 || kept && c.Counts.Completed.Known() {
		e.emit(target, "", dhalion.CheckpointFailuresInARow, float64(failed))
	}
	if math.IsNaN(interval) && !e.job.asked && len(triggers) > 1 {
		slices.Sort(triggers)
		gaps := make([]float64, len(triggers)-1)
		for i := range gaps {
			gaps[i] = (triggers[i+1] - triggers[i]) / 1e3
		}
		slices.Sort(gaps)
		interval = (gaps[(len(gaps)-1)/2] + gaps[len(gaps)/2]) / 2
	}
	e.emit(target, "", dhalion.CheckpointInterval, interval)
}

// workerTimes are what a worker had counted when it was last asked.
type workerTimes struct {
	at      time.Time
	cpu, gc flink.Number // ns and ms
}

// giveWorkers gives the metrics of the workers that host an instance of the job. Where
// its run was is no place of it when the run has ended, or is nowhere in this poll.
func (e *evaluation) giveWorkers() {
	s, listed := e.poll.overview[e.job.run.id]
	if !listed && !e.hasRun || flink.Terminal(s.State) || flink.Terminal(e.detail.State) {
		return
	}
	hosts := map[string]bool{}
	for _, placed := range e.job.run.subtasks {
		for _, p := range placed {
			hosts[p.worker] = true
		}
	}
	for _, id := range sorted(e.poll.workers) {
		name := workerName(id)
		if name == "" || !hosts[name] {
			continue
		}
		target := dhalion.WorkerTarget(e.job.id, name)
		value := func(metric string) flink.Number { return e.poll.workers[id][metric].value }
		now := workerTimes{e.poll.workers[id][gcCount].at, value(cpuTime), value(gcCount)}
		old := e.job.workers[name]
		if now.cpu.Known() && now.cpu == old.cpu {
			continue // Flink's cache again: a process that answers takes time
		}
		e.job.workers[name] = now
		e.emit(target, "", dhalion.CPU, fraction(value(cpuLoad)))
		e.emit(target, "", dhalion.HeapUsed, atLeast0(value(heapUsed)))
		e.emit(target, "", dhalion.HeapMax, atLeast0(value(heapMax)))
		// Several collectors may take more than a second a second.
		gc := atLeast0(value(gcTime)) / 1e3
		if now.gc.Known() {
			// Flink's own rate is a mean over 60 s.
			gc = (now.gc.Float() - old.gc.Float()) / 1e3 / now.at.Sub(old.at).Seconds()
		}
		if gc >= 0 {
			e.emit(target, "", dhalion.GC, math.Min(gc, 1))
		}
	}
}
