package pgserver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"strconv"
	"strings"
)

const (
	// minimumMajor is the oldest PostgreSQL taken for a new cluster. Older ones get no fixes any more.
	minimumMajor = 14
	// downloadMajor is the one downloaded for a new cluster.
	downloadMajor = 15
)

// binaries is an installed PostgreSQL.
type binaries struct {
	dir   string // holds initdb and postgres
	major int
}

func (b binaries) program(name string) string { return filepath.Join(b.dir, name) }

// VersionError says that the cluster was made by another major version of PostgreSQL than the binaries at hand.
type VersionError struct {
	Data          string // the cluster's directory
	DataMajor     int
	Binaries      string // directory of the binaries
	BinariesMajor int
	Download      error // why the matching ones could not be downloaded; nil if that was not tried
}

func (e *VersionError) Error() string {
	text := fmt.Sprintf("pgserver: start: %s was made by PostgreSQL %d, but %s is PostgreSQL %d: set DHALION_POSTGRES to the binaries of "+
		"PostgreSQL %d; or dump the database with those, move the directory away, and restore the dump into a new one",
		e.Data, e.DataMajor, e.Binaries, e.BinariesMajor, e.DataMajor)
	if e.Download != nil {
		text += fmt.Sprintf(" (PostgreSQL %d could not be downloaded: %v)", e.DataMajor, e.Download)
	}
	return text
}

func (e *VersionError) Unwrap() error { return e.Download }

// dataMajor returns the major version that made the cluster, or 0 if there is none yet.
func (l layout) dataMajor() (int, error) {
	text, err := os.ReadFile(filepath.Join(l.data(), "PG_VERSION"))
	if errors.Is(err, os.ErrNotExist) {
		entries, err := os.ReadDir(l.data())
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return 0, err
		}
		if len(entries) > 0 {
			return 0, fmt.Errorf("%s is no cluster of PostgreSQL (it has no PG_VERSION), and it is not empty: move it away", l.data())
		}
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	major, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0, fmt.Errorf("%s/PG_VERSION says %q, which is no version that this program knows", l.data(), strings.TrimSpace(string(text)))
	}
	return major, nil
}

// find returns binaries that can run the cluster of the given major version (0: any, for a new one).
func (o Options) find(ctx context.Context, l layout, a account, major int) (binaries, error) {
	if o.Binaries != "" {
		b, err := explicit(ctx, o.Binaries, a)
		if err != nil {
			return binaries{}, fmt.Errorf("pgserver: start: DHALION_POSTGRES: %w", err)
		}
		if major != 0 && b.major != major {
			return binaries{}, &VersionError{Data: l.data(), DataMajor: major, Binaries: b.dir, BinariesMajor: b.major}
		}
		return b, nil
	}
	var other binaries // found, but of no use
	if !o.noSystem {
		for _, dir := range systemDirs() {
			b, err := inspect(ctx, dir, a)
			if err != nil {
				continue
			}
			if b.major == major || major == 0 && b.major >= minimumMajor {
				return b, nil
			}
			if other.dir == "" {
				other = b
			}
		}
	}
	b, err := o.downloaded(ctx, l, a, major)
	if err == nil || ctx.Err() != nil {
		return b, err
	}
	if major != 0 && other.dir != "" {
		return binaries{}, &VersionError{Data: l.data(), DataMajor: major, Binaries: other.dir, BinariesMajor: other.major, Download: err}
	}
	missing := "no PostgreSQL"
	if major != 0 {
		missing = fmt.Sprintf("no PostgreSQL %d, which made %s", major, l.data())
	} else if other.dir != "" {
		missing = fmt.Sprintf("no PostgreSQL of version %d or later (%s is %d)", minimumMajor, other.dir, other.major)
	}
	return binaries{}, fmt.Errorf("pgserver: start: %s: install it with this system's packages (postgresql) or set DHALION_POSTGRES "+
		"to a directory that holds initdb and postgres; or give this machine a network, for the download: %w", missing, err)
}

