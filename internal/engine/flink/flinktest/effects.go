package flinktest

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The kinds of effects.
const (
	Rescaled     = "rescaled"      // the bounds of a job's parallelism were changed
	Stopped      = "stopped"       // a run was ended with a savepoint
	Submitted    = "submitted"     // a run was begun from a jar
	WorkerLost   = "worker lost"   // and its instances are placed elsewhere
	WorkerJoined = "worker joined" // and nothing moves to it
)

// Effect is one change of the cluster's state. A request that changes nothing has
// none.
type Effect struct {
	Kind          string
	Job           string // its name; empty: of the cluster
	Run           string
	Worker        string
	Before, After Shape
	Body          json.RawMessage // of the request
	At            time.Time
}

// Shape is how a run stands: what it was told to be, not what it has come to.
type Shape struct {
	Run         string // empty: there is none
	State       string
	Parallelism map[string]int // by vertex name; the upper bound
	Arguments   []string       // of the program
	On          map[string]int // instances by worker
}

// Request is a call that was to change something, and what it was answered with;
// 0: nothing.
type Request struct {
	Method, Path string
	Body         json.RawMessage
	Status       int
}

// Fault is what goes wrong with a request. The zero Fault is nothing.
type Fault struct {
	// Status is answered instead, with nothing done.
	Status int
	// Lost closes the connection after it was done, without an answer.
	Lost bool
	// Slow delays the answer, after it was done.
	Slow time.Duration
}

// Program is what a jar makes of its arguments: a job's name and vertices.
type Program func(arguments []string) (name string, vertices []Vertex)

// jar is an uploaded one.
type jar struct {
	id, name string
	uploaded time.Time
	program  Program
}

// savepoint is one that was asked for by a trigger's id.
type savepoint struct {
	run, trigger, place string
	ready               time.Time
	failure             string // class of the exception; empty: it will be there
}

// state is what the acting side of a cluster remembers.
type state struct {
	effects    []Effect
	requests   []Request
	fault      func(method, path string) Fault
	jars       []jar
	savepoints []*savepoint
}

// Effects are all changes so far, in order.
func (c *Cluster) Effects() []Effect {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.acted.effects)
}

// Requests are all calls so far that were to change something, in order.
func (c *Cluster) Requests() []Request {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.acted.requests)
}

// SetFault has f asked about every request from now on, of any method; nil ends
// that. f is called by several goroutines at once.
func (c *Cluster) SetFault(f func(method, path string) Fault) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.acted.fault = f
}

// Upload makes a jar known under a name, as it is uploaded, and returns its id.
func (c *Cluster) Upload(name string, program Program) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	h := ID("jar", name, strconv.Itoa(len(c.acted.jars)))
	id := fmt.Sprintf("%s-%s-%s-%s-%s_%s", h[:8], h[8:12], h[12:16], h[16:20], h[20:], name)
	c.acted.jars = append(c.acted.jars, jar{id, name, c.now(), program})
	return id
}

// StartJar runs a job from an uploaded jar, as somebody other than a test's
// subject would: it is no effect. It returns the run's id.
func (c *Cluster) StartJar(id string, arguments ...string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, j := range c.acted.jars {
		if j.id == id {
			name, vertices := j.program(arguments)
			r := c.submit(ID(name, strconv.Itoa(len(c.runs))), name, vertices, arguments)
			r.begun, r.running, r.returns = c.now(), c.now(), time.Time{}
			c.perform(r)
			return r.id
		}
	}
	panic("flinktest: there is no jar " + id)
}

// Live is how the one run of a job's name that has not ended stands, or the zero
// Shape.
func (c *Cluster) Live(job string) Shape {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range c.runs {
		if r.name == job && !c.ended(r) {
			return c.shape(r)
		}
	}
	return Shape{}
}

// Settled reports whether a job has one run that has not ended, and that runs with
// what it was told.
func (c *Cluster) Settled(job string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	alive, rest := 0, true
	for _, r := range c.runs {
		if r.name == job && !c.ended(r) {
			alive++
			rest = rest && c.state(r) == "RUNNING" && r.returns.IsZero() && r.over.IsZero()
		}
	}
	return alive == 1 && rest
}

// RunsOf are the ids of all runs of a name, in the order in which they began, and
// how many of them have not ended.
func (c *Cluster) RunsOf(job string) (ids []string, alive int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range c.runs {
		if r.name == job {
			ids = append(ids, r.id)
			if !c.ended(r) {
				alive++
			}
		}
	}
	return ids, alive
}

// Workers are the TaskManagers there are.
func (c *Cluster) Workers() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.workers)
}

