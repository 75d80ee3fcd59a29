package main

import (
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// commands are all that a person can type, without what cobra adds.
func commands(c *cobra.Command) []*cobra.Command {
	all := []*cobra.Command{c}
	for _, sub := range c.Commands() {
		if sub.Name() != "help" && sub.Name() != "completion" {
			all = append(all, commands(sub)...)
		}
	}
	return all
}

func TestEveryCommandHasHelpWithExamples(t *testing.T) {
	for _, c := range commands((&app{}).root()) {
		if c.Short == "" || c.Example == "" {
			t.Errorf("%s has no short text or no example", c.CommandPath())
		}
		for line := range strings.Lines(c.Example) {
			if !strings.Contains(line, "dhalion ") {
				t.Errorf("%s: example %q is not ours", c.CommandPath(), line)
			}
		}
		for line := range strings.Lines(c.Long) {
			if columns(strings.TrimRight(line, "\n")) > maxWidth {
				t.Errorf("%s: a line of its help is too wide: %s", c.CommandPath(), line)
			}
		}
	}
}

func TestATimeIsReadInThreeWays(t *testing.T) {
	for _, s := range []string{"2026-11-22T08:40:16.5Z", "2026-11-22T03:40:16.5-05:00", "1795336816.5", "1795336816500"} {
		at, err := parseTime("--at", s)
		if err != nil || stamp(at) != "2026-11-22T08:40:16.5Z" {
			t.Errorf("%s: %v, %v", s, at, err)
		}
	}
	for _, s := range []string{"", "yesterday", "NaN", "1e300", "2026-11-22", "2026-11-22 08:40:16"} {
		if at, err := parseTime("--at", s); err == nil {
			t.Errorf("%s was read as %v", s, at)
		}
	}
}

func TestAPasswordIsTakenOutOfAnAddress(t *testing.T) {
	for in, want := range map[string][2]string{
		"postgres://u:se%40cret@h:5432/d?sslmode=disable": {"postgres://u@h:5432/d?sslmode=disable", "se@cret"},
		"postgres://u@/d?host=/run&password=x":            {"postgres://u@/d?host=%2Frun", "x"},
		"host=h dbname=d":                                 {"host=h dbname=d", ""},
	} {
		address, password := splitPassword(in)
		if address != want[0] || password != want[1] {
			t.Errorf("%s: %s and %q", in, address, password)
		}
	}
}

func TestATableGivesWayInItsWideColumn(t *testing.T) {
	var b strings.Builder
	x := &table{head: []string{"name", ">n", "text"}, wide: 2}
	x.add("a", "1", "one two three four")
	x.add("bcd", "22", "five")
	// "name  22  " is 10 columns wide, so 12 are left for the text of 22.
	x.write(&b, "", 22, func(s string) string { return s })
	want := "name   n  text\na      1  one two\n          three four\nbcd   22  five\n"
	if b.String() != want {
		t.Errorf("got\n%swant\n%s", b.String(), want)
	}
}

func TestASparklineLeavesTheUnknownBlank(t *testing.T) {
	at := func(v float64) *float64 { return &v }
	l := seriesJSON{Metric: "lag_records", Low: 0, High: 80, Points: []*float64{at(0), nil, at(40), at(80)}}
	// Zero to 80 in eight steps of ten: 40 is at the start of the fifth.
	if got := spark(l); got != "▁ ▅█" {
		t.Errorf("%q", got)
	}
	l = seriesJSON{Metric: "busy_fraction", Low: 0.5, High: 0.5, Points: []*float64{at(0.5)}}
	if got := spark(l); got != "▅" { // a share is drawn from 0 to 1
		t.Errorf("%q", got)
	}
}
