package flink

import (
	"math"
	"slices"
	"strings"
	"time"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/internal/engine/flink"
)

// outageGap: failures less than this apart are one outage.
const outageGap = 10 * time.Second

const (
	// A request for other resources explains a restart in another shape that
	// follows it by so much (a rescale waits for slots, a cooldown, a
	// checkpoint), and one in the same shape, with no failed task in sight, by
	// so much.
	reshapePatience = 5 * time.Minute
	requestPatience = 30 * time.Second

	// cacheAge is how old Flink's view of its own jobs may be in an answer
	// (web.refresh-interval is 3 s unless set).
	cacheAge = 3 * time.Second

	keepOutages = 64

	// forgetAfter is how long a job without a run is remembered. What runs once a day
	// under one name is one job, of which the new run is another version; of what has a
	// new name every day no more is kept than of a day.
	forgetAfter = 24 * time.Hour
)

// job is what is remembered of one job from poll to poll.
type job struct {
	id   dhalion.JobID
	twin bool
	run  *run

	first    time.Time // its first poll with an answer to /jobs/:id
	last     time.Time // its newest
	gone     time.Time // the poll since which there has been no run of it; zero: there is one
	restarts int
	outages  []outage // the newest, ascending by to
	laid     map[dhalion.Target]int

	exception   time.Time               // newest failure known, at first the first poll; by Flink's clock
	lastBlamed  map[dhalion.Target]bool // targets named by the newest group of failures
	topology    *dhalion.Topology
	placed      bool // a topology with placement was given
	request     time.Time
	byOperator  bool // since the newest topology
	byEngine    bool // likewise: an outage
	intervalCfg float64
	asked       bool // for intervalCfg, answered or not
	workers     map[string]workerTimes
}

// outage is one that was counted: it began in (from, to], by Flink's clock. seen tells that the
// exceptions have been found to it, early that it is known from them alone.
type outage struct {
	from, to    time.Time
	seen, early bool
}

// ending is what is known of the end of a run's present execution, the stretch
// from one timestamps.RUNNING to the next.
type ending int

const (
	goesOn  ending = iota
	pending        // it ended, and it is open whether by a rescale or a failure
	counted        // it ended, an outage
	changed        // it ended, and that was somebody's will
)

// run is what is remembered of a job's present run.
type run struct {
	id       string
	started  bool
	running  float64   // timestamps.RUNNING of the execution, ms; 0 when unknown
	good     time.Time // when that execution was last seen running, by Flink's clock
	end      ending
	failed   bool      // a failed task was seen at its end
	settled  time.Time // poll at which the newest end of an execution was decided
	shape    map[string]int
	graph    graph
	subtasks map[string]map[int]place    // attempts, by vertex
	seen     map[string]map[int]*reading // the newest that brought news, by vertex and subtask
	counted  map[string]bool             // vertices of which some poll had what a source has read
}

// place is which execution of a subtask was seen, where and when.
type place struct {
	attempt, start flink.Number
	worker         string
	at             time.Time // of the poll
}

// graph is a run's vertices by the names of our components.
type graph struct {
	order        []string          // vertex ids as Flink lists them
	name         map[string]string // component by vertex id
	up           map[string][]string
	down         map[string]bool // whether it has something downstream
	chained      map[string]bool // whether it is several operators
	edges        []dhalion.Edge
	known        bool // whether the edges are
	byVertexName map[string]string
}

func newJob(id dhalion.JobID, runID string, twin bool) *job {
	return &job{id: id, twin: twin, run: newRun(runID), laid: map[dhalion.Target]int{}, workers: map[string]workerTimes{}, intervalCfg: math.NaN()}
}

func newRun(id string) *run {
	return &run{id: id, subtasks: map[string]map[int]place{}, seen: map[string]map[int]*reading{}, counted: map[string]bool{}}
}

