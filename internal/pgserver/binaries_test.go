package pgserver

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// unreachable stands for a machine without network: nobody listens at port 1.
const unreachable = "http://127.0.0.1:1"

func setDataMajor(t *testing.T, l layout, major int) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(l.data(), "PG_VERSION"), fmt.Appendf(nil, "%d\n", major), 0o600); err != nil {
		t.Fatal(err)
	}
}

// fakePostgres makes programs that know no more than their version.
func fakePostgres(t *testing.T, major int) string {
	t.Helper()
	dir := openDir(t)
	script := fmt.Sprintf("#!/bin/sh\necho 'postgres (PostgreSQL) %d.1'\n", major)
	for _, name := range []string{"initdb", "postgres"} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func systemHas(dir string) bool {
	return slices.Contains(systemDirs(), dir)
}

func TestTheMajorVersionIsReadOffPackagesDirectories(t *testing.T) {
	for dir, want := range map[string]int{
		"/usr/lib/postgresql/15/bin":                          15,
		"/usr/pgsql-16/bin":                                   16,
		"/usr/lib/postgresql17/bin":                           17,
		"/usr/libexec/postgresql15":                           15,
		"/opt/homebrew/opt/postgresql@14/bin":                 14,
		"/Applications/Postgres.app/Contents/Versions/18/bin": 18,
		"/usr/bin": 0,
		"/home/me/.cache/dhalion/postgres/15.13.0/bin":         15,
		"/Applications/Postgres.app/Contents/Versions/latest/": 0,
	} {
		if got := majorInPath(dir); got != want {
			t.Errorf("%s: %d, want %d", dir, got, want)
		}
	}
}

func TestAClusterOfAnotherMajorVersionIsRunByItsOwnBinariesIfThereAreAny(t *testing.T) {
	l := copyOfHome(t)
	setDataMajor(t, l, 12)
	dir := fakePostgres(t, 12)
	t.Setenv("PATH", dir+string(filepath.ListSeparator)+os.Getenv("PATH"))
	b, err := Options{Home: string(l)}.find(t.Context(), l, accountOf(t, l), 12)
	if err != nil || b.dir != dir {
		t.Errorf("%+v, %v", b, err)
	}
	// For a new cluster 12 is too old, unless a person says so.
	if b, err := (Options{Home: string(l)}).find(t.Context(), l, accountOf(t, l), 0); err != nil || b.major < minimumMajor {
		t.Errorf("%+v, %v", b, err)
	}
	if b, err := (Options{Home: string(l), Binaries: dir}).find(t.Context(), l, accountOf(t, l), 0); err != nil || b.major != 12 {
		t.Errorf("%+v, %v", b, err)
	}
}

func TestAClusterOfAnotherMajorVersionIsRefusedWithTheWayOut(t *testing.T) {
	l := copyOfHome(t)
	a := accountOf(t, l)
	have, err := Options{Home: string(l)}.find(t.Context(), l, a, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("DHALION_POSTGRES_REPOSITORY", unreachable)
	t.Setenv("TMPDIR", openDir(t)) // the downloader leaves a file there
	for _, test := range []struct {
		name     string
		major    int
		binaries string
		download bool // was tried
	}{
		{"too old to be downloaded", 11, "", true},
		{"no network", 18, "", true},
		{"named binaries", 18, have.dir, false},
		{"the parent of named binaries", 18, filepath.Dir(have.dir), false},
	} {
		t.Run(test.name, func(t *testing.T) {
			if have.major == test.major || test.binaries == "" && !systemHas(have.dir) {
				t.Skip("this machine's own PostgreSQL is another one")
			}
			setDataMajor(t, l, test.major)
			err := acquireError(t, Options{Home: string(l), Binaries: test.binaries, cache: openDir(t)})
			var version *VersionError
			if !errors.As(err, &version) {
				t.Fatalf("%v", err)
			}
			if version.DataMajor != test.major || version.BinariesMajor != have.major || (version.Download != nil) != test.download {
				t.Errorf("%+v", version)
			}
			mustContain(t, err.Error(), "pgserver: start: ", l.data(), fmt.Sprintf("made by PostgreSQL %d", test.major),
				fmt.Sprintf("is PostgreSQL %d", have.major), "DHALION_POSTGRES", "dump")
			mustNotRun(t, l)
		})
	}
}

func TestWithoutPostgreSQLTheErrorNamesBothWays(t *testing.T) {
	t.Setenv("DHALION_POSTGRES_REPOSITORY", unreachable)
	t.Setenv("TMPDIR", openDir(t)) // the downloader leaves a file there
	var told []string
	home := filepath.Join(openDir(t), "home")
	err := acquireError(t, Options{Home: home, Notify: func(s string) { told = append(told, s) }, noSystem: true, cache: openDir(t)})
	mustContain(t, err.Error(), "pgserver: start: no PostgreSQL", "install it", "DHALION_POSTGRES", "network", "download", unreachable)
	mustContain(t, strings.Join(told, "\n"), "downloading PostgreSQL 15")
}

func TestADirectoryWithoutPostgreSQLIsNamed(t *testing.T) {
	dir := openDir(t)
	err := acquireError(t, Options{Home: filepath.Join(openDir(t), "home"), Binaries: dir})
	mustContain(t, err.Error(), "pgserver: start: DHALION_POSTGRES: ", dir, "initdb")
}

func TestADirectoryThatIsNoClusterIsLeftAlone(t *testing.T) {
	l := emptyHome(t, "home")
	if err := l.create(); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(l.data(), 0o755); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(l.data(), "thesis.txt")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	mustContain(t, acquireError(t, Options{Home: string(l)}).Error(), l.data(), "no cluster")
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	lease := acquire(t, Options{Home: string(l)}) // an empty one will do
	mustPing(t, lease)
}

func TestHomeIsWhereTheEnvironmentSays(t *testing.T) {
	root := os.Geteuid() == 0
	ifRoot := func(yes, no string) string {
		if root {
			return yes
		}
		return no
	}
	for _, test := range []struct {
		env  map[string]string
		want string
	}{
		{map[string]string{"DHALION_HOME": "/a/../b", "XDG_DATA_HOME": "/x", "HOME": "/h"}, "/b"},
		{map[string]string{"XDG_DATA_HOME": "/x", "HOME": "/h"}, ifRoot("/var/lib/dhalion", "/x/dhalion")},
		{map[string]string{"XDG_DATA_HOME": "relative", "HOME": "/h"}, ifRoot("/var/lib/dhalion", "/h/.local/share/dhalion")},
		{nil, ifRoot("/var/lib/dhalion", "")},
	} {
		got, err := Home(func(key string) string { return test.env[key] })
		if got != test.want || (err == nil) != (test.want != "") {
			t.Errorf("%v: %q, %v; want %q", test.env, got, err, test.want)
		}
	}
}

// The real download, 15 MB from the public repository.
func TestDownloadedBinariesRunTheServer(t *testing.T) {
	if os.Getenv("DHALION_TEST_DOWNLOAD") == "" {
		t.Skip("it needs the network: set DHALION_TEST_DOWNLOAD=1")
	}
	t.Setenv("TMPDIR", openDir(t)) // the downloader leaves a file there
	cache := filepath.Join(openDir(t), "cache")
	l := layout(filepath.Join(openDir(t), "home"))
	stopAtEnd(t, l)
	var told []string
	o := Options{Home: string(l), Notify: func(s string) { told = append(told, s) }, noSystem: true, cache: cache}
	lease := acquire(t, o)
	mustPing(t, lease)
	mustContain(t, strings.Join(told, "\n"), "downloading PostgreSQL 15", "creating a database")
	release(t, lease)
	mustNotRun(t, l)

	t.Setenv("DHALION_POSTGRES_REPOSITORY", unreachable) // once is enough
	told = nil
	lease = acquire(t, o)
	mustPing(t, lease)
	if len(told) != 0 {
		t.Errorf("the second start said %q", told)
	}
	if left, _ := filepath.Glob(filepath.Join(cache, "tmp-*")); len(left) != 0 {
		t.Errorf("the download left %v", left)
	}
}
