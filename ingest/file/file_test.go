package file_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/klauspost/compress/zstd"
	"pgregory.net/rapid"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/ingest"
	"github.com/dhalion-go/dhalion/ingest/file"
	"github.com/dhalion-go/dhalion/ingest/segment"
)

// read is what a file comes to.
type read struct {
	report     ingest.Report
	history    *segment.History
	topologies map[dhalion.JobID][]dhalion.Topology
}

func readCSV(content string, opts file.Options) (read, error) {
	return readFrom("x.csv", strings.NewReader(content), opts, ingest.Options{})
}

func readFrom(name string, r io.Reader, opts file.Options, limits ingest.Options) (read, error) {
	return readSource(file.NewCSV(name, r, opts), limits)
}

func readSource(source ingest.Source, limits ingest.Options) (read, error) {
	out := read{topologies: map[dhalion.JobID][]dhalion.Topology{}}
	layers := map[dhalion.TargetKind][]segment.Layer{}
	var err error
	out.report, err = ingest.Collect(context.Background(), ingest.Out{
		Segment: func(_ context.Context, s dhalion.Segment) error {
			t, err := segment.Decode(s)
			if err == nil && s.Job == "file/wc" {
				layers[s.Kind] = append(layers[s.Kind], segment.Layer{Table: t, Seq: 1})
			}
			return err
		},
		Topology: func(_ context.Context, job dhalion.JobID, t dhalion.Topology) error {
			out.topologies[job] = append(out.topologies[job], t)
			return nil
		},
	}, limits, source)
	out.history = &segment.History{Job: "file/wc", Tables: map[dhalion.TargetKind]*segment.Table{}, Topologies: out.topologies["file/wc"]}
	for kind, own := range layers {
		t, _, mergeErr := segment.Merge(own)
		if mergeErr != nil {
			return out, mergeErr
		}
		out.history.Tables[kind] = t
	}
	return out, err
}

// dump writes a history as lines of "target metric time value worker".
func dump(h *segment.History) string {
	var b strings.Builder
	for _, kind := range dhalion.TargetKinds {
		t := h.Tables[kind]
		if t == nil {
			continue
		}
		for _, s := range t.Spans() {
			for _, m := range t.Metrics() {
				for row := s.Start; row < s.End; row++ {
					if v := t.Values(m)[row]; v == v {
						at := time.UnixMicro(t.Times()[row]).UTC().Format("15:04:05.999999")
						fmt.Fprintln(&b, strings.TrimRight(fmt.Sprintf("%s %s %s %v %s", s.Target, m, at, v, t.Worker(row)), " "))
					}
				}
			}
		}
	}
	return b.String()
}

const long = `time,job,component,instance,worker,metric,value
2026-03-01T12:00:00Z,wc,counter,0,tm-1,busy_fraction,0.5
2026-03-01T12:00:00.25Z,wc,counter,1,tm-2,busy_fraction,0.75
2026-03-01T13:00:01+01:00,wc,counter,0,tm-1,records_in_per_second,1.5e3
1772366402,wc,counter,,,records_in_per_second,3000
1772366402000,wc,,,tm-1,gc_fraction,.125
2026-03-01 12:00:03Z,wc,,,,lag_records,17
`

const longDump = `job lag_records 12:00:03 17
counter records_in_per_second 12:00:02 3000
counter[0] busy_fraction 12:00:00 0.5 tm-1
counter[0] records_in_per_second 12:00:01 1500 tm-1
counter[1] busy_fraction 12:00:00.25 0.75 tm-2
worker tm-1 gc_fraction 12:00:02 0.125
`

