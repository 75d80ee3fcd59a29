package file

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/dhalion-go/dhalion/ingest"
	"github.com/dhalion-go/dhalion/internal/engine/prometheus"
)

// NewPrometheus is the history in answers of Prometheus' to /api/v1/query_range
// or /api/v1/query, one after the other. A series has a name and labels as a
// sample has in NewOpenMetrics. An answer with an error or with warnings is
// refused, since it lacks something. Answers are read as a stream, however long.
// Name is for messages.
func NewPrometheus(name string, r io.Reader, opts Options) ingest.Source {
	return &answers{labelled: labelled{history: newHistory(name, opts)}, d: prometheus.NewDecoder(r)}
}

type answers struct {
	labelled
	d *prometheus.Decoder
}

// Read is ingest.Source's.
func (a *answers) Read(ctx context.Context, to *ingest.Collector) error {
	a.to = to
	n := 0
	one := func(labels map[string]string) (prometheus.Values, error) {
		s, err := a.lookUp(labels[nameLabel], func(name string) string { return labels[name] })
		if err != nil {
			if err := a.bad(a.d.Line(), fmt.Errorf("%s: %w", describeLabels(labels), err)); err != nil {
				return nil, err
			}
			return nil, nil
		}
		return func(at int64, v float64) error {
			if n++; n%4096 == 0 {
				if err := ctx.Err(); err != nil {
					return err
				}
			}
			if err := a.give(s, at, v); err != nil {
				var out *ingest.OutError
				if errors.As(err, &out) {
					return err
				}
				return a.bad(a.d.Line(), fmt.Errorf("%s: %w", describeLabels(labels), err))
			}
			return nil
		}, nil
	}
	for read := 0; ; read++ {
		answer, err := a.d.Next(one)
		if err == io.EOF && read == 0 {
			return ingest.RowError{File: a.name, Line: a.d.Line(), Reason: "the file is empty"}
		}
		if err == io.EOF {
			return a.end()
		}
		var syntax *prometheus.SyntaxError
		var failed *prometheus.FailedError
		switch {
		case errors.As(err, &syntax):
			return ingest.RowError{File: a.name, Line: syntax.Line, Reason: err.Error()}
		case errors.As(err, &failed):
			return ingest.RowError{File: a.name, Line: a.d.Line(), Reason: err.Error()}
		case errors.As(err, new(ingest.RowError)), errors.As(err, new(*ingest.OutError)), err != nil && ctx.Err() != nil:
			return err
		case err != nil:
			return fmt.Errorf("file: read %s near line %d: %w", a.name, a.d.Line(), err)
		}
		if len(answer.Warnings) > 0 {
			return ingest.RowError{File: a.name, Line: a.d.Line(), Reason: "Prometheus warns that the answer is not whole: " + strings.Join(answer.Warnings, "; ")}
		}
	}
}

// describeLabels writes a series as Prometheus does, so that a person finds it.
func describeLabels(labels map[string]string) string {
	var b strings.Builder
	b.WriteString(labels[nameLabel])
	b.WriteByte('{')
	for i, name := range slices.Sorted(maps.Keys(labels)) {
		if name == nameLabel {
			continue
		}
		if i > 0 && b.Len() > len(labels[nameLabel])+1 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "%s=%q", name, labels[name])
		if b.Len() > 200 {
			b.WriteString("…")
			break
		}
	}
	b.WriteByte('}')
	return b.String()
}
