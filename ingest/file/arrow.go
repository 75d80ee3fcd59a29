package file

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/ipc"
	"github.com/apache/arrow/go/v15/arrow/memory"
	flatbuffers "github.com/google/flatbuffers/go"
	"github.com/klauspost/compress/zstd"

	"github.com/dhalion-go/dhalion/ingest"
)

const (
	arrowMagic = "ARROW1"

	// maxMetadata bounds the metadata of one message: thousands of columns.
	maxMetadata = 4 << 20
	// maxBatch bounds a record batch with its dictionaries, as stored and as
	// decoded: ten million rows of the long form.
	maxBatch = 512 << 20

	maxColumns = 10_000
)

// NewArrow is the history in Arrow IPC, a file (also called Feather) or a stream,
// with the columns of canonical CSV: a row per value with metric and value, or a
// row per target and time with a column per metric. Times are timestamps of any
// unit (without a zone they are UTC), RFC 3339 texts or whole numbers since 1970;
// names are texts or dictionaries; instances are whole numbers, of a float column
// too, or texts; values are numbers. Null and NaN are unknown. Batches come with
// lz4, zstd or no compression and at most 512 MiB each. Name is for messages.
//
// A file is read like the stream that it contains, from its beginning. Some
// programs write files (polars' categoricals) whose messages only the footer at
// their end puts in order: those can be read if r is an io.ReaderAt that has a Size.
func NewArrow(name string, r io.Reader, opts Options) ingest.Source {
	return &arrowFile{tabular: newTabular(name, opts), r: r}
}

type arrowFile struct {
	tabular
	r io.Reader
}

// Read is ingest.Source's.
func (a *arrowFile) Read(ctx context.Context, to *ingest.Collector) error {
	limit := &limitedAllocator{}
	var next func() (arrow.Record, error)
	err := guarded(func() (err error) {
		var schema *arrow.Schema
		if schema, next, err = a.open(limit); err != nil {
			return err
		}
		columns := make([]string, schema.NumFields())
		for i, f := range schema.Fields() {
			columns[i] = f.Name
		}
		if a.layout, err = newLayout(columns, a.opts.Job != ""); err != nil {
			return err
		}
		return checkTypes(schema, a.layout)
	})
	if err != nil {
		return fmt.Errorf("file: read %s: %w", a.name, err)
	}
	return a.run(ctx, to, func(emit func(*frame) error) error {
		s := newSlicer(a.layout, emit)
		for {
			limit.left = maxBatch
			rec, err := next()
			if err == io.EOF {
				return nil
			}
			if err != nil {
				return err
			}
			if err := s.batch(rec); err != nil {
				return err
			}
		}
	})
}

// sized is what can be read at any place.
type sized interface {
	io.ReaderAt
	Size() int64
}

// open reads the schema and says how to read the batches. Records are valid until
// the next one.
func (a *arrowFile) open(limit *limitedAllocator) (*arrow.Schema, func() (arrow.Record, error), error) {
	limit.left = maxBatch
	m := &messages{r: bufio.NewReaderSize(a.r, 256<<10)}
	if at, ok := a.r.(sized); ok {
		m.most = at.Size()
	}
	if err := m.begin(); err != nil {
		return nil, nil, err
	}
	if m.file {
		if m.unordered() {
			if at, ok := a.r.(sized); ok {
				return openByFooter(at, limit)
			}
			return nil, nil, errors.New("its messages are not in order, and only a file that is not compressed can be read from its end")
		}
	}
	r, err := ipc.NewReaderFromMessageReader(m, ipc.WithAllocator(limit))
	if err != nil {
		return nil, nil, m.reason(err)
	}
	next := func() (arrow.Record, error) {
		rec, err := r.Read()
		if err != nil && err != io.EOF {
			err = m.reason(err)
		}
		return rec, err
	}
	return r.Schema(), next, nil
}

