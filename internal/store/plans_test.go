package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/dhalion-go/dhalion"
)

var allStates = []dhalion.PlanState{
	dhalion.PlanProposed, dhalion.PlanApproved, dhalion.PlanApplying, dhalion.PlanApplied, dhalion.PlanMet, dhalion.PlanUnmet,
	dhalion.PlanUnclear, dhalion.PlanDiscarded, dhalion.PlanExpired, dhalion.PlanStale, dhalion.PlanFailed, dhalion.PlanAborted,
}

// withJob is a store that knows the job.
func withJob(t testing.TB) (*Store, string) {
	t.Helper()
	s, url := openStore(t)
	mustIngest(t, s, "history", encode(t, table(wordcount, 1, noon, 1, constant(1))))
	return s, url
}

// document is a plan whose digest is that of its body.
func document(body, author string) NewPlan {
	sum := sha256.Sum256([]byte(body))
	digest := hex.EncodeToString(sum[:])
	return NewPlan{ID: digest[:12], Digest: digest, Job: wordcount, AsOf: noon, ValidFor: time.Hour, Author: author, Body: []byte(body)}
}

func saved(t testing.TB, s *Store, body, author string) *PlanRow {
	t.Helper()
	row, proposed, err := s.SavePlan(ctx, document(body, author), noon)
	if err != nil || !proposed {
		t.Fatalf("save plan: proposed %v, %v", proposed, err)
	}
	return row
}

func approval(p *PlanRow, person string, at time.Time) dhalion.Approval {
	return dhalion.Approval{Plan: p.ID, Digest: p.Digest, Person: person, At: at}
}

// events are the events of a plan's log, with who made them.
func events(t testing.TB, s *Store, plan string) string {
	t.Helper()
	entries, err := s.Log(ctx, LogFilter{Plan: plan}, 0)
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, e := range entries {
		list = append(list, strings.TrimSuffix(e.Event+":"+e.Person, ":"))
	}
	return strings.Join(list, " ")
}

func TestPlanningTheSameAgainFindsTheSameRow(t *testing.T) {
	s, url := withJob(t)
	body := "{\n  \"job\": \"file/wordcount\",  \"ü\":1.50}\n"
	p := saved(t, s, body, "ann")
	if string(p.Body) != body || p.State != dhalion.PlanProposed || p.Round != 1 || !p.ProposedAt.Equal(noon) || !p.ExpiresAt.Equal(noon.Add(time.Hour)) || p.ValidFor != time.Hour || p.Author != "ann" || !p.AsOf.Equal(noon) {
		t.Errorf("row %+v", p)
	}
	later := noon.Add(30 * time.Minute)
	again, proposed, err := s.SavePlan(ctx, document(body, "bob"), later)
	if err != nil || proposed || again.Author != "ann" || !again.ExpiresAt.Equal(p.ExpiresAt) {
		t.Errorf("again %+v, proposed %v, %v", again, proposed, err)
	}
	for _, state := range []dhalion.PlanState{dhalion.PlanApproved, dhalion.PlanApplying, dhalion.PlanFailed} {
		force(t, s, p.ID, state)
		again, proposed, err = s.SavePlan(ctx, document(body, "bob"), noon.Add(100*time.Hour))
		if state == dhalion.PlanApproved {
			continue // it has expired and is proposed again: below
		}
		if err != nil || proposed || again.State != state {
			t.Errorf("%s: %+v, proposed %v, %v", state, again, proposed, err)
		}
	}
	discarded := saved(t, s, "no", "ann")
	if _, err := s.Discard(ctx, discarded.ID, "bob", "not now", noon); err != nil {
		t.Fatal(err)
	}
	again, proposed, err = s.SavePlan(ctx, document("no", "ann"), noon.Add(100*time.Hour))
	if err != nil || proposed || again.State != dhalion.PlanDiscarded {
		t.Errorf("a discarded plan was proposed again: %+v, %v", again, err)
	}
	if got := count(t, url, "plans"); got != "2" {
		t.Errorf("%s plans", got)
	}
}

