// Command run is the lab's runner: it writes the schedule of a corpus, records it
// on real Flink clusters on this machine, labels what it recorded and builds the
// corpus from it.
//
//	go run ./lab/run schedule --seed 1 --out DIR       the scenarios of a corpus
//	go run ./lab/run record --scenarios DIR            record what is missing, label it, export it
//	go run ./lab/run corpus                            export and label all recordings again
//	go run ./lab/run lint FILE...                      check scenarios
//	go run ./lab/run replay RUN                        a run's export diagnoses as its recording does
//
// See lab/README.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/dhalion-go/dhalion/lab/scenario"
)

const shapesFile = "lab/jobs/shapes.yaml"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:])
	var wrong usage
	switch {
	case errors.As(err, &wrong):
		fmt.Fprintln(os.Stderr, "run:", err)
		os.Exit(64)
	case err != nil:
		fmt.Fprintln(os.Stderr, "run:", err)
		os.Exit(1)
	}
}

type usage struct{ error }

func run(ctx context.Context, args []string) error {
	commands := "schedule, record, label, corpus, lint, replay"
	if len(args) == 0 {
		return usage{errors.New("say which of " + commands)}
	}
	f := flag.NewFlagSet(args[0], flag.ContinueOnError)
	var o options
	seed := f.Uint64("seed", 1, "seed of the schedule")
	f.StringVar(&o.out, "out", ".cache/lab", "folder for recordings and clusters; of schedule: for the scenarios")
	f.StringVar(&o.scenarios, "scenarios", ".cache/lab/schedule", "folder with the scenarios, recorded in the order of their file names")
	f.StringVar(&o.corpus, "corpus", "lab/corpus", "folder of the corpus; empty: none is written")
	f.StringVar(&o.binary, "binary", "bin/dhalion", "the program that records and exports")
	f.StringVar(&o.cache, "cache", ".cache", "folder that Flink is unpacked in")
	f.StringVar(&o.flink, "flink", "2.3.0", "version of Flink")
	f.IntVar(&o.lanes, "lanes", 3, "clusters, and so runs, at a time")
	f.Float64Var(&o.spare, "spare", leastFree, "share of the processors that must be free; a run with less for 5 s is noisy")
	f.StringVar(&o.only, "only", "", "record this run only")
	if err := f.Parse(args[1:]); err != nil {
		return usage{err}
	}
	data, err := os.ReadFile(shapesFile)
	if err != nil {
		return fmt.Errorf("read shapes (run me from the repository's root): %w", err)
	}
	if o.shapes, err = scenario.ReadShapes(shapesFile, data); err != nil {
		return err
	}
	switch args[0] {
	case "schedule":
		return writeSchedule(o.shapes, *seed, o.out)
	case "record":
		return record(ctx, o)
	case "label":
		return relabel(o)
	case "corpus":
		return rebuild(ctx, o)
	case "lint":
		if f.NArg() == 0 {
			return usage{errors.New("lint needs the files of scenarios")}
		}
		for _, file := range f.Args() {
			if _, err := readScenario(file, o.shapes); err != nil {
				return err
			}
		}
		return nil
	case "replay":
		if f.NArg() != 1 {
			return usage{errors.New("replay RUN")}
		}
		return replay(ctx, o, f.Arg(0))
	}
	return usage{fmt.Errorf("%s is none of %s", args[0], commands)}
}

// writeSchedule writes a scenario a file; the names sort in the order in which
// they are to be recorded.
func writeSchedule(shapes scenario.Shapes, seed uint64, dir string) error {
	all, err := scenario.Generate(shapes, seed)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for i, s := range all {
		data, err := s.Marshal()
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%03d-%s.yaml", i+1, s.Name)), data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func readScenario(file string, shapes scenario.Shapes) (scenario.Scenario, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return scenario.Scenario{}, err
	}
	return scenario.Parse(file, data, shapes)
}

func readScenarios(dir string, shapes scenario.Shapes) ([]scenario.Scenario, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
	if err != nil || len(files) == 0 {
		return nil, fmt.Errorf("there are no scenarios in %s", dir)
	}
	slices.SortFunc(files, strings.Compare)
	var all []scenario.Scenario
	seen := map[string]string{}
	for _, file := range files {
		s, err := readScenario(file, shapes)
		if err != nil {
			return nil, err
		}
		if other, twice := seen[s.Name]; twice {
			return nil, fmt.Errorf("%s: the run %s is in %s too", file, s.Name, other)
		}
		seen[s.Name] = file
		all = append(all, s)
	}
	return all, nil
}
