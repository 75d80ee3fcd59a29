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
	learn func(ctx context.Context, from []window) (asker, error)
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
		var of []window
		var at []int
		for i, w := range all {
			if w.Family == shape && len(w.Asked) > 0 {
				of, at = append(of, w), append(at, i)
			}
		}
		p, err := ask(of)
		if err != nil {
			return nil, err
		}
		for k, i := range at {
			out[i] = p[k]
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
	// hits are 1 where the first diagnosis of a fault of one cause was right 60 s into
	// it, else 0; burned are those of instances that burned the processor.
	hits      []float64
	incidents []string
	burned    tally
	burnLoss  []float64
	burnGroup []string
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
		holds := w.Right // of a window too short to be judged there are no probabilities
		if best >= 0 {
			holds = holdsAt(w, best)
		}
		if scored(w) && best >= 0 {
			top, right = append(top, p[i][best]), append(right, holds)
			for k := range w.Cases {
				if !math.IsNaN(w.Holds[k]) {
					s.losses = append(s.losses, models.LossOf(p[i][k], w.Holds[k] == 1))
					s.groups = append(s.groups, w.Incident)
					if w.Burn {
						s.burnLoss = append(s.burnLoss, s.losses[len(s.losses)-1])
						s.burnGroup = append(s.burnGroup, w.Incident)
					}
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
					hit := 0.0
					if holds {
						hit = 1
					}
					s.hits, s.incidents = append(s.hits, hit), append(s.incidents, w.Incident)
					if w.Burn {
						s.burned.add(holds)
					}
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

// holdsAt says that a pair is one that was labelled; of failing any target will do.
func holdsAt(w window, k int) bool {
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
		} else if holdsAt(w, k) {
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
	if len(order) == 0 {
		return "too little data"
	}
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
	a := diagnose.Assessment{LogLoss: s.loss, CalibrationError: s.ece, Windows: s.n, Alarms: s.alarms.all - s.alarms.right, Quiet: s.alarms.all}
	if t := s.first["60 s moderate+strong"]; t != nil {
		a.First, a.Incidents = t.right, t.all
	}
	m := a.Metrics()
	m["compounds_right"], m["compounds"] = float64(s.compound.right), float64(s.compound.all)
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

// compare prints every diagnoser beside the last, with the paired differences of log
// losses and of first diagnoses, resampled by incident.
func compare(w io.Writer, scores []score, seed uint64) {
	if len(scores) < 2 {
		return
	}
	last := scores[len(scores)-1]
	fmt.Fprintf(w, "\nlog loss and first right of one cause at 60 s, less those of %s, 95 %%; better and worse say what it is\n", last.name)
	fmt.Fprintf(w, "%-36s %9s %9s %8s %8s %8s  %-38s %s\n", "", "log loss", "debiased", "first", "compound", "alarms", "log loss", "first right")
	for _, s := range scores {
		loss, first := against(s.losses, last.losses, s.groups, seed), against(s.hits, last.hits, s.incidents, seed)
		fmt.Fprintf(w, "%-36s %9.5f %9.4f %4d/%-3d %4d/%-3d %4d/%-3d  %-38s %s\n", s.name, s.loss, s.ece, right(s.hits), len(s.hits),
			s.compound.right, s.compound.all, s.alarms.all-s.alarms.right, s.alarms.all, loss.words(-1), first.words(+1))
	}
	fmt.Fprintf(w, "\nof incidents that burned the processor at 60 s: first right, log loss of all pairs of their runs, less that of %s\n", last.name)
	for _, s := range scores {
		sum := 0.0
		for _, l := range s.burnLoss {
			sum += l / float64(len(s.burnLoss))
		}
		fmt.Fprintf(w, "%-36s %s  %.5f, n %d  %s\n", s.name, s.burned, sum, len(s.burnLoss), against(s.burnLoss, last.burnLoss, s.burnGroup, seed).words(-1))
	}
}

func right(hits []float64) (n int) {
	for _, v := range hits {
		n += int(v)
	}
	return n
}

// difference is a paired difference with its 95 % interval.
type difference struct{ mean, low, high float64 }

func against(one, other []float64, groups []string, seed uint64) (d difference) {
	diff := make([]float64, len(one))
	for i := range diff {
		diff[i] = one[i] - other[i]
	}
	d.mean, d.low, d.high = models.PairedBootstrap(diff, groups, 1000, seed)
	return d
}

// words says how the other one fares, given in which way a difference is in its disfavour.
func (d difference) words(good float64) string {
	what := "alike"
	switch {
	case good*d.low < 0 && good*d.high < 0:
		what = "better"
	case good*d.low > 0 && good*d.high > 0:
		what = "worse"
	}
	return fmt.Sprintf("%+.5f (%+.5f to %+.5f) %s", d.mean, d.low, d.high, what)
}

// bars prints what the last diagnoser must come to and returns what it misses.
func bars(w io.Writer, scores []score, seed uint64) (missed []string) {
	last := scores[len(scores)-1]
	hold := func(ok bool, format string, args ...any) {
		mark := "holds"
		if !ok {
			mark = "MISSED"
			missed = append(missed, fmt.Sprintf(format, args...))
		}
		fmt.Fprintf(w, "%-7s %s\n", mark, fmt.Sprintf(format, args...))
	}
	fmt.Fprintf(w, "\n%s, 60 s into a fault\n", last.name)
	first := *last.first["60 s moderate+strong"]
	hold(float64(first.right) >= .9*float64(first.all), "first right, moderate and strong: %s, at least .90", first)
	hold(last.ece <= .03 && last.alarms.all >= 150, "calibration error of the first, debiased: %.4f of n %d with %d quiet windows, at most .03", last.ece, last.n, last.alarms.all)
	hold(float64(last.compound.right) >= .8*float64(last.compound.all), "compounds: %s, at least .80", last.compound)
	alarms := last.alarms.all - last.alarms.right
	_, most := models.Wilson(alarms, last.alarms.all)
	hold(float64(alarms) <= .02*float64(last.alarms.all), "quiet windows with an alarm: %d/%d, 95 %% bound %.3f, at most .02", alarms, last.alarms.all, most)
	for _, s := range scores[:len(scores)-1] {
		loss, hits := against(s.losses, last.losses, s.groups, seed), against(s.hits, last.hits, s.incidents, seed)
		switch {
		case s.name == withProcessor:
			// It is no contender: what it asks for is left out for the sake of other machines,
			// unless the incidents that burned the processor justify it.
			burned := against(s.burnLoss, last.burnLoss, s.burnGroup, seed)
			hold(burned.high >= 0 && s.burned.right <= last.burned.right, "not worse than %s where the processor was burned", s.name)
			continue
		case s.name == "rules+platt":
			hold(last.loss <= .6*s.loss, "log loss: %.5f, %.2f of %s, at most .6", last.loss, last.loss/s.loss, s.name)
		case s.name == "paper" || s.name == "rules":
			hold(loss.low > 0 && hits.high <= 0, "better than %s in log loss, and not worse in the first diagnosis", s.name)
			continue
		}
		hold(loss.high >= 0 && hits.low <= 0, "not worse than %s", s.name)
	}
	return missed
}

// logistic is the inverse of log-odds.
func logistic(x float64) float64 { return 1 / (1 + math.Exp(-x)) }

func examples(from []window) []diagnose.Example {
	var out []diagnose.Example
	for _, w := range from {
		if w.Cases != nil {
			out = append(out, w.Example)
		}
	}
	return out
}
