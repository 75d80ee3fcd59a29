package main

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// job is n quiet seconds of a job on ten TaskManagers, at 30 % of its processors.
func job(seed uint64, n int) *run {
	rng := rand.New(rand.NewPCG(seed, 1))
	r := &run{name: "made", policy: "made"}
	for m := range r.values {
		r.values[m] = make([]float64, n)
	}
	for t := range n {
		r.values[lag][t] = 1000 + 50*rng.NormFloat64()
		r.values[cpu][t] = 0.3 + 0.02*rng.NormFloat64()
		r.values[latency][t] = 1100 + 30*rng.NormFloat64()
		r.values[managers][t] = 10
		r.values[throughput][t] = 5000 + 100*rng.NormFloat64()
	}
	return r
}

// cut stalls the job at a second; its TaskManager is declared lost 17 s later and
// comes back 10 s after that.
func cut(r *run, at int) {
	for t := at; t < at+17; t++ {
		r.values[cpu][t], r.values[latency][t] = 0.1, r.values[latency][at-1]
	}
	for t := at + 17; t < at+27; t++ {
		r.values[managers][t]--
	}
	r.faults = append(r.faults, at)
}

// rescale stops all TaskManagers at a second, one first, and starts fewer or as
// many 30 s later.
func rescale(r *run, at int, to float64) {
	r.values[managers][at]--
	for t := at + 1; t < at+30; t++ {
		r.values[managers][t] = 0
		for _, m := range []int{lag, cpu, latency, throughput} {
			r.values[m][t] = math.NaN()
		}
	}
	for t := at + 30; t < r.seconds(); t++ {
		r.values[managers][t] = to
	}
}

// drain takes one TaskManager away, as a reactive scaling down does.
func drain(r *run, at int) {
	for t := at; t < r.seconds(); t++ {
		r.values[managers][t]--
	}
}

func made(seed uint64) *run {
	r := job(seed, 4000)
	rescale(r, 1000, 10)
	drain(r, 1500)
	drain(r, 3000)
	cut(r, 500)
	cut(r, 2500)
	return r
}

func TestAFaultIsToldFromARescale(t *testing.T) {
	s, err := learn([]*run{made(1), made(2)})
	if err != nil {
		t.Fatal(err)
	}
	r := made(3)
	got, found, of := judge(r.faults, s.raised(r, 0.5))
	if want := (tally{hit: 2}); got != want {
		t.Fatalf("%+v, want %+v", got, want)
	}
	for i, a := range found {
		// Lost after 17 s, judged 15 s later; the stall began at the fault.
		if a.at-of[i] != 32 || math.Abs(float64(a.since-of[i])) > 1 {
			t.Errorf("fault at %d: alarm at %d since %d", of[i], a.at, a.since)
		}
	}
}

// What happened more than 160 s before, and what comes later than 15 s after a
// loss, changes nothing: far less than the 600 s that the task allows.
func TestAnEventLooksNoFurtherThanItSays(t *testing.T) {
	want := events(made(4))
	r := made(4)
	for m := range r.values {
		for s := range 2500 - 160 {
			r.values[m][s] = math.NaN()
		}
		for s := 2500 + 17 + decided + 1; s < r.seconds(); s++ {
			r.values[m][s] = math.NaN()
		}
	}
	got := events(r)
	i := slices.IndexFunc(want, func(e event) bool { return e.at == 2517 })
	if i < 0 || len(got) != 1 || got[0].at != 2517 || got[0].since != want[i].since || !slices.Equal(got[0].features, want[i].features) {
		t.Errorf("%+v, was one of %+v", got, want)
	}
}

func TestFeaturesAreNumbersWhateverIsMissing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := made(5)
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		for m := range r.values {
			for s := range r.values[m] {
				switch rng.IntN(10) {
				case 0, 1, 2:
					r.values[m][s] = math.NaN()
				case 3:
					r.values[m][s] = 0
				}
			}
		}
		for _, e := range events(r) {
			for j, v := range e.features {
				if math.IsNaN(v) || math.IsInf(v, 0) {
					t.Fatalf("%s is %v", featureNames[j], v)
				}
			}
		}
	})
}

