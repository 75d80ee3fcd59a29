package flinktest

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// clock is one that a test turns.
type clock struct{ ms atomic.Int64 }

func (c *clock) now() time.Time       { return time.UnixMilli(1_790_000_000_000 + c.ms.Load()).UTC() }
func (c *clock) pass(d time.Duration) { c.ms.Add(d.Milliseconds()) }

var words = []Vertex{
	{Name: "Source: lines", Parallelism: 2},
	{Name: "count", Parallelism: 3, From: []string{"Source: lines"}},
}

func program(arguments []string) (string, []Vertex) { return "words", words }

// told is a client that wants a status.
func told(t *testing.T, c *Cluster, method, path, body string, want int) map[string]any {
	t.Helper()
	status, answer := c.Do(method, path, []byte(body))
	if status != want {
		t.Fatalf("%s %s: %d %s, want %d", method, path, status, answer, want)
	}
	var v map[string]any
	if err := json.Unmarshal(answer, &v); err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	return v
}

func kinds(c *Cluster) (all []string) {
	for _, e := range c.Effects() {
		all = append(all, e.Kind)
	}
	return all
}

func wantKinds(t *testing.T, c *Cluster, want ...string) {
	t.Helper()
	if got := kinds(c); !slices.Equal(got, want) {
		t.Fatalf("effects %v, want %v", got, want)
	}
}

// need is a body of requirements.
func need(bounds map[string]int) string {
	all := map[string]any{}
	for name, n := range bounds {
		all[ID("words", name)] = map[string]any{"parallelism": map[string]int{"lowerBound": 1, "upperBound": n}}
	}
	text, err := json.Marshal(all)
	if err != nil {
		panic(err)
	}
	return string(text)
}

func TestARescaleIsOneEffectAndTheSameAgainIsNone(t *testing.T) {
	var k clock
	c := New(k.now, 3)
	c.Lag, c.Restart = time.Second, 2*time.Second
	run := c.Start("words", words...)
	path := "/jobs/" + run + "/resource-requirements"
	want := need(map[string]int{"Source: lines": 2, "count": 5})
	for range 3 {
		if answer := told(t, c, "PUT", path, want, 200); len(answer) != 0 {
			t.Fatalf("%v: Flink answers {}", answer)
		}
	}
	wantKinds(t, c, Rescaled)
	if n := len(c.Requests()); n != 3 {
		t.Fatalf("%d requests", n)
	}
	e := c.Effects()[0]
	if e.Job != "words" || e.Run != run || e.Before.Parallelism["count"] != 3 || e.After.Parallelism["count"] != 5 || string(e.Body) != want || !e.At.Equal(k.now()) {
		t.Fatalf("%+v", e)
	}
	// 0–1 s as it was, 1–3 s restarting, then with five.
	for _, at := range []struct {
		pass      time.Duration
		state     string
		instances float64
	}{{0, "RUNNING", 3}, {time.Second, "RESTARTING", 3}, {2 * time.Second, "RUNNING", 5}} {
		k.pass(at.pass)
		job := told(t, c, "GET", "/jobs/"+run, "", 200)
		count := job["vertices"].([]any)[1].(map[string]any)
		if job["state"] != at.state || count["parallelism"] != at.instances {
			t.Fatalf("it is %v with %v instances, want %v with %v", job["state"], count["parallelism"], at.state, at.instances)
		}
	}
	if got := told(t, c, "GET", path, "", 200)[ID("words", "count")]; fmt.Sprint(got) != "map[parallelism:map[lowerBound:1 upperBound:5]]" {
		t.Fatalf("requirements %v", got)
	}
	subtasks := told(t, c, "GET", "/jobs/"+run+"/vertices/"+ID("words", "count"), "", 200)["subtasks"].([]any)
	if len(subtasks) != 5 {
		t.Fatalf("%d subtasks", len(subtasks))
	}
}

