package planfile

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/dhalion-go/dhalion"
)

// Percent is a probability or share as people read it: "87 %", "<1 %", ">99 %".
// Certainty is kept for 0 and 1 themselves.
func Percent(p float64) string {
	switch {
	case math.IsNaN(p):
		return "unknown"
	case p > 0 && p < 0.005:
		return "<1 %"
	case p < 1 && p >= 0.995:
		return ">99 %"
	}
	return strconv.FormatFloat(math.Round(p*100), 'f', 0, 64) + " %"
}

// Duration is a length of time as people read it, in at most two units: "45 s",
// "5 min", "1 h 30 min", "2 d".
func Duration(d time.Duration) string {
	if d < 0 {
		return "-" + Duration(-max(d, -math.MaxInt64)) // the least one has no opposite
	}
	if d < time.Second && d > 0 {
		return strconv.FormatInt(max(1, d.Milliseconds()), 10) + " ms"
	}
	s := int64(d.Round(time.Second) / time.Second)
	units := []struct {
		seconds int64
		name    string
	}{{86400, "d"}, {3600, "h"}, {60, "min"}, {1, "s"}}
	for i, u := range units {
		if s < u.seconds {
			continue
		}
		text := fmt.Sprintf("%d %s", s/u.seconds, u.name)
		if i+1 < len(units) {
			if rest := s % u.seconds / units[i+1].seconds; rest > 0 {
				text += fmt.Sprintf(" %d %s", rest, units[i+1].name)
			}
		}
		return text
	}
	return "0 s"
}

// Quantity is a number with about three digits that count, and commas between
// thousands: "2,700", "13.5", "0.042".
func Quantity(v float64) string {
	a := math.Abs(v)
	switch {
	case math.IsNaN(v):
		return "unknown"
	case a >= 1e15 || (a < 1e-4 && a > 0):
		return strconv.FormatFloat(v, 'g', 3, 64)
	case a >= 100:
		return commas(strconv.FormatFloat(v, 'f', 0, 64))
	case a >= 10:
		return trimZeros(strconv.FormatFloat(v, 'f', 1, 64))
	case a >= 1:
		return trimZeros(strconv.FormatFloat(v, 'f', 2, 64))
	}
	return strconv.FormatFloat(v, 'g', 3, 64)
}

// Value is a value of a metric with its unit: "87 %", "2,700/s".
func Value(m dhalion.Metric, v float64) string {
	info, ok := m.Info()
	if !ok {
		return Quantity(v)
	}
	switch info.Unit {
	case "1":
		return Percent(v)
	case "1/s":
		return Quantity(v) + "/s"
	case "s":
		return Duration(seconds(v))
	case "B":
		return Quantity(v/(1<<20)) + " MiB"
	}
	if m == dhalion.Lag {
		return Quantity(v) + " records"
	}
	return Quantity(v)
}

// Where is a target as part of a sentence: "counter", "counter[3]",
// "worker tm-2", "the job".
func Where(t dhalion.Target) string {
	if t.Kind == dhalion.KindJob {
		return "the job"
	}
	return Plain(t.String())
}

// Changes are the newest changes of parallelism in words, of as many times as make a
// job one to be looked at only: "counter 8 → 12 instances at 2026-11-22T14:02:10Z and
// counter 12 → 8, sink 3 → 2 instances at 2026-11-22T14:30:00Z". They are in order of time.
func Changes(changes []dhalion.Change) string {
	var parts []string
	for i, c := range changes {
		words := fmt.Sprintf("%s %d → %d", Plain(c.Component), c.From, c.To)
		if i > 0 && changes[i-1].At.Equal(c.At) {
			parts[len(parts)-1] += ", " + words
		} else {
			parts = append(parts, words)
		}
		if i+1 == len(changes) || !changes[i+1].At.Equal(c.At) {
			parts[len(parts)-1] += " instances at " + c.At.UTC().Format(time.RFC3339)
		}
	}
	return strings.Join(parts[max(0, len(parts)-dhalion.ForeignMost):], " and ")
}

// Command is a line for a shell: words that need it are quoted.
func Command(words ...string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = shellQuote(Plain(w))
	}
	return strings.Join(quoted, " ")
}

func shellQuote(w string) string {
	safe := func(r rune) bool {
		return unicode.IsLetter(r) || unicode.IsDigit(r) || strings.ContainsRune("_-./:=,@%+", r)
	}
	if w != "" && strings.IndexFunc(w, func(r rune) bool { return !safe(r) }) < 0 {
		return w
	}
	return "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
}

// Plain makes what is not printable visible: an engine's name for a component may
// hold anything, and must not steer a reviewer's terminal.
func Plain(s string) string {
	// The no-break space is ours: it binds a number to its unit.
	printable := func(r rune) bool { return unicode.IsPrint(r) || string(r) == nbsp }
	if strings.IndexFunc(s, func(r rune) bool { return !printable(r) }) < 0 {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if printable(r) {
			b.WriteRune(r)
			continue
		}
		q := strconv.QuoteRuneToASCII(r)
		b.WriteString(q[1 : len(q)-1])
	}
	return b.String()
}

func commas(s string) string {
	sign := ""
	if strings.HasPrefix(s, "-") {
		sign, s = "-", s[1:]
	}
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return sign + s
}

func trimZeros(s string) string {
	return strings.TrimSuffix(strings.TrimRight(s, "0"), ".")
}

func metricWords(m dhalion.Metric) string {
	words := strings.ReplaceAll(string(m), "_", " ")
	for _, unit := range []string{" per second", " fraction", " records", " seconds", " bytes"} {
		if short, ok := strings.CutSuffix(words, unit); ok {
			return short
		}
	}
	return words
}

func causeWords(c dhalion.Cause) string { return strings.ReplaceAll(string(c), "_", " ") }

func short(digest string) string {
	if len(digest) > IDLength {
		return digest[:IDLength]
	}
	if digest == "" {
		return "none"
	}
	return digest
}

func moment(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }
