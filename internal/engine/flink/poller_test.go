package flink

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dhalion-go/dhalion/internal/engine/flink/flinktest"
)

var noon = time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)

func countNew(n *atomic.Int32) func(net.Conn, http.ConnState) {
	return func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			n.Add(1)
		}
	}
}

// bench is a cluster behind HTTP with a clock that only waiting moves.
type bench struct {
	*flinktest.Cluster
	url string

	mu    sync.Mutex
	at    time.Time
	paths []string // asked for since they were last taken
	spoil func(w http.ResponseWriter, r *http.Request) bool
}

func newBench(t testing.TB, workers int) *bench {
	b := &bench{at: noon}
	b.Cluster = flinktest.New(b.now, workers)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		line := r.Method + " " + r.URL.RequestURI() + " HTTP/1.1"
		b.mu.Lock()
		b.paths = append(b.paths, r.URL.RequestURI())
		spoil := b.spoil
		b.mu.Unlock()
		if len(line) > MaxRequestLine {
			t.Errorf("a request line of %d bytes: %.100s…", len(line), line)
		}
		if spoil == nil || !spoil(w, r) {
			b.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(s.Close)
	b.url = s.URL
	return b
}

func (b *bench) now() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.at
}

func (b *bench) wait(ctx context.Context, d time.Duration) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.at = b.at.Add(max(0, d))
	return nil
}

// take gives the paths that were asked for, and forgets them.
func (b *bench) take() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	defer func() { b.paths = nil }()
	return b.paths
}

func (b *bench) poller(t testing.TB, job string, every time.Duration) *Poller {
	c := newClient(t, b.url, Options{Now: b.now, Timeout: 20 * time.Second})
	return NewPoller(c, PollOptions{Job: job, Every: every, Now: b.now, Wait: b.wait, Timeout: time.Minute})
}

// wide is a job of 500 subtasks.
var wide = []flinktest.Vertex{
	{Name: "Source: Käse, süß & \"clicks\"", Parallelism: 50},
	{Name: "Source: orders", Parallelism: 10},
	{Name: "parse", Parallelism: 110, From: []string{"Source: Käse, süß & \"clicks\"", "Source: orders"}},
	{Name: "join", Parallelism: 250, From: []string{"parse"}},
	{Name: "store: Writer", Parallelism: 80, From: []string{"join"}},
}

var small = []flinktest.Vertex{
	{Name: "Source: source", Parallelism: 2},
	{Name: "map", Parallelism: 4, From: []string{"Source: source"}},
	{Name: "sink: Writer", Parallelism: 3, From: []string{"map"}},
}

// chained has sources whose lag and counter take one request, two and three, and one for
// which they would take more than there are.
var chained = []flinktest.Vertex{
	{Name: "Source: a -> split", Parallelism: 8},
	{Name: "Source: orders -> split", Parallelism: 58},
	{Name: "Source: by night -> split", Parallelism: 120},
	{Name: "Source: " + strings.Repeat("o", 130) + " -> split", Parallelism: 64},
	{Name: "sink", Parallelism: 4, From: []string{"Source: a -> split", "Source: orders -> split", "Source: by night -> split"}},
}

// budget is what the polls of a job may ask for, without TaskManagers: one per
// vertex, one per 60 of its subtasks, one more per source, and five.
func budget(vertices []flinktest.Vertex) (n int) {
	for _, v := range vertices {
		n += 1 + (v.Parallelism+59)/60
		if len(v.From) == 0 {
			n++
		}
	}
	return n + 5
}

