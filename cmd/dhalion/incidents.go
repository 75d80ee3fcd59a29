package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/internal/store"
	"github.com/dhalion-go/dhalion/models"
	"github.com/dhalion-go/dhalion/plan/planfile"
	"github.com/dhalion-go/dhalion/plan/policy"
)

func (a *app) incidentsCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "incidents",
		Short: "Keep what really was wrong, where and when: what train learns from",
		Long: `Keep incidents: labelled stretches of a job's history that say what really was wrong,
where, from when to when, and how certain that is. Outcomes of plans add some by themselves,
with a certainty of at most 0.7; train learns from them and is never judged by them.`,
		Example: `  dhalion incidents import labels.csv
  dhalion incidents add prod/orders --cause slow_instance --target 'count[2]' --start 2026-11-22T08:39:16Z --end 2026-11-22T08:40:19Z
  dhalion incidents list prod/orders`,
	}
	c.AddCommand(a.incidentsImport(), a.incidentsAdd(), a.incidentsList(), a.incidentsShow(), a.incidentsRemove(), a.incidentsExport())
	return c
}

func (a *app) incidentsImport() *cobra.Command {
	engine, source, as, certainty := "file", "", "", 1.0
	c := &cobra.Command{
		Use:   "import FILE…",
		Short: "Take in labels from CSV, or from what incidents export writes",
		Long: `Take in labels. A CSV file has the columns job, cause, start and end, and may have
target_vertex, target_subtask, target_worker, note, incident, shape or family, certainty. A row
without a target is about the job; the cause "none" says that nothing was wrong. Rows of one job
with one incident belong together; jobs of one shape are alike. A file is taken in as a whole or
not at all, and a second time changes nothing. The jobs' histories must be known first, and the
target of a label in CSV must be one at which its cause is judged, and that the job had then. Of
JSON such labels are taken in, with a warning, since older programs kept them: train and
evaluate-model leave them out.`,
		Example: "  dhalion incidents import labels.csv\n  dhalion incidents import labels.csv --engine prod --source on-call",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !(certainty > 0 && certainty <= 1) {
				return usagef("--certainty %v is not above 0 and at most 1", certainty)
			}
			return a.withStore(cmd.Context(), func(ctx context.Context, st *store.Store) error {
				type came struct {
					File  string `json:"file"`
					Added int    `json:"added"`
					Known int    `json:"known"`
				}
				var all []came
				for _, name := range args {
					incidents, err := labelReader{engine: engine, source: source, certainty: certainty, name: name, remark: a.remark, ctx: ctx, st: st}.file()
					if err != nil {
						return err
					}
					added, err := st.AddIncidents(ctx, incidents, a.named(as), a.now())
					if err != nil {
						return labelled(err)
					}
					all = append(all, came{name, added, len(incidents) - added})
				}
				if a.json() {
					return a.writeJSON(struct {
						Files []came `json:"files"`
					}{all})
				}
				for _, f := range all {
					a.printf("%s: %d added, %d known already\n", plain(f.File), f.Added, f.Known)
				}
				a.next([2]string{"dhalion incidents list", "see them"}, [2]string{"dhalion train", "learn from them"})
				return nil
			})
		},
	}
	c.Flags().StringVar(&engine, "engine", engine, "first part of the ids of jobs that the file names without one")
	c.Flags().StringVar(&source, "source", "", "where the labels come from (default: import and the file's name)")
	c.Flags().Float64Var(&certainty, "certainty", certainty, "of labels that do not say their own, above 0 to 1")
	c.Flags().StringVar(&as, "as", "", "`person` who says so (default: the user)")
	return c
}

// named is who does something: as said, else the user.
func (a *app) named(as string) string {
	if as != "" {
		return as
	}
	return a.person()
}

// labelled says what mends a label of a job that nobody knows.
func labelled(err error) error {
	var missing *store.NotFoundError
	if errors.As(err, &missing) && missing.What == "job" {
		return unknownJob(dhalion.JobID(missing.Ref))
	}
	return err
}

