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
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/ingest"
	"github.com/dhalion-go/dhalion/ingest/file"
	"github.com/dhalion-go/dhalion/ingest/prometheus"
	client "github.com/dhalion-go/dhalion/internal/engine/prometheus"
	"github.com/dhalion-go/dhalion/internal/store"
)

const (
	// maxTimes bounds the times of one range: a step that was meant otherwise.
	maxTimes = 10_000_000

	maxSecret = 64 << 10 // bytes of a file with a credential or certificates
)

// prometheusOptions are what the flags of ingest prometheus say.
type prometheusOptions struct {
	mapping, print         string
	from, to               string
	step, every, span      time.Duration
	job, engine            string
	topology               string
	bearer, basic, ca      string
	timeout                time.Duration
	topologies             []dhalion.Topology
	topologyDigest, digest string
}

func (a *app) ingestPrometheus() *cobra.Command {
	var o prometheusOptions
	c := &cobra.Command{
		Use:   "prometheus URL",
		Short: "Read histories out of a Prometheus",
		Long: `Read histories out of a Prometheus, or what speaks its HTTP interface. A mapping says
which PromQL query gives which metric and which labels name job, component, instance and
worker; flink and storm come with the program, others are YAML files.

The range from --from to --to is read once; without them the last hour. With --every it
is followed, until --for is over or the command is interrupted: each poll is stored as
one, and one that fails for a while is made up for. Reading a range again changes
nothing.`,
		Example: `  dhalion ingest prometheus http://prometheus:9090 --job word_count
  dhalion ingest prometheus http://prometheus:9090 --from 2026-11-22T08:00:00Z --to 2026-11-22T09:00:00Z --step 5s
  dhalion ingest prometheus https://metrics.example.org/prom --mapping orders.yaml --bearer-file token --every 10s --for 8h
  dhalion ingest prometheus --print-mapping flink >mine.yaml`,
		Args: func(cmd *cobra.Command, args []string) error {
			if o.print != "" {
				return none(cmd, args)
			}
			return one("URL")(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.print != "" {
				return a.printMapping(o.print)
			}
			return a.readPrometheus(cmd, args[0], &o)
		},
	}
	f := c.Flags()
	f.StringVar(&o.mapping, "mapping", "flink", "flink, storm, or a YAML `file`")
	f.StringVar(&o.print, "print-mapping", "", "print the mapping `NAME` that comes with the program, and do nothing else")
	f.StringVar(&o.from, "from", "", "first `time`; an hour before --to, with --every the present")
	f.StringVar(&o.to, "to", "", "last `time`; the present")
	f.DurationVar(&o.step, "step", 10*time.Second, "between two times")
	f.DurationVar(&o.every, "every", 0, "go on polling, so often")
	f.DurationVar(&o.span, "for", 0, "end polling after so long; 0: when interrupted")
	f.StringVar(&o.job, "job", "", "only the job of this name; series that name none are its own")
	f.StringVar(&o.engine, "engine", "prometheus", "first part of the jobs' ids")
	f.StringVar(&o.topology, "topology", "", "YAML `file` with components, parallelism, edges and placement")
	f.StringVar(&o.bearer, "bearer-file", "", "`file` with a token")
	f.StringVar(&o.basic, "basic-file", "", "`file` with USER:PASSWORD")
	f.StringVar(&o.ca, "ca-file", "", "PEM `file` of the certificates to trust")
	f.DurationVar(&o.timeout, "timeout", client.DefaultTimeout, "for one request")
	a.complete(c, "print-mapping", prometheus.BundledNames...)
	return c
}

func (a *app) printMapping(name string) error {
	data, ok := prometheus.Bundled(name)
	if !ok {
		return usagef("--print-mapping is one of %s, not %q", strings.Join(prometheus.BundledNames, ", "), name)
	}
	if a.json() {
		m, err := prometheus.ReadMapping(name+".yaml", bytes.NewReader(data))
		if err != nil {
			return err
		}
		return a.writeJSON(m)
	}
	a.printf("%s", data)
	return nil
}

// readMapping takes the name of a mapping that comes with the program, or a file.
func readMapping(name string) (m *prometheus.Mapping, digest string, err error) {
	data, ok := prometheus.Bundled(name)
	label := name
	if ok {
		label += ".yaml"
	} else if data, err = os.ReadFile(name); err != nil {
		if errors.Is(err, os.ErrNotExist) && !strings.ContainsAny(name, "./") {
			return nil, "", usagef("--mapping is one of %s, or a file; there is no file %s", strings.Join(prometheus.BundledNames, ", "), name)
		}
		return nil, "", fmt.Errorf("ingest: read mapping: %w", err)
	}
	m, err = prometheus.ReadMapping(label, bytes.NewReader(data))
	sum := sha256.Sum256(data)
	return m, hex.EncodeToString(sum[:]), err
}

// checkNames refuses names of engine and job that no id can have.
func checkNames(engine, job string) error {
	if engine == "" || strings.Contains(engine, "/") {
		return usagef("--engine %q: it is a name without a slash", engine)
	}
	if err := ingest.CheckName("engine", engine); err != nil {
		return usagef("--engine: %v", err)
	}
	if job != "" {
		if err := ingest.CheckName("job", job); err != nil {
			return usagef("--job: %v", err)
		}
	}
	return nil
}

// timesOf are the first and last time that the flags ask for.
func (o *prometheusOptions) timesOf(cmd *cobra.Command, now time.Time) (from, to time.Time, err error) {
	switch {
	case o.step < time.Millisecond || o.step%time.Millisecond != 0:
		return from, to, usagef("--step %s: it is at least 1ms, in whole milliseconds", o.step)
	case o.timeout <= 0:
		return from, to, usagef("--timeout %s is not above 0", o.timeout)
	case cmd.Flags().Changed("every") && o.every <= 0:
		return from, to, usagef("--every %s is not above 0", o.every)
	case o.every > 0 && o.to != "":
		return from, to, usagef("--every follows the present, and --to is an end: use --for")
	case o.every == 0 && cmd.Flags().Changed("for"):
		return from, to, usagef("--for is for polling: add --every")
	case o.span < 0:
		return from, to, usagef("--for %s is negative", o.span)
	}
	if to = now; o.to != "" {
		if to, err = parseTime("--to", o.to); err != nil {
			return from, to, err
		}
	}
	if from = to.Add(-time.Hour); o.every > 0 {
		from = to.Add(-o.step)
	}
	if o.from != "" {
		if from, err = parseTime("--from", o.from); err != nil {
			return from, to, err
		}
	}
	if from.After(to) {
		return from, to, usagef("--from %s is after --to %s", when(from), when(to))
	}
	if to.Sub(from)/o.step >= maxTimes {
		return from, to, usagef("from %s to %s there are more than %d steps of %s", when(from), when(to), maxTimes, o.step)
	}
	return from, to, nil
}

func (a *app) readPrometheus(cmd *cobra.Command, url string, o *prometheusOptions) error {
	from, to, err := o.timesOf(cmd, a.now())
	if err != nil {
		return err
	}
	if err := checkNames(o.engine, o.job); err != nil {
		return err
	}
	mapping, digest, err := readMapping(o.mapping)
	if err != nil {
		return err
	}
	o.digest = digest
	if o.topology != "" {
		data, err := os.ReadFile(o.topology)
		if err != nil {
			return fmt.Errorf("ingest: read topology: %w", err)
		}
		if o.topologies, err = file.ReadTopology(o.topology, bytes.NewReader(data)); err != nil {
			return err
		}
		sum := sha256.Sum256(data)
		o.topologyDigest = hex.EncodeToString(sum[:])
	}
	server, err := o.connect(url)
	if err != nil {
		return err
	}
	defer server.Close()
	reader, err := prometheus.NewReader(server, mapping, prometheus.Options{Engine: o.engine, Job: o.job, Step: o.step, Topology: o.topologies})
	if err != nil {
		return err
	}
	options, err := json.Marshal(struct {
		Engine   string `json:"engine"`
		Job      string `json:"job,omitempty"`
		Mapping  string `json:"mapping"`
		Step     string `json:"step"`
		Topology string `json:"topology,omitempty"`
	}{o.engine, clip(o.job, 200), o.digest, o.step.String(), o.topologyDigest})
	if err != nil {
		return fmt.Errorf("ingest: %w", err)
	}
	// There is no content to hash: an answer is never read twice. Reading a range
	// again stores equal values once more, and the later ones win.
	in := store.Input{Name: server.Name() + " (" + mapping.Name + ")", Format: "prometheus", Options: string(options)}
	poll := func(ctx context.Context, st *store.Store, from, to time.Time) (*ingested, error) {
		result, err := a.ingestSource(ctx, st, in, reader.Range(from, to))
		if err == nil {
			reader.Stored()
		}
		return result, err
	}
	return a.withStore(cmd.Context(), func(ctx context.Context, st *store.Store) error {
		if o.every > 0 {
			total, err := a.follow(ctx, st, poll, reader, from, o)
			if total != nil {
				err = errors.Join(a.told([]*ingested{total}), err)
			}
			return err
		}
		result, err := poll(ctx, st, from, to)
		if errors.Is(err, errNothing) {
			err = hinted(fmt.Errorf("ingest: %s: no query gave a value of a job between %s and %s", in.Name, when(from), when(to)),
				"see what is asked for: dhalion metrics prometheus; and check --job and the times")
			result.Error = err.Error()
			return errors.Join(a.told([]*ingested{result}), err)
		}
		if err != nil {
			return cause(ctx, err)
		}
		return a.told([]*ingested{result})
	})
}

// connect reads the credentials, which no message shows.
func (o *prometheusOptions) connect(url string) (*client.Client, error) {
	c := client.Options{URL: url, Timeout: o.timeout}
	if o.bearer != "" && o.basic != "" {
		return nil, usagef("--bearer-file and --basic-file: a request can carry one")
	}
	for _, f := range []struct {
		flag, name string
		take       func(data []byte) error
	}{
		{"--bearer-file", o.bearer, func(data []byte) error {
			if c.Bearer = strings.TrimSpace(string(data)); c.Bearer == "" || strings.ContainsAny(c.Bearer, " \r\n") {
				return errors.New("it is not one token")
			}
			return nil
		}},
		{"--basic-file", o.basic, func(data []byte) error {
			user, password, ok := strings.Cut(strings.TrimSpace(string(data)), ":")
			if c.User, c.Password = user, password; !ok || user == "" {
				return errors.New("it is not USER:PASSWORD")
			}
			return nil
		}},
		{"--ca-file", o.ca, func(data []byte) error { c.CA = data; return nil }},
	} {
		if f.name == "" {
			continue
		}
		data, err := readSmall(f.name)
		if err == nil {
			err = f.take(data)
		}
		if err != nil {
			return nil, fmt.Errorf("ingest: %s %s: %w", f.flag, f.name, err)
		}
	}
	server, err := client.NewClient(c)
	if err != nil {
		return nil, usagef("%v", err)
	}
	return server, nil
}

func readSmall(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		var path *os.PathError
		if errors.As(err, &path) {
			err = path.Err // the name is said already
		}
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err == nil && len(data) > maxSecret {
		err = fmt.Errorf("it has more than %d KiB", maxSecret>>10)
	}
	return data, err
}

// errNothing says that a source gave neither a value nor a topology; nothing is
// stored of it then, not even that it was asked.
var errNothing = errors.New("it gave nothing")

// ingestSource stores what one source gives, in one transaction. With errNothing
// the result says why there is nothing.
func (a *app) ingestSource(ctx context.Context, st *store.Store, in store.Input, source ingest.Source) (*ingested, error) {
	result := &ingested{File: in.Name, Format: in.Format, Jobs: []dhalion.JobID{}, Repairs: map[string]int{}, Skipped: []ingest.RowError{}}
	var given ingest.Report
	report, already, err := st.Ingest(ctx, in, func(ctx context.Context, out ingest.Out) (ingest.Report, error) {
		var err error
		if given, err = ingest.Collect(ctx, out, ingest.Options{}, source); err == nil && given.Values == 0 && len(given.Jobs) == 0 {
			err = errNothing
		}
		return given, err
	})
	if errors.Is(err, errNothing) {
		result.add(given)
	}
	if err != nil {
		return result, err
	}
	result.Already = already
	result.add(report)
	return result, nil
}

// add counts another report in.
func (r *ingested) add(report ingest.Report) {
	r.Rows += report.Rows
	r.Values += report.Values
	r.Segments += report.Segments
	r.Targets = max(r.Targets, report.Targets)
	r.Conflicts += report.Conflicts
	r.Jobs = append(r.Jobs, report.Jobs...)
	slices.Sort(r.Jobs)
	r.Jobs = slices.Compact(r.Jobs)
	if from := known(report.From); from != nil && (r.From == nil || from.Before(*r.From)) {
		r.From = from
	}
	if to := known(report.To); to != nil && (r.To == nil || to.After(*r.To)) {
		r.To = to
	}
	for kind, n := range report.Repairs {
		if kind == prometheus.EmptyQuery {
			r.Repairs[kind] = max(r.Repairs[kind], n) // the same ones at every poll
			continue
		}
		r.Repairs[kind] += n
	}
	for _, row := range report.Skipped {
		if len(r.Skipped) < 20 && !slices.Contains(r.Skipped, row) {
			r.Skipped = append(r.Skipped, row)
		}
	}
}

// merge counts the result of another poll in.
func (r *ingested) merge(o *ingested) {
	rep := ingest.Report{
		Rows: o.Rows, Values: o.Values, Segments: o.Segments, Targets: o.Targets, Conflicts: o.Conflicts,
		Jobs: o.Jobs, Repairs: o.Repairs, Skipped: o.Skipped,
	}
	if o.From != nil && o.To != nil {
		rep.From, rep.To = *o.From, *o.To
	}
	r.add(rep)
}

func (a *app) told(results []*ingested) error {
	if !a.json() {
		a.ingestText(results)
		return nil
	}
	return a.writeJSON(struct {
		Inputs []*ingested `json:"inputs"`
	}{results})
}

// follow polls until its time is over or the command is interrupted, which is how
// one without an end ends. A server that was there and does not answer is asked
// again at the next poll, from the last time that was stored; anything else ends
// it. The result covers what was stored, nil when nothing was.
func (a *app) follow(ctx context.Context, st *store.Store, poll func(context.Context, *store.Store, time.Time, time.Time) (*ingested, error), reader *prometheus.Reader, from time.Time, o *prometheusOptions) (total *ingested, err error) {
	ticks := time.NewTicker(o.every)
	defer ticks.Stop()
	var over <-chan time.Time
	if o.span > 0 {
		timer := time.NewTimer(o.span)
		defer timer.Stop()
		over = timer.C
	}
	_, shown := terminal(a.err)
	for {
		to := reader.Align(a.now())
		if !to.Before(from) {
			result, err := poll(ctx, st, from, to)
			if errors.Is(err, errNothing) {
				err = nil
			}
			var away *client.UnavailableError
			switch {
			case ctx.Err() != nil:
				return total, nil
			case err != nil && total != nil && errors.As(err, &away):
				fmt.Fprintf(a.err, "dhalion: %v; the next poll makes up for it\n", err)
			case err != nil:
				return total, err
			default:
				if total == nil {
					total = result
				} else {
					total.merge(result)
				}
				if shown {
					fmt.Fprintf(a.err, "dhalion: %s stored up to %s\n", plural(result.Values, "value"), when(to))
				}
				from = to.Add(o.step)
			}
		}
		select {
		case <-ticks.C:
		case <-over:
			return total, nil
		case <-ctx.Done():
			return total, nil
		}
	}
}

func (a *app) metricsPrometheus() *cobra.Command {
	var name string
	c := &cobra.Command{
		Use:     "prometheus",
		Short:   "Print which PromQL query gives which metric",
		Example: "  dhalion metrics prometheus\n  dhalion metrics prometheus --mapping storm -o json",
		Args:    none,
		RunE: func(*cobra.Command, []string) error {
			m, _, err := readMapping(name)
			if err != nil {
				return err
			}
			if a.json() {
				return a.writeJSON(struct {
					Engine string `json:"engine"`
					*prometheus.Mapping
				}{"prometheus", m})
			}
			for _, kind := range dhalion.TargetKinds {
				first := true
				for _, q := range m.Queries {
					if q.Target != kind {
						continue
					}
					if first {
						a.title("Of each " + string(kind))
						first = false
					}
					unit := ""
					if info, ok := q.Metric.Info(); ok {
						unit = " [" + info.Unit + "]"
					}
					a.printf("  %s\n", a.style(bold, string(q.Metric)+unit))
					text := q.Query
					if q.Scale != 1 {
						text = fmt.Sprintf("%v × %s", q.Scale, text)
					}
					a.printf("      %s\n", wrap(plain(text), a.width()-6, "      "))
				}
			}
			return nil
		},
	}
	c.Flags().StringVar(&name, "mapping", "flink", "flink, storm, or a YAML `file`")
	return c
}
