package dhalion

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

var began = time.Date(2026, 11, 22, 14, 0, 0, 0, time.UTC)

func minute(n float64) time.Time { return began.Add(time.Duration(n * float64(time.Minute))) }

// shaped is a topology of source 2, counter n and sink m.
func shaped(at float64, by ChangeBy, n, m int) Topology {
	return Topology{From: minute(at), By: by, Components: []Component{{Name: "counter", Parallelism: n}, {Name: "sink", Parallelism: m}, {Name: "source", Parallelism: 2}}}
}

func deed(component string, to int, begun, ended float64) Deed {
	return Deed{Plan: fmt.Sprintf("%s-%d", component, to), Component: component, To: to, Begun: minute(begun), Ended: minute(ended)}
}

// told is who made what, as "counter 8→12 dhalion".
func told(changes []Change) string {
	var words []string
	for _, c := range changes {
		words = append(words, fmt.Sprintf("%s %d→%d %s", c.Component, c.From, c.To, c.By))
	}
	return strings.Join(words, ", ")
}

func TestAChangeIsOursWhereADeedExplainsItAndElseForeign(t *testing.T) {
	first := shaped(0, ChangeFirst, 8, 3)
	running := deed("counter", 12, 9, 0)
	running.Ended = time.Time{}
	for _, c := range []struct {
		name       string
		topologies []Topology
		deeds      []Deed
		want       string
		by         ChangeBy // of the last topology
	}{
		{"nobody of ours", []Topology{first, shaped(10, ChangeOperator, 12, 3)}, nil, "counter 8→12 operator", ChangeOperator},
		{"between intent and settling", []Topology{first, shaped(10, ChangeOperator, 12, 3)}, []Deed{deed("counter", 12, 9, 11)}, "counter 8→12 dhalion", ChangeDhalion},
		{"seen by the first poll after it had settled", []Topology{first, shaped(10, ChangeOperator, 12, 3)}, []Deed{deed("counter", 12, 8, 9)}, "counter 8→12 dhalion", ChangeDhalion},
		{"not settled yet", []Topology{first, shaped(10, ChangeOperator, 12, 3)}, []Deed{running}, "counter 8→12 dhalion", ChangeDhalion},
		{"before its intent", []Topology{first, shaped(8, ChangeOperator, 12, 3)}, []Deed{deed("counter", 12, 9, 11)}, "counter 8→12 operator", ChangeOperator},
		{"to another parallelism", []Topology{first, shaped(12, ChangeOperator, 14, 3)}, []Deed{deed("counter", 12, 9, 11)}, "counter 8→14 operator", ChangeOperator},
		{"of another component", []Topology{first, shaped(10, ChangeOperator, 8, 5)}, []Deed{deed("counter", 12, 9, 11)}, "sink 3→5 operator", ChangeOperator},
		{"ours and another one at once", []Topology{first, shaped(10, ChangeOperator, 12, 5)}, []Deed{deed("counter", 12, 9, 11)}, "counter 8→12 dhalion, sink 3→5 operator", ChangeOperator},
		{"both of one plan", []Topology{first, shaped(10, ChangeOperator, 12, 5)}, []Deed{deed("counter", 12, 9, 11), deed("sink", 5, 9, 11)}, "counter 8→12 dhalion, sink 3→5 dhalion", ChangeDhalion},
		{"set back by somebody and again", []Topology{first, shaped(10, ChangeOperator, 12, 3), shaped(20, ChangeOperator, 8, 3), shaped(30, ChangeOperator, 12, 3)},
			[]Deed{deed("counter", 12, 9, 11)}, "counter 8→12 dhalion, counter 12→8 operator, counter 8→12 operator", ChangeOperator},
		{"halfway there, and the rest when there are slots", []Topology{first, shaped(10, ChangeOperator, 10, 3), shaped(20, ChangeOperator, 12, 3)},
			[]Deed{deed("counter", 12, 9, 11)}, "counter 8→10 dhalion, counter 10→12 dhalion", ChangeDhalion},
		{"by one that begins to look after it", []Topology{first, shaped(10, ChangeFirst, 12, 3)}, []Deed{deed("counter", 12, 8, 9)}, "counter 8→12 dhalion", ChangeDhalion},
		{"in the course of a restart of ours", []Topology{first, shaped(10, ChangeOperator, 4, 3), shaped(10.5, ChangeOperator, 8, 3)},
			[]Deed{deed("", 0, 9, 11)}, "counter 8→4 dhalion, counter 4→8 dhalion", ChangeDhalion},
		{"the end of a restart of ours, seen a while after it had settled", []Topology{first, shaped(10, ChangeOperator, 4, 3), shaped(11.5, ChangeOperator, 8, 3)},
			[]Deed{deed("", 0, 9, 11)}, "counter 8→4 dhalion, counter 4→8 dhalion", ChangeDhalion},
		{"long after a restart of ours was seen", []Topology{first, shaped(10, ChangeOperator, 8, 3), shaped(20, ChangeOperator, 4, 3)},
			[]Deed{deed("", 0, 9, 11)}, "counter 8→4 operator", ChangeOperator},
		{"a new run of ours with the same parallelism", []Topology{first, shaped(10, ChangeOperator, 8, 3)}, []Deed{deed("", 0, 9, 11)}, "", ChangeDhalion},
		{"a new run of somebody else", []Topology{first, shaped(10, ChangeOperator, 8, 3)}, nil, "", ChangeOperator},
	} {
		by, changes := Attribute(c.topologies, c.deeds)
		if got := told(changes); got != c.want || len(by) != len(c.topologies) || by[len(by)-1] != c.by {
			t.Errorf("%s: %s, the last by %v; want %s, by %s", c.name, got, by, c.want, c.by)
		}
		slices.Reverse(c.deeds)
		if _, again := Attribute(c.topologies, c.deeds); told(again) != told(changes) {
			t.Errorf("%s: by the order of deeds it is %s", c.name, told(again))
		}
	}
}

