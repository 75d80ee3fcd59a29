package segment

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/ipc"
	"github.com/apache/arrow/go/v15/arrow/memory"

	"github.com/dhalion-go/dhalion"
)

const (
	// maxBytes is far above what Encode writes (about 4 MiB).
	maxBytes = 64 << 20
	// lz4Ratio is the most that an lz4 block can expand: 255 bytes of output a byte.
	lz4Ratio = 255
	// maxDecoded bounds the memory of one decoded segment. MaxCells values, the
	// keys, and Arrow's padding of small buffers stay far below it.
	maxDecoded = 256 << 20

	maxMetadata = 256 << 10 // bytes of one message's metadata
	maxFields   = 256       // columns
	maxName     = 4096      // bytes of a name
)

// Decode reads what Encode wrote. It checks the hash and the catalogue's job,
// kind and rows where they are set, then the schema and that the rows are
// sorted, each (target, time) once, with finite values. Its memory is bounded by
// the length of the bytes, whatever these declare.
func Decode(s dhalion.Segment) (*Table, error) {
	t, err := decode(s)
	if err != nil {
		return nil, fmt.Errorf("segment: decode: %w", err)
	}
	return t, nil
}

func decode(s dhalion.Segment) (t *Table, err error) {
	if s.Hash != "" {
		sum := sha256.Sum256(s.Bytes)
		if got := hex.EncodeToString(sum[:]); got != s.Hash {
			return nil, fmt.Errorf("the bytes do not match their hash: want %s, got %s", s.Hash, got)
		}
	}
	if len(s.Bytes) > maxBytes {
		return nil, fmt.Errorf("%d bytes are more than a segment can have (%d)", len(s.Bytes), maxBytes)
	}
	// Arrow's reader and the flatbuffers below it follow offsets without looking
	// and panic on malformed input. That is an answer about the input, not a
	// fault of the program, so it becomes an error here and nowhere else.
	defer func() {
		if p := recover(); p != nil {
			t, err = nil, fmt.Errorf("malformed Arrow data: %v", p)
		}
	}()
	limit := &limitedAllocator{left: min(maxDecoded, (len(s.Bytes)+1024)*(lz4Ratio+1))}
	r, err := ipc.NewReaderFromMessageReader(&messages{data: s.Bytes}, ipc.WithAllocator(limit))
	if err != nil {
		return nil, err
	}
	job, kind, metrics, err := readSchema(r.Schema())
	if err != nil {
		return nil, err
	}
	rec, err := r.Read()
	if err == io.EOF {
		return nil, fmt.Errorf("there is no record batch")
	}
	if err != nil {
		return nil, err
	}
	// The Go allocator leaves memory to the garbage collector, so the columns
	// outlive the reader, whose counts are not needed.
	t, err = readRecord(rec, job, kind, metrics)
	if err != nil {
		return nil, err
	}
	switch next, err := r.Read(); {
	case err == nil && next != nil:
		return nil, fmt.Errorf("there is more than one record batch")
	case err != nil && err != io.EOF:
		return nil, err
	}
	switch {
	case s.Job != "" && s.Job != job:
		return nil, fmt.Errorf("it is of job %q, the catalogue says %q", job, s.Job)
	case s.Kind != "" && s.Kind != kind:
		return nil, fmt.Errorf("it is about kind %q, the catalogue says %q", kind, s.Kind)
	case s.Rows != 0 && s.Rows != t.Rows():
		return nil, fmt.Errorf("it has %d rows, the catalogue says %d", t.Rows(), s.Rows)
	}
	return t, nil
}

// readSchema accepts exactly the schemas that Encode writes.
func readSchema(schema *arrow.Schema) (job dhalion.JobID, kind dhalion.TargetKind, metrics []dhalion.Metric, err error) {
	meta := schema.Metadata()
	value := func(key string) string {
		v, _ := meta.GetValue(key)
		return v
	}
	if v := value(formatKey); v != formatName {
		return "", "", nil, fmt.Errorf("it is no segment of a version that this program reads (%s %q, want %q)", formatKey, v, formatName)
	}
	job, kind = dhalion.JobID(value(jobKey)), dhalion.TargetKind(value(kindKey))
	if err := checkKind(job, kind); err != nil {
		return "", "", nil, err
	}
	keys := append(keyFields(kind), arrow.Field{Name: timeField, Type: timeType})
	fields := schema.Fields()
	if len(fields) < len(keys) {
		return "", "", nil, fmt.Errorf("%d columns are too few for %s rows", len(fields), kind)
	}
	for i, want := range keys {
		if got := fields[i]; got.Name != want.Name || !arrow.TypeEqual(got.Type, want.Type) {
			return "", "", nil, fmt.Errorf("column %d is %s %s, want %s %s", i, got.Name, got.Type, want.Name, want.Type)
		}
	}
	for _, f := range fields[len(keys):] {
		if f.Type.ID() != arrow.FLOAT64 {
			return "", "", nil, fmt.Errorf("column %s is %s, want float64", f.Name, f.Type)
		}
		m := dhalion.Metric(f.Name)
		if m == "" || len(metrics) > 0 && metrics[len(metrics)-1] >= m {
			return "", "", nil, fmt.Errorf("the metrics are not sorted at %q", m)
		}
		metrics = append(metrics, m)
	}
	return job, kind, metrics, nil
}

