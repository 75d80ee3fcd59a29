package features

import (
	"math"
	"slices"
	"time"

	dhalion "github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/ingest/segment"
)

// Rates are what the published scalers (policies ds2, flink-autoscaler) ask of a
// component. Rates are of all its instances together: where some of them have
// none, the others speak for them. NaN is unknown.
type Rates struct {
	Component string
	Source    bool
	Epoch     Epoch
	Span      Span
}

// Epoch is a component at the newest poll: DS2 decides by one observation.
type Epoch struct {
	At        time.Time // of the newest row that is used; zero: there is none
	Instances int       // with a row in it
	Of        int       // instances there are; 1 where they are measured as one
	// TrueIn and TrueOut are records per second of busy time, as measured or
	// else records over busy time; Out is records per second. KnownIn and KnownOut
	// are the instances that have the first two.
	TrueIn, TrueOut, Out float64
	KnownIn, KnownOut    int
}

// Span is a component over the window, as Apache Flink's autoscaler reads it.
type Span struct {
	// In and Out are records per second between the first and the last poll of
	// the window: what counters that were read at both would say. In of a source
	// that counts no records in is what it puts out.
	In, Out float64
	// InMean is the mean over the polls of the rate that each shows.
	InMean float64
	// BusyMost and BusyLeast are the mean over the polls of the greatest and the
	// least busy share of the instances; BusyMean is that of their mean between
	// the first and the last poll.
	BusyMost, BusyLeast, BusyMean float64
	// Lag is the newest lag, LagRate its growth per second from the first poll
	// to the last.
	Lag, LagRate float64
	// Reads are the polls of a source, ascending.
	Reads []Read
}

// Read is one poll of a source: records per second, lag (unknown where an instance
// that has one did not report it), and the mean share of the time that its instances
// were held up.
type Read struct {
	In, Lag, Backpressured float64
}

// RateReader reads rates from one history, at any number of times.
type RateReader struct {
	history *segment.History
	all     map[string]*measuredAs
}

// NewRateReader prepares a history.
func NewRateReader(h *segment.History) *RateReader {
	return &RateReader{history: h, all: componentSeries(h)}
}

// At reads the rates of every component of a topology at one time, in the
// topology's order from the sources down. The window ends there and is cut, as
// everywhere, at the last change that we or the operator made.
func (r *RateReader) At(topology dhalion.Topology, at time.Time, window time.Duration) []Rates {
	all := r.all
	w := (&Reader{history: r.history, opt: Options{Window: window}}).window(at)
	start, end := w.Start.UnixMicro(), w.End.UnixMicro()
	changed := int64(math.MinInt64)
	for _, t := range r.history.Topologies {
		if (t.By == dhalion.ChangeOperator || t.By == dhalion.ChangeDhalion) && !t.From.After(at) {
			changed = max(changed, t.From.UnixMicro())
		}
	}

	newest := int64(math.MinInt64)
	for _, c := range topology.Components {
		for _, s := range all[c.Name].of(c) {
			newest = max(newest, s.newestRates(changed, end))
		}
	}
	out := make([]Rates, 0, len(topology.Components))
	for _, name := range topology.Order() {
		c, _ := topology.Component(name)
		m := all[name]
		series := m.of(c)
		of := c.Parallelism
		if m != nil && len(m.instances) == 0 {
			of = 1 // measured as one: its sums are sums already
		}
		rates := Rates{Component: name, Source: topology.IsSource(name)}
		rates.Epoch = epochOf(series, of, changed, newest)
		rates.Span = spanOf(series, of, start, end, rates.Source)
		out = append(out, rates)
	}
	return out
}

// measuredAs are the series of a component: of its instances or, without any, of
// the whole.
type measuredAs struct {
	instances map[int]*series
	whole     *series
}

func (m *measuredAs) of(c dhalion.Component) []*series {
	switch {
	case m == nil:
		return nil
	case len(m.instances) == 0:
		return []*series{m.whole}
	}
	var list []*series
	for i := range c.Parallelism {
		if s := m.instances[i]; s != nil {
			list = append(list, s)
		}
	}
	return list
}

