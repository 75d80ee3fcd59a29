package pgserver

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	embeddedpostgres "github.com/fergusstrange/embedded-postgres"
)

const downloadTimeout = 10 * time.Minute

func downloadVersion(major int) (embeddedpostgres.PostgresVersion, bool) {
	switch major {
	case 0:
		return downloadVersion(downloadMajor)
	case 14:
		return embeddedpostgres.V14, true
	case 15:
		return embeddedpostgres.V15, true
	case 16:
		return embeddedpostgres.V16, true
	case 17:
		return embeddedpostgres.V17, true
	case 18:
		return embeddedpostgres.V18, true
	}
	return "", false
}

// cacheDir is where downloaded binaries live: outside of the home, because all homes can share them, and they can be
// downloaded again.
func (o Options) cacheDir(l layout) string {
	if o.cache != "" {
		return o.cache
	}
	if os.Geteuid() == 0 {
		return "/var/cache/dhalion/postgres" // root's own cache is closed to the server's user
	}
	if dir, err := os.UserCacheDir(); err == nil && filepath.IsAbs(dir) {
		return filepath.Join(dir, "dhalion", "postgres")
	}
	return filepath.Join(string(l), "postgres")
}

// downloaded returns binaries of the major version (0: any) from the cache, and fills it first if need be.
func (o Options) downloaded(ctx context.Context, l layout, a account, major int) (binaries, error) {
	version, ok := downloadVersion(major)
	if !ok {
		return binaries{}, fmt.Errorf("PostgreSQL %d is not among those that can be downloaded", major)
	}
	cache := o.cacheDir(l)
	dir := filepath.Join(cache, string(version))
	bin := filepath.Join(dir, "bin")
	if havePrograms(bin) == nil {
		return inspectExactly(ctx, bin, a)
	}
	if err := mkdirEnterable(cache, 0o755); err != nil {
		return binaries{}, err
	}
	lock, err := layout(cache).openLock(filepath.Join(cache, "lock"))
	if err != nil {
		return binaries{}, err
	}
	defer lock.close()
	if err := lock.take(ctx, syscall.LOCK_EX); err != nil {
		return binaries{}, err
	}
	if havePrograms(bin) == nil { // another command was faster
		return inspectExactly(ctx, bin, a)
	}
	old, err := filepath.Glob(filepath.Join(cache, "tmp-*"))
	if err != nil {
		return binaries{}, err
	}
	for _, path := range old {
		_ = os.RemoveAll(path) // a killed download's; it only takes space
	}
	tmp, err := os.MkdirTemp(cache, "tmp-")
	if err != nil {
		return binaries{}, err
	}
	defer os.RemoveAll(tmp)
	o.notify("downloading PostgreSQL %s into %s (about 15 MB, once)", version, cache)
	unpacked := filepath.Join(tmp, "postgres")
	if err := fetch(ctx, version, tmp, unpacked); err != nil {
		return binaries{}, fmt.Errorf("download PostgreSQL %s: %w", version, err)
	}
	if err := openToRead(unpacked); err != nil {
		return binaries{}, err
	}
	// Half a directory would be taken for a whole one.
	if err := os.RemoveAll(dir); err != nil {
		return binaries{}, err
	}
	if err := os.Rename(unpacked, dir); err != nil {
		return binaries{}, err
	}
	return inspectExactly(ctx, bin, a)
}

// fetch has embedded-postgres download, check and unpack the binaries. Its only entry goes on to run initdb and the
// server, over TCP and not as root. So it is shown a cluster that holds nothing but its version: it skips initdb, its
// start fails at once for want of a configuration, and by then the binaries are there.
func fetch(ctx context.Context, version embeddedpostgres.PostgresVersion, tmp, unpacked string) error {
	data := filepath.Join(tmp, "data")
	if err := os.Mkdir(data, 0o700); err != nil {
		return err
	}
	major, _, _ := strings.Cut(string(version), ".")
	if err := os.WriteFile(filepath.Join(data, "PG_VERSION"), []byte(major+"\n"), 0o600); err != nil {
		return err
	}
	config := embeddedpostgres.DefaultConfig().Version(version).CachePath(tmp).BinariesPath(unpacked)
	config = config.RuntimePath(filepath.Join(tmp, "run")).DataPath(data).Logger(io.Discard)
	config = config.Port(0) // it wants to see a free port, and 0 always is
	if url := os.Getenv("DHALION_POSTGRES_REPOSITORY"); url != "" {
		config = config.BinaryRepositoryURL(strings.TrimRight(url, "/"))
	}
	ctx, cancel := context.WithTimeout(ctx, downloadTimeout)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		// It panics if its temporary files vanish, as they do when the context ends first.
		defer func() {
			if p := recover(); p != nil {
				done <- fmt.Errorf("%v", p)
			}
		}()
		done <- embeddedpostgres.NewDatabase(config).Start()
	}()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case err := <-done:
		// Any other failure comes before the unpacking has ended.
		if err != nil && !strings.HasPrefix(err.Error(), "could not start postgres") {
			return err
		}
	}
	return havePrograms(filepath.Join(unpacked, "bin"))
}

// openToRead lets everybody read and enter, whatever root's umask was: the server's user is another.
func openToRead(dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Type()&fs.ModeSymlink != 0 {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		mode := fi.Mode().Perm() | 0o444
		if d.IsDir() || mode&0o100 != 0 {
			mode |= 0o111
		}
		return os.Chmod(path, mode)
	})
}
