package flink

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// MaxLine is the longest line of a recording, in bytes: far above the answer of
// a job with thousands of subtasks (about 1 KiB each), and a bound on memory.
const MaxLine = 64 << 20

// LineError is a line of a recording that cannot be read; reading can go on
// after it.
type LineError struct {
	Line   int // from 1
	Reason string
}

// Error is "line N: REASON".
func (e *LineError) Error() string { return fmt.Sprintf("line %d: %s", e.Line, e.Reason) }

// Reader reads a recording: a JSON object a line with time, engine, method,
// path, status and body, "request" where the request had a body, "error" where
// the status is 0. It holds one line at a time.
type Reader struct {
	in   *bufio.Reader
	max  int
	line int
	buf  []byte
	done error
}

// NewReader reads a recording that is already decompressed.
func NewReader(r io.Reader) *Reader {
	return &Reader{in: bufio.NewReaderSize(r, 1<<16), max: MaxLine}
}

// Line is the number, from 1, of the line that Next gave or failed at.
func (r *Reader) Line() int { return r.line }

// Next is the next answer, with io.EOF after the last one. A *LineError is a
// broken line that can be passed over; any other error stays, and Line says where
// it struck. Empty lines are passed over.
func (r *Reader) Next() (Answer, error) {
	for r.done == nil {
		line, err := r.next()
		if err != nil {
			r.done = err
			break
		}
		if line = bytes.TrimSpace(line); len(line) > 0 {
			return r.parse(line)
		}
	}
	return Answer{}, r.done
}

// next reads one line without its end.
func (r *Reader) next() ([]byte, error) {
	r.buf = r.buf[:0]
	r.line++
	for {
		part, err := r.in.ReadSlice('\n')
		if len(r.buf)+len(part) > r.max {
			return nil, fmt.Errorf("flink: read recording: line is longer than %d bytes", r.max)
		}
		r.buf = append(r.buf, part...)
		switch {
		case err == nil:
			return r.buf, nil
		case errors.Is(err, bufio.ErrBufferFull):
		case err == io.EOF:
			if len(r.buf) == 0 {
				r.line--
				return nil, io.EOF
			}
			return r.buf, nil
		default:
			return nil, fmt.Errorf("flink: read recording: %w", err)
		}
	}
}

type recorded struct {
	Time    *string         `json:"time"`
	Engine  string          `json:"engine"`
	Method  *string         `json:"method"`
	Path    *string         `json:"path"`
	Status  *int            `json:"status"`
	Body    json.RawMessage `json:"body"`
	Request json.RawMessage `json:"request"`
	Error   string          `json:"error"`
}

func (r *Reader) parse(line []byte) (Answer, error) {
	broken := func(format string, args ...any) (Answer, error) {
		return Answer{}, &LineError{r.line, fmt.Sprintf(format, args...)}
	}
	var in recorded
	if err := json.Unmarshal(line, &in); err != nil {
		return broken("%v", err)
	}
	switch {
	case in.Engine != "" && in.Engine != "flink":
		return broken("engine is %q, not flink", in.Engine)
	case in.Time == nil:
		return broken("it has no time")
	case in.Method == nil:
		return broken("it has no method")
	case in.Path == nil:
		return broken("it has no path")
	case in.Status == nil:
		return broken("it has no status")
	}
	at, err := time.Parse(time.RFC3339Nano, *in.Time)
	if err != nil {
		return broken("time %q is not RFC 3339", *in.Time)
	}
	at = at.UTC().Truncate(time.Microsecond)
	if y := at.Year(); y < 1 || y > 9999 {
		return broken("time %q is outside the years 1 to 9999", *in.Time)
	}
	return Answer{
		Time: at, Method: *in.Method, Path: *in.Path, Status: *in.Status,
		Body: in.Body, Request: in.Request, Error: in.Error,
	}, nil
}

// WriteAnswer writes an answer as one line of a recording, which NewReader reads.
// Its body must be one JSON value, as a Client's is.
func WriteAnswer(w io.Writer, a Answer) error {
	var line bytes.Buffer
	enc := json.NewEncoder(&line)
	enc.SetEscapeHTML(false)
	err := enc.Encode(struct {
		Time    string          `json:"time"`
		Engine  string          `json:"engine"`
		Method  string          `json:"method"`
		Path    string          `json:"path"`
		Status  int             `json:"status"`
		Request json.RawMessage `json:"request,omitempty"`
		Error   string          `json:"error,omitempty"`
		Body    json.RawMessage `json:"body,omitempty"`
	}{a.Time.UTC().Format("2006-01-02T15:04:05.000000Z07:00"), "flink", a.Method, a.Path, a.Status, a.Request, a.Error, a.Body})
	if err == nil && line.Len() > MaxLine {
		err = fmt.Errorf("it has more than %d bytes", MaxLine)
	}
	if err != nil {
		return fmt.Errorf("flink: write answer to %s %s: %w", a.Method, cut(a.Path, 100), err)
	}
	_, err = w.Write(line.Bytes())
	return err
}
