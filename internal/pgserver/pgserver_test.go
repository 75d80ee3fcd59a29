package pgserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

func TestTheFirstCommandCreatesTheDatabaseAndTheLastOneStopsTheServer(t *testing.T) {
	l := emptyHome(t, "home")
	lease := acquire(t, Options{Home: string(l)})
	if !lease.Started() {
		t.Error("the first command did not start the server")
	}
	s := mustRun(t, l)

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, lease.URL())
	if err != nil {
		t.Fatal(err)
	}
	for query, want := range map[string]string{
		"select current_user":       "dhalion",
		"select current_database()": "dhalion",
		"select rolsuper::text from pg_roles where rolname = current_user": "true",
		"show listen_addresses": "",
		"show server_encoding":  "UTF8",
		"show timezone":         "UTC",
		"show fsync":            "on",
		"show max_connections":  "50",
		"select datcollate from pg_database where datname = 'dhalion'":          "C",
		"select string_agg(distinct auth_method, ',') from pg_hba_file_rules":   "scram-sha-256",
		"select left(rolpassword, 13) from pg_authid where rolname = 'dhalion'": "SCRAM-SHA-256",
	} {
		var got string
		if err := conn.QueryRow(ctx, query).Scan(&got); err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", query, got, err, want)
		}
	}
	if err := conn.Close(ctx); err != nil {
		t.Fatal(err)
	}

	second := acquire(t, Options{Home: string(l)})
	if second.Started() {
		t.Error("the second command started a second server")
	}
	release(t, lease)
	mustRun(t, l)
	mustPing(t, second)
	release(t, second)
	mustNotRun(t, l)
	if isPostmaster(s.pid, s.started, l.data()) {
		t.Error("the server's process is still there")
	}
	if _, err := os.Stat(l.stopping()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the mark of the stop is left: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(string(l), "*init-*")); len(left) != 0 {
		t.Errorf("initdb left %v", left)
	}
}

func TestOnlyTheOwnerReadsThePasswordAndTheServerAsksForIt(t *testing.T) {
	l := readyHome(t)
	lease := acquire(t, Options{Home: string(l)})
	for path, want := range map[string]os.FileMode{l.pgpass(): 0o600, l.data(): 0o700, l.run(): 0o700, l.log(): 0o600, l.use(): 0o600} {
		fi, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if fi.Mode().Perm() != want {
			t.Errorf("%s has mode %04o, want %04o", path, fi.Mode().Perm(), want)
		}
	}
	uid, _, err := owner(l.pgpass())
	if err != nil || uid != os.Geteuid() {
		t.Errorf("the password file belongs to %d, %v", uid, err)
	}
	u, err := url.Parse(lease.URL())
	if err != nil {
		t.Fatal(err)
	}
	password, _ := u.User.Password()
	if len(password) < 26 {
		t.Errorf("the password has only %d characters", len(password))
	}
	u.User = url.UserPassword(role, "wrong")
	conn, err := pgx.Connect(t.Context(), u.String())
	if err == nil {
		conn.Close(t.Context())
		t.Fatal("a wrong password was accepted")
	}
	mustContain(t, err.Error(), "28P01")
}

func TestTheServerIsOnItsOwn(t *testing.T) {
	if _, err := os.Stat("/proc/self/stat"); err != nil {
		t.Skip("this system has no /proc to see it")
	}
	t.Setenv("DHALION_TEST_SECRET", "secret")
	t.Setenv("PGPORT", "7777")
	l := readyHome(t)
	lease := acquire(t, Options{Home: string(l)})
	mustPing(t, lease)
	s := mustRun(t, l)
	proc := fmt.Sprintf("/proc/%d", s.pid)

	stat, err := os.ReadFile(proc + "/stat")
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(stat), ") ") // state, parent, group, session
	if f := strings.Fields(after); f[3] != strconv.Itoa(s.pid) {
		t.Errorf("the server %d is in session %s", s.pid, f[3])
	}
	uid, _, err := owner(proc)
	if err != nil || uid == 0 || uid != accountOf(t, l).uid {
		t.Errorf("the server runs as %d, %v", uid, err)
	}
	env, err := os.ReadFile(proc + "/environ")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(env), "secret") || strings.Contains(string(env), "PGPORT") {
		t.Errorf("the server got our environment: %q", env)
	}
	if in, err := os.Readlink(proc + "/fd/0"); err != nil || in != "/dev/null" {
		t.Errorf("standard input is %q, %v", in, err)
	}
	for _, fd := range []string{"1", "2"} {
		if out, err := os.Readlink(proc + "/fd/" + fd); err != nil || out != l.log() {
			t.Errorf("descriptor %s is %q, %v", fd, out, err)
		}
	}
	for _, path := range []string{"/net/tcp", "/net/tcp6"} {
		text, _ := os.ReadFile(proc + path)
		if strings.Contains(string(text), fmt.Sprintf(":%04X ", 7777)) {
			t.Error("something listens at TCP port 7777")
		}
	}
	fds, err := os.ReadDir(proc + "/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		to, err := os.Readlink(proc + "/fd/" + fd.Name())
		if err == nil && (to == l.use() || to == l.start()) {
			t.Errorf("the server has descriptor %s of the lock %s", fd.Name(), to)
		}
	}
}