// openByFooter reads a file by the footer at its end.
func openByFooter(r sized, limit *limitedAllocator) (*arrow.Schema, func() (arrow.Record, error), error) {
	const tail = 4 + int64(len(arrowMagic))
	var end [tail]byte
	if r.Size() < 8+tail {
		return nil, nil, errFooter
	}
	if _, err := r.ReadAt(end[:], r.Size()-tail); err != nil && err != io.EOF {
		return nil, nil, err
	}
	n := int64(binary.LittleEndian.Uint32(end[:]))
	if string(end[4:]) != arrowMagic || n < 8 || n > r.Size()-tail-8 {
		return nil, nil, errFooter
	}
	if n > maxMetadata {
		return nil, nil, fmt.Errorf("it declares a footer of %d bytes, more than %d", n, maxMetadata)
	}
	data := make([]byte, n)
	if _, err := r.ReadAt(data, r.Size()-tail-n); err != nil {
		return nil, nil, err
	}
	footer := flatbuffers.Table{Bytes: data, Pos: flatbuffers.GetUOffsetT(data)}
	schema, ok := below(footer, 6)
	if !ok {
		return nil, nil, errors.New("its footer has no schema")
	}
	if err := checkSchema(schema); err != nil {
		return nil, nil, err
	}
	check := func(slot flatbuffers.VOffsetT, i int) error { return checkBlock(r, footer, slot, i) }
	_, dictionaries, err := vector(footer, 8, 24)
	for i := 0; i < dictionaries && err == nil; i++ {
		err = check(8, i)
	}
	if err != nil {
		return nil, nil, err
	}
	if _, _, err := vector(footer, 10, 24); err != nil {
		return nil, nil, err
	}
	f, err := ipc.NewFileReader(io.NewSectionReader(r, 0, r.Size()), ipc.WithAllocator(limit))
	if err != nil {
		return nil, nil, err
	}
	i := 0
	next := func() (arrow.Record, error) {
		if i == f.NumRecords() {
			return nil, io.EOF
		}
		if err := check(10, i); err != nil {
			return nil, err
		}
		i++
		return f.Record(i - 1)
	}
	return f.Schema(), next, nil
}

// checkBlock looks at a message that the footer refers to, before Arrow reads it.
func checkBlock(r sized, footer flatbuffers.Table, slot flatbuffers.VOffsetT, i int) error {
	first, _, err := vector(footer, slot, 24)
	if err != nil {
		return err
	}
	at := first + flatbuffers.UOffsetT(24*i)
	offset, metaSize, size := footer.GetInt64(at), int64(footer.GetInt32(at+8)), footer.GetInt64(at+16)
	if offset < 0 || metaSize < 8 || metaSize > maxMetadata || size < 0 || size > maxBatch || offset > r.Size()-metaSize-size {
		return fmt.Errorf("its footer says that %d bytes are at %d, and the file has %d", size, offset, r.Size())
	}
	meta, body := make([]byte, metaSize), make([]byte, size)
	if _, err := r.ReadAt(meta, offset); err != nil {
		return err
	}
	if _, err := r.ReadAt(body, offset+metaSize); err != nil && err != io.EOF {
		return err
	}
	// The length before the metadata has 4 bytes, or 8 with a mark.
	if meta = meta[4:]; binary.LittleEndian.Uint32(meta) == uint32(metaSize-8) {
		meta = meta[4:]
	}
	kind, _, err := checkMessage(meta)
	if err != nil {
		return err
	}
	return checkBody(meta, kind, body)
}

// checkTypes refuses a table with columns of types that say nothing here.
func checkTypes(schema *arrow.Schema, l *layout) error {
	typeOf := func(column int) arrow.DataType { return schema.Field(column).Type }
	bad := func(column int, want string) error {
		return fmt.Errorf("column %s is %s, and should be %s", schema.Field(column).Name, typeOf(column), want)
	}
	text := func(t arrow.DataType) bool {
		switch t.ID() {
		case arrow.STRING, arrow.LARGE_STRING, arrow.BINARY, arrow.LARGE_BINARY, arrow.STRING_VIEW, arrow.BINARY_VIEW, arrow.NULL:
			return true
		}
		return false
	}
	for name, i := range l.columns {
		t := typeOf(i)
		number := arrow.IsInteger(t.ID()) || arrow.IsFloating(t.ID()) || t.ID() == arrow.NULL
		switch name {
		case timeColumn:
			if t.ID() != arrow.TIMESTAMP && t.ID() != arrow.INT64 && t.ID() != arrow.INT32 && t.ID() != arrow.UINT32 && (t.ID() == arrow.NULL || !text(t)) {
				return bad(i, "a timestamp, int64 or text")
			}
		case instanceColumn:
			if !number && !text(t) {
				return bad(i, "a whole number or text")
			}
		case valueColumn:
			if !number {
				return bad(i, "a number")
			}
		default:
			if d, ok := t.(*arrow.DictionaryType); ok {
				t = d.ValueType
			}
			if !text(t) {
				return bad(i, "text or a dictionary of texts")
			}
		}
	}
	for _, i := range l.places {
		if t := typeOf(i); !arrow.IsInteger(t.ID()) && !arrow.IsFloating(t.ID()) && t.ID() != arrow.NULL {
			return bad(i, "a number")
		}
	}
	return nil
}

