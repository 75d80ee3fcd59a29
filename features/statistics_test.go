package features

import (
	"math"
	"slices"
	"testing"
	"time"

	"gonum.org/v1/gonum/stat"
	"pgregory.net/rapid"

	dhalion "github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/ingest/segment"
)

func TestStatisticsOfAWindowByHand(t *testing.T) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	b := segment.NewBuilder("file/j", dhalion.KindInstance)
	target := dhalion.InstanceTarget("file/j", "counter", 3)
	for k, v := range map[int]float64{-60: 100, -50: 1, -40: 2, -20: 3, -10: 6, 0: 8} {
		b.Add(target, "", at.Add(time.Duration(k)*time.Second).UnixMicro(), dhalion.RecordsIn, v)
	}
	table, _ := b.Build()
	s := Summarise(table, at, time.Minute, 2)
	// (-60 s, 0]: the 100 at -60 s belongs to the window before.
	// Values 1 2 3 6 8 at 0 10 30 40 50 s: mean 4, squares of deviations 9+4+1+4+16 = 34, std √(34/4).
	// Mean time 26: Σ dx·dy = (-26·-3)+(-16·-2)+(4·-1)+(14·2)+(24·4) = 230; Σ dx² = 676+256+16+196+576 = 1720.
	// p95 at position 3.8: 6 + 0.8·2 = 7.6.
	last := s.Cell(0, 0, 1)
	got := []float64{float64(s.Count[last]), s.Mean[last], s.Std[last], s.Slope[last], s.P50[last], s.P95[last]}
	want := []float64{5, 4, math.Sqrt(34.0 / 4), 230.0 / 1720, 3, 7.6}
	for i := range want {
		if math.Abs(got[i]-want[i]) > 1e-12 {
			t.Errorf("number %d is %v, want %v", i, got[i], want[i])
		}
	}
	first := s.Cell(0, 0, 0)
	if s.Count[first] != 1 || s.Mean[first] != 100 || !math.IsNaN(s.Std[first]) || !math.IsNaN(s.Slope[first]) || s.P95[first] != 100 {
		t.Errorf("the window before: %d values, mean %v, std %v", s.Count[first], s.Mean[first], s.Std[first])
	}
}

func TestStatisticsAreThoseOfEachWindowAlone(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
		b := segment.NewBuilder("file/j", dhalion.KindInstance)
		metrics := []dhalion.Metric{dhalion.Busy, dhalion.RecordsIn}
		type point struct {
			at int64
			v  float64
		}
		raw := map[int]map[dhalion.Metric][]point{}
		for i := range rapid.IntRange(1, 4).Draw(rt, "instances") {
			raw[i] = map[dhalion.Metric][]point{}
			for _, m := range metrics {
				for _, k := range rapid.SliceOfNDistinct(rapid.IntRange(-300, 10), 1, 60, rapid.ID[int]).Draw(rt, "seconds") {
					v := rapid.Float64Range(0, 1).Draw(rt, "value")
					if rapid.IntRange(0, 9).Draw(rt, "unknown") == 0 {
						v = math.NaN()
					}
					at := at.Add(time.Duration(k) * time.Second).UnixMicro()
					b.Add(dhalion.InstanceTarget("file/j", "c", i), "", at, m, v)
					raw[i][m] = append(raw[i][m], point{at, v})
				}
			}
		}
		table, _ := b.Build()
		s := Summarise(table, at, 50*time.Second, 6)
		for ti, target := range s.Targets {
			for mi, m := range s.Metrics {
				points := raw[target.Instance][m]
				slices.SortFunc(points, func(a, b point) int { return int(a.at - b.at) })
				for wi, w := range s.Windows {
					var times, values []float64
					for _, p := range points {
						if !math.IsNaN(p.v) && p.at > w.Start.UnixMicro() && p.at <= w.End.UnixMicro() {
							times, values = append(times, float64(p.at)/1e6-float64(at.Unix())), append(values, p.v)
						}
					}
					cell := s.Cell(ti, mi, wi)
					if int(s.Count[cell]) != len(values) {
						rt.Fatalf("%s %s %v: %d values, want %d", target, m, w, s.Count[cell], len(values))
					}
					near := func(what string, got, want float64, known bool) {
						if known != !math.IsNaN(got) || known && math.Abs(got-want) > 1e-9*math.Max(1, math.Abs(want)) {
							rt.Fatalf("%s %s %v: %s is %v, want %v (known %v)", target, m, w, what, got, want, known)
						}
					}
					near("mean", s.Mean[cell], stat.Mean(values, nil), len(values) > 0)
					near("std", s.Std[cell], stat.StdDev(values, nil), len(values) > 1)
					_, slope := stat.LinearRegression(times, values, nil, false)
					near("slope", s.Slope[cell], slope, len(values) > 2)
					slices.Sort(values)
					near("p50", s.P50[cell], quantileSorted(values, 0.5), len(values) > 0)
					near("p95", s.P95[cell], quantileSorted(values, 0.95), len(values) > 0)
				}
			}
		}
	})
}
