package scenario

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/dhalion-go/dhalion/internal/yamlerr"
)

// Scenario is one run of one job: what it starts with and what happens to it.
type Scenario struct {
	Name      string     `yaml:"name"`            // of the run, and of the job on the engine
	Shape     string     `yaml:"job"`             // of lab/jobs/shapes.yaml
	Seed      uint64     `yaml:"seed"`            // of the job's noise and of what is picked at run time
	Split     string     `yaml:"split"`           // train, validation, test or heldout
	Alone     bool       `yaml:"alone,omitempty"` // no other job may run meanwhile: it burns CPU
	Base      Base       `yaml:"base,omitempty"`
	Healthy   Duration   `yaml:"healthy"` // before the first incident
	Gap       Duration   `yaml:"gap"`     // between incidents, from when the backlog is gone
	Load      Load       `yaml:"load"`
	Incidents []Incident `yaml:"incidents"`
}

// Base changes a shape for a whole run.
type Base struct {
	Parallelism map[string]int     `yaml:"parallelism,omitempty"`
	Utilisation map[string]float64 `yaml:"utilisation,omitempty"`
	Burn        map[string]float64 `yaml:"burn,omitempty"` // share of the cost that takes CPU, 0–1
}

// Load is what arrives while nothing is wrong: 1 times the shape's rates, with a
// sine of Wave (a share) every Period and a jitter (a share) from second to
// second, times the last of the steps.
type Load struct {
	Wave   float64  `yaml:"wave"`
	Period Duration `yaml:"period"`
	Jitter float64  `yaml:"jitter"`
	Steps  []Step   `yaml:"steps,omitempty"`
}

// Step sets the load from a time after the run's start on. With Ramp it gets
// there in a straight line from the step before.
type Step struct {
	At   Duration `yaml:"at"`
	Rate float64  `yaml:"rate"`
	Ramp bool     `yaml:"ramp,omitempty"`
}

// Incident is one thing that goes wrong, of one fault or several at once, or a
// quiet one that must not be taken for such.
type Incident struct {
	Name      string  `yaml:"name"`
	Magnitude string  `yaml:"magnitude,omitempty"` // mild, moderate, strong; empty where there are no classes
	Settle    string  `yaml:"settle,omitempty"`    // how it ends: cut (the default) or drain the backlog
	Faults    []Fault `yaml:"faults"`
	Note      string  `yaml:"note,omitempty"`
}

// Fault turns one knob for a time. It is what is done to the job, not what is
// wrong with it: that follows by the rules of Causes.
type Fault struct {
	Kind      Kind     `yaml:"kind"`
	At        Duration `yaml:"at,omitempty"` // after the incident's start
	For       Duration `yaml:"for"`
	Component string   `yaml:"component,omitempty"`
	Instance  *int     `yaml:"instance,omitempty"`
	Worker    *Pick    `yaml:"worker,omitempty"`
	Factor    float64  `yaml:"factor,omitempty"` // load, cost and worker: times what it is; rescale: instances more or less
	Share     float64  `yaml:"share,omitempty"`  // hot: of the records; memory: of the time, for collections
	Key       int      `yaml:"key,omitempty"`    // hot: which key
	Every     Duration `yaml:"every,omitempty"`  // fail: after each start
	Keys      int      `yaml:"keys,omitempty"`   // salt: sub-keys
	Wave      float64  `yaml:"wave,omitempty"`   // noise
	Jitter    float64  `yaml:"jitter,omitempty"` // noise
}

// Kind says which knob a fault turns.
type Kind string

// The kinds of fault.
const (
	LoadFactor Kind = "load"       // the load times Factor
	Noise      Kind = "noise"      // another wave and jitter
	Cost       Kind = "cost"       // what a record costs a component, or one instance of it, times Factor
	SlowWorker Kind = "worker"     // every record of every non-source instance on a worker costs Factor times as much
	Hot        Kind = "hot"        // Share of a component's records carry one key
	Salt       Kind = "salt"       // a component's hot key is spread over Keys
	Memory     Kind = "memory"     // a worker holds its old generation full, and collections take Share of its time
	Checkpoint Kind = "checkpoint" // checkpoints find no storage
	Fail       Kind = "fail"       // an instance throws, Every so long after it started
	LoseWorker Kind = "lose"       // a worker is killed; a new one comes 10 s later
	Rescale    Kind = "rescale"    // a component gets Factor instances more, then as many as it had
)

