package file

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"sync"

	"github.com/apache/arrow/go/v15/parquet"
	"github.com/apache/arrow/go/v15/parquet/compress"
	"github.com/apache/arrow/go/v15/parquet/metadata"
	"github.com/apache/arrow/go/v15/parquet/schema"
	"github.com/klauspost/compress/snappy"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"

	"github.com/dhalion-go/dhalion/ingest"
)

const (
	parquetMagic     = "PAR1"
	encryptedParquet = "PARE"

	// maxFooter bounds the footer: the numbers of some hundred thousand pieces.
	maxFooter = 64 << 20
	// maxPage bounds a page, as stored and as decoded; writers aim at 1 MiB.
	maxPage = 128 << 20
	// maxPageHeader bounds a page's header, in which are only two values of any
	// size, the least and the greatest.
	maxPageHeader = 1 << 20
	// maxPages bounds the pages that are held at once, one a column.
	maxPages = 512 << 20
)

// codecLZ4Raw is a codec that Arrow's package has no name for.
const codecLZ4Raw = compress.Compression(7)

// NewParquet is the history in a Parquet file of the given size, with the columns
// that NewArrow takes and any compression but LZO and Hadoop's LZ4. It is read
// page by page, so memory does not grow with its row groups. Name is for messages.
func NewParquet(name string, r io.ReaderAt, size int64, opts Options) ingest.Source {
	return &parquetFile{tabular: newTabular(name, opts), r: r, size: size}
}

type parquetFile struct {
	tabular
	r    io.ReaderAt
	size int64
}

// Read is ingest.Source's.
func (p *parquetFile) Read(ctx context.Context, to *ingest.Collector) error {
	var meta *metadata.FileMetaData
	var columns []*parquetColumn
	err := guarded(func() (err error) {
		footer, err := readFooter(p.r, p.size)
		if err != nil {
			return err
		}
		if meta, err = metadata.NewFileMetaData(footer, nil); err != nil {
			return err
		}
		names := make([]string, meta.Schema.NumColumns())
		for i := range names {
			names[i] = meta.Schema.Column(i).Path()
		}
		if p.layout, err = newLayout(names, p.opts.Job != ""); err != nil {
			return err
		}
		columns, err = parquetColumns(meta.Schema, p.layout)
		return err
	})
	if err != nil {
		return fmt.Errorf("file: read %s: %w", p.name, err)
	}
	return p.run(ctx, to, func(emit func(*frame) error) error {
		d := &parquetDecoder{file: p, meta: meta, columns: columns, texts: newTexts(), emit: emit, row: 1, left: maxPages}
		for i := range d.frames {
			d.frames[i] = newFrame(p.layout)
		}
		for g := range meta.RowGroups {
			if err := d.rowGroup(g); err != nil {
				return err
			}
		}
		return nil
	})
}

// readFooter gives the metadata at a file's end.
func readFooter(r io.ReaderAt, size int64) ([]byte, error) {
	const tail = 8
	if size < int64(len(parquetMagic))+tail {
		return nil, fmt.Errorf("%d bytes are no Parquet file", size)
	}
	var end [tail]byte
	if _, err := r.ReadAt(end[:], size-tail); err != nil && err != io.EOF {
		return nil, err
	}
	switch string(end[4:]) {
	case parquetMagic:
	case encryptedParquet:
		return nil, errors.New("it is encrypted")
	default:
		return nil, errors.New("it breaks off: a Parquet file ends with PAR1")
	}
	n := int64(binary.LittleEndian.Uint32(end[:4]))
	if n > maxFooter || n > size-tail-int64(len(parquetMagic)) {
		return nil, fmt.Errorf("it declares a footer of %d bytes", n)
	}
	footer := make([]byte, n)
	if _, err := r.ReadAt(footer, size-tail-n); err != nil && err != io.EOF {
		return nil, err
	}
	return footer, checkFooter(footer)
}

// parquetColumn is a column that is read.
type parquetColumn struct {
	name     string
	index    int
	descr    *schema.Column
	optional bool
	clock    clock // of a timestamp; zero: a whole number since 1970
	unsigned bool

	fill func(d *parquetDecoder, c *parquetColumn, f *frame) error
	into int // number of the names' column, or of the values'

	cells
	defs  []int32 // of an optional column: 0 where a cell is null
	pages *pages
}

