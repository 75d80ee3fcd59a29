package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/spf13/cobra"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/ingest/file"
	"github.com/dhalion-go/dhalion/ingest/segment"
	"github.com/dhalion-go/dhalion/internal/store"
)

// exportValues is about how many values are held at once: history is read a
// stretch at a time.
const exportValues = 2 << 20

// exportOptions are what the flags of export say.
type exportOptions struct {
	out, topologyOut    string
	format, shape, kind string
	from, to            string
	compression         string // of the name's extension: gz, zst or none
	begin, end          time.Time
}

// exportedFile is what export says in JSON.
type exportedFile struct {
	Job        dhalion.JobID `json:"job"`
	File       string        `json:"file"`
	Format     string        `json:"format"`
	Shape      string        `json:"shape"`
	Rows       int           `json:"rows"`
	Values     int           `json:"values"`
	Bytes      int64         `json:"bytes"`
	From       *time.Time    `json:"from"`
	To         *time.Time    `json:"to"`
	Topology   string        `json:"topology,omitempty"` // the file
	Topologies int           `json:"topologies"`
}

func (a *app) exportCommand() *cobra.Command {
	var o exportOptions
	c := &cobra.Command{
		Use:   "export JOB",
		Short: "Write a job's history as Arrow, Parquet or CSV",
		Long: `Write a job's history as Arrow IPC, Parquet or CSV, which DuckDB, pandas and polars
read, and which dhalion ingest reads back. The format is told by the name's ending:
.arrow, .parquet or .csv, each also with .gz or .zst behind it.

Arrow and Parquet are wide: a row per target and time, with time, job, component,
instance and worker, and a column per metric, empty where it is unknown. CSV is long: a
row per value. --shape turns either into the other.`,
		Example: `  dhalion export wordcount --out wordcount.parquet
  dhalion export wordcount --out day.csv.zst --from 2026-11-22T00:00:00Z --to 2026-11-23T00:00:00Z
  dhalion export prod/orders --out orders.arrow --kind instance --topology-out orders.yaml
  dhalion export wordcount --out - --format csv | gzip >wordcount.csv.gz`,
		Args:              one("JOB"),
		ValidArgsFunction: a.completeJob(),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.checkExport(&o); err != nil {
				return err
			}
			return a.export(cmd.Context(), args[0], o)
		},
	}
	f := c.Flags()
	f.StringVar(&o.out, "out", "", "write to this `file`; - is standard output")
	f.StringVar(&o.format, "format", "", "arrow, parquet, csv or csv-wide (default: by the name)")
	f.StringVar(&o.shape, "shape", "", "wide or long (default: wide, of CSV long)")
	f.StringVar(&o.kind, "kind", "", "only targets of this kind: job, component, instance or worker")
	f.StringVar(&o.from, "from", "", "begin with this `time` (default: the first measurement)")
	f.StringVar(&o.to, "to", "", "end with this `time` (default: the newest measurement)")
	f.StringVar(&o.topologyOut, "topology-out", "", "also write the topologies to this `file`, as ingest --topology reads it")
	a.complete(c, "format", "arrow", "parquet", "csv", "csv-wide")
	a.complete(c, "shape", "wide", "long")
	a.complete(c, "kind", texts(dhalion.TargetKinds)...)
	return c
}

func texts[T ~string](list []T) []string {
	out := make([]string, len(list))
	for i, v := range list {
		out[i] = string(v)
	}
	return out
}

// checkExport refuses flags that make no sense and completes the others.
func (a *app) checkExport(o *exportOptions) (err error) {
	if o.out == "" {
		return usagef("say where to with --out FILE, or --out - for standard output")
	}
	if o.out == "-" && a.json() {
		return usagef("--out - writes the history to standard output: it goes without --output json")
	}
	name := o.out
	for _, c := range []string{"gz", "zst"} {
		if rest, ok := strings.CutSuffix(name, "."+c); ok && o.out != "-" {
			name, o.compression = rest, c
		}
	}
	if o.format == "" {
		switch filepath.Ext(name) {
		case ".arrow", ".feather", ".ipc":
			o.format = "arrow"
		case ".parquet", ".pq":
			o.format = "parquet"
		case ".csv":
			o.format = "csv"
			if o.shape == "wide" {
				o.format = "csv-wide"
			}
		default:
			return usagef("%s does not tell the format: name it .arrow, .parquet or .csv, or add --format", o.out)
		}
	}
	if !slices.Contains([]string{"arrow", "parquet", "csv", "csv-wide"}, o.format) {
		return usagef("--format is one of arrow, parquet, csv, csv-wide, not %q", o.format)
	}
	switch {
	case o.shape == "" && o.format == "csv":
		o.shape = "long"
	case o.shape == "":
		o.shape = "wide"
	case o.shape != "wide" && o.shape != "long":
		return usagef("--shape is wide or long, not %q", o.shape)
	case o.format == "csv" && o.shape == "wide":
		o.format = "csv-wide"
	case o.format == "csv-wide" && o.shape == "long":
		return usagef("--format csv-wide is not long: use --format csv")
	}
	if o.kind != "" && !dhalion.TargetKind(o.kind).Valid() {
		return usagef("--kind is one of %s, not %q", strings.Join(texts(dhalion.TargetKinds), ", "), o.kind)
	}
	o.end = time.Date(9999, 12, 31, 23, 59, 59, 999_999_000, time.UTC)
	if o.from != "" {
		if o.begin, err = parseTime("--from", o.from); err != nil {
			return err
		}
	}
	if o.to != "" {
		if o.end, err = parseTime("--to", o.to); err != nil {
			return err
		}
	}
	if o.end.Before(o.begin) {
		return usagef("--from %s is after --to %s", o.from, o.to)
	}
	return nil
}

