package flink

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/internal/engine/flink"
)

// Options are how Flink's answers are read.
type Options struct {
	// Engine is the first part of the jobs' ids; empty is "file".
	Engine string
	// Job is the name to give the one job of a recording; empty keeps Flink's.
	Job string
	// SkipBad is how many broken lines are skipped, and reported, before the
	// recording is refused; 0 refuses it at the first.
	SkipBad int
}

// Result is what one poll gave.
type Result struct {
	At           time.Time // of the poll's first answer: the time of all that is in it
	Measurements []dhalion.Measurement
	Topologies   []JobTopology
	Repairs      map[string]int
}

// JobTopology is a topology that a job was seen to have from its From on.
type JobTopology struct {
	Job      dhalion.JobID
	Topology dhalion.Topology
}

// What a Result's Repairs count.
const (
	Unanswered       = "unanswered"        // requests that Flink did not answer with 200
	UnreadableAnswer = "unreadable_answer" // answers whose body is not what Flink answers
	UnusableTopology = "unusable_topology" // graphs that are none: with cycles, or edges from nowhere
)

// Assembler makes measurements and topologies of the answers of one Flink
// cluster, poll by poll. It holds the present poll and, of each job that ran within
// a day, what differences need. It is not safe for use by several goroutines at once.
type Assembler struct {
	engine string
	rename string
	poll   *poll
	jobs   map[dhalion.JobID]*job
	twins  map[string]time.Time // runs seen beside another of the same name, and when last
	named  string               // the one job that was renamed
	slots  []dhalion.Slots      // as last told; asked for once a minute
}

// NewAssembler knows nothing yet.
func NewAssembler(opts Options) *Assembler {
	return &Assembler{
		engine: cmp.Or(opts.Engine, "file"),
		rename: opts.Job,
		jobs:   map[dhalion.JobID]*job{},
		twins:  map[string]time.Time{},
	}
}

// apart is how long a run that was seen beside another of its name keeps the name that
// tells them apart. One of a lasting pair that is stopped and started again is back by
// then, and the other is not renamed in between.
const apart = 10 * time.Minute

// Answer takes the next answer. A poll begins with GET /jobs/overview, answered
// or not, and ends where the next begins: then done is true and the result is
// that of the poll that ended. What comes before the first poll is passed over.
func (a *Assembler) Answer(ans flink.Answer) (result Result, done bool, err error) {
	if ans.Method == "GET" && ans.Resource().Kind == flink.KindJobs {
		result, done, err = a.Flush()
		if err != nil {
			return result, done, err
		}
		a.poll = newPoll(ans.Time.UTC().Truncate(time.Microsecond))
	}
	if a.poll == nil {
		return result, done, nil
	}
	return result, done, a.poll.add(ans)
}

// Flush ends the present poll, if there is one.
func (a *Assembler) Flush() (result Result, done bool, err error) {
	if a.poll == nil {
		return Result{}, false, nil
	}
	p := a.poll
	a.poll = nil
	result = Result{At: p.at, Repairs: map[string]int{}}
	if p.unanswered > 0 {
		result.Repairs[Unanswered] = p.unanswered
	}
	if p.unreadable > 0 {
		result.Repairs[UnreadableAnswer] = p.unreadable
	}
	if told, ok := p.managers[""]; ok {
		a.slots = told.value
	}
	current, err := a.current(p)
	if err != nil {
		return result, true, err
	}
	for _, id := range sorted(a.jobs) {
		j := a.jobs[id]
		run, ok := current[id]
		if !ok {
			run = j.run.id
		}
		switch {
		case p.has(run):
			j.gone = time.Time{}
		case !p.listed: // nobody knows
		case j.gone.IsZero():
			j.gone = p.at
		case p.at.Sub(j.gone) >= forgetAfter:
			delete(a.jobs, id)
			continue
		}
		if a.isTwin(run) != j.twin {
			continue // it goes by another name now
		}
		e := &evaluation{poll: p, job: j, result: &result, slots: a.slots}
		e.run(run)
	}
	return result, true, nil
}

// current says which run each job has at this poll, of the runs whose
// /jobs/:id was answered, and adds jobs that are new.
func (a *Assembler) current(p *poll) (map[dhalion.JobID]string, error) {
	// By the overview too: which of two twins was answered about must not decide
	// what they are called.
	alive := map[string]map[string]bool{}
	lives := func(id, name, state string) {
		if id == "" || flink.Terminal(state) || state == flink.Canceling {
			return
		}
		if alive[name] == nil {
			alive[name] = map[string]bool{}
		}
		alive[name][id] = true
	}
	for id, s := range p.overview {
		lives(id, flink.Name(s.Name, flink.First8(id)), s.State)
	}
	for id, d := range p.details {
		lives(id, jobName(d.value, id), d.value.State)
	}
	for _, ids := range alive {
		if len(ids) > 1 {
			for id := range ids {
				a.twins[id] = p.at
			}
			continue
		}
		for id := range ids {
			if last, ok := a.twins[id]; ok && p.listed && p.at.Sub(last) >= apart {
				delete(a.twins, id)
			}
		}
	}
	for id, last := range a.twins {
		if p.listed && !p.has(id) && p.at.Sub(last) >= forgetAfter {
			delete(a.twins, id)
		}
	}
	current := map[dhalion.JobID]string{}
	for _, id := range sorted(p.details) {
		d := p.details[id].value
		name := jobName(d, id)
		if a.isTwin(id) {
			name += " [" + flink.First8(id) + "]"
		}
		if a.rename != "" {
			if a.named != "" && a.named != name {
				return nil, fmt.Errorf("flink: name job %s: there is more than one job: %s and %s", a.rename, a.named, name)
			}
			a.named, name = name, a.rename
		}
		jid := dhalion.NewJobID(a.engine, name)
		if other, ok := current[jid]; ok && !newer(d, p.details[other].value) {
			continue
		}
		current[jid] = id
		if a.jobs[jid] == nil {
			a.jobs[jid] = newJob(jid, id, a.isTwin(id))
		}
	}
	return current, nil
}

func (a *Assembler) isTwin(run string) bool {
	_, ok := a.twins[run]
	return ok
}

// newer reports whether run d is rather the present one of its job than other:
// one that can still run, else the one that started later, else by id.
func newer(d, other flink.Job) bool {
	if a, b := flink.Terminal(d.State), flink.Terminal(other.State); a != b {
		return b
	}
	x, _ := d.StartTime.Get()
	y, _ := other.StartTime.Get()
	return x > y || x == y && d.ID > other.ID
}

func jobName(d flink.Job, id string) string { return flink.Name(d.Name, flink.First8(id)) }

func sorted[K cmp.Ordered, V any](m map[K]V) []K {
	keys := make([]K, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