func TestARescaleThatFlinkWouldNotTakeIsRefusedAndHasNoEffect(t *testing.T) {
	var k clock
	c := New(k.now, 1)
	run := c.Start("words", words...)
	path := "/jobs/" + run + "/resource-requirements"
	for what, body := range map[string]string{
		"no JSON":            `{`,
		"a vertex too few":   need(map[string]int{"count": 4}),
		"a vertex too many":  need(map[string]int{"Source: lines": 2, "count": 4, "other": 1}),
		"none":               need(map[string]int{"Source: lines": 2, "count": 0}),
		"more than 128":      need(map[string]int{"Source: lines": 2, "count": 129}),
		"bounds crosswise":   strings.Replace(need(map[string]int{"Source: lines": 2, "count": 4}), `"lowerBound":1`, `"lowerBound":9`, 1),
		"a parallelism less": fmt.Sprintf(`{"%s":{},"%s":{}}`, ID("words", "count"), ID("words", "Source: lines")),
	} {
		answer := told(t, c, "PUT", path, body, 400)
		if errors, _ := answer["errors"].([]any); len(errors) == 0 {
			t.Errorf("%s: %v: no errors are named", what, answer)
		}
	}
	told(t, c, "PUT", "/jobs/"+ID("none")+"/resource-requirements", need(map[string]int{"count": 4}), 404)
	told(t, c, "PATCH", "/jobs/"+run, "", 404)
	wantKinds(t, c)
}

func TestAJobThatAsksForMoreSlotsThanThereAreRunsWithFewer(t *testing.T) {
	var k clock
	c := New(k.now, 2)
	c.Slots = 3
	run := c.Start("words", words...)
	c.Start("other", Vertex{Name: "Source: other", Parallelism: 2})
	free := func() any { return told(t, c, "GET", "/overview", "", 200)["slots-available"] }
	if free() != 1.0 { // 6 − 3 − 2
		t.Fatalf("%v slots are free", free())
	}
	told(t, c, "PUT", "/jobs/"+run+"/resource-requirements", need(map[string]int{"Source: lines": 2, "count": 9}), 200)
	if got := told(t, c, "GET", "/jobs/"+run, "", 200)["vertices"].([]any)[1].(map[string]any)["parallelism"]; got != 4.0 || free() != 0.0 {
		t.Fatalf("%v instances, and %v slots free", got, free())
	}
}

func TestAStopIsOneEffectHoweverOftenItsTriggerIsSent(t *testing.T) {
	var k clock
	c := New(k.now, 3)
	c.Savepoint = time.Second
	jar := c.Upload("words.jar", program)
	run := c.StartJar(jar, "--salt", "1")
	trigger := ID("a trigger")
	body := fmt.Sprintf(`{"drain":false,"targetDirectory":"file:///s","triggerId":"%s"}`, trigger)
	status := "/jobs/" + run + "/savepoints/" + trigger
	told(t, c, "GET", status, "", 404)
	for range 2 {
		if id := told(t, c, "POST", "/jobs/"+run+"/stop", body, 202)["request-id"]; id != trigger {
			t.Fatalf("trigger %v", id)
		}
	}
	if s := told(t, c, "GET", status, "", 200); fmt.Sprint(s) != "map[operation:<nil> status:map[id:IN_PROGRESS]]" {
		t.Fatalf("%v", s)
	}
	if s := told(t, c, "GET", "/jobs/"+run, "", 200)["state"]; s != "RUNNING" {
		t.Fatalf("before its savepoint is there it is %v", s)
	}
	k.pass(time.Second)
	s := told(t, c, "GET", status, "", 200)
	place, _ := s["operation"].(map[string]any)["location"].(string)
	if !strings.HasPrefix(place, "file:///s/savepoint-"+run[:6]+"-") || fmt.Sprint(s["status"]) != "map[id:COMPLETED]" {
		t.Fatalf("%v", s)
	}
	if s := told(t, c, "GET", "/jobs/"+run, "", 200)["state"]; s != "FINISHED" {
		t.Fatalf("it is %v", s)
	}
	// Another trigger comes too late, and says so only when it is asked for.
	late := ID("late")
	told(t, c, "POST", "/jobs/"+run+"/stop", fmt.Sprintf(`{"triggerId":"%s"}`, late), 202)
	k.pass(time.Second)
	failed := told(t, c, "GET", "/jobs/"+run+"/savepoints/"+late, "", 200)["operation"].(map[string]any)["failure-cause"]
	if failed == nil {
		t.Fatal("a stop of what has ended succeeded")
	}
	wantKinds(t, c, Stopped)
	latest := told(t, c, "GET", "/jobs/"+run+"/checkpoints", "", 200)["latest"].(map[string]any)["savepoint"].(map[string]any)
	if latest["external_path"] != place || latest["is_savepoint"] != true {
		t.Fatalf("%v", latest)
	}
	c.ForgetTriggers()
	told(t, c, "GET", status, "", 404)
	if told(t, c, "GET", "/jobs/"+run+"/checkpoints", "", 200)["latest"].(map[string]any)["savepoint"] == nil {
		t.Error("the savepoint went with its trigger")
	}
}