func TestAnExpiredPlanIsProposedAgainWithoutItsOldApprovals(t *testing.T) {
	s, _ := withJob(t)
	p := saved(t, s, "a", "ann")
	if _, err := s.Approve(ctx, approval(p, "bob", noon), true); err != nil {
		t.Fatal(err)
	}
	at := p.ExpiresAt // expired from that very moment on
	row, proposed, err := s.SavePlan(ctx, document("a", "cid"), at)
	if err != nil || !proposed || row.State != dhalion.PlanProposed || row.Round != 2 || len(row.Approvals) != 0 || row.Author != "cid" || !row.ExpiresAt.Equal(at.Add(time.Hour)) {
		t.Fatalf("row %+v, proposed %v, %v", row, proposed, err)
	}
	_, err = s.Transition(ctx, p.ID, []dhalion.PlanState{dhalion.PlanApproved, dhalion.PlanProposed}, dhalion.PlanApplying, "", "", at)
	wantError[*TransitionError](t, err) // the old approval opens nothing
	row, err = s.Approve(ctx, approval(p, "bob", at), true)
	if err != nil || row.State != dhalion.PlanApproved || len(row.Approvals) != 1 || !row.Approvals[0].At.Equal(at) {
		t.Errorf("row %+v, %v", row, err)
	}
	if got, want := events(t, s, p.ID), "proposed:ann approved:bob expired proposed:cid approved:bob"; got != want {
		t.Errorf("log %q, want %q", got, want)
	}
	stale := saved(t, s, "b", "ann")
	if _, err := s.Transition(ctx, stale.ID, []dhalion.PlanState{dhalion.PlanProposed}, dhalion.PlanStale, "parallelism differs", "", noon); err != nil {
		t.Fatal(err)
	}
	if row, proposed, err = s.SavePlan(ctx, document("b", "ann"), noon.Add(time.Minute)); err != nil || !proposed || row.State != dhalion.PlanProposed {
		t.Errorf("row %+v, proposed %v, %v", row, proposed, err)
	}
}

func TestAnotherDocumentUnderTheSameIDIsRefused(t *testing.T) {
	s, _ := withJob(t)
	p := saved(t, s, "a", "ann")
	other := document("a", "ann")
	other.Digest = other.ID + strings.Repeat("0", 52)
	_, _, err := s.SavePlan(ctx, other, noon)
	if e := wantError[*DigestError](t, err); e.Stored != p.Digest || e.Given != other.Digest {
		t.Errorf("error %+v", e)
	}
	edited := document("a", "ann")
	edited.Body = []byte("b")
	if _, _, err := s.SavePlan(ctx, edited, noon); err == nil {
		t.Error("another body with the same digest was taken for the same plan")
	}
	wrong := document("a", "ann")
	wrong.ID = "000000000000"
	if _, _, err := s.SavePlan(ctx, wrong, noon); err == nil {
		t.Error("an id that does not begin the digest was stored")
	}
	unknown := document("c", "ann")
	unknown.Job = "file/nobody"
	_, _, err = s.SavePlan(ctx, unknown, noon)
	wantError[*NotFoundError](t, err)
}

func TestAPlanIsFoundByAUniquePrefix(t *testing.T) {
	s, url := withJob(t)
	p := saved(t, s, "a", "ann")
	for _, ref := range []string{p.ID, p.ID[:4], p.Digest} {
		if row, err := s.Plan(ctx, ref); err != nil || row.ID != p.ID {
			t.Errorf("%s: %+v, %v", ref, row, err)
		}
	}
	for _, ref := range []string{"", "%", "g", "ABC", "000000000000", p.Digest + "0", "\xff"} {
		_, err := s.Plan(ctx, ref)
		wantError[*NotFoundError](t, err)
	}
	digest := p.Digest[:6] + strings.Repeat("f", 58)
	exec(t, url, `INSERT INTO plans (id, digest, job, as_of, body, author, proposed_at, valid_for, expires_at, state_since)
		SELECT left($1, 12), $1, job, as_of, body, author, proposed_at, valid_for, expires_at, state_since FROM plans`, digest)
	_, err := s.Plan(ctx, p.ID[:6])
	if e := wantError[*AmbiguousError](t, err); len(e.Candidates) != 2 {
		t.Errorf("candidates %v", e.Candidates)
	}
}

