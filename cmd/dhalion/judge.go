package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/diagnose"
	"github.com/dhalion-go/dhalion/features"
	"github.com/dhalion-go/dhalion/ingest/segment"
	"github.com/dhalion-go/dhalion/internal/store"
	"github.com/dhalion-go/dhalion/plan/planfile"
	"github.com/dhalion-go/dhalion/plan/policy"
)

// judgeFlags say when and by what a job is judged.
type judgeFlags struct {
	at     string
	window time.Duration
	policy string
	params []string
	model  string // empty: as the policy says

	changed     func(flag string) bool // whether the command line has it
	loaded      *policy.Policy         // by check
	sourceRates map[string]float64     // by loadPolicy
}

func (a *app) judgeFlags(c *cobra.Command, f *judgeFlags) {
	c.Flags().StringVar(&f.at, "at", "", "the `time` to judge: RFC 3339, or seconds or milliseconds since 1970 (default: the newest measurement)")
	a.policyFlags(c, f)
}

func (a *app) policyFlags(c *cobra.Command, f *judgeFlags) {
	c.Flags().DurationVar(&f.window, "window", 0, "the stretch before that time to look at (default: the policy's)")
	c.Flags().StringVar(&f.policy, "policy", "default", "a built-in policy or a YAML `file`; without it that of the job in dhalion.yaml")
	f.changed = c.Flags().Changed
	c.Flags().StringArrayVar(&f.params, "param", nil, "set a parameter of the policy, `KEY=VALUE`; may be repeated")
}

// check finds what is wrong with the flags before a database is opened, and
// loads the policy.
func (f *judgeFlags) check() (err error) {
	if f.window < 0 {
		return usagef("--window %s is negative", f.window)
	}
	if _, err := f.time(); err != nil {
		return err
	}
	f.loaded, err = f.loadPolicy()
	return err
}

// forJob are the flags with the policy that dhalion.yaml names for a job, where
// the command line names none.
func (a *app) forJob(f judgeFlags, job dhalion.JobID) (judgeFlags, error) {
	if f.changed == nil || f.changed("policy") {
		return f, nil
	}
	c, err := a.config()
	if err != nil {
		return f, err
	}
	i, ok := c.JobFor(job)
	if !ok || c.Jobs[i].Policy == f.policy {
		return f, nil
	}
	f.policy = c.Jobs[i].Policy
	f.loaded, err = f.loadPolicy()
	return f, err
}

// given reports whether the command line says by which policy a job is judged.
func (f *judgeFlags) given() bool {
	return f.changed("policy") || f.changed("param") || f.changed("window") || f.model != ""
}

// time is --at; the zero time is the newest measurement.
func (f *judgeFlags) time() (time.Time, error) {
	if f.at == "" {
		return time.Time{}, nil
	}
	return parseTime("--at", f.at)
}

func (f *judgeFlags) parameters() (map[string]string, error) {
	params := map[string]string{}
	for _, p := range f.params {
		key, value, ok := strings.Cut(p, "=")
		if !ok || key == "" {
			return nil, usagef("--param %q is not KEY=VALUE", p)
		}
		if _, twice := params[key]; twice {
			return nil, usagef("--param %s is given twice", key)
		}
		params[key] = value
	}
	return params, nil
}

// policySource is how a policy came about, so that apply can ask whether it is
// still the same one. It is kept in the log and not in the plan: paths differ
// between machines, and equal policies give equal plans.
type policySource struct {
	Policy string            `json:"policy"`
	Named  bool              `json:"named,omitempty"` // on the command line, whatever dhalion.yaml says of the job
	Params map[string]string `json:"params,omitempty"`
	Window string            `json:"window,omitempty"`
	Model  string            `json:"model,omitempty"` // where it was named and is not as the policy says
}

// source is what the flags say, with a file's full path.
func (f *judgeFlags) source() (policySource, error) {
	params, err := f.parameters()
	if err != nil {
		return policySource{}, err
	}
	s := policySource{Policy: f.policy, Named: f.changed != nil && f.changed("policy")}
	if s.Model, err = f.modelSource(); err != nil {
		return policySource{}, err
	}
	if len(params) > 0 {
		s.Params = params
	}
	if policy.IsPath(f.policy) {
		if s.Policy, err = filepath.Abs(f.policy); err != nil {
			return policySource{}, fmt.Errorf("policy %s: %w", f.policy, err)
		}
	}
	if name := params[sourceRatesParam]; name != "" && name != noSourceRates {
		if params[sourceRatesParam], err = filepath.Abs(name); err != nil {
			return policySource{}, fmt.Errorf("policy: source rates %s: %w", name, err)
		}
	}
	if f.window > 0 {
		s.Window = f.window.String()
	}
	return s, nil
}

