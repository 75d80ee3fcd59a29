package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/dhalion-go/dhalion/internal/store"
	"github.com/dhalion-go/dhalion/plan/planfile"
)

// maxID is the length of a whole digest, which is as good as an id.
const maxID = 64

// isID reports whether an argument PLAN is an id, the beginning of one, or a
// digest; all else is a file. A file with such a name is ./NAME.
func isID(ref string) bool {
	return ref != "" && len(ref) <= maxID && strings.Trim(ref, "0123456789abcdef") == ""
}

// find reads the plan that an argument stands for: a file, or a row of the store.
// A file's row is looked up, too; there may be none.
func find(ctx context.Context, st *store.Store, ref string) (*document, error) {
	if !isID(ref) {
		d, err := readDocument(ref)
		if err != nil {
			return nil, err
		}
		return d, d.lookUp(ctx, st)
	}
	row, err := st.Plan(ctx, ref)
	if err != nil {
		return nil, err
	}
	return documentOf(row)
}

// documentOf is the document of a row.
func documentOf(row *store.PlanRow) (d *document, err error) {
	d = &document{doc: row.Body, row: row}
	if d.plan, d.id, d.digest, err = planfile.Decode(row.Body, row.ID); err != nil {
		return nil, err
	}
	return d, nil
}

// readDocument reads a plan from a file.
func readDocument(path string) (*document, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, hinted(fmt.Errorf("plan %s: there is no such file, and it is no id", path), "list the plans: dhalion show")
	}
	if err != nil {
		return nil, fmt.Errorf("plan: %w", err)
	}
	d := &document{doc: data}
	d.plan, d.id, d.digest, err = planfile.Decode(data, path)
	return d, err
}

// lookUp finds what the store knows of a document.
func (d *document) lookUp(ctx context.Context, st *store.Store) error {
	row, err := st.Plan(ctx, d.id)
	var missing *store.NotFoundError
	if errors.As(err, &missing) {
		return nil
	}
	d.row = row
	return err
}