func TestAnApprovalNamesTheDigestAndThePerson(t *testing.T) {
	s, _ := withJob(t)
	p := saved(t, s, "a", "Ann")
	edited := approval(p, "bob", noon)
	edited.Digest = strings.Repeat("0", 64)
	_, err := s.Approve(ctx, edited, true)
	wantError[*DigestError](t, err)
	for _, self := range []string{"Ann", "ann", " ANN "} {
		_, err = s.Approve(ctx, approval(p, self, noon), true)
		wantError[*SelfApprovalError](t, err)
	}
	if _, err = s.Approve(ctx, approval(p, "  ", noon), false); err == nil {
		t.Error("nobody approved the plan")
	}
	if row, err := s.Plan(ctx, p.ID); err != nil || row.State != dhalion.PlanProposed || len(row.Approvals) != 0 {
		t.Errorf("after refusals: %+v, %v", row, err)
	}
	for _, person := range []string{"bob", "bob", "cid"} {
		a := approval(p, person, noon.Add(time.Minute))
		a.Plan, a.Note = p.ID[:6], "looks right"
		row, err := s.Approve(ctx, a, true)
		if err != nil || row.State != dhalion.PlanApproved {
			t.Fatalf("%s: %+v, %v", person, row, err)
		}
	}
	row, err := s.Plan(ctx, p.ID)
	want := []dhalion.Approval{
		{Plan: p.ID, Digest: p.Digest, Person: "bob", At: noon.Add(time.Minute), Note: "looks right"},
		{Plan: p.ID, Digest: p.Digest, Person: "cid", At: noon.Add(time.Minute), Note: "looks right"},
	}
	if err != nil || !slices.Equal(row.Approvals, want) {
		t.Errorf("approvals %+v, want %+v, %v", row.Approvals, want, err)
	}
	own := saved(t, s, "b", "ann")
	if _, err := s.Approve(ctx, approval(own, "ann", noon), false); err != nil {
		t.Errorf("without four eyes the author may approve: %v", err)
	}
	gone := saved(t, s, "c", "ann")
	if _, err := s.Discard(ctx, gone.ID, "ann", "", noon); err != nil {
		t.Fatal(err)
	}
	_, err = s.Approve(ctx, approval(gone, "bob", noon), true)
	if e := wantError[*StateError](t, err); e.State != dhalion.PlanDiscarded {
		t.Errorf("error %+v", e)
	}
	if got, want := events(t, s, p.ID), "proposed:Ann approved:bob approved:cid"; got != want {
		t.Errorf("log %q, want %q", got, want)
	}
}

func TestAnExpiredPlanIsNeitherApprovedNorApplied(t *testing.T) {
	s, _ := withJob(t)
	p := saved(t, s, "a", "ann")
	just := p.ExpiresAt.Add(-time.Microsecond)
	if p.StateAt(just) != dhalion.PlanProposed || p.StateAt(p.ExpiresAt) != dhalion.PlanExpired {
		t.Errorf("state %s just before, %s at the expiry", p.StateAt(just), p.StateAt(p.ExpiresAt))
	}
	_, err := s.Approve(ctx, approval(p, "bob", p.ExpiresAt), true)
	wantError[*ExpiredError](t, err)
	row, err := s.Plan(ctx, p.ID)
	if err != nil || row.State != dhalion.PlanExpired {
		t.Errorf("the expiry was not noted: %+v, %v", row, err)
	}
	_, err = s.Approve(ctx, approval(p, "bob", noon), true) // nor by a clock that goes back
	wantError[*ExpiredError](t, err)

	p = saved(t, s, "b", "ann")
	if _, err := s.Approve(ctx, approval(p, "bob", just), true); err != nil {
		t.Fatal(err)
	}
	_, err = s.Transition(ctx, p.ID, []dhalion.PlanState{dhalion.PlanApproved}, dhalion.PlanApplying, "", "bob", p.ExpiresAt)
	wantError[*ExpiredError](t, err)
	if got, want := events(t, s, p.ID), "proposed:ann approved:bob expired"; got != want {
		t.Errorf("log %q, want %q", got, want)
	}

	p = saved(t, s, "c", "ann")
	if ids, err := s.ExpirePlans(ctx, just); err != nil || len(ids) != 0 {
		t.Errorf("expired %v, %v", ids, err)
	}
	if ids, err := s.ExpirePlans(ctx, p.ExpiresAt); err != nil || !slices.Equal(ids, []string{p.ID}) {
		t.Errorf("expired %v, %v", ids, err)
	}
}

