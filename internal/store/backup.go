package store

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/klauspost/compress/zstd"

	"github.com/dhalion-go/dhalion/migrations"
)

// A backup is one file: the line backupMagic, then a zstd stream of blocks, each
// a length (4 bytes, the greatest first) and as many bytes:
//
//	a backupHeader
//	for every table a partHeader, its rows as COPY BINARY writes them in blocks of
//	at most backupBlock, an empty block, a partTrailer
//	a backupTrailer
//
// Headers and trailers are JSON. A part's digest is over its rows, the trailer's
// over every byte of the zstd stream before the trailer's own block.
const (
	backupMagic = "dhalion-backup 1\n"
	backupBlock = 1 << 20
)

type backupHeader struct {
	Schema int64     `json:"schema"` // version of the database's schema
	At     time.Time `json:"at"`
}

type partHeader struct {
	Table   string   `json:"table"` // empty: the trailer follows
	Columns []string `json:"columns,omitempty"`
	Days    []string `json:"days,omitempty"` // those that have a partition
}

type partTrailer struct {
	Rows   int64  `json:"rows"`
	Bytes  int64  `json:"bytes"`
	Digest string `json:"sha256"`
}

type backupTrailer struct {
	Parts     int             `json:"parts"`
	Sequences []sequenceState `json:"sequences"`
	Digest    string          `json:"sha256"`
}

// sequenceState is where the numbering of an identity column stands.
type sequenceState struct {
	Table  string `json:"table"`
	Column string `json:"column"`
	Last   int64  `json:"last"`
	Used   bool   `json:"used"`
}

// backedUp are the tables of which a backup has a part, in the order of the
// parts. plan_transitions is not among them: a migration fills it.
var backedUp = []string{
	"jobs", "inputs", "segments", "topologies", "findings", "plans", "approvals",
	"leases", "journal", "outcomes", "incidents", "models", "promotions", "log",
}

// present are the tables of backedUp that a database has: an older one, which is
// backed up before it is migrated, has fewer.
func present(ctx context.Context, tx pgx.Tx) ([]string, error) {
	rows, err := tx.Query(ctx, `SELECT relname::text FROM pg_class WHERE relnamespace = current_schema()::regnamespace AND relname = ANY ($1)`, backedUp)
	if err != nil {
		return nil, fmt.Errorf("store: list tables: %w", err)
	}
	there, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("store: list tables: %w", err)
	}
	return slices.DeleteFunc(slices.Clone(backedUp), func(table string) bool { return !slices.Contains(there, table) }), nil
}

// BackupReport says what a backup has.
type BackupReport struct {
	Schema int64            `json:"schema"`
	At     time.Time        `json:"at"`
	Rows   map[string]int64 `json:"rows"`  // per table
	Bytes  int64            `json:"bytes"` // before compression
	Digest string           `json:"sha256"`
}

// CorruptBackupError says that a file is no backup, or not a whole one.
type CorruptBackupError struct{ Reason string }

// Error says what is wrong with it.
func (e *CorruptBackupError) Error() string {
	return "store: restore: the file is no whole backup: " + e.Reason
}

// NotEmptyError says that a restore would replace what is there.
type NotEmptyError struct {
	Table string
	Rows  int64
}

// Error names what is there.
func (e *NotEmptyError) Error() string {
	return fmt.Sprintf("store: restore: the database is not empty: it has %d rows of %s", e.Rows, e.Table)
}

// Backup writes everything that Dhalion keeps in a database, as it is at one
// moment, to w. Ingests and everything else go on meanwhile. It also works on a
// schema of an older version, so that one can be made before a migration; a
// database without a schema is an error, a newer one *NewerError. now is noted in
// the file.
func Backup(ctx context.Context, url string, w io.Writer, now time.Time) (rep BackupReport, err error) {
	rep = BackupReport{At: now.UTC(), Rows: map[string]int64{}}
	err = onConn(ctx, url, func(conn *pgx.Conn) error {
		newest, err := embedded.newest()
		if err != nil {
			return err
		}
		if rep.Schema, err = version(ctx, conn); err != nil {
			return err
		}
		switch {
		case rep.Schema == 0:
			return errors.New("store: backup: the database has nothing of dhalion's in it")
		case rep.Schema > newest:
			return &NewerError{Database: rep.Schema, Program: newest}
		}
		return pgx.BeginTxFunc(ctx, conn, reading, func(tx pgx.Tx) error { return backup(ctx, tx, w, &rep) })
	})
	return rep, err
}

