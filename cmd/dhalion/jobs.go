package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/internal/store"
)

type jobJSON struct {
	ID         dhalion.JobID `json:"id"`
	Name       string        `json:"name"`
	Engine     string        `json:"engine"`
	From       *time.Time    `json:"from"`
	To         *time.Time    `json:"to"`
	Components int           `json:"components"`
	Instances  int           `json:"instances"`
}

func (a *app) jobsCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "jobs",
		Short:   "List the jobs that something is known of",
		Example: "  dhalion jobs\n  dhalion jobs -o json",
		Args:    none,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withStore(cmd.Context(), func(ctx context.Context, st *store.Store) error {
				jobs, err := st.Jobs(ctx)
				if err != nil {
					return err
				}
				out := []jobJSON{}
				for _, j := range jobs {
					out = append(out, jobJSON{j.ID, j.Name, j.Engine, known(j.From), known(j.To), j.Components, j.Instances})
				}
				if a.json() {
					return a.writeJSON(struct {
						Jobs []jobJSON `json:"jobs"`
					}{out})
				}
				if len(jobs) == 0 {
					a.printf("No jobs yet.\n")
					a.next([2]string{"dhalion ingest FILE", "read a history"})
					return nil
				}
				t := &table{head: []string{"job", "from", "to", ">components", ">instances"}}
				for _, j := range jobs {
					t.add(string(j.ID), when(j.From), when(j.To), fmt.Sprint(j.Components), fmt.Sprint(j.Instances))
				}
				a.table("", t)
				a.next(
					[2]string{command("history", string(jobs[0].ID)), "see what is known of it"},
					[2]string{command("diagnose", string(jobs[0].ID)), "see what is wrong with it"},
				)
				return nil
			})
		},
	}
}
