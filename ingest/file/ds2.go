package file

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/ingest"
)

// maxDS2Rows bounds the rows of DS2's files that are held at once, some 60 bytes
// each. Its logs have a row per instance and ten seconds.
const maxDS2Rows = 1 << 20

// ds2Metrics are the values of a row, from its fifth field on.
var ds2Metrics = [...]dhalion.Metric{dhalion.TrueRecordsIn, dhalion.TrueRecordsOut, dhalion.RecordsIn, dhalion.RecordsOut}

// NewDS2 is the history in a log of rates as DS2's instrumented engines write it
// and its policy reads it:
//
//	operator_id,instance_id,total_instances,epoch_ts,true_processing_rate,true_output_rate,observed_processing_rate,observed_output_rate
//
// with # before comments and rates in records per second. The true rates become
// true_records_in_per_second and true_records_out_per_second, the observed ones
// records_in_per_second and records_out_per_second, of an instance: ids count from
// one, or from zero where one of the operator is 0. An operator's id may have
// commas in it. An empty rate and NaN are unknown.
//
// Times are in ns since 1970. The k-th times of all instances are one epoch and get
// the earliest of them: each instance ends its epoch when it happens to look. Where
// the instances of a job have a file each, that takes all of the files: see
// [DS2Epochs]. Rows are held until the file ends, at most 1,048,576.
//
// opts.Topology must have as many instances of an operator as the rows say; without
// it topologies are derived, one for each change of the totals, without edges.
func NewDS2(name string, r io.Reader, opts Options) ingest.Source {
	return (*DS2Epochs)(nil).Source(name, r, opts)
}

// ds2Key is an instance as DS2's files name it.
type ds2Key struct {
	operator string
	instance int
}

func (k ds2Key) compare(o ds2Key) int {
	return cmp.Or(cmp.Compare(k.operator, o.operator), cmp.Compare(k.instance, o.instance))
}

type ds2Row struct {
	ds2Key
	total  int
	at     int64 // ns since 1970
	values [len(ds2Metrics)]float64
	line   int
}

// parseDS2 reads a row. The first field is whatever stands before the last seven.
func parseDS2(record []byte) (row ds2Row, missing int, err error) {
	var fields [7][]byte
	rest := record
	for i := len(fields) - 1; i >= 0; i-- {
		comma := bytes.LastIndexByte(rest, ',')
		if comma < 0 {
			return row, 0, fmt.Errorf("the row has %d fields; DS2's have 8: operator_id,instance_id,total_instances,epoch_ts and four rates", len(fields)-i)
		}
		fields[i], rest = trim(rest[comma+1:]), rest[:comma]
	}
	row.operator = string(bytes.TrimSpace(rest))
	if err := ingest.CheckName("operator", row.operator); err != nil {
		return row, 0, err
	}
	if row.instance, err = parseInstance(string(fields[0])); err != nil {
		return row, 0, err
	}
	if row.total, err = parseDS2Total(string(fields[1])); err != nil {
		return row, 0, err
	}
	if row.at, err = strconv.ParseInt(string(fields[2]), 10, 64); err != nil || row.at < 0 {
		return row, 0, fmt.Errorf("the time %s is no number of ns since 1970", excerpt(fields[2]))
	}
	for i, field := range fields[3:] {
		if unknown(field) {
			row.values[i] = math.NaN()
			missing++
			continue
		}
		if row.values[i], err = parseValue(field); err != nil {
			return row, 0, fmt.Errorf("%s: %w", ds2Metrics[i], err)
		}
		if v := row.values[i]; !(v >= 0) || math.IsInf(v, 0) {
			return row, 0, fmt.Errorf("%s: the value %s is no rate: a number from 0", ds2Metrics[i], excerpt(field))
		}
	}
	return row, missing, nil
}

func parseDS2Total(s string) (int, error) {
	n := number([]byte(s))
	if len(s) == 0 || len(s) > 9 || n < 1 || n > ingest.MaxInstance+1 {
		return 0, fmt.Errorf("the number of instances %s is not between 1 and %d", excerpt([]byte(s)), ingest.MaxInstance+1)
	}
	return n, nil
}

