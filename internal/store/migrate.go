package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"

	"github.com/dhalion-go/dhalion/migrations"
)

// versionTable is where goose keeps which migrations a schema has seen.
const versionTable = "dhalion_schema_version"

// schema is a set of migrations; tests bring their own.
type schema struct{ files fs.FS }

var embedded = schema{migrations.FS}

// newest is the version that a program with these migrations works with.
func (s schema) newest() (int64, error) {
	names, err := fs.Glob(s.files, "*.sql")
	if err != nil {
		return 0, fmt.Errorf("store: list migrations: %w", err)
	}
	var newest int64
	for _, name := range names {
		version, err := goose.NumericComponent(name)
		if err != nil {
			return 0, fmt.Errorf("store: list migrations: %s: %w", name, err)
		}
		newest = max(newest, version)
	}
	return newest, nil
}

// Versions are the schema's version in a database (0: nothing of Dhalion's is in
// it) and the one that this program works with.
type Versions struct {
	Database int64 `json:"database"`
	Program  int64 `json:"program"`
}

// Version reads the versions and changes nothing.
func Version(ctx context.Context, url string) (Versions, error) {
	var v Versions
	err := onConn(ctx, url, func(conn *pgx.Conn) (err error) {
		if v.Program, err = embedded.newest(); err != nil {
			return err
		}
		v.Database, err = version(ctx, conn)
		return err
	})
	return v, err
}

// Migrate brings a schema up to this program's version and returns the versions
// before and after. It returns *NewerError for a schema of a newer program.
func Migrate(ctx context.Context, url string) (before, after int64, err error) {
	return migrate(ctx, url, embedded, -1)
}

// MigrateTo brings a schema to a version, up or down. Going down destroys what
// the older schema has no place for; version 0 destroys everything.
func MigrateTo(ctx context.Context, url string, target int64) (before, after int64, err error) {
	if target < 0 {
		return 0, 0, fmt.Errorf("store: migrate: no version %d", target)
	}
	return migrate(ctx, url, embedded, target)
}

// migrate goes to a version; -1 is the newest.
func migrate(ctx context.Context, url string, schema schema, target int64) (before, after int64, err error) {
	newest, err := schema.newest()
	if err != nil {
		return 0, 0, err
	}
	if target < 0 {
		target = newest
	}
	if target > newest {
		return 0, 0, fmt.Errorf("store: migrate: this program knows no version %d, only up to %d", target, newest)
	}
	err = onConn(ctx, url, func(conn *pgx.Conn) error {
		return locked(ctx, conn, func() error {
			if before, err = version(ctx, conn); err != nil {
				return err
			}
			if before > newest {
				return &NewerError{Database: before, Program: newest}
			}
			if before == 0 && target > 0 {
				if err := checkEncoding(ctx, conn); err != nil {
					return err
				}
			}
			if err := schema.run(ctx, conn.Config(), before, target); err != nil {
				return err
			}
			after, err = version(ctx, conn)
			return err
		})
	})
	return before, after, err
}

// prepare makes sure that the schema is the one that this program works with.
func prepare(ctx context.Context, pool *pgxpool.Pool, opts Options, schema schema) error {
	newest, err := schema.newest()
	if err != nil {
		return err
	}
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("store: open database: %w", err)
	}
	defer conn.Release()
	have, err := version(ctx, conn.Conn())
	if err != nil {
		return err
	}
	if have == newest {
		return nil
	}
	// Another command may be at it this moment: look again under the lock.
	return locked(ctx, conn.Conn(), func() error {
		have, err := version(ctx, conn.Conn())
		switch {
		case err != nil:
			return err
		case have > newest:
			return &NewerError{Database: have, Program: newest}
		case have == newest:
			return nil
		case have > 0 && !opts.Migrate:
			return &OlderError{Database: have, Program: newest}
		}
		if err := checkEncoding(ctx, conn.Conn()); err != nil {
			return err
		}
		return schema.run(ctx, conn.Conn().Config(), have, newest)
	})
}

