package policy

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	dhalion "github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/internal/spell"
	"github.com/dhalion-go/dhalion/internal/yamlerr"
)

//go:embed builtin/*.yaml
var builtin embed.FS

// MaxFile bounds a policy file in bytes.
const MaxFile = 1 << 20

// maxExtends bounds how many policies one can stand on.
const maxExtends = 16

// Builtins lists the built-in policies, sorted.
func Builtins() []string {
	entries, err := builtin.ReadDir("builtin")
	if err != nil {
		return nil // the folder is embedded: it is there
	}
	var names []string
	for _, e := range entries {
		names = append(names, strings.TrimSuffix(e.Name(), ".yaml"))
	}
	slices.Sort(names)
	return names
}

// Source is a built-in policy as it was written.
func Source(name string) ([]byte, bool) {
	data, err := builtin.ReadFile("builtin/" + name + ".yaml")
	return data, err == nil
}

// The file as it is written. Pointers tell what was written from what was not.
type document struct {
	Name       string               `yaml:"name,omitempty"`
	Extends    string               `yaml:"extends,omitempty"`
	Objective  *Objective           `yaml:"objective,omitempty"`
	Window     string               `yaml:"window,omitempty"`
	Minimum    *minimumYAML         `yaml:"minimum,omitempty"`
	Sizing     Sizing               `yaml:"sizing,omitempty"`
	Decisions  Decisions            `yaml:"decisions,omitempty"`
	Model      Model                `yaml:"model,omitempty"`
	Parameters map[string]scalar    `yaml:"parameters,omitempty"`
	Priors     map[string]float64   `yaml:"priors,omitempty"`
	Components map[string]Component `yaml:"components,omitempty"`
	Detectors  []detectorYAML       `yaml:"detectors,omitempty"`
	Rules      []ruleYAML           `yaml:"rules,omitempty"`
	Knobs      []knobYAML           `yaml:"knobs,omitempty"`
	Limits     *limitsYAML          `yaml:"limits,omitempty"`
	Approve    *approveYAML         `yaml:"approve,omitempty"`
	Outcome    *outcomeYAML         `yaml:"outcome,omitempty"`
}

type minimumYAML struct {
	Span  string `yaml:"span,omitempty"`
	Polls *int   `yaml:"polls,omitempty"`
}

type detectorYAML struct {
	Name    scalar `yaml:"name"`
	Target  string `yaml:"target,omitempty"`
	When    scalar `yaml:"when,omitempty"`
	Score   scalar `yaml:"score,omitempty"`
	Hold    string `yaml:"hold,omitempty"`
	Clear   string `yaml:"clear,omitempty"`
	Disable bool   `yaml:"disable,omitempty"`
	file    string

	Of          scalar   `yaml:"of,omitempty"`
	Against     Against  `yaml:"against,omitempty"`
	Side        Side     `yaml:"side,omitempty"`
	FalseAlarms *float64 `yaml:"false_alarms,omitempty"`
	Floor       *float64 `yaml:"floor,omitempty"`
	Per         scalar   `yaml:"per,omitempty"`
	Window      string   `yaml:"window,omitempty"`
	Over        string   `yaml:"over,omitempty"`
	Season      string   `yaml:"season,omitempty"`
}

type ruleYAML struct {
	Name     scalar `yaml:"name"`
	Cause    string `yaml:"cause,omitempty"`
	Target   string `yaml:"target,omitempty"`
	When     scalar `yaml:"when,omitempty"`
	Evidence scalar `yaml:"evidence,omitempty"`
	Value    scalar `yaml:"value,omitempty"`
	Disable  bool   `yaml:"disable,omitempty"`
	file     string
}

type knobYAML struct {
	Name      scalar   `yaml:"name"`
	Argument  string   `yaml:"argument,omitempty"`
	Values    []scalar `yaml:"values,omitempty"`
	Mends     string   `yaml:"mends,omitempty"`
	Component string   `yaml:"component,omitempty"`
	Disable   bool     `yaml:"disable,omitempty"`
	file      string
}

type limitsYAML struct {
	MinParallelism      *int     `yaml:"min_parallelism,omitempty"`
	MaxParallelism      *int     `yaml:"max_parallelism,omitempty"`
	MaxInstancesTouched *float64 `yaml:"max_instances_touched,omitempty"`
	MaxJobsTouched      *int     `yaml:"max_jobs_touched,omitempty"`
	QuietHours          *string  `yaml:"quiet_hours,omitempty"`
	Actions             []string `yaml:"actions,omitempty,flow"`
}

type approveYAML struct {
	AutoIf   *string `yaml:"auto_if,omitempty"`
	FourEyes *bool   `yaml:"four_eyes,omitempty"`
}

type outcomeYAML struct {
	Unmet *string `yaml:"unmet,omitempty"`
}

// What becomes of a plan that did not do what it should.
const (
	keepUnmet    = "keep"
	reverseUnmet = "reverse"
)

