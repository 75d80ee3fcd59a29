// Package archtest holds the import order of docs/architecture.md as a test.
package archtest

import (
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/dhalion-go/dhalion"

// steps is the import order: a package may import ours of earlier steps only,
// none of its own. A trailing /… stands for all packages below.
var steps = [][]string{
	{""},
	{"ingest/segment", "plan/policy", "plan/planfile", "models", "internal/twin", "internal/engine/…", "internal/config"},
	{"ingest", "features"},
	{"detect"},
	{"diagnose", "plan", "apply"},
	{"ingest/file", "ingest/flink", "ingest/storm", "ingest/spark", "ingest/heron", "ingest/prometheus", "ingest/flinkautoscaler", "apply/…", "internal/store"},
	{"internal/fleet"},
	{"internal/web"},
	{"cmd/…"},
}

// alone import nothing of ours, and anything may import them.
var alone = []string{"migrations", "internal/parallel", "internal/pgserver", "internal/spell", "internal/yamlerr"}

// only says who may import a library. Tests may import any.
var only = map[string][]string{
	"github.com/jackc/pgx/":          {"internal/store", "internal/fleet"},
	"github.com/sjwhitworth/golearn": {"models"},
	"github.com/apache/arrow/":       {"ingest/segment", "ingest/file", "features"},
	"github.com/spf13/cobra":         {"cmd/…"},
	"github.com/expr-lang/expr":      {"plan/policy"},
	"github.com/pressly/goose/":      {"internal/store"},
}

// pure packages take values and return values: no database, no network, no
// processes.
var pure = []string{"", "features", "detect", "diagnose", "models", "plan", "plan/policy", "internal/twin"}

// Models draw random numbers by a seed that they are given: TestModelsDrawBySeedOnly.
var impure = []string{"net", "net/http", "os/exec", "database/sql", "math/rand", "math/rand/v2"}

func matches(pattern, pkg string) bool {
	if below, ok := strings.CutSuffix(pattern, "/…"); ok {
		return strings.HasPrefix(pkg, below+"/")
	}
	return pattern == pkg
}

func stepOf(pkg string) int {
	return slices.IndexFunc(steps, func(patterns []string) bool {
		return slices.ContainsFunc(patterns, func(p string) bool { return matches(p, pkg) })
	})
}

type listed struct {
	ImportPath string
	Imports    []string
}

func packages(t *testing.T) []listed {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports", "./...")
	cmd.Dir = "../.."
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []listed
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// violations says what breaks the order; it is a function so that the test can
// be shown to see a broken one.
func violations(all []listed) []string {
	var found []string
	for _, p := range all {
		pkg := strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")
		if strings.HasPrefix(pkg, "lab") || pkg == "internal/archtest" {
			continue
		}
		step := stepOf(pkg)
		lonely := slices.Contains(alone, pkg)
		if step < 0 && !lonely {
			found = append(found, pkg+": has no place in the import order")
			continue
		}
		for _, imported := range p.Imports {
			if ours, ok := strings.CutPrefix(imported, module); ok {
				ours = strings.TrimPrefix(ours, "/")
				switch {
				case strings.HasPrefix(ours, "lab"):
					found = append(found, pkg+": imports the lab")
				case slices.Contains(alone, ours) && !lonely:
				case lonely:
					found = append(found, pkg+": imports "+imported+", and may import nothing of ours")
				case stepOf(ours) >= step:
					found = append(found, pkg+": imports "+ours+", which is not of an earlier step")
				}
				continue
			}
			for library, allowed := range only {
				if strings.HasPrefix(imported, library) && !slices.ContainsFunc(allowed, func(a string) bool { return matches(a, pkg) }) {
					found = append(found, pkg+": imports "+imported+", which is for "+strings.Join(allowed, ", "))
				}
			}
			if slices.Contains(pure, pkg) && slices.Contains(impure, imported) && !(imported == seeded && pkg == "models") {
				found = append(found, pkg+": is pure and imports "+imported)
			}
			if pkg == "" && strings.Contains(imported, ".") {
				found = append(found, "dhalion: imports "+imported+", and may import the standard library only")
			}
		}
	}
	return found
}

func TestImportsFollowTheOrder(t *testing.T) {
	for _, v := range violations(packages(t)) {
		t.Error(v)
	}
}

// seeded is a package whose generators models may make, by a seed; its own is global.
const seeded = "math/rand/v2"

func TestModelsDrawBySeedOnly(t *testing.T) {
	files, err := filepath.Glob("../../models/*.go")
	if err != nil || len(files) == 0 {
		t.Fatal("no files of models: ", err)
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			s, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			if x, ok := s.X.(*ast.Ident); ok && x.Name == "rand" && !slices.Contains([]string{"New", "NewPCG", "Rand"}, s.Sel.Name) {
				t.Errorf("%s: rand.%s draws from the global source", name, s.Sel.Name)
			}
			return true
		})
	}
}

func TestABrokenOrderIsSeen(t *testing.T) {
	for _, broken := range []listed{
		{module + "/features", []string{module + "/detect"}},
		{module + "/plan", []string{module + "/diagnose"}},
		{module + "/ingest/segment", []string{module + "/plan/policy"}},
		{module + "/migrations", []string{module}},
		{module + "/plan", []string{"github.com/jackc/pgx/v5"}},
		{module + "/cmd/dhalion", []string{"github.com/sjwhitworth/golearn/base"}},
		{module + "/detect", []string{"net/http"}},
		{module, []string{"gonum.org/v1/gonum/stat"}},
		{module + "/detect", []string{module + "/lab/run"}},
		{module + "/helpers", nil},
	} {
		if len(violations([]listed{broken})) != 1 {
			t.Errorf("%s importing %v passed", broken.ImportPath, broken.Imports)
		}
	}
}
