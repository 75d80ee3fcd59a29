// Package flinktest is a Flink cluster for tests that is none: it gives the bodies
// of a real Flink 2.3.0 (testdata/answers.jsonl, recorded by dhalion record), grown
// to any number of jobs, subtasks and TaskManagers. Everything that it measures is
// a straight line from an attempt's start, so that every mean over every interval
// is known; and it measures when a real one does, into a cache. What it is told to
// change it changes, and it counts what was changed: see Effect.
package flinktest

import (
	"bufio"
	"bytes"
	"crypto/md5"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"io"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

//go:embed testdata/answers.jsonl
var recorded []byte

var ids = regexp.MustCompile(`[0-9a-f]{32}`)

// bodies are the recorded ones, by path: ids in it are written ID.
var bodies = sync.OnceValue(func() map[string]any {
	all := map[string]any{}
	lines := bufio.NewScanner(bytes.NewReader(recorded))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var a struct {
			Path string
			Body any
		}
		if err := json.Unmarshal(lines.Bytes(), &a); err != nil {
			panic(err) // of what is compiled in
		}
		plain, _, _ := strings.Cut(a.Path, "?")
		all[ids.ReplaceAllString(plain, "ID")] = a.Body
	}
	return all
})

// template is the recorded body of a kind of path, a fresh one each time.
func template(path string) any {
	body, ok := bodies()[path]
	if !ok {
		panic("flinktest: nothing recorded of " + path)
	}
	return deep(body)
}

type object = map[string]any

// recordedSource begins the names of the recorded source's own metrics.
const recordedSource = "Source__clicks."

// Vertex is one vertex of a job: a source when nothing flows into it.
type Vertex struct {
	Name        string
	Parallelism int
	From        []string // names of the vertices that flow into it
}

// Cluster answers the requests of a client, by its own clock. It is safe for use
// by several goroutines at once.
type Cluster struct {
	// Refresh is how old the cache of metrics gets before a request has it fetched
	// anew, and Fetch how long that takes. Zero is no cache. Set them before use.
	Refresh, Fetch time.Duration

	// A job that is told to change goes on as it was for Lag, and is RESTARTING for
	// Restart. A savepoint is there after Savepoint. Slots is how many a TaskManager
	// has; zero is 8. Set them before use.
	Lag, Restart, Savepoint time.Duration
	Slots                   int

	mu      sync.Mutex
	now     func() time.Time
	workers []string
	runs    []*run
	born    time.Time
	read    time.Time // when the metrics in the cache were read
	asked   time.Time // when they were asked for anew
	acted   state
}

type run struct {
	id, name, state string
	begun, running  time.Time
	vertices        []vertex
	exceptions      []object
	attempt         int
	arguments       []string  // of its program, where a jar was run
	leaves, returns time.Time // begin and end of a restart; zero: there is none
	over            time.Time // when it ends, or ended; zero: nothing ends it
}

type vertex struct {
	Vertex
	id           string
	lower, upper int      // bounds that were asked for; zero: none were
	on           []string // workers of its instances; nil: they are dealt out
	turn         int      // how often they were dealt out anew
}

// New makes a cluster with so many TaskManagers, tm-1 and so on, and no job. Its
// clock is in whole seconds where it is to be exact.
func New(now func() time.Time, workers int) *Cluster {
	c := &Cluster{now: now, born: now()}
	for i := range workers {
		c.workers = append(c.workers, fmt.Sprintf("tm-%d", i+1))
	}
	c.read = c.born
	return c
}

// ID is the id of what is called by these names.
func ID(names ...string) string {
	sum := md5.Sum([]byte(strings.Join(names, "\x00")))
	return hex.EncodeToString(sum[:])
}

// Start runs a job and returns the run's id. All its subtasks run at once.
func (c *Cluster) Start(name string, vertices ...Vertex) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := &run{id: ID(name, strconv.Itoa(len(c.runs))), name: name, state: "RUNNING", begun: c.now(), running: c.now()}
	for _, v := range vertices {
		r.vertices = append(r.vertices, vertex{Vertex: v, id: ID(name, v.Name)})
	}
	c.runs = append(c.runs, r)
	return r.id
}

func (c *Cluster) change(id string, f func(*run)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range c.runs {
		if r.id == id {
			f(r)
			return
		}
	}
	panic("flinktest: there is no run " + id)
}

