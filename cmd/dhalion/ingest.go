package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/ingest"
	"github.com/dhalion-go/dhalion/ingest/file"
	"github.com/dhalion-go/dhalion/ingest/flink"
	"github.com/dhalion-go/dhalion/internal/store"
)

// ingestOptions are what the flags of ingest say.
type ingestOptions struct {
	format   string
	job      string
	engine   string
	topology string
	skipBad  int

	topologies []dhalion.Topology // of the file that topology names
	digest     string             // of that file
	maxValues  int                // held before they become segments; 0: as ingest has it
}

// ingested is what became of one input.
type ingested struct {
	File      string            `json:"file"`
	Format    string            `json:"format,omitempty"`
	Already   bool              `json:"already"`
	Rows      int               `json:"rows"`
	Values    int               `json:"values"`
	Segments  int               `json:"segments"`
	Targets   int               `json:"targets"`
	Jobs      []dhalion.JobID   `json:"jobs"`
	From      *time.Time        `json:"from"`
	To        *time.Time        `json:"to"`
	Repairs   map[string]int    `json:"repairs"`
	Conflicts int               `json:"conflicts"`
	Skipped   []ingest.RowError `json:"skipped"`
	Error     string            `json:"error,omitempty"`
}

func (a *app) ingestCommand() *cobra.Command {
	var o ingestOptions
	c := &cobra.Command{
		Use:   "ingest FILE…",
		Short: "Read metric histories into the database",
		Long: `Read metric histories into the database. A FILE may be gzip or zstd; - is standard
input. Formats: a recording of Flink's REST answers (flink-rest), canonical CSV with
the header time,job,component,instance,worker,metric,value (csv), and CSV with a
column per metric (csv-wide).

Each FILE is taken whole or not at all: a broken row is reported with file, line and
reason, and nothing of the file stays, unless --skip-bad allows some. The same file
again, with the same options, changes nothing.`,
		Example: `  dhalion ingest 05_slow_instance.jsonl.gz
  dhalion ingest metrics.csv --job orders --topology orders.yaml
  zcat metrics.csv.gz | dhalion ingest - --skip-bad 10`,
		Args: some("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.checkIngest(&o, args); err != nil {
				return err
			}
			var results []*ingested
			code := exitDone
			err := a.withStore(cmd.Context(), func(ctx context.Context, st *store.Store) error {
				for _, name := range args {
					r, err := a.ingestFile(ctx, st, name, o)
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
				if err := a.writeJSON(struct {
					Inputs []*ingested `json:"inputs"`
				}{results}); err != nil {
					return err
				}
			} else {
				a.ingestText(results)
			}
			if code != exitDone {
				return &failure{code: code}
			}
			return nil
		},
	}
	f := c.Flags()
	f.StringVar(&o.format, "format", "auto", "auto, flink-rest, csv or csv-wide")
	f.StringVar(&o.job, "job", "", "name of the job, for rows that name none; renames the one job of a recording")
	f.StringVar(&o.engine, "engine", "file", "first part of the jobs' ids")
	f.StringVar(&o.topology, "topology", "", "YAML `file` with components, parallelism, edges and placement, for CSV")
	f.IntVar(&o.skipBad, "skip-bad", 0, "skip and report up to `N` broken rows of a file")
	formats := []string{"auto"}
	for _, known := range file.Formats {
		formats = append(formats, string(known))
	}
	a.complete(c, "format", formats...)
	return c
}

// checkIngest refuses flags that make no sense, and reads the topology file:
// once, for all files.
func (a *app) checkIngest(o *ingestOptions, args []string) error {
	if o.format != "auto" && !slices.Contains(file.Formats, file.Format(o.format)) {
		known := []string{"auto"}
		for _, f := range file.Formats {
			known = append(known, string(f))
		}
		return usagef("--format is one of %s, not %q", strings.Join(known, ", "), o.format)
	}
	if o.skipBad < 0 {
		return usagef("--skip-bad %d is negative", o.skipBad)
	}
	if o.engine == "" || strings.Contains(o.engine, "/") {
		return usagef("--engine %q: it is a name without a slash", o.engine)
	}
	if n := len(args) - len(slices.DeleteFunc(slices.Clone(args), func(s string) bool { return s == "-" })); n > 1 {
		return usagef("standard input (-) can be read once")
	}
	if o.topology == "" {
		return nil
	}
	data, err := os.ReadFile(o.topology)
	if err != nil {
		return fmt.Errorf("ingest: read topology: %w", err)
	}
	if o.topologies, err = file.ReadTopology(o.topology, bytes.NewReader(data)); err != nil {
		return err
	}
	sum := sha256.Sum256(data)
	o.digest = hex.EncodeToString(sum[:])
	return nil
}

// ingestFile stores one file in one transaction. The file is read twice: the
// hash that tells whether it is stored already comes first. What is read the
// second time must have the same hash, else it changed in between.
func (a *app) ingestFile(ctx context.Context, st *store.Store, name string, o ingestOptions) (*ingested, error) {
	result := &ingested{File: name, Jobs: []dhalion.JobID{}, Repairs: map[string]int{}, Skipped: []ingest.RowError{}}
	label := name
	if name == "-" {
		label = "stdin"
	}
	f, size, err := a.openInput(name)
	if err != nil {
		return result, err
	}
	defer f.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, &watched{ctx, f}); err != nil {
		return result, fmt.Errorf("ingest: read %s: %w", label, err)
	}
	digest := hex.EncodeToString(hash.Sum(nil))
	format := file.Format(o.format)
	if o.format == "auto" {
		if format, err = detectFormat(f, label); err != nil {
			return result, err
		}
	}
	result.Format = string(format)
	if format == file.FormatFlinkRecording && o.topology != "" {
		return result, usagef("--topology is for CSV: the recording %s tells its topology itself", label)
	}
	options, err := json.Marshal(struct {
		Engine   string `json:"engine"`
		Job      string `json:"job,omitempty"`
		Format   string `json:"format"`
		Topology string `json:"topology,omitempty"`
	}{o.engine, o.job, string(format), o.digest})
	if err != nil {
		return result, fmt.Errorf("ingest: %s: %w", label, err)
	}
	// --skip-bad is no part of the options: it decides whether a file is
	// refused, never what comes of one that is not.
	in := store.Input{Name: label, Hash: digest, Format: string(format), Options: string(options)}
	report, already, err := st.Ingest(ctx, in, func(ctx context.Context, out ingest.Out) (ingest.Report, error) {
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return ingest.Report{}, fmt.Errorf("ingest: read %s: %w", label, err)
		}
		again := sha256.New()
		bar := a.progress(label, size)
		raw := io.TeeReader(&watched{ctx, f}, io.MultiWriter(again, bar))
		content, err := file.Decompress(raw)
		if err != nil {
			return ingest.Report{}, fmt.Errorf("ingest: read %s: %w", label, err)
		}
		defer content.Close()
		var source ingest.Source
		switch format {
		case file.FormatFlinkRecording:
			source = flink.NewRecording(label, content, flink.Options{Engine: o.engine, Job: o.job, SkipBad: o.skipBad})
		default:
			source = file.NewCSV(label, content, file.Options{Engine: o.engine, Job: o.job, SkipBad: o.skipBad, Topology: o.topologies})
		}
		rep, err := ingest.Collect(ctx, out, ingest.Options{MaxValues: o.maxValues}, source)
		if err == nil {
			_, err = io.Copy(io.Discard, raw)
		}
		if cerr := bar.Close(); err == nil {
			err = cerr
		}
		if err == nil && hex.EncodeToString(again.Sum(nil)) != digest {
			err = fmt.Errorf("ingest: %s changed while it was read", label)
		}
		return rep, err
	})
	if err != nil {
		return result, rowFirst(err)
	}
	result.Already = already
	result.Rows, result.Values, result.Segments, result.Targets = report.Rows, report.Values, report.Segments, report.Targets
	result.Conflicts = report.Conflicts
	result.From, result.To = known(report.From), known(report.To)
	result.Jobs, result.Skipped = list(report.Jobs), list(report.Skipped)
	if report.Repairs != nil {
		result.Repairs = report.Repairs
	}
	return result, nil
}

