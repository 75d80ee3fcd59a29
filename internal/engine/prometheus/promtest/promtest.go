// Package promtest starts a real Prometheus for tests, with a history of which
// every value and time is known.
package promtest

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// Start runs a Prometheus that scrapes nothing and holds the samples of a text in
// OpenMetrics' format, times included. It gives its URL, and ends with the test.
// Arguments are added to Prometheus' own. The program is what scripts/prometheus
// finds or fetches; where it cannot the test fails.
func Start(t testing.TB, openMetrics []byte, args ...string) (url string) {
	t.Helper()
	bin := program(t)
	dir := t.TempDir()
	text, data, config := filepath.Join(dir, "history.txt"), filepath.Join(dir, "data"), filepath.Join(dir, "prometheus.yml")
	for name, content := range map[string][]byte{text: openMetrics, config: []byte("scrape_configs: []\n")} {
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command(filepath.Join(filepath.Dir(bin), "promtool"), "tsdb", "create-blocks-from", "openmetrics", text, data).CombinedOutput(); err != nil {
		t.Fatalf("promtool: %v\n%s", err, out)
	}
	address := free(t)
	cmd := exec.Command(bin, append([]string{
		"--config.file=" + config, "--storage.tsdb.path=" + data, "--web.listen-address=" + address,
		"--storage.tsdb.retention.time=100y", "--log.level=info",
	}, args...)...)
	cmd.Stdout = io.Discard
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said, ready, done := new(bytes.Buffer), make(chan bool, 1), make(chan struct{})
	go func() {
		defer close(done)
		defer close(ready)
		lines := bufio.NewScanner(stderr)
		told := false
		for lines.Scan() {
			if told {
				continue
			}
			fmt.Fprintln(said, lines.Text())
			if strings.Contains(lines.Text(), "Server is ready to receive web requests") {
				told = true
				ready <- true
			}
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		<-done
		_ = cmd.Wait()
	})
	if !<-ready {
		t.Fatalf("prometheus did not start:\n%s", said)
	}
	return "http://" + address
}

// free is an address of this machine that nothing listens on.
func free(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func program(t testing.TB) string {
	t.Helper()
	root, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(root, "go.mod")); err == nil {
			break
		}
		above := filepath.Dir(root)
		if above == root {
			t.Fatal("no go.mod above the test")
		}
		root = above
	}
	cmd := exec.Command(filepath.Join(root, "scripts", "prometheus"))
	cmd.Stderr = new(bytes.Buffer)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("this test needs a prometheus: %v\n%s", err, cmd.Stderr)
	}
	return strings.TrimSpace(string(out))
}
