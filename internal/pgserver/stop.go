package pgserver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"time"
)

const (
	fastTimeout      = 30 * time.Second // for the last checkpoint; then the server is stopped without one
	immediateTimeout = 10 * time.Second
)

// Keep sets or clears the mark that keeps the server of a home running when no command uses it. It neither starts nor
// stops the server.
func Keep(home string, keep bool) error {
	home, err := absolute(home)
	if err != nil {
		return err
	}
	l := layout(home)
	if !keep {
		if err := os.Remove(l.keep()); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("pgserver: keep: %w", err)
		}
		return nil
	}
	if err := l.create(); err != nil {
		return fmt.Errorf("pgserver: keep: %w", err)
	}
	f, err := l.openFile(l.keep(), os.O_WRONLY|os.O_CREATE)
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		return fmt.Errorf("pgserver: keep: %w", err)
	}
	return nil
}

func (l layout) kept() bool {
	_, err := os.Lstat(l.keep())
	return err == nil
}

// Stop stops the server of a home if it runs, and clears the mark of Keep. It ends the connections that are open (fast
// shutdown) and, if that takes too long, the server itself (immediate shutdown: the next start recovers). While other
// commands use the server it refuses with an *InUseError, and changes nothing, unless force is set.
func Stop(ctx context.Context, home string, force bool) error {
	home, err := absolute(home)
	if err != nil {
		return err
	}
	l := layout(home)
	if _, err := os.Stat(home); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	var inUse *InUseError
	if err := l.stopCommand(ctx, force); err != nil && !errors.As(err, &inUse) {
		return fmt.Errorf("pgserver: stop: %w", err)
	} else if err != nil {
		return err
	}
	return nil
}

func (l layout) stopCommand(ctx context.Context, force bool) error {
	path, how := l.use(), syscall.LOCK_EX
	if force {
		path = l.start() // nobody starts it meanwhile
	}
	lock, err := l.openLock(path)
	if err != nil {
		return err
	}
	defer lock.close()
	if force {
		err = lock.take(ctx, how)
	} else {
		err = l.takeUnused(ctx, lock)
	}
	if err != nil {
		return err
	}
	if err := Keep(string(l), false); err != nil {
		return err
	}
	s, err := l.probe()
	if err != nil {
		return err
	}
	if !s.alive {
		if s.usable() {
			return fmt.Errorf("process %d, which answers at %s, cannot be seen from here (another container?)", s.pid, s.socket)
		}
		return nil
	}
	return l.stop(ctx, s)
}

// takeUnused takes the use lock exclusively, or says who shares it. A command that holds it exclusively is about to stop
// the server, and is waited for.
func (l layout) takeUnused(ctx context.Context, lock *lockFile) error {
	shared := 0
	return poll(ctx, func() (bool, error) {
		if ok, err := lock.try(syscall.LOCK_EX); ok || err != nil {
			return ok, err
		}
		ok, err := lock.try(syscall.LOCK_SH)
		if !ok || err != nil {
			return false, err
		}
		if err := lock.flock(syscall.LOCK_UN); err != nil {
			return false, err
		}
		// Another Stop may have been at this same question.
		if shared++; shared < 10 {
			return false, nil
		}
		return false, &InUseError{Home: string(l), PIDs: holders(l.use())}
	})
}

// stop ends a living server and waits until it is gone. It says so first, in a file: between the signal and the moment
// at which the server's own status says "stopping", a new command would take the server for usable if it found it
// unlocked (because this command was killed just then).
func (l layout) stop(ctx context.Context, s server) error {
	if err := l.writeFile(l.stopping(), strconv.Itoa(s.pid)+"\n"); err != nil {
		// A full disk must not keep a server alive; the mark is only for a case of two misfortunes at once.
		if !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, syscall.EDQUOT) {
			return err
		}
	}
	for _, step := range []struct {
		signal syscall.Signal
		wait   time.Duration
	}{{syscall.SIGINT, fastTimeout}, {syscall.SIGQUIT, immediateTimeout}} {
		if !isPostmaster(s.pid, s.started, l.data()) {
			break
		}
		if err := syscall.Kill(s.pid, step.signal); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("signal process %d: %w", s.pid, err)
		}
		deadline := time.Now().Add(step.wait)
		// The pid file goes a moment before the process.
		if err := poll(ctx, func() (bool, error) {
			return !isPostmaster(s.pid, s.started, l.data()) || time.Now().After(deadline), nil
		}); err != nil {
			return err
		}
	}
	if isPostmaster(s.pid, s.started, l.data()) {
		return fmt.Errorf("process %d does not end (log: %s)", s.pid, l.log())
	}
	if err := os.Remove(l.stopping()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
