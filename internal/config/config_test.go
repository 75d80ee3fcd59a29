package config

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/dhalion-go/dhalion"
)

const whole = `
engines:
  prod: {kind: flink, url: "https://flink.example.org/prod/", token_file: token, ca_file: /etc/ca.pem, timeout: 20s}
  lab:
    kind: flink
    url: http://127.0.0.1:8081
    basic_file: ../lab.secret
hooks:
  kill-worker:
    argv: [bin/kill-tm, "{worker}", -9]
  resalt: {argv: [bin/resalt, "{argument}", "{to}", "{plan}"], does: set_knob, match: "prod/*"}
  resalt-orders: {argv: [bin/resalt], does: set_knob, match: "prod/or*"}
jobs:
  - {match: "prod/word*", policy: wc.yaml, mode: propose, every: 30s}
  - match: "*"
    start: {jar: orders.jar, class: org.example.Orders, arguments: [--salt, 1, "--at=2"], savepoints: "s3://x/y"}
database: postgres://dhalion@db/dhalion
retention: 90d
`

func TestAConfigurationIsReadAndItsFilesAreRelativeToIt(t *testing.T) {
	c, err := Parse("etc/dhalion.yaml", []byte(whole))
	if err != nil {
		t.Fatal(err)
	}
	prod, lab := c.Engines["prod"], c.Engines["lab"]
	if prod != (Engine{KindFlink, "https://flink.example.org/prod", "etc/token", "", "/etc/ca.pem", 20 * time.Second}) {
		t.Errorf("prod is %+v", prod)
	}
	if lab != (Engine{KindFlink, "http://127.0.0.1:8081", "", "lab.secret", "", 0}) {
		t.Errorf("lab is %+v", lab)
	}
	if h := c.Hooks["kill-worker"]; strings.Join(h.Argv, "|") != "etc/bin/kill-tm|{worker}|-9" || h.Timeout != DefaultHookTimeout || h.Does != dhalion.Relocate || h.Match != "*" {
		t.Errorf("the hook is %+v", h)
	}
	start := &Start{"orders.jar", "org.example.Orders", []string{"--salt", "1", "--at=2"}, "s3://x/y"}
	if !reflect.DeepEqual(c.Jobs, []Job{{"prod/word*", "etc/wc.yaml", ModePropose, 30 * time.Second, nil}, {"*", DefaultPolicy, DefaultMode, DefaultEvery, start}}) {
		t.Errorf("the jobs are %+v", c.Jobs)
	}
	if c.Database != "postgres://dhalion@db/dhalion" || c.Retention != 90*24*time.Hour {
		t.Errorf("database %q, retention %s", c.Database, c.Retention)
	}
	for job, want := range map[dhalion.JobID]string{"prod/words": "resalt", "prod/orders": "resalt-orders", "lab/orders": ""} {
		if name, ok := c.HookFor(dhalion.SetKnob, job); name != want || ok != (want != "") {
			t.Errorf("the hook that sets knobs of %s is %q, want %q", job, name, want)
		}
	}
	if name, _ := c.HookFor(dhalion.Relocate, "lab/x"); name != "kill-worker" {
		t.Errorf("the hook that relocates is %q", name)
	}
	if line := c.Line("engines", "lab", "url"); line != 6 {
		t.Errorf("the url of lab is said to be in line %d", line)
	}
	if line := c.Line("jobs", "1", "match"); line != 15 {
		t.Errorf("the second match is said to be in line %d", line)
	}
}

func TestAnEmptyFileIsAnEmptyConfiguration(t *testing.T) {
	for _, text := range []string{"", "# nothing\n", "engines:\njobs:\nhooks:\n", "---\n"} {
		if c, err := Parse("dhalion.yaml", []byte(text)); err != nil || len(c.Engines)+len(c.Jobs)+len(c.Hooks) != 0 {
			t.Errorf("%q: %+v, %v", text, c, err)
		}
	}
}

