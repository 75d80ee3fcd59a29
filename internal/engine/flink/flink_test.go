package flink

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"testing"
	"time"
)

func TestANumberThatIsNotGivenIsUnknownAndNotZero(t *testing.T) {
	for text, want := range map[string]Number{
		`{"now":0}`:            Known(0),
		`{"now":"508.0"}`:      Known(508),
		`{"now":1.5e3}`:        Known(1500),
		`{"now":-1}`:           Known(-1),
		`{}`:                   {},
		`{"now":null}`:         {},
		`{"now":"NaN"}`:        {},
		`{"now":"Infinity"}`:   {},
		`{"now":true}`:         {},
		`{"now":{"value":1}}`:  {},
		`{"now":"1,000"}`:      {},
		`{"now":1e999,"id":1}`: {},
	} {
		got, err := Decode[VertexDetail]([]byte(text))
		if err != nil || got.Now != want {
			t.Errorf("%s: now is %+v (%v), want %+v", text, got.Now, err, want)
		}
	}
}

func TestAFieldOfAnOddTypeLeavesTheOthersReadable(t *testing.T) {
	got, err := Decode[Job]([]byte(`{"jid":7,"name":"wc","vertices":[{"id":"v","parallelism":"two","tasks":{"RUNNING":2}}],"state":"RUNNING"}`))
	if err != nil {
		t.Fatal(err)
	}
	if got.Name != "wc" || got.State != Running || len(got.Vertices) != 1 || got.Vertices[0].ID != "v" || got.Vertices[0].Parallelism.Int() != -1 {
		t.Errorf("got %+v", got)
	}
}

func TestABodyThatIsNoAnswerIsAnError(t *testing.T) {
	for _, body := range []string{``, `null`, `"<html>"`, `[]`, `{"name":`} {
		if got, err := Decode[Job]([]byte(body)); err == nil {
			t.Errorf("%q: no error, %+v", body, got)
		}
	}
}

func TestTasksAreCountedInEitherCase(t *testing.T) {
	upper := Counts{"RUNNING": Known(2), "FAILED": Known(1), "DEPLOYING": Known(0)}
	lower := Counts{"running": Known(2), "failed": Known(1), "total": Known(17)}
	if n, ok := upper.Of("running"); n != 2 || !ok {
		t.Errorf("upper case: %v running, %v", n, ok)
	}
	if n, ok := lower.Of(Running); n != 2 || !ok {
		t.Errorf("lower case: %v running, %v", n, ok)
	}
	if n, _ := upper.Total(); n != 3 {
		t.Errorf("upper case: %v in all, want 2+1+0 = 3", n)
	}
	if n, _ := lower.Total(); n != 17 {
		t.Errorf("lower case: %v in all, want the total, 17", n)
	}
	if _, ok := upper.Of("canceled"); ok {
		t.Error("a state that is not listed has a count")
	}
}

func TestAnExceptionNamesItsVertexWithoutTheSubtask(t *testing.T) {
	for task, want := range map[string]string{
		"counter (3/8)":                         "counter",
		"Source: source (1/2) - execution #0":   "Source: source",
		"Join(left, right) (1/4)":               "Join(left, right)",
		"Map(a/b)":                              "Map(a/b)",
		"":                                      "",
		"(1/2)":                                 "(1/2)",
		"Sink(kafka) (12/128) - execution #107": "Sink(kafka)",
	} {
		if got := (Exception{Task: task}).Vertex(); got != want {
			t.Errorf("%q: vertex %q, want %q", task, got, want)
		}
	}
}

func TestAPathSaysWhatWasAsked(t *testing.T) {
	for path, want := range map[string]Resource{
		"/config":                            {Kind: KindConfig},
		"/overview":                          {Kind: KindOverview},
		"/jobs/overview":                     {Kind: KindJobs},
		"/v1/jobs/overview":                  {Kind: KindJobs},
		"/jobs/ab":                           {Kind: KindJob, Job: "ab"},
		"/jobs/ab/plan":                      {Kind: KindPlan, Job: "ab"},
		"/jobs/ab/vertices/cd":               {Kind: KindVertex, Job: "ab", Vertex: "cd"},
		"/jobs/ab/vertices/cd/metrics?get=x": {Kind: KindVertexMetrics, Job: "ab", Vertex: "cd"},
		"/jobs/ab/vertices/cd/subtasks/0":    {},
		"/jobs/ab/checkpoints":               {Kind: KindCheckpoints, Job: "ab"},
		"/jobs/ab/checkpoints/config":        {Kind: KindCheckpointConfig, Job: "ab"},
		"/jobs/ab/exceptions":                {Kind: KindExceptions, Job: "ab"},
		"/jobs/ab/resource-requirements":     {Kind: KindRequirements, Job: "ab"},
		"/jobs/ab/savepoints":                {},
		"/jobs/":                             {},
		"/jobs":                              {},
		"":                                   {},
		"/taskmanagers":                      {Kind: KindTaskManagers},
		"/taskmanagers/10.0.0.1%3A41-7/metrics?get=y": {Kind: KindTaskManagerMetrics, TaskManager: "10.0.0.1:41-7"},
		"/taskmanagers/tm-1/log":                      {},
	} {
		if got := (Answer{Path: path}).Resource(); got != want {
			t.Errorf("%q: %+v, want %+v", path, got, want)
		}
	}
}

