package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/dhalion-go/dhalion/internal/store"
)

// completion is what a shell is offered for an argument.
type completion = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective)

// complete offers a flag's values.
func (a *app) complete(c *cobra.Command, flag string, values ...string) {
	// The flag exists: it was registered the line before.
	_ = c.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
}

// offer asks the database, if one is at hand: a key press must not start a
// server. What goes wrong means no offer.
func (a *app) offer(ask func(context.Context, *store.Store) []string) []string {
	if !a.atHand() {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	var found []string
	_ = a.withStore(ctx, func(ctx context.Context, st *store.Store) error {
		found = ask(ctx, st)
		return nil
	})
	return found
}

// completeJob offers the jobs' ids for the first argument.
func (a *app) completeJob() completion {
	return func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return a.offer(func(ctx context.Context, st *store.Store) []string {
			jobs, err := st.Jobs(ctx)
			if err != nil {
				return nil
			}
			ids := make([]string, len(jobs))
			for i, j := range jobs {
				ids[i] = string(j.ID)
			}
			return ids
		}), cobra.ShellCompDirectiveNoFileComp
	}
}

// completePlan offers the newest plans' ids for the first argument, beside files.
func (a *app) completePlan() completion {
	return func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return a.offer(func(ctx context.Context, st *store.Store) []string {
			plans, err := st.Plans(ctx, store.PlanFilter{}, 20)
			if err != nil {
				return nil
			}
			ids := make([]string, len(plans))
			for i, p := range plans {
				ids[i] = p.ID + "\t" + string(p.Job) + ", " + string(p.State)
			}
			return ids
		}), cobra.ShellCompDirectiveDefault
	}
}
