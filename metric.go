package dhalion

// Metric is the engine-neutral name of something measured; its unit is part of
// the name or of the catalogue. It is not a series: a series is a metric of one
// target.
type Metric string

// The metrics. Rates are records per second, fractions are 0 to 1.
const (
	RecordsIn                Metric = "records_in_per_second"
	RecordsOut               Metric = "records_out_per_second"
	TrueRecordsIn            Metric = "true_records_in_per_second"
	TrueRecordsOut           Metric = "true_records_out_per_second"
	OfferedRecords           Metric = "offered_records_per_second"
	Busy                     Metric = "busy_fraction"
	Backpressured            Metric = "backpressured_fraction"
	BackpressureCaused       Metric = "backpressure_caused_fraction"
	Idle                     Metric = "idle_fraction"
	InputQueueBuffers        Metric = "input_queue_buffers"
	InputQueueFraction       Metric = "input_queue_fraction"
	OutputQueueFraction      Metric = "output_queue_fraction"
	QueueBytes               Metric = "queue_bytes"
	Lag                      Metric = "lag_records"
	Latency                  Metric = "latency_seconds"
	CPU                      Metric = "cpu_fraction"
	HeapUsed                 Metric = "heap_used_bytes"
	HeapMax                  Metric = "heap_max_bytes"
	GC                       Metric = "gc_fraction"
	Restarts                 Metric = "restarts_total"
	CheckpointSeconds        Metric = "checkpoint_seconds"
	CheckpointInterval       Metric = "checkpoint_interval_seconds"
	CheckpointsCompleted     Metric = "checkpoints_completed_total"
	CheckpointFailures       Metric = "checkpoint_failures_total"
	CheckpointFailuresInARow Metric = "checkpoint_consecutive_failures"
	Running                  Metric = "running_fraction"
	HeapAfterGC              Metric = "heap_after_gc_fraction"
)

// MetricInfo describes a metric: its unit in SI or as a word, what it says, and
// whether Dhalion derives it where the engine gives none.
type MetricInfo struct {
	Name    Metric `json:"name"`
	Unit    string `json:"unit"`
	Help    string `json:"help"`
	Derived bool   `json:"derived"`
}

// Metrics is the catalogue, sorted by name. A measurement whose metric is not
// in it is refused: a misspelt name would otherwise be unknown for ever.
var Metrics = []MetricInfo{
	{BackpressureCaused, "1", "share of the time in which this target holds up what is upstream of it", true},
	{Backpressured, "1", "share of the time spent waiting for room downstream", false},
	{Busy, "1", "share of the time spent working", false},
	{CheckpointFailuresInARow, "count", "checkpoints failed or expired since the last one that completed", false},
	{CheckpointFailures, "count", "checkpoints that failed or expired, cumulative", false},
	{CheckpointInterval, "s", "time between two checkpoints", false},
	{CheckpointSeconds, "s", "duration of the newest finished checkpoint", false},
	{CheckpointsCompleted, "count", "checkpoints completed, cumulative", false},
	{CPU, "1", "share of the worker's processors in use", false},
	{GC, "1", "share of the time spent collecting garbage", false},
	{HeapAfterGC, "1", "heap in use after a collection as a share of its maximum", true},
	{HeapMax, "B", "largest size of the heap", false},
	{HeapUsed, "B", "heap in use", false},
	{Idle, "1", "share of the time spent waiting for input", false},
	{InputQueueBuffers, "count", "buffers waiting at the input", false},
	{InputQueueFraction, "1", "share of the input buffers in use", false},
	{Lag, "count", "records that are due and not yet read", false},
	{Latency, "s", "time from a record's arrival to its result", false},
	{OfferedRecords, "1/s", "arrival rate, whether or not it is kept up with", true},
	{OutputQueueFraction, "1", "share of the output buffers in use", false},
	{QueueBytes, "B", "bytes waiting at the input", false},
	{RecordsIn, "1/s", "records taken in", false},
	{RecordsOut, "1/s", "records put out", false},
	{Restarts, "count", "outages of the target since its history began, cumulative", true},
	{Running, "1", "share of the time in which all instances ran", false},
	{TrueRecordsIn, "1/s", "records taken in per second of busy time", true},
	{TrueRecordsOut, "1/s", "records put out per second of busy time", true},
}

// Valid reports whether m is in the catalogue.
func (m Metric) Valid() bool {
	_, ok := m.Info()
	return ok
}

// Info looks m up in the catalogue.
func (m Metric) Info() (MetricInfo, bool) {
	for _, info := range Metrics {
		if info.Name == m {
			return info, true
		}
	}
	return MetricInfo{}, false
}

// Fraction reports whether the values of m lie in 0 to 1.
func (m Metric) Fraction() bool {
	info, ok := m.Info()
	return ok && info.Unit == "1"
}
