package prometheus

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
)

const (
	// maxString bounds a string that is kept: a label, a warning.
	maxString = 64 << 10
	// maxLabels bounds the labels of a series; Prometheus' own limit is far lower
	// where one is set.
	maxLabels = 1024
	// maxDepth bounds the nesting of what is skipped.
	maxDepth = 64
	// maxHeld bounds the values of a series whose labels come after them, which no
	// Prometheus writes but JSON allows: 16 MiB.
	maxHeld = 1 << 20
	// maxNotes bounds the warnings of an answer that are kept.
	maxNotes = 20
)

// Answer is what an answer says beside its values.
type Answer struct {
	Type     string   // matrix, vector, scalar or string; empty when the answer does not say
	Series   int      // series with at least one value
	Values   int      // values handed out or passed over
	Warnings []string // the first 20: as a rule the answer lacks something then
}

// Series is called with the labels of each series, __name__ among them, and says
// where its values go; nil passes over them. The map is the callee's.
type Series func(labels map[string]string) (Values, error)

// Values takes one value of a series: its time in microseconds since 1970 UTC,
// and the value, which may be NaN or infinite.
type Values func(atMicros int64, v float64) error

// SyntaxError says that what was read is no answer of Prometheus', and where.
type SyntaxError struct {
	Line   int   // from 1
	Offset int64 // bytes before it
	Reason string
}

// Error is the reason with its place; answers are mostly a single line.
func (e *SyntaxError) Error() string {
	return fmt.Sprintf("%s (line %d, byte %d)", e.Reason, e.Line, e.Offset)
}

// FailedError is an answer with the status "error".
type FailedError struct {
	Kind    string // errorType, as bad_data, timeout or execution
	Message string
}

// Error is what the server said.
func (e *FailedError) Error() string {
	return strings.TrimSuffix(fmt.Sprintf("the answer is an error of kind %s: %s", e.Kind, e.Message), ": ")
}

// Decode reads one answer to /api/v1/query or /api/v1/query_range and hands its
// series out while it reads: memory does not grow with the answer. What follows
// the answer is an error. An error of a callback ends it and is returned as it
// is; others are *SyntaxError, *FailedError, or the reader's. An answer that
// fails at its end has handed values out before.
func Decode(r io.Reader, series Series) (Answer, error) {
	d := NewDecoder(r)
	a, err := d.Next(series)
	if err == io.EOF {
		return a, d.s.bad("the answer is empty")
	}
	if err != nil {
		return a, err
	}
	if c, err := d.s.peek(); err != io.EOF {
		if err != nil {
			return a, err
		}
		return a, d.s.bad("there is %q after the answer", c)
	}
	return a, nil
}

// Decoder reads answers that stand one after the other, as in JSON lines.
type Decoder struct {
	s scanner
	// of the answer at hand
	answer Answer
	status string
	failed FailedError
	series Series
	held   []held
}

type held struct {
	at int64
	v  float64
}

// NewDecoder reads from r.
func NewDecoder(r io.Reader) *Decoder {
	return &Decoder{s: scanner{r: r, buf: make([]byte, 64<<10), line: 1}}
}

// Line is the line that the decoder has come to, from 1.
func (d *Decoder) Line() int { return d.s.line }

// Next reads the next answer as Decode does; io.EOF says that there is none.
func (d *Decoder) Next(series Series) (Answer, error) {
	d.answer, d.status, d.failed, d.series = Answer{}, "", FailedError{}, series
	if _, err := d.s.peek(); err != nil {
		return Answer{}, err
	}
	data := false
	err := d.s.object(func(key string) error {
		switch key {
		case "status":
			return d.s.keep(&d.status)
		case "errorType":
			return d.s.keep(&d.failed.Kind)
		case "error":
			return d.s.keep(&d.failed.Message)
		case "warnings":
			return d.warnings()
		case "data":
			if data {
				return d.s.bad("the key data is there twice")
			}
			data = true
			return d.data()
		}
		return d.s.skip(0)
	})
	switch {
	case err != nil:
		return d.answer, ended(d, err)
	case d.status == "error":
		return d.answer, &FailedError{Kind: clean(d.failed.Kind), Message: clean(d.failed.Message)}
	case d.status != "success":
		return d.answer, d.s.bad("the status is %s, not success: is it an answer of Prometheus'?", quote(d.status))
	case !data:
		return d.answer, d.s.bad("the answer has no data")
	}
	return d.answer, nil
}

