package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/features"
	"github.com/dhalion-go/dhalion/internal/store"
)

const (
	windows      = 360
	windowLength = time.Minute
)

// evaluate measures count, mean, standard deviation, least-squares slope, p50 and
// p95 of every series in the 360 windows of 60 s before the newest measurement:
// from PostgreSQL by this process, and from one wide zstd Parquet file by a Python
// process with two threads. Python's imports are not counted; connecting to the
// database is.
func (b *bench) evaluate(ctx context.Context) error {
	times := b.times
	if times == 0 {
		times = 2160
	}
	if b.python == "" {
		out, err := exec.Command("scripts/python").Output()
		if err != nil {
			return fmt.Errorf("scripts/python: %w", err)
		}
		b.python = strings.TrimSpace(string(out))
	}
	values := times * instances * len(metrics)
	wide := filepath.Join(b.dir, "wide.parquet")
	if err := writeWide(wide, times); err != nil {
		return err
	}
	url, drop, err := b.database(ctx, "bench_evaluate")
	if err != nil {
		return err
	}
	defer drop()
	long := filepath.Join(b.dir, "long.parquet")
	if err := writeParquet(long, times, timeMajor); err != nil {
		return err
	}
	for _, args := range [][]string{{"ingest", long, "-o", "json"}, {"db", "compact"}} {
		if _, _, _, err := command([]string{"DATABASE_URL=" + url}, b.binary, args...); err != nil {
			return err
		}
	}
	fmt.Printf("%.3g values (%d series, %d windows of %s)\n\n", float64(values), instances*len(metrics), windows, windowLength)
	at := first.Add(time.Duration(times-1) * every)
	type side struct {
		name, engine string
		count        int
		took         []time.Duration
		result       string
	}
	var sides []*side
	for _, n := range []int{windows, 1} {
		for _, engine := range []string{"dhalion", "duckdb", "polars"} {
			sides = append(sides, &side{name: fmt.Sprintf("%s, %d windows", engine, n), engine: engine, count: n, result: filepath.Join(b.dir, fmt.Sprintf("%s.%d.f64", engine, n))})
		}
	}
	for range b.rounds {
		for _, s := range sides {
			var took time.Duration
			if s.engine == "dhalion" {
				took, err = b.ours(ctx, url, at, s.count, s.result)
			} else {
				took, err = b.theirs(s.engine, wide, at, s.count, s.result)
			}
			if err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
			s.took = append(s.took, took)
		}
	}
	for _, s := range sides {
		fmt.Printf("  %-24s %7.3f s\n", s.name, median(s.took).Seconds())
	}
	fmt.Println()
	for n := 0; n < len(sides); n += 3 {
		own, best := sides[n], sides[n+1]
		if median(sides[n+2].took) < median(best.took) {
			best = sides[n+2]
		}
		worst, err := compare(own.result, sides[n+1].result)
		if err != nil {
			return err
		}
		again, err := compare(own.result, sides[n+2].result)
		if err != nil {
			return err
		}
		fmt.Printf("  greatest relative difference of a number     %.1e\n", max(worst, again))
		if max(worst, again) > 1e-9 {
			return fmt.Errorf("%d windows: the numbers differ by %.1e", own.count, max(worst, again))
		}
		ratio := median(own.took).Seconds() / median(best.took).Seconds()
		what := fmt.Sprintf("%d windows: dhalion's time over %s's", own.count, best.engine)
		if own.count == windows {
			b.atMost(what, ratio, 0.5)
		} else {
			fmt.Printf("  %-44s %6.2f  (printed only)\n", what, ratio)
		}
	}
	return nil
}

// ours is everything from the URL of the database to the numbers in memory.
func (b *bench) ours(ctx context.Context, url string, at time.Time, count int, result string) (time.Duration, error) {
	runtime.GC()
	began := time.Now()
	st, err := store.Open(ctx, url, store.Options{})
	if err != nil {
		return 0, err
	}
	defer st.Close()
	h, err := st.History(ctx, "file/"+job, at.Add(-time.Duration(count)*windowLength), at)
	if err != nil {
		return 0, err
	}
	table := h.Tables[dhalion.KindInstance]
	if table == nil {
		return 0, fmt.Errorf("no history")
	}
	s := features.Summarise(table, at, windowLength, count)
	took := time.Since(began)
	return took, writeResult(result, s)
}

// writeResult writes the numbers as little-endian float64: by target, window,
// metric, then count, mean, standard deviation, slope, p50, p95.
func writeResult(path string, s *features.Statistics) error {
	order := make([]int, len(metrics)) // of the metrics in this file
	for n, m := range metrics {
		if order[n] = slices.Index(s.Metrics, m); order[n] < 0 {
			return fmt.Errorf("%s is missing", m)
		}
	}
	var out []byte
	for t := range s.Targets {
		for w := range s.Windows {
			for _, m := range order {
				c := s.Cell(t, m, w)
				for _, v := range []float64{float64(s.Count[c]), s.Mean[c], s.Std[c], s.Slope[c], s.P50[c], s.P95[c]} {
					out = binary.LittleEndian.AppendUint64(out, math.Float64bits(v))
				}
			}
		}
	}
	return os.WriteFile(path, out, 0o644)
}

func (b *bench) theirs(engine, file string, at time.Time, count int, result string) (time.Duration, error) {
	names := make([]string, len(metrics))
	for i, m := range metrics {
		names[i] = string(m)
	}
	_, _, out, err := command([]string{"POLARS_MAX_THREADS=2"}, b.python, "lab/bench/evaluate.py", engine, file,
		fmt.Sprint(at.UnixMilli()), fmt.Sprint(windowLength.Milliseconds()), fmt.Sprint(count), strings.Join(names, ","), result)
	if err != nil {
		return 0, err
	}
	var answer struct {
		Seconds float64 `json:"seconds"`
	}
	if err := json.Unmarshal(out, &answer); err != nil || answer.Seconds <= 0 {
		return 0, fmt.Errorf("its answer %q: %v", out, err)
	}
	return time.Duration(answer.Seconds * float64(time.Second)), nil
}

// compare is the greatest relative difference between two results.
func compare(one, other string) (float64, error) {
	a, err := os.ReadFile(one)
	if err != nil {
		return 0, err
	}
	b, err := os.ReadFile(other)
	if err != nil {
		return 0, err
	}
	if len(a) != len(b) || len(a) == 0 {
		return 0, fmt.Errorf("%s has %d bytes, %s %d", filepath.Base(one), len(a), filepath.Base(other), len(b))
	}
	worst := 0.0
	for n := 0; n < len(a); n += 8 {
		x, y := math.Float64frombits(binary.LittleEndian.Uint64(a[n:])), math.Float64frombits(binary.LittleEndian.Uint64(b[n:]))
		if math.IsNaN(x) != math.IsNaN(y) {
			return 0, fmt.Errorf("number %d is %v and %v", n/8, x, y)
		}
		if d := math.Abs(x - y); d > 0 {
			worst = max(worst, d/max(1, math.Abs(x), math.Abs(y)))
		}
	}
	return worst, nil
}
