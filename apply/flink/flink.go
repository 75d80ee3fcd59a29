// Package flink carries out actions on a Flink cluster through its REST interface.
//
// A change of parallelism is one PUT of a job's resource requirements, whatever
// the number of components; it needs the adaptive scheduler, and the same PUT again
// changes nothing. A restart, with other arguments or the same, is a stop with
// savepoint and a new run from it: the savepoint's trigger and the new run have ids
// that are worked out from the action, so that asking again finds what was done.
package flink

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/apply"
	"github.com/dhalion-go/dhalion/internal/engine/flink"
)

// Start says how a job is started anew: what Flink does not tell of a running
// one.
type Start struct {
	Jar        string   // name of an uploaded jar, as it was uploaded
	Class      string   // entry class; empty: the jar's
	Arguments  []string // of the program, before any knob was set
	Savepoints string   // folder; empty: the cluster's
}

// Actuator acts on the jobs of one cluster. It is made for one job.
type Actuator struct {
	Client *flink.Client
	Job    string // Flink's name of it
	Start  *Start // nil: the job cannot be started anew
	// Started are the arguments of the runs that we or our hooks started, or ended.
	Started map[string][]string
	// Left is the hook that started the job anew last, where nobody noted which run
	// followed it: any run that is not in Started has what it left, but the one that it
	// was to end. Nil: there is none, and such a run has the arguments of Start.
	Left *Hooked
	// Wait sleeps, and returns early with the context's error when it ends.
	Wait func(ctx context.Context, d time.Duration) error
}

var (
	_ apply.Actuator = (*Actuator)(nil)
	_ apply.Timed    = (*Actuator)(nil)
	_ apply.Restorer = (*Actuator)(nil)
)

// note is what an intent remembers.
type note struct {
	Run         string         `json:"run"`                   // that was found running
	Parallelism map[string]int `json:"parallelism,omitempty"` // by component
	Vertices    map[string]int `json:"vertices,omitempty"`    // the same by vertex id
	Next        string         `json:"next,omitempty"`        // id of the new run
	Trigger     string         `json:"trigger,omitempty"`     // of the savepoint
	Jar         string         `json:"jar,omitempty"`
	Arguments   []string       `json:"arguments,omitempty"`
	Was         []string       `json:"was,omitempty"`       // the arguments of Run
	Had         string         `json:"had,omitempty"`       // savepoint that Run had before
	Savepoint   string         `json:"savepoint,omitempty"` // with which Run was stopped; empty: it is not known to be
	// Bounds are those of the run that is restarted, by vertex id, for the new run.
	Bounds flink.Requirements `json:"bounds,omitempty"`
}

// Prepare finds the job's present run and works out the requests.
func (a *Actuator) Prepare(ctx context.Context, c apply.Call) (apply.Intent, error) {
	run, err := a.run(ctx)
	if err != nil {
		return apply.Intent{}, err
	}
	if err := a.unmoved(c, run); err != nil {
		return apply.Intent{}, err
	}
	switch kind := c.Actions[0].Kind; kind {
	case dhalion.SetParallelism:
		return a.prepareRescale(ctx, c, run)
	case dhalion.SetKnob, dhalion.Restart:
		return a.prepareRestart(ctx, c, run)
	default:
		return apply.Intent{}, fmt.Errorf("flink: no REST call does %s: declare a hook that does", kind)
	}
}

// run is the present run of the job.
func (a *Actuator) run(ctx context.Context) (flink.Job, error) {
	all, err := ask[flink.JobsOverview](ctx, a.Client, "/jobs/overview")
	if err != nil {
		return flink.Job{}, err
	}
	var found []flink.Job
	for _, s := range all.Jobs {
		if flink.Name(s.Name, flink.First8(s.ID)) != a.Job || flink.Terminal(s.State) {
			continue
		}
		job, err := ask[flink.Job](ctx, a.Client, "/jobs/"+s.ID)
		if err != nil {
			return flink.Job{}, err
		}
		found = append(found, job)
	}
	switch {
	case len(found) == 0:
		return flink.Job{}, fmt.Errorf("flink: no run of %s is alive", a.Job)
	case len(found) > 1:
		return flink.Job{}, fmt.Errorf("flink: %d runs are called %s, and which is meant is not known", len(found), a.Job)
	case found[0].State != flink.Running:
		return flink.Job{}, &apply.AwayError{Err: fmt.Errorf("flink: %s is %s; it can be changed while it is %s", a.Job, found[0].State, flink.Running)}
	}
	return found[0], nil
}