// ended says of an answer that stops in the middle that it does.
func ended(d *Decoder, err error) error {
	if err == io.EOF {
		return d.s.bad("the answer breaks off")
	}
	return err
}

func (d *Decoder) warnings() error {
	if c, err := d.s.peek(); err != nil {
		return err
	} else if c == 'n' {
		return d.s.skip(0)
	}
	return d.s.array(func() error {
		var w string
		if err := d.s.keep(&w); err != nil {
			return err
		}
		if len(d.answer.Warnings) < maxNotes {
			d.answer.Warnings = append(d.answer.Warnings, clean(w))
		}
		return nil
	})
}

func (d *Decoder) data() error {
	c, err := d.s.peek()
	if err != nil {
		return err
	}
	if c == 'n' { // of an error
		return d.s.skip(0)
	}
	if c != '{' {
		return d.s.bad("the data is no object with a result: only answers to query and query_range are read")
	}
	result := false
	err = d.s.object(func(key string) error {
		switch key {
		case "resultType":
			if err := d.s.keep(&d.answer.Type); err != nil {
				return err
			}
			switch d.answer.Type {
			case "matrix", "vector", "scalar":
				return nil
			}
			return d.s.bad("the result is of type %s; matrix and vector are read", quote(d.answer.Type))
		case "result":
			if result {
				return d.s.bad("the key result is there twice")
			}
			result = true
			return d.result()
		}
		return d.s.skip(0)
	})
	if err == nil && !result {
		return d.s.bad("the data has no result: only answers to query and query_range are read")
	}
	return err
}

// result reads a list of series, or the one value of a scalar, which has no
// labels.
func (d *Decoder) result() error {
	if c, err := d.s.peek(); err != nil {
		return err
	} else if c == 'n' { // as some write an empty list
		return d.s.skip(0)
	} else if c != '[' {
		return d.s.bad("the result is no list")
	}
	d.s.pos++
	c, err := d.s.peek()
	if err != nil {
		return err
	}
	if c == '-' || c >= '0' && c <= '9' {
		at, v, err := d.pair()
		if err != nil {
			return err
		}
		give, err := d.series(map[string]string{})
		if err != nil {
			return err
		}
		d.answer.Series++
		return d.give(give, at, v)
	}
	return d.s.elements(']', d.one)
}

// one reads a series: {"metric":{…},"values":[[1435781430.781,"1"],…]}.
func (d *Decoder) one() error {
	var labels map[string]string
	var give Values
	open, values := false, 0
	d.held = d.held[:0]
	take := func() error {
		at, v, err := d.enclosed()
		if err != nil {
			return err
		}
		values++
		if open {
			return d.give(give, at, v)
		}
		if len(d.held) == maxHeld {
			return d.s.bad("a series has more than %d values before its labels", maxHeld)
		}
		d.held = append(d.held, held{at, v})
		return nil
	}
	err := d.s.object(func(key string) error {
		switch key {
		case "metric":
			if open {
				return d.s.bad("a series has its labels twice")
			}
			var err error
			if labels, err = d.labels(); err != nil {
				return err
			}
			if give, err = d.series(labels); err != nil {
				return err
			}
			open = true
			for _, h := range d.held {
				if err := d.give(give, h.at, h.v); err != nil {
					return err
				}
			}
			d.held = d.held[:0]
			return nil
		case "values":
			return d.s.array(take)
		case "value":
			return take()
		case "histogram", "histograms":
			return d.s.bad("the series is of native histograms, which are not read: ask for a number, as with histogram_quantile")
		}
		return d.s.skip(0)
	})
	if err != nil {
		return err
	}
	if !open {
		return d.s.bad("a series has no labels (metric)")
	}
	if values > 0 {
		d.answer.Series++
	}
	return nil
}

