// Package policy is the language in which users say what they want of a job and
// how it is to be judged: objective, parameters, detectors, rules, limits.
//
// A policy is YAML. Built-in ones are embedded in the same language, and what
// users write extends them. Conditions and evidence are expressions over the
// features of a target; they are checked when the policy is loaded, and what is
// wrong is reported with file and line. Evaluation has a third truth value: what
// depends on something unknown is unknown.
package policy

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	dhalion "github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/internal/spell"
)

// Policy is one that has been loaded, merged with what it extends and checked.
// It holds no address and no command.
type Policy struct {
	Name       string
	Objective  Objective
	Window     time.Duration
	Minimum    Minimum
	Sizing     Sizing
	Decisions  Decisions
	Model      Model
	Parameters Parameters
	Priors     map[dhalion.Cause]float64 // log-odds
	Components map[string]Component
	Detectors  []Detector // sorted by name
	Rules      []Rule     // in the order written; extended ones first
	Knobs      []Knob
	Limits     Limits
	Approve    Approve
	Outcome    Outcome
	// Digest is the SHA-256, in hex, of the policy in effect: two files that come
	// to the same policy have the same digest.
	Digest string
}

// Number is a parameter as a number, a duration in seconds; false when there is
// no such parameter or it is a text.
func (p *Policy) Number(name string) (float64, bool) { return p.Parameters.Number(name) }

// DefaultLookback is how much history a policy looks at that does not say.
const DefaultLookback = 6 * time.Hour

// Lookback is what counts as a job's past: the parameter lookback, and at least a
// window.
func (p *Policy) Lookback() time.Duration {
	lookback, ok := p.Parameters.Duration("lookback")
	if !ok {
		lookback = DefaultLookback
	}
	return max(lookback, p.Window)
}

// Reach is how much history an evaluation reads: the lookback, and what every learned
// limit learns from.
func (p *Policy) Reach() time.Duration {
	reach := p.Lookback()
	for _, d := range p.Detectors {
		if d.Learn != nil {
			reach = max(reach, d.Learn.Over)
		}
	}
	return reach
}

// Sizing is the method by which the planner works out how many instances a
// component needs.
type Sizing string

// The methods of sizing. The published ones are there to be compared with.
const (
	SizingUtilisation Sizing = "utilisation"      // our own: offered load at a target utilisation, all components together
	SizingPaper       Sizing = "paper"            // Dhalion (VLDB 2017): from the share of time in backpressure, one component
	SizingDS2         Sizing = "ds2"              // DS2 (OSDI 2018): true rates propagated from the sources
	SizingAutoscaler  Sizing = "flink-autoscaler" // Apache Flink's autoscaler
)

// Sizings lists the methods; the first holds when none is named.
var Sizings = []Sizing{SizingUtilisation, SizingPaper, SizingDS2, SizingAutoscaler}

// Decisions is how the sum of the evidence becomes an answer.
type Decisions string

// The ways to decide.
const (
	// DecideGraded gives a probability, and lowers what another diagnosis explains.
	DecideGraded Decisions = "graded"
	// DecideBinary lists a cause with probability 1 where its prior and evidence
	// add up to more than 0, and else not at all. Nothing explains another away,
	// and a detector without hold and clear is asked at the one time alone. The
	// published systems decide like this.
	DecideBinary Decisions = "binary"
)

// Model says which learned model the rules' answers are combined with. Nothing is
// combined where decisions are binary.
type Model string

// The models that a policy can name. Others have ids, which are those of one registry.
const (
	ModelActive  Model = "active"  // the one that was promoted; where none was, the program's own
	ModelDefault Model = "default" // the program's own
	ModelNone    Model = "none"    // the rules answer alone
)

// Objective is what a job is to achieve.
type Objective struct {
	Kind             string  `yaml:"kind,omitempty"`
	RecordsPerSecond float64 `yaml:"records_per_second,omitempty"`
	LatencySeconds   float64 `yaml:"latency_seconds,omitempty"`
}

var objectiveKinds = []string{"throughput-slo", "dynamic-provisioning", "latency-slo", "cost"}

