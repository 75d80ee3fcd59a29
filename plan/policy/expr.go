package policy

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"sort"

	"github.com/expr-lang/expr/ast"
	"github.com/expr-lang/expr/file"
	"github.com/expr-lang/expr/parser"

	dhalion "github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/internal/spell"
)

// MaxExpression bounds the length of one expression in bytes, and with it the
// depth to which it can nest.
const MaxExpression = 4096

// Catalogue says which features a kind of target has.
type Catalogue func(kind dhalion.TargetKind, feature string) bool

// Env is what an expression is evaluated against. A nil function knows nothing.
type Env struct {
	Feature   func(name string) float64              // NaN: unknown
	Symptom   func(name string) (held, known bool)   // of the target at hand
	Score     func(symptom string) float64           // NaN: unknown
	Diagnosis func(cause dhalion.Cause) float64      // NaN: unknown
	Parameter func(name string) (v float64, ok bool) // of the policy
	// Component is the same for the component that an instance is part of; nil
	// where there is none or it is unknown.
	Component *Env
}

// Expr is a compiled expression. expr-lang parses it; it is checked and walked
// here, because in this language an unknown is neither true nor false (Kleene's
// three-valued logic) and expr's virtual machine has no such value.
type Expr struct {
	source   string
	root     node
	isBool   bool
	features []string
	// parameters and symptoms that it names
	parameters, symptoms []string
}

// String is the expression as it was written.
func (e *Expr) String() string { return e.source }

// Features lists the features that the expression names, in the order written;
// those of an instance's component with OfComponent before them.
func (e *Expr) Features() []string { return slices.Clone(e.features) }

// Symptoms lists the symptoms that the expression asks for, in the order
// written; those of an instance's component with OfComponent before them.
func (e *Expr) Symptoms() []string { return slices.Clone(e.symptoms) }

// OfComponent stands before what an expression about an instance asks of its
// component: component.most(queue_bytes), component.symptom('backpressure').
const OfComponent = componentName + "."

const componentName = "component"

// Bool evaluates a condition. known is false when the outcome depends on
// something unknown; false && unknown is known, and so is true || unknown.
func (e *Expr) Bool(env Env) (value, known bool, err error) {
	if !e.isBool {
		return false, false, fmt.Errorf("policy: %q is a number, not a condition", e.source)
	}
	v := e.root.eval(&env)
	return v == 1, v == v, nil
}

// Number evaluates a numeric expression. What cannot be computed (a division by
// zero, the logarithm of a negative number, an overflow) is unknown.
func (e *Expr) Number(env Env) (v float64, known bool, err error) {
	if e.isBool {
		return 0, false, fmt.Errorf("policy: %q is a condition, not a number", e.source)
	}
	v = e.root.eval(&env)
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return math.NaN(), false, nil
	}
	return v, true, nil
}

// node is a compiled part. Truth is 1 and 0, and NaN is the unknown of both
// numbers and conditions.
type node interface{ eval(*Env) float64 }

type evalFunc func(*Env) float64

func (f evalFunc) eval(env *Env) float64 { return f(env) }

var unknown = math.NaN()

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// scope is what names mean where an expression stands.
type scope struct {
	kind       dhalion.TargetKind
	known      Catalogue
	parameters func(name string) bool
	names      []string // parameters and, for suggestions, functions
	symptoms   []string // of detectors of this kind of target
	elsewhere  []string // of the others
	diagnoses  bool     // probabilities are known where the expression is evaluated
	component  *scope   // of the component that an instance is part of; nil at other kinds
}

// compileError carries where in the expression something is wrong, counted in
// characters from 0.
type compileError struct {
	at      int
	message string
}

func (e *compileError) Error() string { return e.message }

func wrong(n ast.Node, format string, args ...any) error {
	return &compileError{n.Location().From, fmt.Sprintf(format, args...)}
}

func compile(source string, sc scope) (*Expr, error) {
	if len(source) > MaxExpression {
		return nil, &compileError{0, fmt.Sprintf("the expression has %d bytes, more than %d", len(source), MaxExpression)}
	}
	if depth(source) > 64 {
		return nil, &compileError{0, "the expression is nested deeper than 64"}
	}
	if at := comment(source); at >= 0 {
		return nil, &compileError{at, "a comment inside an expression would silence what follows it; put it behind # in the YAML"}
	}
	tree, err := parser.Parse(source)
	if err != nil {
		var at *file.Error
		if errors.As(err, &at) {
			return nil, &compileError{at.From, at.Message}
		}
		return nil, &compileError{0, err.Error()}
	}
	c := &compiler{scope: sc}
	root, isBool, err := c.compile(tree.Node)
	if err != nil {
		return nil, err
	}
	return &Expr{source: source, root: root, isBool: isBool, features: c.features, parameters: c.used, symptoms: c.seen}, nil
}

