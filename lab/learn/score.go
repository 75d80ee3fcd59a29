package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/diagnose"
	"github.com/dhalion-go/dhalion/models"
)

// diagnoser gives probabilities of cases; what it learns it learns from windows of
// other shapes.
type diagnoser struct {
	name  string
	learn func(ctx context.Context, from []window) (func(window) []float64, error)
}

// leaveOut has every window judged by what was learned from the other shapes.
func leaveOut(ctx context.Context, all []window, d diagnoser) ([][]float64, error) {
	out := make([][]float64, len(all))
	shapes := map[string]bool{}
	for _, w := range all {
		shapes[w.Family] = true
	}
	for _, shape := range slices.Sorted(maps.Keys(shapes)) {
		from := slices.DeleteFunc(slices.Clone(all), func(w window) bool { return w.Family == shape })
		ask, err := d.learn(ctx, from)
		if err != nil {
			return nil, err
		}
		for i, w := range all {
			if w.Family == shape {
				out[i] = ask(w)
			}
		}
	}
	return out, nil
}

// tally counts.
type tally struct{ right, all int }

func (t *tally) add(right bool) {
	t.all++
	if right {
		t.right++
	}
}

func (t tally) String() string {
	low, high := models.Wilson(t.right, t.all)
	return fmt.Sprintf("%d/%d %.3f (%.2f–%.2f)", t.right, t.all, float64(t.right)/float64(t.all), low, high)
}

// score is what a diagnoser came to.
type score struct {
	name     string
	took     time.Duration
	first    map[string]*tally // by time asked and magnitude
	byCause  map[string]*tally // at 60 s
	byShape  map[string]*tally
	compound tally
	alarms   tally // quiet windows without one
	raw, ece float64
	n        int       // of the calibration error
	loss     float64   // mean log loss of all pairs
	losses   []float64 // by pair
	groups   []string
	misses   []string
}

// scored says that a window counts, once, for calibration and log loss.
func scored(w window) bool { return w.when(at60) || w.when(quiet) }

func judge(name string, all []window, p [][]float64, seed uint64) score {
	s := score{name: name, first: map[string]*tally{}, byCause: map[string]*tally{}, byShape: map[string]*tally{}}
	count := func(m map[string]*tally, key string, right bool) {
		if m[key] == nil {
			m[key] = &tally{}
		}
		m[key].add(right)
	}
	var top []float64
	var right []bool
	for i, w := range all {
		if len(w.Asked) == 0 {
			continue
		}
		best := -1
		for k := range w.Cases {
			if best < 0 || p[i][k] > p[i][best] {
				best = k
			}
		}
		holds := holds(w, best)
		if scored(w) {
			top, right = append(top, p[i][best]), append(right, holds)
			for k := range w.Cases {
				if !math.IsNaN(w.Holds[k]) {
					s.losses = append(s.losses, models.LossOf(p[i][k], w.Holds[k] == 1))
					s.groups = append(s.groups, w.Incident)
				}
			}
		}
		if w.when(quiet) {
			alarm := ""
			for k, c := range w.Cases {
				if p[i][k] > .5 && c.Cause != dhalion.Transient {
					alarm = fmt.Sprintf("%s at %s %.2f", c.Cause, at(c.Target), p[i][k])
				}
			}
			s.alarms.add(alarm == "")
			if alarm != "" {
				s.misses = append(s.misses, "alarm "+w.Incident+": "+alarm)
			}
			continue
		}
		causes := w.About.Causes()
		magnitude := w.About.Magnitude
		if magnitude == "" {
			magnitude = "no class"
		}
		ok := holds
		if len(causes) > 1 {
			ok = together(w, p[i])
		}
		for _, a := range w.Asked {
			if len(causes) == 1 {
				count(s.first, a.String()+" "+magnitude, holds)
				if magnitude == "moderate" || magnitude == "strong" {
					count(s.first, a.String()+" moderate+strong", holds)
				}
			}
			if a == at60 {
				if len(causes) > 1 {
					s.compound.add(ok)
				} else {
					count(s.byCause, string(causes[0]), holds)
				}
				count(s.byShape, w.Family, ok)
				if !ok {
					s.misses = append(s.misses, fmt.Sprintf("miss %s %s: %s", w.Incident, magnitude, listed(w, p[i])))
				}
			}
		}
	}
	s.raw, s.ece = models.CalibrationError(top, right, 10, 1000, seed)
	s.n = len(top)
	for _, l := range s.losses {
		s.loss += l / float64(len(s.losses))
	}
	return s
}

// holds says that a pair is one that was labelled; of failing any target will do.
func holds(w window, k int) bool {
	c := w.Cases[k]
	return w.Holds[k] == 1 || c.Cause == dhalion.Failing && slices.Contains(w.About.Causes(), dhalion.Failing)
}

