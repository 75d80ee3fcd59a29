// Command nab scores a learned limit on the Numenta Anomaly Benchmark (Lavin and
// Ahmad 2015), by a scorer written from its published definition.
//
//	go run ./lab/nab -data FOLDER
//
// FOLDER has data, labels/combined_windows.json and, to check the scorer by, the
// raw scores of published detectors in anchors_per_file_standard.csv (NAB, MIT).
// One setting serves all series. NAB finds the threshold on the very series that
// it scores; two more figures choose it, and it and the setting, with the scored
// folder left out.
package main

import (
	"encoding/csv"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
)

func main() {
	data := flag.String("data", "", "`folder` with data and labels")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: nab -data FOLDER")
		flag.PrintDefaults()
	}
	flag.Parse()
	if *data == "" || flag.NArg() != 0 {
		flag.Usage()
		os.Exit(64)
	}
	if err := report(os.Stdout, *data); err != nil {
		fmt.Fprintln(os.Stderr, "nab:", err)
		os.Exit(1)
	}
}

func report(w io.Writer, data string) error {
	all, err := read(data)
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "%d series, %d windows, threshold by NAB's optimiser\n", len(all), count(all))
	for _, d := range []struct {
		name string
		of   detector
	}{{"null", silent}, {"perfect", perfect}, {"windowed Gaussian", gaussian}} {
		var scores [][]float64
		for _, s := range all {
			scores = append(scores, d.of(s))
		}
		line(w, d.name, all, scores)
	}
	if err := check(w, filepath.Join(data, "anchors_per_file_standard.csv"), all); err != nil {
		return err
	}

	settings := grid()
	scores, err := scoreAll(all, settings)
	if err != nil {
		return err
	}
	at := slices.Index(settings, chosen)
	line(w, "learned limit", all, scores[at])
	fmt.Fprintf(w, "  %+v for all series; of %d settings tried on all, standard profile: lowest, median, highest", chosen, len(settings))
	var tried []float64
	p := profiles[0]
	for k := range settings {
		_, raw := optimum(rowsOf(all, scores[k], p), p)
		tried = append(tried, normalised(raw, count(all), p))
	}
	slices.Sort(tried)
	fmt.Fprintf(w, " %.1f, %.1f, %.1f\n", tried[0], tried[len(tried)/2], tried[len(tried)-1])

	fmt.Fprintln(w, "\none folder left out at a time, standard profile; what is chosen on the others: threshold | threshold and setting")
	var folders []string
	for _, s := range all {
		if !slices.Contains(folders, s.folder()) {
			folders = append(folders, s.folder())
		}
	}
	var sums [2]float64
	for _, folder := range folders {
		best, bestScore, bestThreshold := at, math.Inf(-1), 0.0
		var mine, others []*series
		for _, s := range all {
			if s.folder() == folder {
				mine = append(mine, s)
			} else {
				others = append(others, s)
			}
		}
		var own [2]float64
		for k := range settings {
			var ownScores, otherScores [][]float64
			for i, s := range all {
				if s.folder() == folder {
					ownScores = append(ownScores, scores[k][i])
				} else {
					otherScores = append(otherScores, scores[k][i])
				}
			}
			threshold, score := optimum(rowsOf(others, otherScores, p), p)
			sum := 0.0
			for _, rows := range rowsOf(mine, ownScores, p) {
				sum += total(rows, threshold, p)
			}
			if k == at {
				own[0] = sum
			}
			if score > bestScore {
				best, bestScore, bestThreshold, own[1] = k, score, threshold, sum
			}
		}
		for k := range sums {
			sums[k] += own[k]
		}
		n := count(mine)
		fmt.Fprintf(w, "  %-22s %2d series %3d windows  raw %7.2f of %d | %7.2f by %+v above %.3f\n", folder, len(mine), n, own[0], n, own[1], settings[best], bestThreshold)
	}
	fmt.Fprintf(w, "  all: %.1f | %.1f\n", normalised(sums[0], count(all), p), normalised(sums[1], count(all), p))
	return nil
}

func count(all []*series) int {
	n := 0
	for _, s := range all {
		n += len(s.windows)
	}
	return n
}

func rowsOf(all []*series, scores [][]float64, p profile) [][]row {
	out := make([][]row, len(all))
	for i, s := range all {
		out[i] = worths(s, scores[i], p)
	}
	return out
}

// line prints a detector's scores in NAB's three profiles.
func line(w io.Writer, name string, all []*series, scores [][]float64) {
	fmt.Fprintf(w, "%-18s", name)
	for _, p := range profiles {
		threshold, raw := optimum(rowsOf(all, scores, p), p)
		fmt.Fprintf(w, "  %s %6.2f (above %.4g)", p.name, normalised(raw, count(all), p), threshold)
	}
	fmt.Fprintln(w)
}

// scoreAll scores all series by all settings: [setting][series][row].
func scoreAll(all []*series, settings []setting) ([][][]float64, error) {
	out := make([][][]float64, len(settings))
	for k := range out {
		out[k] = make([][]float64, len(all))
	}
	failed := make([]error, len(all))
	var wait sync.WaitGroup
	for i, s := range all {
		wait.Go(func() {
			known := map[setting][]float64{} // rarities, by settings without their holds
			for k, c := range settings {
				n := c.Hold
				c.Hold = 0
				if known[c] == nil {
					if known[c], failed[i] = rarity(s, c); failed[i] != nil {
						return
					}
				}
				out[k][i] = hold(known[c], n)
			}
		})
	}
	wait.Wait()
	for _, err := range failed {
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// check compares what saying nothing scores, file by file, with the published
// figures; a folder without them says so.
func check(w io.Writer, path string, all []*series) error {
	f, err := os.Open(path)
	if os.IsNotExist(err) {
		fmt.Fprintln(w, "no published scores to check by")
		return nil
	} else if err != nil {
		return err
	}
	defer f.Close()
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	published := map[string]float64{}
	for _, row := range rows {
		if len(row) < 3 || row[0] != "null" {
			continue
		}
		v, err := strconv.ParseFloat(row[2], 64)
		if err != nil {
			return fmt.Errorf("%s: score %q", path, row[2])
		}
		published[row[1]] = v
	}
	same := 0
	p := profiles[0]
	for _, s := range all {
		want, ok := published[s.name]
		if ok && math.Abs(total(worths(s, silent(s), p), math.Inf(1), p)-want) < 1e-9 {
			same++
		}
	}
	fmt.Fprintf(w, "null detector: %d of %d files score as published\n", same, len(all))
	return nil
}