// unmoved refuses a run that is not as a call should find it: somebody else changed
// it since. A component may have what the call itself gives it.
func (a *Actuator) unmoved(c apply.Call, run flink.Job) error {
	if len(c.Before.Components) == 0 {
		return nil
	}
	moved := func(format string, args ...any) error {
		return fmt.Errorf("flink: %s is not as the plan found it: %s", a.Job, fmt.Sprintf(format, args...))
	}
	names := flink.ComponentNames(run.Vertices)
	if len(run.Vertices) != len(c.Before.Components) {
		return moved("it has %d components, not %d", len(run.Vertices), len(c.Before.Components))
	}
	for _, v := range run.Vertices {
		was, ok := c.Before.Component(names[v.ID])
		if !ok {
			return moved("component %s is new", names[v.ID])
		}
		now, own := v.Parallelism.Int(), false
		for _, x := range c.Actions {
			to, ok := x.To.Number()
			own = own || ok && x.Kind == dhalion.SetParallelism && x.Target.Component == was.Name && int(to) == now
		}
		if now != was.Parallelism && !own {
			return moved("%s has %d instances, and had %d", was.Name, now, was.Parallelism)
		}
	}
	return nil
}

func (a *Actuator) prepareRescale(ctx context.Context, c apply.Call, run flink.Job) (apply.Intent, error) {
	then, err := after(run, c.After)
	if err != nil {
		return apply.Intent{}, err
	}
	n := note{Run: then.ID, Parallelism: map[string]int{}, Vertices: map[string]int{}}
	names := flink.ComponentNames(run.Vertices)
	for _, x := range c.Actions {
		to, ok := x.To.Number()
		if !ok || to < 1 || to != float64(int(to)) {
			return apply.Intent{}, fmt.Errorf("flink: %s instances of %s: it is no whole number from 1", x.To, x.Target.Component)
		}
		n.Parallelism[x.Target.Component] = int(to)
	}
	have := 0 // slots that the job takes now: slots are shared, so the widest vertex counts
	need := 0
	for i, v := range then.Vertices {
		now := max(0, v.Parallelism.Int())
		have = max(have, run.Vertices[i].Parallelism.Int())
		want, changed := n.Parallelism[names[v.ID]]
		if !changed {
			need = max(need, now)
			continue
		}
		if most := v.MaxParallelism.Int(); most > 0 && want > most {
			return apply.Intent{}, fmt.Errorf("flink: %d instances of %s: its maximum parallelism is %d", want, names[v.ID], most)
		}
		n.Vertices[v.ID] = want
		need = max(need, want)
	}
	for name := range n.Parallelism {
		if !slices.Contains(slices.Collect(maps.Values(names)), name) {
			return apply.Intent{}, fmt.Errorf("flink: %s has no component %s", a.Job, name)
		}
	}
	if err := a.checkSlots(ctx, have, need); err != nil {
		return apply.Intent{}, err
	}
	present, err := ask[flink.Requirements](ctx, a.Client, "/jobs/"+run.ID+"/resource-requirements")
	if err != nil {
		return apply.Intent{}, fmt.Errorf("%w (a job is rescaled while it runs by the adaptive scheduler only: jobmanager.scheduler: adaptive)", err)
	}
	body := map[string]any{}
	for id, r := range then.bounds(present) {
		low, high := max(1, r.Parallelism.LowerBound.Int()), max(1, r.Parallelism.UpperBound.Int())
		if want, changed := n.Vertices[id]; changed {
			low, high = min(low, want), want
		}
		body[id] = map[string]any{"parallelism": map[string]int{"lowerBound": low, "upperBound": high}}
	}
	request, err := json.Marshal(body)
	if err != nil {
		return apply.Intent{}, fmt.Errorf("flink: requirements of %s: %w", a.Job, err)
	}
	return intent(c, n, apply.Request{Method: "PUT", Path: "/jobs/" + then.ID + "/resource-requirements", Body: request})
}

// checkSlots refuses to ask for more than the cluster has: Flink would run the job
// with fewer instances and say nothing.
func (a *Actuator) checkSlots(ctx context.Context, have, need int) error {
	overview, err := ask[struct {
		Free flink.Number `json:"slots-available"`
	}](ctx, a.Client, "/overview")
	if err != nil {
		return err
	}
	if free := overview.Free.Int(); free >= 0 && need > have+free {
		return fmt.Errorf("flink: %d slots are needed, and %d are there: %d of %s and %d free ones", need, have+free, have, a.Job, free)
	}
	return nil
}