func TestEverythingWrongIsSaidAtOnceWithItsLine(t *testing.T) {
	text := `engines:
  prod:
    kind: flnk
    url: http://admin:hunter2@flink:8081
    tokn_file: token
  prod:
    kind: flink
  file: {kind: flink, url: "http://x"}
  lab: {kind: flink, url: ftp://x, timeout: 10}
  bare: {kind: flink, url: "http://x:8081", token: hunter2, token_file: a, basic_file: b}
hooks:
  kill: {argv: [/bin/kill, "{workr}"], timeout: 0s}
jobs:
  - {match: wordcount, mode: aut, every: soon}
  - {policy: default}
  - just a text
engine: {}
database: mysql://root:hunter2@db
retention: 90
`
	want := []string{
		`dhalion.yaml:3: kind "flnk" is not known; there is flink; did you mean flink?`,
		`dhalion.yaml:4: the url holds a user or password: put USER:PASSWORD into a file of its own, and its name into basic_file`,
		`dhalion.yaml:5: there is no key tokn_file here; did you mean token_file?`,
		`dhalion.yaml:6: prod stands in line 2 already`,
		`dhalion.yaml:8: engine file: that is what the jobs of files are under`,
		`dhalion.yaml:9: the url begins with neither http:// nor https://`,
		`dhalion.yaml:9: a length of time like 30s is needed here, and this is a number`,
		`dhalion.yaml:10: there is no key token here: a secret is not written here but into a file of its own, which token_file names`,
		`dhalion.yaml:10: engine bare has a token_file and a basic_file: a request can carry one`,
		`dhalion.yaml:12: there is no {workr}; did you mean worker?`,
		`dhalion.yaml:12: 0s is too short: at least 1ms`,
		`dhalion.yaml:14: match "wordcount" is no ENGINE/NAME: of every engine it is "*/wordcount"`,
		`dhalion.yaml:14: mode "aut" is none of observe, propose, auto; did you mean auto?`,
		`dhalion.yaml:14: "soon" is no length of time: write it like 30s, 5m, 36h or 90d`,
		`dhalion.yaml:15: a job has no match`,
		`dhalion.yaml:16: keys with values are needed here, and this is a text`,
		`dhalion.yaml:17: there is no key engine here; did you mean engines?`,
		`dhalion.yaml:18: a database is postgres://USER@HOST:PORT/DATABASE, or key=value pairs; a password may come from ~/.pgpass`,
		`dhalion.yaml:19: a length of time like 30s is needed here, and this is a number`,
	}
	_, err := Parse("dhalion.yaml", []byte(text))
	if err == nil || err.Error() != strings.Join(want, "\n") {
		t.Errorf("got\n%v\nwant\n%s", err, strings.Join(want, "\n"))
	}
	if err != nil && strings.Contains(err.Error(), "hunter2") {
		t.Error("a message shows a password")
	}
}