func unknownJob(job dhalion.JobID) error {
	return hinted(fmt.Errorf("incidents: nothing is known of job %s", job), "ingest its history first: dhalion ingest FILE")
}

// labelReader reads the labels of one file.
type labelReader struct {
	engine, source, name string
	certainty            float64
	components           map[dhalion.JobID][]string
	jobs                 []store.JobInfo // that are known
	remark               func(format string, args ...any)

	ctx context.Context
	st  *store.Store
}

// file are the labels of the file of that name.
func (l labelReader) file() ([]store.Incident, error) {
	data, err := os.ReadFile(l.name)
	if err != nil {
		return nil, err
	}
	if l.source == "" {
		l.source = "import " + filepath.Base(l.name)
	}
	l.components = map[dhalion.JobID][]string{}
	if l.jobs, err = l.st.Jobs(l.ctx); err != nil {
		return nil, err
	}
	return l.read(data)
}

func (l *labelReader) known(job dhalion.JobID) error {
	if !slices.ContainsFunc(l.jobs, func(j store.JobInfo) bool { return j.ID == job }) {
		return unknownJob(job)
	}
	return nil
}

func (l *labelReader) read(data []byte) ([]store.Incident, error) {
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	if t := bytes.TrimLeft(data, " \t\r\n"); len(t) > 0 && t[0] == '{' {
		return l.json(data)
	}
	return l.csv(data)
}

// incidentsFile is what incidents export writes, and import reads.
type incidentsFile struct {
	Version   int              `json:"version"`
	Incidents []store.Incident `json:"incidents"`
}

func (l *labelReader) json(data []byte) ([]store.Incident, error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	var e struct {
		Version   int               `json:"version"`
		Incidents []json.RawMessage `json:"incidents"`
	}
	if err := d.Decode(&e); err != nil {
		return nil, fmt.Errorf("%s:%d: %w", l.name, 1+bytes.Count(data[:min(len(data), int(d.InputOffset()))], []byte("\n")), err)
	}
	if e.Version != 1 || d.More() {
		return nil, fmt.Errorf("%s: it is no file of incidents of version 1", l.name)
	}
	all, at := make([]store.Incident, len(e.Incidents)), 0
	left, first := 0, ""
	for i, raw := range e.Incidents {
		at += bytes.Index(data[at:], raw)
		err := models.Strict(raw, &all[i])
		if err == nil {
			err = cmp.Or(check(all[i]), l.known(all[i].Job))
		}
		if err == nil {
			err = cmp.Or(misplaced(all[i]), l.there(all[i]))
		}
		if err != nil {
			err = fmt.Errorf("%s:%d: incident %d: %w", l.name, 1+bytes.Count(data[:at], []byte("\n")), i+1, err)
		}
		if errors.As(err, new(*oddLabel)) {
			if left++; left == 1 {
				first = err.Error()
			}
		} else if err != nil {
			return nil, err
		}
		at += len(raw)
	}
	if left > 0 {
		l.remark("warning: %s; train and evaluate-model leave out %s whose cause is not judged at the target, or whose target the job did not have then", plain(first), plural(left, "label"))
	}
	return all, nil
}

// check says what is wrong with an incident.
func check(in store.Incident) error {
	switch {
	case in.Job.Name() == "" || in.Target.Job != in.Job:
		return fmt.Errorf("its job %q is not that of its target, or no job's id", in.Job)
	case in.Cause != "" && !in.Cause.Valid():
		return fmt.Errorf("there is no cause %q", in.Cause)
	case in.Start.IsZero() || !in.End.After(in.Start):
		return fmt.Errorf("it ends at %s and begins at %s", stamp(in.End), stamp(in.Start))
	case !(in.Certainty > 0 && in.Certainty <= 1):
		return fmt.Errorf("its certainty %v is not above 0 and at most 1", in.Certainty)
	case in.Source == "":
		return errors.New("it does not say where it comes from")
	}
	return nil
}

// oddLabel says of a label that no pair that is judged is of it. Older programs took
// such labels, and what they wrote is still read.
type oddLabel struct{ why string }

func (e *oddLabel) Error() string { return e.why }