// depth is how deep an expression can nest: brackets, and the prefix operators
// in a row before an operand.
func depth(source string) int {
	brackets, deepest, prefixes := 0, 0, 0
	for _, r := range source {
		switch r {
		case '(', '[', '{':
			brackets++
			prefixes = 0
		case ')', ']', '}':
			brackets--
			prefixes = 0
		case '!', '-', '+':
			prefixes++
		case ' ', '\t', '\n':
		default:
			prefixes = 0
		}
		deepest = max(deepest, brackets+prefixes)
	}
	return deepest
}

// comment is where expr would begin to skip text, outside quotes; -1 for nowhere.
// A condition folded over several lines would lose its end without a word.
func comment(source string) int {
	var quote byte
	for i := 0; i < len(source); i++ {
		c := source[i]
		switch {
		case quote != 0:
			if c == '\\' {
				i++
			} else if c == quote {
				quote = 0
			}
		case c == '\'' || c == '"' || c == '`':
			quote = c
		case c == '#', c == '/' && i+1 < len(source) && (source[i+1] == '/' || source[i+1] == '*'):
			return i
		}
	}
	return -1
}

// maxNodes bounds what is compiled. expr shares operands between the two halves
// of a chain such as a < b < c, and nested chains would double the work each.
const maxNodes = 2000

type compiler struct {
	scope
	features []string
	used     []string // parameters
	seen     []string // symptoms
	nodes    int
}

func (c *compiler) feature(name string) node {
	c.note(&c.features, name)
	return evalFunc(func(env *Env) float64 {
		if env.Feature == nil {
			return unknown
		}
		return env.Feature(name)
	})
}

func (c *compiler) number(n ast.Node) (node, error) {
	x, isBool, err := c.compile(n)
	if err == nil && isBool {
		err = wrong(n, "a number is needed here, not a condition")
	}
	return x, err
}

func (c *compiler) condition(n ast.Node) (node, error) {
	x, isBool, err := c.compile(n)
	if err == nil && !isBool {
		err = wrong(n, "a condition is needed here, not a number")
	}
	return x, err
}

func (c *compiler) compile(n ast.Node) (node, bool, error) {
	if c.nodes++; c.nodes > maxNodes {
		return nil, false, wrong(n, "the expression has more than %d parts", maxNodes)
	}
	switch n := n.(type) {
	case *ast.IntegerNode:
		return constant(float64(n.Value)), false, nil
	case *ast.FloatNode:
		return constant(n.Value), false, nil
	case *ast.BoolNode:
		return constant(truth(n.Value)), true, nil
	case *ast.IdentifierNode:
		x, err := c.identifier(n)
		return x, false, err
	case *ast.UnaryNode:
		return c.unary(n)
	case *ast.BinaryNode:
		return c.binary(n)
	case *ast.ConditionalNode:
		return c.conditional(n)
	case *ast.CallNode:
		switch callee := n.Callee.(type) {
		case *ast.IdentifierNode:
			return c.call(n, callee.Value, n.Arguments)
		case *ast.MemberNode:
			return c.ofComponent(n, callee, true, n.Arguments)
		}
		return nil, false, wrong(n, "only functions can be called")
	case *ast.MemberNode:
		return c.ofComponent(n, n, false, nil)
	case *ast.BuiltinNode:
		return c.call(n, n.Name, n.Arguments)
	default:
		return nil, false, wrong(n, "this is not part of the policy language: %s", n.String())
	}
}