func (a *Actuator) prepareRestart(ctx context.Context, c apply.Call, run flink.Job) (apply.Intent, error) {
	if a.Start == nil || a.Start.Jar == "" {
		return apply.Intent{}, fmt.Errorf("flink: how %s is started is not known: give its jar and arguments under start: in dhalion.yaml", a.Job)
	}
	then, err := after(run, c.After)
	if err != nil {
		return apply.Intent{}, err
	}
	n := note{Run: then.ID, Next: idOf(c.ID, "run"), Trigger: idOf(c.ID, "stop")}
	if n.Run == n.Next {
		return apply.Intent{}, fmt.Errorf("flink: run %s is the one that this action starts", n.Run)
	}
	if n.Jar, err = a.jar(ctx); err != nil {
		return apply.Intent{}, err
	}
	n.Arguments = slices.Clone(a.Arguments(run.ID))
	if then.arguments != nil {
		n.Arguments = slices.Clone(then.arguments)
	}
	n.Was = slices.Clone(n.Arguments)
	if n.Had, err = a.lastSavepoint(ctx, run.ID); err != nil {
		return apply.Intent{}, err
	}
	for _, x := range c.Actions {
		if x.Kind == dhalion.SetKnob {
			n.Arguments = withArgument(n.Arguments, x.Argument, x.To.String())
		}
	}
	if n.Bounds, n.Vertices, err = a.bounds(ctx, run, then); err != nil {
		return apply.Intent{}, err
	}
	stop, err := json.Marshal(a.stopBody(n))
	if err != nil {
		return apply.Intent{}, fmt.Errorf("flink: stop %s: %w", a.Job, err)
	}
	begin, err := a.beginning(n, "(of the stop)")
	if err != nil {
		return apply.Intent{}, err
	}
	return intent(c, n, append([]apply.Request{{Method: "POST", Path: "/jobs/" + then.ID + "/stop", Body: stop}}, begin...)...)
}

// beginning are the requests that start a run from a savepoint.
func (a *Actuator) beginning(n note, savepoint string) ([]apply.Request, error) {
	start, err := json.Marshal(a.startBody(n, savepoint))
	if err != nil {
		return nil, fmt.Errorf("flink: start %s: %w", a.Job, err)
	}
	requests := []apply.Request{{Method: "POST", Path: "/jars/" + n.Jar + "/run", Body: start}}
	if len(n.Bounds) > 0 {
		keep, err := json.Marshal(n.Bounds)
		if err != nil {
			return nil, fmt.Errorf("flink: requirements of %s: %w", a.Job, err)
		}
		requests = append(requests, apply.Request{Method: "PUT", Path: "/jobs/" + n.Next + "/resource-requirements", Body: keep,
			Where: "the program has another parallelism"})
	}
	return requests, nil
}

// bounds are between how many and how many instances the run to be restarted should
// have, and how many it has, by vertex: a program knows only the parallelism that it was
// written with, and a restart is no rescale. Flink 2 leaves
// pipeline.jobvertex-parallelism-overrides aside where a jar is run, so the new run
// is told by a request. Both are nil without the adaptive scheduler, where a job
// is never rescaled.
func (a *Actuator) bounds(ctx context.Context, run flink.Job, then foreseen) (flink.Requirements, map[string]int, error) {
	answer := a.Client.Get(ctx, "/jobs/"+run.ID+"/resource-requirements")
	if !answer.OK() {
		if unsupported(answer) {
			return nil, nil, nil
		}
		return nil, nil, refusal(answer)
	}
	asked, err := flink.Decode[flink.Requirements](answer.Body)
	if err != nil {
		return nil, nil, fmt.Errorf("flink: requirements of %s: %w", a.Job, err)
	}
	have := map[string]int{}
	for _, v := range then.Vertices {
		if n := v.Parallelism.Int(); n > 0 {
			have[v.ID] = n
		}
	}
	return then.bounds(asked), have, nil
}

// bound tells the new run the bounds of the old one, where they are not its own. A
// vertex that the old run did not have keeps its own.
func (a *Actuator) bound(ctx context.Context, c apply.Call, n note) apply.Result {
	if len(n.Bounds) == 0 {
		return apply.Result{Outcome: apply.Done}
	}
	path := "/jobs/" + n.Next + "/resource-requirements"
	for {
		present, err := ask[flink.Requirements](ctx, a.Client, path)
		if err == nil {
			body, differs := boundsOf(n, present)
			if !differs {
				return apply.Result{Outcome: apply.Done}
			}
			request, err := json.Marshal(body)
			if err != nil {
				return apply.Result{Outcome: apply.Refused, Detail: err.Error()}
			}
			r := a.send(ctx, c, "PUT", path, request)
			if r.Outcome != apply.Done {
				// The job was started anew: this must not end as "nothing changed".
				r.Outcome, r.Detail = apply.Unsure, fmt.Sprintf("run %s is there, and its parallelism is not set: %s", n.Next, r.Detail)
			}
			return r
		}
		if job, gone := ask[flink.Job](ctx, a.Client, "/jobs/"+n.Next); gone == nil && flink.Terminal(job.State) {
			return apply.Result{Outcome: apply.Done, Detail: "run " + n.Next + " is " + job.State}
		}
		// A run that was just submitted is not known everywhere at once.
		if wait := a.Wait(ctx, 250*time.Millisecond); wait != nil {
			return apply.Result{Outcome: apply.Unsure, Detail: fmt.Sprintf("run %s is there, and its parallelism is not set: %v", n.Next, err)}
		}
	}
}

