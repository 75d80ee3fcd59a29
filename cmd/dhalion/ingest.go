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
	"math"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/ingest"
	"github.com/dhalion-go/dhalion/ingest/file"
	"github.com/dhalion-go/dhalion/ingest/flink"
	"github.com/dhalion-go/dhalion/ingest/flinkautoscaler"
	"github.com/dhalion-go/dhalion/ingest/prometheus"
	"github.com/dhalion-go/dhalion/internal/store"
)

// ingestMemory is what an ingest keeps to as long as the input lets it: a file of
// any length does, a record batch of hundreds of MiB does not.
const ingestMemory = 224 << 20

// ingestOptions are what the flags of ingest say.
type ingestOptions struct {
	format   string
	job      string
	engine   string
	topology string
	mapping  string
	time     string
	spool    string
	skipBad  int

	topologies []dhalion.Topology // of the file that topology names
	digest     string             // of that file
	names      *file.Mapping      // of the file that mapping names
	mapped     string             // digest of that file
	at         time.Time          // what time says
	spoolLimit int64              // what spool says
	epochs     *file.DS2Epochs    // of all files of DS2's, when there are several
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
input. A file called like a subcommand is written ./NAME. Formats, told by the content:

  flink-rest       a recording of Flink's REST answers
  csv, csv-wide    time,job,component,instance,worker,metric,value, or a column per metric
  openmetrics      OpenMetrics, or Prometheus' text format; --time for samples without one
  prometheus-json  Prometheus' answers to query and query_range
  arrow, parquet   Arrow IPC (file or stream) and Parquet, with the columns of either CSV
  ds2              DS2's rates; --topology is then its file of edges

Samples of openmetrics and prometheus-json have canonical names, or names that --mapping
explains.

Each FILE is taken whole or not at all: a broken row is reported with file, line and
reason, and nothing of the file stays, unless --skip-bad allows some. The same file
again, with the same options, changes nothing.`,
		Example: `  dhalion ingest 05_slow_instance.jsonl.gz
  dhalion ingest metrics.csv --job orders --topology orders.yaml
  zcat metrics.csv.gz | dhalion ingest - --skip-bad 10
  dhalion ingest day.parquet night.arrow.zst --engine prod
  curl -s worker:9249/metrics | dhalion ingest - --mapping flink.yaml --time 2026-11-22T08:00:00Z`,
		Args: some("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.checkIngest(&o, args); err != nil {
				return err
			}
			// A soft limit: near it memory is collected sooner. GOMEMLIMIT sets another.
			if unlimited := debug.SetMemoryLimit(-1) == math.MaxInt64; unlimited {
				defer debug.SetMemoryLimit(debug.SetMemoryLimit(ingestMemory))
			}
			var results []*ingested
			code := exitDone
			err := a.withStore(cmd.Context(), func(ctx context.Context, st *store.Store) error {
				if err := o.gatherDS2(ctx, args); err != nil {
					return cause(ctx, err)
				}
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
	f.StringVar(&o.format, "format", "auto", "auto, or one of the formats above")
	f.StringVar(&o.job, "job", "", "name of the job, for rows that name none; renames the one job of a recording")
	f.StringVar(&o.engine, "engine", "file", "first part of the jobs' ids")
	f.StringVar(&o.topology, "topology", "", "YAML `file` with components, parallelism, edges and placement, for formats without")
	f.StringVar(&o.mapping, "mapping", "", "YAML `file` that says what foreign metric names and labels mean")
	f.StringVar(&o.time, "time", "", "`time` of samples that have none")
	f.StringVar(&o.spool, "spool-limit", "16GiB", "`size` up to which a pipe, or compressed Parquet, is copied to a temporary file")
	f.IntVar(&o.skipBad, "skip-bad", 0, "skip and report up to `N` broken rows of a file")
	formats := []string{"auto"}
	for _, known := range file.Formats {
		formats = append(formats, string(known))
	}
	a.complete(c, "format", formats...)
	c.AddCommand(a.ingestFlink(), a.ingestPrometheus(), a.ingestAutoscaler())
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
	var err error
	if o.spoolLimit, err = parseSize(o.spool); err != nil {
		return usagef("--spool-limit %q: %v", o.spool, err)
	}
	if o.time != "" {
		if o.at, err = parseTime("--time", o.time); err != nil {
			return err
		}
	}
	if o.mapping != "" {
		data, err := os.ReadFile(o.mapping)
		if err != nil {
			return fmt.Errorf("ingest: read mapping: %w", err)
		}
		if o.names, err = file.ReadMapping(o.mapping, bytes.NewReader(data)); err != nil {
			return err
		}
		sum := sha256.Sum256(data)
		o.mapped = hex.EncodeToString(sum[:])
	}
	if o.topology == "" {
		return nil
	}
	data, err := os.ReadFile(o.topology)
	if err != nil {
		return fmt.Errorf("ingest: read topology: %w", err)
	}
	read := file.ReadTopology
	if o.format == string(file.FormatDS2) || o.format == "auto" && edgesOfDS2(data) {
		read = file.ReadDS2Topology
	}
	if o.topologies, err = read(o.topology, bytes.NewReader(data)); err != nil {
		return err
	}
	sum := sha256.Sum256(data)
	o.digest = hex.EncodeToString(sum[:])
	return nil
}

// edgesOfDS2 knows DS2's file of edges by its first line, of six fields; a YAML
// topology has no such line.
func edgesOfDS2(data []byte) bool {
	line, _, _ := bytes.Cut(bytes.TrimSpace(data), []byte("\n"))
	fields := bytes.Split(line, []byte(","))
	return len(fields) == 6 && !bytes.ContainsAny(line, "{}[]") && !bytes.Contains(line, []byte(": {"))
}

// gatherDS2 looks through all files for those of DS2's: the instances of a job
// can have one each, and which times are one epoch only all of them tell.
func (o *ingestOptions) gatherDS2(ctx context.Context, names []string) error {
	epochs, n := &file.DS2Epochs{}, 0
	for _, name := range names {
		info, err := os.Stat(name)
		if err != nil || !info.Mode().IsRegular() || name == "-" {
			continue // what is wrong with it is said when it is its turn
		}
		err = func() error {
			f, err := os.Open(name)
			if err != nil {
				return err
			}
			defer f.Close()
			if format, err := detectFormat(f, name); o.format != string(file.FormatDS2) && (o.format != "auto" || err != nil || format != file.FormatDS2) {
				return nil
			}
			if _, err := f.Seek(0, io.SeekStart); err != nil {
				return err
			}
			content, err := file.Decompress(f)
			if err != nil {
				return err
			}
			defer content.Close()
			n++
			return epochs.Add(ctx, name, content)
		}()
		if err != nil {
			return fmt.Errorf("ingest: read %s: %w", name, err)
		}
	}
	if n > 1 {
		o.epochs = epochs
	}
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
	f, size, err := a.openInput(name, o.spoolLimit)
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
	if err := o.fits(format, label); err != nil {
		return result, err
	}
	taken, epochs := "", ""
	if !o.at.IsZero() {
		taken = stamp(o.at)
	}
	if format == file.FormatDS2 && o.epochs != nil {
		epochs = o.epochs.Digest()
	}
	options, err := json.Marshal(struct {
		Engine   string `json:"engine"`
		Job      string `json:"job,omitempty"`
		Format   string `json:"format"`
		Topology string `json:"topology,omitempty"`
		Mapping  string `json:"mapping,omitempty"`
		Time     string `json:"time,omitempty"`
		Epochs   string `json:"epochs,omitempty"`
	}{o.engine, o.job, string(format), o.digest, o.mapped, taken, epochs})
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
		raw := io.TeeReader(&watched{ctx, f}, again)
		source, done, err := o.source(format, label, io.NewSectionReader(&shown{ctx: ctx, f: f, bar: bar, left: size}, 0, size), io.TeeReader(raw, bar))
		if err != nil {
			return ingest.Report{}, err
		}
		defer done()
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

// fits refuses flags that say nothing of a format.
func (o *ingestOptions) fits(format file.Format, label string) error {
	samples := format == file.FormatOpenMetrics || format == file.FormatPrometheus
	switch {
	case format == file.FormatFlinkRecording && o.topology != "":
		return usagef("--topology is for formats without one: the recording %s tells its topology itself", label)
	case o.mapping != "" && !samples:
		return usagef("--mapping is for openmetrics and prometheus-json, and %s is %s", label, format)
	case o.time != "" && format != file.FormatOpenMetrics:
		return usagef("--time is for openmetrics, and %s is %s", label, format)
	}
	return nil
}

// shown reads at any place and shows how much that was, up to the whole.
type shown struct {
	ctx  context.Context
	f    *os.File
	bar  io.Writer
	left int64
}

// ReadAt is io.ReaderAt's.
func (s *shown) ReadAt(p []byte, at int64) (int, error) {
	if err := s.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := s.f.ReadAt(p, at)
	step := min(int64(n), s.left)
	s.left -= step
	if _, berr := s.bar.Write(p[:step]); err == nil {
		err = berr
	}
	return n, err
}

// source reads a file of a format, from raw or at any place. Done is called when
// it has been read.
func (o *ingestOptions) source(format file.Format, label string, f *io.SectionReader, raw io.Reader) (s ingest.Source, done func() error, err error) {
	opts := file.Options{
		Engine: o.engine, Job: o.job, SkipBad: o.skipBad, Topology: o.topologies,
		At: o.at, Mapping: o.names,
	}
	// What is not compressed is read where it lies; what comes after hashes it.
	var head [6]byte
	if n, err := f.ReadAt(head[:], 0); err == nil || n > 0 && err == io.EOF {
		switch {
		case format == file.FormatParquet && strings.HasPrefix(string(head[:n]), "PAR1"):
			return file.NewParquet(label, f, f.Size(), opts), func() error { return nil }, nil
		case format == file.FormatArrow && strings.HasPrefix(string(head[:n]), "ARROW1"):
			return file.NewArrow(label, f, opts), func() error { return nil }, nil
		}
	}
	content, err := file.Decompress(raw)
	if err != nil {
		return nil, nil, fmt.Errorf("ingest: read %s: %w", label, err)
	}
	switch format {
	case file.FormatFlinkRecording:
		s = flink.NewRecording(label, content, flink.Options{Engine: o.engine, Job: o.job, SkipBad: o.skipBad})
	case file.FormatOpenMetrics:
		s = file.NewOpenMetrics(label, content, opts)
	case file.FormatPrometheus:
		s = file.NewPrometheus(label, content, opts)
	case file.FormatArrow:
		s = file.NewArrow(label, content, opts)
	case file.FormatDS2:
		s = o.epochs.Source(label, content, opts) // without epochs, those of the file
	case file.FormatParquet:
		spool, n, err := file.Spool(content, o.spoolLimit)
		if err != nil {
			return nil, nil, fmt.Errorf("ingest: read %s: %w", label, errors.Join(err, content.Close()))
		}
		return file.NewParquet(label, spool, n, opts), func() error { return errors.Join(spool.Close(), content.Close()) }, nil
	default:
		s = file.NewCSV(label, content, opts)
	}
	return s, content.Close, nil
}

// parseSize reads a number of bytes, with KiB, MiB, GiB or TiB behind it.
func parseSize(s string) (int64, error) {
	digits, shift := s, 0
	for i, unit := range []string{"KiB", "MiB", "GiB", "TiB"} {
		if rest, ok := strings.CutSuffix(s, unit); ok {
			digits, shift = strings.TrimSpace(rest), 10*(i+1)
		}
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n <= 0 || n > math.MaxInt64>>shift {
		return 0, errors.New("it is a number of bytes above 0, as 500MiB or 16GiB")
	}
	return n << shift, nil
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
func (a *app) openInput(name string, limit int64) (f *os.File, size int64, err error) {
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
	if f, size, err = file.Spool(from, limit); err != nil {
		return nil, 0, fmt.Errorf("ingest: copy %s: %w", name, err)
	}
	return f, size, nil
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
	ingest.Duplicate:               "came twice, kept once",
	ingest.Conflict:                "came twice with different values, the greater kept",
	ingest.OutOfOrder:              "out of order, sorted in",
	ingest.Clamped:                 "a little outside 0 to 1, brought to the edge",
	ingest.MissingValue:            "without a value: unknown",
	ingest.SkippedRow:              "broken rows, skipped",
	file.Unmapped:                  "of metrics that the mapping does not name, left out",
	flink.Unanswered:               "requests that were not answered",
	flink.UnreadableAnswer:         "answers that cannot be read",
	flink.UnusableTopology:         "graphs that cannot be used",
	prometheus.EmptyQuery:          "queries that gave nothing",
	prometheus.UnusableSeries:      "series whose labels name no target, left out",
	prometheus.InfiniteValue:       "infinite values, left out",
	prometheus.ImpossibleValue:     "values that cannot be, left out",
	flinkautoscaler.UnmappedMetric: "values that no metric stands for, left out",
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