// load reads the policy again that a source stands for.
func (s policySource) load() (*policy.Policy, error) {
	p, _, err := s.loadWithRates()
	return p, err
}

// loadWithRates reads the source rates as well, where a parameter names a file of
// them. The policy gets the content's digest in place of the name, so that its own
// digest says by which rates a plan was made.
func (s policySource) loadWithRates() (*policy.Policy, map[string]float64, error) {
	params := s.Params
	var rates map[string]float64
	if name := params[sourceRatesParam]; name != "" && name != noSourceRates {
		data, err := readSourceRates(name)
		if err != nil {
			return nil, nil, err
		}
		if rates, err = parseSourceRates(name, data); err != nil {
			return nil, nil, err
		}
		sum := sha256.Sum256(data)
		params = maps.Clone(params)
		params[sourceRatesParam] = "sha256:" + hex.EncodeToString(sum[:])
	}
	p, err := policy.Load(s.Policy, os.ReadFile, features.Known, params)
	if err != nil {
		return nil, nil, err
	}
	if rates == nil {
		if text, ok := p.Parameters.Text(sourceRatesParam); ok && text != noSourceRates {
			return nil, nil, fmt.Errorf("policy %s: %s names a file: give it with --param %s=FILE", p.Name, sourceRatesParam, sourceRatesParam)
		}
	}
	if s.Window != "" {
		d, err := time.ParseDuration(s.Window)
		if err != nil || d <= 0 {
			return nil, nil, fmt.Errorf("policy %s: window %q is no length of time", s.Policy, s.Window)
		}
		p = p.WithWindow(d)
	}
	return p, rates, nil
}

// The parameter of policy ds2 that names a file, and its value for none.
const (
	sourceRatesParam = "source_rates"
	noSourceRates    = "none"
)

// maxSourceRates bounds a file of source rates, in bytes: a job has few sources.
const maxSourceRates = 1 << 20

func readSourceRates(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("policy: read source rates: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSourceRates+1))
	if err != nil {
		return nil, fmt.Errorf("policy: read source rates: %w", err)
	}
	if len(data) > maxSourceRates {
		return nil, fmt.Errorf("policy: read source rates: %s is larger than 1 MiB", name)
	}
	return data, nil
}

// parseSourceRates reads DS2's lines OPERATOR,RATE: records per second that every
// instance of the source puts out, or -1 for what it was seen to.
func parseSourceRates(name string, data []byte) (map[string]float64, error) {
	rates := map[string]float64{}
	for i, line := range strings.Split(string(data), "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		bad := func(format string, args ...any) error {
			return fmt.Errorf("%s:%d: %s", name, i+1, fmt.Sprintf(format, args...))
		}
		// A name may have a comma in it; a rate has none.
		comma := strings.LastIndexByte(line, ',')
		if comma < 0 {
			return nil, bad("the line is not OPERATOR,RATE")
		}
		operator, text := strings.TrimSpace(line[:comma]), strings.TrimSpace(line[comma+1:])
		rate, err := strconv.ParseFloat(text, 64)
		switch {
		case operator == "":
			return nil, bad("the line names no operator")
		case err != nil || !(rate >= 0 && rate <= 1e15) && rate != -1:
			return nil, bad("%q is no rate: a number from 0, or -1 for the observed one", text)
		}
		if _, twice := rates[operator]; twice {
			return nil, bad("%s is there twice", operator)
		}
		rates[operator] = rate
	}
	if len(rates) == 0 {
		return nil, fmt.Errorf("%s: there are no rates in it", name)
	}
	return rates, nil
}

// loadPolicy is the policy that the flags ask for; files are named in messages
// as the user named them.
func (f *judgeFlags) loadPolicy() (*policy.Policy, error) {
	params, err := f.parameters()
	if err != nil {
		return nil, err
	}
	s, err := f.source()
	if err != nil {
		return nil, err
	}
	s.Policy, s.Params = f.policy, params
	p, rates, err := s.loadWithRates()
	f.sourceRates = rates
	return p, err
}

