package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dhalion-go/dhalion/internal/config"
)

// cluster serves recorded answers to who has the token; empty is everybody.
func cluster(t *testing.T, recording, token string) *httptest.Server {
	t.Helper()
	answers := answersOf(t, recording)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if token != "" && r.Header.Get("Authorization") != "Bearer "+token {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		a, ok := answers[r.URL.Path]
		if !ok {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		w.WriteHeader(a.Status)
		_, _ = w.Write(a.Body)
	}))
	t.Cleanup(s.Close)
	return s
}

// surroundings is a folder with files in which the program runs, without a
// database but a DHALION_HOME of its own.
type surroundings struct {
	t   *testing.T
	dir string
	now time.Time
}

func around(t *testing.T, files map[string]string) surroundings {
	t.Helper()
	s := surroundings{t, t.TempDir(), time.Now()}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(s.dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func (s surroundings) app(stdout, stderr *bytes.Buffer) *app {
	return &app{in: strings.NewReader(""), stdout: stdout, err: stderr, now: func() time.Time { return s.now }, getenv: func(name string) string {
		return map[string]string{"DHALION_HOME": filepath.Join(s.dir, "home"), "DHALION_CONFIG": filepath.Join(s.dir, "dhalion.yaml")}[name]
	}}
}

func (s surroundings) run(args ...string) (out, errs string, code int) {
	s.t.Helper()
	var stdout, stderr bytes.Buffer
	code = s.app(&stdout, &stderr).run(context.Background(), args)
	return stdout.String(), stderr.String(), code
}

type diagnosis struct {
	OK, Warnings, Problems int
	Findings               findings
	Jobs                   []capability
}

func (s surroundings) doctor(args ...string) (d diagnosis, code int) {
	s.t.Helper()
	out, errs, code := s.run(append([]string{"doctor", "-o", "json"}, args...)...)
	if err := json.Unmarshal([]byte(out), &d); err != nil {
		s.t.Fatalf("%v\n%s%s", err, out, errs)
	}
	return d, code
}

func TestDoctorAsksTheEnginesOfTheConfiguration(t *testing.T) {
	adaptive := cluster(t, "adaptive.jsonl.gz", "s3cret")
	s := around(t, map[string]string{"token": "s3cret\n", "dhalion.yaml": `
engines:
  prod: {kind: flink, url: "` + adaptive.URL + `", token_file: token}
jobs:
  - {match: "prod/o*", mode: propose}
`})
	// The recorded cluster's clock stands at the time of the recording: the job's
	// answer is of its "now".
	var detail struct{ Now int64 }
	for path, a := range answersOf(t, "adaptive.jsonl.gz") {
		if strings.Count(path, "/") == 2 && path != "/jobs/overview" && strings.HasPrefix(path, "/jobs/") {
			if err := json.Unmarshal(a.Body, &detail); err != nil {
				t.Fatal(err)
			}
		}
	}
	s.now = time.UnixMilli(detail.Now)
	d, code := s.doctor()
	if code != exitDone || d.Problems != 0 || d.Warnings != 0 {
		t.Errorf("exit %d\n%s", code, d.Findings.text())
	}
	if len(d.Jobs) != 1 || d.Jobs[0].Job != "prod/orders" || d.Jobs[0].Mode != config.ModePropose || d.Jobs[0].Policy != "default" {
		t.Errorf("jobs %+v", d.Jobs)
	}
	for _, want := range []string{"1 engine, 0 hooks, 1 pattern of jobs", "Flink 2.3.0", "that of engine prod agrees", "none yet; the first command", "the adaptive scheduler runs it"} {
		if !strings.Contains(d.Findings.text(), want) {
			t.Errorf("there is no %q in\n%s", want, d.Findings.text())
		}
	}
	out, _, code := s.run("doctor")
	if code != exitDone || !strings.Contains(out, "34 of 40 slots free") || !strings.Contains(out, "policy default, mode propose") {
		t.Errorf("exit %d\n%s", code, out)
	}

	s.now = s.now.Add(-3 * time.Second)
	if d, code = s.doctor("prod"); code != exitDone || !d.Findings.has(levelWarning, "clock", "that of engine prod is 3s ahead of this machine's") {
		t.Errorf("exit %d\n%s", code, d.Findings.text())
	}
	s.now = s.now.Add(time.Hour)
	if d, code = s.doctor("prod"); code != exitFailure || !d.Findings.has(levelProblem, "clock", "behind this machine's") {
		t.Errorf("exit %d\n%s", code, d.Findings.text())
	}
}

func TestDoctorSaysWhatIsWrongWithEachEngineAndGoesOn(t *testing.T) {
	first, second := cluster(t, "adaptive.jsonl.gz", "s3cret"), cluster(t, "default.jsonl.gz", "")
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	s := around(t, map[string]string{"token": "wrong", "dhalion.yaml": `
engines:
  a: {kind: flink, url: "` + first.URL + `", token_file: token}
  b: {kind: flink, url: "` + second.URL + `"}
  c: {kind: flink, url: "` + gone.URL + `"}
  d: {kind: flink, url: "` + first.URL + `", token_file: gone}
`})
	d, code := s.doctor()
	if code != exitFailure {
		t.Errorf("exit %d", code)
	}
	for _, want := range [][2]string{
		{"engine a", "it does not take these credentials"},
		{"engine b", "it has no TaskManager"},
		{"engine c", "connection refused"},
		{"engine d", "no such file or directory"},
		{"configuration", "token_file"},
	} {
		if !d.Findings.has(levelProblem, want[0], want[1]) {
			t.Errorf("there is no %q in\n%s", want, d.Findings.text())
		}
	}
	out, _, _ := s.run("doctor")
	if strings.Contains(out, "wrong") {
		t.Errorf("a secret is shown:\n%s", out)
	}
	if out, _, code := s.run("doctor", "--token-file", filepath.Join(s.dir, "none"), "a"); code != exitFailure || out != "" {
		t.Errorf("a flag's file that is not there: exit %d, %s", code, out)
	}
}

func TestABrokenConfigurationIsAProblemAndTheRestIsLookedAt(t *testing.T) {
	s := around(t, map[string]string{"dhalion.yaml": "engines: []\ncolour: blue\n"})
	d, code := s.doctor()
	if code != exitFailure || d.Problems < 3 || !d.Findings.has(levelProblem, "configuration", "dhalion.yaml:2: there is no key colour here") || !d.Findings.has(levelProblem, "database", "which one to use") {
		t.Errorf("exit %d\n%s", code, d.Findings.text())
	}
}

func TestDoctorLooksAtTheDatabase(t *testing.T) {
	url, drop, err := emptySchema()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(drop)
	s := around(t, map[string]string{"dhalion.yaml": "database: " + url + "\n"})
	d, code := s.doctor()
	if code != exitDone || !d.Findings.has(levelOK, "database", "it has no schema yet") || !d.Findings.has(levelOK, "clock", "the database's agrees") {
		t.Errorf("exit %d\n%s", code, d.Findings.text())
	}
	if _, errs, code := s.run("jobs"); code != exitDone {
		t.Fatalf("jobs: exit %d, %s", code, errs)
	}
	if d, code = s.doctor(); code != exitDone || !d.Findings.has(levelOK, "database", "nothing to migrate") {
		t.Errorf("exit %d\n%s", code, d.Findings.text())
	}
	if strings.Contains(url, "://") {
		lax := around(t, map[string]string{"dhalion.yaml": "database: " + url + "&synchronous_commit=off\n"})
		if d, code = lax.doctor(); code != exitDone || !d.Findings.has(levelWarning, "database", "synchronous_commit is off") {
			t.Errorf("exit %d\n%s", code, d.Findings.text())
		}
	}
	if _, errs, code := s.run("db", "migrate", "--to", "1", "--yes"); code != exitDone {
		t.Fatalf("db migrate: exit %d, %s", code, errs)
	}
	if d, code = s.doctor(); code != exitFailure || !d.Findings.has(levelProblem, "database", "its schema has version 1") {
		t.Errorf("exit %d\n%s", code, d.Findings.text())
	}
	s = around(t, map[string]string{"dhalion.yaml": "database: postgres://ann:hunter2@127.0.0.1:1/none\n"})
	out, _, code := s.run("doctor")
	if code != exitFailure || !strings.Contains(out, "problem  database") || strings.Contains(out, "hunter2") {
		t.Errorf("exit %d\n%s", code, out)
	}
}

func TestAnEngineIsAURLOrANameAndFlagsComeFirst(t *testing.T) {
	s := around(t, map[string]string{
		"token": "t1\n", "other": "t2", "basic": "ann:pass:word\n", "empty": "\n", "two": "a b",
		"dhalion.yaml": `
engines:
  prod: {kind: flink, url: "https://flink.example.org/prod", token_file: token, timeout: 3s}
  lab: {kind: flink, url: "http://localhost:8081", basic_file: basic}
`})
	file := func(name string) string { return filepath.Join(s.dir, name) }
	for _, c := range []struct {
		arg                        string
		flags                      engineFlags
		name, url, token, user, pw string
		timeout                    time.Duration
		wrong                      string
	}{
		{arg: "prod", name: "prod", url: "https://flink.example.org/prod", token: "t1", timeout: 3 * time.Second},
		{arg: "lab", name: "lab", url: "http://localhost:8081", user: "ann", pw: "pass:word"},
		{arg: "prod", flags: engineFlags{token: file("other"), timeout: time.Minute}, name: "prod", url: "https://flink.example.org/prod", token: "t2", timeout: time.Minute},
		{arg: "prod", flags: engineFlags{basic: file("basic")}, name: "prod", url: "https://flink.example.org/prod", user: "ann", pw: "pass:word", timeout: 3 * time.Second},
		{arg: "http://h:8081/", name: "flink", url: "http://h:8081"},
		{arg: "http://h:8081/a", flags: engineFlags{name: "x"}, name: "x", url: "http://h:8081/a"},
		{arg: "http://ann:hunter2@h", name: "flink", url: "http://h", user: "ann", pw: "hunter2"},
		{arg: "http://ann:hunter2@h", flags: engineFlags{token: file("token")}, name: "flink", url: "http://h", token: "t1"},
		{arg: "prdo", wrong: `there is no engine "prdo" in ` + file("dhalion.yaml") + `; there are lab, prod`},
		{arg: "prod", flags: engineFlags{name: "x"}, wrong: "--engine is for a bare URL"},
		{arg: "http://h", flags: engineFlags{name: "a/b"}, wrong: "without a slash"},
		{arg: "http://h", flags: engineFlags{name: "file"}, wrong: "the jobs of files"},
		{arg: "ftp://ann:hunter2@h", wrong: "neither http:// nor https://"},
		{arg: "http://ann:hunter2@h/%zz", wrong: "the URL cannot be read"},
		{arg: "http://ann:hunter2@", wrong: "names no host"},
		{arg: "http://h?token=hunter2", wrong: "no place in it"},
		{arg: "http://h", flags: engineFlags{timeout: -1}, wrong: "is not above 0"},
		{arg: "http://h", flags: engineFlags{token: file("token"), basic: file("basic")}, wrong: "a request can carry one"},
		{arg: "http://h", flags: engineFlags{token: file("empty")}, wrong: "it is not one token"},
		{arg: "http://h", flags: engineFlags{token: file("two")}, wrong: "it is not one token"},
		{arg: "http://h", flags: engineFlags{basic: file("token")}, wrong: "it is not USER:PASSWORD"},
		{arg: "http://h", flags: engineFlags{ca: file("token")}, wrong: "no PEM certificate"},
		{arg: "http://h", flags: engineFlags{token: file("none")}, wrong: "no such file"},
	} {
		a := s.app(&bytes.Buffer{}, &bytes.Buffer{})
		name, url, o, err := a.engine(c.arg, &c.flags)
		if c.wrong != "" {
			if err == nil || !strings.Contains(err.Error(), c.wrong) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%s %+v: %v, want %s", c.arg, c.flags, err, c.wrong)
			}
			continue
		}
		if err != nil || name != c.name || url != c.url || o.Token != c.token || o.User != c.user || o.Password != c.pw || o.Timeout != c.timeout {
			t.Errorf("%s %+v: %s %s %+v %v", c.arg, c.flags, name, url, o, err)
		}
	}
	bare := around(t, nil).app(&bytes.Buffer{}, &bytes.Buffer{})
	bare.getenv = func(string) string { return "" }
	if _, _, _, err := bare.engine("prod", &engineFlags{}); err == nil || !strings.Contains(err.Error(), "without a dhalion.yaml no engine has a name") {
		t.Errorf("without a configuration: %v", err)
	}
	var out, errs bytes.Buffer
	if code := s.app(&out, &errs).run(context.Background(), []string{"__complete", "doctor", ""}); code != 0 || !strings.Contains(out.String(), "lab\thttp://localhost:8081\nprod\t") {
		t.Errorf("a shell is offered %q", out.String())
	}
}

// The example of the documentation is a configuration.
func TestTheExampleOfTheDocumentationParses(t *testing.T) {
	page, err := os.ReadFile("../../docs/formats/config.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(page), "```yaml\n")
	example, _, closed := strings.Cut(rest, "```\n")
	if !ok || !closed {
		t.Fatal("there is no example")
	}
	c, err := config.Parse("dhalion.yaml", []byte(example))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(c.Names(), []string{"lab", "prod"}) || len(c.Hooks) == 0 || len(c.Jobs) == 0 || c.Database == "" || c.Retention == 0 {
		t.Errorf("the example leaves out something: %+v", c)
	}
	// Every key of the language is in it or in the tables after it.
	for _, key := range []string{"kind", "url", "token_file", "basic_file", "ca_file", "timeout", "argv", "match", "policy", "mode", "every", "database", "retention"} {
		if !strings.Contains(string(page), "`"+key+"`") {
			t.Errorf("the page says nothing of %s", key)
		}
	}
}