// boundsOf are the requirements of a new run with those of the old one where it
// had the vertex, and whether that changes any.
func boundsOf(n note, present flink.Requirements) (want flink.Requirements, differs bool) {
	want = maps.Clone(present)
	for id, now := range present {
		was, ok := n.Bounds[id]
		if ok && was.Parallelism.UpperBound.Known() && was != now {
			want[id], differs = was, true
		}
	}
	return want, differs
}

func (a *Actuator) stopBody(n note) map[string]any {
	body := map[string]any{"drain": false, "triggerId": n.Trigger}
	if a.Start.Savepoints != "" {
		body["targetDirectory"] = a.Start.Savepoints
	}
	return body
}

func (a *Actuator) startBody(n note, savepoint string) map[string]any {
	body := map[string]any{"programArgsList": n.Arguments, "savepointPath": savepoint, "jobId": n.Next, "allowNonRestoredState": false}
	if a.Start.Class != "" {
		body["entryClass"] = a.Start.Class
	}
	return body
}

// withArgument sets an argument: "--salt 4" as two, "--salt=4" as one, or behind
// all others where it was not there. Of several the last is set, which is the one that
// is read.
func withArgument(all []string, name, value string) []string {
	for i, x := range slices.Backward(all) {
		switch {
		case x == name && i+1 < len(all):
			all[i+1] = value
			return all
		case strings.HasPrefix(x, name+"="):
			all[i] = name + "=" + value
			return all
		}
	}
	return append(all, name, value)
}

// idOf is an id as Flink has them, 32 hexadecimal digits, that only this action
// has.
func idOf(call, what string) string {
	sum := sha256.Sum256([]byte("dhalion " + what + " " + call))
	return hex.EncodeToString(sum[:16])
}

// jar is the id of the newest upload of the configured name.
func (a *Actuator) jar(ctx context.Context) (string, error) {
	list, err := ask[struct {
		Files []struct {
			ID       string
			Name     string
			Uploaded flink.Number
		}
	}](ctx, a.Client, "/jars")
	if err != nil {
		return "", err
	}
	id, newest := "", -1.0
	for _, f := range list.Files {
		if at, _ := f.Uploaded.Get(); (f.Name == a.Start.Jar || f.ID == a.Start.Jar) && at > newest {
			id, newest = f.ID, at
		}
	}
	if id == "" {
		return "", fmt.Errorf("flink: no uploaded jar is called %s", a.Start.Jar)
	}
	return id, nil
}

// intent puts an intent together.
func intent(c apply.Call, n note, requests ...apply.Request) (apply.Intent, error) {
	kept, err := json.Marshal(n)
	if err != nil {
		return apply.Intent{}, fmt.Errorf("flink: prepare %s: %w", c.ID, err)
	}
	return apply.Intent{ID: c.ID, Requests: requests, Note: kept}, nil
}

func noteOf(i apply.Intent) (n note, err error) {
	if err := json.Unmarshal(i.Note, &n); err != nil {
		return n, fmt.Errorf("flink: the journal's note of %s: %w", i.ID, err)
	}
	return n, nil
}

// Act sends what was prepared.
func (a *Actuator) Act(ctx context.Context, c apply.Call, i apply.Intent) apply.Result {
	n, err := noteOf(i)
	if err != nil {
		return apply.Result{Outcome: apply.Refused, Detail: err.Error()}
	}
	if n.Next != "" {
		return a.restart(ctx, c, n)
	}
	r := i.Requests[0]
	return a.send(ctx, c, r.Method, r.Path, r.Body)
}

// send sends one request that changes something.
func (a *Actuator) send(ctx context.Context, c apply.Call, method, path string, body []byte) apply.Result {
	return c.Change(ctx, func() apply.Result { return resultOf(a.Client.Do(ctx, method, path, body)) })
}

// savepointIn is how long one attempt waits for a savepoint: a large state takes
// minutes to write, and the job works on meanwhile.
const savepointIn = 15 * time.Minute

