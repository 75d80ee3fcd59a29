// Package hook carries out actions by commands that the configuration declares:
// what no engine's interface can do, such as emptying a machine.
package hook

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/apply"
)

// maxOutput bounds what is kept of a command's output, in bytes.
const maxOutput = 16 << 10

// grace is how long a command that was told to end may take.
const grace = 2 * time.Second

// Actuator runs one command. It is opaque: whether a command that was cut off did
// its work, nobody can say, so it is never repeated.
type Actuator struct {
	Name    string
	Argv    []string // with {worker}, {job}, {component}, {instance}, {argument}, {to}, {message} and {plan} to be filled in
	Timeout time.Duration
	// Settled says whether the engine shows what the command should bring about;
	// nil: its exit code is all that is known.
	Settled func(ctx context.Context, c apply.Call) (apply.Standing, string)
}

var (
	_ apply.Actuator = (*Actuator)(nil)
	_ apply.Classed  = (*Actuator)(nil)
	_ apply.Timed    = (*Actuator)(nil)
)

// Prepare fills in the arguments. A placeholder for which the action has nothing
// is an error: a command without its target could do anything.
func (h *Actuator) Prepare(_ context.Context, c apply.Call) (apply.Intent, error) {
	if len(h.Argv) == 0 {
		return apply.Intent{}, fmt.Errorf("hook: %s has no command", h.Name)
	}
	a := c.Actions[0]
	values := map[string]string{"plan": c.Plan, "job": string(c.Job), "argument": a.Argument, "component": a.Target.Component, "worker": a.Target.Worker, "message": a.Message}
	if a.Target.Kind == dhalion.KindInstance {
		values["instance"] = fmt.Sprint(a.Target.Instance)
	}
	if values["worker"] == "" && a.Kind == dhalion.Relocate {
		values["worker"] = a.From.String()
	}
	if !a.To.IsZero() {
		values["to"] = a.To.String()
	}
	argv := make([]string, len(h.Argv))
	for i, arg := range h.Argv {
		filled, err := fill(arg, values)
		if err != nil {
			return apply.Intent{}, fmt.Errorf("hook: %s: argument %d: %w", h.Name, i, err)
		}
		argv[i] = filled
	}
	if _, err := exec.LookPath(argv[0]); err != nil {
		return apply.Intent{}, fmt.Errorf("hook: %s: %w", h.Name, err)
	}
	return apply.Intent{ID: c.ID, Argv: argv}, nil
}

// fill replaces {name} by its value; {{ and }} stand for braces.
func fill(text string, values map[string]string) (string, error) {
	var out strings.Builder
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case (c == '{' || c == '}') && strings.HasPrefix(text[i+1:], string(c)):
			out.WriteByte(c)
			i++
		case c == '{':
			end := strings.IndexByte(text[i:], '}')
			if end < 0 {
				return "", fmt.Errorf("%q has no closing brace", text)
			}
			name := text[i+1 : i+end]
			value := values[name]
			switch {
			case value == "" || value == "-":
				return "", fmt.Errorf("the action has no %s", name)
			case strings.HasPrefix(value, "-"):
				// It would be read as an option.
				return "", fmt.Errorf("%s is %q, and begins with a dash", name, value)
			case strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r == 0x7f }):
				return "", fmt.Errorf("%s is %q, and has control characters", name, value)
			}
			out.WriteString(value)
			i += end
		default:
			out.WriteByte(c)
		}
	}
	return out.String(), nil
}

// Within is how long Act may take: the command's own time and what its end takes.
func (h *Actuator) Within(apply.Call) time.Duration {
	if h.Timeout <= 0 {
		return 0
	}
	return h.Timeout + 2*grace
}

// Act runs the command: no shell, no input, an environment of its own, killed with
// all its children when its time is over or the lease is lost.
func (h *Actuator) Act(ctx context.Context, c apply.Call, i apply.Intent) apply.Result {
	return c.Change(ctx, func() apply.Result { return h.run(ctx, c, i) })
}

func (h *Actuator) run(ctx context.Context, c apply.Call, i apply.Intent) apply.Result {
	if h.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, h.Timeout, fmt.Errorf("its %s were over", h.Timeout))
		defer cancel()
	}
	cmd := exec.CommandContext(ctx, i.Argv[0], i.Argv[1:]...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"), "LANG=C.UTF-8",
		"DHALION_ACTION_ID=" + i.ID, "DHALION_PLAN=" + c.Plan, "DHALION_JOB=" + string(c.Job)}
	var out capped
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = grace
	err := cmd.Run()
	var exit *exec.ExitError
	said := out.String()
	switch {
	case err == nil, errors.Is(err, exec.ErrWaitDelay):
		// With ErrWaitDelay it ended well, and a child that it left behind has its output
		// open still.
		return apply.Result{Outcome: apply.Done, Detail: said}
	case ctx.Err() != nil:
		return apply.Result{Outcome: apply.Unsure, Detail: fmt.Sprintf("hook %s was ended, for %v; whether it did its work is not known%s", h.Name, context.Cause(ctx), quoted(said))}
	case errors.As(err, &exit) && exit.Exited():
		// A command that says that it failed is believed; a person looks at it.
		return apply.Result{Outcome: apply.Refused, Detail: fmt.Sprintf("hook %s ended with %d%s", h.Name, exit.ExitCode(), quoted(said))}
	case cmd.ProcessState == nil:
		return apply.Result{Outcome: apply.Refused, Detail: fmt.Sprintf("hook %s could not be started: %v", h.Name, err)}
	}
	return apply.Result{Outcome: apply.Unsure, Detail: fmt.Sprintf("hook %s: %v%s", h.Name, err, quoted(said))}
}

func quoted(said string) string {
	if said == "" {
		return ""
	}
	return ": " + said
}

// Class is apply.Opaque, whatever the action.
func (h *Actuator) Class() string { return apply.Opaque }

// Look asks the engine, where it can tell.
func (h *Actuator) Look(ctx context.Context, c apply.Call, _ apply.Intent) (apply.Standing, string) {
	if h.Settled == nil {
		return apply.Settled, "hook " + h.Name + " ended well"
	}
	return h.Settled(ctx, c)
}

// capped keeps the first bytes of what is written to it.
type capped struct{ b bytes.Buffer }

func (c *capped) Write(p []byte) (int, error) {
	c.b.Write(p[:min(len(p), maxOutput-c.b.Len())])
	return len(p), nil
}

func (c *capped) String() string {
	text := strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(c.b.String(), "?"))
	return strings.Join(strings.Fields(text), " ")
}
