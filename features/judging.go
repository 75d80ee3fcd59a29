package features

import (
	"math"
	"slices"

	dhalion "github.com/dhalion-go/dhalion"
)

// A judging vector is what a classifier sees of a target: some sixty numbers of
// its own, of what surrounds it and of how it stands out in its job. All are free
// of the job's size and units (shares, ratios, seconds of load), so that what was
// learned on one job can be asked on another. NaN is unknown.

// judgingPart is one number of such a vector.
type judgingPart struct {
	name string
	of   func(s *Snapshot, t dhalion.Target) float64
}

var judging = map[dhalion.TargetKind][]judgingPart{
	dhalion.KindInstance:  judgingInstance(),
	dhalion.KindComponent: judgingComponent(),
	dhalion.KindWorker:    judgingWorker(),
	dhalion.KindJob:       judgingJob(),
}

var judgingSchemas = func() map[dhalion.TargetKind]*Schema {
	all := map[dhalion.TargetKind]*Schema{}
	for kind, parts := range judging {
		names := make([]string, len(parts))
		for i, p := range parts {
			names[i] = p.name
		}
		all[kind] = newSchema(kind, names)
	}
	return all
}()

// JudgingSchema is the schema of the judging vectors of one kind of target.
func JudgingSchema(kind dhalion.TargetKind) *Schema { return judgingSchemas[kind] }

// Judging is the judging vector of a target of the snapshot.
func (s *Snapshot) Judging(t dhalion.Target) dhalion.Vector {
	parts := judging[t.Kind]
	v := dhalion.Vector{Target: t, Window: s.Window, Schema: judgingSchemas[t.Kind].Digest, Values: make([]float64, len(parts))}
	for i, p := range parts {
		v.Values[i] = p.of(s, t)
		if math.IsInf(v.Values[i], 0) {
			v.Values[i] = nan
		}
	}
	return v
}

// own are features of the target itself, componentOf and so on of what it belongs
// to; the name says which.
func own(names ...string) []judgingPart {
	return parts("", func(s *Snapshot, t dhalion.Target) dhalion.Target { return t }, names)
}

func componentOf(names ...string) []judgingPart {
	return parts(ofComponent, func(_ *Snapshot, t dhalion.Target) dhalion.Target {
		return dhalion.ComponentTarget(t.Job, t.Component)
	}, names)
}

func workerOf(names ...string) []judgingPart {
	return parts("worker.", func(s *Snapshot, t dhalion.Target) dhalion.Target {
		return dhalion.WorkerTarget(t.Job, s.Topology.WorkerOf(t.Component, t.Instance))
	}, names)
}

func jobOf(names ...string) []judgingPart {
	return parts("job.", func(_ *Snapshot, t dhalion.Target) dhalion.Target { return dhalion.JobTarget(t.Job) }, names)
}

func parts(prefix string, at func(*Snapshot, dhalion.Target) dhalion.Target, names []string) []judgingPart {
	out := make([]judgingPart, len(names))
	for i, name := range names {
		out[i] = judgingPart{prefix + name, func(s *Snapshot, t dhalion.Target) float64 { return s.Value(at(s, t), name) }}
	}
	return out
}

// around are the greatest of a feature over targets that stand in a relation to
// the one that is judged.
func around(name, feature string, related func(*Snapshot, dhalion.Target) []dhalion.Target) judgingPart {
	return judgingPart{name + ".most(" + feature + ")", func(s *Snapshot, t dhalion.Target) float64 {
		v := nan
		for _, o := range related(s, t) {
			v = most(v, s.Value(o, feature))
		}
		return v
	}}
}

// elsewhere are the job's other targets of the kind.
func elsewhere(s *Snapshot, t dhalion.Target) []dhalion.Target {
	return slices.DeleteFunc(s.Targets(t.Kind), func(o dhalion.Target) bool { return o == t })
}

// otherComponents are instances of other components.
func otherComponents(s *Snapshot, t dhalion.Target) []dhalion.Target {
	return slices.DeleteFunc(s.Targets(dhalion.KindInstance), func(o dhalion.Target) bool { return o.Component == t.Component })
}

// siblings are the other instances of the component.
func siblings(s *Snapshot, t dhalion.Target) []dhalion.Target {
	return slices.DeleteFunc(s.Targets(dhalion.KindInstance), func(o dhalion.Target) bool { return o.Component != t.Component || o == t })
}

// within are the instances of a component, or on a worker, or of a job.
func within(s *Snapshot, t dhalion.Target) []dhalion.Target {
	return slices.DeleteFunc(s.Targets(dhalion.KindInstance), func(o dhalion.Target) bool {
		switch t.Kind {
		case dhalion.KindComponent:
			return o.Component != t.Component
		case dhalion.KindWorker:
			return s.Topology.WorkerOf(o.Component, o.Instance) != t.Worker
		}
		return false
	})
}

func upstream(s *Snapshot, t dhalion.Target) []dhalion.Target {
	return named(t.Job, s.Topology.Upstream(t.Component))
}

func downstream(s *Snapshot, t dhalion.Target) []dhalion.Target {
	return named(t.Job, s.Topology.Downstream(t.Component))
}

func named(job dhalion.JobID, names []string) []dhalion.Target {
	var out []dhalion.Target
	for _, name := range names {
		out = append(out, dhalion.ComponentTarget(job, name))
	}
	return out
}

