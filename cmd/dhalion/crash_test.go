package main

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/internal/pgserver"
	"github.com/dhalion-go/dhalion/internal/store"
)

// kills is how often each command is killed, and how large the files are: with
// the race detector a small one takes as long as a large one without it.
// DHALION_CRASHES=100 (`make crash-store`) is ten times as often, with large ones.
func kills(t *testing.T, def int) (n, scale int) {
	t.Helper()
	if s := os.Getenv("DHALION_CRASHES"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		return n * def / 10, 4
	}
	if testing.Short() {
		t.Skip("kills processes for half a minute")
	}
	return def, 1
}

// writeCSV writes canonical CSV of `instances` instances × 4 metrics × `times`
// times from a time on; the values differ from one seed to the next.
func writeCSV(t *testing.T, path string, from time.Time, step time.Duration, instances, times int, seed uint64) {
	t.Helper()
	random := rand.New(rand.NewPCG(seed, 7))
	var b bytes.Buffer
	b.WriteString("time,job,component,instance,worker,metric,value\n")
	for k := range times {
		at := from.Add(time.Duration(k) * step).Format("2006-01-02T15:04:05.000Z07:00")
		for i := range instances {
			for _, metric := range []dhalion.Metric{dhalion.Busy, dhalion.Idle, dhalion.RecordsIn, dhalion.CPU} {
				fmt.Fprintf(&b, "%s,,counter,%d,tm-%d,%s,%.4f\n", at, i, i%5, metric, random.Float64())
			}
		}
	}
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}

// start begins a command line in a process of its own.
func start(t *testing.T, env []string, args ...string) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	cmd := exec.Command("dhalion", args...)
	cmd.Env = append(os.Environ(), env...)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, &said
}

// must runs a command line in a process of its own and returns how long it took.
func must(t *testing.T, env []string, args ...string) time.Duration {
	t.Helper()
	began := time.Now()
	cmd, said := start(t, env, args...)
	if err := cmd.Wait(); err != nil {
		t.Fatalf("dhalion %s: %v\n%s", strings.Join(args, " "), err, said)
	}
	return time.Since(began)
}

// killed runs a command line and kills it after a time. It reports whether the
// command had ended with success before.
func killed(t *testing.T, env []string, after time.Duration, args ...string) bool {
	t.Helper()
	cmd, said := start(t, env, args...)
	timer := time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
	err := cmd.Wait()
	timer.Stop()
	if err != nil && cmd.ProcessState.Exited() {
		t.Fatalf("dhalion %s: %v\n%s", strings.Join(args, " "), err, said)
	}
	return err == nil
}

// database is a schema of the shared server, or a private server.
type database struct {
	t   *testing.T
	url string
	env []string
}

// calling is the database under an application's name, by which its connections
// are told.
func calling(t *testing.T, base, name string) database {
	t.Helper()
	if !strings.Contains(base, "://") {
		base += " application_name=" + name
		return database{t, base, []string{"DATABASE_URL=" + base}}
	}
	u, err := url.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	q.Set("application_name", name)
	u.RawQuery = strings.ReplaceAll(q.Encode(), "+", "%20")
	return database{t, u.String(), []string{"DATABASE_URL=" + u.String()}}
}

// quiet waits until the server has noticed that a killed command is gone.
func (d database) quiet(name string) {
	d.t.Helper()
	deadline := time.Now().Add(time.Minute)
	for d.text(`SELECT count(*)::text FROM pg_stat_activity WHERE application_name = $1 AND pid <> pg_backend_pid()`, name)[0] != "0" {
		if time.Now().After(deadline) {
			d.t.Fatal("the connections of a killed command stay")
		}
	}
}

// text is a query of one text column.
func (d database) text(sql string, args ...any) []string {
	d.t.Helper()
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, d.url)
	if err != nil {
		d.t.Fatal(err)
	}
	defer conn.Close(ctx)
	rows, err := conn.Query(ctx, sql, args...)
	if err != nil {
		d.t.Fatal(err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		d.t.Fatal(err)
	}
	return list
}