// eachDS2 calls good for every row that can be read and bad for every other; what
// they return ends the file.
func eachDS2(ctx context.Context, name string, rows *rows, good func(ds2Row, int) error, bad func(line int, err error) error) error {
	for n := 1; ; n++ {
		if n%4096 == 0 {
			if err := ctx.Err(); err != nil {
				return err
			}
		}
		record, line, _, err := rows.next()
		switch {
		case err == io.EOF:
			return nil
		case errors.Is(err, errLong) || errors.Is(err, errOpen):
			return ingest.RowError{File: name, Line: line, Reason: err.Error()}
		case err != nil:
			return fmt.Errorf("file: read %s near line %d: %w", name, line, err)
		}
		if line == 1 {
			record = bytes.TrimPrefix(record, []byte(byteOrderMark))
		}
		if record = bytes.TrimSpace(record); len(record) == 0 || record[0] == '#' {
			continue
		}
		row, missing, err := parseDS2(record)
		row.line = line
		if err == nil {
			err = good(row, missing)
		} else {
			err = bad(line, err)
		}
		if err != nil {
			return err
		}
	}
}

// DS2Epochs are the epochs of a job whose instances, or epochs, have a file each.
// Give it every file with Add, in any order, and then read each with Source.
type DS2Epochs struct {
	seen  map[ds2Key]map[int64]int // times, each with the total that was said
	rows  int
	built bool

	times  map[ds2Key][]int64 // ascending
	totals map[string][]int   // greatest total of an operator's epochs
	stamps []int64            // ns, of the epochs
	zero   map[string]bool    // operators whose instances count from 0
}

// Add reads the times of a file. Rows that cannot be read count for nothing here;
// whoever reads the file for its values reports them. Name is for messages.
func (e *DS2Epochs) Add(ctx context.Context, name string, r io.Reader) error {
	return eachDS2(ctx, name, newRows(r), func(row ds2Row, _ int) error { return e.add(name, row) }, func(int, error) error { return nil })
}

func (e *DS2Epochs) add(name string, row ds2Row) error {
	if e.rows++; e.rows > maxDS2Rows {
		return ingest.RowError{File: name, Line: row.line, Reason: fmt.Sprintf("more than %d rows of DS2's files at once", maxDS2Rows)}
	}
	if e.seen == nil {
		e.seen = map[ds2Key]map[int64]int{}
	}
	own := e.seen[row.ds2Key]
	if own == nil {
		own = map[int64]int{}
		e.seen[row.ds2Key] = own
	}
	own[row.at] = max(own[row.at], row.total)
	e.built = false
	return nil
}

// build numbers the epochs.
func (e *DS2Epochs) build() {
	if e.built {
		return
	}
	e.built = true
	e.times, e.totals, e.zero, e.stamps = map[ds2Key][]int64{}, map[string][]int{}, map[string]bool{}, nil
	for _, key := range e.keys() {
		times := make([]int64, 0, len(e.seen[key]))
		for at := range e.seen[key] {
			times = append(times, at)
		}
		slices.Sort(times)
		e.times[key] = times
		if key.instance == 0 {
			e.zero[key.operator] = true
		}
		totals := e.totals[key.operator]
		for k, at := range times {
			if k == len(e.stamps) {
				e.stamps = append(e.stamps, at)
			}
			e.stamps[k] = min(e.stamps[k], at)
			if k == len(totals) {
				totals = append(totals, 0)
			}
			totals[k] = max(totals[k], e.seen[key][at])
		}
		e.totals[key.operator] = totals
	}
}

func (e *DS2Epochs) keys() []ds2Key {
	keys := make([]ds2Key, 0, len(e.seen))
	for key := range e.seen {
		keys = append(keys, key)
	}
	slices.SortFunc(keys, ds2Key.compare)
	return keys
}

