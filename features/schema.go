// Package features turns a job's history into named, ordered vectors: one per
// target and window, with the digest of the schema that names their parts.
//
// A feature is written as the policy language writes it: `busy_fraction` is the
// mean over the window, `peer_ratio(busy_fraction)` compares an instance with
// its peers, `load_ratio` is a derived number of the target's kind. NaN is
// unknown and never zero. Nothing here reads a clock or a random source: equal
// histories give equal vectors.
package features

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strconv"
	"strings"

	dhalion "github.com/dhalion-go/dhalion"
)

// flow lists the metrics that instances have, and components as their sum or
// mean.
var flow = []dhalion.Metric{
	dhalion.RecordsIn, dhalion.RecordsOut, dhalion.TrueRecordsIn, dhalion.TrueRecordsOut, dhalion.OfferedRecords,
	dhalion.Busy, dhalion.Backpressured, dhalion.BackpressureCaused, dhalion.Idle,
	dhalion.InputQueueBuffers, dhalion.InputQueueFraction, dhalion.OutputQueueFraction, dhalion.QueueBytes,
	dhalion.Lag, dhalion.Latency,
}

// summed says which metrics of a component are the sum of its instances'; the
// others are their mean.
var summed = map[dhalion.Metric]bool{
	dhalion.RecordsIn: true, dhalion.RecordsOut: true, dhalion.TrueRecordsIn: true, dhalion.TrueRecordsOut: true,
	dhalion.OfferedRecords: true, dhalion.InputQueueBuffers: true, dhalion.QueueBytes: true, dhalion.Lag: true,
	dhalion.BackpressureCaused: true, // shared out over the instances
}

var (
	workerMetrics = []dhalion.Metric{dhalion.CPU, dhalion.HeapUsed, dhalion.HeapMax, dhalion.GC, dhalion.HeapAfterGC}
	jobMetrics    = []dhalion.Metric{
		dhalion.Running, dhalion.Latency, dhalion.CheckpointSeconds, dhalion.CheckpointInterval,
		dhalion.CheckpointsCompleted, dhalion.CheckpointFailures, dhalion.CheckpointFailuresInARow,
	}
)

// Functions over one metric and one window. "" is the mean.
var (
	timeFuncs      = []string{"", "min", "max", "std", "trend", "p50", "p95", "recent"}
	pastFuncs      = []string{"past", "past_ratio"}
	peerFuncs      = []string{"peer_ratio", "share"}
	componentFuncs = []string{"", "trend", "recent", "past", "past_ratio", "most", "least", "sum", "steepest", "upstream", "downstream"}
)

// Derived features, with what they mean. The Help is shown by `dhalion metrics`
// and in docs/glossary.md.
type Derived struct {
	Name string
	Kind dhalion.TargetKind
	Unit string
	Help string
}

