package yamlerr

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// decode is the error of the first document that is none; nil when all are.
func decode(text string) error {
	for d := yaml.NewDecoder(strings.NewReader(text)); ; {
		var n yaml.Node
		if err := d.Decode(&n); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

func TestALineThatCannotBeReadIsNamed(t *testing.T) {
	many := strings.Repeat("- {a: 1, b: [1, 2], c: 'x y', d: \"z\"}\n", 9000)
	for _, c := range []struct {
		text string
		line int // with what is wrong; > stands before it in the text
		want string
	}{
		{"a:\n  b: 1\n  c: 2\n> d: 3\ne: 4\n", 4, "did not find expected key"},
		{"a:\n  - b: 1\n    c: 2\n>  d: 3\n  - e: 4\n", 4, "did not find expected '-' indicator"},
		{"a:\n   - b\n>  - c\n  - d\n", 3, "did not find expected key"},
		{"- a\n- b\n>c: 1\n", 3, "did not find expected '-' indicator"},
		{"a:\n>  b: {c: 1, d: 2\ne: 3\nf: 4\n", 2, "did not find expected ',' or '}'"},
		{"a:\n>  b: {c: 1\n\n# nothing\ne: 3\n", 2, "did not find expected ',' or '}'"},
		// Each line of b is an end that is missing, if nothing comes behind it.
		{"a: 1\nb: {\n  c: 1,\n  d: 2\n}\ne:\n  f: 1\n> g: 1\n", 8, "did not find expected key"},
		{"a: &x 1\nb: {c: *x,\n  d: 1,\n>  e: *nobody,\n  f: 1}\n", 4, "unknown anchor 'nobody' referenced"},
		{">a: *nobody\n", 1, "unknown anchor 'nobody' referenced"},
		{"a: 1\n>b: \"c\nd: 1\ne: 1\n", 2, "found unexpected end of stream"},
		{"a:\n>\tb: 1\nc: 1\n", 2, "found character that cannot start any token"},
		{"a: 1\nb:\n>  c: 1: 2\nd: 1\n", 3, "mapping values are not allowed in this context"},
		{"a: 1\n>b: \"\\ud800\"\nc: 1\n", 2, "found invalid Unicode character escape code"},
		{"a: 1\n>b: \xff\nc: 1\n", 2, "invalid leading UTF-8 octet"},
		{"a: 1\n---\nb:\n  c: 1\n> d: 1\n", 5, "did not find expected key"},
		{"a:\r\n  b: 1\r\n> c: 1\r\n", 3, "did not find expected key"},
		{">[1, 2", 1, "did not find expected ',' or ']'"},
		{"a: " + strings.Repeat("x", 5000) + "\n  b: 1\n>" + strings.Repeat(" ", 5000) + "- c\n", 2, "mapping values are not allowed in this context"},
		{many + "> - x\n" + many, 9001, "did not find expected '-' indicator"},
		// Too much to look for: the parser's own line, where the quotes begin.
		{many + ">- \"x\n" + strings.Repeat("# no more\n", 30000), 9001, "found unexpected end of stream"},
	} {
		text := strings.Replace(c.text, ">", "", 1)
		line, reason := Split([]byte(text), decode(text))
		if line != c.line || reason != c.want {
			t.Errorf("%.200q: line %d: %s, want %d: %s", c.text, line, reason, c.line, c.want)
		}
	}
}

func TestAnErrorThatIsNotTheParsersKeepsItsLine(t *testing.T) {
	text := "a: 1\nb: 2\na: 3\nc: x\n"
	var to struct{ A, C int }
	line, reason := Split([]byte(text), yaml.Unmarshal([]byte(text), &to))
	if line != 3 || reason != `mapping key "a" already defined at line 1` {
		t.Errorf("line %d: %s", line, reason)
	}
	for want, err := range map[int]error{7: errors.New(`line 7: "soon" is no duration`), 0: errors.New(`"soon" is no duration`)} {
		if line, reason := Split([]byte(text), fmt.Errorf("yaml: %w", err)); line != want || reason != `"soon" is no duration` {
			t.Errorf("line %d: %s, want line %d", line, reason, want)
		}
	}
}

func FuzzSplit(f *testing.F) {
	for _, text := range []string{"a:\n  b: 1\n c: 2\n", "a: {b: 1\nc: 2", "a: *b", "\xff\xfea\x00\n\x00", "a: \"b\r\nc", "--- {\n...\n%"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		err := decode(text)
		if err == nil {
			return
		}
		line, reason := Split([]byte(text), err)
		if lines := 1 + strings.Count(text, "\n") + strings.Count(text, "\r"); line < 0 || line > lines || reason == "" {
			t.Fatalf("line %d of %d: %q", line, lines, reason)
		}
	})
}
