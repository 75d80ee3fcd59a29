package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
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

// defaultLookback is how much history an evaluation reads when the policy does
// not say.
const defaultLookback = 6 * time.Hour

// judgeFlags say when and by what a job is judged.
type judgeFlags struct {
	at     string
	window time.Duration
	policy string
	params []string

	loaded *policy.Policy // by check
}

func (a *app) judgeFlags(c *cobra.Command, f *judgeFlags) {
	c.Flags().StringVar(&f.at, "at", "", "the `time` to judge: RFC 3339, or seconds or milliseconds since 1970 (default: the newest measurement)")
	a.policyFlags(c, f)
}

func (a *app) policyFlags(c *cobra.Command, f *judgeFlags) {
	c.Flags().DurationVar(&f.window, "window", 0, "the stretch before that time to look at (default: the policy's)")
	c.Flags().StringVar(&f.policy, "policy", "default", "a built-in policy or a YAML `file`")
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
	Params map[string]string `json:"params,omitempty"`
	Window string            `json:"window,omitempty"`
}

// source is what the flags say, with a file's full path.
func (f *judgeFlags) source() (policySource, error) {
	params, err := f.parameters()
	if err != nil {
		return policySource{}, err
	}
	s := policySource{Policy: f.policy}
	if len(params) > 0 {
		s.Params = params
	}
	if policy.IsPath(f.policy) {
		if s.Policy, err = filepath.Abs(f.policy); err != nil {
			return policySource{}, fmt.Errorf("policy %s: %w", f.policy, err)
		}
	}
	if f.window > 0 {
		s.Window = f.window.String()
	}
	return s, nil
}

// load reads the policy again that a source stands for.
func (s policySource) load() (*policy.Policy, error) {
	p, err := policy.Load(s.Policy, os.ReadFile, features.Known, s.Params)
	if err != nil {
		return nil, err
	}
	if s.Window != "" {
		d, err := time.ParseDuration(s.Window)
		if err != nil || d <= 0 {
			return nil, fmt.Errorf("policy %s: window %q is no length of time", s.Policy, s.Window)
		}
		p = p.WithWindow(d)
	}
	return p, nil
}

// loadPolicy is the policy that the flags ask for; files are named in messages
// as the user named them.
func (f *judgeFlags) loadPolicy() (*policy.Policy, error) {
	s, err := f.source()
	if err != nil {
		return nil, err
	}
	s.Policy = f.policy
	return s.load()
}

// evaluation is one job judged at one time.
type evaluation struct {
	job     dhalion.JobID
	at      time.Time
	policy  *policy.Policy
	history *segment.History
	result  *diagnose.Result // nil when only the history was asked for
}

// read reads the history of a job that an evaluation looks at: the policy's
// lookback before the time.
func (a *app) read(ctx context.Context, st *store.Store, ref string, f judgeFlags) (*evaluation, error) {
	at, err := f.time()
	if err != nil {
		return nil, err
	}
	pol := f.loaded
	job, err := findJob(ctx, st, ref)
	if err != nil {
		return nil, err
	}
	if at.IsZero() {
		if at, err = st.Newest(ctx, job); err != nil {
			return nil, err
		}
		if at.IsZero() {
			return nil, hinted(fmt.Errorf("%s has no measurements", job), "dhalion ingest FILE")
		}
	}
	lookback, ok := pol.Parameters.Duration("lookback")
	if !ok {
		lookback = defaultLookback
	}
	h, err := st.History(ctx, job, at.Add(-max(lookback, pol.Window)), at)
	if err != nil {
		return nil, err
	}
	return &evaluation{job: job, at: at, policy: pol, history: h}, nil
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
	a.printf("%s\n", a.style(dim, span+"by policy "+plain(e.policy.Name)))
}
