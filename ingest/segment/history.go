package segment

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"hash"
	"math"
	"slices"
	"time"

	"github.com/dhalion-go/dhalion"
)

// History is everything known of one job in a stretch of time, merged. A kind of
// target of which nothing is known has no table. It is what a job was, not what
// is wrong with it.
type History struct {
	Job    dhalion.JobID
	Window dhalion.Window
	Tables map[dhalion.TargetKind]*Table
	// Topologies are those in force at any time in Window, ascending by From.
	Topologies []dhalion.Topology
}

// Digest is the SHA-256, in hex, over what is known: the values in order of
// target, metric and time, and after a target's metrics where it ran at each
// time. It depends neither on segments nor on the order in which they came, nor
// on topologies, which have digests of their own.
func (h *History) Digest() string {
	d := digester{sum: sha256.New()}
	d.text(string(h.Job))
	for _, kind := range dhalion.TargetKinds {
		t := h.Tables[kind]
		if t == nil {
			continue
		}
		for _, s := range t.spans {
			d.target(t, s)
		}
	}
	d.flush()
	return hex.EncodeToString(d.sum.Sum(nil))
}

// digester writes in blocks: SHA-256 dislikes many small writes. Texts and lists
// carry their length, so that no two contents give the same bytes.
type digester struct {
	sum hash.Hash
	buf []byte
}

func (d *digester) flush() {
	d.sum.Write(d.buf)
	d.buf = d.buf[:0]
}

func (d *digester) number(n uint64) {
	if len(d.buf) >= 1<<16 {
		d.flush()
	}
	d.buf = binary.BigEndian.AppendUint64(d.buf, n)
}

func (d *digester) text(s string) {
	d.number(uint64(len(s)))
	d.buf = append(d.buf, s...)
}

func (d *digester) target(t *Table, s Span) {
	d.text(string(s.Target.Kind))
	d.text(s.Target.Component)
	d.number(uint64(s.Target.Instance))
	d.text(s.Target.Worker)
	for i, m := range t.metrics {
		column := t.columns[i][s.Start:s.End]
		known := 0
		for _, v := range column {
			if v == v {
				known++
			}
		}
		if known == 0 {
			continue
		}
		d.text(string(m))
		d.number(uint64(known))
		for j, v := range column {
			if v == v {
				d.number(uint64(t.times[s.Start+j]))
				d.number(math.Float64bits(v))
			}
		}
	}
	d.text("") // no metric is called so
	if t.workers == nil {
		return
	}
	for row := s.Start; row < s.End; row++ {
		if w := t.workers[row]; w != 0 {
			d.number(uint64(t.times[row]))
			d.text(t.names[w])
		}
	}
}

// TopologyAt is the newest topology with From at or before a time, with the
// placement that rows up to that time show laid over its own; false when there
// is none. A row from before the topology says less than the topology: it counts
// only for an instance that the topology places nowhere.
func (h *History) TopologyAt(at time.Time) (dhalion.Topology, bool) {
	i := -1
	for k, t := range h.Topologies {
		if !t.From.After(at) {
			i = k
		}
	}
	if i < 0 {
		return dhalion.Topology{}, false
	}
	topology := h.Topologies[i]
	placement := slices.Clone(topology.Placement)
	type instance struct {
		component string
		number    int
	}
	where := make(map[instance]int, len(placement))
	for k, p := range placement {
		where[instance{p.Component, p.Instance}] = k
	}
	parallelism := make(map[string]int, len(topology.Components))
	for _, c := range topology.Components {
		parallelism[c.Name] = c.Parallelism
	}
	if t := h.Tables[dhalion.KindInstance]; t != nil && t.workers != nil {
		from := topology.From.UnixMicro()
		for _, s := range t.spans {
			x := s.Target
			if x.Instance >= parallelism[x.Component] {
				continue
			}
			worker, since := t.lastWorker(s, at.UnixMicro())
			if worker == "" {
				continue
			}
			k, placed := where[instance{x.Component, x.Instance}]
			switch {
			case !placed:
				placement = append(placement, dhalion.Placement{Component: x.Component, Instance: x.Instance, Worker: worker})
			case since >= from || placement[k].Worker == "":
				placement[k].Worker = worker
			}
		}
	}
	slices.SortFunc(placement, func(a, b dhalion.Placement) int {
		return cmp.Or(cmp.Compare(a.Component, b.Component), cmp.Compare(a.Instance, b.Instance))
	})
	topology.Placement = placement
	return topology, true
}

// lastWorker is the newest known worker of a span's rows up to a time, and the
// time of that row.
func (t *Table) lastWorker(s Span, upTo int64) (string, int64) {
	n, found := slices.BinarySearch(t.times[s.Start:s.End], upTo)
	if found {
		n++
	}
	for row := s.Start + n - 1; row >= s.Start; row-- {
		if w := t.workers[row]; w != 0 {
			return t.names[w], t.times[row]
		}
	}
	return "", 0
}

// Newest is the time of the newest row; the zero time when there is none.
func (h *History) Newest() time.Time {
	newest, known := int64(0), false
	for _, t := range h.Tables {
		if t == nil {
			continue
		}
		if _, to, ok := t.Bounds(); ok && (!known || to > newest) {
			newest, known = to, true
		}
	}
	if !known {
		return time.Time{}
	}
	return time.UnixMicro(newest).UTC()
}
