package diagnose

import (
	"cmp"
	"math"
	"slices"

	dhalion "github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/models"
)

// Exemplar is a target as it was in a window of the training data: one at which a
// cause held, or one that only looked so.
type Exemplar struct {
	Target dhalion.Target `json:"target"`
	// Held is all that held in the window, at this target or elsewhere; empty where
	// nothing was wrong.
	Held      []dhalion.Pair `json:"held"`
	Run       string         `json:"run"`
	Incident  string         `json:"incident"`
	Family    string         `json:"family"`
	Magnitude string         `json:"magnitude,omitempty"`
	// Values are those of the features that classifiers get, to three digits.
	Values []float64 `json:"-"`
}

// Holds says that a cause held at the exemplar's target.
func (e *Exemplar) Holds(c dhalion.Cause) bool {
	return slices.Contains(e.Held, dhalion.Pair{Target: e.Target, Cause: c})
}

// How many exemplars are kept of a cause at a kind of target: incidents, and times
// when it did not hold that classifiers took for likeliest.
const (
	mostIncidents = 8
	mostAlike     = 4
)

// exemplars are chosen so that no incident is far from one that is kept: the first is
// that in the middle, each next the one farthest from all before it.
func (m *Learned) exemplars(examples []Example, rows []exampleRow, outside []float64) []Exemplar {
	var all []Exemplar
	for _, s := range seats() {
		last, alike := map[string]exampleRow{}, map[string]exampleRow{}
		for _, r := range rows {
			if seatOf(r.Pair) != s || !r.sure {
				continue
			}
			e := &examples[r.example]
			switch {
			case r.holds == 1:
				if old, ok := last[e.Incident]; !ok || !e.At.Before(examples[old.example].At) {
					last[e.Incident] = r
				}
			case !math.IsNaN(outside[r.index]):
				if old, ok := alike[e.Incident]; !ok || outside[r.index] > outside[old.index] {
					alike[e.Incident] = r
				}
			}
		}
		for _, r := range m.spread(s.Kind, inOrder(last)) {
			all = append(all, m.exemplar(&examples[r.example], r))
		}
		near := inOrder(alike)
		slices.SortStableFunc(near, func(a, b exampleRow) int { return cmp.Compare(outside[b.index], outside[a.index]) })
		for _, r := range near[:min(mostAlike, len(near))] {
			all = append(all, m.exemplar(&examples[r.example], r))
		}
	}
	return all
}

func inOrder(byName map[string]exampleRow) []exampleRow {
	names := map[string]int{}
	for name := range byName {
		names[name] = 0
	}
	var out []exampleRow
	for _, name := range sorted(names) {
		out = append(out, byName[name])
	}
	return out
}

func (m *Learned) exemplar(e *Example, r exampleRow) Exemplar {
	x := Exemplar{Target: r.Target, Held: []dhalion.Pair{}, Run: e.Run, Incident: e.Incident, Family: e.Family, Magnitude: e.Magnitude}
	for i, c := range e.Cases {
		if e.Holds[i] == 1 {
			x.Held = append(x.Held, c.Pair)
		}
	}
	for _, i := range m.columns[r.Target.Kind] {
		x.Values = append(x.Values, models.Digits(r.Vector.Values[i], 3, math.Round))
	}
	return x
}

// spread picks at most mostIncidents of the rows.
func (m *Learned) spread(kind dhalion.TargetKind, rows []exampleRow) []exampleRow {
	if len(rows) <= mostIncidents {
		return rows
	}
	values := make([][]float64, len(rows))
	for i, r := range rows {
		for _, k := range m.columns[kind] {
			values[i] = append(values[i], r.Vector.Values[k])
		}
	}
	first, least := 0, math.Inf(1)
	for i := range rows {
		sum := 0.0
		for j := range rows {
			sum += m.distance(kind, values[i], values[j])
		}
		if sum < least {
			first, least = i, sum
		}
	}
	away := make([]float64, len(rows))
	for i := range away {
		away[i] = math.Inf(1)
	}
	chosen := []int{}
	for next := first; len(chosen) < mostIncidents; {
		chosen = append(chosen, next)
		farthest := -1.0
		from := values[next]
		for i := range rows {
			away[i] = math.Min(away[i], m.distance(kind, from, values[i]))
			if away[i] > farthest {
				next, farthest = i, away[i]
			}
		}
	}
	slices.Sort(chosen)
	out := make([]exampleRow, 0, mostIncidents)
	for _, i := range chosen {
		out = append(out, rows[i])
	}
	return out
}

// distance of two vectors of the features that classifiers get, 0 to 1: the mean over
// features of how large a share of the training values lies between them. What is
// known of one alone counts a half.
func (m *Learned) distance(kind dhalion.TargetKind, a, b []float64) float64 {
	r := m.References[kind]
	if r == nil || len(a) == 0 {
		return nan
	}
	sum := 0.0
	for f := range a {
		sum += between(r, f, a[f], b[f])
	}
	return sum / float64(len(a))
}

func between(r *models.Reference, f int, a, b float64) float64 {
	switch x, y := math.IsNaN(a), math.IsNaN(b); {
	case x && y:
		return 0
	case x || y:
		return .5
	}
	if d := math.Abs(r.Position(f, a) - r.Position(f, b)); d < 1 {
		return d
	} else if math.IsNaN(d) {
		return flag(a != b) // nothing was known of it in training
	}
	return 1
}

// Likeness is an exemplar and how alike it is, 0 to 1: one less the mean over features
// of the share of the training values that lie between the two.
type Likeness struct {
	Exemplar
	Likeness float64 `json:"likeness"`
}

// MostLike are the exemplars of a kind of target that are most like a case, the
// likeliest first: incidents in which its cause held at the target, at most so many,
// and the first at whose target it did not hold; nil where there is none.
func (m *Learned) MostLike(c Case, most int) (incidents []Likeness, other *Likeness) {
	var values []float64
	for _, i := range m.columns[c.Target.Kind] {
		values = append(values, c.Vector.Values[i])
	}
	var all []Likeness
	for _, e := range m.Exemplars {
		if e.Target.Kind == c.Target.Kind {
			if d := m.distance(c.Target.Kind, values, e.Values); !math.IsNaN(d) {
				all = append(all, Likeness{e, 1 - d})
			}
		}
	}
	slices.SortStableFunc(all, func(a, b Likeness) int { return cmp.Compare(b.Likeness, a.Likeness) })
	seen := map[string]bool{}
	for _, l := range all {
		switch key := l.Incident + " " + l.Target.String(); {
		case seen[key]:
		case l.Holds(c.Cause):
			seen[key] = true
			if len(incidents) < most {
				incidents = append(incidents, l)
			}
		case other == nil:
			other = &l
		}
	}
	return incidents, other
}
