package dhalion

import (
	"encoding/json"
	"fmt"
	"time"
)

// ActionKind names a sort of change.
type ActionKind string

// The kinds of action. An alert changes nothing: it asks a person.
const (
	SetParallelism ActionKind = "set_parallelism"
	Relocate       ActionKind = "relocate"
	Restart        ActionKind = "restart"
	Repartition    ActionKind = "repartition"
	SetKnob        ActionKind = "set_knob"
	Alert          ActionKind = "alert"
)

// ActionKinds lists every kind of action, sorted.
var ActionKinds = []ActionKind{Alert, Relocate, Repartition, Restart, SetKnob, SetParallelism}

// Valid reports whether k is one of ActionKinds.
func (k ActionKind) Valid() bool {
	for _, other := range ActionKinds {
		if k == other {
			return true
		}
	}
	return false
}

// Setting is what an action changes from or to: a number or a text, or nothing
// (JSON null).
type Setting struct {
	number float64
	text   string
	kind   byte // 0 nothing, 'n' number, 't' text
}

// NumberSetting is a setting that is a number.
func NumberSetting(v float64) Setting { return Setting{number: v, kind: 'n'} }

// TextSetting is a setting that is a text.
func TextSetting(s string) Setting { return Setting{text: s, kind: 't'} }

// IsZero reports whether the setting is nothing.
func (s Setting) IsZero() bool { return s.kind == 0 }

// Number returns the number and whether the setting is one.
func (s Setting) Number() (float64, bool) { return s.number, s.kind == 'n' }

// String is the setting as people read it; "-" for nothing.
func (s Setting) String() string {
	switch s.kind {
	case 'n':
		return fmt.Sprintf("%.12g", s.number)
	case 't':
		return s.text
	default:
		return "-"
	}
}

// MarshalJSON writes a number, a string or null.
func (s Setting) MarshalJSON() ([]byte, error) {
	switch s.kind {
	case 'n':
		return json.Marshal(s.number)
	case 't':
		return json.Marshal(s.text)
	default:
		return []byte("null"), nil
	}
}

// UnmarshalJSON reads a number, a string or null.
func (s *Setting) UnmarshalJSON(data []byte) error {
	var v any
	if err := json.Unmarshal(data, &v); err != nil {
		return err
	}
	switch v := v.(type) {
	case nil:
		*s = Setting{}
	case float64:
		*s = NumberSetting(v)
	case string:
		*s = TextSetting(v)
	default:
		return fmt.Errorf("dhalion: a setting is a number, a text or null, not %s", data)
	}
	return nil
}

// Check is one thing that must be seen for an action to have met its
// expectation: the metric at the target, averaged over a window that begins
// after the job has settled, compared with Value. Low and High bound the
// prediction.
type Check struct {
	Metric  Metric  `json:"metric"`
	Target  Target  `json:"target"`
	Compare string  `json:"compare"` // "at_least" or "at_most"
	Value   float64 `json:"value"`
	Low     float64 `json:"low"`
	High    float64 `json:"high"`
}

// Expectation is what an action should achieve and by when.
type Expectation struct {
	Summary       string  `json:"summary"`
	WithinSeconds float64 `json:"within_seconds"`
	Checks        []Check `json:"checks"`
}

// Reversal is how an action is undone.
type Reversal struct {
	Kind    ActionKind `json:"kind"`
	Target  Target     `json:"target"`
	From    Setting    `json:"from"`
	To      Setting    `json:"to"`
	Summary string     `json:"summary"`
}

// Affected is one job that an action touches, how many of its instances it
// stops or moves, and of how many.
type Affected struct {
	Job       JobID `json:"job"`
	Instances int   `json:"instances"`
	Of        int   `json:"of"`
}

// Action is one change: why, what it should achieve, how to undo it and whom it
// touches. It is a proposal until an apply has carried it out.
type Action struct {
	Kind        ActionKind  `json:"kind"`
	Target      Target      `json:"target"`
	From        Setting     `json:"from"`
	To          Setting     `json:"to"`
	Argument    string      `json:"argument,omitempty"` // of set_knob and repartition: the name of what is set
	Message     string      `json:"message"`            // one line for people
	Because     []Pair      `json:"because"`
	Probability float64     `json:"probability"` // that the cause holds
	Expect      Expectation `json:"expect"`
	Reverse     *Reversal   `json:"reverse"` // nil: nothing to undo
	Affects     []Affected  `json:"affects"`
	Before      []Before    `json:"before,omitempty"` // by cause; none: it was never judged
	Utility     float64     `json:"utility"`
}

// Before is what the same action against the same cause came to in the past, of the
// job and of others. It is evidence on whether the action helps, and not on whether
// the cause holds.
type Before struct {
	Cause  Cause   `json:"cause"`
	Met    int     `json:"met"`    // outcomes that count
	Unmet  int     `json:"unmet"`  // outcomes that count
	Weight float64 `json:"weight"` // of them all, in fresh outcomes of the same job and component
	// Probability that the action does what it should, and Factor by which its benefit
	// counts for that: 1 is as much as with no outcome.
	Probability float64 `json:"probability"`
	Factor      float64 `json:"factor"`
}

// Alternative is an action that was considered and refused, with the reason.
type Alternative struct {
	Action Action `json:"action"`
	Reason string `json:"reason"`
}

