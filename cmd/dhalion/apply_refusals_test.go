package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/apply"
	"github.com/dhalion-go/dhalion/internal/engine/flink/flinktest"
	"github.com/dhalion-go/dhalion/internal/store"
	"github.com/dhalion-go/dhalion/plan/planfile"
)

// ruled gives the job a policy of its own, a file beside dhalion.yaml, and says
// more about jobs behind it.
func (b *bench) ruled(policy, more string) (file string) {
	b.t.Helper()
	file = filepath.Join(b.dir, "shop.policy.yaml")
	b.write(file, "name: shop\nextends: default\n"+policy, 0o600)
	b.configured(strings.Replace(oneJob, "    mode: propose\n", "    policy: shop.policy.yaml\n    mode: propose\n", 1) + more)
	return file
}

// two lets a plan touch two jobs.
const two = "limits: {max_jobs_touched: 2, max_instances_touched: 1.0}\n"

// hoursNow are quiet hours that hold now.
func hoursNow() string {
	now := time.Now().UTC()
	return fmt.Sprintf("%s-%s UTC", now.Add(-time.Hour).Format("15:04"), now.Add(time.Hour).Format("15:04"))
}

// shared has the cluster run a second job, with an instance on every worker.
func (b *bench) shared() {
	b.t.Helper()
	b.cluster.Start("besides", flinktest.Vertex{Name: "lines", Parallelism: 4})
	b.ingest()
}

// store does something to the database beside the command line.
func (b *bench) store(f func(ctx context.Context, st *store.Store) error) {
	b.t.Helper()
	ctx := context.Background()
	st, err := store.Open(ctx, b.db.url, store.Options{})
	if err == nil {
		defer st.Close()
		err = f(ctx, st)
	}
	if err != nil {
		b.t.Fatal(err)
	}
}

// approved stores a plan of one rescale and has bob approve it.
func (b *bench) approved() (id, file string) {
	b.t.Helper()
	return b.approvedPlan(b.draft(one6))
}

func (b *bench) approvedPlan(p dhalion.Plan) (id, file string) {
	b.t.Helper()
	id, file = b.propose(p, "ann")
	b.run("approve", id, "--as", "bob")
	return id, file
}

func one6(t dhalion.Topology) []dhalion.Action {
	return []dhalion.Action{rescale(t, "count", 6)}
}

// edited is an approved plan's file with a text replaced.
func edited(old, new string) func(b *bench) []string {
	return func(b *bench) []string {
		_, file := b.approved()
		text, err := os.ReadFile(file)
		if err != nil {
			b.t.Fatal(err)
		}
		changed := strings.Replace(string(text), old, new, 1)
		if changed == string(text) {
			b.t.Fatalf("there is no %s in\n%s", old, text)
		}
		b.write(file, changed, 0o600)
		return []string{file}
	}
}

// moved is an approved plan by id, after somebody did something to the world.
func moved(f func(b *bench)) func(b *bench) []string {
	return func(b *bench) []string {
		id, _ := b.approved()
		f(b)
		return []string{id}
	}
}

// replaced has the job run anew, with other vertices.
func replaced(vertices ...flinktest.Vertex) func(b *bench) {
	return func(b *bench) {
		b.cluster.Forget(b.cluster.Live("orders").Run)
		b.cluster.Start("orders", vertices...)
	}
}

// ends is an approved plan that has come to a state.
func ends(to dhalion.PlanState) func(b *bench) []string {
	return moved(func(b *bench) {
		b.store(func(ctx context.Context, st *store.Store) error {
			plan := b.db.text(`SELECT id FROM plans`)[0]
			lease, err := st.Begin(ctx, apply.Beginning{Plan: plan, Jobs: []dhalion.JobID{orders}, Holder: "a test", Now: time.Now(), Length: time.Minute})
			if err != nil || to == dhalion.PlanApplying {
				return err
			}
			first := to
			if to == dhalion.PlanMet || to == dhalion.PlanUnmet {
				first = dhalion.PlanApplied
			}
			if to == dhalion.PlanAborted {
				_, err := st.Abort(ctx, plan, "ann", "enough", "a test", nil, time.Now())
				return err
			}
			if err := st.End(ctx, lease, first, "as the test has it", nil, time.Now()); err != nil || first == to {
				return err
			}
			_, err = st.Judge(ctx, plan, to, "as the test has it", nil, nil, time.Now())
			return err
		})
	})
}