// scalar is a text or number with the place where it stands.
type scalar struct {
	text         string
	line, column int
	quoted       bool
	number       bool // is written without quotes
}

func (s *scalar) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if n.Kind != yaml.ScalarNode {
		return fmt.Errorf("line %d: a text or a number is needed here", n.Line)
	}
	*s = scalar{text: n.Value, line: n.Line, column: n.Column}
	if n.Style == yaml.SingleQuotedStyle || n.Style == yaml.DoubleQuotedStyle {
		s.quoted = true
	}
	return nil
}

func (s scalar) MarshalYAML() (any, error) {
	if s.number {
		return strconv.ParseFloat(s.text, 64)
	}
	return s.text, nil
}

func (s scalar) IsZero() bool { return s.text == "" }

// Load reads a policy and what it extends. name is a built-in policy's or, when
// it has a slash or ends in .yaml or .yml, a file's; read gets the files. known
// says which features there are; params override declared parameters. An error
// about a file begins with FILE:LINE.
func Load(name string, read func(path string) ([]byte, error), known Catalogue, params map[string]string) (*Policy, error) {
	chain, err := readChain(name, read)
	if err != nil {
		return nil, err
	}
	merged := document{Parameters: map[string]scalar{}, Priors: map[string]float64{}, Components: map[string]Component{}}
	for _, d := range chain {
		if err := merged.merge(d.document, d.file); err != nil {
			return nil, err
		}
	}
	return merged.check(chain, known, params)
}

type fileDocument struct {
	document
	file string
	root *yaml.Node
}

// at is an error at a key of the topmost file that has it, else at the top file.
func at(chain []fileDocument, keys []string, format string, args ...any) error {
	message := fmt.Sprintf(format, args...)
	for i := len(chain) - 1; i >= 0; i-- {
		if line := lineOf(chain[i].root, keys); line > 0 {
			return fmt.Errorf("%s:%d: %s", chain[i].file, line, message)
		}
	}
	return fmt.Errorf("%s:1: %s", chain[len(chain)-1].file, message)
}

// lineOf is the line of a key below others, 0 when it is not there.
func lineOf(n *yaml.Node, keys []string) int {
	for n != nil && n.Kind == yaml.DocumentNode && len(n.Content) > 0 {
		n = n.Content[0]
	}
	if n == nil || n.Kind != yaml.MappingNode || len(keys) == 0 {
		return 0
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == keys[0] {
			if len(keys) == 1 {
				return n.Content[i].Line
			}
			return lineOf(n.Content[i+1], keys[1:])
		}
	}
	return 0
}

// readChain reads a policy and those below it, the lowest first.
func readChain(name string, read func(string) ([]byte, error)) ([]fileDocument, error) {
	var chain []fileDocument
	seen := map[string]bool{}
	from := ""
	for name != "" {
		file := name + ".yaml"
		var data []byte
		var err error
		if IsPath(name) {
			file = name
			if from != "" && !path.IsAbs(name) {
				file = path.Join(path.Dir(from), name)
			}
			if read == nil {
				return nil, fmt.Errorf("policy: read %s: no files here", file)
			}
			if data, err = read(file); err != nil {
				return nil, fmt.Errorf("policy: read %s: %w", file, err)
			}
			from = file
		} else if source, ok := Source(name); ok {
			data = source
		} else {
			return nil, fmt.Errorf("policy: there is no built-in policy %q%s; there are %s (a file ends in .yaml)",
				name, spell.DidYouMean(name, Builtins()), strings.Join(Builtins(), ", "))
		}
		if seen[file] || len(chain) >= maxExtends {
			return nil, fmt.Errorf("policy: %s: extends itself by way of others", file)
		}
		seen[file] = true
		d, err := parse(data, file)
		if err != nil {
			return nil, err
		}
		var root yaml.Node
		if err := yaml.Unmarshal(data, &root); err != nil {
			return nil, yamlError(file, data, err)
		}
		chain = append(chain, fileDocument{d, file, &root})
		name = d.Extends
	}
	slices.Reverse(chain)
	return chain, nil
}

