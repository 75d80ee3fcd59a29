package main

import (
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// series is one file: a value a row, and the rows of its labelled windows.
type series struct {
	name    string // FOLDER/FILE.csv
	times   []time.Time
	values  []float64
	windows []window
}

func (s *series) folder() string { return filepath.Dir(s.name) }

// window is from its first row to its last, both inside.
type window struct{ first, last int }

// parse reads `timestamp,value` rows below a header.
func parse(in io.Reader) (times []time.Time, values []float64, err error) {
	r := csv.NewReader(in)
	r.FieldsPerRecord = 2
	rows, err := r.ReadAll()
	if err != nil {
		return nil, nil, err
	}
	if len(rows) < 2 {
		return nil, nil, errors.New("no rows")
	}
	for i, row := range rows[1:] {
		at, err := time.Parse(time.DateTime, row[0])
		if err != nil {
			return nil, nil, fmt.Errorf("row %d: %w", i+2, err)
		}
		v, err := strconv.ParseFloat(row[1], 64)
		if err != nil {
			return nil, nil, fmt.Errorf("row %d: %w", i+2, err)
		}
		times, values = append(times, at), append(values, v)
	}
	return times, values, nil
}

// read reads the series below dir/data, by name, with their windows.
func read(dir string) ([]*series, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "data", "*", "*.csv"))
	if err != nil {
		return nil, err
	}
	if len(paths) == 0 {
		return nil, fmt.Errorf("%s: no data", dir)
	}
	slices.Sort(paths)
	text, err := os.ReadFile(filepath.Join(dir, "labels", "combined_windows.json"))
	if err != nil {
		return nil, err
	}
	var labels map[string][][2]string
	if err := json.Unmarshal(text, &labels); err != nil {
		return nil, fmt.Errorf("windows: %w", err)
	}
	var out []*series
	for _, path := range paths {
		s := &series{name: filepath.Base(filepath.Dir(path)) + "/" + filepath.Base(path)}
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		s.times, s.values, err = parse(f)
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.name, err)
		}
		for _, w := range labels[s.name] {
			first, last := s.rowAt(w[0]), s.rowAt(w[1])
			if first < 0 || last < first {
				return nil, fmt.Errorf("%s: window %v is not in the file", s.name, w)
			}
			s.windows = append(s.windows, window{first, last})
		}
		out = append(out, s)
	}
	return out, nil
}

// rowAt is the first row of a time, written with or without fractions of a
// second, or -1.
func (s *series) rowAt(text string) int {
	text, _, _ = strings.Cut(text, ".")
	at, err := time.Parse(time.DateTime, text)
	if err != nil {
		return -1
	}
	return slices.IndexFunc(s.times, at.Equal)
}