// DerivedFeatures is the catalogue of features that are no function of a single
// metric, sorted by kind and name.
var DerivedFeatures = []Derived{
	{"backlog_seconds", dhalion.KindJob, "s", "records that are due, in seconds of the present offered load"},
	{"checkpoint_failures_in_a_row", dhalion.KindJob, "count", "checkpoints failed or expired since the last that completed, as last heard"},
	{"checkpoint_overrun", dhalion.KindJob, "1", "duration of the newest checkpoint over the interval"},
	{"down_seconds", dhalion.KindJob, "s", "how long the job has not been running at the window's end"},
	{"drain_seconds", dhalion.KindJob, "s", "time in which the backlog drains at the present load; unknown when it does not drain"},
	{"load_ratio", dhalion.KindJob, "1", "the greatest load_ratio of the components that are no source"},
	{"load_ratio_peak", dhalion.KindJob, "1", "the greatest load_ratio_peak of the components that are no source"},
	{"outages", dhalion.KindJob, "count", "outages begun in the 10 min before the window's end; those less than 10 s apart are one"},
	{"outages_in_window", dhalion.KindJob, "count", "outages begun inside the window"},
	{"polls", dhalion.KindJob, "count", "times at which the job was measured in the window"},
	{"smallest_parallelism", dhalion.KindJob, "count", "the smallest parallelism of the components that are no source"},

	{"busy_at_offered_load", dhalion.KindInstance, "1", "share of the time that this instance would be busy if all that is offered reached it, at the component's healthy time per record"},
	{"is_source", dhalion.KindInstance, "1", "1 at a source, else 0"},
	{"peers_elsewhere", dhalion.KindInstance, "count", "instances of the component on other workers that it can be compared with"},
	{"records_seen", dhalion.KindInstance, "count", "records handled in the window"},
	{"service_past_ratio", dhalion.KindInstance, "1", "time per record over its own healthy past, the smaller of window and recent part"},
	{"service_peer_ratio", dhalion.KindInstance, "1", "time per record over the median of its peers, on other workers where there are any, the smaller of window and recent part"},
	{"service_seconds", dhalion.KindInstance, "s", "busy time per record"},
	{"slow_factor", dhalion.KindInstance, "1", "how much slower it is than it should be: the smaller of the peer ratio and its geometric mean with the past ratio"},
	{"uneven_share", dhalion.KindInstance, "1", "records taken over an even share of the instances whose records are known, the smaller of window and recent part; unknown where no peer's are"},
	{"worker_others_slow_factor", dhalion.KindInstance, "1", "the median slow_factor of the other loaded instances on its worker"},

	{"backlog_seconds", dhalion.KindComponent, "s", "the job's backlog_seconds, so that a rule about a component can ask for it"},
	{"bottleneck", dhalion.KindComponent, "1", "how much it holds up what is above it: backpressure directly upstream less its own, 0 to 1"},
	{"healthy_service_seconds", dhalion.KindComponent, "s", "time per record when nothing is wrong: the past, or the quicker instances now"},
	{"instances", dhalion.KindComponent, "count", "its parallelism"},
	{"is_external", dhalion.KindComponent, "1", "1 when its cost is set by a system outside, as for a sink, else 0"},
	{"is_source", dhalion.KindComponent, "1", "1 at a source, else 0"},
	{"leads_backpressure", dhalion.KindComponent, "1", "1 where sum(backpressure_caused_fraction) is above 0 and no other component's is greater, nor as great farther down the flow, else 0"},
	{"load_past_ratio", dhalion.KindComponent, "1", "offered load over its past median"},
	{"load_ratio", dhalion.KindComponent, "1", "instances needed over instances there are, at full utilisation, that the load has asked for through the last 20 s or, on average, both lately and over the window"},
	{"load_ratio_peak", dhalion.KindComponent, "1", "the same, the greater of window and recent part: what scaling down must leave room for"},
	{"most_backpressure", dhalion.KindComponent, "1", "the greatest sum(backpressure_caused_fraction) of the job's components"},
	{"offered_load", dhalion.KindComponent, "1/s", "records per second that would arrive if everything upstream kept up"},
	{"outages", dhalion.KindComponent, "count", "outages of the last 10 min that the engine lays on this component"},
	{"outages_in_window", dhalion.KindComponent, "count", "the same, begun inside the window"},
	{"service_evenness", dhalion.KindComponent, "1", "the slowest instance's time per record over the quickest's"},
	{"service_past_ratio", dhalion.KindComponent, "1", "the smallest service_past_ratio of its instances, over what the other components slowed down by"},
	{"unread_growth", dhalion.KindComponent, "1", "of a source: share of the arriving records that it leaves unread, sustained"},
	{"unread_seconds", dhalion.KindComponent, "s", "of a source: unread records in seconds of its load"},

	{"loaded_instances", dhalion.KindWorker, "count", "instances on it that are busy at least a tenth of the time; sources only where there are no two others"},
	{"gc_lowest", dhalion.KindWorker, "1", "the smallest share of time spent collecting garbage in the window"},
	{"outages", dhalion.KindWorker, "count", "outages of the last 10 min that the engine lays on this worker"},
	{"outages_in_window", dhalion.KindWorker, "count", "the same, begun inside the window"},
	{"slow_agreement", dhalion.KindWorker, "1", "the smallest over the greatest of its loaded instances' slow factors"},
	{"slow_factor", dhalion.KindWorker, "1", "the median of how slow its loaded instances are, against peers elsewhere or else their past"},
	{"slow_lowest", dhalion.KindWorker, "1", "the smallest of them"},
}