func parquetColumns(s *schema.Schema, l *layout) ([]*parquetColumn, error) {
	var columns []*parquetColumn
	var failed error
	add := func(name string, index int, kind string, into int) {
		descr := s.Column(index)
		c := &parquetColumn{name: name, index: index, descr: descr, into: into, optional: descr.MaxDefinitionLevel() > 0}
		stored := descr.PhysicalType()
		bad := func(want string) {
			failed = errors.Join(failed, fmt.Errorf("column %s is %s, and should be %s", name, describe(descr), want))
		}
		switch t := descr.LogicalType().(type) {
		case schema.DecimalLogicalType, *schema.DecimalLogicalType:
			bad("no decimal")
			return
		case schema.IntLogicalType:
			c.unsigned = !t.IsSigned()
		case *schema.IntLogicalType:
			c.unsigned = !t.IsSigned()
		case schema.TimestampLogicalType:
			c.clock = parquetClocks[t.TimeUnit()]
		case *schema.TimestampLogicalType:
			c.clock = parquetClocks[t.TimeUnit()]
		}
		number := stored == parquet.Types.Int32 || stored == parquet.Types.Int64 || stored == parquet.Types.Float || stored == parquet.Types.Double
		text := stored == parquet.Types.ByteArray
		switch {
		case descr.MaxRepetitionLevel() > 0 || descr.MaxDefinitionLevel() > 1:
			bad("no list and not nested")
		case kind == timeColumn:
			c.fill = (*parquetDecoder).times
			if stored != parquet.Types.Int32 && stored != parquet.Types.Int64 && stored != parquet.Types.Int96 && !text {
				bad("a timestamp, int64 or text")
			}
		case kind == instanceColumn:
			c.fill = (*parquetDecoder).instances
			if !number && !text {
				bad("a whole number or text")
			}
		case kind == valueColumn:
			c.fill = (*parquetDecoder).values
			if !number || c.clock.up != 0 {
				bad("a number")
			}
		default:
			c.fill = (*parquetDecoder).names
			if !text {
				bad("text")
			}
		}
		kinds := map[parquet.Type]physical{
			parquet.Types.Int32: physicalInt32, parquet.Types.Int64: physicalInt64, parquet.Types.Int96: physicalInt96,
			parquet.Types.Float: physicalFloat, parquet.Types.Double: physicalDouble, parquet.Types.ByteArray: physicalText,
		}
		c.cells = newCells(kinds[stored], kind == "" && text)
		if c.optional {
			c.defs = make([]int32, frameRows)
		}
		columns = append(columns, c)
	}
	for _, name := range []string{timeColumn, instanceColumn, valueColumn} {
		if i, ok := l.columns[name]; ok {
			add(name, i, name, 0)
		}
	}
	for k, name := range keyColumns {
		if i, ok := l.columns[name]; ok {
			add(name, i, "", k)
		}
	}
	for k, i := range l.places {
		add(string(l.metrics[k]), i, valueColumn, k)
	}
	return columns, failed
}

var parquetClocks = map[schema.TimeUnitType]clock{schema.TimeUnitMillis: {1e3, 1}, schema.TimeUnitMicros: {1, 1}, schema.TimeUnitNanos: {1, 1e3}}

func describe(c *schema.Column) string {
	if t := c.LogicalType(); t != nil && t.String() != "None" {
		return fmt.Sprintf("%s (%s)", c.PhysicalType(), t)
	}
	return c.PhysicalType().String()
}

// parquetDecoder makes frames of row groups.
type parquetDecoder struct {
	file    *parquetFile
	meta    *metadata.FileMetaData
	columns []*parquetColumn
	texts   *texts
	emit    func(*frame) error
	frames  [2]*frame
	turn    int
	row     int64
	left    int // bytes that pages may still take
}

