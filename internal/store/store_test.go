package store

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/ingest"
	"github.com/dhalion-go/dhalion/ingest/segment"
	"github.com/dhalion-go/dhalion/internal/pgserver"
)

// server is the URL of the database that the tests share: DATABASE_URL, else a
// private server. Each test has a schema of its own in it.
var server string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	server = os.Getenv("DATABASE_URL")
	if server == "" {
		home, err := os.MkdirTemp("", "dhalion-store")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(home)
		// Under root the server runs as another user, who must be able to get there.
		if err := os.Chmod(home, 0o755); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		lease, err := pgserver.Acquire(context.Background(), pgserver.Options{
			Home: home, Binaries: os.Getenv("DHALION_POSTGRES"),
			Notify: func(s string) { fmt.Fprintln(os.Stderr, s) },
		})
		if err != nil {
			fmt.Fprintln(os.Stderr, "the tests of the store need PostgreSQL:", err)
			return 1
		}
		defer lease.Release()
		server = lease.URL()
	}
	return m.Run()
}

var schemas atomic.Int64

// withSetting adds a setting to a URL or a key=value list.
func withSetting(t testing.TB, base, key, value string) string {
	t.Helper()
	if !strings.Contains(base, "://") {
		return fmt.Sprintf("%s %s='%s'", base, key, value)
	}
	u, err := url.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	q.Set(key, value)
	u.RawQuery = strings.ReplaceAll(q.Encode(), "+", "%20")
	return u.String()
}

// emptySchema makes a schema and returns a URL whose search_path is it.
func emptySchema(t testing.TB) string {
	t.Helper()
	name := fmt.Sprintf("store_%d_%d", os.Getpid(), schemas.Add(1))
	exec(t, server, "CREATE SCHEMA "+name)
	t.Cleanup(func() { exec(t, server, "DROP SCHEMA "+name+" CASCADE") })
	return withSetting(t, server, "search_path", name)
}

// exec runs statements on a connection of its own.
func exec(t testing.TB, url, sql string, args ...any) {
	t.Helper()
	if err := tryExec(url, sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func tryExec(url, sql string, args ...any) error {
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, sql, args...)
	return err
}

// column runs a query of one text column.
func column(t testing.TB, url, sql string, args ...any) []string {
	t.Helper()
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	rows, err := conn.Query(ctx, sql, args...)
	if err != nil {
		t.Fatal(err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// count is how many rows a table has.
func count(t testing.TB, url, table string) string {
	t.Helper()
	return column(t, url, "SELECT count(*)::text FROM "+table)[0]
}

func openStore(t testing.TB) (*Store, string) {
	t.Helper()
	url := emptySchema(t)
	s, err := Open(context.Background(), url, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s, url
}

const wordcount = dhalion.JobID("file/wordcount")

var noon = time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)

// table is a history of busy_fraction of n instances of a job: times rows each,
// a second apart from a time on, the value of row k being value(k).
func table(job dhalion.JobID, n int, from time.Time, times int, value func(k int) float64) *segment.Table {
	b := segment.NewBuilder(job, dhalion.KindInstance)
	for i := range n {
		for k := range times {
			at := from.Add(time.Duration(k) * time.Second)
			b.Add(dhalion.InstanceTarget(job, "counter", i), fmt.Sprint("tm-", i%2), at.UnixMicro(), dhalion.Busy, value(k))
		}
	}
	t, _ := b.Build()
	return t
}

func constant(v float64) func(int) float64 { return func(int) float64 { return v } }

func encode(t testing.TB, tab *segment.Table) dhalion.Segment {
	t.Helper()
	seg, err := segment.Encode(tab)
	if err != nil {
		t.Fatal(err)
	}
	return seg
}

// handing is a reader that hands out these segments.
func handing(segs ...dhalion.Segment) func(context.Context, ingest.Out) (ingest.Report, error) {
	return func(ctx context.Context, out ingest.Out) (ingest.Report, error) {
		var rep ingest.Report
		for _, seg := range segs {
			if err := out.Segment(ctx, seg); err != nil {
				return rep, err
			}
			rep.Rows += seg.Rows
			rep.Values += seg.Values
			rep.Segments++
			if rep.From.IsZero() || seg.From.Before(rep.From) {
				rep.From = seg.From
			}
			if seg.To.After(rep.To) {
				rep.To = seg.To
			}
		}
		return rep, nil
	}
}

func mustIngest(t testing.TB, s *Store, hash string, segs ...dhalion.Segment) {
	t.Helper()
	if _, already, err := s.Ingest(context.Background(), Input{Name: hash, Hash: hash, Format: "test"}, handing(segs...)); err != nil || already {
		t.Fatalf("ingest %s: already %v, %v", hash, already, err)
	}
}

func topology(from time.Time, parallelism int) dhalion.Topology {
	return dhalion.Topology{
		From:       from,
		Components: []dhalion.Component{{Name: "counter", Parallelism: parallelism}, {Name: "source", Parallelism: 1}},
		Edges:      []dhalion.Edge{{From: "source", To: "counter", Ship: "hash"}},
	}
}

// wantError fails unless err is, or wraps, an error of type E; it returns it.
func wantError[E error](t testing.TB, err error) E {
	t.Helper()
	var e E
	if !errors.As(err, &e) {
		t.Fatalf("error %v is no %T", err, e)
	}
	return e
}
