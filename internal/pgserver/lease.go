package pgserver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// Options says which server Acquire uses and starts.
type Options struct {
	Home     string       // the directory that the server lives in; see Home
	Binaries string       // $DHALION_POSTGRES: a directory holding initdb and postgres, or its parent; "": the system's, else downloaded ones
	Notify   func(string) // is told, in words for a person, what takes long; may be nil, and may be called from another goroutine

	noSystem bool   // do as if the system had no PostgreSQL
	cache    string // for downloads; "": the usual place
}

func (o Options) notify(format string, args ...any) {
	if o.Notify != nil {
		o.Notify(fmt.Sprintf(format, args...))
	}
}

// Lease is the right to use the server: while it is held, no other command stops the server (but by force). It ends with
// Release, or with the process. It is no connection.
type Lease struct {
	home    layout
	url     string
	started bool
	use     *lockFile
	once    sync.Once
	err     error
}

// Acquire returns a lease of the home's server, which accepts connections then. It starts the server if it does not run,
// and creates the database on first use.
//
// Why it cannot meet a server that is just being stopped: a server is stopped only under the exclusive use lock, which
// Release and Stop keep until the server is gone. Acquire looks at the server only when it has the shared lock. So
// either the stop came first, then Acquire waited for its end, finds no server and starts one; or Acquire came first,
// then Release does not get the exclusive lock and leaves the server alone. Two that release at once cannot both leave
// it running: each gives up its shared lock before it tries the exclusive one, so the later of them to do so meets no
// shared lock of the other; and if it meets the other's exclusive lock, the other is stopping the server. What is left is
// a command killed in the middle of a stop, whose locks are free while the server goes down: it had marked the server
// (file `stopping`) before it signalled it, and Acquire completes the stop of a marked server, then starts anew.
func Acquire(ctx context.Context, o Options) (*Lease, error) {
	home, err := absolute(o.Home)
	if err != nil {
		return nil, err
	}
	lease, err := o.acquire(ctx, layout(home))
	if err != nil {
		return nil, startError(err)
	}
	return lease, nil
}

func (o Options) acquire(ctx context.Context, l layout) (*Lease, error) {
	if err := l.create(); err != nil {
		return nil, err
	}
	lock, err := l.openLock(l.use())
	if err != nil {
		if errors.Is(err, os.ErrPermission) {
			err = fmt.Errorf("%s belongs to another user; set DHALION_HOME to a directory of your own: %w", string(l), err)
		}
		return nil, err
	}
	if err := lock.take(ctx, syscall.LOCK_SH); err != nil {
		lock.close()
		return nil, err
	}
	lease := &Lease{home: l, use: lock}
	s, started, err := o.ensure(ctx, l)
	if errors.Is(err, errUnreachable) {
		s, started, err = lease.replace(ctx, o)
	}
	if err == nil {
		lease.started = started
		var password string
		if password, err = l.password(); errors.Is(err, os.ErrNotExist) {
			err = fmt.Errorf("%w: stop the server (`dhalion db stop`), and the next command sets a new password", err)
		}
		lease.url = connectionURL(s.socket, password)
	}
	if err != nil {
		// A server that this call began to start must not stay without a user.
		return nil, errors.Join(err, lease.Release())
	}
	return lease, nil
}

// replace stops a server that nobody can reach, if no other command has the lease of it, and starts another.
func (l *Lease) replace(ctx context.Context, o Options) (server, bool, error) {
	alone, err := l.use.try(syscall.LOCK_EX)
	if err != nil {
		return server{}, false, err
	}
	s, err := l.home.probe()
	if err != nil {
		return server{}, false, err
	}
	if alone && s.alive {
		if err := l.home.stop(ctx, s); err != nil {
			return server{}, false, err
		}
	}
	if err := l.use.take(ctx, syscall.LOCK_SH); err != nil {
		return server{}, false, err
	}
	if !alone {
		return server{}, false, fmt.Errorf("%w (process %d, folder %s), and other commands use it", errUnreachable, s.pid, s.socket)
	}
	return o.ensure(ctx, l.home)
}

// URL returns the connection URL. It holds the password: it must not be logged.
func (l *Lease) URL() string { return l.url }

// Started tells whether Acquire started the server; else it was running.
func (l *Lease) Started() bool { return l.started }

// Release ends the lease. If no other command has one, and Keep was not called, it stops the server and waits for its
// end. Connections should be closed before. Further calls return what the first one did.
func (l *Lease) Release() error {
	l.once.Do(func() {
		l.err = l.release()
		if l.err != nil {
			l.err = fmt.Errorf("pgserver: release: %w", l.err)
		}
	})
	return l.err
}

func (l *Lease) release() error {
	alone, err := l.use.try(syscall.LOCK_EX)
	if alone && !l.home.kept() {
		var s server
		if s, err = l.home.probe(); err == nil && s.alive {
			err = l.home.stop(context.Background(), s) // has its own deadlines
		}
	}
	if cerr := l.use.close(); err == nil {
		err = cerr
	}
	return err
}

// Status is what GetStatus sees.
type Status struct {
	Running bool   // a server of this home runs and accepts connections
	Kept    bool   // it stays when no command uses it
	PID     int    // its process; 0: none
	Version string // the major version of PostgreSQL that made the cluster; "": there is none
	Home    string
	Data    string // the cluster's directory
	Socket  string // the folder of the socket, of the running server or else of one started now
	Log     string // the server's log
}

// GetStatus looks at the server of a home. It takes no lock and changes nothing.
func GetStatus(home string) (Status, error) {
	home, err := absolute(home)
	if err != nil {
		return Status{}, err
	}
	l := layout(home)
	st := Status{Kept: l.kept(), Home: home, Data: l.data(), Log: l.log()}
	if a, err := serverAccount(l); err == nil {
		st.Socket = l.socketDir(a)
	}
	s, err := l.probe()
	if err != nil {
		return st, fmt.Errorf("pgserver: status: %w", err)
	}
	if s.alive || s.usable() {
		st.PID = s.pid
		st.Running = s.usable()
		if s.socket != "" {
			st.Socket = s.socket
		}
	}
	major, err := l.dataMajor()
	if err != nil {
		return st, fmt.Errorf("pgserver: status: %w", err)
	}
	if major != 0 {
		st.Version = strconv.Itoa(major)
	}
	return st, nil
}

// startError puts the package and the verb before an error, once.
func startError(err error) error {
	if strings.HasPrefix(err.Error(), "pgserver: ") {
		return err
	}
	return fmt.Errorf("pgserver: start: %w", err)
}
