package store

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/ingest"
	"github.com/dhalion-go/dhalion/migrations"
)

// content is every row of every table of a database, the places of its sequences
// and its schema's version, one a line.
func content(t testing.TB, url string) []string {
	t.Helper()
	var all []string
	for _, table := range append(slices.Clone(backedUp), "plan_transitions") {
		for _, row := range column(t, url, "SELECT x::text FROM "+table+" x ORDER BY 1") {
			all = append(all, table+" "+row)
		}
	}
	for _, s := range column(t, url, `SELECT relname || ' ' || coalesce(pg_sequence_last_value(oid), 0) FROM pg_class
		WHERE relkind = 'S' AND relnamespace = current_schema()::regnamespace AND relname NOT LIKE 'dhalion_schema%' ORDER BY 1`) {
		all = append(all, "sequence "+s)
	}
	return append(all, column(t, url, "SELECT 'version ' || max(version_id) FROM "+versionTable)...)
}

// filled is a database with something in every table.
func filled(t *testing.T) (*Store, string) {
	t.Helper()
	s, url := openStore(t)
	for i, job := range []dhalion.JobID{wordcount, "file/it's \"ano\tther\""} {
		if _, _, err := s.Ingest(ctx, Input{Name: "ä\n.csv", Hash: fmt.Sprint(i)}, func(ctx context.Context, out ingest.Out) (ingest.Report, error) {
			if err := out.Topology(ctx, job, topology(noon, 2)); err != nil {
				return ingest.Report{}, err
			}
			return handing(encode(t, table(job, 3, noon, 50, constant(1))), encode(t, table(job, 3, noon.AddDate(0, 0, 1), 50, constant(2))))(ctx, out)
		}); err != nil {
			t.Fatal(err)
		}
	}
	mustIngest(t, s, "year one", encode(t, table(wordcount, 1, time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC), 1, constant(3))))
	p, q := saved(t, s, "a plan", "ann"), saved(t, s, "another", "ann")
	if _, err := s.Approve(ctx, dhalion.Approval{Plan: p.ID, Digest: p.Digest, Person: "bob", At: noon, Note: "fine"}, true); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Discard(ctx, q.ID, "cid", "no", noon); err != nil {
		t.Fatal(err)
	}
	if _, err := s.SaveFindings(ctx, Evaluation{Job: wordcount, AsOf: noon}); err != nil {
		t.Fatal(err)
	}
	exec(t, url, "INSERT INTO leases (job, plan, holder, epoch, until) VALUES ($1, $2, 'x', 7, now())", string(wordcount), p.ID)
	exec(t, url, `INSERT INTO journal (plan, action, step, epoch, at, call) VALUES ($1, 0, 'intent', 7, now(), '{"a": 1}')`, p.ID)
	exec(t, url, `INSERT INTO journal (plan, action, step, intent, epoch, at, result) SELECT plan, action, 'confirm', id, epoch, at, '[]' FROM journal`)
	exec(t, url, `INSERT INTO outcomes (plan, action, job, kind, target, cause, applied, at) VALUES ($1, 0, $2, 'restart', '{}', 'failing', 'applied', now())`, p.ID, string(wordcount))
	exec(t, url, `INSERT INTO incidents (job, target, cause, start_time, end_time, certainty, source) VALUES ($1, '{}', '', now(), now(), .7, 'me')`, string(wordcount))
	if _, err := s.SaveModel(ctx, "0123456789ab", []byte("artefact"), map[string]int{"n": 1}, strings.Repeat("0a", 32), "ann", "", noon); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Promote(ctx, "0123456789ab", "ann", "", noon); err != nil {
		t.Fatal(err)
	}
	return s, url
}

func backedUpTo(t testing.TB, url string) ([]byte, BackupReport) {
	t.Helper()
	var file bytes.Buffer
	rep, err := Backup(ctx, url, &file, noon)
	if err != nil {
		t.Fatal(err)
	}
	return file.Bytes(), rep
}

func TestABackupHasEveryTableThatMigrationsMake(t *testing.T) {
	_, url := openStore(t)
	all := column(t, url, `SELECT relname::text FROM pg_class WHERE relkind IN ('r', 'p') AND NOT relispartition AND relnamespace = current_schema()::regnamespace`)
	for _, table := range all {
		if table != versionTable && table != "plan_transitions" && !slices.Contains(backedUp, table) {
			t.Errorf("a migration makes %s, and backups do not have it", table)
		}
	}
}