func TestLongCSVIsReadIntoTheFourKindsOfTarget(t *testing.T) {
	got, err := readCSV(long, file.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if d := dump(got.history); d != longDump {
		t.Errorf("got\n%swant\n%s", d, longDump)
	}
	topology, ok := got.history.TopologyAt(got.history.Newest())
	if !ok || len(topology.Components) != 1 || topology.Components[0] != (dhalion.Component{Name: "counter", Parallelism: 2}) ||
		topology.WorkerOf("counter", 1) != "tm-2" || len(topology.Edges) != 0 {
		t.Errorf("derived topology %+v", topology)
	}
	if len(got.report.Repairs) != 0 {
		t.Errorf("repairs %v", got.report.Repairs)
	}
}

func TestAFileInAnyDressIsTheSameFile(t *testing.T) {
	want := ""
	for name, content := range map[string]string{
		"as it is":                    long,
		"byte order mark, CRLF":       "\uFEFF" + strings.ReplaceAll(long, "\n", "\r\n"),
		"no newline at the end":       strings.TrimSuffix(long, "\n"),
		"blank lines":                 strings.ReplaceAll(long, "\n", "\n\n"),
		"everything quoted":           `"` + strings.ReplaceAll(strings.ReplaceAll(strings.TrimSuffix(long, "\n"), ",", `","`), "\n", "\"\n\"") + "\"\n",
		"spaces around fields":        strings.ReplaceAll(long, ",", " , "),
		"one quoted field, others as": strings.ReplaceAll(long, "counter", `"counter"`),
	} {
		for _, r := range []io.Reader{strings.NewReader(content), iotest.OneByteReader(strings.NewReader(content)), iotest.DataErrReader(strings.NewReader(content))} {
			got, err := readFrom("x.csv", r, file.Options{}, ingest.Options{})
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			if d := dump(got.history); d != longDump {
				t.Errorf("%s: got\n%s", name, d)
			}
			if want == "" {
				want = got.history.Digest()
			}
			if got.history.Digest() != want {
				t.Errorf("%s: another digest", name)
			}
		}
	}
}

func TestWideCSVAndColumnsInAnyOrderAreTheSameHistory(t *testing.T) {
	const content = `worker,gc_fraction,lag_records,records_in_per_second,instance,busy_fraction,time,component
tm-1,,,,0,.5,2026-03-01T12:00:00Z,counter
tm-2,,,,1,.75,2026-03-01T12:00:00.25Z,counter
tm-1,,,1500,0.0,NaN,2026-03-01T12:00:01Z,counter
,,,3000,,,2026-03-01T12:00:02Z,counter
tm-1,.125,,,,,2026-03-01T12:00:02Z,
,,17,,,,2026-03-01T12:00:03Z,
`
	got, err := readCSV(content, file.Options{Job: "wc"})
	if err != nil {
		t.Fatal(err)
	}
	if d := dump(got.history); d != longDump {
		t.Errorf("got\n%swant\n%s", d, longDump)
	}
	// Six rows of four metrics, of which six have a value.
	if n := got.report.Repairs[ingest.MissingValue]; n != 18 || len(got.report.Repairs) != 1 {
		t.Errorf("repairs %v", got.report.Repairs)
	}
	reordered, err := readCSV(`value,metric,time,component,instance,worker
.5,busy_fraction,2026-03-01T12:00:00Z,counter,0,tm-1
.75,busy_fraction,2026-03-01T12:00:00.25Z,counter,1,tm-2
1500,records_in_per_second,2026-03-01T12:00:01Z,counter,0,tm-1
3000,records_in_per_second,2026-03-01T12:00:02Z,counter,,
.125,gc_fraction,2026-03-01T12:00:02Z,,,tm-1
17,lag_records,2026-03-01T12:00:03Z,,,
`, file.Options{Job: "wc"})
	if err != nil || reordered.history.Digest() != got.history.Digest() {
		t.Errorf("%v: got\n%s", err, dump(reordered.history))
	}
}

func TestABrokenRowIsNamedByFileLineAndReason(t *testing.T) {
	const head = "time,component,instance,worker,metric,value\n2026-03-01T12:00:00Z,counter,0,tm-1,busy_fraction,.5\n"
	const at = "2026-03-01T12:00:01Z"
	for row, want := range map[string]string{
		at + ",counter,0,tm-1,busy_fraction,x":                   `x.csv:3: the value "x" is no number`,
		at + ",counter,0,tm-1,busy_fraction,Inf":                 "x.csv:3: the value is infinite",
		at + ",counter,0,tm-1,busy_fraction,1e999":               `x.csv:3: the value "1e999" is too large`,
		at + ",counter,0,tm-1,busy_fraction,1.2":                 "x.csv:3: the value 1.2 is no fraction of 0 to 1",
		at + ",counter,0,tm-1,restarts_total,-1":                 "x.csv:3: the value -1 is negative",
		at + ",counter,0,tm-1,records_in_per_secnd,1":            `x.csv:3: unknown metric "records_in_per_secnd"; did you mean records_in_per_second?`,
		at + ",counter,-1,tm-1,busy_fraction,.5":                 "x.csv:3: the instance -1 is negative",
		at + ",counter,one,tm-1,busy_fraction,.5":                `x.csv:3: the instance "one" is no number`,
		at + ",counter,99999999999999999999,tm-1,busy_fraction,": `x.csv:3: the instance "99999999999999999999" is above 1048575`,
		at + ",,0,tm-1,busy_fraction,.5":                         `x.csv:3: there is an instance, "0", but no component`,
		at + ",counter,,tm-1,busy_fraction,.5":                   `x.csv:3: the component "counter" has a worker, "tm-1", but no instance`,
		at + ",counter,0,tm-1,busy_fraction":                     "x.csv:3: the row has 5 fields, the header 6",
		at + ",counter,0,tm-1,busy_fraction,.5,":                 "x.csv:3: the row has 7 fields, the header 6",
		"yesterday,counter,0,tm-1,busy_fraction,.5":              `x.csv:3: the time "yesterday" is neither`,
		"2026-02-29T12:00:00Z,counter,0,tm-1,busy_fraction,.5":   `x.csv:3: the time "2026-02-29T12:00:00Z" is neither`,
		"2026-03-01T12:00:00,counter,0,tm-1,busy_fraction,.5":    `x.csv:3: the time "2026-03-01T12:00:00" is neither`,
		"0000-03-01T12:00:00Z,counter,0,tm-1,busy_fraction,.5":   "x.csv:3: the time is outside the years 1 to 9999",
		"1772366402000000,counter,0,tm-1,busy_fraction,.5":       "x.csv:3: the time is outside the years 1 to 9999",
		",counter,0,tm-1,busy_fraction,.5":                       "x.csv:3: the time is empty",
		at + `,"coun"ter,0,tm-1,busy_fraction,.5`:                "x.csv:3: a quoted field is not closed or has something after its end",
		at + `,counter,0,tm-1,busy_fraction,".5`:                 "x.csv:3: a quoted field is not closed or has something after its end",
		at + ",co\x00unter,0,tm-1,busy_fraction,.5":              `control character`,
		at + ",\xff,0,tm-1,busy_fraction,.5":                     "x.csv:3: the component is not UTF-8",
	} {
		_, err := readCSV(head+row+"\n", file.Options{Job: "wc"})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s:\ngot  %v\nwant %s", row, err, want)
		}
		got, err := readCSV(head+row+"\n", file.Options{Job: "wc", SkipBad: 1})
		if err != nil || got.report.Values != 1 || got.report.Repairs[ingest.SkippedRow] != 1 || len(got.report.Skipped) != 1 {
			t.Errorf("%s: not skipped: %v, %+v", row, err, got.report)
		}
	}
}

