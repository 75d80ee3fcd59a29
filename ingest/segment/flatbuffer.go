package segment

import (
	"encoding/binary"
	"fmt"
)

// The metadata of Arrow's messages are flatbuffers. These few lines read what
// decides how much memory Arrow's reader takes: its generated code is internal,
// and it makes room for a declared number of fields before it looks for them,
// which for a broken file can be more than the machine has, and no panic that
// could be caught. Offsets are from the Arrow format's Message.fbs and
// Schema.fbs; a field's slot is 4 + 2 times its number.
//
// Reading past the end panics; see decode.
type flatTable struct {
	data []byte
	at   int
}

func rootTable(data []byte) flatTable {
	return flatTable{data, int(binary.LittleEndian.Uint32(data))}
}

// field is the position of a field's value, 0 when it is absent.
func (t flatTable) field(slot int) int {
	vtable := t.at - int(int32(binary.LittleEndian.Uint32(t.data[t.at:])))
	if slot >= int(binary.LittleEndian.Uint16(t.data[vtable:])) {
		return 0
	}
	offset := int(binary.LittleEndian.Uint16(t.data[vtable+slot:]))
	if offset == 0 {
		return 0
	}
	return t.at + offset
}

func (t flatTable) byte(slot int) byte {
	if p := t.field(slot); p != 0 {
		return t.data[p]
	}
	return 0
}

func (t flatTable) int64(slot int) int64 {
	if p := t.field(slot); p != 0 {
		return int64(binary.LittleEndian.Uint64(t.data[p:]))
	}
	return 0
}

// table follows a field that is a table.
func (t flatTable) table(slot int) (flatTable, bool) {
	p := t.field(slot)
	if p == 0 {
		return flatTable{}, false
	}
	return flatTable{t.data, p + int(binary.LittleEndian.Uint32(t.data[p:]))}, true
}

// vector is the position of the first element, and how many there are, of a
// field that is a vector or a string.
func (t flatTable) vector(slot int) (first, n int) {
	p := t.field(slot)
	if p == 0 {
		return 0, 0
	}
	p += int(binary.LittleEndian.Uint32(t.data[p:]))
	return p + 4, int(binary.LittleEndian.Uint32(t.data[p:]))
}

// element follows an element of a vector of tables.
func (t flatTable) element(first, i int) flatTable {
	p := first + 4*i
	return flatTable{t.data, p + int(binary.LittleEndian.Uint32(t.data[p:]))}
}

const (
	headerSchema     = 1
	headerDictionary = 2
	headerRecord     = 3

	typeInt       = 2
	typeFloat     = 3
	typeUTF8      = 5
	typeTimestamp = 10

	codecLZ4 = 0
)

// checkMessage refuses metadata for which Arrow's reader would take memory that
// the message's length does not bound, and says how long the body is.
func checkMessage(meta []byte) (body int64, err error) {
	message := rootTable(meta)
	header, ok := message.table(8)
	if !ok {
		return 0, fmt.Errorf("a message has no header")
	}
	switch kind := message.byte(6); kind {
	case headerSchema:
		err = checkSchema(header)
	case headerDictionary:
		batch, ok := header.table(6)
		if !ok {
			return 0, fmt.Errorf("a dictionary has no data")
		}
		err = checkBatch(batch)
	case headerRecord:
		err = checkBatch(header)
	default:
		err = fmt.Errorf("a message is of kind %d", kind)
	}
	return message.int64(10), err
}

func checkSchema(schema flatTable) error {
	if schema.byte(4) != 0 {
		return fmt.Errorf("it is big-endian")
	}
	if err := checkPairs(schema, 8); err != nil {
		return err
	}
	first, n := schema.vector(6)
	if n > maxFields {
		return fmt.Errorf("it declares %d columns", n)
	}
	for i := range n {
		field := schema.element(first, i)
		if _, length := field.vector(4); length > maxName {
			return fmt.Errorf("column %d has a name of %d bytes", i, length)
		}
		switch kind := field.byte(8); kind {
		case typeInt, typeFloat, typeUTF8, typeTimestamp:
		default:
			return fmt.Errorf("column %d is of type %d", i, kind)
		}
		if _, children := field.vector(14); children != 0 {
			return fmt.Errorf("column %d has %d children", i, children)
		}
		if _, pairs := field.vector(16); pairs != 0 {
			return fmt.Errorf("column %d has metadata", i)
		}
	}
	return nil
}

// checkPairs looks at the keys and values that a schema carries.
func checkPairs(schema flatTable, slot int) error {
	first, n := schema.vector(slot)
	if n > 16 {
		return fmt.Errorf("it declares %d metadata", n)
	}
	for i := range n {
		pair := schema.element(first, i)
		for _, part := range []int{4, 6} {
			if _, length := pair.vector(part); length > maxName {
				return fmt.Errorf("metadata %d has %d bytes", i, length)
			}
		}
	}
	return nil
}

// checkBatch refuses zstd: Encode does not write it, and its frames can ask for
// windows of any size.
func checkBatch(batch flatTable) error {
	if compression, ok := batch.table(10); ok && compression.byte(4) != codecLZ4 {
		return fmt.Errorf("it is compressed with codec %d, want lz4", compression.byte(4))
	}
	return nil
}