func (d *Decoder) labels() (map[string]string, error) {
	labels := map[string]string{}
	err := d.s.object(func(key string) error {
		if _, twice := labels[key]; twice {
			return d.s.bad("the label %s is there twice", quote(key))
		}
		if len(labels) == maxLabels {
			return d.s.bad("a series has more than %d labels", maxLabels)
		}
		var value string
		if err := d.s.keep(&value); err != nil {
			return err
		}
		labels[key] = value
		return nil
	})
	return labels, err
}

func (d *Decoder) give(to Values, at int64, v float64) error {
	d.answer.Values++
	if to == nil {
		return nil
	}
	return to(at, v)
}

// enclosed reads [TIME,"VALUE"].
func (d *Decoder) enclosed() (at int64, v float64, err error) {
	if err := d.s.want('['); err != nil {
		return 0, 0, err
	}
	return d.pair()
}

// pair reads TIME,"VALUE"].
func (d *Decoder) pair() (at int64, v float64, err error) {
	token, err := d.s.number()
	if err != nil {
		return 0, 0, err
	}
	at, ok := microseconds(token)
	if !ok {
		return 0, 0, d.s.bad("%s is no time in seconds since 1970", quote(string(token)))
	}
	if err := d.s.want(','); err != nil {
		return 0, 0, err
	}
	if err := d.s.want('"'); err != nil {
		return 0, 0, err
	}
	if token, err = d.s.rest(); err != nil {
		return 0, 0, err
	}
	if v, ok = parseValue(token); !ok {
		return 0, 0, d.s.bad("%s is no value", quote(string(token)))
	}
	return at, v, d.s.want(']')
}

// microseconds reads a decimal number of seconds, to the microsecond as it is
// written: 1435781430.781 is no binary fraction.
func microseconds(b []byte) (int64, bool) {
	digits, negative := b, false
	if len(digits) > 0 && digits[0] == '-' {
		digits, negative = digits[1:], true
	}
	var n int64
	i := 0
	for ; i < len(digits) && digits[i] >= '0' && digits[i] <= '9'; i++ {
		if n = n*10 + int64(digits[i]-'0'); n > 1e12 { // the year 33658
			return 0, false
		}
	}
	whole := i
	n *= 1e6
	if i < len(digits) && digits[i] == '.' {
		scale := int64(100_000)
		for i++; i < len(digits) && digits[i] >= '0' && digits[i] <= '9'; i++ {
			n += int64(digits[i]-'0') * scale
			scale /= 10
		}
		if i == whole+1 {
			return 0, false
		}
	}
	if whole == 0 || i < len(digits) {
		v, err := strconv.ParseFloat(string(b), 64) // 1.4e9
		if v *= 1e6; err != nil || !(math.Abs(v) < math.MaxInt64/2) {
			return 0, false
		}
		return int64(math.Round(v)), true
	}
	if negative {
		n = -n
	}
	return n, true
}

// parseValue reads a number as Prometheus writes it; NaN, +Inf and -Inf are some.
func parseValue(b []byte) (float64, bool) {
	// Go's other ways to write a number are not Prometheus'.
	if len(b) == 0 || len(b) > 64 || bytes.ContainsAny(b, "xXpP_") {
		return 0, false
	}
	// Most values of counters and shares are short decimals, exact as the
	// quotient of two whole numbers below 2^53.
	var n, scale int64 = 0, 1
	for i, dot := 0, false; ; i++ {
		if i == len(b) {
			if i == 1 && dot || n >= 1<<53 {
				break
			}
			return float64(n) / float64(scale), true
		}
		c := b[i]
		if c == '.' && !dot && i > 0 {
			dot = true
			continue
		}
		if c < '0' || c > '9' || i > 15 {
			break
		}
		n = n*10 + int64(c-'0')
		if dot {
			scale *= 10
		}
	}
	v, err := strconv.ParseFloat(string(b), 64)
	return v, err == nil || errors.Is(err, strconv.ErrRange)
}

// scanner reads JSON byte by byte; it holds no more than a buffer and a string.
type scanner struct {
	r        io.Reader
	buf      []byte
	pos, end int
	line     int
	before   int64 // bytes before buf
	token    []byte
	failed   error
}

