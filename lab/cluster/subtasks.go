package cluster

import (
	"context"
	"fmt"
)

// Subtask is one instance of a component, as the engine tells of it.
type Subtask struct {
	Worker string  // TaskManager
	Status string  // RUNNING and so on
	Read   float64 // records taken in since its attempt began
}

// Subtasks are the instances of a component of a run, by index. Counters may be a
// second old: Flink renews them when they are asked for.
func (c *Cluster) Subtasks(ctx context.Context, run, component string) ([]Subtask, error) {
	var job struct{ Vertices []struct{ ID, Name string } }
	if err := c.get(ctx, "/jobs/"+run, &job); err != nil {
		return nil, err
	}
	for _, v := range job.Vertices {
		if v.Name != component && v.Name != "Source: "+component && v.Name != component+": Writer" {
			continue
		}
		var detail struct {
			Subtasks []struct {
				Worker  string `json:"taskmanager-id"`
				Status  string
				Metrics struct {
					Read float64 `json:"read-records"`
				}
			}
		}
		if err := c.get(ctx, "/jobs/"+run+"/vertices/"+v.ID, &detail); err != nil {
			return nil, err
		}
		all := make([]Subtask, len(detail.Subtasks))
		for i, s := range detail.Subtasks {
			all[i] = Subtask{s.Worker, s.Status, s.Metrics.Read}
		}
		return all, nil
	}
	return nil, fmt.Errorf("cluster: run %s has no component %s", run, component)
}

// JobMetric is the value of a metric of a run, as the engine prints it.
func (c *Cluster) JobMetric(ctx context.Context, run, name string) (string, error) {
	var all []struct{ ID, Value string }
	if err := c.get(ctx, "/jobs/"+run+"/metrics?get="+name, &all); err != nil {
		return "", err
	}
	if len(all) != 1 {
		return "", fmt.Errorf("cluster: run %s has no metric %s", run, name)
	}
	return all[0].Value, nil
}
