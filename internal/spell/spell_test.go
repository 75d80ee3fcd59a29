package spell

import (
	"testing"

	"pgregory.net/rapid"
)

func TestTheNearestNameIsMeantWhereOneIsNear(t *testing.T) {
	names := []string{"busy_fraction", "idle_fraction", "lag_records"}
	for name, want := range map[string]string{
		"busy_fractoin": "; did you mean busy_fraction?",
		"lagrecords":    "; did you mean lag_records?",
		"latency":       "",
		"":              "",
	} {
		if got := DidYouMean(name, names); got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
	if got := DidYouMean("ab", []string{"abc", "abd"}); got != "; did you mean abc?" {
		t.Errorf("of two as near: %q", got)
	}
}

func TestDistanceIsAMetric(t *testing.T) {
	word := rapid.StringMatching(`[a-c]{0,6}`)
	rapid.Check(t, func(t *rapid.T) {
		a, b, c := word.Draw(t, "a"), word.Draw(t, "b"), word.Draw(t, "c")
		if d := Distance(a, b); d != Distance(b, a) || (d == 0) != (a == b) || d > Distance(a, c)+Distance(c, b) || d > max(len(a), len(b)) {
			t.Fatalf("%q to %q: %d", a, b, d)
		}
	})
}
