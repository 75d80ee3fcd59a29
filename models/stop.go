package models

import "math"

// Best is the model after the number of rounds, at least one, that has the least
// log loss on other data of the same features and classes: stopping early, found after
// the fact. Data that its trees were grown on know nothing of that. The trees are
// shared with the model. Of equal numbers the least wins.
func (m *Boosted) Best(validation *Data) (*Boosted, error) {
	if err := validation.Check(); err != nil {
		return nil, err
	}
	if err := m.check(len(validation.Names), validation.Classes); err != nil {
		return nil, err
	}
	outputs := len(m.Start)
	scores := make([]float64, 0, validation.Rows*outputs)
	for range validation.Rows {
		scores = append(scores, m.Start...)
	}
	p := make([]float64, m.Classes)
	best, least := 0, math.Inf(1)
	for r, round := range m.Trees {
		loss := 0.0
		for i, y := range validation.Y {
			z := scores[i*outputs : (i+1)*outputs]
			for k, t := range round {
				z[k] += t.value(validation.Row(i))
			}
			if outputs == 1 {
				p[1] = sigmoid(z[0])
				p[0] = 1 - p[1]
			} else {
				copy(p, z)
				softmax(p)
			}
			loss += validation.weight(i) * LossOf(p[y], true)
		}
		if loss < least {
			best, least = r+1, loss
		}
	}
	return &Boosted{Classes: m.Classes, Start: m.Start, Trees: m.Trees[:best]}, nil
}