func TestNoMoreBrokenRowsAreSkippedThanAllowed(t *testing.T) {
	const content = "time,metric,value\n1,lag_records,x\n2,lag_records,5\n3,lag_records,y\n"
	if _, err := readCSV(content, file.Options{Job: "wc", SkipBad: 1}); err == nil || !strings.HasPrefix(err.Error(), "x.csv:4: ") {
		t.Errorf("got %v", err)
	}
	got, err := readCSV(content, file.Options{Job: "wc", SkipBad: 2})
	if err != nil || got.report.Values != 1 {
		t.Errorf("%v, %+v", err, got.report)
	}
	var row ingest.RowError
	if _, err := readCSV(content, file.Options{Job: "wc"}); !errors.As(err, &row) || row.Line != 2 || row.File != "x.csv" {
		t.Errorf("got %v", err)
	}
}

func TestLinesAreCountedThroughQuotedNewlines(t *testing.T) {
	// The second record spans lines 2 and 3, so the broken one is on line 4.
	content := "time,component,metric,value\n1,\"a\nb\",lag_records,1\n2,c,lag_records,x\n"
	_, err := readCSV(content, file.Options{Job: "wc", SkipBad: 1})
	if err == nil || !strings.HasPrefix(err.Error(), "x.csv:4: ") {
		t.Errorf("got %v", err)
	}
}

