package dhalion

import "math"

// Cause is a named root cause, judged at the offered load with every other
// cause imagined away. docs/glossary.md has the definitions. "Nothing wrong" is
// an empty list of diagnoses, not a cause.
type Cause string

// The causes.
const (
	Underprovisioned  Cause = "underprovisioned"
	Overprovisioned   Cause = "overprovisioned"
	SlowInstance      Cause = "slow_instance"
	SlowWorker        Cause = "slow_worker"
	DataSkew          Cause = "data_skew"
	SinkLimited       Cause = "sink_limited"
	SourceLimited     Cause = "source_limited"
	MemoryPressure    Cause = "memory_pressure"
	CheckpointFailing Cause = "checkpoint_failing"
	Failing           Cause = "failing"
	Transient         Cause = "transient"
)

// Causes lists every cause, sorted by name.
var Causes = []Cause{
	CheckpointFailing, DataSkew, Failing, MemoryPressure, Overprovisioned, SinkLimited,
	SlowInstance, SlowWorker, SourceLimited, Transient, Underprovisioned,
}

// Valid reports whether c is one of Causes.
func (c Cause) Valid() bool {
	for _, other := range Causes {
		if c == other {
			return true
		}
	}
	return false
}

func nan() float64 { return math.NaN() }
