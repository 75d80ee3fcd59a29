// Command score runs the dhalion binary on labelled recordings, as a user would,
// and prints how many of the labels it found.
//
//	go run ./lab/score -binary bin/dhalion testdata/recordings testdata/recordings/orders
//
// A folder has recordings and labels.csv: file, job, cause, target_vertex,
// target_subtask, target_worker, start, end, note. Each recording gets a
// DHALION_HOME of its own.
//
//   - single: one fault. Asked 3 s before it ends; the labelled cause at the
//     labelled target must come first.
//   - compound: several. Asked 3 s before the first ends; each labelled pair must
//     have at least 0.5, and no cause that is not labelled more than the least of
//     them.
//   - quiet: none, or transients. Asked every 15 s from 60 s after the first line;
//     nothing but transient may have 0.5.
//
// A folder whose labels.csv has a column incident is a corpus of the lab: a run
// has many incidents, each a few rows, and its history is Arrow or Parquet with
// RUN.topology.yaml beside it. Each incident is asked for 3 s before it ends, quiet
// windows every 15 s from 25 s (of failing 65 s) after a fault to the next; the score is printed by
// cause, magnitude and shape, with 95 % intervals.
//
// With -beside POLICY each recording has a second row, what that policy says of
// the same windows, by the same rules. -model none asks the rules alone: the model that
// comes with the program has learned from the lab's corpus.
package main

import (
	"bufio"
	"compress/gzip"
	"encoding/csv"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"time"
)

func main() {
	binary := flag.String("binary", "bin/dhalion", "the program to score")
	var p program
	flag.StringVar(&p.model, "model", "", "the model to combine with, none for the rules alone; the program's choice when empty")
	flag.StringVar(&p.beside, "beside", "", "a second policy to score beside the default, such as paper")
	flag.Parse()
	path, err := filepath.Abs(*binary)
	p.path = path
	if err != nil || flag.NArg() == 0 {
		fmt.Fprintln(os.Stderr, "usage: score [-binary FILE] [-model MODEL] [-beside POLICY] FOLDER...")
		os.Exit(64)
	}
	total := []map[string]*tally{{}} // of the default, then of the other
	if p.beside != "" {
		total = append(total, map[string]*tally{})
	}
	for _, folder := range flag.Args() {
		if err := scoreFolder(p, folder, total); err != nil {
			fmt.Fprintln(os.Stderr, "score:", err)
			os.Exit(1)
		}
	}
	for k, sums := range total {
		if len(sums) == 0 {
			continue // of corpora only, which print their own
		}
		if k > 0 {
			fmt.Printf("%s: ", p.beside)
		}
		for _, kind := range []string{"single", "compound", "quiet"} {
			if t := sums[kind]; t != nil {
				fmt.Printf("%s %d/%d  ", kind, t.right, t.all)
			}
		}
		fmt.Println()
	}
}

type tally struct{ right, all int }

type label struct {
	file, job, cause, vertex, subtask, worker string
	run, shape, magnitude, incident           string // of a corpus
	start, end                                time.Time
}

func (l label) quiet() bool { return l.cause == "" || l.cause == "none" || l.cause == "transient" }

type target struct {
	Component string `json:"component"`
	Instance  *int   `json:"instance"`
	Worker    string `json:"worker"`
}

type diagnosis struct {
	Target      target  `json:"target"`
	Cause       string  `json:"cause"`
	Probability float64 `json:"probability"`
}

func (d diagnosis) String() string {
	at := d.Target.Component + d.Target.Worker
	if d.Target.Instance != nil {
		at += fmt.Sprintf("[%d]", *d.Target.Instance)
	}
	return fmt.Sprintf("%s %s %.2f", d.Cause, at, d.Probability)
}

// short is a vertex's name without what Flink puts around it.
func short(name string) string {
	name, _, _ = strings.Cut(name, " -> ") // what is chained behind it
	return strings.TrimSpace(strings.ReplaceAll(strings.ReplaceAll(name, "Source: ", ""), ": Writer", ""))
}

func (l label) matches(d diagnosis) bool {
	if d.Cause != l.cause {
		return false
	}
	if l.worker != "" {
		return d.Target.Worker == l.worker
	}
	if l.vertex == "" || l.cause == "failing" { // the engine names no task: any target will do
		return true
	}
	if short(d.Target.Component) != short(l.vertex) {
		return false
	}
	exact := l.cause == "slow_instance" || l.cause == "data_skew"
	return !exact || l.subtask == "" || d.Target.Instance != nil && fmt.Sprint(*d.Target.Instance) == l.subtask
}