func odd(format string, args ...any) error { return &oddLabel{fmt.Sprintf(format, args...)} }

// misplaced says by *oddLabel that a label's cause is not judged at its kind of target:
// no pair would ever be the label's, and the one that was meant would be learned as wrong.
func misplaced(in store.Incident) error {
	kinds := policy.Kinds[in.Cause]
	if in.Cause == "" || slices.Contains(kinds, in.Target.Kind) {
		return nil
	}
	names := map[dhalion.TargetKind]string{dhalion.KindJob: "the job", dhalion.KindComponent: "a component", dhalion.KindInstance: "an instance", dhalion.KindWorker: "a worker"}
	var at []string
	for _, kind := range kinds {
		at = append(at, names[kind])
	}
	return odd("%s holds at %s, and not at %s", in.Cause, strings.Join(at, " or "), names[in.Target.Kind])
}

// hosts are what a job had during a label: how many instances of each component, and
// the workers that they were on. What is not known of it is empty.
type hosts struct {
	instances map[string]int
	workers   map[string]bool
}

// hosts asks the topologies that were in force; rows of measurements, too, where there
// were none, or where asked for, since they say of workers what a topology may not.
func (l *labelReader) hosts(in store.Incident, rows bool) (hosts, error) {
	h := hosts{map[string]int{}, map[string]bool{}}
	topologies, err := l.st.Topologies(l.ctx, in.Job, in.Start, in.End)
	if err != nil {
		return h, err
	}
	for _, t := range topologies {
		for _, c := range t.Components {
			h.instances[c.Name] = max(h.instances[c.Name], c.Parallelism)
		}
		for _, p := range t.Placement {
			h.workers[p.Worker] = true
		}
	}
	defer delete(h.workers, "") // not known
	if len(topologies) > 0 && !rows {
		return h, nil
	}
	measured, err := l.st.History(l.ctx, in.Job, in.Start, in.End)
	if err != nil {
		return h, err
	}
	for _, t := range measured.Tables {
		for _, s := range t.Spans() {
			if c := s.Target.Component; c != "" && len(topologies) == 0 {
				h.instances[c] = max(h.instances[c], s.Target.Instance+1)
			}
			if s.Target.Kind == dhalion.KindInstance {
				for row := s.Start; row < s.End; row++ {
					h.workers[t.Worker(row)] = true
				}
			}
		}
	}
	return h, nil
}

// there says by *oddLabel that a job did not have a label's target then. What is not
// known is believed.
func (l *labelReader) there(in store.Incident) error {
	if in.Cause == "" || in.Target.Kind == dhalion.KindJob {
		return nil
	}
	worker := in.Target.Worker
	h, err := l.hosts(in, false)
	if err == nil && worker != "" && !h.workers[worker] {
		h, err = l.hosts(in, true)
	}
	if err != nil {
		return err
	}
	n, known := h.instances[in.Target.Component]
	switch {
	case worker != "" && len(h.workers) > 0 && !h.workers[worker]:
		return odd("job %s had no worker %q then: there were %s", in.Job, worker, strings.Join(slices.Sorted(maps.Keys(h.workers)), ", "))
	case worker == "" && len(h.instances) > 0 && !known:
		return odd("job %s had no component %q then: there were %s", in.Job, in.Target.Component, strings.Join(slices.Sorted(maps.Keys(h.instances)), ", "))
	case worker == "" && known && in.Target.Instance >= n:
		return odd("%s of job %s had %s then, numbered from 0", in.Target.Component, in.Job, plural(n, "instance"))
	}
	return nil
}

// columns that a file of labels may have; others are left alone.
var labelColumns = []string{"job", "cause", "start", "end"}

