package main

import (
	"context"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/dhalion-go/dhalion/internal/engine/flink/flinktest"
	"github.com/dhalion-go/dhalion/plan/planfile"
)

// engineFile is a dhalion.yaml with one engine, prod, and what else is given.
func engineFile(t *testing.T, url, more string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "dhalion.yaml")
	text := fmt.Sprintf("engines:\n  prod: {kind: flink, url: %q}\n%s", url, more)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// wordsCluster is a cluster that runs one job, words.
func wordsCluster() *flinktest.Cluster {
	c := flinktest.New(time.Now, 3)
	c.Lag, c.Restart = 50*time.Millisecond, 100*time.Millisecond
	c.Start("words", flinktest.Vertex{Name: "source", Parallelism: 2}, flinktest.Vertex{Name: "count", Parallelism: 4, From: []string{"source"}},
		flinktest.Vertex{Name: "sink", Parallelism: 2, From: []string{"count"}})
	return c
}

func TestAPlanGoesFromALiveHistoryToAnOutcomeAndBack(t *testing.T) {
	c := wordsCluster()
	server := httptest.NewServer(c)
	defer server.Close()
	config := engineFile(t, server.URL, "")
	s := newSession(t)
	dhalion := func(want int, args ...string) string {
		t.Helper()
		out, errs, code := s.try(context.Background(), time.Now, append(args, "--config", config)...)
		if code != want {
			t.Fatalf("dhalion %s ended with %d, want %d:\n%s%s", strings.Join(args, " "), code, want, out, errs)
		}
		return out + errs
	}
	ingest := func() { dhalion(0, "ingest", "flink", "prod", "--every", "200ms", "--for", "2s") }
	said := func(text string, words ...string) {
		t.Helper()
		for _, w := range words {
			if !strings.Contains(text, w) {
				t.Errorf("it does not say %q:\n%s", w, text)
			}
		}
	}
	id := func(file string) string {
		t.Helper()
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		_, id, _, err := planfile.Decode(data, file)
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	ingest()
	before := c.Live("words")
	plan, undo := filepath.Join(t.TempDir(), "plan.json"), filepath.Join(t.TempDir(), "undo.json")
	// Two sources of 1,000 records/s each: 2,000 / 931 a second of one count of four is
	// 8.6, so 9, and the sink's 3,450 / 340 is 10.2, so 11.
	dhalion(0, "plan", "words", "--policy", "ds2", "--param", "source_rate=1000", "--out", plan)
	said(dhalion(0, "apply", plan, "--dry-run"), "> PUT /jobs/", `"upperBound":9`, `"upperBound":11`)
	said(dhalion(4, "apply", plan), "nobody has approved it")
	dhalion(0, "approve", plan)
	if effects := c.Effects(); len(effects) != 0 {
		t.Fatalf("something was done before it was applied: %+v", effects)
	}
	said(dhalion(0, "apply", plan, "--no-wait"), "is applied", "22 tasks run")
	if now := c.Live("words").Parallelism; now["count"] != 9 || now["sink"] != 11 || now["source"] != 2 || len(c.Effects()) != 1 {
		t.Errorf("the job has %v after %d effects", now, len(c.Effects()))
	}
	said(dhalion(0, "outcomes", "--judge"), id(plan), "applied", "is judged after")
	said(dhalion(3, "apply", plan), "(and it is applied)")
	said(dhalion(1, "apply", plan, "--resume"), "was not interrupted")
	said(dhalion(1, "apply", plan, "--abort"), "applied")

	ingest() // what the job is now must be known before it is set back
	dhalion(0, "rollback", id(plan), "--out", undo)
	dhalion(0, "approve", undo)
	dhalion(0, "apply", undo, "--no-wait")
	if now := c.Live("words"); !reflect.DeepEqual(now.Parallelism, before.Parallelism) || len(c.Effects()) != 2 {
		t.Errorf("the job has %v after %d effects, and had %v", now.Parallelism, len(c.Effects()), before.Parallelism)
	}
	said(dhalion(0, "log", id(undo)), "applying: by ", "applied")
}

func TestAPlanThatTheEngineWouldRefuseIsNotBegun(t *testing.T) {
	c := wordsCluster()
	server := httptest.NewServer(c)
	defer server.Close()
	config := engineFile(t, server.URL, "")
	s := newSession(t)
	plan := filepath.Join(t.TempDir(), "plan.json")
	c.Join("tm-4")
	for _, step := range []struct {
		code  int
		words string
		args  []string
	}{
		{0, "", []string{"ingest", "flink", "prod", "--every", "200ms", "--for", "2s"}},
		// The load would need 128; 32 is what there is room for.
		{0, "the number of the engine's slots allows 32", []string{"plan", "words", "--policy", "ds2", "--param", "source_rate=100000", "--out", plan}},
		{0, "32 slots are needed, and 24 are there", []string{"apply", plan, "--dry-run"}},
		{0, "", []string{"approve", plan}},
		{1, "is not begun: rescale in one request: count 4 → 32 instances", []string{"apply", plan}},
		{0, "(approved)", []string{"show", plan}},
	} {
		if step.args[0] == "apply" {
			c.Lose("tm-4") // which hosts nothing
		}
		out, errs, code := s.try(context.Background(), time.Now, append(step.args, "--config", config)...)
		if code != step.code || !strings.Contains(out+errs, step.words) {
			t.Fatalf("%v ended with %d, want %d and %q:\n%s%s", step.args, code, step.code, step.words, out, errs)
		}
	}
	if len(c.Requests()) != 0 {
		t.Errorf("it was sent %+v", c.Requests())
	}
}
