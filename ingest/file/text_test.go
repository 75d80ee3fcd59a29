package file_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/dhalion-go/dhalion/ingest"
	"github.com/dhalion-go/dhalion/ingest/file"
)

// canonical is a history of each kind of target, as CSV.
const canonical = `time,job,component,instance,worker,metric,value
2026-03-01T12:00:00Z,wc,counter,1,tm-1,busy_fraction,0.5
2026-03-01T12:00:10.5Z,wc,counter,1,tm-2,busy_fraction,0.25
2026-03-01T12:00:00Z,wc,counter,,,records_in_per_second,12000
2026-03-01T12:00:00Z,wc,,,"tm ""1""",cpu_fraction,1
2026-03-01T12:00:00Z,wc,,,,restarts_total,3
`

// exposed is the same as OpenMetrics.
const exposed = `# HELP busy_fraction Share of the time spent working.
# TYPE dhalion_busy_fraction gauge
# UNIT dhalion_busy_fraction fraction
busy_fraction{job="wc",component="counter",instance="1",worker="tm-1"} 0.5 1772366400
dhalion_busy_fraction{ job = "wc" , component="counter",instance="1",worker="tm-2", } 0.25 1772366410.5 # {trace="a # b"} 0.2 1
records_in_per_second{job="wc",component="counter",host="node-7"} 1.2e4 1.7723664e9
{"cpu_fraction",job="wc","worker"="tm \"1\""} 1 1772366400
# TYPE restarts counter
restarts_total{job="wc"} 3 1772366400
input_queue_buffers{job="wc",component="counter"} NaN 1772366400
# EOF
`

