package hook

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/apply"
)

const job = dhalion.JobID("prod/wordcount")

func relocate(worker string) apply.Call {
	return apply.Call{ID: "abc-0", Plan: "abc", Job: job, Actions: []dhalion.Action{
		{Kind: dhalion.Relocate, Target: dhalion.WorkerTarget(job, worker), From: dhalion.TextSetting(worker)}}}
}

func act(t *testing.T, h *Actuator, c apply.Call) apply.Result {
	t.Helper()
	intent, err := h.Prepare(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	return h.Act(context.Background(), c, intent)
}

func TestPlaceholdersAreFilledInAsOneArgumentEach(t *testing.T) {
	h := &Actuator{Name: "move", Argv: []string{"echo", "{worker}", "{{x}}", "--job={job}"}}
	intent, err := h.Prepare(context.Background(), relocate("tm 2; rm -rf /"))
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(intent.Argv, "|"); got != "echo|tm 2; rm -rf /|{x}|--job=prod/wordcount" {
		t.Errorf("argv %s", got)
	}
	if got := act(t, h, relocate("$(id)")).Detail; got != "$(id) {x} --job=prod/wordcount" {
		t.Errorf("a shell has seen it: %s", got)
	}
}

func TestAPlaceholderThatCannotBeFilledInIsRefused(t *testing.T) {
	for arg, want := range map[string]string{"{instance}": "no instance", "{to}": "no to", "{what}": "no what", "{worker": "closing brace"} {
		_, err := (&Actuator{Name: "move", Argv: []string{"echo", arg}}).Prepare(context.Background(), relocate("tm-1"))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", arg, err)
		}
	}
	for _, worker := range []string{"-rf", "a\nb", ""} {
		c := relocate(worker)
		if _, err := (&Actuator{Name: "move", Argv: []string{"echo", "{worker}"}}).Prepare(context.Background(), c); err == nil {
			t.Errorf("worker %q was taken", worker)
		}
	}
	if _, err := (&Actuator{Name: "move", Argv: []string{"no-such-program-here"}}).Prepare(context.Background(), relocate("tm-1")); err == nil {
		t.Error("a program that is not there was taken")
	}
}

func TestACommandHasTheActionsIDAndNoneOfOurSecrets(t *testing.T) {
	t.Setenv("DATABASE_URL", "postgres://secret")
	r := act(t, &Actuator{Name: "env", Argv: []string{"env"}}, relocate("tm-1"))
	if r.Outcome != apply.Done || !strings.Contains(r.Detail, "DHALION_ACTION_ID=abc-0") || !strings.Contains(r.Detail, "DHALION_PLAN=abc") {
		t.Errorf("%+v", r)
	}
	if strings.Contains(r.Detail, "secret") {
		t.Errorf("the command sees our environment: %s", r.Detail)
	}
}

func TestWhatACommandsEndMeans(t *testing.T) {
	for name, c := range map[string]struct {
		argv    []string
		outcome string
		says    string
	}{
		"well":                                   {[]string{"true"}, apply.Done, ""},
		"badly":                                  {[]string{"sh", "-c", "echo no such machine >&2; exit 3"}, apply.Refused, "ended with 3: no such machine"},
		"well, with a child that has its output": {[]string{"sh", "-c", "sleep 30 & echo $!"}, apply.Done, ""},
		"killed":                                 {[]string{"sh", "-c", "kill -9 $$"}, apply.Unsure, "killed"},
	} {
		r := act(t, &Actuator{Name: "move", Argv: c.argv, Timeout: time.Minute}, relocate("tm-1"))
		if r.Outcome != c.outcome || !strings.Contains(r.Detail, c.says) {
			t.Errorf("%s: %+v", name, r)
		}
		if child, err := strconv.Atoi(r.Detail); err == nil {
			_ = syscall.Kill(child, syscall.SIGKILL)
		}
	}
}

func TestACommandWithoutEndIsKilledWithItsChildrenAndItsFateIsUnknown(t *testing.T) {
	mark := filepath.Join(t.TempDir(), "mark")
	// The child would write the mark, had it outlived the command.
	h := &Actuator{Name: "move", Argv: []string{"sh", "-c", "(sleep 1; echo late >" + mark + ") & wait"}, Timeout: 200 * time.Millisecond}
	began := time.Now()
	r := act(t, h, relocate("tm-1"))
	if r.Outcome != apply.Unsure || !strings.Contains(r.Detail, "not known") {
		t.Errorf("%+v", r)
	}
	// Two seconds after the child's time is over it has either written or is dead.
	for time.Since(began) < 3*time.Second {
		if _, err := os.Stat(mark); err == nil {
			t.Fatal("a child outlived its command")
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func TestACommandHasTheTimeThatTheConfigurationGivesItAndEndsWithItsLease(t *testing.T) {
	if got := (&Actuator{Timeout: time.Hour}).Within(relocate("tm-1")); got < time.Hour || got > time.Hour+time.Minute {
		t.Errorf("an hour is %s", got)
	}
	h := &Actuator{Name: "drain", Argv: []string{"sleep", "60"}, Timeout: time.Hour}
	c := relocate("tm-1")
	i, err := h.Prepare(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, lose := context.WithCancelCause(context.Background())
	c.Guard = func(_ context.Context, send func() apply.Result) apply.Result {
		lose(&apply.LostError{Plan: "abc", Job: job})
		return send()
	}
	if r := h.Act(ctx, c, i); r.Outcome != apply.Unsure || !strings.Contains(r.Detail, "lost its lease of prod/wordcount") {
		t.Errorf("%+v", r)
	}
	c.Guard = func(context.Context, func() apply.Result) apply.Result { return apply.Result{Outcome: apply.Unsure} }
	h.Argv = []string{"touch", filepath.Join(t.TempDir(), "mark")}
	if i, err = h.Prepare(context.Background(), c); err != nil {
		t.Fatal(err)
	}
	h.Act(context.Background(), c, i)
	if _, err := os.Stat(i.Argv[1]); err == nil {
		t.Error("it was run without a lease")
	}
}

func TestALotOfOutputIsCut(t *testing.T) {
	r := act(t, &Actuator{Name: "move", Argv: []string{"sh", "-c", "yes x | head -c 1000000"}, Timeout: time.Minute}, relocate("tm-1"))
	if r.Outcome != apply.Done || len(r.Detail) == 0 || len(r.Detail) > maxOutput {
		t.Errorf("%s, %d bytes", r.Outcome, len(r.Detail))
	}
}