func TestWhatTheEngineDoesAfterLosingSlotsIsNotForeign(t *testing.T) {
	first := shaped(0, ChangeFirst, 8, 3)
	for _, c := range []struct {
		name       string
		topologies []Topology
		want       string
	}{
		{"a lost worker and its return, in two steps", []Topology{first, shaped(10, ChangeEngine, 4, 3), shaped(20, ChangeOperator, 6, 3), shaped(30, ChangeOperator, 8, 3)},
			"counter 8→4 engine, counter 4→6 engine, counter 6→8 engine"},
		{"more than was asked for is somebody", []Topology{first, shaped(10, ChangeEngine, 4, 3), shaped(20, ChangeOperator, 9, 3)},
			"counter 8→4 engine, counter 4→9 operator"},
		{"fewer without a failure are somebody", []Topology{first, shaped(10, ChangeEngine, 4, 3), shaped(20, ChangeOperator, 2, 3)},
			"counter 8→4 engine, counter 4→2 operator"},
		{"back to what somebody asked for last", []Topology{first, shaped(5, ChangeOperator, 12, 3), shaped(10, ChangeEngine, 4, 3), shaped(20, ChangeOperator, 12, 3)},
			"counter 8→12 operator, counter 12→4 engine, counter 4→12 engine"},
		{"nobody looked, and there are fewer", []Topology{first, shaped(10, ChangeFirst, 4, 3)}, "counter 8→4 first"},
		{"nobody looked, and there are more", []Topology{first, shaped(10, ChangeFirst, 9, 3)}, "counter 8→9 operator"},
	} {
		if _, changes := Attribute(c.topologies, nil); told(changes) != c.want {
			t.Errorf("%s: %s, want %s", c.name, told(changes), c.want)
		}
	}
	// Nobody looked meanwhile: without a worker that is gone nothing was lost.
	on := func(t Topology, workers ...string) Topology {
		for i, w := range workers {
			t.Placement = append(t.Placement, Placement{Component: "counter", Instance: i, Worker: w})
		}
		return t
	}
	for want, after := range map[string]Topology{
		"counter 8→4 operator": on(shaped(10, ChangeFirst, 4, 3), "tm-2", "tm-1"),
		"counter 8→4 first":    on(shaped(10, ChangeFirst, 4, 3), "tm-1", "tm-3"),
	} {
		if _, changes := Attribute([]Topology{on(first, "tm-1", "tm-2"), after}, nil); told(changes) != want {
			t.Errorf("on %v: %s, want %s", after.Placement, told(changes), want)
		}
	}
	// A move of ours takes a worker away, and its replacement joins two minutes after the job
	// had settled; what nobody had asked for is somebody's then, too.
	for to, want := range map[int]string{8: "counter 8→6 dhalion, counter 6→8 engine", 9: "counter 8→6 dhalion, counter 6→9 operator"} {
		if _, changes := Attribute([]Topology{first, shaped(10, ChangeEngine, 6, 3), shaped(13, ChangeOperator, to, 3)}, []Deed{deed("", 0, 9, 11)}); told(changes) != want {
			t.Errorf("after a move: %s, want %s", told(changes), want)
		}
	}
	// After a restart of ours whose program has more at first, the engine gives back what
	// was asked for before it, and no more.
	for to, want := range map[int]string{8: "engine", 9: "operator"} {
		_, changes := Attribute([]Topology{first, shaped(10, ChangeOperator, 12, 3), shaped(10.5, ChangeOperator, 8, 3), shaped(20, ChangeEngine, 6, 3), shaped(30, ChangeOperator, to, 3)}, []Deed{deed("", 0, 9, 11)})
		if got := told(changes); got != fmt.Sprintf("counter 8→12 dhalion, counter 12→8 dhalion, counter 8→6 engine, counter 6→%d %s", to, want) {
			t.Errorf("after a restart: %s", got)
		}
	}
	// After our own rescale it is what we asked for.
	_, changes := Attribute([]Topology{first, shaped(10, ChangeOperator, 12, 3), shaped(15, ChangeEngine, 6, 3), shaped(20, ChangeOperator, 12, 3)}, []Deed{deed("counter", 12, 9, 11)})
	if got := told(changes); got != "counter 8→12 dhalion, counter 12→6 engine, counter 6→12 engine" {
		t.Error(got)
	}
}

