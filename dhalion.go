// Package dhalion holds the nouns that every other package speaks in: jobs,
// targets, metrics, topologies, segments, symptoms, diagnoses, actions, plans.
//
// It imports the standard library only and has no behaviour that touches the
// world: no clock, no database, no network. docs/glossary.md says which words
// these replace.
package dhalion

import (
	"cmp"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// JobID names one running dataflow as ENGINE/NAME, where ENGINE is the
// configured name of an engine ("file" for histories that came from files).
// It is not the engine's own id of a run: a job that is restarted from a
// savepoint keeps its JobID and gets a new run.
type JobID string

// NewJobID joins an engine's configured name and a job's name.
func NewJobID(engine, name string) JobID { return JobID(engine + "/" + name) }

// Engine is the part before the first slash; empty when there is none.
func (id JobID) Engine() string {
	engine, _, ok := strings.Cut(string(id), "/")
	if !ok {
		return ""
	}
	return engine
}

// Name is the part after the first slash; the whole id when there is none.
func (id JobID) Name() string {
	_, name, ok := strings.Cut(string(id), "/")
	if !ok {
		return string(id)
	}
	return name
}

// TargetKind says what sort of thing a finding or a measurement is about.
type TargetKind string

// The kinds of target, from the whole to the part; a worker stands beside them.
const (
	KindJob       TargetKind = "job"
	KindComponent TargetKind = "component"
	KindInstance  TargetKind = "instance"
	KindWorker    TargetKind = "worker"
)

// TargetKinds lists the kinds in the order in which they sort.
var TargetKinds = []TargetKind{KindJob, KindComponent, KindInstance, KindWorker}

func (k TargetKind) rank() int {
	for i, other := range TargetKinds {
		if k == other {
			return i
		}
	}
	return len(TargetKinds)
}

// Valid reports whether k is one of TargetKinds.
func (k TargetKind) Valid() bool { return k.rank() < len(TargetKinds) }

// Target is what a measurement, symptom, diagnosis or action is about. It is
// comparable and so can be a map key. Instance has a meaning only when Kind is
// KindInstance; Worker only when Kind is KindWorker: where an instance runs is
// part of the Topology, not of the instance's identity.
type Target struct {
	Kind      TargetKind
	Job       JobID
	Component string
	Instance  int
	Worker    string
}

// JobTarget is the job itself.
func JobTarget(job JobID) Target { return Target{Kind: KindJob, Job: job} }

// ComponentTarget is one component of a job.
func ComponentTarget(job JobID, component string) Target {
	return Target{Kind: KindComponent, Job: job, Component: component}
}

// InstanceTarget is one parallel copy of a component, counted from zero.
func InstanceTarget(job JobID, component string, instance int) Target {
	return Target{Kind: KindInstance, Job: job, Component: component, Instance: instance}
}

// WorkerTarget is one worker as this job sees it.
func WorkerTarget(job JobID, worker string) Target {
	return Target{Kind: KindWorker, Job: job, Worker: worker}
}

// Compare orders targets by job, kind, component, instance and worker.
func (t Target) Compare(o Target) int {
	return cmp.Or(
		cmp.Compare(t.Job, o.Job),
		cmp.Compare(t.Kind.rank(), o.Kind.rank()),
		cmp.Compare(t.Component, o.Component),
		cmp.Compare(t.Instance, o.Instance),
		cmp.Compare(t.Worker, o.Worker),
	)
}

// String is the short form that people read: "counter[3]", "worker tm-2",
// "sink", "job".
func (t Target) String() string {
	switch t.Kind {
	case KindComponent:
		return t.Component
	case KindInstance:
		return t.Component + "[" + strconv.Itoa(t.Instance) + "]"
	case KindWorker:
		return "worker " + t.Worker
	default:
		return string(t.Kind)
	}
}

type targetJSON struct {
	Kind      TargetKind `json:"kind"`
	Job       JobID      `json:"job,omitempty"`
	Component string     `json:"component,omitempty"`
	Instance  *int       `json:"instance,omitempty"`
	Worker    string     `json:"worker,omitempty"`
}

// MarshalJSON leaves out the parts that a target of this kind does not have.
func (t Target) MarshalJSON() ([]byte, error) {
	j := targetJSON{Kind: t.Kind, Job: t.Job, Component: t.Component, Worker: t.Worker}
	if t.Kind == KindInstance {
		j.Instance = &t.Instance
	}
	return json.Marshal(j)
}

// UnmarshalJSON accepts exactly what MarshalJSON writes and refuses a target
// whose parts do not fit its kind.
func (t *Target) UnmarshalJSON(data []byte) error {
	var j targetJSON
	if err := json.Unmarshal(data, &j); err != nil {
		return err
	}
	*t = Target{Kind: j.Kind, Job: j.Job, Component: j.Component, Worker: j.Worker}
	if j.Instance != nil {
		t.Instance = *j.Instance
	}
	if (j.Instance != nil) != (j.Kind == KindInstance) {
		return fmt.Errorf("dhalion: target of kind %q: instance does not fit", j.Kind)
	}
	return t.validate()
}

func (t Target) validate() error {
	switch {
	case !t.Kind.Valid():
		return fmt.Errorf("dhalion: unknown kind of target %q", t.Kind)
	case (t.Component != "") != (t.Kind == KindComponent || t.Kind == KindInstance):
		return fmt.Errorf("dhalion: target of kind %q: component does not fit", t.Kind)
	case (t.Worker != "") != (t.Kind == KindWorker):
		return fmt.Errorf("dhalion: target of kind %q: worker does not fit", t.Kind)
	case t.Kind == KindInstance && t.Instance < 0:
		return fmt.Errorf("dhalion: negative instance %d", t.Instance)
	}
	return nil
}

// Window is a half-open stretch of time (Start, End]: a value stamped exactly
// at Start belongs to the window before.
type Window struct {
	Start time.Time `json:"start"`
	End   time.Time `json:"end"`
}

// Contains reports whether at lies in (Start, End].
func (w Window) Contains(at time.Time) bool { return at.After(w.Start) && !at.After(w.End) }

// Span is the window's length.
func (w Window) Span() time.Duration { return w.End.Sub(w.Start) }

// Measurement is one value of one metric of one target at one time. A metric
// that the engine did not give has no measurement: unknown is not zero. Worker
// says where an instance ran at that time and is empty when that is not known.
type Measurement struct {
	Target Target
	Worker string
	Metric Metric
	Time   time.Time
	Value  float64
}

// Vector is the ordered named features of one target over one window, one
// value per name of the schema whose digest it carries. NaN is unknown.
type Vector struct {
	Target Target
	Window Window
	Schema string
	Values []float64
}

// Symptom is something that was seen: not yet a reason. Score is in units of
// the detector's limit (1 = at the limit); Probability is that it is no noise;
// Since is when it began to hold.
type Symptom struct {
	Kind        string    `json:"kind"`
	Target      Target    `json:"target"`
	Score       float64   `json:"score"`
	Probability float64   `json:"probability"`
	Since       time.Time `json:"since"`
}

// Evidence is one voice for or against a cause. Weight is in log-odds (natural
// logarithm); Value is the number that the voice looked at, NaN when it looked
// at none.
type Evidence struct {
	Name   string
	Weight float64
	Value  float64
}

type evidenceJSON struct {
	Name   string   `json:"name"`
	Weight float64  `json:"weight"`
	Value  *float64 `json:"value"`
}

// MarshalJSON writes an unknown value as null.
func (e Evidence) MarshalJSON() ([]byte, error) {
	j := evidenceJSON{Name: e.Name, Weight: e.Weight}
	if e.Value == e.Value {
		j.Value = &e.Value
	}
	return json.Marshal(j)
}

// UnmarshalJSON is the inverse of MarshalJSON.
func (e *Evidence) UnmarshalJSON(data []byte) error {
	var j evidenceJSON
	if err := json.Unmarshal(data, &j); err != nil {
		return err
	}
	*e = Evidence{Name: j.Name, Weight: j.Weight, Value: nan()}
	if j.Value != nil {
		e.Value = *j.Value
	}
	return nil
}

// Pair names one (target, cause).
type Pair struct {
	Target Target `json:"target"`
	Cause  Cause  `json:"cause"`
}

// Diagnosis is the probability that a cause holds at a target at the window's
// end for a reason of its own, with the evidence for and against it. ExplainedBy
// names the diagnosis that lowered this one: what remains after mending it.
type Diagnosis struct {
	Target      Target     `json:"target"`
	Cause       Cause      `json:"cause"`
	Probability float64    `json:"probability"`
	ExplainedBy *Pair      `json:"explained_by"`
	Evidence    []Evidence `json:"evidence"`
}

// Unknown says what could not be judged and what is missing for it.
type Unknown struct {
	Target Target `json:"target"`
	Cause  Cause  `json:"cause,omitempty"`
	Reason string `json:"reason"`
}
