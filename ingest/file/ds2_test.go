package file_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/ingest"
	"github.com/dhalion-go/dhalion/ingest/file"
	"github.com/dhalion-go/dhalion/ingest/segment"
)

const ds2Data = "../../testdata/ds2"

// ds2Read is what DS2's files come to: values by target, metric and time in µs.
type ds2Read struct {
	report     ingest.Report
	values     map[string]float64
	topologies []dhalion.Topology
}

func collectDS2(sources ...ingest.Source) (ds2Read, error) {
	out := ds2Read{values: map[string]float64{}}
	var err error
	out.report, err = ingest.Collect(context.Background(), ingest.Out{
		Segment: func(_ context.Context, s dhalion.Segment) error {
			t, err := segment.Decode(s)
			if err != nil {
				return err
			}
			for _, m := range t.Metrics() {
				values := t.Values(m)
				for _, span := range t.Spans() {
					for k := span.Start; k < span.End; k++ {
						if !math.IsNaN(values[k]) {
							out.values[fmt.Sprintf("%s %s %d", span.Target, m, t.Times()[k])] = values[k]
						}
					}
				}
			}
			return nil
		},
		Topology: func(_ context.Context, _ dhalion.JobID, t dhalion.Topology) error {
			out.topologies = append(out.topologies, t)
			return nil
		},
	}, ingest.Options{}, sources...)
	return out, err
}

func readDS2(content string, opts file.Options) (ds2Read, error) {
	if opts.Job == "" {
		opts.Job = "wc"
	}
	return collectDS2(file.NewDS2("x.log", strings.NewReader(content), opts))
}

