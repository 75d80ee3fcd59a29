// Package flink turns the answers of Flink's REST interface, as recorded by
// dhalion record or another tool, into measurements and topologies. Mapping says
// which metric comes from where.
//
// A recording is a JSON object a line: time, engine, method, path, status, body.
// Its polls begin with GET /jobs/overview, and all that a poll gives carries the
// time of that first answer. A job is one with an answer to /jobs/:id; its name
// is Flink's, and runs of one name are one job unless they are seen at the same
// time.
package flink

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/dhalion-go/dhalion/ingest"
	"github.com/dhalion-go/dhalion/internal/engine/flink"
)

// NewRecording is the history in a recording, already decompressed; name is what
// errors call it. A broken line is an ingest.RowError; Options.SkipBad of them
// are skipped. A recording without a single poll is an error too: nothing else
// would tell that a wrong file was given.
func NewRecording(name string, r io.Reader, opts Options) ingest.Source {
	return ingest.SourceFunc(func(ctx context.Context, to *ingest.Collector) error {
		in, a, polls, bad := flink.NewReader(r), NewAssembler(opts), 0, 0
		for {
			if err := ctx.Err(); err != nil {
				return err
			}
			answer, err := in.Next()
			var broken *flink.LineError
			switch {
			case errors.As(err, &broken):
				row := ingest.RowError{File: name, Line: broken.Line, Reason: broken.Reason}
				if bad++; bad > opts.SkipBad {
					return row
				}
				to.Skip(row)
				continue
			case errors.Is(err, io.ErrUnexpectedEOF):
				// A compressed recording of which the end is missing: what came before
				// is as good as it ever was.
				row := ingest.RowError{File: name, Line: in.Line(), Reason: "the file was cut off here"}
				if bad++; bad > opts.SkipBad {
					return row
				}
				to.Skip(row)
				err = io.EOF
			case err != nil && err != io.EOF:
				return ingest.RowError{File: name, Line: in.Line(), Reason: err.Error()}
			}
			var result Result
			var done bool
			if err == io.EOF {
				result, done, err = a.Flush()
				in = nil
			} else {
				result, done, err = a.Answer(answer)
			}
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			if done {
				polls++
				if err := hand(result, to); err != nil {
					return fmt.Errorf("%s: %w", name, err)
				}
			}
			if in == nil {
				break
			}
		}
		if polls == 0 {
			return fmt.Errorf("%s: it has no poll: no line is an answer to GET /jobs/overview", name)
		}
		return nil
	})
}

// Poll takes the answers of one whole poll, as a flink.Poller gives them. The
// result is what a recording of them would give.
func (a *Assembler) Poll(answers []flink.Answer) (Result, error) {
	for _, answer := range answers {
		if _, _, err := a.Answer(answer); err != nil {
			a.poll = nil
			return Result{}, err
		}
	}
	result, _, err := a.Flush()
	return result, err
}

// Source is the result as a history of its own.
func (r Result) Source() ingest.Source {
	return ingest.SourceFunc(func(_ context.Context, to *ingest.Collector) error { return hand(r, to) })
}

// hand gives a poll's result to the collector.
func hand(r Result, to *ingest.Collector) error {
	fail := func(what string, err error) error {
		return fmt.Errorf("poll of %s: %s: %w", r.At.Format("2006-01-02T15:04:05.000Z"), what, err)
	}
	for _, kind := range sorted(r.Repairs) {
		to.Repaired(kind, r.Repairs[kind])
	}
	for _, m := range r.Measurements {
		if err := to.Add(m); err != nil {
			return fail(fmt.Sprintf("%s of %s", m.Metric, m.Target), err)
		}
	}
	for _, t := range r.Topologies {
		if err := to.Topology(t.Job, t.Topology); err != nil {
			return fail(fmt.Sprintf("topology of %s", t.Job), err)
		}
	}
	return nil
}
