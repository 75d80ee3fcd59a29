package file

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// The values of a page are decoded here and not by Arrow's reader: that one does
// not end on some malformed runs, and holds all texts of a batch, which a few
// bytes of DELTA_BYTE_ARRAY can make gigabytes of. All loops below end with the
// bytes or with the number of rows asked for, and make no room for what is only
// declared.

// The encodings of values and levels, by their numbers in Parquet.
const (
	encodingPlain           = 0
	encodingPlainDictionary = 2
	encodingRLE             = 3
	encodingDeltaPacked     = 5
	encodingDeltaLength     = 6
	encodingDeltaText       = 7
	encodingDictionary      = 8
	encodingSplit           = 9
)

const (
	// maxDictionary bounds the entries of a dictionary; writers stop at 1 MiB.
	maxDictionary = 1 << 20
	// maxText bounds a text in a cell: four times the longest name.
	maxText = 4 << 10
)

var (
	errPage = errors.New("a page breaks off")
	errRun  = errors.New("a page has a run without values")
)

// physical is how a column's values are stored, and where they go.
type physical int

const (
	physicalInt32 physical = iota
	physicalInt64
	physicalInt96 // a moment, as Impala and old Sparks write it; read as µs
	physicalFloat
	physicalDouble
	physicalText
)

// width is what a plain value takes, at least.
func (p physical) width() int {
	return [...]int{4, 8, 12, 4, 8, 4}[p]
}

// cells are a column's values of a frame, as ints, floats, texts or, of names,
// their numbers: those of its physical type.
type cells struct {
	kind   physical
	names  bool
	ints   []int64
	floats []float64
	texts  [][]byte
	ids    []int32
}

func newCells(kind physical, names bool) cells {
	c := cells{kind: kind, names: names}
	switch {
	case names:
		c.ids = make([]int32, frameRows)
	case kind == physicalText:
		c.texts = make([][]byte, frameRows)
	case kind == physicalFloat || kind == physicalDouble:
		c.floats = make([]float64, frameRows)
	default:
		c.ints = make([]int64, frameRows)
	}
	return c
}

// spread moves the values [at, at+present) to the rows of [at, at+len(defs))
// that have one.
func (c *cells) spread(at, present int, defs []int32) {
	switch {
	case c.ids != nil:
		spread(c.ids[at:], present, defs)
	case c.texts != nil:
		spread(c.texts[at:], present, defs)
	case c.floats != nil:
		spread(c.floats[at:], present, defs)
	default:
		spread(c.ints[at:], present, defs)
	}
}

func spread[T any](values []T, present int, defs []int32) {
	var none T
	for i := len(defs) - 1; i >= 0; i-- {
		if defs[i] == 0 {
			values[i] = none
			continue
		}
		present--
		values[i] = values[present]
	}
}

// page is one whose values are being read.
type page struct {
	rows     int // left
	encoding int64
	levels   runs
	data     []byte // of plain values, or the texts of a delta encoding
	count    int    // values in data, of the encoding that splits their bytes
	taken    int    // of those
	indices  runs
	lengths  deltas // of texts
	prefixes deltas
	numbers  deltas
	last     []byte // text, of which the next takes a prefix
}

// words are a dictionary.
type words struct {
	n      int
	ints   []int64
	floats []float64
	texts  [][]byte
	ids    []int32 // of names; -1: not looked at
}

// newWords reads a dictionary page.
func newWords(kind physical, data []byte, n int64) (*words, error) {
	if n > maxDictionary || n > int64(len(data)/kind.width()) {
		return nil, fmt.Errorf("a dictionary declares %d values in %d bytes", n, len(data))
	}
	w := &words{n: int(n)}
	var err error
	switch kind {
	case physicalText:
		w.texts, w.ids = make([][]byte, n), make([]int32, n)
		_, err = plainTexts(w.texts, data)
		for i := range w.ids {
			w.ids[i] = -1
		}
	case physicalFloat, physicalDouble:
		w.floats = make([]float64, n)
		_, err = plainFloats(w.floats, data, kind)
	default:
		w.ints = make([]int64, n)
		_, err = plainInts(w.ints, data, kind)
	}
	return w, err
}

