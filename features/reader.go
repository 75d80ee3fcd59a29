package features

import (
	"cmp"
	"math"
	"slices"
	"time"

	dhalion "github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/ingest/segment"
)

// Options say how long a window is and what counts as lately.
type Options struct {
	Window time.Duration // longest window, before a change cuts it
	Recent time.Duration // the part of the window that "lately" means
	// Lookback is how much of what was before counts as the past; 0: all that there is.
	Lookback time.Duration
	// External names components whose cost a system outside sets, beside those
	// that the topology marks and the sinks.
	External map[string]bool
}

// DefaultRecent is the part of a window in which a label must have been true
// for the window to carry it (DESIGN, Causes).
const DefaultRecent = 20 * time.Second

// outageSpan is how far back outages count, and outageGap the distance below
// which two failures are one outage (DESIGN, cause failing).
const (
	outageSpan = 10 * time.Minute
	outageGap  = 10 * time.Second
)

// service thresholds: below them a quotient of two small numbers says nothing.
const (
	leastBusy    = 0.01 // busy share from which time per record is believed
	leastRecords = 5    // records in the window from which it is believed
	loadedBusy   = 0.1  // busy share from which an instance counts as loaded
	pastBlock    = 20 * time.Second
)

// series is the rows of one target, as slices into the table's columns.
type series struct {
	target dhalion.Target
	times  []int64
	cols   map[dhalion.Metric][]float64
	worker func(i int) string
	ended  []int64 // times at which the instance had ended; they are no rows
}

func newSeries(table *segment.Table, span segment.Span, cols map[dhalion.Metric][]float64) *series {
	s := &series{target: span.Target, times: table.Times()[span.Start:span.End], cols: make(map[dhalion.Metric][]float64, len(cols))}
	for m, values := range cols {
		s.cols[m] = values[span.Start:span.End]
	}
	first := span.Start
	s.worker = func(i int) string { return table.Worker(first + i) }
	if span.Target.Kind == dhalion.KindInstance {
		s.takeEnds()
	}
	return s
}

// takeEnds takes out the rows that say no more than that nothing arrives: so an adapter
// says that an instance has ended. It is compared with nobody, but that it puts out
// nothing is known.
func (s *series) takeEnds() {
	var stay []int
	for k, v := range s.cols[dhalion.OfferedRecords] {
		if v == 0 && s.alone(k) {
			s.ended = append(s.ended, s.times[k])
		} else {
			stay = append(stay, k)
		}
	}
	if s.ended == nil {
		return
	}
	times, worker := s.times, s.worker
	s.times, s.worker = make([]int64, len(stay)), func(i int) string { return worker(stay[i]) }
	for n, k := range stay {
		s.times[n] = times[k]
	}
	for m, values := range s.cols {
		s.cols[m] = make([]float64, len(stay))
		for n, k := range stay {
			s.cols[m][n] = values[k]
		}
	}
}

// alone says that of a row nothing but what arrives is known.
func (s *series) alone(row int) bool {
	for m, values := range s.cols {
		if m != dhalion.OfferedRecords && known(values[row]) {
			return false
		}
	}
	return true
}

// endedIn lists the times in (start, end] at which the instance had ended.
func (s *series) endedIn(start, end int64) []int64 {
	lo := searchAfter(s.ended, start)
	return s.ended[lo:max(lo, searchAfter(s.ended, end))]
}

// rows is the half-open index range of rows with time in (start, end].
func (s *series) rows(start, end int64) (int, int) {
	lo := searchAfter(s.times, start)
	hi := searchAfter(s.times, end)
	return lo, max(lo, hi)
}

// searchAfter is the index of the first time later than at.
func searchAfter(times []int64, at int64) int {
	i, found := slices.BinarySearch(times, at)
	for found && i < len(times) && times[i] == at {
		i++
	}
	return i
}

func (s *series) col(m dhalion.Metric, lo, hi int) []float64 {
	if c := s.cols[m]; c != nil {
		return c[lo:hi]
	}
	return nil
}

// Reader evaluates one history at times up to one moment. What is known of the
// past is taken from before that moment's window, once, for every evaluation.
type Reader struct {
	history *segment.History
	at      time.Time
	opt     Options

	instances map[string]map[int]*series // component, instance
	aggregate map[string]*series         // components measured as a whole
	workers   map[string]*series
	job       *series
	past      pasts
}