// Kinds says at which kinds of target each cause is judged (DESIGN, Causes). The
// first is where a rule looks that names none.
var Kinds = map[dhalion.Cause][]dhalion.TargetKind{
	dhalion.Underprovisioned:  {dhalion.KindComponent},
	dhalion.Overprovisioned:   {dhalion.KindComponent, dhalion.KindJob},
	dhalion.SlowInstance:      {dhalion.KindInstance},
	dhalion.SlowWorker:        {dhalion.KindWorker},
	dhalion.DataSkew:          {dhalion.KindInstance},
	dhalion.SinkLimited:       {dhalion.KindComponent},
	dhalion.SourceLimited:     {dhalion.KindComponent},
	dhalion.MemoryPressure:    {dhalion.KindWorker},
	dhalion.CheckpointFailing: {dhalion.KindJob},
	dhalion.Failing:           {dhalion.KindJob, dhalion.KindComponent, dhalion.KindWorker},
	dhalion.Transient:         {dhalion.KindJob},
}

// Minimum is what a window must hold for a diagnosis.
type Minimum struct {
	Span  time.Duration
	Polls int
}

// Component says what a policy knows of one component.
type Component struct {
	External bool `yaml:"external,omitempty"`
}

// Detector sees a symptom. When is its condition; Score, in units of its limit,
// may be nil. It must hold for Hold and ends when absent for Clear.
type Detector struct {
	Name        string
	Target      dhalion.TargetKind
	When, Score *Expr  // nil where the limit is learned
	Learn       *Learn // nil where there is a condition
	Hold, Clear time.Duration
	File        string
	Line        int
}

// Learn is how a detector learns its limit.
type Learn struct {
	Of      *Expr // the number that is judged
	Against Against
	Side    Side
	// FalseAlarms is the share of normal windows that are beyond the limit, above 0
	// and below .1.
	FalseAlarms float64
	Floor       float64       // at or below it nothing is seen; -Inf for none
	Per         *Expr         // the load that Of is divided by, too; nil for none, and with AgainstPeers only
	Window      time.Duration // that Of is taken over
	Over        time.Duration // how far back it learns
	Season      time.Duration // after which the level comes again; 0: none
}

// Against says what a number is held against.
type Against string

// What a number can be held against.
const (
	AgainstPast   Against = "past"   // its level in the past, by season where there is one, and the tail of what strayed from it
	AgainstRecent Against = "recent" // its level in the last undisturbed windows: for what drifts
	AgainstPeers  Against = "peers"  // the other instances of the component, or the other workers, and its own past
)

// Side is where a limit lies.
type Side string

// The sides of a level.
const (
	SideAbove  Side = "above"
	SideBelow  Side = "below"
	SideEither Side = "either"
)

// Rule gives evidence for or against a cause at targets of one kind. When may be
// nil: always. Value is the number shown beside the evidence; nil for none.
type Rule struct {
	Name                  string
	Cause                 dhalion.Cause
	Target                dhalion.TargetKind
	When, Evidence, Value *Expr
	File                  string
	Line                  int
}

// Knob is an argument of the job that may be set, and the cause that it mends.
type Knob struct {
	Name      string            `yaml:"name"`
	Argument  string            `yaml:"argument"`
	Values    []dhalion.Setting `yaml:"-"`
	Mends     dhalion.Cause     `yaml:"mends"`
	Component string            `yaml:"component,omitempty"`
}

// Limits bound what a plan may do. Zero is no bound.
type Limits struct {
	MinParallelism, MaxParallelism int
	MaxInstancesTouched            float64 // share of the affected jobs' instances
	MaxJobsTouched                 int
	QuietHours                     QuietHours
	Actions                        []dhalion.ActionKind // none: all
}

// Approve says when a plan may be applied.
type Approve struct {
	AutoIf   string
	FourEyes bool
}

// Outcome says what follows from what an applied plan came to.
type Outcome struct {
	ReverseUnmet bool // a plan that did not do what it should is undone
}

// QuietHours is a daily stretch in which nothing is to be changed. The zero value
// is never quiet.
type QuietHours struct {
	text       string
	from, to   time.Duration // since midnight
	location   *time.Location
	configured bool
}

// String is the text it was read from.
func (q QuietHours) String() string { return q.text }