// rowFirst puts FILE:LINE first when a row is to blame: that is where a person,
// or an editor, goes.
func rowFirst(err error) error {
	var row ingest.RowError
	if errors.As(err, &row) {
		return hinted(row, "nothing of the file was stored; --skip-bad N skips up to N broken rows")
	}
	return err
}

// watched stops reading when the command is interrupted.
type watched struct {
	ctx context.Context
	r   io.Reader
}

func (w *watched) Read(p []byte) (int, error) {
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	return w.r.Read(p)
}

// openInput opens a file that can be read twice. What cannot (standard input, a
// pipe) is copied to a temporary file first.
func (a *app) openInput(name string) (f *os.File, size int64, err error) {
	var from io.Reader = a.in
	if name != "-" {
		if f, err = os.Open(name); err != nil {
			return nil, 0, fmt.Errorf("ingest: %w", err)
		}
		info, err := f.Stat()
		if err == nil && info.IsDir() {
			err = fmt.Errorf("%s is a folder", name)
		}
		if err != nil {
			return nil, 0, fmt.Errorf("ingest: %w", errors.Join(err, f.Close()))
		}
		if info.Mode().IsRegular() {
			return f, info.Size(), nil
		}
		defer f.Close()
		from = f
	}
	spool, err := os.CreateTemp("", "dhalion-ingest-*")
	if err != nil {
		return nil, 0, fmt.Errorf("ingest: %w", err)
	}
	// Without its name the file goes when it is closed, also by a kill.
	if err = os.Remove(spool.Name()); err == nil {
		size, err = io.Copy(spool, from)
	}
	if err == nil {
		_, err = spool.Seek(0, io.SeekStart)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("ingest: copy %s: %w", name, errors.Join(err, spool.Close()))
	}
	return spool, size, nil
}