func TestWhatIsNoYAMLOrOfAnotherShapeIsRefusedWithItsLine(t *testing.T) {
	for text, want := range map[string]string{
		"engines: [":  "dhalion.yaml:1: did not find expected node content",
		"a: b\n c: d": "dhalion.yaml:2: mapping values are not allowed",
		"engines:\n  p:\n    kind: flink\n  q:\n    kind: flink\n   url: x\n": "dhalion.yaml:6: did not find expected key",
		"engines:\n  p: {kind: flink, url: x\njobs: []\n":                     "dhalion.yaml:2: did not find expected ',' or '}'",
		"engines: {}\njobs: *all\n":                                           "dhalion.yaml:2: unknown anchor 'all'",
		"engines: {}\n---\na: b":                                              "dhalion.yaml:2: one document to a file",
		"- a":                                                                 "dhalion.yaml:1: keys with values are needed here, and this is a list",
		"jobs: {}":                                                            "dhalion.yaml:1: a list is needed here, and this is a mapping",
		"jobs:\n- match: [x]":                                                 "dhalion.yaml:2: a text is needed here, and this is a list",
		"[x]: 1":                                                              "dhalion.yaml:1: ",
		"engines: {p: {url: }}":                                               "a text is needed here, and this is empty",
		"engines: {p: {url: ''}}":                                             "a text is needed here, and this is empty",
		"engines: {'a b': {}}":                                                `engine "a b": a name has letters`,
		"hooks: {k: {argv: []}}":                                              "argv is empty",
		"hooks: {k: {argv: [~]}}":                                             "an argument is a text, and this is empty",
		"hooks: {k: {}}":                                                      "hook k has no argv",
		"hooks: {k: {argv: ['{worker}']}}":                                    "the program is fixed",
		"engines: {p: {kind: flink}}":                                         "engine p has no url",
		"engines: {p: {url: 'http://x?token=y'}}":                             "? and # have no place in it",
		"engines: {p: {url: 'http://'}}":                                      "the url names no host",
		"engines: {p: {url: 'http://h:99999'}}":                               "dhalion.yaml:1: the url's port is no number from 1 to 65535",
		"engines: {p: {url: 'http://h:0'}}":                                   "the url's port is no number",
		"engines: {p: {url: 'http://h:/x'}}":                                  "the url's port is no number",
		"engines: {p: {url: 'http://[::1]:65536'}}":                           "the url's port is no number",
		"engines: {p: {ca_file: ~/ca.pem}}":                                   "~ is the shell's",
		"jobs: [{match: a/b}, {match: a/b}]":                                  `match "a/b" stands in line 1 already`,
		"hooks: {k: {argv: [a], does: notify}}":                               `does "notify" is none of alert, relocate`,
		"jobs: [{match: a/b, start: {class: x}}]":                             "start has no jar",
		"jobs: [{match: a/b, start: {jar: x, arguments: [[]]}}]":              "an argument is a text, and this is a list",
		"retention: 1h":                                                       "1h is too short: at least 24h0m0s",
		"database: here":                                                      "or key=value pairs",
	} {
		if _, err := Parse("dhalion.yaml", []byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
	large := strings.Repeat("#", MaxFile+1)
	if _, err := Parse("dhalion.yaml", []byte(large)); err == nil || !strings.Contains(err.Error(), "more than 1024 KiB") {
		t.Errorf("a file of more than a MiB: %v", err)
	}
}

func TestTheFirstPatternThatMatchesAJobCounts(t *testing.T) {
	c := &Config{Jobs: []Job{{Match: "prod/word*"}, {Match: "prod/*"}, {Match: "*/w?rd"}}}
	for id, want := range map[dhalion.JobID]int{
		"prod/wordcount": 0, "prod/word": 0, "prod/a/b": 1, "lab/word": 2, "lab/a/word": 2, "lab/wrd": -1, "word": -1, "prod": -1,
	} {
		if i, ok := c.JobFor(id); i != want || ok != (want >= 0) {
			t.Errorf("%s is for %d (%v), want %d", id, i, ok, want)
		}
	}
}

func TestAGlobOfATextWithPartsReplacedMatchesIt(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringMatching(`[ab/*?]{0,12}`).Draw(t, "text")
		var pattern strings.Builder
		for rest := []rune(text); len(rest) > 0; {
			n := rapid.IntRange(1, len(rest)).Draw(t, "n")
			switch rapid.IntRange(0, 2).Draw(t, "as") {
			case 0: // a run of any length is a star
				pattern.WriteString("*")
			case 1:
				pattern.WriteString(strings.Repeat("?", n))
			default:
				pattern.WriteString(string(rest[:n]))
			}
			rest = rest[n:]
		}
		if !glob(pattern.String(), text) {
			t.Fatalf("%q does not match %q", pattern.String(), text)
		}
		// Without a star a pattern matches texts of its own length only.
		if p := strings.ReplaceAll(pattern.String(), "*", "?"); glob(p, text+"x") && len(p) != len(text)+1 {
			t.Fatalf("%q matches %q", p, text+"x")
		}
	})
}

