package file

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"time"
	"unsafe"
)

const (
	byteOrderMark = "\uFEFF"

	// maxRecord bounds a row: a longer one is no row of measurements.
	maxRecord = 1 << 20
)

var (
	errLong  = errors.New("the line is longer than 1 MiB")
	errOpen  = errors.New("a quoted field on this line is not closed within 1 MiB")
	errQuote = errors.New("a quoted field is not closed or has something after its end")
)

// rows reads the records of a CSV file (RFC 4180) without copying them: a record
// is valid until the next one is read.
type rows struct {
	r          io.Reader
	buf        []byte
	start, end int
	eof        error // io.EOF or what went wrong; nil as long as there may be more
	lines      int   // lines before start
}

func newRows(r io.Reader) *rows { return &rows{r: r, buf: make([]byte, 256<<10)} }

// next gives a record without its line end, the line on which it begins, and
// whether there is a quote in it. After the last record it gives io.EOF. errLong
// and errOpen come with the line at fault.
func (r *rows) next() (record []byte, line int, quoted bool, err error) {
	searched := 0 // bytes of the record already looked through for its end
	for {
		have := r.buf[r.start:r.end]
		n := bytes.IndexByte(have[searched:], '\n')
		if n >= 0 {
			n += searched
			record, quoted = have[:n], bytes.IndexByte(have[:n], '"') >= 0
			size := n + 1
			line = r.lines + 1
			newlines := 1
			if quoted {
				// The line end may be inside of a quoted field.
				size, newlines = recordEnd(have)
				switch {
				case size >= 0:
				case len(have) > maxRecord:
					return nil, line, false, errOpen
				case r.eof == nil:
					if err := r.fill(); err != nil {
						return nil, line, false, err
					}
					continue
				case r.eof != io.EOF:
					return nil, line, false, r.eof
				default:
					size = len(have)
				}
				record = bytes.TrimSuffix(have[:size], []byte("\n"))
			}
			if len(record) > maxRecord {
				return nil, line, false, errLong
			}
			r.start += size
			r.lines += newlines
			if n := len(record); n > 0 && record[n-1] == '\r' {
				record = record[:n-1]
			}
			return record, line, quoted, nil
		}
		line = r.lines + 1
		if len(have) > maxRecord {
			return nil, line, false, errLong
		}
		if r.eof != nil {
			if r.eof != io.EOF {
				return nil, line, false, r.eof
			}
			if len(have) == 0 {
				return nil, line, false, io.EOF
			}
			r.start = r.end
			r.lines++
			if n := len(have); have[n-1] == '\r' {
				have = have[:n-1]
			}
			return have, line, bytes.IndexByte(have, '"') >= 0, nil
		}
		searched = len(have)
		if err := r.fill(); err != nil {
			return nil, line, false, err
		}
	}
}

// fill reads more, after what is there.
func (r *rows) fill() error {
	if r.start > 0 {
		r.end = copy(r.buf, r.buf[r.start:r.end])
		r.start = 0
	}
	if r.end == len(r.buf) {
		// At most twice maxRecord, since a longer record is refused before.
		r.buf = append(r.buf, make([]byte, len(r.buf))...)
	}
	for range 100 {
		n, err := r.r.Read(r.buf[r.end:])
		r.end += n
		if err != nil {
			r.eof = err
		}
		if n > 0 || err != nil {
			return nil
		}
	}
	return io.ErrNoProgress
}

// recordEnd is the length of the record that data begins with, its line end
// included, and how many line ends are in that; -1 when data ends before it does.
// A quote opens a field only at its beginning, so a stray one spoils no more
// than its own row.
func recordEnd(data []byte) (size, newlines int) {
	inside, fieldStart := false, true
	for i := 0; i < len(data); i++ {
		switch c := data[i]; {
		case inside:
			switch c {
			case '"':
				if i+1 < len(data) && data[i+1] == '"' {
					i++
				} else {
					inside = false
				}
			case '\n':
				newlines++
			}
		case c == '"' && fieldStart:
			inside, fieldStart = true, false
		case c == ',':
			fieldStart = true
		case c == '\n':
			return i + 1, newlines + 1
		default:
			fieldStart = false
		}
	}
	return -1, newlines
}