func TestABrokenValueInAWideRowTakesTheWholeRowOut(t *testing.T) {
	got, err := readCSV("time,busy_fraction,idle_fraction\n1,.5,7\n2,.5,.5\n", file.Options{Job: "wc", SkipBad: 1})
	if err != nil || got.report.Values != 2 || got.report.Skipped[0].Error() != "x.csv:2: idle_fraction: the value 7 is no fraction of 0 to 1" {
		t.Errorf("%v, %+v", err, got.report)
	}
}

func TestABrokenHeaderSaysWhatIsWrong(t *testing.T) {
	for header, want := range map[string]string{
		"":                                      "x.csv:1: the file is empty",
		"time,tim,metric,value":                 `unknown column "tim"`,
		"time,metric,value,host":                `unknown column "host"`,
		"time,bussy_fraction":                   "did you mean busy_fraction?",
		"metric,value":                          "there is no column time",
		"time,metric":                           "the columns metric and value go together",
		"time,metric,value,busy_fraction":       "do not go with a column per metric (busy_fraction)",
		"time,component":                        "neither columns metric and value nor a column per metric",
		"time,instance,metric,value":            "column instance but no column component",
		"time,time,metric,value":                "the column time is there twice",
		"time,busy_fraction,busy_fraction":      "the column busy_fraction is there twice",
		"\xff\xfet\x00i\x00":                    "UTF-16",
		"time,\"metric,value":                   "quoted field",
		strings.Repeat("x", 3<<20):              "longer than 1 MiB",
		"time,\"" + strings.Repeat("\n", 3<<20): "not closed within 1 MiB",
	} {
		if _, err := readCSV(header, file.Options{Job: "wc"}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
	if _, err := readCSV("time,metric,value\n", file.Options{}); err == nil || !strings.Contains(err.Error(), "--job NAME") {
		t.Errorf("got %v", err)
	}
	if _, err := readCSV("time,job,metric,value\n1,,lag_records,1\n", file.Options{}); err == nil || !strings.Contains(err.Error(), "x.csv:2: the job is empty") {
		t.Errorf("got %v", err)
	}
}

func TestAJobIsNamedByItsRowElseByTheOption(t *testing.T) {
	got, err := readCSV("time,job,metric,value\n1,a,lag_records,1\n1,,lag_records,1\n", file.Options{Job: "b", Engine: "prod"})
	if err != nil || !slices.Equal(got.report.Jobs, []dhalion.JobID{"prod/a", "prod/b"}) {
		t.Errorf("%v, %v", got.report.Jobs, err)
	}
}

func TestALineOfAHundredMegabytesIsRefusedWithoutHoldingIt(t *testing.T) {
	endless := io.MultiReader(strings.NewReader("time,metric,value\n1,lag_records,1\n"), io.LimitReader(ones{}, 100<<20))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := readFrom("x.csv", endless, file.Options{Job: "wc", SkipBad: 100}, ingest.Options{})
	runtime.ReadMemStats(&after)
	if err == nil || err.Error() != "x.csv:3: the line is longer than 1 MiB" {
		t.Errorf("got %v", err)
	}
	if took := after.TotalAlloc - before.TotalAlloc; took > 32<<20 {
		t.Errorf("%d MiB were allocated", took>>20)
	}
}

type ones struct{}

func (ones) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = '1'
	}
	return len(p), nil
}

func TestAnErrorOfTheReaderIsNotTheEndOfTheFile(t *testing.T) {
	for _, content := range []string{long, long + "1,\"", "time"} {
		r := io.MultiReader(strings.NewReader(content), iotest.ErrReader(io.ErrUnexpectedEOF))
		if _, err := readFrom("x.csv", r, file.Options{}, ingest.Options{}); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("got %v", err)
		}
	}
}

