// Package migrations holds the schema of Dhalion's database as numbered SQL
// files (NNNNN_name.sql) in the format of goose, each with an up and a down
// part. internal/store runs them.
//
// Names in them are not qualified: a schema that the connection's search_path
// names first is where everything is made, so that several installations (and
// every test) can share one database.
package migrations

import (
	"embed"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
)

// FS holds the migrations.
//
//go:embed *.sql
var FS embed.FS

// Read gives the two parts of a migration as scripts that can be sent to the
// server as they are, and its number. goose's other marks are comments to the
// server; a migration that must run outside of a transaction is refused.
func Read(files fs.FS, name string) (up, down string, number int64, err error) {
	prefix, _, _ := strings.Cut(name, "_")
	if number, err = strconv.ParseInt(prefix, 10, 64); err != nil {
		return "", "", 0, fmt.Errorf("migrations: %s: its name does not begin with a number", name)
	}
	data, err := fs.ReadFile(files, name)
	if err != nil {
		return "", "", 0, fmt.Errorf("migrations: %w", err)
	}
	text := string(data)
	_, text, ok := strings.Cut(text, "-- +goose Up\n")
	if ok {
		up, down, ok = strings.Cut(text, "-- +goose Down\n")
	}
	if !ok || strings.Contains(string(data), "NO TRANSACTION") {
		return "", "", 0, fmt.Errorf("migrations: %s: it has no two parts that can run in a transaction", name)
	}
	return up, down, number, nil
}