func TestWhatIsRestoredIsWhatWasBackedUp(t *testing.T) {
	t.Parallel()
	s, url := filled(t)
	want := content(t, url)
	for _, table := range backedUp {
		if !slices.ContainsFunc(want, func(line string) bool { return strings.HasPrefix(line, table+" ") }) {
			t.Errorf("the test has nothing in %s", table)
		}
	}
	history := read(t, s, wordcount).Digest()
	file, made := backedUpTo(t, url)
	shape := dump(t, url)

	into := emptySchema(t) // not even migrated
	rep, err := Restore(ctx, into, bytes.NewReader(file), RestoreOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if rep.Digest != made.Digest || rep.Bytes != made.Bytes || rep.Rows["segments"] != 5 || !rep.At.Equal(noon) {
		t.Errorf("restored %+v, backed up %+v", rep, made)
	}
	if got := content(t, into); !slices.Equal(got, want) {
		t.Errorf("restored\n%s\nbacked up\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	restored, err := Open(ctx, into, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer restored.Close()
	if read(t, restored, wordcount).Digest() != history {
		t.Error("the history is another")
	}
	// The same schema, under another name: constraints, triggers, storage.
	a, b := column(t, url, "SELECT current_schema()")[0], column(t, into, "SELECT current_schema()")[0]
	if got := strings.ReplaceAll(strings.Join(dump(t, into), "\n"), b, a); got != strings.Join(shape, "\n") {
		t.Error("the schema is another")
	}
	// And life goes on: new numbers, the same guards.
	mustIngest(t, restored, "next", encode(t, table(wordcount, 1, noon, 1, constant(9))))
	if err := tryExec(into, "DELETE FROM log"); !violated(err, "log_append_only") {
		t.Errorf("the log can be changed: %v", err)
	}
	if err := tryExec(into, "INSERT INTO approvals (plan, round, person, digest, at) VALUES ('x', 1, 'x', 'x', now())"); !violated(err, "approvals_name_the_digest") {
		t.Errorf("the references are gone: %v", err)
	}
}

func TestARestoreReplacesNothingUnlessItIsForced(t *testing.T) {
	t.Parallel()
	_, url := filled(t)
	file, _ := backedUpTo(t, url)
	want := content(t, url)
	s, into := openStore(t)
	mustIngest(t, s, "mine", encode(t, table("file/mine", 1, noon.AddDate(0, 0, 5), 1, constant(1))))
	before := content(t, into)
	_, err := Restore(ctx, into, bytes.NewReader(file), RestoreOptions{})
	if e := wantError[*NotEmptyError](t, err); e.Table != "jobs" || e.Rows != 1 {
		t.Errorf("error %v", e)
	}
	if !slices.Equal(content(t, into), before) {
		t.Error("the refused restore changed something")
	}
	if _, err := Restore(ctx, into, bytes.NewReader(file), RestoreOptions{Force: true}); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(content(t, into), want) {
		t.Error("the forced restore gave something else")
	}
}

func TestABrokenBackupIsRefusedAndChangesNothing(t *testing.T) {
	t.Parallel()
	_, url := filled(t)
	file, _ := backedUpTo(t, url)
	_, into := filled(t)
	before := content(t, into)
	refuse := func(what string, file []byte) {
		t.Helper()
		_, err := Restore(ctx, into, bytes.NewReader(file), RestoreOptions{Force: true})
		if err == nil {
			t.Fatalf("%s: restored", what)
		}
		wantError[*CorruptBackupError](t, err)
		if !slices.Equal(content(t, into), before) {
			t.Fatalf("%s: something changed", what)
		}
	}
	refuse("an empty file", nil)
	refuse("something else", []byte("time,job,component,instance,worker,metric,value\n"))
	refuse("another format", append([]byte("dhalion-backup 9\n"), file[len(backupMagic):]...))
	refuse("the file twice", append(slices.Clone(file), file...))
	refuse("something behind it", append(slices.Clone(file), 0))
	random := rand.New(rand.NewPCG(4, 2))
	for range 8 {
		n := random.IntN(len(file))
		refuse(fmt.Sprintf("cut at %d of %d", n, len(file)), file[:n])
	}
	refuse("cut before its last byte", file[:len(file)-1])
	for range 8 {
		n := len(backupMagic) + random.IntN(len(file)-len(backupMagic))
		flipped := slices.Clone(file)
		flipped[n] ^= 1 << random.IntN(8)
		refuse(fmt.Sprintf("a bit of byte %d of %d flipped", n, len(file)), flipped)
	}
}

// first is the first n migrations: an older program.
func first(t *testing.T, n int) schema {
	t.Helper()
	names, err := fs.Glob(migrations.FS, "*.sql")
	if err != nil {
		t.Fatal(err)
	}
	files := fstest.MapFS{}
	for _, name := range names[:n] {
		data, err := fs.ReadFile(migrations.FS, name)
		if err != nil {
			t.Fatal(err)
		}
		files[name] = &fstest.MapFile{Data: data}
	}
	return schema{files}
}

func TestABackupOfANewerSchemaIsRefusedAndOneOfAnOlderIsMigrated(t *testing.T) {
	t.Parallel()
	_, url := openStore(t)
	file, _ := backedUpTo(t, url)
	older := emptySchema(t)
	if _, err := restore(ctx, older, bytes.NewReader(file), RestoreOptions{}, first(t, 1)); err == nil || !strings.Contains(err.Error(), "newer dhalion") {
		t.Errorf("error %v", err)
	}
	if _, _, err := migrate(ctx, older, first(t, 1), 1); err != nil {
		t.Fatal(err)
	}
	exec(t, older, "INSERT INTO jobs (id, engine, name) VALUES ('a/b', 'a', 'b')")
	exec(t, older, partitionSQL(noon))
	exec(t, older, `INSERT INTO segments (day, job, kind, input, from_time, to_time, row_count, value_count, hash, bytes)
		VALUES ('2026-03-04', 'a/b', 'job', 1, '2026-03-04 12:00Z', '2026-03-04 12:00Z', 1, 1, 'h', 'x')`)
	file, rep := backedUpTo(t, older) // also the newer program backs it up, before it migrates
	if rep.Schema != 1 {
		t.Fatalf("backed up %+v", rep)
	}
	_, into := filled(t)
	if _, err := Restore(ctx, into, bytes.NewReader(file), RestoreOptions{Force: true}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Migrate(ctx, older); err != nil {
		t.Fatal(err)
	}
	if a, b := content(t, into), content(t, older); !slices.Equal(a, b) {
		t.Errorf("restored and migrated\n%s\nmigrated\n%s", strings.Join(a, "\n"), strings.Join(b, "\n"))
	}
	// The script that a restore runs and goose make the same.
	a, b := column(t, older, "SELECT current_schema()")[0], column(t, into, "SELECT current_schema()")[0]
	if strings.ReplaceAll(strings.Join(dump(t, into), "\n"), b, a) != strings.Join(dump(t, older), "\n") {
		t.Error("the schema is another")
	}
}

func TestABackupWhileIngestsGoOnIsOfOneMoment(t *testing.T) {
	t.Parallel()
	s, url := openStore(t)
	s.untidy = true // else compaction moves segments from one input to another
	done := make(chan error, 1)
	begun := make(chan struct{})
	go func() {
		for i := range 60 {
			// Each overwrites what was there, on two days.
			_, _, err := s.Ingest(ctx, Input{Hash: fmt.Sprint(i)}, handing(
				encode(t, table(wordcount, 20, noon, 50, constant(float64(i+1)))),
				encode(t, table(wordcount, 20, noon.AddDate(0, 0, i%30), 50, constant(float64(i+1))))))
			if err != nil {
				done <- err
				return
			}
			if i == 3 {
				close(begun)
			}
		}
		done <- nil
	}()
	<-begun
	for range 3 {
		file, rep := backedUpTo(t, url)
		into := emptySchema(t)
		if _, err := Restore(ctx, into, bytes.NewReader(file), RestoreOptions{}); err != nil {
			t.Fatal(err)
		}
		if got := count(t, into, "inputs i WHERE NOT EXISTS (SELECT FROM segments WHERE input = i.id)"); got != "0" {
			t.Errorf("%s of %d inputs have no segments", got, rep.Rows["inputs"])
		}
		restored, err := Open(ctx, into, Options{})
		if err != nil {
			t.Fatal(err)
		}
		h, err := restored.History(ctx, wordcount, noon.Add(-time.Second), noon.Add(time.Hour))
		restored.Close()
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range busy(h) {
			if v != float64(rep.Rows["inputs"]) {
				t.Fatalf("of %d inputs, %v is the newest", rep.Rows["inputs"], v)
			}
		}
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}
