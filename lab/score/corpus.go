package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"time"
)

const (
	// askedBefore is how long before a fault's end its diagnosis is asked for.
	askedBefore = 3 * time.Second

	// quietAfter is how long after a fault the next quiet window ends at the
	// earliest: a label holds for a window if it was true in its last 20 s, and a
	// poll takes 5 s.
	quietAfter = 25 * time.Second

	// failedAfter is the same for failing, which by its definition holds as long as
	// the last outage is inside the window.
	failedAfter = 65 * time.Second
	quietEvery  = 15 * time.Second
)

// incident is a labelled stretch of a run: the rows that share an id.
type incident struct {
	id    string
	rows  []label
	start time.Time // of the first that begins
	end   time.Time // of the first that ends
	last  time.Time // of the last that ends
}

func (in incident) quiet() bool {
	return !slices.ContainsFunc(in.rows, func(l label) bool { return !l.quiet() })
}

// causes are the labelled ones that are no quiet ones, sorted.
func (in incident) causes() []string {
	var causes []string
	for _, l := range in.rows {
		if !l.quiet() && !slices.Contains(causes, l.cause) {
			causes = append(causes, l.cause)
		}
	}
	sort.Strings(causes)
	return causes
}

// right says whether what was found is what was labelled. With one cause the
// diagnosis that comes first must be it, at one of its targets: an overload is
// labelled at every component that it is too much for. With several, each must
// be found with 0.5 and no other stand above the least of them.
func (in incident) right(found []diagnosis) bool {
	causes := in.causes()
	if len(causes) == 1 {
		return len(found) > 0 && slices.ContainsFunc(in.rows, func(l label) bool { return !l.quiet() && l.matches(found[0]) })
	}
	least := 1.0
	for _, cause := range causes {
		held := 0.0
		for _, l := range in.rows {
			for _, d := range found {
				if l.cause == cause && l.matches(d) {
					held = max(held, d.Probability)
				}
			}
		}
		least = min(least, held)
	}
	return least >= 0.5 && !slices.ContainsFunc(found, func(d diagnosis) bool {
		return d.Probability > least && !slices.Contains(causes, d.Cause)
	})
}

// incidents are the rows of one run, by incident, in time.
func incidents(rows []label) []incident {
	byID := map[string]*incident{}
	var all []*incident
	for _, l := range rows {
		in := byID[l.incident]
		if in == nil {
			in = &incident{id: l.incident, start: l.start, end: l.end, last: l.end}
			byID[l.incident] = in
			all = append(all, in)
		}
		in.rows = append(in.rows, l)
		if l.start.Before(in.start) {
			in.start = l.start
		}
		if l.end.Before(in.end) {
			in.end = l.end
		}
		if l.end.After(in.last) {
			in.last = l.end
		}
	}
	sort.SliceStable(all, func(i, j int) bool { return all[i].start.Before(all[j].start) })
	sorted := make([]incident, len(all))
	for i, in := range all {
		sorted[i] = *in
	}
	return sorted
}

// table counts what was right by a heading (cause, magnitude, shape) and its
// values.
type table map[string]map[string]*tally

func (t table) count(heading, value string, right bool) {
	if t[heading] == nil {
		t[heading] = map[string]*tally{}
	}
	c := t[heading][value]
	if c == nil {
		c = &tally{}
		t[heading][value] = c
	}
	c.all++
	if right {
		c.right++
	}
}

// corpusScore is what a corpus said of one policy.
type corpusScore struct {
	incidents table
	quiet     table
}

// scoreCorpus asks for every incident of every run shortly before it ends, and
// for quiet windows every 15 s between them.
func scoreCorpus(p program, folder string, labels []label) error {
	byFile := map[string][]label{}
	for _, l := range labels {
		byFile[l.file] = append(byFile[l.file], l)
	}
	scores := []corpusScore{{table{}, table{}}}
	names := []string{""}
	if p.beside != "" {
		scores, names = append(scores, corpusScore{table{}, table{}}), append(names, p.beside)
	}
	for _, file := range slices.Sorted(maps.Keys(byFile)) {
		if err := scoreRun(p, folder, byFile[file], scores, names); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
	}
	for k, s := range scores {
		fmt.Println()
		if names[k] != "" {
			fmt.Printf("policy %s\n", names[k])
		}
		s.print(os.Stdout)
	}
	return nil
}