// Fail ends the run's execution by a failure of a task, and starts the next.
func (c *Cluster) Fail(id, vertex string) {
	c.change(id, func(r *run) {
		entry := template("/jobs/ID/exceptions").(object)["exceptionHistory"].(object)["entries"].([]any)[0].(object)
		entry["timestamp"], entry["taskName"] = c.now().Add(-100*time.Millisecond).UnixMilli(), vertex+" (1/2)"
		r.exceptions = append([]object{entry}, r.exceptions[:min(9, len(r.exceptions))]...)
		r.running = c.now()
		r.attempt++
	})
}

// Rescale runs a vertex with another parallelism: all counters begin again.
func (c *Cluster) Rescale(id, vertex string, parallelism int) {
	c.change(id, func(r *run) {
		for i := range r.vertices {
			if r.vertices[i].Name == vertex {
				r.vertices[i].Parallelism, r.vertices[i].upper, r.vertices[i].on = parallelism, 0, nil
			}
		}
		r.running = c.now()
		r.attempt = 0
	})
}

// SetState puts a run into a state, such as RESTARTING or CANCELED.
func (c *Cluster) SetState(id, state string) { c.change(id, func(r *run) { r.state = state }) }

// Forget removes a run: every request about it is answered with 404.
func (c *Cluster) Forget(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.runs = slices.DeleteFunc(c.runs, func(r *run) bool { return r.id == id })
}

// ServeHTTP answers as Do does, or goes wrong as SetFault says.
func (c *Cluster) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var request []byte
	if r.Method != http.MethodGet {
		request, _ = io.ReadAll(io.LimitReader(r.Body, 1<<20)) // half a body is refused as no JSON
	}
	status, body, done := 0, []byte(nil), false
	do := func() {
		if !done {
			status, body = c.Do(r.Method, r.URL.RequestURI(), request)
			done = true
		}
	}
	if c.faulty(w, r, do) {
		return
	}
	do()
	w.Header().Set("Content-Type", "application/json; charset=UTF-8")
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

// Answer is what a GET of a path, with its query, is answered with now.
func (c *Cluster) Answer(path string) (status int, body []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	plain, query, _ := strings.Cut(path, "?")
	var get []string
	if values, err := url.ParseQuery(query); err == nil && values.Get("get") != "" {
		get = strings.Split(values.Get("get"), ",")
	}
	answer := c.answer(strings.Split(strings.Trim(plain, "/"), "/"), get)
	if answer == nil {
		return 404, []byte(`{"errors":["Not found."]}`)
	}
	body, err := json.Marshal(answer)
	if err != nil {
		panic(err)
	}
	return 200, body
}

func (c *Cluster) answer(parts, get []string) any {
	at := func(i int) string {
		if i < len(parts) {
			if plain, err := url.PathUnescape(parts[i]); err == nil {
				return plain
			}
		}
		return ""
	}
	switch strings.Join(parts, "/") {
	case "config":
		return template("/config")
	case "overview":
		return c.overview()
	case "jars":
		return c.jarList()
	case "jobmanager/config":
		return []object{{"key": "jobmanager.scheduler", "value": "adaptive"}, {"key": "metrics.fetcher.update-interval", "value": strconv.FormatInt(c.Refresh.Milliseconds(), 10)}}
	case "jobmanager/metrics":
		c.metricsRead()
		return []object{{"id": "Status.JVM.CPU.Load", "value": "0.01"}}
	case "jobs/overview":
		list := []object{}
		for _, r := range c.runs {
			list = append(list, c.summary(r))
		}
		return object{"jobs": list}
	case "taskmanagers":
		list := []object{}
		for _, id := range c.workers {
			one := template("/taskmanagers").(object)["taskmanagers"].([]any)[0].(object)
			one["id"] = id
			list = append(list, one)
		}
		return object{"taskmanagers": list}
	}
	switch {
	case at(0) == "taskmanagers" && at(2) == "metrics" && len(parts) == 3 && slices.Contains(c.workers, at(1)):
		return c.workerMetrics(at(1), get)
	case at(0) != "jobs":
		return nil
	}
	i := slices.IndexFunc(c.runs, func(r *run) bool { return r.id == at(1) })
	if i < 0 {
		return nil
	}
	r := c.runs[i]
	c.perform(r)
	switch strings.Join(parts[2:], "/") {
	case "":
		return c.job(r)
	case "checkpoints/config":
		return template("/jobs/ID/checkpoints/config")
	case "resource-requirements":
		return r.requirements()
	case "checkpoints":
		return c.checkpoints(r)
	case "exceptions":
		return object{"exceptionHistory": object{"entries": append([]object{}, r.exceptions...), "truncated": false}}
	}
	if at(2) == "savepoints" && len(parts) == 4 {
		return c.savepointStatus(r.id, at(3))
	}
	if at(2) != "vertices" {
		return nil
	}
	for _, v := range r.vertices {
		switch {
		case v.id != at(3):
		case len(parts) == 4:
			return c.vertex(r, v)
		case len(parts) == 5 && at(4) == "metrics":
			return c.metrics(r, v, get)
		case len(parts) == 6 && at(4) == "subtasks" && at(5) == "metrics" && get == nil:
			names := template("/jobs/ID/vertices/ID/subtasks/metrics").([]any)
			if len(v.From) > 0 {
				return names[:3]
			}
			for _, name := range names {
				one := name.(object)
				if rest, ok := strings.CutPrefix(one["id"].(string), recordedSource); ok {
					one["id"] = v.operator() + "." + rest
				}
			}
			return names
		}
	}
	return nil
}

