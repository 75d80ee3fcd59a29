package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/ingest/segment"
	"github.com/dhalion-go/dhalion/internal/store"
)

// history reads all that a session's database knows of a job.
func (s session) history(job dhalion.JobID) *segment.History {
	s.t.Helper()
	st, err := store.Open(context.Background(), s.url, store.Options{})
	if err != nil {
		s.t.Fatal(err)
	}
	defer st.Close()
	h, err := st.History(context.Background(), job, time.Time{}, time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC))
	if err != nil {
		s.t.Fatal(err)
	}
	return h
}

const (
	overloaded = "../../testdata/recordings/03_underprovisioned.jsonl.gz"
	slowOne    = "../../testdata/recordings/05_slow_instance.jsonl.gz"
)

// full is a session with the history of two recordings.
func full(t *testing.T) session {
	s := newSession(t)
	s.run("db", "migrate")
	s.run("ingest", overloaded, slowOne)
	return s
}

func TestAnExportReadBackIsTheSameHistoryInEveryFormat(t *testing.T) {
	from := full(t)
	want := from.history("file/wordcount")
	at := want.Newest().Add(-51 * time.Second).Format(time.RFC3339Nano)
	diagnoses := from.run("diagnose", "wordcount", "--at", at, "-o", "json")
	dir := t.TempDir()
	for _, c := range [][]string{
		{"x.arrow"}, {"x.parquet"}, {"x.csv"}, {"x.arrow.zst"}, {"x.parquet.gz"}, {"x.csv.gz"},
		{"long.arrow", "--shape", "long"}, {"long.parquet", "--shape", "long"}, {"wide.csv", "--shape", "wide"}, {"plain", "--format", "csv-wide"},
	} {
		name, topology := filepath.Join(dir, c[0]), filepath.Join(dir, c[0]+".yaml")
		from.run(append([]string{"export", "wordcount", "--out", name, "--topology-out", topology}, c[1:]...)...)
		info, err := os.Stat(name)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Fatalf("%s: %v, %v", c[0], info, err)
		}
		to := newSession(t)
		to.run("db", "migrate")
		to.run("ingest", name, "--topology", topology)
		got := to.history("file/wordcount")
		if got.Digest() != want.Digest() {
			t.Errorf("%v: the history read back has the digest %.12s, not %.12s", c, got.Digest(), want.Digest())
		}
		if len(got.Topologies) != len(want.Topologies) {
			t.Fatalf("%v: %d topologies, not %d", c, len(got.Topologies), len(want.Topologies))
		}
		for i, x := range got.Topologies {
			y := want.Topologies[i]
			x.By, x.Run, y.By, y.Run = "", "", "", "" // the file does not have them
			if !reflect.DeepEqual(x, y) {
				t.Errorf("%v: topology %d is\n%+v, not\n%+v", c, i, x, y)
			}
		}
		if c[0] == "x.arrow" {
			if again := to.run("diagnose", "wordcount", "--at", at, "-o", "json"); !bytes.Equal(again, diagnoses) {
				t.Errorf("%v: the diagnoses differ:\n%s\n%s", c, again, diagnoses)
			}
		}
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 20 {
		t.Errorf("there are %d files, not 10 with their topologies: %v", len(left), err)
	}
}

// python is an interpreter with the libraries of scripts/python-requirements.txt.
func python(t *testing.T) string {
	t.Helper()
	cmd := exec.Command("../../scripts/python")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil && os.Getenv("CI") == "true" {
		t.Fatalf("scripts/python: %v", err)
	}
	if err != nil {
		t.Skipf("scripts/python: %v (with CI=true this fails)", err)
	}
	return strings.TrimSpace(string(out))
}

// lines are the values of a history as testdata/python/tables.py writes them.
func lines(h *segment.History) []string {
	var all []string
	for _, t := range h.Tables {
		for _, m := range t.Metrics() {
			values := t.Values(m)
			for _, s := range t.Spans() {
				for row := s.Start; row < s.End; row++ {
					if values[row] != values[row] {
						continue
					}
					instance, worker := "", s.Target.Worker
					if t.Kind() == dhalion.KindInstance {
						instance, worker = fmt.Sprint(s.Target.Instance), t.Worker(row)
					}
					all = append(all, fmt.Sprintf("%d\t%s\t%s\t%s\t%s\t%s\t%016x\n", t.Times()[row], h.Job.Name(), s.Target.Component, instance, worker, m, math.Float64bits(values[row])))
				}
			}
		}
	}
	slices.Sort(all)
	return all
}

func TestDuckDBPandasAndPolarsReadAnExportExactly(t *testing.T) {
	interpreter := python(t)
	s := full(t)
	dir := t.TempDir()
	var names []string
	for _, format := range []string{"arrow", "parquet"} {
		for _, shape := range []string{"wide", "long"} {
			name := filepath.Join(dir, shape+"."+format)
			s.run("export", "wordcount", "--out", name, "--shape", shape)
			names = append(names, name)
		}
	}
	want := lines(s.history("file/wordcount"))
	sum := sha256.Sum256([]byte(strings.Join(want, "")))
	out, err := exec.Command(interpreter, append([]string{"testdata/python/tables.py", "read"}, names...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	found := 0
	for _, line := range strings.Split(strings.TrimSpace(string(out)), "\n") {
		fields := strings.Fields(line)
		if len(fields) != 4 {
			t.Fatalf("%s", out)
		}
		found++
		if fields[2] != fmt.Sprint(len(want)) || fields[3] != hex.EncodeToString(sum[:]) {
			t.Errorf("%s reads %s values of %s with the digest %.12s; there are %d with %.12x", fields[0], fields[2], filepath.Base(fields[1]), fields[3], len(want), sum)
		}
	}
	if found != 3*4 {
		t.Errorf("%d readings, not 3 programs on 4 files", found)
	}
}

func TestWhatDuckDBPandasAndPolarsWriteIsReadExactly(t *testing.T) {
	interpreter := python(t)
	s := full(t)
	dir, written := t.TempDir(), t.TempDir()
	name := filepath.Join(dir, "x.parquet")
	s.run("export", "wordcount", "--out", name)
	want := s.history("file/wordcount").Digest()
	out, err := exec.Command(interpreter, "testdata/python/tables.py", "write", name, written).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	files, err := os.ReadDir(written)
	if err != nil || len(files) < 24 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, f := range files {
		to := newSession(t)
		to.run("db", "migrate")
		to.run("ingest", filepath.Join(written, f.Name()))
		if got := to.history("file/wordcount").Digest(); got != want {
			t.Errorf("%s: the history has the digest %.12s, not %.12s", f.Name(), got, want)
		}
	}
}