// detectFormat looks at the beginning of the content.
func detectFormat(f *os.File, label string) (file.Format, error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return "", fmt.Errorf("ingest: read %s: %w", label, err)
	}
	content, err := file.Decompress(f)
	if err != nil {
		return "", fmt.Errorf("ingest: read %s: %w", label, err)
	}
	defer content.Close()
	head, err := io.ReadAll(io.LimitReader(content, 64<<10))
	if err != nil && len(head) == 0 {
		return "", fmt.Errorf("ingest: read %s: %w", label, err)
	}
	format, err := file.Detect(head)
	if err != nil {
		return "", fmt.Errorf("%s: %w", label, err)
	}
	return format, nil
}

// progress is a bar on stderr when that is a terminal, else nothing.
func (a *app) progress(what string, size int64) io.WriteCloser {
	width, ok := terminal(a.err)
	if !ok {
		return silent{}
	}
	return progressbar.NewOptions64(max(1, size),
		progressbar.OptionSetWriter(a.err),
		progressbar.OptionSetDescription(clip(plain(what), 30)),
		progressbar.OptionSetWidth(max(10, width-70)),
		progressbar.OptionShowBytes(true),
		progressbar.OptionThrottle(100*time.Millisecond),
		progressbar.OptionClearOnFinish())
}

type silent struct{}

func (silent) Write(p []byte) (int, error) { return len(p), nil }
func (silent) Close() error                { return nil }

// repairWords say what was done; a kind that is not here says it itself.
var repairWords = map[string]string{
	ingest.Duplicate:       "came twice, kept once",
	ingest.Conflict:        "came twice with different values, the greater kept",
	ingest.OutOfOrder:      "out of order, sorted in",
	ingest.Clamped:         "a little outside 0 to 1, brought to the edge",
	ingest.MissingValue:    "without a value: unknown",
	ingest.SkippedRow:      "broken rows, skipped",
	flink.Unanswered:       "requests that were not answered",
	flink.UnreadableAnswer: "answers that cannot be read",
	flink.UnusableTopology: "graphs that cannot be used",
}

func (a *app) ingestText(results []*ingested) {
	jobs := map[dhalion.JobID]bool{}
	for _, r := range results {
		if r.Error != "" {
			a.printf("%s: refused, nothing of it was stored\n", plain(r.File))
			continue
		}
		if r.Already {
			a.printf("%s: already ingested, nothing added\n", a.style(bold, plain(r.File)))
		} else {
			a.printf("%s: ingested (%s)\n", a.style(bold, plain(r.File)), r.Format)
		}
		var names []string
		for _, j := range r.Jobs {
			jobs[j] = true
			names = append(names, string(j))
		}
		a.printf("  jobs    %s\n", wrap(plain(strings.Join(names, ", ")), a.width()-10, "          "))
		if r.From != nil {
			a.printf("  time    %s to %s\n", when(*r.From), when(*r.To))
		}
		a.printf("  read    %s of %s at %s, in %s\n", plural(r.Values, "value"), plural(r.Targets, "target"),
			strings.ReplaceAll(plural(r.Rows, "row"), "rows", "(target, time) pairs"), plural(r.Segments, "segment"))
		lead := "  mended"
		for _, kind := range slices.Sorted(maps.Keys(r.Repairs)) {
			what := repairWords[kind]
			if what == "" {
				what = strings.ReplaceAll(kind, "_", " ")
			}
			a.printf("%s  %s %s\n", pad(lead, 8), count(r.Repairs[kind]), what)
			lead = ""
		}
		for _, row := range r.Skipped {
			a.printf("  skipped %s\n", plain(row.Error()))
		}
		if n := r.Repairs[ingest.SkippedRow]; n > len(r.Skipped) {
			a.printf("          and %d more\n", n-len(r.Skipped))
		}
	}
	if len(jobs) == 0 {
		return
	}
	first := slices.Sorted(maps.Keys(jobs))[0]
	a.next(
		[2]string{command("history", string(first)), "see what is known of it"},
		[2]string{command("diagnose", string(first)), "see what is wrong with it at the end"},
	)
}
