package main

import (
	"bufio"
	"compress/gzip"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// metrics are the five series of a run, in the order of run.values.
var metrics = []string{"consumer_lag", "cpu_load", "latency", "task_managers", "throughput"}

const (
	lag = iota
	cpu
	latency
	managers
	throughput
)

// run is one recorded run: its series at one value a second from start, NaN where
// there is none, and the seconds, from start, at which a fault was injected.
type run struct {
	name, policy string
	start        int64
	values       [5][]float64
	faults       []int
	beyond       int   // labelled faults that start after the last second: nothing can see them
	rescales     []int // labelled for demeter only
}

func (r *run) seconds() int { return len(r.values[0]) }

// parseSeries reads `timestamp|value` lines below a header, epoch seconds. The
// last value of a second stands.
func parseSeries(in io.Reader) (map[int64]float64, error) {
	out := map[int64]float64{}
	scan := bufio.NewScanner(in)
	for line := 1; scan.Scan(); line++ {
		if line == 1 || scan.Text() == "" {
			continue
		}
		at, value, ok := strings.Cut(scan.Text(), "|")
		if !ok {
			return nil, fmt.Errorf("line %d: no |", line)
		}
		t, err := strconv.ParseInt(at, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("line %d: time %q", line, at)
		}
		v, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return nil, fmt.Errorf("line %d: value %q", line, value)
		}
		out[t] = v
	}
	return out, scan.Err()
}

// longest run that is read: its series are held second by second.
const longest = 7 * 24 * 3600

// align lays five series on one grid of seconds.
func align(name, policy string, series [5]map[int64]float64) (*run, error) {
	first, last := int64(math.MaxInt64), int64(math.MinInt64)
	for _, s := range series {
		for t := range s {
			first, last = min(first, t), max(last, t)
		}
	}
	if first > last {
		return nil, errors.New("no values")
	}
	if last-first < 0 || last-first >= longest {
		return nil, fmt.Errorf("times span %d s", last-first)
	}
	r := &run{name: name, policy: policy, start: first}
	for m, s := range series {
		r.values[m] = make([]float64, last-first+1)
		for i := range r.values[m] {
			r.values[m][i] = math.NaN()
		}
		for t, v := range s {
			r.values[m][t-first] = v
		}
	}
	return r, nil
}

// readRuns reads all runs below dir/results, by name, with their labels.
func readRuns(dir string) ([]*run, error) {
	names, err := filepath.Glob(filepath.Join(dir, "results", "*"))
	if err != nil {
		return nil, err
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("%s: no results", dir)
	}
	slices.Sort(names)
	var runs []*run
	for _, folder := range names {
		var series [5]map[int64]float64
		policy := ""
		for m, metric := range metrics {
			files, err := filepath.Glob(filepath.Join(folder, "data", "*-"+metric+"-data.csv.gz"))
			if err != nil || len(files) != 1 {
				return nil, fmt.Errorf("%s: %d files of %s, want one", folder, len(files), metric)
			}
			policy, _, _ = strings.Cut(filepath.Base(files[0]), "-")
			if series[m], err = readSeries(files[0]); err != nil {
				return nil, fmt.Errorf("%s: %w", files[0], err)
			}
		}
		r, err := align(filepath.Base(folder), policy, series)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", folder, err)
		}
		runs = append(runs, r)
	}
	return runs, label(filepath.Join(dir, "labels.csv"), runs)
}

func readSeries(path string) (map[int64]float64, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return nil, err
	}
	return parseSeries(z)
}

// label gives the runs their faults and rescales, from rows
// run,workload,policy,event,start_ts,end_ts,source.
func label(path string, runs []*run) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	byName := map[string]*run{}
	for _, r := range runs {
		byName[r.name] = r
	}
	for i, row := range rows {
		if i == 0 {
			continue
		}
		if len(row) < 5 {
			return fmt.Errorf("%s: row %d has %d fields", path, i+1, len(row))
		}
		r, at := byName[row[0]], int64(0)
		if at, err = strconv.ParseInt(row[4], 10, 64); err != nil {
			return fmt.Errorf("%s: row %d: start %q", path, i+1, row[4])
		}
		switch {
		case r == nil:
		case row[3] == "reconfiguration":
			r.rescales = append(r.rescales, int(at-r.start))
		case at-r.start >= int64(r.seconds()):
			r.beyond++
		default:
			r.faults = append(r.faults, int(at-r.start))
		}
	}
	for _, r := range runs {
		slices.Sort(r.faults)
		slices.Sort(r.rescales)
	}
	return nil
}