// Quiet reports whether t lies in [from, to), by the clock of the zone named; a
// stretch that ends before it begins crosses midnight.
func (q QuietHours) Quiet(t time.Time) bool {
	if !q.configured {
		return false
	}
	t = t.In(q.location)
	now := time.Duration(t.Hour())*time.Hour + time.Duration(t.Minute())*time.Minute + time.Duration(t.Second())*time.Second
	if q.from <= q.to {
		return q.from <= now && now < q.to
	}
	return now >= q.from || now < q.to
}

// parseQuietHours reads "22:00-06:00 Europe/Berlin"; without a zone it is UTC.
func parseQuietHours(text string) (QuietHours, error) {
	if text == "" {
		return QuietHours{}, nil
	}
	hours, zone, _ := strings.Cut(text, " ")
	from, to, ok := strings.Cut(hours, "-")
	if !ok {
		return QuietHours{}, fmt.Errorf(`quiet hours %q are not like "22:00-06:00 Europe/Berlin"`, text)
	}
	q := QuietHours{text: text, location: time.UTC, configured: true}
	var err error
	if q.from, err = timeOfDay(from); err != nil {
		return QuietHours{}, fmt.Errorf("quiet hours %q: %w", text, err)
	}
	if q.to, err = timeOfDay(to); err != nil {
		return QuietHours{}, fmt.Errorf("quiet hours %q: %w", text, err)
	}
	if q.from == q.to {
		return QuietHours{}, fmt.Errorf("quiet hours %q begin when they end: use 00:00-24:00 for all day", text)
	}
	if zone = strings.TrimSpace(zone); zone != "" {
		if zone == "Local" {
			return QuietHours{}, fmt.Errorf("quiet hours %q: name the zone, Local differs between machines", text)
		}
		if q.location, err = time.LoadLocation(zone); err != nil {
			return QuietHours{}, fmt.Errorf("quiet hours %q: no time zone %q is known here", text, zone)
		}
	}
	return q, nil
}

// timeOfDay reads 00:00 to 24:00.
func timeOfDay(text string) (time.Duration, error) {
	if text == "24:00" {
		return 24 * time.Hour, nil
	}
	at, err := time.Parse("15:04", text)
	if err != nil {
		return 0, fmt.Errorf("%q is no time of day, such as 22:00", text)
	}
	return time.Duration(at.Hour())*time.Hour + time.Duration(at.Minute())*time.Minute, nil
}

// Parameters are the named numbers, durations and texts that a policy's rules
// and the planner ask for.
type Parameters struct{ values map[string]value }

type value struct {
	kind   byte // 'n' number, 'd' duration, 't' text
	number float64
	text   string
}

func (v value) String() string {
	switch v.kind {
	case 'd':
		return time.Duration(v.number * float64(time.Second)).String()
	case 'n':
		return strconv.FormatFloat(v.number, 'g', 12, 64)
	default:
		return v.text
	}
}

// parseValue reads a number, a duration ("90s"), or else a text.
func parseValue(text string) value {
	if n, err := strconv.ParseFloat(text, 64); err == nil && n == n && n < 1e300 && n > -1e300 {
		return value{kind: 'n', number: n}
	}
	if d, err := time.ParseDuration(text); err == nil {
		return value{kind: 'd', number: d.Seconds()}
	}
	return value{kind: 't', text: text}
}

var kindWords = map[byte]string{'n': "a number", 'd': "a duration", 't': "a text"}

// unwritten are parameters of the planner that hold in this way where a policy does
// not write them down. One that says nothing of them keeps its digest, and the plans
// that wait stay what they are.
var unwritten = map[string]value{
	"outcome_prior":        {kind: 'n', number: 0.75},
	"outcome_prior_weight": {kind: 'n', number: 4},
	"outcome_half_life":    {kind: 'd', number: (30 * 24 * time.Hour).Seconds()},
	"outcome_elsewhere":    {kind: 'n', number: 0.2},
	"outcome_floor":        {kind: 'n', number: 0.1},
	"blacklist":            {kind: 'n', number: 0.5},
}

func (p Parameters) get(name string) (value, bool) {
	v, ok := p.values[name]
	if !ok {
		v, ok = unwritten[name]
	}
	return v, ok
}

// Number is a parameter as a number, a duration in seconds.
func (p Parameters) Number(name string) (float64, bool) {
	v, ok := p.get(name)
	return v.number, ok && v.kind != 't'
}