// Pick is a worker that is chosen at run time, from the run's seed, out of those
// that qualify: at least Loaded non-source instances, one of Hosts if it is set.
type Pick struct {
	Loaded int    `yaml:"loaded,omitempty"`
	Hosts  string `yaml:"hosts,omitempty"`
}

// Duration is a time.Duration that reads and writes as 60s.
type Duration time.Duration

// UnmarshalYAML reads Go's notation.
func (d *Duration) UnmarshalYAML(n *yaml.Node) error {
	v, err := time.ParseDuration(n.Value)
	if err != nil || v < 0 {
		return fmt.Errorf("line %d: %q is no duration such as 60s", n.Line, n.Value)
	}
	*d = Duration(v)
	return nil
}

// MarshalYAML writes seconds, as 90s.
func (d Duration) MarshalYAML() (any, error) {
	return number(time.Duration(d).Seconds()) + "s", nil
}

// Seconds is the duration in seconds.
func (d Duration) Seconds() float64 { return time.Duration(d).Seconds() }

// Length is from the incident's start to the end of its last fault.
func (in Incident) Length() time.Duration {
	var end time.Duration
	for _, f := range in.Faults {
		end = max(end, time.Duration(f.At+f.For))
	}
	return end
}

// At is the load factor a time after the run's start, without wave and jitter.
func (l Load) At(t time.Duration) float64 {
	rate, from := 1.0, time.Duration(0)
	for _, s := range l.Steps {
		at := time.Duration(s.At)
		if t < at {
			if s.Ramp && at > from {
				return rate + (s.Rate-rate)*float64(t-from)/float64(at-from)
			}
			return rate
		}
		rate, from = s.Rate, at
	}
	return rate
}

// Parse reads a scenario and checks it against the shapes. An error begins with
// FILE:LINE.
func Parse(file string, data []byte, shapes Shapes) (Scenario, error) {
	var s Scenario
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	if err := dec.Decode(&s); err != nil {
		return s, yamlError(file, data, err)
	}
	var more yaml.Node
	if err := dec.Decode(&more); !errors.Is(err, io.EOF) {
		return s, fmt.Errorf("%s:%d: one scenario to a file", file, max(1, more.Line))
	}
	var root yaml.Node
	if err := yaml.Unmarshal(data, &root); err != nil {
		return s, yamlError(file, data, err)
	}
	if at, err := s.check(shapes); err != nil {
		return s, fmt.Errorf("%s:%d: %w", file, max(1, lineOf(&root, at)), err)
	}
	return s, nil
}

// Marshal writes a scenario as Parse reads it; equal scenarios give equal bytes.
func (s Scenario) Marshal() ([]byte, error) {
	var out bytes.Buffer
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(2)
	if err := enc.Encode(s); err != nil {
		return nil, fmt.Errorf("scenario: encode %s: %w", s.Name, err)
	}
	return out.Bytes(), enc.Close()
}

