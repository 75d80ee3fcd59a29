package diagnose

import (
	"fmt"
	"testing"
	"time"

	dhalion "github.com/dhalion-go/dhalion"
)

func TestQuietWindowsThatOverlapAreOneMeasure(t *testing.T) {
	start := time.Unix(0, 0).UTC()
	var examples []Example
	var p [][]float64
	for _, run := range []string{"file/a", "file/b"} {
		// 46 minutes in order: 181 windows of 60 s, 15 s apart, of which the first, the
		// fifth, … and the 181st have no measurement in common, which are 46.
		for n := range 181 {
			at := start.Add(time.Minute + time.Duration(n)*15*time.Second)
			examples = append(examples, Example{Run: run, Incident: fmt.Sprint(run, at), At: at, Window: time.Minute, Certainty: 1,
				Cases: []Case{{Pair: dhalion.Pair{Target: dhalion.ComponentTarget("file/a", "sink"), Cause: dhalion.SinkLimited}}}, Holds: []float64{0}})
			p = append(p, []float64{.9})
		}
		// An incident is asked every 5 s, and its last window counts.
		for n := range 3 {
			e := examples[0]
			e.Run, e.Incident, e.At, e.Holds = run, run+" one", start.Add(time.Hour+time.Duration(n)*5*time.Second), []float64{1}
			examples, p = append(examples, e), append(p, []float64{.9})
		}
	}
	a := Assess(examples, p)
	if a.Quiet != 92 || a.Alarms != 92 || a.Incidents != 2 || a.First != 2 || a.Windows != 94 || a.Pairs != 94 {
		t.Errorf("%+v: want 92 alarms in 92 quiet windows, and 2 of 2 incidents", a)
	}
	for i := range examples { // none that looks at a moment is repeated
		examples[i].Window = 0
	}
	if a := Assess(examples, p); a.Quiet != 362 {
		t.Errorf("%d quiet windows of a moment each, not 362", a.Quiet)
	}
}