// force puts a plan into a state past the state machine, as only a test may.
func force(t testing.TB, s *Store, id string, state dhalion.PlanState) {
	t.Helper()
	_, err := s.pool.Exec(ctx, fmt.Sprintf(`
		BEGIN;
		ALTER TABLE plans DISABLE TRIGGER plans_guard;
		INSERT INTO plan_transitions VALUES ('test', '%[2]s') ON CONFLICT DO NOTHING;
		INSERT INTO approvals (plan, round, person, digest, at) SELECT id, round, 'bob', digest, proposed_at FROM plans WHERE id = '%[1]s' ON CONFLICT DO NOTHING;
		UPDATE plans SET state = '%[2]s', previous_state = 'test', approved_by = 'bob' WHERE id = '%[1]s';
		SET CONSTRAINTS ALL IMMEDIATE;
		ALTER TABLE plans ENABLE TRIGGER plans_guard;
		COMMIT`, id, state), pgx.QueryExecModeSimpleProtocol)
	if err != nil {
		t.Fatal(err)
	}
}

func TestAPlanGoesOnlyTheWaysOfTheStateMachine(t *testing.T) {
	s, _ := withJob(t)
	p := saved(t, s, "a", "ann")
	ways := map[dhalion.PlanState]string{
		"proposed":  "approved discarded expired stale",
		"approved":  "applying discarded expired stale",
		"applying":  "applied failed aborted unclear",
		"applied":   "met unmet unclear",
		"unclear":   "applying applied met unmet failed aborted",
		"expired":   "proposed",
		"stale":     "proposed",
		"met":       "",
		"unmet":     "",
		"discarded": "",
		"failed":    "",
		"aborted":   "",
	}
	for _, from := range allStates {
		for _, to := range append(slices.Clone(allStates), "merged") {
			if from == to {
				continue
			}
			allowed := slices.Contains(strings.Fields(ways[from]), string(to))
			force(t, s, p.ID, from)
			if _, err := s.pool.Exec(ctx, "UPDATE plans SET state = $2 WHERE id = $1", p.ID, to); (err == nil) != allowed {
				t.Errorf("SQL: %s to %s: allowed %v, %v", from, to, allowed, err)
			}
			force(t, s, p.ID, from)
			row, err := s.Transition(ctx, p.ID, []dhalion.PlanState{from}, to, "why", "ann", noon)
			if to == dhalion.PlanApproved || to == dhalion.PlanProposed {
				allowed = false // these have methods of their own
			}
			if allowed && (err != nil || row.State != to || row.Reason != "why") {
				t.Errorf("%s to %s: %+v, %v", from, to, row, err)
			}
			switch {
			case allowed:
			case from == dhalion.PlanExpired && to == dhalion.PlanApplying:
				wantError[*ExpiredError](t, err)
			default:
				wantError[*TransitionError](t, err)
			}
		}
	}
}