func readRecord(rec arrow.Record, job dhalion.JobID, kind dhalion.TargetKind, metrics []dhalion.Metric) (*Table, error) {
	rows := int(rec.NumRows())
	if rows == 0 {
		return nil, fmt.Errorf("it has no rows")
	}
	t := &Table{job: job, kind: kind, metrics: metrics}
	var components, instances, workers []int32
	var componentNames, workerNames []string
	var err error
	column := 0
	if kind == dhalion.KindComponent || kind == dhalion.KindInstance {
		if components, componentNames, err = readNames(rec.Column(column), rows, componentField); err != nil {
			return nil, err
		}
		column++
	}
	if kind == dhalion.KindInstance {
		if instances, err = readInts(rec.Column(column), rows, instanceField); err != nil {
			return nil, err
		}
		column++
	}
	if kind == dhalion.KindInstance || kind == dhalion.KindWorker {
		if workers, workerNames, err = readNames(rec.Column(column), rows, workerField); err != nil {
			return nil, err
		}
		column++
	}
	times, ok := rec.Column(column).(*array.Timestamp)
	if !ok || times.NullN() != 0 || times.Len() != rows {
		return nil, fmt.Errorf("column time has nulls or not every row")
	}
	column++
	t.times = arrow.Int64Traits.CastFromBytes(arrow.TimestampTraits.CastToBytes(times.TimestampValues()))

	for start := 0; start < rows; {
		target := dhalion.Target{Kind: kind, Job: job}
		if components != nil {
			target.Component = componentNames[components[start]]
		}
		if instances != nil {
			target.Instance = int(instances[start])
		}
		if kind == dhalion.KindWorker {
			target.Worker = workerNames[workers[start]]
		}
		if err := checkTarget(target); err != nil {
			return nil, err
		}
		end := start + 1
		for end < rows &&
			(components == nil || components[end] == components[start]) &&
			(instances == nil || instances[end] == instances[start]) &&
			(kind != dhalion.KindWorker || workers[end] == workers[start]) {
			if t.times[end] <= t.times[end-1] {
				return nil, fmt.Errorf("the rows of %s are not in order of time", target)
			}
			end++
		}
		if t.times[start] < minMicros || t.times[end-1] > maxMicros {
			return nil, fmt.Errorf("a time of %s is outside the years 1 to 9999", target)
		}
		if n := len(t.spans); n > 0 && t.spans[n-1].Target.Compare(target) >= 0 {
			return nil, fmt.Errorf("the targets are not sorted at %s", target)
		}
		t.spans = append(t.spans, Span{target, start, end})
		start = end
	}
	if from, to, _ := t.Bounds(); day(from) != day(to) {
		return nil, fmt.Errorf("it crosses midnight UTC")
	}
	if kind == dhalion.KindInstance {
		t.names, t.workers = workerNames, workers
		if len(workerNames) == 0 || workerNames[0] != "" {
			return nil, fmt.Errorf("the names of workers do not begin with the unknown one")
		}
	}
	for i, m := range metrics {
		values, err := readValues(rec.Column(column+i), rows)
		if err != nil {
			return nil, fmt.Errorf("column %s: %w", m, err)
		}
		t.columns = append(t.columns, values)
	}
	return t.tidy(), nil
}

// checkTarget says whether a target of a decoded row is one.
func checkTarget(x dhalion.Target) error {
	bad := false
	switch x.Kind {
	case dhalion.KindComponent:
		bad = x.Component == ""
	case dhalion.KindInstance:
		bad = x.Component == "" || x.Instance < 0
	case dhalion.KindWorker:
		bad = x.Worker == ""
	}
	if bad {
		return fmt.Errorf("a row of kind %s is about no %s", x.Kind, x.Kind)
	}
	return nil
}

