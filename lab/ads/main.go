// Command ads raises alarms of injected faults in recorded runs of a Flink job
// that is also being rescaled, and scores them on runs that it learned nothing
// from.
//
//	go run ./lab/ads -data FOLDER
//
// FOLDER has results/RUN/data/POLICY-METRIC-data.csv.gz and labels.csv, as
// dos-group/demeter publishes them (Apache-2.0). The alarm, its features and its
// constants were chosen on the runs of -fit; the others were first read when they
// were scored. A second table leaves out one run at a time.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

func main() {
	data := flag.String("data", "", "`folder` with results and labels.csv")
	fit := flag.String("fit", "1_demeter_ADS_24_small_new,1_operator35_ADS_24_small,1_reactive35_ADS_24_small", "runs to fit on, with commas between; the others are scored")
	threshold := flag.Float64("threshold", 0.5, "probability above which an alarm is raised")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: ads -data FOLDER [flags]")
		flag.PrintDefaults()
	}
	flag.Parse()
	if *data == "" || flag.NArg() != 0 {
		flag.Usage()
		os.Exit(64)
	}
	if err := report(os.Stdout, *data, strings.Split(*fit, ","), *threshold); err != nil {
		fmt.Fprintln(os.Stderr, "ads:", err)
		os.Exit(1)
	}
}

func report(w io.Writer, data string, fit []string, threshold float64) error {
	runs, err := readRuns(data)
	if err != nil {
		return err
	}
	var learned, held []*run
	for _, r := range runs {
		if slices.Contains(fit, r.name) {
			learned = append(learned, r)
		} else {
			held = append(held, r)
		}
	}
	if len(learned) == 0 || len(held) == 0 {
		return fmt.Errorf("%d runs to fit on and %d to score: both are needed", len(learned), len(held))
	}
	s, err := learn(learned)
	if err != nil {
		return err
	}
	faults, beyond := 0, 0
	for _, r := range held {
		faults, beyond = faults+len(r.faults), beyond+r.beyond
	}
	fmt.Fprintf(w, "fitted on %d runs: %s\nheld out: %d runs, %d faults (%d more are labelled after the last recorded second and are left out)\n\n", len(learned), names(learned), len(held), faults, beyond)
	fmt.Fprintln(w, "weight of each standardised feature")
	for j, name := range featureNames {
		fmt.Fprintf(w, "  %+6.2f  %s\n", s.weights[j], name)
	}
	fmt.Fprintf(w, "\nheld out, alarm at p > %g\n", threshold)
	table(w, held, func(r *run) []alarm { return s.raised(r, threshold) })

	losses, alarmed, labelled := 0, 0, 0
	var counted tally
	for _, r := range held {
		labelled += len(r.rescales)
		for _, e := range events(r) {
			if !isFault(r, e) {
				losses++
				if s.probability(e.features) > threshold {
					alarmed++
				}
			}
		}
		t, _, _ := judge(r.faults, s.raised(r, threshold))
		counted = counted.add(t)
	}
	counted.missed += beyond
	fmt.Fprintf(w, "  losses of TaskManagers that no fault explains (rescales, %d of them labelled): %d, alarmed %d\n", labelled, losses, alarmed)
	fmt.Fprintf(w, "  with the %d faults after the last second counted as missed: recall %.3f  F1 %.3f\n", beyond, counted.recall(), counted.f1())

	fmt.Fprintln(w, "\nprecision and recall by threshold, held-out runs pooled")
	for _, t := range []float64{0.001, 0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 0.995, 0.999} {
		var all tally
		for _, r := range held {
			got, _, _ := judge(r.faults, s.raised(r, t))
			all = all.add(got)
		}
		fmt.Fprintf(w, "  p > %-5g  precision %.3f  recall %.3f  F1 %.3f\n", t, all.precision(), all.recall(), all.f1())
	}

	fmt.Fprintln(w, "\none run left out at a time, fitted on the others")
	scorers := map[*run]*scorer{}
	for _, r := range runs {
		others := slices.DeleteFunc(slices.Clone(runs), func(o *run) bool { return o == r })
		if scorers[r], err = learn(others); err != nil {
			return err
		}
	}
	table(w, runs, func(r *run) []alarm { return scorers[r].raised(r, threshold) })

	fmt.Fprintln(w, "\nbeside it, held-out runs: latency > 10x the median of the last 600 s")
	table(w, held, byLatency)
	return nil
}

func names(runs []*run) string {
	var out []string
	for _, r := range runs {
		out = append(out, r.name)
	}
	return strings.Join(out, ", ")
}

func learn(runs []*run) (*scorer, error) {
	var x [][]float64
	var y []bool
	for _, r := range runs {
		for _, e := range events(r) {
			x, y = append(x, e.features), append(y, isFault(r, e))
		}
	}
	if len(x) == 0 {
		return nil, fmt.Errorf("fit: no loss of a TaskManager in %s", names(runs))
	}
	return fitScorer(x, y)
}

// table prints a row for each run, then for each policy and for all.
func table(w io.Writer, runs []*run, alarms func(*run) []alarm) {
	byPolicy := map[string]tally{}
	var all tally
	var delays, offs []int
	row := func(name string, t tally) {
		low, high := wilson(t.hit, t.hit+t.missed)
		fmt.Fprintf(w, "  %-28s %3d faults  hit %3d  missed %2d  false %3d  precision %.3f  recall %.3f [%.2f, %.2f]  F1 %.3f\n",
			name, t.hit+t.missed, t.hit, t.missed, t.falsely, t.precision(), t.recall(), low, high, t.f1())
	}
	for _, r := range runs {
		t, found, of := judge(r.faults, alarms(r))
		for i, a := range found {
			delays = append(delays, a.at-of[i])
			offs = append(offs, max(a.since-of[i], of[i]-a.since))
		}
		byPolicy[r.policy], all = byPolicy[r.policy].add(t), all.add(t)
		row(r.name, t)
	}
	policies := make([]string, 0, len(byPolicy))
	for p := range byPolicy {
		policies = append(policies, p)
	}
	slices.Sort(policies)
	for _, p := range policies {
		row("policy "+p, byPolicy[p])
	}
	row("all", all)
	fmt.Fprintf(w, "  median seconds from a fault's start to its alarm %d, error of its since %d\n", median(delays), median(offs))
}
