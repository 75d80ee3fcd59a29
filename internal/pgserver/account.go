package pgserver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// account is the user that the server runs as. PostgreSQL refuses to run as root.
type account struct {
	name     string
	uid, gid int
	drop     bool // this process is root and has to change to the account
}

// serverAccount picks the account: this user; for root the owner of the home or the cluster if that is somebody else (so
// that its owner can go on using it), else postgres, else nobody.
func serverAccount(l layout) (account, error) {
	if uid := os.Geteuid(); uid != 0 {
		return account{name: strconv.Itoa(uid), uid: uid, gid: os.Getegid()}, nil
	}
	for _, path := range []string{l.data(), string(l)} {
		uid, gid, err := owner(path)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return account{}, err
		}
		if err == nil && uid != 0 {
			name := strconv.Itoa(uid)
			if u, err := user.LookupId(name); err == nil {
				name = u.Username
			}
			return account{name: name, uid: uid, gid: gid, drop: true}, nil
		}
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		// macOS has nobody as -2.
		uid, err1 := strconv.ParseInt(u.Uid, 10, 64)
		gid, err2 := strconv.ParseInt(u.Gid, 10, 64)
		if err1 != nil || err2 != nil || uint32(uid) == 0 {
			continue
		}
		return account{name: name, uid: int(uint32(uid)), gid: int(uint32(gid)), drop: true}, nil
	}
	return account{}, errors.New("PostgreSQL does not run as root, and this machine has neither a user postgres nor a user nobody")
}

// command prepares a program of PostgreSQL: as the account, in its own session (a terminal's Ctrl-C and hang-up are not
// for it), with nothing of this process's environment but what finds programs and libraries. Settings such as PGPORT
// would change the server; others are secrets that it has no business with. The end of the context ends it and what it
// has started: initdb runs the server in turn.
func (a account) command(ctx context.Context, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = immediateTimeout
	cmd.Env = []string{"LC_ALL=C", "TZ=UTC"}
	for _, key := range []string{"PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"} {
		if v, ok := os.LookupEnv(key); ok {
			cmd.Env = append(cmd.Env, key+"="+v)
		}
	}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if a.drop {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(a.uid), Gid: uint32(a.gid)}
	}
	return cmd
}

// give makes the account the owner of a file or directory that this process has made.
func (a account) give(path string) error {
	if !a.drop {
		return nil
	}
	return os.Lchown(path, a.uid, a.gid)
}

// blockedBy returns the first directory on the way to dir (itself included) that the account may not enter, by the
// permission bits, or "" if there is none. Access control lists are not looked at, so it explains a failure or prefers
// one place to another, but never forbids.
func (a account) blockedBy(dir string) string {
	if !a.drop {
		return ""
	}
	path := "/"
	for _, part := range append([]string{""}, strings.Split(strings.Trim(filepath.Clean(dir), "/"), "/")...) {
		path = filepath.Join(path, part)
		fi, err := os.Stat(path)
		if err != nil {
			return ""
		}
		st, ok := fi.Sys().(*syscall.Stat_t)
		if !ok {
			return ""
		}
		bit := os.FileMode(0o001)
		switch {
		case int(st.Uid) == a.uid:
			bit = 0o100
		case int(st.Gid) == a.gid:
			bit = 0o010
		}
		if fi.Mode().Perm()&bit == 0 {
			return path
		}
	}
	return ""
}

// explain adds to an error of a program that it may be the directories that keep the account out.
func (a account) explain(err error, dirs ...string) error {
	for _, dir := range dirs {
		block := a.blockedBy(dir)
		if block == "" {
			continue
		}
		mode := os.FileMode(0)
		if fi, serr := os.Stat(block); serr == nil {
			mode = fi.Mode().Perm()
		}
		return fmt.Errorf("user %s, which the server runs as because PostgreSQL does not run as root, may not enter %s (mode %04o) on the way to %s: "+
			"open it with `chmod o+x %s`, or set DHALION_HOME (DHALION_POSTGRES for the binaries) to a directory that everybody may enter: %w",
			a.name, block, mode, dir, block, err)
	}
	return err
}