// componentSeries finds the series of all components, without what NewReader
// works out of the past.
func componentSeries(h *segment.History) map[string]*measuredAs {
	all := map[string]*measuredAs{}
	for _, kind := range []dhalion.TargetKind{dhalion.KindComponent, dhalion.KindInstance} {
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
			own := all[span.Target.Component]
			if own == nil {
				own = &measuredAs{instances: map[int]*series{}}
				all[span.Target.Component] = own
			}
			if kind == dhalion.KindComponent {
				own.whole = s
			} else {
				own.instances[span.Target.Instance] = s
			}
		}
	}
	return all
}

// at is a value of a row; NaN when the metric has no column.
func (s *series) at(m dhalion.Metric, row int) float64 {
	if c := s.cols[m]; c != nil {
		return c[row]
	}
	return nan
}

// trueRates of a row: measured, else records over busy time.
func (s *series) trueRates(row int) (in, out float64) {
	busy := s.at(dhalion.Busy, row)
	if busy < leastBusy {
		busy = nan
	}
	in = orElse(s.at(dhalion.TrueRecordsIn, row), s.at(dhalion.RecordsIn, row)/busy)
	out = orElse(s.at(dhalion.TrueRecordsOut, row), s.at(dhalion.RecordsOut, row)/busy)
	return in, out
}

// newestRates is the time of the newest row in [after, end] that has rates.
func (s *series) newestRates(after, end int64) int64 {
	for k := searchAfter(s.times, end) - 1; k >= 0 && s.times[k] >= after; k-- {
		for _, m := range []dhalion.Metric{dhalion.RecordsIn, dhalion.RecordsOut, dhalion.TrueRecordsIn, dhalion.TrueRecordsOut} {
			if known(s.at(m, k)) {
				return s.times[k]
			}
		}
	}
	return math.MinInt64
}

// epochOf adds up the newest rows of a component's instances. A row counts when
// the instance had no time for another one since: where all are measured together
// that is a row at newest, where each has times of its own the latest of each.
func epochOf(list []*series, of int, after, newest int64) Epoch {
	e := Epoch{Of: of, TrueIn: nan, TrueOut: nan, Out: nan}
	outs := 0
	for _, s := range list {
		k := searchAfter(s.times, newest) - 1
		if k < 0 || s.times[k] < after || k > 0 && newest-s.times[k] >= s.times[k]-s.times[k-1] {
			continue
		}
		e.Instances++
		if at := time.UnixMicro(s.times[k]).UTC(); at.After(e.At) {
			e.At = at
		}
		in, out := s.trueRates(k)
		e.KnownIn += count(&e.TrueIn, in)
		e.KnownOut += count(&e.TrueOut, out)
		outs += count(&e.Out, s.at(dhalion.RecordsOut, k))
	}
	e.TrueIn, e.TrueOut, e.Out = speakFor(e.TrueIn, e.KnownIn, of), speakFor(e.TrueOut, e.KnownOut, of), speakFor(e.Out, outs, of)
	return e
}

// count adds a known value to a sum and says whether it was one.
func count(sum *float64, v float64) int {
	*sum = addKnown(*sum, v)
	if known(v) {
		return 1
	}
	return 0
}

// speakFor is the sum over all instances by that over n of them. A sum over all
// is not touched: its last digit counts.
func speakFor(sum float64, n, of int) float64 {
	if n == of || n == 0 {
		return sum
	}
	return sum * float64(of) / float64(n)
}

