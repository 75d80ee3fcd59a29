// Package ingest takes what sources yield, cleans it and hands it on as
// segments.
//
// A Source reads one history: a file, a recording, a live engine. It gives its
// measurements to a Collector, which refuses broken ones, repairs and counts
// what can be repaired, and holds only so many values at once.
package ingest

import (
	"context"
	"fmt"

	"github.com/dhalion-go/dhalion"
)

// Source is a history that can be read once. Read gives everything it has to the
// collector and returns when there is no more, at the first error, or when ctx
// ends. It does not close the collector.
type Source interface {
	Read(ctx context.Context, to *Collector) error
}

// SourceFunc is a function that is a Source.
type SourceFunc func(ctx context.Context, to *Collector) error

// Read calls f.
func (f SourceFunc) Read(ctx context.Context, to *Collector) error { return f(ctx, to) }

// Out is where a Collector hands on what is finished. Its functions are called
// one at a time; an error of theirs ends the ingest.
type Out struct {
	Segment  func(ctx context.Context, s dhalion.Segment) error
	Topology func(ctx context.Context, job dhalion.JobID, t dhalion.Topology) error
}

// Collect reads the sources one after the other and reports on all of them. On
// an error the report covers what was read until then, and what was handed on is
// for the caller to take back.
func Collect(ctx context.Context, out Out, opts Options, sources ...Source) (Report, error) {
	c := NewCollector(out, opts)
	c.ctx = ctx
	for _, s := range sources {
		if err := s.Read(ctx, c); err != nil {
			return c.report(), err
		}
	}
	return c.Close(ctx)
}

// RowError is a broken row: where it is and why.
type RowError struct {
	File   string `json:"file"`
	Line   int    `json:"line"` // from 1; of a row over several lines, the first; 0 in a format without lines
	Reason string `json:"reason"`
}

// Error is FILE:LINE: REASON, or FILE: REASON where there are no lines; the reason
// then names the row.
func (e RowError) Error() string {
	if e.Line == 0 {
		return fmt.Sprintf("%s: %s", e.File, e.Reason)
	}
	return fmt.Sprintf("%s:%d: %s", e.File, e.Line, e.Reason)
}
