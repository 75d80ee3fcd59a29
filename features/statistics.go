package features

import (
	"math"
	"runtime"
	"slices"
	"sync"
	"time"

	dhalion "github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/ingest/segment"
)

// Statistics sum up every series of a table in successive windows of equal
// length. A column has one number per (target, metric, window); Cell says where.
// They are what was measured, not what a policy looks at: no change of the job
// cuts a window.
type Statistics struct {
	Targets []dhalion.Target // sorted
	Metrics []dhalion.Metric // sorted
	Windows []dhalion.Window // ascending, each (Start, End]

	Count []int32 // known values
	// Of what is unknown the following are NaN: Mean, P50 and P95 of no value, Std
	// of fewer than two, Slope of fewer than three.
	Mean  []float64
	Std   []float64 // sample standard deviation
	Slope []float64 // of the least-squares line, per second
	P50   []float64 // interpolated linearly between order statistics (Hyndman and Fan's type 7)
	P95   []float64
}

// Cell is the index of a number in the columns, by the indices of its target,
// metric and window.
func (s *Statistics) Cell(target, metric, window int) int {
	return (target*len(s.Metrics)+metric)*len(s.Windows) + window
}

// Summarise computes the statistics of the windows of one length that end at,
// and before, a time: n of them, the last is (at − length, at]. It uses every
// core; the numbers do not depend on how many there are.
func Summarise(t *segment.Table, at time.Time, length time.Duration, n int) *Statistics {
	spans := t.Spans()
	s := &Statistics{Metrics: t.Metrics()}
	for k := range n {
		end := at.UTC().Add(-time.Duration(n-1-k) * length)
		s.Windows = append(s.Windows, dhalion.Window{Start: end.Add(-length), End: end})
	}
	columns := make([][]float64, len(s.Metrics))
	for m, metric := range s.Metrics {
		columns[m] = t.Values(metric)
	}
	for _, span := range spans {
		s.Targets = append(s.Targets, span.Target)
	}
	cells := len(spans) * len(s.Metrics) * n
	s.Count = make([]int32, cells)
	for _, column := range []*[]float64{&s.Mean, &s.Std, &s.Slope, &s.P50, &s.P95} {
		*column = make([]float64, cells)
	}
	if cells == 0 {
		return s
	}
	edges := make([]int64, n+1)
	edges[0] = s.Windows[0].Start.UnixMicro()
	for k, w := range s.Windows {
		edges[k+1] = w.End.UnixMicro()
	}
	workers := min(runtime.GOMAXPROCS(0), len(spans))
	var group sync.WaitGroup
	for w := range workers {
		first, last := len(spans)*w/workers, len(spans)*(w+1)/workers
		group.Go(func() {
			var scratch window
			rows := make([]int, n+1)
			for i := first; i < last; i++ {
				span := spans[i]
				times := t.Times()[span.Start:span.End]
				row := searchAfter(times, edges[0])
				rows[0] = row
				for k := 1; k <= n; k++ {
					for row < len(times) && times[row] <= edges[k] {
						row++
					}
					rows[k] = row
				}
				for m, column := range columns {
					values := column[span.Start:span.End]
					for k := range n {
						cell := s.Cell(i, m, k)
						scratch.take(times[rows[k]:rows[k+1]], values[rows[k]:rows[k+1]])
						s.Count[cell] = int32(len(scratch.values))
						s.Mean[cell], s.Std[cell], s.Slope[cell] = scratch.moments()
						s.P50[cell], s.P95[cell] = scratch.quantiles()
					}
				}
			}
		})
	}
	group.Wait()
	return s
}

// window is the known values of one series in one window, in memory that is used
// again for the next.
type window struct {
	seconds []float64 // since the first row of the window
	values  []float64
}

func (w *window) take(times []int64, values []float64) {
	w.seconds, w.values = w.seconds[:0], w.values[:0]
	for i, v := range values {
		if v == v { // not NaN
			w.seconds = append(w.seconds, float64(times[i]-times[0])/1e6)
			w.values = append(w.values, v)
		}
	}
}

// moments are mean, deviation and slope. Deviations from the means are summed,
// not squares: heap sizes of 1e9 that move by some bytes keep their digits.
func (w *window) moments() (mean, std, slope float64) {
	n := float64(len(w.values))
	if n == 0 {
		return nan, nan, nan
	}
	var sumX, sumY float64
	for i, y := range w.values {
		sumX += w.seconds[i]
		sumY += y
	}
	meanX, meanY := sumX/n, sumY/n
	var xx, xy, yy float64
	for i, y := range w.values {
		dx, dy := w.seconds[i]-meanX, y-meanY
		xx += dx * dx
		xy += dx * dy
		yy += dy * dy
	}
	std, slope = nan, nan
	if n >= 2 {
		std = math.Sqrt(yy / (n - 1))
	}
	if n >= 3 && xx > 0 {
		slope = xy / xx
	}
	return meanY, std, slope
}

// quantiles sorts the values: it comes after moments.
func (w *window) quantiles() (p50, p95 float64) {
	if len(w.values) <= 24 {
		for i := 1; i < len(w.values); i++ { // faster than slices.Sort on so few
			v := w.values[i]
			j := i
			for ; j > 0 && w.values[j-1] > v; j-- {
				w.values[j] = w.values[j-1]
			}
			w.values[j] = v
		}
	} else {
		slices.Sort(w.values)
	}
	return quantileSorted(w.values, 0.5), quantileSorted(w.values, 0.95)
}