// slicer cuts record batches into frames.
type slicer struct {
	layout *layout
	emit   func(*frame) error
	texts  *texts
	// the numbers of each name column's dictionary, as long as that is the same
	dictionaries [keyCount]dictionary
	frames       [2]*frame // one is filled while the other is taken
	turn         int
	row          int64
	zero         []int32
}

type dictionary struct {
	of  arrow.Array
	ids []int32 // -1: not looked at
}

func newSlicer(l *layout, emit func(*frame) error) *slicer {
	s := &slicer{layout: l, emit: emit, texts: newTexts(), row: 1, zero: make([]int32, frameRows)}
	for i := range s.frames {
		s.frames[i] = newFrame(l)
	}
	return s
}

func newFrame(l *layout) *frame {
	f := &frame{times: make([]int64, frameRows), instance: make([]int32, frameRows)}
	for k := range f.keys {
		f.keys[k] = make([]int32, frameRows)
	}
	for range max(1, len(l.metrics)) {
		f.values = append(f.values, make([]float64, frameRows))
	}
	for i := range f.instance {
		f.instance[i] = noInstance
	}
	return f
}

var keyColumns = [keyCount]string{keyJob: jobColumn, keyComponent: componentColumn, keyWorker: workerColumn, keyMetric: metricColumn}

func (s *slicer) batch(rec arrow.Record) error {
	rows := int(rec.NumRows())
	for from := 0; from < rows; from += frameRows {
		n := min(frameRows, rows-from)
		f := s.frames[s.turn]
		s.turn = 1 - s.turn
		f.n, f.first, f.bad = n, s.row, f.bad[:0]
		s.row += int64(n)
		column := func(name string) (arrow.Array, bool) {
			i, ok := s.layout.columns[name]
			if !ok {
				return nil, false
			}
			return rec.Column(i), true
		}
		if a, ok := column(timeColumn); ok {
			if err := s.times(f, a, from); err != nil {
				return err
			}
		}
		if a, ok := column(instanceColumn); ok {
			if err := s.instances(f, a, from); err != nil {
				return err
			}
		}
		for k, name := range keyColumns {
			if a, ok := column(name); ok {
				if err := s.names(f.keys[k][:n], k, a, from); err != nil {
					return fmt.Errorf("column %s: %w", name, err)
				}
			}
		}
		if a, ok := column(valueColumn); ok {
			if err := numbers(f.values[0][:n], a, from); err != nil {
				return fmt.Errorf("column %s: %w", valueColumn, err)
			}
		}
		for k, i := range s.layout.places {
			if err := numbers(f.values[k][:n], rec.Column(i), from); err != nil {
				return fmt.Errorf("column %s: %w", s.layout.metrics[k], err)
			}
		}
		f.names = s.texts.names
		if err := s.emit(f); err != nil {
			return err
		}
	}
	return nil
}

// times fills in the times of the rows from a number on.
func (s *slicer) times(f *frame, a arrow.Array, from int) error {
	dst := f.times[:f.n]
	nulls := a.NullN() != 0
	for i := range dst {
		if nulls && a.IsNull(from+i) {
			f.spoil(i, timeColumn, "the time is empty")
		}
	}
	switch a := a.(type) {
	case *array.Timestamp:
		c := clocks[a.DataType().(*arrow.TimestampType).Unit]
		for i, n := range a.TimestampValues()[from : from+len(dst)] {
			at, ok := c.micros(int64(n))
			if !ok {
				f.spoil(i, timeColumn, "the time is outside the years 1 to 9999")
			}
			dst[i] = at
		}
	case *array.Int64:
		for i, n := range a.Int64Values()[from : from+len(dst)] {
			dst[i] = epochMicros(n)
		}
	case *array.Int32:
		for i, n := range a.Int32Values()[from : from+len(dst)] {
			dst[i] = epochMicros(int64(n))
		}
	case *array.Uint32:
		for i, n := range a.Uint32Values()[from : from+len(dst)] {
			dst[i] = epochMicros(int64(n))
		}
	default:
		text, err := reader(a)
		if err != nil {
			return err
		}
		last, at := "", int64(0)
		for i := range dst {
			if a.IsNull(from + i) {
				continue
			}
			v := text(from + i)
			if v != last || i == 0 {
				if at, err = parseTime(bytes.TrimSpace([]byte(v))); err != nil {
					f.spoil(i, timeColumn, "%w", err)
					last = ""
					continue
				}
				last = v
			}
			dst[i] = at
		}
	}
	return nil
}

