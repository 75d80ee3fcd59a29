package file

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/ingest"
)

// Options are how a file is read.
type Options struct {
	// Engine is the first part of the jobs' ids; empty is "file".
	Engine string
	// Job is the name of the job of rows that do not name one. A file without a
	// column job needs it.
	Job string
	// SkipBad is how many broken rows are skipped, and reported, before the
	// file is refused; 0 refuses it at the first.
	SkipBad int
	// Topology is what ReadTopology gave for the file's one job. When it is
	// empty, each job's topology is derived: the components that the rows
	// name, of which each has as many instances as the greatest number says,
	// and no edges.
	Topology []dhalion.Topology
	// At is the time of samples that have none, in formats that may leave it
	// out; zero refuses them.
	At time.Time
	// Mapping says what the foreign names of an exporter mean; of a format that
	// has them.
	Mapping *Mapping
	// SpoolLimit is the most that is copied to a temporary file, in bytes; 0 is
	// DefaultSpoolLimit. See Spool.
	SpoolLimit int64
}

// history is what the formats share: whom a row is about, which rows are broken,
// and what the rows say of the jobs' topologies.
type history struct {
	name    string
	opts    Options
	to      *ingest.Collector
	jobs    map[string]*job
	missing int
	broken  int
}

func newHistory(name string, opts Options) history {
	if opts.Engine == "" {
		opts.Engine = "file"
	}
	return history{name: name, opts: opts, jobs: map[string]*job{}}
}

// names are what a row says of its target, trimmed; empty is absent.
type names struct{ job, component, instance, worker string }

// resolve says whom a row is about: the instance when it has one (worker is then
// where that ran), else the component, else the worker, else the job.
func (h *history) resolve(n names) (target dhalion.Target, worker string, own *job, err error) {
	if n.job == "" {
		n.job = h.opts.Job
	}
	if n.job == "" {
		return target, "", nil, errors.New("the job is empty: say which job such rows are of with --job NAME")
	}
	id := dhalion.NewJobID(h.opts.Engine, n.job)
	worker = n.worker
	switch {
	case n.component != "" && n.instance != "":
		number, err := parseInstance(n.instance)
		if err != nil {
			return target, "", nil, err
		}
		target = dhalion.InstanceTarget(id, n.component, number)
	case n.instance != "":
		return target, "", nil, fmt.Errorf("there is an instance, %s, but no component", excerpt([]byte(n.instance)))
	case n.component != "" && n.worker != "":
		return target, "", nil, fmt.Errorf("the component %s has a worker, %s, but no instance", excerpt([]byte(n.component)), excerpt([]byte(n.worker)))
	case n.component != "":
		target = dhalion.ComponentTarget(id, n.component)
	case n.worker != "":
		target, worker = dhalion.WorkerTarget(id, n.worker), ""
	default:
		target = dhalion.JobTarget(id)
	}
	if own = h.jobs[n.job]; own == nil {
		own = &job{id: id, first: math.MaxInt64, components: map[string]int{}}
		// A name that no job can have is refused with its row; it must not be
		// remembered, since there may be as many as rows.
		if ingest.CheckName("job", n.job) == nil && len(h.jobs) < ingest.MaxTargets {
			h.jobs[n.job] = own
		}
	}
	return target, worker, own, nil
}

// bad takes the error of a row: nil when the row is one of those that may be
// skipped. Line is 0 where there are no lines, and the reason names the row.
func (h *history) bad(line int, err error) error {
	var out *ingest.OutError
	if errors.As(err, &out) {
		return err
	}
	row := ingest.RowError{File: h.name, Line: line, Reason: err.Error()}
	if h.broken++; h.broken > h.opts.SkipBad {
		return row
	}
	h.to.Skip(row)
	return nil
}

// end reports what was counted and hands the topologies on.
func (h *history) end() error {
	h.to.Repaired(ingest.MissingValue, h.missing)
	return h.topologies()
}

// job is what a file said of a job, for its topology.
type job struct {
	id         dhalion.JobID
	first      int64
	components map[string]int // greatest instance of each
}

// seen remembers the time of a good row.
func (j *job) seen(at int64) {
	if at < j.first {
		j.first = at
	}
}

// has remembers a target that a good row is about.
func (j *job) has(x dhalion.Target) {
	if x.Component != "" {
		j.components[x.Component] = max(j.components[x.Component], x.Instance)
	}
}

// parseInstance reads an instance's number. "3.0" is what a table program writes
// for a column of whole numbers with gaps.
func parseInstance(s string) (int, error) {
	digits, _ := strings.CutSuffix(s, ".0")
	negative := strings.HasPrefix(digits, "-")
	n := number([]byte(strings.TrimPrefix(digits, "-")))
	switch {
	case digits == "" || digits == "-" || n < 0 && len(digits) < 18:
		return 0, fmt.Errorf("the instance %s is no number", excerpt([]byte(s)))
	case negative:
		return 0, fmt.Errorf("the instance %s is negative", s)
	case len(digits) >= 18 || n > ingest.MaxInstance:
		return 0, fmt.Errorf("the instance %s is above %d", excerpt([]byte(s)), ingest.MaxInstance)
	}
	return n, nil
}

// topologies hands on the given topology, or one derived for each job.
func (h *history) topologies() error {
	names := make([]string, 0, len(h.jobs))
	for name, own := range h.jobs {
		if own.first != math.MaxInt64 { // else all its rows were broken or empty
			names = append(names, name)
		}
	}
	slices.Sort(names)
	if len(h.opts.Topology) > 0 {
		if len(names) > 1 {
			return fmt.Errorf("file: read %s: a topology is of one job, the file has %d: %s", h.name, len(names), strings.Join(names, ", "))
		}
		for _, name := range names {
			own := h.jobs[name]
			for i, t := range h.opts.Topology {
				if t.From.IsZero() {
					t.From = time.UnixMicro(own.first).UTC()
				}
				if t.By == "" {
					t.By = dhalion.ChangeOperator
					if i == 0 {
						t.By = dhalion.ChangeFirst
					}
				}
				if err := h.to.Topology(own.id, t); err != nil {
					return err
				}
			}
		}
		return nil
	}
	for _, name := range names {
		own := h.jobs[name]
		if len(own.components) == 0 {
			continue
		}
		t := dhalion.Topology{From: time.UnixMicro(own.first).UTC(), By: dhalion.ChangeFirst}
		for component, greatest := range own.components {
			t.Components = append(t.Components, dhalion.Component{Name: component, Parallelism: greatest + 1})
		}
		if err := h.to.Topology(own.id, t); err != nil {
			return err
		}
	}
	return nil
}