func TestDS2sEpochsAreTheKthTimesOfAllInstancesAtTheEarliest(t *testing.T) {
	data, err := os.ReadFile(filepath.Join(ds2Data, "flink_rates.log"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := readDS2(string(data), file.Options{})
	if err != nil {
		t.Fatal(err)
	}
	// Two epochs of four instances with four values. The source ends the first epoch
	// 115,963.235065655 s after 1970 began, and the second 20.005 s later; the others
	// 10 to 35 ms after it.
	if got.report.Values != 32 || got.report.Rows != 8 || got.report.Targets != 4 {
		t.Errorf("%d values, %d rows, %d targets", got.report.Values, got.report.Rows, got.report.Targets)
	}
	first, second := int64(115963235065), int64(115983240052)
	if !got.report.From.Equal(time.UnixMicro(first)) || !got.report.To.Equal(time.UnixMicro(second)) {
		t.Errorf("from %s to %s", got.report.From, got.report.To)
	}
	for key, want := range map[string]float64{
		fmt.Sprintf("Splitter FlatMap[0] true_records_in_per_second %d", first):        122512.72886314773,
		fmt.Sprintf("Splitter FlatMap[1] true_records_out_per_second %d", first):       1246045.8737637822,
		fmt.Sprintf("Splitter FlatMap[1] records_in_per_second %d", second):            39938.11885189523,
		fmt.Sprintf("Splitter FlatMap[1] records_out_per_second %d", second):           405808.060514142,
		fmt.Sprintf("Source: Custom Source[0] true_records_out_per_second %d", first):  109705.37486387165,
		fmt.Sprintf("Source: Custom Source[0] true_records_in_per_second %d", first):   0,
		fmt.Sprintf("Count -> Latency Sink[0] true_records_in_per_second %d", second):  1663458.7635021766,
		fmt.Sprintf("Count -> Latency Sink[0] true_records_out_per_second %d", second): 0,
	} {
		if v, ok := got.values[key]; !ok || v != want {
			t.Errorf("%s is %v (there: %v), want %v", key, v, ok, want)
		}
	}
	// Without a file of edges the rows say how many there are.
	if len(got.topologies) != 1 || fmt.Sprint(got.topologies[0].Components) != "[{Count -> Latency Sink 1 0 false} {Source: Custom Source 1 0 false} {Splitter FlatMap 2 0 false}]" {
		t.Errorf("topologies %v", got.topologies)
	}
}

// The same job with a file for each instance and epoch, read in two orders.
func TestDS2sFilesOfOneJobShareTheirEpochs(t *testing.T) {
	names, err := filepath.Glob(filepath.Join(ds2Data, "epochs", "*.log"))
	if err != nil || len(names) != 24 {
		t.Fatalf("%d files, %v", len(names), err)
	}
	ctx := context.Background()
	read := func(names []string) (ds2Read, string) {
		epochs := &file.DS2Epochs{}
		var sources []ingest.Source
		for _, name := range names {
			data, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			if err := epochs.Add(ctx, name, bytes.NewReader(data)); err != nil {
				t.Fatal(err)
			}
			sources = append(sources, epochs.Source(name, bytes.NewReader(data), file.Options{Job: "wc"}))
		}
		got, err := collectDS2(sources...)
		if err != nil {
			t.Fatal(err)
		}
		return got, epochs.Digest()
	}
	got, digest := read(names)
	times := map[string]int{}
	for key := range got.values {
		times[key[strings.LastIndexByte(key, ' ')+1:]]++
	}
	// Every epoch has the source's time, the earliest, and 4 × 4 values.
	want := "map[115913079126:16 115923182131:16 115933224840:16 115943231720:16 115953233750:16 115963235065:16]"
	if fmt.Sprint(times) != want {
		t.Errorf("times %v, want %s", times, want)
	}
	if len(got.topologies) != 24 {
		t.Fatalf("%d topologies", len(got.topologies))
	}
	for _, topology := range got.topologies {
		if topology.Digest() != got.topologies[0].Digest() || !topology.From.Equal(got.topologies[0].From) || topology.Instances() != 4 {
			t.Errorf("a file tells another topology: %v", topology)
		}
	}
	slices.Reverse(names)
	back, other := read(names)
	if digest != other || fmt.Sprint(got.values) != fmt.Sprint(back.values) {
		t.Error("the order of the files makes a difference")
	}
}

func TestDS2sRowsThatAreBrokenAreNamed(t *testing.T) {
	const good = "a,1,2,1000000,1,2,3,4\n"
	for _, c := range []struct{ row, want string }{
		{"a,1,2,1000000,1,2,3", "x.log:2: the row has 7 fields; DS2's have 8"},
		{"garbage", "x.log:2: the row has 1 fields"},
		{",1,2,1000000,1,2,3,4", "x.log:2: "},
		{"a,x,2,1000000,1,2,3,4", `x.log:2: the instance "x" is no number`},
		{"a,-1,2,1000000,1,2,3,4", "x.log:2: the instance -1 is negative"},
		{"a,3,2,1000000,1,2,3,4", "x.log:2: there is an instance 3 of a, and 2 in all"},
		{"a,1,0,1000000,1,2,3,4", `x.log:2: the number of instances "0" is not between 1`},
		{"a,1,2,-5,1,2,3,4", `x.log:2: the time "-5" is no number of ns since 1970`},
		{"a,1,2,99999999999999999999,1,2,3,4", "x.log:2: the time "},
		{"a,1,2,1000000,-1,2,3,4", `x.log:2: true_records_in_per_second: the value "-1" is no rate`},
		{"a,1,2,1000000,1,inf,3,4", `x.log:2: true_records_out_per_second: the value "inf" is no rate`},
		{"a,1,2,1000000,1,2,1e999,4", `x.log:2: records_in_per_second: the value "1e999" is too large`},
		{"a,1,2,1000000,1,2,3,four", `x.log:2: records_out_per_second: the value "four" is no number`},
	} {
		_, err := readDS2(good+c.row+"\n", file.Options{})
		var row ingest.RowError
		if !errors.As(err, &row) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", c.row, err, c.want)
		}
		got, err := readDS2(good+c.row+"\n", file.Options{SkipBad: 1})
		if err != nil || got.report.Values != 4 || got.report.Repairs[ingest.SkippedRow] != 1 {
			t.Errorf("%s, skipped: %d values, %v, %v", c.row, got.report.Values, got.report.Repairs, err)
		}
	}
	if _, err := collectDS2(file.NewDS2("x.log", strings.NewReader(good), file.Options{})); err == nil || !strings.Contains(err.Error(), "--job NAME") {
		t.Errorf("without a job: %v", err)
	}
	got, err := readDS2("a,1,2,1000000,NaN,,3,4\n", file.Options{})
	if err != nil || got.report.Values != 2 || got.report.Repairs[ingest.MissingValue] != 2 {
		t.Errorf("unknown values: %d, %v, %v", got.report.Values, got.report.Repairs, err)
	}
	got, err = readDS2("# nothing\n\n", file.Options{})
	if err != nil || got.report.Values != 0 {
		t.Errorf("comments alone: %d, %v", got.report.Values, err)
	}
}

func TestDS2sInstancesCountFromOneOrFromZeroAndTheirNumberCanChange(t *testing.T) {
	got, err := readDS2(`Window(5 s, Sum),0,2,1000000,1,2,3,4
Window(5 s, Sum),1,2,2000000,5,6,7,8
sink,1,1,3000000,1,0,1,0
sink,1,2,9000000,1,0,1,0
sink,2,2,9000000,1,0,1,0
`, file.Options{})
	if err != nil {
		t.Fatal(err)
	}
	// sink[1] has its first time when sink[0] has its second: epochs are numbered per
	// instance, whatever the clock says, and get the earliest time.
	for key, want := range map[string]float64{
		"Window(5 s, Sum)[0] true_records_in_per_second 1000": 1, "Window(5 s, Sum)[1] true_records_in_per_second 1000": 5,
		"sink[0] true_records_in_per_second 1000": 1, "sink[1] true_records_in_per_second 1000": 1, "sink[0] true_records_in_per_second 9000": 1,
	} {
		if v, ok := got.values[key]; !ok || v != want {
			t.Errorf("%s is %v, want %v, of %v", key, v, want, got.values)
		}
	}
	got, err = readDS2("a,1,1,1000000,1,2,3,4\na,1,2,5000000,1,2,3,4\n", file.Options{})
	if err != nil || len(got.topologies) != 2 || got.topologies[1].By != dhalion.ChangeOperator || got.topologies[1].Components[0].Parallelism != 2 ||
		!got.topologies[1].From.Equal(time.UnixMicro(5000)) {
		t.Errorf("topologies %v, %v", got.topologies, err)
	}
}

func TestDS2sEdgesAreATopologyThatTheRatesMustAgreeWith(t *testing.T) {
	f, err := os.Open(filepath.Join(ds2Data, "flink_wordcount_topology.csv"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	list, err := file.ReadDS2Topology("t.csv", f)
	if err != nil || len(list) != 1 {
		t.Fatalf("%v, %v", list, err)
	}
	if got := fmt.Sprint(list[0].Order(), list[0].Instances(), list[0].Edges); got !=
		"[Source: Custom Source Splitter FlatMap Count -> Latency Sink] 4 [{Source: Custom Source Splitter FlatMap } {Splitter FlatMap Count -> Latency Sink }]" {
		t.Errorf("topology %s", got)
	}
	got, err := readDS2("Splitter FlatMap,1,2,1000000,1,2,3,4\n", file.Options{Topology: list})
	if err != nil || len(got.topologies) != 1 || len(got.topologies[0].Edges) != 2 || !got.topologies[0].From.Equal(time.UnixMicro(1000)) {
		t.Errorf("topologies %v, %v", got.topologies, err)
	}
	for row, want := range map[string]string{
		"Splitter FlatMap,1,3,1000000,1,2,3,4": "x.log:1: the row counts 3 instances of Splitter FlatMap, the topology 2",
		"Splitter,1,2,1000000,1,2,3,4":         `x.log:1: the topology has no operator "Splitter"`,
	} {
		if _, err := readDS2(row, file.Options{Topology: list}); err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", row, err, want)
		}
	}
	for content, want := range map[string]string{
		"":                            "t.csv:1: there is no edge in the file",
		"# nothing":                   "t.csv:1: there is no edge in the file",
		"a,a,1,b,b":                   "t.csv:1: the line has 5 fields",
		"\na,a,1,,b,1":                "t.csv:2: ",
		"a,a,0,b,b,1":                 `t.csv:1: the number of instances "0"`,
		"a,a,x,b,b,1":                 `t.csv:1: the number of instances "x"`,
		"a,a,1,b,b,1\na,a,2,c,c,1":    "t.csv:2: a has 2 instances here and 1 before",
		"a,a,1,b,b,1\na,aa,1,c,c,1":   `t.csv:2: a is called "aa" here and "a" before`,
		"a,a,1,b,b,1\na,a,1,b,b,1":    "t.csv:2: the edge a -> b is there twice",
		"a,a,1,b,b,1\nb,b,1,a,a,1\n#": "t.csv:2: the edge b -> a closes a cycle",
		"a,a,1,a,a,1":                 "t.csv:1: the edge goes from a to itself",
	} {
		if _, err := file.ReadDS2Topology("t.csv", strings.NewReader(content)); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q: %v, want %s", content, err, want)
		}
	}
}

// Whatever the content, reading ends, and a row is taken or named.
func FuzzDS2(f *testing.F) {
	f.Add([]byte("# a\nSource: Custom Source,1,1,115963235065655,0,109705.37486387165,0,79940.07986534949\n"), 0)
	f.Add([]byte("a,0,2,1,1,2,3,4\na,1,2,1,NaN,,3,4\n\nb,1,1,9,-1,inf,x,1e999"), 2)
	f.Add([]byte("a,\"b\n,1,1,1,1,2,3,4"), 1)
	f.Fuzz(func(t *testing.T, data []byte, skip int) {
		skip = min(max(skip, 0), 100)
		got, err := collectDS2(file.NewDS2("x.log", bytes.NewReader(data), file.Options{Job: "wc", SkipBad: skip}))
		var row ingest.RowError
		if err != nil && !errors.As(err, &row) {
			t.Fatalf("an error without a line: %v", err)
		}
		for key, v := range got.values {
			if v < 0 || math.IsInf(v, 0) {
				t.Fatalf("%s is %v", key, v)
			}
		}
		list, err := file.ReadDS2Topology("t.csv", bytes.NewReader(data))
		if err != nil && !errors.As(err, &row) {
			t.Fatalf("an error of the edges without a line: %v", err)
		}
		for _, topology := range list {
			if err := topology.Validate(); err != nil {
				t.Fatal(err)
			}
		}
	})
}