// export writes to a file beside the one that is named, and renames it when it
// is whole.
func (a *app) export(ctx context.Context, ref string, o exportOptions) (err error) {
	result := &exportedFile{File: o.out, Format: o.format, Shape: o.shape, Topology: o.topologyOut}
	to, err := newOutput(o.out)
	if err != nil {
		return fmt.Errorf("export: %w", err)
	}
	defer func() { err = errors.Join(err, to.discard()) }()
	var topology bytes.Buffer
	err = a.withStore(ctx, func(ctx context.Context, st *store.Store) error {
		job, err := findJob(ctx, st, ref)
		if err != nil {
			return err
		}
		result.Job = job
		if o.topologyOut != "" {
			topologies, err := st.Topologies(ctx, job, before(o.begin), o.end)
			if err != nil {
				return err
			}
			if result.Topologies = len(topologies); len(topologies) == 0 {
				return fmt.Errorf("export: %s has no topology to write to %s", job, o.topologyOut)
			}
			if err := file.WriteTopology(&topology, topologies); err != nil {
				return err
			}
		}
		return a.exportHistory(ctx, st, job, to.f, o, result)
	})
	if err != nil {
		return cause(ctx, err)
	}
	if result.Bytes, err = to.f.Seek(0, io.SeekEnd); err != nil {
		return fmt.Errorf("export: %w", err)
	}
	if o.topologyOut != "" {
		t, err := newOutput(o.topologyOut)
		if err == nil {
			_, err = t.f.Write(topology.Bytes())
			if err == nil {
				err = t.keep()
			}
			err = errors.Join(err, t.discard())
		}
		if err != nil {
			return fmt.Errorf("export: write %s: %w", o.topologyOut, err)
		}
	}
	if o.out == "-" {
		// A reader that goes away ends this process; the database is released by now.
		if _, err = to.f.Seek(0, io.SeekStart); err == nil {
			_, err = io.Copy(a.stdout, to.f)
		}
		return err
	}
	if err := to.keep(); err != nil {
		return fmt.Errorf("export: write %s: %w", o.out, err)
	}
	if a.json() {
		return a.writeJSON(result)
	}
	a.exportText(result)
	return nil
}

func (a *app) exportText(r *exportedFile) {
	a.printf("%s: written (%s, %s)\n", a.style(bold, plain(r.File)), r.Format, r.Shape)
	a.printf("  job    %s\n", plain(string(r.Job)))
	if r.From != nil {
		a.printf("  time   %s to %s\n", when(*r.From), when(*r.To))
	}
	a.printf("  wrote  %s in %s, %s bytes\n", plural(r.Values, "value"), plural(r.Rows, "row"), count(int(r.Bytes)))
	if r.Topology != "" {
		a.printf("%s: written (%s)\n", a.style(bold, plain(r.Topology)), strings.ReplaceAll(plural(r.Topologies, "topology"), "topologys", "topologies"))
	}
	args := []string{"ingest", r.File}
	if r.Topology != "" {
		args = append(args, "--topology", r.Topology)
	}
	if engine := r.Job.Engine(); engine != "file" {
		args = append(args, "--engine", engine)
	}
	a.next([2]string{command(args...), "read it into another database"})
}

// before is the end of the stretch that (…, …] begins after, so that the time
// itself is in it; the beginning of all stays that.
func before(at time.Time) time.Time {
	if at.IsZero() {
		return at
	}
	return at.Add(-time.Microsecond)
}