// whole fails when anything is half there.
func (d database) whole() {
	d.t.Helper()
	for what, sql := range map[string]string{
		"inputs without a sequence number":        `SELECT id::text FROM inputs WHERE seq IS NULL`,
		"segments of no input":                    `SELECT hash FROM segments s WHERE NOT EXISTS (SELECT FROM inputs i WHERE i.id = s.input)`,
		"segments of no job":                      `SELECT hash FROM segments s WHERE NOT EXISTS (SELECT FROM jobs j WHERE j.id = s.job)`,
		"inputs of jobs that are not":             `SELECT name FROM inputs i, unnest(jobs) AS job WHERE NOT EXISTS (SELECT FROM jobs j WHERE j.id = job)`,
		"segments whose bytes are not the hash's": `SELECT hash FROM segments WHERE encode(sha256(bytes), 'hex') <> hash`,
	} {
		if list := d.text(sql); len(list) > 0 {
			d.t.Fatalf("%s: %v", what, list)
		}
	}
}

func (d database) digest(job string) string {
	d.t.Helper()
	ctx := context.Background()
	st, err := store.Open(ctx, d.url, store.Options{})
	if err != nil {
		d.t.Fatal(err)
	}
	defer st.Close()
	h, err := st.History(ctx, dhalion.JobID(job), time.Time{}, time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC))
	if err != nil {
		d.t.Fatal(err)
	}
	return h.Digest()
}

func newDatabase(t *testing.T) database {
	t.Helper()
	base, drop, err := emptySchema()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(drop)
	return calling(t, base, "crash")
}

var crashNoon = time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)

func TestAnIngestThatIsKilledAtAnyMomentIsStoredWhollyOrNotAtAll(t *testing.T) {
	n, scale := kills(t, 10)
	t.Parallel()
	dir := t.TempDir()
	base, file := filepath.Join(dir, "base.csv"), filepath.Join(dir, "file.csv")
	// 8 minutes over midnight: two days, of which the file overwrites most.
	night := time.Date(2026, 3, 4, 23, 50, 0, 0, time.UTC)
	writeCSV(t, base, night, time.Minute, 10, 15, 1)
	writeCSV(t, file, night.Add(2*time.Minute), 2*time.Second, 25*scale, 400, 2)
	d := newDatabase(t)
	// The job's name is in the digest: each round has a database that is as the
	// reference was, and this one's rounds are told apart by schema.
	must(t, d.env, "ingest", base, "--job", "j")
	before := d.digest("file/j")
	took := must(t, d.env, "ingest", file, "--job", "j")
	after := d.digest("file/j")
	if before == after {
		t.Fatal("the file changes nothing")
	}
	random := rand.New(rand.NewPCG(3, uint64(n)))
	stored, nothing := 0, 0
	for i := range n {
		schema, drop, err := emptySchema()
		if err != nil {
			t.Fatal(err)
		}
		name := fmt.Sprint("killed_", i)
		d, look := calling(t, schema, name), calling(t, schema, "looks")
		must(t, look.env, "ingest", base, "--job", "j")
		delay := time.Duration(random.Int64N(int64(took) * 11 / 10))
		reported := killed(t, d.env, delay, "ingest", file, "--job", "j")
		look.quiet(name)
		look.whole()
		switch got := look.digest("file/j"); {
		case got == after:
			stored++
		case got == before && !reported:
			nothing++
		case got == before:
			t.Fatalf("kill %d after %v: it reported success, and nothing is stored", i, delay)
		default:
			t.Fatalf("kill %d after %v: it is half stored", i, delay)
		}
		must(t, look.env, "ingest", file, "--job", "j")
		if look.digest("file/j") != after {
			t.Fatalf("kill %d after %v: the same ingest again gives another history", i, delay)
		}
		if inputs := look.text(`SELECT seq::text FROM inputs ORDER BY seq`); !slices.Equal(inputs, []string{"1", "2"}) {
			t.Fatalf("kill %d after %v: sequence numbers %v", i, delay, inputs)
		}
		drop()
	}
	t.Logf("an ingest of %v was killed %d times: %d left nothing, %d were stored whole", took.Round(time.Millisecond), n, nothing, stored)
	if nothing == 0 {
		t.Error("no kill met the ingest")
	}
}

