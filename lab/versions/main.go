// Command versions records what several versions of Flink answer, for the tests of
// the adapter: the lab's word count on a small cluster of each, one after the other.
//
//	go run ./lab/versions -binary bin/dhalion 1.18.1 1.20.5 2.3.0
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/dhalion-go/dhalion/lab/cluster"
)

func main() {
	binary := flag.String("binary", "bin/dhalion", "the program that records")
	cache := flag.String("cache", ".cache", "where Flink is kept, and fetched to")
	out := flag.String("out", "ingest/flink/testdata/versions", "folder of the recordings")
	length := flag.String("for", "45s", "how long each is recorded")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	for _, version := range flag.Args() {
		if err := record(ctx, *binary, *cache, *out, *length, version); err != nil {
			fmt.Fprintf(os.Stderr, "versions: %s: %v\n", version, err)
			os.Exit(1)
		}
	}
}

func record(ctx context.Context, binary, cache, out, length, version string) (err error) {
	flink, err := cluster.Fetch(ctx, cache, version)
	if err != nil {
		return err
	}
	jar, err := cluster.BuildJobs(ctx, flink, "lab/jobs/src", cache)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "dhalion-versions-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	c, err := cluster.Start(ctx, flink, cluster.Config{Dir: dir, TaskManagers: 2, Slots: 2})
	if err != nil {
		return err
	}
	defer func() {
		if e := c.Stop(); err == nil {
			err = e
		}
	}()
	knobs := filepath.Join(dir, "knobs.properties")
	if err := os.WriteFile(knobs, []byte("rate=1\n"), 0o644); err != nil {
		return err
	}
	run, err := c.Submit(ctx, jar, "lab.WordCount", []string{"--knobs", knobs, "--name", "wordcount",
		"--component", "source,parallelism=1,cost=0.5,rate=100", "--component", "splitter,parallelism=2,cost=8,fan=2",
		"--component", "counter,parallelism=4,cost=8", "--component", "sink,parallelism=1,cost=2"})
	if err != nil {
		return err
	}
	if err := c.WaitRunning(ctx, run); err != nil {
		return err
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	name := filepath.Join(out, version+".jsonl.gz")
	cmd := exec.CommandContext(ctx, binary, "record", "flink", c.URL(), "--job", "wordcount", "--every", "5s", "--for", length, "--out", name, "--force")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd.Run()
}
