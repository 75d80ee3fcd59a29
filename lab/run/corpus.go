package main

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

var (
	labelsHeader = strings.Split("file,job,cause,target_vertex,target_subtask,target_worker,start,end,note,run,shape,magnitude,split,incident", ",")
	runsHeader   = strings.Split("run,shape,split,seed,start,end,incidents,faultless_seconds,free_min,free_mean,niced_mean,burn,flink", ",")
)

// limit is how large a corpus may be, bytes.
const limit = 25 << 20

// addRun exports a finished run into the corpus and labels it; text says what it
// had.
func addRun(ctx context.Context, o options, tool, run string) (text string, err error) {
	log, err := readLog(filepath.Join(o.out, "runs", run+".json"))
	if err != nil {
		return "", err
	}
	recording := filepath.Join(o.out, "runs", run+".jsonl.gz")
	file, err := export(ctx, o, tool, run, recording)
	if err != nil {
		return "", err
	}
	return labelRun(o, log, recording, file)
}

// export writes the run's history and topology into the corpus.
func export(ctx context.Context, o options, tool, run, recording string) (file string, err error) {
	h, err := newHome(o.out, tool)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, h.close()) }()
	if _, err := h.dhalion(ctx, "ingest", recording); err != nil {
		return "", err
	}
	file = run + ".parquet"
	data, topology := filepath.Join(o.corpus, file), filepath.Join(o.corpus, run+".topology.yaml")
	if _, err := h.dhalion(ctx, "export", run, "--out", data, "--topology-out", topology); err != nil {
		return "", err
	}
	// An export is its owner's alone; the corpus is for all.
	return file, errors.Join(os.Chmod(data, 0o644), os.Chmod(topology, 0o644))
}

// labelRun writes a run's rows into labels.csv and runs.csv, in place of those
// that it had.
func labelRun(o options, log runLog, recording, file string) (string, error) {
	r, err := readRecording(recording)
	if err != nil {
		return "", err
	}
	all := label(log, r)
	s := log.Scenario
	if err := replaceRows(filepath.Join(o.corpus, "labels.csv"), labelsHeader, 9, s.Name, lines(log, all, file)); err != nil {
		return "", err
	}
	samples := log.Machine.samples()
	least, mean := freeShares(samples)
	niced := 0.0
	for _, x := range samples {
		niced += x.nice / float64(len(samples))
	}
	burn := []string{}
	for _, name := range slices.Sorted(maps.Keys(s.Base.Burn)) {
		burn = append(burn, fmt.Sprintf("%s=%g", name, s.Base.Burn[name]))
	}
	incidents, doubted := 0, []string{}
	for _, l := range all {
		if !l.quiet() {
			incidents++
		}
		for _, d := range l.doubts {
			doubted = append(doubted, l.Name+" "+d)
		}
	}
	row := []string{s.Name, s.Shape, s.Split, fmt.Sprint(s.Seed), stamp(log.Begin), stamp(log.End), fmt.Sprint(incidents),
		fmt.Sprintf("%.0f", faultless(log, all).Seconds()), fmt.Sprintf("%.2f", least), fmt.Sprintf("%.2f", mean), fmt.Sprintf("%.2f", niced), strings.Join(burn, " "), log.Flink}
	if err := replaceRows(filepath.Join(o.corpus, "runs.csv"), runsHeader, 0, s.Name, [][]string{row}); err != nil {
		return "", err
	}
	text := fmt.Sprintf("%d incidents, %d doubted", incidents, len(doubted))
	if len(doubted) > 0 {
		text += ": " + strings.Join(doubted, "; ")
	}
	return text, sheet(o)
}

// rebuild exports and labels every recording that is there again, by the program
// and the rules of today.
func rebuild(ctx context.Context, o options) error {
	tool, err := filepath.Abs(o.binary)
	if err != nil {
		return err
	}
	logs, err := filepath.Glob(filepath.Join(o.out, "runs", "*.json"))
	if err != nil {
		return err
	}
	for _, path := range logs {
		run := strings.TrimSuffix(filepath.Base(path), ".json")
		text, err := addRun(ctx, o, tool, run)
		if err != nil {
			return fmt.Errorf("%s: %w", run, err)
		}
		fmt.Println(run+":", text)
	}
	return nil
}

// addMissing puts the recorded runs into the corpus that are not in it: those of a
// runner that was stopped.
func addMissing(ctx context.Context, o options) error {
	tool, err := filepath.Abs(o.binary)
	if err != nil {
		return err
	}
	logs, err := filepath.Glob(filepath.Join(o.out, "runs", "*.json"))
	if err != nil {
		return err
	}
	rows, err := readTable(filepath.Join(o.corpus, "runs.csv"), runsHeader)
	if err != nil {
		return err
	}
	for _, path := range logs {
		run := strings.TrimSuffix(filepath.Base(path), ".json")
		if slices.ContainsFunc(rows, func(row []string) bool { return row[0] == run }) {
			continue
		}
		text, err := addRun(ctx, o, tool, run)
		if err != nil {
			return fmt.Errorf("%s: %w", run, err)
		}
		fmt.Println(run+":", text)
	}
	return nil
}