func TestACompactionThatIsKilledAtAnyMomentChangesNoHistory(t *testing.T) {
	n, scale := kills(t, 10)
	t.Parallel()
	dir := t.TempDir()
	d, untouched := newDatabase(t), newDatabase(t)
	random := rand.New(rand.NewPCG(5, uint64(n)))
	number := uint64(0)
	more := func(n int) {
		t.Helper()
		// Over 12 days and a part: so many merges, each a transaction. Each file has
		// most times of those before.
		var files []string
		for range n {
			number++
			file := filepath.Join(dir, fmt.Sprintf("%d.csv", number))
			from := crashNoon.Add(time.Duration(random.IntN(24)) * time.Hour)
			writeCSV(t, file, from, time.Hour, 10*scale, 300, number)
			files = append(files, file)
		}
		for _, d := range []database{d, untouched} {
			must(t, d.env, append([]string{"ingest", "--job", "j"}, files...)...)
		}
	}
	more(6)
	segments := func() string { return d.text(`SELECT count(*)::text FROM segments`)[0] }
	took := must(t, d.env, "db", "compact", "--online")
	if d.digest("file/j") != untouched.digest("file/j") {
		t.Fatal("an uninterrupted compaction changes the history")
	}
	merged, unmerged := 0, 0
	for i := range n {
		more(2)
		before := segments()
		name := fmt.Sprint("compacts_", i)
		delay := time.Duration(random.Int64N(int64(took) * 11 / 10))
		killed(t, calling(t, d.url, name).env, delay, "db", "compact", "--online")
		d.quiet(name)
		d.whole()
		if segments() == before {
			unmerged++
		} else {
			merged++
		}
		if d.digest("file/j") != untouched.digest("file/j") {
			t.Fatalf("kill %d after %v: the history is another", i, delay)
		}
	}
	must(t, d.env, "db", "compact")
	days := d.text(`SELECT count(DISTINCT day)::text FROM segments`)[0]
	if d.digest("file/j") != untouched.digest("file/j") || segments() != days {
		t.Errorf("in the end %s segments of %s days, or another history", segments(), days)
	}
	t.Logf("a compaction of %v was killed %d times: %d had merged something, %d nothing", took.Round(time.Millisecond), n, merged, unmerged)
}

func TestAPostgreSQLThatIsKilledLosesNothingThatWasReported(t *testing.T) {
	n, scale := kills(t, 3)
	t.Parallel()
	home, err := openDir()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = pgserver.Stop(context.Background(), home, true)
		os.RemoveAll(home)
	})
	env := []string{"DATABASE_URL=", "DHALION_HOME=" + home}
	untouched := newDatabase(t)
	dir := t.TempDir()
	random := rand.New(rand.NewPCG(9, uint64(n)))
	must(t, env, "db", "start")
	lost, kept := 0, 0
	var took time.Duration
	for i := range n + 1 {
		file := filepath.Join(dir, fmt.Sprintf("%d.csv", i))
		writeCSV(t, file, crashNoon.Add(time.Duration(i*100)*time.Second), time.Second, 25*scale, 300, uint64(i))
		if i == 0 {
			took = must(t, env, "ingest", file, "--job", "j")
			must(t, untouched.env, "ingest", file, "--job", "j")
			continue
		}
		before := untouched.digest("file/j")
		must(t, untouched.env, "ingest", file, "--job", "j")
		after := untouched.digest("file/j")

		args := []string{"ingest", file, "--job", "j"}
		if i%3 == 0 {
			args = []string{"db", "compact"}
			must(t, env, "ingest", file, "--job", "j")
			before = after
		}
		status, err := pgserver.GetStatus(home)
		if err != nil || status.PID == 0 {
			t.Fatal("no server runs:", err)
		}
		watch := private(t, home)
		cmd, said := start(t, env, args...)
		timer := time.NewTimer(time.Duration(random.Int64N(int64(took))))
		<-timer.C
		children := watch.text(`SELECT pid::text FROM pg_stat_activity`)
		kill(t, status.PID)
		for _, pid := range children {
			p, err := strconv.Atoi(pid)
			if err != nil {
				t.Fatal(err)
			}
			kill(t, p)
		}
		reported := cmd.Wait() == nil
		gone(t, status.PID)

		must(t, env, "db", "start") // and recovers
		watch = private(t, home)
		watch.whole()
		switch got := watch.digest("file/j"); {
		case got == after:
			kept++
		case got == before && (!reported || i%3 == 0):
			lost++
		case got == before:
			t.Fatalf("round %d: `%s` reported success, and nothing is stored\n%s", i, strings.Join(args, " "), said)
		default:
			t.Fatalf("round %d: `%s` left half of something\n%s", i, strings.Join(args, " "), said)
		}
		must(t, env, args...)
		if watch.digest("file/j") != after {
			t.Fatalf("round %d: `%s` again gives another history", i, strings.Join(args, " "))
		}
	}
	t.Logf("the server was killed %d times: %d commands were undone, %d had been stored", n, lost, kept)
}

