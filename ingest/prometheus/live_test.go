package prometheus

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/ingest"
	"github.com/dhalion-go/dhalion/internal/engine/prometheus"
	"github.com/dhalion-go/dhalion/internal/engine/prometheus/promtest"
)

// askerFunc is a function that answers.
type askerFunc func(r prometheus.Range) (string, error)

func (f askerFunc) QueryRange(_ context.Context, r prometheus.Range) ([]byte, error) {
	s, err := f(r)
	return []byte(s), err
}

// busyMapping has the one metric of instances that these tests give.
const busyMapping = `
name: busy
labels: {job: j, component: c, instance: i, worker: w}
queries: [{metric: busy_fraction, target: instance, query: busy}]
`

// answer is the value .5 at the range's first time for each {labels}.
func answer(r prometheus.Range, labels ...string) string {
	var series []string
	for _, l := range labels {
		series = append(series, fmt.Sprintf(`{"metric":{%s},"values":[[%d,"0.5"]]}`, l, r.From.Unix()))
	}
	return `{"status":"success","data":{"resultType":"matrix","result":[` + strings.Join(series, ",") + `]}}`
}

func instances(r prometheus.Range, component string, n int) []string {
	var out []string
	for i := range n {
		out = append(out, fmt.Sprintf(`"j":"job","c":"%s","i":"%d"`, component, i))
	}
	return out
}

func TestAPollTellsATopologyWhenItChanges(t *testing.T) {
	n := map[string]int{}
	r := reader(t, askerFunc(func(r prometheus.Range) (string, error) {
		return answer(r, append(instances(r, "map", n["map"]), instances(r, "sink", n["sink"])...)...), nil
	}), busyMapping, Options{Step: 10 * time.Second})
	second := 0
	poll := func(m, s int) string {
		n["map"], n["sink"] = m, s
		at := noon.Add(time.Duration(second) * time.Second)
		second += 30
		got := gather(t, r.Range(at, at))
		r.Stored()
		var told []string
		for _, topology := range got.topologies {
			told = append(told, fmt.Sprint(topology.From.Sub(noon), " ", topology.By))
			for _, c := range topology.Components {
				told = append(told, fmt.Sprint(c.Name, "=", c.Parallelism))
			}
		}
		return strings.Join(told, " ")
	}
	for i, c := range []struct {
		m, s int
		want string
	}{
		{2, 1, "0s first map=2 sink=1"},
		{2, 1, ""},
		{4, 1, "1m0s operator map=4 sink=1"},
		{3, 1, ""}, // at 1m30s: a restart, or fewer instances?
		{0, 0, ""}, // nothing runs, and nothing is known
		{4, 1, ""}, // a restart
		{2, 1, ""}, // at 3m
		{2, 1, ""},
		{2, 1, "4m0s operator map=2 sink=1"}, // through the window of 60 s
	} {
		if got := poll(c.m, c.s); got != c.want {
			t.Errorf("poll %d: %q, not %q", i, got, c.want)
		}
	}
}

func TestATopologyThatWasNotStoredIsToldAgain(t *testing.T) {
	r := reader(t, askerFunc(func(r prometheus.Range) (string, error) { return answer(r, instances(r, "map", 2)...), nil }), busyMapping, Options{Step: time.Second})
	for range 2 { // Stored is not called
		if got := gather(t, r.Range(noon, noon)); len(got.topologies) != 1 {
			t.Errorf("topologies %+v", got.topologies)
		}
	}
}

func TestAGivenTopologyIsOfOneJob(t *testing.T) {
	given := []dhalion.Topology{{Components: []dhalion.Component{{Name: "map", Parallelism: 2}}}}
	labels := []string{`"j":"one","c":"map","i":"0"`, `"j":"two","c":"map","i":"0"`}
	from := askerFunc(func(r prometheus.Range) (string, error) { return answer(r, labels...), nil })
	if _, err := tryGather(context.Background(), reader(t, from, busyMapping, Options{Step: time.Second, Topology: given}).Range(noon, noon)); err == nil || !strings.Contains(err.Error(), "choose one with --job: one, two") {
		t.Errorf("two jobs: %v", err)
	}
	got := gather(t, reader(t, from, busyMapping, Options{Step: time.Second, Topology: given, Job: "two"}).Range(noon, noon))
	if len(got.topologies) != 1 || len(got.topologies[0].Components) != 1 || !got.topologies[0].From.Equal(noon) || len(got.rows) != 1 || got.report.Jobs[0] != "prometheus/two" {
		t.Errorf("%+v of %v", got.topologies, got.report.Jobs)
	}
}

