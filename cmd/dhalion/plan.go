package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"time"

	"github.com/spf13/cobra"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/features"
	"github.com/dhalion-go/dhalion/internal/store"
	"github.com/dhalion-go/dhalion/plan"
	"github.com/dhalion-go/dhalion/plan/planfile"
	"github.com/dhalion-go/dhalion/plan/policy"
)

func (a *app) planCommand() *cobra.Command {
	var f judgeFlags
	var out, as string
	var exitCode bool
	c := &cobra.Command{
		Use:   "plan JOB",
		Short: "Write a plan: what to do about it, why, and what to expect",
		Long: `Write a plan: what to do about what is wrong, where, why, how sure that is, what it
should achieve and how to undo it. A plan with actions is stored as proposed, and
waits for approve or discard. Planning the same again finds the same plan.`,
		Example: `  dhalion plan wordcount
  dhalion plan wordcount --at 2026-11-22T08:40:16.879Z --out slow.plan.json
  dhalion plan wordcount --param target_utilisation=0.7 --exit-code -o json
  dhalion plan wordcount --policy ds2 --param source_rate=80000
  dhalion plan wordcount --policy flink-autoscaler`,
		Args:              one("JOB"),
		ValidArgsFunction: a.completeJob(),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.check(); err != nil {
				return err
			}
			return a.withStore(cmd.Context(), func(ctx context.Context, st *store.Store) error {
				e, err := a.evaluate(ctx, st, args[0], f)
				if err != nil {
					return err
				}
				p, err := a.makePlan(ctx, st, e)
				if err != nil {
					return err
				}
				d, err := a.propose(ctx, st, p, e.flags, as)
				if err != nil {
					return err
				}
				if out != "" {
					if err := planfile.WriteFile(out, d.doc); err != nil {
						return err
					}
				}
				if a.json() {
					a.out.Write(d.doc)
				} else {
					if err := planfile.Text(&a.out, d.plan, a.meta(d), planfile.Options{Color: a.color(), Width: a.width()}); err != nil {
						return err
					}
					if note := a.outside(ctx, st, e); note != "" {
						a.printf("\n%s\n", note)
					}
					if out != "" {
						a.printf("\nWritten to %s.\n", plain(out))
					}
				}
				if exitCode && d.waits() {
					return errChanges
				}
				return nil
			})
		},
	}
	a.judgeFlags(c, &f)
	a.modelFlag(c, &f)
	c.Flags().StringVar(&out, "out", "", "also write the document to a `file`")
	c.Flags().StringVar(&as, "as", "", "`person` who proposes it (default: the user)")
	c.Flags().BoolVar(&exitCode, "exit-code", false, "exit with 2 when changes are proposed")
	return c
}

// document is a plan as it is read and reviewed, with what the store knows of it.
type document struct {
	plan   dhalion.Plan
	doc    []byte
	id     string
	digest string
	row    *store.PlanRow // nil: not in the store
}

// waits reports whether somebody or something still has to act on the plan.
func (d *document) waits() bool {
	if d.row == nil || len(d.plan.Actions) == 0 {
		return false
	}
	return d.row.State == dhalion.PlanProposed || d.row.State == dhalion.PlanApproved
}

func (a *app) meta(d *document) planfile.Meta {
	m := planfile.Meta{ID: d.id, Digest: d.digest, Now: a.now()}
	if d.row != nil {
		m.State, m.Author, m.ProposedAt, m.Expires, m.Approvals = d.row.StateAt(m.Now), d.row.Author, d.row.ProposedAt, d.row.ExpiresAt, d.row.Approvals
	}
	return m
}

// makePlan turns an evaluation into a plan.
func (a *app) makePlan(ctx context.Context, st *store.Store, e *evaluation) (dhalion.Plan, error) {
	outcomes, err := recalled(ctx, st, e)
	if err != nil {
		return dhalion.Plan{}, err
	}
	snap := e.result.Snapshot
	in := plan.Input{
		Job: e.job, AsOf: e.at, Window: e.result.Window,
		Topology: snap.Topology, Findings: e.result.Findings(), Load: loads(snap.Loads()), Policy: e.policy,
		Outcomes: outcomes,
		Basis: dhalion.Basis{
			History: e.history.Digest(), Topology: snap.Topology.Digest(), Policy: e.policy.Digest,
			Model: idOf(e.model), Program: program,
		},
	}
	if in.Arguments, err = a.arguments(ctx, st, e.job, snap.Topology.Run); err != nil {
		return dhalion.Plan{}, err
	}
	if err := neighbours(ctx, st, &in, e.at); err != nil {
		return dhalion.Plan{}, err
	}
	if in.Changes, err = noteChanges(ctx, st, e.job, e.at); err != nil {
		return dhalion.Plan{}, err
	}
	scalerRates(&in, e)
	if !snap.HasTopology {
		in.Warnings = append(in.Warnings, dhalion.Warning{Code: "W-no-topology", Message: "nothing is known of the job's graph: sizes and what stands upstream cannot be judged; give ingest a --topology"})
	}
	drifted, err := a.driftWarnings(ctx, st, e)
	if err != nil {
		return dhalion.Plan{}, err
	}
	in.Warnings = append(in.Warnings, drifted...)
	return plan.Make(in)
}

// past gives what came of actions before, of those done in (after, upTo]; of all jobs
// when job is empty.
type past interface {
	Judged(ctx context.Context, job dhalion.JobID, after, upTo time.Time) ([]dhalion.Outcome, error)
}

// recalled are the outcomes that the policy of an evaluation looks at.
func recalled(ctx context.Context, st past, e *evaluation) ([]dhalion.Outcome, error) {
	m, ok, err := plan.Remembered(e.policy, e.job, e.at)
	if err != nil || !ok {
		return nil, err
	}
	return st.Judged(ctx, m.Job, m.After, e.at)
}