// NewReader prepares a history for evaluations up to at. The history should
// reach back as far as the policy's lookback.
func NewReader(h *segment.History, at time.Time, opt Options) *Reader {
	if opt.Recent <= 0 {
		opt.Recent = DefaultRecent
	}
	r := &Reader{
		history: h, at: at, opt: opt,
		instances: map[string]map[int]*series{}, aggregate: map[string]*series{}, workers: map[string]*series{},
	}
	for _, kind := range dhalion.TargetKinds {
		table := h.Tables[kind]
		if table == nil {
			continue
		}
		cols := map[dhalion.Metric][]float64{}
		for _, m := range table.Metrics() {
			cols[m] = table.Values(m)
		}
		for _, span := range table.Spans() {
			s := newSeries(table, span, cols)
			switch kind {
			case dhalion.KindInstance:
				byInstance := r.instances[span.Target.Component]
				if byInstance == nil {
					byInstance = map[int]*series{}
					r.instances[span.Target.Component] = byInstance
				}
				byInstance[span.Target.Instance] = s
			case dhalion.KindComponent:
				r.aggregate[span.Target.Component] = s
			case dhalion.KindWorker:
				r.workers[span.Target.Worker] = s
			case dhalion.KindJob:
				r.job = s
			}
		}
	}
	r.past = r.readPast(r.window(at).Start.UnixMicro())
	return r
}

// Windows reads the same history up to the same moment in windows of another length.
func (r *Reader) Windows(length time.Duration) *Reader {
	if length == r.opt.Window {
		return r
	}
	other := *r
	other.opt.Window = length
	other.past = other.readPast(other.window(r.at).Start.UnixMicro())
	return &other
}

// Calm says that in the window that ends at t nothing held up the flow, and something
// was measured.
func (r *Reader) Calm(t time.Time) bool {
	topology, _ := r.history.TopologyAt(t)
	w := r.window(t)
	return r.calm(topology, w.Start.UnixMicro(), w.End.UnixMicro())
}

// Times lists the moments in (after, upTo] at which anything was measured,
// ascending.
func (r *Reader) Times(after, upTo time.Time) []time.Time {
	seen := map[int64]bool{}
	var all []int64
	for _, kind := range dhalion.TargetKinds {
		table := r.history.Tables[kind]
		if table == nil {
			continue
		}
		for _, t := range table.Times() {
			if t > after.UnixMicro() && t <= upTo.UnixMicro() && !seen[t] {
				seen[t] = true
				all = append(all, t)
			}
		}
	}
	slices.Sort(all)
	out := make([]time.Time, len(all))
	for i, t := range all {
		out[i] = time.UnixMicro(t).UTC()
	}
	return out
}

// window is (start, at], where start is at most Window ago and not before the
// last change that we or the operator made to the job.
func (r *Reader) window(at time.Time) dhalion.Window {
	w := dhalion.Window{Start: at.Add(-r.opt.Window), End: at}
	for _, t := range r.history.Topologies {
		ours := t.By == dhalion.ChangeOperator || t.By == dhalion.ChangeDhalion
		if ours && !t.From.After(at) && t.From.After(w.Start) {
			w.Start = t.From
		}
	}
	return w
}

// since is when the past begins: nothing before it says what is normal.
func (r *Reader) since() int64 {
	if r.opt.Lookback <= 0 {
		return math.MinInt64
	}
	return r.at.Add(-r.opt.Lookback).UnixMicro()
}

// pasts is what was normal before the window: per instance, component and
// worker.
type pasts struct {
	service   map[dhalion.Target]float64 // healthy seconds per record
	component map[string]float64         // the median of its instances
	low, high map[string]float64         // spread of a component's time per record
	level     map[dhalion.Target]map[dhalion.Metric]float64
	offered   map[string]float64 // sources: median offered load
	inflow    map[string]float64 // components: median records in, all instances
	outflow   map[string]float64 // components: median records out, all instances
}

