package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/dhalion-go/dhalion/apply"
	"github.com/dhalion-go/dhalion/internal/pgserver"
)

// server is the URL of the database that the tests share: DATABASE_URL, else a
// private server. Each test has a schema of its own in it.
var server string

func TestMain(m *testing.M) {
	testscript.Main(suite{m}, map[string]func(){"dhalion": crashing})
}

// crashing is main, except that DHALION_CRASH_AT=POINT[:N] ends the process as
// kill -9 does when an apply passes that point the N-th time.
func crashing() {
	point, times, _ := strings.Cut(os.Getenv("DHALION_CRASH_AT"), ":")
	if point == "" {
		main()
		return
	}
	left, err := strconv.Atoi(times)
	if err != nil {
		left = 1
	}
	a := &app{in: os.Stdin, stdout: os.Stdout, err: os.Stderr, getenv: os.Getenv, now: time.Now}
	a.observe = func(p apply.Point) {
		if string(p) != point {
			return
		}
		if left--; left == 0 {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
	os.Exit(a.run(context.Background(), os.Args[1:]))
}

// suite starts the server around the tests; a script's `dhalion` is this test
// binary, too, and must not start one.
type suite struct{ m *testing.M }

func (s suite) Run() int {
	if server = os.Getenv("DATABASE_URL"); server == "" {
		home, err := openDir()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(home)
		lease, err := pgserver.Acquire(context.Background(), pgserver.Options{
			Home: home, Binaries: os.Getenv("DHALION_POSTGRES"),
			Notify: func(s string) { fmt.Fprintln(os.Stderr, s) },
		})
		if err != nil {
			fmt.Fprintln(os.Stderr, "the tests of the command line need PostgreSQL:", err)
			return 1
		}
		defer lease.Release()
		server = lease.URL()
	}
	return s.m.Run()
}

// openDir is a temporary folder that a server that runs as another user can
// enter.
func openDir() (string, error) {
	dir, err := os.MkdirTemp("", "dhalion-cmd")
	if err != nil {
		return "", err
	}
	return dir, os.Chmod(dir, 0o755)
}

var schemas atomic.Int64

// emptySchema makes a schema and returns a URL whose search_path is it.
func emptySchema() (string, func(), error) {
	name := fmt.Sprintf("cmd_%d_%d", os.Getpid(), schemas.Add(1))
	if err := execute(server, "CREATE SCHEMA "+name); err != nil {
		return "", nil, err
	}
	drop := func() { _ = execute(server, "DROP SCHEMA "+name+" CASCADE") }
	if !strings.Contains(server, "://") {
		return fmt.Sprintf("%s search_path=%s", server, name), drop, nil
	}
	u, err := url.Parse(server)
	if err != nil {
		return "", drop, err
	}
	q := u.Query()
	q.Set("search_path", name)
	u.RawQuery = strings.ReplaceAll(q.Encode(), "+", "%20")
	return u.String(), drop, nil
}

func execute(url, sql string) error {
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, sql)
	return err
}

// TestTheCommandLineKeepsItsContract runs the scripts. A script whose name
// begins with private has a private server in a DHALION_HOME of its own, the
// others a schema of the shared one.
func TestTheCommandLineKeepsItsContract(t *testing.T) {
	recordings, err := filepath.Abs("../../testdata/recordings")
	if err != nil {
		t.Fatal(err)
	}
	corpus, err := filepath.Abs("../../lab/corpus")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("R", recordings)
			env.Setenv("CORPUS", corpus)
			env.Setenv("USER", "ann")
			env.Setenv("TZ", "America/New_York") // times are shown in UTC all the same
			env.Setenv("TMPDIR", os.TempDir())
			if cache, err := os.UserCacheDir(); err == nil {
				env.Setenv("XDG_CACHE_HOME", cache)
			}
			for _, name := range []string{"DHALION_POSTGRES", "DHALION_POSTGRES_REPOSITORY"} {
				env.Setenv(name, os.Getenv(name))
			}
			env.Setenv("DHALION_HOME", filepath.Join(env.WorkDir, "no-home"))
			if strings.HasPrefix(filepath.Base(env.WorkDir), "script-private") {
				home, err := openDir()
				if err != nil {
					return err
				}
				env.Setenv("DHALION_HOME", home)
				env.Setenv("DATABASE_URL", "")
				env.Defer(func() {
					_ = pgserver.Stop(context.Background(), home, true)
					os.RemoveAll(home)
				})
				return nil
			}
			u, drop, err := emptySchema()
			if err != nil {
				return err
			}
			env.Defer(drop)
			env.Setenv("DATABASE_URL", u)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":   exits,
			"value":   value,
			"replace": replace,
			"sql":     sql,
		},
	})
}

// exits runs a program and wants an exit code: exits CODE PROGRAM ARG…
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM ARG...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	code := 0
	var failed *exec.ExitError
	if err := ts.Exec(args[1], args[2:]...); errors.As(err, &failed) {
		code = failed.ExitCode()
	} else {
		ts.Check(err)
	}
	if code != want {
		ts.Fatalf("%s ended with %d, not %d", strings.Join(args[1:], " "), code, want)
	}
}

// value sets a variable to a part of a JSON file: value VAR FILE KEY.0.KEY. A
// third argument TEXT after it is compared: ! for not equal.
func value(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 3 && len(args) != 4 {
		ts.Fatalf("usage: value VAR FILE PATH [WANT]")
	}
	var at any
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[1])), &at))
	for _, key := range strings.Split(args[2], ".") {
		switch v := at.(type) {
		case map[string]any:
			next, ok := v[key]
			if !ok {
				ts.Fatalf("%s: there is no %s in %s", args[1], key, args[2])
			}
			at = next
		case []any:
			if key == "length" {
				at = float64(len(v))
				continue
			}
			i, err := strconv.Atoi(key)
			ts.Check(err)
			if i >= len(v) {
				ts.Fatalf("%s: %s: there are %d", args[1], args[2], len(v))
			}
			at = v[i]
		default:
			ts.Fatalf("%s: %s: %v has no parts", args[1], args[2], at)
		}
	}
	got := fmt.Sprint(at)
	if n, ok := at.(float64); ok {
		got = strconv.FormatFloat(n, 'f', -1, 64)
	}
	ts.Setenv(args[0], got)
	if len(args) == 4 && (got == args[3]) == neg {
		ts.Fatalf("%s of %s is %s, and %s was asked for (negated: %v)", args[2], args[1], got, args[3], neg)
	}
}

// replace changes a file: replace FILE REGEXP TEXT, which must change it.
func replace(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: replace FILE REGEXP TEXT")
	}
	old := ts.ReadFile(args[0])
	changed := regexp.MustCompile(args[1]).ReplaceAllString(old, args[2])
	if changed == old {
		ts.Fatalf("%s has nothing like %s", args[0], args[1])
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(changed), 0o600))
}

// sql executes a statement in the script's database.
func sql(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: sql STATEMENT")
	}
	ts.Check(execute(ts.Getenv("DATABASE_URL"), args[0]))
}
