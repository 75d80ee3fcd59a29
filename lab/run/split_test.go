package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/dhalion-go/dhalion/lab/scenario"
)

// threeIncidents is a run of three: 100–165, 200–265, 300–365 s.
func threeIncidents(begin time.Time) runLog {
	at := func(s int) time.Time { return begin.Add(time.Duration(s) * time.Second) }
	log := runLog{Begin: begin, End: at(400), Outages: []time.Time{at(110), at(310)}, Machine: machineLog{From: begin.Add(time.Second)}}
	s := scenario.Scenario{Name: "words-1"}
	for i, name := range []string{"01-a", "02-b", "03-c"} {
		s.Incidents = append(s.Incidents, scenario.Incident{Name: name})
		log.Incidents = append(log.Incidents, incidentLog{Name: name, Start: at(100 + 100*i), End: at(160 + 100*i), Drained: at(165 + 100*i)})
	}
	log.Scenario = scenarioJSON{s}
	for range 400 {
		log.Machine.Idle, log.Machine.Nice = append(log.Machine.Idle, 500), append(log.Machine.Nice, 0)
	}
	return log
}

func TestOfADisturbedRunIsKeptWhatWasOver(t *testing.T) {
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		before, kept, end int // seconds
		rest              string
	}{
		{before: 90},  // nothing was over
		{before: 199}, // one incident is too little
		{before: 280, kept: 2, end: 280, rest: "03-c"},
		{before: 380, kept: 3, end: 380},               // in the last gap: nothing is left to do
		{before: 330, kept: 2, end: 300, rest: "03-c"}, // cut where the third began
	} {
		log := threeIncidents(begin)
		rest, ok := log.keep(begin.Add(time.Duration(c.before) * time.Second))
		if ok != (c.kept > 0) {
			t.Errorf("disturbed at %d s: kept is %v", c.before, ok)
			continue
		}
		if !ok {
			if len(log.Incidents) != 3 || !log.End.Equal(begin.Add(400*time.Second)) {
				t.Errorf("disturbed at %d s: what is not kept was cut", c.before)
			}
			continue
		}
		if len(log.Incidents) != c.kept || !log.End.Equal(begin.Add(time.Duration(c.end)*time.Second)) {
			t.Errorf("disturbed at %d s: %d incidents until %v are kept", c.before, len(log.Incidents), log.End)
		}
		if c.rest == "" {
			if len(rest.Incidents) != 0 {
				t.Errorf("disturbed at %d s: the rest is %+v", c.before, rest)
			}
			continue
		}
		if rest.Name != "words-1-part2" || len(rest.Incidents) != 1 || rest.Incidents[0].Name != c.rest {
			t.Errorf("disturbed at %d s: the rest is %+v", c.before, rest)
		}
		if len(log.Machine.Idle) != c.end || len(log.Machine.Nice) != c.end {
			t.Errorf("disturbed at %d s: %d samples are kept", c.before, len(log.Machine.Idle))
		}
		if len(log.Outages) != 1 {
			t.Errorf("disturbed at %d s: outages %v are kept", c.before, log.Outages)
		}
	}
}

func TestAnIncidentThatDidNotDrainIsNotOver(t *testing.T) {
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	log := threeIncidents(begin)
	log.Incidents[1].Drained = time.Time{}
	if rest, ok := log.keep(begin.Add(390 * time.Second)); ok {
		t.Errorf("one incident was over, and kept with the rest %+v", rest)
	}
}

func TestTheRestOfARestHasTheNextName(t *testing.T) {
	for run, want := range map[string]string{"s1-01-chain": "s1-01-chain-part2", "s1-01-chain-part2": "s1-01-chain-part3", "a-part9": "a-part10"} {
		if got := nextPart(run); got != want {
			t.Errorf("after %s comes %s, not %s", run, got, want)
		}
	}
}

func TestACutRecordingEndsWithAWholePoll(t *testing.T) {
	line := func(second, path string) string {
		return `{"time":"2026-01-01T00:00:` + second + `Z","path":"` + path + `"}` + "\n"
	}
	head := line("01", "/config")
	first := line("05", "/jobs/overview") + line("05", "/jobs/j") + line("06", "/jobs/j/vertices/v")
	second := line("10", "/jobs/overview") + line("11", "/jobs/j")
	third := line("15", "/jobs/overview") + line("15", "/jobs/j")
	end := time.Date(2026, 1, 1, 0, 0, 10, 0, time.UTC)
	for _, c := range []struct {
		name string
		end  time.Time
		want string
	}{
		{"in a poll", end, head + first},
		{"between two", end.Add(3 * time.Second), head + first + second},
		{"after all", end.Add(time.Minute), head + first + second + third},
		{"before all", end.Add(-time.Minute), ""},
	} {
		var out bytes.Buffer
		if err := copyPolls(&out, strings.NewReader(head+first+second+third), c.end); err != nil {
			t.Fatal(err)
		}
		if out.String() != c.want {
			t.Errorf("cut %s:\n%swant\n%s", c.name, out.String(), c.want)
		}
	}
	if err := copyPolls(&bytes.Buffer{}, strings.NewReader("no JSON\n"), end); err == nil {
		t.Error("a line that is no answer was copied")
	}
}