// private is the database of a private server that runs.
func private(t *testing.T, home string) database {
	t.Helper()
	lease, err := pgserver.Acquire(context.Background(), pgserver.Options{Home: home, Binaries: os.Getenv("DHALION_POSTGRES")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = lease.Release() })
	return database{t: t, url: lease.URL()}
}

func kill(t *testing.T, pid int) {
	t.Helper()
	p, err := os.FindProcess(pid)
	if err != nil {
		t.Fatal(err)
	}
	_ = p.Kill() // it may be gone with its parent
}

// gone waits until nothing is left of a process that another one must reap: while
// it is a zombie, PostgreSQL takes it for alive.
func gone(t *testing.T, pid int) {
	t.Helper()
	p, err := os.FindProcess(pid)
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); p.Signal(syscall.Signal(0)) == nil; {
		if time.Now().After(deadline) {
			t.Fatalf("process %d does not end", pid)
		}
	}
}

func TestEightProcessesThatIngestAtOnceGiveTheHistoryOfOneAfterTheOther(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, step := range map[string]time.Duration{"disjoint": 50 * time.Second, "overlapping": 5 * time.Second} {
		t.Run(name, func(t *testing.T) {
			atOnce, serial := newDatabase(t), newDatabase(t)
			must(t, atOnce.env, "db", "migrate")
			var files []string
			for i := range 8 {
				file := filepath.Join(dir, fmt.Sprintf("%s-%d.csv", name, i))
				writeCSV(t, file, crashNoon.Add(time.Duration(i)*step), time.Second, 20, 50, uint64(i))
				files = append(files, file)
			}
			var all sync.WaitGroup
			for _, file := range files {
				cmd, said := start(t, atOnce.env, "ingest", file, "--job", "j")
				all.Go(func() {
					if err := cmd.Wait(); err != nil {
						t.Errorf("%v\n%s", err, said)
					}
				})
			}
			all.Wait()
			// Of values for one time the input that was committed later wins; where
			// none overlap any order will do, and here it is the files' own.
			order := atOnce.text(`SELECT name FROM inputs ORDER BY seq`)
			if len(order) != 8 {
				t.Fatalf("%d inputs", len(order))
			}
			if name == "disjoint" {
				order = files
			}
			for _, file := range order {
				must(t, serial.env, "ingest", file, "--job", "j")
			}
			if atOnce.digest("file/j") != serial.digest("file/j") {
				t.Error("at once it is another history")
			}
			must(t, atOnce.env, "db", "compact")
			if atOnce.digest("file/j") != serial.digest("file/j") {
				t.Error("compacted it is another history")
			}
		})
	}
}
