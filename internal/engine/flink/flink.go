// Package flink is what Flink's REST interface answers, typed: requests named by
// their path, bodies decoded, and recordings of both read line by line. Live
// answers and recorded ones go through the same decoders.
//
// Flink leaves fields out, changes them between versions and writes numbers as
// texts ("508.0", "NaN"). So a field that is absent or of an odd type is unknown
// (a Number that is not known), never zero, and only a body that is no JSON, or
// of another shape altogether, is an error.
package flink

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Number is a number that may be unknown; its zero value is. It is not a float64
// because a counter of 0 and a counter that Flink did not give differ.
type Number struct {
	value float64
	known bool
}

// Known is the number v; NaN and the infinities are unknown.
func Known(v float64) Number {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return Number{}
	}
	return Number{v, true}
}

// Get is the number and whether it is known.
func (n Number) Get() (float64, bool) { return n.value, n.known }

// Known reports whether the number is known.
func (n Number) Known() bool { return n.known }

// Float is the number, NaN when it is unknown.
func (n Number) Float() float64 {
	if !n.known {
		return math.NaN()
	}
	return n.value
}

// Int is the number if it is a whole one that fits 32 bits, else -1.
func (n Number) Int() int {
	if !n.known || n.value != math.Trunc(n.value) || math.Abs(n.value) > math.MaxInt32 {
		return -1
	}
	return int(n.value)
}

// Time reads the number as Flink writes times: milliseconds since 1970 UTC. ok
// is false when it is unknown, not positive (Flink's "never" is 0 or -1) or past
// the year 9999.
func (n Number) Time() (at time.Time, ok bool) {
	const year10000 = 253402300800000
	if !n.known || n.value <= 0 || n.value >= year10000 {
		return time.Time{}, false
	}
	return time.UnixMilli(int64(n.value)).UTC(), true
}

// UnmarshalJSON takes a number or a text with one in it; anything else, "NaN"
// too, is unknown. It never fails.
func (n *Number) UnmarshalJSON(data []byte) error {
	*n = parseNumber(strings.Trim(string(data), `"`))
	return nil
}

// MarshalJSON writes an unknown number as null.
func (n Number) MarshalJSON() ([]byte, error) {
	if !n.known {
		return []byte("null"), nil
	}
	return strconv.AppendFloat(nil, n.value, 'f', -1, 64), nil
}

func parseNumber(text string) Number {
	v, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
	if err != nil {
		return Number{}
	}
	return Known(v)
}

// Counts says how many tasks are in which state. Flink writes the states in
// upper case for vertices and in lower case, with a "total", for jobs.
type Counts map[string]Number

// Of is the number of tasks in a state, in any case; ok is false when Flink did
// not say.
func (c Counts) Of(state string) (n float64, ok bool) {
	if n, ok := c[strings.ToUpper(state)].Get(); ok {
		return n, true
	}
	return c[strings.ToLower(state)].Get()
}

// Total is the number of tasks in all states, and whether any was given.
func (c Counts) Total() (total float64, ok bool) {
	if total, ok := c.Of("total"); ok {
		return total, true
	}
	for _, n := range c {
		if v, known := n.Get(); known {
			total, ok = total+v, true
		}
	}
	return total, ok
}

// JobsOverview is the body of GET /jobs/overview.
type JobsOverview struct {
	Jobs []JobSummary `json:"jobs"`
}

// JobSummary is one run of a job in the overview.
type JobSummary struct {
	ID    string `json:"jid"`
	Name  string `json:"name"`
	State string `json:"state"`
	Tasks Counts `json:"tasks"`
}

// Job is the body of GET /jobs/:id: one run with its vertices and its plan.
type Job struct {
	ID         string            `json:"jid"`
	Name       string            `json:"name"`
	State      string            `json:"state"`
	StartTime  Number            `json:"start-time"`
	Now        Number            `json:"now"`
	Timestamps map[string]Number `json:"timestamps"` // when the job last came into a state, ms
	Vertices   []Vertex          `json:"vertices"`
	Plan       Plan              `json:"plan"`
}

