package main

import (
	"math"

	"github.com/dhalion-go/dhalion/detect"
)

// detector scores the rows of a series in order: the score of a row may use that
// row and those before it, and the number of rows on probation, which NAB tells.
type detector func(*series) []float64

// silent says nothing.
func silent(s *series) []float64 { return make([]float64, len(s.values)) }

// perfect says all at the first row of each window.
func perfect(s *series) []float64 {
	out := make([]float64, len(s.values))
	for _, w := range s.windows {
		out[w.first] = 1
	}
	return out
}

// gaussian is NAB's windowed Gaussian: one minus the tail probability of a row by
// mean and standard deviation of the last 6,400, brought up to date every 100 once
// there are as many.
func gaussian(s *series) []float64 {
	const size, step = 6400, 100
	out := make([]float64, len(s.values))
	var window []float64
	mean, deviation, fresh := 0.0, 1.0, 0
	for i, v := range s.values {
		if i > 0 {
			out[i] = 1 - 0.5*math.Erfc(math.Abs(v-mean)/deviation/1.4142)
		}
		window = append(window, v)
		if len(window) > size {
			if fresh++; fresh < step {
				continue
			}
			window, fresh = window[step:], 0
		}
		mean, deviation = 0, 0
		for _, w := range window {
			mean += w / float64(len(window))
		}
		for _, w := range window {
			deviation += (w - mean) * (w - mean) / float64(len(window))
		}
		if deviation = math.Sqrt(deviation); deviation == 0 {
			deviation = 1e-6
		}
	}
	return out
}

// setting is what the learned detector leaves open, one for all series.
type setting struct {
	Depth int     // rows whose median is the level
	Level float64 // quantile above which a distance from the level is in its tail
	Hold  int     // rows after a rare one in which none as rare or less counts
}

// chosen is the setting of the report.
var chosen = setting{Depth: 500, Level: 0.95, Hold: 60}

// grid is what leaving out a folder chooses from on the others.
func grid() []setting {
	var out []setting
	for _, depth := range []int{250, 500, 1000, 2000} {
		for _, level := range []float64{0.9, 0.95} {
			for _, hold := range []int{30, 60, 120} {
				out = append(out, setting{depth, level, hold})
			}
		}
	}
	return out
}

// certain is the rarity, in nats, from which on rows are alike: once in 1,100.
// What is rarer is no surer, and so does not break a hold.
const certain = 7

// rarity is how rare each row's distance from the level is among those before it:
// −ln of its tail probability, by peaks over threshold, 0 while a tail is learned.
func rarity(s *series, c setting) ([]float64, error) {
	level := detect.NewRolling(c.Depth)
	// q is where a row is so rare that it teaches less; the threshold is found
	// later. Seven peaks are learned from, in time for the shortest probation.
	tail, err := detect.NewSPOT(1e-4, c.Level, int(math.Round(7/(1-c.Level))), 0)
	if err != nil {
		return nil, err
	}
	out := make([]float64, len(s.values))
	for i, v := range s.values {
		if verdict := tail.Next(math.Abs(v - level.Median())); verdict.Known {
			out[i] = min(-math.Log(verdict.Tail), certain)
		}
		level.Add(v)
	}
	return out, nil
}

// hold keeps the scores that are above all of the n before them, and makes the
// others nothing: one anomaly is reported once.
func hold(scores []float64, n int) []float64 {
	out := make([]float64, len(scores))
	var falling []int // rows of the n before, each below the one ahead of it
	for i, v := range scores {
		if len(falling) > 0 && falling[0] < i-n {
			falling = falling[1:]
		}
		if len(falling) == 0 || scores[falling[0]] < v {
			out[i] = v
		}
		for len(falling) > 0 && scores[falling[len(falling)-1]] <= v {
			falling = falling[:len(falling)-1]
		}
		falling = append(falling, i)
	}
	return out
}