// together: every cause that holds has half, and none that does not stands above
// the least of them.
func together(w window, p []float64) bool {
	held := map[dhalion.Cause]float64{}
	for _, c := range w.About.Causes() {
		held[c] = 0
	}
	other := 0.0
	for k, c := range w.Cases {
		if _, ok := held[c.Cause]; !ok {
			other = math.Max(other, p[k])
		} else if holds(w, k) {
			held[c.Cause] = math.Max(held[c.Cause], p[k])
		}
	}
	least := 1.0
	for _, v := range held {
		least = math.Min(least, v)
	}
	return least >= .5 && other <= least
}

func listed(w window, p []float64) string {
	order := make([]int, len(p))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		if p[a] > p[b] {
			return -1
		} else if p[a] < p[b] {
			return 1
		}
		return 0
	})
	var out []string
	for _, k := range order[:min(4, len(order))] {
		out = append(out, fmt.Sprintf("%s at %s %.2f", w.Cases[k].Cause, at(w.Cases[k].Target), p[k]))
	}
	return strings.Join(out, ", ")
}

func at(t dhalion.Target) string {
	switch t.Kind {
	case dhalion.KindInstance:
		return fmt.Sprintf("%s[%d]", t.Component, t.Instance)
	case dhalion.KindWorker:
		return t.Worker
	case dhalion.KindJob:
		return "job"
	}
	return t.Component
}

// metrics are a score's figures, for the model's own word of itself.
func (s score) metrics() map[string]float64 {
	share := func(t tally) float64 { return float64(t.right) / float64(max(1, t.all)) }
	m := map[string]float64{"log_loss": s.loss, "calibration_error": s.ece, "calibration_n": float64(s.n),
		"compounds": share(s.compound), "compounds_n": float64(s.compound.all), "quiet_alarms": 1 - share(s.alarms), "quiet_n": float64(s.alarms.all)}
	if t := s.first["60 s moderate+strong"]; t != nil {
		m["first_at_60s"], m["first_at_60s_n"] = share(*t), float64(t.all)
	}
	return m
}

func (s score) print(w io.Writer) {
	fmt.Fprintf(w, "\n%s (%.0f s)\n", s.name, s.took.Seconds())
	for _, key := range slices.Sorted(maps.Keys(s.first)) {
		fmt.Fprintf(w, "  first at %-28s %s\n", key, s.first[key])
	}
	for _, key := range slices.Sorted(maps.Keys(s.byCause)) {
		fmt.Fprintf(w, "  at 60 s %-29s %s\n", key, s.byCause[key])
	}
	for _, key := range slices.Sorted(maps.Keys(s.byShape)) {
		fmt.Fprintf(w, "  at 60 s, left out %-19s %s\n", key, s.byShape[key])
	}
	fmt.Fprintf(w, "  compounds at 60 s                     %s\n", s.compound)
	fmt.Fprintf(w, "  quiet windows without a false alarm   %s\n", s.alarms)
	fmt.Fprintf(w, "  calibration error of the first        %.4f, debiased %.4f, n %d\n", s.raw, s.ece, s.n)
	fmt.Fprintf(w, "  log loss of all pairs                 %.5f, n %d\n", s.loss, len(s.losses))
	for _, m := range s.misses {
		fmt.Fprintln(w, "   ", m)
	}
}

// compare prints every diagnoser beside the last, with the paired difference of log
// losses.
func compare(w io.Writer, scores []score, seed uint64) {
	if len(scores) < 2 {
		return
	}
	last := scores[len(scores)-1]
	fmt.Fprintf(w, "\n%-24s %10s %10s %10s %10s  log loss less that of %s, 95 %%\n", "", "log loss", "debiased", "compounds", "alarms", last.name)
	for _, s := range scores {
		d := make([]float64, len(s.losses))
		for i := range d {
			d[i] = s.losses[i] - last.losses[i]
		}
		mean, low, high := models.PairedBootstrap(d, s.groups, 1000, seed)
		fmt.Fprintf(w, "%-24s %10.5f %10.4f %6d/%-3d %6d/%-3d  %+.5f (%+.5f to %+.5f)\n", s.name, s.loss, s.ece,
			s.compound.right, s.compound.all, s.alarms.all-s.alarms.right, s.alarms.all, mean, low, high)
	}
}

// logistic is the inverse of log-odds.
func logistic(x float64) float64 { return 1 / (1 + math.Exp(-x)) }

func examples(from []window) []diagnose.Example {
	out := make([]diagnose.Example, len(from))
	for i, w := range from {
		out[i] = w.Example
	}
	return out
}