// evaluation is one job at one poll.
type evaluation struct {
	poll     *poll
	job      *job
	result   *Result
	slots    []dhalion.Slots   // of all workers, as last told
	queues   map[string]queued // by vertex, of all its subtasks
	detail   flink.Job
	hasRun   bool          // whether /jobs/:id was answered
	now      time.Time     // when it was, by Flink's clock
	ahead    time.Duration // of Flink's clock over the recorder's
	newRun   bool
	deployed bool
}

// at is the time of all that this poll gives.
func (e *evaluation) at() time.Time { return e.poll.at }

func (e *evaluation) emit(target dhalion.Target, worker string, m dhalion.Metric, v float64) {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return
	}
	e.result.Measurements = append(e.result.Measurements, dhalion.Measurement{
		Target: target, Worker: worker, Metric: m, Time: e.at(), Value: v,
	})
}

func (e *evaluation) run(id string) {
	j := e.job
	d, ok := e.poll.details[id]
	e.detail, e.hasRun = d.value, ok
	if !ok && j.first.IsZero() {
		return
	}
	if j.run.id != id {
		j.run, e.newRun = newRun(id), true
	}
	// Starts and failures are stamped by Flink's clock, requests by the recorder's:
	// outages are judged by the former.
	e.now = d.at
	if now, ok := e.detail.Now.Time(); ok {
		e.now, e.ahead = now, now.Sub(d.at)
	}
	if j.first.IsZero() {
		j.first, j.exception = e.at(), e.now
	}
	e.readGraph()
	e.deployed = e.allRun()
	moved := e.readPlaces()
	e.judgeExecution(moved)
	e.judgeExceptions()
	e.giveTopology()
	e.giveJob()
	e.giveComponents()
	e.giveInstances()
	e.giveWorkers()
	if e.hasRun {
		j.last = e.at()
	}
}

// readGraph names the components and finds the edges, from this poll's answers
// where they have them.
func (e *evaluation) readGraph() {
	r := e.job.run
	if !e.hasRun {
		return
	}
	g := graph{name: flink.ComponentNames(e.detail.Vertices), up: map[string][]string{}, down: map[string]bool{}, chained: map[string]bool{}, byVertexName: map[string]string{}}
	uses, seen := map[string]int{}, map[string]bool{}
	for _, v := range e.detail.Vertices {
		if v.ID == "" || seen[v.ID] {
			continue
		}
		seen[v.ID] = true
		g.order = append(g.order, v.ID)
		g.chained[v.ID] = flink.Chained(v.Name)
		uses[flink.Name(v.Name, v.ID)]++
	}
	for name, n := range uses {
		if n == 1 {
			g.byVertexName[name] = name
		}
	}
	plan := e.detail.Plan
	if p, ok := e.poll.plans[r.id]; ok && len(plan.Nodes) == 0 {
		plan = p.value
	}
	if len(plan.Nodes) == 0 && slices.Equal(g.order, r.graph.order) {
		// A graph does not change within a run.
		g.up, g.down, g.edges, g.known = r.graph.up, r.graph.down, r.graph.edges, r.graph.known
	}
	for _, n := range plan.Nodes {
		g.known = true
		for _, in := range n.Inputs {
			from, to := g.name[in.ID], g.name[n.ID]
			edge := dhalion.Edge{From: from, To: to}
			if in.Ship != "" {
				edge.Ship = strings.ToLower(flink.Name(in.Ship, ""))
			}
			if from == "" || to == "" || slices.Contains(g.edges, edge) {
				continue
			}
			g.edges = append(g.edges, edge)
			if !slices.Contains(g.up[n.ID], in.ID) {
				g.up[n.ID] = append(g.up[n.ID], in.ID)
			}
			g.down[in.ID] = true
		}
	}
	r.graph = g
}

// allRun reports whether every subtask of the job runs, or has finished: only
// then do rates mean the job at work.
func (e *evaluation) allRun() bool {
	if !e.hasRun {
		s, ok := e.poll.overview[e.job.run.id]
		share, known := runningShare(s.Tasks)
		return ok && s.State == flink.Running && known && share == 1
	}
	if e.detail.State != flink.Running {
		return false
	}
	for _, v := range e.detail.Vertices {
		if share, known := runningShare(v.Tasks); known && share < 1 {
			return false
		}
	}
	return true
}