// Within is the time of one attempt.
func (a *Actuator) Within(c apply.Call) time.Duration {
	if c.Actions[0].Kind == dhalion.SetParallelism {
		return 0
	}
	return savepointIn
}

// resultOf says what an answer means. No answer, a server's error and 404 (the
// JobManager is coming back and does not know the job yet) may pass.
func resultOf(answer flink.Answer) apply.Result {
	r := apply.Result{Answer: answer.Body}
	switch {
	case answer.OK():
		r.Outcome = apply.Done
	case answer.Status == 0:
		r.Outcome, r.Detail = apply.Unsure, "no answer: "+answer.Error
	case mayPass(answer) || answer.Status == 404:
		r.Outcome, r.Detail = apply.Unsure, fmt.Sprintf("HTTP %d: %s", answer.Status, brief(answer.Body))
	default:
		r.Outcome, r.Detail = apply.Refused, fmt.Sprintf("HTTP %d: %s", answer.Status, brief(answer.Body))
	}
	return r
}

// mayPass reports whether an answer is of the moment: the JobManager is away, on
// its way up, or has too much to do.
func mayPass(answer flink.Answer) bool {
	return answer.Status == 0 || answer.Status >= 500 || answer.Status == 408 || answer.Status == 429
}

// unsupported reports whether the scheduler has no resource requirements, of which
// Flink tells as a server's error.
func unsupported(answer flink.Answer) bool {
	return bytes.Contains(answer.Body, []byte("UnsupportedOperationException"))
}

// brief is the first line of an error's text.
func brief(body []byte) string {
	var told struct{ Errors []string }
	text := string(body)
	if json.Unmarshal(body, &told) == nil && len(told.Errors) > 0 {
		text = told.Errors[0]
		for _, e := range told.Errors {
			// The first one says only that something went wrong inside.
			if _, cause, ok := strings.Cut(e, "Caused by: "); ok {
				text = cause
				break
			}
		}
	}
	text, _, _ = strings.Cut(text, "\n")
	if len(text) > 300 {
		text = strings.ToValidUTF8(text[:300], "") + "…"
	}
	return text
}

// restart stops the run with a savepoint and starts the next from it. Each part
// is skipped when the engine says that it was done. Where the savepoint is, is
// written down before anything is started: Flink forgets it.
func (a *Actuator) restart(ctx context.Context, c apply.Call, n note) apply.Result {
	if answer := a.Client.Get(ctx, "/jobs/"+n.Next); answer.OK() {
		a.remember(n.Next, n.Arguments)
		return a.bound(ctx, c, n)
	} else if answer.Status != 404 {
		return resultOf(answer)
	}
	if n.Savepoint == "" {
		savepoint, r := a.stop(ctx, c, n)
		if savepoint == "" {
			return r
		}
		n.Savepoint = savepoint
		requests, err := a.beginning(n, savepoint)
		if err != nil {
			return apply.Result{Outcome: apply.Unsure, Detail: err.Error()}
		}
		left, err := intent(c, n, requests...)
		if err != nil {
			return apply.Result{Outcome: apply.Unsure, Detail: err.Error()}
		}
		return apply.Result{Outcome: apply.Partly, Detail: fmt.Sprintf("run %s is stopped with savepoint %s", n.Run, savepoint), Next: &left}
	}
	body, err := json.Marshal(a.startBody(n, n.Savepoint))
	if err != nil {
		return apply.Result{Outcome: apply.Unsure, Detail: err.Error()}
	}
	stopped := fmt.Sprintf("run %s is stopped with savepoint %s", n.Run, n.Savepoint)
	if r := a.alone(ctx, n); r.Outcome != apply.Done {
		r.Detail = stopped + ", and " + r.Detail
		return r
	}
	r := a.send(ctx, c, "POST", "/jars/"+n.Jar+"/run", body)
	if r.Outcome != apply.Done {
		// The old run is gone: whatever Flink said, this must not end as "nothing
		// changed".
		r.Outcome, r.Detail = apply.Unsure, fmt.Sprintf("%s and run %s did not start: %s", stopped, n.Next, r.Detail)
		return r
	}
	a.remember(n.Next, n.Arguments)
	if r = a.bound(ctx, c, n); r.Outcome == apply.Done {
		r.Detail = fmt.Sprintf("%s, and run %s is started from it", stopped, n.Next)
	}
	return r
}

