package segment

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math"
	"time"

	"github.com/apache/arrow/go/v15/arrow"
	"github.com/apache/arrow/go/v15/arrow/array"
	"github.com/apache/arrow/go/v15/arrow/ipc"
	"github.com/apache/arrow/go/v15/arrow/memory"

	"github.com/dhalion-go/dhalion"
)

// A segment is an Arrow IPC stream of a schema, the dictionaries and one record
// batch. Its columns are the keys that the kind of target has, in the order of
// keyFields, then time, then the metrics by name. The schema's metadata says
// what wrote it, the job and the kind of target.
const (
	formatKey  = "dhalion.segment"
	formatName = "1"
	jobKey     = "job"
	kindKey    = "kind"

	componentField = "component"
	instanceField  = "instance"
	workerField    = "worker"
	timeField      = "time"
)

var (
	nameType = &arrow.DictionaryType{IndexType: arrow.PrimitiveTypes.Int32, ValueType: arrow.BinaryTypes.String}
	timeType = &arrow.TimestampType{Unit: arrow.Microsecond, TimeZone: "UTC"}

	// The years 1 to 9999, in which RFC 3339 can write every time.
	minMicros = time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC).UnixMicro()
	maxMicros = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC).UnixMicro() - 1
)

// keyFields are the columns that say what a row of a kind is about. An
// instance's worker is not a key, but where it ran.
func keyFields(kind dhalion.TargetKind) []arrow.Field {
	switch kind {
	case dhalion.KindComponent:
		return []arrow.Field{{Name: componentField, Type: nameType}}
	case dhalion.KindInstance:
		return []arrow.Field{
			{Name: componentField, Type: nameType},
			{Name: instanceField, Type: arrow.PrimitiveTypes.Int32},
			{Name: workerField, Type: nameType},
		}
	case dhalion.KindWorker:
		return []arrow.Field{{Name: workerField, Type: nameType}}
	}
	return nil
}

// Encode writes a table as Arrow IPC, lz4 compressed, with its catalogue entry.
// Equal tables give equal bytes. It refuses an empty table, one that crosses
// midnight UTC or the years 1 to 9999, and infinite values. Seq is left 0.
func Encode(t *Table) (dhalion.Segment, error) {
	seg, err := encode(t)
	if err != nil {
		return dhalion.Segment{}, fmt.Errorf("segment: encode %s table of %s: %w", t.kind, t.job, err)
	}
	return seg, nil
}

func encode(t *Table) (dhalion.Segment, error) {
	if err := checkKind(t.job, t.kind); err != nil {
		return dhalion.Segment{}, err
	}
	t = t.tidy()
	from, to, ok := t.Bounds()
	switch {
	case !ok:
		return dhalion.Segment{}, fmt.Errorf("it has no rows")
	case from < minMicros || to > maxMicros:
		return dhalion.Segment{}, fmt.Errorf("a time is outside the years 1 to 9999")
	case day(from) != day(to):
		return dhalion.Segment{}, fmt.Errorf("it crosses midnight UTC")
	}
	known := 0
	for i, column := range t.columns {
		for _, v := range column {
			if math.IsInf(v, 0) {
				return dhalion.Segment{}, fmt.Errorf("%s has an infinite value", t.metrics[i])
			}
			if v == v {
				known++
			}
		}
	}

	fields := keyFields(t.kind)
	columns := keyColumns(t)
	fields = append(fields, arrow.Field{Name: timeField, Type: timeType})
	columns = append(columns, fixed(timeType, len(t.times), arrow.Int64Traits.CastToBytes(t.times)))
	for i, m := range t.metrics {
		fields = append(fields, arrow.Field{Name: string(m), Type: arrow.PrimitiveTypes.Float64})
		columns = append(columns, fixed(arrow.PrimitiveTypes.Float64, len(t.times), arrow.Float64Traits.CastToBytes(t.columns[i])))
	}
	meta := arrow.NewMetadata([]string{formatKey, jobKey, kindKey}, []string{formatName, string(t.job), string(t.kind)})
	schema := arrow.NewSchema(fields, &meta)

	var out bytes.Buffer
	w := ipc.NewWriter(&out, ipc.WithSchema(schema), ipc.WithLZ4())
	if err := w.Write(array.NewRecord(schema, columns, int64(len(t.times)))); err != nil {
		return dhalion.Segment{}, err
	}
	if err := w.Close(); err != nil {
		return dhalion.Segment{}, err
	}
	sum := sha256.Sum256(out.Bytes())
	return dhalion.Segment{
		Job:    t.job,
		Kind:   t.kind,
		From:   time.UnixMicro(from).UTC(),
		To:     time.UnixMicro(to).UTC(),
		Rows:   len(t.times),
		Values: known,
		Hash:   hex.EncodeToString(sum[:]),
		Bytes:  out.Bytes(),
	}, nil
}

// keyColumns spreads the targets over their rows. A target's rows repeat the
// same numbers, which lz4 makes nothing of.
func keyColumns(t *Table) []arrow.Array {
	switch t.kind {
	case dhalion.KindComponent:
		return []arrow.Array{targetNames(t, func(x dhalion.Target) string { return x.Component })}
	case dhalion.KindInstance:
		instances := make([]int32, len(t.times))
		for _, s := range t.spans {
			for row := s.Start; row < s.End; row++ {
				instances[row] = int32(s.Target.Instance)
			}
		}
		workers, names := t.workers, t.names
		if workers == nil {
			workers, names = make([]int32, len(t.times)), []string{""}
		}
		return []arrow.Array{
			targetNames(t, func(x dhalion.Target) string { return x.Component }),
			fixed(arrow.PrimitiveTypes.Int32, len(instances), arrow.Int32Traits.CastToBytes(instances)),
			dictionary(workers, names),
		}
	case dhalion.KindWorker:
		return []arrow.Array{targetNames(t, func(x dhalion.Target) string { return x.Worker })}
	}
	return nil
}

// targetNames is the dictionary column of a part of the targets' names. Targets
// of one kind sort by it first, so its values come out sorted and each once.
func targetNames(t *Table, name func(dhalion.Target) string) arrow.Array {
	indices := make([]int32, len(t.times))
	var names []string
	for _, s := range t.spans {
		if n := name(s.Target); len(names) == 0 || names[len(names)-1] != n {
			names = append(names, n)
		}
		for row := s.Start; row < s.End; row++ {
			indices[row] = int32(len(names) - 1)
		}
	}
	return dictionary(indices, names)
}

func dictionary(indices []int32, names []string) arrow.Array {
	b := array.NewStringBuilder(memory.DefaultAllocator)
	b.AppendValues(names, nil)
	return array.NewDictionaryArray(nameType, fixed(arrow.PrimitiveTypes.Int32, len(indices), arrow.Int32Traits.CastToBytes(indices)), b.NewArray())
}

// fixed wraps a column that has no nulls without copying it.
func fixed(dt arrow.DataType, rows int, data []byte) arrow.Array {
	return array.MakeFromData(array.NewData(dt, rows, []*memory.Buffer{nil, memory.NewBufferBytes(data)}, nil, 0, 0))
}
