package cluster

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// BuildJobs compiles the Java sources of a folder against a Flink and returns the
// jar, in CACHE/jobs. For a Flink before 2.0 the sources of the folder `old` beside
// it take the place of those of their name. What is built already is not built
// again: the jar's name is the digest of its sources and the version.
func BuildJobs(ctx context.Context, d Distribution, sources, cache string) (jar string, err error) {
	files, err := filepath.Glob(filepath.Join(sources, "*", "*.java"))
	if err != nil || len(files) == 0 {
		return "", fmt.Errorf("cluster: build jobs: no Java sources in %s", sources)
	}
	if strings.HasPrefix(d.Version, "1.") {
		for i, f := range files {
			old := filepath.Join(filepath.Dir(sources), "old", filepath.Base(filepath.Dir(f)), filepath.Base(f))
			if _, err := os.Stat(old); err == nil {
				files[i] = old
			}
		}
	}
	sum := sha256.New()
	fmt.Fprintln(sum, d.Version)
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			return "", fmt.Errorf("cluster: build jobs: %w", err)
		}
		fmt.Fprintln(sum, filepath.Base(f), len(data))
		sum.Write(data)
	}
	dir := filepath.Join(cache, "jobs")
	jar = filepath.Join(dir, hex.EncodeToString(sum.Sum(nil))[:16]+".jar")
	if _, err := os.Stat(jar); err == nil {
		return jar, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("cluster: build jobs: %w", err)
	}
	work, err := os.MkdirTemp(dir, "build-")
	if err != nil {
		return "", fmt.Errorf("cluster: build jobs: %w", err)
	}
	defer os.RemoveAll(work)
	classPath, err := d.classPath()
	if err != nil {
		return "", err
	}
	classes, built := filepath.Join(work, "classes"), filepath.Join(work, "jobs.jar")
	compile := append([]string{"-nowarn", "--release", "11", "-d", classes, "-cp", classPath}, files...)
	for _, cmd := range []*exec.Cmd{
		exec.CommandContext(ctx, "javac", compile...),
		exec.CommandContext(ctx, "jar", "--create", "--file", built, "-C", classes, "."),
	} {
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("cluster: build jobs: %s: %w: %s", cmd.Args[0], err, strings.TrimSpace(string(out)))
		}
	}
	if err := os.Rename(built, jar); err != nil {
		return "", fmt.Errorf("cluster: build jobs: %w", err)
	}
	return jar, nil
}
