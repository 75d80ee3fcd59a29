package flink

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// Flink's REST interface reads metrics from a cache. A request that finds it
	// older than metrics.fetcher.update-interval (10 s unless set) has it fetched
	// anew, and is itself answered from the old one. So a primer goes ahead of each
	// poll, by so much; by less where the interval is shorter, else the poll's own
	// requests would have it fetched again, and some would be answered from the one
	// cache and some from the other.
	primeLead = 1200 * time.Millisecond
	leastLead = 200 * time.Millisecond
	primer    = "/jobmanager/metrics?get=Status.JVM.CPU.Load"

	// subtasksPerRequest is of how many subtasks one request asks the queue length:
	// 60 × len("1234.Shuffle.Netty.Input.Buffers.inputQueueLength,") is 3,000 bytes.
	subtasksPerRequest = 60

	// perJob is how many requests a poll has for a job besides those for vertices,
	// subtasks, sources and TaskManagers. The first job's include those for all:
	// the overview and the primer.
	perJob = 5

	// workerEvery is the least time between two requests to one TaskManager.
	workerEvery = 10 * time.Second

	// listEvery is the least time between two looks at the names of a source's
	// metrics: Kafka's has pendingRecords only from its first partition on.
	listEvery = time.Minute

	defaultPollTimeout = 30 * time.Second
	maxPollBytes       = 256 << 20 // of all answers of a poll
	maxParallelism     = 1 << 15   // Flink's own limit
)

// workerMetrics are asked of every TaskManager.
var workerMetrics = []string{
	"Status.JVM.CPU.Load", "Status.JVM.CPU.Time",
	"Status.JVM.Memory.Heap.Used", "Status.JVM.Memory.Heap.Max",
	"Status.JVM.GarbageCollector.All.Time", "Status.JVM.GarbageCollector.All.TimeMsPerSecond",
}

const (
	queueLength   = "Shuffle.Netty.Input.Buffers.inputQueueLength"
	queueSize     = "Shuffle.Netty.Input.Buffers.inputQueueSize"
	inPoolUsage   = "Shuffle.Netty.Input.Buffers.inPoolUsage"
	outPoolUsage  = "Shuffle.Netty.Output.Buffers.outPoolUsage"
	pendingSuffix = "pendingRecords"
	takenSuffix   = "numRecordsOut"
)

// turns are what is asked for now and then, and how often: in a poll those that
// are due longest. A job whose execution changed has its exceptions read at once.
var turns = []struct {
	kind  Kind
	path  string // behind /jobs/:id, or the whole one
	every time.Duration
}{
	{KindCheckpointConfig, "/checkpoints/config", 10 * time.Minute},
	{KindExceptions, "/exceptions", 15 * time.Second},
	{KindCheckpoints, "/checkpoints", 15 * time.Second},
	{KindTaskManagers, "/taskmanagers", time.Minute},
	{KindRequirements, "/resource-requirements", time.Minute},
}

// PollOptions say what a Poller asks for, and when.
type PollOptions struct {
	Job     string        // name or run id of the jobs to ask for; empty: all
	Every   time.Duration // between two polls; 0: 10 s
	Timeout time.Duration // of one poll: what is not answered by then is unknown; 0: 30 s

	// Now and Wait are the clock; nil is the machine's. Wait returns the cause when
	// ctx ends first.
	Now  func() time.Time
	Wait func(ctx context.Context, d time.Duration) error
}

// Poller asks a cluster at times of a steady grid for what measurements of its
// jobs need: a request per vertex, one per 60 subtasks, one per source, one per
// TaskManager every 10 s, and at most five others per job. It is not safe for use
// by several goroutines at once.
type Poller struct {
	client   *Client
	job      string
	every    time.Duration
	timeout  time.Duration
	now      func() time.Time
	wait     func(ctx context.Context, d time.Duration) error
	at       time.Time     // of the newest poll, by the grid
	interval time.Duration // metrics.fetcher.update-interval; 0: not known
	asked    bool          // for the interval
	primed   time.Time     // when a primer last had the cache fetched
	runs     map[string]*watched
	workers  map[string]time.Time // when a TaskManager was last asked, by the grid
	cluster  time.Time            // when /taskmanagers was last asked
	requests int                  // of the newest poll
}