// alone is Done when no run of the job is alive that this action neither stops nor
// starts: somebody else started the job anew, and a second run of it would do all its
// work twice. Where the old run is stopped it waits until that has ended.
func (a *Actuator) alone(ctx context.Context, n note) apply.Result {
	for {
		others, err := a.alive(ctx, n.Next)
		if err != nil {
			return apply.Result{Outcome: apply.Unsure, Detail: err.Error()}
		}
		i := slices.IndexFunc(others, func(id string) bool { return id != n.Run })
		switch {
		case i >= 0:
			return apply.Result{Outcome: apply.Refused, Detail: fmt.Sprintf("run %s of %s is alive, which somebody else started: no other is started", others[i], a.Job)}
		case len(others) == 0 || n.Savepoint == "":
			return apply.Result{Outcome: apply.Done}
		}
		if err := a.Wait(ctx, 250*time.Millisecond); err != nil {
			return apply.Result{Outcome: apply.Unsure, Detail: fmt.Sprintf("run %s has not ended: %v", n.Run, err)}
		}
	}
}

// alive are the runs of the job that have not ended, but for one.
func (a *Actuator) alive(ctx context.Context, but string) (ids []string, err error) {
	all, err := ask[flink.JobsOverview](ctx, a.Client, "/jobs/overview")
	if err != nil {
		return nil, err
	}
	for _, s := range all.Jobs {
		if s.ID != but && flink.Name(s.Name, flink.First8(s.ID)) == a.Job && !flink.Terminal(s.State) {
			ids = append(ids, s.ID)
		}
	}
	return ids, nil
}

// Restore starts a job with the arguments that it had, from the savepoint that it was
// stopped with, when the run that was to follow has failed or never came to be. One
// that was cancelled or has finished is left: somebody meant it.
func (a *Actuator) Restore(ctx context.Context, c apply.Call, i apply.Intent) (apply.Intent, bool) {
	n, err := noteOf(i)
	if err != nil || i.Back || n.Savepoint == "" {
		return apply.Intent{}, false
	}
	answer := a.Client.Get(ctx, "/jobs/"+n.Next)
	job, err := flink.Decode[flink.Job](answer.Body)
	if answer.Status != 404 && (!answer.OK() || err != nil || job.State != flink.Failed) {
		return apply.Intent{}, false
	}
	n.Next, n.Arguments, n.Trigger = idOf(c.ID, "back"), n.Was, ""
	if a.alone(ctx, n).Outcome != apply.Done {
		return apply.Intent{}, false
	}
	requests, err := a.beginning(n, n.Savepoint)
	if err != nil {
		return apply.Intent{}, false
	}
	back, err := intent(c, n, requests...)
	back.Back = true
	return back, err == nil
}

// Arguments are those that a run was started with, as far as is known; nil: that is not.
func (a *Actuator) Arguments(run string) []string {
	with, known := a.Started[run]
	switch {
	case known:
		return with
	case a.Left != nil && run != a.Left.Ends:
		return a.Left.Left
	case a.Start != nil:
		return a.Start.Arguments
	}
	return nil
}

// remember keeps a run's arguments for the next restart of the same plan. A run that
// somebody starts after it has nothing of a hook before it.
func (a *Actuator) remember(run string, arguments []string) {
	if a.Started == nil {
		a.Started = map[string][]string{}
	}
	a.Started[run], a.Left = arguments, nil
}

// stop ends the run with a savepoint and returns where that is; else what came
// instead.
func (a *Actuator) stop(ctx context.Context, c apply.Call, n note) (savepoint string, r apply.Result) {
	job, err := ask[flink.Job](ctx, a.Client, "/jobs/"+n.Run)
	if err != nil {
		return "", apply.Result{Outcome: apply.Unsure, Detail: err.Error()}
	}
	if r := a.alone(ctx, n); r.Outcome != apply.Done {
		return "", r
	}
	if !flink.Terminal(job.State) {
		if r := a.asBounded(ctx, n); r.Outcome != apply.Done {
			return "", r
		}
		body, err := json.Marshal(a.stopBody(n))
		if err != nil {
			return "", apply.Result{Outcome: apply.Refused, Detail: err.Error()}
		}
		if r := a.send(ctx, c, "POST", "/jobs/"+n.Run+"/stop", body); r.Outcome != apply.Done {
			return "", r
		}
	}
	for {
		answer := a.Client.Get(ctx, "/jobs/"+n.Run+"/savepoints/"+n.Trigger)
		status, err := flink.Decode[struct {
			Status    struct{ ID string }
			Operation struct {
				Location string
				Failure  *struct {
					Class string
				} `json:"failure-cause"`
			}
		}](answer.Body)
		switch {
		case answer.OK() && err == nil && status.Operation.Location != "":
			return status.Operation.Location, apply.Result{}
		case answer.OK() && err == nil && status.Operation.Failure != nil:
			return "", apply.Result{Outcome: apply.Refused, Detail: "the savepoint failed and the job goes on: " + status.Operation.Failure.Class}
		case answer.Status == 404:
			// The trigger was forgotten, five minutes after its end or with the
			// JobManager; the job's own history may still know the savepoint.
			if place, err := a.lastSavepoint(ctx, n.Run); err == nil && place != "" && place != n.Had && a.ended(ctx, n.Run) {
				return place, apply.Result{}
			}
			return "", apply.Result{Outcome: apply.Unsure, Detail: fmt.Sprintf("run %s is %s, and its savepoint is not known", n.Run, job.State)}
		}
		if err := a.Wait(ctx, 250*time.Millisecond); err != nil {
			return "", apply.Result{Outcome: apply.Unsure, Detail: "the savepoint is not finished: " + err.Error()}
		}
	}
}