// runningShare is RUNNING over all tasks but the FINISHED ones. It is not known
// without counts, and 1 when all have finished.
func runningShare(c flink.Counts) (float64, bool) {
	total, known := c.Total()
	running, ok := c.Of(flink.Running)
	if !known || !ok {
		return 0, false
	}
	finished, _ := c.Of(flink.Finished)
	if total -= finished; total <= 0 {
		return 1, finished > 0
	}
	return min(1, max(0, running/total)), true
}

// readPlaces notes attempt and place of every subtask and reports the earliest
// poll after which one was restarted; zero when none was.
func (e *evaluation) readPlaces() (since time.Time) {
	r := e.job.run
	for _, vid := range r.graph.order {
		v, ok := e.poll.vertices[vertexKey{r.id, vid}]
		if !ok {
			continue
		}
		before, now := r.subtasks[vid], map[int]place{}
		for _, s := range v.value.Subtasks {
			index := s.Index.Int()
			if index < 0 {
				continue
			}
			p := place{attempt: s.Attempt, start: s.StartTime, worker: workerName(s.Worker()), at: e.at()}
			now[index] = p
			old, ok := before[index]
			a, aok := p.attempt.Get()
			b, bok := old.attempt.Get()
			if ok && aok && bok && a > b && (since.IsZero() || old.at.Before(since)) {
				since = old.at
			}
		}
		r.subtasks[vid] = now
	}
	return since
}

func workerName(id string) string {
	if id == "" {
		return ""
	}
	return flink.Name(id, id)
}

// judgeExecution finds out whether the job was restarted since the last poll, and
// whether that was an outage. It keeps one execution apart from the next by
// timestamps.RUNNING, which moves at every start, so that an outage is counted
// once however many polls show it: RESTARTING, then half deployed, then running
// since another time. restartedSince is the poll after which a subtask was
// restarted; an engine may restart some while the job as a whole goes on.
func (e *evaluation) judgeExecution(restartedSince time.Time) {
	j, r := e.job, e.job.run
	shape := e.shape()
	if q, ok := e.poll.requests[r.id]; ok && e.asksForChange(q.value, shape) {
		j.request = q.at.Add(e.ahead)
	}
	if !e.hasRun {
		return
	}
	running, known := e.detail.Timestamps[flink.Running].Get()
	if !known || running < 0 {
		running = 0
	}
	down := isDown(e.detail.State)
	if !r.started {
		// What happened before the first poll of a run is history.
		r.started, r.running, r.settled = true, running, e.at()
		if down {
			r.end = changed
		}
		if e.newRun {
			j.byOperator = true
		}
		e.noteGood(running, shape)
		return
	}
	again := running != 0 && r.running != 0 && running != r.running || r.end != goesOn && e.detail.State == flink.Running
	if !again && !restartedSince.IsZero() && restartedSince.Before(r.settled) {
		restartedSince = time.Time{} // the restart that has been judged
	}
	if r.end == goesOn && down && !again {
		r.end, r.failed = pending, false
	}
	// After a start the failed task is gone: it tells of this end of an
	// execution, or of the next.
	failed := e.failedTask()
	from, to := r.good, e.now
	if !again && restartedSince.IsZero() {
		r.failed = r.failed || failed
		if r.end == pending && (e.detail.State == flink.Failed || r.failed && !e.requested(false, to)) {
			e.settle(counted, from, to)
		}
		if r.running == 0 {
			r.running = running
		}
		e.noteGood(running, shape)
		return
	}
	// A start moved: when did the new execution begin?
	if again {
		if t, ok := flink.Known(running).Time(); ok && t.After(from) && t.Before(to) {
			to = t
		}
	} else if since := restartedSince.Add(e.ahead); from.IsZero() || since.Before(from) {
		from = since
	}
	reshaped := len(r.shape) > 0 && len(shape) > 0 && !equalShapes(r.shape, shape)
	switch r.end {
	case goesOn, pending:
		asked := e.requested(reshaped, to) && (reshaped || !r.failed)
		if asked || reshaped && !r.failed && !e.failedBetween(from, to) {
			e.settle(changed, from, to)
		} else {
			e.settle(counted, from, to)
		}
	case counted:
		// Known already; it lasted until now.
		if n := len(j.outages); n > 0 {
			j.outages[n-1].to = later(j.outages[n-1].from, to)
		}
		r.settled = e.at()
	case changed:
		r.settled = e.at()
	}
	if running != 0 {
		r.running = running
	}
	r.end, r.failed = goesOn, false
	if down {
		r.end, r.failed = pending, failed
	}
	e.noteGood(running, shape)
}

