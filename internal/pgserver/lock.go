package pgserver

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// pollEvery is the interval at which locks, the server's start and its stop are looked at. Start and stop take some
// tens of milliseconds, and every command pays for both.
const pollEvery = 2 * time.Millisecond

// pollSlowly is the interval after a quarter of a second: then it is an initdb, a recovery or a download that takes its
// time, and needs the processor more than those who wait for it.
const pollSlowly = 20 * time.Millisecond

// lockFile is an open lock. The kernel frees it when its process ends, however it ends; the file stays.
type lockFile struct{ f *os.File }

func (l layout) openLock(path string) (*lockFile, error) {
	f, err := l.openFile(path, os.O_RDWR|os.O_CREATE)
	if err != nil {
		return nil, err
	}
	return &lockFile{f: f}, nil
}

// try takes the lock in the given way (LOCK_SH or LOCK_EX) if it is free now. A lock held in another way is given up
// first, in every case: a conversion that fails keeps the old lock on some systems and loses it on others.
func (k *lockFile) try(how int) (bool, error) {
	if err := k.flock(syscall.LOCK_UN); err != nil {
		return false, err
	}
	err := k.flock(how | syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return false, nil
	}
	return err == nil, err
}

// take waits for the lock.
func (k *lockFile) take(ctx context.Context, how int) error {
	return poll(ctx, func() (bool, error) { return k.try(how) })
}

func (k *lockFile) flock(how int) error {
	for {
		err := syscall.Flock(int(k.f.Fd()), how)
		if err == nil {
			return nil
		}
		if !errors.Is(err, syscall.EINTR) {
			return &os.PathError{Op: "flock", Path: k.f.Name(), Err: err}
		}
	}
}

// close frees the lock. It unlocks before it closes, because a child that another goroutine is starting right now may
// hold a copy of the descriptor until its exec, and only an explicit unlock counts for all copies.
func (k *lockFile) close() error {
	err := k.flock(syscall.LOCK_UN)
	if cerr := k.f.Close(); err == nil {
		err = cerr
	}
	return err
}

// poll calls done until it says true, fails, or the context ends.
func poll(ctx context.Context, done func() (bool, error)) error {
	begin := time.Now()
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if ok, err := done(); ok || err != nil {
			return err
		}
		wait := pollEvery
		if time.Since(begin) > 250*time.Millisecond {
			wait = pollSlowly
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
	}
}

// InUseError says that the server was not stopped because other commands use it.
type InUseError struct {
	Home string
	PIDs []int // the commands, where the system tells (Linux does); in no order
}

func (e *InUseError) Error() string {
	text := "pgserver: stop: other commands use the server of " + e.Home
	for i, pid := range e.PIDs {
		sep := ", "
		if i == 0 {
			sep = ": process "
		}
		text += fmt.Sprintf("%s%d", sep, pid)
	}
	return text
}

// holders returns the other processes that hold a lock on the file, as far as the system shows them.
func holders(path string) []int {
	fi, err := os.Stat(path)
	if err != nil {
		return nil
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return nil
	}
	f, err := os.Open("/proc/locks")
	if err != nil {
		return nil
	}
	defer f.Close()
	// 1: FLOCK  ADVISORY  READ 1234 fd:01:5678 0 EOF
	inode := ":" + strconv.FormatUint(st.Ino, 10)
	var pids []int
	for lines := bufio.NewScanner(f); lines.Scan(); {
		field := strings.Fields(lines.Text())
		if len(field) < 6 || field[1] != "FLOCK" || !strings.HasSuffix(field[5], inode) {
			continue
		}
		if pid, err := strconv.Atoi(field[4]); err == nil && pid > 0 && pid != os.Getpid() {
			pids = append(pids, pid)
		}
	}
	return pids
}
