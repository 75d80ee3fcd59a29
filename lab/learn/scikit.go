package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/dhalion-go/dhalion/diagnose"
)

// sklearn has scikit-learn learn from the same tables as our learners: scikit.py,
// which is started when it is first asked.
type sklearn struct {
	dir    string
	worker *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Reader
}

// task is a line to the other side: for each table the files N-x.bin, N-y.bin and
// N-w.bin to learn from and N-t.bin to be asked about, of so many columns; it writes
// N-p.bin. All are little-endian float64.
type task struct {
	Learner string `json:"learner"`
	Seed    uint64 `json:"seed"`
	Columns []int  `json:"columns"`
}

func (s *sklearn) start(ctx context.Context) (err error) {
	if s.worker != nil {
		return nil
	}
	python, err := exec.CommandContext(ctx, "scripts/python", "learn").Output()
	if err != nil {
		return fmt.Errorf("scripts/python learn: %w", err)
	}
	if s.dir, err = os.MkdirTemp("", "dhalion-learn-"); err != nil {
		return err
	}
	s.worker = exec.CommandContext(ctx, strings.TrimSpace(string(python)), "lab/learn/scikit.py", s.dir)
	s.worker.Stderr = os.Stderr
	if s.in, err = s.worker.StdinPipe(); err != nil {
		return err
	}
	out, err := s.worker.StdoutPipe()
	if err != nil {
		return err
	}
	s.out = bufio.NewReader(out)
	return s.worker.Start()
}

func (s *sklearn) close() error {
	if s.worker == nil {
		return nil
	}
	defer os.RemoveAll(s.dir)
	if err := s.in.Close(); err != nil {
		return err
	}
	return s.worker.Wait()
}

// learn is one of scikit-learn's classifiers, alone. It learns when it is asked: both
// go over together.
func (s *sklearn) learn(name string, seed uint64) func(context.Context, []window) (asker, error) {
	return func(ctx context.Context, from []window) (asker, error) {
		return func(all []window) ([][]float64, error) {
			if err := s.start(ctx); err != nil {
				return nil, err
			}
			t := task{Learner: name, Seed: seed}
			tables := diagnose.Tables(examples(from))
			rate := ratesOf(from, func(c diagnose.Case) bool {
				return !slices.ContainsFunc(tables, func(t diagnose.Table) bool { return placeOf(c) == place{t.Cause, t.Kind} })
			})
			out := make([][]float64, len(all))
			for i, w := range all {
				out[i] = make([]float64, len(w.Cases))
				for k, c := range w.Cases {
					out[i][k] = rate[placeOf(c)]
				}
			}
			var asked [][][2]int // window and case of each row
			for n, table := range tables {
				y := make([]float64, len(table.Data.Y))
				for i, v := range table.Data.Y {
					y[i] = float64(v)
				}
				var x []float64
				var rows [][2]int
				for i, w := range all {
					for k, c := range w.Cases {
						if c.Cause == table.Cause && c.Target.Kind == table.Kind {
							x, rows = append(x, diagnose.Inputs(c)...), append(rows, [2]int{i, k})
						}
					}
				}
				for suffix, values := range map[string][]float64{"x": table.Data.X, "y": y, "w": table.Data.Weight, "t": x} {
					if err := os.WriteFile(s.file(n, suffix), floats(values), 0o644); err != nil {
						return nil, err
					}
				}
				t.Columns, asked = append(t.Columns, len(table.Data.Names)), append(asked, rows)
			}
			line, err := json.Marshal(t)
			if err != nil {
				return nil, err
			}
			if _, err := fmt.Fprintf(s.in, "%s\n", line); err != nil {
				return nil, fmt.Errorf("scikit.py: %w", err)
			}
			if answer, err := s.out.ReadString('\n'); err != nil || answer != "done\n" {
				return nil, fmt.Errorf("scikit.py: %q, %w", answer, err)
			}
			for n, rows := range asked {
				data, err := os.ReadFile(s.file(n, "p"))
				if err != nil {
					return nil, err
				}
				if len(data) != 8*len(rows) {
					return nil, fmt.Errorf("scikit.py: %d bytes for %d rows", len(data), len(rows))
				}
				for i, at := range rows {
					out[at[0]][at[1]] = math.Float64frombits(binary.LittleEndian.Uint64(data[8*i:]))
				}
			}
			return out, nil
		}, nil
	}
}

func (s *sklearn) file(n int, suffix string) string {
	return filepath.Join(s.dir, fmt.Sprintf("%d-%s.bin", n, suffix))
}

func floats(values []float64) []byte {
	out := make([]byte, 0, 8*len(values))
	for _, v := range values {
		out = binary.LittleEndian.AppendUint64(out, math.Float64bits(v))
	}
	return out
}