func (l *labelReader) csv(data []byte) ([]store.Incident, error) {
	r := csv.NewReader(bytes.NewReader(data))
	header, err := r.Read()
	if errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: it is empty", l.name)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", l.name, err)
	}
	at := map[string]int{}
	for i, name := range header {
		at[strings.TrimSpace(name)] = i
	}
	for _, name := range labelColumns {
		if _, ok := at[name]; !ok {
			return nil, fmt.Errorf("%s:1: there is no column %s", l.name, name)
		}
	}
	var all []store.Incident
	for {
		row, err := r.Read()
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", l.name, err)
		}
		line, _ := r.FieldPos(0)
		in, column, err := l.row(func(name string) string {
			if i, ok := at[name]; ok {
				return strings.TrimSpace(row[i])
			}
			return ""
		})
		if err != nil {
			_, place := r.FieldPos(at[column])
			return nil, fmt.Errorf("%s:%d:%d: %w", l.name, line, place, err)
		}
		all = append(all, in)
	}
}

// row is one label; an error comes with the column that it is about.
func (l *labelReader) row(get func(column string) string) (in store.Incident, column string, err error) {
	job := get("job")
	if job == "" {
		return in, "job", errors.New("it names no job")
	}
	if !strings.Contains(job, "/") {
		job = l.engine + "/" + job
	}
	in.Job, in.Certainty, in.Source, in.Note, in.Name = dhalion.JobID(job), l.certainty, l.source, get("note"), get("incident")
	if err := l.known(in.Job); err != nil {
		return in, "job", err
	}
	if in.Family = get("family"); in.Family == "" {
		in.Family = get("shape")
	}
	if in.Cause = dhalion.Cause(get("cause")); in.Cause == "none" {
		in.Cause = ""
	} else if !in.Cause.Valid() {
		return in, "cause", fmt.Errorf("there is no cause %q", in.Cause)
	}
	for column, into := range map[string]*time.Time{"start": &in.Start, "end": &in.End} {
		if *into, err = parseTime(column, get(column)); err != nil {
			return in, column, errors.New(strings.TrimPrefix(err.Error(), column+" "))
		}
	}
	if s := get("certainty"); s != "" {
		if in.Certainty, err = strconv.ParseFloat(s, 64); err != nil {
			return in, "certainty", fmt.Errorf("%q is no number", s)
		}
	}
	if in.Target, column, err = l.target(in, get("target_vertex"), get("target_subtask"), get("target_worker")); err != nil {
		return in, column, err
	}
	if err := misplaced(in); err != nil {
		return in, "cause", err
	}
	if err := check(in); err != nil {
		return in, "start", err
	}
	column = "target_vertex"
	if in.Target.Kind == dhalion.KindWorker {
		column = "target_worker"
	} else if in.Target.Kind == dhalion.KindInstance {
		column = "target_subtask"
	}
	return in, column, l.there(in)
}

func (l *labelReader) target(in store.Incident, vertex, subtask, worker string) (dhalion.Target, string, error) {
	switch {
	case worker != "":
		return dhalion.WorkerTarget(in.Job, worker), "", nil
	case vertex == "":
		return dhalion.JobTarget(in.Job), "", nil
	}
	component, err := l.component(in.Job, vertex)
	if err != nil {
		return dhalion.Target{}, "target_vertex", err
	}
	// An instance is the target only of what is an instance's.
	if subtask == "" || in.Cause != dhalion.SlowInstance && in.Cause != dhalion.DataSkew {
		return dhalion.ComponentTarget(in.Job, component), "", nil
	}
	n, err := strconv.Atoi(subtask)
	if err != nil || n < 0 {
		return dhalion.Target{}, "target_subtask", fmt.Errorf("%q is no instance's number", subtask)
	}
	return dhalion.InstanceTarget(in.Job, component, n), "", nil
}

// names are the components that a job ever had.
func (l *labelReader) names(job dhalion.JobID) ([]string, error) {
	known, ok := l.components[job]
	if ok {
		return known, nil
	}
	topologies, err := l.st.Topologies(l.ctx, job, time.Time{}, time.Now().Add(24*time.Hour))
	if err != nil {
		return nil, err
	}
	for _, t := range topologies {
		for _, c := range t.Components {
			if !slices.Contains(known, c.Name) {
				known = append(known, c.Name)
			}
		}
	}
	l.components[job] = known
	return known, nil
}

