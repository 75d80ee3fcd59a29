package file

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/ingest"
)

// NewOpenMetrics is the history in a text of metrics: OpenMetrics 1.0, or the
// Prometheus text format 0.0.4, or several of them one after the other. A sample
// has a canonical name, which may begin with dhalion_, and the labels job,
// component, instance and worker with the meaning of canonical CSV's columns; or
// Options.Mapping names it. Timestamps are read by their size, as in CSV: numbers
// from 1e11 on are milliseconds (0.0.4), others seconds (OpenMetrics). NaN is
// unknown; exemplars are passed over. Name is for messages.
func NewOpenMetrics(name string, r io.Reader, opts Options) ingest.Source {
	return &exposition{
		labelled: labelled{history: newHistory(name, opts)},
		r:        bufio.NewReaderSize(r, maxRecord+1),
		cache:    map[string]*series{},
		last:     &series{},
	}
}

type exposition struct {
	labelled
	r     *bufio.Reader
	cache map[string]*series
	last  *series
}

// Read is ingest.Source's.
func (e *exposition) Read(ctx context.Context, to *ingest.Collector) error {
	e.to = to
	for line := 1; ; line++ {
		if line%4096 == 0 {
			if err := ctx.Err(); err != nil {
				return err
			}
		}
		text, err := e.r.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			return ingest.RowError{File: e.name, Line: line, Reason: errLong.Error()}
		}
		if err != nil && err != io.EOF {
			return fmt.Errorf("file: read %s near line %d: %w", e.name, line, err)
		}
		if line == 1 {
			text = bytes.TrimPrefix(text, []byte(byteOrderMark))
		}
		if trimmed := bytes.TrimSpace(text); len(trimmed) > 0 {
			if err := e.line(trimmed); err != nil {
				if err := e.bad(line, err); err != nil {
					return err
				}
			}
		}
		if err == io.EOF {
			return e.end()
		}
	}
}

// line takes a line that is not empty.
func (e *exposition) line(line []byte) error {
	if line[0] == '#' {
		return e.comment(line[1:])
	}
	s := e.last.next
	var rest []byte
	if s != nil && len(line) > len(s.key) && (line[len(s.key)] == ' ' || line[len(s.key)] == '\t') && string(line[:len(s.key)]) == s.key {
		rest = line[len(s.key):]
	} else {
		p, err := parseSample(line)
		if err != nil {
			return err
		}
		rest = p.rest
		if s = e.cache[text(p.key)]; s == nil {
			if s, err = e.lookUp(p.name, p.label); err != nil {
				return err
			}
			s.key = string(p.key)
			if len(e.cache) >= maxCache {
				clear(e.cache)
			}
			e.cache[s.key] = s
		}
		e.last.next = s
	}
	e.last = s
	if s.passed {
		e.unmapped++
		return nil
	}
	return e.sample(s, rest)
}

// sample takes what stands behind a name and its labels: a value, a timestamp,
// and perhaps an exemplar.
func (e *exposition) sample(s *series, rest []byte) error {
	if i := bytes.Index(rest, []byte(" # ")); i >= 0 {
		rest = rest[:i]
	}
	field := func() (f []byte) {
		rest = bytes.TrimLeft(rest, " \t")
		n := bytes.IndexAny(rest, " \t")
		if n < 0 {
			n = len(rest)
		}
		f, rest = rest[:n], rest[n:]
		return f
	}
	value, stamp, more := field(), field(), field()
	switch {
	case len(value) == 0:
		return errors.New("the sample has no value")
	case len(more) > 0:
		return fmt.Errorf("there is %s after the timestamp", excerpt(more))
	}
	v, err := parseValue(value)
	if err != nil {
		return err
	}
	var at int64
	switch {
	case len(stamp) > 0:
		var ok bool
		if at, ok = parseEpoch(stamp); !ok {
			return fmt.Errorf("the timestamp %s is no number of seconds or milliseconds since 1970", excerpt(stamp))
		}
	case !e.opts.At.IsZero():
		at = e.opts.At.UnixMicro()
	default:
		return errors.New("the sample has no timestamp: say when it was taken with --time")
	}
	return e.give(s, at, v)
}

