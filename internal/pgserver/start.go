package pgserver

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	role     = "dhalion" // superuser
	database = "dhalion"

	maxLog  = 8 << 20 // bytes of log at which a start puts the old one aside
	logTail = 20      // lines of it in an error

	appearTimeout = 30 * time.Second // from the program's start to its pid file
	answerTimeout = 2 * time.Second  // from "ready" to a socket that answers
	patience      = 2 * time.Second  // then whoever waits is told why
)

// errUnreachable: the server runs and says it is ready, but nobody listens at its socket (somebody removed the folder).
var errUnreachable = errors.New("the server runs, but its socket does not answer")

// ensure returns with a usable server. The caller holds the shared use lock, so nobody stops a server that is not
// stopping already; the start lock makes it the only one that starts one.
func (o Options) ensure(ctx context.Context, l layout) (s server, started bool, err error) {
	if s, err := l.probe(); err != nil || s.usable() {
		return s, false, err
	}
	lock, err := l.openLock(l.start())
	if err != nil {
		return server{}, false, err
	}
	defer lock.close()
	told := time.AfterFunc(patience, func() { o.notify("waiting for another command that starts PostgreSQL in %s", string(l)) })
	err = lock.take(ctx, syscall.LOCK_EX)
	told.Stop()
	if err != nil {
		return server{}, false, err
	}

	var (
		child    *process  // what this call has started
		readyAt  time.Time // since when the server says that it is ready without answering
		waitFrom = time.Now()
		waitTold = false
	)
	err = poll(ctx, func() (bool, error) {
		if s, err = l.probe(); err != nil {
			return false, err
		}
		if !waitTold && time.Since(waitFrom) > patience && s.alive {
			waitTold = true
			o.notify("PostgreSQL is still starting; it writes to %s", l.log())
		}
		switch {
		case s.usable():
			return true, nil
		case s.stopping && s.alive:
			// Whoever began to stop it may have died between saying so and doing so.
			return false, l.stop(ctx, s)
		case s.alive && s.ready:
			if readyAt.IsZero() {
				readyAt = time.Now()
			}
			if time.Since(readyAt) > answerTimeout {
				return false, errUnreachable
			}
			return false, nil
		case s.alive:
			return false, nil // starting or recovering: started by this call or by a command that was killed
		case child == nil:
			child, err = o.launch(ctx, l, s)
			started = err == nil
			return false, err
		}
		select {
		case err := <-child.exit:
			// A killed command's server may have been about to write its pid file when this call looked: then this
			// call's server has given way to it.
			if s, perr := l.probe(); perr == nil && s.alive {
				child, started = nil, false
				return false, nil
			}
			text := l.tail(child.logFrom)
			if strings.Contains(text, "pre-existing shared memory block") && time.Since(waitFrom) < appearTimeout {
				// The postmaster was killed, and its last children are about to notice.
				child = nil
				return false, nil
			}
			return false, l.failed(err, text)
		default:
		}
		if time.Since(child.since) > appearTimeout {
			_ = child.cmd.Process.Signal(syscall.SIGINT)
			return false, l.failed(fmt.Errorf("no sign of life for %v", appearTimeout), l.tail(child.logFrom))
		}
		return false, nil
	})
	return s, started, err
}

// process is a server that this process has started. It outlives this process.
type process struct {
	cmd     *exec.Cmd
	exit    chan error
	since   time.Time
	logFrom int64 // where in the log it begins
}

