package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"time"

	"github.com/dhalion-go/dhalion/lab/scenario"
)

// worthKeeping is how many incidents the first part of a run must have.
const worthKeeping = 2

// keep cuts a run's log down to what was over before a time, and returns the
// scenario of what is left to do, without incidents when all were over; ok is
// false when too little was over.
func (l *runLog) keep(before time.Time) (rest scenario.Scenario, ok bool) {
	n := 0
	for n < len(l.Incidents) && !l.Incidents[n].Drained.IsZero() && l.Incidents[n].Drained.Before(before) {
		n++
	}
	s := l.Scenario.Scenario
	if n < min(worthKeeping, len(s.Incidents)) || n == 0 {
		return rest, false
	}
	if n < len(l.Incidents) && l.Incidents[n].Start.Before(before) {
		before = l.Incidents[n].Start
	}
	rest = s
	rest.Name = nextPart(s.Name)
	rest.Incidents = slices.Clone(s.Incidents[n:])
	l.Incidents, l.End = l.Incidents[:n], before
	l.Machine.Idle = l.Machine.Idle[:min(len(l.Machine.Idle), l.Machine.until(before))]
	l.Machine.Nice = l.Machine.Nice[:len(l.Machine.Idle)]
	l.Outages = slices.DeleteFunc(l.Outages, func(t time.Time) bool { return t.After(before) })
	return rest, true
}

// until is how many samples are from before a time.
func (m machineLog) until(t time.Time) int {
	return max(0, int(t.Sub(m.From).Seconds())+1)
}

var part = regexp.MustCompile(`^(.*)-part(\d+)$`)

// nextPart names the rest of a run: a-part2, a-part3.
func nextPart(run string) string {
	if m := part.FindStringSubmatch(run); m != nil {
		n, _ := strconv.Atoi(m[2]) // digits, by the expression
		return fmt.Sprintf("%s-part%d", m[1], n+1)
	}
	return run + "-part2"
}

// split cuts a run's recording to the end of its log and queues the rest, which
// is written down: the next call of the runner goes on with it.
func (l *lane) split(dir string, log runLog, rest scenario.Scenario) error {
	if err := cutRecording(filepath.Join(dir, log.Scenario.Name+".jsonl.gz"), log.End); err != nil {
		return err
	}
	if len(rest.Incidents) == 0 {
		return nil
	}
	data, err := rest.Marshal()
	if err != nil {
		return err
	}
	if err := writeFile(filepath.Join(l.rest(), rest.Name+".yaml"), data); err != nil {
		return err
	}
	l.queue.add(task{s: rest, attempt: 1})
	return nil
}

// rest is the folder of the scenarios that split made.
func (o options) rest() string { return filepath.Join(o.out, "rest") }

// cutRecording leaves the polls whose answers all came before a time.
func cutRecording(path string, end time.Time) error {
	in, err := os.Open(path)
	if err != nil {
		return err
	}
	defer in.Close()
	z, err := gzip.NewReader(in)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if err := copyPolls(w, z, end); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if err := w.Close(); err != nil {
		return err
	}
	return writeFile(path, out.Bytes())
}

// copyPolls copies lines, poll by poll, until one is after a time. A poll begins
// with /jobs/overview.
func copyPolls(w io.Writer, r io.Reader, end time.Time) error {
	lines := bufio.NewReader(r)
	var poll []byte
	for {
		line, err := lines.ReadBytes('\n')
		last := errors.Is(err, io.EOF)
		if err != nil && !last {
			return err
		}
		var head struct {
			Time time.Time
			Path string
		}
		if len(line) > 0 {
			if err := json.Unmarshal(line, &head); err != nil {
				return err
			}
		}
		if last && len(line) == 0 || head.Path == "/jobs/overview" || head.Time.After(end) {
			if head.Path == "/jobs/overview" || last {
				if _, err := w.Write(poll); err != nil {
					return err
				}
			}
			poll = poll[:0]
		}
		if last || head.Time.After(end) {
			return nil
		}
		poll = append(poll, line...)
	}
}
