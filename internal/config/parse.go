package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/internal/spell"
	"github.com/dhalion-go/dhalion/internal/yamlerr"
)

// Parse reads the content of a file. It walks the YAML itself, instead of
// decoding it into a struct, to report everything at once and with its line. No
// message quotes a value that may be a secret. With Problems it also returns what
// could be read, for Lint; that is no configuration to work with.
func Parse(file string, data []byte) (*Config, error) {
	r := &reader{file: file, dir: filepath.Dir(file), config: &Config{File: file, Engines: map[string]Engine{}, Hooks: map[string]Hook{}, lines: map[string]int{}}}
	if root := r.document(data); root != nil {
		r.root(root)
	}
	if len(r.problems) > 0 {
		r.problems.Sort()
		return r.config, r.problems
	}
	return r.config, nil
}

type reader struct {
	file, dir string
	config    *Config
	problems  Problems
}

func (r *reader) wrong(line int, format string, args ...any) {
	r.problems = append(r.problems, Problem{r.file, line, fmt.Sprintf(format, args...)})
}

// document is the content's one YAML document; nil when there is none, or none
// that can be read.
func (r *reader) document(data []byte) *yaml.Node {
	if len(data) > MaxFile {
		r.wrong(0, "a configuration of more than %d KiB", MaxFile>>10)
		return nil
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, more yaml.Node
	err := dec.Decode(&doc)
	if errors.Is(err, io.EOF) {
		return nil
	}
	if err == nil {
		if err = dec.Decode(&more); err == nil {
			r.wrong(more.Line, "one document to a file")
			return nil
		}
	}
	if !errors.Is(err, io.EOF) {
		line, reason := yamlerr.Split(data, err)
		r.wrong(line, "%s", reason)
		return nil
	}
	return doc.Content[0]
}

func (r *reader) root(n *yaml.Node) {
	c := r.config
	r.fields(n, "", map[string]func(string, *yaml.Node){
		"engines":   func(at string, n *yaml.Node) { r.entries(n, at, "engine", r.engine) },
		"hooks":     func(at string, n *yaml.Node) { r.entries(n, at, "hook", r.hook) },
		"jobs":      r.jobs,
		"database":  func(_ string, n *yaml.Node) { c.Database = r.database(n) },
		"retention": func(_ string, n *yaml.Node) { c.Retention = r.span(n, 24*time.Hour, 0) },
	})
}

func (r *reader) engine(at, name string, n *yaml.Node) {
	e := Engine{}
	read := r.fields(n, at, map[string]func(string, *yaml.Node){
		"kind":       func(_ string, n *yaml.Node) { e.Kind = r.oneOf(n, "kind", KindFlink) },
		"url":        func(_ string, n *yaml.Node) { e.URL = r.url(n) },
		"token_file": func(_ string, n *yaml.Node) { e.TokenFile = r.path(n) },
		"basic_file": func(_ string, n *yaml.Node) { e.BasicFile = r.path(n) },
		"ca_file":    func(_ string, n *yaml.Node) { e.CAFile = r.path(n) },
		"timeout":    func(_ string, n *yaml.Node) { e.Timeout = r.span(n, time.Millisecond, time.Hour) },
	})
	if !read {
		return
	}
	r.need(at, "engine "+name, "kind", "url")
	if e.TokenFile != "" && e.BasicFile != "" {
		r.wrong(r.line(at, "basic_file"), "engine %s has a token_file and a basic_file: a request can carry one", name)
	}
	r.config.Engines[name] = e
}

func (r *reader) hook(at, name string, n *yaml.Node) {
	h := Hook{Timeout: DefaultHookTimeout, Does: dhalion.Relocate, Match: "*"}
	read := r.fields(n, at, map[string]func(string, *yaml.Node){
		"does":    func(_ string, n *yaml.Node) { h.Does = dhalion.ActionKind(r.oneOf(n, "does", hookKinds...)) },
		"match":   func(_ string, n *yaml.Node) { h.Match = r.pattern(n) },
		"argv":    func(_ string, n *yaml.Node) { h.Argv = r.argv(n) },
		"timeout": func(_ string, n *yaml.Node) { h.Timeout = r.span(n, time.Millisecond, 24*time.Hour) },
	})
	if read {
		r.need(at, "hook "+name, "argv")
		r.config.Hooks[name] = h
	}
}

// hookKinds are the actions that a hook can do.
var hookKinds = []string{string(dhalion.Alert), string(dhalion.Relocate), string(dhalion.Repartition), string(dhalion.Restart), string(dhalion.SetKnob)}

func (r *reader) start(at string, n *yaml.Node) *Start {
	s := &Start{}
	if !r.fields(n, at, map[string]func(string, *yaml.Node){
		"jar":        func(_ string, n *yaml.Node) { s.Jar = r.text(n) },
		"class":      func(_ string, n *yaml.Node) { s.Class = r.text(n) },
		"arguments":  func(_ string, n *yaml.Node) { s.Arguments = r.arguments(n) },
		"savepoints": func(_ string, n *yaml.Node) { s.Savepoints = r.text(n) },
	}) {
		return nil
	}
	r.need(at, "start", "jar")
	return s
}

// arguments are those of a program, each as it is written.
func (r *reader) arguments(n *yaml.Node) []string {
	arguments := []string{}
	for _, item := range r.items(n) {
		value := resolve(item)
		switch {
		case value.Kind != yaml.ScalarNode || isNull(value):
			r.wrong(item.Line, "an argument is a text, and this is %s", kindOf(value))
		case strings.ContainsRune(value.Value, 0):
			r.wrong(item.Line, "an argument cannot have a NUL character")
		default:
			arguments = append(arguments, value.Value)
		}
	}
	return arguments
}

func (r *reader) jobs(at string, n *yaml.Node) {
	seen := map[string]int{}
	for i, item := range r.items(n) {
		place := at + "/" + strconv.Itoa(i)
		r.config.lines[place] = item.Line
		j := Job{Policy: DefaultPolicy, Mode: DefaultMode, Every: DefaultEvery}
		read := r.fields(item, place, map[string]func(string, *yaml.Node){
			"match":  func(_ string, n *yaml.Node) { j.Match = r.pattern(n) },
			"policy": func(_ string, n *yaml.Node) { j.Policy = r.policy(n) },
			"mode":   func(_ string, n *yaml.Node) { j.Mode = r.oneOf(n, "mode", ModeObserve, ModePropose, ModeAuto) },
			"every":  func(_ string, n *yaml.Node) { j.Every = r.span(n, time.Second, 24*time.Hour) },
			"start":  func(at string, n *yaml.Node) { j.Start = r.start(at, n) },
		})
		if !read {
			continue
		}
		r.need(place, "a job", "match")
		if first, ok := seen[j.Match]; ok && j.Match != "" {
			r.wrong(r.line(place, "match"), "match %q stands in line %d already, and the first one counts", j.Match, first)
		} else {
			seen[j.Match] = r.line(place, "match")
		}
		r.config.Jobs = append(r.config.Jobs, j)
	}
}

// fields reads a mapping whose keys are known. It reports false when n is none.
func (r *reader) fields(n *yaml.Node, at string, known map[string]func(at string, n *yaml.Node)) bool {
	names := make([]string, 0, len(known))
	for name := range known {
		names = append(names, name)
	}
	slices.Sort(names)
	return r.mapping(n, at, func(key *yaml.Node, at string, value *yaml.Node) {
		if read := known[key.Value]; read != nil {
			read(at, value)
			return
		}
		r.wrong(key.Line, "there is no key %s here%s", quotedIfOdd(key.Value), advice(key.Value, names))
	})
}

// advice is what was meant by a key that is not there.
func advice(key string, names []string) string {
	if slices.Contains(names, "token_file") {
		switch strings.ToLower(key) {
		case "token", "bearer", "bearer_token", "secret", "api_key":
			return ": a secret is not written here but into a file of its own, which token_file names"
		case "user", "username", "password", "basic", "basic_auth":
			return ": a secret is not written here but into a file of its own, USER:PASSWORD, which basic_file names"
		}
	}
	if near := spell.DidYouMean(key, names); near != "" {
		return near
	}
	return "; there are " + strings.Join(names, ", ")
}

// entries reads a mapping whose keys are names that the user gives.
func (r *reader) entries(n *yaml.Node, at, what string, read func(at, name string, n *yaml.Node)) {
	r.mapping(n, at, func(key *yaml.Node, at string, value *yaml.Node) {
		switch name := key.Value; {
		case !plainName.MatchString(name) || len(name) > maxName:
			r.wrong(key.Line, "%s %s: a name has letters, digits, -, _ and ., begins with a letter or digit, and has at most %d characters", what, quotedIfOdd(name), maxName)
		case what == "engine" && name == reserved:
			r.wrong(key.Line, "engine %s: that is what the jobs of files are under", name)
		default:
			read(at, name, value)
		}
	})
}

const (
	maxName  = 100
	reserved = "file" // the engine of the jobs that come from files
)

var plainName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]*$`)

// mapping goes through a mapping; null is an empty one, which remains when all
// entries of a section are commented out. Keys twice are refused.
func (r *reader) mapping(n *yaml.Node, at string, each func(key *yaml.Node, at string, value *yaml.Node)) bool {
	line := n.Line
	if n = resolve(n); isNull(n) {
		return true
	}
	if n.Kind != yaml.MappingNode {
		r.wrong(line, "keys with values are needed here, and this is %s", kindOf(n))
		return false
	}
	first := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.Kind != yaml.ScalarNode {
			r.wrong(key.Line, "a key is a name, and this is %s", kindOf(key))
			continue
		}
		if line, ok := first[key.Value]; ok {
			r.wrong(key.Line, "%s stands in line %d already", quotedIfOdd(key.Value), line)
			continue
		}
		first[key.Value] = key.Line
		place := strings.TrimPrefix(at+"/"+key.Value, "/")
		r.config.lines[place] = key.Line
		each(key, place, value)
	}
	return true
}

func (r *reader) items(n *yaml.Node) []*yaml.Node {
	line := n.Line
	if n = resolve(n); isNull(n) {
		return nil
	}
	if n.Kind != yaml.SequenceNode {
		r.wrong(line, "a list is needed here, and this is %s", kindOf(n))
		return nil
	}
	return n.Content
}

func (r *reader) line(at, key string) int { return r.config.lines[at+"/"+key] }

// need reports the keys that must be there and are not, at the line of what they
// are part of.
func (r *reader) need(at, what string, keys ...string) {
	for _, key := range keys {
		if r.line(at, key) == 0 {
			r.wrong(r.config.lines[at], "%s has no %s", what, key)
		}
	}
}

func resolve(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }

func kindOf(n *yaml.Node) string {
	switch n = resolve(n); {
	case n.Kind == yaml.MappingNode:
		return "a mapping"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case isNull(n):
		return "empty"
	case n.Tag == "!!int" || n.Tag == "!!float":
		return "a number"
	case n.Tag == "!!bool":
		return "true or false"
	case n.Tag == "!!timestamp":
		return "a date"
	case n.Tag == "!!str":
		return "a text"
	}
	return "of another kind"
}

// text is a text that is not empty; it is empty when that was reported.
func (r *reader) text(n *yaml.Node) string {
	line := n.Line
	switch n = resolve(n); {
	case n.Kind != yaml.ScalarNode || n.Tag != "!!str":
		r.wrong(line, "a text is needed here, and this is %s", kindOf(n))
	case strings.TrimSpace(n.Value) == "":
		r.wrong(line, "a text is needed here, and this is empty")
	case strings.ContainsFunc(n.Value, func(c rune) bool { return c < ' ' || c == 0x7f }):
		r.wrong(line, "the text holds a line break or another control character")
	default:
		return n.Value
	}
	return ""
}

func (r *reader) oneOf(n *yaml.Node, key string, values ...string) string {
	s := r.text(n)
	if s != "" && !slices.Contains(values, s) {
		what := "is none of " + strings.Join(values, ", ")
		if len(values) == 1 {
			what = "is not known; there is " + values[0]
		}
		r.wrong(n.Line, "%s %q %s%s", key, s, what, spell.DidYouMean(s, values))
		return ""
	}
	return s
}

// path is the name of a file, which is relative to this one.
func (r *reader) path(n *yaml.Node) string {
	s := r.text(n)
	if s == "" || filepath.IsAbs(s) {
		return s
	}
	if s == "~" || strings.HasPrefix(s, "~/") {
		r.wrong(n.Line, "~ is the shell's: write the whole path, or one relative to this file")
		return ""
	}
	return filepath.Join(r.dir, s)
}

// local is path for what means something else without a slash.
func (r *reader) local(n *yaml.Node) string {
	s := r.path(n)
	if s != "" && !strings.Contains(s, "/") {
		s = "./" + s
	}
	return s
}

// policy tells a built-in policy's name from a file's, as package policy does.
func (r *reader) policy(n *yaml.Node) string {
	switch s := r.text(n); {
	case strings.HasSuffix(s, ".yaml") || strings.HasSuffix(s, ".yml"):
		return r.path(n)
	case strings.ContainsAny(s, `/\`):
		return r.local(n)
	default:
		return s
	}
}

func (r *reader) url(n *yaml.Node) string {
	s := r.text(n)
	if s == "" {
		return ""
	}
	// url.Parse quotes what it cannot read; that may be a password.
	u, err := url.Parse(s)
	switch {
	case err != nil:
		r.wrong(n.Line, "the url cannot be read; it is written like http://jobmanager:8081")
	case u.User != nil:
		r.wrong(n.Line, "the url holds a user or password: put USER:PASSWORD into a file of its own, and its name into basic_file")
	case u.Scheme != "http" && u.Scheme != "https":
		r.wrong(n.Line, "the url begins with neither http:// nor https://")
	case u.Hostname() == "":
		r.wrong(n.Line, "the url names no host")
	case strings.HasSuffix(u.Host, ":") || u.Port() != "" && !validPort(u.Port()):
		r.wrong(n.Line, "the url's port is no number from 1 to 65535")
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		r.wrong(n.Line, "the url ends with its path: ? and # have no place in it; a token belongs into a file, which token_file names")
	default:
		return strings.TrimRight(s, "/")
	}
	return ""
}

func validPort(s string) bool {
	port, err := strconv.ParseUint(s, 10, 16)
	return err == nil && port > 0
}

func (r *reader) database(n *yaml.Node) string {
	s := r.text(n)
	scheme, _, isURL := strings.Cut(s, "://")
	switch {
	case s == "":
	case isURL && scheme != "postgres" && scheme != "postgresql":
		r.wrong(n.Line, "a database is postgres://USER@HOST:PORT/DATABASE, or key=value pairs; a password may come from ~/.pgpass")
	case !isURL && !strings.Contains(s, "="):
		r.wrong(n.Line, "a database is postgres://USER@HOST:PORT/DATABASE, or key=value pairs")
	default:
		return s
	}
	return ""
}

// placeholders are the parts of a target that a hook's arguments can have.
var placeholders = []string{"argument", "component", "instance", "job", "message", "plan", "to", "worker"}

var placeholder = regexp.MustCompile(`\{([A-Za-z_]+)\}`)

// argv is a program and its arguments, each as it is written: -9 and "-9" alike.
func (r *reader) argv(n *yaml.Node) []string {
	items := r.items(n)
	if len(items) == 0 && resolve(n).Kind == yaml.SequenceNode {
		r.wrong(n.Line, "argv is empty: it begins with a program")
	}
	argv := make([]string, 0, len(items))
	for i, item := range items {
		value := resolve(item)
		if value.Kind != yaml.ScalarNode || isNull(value) {
			r.wrong(item.Line, "an argument is a text, and this is %s", kindOf(value))
			continue
		}
		s := value.Value
		if i == 0 {
			if s = r.text(item); strings.Contains(s, "/") {
				s = r.local(item)
			}
			if placeholder.MatchString(s) {
				r.wrong(item.Line, "the program is fixed: only its arguments can have {…}")
			}
		} else if strings.ContainsRune(s, 0) {
			r.wrong(item.Line, "an argument cannot have a NUL character")
		}
		for _, m := range placeholder.FindAllStringSubmatch(s, -1) {
			if !slices.Contains(placeholders, m[1]) {
				r.wrong(item.Line, "there is no {%s}%s", m[1], advice(m[1], placeholders))
			}
		}
		argv = append(argv, s)
	}
	return argv
}

func (r *reader) pattern(n *yaml.Node) string {
	s := r.text(n)
	if s == "" {
		return ""
	}
	if engine, name, ok := strings.Cut(s, "/"); !ok && !strings.HasPrefix(s, "*") {
		r.wrong(n.Line, "match %q is no ENGINE/NAME: of every engine it is %q", s, "*/"+s)
	} else if ok && (engine == "" || name == "") {
		r.wrong(n.Line, "match %q is no ENGINE/NAME", s)
	} else {
		return s
	}
	return ""
}

// span is a length of time as Go writes it, or with days: 90d, 36h, 1d12h.
func (r *reader) span(n *yaml.Node, least, most time.Duration) time.Duration {
	line := n.Line
	n = resolve(n)
	if n.Kind != yaml.ScalarNode || n.Tag != "!!str" {
		r.wrong(line, "a length of time like 30s is needed here, and this is %s", kindOf(n))
		return 0
	}
	d, ok := ParseSpan(n.Value)
	switch {
	case !ok:
		r.wrong(line, "%q is no length of time: write it like 30s, 5m, 36h or 90d", n.Value)
	case d < least:
		r.wrong(line, "%s is too short: at least %s", n.Value, least)
	case most > 0 && d > most:
		r.wrong(line, "%s is too long: at most %s", n.Value, most)
	default:
		return d
	}
	return 0
}

// ParseSpan reads 90d, 36h, or both in one: 1d12h. A day has 24 hours.
func ParseSpan(s string) (time.Duration, bool) {
	days, rest, found := strings.Cut(s, "d")
	if !found {
		days, rest = "0", s
	}
	n, err := strconv.ParseUint(days, 10, 16)
	if err != nil {
		return 0, false
	}
	span := time.Duration(n) * 24 * time.Hour
	if rest != "" || !found {
		more, err := time.ParseDuration(rest)
		if err != nil || more < 0 || more > 365*24*time.Hour*100 {
			return 0, false
		}
		span += more
	}
	return span, true
}

func quotedIfOdd(s string) string {
	if plainName.MatchString(s) && len(s) <= maxName {
		return s
	}
	if len(s) > maxName {
		s = s[:maxName] + "…"
	}
	return strconv.Quote(s)
}