func TestTwoForeignChangesInAnHourHaveTheJobLookedAtUntilOneIsAnHourAgo(t *testing.T) {
	change := func(at float64, component string, by ChangeBy) Change {
		return Change{At: minute(at), Component: component, From: 1, To: 2, By: by}
	}
	changes := []Change{change(0, "a", ChangeOperator), change(10, "a", ChangeDhalion), change(20, "a", ChangeEngine), change(40, "a", ChangeOperator),
		change(40, "b", ChangeOperator), change(70, "a", ChangeOperator)}
	for _, c := range []struct {
		at    float64
		n     int
		until float64 // 0: it is not
	}{
		{-1, 0, 0}, {0, 1, 0}, {39, 1, 0}, {40, 3, 60}, {59.9, 3, 60}, {60, 2, 0}, {69, 2, 0}, {70, 3, 100}, {99.9, 3, 100}, {100, 1, 0}, {130, 0, 0},
	} {
		foreign, until := Foreign(changes, minute(c.at))
		if len(foreign) != c.n || until.IsZero() != (c.until == 0) || !until.IsZero() && !until.Equal(minute(c.until)) {
			t.Errorf("at minute %v: %d until %v, want %d until minute %v", c.at, len(foreign), until, c.n, c.until)
		}
	}
}
