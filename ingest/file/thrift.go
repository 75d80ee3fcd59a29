package file

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// compact reads Thrift's compact protocol, in which Parquet writes its footer and
// the headers of its pages: as much of it as says how much memory Arrow's reader
// would take. Lists declare how many elements follow, and room is made for them
// before they are looked for.
type compact struct {
	data     []byte
	pos      int
	elements int // of all lists, at most maxElements
}

const (
	maxNesting  = 16
	maxElements = 1 << 20
)

// The types of fields that have no bytes of their own or are looked into.
const (
	thriftTrue   = 1
	thriftFalse  = 2
	thriftByte   = 3
	thriftI64    = 6
	thriftDouble = 7
	thriftBinary = 8
	thriftList   = 9
	thriftSet    = 10
	thriftMap    = 11
	thriftStruct = 12
)

var errThrift = errors.New("the metadata break off")

func (c *compact) byte() (byte, error) {
	if c.pos >= len(c.data) {
		return 0, errThrift
	}
	c.pos++
	return c.data[c.pos-1], nil
}

func (c *compact) uvarint() (uint64, error) {
	v, n := binary.Uvarint(c.data[c.pos:])
	if n <= 0 {
		return 0, errThrift
	}
	c.pos += n
	return v, nil
}

// integer reads a number of any width beyond a byte.
func (c *compact) integer() (int64, error) {
	v, err := c.uvarint()
	return int64(v>>1) ^ -int64(v&1), err
}

// fields calls f for each field of a structure; f reads the value or skips it.
func (c *compact) fields(f func(id int64, kind byte) error) error {
	id := int64(0)
	for {
		head, err := c.byte()
		if err != nil {
			return err
		}
		if head == 0 {
			return nil
		}
		if delta := int64(head >> 4); delta != 0 {
			id += delta
		} else if id, err = c.integer(); err != nil {
			return err
		}
		if err := f(id, head&15); err != nil {
			return err
		}
	}
}

// list reads how many elements a list has, and of which type.
func (c *compact) list() (n int, kind byte, err error) {
	head, err := c.byte()
	if err != nil {
		return 0, 0, err
	}
	size := uint64(head >> 4)
	if size == 15 {
		if size, err = c.uvarint(); err != nil {
			return 0, 0, err
		}
	}
	if size > uint64(len(c.data)-c.pos) {
		return 0, 0, fmt.Errorf("the metadata declare %d elements in %d bytes", size, len(c.data)-c.pos)
	}
	if c.elements += int(size); c.elements > maxElements {
		return 0, 0, fmt.Errorf("the metadata declare more than %d elements", maxElements)
	}
	return int(size), head & 15, nil
}

// skip passes over a value.
func (c *compact) skip(kind byte, depth int) error {
	if depth > maxNesting {
		return fmt.Errorf("the metadata are nested deeper than %d", maxNesting)
	}
	pass := func(n uint64) error {
		if n > uint64(len(c.data)-c.pos) {
			return errThrift
		}
		c.pos += int(n)
		return nil
	}
	switch {
	case kind == thriftTrue || kind == thriftFalse:
		return nil
	case kind == thriftByte:
		return pass(1)
	case kind > thriftByte && kind <= thriftI64:
		_, err := c.uvarint()
		return err
	case kind == thriftDouble:
		return pass(8)
	case kind == thriftBinary:
		n, err := c.uvarint()
		if err != nil {
			return err
		}
		return pass(n)
	case kind == thriftList || kind == thriftSet:
		n, of, err := c.list()
		if err != nil {
			return err
		}
		for range n {
			if of == thriftTrue || of == thriftFalse { // in a list they have a byte
				of = thriftByte
			}
			if err := c.skip(of, depth+1); err != nil {
				return err
			}
		}
		return nil
	case kind == thriftStruct:
		return c.fields(func(_ int64, kind byte) error { return c.skip(kind, depth+1) })
	}
	// Parquet has no maps.
	return fmt.Errorf("the metadata have a value of type %d", kind)
}

// checkFooter refuses a footer for which Arrow's reader would take memory beyond
// proportion.
func checkFooter(data []byte) error {
	c := &compact{data: data}
	return c.fields(func(id int64, kind byte) error {
		if id != 2 || kind != thriftList { // FileMetaData.schema
			return c.skip(kind, 0)
		}
		n, of, err := c.list()
		if err != nil {
			return err
		}
		if n > maxColumns {
			return fmt.Errorf("it declares %d columns, more than %d", n, maxColumns)
		}
		for range n {
			if err := c.skip(of, 0); err != nil {
				return err
			}
		}
		return nil
	})
}

// pageHeader is a PageHeader with the one of its kind. A missing number is 0.
type pageHeader struct {
	kind                     int64
	uncompressed, compressed int64
	values, nulls, rows      int64
	encoding                 int64
	definition, repetition   int64 // encodings; of a page of version 2 lengths
	plain                    bool  // the values of a page of version 2 are not compressed
}

const (
	pageData       = 0
	pageDictionary = 2
	pageDataV2     = 3
)

// readPageHeader reads the header that data begins with and says how long it is.
func readPageHeader(data []byte) (h pageHeader, n int, err error) {
	c := &compact{data: data}
	numbers := func(of map[int64]*int64) func(id int64, kind byte) error {
		return func(id int64, kind byte) (err error) {
			into := of[id]
			if into == nil || kind < thriftByte || kind > thriftI64 {
				return c.skip(kind, 1)
			}
			*into, err = c.integer()
			return err
		}
	}
	top := numbers(map[int64]*int64{1: &h.kind, 2: &h.uncompressed, 3: &h.compressed})
	err = c.fields(func(id int64, kind byte) error {
		if kind != thriftStruct {
			return top(id, kind)
		}
		switch id {
		case 5:
			return c.fields(numbers(map[int64]*int64{1: &h.values, 2: &h.encoding, 3: &h.definition, 4: &h.repetition}))
		case 7:
			return c.fields(numbers(map[int64]*int64{1: &h.values, 2: &h.encoding}))
		case 8:
			of := numbers(map[int64]*int64{1: &h.values, 2: &h.nulls, 3: &h.rows, 4: &h.encoding, 5: &h.definition, 6: &h.repetition})
			return c.fields(func(id int64, kind byte) error {
				if id == 7 {
					h.plain = kind == thriftFalse
				}
				return of(id, kind)
			})
		}
		return c.skip(kind, 1)
	})
	return h, c.pos, err
}
