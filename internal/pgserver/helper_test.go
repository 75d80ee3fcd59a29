package pgserver

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	helperEnv   = "PGSERVER_TEST_HELPER"   // the test binary is to be a command that uses the server of this home
	ordinaryEnv = "PGSERVER_TEST_ORDINARY" // the tests run a second time, as an ordinary user
)

func TestMain(m *testing.M) {
	if home := os.Getenv(helperEnv); home != "" {
		os.Exit(helper(home))
	}
	code := m.Run()
	template.remove()
	os.Exit(code)
}

// helper is a command: it acquires, queries, says so, and releases when its standard input ends.
func helper(home string) int {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	lease, err := Acquire(ctx, Options{Home: home})
	if err == nil {
		err = ping(ctx, lease)
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("ready")
	_, _ = io.Copy(io.Discard, os.Stdin)
	if err := lease.Release(); err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

func ping(ctx context.Context, lease *Lease) error {
	conn, err := pgx.Connect(ctx, lease.URL())
	if err != nil {
		return err
	}
	var one int
	err = conn.QueryRow(ctx, "select 1").Scan(&one)
	return errors.Join(err, conn.Close(ctx))
}

// command is a helper process.
type command struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func startCommand(t *testing.T, home string, files ...*os.File) *command {
	t.Helper()
	c := &command{t: t, cmd: exec.Command(os.Args[0])}
	c.cmd.Env = append(os.Environ(), helperEnv+"="+home)
	c.cmd.ExtraFiles = files
	c.cmd.Stderr = os.Stderr
	var err error
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.out = bufio.NewReader(out)
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if c.cmd.ProcessState == nil {
			c.kill()
		}
	})
	return c
}

func (c *command) waitReady() {
	c.t.Helper()
	if line, err := c.out.ReadString('\n'); line != "ready\n" {
		rest, _ := io.ReadAll(c.out)
		c.t.Fatalf("command: %s%s (%v)", line, rest, err)
	}
}

func (c *command) end() {
	c.t.Helper()
	c.in.Close()
	rest, _ := io.ReadAll(c.out)
	if err := c.cmd.Wait(); err != nil {
		c.t.Fatalf("command: %s (%v)", rest, err)
	}
}

func (c *command) kill() {
	_ = c.cmd.Process.Kill()
	_ = c.cmd.Wait()
}

// tempRoot is memory where there is enough: initdb syncs a thousand files, and on a busy disk that is all the tests do.
func tempRoot() string {
	const shm = "/dev/shm"
	if free, err := freeBytes(shm); err == nil && free > 2<<30 {
		return shm
	}
	return ""
}

// openDir is a temporary directory that the server's user may enter; t.TempDir is closed to all but its owner.
func openDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp(tempRoot(), "pgserver-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// template is a home with a finished cluster, made once: initdb takes a second.
var template homeTemplate

type homeTemplate struct {
	once sync.Once
	dir  string
	err  error
}

func (h *homeTemplate) remove() {
	if h.dir != "" {
		os.RemoveAll(h.dir)
	}
}

func (h *homeTemplate) make() {
	h.dir, h.err = os.MkdirTemp(tempRoot(), "pgserver-template-")
	if h.err != nil {
		return
	}
	if h.err = os.Chmod(h.dir, 0o755); h.err != nil {
		return
	}
	lease, err := Acquire(context.Background(), Options{Home: filepath.Join(h.dir, "home")})
	if err != nil {
		h.err = err
		return
	}
	h.err = lease.Release()
}

// needServer: on a developer's machine without PostgreSQL the tests download one; in CI that would hide a broken image.
func needServer(t *testing.T) {
	t.Helper()
	if os.Getenv("CI") == "" {
		return
	}
	for _, dir := range systemDirs() {
		if havePrograms(dir) == nil {
			return
		}
	}
	t.Fatal("this machine has no PostgreSQL, and CI must have one")
}

// emptyHome returns a home that does not exist yet. Its server is stopped at the test's end.
func emptyHome(t *testing.T, name string) layout {
	t.Helper()
	needServer(t)
	l := layout(filepath.Join(openDir(t), name))
	stopAtEnd(t, l)
	return l
}

// readyHome returns a home with a cluster whose server does not run. Tests share it one after the other, and leave it as
// healthy as they found it.
func readyHome(t *testing.T) layout {
	t.Helper()
	needServer(t)
	template.once.Do(template.make)
	if template.err != nil {
		t.Fatal(template.err)
	}
	l := layout(filepath.Join(template.dir, "home"))
	stopAtEnd(t, l)
	return l
}

// copyOfHome is for tests that do damage.
func copyOfHome(t *testing.T) layout {
	t.Helper()
	from, l := readyHome(t), emptyHome(t, "home")
	if err := copyTree(string(from), string(l)); err != nil {
		t.Fatal(err)
	}
	return l
}

// movedHome is the shared home at another path.
func movedHome(t *testing.T, name string) layout {
	t.Helper()
	from, l := readyHome(t), layout(filepath.Join(openDir(t), name))
	if err := os.Rename(string(from), string(l)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Rename(string(l), string(from)); err != nil {
			t.Errorf("cleanup: %v", err)
		}
	})
	stopAtEnd(t, l)
	return l
}