// launch starts a server that is not running; before has what is left of the last one.
func (o Options) launch(ctx context.Context, l layout, before server) (*process, error) {
	a, err := serverAccount(l)
	if err != nil {
		return nil, err
	}
	major, err := l.dataMajor()
	if err != nil {
		return nil, err
	}
	bin, err := o.find(ctx, l, a, major)
	if err != nil {
		return nil, err
	}
	closeInherited()
	if major == 0 {
		if err := o.initialise(ctx, l, a, bin); err != nil {
			return nil, err
		}
	}
	// PostgreSQL itself ignores a pid file whose process is gone. But it gives way to any living process of its user
	// that happens to have the number, and to zombies. It is known here that this process is no postmaster of this
	// cluster. (That a killed postmaster's children still use the memory, PostgreSQL finds by the memory's key, which
	// comes from the directory, not from this file.)
	stale := before.pid != 0 && exists(before.pid)
	if stale {
		if err := os.Remove(l.pidfile()); err != nil {
			return nil, err
		}
	}
	if err := os.Remove(l.stopping()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	if _, err := os.Stat(l.pgpass()); errors.Is(err, os.ErrNotExist) {
		if err := l.resetPassword(ctx, a, bin); err != nil {
			return nil, err
		}
	}
	socket := l.socketDir(a)
	if err := a.ownDir(socket, socket == l.run()); err != nil {
		return nil, err
	}
	if stale {
		// The socket's lock file names the same process.
		if err := os.Remove(socketFile(socket) + ".lock"); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
	}
	log, from, err := l.openLog()
	if err != nil {
		return nil, err
	}
	defer log.Close()

	args := []string{"-D", l.data()}
	for _, setting := range []string{
		"listen_addresses=",
		"port=" + port,
		// It is a list, whose entries lose spaces at their ends unless they are quoted.
		`unix_socket_directories="` + strings.ReplaceAll(socket, `"`, `""`) + `"`,
		"unix_socket_permissions=0700", // the server's own user, and root
		"cluster_name=dhalion",
		"max_connections=50",
		"shared_buffers=128MB",
		"fsync=on",
		"full_page_writes=on",
		"synchronous_commit=on",
		"timezone=UTC",
		"log_timezone=UTC",
		"log_destination=stderr",
		"logging_collector=off",
		"log_checkpoints=off", // one at each stop, that is, each command
		"jit=off",             // compiling costs more than these queries
		"max_logical_replication_workers=0",
	} {
		args = append(args, "-c", setting)
	}
	cmd := a.command(context.WithoutCancel(ctx), bin.program("postgres"), args...)
	cmd.Dir = l.data()
	cmd.Stdout, cmd.Stderr = log, log // *os.File: inherited as they are, no copying goroutine that would die with us
	if err := cmd.Start(); err != nil {
		return nil, a.explain(err, bin.dir, l.data(), socket)
	}
	p := &process{cmd: cmd, exit: make(chan error, 1), since: time.Now(), logFrom: from}
	go func() { p.exit <- cmd.Wait() }()
	return p, nil
}

// initialise makes the cluster: in a directory of its own that takes its name last, so that there is a whole cluster or
// none, whenever the machine stops.
func (o Options) initialise(ctx context.Context, l layout, a account, bin binaries) error {
	o.notify("creating a database in %s", l.data())
	old, err := filepath.Glob(filepath.Join(globQuote(string(l)), "init-*"))
	if err != nil {
		return err
	}
	for _, path := range old {
		_ = os.RemoveAll(path) // if its initdb still writes, the next call removes the rest
	}
	tmp, err := os.MkdirTemp(string(l), "init-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	password, err := l.password()
	if errors.Is(err, os.ErrNotExist) {
		password, err = rand.Text(), nil
	}
	if err != nil {
		return err
	}
	pwfile := filepath.Join(tmp, "password")
	if err := os.WriteFile(pwfile, []byte(password+"\n"), 0o600); err != nil {
		return err
	}
	if err := errors.Join(a.give(pwfile), a.give(tmp)); err != nil {
		return err
	}
	data := filepath.Join(tmp, "data")
	if err := runTool(ctx, a.command(ctx, bin.program("initdb"), "--pgdata="+data, "--username="+role, "--pwfile="+pwfile,
		"--auth=scram-sha-256", "--encoding=UTF8", "--locale=C"), ""); err != nil {
		return a.explain(err, bin.dir, tmp)
	}
	if err := single(ctx, a, bin, data, "CREATE DATABASE "+database); err != nil {
		return err
	}
	if err := l.writePassword(password); err != nil {
		return err
	}
	// dataMajor lets an empty directory pass.
	if err := os.Remove(l.data()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.Rename(data, l.data()); err != nil {
		return err
	}
	return syncDir(string(l))
}

// resetPassword gives the role of a cluster whose password file is lost a new one.
func (l layout) resetPassword(ctx context.Context, a account, bin binaries) error {
	password := rand.Text()
	if err := single(ctx, a, bin, l.data(), "ALTER ROLE "+role+" PASSWORD '"+password+"'"); err != nil {
		return err
	}
	return l.writePassword(password)
}

// single runs a statement in a cluster that no server runs on. The statement goes through standard input: arguments can
// be seen by everybody on the machine.
func single(ctx context.Context, a account, bin binaries, data, statement string) error {
	cmd := a.command(ctx, bin.program("postgres"), "--single", "-D", data, "-c", "exit_on_error=on", "-c", "log_checkpoints=off",
		"-c", "log_min_error_statement=panic", // an error must not show the password
		"postgres")
	return runTool(ctx, cmd, statement+"\n")
}

// runTool runs a program to its end; the end of its output is in the error.
func runTool(ctx context.Context, cmd *exec.Cmd, input string) error {
	var out bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &out, &out
	if input == "" {
		cmd.Stdin = nil
	}
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return fmt.Errorf("%s: %w%s", filepath.Base(cmd.Path), err, indented(lastLines(out.String(), logTail)))
	}
	return nil
}

// ownDir makes the socket's folder, 0700 and the account's. In a folder that everybody can write to, somebody may have
// put something else in its place: that is refused, not mended.
func (a account) ownDir(dir string, ours bool) error {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	fi, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	if !fi.IsDir() {
		return fmt.Errorf("%s, the folder for the socket, is no directory: remove it", dir)
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("%s has no owner", dir)
	}
	switch {
	case int(st.Uid) == a.uid:
	case a.drop && (int(st.Uid) == 0 || ours):
		if err := a.give(dir); err != nil {
			return err
		}
	default:
		return fmt.Errorf("%s, the folder for the socket, belongs to user %d, not to %s: remove it", dir, st.Uid, a.name)
	}
	if fi.Mode().Perm() != 0o700 {
		if !ours {
			return fmt.Errorf("%s, the folder for the socket, is open to others (mode %04o): remove it", dir, fi.Mode().Perm())
		}
		return os.Chmod(dir, 0o700)
	}
	return nil
}

// openLog opens the log for the server and tells its size.
func (l layout) openLog() (*os.File, int64, error) {
	if fi, err := os.Lstat(l.log()); err == nil && fi.Size() > maxLog {
		if err := os.Rename(l.log(), l.log()+".1"); err != nil {
			return nil, 0, err
		}
	}
	f, err := l.openFile(l.log(), os.O_WRONLY|os.O_CREATE|os.O_APPEND)
	if err != nil {
		return nil, 0, err
	}
	fi, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, fi.Size(), nil
}

// tail returns the last lines of the log from an offset on.
func (l layout) tail(from int64) string {
	f, err := os.Open(l.log())
	if err != nil {
		return ""
	}
	defer f.Close()
	const most = 64 << 10
	if fi, err := f.Stat(); err == nil && fi.Size()-from > most {
		from = fi.Size() - most
	}
	text, err := io.ReadAll(io.NewSectionReader(f, from, most))
	if err != nil {
		return ""
	}
	return lastLines(string(text), logTail)
}

// failed describes a server that did not come up.
func (l layout) failed(err error, text string) error {
	if err == nil {
		err = errors.New("the server ended at once")
	}
	if text == "" {
		text = "the server's log says nothing"
		if free, ferr := freeBytes(string(l)); ferr == nil && free < 1<<20 {
			text = fmt.Sprintf("the disk of %s is full (%d bytes are free)", string(l), free)
		}
	}
	return fmt.Errorf("PostgreSQL did not start: %w (log: %s)%s", err, l.log(), indented(text))
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	if len(lines) > n {
		lines = lines[len(lines)-n:]
	}
	return strings.Join(lines, "\n")
}

func indented(text string) string {
	text = strings.TrimRight(text, "\n")
	if text == "" {
		return ""
	}
	return "\n\t" + strings.ReplaceAll(text, "\n", "\n\t")
}

// globQuote makes a path stand for itself in a pattern.
func globQuote(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = f.Sync()
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}