// wronglyApproved is a plan of ann's under four eyes that somebody approved who
// may not, by a store that did not ask.
func wronglyApproved(person string) func(b *bench) []string {
	return func(b *bench) []string {
		b.ruled("approve: {four_eyes: true}\n", "")
		id, _ := b.propose(b.draft(one6), "ann")
		digest := b.db.text(`SELECT digest FROM plans WHERE id = $1`, id)[0]
		b.store(func(ctx context.Context, st *store.Store) error {
			_, err := st.Approve(ctx, dhalion.Approval{Plan: id, Digest: digest, Person: person, At: time.Now()}, false)
			return err
		})
		return []string{id}
	}
}

// relocating is an approved plan that leaves tm-2 and lists, or not, the other job
// there.
func relocating(policy, more string, lists bool, then func(b *bench)) func(b *bench) []string {
	return func(b *bench) []string {
		b.ruled(policy, more)
		b.shared()
		id, _ := b.approvedPlan(b.draft(func(t dhalion.Topology) []dhalion.Action {
			if lists {
				return []dhalion.Action{relocation(t, "tm-2", dhalion.Affected{Job: besides, Instances: 1, Of: 4})}
			}
			return []dhalion.Action{relocation(t, "tm-2")}
		}))
		if then != nil {
			then(b)
		}
		return []string{id}
	}
}

// holding has another plan hold the lease of a job.
func holding(job dhalion.JobID) func(b *bench) {
	return func(b *bench) {
		id, _ := b.approvedPlan(b.draft(func(t dhalion.Topology) []dhalion.Action {
			return []dhalion.Action{rescale(t, "parse", 5)}
		}))
		b.store(func(ctx context.Context, st *store.Store) error {
			_, err := st.Begin(ctx, apply.Beginning{Plan: id, Jobs: []dhalion.JobID{job}, Holder: "a test", Now: time.Now(), Length: time.Minute})
			return err
		})
	}
}