// Duration is a parameter that is a duration.
func (p Parameters) Duration(name string) (time.Duration, bool) {
	v, ok := p.get(name)
	return time.Duration(v.number * float64(time.Second)), ok && v.kind == 'd'
}

// Text is a parameter as people write it.
func (p Parameters) Text(name string) (string, bool) {
	v, ok := p.values[name]
	return v.String(), ok
}

// Names lists the parameters, sorted.
func (p Parameters) Names() []string { return slices.Sorted(maps.Keys(p.values)) }

// set overrides parameters that exist with values of their kind.
func (p Parameters) set(over map[string]string) error {
	for _, name := range slices.Sorted(maps.Keys(over)) {
		old, ok := p.get(name)
		if !ok {
			return fmt.Errorf("policy: there is no parameter %q%s; there are %s", name, spell.DidYouMean(name, p.Names()), strings.Join(p.Names(), ", "))
		}
		v := parseValue(over[name])
		switch {
		case old.kind == 't':
			v = value{kind: 't', text: over[name]} // whatever it looks like
		case old.kind == 'd' && v.kind == 'n' && v.number == 0:
			v.kind = 'd' // nothing needs no unit
		}
		if v.kind != old.kind {
			return fmt.Errorf("policy: parameter %s is %s (%s), not %q", name, kindWords[old.kind], old, over[name])
		}
		p.values[name] = v
	}
	return nil
}

// plannerParameters are asked for by name outside the expressions.
var plannerParameters = []string{
	"target_utilisation", "patience", "valid_for", "lookback", "act_above", "catch_up", "instance_price", "restart_time",
	"outcome_prior", "outcome_prior_weight", "outcome_half_life", "outcome_elsewhere", "outcome_floor",
	"scale_down", "blacklist",
	"factor", "source_rate", "source_rates",
	"utilization_target", "utilization_boundary", "busy_aggregator", "restart", "max_scale_down_factor", "max_scale_up_factor",
	"min_parallelism", "max_parallelism", "alignment", "lag_threshold", "scale_down_delay", "stabilization",
	"observed_rate_lag", "observed_rate_switch", "observed_rate_observations",
}

// Lint lists what is allowed and looks like a mistake. The codes are stable.
func (p *Policy) Lint() []dhalion.Warning {
	var out []dhalion.Warning
	add := func(code, format string, args ...any) {
		out = append(out, dhalion.Warning{Code: code, Message: fmt.Sprintf(format, args...)})
	}
	ruled := map[dhalion.Cause]bool{}
	for _, r := range p.Rules {
		ruled[r.Cause] = true
	}
	for _, cause := range dhalion.Causes {
		_, prior := p.Priors[cause]
		switch {
		case ruled[cause] && !prior:
			add("no-prior", "cause %s has rules and no prior: even odds are taken before any evidence", cause)
		case !ruled[cause] && prior:
			add("no-rules", "cause %s has a prior and no rules: it is never judged", cause)
		}
	}
	if v, ok := p.Number("target_utilisation"); ok && (v <= 0 || v > 1) {
		add("target-utilisation", "target_utilisation %v is not above 0 and at most 1", v)
	}
	used := map[string]bool{}
	note := func(e *Expr) {
		if e != nil {
			for _, name := range e.parameters {
				used[name] = true
			}
		}
	}
	for _, d := range p.Detectors {
		note(d.When)
		note(d.Score)
		if d.Learn != nil {
			note(d.Learn.Of)
			note(d.Learn.Per)
		}
	}
	for _, r := range p.Rules {
		note(r.When)
		note(r.Evidence)
		note(r.Value)
	}
	for _, name := range p.Parameters.Names() {
		if !used[name] && !slices.Contains(plannerParameters, name) {
			add("unused-parameter", "nothing uses parameter %s%s", name, spell.DidYouMean(name, slices.DeleteFunc(p.Parameters.Names(), func(o string) bool { return o == name })))
		}
	}
	if p.Minimum.Span > p.Window {
		add("minimum-span", "a minimum span of %s is never reached by windows of %s: nothing is ever diagnosed", p.Minimum.Span, p.Window)
	}
	return out
}