// split appends a record's fields to fields, quotes undone. Fields with doubled
// quotes are rewritten in spare.
func split(record []byte, fields [][]byte, spare []byte) ([][]byte, error) {
	for {
		if len(record) > 0 && record[0] == '"' {
			start := len(spare)
			rest := record[1:]
			for {
				i := bytes.IndexByte(rest, '"')
				if i < 0 {
					return fields, errQuote
				}
				spare = append(spare, rest[:i]...)
				rest = rest[i+1:]
				if len(rest) == 0 || rest[0] != '"' {
					break
				}
				spare = append(spare, '"')
				rest = rest[1:]
			}
			fields = append(fields, spare[start:len(spare):len(spare)])
			if len(rest) == 0 {
				return fields, nil
			}
			if rest[0] != ',' {
				return fields, errQuote
			}
			record = rest[1:]
			continue
		}
		i := bytes.IndexByte(record, ',')
		if i < 0 {
			return append(fields, record), nil
		}
		fields = append(fields, record[:i])
		record = record[i+1:]
	}
}

// text views bytes as a string for the time of one call.
func text(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

var powersOfTen = [...]float64{1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22}

// parseValue reads a number as strconv.ParseFloat does. Plain decimals of at
// most 15 digits need no more than one division: both numbers are exact, so the
// quotient is the nearest to what is written (Clinger 1990).
func parseValue(b []byte) (float64, error) {
	digits, mantissa, fraction := 0, uint64(0), -1
	for i, c := range b {
		switch {
		case c >= '0' && c <= '9':
			mantissa = mantissa*10 + uint64(c-'0')
			digits++
		case c == '.' && fraction < 0 && i > 0:
			fraction = digits
		default:
			return parseSlow(b)
		}
	}
	if digits == 0 || digits > 15 {
		return parseSlow(b)
	}
	if fraction >= 0 {
		return float64(mantissa) / powersOfTen[digits-fraction], nil
	}
	return float64(mantissa), nil
}

func parseSlow(b []byte) (float64, error) {
	v, err := strconv.ParseFloat(text(b), 64)
	switch {
	case err == nil:
		return v, nil
	case errors.Is(err, strconv.ErrRange) && !math.IsInf(v, 0):
		return v, nil // too small to tell from zero
	case errors.Is(err, strconv.ErrRange):
		return 0, fmt.Errorf("the value %s is too large", excerpt(b))
	}
	return 0, fmt.Errorf("the value %s is no number", excerpt(b))
}

// unknown reports whether a field says that there is no value.
func unknown(b []byte) bool {
	return len(b) == 0 || len(b) == 3 && b[0]|0x20 == 'n' && b[1]|0x20 == 'a' && b[2]|0x20 == 'n'
}

// epochMillis is where a bare number turns from seconds into milliseconds since
// 1970: as seconds it would be in the year 5138, as milliseconds it is in March
// of 1973.
const epochMillis = 100_000_000_000

// parseTime reads RFC 3339 (a space may stand for the T) or a number of seconds
// or milliseconds since 1970 UTC, in microseconds since 1970 UTC. Digits below a
// microsecond are cut off.
func parseTime(b []byte) (int64, error) {
	if len(b) >= 20 && b[4] == '-' && b[7] == '-' {
		if at, ok := parseRFC3339(b); ok {
			return at, nil
		}
	} else if at, ok := parseEpoch(b); ok {
		return at, nil
	}
	if len(b) == 0 {
		return 0, errors.New("the time is empty")
	}
	return 0, fmt.Errorf("the time %s is neither RFC 3339 nor seconds or milliseconds since 1970", excerpt(b))
}

// number reads a few decimal digits; -1 when there is anything else.
func number(b []byte) int {
	n := 0
	for _, c := range b {
		if c < '0' || c > '9' {
			return -1
		}
		n = n*10 + int(c-'0')
	}
	return n
}

func parseRFC3339(b []byte) (int64, bool) {
	if b[10] != 'T' && b[10] != 't' && b[10] != ' ' || b[13] != ':' || b[16] != ':' {
		return 0, false
	}
	year, month, dayOfMonth := number(b[0:4]), number(b[5:7]), number(b[8:10])
	hour, minute, second := number(b[11:13]), number(b[14:16]), number(b[17:19])
	if year < 0 || month < 1 || month > 12 || dayOfMonth < 1 || dayOfMonth > daysIn(year, month) ||
		hour < 0 || hour > 23 || minute < 0 || minute > 59 || second < 0 || second > 59 {
		return 0, false
	}
	rest := b[19:]
	micros := int64(0)
	if rest[0] == '.' {
		n := 1
		for scale := int64(100_000); n < len(rest) && rest[n] >= '0' && rest[n] <= '9'; n++ {
			micros += int64(rest[n]-'0') * scale
			scale /= 10
		}
		if n == 1 {
			return 0, false
		}
		rest = rest[n:]
	}
	offset := 0
	switch {
	case len(rest) == 1 && (rest[0] == 'Z' || rest[0] == 'z'):
	case len(rest) == 6 && (rest[0] == '+' || rest[0] == '-') && rest[3] == ':':
		h, m := number(rest[1:3]), number(rest[4:6])
		if h < 0 || h > 23 || m < 0 || m > 59 {
			return 0, false
		}
		offset = (h*60 + m) * 60
		if rest[0] == '-' {
			offset = -offset
		}
	default:
		return 0, false
	}
	seconds := daysSince1970(year, month, dayOfMonth)*86400 + int64(hour*3600+minute*60+second-offset)
	return seconds*1e6 + micros, true
}

func daysIn(year, month int) int {
	switch month {
	case 4, 6, 9, 11:
		return 30
	case 2:
		if year%4 == 0 && (year%100 != 0 || year%400 == 0) {
			return 29
		}
		return 28
	}
	return 31
}

// daysSince1970 counts days of the Gregorian calendar. Years that begin in March
// have their leap day last, which makes the months' lengths a line of 153/5 days.
func daysSince1970(year, month, dayOfMonth int) int64 {
	if month <= 2 {
		year--
		month += 12
	}
	y := year + 400 // no negative numbers for the year 0
	days := 365*y + y/4 - y/100 + y/400 + (153*(month-3)+2)/5 + dayOfMonth - 1
	// The first of March of the year 0 is 719,468 days before 1970; 400 years are 146,097.
	return int64(days) - 719_468 - 146_097
}

func parseEpoch(b []byte) (int64, bool) {
	digits := b
	negative := false
	if len(digits) > 0 && (digits[0] == '-' || digits[0] == '+') {
		negative = digits[0] == '-'
		digits = digits[1:]
	}
	whole, fraction, dot := bytes.Cut(digits, []byte("."))
	n := number(whole)
	if len(whole) == 0 || len(whole) > 17 || n < 0 || dot && (len(fraction) == 0 || !allDigits(fraction)) {
		return parseEpochSlow(b)
	}
	unit, scale := int64(1e6), int64(100_000) // seconds
	if n >= epochMillis {
		unit, scale = 1e3, 100
	}
	if int64(n) > math.MaxInt64/unit/2 {
		return 0, false
	}
	at := int64(n) * unit
	for _, c := range fraction {
		at += int64(c-'0') * scale
		scale /= 10
	}
	if negative {
		at = -at
	}
	return at, true
}

func allDigits(b []byte) bool {
	for _, c := range b {
		if c < '0' || c > '9' {
			return false
		}
	}
	return true
}

// parseEpochSlow reads what spreadsheets make of large numbers: 1.7e9.
func parseEpochSlow(b []byte) (int64, bool) {
	if len(b) == 0 || bytes.ContainsAny(b, "xXpP_") {
		return 0, false
	}
	v, err := strconv.ParseFloat(text(b), 64)
	if err != nil || v != v || math.Abs(v) > 1e17 {
		return 0, false
	}
	if math.Abs(v) < epochMillis {
		v *= 1e3
	}
	if math.Abs(v) > float64(math.MaxInt64)/2e3 {
		return 0, false
	}
	return int64(math.Round(v * float64(time.Millisecond/time.Microsecond))), true
}