var clocks = map[arrow.TimeUnit]clock{arrow.Second: {1e6, 1}, arrow.Millisecond: {1e3, 1}, arrow.Microsecond: {1, 1}, arrow.Nanosecond: {1, 1e3}}

// instances fills in the instances' numbers.
func (s *slicer) instances(f *frame, a arrow.Array, from int) error {
	dst := f.instance[:f.n]
	if a, ok := a.(*array.Int32); ok {
		nulls := a.NullN() != 0
		for i, v := range a.Int32Values()[from : from+len(dst)] {
			switch {
			case nulls && a.IsNull(from+i):
				v = noInstance
			case v < 0 || v > ingest.MaxInstance:
				f.spoilInstance(i, float64(v))
			}
			dst[i] = v
		}
		return nil
	}
	if text, err := reader(a); err == nil {
		for i := range dst {
			dst[i] = noInstance
			if a.IsNull(from + i) {
				continue
			}
			if v := string(bytes.TrimSpace([]byte(text(from + i)))); v != "" {
				n, err := parseInstance(v)
				if err != nil {
					f.spoil(i, instanceColumn, "%w", err)
				}
				dst[i] = int32(n)
			}
		}
		return nil
	}
	var buf [frameRows]float64
	values := buf[:len(dst)]
	if err := numbers(values, a, from); err != nil {
		return fmt.Errorf("column %s: %w", instanceColumn, err)
	}
	for i, v := range values {
		dst[i] = f.instanceOf(i, v)
	}
	return nil
}

// instanceOf reads an instance's number from a column of floats, as a table
// program makes of whole numbers with gaps.
func (f *frame) instanceOf(row int, v float64) int32 {
	switch {
	case v != v:
		return noInstance
	case v < 0 || v > ingest.MaxInstance || v != math.Trunc(v):
		f.spoilInstance(row, v)
		return noInstance
	}
	return int32(v)
}

func (f *frame) spoilInstance(row int, v float64) {
	switch {
	case v < 0:
		f.spoil(row, instanceColumn, "the instance %v is negative", v)
	case v > ingest.MaxInstance:
		f.spoil(row, instanceColumn, "the instance %v is above %d", v, ingest.MaxInstance)
	default:
		f.spoil(row, instanceColumn, "the instance %v is no whole number", v)
	}
}

// names fills in the numbers of a column's names.
func (s *slicer) names(dst []int32, key int, a arrow.Array, from int) error {
	if d, ok := a.(*array.Dictionary); ok {
		return s.indices(dst, key, d, from)
	}
	if a.DataType().ID() == arrow.NULL {
		clear(dst)
		return nil
	}
	text, err := reader(a)
	if err != nil {
		return err
	}
	nulls := a.NullN() != 0
	last, id := "", int32(0)
	for i := range dst {
		if nulls && a.IsNull(from+i) {
			dst[i] = 0
			continue
		}
		if v := text(from + i); v != last {
			if id, err = s.texts.id(v); err != nil {
				return err
			}
			last = v
		}
		dst[i] = id
	}
	return nil
}

// indices follows a dictionary's indices. The same dictionary, which may come
// with many batches, is looked at once.
func (s *slicer) indices(dst []int32, key int, a *array.Dictionary, from int) error {
	d := &s.dictionaries[key]
	of := a.Dictionary()
	if d.of == nil || d.of.Data() != of.Data() {
		d.of = of
		d.ids = d.ids[:0]
		for range of.Len() {
			d.ids = append(d.ids, -1)
		}
	}
	nulls := a.NullN() != 0
	var raw [frameRows]int32
	indices := raw[:len(dst)]
	if err := indexes(indices, a.Indices(), from); err != nil {
		return err
	}
	var text func(int) string
	for i, k := range indices {
		if nulls && a.IsNull(from+i) {
			dst[i] = 0
			continue
		}
		if uint(k) >= uint(len(d.ids)) {
			return fmt.Errorf("index %d of %d names", k, len(d.ids))
		}
		id := d.ids[k]
		if id < 0 {
			if text == nil {
				var err error
				if text, err = reader(of); err != nil {
					return err
				}
			}
			id = 0
			if !of.IsNull(int(k)) {
				var err error
				if id, err = s.texts.id(text(int(k))); err != nil {
					return err
				}
			}
			d.ids[k] = id
		}
		dst[i] = id
	}
	return nil
}