func TestWhatACommandInheritedIsNotHandedToTheServer(t *testing.T) {
	l := readyHome(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	c := startCommand(t, string(l), w)
	w.Close()
	c.waitReady()
	c.kill()
	mustRun(t, l)
	// The pipe ends with the command, unless the server holds it.
	if err := r.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(r); err != nil {
		t.Errorf("the server has the pipe: %v", err)
	}
}

func TestTheServerOfAKilledCommandIsUsedByTheNextAndStopped(t *testing.T) {
	l := readyHome(t)
	c := startCommand(t, string(l))
	c.waitReady()
	before := mustRun(t, l)
	c.kill()
	mustRun(t, l)

	lease := acquire(t, Options{Home: string(l)})
	if lease.Started() {
		t.Error("the next command started a server of its own")
	}
	if s := mustRun(t, l); s.pid != before.pid {
		t.Errorf("server %d became %d", before.pid, s.pid)
	}
	mustPing(t, lease)
	release(t, lease)
	mustNotRun(t, l)
}

func TestTheServerOfAKilledCommandCanBeStopped(t *testing.T) {
	l := readyHome(t)
	c := startCommand(t, string(l))
	c.waitReady()
	c.kill()
	if err := Stop(t.Context(), string(l), false); err != nil {
		t.Fatal(err)
	}
	mustNotRun(t, l)
}

func TestAStopThatWasKilledIsCompletedByTheNextCommand(t *testing.T) {
	l := readyHome(t)
	c := startCommand(t, string(l))
	c.waitReady()
	c.kill()
	before := mustRun(t, l)
	// As after a kill between the mark and the signal.
	if err := l.writeFile(l.stopping(), strconv.Itoa(before.pid)+"\n"); err != nil {
		t.Fatal(err)
	}
	lease := acquire(t, Options{Home: string(l)})
	if !lease.Started() || mustRun(t, l).pid == before.pid {
		t.Error("the marked server was used")
	}
	mustPing(t, lease)
}

// Wherever in its start or its stop a command is killed, the next one gets a server, and leaves none.
func TestAKillAtAnyMomentIsMadeGood(t *testing.T) {
	l := readyHome(t)
	for i := range 16 {
		c := startCommand(t, string(l))
		if i >= 8 {
			c.waitReady()
			c.in.Close()
		}
		// Not a wait for a state: the moments spread over a start and a stop, of some 80 ms each.
		time.Sleep(time.Duration(i%8) * 12 * time.Millisecond)
		c.kill()
		lease := acquire(t, Options{Home: string(l)})
		mustPing(t, lease)
		release(t, lease)
		mustNotRun(t, l)
	}
}

func TestAServerThatGoesDownForAnotherReasonIsWaitedForAndReplaced(t *testing.T) {
	l := readyHome(t)
	lease := acquire(t, Options{Home: string(l)})
	before := mustRun(t, l)
	if err := syscall.Kill(before.pid, syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	until(t, "the server to say so", func() bool { s := look(t, l); return s.stopping || !s.alive })
	next := acquire(t, Options{Home: string(l)})
	mustPing(t, next)
	release(t, lease)
	mustPing(t, next)
}

func TestAKilledServerIsRecovered(t *testing.T) {
	l := copyOfHome(t)
	lease := acquire(t, Options{Home: string(l)})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, lease.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, "create table kept as select 42 as value"); err != nil {
		t.Fatal(err)
	}
	before := mustRun(t, l)
	if err := syscall.Kill(before.pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	until(t, "its death", func() bool { return !look(t, l).alive })

	next := acquire(t, Options{Home: string(l)})
	if !next.Started() {
		t.Error("the dead server was used")
	}
	again, err := pgx.Connect(ctx, next.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close(ctx)
	var value int
	if err := again.QueryRow(ctx, "select value from kept").Scan(&value); err != nil || value != 42 {
		t.Errorf("the table has %d, %v", value, err)
	}
}

func TestCommandsAtOnceShareOneServer(t *testing.T) {
	for _, n := range []int{2, 8} {
		t.Run(strconv.Itoa(n), func(t *testing.T) {
			l := emptyHome(t, "home") // so that they meet at initdb too
			var commands []*command
			for range n {
				commands = append(commands, startCommand(t, string(l)))
			}
			for _, c := range commands {
				c.waitReady()
			}
			before := mustRun(t, l)
			for i, c := range commands {
				if s := mustRun(t, l); s.pid != before.pid {
					t.Errorf("server %d became %d", before.pid, s.pid)
				}
				if i == 0 {
					c.kill()
				} else {
					c.end()
				}
			}
			mustNotRun(t, l)
		})
	}
}

func TestCommandsThatComeWhileOthersGoFindAServer(t *testing.T) {
	l := readyHome(t)
	// Leases of one process are as separate as those of several: a lock belongs to the open file. 6 × 8 of them, most of
	// which meet a stop.
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			for range 8 {
				lease, err := Acquire(t.Context(), Options{Home: string(l)})
				if err != nil {
					t.Error(err)
					return
				}
				if err := ping(t.Context(), lease); err != nil {
					t.Error(err)
				}
				if err := lease.Release(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	mustNotRun(t, l)
}

func TestAnyPathWillDo(t *testing.T) {
	for _, name := range []string{
		"with space ünï %41+\"quote\" 'x' [a]*?",
		"with,comma",
		strings.Repeat("long", 30),
	} {
		t.Run(name, func(t *testing.T) {
			home := movedHome
			if strings.Contains(name, " ") {
				home = emptyHome // initdb gets the worst of them
			}
			l := home(t, name)
			for range 2 { // the second finds what the first has made
				lease := acquire(t, Options{Home: string(l)})
				mustPing(t, lease)
				s := mustRun(t, l)
				if len(socketFile(s.socket)) > maxSocketPath {
					t.Errorf("the socket is at %s", s.socket)
				}
				fi, err := os.Stat(s.socket)
				if err != nil {
					t.Fatal(err)
				}
				if fi.Mode().Perm() != 0o700 {
					t.Errorf("%s has mode %04o", s.socket, fi.Mode().Perm())
				}
				release(t, lease)
				mustNotRun(t, l)
				if s.socket != l.run() {
					t.Cleanup(func() { os.Remove(s.socket) })
				}
			}
		})
	}
}

func TestAnotherTemporaryDirectoryFindsTheRunningServer(t *testing.T) {
	l := movedHome(t, strings.Repeat("long", 30))
	lease := acquire(t, Options{Home: string(l)})
	s := mustRun(t, l)
	t.Cleanup(func() { os.Remove(s.socket) })
	t.Setenv("TMPDIR", openDir(t))
	next := acquire(t, Options{Home: string(l)})
	mustPing(t, next)
	release(t, lease)
	release(t, next)
	mustNotRun(t, l)
}

func TestAFolderThatSomebodyPutInTheSocketsPlaceIsRefused(t *testing.T) {
	l := movedHome(t, strings.Repeat("long", 30))
	a := accountOf(t, l)
	dir := l.socketDir(a)
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Symlink(openDir(t), dir); err != nil {
		t.Fatal(err)
	}
	mustContain(t, acquireError(t, Options{Home: string(l)}).Error(), dir, "no directory")
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	mustContain(t, acquireError(t, Options{Home: string(l)}).Error(), dir, "open to others")
	if os.Geteuid() == 0 {
		if err := os.Chown(dir, 4711, 4711); err != nil {
			t.Fatal(err)
		}
		mustContain(t, acquireError(t, Options{Home: string(l)}).Error(), dir, "belongs to user 4711")
	}
}

func TestARelativeHomeIsMadeAbsolute(t *testing.T) {
	l := readyHome(t)
	t.Chdir(filepath.Dir(string(l)))
	lease := acquire(t, Options{Home: "home"})
	mustPing(t, lease)
	mustRun(t, l)
	home, err := Home(func(string) string { return "home" })
	if err != nil || !filepath.IsAbs(home) {
		t.Errorf("Home: %q, %v", home, err)
	}
}

func TestAnInitdbThatWasKilledIsMadeGood(t *testing.T) {
	l := emptyHome(t, "home")
	c := startCommand(t, string(l))
	until(t, "initdb", func() bool {
		made, _ := filepath.Glob(filepath.Join(string(l), "init-*", "data", "PG_VERSION"))
		return len(made) > 0
	})
	c.kill()
	if _, err := os.Stat(l.data()); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("half a cluster has the name of a whole one: %v", err)
	}
	lease := acquire(t, Options{Home: string(l)})
	mustPing(t, lease)
}

func TestACommandThatIsCancelledLeavesNoServer(t *testing.T) {
	l := emptyHome(t, "home")
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for range 5000 {
			if made, _ := filepath.Glob(filepath.Join(string(l), "init-*", "data", "PG_VERSION")); len(made) > 0 {
				break
			}
			time.Sleep(pollEvery)
		}
		cancel()
	}()
	lease, err := Acquire(ctx, Options{Home: string(l)})
	if err == nil {
		release(t, lease)
	}
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	mustNotRun(t, l)
	next := acquire(t, Options{Home: string(l)})
	mustPing(t, next)
}

func TestAPidFileOfBeforeACrashIsNoServer(t *testing.T) {
	l := readyHome(t)
	// The number now belongs to another process of the server's own user, in front of which PostgreSQL gives way.
	other := accountOf(t, l).command(context.Background(), "/bin/sleep", "60")
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Process.Kill(); _ = other.Wait() }()
	text := fmt.Sprintf("%d\n%s\n%d\n%s\n%s\n\n  1234567         1\nready   \n", other.Process.Pid, l.data(), time.Now().Unix()-5000, port, l.run())
	if err := os.WriteFile(l.pidfile(), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := accountOf(t, l).give(l.pidfile()); err != nil {
		t.Fatal(err)
	}
	if st, err := GetStatus(string(l)); err != nil || st.Running || st.PID != 0 {
		t.Errorf("status: %+v, %v", st, err)
	}
	if err := Stop(t.Context(), string(l), true); err != nil {
		t.Error(err)
	}
	if !exists(other.Process.Pid) {
		t.Fatal("the other process was stopped")
	}
	lease := acquire(t, Options{Home: string(l)})
	if !lease.Started() {
		t.Error("the other process was taken for the server")
	}
	mustPing(t, lease)
}

func TestAServerWhoseSocketWasRemovedIsReplacedUnlessOthersUseIt(t *testing.T) {
	l := readyHome(t)
	lease := acquire(t, Options{Home: string(l)})
	before := mustRun(t, l)
	if err := os.RemoveAll(l.run()); err != nil {
		t.Fatal(err)
	}
	mustContain(t, acquireError(t, Options{Home: string(l)}).Error(), "socket does not answer", "other commands use it", strconv.Itoa(before.pid))
	c := lease.use
	if err := c.flock(syscall.LOCK_UN); err != nil { // as if its command had been killed
		t.Fatal(err)
	}
	next := acquire(t, Options{Home: string(l)})
	mustPing(t, next)
	if mustRun(t, l).pid == before.pid {
		t.Error("it is still the old server")
	}
}

func TestStopRefusesWhileOthersUseTheServer(t *testing.T) {
	l := readyHome(t)
	c := startCommand(t, string(l))
	c.waitReady()
	if err := Keep(string(l), true); err != nil {
		t.Fatal(err)
	}
	err := Stop(t.Context(), string(l), false)
	var inUse *InUseError
	if !errors.As(err, &inUse) {
		t.Fatalf("%v", err)
	}
	if _, err := os.Stat("/proc/locks"); err == nil && (len(inUse.PIDs) != 1 || inUse.PIDs[0] != c.cmd.Process.Pid) {
		t.Errorf("it names %v, not %d", inUse.PIDs, c.cmd.Process.Pid)
	}
	mustRun(t, l)
	if st, err := GetStatus(string(l)); err != nil || !st.Kept {
		t.Errorf("a refused stop cleared the mark: %+v, %v", st, err)
	}
	if err := Stop(t.Context(), string(l), true); err != nil {
		t.Fatal(err)
	}
	mustNotRun(t, l)
	c.end()
}

func TestAKeptServerStaysUntilItIsStopped(t *testing.T) {
	l := readyHome(t)
	lease := acquire(t, Options{Home: string(l)})
	before := mustRun(t, l)
	if err := Keep(string(l), true); err != nil {
		t.Fatal(err)
	}
	release(t, lease)
	mustRun(t, l)

	st, err := GetStatus(string(l))
	if err != nil {
		t.Fatal(err)
	}
	version, err := l.dataMajor()
	if err != nil {
		t.Fatal(err)
	}
	if want := (Status{Running: true, Kept: true, PID: before.pid, Version: strconv.Itoa(version), Home: string(l), Data: l.data(), Socket: l.run(), Log: l.log()}); st != want {
		t.Errorf("status %+v, want %+v", st, want)
	}

	next := acquire(t, Options{Home: string(l)})
	if next.Started() {
		t.Error("the kept server was not used")
	}
	release(t, next)
	mustRun(t, l)
	if err := Stop(t.Context(), string(l), false); err != nil {
		t.Fatal(err)
	}
	mustNotRun(t, l)
	if st, err := GetStatus(string(l)); err != nil || st.Running || st.Kept || st.PID != 0 {
		t.Errorf("status %+v, %v", st, err)
	}
	if err := Stop(t.Context(), string(l), false); err != nil {
		t.Errorf("to stop what does not run: %v", err)
	}
}

func TestStatusOfAHomeThatDoesNotExistCreatesNothing(t *testing.T) {
	home := filepath.Join(openDir(t), "none")
	st, err := GetStatus(home)
	if err != nil || st.Running || st.Version != "" || st.Home != home {
		t.Errorf("%+v, %v", st, err)
	}
	if err := errors.Join(Stop(t.Context(), home, false), Keep(home, false)); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(home); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the home was created: %v", err)
	}
}

func TestALostPasswordIsReplaced(t *testing.T) {
	l := copyOfHome(t)
	lease := acquire(t, Options{Home: string(l)})
	if err := os.Remove(l.pgpass()); err != nil {
		t.Fatal(err)
	}
	mustContain(t, acquireError(t, Options{Home: string(l)}).Error(), "dhalion db stop")
	old := lease.URL()
	release(t, lease)
	next := acquire(t, Options{Home: string(l)})
	if next.URL() == old {
		t.Error("the password is the old one")
	}
	mustPing(t, next)
}

func TestAStartThatFailsShowsTheLog(t *testing.T) {
	l := copyOfHome(t)
	f, err := os.OpenFile(filepath.Join(l.data(), "postgresql.conf"), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("\nno_such_setting = 1\n"); err != nil {
		t.Fatal(err)
	}
	f.Close()
	err = acquireError(t, Options{Home: string(l)})
	mustContain(t, err.Error(), "pgserver: start: ", "no_such_setting", l.log())
	mustNotRun(t, l)
}

func TestALongLogIsPutAside(t *testing.T) {
	l := copyOfHome(t)
	if err := os.Truncate(l.log(), maxLog+1); err != nil {
		t.Fatal(err)
	}
	lease := acquire(t, Options{Home: string(l)})
	mustPing(t, lease)
	for path, want := range map[string]bool{l.log(): false, l.log() + ".1": true} {
		fi, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if long := fi.Size() > maxLog; long != want {
			t.Errorf("%s has %d bytes", path, fi.Size())
		}
	}
}

func TestRootIsToldWhichDirectoryKeepsTheServerOut(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root runs the server as another user")
	}
	needServer(t)
	closed := filepath.Join(openDir(t), "closed")
	if err := os.Mkdir(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	err := acquireError(t, Options{Home: filepath.Join(closed, "home")})
	mustContain(t, err.Error(), "may not enter "+closed+" (mode 0700)", "chmod o+x "+closed, "DHALION_HOME")
}

func TestRootUsesTheServerOfAnotherUsersHomeAsThatUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can be another user")
	}
	l := emptyHome(t, "home")
	const uid = 65534
	if err := os.Mkdir(string(l), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(string(l), uid, uid); err != nil {
		t.Fatal(err)
	}
	lease := acquire(t, Options{Home: string(l)})
	mustPing(t, lease)
	for _, path := range []string{l.data(), l.run(), l.pgpass(), l.use(), l.start(), l.log()} {
		if got, _, err := owner(path); err != nil || got != uid {
			t.Errorf("%s belongs to %d, %v", path, got, err)
		}
	}
}

func BenchmarkAcquireAndRelease(b *testing.B) {
	dir, err := os.MkdirTemp("", "pgserver-")
	if err != nil {
		b.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		b.Fatal(err)
	}
	o := Options{Home: filepath.Join(dir, "home")}
	lease, err := Acquire(b.Context(), o)
	if err != nil {
		b.Fatal(err)
	}
	if err := lease.Release(); err != nil {
		b.Fatal(err)
	}
	var start, stop time.Duration
	for b.Loop() {
		t0 := time.Now()
		lease, err := Acquire(b.Context(), o)
		if err != nil {
			b.Fatal(err)
		}
		t1 := time.Now()
		if err := lease.Release(); err != nil {
			b.Fatal(err)
		}
		start += t1.Sub(t0)
		stop += time.Since(t1)
	}
	b.ReportMetric(start.Seconds()*1e3/float64(b.N), "ms-start/op")
	b.ReportMetric(stop.Seconds()*1e3/float64(b.N), "ms-stop/op")
}
