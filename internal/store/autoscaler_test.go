package store

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"
)

// autoscalerTables are the two tables, with the columns that the operator's
// schema for PostgreSQL has.
const autoscalerTables = `
	CREATE TABLE t_flink_autoscaler_state_store (
		id bigserial PRIMARY KEY, update_time timestamp NOT NULL, job_key text NOT NULL, state_type text NOT NULL,
		state_value text NOT NULL, UNIQUE (job_key, state_type));
	CREATE TABLE t_flink_autoscaler_event_handler (
		id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, create_time timestamp NOT NULL, update_time timestamp NOT NULL,
		job_key varchar(191) NOT NULL, reason varchar(500) NOT NULL, event_type varchar(100) NOT NULL, message text NOT NULL,
		event_count integer NOT NULL, event_key varchar(100) NOT NULL)`

func openAutoscaler(t *testing.T, url string) *Autoscaler {
	t.Helper()
	a, err := OpenAutoscaler(context.Background(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return a
}

func TestAnAutoscalersDatabaseIsReadAndNotWritten(t *testing.T) {
	ctx := context.Background()
	url := emptySchema(t)
	exec(t, url, autoscalerTables)
	exec(t, url, `
		INSERT INTO t_flink_autoscaler_state_store (update_time, job_key, state_type, state_value) VALUES
			(now(), 'b', 'scalingHistory', 'ÄÄ'), (now(), 'b', 'collectedMetrics', '{}'), (now(), 'a', 'parallelismOverrides', '');
		INSERT INTO t_flink_autoscaler_event_handler (create_time, update_time, job_key, reason, event_type, message, event_count, event_key)
		SELECT timestamp '2026-03-04 12:00:00' + i * interval '1 second', now(), 'c', 'ScalingReport', 'Normal', repeat('é', 5000), i, 'k' FROM generate_series(1, 1002) i`)
	a := openAutoscaler(t, url)
	jobs, err := a.Jobs(ctx, "")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprint(jobs), "[{a [{parallelismOverrides 0 }] 0} {b [{collectedMetrics 2 } {scalingHistory 4 }] 0} {c [] 1002}]"; got != want {
		t.Errorf("jobs %s, not %s", got, want)
	}
	if jobs, err := a.Jobs(ctx, "b"); err != nil || len(jobs) != 1 {
		t.Errorf("%v, %v", jobs, err)
	}
	if _, err := a.Jobs(ctx, "d"); wantError[*NotFoundError](t, err).Ref != "d" {
		t.Errorf("%v", err)
	}
	for limit, want := range map[int]string{4: "ÄÄ", 3: ""} { // two letters of two bytes
		if s, err := a.State(ctx, "b", "scalingHistory", limit); err != nil || s.Bytes != 4 || s.Value != want {
			t.Errorf("limit %d: %+v, %v", limit, s, err)
		}
	}
	events, err := a.Events(ctx, "c")
	if err != nil || len(events) != maxAutoscalerEvents {
		t.Fatalf("%d events, %v", len(events), err)
	}
	// The oldest two are left out.
	if e := events[0]; e.Count != 3 || !e.Created.Equal(time.Date(2026, 3, 4, 12, 0, 3, 0, time.UTC)) || e.Created.Location() != time.UTC || e.Message != strings.Repeat("é", maxAutoscalerMessage) || e.Type != "Normal" {
		t.Errorf("%v %d %s %s", e.Created, e.Count, e.Type, e.Message[:10])
	}
	if _, err := a.tx.Exec(ctx, `DELETE FROM t_flink_autoscaler_state_store`); err == nil || !strings.Contains(err.Error(), "read-only") {
		t.Errorf("a write passed: %v", err)
	}
}

func TestAnAutoscalersDatabaseMayLackItsEvents(t *testing.T) {
	ctx := context.Background()
	url := emptySchema(t)
	_, err := openAutoscaler(t, url).Jobs(ctx, "")
	if err == nil || !strings.Contains(err.Error(), "there is no table t_flink_autoscaler_state_store") {
		t.Errorf("without tables: %v", err)
	}
	exec(t, url, autoscalerTables+`; DROP TABLE t_flink_autoscaler_event_handler`)
	a := openAutoscaler(t, url)
	if jobs, err := a.Jobs(ctx, ""); err != nil || len(jobs) != 0 {
		t.Errorf("%v, %v", jobs, err)
	}
	if events, err := a.Events(ctx, "a"); err != nil || len(events) != 0 {
		t.Errorf("%v, %v", events, err)
	}
}

func TestNoErrorOfAnAutoscalersDatabaseHasAPassword(t *testing.T) {
	for _, url := range []string{"postgres://ann:s3cret@127.0.0.1:1/x?connect_timeout=2", "postgres://ann:s3cret@h:port/x", "host=127.0.0.1 port=1 user=ann password=s3cret"} {
		if _, err := OpenAutoscaler(context.Background(), url); err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v", url, err)
		}
	}
	if name := openAutoscaler(t, emptySchema(t)).Name(); strings.Contains(name, "@") || name == "" {
		t.Errorf("name %q", name)
	}
}
