package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/internal/engine/prometheus/promtest"
	"github.com/dhalion-go/dhalion/internal/store"
)

// morning begins the history that these tests scrape: 60 times, 10 s apart.
var morning = time.Date(2026, 3, 4, 8, 0, 0, 0, time.UTC)

// busyText is OpenMetrics: busy seconds of two instances of a job, .01·k and .5.
func busyText() []byte {
	var b bytes.Buffer
	b.WriteString("# TYPE busy gauge\n")
	for i := range 2 {
		for k := range 60 {
			v := .5
			if i == 0 {
				v = float64(k) / 100
			}
			fmt.Fprintf(&b, "busy{app=\"orders\",op=\"map\",shard=\"%d\",pod=\"pod-%d\"} %v %d\n", i, i, v, morning.Unix()+int64(10*k))
		}
	}
	b.WriteString("# EOF\n")
	return b.Bytes()
}

const busyMapping = `name: orders
labels: {job: app, component: op, instance: shard, worker: pod}
queries:
  - {metric: busy_fraction, target: instance, query: busy}
  - {metric: lag_records, target: instance, query: lag}
`

// try runs a command and gives what it said and its exit code.
func (s session) try(ctx context.Context, now func() time.Time, args ...string) (out, errs string, code int) {
	s.t.Helper()
	var stdout, stderr bytes.Buffer
	a := &app{in: strings.NewReader(""), stdout: &stdout, err: &stderr, now: now, getenv: func(name string) string {
		return map[string]string{"DATABASE_URL": s.url, "USER": "ann"}[name]
	}}
	code = a.run(ctx, args)
	return stdout.String(), stderr.String(), code
}

// busy is a stored instance's history, by time.
func (s session) busy(job dhalion.JobID, instance int) (values []float64, times []int64) {
	s.t.Helper()
	ctx := context.Background()
	st, err := store.Open(ctx, s.url, store.Options{})
	if err != nil {
		s.t.Fatal(err)
	}
	defer st.Close()
	h, err := st.History(ctx, job, time.Time{}, morning.AddDate(1, 0, 0))
	if err != nil {
		s.t.Fatal(err)
	}
	table := h.Tables[dhalion.KindInstance]
	if table == nil {
		s.t.Fatal("there is no instance")
	}
	span, ok := table.Span(dhalion.InstanceTarget(job, "map", instance))
	if !ok {
		s.t.Fatalf("there is no map[%d]", instance)
	}
	return table.Values(dhalion.Busy)[span.Start:span.End], table.Times()[span.Start:span.End]
}

// text is one column of one row.
func (s session) text(query string) (text string) {
	s.t.Helper()
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, s.url)
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close(ctx)
	if err := conn.QueryRow(ctx, query).Scan(&text); err != nil {
		s.t.Fatal(err)
	}
	return text
}

func (s session) file(name, content string) string {
	s.t.Helper()
	path := filepath.Join(s.t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return path
}

func TestARangeOfARealPrometheusIsStored(t *testing.T) {
	s := newSession(t)
	base := promtest.Start(t, busyText())
	secret := strings.Replace(base, "http://", "http://ann:s3cret@", 1)
	args := []string{"ingest", "prometheus", secret, "--mapping", s.file("orders.yaml", busyMapping), "--engine", "prod",
		"--from", morning.Format(time.RFC3339), "--to", morning.Add(590 * time.Second).Format(time.RFC3339), "-o", "json"}
	for range 2 { // once more changes nothing
		var got struct {
			Inputs []ingested `json:"inputs"`
		}
		out := s.run(args...)
		if err := json.Unmarshal(out, &got); err != nil || len(got.Inputs) != 1 {
			t.Fatalf("%s: %v", out, err)
		}
		in := got.Inputs[0]
		if in.Values != 120 || in.Targets != 2 || in.Conflicts != 0 || !slices.Equal(in.Jobs, []dhalion.JobID{"prod/orders"}) || in.Repairs["empty_query"] != 1 || strings.Contains(string(out), "s3cret") {
			t.Errorf("%s", out)
		}
		values, times := s.busy("prod/orders", 0)
		if len(values) != 60 {
			t.Fatalf("%d values", len(values))
		}
		for k, v := range values {
			if v != float64(k)/100 || times[k] != morning.Add(time.Duration(k)*10*time.Second).UnixMicro() {
				t.Errorf("value %d is %v at %d", k, v, times[k])
			}
		}
	}
	if name := s.text(`SELECT string_agg(DISTINCT name, ' and ') FROM inputs`); name != base+" (orders)" {
		t.Errorf("the inputs are called %s", name)
	}

	// What cannot be is told, and nothing is stored.
	before := s.text(`SELECT count(*)::text FROM inputs`)
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{base, "--job", "nobody"}, exitFailure, "no query gave a value of a job"},
		{[]string{base, "--mapping", "nope"}, exitUsage, "there is no file nope"},
		{[]string{base, "--step", "1us"}, exitUsage, "in whole milliseconds"},
		{[]string{base, "--for", "1m"}, exitUsage, "add --every"},
		{[]string{base, "--every", "1s", "--to", "2026-03-04T08:00:00Z"}, exitUsage, "use --for"},
		{[]string{base, "--from", "2026-03-04T08:00:01Z", "--to", "2026-03-04T08:00:00Z"}, exitUsage, "is after --to"},
		{[]string{base, "--from", "1000-03-04T08:00:01Z", "--step", "1ms"}, exitUsage, "more than 10000000 steps"},
		{[]string{"ftp://ann:s3cret@h"}, exitUsage, "the URL is not http"},
		{[]string{base, "--engine", "a/b"}, exitUsage, "a name without a slash"},
		{[]string{base, "--bearer-file", s.file("token", "s3 cret")}, exitFailure, "it is not one token"},
		{[]string{base, "--basic-file", s.file("basic", "s3cret")}, exitFailure, "it is not USER:PASSWORD"},
		{[]string{base, "--mapping", s.file("bad.yaml", "name: x\nqueries:\n  - {metric: busy_fraction, target: job, query: '('}\n"), "--job", "x"}, exitFailure, "bad.yaml:3: busy_fraction: "},
	} {
		out, errs, code := s.try(context.Background(), func() time.Time { return morning }, append([]string{"ingest", "prometheus"}, c.args...)...)
		if code != c.code || !strings.Contains(errs, c.want) || strings.Contains(out+errs, "s3") {
			t.Errorf("%v: %d, %s, not %s", c.args, code, errs, c.want)
		}
	}
	if after := s.text(`SELECT count(*)::text FROM inputs`); after != before {
		t.Errorf("%s inputs, and there were %s", after, before)
	}
}