func (r *Reader) readPast(before int64) pasts {
	p := pasts{
		service: map[dhalion.Target]float64{}, component: map[string]float64{}, low: map[string]float64{}, high: map[string]float64{},
		level:   map[dhalion.Target]map[dhalion.Metric]float64{},
		offered: map[string]float64{}, inflow: map[string]float64{}, outflow: map[string]float64{},
	}
	since := r.since()
	levels := func(s *series, metrics []dhalion.Metric) {
		lo, hi := s.rows(since, before)
		if hi-lo < 3 {
			return
		}
		level := map[dhalion.Metric]float64{}
		for _, m := range metrics {
			if c := s.col(m, lo, hi); c != nil {
				level[m] = median(c)
			}
		}
		p.level[s.target] = level
	}
	for name, byInstance := range r.instances {
		var typical, blocks []float64
		offered, in, out := nan, nan, nan
		var offers, ins, outs, of int // instances that have them, and those that have a past
		for _, i := range sortedKeys(byInstance) {
			s := byInstance[i]
			levels(s, flow)
			level := p.level[s.target]
			if level != nil {
				of++
				// Where no arrival rate was measured, what was put out is the least it was.
				arrived := orElse(orNaN(level, dhalion.OfferedRecords), orNaN(level, dhalion.RecordsOut))
				offers += count(&offered, arrived)
				ins += count(&in, orNaN(level, dhalion.RecordsIn))
				outs += count(&out, orNaN(level, dhalion.RecordsOut))
			}
			lo, hi := s.rows(since, before)
			b := serviceBlocks(s, lo, hi)
			if len(b) < 1 || hi-lo < 3 {
				continue
			}
			p.service[s.target] = healthyOf(b)
			typical = append(typical, p.service[s.target])
			blocks = append(blocks, b...)
		}
		if len(typical) > 0 {
			p.component[name] = median(typical)
			p.low[name], p.high[name] = quantile(blocks, 0.1), quantile(blocks, 0.9)
		}
		p.offered[name], p.inflow[name], p.outflow[name] = speakFor(offered, offers, of), speakFor(in, ins, of), speakFor(out, outs, of)
	}
	for _, s := range r.workers {
		levels(s, workerMetrics)
	}
	return p
}

// orNaN looks a number up; what is not there is unknown.
func orNaN[K comparable](m map[K]float64, key K) float64 {
	if v, ok := m[key]; ok {
		return v
	}
	return nan
}

// healthyOf is the healthy level of past times per record. Where they are of a
// piece that is their median; where the median stands well above the lowest
// quartile, part of the past was sick and the lowest quartile is what is left of
// the healthy part, drawn up by the little that a quartile lies below a median.
func healthyOf(blocks []float64) float64 {
	sorted := knownSorted(blocks)
	middle, low := quantileSorted(sorted, 0.5), quantileSorted(sorted, 0.25)
	return math.Min(middle, 1.06*low)
}

// serviceBlocks is busy time per record over stretches of about pastBlock: long
// enough that one poll's noise is averaged out, short enough that a healthy
// stretch beside a sick one is seen.
func serviceBlocks(s *series, lo, hi int) []float64 {
	var out []float64
	for lo < hi {
		end := lo + 1
		for end < hi && s.times[end]-s.times[lo] < pastBlock.Microseconds() {
			end++
		}
		if v := serviceOf(s, lo, end); known(v) {
			out = append(out, v)
		}
		lo = end
	}
	return out
}

// handled is the rate of records that an instance is paid for: those it takes
// in, or at a source those it puts out.
func handled(s *series, lo, hi int) []float64 {
	if in := s.col(dhalion.RecordsIn, lo, hi); known(mean(in)) {
		return in
	}
	return s.col(dhalion.RecordsOut, lo, hi)
}

// serviceOf is busy seconds per record over rows where both are known; unknown
// where the instance did next to nothing.
func serviceOf(s *series, lo, hi int) float64 {
	busy, rate := s.col(dhalion.Busy, lo, hi), handled(s, lo, hi)
	if busy == nil || rate == nil {
		return nan
	}
	var b, n float64
	for i := range busy {
		if known(busy[i]) && known(rate[i]) {
			b += busy[i]
			n += rate[i]
		}
	}
	rows := float64(hi - lo)
	if rows == 0 || b/rows < leastBusy || n <= 0 {
		return nan
	}
	return b / n
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K {
	keys := make([]K, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