// neighbourhood is how old a job's measurements may be for it to count as running
// beside another.
const neighbourhood = 5 * time.Minute

// neighbours fills in the jobs of the same engine that had instances on the job's
// workers at a time. What is read from files has the workers' names in common with
// other files, and not the workers.
func neighbours(ctx context.Context, st *store.Store, in *plan.Input, at time.Time) error {
	workers := map[string]bool{}
	for _, p := range in.Topology.Placement {
		workers[p.Worker] = p.Worker != ""
	}
	if len(workers) == 0 || in.Job.Engine() == "file" {
		return nil
	}
	jobs, err := st.Jobs(ctx)
	if err != nil {
		return err
	}
	for _, other := range jobs {
		if other.ID == in.Job || other.ID.Engine() != in.Job.Engine() || other.To.Before(at.Add(-neighbourhood)) || other.From.After(at) {
			continue
		}
		h, err := st.History(ctx, other.ID, at.Add(-neighbourhood), at)
		if ctx.Err() != nil {
			return err
		}
		if err != nil {
			// Another job's broken history is no reason to leave this one alone; apply
			// asks the engine again who is there.
			in.Warnings = append(in.Warnings, dhalion.Warning{Code: "W-neighbour", Message: fmt.Sprintf("whether %s shares a worker is not known: its history cannot be read", other.ID)})
			continue
		}
		theirs, ok := h.TopologyAt(at)
		if !ok || h.Newest().IsZero() {
			continue
		}
		n := plan.Neighbour{Job: other.ID, Instances: theirs.Instances(), On: map[string]int{}}
		for _, p := range theirs.Placement {
			if workers[p.Worker] {
				n.On[p.Worker]++
			}
		}
		if len(n.On) > 0 {
			in.Neighbours = append(in.Neighbours, n)
		}
	}
	return nil
}

// scalerRates fills in what the published methods of sizing read.
func scalerRates(in *plan.Input, e *evaluation) {
	if e.policy.Sizing != policy.SizingDS2 && e.policy.Sizing != policy.SizingAutoscaler {
		return
	}
	reader := features.NewRateReader(e.history)
	in.Rates = reader.At(in.Topology, e.at, e.policy.Window)
	in.SourceRates = e.sourceRates
	delay, _ := e.policy.Parameters.Duration("scale_down_delay")
	if e.policy.Sizing != policy.SizingAutoscaler || delay <= 0 || delay > e.policy.Lookback() {
		return
	}
	// Once a minute, as the autoscaler looks; before the job was as it is now there
	// is nothing to compare with.
	for at := e.at.Add(-delay); at.Before(e.at); at = at.Add(time.Minute) {
		if !at.Before(in.Topology.From) {
			in.Earlier = append(in.Earlier, plan.EarlierRates{At: at, Rates: reader.At(in.Topology, at, e.policy.Window)})
		}
	}
}

// loads is what sizing needs, in the planner's terms: rates instead of times.
func loads(l []features.Load) []plan.ComponentLoad {
	rate := func(seconds float64) float64 {
		if !(seconds > 0) {
			return math.NaN()
		}
		return 1 / seconds
	}
	out := make([]plan.ComponentLoad, len(l))
	for i, x := range l {
		out[i] = plan.ComponentLoad{
			Component: x.Component, Offered: x.Lately,
			PerInstance: rate(x.Service), PerInstanceLow: rate(x.ServiceTop), PerInstanceHigh: rate(x.ServiceLow),
			Busy: x.Busy, Caused: x.Caused, Lag: x.Lag, PerRead: x.PerRead, SkewShare: x.HotShare, Shares: x.Shares,
			Source: x.Source, Sink: x.Sink, External: x.External,
		}
	}
	return out
}

// propose stores a plan that has actions.
func (a *app) propose(ctx context.Context, st *store.Store, p dhalion.Plan, f judgeFlags, as string) (*document, error) {
	doc, id, digest, err := planfile.Encode(p)
	if err != nil {
		return nil, err
	}
	// What is shown is what the document says, with its rounded numbers.
	if p, _, _, err = planfile.Decode(doc, id); err != nil {
		return nil, err
	}
	d := &document{plan: p, doc: doc, id: id, digest: digest}
	if len(p.Actions) == 0 {
		return d, nil
	}
	if as == "" {
		as = a.person()
	}
	source, err := f.source()
	if err != nil {
		return nil, err
	}
	detail, err := json.Marshal(source)
	if err != nil {
		return nil, fmt.Errorf("plan: note policy of %s: %w", id, err)
	}
	d.row, _, err = st.SavePlan(ctx, store.NewPlan{
		ID: id, Digest: digest, Job: p.Job, AsOf: p.AsOf, ValidFor: seconds(p.ValidForSeconds),
		Author: as, Reverses: p.Reverses, Body: doc, Policy: detail,
	}, a.now())
	if err != nil {
		return nil, err
	}
	return d, nil
}

// policyOf is how the policy of a stored plan came about; false when that was not
// noted.
func policyOf(ctx context.Context, st *store.Store, id string) (policySource, bool, error) {
	entries, err := st.Log(ctx, store.LogFilter{Plan: id, Event: store.EventPolicy}, 1)
	if err != nil || len(entries) == 0 {
		return policySource{}, false, err
	}
	var s policySource
	if err := json.Unmarshal(entries[0].Detail, &s); err != nil {
		return policySource{}, false, fmt.Errorf("plan: read policy of %s: %w", id, err)
	}
	return s, true, nil
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