// metricsRead is when the metrics that an answer is made of were read, to the
// millisecond.
func (c *Cluster) metricsRead() time.Time {
	now := c.now()
	if c.Refresh == 0 {
		return now
	}
	if !c.asked.IsZero() && !now.Before(c.asked.Add(c.Fetch)) {
		c.read = c.asked
	}
	if c.asked.IsZero() || now.Sub(c.asked) > c.Refresh {
		c.asked = now
	}
	return c.read
}

func (c *Cluster) summary(r *run) object {
	one := template("/jobs/overview").(object)["jobs"].([]any)[0].(object)
	state, n := c.state(r), 0
	for _, v := range r.vertices {
		n += v.Parallelism
	}
	tasks := one["tasks"].(object)
	tasks["total"], tasks["running"] = n, n
	if state != "RUNNING" {
		tasks["running"] = 0
	}
	maps.Copy(one, object{"jid": r.id, "name": r.name, "state": state, "start-time": r.begun.UnixMilli()})
	return one
}

func (c *Cluster) job(r *run) object {
	body := template("/jobs/ID").(object)
	sample, state := body["vertices"].([]any)[0], c.state(r)
	stamps := body["timestamps"].(object)
	stamps["RUNNING"], stamps["CREATED"], stamps["INITIALIZING"] = r.running.UnixMilli(), r.begun.UnixMilli(), r.begun.UnixMilli()
	vertices, nodes := []object{}, []object{}
	for _, v := range r.vertices {
		one := clone(sample)
		tasks := one["tasks"].(object)
		tasks["RUNNING"] = v.Parallelism
		if state != "RUNNING" {
			tasks["RUNNING"], tasks["CREATED"] = 0, v.Parallelism
		}
		if state == "FINISHED" {
			tasks["CREATED"], tasks["FINISHED"] = 0, v.Parallelism
		}
		maps.Copy(one, object{"id": v.id, "name": v.Name, "parallelism": v.Parallelism, "status": state})
		vertices = append(vertices, one)
		inputs := []object{}
		for i, from := range v.From {
			inputs = append(inputs, object{"id": ID(r.name, from), "num": i, "exchange": "pipelined_bounded", "ship_strategy": "HASH"})
		}
		nodes = append(nodes, object{"id": v.id, "parallelism": v.Parallelism, "description": v.Name + "<br/>", "inputs": inputs})
	}
	body["plan"].(object)["nodes"] = nodes
	maps.Copy(body, object{
		"jid": r.id, "name": r.name, "state": state, "vertices": vertices,
		"start-time": r.begun.UnixMilli(), "now": c.now().UnixMilli(),
	})
	return body
}

// Rates are how fast everything about a subtask goes, a second: whole numbers of
// records, and milliseconds of a second.
type Rates struct{ In, Out, Busy, Backpressured, Idle, Pending int }

// RatesOf are those of a subtask of a vertex of a run.
func RatesOf(run, vertex string, subtask int) Rates {
	h := fnv.New32a()
	fmt.Fprintf(h, "%s/%s/%d", run, vertex, subtask)
	n := int(h.Sum32() >> 1)
	r := Rates{In: 100 + n%97, Out: 200 + n%89, Busy: 100 + n%601, Backpressured: n % 199, Pending: n % 13}
	r.Idle = 1000 - r.Busy - r.Backpressured
	return r
}

// Queue is how many buffers wait for a subtask, at any time.
func Queue(run, vertex string, subtask int) int { return RatesOf(run, vertex, subtask).In % 7 }

// along is how far something has come that goes so fast a second.
func (c *Cluster) along(r *run, rate int) int64 {
	return int64(rate) * max(0, c.metricsRead().Sub(r.running).Milliseconds()) / 1000
}

// worker is the TaskManager of a subtask: they are dealt out in turn.
func (c *Cluster) worker(v vertex, i int) string {
	switch {
	case i < len(v.on):
		return v.on[i]
	case len(c.workers) == 0:
		return ""
	}
	return c.workers[(i+len(v.Name)+v.turn)%len(c.workers)]
}

