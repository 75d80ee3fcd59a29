package diagnose

import (
	"math"
	"slices"
	"time"

	dhalion "github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/models"
)

// Assessment is how probabilities of labelled examples fared. Of every incident one
// window counts, the last; of times in which nothing was wrong those that have no
// measurement in common.
type Assessment struct {
	LogLoss float64 `json:"log_loss"` // mean over pairs
	// Of the log loss, 95 %, by a bootstrap of whole incidents and quiet windows.
	LogLossLow       float64 `json:"log_loss_low"`
	LogLossHigh      float64 `json:"log_loss_high"`
	CalibrationError float64 `json:"calibration_error"` // of the first diagnosis, 10 bins of equal mass, less what chance makes
	Pairs            int     `json:"pairs"`
	Windows          int     `json:"windows"`
	First            int     `json:"first"` // incidents whose first diagnosis is right, at its target
	Incidents        int     `json:"incidents"`
	Alarms           int     `json:"alarms"` // quiet windows, a window apart, in which something but transient is likelier than not
	Quiet            int     `json:"quiet"`
}

// sick says that an example is of an incident: something holds, and not transient alone.
func (e *Example) sick() bool {
	for i, c := range e.Cases {
		if e.Holds[i] == 1 && c.Cause != dhalion.Transient {
			return true
		}
	}
	return false
}

// repeated are the places of quiet examples that begin within another that counts, of
// the same run. They see the same minute, and what is counted of them as if each were
// one of its own would be surer than it is.
func repeated(examples []Example) map[int]bool {
	var quiet []int
	for i := range examples {
		if len(examples[i].Cases) > 0 && !examples[i].sick() {
			quiet = append(quiet, i)
		}
	}
	slices.SortStableFunc(quiet, func(i, j int) int { return examples[i].At.Compare(examples[j].At) })
	counts, out := map[string]time.Time{}, map[int]bool{}
	for _, i := range quiet {
		e := &examples[i]
		if at, ok := counts[e.Run]; ok && e.At.Before(at.Add(e.Window)) {
			out[i] = true
			continue
		}
		counts[e.Run] = e.At
	}
	return out
}

// Assess scores probabilities, those of each example in the order of its cases.
func Assess(examples []Example, probabilities [][]float64) Assessment {
	again := repeated(examples)
	last := map[string]int{}
	for i := range examples {
		e := &examples[i]
		if j, ok := last[e.Incident]; e.sick() && (!ok || examples[j].At.Before(e.At)) {
			last[e.Incident] = i
		}
	}
	var a Assessment
	var top, losses []float64
	var right []bool
	var groups []string
	for i := range examples {
		e, p := &examples[i], probabilities[i]
		sick := e.sick()
		if sick && last[e.Incident] != i || again[i] || len(p) == 0 {
			continue
		}
		a.Windows++
		for k := range p {
			if !math.IsNaN(e.Holds[k]) {
				losses, groups = append(losses, models.LossOf(p[k], e.Holds[k] == 1)), append(groups, e.Incident)
				a.Pairs++
			}
		}
		best := slices.Index(p, slices.Max(p))
		top, right = append(top, p[best]), append(right, e.Holds[best] == 1)
		switch {
		case sick:
			a.Incidents++
			if e.Holds[best] == 1 {
				a.First++
			}
		default:
			a.Quiet++
			for k, c := range e.Cases {
				if p[k] > .5 && c.Cause != dhalion.Transient && !(e.Holds[k] == 1) {
					a.Alarms++
					break
				}
			}
		}
	}
	if a.Pairs > 0 {
		a.LogLoss, a.LogLossLow, a.LogLossHigh = models.PairedBootstrap(losses, groups, 1000, 1)
	}
	_, a.CalibrationError = models.CalibrationError(top, right, 10, 1000, 1)
	if math.IsNaN(a.CalibrationError) {
		a.CalibrationError = 0
	}
	return a
}

// ByRules are the probabilities that the rules alone give to cases; 0 where none
// speaks.
func ByRules(cases []Case) []float64 {
	p := make([]float64, len(cases))
	for i, c := range cases {
		if !math.IsNaN(c.Rules) {
			p[i] = logistic(c.Rules)
		}
	}
	return p
}