// Schema is the ordered list of the features of one kind of target.
type Schema struct {
	Kind   dhalion.TargetKind
	Names  []string
	Digest string // SHA-256, hex, over kind, names and Definitions
	index  map[string]int
	stats  map[dhalion.Metric]*stats // of the metrics that have them
}

// stats are the positions of what is told of one metric in one window: looking up
// their names takes longer than working them out.
type stats struct{ mean, min, max, std, trend, p50, p95, recent int }

// Index is the position of a feature, and whether the schema has it.
func (s *Schema) Index(name string) (int, bool) {
	i, ok := s.index[name]
	return i, ok
}

func newSchema(kind dhalion.TargetKind, names []string) *Schema {
	s := &Schema{Kind: kind, Names: names, index: make(map[string]int, len(names)), stats: map[dhalion.Metric]*stats{}}
	for i, name := range names {
		s.index[name] = i
	}
	for _, m := range slices.Concat(flow, workerMetrics, jobMetrics) {
		if _, ok := s.index[call("p95", m)]; ok {
			at := func(fn string) int { return s.index[call(fn, m)] }
			s.stats[m] = &stats{at(""), at("min"), at("max"), at("std"), at("trend"), at("p50"), at("p95"), at("recent")}
		}
	}
	s.Digest = digest(kind, names, Definitions)
	return s
}

// Definitions counts how often what a feature means was changed under its old name. Who
// changes how one is worked out adds one: a model that learned from the old numbers is
// then refused, though the names are alike.
const Definitions = 1

// digest is that of the names alone for the first definitions, which had no number.
func digest(kind dhalion.TargetKind, names []string, definitions int) string {
	text := string(kind) + "\n" + strings.Join(names, "\n")
	if definitions > 1 {
		text = "definitions " + strconv.Itoa(definitions) + "\n" + text
	}
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// called is a function of a metric.
type called struct {
	fn string
	m  dhalion.Metric
}

// calls are the names of all functions of metrics, so that none is put together
// again for every instance.
var calls = func() map[called]string {
	all := map[called]string{}
	for _, m := range slices.Concat(flow, workerMetrics, jobMetrics) {
		for _, fn := range slices.Concat(timeFuncs, pastFuncs, peerFuncs, componentFuncs) {
			all[called{fn, m}] = fn + "(" + string(m) + ")"
		}
		all[called{"", m}] = string(m)
	}
	return all
}()

// call is the canonical name of a function of a metric; of none that no schema has.
func call(fn string, m dhalion.Metric) string {
	name, ok := calls[called{fn, m}]
	if !ok {
		panic("features: no feature is " + fn + " of " + string(m))
	}
	return name
}

func build(kind dhalion.TargetKind) *Schema {
	var names []string
	add := func(metrics []dhalion.Metric, funcs ...[]string) {
		for _, m := range metrics {
			for _, group := range funcs {
				for _, fn := range group {
					names = append(names, call(fn, m))
				}
			}
		}
	}
	switch kind {
	case dhalion.KindInstance:
		add(flow, timeFuncs, pastFuncs, peerFuncs)
	case dhalion.KindComponent:
		add(flow, componentFuncs)
	case dhalion.KindWorker:
		add(workerMetrics, timeFuncs, pastFuncs)
	case dhalion.KindJob:
		add(jobMetrics, timeFuncs)
	}
	for _, d := range DerivedFeatures {
		if d.Kind == kind {
			names = append(names, d.Name)
		}
	}
	slices.Sort(names)
	return newSchema(kind, names)
}

var schemas = map[dhalion.TargetKind]*Schema{
	dhalion.KindJob:       build(dhalion.KindJob),
	dhalion.KindComponent: build(dhalion.KindComponent),
	dhalion.KindInstance:  build(dhalion.KindInstance),
	dhalion.KindWorker:    build(dhalion.KindWorker),
}

// SchemaOf is the schema of the vectors of one kind of target.
func SchemaOf(kind dhalion.TargetKind) *Schema { return schemas[kind] }

// Known reports whether vectors of this kind of target have the feature. It has
// the form of policy.Catalogue.
func Known(kind dhalion.TargetKind, feature string) bool {
	s := schemas[kind]
	if s == nil {
		return false
	}
	_, ok := s.index[feature]
	return ok
}
