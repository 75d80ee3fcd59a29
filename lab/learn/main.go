// Command learn measures diagnosers on the labelled corpus, one shape of job left
// out at a time: what is asked about a shape was learned on the others.
//
//	go run ./lab/learn lab/corpus
//
// It prints, for every diagnoser, how often the first diagnosis is the right one at
// its target, how far its probabilities can be relied on, their log loss, compounds,
// and false alarms of quiet windows, each with n; then all beside the fusion that is
// shipped, and whether that one comes to what it must.
package main

import (
	"context"
	"encoding/gob"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"time"

	"github.com/dhalion-go/dhalion/diagnose"
	"github.com/dhalion-go/dhalion/features"
	"github.com/dhalion-go/dhalion/lab/recorded"
	"github.com/dhalion-go/dhalion/plan/policy"
)

func main() {
	cache := flag.String("cache", "", "`file` that keeps the judged windows between two calls")
	only := flag.String("only", "", "diagnosers to measure, by name, with commas between (default: all)")
	seed := flag.Uint64("seed", 1, "of learners and resamples")
	asked := flag.Bool("bars", true, "fail where the last diagnoser misses what it must come to")
	out := flag.String("out", "", "also train the fusion with the booster on the whole corpus, and write the model to this `file`")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: learn [flags] CORPUS")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() != 1 {
		flag.Usage()
		os.Exit(64)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, flag.Arg(0), *cache, strings.Split(*only, ","), *seed, *asked, *out); err != nil {
		fmt.Fprintln(os.Stderr, "learn:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, corpus, cache string, only []string, seed uint64, asked bool, out string) (err error) {
	all, err := load(ctx, corpus, cache)
	if err != nil {
		return err
	}
	shapes := map[string]int{}
	for _, w := range all {
		shapes[w.Family]++
	}
	fmt.Printf("%s, %d windows of %d shapes\n", time.Now().UTC().Format("2006-01-02"), len(all), len(shapes))
	var scores []score
	foreign := &sklearn{}
	defer func() { err = errors.Join(err, foreign.close()) }()
	for _, d := range diagnosers(seed, foreign) {
		if only[0] != "" && !slices.Contains(only, d.name) {
			continue
		}
		start := time.Now()
		p, err := leaveOut(ctx, all, d)
		if err != nil {
			return fmt.Errorf("%s: %w", d.name, err)
		}
		s := judge(d.name, all, p, seed)
		s.took = time.Since(start)
		scores = append(scores, s)
		s.print(os.Stdout)
	}
	compare(os.Stdout, scores, seed)
	if out != "" {
		if err := write(ctx, out, all, scores, seed); err != nil {
			return err
		}
	}
	if asked && len(scores) > 1 {
		if missed := bars(os.Stdout, scores, seed); len(missed) > 0 {
			return fmt.Errorf("%d bars are missed", len(missed))
		}
	}
	return nil
}

// write trains the default model on everything, and lets it say what one that had not
// seen a shape came to on it.
func write(ctx context.Context, file string, all []window, scores []score, seed uint64) error {
	m, err := diagnose.Train(ctx, examples(all), diagnose.TrainOptions{Learner: diagnose.Learners()[shipped], Seed: seed})
	if err != nil {
		return err
	}
	for _, s := range scores {
		if s.name == fusionOf(shipped) {
			m.About.Metrics = s.metrics()
		}
	}
	artefact, err := m.Encode()
	if err != nil {
		return err
	}
	fmt.Printf("\nmodel %s, %d kB, of %d incidents, to %s\n", m.ID, len(artefact)>>10, m.About.Incidents, file)
	return os.WriteFile(file, artefact, 0o644)
}

func load(ctx context.Context, corpus, cache string) (all []window, err error) {
	if cache != "" {
		if f, err := os.Open(cache); err == nil {
			defer f.Close()
			return all, gob.NewDecoder(f).Decode(&all)
		}
	}
	runs, err := recorded.Read(ctx, corpus)
	if err != nil {
		return nil, err
	}
	p, err := policy.Load("default", os.ReadFile, features.Known, nil)
	if err != nil {
		return nil, err
	}
	paper, err := policy.Load("paper", os.ReadFile, features.Known, nil)
	if err != nil {
		return nil, err
	}
	if all, err = windows(ctx, runs, p, paper); err != nil || cache == "" {
		return all, err
	}
	f, err := os.Create(cache)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return all, gob.NewEncoder(f).Encode(all)
}