// newPage looks at the beginning of a data page: its levels, and what an encoding
// has before its values.
func newPage(h pageHeader, data []byte, kind physical, optional bool, dictionary *words) (*page, error) {
	p := &page{rows: int(h.values), encoding: h.encoding}
	switch {
	case h.kind == pageDataV2:
		if optional {
			p.levels = runs{data: data[h.repetition : h.repetition+h.definition], width: 1}
		}
		data = data[h.repetition+h.definition:]
	case optional:
		if h.definition != encodingRLE {
			return nil, fmt.Errorf("definition levels have the encoding %d, which is not read", h.definition)
		}
		if len(data) < 4 {
			return nil, errPage
		}
		n := int64(binary.LittleEndian.Uint32(data))
		if data = data[4:]; n > int64(len(data)) {
			return nil, errPage
		}
		p.levels = runs{data: data[:n], width: 1}
		data = data[n:]
	}
	p.data = data
	bad := func() error {
		return fmt.Errorf("a page has the encoding %d, which is not read for its type", h.encoding)
	}
	var err error
	switch h.encoding {
	case encodingPlain:
	case encodingPlainDictionary, encodingDictionary:
		if dictionary == nil {
			return nil, errors.New("a page refers to a dictionary that is not there")
		}
		if len(data) > 0 { // else all its cells are null
			if data[0] > 32 {
				return nil, fmt.Errorf("a page has indices of %d bits", data[0])
			}
			p.indices = runs{data: data[1:], width: uint(data[0])}
		}
	case encodingDeltaPacked:
		if kind != physicalInt32 && kind != physicalInt64 {
			return nil, bad()
		}
		p.numbers, err = newDeltas(data)
	case encodingDeltaLength, encodingDeltaText:
		if kind != physicalText {
			return nil, bad()
		}
		if h.encoding == encodingDeltaText {
			if p.prefixes, err = newDeltas(p.data); err != nil {
				return nil, err
			}
			if p.data, err = p.prefixes.end(); err != nil {
				return nil, err
			}
		}
		if p.lengths, err = newDeltas(p.data); err != nil {
			return nil, err
		}
		p.data, err = p.lengths.end()
	case encodingSplit:
		if kind == physicalText || kind == physicalInt96 || len(data)%kind.width() != 0 {
			return nil, bad()
		}
		p.count = len(data) / kind.width()
	default:
		return nil, bad()
	}
	return p, err
}

// take decodes the next n values into c, from a place on.
func (p *page) take(c *cells, at, n int, dictionary *words, texts *texts) (err error) {
	switch p.encoding {
	case encodingPlainDictionary, encodingDictionary:
		return p.look(c, at, n, dictionary, texts)
	case encodingDeltaPacked:
		for i := at; i < at+n; i++ {
			v, err := p.numbers.next()
			if err != nil {
				return err
			}
			if c.kind == physicalInt32 {
				v = int64(int32(v))
			}
			c.ints[i] = v
		}
		return nil
	case encodingDeltaLength, encodingDeltaText:
		return p.deltaTexts(c, at, n, texts)
	case encodingSplit:
		return p.split(c, at, n)
	}
	switch {
	case c.kind == physicalText && c.names:
		for i := at; i < at+n; i++ {
			var one [1][]byte
			if p.data, err = plainTexts(one[:], p.data); err != nil {
				return err
			}
			if c.ids[i], err = texts.id(text(one[0])); err != nil {
				return err
			}
		}
	case c.kind == physicalText:
		p.data, err = plainTexts(c.texts[at:at+n], p.data)
	case c.floats != nil:
		p.data, err = plainFloats(c.floats[at:at+n], p.data, c.kind)
	default:
		p.data, err = plainInts(c.ints[at:at+n], p.data, c.kind)
	}
	return err
}