func TestTheFileIsFoundInFourPlacesInOrder(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	env := map[string]string{"XDG_CONFIG_HOME": filepath.Join(dir, "xdg"), "HOME": filepath.Join(dir, "home")}
	getenv := func(name string) string { return env[name] }
	find := func(flag, want string) {
		t.Helper()
		if file, by := Find(flag, getenv); file != want || (by == "") != (want == "") {
			t.Errorf("found %q by %q, want %q", file, by, want)
		}
	}
	write := func(name string) string {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	find("", "")
	home := write(filepath.Join(dir, "home", ".config", "dhalion", Name))
	find("", "") // HOME does not count beside XDG_CONFIG_HOME
	xdg := write(filepath.Join(dir, "xdg", "dhalion", Name))
	find("", xdg)
	env["XDG_CONFIG_HOME"] = "xdg" // relative: ignored
	find("", home)
	write(filepath.Join(dir, Name))
	find("", Name)
	env["DHALION_CONFIG"] = "other.yaml" // need not exist
	find("", "other.yaml")
	find("flag.yaml", "flag.yaml")
	if _, err := Load("flag.yaml"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
}

func TestASpanHasDays(t *testing.T) {
	for s, want := range map[string]time.Duration{"90d": 90 * 24 * time.Hour, "1d12h": 36 * time.Hour, "30s": 30 * time.Second, "0s": 0} {
		if d, ok := ParseSpan(s); !ok || d != want {
			t.Errorf("%s is %s (%v)", s, d, ok)
		}
	}
	for _, s := range []string{"", "d", "90", "-1d", "-5s", "1d-5s", "1.5d", "1h1d", "99999999d", "9999999h"} {
		if d, ok := ParseSpan(s); ok {
			t.Errorf("%q was read as %s", s, d)
		}
	}
}

type info struct {
	fs.FileInfo
	mode fs.FileMode
}

func (i info) Mode() fs.FileMode { return i.mode }
func (i info) Sys() any          { return nil }

func TestTheSurroundingsOfAConfigurationAreLookedAt(t *testing.T) {
	text := `engines:
  prod: {kind: flink, url: "http://flink:8081", token_file: token}
  gone: {kind: flink, url: "https://flink:8081", basic_file: gone, ca_file: no.pem}
  lab: {kind: flink, url: "http://localhost:8081", basic_file: closed, ca_file: ca.pem}
hooks:
  kill: {argv: [./no-such-program]}
jobs:
  - {match: "prdo/word*", policy: broken.yaml}
  - {match: "p*/x"}
  - {match: "prod/x"}
  - {match: "q*/x"}
  - {match: "file/*"}
database: host=db password=hunter2
`
	c, err := Parse("dhalion.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	errs, warnings := c.Lint(Surroundings{
		Stat: func(name string) (fs.FileInfo, error) {
			switch name {
			case "token", "dhalion.yaml":
				return info{mode: 0o644}, nil
			case "closed":
				return info{mode: 0o600}, nil
			}
			return nil, fs.ErrNotExist
		},
		Secret: func(name string, basic bool) error {
			if name == "gone" {
				return &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
			}
			return nil
		},
		CA: func(name string) error {
			if name == "no.pem" {
				return errors.New("it holds no certificate")
			}
			return nil
		},
		Policy: func(name string) error {
			if name == "broken.yaml" {
				return errors.New("broken.yaml:3: there is no key colour here")
			}
			return nil
		},
	})
	wantErrs := `dhalion.yaml:3: engine gone: basic_file gone: file does not exist
dhalion.yaml:3: engine gone: ca_file no.pem: it holds no certificate
dhalion.yaml:8: job 1: broken.yaml:3: there is no key colour here`
	wantWarnings := `dhalion.yaml:2: engine prod: token_file token can be read by everybody: chmod 600 token
dhalion.yaml:2: engine prod: what is in its token_file goes over the network readable: use https
dhalion.yaml:4: engine lab: ca_file has no effect: the url is not https
dhalion.yaml:6: hook kill: ./no-such-program is no program that can be run here: no such file or directory
dhalion.yaml:8: match "prdo/word*" can match no job: there is no engine prdo; did you mean prod?
dhalion.yaml:10: match "prod/x" has no effect: "p*/x" in line 9 matches all of it, and the first one counts
dhalion.yaml:11: match "q*/x" can match no job: there is no engine q*; there are gone, lab, prod, file
dhalion.yaml:13: database holds a password, and this file can be read by everybody: chmod 600 dhalion.yaml, or keep the password in ~/.pgpass`
	if errs.Error() != wantErrs {
		t.Errorf("errors\n%s\nwant\n%s", errs, wantErrs)
	}
	if warnings.Error() != wantWarnings {
		t.Errorf("warnings\n%s\nwant\n%s", warnings, wantWarnings)
	}
}

func FuzzParse(f *testing.F) {
	for _, text := range []string{whole, "a: &a [*a]", "engines: &e {p: *e}", "jobs: [{match: 1}]", "hooks: {k: {argv: [a, {}]}}", "? [a]\n: b", "!!binary a: b"} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse("f.yaml", data)
		var problems Problems
		if err != nil && !errors.As(err, &problems) {
			t.Fatalf("an error that is no list of problems: %v", err)
		}
		nothing := func(string) error { return nil }
		c.Lint(Surroundings{ // what could be read can be looked at
			Stat:   func(string) (fs.FileInfo, error) { return nil, fs.ErrNotExist },
			Secret: func(string, bool) error { return nil }, CA: nothing, Policy: nothing,
		})
	})
}
