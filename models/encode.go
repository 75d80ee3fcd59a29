package models

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
)

// Coded is a model as it is written: one of the kinds, and nothing else.
type Coded struct {
	Constant *Constant `json:"constant,omitempty"`
	Boosted  *Boosted  `json:"boosted,omitempty"`
	Grown    *Grown    `json:"grown,omitempty"`
	Logistic *Linear   `json:"logistic,omitempty"`
}

// Encode is a model's code. Baselines that golearn holds have none.
func Encode(m Model) (Coded, error) {
	switch m := m.(type) {
	case *Constant:
		return Coded{Constant: m}, nil
	case *Boosted:
		return Coded{Boosted: m}, nil
	case *Grown:
		return Coded{Grown: m}, nil
	case *Linear:
		return Coded{Logistic: m}, nil
	}
	return Coded{}, fmt.Errorf("models: encode: a %T is not kept", m)
}

// Bounds of what is read: a tree, a model.
const (
	mostNodes = 1 << 20
	mostTrees = 1 << 16
)

// Decode is the model of a code for so many features and classes. What could send a
// row in a circle, or beyond what there is, is refused.
func Decode(c Coded, features, classes int) (Model, error) {
	given := 0
	for _, is := range []bool{c.Constant != nil, c.Boosted != nil, c.Grown != nil, c.Logistic != nil} {
		if is {
			given++
		}
	}
	if given != 1 {
		return nil, fmt.Errorf("models: decode: %d models where there must be one", given)
	}
	switch {
	case c.Constant != nil:
		return c.Constant, shares(c.Constant.Shares, classes)
	case c.Boosted != nil:
		return c.Boosted, c.Boosted.check(features, classes)
	case c.Grown != nil:
		return c.Grown, c.Grown.check(features, classes)
	}
	return c.Logistic, c.Logistic.check(features, classes)
}

func shares(p []float64, classes int) error {
	sum := 0.0
	for _, v := range p {
		if !(v >= 0 && v <= 1) {
			return fmt.Errorf("models: decode: a share of %v", v)
		}
		sum += v
	}
	if len(p) != classes || math.Abs(sum-1) > 1e-6 {
		return fmt.Errorf("models: decode: %d shares that add up to %v", len(p), sum)
	}
	return nil
}

func finite(values ...float64) bool {
	for _, v := range values {
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return false
		}
	}
	return true
}

func (m *Boosted) check(features, classes int) error {
	outputs := classes
	if classes == 2 {
		outputs = 1
	}
	if m.Classes != classes || len(m.Start) != outputs || !finite(m.Start...) || len(m.Trees)*outputs > mostTrees {
		return fmt.Errorf("models: decode: a booster of %d classes with %d starts and %d rounds, not of %d classes", m.Classes, len(m.Start), len(m.Trees), classes)
	}
	nodes := 0
	for _, round := range m.Trees {
		if len(round) != outputs {
			return fmt.Errorf("models: decode: a round of %d trees, not %d", len(round), outputs)
		}
		for _, t := range round {
			if nodes += len(t); nodes > mostNodes {
				return errors.New("models: decode: too many nodes")
			}
			if len(t) == 0 {
				return errors.New("models: decode: a tree without a root")
			}
			for i, n := range t {
				if !finite(n.Limit, n.Value) {
					return errors.New("models: decode: a node that is not finite")
				}
				if err := child(i, len(t), n.Feature, n.Left, n.Right, features); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// child checks where a node leads: forward only, so that no path is a circle.
func child(i, nodes int, feature, left, right int32, features int) error {
	if left == 0 && right == 0 {
		return nil
	}
	if int(left) <= i || int(right) <= i || int(left) >= nodes || int(right) >= nodes || feature < 0 || int(feature) >= features {
		return fmt.Errorf("models: decode: node %d of %d leads to %d and %d by feature %d of %d", i, nodes, left, right, feature, features)
	}
	return nil
}

func (m *Grown) check(features, classes int) error {
	if m.Classes != classes || len(m.Imputed.Medians) != features || !finite(m.Imputed.Medians...) || len(m.Trees) == 0 || len(m.Trees) > mostTrees {
		return fmt.Errorf("models: decode: a forest of %d trees, %d classes and %d features, not of %d and %d", len(m.Trees), m.Classes, len(m.Imputed.Medians), classes, features)
	}
	nodes := 0
	for _, t := range m.Trees {
		if nodes += len(t); nodes > mostNodes {
			return errors.New("models: decode: too many nodes")
		}
		if len(t) == 0 {
			return errors.New("models: decode: a tree without a root")
		}
		for i, n := range t {
			if !finite(n.Limit) {
				return errors.New("models: decode: a node that is not finite")
			}
			if err := child(i, len(t), n.Feature, n.Left, n.Right, 2*features); err != nil {
				return err
			}
			if n.Left != 0 {
				continue
			}
			sum := 0
			for _, c := range n.Counts {
				if c < 0 || c > math.MaxInt32 {
					return fmt.Errorf("models: decode: a leaf with %d rows", c)
				}
				sum += c
			}
			if len(n.Counts) != classes || sum == 0 {
				return fmt.Errorf("models: decode: a leaf with %d rows of %d classes", sum, len(n.Counts))
			}
		}
	}
	return nil
}

// Strict decodes one JSON value into v: no unknown key, nothing behind it.
func Strict(data []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if d.More() {
		return errors.New("there is more behind it")
	}
	return nil
}
