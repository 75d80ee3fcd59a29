package main

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/internal/engine/flink"
)

// answersOf are the answers of a cluster, by path.
func answersOf(t *testing.T, name string) map[string]flink.Answer {
	t.Helper()
	f, err := os.Open("testdata/doctor/" + name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	unzipped, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	answers := map[string]flink.Answer{}
	for r := flink.NewReader(unzipped); ; {
		a, err := r.Next()
		if errors.Is(err, io.EOF) {
			return answers
		}
		if err != nil {
			t.Fatal(err)
		}
		answers[a.Path] = a
	}
}

// change replaces texts in the bodies of the answers to paths with a suffix; each
// must be there.
func change(t *testing.T, answers map[string]flink.Answer, suffix string, oldNew ...string) {
	t.Helper()
	found := false
	for path, a := range answers {
		if !strings.HasSuffix(path, suffix) {
			continue
		}
		body := string(a.Body)
		for i := 0; i < len(oldNew); i += 2 {
			changed := strings.ReplaceAll(body, oldNew[i], oldNew[i+1])
			found = found || changed != body
			body = changed
		}
		a.Body = json.RawMessage(body)
		answers[path] = a
	}
	if !found {
		t.Fatalf("no answer to …%s has %q", suffix, oldNew)
	}
}

func probe(answers map[string]flink.Answer, wait func(context.Context, time.Duration) error) prober {
	at := time.Date(2026, 11, 23, 7, 0, 0, 0, time.UTC)
	return prober{func(_ context.Context, path string) flink.Answer {
		if a, ok := answers[path]; ok {
			return a
		}
		return flink.Answer{Method: "GET", Path: path, Status: 404, Body: json.RawMessage(`{"errors":["Not found."]}`)}
	}, func() time.Time { at = at.Add(time.Millisecond); return at }, wait}
}

func look(t *testing.T, answers map[string]flink.Answer) (clusterAnswers, []capability, findings) {
	t.Helper()
	c, err := probe(answers, func(context.Context, time.Duration) error { return errors.New("no patience") }).cluster(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	jobs, f := assess("prod", c)
	return c, jobs, f
}

func (f findings) has(level, about, text string) bool {
	return slices.ContainsFunc(f, func(x finding) bool {
		return x.Level == level && x.About == about && strings.Contains(x.Message, text)
	})
}

func (f findings) text() string {
	var b strings.Builder
	for _, x := range f {
		b.WriteString(x.Level + "  " + x.About + "  " + x.Message + "\n")
	}
	return b.String()
}

func ints(components []componentCapability, of func(componentCapability) *int) []int {
	var all []int
	for _, c := range components {
		v := -1
		if p := of(c); p != nil {
			v = *p
		}
		all = append(all, v)
	}
	return all
}

// The recorded cluster has 40 slots; the job's widest component has 6 instances,
// so it takes 6 of them, and 34 are free: each component has room for 6 + 34.
func TestAJobOfTheAdaptiveSchedulerCanBeRescaledAndHasRoom(t *testing.T) {
	_, jobs, f := look(t, answersOf(t, "adaptive.jsonl.gz"))
	if len(jobs) != 1 {
		t.Fatalf("%d jobs", len(jobs))
	}
	j := jobs[0]
	if j.Job != "prod/orders" || j.Rescalable == nil || !*j.Rescalable || *j.Scheduler != "Adaptive" || *j.Slots != 40 || *j.Free != 34 || *j.Checkpoint != 10 {
		t.Errorf("the job is %+v", j)
	}
	if got := ints(j.Components, func(c componentCapability) *int { return c.Parallelism }); !slices.Equal(got, []int{2, 2, 4, 2, 6, 4, 3, 2}) {
		t.Errorf("parallelism %v", got)
	}
	if got := ints(j.Components, func(c componentCapability) *int { return c.Most }); !slices.Equal(got, []int{40, 40, 40, 40, 40, 40, 40, 40}) {
		t.Errorf("room for %v", got)
	}
	for _, c := range j.Components {
		if c.Source != strings.HasPrefix(c.Name, "Source: ") || c.Operators != 1 || *c.MaxParallelism != 128 || c.Partitions != nil {
			t.Errorf("component %+v", c)
		}
	}
	for _, x := range f {
		if x.Level != levelOK {
			t.Errorf("a healthy job has %+v", x)
		}
	}
	if !f.has(levelOK, "engine prod", "may stand still for 10 min (web.timeout)") {
		t.Errorf("nothing is said of web.timeout:\n%s", f.text())
	}
	answers := answersOf(t, "adaptive.jsonl.gz")
	change(t, answers, "/jobmanager/config", `{"key":"heartbeat.interval","value":"2000"}`, `{"key":"web.timeout","value":"20 s"}`)
	if _, _, f := look(t, answers); f.has(levelOK, "engine prod", "web.timeout") {
		t.Errorf("20 s is said to be long:\n%s", f.text())
	}
	if len(j.Unknown) != 0 {
		t.Errorf("unknown is %+v, want nothing", j.Unknown)
	}
}

func TestWhatAClusterCannotDoIsSaidWithWhatToChange(t *testing.T) {
	_, jobs, f := look(t, answersOf(t, "default.jsonl.gz"))
	if j := jobs[0]; j.Rescalable == nil || *j.Rescalable || *j.Scheduler != "Default" || *j.Slots != 0 || j.Components[0].Most != nil {
		t.Errorf("the job is %+v", j)
	}
	for _, want := range []finding{
		{levelProblem, "engine prod", "it has no TaskManager", "start TaskManagers"},
		{levelWarning, "engine prod", "web.exception-history-size is 2", "set web.exception-history-size: 16"},
		{levelWarning, "engine prod", "up to 10s old (metrics.fetcher.update-interval)", "set metrics.fetcher.update-interval: 1000"},
		{levelWarning, "prod/orders", "The DefaultScheduler does not support changing the parallelism without a job restart", "set jobmanager.scheduler: adaptive and start the job again"},
		{levelWarning, "prod/orders", "0 of its 25 instances run", ""},
		{levelWarning, "prod/orders", "there are no metrics of Source: clicks, Source: orders,", ""},
	} {
		if !slices.ContainsFunc(f, func(x finding) bool {
			return x.Level == want.Level && x.About == want.About && strings.Contains(x.Message, want.Message) && (want.Advice == "" || x.Advice == want.Advice)
		}) {
			t.Errorf("there is no %+v in\n%s", want, f.text())
		}
	}
}

func TestWhatIsOddAboutAJobIsFound(t *testing.T) {
	const about = "prod/orders"
	for name, c := range map[string]struct {
		suffix string
		oldNew []string
		want   string
		check  func(j capability) bool
	}{
		"no checkpoints": {"/checkpoints/config", []string{`"interval":10000`, `"interval":9223372036854775807`}, "it makes no checkpoints",
			func(j capability) bool { return *j.Checkpoint == 0 }},
		"no lag": {"/metrics", []string{"Source__clicks.pendingRecords", "Source__clicks.pending"}, "the lag of Source: clicks is not reported",
			func(j capability) bool {
				return slices.ContainsFunc(j.Unknown, func(u unknownMetric) bool {
					return u.Metric == dhalion.Lag && slices.Equal(u.Components, []string{"Source: clicks"})
				})
			}},
		"no buffers":    {"/metrics", []string{"inputQueueLength", "queueOfAnother"}, "no buffer metrics of enrich, validate, join, score, store: Writer, audit: Writer:", nil},
		"no busy times": {"/metrics", []string{"accumulateBusyTimeMs", "x", "busyTimeMsPerSecond", "y"}, "no busy times of", nil},
		"a busy time that is NaN": {"", []string{`"accumulated-busy-time":254808.0`, `"accumulated-busy-time":"NaN"`}, "the busy time of Source: clicks is not measured",
			func(j capability) bool {
				return slices.ContainsFunc(j.Unknown, func(u unknownMetric) bool {
					return u.Metric == dhalion.Busy && slices.Equal(u.Components, []string{"Source: clicks"})
				})
			}},
		"partitions of Kafka": {"/metrics", []string{
			"0.Source__clicks.sourceIdleTime", "0.Source__clicks.KafkaSourceReader.topic.a.partition.0.currentOffset",
			"1.Source__clicks.sourceIdleTime", "1.Source__clicks.KafkaSourceReader.topic.a.partition.0.currentOffset",
		}, "Source: clicks has 2 instances for 1 partition: the rest is idle",
			// However few partitions there are, it has room for the instances it has.
			func(j capability) bool { return *j.Components[0].Partitions == 1 && *j.Components[0].Most == 2 }},
		"a chained source": {"", []string{`"description":"Source: clicks<br/>"`, `"description":"Source: clicks<br/>+- parse<br/>"`},
			"Source: clicks is a source with 2 operators chained in it", func(j capability) bool { return j.Components[0].Operators == 2 }},
		"a chained source by its name": {"", []string{`"name":"Source: clicks"`, `"name":"Source: clicks -> parse -> key"`},
			"is a source with 3 operators chained in it", nil},
		"at its maximum": {"", []string{`"name":"join","maxParallelism":128`, `"name":"join","maxParallelism":6`}, "join has 6 instances, its maximum parallelism",
			func(j capability) bool { return *j.Components[4].Most == 6 && *j.Components[3].Most == 40 }},
		"fewer slots than it asks for": {"/resource-requirements", []string{`"upperBound":6`, `"upperBound":9`}, "join runs with 6 of the 9 instances that it asks for", nil},
		"not running":                  {"", []string{`"state":"RUNNING"`, `"state":"RESTARTING"`}, "it is RESTARTING", nil},
		"reactive":                     {"/jobmanager/config", []string{`{"key":"heartbeat.interval","value":"2000"}`, `{"key":"scheduler-mode","value":"REACTIVE"}`}, "it runs in reactive mode", func(j capability) bool { return !*j.Rescalable }},
	} {
		t.Run(name, func(t *testing.T) {
			answers := answersOf(t, "adaptive.jsonl.gz")
			change(t, answers, c.suffix, c.oldNew...)
			_, jobs, f := look(t, answers)
			if !f.has(levelWarning, about, c.want) && !slices.ContainsFunc(f, func(x finding) bool { return x.Level == levelWarning && strings.Contains(x.Message, c.want) }) {
				t.Errorf("there is no %q in\n%s", c.want, f.text())
			}
			if c.check != nil && !c.check(jobs[0]) {
				t.Errorf("the job is %+v", jobs[0])
			}
		})
	}
}

func TestWhatIsNotAnsweredIsUnknownAndNotFine(t *testing.T) {
	answers := answersOf(t, "adaptive.jsonl.gz")
	for path := range answers {
		if path != "/jobs/overview" && !strings.HasPrefix(path, "/jobs/") || strings.Count(path, "/") > 2 {
			delete(answers, path)
		}
	}
	answers["/jobs/x/resource-requirements"] = flink.Answer{Status: 500}
	c, jobs, f := look(t, answers)
	if c.config != nil || c.taskManagers != nil || c.version != "" {
		t.Errorf("unasked for: %+v", c)
	}
	j := jobs[0]
	if j.Slots != nil || j.Free != nil || j.Components[0].Most != nil || len(j.Components) != 8 {
		t.Errorf("the job is %+v", j)
	}
	for _, want := range []string{"its version is not known", "its TaskManagers are not known", "the JobManager's configuration cannot be read", "there are no metrics of"} {
		if !slices.ContainsFunc(f, func(x finding) bool { return x.Level == levelWarning && strings.Contains(x.Message, want) }) {
			t.Errorf("there is no %q in\n%s", want, f.text())
		}
	}
	// 404 is an older Flink's: it will never be answered. 503 may be later.
	if j.Rescalable == nil || *j.Rescalable {
		t.Errorf("without the request %+v", j.Rescalable)
	}
	answers["/jobs/"+j.Run+"/resource-requirements"] = flink.Answer{Status: 503}
	if _, jobs, _ = look(t, answers); jobs[0].Rescalable != nil {
		t.Errorf("with 503 %v", *jobs[0].Rescalable)
	}
}

// A JobManager that was not asked before has no metrics yet, and fetches them.
func TestMetricsThatAreFetchedFirstAreWaitedFor(t *testing.T) {
	answers, later := answersOf(t, "adaptive.jsonl.gz"), answersOf(t, "adaptive.jsonl.gz")
	for path, a := range answers {
		if strings.HasSuffix(path, "/metrics") {
			a.Body = json.RawMessage("[]")
			answers[path] = a
		}
	}
	waits := 0
	p := probe(answers, func(context.Context, time.Duration) error {
		if waits++; waits == 2 {
			for path, a := range later {
				answers[path] = a
			}
		}
		return nil
	})
	c, err := p.cluster(context.Background())
	if err != nil || waits != 2 {
		t.Fatalf("%d waits, %v", waits, err)
	}
	if _, f := assess("prod", c); slices.ContainsFunc(f, func(x finding) bool { return x.Level != levelOK }) {
		t.Errorf("after the wait:\n%s", f.text())
	}
	// What does not run gives none, and nobody waits for it.
	p = probe(answersOf(t, "default.jsonl.gz"), func(context.Context, time.Duration) error {
		t.Error("waited for what does not run")
		return errors.New("no patience")
	})
	if _, err := p.cluster(context.Background()); err != nil {
		t.Fatal(err)
	}
}

func TestTwoJobsOfOneNameAreToldApart(t *testing.T) {
	answers := answersOf(t, "adaptive.jsonl.gz")
	overview := answers["/jobs/overview"]
	var runs struct {
		Jobs []map[string]any `json:"jobs"`
	}
	if err := json.Unmarshal(overview.Body, &runs); err != nil {
		t.Fatal(err)
	}
	first := runs.Jobs[0]["jid"].(string)
	const second = "0123456789abcdef0123456789abcdef"
	body, err := json.Marshal(map[string]any{"jobs": []any{runs.Jobs[0], map[string]any{"jid": second, "name": "orders", "state": "RUNNING"}}})
	if err != nil {
		t.Fatal(err)
	}
	overview.Body = body
	answers["/jobs/overview"] = overview
	detail := answers["/jobs/"+first]
	detail.Body = json.RawMessage(strings.ReplaceAll(string(detail.Body), first, second))
	answers["/jobs/"+second] = detail
	_, jobs, f := look(t, answers)
	if len(jobs) != 2 || string(jobs[0].Job) != "prod/orders ["+first[:8]+"]" || jobs[1].Job != "prod/orders [01234567]" {
		t.Errorf("%d jobs: %v", len(jobs), jobs)
	}
	if !f.has(levelWarning, "prod/orders [01234567]", "2 jobs are called orders") {
		t.Errorf("there is no warning in\n%s", f.text())
	}
}

func TestAClusterThatIsNoneSaysWhy(t *testing.T) {
	for _, c := range []struct {
		answer flink.Answer
		want   string
	}{
		{flink.Answer{Error: "connection refused"}, "connection refused"},
		{flink.Answer{Status: 401}, "it does not take these credentials"},
		{flink.Answer{Status: 302}, "a redirection, which is not followed"},
		{flink.Answer{Status: 404, Path: "/jobs/overview"}, "/jobs/overview answers 404"},
		{flink.Answer{Status: 200, Body: json.RawMessage(`"<html>"`)}, "what answers is no Flink"},
	} {
		p := prober{get: func(context.Context, string) flink.Answer { return c.answer }, now: time.Now}
		_, err := p.cluster(context.Background())
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v", c.answer, err)
		}
	}
}

func TestFlinksLengthsOfTimeAreRead(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"1000": time.Second, "10 s": 10 * time.Second, "10000 ms": 10 * time.Second, "1 min": time.Minute, "PT10S": 10 * time.Second, "2 h": 2 * time.Hour, "0": 0,
	} {
		if d, ok := flinkDuration(text); !ok || d != want {
			t.Errorf("%s is %s (%v)", text, d, ok)
		}
	}
	for _, text := range []string{"", "soon", "-1", "1 fortnight"} {
		if d, ok := flinkDuration(text); ok {
			t.Errorf("%q was read as %s", text, d)
		}
	}
}

func TestAClockBetweenQuestionAndAnswerIsRight(t *testing.T) {
	at := time.Unix(1_000_000, 0)
	for seconds, want := range map[int]time.Duration{-5: -5 * time.Second, 0: 0, 1: 0, 2: 0, 5: 3 * time.Second} {
		if got := off(at, at.Add(2*time.Second), at.Add(time.Duration(seconds)*time.Second)); got != want {
			t.Errorf("%d s after: %s, want %s", seconds, got, want)
		}
	}
}