// watched is what is remembered of a run.
type watched struct {
	turns   [8]time.Time // when asked, by the index of turns
	running Number       // timestamps.RUNNING
	sources map[string]*lagNames
}

// lagNames are the names of a source's metrics that tell its lag.
type lagNames struct {
	listed time.Time // when they were asked for
	names  []string
	// taken are those that count what the same operators have read. They are asked for
	// where something is chained to the source, with the lag or neither: else it puts out
	// what it reads.
	taken []string
}

// NewPoller polls with a client; the grid begins with the first poll.
func NewPoller(c *Client, o PollOptions) *Poller {
	p := &Poller{
		client: c, job: strings.TrimSpace(o.Job), every: o.Every, timeout: o.Timeout, now: o.Now, wait: o.Wait,
		runs: map[string]*watched{}, workers: map[string]time.Time{},
	}
	if p.every <= 0 {
		p.every = 10 * time.Second
	}
	if p.timeout <= 0 {
		p.timeout = defaultPollTimeout
	}
	if p.now == nil {
		p.now = time.Now
	}
	if p.wait == nil {
		p.wait = pause
	}
	return p
}

func pause(ctx context.Context, d time.Duration) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Every is the time between two polls.
func (p *Poller) Every() time.Duration { return p.every }

// UpdateInterval is how often Flink renews the metrics that it answers with, as
// its configuration says; 0 when that is not known, as before the first poll.
// Polls that come more often see some twice.
func (p *Poller) UpdateInterval() time.Duration { return p.interval }

// Requests is how many requests the newest poll made, the primer and what is not
// among its answers included.
func (p *Poller) Requests() int { return p.requests }

// NoJobError says that there is no job of the name, or run of the id, that was
// asked for.
type NoJobError struct {
	Job  string
	Jobs []string // that there are
}

// Error lists the jobs that there are.
func (e *NoJobError) Error() string {
	if len(e.Jobs) == 0 {
		return fmt.Sprintf("flink: there is no job %s: the cluster has none", e.Job)
	}
	return fmt.Sprintf("flink: there is no job %s; there is %s", e.Job, strings.Join(e.Jobs, ", "))
}

// Poll waits for the next time of the grid and asks. The answers come in one
// order whatever order they came in: the overview first, then job by job. A poll
// that takes longer than the time between two makes the next one late, by whole
// steps of the grid; there are never two at once.
//
// An error says why there is nothing of a job: the overview was not answered
// (the answers then are that one), or it is a *NoJobError. When ctx ends it is
// its cause, and there are no answers: half a poll is none.
func (p *Poller) Poll(ctx context.Context) ([]Answer, error) {
	p.requests = 0
	if err := p.begin(ctx); err != nil {
		return nil, err
	}
	inTime, stop := context.WithTimeoutCause(ctx, p.timeout, fmt.Errorf("the poll took longer than %s", p.timeout))
	defer stop()
	var allowance atomic.Int64
	allowance.Store(maxPollBytes)
	ask := func(paths []string) []Answer { return p.all(inTime, paths, &allowance) }

	answers := ask([]string{"/jobs/overview"})
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	overview := answers[0]
	if !overview.OK() {
		return answers, fmt.Errorf("flink: ask %s for its jobs: %s", p.client.Name(), overview.problem())
	}
	all, err := Decode[JobsOverview](overview.Body)
	if err == nil && all.Jobs == nil {
		err = errors.New("the answer has none and does not say so")
	}
	if err != nil {
		return answers, fmt.Errorf("flink: ask %s for its jobs: %w", p.client.Name(), err)
	}
	runs, err := p.choose(all)
	if err != nil {
		return answers, err
	}

	paths := make([]string, len(runs))
	for i, id := range runs {
		paths[i] = "/jobs/" + url.PathEscape(id)
	}
	details := ask(paths)
	var order []question
	others := min(2, (perJob*len(runs)-p.requests)/max(1, len(runs)))
	for i, a := range details {
		order = append(order, question{answer: &details[i]})
		d, err := Decode[Job](a.Body)
		if !a.OK() || err != nil || d.ID != "" && d.ID != runs[i] {
			continue // it went away; what is unknown stays so
		}
		order = append(order, p.questions(runs[i], d, others)...)
	}
	p.fill(ask, order)
	workers := p.dueWorkers(order)
	for i := range workers {
		order = append(order, question{path: workers[i]})
	}
	p.fill(ask, order)
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	p.learn(order)
	for _, q := range order {
		answers = append(answers, *q.answer)
	}
	return answers, nil
}

