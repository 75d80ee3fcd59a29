// Package store is all of Dhalion's SQL. PostgreSQL is the one store and the
// truth: histories as segments, findings, plans with their approvals and
// states, leases, the journal, outcomes, incidents and the log.
//
// No decision in it depends on the database's clock: where time decides, it is
// passed in. Every method is one transaction.
package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Options says how Open treats a database with an older schema.
type Options struct {
	Migrate bool // bring it up to date instead of refusing it with *OlderError
}

// Store is a pool of connections to one Dhalion database. It is safe for use by
// several goroutines at once.
type Store struct {
	pool   *pgxpool.Pool
	untidy bool // leave the merging of small segments to Compact; for tests
}

// statementTimeout bounds every statement of a connection whose server or user
// set no bound, so that a query gone wrong does not hold a worker for ever.
// Ingests and migrations, whose statements wait for one another, lift it.
const statementTimeout = 10 * time.Minute

// Open connects to the database of a URL ("postgres://…") or of a list of
// key=value pairs. A schema without Dhalion's tables is initialised, whatever
// the options say; several commands may do that at once. It returns *NewerError
// for a schema that a newer program made and *OlderError for one that must be
// migrated first. No error contains the password.
func Open(ctx context.Context, url string, opts Options) (*Store, error) {
	return open(ctx, url, opts, embedded)
}

func open(ctx context.Context, url string, opts Options, schema schema) (*Store, error) {
	config, err := parse(url)
	if err != nil {
		return nil, err
	}
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("store: open database: %w", err)
	}
	if err := prepare(ctx, pool, opts, schema); err != nil {
		pool.Close()
		return nil, err
	}
	return &Store{pool: pool}, nil
}

// Close gives the connections back. It waits for those that are in use.
func (s *Store) Close() { s.pool.Close() }

// parse reads a URL or key=value list.
func parse(url string) (*pgxpool.Config, error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("store: open database: the database URL cannot be read%s; it is postgres://USER:PASSWORD@HOST:PORT/DATABASE or key=value pairs", parseReason(err))
	}
	if strings.Contains(config.ConnConfig.Host+config.ConnConfig.Database, "@") {
		// A password with a bare @ or / has spilled into its neighbours, and every
		// error of the connection would show it.
		return nil, errors.New("store: open database: the host or database of the URL contains @: write @, / and : in a password as %40, %2F and %3A")
	}
	if config.ConnConfig.RuntimeParams["application_name"] == "" {
		config.ConnConfig.RuntimeParams["application_name"] = "dhalion"
	}
	config.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		conn.TypeMap().RegisterType(&pgtype.Type{
			Name: "timestamptz", OID: pgtype.TimestamptzOID, Codec: &pgtype.TimestamptzCodec{ScanLocation: time.UTC},
		})
		// Set by statements and not as start-up parameters, of which connection
		// poolers allow only a few.
		_, err := conn.Exec(ctx, `
			SELECT set_config('TimeZone', 'UTC', false),
			       CASE WHEN current_setting('statement_timeout') = '0' THEN set_config('statement_timeout', $1, false) END`,
			fmt.Sprint(statementTimeout.Milliseconds()))
		return err
	}
	return config, nil
}

// parseReason is why a URL cannot be read, without any part of it: a malformed
// URL has its password where no pattern finds it.
func parseReason(err error) string {
	var parse *pgconn.ParseConfigError
	if !errors.As(err, &parse) {
		return ""
	}
	bare := *parse
	bare.ConnString = ""
	// What is left is "cannot parse ``: REASON (DETAIL)", and the detail may
	// quote the URL again.
	_, reason, _ := strings.Cut(bare.Error(), ": ")
	reason, _, _ = strings.Cut(reason, " (")
	return ": " + reason
}

// inTx runs f in a transaction: all of it or nothing.
func (s *Store) inTx(ctx context.Context, f func(pgx.Tx) error) error {
	return pgx.BeginFunc(ctx, s.pool, f)
}

// reading are the options of a transaction that reads several tables as they
// were at one moment.
var reading = pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}

// micros is a time as PostgreSQL keeps it.
func micros(at time.Time) time.Time { return at.UTC().Truncate(time.Microsecond) }
