package diagnose

import (
	"math"
	"slices"

	dhalion "github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/features"
)

// explains says how much of one diagnosis another would take away if it were
// mended: 0 nothing, 1 all of it.
type explains func(by, of *judged, snap *features.Snapshot) float64

// explanation relates a cause to those that it can bring about. The table is
// ordered: what stands above is settled before it explains what is below.
type explanation struct {
	by, of dhalion.Cause
	share  explains
}

var explanations = []explanation{
	// Collecting garbage slows every instance on the worker.
	{dhalion.MemoryPressure, dhalion.SlowWorker, sameWorker},
	{dhalion.MemoryPressure, dhalion.SlowInstance, onWorker},
	// A slow worker makes its instances slow; an instance that is slower still
	// has a reason of its own.
	{dhalion.SlowWorker, dhalion.SlowInstance, onSlowWorker},
	{dhalion.SlowWorker, dhalion.SourceLimited, sourceOnSlowWorker},
	// A sink that runs on one sick worker alone is as slow as that is.
	{dhalion.MemoryPressure, dhalion.SinkLimited, allOnWorker},
	{dhalion.SlowWorker, dhalion.SinkLimited, allOnWorker},
	// A sink all of whose instances are slow alike waits for the outside, however
	// many instances that are: one is all.
	{dhalion.SinkLimited, dhalion.SlowInstance, alikeAtSink},
	// A component that the error names is why worker and job fail.
	{dhalion.Failing, dhalion.Failing, narrower},
	{dhalion.Failing, dhalion.Transient, always},
	// A barrier waits behind the queued records of a backpressured input.
	{dhalion.MemoryPressure, dhalion.CheckpointFailing, heldUp},
	{dhalion.SlowWorker, dhalion.CheckpointFailing, heldUp},
	{dhalion.SlowInstance, dhalion.CheckpointFailing, heldUp},
	{dhalion.DataSkew, dhalion.CheckpointFailing, heldUp},
	{dhalion.SinkLimited, dhalion.CheckpointFailing, heldUp},
	{dhalion.Underprovisioned, dhalion.CheckpointFailing, heldUp},
	{dhalion.Failing, dhalion.CheckpointFailing, always},
	{dhalion.Failing, dhalion.SourceLimited, always},
}

func sameWorker(by, of *judged, _ *features.Snapshot) float64 {
	return flag(by.Target.Worker == of.Target.Worker)
}

func onWorker(by, of *judged, snap *features.Snapshot) float64 {
	return flag(workerOf(snap, of.Target) == by.Target.Worker)
}

func onSlowWorker(by, of *judged, snap *features.Snapshot) float64 {
	if workerOf(snap, of.Target) != by.Target.Worker {
		return 0
	}
	rest := snap.Value(of.Target, "slow_factor") / snap.Value(by.Target, "slow_factor")
	// From half as slow again as its worker on, the instance is a case of its
	// own; unknown counts as explained, for then nothing speaks for that.
	if rest >= 1.5 {
		return 0
	}
	return 1
}

// allOnWorker: every instance of the component runs on the worker.
func allOnWorker(by, of *judged, snap *features.Snapshot) float64 {
	n := 0
	for _, p := range snap.Topology.Placement {
		if p.Component != of.Target.Component {
			continue
		}
		if p.Worker != by.Target.Worker {
			return 0
		}
		n++
	}
	return flag(n > 0)
}

func alikeAtSink(by, of *judged, snap *features.Snapshot) float64 {
	return flag(by.Target.Component == of.Target.Component && snap.Value(by.Target, "service_evenness") < 1.5)
}

func sourceOnSlowWorker(by, of *judged, snap *features.Snapshot) float64 {
	for _, p := range snap.Topology.Placement {
		if p.Component != of.Target.Component || p.Worker != by.Target.Worker {
			continue
		}
		i := dhalion.InstanceTarget(snap.Job, p.Component, p.Instance)
		if slow := snap.Value(i, "slow_factor"); slow >= 1.5 && slow < 1.5*snap.Value(by.Target, "slow_factor") {
			return 1
		}
	}
	return 0
}

// narrower: a diagnosis at a component explains the same one at its worker or
// its job, one at a worker that at the job.
func narrower(by, of *judged, _ *features.Snapshot) float64 {
	rank := []dhalion.TargetKind{dhalion.KindComponent, dhalion.KindWorker, dhalion.KindJob}
	return flag(slices.Index(rank, by.Target.Kind) < slices.Index(rank, of.Target.Kind))
}

func always(_, _ *judged, _ *features.Snapshot) float64 { return 1 }

// heldUp: somewhere the records really queue. Half the time backpressured is
// enough to hold a barrier up for seconds. A barrier that waits expires after the
// time-out: checkpoints that fail as fast as they are tried fail for another reason.
func heldUp(_, of *judged, snap *features.Snapshot) float64 {
	worst := 0.0
	for _, c := range snap.Topology.Components {
		if v := snap.Value(dhalion.ComponentTarget(snap.Job, c.Name), string(dhalion.Backpressured)); v > worst {
			worst = v
		}
	}
	pace := snap.Value(of.Target, "trend("+string(dhalion.CheckpointFailures)+")") * snap.Value(of.Target, string(dhalion.CheckpointInterval))
	if pace > 0.5 {
		return 0
	}
	return math.Min(1, 2*worst)
}

func workerOf(snap *features.Snapshot, t dhalion.Target) string {
	return snap.Topology.WorkerOf(t.Component, t.Instance)
}

func flag(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// explain lowers each diagnosis to what would remain after mending the listed
// one that explains most of it, and names that one. With P(by) the explainer's
// probability and s the share it explains, P' = P·(1 − s·P(by)).
func explain(pairs map[dhalion.Pair]*judged, snap *features.Snapshot) map[dhalion.Pair]*judged {
	keys := make([]dhalion.Pair, 0, len(pairs))
	for pair := range pairs {
		keys = append(keys, pair)
	}
	slices.SortFunc(keys, func(a, b dhalion.Pair) int {
		if c := a.Target.Compare(b.Target); c != 0 {
			return c
		}
		return slices.Index(dhalion.Causes, a.Cause) - slices.Index(dhalion.Causes, b.Cause)
	})
	taken := map[dhalion.Pair]float64{} // the greatest share·P(by) so far
	for _, e := range explanations {
		for _, byKey := range keys {
			by := pairs[byKey]
			if byKey.Cause != e.by || by.Probability < Listed {
				continue
			}
			for _, ofKey := range keys {
				if ofKey.Cause != e.of || ofKey == byKey || pairs[ofKey].alone < Listed {
					continue
				}
				of := pairs[ofKey]
				s := e.share(by, of, snap) * by.Probability
				if math.IsNaN(s) || s <= taken[ofKey] || s < Listed {
					continue
				}
				taken[ofKey] = s
				of.Probability = of.alone * (1 - s)
				of.ExplainedBy = &dhalion.Pair{Target: byKey.Target, Cause: byKey.Cause}
			}
		}
	}
	return pairs
}
