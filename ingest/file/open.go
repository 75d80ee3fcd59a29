// Package file reads the histories and topologies of no engine: canonical CSV,
// long and wide, OpenMetrics, answers of Prometheus', Arrow IPC, Parquet and
// DS2's files, plain or compressed, and topology files in YAML; and it writes
// histories as Arrow IPC, Parquet and CSV.
package file

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
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
	FormatOpenMetrics    Format = "openmetrics"
	FormatPrometheus     Format = "prometheus-json"
	FormatArrow          Format = "arrow"
	FormatParquet        Format = "parquet"
	FormatDS2            Format = "ds2"
)

// Formats lists the known formats in the order in which they are documented.
var Formats = []Format{FormatFlinkRecording, FormatCSV, FormatCSVWide, FormatOpenMetrics, FormatPrometheus, FormatArrow, FormatParquet, FormatDS2}

// Detect tells the format from the beginning of the decompressed content; a few
// KiB are enough. The error lists what is known.
func Detect(head []byte) (Format, error) {
	switch {
	case bytes.HasPrefix(head, []byte(arrowMagic)), isArrowStream(head):
		return FormatArrow, nil
	case bytes.HasPrefix(head, []byte(parquetMagic)):
		return FormatParquet, nil
	case bytes.HasPrefix(head, []byte(encryptedParquet)):
		return "", errors.New("file: detect format: it is encrypted Parquet, which is not read")
	case bytes.HasPrefix(head, []byte("FEA1")):
		return "", errors.New("file: detect format: it is Feather of version 1; write version 2, which is Arrow IPC")
	}
	head = bytes.TrimPrefix(head, []byte(byteOrderMark))
	trimmed := bytes.TrimLeft(head, " \t\r\n")
	if len(trimmed) == 0 {
		return "", unknownFormat("it is empty")
	}
	has := func(key string) bool { return bytes.Contains(trimmed, []byte(`"`+key+`"`)) }
	if trimmed[0] == '{' {
		// An answer's fields can come in any order, and its body can be long. A
		// recorded answer may quote a result; the keys in it are then escaped.
		switch {
		case has("path") && (has("method") || has("engine")):
			return FormatFlinkRecording, nil
		case has("status") && (has("data") || has("errorType")), has("resultType"):
			return FormatPrometheus, nil
		}
		if !bytes.HasPrefix(trimmed, []byte(`{"`)) || json.Valid(trimmed) || !isExposition(trimmed) {
			return "", unknownFormat("it begins like JSON, but neither like a recorded answer of Flink's nor like one of Prometheus'")
		}
		return FormatOpenMetrics, nil // a name in quotes: {"dhalion.busy_fraction",…} 0.5
	}
	line, _, _ := bytes.Cut(trimmed, []byte("\n"))
	line = bytes.TrimSuffix(line, []byte("\r"))
	if isDS2(line) {
		return FormatDS2, nil
	}
	names, err := split(line, nil, nil)
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
	if isExposition(trimmed) {
		return FormatOpenMetrics, nil
	}
	return "", unknownFormat(fmt.Sprintf("it begins with %s", excerpt(line)))
}

// isArrowStream knows a stream by its first message: the mark, a length, and a
// flatbuffer whose root lies within that.
func isArrowStream(head []byte) bool {
	if len(head) < 12 || binary.LittleEndian.Uint32(head) != 0xFFFFFFFF {
		return false
	}
	n := binary.LittleEndian.Uint32(head[4:])
	return n <= maxMetadata && n%8 == 0 && binary.LittleEndian.Uint32(head[8:]) < max(n, 1)
}

// isDS2 knows the header of DS2's files, a comment with eight names, and a row
// of one that has no header.
func isDS2(line []byte) bool {
	comment := bytes.HasPrefix(line, []byte("#"))
	fields := bytes.Split(bytes.TrimLeft(line, "# "), []byte(","))
	if len(fields) != 8 {
		return false
	}
	for i := range fields {
		fields[i] = bytes.TrimSpace(fields[i])
	}
	if string(fields[0]) == "operator_id" {
		return bytes.HasSuffix(fields[4], []byte("processing_rate"))
	}
	for _, f := range fields[1:] {
		if _, err := strconv.ParseFloat(string(f), 64); err != nil || comment {
			return false
		}
	}
	return number(fields[1]) >= 0 && number(fields[2]) >= 0 && number(fields[3]) >= 0
}

// isExposition knows a text of metrics by its first line: # HELP, TYPE, UNIT or
// EOF, or a sample.
func isExposition(text []byte) bool {
	line, _, _ := bytes.Cut(text, []byte("\n"))
	line = bytes.TrimSuffix(line, []byte("\r"))
	if rest, ok := bytes.CutPrefix(line, []byte("#")); ok {
		word, _, _ := bytes.Cut(bytes.TrimSpace(rest), []byte(" "))
		switch string(word) {
		case "HELP", "TYPE", "UNIT", "EOF":
			return true
		}
		// Any other comment: what comes after it tells.
		_, after, more := bytes.Cut(text, []byte("\n"))
		return more && len(after) > 0 && isExposition(after)
	}
	s, err := parseSample(line)
	if err != nil || s.name == "" {
		return false
	}
	fields := bytes.Fields(s.rest)
	if len(fields) == 0 {
		return false
	}
	_, err = strconv.ParseFloat(string(fields[0]), 64)
	return err == nil
}

func unknownFormat(why string) error {
	names := make([]string, len(Formats))
	for i, f := range Formats {
		names[i] = string(f)
	}
	return fmt.Errorf("file: detect format: %s; known are %s (--format): a recording of Flink's REST answers as JSON lines, "+
		"CSV with the header time,job,component,instance,worker,metric,value, CSV with a column per metric, OpenMetrics or Prometheus text, "+
		"Prometheus' answers to query and query_range, Arrow IPC and Parquet with the columns of either CSV, and DS2's rates", why, strings.Join(names, ", "))
}

// DefaultSpoolLimit is how much Spool copies when nothing else is said.
const DefaultSpoolLimit = 16 << 30

// Spool copies what can only be read once to a temporary file that has no name
// and goes with its closing, also by a kill. More than limit bytes are an error;
// 0 is DefaultSpoolLimit. Parquet, whose beginning says little and end says all,
// needs it when it comes compressed.
func Spool(r io.Reader, limit int64) (f *os.File, size int64, err error) {
	if limit <= 0 {
		limit = DefaultSpoolLimit
	}
	if f, err = os.CreateTemp("", "dhalion-*"); err != nil {
		return nil, 0, fmt.Errorf("file: spool: %w", err)
	}
	if err = os.Remove(f.Name()); err == nil {
		size, err = io.Copy(f, io.LimitReader(r, limit+1))
	}
	if err == nil && size > limit {
		err = fmt.Errorf("it comes to more than %d MiB; --spool-limit allows more", limit>>20)
	}
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("file: spool: %w", errors.Join(err, f.Close()))
	}
	return f, size, nil
}

// excerpt quotes the beginning of what may be anything.
func excerpt(b []byte) string {
	const most = 60
	if len(b) > most {
		return fmt.Sprintf("%q…", b[:most])
	}
	return fmt.Sprintf("%q", b)
}