// readNames reads a dictionary column whose names are sorted, each once.
func readNames(column arrow.Array, rows int, name string) ([]int32, []string, error) {
	d, ok := column.(*array.Dictionary)
	if !ok {
		return nil, nil, fmt.Errorf("column %s is no dictionary", name)
	}
	dict, ok := d.Dictionary().(*array.String)
	if !ok || dict.NullN() != 0 {
		return nil, nil, fmt.Errorf("column %s is no dictionary of names", name)
	}
	indices, err := readInts(d.Indices(), rows, name)
	if err != nil {
		return nil, nil, err
	}
	names := make([]string, 0, min(dict.Len(), rows+1))
	for i := range dict.Len() {
		n := dict.Value(i)
		if len(n) > maxName || !utf8.ValidString(n) || i > 0 && names[i-1] >= n {
			return nil, nil, fmt.Errorf("column %s: its names are broken or not sorted", name)
		}
		names = append(names, strings.Clone(n))
	}
	for _, i := range indices {
		if i < 0 || int(i) >= len(names) {
			return nil, nil, fmt.Errorf("column %s: name %d of %d", name, i, len(names))
		}
	}
	return indices, names, nil
}

func readInts(column arrow.Array, rows int, name string) ([]int32, error) {
	a, ok := column.(*array.Int32)
	if !ok || a.NullN() != 0 || a.Len() != rows {
		return nil, fmt.Errorf("column %s has nulls or not every row", name)
	}
	return a.Int32Values(), nil
}

// readValues gives a column with every unknown as the one NaN, so that equal
// columns have equal bytes; it copies only where Arrow has nulls.
func readValues(column arrow.Array, rows int) ([]float64, error) {
	a, ok := column.(*array.Float64)
	if !ok || a.Len() != rows {
		return nil, fmt.Errorf("it has not every row")
	}
	values := a.Float64Values()
	if a.NullN() != 0 {
		values = slices.Clone(values)
		for i := range values {
			if a.IsNull(i) {
				values[i] = math.NaN()
			}
		}
	}
	canonical := math.NaN()
	for i, v := range values {
		switch {
		case v != v:
			values[i] = canonical
		case v-v != 0:
			return nil, fmt.Errorf("row %d has an infinite value", i)
		case v == 0:
			values[i] = 0 // also -0
		}
	}
	return values, nil
}

// limitedAllocator panics (see decode) when the declared sizes of buffers come
// to more than the bytes can hold.
type limitedAllocator struct {
	memory.GoAllocator
	left int
}

func (a *limitedAllocator) take(size int) {
	if size < 0 || size > a.left {
		panic("it declares more data than its bytes can hold")
	}
	a.left -= size
}

// Allocate is memory.Allocator's.
func (a *limitedAllocator) Allocate(size int) []byte {
	a.take(size)
	return a.GoAllocator.Allocate(size)
}

// Reallocate is memory.Allocator's.
func (a *limitedAllocator) Reallocate(size int, b []byte) []byte {
	a.take(size)
	return a.GoAllocator.Reallocate(size, b)
}

// messages frames an IPC stream that is in memory, without copying it. Arrow's
// own reader makes room for whatever length a message declares; here a length
// that the bytes do not have is refused first, and so are the vectors in a
// message's metadata for which Arrow would make room.
type messages struct {
	data []byte
}

// Retain is ipc.MessageReader's.
func (r *messages) Retain() {}

// Release is ipc.MessageReader's.
func (r *messages) Release() {}

// Message is ipc.MessageReader's: the next message, io.EOF after the last.
func (r *messages) Message() (*ipc.Message, error) {
	const continuation = 0xFFFFFFFF
	if len(r.data) < 8 || binary.LittleEndian.Uint32(r.data) != continuation {
		return nil, fmt.Errorf("it ends in the middle or is no Arrow IPC stream")
	}
	n := int64(binary.LittleEndian.Uint32(r.data[4:]))
	r.data = r.data[8:]
	if n == 0 {
		if len(r.data) != 0 {
			return nil, fmt.Errorf("%d bytes follow its end", len(r.data))
		}
		r.data = endOfStream
		return nil, io.EOF
	}
	if n > maxMetadata || n > int64(len(r.data)) {
		return nil, fmt.Errorf("a message declares %d bytes of metadata", n)
	}
	meta := r.data[:n:n]
	body, err := checkMessage(meta)
	if err != nil {
		return nil, err
	}
	if body < 0 || body > int64(len(r.data))-n {
		return nil, fmt.Errorf("a message declares %d bytes of data", body)
	}
	msg := ipc.NewMessage(memory.NewBufferBytes(meta), memory.NewBufferBytes(r.data[n:n+body:n+body]))
	r.data = r.data[n+body:]
	return msg, nil
}

// endOfStream is read again when a reader asks once more after the end.
var endOfStream = []byte{0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0}