func stopAtEnd(t *testing.T, l layout) {
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := Stop(ctx, string(l), true); err != nil {
			t.Errorf("cleanup: %v", err)
		}
	})
}

func copyTree(from, to string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		dst := filepath.Join(to, rel)
		fi, err := d.Info()
		if err != nil {
			return err
		}
		switch {
		case d.IsDir():
			err = os.Mkdir(dst, 0o700)
		case fi.Mode().IsRegular():
			var text []byte
			if text, err = os.ReadFile(path); err == nil {
				err = os.WriteFile(dst, text, 0o600)
			}
		default:
			return nil
		}
		if err != nil {
			return err
		}
		if err := os.Chmod(dst, fi.Mode().Perm()); err != nil {
			return err
		}
		uid, gid, err := owner(path)
		if err != nil {
			return err
		}
		return os.Lchown(dst, uid, gid)
	})
}

func acquire(t *testing.T, o Options) *Lease {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	lease, err := Acquire(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = lease.Release() })
	return lease
}

func acquireError(t *testing.T, o Options) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	lease, err := Acquire(ctx, o)
	if err == nil {
		_ = lease.Release()
		t.Fatal("Acquire succeeded")
	}
	return err
}

func release(t *testing.T, lease *Lease) {
	t.Helper()
	if err := lease.Release(); err != nil {
		t.Fatal(err)
	}
}

func mustPing(t *testing.T, lease *Lease) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := ping(ctx, lease); err != nil {
		t.Fatal(err)
	}
}

func look(t *testing.T, l layout) server {
	t.Helper()
	s, err := l.probe()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func mustRun(t *testing.T, l layout) server {
	t.Helper()
	s := look(t, l)
	if !s.alive || !s.usable() {
		t.Fatalf("the server does not run: %+v", s)
	}
	return s
}

func mustNotRun(t *testing.T, l layout) {
	t.Helper()
	if s := look(t, l); s.alive {
		t.Fatalf("the server runs: %+v", s)
	}
}

// until waits for a state, which something else brings about.
func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := poll(ctx, func() (bool, error) { return done(), nil }); err != nil {
		t.Fatalf("waiting for %s: %v", what, err)
	}
}

func accountOf(t *testing.T, l layout) account {
	t.Helper()
	a, err := serverAccount(l)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func mustContain(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("%q does not say %q", text, part)
		}
	}
}

// The rest of the tests, as nobody: the tests' own user is root on many machines, and never on others.
func TestAllOfThisHoldsForAnOrdinaryUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("this user is an ordinary one: the other tests show it")
	}
	if testing.Short() {
		t.Skip("it is as long as all the others")
	}
	text, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	dir := openDir(t)
	program := filepath.Join(dir, "test")
	if err := os.WriteFile(program, text, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(program, 0o755); err != nil {
		t.Fatal(err)
	}
	tmp := filepath.Join(dir, "tmp")
	if err := os.Mkdir(tmp, 0o755); err != nil {
		t.Fatal(err)
	}
	const nobody = 65534
	if err := os.Chown(tmp, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "-test.v", "-test.timeout=5m")
	cmd.Dir = tmp
	cmd.Env = append(os.Environ(), ordinaryEnv+"=1", "HOME="+tmp, "TMPDIR="+tmp)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
}
