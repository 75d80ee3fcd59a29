package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/internal/engine/flink"
	"github.com/dhalion-go/dhalion/plan/planfile"
)

// finding is one thing that doctor looked at.
type finding struct {
	Level   string `json:"level"` // ok, warning or problem
	About   string `json:"about"` // configuration, database, disk, clock, "engine NAME" or a job's id
	Message string `json:"message"`
	Advice  string `json:"advice,omitempty"` // what to do
}

const (
	levelOK      = "ok"
	levelWarning = "warning"
	levelProblem = "problem"
)

type findings []finding

func (f *findings) add(level, about, advice, format string, args ...any) {
	*f = append(*f, finding{level, about, fmt.Sprintf(format, args...), advice})
}

// capability is what can be seen of one job, and done to it. A null is not known.
type capability struct {
	Job        dhalion.JobID         `json:"job"`
	Run        string                `json:"run"`
	State      string                `json:"state"`
	Scheduler  *string               `json:"scheduler"` // in Flink's words: Adaptive, Default, …
	Rescalable *bool                 `json:"rescalable"`
	Slots      *int                  `json:"slots_total"`
	Free       *int                  `json:"slots_free"`
	Checkpoint *float64              `json:"checkpoint_interval_seconds"` // 0: checkpoints are off
	Components []componentCapability `json:"components"`
	Unknown    []unknownMetric       `json:"unknown"`
	Policy     string                `json:"policy,omitempty"` // what dhalion.yaml has for it
	Mode       string                `json:"mode,omitempty"`
}

type componentCapability struct {
	Name           string `json:"name"`
	Parallelism    *int   `json:"parallelism"`
	Requested      *int   `json:"requested"` // the upper bound that the adaptive scheduler was given
	MaxParallelism *int   `json:"max_parallelism"`
	Partitions     *int   `json:"partitions"` // of what a source reads
	Most           *int   `json:"most"`       // instances that there are slots, key groups and partitions for
	Source         bool   `json:"source"`
	Operators      int    `json:"operators"` // chained in it
}

// unknownMetric is a metric that the job does not give.
type unknownMetric struct {
	Metric     dhalion.Metric `json:"metric"`
	Components []string       `json:"components,omitempty"` // empty: all of the job
	Advice     string         `json:"advice"`
}

// clusterAnswers is what a Flink cluster answered, as far as it did: what is nil,
// or not known, was not answered.
type clusterAnswers struct {
	version      string
	config       map[string]string // of the JobManager
	taskManagers *flink.TaskManagers
	workers      []string // names of a TaskManager's metrics
	jobs         []jobAnswers
}

type jobAnswers struct {
	detail       jobDetail
	requirements flink.Requirements // nil: not given
	fixed        string             // why the engine will never give or take any; empty: it may
	interval     flink.Number
	unset        bool      // Flink says that there are no checkpoints
	asked        time.Time // when detail was asked for, by our clock
	answered     time.Time
	metrics      map[string][]string // names by vertex, each with its subtask: 0.numRecordsIn
}

// jobDetail is the body of GET /jobs/:id, with what only doctor reads.
type jobDetail struct {
	flink.Job
	Type      string         `json:"job-type"`
	Scheduler string         `json:"schedulerType"`
	Vertices  []vertexDetail `json:"vertices"`
	Plan      describedPlan  `json:"plan"`
}

type vertexDetail struct {
	flink.Vertex
	Group   string          `json:"slotSharingGroupId"`
	Metrics flink.IOMetrics `json:"metrics"` // sums over its subtasks
}

type describedPlan struct {
	Nodes []struct {
		flink.PlanNode
		Description string `json:"description"`
	} `json:"nodes"`
}

// The keys of the JobManager's configuration that are read, and what they are
// when they are not set.
const (
	keyScheduler  = "jobmanager.scheduler"
	keyMode       = "scheduler-mode"
	keyExceptions = "web.exception-history-size"
	keyFetcher    = "metrics.fetcher.update-interval"
	keyTimeout    = "web.timeout" // of the JobManager's asking workers for metrics, among others

	defaultExceptions = 16
	defaultFetcher    = 10 * time.Second
	defaultTimeout    = 10 * time.Minute
	longTimeout       = time.Minute
)

