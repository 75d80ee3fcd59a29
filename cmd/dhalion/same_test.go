package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/ingest"
	"github.com/dhalion-go/dhalion/ingest/file"
	"github.com/dhalion-go/dhalion/ingest/flink"
	"github.com/dhalion-go/dhalion/ingest/segment"
	"github.com/dhalion-go/dhalion/internal/store"
)

// row is a measurement, to be written as a row of canonical CSV.
type row struct {
	at     time.Time
	target dhalion.Target
	worker string
	metric dhalion.Metric
	value  float64
}

func (r row) csv(zone *time.Location) string {
	instance, worker := "", r.worker
	if r.target.Kind == dhalion.KindInstance {
		instance = strconv.Itoa(r.target.Instance)
	}
	if r.target.Kind == dhalion.KindWorker {
		worker = r.target.Worker
	}
	return fmt.Sprintf("%s,%s,%s,%s,%s,%s,%s", r.at.In(zone).Format(time.RFC3339Nano), r.target.Job.Name(), r.target.Component,
		instance, worker, r.metric, strconv.FormatFloat(r.value, 'g', -1, 64))
}

// exported reads a recording and gives its measurements and its topologies as
// YAML.
func exported(t *testing.T, name string) ([]row, string) {
	t.Helper()
	in, err := file.Open(filepath.Join("../../testdata/recordings", name))
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	var rows []row
	var yaml strings.Builder
	out := ingest.Out{
		Segment: func(_ context.Context, s dhalion.Segment) error {
			table, err := segment.Decode(s)
			if err != nil {
				return err
			}
			for _, m := range table.Metrics() {
				values := table.Values(m)
				for _, span := range table.Spans() {
					for i := span.Start; i < span.End; i++ {
						if !math.IsNaN(values[i]) {
							rows = append(rows, row{time.UnixMicro(table.Times()[i]), span.Target, table.Worker(i), m, values[i]})
						}
					}
				}
			}
			return nil
		},
		Topology: func(_ context.Context, _ dhalion.JobID, x dhalion.Topology) error {
			fmt.Fprintf(&yaml, "- from: %s\n  components:\n", x.From.Format(time.RFC3339Nano))
			for _, c := range x.Components {
				fmt.Fprintf(&yaml, "    - {name: %q, parallelism: %d, max_parallelism: %d}\n", c.Name, c.Parallelism, c.MaxParallelism)
			}
			fmt.Fprint(&yaml, "  edges:\n")
			for _, e := range x.Edges {
				fmt.Fprintf(&yaml, "    - {from: %q, to: %q, ship: %q}\n", e.From, e.To, e.Ship)
			}
			return nil
		},
	}
	if _, err := ingest.Collect(context.Background(), out, ingest.Options{}, flink.NewRecording(name, in, flink.Options{})); err != nil {
		t.Fatal(err)
	}
	if len(rows) < 7000 {
		t.Fatalf("%s gave %d values", name, len(rows))
	}
	return rows, yaml.String()
}

// session is a database of its own and the command line over it.
type session struct {
	t   *testing.T
	url string
}

func newSession(t *testing.T) session {
	t.Helper()
	url, drop, err := emptySchema()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(drop)
	return session{t, url}
}

func (s session) run(args ...string) []byte {
	s.t.Helper()
	var out, errs bytes.Buffer
	a := &app{in: strings.NewReader(""), stdout: &out, err: &errs, now: time.Now, getenv: func(name string) string {
		return map[string]string{"DATABASE_URL": s.url, "USER": "ann"}[name]
	}}
	if code := a.run(context.Background(), args); code != 0 {
		s.t.Fatalf("dhalion %s ended with %d: %s", strings.Join(args, " "), code, errs.String())
	}
	return out.Bytes()
}

// there is a process of its own in another time zone.
func (s session) there(zone string, args ...string) []byte {
	s.t.Helper()
	cmd := exec.Command("dhalion", args...)
	cmd.Env = append(os.Environ(), "DATABASE_URL="+s.url, "USER=ann", "TZ="+zone)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		s.t.Fatalf("dhalion %s with TZ=%s: %v: %s", strings.Join(args, " "), zone, err, errs.String())
	}
	return out
}

