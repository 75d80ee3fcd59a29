package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/internal/store"
)

func (a *app) logCommand() *cobra.Command {
	limit := 0
	c := &cobra.Command{
		Use:     "log [JOB|PLAN]",
		Short:   "Say what happened to a job, a plan or all of them, oldest first",
		Example: "  dhalion log\n  dhalion log wordcount --limit 20\n  dhalion log 10701d65f69c -o json",
		Args:    atMostOne,
		RunE: func(cmd *cobra.Command, args []string) error {
			if limit < 0 {
				return usagef("--limit %d is negative", limit)
			}
			return a.withStore(cmd.Context(), func(ctx context.Context, st *store.Store) error {
				var filter store.LogFilter
				if len(args) > 0 {
					var err error
					if filter, err = logFilter(ctx, st, args[0]); err != nil {
						return err
					}
				}
				entries, err := st.Log(ctx, filter, limit)
				if err != nil {
					return err
				}
				for i := range entries {
					entries[i].At = entries[i].At.UTC()
				}
				if a.json() {
					return a.writeJSON(struct {
						Entries []store.LogEntry `json:"entries"`
					}{list(entries)})
				}
				if len(entries) == 0 {
					a.printf("Nothing happened yet.\n")
					return nil
				}
				t := &table{head: []string{"time", "job", "plan", "who", "what"}, wide: 4}
				for _, e := range entries {
					t.add(when(e.At), string(e.Job), e.Plan, e.Person, happened(e))
				}
				a.table("", t)
				return nil
			})
		},
	}
	c.Flags().IntVar(&limit, "limit", 100, "at most the newest `N` entries; 0 for all")
	return c
}

// logFilter takes a plan's id or file, or a job. The log outlives both: what
// looks like a job's id is taken for one.
func logFilter(ctx context.Context, st *store.Store, ref string) (store.LogFilter, error) {
	var missing *store.NotFoundError
	if isID(ref) {
		row, err := st.Plan(ctx, ref)
		if err == nil {
			return store.LogFilter{Plan: row.ID}, nil
		}
		if !errors.As(err, &missing) {
			return store.LogFilter{}, err
		}
	}
	job, err := findJob(ctx, st, ref)
	if err == nil {
		return store.LogFilter{Job: job}, nil
	}
	if !errors.As(err, &missing) {
		return store.LogFilter{}, err
	}
	if strings.HasSuffix(ref, ".json") {
		d, err := readDocument(ref)
		if err != nil {
			return store.LogFilter{}, err
		}
		return store.LogFilter{Plan: d.id}, nil
	}
	if dhalion.JobID(ref).Engine() != "" {
		return store.LogFilter{Job: dhalion.JobID(ref)}, nil
	}
	return store.LogFilter{}, err
}

// happened is an entry in words.
func happened(e store.LogEntry) string {
	var detail map[string]any
	if len(e.Detail) == 0 || json.Unmarshal(e.Detail, &detail) != nil {
		return e.Event
	}
	if reason, ok := detail["reason"].(string); ok && len(detail) == 1 {
		return e.Event + ": " + reason
	}
	if e.Event == store.EventPolicy {
		var s policySource
		if json.Unmarshal(e.Detail, &s) == nil {
			parts := []string{s.Policy}
			for _, key := range slices.Sorted(maps.Keys(s.Params)) {
				parts = append(parts, key+"="+s.Params[key])
			}
			if s.Window != "" {
				parts = append(parts, "window "+s.Window)
			}
			return "made by policy " + strings.Join(parts, ", ")
		}
	}
	var parts []string
	for _, key := range slices.Sorted(maps.Keys(detail)) {
		parts = append(parts, fmt.Sprintf("%s %v", key, detail[key]))
	}
	return e.Event + ": " + strings.Join(parts, ", ")
}