// assess says what can be seen and done on a cluster.
func assess(engine string, c clusterAnswers) ([]capability, findings) {
	var f findings
	about := "engine " + engine
	assessVersion(about, c.version, &f)
	slots, free := countSlots(c.taskManagers)
	switch {
	case c.taskManagers == nil:
		f.add(levelWarning, about, "", "its TaskManagers are not known: no slots and no worker metrics")
	case len(c.taskManagers.TaskManagers) == 0:
		f.add(levelProblem, about, "start TaskManagers", "it has no TaskManager: nothing can run")
	}
	assessConfig(about, c, &f)
	named := map[string]int{}
	for _, j := range c.jobs {
		named[strings.TrimSpace(j.detail.Name)]++
	}
	jobs := []capability{}
	for _, j := range c.jobs {
		name := strings.TrimSpace(j.detail.Name)
		twin := named[name] > 1
		if twin {
			name += " [" + j.detail.ID[:min(8, len(j.detail.ID))] + "]"
		}
		job := capability{
			Job: dhalion.NewJobID(engine, name), Run: j.detail.ID, State: j.detail.State, Slots: slots, Free: free,
			Components: []componentCapability{}, Unknown: []unknownMetric{},
		}
		if twin {
			f.add(levelWarning, string(job.Job), "give the jobs names of their own",
				"%d jobs are called %s; they are told apart by their runs, so that a new run begins a new history", named[strings.TrimSpace(j.detail.Name)], strings.TrimSpace(j.detail.Name))
		}
		job.assess(j, c, &f)
		jobs = append(jobs, job)
	}
	if len(c.jobs) == 0 {
		f.add(levelOK, about, "", "no job runs")
	}
	return jobs, f
}

// The versions that were tried.
var oldest, newest = [2]int{1, 18}, [2]int{2, 3}

var versionStart = regexp.MustCompile(`^(\d+)\.(\d+)`)

func assessVersion(about, version string, f *findings) {
	m := versionStart.FindStringSubmatch(version)
	if m == nil {
		f.add(levelWarning, about, "", "its version is not known (%q)", version)
		return
	}
	major, _ := strconv.Atoi(m[1]) // digits
	minor, _ := strconv.Atoi(m[2])
	v := [2]int{major, minor}
	switch {
	case slices.Compare(v[:], oldest[:]) < 0:
		f.add(levelWarning, about, fmt.Sprintf("use Flink %d.%d or later", oldest[0], oldest[1]), "Flink %s is older than what was tried: metrics may be unknown, and jobs cannot be rescaled at run time", version)
	case slices.Compare(v[:], newest[:]) > 0:
		f.add(levelOK, about, "", "Flink %s, which is newer than what was tried (%d.%d)", version, newest[0], newest[1])
	default:
		f.add(levelOK, about, "", "Flink %s", version)
	}
}

func countSlots(t *flink.TaskManagers) (slots, free *int) {
	if t == nil {
		return nil, nil
	}
	all, left := 0, 0
	for _, m := range t.TaskManagers {
		all += max(0, m.Slots.Int())
		left += max(0, m.FreeSlots.Int())
	}
	return &all, &left
}

func assessConfig(about string, c clusterAnswers, f *findings) {
	if c.config == nil {
		f.add(levelWarning, about, "", "the JobManager's configuration cannot be read: how fresh metrics are and how many failures are kept is not known")
	} else {
		if n, err := strconv.Atoi(c.config[keyExceptions]); err == nil && n < defaultExceptions {
			f.add(levelWarning, about, fmt.Sprintf("set %s: %d", keyExceptions, defaultExceptions), "%s is %d: failures between two polls get lost", keyExceptions, n)
		}
		timeout, ok := defaultTimeout, true
		if text := c.config[keyTimeout]; text != "" {
			timeout, ok = flinkDuration(text)
		}
		if ok && timeout > longTimeout {
			f.add(levelOK, about, "set "+keyTimeout+": 20000", "when a TaskManager dies all metrics may stand still for %s (%s)", planfile.Duration(timeout), keyTimeout)
		}
		fetcher, ok := defaultFetcher, true
		if text := c.config[keyFetcher]; text != "" {
			fetcher, ok = flinkDuration(text)
		}
		if ok && fetcher >= defaultFetcher {
			f.add(levelWarning, about, "set "+keyFetcher+": 1000", "queues, lag and counters are up to %s old (%s): polls that are closer read the same values again", fetcher, keyFetcher)
		}
	}
	if len(c.workers) > 0 {
		for _, m := range []struct {
			name   string
			metric dhalion.Metric
		}{
			{"Status.JVM.GarbageCollector.All.TimeMsPerSecond", dhalion.GC},
			{"Status.JVM.CPU.Load", dhalion.CPU},
			{"Status.JVM.Memory.Heap.Used", dhalion.HeapUsed},
		} {
			if !slices.Contains(c.workers, m.name) {
				f.add(levelWarning, about, "", "its TaskManagers give no %s: %s is unknown", m.name, m.metric)
			}
		}
	}
}

