package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/dhalion-go/dhalion/internal/engine/flink"
	"github.com/dhalion-go/dhalion/lab/scenario"
)

// view is what the runner asks a running job.
type view struct {
	client  *flink.Client
	job     string
	vertex  map[string]string   // component → vertex id
	lag     map[string][]string // source → ids of pendingRecords, one a subtask
	sources []string
}

// component is a vertex's name without what Flink puts around it, and without what is
// chained behind its first operator.
func component(name string) string {
	name, _, _ = strings.Cut(name, " -> ")
	return strings.TrimSpace(strings.TrimSuffix(strings.TrimPrefix(name, "Source: "), ": Writer"))
}

func get[T any](ctx context.Context, c *flink.Client, path string) (T, error) {
	a := c.Get(ctx, path)
	if !a.OK() {
		var none T
		return none, fmt.Errorf("GET %s: status %d %s", path, a.Status, a.Error)
	}
	return flink.Decode[T](a.Body)
}

func newView(ctx context.Context, client *flink.Client, job string, shape scenario.Shape) (*view, error) {
	v := &view{client: client, job: job, vertex: map[string]string{}, lag: map[string][]string{}}
	j, err := get[flink.Job](ctx, client, "/jobs/"+job)
	if err != nil {
		return nil, err
	}
	for _, x := range j.Vertices {
		v.vertex[component(x.Name)] = x.ID
	}
	for _, name := range shape.Names() {
		if v.vertex[name] == "" {
			return nil, fmt.Errorf("job %s has no vertex %s", job, name)
		}
		if shape.Components[name].Kind == scenario.Source {
			v.sources = append(v.sources, name)
		}
	}
	return v, nil
}

func (v *view) path(name, rest string) string {
	return "/jobs/" + v.job + "/vertices/" + v.vertex[name] + rest
}

// placement is where everything runs now.
func (v *view) placement(ctx context.Context) (scenario.Placement, error) {
	p := scenario.Placement{}
	for name := range v.vertex {
		d, err := get[flink.VertexDetail](ctx, v.client, v.path(name, ""))
		if err != nil {
			return nil, err
		}
		p[name] = map[int]string{}
		for _, s := range d.Subtasks {
			p[name][s.Index.Int()] = s.Worker()
		}
	}
	return p, nil
}

// running says whether the job and every task of it runs, with so many copies of
// a component if one is named.
func (v *view) running(ctx context.Context, name string, copies int) (bool, error) {
	j, err := get[flink.Job](ctx, v.client, "/jobs/"+v.job)
	if err != nil {
		return false, nil // the JobManager may be busy; the caller has a deadline
	}
	if flink.Terminal(j.State) {
		return false, fmt.Errorf("the job is %s", j.State)
	}
	if j.State != flink.Running {
		return false, nil
	}
	for _, x := range j.Vertices {
		n, known := x.Tasks.Of(flink.Running)
		if !known || int(n) != x.Parallelism.Int() || component(x.Name) == name && int(n) != copies {
			return false, nil
		}
	}
	return true, nil
}

// backlog is how many records wait at the sources; nil when Flink did not say of
// each.
func (v *view) backlog(ctx context.Context) *float64 {
	sum := 0.0
	for _, name := range v.sources {
		if len(v.lag[name]) == 0 {
			names, err := get[[]flink.Metric](ctx, v.client, v.path(name, "/metrics"))
			if err != nil {
				return nil
			}
			for _, m := range names {
				if strings.HasSuffix(m.ID, ".pendingRecords") {
					v.lag[name] = append(v.lag[name], m.ID)
				}
			}
			if len(v.lag[name]) == 0 {
				return nil
			}
		}
		values, err := get[[]flink.Metric](ctx, v.client, v.path(name, "/metrics?get="+strings.Join(v.lag[name], ",")))
		if err != nil || len(values) < len(v.lag[name]) {
			return nil
		}
		for _, m := range values {
			n, known := m.Value.Get()
			if !known {
				return nil
			}
			sum += n
		}
	}
	return &sum
}

// failedCheckpoints is how many have failed since the job began; nil when Flink did
// not say.
func (v *view) failedCheckpoints(ctx context.Context) *float64 {
	c, err := get[flink.Checkpoints](ctx, v.client, "/jobs/"+v.job+"/checkpoints")
	if err != nil {
		return nil
	}
	n, known := c.Counts.Failed.Get()
	if !known {
		return nil
	}
	return &n
}

// outages are the times of the failures that the engine remembers; nil when it did
// not say.
func (v *view) outages(ctx context.Context) []time.Time {
	e, err := get[flink.Exceptions](ctx, v.client, "/jobs/"+v.job+"/exceptions?maxExceptions=100")
	if err != nil {
		return nil
	}
	all := []time.Time{}
	for _, x := range e.History.Entries {
		if at, ok := x.Timestamp.Time(); ok {
			all = append(all, at)
		}
	}
	return all
}

// rescale asks for a component to have so many copies.
func (v *view) rescale(ctx context.Context, name string, copies int) error {
	path := "/jobs/" + v.job + "/resource-requirements"
	now, err := get[map[string]any](ctx, v.client, path)
	if err != nil {
		return err
	}
	now[v.vertex[name]] = map[string]any{"parallelism": map[string]int{"lowerBound": 1, "upperBound": copies}}
	body, err := json.Marshal(now)
	if err != nil {
		return err
	}
	if a := v.client.Do(ctx, "PUT", path, body); !a.OK() {
		return fmt.Errorf("PUT %s: status %d %s %s", path, a.Status, a.Error, a.Body)
	}
	return nil
}
