// Package scenario is the lab's language: what a run of a job goes through (load,
// faults, rescales), which knobs that sets, which causes then hold by
// construction, and a generator that draws a whole schedule from a seed. It is
// pure: nothing here starts a process or reads a clock.
package scenario

import (
	"bytes"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"

	"go.yaml.in/yaml/v3"
)

// Shapes are the lab's jobs by name, as lab/jobs/shapes.yaml has them.
type Shapes map[string]Shape

// Shape is a job: its class and its components. It is no run of it.
type Shape struct {
	Class      string               `yaml:"class"`
	Components map[string]Component `yaml:"components"`
}

// Component is one operator of a shape at load 1.
type Component struct {
	Kind        string            `yaml:"kind"`             // source, stage or sink
	Keyed       bool              `yaml:"keyed,omitempty"`  // reads by key: it can be skewed
	Parallelism int               `yaml:"parallelism"`      // instances
	Rate        float64           `yaml:"rate,omitempty"`   // records/s of a source, all instances
	Utilisation float64           `yaml:"utilisation"`      // busy share of an instance, 0–1
	Inputs      map[string]string `yaml:"inputs,omitempty"` // upstream component → hash, rebalance, …
	Fan         float64           `yaml:"fan,omitempty"`    // records out to each reader per record in; 0 is 1
	Share       float64           `yaml:"share,omitempty"`  // of a side output: records into it per record into its input; 0 is all that its input puts out
}

// Source and Sink are the kinds that the rules treat apart; all else is a stage.
const (
	Source = "source"
	Sink   = "sink"
)

// ReadShapes decodes shapes.yaml. An error says FILE:LINE where it can.
func ReadShapes(file string, data []byte) (Shapes, error) {
	var doc struct {
		Shapes Shapes `yaml:"shapes"`
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	if err := dec.Decode(&doc); err != nil {
		return nil, yamlError(file, data, err)
	}
	if len(doc.Shapes) == 0 {
		return nil, fmt.Errorf("%s: there are no shapes", file)
	}
	for _, name := range slices.Sorted(maps.Keys(doc.Shapes)) {
		if err := doc.Shapes[name].check(); err != nil {
			return nil, fmt.Errorf("%s: shape %s: %w", file, name, err)
		}
	}
	return doc.Shapes, nil
}

func (s Shape) check() error {
	if s.Class == "" {
		return fmt.Errorf("no class")
	}
	for _, name := range s.Names() {
		c := s.Components[name]
		switch {
		case c.Parallelism < 1:
			return fmt.Errorf("%s: parallelism %d", name, c.Parallelism)
		case !(c.Utilisation > 0 && c.Utilisation < 1):
			return fmt.Errorf("%s: utilisation %v is not between 0 and 1", name, c.Utilisation)
		case c.Kind == Source && !(c.Rate > 0):
			return fmt.Errorf("%s: a source needs a rate", name)
		case c.Kind != Source && len(c.Inputs) == 0:
			return fmt.Errorf("%s: no inputs", name)
		case c.Kind != Source && c.Kind != Sink && c.Kind != "stage":
			return fmt.Errorf("%s: kind %q is none of source, stage, sink", name, c.Kind)
		}
		for input := range c.Inputs {
			if _, ok := s.Components[input]; !ok {
				return fmt.Errorf("%s: input %s is no component", name, input)
			}
		}
	}
	for _, name := range s.Names() {
		if !(s.rateIn(name, len(s.Components)) > 0) {
			return fmt.Errorf("%s: no records reach it, or it reads itself", name)
		}
	}
	return nil
}

// Names are the components, sorted.
func (s Shape) Names() []string { return slices.Sorted(maps.Keys(s.Components)) }

// Stages are the components that are no sources, sorted.
func (s Shape) Stages() []string {
	return slices.DeleteFunc(s.Names(), func(n string) bool { return s.Components[n].Kind == Source })
}

// RateIn is how many records reach a component at load 1, 1/s; of a source, how
// many it emits.
func (s Shape) RateIn(name string) float64 { return s.rateIn(name, len(s.Components)) }

func (s Shape) rateIn(name string, depth int) float64 {
	c := s.Components[name]
	if c.Kind == Source {
		return c.Rate
	}
	if depth == 0 {
		return math.NaN() // a cycle
	}
	in := 0.0
	for _, from := range slices.Sorted(maps.Keys(c.Inputs)) {
		up := s.Components[from]
		out := s.rateIn(from, depth-1)
		switch {
		case c.Share > 0:
			out *= c.Share
		case up.Kind != Source:
			out *= up.fan()
		}
		in += out
	}
	return in
}

func (c Component) fan() float64 {
	if c.Fan == 0 {
		return 1
	}
	return c.Fan
}

// Cost is what a record costs an instance of the component, ms: parallelism
// instances are busy for utilisation of the time at load 1.
func (s Shape) Cost(name string) float64 {
	c := s.Components[name]
	return 1000 * c.Utilisation * float64(c.Parallelism) / s.RateIn(name)
}

// Arguments are the job's command line: one --component for each.
func (s Shape) Arguments() []string {
	var args []string
	for _, name := range s.Names() {
		c := s.Components[name]
		arg := fmt.Sprintf("%s,parallelism=%d,cost=%s", name, c.Parallelism, number(s.Cost(name)))
		if c.Kind == Source {
			arg += ",rate=" + number(c.Rate)
		}
		if c.Fan != 0 {
			arg += ",fan=" + number(c.Fan)
		}
		args = append(args, "--component", arg)
	}
	return args
}

// number writes six significant digits: enough for a knob, and the same on every
// machine.
func number(v float64) string { return strconv.FormatFloat(v, 'g', 6, 64) }

// limiting is the component that saturates first as the load grows, and its
// utilisation at load 1.
func (s Shape) limiting() (name string, utilisation float64) {
	for _, n := range s.Stages() {
		if u := s.Components[n].Utilisation; u > utilisation {
			name, utilisation = n, u
		}
	}
	return name, utilisation
}
