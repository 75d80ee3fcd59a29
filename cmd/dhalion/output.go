package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/term"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/plan/planfile"
)

// maxWidth is the width of text output, in columns; a narrower terminal has less.
const maxWidth = 100

func (a *app) json() bool { return a.output == "json" }

// writeJSON writes for programs: two spaces of indent, no HTML escapes.
func (a *app) writeJSON(v any) error {
	enc := json.NewEncoder(&a.out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("write JSON: %w", err)
	}
	return nil
}

func (a *app) printf(format string, args ...any) { fmt.Fprintf(&a.out, format, args...) }

func terminal(w any) (int, bool) {
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return 0, false
	}
	width, _, err := term.GetSize(int(f.Fd()))
	if err != nil || width <= 0 {
		width = 80
	}
	return width, true
}

// width is how many columns text output may use.
func (a *app) width() int {
	if w, ok := terminal(a.stdout); ok {
		return max(60, min(w, maxWidth))
	}
	return maxWidth
}

// color reports whether stdout shows colours. See no-color.org.
func (a *app) color() bool {
	_, ok := terminal(a.stdout)
	return ok && a.getenv("NO_COLOR") == "" && a.getenv("TERM") != "dumb"
}

const (
	bold = "1"
	dim  = "2"
)

func (a *app) style(code, s string) string {
	if !a.color() || s == "" {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

func (a *app) title(s string) { a.printf("\n%s\n", a.style(bold, s)) }

// next ends a text with the commands that make sense now.
func (a *app) next(steps ...[2]string) {
	a.title("Next")
	width := 0
	for _, s := range steps {
		width = max(width, columns(s[0]))
	}
	for _, s := range steps {
		a.printf("  %s  %s\n", pad(s[0], width), a.style(dim, s[1]))
	}
}

// when is a time as people read it.
func when(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format("2006-01-02 15:04:05 UTC")
}

// stamp is a time as --at takes it, to the microsecond.
func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.999999Z07:00") }

// known is a time in JSON: null when it is not known.
func known(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

// list is a list in JSON: [] when it is empty.
func list[T any](l []T) []T {
	if l == nil {
		return []T{}
	}
	return l
}

func words(c dhalion.Cause) string { return strings.ReplaceAll(string(c), "_", " ") }

func columns(s string) int { return utf8.RuneCountInString(s) }

func pad(s string, width int) string { return s + strings.Repeat(" ", max(0, width-columns(s))) }

func padLeft(s string, width int) string { return strings.Repeat(" ", max(0, width-columns(s))) + s }

func clip(s string, width int) string {
	if columns(s) <= width || width < 1 {
		return s
	}
	return string([]rune(s)[:width-1]) + "…"
}

// plain takes out of a text what would steer a terminal.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 || r == utf8.RuneError {
			return '�'
		}
		return r
	}, s)
}

// plural is "1 job", "2 jobs".
func plural(n int, one string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%s %ss", count(n), one)
}

// count writes thousands apart: 1,234,567.
func count(n int) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// table lays rows out in columns, two spaces apart. A column whose head begins
// with ">" is set to the right. Wide is the column that gives way when a row is
// too long: the last one goes on in the next line, another is cut.
type table struct {
	head []string
	rows [][]string
	wide int
}

func (t *table) add(cells ...string) {
	for i := range cells {
		cells[i] = plain(cells[i])
	}
	t.rows = append(t.rows, cells)
}

func (t *table) write(w io.Writer, indent string, width int, head func(string) string) {
	n := len(t.head)
	right := make([]bool, n)
	titles := make([]string, n)
	widths := make([]int, n)
	for i, h := range t.head {
		titles[i], right[i] = strings.CutPrefix(h, ">")
		widths[i] = columns(titles[i])
	}
	for _, row := range t.rows {
		for i, cell := range row {
			widths[i] = max(widths[i], columns(cell))
		}
	}
	total := columns(indent) + 2*(n-1)
	for _, x := range widths {
		total += x
	}
	if over := total - width; over > 0 {
		widths[t.wide] = max(8, widths[t.wide]-over)
	}
	line := func(cells []string) string {
		var b strings.Builder
		for i, cell := range cells {
			if i > 0 {
				b.WriteString("  ")
			}
			switch {
			case i != t.wide:
			case i == n-1:
				cell = wrap(cell, widths[i], strings.Repeat(" ", columns(indent)+columns(b.String())))
			default:
				cell = clip(cell, widths[i])
			}
			if right[i] {
				b.WriteString(padLeft(cell, widths[i]))
			} else {
				b.WriteString(pad(cell, widths[i]))
			}
		}
		return strings.TrimRight(b.String(), " ")
	}
	if strings.Join(titles, "") != "" {
		fmt.Fprintf(w, "%s%s\n", indent, head(line(titles)))
	}
	for _, row := range t.rows {
		fmt.Fprintf(w, "%s%s\n", indent, line(row))
	}
}

func (a *app) table(indent string, t *table) {
	t.write(&a.out, indent, a.width(), func(s string) string { return a.style(dim, s) })
}

// wrap breaks a text at spaces; further lines are indented.
func wrap(s string, width int, indent string) string {
	var b strings.Builder
	at := 0
	// "87 %" stays together; not Fields, which breaks at no-break spaces, too.
	s = strings.ReplaceAll(s, " %", nbsp+"%")
	for i, word := range strings.FieldsFunc(s, func(r rune) bool { return r == ' ' || r == '\n' || r == '\t' }) {
		switch n := columns(word); {
		case i == 0:
			at = n
		case at+1+n > width:
			b.WriteString("\n" + indent)
			at = n
		default:
			b.WriteString(" ")
			at += 1 + n
		}
		b.WriteString(word)
	}
	return strings.ReplaceAll(b.String(), nbsp, " ")
}

// nbsp binds a number to its unit while lines are broken.
const nbsp = "\u00a0"

// command is a line of ours for a shell.
func command(args ...string) string {
	return planfile.Command(append([]string{"dhalion"}, args...)...)
}
