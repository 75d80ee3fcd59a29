package flinkautoscaler

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/ingest"
	"github.com/dhalion-go/dhalion/ingest/segment"
)

const job = dhalion.JobID("flink-autoscaler/wordcount")

// The vertices of the states in testdata: a source, and two below it.
var (
	lines  = strings.Repeat("a", 32)
	split  = strings.Repeat("b", 32)
	count  = strings.Repeat("c", 32)
	noon   = time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)
	before = time.Date(2026, 3, 4, 11, 50, 0, 123_456_000, time.UTC)
)

func read(t testing.TB, name string) string {
	t.Helper()
	data, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func state(t testing.TB) State {
	t.Helper()
	polls, err := DecodeMetrics(read(t, "collectedMetrics.json"))
	if err != nil {
		t.Fatal(err)
	}
	scalings, err := DecodeScalings(read(t, "scalingHistory.json"))
	if err != nil {
		t.Fatal(err)
	}
	return State{Polls: polls, Scalings: scalings, Overrides: map[string]int{lines: 2, split: 4, count: 1}}
}

type key struct {
	component string
	metric    dhalion.Metric
	minute    int
}

func gather(t testing.TB, s State) (rows map[key]float64, topologies []dhalion.Topology, rep ingest.Report) {
	t.Helper()
	rows = map[key]float64{}
	rep, err := ingest.Collect(context.Background(), ingest.Out{
		Segment: func(_ context.Context, seg dhalion.Segment) error {
			table, err := segment.Decode(seg)
			if err != nil {
				return err
			}
			for _, span := range table.Spans() {
				for row := span.Start; row < span.End; row++ {
					for _, m := range table.Metrics() {
						if v := table.Values(m)[row]; v == v {
							rows[key{span.Target.Component, m, int(time.UnixMicro(table.Times()[row]).Sub(noon).Minutes())}] = v
						}
					}
				}
			}
			return nil
		},
		Topology: func(_ context.Context, _ dhalion.JobID, topology dhalion.Topology) error {
			topologies = append(topologies, topology)
			return nil
		},
	}, ingest.Options{}, Source(job, s))
	if err != nil {
		t.Fatal(err)
	}
	return rows, topologies, rep
}

func TestAStateIsAHistoryOfComponents(t *testing.T) {
	rows, topologies, rep := gather(t, state(t))
	want := map[key]float64{
		// The source's lag is 0, 600, 1200: it takes 100/s in and falls back by 10/s.
		{lines, dhalion.Lag, 0}: 0, {lines, dhalion.Lag, 1}: 600, {lines, dhalion.Lag, 2}: 1200,
		{lines, dhalion.OfferedRecords, 1}: 110, {lines, dhalion.OfferedRecords, 2}: 110,
		{lines, dhalion.RecordsOut, 1}: 200, {lines, dhalion.RecordsOut, 2}: 200,
		{split, dhalion.RecordsIn, 1}: 200, {split, dhalion.RecordsIn, 2}: 200,
		{split, dhalion.RecordsOut, 1}: 200, {split, dhalion.RecordsOut, 2}: 200,
		// 90 s of busy time a minute: of three instances, then of four.
		{split, dhalion.Busy, 1}: .5, {split, dhalion.Busy, 2}: .375,
		// Its counter began anew in the first minute; 6000 in the second. It has one
		// instance, so that its LOAD is a mean.
		{count, dhalion.RecordsIn, 2}: 100,
		{count, dhalion.Busy, 0}:      .25, {count, dhalion.Busy, 1}: .25, {count, dhalion.Busy, 2}: .25,
	}
	for k, v := range want {
		if got, ok := rows[k]; !ok || math.Abs(got-v) > 1e-9 {
			t.Errorf("%v: %v (known: %v), not %v", k, got, ok, v)
		}
	}
	for k, v := range rows {
		if _, ok := want[k]; !ok {
			t.Errorf("%v: %v, and nothing should be there", k, v)
		}
	}
	// OBSERVED_TPR at three polls; the counter that fell.
	if rep.Repairs[UnmappedMetric] != 3 || rep.Repairs[ImpossibleValue] != 1 {
		t.Errorf("%v", rep.Repairs)
	}
	var told []string
	for _, topology := range topologies {
		one := fmt.Sprint(topology.From.Format(time.RFC3339Nano), " ", topology.By)
		for _, c := range topology.Components {
			one += fmt.Sprintf(" %s=%d/%d", c.Name[:1], c.Parallelism, c.MaxParallelism)
		}
		told = append(told, one)
	}
	if want := []string{
		"2026-03-04T11:50:00.123456Z operator a=2/0 b=3/128 c=1/0",
		"2026-03-04T12:01:30Z operator a=2/0 b=4/128 c=1/0",
	}; !slices.Equal(told, want) {
		t.Errorf("topologies %q", told)
	}
}

func TestWhatIsNotKnownStaysUnknown(t *testing.T) {
	s := state(t)
	s.Overrides = nil // the source was never rescaled: its parallelism is not known
	rows, topologies, _ := gather(t, s)
	if len(topologies) != 0 {
		t.Errorf("topologies %+v", topologies)
	}
	if _, ok := rows[key{split, dhalion.Busy, 1}]; !ok {
		t.Error("the busy share of a vertex that was rescaled is known")
	}
	s = State{Polls: s.Polls}
	if rows, _, _ = gather(t, s); len(rows) == 0 {
		t.Fatal("nothing is known")
	}
	for k := range rows {
		if k.metric == dhalion.Busy {
			t.Errorf("%v without a parallelism", k)
		}
	}
	// The autoscaler writes a lag of 0 for a source that has no such metric.
	for _, p := range s.Polls {
		p.Vertices[lines]["LAG"] = 0
	}
	rows, _, _ = gather(t, s)
	for k := range rows {
		if k.metric == dhalion.Lag || k.metric == dhalion.OfferedRecords {
			t.Errorf("%v of a source without a lag", k)
		}
	}
}

func TestTheFirstPollIsATopologyOfItsOwn(t *testing.T) {
	s := state(t)
	s.Scalings = s.Scalings[2:] // the one between the polls
	_, topologies, _ := gather(t, s)
	if len(topologies) != 2 || topologies[0].By != dhalion.ChangeFirst || !topologies[0].From.Equal(noon) {
		t.Fatalf("%+v", topologies)
	}
	if c, _ := topologies[0].Component(split); c.Parallelism != 3 {
		t.Errorf("before the rescale %+v", c)
	}
}

func TestOverridesAreReadInBothForms(t *testing.T) {
	want := map[string]int{lines: 2, split: 14}
	for _, text := range []string{lines + ":2," + split + ":14", "{" + lines + ": '2', '" + split + "': \"14\"}\n", " " + lines + " : 2 , " + split + " : 14 "} {
		got, err := DecodeOverrides(text)
		if err != nil || len(got) != 2 || got[lines] != want[lines] || got[split] != want[split] {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	for _, none := range []string{"", " ", "{}"} {
		if got, err := DecodeOverrides(none); err != nil || len(got) != 0 {
			t.Errorf("%q: %v, %v", none, got, err)
		}
	}
}

// packed is gzip in base64.
func packed(t testing.TB, text string) string {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := z.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(b.Bytes())
}

func TestACompressedStateIsRead(t *testing.T) {
	plain, err := DecodeScalings(read(t, "scalingHistory.json"))
	if err != nil || len(plain) != 3 {
		t.Fatalf("%v, %v", plain, err)
	}
	if got, err := DecodeScalings(packed(t, read(t, "scalingHistory.json"))); err != nil || !slices.Equal(got, plain) {
		t.Errorf("%v, %v", got, err)
	}
	if want := (Scaling{before, split, 1, 3, 128}); plain[0] != want {
		t.Errorf("%v, not %v", plain[0], want)
	}
}

func TestAStateThatCannotBeReadSaysWhy(t *testing.T) {
	metrics := func(v string) error { _, err := DecodeMetrics(v); return err }
	scalings := func(v string) error { _, err := DecodeScalings(v); return err }
	overrides := func(v string) error { _, err := DecodeOverrides(v); return err }
	many := func(n int, one func(i int) string) string {
		var parts []string
		for i := range n {
			parts = append(parts, one(i))
		}
		return strings.Join(parts, ",")
	}
	for i, c := range []struct {
		decode      func(string) error
		value, want string
	}{
		{metrics, "invalid", "it is no JSON object"},
		{metrics, "", "it is no JSON object"},
		{metrics, "[]", "it is no JSON object"},
		{metrics, "{", "not the JSON that the autoscaler writes"},
		{metrics, "{} {}", "something follows"},
		{metrics, `{"yesterday":{}}`, `the key "yesterday" is no time`},
		{metrics, `{"+1000000000-12-31T23:59:59.999999999Z":{}}`, "is no time"},
		{metrics, `{"2026-03-04T12:00:00Z":{"vertexMetrics":{"x":{}}}}`, `the key "x" is no id of a vertex`},
		{metrics, `{"2026-03-04T12:00:00Z":{"vertexMetrics":{"` + lines + `":{"LAG":"much"}}}}`, `"much" is no number`},
		{metrics, `{"2026-03-04T12:00:00Z":{},"2026-03-04T12:00:00.0Z":{}}`, "is there twice"},
		{metrics, `{"2026-03-04T12:00:00Z":{"vertexMetrics":{` + many(maxVertices+1, func(i int) string { return fmt.Sprintf(`"%032x":{}`, i) }) + `}}}`, "2001 vertices, more than 2000"},
		{metrics, "H4sI****", "looks like gzip in base64 and is not"},
		{metrics, "H4sIAAAA", "looks like gzip in base64"},
		{metrics, packed(t, "{\"a\":1}")[:20], "decompress"},
		{metrics, packed(t, "---\n\"2026-03-04T12:00:00Z\":\n"), "compressed YAML"},
		{metrics, packed(t, strings.Repeat(" ", MaxValue+1)), "more than 16 MiB decompressed"},
		{metrics, strings.Repeat(" ", MaxValue+1), "more than 16 MiB"},
		{scalings, `{"` + split + `":{"2026-03-04T12:00:00Z":{"currentParallelism":0,"newParallelism":1}}}`, "the parallelism 0"},
		{scalings, `{"` + split + `":{"2026-03-04T12:00:00Z":{"currentParallelism":1,"newParallelism":99999999}}}`, "the parallelism 99999999"},
		{scalings, `{"` + split + `":{` + many(maxScalings+1, func(i int) string {
			return fmt.Sprintf(`"%s":{"currentParallelism":1,"newParallelism":2}`, noon.Add(time.Duration(i)*time.Second).Format(time.RFC3339))
		}) + `}}`, "10001 rescales, more than 10000"},
		{overrides, lines, "the parallelism of " + lines},
		{overrides, lines + ":0", "the parallelism of " + lines},
		{overrides, lines + ":1," + lines + ":2", "is there twice"},
		{overrides, "{" + lines + ":1", "does not end with }"},
		{overrides, "x:1", `the key "x" is no id`},
	} {
		if err := c.decode(c.value); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("case %d: %v, not %s", i, err, c.want)
		}
	}
}

// FuzzState: a state from a database that is not ours is read or refused; what is
// read makes a history that the collector takes.
func FuzzState(f *testing.F) {
	metrics, scalings := read(f, "collectedMetrics.json"), read(f, "scalingHistory.json")
	f.Add(metrics, scalings, lines+":2,"+split+":4,"+count+":1")
	f.Add(packed(f, metrics), packed(f, scalings), "{"+lines+": '2'}")
	f.Add("{}", "{}", "{}")
	f.Fuzz(func(t *testing.T, metrics, scalings, overrides string) {
		var s State
		s.Polls, _ = DecodeMetrics(metrics)
		s.Scalings, _ = DecodeScalings(scalings)
		s.Overrides, _ = DecodeOverrides(overrides)
		if len(s.Polls)*len(s.Scalings) > 10_000 {
			t.Skip("slow, not wrong")
		}
		gather(t, s)
	})
}
