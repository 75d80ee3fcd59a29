package flink_test

import (
	"bytes"
	"context"
	"fmt"
	"hash/fnv"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"reflect"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dhalion-go/dhalion"
	ingest "github.com/dhalion-go/dhalion/ingest/flink"
	"github.com/dhalion-go/dhalion/internal/engine/flink"
	"github.com/dhalion-go/dhalion/internal/engine/flink/flinktest"
)

var noon = time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)

// clock is moved by waiting alone.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) wait(ctx context.Context, d time.Duration) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(max(0, d))
	return ctx.Err()
}

// vandal stands before a cluster and spoils answers, the same ones for the same
// seed, whatever order the requests come in.
type vandal struct {
	cluster http.Handler
	seed    uint64
	poll    atomic.Int64
	off     atomic.Bool
	gone    atomic.Value // id of a run that this poll finds no more once it has seen it
	spoiled [16]atomic.Int64
}

func (v *vandal) draw(what string) *rand.Rand {
	h := fnv.New64a()
	fmt.Fprintf(h, "%d %s", v.poll.Load(), what)
	return rand.New(rand.NewPCG(v.seed, h.Sum64()))
}

const (
	never = iota // an answer
	slow
	late // but in time
	cutOff
	halfClosed
	closed
	noJSON
	anotherShape
	anothersBody
	page
	notFound
	internalError
	endless
	vanished
	blackout
)

func (v *vandal) kind(path string) int {
	if v.off.Load() {
		return never
	}
	if v.draw("all").Float64() < .02 {
		return blackout
	}
	if gone, _ := v.gone.Load().(string); gone != "" && strings.HasPrefix(path, "/jobs/"+gone+"/") {
		return vanished
	}
	r := v.draw(path)
	if r.Float64() > .06 {
		return never
	}
	switch kind := 1 + r.IntN(endless); {
	case kind == slow && r.IntN(3) > 0, kind == endless && r.IntN(10) > 0:
		return notFound // these take their time
	case kind == anothersBody && strings.Contains(path, "metrics"):
		return notFound // a list of metrics does not say whose they are
	default:
		return kind
	}
}

func (v *vandal) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	kind := v.kind(r.URL.RequestURI())
	v.spoiled[kind].Add(1)
	answer := httptest.NewRecorder()
	v.cluster.ServeHTTP(answer, r)
	body := answer.Body.Bytes()
	random := v.draw(r.URL.RequestURI() + " body")
	hijack := func() net.Conn {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		return conn
	}
	switch kind {
	case slow:
		<-r.Context().Done()
	case late:
		time.Sleep(5 * time.Millisecond)
		_, _ = w.Write(body)
	case cutOff:
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		_, _ = w.Write(body[:random.IntN(len(body))])
	case halfClosed:
		conn := hijack()
		fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body[:random.IntN(len(body))])
		_ = conn.(*net.TCPConn).CloseWrite()
		_, _ = io.Copy(io.Discard, conn) // until the other side ends it
		_ = conn.Close()
	case closed, blackout:
		conn := hijack()
		_ = conn.(*net.TCPConn).SetLinger(0)
		_ = conn.Close()
	case noJSON:
		for i := range body {
			if random.IntN(20) == 0 {
				body[i] = byte(random.IntN(256))
			}
		}
		body[0] = '#'
		_, _ = w.Write(body)
	case anotherShape:
		_, _ = io.WriteString(w, []string{"{}", "[]", "null", `"?"`, "17", `[[[]]]`, `{"jobs":{},"jid":[],"id":{}}`, ""}[random.IntN(8)])
	case anothersBody:
		other := httptest.NewRecorder()
		v.cluster.ServeHTTP(other, httptest.NewRequest("GET", []string{"/jobs/overview", "/overview", "/taskmanagers"}[random.IntN(3)], nil))
		if r.URL.Path == "/jobs/overview" || r.URL.Path == "/taskmanagers" {
			_, _ = io.WriteString(w, "{}")
			return
		}
		_, _ = w.Write(other.Body.Bytes())
	case page:
		_, _ = io.WriteString(w, "<html><body>The portal is being renewed.</body></html>")
	case notFound, vanished:
		http.Error(w, `{"errors":["Job not found"]}`, http.StatusNotFound)
	case internalError:
		w.WriteHeader(http.StatusInternalServerError)
		_, _ = w.Write(bytes.Repeat([]byte("java.lang.NullPointerException\n\tat "), 1<<random.IntN(16)))
	case endless:
		block := bytes.Repeat([]byte(`{"jobs":[`), 1<<12)
		for {
			if _, err := w.Write(block); err != nil {
				return
			}
		}
	default:
		w.WriteHeader(answer.Code)
		_, _ = w.Write(body)
	}
}