// look follows indices into the dictionary.
func (p *page) look(c *cells, at, n int, dictionary *words, texts *texts) error {
	var buf [frameRows]int32
	indices := buf[:n]
	if err := p.indices.fill(indices); err != nil {
		return err
	}
	for _, k := range indices {
		if uint32(k) >= uint32(dictionary.n) {
			return fmt.Errorf("the index %d of a dictionary of %d", uint32(k), dictionary.n)
		}
	}
	switch {
	case c.ids != nil:
		for i, k := range indices {
			id := dictionary.ids[k]
			if id < 0 {
				var err error
				if id, err = texts.id(text(dictionary.texts[k])); err != nil {
					return err
				}
				dictionary.ids[k] = id
			}
			c.ids[at+i] = id
		}
	case c.texts != nil:
		for i, k := range indices {
			c.texts[at+i] = dictionary.texts[k]
		}
	case c.floats != nil:
		dst := c.floats[at : at+n]
		for i, k := range indices {
			dst[i] = dictionary.floats[k]
		}
	default:
		dst := c.ints[at : at+n]
		for i, k := range indices {
			dst[i] = dictionary.ints[k]
		}
	}
	return nil
}

// deltaTexts reads texts whose lengths stand before them, and perhaps how much of
// the one before each begins with.
func (p *page) deltaTexts(c *cells, at, n int, texts *texts) error {
	for i := at; i < at+n; i++ {
		length, err := p.lengths.next()
		if err != nil {
			return err
		}
		prefix := int64(0)
		if p.encoding == encodingDeltaText {
			if prefix, err = p.prefixes.next(); err != nil {
				return err
			}
		}
		if length < 0 || length > int64(len(p.data)) || prefix < 0 || prefix > int64(len(p.last)) {
			return errPage
		}
		if length+prefix > maxText {
			return fmt.Errorf("a text of %d bytes is longer than %d", length+prefix, maxText)
		}
		v := p.data[:length]
		p.data = p.data[length:]
		if p.encoding == encodingDeltaText {
			v = append(append(make([]byte, 0, prefix+length), p.last[:prefix]...), v...)
			p.last = v
		}
		if c.ids == nil {
			c.texts[i] = v
		} else if c.ids[i], err = texts.id(text(v)); err != nil {
			return err
		}
	}
	return nil
}

// split reads values whose bytes are apart: all first bytes, then all second ones.
func (p *page) split(c *cells, at, n int) error {
	if n > p.count-p.taken {
		return errPage
	}
	width := c.kind.width()
	for i := range n {
		var v uint64
		for b := range width {
			v |= uint64(p.data[b*p.count+p.taken+i]) << (8 * b)
		}
		switch c.kind {
		case physicalInt32:
			c.ints[at+i] = int64(int32(v))
		case physicalInt64:
			c.ints[at+i] = int64(v)
		case physicalFloat:
			c.floats[at+i] = float64(math.Float32frombits(uint32(v)))
		default:
			c.floats[at+i] = math.Float64frombits(v)
		}
	}
	p.taken += n
	return nil
}

// plainTexts reads texts with their lengths before them, without copying them,
// and gives what follows.
func plainTexts(dst [][]byte, data []byte) ([]byte, error) {
	for i := range dst {
		if len(data) < 4 {
			return nil, errPage
		}
		n := binary.LittleEndian.Uint32(data)
		if data = data[4:]; uint64(n) > uint64(len(data)) {
			return nil, errPage
		}
		if n > maxText {
			return nil, fmt.Errorf("a text of %d bytes is longer than %d", n, maxText)
		}
		dst[i] = data[:n:n]
		data = data[n:]
	}
	return data, nil
}

func plainFloats(dst []float64, data []byte, kind physical) ([]byte, error) {
	size := len(dst) * kind.width()
	if len(data) < size {
		return nil, errPage
	}
	if kind == physicalFloat {
		for i := range dst {
			dst[i] = float64(math.Float32frombits(binary.LittleEndian.Uint32(data[4*i:])))
		}
	} else {
		for i := range dst {
			dst[i] = math.Float64frombits(binary.LittleEndian.Uint64(data[8*i:]))
		}
	}
	return data[size:], nil
}

