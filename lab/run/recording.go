package main

import (
	"bufio"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/dhalion-go/dhalion/internal/engine/flink"
)

// count is what a subtask had counted at one time.
type count struct {
	at                      time.Time
	in, out, busy, pressed  float64
	idle, attempt, restarts float64
}

// raw are the numbers of a recording that labels and their checks need, as the
// engine gave them: nothing of the program that is to be judged by them.
type raw struct {
	subtasks map[string]map[int][]count // component → subtask, in time
	heap     map[string][]heap          // worker, in time
}

// heap is a worker's memory at one time. collected is the time that collections
// took so far, ms.
type heap struct {
	at                   time.Time
	used, max, collected float64
}

func readRecording(path string) (*raw, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	z, err := gzip.NewReader(bufio.NewReader(f))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	r := &raw{map[string]map[int][]count{}, map[string][]heap{}}
	reader := flink.NewReader(z)
	for {
		a, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return r, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if !a.OK() {
			continue
		}
		switch what := a.Resource(); what.Kind {
		case flink.KindVertex:
			r.vertex(a)
		case flink.KindTaskManagerMetrics:
			r.worker(what.TaskManager, a)
		}
	}
}

func (r *raw) vertex(a flink.Answer) {
	d, err := flink.Decode[flink.VertexDetail](a.Body)
	if err != nil {
		return // an answer that is no use to the program is none to us
	}
	name := component(d.Name)
	if r.subtasks[name] == nil {
		r.subtasks[name] = map[int][]count{}
	}
	for _, s := range d.Subtasks {
		m := s.Metrics
		if !m.Busy.Known() || !m.ReadRecords.Known() {
			continue
		}
		i := s.Index.Int()
		r.subtasks[name][i] = append(r.subtasks[name][i], count{a.Time, m.ReadRecords.Float(), m.WriteRecords.Float(), m.Busy.Float(),
			m.Backpressured.Float(), m.Idle.Float(), s.Attempt.Float(), s.StartTime.Float()})
	}
}

func (r *raw) worker(id string, a flink.Answer) {
	metrics, err := flink.Decode[[]flink.Metric](a.Body)
	if err != nil {
		return
	}
	h := heap{at: a.Time}
	for _, m := range metrics {
		v, known := m.Value.Get()
		switch {
		case !known:
		case m.ID == "Status.JVM.Memory.Heap.Used":
			h.used = v
		case m.ID == "Status.JVM.Memory.Heap.Max":
			h.max = v
		case strings.HasPrefix(m.ID, "Status.JVM.GarbageCollector.") && strings.HasSuffix(m.ID, ".Time"):
			if m.ID == "Status.JVM.GarbageCollector.All.Time" {
				h.collected = v
			} else if h.collected == 0 {
				h.collected += v
			}
		}
	}
	r.heap[id] = append(r.heap[id], h)
}

// sums are differences of counters over a time.
type sums struct{ seconds, in, out, busy, pressed, idle float64 }

// over adds up what a subtask counted from one time to another; what lies across
// a restart (another attempt or start, a counter that fell) is left out.
func (r *raw) over(name string, subtask int, from, to time.Time) sums {
	var s sums
	var last *count
	list := r.subtasks[name][subtask]
	for i := range list {
		c := &list[i]
		if c.at.Before(from) || c.at.After(to) {
			continue
		}
		if last != nil && c.attempt == last.attempt && c.restarts == last.restarts && c.in >= last.in && c.out >= last.out && c.busy >= last.busy {
			s.seconds += c.at.Sub(last.at).Seconds()
			s.in += c.in - last.in
			s.out += c.out - last.out
			s.busy += c.busy - last.busy
			s.pressed += c.pressed - last.pressed
			s.idle += c.idle - last.idle
		}
		last = c
	}
	return s
}

// cost is the busy time per record, ms; false when there were too few records.
func (s sums) cost() (float64, bool) {
	n := s.in
	if n == 0 {
		n = s.out // a source
	}
	return s.busy / n, n >= 20 && s.busy > 0
}

// share is a part of the time that was counted; false when none was.
func (s sums) share(part float64) (float64, bool) {
	total := s.busy + s.pressed + s.idle
	if total <= 0 {
		return 0, false
	}
	return part / total, true
}

// shares is what each subtask got of a component's records.
func (r *raw) shares(name string, from, to time.Time) []float64 {
	list := make([]float64, len(r.subtasks[name]))
	total := 0.0
	for i := range list {
		list[i] = r.over(name, i, from, to).in
		total += list[i]
	}
	for i := range list {
		if total > 0 {
			list[i] /= total
		}
	}
	return list
}

// memory is the share of a worker's time that went into collections, and the
// least share of its heap that was in use; false when it was not seen twice.
func (r *raw) memory(worker string, from, to time.Time) (collecting, used float64, ok bool) {
	var first, last *heap
	used = 1
	list := r.heap[worker]
	for i := range list {
		h := &list[i]
		if h.at.Before(from) || h.at.After(to) || h.max <= 0 {
			continue
		}
		if first == nil {
			first = h
		}
		last = h
		used = min(used, h.used/h.max)
	}
	if first == nil || first == last {
		return 0, 0, false
	}
	return (last.collected - first.collected) / 1000 / last.at.Sub(first.at).Seconds(), used, true
}

func median(list []float64) float64 {
	if len(list) == 0 {
		return 0
	}
	list = slices.Clone(list)
	sort.Float64s(list)
	n := len(list)
	return (list[(n-1)/2] + list[n/2]) / 2
}
