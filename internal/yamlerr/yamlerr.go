// Package yamlerr says in which line a YAML file cannot be read. The YAML package
// names the line in which what it was reading began, one line too few, or none.
package yamlerr

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// effort bounds what is read again to find a line, in bytes: some tenths of a second.
const effort = 4 << 20

var (
	numbered    = regexp.MustCompile(`^line (\d+): `)
	unknownKey  = regexp.MustCompile(`field (\S+) not found in type (?:\w+\.)?(\S+)`)
	wrongScalar = regexp.MustCompile("cannot unmarshal !!(\\w+) (?:`([^`]*)` )?into (\\S+)")
)

// Split is the line of a file, counted from 1, and the reason in an error that the
// YAML package gave of its content. The line is 0 where there is none to be named. Of
// several errors of a decoder it is the first.
func Split(data []byte, err error) (line int, reason string) {
	line, reason = said(err)
	if found, ok := locate(data, reason); ok {
		line = found
	}
	return line, reason
}

// Words says a decoder's reason with keys, and not with Go types. meant, which may be
// nil, says behind an unknown key what was meant by it, from the name of the Go type that
// has no such field.
func Words(reason string, meant func(key, of string) string) string {
	if m := unknownKey.FindStringSubmatch(reason); m != nil {
		reason = fmt.Sprintf("there is no key %s here", m[1])
		if meant != nil {
			reason += meant(m[1], m[2])
		}
	} else if m := wrongScalar.FindStringSubmatch(reason); m != nil {
		reason = fmt.Sprintf("%q is not of the kind that stands here", m[2])
	}
	return reason
}

func said(err error) (line int, reason string) {
	reason = err.Error()
	var typed *yaml.TypeError
	if errors.As(err, &typed) && len(typed.Errors) > 0 {
		reason = typed.Errors[0]
	}
	reason = strings.TrimPrefix(reason, "yaml: ")
	if m := numbered.FindStringSubmatch(reason); m != nil {
		line, _ = strconv.Atoi(m[1]) // digits
		reason = reason[len(m[0]):]
	}
	return line, reason
}

// locate is the last line of the shortest beginning of a file from which on every
// longer one cannot be parsed for the same reason; false where the reason is not the
// parser's, or not found within the effort.
func locate(data []byte, reason string) (line int, ok bool) {
	read := &byLine{rest: data}
	if parse(read) != reason {
		return 0, false
	}
	// The parser has not seen what is behind the mistake, and little of what it has
	// seen is.
	line, end := read.lines, len(data)-len(read.rest)
	for left := effort; line > 1; line-- {
		end = 1 + bytes.LastIndexByte(data[:end-1], '\n')
		if left -= end; left < 0 {
			return 0, false
		}
		if parse(bytes.NewReader(data[:end])) != reason {
			break
		}
	}
	return line, true
}

// parse says why a stream of documents cannot be parsed; empty when it can.
func parse(r io.Reader) (reason string) {
	for d := yaml.NewDecoder(r); ; {
		var n yaml.Node
		switch err := d.Decode(&n); {
		case errors.Is(err, io.EOF):
			return ""
		case err != nil:
			_, reason := said(err)
			return reason
		}
	}
}

// byLine gives a line at each Read, or what there is room for of one.
type byLine struct {
	rest  []byte
	lines int // begun so far
	begun bool
}

// Read is io.Reader's.
func (b *byLine) Read(p []byte) (int, error) {
	if len(b.rest) == 0 {
		return 0, io.EOF
	}
	if !b.begun {
		b.lines++
	}
	n := bytes.IndexByte(b.rest, '\n') + 1
	if n == 0 {
		n = len(b.rest)
	}
	n = copy(p, b.rest[:n])
	b.begun = b.rest[n-1] != '\n'
	b.rest = b.rest[n:]
	return n, nil
}