func backup(ctx context.Context, tx pgx.Tx, w io.Writer, rep *BackupReport) error {
	tables, err := present(ctx, tx)
	if err != nil {
		return err
	}
	// What is locked is not dropped until its part is written: dropping a partition
	// is no matter of snapshots.
	if _, err := tx.Exec(ctx, `SET LOCAL statement_timeout = 0; LOCK TABLE `+strings.Join(tables, ", ")+` IN ACCESS SHARE MODE`); err != nil {
		return fmt.Errorf("store: backup: %w", err)
	}
	if _, err := io.WriteString(w, backupMagic); err != nil {
		return fmt.Errorf("store: backup: %w", err)
	}
	// Segments are compressed already, and there is little else.
	z, err := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		return fmt.Errorf("store: backup: %w", err)
	}
	out := &blockWriter{w: z, sum: sha256.New()}
	if err := out.json(backupHeader{rep.Schema, rep.At}); err != nil {
		return fmt.Errorf("store: backup: %w", err)
	}
	for _, table := range tables {
		rows, err := out.part(ctx, tx, table)
		if err != nil {
			return fmt.Errorf("store: backup %s: %w", table, err)
		}
		rep.Rows[table] = rows
	}
	trailer := backupTrailer{Parts: len(tables)}
	if trailer.Sequences, err = sequences(ctx, tx); err != nil {
		return fmt.Errorf("store: backup sequences: %w", err)
	}
	if err := out.json(partHeader{}); err != nil {
		return fmt.Errorf("store: backup: %w", err)
	}
	trailer.Digest = hex.EncodeToString(out.sum.Sum(nil))
	rep.Bytes, rep.Digest = out.n, trailer.Digest
	if err := errors.Join(out.json(trailer), z.Close()); err != nil {
		return fmt.Errorf("store: backup: %w", err)
	}
	return nil
}

// blockWriter writes blocks and digests them.
type blockWriter struct {
	w   io.Writer
	sum hash.Hash
	n   int64
}

func (b *blockWriter) block(data []byte) error {
	var length [4]byte
	binary.BigEndian.PutUint32(length[:], uint32(len(data)))
	for _, part := range [][]byte{length[:], data} {
		b.sum.Write(part)
		b.n += int64(len(part))
		if _, err := b.w.Write(part); err != nil {
			return err
		}
	}
	return nil
}

func (b *blockWriter) json(v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(data) > backupBlock {
		return fmt.Errorf("a header of %d bytes is too long", len(data))
	}
	return b.block(data)
}

// part writes one table.
func (b *blockWriter) part(ctx context.Context, tx pgx.Tx, table string) (rows int64, err error) {
	header := partHeader{Table: table}
	if header.Columns, err = columns(ctx, tx, table); err != nil {
		return 0, err
	}
	order := "1"
	if table == "segments" {
		order = "day, job, kind, from_time, input, hash" // what belongs together lies together
		if header.Days, err = texts1(ctx, tx, `SELECT DISTINCT to_char(day, 'YYYY-MM-DD') FROM segments ORDER BY 1`); err != nil {
			return 0, err
		}
	}
	if err := b.json(header); err != nil {
		return 0, err
	}
	rowsOut := &partWriter{b: b, sum: sha256.New()}
	buffered := bufio.NewWriterSize(rowsOut, backupBlock)
	tag, err := tx.Conn().PgConn().CopyTo(ctx, buffered, fmt.Sprintf(`COPY (SELECT %s FROM %s ORDER BY %s) TO STDOUT (FORMAT binary)`,
		quoted(header.Columns), table, order))
	if err == nil {
		err = buffered.Flush()
	}
	if err == nil {
		err = b.block(nil)
	}
	if err == nil {
		err = b.json(partTrailer{tag.RowsAffected(), rowsOut.n, hex.EncodeToString(rowsOut.sum.Sum(nil))})
	}
	return tag.RowsAffected(), err
}

