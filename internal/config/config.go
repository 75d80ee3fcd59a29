// Package config reads dhalion.yaml: which engines there are and how to reach
// them, the hooks, which policy and mode a job has, and the database. It reads
// strictly, and says all that is wrong with a file at once. Secrets are never in
// the file itself: it names the files that hold them.
package config

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/dhalion-go/dhalion"
)

// Name is what the file is called in the working directory and below the XDG
// configuration directory.
const Name = "dhalion.yaml"

// MaxFile bounds a configuration file in bytes.
const MaxFile = 1 << 20

// The kinds of engine that can be configured.
const KindFlink = "flink"

// What a file that does not say so means.
const (
	DefaultHookTimeout = 30 * time.Second
	DefaultPolicy      = "default"
	DefaultMode        = ModeObserve
	DefaultEvery       = time.Minute
)

// What may be done for a job: only judge it, propose plans, or apply those that
// its policy lets through.
const (
	ModeObserve = "observe"
	ModePropose = "propose"
	ModeAuto    = "auto"
)

// Config is what a dhalion.yaml says; the zero Config is that of no file. Paths
// in it are relative to the working directory or absolute, no longer relative to
// the file.
type Config struct {
	File      string // as it was found; empty: there is none
	Engines   map[string]Engine
	Hooks     map[string]Hook
	Jobs      []Job         // in the order of the file: the first that matches counts
	Database  string        // URL or key=value pairs, may hold a password; empty: not said
	Retention time.Duration // how long histories are kept; 0: not said

	lines map[string]int
}

// Engine is how to reach one engine. Its name is the first part of its jobs' ids.
type Engine struct {
	Kind      string
	URL       string        // http or https, without credentials
	TokenFile string        // of a bearer token; empty: none
	BasicFile string        // of USER:PASSWORD; empty: none
	CAFile    string        // PEM certificates to trust; empty: the system's
	Timeout   time.Duration // of one request; 0: the client's own
}

// Hook is a command that carries out an action.
type Hook struct {
	Argv    []string // the program, then its arguments; {worker} and the like stand for the target's parts
	Timeout time.Duration
	Does    dhalion.ActionKind // what it is asked to do
	Match   string             // of a job's whole id, as in Job
}

// Job says how the jobs that a pattern matches are treated.
type Job struct {
	Match  string // of a job's whole id: * is any text, also with slashes, ? any one character
	Policy string // name of a built-in one, or a file
	Mode   string
	Every  time.Duration // between two judgements
	Start  *Start        // nil: it cannot be started anew
}

// Start is how a job is started: what its engine does not tell of one that runs.
type Start struct {
	Jar        string   // its name, as it was uploaded
	Class      string   // entry class; empty: the jar's
	Arguments  []string // of the program, before any knob was set
	Savepoints string   // folder; empty: the engine's
}

// Names are the engines' names, sorted.
func (c *Config) Names() []string {
	return slices.Sorted(maps.Keys(c.Engines))
}

// JobFor is the number of the entry of Jobs that holds for a job, and false when
// there is none.
func (c *Config) JobFor(id dhalion.JobID) (int, bool) {
	i := slices.IndexFunc(c.Jobs, func(j Job) bool { return glob(j.Match, string(id)) })
	return i, i >= 0
}

// HookFor is the name of the hook that does an action for a job; false when there
// is none. Of several the one with the longest pattern counts, then the first by
// name: the most that is said about a job holds for it.
func (c *Config) HookFor(kind dhalion.ActionKind, id dhalion.JobID) (name string, ok bool) {
	for _, n := range slices.Sorted(maps.Keys(c.Hooks)) {
		h := c.Hooks[n]
		if h.Does == kind && glob(h.Match, string(id)) && (!ok || len(h.Match) > len(c.Hooks[name].Match)) {
			name, ok = n, true
		}
	}
	return name, ok
}

// Line is where a key stands, "engines", "prod", "url"; an entry of a list goes
// by its number. 0 when it is not in the file.
func (c *Config) Line(path ...string) int { return c.lines[strings.Join(path, "/")] }

// glob matches a text with * and ?.
func glob(pattern, text string) bool {
	p, t := []rune(pattern), []rune(text)
	star, from := -1, 0 // the last star, and where in the text it was tried last
	i, j := 0, 0
	for j < len(t) {
		switch {
		case i < len(p) && p[i] == '*':
			star, from = i, j
			i++
		case i < len(p) && (p[i] == '?' || p[i] == t[j]):
			i, j = i+1, j+1
		case star >= 0:
			from++
			i, j = star+1, from
		default:
			return false
		}
	}
	return strings.Trim(string(p[i:]), "*") == ""
}

// Find says which file is in force and what named it: the flag, DHALION_CONFIG,
// the working directory or the XDG configuration directory. Both are empty when
// there is none. A file that the flag or DHALION_CONFIG names need not exist:
// reading it then fails.
func Find(flag string, getenv func(string) string) (file, by string) {
	if flag != "" {
		return flag, "--config"
	}
	if v := getenv("DHALION_CONFIG"); v != "" {
		return v, "DHALION_CONFIG"
	}
	if exists(Name) {
		return Name, "the working directory"
	}
	dir := getenv("XDG_CONFIG_HOME")
	if !filepath.IsAbs(dir) { // the XDG specification says to ignore a relative path
		if dir = getenv("HOME"); !filepath.IsAbs(dir) {
			return "", ""
		}
		dir = filepath.Join(dir, ".config")
	}
	if file = filepath.Join(dir, "dhalion", Name); exists(file) {
		return file, "the XDG configuration directory"
	}
	return "", ""
}

// exists is also true for what cannot be looked at: to read it then says why,
// instead of going on without it.
func exists(name string) bool {
	_, err := os.Stat(name)
	return err == nil || !errors.Is(err, os.ErrNotExist)
}

// Load reads a file. What is wrong with its content is Problems; then there is no
// configuration.
func Load(file string) (*Config, error) {
	data, err := Read(file)
	if err != nil {
		return nil, err
	}
	c, err := Parse(file, data)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// Read is a file's content, of which Parse refuses more than MaxFile.
func Read(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, MaxFile+1))
	if err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	return data, nil
}

// Problem is something wrong, or odd, at a place of a file.
type Problem struct {
	File    string `json:"file"`
	Line    int    `json:"line,omitempty"` // from 1; 0: the file as a whole
	Message string `json:"message"`
}

// String is FILE:LINE: MESSAGE.
func (p Problem) String() string {
	if p.Line == 0 {
		return p.File + ": " + p.Message
	}
	return fmt.Sprintf("%s:%d: %s", p.File, p.Line, p.Message)
}

// Problems is all that is wrong with a file, in the order of its lines.
type Problems []Problem

// Sort orders problems by line; those of one line stay as they are.
func (p Problems) Sort() {
	slices.SortStableFunc(p, func(a, b Problem) int { return cmp.Compare(a.Line, b.Line) })
}

// Error has a line for each.
func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i, x := range p {
		lines[i] = x.String()
	}
	return strings.Join(lines, "\n")
}
