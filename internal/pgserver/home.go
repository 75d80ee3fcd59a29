package pgserver

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// Home returns the directory that a private server lives in: $DHALION_HOME, else /var/lib/dhalion for root, else
// dhalion in the XDG data directory. The result is absolute; nothing is created.
func Home(getenv func(string) string) (string, error) {
	if h := getenv("DHALION_HOME"); h != "" {
		return absolute(h)
	}
	if os.Geteuid() == 0 {
		return "/var/lib/dhalion", nil
	}
	// The XDG specification says to ignore a relative path.
	if x := getenv("XDG_DATA_HOME"); filepath.IsAbs(x) {
		return filepath.Join(x, "dhalion"), nil
	}
	if h := getenv("HOME"); filepath.IsAbs(h) {
		return filepath.Join(h, ".local", "share", "dhalion"), nil
	}
	return "", errors.New("pgserver: home: none of DHALION_HOME, XDG_DATA_HOME and HOME is set to a directory")
}

func absolute(home string) (string, error) {
	if home == "" {
		return "", errors.New("pgserver: home: the path is empty")
	}
	abs, err := filepath.Abs(home)
	if err != nil {
		return "", fmt.Errorf("pgserver: home: %w", err)
	}
	return abs, nil
}

// layout names the files of a home. Its string is the home's absolute path.
type layout string

func (l layout) data() string     { return filepath.Join(string(l), "data") }
func (l layout) run() string      { return filepath.Join(string(l), "run") }
func (l layout) log() string      { return filepath.Join(string(l), "log") }
func (l layout) pgpass() string   { return filepath.Join(string(l), "pgpass") }
func (l layout) use() string      { return filepath.Join(string(l), "use") }
func (l layout) start() string    { return filepath.Join(string(l), "start") }
func (l layout) keep() string     { return filepath.Join(string(l), "keep") }
func (l layout) stopping() string { return filepath.Join(string(l), "stopping") }
func (l layout) pidfile() string  { return filepath.Join(l.data(), "postmaster.pid") }

const (
	port = "5432" // no TCP; the port is only part of the socket's name

	// A socket's path has room for 108 bytes on Linux and 104 on macOS, both with a final NUL. 90 leaves some for the
	// names that the server puts beside it.
	maxSocketPath = 90
)

// fitsSocket also refuses a comma: libpq and pgx take it for the end of one host's name and the begin of the next.
func fitsSocket(dir string) bool {
	return len(socketFile(dir)) <= maxSocketPath && !strings.Contains(dir, ",")
}

func socketFile(dir string) string { return filepath.Join(dir, ".s.PGSQL."+port) }

// socketDir is where a server of this home, started now, puts its socket. A running server may have put it elsewhere,
// because another command had another TMPDIR; its postmaster.pid tells.
func (l layout) socketDir(u account) string {
	if fitsSocket(l.run()) {
		return l.run()
	}
	sum := sha256.Sum256([]byte(l))
	// The user is in the name so that two users of one path (in two containers, say) do not meet in a shared /tmp.
	name := fmt.Sprintf("dhalion-%d-%s", u.uid, hex.EncodeToString(sum[:6]))
	dir := filepath.Join(os.TempDir(), name)
	if !fitsSocket(dir) || u.blockedBy(os.TempDir()) != "" {
		dir = filepath.Join("/tmp", name)
	}
	return dir
}

// create makes the home. Parents that root makes are open to enter whatever the umask says, because the server's own
// user has to pass through them to its data.
func (l layout) create() error {
	if fi, err := os.Stat(string(l)); err == nil {
		if !fi.IsDir() {
			return fmt.Errorf("%s is no directory", string(l))
		}
		return nil
	}
	if os.Geteuid() != 0 {
		return os.MkdirAll(string(l), 0o700)
	}
	return mkdirEnterable(string(l), 0o711)
}

func mkdirEnterable(dir string, mode os.FileMode) error {
	if fi, err := os.Stat(dir); err == nil {
		if !fi.IsDir() {
			return &os.PathError{Op: "mkdir", Path: dir, Err: syscall.ENOTDIR}
		}
		return nil
	}
	if err := mkdirEnterable(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	if err := os.Mkdir(dir, mode); err != nil {
		if errors.Is(err, os.ErrExist) {
			return nil
		}
		return err
	}
	return os.Chmod(dir, mode)
}

// openFile opens a file of the home for writing. It follows no symbolic link, and what root creates in the home of
// another user goes to that user, who could not use the home any more otherwise.
func (l layout) openFile(path string, flags int) (*os.File, error) {
	f, err := os.OpenFile(path, flags|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	if os.Geteuid() == 0 && flags&os.O_CREATE != 0 {
		uid, gid, err := owner(string(l))
		if err == nil && uid != 0 {
			err = f.Chown(uid, gid)
		}
		if err != nil {
			f.Close()
			return nil, err
		}
	}
	return f, nil
}

// writeFile replaces a file of the home at once: a reader sees the old bytes or the new ones.
func (l layout) writeFile(path, text string) error {
	tmp := fmt.Sprintf("%s.%d.tmp", path, os.Getpid())
	f, err := l.openFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		os.Remove(tmp)
	}
	return err
}

func owner(path string) (uid, gid int, err error) {
	fi, err := os.Stat(path)
	if err != nil {
		return 0, 0, err
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, 0, fmt.Errorf("%s has no owner", path)
	}
	return int(st.Uid), int(st.Gid), nil
}