// partWriter cuts a part's rows into blocks.
type partWriter struct {
	b   *blockWriter
	sum hash.Hash
	n   int64
}

func (p *partWriter) Write(data []byte) (int, error) {
	p.sum.Write(data)
	p.n += int64(len(data))
	for chunk := range slices.Chunk(data, backupBlock) {
		if err := p.b.block(chunk); err != nil {
			return 0, err
		}
	}
	return len(data), nil
}

// columns lists a table's columns in their order.
func columns(ctx context.Context, tx pgx.Tx, table string) ([]string, error) {
	return texts1(ctx, tx, `
		SELECT attname::text FROM pg_attribute WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped ORDER BY attnum`, table)
}

// texts1 is a query of one text column.
func texts1(ctx context.Context, tx pgx.Tx, sql string, args ...any) ([]string, error) {
	rows, err := tx.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

func quoted(names []string) string {
	out := make([]string, len(names))
	for i, name := range names {
		out[i] = pgx.Identifier{name}.Sanitize()
	}
	return strings.Join(out, ", ")
}

// sequences is where the identity columns of the tables stand. It is read after
// the rows: no row of the backup has a number above.
func sequences(ctx context.Context, tx pgx.Tx) (list []sequenceState, err error) {
	rows, err := tx.Query(ctx, `
		SELECT c.relname::text, a.attname::text, pg_get_serial_sequence(c.oid::regclass::text, a.attname) FROM pg_class c
		JOIN pg_attribute a ON a.attrelid = c.oid AND a.attidentity <> '' AND NOT a.attisdropped
		WHERE c.relnamespace = current_schema()::regnamespace AND c.relname = ANY ($1) ORDER BY 1, 2`, backedUp)
	if err != nil {
		return nil, err
	}
	var names []string
	for rows.Next() {
		var s sequenceState
		var name string
		if err := rows.Scan(&s.Table, &s.Column, &name); err != nil {
			return nil, err
		}
		list, names = append(list, s), append(names, name)
	}
	if rows.Err() != nil {
		return nil, rows.Err()
	}
	for i, name := range names {
		// pg_get_serial_sequence quotes the name as SQL wants it.
		if err := tx.QueryRow(ctx, `SELECT last_value, is_called FROM `+name).Scan(&list[i].Last, &list[i].Used); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// RestoreOptions says how Restore treats what is there.
type RestoreOptions struct {
	Force bool // replace it, instead of refusing with *NotEmptyError
}

// Restore puts a backup's content in the place of a database's, and brings it to
// this program's schema, all in one transaction: the content is there, with every
// count and digest checked, or nothing has changed. Without Force the database
// must be empty.
//
// It returns *CorruptBackupError for a file that is no whole backup, *NewerError
// for the backup, or a database, of a newer program, and *NotEmptyError.
func Restore(ctx context.Context, url string, r io.Reader, opts RestoreOptions) (BackupReport, error) {
	return restore(ctx, url, r, opts, embedded)
}

func restore(ctx context.Context, url string, r io.Reader, opts RestoreOptions, schema schema) (rep BackupReport, err error) {
	newest, err := schema.newest()
	if err != nil {
		return rep, err
	}
	in, header, err := openBackup(r)
	if err != nil {
		return rep, err
	}
	defer in.close()
	if header.Schema > newest {
		return rep, fmt.Errorf("store: restore: the backup is of schema version %d, this program knows version %d: install the newer dhalion that wrote it", header.Schema, newest)
	}
	rep = BackupReport{Schema: header.Schema, At: header.At, Rows: map[string]int64{}}
	err = onConn(ctx, url, func(conn *pgx.Conn) error {
		return locked(ctx, conn, func() error {
			have, err := version(ctx, conn)
			switch {
			case err != nil:
				return err
			case have > newest:
				return &NewerError{Database: have, Program: newest}
			case have == 0:
				// The table of versions is goose's to make. What else this makes is as
				// empty as what was there.
				if err := checkEncoding(ctx, conn); err != nil {
					return err
				}
				if err := schema.run(ctx, conn.Config(), 0, newest); err != nil {
					return err
				}
				have = newest
			}
			return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
				return in.restore(ctx, tx, schema, have, newest, opts, &rep)
			})
		})
	})
	return rep, err
}

// blockReader reads what blockWriter wrote.
type blockReader struct {
	z   *zstd.Decoder
	r   *bufio.Reader
	sum hash.Hash
	buf []byte
	n   int64
}

func corrupt(format string, args ...any) error {
	return &CorruptBackupError{fmt.Sprintf(format, args...)}
}

// openBackup reads the header.
func openBackup(r io.Reader) (*blockReader, backupHeader, error) {
	var header backupHeader
	magic := make([]byte, len(backupMagic))
	if _, err := io.ReadFull(r, magic); err != nil || string(magic) != backupMagic {
		if !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) && err != nil {
			return nil, header, fmt.Errorf("store: restore: %w", err)
		}
		if strings.HasPrefix(string(magic), "dhalion-backup ") {
			return nil, header, corrupt("it is of a format that this program does not know (%s)", strings.TrimSpace(string(magic[15:])))
		}
		return nil, header, corrupt("it does not begin with %q", strings.TrimSpace(backupMagic))
	}
	z, err := zstd.NewReader(r, zstd.WithDecoderMaxWindow(64<<20), zstd.WithDecoderConcurrency(1))
	if err != nil {
		return nil, header, fmt.Errorf("store: restore: %w", err)
	}
	b := &blockReader{z: z, r: bufio.NewReaderSize(z, 1<<16), sum: sha256.New()}
	if err := b.json(&header); err != nil {
		b.close()
		return nil, header, err
	}
	if header.Schema < 1 {
		b.close()
		return nil, header, corrupt("it says schema version %d", header.Schema)
	}
	return b, header, nil
}