// flinkDuration reads a length of time of Flink's configuration: 1000 (ms), 10 s,
// 1 min, or ISO 8601 as PT10S. ok is false for what is none of these.
func flinkDuration(text string) (d time.Duration, ok bool) {
	text = strings.ToLower(strings.ReplaceAll(text, " ", ""))
	if n, err := strconv.ParseInt(text, 10, 32); err == nil {
		return time.Duration(n) * time.Millisecond, n >= 0
	}
	text = strings.TrimPrefix(text, "pt")
	for _, u := range [][2]string{{"min", "m"}, {"sec", "s"}, {"milliseconds", "ms"}, {"seconds", "s"}} {
		if n, found := strings.CutSuffix(text, u[0]); found {
			text = n + u[1]
			break
		}
	}
	d, err := time.ParseDuration(text)
	return d, err == nil && d >= 0
}

// assess fills in a job's capability and reports what is odd about it.
func (job *capability) assess(j jobAnswers, c clusterAnswers, f *findings) {
	about := string(job.Job)
	if job.State != flink.Running {
		f.add(levelWarning, about, "see why: its exceptions, in Flink's console", "it is %s", job.State)
	}
	job.assessRescale(j, c, f)
	job.assessCheckpoints(j, f)
	job.assessComponents(j, f)
	job.assessMetrics(j, f)
}

func (job *capability) assessRescale(j jobAnswers, c clusterAnswers, f *findings) {
	about := string(job.Job)
	if j.detail.Scheduler != "" {
		job.Scheduler = &j.detail.Scheduler
	} else if s := c.config[keyScheduler]; s != "" {
		job.Scheduler = &s
	}
	yes, no := true, false
	switch {
	case strings.EqualFold(c.config[keyMode], "reactive"):
		job.Rescalable = &no
		f.add(levelWarning, about, "run it without scheduler-mode: reactive to let plans set parallelism",
			"it runs in reactive mode: the number of slots sets its parallelism, plans cannot")
	case j.requirements != nil:
		job.Rescalable = &yes
		f.add(levelOK, about, "", "the adaptive scheduler runs it: its parallelism can be set while it runs")
	case j.fixed != "":
		job.Rescalable = &no
		f.add(levelWarning, about, "set jobmanager.scheduler: adaptive and start the job again",
			"its parallelism cannot be set while it runs: %s", j.fixed)
	default:
		f.add(levelWarning, about, "", "whether its parallelism can be set while it runs is not known: the engine did not say")
	}
}

func (job *capability) assessCheckpoints(j jobAnswers, f *findings) {
	about := string(job.Job)
	interval, known := j.interval.Get()
	switch {
	case j.unset || known && interval >= 1<<62:
		off := 0.0
		job.Checkpoint = &off
		job.unknown(dhalion.CheckpointSeconds, nil, "set execution.checkpointing.interval")
		f.add(levelWarning, about, "set execution.checkpointing.interval", "it makes no checkpoints: a change of parallelism, like a failure, loses its state")
	case known && interval > 0:
		seconds := interval / 1000
		job.Checkpoint = &seconds
	default:
		job.unknown(dhalion.CheckpointInterval, nil, "it is derived from the checkpoints seen")
	}
}