// Sizing is what a component needs by the policy's method of sizing. Required is
// the fractional number of instances, with its interval where the method has one;
// it is there for components that stay, too. Required is nil when it could not be
// estimated.
type Sizing struct {
	Component    string   `json:"component"`
	From         int      `json:"from"`
	To           int      `json:"to"`
	Required     *float64 `json:"required"`
	RequiredLow  *float64 `json:"required_low,omitempty"`
	RequiredHigh *float64 `json:"required_high,omitempty"`
	Reason       string   `json:"reason,omitempty"`
	// Figures are what a published method comes to on its way, in its order.
	Figures []Figure `json:"figures,omitempty"`
}

// Figure is an intermediate result of a sizing, under the name that the method's
// authors gave it. It is finite: what is not known, or has no bound, is left out.
type Figure struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit,omitempty"` // "1/s", "ms/s"; empty: a ratio or a count
}

// Basis says what a plan came from: digests (SHA-256, hex) of the values read,
// the topology, the policy, the model and the outcomes, and the program's
// version. Apply refuses a plan whose topology, policy or model differ from the
// present ones.
type Basis struct {
	History  string `json:"history"`
	Topology string `json:"topology"`
	Policy   string `json:"policy"`
	Model    string `json:"model"`
	Outcomes string `json:"outcomes"`
	Program  string `json:"program"`
}

// Warning is something a reviewer should know; Code is stable.
type Warning struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

// Findings is what a plan answers to.
type Findings struct {
	Symptoms  []Symptom   `json:"symptoms"`
	Diagnoses []Diagnosis `json:"diagnoses"`
	Unknown   []Unknown   `json:"unknown"`
}

// Plan is the body of a plan document. It holds no wall clock and no database
// id: equal inputs give equal bytes. Its digest and id are computed from its
// canonical form by plan/planfile.
type Plan struct {
	Version         int           `json:"version"`
	Job             JobID         `json:"job"`
	AsOf            time.Time     `json:"as_of"`
	Window          Window        `json:"window"`
	ValidForSeconds float64       `json:"valid_for_seconds"`
	Policy          string        `json:"policy"`
	FourEyes        bool          `json:"four_eyes"`
	Reverses        string        `json:"reverses,omitempty"` // id of the plan that this one rolls back
	Basis           Basis         `json:"basis"`
	Topology        Topology      `json:"topology"`
	Findings        Findings      `json:"findings"`
	Sizing          []Sizing      `json:"sizing"`
	Actions         []Action      `json:"actions"`
	Alternatives    []Alternative `json:"alternatives"`
	Warnings        []Warning     `json:"warnings"`
}

// PlanState is where a plan stands. Only the store moves a plan from one state
// to another.
type PlanState string

// The states of a plan.
const (
	PlanProposed  PlanState = "proposed"
	PlanApproved  PlanState = "approved"
	PlanApplying  PlanState = "applying"
	PlanApplied   PlanState = "applied"
	PlanMet       PlanState = "met"
	PlanUnmet     PlanState = "unmet"
	PlanUnclear   PlanState = "unclear"
	PlanDiscarded PlanState = "discarded"
	PlanExpired   PlanState = "expired"
	PlanStale     PlanState = "stale"
	PlanFailed    PlanState = "failed"
	PlanAborted   PlanState = "aborted"
)

// Approval is a person's consent to one plan as it stood: it names the digest.
type Approval struct {
	Plan   string    `json:"plan"`
	Digest string    `json:"digest"`
	Person string    `json:"person"`
	At     time.Time `json:"at"`
	Note   string    `json:"note,omitempty"`
}

// Outcome is what came of an action: Applied, Refused or Failed, and then what
// was seen afterwards: Met, Unmet or Unclear.
type Outcome struct {
	Plan     string     `json:"plan"`
	Action   int        `json:"action"`
	Job      JobID      `json:"job"`
	Kind     ActionKind `json:"kind"`
	Target   Target     `json:"target"`
	Argument string     `json:"argument,omitempty"` // of set_knob and repartition, as in the action
	Cause    Cause      `json:"cause"`
	Applied  string     `json:"applied"` // applied, refused, failed
	Judged   string     `json:"judged"`  // met, unmet, unclear; empty before it is judged
	At       time.Time  `json:"at"`
	Detail   string     `json:"detail,omitempty"`
}

// Incident is a labelled stretch of a job's history: what really was wrong,
// where, from when to when, and how certain that is (0 to 1).
type Incident struct {
	Job       JobID     `json:"job"`
	Target    Target    `json:"target"`
	Cause     Cause     `json:"cause"`
	Start     time.Time `json:"start"`
	End       time.Time `json:"end"`
	Certainty float64   `json:"certainty"`
	Source    string    `json:"source"`
	Note      string    `json:"note,omitempty"`
}

// Segment is the catalogue entry of an immutable Arrow table and, where they
// were read, its bytes: one job, one kind of target, one time range (both ends
// inclusive), within one day UTC. Seq is the sequence number of the ingest that
// wrote it: of two values for one (target, metric, time) the greater Seq wins.
type Segment struct {
	Job    JobID
	Kind   TargetKind
	From   time.Time
	To     time.Time
	Rows   int
	Values int // known values
	Seq    int64
	Hash   string // SHA-256 of Bytes, hex
	Bytes  []byte
}