func TestShuffledRowsInBatchesOfAnySizeGiveTheSameHistory(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var rows []string
		for range rapid.IntRange(1, 60).Draw(t, "rows") {
			rows = append(rows, fmt.Sprintf("%s,%s,%s,busy_fraction,%v",
				rapid.SampledFrom([]string{"2026-03-01T23:59:59.5Z", "2026-03-02T00:59:59.5+01:00", "1772409600", "1772409600123.5", "2026-03-02T00:00:01Z"}).Draw(t, "time"),
				rapid.SampledFrom([]string{"counter,0", "counter,1", "sink,0", "source,"}).Draw(t, "target"),
				"", // no worker
				rapid.SampledFrom([]float64{0, .1, .2, 1.01}).Draw(t, "value")))
		}
		digest := func(rows []string, most int) string {
			got, err := readFrom("x.csv", strings.NewReader("time,component,instance,worker,metric,value\n"+strings.Join(rows, "\n")), file.Options{Job: "wc"}, ingest.Options{MaxValues: most})
			if err != nil {
				t.Fatal(err)
			}
			return got.history.Digest() + got.history.Topologies[0].Digest()
		}
		want := digest(rows, 0)
		if digest(rapid.Permutation(rows).Draw(t, "order"), rapid.IntRange(1, 30).Draw(t, "most")) != want {
			t.Fatal("another order or batch size gives another history")
		}
	})
}

const topologyYAML = `components:
  - {name: source, parallelism: 2}
  - {name: counter, parallelism: 8, max_parallelism: 128}
  - {name: sink, parallelism: 1, external: true}
edges:
  - {from: source, to: counter, ship: hash}
  - counter -> sink
placement: [{component: counter, instance: 0, worker: tm-1}]
slots: [{worker: tm-2, slots: 8}, {worker: tm-1, slots: 4}]
`

func TestATopologyFileIsRead(t *testing.T) {
	got, err := file.ReadTopology("t.yaml", strings.NewReader(topologyYAML))
	if err != nil {
		t.Fatal(err)
	}
	want := dhalion.Topology{
		Components: []dhalion.Component{{Name: "counter", Parallelism: 8, MaxParallelism: 128}, {Name: "sink", Parallelism: 1, External: true}, {Name: "source", Parallelism: 2}},
		Edges:      []dhalion.Edge{{From: "counter", To: "sink"}, {From: "source", To: "counter", Ship: "hash"}},
		Placement:  []dhalion.Placement{{Component: "counter", Instance: 0, Worker: "tm-1"}},
		Slots:      []dhalion.Slots{{Worker: "tm-1", Slots: 4}, {Worker: "tm-2", Slots: 8}},
	}
	var written bytes.Buffer
	if err := file.WriteTopology(&written, got); err != nil {
		t.Fatal(err)
	}
	if again, err := file.ReadTopology("t.yaml", &written); err != nil || fmt.Sprintf("%+v", again) != fmt.Sprintf("%+v", got) {
		t.Errorf("written and read again: %v, %+v", err, again)
	}
	if len(got) != 1 || fmt.Sprintf("%+v", got[0]) != fmt.Sprintf("%+v", want) {
		t.Errorf("got %+v", got)
	}
	list := "- from: 2026-03-02\n  components: [{name: a, parallelism: 2}]\n- from: 2026-03-01T00:00:00Z\n  components: [{name: a, parallelism: 1}]\n"
	several, err := file.ReadTopology("t.yaml", strings.NewReader(list))
	if err != nil || len(several) != 2 || several[0].Components[0].Parallelism != 1 || !several[1].From.Equal(time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)) {
		t.Errorf("%v, %+v", err, several)
	}
}

