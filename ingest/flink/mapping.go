package flink

import "github.com/dhalion-go/dhalion"

// MetricMapping says where a metric of one kind of target comes from. Derived
// means that Flink has no such number: it is computed from several.
type MetricMapping struct {
	Metric  dhalion.Metric     `json:"metric"`
	Target  dhalion.TargetKind `json:"target"`
	From    string             `json:"from"`
	Derived bool               `json:"derived"`
	Help    string             `json:"help"`
}

const (
	subtasks = "/jobs/:id/vertices/:vid: "
	gauges   = "/jobs/:id/vertices/:vid/metrics: "
	worker   = "/taskmanagers/:id/metrics: "
	ckpt     = "/jobs/:id/checkpoints: "
)

// Mapping lists every metric that this package gives, by kind of target, then
// name. A difference is between two answers of one kind within one attempt of a
// subtask, while every subtask of the job ran at both. It is divided by what
// busy, backpressured and idle time grew by together, which is the subtask's own
// clock; without them by the time between the answers. What is missing,
// incomplete or "NaN" is unknown, and so is all of an answer that repeats the
// last one: Flink answers from a cache.
func Mapping() []MetricMapping {
	return []MetricMapping{
		{dhalion.CheckpointFailuresInARow, dhalion.KindJob, ckpt + "history", false, "FAILED ones triggered after the newest COMPLETED, savepoints left out"},
		{dhalion.CheckpointFailures, dhalion.KindJob, ckpt + "counts.failed", false, ""},
		{dhalion.CheckpointInterval, dhalion.KindJob, "/jobs/:id/checkpoints/config: interval; else " + ckpt + "history", true, "where the config was never asked for, the median difference of trigger times"},
		{dhalion.CheckpointSeconds, dhalion.KindJob, ckpt + "latest.completed.end_to_end_duration", false, ""},
		{dhalion.CheckpointsCompleted, dhalion.KindJob, ckpt + "counts.completed", false, ""},
		{dhalion.Latency, dhalion.KindJob, gauges + "OPERATOR.pendingRecords, inputQueueSize; " + subtasks + "read-bytes", true, "lag over consumption at a source and queued over taken bytes at each component, along the path that takes longest; unknown where a part is"},
		{dhalion.Restarts, dhalion.KindJob, "/jobs/:id: state, timestamps.RUNNING; subtasks' attempt, start-time; /jobs/:id/exceptions", true, "outages since the first poll; a rescale or a new run is none; less than 10 s apart are one"},
		{dhalion.Running, dhalion.KindJob, "/jobs/overview: tasks", false, "share of the subtasks that run, finished ones left out; not of a run that has finished or is cancelled"},
		{dhalion.BackpressureCaused, dhalion.KindComponent, subtasks + "accumulated-*-time", true, "mean backpressure of the direct upstream instances, if the component's own is below .1 and some upstream component's is above; else 0"},
		{dhalion.Restarts, dhalion.KindComponent, "/jobs/:id/exceptions: taskName", true, "outages laid on the component, from the first such on; the adaptive scheduler names none"},
		{dhalion.Running, dhalion.KindComponent, "/jobs/:id: vertices.tasks", false, "share of the subtasks that run, finished ones left out; not of a run that has finished or is cancelled"},
		{dhalion.BackpressureCaused, dhalion.KindInstance, subtasks + "accumulated-*-time; " + gauges + "inputQueueLength", true, "the component's, shared out by queued buffers"},
		{dhalion.Backpressured, dhalion.KindInstance, subtasks + "accumulated-backpressured-time", false, "difference over the sum of the three times' differences, or over the answers' times where busy time is unknown; else accumulateBackPressuredTimeMs, else backPressuredTimeMsPerSecond/1000 (a 60 s mean)"},
		{dhalion.Busy, dhalion.KindInstance, subtasks + "accumulated-busy-time", false, "likewise; else accumulateBusyTimeMs, else busyTimeMsPerSecond/1000"},
		{dhalion.Idle, dhalion.KindInstance, subtasks + "accumulated-idle-time", false, "likewise; else accumulateIdleTimeMs, else idleTimeMsPerSecond/1000"},
		{dhalion.InputQueueBuffers, dhalion.KindInstance, gauges + "Shuffle.Netty.Input.Buffers.inputQueueLength", false, "not of a source"},
		{dhalion.InputQueueFraction, dhalion.KindInstance, gauges + "Shuffle.Netty.Input.Buffers.inPoolUsage", false, "not of a source; local channels hide themselves from it"},
		{dhalion.Lag, dhalion.KindInstance, gauges + "OPERATOR.pendingRecords", false, "of a source; several are added"},
		{dhalion.OfferedRecords, dhalion.KindInstance, "write-records, pendingRecords", true, "of a source: records_out plus the growth of the lag, at least 0; where something is chained to it, the lag counts as what is put out for it; of a subtask that has finished, source or not: 0, and nothing else"},
		{dhalion.OutputQueueFraction, dhalion.KindInstance, gauges + "Shuffle.Netty.Output.Buffers.outPoolUsage", false, "only with a component downstream"},
		{dhalion.QueueBytes, dhalion.KindInstance, gauges + "Shuffle.Netty.Input.Buffers.inputQueueSize", false, "not of a source"},
		{dhalion.RecordsIn, dhalion.KindInstance, subtasks + "read-records; " + gauges + "OPERATOR.numRecordsOut", false, "of a source, whose read-records is always 0, the operator's own counter, and only where something is chained to it"},
		{dhalion.RecordsOut, dhalion.KindInstance, subtasks + "write-records", false, "only with a component downstream: what leaves the job is not counted"},
		{dhalion.TrueRecordsIn, dhalion.KindInstance, subtasks + "read-records, accumulated-busy-time", true, "records over busy time; unknown below 1 % busy"},
		{dhalion.TrueRecordsOut, dhalion.KindInstance, subtasks + "write-records, accumulated-busy-time", true, "records over busy time; unknown below 1 % busy"},
		{dhalion.CPU, dhalion.KindWorker, worker + "Status.JVM.CPU.Load", false, ""},
		{dhalion.GC, dhalion.KindWorker, worker + "Status.JVM.GarbageCollector.All.Time", false, "difference over the time between; else All.TimeMsPerSecond/1000 (a 60 s mean)"},
		{dhalion.HeapMax, dhalion.KindWorker, worker + "Status.JVM.Memory.Heap.Max", false, ""},
		{dhalion.HeapUsed, dhalion.KindWorker, worker + "Status.JVM.Memory.Heap.Used", false, ""},
		{dhalion.Restarts, dhalion.KindWorker, "/jobs/:id/exceptions: taskManagerId, endpoint", true, "outages laid on the worker, from the first such on"},
	}
}
