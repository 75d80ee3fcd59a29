package cluster

import (
	"archive/tar"
	"archive/zip"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// Default is the version of Flink that the lab runs.
const Default = "2.3.0"

// hashes are the SHA-256 of the packages of apache-flink-libraries on PyPI, by
// version. Those of Flink 1 have a source archive and no wheel.
var hashes = map[string]string{
	"2.3.0":  "38ece876553286b3a285cf344c2d2038f8a7ca10da5df54d5107250386d64151",
	"1.20.5": "e6aee62ea1a1fe7b32e28894ad079f3f1a50a372a4caac3df52405267f4228c8",
	"1.18.1": "369ce11ab33e5e15cdd349db2f5412dcc2fad163b6a87aa93b927a3631bcca7f",
}

// Distribution is an unpacked Flink: the folder with the jars that a cluster and
// the jobs need.
type Distribution struct {
	Version string
	Lib     string // folder
}

// Fetch unpacks a version of Flink into CACHE/flink/VERSION/lib and does nothing
// when it is there. The package comes from the folder that DHALION_FLINK_WHEELS
// names, if it is there, else from PyPI through pip, and is refused when its hash
// is not the one that is written down here. Several processes may ask at once.
func Fetch(ctx context.Context, cache, version string) (Distribution, error) {
	want, ok := hashes[version]
	if !ok {
		return Distribution{}, fmt.Errorf("cluster: fetch Flink %s: no hash of it is known", version)
	}
	dir := filepath.Join(cache, "flink", version)
	d := Distribution{version, filepath.Join(dir, "lib")}
	if _, err := os.Stat(d.Lib); err == nil {
		return d, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return d, fmt.Errorf("cluster: fetch Flink %s: %w", version, err)
	}
	unlock, err := lock(filepath.Join(dir, ".lock"))
	if err != nil {
		return d, fmt.Errorf("cluster: fetch Flink %s: %w", version, err)
	}
	defer unlock()
	if _, err := os.Stat(d.Lib); err == nil {
		return d, nil
	}
	if err := fetch(ctx, dir, version, want); err != nil {
		return d, fmt.Errorf("cluster: fetch Flink %s: %w", version, err)
	}
	return d, nil
}

func fetch(ctx context.Context, dir, version, want string) error {
	work, err := os.MkdirTemp(dir, "fetch-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	file := packageIn(os.Getenv("DHALION_FLINK_WHEELS"), version)
	if file == "" {
		if file, err = download(ctx, work, version, want); err != nil {
			return err
		}
	}
	if err := checkHash(file, want); err != nil {
		return err
	}
	lib := filepath.Join(work, "lib")
	if err := os.Mkdir(lib, 0o755); err != nil {
		return err
	}
	if strings.HasSuffix(file, ".whl") {
		err = unzip(file, lib)
	} else {
		err = untar(file, lib)
	}
	if err != nil {
		return err
	}
	return os.Rename(lib, filepath.Join(dir, "lib"))
}

// packageIn is the package of a version in a folder; empty when there is none.
func packageIn(dir, version string) string {
	if dir == "" {
		return ""
	}
	for _, name := range []string{"apache_flink_libraries-" + version + "-*.whl", "apache?flink?libraries-" + version + ".tar.gz"} {
		if found, err := filepath.Glob(filepath.Join(dir, name)); err == nil && len(found) > 0 {
			return found[0]
		}
	}
	return ""
}

func download(ctx context.Context, to, version, want string) (file string, err error) {
	requirement := filepath.Join(to, "requirements.txt")
	line := fmt.Sprintf("apache-flink-libraries==%s --hash=sha256:%s\n", version, want)
	if err := os.WriteFile(requirement, []byte(line), 0o644); err != nil {
		return "", err
	}
	pip := exec.CommandContext(ctx, "python3", "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
		"--require-hashes", "--requirement", requirement, "--dest", to)
	if out, err := pip.CombinedOutput(); err != nil {
		return "", fmt.Errorf("pip download: %w: %s", err, strings.TrimSpace(string(out)))
	}
	if file = packageIn(to, version); file == "" {
		return "", fmt.Errorf("pip download left no package of %s", version)
	}
	return file, nil
}

func lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() { _ = f.Close() }, nil
}

func checkHash(path, want string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return err
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != want {
		return fmt.Errorf("%s has the SHA-256 %s, not %s", filepath.Base(path), got, want)
	}
	return nil
}

// wanted is the name under which a file of the package is kept: the jars of
// lib/ that a DataStream job and the processes need.
func wanted(name string) (string, bool) {
	dir, base := filepath.Split(name)
	if filepath.Base(filepath.Clean(dir)) != "lib" || !strings.HasSuffix(base, ".jar") {
		return "", false
	}
	for _, prefix := range []string{"flink-dist", "log4j-", "flink-connector-files"} {
		if strings.HasPrefix(base, prefix) {
			return base, true
		}
	}
	return "", false
}

func unzip(path, to string) error {
	z, err := zip.OpenReader(path)
	if err != nil {
		return err
	}
	defer z.Close()
	for _, f := range z.File {
		name, ok := wanted(f.Name)
		if !ok {
			continue
		}
		in, err := f.Open()
		if err != nil {
			return err
		}
		err = save(filepath.Join(to, name), in)
		if err := errors.Join(err, in.Close()); err != nil {
			return err
		}
	}
	return nil
}

func untar(path, to string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return err
	}
	for t := tar.NewReader(z); ; {
		h, err := t.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if name, ok := wanted(h.Name); ok && h.Typeflag == tar.TypeReg {
			if err := save(filepath.Join(to, name), t); err != nil {
				return err
			}
		}
	}
}

func save(path string, from io.Reader) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, from)
	return errors.Join(err, f.Close())
}

// classPath is the jars, for java and javac.
func (d Distribution) classPath() (string, error) {
	jars, err := filepath.Glob(filepath.Join(d.Lib, "*.jar"))
	if err != nil || len(jars) == 0 {
		return "", fmt.Errorf("cluster: Flink %s: no jars in %s", d.Version, d.Lib)
	}
	return strings.Join(jars, string(os.PathListSeparator)), nil
}