var plainName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]*$`)

// ShapeOf is the scenario's shape with its base laid over it.
func (s Scenario) ShapeOf(shapes Shapes) (Shape, error) {
	shape, ok := shapes[s.Shape]
	if !ok {
		return shape, fmt.Errorf("there is no shape %q", s.Shape)
	}
	with := Shape{Class: shape.Class, Components: map[string]Component{}}
	for name, c := range shape.Components {
		if p, ok := s.Base.Parallelism[name]; ok {
			c.Parallelism = p
		}
		if u, ok := s.Base.Utilisation[name]; ok {
			c.Utilisation = u
		}
		with.Components[name] = c
	}
	for _, names := range [][]string{keys(s.Base.Parallelism), keys(s.Base.Utilisation), keys(s.Base.Burn)} {
		for _, name := range names {
			if _, ok := shape.Components[name]; !ok {
				return with, fmt.Errorf("shape %s has no component %q", s.Shape, name)
			}
		}
	}
	return with, with.check()
}

// check says what is wrong and at which keys of the file.
func (s Scenario) check(shapes Shapes) (at []any, err error) {
	if !plainName.MatchString(s.Name) {
		return []any{"name"}, fmt.Errorf("name %q: small letters, digits and - only", s.Name)
	}
	shape, err := s.ShapeOf(shapes)
	if err != nil {
		if _, ok := shapes[s.Shape]; !ok {
			return []any{"job"}, err
		}
		return []any{"base"}, err
	}
	if !slices.Contains([]string{"train", "validation", "test", HeldOut}, s.Split) {
		return []any{"split"}, fmt.Errorf("split %q is none of train, validation, test, heldout", s.Split)
	}
	switch {
	case s.Healthy <= 0:
		return []any{"healthy"}, errors.New("healthy says how long nothing is wrong before the first incident, such as 120s")
	case s.Gap <= 0:
		return []any{"gap"}, errors.New("gap says how long nothing is wrong between two incidents, such as 36s")
	}
	for _, name := range keys(s.Base.Burn) {
		if b := s.Base.Burn[name]; !(b >= 0 && b <= 1) {
			return []any{"base", "burn", name}, fmt.Errorf("burn %v is no share", b)
		}
		if !s.Alone {
			return []any{"base", "burn"}, errors.New("a run that burns CPU must be alone: true")
		}
	}
	if s.Load.Wave < 0 || s.Load.Wave > 0.5 || s.Load.Jitter < 0 || s.Load.Jitter > 0.5 || s.Load.Wave > 0 && s.Load.Period <= 0 {
		return []any{"load"}, errors.New("wave and jitter are shares up to 0.5, and a wave has a period")
	}
	for i, step := range s.Load.Steps {
		if !(step.Rate > 0 && step.Rate <= 10) || i > 0 && step.At <= s.Load.Steps[i-1].At {
			return []any{"load", "steps", i}, errors.New("steps are in order of time, with rates in (0, 10]")
		}
	}
	names := map[string]bool{}
	for i, in := range s.Incidents {
		at := []any{"incidents", i}
		switch {
		case in.Name == "" || names[in.Name]:
			return append(at, "name"), fmt.Errorf("incident %q: each has a name of its own", in.Name)
		case len(in.Faults) == 0:
			return at, fmt.Errorf("incident %s has no faults", in.Name)
		case !slices.Contains([]string{"", "mild", "moderate", "strong"}, in.Magnitude):
			return append(at, "magnitude"), fmt.Errorf("magnitude %q is none of mild, moderate, strong", in.Magnitude)
		case !slices.Contains([]string{"", "cut", "drain"}, in.Settle):
			return append(at, "settle"), fmt.Errorf("settle %q is neither cut nor drain", in.Settle)
		}
		names[in.Name] = true
		for k, f := range in.Faults {
			if where, err := f.check(shape); err != nil {
				return append(append(at, "faults", k), where...), fmt.Errorf("%s: %w", f.Kind, err)
			}
		}
	}
	return nil, nil
}

// uses are the keys of each kind of fault, beside kind, at and for.
var uses = map[Kind][]string{
	LoadFactor: {"factor"},
	Noise:      {"wave", "jitter"},
	Cost:       {"component", "instance", "factor"},
	SlowWorker: {"worker", "factor"},
	Hot:        {"component", "share", "key"},
	Salt:       {"component", "keys"},
	Memory:     {"worker", "share"},
	Checkpoint: {},
	Fail:       {"component", "instance", "every"},
	LoseWorker: {"worker"},
	Rescale:    {"component", "factor"},
}

// unused is the first key that a fault has and its kind does not use.
func (f Fault) unused() string {
	for _, k := range []struct {
		key   string
		given bool
	}{
		{"component", f.Component != ""}, {"instance", f.Instance != nil}, {"worker", f.Worker != nil}, {"factor", f.Factor != 0},
		{"share", f.Share != 0}, {"key", f.Key != 0}, {"every", f.Every != 0}, {"keys", f.Keys != 0}, {"wave", f.Wave != 0}, {"jitter", f.Jitter != 0},
	} {
		if k.given && !slices.Contains(uses[f.Kind], k.key) {
			return k.key
		}
	}
	return ""
}

// check says what is wrong and at which key of the fault.
func (f Fault) check(shape Shape) (at []any, err error) {
	if _, ok := uses[f.Kind]; !ok {
		return []any{"kind"}, errors.New("there is no such kind; there are load, noise, cost, worker, hot, salt, memory, checkpoint, fail, lose, rescale")
	}
	if key := f.unused(); key != "" {
		return []any{key}, fmt.Errorf("does not use %s; it uses %s", key, strings.Join(append(slices.Clone(uses[f.Kind]), "at", "for"), ", "))
	}
	c, known := shape.Components[f.Component]
	if f.Component != "" && !known {
		return []any{"component"}, fmt.Errorf("there is no component %q; there are %s", f.Component, strings.Join(shape.Names(), ", "))
	}
	if f.Instance != nil && (!known || *f.Instance < 0 || *f.Instance >= c.Parallelism) {
		return []any{"instance"}, fmt.Errorf("instance %d of %q is none of 0 to %d", *f.Instance, f.Component, c.Parallelism-1)
	}
	if f.Worker != nil && f.Worker.Hosts != "" && !slices.Contains(shape.Stages(), f.Worker.Hosts) {
		return []any{"worker", "hosts"}, fmt.Errorf("hosts %q is no component beside the sources; there are %s", f.Worker.Hosts, strings.Join(shape.Stages(), ", "))
	}
	if f.For <= 0 {
		return nil, errors.New("for says how long, such as 60s")
	}
	needs := func(ok bool, what string) ([]any, error) {
		if !ok {
			return nil, errors.New("needs " + what)
		}
		return nil, nil
	}
	switch f.Kind {
	case LoadFactor:
		return needs(f.Factor > 0 && f.Factor <= 10, "a factor up to 10")
	case Noise:
		return needs(f.Wave+f.Jitter > 0 && f.Wave <= .5 && f.Jitter <= .5, "a wave or a jitter, shares up to 0.5")
	case Cost:
		return needs(known && f.Factor > 0, "a component and a factor")
	case SlowWorker:
		return needs(f.Worker != nil && f.Factor > 0, "a worker and a factor")
	case Hot:
		return needs(c.Keyed && f.Share > 0 && f.Share < 1, "a keyed component and a share below 1")
	case Salt:
		return needs(c.Keyed && f.Keys > 1, "a keyed component and two keys or more")
	case Memory:
		return needs(f.Worker != nil && f.Share > 0 && f.Share < 1, "a worker and a share of its time below 1")
	case Fail:
		return needs(known && f.Instance != nil && f.Every > 0, "a component, an instance and every")
	case LoseWorker:
		return needs(f.Worker != nil, "a worker")
	case Rescale:
		return needs(known && f.Factor == float64(int(f.Factor)) && f.Factor != 0 && c.Parallelism+int(f.Factor) > 0,
			"a component and a factor, the whole number of instances more or less")
	}
	return nil, nil
}

// yamlError says FILE:LINE and speaks of keys, not of Go types.
func yamlError(file string, data []byte, err error) error {
	line, message := yamlerr.Split(data, err)
	return fmt.Errorf("%s:%d: %s", file, max(1, line), yamlerr.Words(message, nil))
}

// lineOf is the line of the deepest of the keys (texts) and list places
// (numbers) that is there.
func lineOf(n *yaml.Node, at []any) int {
	for n.Kind == yaml.DocumentNode && len(n.Content) > 0 {
		n = n.Content[0]
	}
	if len(at) == 0 {
		return n.Line
	}
	switch key := at[0].(type) {
	case string:
		for i := 0; n.Kind == yaml.MappingNode && i+1 < len(n.Content); i += 2 {
			if n.Content[i].Value == key {
				if len(at) == 1 {
					return n.Content[i].Line
				}
				return lineOf(n.Content[i+1], at[1:])
			}
		}
	case int:
		if n.Kind == yaml.SequenceNode && key < len(n.Content) {
			return lineOf(n.Content[key], at[1:])
		}
	}
	return n.Line
}