// Lose takes a TaskManager away: the jobs that had instances on it restart, and
// these instances are placed on the others, where the fewest are. The other
// instances stay. It reports whether there was such a TaskManager.
func (c *Cluster) Lose(worker string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := slices.Index(c.workers, worker)
	if i < 0 {
		return false
	}
	before := c.placed()
	for _, r := range c.runs {
		c.perform(r)
		for v := range r.vertices {
			r.vertices[v].on = c.placement(r.vertices[v]) // before the list of workers changes
		}
	}
	c.workers = slices.Delete(slices.Clone(c.workers), i, i+1)
	for _, r := range c.runs {
		if c.ended(r) {
			continue
		}
		moved := false
		for v := range r.vertices {
			for k, on := range r.vertices[v].on {
				if on != worker || len(c.workers) == 0 {
					continue
				}
				load := c.placed()
				r.vertices[v].on[k] = slices.MinFunc(c.workers, func(a, b string) int { return load[a] - load[b] })
				moved = true
			}
		}
		if moved {
			c.interrupt(r)
		}
	}
	c.note(Effect{Kind: WorkerLost, Worker: worker, Before: Shape{On: before}, After: Shape{On: c.placed()}})
	return true
}

// Join adds a TaskManager. Nothing moves to it.
func (c *Cluster) Join(worker string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.placed()
	for _, r := range c.runs {
		for v := range r.vertices {
			r.vertices[v].on = c.placement(r.vertices[v])
		}
	}
	if !slices.Contains(c.workers, worker) {
		c.workers = append(slices.Clone(c.workers), worker)
		c.note(Effect{Kind: WorkerJoined, Worker: worker, Before: Shape{On: before}, After: Shape{On: c.placed()}})
	}
}

// placed are the instances by worker, of all runs that have not ended.
func (c *Cluster) placed() map[string]int {
	on := map[string]int{}
	for _, r := range c.runs {
		if !c.ended(r) {
			for worker, n := range c.shape(r).On {
				on[worker] += n
			}
		}
	}
	return on
}

func (c *Cluster) note(e Effect) {
	e.At = c.now()
	c.acted.effects = append(c.acted.effects, e)
}

// ended reports whether a run will not run again.
func (c *Cluster) ended(r *run) bool {
	c.stopIfDue(r)
	return terminal(r.state)
}

func terminal(state string) bool {
	return state == "FINISHED" || state == "CANCELED" || state == "FAILED"
}

// stopIfDue ends a run whose savepoint is there.
func (c *Cluster) stopIfDue(r *run) {
	if !r.over.IsZero() && !c.now().Before(r.over) && !terminal(r.state) {
		r.state, r.returns = "FINISHED", time.Time{}
	}
}

func (c *Cluster) shape(r *run) Shape {
	s := Shape{Run: r.id, State: r.state, Parallelism: map[string]int{}, Arguments: slices.Clone(r.arguments), On: map[string]int{}}
	for _, v := range r.vertices {
		s.Parallelism[v.Name] = v.Parallelism
		if v.upper > 0 {
			s.Parallelism[v.Name] = v.upper
		}
		for _, worker := range c.placement(v) {
			s.On[worker]++
		}
	}
	return s
}

// placement is the worker of each instance of a vertex.
func (c *Cluster) placement(v vertex) []string {
	on := make([]string, v.Parallelism)
	for i := range on {
		on[i] = c.worker(v, i)
	}
	return on
}

// interrupt has a run restart: for Lag it goes on as it was, then it is RESTARTING
// until Restart is over.
func (c *Cluster) interrupt(r *run) {
	r.leaves = c.now().Add(c.Lag)
	r.returns = r.leaves.Add(c.Restart)
	c.perform(r)
}

// perform brings a run to where it is by the clock: what was asked for holds from
// the end of its restart.
func (c *Cluster) perform(r *run) {
	c.stopIfDue(r)
	if r.returns.IsZero() || c.now().Before(r.returns) {
		return
	}
	r.running, r.returns, r.leaves, r.attempt = r.returns, time.Time{}, time.Time{}, 0
	free := c.slots() * len(c.workers)
	for _, other := range c.runs {
		if other != r && !c.ended(other) {
			free -= other.width()
		}
	}
	for i := range r.vertices {
		v := &r.vertices[i]
		if want := min(v.upper, free); v.upper > 0 && want != v.Parallelism {
			// With too few slots Flink runs with fewer instances and says nothing.
			v.Parallelism, v.on = want, nil
			v.turn++
		}
	}
}