func indexes(dst []int32, a arrow.Array, from int) error {
	to := from + len(dst)
	switch a := a.(type) {
	case *array.Int32:
		copy(dst, a.Int32Values()[from:to])
	case *array.Int8:
		convert(dst, a.Int8Values()[from:to])
	case *array.Uint8:
		convert(dst, a.Uint8Values()[from:to])
	case *array.Int16:
		convert(dst, a.Int16Values()[from:to])
	case *array.Uint16:
		convert(dst, a.Uint16Values()[from:to])
	case *array.Uint32:
		convert(dst, a.Uint32Values()[from:to])
	case *array.Int64:
		for i, v := range a.Int64Values()[from:to] {
			dst[i] = int32(min(max(v, -1), math.MaxInt32))
		}
	case *array.Uint64:
		for i, v := range a.Uint64Values()[from:to] {
			dst[i] = int32(min(v, math.MaxInt32))
		}
	default:
		return fmt.Errorf("indices of type %s", a.DataType())
	}
	return nil
}

// numbers fills in values; null is NaN.
func numbers(dst []float64, a arrow.Array, from int) error {
	to := from + len(dst)
	switch a := a.(type) {
	case *array.Float64:
		copy(dst, a.Float64Values()[from:to])
	case *array.Float32:
		convert(dst, a.Float32Values()[from:to])
	case *array.Float16:
		for i := range dst {
			dst[i] = float64(a.Value(from + i).Float32())
		}
	case *array.Int8:
		convert(dst, a.Int8Values()[from:to])
	case *array.Int16:
		convert(dst, a.Int16Values()[from:to])
	case *array.Int32:
		convert(dst, a.Int32Values()[from:to])
	case *array.Int64:
		convert(dst, a.Int64Values()[from:to])
	case *array.Uint8:
		convert(dst, a.Uint8Values()[from:to])
	case *array.Uint16:
		convert(dst, a.Uint16Values()[from:to])
	case *array.Uint32:
		convert(dst, a.Uint32Values()[from:to])
	case *array.Uint64:
		convert(dst, a.Uint64Values()[from:to])
	case *array.Null:
		for i := range dst {
			dst[i] = math.NaN()
		}
		return nil
	default:
		return fmt.Errorf("values of type %s", a.DataType())
	}
	if a.NullN() != 0 {
		for i := range dst {
			if a.IsNull(from + i) {
				dst[i] = math.NaN()
			}
		}
	}
	return nil
}

func convert[D, S int8 | int16 | int32 | int64 | uint8 | uint16 | uint32 | uint64 | float32 | float64](dst []D, src []S) {
	for i, v := range src {
		dst[i] = D(v)
	}
}

// reader gives the texts of an array, valid as long as the array.
func reader(a arrow.Array) (func(int) string, error) {
	switch a := a.(type) {
	case *array.String:
		return a.Value, nil
	case *array.LargeString:
		return a.Value, nil
	case *array.StringView:
		return a.Value, nil
	case *array.Binary:
		return func(i int) string { return text(a.Value(i)) }, nil
	case *array.LargeBinary:
		return func(i int) string { return text(a.Value(i)) }, nil
	case *array.BinaryView:
		return func(i int) string { return text(a.Value(i)) }, nil
	}
	return nil, fmt.Errorf("texts of type %s", a.DataType())
}

// limitedAllocator panics when the declared sizes of buffers come to more than
// is left, which is set anew for every batch. What a batch gives back the next
// one takes: batches are large and mostly alike.
type limitedAllocator struct {
	left int
	free [][]byte
}

const (
	keepBuffers = 64
	keepBytes   = 64 << 10 // smaller ones are not worth it
)

