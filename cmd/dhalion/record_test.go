package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/dhalion-go/dhalion/ingest/file"
	"github.com/dhalion-go/dhalion/internal/engine/flink"
	"github.com/dhalion-go/dhalion/internal/engine/flink/flinktest"
)

var pipeline = []flinktest.Vertex{
	{Name: "Source: orders", Parallelism: 2},
	{Name: "enrich", Parallelism: 3, From: []string{"Source: orders"}},
	{Name: "store: Writer", Parallelism: 2, From: []string{"enrich"}},
}

// stepped is a cluster whose clock goes a step at each poll. At its poll 4 a task
// fails, at 6 the overview is not answered, and at 8 a run is gone that 7 listed.
type stepped struct {
	*flinktest.Cluster
	url  string
	step time.Duration

	mu    sync.Mutex
	polls int
}

func newStepped(t *testing.T, step time.Duration) *stepped {
	s := &stepped{step: step}
	s.Cluster = flinktest.New(s.now, 2)
	orders := s.Start("orders", pipeline...)
	other := s.Start("an other, \"job\" & more", pipeline...)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/jobs/overview" {
			s.mu.Lock()
			s.polls++
			polls := s.polls
			s.mu.Unlock()
			switch polls {
			case 4:
				s.Fail(orders, "enrich")
			case 6:
				http.Error(w, "away", http.StatusBadGateway)
				return
			case 8:
				defer s.Forget(other)
			}
		}
		s.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	s.url = server.URL
	return s
}

func (s *stepped) now() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return morning.Add(time.Duration(s.polls) * s.step)
}

// TestWhatIsFollowedLiveIsWhatIsRecorded: the same server, followed and recorded,
// gives the same bytes of history for every job.
func TestWhatIsFollowedLiveIsWhatIsRecorded(t *testing.T) {
	const every = 60 * time.Millisecond
	flags := []string{"--every", every.String(), "--for", (12 * every).String()}
	one, two := newSession(t), newSession(t)
	a := newStepped(t, every)
	out, errs, code := one.try(context.Background(), a.now, append([]string{"ingest", "flink", a.url, "-o", "json"}, flags...)...)
	if code != 0 || !strings.Contains(errs, "this poll gave nothing: flink: ask "+a.url+" for its jobs: it answered 502") || !strings.Contains(errs, "polls give something again, after 1 poll without") {
		t.Fatalf("ended with %d: %s%s", code, out, errs)
	}
	b := newStepped(t, every)
	file := filepath.Join(t.TempDir(), "x.jsonl.gz")
	if out, errs, code := two.try(context.Background(), b.now, append([]string{"record", "flink", b.url, "--out", file}, flags...)...); code != 0 || !strings.Contains(out, "13 polls (1 failed)") {
		t.Fatalf("ended with %d: %s%s", code, out, errs)
	}
	if out, errs, code := two.try(context.Background(), b.now, "ingest", file, "--engine", "flink"); code != 0 {
		t.Fatalf("ended with %d: %s%s", code, out, errs)
	}
	for _, job := range []string{"flink/orders", `flink/an other, "job" & more`} {
		var got [2][]byte
		for i, s := range []session{one, two} {
			got[i] = append(s.run("export", job, "--format", "csv", "--out", "-"), s.run("history", job)...)
		}
		if !bytes.Equal(got[0], got[1]) || bytes.Count(got[0], []byte("\n")) < 300 {
			t.Errorf("%s: %d bytes followed, %d recorded:\n%.3000s", job, len(got[0]), len(got[1]), got[0])
		}
	}
	if n := one.text(`SELECT count(*)::text FROM inputs`); n != "12" {
		t.Errorf("%s inputs, and 12 polls gave something", n)
	}
}

// TestAKilledRecordingIsReadUpToItsLastPoll looks at the file behind each poll as
// a kill would leave it.
func TestAKilledRecordingIsReadUpToItsLastPoll(t *testing.T) {
	for _, name := range []string{"x.jsonl", "x.jsonl.gz", "x.jsonl.zst"} {
		t.Run(name, func(t *testing.T) {
			s := newSession(t)
			dir := t.TempDir()
			file := filepath.Join(dir, name)
			cluster := flinktest.New(time.Now, 2)
			cluster.Start("orders", pipeline...)
			var polls atomic.Int32
			ctx, interrupt := context.WithCancel(context.Background())
			defer interrupt()
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/jobs/overview" {
					switch polls.Add(1) {
					case 4: // three have been written
						data, err := os.ReadFile(file)
						if err == nil {
							err = os.WriteFile(filepath.Join(dir, "killed-"+name), data, 0o600)
						}
						if err != nil {
							t.Error(err)
						}
					case 6:
						interrupt() // as a signal does
					}
				}
				cluster.ServeHTTP(w, r)
			}))
			defer server.Close()
			out, errs, code := s.try(ctx, time.Now, "record", "flink", server.URL, "--out", file, "--every", "30ms", "-o", "json")
			if code != 0 || !strings.Contains(out, `"polls": 5,`) {
				t.Fatalf("ended with %d: %s%s", code, out, errs)
			}
			if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("%v, %v", info.Mode(), err)
			}
			args := []string{"ingest", filepath.Join(dir, "killed-"+name)}
			if strings.HasSuffix(name, "zst") {
				if _, errs, code := s.try(context.Background(), time.Now, args...); code != 1 || !strings.Contains(errs, "the file was cut off here") || !strings.Contains(errs, "--skip-bad") {
					t.Errorf("ended with %d: %s", code, errs)
				}
				args = append(args, "--skip-bad", "1")
			}
			for i, want := range []string{"3", "5"} {
				if i == 1 {
					args = []string{"ingest", file}
				}
				if out, errs, code := s.try(context.Background(), time.Now, args...); code != 0 {
					t.Fatalf("%v ended with %d: %s%s", args, code, out, errs)
				}
				values, _, _ := s.try(context.Background(), time.Now, "export", "file/orders", "--kind", "job", "--format", "csv", "--out", "-")
				if n := strings.Count(values, "running_fraction"); fmt.Sprint(n) != want {
					t.Errorf("%s: %d polls, want %s", args[1], n, want)
				}
			}
		})
	}
}