func plainInts(dst []int64, data []byte, kind physical) ([]byte, error) {
	size := len(dst) * kind.width()
	if len(data) < size {
		return nil, errPage
	}
	switch kind {
	case physicalInt32:
		for i := range dst {
			dst[i] = int64(int32(binary.LittleEndian.Uint32(data[4*i:])))
		}
	case physicalInt64:
		for i := range dst {
			dst[i] = int64(binary.LittleEndian.Uint64(data[8*i:]))
		}
	default:
		// Nanoseconds of the day, then the Julian day; 1970 began on day 2,440,588.
		const perDay = 86_400_000_000
		for i := range dst {
			days := int64(binary.LittleEndian.Uint32(data[12*i+8:])) - 2_440_588
			dst[i] = days*perDay + floorDiv(int64(binary.LittleEndian.Uint64(data[12*i:])), 1000)
		}
	}
	return data[size:], nil
}

// runs reads Parquet's hybrid of repeated and packed numbers.
type runs struct {
	data  []byte
	width uint // bits of a number, at most 32
	// the run at hand
	left   int
	value  int32
	packed []byte // nil: value, repeated
	bit    int    // of packed
}

// next begins a run; false when there is none.
func (r *runs) next() (bool, error) {
	if len(r.data) == 0 {
		return false, nil
	}
	head, n := binary.Uvarint(r.data)
	if n <= 0 || head > math.MaxInt32 {
		return false, errPage
	}
	r.data = r.data[n:]
	if head>>1 == 0 {
		return false, errRun
	}
	if head&1 == 0 {
		size := int(r.width+7) / 8
		if size > len(r.data) {
			return false, errPage
		}
		var v uint32
		for i := range size {
			v |= uint32(r.data[i]) << (8 * i)
		}
		r.left, r.value, r.packed = int(head>>1), int32(v), nil
		r.data = r.data[size:]
		return true, nil
	}
	// Groups of eight numbers; the last may be cut where the page ends.
	size := min(int(head>>1)*int(r.width), len(r.data))
	r.left = int(head>>1) * 8
	if r.width > 0 {
		r.left = min(r.left, size*8/int(r.width))
		if r.left == 0 {
			return false, errPage
		}
	}
	r.packed, r.bit = r.data[:size:size], 0
	r.data = r.data[size:]
	if r.width == 0 {
		r.packed, r.value = nil, 0
	}
	return true, nil
}

// fill reads numbers; it is an error when there are too few.
func (r *runs) fill(dst []int32) error {
	for len(dst) > 0 {
		if r.left == 0 {
			if ok, err := r.next(); err != nil {
				return err
			} else if !ok {
				return errPage
			}
		}
		n := min(len(dst), r.left)
		if r.packed == nil {
			for i := range dst[:n] {
				dst[i] = r.value
			}
		} else {
			r.unpack(dst[:n])
		}
		r.left -= n
		dst = dst[n:]
	}
	return nil
}

func (r *runs) unpack(dst []int32) {
	mask := uint64(1)<<r.width - 1
	bit, width := r.bit, int(r.width)
	for i := range dst {
		at := bit >> 3
		var v uint64
		if at+8 <= len(r.packed) {
			v = binary.LittleEndian.Uint64(r.packed[at:])
		} else {
			for k, b := range r.packed[at:] {
				v |= uint64(b) << (8 * k)
			}
		}
		dst[i] = int32(v >> (bit & 7) & mask)
		bit += width
	}
	r.bit = bit
}

// present reads levels and says how many are not 0.
func (r *runs) present(defs []int32) (int, error) {
	// Mostly there are no nulls: one run.
	if r.packed == nil && r.left >= len(defs) && r.value == 1 {
		for i := range defs {
			defs[i] = 1
		}
		r.left -= len(defs)
		return len(defs), nil
	}
	if err := r.fill(defs); err != nil {
		return 0, err
	}
	n := 0
	for _, d := range defs {
		n += int(d & 1)
	}
	return n, nil
}