// ofComponent compiles component.feature, component.function(feature),
// component.symptom('name') and component.score('name') in an instance's
// expression: the rest is read as an expression about the component.
func (c *compiler) ofComponent(n ast.Node, member *ast.MemberNode, called bool, args []ast.Node) (node, bool, error) {
	of, ok := member.Node.(*ast.IdentifierNode)
	property, plain := member.Property.(*ast.StringNode)
	switch {
	case !ok || !plain || member.Optional || of.Value != componentName:
		return nil, false, wrong(n, "this is not part of the policy language: %s", n.String())
	case c.component == nil:
		return nil, false, wrong(n, "component.%s is for expressions about an instance, not about a %s", property.Value, c.kind)
	}
	name := property.Value
	inner := &compiler{scope: *c.component}
	var x node
	var isBool bool
	var err error
	switch m, isName := firstName(args); {
	case !called && c.component.known(dhalion.KindComponent, name):
		x = inner.feature(name)
	case !called:
		return nil, false, wrong(n, "%s is no feature of a component%s", name, inner.suggest(name))
	case name == "symptom" || name == "score":
		x, isBool, err = inner.named(n, name, args)
	case isName && c.component.known(dhalion.KindComponent, name+"("+m+")"):
		x = inner.feature(name + "(" + m + ")")
	default:
		return nil, false, wrong(n, "component.%s(…) is no feature of a component; symptom('…') and score('…') can be asked of it, too", name)
	}
	if err != nil {
		return nil, false, err
	}
	for _, f := range inner.features {
		c.note(&c.features, OfComponent+f)
	}
	for _, s := range inner.seen {
		c.note(&c.seen, OfComponent+s)
	}
	return evalFunc(func(env *Env) float64 {
		if env.Component == nil {
			return unknown
		}
		return x.eval(env.Component)
	}), isBool, nil
}

// firstName is the one argument when that is a bare name.
func firstName(args []ast.Node) (string, bool) {
	if len(args) != 1 {
		return "", false
	}
	m, ok := args[0].(*ast.IdentifierNode)
	if !ok {
		return "", false
	}
	return m.Value, true
}

// note adds a name to a list of the expression's, once.
func (c *compiler) note(list *[]string, name string) {
	if !slices.Contains(*list, name) {
		*list = append(*list, name)
	}
}

func constant(v float64) node { return evalFunc(func(*Env) float64 { return v }) }

func (c *compiler) identifier(n *ast.IdentifierNode) (node, error) {
	switch {
	case c.known(c.kind, n.Value):
		return c.feature(n.Value), nil
	case c.parameters(n.Value):
		return c.parameter(n.Value), nil
	}
	return nil, wrong(n, "%s is neither a feature of a target of kind %s nor a parameter%s", n.Value, c.kind, c.suggest(n.Value))
}

// suggest names a feature one edit away, or a parameter that is near.
func (c *compiler) suggest(name string) string {
	const letters = "abcdefghijklmnopqrstuvwxyz_0123456789"
	if len(name) > 64 {
		return ""
	}
	for i := 0; i <= len(name); i++ {
		var tries []string
		if i < len(name) {
			tries = append(tries, name[:i]+name[i+1:])
		}
		if i+1 < len(name) {
			tries = append(tries, name[:i]+name[i+1:i+2]+name[i:i+1]+name[i+2:])
		}
		for _, l := range letters {
			tries = append(tries, name[:i]+string(l)+name[i:])
			if i < len(name) {
				tries = append(tries, name[:i]+string(l)+name[i+1:])
			}
		}
		for _, t := range tries {
			if c.known(c.kind, t) {
				return fmt.Sprintf("; did you mean %s?", t)
			}
		}
	}
	return spell.DidYouMean(name, c.names)
}

// finite makes what overflows unknown: an infinity compares like a number and
// says nothing.
func finite(v float64) float64 {
	if math.IsInf(v, 0) {
		return unknown
	}
	return v
}

func (c *compiler) parameter(name string) node {
	c.used = append(c.used, name)
	return evalFunc(func(env *Env) float64 {
		if env.Parameter == nil {
			return unknown
		}
		if v, ok := env.Parameter(name); ok {
			return v
		}
		return unknown
	})
}

func (c *compiler) unary(n *ast.UnaryNode) (node, bool, error) {
	switch n.Operator {
	case "!", "not":
		x, err := c.condition(n.Node)
		return evalFunc(func(env *Env) float64 { return 1 - x.eval(env) }), true, err
	case "-":
		x, err := c.number(n.Node)
		return evalFunc(func(env *Env) float64 { return -x.eval(env) }), false, err
	case "+":
		x, err := c.number(n.Node)
		return x, false, err
	}
	return nil, false, wrong(n, "the operator %s is not part of the policy language", n.Operator)
}

var arithmetic = map[string]func(a, b float64) float64{
	"+": func(a, b float64) float64 { return a + b },
	"-": func(a, b float64) float64 { return a - b },
	"*": func(a, b float64) float64 { return a * b },
	"/": func(a, b float64) float64 {
		if b == 0 {
			return unknown
		}
		return a / b
	},
	"^":  math.Pow,
	"**": math.Pow,
}