func (s *scanner) bad(format string, args ...any) error {
	return &SyntaxError{Line: s.line, Offset: s.before + int64(s.pos), Reason: fmt.Sprintf(format, args...)}
}

// fill reads on when the buffer is used up.
func (s *scanner) fill() error {
	if s.failed != nil {
		return s.failed
	}
	s.before += int64(s.end)
	s.pos, s.end = 0, 0
	for range 100 {
		s.end, s.failed = s.r.Read(s.buf)
		if s.end > 0 {
			return nil
		}
		if s.failed != nil {
			return s.failed
		}
	}
	s.failed = io.ErrNoProgress
	return s.failed
}

// next takes a byte.
func (s *scanner) next() (byte, error) {
	if s.pos == s.end {
		if err := s.fill(); err != nil {
			return 0, err
		}
	}
	c := s.buf[s.pos]
	s.pos++
	return c, nil
}

// peek gives the next byte that is no space without taking it.
func (s *scanner) peek() (byte, error) {
	for {
		if s.pos == s.end {
			if err := s.fill(); err != nil {
				return 0, err
			}
		}
		switch c := s.buf[s.pos]; c {
		case '\n':
			s.line++
		case ' ', '\t', '\r':
		default:
			return c, nil
		}
		s.pos++
	}
}

func (s *scanner) want(c byte) error {
	got, err := s.peek()
	if err != nil {
		return err
	}
	if got != c {
		return s.bad("there is %q where %q belongs", got, c)
	}
	s.pos++
	return nil
}

// object reads an object; value reads that of each key.
func (s *scanner) object(value func(key string) error) error {
	if err := s.want('{'); err != nil {
		return err
	}
	return s.elements('}', func() error {
		var key string
		if err := s.keep(&key); err != nil {
			return err
		}
		if err := s.want(':'); err != nil {
			return err
		}
		return value(key)
	})
}

// array reads a list; element reads each.
func (s *scanner) array(element func() error) error {
	if err := s.want('['); err != nil {
		return err
	}
	return s.elements(']', element)
}

// elements reads what is between commas until the closing bracket.
func (s *scanner) elements(closing byte, element func() error) error {
	c, err := s.peek()
	if err != nil {
		return err
	}
	if c == closing {
		s.pos++
		return nil
	}
	for {
		if err := element(); err != nil {
			return err
		}
		c, err := s.peek()
		switch {
		case err != nil:
			return err
		case c == closing:
			s.pos++
			return nil
		case c != ',':
			return s.bad("there is %q where %q or ',' belongs", c, closing)
		}
		s.pos++
	}
}

// keep reads a string.
func (s *scanner) keep(into *string) error {
	if err := s.want('"'); err != nil {
		return err
	}
	b, err := s.rest()
	if err != nil {
		return err
	}
	*into = string(b)
	return nil
}

// rest reads a string after its first quote. The bytes are valid until the next
// token.
func (s *scanner) rest() ([]byte, error) {
	s.token = s.token[:0]
	for {
		if s.pos == s.end {
			if err := s.fill(); err != nil {
				return nil, err
			}
		}
		// All that is plain at once.
		from := s.pos
		for s.pos < s.end && s.buf[s.pos] != '"' && s.buf[s.pos] != '\\' && s.buf[s.pos] >= ' ' {
			s.pos++
		}
		s.token = append(s.token, s.buf[from:s.pos]...)
		if len(s.token) > maxString {
			return nil, s.bad("a string is longer than %d KiB", maxString>>10)
		}
		if s.pos == s.end {
			continue
		}
		c := s.buf[s.pos]
		s.pos++
		switch c {
		case '"':
			if !utf8.Valid(s.token) {
				return nil, s.bad("a string is not UTF-8")
			}
			return s.token, nil
		case '\\':
			r, err := s.escape()
			if err != nil {
				return nil, err
			}
			s.token = utf8.AppendRune(s.token, r)
		default:
			return nil, s.bad("there is the control character %q in a string", c)
		}
	}
}