// deltas reads DELTA_BINARY_PACKED: blocks of small blocks of differences above
// the block's least, each with bits of its own.
type deltas struct {
	data  []byte
	minis int // in a block
	per   int // numbers in a small block
	left  int // numbers
	value uint64
	first bool

	widths []byte // of the small blocks to come in this block
	least  uint64
	width  uint
	packed []byte
	bit    int
	inMini int // numbers left in the small block
}

func newDeltas(data []byte) (d deltas, err error) {
	number := func() (v uint64) {
		v, n := binary.Uvarint(data)
		if n <= 0 {
			err = errPage
			return 0
		}
		data = data[n:]
		return v
	}
	block, minis, total, first := number(), number(), number(), number()
	switch {
	case err != nil:
		return d, err
	case block == 0 || block > 1<<20 || block%128 != 0 || minis == 0 || minis > block || block%minis != 0 || block/minis%32 != 0:
		return d, fmt.Errorf("a page has blocks of %d differences in %d parts", block, minis)
	case total > math.MaxInt32:
		return d, errPage
	}
	return deltas{data: data, minis: int(minis), per: int(block / minis), left: int(total), value: first>>1 ^ -(first & 1), first: true}, nil
}

// next reads a number.
func (d *deltas) next() (int64, error) {
	if d.left == 0 {
		return 0, errPage
	}
	d.left--
	if d.first {
		d.first = false
		return int64(d.value), nil
	}
	if d.inMini == 0 {
		if err := d.mini(); err != nil {
			return 0, err
		}
	}
	d.inMini--
	d.value += d.least
	if d.width > 0 {
		d.value += d.unpack()
	}
	return int64(d.value), nil
}

// mini begins a small block, and a block where that is due.
func (d *deltas) mini() error {
	if len(d.widths) == 0 {
		v, n := binary.Uvarint(d.data)
		if n <= 0 || len(d.data)-n < d.minis {
			return errPage
		}
		d.least = v>>1 ^ -(v & 1)
		d.widths = d.data[n : n+d.minis]
		d.data = d.data[n+d.minis:]
	}
	d.width, d.widths = uint(d.widths[0]), d.widths[1:]
	size := d.per / 8 * int(d.width)
	if d.width > 64 || size > len(d.data) {
		return errPage
	}
	d.packed, d.data = d.data[:size:size], d.data[size:]
	d.bit, d.inMini = 0, d.per
	return nil
}

func (d *deltas) unpack() uint64 {
	at, shift := d.bit>>3, uint(d.bit&7)
	d.bit += int(d.width)
	var v, over uint64
	if at+8 <= len(d.packed) {
		v = binary.LittleEndian.Uint64(d.packed[at:])
		if at+8 < len(d.packed) {
			over = uint64(d.packed[at+8])
		}
	} else {
		for k, b := range d.packed[at:] {
			v |= uint64(b) << (8 * k)
		}
	}
	v = v>>shift | over<<(64-shift) // a shift by 64 gives 0
	if d.width < 64 {
		v &= 1<<d.width - 1
	}
	return v
}

// end is what follows the numbers, found by passing over the blocks.
func (d *deltas) end() ([]byte, error) {
	if d.left <= 1 {
		return d.data, nil
	}
	data := d.data
	for left := d.left - 1; left > 0; {
		_, n := binary.Uvarint(data)
		if n <= 0 || len(data)-n < d.minis {
			return nil, errPage
		}
		widths := data[n : n+d.minis]
		data = data[n+d.minis:]
		for _, w := range widths {
			if left <= 0 {
				break // the others are not there
			}
			size := d.per / 8 * int(w)
			if w > 64 || size > len(data) {
				return nil, errPage
			}
			data = data[size:]
			left -= d.per
		}
	}
	return data, nil
}