var comparison = map[string]func(a, b float64) bool{
	"<":  func(a, b float64) bool { return a < b },
	"<=": func(a, b float64) bool { return a <= b },
	">":  func(a, b float64) bool { return a > b },
	">=": func(a, b float64) bool { return a >= b },
	"==": func(a, b float64) bool { return a == b },
	"!=": func(a, b float64) bool { return a != b },
}

func (c *compiler) binary(n *ast.BinaryNode) (node, bool, error) {
	if n.Operator == "&&" || n.Operator == "and" || n.Operator == "||" || n.Operator == "or" {
		decides := truth(n.Operator == "||" || n.Operator == "or")
		a, err := c.condition(n.Left)
		if err != nil {
			return nil, false, err
		}
		b, err := c.condition(n.Right)
		if err != nil {
			return nil, false, err
		}
		return evalFunc(func(env *Env) float64 {
			x := a.eval(env)
			if x == decides {
				return x
			}
			y := b.eval(env)
			if y == decides {
				return y
			}
			return x + y - (1 - decides) // unknown when either is
		}), true, nil
	}
	a, aBool, err := c.compile(n.Left)
	if err != nil {
		return nil, false, err
	}
	b, bBool, err := c.compile(n.Right)
	if err != nil {
		return nil, false, err
	}
	equality := n.Operator == "==" || n.Operator == "!="
	if aBool != bBool || (aBool && !equality) {
		return nil, false, wrong(n, "%s needs two numbers", n.Operator)
	}
	if f, ok := comparison[n.Operator]; ok {
		return evalFunc(func(env *Env) float64 {
			x, y := a.eval(env), b.eval(env)
			if x != x || y != y {
				return unknown
			}
			return truth(f(x, y))
		}), true, nil
	}
	if f, ok := arithmetic[n.Operator]; ok {
		return evalFunc(func(env *Env) float64 { return finite(f(a.eval(env), b.eval(env))) }), false, nil
	}
	return nil, false, wrong(n, "the operator %s is not part of the policy language", n.Operator)
}

func (c *compiler) conditional(n *ast.ConditionalNode) (node, bool, error) {
	when, err := c.condition(n.Cond)
	if err != nil {
		return nil, false, err
	}
	a, aBool, err := c.compile(n.Exp1)
	if err != nil {
		return nil, false, err
	}
	b, bBool, err := c.compile(n.Exp2)
	if err != nil {
		return nil, false, err
	}
	if aBool != bBool {
		return nil, false, wrong(n, "both sides of ?: must be numbers, or both conditions")
	}
	return evalFunc(func(env *Env) float64 {
		switch when.eval(env) {
		case 1:
			return a.eval(env)
		case 0:
			return b.eval(env)
		}
		return unknown
	}), aBool, nil
}

// functions of numbers. least and most bound the number of arguments; most -1 is
// any number.
var functions = map[string]struct {
	least, most int
	f           func(v []float64) float64
}{
	"abs":   {1, 1, func(v []float64) float64 { return math.Abs(v[0]) }},
	"ceil":  {1, 1, func(v []float64) float64 { return math.Ceil(v[0] - 1e-9) }},
	"floor": {1, 1, func(v []float64) float64 { return math.Floor(v[0] + 1e-9) }},
	"sqrt":  {1, 1, func(v []float64) float64 { return math.Sqrt(v[0]) }},
	"exp":   {1, 1, func(v []float64) float64 { return math.Exp(v[0]) }},
	"log":   {1, 1, func(v []float64) float64 { return math.Log(v[0]) }},
	"min":   {2, -1, func(v []float64) float64 { return fold(v, math.Min) }},
	"max":   {2, -1, func(v []float64) float64 { return fold(v, math.Max) }},
	"clamp": {3, 3, func(v []float64) float64 { return math.Max(v[1], math.Min(v[2], v[0])) }},
	// graded is evidence that grows with a value beyond a limit.
	"graded": {3, 3, func(v []float64) float64 { return graded(v[0], v[1], v[2]) }},
}

// gradedMost is where graded evidence ends: odds of e^7, about a thousand to one.
const gradedMost = 7

// graded is steepness·ln(value/limit), bent above the limit towards gradedMost so
// that it never reaches it and keeps its order, and cut at -gradedMost below.
func graded(value, limit, steepness float64) float64 {
	x := steepness * math.Log(value/limit)
	if x > 0 {
		return x / (1 + x/gradedMost)
	}
	return math.Max(x, -gradedMost)
}

func fold(v []float64, f func(a, b float64) float64) float64 {
	out := v[0]
	for _, x := range v[1:] {
		out = f(out, x)
	}
	return out
}