func components(s *Snapshot, _ dhalion.Target) []dhalion.Target {
	return s.Targets(dhalion.KindComponent)
}
func workers(s *Snapshot, _ dhalion.Target) []dhalion.Target { return s.Targets(dhalion.KindWorker) }

// over is a quotient of two parts: how far the target stands out from another.
func over(name string, a, b judgingPart) judgingPart {
	return judgingPart{name, func(s *Snapshot, t dhalion.Target) float64 { return ratio(a.of(s, t), b.of(s, t), 1e-6) }}
}

func judgingInstance() []judgingPart {
	p := own(
		"busy_fraction", "recent(busy_fraction)", "std(busy_fraction)", "backpressured_fraction", "idle_fraction",
		"peer_ratio(busy_fraction)", "past_ratio(busy_fraction)", "share(records_in_per_second)", "past_ratio(records_in_per_second)",
		"peer_ratio(input_queue_buffers)", "input_queue_fraction", "uneven_share", "service_past_ratio", "service_peer_ratio", "slow_factor",
		"worker_others_slow_factor", "busy_at_offered_load", "is_source")
	p = append(p, componentOf("load_ratio", "load_past_ratio", "bottleneck", "busy_fraction", "backpressured_fraction", "service_evenness",
		"service_past_ratio", "is_external", "leads_backpressure")...)
	p = append(p, workerOf("slow_lowest", "slow_factor", "slow_agreement", "loaded_instances")...)
	p = append(p, jobOf("load_ratio", "backlog_seconds", "outages_in_window")...)
	slow, uneven := own("slow_factor")[0], own("uneven_share")[0]
	return append(p,
		around("siblings", "slow_factor", siblings), around("siblings", "uneven_share", siblings), around("siblings", "busy_fraction", siblings),
		around("elsewhere", "slow_factor", otherComponents), around("elsewhere", "uneven_share", otherComponents),
		over("slow_factor over siblings", slow, around("siblings", "slow_factor", siblings)),
		over("uneven_share over siblings", uneven, around("siblings", "uneven_share", siblings)),
		over("slow_factor over elsewhere", slow, around("elsewhere", "slow_factor", elsewhere)),
		around("components", "service_past_ratio", components), around("workers", "slow_lowest", workers))
}

func judgingComponent() []judgingPart {
	p := own(
		"load_ratio", "load_ratio_peak", "load_past_ratio", "backlog_seconds", "bottleneck", "busy_fraction", "least(busy_fraction)", "most(busy_fraction)",
		"recent(busy_fraction)", "past_ratio(busy_fraction)", "backpressured_fraction", "recent(backpressured_fraction)", "idle_fraction", "service_past_ratio", "service_evenness", "is_source",
		"is_external", "unread_growth", "unread_seconds", "leads_backpressure", "past_ratio(records_in_per_second)", "past_ratio(records_out_per_second)", "input_queue_fraction", "outages", "outages_in_window")
	p = append(p, jobOf("load_ratio", "load_ratio_peak", "outages_in_window", "drain_seconds")...)
	load := own("load_ratio")[0]
	return append(p,
		around("instances", "slow_factor", within), around("instances", "uneven_share", within), around("instances", "worker_others_slow_factor", within),
		around("upstream", "backpressured_fraction", upstream), around("upstream", "load_ratio", upstream), around("upstream", "busy_fraction", upstream),
		around("downstream", "backpressured_fraction", downstream), around("downstream", "load_ratio", downstream), around("downstream", "busy_fraction", downstream),
		around("elsewhere", "load_ratio", elsewhere), around("elsewhere", "bottleneck", elsewhere), around("elsewhere", "service_past_ratio", elsewhere),
		over("load_ratio over elsewhere", load, around("elsewhere", "load_ratio", elsewhere)),
		around("workers", "slow_lowest", workers), around("elsewhere", "unread_growth", elsewhere))
}

func judgingWorker() []judgingPart {
	p := own("loaded_instances", "slow_factor", "slow_lowest", "slow_agreement", "gc_lowest", "gc_fraction", "recent(gc_fraction)", "trend(gc_fraction)",
		"heap_after_gc_fraction", "cpu_fraction", "past_ratio(cpu_fraction)", "outages", "outages_in_window")
	p = append(p, jobOf("load_ratio", "backlog_seconds", "outages_in_window")...)
	lowest := own("slow_lowest")[0]
	return append(p,
		around("elsewhere", "slow_lowest", elsewhere), around("elsewhere", "slow_factor", elsewhere), around("elsewhere", "gc_lowest", elsewhere),
		around("instances", "slow_factor", within), around("instances", "uneven_share", within), around("instances", "busy_fraction", within), around("instances", "service_past_ratio", within),
		over("slow_lowest over elsewhere", lowest, around("elsewhere", "slow_lowest", elsewhere)),
		around("components", "service_past_ratio", components), around("components", "bottleneck", components))
}

func judgingJob() []judgingPart {
	p := own("load_ratio", "load_ratio_peak", "backlog_seconds", "drain_seconds", "down_seconds", "outages", "outages_in_window", "smallest_parallelism",
		"checkpoint_failures_in_a_row", "checkpoint_overrun", "running_fraction", "min(running_fraction)")
	return append(p,
		around("components", "backpressured_fraction", components), around("components", "bottleneck", components), around("components", "unread_growth", components),
		around("components", "load_past_ratio", components), around("components", "service_past_ratio", components),
		around("workers", "slow_lowest", workers), around("instances", "slow_factor", within), around("instances", "uneven_share", within))
}