// Allocate is memory.Allocator's. The bytes are not cleared: what is read into
// them fills them.
func (a *limitedAllocator) Allocate(size int) []byte {
	if size < 0 || size > a.left {
		panic(fmt.Sprintf("a batch takes more than %d MiB; write smaller ones", maxBatch>>20))
	}
	a.left -= size
	for i, b := range a.free {
		if cap(b) >= size && cap(b)/2 <= size {
			a.free = slices.Delete(a.free, i, i+1)
			return b[:size]
		}
	}
	return make([]byte, size)
}

// Reallocate is memory.Allocator's.
func (a *limitedAllocator) Reallocate(size int, b []byte) []byte {
	if size <= cap(b) {
		return b[:size]
	}
	grown := a.Allocate(size)
	copy(grown, b)
	a.Free(b)
	return grown
}

// Free is memory.Allocator's.
func (a *limitedAllocator) Free(b []byte) {
	if cap(b) >= keepBytes && len(a.free) < keepBuffers {
		a.free = append(a.free, b[:0])
	}
}

// messages frames an IPC stream. Arrow's own reader makes room for whatever
// length a message declares; here memory grows only as bytes come, and what
// would make Arrow take more than they can hold is refused first.
type messages struct {
	r    *bufio.Reader
	file bool  // of the file format: a footer follows the stream
	most int64 // bytes that can come; 0: not known
	body []byte
	err  error
}

// Retain is ipc.MessageReader's.
func (m *messages) Retain() {}

// Release is ipc.MessageReader's.
func (m *messages) Release() {}

// reason is the first error of the messages, which Arrow may have wrapped or
// lost, else err.
func (m *messages) reason(err error) error {
	if m.err != nil && m.err != io.EOF {
		return m.err
	}
	return err
}

// begin passes over the file format's magic bytes.
func (m *messages) begin() error {
	head, err := m.r.Peek(8)
	if err != nil && err != io.EOF {
		return err
	}
	if bytes.HasPrefix(head, []byte(arrowMagic)) {
		m.file = true
		_, err = m.r.Discard(len(head))
		return err
	}
	return nil
}

// unordered reports whether a file's first message is not where a stream has it.
func (m *messages) unordered() bool {
	head, err := m.r.Peek(4)
	return err == nil && binary.LittleEndian.Uint32(head) != 0xFFFFFFFF
}

// Message is ipc.MessageReader's: the next message, io.EOF after the last.
func (m *messages) Message() (*ipc.Message, error) {
	if m.err != nil {
		return nil, m.err
	}
	msg, err := m.message()
	m.err = err
	return msg, err
}

func (m *messages) message() (*ipc.Message, error) {
	const continuation = 0xFFFFFFFF
	var head [8]byte
	if n, err := io.ReadFull(m.r, head[:]); err == io.EOF {
		if m.file {
			return nil, errFooter
		}
		return nil, io.EOF // a stream may end without saying so
	} else if err == io.ErrUnexpectedEOF {
		return nil, fmt.Errorf("it breaks off after %d bytes of a message", n)
	} else if err != nil {
		return nil, err
	}
	if binary.LittleEndian.Uint32(head[:]) != continuation {
		if !m.file {
			return nil, errors.New("it is no Arrow IPC stream of version 0.15 or later")
		}
		// Some writers put a file's footer where the stream should say its end.
		return nil, m.footer(head[:])
	}
	n := binary.LittleEndian.Uint32(head[4:])
	if n == 0 {
		if m.file {
			return nil, m.footer(nil)
		}
		return nil, io.EOF
	}
	if n > maxMetadata {
		return nil, fmt.Errorf("a message declares %d bytes of metadata, more than %d", n, maxMetadata)
	}
	meta, err := m.bytes(nil, int64(n))
	if err != nil {
		return nil, err
	}
	kind, size, err := checkMessage(meta)
	if err != nil {
		return nil, err
	}
	if size < 0 || size > maxBatch {
		return nil, fmt.Errorf("a batch declares %d bytes, more than %d MiB; write smaller ones", size, maxBatch>>20)
	}
	// The columns of a batch are copied out of it before the next is read; what
	// belongs to a dictionary stays in use.
	var into []byte
	if kind == headerRecord {
		into = m.body
	}
	body, err := m.bytes(into, size)
	if err != nil {
		return nil, err
	}
	if kind == headerRecord {
		m.body = body
	}
	if err := checkBody(meta, kind, body); err != nil {
		return nil, err
	}
	return ipc.NewMessage(memory.NewBufferBytes(meta), memory.NewBufferBytes(body)), nil
}