// refusals are plans that must not be applied. make does what makes it so and
// returns the arguments of apply.
var refusals = []struct {
	name string
	make func(b *bench) []string
	in   time.Duration // from now, when it is applied
	code int
	says string
}{
	// Edited.
	{"another value", edited(`"to": 6`, `"to": 7`), 0, exitEdited, "does not match its body"},
	{"another target", edited(`"component": "count"`, `"component": "parse"`), 0, exitEdited, "does not match its body"},
	{"another probability", edited(`"probability": 0.9`, `"probability": 0.99`), 0, exitEdited, "does not match its body"},
	{"valid for longer", edited(`"valid_for_seconds": 3600`, `"valid_for_seconds": 360000`), 0, exitEdited, "does not match its body"},
	{"another basis", edited(`"outcomes": "0`, `"outcomes": "1`), 0, exitEdited, "does not match its body"},
	{"four eyes closed", edited(`"four_eyes": false`, `"four_eyes": true`), 0, exitEdited, "does not match its body"},
	{"the digest of another plan", func(b *bench) []string {
		_, other := b.propose(b.draft(func(t dhalion.Topology) []dhalion.Action { return []dhalion.Action{rescale(t, "parse", 5)} }), "ann")
		return []string{b.borrows(other, `"digest": "`)}
	}, 0, exitEdited, "does not match its body"},
	{"the id of another plan", func(b *bench) []string {
		_, other := b.propose(b.draft(func(t dhalion.Topology) []dhalion.Action { return []dhalion.Action{rescale(t, "parse", 5)} }), "ann")
		return []string{b.borrows(other, `"id": "`)}
	}, 0, exitEdited, "does not match its body"},
	{"edited, and taken up as if it had been begun", func(b *bench) []string {
		return append(edited(`"to": 6`, `"to": 7`)(b), "--resume")
	}, 0, exitEdited, "does not match its body"},

	// Expired.
	{"its time is over", moved(func(*bench) {}), 61 * time.Minute, exitExpired, "it expired"},
	{"it was marked as expired", moved(func(b *bench) {
		b.store(func(ctx context.Context, st *store.Store) error {
			_, err := st.ExpirePlans(ctx, time.Now().Add(2*time.Hour))
			return err
		})
	}), 0, exitExpired, "it was marked as expired"},

	// Stale.
	{"a component was rescaled", moved(func(b *bench) { b.cluster.Rescale(b.cluster.Live("orders").Run, "parse", 5) }), 0, exitStale, "parse had 3 instances and has 5"},
	{"a component is gone", moved(replaced(
		flinktest.Vertex{Name: "lines", Parallelism: 2}, flinktest.Vertex{Name: "count", Parallelism: 4, From: []string{"lines"}},
		flinktest.Vertex{Name: "store", Parallelism: 2, From: []string{"count"}})), 0, exitStale, "component parse is gone"},
	{"a component is new", moved(replaced(
		flinktest.Vertex{Name: "lines", Parallelism: 2}, flinktest.Vertex{Name: "parse", Parallelism: 3, From: []string{"lines"}},
		flinktest.Vertex{Name: "count", Parallelism: 4, From: []string{"parse"}}, flinktest.Vertex{Name: "store", Parallelism: 2, From: []string{"count"}},
		flinktest.Vertex{Name: "audit", Parallelism: 1, From: []string{"count"}})), 0, exitStale, "component audit is new"},
	{"the graph is another", moved(replaced(
		flinktest.Vertex{Name: "lines", Parallelism: 2}, flinktest.Vertex{Name: "parse", Parallelism: 3, From: []string{"lines"}},
		flinktest.Vertex{Name: "count", Parallelism: 4, From: []string{"lines"}}, flinktest.Vertex{Name: "store", Parallelism: 2, From: []string{"count", "parse"}})),
		0, exitStale, "the job is not what it was"},
	{"its instances were placed anew", moved(func(b *bench) { b.cluster.Lose("tm-4"); b.settled() }), 0, exitStale, "instances were placed anew"},
	{"the worker that it leaves is gone", relocating(two, "", true, func(b *bench) { b.cluster.Lose("tm-2"); b.settled() }), 0, exitStale, "instances were placed anew"},
	{"its policy's file was edited", func(b *bench) []string {
		file := b.ruled(two, "")
		id, _ := b.approved()
		b.write(file, "name: shop\nextends: default\nlimits: {max_jobs_touched: 9}\n", 0o600)
		return []string{id}
	}, 0, exitStale, "policy shop changed since"},
	{"its policy's file is broken", func(b *bench) []string {
		file := b.ruled(two, "")
		id, _ := b.approved()
		b.write(file, "name: shop\nextends: nothing\n", 0o600)
		b.configured("  []\n")
		return []string{id}
	}, 0, exitStale, "policy shop changed since"},
	{"its policy's file is gone", func(b *bench) []string {
		file := b.ruled(two, "")
		id, _ := b.approved()
		if err := os.Remove(file); err != nil {
			b.t.Fatal(err)
		}
		b.configured("  []\n")
		return []string{id}
	}, 0, exitStale, "policy shop changed since"},
	{"dhalion.yaml names another policy for the job", func(b *bench) []string {
		b.ruled("limits: {max_instances_touched: 1.0}\n", "")
		id, _ := b.approved()
		b.write(filepath.Join(b.dir, "strict.yaml"), "name: strict\nextends: default\nlimits: {max_instances_touched: 0.1}\n", 0o600)
		b.configured(strings.Replace(oneJob, "    mode: propose\n", "    policy: strict.yaml\n    mode: propose\n", 1))
		return []string{id}
	}, 0, exitStale, "policy strict holds for the job now, and it was made by policy shop"},
	{"another parameter", func(b *bench) []string {
		id, _ := b.approved()
		return []string{id, "--param", "target_utilisation=0.5"}
	}, 0, exitStale, "policy default changed since"},
	{"another policy", func(b *bench) []string {
		id, _ := b.approved()
		return []string{id, "--policy", "paper"}
	}, 0, exitStale, "policy paper holds for the job now, and it was made by policy default"},
	{"another model", func(b *bench) []string {
		p := b.draft(one6)
		p.Basis.Model = strings.Repeat("a", 64)
		id, _ := b.approvedPlan(p)
		return []string{id}
	}, 0, exitStale, "the model changed since"},
	{"it looks at what was 16 minutes ago", func(b *bench) []string {
		p := b.draft(one6)
		p.AsOf = p.AsOf.Add(-16 * time.Minute)
		id, _ := b.approvedPlan(p)
		return []string{id}
	}, 0, exitStale, "on a live engine at most"},
	{"it was marked as stale", moved(func(b *bench) {
		b.store(func(ctx context.Context, st *store.Store) error {
			_, err := st.Transition(ctx, b.db.text(`SELECT id FROM plans`)[0], []dhalion.PlanState{dhalion.PlanApproved}, dhalion.PlanStale, "by hand", "", time.Now())
			return err
		})
	}), 0, exitStale, "it was marked as stale"},
	{"a job on the worker that it does not list", relocating(two, "", false, nil), 0, exitStale, "prod/besides has instances on worker tm-2, too"},

	{"a neighbour has more instances there than it says", relocating(two, "", true, func(b *bench) {
		b.cluster.Rescale(b.cluster.Live("besides").Run, "lines", 8)
		b.rests("besides")
	}), 0, exitStale, "prod/besides has 2 of 8 instances on worker tm-2, and the plan speaks of 1 of 4"},

	// Not approved.
	{"nobody approved it", func(b *bench) []string {
		id, _ := b.propose(b.draft(one6), "ann")
		return []string{id}
	}, 0, exitNotApproved, "nobody has approved it"},
	{"its author tried to approve it under four eyes", func(b *bench) []string {
		b.ruled("approve: {four_eyes: true}\n", "")
		id, _ := b.propose(b.draft(one6), "ann")
		if said, code := b.try(time.Now, "approve", id, "--as", "ann"); code != exitNotApproved {
			b.t.Fatalf("approve ended with %d: %s", code, said)
		}
		return []string{id}
	}, 0, exitNotApproved, "nobody has approved it"},
	{"its author approved it under four eyes", wronglyApproved("ann"), 0, exitNotApproved, "only its author, ann, has approved it"},
	{"its author approved it in capitals", wronglyApproved("ANN"), 0, exitNotApproved, "only its author, ann, has approved it"},
	{"its author approved it with spaces", wronglyApproved("  Ann "), 0, exitNotApproved, "only its author, ann, has approved it"},
	{"an approval of an earlier round", func(b *bench) []string {
		p := b.draft(one6)
		id, _ := b.approvedPlan(p)
		b.store(func(ctx context.Context, st *store.Store) error {
			_, err := st.Transition(ctx, id, []dhalion.PlanState{dhalion.PlanApproved}, dhalion.PlanStale, "by hand", "", time.Now())
			return err
		})
		b.propose(p, "ann") // planned again
		return []string{id}
	}, 0, exitNotApproved, "nobody has approved it"},
	{"written anew with another value", func(b *bench) []string {
		b.approved()
		p := b.draft(func(t dhalion.Topology) []dhalion.Action { return []dhalion.Action{rescale(t, "count", 7)} })
		return []string{b.document(p)}
	}, 0, exitNotApproved, "this store has never seen it"},
	{"a file of another database", func(b *bench) []string {
		other := *b
		other.db = newDatabase(b.t)
		other.ingest()
		_, file := other.approved()
		return []string{file}
	}, 0, exitNotApproved, "this store has never seen it"},
	{"discarded", func(b *bench) []string {
		id, _ := b.propose(b.draft(one6), "ann")
		b.run("discard", id)
		return []string{id}
	}, 0, exitNotApproved, "it is discarded"},
	{"being applied", ends(dhalion.PlanApplying), 0, exitHeld, "it is being applied already"},
	{"applied", ends(dhalion.PlanApplied), 0, exitNotApproved, "it is applied"},
	{"met", ends(dhalion.PlanMet), 0, exitNotApproved, "it is met"},
	{"unmet", ends(dhalion.PlanUnmet), 0, exitNotApproved, "it is unmet"},
	{"failed", ends(dhalion.PlanFailed), 0, exitNotApproved, "it is failed"},
	{"aborted", ends(dhalion.PlanAborted), 0, exitNotApproved, "it is aborted"},
	{"unclear", ends(dhalion.PlanUnclear), 0, exitNotApproved, "it is unclear, and a person decides"},

	// Not allowed now.
	{"a job that is only looked at", moved(func(b *bench) {
		b.configured(strings.Replace(oneJob, "mode: propose", "mode: observe", 1))
	}), 0, exitNotApproved, "prod/orders may only be looked at: mode observe"},
	{"a neighbour that is only looked at", relocating(two, "  - {match: prod/besides, mode: observe}\n", true, nil), 0, exitNotApproved, "prod/besides may only be looked at: mode observe"},
	{"quiet hours", func(b *bench) []string {
		b.ruled(fmt.Sprintf("limits: {quiet_hours: %q}\n", hoursNow()), "")
		id, _ := b.approved()
		return []string{id}
	}, 0, exitNotApproved, "within the quiet hours of prod/orders"},
	{"quiet hours of a neighbour", func(b *bench) []string {
		b.write(filepath.Join(b.dir, "besides.policy.yaml"), fmt.Sprintf("name: besides\nextends: default\nlimits: {quiet_hours: %q}\n", hoursNow()), 0o600)
		return relocating(two, "  - {match: prod/besides, policy: besides.policy.yaml, mode: propose}\n", true, nil)(b)
	}, 0, exitNotApproved, "within the quiet hours of prod/besides"},
	{"a neighbour of which the engine answers nothing", relocating(two, "", false, func(b *bench) {
		run := b.cluster.Live("besides").Run
		b.cluster.SetFault(func(method, path string) (f flinktest.Fault) {
			if strings.HasPrefix(path, "/jobs/"+run) {
				f.Status = 500
			}
			return f
		})
	}), 0, exitNotApproved, "whether prod/besides has instances on worker tm-2 is not known"},
	{"a neighbour of which one vertex is not answered", relocating(two, "", true, func(b *bench) {
		run := b.cluster.Live("besides").Run
		b.cluster.SetFault(func(method, path string) (f flinktest.Fault) {
			if strings.HasPrefix(path, "/jobs/"+run+"/vertices/") {
				f.Status = 500
			}
			return f
		})
	}), 0, exitNotApproved, "whether prod/besides has instances on worker tm-2 is not known"},
	{"a neighbour that restarts", relocating(two, "", false, func(b *bench) {
		b.cluster.SetState(b.cluster.Live("besides").Run, "RESTARTING")
	}), 0, exitNotApproved, "whether prod/besides has instances on worker tm-2 is not known"},
	{"too many jobs", relocating("limits: {max_jobs_touched: 1}\n", "", true, nil), 0, exitNotApproved, "it touches 2 jobs, and policy shop allows 1"},
	{"too many instances", func(b *bench) []string {
		b.ruled("limits: {max_instances_touched: 0.5}\n", "")
		id, _ := b.approved()
		return []string{id}
	}, 0, exitNotApproved, "it touches 100 % of the instances, and policy shop allows 50 %"},

	// Held.
	{"held by another plan", moved(holding(orders)), 0, exitHeld, "holds prod/orders"},
	{"a neighbour that another plan holds", relocating(two, "", true, holding(besides)), 0, exitHeld, "holds prod/besides"},

	// Cannot be asked or found.
	{"the job does not run", moved(func(b *bench) { b.cluster.SetState(b.cluster.Live("orders").Run, "CANCELED") }), 0, exitFailure, "does not run on engine prod"},
	{"the engine cannot be reached", moved(func(b *bench) {
		text, err := os.ReadFile(b.config)
		if err != nil {
			b.t.Fatal(err)
		}
		b.write(b.config, strings.Replace(string(text), b.url, "http://127.0.0.1:1", 1), 0o600)
	}), 0, exitFailure, "engine prod"},
	{"the engine answers with errors", moved(func(b *bench) {
		b.cluster.SetFault(func(string, string) flinktest.Fault { return flinktest.Fault{Status: 500} })
	}), 0, exitFailure, "500"},
	{"an unknown plan", func(*bench) []string { return []string{"0123456789ab"} }, 0, exitFailure, "0123456789ab"},
	{"a file that is not there", func(b *bench) []string { return []string{filepath.Join(b.dir, "none.json")} }, 0, exitFailure, "there is no such file"},
	{"taken up although nobody approved it", func(b *bench) []string {
		id, _ := b.propose(b.draft(one6), "ann")
		return []string{id, "--resume"}
	}, 0, exitFailure, "was not interrupted"},
	{"known only from files", moved(func(b *bench) {
		text, err := os.ReadFile(b.config)
		if err != nil {
			b.t.Fatal(err)
		}
		b.write(b.config, strings.Replace(string(text), "  prod:", "  other:", 1), 0o600)
	}), 0, exitDone, "there is nothing to act on"},
}

