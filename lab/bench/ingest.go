package main

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"time"
)

// ingest measures how fast the same 10 million rows come into PostgreSQL.
func (b *bench) ingest(ctx context.Context) error {
	times := b.times
	if times == 0 {
		times = 2000
	}
	rows := float64(times * instances * len(metrics))
	path := func(name string) string { return filepath.Join(b.dir, name) }
	type side struct {
		name, file string
		psql       bool
		bar        float64 // times psql's rows/s; 0: only printed
		took       []time.Duration
		rss        int64
	}
	sides := []*side{
		{name: `psql \copy, time-major CSV`, file: "time.csv", psql: true},
		{name: "dhalion, time-major CSV", file: "time.csv", bar: 1.5},
		{name: "dhalion, Arrow", file: "time.arrow", bar: 5},
		{name: "dhalion, Parquet", file: "time.parquet", bar: 5},
		{name: "dhalion, metric-major CSV", file: "metric.csv"},
		{name: "dhalion, shuffled CSV", file: "shuffled.csv"},
	}
	var size int64
	for _, o := range []struct {
		file string
		by   order
	}{{"time.csv", timeMajor}, {"metric.csv", metricMajor}, {"shuffled.csv", shuffled}} {
		n, err := writeCSV(path(o.file), times, o.by)
		if err != nil {
			return err
		}
		size = n
	}
	if err := writeArrow(path("time.arrow"), times, timeMajor); err != nil {
		return err
	}
	if err := writeParquet(path("time.parquet"), times, timeMajor); err != nil {
		return err
	}
	fmt.Printf("%.3g rows (%d instances × %d metrics × %d times), %.2f GB of CSV\n", rows, instances, len(metrics), times, float64(size)/1e9)

	for round := range b.rounds {
		for n, s := range sides {
			name := fmt.Sprintf("bench_%d_%d", round, n)
			url, drop, err := b.database(ctx, name)
			if err != nil {
				return err
			}
			var took time.Duration
			var rss int64
			if s.psql {
				if _, _, _, err := command(nil, "psql", "-q", url, "-c", "CREATE TABLE history (time timestamptz, job text, component text, instance int, worker text, metric text, value float8)"); err != nil {
					return err
				}
				took, rss, _, err = command(nil, "psql", "-q", url, "-c", `\copy history FROM '`+path(s.file)+`' CSV HEADER`)
			} else {
				// The schema is made before, as psql's table is.
				if _, _, _, err := command([]string{"DATABASE_URL=" + url}, b.binary, "jobs"); err != nil {
					return err
				}
				var out []byte
				took, rss, out, err = command([]string{"DATABASE_URL=" + url}, b.binary, "ingest", path(s.file), "-o", "json")
				if err == nil {
					err = complete(out, int(rows))
				}
			}
			if err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
			s.took, s.rss = append(s.took, took), max(s.rss, rss)
			if round == 0 && s.bar == 1.5 {
				if err := b.size(ctx, url, rows); err != nil {
					return err
				}
			}
			if err := drop(); err != nil {
				return err
			}
		}
	}
	fmt.Println()
	base := median(sides[0].took).Seconds()
	for _, s := range sides {
		t := median(s.took).Seconds()
		fmt.Printf("  %-28s %6.2f s  %6.2f M rows/s  %5.2f × psql  peak %4.0f MiB\n", s.name, t, rows/t/1e6, base/t, float64(s.rss)/(1<<20))
	}
	fmt.Println()
	for _, s := range sides {
		if s.bar > 0 {
			b.atLeast(s.name+" over psql", base/median(s.took).Seconds(), s.bar)
		}
		if !s.psql {
			b.atMost(s.name+", peak MiB", float64(s.rss)/(1<<20), 300)
		}
	}
	return nil
}

// complete checks that an ingest stored every value.
func complete(out []byte, values int) error {
	var answer struct {
		Inputs []struct {
			Values int `json:"values"`
		} `json:"inputs"`
	}
	if err := json.Unmarshal(out, &answer); err != nil {
		return fmt.Errorf("its answer: %w", err)
	}
	if len(answer.Inputs) != 1 || answer.Inputs[0].Values != values {
		return fmt.Errorf("%s: %d values are needed", out, values)
	}
	return nil
}

// size prints what the history takes on disk, before and after compaction, with
// indexes and all that is stored out of line.
func (b *bench) size(ctx context.Context, url string, values float64) error {
	measure := func() (float64, error) {
		was := b.url
		defer func() { b.url = was }()
		b.url = url
		if _, err := b.ask(ctx, "VACUUM"); err != nil {
			return 0, err
		}
		n, err := b.ask(ctx, `SELECT sum(pg_total_relation_size(inhrelid))::text FROM pg_inherits WHERE inhparent = 'segments'::regclass`)
		if err != nil {
			return 0, err
		}
		var bytes float64
		_, err = fmt.Sscan(n, &bytes)
		return bytes / values, err
	}
	before, err := measure()
	if err != nil {
		return err
	}
	if _, _, _, err := command([]string{"DATABASE_URL=" + url}, b.binary, "db", "compact"); err != nil {
		return err
	}
	after, err := measure()
	if err != nil {
		return err
	}
	fmt.Printf("on disk: %.2f B a value after the ingest\n", before)
	b.atMost("B a value after compaction", after, 5)
	return nil
}