func (job *capability) assessComponents(j jobAnswers, f *findings) {
	about := string(job.Job)
	inputs, operators := map[string]int{}, map[string]int{}
	planned := len(j.detail.Plan.Nodes) > 0
	for _, n := range j.detail.Plan.Nodes {
		inputs[n.ID] = len(n.Inputs)
		operators[n.ID] = strings.Count(n.Description, "<br/>")
	}
	widest := map[string]int{} // of each slot sharing group: that many slots it takes
	uses := map[string]int{}
	run, all := 0, 0
	for _, v := range j.detail.Vertices {
		widest[v.Group] = max(widest[v.Group], v.Parallelism.Int())
		uses[strings.TrimSpace(v.Name)]++
		for _, state := range []string{flink.Running, flink.Finished} {
			n, _ := v.Tasks.Of(state)
			run += int(n)
		}
		all += max(0, v.Parallelism.Int())
	}
	if run < all {
		f.add(levelWarning, about, "see that there are slots for it, and its exceptions", "%d of its %s run", run, plural(all, "instance"))
	}
	for _, v := range j.detail.Vertices {
		name := strings.TrimSpace(v.Name)
		if uses[name] > 1 {
			name += " [" + v.ID[:min(8, len(v.ID))] + "]"
		}
		c := componentCapability{
			Name: name, Parallelism: positive(v.Parallelism), MaxParallelism: positive(v.MaxParallelism),
			Source: planned && inputs[v.ID] == 0, Operators: max(1, operators[v.ID]),
		}
		if c.Operators == 1 { // versions differ in the description; the name joins them, too
			c.Operators = flink.Operators(v.Name)
		}
		if r, ok := j.requirements[v.ID]; ok {
			c.Requested = positive(r.Parallelism.UpperBound)
		}
		if c.Source {
			c.Partitions = partitions(j.metrics[v.ID])
		}
		if job.Free != nil && c.Parallelism != nil && run >= all {
			most := widest[v.Group] + *job.Free
			for _, limit := range []*int{c.MaxParallelism, c.Partitions} {
				if limit != nil {
					most = min(most, *limit)
				}
			}
			most = max(most, *c.Parallelism)
			c.Most = &most
		}
		job.Components = append(job.Components, c)
		job.assessComponent(about, c, f)
	}
}

func (job *capability) assessComponent(about string, c componentCapability, f *findings) {
	if c.Parallelism == nil {
		return
	}
	n := *c.Parallelism
	switch {
	case c.Requested != nil && n < *c.Requested:
		f.add(levelWarning, about, "add TaskManagers or slots", "%s runs with %d of the %d instances that it asks for: there are not enough slots", c.Name, n, *c.Requested)
	case c.MaxParallelism != nil && n >= *c.MaxParallelism && !c.Source:
		f.add(levelWarning, about, "give it a greater maximum parallelism; that needs a start without its old state", "%s has %s, its maximum parallelism: it cannot grow", c.Name, plural(n, "instance"))
	}
	if c.Partitions != nil && n > *c.Partitions {
		f.add(levelWarning, about, "give what it reads more partitions, or the source fewer instances", "%s has %s for %s: the rest is idle", c.Name, plural(n, "instance"), plural(*c.Partitions, "partition"))
	}
	if c.Source && c.Operators > 1 {
		f.add(levelWarning, about, "end the chain behind the source: disableChaining() on the next operator, or pipeline.operator-chaining.enabled: false",
			"%s is a source with %d operators chained in it: its busy time is that of all, and what it reads and what it gives count in different units", c.Name, c.Operators)
	}
}