// relabel labels every recording that is there again, by the rules of today.
func relabel(o options) error {
	logs, err := filepath.Glob(filepath.Join(o.out, "runs", "*.json"))
	if err != nil {
		return err
	}
	for _, path := range logs {
		run := strings.TrimSuffix(filepath.Base(path), ".json")
		log, err := readLog(path)
		if err != nil {
			return err
		}
		text, err := labelRun(o, log, strings.TrimSuffix(path, ".json")+".jsonl.gz", run+".parquet")
		if err != nil {
			return fmt.Errorf("%s: %w", run, err)
		}
		fmt.Println(run+":", text)
	}
	return nil
}

func readTable(path string, header []string) ([][]string, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	rows, err := csv.NewReader(bytes.NewReader(data)).ReadAll()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if len(rows) == 0 || !slices.Equal(rows[0], header) {
		return nil, fmt.Errorf("%s:1: the header is not %s", path, strings.Join(header, ","))
	}
	return rows[1:], nil
}

// replaceRows puts a run's rows in place of those it had, or behind the others.
func replaceRows(path string, header []string, column int, run string, rows [][]string) error {
	old, err := readTable(path, header)
	if err != nil {
		return err
	}
	var all [][]string
	put := false
	for _, row := range old {
		if row[column] != run {
			all = append(all, row)
		} else if !put {
			all, put = append(all, rows...), true
		}
	}
	if !put {
		all = append(all, rows...)
	}
	var out bytes.Buffer
	w := csv.NewWriter(&out)
	if err := w.WriteAll(append([][]string{header}, all...)); err != nil {
		return err
	}
	return writeFile(path, out.Bytes())
}

// Between these lines of the data sheet stands what the tables say.
const (
	sheetBegin = "<!-- counts: written by lab/run -->"
	sheetEnd   = "<!-- end of counts -->"
)

// sheet writes the counts into the data sheet, and refuses a corpus that has
// grown too large.
func sheet(o options) error {
	labels, err := readTable(filepath.Join(o.corpus, "labels.csv"), labelsHeader)
	if err != nil {
		return err
	}
	runs, err := readTable(filepath.Join(o.corpus, "runs.csv"), runsHeader)
	if err != nil {
		return err
	}
	path := filepath.Join(o.corpus, "README.md")
	old, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	head, rest, ok1 := strings.Cut(string(old), sheetBegin)
	_, tail, ok2 := strings.Cut(rest, sheetEnd)
	if !ok1 || !ok2 {
		return fmt.Errorf("%s: the lines %q and %q are gone", path, sheetBegin, sheetEnd)
	}
	size, err := folderSize(o.corpus)
	if err != nil {
		return err
	}
	if size > limit {
		return fmt.Errorf("%s has %d bytes, more than %d", o.corpus, size, limit)
	}
	return writeFile(path, []byte(head+sheetBegin+"\n"+counts(labels, runs, size)+sheetEnd+tail))
}

func folderSize(dir string) (total int64, err error) {
	files, err := os.ReadDir(dir)
	if err != nil {
		return 0, err
	}
	for _, f := range files {
		info, err := f.Info()
		if err != nil {
			return 0, err
		}
		total += info.Size()
	}
	return total, nil
}