func mustRead(t *testing.T, s ingest.Source) read {
	t.Helper()
	r, err := readSource(s, ingest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestOpenMetricsIsTheSameHistoryAsCSV(t *testing.T) {
	want, err := readCSV(canonical, file.Options{})
	if err != nil {
		t.Fatal(err)
	}
	millis := strings.NewReplacer("1772366400\n", "1772366400000\n", "1772366410.5", "1772366410500", "1.7723664e9", "1772366400000", "# EOF\n", "").Replace(exposed)
	for name, text := range map[string]string{
		"OpenMetrics":       exposed,
		"Prometheus' text":  millis,
		"two in a row":      exposed + exposed,
		"carriage returns":  strings.ReplaceAll(exposed, "\n", "\r\n"),
		"no end of line":    strings.TrimSuffix(exposed, "\n"),
		"a byte order mark": "\uFEFF" + exposed,
	} {
		got := mustRead(t, file.NewOpenMetrics("x", iotest.OneByteReader(strings.NewReader(text)), file.Options{}))
		if got.history.Digest() != want.history.Digest() {
			t.Errorf("%s:\n%s\nnot\n%s", name, dump(got.history), dump(want.history))
		}
		if n := got.report.Repairs[ingest.MissingValue]; n == 0 {
			t.Errorf("%s: NaN was not counted: %v", name, got.report.Repairs)
		}
		if got.report.Jobs[0] != "file/wc" || len(got.topologies["file/wc"]) != 1 || got.topologies["file/wc"][0].Components[0].Parallelism != 2 {
			t.Errorf("%s: %v, %+v", name, got.report.Jobs, got.topologies)
		}
	}
}

func TestASampleWithoutATimeTakesTheGivenOne(t *testing.T) {
	const text = "busy_fraction{job=\"wc\"} 0.5\n"
	_, err := readSource(file.NewOpenMetrics("x", strings.NewReader(text), file.Options{}), ingest.Options{})
	if err == nil || err.Error() != "x:1: the sample has no timestamp: say when it was taken with --time" {
		t.Errorf("got %v", err)
	}
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	if got := mustRead(t, file.NewOpenMetrics("x", strings.NewReader(text), file.Options{At: at})); !got.report.From.Equal(at) {
		t.Errorf("got %s", got.report.From)
	}
}

func TestABrokenSampleIsNamedByFileLineAndReason(t *testing.T) {
	for sample, want := range map[string]string{
		`busy_fracton{job="wc"} 1 1`:                                `unknown metric "busy_fracton"; did you mean busy_fraction?`,
		`flink_numRecordsIn_total{job="wc"} 1 1`:                    "is a counter of another program's: ask Prometheus for its rate",
		`busy_fraction 1 1`:                                         "the job is empty",
		`busy_fraction{job="wc"} 2 1`:                               "the value 2 is no fraction",
		`lag_records{job="wc"} -1 1`:                                "the value -1 is negative",
		`lag_records{job="wc"} +Inf 1`:                              "the value is infinite",
		`lag_records{job="wc"} -Inf 1`:                              "the value is infinite",
		`lag_records{job="wc"} one 1`:                               `the value "one" is no number`,
		`lag_records{job="wc"}`:                                     "the sample has no value",
		`lag_records`:                                               `"lag_records" is no sample`,
		`lag_records{job="wc"} 1 soon`:                              `the timestamp "soon" is no number`,
		`lag_records{job="wc"} 1 1 1`:                               `there is "1" after the timestamp`,
		`lag_records{job="wc"} 1 -62135596801`:                      "the time is outside the years 1 to 9999",
		`lag_records{job="wc"} 1 253402300800000`:                   "the time is outside the years 1 to 9999",
		`lag_records{job="wc"} 1 1e300`:                             "is no number of seconds",
		`lag_records{job="wc",job="wd"} 1 1`:                        `the label "job" is there twice`,
		`lag_records{job="wc" 1 1`:                                  `there is "1" where a label belongs`,
		`lag_records{job=wc} 1 1`:                                   `the value of the label "job" is not in quotes`,
		`lag_records{job="wc} 1 1`:                                  "a quoted text is not closed",
		`lag_records{job="wc"`:                                      "the labels are not closed",
		`lag_records{job} 1 1`:                                      `the label "job" has no value`,
		`lag_records{job="wc",component="c",instance="x"} 1 1`:      `the instance "x" is no number`,
		`lag_records{job="wc",component="c",instance="-1"} 1 1`:     "the instance -1 is negative",
		`lag_records{job="wc",instance="host:9249"} 1 1`:            `there is an instance, "host:9249", but no component`,
		`lag_records{job="wc",component="` + "a\xffb" + `"} 1 1`:    "the component is not UTF-8",
		`lag-records{job="wc"} 1 1`:                                 `there is "-" behind the name "lag"`,
		`# TYPE records_in_per_second counter`:                      `"records_in_per_second" is a counter and records_in_per_second is none`,
		`?`:                                                         `"?" is no sample`,
		`{job="wc"} 1 1`:                                            "the series has no name",
		strings.Repeat("x", 1<<20) + `{job="wc"} 1 1`:               "the line is longer than 1 MiB",
		`lag_records{job="wc",component="` + "a\\nb" + `"} 1 1`:     "has a control character in it",
		`lag_records{job="` + strings.Repeat("x", 2000) + `"} 1 1`:  "the job has 2005 bytes",
		`checkpoint_seconds{job="wc",worker="a",component="b"} 1 1`: "has a worker",
	} {
		text := "# EOF\nlag_records{job=\"wc\"} 1 1\n" + sample + "\nlag_records{job=\"wc\"} 2 2\n"
		_, err := readSource(file.NewOpenMetrics("x", strings.NewReader(text), file.Options{}), ingest.Options{})
		var row ingest.RowError
		if !errors.As(err, &row) || row.Line != 3 || !strings.HasPrefix(err.Error(), "x:3: ") || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60s: got %v, want %s", sample, err, want)
		}
		if strings.Contains(want, "longer than") {
			continue // where the next line begins is not known
		}
		got := mustRead(t, file.NewOpenMetrics("x", strings.NewReader(text), file.Options{SkipBad: 1}))
		if got.report.Values != 2 || len(got.report.Skipped) != 1 || got.report.Skipped[0] != row {
			t.Errorf("%.60s: with one allowed, %d values and %v", sample, got.report.Values, got.report.Skipped)
		}
	}
}

const flinkMapping = `
labels: {job: job_name, component: task_name, instance: subtask_index, worker: tm_id}
metrics:
  - {metric: busy_fraction, target: instance, name: flink_task_busyTimeMsPerSecond, scale: 0.001}
  - {metric: records_in_per_second, target: component, name: rate, match: {direction: in}}
  - {metric: records_out_per_second, target: component, name: rate, match: {direction: out}}
  - {metric: heap_used_bytes, target: worker, name: jvm_memory_used, match: {area: heap}, labels: {worker: host, job: ""}}
  - {metric: checkpoints_completed_total, target: job, name: checkpoints_total}
`

func mapping(t *testing.T, text string) *file.Mapping {
	t.Helper()
	m, err := file.ReadMapping("m.yaml", strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestForeignNamesAreMapped(t *testing.T) {
	const text = `flink_task_busyTimeMsPerSecond{job_name="wc",task_name="counter",subtask_index="1",tm_id="tm-1"} 500 1772366400
rate{job_name="wc",task_name="counter",direction="in",subtask_index="9"} 12000 1772366400
rate{job_name="wc",task_name="counter",direction="sideways"} 12000 1772366400
jvm_memory_used{host="node",area="heap"} 1e9 1772366400
jvm_memory_used{host="node",area="nonheap"} 2e9 1772366400
checkpoints_total{job_name="wc"} 7 1772366400
go_goroutines 12 1772366400
lag_records{job="wc",component="counter"} 3 1772366400
`
	const want = `time,job,component,instance,worker,metric,value
1772366400,wc,counter,1,tm-1,busy_fraction,0.5
1772366400,wc,counter,,,records_in_per_second,12000
1772366400,wc,,,node,heap_used_bytes,1e9
1772366400,wc,,,,checkpoints_completed_total,7
1772366400,wc,counter,,,lag_records,3
`
	opts := file.Options{Job: "wc", Mapping: mapping(t, flinkMapping)}
	csv, err := readCSV(want, file.Options{})
	if err != nil {
		t.Fatal(err)
	}
	got := mustRead(t, file.NewOpenMetrics("x", strings.NewReader(text), opts))
	if got.history.Digest() != csv.history.Digest() {
		t.Errorf("got\n%s\nnot\n%s", dump(got.history), dump(csv.history))
	}
	if n := got.report.Repairs[file.Unmapped]; n != 3 { // sideways, nonheap, goroutines
		t.Errorf("%d were passed over, not 3", n)
	}
	for text, want := range map[string]string{
		`rate{direction="in",job_name="wc"} 1 1`:     "x:1: rate has no label task_name",
		`# TYPE rate counter`:                        `x:1: "rate" is a counter and records_in_per_second is none`,
		`# TYPE flink_task_busyTimeMsPerSecond gaug`: "",
	} {
		_, err := readSource(file.NewOpenMetrics("x", strings.NewReader(text), opts), ingest.Options{})
		if (err == nil) != (want == "") || err != nil && !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", text, err, want)
		}
	}
}

func TestABrokenMappingIsNamedByFileLineAndReason(t *testing.T) {
	one := func(s string) string { return "labels: {component: c}\nmetrics:\n  - {" + s + "}\n" }
	for text, want := range map[string]string{
		"":                    "m.yaml:1: the file is empty",
		"[]":                  "m.yaml:1: a mapping is a mapping of labels, metrics",
		"labels: {}":          "m.yaml:1: a mapping needs metrics",
		"metrics: [\n":        "m.yaml:",
		"labels: {host: x}\n": `m.yaml:1: labels has no key "host"`,
		"queries: []":         `m.yaml:1: a mapping has no key "queries"`,
		one("metric: busy_fracton, target: job, name: x"):                           `m.yaml:3: unknown metric "busy_fracton"; did you mean busy_fraction?`,
		one("metric: busy_fraction, target: node, name: x"):                         "m.yaml:3: target is job, component, instance or worker",
		one("metric: busy_fraction, target: job"):                                   "m.yaml:3: name is missing",
		one("metric: busy_fraction, target: job, name: x, scale: 0"):                "m.yaml:3: scale is a number above 0",
		one("metric: busy_fraction, target: job, name: x, scale: .inf"):             "m.yaml:3: scale is a number above 0",
		one("metric: busy_fraction, target: instance, name: x"):                     "m.yaml:3: target instance needs labels of its parts",
		one("metric: busy_fraction, target: worker, name: x"):                       "m.yaml:3: target worker needs labels of its parts",
		one("metric: records_in_per_second, target: component, name: in_total"):     "m.yaml:3: in_total is a counter and records_in_per_second is none",
		one("metric: busy_fraction, target: job, name: x, match: [a]"):              "m.yaml:3: match is a mapping",
		one("metric: busy_fraction, target: job, name: x, match: {a: b, a: c}"):     "m.yaml:3:",
		one("metric: busy_fraction, target: component, name: x, labels: {job: []}"): "m.yaml:3: job is the name of a label",
		one("metric: busy_fraction, target: job, name: x") + "---\nx: 1\n":          "m.yaml:",
	} {
		if _, err := file.ReadMapping("m.yaml", strings.NewReader(text)); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q: got %v, want %s", text, err, want)
		}
	}
	if _, err := file.ReadMapping("m.yaml", io.LimitReader(ones{}, 2<<20)); err == nil || !strings.Contains(err.Error(), "at most 1 MiB") {
		t.Errorf("got %v", err)
	}
}

const answered = `{"status":"success","data":{"resultType":"matrix","result":[
{"metric":{"__name__":"busy_fraction","job":"wc","component":"counter","instance":"1","worker":"tm-1"},"values":[[1772366400,"0.5"]]},
{"metric":{"__name__":"dhalion_busy_fraction","job":"wc","component":"counter","instance":"1","worker":"tm-2"},"values":[[1772366410.5,"0.25"],[1772366411,"NaN"]]},
{"metric":{"__name__":"records_in_per_second","job":"wc","component":"counter"},"values":[[1772366400,"12000"]]}]}}
{"status":"success","data":{"resultType":"vector","result":[
{"metric":{"__name__":"cpu_fraction","job":"wc","worker":"tm \"1\""},"value":[1772366400,"1"]},
{"metric":{"__name__":"restarts_total","job":"wc"},"value":[1772366400,"3"]}]}}
`

func TestAnswersOfPrometheusAreTheSameHistoryAsCSV(t *testing.T) {
	want, err := readCSV(canonical, file.Options{})
	if err != nil {
		t.Fatal(err)
	}
	got := mustRead(t, file.NewPrometheus("x", strings.NewReader(answered), file.Options{}))
	if got.history.Digest() != want.history.Digest() {
		t.Errorf("got\n%s\nnot\n%s", dump(got.history), dump(want.history))
	}
	if got.report.Repairs[ingest.MissingValue] != 1 {
		t.Errorf("NaN was not counted: %v", got.report.Repairs)
	}
	mapped := strings.NewReader(`{"status":"success","data":{"resultType":"vector","result":[
		{"metric":{"__name__":"flink_task_busyTimeMsPerSecond","job_name":"wc","task_name":"counter","subtask_index":"1"},"value":[1,"500"]},
		{"metric":{"__name__":"up"},"value":[1,"1"]}]}}`)
	got = mustRead(t, file.NewPrometheus("x", mapped, file.Options{Mapping: mapping(t, flinkMapping)}))
	if d := dump(got.history); !strings.Contains(d, "busy_fraction") || !strings.Contains(d, "0.5") || got.report.Repairs[file.Unmapped] != 1 {
		t.Errorf("got %s, %v", d, got.report.Repairs)
	}
}

func TestABrokenAnswerIsNamedByFileLineAndReason(t *testing.T) {
	series := func(labels, pair string) string {
		return "\n{\"status\":\"success\",\"data\":{\"resultType\":\"vector\",\"result\":[{\"metric\":{" + labels + "},\"value\":[" + pair + "]}]}}"
	}
	const good = `"__name__":"lag_records","job":"wc"`
	for text, c := range map[string]struct {
		want string
		row  bool // that can be skipped
	}{
		"":                               {"x:1: the file is empty", false},
		"{":                              {"x:1: the answer breaks off", false},
		series(good, `1,"-1"`):           {`x:2: lag_records{job="wc"}: the value -1 is negative`, true},
		series(good, `1,"-Inf"`):         {`x:2: lag_records{job="wc"}: the value is infinite`, true},
		series(good, `253402300800,"1"`): {`x:2: lag_records{job="wc"}: the time is outside`, true},
		series(good, `-62135596801,"1"`): {`x:2: lag_records{job="wc"}: the time is outside`, true},
		series(`"job":"wc"`, `1,"1"`):    {`x:2: {job="wc"}: the series has no name: give it one in the query, as with label_replace`, true},
		series(`"__name__":"lag","job":"wc"`, `1,"1"`):                                                   {`x:2: lag{job="wc"}: unknown metric "lag"`, true},
		series(`"__name__":"x_total"`, `1,""`):                                                           {`x:2: x_total{}: "x_total" is a counter of another program's`, false},
		`{"status":"error","errorType":"timeout","error":"query timed out"}`:                             {"x:1: the answer is an error of kind timeout: query timed out", false},
		`{"status":"success","warnings":["a store is away"],"data":{"resultType":"matrix","result":[]}}`: {"x:1: Prometheus warns that the answer is not whole: a store is away", false},
	} {
		_, err := readSource(file.NewPrometheus("x", strings.NewReader(text), file.Options{}), ingest.Options{})
		if err == nil || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %s", text, err, c.want)
		}
		if !c.row {
			continue
		}
		got := mustRead(t, file.NewPrometheus("x", strings.NewReader(text+series(good, `1,"1"`)), file.Options{SkipBad: 1}))
		if got.report.Values != 1 || got.report.Repairs[ingest.SkippedRow] != 1 {
			t.Errorf("%s: with one allowed: %+v", text, got.report)
		}
	}
}