// evaluation is one job judged at one time.
type evaluation struct {
	job     dhalion.JobID
	at      time.Time
	policy  *policy.Policy
	history *segment.History
	result  *diagnose.Result  // nil when only the history was asked for
	model   *diagnose.Learned // that the result is combined with; nil: rules only

	flags judgeFlags // with the policy that holds for this job

	sourceRates map[string]float64 // of policy ds2, where they were given
}

// read reads the history of a job that an evaluation looks at: the policy's
// lookback before the time.
func (a *app) read(ctx context.Context, st *store.Store, ref string, f judgeFlags) (*evaluation, error) {
	at, err := f.time()
	if err != nil {
		return nil, err
	}
	job, err := findJob(ctx, st, ref)
	if err != nil {
		return nil, err
	}
	if f, err = a.forJob(f, job); err != nil {
		return nil, err
	}
	pol := f.loaded
	if at.IsZero() {
		if at, err = st.Newest(ctx, job); err != nil {
			return nil, err
		}
		if at.IsZero() {
			return nil, hinted(fmt.Errorf("%s has no measurements", job), "dhalion ingest FILE")
		}
	}
	h, err := st.History(ctx, job, at.Add(-pol.Reach()), at)
	if err != nil {
		return nil, err
	}
	return &evaluation{job: job, at: at, policy: pol, history: h, flags: f, sourceRates: f.sourceRates}, nil
}

// evaluate runs the flow for one job at one time: history, features, symptoms,
// diagnoses.
func (a *app) evaluate(ctx context.Context, st *store.Store, ref string, f judgeFlags) (*evaluation, error) {
	e, err := a.read(ctx, st, ref, f)
	if err != nil {
		return nil, err
	}
	if e.result, err = diagnose.Evaluate(e.history, e.at, e.policy); err != nil {
		return nil, err
	}
	if e.model, err = a.modelFor(ctx, st, e.policy, f.model); err != nil {
		return nil, err
	}
	e.result = e.result.Fuse(e.model)
	return e, nil
}

// findJob finds a job by id or bare name, and says which jobs there are when it
// does not.
func findJob(ctx context.Context, st *store.Store, ref string) (dhalion.JobID, error) {
	job, err := st.FindJob(ctx, ref)
	var missing *store.NotFoundError
	if !errors.As(err, &missing) {
		return job, err
	}
	jobs, lerr := st.Jobs(ctx)
	if lerr != nil {
		return "", err
	}
	if len(jobs) == 0 {
		return "", hinted(err, "there are no jobs yet: dhalion ingest FILE")
	}
	const most = 8
	var names []string
	for i, j := range jobs {
		if i == most {
			names = append(names, fmt.Sprintf("and %d more (dhalion jobs)", len(jobs)-most))
			break
		}
		names = append(names, string(j.ID))
	}
	return "", hinted(err, "the jobs here are %s", strings.Join(names, ", "))
}

// outside says that a time lies outside a job's history, which explains why
// nothing is seen; empty when it does not.
func (a *app) outside(ctx context.Context, st *store.Store, e *evaluation) string {
	if e.history.Tables != nil && !e.history.Newest().Before(e.at.Add(-e.policy.Window)) && !e.history.Newest().IsZero() {
		return ""
	}
	jobs, err := st.Jobs(ctx)
	if err != nil {
		return ""
	}
	for _, j := range jobs {
		if j.ID == e.job && !j.From.IsZero() {
			return wrap(fmt.Sprintf("Nothing was measured in the %s before %s; the measurements are from %s to %s.",
				planfile.Duration(e.policy.Window), stamp(e.at), when(j.From), when(j.To)), a.width(), "")
		}
	}
	return ""
}

// head is the first line of a text about an evaluation.
func (a *app) head(e *evaluation, w dhalion.Window) {
	a.printf("%s\n", a.style(bold, fmt.Sprintf("%s as of %s", plain(string(e.job)), stamp(e.at))))
	span := ""
	if s := w.Span(); s > 0 {
		span = fmt.Sprintf("from the %s before it, ", planfile.Duration(s))
	}
	by := "by policy " + plain(e.policy.Name)
	if e.model != nil {
		by += " and model " + e.model.ID
	}
	a.printf("%s\n", a.style(dim, span+by))
}
