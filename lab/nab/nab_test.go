package main

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// made is 1,000 rows, a value a minute, with windows at 200–299 and 600–699.
func made() *series {
	s := &series{name: "made/one.csv", windows: []window{{200, 299}, {600, 699}}}
	r := rand.New(rand.NewPCG(1, 1))
	for i := range 1000 {
		s.times = append(s.times, time.Unix(int64(60*i), 0).UTC())
		s.values = append(s.values, 50+r.NormFloat64())
	}
	return s
}

func at(rows ...int) []float64 {
	out := make([]float64, 1000)
	for _, i := range rows {
		out[i] = 1
	}
	return out
}

// By the paper: a detection at a window's first row is worth 1, at its last
// sigmoid(-1/100)/sigmoid(-1) = .025, one just after it next to nothing, one three
// widths later -.11 in whole.
func TestADetectionIsWorthWhatThePaperSays(t *testing.T) {
	p := profiles[0]
	sigma := func(y float64) float64 { return 2/(1+math.Exp(5*y)) - 1 }
	for _, c := range []struct {
		rows []int
		want float64
	}{
		{nil, -2},
		{[]int{200, 600}, 2},
		{[]int{200, 600, 601, 650}, 2}, // the first in a window counts
		{[]int{299}, sigma(-0.01)/sigma(-1) - 1},
		{[]int{250}, sigma(-0.5)/sigma(-1) - 1},
		{[]int{150}, -0.11 - 2},                                   // before the first window
		{[]int{149}, -2},                                          // on probation: 15 % of 1,000 rows
		{[]int{349}, 0.11*sigma(50.0/99) - 2},                     // 50 rows after a window of 100
		{[]int{998}, -0.11 - 2},                                   // 3.02 widths after a window
		{[]int{598}, -0.11 - 2},                                   // the same, before the second
		{[]int{300, 301}, 0.11*(sigma(1.0/99)+sigma(2.0/99)) - 2}, // each false one counts
	} {
		if got := total(worths(made(), at(c.rows...), p), 1, p); math.Abs(got-c.want) > 1e-9 {
			t.Errorf("detections at %v: %.4f, want %.4f", c.rows, got, c.want)
		}
	}
}

func TestProbationIsFifteenPerCentOfAtMostFiveThousandRows(t *testing.T) {
	for rows, want := range map[int]int{1000: 150, 1127: 169, 5000: 750, 22_695: 750, 0: 0} {
		if got := probation(rows); got != want {
			t.Errorf("%d rows: %d, want %d", rows, got, want)
		}
	}
}

func TestNullIsZeroAndPerfectAHundredInEveryProfile(t *testing.T) {
	s := made()
	for _, p := range profiles {
		for _, c := range []struct {
			d    detector
			want float64
		}{{silent, 0}, {perfect, 100}} {
			_, raw := optimum([][]row{worths(s, c.d(s), p)}, p)
			if got := normalised(raw, 2, p); math.Abs(got-c.want) > 1e-9 {
				t.Errorf("%s: %g, want %g", p.name, got, c.want)
			}
		}
	}
}

// The sweep against every threshold that can matter.
func TestTheOptimumIsTheBestOfAllThresholds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := profiles[rapid.IntRange(0, 2).Draw(t, "profile")]
		var files [][]row
		levels := []float64{math.Inf(1), 0, 1, 2, 3, 4, 5}
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		for range rapid.IntRange(1, 3).Draw(t, "files") {
			scores := make([]float64, 1000)
			for i := range scores {
				scores[i] = float64(min(r.IntN(6), r.IntN(6), r.IntN(6)))
			}
			files = append(files, worths(made(), scores, p))
		}
		best := math.Inf(-1)
		for _, threshold := range levels {
			sum := 0.0
			for _, rows := range files {
				sum += total(rows, threshold, p)
			}
			best = max(best, sum)
		}
		if _, got := optimum(files, p); math.Abs(got-best) > 1e-9 {
			t.Fatalf("%g, want %g", got, best)
		}
	})
}

func TestAHeldScoreIsAboveAllBeforeIt(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		scores := rapid.SliceOfN(rapid.Map(rapid.IntRange(0, 5), func(i int) float64 { return float64(i) }), 0, 60).Draw(t, "scores")
		n := rapid.IntRange(1, 20).Draw(t, "rows")
		for i, got := range hold(scores, n) {
			want := scores[i]
			if before := scores[max(0, i-n):i]; len(before) > 0 && slices.Max(before) >= want {
				want = 0
			}
			if got != want {
				t.Fatalf("row %d: %g, want %g", i, got, want)
			}
		}
	})
}

// The score of a row is the same whatever comes after it.
func TestTheLearnedLimitDoesNotLookAhead(t *testing.T) {
	s := made()
	s.values[700] = 80
	want, err := rarity(s, chosen)
	if err != nil {
		t.Fatal(err)
	}
	if want[700] != certain {
		t.Errorf("thirty spreads are %g nats", want[700])
	}
	short := &series{values: s.values[:750]}
	got, _ := rarity(short, chosen)
	if !slices.Equal(got, want[:750]) {
		t.Error("rows to come change scores")
	}
}

func FuzzParse(f *testing.F) {
	f.Add("timestamp,value\n2014-02-14 14:30:00,0.132\n2014-02-14 14:35:00,NaN\n")
	f.Add("timestamp,value\n,\n")
	f.Fuzz(func(t *testing.T, text string) {
		times, values, err := parse(strings.NewReader(text))
		if err == nil && len(times) != len(values) {
			t.Fatalf("%d times, %d values", len(times), len(values))
		}
		if err == nil {
			if _, err := rarity(&series{times: times, values: values}, chosen); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// Two folders of one series, each with a spike in its window: both are found, also
// by the threshold of the other. Of noise, one row in 1,100 is as rare as counts:
// one of 2,800 here costs .11 of the 4 between null and perfect.
func TestTheReportLeavesAFolderOut(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for k, folder := range []string{"a", "b"} {
		r := rand.New(rand.NewPCG(uint64(k), 1))
		text := "timestamp,value\n"
		for i := range 2000 {
			v := 50 + r.NormFloat64()
			if i == 1600 {
				v = 90
			}
			text += fmt.Sprintf("%s,%g\n", time.Unix(int64(60*i), 0).UTC().Format(time.DateTime), v)
		}
		write("data/"+folder+"/one.csv", text)
	}
	at := func(row int) string { return time.Unix(int64(60*row), 0).UTC().Format(time.DateTime) + ".000000" }
	window := fmt.Sprintf("[[%q, %q]]", at(1600), at(1700))
	write("labels/combined_windows.json", fmt.Sprintf(`{"a/one.csv": %s, "b/one.csv": %s}`, window, window))
	write("anchors_per_file_standard.csv", "detector,file,score\nnull,a/one.csv,-1.0\nnull,b/one.csv,-2.0\n")
	var out bytes.Buffer
	if err := report(&out, dir); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"2 series, 2 windows",
		"perfect             standard 100.00",
		"null detector: 1 of 2 files score as published",
		"learned limit       standard  97.25",
		"all: 97.2 | 97.2",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
	write("labels/combined_windows.json", `{"a/one.csv": [["1999-01-01 00:00:00", "1999-01-02 00:00:00"]]}`)
	if err := report(&out, dir); err == nil {
		t.Error("a window outside its file was taken")
	}
}