// Digest is the SHA-256, in hex, of the epochs: two sets of files with the same
// give each of their files the same times.
func (e *DS2Epochs) Digest() string {
	e.build()
	sum := sha256.New()
	write := func(n int64) { sum.Write(binary.BigEndian.AppendUint64(nil, uint64(n))) }
	for _, key := range e.keys() {
		write(int64(len(key.operator)))
		io.WriteString(sum, key.operator)
		write(int64(key.instance))
		write(int64(len(e.times[key])))
		for _, at := range e.times[key] {
			write(at)
			write(int64(e.seen[key][at]))
		}
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// stamp is the time of the epoch of a row, in µs since 1970; false for a row that
// was not added.
func (e *DS2Epochs) stamp(row ds2Row) (int64, bool) {
	k, ok := slices.BinarySearch(e.times[row.ds2Key], row.at)
	if !ok {
		return 0, false
	}
	return e.stamps[k] / 1000, true
}

// topologies are those that the totals tell, without edges.
func (e *DS2Epochs) topologies() []dhalion.Topology {
	var list []dhalion.Topology
	for k, at := range e.stamps {
		t := dhalion.Topology{From: time.UnixMicro(at / 1000).UTC(), By: dhalion.ChangeOperator}
		for operator, totals := range e.totals {
			// An operator whose log ends earlier, or begins later, is there all the same.
			t.Components = append(t.Components, dhalion.Component{Name: operator, Parallelism: totals[min(k, len(totals)-1)]})
		}
		t.Normalize()
		if k == 0 {
			t.By = dhalion.ChangeFirst
		} else if slices.Equal(t.Components, list[len(list)-1].Components) {
			continue
		}
		list = append(list, t)
	}
	return list
}

// Source is the history in one of the files that were added, as NewDS2 has it.
func (e *DS2Epochs) Source(name string, r io.Reader, opts Options) ingest.Source {
	return &ds2File{history: newHistory(name, opts), rows: newRows(r), epochs: e}
}

type ds2File struct {
	history
	rows   *rows
	epochs *DS2Epochs // nil: of this file alone
}

// Read is ingest.Source's.
func (f *ds2File) Read(ctx context.Context, to *ingest.Collector) error {
	f.to = to
	if f.opts.Job == "" {
		return ingest.RowError{File: f.name, Line: 1, Reason: "DS2's files do not name their job: say which it is with --job NAME"}
	}
	id := dhalion.NewJobID(f.opts.Engine, f.opts.Job)
	alone := &DS2Epochs{}
	var read []ds2Row
	err := eachDS2(ctx, f.name, f.rows, func(row ds2Row, missing int) error {
		if err := alone.add(f.name, row); err != nil {
			return err
		}
		f.missing += missing
		read = append(read, row)
		return nil
	}, f.bad)
	if err != nil {
		return err
	}
	epochs := f.epochs
	if epochs == nil {
		epochs = alone
	}
	epochs.build()
	topologies := f.topologiesOf(epochs)
	handles := map[ds2Key][len(ds2Metrics)]ingest.Handle{}
	some := false
	for _, row := range read {
		if err := f.take(id, row, epochs, topologies, handles); err != nil {
			if err := f.bad(row.line, err); err != nil {
				return err
			}
			continue
		}
		some = true
	}
	to.Repaired(ingest.MissingValue, f.missing)
	if !some {
		return nil
	}
	for _, t := range topologies {
		if err := to.Topology(id, t); err != nil {
			return err
		}
	}
	return nil
}

// topologiesOf are the given topologies from the first epoch on, else the derived
// ones.
func (f *ds2File) topologiesOf(e *DS2Epochs) []dhalion.Topology {
	if len(f.opts.Topology) == 0 || len(e.stamps) == 0 {
		return e.topologies()
	}
	list := slices.Clone(f.opts.Topology)
	for i := range list {
		if list[i].From.IsZero() {
			list[i].From = time.UnixMicro(e.stamps[0] / 1000).UTC()
		}
		if list[i].By == "" {
			list[i].By = dhalion.ChangeOperator
			if i == 0 {
				list[i].By = dhalion.ChangeFirst
			}
		}
	}
	return list
}

func (f *ds2File) take(id dhalion.JobID, row ds2Row, epochs *DS2Epochs, topologies []dhalion.Topology, handles map[ds2Key][len(ds2Metrics)]ingest.Handle) error {
	at, ok := epochs.stamp(row)
	if !ok {
		return errors.New("the row was not there when the epochs were numbered: the file has changed")
	}
	instance := row.instance
	if !epochs.zero[row.operator] {
		instance--
	}
	if instance >= row.total {
		return fmt.Errorf("there is an instance %d of %s, and %d in all", row.instance, row.operator, row.total)
	}
	if len(f.opts.Topology) > 0 {
		if err := agrees(row, at, topologies); err != nil {
			return err
		}
	}
	own, ok := handles[row.ds2Key]
	if !ok {
		target := dhalion.InstanceTarget(id, row.operator, instance)
		for i, m := range ds2Metrics {
			var err error
			if own[i], err = f.to.Series(target, "", m); err != nil {
				return err
			}
		}
		handles[row.ds2Key] = own
	}
	for i, v := range row.values {
		if v != v {
			continue
		}
		if err := f.to.AddAt(own[i], at, v); err != nil {
			return err
		}
	}
	return nil
}

// agrees says how a row contradicts the topology in force.
func agrees(row ds2Row, at int64, topologies []dhalion.Topology) error {
	in := topologies[0]
	for _, t := range topologies[1:] {
		if !t.From.After(time.UnixMicro(at)) {
			in = t
		}
	}
	c, ok := in.Component(row.operator)
	if !ok {
		return fmt.Errorf("the topology has no operator %s", excerpt([]byte(row.operator)))
	}
	if c.Parallelism != row.total {
		return fmt.Errorf("the row counts %d instances of %s, the topology %d", row.total, row.operator, c.Parallelism)
	}
	return nil
}

// ReadDS2Topology reads DS2's file of edges, one to a line:
//
//	id1,name1,instances1,id2,name2,instances2
//
// with # before comments. Components are called by their ids, as the rates call
// them. An operator with two names or numbers of instances, an edge drawn twice and
// a cycle are errors, FILE:LINE: reason. From is zero: the topology holds from the
// beginning of the history that it goes with. Name is for messages.
func ReadDS2Topology(name string, r io.Reader) ([]dhalion.Topology, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxTopologyBytes+1))
	if err != nil {
		return nil, fmt.Errorf("file: read %s: %w", name, err)
	}
	if len(data) > maxTopologyBytes {
		return nil, fmt.Errorf("file: read %s: a topology file has at most 1 MiB", name)
	}
	var t dhalion.Topology
	called := map[string]string{} // names by id
	drawn := map[dhalion.Edge]bool{}
	below := map[string][]string{}
	lines := strings.Split(strings.TrimPrefix(string(data), byteOrderMark), "\n")
	for i, line := range lines {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		bad := func(format string, args ...any) ([]dhalion.Topology, error) {
			return nil, ingest.RowError{File: name, Line: i + 1, Reason: fmt.Sprintf(format, args...)}
		}
		fields := strings.Split(line, ",")
		if len(fields) != 6 {
			return bad("the line has %d fields; an edge has 6: id1,name1,instances1,id2,name2,instances2", len(fields))
		}
		for k := range fields {
			fields[k] = strings.TrimSpace(fields[k])
		}
		e := dhalion.Edge{From: fields[0], To: fields[3]}
		for k := 0; k < 6; k += 3 {
			id := fields[k]
			if err := ingest.CheckName("operator", id); err != nil {
				return bad("%v", err)
			}
			n, err := parseDS2Total(fields[k+2])
			if err != nil {
				return bad("%v", err)
			}
			c, known := t.Component(id)
			switch {
			case !known:
				if len(t.Components) == maxComponents {
					return bad("more than %d operators", maxComponents)
				}
				t.Components = append(t.Components, dhalion.Component{Name: id, Parallelism: n})
				called[id] = fields[k+1]
			case c.Parallelism != n:
				return bad("%s has %d instances here and %d before", id, n, c.Parallelism)
			case called[id] != fields[k+1]:
				return bad("%s is called %s here and %s before", id, excerpt([]byte(fields[k+1])), excerpt([]byte(called[id])))
			}
		}
		if e.From == e.To {
			return bad("the edge goes from %s to itself", e.From)
		}
		if drawn[e] {
			return bad("the edge %s -> %s is there twice", e.From, e.To)
		}
		drawn[e] = true
		if t.Edges = append(t.Edges, e); len(t.Edges) > maxEdges {
			return bad("more than %d edges", maxEdges)
		}
		below[e.From] = append(below[e.From], e.To)
		if leadsTo(below, e.To, e.From) {
			return bad("the edge %s -> %s closes a cycle", e.From, e.To)
		}
	}
	if len(t.Edges) == 0 {
		return nil, ingest.RowError{File: name, Line: 1, Reason: "there is no edge in the file"}
	}
	t.Normalize()
	if err := t.Validate(); err != nil {
		return nil, ingest.RowError{File: name, Line: 1, Reason: strings.TrimPrefix(err.Error(), "dhalion: topology: ")}
	}
	return []dhalion.Topology{t}, nil
}

// leadsTo reports whether edges lead from one operator to another.
func leadsTo(below map[string][]string, from, to string) bool {
	seen := map[string]bool{from: true}
	next := []string{from}
	for len(next) > 0 {
		name := next[len(next)-1]
		next = next[:len(next)-1]
		if name == to {
			return true
		}
		for _, n := range below[name] {
			if !seen[n] {
				seen[n] = true
				next = append(next, n)
			}
		}
	}
	return false
}
