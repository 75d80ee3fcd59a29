package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/dhalion-go/dhalion/models"
)

// fitted is what one side came to on one seed.
type fitted struct {
	Accuracy float64 `json:"accuracy"`
	LogLoss  float64 `json:"log_loss"`
	Fit      float64 `json:"fit"`     // s
	Predict  float64 `json:"predict"` // s, all rows of the test part
}

// booster compares our histogram booster with scikit-learn's: 12,500 rows of
// make_classification (40 features, 20 informative, 6 classes), 10,000 to learn
// from, the seeds 0 to 4, both sides with the same settings, one after the other.
func (b *bench) booster(ctx context.Context) error {
	out, err := exec.CommandContext(ctx, "scripts/python", "learn").Output()
	if err != nil {
		return fmt.Errorf("scripts/python learn: %w", err)
	}
	theirs := exec.CommandContext(ctx, strings.TrimSpace(string(out)), "lab/bench/booster.py", b.dir)
	theirs.Stderr = os.Stderr
	ask, err := theirs.StdinPipe()
	if err != nil {
		return err
	}
	answer, err := theirs.StdoutPipe()
	if err != nil {
		return err
	}
	if err := theirs.Start(); err != nil {
		return err
	}
	lines := bufio.NewScanner(answer)
	var sums [2]fitted
	const seeds = 5
	fmt.Printf("%-5s %-13s %9s %9s %8s %10s\n", "seed", "", "accuracy", "log loss", "fit s", "predict ms")
	for seed := range seeds {
		fmt.Fprintln(ask, seed)
		if !lines.Scan() {
			return fmt.Errorf("booster.py ended: %w", theirs.Wait())
		}
		var both [2]fitted
		if err := json.Unmarshal(lines.Bytes(), &both[1]); err != nil {
			return err
		}
		if both[0], err = ours(ctx, b.dir, uint64(seed)); err != nil {
			return err
		}
		for k, f := range both {
			fmt.Printf("%-5d %-13s %9.4f %9.4f %8.2f %10.1f\n", seed, [2]string{"ours", "scikit-learn"}[k], f.Accuracy, f.LogLoss, f.Fit, 1e3*f.Predict)
			sums[k].Accuracy += f.Accuracy / seeds
			sums[k].LogLoss += f.LogLoss / seeds
			sums[k].Fit += f.Fit / seeds
			sums[k].Predict += f.Predict / seeds
		}
	}
	ask.Close()
	if err := theirs.Wait(); err != nil {
		return err
	}
	us, them := sums[0], sums[1]
	fmt.Printf("means: accuracy %.4f and %.4f, log loss %.4f and %.4f\n", us.Accuracy, them.Accuracy, us.LogLoss, them.LogLoss)
	b.holds("accuracy, less than scikit-learn's by", them.Accuracy-us.Accuracy, .005)
	b.holds("log loss, more than scikit-learn's by", us.LogLoss-them.LogLoss, .02)
	b.holds("fit, times scikit-learn's", us.Fit/them.Fit, 1.5*(1+slack))
	b.holds("prediction, times scikit-learn's", us.Predict/them.Predict, 1+slack)
	return nil
}

// holds prints a figure and fails the run where it is above its bound.
func (b *bench) holds(what string, value, bound float64) {
	fmt.Printf("%s: %.3f (fails above %.3f)\n", what, value, bound)
	if !(value <= bound) {
		b.failed = append(b.failed, what)
	}
}

// ours learns from what the other side wrote down.
func ours(ctx context.Context, dir string, seed uint64) (f fitted, err error) {
	read := func(name string) *models.Data {
		if err != nil {
			return nil
		}
		var x, y []byte
		if x, err = os.ReadFile(filepath.Join(dir, name+"-x.bin")); err != nil {
			return nil
		}
		if y, err = os.ReadFile(filepath.Join(dir, name+"-y.bin")); err != nil {
			return nil
		}
		d := &models.Data{Rows: len(y) / 8, Classes: 6, X: make([]float64, len(x)/8), Y: make([]int, len(y)/8)}
		for i := range d.X {
			d.X[i] = math.Float64frombits(binary.LittleEndian.Uint64(x[8*i:]))
		}
		for i := range d.Y {
			d.Y[i] = int(binary.LittleEndian.Uint64(y[8*i:]))
		}
		for i := range len(d.X) / d.Rows {
			d.Names = append(d.Names, fmt.Sprint("x", i))
		}
		return d
	}
	train, test := read("train"), read("test")
	if err != nil {
		return f, err
	}
	start := time.Now()
	m, err := models.NewBooster().Fit(ctx, train, seed)
	if err != nil {
		return f, err
	}
	f.Fit = time.Since(start).Seconds()
	boosted, ok := m.(*models.Boosted)
	if !ok {
		return f, fmt.Errorf("the booster learned a %T", m)
	}
	var took []float64
	var p []float64
	for range 5 {
		start := time.Now()
		p = boosted.PredictAll(test.X, len(test.Names))
		took = append(took, time.Since(start).Seconds())
	}
	slices.Sort(took)
	f.Predict = took[2]
	for i, y := range test.Y {
		row := p[i*6 : (i+1)*6]
		f.LogLoss -= math.Log(max(row[y], 1e-15)) / float64(test.Rows)
		if slices.Index(row, slices.Max(row)) == y {
			f.Accuracy += 1 / float64(test.Rows)
		}
	}
	return f, nil
}