func TestTheEdgesOfTimeAndNumbersAreTaken(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		open func(string, io.Reader, file.Options) ingest.Source
	}{
		"openmetrics":     {"lag_records{job=\"wc\"} 1e300 -62135596800\nlag_records{job=\"wc\"} 5e-324 253402300799999\nlag_records{job=\"wc\"} -0 0\n", file.NewOpenMetrics},
		"prometheus-json": {`{"status":"success","data":{"result":[{"metric":{"__name__":"lag_records","job":"wc"},"values":[[-62135596800,"1e300"],[253402300799.999,"5e-324"],[0,"-0"]]}]}}`, file.NewPrometheus},
	} {
		got := mustRead(t, c.open("x", strings.NewReader(c.text), file.Options{}))
		if got.report.Values != 3 || got.report.From.Year() != 1 || got.report.To.Year() != 9999 {
			t.Errorf("%s: %+v", name, got.report)
		}
		if d := dump(got.history); !strings.Contains(d, "1e+300") || !strings.Contains(d, "5e-324") {
			t.Errorf("%s: %s", name, d)
		}
	}
}

func TestReadingEndsWithItsContext(t *testing.T) {
	ctx, stop := context.WithCancel(context.Background())
	stop()
	records := longRecords(4)
	stream, table := arrowBytes(t, records), parquetBytes(t, records, 0)
	for name, s := range map[string]ingest.Source{
		"openmetrics":     file.NewOpenMetrics("x", strings.NewReader(strings.Repeat("lag_records{job=\"wc\"} 1 1\n", 10_000)), file.Options{}),
		"prometheus-json": file.NewPrometheus("x", strings.NewReader(`{"status":"success","data":{"result":[{"metric":{"__name__":"lag_records","job":"wc"},"values":[[1,"1"]`+strings.Repeat(`,[1,"1"]`, 10_000)+"]}]}}"), file.Options{}),
		"arrow":           file.NewArrow("x", bytes.NewReader(stream), file.Options{}),
		"parquet":         file.NewParquet("x", bytes.NewReader(table), int64(len(table)), file.Options{}),
	} {
		if _, err := ingest.Collect(ctx, ingest.Out{}, ingest.Options{}, s); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func FuzzOpenMetrics(f *testing.F) {
	f.Add([]byte(exposed))
	f.Add([]byte("lag_records{job=\"wc\"} NaN 1\nlag_records{job=\"wc\"} +Inf 9999999999999\n"))
	f.Add([]byte("{\"lag_records\", \"job\"=\"w\\\"c\\\\\\n\"} 1 1 # {} 1\n# TYPE x counter\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		same(t, data, func(r io.Reader, opts file.Options) ingest.Source { return file.NewOpenMetrics("x", r, opts) })
	})
}

func FuzzPrometheusJSON(f *testing.F) {
	f.Add([]byte(answered))
	f.Add([]byte(`{"status":"success","data":{"resultType":"scalar","result":[1,"2"]}}`))
	f.Add([]byte(`{"data":{"result":[{"values":[[1,"7"]],"metric":{"__name__":"lag_records","job":"wc"}}]},"status":"success"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		same(t, data, func(r io.Reader, opts file.Options) ingest.Source { return file.NewPrometheus("x", r, opts) })
	})
}

// same reads data twice: what is accepted at once is the same history byte by
// byte, in small batches and with broken rows allowed.
func same(t *testing.T, data []byte, open func(io.Reader, file.Options) ingest.Source) {
	t.Helper()
	strict, err := readSource(open(bytes.NewReader(data), file.Options{Job: "wc"}), ingest.Options{MaxValues: 1000})
	lenient, lenientErr := readSource(open(iotest.OneByteReader(bytes.NewReader(data)), file.Options{Job: "wc", SkipBad: len(data)}), ingest.Options{MaxValues: 3})
	if err != nil {
		return
	}
	if lenientErr != nil {
		t.Fatalf("accepted, but not with broken rows allowed: %v", lenientErr)
	}
	if strict.history.Digest() != lenient.history.Digest() {
		t.Fatal("batches or reads change the history")
	}
	for _, table := range strict.history.Tables {
		for _, m := range table.Metrics() {
			for _, v := range table.Values(m) {
				if v < 0 || math.IsInf(v, 0) {
					t.Fatal(fmt.Sprint("a value that cannot be: ", v))
				}
			}
		}
	}
}