func (c *Cluster) vertex(r *run, v vertex) object {
	body := template("/jobs/ID/vertices/ID").(object)
	sample, state := body["subtasks"].([]any)[0], c.state(r)
	subtasks := make([]object, v.Parallelism)
	for i := range subtasks {
		rates := RatesOf(r.id, v.id, i)
		one := clone(sample)
		m := one["metrics"].(object)
		in := c.along(r, rates.In)
		if len(v.From) == 0 {
			in = 0
		}
		maps.Copy(m, object{
			"read-records": in, "write-records": c.along(r, rates.Out), "accumulated-busy-time": float64(c.along(r, rates.Busy)),
			"accumulated-backpressured-time": c.along(r, rates.Backpressured), "accumulated-idle-time": c.along(r, rates.Idle),
		})
		maps.Copy(one, object{
			"subtask": i, "status": state, "attempt": r.attempt, "taskmanager-id": c.worker(v, i), "endpoint": "localhost:1",
			"start-time": r.running.UnixMilli(), "start_time": r.running.UnixMilli(),
		})
		if state != "RUNNING" {
			one["status"] = "CREATED"
		}
		subtasks[i] = one
	}
	maps.Copy(body, object{"id": v.id, "name": v.Name, "parallelism": v.Parallelism, "now": c.now().UnixMilli(), "subtasks": subtasks})
	return body
}

// pending is the name of a source's metric, as Flink writes names.
func (v vertex) pending() string { return v.operator() + ".pendingRecords" }

// taken is likewise that of what it has read.
func (v vertex) taken() string { return v.operator() + ".numRecordsOut" }

func (v vertex) operator() string {
	first, _, _ := strings.Cut(v.Name, " -> ")
	return strings.NewReplacer(" ", "_", ":", "_", ".", "_", ",", "_").Replace(first)
}

// chained says that a vertex is several operators: a source puts out PerLine records
// then for each that it reads.
func (v vertex) chained() bool { return strings.Contains(v.Name, " -> ") }

// PerLine is how many records a chained source puts out for each that it reads.
const PerLine = 10

func (c *Cluster) metrics(r *run, v vertex, get []string) any {
	out := []object{}
	for _, id := range get {
		number, name, _ := strings.Cut(id, ".")
		i, err := strconv.Atoi(number)
		if err != nil || i < 0 || i >= v.Parallelism {
			continue
		}
		value := ""
		switch {
		case name == "Shuffle.Netty.Input.Buffers.inputQueueLength" && len(v.From) > 0:
			value = strconv.Itoa(Queue(r.id, v.id, i))
		case name == "Shuffle.Netty.Output.Buffers.outPoolUsage":
			value = "0.25"
		case name == v.pending() && len(v.From) == 0:
			value = strconv.FormatInt(1000+c.along(r, RatesOf(r.id, v.id, i).Pending), 10)
		case name == v.taken() && len(v.From) == 0 && v.chained():
			value = strconv.FormatInt(c.along(r, RatesOf(r.id, v.id, i).Out)/PerLine, 10)
		default:
			continue
		}
		out = append(out, object{"id": id, "value": value})
	}
	c.metricsRead()
	slices.Reverse(out) // in no order, as Flink's
	return out
}

func (c *Cluster) workerMetrics(id string, get []string) any {
	n := slices.Index(c.workers, id)
	age := c.metricsRead().Sub(c.born).Milliseconds()
	values := map[string]string{
		"Status.JVM.CPU.Load": "0.125", "Status.JVM.CPU.Time": strconv.FormatInt(1e9+age*1e5, 10),
		"Status.JVM.Memory.Heap.Used": strconv.Itoa(100<<20 + n), "Status.JVM.Memory.Heap.Max": strconv.Itoa(256 << 20),
		"Status.JVM.GarbageCollector.All.Time": strconv.FormatInt(500+age*int64(2+n%5)/1000, 10), "Status.JVM.GarbageCollector.All.TimeMsPerSecond": "1.5",
	}
	out := []object{}
	for _, name := range get {
		if value, ok := values[name]; ok {
			out = append(out, object{"id": name, "value": value})
		}
	}
	return out
}

// clone is a deep copy of what came of JSON.
func clone(v any) object { return deep(v).(object) }

func deep(v any) any {
	switch v := v.(type) {
	case object:
		out := make(object, len(v))
		for k, e := range v {
			out[k] = deep(e)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			out[i] = deep(e)
		}
		return out
	}
	return v
}