// TestAPollThatFailsIsMadeUpFor follows a Prometheus at 8 times, 30 s apart, of
// which it is away at one: that poll is given up after four attempts, and the next
// reads what it missed. The ninth is interrupted.
func TestAPollThatFailsIsMadeUpFor(t *testing.T) {
	s := newSession(t)
	behind, err := url.Parse(promtest.Start(t, busyText()))
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(behind)
	var away atomic.Int32
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if away.Load() > 0 {
			away.Add(-1)
			http.Error(w, "away", http.StatusServiceUnavailable)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	defer front.Close()
	ctx, interrupt := context.WithCancel(context.Background())
	defer interrupt()
	polls := -1 // the first look at the clock is for --from
	clock := func() time.Time {
		polls++
		switch polls {
		case 4:
			away.Store(4)
		case 9:
			interrupt()
		}
		return morning.Add(time.Duration(max(0, polls-1)) * 30 * time.Second)
	}
	out, errs, code := s.try(ctx, clock, "ingest", "prometheus", front.URL, "--mapping", s.file("orders.yaml", busyMapping),
		"--from", morning.Format(time.RFC3339), "--every", "1ms", "-o", "json")
	if code != 0 || strings.Count(errs, "the next poll makes up for it") != 1 || !strings.Contains(errs, "503 Service Unavailable: away (4 attempts)") {
		t.Errorf("ended with %d: %s", code, errs)
	}
	// 8 polls up to 3 min 30 s, one of them for nothing: 22 times of 2 instances.
	values, times := s.busy("prometheus/orders", 0)
	if len(values) != 22 || values[21] != .21 || times[21] != morning.Add(210*time.Second).UnixMicro() {
		t.Errorf("%v", values)
	}
	if n := s.text(`SELECT count(*)::text FROM inputs`); n != "7" {
		t.Errorf("%s inputs", n)
	}
	if n := s.text(`SELECT count(*)::text FROM topologies`); n != "1" {
		t.Errorf("%s topologies", n)
	}
	if !strings.Contains(out, `"values": 44,`) || strings.Count(out, `"file"`) != 1 {
		t.Errorf("%s", out)
	}
}

const autoscalerRows = `
	CREATE TABLE t_flink_autoscaler_state_store (
		id bigserial PRIMARY KEY, update_time timestamp NOT NULL, job_key text NOT NULL, state_type text NOT NULL,
		state_value text NOT NULL, UNIQUE (job_key, state_type));
	CREATE TABLE t_flink_autoscaler_event_handler (
		id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, create_time timestamp NOT NULL, update_time timestamp NOT NULL,
		job_key varchar(191) NOT NULL, reason varchar(500) NOT NULL, event_type varchar(100) NOT NULL, message text NOT NULL,
		event_count integer NOT NULL, event_key varchar(100) NOT NULL);
	INSERT INTO t_flink_autoscaler_event_handler (create_time, update_time, job_key, reason, event_type, message, event_count, event_key) VALUES
		('2026-03-04 12:01:30', '2026-03-04 12:01:30', 'good', 'ScalingReport', 'Normal', 'Scaling execution enabled', 1, '7');`

func TestTheStateOfAnAutoscalerIsStored(t *testing.T) {
	s, other := newSession(t), newSession(t)
	read := func(name string) string {
		data, err := os.ReadFile(filepath.Join("../../ingest/flinkautoscaler/testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		return strings.ReplaceAll(string(data), "'", "''")
	}
	vertex := func(letter string) string { return strings.Repeat(letter, 32) }
	put := func(job, state, value string) {
		t.Helper()
		if err := execute(other.url, fmt.Sprintf(`INSERT INTO t_flink_autoscaler_state_store (update_time, job_key, state_type, state_value)
			VALUES (now(), '%s', '%s', '%s') ON CONFLICT (job_key, state_type) DO UPDATE SET state_value = excluded.state_value`, job, state, value)); err != nil {
			t.Fatal(err)
		}
	}
	if err := execute(other.url, autoscalerRows); err != nil {
		t.Fatal(err)
	}
	put("good", "collectedMetrics", read("collectedMetrics.json"))
	put("good", "scalingHistory", read("scalingHistory.json"))
	put("good", "parallelismOverrides", vertex("a")+":2,"+vertex("b")+":4,"+vertex("c")+":1")
	put("good", "scalingTracking", `{"scalingRecords":{}}`)
	put("bad", "collectedMetrics", "invalid")
	put("bad", "novelty", "{}")

	var listed struct {
		Jobs []store.AutoscalerJob `json:"jobs"`
	}
	if err := json.Unmarshal(s.run("ingest", "flink-autoscaler", other.url, "--list", "-o", "json"), &listed); err != nil || len(listed.Jobs) != 2 || listed.Jobs[1].Key != "good" || len(listed.Jobs[1].States) != 4 || listed.Jobs[1].Events != 1 {
		t.Errorf("%+v, %v", listed, err)
	}

	// encoding/json makes no unexported struct behind a pointer.
	type input struct {
		ingested
		Unreadable               []unreadable
		Rescales, Events, Logged int
	}
	type inputs struct {
		Inputs []input `json:"inputs"`
	}
	var got inputs
	out := s.run("ingest", "flink-autoscaler", other.url, "-o", "json")
	if err := json.Unmarshal(out, &got); err != nil || len(got.Inputs) != 2 {
		t.Fatalf("%s: %v", out, err)
	}
	bad, good := got.Inputs[0], got.Inputs[1]
	if want := []unreadable{{"bad", "collectedMetrics", "it is no JSON object"}, {"bad", "novelty", "it is of a type that is not known"}}; !slices.Equal(bad.Unreadable, want) || bad.Values != 0 {
		t.Errorf("%+v", bad)
	}
	// 17 values of 3 components; two times of a rescale and one event.
	if good.Values != 17 || good.Already || good.Rescales != 3 || good.Events != 1 || good.Logged != 3 || len(good.Unreadable) != 0 {
		t.Errorf("%+v", good)
	}
	log := string(s.run("log", "flink-autoscaler/good"))
	for _, want := range []string{"autoscaler_rescaled: " + vertex("b") + " 1 to 3, " + vertex("c") + " 2 to 1", "Scaling execution enabled"} {
		if !strings.Contains(strings.Join(strings.Fields(log), " "), want) {
			t.Errorf("the log has no %s:\n%s", want, log)
		}
	}
	history := string(s.run("history", "flink-autoscaler/good"))
	if !strings.Contains(history, vertex("b")[:8]) {
		t.Errorf("history:\n%s", history)
	}

	// The same state again changes nothing, a new one is another input, and the log
	// does not repeat itself.
	if err := json.Unmarshal(s.run("ingest", "flink-autoscaler", other.url, "--job", "good", "-o", "json"), &got); err != nil || !got.Inputs[0].Already || got.Inputs[0].Logged != 0 {
		t.Errorf("%+v, %v", got.Inputs, err)
	}
	put("good", "parallelismOverrides", vertex("a")+":3,"+vertex("b")+":4,"+vertex("c")+":1")
	if err := json.Unmarshal(s.run("ingest", "flink-autoscaler", other.url, "--job", "good", "-o", "json"), &got); err != nil || got.Inputs[0].Already || got.Inputs[0].Logged != 0 {
		t.Errorf("%+v, %v", got.Inputs, err)
	}
	if text := string(s.run("ingest", "flink-autoscaler", other.url, "--job", "bad")); !strings.Contains(text, "job bad: collectedMetrics: not readable (it is no JSON object): skipped") {
		t.Errorf("%s", text)
	}
	s.run("ingest", "flink-autoscaler", other.url, "--job", "good", "--name", "word count", "--engine", "prod")
	if jobs := string(s.run("jobs")); !strings.Contains(jobs, "prod/word count") {
		t.Errorf("%s", jobs)
	}
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{other.url, "--job", "nobody"}, exitFailure, "nobody"},
		{[]string{s.url}, exitFailure, "there is no table t_flink_autoscaler_state_store"},
		{[]string{other.url, "--name", "x"}, exitUsage, "choose it with --job"},
		{nil, exitUsage, "takes one DATABASE_URL"},
	} {
		if _, errs, code := s.try(context.Background(), time.Now, append([]string{"ingest", "flink-autoscaler"}, c.args...)...); code != c.code || !strings.Contains(errs, c.want) {
			t.Errorf("%v: %d, %s, not %s", c.args, code, errs, c.want)
		}
	}
}
