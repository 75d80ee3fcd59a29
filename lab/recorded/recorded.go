// Package recorded reads the labelled corpus: each run's history, as a program
// sees it that has read the files, and the labels of what was done to it.
package recorded

import (
	"bytes"
	"cmp"
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/ingest"
	"github.com/dhalion-go/dhalion/ingest/file"
	"github.com/dhalion-go/dhalion/ingest/segment"
)

// Run is one recorded run of a job.
type Run struct {
	Name, Shape string
	Burn        bool
	First, Last time.Time // measurement
	History     *segment.History
	Incidents   []Incident // by start
}

// Incident is a labelled stretch: what was done at once, with a row per cause and
// target. One in which nothing was wrong has none.
type Incident struct {
	Name, Magnitude string
	Start, End      time.Time // from the first row's start to the first end
	Last            time.Time // the last end
	Held            []dhalion.Incident
}

// Causes are those that hold, sorted; transient is one.
func (in Incident) Causes() []dhalion.Cause {
	var causes []dhalion.Cause
	for _, h := range in.Held {
		causes = append(causes, h.Cause)
	}
	slices.Sort(causes)
	return slices.Compact(causes)
}

// Quiet says that nothing is wrong that asks for an action.
func (in Incident) Quiet() bool {
	return !slices.ContainsFunc(in.Held, func(h dhalion.Incident) bool { return h.Cause != dhalion.Transient })
}

// Read reads a folder with labels.csv, runs.csv, and a Parquet file and a
// topology a run. Runs come sorted by name.
func Read(ctx context.Context, folder string) ([]Run, error) {
	labels, err := table(filepath.Join(folder, "labels.csv"))
	if err != nil {
		return nil, err
	}
	about, err := table(filepath.Join(folder, "runs.csv"))
	if err != nil {
		return nil, err
	}
	runs := map[string]*Run{}
	for _, row := range about {
		runs[row["run"]] = &Run{Name: row["run"], Shape: row["shape"], Burn: row["burn"] != ""}
	}
	for _, name := range slices.Sorted(maps.Keys(runs)) {
		r := runs[name]
		if r.History, err = history(ctx, folder, name); err != nil {
			return nil, fmt.Errorf("recorded: read %s: %w", name, err)
		}
		r.First, r.Last = span(r.History)
		if err := r.label(labels); err != nil {
			return nil, fmt.Errorf("recorded: read %s: %w", name, err)
		}
	}
	var all []Run
	for _, name := range slices.Sorted(maps.Keys(runs)) {
		all = append(all, *runs[name])
	}
	return all, nil
}

func (r *Run) label(labels []map[string]string) error {
	byName := map[string]*Incident{}
	for _, row := range labels {
		if row["run"] != r.Name {
			continue
		}
		start, err1 := time.Parse(time.RFC3339, row["start"])
		end, err2 := time.Parse(time.RFC3339, row["end"])
		if err := errors.Join(err1, err2); err != nil {
			return err
		}
		in := byName[row["incident"]]
		if in == nil {
			in = &Incident{Name: row["incident"], Magnitude: row["magnitude"], Start: start, End: end, Last: end}
			byName[in.Name] = in
		}
		if start.Before(in.Start) {
			in.Start = start
		}
		if end.Before(in.End) {
			in.End = end
		}
		if end.After(in.Last) {
			in.Last = end
		}
		cause := dhalion.Cause(row["cause"])
		if cause == "none" {
			continue
		}
		if !cause.Valid() {
			return fmt.Errorf("%s: no cause %q", in.Name, cause)
		}
		in.Held = append(in.Held, dhalion.Incident{Job: r.History.Job, Target: r.target(cause, row), Cause: cause, Start: start, End: end, Certainty: 1, Source: "lab", Note: row["note"]})
	}
	for _, in := range byName {
		r.Incidents = append(r.Incidents, *in)
	}
	slices.SortFunc(r.Incidents, func(a, b Incident) int { return cmp.Or(a.Start.Compare(b.Start), strings.Compare(a.Name, b.Name)) })
	return nil
}

// target is a label's: an instance where the cause is one's, else the component,
// the worker or the job. Vertices are named as the engine names them.
func (r *Run) target(cause dhalion.Cause, row map[string]string) dhalion.Target {
	job := r.History.Job
	if row["target_worker"] != "" {
		return dhalion.WorkerTarget(job, row["target_worker"])
	}
	if row["target_vertex"] == "" {
		return dhalion.JobTarget(job)
	}
	component := row["target_vertex"]
	for _, t := range r.History.Topologies {
		for _, c := range t.Components {
			if short(c.Name) == short(component) {
				component = c.Name
			}
		}
	}
	exact := cause == dhalion.SlowInstance || cause == dhalion.DataSkew
	if n, err := strconv.Atoi(row["target_subtask"]); err == nil && exact {
		return dhalion.InstanceTarget(job, component, n)
	}
	return dhalion.ComponentTarget(job, component)
}

// short is a vertex's name without what Flink puts around it.
func short(name string) string {
	return strings.TrimSpace(strings.TrimSuffix(strings.TrimPrefix(name, "Source: "), ": Writer"))
}

func span(h *segment.History) (first, last time.Time) {
	for _, t := range h.Tables {
		for _, at := range t.Times() {
			v := time.UnixMicro(at).UTC()
			if first.IsZero() || v.Before(first) {
				first = v
			}
			if v.After(last) {
				last = v
			}
		}
	}
	return first, last
}

// history reads what `dhalion ingest RUN.parquet --topology RUN.topology.yaml`
// would store.
func history(ctx context.Context, folder, name string) (*segment.History, error) {
	data, err := os.ReadFile(filepath.Join(folder, name+".parquet"))
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(filepath.Join(folder, name+".topology.yaml"))
	if err != nil {
		return nil, err
	}
	topologies, err := file.ReadTopology(name+".topology.yaml", bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	h := &segment.History{Tables: map[dhalion.TargetKind]*segment.Table{}}
	layers := map[dhalion.TargetKind][]segment.Layer{}
	_, err = ingest.Collect(ctx, ingest.Out{
		Segment: func(_ context.Context, s dhalion.Segment) error {
			t, err := segment.Decode(s)
			if err != nil {
				return err
			}
			h.Job = s.Job
			layers[s.Kind] = append(layers[s.Kind], segment.Layer{Table: t, Seq: 1})
			return nil
		},
		Topology: func(_ context.Context, _ dhalion.JobID, t dhalion.Topology) error {
			h.Topologies = append(h.Topologies, t)
			return nil
		},
	}, ingest.Options{}, file.NewParquet(name+".parquet", bytes.NewReader(data), int64(len(data)), file.Options{Engine: "file", Job: name, Topology: topologies}))
	if err != nil {
		return nil, err
	}
	for kind, own := range layers {
		if h.Tables[kind], _, err = segment.Merge(own); err != nil {
			return nil, err
		}
	}
	return h, nil
}

func table(path string) ([]map[string]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("recorded: %w", err)
	}
	defer f.Close()
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil {
		return nil, fmt.Errorf("recorded: %s: %w", path, err)
	}
	var out []map[string]string
	for i, row := range rows {
		if i == 0 {
			continue
		}
		m := map[string]string{}
		for k, name := range rows[0] {
			m[name] = row[k]
		}
		out = append(out, m)
	}
	return out, nil
}