var orders = []flinktest.Vertex{
	{Name: "Source: orders", Parallelism: 2},
	{Name: "enrich", Parallelism: 3, From: []string{"Source: orders"}},
	{Name: "store: Writer", Parallelism: 2, From: []string{"enrich"}},
}

// undamaged is everything that there is to ask at a time, answered.
func undamaged(c *flinktest.Cluster, at time.Time, runs map[string][]flinktest.Vertex) (answers []flink.Answer) {
	get := func(path string) {
		status, body := c.Answer(path)
		answers = append(answers, flink.Answer{Time: at, Method: "GET", Path: path, Status: status, Body: body})
	}
	get("/jobs/overview")
	for run, vertices := range runs {
		base := "/jobs/" + run
		get(base)
		for _, rest := range []string{"/checkpoints/config", "/checkpoints", "/exceptions"} {
			get(base + rest)
		}
		for _, v := range vertices {
			vertex := base + "/vertices/" + flinktest.ID(v.Name)
			get(vertex)
			var ids []string
			for i := range 8 {
				for _, name := range []string{"Shuffle.Netty.Input.Buffers.inputQueueLength", "Shuffle.Netty.Output.Buffers.outPoolUsage", "Source__orders.pendingRecords"} {
					ids = append(ids, fmt.Sprintf("%d.%s", i, name))
				}
			}
			get(vertex + "/metrics?get=" + strings.Join(ids, ","))
		}
	}
	for i := range 3 {
		get(fmt.Sprintf("/taskmanagers/tm-%d/metrics?get=Status.JVM.CPU.Load,Status.JVM.CPU.Time,Status.JVM.Memory.Heap.Used,Status.JVM.Memory.Heap.Max,Status.JVM.GarbageCollector.All.Time", i+1))
	}
	return answers
}