// IsPath reports whether Load takes a name for a file's and not a built-in policy's.
func IsPath(name string) bool {
	return strings.ContainsAny(name, `/\`) || strings.HasSuffix(name, ".yaml") || strings.HasSuffix(name, ".yml")
}

// keysOf lists the keys of each part of a policy, for suggestions.
var keysOf = map[string][]string{
	"document":     {"name", "extends", "objective", "window", "minimum", "sizing", "decisions", "parameters", "priors", "components", "detectors", "rules", "knobs", "limits", "approve"},
	"detectorYAML": {"name", "target", "when", "score", "hold", "clear", "disable"},
	"ruleYAML":     {"name", "cause", "target", "when", "evidence", "value", "disable"},
	"knobYAML":     {"name", "argument", "values", "mends", "component", "disable"},
	"limitsYAML":   {"min_parallelism", "max_parallelism", "max_instances_touched", "max_jobs_touched", "quiet_hours", "actions"},
	"approveYAML":  {"auto_if", "four_eyes"},
	"minimumYAML":  {"span", "polls"},
	"Objective":    {"kind", "records_per_second", "latency_seconds"},
	"Component":    {"external"},
}

func parse(data []byte, name string) (document, error) {
	var d document
	if len(data) > MaxFile {
		return d, fmt.Errorf("%s: a policy of %d bytes is larger than %d", name, len(data), MaxFile)
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	if err := dec.Decode(&d); err != nil && !errors.Is(err, io.EOF) {
		return d, yamlError(name, data, err)
	}
	var more yaml.Node
	if err := dec.Decode(&more); !errors.Is(err, io.EOF) {
		return d, fmt.Errorf("%s: one policy to a file", name)
	}
	return d, nil
}

// yamlError says FILE:LINE and speaks of keys, not of Go types.
func yamlError(name string, data []byte, err error) error {
	line, message := yamlerr.Split(data, err)
	at := name
	if line > 0 {
		at += ":" + strconv.Itoa(line)
	}
	return fmt.Errorf("%s: %s", at, yamlerr.Words(message, func(key, of string) string { return spell.DidYouMean(key, keysOf[of]) }))
}

// merge lays a policy over what it extends: single values and limits replace,
// maps merge by key, lists by name, and `disable: true` takes one away.
func (d *document) merge(o document, file string) error {
	if o.Name != "" {
		d.Name = o.Name
	}
	if o.Objective != nil {
		if d.Objective == nil {
			d.Objective = &Objective{}
		}
		if o.Objective.Kind != "" {
			d.Objective.Kind = o.Objective.Kind
		}
		if o.Objective.RecordsPerSecond != 0 {
			d.Objective.RecordsPerSecond = o.Objective.RecordsPerSecond
		}
		if o.Objective.LatencySeconds != 0 {
			d.Objective.LatencySeconds = o.Objective.LatencySeconds
		}
	}
	if o.Window != "" {
		d.Window = o.Window
	}
	if o.Sizing != "" {
		d.Sizing = o.Sizing
	}
	if o.Decisions != "" {
		d.Decisions = o.Decisions
	}
	if o.Model != "" {
		d.Model = o.Model
	}
	if o.Minimum != nil {
		if d.Minimum == nil {
			d.Minimum = &minimumYAML{}
		}
		if o.Minimum.Span != "" {
			d.Minimum.Span = o.Minimum.Span
		}
		if o.Minimum.Polls != nil {
			d.Minimum.Polls = o.Minimum.Polls
		}
	}
	for _, k := range slices.Sorted(maps.Keys(o.Parameters)) {
		v := o.Parameters[k]
		if old, ok := d.Parameters[k]; ok && parseValue(old.text).kind != parseValue(v.text).kind {
			return fmt.Errorf("%s:%d: parameter %s is %s (%s), not %q", file, v.line, k, kindWords[parseValue(old.text).kind], old.text, v.text)
		}
		d.Parameters[k] = v
	}
	maps.Copy(d.Priors, o.Priors)
	maps.Copy(d.Components, o.Components)
	var err error
	for i := range o.Detectors {
		o.Detectors[i].file = file
	}
	if d.Detectors, err = mergeByName(d.Detectors, o.Detectors, file, "detector", func(x detectorYAML) (scalar, bool) { return x.Name, x.Disable }); err != nil {
		return err
	}
	for i := range o.Rules {
		o.Rules[i].file = file
	}
	if d.Rules, err = mergeByName(d.Rules, o.Rules, file, "rule", func(x ruleYAML) (scalar, bool) { return x.Name, x.Disable }); err != nil {
		return err
	}
	for i := range o.Knobs {
		o.Knobs[i].file = file
	}
	if d.Knobs, err = mergeByName(d.Knobs, o.Knobs, file, "knob", func(x knobYAML) (scalar, bool) { return x.Name, x.Disable }); err != nil {
		return err
	}
	if o.Limits != nil {
		if d.Limits == nil {
			d.Limits = &limitsYAML{}
		}
		override(&d.Limits.MinParallelism, o.Limits.MinParallelism)
		override(&d.Limits.MaxParallelism, o.Limits.MaxParallelism)
		override(&d.Limits.MaxInstancesTouched, o.Limits.MaxInstancesTouched)
		override(&d.Limits.MaxJobsTouched, o.Limits.MaxJobsTouched)
		override(&d.Limits.QuietHours, o.Limits.QuietHours)
		if o.Limits.Actions != nil {
			d.Limits.Actions = o.Limits.Actions
		}
	}
	if o.Approve != nil {
		if d.Approve == nil {
			d.Approve = &approveYAML{}
		}
		override(&d.Approve.AutoIf, o.Approve.AutoIf)
		override(&d.Approve.FourEyes, o.Approve.FourEyes)
	}
	if o.Outcome != nil {
		if d.Outcome == nil {
			d.Outcome = &outcomeYAML{}
		}
		override(&d.Outcome.Unmet, o.Outcome.Unmet)
	}
	return nil
}

func override[T any](into **T, from *T) {
	if from != nil {
		*into = from
	}
}

// mergeByName lays a file's entries over those below: one of the same name
// replaces, `disable: true` removes. A name twice in one file, or the removal of
// what is not there, is a mistake.
func mergeByName[T any](below, own []T, file, what string, of func(T) (name scalar, remove bool)) ([]T, error) {
	list := slices.Clone(below)
	seen := map[string]bool{}
	for _, x := range own {
		name, remove := of(x)
		if name.text == "" {
			return nil, fmt.Errorf("%s: a %s has no name", file, what)
		}
		if seen[name.text] {
			return nil, fmt.Errorf("%s:%d: %s %s is there twice", file, name.line, what, name.text)
		}
		seen[name.text] = true
		var names []string
		at := -1
		for i, o := range list {
			other, _ := of(o)
			names = append(names, other.text)
			if other.text == name.text {
				at = i
			}
		}
		switch {
		case remove && at < 0:
			return nil, fmt.Errorf("%s:%d: there is no %s %s to disable%s", file, name.line, what, name.text, spell.DidYouMean(name.text, names))
		case remove:
			list = slices.Delete(list, at, at+1)
		case at >= 0:
			list[at] = x
		default:
			list = append(list, x)
		}
	}
	return list, nil
}

// check turns a merged document into a policy.
func (d *document) check(chain []fileDocument, known Catalogue, params map[string]string) (*Policy, error) {
	p := &Policy{
		Name: d.Name, Window: time.Minute, Minimum: Minimum{Span: 20 * time.Second, Polls: 4}, Sizing: SizingUtilisation, Decisions: DecideGraded, Model: ModelActive,
		Priors: map[dhalion.Cause]float64{}, Components: d.Components, Parameters: Parameters{map[string]value{}},
	}
	if p.Name == "" {
		return nil, at(chain, nil, "the policy has no name")
	}
	if d.Objective != nil {
		p.Objective = *d.Objective
		switch o := p.Objective; {
		case !slices.Contains(objectiveKinds, o.Kind):
			return nil, at(chain, []string{"objective"}, "objective %q is none of %s", o.Kind, strings.Join(objectiveKinds, ", "))
		case o.Kind == "throughput-slo" && !(o.RecordsPerSecond > 0):
			return nil, at(chain, []string{"objective"}, "objective throughput-slo needs records_per_second above 0")
		case o.Kind == "latency-slo" && !(o.LatencySeconds > 0):
			return nil, at(chain, []string{"objective"}, "objective latency-slo needs latency_seconds above 0")
		}
	}
	if d.Window != "" {
		w, err := time.ParseDuration(d.Window)
		if err != nil || w <= 0 {
			return nil, at(chain, []string{"window"}, "window %q is no duration above 0, such as 60s", d.Window)
		}
		p.Window = w
	}
	if d.Sizing != "" {
		if !slices.Contains(Sizings, d.Sizing) {
			return nil, at(chain, []string{"sizing"}, "sizing %q is none of %s", d.Sizing, join(Sizings))
		}
		p.Sizing = d.Sizing
	}
	switch d.Decisions {
	case "", DecideGraded:
	case DecideBinary:
		p.Decisions = DecideBinary
	default:
		return nil, at(chain, []string{"decisions"}, "decisions %q are neither %s nor %s", d.Decisions, DecideGraded, DecideBinary)
	}
	switch d.Model {
	case "":
	case ModelActive, ModelDefault, ModelNone:
		p.Model = d.Model
	default:
		return nil, at(chain, []string{"model"}, "model %q is none of %s, %s and %s", d.Model, ModelActive, ModelDefault, ModelNone)
	}
	if p.Decisions == DecideBinary {
		if d.Model != "" && d.Model != ModelNone {
			return nil, at(chain, []string{"model"}, "model %s: a %s decision leaves nothing to combine", d.Model, DecideBinary)
		}
		p.Model = ModelNone
	}
	if d.Minimum != nil {
		if d.Minimum.Span != "" {
			span, err := time.ParseDuration(d.Minimum.Span)
			if err != nil || span < 0 {
				return nil, at(chain, []string{"minimum", "span"}, "minimum span %q is no duration from 0, such as 20s", d.Minimum.Span)
			}
			p.Minimum.Span = span
		}
		if d.Minimum.Polls != nil {
			if p.Minimum.Polls = *d.Minimum.Polls; p.Minimum.Polls < 0 {
				return nil, at(chain, []string{"minimum", "polls"}, "minimum polls %d is negative", p.Minimum.Polls)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(d.Parameters)) {
		for _, kind := range dhalion.TargetKinds {
			if known != nil && d.Parameters[name].line > 0 && known(kind, name) {
				return nil, at(chain, []string{"parameters", name}, "parameter %s has the name of a feature of a %s", name, kind)
			}
		}
		p.Parameters.values[name] = parseValue(d.Parameters[name].text)
	}
	if err := p.Parameters.set(params); err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(d.Priors)) {
		cause, v := dhalion.Cause(name), d.Priors[name]
		if !cause.Valid() {
			return nil, at(chain, []string{"priors", name}, "prior of %s: there is no such cause%s", name, spell.DidYouMean(name, causeNames()))
		}
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return nil, at(chain, []string{"priors", name}, "prior of %s: %v is no log-odds", name, v)
		}
		p.Priors[cause] = v
	}
	if err := d.checkDetectors(p, known); err != nil {
		return nil, err
	}
	if err := d.checkRules(p, known); err != nil {
		return nil, err
	}
	if err := d.checkKnobs(p); err != nil {
		return nil, err
	}
	if err := d.checkLimits(p, chain); err != nil {
		return nil, err
	}
	p.Digest = p.digest()
	return p, nil
}

// approval is what the condition for approving without a person may speak of.
func (p *Policy) approval() scope {
	sc := p.scope(dhalion.KindJob, func(_ dhalion.TargetKind, name string) bool {
		return name == "probability" || name == "jobs_touched" || name == "instances_touched"
	})
	sc.symptoms, sc.elsewhere, sc.diagnoses = nil, nil, true
	return sc
}

func (p *Policy) scope(kind dhalion.TargetKind, known Catalogue) scope {
	sc := scope{kind: kind, known: known, names: p.Parameters.Names()}
	if known == nil {
		sc.known = func(dhalion.TargetKind, string) bool { return false }
	}
	sc.parameters = func(name string) bool { _, ok := p.Parameters.Number(name); return ok }
	for _, d := range p.Detectors {
		if d.Target == kind {
			sc.symptoms = append(sc.symptoms, d.Name)
		} else {
			sc.elsewhere = append(sc.elsewhere, d.Name)
		}
	}
	if kind == dhalion.KindInstance {
		of := p.scope(dhalion.KindComponent, known)
		sc.component = &of
	}
	return sc
}

// expression compiles a scalar and puts its place before what is wrong with it.
func expression(s scalar, file string, sc scope) (*Expr, error) {
	e, err := compile(s.text, sc)
	if err == nil {
		return e, nil
	}
	column := s.column
	var ce *compileError
	if errors.As(err, &ce) {
		column += ce.at
	}
	if s.quoted {
		column++
	}
	return nil, fmt.Errorf("%s:%d:%d: %w", file, s.line, column, err)
}

func duration(text, what, file string, line int) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		return 0, fmt.Errorf("%s:%d: %s %q is no duration from 0, such as 30s", file, line, what, text)
	}
	return d, nil
}

func kindOf(text, file string, line int) (dhalion.TargetKind, error) {
	kind := dhalion.TargetKind(text)
	if !kind.Valid() {
		return "", fmt.Errorf("%s:%d: target %q is none of job, component, instance, worker", file, line, text)
	}
	return kind, nil
}

func (d *document) checkDetectors(p *Policy, known Catalogue) error {
	slices.SortFunc(d.Detectors, func(a, b detectorYAML) int { return strings.Compare(a.Name.text, b.Name.text) })
	for _, x := range d.Detectors {
		line := x.Name.line
		kind, err := kindOf(x.Target, x.file, line)
		if err != nil {
			return err
		}
		out := Detector{Name: x.Name.text, Target: kind, File: x.file, Line: line}
		if out.Hold, err = duration(x.Hold, "hold", x.file, line); err != nil {
			return err
		}
		if out.Clear, err = duration(x.Clear, "clear", x.file, line); err != nil {
			return err
		}
		sc := p.scope(kind, known)
		sc.symptoms, sc.elsewhere = nil, nil // symptoms are made of features, not of one another
		if sc.component != nil {
			sc.component.symptoms, sc.component.elsewhere = nil, nil
		}
		if x.learns() {
			if out.Learn, err = x.learn(p, out, sc); err != nil {
				return err
			}
			p.Detectors = append(p.Detectors, out)
			continue
		}
		if x.When.text == "" {
			return fmt.Errorf("%s:%d: detector %s has neither a condition (when) nor a number whose limit is learned (of, against)", x.file, line, out.Name)
		}
		if out.When, err = conditionOf(x.When, x.file, sc); err != nil {
			return err
		}
		if x.Score.text != "" {
			if out.Score, err = numberOf(x.Score, x.file, sc); err != nil {
				return err
			}
		}
		p.Detectors = append(p.Detectors, out)
	}
	return nil
}

// defaultFalseAlarms is one window in a thousand: at 60 s, one in 17 h.
const defaultFalseAlarms = 0.001

// learns says that any word of a learned limit is there.
func (x *detectorYAML) learns() bool {
	return x.Of.text != "" || x.Against != "" || x.Side != "" || x.FalseAlarms != nil || x.Floor != nil || x.Per.text != "" || x.Window != "" || x.Over != "" || x.Season != ""
}

// learn checks the words of a learned limit.
func (x *detectorYAML) learn(p *Policy, d Detector, sc scope) (*Learn, error) {
	l := &Learn{Against: x.Against, Side: SideAbove, FalseAlarms: defaultFalseAlarms, Floor: math.Inf(-1), Window: p.Window, Over: p.Lookback()}
	wrong := func(format string, args ...any) error {
		return fmt.Errorf("%s:%d: detector %s: %s", x.file, d.Line, d.Name, fmt.Sprintf(format, args...))
	}
	var err error
	switch {
	case x.When.text != "" || x.Score.text != "":
		return nil, wrong("it has a condition (when, score) and a learned limit (of, against): want one of them")
	case x.Of.text == "":
		return nil, wrong("the number whose limit is learned (of) is missing")
	case !slices.Contains([]Against{AgainstPast, AgainstRecent, AgainstPeers}, x.Against):
		return nil, wrong("against %q is none of past, recent, peers", x.Against)
	case x.Side != "" && !slices.Contains([]Side{SideAbove, SideBelow, SideEither}, x.Side):
		return nil, wrong("side %q is none of above, below, either", x.Side)
	case x.Against == AgainstPeers && d.Target != dhalion.KindInstance && d.Target != dhalion.KindWorker:
		return nil, wrong("a %s has no peers; instances and workers have", d.Target)
	case x.Against == AgainstPeers && x.Side != "" && x.Side != SideAbove:
		return nil, wrong("among peers more is worse: side %s is not looked at", x.Side)
	case x.Against != AgainstPeers && x.Per.text != "":
		return nil, wrong("per goes with against: peers; divide in of")
	case x.Against != AgainstPast && x.Season != "":
		return nil, wrong("season goes with against: past")
	case x.Floor != nil && x.Side != "" && x.Side != SideAbove:
		return nil, wrong("a floor goes with side: above")
	}
	if x.Side != "" {
		l.Side = x.Side
	}
	if x.FalseAlarms != nil {
		if l.FalseAlarms = *x.FalseAlarms; !(l.FalseAlarms > 0 && l.FalseAlarms < 0.1) {
			return nil, wrong("false_alarms %v is not above 0 and below 0.1, a share of windows", l.FalseAlarms)
		}
	}
	if x.Floor != nil {
		if l.Floor = *x.Floor; math.IsNaN(l.Floor) || math.IsInf(l.Floor, 0) {
			return nil, wrong("floor %v is no limit", l.Floor)
		}
	}
	if l.Of, err = numberOf(x.Of, x.file, sc); err != nil {
		return nil, err
	}
	if x.Per.text != "" {
		if l.Per, err = numberOf(x.Per, x.file, sc); err != nil {
			return nil, err
		}
	}
	for _, t := range []struct {
		text, what string
		to         *time.Duration
	}{{x.Window, "window", &l.Window}, {x.Over, "over", &l.Over}, {x.Season, "season", &l.Season}} {
		if t.text == "" {
			continue
		}
		if *t.to, err = duration(t.text, t.what, x.file, d.Line); err != nil {
			return nil, err
		}
		if *t.to <= 0 {
			return nil, wrong("%s %s is no length of time", t.what, t.text)
		}
	}
	if l.Season > 0 && l.Season < 24*l.Window {
		return nil, wrong("a season of %s has no 24 phases of %s or more", x.Season, l.Window)
	}
	if l.Season > l.Over/3 {
		return nil, wrong("a season of %s is not learned from %s: over must be three of it or more", x.Season, l.Over)
	}
	return l, nil
}

func conditionOf(s scalar, file string, sc scope) (*Expr, error) {
	e, err := expression(s, file, sc)
	if err == nil && !e.isBool {
		err = fmt.Errorf("%s:%d: %q is a number, and a condition is needed", file, s.line, s.text)
	}
	return e, err
}

func numberOf(s scalar, file string, sc scope) (*Expr, error) {
	e, err := expression(s, file, sc)
	if err == nil && e.isBool {
		err = fmt.Errorf("%s:%d: %q is a condition, and a number is needed", file, s.line, s.text)
	}
	return e, err
}

func (d *document) checkRules(p *Policy, known Catalogue) error {
	for _, x := range d.Rules {
		line := x.Name.line
		out := Rule{Name: x.Name.text, Cause: dhalion.Cause(x.Cause), File: x.file, Line: line}
		if !out.Cause.Valid() {
			return fmt.Errorf("%s:%d: rule %s: there is no cause %q%s", x.file, line, out.Name, x.Cause, spell.DidYouMean(x.Cause, causeNames()))
		}
		out.Target = Kinds[out.Cause][0]
		if x.Target != "" {
			var err error
			if out.Target, err = kindOf(x.Target, x.file, line); err != nil {
				return err
			}
		}
		if !slices.Contains(Kinds[out.Cause], out.Target) {
			return fmt.Errorf("%s:%d: rule %s: %s is not judged at a target of kind %s", x.file, line, out.Name, out.Cause, out.Target)
		}
		var err error
		sc := p.scope(out.Target, known)
		if x.When.text != "" {
			if out.When, err = conditionOf(x.When, x.file, sc); err != nil {
				return err
			}
		}
		if x.Evidence.text == "" {
			return fmt.Errorf("%s:%d: rule %s has no evidence", x.file, line, out.Name)
		}
		if out.Evidence, err = numberOf(x.Evidence, x.file, sc); err != nil {
			return err
		}
		if x.Value.text == "" {
			x.Value = firstFeature(out)
		}
		if x.Value.text != "" {
			if out.Value, err = numberOf(x.Value, x.file, sc); err != nil {
				return err
			}
		}
		p.Rules = append(p.Rules, out)
	}
	return nil
}

// firstFeature is what a rule that names no value looks at first.
func firstFeature(r Rule) scalar {
	for _, e := range []*Expr{r.When, r.Evidence} {
		if e != nil && len(e.features) > 0 {
			return scalar{text: e.features[0]}
		}
	}
	return scalar{}
}

func (d *document) checkKnobs(p *Policy) error {
	for _, x := range d.Knobs {
		line := x.Name.line
		out := Knob{Name: x.Name.text, Argument: x.Argument, Mends: dhalion.Cause(x.Mends), Component: x.Component}
		switch {
		case out.Name == "" || out.Argument == "":
			return fmt.Errorf("%s:%d: a knob needs a name and an argument", x.file, max(line, 1))
		case !out.Mends.Valid():
			return fmt.Errorf("%s:%d: knob %s mends %q, which is no cause%s", x.file, line, out.Name, x.Mends, spell.DidYouMean(x.Mends, causeNames()))
		case len(x.Values) == 0:
			return fmt.Errorf("%s:%d: knob %s has no values", x.file, line, out.Name)
		}
		for _, v := range x.Values {
			if n, err := strconv.ParseFloat(v.text, 64); err == nil && !v.quoted && !math.IsInf(n, 0) && !math.IsNaN(n) {
				out.Values = append(out.Values, dhalion.NumberSetting(n))
			} else {
				out.Values = append(out.Values, dhalion.TextSetting(v.text))
			}
		}
		p.Knobs = append(p.Knobs, out)
	}
	return nil
}

func (d *document) checkLimits(p *Policy, chain []fileDocument) error {
	if l := d.Limits; l != nil {
		if l.MinParallelism != nil {
			p.Limits.MinParallelism = *l.MinParallelism
		}
		if l.MaxParallelism != nil {
			p.Limits.MaxParallelism = *l.MaxParallelism
		}
		if l.MaxInstancesTouched != nil {
			p.Limits.MaxInstancesTouched = *l.MaxInstancesTouched
		}
		if l.MaxJobsTouched != nil {
			p.Limits.MaxJobsTouched = *l.MaxJobsTouched
		}
		switch {
		case p.Limits.MinParallelism < 0 || p.Limits.MaxParallelism < 0 || p.Limits.MaxJobsTouched < 0 || !(p.Limits.MaxInstancesTouched >= 0):
			return at(chain, []string{"limits"}, "a limit is negative")
		case p.Limits.MaxParallelism > 0 && p.Limits.MinParallelism > p.Limits.MaxParallelism:
			return at(chain, []string{"limits", "min_parallelism"}, "min_parallelism %d is above max_parallelism %d", p.Limits.MinParallelism, p.Limits.MaxParallelism)
		}
		if l.QuietHours != nil {
			q, err := parseQuietHours(*l.QuietHours)
			if err != nil {
				return at(chain, []string{"limits", "quiet_hours"}, "%v", err)
			}
			p.Limits.QuietHours = q
		}
		for _, a := range l.Actions {
			kind := dhalion.ActionKind(a)
			if !kind.Valid() {
				var names []string
				for _, k := range dhalion.ActionKinds {
					names = append(names, string(k))
				}
				return at(chain, []string{"limits", "actions"}, "there is no action %q%s", a, spell.DidYouMean(a, names))
			}
			p.Limits.Actions = append(p.Limits.Actions, kind)
		}
	}
	if a := d.Approve; a != nil {
		if a.AutoIf != nil {
			p.Approve.AutoIf = *a.AutoIf
			if p.Approve.AutoIf != "" {
				if e, err := compile(p.Approve.AutoIf, p.approval()); err != nil || !e.isBool {
					return at(chain, []string{"approve", "auto_if"}, "auto_if %q is no condition over probability, jobs_touched and instances_touched: %v", p.Approve.AutoIf, err)
				}
			}
		}
		if a.FourEyes != nil {
			p.Approve.FourEyes = *a.FourEyes
		}
	}
	if o := d.Outcome; o != nil && o.Unmet != nil {
		switch *o.Unmet {
		case keepUnmet:
		case reverseUnmet:
			p.Outcome.ReverseUnmet = true
		default:
			return at(chain, []string{"outcome", "unmet"}, "unmet is keep or reverse, not %q%s", *o.Unmet, spell.DidYouMean(*o.Unmet, []string{keepUnmet, reverseUnmet}))
		}
	}
	return nil
}

func join(list []Sizing) string {
	names := make([]string, len(list))
	for i, s := range list {
		names[i] = string(s)
	}
	return strings.Join(names, ", ")
}

// WithWindow is the policy with windows of another length.
func (p *Policy) WithWindow(d time.Duration) *Policy {
	q := *p
	q.Window = d
	q.Digest = q.digest()
	return &q
}

// YAML is the policy in effect: merged, with its parameters overridden, in the
// language it was written in. Loading it gives the same policy.
func (p *Policy) YAML() []byte {
	yes := func(b bool) *bool { return &b }
	d := document{
		Name: p.Name, Window: p.Window.String(), Minimum: &minimumYAML{p.Minimum.Span.String(), &p.Minimum.Polls},
		Parameters: map[string]scalar{}, Priors: map[string]float64{}, Components: p.Components,
	}
	if p.Objective != (Objective{}) {
		d.Objective = &p.Objective
	}
	if p.Sizing != SizingUtilisation {
		d.Sizing = p.Sizing
	}
	if p.Decisions != DecideGraded {
		d.Decisions = p.Decisions
	}
	if p.Model != ModelActive && p.Decisions != DecideBinary {
		d.Model = p.Model
	}
	for name, v := range p.Parameters.values {
		d.Parameters[name] = scalar{text: v.String(), number: v.kind == 'n'}
	}
	for cause, v := range p.Priors {
		d.Priors[string(cause)] = v
	}
	text := func(e *Expr) scalar {
		if e == nil {
			return scalar{}
		}
		return scalar{text: e.source}
	}
	for _, x := range p.Detectors {
		y := detectorYAML{
			Name: scalar{text: x.Name}, Target: string(x.Target), When: text(x.When), Score: text(x.Score),
			Hold: x.Hold.String(), Clear: x.Clear.String(),
		}
		if l := x.Learn; l != nil {
			y.Of, y.Against, y.Side, y.FalseAlarms, y.Per, y.Window = text(l.Of), l.Against, l.Side, &l.FalseAlarms, text(l.Per), l.Window.String()
			y.Over = l.Over.String()
			if !math.IsInf(l.Floor, 0) {
				y.Floor = &l.Floor
			}
			if l.Season > 0 {
				y.Season = l.Season.String()
			}
		}
		d.Detectors = append(d.Detectors, y)
	}
	for _, x := range p.Rules {
		d.Rules = append(d.Rules, ruleYAML{
			Name: scalar{text: x.Name}, Cause: string(x.Cause), Target: string(x.Target),
			When: text(x.When), Evidence: text(x.Evidence), Value: text(x.Value),
		})
	}
	for _, x := range p.Knobs {
		k := knobYAML{Name: scalar{text: x.Name}, Argument: x.Argument, Mends: string(x.Mends), Component: x.Component}
		for _, v := range x.Values {
			k.Values = append(k.Values, scalar{text: v.String()})
		}
		d.Knobs = append(d.Knobs, k)
	}
	l := p.Limits
	quiet := l.QuietHours.String()
	d.Limits = &limitsYAML{&l.MinParallelism, &l.MaxParallelism, &l.MaxInstancesTouched, &l.MaxJobsTouched, &quiet, nil}
	for _, a := range l.Actions {
		d.Limits.Actions = append(d.Limits.Actions, string(a))
	}
	d.Approve = &approveYAML{&p.Approve.AutoIf, yes(p.Approve.FourEyes)}
	if p.Outcome.ReverseUnmet {
		unmet := reverseUnmet
		d.Outcome = &outcomeYAML{&unmet}
	}
	var out bytes.Buffer
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(2)
	if err := enc.Encode(d); err != nil {
		return nil // texts and numbers always encode
	}
	return out.Bytes()
}

// digest is over the canonical rendering, in which maps are sorted by key, so
// that neither the files' layout nor their comments matter.
func (p *Policy) digest() string {
	sum := sha256.Sum256(p.YAML())
	return hex.EncodeToString(sum[:])
}
