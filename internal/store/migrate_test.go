package store

import (
	"context"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/dhalion-go/dhalion/migrations"
)

// plusOne is the program's migrations and one more: a newer program.
func plusOne(t *testing.T) schema {
	t.Helper()
	newest, err := embedded.newest()
	if err != nil {
		t.Fatal(err)
	}
	files := fstest.MapFS{fmt.Sprintf("%05d_more.sql", newest+1): {Data: []byte(
		"-- +goose Up\nCREATE TABLE more (x int);\n-- +goose Down\nDROP TABLE more;\n")}}
	names, err := fs.Glob(migrations.FS, "*.sql")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		data, err := fs.ReadFile(migrations.FS, name)
		if err != nil {
			t.Fatal(err)
		}
		files[name] = &fstest.MapFile{Data: data}
	}
	return schema{files}
}

// dump describes everything in a schema, one thing a line.
func dump(t *testing.T, url string) []string {
	t.Helper()
	return column(t, url, `
		SELECT concat_ws(' ', 'column', table_name, column_name, ordinal_position, data_type, is_nullable, column_default, is_identity)
		FROM information_schema.columns WHERE table_schema = current_schema()
		UNION ALL
		SELECT concat_ws(' ', 'constraint', conrelid::regclass, conname, pg_get_constraintdef(oid)) FROM pg_constraint
		WHERE connamespace = current_schema()::regnamespace
		UNION ALL
		SELECT concat_ws(' ', 'index', indexdef) FROM pg_indexes WHERE schemaname = current_schema()
		UNION ALL
		SELECT concat_ws(' ', 'trigger', tgrelid::regclass, pg_get_triggerdef(t.oid)) FROM pg_trigger t
		JOIN pg_class c ON c.oid = tgrelid WHERE c.relnamespace = current_schema()::regnamespace AND NOT tgisinternal
		UNION ALL
		SELECT concat_ws(' ', 'function', proname, pg_get_functiondef(oid)) FROM pg_proc WHERE pronamespace = current_schema()::regnamespace
		UNION ALL
		SELECT concat_ws(' ', 'storage', attrelid::regclass, attname, attstorage) FROM pg_attribute a
		JOIN pg_class c ON c.oid = attrelid WHERE c.relnamespace = current_schema()::regnamespace AND attnum > 0
		ORDER BY 1`)
}

func TestMigratingDownAndUpAgainLeavesTheSameSchema(t *testing.T) {
	ctx := context.Background()
	url := emptySchema(t)
	if _, after, err := Migrate(ctx, url); err != nil || after < 1 {
		t.Fatalf("up: version %d, %v", after, err)
	}
	first := dump(t, url)
	if len(first) < 100 {
		t.Fatalf("the schema has only %d parts", len(first))
	}
	if before, after, err := MigrateTo(ctx, url, 0); err != nil || before < 1 || after != 0 {
		t.Fatalf("down: from %d to %d, %v", before, after, err)
	}
	for _, line := range dump(t, url) {
		if !strings.Contains(line, versionTable) {
			t.Errorf("left after down: %s", line)
		}
	}
	if _, _, err := Migrate(ctx, url); err != nil {
		t.Fatal(err)
	}
	if again := dump(t, url); !slices.Equal(first, again) {
		t.Errorf("after down and up the schema differs:\n%s\n\n%s", strings.Join(first, "\n"), strings.Join(again, "\n"))
	}
}

func TestGoingDownTakesTheHistoriesAlong(t *testing.T) {
	s, url := openStore(t)
	mustIngest(t, s, "a", encode(t, table(wordcount, 2, noon, 10, constant(1))))
	if _, _, err := MigrateTo(context.Background(), url, 0); err != nil {
		t.Fatal(err)
	}
	for _, line := range dump(t, url) {
		if !strings.Contains(line, versionTable) {
			t.Errorf("left after down: %s", line)
		}
	}
}

func TestADatabaseOfANewerProgramIsRefusedWithWhatToDo(t *testing.T) {
	ctx := context.Background()
	url := emptySchema(t)
	s, err := open(ctx, url, Options{}, plusOne(t))
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	for _, opts := range []Options{{}, {Migrate: true}} {
		_, err = Open(ctx, url, opts)
		e := wantError[*NewerError](t, err)
		if e.Database != e.Program+1 || !strings.Contains(e.Error(), "newer dhalion") || !strings.Contains(e.Error(), "backup") {
			t.Errorf("error %q", e)
		}
	}
	if _, _, err := Migrate(ctx, url); err == nil {
		t.Error("db migrate took the newer database for its own")
	}
	if v, err := Version(ctx, url); err != nil || v.Database != v.Program+1 {
		t.Errorf("version %+v, %v", v, err)
	}
}

