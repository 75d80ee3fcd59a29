package main

import (
	"context"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/features"
	"github.com/dhalion-go/dhalion/internal/store"
	"github.com/dhalion-go/dhalion/plan/planfile"
)

// maxStatistics bounds the numbers that one question gets: 10 million series and
// windows take half a gigabyte before they are written.
const maxStatistics = 10_000_000

// statisticsShown is how many lines a person gets.
const statisticsShown = 40

type statisticsJSON struct {
	Job           dhalion.JobID          `json:"job"`
	WindowSeconds float64                `json:"window_seconds"`
	Series        []seriesStatisticsJSON `json:"series"`
}

type seriesStatisticsJSON struct {
	Target  dhalion.Target `json:"target"`
	Metric  dhalion.Metric `json:"metric"`
	Unit    string         `json:"unit"`
	Windows []windowJSON   `json:"windows"` // ascending; those without a value are left out
}

// windowJSON is one window (end − window_seconds, end] of a series; null is unknown.
type windowJSON struct {
	End            time.Time `json:"end"`
	Count          int       `json:"count"`
	Mean           *float64  `json:"mean"`
	Std            *float64  `json:"std"`
	SlopePerSecond *float64  `json:"slope_per_second"`
	P50            *float64  `json:"p50"`
	P95            *float64  `json:"p95"`
}

// statistics answers history --windows: every series, summed up in n windows of
// one length that end at a time and before it.
func (a *app) statistics(ctx context.Context, st *store.Store, job dhalion.JobID, at time.Time, length time.Duration, n int, target string, metric dhalion.Metric) error {
	var err error
	if at.IsZero() {
		if at, err = st.Newest(ctx, job); err != nil {
			return err
		}
	}
	h, err := st.History(ctx, job, at.Add(-time.Duration(n)*length), at)
	if err != nil {
		return err
	}
	answer := statisticsJSON{Job: job, WindowSeconds: length.Seconds(), Series: []seriesStatisticsJSON{}}
	known := target == ""
	for _, kind := range dhalion.TargetKinds {
		t := h.Tables[kind]
		if t == nil {
			continue
		}
		if cells := len(t.Spans()) * len(t.Metrics()) * n; cells > maxStatistics {
			return usagef("history: %d targets with %d metrics in %d windows are too many; ask for fewer --windows", len(t.Spans()), len(t.Metrics()), n)
		}
		s := features.Summarise(t, at, length, n)
		for i, x := range s.Targets {
			if _, _, asked := groupOf(x, target); !asked {
				continue
			}
			known = true
			for k, m := range s.Metrics {
				if metric != "" && m != metric {
					continue
				}
				if line := seriesStatistics(s, i, k); len(line.Windows) > 0 {
					answer.Series = append(answer.Series, line)
				}
			}
		}
	}
	if !known {
		return hinted(fmt.Errorf("history %s: nothing is known of target %q in these windows", job, target), "the targets are %s", strings.Join(targetNames(h), ", "))
	}
	if a.json() {
		return a.writeJSON(answer)
	}
	a.statisticsText(answer, at, n)
	return nil
}

func seriesStatistics(s *features.Statistics, target, metric int) seriesStatisticsJSON {
	number := func(v float64) *float64 {
		if math.IsNaN(v) {
			return nil
		}
		return &v
	}
	info, _ := s.Metrics[metric].Info()
	line := seriesStatisticsJSON{Target: s.Targets[target], Metric: s.Metrics[metric], Unit: info.Unit}
	for w, window := range s.Windows {
		c := s.Cell(target, metric, w)
		if s.Count[c] == 0 {
			continue
		}
		line.Windows = append(line.Windows, windowJSON{
			End: window.End, Count: int(s.Count[c]),
			Mean: number(s.Mean[c]), Std: number(s.Std[c]), SlopePerSecond: number(s.Slope[c]), P50: number(s.P50[c]), P95: number(s.P95[c]),
		})
	}
	return line
}

func (a *app) statisticsText(s statisticsJSON, at time.Time, n int) {
	length := time.Duration(s.WindowSeconds * float64(time.Second))
	a.printf("%s\n", a.style(bold, fmt.Sprintf("%s as of %s", plain(string(s.Job)), stamp(at))))
	a.printf("%s\n", a.style(dim, fmt.Sprintf("%s of %s, the newest last", plural(n, "window"), planfile.Duration(length))))
	lines, shown := 0, dhalion.Target{}
	var t *table
	for _, series := range s.Series {
		for i, w := range series.Windows {
			if lines++; lines > statisticsShown {
				continue
			}
			if t == nil || series.Target != shown {
				a.statisticsOf(shown, t)
				shown, t = series.Target, &table{head: []string{"metric", "until", ">n", ">mean", ">std", ">slope/s", ">p50", ">p95"}}
			}
			name := ""
			if i == 0 {
				name = string(series.Metric)
			}
			number := func(v *float64) string {
				if v == nil {
					return ""
				}
				return planfile.Value(series.Metric, *v)
			}
			slope := ""
			if k := w.SlopePerSecond; k != nil {
				// A slope that moves the mean by less than a millionth in the window is rounding.
				slope = "0"
				if math.Abs(*k)*s.WindowSeconds > 1e-6*math.Abs(*w.Mean) {
					slope = fmt.Sprintf("%.2g", *k)
				}
			}
			t.add(name, w.End.Format("15:04:05"), count(w.Count), number(w.Mean), number(w.Std), slope, number(w.P50), number(w.P95))
		}
	}
	a.statisticsOf(shown, t)
	switch {
	case lines == 0:
		a.printf("\nNothing was measured in these windows.\n")
	case lines > statisticsShown:
		a.printf("\nand %s more; --target and --metric narrow it down, -o json has all\n", plural(lines-statisticsShown, "line"))
	}
}

// statisticsOf writes the lines of one target.
func (a *app) statisticsOf(target dhalion.Target, t *table) {
	if t != nil {
		a.title(plain(target.String()))
		a.table("  ", t)
	}
}