func (b *blockReader) close() { b.z.Close() }

// block reads the next one; it is valid until the next call.
func (b *blockReader) block() ([]byte, error) {
	var length [4]byte
	if _, err := io.ReadFull(b.r, length[:]); err != nil {
		return nil, broken(err)
	}
	n := binary.BigEndian.Uint32(length[:])
	if n > backupBlock {
		return nil, corrupt("a block of %d bytes is too long", n)
	}
	if b.buf == nil {
		b.buf = make([]byte, backupBlock)
	}
	data := b.buf[:n]
	if _, err := io.ReadFull(b.r, data); err != nil {
		return nil, broken(err)
	}
	b.sum.Write(length[:])
	b.sum.Write(data)
	b.n += int64(4 + n)
	return data, nil
}

// broken is a failed read: the file's fault, or that of what it is read from.
func broken(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return corrupt("it ends in the middle")
	}
	var path *fs.PathError
	if errors.As(err, &path) || errors.Is(err, context.Canceled) {
		return fmt.Errorf("store: restore: %w", err)
	}
	return corrupt("%v", err)
}

func (b *blockReader) json(into any) error {
	data, err := b.block()
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, into); err != nil {
		return corrupt("a header cannot be read: %v", err)
	}
	return nil
}

// partReader is a part's rows. At its end it compares them with the trailer, and
// its error then makes COPY fail.
type partReader struct {
	b       *blockReader
	left    []byte
	sum     hash.Hash
	n       int64
	trailer *partTrailer
}

func (p *partReader) Read(into []byte) (int, error) {
	for len(p.left) == 0 {
		if p.trailer != nil {
			return 0, io.EOF
		}
		data, err := p.b.block()
		if err != nil {
			return 0, err
		}
		if len(data) > 0 {
			p.sum.Write(data)
			p.n += int64(len(data))
			p.left = data
			break
		}
		var t partTrailer
		if err := p.b.json(&t); err != nil {
			return 0, err
		}
		if t.Bytes != p.n || t.Digest != hex.EncodeToString(p.sum.Sum(nil)) {
			return 0, corrupt("a table's rows do not match their digest")
		}
		p.trailer = &t
	}
	n := copy(into, p.left)
	p.left = p.left[n:]
	return n, nil
}