func TestAPollKeepsToItsBudget(t *testing.T) {
	for _, c := range []struct {
		name    string
		jobs    [][]flinktest.Vertex
		workers int
		every   time.Duration
		polls   int
	}{
		{"a small job", [][]flinktest.Vertex{small}, 5, 5 * time.Second, 30},
		{"500 subtasks", [][]flinktest.Vertex{wide}, 50, 5 * time.Second, 6},
		{"chained sources", [][]flinktest.Vertex{chained}, 20, 5 * time.Second, 6},
		{"seven jobs", [][]flinktest.Vertex{small, small, wide, small, small, small, small}, 20, 5 * time.Second, 6},
		{"polls at odd times", [][]flinktest.Vertex{small}, 5, 3 * time.Second, 30},
		{"seldom polls", [][]flinktest.Vertex{small}, 5, 30 * time.Second, 30},
		{"every second", [][]flinktest.Vertex{small}, 5, time.Second, 30},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, c.workers)
			allowed := 0
			for i, vertices := range c.jobs {
				b.Start(fmt.Sprint("job ", i), vertices...)
				allowed += budget(vertices)
			}
			p := b.poller(t, "", c.every)
			lately := map[string]time.Time{} // when a TaskManager was asked
			kinds := map[Kind]int{}
			var start time.Time
			for k := range c.polls {
				answers, err := p.Poll(context.Background())
				if err != nil {
					t.Fatal(err)
				}
				if k == 0 {
					start = b.now()
				}
				if want := start.Add(time.Duration(k) * c.every); !b.now().Equal(want) {
					t.Fatalf("poll %d is at %s, not %s", k, b.now(), want)
				}
				paths := b.take()
				if len(paths) != p.Requests() {
					t.Errorf("%d requests came, and it counted %d", len(paths), p.Requests())
				}
				others := len(paths)
				for _, path := range paths {
					r := (Answer{Path: path}).Resource()
					kinds[r.Kind]++
					if r.Kind != KindTaskManagerMetrics {
						continue
					}
					others--
					if last, ok := lately[r.TaskManager]; ok && b.now().Sub(last) < 10*time.Second {
						t.Errorf("poll %d: %s was asked %s ago", k, r.TaskManager, b.now().Sub(last))
					}
					lately[r.TaskManager] = b.now()
				}
				if others > allowed {
					t.Errorf("poll %d makes %d requests, and %d are allowed:\n%s", k, others, allowed, strings.Join(paths, "\n"))
				}
				if answers[0].Resource().Kind != KindJobs {
					t.Errorf("poll %d begins with %s", k, answers[0].Path)
				}
				for _, a := range answers {
					if !a.OK() {
						t.Errorf("%s: %d %s", a.Path, a.Status, a.Error)
					}
				}
			}
			if len(lately) != c.workers {
				t.Errorf("%d TaskManagers were asked, and there are %d", len(lately), c.workers)
			}
			for _, kind := range []Kind{KindVertexMetrics, KindCheckpointConfig, KindCheckpoints, KindExceptions, KindRequirements, KindTaskManagers} {
				if kinds[kind] == 0 {
					t.Errorf("nothing of kind %d was asked for in %d polls", kind, c.polls)
				}
			}
		})
	}
}