// assessMetrics says which metrics are unknown because no subtask has what they
// come from.
func (job *capability) assessMetrics(j jobAnswers, f *findings) {
	about := string(job.Job)
	ids := map[string]string{} // by component
	for i, v := range j.detail.Vertices {
		ids[job.Components[i].Name] = v.ID
	}
	lacking := func(sources bool, has func(name string) bool) []string {
		var lack []string
		for _, c := range job.Components {
			names, asked := j.metrics[ids[c.Name]]
			if asked && len(names) > 0 && c.Source == sources && !slices.ContainsFunc(names, func(id string) bool {
				_, name, ok := flink.Metric{ID: id}.Subtask()
				return ok && has(name)
			}) {
				lack = append(lack, c.Name)
			}
		}
		return lack
	}
	is := func(suffixes ...string) func(string) bool {
		return func(name string) bool {
			return slices.ContainsFunc(suffixes, func(s string) bool { return name == s || strings.HasSuffix(name, "."+s) })
		}
	}
	if lack := lacking(true, is("pendingRecords")); len(lack) > 0 {
		const advice = "use a connector that reports pendingRecords (Kafka's does); a source of your own registers it: metricGroup().setPendingRecordsGauge(…)"
		job.unknown(dhalion.Lag, lack, advice)
		f.add(levelWarning, about, advice, "the lag of %s is not reported: what is offered beyond what is read is unknown", joined(lack))
	}
	if lack := lacking(false, is("inputQueueLength")); len(lack) > 0 {
		job.unknown(dhalion.InputQueueBuffers, lack, "use Flink's own shuffle service")
		f.add(levelWarning, about, "use Flink's own shuffle service", "there are no buffer metrics of %s: who holds up whom is seen less sharply", joined(lack))
	}
	var busy []string
	for _, sources := range []bool{true, false} {
		busy = append(busy, lacking(sources, is("accumulateBusyTimeMs", "busyTimeMsPerSecond"))...)
	}
	if len(busy) > 0 {
		job.unknown(dhalion.Busy, busy, "use Flink 1.18 or later")
		f.add(levelWarning, about, "use Flink 1.18 or later", "there are no busy times of %s: capacity is unknown", joined(busy))
	}
	var unmeasured []string
	for i, v := range j.detail.Vertices {
		// Flink names a busy time of every task; of a SourceFunction's it is NaN.
		if v.Metrics.Backpressured.Known() && !v.Metrics.Busy.Known() && !slices.Contains(busy, job.Components[i].Name) {
			unmeasured = append(unmeasured, job.Components[i].Name)
		}
	}
	if len(unmeasured) > 0 {
		const advice = "use a source of Flink's newer interface: env.fromSource(…) in place of addSource(…)"
		job.unknown(dhalion.Busy, unmeasured, advice)
		f.add(levelWarning, about, advice, "the busy time of %s is not measured: its capacity is unknown", joined(unmeasured))
	}
	var none []string
	for _, c := range job.Components {
		if len(j.metrics[ids[c.Name]]) == 0 {
			none = append(none, c.Name)
		}
	}
	if len(none) > 0 {
		f.add(levelWarning, about, "ask again when it runs; the JobManager gets metrics from the TaskManagers by metrics.internal.query-service.port",
			"there are no metrics of %s", joined(none))
	}
}

func (job *capability) unknown(m dhalion.Metric, components []string, advice string) {
	job.Unknown = append(job.Unknown, unknownMetric{m, components, advice})
}

func positive(n flink.Number) *int {
	if v := n.Int(); v > 0 {
		return &v
	}
	return nil
}

// The names under which connectors report the partitions that a subtask reads.
// The Flink autoscaler reads the same ones.
var partitionNames = []*regexp.Regexp{
	regexp.MustCompile(`^\d+\..*\.KafkaSourceReader\.topic\.(.+\.partition\.\d+)\.currentOffset$`),
	regexp.MustCompile(`^\d+\..*\.PulsarConsumer\.(.+-partition-\d+)\..*\.numMsgsReceived$`),
}

// partitions counts what the subtasks of a source read together; nil when the
// connector does not say.
func partitions(metrics []string) *int {
	seen := map[string]bool{}
	for _, id := range metrics {
		for _, pattern := range partitionNames {
			if m := pattern.FindStringSubmatch(id); m != nil {
				seen[m[1]] = true
			}
		}
	}
	if len(seen) == 0 {
		return nil
	}
	n := len(seen)
	return &n
}

// prober asks an engine.
type prober struct {
	get  func(ctx context.Context, path string) flink.Answer // of a *flink.Client
	now  func() time.Time
	wait func(ctx context.Context, d time.Duration) error
}

// The JobManager fetches metrics when it is asked for them: the first answer may
// have none, and a second one after a fetch has them.
const (
	metricWait  = 500 * time.Millisecond
	metricTries = 24
)

// cluster asks for what assess works on. It fails when the cluster as such does
// not answer; what else is not answered stays unknown.
func (p prober) cluster(ctx context.Context) (clusterAnswers, error) {
	var c clusterAnswers
	overview := p.get(ctx, "/jobs/overview")
	if !overview.OK() {
		return c, refusal(overview)
	}
	runs, err := flink.Decode[flink.JobsOverview](overview.Body)
	if err != nil {
		return c, fmt.Errorf("what answers is no Flink: %w", err)
	}
	if a, ok := ask[struct {
		Version string `json:"flink-version"`
	}](ctx, p, "/config"); ok {
		c.version = a.Version
	}
	if pairs, ok := ask[[]struct{ Key, Value string }](ctx, p, "/jobmanager/config"); ok {
		c.config = map[string]string{}
		for _, pair := range pairs {
			c.config[pair.Key] = pair.Value
		}
	}
	if t, ok := ask[flink.TaskManagers](ctx, p, "/taskmanagers"); ok {
		c.taskManagers = &t
	}
	for _, r := range runs.Jobs {
		if flink.Terminal(r.State) || ctx.Err() != nil {
			continue
		}
		if j, ok := p.job(ctx, r.ID); ok {
			c.jobs = append(c.jobs, j)
		}
	}
	for try := 0; !p.metrics(ctx, &c) && try < metricTries; try++ {
		if p.wait(ctx, metricWait) != nil {
			break
		}
	}
	return c, ctx.Err()
}