// The states of a job that end a run for good, RUNNING, and the way to CANCELED.
// The others (CREATED, INITIALIZING, RESTARTING, FAILING, RECONCILING, SUSPENDED)
// are on the way from or to RUNNING.
const (
	Running   = "RUNNING"
	Finished  = "FINISHED"
	Canceled  = "CANCELED"
	Canceling = "CANCELLING"
	Failed    = "FAILED"
)

// Terminal reports whether a run in this state will not run again.
func Terminal(state string) bool {
	return state == Finished || state == Canceled || state == Failed
}

// Vertex is one vertex of a job as GET /jobs/:id lists it.
type Vertex struct {
	ID             string `json:"id"`
	Name           string `json:"name"`
	Parallelism    Number `json:"parallelism"`
	MaxParallelism Number `json:"maxParallelism"`
	Tasks          Counts `json:"tasks"`
}

// Plan is a job's graph; nodes are vertices.
type Plan struct {
	Nodes []PlanNode `json:"nodes"`
}

// PlanNode is a vertex and what flows into it.
type PlanNode struct {
	ID     string      `json:"id"`
	Inputs []PlanInput `json:"inputs"`
}

// PlanInput is an edge from the vertex ID; Ship is HASH, REBALANCE, FORWARD, …
type PlanInput struct {
	ID   string `json:"id"`
	Ship string `json:"ship_strategy"`
}

// PlanAnswer is the body of GET /jobs/:id/plan.
type PlanAnswer struct {
	Plan Plan `json:"plan"`
}

// VertexDetail is the body of GET /jobs/:id/vertices/:vid.
type VertexDetail struct {
	ID       string    `json:"id"`
	Name     string    `json:"name"`
	Now      Number    `json:"now"`
	Subtasks []Subtask `json:"subtasks"`
}

// Subtask is one parallel copy of a vertex: where it runs, since when, in which
// attempt, and what it has counted since that attempt began.
type Subtask struct {
	Index       Number    `json:"subtask"`
	Status      string    `json:"status"`
	Attempt     Number    `json:"attempt"`
	Endpoint    string    `json:"endpoint"`
	Host        string    `json:"host"` // older than 1.18
	TaskManager string    `json:"taskmanager-id"`
	StartTime   Number    `json:"start-time"`
	Metrics     IOMetrics `json:"metrics"`
}

// Worker is the TaskManager's id, else its host and port; empty when the subtask
// has no place yet.
func (s Subtask) Worker() string {
	for _, w := range []string{s.TaskManager, s.Endpoint, s.Host} {
		if w = strings.TrimSpace(w); w != "" && w != "(unassigned)" {
			return w
		}
	}
	return ""
}

// IOMetrics are cumulative counters and times (ms) of a subtask. A counter means
// something only when its Complete flag is set; the times have no flag.
type IOMetrics struct {
	ReadRecords          Number `json:"read-records"`
	ReadRecordsComplete  bool   `json:"read-records-complete"`
	ReadBytes            Number `json:"read-bytes"`
	ReadBytesComplete    bool   `json:"read-bytes-complete"`
	WriteRecords         Number `json:"write-records"`
	WriteRecordsComplete bool   `json:"write-records-complete"`
	Busy                 Number `json:"accumulated-busy-time"`
	Backpressured        Number `json:"accumulated-backpressured-time"`
	Idle                 Number `json:"accumulated-idle-time"`
}

// Metric is one metric of an answer to …/metrics?get=…; its value comes as a
// text.
type Metric struct {
	ID    string `json:"id"`
	Value Number `json:"value"`
}

// Subtask splits the id of a vertex's metric, <subtask>.<name>. ok is false when
// it does not begin with a number.
func (m Metric) Subtask() (index int, name string, ok bool) {
	number, name, found := strings.Cut(m.ID, ".")
	if !found || name == "" {
		return 0, "", false
	}
	index, err := strconv.Atoi(number)
	if err != nil || index < 0 || strconv.Itoa(index) != number {
		return 0, "", false
	}
	return index, name, true
}