// component is the job's component of a name, or of that name without what Flink
// puts around it. A job without a topology is believed.
func (l *labelReader) component(job dhalion.JobID, name string) (string, error) {
	known, err := l.names(job)
	if err != nil {
		return "", err
	}
	if len(known) == 0 || slices.Contains(known, name) {
		return name, nil
	}
	bare := func(s string) string {
		return strings.TrimSpace(strings.TrimSuffix(strings.TrimPrefix(s, "Source: "), ": Writer"))
	}
	for _, c := range known {
		if bare(c) == bare(name) {
			return c, nil
		}
	}
	return "", fmt.Errorf("job %s has no component %q: there are %s", job, name, strings.Join(known, ", "))
}

func (a *app) incidentsAdd() *cobra.Command {
	var causes []string
	var target, start, end, note, name, family, as string
	certainty := 1.0
	c := &cobra.Command{
		Use:   "add JOB",
		Short: "Say by hand what was wrong",
		Example: `  dhalion incidents add prod/orders --cause slow_instance --target 'count[2]' --start 2026-11-22T08:39:16Z --end 2026-11-22T08:40:19Z
  dhalion incidents add prod/orders --cause none --start 2026-11-22T08:00:00Z --end 2026-11-22T08:30:00Z`,
		Args:              one("JOB"),
		ValidArgsFunction: a.completeJob(),
		RunE: func(cmd *cobra.Command, args []string) error {
			from, err := parseTime("--start", start)
			if err != nil {
				return err
			}
			to, err := parseTime("--end", end)
			if err != nil {
				return err
			}
			if len(causes) > 1 && slices.Contains(causes, "none") {
				return usagef("--cause none says that nothing was wrong, and stands alone")
			}
			return a.withStore(cmd.Context(), func(ctx context.Context, st *store.Store) error {
				job, err := findJob(ctx, st, args[0])
				if err != nil {
					return err
				}
				l := labelReader{components: map[dhalion.JobID][]string{}, ctx: ctx, st: st}
				var all []store.Incident
				for _, text := range causes {
					in := store.Incident{Name: name, Family: family, Incident: dhalion.Incident{Job: job, Start: from, End: to, Certainty: certainty, Source: "by hand", Note: note}}
					if text != "none" {
						if in.Cause, err = parseCause(text); err != nil {
							return err
						}
					}
					if in.Target, err = l.given(in, target); err != nil {
						return err
					}
					if err := cmp.Or(check(in), misplaced(in)); err != nil {
						return usagef("%s", err)
					}
					if err := l.there(in); err != nil {
						return usagef("--target: %s", err)
					}
					all = append(all, in)
				}
				if len(all) == 0 {
					return usagef("--cause says what was wrong; none: nothing was")
				}
				added, err := st.AddIncidents(ctx, all, a.named(as), a.now())
				if err != nil {
					return labelled(err)
				}
				if a.json() {
					return a.writeJSON(map[string]int{"added": added, "known": len(all) - added})
				}
				if added == 0 {
					a.printf("That is known already.\n")
					return nil
				}
				a.printf("Noted: %s at %s, %s to %s.\n", strings.Join(causes, ", "), planfile.Where(all[0].Target), when(from), when(to))
				return nil
			})
		},
	}
	c.Flags().StringSliceVar(&causes, "cause", nil, "`cause` that held, or none; may be repeated")
	c.Flags().StringVar(&target, "target", "job", "where: count, 'count[2]', tm-1 (worker:tm-1 where a component is called so) or job")
	c.Flags().StringVar(&start, "start", "", "from this `time`")
	c.Flags().StringVar(&end, "end", "", "to this `time`")
	c.Flags().Float64Var(&certainty, "certainty", certainty, "how certain that is, above 0 to 1")
	c.Flags().StringVar(&note, "note", "", "what else there is to say")
	c.Flags().StringVar(&name, "incident", "", "`name` that the rows of one incident of the job share")
	c.Flags().StringVar(&family, "family", "", "`name` that jobs of one kind share: a model is tried on kinds that it has not seen")
	c.Flags().StringVar(&as, "as", "", "`person` who says so (default: the user)")
	a.complete(c, "cause", causeNames()...)
	return c
}

