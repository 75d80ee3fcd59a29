package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/internal/store"
)

func (a *app) forgetCommand() *cobra.Command {
	var from, to, as string
	yes := false
	c := &cobra.Command{
		Use:   "forget JOB",
		Short: "Remove what is known of a job",
		Long: `Remove all that is known of a job: its history, topologies, findings, plans with their
approvals and outcomes, and incidents; or with --from and --to only what is after the one
time and up to the other. The log keeps what happened, and says who made dhalion forget.
The same files can be ingested again.

A job that a plan is being applied to is refused, with 7.`,
		Example: `  dhalion forget wordcount
  dhalion forget wordcount --to 2026-11-01T00:00:00Z --yes`,
		Args: one("JOB"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var after, upTo time.Time
			var err error
			if from != "" {
				if after, err = parseTime("--from", from); err != nil {
					return err
				}
			}
			upTo = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
			if to != "" {
				if upTo, err = parseTime("--to", to); err != nil {
					return err
				}
			}
			if upTo.Before(after) {
				return usagef("--to %s is before --from %s", to, from)
			}
			return a.withStore(cmd.Context(), func(ctx context.Context, st *store.Store) error {
				job, err := findJob(ctx, st, args[0])
				if err != nil {
					return err
				}
				what := "all that is known of " + string(job)
				if from != "" || to != "" {
					what = fmt.Sprintf("what is known of %s after %s up to %s", job, when(after), when(upTo))
				}
				if !yes {
					if err := a.confirm("Forget " + what + "?"); err != nil {
						return err
					}
				}
				if as == "" {
					as = a.person()
				}
				var rep store.ForgetReport
				if from == "" && to == "" {
					rep, err = st.Forget(ctx, job, as, a.now())
				} else {
					rep, err = st.ForgetBetween(ctx, job, after, upTo, as, a.now())
				}
				var held *store.HeldError
				if errors.As(err, &held) {
					return &failure{code: exitHeld, err: err, hint: "wait for it, or see how far it is: " + command("show", held.Plan)}
				}
				if err != nil {
					return cause(ctx, err)
				}
				if a.json() {
					return a.writeJSON(rep)
				}
				a.forgetText(job, rep)
				return nil
			})
		},
	}
	f := c.Flags()
	f.StringVar(&from, "from", "", "keep what is up to this `TIME`")
	f.StringVar(&to, "to", "", "keep what is after this `TIME`")
	f.StringVar(&as, "as", "", "the `person` who makes it forget (default: you)")
	f.BoolVar(&yes, "yes", false, "do not ask")
	c.ValidArgsFunction = a.completeJob()
	return c
}

func (a *app) forgetText(job dhalion.JobID, rep store.ForgetReport) {
	var parts []string
	for _, p := range []struct {
		n    int64
		what string
	}{
		{rep.Segments, "segment"}, {rep.Topologies, "graph"}, {rep.Findings, "evaluation"},
		{rep.Plans, "plan"}, {rep.Incidents, "incident"},
	} {
		if p.n > 0 {
			parts = append(parts, plural(int(p.n), p.what))
		}
	}
	if rep.Cut > 0 {
		parts = append(parts, "a part of "+plural(int(rep.Cut), "segment"))
	}
	if len(parts) == 0 {
		a.printf("Nothing of %s was there.\n", job)
		return
	}
	a.printf("Forgotten of %s: %s. %s can be ingested again.\n", job, strings.Join(parts, ", "), plural(int(rep.Inputs), "input"))
}

// confirm asks a person at a terminal; where there is none, it refuses.
func (a *app) confirm(question string) error {
	_, asks := terminal(a.in)
	_, shows := terminal(a.err)
	if !asks || !shows {
		return hinted(errors.New("this needs a person's consent, and there is no terminal to ask at"), "add --yes")
	}
	fmt.Fprintf(a.err, "%s [y/N] ", plain(question))
	answer, _ := bufio.NewReader(a.in).ReadString('\n')
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return nil
	}
	return errors.New("nothing was done")
}