func (d *parquetDecoder) rowGroup(g int) error {
	group := d.meta.RowGroup(g)
	rows := group.NumRows()
	if rows < 0 {
		return fmt.Errorf("row group %d declares %d rows", g, rows)
	}
	for _, c := range d.columns {
		if err := d.open(c, group); err != nil {
			return fmt.Errorf("row group %d, column %s: %w", g, c.name, err)
		}
	}
	for rows > 0 {
		f := d.frames[d.turn]
		d.turn = 1 - d.turn
		f.n, f.first, f.bad = int(min(rows, frameRows)), d.row, f.bad[:0]
		for _, c := range d.columns {
			if err := c.fill(d, c, f); err != nil {
				return fmt.Errorf("row group %d, column %s: %w", g, c.name, err)
			}
		}
		f.names = d.texts.names
		if err := d.emit(f); err != nil {
			return err
		}
		rows -= int64(f.n)
		d.row += int64(f.n)
	}
	return nil
}

// open begins to read a column's piece of a row group.
func (d *parquetDecoder) open(c *parquetColumn, group *metadata.RowGroupMetaData) error {
	if c.index >= group.NumColumns() {
		return fmt.Errorf("the row group has %d columns", group.NumColumns())
	}
	piece, err := group.ColumnChunk(c.index)
	if err != nil {
		return err
	}
	start, size := piece.DataPageOffset(), piece.TotalCompressedSize()
	if at := piece.DictionaryPageOffset(); piece.HasDictionaryPage() && at > 0 && at < start {
		start = at
	}
	if piece.CryptoMetadata() != nil {
		return errors.New("it is encrypted")
	}
	if piece.FilePath() != "" {
		return errors.New("it is in another file")
	}
	if start < 0 || size < 0 || start > d.file.size || size > d.file.size-start {
		return fmt.Errorf("it is said to be at %d with %d bytes, the file has %d", start, size, d.file.size)
	}
	if c.pages != nil {
		c.pages.done()
	}
	c.pages = &pages{
		decoder: d,
		at:      start,
		end:     start + size,
		codec:   piece.Compression(),
		values:  piece.NumValues(),
		column:  c,
	}
	return nil
}

// read decodes the next n cells; nulls says whether defs has a 0 where a cell is
// null.
func (c *parquetColumn) read(d *parquetDecoder, n int) (nulls bool, err error) {
	for at := 0; at < n; {
		p := c.pages.page
		if p == nil || p.rows == 0 {
			if err := c.pages.next(); err != nil {
				return false, err
			}
			continue
		}
		m := min(n-at, p.rows)
		present := m
		if c.optional {
			if present, err = p.levels.present(c.defs[at : at+m]); err != nil {
				return false, err
			}
		}
		if err := p.take(&c.cells, at, present, c.pages.dictionary, d.texts); err != nil {
			return false, err
		}
		if present < m {
			nulls = true
			c.spread(at, present, c.defs[at:at+m])
		}
		p.rows -= m
		at += m
	}
	return nulls, nil
}

func (d *parquetDecoder) times(c *parquetColumn, f *frame) error {
	nulls, err := c.read(d, f.n)
	if err != nil {
		return err
	}
	dst := f.times[:f.n]
	null := func(i int) bool { return nulls && c.defs[i] == 0 }
	for i := 0; nulls && i < f.n; i++ {
		if null(i) {
			f.spoil(i, timeColumn, "the time is empty")
		}
	}
	switch {
	case c.kind == physicalText:
		var last []byte
		var at int64
		for i, v := range c.texts[:f.n] {
			if null(i) {
				continue
			}
			if last == nil || !bytes.Equal(last, v) {
				if at, err = parseTime(bytes.TrimSpace(v)); err != nil {
					f.spoil(i, timeColumn, "%w", err)
					last = nil
					continue
				}
				last = v
			}
			dst[i] = at
		}
	case c.kind == physicalInt96:
		copy(dst, c.ints)
	case c.clock.up != 0:
		for i, n := range c.ints[:f.n] {
			at, ok := c.clock.micros(n)
			if !ok {
				f.spoil(i, timeColumn, "the time is outside the years 1 to 9999")
			}
			dst[i] = at
		}
	default:
		for i, n := range c.ints[:f.n] {
			dst[i] = epochMicros(n)
		}
	}
	return nil
}