// explicit takes the directory itself or its bin.
func explicit(ctx context.Context, dir string, a account) (binaries, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return binaries{}, err
	}
	var first error
	for _, d := range []string{dir, filepath.Join(dir, "bin")} {
		if first = havePrograms(d); first == nil {
			return inspectExactly(ctx, d, a)
		}
	}
	return binaries{}, fmt.Errorf("neither %s nor its bin holds initdb and postgres: %w", dir, first)
}

func havePrograms(dir string) error {
	for _, name := range []string{"initdb", "postgres"} {
		fi, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		if fi.IsDir() || fi.Mode().Perm()&0o111 == 0 {
			return fmt.Errorf("%s is no program", filepath.Join(dir, name))
		}
	}
	return nil
}

// systemDirs lists where packages of the operating systems put the server, the best first. It need not exist.
func systemDirs() []string {
	dirs := byMajor("/usr/lib/postgresql/*/bin") // Debian, Ubuntu
	for _, path := range filepath.SplitList(os.Getenv("PATH")) {
		if filepath.IsAbs(path) {
			dirs = append(dirs, path)
		}
	}
	for _, pattern := range []string{
		"/usr/pgsql-*/bin",                                   // rpm of postgresql.org
		"/usr/lib/postgresql[0-9]*/bin",                      // openSUSE
		"/usr/libexec/postgresql[0-9]*",                      // Alpine
		"/opt/homebrew/opt/postgresql@*/bin",                 // Homebrew on Apple silicon
		"/usr/local/opt/postgresql@*/bin",                    // Homebrew on Intel
		"/Applications/Postgres.app/Contents/Versions/*/bin", // Postgres.app
		"/Library/PostgreSQL/*/bin",                          // installer for macOS
		"/opt/local/lib/postgresql[0-9]*/bin",                // MacPorts
	} {
		dirs = append(dirs, byMajor(pattern)...)
	}
	return append(dirs, "/usr/bin", "/usr/local/bin", "/opt/homebrew/bin", "/usr/local/pgsql/bin")
}

func byMajor(pattern string) []string {
	dirs, _ := filepath.Glob(pattern) // the patterns are well formed
	sort.SliceStable(dirs, func(i, j int) bool { return majorInPath(dirs[i]) > majorInPath(dirs[j]) })
	return dirs
}

var majorPath = regexp.MustCompile(`/(?:postgresql|pgsql|postgres|Versions|PostgreSQL)[-@/]?(\d+)(?:[./]|$)`)

// majorInPath reads the major version off a package's directory, or returns 0.
func majorInPath(dir string) int {
	m := majorPath.FindStringSubmatch(dir)
	if m == nil {
		return 0
	}
	major, err := strconv.Atoi(m[1])
	if err != nil {
		return 0
	}
	return major
}

// inspect takes the version from the name of a package's directory if it can: to start the program for it costs as
// much as a fifth of a start of the server.
func inspect(ctx context.Context, dir string, a account) (binaries, error) {
	if err := havePrograms(dir); err != nil {
		return binaries{}, err
	}
	if block := a.blockedBy(dir); block != "" {
		return binaries{}, fmt.Errorf("user %s may not enter %s", a.name, block)
	}
	if major := majorInPath(dir); major != 0 {
		return binaries{dir: dir, major: major}, nil
	}
	return inspectExactly(ctx, dir, a)
}

var versionLine = regexp.MustCompile(`\(PostgreSQL\) (\d+)`)

func inspectExactly(ctx context.Context, dir string, a account) (binaries, error) {
	out, err := a.command(ctx, filepath.Join(dir, "postgres"), "--version").CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s --version: %w%s", filepath.Join(dir, "postgres"), err, indented(string(out)))
		return binaries{}, a.explain(err, dir)
	}
	m := versionLine.FindSubmatch(out)
	if m == nil {
		return binaries{}, fmt.Errorf("%s --version says %q", filepath.Join(dir, "postgres"), out)
	}
	major, err := strconv.Atoi(string(m[1]))
	if err != nil {
		return binaries{}, err
	}
	return binaries{dir: dir, major: major}, nil
}