// comment looks at what is behind a #: a TYPE may say that a metric, which is
// none of ours that only grow, is a counter.
func (e *exposition) comment(line []byte) error {
	fields := bytes.Fields(line)
	if len(fields) != 3 || string(fields[0]) != "TYPE" || string(fields[2]) != "counter" {
		return nil
	}
	base := string(bytes.Trim(fields[1], `"`))
	for _, name := range []string{base, base + cumulative} {
		metric := dhalion.Metric(strings.TrimPrefix(name, canonicalPrefix))
		metrics := []dhalion.Metric{metric}
		if !metric.Valid() {
			metrics = nil
		}
		for _, r := range e.opts.Mapping.of(name) {
			metrics = append(metrics, r.Metric)
		}
		for _, m := range metrics {
			if !strings.HasSuffix(string(m), cumulative) {
				return fmt.Errorf("%s is a counter and %s is none: ask Prometheus for its rate (dhalion ingest prometheus)", excerpt([]byte(name)), m)
			}
		}
	}
	return nil
}

// parsed is a sample with its labels undone.
type parsed struct {
	key    []byte // the name and labels as written
	name   string
	labels [][2]string
	rest   []byte
}

func (p parsed) label(name string) string {
	for _, l := range p.labels {
		if l[0] == name {
			return l[1]
		}
	}
	return ""
}

// parseSample reads the name and the labels of a sample. A name that is no
// identifier stands in quotes before the labels, as Prometheus 3 writes it.
func parseSample(line []byte) (p parsed, err error) {
	n := identifier(line, true)
	p.name = string(line[:n])
	rest := bytes.TrimLeft(line[n:], " \t")
	if len(rest) == 0 {
		if n == len(line) {
			return p, fmt.Errorf("%s is no sample", excerpt(line))
		}
		return p, errors.New("the sample has no value")
	}
	if rest[0] != '{' {
		if n == 0 {
			return p, fmt.Errorf("%s is no sample", excerpt(line))
		}
		if len(rest) == len(line)-n {
			return p, fmt.Errorf("there is %s behind the name %s", excerpt(rest[:1]), excerpt(line[:n]))
		}
		p.key, p.rest = line[:n], line[n:]
		return p, nil
	}
	rest = rest[1:]
	for {
		rest = bytes.TrimLeft(rest, " \t,")
		if len(rest) == 0 {
			return p, errors.New("the labels are not closed")
		}
		if rest[0] == '}' {
			rest = rest[1:]
			break
		}
		var name string
		quoted := rest[0] == '"'
		if quoted {
			if name, rest, err = unquote(rest[1:]); err != nil {
				return p, err
			}
		} else {
			k := identifier(rest, false)
			if k == 0 {
				return p, fmt.Errorf("there is %s where a label belongs", excerpt(rest[:1]))
			}
			name, rest = string(rest[:k]), rest[k:]
		}
		rest = bytes.TrimLeft(rest, " \t")
		if quoted && len(rest) > 0 && (rest[0] == ',' || rest[0] == '}') && p.name == "" {
			p.name = name
			continue
		}
		if len(rest) == 0 || rest[0] != '=' {
			return p, fmt.Errorf("the label %s has no value", excerpt([]byte(name)))
		}
		rest = bytes.TrimLeft(rest[1:], " \t")
		if len(rest) == 0 || rest[0] != '"' {
			return p, fmt.Errorf("the value of the label %s is not in quotes", excerpt([]byte(name)))
		}
		var value string
		if value, rest, err = unquote(rest[1:]); err != nil {
			return p, err
		}
		for _, l := range p.labels {
			if l[0] == name {
				return p, fmt.Errorf("the label %s is there twice", excerpt([]byte(name)))
			}
		}
		p.labels = append(p.labels, [2]string{name, value})
	}
	if p.name == "" {
		p.name = p.label(nameLabel)
	}
	p.key, p.rest = line[:len(line)-len(rest)], rest
	return p, nil
}

// identifier is how many bytes are the name of a metric, or of a label, which
// has no colons.
func identifier(b []byte, colons bool) int {
	for i, c := range b {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c == '_', c == ':' && colons, c >= '0' && c <= '9' && i > 0:
		default:
			return i
		}
	}
	return len(b)
}

// unquote reads a text up to its closing quote.
func unquote(b []byte) (value string, rest []byte, err error) {
	var out []byte
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '"':
			return string(out), b[i+1:], nil
		case '\\':
			if i++; i == len(b) {
				return "", nil, errors.New("a quoted text is not closed")
			}
			switch b[i] {
			case 'n':
				out = append(out, '\n')
			case '"', '\\':
				out = append(out, b[i])
			default:
				out = append(out, '\\', b[i])
			}
		default:
			out = append(out, b[i])
		}
	}
	return "", nil, errors.New("a quoted text is not closed")
}
