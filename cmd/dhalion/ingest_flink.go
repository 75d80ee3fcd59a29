package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/dhalion-go/dhalion/ingest/flink"
	client "github.com/dhalion-go/dhalion/internal/engine/flink"
	"github.com/dhalion-go/dhalion/internal/store"
)

// pollFlags say how a Flink cluster is polled.
type pollFlags struct {
	job         string
	every, span time.Duration
	engine      *engineFlags
}

func (o *pollFlags) add(a *app, c *cobra.Command, every time.Duration) {
	f := c.Flags()
	f.StringVar(&o.job, "job", "", "only the job of this name, or the run of this id")
	f.DurationVar(&o.every, "every", every, "between two polls")
	f.DurationVar(&o.span, "for", 0, "end after so long; 0: when interrupted")
	o.engine = a.engineFlags(c)
}

// open makes a poller of a URL, or the name of an engine. The name is the first
// part of the jobs' ids.
func (o *pollFlags) open(a *app, cmd *cobra.Command, arg string) (*client.Poller, *client.Client, string, error) {
	switch {
	case o.every <= 0:
		return nil, nil, "", usagef("--every %s is not above 0", o.every)
	case o.span < 0 || o.span == 0 && cmd.Flags().Changed("for"):
		return nil, nil, "", usagef("--for %s is not above 0", o.span)
	}
	name, address, options, err := a.engine(arg, o.engine)
	if err != nil {
		return nil, nil, "", err
	}
	if err := checkNames(name, o.job); err != nil {
		return nil, nil, "", err
	}
	server, err := client.NewClient(address, options)
	if err != nil {
		return nil, nil, "", usagef("%v", err)
	}
	return client.NewPoller(server, client.PollOptions{Job: o.job, Every: o.every, Now: a.now}), server, name, nil
}

// poll polls until its time is over or the command is interrupted, which is how
// one without an end ends. Each poll is given to take, whose error ends it; one
// that failed is reported, the same reason once.
func (a *app) poll(ctx context.Context, p *client.Poller, span time.Duration, take func(answers []client.Answer, failed error) error) error {
	var end time.Time
	said, silent := "", 0
	for polls := 0; ; polls++ {
		due := p.Due()
		if polls == 0 && span > 0 {
			end = due.Add(span)
		}
		if !end.IsZero() && due.After(end) {
			return nil
		}
		answers, failed := p.Poll(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err := take(answers, failed); err != nil {
			return cause(ctx, err)
		}
		switch {
		case failed != nil && failed.Error() != said:
			said, silent = failed.Error(), 0
			a.remark("this poll gave nothing: %s", plain(said))
		case failed != nil:
			silent++
		case said != "":
			a.remark("polls give something again, after %s without", plural(silent+1, "poll"))
			said = ""
		}
		if interval := p.UpdateInterval(); polls == 0 && interval > 0 && p.Every() < interval {
			a.remark("Flink renews its metrics every %s only, so that some polls give no rates;\n  set metrics.fetcher.update-interval lower, or --every higher", interval)
		}
	}
}

// clearLine takes away what a progress line left of the terminal's line.
const clearLine = "\x1b[K"

// remark says something in the middle of the work.
func (a *app) remark(format string, args ...any) {
	if _, shown := terminal(a.err); shown {
		fmt.Fprint(a.err, clearLine)
	}
	fmt.Fprintf(a.err, "dhalion: "+format+"\n", args...)
}

func (a *app) ingestFlink() *cobra.Command {
	var o pollFlags
	var out string
	c := &cobra.Command{
		Use:   "flink URL|ENGINE",
		Short: "Follow the jobs of a Flink cluster",
		Long: `Follow the jobs of a Flink cluster by its REST interface, until --for is over or the
command is interrupted. Each poll is stored as one. What is not answered is unknown; a poll
that fails is reported, and followed by the next. Where the very first one fails, the
address is taken to be wrong and the command ends.

A poll asks little: once per vertex, per 60 subtasks and per source, every 10 s per
TaskManager, and at most five times more per job. With --record the answers are also
written to a file: reading that gives the same history.`,
		Example: `  dhalion ingest flink http://jobmanager:8081
  dhalion ingest flink prod --job orders --every 5s --for 10m
  dhalion ingest flink https://flink.example.org/prod --engine prod --token-file token`,
		Args: one("URL, or name of an engine"),
		RunE: func(cmd *cobra.Command, args []string) error {
			poller, server, engine, err := o.open(a, cmd, args[0])
			if err != nil {
				return err
			}
			defer server.Close()
			var record *recording
			if out != "" {
				if err := absent(out, "name another file; dhalion record flink can go on with one: --append; or lose what is in it: --force"); err != nil {
					return err
				}
				if record, err = openRecording(out, false, false); err != nil {
					return err
				}
			}
			err = a.withStore(cmd.Context(), func(ctx context.Context, st *store.Store) error {
				return a.followFlink(ctx, st, poller, server, engine, &o, record)
			})
			if record != nil {
				err = errors.Join(err, record.close())
			}
			return err
		},
	}
	o.add(a, c, 10*time.Second)
	c.Flags().StringVar(&out, "record", "", "also write what is answered to a new `file`, as dhalion record does")
	c.ValidArgsFunction = a.completeEngine()
	return c
}

func (a *app) followFlink(ctx context.Context, st *store.Store, poller *client.Poller, server *client.Client, engine string, o *pollFlags, record *recording) error {
	options, err := json.Marshal(struct {
		Engine string `json:"engine"`
		Job    string `json:"job,omitempty"`
		Every  string `json:"every"`
	}{engine, clip(o.job, 200), o.every.String()})
	if err != nil {
		return fmt.Errorf("ingest: %w", err)
	}
	// There is no content to hash: an answer is never read twice.
	in := store.Input{Name: server.Name(), Format: "flink", Options: string(options)}
	assembler := flink.NewAssembler(flink.Options{Engine: engine})
	_, shown := terminal(a.err)
	var total *ingested
	stored := 0
	err = a.poll(ctx, poller, o.span, func(answers []client.Answer, failed error) error {
		if failed != nil && total == nil {
			return fmt.Errorf("ingest: %w", failed)
		}
		if record != nil {
			// Before it is stored: of what is in the database the recording has the source.
			if err := record.write(answers); err != nil {
				return fmt.Errorf("ingest: write recording: %w", err)
			}
		}
		given, err := assembler.Poll(answers)
		if err != nil {
			a.remark("this poll gave nothing: %v", err)
			return nil
		}
		// What was asked for is kept, also when the command is interrupted now: it is one
		// poll, and a recording has it already.
		result, err := a.ingestSource(context.WithoutCancel(ctx), st, in, given.Source())
		if err != nil && !errors.Is(err, errNothing) {
			return err
		}
		if err == nil {
			stored++
		}
		if total == nil {
			total = result
		} else {
			total.merge(result)
		}
		if shown && failed == nil {
			fmt.Fprintf(a.err, "dhalion: %s stored of %s, by %s\n", plural(result.Values, "value"), when(given.At), plural(poller.Requests(), "request"))
		}
		return nil
	})
	if total == nil {
		return err
	}
	if stored == 0 && err == nil {
		err = hinted(fmt.Errorf("ingest: %s: no poll gave a value of a job", in.Name), "see which jobs run: the cluster's /jobs/overview")
		total.Error = err.Error()
	}
	return errors.Join(a.told([]*ingested{total}), err)
}