func TestASeriesThatNamesNoTargetIsLeftOutAndTold(t *testing.T) {
	got := gather(t, reader(t, askerFunc(func(r prometheus.Range) (string, error) {
		return answer(r, `"j":"job","c":"map","i":"0","w":"tm"`, `"j":"job","c":"map"`, `"j":"job","c":"map","i":"-1"`, `"j":"job","c":"map","i":"x"`,
			`"j":"job","i":"1"`, `"c":"map","i":"2"`, `"j":"job","c":"a\u0000b","i":"3"`), nil
	}), busyMapping, Options{Step: time.Second}).Range(noon, noon))
	if len(got.rows) != 1 || got.report.Repairs[UnusableSeries] != 6 || len(got.report.Skipped) != 6 {
		t.Fatalf("%d rows, %v, %v", len(got.rows), got.report.Repairs, got.report.Skipped)
	}
	for i, want := range []string{"no label i for the instance", "label i is no number", "label i is no number", "no label c for the component", "no label j for the job", "control character"} {
		if row := got.report.Skipped[i]; row.File != "mapping.yaml" || row.Line != 4 || !strings.Contains(row.Reason, want) {
			t.Errorf("%v, not %s", row, want)
		}
	}
	// A series that names no job is the one's that was asked for.
	got = gather(t, reader(t, askerFunc(func(r prometheus.Range) (string, error) { return answer(r, `"c":"map","i":"2"`), nil }), busyMapping, Options{Step: time.Second, Job: "mine"}).Range(noon, noon))
	if _, ok := got.rows[key{dhalion.InstanceTarget("prometheus/mine", "map", 2), dhalion.Busy, noon.Unix()}]; !ok {
		t.Errorf("%v", got.rows)
	}
}

func TestAnAnswerThatIsNoneEndsTheRange(t *testing.T) {
	for body, want := range map[string]string{
		"<html>":               "mapping.yaml:4: busy_fraction: ",
		`{"status":"success"}`: "no data",
		`{"status":"success","data":{"resultType":"matrix","result":[{"metric":{"j":"job","c":"map","i":"0"},"values":[[1,"0.5"],`: "breaks off",
	} {
		if _, err := tryGather(context.Background(), reader(t, askerFunc(func(prometheus.Range) (string, error) { return body, nil }), busyMapping, Options{Step: time.Second}).Range(noon, noon)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", body, err)
		}
	}
}

func TestPiecesCoverARangeOnceAndShrinkWhenTheyAreTooLarge(t *testing.T) {
	large := true
	var asked []string
	next := noon
	r := reader(t, askerFunc(func(r prometheus.Range) (string, error) {
		if large && r.Points() > 125 {
			return "", fmt.Errorf("wrapped: %w", &prometheus.TooLargeError{Max: 1})
		}
		if !r.From.Equal(next) || r.Points() > prometheus.MaxPoints {
			t.Errorf("a piece of %d from %s, not %s", r.Points(), r.From, next)
		}
		asked = append(asked, fmt.Sprint(r.Points()))
		next = r.To.Add(r.Step)
		large = false
		return answer(r, instances(r, "map", 1)...), nil
	}), busyMapping, Options{Step: time.Second})
	gather(t, r.Range(noon.Add(-999*time.Millisecond), noon.Add(19_999*time.Second+time.Millisecond)))
	// 500, 250, 125; then, as that gave one value, as many as Prometheus allows.
	if got := strings.Join(asked, " "); got != "125 11000 8875" {
		t.Errorf("pieces of %s, of 20000", got)
	}
	// One time that is too large is an error.
	_, err := tryGather(context.Background(), reader(t, askerFunc(func(prometheus.Range) (string, error) {
		return "", &prometheus.TooLargeError{Max: 32 << 20}
	}), busyMapping, Options{Step: time.Second}).Range(noon, noon.Add(time.Hour)))
	if err == nil || !strings.Contains(err.Error(), "the answer is larger than 32 MiB") {
		t.Errorf("error %v", err)
	}
}