func causeNames() []string {
	names := []string{"none"}
	for _, c := range dhalion.Causes {
		names = append(names, string(c))
	}
	return names
}

// workerNamed is the worker that a person means by worker:tm-1, or as it is printed.
func workerNamed(text string) (string, bool) {
	for _, prefix := range []string{"worker:", "worker "} {
		if w, ok := strings.CutPrefix(text, prefix); ok && w != "" {
			return w, true
		}
	}
	return "", false
}

// given is the target of a label that a flag names: the component or the worker that is
// called so, else the worker that is behind the prefix. A bare name is a worker's where
// the cause is a worker's, or where the job had such a worker and has no such component.
func (l *labelReader) given(in store.Incident, text string) (dhalion.Target, error) {
	if text == "" || text == "job" {
		return dhalion.JobTarget(in.Job), nil
	}
	names, err := l.names(in.Job)
	if err != nil {
		return dhalion.Target{}, err
	}
	kinds := policy.Kinds[in.Cause]
	ofWorkers := len(kinds) == 1 && kinds[0] == dhalion.KindWorker
	name, index, instance := strings.Cut(strings.TrimSuffix(text, "]"), "[")
	w, prefixed := workerNamed(text)
	switch {
	case prefixed && (ofWorkers || !slices.Contains(names, name)):
		h, err := l.hosts(in, true)
		if err != nil {
			return dhalion.Target{}, err
		}
		if h.workers[text] {
			w = text
		}
		return dhalion.WorkerTarget(in.Job, w), nil
	case ofWorkers:
		return dhalion.WorkerTarget(in.Job, text), nil
	}
	component, err := l.component(in.Job, name)
	if err != nil {
		if h, herr := l.hosts(in, true); herr == nil && h.workers[text] {
			return dhalion.WorkerTarget(in.Job, text), nil
		}
		return dhalion.Target{}, usagef("--target: %s", err)
	}
	if !instance {
		return dhalion.ComponentTarget(in.Job, component), nil
	}
	n, err := strconv.Atoi(index)
	if err != nil || n < 0 {
		return dhalion.Target{}, usagef("--target %q: %q is no instance's number", text, index)
	}
	return dhalion.InstanceTarget(in.Job, component, n), nil
}

func (a *app) incidentsList() *cobra.Command {
	var cause, source string
	limit := 100
	c := &cobra.Command{
		Use:               "list [JOB]",
		Short:             "List incidents by job and time",
		Example:           "  dhalion incidents list\n  dhalion incidents list prod/orders --cause slow_instance -o json",
		Args:              atMostOne,
		ValidArgsFunction: a.completeJob(),
		RunE: func(cmd *cobra.Command, args []string) error {
			f := store.IncidentFilter{Source: source, InOrder: cause == "none"}
			var err error
			if !f.InOrder {
				if f.Cause, err = parseCause(cause); err != nil {
					return err
				}
			}
			if limit < 0 {
				return usagef("--limit %d is negative", limit)
			}
			return a.withStore(cmd.Context(), func(ctx context.Context, st *store.Store) error {
				if len(args) > 0 {
					if f.Job, err = findJob(ctx, st, args[0]); err != nil {
						return err
					}
				}
				all, err := st.Incidents(ctx, f, limit)
				if err != nil {
					return err
				}
				if a.json() {
					return a.writeJSON(incidentsFile{1, list(all)})
				}
				if len(all) == 0 {
					a.printf("There are no such incidents.\n")
					a.next([2]string{"dhalion incidents import labels.csv", "take some in"}, [2]string{"dhalion incidents add --help", "say what was wrong"})
					return nil
				}
				t := &table{head: []string{"nr", "job", "cause", "where", "from", "to", "certainty", "source"}, wide: 7}
				for _, in := range all {
					t.add(fmt.Sprint(in.ID), string(in.Job), causeOr(in.Cause), planfile.Where(in.Target), when(in.Start), when(in.End), planfile.Quantity(in.Certainty), in.Source)
				}
				a.table("", t)
				return nil
			})
		},
	}
	c.Flags().StringVar(&cause, "cause", "", "only this `cause`, or none")
	c.Flags().StringVar(&source, "source", "", "only what comes from there, or from what begins so: outcome, import, by hand")
	c.Flags().IntVar(&limit, "limit", limit, "at most so many; 0: all")
	a.complete(c, "cause", causeNames()...)
	return c
}