// problem says in a few words why an answer is none.
func (a Answer) problem() string {
	if a.Status == 0 {
		return a.Error
	}
	return "it answered " + strconv.Itoa(a.Status)
}

// lead is how long before a poll the primer goes.
func (p *Poller) lead() time.Duration {
	lead := min(primeLead, p.every/2)
	if p.interval > 0 {
		lead = min(lead, p.interval/2)
	}
	return lead
}

// Due is when the next poll will be, if it is called for now.
func (p *Poller) Due() time.Time {
	now := p.now()
	if p.at.IsZero() {
		return now.Add(p.lead())
	}
	at := p.at.Add(p.every)
	if late := now.Sub(at.Add(-p.lead())); late > 0 {
		at = at.Add((late + p.every - 1) / p.every * p.every)
	}
	return at
}

// begin waits for the next time of the grid, and primes the cache ahead of it.
func (p *Poller) begin(ctx context.Context) error {
	if !p.asked {
		p.requests++
		p.readInterval(p.client.Get(ctx, "/jobmanager/config"))
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	lead := p.lead()
	p.at = p.Due()
	prime := p.at.Add(-lead)
	if p.interval > 0 && !p.primed.IsZero() {
		// With polls as far apart as the cache gets old, a primer that is a
		// millisecond early would do nothing: it comes a little later each time.
		if fresh := p.primed.Add(p.interval + 10*time.Millisecond); prime.Before(fresh) && !fresh.After(p.at.Add(-leastLead)) {
			prime = fresh
		}
	}
	if err := p.wait(ctx, prime.Sub(p.now())); err != nil {
		return err
	}
	if at := p.now(); p.primed.IsZero() || at.Sub(p.primed) > p.interval {
		p.primed = at
	}
	// A server that does not answer the primer in time will not be waited for.
	inTime, stop := context.WithTimeoutCause(ctx, max(p.at.Sub(p.now()), time.Millisecond), errors.New("the primer took too long"))
	p.requests++
	p.client.Get(inTime, primer)
	stop()
	return p.wait(ctx, p.at.Sub(p.now()))
}

// readInterval finds how often Flink renews its metrics in its configuration,
// which lists what was set. The answer is kept nowhere: it may hold secrets.
func (p *Poller) readInterval(a Answer) {
	settings, err := Decode[[]struct {
		Key   string `json:"key"`
		Value string `json:"value"`
	}](a.Body)
	p.asked = a.Status != 0
	if !a.OK() || err != nil {
		return
	}
	p.interval = 10 * time.Second
	for _, s := range settings {
		if s.Key == "metrics.fetcher.update-interval" {
			p.interval = parseInterval(s.Value)
		}
	}
}

// parseInterval reads a time as Flink writes it: "1000", "1 s", "500ms". What it
// does not know is 0.
func parseInterval(text string) time.Duration {
	text = strings.ToLower(strings.Join(strings.Fields(text), ""))
	if n, err := strconv.Atoi(text); err == nil {
		text = strconv.Itoa(n) + "ms"
	}
	for long, short := range map[string]string{"sec": "s", "second": "s", "seconds": "s", "min": "m", "minute": "m", "minutes": "m"} {
		if number, ok := strings.CutSuffix(text, long); ok && strings.Trim(number, "0123456789") == "" {
			text = number + short
		}
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 || d > time.Hour {
		return 0
	}
	return d
}

// choose gives the ids, sorted, of the runs to ask for: those that can still run,
// and once more those that were asked for and have ended since.
func (p *Poller) choose(all JobsOverview) ([]string, error) {
	var names, ids []string
	known := p.job == ""
	seen := map[string]bool{}
	for _, s := range all.Jobs {
		if s.ID == "" || seen[s.ID] {
			continue
		}
		names = append(names, strings.TrimSpace(s.Name))
		if p.job != "" && s.ID != p.job && strings.TrimSpace(s.Name) != p.job {
			continue
		}
		known = true
		if Terminal(s.State) && p.runs[s.ID] == nil {
			continue
		}
		seen[s.ID] = true
		ids = append(ids, s.ID)
		if Terminal(s.State) {
			delete(p.runs, s.ID)
		} else if p.runs[s.ID] == nil {
			p.runs[s.ID] = &watched{sources: map[string]*lagNames{}}
		}
	}
	for id := range p.runs {
		if !seen[id] {
			delete(p.runs, id)
		}
	}
	slices.Sort(ids)
	if !known {
		slices.Sort(names)
		return nil, &NoJobError{Job: p.job, Jobs: slices.Compact(names)}
	}
	return ids, nil
}

// question is a path to be asked for, and its answer when it was.
type question struct {
	path   string
	answer *Answer
	run    string
	kind   Kind
	source string // vertex whose metrics' names are asked for
}

// questions are those about one run whose /jobs/:id was answered.
func (p *Poller) questions(run string, d Job, others int) []question {
	w := p.runs[run]
	if w == nil {
		return nil // it has ended
	}
	base := "/jobs/" + url.PathEscape(run)
	var out []question
	hasInput, hasOutput := map[string]bool{}, map[string]bool{}
	for _, n := range d.Plan.Nodes {
		for _, in := range n.Inputs {
			hasInput[n.ID], hasOutput[in.ID] = true, true
		}
	}
	graph := len(d.Plan.Nodes) > 0
	twice := map[string]bool{}
	for _, v := range d.Vertices {
		if v.ID == "" || twice[v.ID] {
			continue
		}
		twice[v.ID] = true
		vertex := base + "/vertices/" + url.PathEscape(v.ID)
		out = append(out, question{path: vertex, run: run, kind: KindVertex})
		n := v.Parallelism.Int()
		if n < 1 || n > maxParallelism {
			continue
		}
		allowed := (n + subtasksPerRequest - 1) / subtasksPerRequest
		var want, first []string
		switch {
		case graph && !hasInput[v.ID]:
			allowed++
			lag := w.sources[v.ID]
			if lag == nil {
				lag = &lagNames{}
				w.sources[v.ID] = lag
			}
			if len(lag.names) == 0 && (lag.listed.IsZero() || p.at.Sub(lag.listed) >= listEvery) {
				lag.listed = p.at
				out = append(out, question{path: vertex + "/subtasks/metrics", run: run, source: v.ID})
				allowed--
			} else {
				first = lag.names
				if Chained(v.Name) {
					// The lag alone would be taken for records put out, which are others.
					first = slices.Concat(lag.names, lag.taken)
				}
			}
		default:
			first = []string{queueLength}
			want = []string{queueSize, inPoolUsage}
		}
		if !graph || hasOutput[v.ID] {
			want = append([]string{outPoolUsage}, want...)
		}
		for _, path := range p.metricPaths(vertex+"/metrics?get=", n, allowed, first, want) {
			out = append(out, question{path: path, run: run, kind: KindVertexMetrics})
		}
	}
	for _, i := range p.due(w, d, others) {
		t := turns[i]
		path := base + t.path
		if t.kind == KindTaskManagers {
			path = t.path
			p.cluster = p.at
		}
		w.turns[i] = p.at
		out = append(out, question{path: path, run: run, kind: t.kind})
	}
	return out
}

// due is which of turns are asked for now, at most so many.
func (p *Poller) due(w *watched, d Job, most int) []int {
	type candidate struct {
		index int
		late  float64 // in its own times
	}
	running := d.Timestamps[Running]
	changed := w.running.Known() && running != w.running || d.State != Running
	w.running = running
	var all []candidate
	for i, t := range turns {
		last := w.turns[i]
		if t.kind == KindTaskManagers {
			last = p.cluster
		}
		late := float64(p.at.Sub(last)) / float64(t.every)
		if last.IsZero() {
			late = 1e6 - float64(i)
		}
		if t.kind == KindExceptions && changed {
			late = 1e9
		}
		if late >= 1 {
			all = append(all, candidate{i, late})
		}
	}
	slices.SortStableFunc(all, func(a, b candidate) int { return cmp.Compare(b.late, a.late) })
	var out []int
	for _, c := range all[:min(most, len(all))] {
		out = append(out, c.index)
	}
	slices.Sort(out)
	return out
}

// metricPaths are the requests for metrics of n subtasks: as few as those that
// must be asked for need, none of them when that is more than are allowed, and
// with as many of the others as the lines have room for.
func (p *Poller) metricPaths(base string, n, allowed int, must, others []string) []string {
	digits := len(strconv.Itoa(n - 1))
	fits := func(requests int, names []string) bool {
		size := len(base)
		for _, name := range names {
			size += (n + requests - 1) / requests * (digits + len(".,") + len(url.QueryEscape(name)))
		}
		return size <= p.client.room()
	}
	requests, names := 1, must
	for requests < allowed && !fits(requests, names) {
		requests++
	}
	if requests > allowed || !fits(requests, names) {
		requests, names = 1, nil
	}
	for _, name := range others {
		if more := append(slices.Clone(names), name); requests <= allowed && fits(requests, more) {
			names = more
		}
	}
	if len(names) == 0 {
		return nil
	}
	var out []string
	size := (n + requests - 1) / requests
	for from := 0; from < n; from += size {
		var ids []string
		for i := from; i < min(n, from+size); i++ {
			for _, name := range names {
				ids = append(ids, strconv.Itoa(i)+"."+url.QueryEscape(name))
			}
		}
		out = append(out, base+strings.Join(ids, ","))
	}
	return out
}

// fill asks what has no answer yet.
func (p *Poller) fill(ask func([]string) []Answer, order []question) {
	var paths []string
	for _, q := range order {
		if q.answer == nil {
			paths = append(paths, q.path)
		}
	}
	answers := ask(paths)
	for i := range order {
		if order[i].answer == nil {
			order[i].answer, answers = &answers[0], answers[1:]
		}
	}
}

// all asks for paths, as many at a time as may be in flight.
func (p *Poller) all(ctx context.Context, paths []string, allowance *atomic.Int64) []Answer {
	p.requests += len(paths)
	answers := make([]Answer, len(paths))
	var next atomic.Int64
	var group sync.WaitGroup
	for range min(len(paths), cap(p.client.slots)) {
		group.Go(func() {
			for i := int(next.Add(1)) - 1; i < len(paths); i = int(next.Add(1)) - 1 {
				answers[i] = p.client.ask(ctx, "GET", paths[i], nil, allowance)
			}
		})
	}
	group.Wait()
	return answers
}

// dueWorkers are the requests to TaskManagers that host one of the jobs and were
// not asked for 10 s. A time is that of the grid: what was put off by a few
// milliseconds is not put off by a whole poll.
func (p *Poller) dueWorkers(order []question) []string {
	hosts := map[string]bool{}
	for _, q := range order {
		if q.kind != KindVertex || !q.answer.OK() {
			continue
		}
		v, err := Decode[VertexDetail](q.answer.Body)
		if err != nil {
			continue
		}
		for _, s := range v.Subtasks {
			if s.TaskManager != "" && s.TaskManager != "(unassigned)" {
				hosts[s.TaskManager] = true
			}
		}
	}
	for id, last := range p.workers {
		if p.at.Sub(last) >= workerEvery {
			delete(p.workers, id)
		}
	}
	var out []string
	for id := range hosts {
		if _, lately := p.workers[id]; lately {
			continue
		}
		p.workers[id] = p.at
		out = append(out, "/taskmanagers/"+url.PathEscape(id)+"/metrics?get="+strings.Join(workerMetrics, ","))
	}
	slices.Sort(out)
	return out
}

// learn takes the names of a source's metrics that tell its lag.
func (p *Poller) learn(order []question) {
	for _, q := range order {
		w := p.runs[q.run]
		if q.source == "" || w == nil {
			continue
		}
		lag := w.sources[q.source]
		metrics, err := Decode[[]Metric](q.answer.Body)
		if !q.answer.OK() || err != nil {
			lag.listed = time.Time{} // the next poll asks again
			continue
		}
		for _, m := range metrics {
			if m.ID == pendingSuffix || strings.HasSuffix(m.ID, "."+pendingSuffix) {
				lag.names = append(lag.names, m.ID)
			}
		}
		slices.Sort(lag.names)
		lag.names = slices.Compact(lag.names)
		lag.taken = nil
		for _, name := range lag.names {
			taken := strings.TrimSuffix(name, pendingSuffix) + takenSuffix
			if slices.ContainsFunc(metrics, func(m Metric) bool { return m.ID == taken }) && taken != takenSuffix {
				lag.taken = append(lag.taken, taken)
			}
		}
	}
}