func (p prober) job(ctx context.Context, run string) (jobAnswers, bool) {
	j := jobAnswers{metrics: map[string][]string{}, asked: p.now()}
	base := "/jobs/" + pathPart(run)
	var ok bool
	if j.detail, ok = ask[jobDetail](ctx, p, base); !ok {
		return j, false // it ended meanwhile
	}
	j.answered = p.now()
	if len(j.detail.Plan.Nodes) == 0 {
		if plan, ok := ask[struct{ Plan describedPlan }](ctx, p, base+"/plan"); ok {
			j.detail.Plan = plan.Plan
		}
	}
	switch a := p.get(ctx, base+"/resource-requirements"); {
	case a.OK():
		if r, err := flink.Decode[flink.Requirements](a.Body); err == nil {
			j.requirements = r
		}
	case a.Status == 404:
		j.fixed = "this Flink has no such request"
	case bytes.Contains(a.Body, []byte("UnsupportedOperationException")):
		j.fixed = unsupported(a.Body)
	}
	switch a := p.get(ctx, base+"/checkpoints/config"); {
	case a.OK():
		if c, err := flink.Decode[flink.CheckpointConfig](a.Body); err == nil {
			j.interval = c.Interval
		}
	case a.Status == 404:
		j.unset = true
	}
	return j, true
}

// metrics asks which metrics there are, of what gave none yet. It reports whether
// everything that runs has some, or will not answer.
func (p prober) metrics(ctx context.Context, c *clusterAnswers) bool {
	done := true
	fill := func(names []string, path string, runs bool) []string {
		if len(names) > 0 {
			return names
		}
		list, ok := ask[[]flink.Metric](ctx, p, path)
		if !ok {
			return nil
		}
		done = done && (len(list) > 0 || !runs)
		names = make([]string, len(list))
		for i, m := range list {
			names[i] = m.ID
		}
		return names
	}
	if t := c.taskManagers; t != nil && len(t.TaskManagers) > 0 {
		c.workers = fill(c.workers, "/taskmanagers/"+pathPart(t.TaskManagers[0].ID)+"/metrics", true)
	}
	for i := range c.jobs {
		j := &c.jobs[i]
		base := "/jobs/" + pathPart(j.detail.ID)
		for _, v := range j.detail.Vertices {
			n, _ := v.Tasks.Of(flink.Running)
			if names := fill(j.metrics[v.ID], base+"/vertices/"+pathPart(v.ID)+"/metrics", n > 0); names != nil {
				j.metrics[v.ID] = names
			}
		}
	}
	return done
}

func pathPart(s string) string { return url.PathEscape(s) }

// ask decodes an answer; false is no answer that can be read.
func ask[T any](ctx context.Context, p prober, path string) (T, bool) {
	var v T
	a := p.get(ctx, path)
	if !a.OK() {
		return v, false
	}
	v, err := flink.Decode[T](a.Body)
	return v, err == nil
}

// unsupported is the message of the exception in a refusal of Flink's, whose text
// is a stack trace.
func unsupported(body []byte) string {
	const name = "UnsupportedOperationException: "
	refusal, err := flink.Decode[struct {
		Errors []string `json:"errors"`
	}](body)
	if err == nil {
		for _, text := range refusal.Errors {
			if _, message, found := strings.Cut(text, name); found {
				message, _, _ = strings.Cut(message, "\n")
				message, _, _ = strings.Cut(message, ". ")
				return clip(plain(message), 200)
			}
		}
	}
	return "its scheduler does not support that"
}

// refusal is why a cluster did not answer as one.
func refusal(a flink.Answer) error {
	switch {
	case a.Status == 0:
		return errors.New(a.Error)
	case a.Status == 401 || a.Status == 403:
		return fmt.Errorf("it answers %d: it does not take these credentials", a.Status)
	case a.Status/100 == 3:
		return fmt.Errorf("it answers %d, a redirection, which is not followed", a.Status)
	}
	return fmt.Errorf("%s answers %d", a.Path, a.Status)
}