func spanOf(list []*series, of int, start, end int64, source bool) Span {
	span := Span{Lag: nan, LagRate: nan}
	rate := func(m dhalion.Metric, value func(*series, int, int, dhalion.Metric) float64) float64 {
		sum, n := nan, 0
		for _, s := range list {
			lo, hi := s.rows(start, end)
			n += count(&sum, value(s, lo, hi, m))
		}
		return speakFor(sum, n, of)
	}
	plain := func(s *series, lo, hi int, m dhalion.Metric) float64 { return mean(s.col(m, lo, hi)) }
	reads := dhalion.RecordsIn
	span.In, span.Out = rate(dhalion.RecordsIn, (*series).between), rate(dhalion.RecordsOut, (*series).between)
	if source && !(span.In > 0) && known(span.Out) {
		reads, span.In = dhalion.RecordsOut, span.Out
	}
	span.InMean = rate(reads, plain)
	span.BusyMost, span.BusyLeast = busyEnds(list, start, end)
	if busy := rate(dhalion.Busy, (*series).between); known(busy) {
		span.BusyMean = busy / float64(of)
	} else {
		span.BusyMean = nan
	}
	for _, s := range list {
		lo, hi := s.rows(start, end)
		last, growth := s.lag(lo, hi)
		span.Lag, span.LagRate = addKnown(span.Lag, last), addKnown(span.LagRate, growth)
	}
	if source {
		span.Reads = readsOf(list, of, reads, start, end)
	}
	return span
}

// between is the mean of a rate from the first row in [lo, hi) to the last, as
// counters would give it: every value weighs as long as the time since the row
// before, and the first speaks of the time before the first row. One row alone
// gives its own value.
func (s *series) between(lo, hi int, m dhalion.Metric) float64 {
	values := s.col(m, lo, hi)
	sum, seconds := 0.0, 0.0
	for k := 1; k < len(values); k++ {
		if known(values[k]) {
			dt := float64(s.times[lo+k]-s.times[lo+k-1]) / 1e6
			sum += values[k] * dt
			seconds += dt
		}
	}
	if seconds == 0 {
		return mean(values)
	}
	return sum / seconds
}

// lag is the newest one in the rows and its growth per second since the first.
func (s *series) lag(lo, hi int) (last, growth float64) {
	last, growth = nan, nan
	first, at := nan, int64(0)
	for k, v := range s.col(dhalion.Lag, lo, hi) {
		if !known(v) {
			continue
		}
		if last = v; !known(first) {
			first, at = v, s.times[lo+k]
		} else {
			growth = (v - first) / (float64(s.times[lo+k]-at) / 1e6)
		}
	}
	return last, growth
}

// byTime groups the known values of a metric by time. It gives the times at which
// every series that has any is there.
func byTime(list []*series, m dhalion.Metric, start, end int64) (times []int64, values map[int64][]float64) {
	values = map[int64][]float64{}
	all := 0
	for _, s := range list {
		lo, hi := s.rows(start, end)
		some := 0
		for k, v := range s.col(m, lo, hi) {
			if known(v) {
				values[s.times[lo+k]] = append(values[s.times[lo+k]], v)
				some = 1
			}
		}
		all += some
	}
	for _, t := range sortedKeys(values) {
		if len(values[t]) == all {
			times = append(times, t)
		}
	}
	return times, values
}

// busyEnds are the means over the polls of the greatest and the least busy share.
// Where the instances are never measured at one time, those of their means.
func busyEnds(list []*series, start, end int64) (highest, lowest float64) {
	times, values := byTime(list, dhalion.Busy, start, end)
	var high, low []float64
	for _, t := range times {
		high, low = append(high, most(values[t]...)), append(low, least(values[t]...))
	}
	if len(times) > 0 {
		return mean(high), mean(low)
	}
	var means []float64
	for _, s := range list {
		lo, hi := s.rows(start, end)
		means = append(means, mean(s.col(dhalion.Busy, lo, hi)))
	}
	return most(means...), least(means...)
}

func readsOf(list []*series, of int, m dhalion.Metric, start, end int64) []Read {
	times, rates := byTime(list, m, start, end)
	whole, lags := byTime(list, dhalion.Lag, start, end)
	_, pressed := byTime(list, dhalion.Backpressured, start, end)
	sum := func(values []float64) float64 {
		total := nan
		for _, v := range values {
			total = addKnown(total, v)
		}
		return total
	}
	var reads []Read
	for _, t := range times {
		lag := nan
		if _, all := slices.BinarySearch(whole, t); all {
			lag = sum(lags[t])
		}
		reads = append(reads, Read{In: speakFor(sum(rates[t]), len(rates[t]), of), Lag: lag, Backpressured: mean(pressed[t])})
	}
	return reads
}