// state is what Flink says a run's state is.
func (c *Cluster) state(r *run) string {
	c.perform(r)
	if r.state == "RUNNING" && !r.returns.IsZero() && !c.now().Before(r.leaves) {
		return "RESTARTING"
	}
	return r.state
}

// width is how many slots a run takes: they are shared, so the widest vertex
// counts.
func (r *run) width() (n int) {
	for _, v := range r.vertices {
		n = max(n, v.Parallelism)
	}
	return n
}

func (c *Cluster) slots() int {
	if c.Slots > 0 {
		return c.Slots
	}
	return 8
}

// overview is GET /overview.
func (c *Cluster) overview() object {
	body := template("/overview").(object)
	total := c.slots() * len(c.workers)
	free, jobs := total, map[string]int{}
	for _, r := range c.runs {
		state := c.state(r)
		jobs[state]++
		if !terminal(state) {
			free -= r.width()
		}
	}
	maps.Copy(body, object{
		"taskmanagers": len(c.workers), "slots-total": total, "slots-available": max(0, free),
		"jobs-running": jobs["RUNNING"] + jobs["RESTARTING"], "jobs-finished": jobs["FINISHED"], "jobs-cancelled": jobs["CANCELED"], "jobs-failed": jobs["FAILED"],
	})
	return body
}

// requirements is GET /jobs/:id/resource-requirements.
func (r *run) requirements() object {
	body := object{}
	for _, v := range r.vertices {
		low, high := max(1, v.lower), v.Parallelism
		if v.upper > 0 {
			high = v.upper
		}
		body[v.id] = object{"parallelism": object{"lowerBound": low, "upperBound": high}}
	}
	return body
}

// checkpoints is GET /jobs/:id/checkpoints.
func (c *Cluster) checkpoints(r *run) object {
	body := template("/jobs/ID/checkpoints").(object)
	until := c.now()
	if !r.over.IsZero() {
		until = r.over
	}
	done := int(until.Sub(r.begun) / (10 * time.Second))
	body["counts"].(object)["completed"] = done
	for _, s := range c.acted.savepoints {
		if s.run != r.id || s.failure != "" || c.now().Before(s.ready) {
			continue
		}
		latest := body["latest"].(object)
		one := clone(latest["completed"])
		maps.Copy(one, object{
			"id": done + 1, "is_savepoint": true, "savepointFormat": "CANONICAL", "checkpoint_type": "SYNC_SAVEPOINT",
			"trigger_timestamp": s.ready.UnixMilli(), "latest_ack_timestamp": s.ready.UnixMilli(), "external_path": s.place,
		})
		latest["savepoint"] = one
		body["counts"].(object)["completed"] = done + 1
	}
	return body
}

// jarList is GET /jars.
func (c *Cluster) jarList() object {
	files := []object{}
	for _, j := range slices.Backward(c.acted.jars) {
		files = append(files, object{"id": j.id, "name": j.name, "uploaded": j.uploaded.UnixMilli(), "entry": []object{}})
	}
	return object{"address": "http://127.0.0.1:8081", "files": files}
}

// savepointStatus is GET /jobs/:id/savepoints/:trigger.
func (c *Cluster) savepointStatus(run, trigger string) any {
	for _, s := range c.acted.savepoints {
		switch {
		case s.run != run || s.trigger != trigger:
		case c.now().Before(s.ready):
			return object{"status": object{"id": "IN_PROGRESS"}, "operation": nil}
		case s.failure != "":
			return object{"status": object{"id": "COMPLETED"}, "operation": object{"failure-cause": object{
				"class": s.failure, "stack-trace": s.failure + ": it was refused\n", "serialized-throwable": ""}}}
		default:
			return object{"status": object{"id": "COMPLETED"}, "operation": object{"location": s.place}}
		}
	}
	return nil
}

// ForgetTriggers is what a new JobManager knows of savepoints that were asked of
// the old one: nothing. The savepoints stay.
func (c *Cluster) ForgetTriggers() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.acted.savepoints {
		s.trigger = ""
	}
}

// refusal is an error's answer.
func refusal(status int, format string, args ...any) (int, any) {
	return status, object{"errors": []string{fmt.Sprintf(format, args...)}}
}

