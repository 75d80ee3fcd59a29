package models

import (
	"math"
	"slices"
)

// Calibration turns a probability into one that comes true as often as it says. The
// zero Calibration leaves it as it is.
type Calibration struct {
	// Kind is "temperature", "platt" or "isotonic"; empty: none.
	Kind string `json:"kind,omitempty"`
	// Slope and Shift act on log-odds (temperature has no shift).
	Slope float64 `json:"slope,omitempty"`
	Shift float64 `json:"shift,omitempty"`
	// From and To are the corners of an isotonic step function, between which is
	// interpolated.
	From []float64 `json:"from,omitempty"`
	To   []float64 `json:"to,omitempty"`
}

// Of is the calibrated probability.
func (c *Calibration) Of(p float64) float64 {
	switch c.Kind {
	case "temperature", "platt":
		return 1 / (1 + math.Exp(-(c.Slope*logOdds(p) + c.Shift)))
	case "isotonic":
		// A hundredth of what it was keeps two on one step apart, in their order.
		return .99*c.step(p) + .01*p
	}
	return p
}

func (c *Calibration) step(p float64) float64 {
	i, exact := slices.BinarySearch(c.From, p)
	switch {
	case exact:
		return c.To[i]
	case i == 0:
		return c.To[0]
	case i == len(c.From):
		return c.To[i-1]
	}
	share := (p - c.From[i-1]) / (c.From[i] - c.From[i-1])
	return c.To[i-1] + share*(c.To[i]-c.To[i-1])
}

func logOdds(p float64) float64 {
	p = math.Min(1-sureness, math.Max(sureness, p))
	return math.Log(p / (1 - p))
}

// Platt fits slope and shift of log-odds by least log loss (J. Platt, Probabilistic
// outputs for support vector machines, 1999, with its softened targets).
func Platt(p []float64, holds []bool, weight []float64) Calibration {
	return onLogOdds("platt", p, holds, weight, true)
}

// Temperature fits the slope alone (C. Guo et al., On calibration of modern neural
// networks, ICML 2017).
func Temperature(p []float64, holds []bool, weight []float64) Calibration {
	return onLogOdds("temperature", p, holds, weight, false)
}

func onLogOdds(kind string, p []float64, holds []bool, weight []float64, shifts bool) Calibration {
	positive, negative := 0.0, 0.0
	w := func(i int) float64 {
		if weight == nil {
			return 1
		}
		return weight[i]
	}
	for i, h := range holds {
		if h {
			positive += w(i)
		} else {
			negative += w(i)
		}
	}
	high, low := (positive+1)/(positive+2), 1/(negative+2)
	slope, shift := 1.0, 0.0
	for range 100 {
		// Newton's step, with a little weight on where it begins.
		const ridge = 1e-3
		ga, gb := ridge*(slope-1), ridge*shift
		haa, hab, hbb := ridge, 0.0, ridge
		for i, v := range p {
			x := logOdds(v)
			q := 1 / (1 + math.Exp(-(slope*x + shift)))
			y := low
			if holds[i] {
				y = high
			}
			g, h := w(i)*(q-y), w(i)*math.Max(q*(1-q), 1e-9)
			ga += g * x
			gb += g
			haa += h * x * x
			hab += h * x
			hbb += h
		}
		var da, db float64
		if shifts {
			det := haa*hbb - hab*hab
			da, db = (hbb*ga-hab*gb)/det, (haa*gb-hab*ga)/det
		} else {
			da = ga / haa
		}
		da, db = math.Max(-1, math.Min(1, da)), math.Max(-1, math.Min(1, db))
		slope -= da
		shift -= db
		if math.Abs(da)+math.Abs(db) < 1e-10 {
			break
		}
	}
	return Calibration{Kind: kind, Slope: math.Max(slope, 1e-3), Shift: shift}
}

// Isotonic fits the rising step function of least squared error, by pooling adjacent
// violators (M. Ayer et al., Annals of Mathematical Statistics 26, 1955). A step is
// drawn in by half a row to either side, so that nothing is certain.
func Isotonic(p []float64, holds []bool, weight []float64) Calibration {
	type block struct{ from, to, sum, weight float64 }
	var blocks []block
	for _, i := range ascending(p) {
		w, y := 1.0, 0.0
		if weight != nil {
			w = weight[i]
		}
		if holds[i] {
			y = 1
		}
		if w == 0 {
			continue
		}
		blocks = append(blocks, block{p[i], p[i], w * y, w})
		for n := len(blocks); n > 1; n = len(blocks) {
			a, b := blocks[n-2], blocks[n-1]
			if a.to < b.from && a.sum/a.weight < b.sum/b.weight {
				break
			}
			blocks = append(blocks[:n-2], block{a.from, b.to, a.sum + b.sum, a.weight + b.weight})
		}
	}
	c := Calibration{Kind: "isotonic"}
	corner := func(x, y float64) {
		if n := len(c.From); n > 0 && c.From[n-1] == x {
			return
		}
		c.From, c.To = append(c.From, x), append(c.To, y)
	}
	for _, b := range blocks {
		v := (b.sum + .5) / (b.weight + 1)
		corner(b.from, v)
		corner(b.to, v)
	}
	if len(c.From) == 0 {
		return Calibration{}
	}
	for i := 1; i < len(c.To); i++ {
		c.To[i] = math.Max(c.To[i], c.To[i-1]) // half a row may turn two short steps around
	}
	return c
}

// Calibrate chooses between leaving probabilities as they are, a temperature and
// Platt's line, by log loss on folds that none was fitted on, and fits the choice to
// all. folds has each row's. A step function is not among them: where hardly anything
// lies between .1 and .9 it makes its steps of a handful of rows, wins on the folds
// by a hair, and turns what is unlikely into what is likely on data of another origin
// (docs/adr/0008).
func Calibrate(p []float64, holds []bool, weight []float64, folds []int) Calibration {
	kinds := []func([]float64, []bool, []float64) Calibration{
		func([]float64, []bool, []float64) Calibration { return Calibration{} }, Temperature, Platt,
	}
	k := slices.Max(append([]int{-1}, folds...)) + 1
	best, least := 0, math.Inf(1)
	for n, fit := range kinds {
		loss, sum := 0.0, 0.0
		for f := range k {
			var a, b []float64
			var ha []bool
			var wa []float64
			for i := range p {
				if folds[i] == f {
					b = append(b, p[i])
					continue
				}
				a, ha = append(a, p[i]), append(ha, holds[i])
				if weight != nil {
					wa = append(wa, weight[i])
				}
			}
			c := fit(a, ha, wa)
			at := 0
			for i := range p {
				if folds[i] != f {
					continue
				}
				w := 1.0
				if weight != nil {
					w = weight[i]
				}
				loss += w * LossOf(c.Of(b[at]), holds[i])
				sum += w
				at++
			}
		}
		if loss /= sum; loss < least-1e-9 {
			best, least = n, loss
		}
	}
	return kinds[best](p, holds, weight)
}