var errFooter = errors.New("it breaks off: a file ends with a footer and ARROW1")

// footer reads to the end of a file and looks whether there is a footer, of which
// begun is read already. It says again what has been read, so it is not needed.
func (m *messages) footer(begun []byte) error {
	total, tail := int64(len(begun)), slices.Clone(begun)
	buf := make([]byte, 32<<10)
	for {
		n, err := m.r.Read(buf)
		total += int64(n)
		tail = append(tail, buf[:n]...)
		tail = tail[max(0, len(tail)-10):]
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
	}
	if len(tail) < 10 || string(tail[4:]) != arrowMagic || int64(binary.LittleEndian.Uint32(tail)) != total-10 {
		return errFooter
	}
	return io.EOF
}

// bytes reads n bytes into what there is. Memory at most doubles what has come,
// unless it is known that there are as many.
func (m *messages) bytes(into []byte, n int64) ([]byte, error) {
	into = into[:0]
	if n <= m.most && n > int64(cap(into)) {
		into = make([]byte, 0, n)
	}
	for int64(len(into)) < n {
		if len(into) == cap(into) {
			grown := make([]byte, len(into), min(n, max(1<<20, 2*int64(cap(into)))))
			copy(grown, into)
			into = grown
		}
		part := into[len(into):min(n, int64(cap(into)))]
		k, err := io.ReadFull(m.r, part)
		into = into[:len(into)+k]
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return nil, fmt.Errorf("it breaks off: a message declares %d bytes, there are %d", n, len(into))
		}
		if err != nil {
			return nil, err
		}
	}
	return into, nil
}

// The metadata of Arrow's messages are flatbuffers. What follows looks at the
// numbers for which Arrow's reader makes room before it looks for what they
// count. A field's slot is 4 + 2 times its number in the Arrow format's
// Message.fbs and Schema.fbs. Reading past the end panics; see guarded.

const (
	headerSchema     = 1
	headerDictionary = 2
	headerRecord     = 3

	codecLZ4  = 0
	codecZstd = 1
)

func below(t flatbuffers.Table, slot flatbuffers.VOffsetT) (flatbuffers.Table, bool) {
	o := t.Offset(slot)
	if o == 0 {
		return flatbuffers.Table{}, false
	}
	return flatbuffers.Table{Bytes: t.Bytes, Pos: t.Indirect(t.Pos + flatbuffers.UOffsetT(o))}, true
}

// vector is the place of a vector's first element and their number, which must
// be in the metadata with the given size each.
func vector(t flatbuffers.Table, slot flatbuffers.VOffsetT, size int) (flatbuffers.UOffsetT, int, error) {
	o := flatbuffers.UOffsetT(t.Offset(slot))
	if o == 0 {
		return 0, 0, nil
	}
	n := t.VectorLen(o)
	if n < 0 || n > len(t.Bytes)/size {
		return 0, 0, fmt.Errorf("a message declares %d elements in %d bytes of metadata", n, len(t.Bytes))
	}
	return t.Vector(o), n, nil
}

// checkMessage says of what kind a message is and how long its body.
func checkMessage(meta []byte) (kind byte, body int64, err error) {
	message := flatbuffers.Table{Bytes: meta, Pos: flatbuffers.GetUOffsetT(meta)}
	header, ok := below(message, 8)
	if !ok {
		return 0, 0, errors.New("a message has no header")
	}
	kind = message.GetByteSlot(6, 0)
	switch kind {
	case headerSchema:
		err = checkSchema(header)
	case headerDictionary, headerRecord:
	default:
		err = fmt.Errorf("a message is of kind %d", kind)
	}
	return kind, message.GetInt64Slot(10, 0), err
}

func checkSchema(schema flatbuffers.Table) error {
	if schema.GetInt16Slot(4, 0) != 0 {
		return errors.New("it is big-endian")
	}
	if err := checkPairs(schema, 8); err != nil {
		return err
	}
	return checkFields(schema, 6, 0)
}

