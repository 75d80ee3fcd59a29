package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/detect"
	"github.com/dhalion-go/dhalion/diagnose"
	"github.com/dhalion-go/dhalion/features"
	"github.com/dhalion-go/dhalion/internal/store"
	"github.com/dhalion-go/dhalion/plan/planfile"
)

func (a *app) detectCommand() *cobra.Command {
	var f judgeFlags
	c := &cobra.Command{
		Use:   "detect JOB",
		Short: "List the symptoms of a job: what is seen, not yet why",
		Example: `  dhalion detect wordcount
  dhalion detect wordcount --at 2026-11-22T08:40:16.879Z -o json`,
		Args:              one("JOB"),
		ValidArgsFunction: a.completeJob(),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.check(); err != nil {
				return err
			}
			return a.withStore(cmd.Context(), func(ctx context.Context, st *store.Store) error {
				e, err := a.read(ctx, st, args[0], f)
				if err != nil {
					return err
				}
				seen, err := detect.Evaluate(features.NewReader(e.history, e.at, diagnose.FeatureOptions(e.policy)), e.at, e.policy)
				if err != nil {
					return err
				}
				if a.json() {
					return a.writeJSON(struct {
						Job      dhalion.JobID     `json:"job"`
						At       time.Time         `json:"at"`
						Symptoms []dhalion.Symptom `json:"symptoms"`
						Unknown  []dhalion.Unknown `json:"unknown"`
					}{e.job, e.at, utcSymptoms(seen.Symptoms), list(seen.Unknown)})
				}
				a.head(e, seen.Snapshot.Window)
				a.printf("\n")
				a.symptoms(seen.Symptoms, e.at)
				a.unknown(seen.Unknown)
				if note := a.outside(ctx, st, e); note != "" {
					a.printf("\n%s\n", note)
				}
				a.next([2]string{command("diagnose", string(e.job), "--at", stamp(e.at)), "see what they come from"})
				return nil
			})
		},
	}
	a.judgeFlags(c, &f)
	return c
}

func utcSymptoms(l []dhalion.Symptom) []dhalion.Symptom {
	out := make([]dhalion.Symptom, len(l))
	for i, s := range l {
		s.Since = s.Since.UTC()
		out[i] = s
	}
	return out
}

func (a *app) symptoms(symptoms []dhalion.Symptom, at time.Time) {
	if len(symptoms) == 0 {
		a.printf("No symptoms.\n")
		return
	}
	t := &table{head: []string{"symptom", "where", ">× limit", ">sure", "since"}, wide: 1}
	for _, s := range symptoms {
		since := "now"
		if d := at.Sub(s.Since); d > 0 {
			since = planfile.Duration(d) + " ago"
		}
		t.add(s.Kind, planfile.Where(s.Target), fmt.Sprintf("%.3g", s.Score), planfile.Percent(s.Probability), since)
	}
	a.table("", t)
}

// unknown lists what could not be judged.
func (a *app) unknown(unknown []dhalion.Unknown) {
	if len(unknown) == 0 {
		return
	}
	a.title("Could not be judged")
	for _, u := range unknown {
		what := planfile.Where(u.Target)
		if u.Cause != "" {
			what = words(u.Cause)
			if u.Target.Kind != dhalion.KindJob {
				what += " at " + planfile.Where(u.Target)
			}
		}
		a.printf("  - %s\n", wrap(plain(what+": "+u.Reason), a.width()-4, "    "))
	}
}