func (s *scanner) escape() (rune, error) {
	c, err := s.next()
	if err != nil {
		return 0, err
	}
	switch c {
	case '"', '\\', '/':
		return rune(c), nil
	case 'b':
		return '\b', nil
	case 'f':
		return '\f', nil
	case 'n':
		return '\n', nil
	case 'r':
		return '\r', nil
	case 't':
		return '\t', nil
	case 'u':
		r, err := s.hex()
		if err != nil || r < 0xD800 || r > 0xDFFF {
			return r, err
		}
		if r > 0xDBFF {
			return utf8.RuneError, nil
		}
		// The second half of a character beyond 16 bits must follow.
		for _, want := range []byte{'\\', 'u'} {
			c, err := s.next()
			if err != nil {
				return 0, err
			}
			if c != want {
				return 0, s.bad("half of a character is escaped in a string")
			}
		}
		low, err := s.hex()
		if err != nil {
			return 0, err
		}
		if low < 0xDC00 || low > 0xDFFF {
			return 0, s.bad("half of a character is escaped in a string")
		}
		return (r-0xD800)<<10 + (low - 0xDC00) + 0x10000, nil
	}
	return 0, s.bad("there is the unknown escape \\%c in a string", c)
}

func (s *scanner) hex() (r rune, err error) {
	for range 4 {
		c, err := s.next()
		if err != nil {
			return 0, err
		}
		switch {
		case c >= '0' && c <= '9':
			r = r<<4 | rune(c-'0')
		case c >= 'a' && c <= 'f':
			r = r<<4 | rune(c-'a'+10)
		case c >= 'A' && c <= 'F':
			r = r<<4 | rune(c-'A'+10)
		default:
			return 0, s.bad("there is %q in a \\u escape", c)
		}
	}
	return r, nil
}

// number reads a number's bytes, valid until the next token.
func (s *scanner) number() ([]byte, error) {
	if _, err := s.peek(); err != nil {
		return nil, err
	}
	s.token = s.token[:0]
	for {
		if s.pos == s.end {
			if err := s.fill(); err == io.EOF {
				break
			} else if err != nil {
				return nil, err
			}
		}
		c := s.buf[s.pos]
		if (c < '0' || c > '9') && c != '.' && c != '-' && c != '+' && c != 'e' && c != 'E' {
			break
		}
		if len(s.token) == 64 {
			return nil, s.bad("a number has more than 64 digits")
		}
		s.token = append(s.token, c)
		s.pos++
	}
	if len(s.token) == 0 {
		c, err := s.peek()
		if err != nil {
			return nil, err
		}
		return nil, s.bad("there is %q where a number belongs", c)
	}
	return s.token, nil
}

// skip passes over any value, keeping nothing of it.
func (s *scanner) skip(depth int) error {
	if depth > maxDepth {
		return s.bad("the nesting is deeper than %d", maxDepth)
	}
	c, err := s.peek()
	if err != nil {
		return err
	}
	below := func() error { return s.skip(depth + 1) }
	switch c {
	case '{':
		s.pos++
		return s.elements('}', func() error {
			if c, err := s.peek(); err != nil {
				return err
			} else if c != '"' {
				return s.bad("there is %q where a key belongs", c)
			}
			if err := below(); err != nil {
				return err
			}
			if err := s.want(':'); err != nil {
				return err
			}
			return below()
		})
	case '[':
		s.pos++
		return s.elements(']', below)
	case '"':
		s.pos++
		for {
			c, err := s.next()
			switch {
			case err != nil:
				return err
			case c == '"':
				return nil
			case c == '\\':
				if _, err := s.next(); err != nil {
					return err
				}
			case c < ' ':
				return s.bad("there is the control character %q in a string", c)
			}
		}
	case 't', 'f', 'n':
		word := map[byte]string{'t': "true", 'f': "false", 'n': "null"}[c]
		for i := range len(word) {
			if c, err := s.next(); err != nil {
				return err
			} else if c != word[i] {
				return s.bad("there is %q in the middle of %s", c, word)
			}
		}
		return nil
	}
	_, err = s.number()
	return err
}

// quote shows what another program wrote.
func quote(s string) string {
	const most = 60
	if len(s) > most {
		return strconv.Quote(s[:most]) + "…"
	}
	return strconv.Quote(s)
}
