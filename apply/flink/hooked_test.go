package flink_test

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/apply"
	"github.com/dhalion-go/dhalion/internal/engine/flink/flinktest"
)

// had is what the job words has at first.
var had = dhalion.Topology{Components: []dhalion.Component{{Name: "count", Parallelism: 3}, {Name: "lines", Parallelism: 2}}}

// stands lets what the cluster is at come to its end, and holds how a hook's call stands then.
func (w *words) stands(ask func() (apply.Standing, string), want apply.Standing, says string) {
	w.t.Helper()
	if err := w.wait(context.Background(), time.Minute); err != nil {
		w.t.Fatal(err)
	}
	if standing, why := ask(); standing != want || !strings.Contains(why, says) {
		w.t.Errorf("it is %s: %s; want %s: %s", standing, why, want, says)
	}
}

func TestAHookThatLeavesFewerInstancesHasNotSettled(t *testing.T) {
	// Three workers with a slot each, and three instances: without tm-2 the engine runs two.
	w := newWords(t)
	w.Slots = 1
	moved := func() (apply.Standing, string) { return w.hand.Moved(context.Background(), "tm-2", had) }
	w.stands(moved, apply.Undone, "still on worker tm-2")
	w.Lose("tm-2")
	w.stands(moved, apply.Working, "the engine runs fewer instances than before: count 2 of 3")
	// Its replacement has joined, and the engine has noticed.
	w.Join("tm-4")
	w.Rescale(w.Live("words").Run, "count", 3)
	w.stands(moved, apply.Settled, "5 tasks run")

	// The same of a hook that starts the job anew.
	w = newWords(t)
	h, err := w.hand.Hooking(context.Background(), turnedTo("a-1", "--salt", "4"))
	if err != nil {
		t.Fatal(err)
	}
	note, err := json.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	followed := ""
	renewed := func() (s apply.Standing, why string) {
		s, why, followed = w.hand.Renewed(context.Background(), apply.Intent{ID: "a-1", Note: note}, had)
		return s, why
	}
	w.stands(renewed, apply.Undone, "no other was started")
	if followed != "" {
		t.Errorf("run %s is said to have followed itself", followed)
	}
	w.SetState(w.Live("words").Run, "CANCELED")
	w.StartJar(w.Upload("slim.jar", func([]string) (string, []flinktest.Vertex) {
		return "words", []flinktest.Vertex{{Name: "lines", Parallelism: 1}, {Name: "count", Parallelism: 2, From: []string{"lines"}}}
	}), "--salt", "4")
	w.stands(renewed, apply.Working, "the engine runs fewer instances than before: count 2 of 3, lines 1 of 2")
	if run := w.Live("words").Run; followed != run {
		t.Errorf("run %q followed, and not %s", followed, run)
	}
	w.Rescale(w.Live("words").Run, "count", 3)
	w.Rescale(w.Live("words").Run, "lines", 4) // more is no loss
	w.stands(renewed, apply.Settled, "7 tasks run")
	// The next hook of the plan finds what this one left.
	next, err := w.hand.Hooking(context.Background(), turnedTo("a-2", "--batch", "20"))
	if err != nil || !slices.Equal(next.Had, []string{"--salt", "4", "--batch=10"}) || !slices.Equal(next.Left, []string{"--salt", "4", "--batch=20"}) {
		t.Errorf("the next hook has it from %v to %v: %v", next.Had, next.Left, err)
	}
}