// asBounded is Done when the run still has the bounds that it was found with: the
// next run is given these, and a change that somebody made since would be lost.
func (a *Actuator) asBounded(ctx context.Context, n note) apply.Result {
	if len(n.Bounds) == 0 {
		return apply.Result{Outcome: apply.Done}
	}
	present, err := ask[flink.Requirements](ctx, a.Client, "/jobs/"+n.Run+"/resource-requirements")
	if err != nil {
		return apply.Result{Outcome: apply.Unsure, Detail: err.Error()}
	}
	if !maps.Equal(present, n.Bounds) {
		return apply.Result{Outcome: apply.Refused, Detail: fmt.Sprintf("somebody else has rescaled run %s since: it is not stopped", n.Run)}
	}
	return apply.Result{Outcome: apply.Done}
}

// ended reports whether a run has come to its end well, as one that is stopped with a
// savepoint does.
func (a *Actuator) ended(ctx context.Context, run string) bool {
	job, err := ask[flink.Job](ctx, a.Client, "/jobs/"+run)
	return err == nil && job.State == flink.Finished
}

// lastSavepoint is where the newest savepoint of a run is; empty: it has none. A job
// without checkpointing has no history of them either, and answers 404.
func (a *Actuator) lastSavepoint(ctx context.Context, run string) (string, error) {
	answer := a.Client.Get(ctx, "/jobs/"+run+"/checkpoints")
	switch {
	case answer.Status == 404:
		return "", nil
	case !answer.OK():
		return "", refusal(answer)
	}
	history, err := flink.Decode[struct {
		Latest struct {
			Savepoint *struct {
				Path string `json:"external_path"`
			}
		}
	}](answer.Body)
	if err != nil || history.Latest.Savepoint == nil {
		return "", err
	}
	return history.Latest.Savepoint.Path, nil
}

// Look asks Flink how a call stands.
func (a *Actuator) Look(ctx context.Context, c apply.Call, i apply.Intent) (apply.Standing, string) {
	n, err := noteOf(i)
	if err != nil {
		return apply.Unknown, err.Error()
	}
	if n.Next != "" {
		return a.lookRestart(ctx, n)
	}
	return a.lookRescale(ctx, n)
}

func (a *Actuator) lookRescale(ctx context.Context, n note) (apply.Standing, string) {
	required, err := ask[flink.Requirements](ctx, a.Client, "/jobs/"+n.Run+"/resource-requirements")
	if err != nil {
		return apply.Unknown, err.Error()
	}
	for id, want := range n.Vertices {
		if got := required[id].Parallelism.UpperBound.Int(); got != want {
			return apply.Undone, fmt.Sprintf("%d instances are asked for, not %d", got, want)
		}
	}
	job, err := ask[flink.Job](ctx, a.Client, "/jobs/"+n.Run)
	if err != nil {
		return apply.Unknown, err.Error()
	}
	if flink.Terminal(job.State) {
		return apply.Failed, fmt.Sprintf("run %s is %s", n.Run, job.State)
	}
	names := flink.ComponentNames(job.Vertices)
	for _, v := range job.Vertices {
		if want, ok := n.Vertices[v.ID]; ok && v.Parallelism.Int() != want {
			return apply.Working, fmt.Sprintf("%s has %d instances, and %d are asked for", names[v.ID], v.Parallelism.Int(), want)
		}
	}
	return running(job)
}