func TestEverySubtaskIsAskedForItsQueueAndEverySourceForItsLag(t *testing.T) {
	b := newBench(t, 50)
	run := b.Start("wide", wide...)
	p := b.poller(t, "wide", 5*time.Second)
	for range 2 { // the first learns the names
		answers, err := p.Poll(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		b.take()
		if p.Requests() > budget(wide)+50 {
			t.Errorf("%d requests", p.Requests())
		}
		got := map[string]string{}
		for _, a := range answers {
			if r := a.Resource(); r.Kind == KindVertexMetrics {
				metrics, err := Decode[[]Metric](a.Body)
				if err != nil {
					t.Fatal(err)
				}
				for _, m := range metrics {
					got[r.Vertex+" "+m.ID] = fmt.Sprint(m.Value.Float())
				}
			}
		}
		for _, v := range wide {
			id := flinktest.ID("wide", v.Name)
			for i := range v.Parallelism {
				if want := fmt.Sprint(flinktest.Queue(run, id, i)); len(v.From) > 0 && got[fmt.Sprintf("%s %d.%s", id, i, queueLength)] != want {
					t.Errorf("%s[%d] has no queue of %s", v.Name, i, want)
				}
			}
		}
		if p.runs[run].sources[flinktest.ID("wide", wide[0].Name)].names[0] != `Source__Käse__süß_&_"clicks".pendingRecords` {
			t.Errorf("the lag is called %q", p.runs[run].sources[flinktest.ID("wide", wide[0].Name)].names)
		}
		lag := 0
		for key := range got {
			if strings.HasSuffix(key, pendingSuffix) {
				lag++
			}
		}
		if lag != 0 && lag != 60 {
			t.Errorf("the lag of %d of 60 source subtasks", lag)
		}
		if lag == 0 && len(got) == 0 {
			t.Error("nothing was read")
		}
	}
}

func TestAnswersComeInOneOrderWhateverOrderTheyCameIn(t *testing.T) {
	var orders [][]string
	for range 5 {
		b := newBench(t, 5)
		b.Start("one", small...)
		b.Start("two", small...)
		p := b.poller(t, "", 5*time.Second)
		var paths []string
		for range 3 {
			answers, err := p.Poll(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			for _, a := range answers {
				paths = append(paths, a.Path)
			}
		}
		orders = append(orders, paths)
	}
	for _, o := range orders[1:] {
		if !slices.Equal(o, orders[0]) {
			t.Fatalf("%q\nand %q", o, orders[0])
		}
	}
}

// TestAPollReadsWhatThePrimerHadFetched: answers are made of a reading of the
// metrics as old as the primer is ahead, whether Flink's cache lives long or short.
func TestAPollReadsWhatThePrimerHadFetched(t *testing.T) {
	for _, c := range []struct {
		refresh, every, oldest time.Duration
		fresh                  int // of the 19 polls after the first, those with news
	}{
		{time.Second, 5 * time.Second, 500 * time.Millisecond, 19},
		{time.Second, time.Second, time.Second, 19},
		{10 * time.Second, 10 * time.Second, 1200 * time.Millisecond, 19}, // a primer on the tick would do nothing
		{10 * time.Second, 5 * time.Second, 6200 * time.Millisecond, 9},
		{3 * time.Second, 10 * time.Second, 1200 * time.Millisecond, 19},
	} {
		b := newBench(t, 2)
		b.Refresh, b.Fetch = c.refresh, 100*time.Millisecond
		run := b.Start("job", small...)
		vertex := flinktest.ID("job", "map")
		rate := float64(flinktest.RatesOf(run, vertex, 0).Busy) / 1e3
		p := b.poller(t, "", c.every)
		fresh, before := 0, 0.0
		for k := range 20 {
			answers, err := p.Poll(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			for _, a := range answers {
				if r := a.Resource(); r.Kind != KindVertex || r.Vertex != vertex {
					continue
				}
				v, err := Decode[VertexDetail](a.Body)
				if err != nil {
					t.Fatal(err)
				}
				busy := v.Subtasks[0].Metrics.Busy.Float()
				age := a.Time.Sub(noon) - time.Duration(busy/rate*1e6)
				if k > 0 && (age > c.oldest+5*time.Millisecond || age < -5*time.Millisecond) {
					t.Errorf("cache of %s, polls every %s: poll %d reads what is %s old", c.refresh, c.every, k, age)
				}
				if k > 0 && busy != before {
					fresh++
				}
				before = busy
			}
		}
		if p.UpdateInterval() != c.refresh || fresh != c.fresh {
			t.Errorf("cache of %s, polls every %s: %d polls had news, want %d", c.refresh, c.every, fresh, c.fresh)
		}
	}
}

func TestASlowServerMakesPollsLateByWholeSteps(t *testing.T) {
	b := newBench(t, 2)
	b.Start("job", small...)
	p := b.poller(t, "", 5*time.Second)
	var starts []time.Duration
	for range 4 {
		if len(starts) == 2 {
			b.spoil = func(_ http.ResponseWriter, r *http.Request) bool {
				if r.URL.Path == "/jobs/overview" {
					_ = b.wait(context.Background(), 12*time.Second) // this answer takes 12 s
				}
				return false
			}
		} else {
			b.spoil = nil
		}
		answers, err := p.Poll(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		starts = append(starts, answers[0].Time.Sub(noon))
	}
	first := starts[0]
	want := []time.Duration{first, first + 5*time.Second, first + 22*time.Second, first + 25*time.Second}
	if !slices.Equal(starts, want) {
		t.Errorf("polls at %v, want %v", starts, want)
	}
}

func TestRunsComeAndGo(t *testing.T) {
	b := newBench(t, 3)
	old := b.Start("orders", small...)
	other := b.Start("other", small...)
	p := b.poller(t, " orders ", 5*time.Second)
	asked := func() (ids []string) {
		t.Helper()
		answers, err := p.Poll(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range answers {
			if r := a.Resource(); r.Kind == KindJob {
				ids = append(ids, r.Job)
			}
			if r := a.Resource(); r.Job == other {
				t.Errorf("%s was asked for", a.Path)
			}
		}
		return ids
	}
	want := func(what string, ids ...string) {
		t.Helper()
		slices.Sort(ids)
		if got := asked(); !slices.Equal(got, ids) {
			t.Errorf("%s: asked for %q, want %q", what, got, ids)
		}
	}
	want("it runs", old)
	b.SetState(old, "RESTARTING")
	want("it restarts", old)
	b.SetState(old, "CANCELED")
	want("once more when it has ended", old)
	want("then no more")
	run := b.Start("orders", small...)
	want("a new run", run)
	twin := b.Start("orders", small...)
	want("another of the same name", run, twin)
	b.Forget(run)
	want("one vanished", twin)

	// One that vanishes in the middle of a poll is a 404, and no more is asked.
	b.spoil = func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasPrefix(r.URL.Path, "/jobs/"+twin) {
			http.NotFound(w, r)
			return true
		}
		return false
	}
	b.take()
	answers, err := p.Poll(context.Background())
	if err != nil || len(answers) != 2 || answers[1].Status != 404 || len(b.take()) != 3 {
		t.Errorf("%v, %v", answers, err)
	}
	b.spoil = nil
	b.Forget(twin)
	_, err = p.Poll(context.Background())
	if err != nil {
		t.Errorf("an ended run is one of that name still: %v", err)
	}
	b.Forget(old)
	var none *NoJobError
	if _, err = p.Poll(context.Background()); !errors.As(err, &none) || !slices.Equal(none.Jobs, []string{"other"}) {
		t.Errorf("%v", err)
	}
	if ids, err := b.poller(t, other, time.Second).Poll(context.Background()); err != nil || ids[1].Resource().Job != other {
		t.Errorf("by its id: %v, %v", ids, err)
	}
}

func TestAPollWithoutAnOverviewIsAnErrorAndTheNextIsNot(t *testing.T) {
	b := newBench(t, 2)
	b.Start("job", small...)
	p := b.poller(t, "", 5*time.Second)
	for _, body := range []string{"", "<html>", "{}", `{"jobs":5}`, "null", "[]"} {
		b.spoil = func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path != "/jobs/overview" {
				return false
			}
			fmt.Fprint(w, body)
			return true
		}
		answers, err := p.Poll(context.Background())
		if err == nil || len(answers) != 1 {
			t.Errorf("%q: %d answers, %v", body, len(answers), err)
		}
		b.spoil = nil
		if answers, err := p.Poll(context.Background()); err != nil || len(answers) < 6 {
			t.Errorf("%d answers, %v", len(answers), err)
		}
	}
	ctx, stop := context.WithCancelCause(context.Background())
	enough := errors.New("enough")
	b.spoil = func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/vertices/") {
			stop(enough)
		}
		return false
	}
	if answers, err := p.Poll(ctx); !errors.Is(err, enough) || answers != nil {
		t.Errorf("an interrupted poll gives %d answers, %v", len(answers), err)
	}
}

func TestTheAnswersOfAPollAreBoundedTogether(t *testing.T) {
	b := newBench(t, 2)
	b.Start("job", small...)
	c := newClient(t, b.url, Options{})
	var allowance atomic.Int64
	allowance.Store(6000)
	p := NewPoller(c, PollOptions{})
	small, large := 0, 0
	for _, a := range p.all(context.Background(), slices.Repeat([]string{"/jobs/overview"}, 20), &allowance) {
		switch {
		case a.OK():
			small++
		case strings.Contains(a.Error, errBroke.Error()):
			large++
		}
	}
	if small == 0 || large == 0 || small+large != 20 {
		t.Errorf("%d answers fit, %d do not", small, large)
	}
}

func TestIntervalsAreReadAsFlinkWritesThem(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"1000": time.Second, "1 s": time.Second, "10s": 10 * time.Second, "500ms": 500 * time.Millisecond, "2 min": 2 * time.Minute,
		"3 seconds": 3 * time.Second, "0": 0, "": 0, "x": 0, "-5": 0, "99999999999999": 0, "1 d": 0, "1500 ms": 1500 * time.Millisecond,
	} {
		if got := parseInterval(text); got != want {
			t.Errorf("%q is %s, want %s", text, got, want)
		}
	}
}

// BenchmarkPollOf500Subtasks polls a job of 500 subtasks on 50 TaskManagers over
// HTTP on the loopback interface.
func BenchmarkPollOf500Subtasks(b *testing.B) {
	bench := newBench(b, 50)
	bench.Start("wide", wide...)
	p := bench.poller(b, "", 10*time.Second)
	size := 0
	for b.Loop() {
		answers, err := p.Poll(context.Background())
		if err != nil {
			b.Fatal(err)
		}
		size = 0
		for _, a := range answers {
			size += len(a.Body)
		}
		if got, most := p.Requests(), budget(wide)+50; got > most {
			b.Fatalf("%d requests, and %d are allowed", got, most)
		}
	}
	b.ReportMetric(float64(p.Requests()), "requests/poll")
	b.ReportMetric(float64(size), "bytes/poll")
}