func scoreFolder(p program, folder string, total []map[string]*tally) error {
	labels, err := readLabels(filepath.Join(folder, "labels.csv"))
	if err != nil {
		return err
	}
	if slices.ContainsFunc(labels, func(l label) bool { return l.incident != "" }) {
		return scoreCorpus(p, folder, labels)
	}
	byFile := map[string][]label{}
	for _, l := range labels {
		if _, err := os.Stat(filepath.Join(folder, l.file)); err == nil {
			byFile[l.file] = append(byFile[l.file], l)
		}
	}
	var files []string
	for f := range byFile {
		files = append(files, f)
	}
	sort.Strings(files)
	for _, f := range files {
		kind, rows := scoreFile(p, filepath.Join(folder, f), byFile[f])
		for k, row := range rows {
			sums := total[k]
			if sums[kind] == nil {
				sums[kind] = &tally{}
			}
			sums[kind].all++
			if row.right {
				sums[kind].right++
			}
			if k == 0 {
				fmt.Println(verdict(row.right), kind, filepath.Join(filepath.Base(folder), f), row.said)
			} else {
				fmt.Println(verdict(row.right), kind, " ", p.beside+":", row.said)
			}
		}
	}
	return nil
}

// row is what one policy said of a recording, and whether that was right.
type row struct {
	right bool
	said  string
}

// scoreFile gives a row, and with beside a second.
func scoreFile(p program, path string, labels []label) (kind string, rows []row) {
	var real []label
	for _, l := range labels {
		if !l.quiet() {
			real = append(real, l)
		}
	}
	kind = map[int]string{0: "quiet", 1: "single"}[min(len(real), 2)]
	if kind == "" {
		kind = "compound"
	}
	failed := func(err error) (string, []row) {
		rows := []row{{said: err.Error()}}
		if p.beside != "" {
			rows = append(rows, rows[0])
		}
		return kind, rows
	}
	r, err := newRun(p)
	if err != nil {
		return failed(err)
	}
	defer r.close()
	if _, err := r.dhalion("ingest", path); err != nil {
		return failed(err)
	}
	if kind == "quiet" {
		if rows, err = r.quiet(path, labels[0].job); err != nil {
			return failed(err)
		}
		return kind, rows
	}
	at := real[0].end
	for _, l := range real {
		if l.end.Before(at) {
			at = l.end
		}
	}
	answers, err := r.diagnose(labels[0].job, at.Add(-3*time.Second))
	if err != nil {
		return failed(err)
	}
	for _, found := range answers {
		right := kind == "single" && len(found) > 0 && real[0].matches(found[0]) || kind == "compound" && compound(real, found)
		rows = append(rows, row{right, fmt.Sprint(found[:min(4, len(found))])})
	}
	return kind, rows
}

// compound: every labelled pair has 0.5, and no other cause has more than the
// least of them.
func compound(real []label, found []diagnosis) bool {
	least := 1.0
	labelled := map[string]bool{}
	for _, l := range real {
		labelled[l.cause] = true
		held := 0.0
		for _, d := range found {
			if l.matches(d) {
				held = max(held, d.Probability)
			}
		}
		least = min(least, held)
	}
	if least < 0.5 {
		return false
	}
	for _, d := range found {
		if !labelled[d.Cause] && d.Probability > least {
			return false
		}
	}
	return true
}

// run is one DHALION_HOME with its server.
type run struct {
	program
	home string
}

// program is the binary to score, and what it is asked with.
type program struct{ path, model, beside string }

func newRun(p program) (*run, error) {
	home, err := os.MkdirTemp("", "dhalion-score-")
	if err != nil {
		return nil, err
	}
	r := &run{p, home}
	if err := os.Chmod(home, 0o755); err != nil { // PostgreSQL may run as another user
		return nil, err
	}
	_, err = r.dhalion("db", "start")
	return r, err
}

func (r *run) close() {
	if _, err := r.dhalion("db", "stop"); err != nil {
		fmt.Fprintln(os.Stderr, "score:", err)
	}
	if err := os.RemoveAll(r.home); err != nil {
		fmt.Fprintln(os.Stderr, "score:", err)
	}
}