func (a *Actuator) lookRestart(ctx context.Context, n note) (apply.Standing, string) {
	answer := a.Client.Get(ctx, "/jobs/"+n.Next)
	if answer.Status == 404 {
		return apply.Undone, "run " + n.Next + " is not there"
	}
	if !answer.OK() {
		return apply.Unknown, refusal(answer).Error()
	}
	job, err := flink.Decode[flink.Job](answer.Body)
	// Who has to start the job by hand must know from where.
	from := "it was started from savepoint " + cmp.Or(n.Savepoint, "(not known)")
	switch {
	case err != nil:
		return apply.Unknown, err.Error()
	case flink.Terminal(job.State):
		return apply.Failed, fmt.Sprintf("run %s is %s; %s", n.Next, job.State, from)
	}
	a.remember(n.Next, n.Arguments)
	if len(n.Bounds) > 0 {
		present, err := ask[flink.Requirements](ctx, a.Client, "/jobs/"+n.Next+"/resource-requirements")
		if err != nil {
			return apply.Unknown, err.Error()
		}
		if _, differs := boundsOf(n, present); differs {
			return apply.Undone, fmt.Sprintf("run %s has not the parallelism of run %s", n.Next, n.Run)
		}
	}
	names := flink.ComponentNames(job.Vertices)
	for _, v := range job.Vertices {
		if had, ok := n.Vertices[v.ID]; ok && v.Parallelism.Int() != had {
			return apply.Working, fmt.Sprintf("%s has %d instances, and had %d", names[v.ID], v.Parallelism.Int(), had)
		}
	}
	standing, why := running(job)
	if standing != apply.Settled {
		why += "; " + from
	}
	return standing, why
}

// running reports whether every task of a job runs.
func running(job flink.Job) (apply.Standing, string) {
	if job.State != flink.Running {
		return apply.Working, "the job is " + job.State
	}
	up, all := 0.0, 0.0
	for _, v := range job.Vertices {
		n, _ := v.Tasks.Of(flink.Running)
		total := float64(max(0, v.Parallelism.Int()))
		up, all = up+min(n, total), all+total
	}
	if up < all {
		return apply.Working, fmt.Sprintf("%.0f of %.0f tasks run", up, all)
	}
	return apply.Settled, fmt.Sprintf("%.0f tasks run", all)
}

// whole reports whether every task of a job runs, and as many as it had before: with too
// few slots the engine runs fewer and says nothing, until there are more again.
func whole(job flink.Job, before dhalion.Topology) (apply.Standing, string) {
	standing, why := running(job)
	if standing != apply.Settled {
		return standing, why
	}
	var fewer []string
	names := flink.ComponentNames(job.Vertices)
	for _, v := range job.Vertices {
		if was, ok := before.Component(names[v.ID]); ok && v.Parallelism.Int() < was.Parallelism {
			fewer = append(fewer, fmt.Sprintf("%s %d of %d", names[v.ID], v.Parallelism.Int(), was.Parallelism))
		}
	}
	if len(fewer) > 0 {
		slices.Sort(fewer)
		return apply.Working, "the engine runs fewer instances than before: " + strings.Join(fewer, ", ")
	}
	return standing, why
}

// Moved says whether a job runs without any instance on a worker, and with no fewer than
// it had before, for what a hook should bring about.
func (a *Actuator) Moved(ctx context.Context, worker string, before dhalion.Topology) (apply.Standing, string) {
	run, err := a.run(ctx)
	if err != nil {
		return apply.Working, err.Error()
	}
	var left []string
	names := flink.ComponentNames(run.Vertices)
	for _, v := range run.Vertices {
		detail, err := ask[flink.VertexDetail](ctx, a.Client, "/jobs/"+run.ID+"/vertices/"+v.ID)
		if err != nil {
			return apply.Unknown, err.Error()
		}
		for _, s := range detail.Subtasks {
			if s.Worker() == worker {
				left = append(left, fmt.Sprintf("%s[%d]", names[v.ID], s.Index.Int()))
			}
		}
	}
	if len(left) > 0 {
		slices.SortFunc(left, cmp.Compare[string])
		return apply.Undone, fmt.Sprintf("%s is still on worker %s", strings.Join(left, ", "), worker)
	}
	return whole(run, before)
}

// ask gets and decodes an answer.
func ask[T any](ctx context.Context, c *flink.Client, path string) (T, error) {
	answer := c.Get(ctx, path)
	if !answer.OK() {
		var none T
		return none, refusal(answer)
	}
	v, err := flink.Decode[T](answer.Body)
	if err != nil {
		return v, fmt.Errorf("flink: GET %s: %w", path, err)
	}
	return v, nil
}

// refusal is the error of an answer that is not the one asked for: *apply.AwayError
// where it may pass.
func refusal(answer flink.Answer) error {
	err := fmt.Errorf("flink: %s %s: HTTP %d: %s", answer.Method, answer.Path, answer.Status, brief(answer.Body))
	if answer.Status == 0 {
		err = fmt.Errorf("flink: %s %s: no answer: %s", answer.Method, answer.Path, answer.Error)
	}
	if mayPass(answer) && !unsupported(answer) {
		return &apply.AwayError{Err: err}
	}
	return err
}
