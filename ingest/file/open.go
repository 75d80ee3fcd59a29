// Package file reads the histories and topologies of no engine: canonical CSV,
// long and wide, and topology files in YAML, plain or compressed.
package file

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/dhalion-go/dhalion"
)

// maxWindow bounds what a zstd frame may ask for; its default level uses 8 MiB.
const maxWindow = 64 << 20

// Open opens a file for reading and undoes gzip or zstd when the file begins so.
// Memory is bounded whatever the file says of itself; how much comes out is for
// the reader of the content to bound.
func Open(path string) (io.ReadCloser, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("file: %w", err)
	}
	if info, err := f.Stat(); err == nil && info.IsDir() {
		return nil, errors.Join(fmt.Errorf("file: open %s: it is a folder", path), f.Close())
	}
	r, err := Decompress(f)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("file: open %s: %w", path, err), f.Close())
	}
	return &opened{Reader: r, close: func() error { return errors.Join(r.Close(), f.Close()) }}, nil
}

type opened struct {
	io.Reader
	close func() error
}

// Close closes the file too.
func (o *opened) Close() error { return o.close() }

// Decompress undoes gzip or zstd when r begins so. Closing the result does not
// close r.
func Decompress(r io.Reader) (io.ReadCloser, error) {
	buffered := bufio.NewReaderSize(r, 256<<10)
	head, err := buffered.Peek(4)
	if err != nil && err != io.EOF {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(head, []byte{0x1F, 0x8B}):
		return gzip.NewReader(buffered)
	case bytes.HasPrefix(head, []byte{0x28, 0xB5, 0x2F, 0xFD}):
		// One goroutine: a second core is better used by what follows.
		d, err := zstd.NewReader(buffered, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, err
		}
		return d.IOReadCloser(), nil
	}
	return io.NopCloser(buffered), nil
}

// Format is a format of histories, by the name that --format has for it.
type Format string

// The formats that Detect can tell.
const (
	FormatFlinkRecording Format = "flink-rest"
	FormatCSV            Format = "csv"
	FormatCSVWide        Format = "csv-wide"
)

// Formats lists the known formats in the order in which they are documented.
var Formats = []Format{FormatFlinkRecording, FormatCSV, FormatCSVWide}

// Detect tells the format from the beginning of the decompressed content; a few
// KiB are enough. The error lists what is known.
func Detect(head []byte) (Format, error) {
	head = bytes.TrimPrefix(head, []byte(byteOrderMark))
	trimmed := bytes.TrimLeft(head, " \t\r\n")
	if len(trimmed) == 0 {
		return "", unknownFormat("it is empty")
	}
	if trimmed[0] == '{' {
		// An answer's fields can come in any order, and its body can be long.
		if bytes.Contains(trimmed, []byte(`"path"`)) && (bytes.Contains(trimmed, []byte(`"method"`)) || bytes.Contains(trimmed, []byte(`"engine"`))) {
			return FormatFlinkRecording, nil
		}
		return "", unknownFormat("it begins like JSON, but not like a recorded answer of Flink's")
	}
	line, _, _ := bytes.Cut(trimmed, []byte("\n"))
	names, err := split(bytes.TrimSuffix(line, []byte("\r")), nil, nil)
	if err == nil {
		for i, name := range names {
			names[i] = bytes.TrimSpace(name)
		}
		has := func(name string) bool {
			return slices.ContainsFunc(names, func(b []byte) bool { return string(b) == name })
		}
		if has(timeColumn) {
			if has(metricColumn) && has(valueColumn) {
				return FormatCSV, nil
			}
			if slices.ContainsFunc(names, func(b []byte) bool { return dhalion.Metric(b).Valid() }) {
				return FormatCSVWide, nil
			}
		}
	}
	return "", unknownFormat(fmt.Sprintf("it begins with %s", excerpt(line)))
}

func unknownFormat(why string) error {
	names := make([]string, len(Formats))
	for i, f := range Formats {
		names[i] = string(f)
	}
	return fmt.Errorf("file: detect format: %s; known are %s (--format): a recording of Flink's REST answers as JSON lines, "+
		"CSV with the header time,job,component,instance,worker,metric,value, and CSV with a column per metric", why, strings.Join(names, ", "))
}

// excerpt quotes the beginning of what may be anything.
func excerpt(b []byte) string {
	const most = 60
	if len(b) > most {
		return fmt.Sprintf("%q…", b[:most])
	}
	return fmt.Sprintf("%q", b)
}