// counts is the data sheet's table.
func counts(labels, runs [][]string, size int64) string {
	type incident struct{ causes, shape, magnitude, split string }
	byID := map[string]*incident{}
	var order []string
	doubted, unchecked := 0, 0
	for _, l := range labels {
		cause, id := l[2], l[13]
		switch {
		case strings.Contains(l[8], "verified=no"):
			doubted++
		case strings.Contains(l[8], "verified=unchecked"):
			unchecked++
		}
		if cause == "none" {
			continue
		}
		in := byID[id]
		if in == nil {
			in = &incident{shape: l[10], magnitude: l[11], split: l[12]}
			byID[id] = in
			order = append(order, id)
		}
		causes := strings.FieldsFunc(in.causes, func(r rune) bool { return r == '+' })
		if !slices.Contains(causes, cause) {
			causes = append(causes, cause)
			slices.Sort(causes)
			in.causes = strings.Join(causes, "+")
		}
	}
	table := map[string]map[string]int{}
	total := map[string]int{}
	add := func(row, column string) {
		if table[row] == nil {
			table[row] = map[string]int{}
		}
		table[row][column]++
	}
	shapes := map[string]bool{}
	for _, id := range order {
		in := byID[id]
		shapes[in.shape] = true
		for _, column := range []string{in.shape, in.magnitude, "all"} {
			add(in.causes, column)
			total[column]++
		}
	}
	columns := slices.Concat(slices.Sorted(maps.Keys(shapes)), []string{"mild", "moderate", "strong", "all"})
	var out strings.Builder
	faultless := 0.0
	for _, r := range runs {
		var v float64
		if _, err := fmt.Sscan(r[7], &v); err == nil {
			faultless += v
		}
	}
	fmt.Fprintf(&out, "%d runs, %d incidents, %.0f min of job time without a fault, %d rows whose check failed, %d that nothing checks, %.1f MB.\n\n", len(runs), len(order), faultless/60, doubted, unchecked, float64(size)/1e6)
	fmt.Fprintf(&out, "| causes | %s |\n|---|%s\n", strings.Join(columns, " | "), strings.Repeat("--:|", len(columns)))
	row := func(name string, of map[string]int) {
		fmt.Fprintf(&out, "| %s |", name)
		for _, c := range columns {
			fmt.Fprintf(&out, " %d |", of[c])
		}
		out.WriteByte('\n')
	}
	for _, name := range slices.Sorted(maps.Keys(table)) {
		row(name, table[name])
	}
	row("all", total)
	return out.String()
}

// home is a DHALION_HOME of its own, which is gone when it is closed.
type home struct{ dir, tool string }

func newHome(out, tool string) (home, error) {
	dir, err := os.MkdirTemp("", "dhalion-lab-")
	if err != nil {
		return home{}, err
	}
	// PostgreSQL may run as another user and must pass through.
	return home{dir, tool}, os.Chmod(dir, 0o755)
}

// dhalion runs the program behind all other work: a run may be recorded.
func (h home) dhalion(ctx context.Context, args ...string) ([]byte, error) {
	name, args := h.tool, args
	if nice, err := exec.LookPath("nice"); err == nil {
		name, args = nice, append([]string{"-n", "39", h.tool}, args...) // from -10 to 19
	}
	c := exec.CommandContext(ctx, name, args...)
	c.Env = append(slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "DATABASE_URL=") }), "DHALION_HOME="+h.dir)
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, &errs
	if err := c.Run(); err != nil {
		return nil, fmt.Errorf("dhalion %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(errs.String()))
	}
	return out.Bytes(), nil
}

func (h home) close() error { return os.RemoveAll(h.dir) }

// replay diagnoses a run from its recording and from its export, at each of its
// incidents' ends, and says where they differ.
func replay(ctx context.Context, o options, run string) error {
	log, err := readLog(filepath.Join(o.out, "runs", run+".json"))
	if err != nil {
		return err
	}
	tool, err := filepath.Abs(o.binary)
	if err != nil {
		return err
	}
	answers := [2][]string{}
	for k, args := range [][]string{
		{"ingest", filepath.Join(o.out, "runs", run+".jsonl.gz")},
		{"ingest", filepath.Join(o.corpus, run+".parquet"), "--topology", filepath.Join(o.corpus, run+".topology.yaml")},
	} {
		if answers[k], err = diagnoses(ctx, o, tool, log, args); err != nil {
			return err
		}
	}
	differ := 0
	for i := range answers[0] {
		if answers[0][i] != answers[1][i] {
			differ++
			fmt.Printf("%s\n  recording %s\n  export    %s\n", log.Incidents[i].Name, answers[0][i], answers[1][i])
		}
	}
	if differ > 0 {
		return fmt.Errorf("%s: %d of %d diagnoses differ between recording and export", run, differ, len(answers[0]))
	}
	fmt.Printf("%s: recording and export give the same %d diagnoses\n", run, len(answers[0]))
	return nil
}

func diagnoses(ctx context.Context, o options, tool string, log runLog, ingest []string) (all []string, err error) {
	h, err := newHome(o.out, tool)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, h.close()) }()
	if _, err := h.dhalion(ctx, "db", "start"); err != nil {
		return nil, err
	}
	defer func() {
		_, stopped := h.dhalion(context.WithoutCancel(ctx), "db", "stop")
		err = errors.Join(err, stopped)
	}()
	if _, err := h.dhalion(ctx, ingest...); err != nil {
		return nil, err
	}
	for _, in := range log.Incidents {
		out, err := h.dhalion(ctx, "diagnose", log.Scenario.Name, "--at", in.End.Add(-3*time.Second).Format(time.RFC3339), "-o", "json")
		if err != nil {
			return nil, err
		}
		var answer struct {
			Diagnoses json.RawMessage `json:"diagnoses"`
		}
		if err := json.Unmarshal(out, &answer); err != nil {
			return nil, err
		}
		all = append(all, string(answer.Diagnoses))
	}
	return all, nil
}