func TestTheContextEndsARange(t *testing.T) {
	gone := errors.New("gone")
	ctx, stop := context.WithCancelCause(context.Background())
	_, err := tryGather(ctx, reader(t, askerFunc(func(prometheus.Range) (string, error) {
		stop(gone)
		return "", errors.New("the connection was closed")
	}), busyMapping, Options{Step: time.Second}).Range(noon, noon))
	if !errors.Is(err, gone) {
		t.Errorf("error %v", err)
	}
}

func TestTimesAreMultiplesOfTheStep(t *testing.T) {
	r := reader(t, nil, busyMapping, Options{Step: 10 * time.Second})
	for at, want := range map[int64]int64{0: 0, 9_999: 0, 10_000: 10_000, -1: -10_000, -10_000: -10_000} {
		if got := r.Align(time.UnixMilli(at)).UnixMilli(); got != want {
			t.Errorf("%d ms: %d, not %d", at, got, want)
		}
	}
	if _, err := NewReader(nil, &Mapping{}, Options{Step: time.Microsecond}); err == nil {
		t.Error("a step of 1 µs passed")
	}
}

func TestStormsMetricsComeOutOfARealPrometheus(t *testing.T) {
	var x text
	const topology = `topology_name="wc",topology_id="wc-1-1"`
	give := func(name, labels string, value func(k int) float64) {
		x.family(name)
		for k := range scrapes {
			x.sample(name, labels, k, value(k))
		}
	}
	flat := func(v float64) func(int) float64 { return func(int) float64 { return v } }
	give("storm_topology_bolts_acked", topology+`,bolt_id="count"`, func(k int) float64 { return float64(1000 + k*every*40) })
	give("storm_topology_bolts_emitted", topology+`,bolt_id="count"`, flat(0)) // a bolt that emits nothing
	give("storm_topology_spouts_emitted", topology+`,spout_id="words"`, func(k int) float64 { return float64(1000 + k*every*70) })
	for name, of := range map[string]map[string]float64{
		"storm_topology_bolts_capacity":  {"count": 1.1, "split": .8},
		"storm_topology_bolts_executors": {"count": 1, "split": 4}, // the busiest of four says nothing of the mean
	} {
		x.family(name)
		for _, bolt := range []string{"count", "split"} {
			for k := range scrapes {
				x.sample(name, topology+fmt.Sprintf(`,bolt_id=%q`, bolt), k, of[bolt])
			}
		}
	}
	x.family("storm_topology_stats_complete_latency")
	for window, ms := range map[string]float64{"600": 250, ":all-time": 9} {
		for k := range scrapes {
			x.sample("storm_topology_stats_complete_latency", topology+fmt.Sprintf(`,window=%q`, window), k, ms)
		}
	}
	x.WriteString("# EOF\n")
	r := reader(t, client(t, promtest.Start(t, x.Bytes())), "storm", Options{Step: 30 * time.Second, Engine: "storm"})
	at := noon.Add(10 * time.Minute)
	got := gather(t, r.Range(at, at))
	want := map[key]float64{}
	set := func(x dhalion.Target, m dhalion.Metric, v float64) { want[key{x, m, at.Unix()}] = v }
	set(dhalion.ComponentTarget("storm/wc", "count"), dhalion.RecordsIn, 40)
	set(dhalion.ComponentTarget("storm/wc", "count"), dhalion.Busy, 1)
	set(dhalion.ComponentTarget("storm/wc", "words"), dhalion.RecordsOut, 70)
	set(dhalion.JobTarget("storm/wc"), dhalion.Latency, .25)
	compare(t, got.rows, want)
	if got.report.Repairs[EmptyQuery] != 1 || got.report.Repairs[ingest.Clamped] != 0 {
		t.Errorf("%v", got.report.Repairs)
	}
}