// borrows is the file of an approved plan with a key's value taken from another's.
func (b *bench) borrows(other, key string) string {
	b.t.Helper()
	_, file := b.approved()
	value := func(path string) (text, value string) {
		data, err := os.ReadFile(path)
		if err != nil {
			b.t.Fatal(err)
		}
		_, rest, ok := strings.Cut(string(data), key)
		value, _, closed := strings.Cut(rest, `"`)
		if !ok || !closed {
			b.t.Fatalf("there is no %s in %s", key, data)
		}
		return string(data), value
	}
	text, own := value(file)
	_, theirs := value(other)
	b.write(file, strings.Replace(text, key+own, key+theirs, 1), 0o600)
	return file
}

// document writes a plan to a file without storing it.
func (b *bench) document(p dhalion.Plan) string {
	b.t.Helper()
	doc, id, _, err := planfile.Encode(p)
	if err != nil {
		b.t.Fatal(err)
	}
	file := filepath.Join(b.dir, id+".json")
	b.write(file, string(doc), 0o600)
	return file
}

func TestNoPlanIsAppliedThatIsStaleEditedExpiredOrNotRightlyApproved(t *testing.T) {
	t.Parallel()
	rows := newTogether(t)
	for _, r := range refusals {
		rows.run(r.name, func(t *testing.T) {
			b := newBench(t, newDatabase(t))
			args := append([]string{"apply"}, r.make(b)...)
			effects, requests := len(b.cluster.Effects()), len(b.cluster.Requests())
			states := b.db.text(`SELECT id || ' ' || state FROM plans ORDER BY id`)
			now := func() time.Time { return time.Now().Add(r.in) }
			said, code := b.try(now, append(args, "--no-wait")...)
			if code != r.code || !strings.Contains(said, r.says) {
				t.Errorf("%s ended with %d, want %d and %q:\n%s", strings.Join(args, " "), code, r.code, r.says, said)
			}
			if n := len(b.cluster.Effects()); n != effects {
				t.Errorf("%d effects: %+v", n-effects, b.cluster.Effects()[effects:])
			}
			if n := len(b.cluster.Requests()); n != requests {
				t.Errorf("it sent %+v", b.cluster.Requests()[requests:])
			}
			if ran := b.hooksRun(); len(ran) > 0 {
				t.Errorf("the hook ran for %v", ran)
			}
			if n := b.db.text(`SELECT count(*)::text FROM journal`)[0]; n != "0" {
				t.Errorf("%s intents were written", n)
			}
			for _, state := range b.db.text(`SELECT id || ' ' || state FROM plans ORDER BY id`) {
				if strings.HasSuffix(state, "applying") && !strings.Contains(strings.Join(states, "\n"), state) {
					t.Errorf("a plan was begun: %s", state)
				}
			}
		})
	}
	rows.all.Wait()
}

func TestAPlanWhosePolicyWasNamedOnTheCommandLineKeepsIt(t *testing.T) {
	t.Parallel()
	b := newBench(t, newDatabase(t))
	file := filepath.Join(b.dir, "mine.yaml")
	b.write(file, "name: mine\nextends: default\nlimits: {max_instances_touched: 1.0}\n", 0o600)
	f := judgeFlags{policy: file, changed: func(flag string) bool { return flag == "policy" }}
	if err := f.check(); err != nil {
		t.Fatal(err)
	}
	p := b.draft(one6)
	p.Policy, p.Basis.Policy = f.loaded.Name, f.loaded.Digest
	var id string
	b.store(func(ctx context.Context, st *store.Store) error {
		a, _, _ := b.app(time.Now)
		d, err := a.propose(ctx, st, p, f, "ann")
		if err == nil {
			id = d.id
		}
		return err
	})
	b.run("approve", id, "--as", "bob")
	b.run("apply", id, "--no-wait")
	if b.count() != 6 {
		t.Errorf("count has %d instances", b.count())
	}
}
