package flink

import (
	"maps"
	"slices"

	"github.com/dhalion-go/dhalion/apply"
	"github.com/dhalion-go/dhalion/internal/engine/flink"
)

// foreseen is a run as steps that are not carried out yet would leave it.
type foreseen struct {
	flink.Job
	arguments []string // nil: those of the present run
	asked     map[string]int
}

// after is a run after steps by their intents; those of hooks say nothing of it.
func after(run flink.Job, steps []apply.Intent) (foreseen, error) {
	f := foreseen{Job: run, asked: map[string]int{}}
	f.Vertices = slices.Clone(run.Vertices)
	for _, i := range steps {
		if len(i.Note) == 0 {
			continue
		}
		n, err := noteOf(i)
		if err != nil {
			return f, err
		}
		if n.Next != "" {
			f.ID, f.arguments = n.Next, n.Arguments
			continue
		}
		for at, v := range f.Vertices {
			if want, ok := n.Vertices[v.ID]; ok {
				f.Vertices[at].Parallelism, f.asked[v.ID] = flink.Known(float64(want)), want
			}
		}
	}
	return f, nil
}

// bounds are the present run's with what was asked for since.
func (f foreseen) bounds(present flink.Requirements) flink.Requirements {
	if len(f.asked) == 0 {
		return present
	}
	then := maps.Clone(present)
	for id, want := range f.asked {
		if r, ok := then[id]; ok {
			low := max(1, r.Parallelism.LowerBound.Int())
			r.Parallelism.LowerBound, r.Parallelism.UpperBound = flink.Known(float64(min(low, want))), flink.Known(float64(want))
			then[id] = r
		}
	}
	return then
}