// folder writes runs as their publisher does.
func folder(t *testing.T, runs ...*run) string {
	t.Helper()
	dir := t.TempDir()
	labels := "run,workload,policy,event,start_ts,end_ts,source\n"
	for _, r := range runs {
		data := filepath.Join(dir, "results", r.name, "data")
		if err := os.MkdirAll(data, 0o755); err != nil {
			t.Fatal(err)
		}
		for m, metric := range metrics {
			var text bytes.Buffer
			z := gzip.NewWriter(&text)
			fmt.Fprintln(z, "timestamp|value")
			for s, v := range r.values[m] {
				fmt.Fprintf(z, "%d|%v\n", 1_700_000_000+s, v)
			}
			z.Close()
			if err := os.WriteFile(filepath.Join(data, r.policy+"-"+metric+"-data.csv.gz"), text.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		for _, f := range append(r.faults, 5000) {
			labels += fmt.Sprintf("%s,ADS,%s,fault,%d,0,log\n", r.name, r.policy, 1_700_000_000+f)
		}
		labels += fmt.Sprintf("%s,ADS,%s,reconfiguration,%d,0,log\n", r.name, r.policy, 1_700_001_000)
	}
	if err := os.WriteFile(filepath.Join(dir, "labels.csv"), []byte(labels), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// Three runs of two faults each, and one labelled after the end; two are fitted
// on. The same bytes twice.
func TestTheReportSaysWhatWasHeldOut(t *testing.T) {
	var runs []*run
	for i := range 3 {
		r := made(uint64(i))
		r.name = fmt.Sprint("run", i)
		runs = append(runs, r)
	}
	dir := folder(t, runs...)
	var first, second bytes.Buffer
	for _, w := range []*bytes.Buffer{&first, &second} {
		if err := report(w, dir, []string{"run0", "run1"}, 0.5); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Error("another report of the same runs")
	}
	for _, want := range []string{
		"fitted on 2 runs: run0, run1\nheld out: 1 runs, 2 faults (1 more are",
		"run2                           2 faults  hit   2  missed  0  false   0",
		"(rescales, 1 of them labelled): 3, alarmed 0",
		"with the 1 faults after the last second counted as missed: recall 0.667  F1 0.800",
	} {
		if !strings.Contains(first.String(), want) {
			t.Errorf("no %q in\n%s", want, first.String())
		}
	}
	if err := report(&first, dir, []string{"run0", "run1", "run2"}, 0.5); err == nil {
		t.Error("nothing was held out")
	}
}

// Two alarms 299 s apart are one, 300 s two; the window is -5 to +240 s.
func TestAlarmsAreMergedAndMatchedByTheTasksWindow(t *testing.T) {
	at := func(seconds ...int) (out []alarm) {
		for _, s := range seconds {
			out = append(out, alarm{at: s})
		}
		return out
	}
	for _, c := range []struct {
		alarms []alarm
		want   tally
	}{
		{at(995), tally{1, 0, 0}},
		{at(994), tally{0, 1, 1}},
		{at(1240), tally{1, 0, 0}},
		{at(1241), tally{0, 1, 1}},
		{at(1000, 1299), tally{1, 0, 0}},
		{at(1000, 1300), tally{1, 0, 1}},
		{at(900, 1000), tally{0, 1, 1}}, // the false one swallows the true
		{nil, tally{0, 1, 0}},
	} {
		if got, _, _ := judge([]int{1000}, c.alarms); got != c.want {
			t.Errorf("%v: %+v, want %+v", c.alarms, got, c.want)
		}
	}
	// 3 hits, 1 missed, 2 false: precision 3/5, recall 3/4, F1 6/9.
	all := tally{3, 1, 2}
	if all.precision() != 0.6 || all.recall() != 0.75 || math.Abs(all.f1()-2.0/3) > 1e-12 {
		t.Errorf("%v %v %v", all.precision(), all.recall(), all.f1())
	}
}

func TestAScorerNeedsBothClasses(t *testing.T) {
	if _, err := fitScorer([][]float64{{1}, {2}}, []bool{true, true}); err == nil {
		t.Error("one class was fitted")
	}
	s, err := fitScorer([][]float64{{1, 5}, {2, 5}, {8, 5}, {9, 5}}, []bool{false, false, true, true})
	if err != nil || s.probability([]float64{1, 5}) > 0.3 || s.probability([]float64{9, 5}) < 0.7 {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestGapsOfASeriesAreUnknown(t *testing.T) {
	one, err := parseSeries(strings.NewReader("timestamp|value\n10|1\n12|NaN\n13|3\n"))
	if err != nil {
		t.Fatal(err)
	}
	r, err := align("r", "p", [5]map[int64]float64{one, {14: 1}, {14: 1}, {14: 1}, {14: 1}})
	if err != nil || r.start != 10 || r.seconds() != 5 {
		t.Fatalf("%+v, %v", r, err)
	}
	if v := r.values[lag]; v[0] != 1 || !math.IsNaN(v[1]) || !math.IsNaN(v[2]) || v[3] != 3 || !math.IsNaN(v[4]) {
		t.Errorf("%v", v)
	}
	if _, err := align("r", "p", [5]map[int64]float64{{0: 1}, {math.MaxInt64: 1}}); err == nil {
		t.Error("times of all epochs were laid out")
	}
}

func FuzzSeries(f *testing.F) {
	f.Add("timestamp|value\n1695977587|0.5\n1695977588|NaN\n")
	f.Add("\n|\n")
	f.Add("h\n9223372036854775807|1\n-9223372036854775808|1\n")
	f.Fuzz(func(t *testing.T, text string) {
		one, err := parseSeries(strings.NewReader(text))
		if err != nil {
			return
		}
		if r, err := align("r", "p", [5]map[int64]float64{one}); err == nil {
			events(r)
		}
	})
}