// noteGood remembers the shape and the time of an execution that runs whole.
func (e *evaluation) noteGood(running float64, shape map[string]int) {
	r := e.job.run
	if e.detail.State == flink.Running && r.end == goesOn {
		r.good = e.now
	}
	if e.deployed && running == r.running {
		r.shape = shape
	}
}

// settle decides what the end of an execution was. It ended in (from, to].
func (e *evaluation) settle(as ending, from, to time.Time) {
	j, r := e.job, e.job.run
	r.end, r.settled = as, e.at()
	if as == changed {
		j.byOperator = true
		j.request = time.Time{} // it has had its effect
		return
	}
	j.byEngine = true
	for i := range j.outages {
		o := &j.outages[i]
		if o.early && !o.to.Before(from.Add(-cacheAge)) && !o.from.After(to) {
			// The exceptions told of it before.
			o.early = false
			o.from, o.to = earlier(o.from, from), later(o.to, to)
			return
		}
	}
	e.count(outage{from: from, to: to})
}

// count adds an outage, unless it goes on one less than outageGap before it.
func (e *evaluation) count(o outage) {
	j := e.job
	if n := len(j.outages); n > 0 && o.to.Sub(j.outages[n-1].to) < outageGap {
		j.outages[n-1].to = later(j.outages[n-1].to, o.to)
		j.outages[n-1].seen = j.outages[n-1].seen || o.seen
		return
	}
	j.restarts++
	j.outages = append(j.outages, o)
	if len(j.outages) > keepOutages {
		j.outages = slices.Delete(j.outages, 0, 1)
	}
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// isDown reports whether a state is one of an engine at mending: not running, and
// not by the will of whoever cancelled it or because it is done.
func isDown(state string) bool { return state != flink.Running && state != "" && !isOver(state) }

// isOver reports whether a run has ended, or is ending, by somebody's will or because it
// is done. One that FAILED has not: its job is down. One that is SUSPENDED waits for
// another JobManager.
func isOver(state string) bool {
	return state == flink.Finished || state == flink.Canceled || state == flink.Canceling
}

// failedTask reports whether a failed task is seen: what a rescale, which
// cancels them, does not leave.
func (e *evaluation) failedTask() bool {
	if e.detail.State == flink.Failed || e.detail.State == "FAILING" {
		return true
	}
	for _, v := range e.detail.Vertices {
		if n, _ := v.Tasks.Of(flink.Failed); n > 0 {
			return true
		}
		for _, s := range e.poll.vertices[vertexKey{e.job.run.id, v.ID}].value.Subtasks {
			if s.Status == flink.Failed {
				return true
			}
		}
	}
	return false
}

// failedBetween reports whether this poll's exceptions have one of that time.
func (e *evaluation) failedBetween(from, to time.Time) bool {
	for _, x := range e.poll.exceptions[e.job.run.id].value.History.Entries {
		if at, ok := x.Timestamp.Time(); ok && at.After(from) && !at.After(to) {
			return true
		}
	}
	return false
}

// requested reports whether other resources were asked for, as a PUT in the
// recording shows, not long before an execution that ended by then.
func (e *evaluation) requested(reshaped bool, by time.Time) bool {
	at := e.job.request
	if at.IsZero() || at.After(by) {
		return false
	}
	patience := requestPatience
	if reshaped {
		patience = reshapePatience
	}
	return by.Sub(at) < patience
}

// asksForChange reports whether a request differs from what is there: Flink does
// nothing about one that does not.
func (e *evaluation) asksForChange(q flink.Requirements, shape map[string]int) bool {
	if len(q) == 0 {
		return false
	}
	for id, want := range q {
		upper := want.Parallelism.UpperBound.Int()
		lower := want.Parallelism.LowerBound.Int()
		now, ok := shape[id]
		if !ok {
			now, ok = e.job.run.shape[id]
		}
		if !ok || upper != now || lower > now {
			return true
		}
	}
	return false
}

// shape is the parallelism of the job's vertices, by id, as /jobs/:id has it.
func (e *evaluation) shape() map[string]int {
	if !e.hasRun {
		return nil
	}
	shape := map[string]int{}
	for _, v := range e.detail.Vertices {
		shape[v.ID] = v.Parallelism.Int()
	}
	return shape
}

func equalShapes(a, b map[string]int) bool {
	if len(a) != len(b) {
		return false
	}
	for id, n := range a {
		if m, ok := b[id]; !ok || m != n {
			return false
		}
	}
	return true
}

// judgeExceptions reads the failures that are new: they lay outages on
// components and workers, where the engine names them, and tell of outages that
// began and ended between two polls. Those of before the first poll are history.
func (e *evaluation) judgeExceptions() {
	j := e.job
	all, ok := e.poll.exceptions[j.run.id]
	if !ok || !e.hasRun {
		return
	}
	type failure struct {
		at time.Time
		x  flink.Exception
	}
	var fresh []failure
	for _, x := range all.value.History.Entries {
		if at, ok := x.Timestamp.Time(); ok && at.After(j.exception) {
			fresh = append(fresh, failure{at: at, x: x})
		}
	}
	slices.SortStableFunc(fresh, func(a, b failure) int { return a.at.Compare(b.at) })
	for i := 0; i < len(fresh); {
		// A group of failures, each less than outageGap after the one before.
		first, last := fresh[i].at, fresh[i].at
		goesOn := j.lastBlamed != nil && first.Sub(j.exception) < outageGap
		if !goesOn {
			j.lastBlamed = map[dhalion.Target]bool{}
		}
		for ; i < len(fresh) && fresh[i].at.Sub(last) < outageGap; i++ {
			last = fresh[i].at
			e.blame(fresh[i].x)
		}
		j.exception = last
		if !goesOn {
			e.matchOutage(first, last)
		}
	}
}

// blame counts the outage on whom the engine names, once in a group.
func (e *evaluation) blame(x flink.Exception) {
	j := e.job
	var targets []dhalion.Target
	if name := x.Vertex(); name != "" {
		if component, ok := j.run.graph.byVertexName[flink.Name(name, "")]; ok {
			targets = append(targets, dhalion.ComponentTarget(j.id, component))
		}
	}
	if w := workerName(x.Worker()); w != "" {
		targets = append(targets, dhalion.WorkerTarget(j.id, w))
	}
	for _, t := range targets {
		if j.lastBlamed[t] {
			continue
		}
		j.lastBlamed[t] = true
		if _, before := j.laid[t]; !before && !j.last.IsZero() {
			// A count that begins with 1 hides its first rise: at the poll before,
			// no outage had been laid on this target.
			e.result.Measurements = append(e.result.Measurements, dhalion.Measurement{
				Target: t, Metric: dhalion.Restarts, Time: j.last, Value: 0,
			})
		}
		j.laid[t]++
	}
}

// matchOutage finds the outage that a group of failures belongs to, and counts
// one when there is none.
func (e *evaluation) matchOutage(first, last time.Time) {
	j := e.job
	for i := range j.outages {
		o := &j.outages[i]
		if !o.seen && last.After(o.from.Add(-cacheAge)) && first.Before(o.to.Add(cacheAge)) {
			o.seen = true
			return
		}
	}
	j.byEngine = true
	o := outage{from: first, to: last, seen: true, early: true}
	// Outages are kept in order of time; one that was found late goes between.
	at := len(j.outages)
	for at > 0 && j.outages[at-1].to.After(last) {
		at--
	}
	near := at > 0 && first.Sub(j.outages[at-1].to) < outageGap ||
		at < len(j.outages) && j.outages[at].from.Sub(last) < outageGap && !j.outages[at].seen
	if near {
		return
	}
	o.early = at == len(j.outages) && first.After(j.run.good.Add(-cacheAge))
	j.restarts++
	j.outages = slices.Insert(j.outages, at, o)
	if len(j.outages) > keepOutages {
		j.outages = slices.Delete(j.outages, 0, 1)
	}
}

// giveTopology gives the job's topology when it is first seen and when it has
// changed. It waits until every subtask runs in its place: what is seen of a job
// that is half deployed is neither the old topology nor the new. The topology
// holds from that poll on, rather than from the PUT that asked for it, because a
// window must not begin before the change is complete.
func (e *evaluation) giveTopology() {
	j, r := e.job, e.job.run
	if !e.hasRun || !e.deployed || len(r.graph.order) == 0 {
		return
	}
	t := dhalion.Topology{From: e.at(), Run: r.id, Edges: slices.Clone(r.graph.edges)}
	answered := 0
	for _, v := range e.detail.Vertices {
		name, n := r.graph.name[v.ID], v.Parallelism.Int()
		if name == "" || n < 1 {
			continue
		}
		if _, twice := t.Component(name); twice {
			continue
		}
		most := v.MaxParallelism.Int()
		if most < n {
			most = 0
		}
		t.Components = append(t.Components, dhalion.Component{Name: name, Parallelism: n, MaxParallelism: most})
		detail, ok := e.poll.vertices[vertexKey{r.id, v.ID}]
		if !ok {
			continue
		}
		placed := map[int]string{}
		for _, s := range detail.value.Subtasks {
			if i := s.Index.Int(); i >= 0 && i < n && (s.Status == flink.Running || s.Status == flink.Finished) {
				placed[i] = workerName(s.Worker())
			}
		}
		if len(placed) != n || len(detail.value.Subtasks) != n {
			return // this answer and that of /jobs/:id are of different moments
		}
		answered++
		for i := range n {
			if placed[i] != "" {
				t.Placement = append(t.Placement, dhalion.Placement{Component: name, Instance: i, Worker: placed[i]})
			}
		}
	}
	if len(t.Components) != len(r.graph.order) || answered != 0 && answered != len(t.Components) {
		return
	}
	old := j.topology
	if answered == 0 && j.placed && old.Run == t.Run && old.SameShape(t) {
		return // nothing was asked about places this time
	}
	t.Slots = slices.Clone(e.slots)
	t.Normalize()
	switch {
	case old == nil:
		t.By = dhalion.ChangeFirst
	case old.Run == t.Run && old.Digest() == t.Digest():
		j.byOperator, j.byEngine = false, false
		if slices.Equal(old.Slots, t.Slots) {
			return
		}
		t.By = dhalion.ChangeEngine
	case old.Run != t.Run || j.byOperator:
		t.By = dhalion.ChangeOperator
	case old.SameShape(t) || j.byEngine:
		t.By = dhalion.ChangeEngine
	default:
		t.By = dhalion.ChangeOperator
	}
	if t.Validate() != nil {
		e.result.Repairs[UnusableTopology]++
		return
	}
	j.topology, j.byOperator, j.byEngine = &t, false, false
	j.placed = j.placed || answered > 0
	e.result.Topologies = append(e.result.Topologies, JobTopology{j.id, t})
}