// run lets goose go from one version to another, over a connection of its own.
// The caller holds the lock.
func (s schema) run(ctx context.Context, config *pgx.ConnConfig, from, to int64) error {
	db := stdlib.OpenDB(*config, stdlib.OptionAfterConnect(func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, `SET statement_timeout = 0`) // a migration takes as long as it takes
		return err
	}))
	defer db.Close()
	provider, err := goose.NewProvider(goose.DialectPostgres, db, s.files,
		goose.WithTableName(versionTable), goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return fmt.Errorf("store: migrate: %w", err)
	}
	if to >= from {
		_, err = provider.UpTo(ctx, to)
	} else {
		_, err = provider.DownTo(ctx, to)
	}
	if err != nil {
		return fmt.Errorf("store: migrate from version %d to %d: %w", from, to, err)
	}
	return nil
}

// version is the schema's version; 0 when it has none of our tables.
func version(ctx context.Context, conn *pgx.Conn) (int64, error) {
	var current *string
	var exists bool
	err := conn.QueryRow(ctx, `
		SELECT current_schema(), EXISTS (SELECT FROM pg_tables WHERE schemaname = current_schema() AND tablename = $1)`,
		versionTable).Scan(&current, &exists)
	if err != nil {
		return 0, fmt.Errorf("store: read schema version: %w", err)
	}
	if current == nil {
		return 0, errors.New("store: read schema version: search_path names no schema that exists")
	}
	if !exists {
		return 0, nil
	}
	var have sql.NullInt64
	if err := conn.QueryRow(ctx, `SELECT max(version_id) FROM `+versionTable+` WHERE is_applied`).Scan(&have); err != nil {
		return 0, fmt.Errorf("store: read schema version: %w", err)
	}
	return have.Int64, nil
}

// checkEncoding refuses a database that cannot hold every name a user may give.
func checkEncoding(ctx context.Context, conn *pgx.Conn) error {
	var encoding string
	if err := conn.QueryRow(ctx, `SELECT current_setting('server_encoding')`).Scan(&encoding); err != nil {
		return fmt.Errorf("store: read encoding: %w", err)
	}
	if encoding != "UTF8" {
		return fmt.Errorf("store: open database: its encoding is %s: make one with CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0", encoding)
	}
	return nil
}

// locked runs f while no other command migrates this schema. The lock is the
// session's: a command that is killed gives it back. It is ours and not goose's,
// which asks every five seconds instead of waiting.
func locked(ctx context.Context, conn *pgx.Conn, f func() error) (err error) {
	// The space of advisory locks is the database's; several schemas in it must
	// not wait for each other.
	const key = `hashtext('dhalion migrate ' || current_schema())`
	var timeout string
	if err := conn.QueryRow(ctx, `SELECT current_setting('statement_timeout')`).Scan(&timeout); err != nil {
		return fmt.Errorf("store: lock schema: %w", err)
	}
	if _, err := conn.Exec(ctx, `SELECT set_config('statement_timeout', '0', false)`); err != nil {
		return fmt.Errorf("store: lock schema: %w", err)
	}
	if _, err := conn.Exec(ctx, `SELECT pg_advisory_lock(`+key+`)`); err != nil {
		return fmt.Errorf("store: lock schema: %w", err)
	}
	defer func() {
		// Also when ctx has ended: a connection that goes back to a pool must not
		// keep the lock.
		if _, e := conn.Exec(context.WithoutCancel(ctx), `
			SELECT pg_advisory_unlock(`+key+`), set_config('statement_timeout', $1, false)`, timeout); e != nil && err == nil {
			err = fmt.Errorf("store: unlock schema: %w", e)
		}
	}()
	return f()
}

// onConn runs f on a connection of its own.
func onConn(ctx context.Context, url string, f func(*pgx.Conn) error) error {
	config, err := parse(url)
	if err != nil {
		return err
	}
	conn, err := pgx.ConnectConfig(ctx, config.ConnConfig)
	if err != nil {
		return fmt.Errorf("store: open database: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return f(conn)
}