// exportHistory reads a history twice, a stretch at a time: once for what a
// file's head must know, and once for its rows.
func (a *app) exportHistory(ctx context.Context, st *store.Store, job dhalion.JobID, w io.Writer, o exportOptions, result *exportedFile) (err error) {
	catalogue, err := st.Catalogue(ctx, job)
	if err != nil {
		return err
	}
	begin, end := before(o.begin), o.end
	kinds := dhalion.TargetKinds
	if o.kind != "" {
		kinds = []dhalion.TargetKind{dhalion.TargetKind(o.kind)}
	}
	catalogue = slices.DeleteFunc(catalogue, func(s dhalion.Segment) bool {
		return s.From.After(end) || !o.begin.IsZero() && !s.To.After(begin)
	})
	var outline file.Outline
	err = st.Segments(ctx, job, begin, end, func(s dhalion.Segment) error {
		if !slices.Contains(kinds, s.Kind) {
			return nil
		}
		t, err := segment.Decode(s)
		if err != nil {
			return err
		}
		outline.Add(segment.Between(t, earliest(begin), end))
		return nil
	})
	if err != nil {
		return err
	}
	if outline.Empty() {
		return hinted(fmt.Errorf("export: nothing was measured of %s there", job), "see what there is: %s", command("history", string(job)))
	}
	compressed, err := compressor(w, o.compression)
	if err != nil {
		return fmt.Errorf("export: %w", err)
	}
	e, err := file.NewExporter(compressed, file.Format(o.format), o.shape == "long", job.Name(), &outline)
	if err != nil {
		return err
	}
	cuts := stretches(catalogue, end)
	bar := a.progress(string(job), int64(len(cuts)))
	defer func() { err = errors.Join(err, bar.Close()) }()
	after := begin
	for _, upTo := range cuts {
		h, err := st.History(ctx, job, after, upTo)
		if err != nil {
			return err
		}
		for _, kind := range kinds {
			if t := h.Tables[kind]; t != nil {
				if err := e.Table(t); err != nil {
					return err
				}
			}
		}
		after = upTo
		if _, err := bar.Write([]byte{0}); err != nil {
			return err
		}
	}
	done, err := e.Close()
	if err != nil {
		return err
	}
	if err := compressed.Close(); err != nil {
		return fmt.Errorf("export: %w", err)
	}
	result.Rows, result.Values = done.Rows, done.Values
	result.From, result.To = known(done.From), known(done.To)
	return nil
}

// earliest is a time that Between takes: of the beginning, one before all.
func earliest(at time.Time) time.Time {
	if at.IsZero() {
		return time.Date(0, 12, 31, 0, 0, 0, 0, time.UTC)
	}
	return at
}

// stretches are the ends of stretches of about exportValues values each, in
// order; the last one is end. Segments end at midnight, so no stretch of a
// history is without a cut for long.
func stretches(catalogue []dhalion.Segment, end time.Time) []time.Time {
	slices.SortFunc(catalogue, func(x, y dhalion.Segment) int { return cmp.Or(x.To.Compare(y.To), cmp.Compare(x.Hash, y.Hash)) })
	var cuts []time.Time
	values := 0
	for i, s := range catalogue {
		values += s.Values
		if values >= exportValues && s.To.Before(end) && (i+1 == len(catalogue) || catalogue[i+1].To.After(s.To)) {
			cuts = append(cuts, s.To)
			values = 0
		}
	}
	return append(cuts, end)
}

// compressor compresses by a name's extension.
func compressor(w io.Writer, extension string) (io.WriteCloser, error) {
	switch extension {
	case "gz":
		return gzip.NewWriter(w), nil
	case "zst":
		return zstd.NewWriter(w, zstd.WithEncoderConcurrency(1))
	}
	return kept{w}, nil
}

// kept is a writer whose closing is another's.
type kept struct{ io.Writer }

func (kept) Close() error { return nil }

// output is a file that appears under its name when it is whole, for its owner
// only.
type output struct {
	f    *os.File
	name string // empty: it has none, and is kept nowhere
	done bool
}

func newOutput(name string) (*output, error) {
	if name == "-" {
		f, err := os.CreateTemp("", "dhalion-*")
		if err != nil {
			return nil, err
		}
		return &output{f: f}, os.Remove(f.Name())
	}
	if info, err := os.Stat(name); err == nil && !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no file", name)
	}
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*")
	if err != nil {
		return nil, err
	}
	return &output{f: f, name: name}, nil
}

// keep gives the file its name.
func (o *output) keep() error {
	if err := errors.Join(o.f.Sync(), o.f.Close()); err != nil {
		return err
	}
	if err := os.Rename(o.f.Name(), o.name); err != nil {
		return err
	}
	o.done = true
	return nil
}

// discard takes away what was not kept.
func (o *output) discard() error {
	if o.done {
		return nil
	}
	o.done = true
	err := o.f.Close()
	if o.name != "" {
		if rerr := os.Remove(o.f.Name()); rerr != nil {
			return rerr
		}
		return nil
	}
	return err
}
