// Command bench measures ingest and evaluation against what people would use
// otherwise, both sides in one go, and prints the ratio.
//
//	go run ./lab/bench ingest    canonical CSV, Arrow and Parquet into PostgreSQL, against psql \copy of the same rows
//	go run ./lab/bench evaluate  statistics of 5,000 series in 360 windows, from PostgreSQL, against DuckDB and polars on a Parquet file
//	go run ./lab/bench booster   the histogram booster, against scikit-learn's on the same data
//
// The sides alternate, five times each; medians are compared. Absolute times are
// printed and never asserted: a ratio is missed when it is more than a quarter
// below its bar, and then the command fails. Both need psql and the PostgreSQL
// that dhalion itself would use; evaluate needs the Python of scripts/python.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/dhalion-go/dhalion/internal/pgserver"
)

// slack is the share of a bar by which a noisy machine may miss it.
const slack = 0.25

func main() {
	b := &bench{}
	flag.IntVar(&b.rounds, "rounds", 5, "alternations")
	flag.IntVar(&b.times, "times", 0, "poll times of the history (default: 2000 for ingest, 2160 for evaluate)")
	flag.StringVar(&b.binary, "binary", "bin/dhalion", "the program to measure")
	flag.StringVar(&b.python, "python", "", "the Python with duckdb and polars (default: what scripts/python prints)")
	flag.StringVar(&b.dir, "dir", "", "folder for data and database (default: a temporary one)")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: bench [flags] ingest|evaluate|booster")
		flag.PrintDefaults()
	}
	flag.Parse()
	run := map[string]func(*bench, context.Context) error{"ingest": (*bench).ingest, "evaluate": (*bench).evaluate, "booster": (*bench).booster}[flag.Arg(0)]
	if run == nil || flag.NArg() != 1 || b.rounds < 1 {
		flag.Usage()
		os.Exit(64)
	}
	if err := b.run(run); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

type bench struct {
	rounds, times       int
	binary, python, dir string

	url    string // of the server's database "postgres"
	failed []string
}

func (b *bench) run(f func(*bench, context.Context) error) (err error) {
	ctx := context.Background()
	if b.binary, err = filepath.Abs(b.binary); err != nil {
		return err
	}
	if _, err := os.Stat(b.binary); err != nil {
		return fmt.Errorf("%w (make build)", err)
	}
	if b.dir == "" {
		if b.dir, err = os.MkdirTemp("", "dhalion-bench-"); err != nil {
			return err
		}
		defer os.RemoveAll(b.dir)
	}
	// Under root the server runs as another user, who must be able to get there.
	if err := os.Chmod(b.dir, 0o755); err != nil {
		return err
	}
	lease, err := pgserver.Acquire(ctx, pgserver.Options{
		Home: filepath.Join(b.dir, "home"), Binaries: os.Getenv("DHALION_POSTGRES"),
		Notify: func(s string) { fmt.Fprintln(os.Stderr, s) },
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lease.Release()) }()
	b.url = lease.URL()
	version, err := b.ask(ctx, `SELECT split_part(version(), ' ', 2) || ', fsync ' || current_setting('fsync') || ', shared_buffers ' || current_setting('shared_buffers')`)
	if err != nil {
		return err
	}
	fmt.Printf("%s, %d cores, %s, PostgreSQL %s, %d alternations, medians\n\n", time.Now().UTC().Format("2006-01-02"), runtime.NumCPU(), runtime.Version(), version, b.rounds)
	if err := f(b, ctx); err != nil {
		return err
	}
	if len(b.failed) > 0 {
		return fmt.Errorf("missed by more than %.0f %%: %v", 100*slack, b.failed)
	}
	return nil
}

// ask runs one statement on the server and returns the first column of its row,
// if it has one.
func (b *bench) ask(ctx context.Context, sql string) (string, error) {
	c, err := pgx.Connect(ctx, b.url)
	if err != nil {
		return "", err
	}
	defer c.Close(ctx)
	rows, err := c.Query(ctx, sql, pgx.QueryExecModeSimpleProtocol)
	if err != nil {
		return "", err
	}
	defer rows.Close()
	answer := ""
	for rows.Next() {
		if err := rows.Scan(&answer); err != nil {
			return "", err
		}
	}
	return answer, rows.Err()
}

// database makes an empty database and returns its URL and how to remove it. The
// checkpoint before keeps one side's dirty pages from being the other's.
func (b *bench) database(ctx context.Context, name string) (url string, drop func() error, err error) {
	if _, err := b.ask(ctx, "CREATE DATABASE "+name); err != nil {
		return "", nil, err
	}
	if _, err := b.ask(ctx, "CHECKPOINT"); err != nil {
		return "", nil, err
	}
	config, err := pgx.ParseConfig(b.url)
	if err != nil {
		return "", nil, err
	}
	url = fmt.Sprintf("host=%s port=%d user=%s password=%s dbname=%s", config.Host, config.Port, config.User, config.Password, name)
	return url, func() error {
		_, err := b.ask(ctx, "DROP DATABASE "+name)
		return err
	}, nil
}

// command runs a program to its end.
func command(env []string, name string, args ...string) (took time.Duration, rss int64, out []byte, err error) {
	c := exec.Command(name, args...)
	c.Env = append(os.Environ(), env...)
	c.Stderr = os.Stderr
	began := time.Now()
	out, err = c.Output()
	took = time.Since(began)
	if err != nil {
		return took, 0, out, fmt.Errorf("%s: %w", filepath.Base(name), err)
	}
	if usage, ok := c.ProcessState.SysUsage().(*syscall.Rusage); ok {
		rss = usage.Maxrss << 10
		if runtime.GOOS == "darwin" {
			rss = usage.Maxrss // in bytes there
		}
	}
	return took, rss, out, nil
}

// atLeast prints a ratio with its bar and remembers a miss.
func (b *bench) atLeast(what string, ratio, bar float64) {
	word := "holds"
	if ratio < bar {
		word = "missed, within the slack"
	}
	if ratio < bar*(1-slack) {
		word = "MISSED"
		b.failed = append(b.failed, what)
	}
	fmt.Printf("  %-44s %6.2f  (bar: at least %.2g) %s\n", what, ratio, bar, word)
}

// atMost is atLeast the other way round.
func (b *bench) atMost(what string, value, bar float64) {
	word := "holds"
	if value > bar {
		word = "missed, within the slack"
	}
	if value > bar*(1+slack) {
		word = "MISSED"
		b.failed = append(b.failed, what)
	}
	fmt.Printf("  %-44s %6.2f  (bar: at most %.3g) %s\n", what, value, bar, word)
}

func median(d []time.Duration) time.Duration {
	s := slices.Clone(d)
	slices.Sort(s)
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}