func (r *run) dhalion(args ...string) ([]byte, error) {
	cmd := exec.Command(r.path, args...)
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "DATABASE_URL=") && !strings.HasPrefix(e, "DHALION_HOME=") {
			cmd.Env = append(cmd.Env, e)
		}
	}
	cmd.Env = append(cmd.Env, "DHALION_HOME="+r.home)
	out, err := cmd.Output()
	var failed *exec.ExitError
	if errors.As(err, &failed) {
		return nil, fmt.Errorf("dhalion %s: %w: %s", args[0], err, strings.TrimSpace(string(failed.Stderr)))
	}
	return out, err
}

// diagnose gives the diagnoses of the default policy and, with beside, of that.
func (r *run) diagnose(job string, at time.Time) ([][]diagnosis, error) {
	args := []string{"diagnose", job, "--at", at.UTC().Format(time.RFC3339Nano), "--window", "60s", "-o", "json"}
	if r.model != "" {
		args = append(args, "--model", r.model)
	}
	if r.beside != "" {
		args = append(args, "--beside", r.beside)
	}
	out, err := r.dhalion(args...)
	if err != nil {
		return nil, err
	}
	var answer struct {
		Diagnoses []diagnosis
		Beside    *struct{ Diagnoses []diagnosis }
	}
	if err := json.Unmarshal(out, &answer); err != nil {
		return nil, err
	}
	answers := [][]diagnosis{answer.Diagnoses}
	if r.beside != "" {
		if answer.Beside == nil {
			return nil, errors.New("dhalion diagnose: no answer of policy " + r.beside)
		}
		answers = append(answers, answer.Beside.Diagnoses)
	}
	return answers, nil
}

func (r *run) quiet(path, job string) ([]row, error) {
	first, last, err := span(path)
	if err != nil {
		return nil, err
	}
	var alarms [2][]string
	policies := 1
	for at := first.Add(time.Minute); !at.After(last); at = at.Add(15 * time.Second) {
		answers, err := r.diagnose(job, at)
		if err != nil {
			return nil, err
		}
		policies = len(answers)
		for k, found := range answers {
			for _, d := range found {
				if d.Probability >= 0.5 && d.Cause != "transient" {
					alarms[k] = append(alarms[k], at.UTC().Format("15:04:05")+" "+d.String())
				}
			}
		}
	}
	var rows []row
	for _, a := range alarms[:policies] {
		said := strings.Join(a[:min(4, len(a))], "; ")
		if len(a) > 4 {
			said += fmt.Sprintf("; and %d more", len(a)-4)
		}
		rows = append(rows, row{len(a) == 0, said})
	}
	return rows, nil
}

// span is the time of a recording's first and last line.
func span(path string) (first, last time.Time, err error) {
	f, err := os.Open(path)
	if err != nil {
		return first, last, err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return first, last, err
	}
	lines := bufio.NewReader(z)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 1 {
			var head struct{ Time time.Time }
			if err := json.Unmarshal(line, &head); err != nil {
				return first, last, err
			}
			if first.IsZero() {
				first = head.Time
			}
			last = head.Time
		}
		if errors.Is(err, io.EOF) {
			return first, last, nil
		}
		if err != nil {
			return first, last, err
		}
	}
}

func readLabels(path string) ([]label, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if len(rows) == 0 {
		return nil, fmt.Errorf("%s: no header", path)
	}
	column := map[string]int{}
	for i, name := range rows[0] {
		column[name] = i
	}
	for _, name := range []string{"file", "job", "cause", "target_vertex", "target_subtask", "target_worker", "start", "end"} {
		if _, ok := column[name]; !ok {
			return nil, fmt.Errorf("%s: no column %s", path, name)
		}
	}
	var labels []label
	for i, row := range rows[1:] {
		get := func(name string) string {
			if i, ok := column[name]; ok {
				return row[i]
			}
			return ""
		}
		l := label{file: get("file"), job: get("job"), cause: get("cause"), vertex: get("target_vertex"), subtask: get("target_subtask"), worker: get("target_worker"),
			run: get("run"), shape: get("shape"), magnitude: get("magnitude"), incident: get("incident")}
		var err1, err2 error
		l.start, err1 = time.Parse(time.RFC3339, get("start"))
		l.end, err2 = time.Parse(time.RFC3339, get("end"))
		if err := errors.Join(err1, err2); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", path, i+2, err)
		}
		labels = append(labels, l)
	}
	return labels, nil
}
