package store

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Bounds on what is read from a database that is not ours.
const (
	maxAutoscalerJobs    = 10_000
	maxAutoscalerEvents  = 1_000
	maxAutoscalerMessage = 4_096 // characters
)

// Autoscaler is the database of a Flink autoscaler, which has two tables for all
// jobs. It is read in one read-only transaction, as it was when it was opened, and
// never written. It is not safe for use by several goroutines at once.
type Autoscaler struct {
	conn *pgx.Conn
	tx   pgx.Tx
	name string
}

// AutoscalerJob is a job in the autoscaler's database and what there is of it.
type AutoscalerJob struct {
	Key    string            `json:"job"`    // the autoscaler's name of the job: Flink's id of the run, as a rule
	States []AutoscalerState `json:"states"` // by type
	Events int               `json:"events"`
}

// AutoscalerState is one state of a job.
type AutoscalerState struct {
	Type  string `json:"type"`
	Bytes int    `json:"bytes"`
	Value string `json:"-"` // of State; empty when it is longer than was asked for
}

// AutoscalerEvent is something that the autoscaler told of a job. Its time has no
// zone in the database: it is that of the autoscaler's clock, taken for UTC.
type AutoscalerEvent struct {
	ID      int64
	Created time.Time
	Reason  string
	Type    string // Normal or Warning
	Message string // at most 4,096 characters
	Count   int    // how often it came
}

// OpenAutoscaler connects to the database of a URL or of a list of key=value
// pairs. No error contains the password.
func OpenAutoscaler(ctx context.Context, url string) (*Autoscaler, error) {
	config, err := parse(url)
	if err != nil {
		return nil, err
	}
	conn, err := pgx.ConnectConfig(ctx, config.ConnConfig)
	if err != nil {
		return nil, fmt.Errorf("store: open the autoscaler's database: %w", err)
	}
	a := &Autoscaler{conn: conn, name: net.JoinHostPort(config.ConnConfig.Host, strconv.Itoa(int(config.ConnConfig.Port))) + "/" + config.ConnConfig.Database}
	if a.tx, err = conn.BeginTx(ctx, reading); err == nil {
		// A statement of ours must not hold the autoscaler up, nor wait for it.
		_, err = a.tx.Exec(ctx, `SELECT set_config('TimeZone', 'UTC', true), set_config('statement_timeout', '60s', true), set_config('lock_timeout', '5s', true)`)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("store: open the autoscaler's database: %w", err), conn.Close(ctx))
	}
	return a, nil
}

// Name is the database without credentials: HOST:PORT/DATABASE.
func (a *Autoscaler) Name() string { return a.name }

// Close ends the transaction and the connection.
func (a *Autoscaler) Close(ctx context.Context) error {
	return a.conn.Close(context.WithoutCancel(ctx))
}

// Jobs lists the jobs, by key; with a key only that one. It is *NotFoundError when
// there is none of that key. A database without the table of events has none.
func (a *Autoscaler) Jobs(ctx context.Context, key string) ([]AutoscalerJob, error) {
	rows, err := a.tx.Query(ctx, `
		SELECT job_key, state_type, octet_length(state_value) FROM t_flink_autoscaler_state_store
		WHERE $1 = '' OR job_key = $1 ORDER BY job_key COLLATE "C", state_type COLLATE "C" LIMIT $2`, key, maxAutoscalerJobs*10)
	if err != nil {
		return nil, a.failed("list its jobs", err)
	}
	var list []AutoscalerJob
	at := map[string]int{}
	job := func(key string) *AutoscalerJob {
		i, ok := at[key]
		if !ok {
			i = len(list)
			at[key] = i
			list = append(list, AutoscalerJob{Key: key, States: []AutoscalerState{}})
		}
		return &list[i]
	}
	var k string
	var s AutoscalerState
	if _, err := pgx.ForEachRow(rows, []any{&k, &s.Type, &s.Bytes}, func() error {
		j := job(k)
		j.States = append(j.States, s)
		return nil
	}); err != nil {
		return nil, a.failed("list its jobs", err)
	}
	there, err := a.hasEvents(ctx)
	if err != nil {
		return nil, err
	}
	if there {
		if rows, err = a.tx.Query(ctx, `
			SELECT job_key, count(*) FROM t_flink_autoscaler_event_handler
			WHERE $1 = '' OR job_key = $1 GROUP BY job_key ORDER BY job_key COLLATE "C" LIMIT $2`, key, maxAutoscalerJobs); err != nil {
			return nil, a.failed("count its events", err)
		}
		var n int
		if _, err := pgx.ForEachRow(rows, []any{&k, &n}, func() error { job(k).Events = n; return nil }); err != nil {
			return nil, a.failed("count its events", err)
		}
	}
	if key != "" && len(list) == 0 {
		return nil, &NotFoundError{What: "job in the autoscaler's state", Ref: key}
	}
	if len(list) > maxAutoscalerJobs {
		return nil, fmt.Errorf("store: the autoscaler's database %s: it has more than %d jobs: name one with --job", a.name, maxAutoscalerJobs)
	}
	return list, nil
}

// State reads one state of a job. One of more than limit bytes has no value.
func (a *Autoscaler) State(ctx context.Context, key, kind string, limit int) (AutoscalerState, error) {
	s := AutoscalerState{Type: kind}
	err := a.tx.QueryRow(ctx, `
		SELECT octet_length(state_value), CASE WHEN octet_length(state_value) <= $3 THEN state_value ELSE '' END
		FROM t_flink_autoscaler_state_store WHERE job_key = $1 AND state_type = $2`, key, kind, limit).Scan(&s.Bytes, &s.Value)
	if err != nil {
		return s, a.failed("read "+kind, err)
	}
	return s, nil
}

// Events reads the newest 1,000 events of a job, oldest first.
func (a *Autoscaler) Events(ctx context.Context, key string) ([]AutoscalerEvent, error) {
	if there, err := a.hasEvents(ctx); err != nil || !there {
		return nil, err
	}
	rows, err := a.tx.Query(ctx, `
		SELECT * FROM (
			SELECT id, create_time::timestamptz, reason, event_type, left(message, $3), event_count
			FROM t_flink_autoscaler_event_handler WHERE job_key = $1 ORDER BY create_time DESC, id DESC LIMIT $2) newest
		ORDER BY 2, 1`, key, maxAutoscalerEvents, maxAutoscalerMessage)
	if err != nil {
		return nil, a.failed("read its events", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (e AutoscalerEvent, err error) {
		err = row.Scan(&e.ID, &e.Created, &e.Reason, &e.Type, &e.Message, &e.Count)
		e.Created = e.Created.UTC()
		return e, err
	})
	if err != nil {
		return nil, a.failed("read its events", err)
	}
	return list, nil
}

func (a *Autoscaler) hasEvents(ctx context.Context) (there bool, err error) {
	if err = a.tx.QueryRow(ctx, `SELECT to_regclass('t_flink_autoscaler_event_handler') IS NOT NULL`).Scan(&there); err != nil {
		return false, a.failed("look for its events", err)
	}
	return there, nil
}

func (a *Autoscaler) failed(what string, err error) error {
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == "42P01" { // undefined_table
		return fmt.Errorf("store: the autoscaler's database %s: there is no table t_flink_autoscaler_state_store: is it the autoscaler's database, and the schema on its search_path?", a.name)
	}
	return fmt.Errorf("store: the autoscaler's database %s: %s: %w", a.name, what, err)
}
