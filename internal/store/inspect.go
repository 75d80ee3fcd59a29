package store

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Inspection is what a database says of itself.
type Inspection struct {
	Versions Versions
	Server   string            // PostgreSQL's version, as "15.18"
	Settings map[string]string // those that decide whether what was reported as stored stays: see Durable
	Size     int64             // bytes of the whole database
	Clock    time.Time         // the server's, at a moment from Asked to Answered
	Asked    time.Time
	Answered time.Time
}

// Durable are the settings without which a crash of the machine can lose or break
// what was stored. synchronous_commit may be anything but off.
var Durable = []string{"fsync", "full_page_writes", "synchronous_commit"}

// Inspect asks a database about itself and changes nothing. now is the clock that
// the server's is compared with.
func Inspect(ctx context.Context, url string, now func() time.Time) (Inspection, error) {
	in := Inspection{Settings: map[string]string{}}
	err := onConn(ctx, url, func(conn *pgx.Conn) (err error) {
		if in.Versions.Program, err = embedded.newest(); err != nil {
			return err
		}
		if in.Versions.Database, err = version(ctx, conn); err != nil {
			return err
		}
		for _, name := range Durable {
			var value string
			if err := conn.QueryRow(ctx, `SELECT current_setting($1)`, name).Scan(&value); err != nil {
				return fmt.Errorf("store: inspect database: %w", err)
			}
			in.Settings[name] = value
		}
		if err := conn.QueryRow(ctx, `SELECT current_setting('server_version'), pg_database_size(current_database())`).Scan(&in.Server, &in.Size); err != nil {
			return fmt.Errorf("store: inspect database: %w", err)
		}
		in.Asked = now()
		if err := conn.QueryRow(ctx, `SELECT clock_timestamp()`).Scan(&in.Clock); err != nil {
			return fmt.Errorf("store: inspect database: %w", err)
		}
		in.Answered = now()
		return nil
	})
	return in, err
}