func TestAJarIsRunOnceUnderAnId(t *testing.T) {
	var k clock
	c := New(k.now, 3)
	c.Restart = time.Second
	c.Upload("words.jar", program)
	files := told(t, c, "GET", "/jars", "", 200)["files"].([]any)
	jar := files[0].(map[string]any)["id"].(string)
	if !strings.HasSuffix(jar, "_words.jar") {
		t.Fatalf("%v", files)
	}
	next := ID("next")
	body := fmt.Sprintf(`{"programArgsList":["--salt","4"],"jobId":"%s","flinkConfiguration":{"pipeline.jobvertex-parallelism-overrides":"%s:6"}}`, next, ID("words", "count"))
	if id := told(t, c, "POST", "/jars/"+jar+"/run", body, 200)["jobid"]; id != next {
		t.Fatalf("run %v", id)
	}
	again := told(t, c, "POST", "/jars/"+jar+"/run", body, 400)
	if text := fmt.Sprint(again["errors"]); !strings.Contains(text, "DuplicateJobSubmissionException: Job has already been submitted.") {
		t.Fatalf("%s", text)
	}
	told(t, c, "POST", "/jars/none.jar/run", body, 400)
	wantKinds(t, c, Submitted)
	live := c.Live("words")
	if live.Run != next || !slices.Equal(live.Arguments, []string{"--salt", "4"}) || !maps.Equal(live.Parallelism, map[string]int{"Source: lines": 2, "count": 3}) {
		t.Fatalf("%+v", live)
	}
	// From a savepoint that is not there it fails, and its id is used up all the same.
	other := ID("other")
	body = fmt.Sprintf(`{"jobId":"%s","savepointPath":"file:///nowhere"}`, other)
	told(t, c, "POST", "/jars/"+jar+"/run", body, 200)
	if s := told(t, c, "GET", "/jobs/"+other, "", 200)["state"]; s != "FAILED" {
		t.Fatalf("it is %v", s)
	}
	told(t, c, "POST", "/jars/"+jar+"/run", body, 400)
	if ids, alive := c.RunsOf("words"); len(ids) != 2 || alive != 1 {
		t.Fatalf("%v, %d alive", ids, alive)
	}
}

func TestALostWorkersInstancesAreElsewhereAndTheOthersStay(t *testing.T) {
	var k clock
	c := New(k.now, 3)
	c.Restart = time.Second
	one, two := c.Start("words", words...), c.Start("other", Vertex{Name: "Source: other", Parallelism: 3})
	where := func(run, vertex string) (on []string) {
		for _, s := range told(t, c, "GET", "/jobs/"+run+"/vertices/"+vertex, "", 200)["subtasks"].([]any) {
			on = append(on, s.(map[string]any)["taskmanager-id"].(string))
		}
		return on
	}
	count, other := where(one, ID("words", "count")), where(two, ID("other", "Source: other"))
	if !c.Lose("tm-2") || c.Lose("tm-2") {
		t.Fatal("tm-2 was there, and is no more")
	}
	for _, run := range []string{one, two} {
		if s := told(t, c, "GET", "/jobs/"+run, "", 200)["state"]; s != "RESTARTING" {
			t.Fatalf("it is %v", s)
		}
	}
	k.pass(time.Second)
	for i, pair := range [][2][]string{{count, where(one, ID("words", "count"))}, {other, where(two, ID("other", "Source: other"))}} {
		for k := range pair[0] {
			if was, is := pair[0][k], pair[1][k]; is == "tm-2" || was != "tm-2" && is != was {
				t.Fatalf("job %d: instance %d was on %s and is on %s", i, k, was, is)
			}
		}
	}
	before := where(one, ID("words", "count"))
	c.Join("tm-2")
	if !slices.Equal(before, where(one, ID("words", "count"))) {
		t.Fatal("instances moved to a worker that joined")
	}
	wantKinds(t, c, WorkerLost, WorkerJoined)
	if e := c.Effects()[0]; e.Worker != "tm-2" || e.Before.On["tm-2"] == 0 || e.After.On["tm-2"] != 0 {
		t.Fatalf("%+v", e)
	}
}

