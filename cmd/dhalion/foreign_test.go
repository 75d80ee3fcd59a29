package main

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/dhalion-go/dhalion"
)

// meddle sets a component's parallelism behind our back, by the engine's own request.
func (b *bench) meddle(component string, n int) {
	b.t.Helper()
	ids, _ := b.cluster.RunsOf("orders")
	run := "/jobs/" + ids[len(ids)-1]
	told := func(method, path string, body []byte, into any) {
		b.t.Helper()
		status, answer := b.cluster.Do(method, path, body)
		if status/100 != 2 {
			b.t.Fatalf("%s %s: %d: %s", method, path, status, answer)
		}
		if into != nil {
			if err := json.Unmarshal(answer, into); err != nil {
				b.t.Fatal(err)
			}
		}
	}
	var job struct{ Vertices []struct{ ID, Name string } }
	told("GET", run, nil, &job)
	required := map[string]map[string]map[string]int{}
	told("GET", run+"/resource-requirements", nil, &required)
	for _, v := range job.Vertices {
		if strings.HasPrefix(v.Name, component) {
			required[v.ID]["parallelism"]["upperBound"] = n
		}
	}
	body, err := json.Marshal(required)
	if err != nil {
		b.t.Fatal(err)
	}
	told("PUT", run+"/resource-requirements", body, nil)
	b.settled()
	b.ingest()
}

func TestAJobThatSomebodyElseChangesTwiceInAnHourIsOnlyLookedAt(t *testing.T) {
	b := newBench(t, calling(t, newSession(t).url, "foreign"))
	b.meddle("count", 5)
	id, _ := b.approvedPlan(b.draft(func(t dhalion.Topology) []dhalion.Action { return []dhalion.Action{rescale(t, "parse", 2)} }))
	b.run("apply", id, "--no-wait") // once is no fight
	b.ingest()
	b.meddle("count", 4)

	said := b.run("history", "orders", "-o", "json")
	var history struct {
		Topologies []struct {
			By      string
			Changes []string
		}
	}
	if err := json.Unmarshal([]byte(said), &history); err != nil {
		t.Fatal(err)
	}
	by := map[string]string{}
	for _, x := range history.Topologies {
		for _, c := range x.Changes {
			by[c] = x.By
		}
	}
	for change, want := range map[string]string{"count 4 → 5 instances": "operator", "parse 3 → 2 instances": "dhalion", "count 5 → 4 instances": "operator"} {
		if by[change] != want {
			t.Errorf("%s is by %q, want %s: %+v", change, by[change], want, history.Topologies)
		}
	}

	id, _ = b.approvedPlan(b.draft(func(t dhalion.Topology) []dhalion.Action { return []dhalion.Action{rescale(t, "parse", 4)} }))
	effects := len(b.cluster.Effects())
	said, code := b.try(time.Now, "apply", id)
	if code != exitNotApproved || len(b.cluster.Effects()) != effects {
		t.Fatalf("it ended with %d: %s", code, said)
	}
	for _, want := range []string{"prod/orders may only be looked at until ", "somebody else changed its parallelism, count 4 → 5 instances at ", " and count 5 → 4 instances at "} {
		if !strings.Contains(said, want) {
			t.Errorf("it does not say %q: %s", want, said)
		}
	}
	b.run("apply", id, "--dry-run")
	if said := b.run("plan", "orders"); !strings.Contains(said, "W-foreign-changes") || !strings.Contains(said, "Find out who else") {
		t.Errorf("the plan does not say it: %s", said)
	}
	if n := strings.Count(b.run("log", "orders"), "foreign: count"); n != 2 {
		t.Errorf("%d foreign changes are logged:\n%s", n, b.run("log", "orders"))
	}
}