func TestARecordingIsGoneOnWithOrLostOnlyWhenAskedFor(t *testing.T) {
	s := newSession(t)
	cluster := flinktest.New(time.Now, 2)
	cluster.Start("orders", pipeline...)
	var asked atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/jobs/overview" {
			asked.Add(1)
		}
		cluster.ServeHTTP(w, r)
	}))
	defer server.Close()
	ctx := context.Background()
	for _, name := range []string{"x.jsonl", "x.jsonl.gz", "x.zst"} {
		file := filepath.Join(t.TempDir(), name)
		record := func(args ...string) (string, int) {
			t.Helper()
			asked.Store(0)
			_, errs, code := s.try(ctx, time.Now, append([]string{"record", "flink", server.URL, "--out", file, "--every", "20ms", "--for", "60ms"}, args...)...)
			return errs, code
		}
		polls := func() (n int) {
			t.Helper()
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			content, err := decompressed(data)
			if err != nil {
				t.Fatal(err)
			}
			for in := flink.NewReader(bytes.NewReader(content)); ; {
				a, err := in.Next()
				if err != nil {
					return n
				}
				if a.Resource().Kind == flink.KindJobs {
					n++
				}
			}
		}
		want := func(what string, n int) {
			t.Helper()
			if got := polls(); got != n {
				t.Errorf("%s: %s has %d polls, want %d", what, name, got, n)
			}
		}
		if errs, code := record(); code != 0 {
			t.Fatalf("ended with %d: %s", code, errs)
		}
		first := int(asked.Load())
		want("new", first)
		if errs, code := record(); code != 1 || !strings.Contains(errs, "is there already") || !strings.Contains(errs, "--append") {
			t.Errorf("ended with %d: %s", code, errs)
		}
		want("refused", first)
		if errs, code := record("--append"); code != 0 {
			t.Errorf("ended with %d: %s", code, errs)
		}
		second := int(asked.Load())
		want("gone on with", first+second)
		if _, errs, code := s.try(ctx, time.Now, "ingest", file); code != 0 {
			t.Errorf("ended with %d: %s", code, errs)
		}
		if errs, code := record("--force", "--job", "nobody"); code != 1 {
			t.Errorf("ended with %d: %s", code, errs)
		}
		want("not lost for nothing", first+second)
		if errs, code := record("--force"); code != 0 {
			t.Errorf("ended with %d: %s", code, errs)
		}
		want("begun anew", int(asked.Load()))
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, content := range [][]byte{data[:len(data)-9], []byte("time,metric\n")} {
			if err := os.WriteFile(file, content, 0o600); err != nil {
				t.Fatal(err)
			}
			if errs, code := record("--append"); code != 1 || !strings.Contains(errs, "cannot be gone on with") {
				t.Errorf("%s: ended with %d: %s", name, code, errs)
			}
			if now, err := os.ReadFile(file); err != nil || !bytes.Equal(now, content) {
				t.Errorf("%s was changed, %v", name, err)
			}
		}
	}
	// What records nothing leaves nothing.
	file := filepath.Join(t.TempDir(), "none.jsonl")
	if _, errs, code := s.try(ctx, time.Now, "record", "flink", server.URL, "--out", file, "--job", "nobody"); code != 1 || !strings.Contains(errs, "there is no job nobody; there is orders") {
		t.Errorf("ended with %d: %s", code, errs)
	}
	if _, err := os.Stat(file); !os.IsNotExist(err) {
		t.Errorf("%s: %v", file, err)
	}
	// Nor does what follows a cluster, so that the next try finds no file in its way.
	for _, name := range []string{"none.jsonl", "none.jsonl.gz", "none.zst"} {
		file := filepath.Join(t.TempDir(), name)
		ingest := func(args ...string) (string, int) {
			_, errs, code := s.try(ctx, time.Now, append([]string{"ingest", "flink", server.URL, "--record", file, "--every", "20ms", "--for", "30ms"}, args...)...)
			return errs, code
		}
		if errs, code := ingest("--job", "nobody"); code != 1 || !strings.Contains(errs, "there is no job nobody; there is orders") {
			t.Errorf("%s: ended with %d: %s", name, code, errs)
		}
		if _, err := os.Stat(file); !os.IsNotExist(err) {
			t.Errorf("%s: %v", file, err)
		}
		if errs, code := ingest(); code != 0 {
			t.Errorf("%s: ended with %d: %s", name, code, errs)
		}
		if info, err := os.Stat(file); err != nil || info.Size() == 0 {
			t.Errorf("%s was not recorded: %v", name, err)
		}
		if errs, code := ingest(); code != 1 || !strings.Contains(errs, "record: "+file+" is there already") || !strings.Contains(errs, "hint: name another file") {
			t.Errorf("%s: ended with %d: %s", name, code, errs)
		}
	}
}