func scoreRun(p program, folder string, rows []label, scores []corpusScore, names []string) error {
	r, err := newRun(p)
	if err != nil {
		return err
	}
	defer r.close()
	file := filepath.Join(folder, rows[0].file)
	args := []string{"ingest", file}
	if topology := filepath.Join(folder, rows[0].run+".topology.yaml"); exists(topology) {
		args = append(args, "--topology", topology)
	}
	if _, err := r.dhalion(args...); err != nil {
		return err
	}
	first, last, err := r.span()
	if err != nil {
		return err
	}
	all := incidents(rows)
	for _, in := range all {
		if in.quiet() {
			continue
		}
		answers, err := r.diagnose(rows[0].job, in.end.Add(-askedBefore))
		if err != nil {
			return fmt.Errorf("%s: %w", in.id, err)
		}
		for k, found := range answers {
			right := in.right(found)
			s := scores[k].incidents
			s.count("", map[bool]string{true: "single", false: "compound"}[len(in.causes()) == 1], right)
			s.count("cause", strings.Join(in.causes(), "+"), right)
			s.count("magnitude", in.rows[0].magnitude, right)
			s.count("shape", in.rows[0].shape, right)
			fmt.Println(verdict(right), in.id, names[k], strings.Join(in.causes(), "+"), in.rows[0].magnitude, in.targets(), "→", fmt.Sprint(found[:min(4, len(found))]))
		}
	}
	alarms := make([]int, len(scores))
	asked := 0
	for at := first.Add(time.Minute); !at.After(last); at = at.Add(quietEvery) {
		if slices.ContainsFunc(all, func(in incident) bool {
			after := quietAfter
			if slices.Contains(in.causes(), "failing") {
				after = failedAfter
			}
			return !in.quiet() && at.After(in.start) && at.Before(in.last.Add(after))
		}) {
			continue
		}
		answers, err := r.diagnose(rows[0].job, at)
		if err != nil {
			return err
		}
		asked++
		for k, found := range answers {
			wrong := slices.DeleteFunc(slices.Clone(found), func(d diagnosis) bool { return d.Probability < 0.5 || d.Cause == "transient" })
			scores[k].quiet.count("quiet windows", rows[0].shape, len(wrong) == 0)
			if len(wrong) > 0 {
				alarms[k]++
				fmt.Println("ALARM", rows[0].run, names[k], at.UTC().Format(time.RFC3339), wrong)
			}
		}
	}
	for k, n := range alarms {
		fmt.Printf("%s %s quiet: %d windows asked, %d with a false alarm\n", rows[0].run, names[k], asked, n)
	}
	return nil
}

// targets are the labelled ones, for people.
func (in incident) targets() string {
	var all []string
	for _, l := range in.rows {
		if l.quiet() {
			continue
		}
		at := l.vertex + l.worker
		if l.subtask != "" {
			at += "[" + l.subtask + "]"
		}
		if at == "" {
			at = "job"
		}
		all = append(all, at)
	}
	return strings.Join(all, " ")
}

func verdict(right bool) string {
	if right {
		return "ok  "
	}
	return "MISS"
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, os.ErrNotExist)
}

// span is the time of a history's first and last measurement.
func (r *run) span() (first, last time.Time, err error) {
	out, err := r.dhalion("jobs", "-o", "json")
	if err != nil {
		return first, last, err
	}
	var answer struct {
		Jobs []struct{ From, To time.Time }
	}
	if err := json.Unmarshal(out, &answer); err != nil {
		return first, last, err
	}
	if len(answer.Jobs) != 1 {
		return first, last, fmt.Errorf("dhalion jobs: %d jobs, not one", len(answer.Jobs))
	}
	return answer.Jobs[0].From, answer.Jobs[0].To, nil
}

func (s corpusScore) print(w io.Writer) {
	for _, part := range []struct {
		of       table
		headings []string
	}{{s.incidents, []string{"", "cause", "magnitude", "shape"}}, {s.quiet, []string{"quiet windows"}}} {
		for _, h := range part.headings {
			var sum tally
			for _, value := range slices.Sorted(maps.Keys(part.of[h])) {
				t := part.of[h][value]
				sum.right, sum.all = sum.right+t.right, sum.all+t.all
				low, high := wilson(t.right, t.all)
				fmt.Fprintf(w, "%-14s %-36s %4d/%-4d %4.2f  (%.2f–%.2f)\n", h, value, t.right, t.all, float64(t.right)/float64(t.all), low, high)
			}
			if sum.all > 0 && h != "cause" {
				low, high := wilson(sum.right, sum.all)
				fmt.Fprintf(w, "%-14s %-36s %4d/%-4d %4.2f  (%.2f–%.2f)\n", h, "all", sum.right, sum.all, float64(sum.right)/float64(sum.all), low, high)
			}
		}
	}
}

// wilson is the 95 % interval of a share: E. B. Wilson, Probable inference, the
// law of succession, and statistical inference, JASA 22 (1927).
func wilson(right, all int) (low, high float64) {
	if all == 0 {
		return 0, 1
	}
	const z = 1.959964
	n, p := float64(all), float64(right)/float64(all)
	middle := p + z*z/(2*n)
	half := z * math.Sqrt(p*(1-p)/n+z*z/(4*n*n))
	return max(0, (middle-half)/(1+z*z/n)), min(1, (middle+half)/(1+z*z/n))
}
