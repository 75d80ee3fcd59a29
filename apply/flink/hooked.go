package flink

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/apply"
)

// Hooked is what an intent remembers of a hook that starts a job anew: which run it
// is to end, and with which arguments that and the next one run. The next one's id
// is not known before it runs; the journal has it with the result then.
type Hooked struct {
	Ends string   `json:"ends,omitempty"` // empty: no run was alive
	Had  []string `json:"had,omitempty"`
	Left []string `json:"left"`
}

// Hooking says what a hook is to bring about that carries out a call in the place of
// a restart. It returns *apply.AwayError while that is not known.
func (a *Actuator) Hooking(ctx context.Context, c apply.Call) (h Hooked, err error) {
	run, err := a.run(ctx)
	if errors.As(err, new(*apply.AwayError)) {
		return h, err
	}
	if err == nil {
		h.Ends = run.ID
	}
	h.Had = slices.Clone(a.Arguments(run.ID))
	h.Left = append([]string{}, h.Had...)
	for _, x := range c.Actions {
		if x.Kind == dhalion.SetKnob {
			h.Left = withArgument(h.Left, x.Argument, x.To.String())
		}
	}
	return h, nil
}

// Renewed says whether another run of the job is at work than the one that a hook
// was to end, with no fewer instances than the job had before. followed is that run,
// once all its tasks run.
func (a *Actuator) Renewed(ctx context.Context, i apply.Intent, before dhalion.Topology) (s apply.Standing, why, followed string) {
	var h Hooked
	if err := json.Unmarshal(i.Note, &h); err != nil {
		return apply.Unknown, fmt.Sprintf("flink: the journal's note of %s: %v", i.ID, err), ""
	}
	run, err := a.run(ctx)
	switch {
	case err != nil:
		return apply.Working, err.Error(), ""
	case run.ID == h.Ends:
		return apply.Undone, fmt.Sprintf("run %s goes on, and no other was started", run.ID), ""
	}
	if up, _ := running(run); up == apply.Settled {
		a.remember(run.ID, h.Left)
		followed = run.ID
	}
	s, why = whole(run, before)
	return s, why, followed
}