// restore replaces what is there. The caller holds the schema's lock.
func (b *blockReader) restore(ctx context.Context, tx pgx.Tx, schema schema, have, newest int64, opts RestoreOptions, rep *BackupReport) error {
	if _, err := tx.Exec(ctx, `SET LOCAL statement_timeout = 0`); err != nil {
		return fmt.Errorf("store: restore: %w", err)
	}
	if err := replaceable(ctx, tx, opts); err != nil {
		return err
	}
	if err := schema.steps(ctx, tx, have, 0); err != nil {
		return err
	}
	if err := schema.steps(ctx, tx, 0, rep.Schema); err != nil {
		return err
	}
	again, err := dropReferences(ctx, tx)
	if err != nil {
		return fmt.Errorf("store: restore: %w", err)
	}
	for {
		var header partHeader
		if err := b.json(&header); err != nil {
			return err
		}
		if header.Table == "" {
			break
		}
		if _, twice := rep.Rows[header.Table]; twice || !slices.Contains(backedUp, header.Table) {
			return corrupt("it has a part %q", header.Table)
		}
		if rep.Rows[header.Table], err = b.part(ctx, tx, header); err != nil {
			return err
		}
	}
	if err := b.end(ctx, tx, rep); err != nil {
		return err
	}
	// Adding the references again checks every row.
	for _, statement := range again {
		if _, err := tx.Exec(ctx, statement); err != nil {
			return fmt.Errorf("store: restore: %w", err)
		}
	}
	return schema.steps(ctx, tx, rep.Schema, newest)
}

// replaceable refuses a database that is not empty, unless it is to be replaced.
func replaceable(ctx context.Context, tx pgx.Tx, opts RestoreOptions) error {
	tables, err := present(ctx, tx)
	if err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, `LOCK TABLE `+strings.Join(tables, ", ")+` IN ACCESS EXCLUSIVE MODE`); err != nil {
		return fmt.Errorf("store: restore: %w", err)
	}
	if opts.Force {
		return nil
	}
	for _, table := range tables {
		var rows int64
		if err := tx.QueryRow(ctx, `SELECT count(*) FROM `+table).Scan(&rows); err != nil {
			return fmt.Errorf("store: restore: %w", err)
		}
		if rows > 0 {
			return &NotEmptyError{Table: table, Rows: rows}
		}
	}
	return nil
}

func (b *blockReader) part(ctx context.Context, tx pgx.Tx, header partHeader) (int64, error) {
	have, err := columns(ctx, tx, header.Table)
	if err != nil {
		return 0, fmt.Errorf("store: restore: %w", err)
	}
	for _, name := range header.Columns {
		if !slices.Contains(have, name) {
			return 0, corrupt("table %s has no column %q", header.Table, name)
		}
	}
	if len(header.Columns) != len(have) {
		return 0, corrupt("table %s has %d columns, not %d", header.Table, len(have), len(header.Columns))
	}
	for _, s := range header.Days {
		day, err := time.Parse(time.DateOnly, s)
		if err != nil || header.Table != "segments" {
			return 0, corrupt("it has a day %q", s)
		}
		if _, err := tx.Exec(ctx, partitionSQL(day)); err != nil {
			return 0, fmt.Errorf("store: restore: make partition of %s: %w", s, err)
		}
	}
	rows := &partReader{b: b, sum: sha256.New()}
	tag, err := tx.Conn().PgConn().CopyFrom(ctx, rows, fmt.Sprintf(`COPY %s (%s) FROM STDIN (FORMAT binary)`, header.Table, quoted(header.Columns)))
	var bad *CorruptBackupError
	switch {
	case errors.As(err, &bad):
		return 0, bad
	case err != nil:
		return 0, fmt.Errorf("store: restore %s: %w", header.Table, err)
	case rows.trailer == nil:
		return 0, corrupt("the rows of %s have no end", header.Table)
	case tag.RowsAffected() != rows.trailer.Rows:
		return 0, corrupt("%s has %d rows, not %d", header.Table, tag.RowsAffected(), rows.trailer.Rows)
	}
	return rows.trailer.Rows, nil
}

