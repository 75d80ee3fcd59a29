package flink

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/dhalion-go/dhalion"
)

// versions are real clusters' answers (lab/versions): the lab's word count with 1,
// 2, 4 and 1 instances on two TaskManagers, 100 records a second, each split in two.
var versions = []string{"1.18.1", "1.20.5", "2.3.0"}

// recorded is a version's recording, without the first poll, which has no rates.
func recorded(t *testing.T, version string) []Result {
	t.Helper()
	all := assemble(t, Options{}, unpacked(t, filepath.Join("versions", version)))
	if len(all) < 6 {
		t.Fatalf("%d polls", len(all))
	}
	return all[1:]
}

func TestEveryVersionIsRecordedAndNoOther(t *testing.T) {
	files, err := os.ReadDir("testdata/versions")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range files {
		if name, ok := strings.CutSuffix(f.Name(), ".jsonl.gz"); ok {
			names = append(names, name)
		}
	}
	if !slices.Equal(names, versions) {
		t.Errorf("recordings of %v, tests of %v", names, versions)
	}
}

func TestTheGraphOfEveryVersionIsRead(t *testing.T) {
	for _, version := range versions {
		t.Run(version, func(t *testing.T) {
			all := assemble(t, Options{}, unpacked(t, filepath.Join("versions", version)))
			graphs := changes(t, all)
			if len(graphs) != 1 {
				t.Fatalf("%d topologies of a job that nobody changed", len(graphs))
			}
			g := graphs[0]
			var components, edges []string
			for _, c := range g.Components {
				components = append(components, fmt.Sprintf("%s %d/%d", c.Name, c.Parallelism, c.MaxParallelism))
			}
			for _, e := range g.Edges {
				edges = append(edges, e.From+"-"+e.Ship+"->"+e.To)
			}
			slices.Sort(components)
			slices.Sort(edges)
			if want := []string{"Source: source 1/128", "counter 4/128", "sink: Writer 1/128", "splitter 2/128"}; !slices.Equal(components, want) {
				t.Errorf("components %v", components)
			}
			if want := []string{"Source: source-rebalance->splitter", "counter-rebalance->sink: Writer", "splitter-hash->counter"}; !slices.Equal(edges, want) {
				t.Errorf("edges %v", edges)
			}
			workers := map[string]int{}
			for _, p := range g.Placement {
				workers[p.Worker]++
			}
			if len(g.Placement) != 8 || len(workers) != 2 || workers["tm-1"]+workers["tm-2"] != 8 {
				t.Errorf("placement %v", g.Placement)
			}
		})
	}
}

func TestEveryVersionGivesTheSameMetrics(t *testing.T) {
	for _, version := range versions {
		t.Run(version, func(t *testing.T) {
			all := recorded(t, version)
			mean := func(target dhalion.Target, m dhalion.Metric) float64 {
				t.Helper()
				v := slices.DeleteFunc(values(all, target, m), math.IsNaN)
				if len(v) == 0 {
					t.Fatalf("%s of %s is unknown", m, target)
				}
				sum := 0.0
				for _, x := range v {
					sum += x
				}
				return sum / float64(len(v))
			}
			instance := func(component string, i int) dhalion.Target { return dhalion.InstanceTarget(wordcount, component, i) }
			sent, received := 0.0, 0.0
			for i := range 2 {
				sent += mean(instance("splitter", i), dhalion.RecordsOut)
			}
			for i := range 4 {
				received += mean(instance("counter", i), dhalion.RecordsIn)
			}
			// 100 a second, ± 10 % of a wave and 6 % of jitter, twice; in flight a few.
			if received < 160 || received > 240 || math.Abs(sent-received) > 0.05*received {
				t.Errorf("splitter sends %.1f/s, counter receives %.1f/s", sent, received)
			}
			if out := mean(instance("Source: source", 0), dhalion.RecordsOut); math.Abs(2*out-received) > 0.05*received {
				t.Errorf("the source puts out %.1f/s, counter receives %.1f/s", out, received)
			}
			// 50 records a second and instance at 8 ms: 40 % busy.
			for i := range 4 {
				c := instance("counter", i)
				busy, held, idle := mean(c, dhalion.Busy), mean(c, dhalion.Backpressured), mean(c, dhalion.Idle)
				if busy < 0.3 || busy > 0.6 || math.Abs(busy+held+idle-1) > 1e-9 {
					t.Errorf("counter[%d] is %.2f busy, %.2f backpressured, %.2f idle", i, busy, held, idle)
				}
				mean(c, dhalion.InputQueueBuffers)
			}
			if lag := mean(instance("Source: source", 0), dhalion.Lag); lag < 0 || lag > 1000 {
				t.Errorf("lag %.0f", lag)
			}
			for _, w := range []string{"tm-1", "tm-2"} {
				worker := dhalion.WorkerTarget(wordcount, w)
				if used, most := mean(worker, dhalion.HeapUsed), mean(worker, dhalion.HeapMax); used <= 0 || used > most || most > 512<<20 {
					t.Errorf("%s: heap %.0f of %.0f", w, used, most)
				}
				if cpu := mean(worker, dhalion.CPU); cpu < 0 || cpu > 1 {
					t.Errorf("%s: CPU %.2f", w, cpu)
				}
			}
			job := dhalion.JobTarget(wordcount)
			if interval := mean(job, dhalion.CheckpointInterval); interval != 10 {
				t.Errorf("checkpoints every %.0f s", interval)
			}
			if took := mean(job, dhalion.CheckpointSeconds); took <= 0 || took > 10 {
				t.Errorf("a checkpoint takes %.2f s", took)
			}
			if running := mean(job, dhalion.Running); running != 1 {
				t.Errorf("running for %.2f of the time", running)
			}
			if outages := mean(job, dhalion.Restarts); outages != 0 {
				t.Errorf("%.1f outages", outages)
			}
		})
	}
}