func TestAStateThatNeedsAnApprovalCannotBeHadWithoutOne(t *testing.T) {
	s, url := withJob(t)
	p := saved(t, s, "a", "ann")
	for _, sql := range []string{
		"UPDATE plans SET state = 'approved'",
		"UPDATE plans SET state = 'approved', approved_by = 'ghost'",
		"UPDATE plans SET body = 'b'",
		"UPDATE plans SET digest = repeat('0', 64)",
		"UPDATE plans SET reverses = id",
		"UPDATE plans SET expires_at = expires_at + interval '1 hour'",
		"INSERT INTO approvals (plan, round, person, digest, at) SELECT id, 1, 'bob', repeat('0', 64), now() FROM plans",
		`INSERT INTO plans (id, digest, job, as_of, body, author, proposed_at, valid_for, expires_at, state_since, state)
		 SELECT repeat('0', 12), repeat('0', 64), job, as_of, body, author, proposed_at, valid_for, expires_at, state_since, 'discarded' FROM plans`,
		"DELETE FROM log", "UPDATE log SET event = 'x'", "TRUNCATE log",
	} {
		if err := tryExec(url, sql); err == nil {
			t.Errorf("%s: was let through", sql)
		}
	}
	// An approval of the first round does not open the second.
	if _, err := s.Approve(ctx, approval(p, "bob", noon), true); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.SavePlan(ctx, document("a", "ann"), p.ExpiresAt); err != nil {
		t.Fatal(err)
	}
	if err := tryExec(url, "UPDATE plans SET state = 'approved', approved_by = 'bob'"); err == nil {
		t.Error("an old approval was let through")
	}
}

func TestOfManyThatMoveAPlanOneWins(t *testing.T) {
	s, _ := withJob(t)
	p := saved(t, s, "a", "ann")
	if _, err := s.Approve(ctx, approval(p, "bob", noon), true); err != nil {
		t.Fatal(err)
	}
	var won atomic.Int64
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			_, err := s.Transition(context.Background(), p.ID, []dhalion.PlanState{dhalion.PlanApproved}, dhalion.PlanApplying, "", "bob", noon)
			if err == nil {
				won.Add(1)
			} else {
				wantError[*StateError](t, err)
			}
		})
	}
	all.Wait()
	if won.Load() != 1 {
		t.Errorf("%d won", won.Load())
	}
}

func TestAPlanProposedByManyAtOnceIsOneRow(t *testing.T) {
	s, url := withJob(t)
	var first atomic.Int64
	var all sync.WaitGroup
	for range 10 {
		all.Go(func() {
			_, proposed, err := s.SavePlan(ctx, document("a", "ann"), noon)
			if err != nil {
				t.Error(err)
			}
			if proposed {
				first.Add(1)
			}
		})
	}
	all.Wait()
	if first.Load() != 1 || count(t, url, "plans") != "1" || count(t, url, "log") != "1" {
		t.Errorf("proposed %d times, %s rows, %s log entries", first.Load(), count(t, url, "plans"), count(t, url, "log"))
	}
}