// Do is what a request is answered with now. A GET is as Answer's.
func (c *Cluster) Do(method, path string, request []byte) (status int, body []byte) {
	if method == http.MethodGet {
		return c.Answer(path)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	status, answer := c.act(method, path, request)
	c.acted.requests = append(c.acted.requests, Request{method, path, slices.Clone(request), status})
	body, err := json.Marshal(answer)
	if err != nil {
		panic(err)
	}
	return status, body
}

func (c *Cluster) act(method, path string, request []byte) (status int, answer any) {
	plain, _, _ := strings.Cut(path, "?")
	parts := strings.Split(strings.Trim(plain, "/"), "/")
	for i, p := range parts {
		if decoded, err := url.PathUnescape(p); err == nil {
			parts[i] = decoded
		}
	}
	switch {
	case method == http.MethodPost && len(parts) == 3 && parts[0] == "jars" && parts[2] == "run":
		return c.runJar(parts[1], request)
	case len(parts) != 3 || parts[0] != "jobs":
	case method == http.MethodPut && parts[2] == "resource-requirements":
		return c.require(parts[1], request)
	case method == http.MethodPost && parts[2] == "stop":
		return c.stop(parts[1], request)
	}
	return refusal(404, "Not found: %s", path)
}

func (c *Cluster) find(id string) *run {
	for _, r := range c.runs {
		if r.id == id {
			c.perform(r)
			return r
		}
	}
	return nil
}

// require is PUT /jobs/:id/resource-requirements: 200 and {}. The body names every
// vertex, and only those, with bounds that its maximum parallelism allows.
func (c *Cluster) require(id string, request []byte) (int, any) {
	var body map[string]struct {
		Parallelism *struct{ LowerBound, UpperBound int }
	}
	if err := json.Unmarshal(request, &body); err != nil {
		return refusal(400, "Bad request received. Request did not match expected format JobResourceRequirementsBody.")
	}
	r := c.find(id)
	if r == nil || c.ended(r) {
		return refusal(404, "org.apache.flink.runtime.rest.handler.RestHandlerException: Job could not be found.\nCaused by: org.apache.flink.runtime.messages.FlinkJobNotFoundException: Could not find Flink job (%s)\n", id)
	}
	var wrong []string
	known := map[string]bool{}
	for _, v := range r.vertices {
		known[v.id] = true
		b, ok := body[v.id]
		switch {
		case !ok || b.Parallelism == nil:
			wrong = append(wrong, fmt.Sprintf("The request is incomplete, missing job vertex [%s]", v.id))
		case b.Parallelism.LowerBound < 1 || b.Parallelism.UpperBound < b.Parallelism.LowerBound:
			wrong = append(wrong, fmt.Sprintf("The lower bound of job vertex [%s] is out of bounds", v.id))
		case b.Parallelism.UpperBound > maxParallelism:
			wrong = append(wrong, fmt.Sprintf("The newly requested parallelism %d for vertex [%s] exceeds its maximum parallelism %d.", b.Parallelism.UpperBound, v.id, maxParallelism))
		}
	}
	for vertex := range body {
		if !known[vertex] {
			wrong = append(wrong, fmt.Sprintf("The requirements contain a job vertex [%s] that is not part of the job", vertex))
		}
	}
	if len(wrong) > 0 {
		slices.Sort(wrong)
		return refusal(400, "org.apache.flink.runtime.rest.handler.RestHandlerException: %s", strings.Join(wrong, " "))
	}
	before, changed := c.shape(r), false
	for i := range r.vertices {
		v := &r.vertices[i]
		low, high := body[v.id].Parallelism.LowerBound, body[v.id].Parallelism.UpperBound
		was := r.requirements()[v.id].(object)["parallelism"].(object)
		if was["lowerBound"] != low || was["upperBound"] != high {
			changed = true
		}
		v.lower, v.upper = low, high
	}
	if !changed {
		return 200, object{}
	}
	c.interrupt(r)
	c.note(Effect{Kind: Rescaled, Job: r.name, Run: r.id, Before: before, After: c.shape(r), Body: slices.Clone(request)})
	return 200, object{}
}

// maxParallelism is that of every vertex in the recorded bodies.
const maxParallelism = 128

// stop is POST /jobs/:id/stop: 202 and the trigger's id. A trigger that is known
// is acknowledged again, and nothing else happens.
func (c *Cluster) stop(id string, request []byte) (int, any) {
	var body struct {
		Drain           bool
		TargetDirectory string
		TriggerID       string
	}
	if err := json.Unmarshal(request, &body); err != nil {
		return refusal(400, "Bad request received. Request did not match expected format StopWithSavepointRequestBody.")
	}
	if body.TriggerID == "" {
		body.TriggerID = ID("trigger", strconv.Itoa(len(c.acted.savepoints)))
	}
	told := object{"request-id": body.TriggerID}
	for _, s := range c.acted.savepoints {
		if s.run == id && s.trigger == body.TriggerID {
			return 202, told
		}
	}
	s := &savepoint{run: id, trigger: body.TriggerID, ready: c.now().Add(c.Savepoint)}
	r := c.find(id)
	switch {
	case r == nil || c.ended(r):
		// The trigger is taken, and only asking for it tells that it came to nothing.
		s.failure = "org.apache.flink.runtime.messages.FlinkJobNotFoundException"
	case c.state(r) != "RUNNING" || !r.over.IsZero():
		s.failure = "org.apache.flink.runtime.checkpoint.CheckpointException"
	default:
		before := c.shape(r)
		s.place = strings.TrimSuffix(body.TargetDirectory, "/")
		if s.place == "" {
			s.place = "file:/savepoints"
		}
		s.place += "/savepoint-" + id[:6] + "-" + ID(body.TriggerID)[:12]
		r.over = s.ready
		after := c.shape(r)
		after.State = "FINISHED"
		c.note(Effect{Kind: Stopped, Job: r.name, Run: r.id, Before: before, After: after, Body: slices.Clone(request)})
	}
	c.acted.savepoints = append(c.acted.savepoints, s)
	return 202, told
}

// runJar is POST /jars/:id/run: 200 and the run's id. The id of a run that is, or
// ever was, is refused. The parallelism is the program's: Flink 2.3 takes
// pipeline.jobvertex-parallelism-overrides of a body and leaves it aside.
func (c *Cluster) runJar(id string, request []byte) (int, any) {
	var body struct {
		ProgramArgsList []string
		SavepointPath   string
		JobID           string
	}
	if err := json.Unmarshal(request, &body); err != nil {
		return refusal(400, "Bad request received. Request did not match expected format JarRunRequestBody.")
	}
	i := slices.IndexFunc(c.acted.jars, func(j jar) bool { return j.id == id })
	if i < 0 {
		return refusal(400, "org.apache.flink.runtime.rest.handler.RestHandlerException: Jar file %s does not exist", path.Join("/upload", id))
	}
	if body.JobID == "" {
		body.JobID = ID("submitted", strconv.Itoa(len(c.runs)))
	}
	if c.find(body.JobID) != nil {
		return refusal(400, "org.apache.flink.runtime.rest.handler.RestHandlerException: Could not execute application.\n"+
			"Caused by: org.apache.flink.runtime.client.DuplicateJobSubmissionException: Job has already been submitted.\n")
	}
	name, vertices := c.acted.jars[i].program(body.ProgramArgsList)
	r := c.submit(body.JobID, name, vertices, body.ProgramArgsList)
	if body.SavepointPath != "" && !slices.ContainsFunc(c.acted.savepoints, func(s *savepoint) bool {
		return s.failure == "" && s.place == body.SavepointPath && !c.now().Before(s.ready)
	}) {
		// A run that finds nothing to begin from is there, and has failed.
		r.state, r.over, r.returns = "FAILED", c.now(), time.Time{}
	}
	c.note(Effect{Kind: Submitted, Job: name, Run: r.id, After: c.shape(r), Body: slices.Clone(request)})
	return 200, object{"jobid": r.id}
}

// submit adds a run that runs when Restart is over.
func (c *Cluster) submit(id, name string, vertices []Vertex, arguments []string) *run {
	now := c.now()
	r := &run{id: id, name: name, state: "RUNNING", begun: now, running: now, leaves: now, returns: now.Add(c.Restart), arguments: slices.Clone(arguments)}
	for _, v := range vertices {
		r.vertices = append(r.vertices, vertex{Vertex: v, id: ID(name, v.Name), upper: v.Parallelism, turn: len(c.runs)})
	}
	c.runs = append(c.runs, r)
	c.perform(r)
	return r
}

// faulty does what a fault says, and reports whether the request is answered with
// that.
func (c *Cluster) faulty(w http.ResponseWriter, r *http.Request, do func()) bool {
	c.mu.Lock()
	ask := c.acted.fault
	c.mu.Unlock()
	if ask == nil {
		return false
	}
	f := ask(r.Method, r.URL.RequestURI())
	switch {
	case f.Status != 0:
		w.Header().Set("Content-Type", "application/json; charset=UTF-8")
		w.WriteHeader(f.Status)
		_, _ = w.Write([]byte(`{"errors":["Internal server error."]}`))
		return true
	case f.Lost:
		do()
		panic(http.ErrAbortHandler) // closes the connection, as net/http has it
	case f.Slow > 0:
		do()
		timer := time.NewTimer(f.Slow)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-r.Context().Done():
		}
	}
	return false
}