func TestABrokenTopologyIsNamedByFileLineAndReason(t *testing.T) {
	const a = "components: [{name: a, parallelism: 1}]\n"
	for content, want := range map[string]string{
		"":                                "t.yaml:1: the file is empty",
		"[]":                              "t.yaml:1: the list has no topology",
		"hello":                           "t.yaml:1: a topology is a mapping",
		"components: []":                  "t.yaml:1: a topology needs components",
		"components:\n- {name: a}":        "t.yaml:2: the component a has no parallelism",
		"components:\n- {parallelism: 1}": "t.yaml:2: name is missing",
		"components:\n- {name: a, parallelism: 0}":                              "t.yaml:2: parallelism 0 is not between 1 and",
		"components:\n- {name: a, parallelism: 1.5}":                            "t.yaml:2: parallelism is a whole number",
		"components:\n- {name: a, paralellism: 1}":                              `t.yaml:2: a component has no key "paralellism"; its keys are`,
		"components:\n- {name: a, parallelism: 4,\n   max_parallelism: 2}":      "t.yaml:3: the component a: max_parallelism 2 is below",
		"components:\n- {name: a, parallelism: 1}\n- {name: a, parallelism: 1}": "t.yaml:3: the component a is listed twice",
		"components:\n- {name: a, parallelism: 1, external: maybe}":             "t.yaml:2: external is true or false",
		a + "slots:\n- {worker: w, slots: -1}":                                  "t.yaml:3: slots -1 is not between 0 and",
		a + "slots: [{worker: w, slots: 1},\n {worker: w, slots: 2}]":           "t.yaml:3: slots: w is listed once, with its slots",
		a + "slots: [{worker: w}]":                                              "t.yaml:2: slots: w is listed once, with its slots",
		a + "edges:\n- a -> b":                                                  "t.yaml:3: edge a -> b: there is no component b",
		a + "edges:\n- a":                                                       "t.yaml:3: the edge \"a\" is not",
		a + "edges: [a -> a]":                                                   "t.yaml:2: the edges form a cycle",
		a + "edges: [{from: a, to: a, ship: pigeon}]":                           "t.yaml:2: ship is one of",
		a + "placement:\n- {component: a, instance: 1, worker: w}":              "t.yaml:3: placement: a has 1 instances",
		a + "placement:\n- {component: b, instance: 0, worker: w}":              "t.yaml:3: placement: there is no component b",
		a + "placement: [{component: a, instance: 0}]":                          "t.yaml:2: worker is missing",
		a + "from: tomorrow":                                                    "t.yaml:2: from: the time",
		a + "nodes: []":                                                         `t.yaml:2: a topology has no key "nodes"`,
		a + "components: []":                                                    "t.yaml:2: the key components is there twice",
		a + "---\n" + a:                                                         "there is a second document",
		"- " + a + "- " + a:                                                     "t.yaml:1: a topology in a list needs from: TIME",
		"x: &x {name: a}\ncomponents: *x":                                       "t.yaml:1: a topology has no key",
		"components: {\n":                                                       "t.yaml:1: did not find expected node content",
		"components:\n- name: a\n  parallelism: 1\n external: true\n":           "t.yaml:4: did not find expected key",
		a + "edges: *all\n":                                                     "t.yaml:2: unknown anchor 'all'",
		"components:\n- {name: \"a\\x1b\", parallelism: 1}":                     "control character",
	} {
		if _, err := file.ReadTopology("t.yaml", strings.NewReader(content)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q:\ngot  %v\nwant %s", content, err, want)
		}
	}
	if _, err := file.ReadTopology("t.yaml", io.LimitReader(ones{}, 2<<20)); err == nil || !strings.Contains(err.Error(), "1 MiB") {
		t.Errorf("got %v", err)
	}
}

func TestAGivenTopologyHoldsFromTheBeginningOfTheFile(t *testing.T) {
	topologies, err := file.ReadTopology("t.yaml", strings.NewReader(topologyYAML))
	if err != nil {
		t.Fatal(err)
	}
	got, err := readCSV(long, file.Options{Topology: topologies})
	if err != nil {
		t.Fatal(err)
	}
	first := got.topologies["file/wc"][0]
	if !first.From.Equal(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)) || first.By != dhalion.ChangeFirst || len(first.Components) != 3 {
		t.Errorf("got %+v", first)
	}
	_, err = readCSV("time,job,metric,value\n1,a,lag_records,1\n1,b,lag_records,1\n", file.Options{Topology: topologies})
	if err == nil || !strings.Contains(err.Error(), "the file has 2: a, b") {
		t.Errorf("got %v", err)
	}
}