// end reads the trailer and sets the sequences.
func (b *blockReader) end(ctx context.Context, tx pgx.Tx, rep *BackupReport) error {
	rep.Digest, rep.Bytes = hex.EncodeToString(b.sum.Sum(nil)), b.n
	var trailer backupTrailer
	if err := b.json(&trailer); err != nil {
		return err
	}
	if trailer.Digest != rep.Digest {
		return corrupt("its content does not match its digest")
	}
	if trailer.Parts != len(rep.Rows) {
		return corrupt("it has %d parts, not %d", len(rep.Rows), trailer.Parts)
	}
	switch _, err := b.r.ReadByte(); {
	case err == nil:
		return corrupt("something follows its end")
	case !errors.Is(err, io.EOF):
		return broken(err)
	}
	for _, s := range trailer.Sequences {
		if !slices.Contains(backedUp, s.Table) {
			return corrupt("it has a sequence of %q", s.Table)
		}
		if _, err := tx.Exec(ctx, `SELECT setval(pg_get_serial_sequence($1, $2), $3, $4)`, s.Table, s.Column, s.Last, s.Used); err != nil {
			return fmt.Errorf("store: restore sequence of %s: %w", s.Table, err)
		}
	}
	return nil
}

// dropReferences drops the foreign keys of the tables and returns the statements
// that add them again: plans and approvals refer to each other, so there is no
// order in which they could be filled.
func dropReferences(ctx context.Context, tx pgx.Tx) (again []string, err error) {
	rows, err := tx.Query(ctx, `
		SELECT conrelid::regclass::text, quote_ident(conname), pg_get_constraintdef(c.oid) FROM pg_constraint c
		JOIN pg_class t ON t.oid = conrelid
		WHERE contype = 'f' AND conparentid = 0 AND t.relnamespace = current_schema()::regnamespace AND t.relname = ANY ($1)
		ORDER BY 1, 2`, backedUp)
	if err != nil {
		return nil, err
	}
	var drop []string
	for rows.Next() {
		var table, name, definition string
		if err := rows.Scan(&table, &name, &definition); err != nil {
			return nil, err
		}
		drop = append(drop, "ALTER TABLE "+table+" DROP CONSTRAINT "+name)
		again = append(again, "ALTER TABLE "+table+" ADD CONSTRAINT "+name+" "+definition)
	}
	if rows.Err() != nil {
		return nil, rows.Err()
	}
	for _, statement := range drop {
		if _, err := tx.Exec(ctx, statement); err != nil {
			return nil, err
		}
	}
	return again, nil
}

// steps runs the migrations from one version to another within a transaction,
// which goose cannot: it wants a connection of its own.
func (s schema) steps(ctx context.Context, tx pgx.Tx, from, to int64) error {
	names, err := fs.Glob(s.files, "*.sql")
	if err != nil {
		return fmt.Errorf("store: list migrations: %w", err)
	}
	slices.Sort(names) // the numbers have leading zeros
	if to < from {
		slices.Reverse(names)
	}
	for _, name := range names {
		up, down, number, err := migrations.Read(s.files, name)
		if err != nil {
			return fmt.Errorf("store: migrate: %w", err)
		}
		script, note := up, `INSERT INTO `+versionTable+` (version_id, is_applied) VALUES ($1, true)`
		if to < from {
			script, note = down, `DELETE FROM `+versionTable+` WHERE version_id = $1`
		}
		if number <= min(from, to) || number > max(from, to) {
			continue
		}
		if _, err := tx.Exec(ctx, script); err != nil {
			return fmt.Errorf("store: migrate: %s: %w", name, err)
		}
		if _, err := tx.Exec(ctx, note, number); err != nil {
			return fmt.Errorf("store: migrate: %s: %w", name, err)
		}
	}
	return nil
}