func (d *parquetDecoder) instances(c *parquetColumn, f *frame) error {
	nulls, err := c.read(d, f.n)
	if err != nil {
		return err
	}
	dst := f.instance[:f.n]
	null := func(i int) bool { return nulls && c.defs[i] == 0 }
	switch c.kind {
	case physicalText:
		for i, v := range c.texts[:f.n] {
			dst[i] = noInstance
			if v := bytes.TrimSpace(v); len(v) > 0 && !null(i) {
				n, err := parseInstance(string(v))
				if err != nil {
					f.spoil(i, instanceColumn, "%w", err)
				}
				dst[i] = int32(n)
			}
		}
	case physicalFloat, physicalDouble:
		for i, v := range c.floats[:f.n] {
			dst[i] = noInstance
			if !null(i) {
				dst[i] = f.instanceOf(i, v)
			}
		}
	default:
		for i, v := range c.ints[:f.n] {
			switch {
			case null(i):
				v = noInstance
			case v < 0 || v > ingest.MaxInstance:
				f.spoilInstance(i, float64(v))
				v = noInstance
			}
			dst[i] = int32(v)
		}
	}
	return nil
}

// values fills in the next cells as numbers; null is NaN.
func (d *parquetDecoder) values(c *parquetColumn, f *frame) error {
	nulls, err := c.read(d, f.n)
	if err != nil {
		return err
	}
	dst := f.values[c.into][:f.n]
	switch {
	case c.floats != nil:
		copy(dst, c.floats)
	case c.unsigned && c.kind == physicalInt32:
		for i, v := range c.ints[:f.n] {
			dst[i] = float64(uint32(v))
		}
	case c.unsigned:
		for i, v := range c.ints[:f.n] {
			dst[i] = float64(uint64(v))
		}
	default:
		convert(dst, c.ints[:f.n])
	}
	for i := 0; nulls && i < f.n; i++ {
		if c.defs[i] == 0 {
			dst[i] = math.NaN()
		}
	}
	return nil
}

// names fills in the numbers of names; that of null is 0.
func (d *parquetDecoder) names(c *parquetColumn, f *frame) error {
	if _, err := c.read(d, f.n); err != nil {
		return err
	}
	copy(f.keys[c.into][:f.n], c.ids)
	return nil
}

// pages reads the pages of a column's piece of a row group. Every size that a page
// or its compressed data declare is held against what there is first.
type pages struct {
	decoder    *parquetDecoder
	column     *parquetColumn
	at, end    int64
	codec      compress.Compression
	values     int64 // not yet in a page
	dictionary *words
	page       *page

	raw, body []byte
	held      int
}

// done gives back what the pages held.
func (p *pages) done() {
	p.decoder.left += p.held
	p.held, p.raw, p.body = 0, nil, nil
}

// room is a slice of a size, the old one if that is large enough.
func (p *pages) room(old []byte, size int64) ([]byte, error) {
	if size <= int64(cap(old)) {
		return old[:size], nil
	}
	take := int(size) - cap(old)
	if take > p.decoder.left {
		return nil, fmt.Errorf("the pages in use take more than %d MiB", maxPages>>20)
	}
	p.decoder.left -= take
	p.held += take
	return make([]byte, size), nil
}