// incidentNumber is the NR of an argument.
func incidentNumber(text string) (int64, error) {
	id, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0, usagef("%q is no incident's number", text)
	}
	return id, nil
}

func (a *app) incidentsShow() *cobra.Command {
	return &cobra.Command{
		Use:     "show NR",
		Short:   "Show one label, with who made it and from what",
		Example: "  dhalion incidents show 17\n  dhalion incidents show 17 -o json",
		Args:    one("NR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := incidentNumber(args[0])
			if err != nil {
				return err
			}
			return a.withStore(cmd.Context(), func(ctx context.Context, st *store.Store) error {
				in, err := st.Incident(ctx, id)
				if err != nil {
					return hinted(err, "dhalion incidents list")
				}
				if a.json() {
					return a.writeJSON(in)
				}
				a.printf("%s\n", a.style(bold, fmt.Sprintf("Incident %d of %s", in.ID, plain(string(in.Job)))))
				for _, line := range [][2]string{
					{"cause", causeOr(in.Cause)}, {"where", planfile.Where(in.Target)},
					{"from", when(in.Start)}, {"to", when(in.End)}, {"certainty", planfile.Quantity(in.Certainty)},
					{"source", in.Source}, {"note", in.Note}, {"incident", in.Name}, {"family", in.Family},
					{"by", in.Person}, {"taken in", when(in.CreatedAt)},
				} {
					if line[1] != "" {
						a.printf("  %s  %s\n", pad(line[0], 9), plain(line[1]))
					}
				}
				a.next([2]string{command("diagnose", string(in.Job), "--at", stamp(in.End)), "see what is said of it"})
				return nil
			})
		},
	}
}

// causeOr is a label's cause, none where nothing was wrong.
func causeOr(c dhalion.Cause) string {
	if c == "" {
		return "none"
	}
	return string(c)
}

func (a *app) incidentsRemove() *cobra.Command {
	as := ""
	c := &cobra.Command{
		Use:     "remove NR",
		Short:   "Remove a label that was wrong; the log keeps what it was",
		Example: "  dhalion incidents remove 17",
		Args:    one("NR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := incidentNumber(args[0])
			if err != nil {
				return err
			}
			return a.withStore(cmd.Context(), func(ctx context.Context, st *store.Store) error {
				in, err := st.RemoveIncident(ctx, id, a.named(as), a.now())
				if err != nil {
					return err
				}
				if a.json() {
					return a.writeJSON(in)
				}
				a.printf("Removed incident %d of %s.\n", id, in.Job)
				return nil
			})
		},
	}
	c.Flags().StringVar(&as, "as", "", "`person` who removes it (default: the user)")
	return c
}

func (a *app) incidentsExport() *cobra.Command {
	out := ""
	c := &cobra.Command{
		Use:     "export",
		Short:   "Write all incidents as JSON, which incidents import reads",
		Example: "  dhalion incidents export > incidents.json\n  dhalion incidents export --out incidents.json",
		Args:    none,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withStore(cmd.Context(), func(ctx context.Context, st *store.Store) error {
				all, err := st.Incidents(ctx, store.IncidentFilter{}, 0)
				if err != nil {
					return err
				}
				if out == "" {
					return a.writeJSON(incidentsFile{1, list(all)})
				}
				text, err := json.MarshalIndent(incidentsFile{1, list(all)}, "", "  ")
				if err != nil {
					return fmt.Errorf("incidents: export: %w", err)
				}
				return planfile.WriteFile(out, append(text, '\n'))
			})
		},
	}
	c.Flags().StringVar(&out, "out", "", "`file` to write to (default: stdout)")
	return c
}