func TestFaultsAreBeforeOrAfterTheEffect(t *testing.T) {
	var k clock
	c := New(k.now, 2)
	run := c.Start("words", words...)
	server := httptest.NewServer(c)
	defer server.Close()
	put := func(n int) (status int, err error) {
		r, err := http.NewRequest("PUT", server.URL+"/jobs/"+run+"/resource-requirements", strings.NewReader(need(map[string]int{"Source: lines": 2, "count": n})))
		if err != nil {
			t.Fatal(err)
		}
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			return 0, err
		}
		defer answer.Body.Close()
		_, err = io.Copy(io.Discard, answer.Body)
		return answer.StatusCode, err
	}
	c.SetFault(func(method, path string) Fault { return Fault{Status: 500} })
	if status, err := put(4); status != 500 || err != nil {
		t.Fatalf("%d, %v", status, err)
	}
	wantKinds(t, c)
	c.SetFault(func(method, path string) Fault { return Fault{Lost: method == "PUT"} })
	if status, err := put(4); err == nil {
		t.Fatalf("answered with %d", status)
	}
	wantKinds(t, c, Rescaled)
	c.SetFault(func(method, path string) Fault { return Fault{Slow: time.Millisecond} })
	if status, err := put(5); status != 200 || err != nil {
		t.Fatalf("%d, %v", status, err)
	}
	c.SetFault(nil)
	if status, err := put(5); status != 200 || err != nil {
		t.Fatalf("%d, %v", status, err)
	}
	wantKinds(t, c, Rescaled, Rescaled)
}

func TestOfManyThatActAtOnceEachChangeIsOneEffect(t *testing.T) {
	c := New(time.Now, 4)
	c.Restart = time.Millisecond
	jar := c.Upload("words.jar", program)
	run := c.StartJar(jar)
	var all sync.WaitGroup
	for i := range 32 {
		all.Go(func() {
			c.Do("PUT", "/jobs/"+run+"/resource-requirements", []byte(need(map[string]int{"Source: lines": 2, "count": 6})))
			c.Do("POST", "/jars/"+jar+"/run", fmt.Appendf(nil, `{"jobId":"%s"}`, ID(fmt.Sprint(i%4))))
			c.Answer("/jobs/overview")
			c.Lose("tm-3")
			c.Live("words")
			c.Effects()
		})
	}
	all.Wait()
	got := map[string]int{}
	for _, kind := range kinds(c) {
		got[kind]++
	}
	if want := map[string]int{Rescaled: 1, Submitted: 4, WorkerLost: 1}; !maps.Equal(got, want) {
		t.Fatalf("%v, want %v", got, want)
	}
}

// TestAnswersHaveTheKeysOfARealCluster compares every kind of answer that was
// recorded of a Flink 2.3.0 with what the double gives.
func TestAnswersHaveTheKeysOfARealCluster(t *testing.T) {
	var k clock
	c := New(k.now, 2)
	run := c.Start("words", words...)
	vertex := ID("words", "count")
	c.Fail(run, "count")
	for real, path := range map[string]string{
		"/overview": "/overview", "/config": "/config", "/jobs/overview": "/jobs/overview", "/taskmanagers": "/taskmanagers",
		"/jobs/ID": "/jobs/" + run, "/jobs/ID/vertices/ID": "/jobs/" + run + "/vertices/" + vertex,
		"/jobs/ID/checkpoints": "/jobs/" + run + "/checkpoints", "/jobs/ID/checkpoints/config": "/jobs/" + run + "/checkpoints/config",
		"/jobs/ID/resource-requirements": "/jobs/" + run + "/resource-requirements",
	} {
		status, body := c.Answer(path)
		var got any
		if err := json.Unmarshal(body, &got); err != nil || status != 200 {
			t.Fatalf("%s: %d, %v", path, status, err)
		}
		want := keys("", template(real), map[string]bool{})
		for key := range keys("", got, map[string]bool{}) {
			if !want[key] {
				t.Errorf("%s: a real one has no %s", path, key)
			}
			delete(want, key)
		}
		for _, key := range []string{"operator", "operator_strategy", "optimizer_properties"} {
			delete(want, ".plan.nodes[]."+key) // of batch jobs; nothing reads them
		}
		if len(want) > 0 {
			t.Errorf("%s: without %v", path, slices.Sorted(maps.Keys(want)))
		}
	}
}

// keys are the paths of all keys of a JSON value, ids in them as ID, those of all
// elements of an array as of one.
func keys(at string, v any, all map[string]bool) map[string]bool {
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			k = at + "." + ids.ReplaceAllString(k, "ID")
			all[k] = true
			keys(k, e, all)
		}
	case []any:
		for _, e := range v {
			keys(at+"[]", e, all)
		}
	}
	return all
}