func TestGzipAndZstdAreUndoneByTheirFirstBytes(t *testing.T) {
	var zipped, z bytes.Buffer
	w := gzip.NewWriter(&zipped)
	if _, err := io.WriteString(w, long); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	zw, err := zstd.NewWriter(&z)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(zw, long); err != nil {
		t.Fatal(err)
	}
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, content := range map[string][]byte{"plain": []byte(long), "gzip": zipped.Bytes(), "zstd": z.Bytes(), "empty": nil} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := file.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		if err := errors.Join(err, r.Close()); err != nil {
			t.Fatal(err)
		}
		if name != "empty" && string(got) != long {
			t.Errorf("%s: got %d bytes", name, len(got))
		}
	}
	// A cut file is an error, not a short file.
	for name, content := range map[string][]byte{"gzip": zipped.Bytes(), "zstd": z.Bytes()} {
		r, err := file.Decompress(bytes.NewReader(content[:len(content)-6]))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := readFrom("x.csv", r, file.Options{}, ingest.Options{}); err == nil {
			t.Errorf("a cut %s file is accepted", name)
		}
	}
	if _, err := file.Open(dir); err == nil || !strings.Contains(err.Error(), "folder") {
		t.Errorf("got %v", err)
	}
	if _, err := file.Open(filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

func TestAGzipBombIsReadInBoundedMemory(t *testing.T) {
	var bomb bytes.Buffer
	w := gzip.NewWriter(&bomb)
	if _, err := io.Copy(w, io.LimitReader(ones{}, 32<<20)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	r, err := file.Decompress(&bomb)
	if err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err = readFrom("x.csv", r, file.Options{}, ingest.Options{})
	runtime.ReadMemStats(&after)
	if err == nil || !strings.Contains(err.Error(), "x.csv:1: the line is longer than 1 MiB") {
		t.Errorf("got %v", err)
	}
	if took := after.TotalAlloc - before.TotalAlloc; took > 32<<20 {
		t.Errorf("%d MiB were allocated", took>>20)
	}
}

func TestAFormatIsToldByItsBeginning(t *testing.T) {
	for content, want := range map[string]file.Format{
		long:                                file.FormatCSV,
		"\uFEFFvalue,\"metric\", time\r\n":  file.FormatCSV,
		"component,time,busy_fraction\n1,2": file.FormatCSVWide,
		`{"time":"2026-03-01T12:00:00Z","engine":"flink","method":"GET","path":"/jobs/overview","status":200,"body":{}}`: file.FormatFlinkRecording,
		`{"status":"success","data":{"resultType":"matrix","result":[]}}`:                                                file.FormatPrometheus,
		" {\"data\": {\"result\": [], \"resultType\": \"vector\"}}":                                                      file.FormatPrometheus,
		`{"status":"error","errorType":"bad_data","error":"x"}`:                                                          file.FormatPrometheus,
		"# HELP busy_fraction Share\n":                                                                                   file.FormatOpenMetrics,
		"# EOF\n":                                                                                                        file.FormatOpenMetrics,
		"# scraped at noon\nbusy_fraction{job=\"wc\"} 0.5 1\n":                                                           file.FormatOpenMetrics,
		"busy_fraction 0.5\n":                                                                                            file.FormatOpenMetrics,
		"{\"busy_fraction\",job=\"wc\"} 0.5\n":                                                                           file.FormatOpenMetrics,
		"ARROW1\x00\x00\xff\xff\xff\xff":                                                                                 file.FormatArrow,
		"\xff\xff\xff\xff\x10\x01\x00\x00\x10\x00\x00\x00\x00":                                                           file.FormatArrow,
		"PAR1\x15\x04": file.FormatParquet,
		"# operator_id,operator_instance_id,total_number_of_operator_instances,epoch_timestamp,true_processing_rate,true_output_rate,observed_processing_rate,observed_output_rate\n": file.FormatDS2,
		"operator_id,instance_id,total_instances,epoch_ts,true_processing_rate,true_output_rate,observed_processing_rate,observed_output_rate":                                        file.FormatDS2,
		"Splitter FlatMap,1,2,115963256636316,122512.72886314773,1244599.9522210688,39847.25246418635,404806.0064719138\n":                                                            file.FormatDS2,
	} {
		if got, err := file.Detect([]byte(content)); err != nil || got != want {
			t.Errorf("%.30q: %v, %v", content, got, err)
		}
	}
	for _, content := range []string{"", "\n", "a,b,c\n1,2,3", `{"a":1}`, "time,value", "# a comment\n", "1,2,3,4,5,6,7", "PAR", "\x00\x01\x02"} {
		if _, err := file.Detect([]byte(content)); err == nil || !strings.Contains(err.Error(), "flink-rest, csv, csv-wide") {
			t.Errorf("%q: %v", content, err)
		}
	}
}

func FuzzCSV(f *testing.F) {
	f.Add([]byte(long))
	f.Add([]byte("\uFEFFtime,busy_fraction,lag_records\r\n1,.5,\r\n1e9,NaN,1e300\r\n"))
	f.Add([]byte("time,\"component\",metric,value\n1,\"a\n\"\"b\"\"\",lag_records,1\n"))
	f.Add([]byte("value,metric,time\n-0,lag_records,9999-12-31T23:59:59.9999999-00:00\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		strict, err := readFrom("x.csv", bytes.NewReader(data), file.Options{Job: "wc"}, ingest.Options{MaxValues: 1000})
		// One row at a time through a reader of single bytes, small batches, and
		// with all broken rows skipped: what was good stays the same.
		lenient, lenientErr := readFrom("x.csv", iotest.OneByteReader(bytes.NewReader(data)), file.Options{Job: "wc", SkipBad: len(data)}, ingest.Options{MaxValues: 3})
		if err != nil {
			return
		}
		if lenientErr != nil {
			t.Fatalf("accepted, but not with broken rows allowed: %v", lenientErr)
		}
		if strict.history.Digest() != lenient.history.Digest() {
			t.Fatal("batches or reads change the history")
		}
	})
}

func FuzzTopology(f *testing.F) {
	f.Add([]byte(topologyYAML))
	f.Add([]byte("- {from: 2026-03-02, components: [{name: a, parallelism: 2}]}\n- {from: 5, components: [{name: a, parallelism: 1}], edges: [a -> a]}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		topologies, err := file.ReadTopology("t.yaml", bytes.NewReader(data))
		if err != nil {
			return
		}
		for _, topology := range topologies {
			if err := topology.Validate(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// benchCSV is a time-major file: 500 instances × 10 metrics a poll.
func benchCSV(polls int) []byte {
	metrics := []dhalion.Metric{
		dhalion.RecordsIn, dhalion.RecordsOut, dhalion.Busy, dhalion.Backpressured, dhalion.Idle,
		dhalion.InputQueueBuffers, dhalion.InputQueueFraction, dhalion.Lag, dhalion.Latency, dhalion.QueueBytes,
	}
	r := rand.New(rand.NewPCG(1, 2))
	b := []byte("time,job,component,instance,worker,metric,value\n")
	start := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	for p := range polls {
		at := start.Add(time.Duration(p) * 10 * time.Second).Format("2006-01-02T15:04:05.000Z07:00")
		for i := range 500 {
			for _, m := range metrics {
				v := r.Float64()
				if !m.Fraction() {
					v *= 10_000
				}
				b = fmt.Appendf(b, "%s,wordcount,counter,%d,tm-%d,%s,%.4f\n", at, i, i/8, m, v)
			}
		}
	}
	return b
}

func BenchmarkCSV(b *testing.B) {
	const polls = 400
	content := benchCSV(polls)
	lines := bytes.SplitAfter(content, []byte("\n"))
	shuffled := slices.Clone(lines[1:])
	rand.New(rand.NewPCG(3, 4)).Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
	for name, data := range map[string][]byte{"time-major": content, "shuffled": append(slices.Clone(lines[0]), bytes.Join(shuffled, nil)...)} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				rep, err := ingest.Collect(context.Background(), ingest.Out{}, ingest.Options{}, file.NewCSV("x.csv", bytes.NewReader(data), file.Options{}))
				if err != nil || rep.Values != polls*5000 {
					b.Fatal(rep, err)
				}
			}
			b.ReportMetric(float64(polls*5000)*float64(b.N)/b.Elapsed().Seconds()/1e6, "Mrows/s")
		})
	}
}