// TestASpoiledAnswerGivesNoFalseMeasurement polls a server that spoils six answers
// in a hundred. Everything that is measured must be what the unspoiled answers
// give; a count of restarts may come late but is never too high.
//
// DHALION_POLLS=10000 is the long form: DHALION_POLLS=10000 go test -timeout 60m
// -run Spoiled -v ./ingest/flink
func TestASpoiledAnswerGivesNoFalseMeasurement(t *testing.T) {
	polls := 130
	if text := os.Getenv("DHALION_POLLS"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			t.Fatal(err)
		}
		polls = n
	}
	const seed = 7
	goroutines := runtime.NumGoroutine()
	time0 := time.Now()
	c := &clock{at: noon}
	cluster := flinktest.New(c.now, 3)
	v := &vandal{cluster: cluster, seed: seed}
	var open atomic.Int64
	var most int64
	server := httptest.NewUnstartedServer(v)
	server.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		switch s {
		case http.StateNew:
			open.Add(1)
		case http.StateClosed, http.StateHijacked:
			open.Add(-1)
		}
	}
	server.Start()
	defer server.Close()
	client, err := flink.NewClient(server.URL, flink.Options{Now: c.now, Timeout: 150 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	poller := flink.NewPoller(client, flink.PollOptions{Every: 5 * time.Second, Now: c.now, Wait: c.wait})

	run := map[string]string{"orders": cluster.Start("orders", orders...), "two": cluster.Start("two", orders...)}
	// What orders is like; two stays as it is.
	shape := append([]flinktest.Vertex{}, orders...)
	random := rand.New(rand.NewPCG(seed, 1))
	live, again, clean := ingest.NewAssembler(ingest.Options{Engine: "flink"}), ingest.NewAssembler(ingest.Options{Engine: "flink"}), ingest.NewAssembler(ingest.Options{Engine: "flink"})
	topology := map[dhalion.JobID]dhalion.Topology{}
	truths, given, failed, down := 0, 0, 0, 0
	var heap uint64
	v.off.Store(true) // both begin with the same poll
	for k := range polls {
		v.poll.Store(int64(k))
		v.gone.Store("")
		// What happens to the cluster before this poll, and where it ends.
		switch {
		case down > 0:
			if down--; down == 0 {
				cluster.SetState(run["orders"], "RUNNING")
				cluster.Fail(run["orders"], "enrich")
			}
		case k%40 == 20 && random.IntN(2) == 0:
			cluster.Fail(run["orders"], "enrich")
		case k%40 == 20:
			cluster.SetState(run["orders"], "RESTARTING")
			down = 1 + random.IntN(3)
		case k%40 == 30:
			shape[1].Parallelism = 3 + (shape[1].Parallelism-2)%4
			cluster.Rescale(run["orders"], "enrich", shape[1].Parallelism)
		case k%120 == 100:
			old := run["orders"]
			cluster.SetState(old, "CANCELED")
			run["orders"] = cluster.Start("orders", shape...)
		case k%120 == 110:
			cluster.Forget(run["two"])
			run["two"] = cluster.Start("two", orders...)
		case k%17 == 3:
			v.gone.Store(run[[]string{"orders", "two"}[random.IntN(2)]])
		}
		answers, err := poller.Poll(context.Background())
		if err != nil {
			failed++
		}
		v.off.Store(false)
		got, err := live.Poll(answers)
		if err != nil {
			t.Fatal(err)
		}

		// The recording of these answers gives the same.
		var recording bytes.Buffer
		var read []flink.Answer
		for _, a := range answers {
			if err := flink.WriteAnswer(&recording, a); err != nil {
				t.Fatal(err)
			}
		}
		for in := flink.NewReader(&recording); ; {
			a, err := in.Next()
			if err == io.EOF {
				break
			} else if err != nil {
				t.Fatal(err)
			}
			read = append(read, a)
		}
		if recorded, err := again.Poll(read); err != nil || !reflect.DeepEqual(got, recorded) {
			t.Fatalf("poll %d: live and recorded differ, %v:\n%+v\n%+v", k, err, got, recorded)
		}

		want, err := clean.Poll(undamaged(cluster, c.now(), map[string][]flinktest.Vertex{run["orders"]: named("orders", shape), run["two"]: named("two", orders)}))
		if err != nil {
			t.Fatal(err)
		}
		type key struct {
			target dhalion.Target
			metric dhalion.Metric
		}
		truth := map[key]dhalion.Measurement{}
		for _, m := range want.Measurements {
			truth[key{m.Target, m.Metric}] = m
		}
		truths += len(truth)
		for _, m := range got.Measurements {
			given++
			w, ok := truth[key{m.Target, m.Metric}]
			switch {
			case m.Metric == dhalion.Restarts && m.Value <= w.Value:
			case !ok:
				t.Errorf("poll %d: %s of %s is %v, and nothing is to be known of it", k, m.Metric, m.Target, m.Value)
			case !w.Time.Equal(m.Time) || w.Worker != m.Worker || math.Abs(w.Value-m.Value) > 1e-9*math.Max(1, math.Abs(w.Value)):
				t.Errorf("poll %d: %s of %s is %+v, want %+v", k, m.Metric, m.Target, m, w)
			}
		}
		for _, j := range want.Topologies {
			topology[j.Job] = j.Topology
		}
		for _, j := range got.Topologies {
			truth := topology[j.Job]
			if len(j.Topology.Placement) == 0 {
				truth.Placement = nil
			}
			if j.Topology.Digest() != truth.Digest() {
				t.Errorf("poll %d: topology of %s is %+v, want %+v", k, j.Job, j.Topology, truth)
			}
		}
		if t.Failed() {
			t.Fatalf("after %d polls", k+1)
		}
		most = max(most, open.Load())
		if k == polls/4 {
			heap = held()
		}
	}
	grown := int64(held()) - int64(heap)
	var spoiled []string
	for kind := range v.spoiled {
		spoiled = append(spoiled, strconv.FormatInt(v.spoiled[kind].Load(), 10))
	}
	t.Logf("%d polls in %s, %d of them failed; requests by what became of them: %s; %d of %d measurements given; at most %d connections; memory grew by %d bytes from a quarter to the end",
		polls, time.Since(time0).Round(time.Millisecond), failed, strings.Join(spoiled, " "), given, truths, most, grown)
	if float64(given) < .4*float64(truths) || given >= truths {
		t.Errorf("%d of %d measurements are given", given, truths)
	}
	if grown > 4<<20 {
		t.Errorf("memory grew by %d bytes", grown)
	}
	// Those that the client has given up may be open for a moment longer.
	if most > 3*flink.DefaultInFlight {
		t.Errorf("%d connections at a time", most)
	}
	client.Close()
	server.Close()
	for deadline := time.Now().Add(10 * time.Second); open.Load() > 0 || runtime.NumGoroutine() > goroutines; runtime.Gosched() {
		if time.Now().After(deadline) {
			buf := make([]byte, 1<<20)
			t.Fatalf("%d connections and %d goroutines are left, %d were there:\n%s", open.Load(), runtime.NumGoroutine(), goroutines, buf[:runtime.Stack(buf, true)])
		}
	}
}

// named gives vertices the names under which their ids are made.
func named(job string, vertices []flinktest.Vertex) []flinktest.Vertex {
	out := append([]flinktest.Vertex{}, vertices...)
	for i := range out {
		out[i].Name = job + "\x00" + out[i].Name
	}
	return out
}

// held is what memory is in use after a collection.
func held() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