func TestPlansAreListedByJobAndState(t *testing.T) {
	s, _ := withJob(t)
	saved(t, s, "a", "ann")
	b, _, err := s.SavePlan(ctx, document("b", "ann"), noon.Add(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Approve(ctx, approval(b, "bob", noon.Add(time.Minute)), true); err != nil {
		t.Fatal(err)
	}
	list := func(f PlanFilter, limit int) string {
		t.Helper()
		plans, err := s.Plans(ctx, f, limit)
		if err != nil {
			t.Fatal(err)
		}
		var bodies []string
		for _, p := range plans {
			bodies = append(bodies, fmt.Sprintf("%s/%d", p.Body, len(p.Approvals)))
		}
		return strings.Join(bodies, " ")
	}
	for _, c := range []struct {
		f     PlanFilter
		limit int
		want  string
	}{
		{PlanFilter{}, 0, "b/1 a/0"},
		{PlanFilter{}, 1, "b/1"},
		{PlanFilter{Job: wordcount, States: []dhalion.PlanState{"proposed"}}, 0, "a/0"},
		{PlanFilter{States: []dhalion.PlanState{"approved", "proposed"}}, 5, "b/1 a/0"},
		{PlanFilter{Job: "file/other"}, 0, ""},
	} {
		if got := list(c.f, c.limit); got != c.want {
			t.Errorf("%+v: %q, want %q", c.f, got, c.want)
		}
	}
}

func TestTheLogGivesTheNewestInOrder(t *testing.T) {
	s, _ := withJob(t)
	for i := range 5 {
		if err := s.AppendLog(ctx, LogEntry{At: noon.Add(time.Duration(i) * time.Second), Job: wordcount, Event: fmt.Sprint("e", i%2), Detail: reason(fmt.Sprint(i))}); err != nil {
			t.Fatal(err)
		}
	}
	entries, err := s.Log(ctx, LogFilter{Job: wordcount, Event: "e0"}, 2)
	if err != nil || len(entries) != 2 || string(entries[0].Detail) != `{"reason": "2"}` || !entries[1].At.Equal(noon.Add(4*time.Second)) {
		t.Errorf("entries %+v, %v", entries, err)
	}
}

func TestTheSameEvaluationIsOneRow(t *testing.T) {
	s, url := withJob(t)
	e := Evaluation{Job: wordcount, AsOf: noon, Window: time.Minute, History: "h", Policy: "p", Program: "1", Findings: dhalion.Findings{
		Diagnoses: []dhalion.Diagnosis{{Target: dhalion.JobTarget(wordcount), Cause: dhalion.Failing, Probability: .5}},
	}}
	a, err := s.SaveFindings(ctx, e)
	if err != nil {
		t.Fatal(err)
	}
	b, err := s.SaveFindings(ctx, e)
	if err != nil || a != b {
		t.Errorf("rows %d and %d, %v", a, b, err)
	}
	e.Policy = "q"
	if c, err := s.SaveFindings(ctx, e); err != nil || c == a {
		t.Errorf("another policy gave row %d, %v", c, err)
	}
	if got := count(t, url, "findings"); got != "2" {
		t.Errorf("%s rows", got)
	}
	e.Job = "file/nobody"
	_, err = s.SaveFindings(ctx, e)
	wantError[*NotFoundError](t, err)
}

func TestOutcomesAndLeasesAreRead(t *testing.T) {
	s, url := withJob(t)
	p := saved(t, s, "a", "ann")
	rollback := document("b", "ann")
	rollback.Reverses = p.ID
	if _, _, err := s.SavePlan(ctx, rollback, noon); err != nil {
		t.Fatal(err)
	}
	insert := `INSERT INTO outcomes (plan, action, job, kind, target, cause, applied, judged, at, judged_at)
		VALUES ($1, $2, 'file/wordcount', 'set_parallelism', '{"kind":"component","job":"file/wordcount","component":"counter"}', 'underprovisioned', 'applied', $3, $4, CASE WHEN $3::text IS NOT NULL THEN now() END)`
	for i, judged := range []any{nil, "met", "unmet", "unclear", "met"} {
		exec(t, url, insert, p.ID, i, judged, noon.Add(time.Duration(i)*time.Minute))
	}
	exec(t, url, insert, rollback.ID, 0, "met", noon)
	for _, c := range []struct {
		job         dhalion.JobID
		after, upTo time.Time
		want        string
	}{
		{"", time.Time{}, noon.Add(time.Hour), "[1 met][2 unmet][4 met]"},
		{wordcount, noon.Add(time.Minute), noon.Add(4 * time.Minute), "[2 unmet][4 met]"},
		{"file/other", time.Time{}, noon.Add(time.Hour), ""},
		{"", time.Time{}, noon.Add(time.Minute), "[1 met]"},
	} {
		got := ""
		list, err := s.Judged(ctx, c.job, c.after, c.upTo)
		for _, o := range list {
			got += fmt.Sprintf("[%d %s]", o.Action, o.Judged)
		}
		if err != nil || got != c.want {
			t.Errorf("of %q after %s: %s, %v; want %s", c.job, c.after, got, err, c.want)
		}
	}
	if _, ok, err := s.Holder(ctx, wordcount, noon); err != nil || ok {
		t.Errorf("held %v, %v", ok, err)
	}
	exec(t, url, `INSERT INTO leases (job, plan, holder, epoch, until) VALUES ($1, $2, 'host:1', 7, $3)`, string(wordcount), p.ID, noon)
	l, ok, err := s.Holder(ctx, wordcount, noon.Add(-time.Second))
	if err != nil || !ok || l != (Lease{Job: wordcount, Plan: p.ID, Holder: "host:1", Epoch: 7, Until: noon}) {
		t.Errorf("lease %+v, held %v, %v", l, ok, err)
	}
	if _, ok, err := s.Holder(ctx, wordcount, noon); err != nil || ok {
		t.Errorf("held after its end: %v, %v", ok, err)
	}
}
