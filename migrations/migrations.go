// Package migrations holds the schema of Dhalion's database as numbered SQL
// files (NNNNN_name.sql) in the format of goose, each with an up and a down
// part. internal/store runs them.
//
// Names in them are not qualified: a schema that the connection's search_path
// names first is where everything is made, so that several installations (and
// every test) can share one database.
package migrations

import "embed"

// FS holds the migrations.
//
//go:embed *.sql
var FS embed.FS
