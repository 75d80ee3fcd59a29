package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/ingest"
	"github.com/dhalion-go/dhalion/ingest/flinkautoscaler"
	"github.com/dhalion-go/dhalion/internal/store"
)

// The events that the log gets from an autoscaler.
const (
	eventRescaled = "autoscaler_rescaled"
	eventTold     = "autoscaler_told"
)

// autoscalerIngested is what became of one job of an autoscaler.
type autoscalerIngested struct {
	*ingested
	Unreadable []unreadable `json:"unreadable"`
	Rescales   int          `json:"rescales"` // in the state
	Events     int          `json:"events"`   // in the autoscaler's database
	Logged     int          `json:"logged"`   // of both, new in the log
}

// unreadable is a state that was left out.
type unreadable struct {
	Job    string `json:"job"`
	State  string `json:"state"`
	Reason string `json:"reason"`
}

// autoscalerOptions are what the flags of ingest flink-autoscaler say.
type autoscalerOptions struct {
	key, name, engine string
	list              bool
}

func (a *app) ingestAutoscaler() *cobra.Command {
	var o autoscalerOptions
	c := &cobra.Command{
		Use:   "flink-autoscaler DATABASE_URL",
		Short: "Read the state of Flink's autoscaler out of its PostgreSQL",
		Long: `Read what Flink's autoscaler keeps of its jobs in a PostgreSQL: the metrics of its
window, the rescales that it made, the parallelism that it ordered, and what it told,
which goes to the log. Its state has no names of vertices and no edges: components are
called by their vertex's id. A state that cannot be read is reported and left out.

The database is read in one read-only transaction and never written. The same state
again changes nothing.`,
		Example: `  dhalion ingest flink-autoscaler postgres://reader@db/flink_autoscaler --list
  dhalion ingest flink-autoscaler postgres://reader@db/flink_autoscaler --job 5f1c2a… --name word_count
  dhalion log flink-autoscaler/word_count`,
		Args: one("DATABASE_URL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case o.name != "" && o.key == "":
				return usagef("--name renames one job: choose it with --job")
			case o.list && o.name != "":
				return usagef("--list reads nothing, and --name has no job to rename")
			}
			if err := checkNames(o.engine, o.name); err != nil {
				return err
			}
			return a.readAutoscaler(cmd.Context(), args[0], o)
		},
	}
	f := c.Flags()
	f.StringVar(&o.key, "job", "", "only the job of this `KEY`; see --list")
	f.StringVar(&o.name, "name", "", "call that job by this name instead of its key")
	f.StringVar(&o.engine, "engine", "flink-autoscaler", "first part of the jobs' ids")
	f.BoolVar(&o.list, "list", false, "list the jobs and what there is of them, and store nothing")
	return c
}