const goodLine = `{"time":"2026-11-22T08:40:02.312Z","engine":"flink","method":"GET","path":"/jobs/overview","status":200,"body":{"jobs":[]}}`

func TestABrokenLineIsNamedAndReadingGoesOn(t *testing.T) {
	for _, bad := range []string{
		`{"time":`, `[]`, `7`, `{}`,
		strings.Replace(goodLine, "2026-11-22T08:40:02.312Z", "yesterday", 1),
		strings.Replace(goodLine, `"flink"`, `"storm"`, 1),
		strings.Replace(goodLine, `200`, `"200"`, 1),
		strings.Replace(goodLine, `"method":"GET",`, ``, 1),
		strings.Replace(goodLine, `"path":"/jobs/overview",`, ``, 1),
	} {
		r := NewReader(strings.NewReader(goodLine + "\n\n" + bad + "\n" + goodLine))
		if a, err := r.Next(); err != nil || a.Status != 200 || a.Time != time.Date(2026, 11, 22, 8, 40, 2, 312e6, time.UTC) {
			t.Fatalf("first line: %+v, %v", a, err)
		}
		var line *LineError
		if _, err := r.Next(); !errors.As(err, &line) || line.Line != 3 {
			t.Errorf("%s: got %v, want an error at line 3", bad, err)
		}
		if _, err := r.Next(); err != nil {
			t.Errorf("%s: the line after it: %v", bad, err)
		}
		if _, err := r.Next(); err != io.EOF {
			t.Errorf("%s: at the end: %v", bad, err)
		}
	}
}

func TestALineThatIsTooLongEndsTheReading(t *testing.T) {
	r := NewReader(strings.NewReader(goodLine + "\n" + strings.Repeat(" ", 200_000) + goodLine))
	r.max = 100_000
	if _, err := r.Next(); err != nil {
		t.Fatal(err)
	}
	_, err := r.Next()
	if err == nil || !strings.Contains(err.Error(), "longer than 100000 bytes") || r.Line() != 2 {
		t.Errorf("line %d: %v", r.Line(), err)
	}
	if _, again := r.Next(); again != err {
		t.Errorf("asked again: %v", again)
	}
}

func TestACutGzipTailIsAnErrorAtItsLine(t *testing.T) {
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	for i := range 2000 {
		fmt.Fprintln(z, strings.Replace(goodLine, "312", fmt.Sprint(100+i*7919%899), 1))
	}
	z.Close()
	in, err := gzip.NewReader(bytes.NewReader(packed.Bytes()[:packed.Len()/2]))
	if err != nil {
		t.Fatal(err)
	}
	r, good := NewReader(in), 0
	for {
		if _, err = r.Next(); err != nil {
			break
		}
		good++
	}
	if !errors.Is(err, io.ErrUnexpectedEOF) || good == 0 || r.Line() != good+1 {
		t.Errorf("after %d good lines, at line %d: %v", good, r.Line(), err)
	}
}

func FuzzReader(f *testing.F) {
	f.Add([]byte(goodLine + "\n{}\n" + goodLine))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := NewReader(bytes.NewReader(data))
		for {
			a, err := r.Next()
			var line *LineError
			if errors.As(err, &line) {
				continue
			}
			if err != nil {
				return
			}
			a.Resource()
		}
	})
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"jid":"a","name":"n","state":"RUNNING","timestamps":{"RUNNING":1},"vertices":[{"id":"v","tasks":{"RUNNING":1}}],"plan":{"nodes":[{"id":"v","inputs":[{"id":"u"}]}]}}`))
	f.Add([]byte(`[{"id":"0.busyTimeMsPerSecond","value":"NaN"}]`))
	f.Add([]byte(`{"exceptionHistory":{"entries":[{"timestamp":1,"taskName":"a (1/2)"}]}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var n Number
		if json.Unmarshal(data, &n) == nil {
			if v, ok := n.Get(); ok && (math.IsNaN(v) || math.IsInf(v, 0)) {
				t.Errorf("%s is known and %v", data, v)
			}
		}
		Decode[JobsOverview](data)
		Decode[Job](data)
		Decode[PlanAnswer](data)
		Decode[VertexDetail](data)
		Decode[Checkpoints](data)
		Decode[CheckpointConfig](data)
		Decode[TaskManagers](data)
		Decode[Requirements](data)
		if x, err := Decode[Exceptions](data); err == nil {
			for _, e := range x.History.Entries {
				e.Vertex()
				if at, ok := e.Timestamp.Time(); ok && (at.Year() < 1970 || at.Year() > 9999) {
					t.Errorf("%s: the year %d", data, at.Year())
				}
			}
		}
		if metrics, err := Decode[[]Metric](data); err == nil {
			for _, m := range metrics {
				m.Subtask()
			}
		}
	})
}
