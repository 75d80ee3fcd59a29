package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"

	"github.com/dhalion-go/dhalion/internal/store"
)

func (a *app) dbBackup() *cobra.Command {
	return &cobra.Command{
		Use:   "backup FILE",
		Short: "Write everything that the database has to a file",
		Long: `Write everything that the database has, as it is at one moment, to a file: histories,
plans, approvals, the log. Ingests and plans go on meanwhile. The file is there when it is
whole, and only its owner can read it. It needs none of PostgreSQL's own tools, and works
on a database of an older schema, too, before a migration.`,
		Example: "  dhalion db backup dhalion.backup",
		Args:    one("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withURL(cmd.Context(), func(ctx context.Context, url string, _ bool) error {
				bar := a.bytesWritten("backup")
				var rep store.BackupReport
				err := writeWhole(args[0], func(w io.Writer) (err error) {
					rep, err = store.Backup(ctx, url, io.MultiWriter(w, bar), a.now())
					return err
				})
				if err = errors.Join(err, bar.Close()); err != nil {
					return cause(ctx, err)
				}
				if a.json() {
					return a.writeJSON(rep)
				}
				a.backupText("Backed up to "+args[0], rep)
				return nil
			})
		},
	}
}

func (a *app) dbRestore() *cobra.Command {
	force := false
	c := &cobra.Command{
		Use:   "restore FILE",
		Short: "Bring a backup back",
		Long: `Bring a backup back into an empty database, or with --force in the place of everything
that the database has. It is all one transaction, and every count and digest is checked
before its end: a broken file changes nothing. A backup of an older schema is brought to
this program's.`,
		Example: "  dhalion db restore dhalion.backup\n  dhalion db restore dhalion.backup --force",
		Args:    one("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := os.Open(args[0])
			if err != nil {
				return fmt.Errorf("restore: %w", err)
			}
			defer f.Close()
			info, err := f.Stat()
			if err != nil {
				return fmt.Errorf("restore: %w", err)
			}
			return a.withURL(cmd.Context(), func(ctx context.Context, url string, _ bool) error {
				bar := a.progress("restore", info.Size())
				rep, err := store.Restore(ctx, url, io.TeeReader(&watched{ctx, f}, bar), store.RestoreOptions{Force: force})
				err = errors.Join(err, bar.Close())
				var full *store.NotEmptyError
				if errors.As(err, &full) {
					return hinted(err, "make a backup of it, then replace everything in it: add --force")
				}
				if err != nil {
					return cause(ctx, err)
				}
				if a.json() {
					return a.writeJSON(rep)
				}
				a.backupText("Restored from "+args[0], rep)
				return nil
			})
		},
	}
	c.Flags().BoolVar(&force, "force", false, "replace everything in the database")
	return c
}

func (a *app) backupText(what string, rep store.BackupReport) {
	a.printf("%s, as of %s, schema version %d.\n", what, when(rep.At), rep.Schema)
	t := &table{head: []string{"table", ">rows"}}
	for _, name := range slices.Sorted(maps.Keys(rep.Rows)) {
		t.add(name, count(int(rep.Rows[name])))
	}
	a.table("  ", t)
}

// bytesWritten shows, on a terminal, how much has been written: how much is to
// come nobody knows.
func (a *app) bytesWritten(what string) io.WriteCloser {
	if _, ok := terminal(a.err); !ok {
		return silent{}
	}
	return progressbar.NewOptions64(-1,
		progressbar.OptionSetWriter(a.err),
		progressbar.OptionSetDescription(what),
		progressbar.OptionShowBytes(true),
		progressbar.OptionThrottle(100*time.Millisecond),
		progressbar.OptionClearOnFinish())
}

// writeWhole writes a file that is there whole or not at all, also when the
// machine stops, and that only its owner can read.
func writeWhole(path string, write func(io.Writer) error) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+"-*.tmp") // makes it 0600
	if err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	if err = write(f); err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	return errors.Join(d.Sync(), d.Close())
}