// reserved names are functions of the language itself and never features.
var reserved = map[string]bool{"symptom": true, "score": true, "diagnosis": true, "parameter": true, "known": true, "unknown": true, "ifknown": true}

func (c *compiler) call(n ast.Node, name string, args []ast.Node) (node, bool, error) {
	if m, ok := firstName(args); ok && !reserved[name] {
		if feature := name + "(" + m + ")"; c.known(c.kind, feature) {
			return c.feature(feature), false, nil
		}
	}
	switch name {
	case "symptom", "score", "diagnosis", "parameter":
		return c.named(n, name, args)
	case "known", "unknown":
		if len(args) != 1 {
			return nil, false, wrong(n, "%s takes one argument", name)
		}
		x, _, err := c.compile(args[0])
		want := name == "known"
		return evalFunc(func(env *Env) float64 { v := x.eval(env); return truth((v == v) == want) }), true, err
	case "ifknown":
		if len(args) != 2 {
			return nil, false, wrong(n, "ifknown takes two arguments: a number that may be unknown, and what to take then")
		}
		x, err := c.number(args[0])
		if err != nil {
			return nil, false, err
		}
		other, err := c.number(args[1])
		return evalFunc(func(env *Env) float64 {
			if v := x.eval(env); v == v {
				return v
			}
			return other.eval(env)
		}), false, err
	}
	f, ok := functions[name]
	if !ok {
		return nil, false, wrong(n, "%s(…) is neither a feature of a target of kind %s nor a function%s", name, c.kind, spell.DidYouMean(name, functionNames()))
	}
	if len(args) < f.least || (f.most >= 0 && len(args) > f.most) {
		return nil, false, wrong(n, "%s takes %s, not %d", name, arity(f.least, f.most), len(args))
	}
	parts := make([]node, len(args))
	for i, a := range args {
		var err error
		if parts[i], err = c.number(a); err != nil {
			return nil, false, err
		}
	}
	return evalFunc(func(env *Env) float64 {
		values := make([]float64, len(parts))
		for i, p := range parts {
			if values[i] = p.eval(env); values[i] != values[i] {
				return unknown
			}
		}
		return finite(f.f(values))
	}), false, nil
}

func arity(least, most int) string {
	switch {
	case most < 0:
		return fmt.Sprintf("at least %d arguments", least)
	case least == 1:
		return "1 argument"
	default:
		return fmt.Sprintf("%d arguments", least)
	}
}

func functionNames() []string {
	names := []string{"symptom", "score", "diagnosis", "parameter", "known", "unknown", "ifknown"}
	for name := range functions {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}

// named compiles the functions whose argument is a quoted name.
func (c *compiler) named(n ast.Node, function string, args []ast.Node) (node, bool, error) {
	var name string
	if len(args) == 1 {
		if s, ok := args[0].(*ast.StringNode); ok {
			name = s.Value
		}
	}
	if name == "" {
		return nil, false, wrong(n, "%s takes one quoted name", function)
	}
	switch function {
	case "symptom", "score":
		if slices.Contains(c.elsewhere, name) {
			return nil, false, wrong(n, "detector %s looks at targets of another kind than %s", name, c.kind)
		}
		if !slices.Contains(c.symptoms, name) {
			return nil, false, wrong(n, "no detector is named %s%s", name, spell.DidYouMean(name, c.symptoms))
		}
		c.note(&c.seen, name)
		if function == "score" {
			return evalFunc(func(env *Env) float64 {
				if env.Score == nil {
					return unknown
				}
				return env.Score(name)
			}), false, nil
		}
		return evalFunc(func(env *Env) float64 {
			if env.Symptom == nil {
				return unknown
			}
			held, known := env.Symptom(name)
			if !known {
				return unknown
			}
			return truth(held)
		}), true, nil
	case "diagnosis":
		cause := dhalion.Cause(name)
		if !c.diagnoses {
			return nil, false, wrong(n, "diagnosis(…) is not known yet where this is evaluated")
		}
		if !cause.Valid() {
			return nil, false, wrong(n, "%s is no cause%s", name, spell.DidYouMean(name, causeNames()))
		}
		return evalFunc(func(env *Env) float64 {
			if env.Diagnosis == nil {
				return unknown
			}
			return env.Diagnosis(cause)
		}), false, nil
	default:
		if !c.parameters(name) {
			return nil, false, wrong(n, "%s is no parameter%s", name, spell.DidYouMean(name, c.names))
		}
		return c.parameter(name), false, nil
	}
}

func causeNames() []string {
	var names []string
	for _, c := range dhalion.Causes {
		names = append(names, string(c))
	}
	return names
}