func checkFields(parent flatbuffers.Table, slot flatbuffers.VOffsetT, depth int) error {
	if depth > 8 {
		return errors.New("columns are nested deeper than 8")
	}
	first, n, err := vector(parent, slot, 4)
	if err != nil {
		return err
	}
	if n > maxColumns {
		return fmt.Errorf("it declares %d columns, more than %d", n, maxColumns)
	}
	for i := range n {
		field := element(parent, first, i)
		if _, _, err := vector(field, 4, 1); err != nil {
			return err
		}
		if err := checkPairs(field, 16); err != nil {
			return err
		}
		if err := checkFields(field, 14, depth+1); err != nil {
			return err
		}
	}
	return nil
}

func element(t flatbuffers.Table, first flatbuffers.UOffsetT, i int) flatbuffers.Table {
	return flatbuffers.Table{Bytes: t.Bytes, Pos: t.Indirect(first + flatbuffers.UOffsetT(4*i))}
}

func checkPairs(t flatbuffers.Table, slot flatbuffers.VOffsetT) error {
	first, n, err := vector(t, slot, 4)
	for i := 0; i < n && err == nil; i++ {
		pair := element(t, first, i)
		if _, _, err = vector(pair, 4, 1); err == nil {
			_, _, err = vector(pair, 6, 1)
		}
	}
	return err
}

// checkBody looks at the buffers of a batch, and at the compressed ones before
// Arrow decompresses them.
func checkBody(meta []byte, kind byte, body []byte) error {
	message := flatbuffers.Table{Bytes: meta, Pos: flatbuffers.GetUOffsetT(meta)}
	batch, ok := below(message, 8)
	if ok && kind == headerDictionary {
		batch, ok = below(batch, 6)
	}
	if kind == headerSchema {
		return nil
	}
	if !ok {
		return errors.New("a batch has no data")
	}
	if rows := batch.GetInt64Slot(4, 0); rows < 0 || rows > math.MaxInt32 {
		return fmt.Errorf("a batch declares %d rows", rows)
	}
	for slot, size := range map[flatbuffers.VOffsetT]int{6: 16, 8: 16, 12: 8} { // nodes, buffers, counts of views
		if _, _, err := vector(batch, slot, size); err != nil {
			return err
		}
	}
	compression, compressed := below(batch, 10)
	codec := byte(codecLZ4)
	if compressed {
		codec = compression.GetByteSlot(4, codecLZ4)
	}
	first, n, err := vector(batch, 8, 16)
	if err != nil {
		return err
	}
	for i := range n {
		at := first + flatbuffers.UOffsetT(16*i)
		offset, length := batch.GetInt64(at), batch.GetInt64(at+8)
		if offset < 0 || length < 0 || offset > int64(len(body)) || length > int64(len(body))-offset {
			return fmt.Errorf("a buffer is outside its batch of %d bytes", len(body))
		}
		if !compressed || length == 0 {
			continue
		}
		data := body[offset : offset+length]
		if length < 8 {
			return fmt.Errorf("a compressed buffer has %d bytes", length)
		}
		want := int64(binary.LittleEndian.Uint64(data))
		if want != -1 && codec == codecZstd {
			if err := checkZstd(data[8:], want); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkZstd walks the frames of zstd data that should come to want bytes. A
// frame says first how much room it needs, and its decoder makes it.
func checkZstd(data []byte, want int64) error {
	for len(data) > 0 {
		var h zstd.Header
		if err := h.Decode(data); err != nil {
			return fmt.Errorf("zstd: %w", err)
		}
		if h.Skippable {
			size := int64(h.HeaderSize) + int64(h.SkippableSize)
			if size > int64(len(data)) {
				return errors.New("zstd: it breaks off")
			}
			data = data[size:]
			continue
		}
		if h.HasFCS && h.FrameContentSize > uint64(want) || h.WindowSize > maxWindow {
			return fmt.Errorf("zstd: a frame asks for %d bytes and a window of %d; %d bytes were declared", h.FrameContentSize, h.WindowSize, want)
		}
		data = data[h.HeaderSize:]
		for last := false; !last; {
			if len(data) < 3 {
				return errors.New("zstd: it breaks off")
			}
			block := int(data[0]) | int(data[1])<<8 | int(data[2])<<16
			last = block&1 != 0
			size := block >> 3
			if block>>1&3 == 1 { // one byte, repeated
				size = 1
			}
			if size > len(data)-3 {
				return errors.New("zstd: it breaks off")
			}
			data = data[3+size:]
		}
		if h.HasCheckSum {
			if len(data) < 4 {
				return errors.New("zstd: it breaks off")
			}
			data = data[4:]
		}
	}
	return nil
}