// next reads the next data page.
func (p *pages) next() error {
	if p.values <= 0 || p.at >= p.end {
		return errors.New("it has fewer values than the row group has rows")
	}
	h, err := p.header()
	if err != nil {
		return err
	}
	if h.compressed < 0 || h.uncompressed < 0 || h.values < 0 || h.compressed > p.end-p.at {
		return fmt.Errorf("a page declares %d values in %d bytes, %d compressed, and its piece of the column has %d", h.values, h.uncompressed, h.compressed, p.end-p.at)
	}
	if h.uncompressed > maxPage || h.compressed > maxPage {
		return fmt.Errorf("a page of %d bytes is larger than %d MiB", max(h.uncompressed, h.compressed), maxPage>>20)
	}
	if h.values > p.values && h.kind != pageDictionary {
		return fmt.Errorf("a page declares %d values, and there are %d left", h.values, p.values)
	}
	levels := int64(0)
	if h.kind == pageDataV2 {
		if h.definition < 0 || h.repetition < 0 || h.definition > h.uncompressed || h.repetition > h.uncompressed-h.definition || h.definition+h.repetition > h.compressed {
			return errors.New("a page declares levels longer than it is")
		}
		levels = h.definition + h.repetition // which are not compressed
	}
	if p.raw, err = p.room(p.raw, h.compressed); err != nil {
		return err
	}
	if _, err := p.decoder.file.r.ReadAt(p.raw, p.at); err != nil && err != io.EOF {
		return fmt.Errorf("read %d bytes at %d: %w", len(p.raw), p.at, err)
	}
	p.at += h.compressed
	if h.kind != pageData && h.kind != pageDictionary && h.kind != pageDataV2 {
		return nil // an index
	}
	// Texts of a dictionary, and plain ones that are kept over the end of a page,
	// refer to its bytes: those are not used again.
	body := p.body
	keep := h.kind == pageDictionary || p.column.texts != nil
	if keep {
		body = nil
	}
	if body, err = p.room(body, h.uncompressed); err != nil {
		return err
	}
	if !keep {
		p.body = body
	}
	codec := p.codec
	if h.plain {
		codec = compress.Codecs.Uncompressed
	}
	copy(body, p.raw[:levels])
	if err := decompress(codec, body[levels:], p.raw[levels:]); err != nil {
		return err
	}
	if h.kind == pageDictionary {
		if p.dictionary != nil || p.page != nil {
			return errors.New("a dictionary is not before all values")
		}
		p.dictionary, err = newWords(p.column.kind, body, h.values)
		return err
	}
	if keep {
		p.decoder.left += len(body) // it goes with its last text
		p.held -= len(body)
	}
	p.values -= h.values
	p.page, err = newPage(h, body, p.column.kind, p.column.optional, p.dictionary)
	return err
}

// header reads the next page's header.
func (p *pages) header() (pageHeader, error) {
	for size := int64(4 << 10); ; size *= 8 {
		size = min(size, p.end-p.at)
		buf := make([]byte, size)
		if _, err := p.decoder.file.r.ReadAt(buf, p.at); err != nil && err != io.EOF {
			return pageHeader{}, err
		}
		h, n, err := readPageHeader(buf)
		if err == nil {
			p.at += int64(n)
			return h, nil
		}
		if !errors.Is(err, errThrift) || size == p.end-p.at || size >= maxPageHeader {
			return h, fmt.Errorf("the header of a page at %d: %w", p.at, err)
		}
	}
}

// pageZstd decodes what fits into the room that it is given, and nothing else.
var pageZstd = sync.OnceValues(func() (*zstd.Decoder, error) {
	return zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderMaxMemory(maxPage), zstd.WithDecodeAllCapLimit(true))
})

// decompress fills dst with what src comes to, which must be as much.
func decompress(codec compress.Compression, dst, src []byte) error {
	n := 0
	switch codec {
	case compress.Codecs.Uncompressed:
		if n = len(src); n == len(dst) {
			copy(dst, src)
		}
	case compress.Codecs.Snappy:
		var err error
		if n, err = snappy.DecodedLen(src); err != nil {
			return err
		}
		if n == len(dst) {
			if _, err := snappy.Decode(dst, src); err != nil {
				return err
			}
		}
	case compress.Codecs.Zstd:
		d, err := pageZstd()
		if err != nil {
			return err
		}
		out, err := d.DecodeAll(src, dst[:0:len(dst)])
		if err != nil {
			return err
		}
		if n = len(out); n == len(dst) && n > 0 && &out[0] != &dst[0] {
			copy(dst, out)
		}
	case codecLZ4Raw:
		var err error
		if n, err = lz4.UncompressBlock(src, dst); err != nil {
			return err
		}
	case compress.Codecs.Gzip, compress.Codecs.Brotli:
		c, err := compress.GetCodec(codec)
		if err != nil {
			return err
		}
		r := c.NewReader(bytes.NewReader(src))
		if n, err = io.ReadFull(r, dst); err != nil {
			return errors.Join(err, r.Close())
		}
		if err := r.Close(); err != nil {
			return err
		}
	default:
		return fmt.Errorf("it is compressed with codec %d, which is not read (zstd, snappy, gzip, brotli and lz4_raw are)", codec)
	}
	if n != len(dst) {
		return fmt.Errorf("a page of %d bytes declares %d", n, len(dst))
	}
	return nil
}