func TestADatabaseOfAnOlderProgramIsMigratedOnlyWhenAsked(t *testing.T) {
	ctx := context.Background()
	url := emptySchema(t)
	s, err := Open(ctx, url, Options{})
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	newer := plusOne(t)
	_, err = open(ctx, url, Options{}, newer)
	e := wantError[*OlderError](t, err)
	if e.Database+1 != e.Program || !strings.Contains(e.Error(), "dhalion db migrate") {
		t.Errorf("error %q", e)
	}
	s, err = open(ctx, url, Options{Migrate: true}, newer)
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	if count(t, url, "more") != "0" {
		t.Error("the migration did not run")
	}
}

func TestEightCommandsAtOnceInitialiseAnEmptyDatabaseOnce(t *testing.T) {
	ctx := context.Background()
	url := emptySchema(t)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			s, err := Open(ctx, url, Options{})
			if err != nil {
				t.Error(err)
				return
			}
			defer s.Close()
			if _, err := s.Jobs(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if got := count(t, url, versionTable+" WHERE version_id = 1"); got != "1" {
		t.Errorf("the first migration ran %s times", got)
	}
}

func TestASchemaThatFailsToMigrateIsLeftAsItWas(t *testing.T) {
	ctx := context.Background()
	url := emptySchema(t)
	exec(t, url, "CREATE TABLE plans (mine int)") // somebody else's, in the way
	if _, err := Open(ctx, url, Options{}); err == nil {
		t.Fatal("opened over somebody else's table")
	}
	for _, line := range dump(t, url) {
		if !strings.Contains(line, versionTable) && !strings.Contains(line, "plans") {
			t.Errorf("left behind: %s", line)
		}
	}
	exec(t, url, "DROP TABLE plans")
	s, err := Open(ctx, url, Options{})
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
}

func TestASearchPathToNowhereIsSaidSo(t *testing.T) {
	_, err := Open(context.Background(), withSetting(t, server, "search_path", "no_such_schema"), Options{})
	if err == nil || !strings.Contains(err.Error(), "search_path") {
		t.Errorf("error %v", err)
	}
}

func TestNoErrorShowsThePassword(t *testing.T) {
	const secret = "s3cr3t"
	for _, url := range []string{
		"postgres://user:" + secret + "@127.0.0.1:1/db",
		"postgres://user:" + secret + "@host:port/db",
		"postgres://user:" + secret + "@host:5432:5433/db?sslmode=bogus",
		"postgres://user:" + secret + "/" + secret + "@host/db?x=%zz",
		"postgres://user:p@" + secret + ":" + secret + "@host:x/db",
		"postgres://user:" + secret + "@[::1/db",
		"postgres://u:p@h/db?pool_max_conns=" + secret,
		"postgres://u:p@h/db?connect_timeout=" + secret,
		"postgres://u:p@h/db?sslmode=" + secret,
		"postgres://user:pass/" + secret + "@127.0.0.1:1/db",
		"postgres://user:pa@" + secret + "@127.0.0.1:1/db",
		"postgres:/user:" + secret + "@host/db",
		"host=127.0.0.1 port=1 user=user password=" + secret,
		"host=127.0.0.1 port=x user=user password='" + secret + " " + secret + "'",
		"host=127.0.0.1 password='" + secret,
		"host = h password = " + secret + " port=70000",
		secret,
	} {
		_, err := Open(context.Background(), url, Options{})
		if err == nil {
			t.Errorf("%s: opened", url)
		} else if strings.Contains(err.Error(), secret) {
			t.Errorf("%s: error shows the password: %v", url, err)
		} else {
			t.Log(err)
		}
	}
}

func TestBothFormsOfADatabaseURLAreRead(t *testing.T) {
	config, err := parse(server)
	if err != nil {
		t.Fatal(err)
	}
	c := config.ConnConfig
	list := fmt.Sprintf("host='%s' port=%d user='%s' password='%s' dbname='%s' sslmode=disable", c.Host, c.Port, c.User, c.Password, c.Database)
	schema := column(t, emptySchema(t), "SELECT current_schema()")[0]
	s, err := Open(context.Background(), withSetting(t, list, "search_path", schema), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var name, zone, timeout string
	if err := s.pool.QueryRow(context.Background(), `
		SELECT current_setting('application_name'), current_setting('TimeZone'), current_setting('statement_timeout')`).
		Scan(&name, &zone, &timeout); err != nil || name != "dhalion" || zone != "UTC" || timeout != "10min" {
		t.Errorf("application %q, time zone %q, timeout %q, %v", name, zone, timeout, err)
	}
}