// zoneFile writes a zone of five and a half hours, as TZ takes it by its path: the
// machine need not have a database of zones, without which TZ would be UTC and
// nothing said.
func zoneFile(t *testing.T, dir string) string {
	t.Helper()
	data := append([]byte("TZif"), make([]byte, 16)...) // version 1
	for _, count := range []uint32{0, 0, 0, 0, 1, 4} {  // one type of time, four letters
		data = binary.BigEndian.AppendUint32(data, count)
	}
	data = binary.BigEndian.AppendUint32(data, 19800)
	data = append(data, 0, 0)
	data = append(data, "IST\x00"...)
	zone, err := time.LoadLocationFromTZData("there", data)
	if err != nil {
		t.Fatal(err)
	}
	if _, offset := time.Now().In(zone).Zone(); offset != 19800 {
		t.Fatalf("the zone is %d s from UTC", offset)
	}
	path := filepath.Join(dir, "zone")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// ingest reads files with a collector that holds so many values at once.
func (s session) ingest(maxValues int, topology string, files ...string) {
	s.t.Helper()
	ctx := context.Background()
	st, err := store.Open(ctx, s.url, store.Options{})
	if err != nil {
		s.t.Fatal(err)
	}
	defer st.Close()
	a := &app{in: strings.NewReader(""), stdout: &bytes.Buffer{}, err: &bytes.Buffer{}}
	o := ingestOptions{spool: "1MiB", format: "auto", engine: "file", topology: topology, maxValues: maxValues}
	if err := a.checkIngest(&o, files); err != nil {
		s.t.Fatal(err)
	}
	for _, f := range files {
		if _, err := a.ingestFile(ctx, st, f, o); err != nil {
			s.t.Fatal(err)
		}
	}
}

// TestEqualInputGivesEqualPlanBytes plans from one history that comes in many
// ways: another order of rows, another batch size, in two files, in another time
// zone, on one processor and on many. The first way is the yardstick.
func TestEqualInputGivesEqualPlanBytes(t *testing.T) {
	for name, at := range map[string]string{
		"03_underprovisioned.jsonl.gz": "2026-11-22T08:33:34.730Z",
		"05_slow_instance.jsonl.gz":    "2026-11-22T08:40:16.879Z",
	} {
		t.Run(name, func(t *testing.T) {
			rows, yaml := exported(t, name)
			dir := t.TempDir()
			topology := filepath.Join(dir, "graph.yaml")
			if err := os.WriteFile(topology, []byte(yaml), 0o600); err != nil {
				t.Fatal(err)
			}
			write := func(name string, rows []row, zone *time.Location) string {
				var b bytes.Buffer
				b.WriteString("time,job,component,instance,worker,metric,value\n")
				for _, r := range rows {
					b.WriteString(r.csv(zone) + "\n")
				}
				path := filepath.Join(dir, name)
				if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
					t.Fatal(err)
				}
				return path
			}
			byTime := slices.Clone(rows)
			slices.SortStableFunc(byTime, func(a, b row) int {
				return cmp.Or(a.at.Compare(b.at), a.target.Compare(b.target), cmp.Compare(a.metric, b.metric))
			})
			backwards := slices.Clone(byTime)
			slices.Reverse(backwards)
			shuffled := slices.Clone(rows)
			rand.New(rand.NewPCG(3, 5)).Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
			half := len(shuffled) / 2
			kolkata := time.FixedZone("Asia/Kolkata", 19800) // five and a half hours

			inOrder := write("in-order.csv", byTime, time.UTC)
			mixed := write("shuffled.csv", shuffled, time.UTC)
			first, second := write("first.csv", shuffled[:half], time.UTC), write("second.csv", shuffled[half:], time.UTC)
			var yardstick []byte
			for _, way := range []struct {
				name      string
				files     []string
				maxValues int
				procs     int
				zone      string // TZ of a process of its own
			}{
				{name: "in order", files: []string{inOrder}},
				{name: "backwards", files: []string{write("backwards.csv", backwards, time.UTC)}},
				{name: "shuffled", files: []string{mixed}},
				{name: "shuffled, few at a time", files: []string{mixed}, maxValues: 500},
				{name: "in two files", files: []string{first, second}},
				{name: "in two files, the second first", files: []string{second, first}, maxValues: 1000},
				{name: "one processor", files: []string{inOrder}, procs: 1},
				{name: "eight processors", files: []string{mixed}, procs: 8, maxValues: 2000},
				{name: "another time zone here", files: []string{inOrder}, zone: zoneFile(t, dir)},
				{name: "another time zone in the file", files: []string{write("zone.csv", byTime, kolkata)}},
			} {
				if way.procs > 0 {
					before := runtime.GOMAXPROCS(way.procs)
					defer runtime.GOMAXPROCS(before)
				}
				s := newSession(t)
				var plan []byte
				if way.zone == "" {
					s.ingest(way.maxValues, topology, way.files...)
					plan = s.run("plan", "wordcount", "--at", at, "-o", "json")
				} else {
					s.there(way.zone, append([]string{"ingest", "--topology", topology}, way.files...)...)
					plan = s.there(way.zone, "plan", "wordcount", "--at", at, "-o", "json")
				}
				switch {
				case yardstick == nil:
					yardstick = plan
					if bytes.Contains(plan, []byte(`"actions": []`)) {
						t.Fatalf("the plan has no actions:\n%s", plan)
					}
				case !bytes.Equal(plan, yardstick):
					t.Errorf("%s: another plan:\n%s\nnot\n%s", way.name, plan, yardstick)
				}
			}
		})
	}
}