func (a *app) readAutoscaler(ctx context.Context, url string, o autoscalerOptions) (err error) {
	from, err := store.OpenAutoscaler(ctx, url)
	if err != nil {
		return cause(ctx, err)
	}
	defer func() { err = errors.Join(err, from.Close(ctx)) }()
	jobs, err := from.Jobs(ctx, o.key)
	if err != nil {
		var missing *store.NotFoundError
		if errors.As(err, &missing) {
			return &failure{code: exitFailure, err: err, hint: "list the jobs there: --list without --job"}
		}
		return cause(ctx, err)
	}
	if o.list {
		return a.listAutoscaler(jobs)
	}
	results, code := []*autoscalerIngested{}, exitDone
	err = a.withStore(ctx, func(ctx context.Context, st *store.Store) error {
		for _, j := range jobs {
			r, err := a.ingestAutoscalerJob(ctx, st, from, j, o)
			if ctx.Err() != nil {
				return cause(ctx, err)
			}
			if err != nil {
				r.Error = err.Error()
				if c := a.report(ctx, err); code == exitDone {
					code = c
				}
			}
			results = append(results, r)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if a.json() {
		err = a.writeJSON(struct {
			Inputs []*autoscalerIngested `json:"inputs"`
		}{results})
	} else {
		a.autoscalerText(from.Name(), results)
	}
	if err == nil && code != exitDone {
		err = &failure{code: code}
	}
	return err
}

func (a *app) listAutoscaler(jobs []store.AutoscalerJob) error {
	if a.json() {
		return a.writeJSON(struct {
			Jobs []store.AutoscalerJob `json:"jobs"`
		}{list(jobs)})
	}
	if len(jobs) == 0 {
		a.printf("There is no job in the autoscaler's state.\n")
		return nil
	}
	t := &table{head: []string{"job", "events", "states"}, wide: 2}
	for _, j := range jobs {
		var states []string
		for _, s := range j.States {
			states = append(states, fmt.Sprintf("%s (%s B)", s.Type, count(s.Bytes)))
		}
		t.add(plain(j.Key), count(j.Events), plain(strings.Join(states, ", ")))
	}
	a.table("", t)
	return nil
}

// ingestAutoscalerJob stores one job's state in one transaction, then what the log
// lacks. Both can be done again: the state has a hash, and the log is compared.
func (a *app) ingestAutoscalerJob(ctx context.Context, st *store.Store, from *store.Autoscaler, j store.AutoscalerJob, o autoscalerOptions) (*autoscalerIngested, error) {
	name := j.Key
	if o.name != "" {
		name = o.name
	}
	label := "flink-autoscaler " + from.Name() + " " + j.Key
	result := &autoscalerIngested{
		ingested:   &ingested{File: label, Format: "flink-autoscaler", Jobs: []dhalion.JobID{}, Repairs: map[string]int{}, Skipped: []ingest.RowError{}},
		Unreadable: []unreadable{}, Events: j.Events,
	}
	if err := ingest.CheckName("job", name); err != nil {
		return result, fmt.Errorf("ingest: %s: %w", label, err)
	}
	job := dhalion.JobID(o.engine + "/" + name)

	var state flinkautoscaler.State
	hash := sha256.New()
	for _, s := range j.States {
		decode := map[string]func(string) error{
			flinkautoscaler.CollectedMetrics: func(v string) (err error) {
				state.Polls, err = flinkautoscaler.DecodeMetrics(v)
				return err
			},
			flinkautoscaler.ScalingHistory: func(v string) (err error) {
				state.Scalings, err = flinkautoscaler.DecodeScalings(v)
				return err
			},
			flinkautoscaler.ParallelismOverrides: func(v string) (err error) {
				state.Overrides, err = flinkautoscaler.DecodeOverrides(v)
				return err
			},
		}[s.Type]
		if decode == nil {
			if !slices.Contains(flinkautoscaler.Ignored, s.Type) {
				result.Unreadable = append(result.Unreadable, unreadable{j.Key, s.Type, "it is of a type that is not known"})
			}
			continue
		}
		got, err := from.State(ctx, j.Key, s.Type, flinkautoscaler.MaxValue)
		if err != nil {
			return result, err
		}
		fmt.Fprintf(hash, "%s %d\n%s\n", s.Type, got.Bytes, got.Value)
		if got.Bytes > flinkautoscaler.MaxValue {
			err = fmt.Errorf("it has %s bytes, more than %d MiB", count(got.Bytes), flinkautoscaler.MaxValue>>20)
		} else {
			err = decode(got.Value)
		}
		if err != nil {
			result.Unreadable = append(result.Unreadable, unreadable{j.Key, s.Type, err.Error()})
		}
	}
	result.Rescales = len(state.Scalings)

	if len(state.Polls)+len(state.Scalings) > 0 {
		options, err := json.Marshal(struct {
			Job string `json:"job"`
		}{clip(string(job), 200)})
		if err != nil {
			return result, fmt.Errorf("ingest: %s: %w", label, err)
		}
		in := store.Input{Name: label, Hash: hex.EncodeToString(hash.Sum(nil)), Format: "flink-autoscaler", Options: string(options)}
		stored, err := a.ingestSource(ctx, st, in, flinkautoscaler.Source(job, state))
		if err != nil {
			return result, err
		}
		result.ingested = stored
	}
	entries := rescales(job, state.Scalings)
	told, err := from.Events(ctx, j.Key)
	if err != nil {
		return result, err
	}
	for _, e := range told {
		detail, err := json.Marshal(toldDetail{e.Reason, e.Type, e.Message, e.Count, e.ID})
		if err != nil {
			return result, fmt.Errorf("ingest: %s: event %d: %w", label, e.ID, err)
		}
		entries = append(entries, store.LogEntry{At: e.Created, Job: job, Event: eventTold, Detail: detail})
	}
	result.Logged, err = logNew(ctx, st, job, entries)
	return result, err
}

type toldDetail struct {
	Reason  string `json:"reason"`
	Type    string `json:"type"`
	Message string `json:"message"`
	Count   int    `json:"count"`
	ID      int64  `json:"id"`
}

// rescales are the log's entries about them, one for each time.
func rescales(job dhalion.JobID, list []flinkautoscaler.Scaling) []store.LogEntry {
	var entries []store.LogEntry
	for i := 0; i < len(list); {
		parallelism := map[string]string{}
		at := list[i].At
		for ; i < len(list) && list[i].At.Equal(at); i++ {
			parallelism[list[i].Vertex] = fmt.Sprintf("%d to %d", list[i].From, list[i].To)
		}
		detail, err := json.Marshal(parallelism)
		if err != nil {
			continue // a map of texts always encodes
		}
		entries = append(entries, store.LogEntry{At: at, Job: job, Event: eventRescaled, Detail: detail})
	}
	return entries
}

// logNew appends the entries that the log does not have: of a rescale one at its
// time, of what was told one with its id.
func logNew(ctx context.Context, st *store.Store, job dhalion.JobID, entries []store.LogEntry) (added int, err error) {
	identity := func(e store.LogEntry) string {
		var d toldDetail
		if e.Event == eventTold && json.Unmarshal(e.Detail, &d) != nil {
			d.ID = 0
		}
		return fmt.Sprintf("%s %d %d", e.Event, e.At.UnixMicro(), d.ID)
	}
	there := map[string]bool{}
	for _, event := range []string{eventRescaled, eventTold} {
		old, err := st.Log(ctx, store.LogFilter{Job: job, Event: event}, 0)
		if err != nil {
			return 0, err
		}
		for _, e := range old {
			there[identity(e)] = true
		}
	}
	slices.SortStableFunc(entries, func(x, y store.LogEntry) int { return x.At.Compare(y.At) })
	for _, e := range entries {
		e.At = e.At.Truncate(time.Microsecond)
		if there[identity(e)] {
			continue
		}
		if err := st.AppendLog(ctx, e); err != nil {
			return added, err
		}
		there[identity(e)] = true
		added++
	}
	return added, nil
}

func (a *app) autoscalerText(database string, results []*autoscalerIngested) {
	if len(results) == 0 {
		a.printf("%s: there is no job in it\n", plain(database))
		return
	}
	var stored []*ingested
	for _, r := range results {
		if r.Error != "" || len(r.Jobs) > 0 {
			stored = append(stored, r.ingested)
		} else {
			a.printf("%s: nothing of it can be a history\n", plain(r.File))
		}
	}
	for _, r := range results {
		for _, u := range r.Unreadable {
			a.printf("job %s: %s: not readable (%s): skipped\n", plain(u.Job), plain(u.State), plain(u.Reason))
		}
		if r.Logged > 0 {
			a.printf("%s: %s new in the log, of %s and %s\n", plain(r.File), count(r.Logged), plural(r.Rescales, "rescale"), plural(r.Events, "event"))
		}
	}
	a.ingestText(stored)
}

func (a *app) metricsAutoscaler() *cobra.Command {
	return &cobra.Command{
		Use:     "flink-autoscaler",
		Short:   "Print how the state of Flink's autoscaler maps to metrics",
		Example: "  dhalion metrics flink-autoscaler",
		Args:    none,
		RunE: func(*cobra.Command, []string) error {
			if a.json() {
				return a.writeJSON(struct {
					Engine  string                    `json:"engine"`
					Metrics []flinkautoscaler.Mapping `json:"metrics"`
				}{"flink-autoscaler", flinkautoscaler.Mappings})
			}
			a.title("Of each component")
			for _, m := range flinkautoscaler.Mappings {
				a.printf("  %s\n", a.style(bold, string(m.Metric)))
				a.printf("      %s\n", wrap("from "+m.From, a.width()-6, "      "))
				a.printf("      %s\n", wrap(m.Help, a.width()-6, "      "))
			}
			return nil
		},
	}
}
