package config

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"os/exec"
	"slices"
	"strconv"
	"strings"

	"github.com/dhalion-go/dhalion/internal/spell"
)

// Surroundings is how Lint looks at what a configuration names.
type Surroundings struct {
	Stat   func(name string) (fs.FileInfo, error)
	Secret func(name string, basic bool) error // reads a file with a token, or with USER:PASSWORD
	CA     func(name string) error             // reads certificates
	Policy func(name string) error             // loads a policy, a built-in one or a file
}

// Lint looks at what the file names: what would fail when it is used (errors)
// and what looks like a mistake or tells a secret (warnings). Both come in the
// order of the lines.
func (c *Config) Lint(s Surroundings) (errs, warnings Problems) {
	l := linter{c: c, s: s}
	for _, name := range c.Names() {
		l.engine(name, c.Engines[name])
	}
	for _, name := range slices.Sorted(maps.Keys(c.Hooks)) {
		h := c.Hooks[name]
		if len(h.Argv) == 0 || h.Argv[0] == "" {
			continue // was reported by Parse
		}
		if _, err := exec.LookPath(h.Argv[0]); err != nil {
			l.warn(c.Line("hooks", name, "argv"), "hook %s: %s is no program that can be run here: %v", name, h.Argv[0], reason(err))
		}
	}
	for i, j := range c.Jobs {
		l.job(i, j)
	}
	if c.Database != "" {
		l.database()
	}
	l.errs.Sort()
	l.warnings.Sort()
	return l.errs, l.warnings
}

type linter struct {
	c              *Config
	s              Surroundings
	errs, warnings Problems
}

func (l *linter) fail(line int, format string, args ...any) {
	l.errs = append(l.errs, Problem{l.c.File, line, fmt.Sprintf(format, args...)})
}

func (l *linter) warn(line int, format string, args ...any) {
	l.warnings = append(l.warnings, Problem{l.c.File, line, fmt.Sprintf(format, args...)})
}

func (l *linter) engine(name string, e Engine) {
	at := func(key string) int { return l.c.Line("engines", name, key) }
	secret := func(key, file string, basic bool) {
		if file == "" {
			return
		}
		if err := l.s.Secret(file, basic); err != nil {
			l.fail(at(key), "engine %s: %s %s: %v", name, key, file, reason(err))
			return
		}
		if by := l.readers(file); by != "" {
			l.warn(at(key), "engine %s: %s %s can be read by %s: chmod 600 %s", name, key, file, by, file)
		}
		if plain(e.URL) {
			l.warn(at("url"), "engine %s: what is in its %s goes over the network readable: use https", name, key)
		}
	}
	secret("token_file", e.TokenFile, false)
	secret("basic_file", e.BasicFile, true)
	if e.CAFile != "" {
		if err := l.s.CA(e.CAFile); err != nil {
			l.fail(at("ca_file"), "engine %s: ca_file %s: %v", name, e.CAFile, reason(err))
		} else if !strings.HasPrefix(e.URL, "https:") {
			l.warn(at("ca_file"), "engine %s: ca_file has no effect: the url is not https", name)
		}
	}
}

// plain reports whether what is sent to a URL can be read on the way.
func plain(address string) bool {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "http" {
		return false
	}
	host := u.Hostname()
	return host != "localhost" && host != "::1" && !strings.HasPrefix(host, "127.")
}

// readers says who may read a file beside its owner; empty is nobody. A group
// may read a file of root's: that is how a service is given a secret.
func (l *linter) readers(file string) string {
	info, err := l.s.Stat(file)
	if err != nil {
		return "" // it is no secret of this configuration, then
	}
	switch mode := info.Mode().Perm(); {
	case mode&0o004 != 0:
		return "everybody"
	case mode&0o040 != 0 && !ownedByRoot(info):
		return "its group"
	}
	return ""
}

func (l *linter) job(i int, j Job) {
	at := func(key string) int {
		if line := l.c.Line("jobs", strconv.Itoa(i), key); line > 0 {
			return line
		}
		return l.c.Line("jobs", strconv.Itoa(i))
	}
	if j.Policy != "" {
		if err := l.s.Policy(j.Policy); err != nil {
			l.fail(at("policy"), "job %d: %v", i+1, err)
		}
	}
	if j.Match == "" {
		return
	}
	engine, _, _ := strings.Cut(j.Match, "/")
	engines := append(l.c.Names(), reserved)
	if !slices.ContainsFunc(engines, func(name string) bool { return mayMatch(engine, name) }) {
		near := spell.DidYouMean(engine, engines)
		if near == "" {
			near = "; there are " + strings.Join(engines, ", ")
		}
		l.warn(at("match"), "match %q can match no job: there is no engine %s%s", j.Match, engine, near)
	}
	for k, other := range l.c.Jobs[:i] {
		if glob(other.Match, j.Match) {
			l.warn(at("match"), "match %q has no effect: %q in line %d matches all of it, and the first one counts", j.Match, other.Match, l.c.Line("jobs", strconv.Itoa(k), "match"))
			break
		}
	}
}

// mayMatch reports whether the part of a pattern before its first slash fits an
// engine. From a * on anything does: it takes the rest of the engine's name, too,
// and what follows is left to the job's.
func mayMatch(part, engine string) bool {
	if before, _, star := strings.Cut(part, "*"); star {
		return glob(before+"*", engine)
	}
	return glob(part, engine)
}

// database warns of a password in a file that others can read.
func (l *linter) database() {
	line := l.c.Line("database")
	u, err := url.Parse(l.c.Database)
	has := strings.Contains(l.c.Database, "password=")
	if err == nil && u.User != nil {
		_, password := u.User.Password()
		has = has || password
	}
	if by := l.readers(l.c.File); has && by != "" {
		l.warn(line, "database holds a password, and this file can be read by %s: chmod 600 %s, or keep the password in ~/.pgpass", by, l.c.File)
	}
}

// reason leaves out what the message says already: the operation and the name.
func reason(err error) error {
	var path *fs.PathError
	var program *exec.Error
	switch {
	case errors.As(err, &path):
		return path.Err
	case errors.As(err, &program):
		return program.Err
	}
	return err
}