// TestPollsThatFailAreReportedOnceAndFollowedByOthers: a server that is away for
// three polls leaves a gap, and nothing that was not measured.
func TestPollsThatFailAreReportedOnceAndFollowedByOthers(t *testing.T) {
	s := newSession(t)
	cluster := flinktest.New(time.Now, 2)
	cluster.Start("orders", pipeline...)
	ctx := context.Background()
	until, interrupt := context.WithCancel(ctx)
	defer interrupt()
	var polls atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/jobs/overview" && polls.Add(1) == 10 {
			interrupt()
		}
		if n := polls.Load(); n >= 3 && n <= 5 {
			http.Error(w, "away", http.StatusServiceUnavailable)
			return
		}
		cluster.ServeHTTP(w, r)
	}))
	defer server.Close()
	_, errs, code := s.try(until, time.Now, "ingest", "flink", server.URL, "--every", "30ms", "--engine", "prod")
	if code != 0 || strings.Count(errs, "this poll gave nothing") != 1 || strings.Count(errs, "after 3 polls without") != 1 {
		t.Errorf("ended with %d: %s", code, errs)
	}
	values, _, _ := s.try(ctx, time.Now, "export", "prod/orders", "--kind", "job", "--format", "csv", "--out", "-")
	// The tenth was interrupted.
	if got, want := strings.Count(values, ",running_fraction,1\n"), 9-3; got != want || strings.Contains(values, "running_fraction,0") {
		t.Errorf("%d polls stored, want %d:\n%s", got, want, values)
	}
	if _, errs, code := s.try(ctx, time.Now, "ingest", "flink", server.URL, "--job", "nobody"); code != 1 || !strings.Contains(errs, "there is no job nobody; there is orders") {
		t.Errorf("ended with %d: %s", code, errs)
	}
	if _, errs, code := s.try(ctx, time.Now, "ingest", "flink", strings.Replace(server.URL, "http://", "http://ann:s3cret@", 1)+"/nowhere"); code != 1 || !strings.Contains(errs, "it answered 404") || strings.Contains(errs, "s3cret") {
		t.Errorf("ended with %d: %s", code, errs)
	}
}

// TestAPollThatIsBeingStoredWhenTheCommandIsInterruptedIsKept: the database makes the
// third poll wait while the signal comes.
func TestAPollThatIsBeingStoredWhenTheCommandIsInterruptedIsKept(t *testing.T) {
	s := newSession(t)
	cluster := flinktest.New(time.Now, 2)
	cluster.Start("orders", pipeline...)
	ctx, interrupt := context.WithCancel(context.Background())
	defer interrupt()
	held, polls := make(chan error, 1), atomic.Int32{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/jobs/overview" && polls.Add(1) == 3 {
			locked := make(chan struct{})
			go func() { held <- s.holdUp(locked, interrupt) }()
			<-locked
		}
		cluster.ServeHTTP(w, r)
	}))
	defer server.Close()
	if out, errs, code := s.try(ctx, time.Now, "ingest", "flink", server.URL, "--every", "50ms"); code != 0 || strings.Contains(errs, "interrupted") {
		t.Errorf("ended with %d: %s%s", code, out, errs)
	}
	if err := <-held; err != nil {
		t.Fatal(err)
	}
	if got := s.text(`SELECT count(*)::text FROM inputs`); got != "3" {
		t.Errorf("%s polls stored of 3", got)
	}
}

// holdUp locks the table of inputs, closes locked, and waits until somebody wants to
// write there; then it calls then and lets go.
func (s session) holdUp(locked chan<- struct{}, then func()) error {
	ctx, stop := context.WithTimeout(context.Background(), time.Minute)
	defer stop()
	conn, err := pgx.Connect(ctx, s.url)
	if err == nil {
		defer conn.Close(context.Background()) // and the lock with it
		_, err = conn.Exec(ctx, `BEGIN; LOCK TABLE inputs IN EXCLUSIVE MODE`)
	}
	close(locked)
	for waits := false; err == nil && !waits; time.Sleep(time.Millisecond) {
		err = conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation = 'inputs'::regclass)`).Scan(&waits)
	}
	then()
	return err
}

func decompressed(data []byte) ([]byte, error) {
	r, err := file.Decompress(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}
