package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"

	"github.com/dhalion-go/dhalion/internal/store"
)

func (a *app) dbCompact() *cobra.Command {
	job := ""
	online := false
	c := &cobra.Command{
		Use:   "compact",
		Short: "Merge the small and overlapping segments of histories",
		Long: `Merge the small and overlapping segments of histories into large ones, day by day.
What is known of a job stays the same, bit by bit; it is read faster and takes less room.
Ingests and readers go on meanwhile. Each merge is a transaction: an interrupted
compaction loses nothing, and the next one goes on from there.

Days of which more than a quarter is free afterwards are rewritten to give the room back;
for so long (a second per some hundred MB) their readers wait. A day that is in use is left
as it is. --online leaves all: the room is then filled by later data of the same day.`,
		Example: "  dhalion db compact\n  dhalion db compact --job wordcount --online",
		Args:    none,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withStore(cmd.Context(), func(ctx context.Context, st *store.Store) error {
				opts := store.CompactOptions{Shrink: !online}
				if job != "" {
					id, err := st.FindJob(ctx, job)
					if err != nil {
						return err
					}
					opts.Job = id
				}
				var finish func()
				opts.Progress, finish = a.steps("compact")
				rep, err := st.Compact(ctx, opts)
				finish()
				if err != nil {
					return cause(ctx, err)
				}
				if a.json() {
					return a.writeJSON(rep)
				}
				if rep.Merges == 0 {
					a.printf("Nothing to merge: %s.\n", plural(rep.SegmentsAfter, "segment"))
				} else {
					a.printf("%s became %s, in %s.\n", plural(rep.SegmentsBefore, "segment"), count(rep.SegmentsAfter), plural(rep.Merges, "merge"))
				}
				if rep.DiskBefore > 0 {
					a.printf("The days that were touched took %s on disk, and take %s now.\n", size(rep.DiskBefore), size(rep.DiskAfter))
				}
				for _, name := range rep.NotShrunk {
					a.printf("%s is in use and was not shrunk.\n", name)
				}
				return nil
			})
		},
	}
	c.Flags().StringVar(&job, "job", "", "only this `JOB`")
	c.Flags().BoolVar(&online, "online", false, "never make readers wait: do not give room back")
	return c
}

// steps shows progress by numbers, on a terminal; the second function ends it.
func (a *app) steps(what string) (func(done, total int), func()) {
	width, ok := terminal(a.err)
	if !ok {
		return nil, func() {}
	}
	var bar *progressbar.ProgressBar
	return func(done, total int) {
			if bar == nil {
				bar = progressbar.NewOptions(max(1, total),
					progressbar.OptionSetWriter(a.err),
					progressbar.OptionSetDescription(what),
					progressbar.OptionSetWidth(max(10, width-70)),
					progressbar.OptionThrottle(100*time.Millisecond),
					progressbar.OptionClearOnFinish())
			}
			_ = bar.Set(min(done, total))
		}, func() {
			if bar != nil {
				_ = bar.Finish()
			}
		}
}

// size is a number of bytes as people read it.
func size(n int64) string {
	switch {
	case n < 10_000:
		return fmt.Sprintf("%d B", n)
	case n < 10_000_000:
		return fmt.Sprintf("%.0f kB", float64(n)/1e3)
	case n < 10_000_000_000:
		return fmt.Sprintf("%.1f MB", float64(n)/1e6)
	}
	return fmt.Sprintf("%.1f GB", float64(n)/1e9)
}

func (a *app) dbRetain() *cobra.Command {
	var keep string
	dry := false
	c := &cobra.Command{
		Use:   "retain",
		Short: "Drop the histories of long ago",
		Long: `Drop the histories of all jobs that are older than --keep, by whole days (UTC): the room
is free at once. Graphs, plans, findings and the log stay. Files of which nothing is left
can be ingested again. A day that is being read is left for the next time.`,
		Example: "  dhalion db retain --keep 90d --dry-run\n  dhalion db retain --keep 90d",
		Args:    none,
		RunE: func(cmd *cobra.Command, _ []string) error {
			span, err := parseSpan("--keep", keep)
			if err != nil {
				return err
			}
			now := a.now()
			return a.withStore(cmd.Context(), func(ctx context.Context, st *store.Store) error {
				rep, err := st.Retain(ctx, store.RetainOptions{Before: now.Add(-span), Person: a.person(), Now: now, DryRun: dry})
				if err != nil {
					return cause(ctx, err)
				}
				if a.json() {
					return a.writeJSON(rep)
				}
				verb := "Dropped"
				if dry {
					verb = "Would drop"
				}
				if len(rep.Days) == 0 && len(rep.InUse) == 0 {
					a.printf("Nothing is older than %s.\n", when(rep.Before))
					return nil
				}
				if len(rep.Days) > 0 {
					a.printf("%s %s before %s (%s to %s): %s. %s can be ingested again.\n", verb, plural(len(rep.Days), "day"), when(rep.Before),
						rep.Days[0], rep.Days[len(rep.Days)-1], size(rep.Disk), plural(int(rep.Inputs), "input"))
				}
				for _, day := range rep.InUse {
					a.printf("%s is in use and was left.\n", day)
				}
				return nil
			})
		},
	}
	c.Flags().StringVar(&keep, "keep", "", "how long histories are kept: `SPAN` like 90d or 36h (required)")
	c.Flags().BoolVar(&dry, "dry-run", false, "only say what would be dropped")
	return c
}

// parseSpan reads 90d, 36h, or both in one: 1d12h.
func parseSpan(flag, s string) (time.Duration, error) {
	days, rest, found := strings.Cut(s, "d")
	if !found {
		days, rest = "0", s
	}
	n, err := strconv.ParseUint(days, 10, 16)
	span := time.Duration(n) * 24 * time.Hour
	if err == nil && (rest != "" || !found) {
		var more time.Duration
		more, err = time.ParseDuration(rest)
		span += more
		if more < 0 {
			err = strconv.ErrRange
		}
	}
	if err != nil || span <= 0 {
		return 0, usagef("%s: %q is no span of time: write it like 90d, 36h or 1d12h", flag, s)
	}
	return span, nil
}