// Checkpoints is the body of GET /jobs/:id/checkpoints.
type Checkpoints struct {
	Counts struct {
		Completed Number `json:"completed"`
		Failed    Number `json:"failed"`
	} `json:"counts"`
	Latest struct {
		Completed *Checkpoint `json:"completed"`
	} `json:"latest"`
	History []Checkpoint `json:"history"`
}

// Checkpoint is one checkpoint or savepoint.
type Checkpoint struct {
	ID        Number `json:"id"`
	Status    string `json:"status"` // IN_PROGRESS, COMPLETED, FAILED
	Savepoint bool   `json:"is_savepoint"`
	Triggered Number `json:"trigger_timestamp"`   // ms since 1970
	Duration  Number `json:"end_to_end_duration"` // ms
}

// CheckpointConfig is the body of GET /jobs/:id/checkpoints/config.
type CheckpointConfig struct {
	Interval Number `json:"interval"` // ms; 2^63-1 when checkpoints are off
}

// Exceptions is the body of GET /jobs/:id/exceptions.
type Exceptions struct {
	History struct {
		Entries   []Exception `json:"entries"`
		Truncated bool        `json:"truncated"`
	} `json:"exceptionHistory"`
}

// Exception is one failure. Task, Endpoint and TaskManager are empty when Flink
// does not know; the adaptive scheduler never names the task. The text of the
// exception is not kept: it is for people.
type Exception struct {
	Name        string `json:"exceptionName"`
	Timestamp   Number `json:"timestamp"` // ms since 1970
	Task        string `json:"taskName"`  // "counter (3/8)"
	Endpoint    string `json:"endpoint"`
	TaskManager string `json:"taskManagerId"`
}

// Vertex is the name of the vertex in Task: without the "(3/8)" and the " -
// execution #0" that may follow it. Empty when there is none.
func (e Exception) Vertex() string {
	name := e.Task
	if i := strings.LastIndex(name, " - execution #"); i >= 0 {
		name = name[:i]
	}
	name = strings.TrimSpace(name)
	if open := strings.LastIndexByte(name, '('); open > 0 && strings.HasSuffix(name, ")") {
		index, of, ok := strings.Cut(name[open+1:len(name)-1], "/")
		if _, err := strconv.Atoi(index); ok && err == nil {
			if _, err := strconv.Atoi(of); err == nil {
				name = strings.TrimSpace(name[:open])
			}
		}
	}
	return name
}

// Worker is the TaskManager that the failure is laid on, empty when unknown.
func (e Exception) Worker() string {
	return Subtask{TaskManager: e.TaskManager, Endpoint: e.Endpoint}.Worker()
}

// TaskManagers is the body of GET /taskmanagers.
type TaskManagers struct {
	TaskManagers []TaskManager `json:"taskmanagers"`
}

// TaskManager is one worker of the cluster.
type TaskManager struct {
	ID        string `json:"id"`
	Slots     Number `json:"slotsNumber"`
	FreeSlots Number `json:"freeSlots"`
}

// Requirements is the body of GET and PUT /jobs/:id/resource-requirements, by
// vertex id.
type Requirements map[string]Requirement

// Requirement is between how many and how many copies a vertex should have.
type Requirement struct {
	Parallelism struct {
		LowerBound Number `json:"lowerBound"`
		UpperBound Number `json:"upperBound"`
	} `json:"parallelism"`
}

// Decode reads a body into one of the types above. Fields of an odd type stay
// unknown; an error means that the body as a whole is not what it should be.
func Decode[T any](body []byte) (T, error) {
	var v T
	err := json.Unmarshal(body, &v)
	var odd *json.UnmarshalTypeError
	switch {
	case err == nil && bytes.Equal(bytes.TrimSpace(body), []byte("null")):
		return v, errors.New("flink: decode answer: it is null")
	case errors.As(err, &odd) && odd.Field != "":
		// The rest of the value has been decoded.
		return v, nil
	case err != nil:
		return v, fmt.Errorf("flink: decode answer: %w", err)
	}
	return v, nil
}
