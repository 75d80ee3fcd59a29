package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/dhalion-go/dhalion/apply"
	"github.com/dhalion-go/dhalion/internal/store"
	"github.com/dhalion-go/dhalion/plan/planfile"
)

// The exit codes; they are part of the contract.
const (
	exitDone        = 0
	exitFailure     = 1
	exitChanges     = 2
	exitStale       = 3
	exitNotApproved = 4
	exitEdited      = 5
	exitExpired     = 6
	exitHeld        = 7
	exitUsage       = 64
)

// failure is an error with the exit code that it ends in, and with what mends it,
// as a rule a command. Without an error it ends the program silently.
type failure struct {
	code int
	err  error
	hint string
}

func (f *failure) Error() string {
	if f.err == nil {
		return fmt.Sprintf("exit %d", f.code)
	}
	return f.err.Error()
}

func (f *failure) Unwrap() error { return f.err }

// errChanges ends the program with "changes proposed": no error.
var errChanges = &failure{code: exitChanges}

// errFailed ends the program with a failure that was reported already.
var errFailed = &failure{code: exitFailure}

func usagef(format string, args ...any) error {
	return &failure{code: exitUsage, err: fmt.Errorf(format, args...)}
}

func hinted(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return &failure{code: classify(err).code, err: err, hint: fmt.Sprintf(format, args...)}
}

// classify finds the exit code of an error and what mends it.
func classify(err error) *failure {
	var f *failure
	var refusal *apply.Refusal
	var edited *planfile.EditedError
	var digest *store.DigestError
	var expired *store.ExpiredError
	var self *store.SelfApprovalError
	var missing *store.NotFoundError
	var held *apply.HeldError
	var lost *apply.LostError
	var overtaken *apply.OvertakenError
	switch {
	case errors.As(err, &f):
		return f
	case errors.As(err, &refusal):
		return &failure{code: refusal.Exit, err: err, hint: refusal.Hint}
	case errors.As(err, &edited):
		return &failure{code: exitEdited, err: err, hint: "restore the file, or see the plan as it was proposed: dhalion show PLAN"}
	case errors.As(err, &digest):
		return &failure{code: exitEdited, err: err, hint: "see what was proposed: " + planfile.Command("dhalion", "show", digest.Plan)}
	case errors.As(err, &expired):
		return &failure{code: exitExpired, err: err, hint: "see what it was about: " + planfile.Command("dhalion", "show", expired.Plan)}
	case errors.As(err, &self):
		return &failure{code: exitNotApproved, err: err, hint: "as somebody else: " + planfile.Command("dhalion", "approve", self.Plan, "--as", "NAME")}
	case errors.As(err, &held) && held.Over:
		return &failure{code: exitHeld, err: err, hint: "go on with it: " + planfile.Command("dhalion", "apply", held.Plan, "--resume") +
			", or end it: " + planfile.Command("dhalion", "apply", held.Plan, "--abort")}
	case errors.As(err, &held):
		return &failure{code: exitHeld, err: err, hint: "wait for it, or see how it stands: " + planfile.Command("dhalion", "show", held.Plan)}
	case errors.As(err, &overtaken):
		return &failure{code: exitStale, err: err, hint: "end it: " + planfile.Command("dhalion", "apply", overtaken.Plan, "--abort")}
	case errors.As(err, &lost):
		return &failure{code: exitHeld, err: err, hint: "see how it stands: " + planfile.Command("dhalion", "log", lost.Plan)}
	case errors.As(err, &missing) && missing.What == "plan":
		return &failure{code: exitFailure, err: err, hint: "list the plans: dhalion show"}
	case errors.As(err, &missing):
		return &failure{code: exitFailure, err: err, hint: "list the jobs: dhalion jobs"}
	}
	return &failure{code: exitFailure, err: err}
}

// report writes an error to stderr and returns the exit code.
func (a *app) report(ctx context.Context, err error) int {
	if err == nil {
		return exitDone
	}
	f := classify(err)
	if f.err == nil {
		return f.code
	}
	code, hint := f.code, f.hint
	if !a.started {
		// The command did not begin: what came is about its name, flags or arguments.
		code = exitUsage
	}
	message := err.Error()
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		code, message, hint = exitFailure, "interrupted; what was not finished is undone", ""
	}
	if code == exitUsage && hint == "" {
		hint = a.command + " --help has examples"
	}
	first, rest, _ := strings.Cut(strings.TrimSpace(message), "\n")
	fmt.Fprintf(a.err, "dhalion: %s\n", strings.TrimSpace(first))
	for line := range strings.Lines(rest) {
		if line = strings.TrimSpace(line); line != "" {
			fmt.Fprintf(a.err, "  %s\n", line)
		}
	}
	if hint != "" {
		fmt.Fprintf(a.err, "hint: %s\n", hint)
	}
	return code
}

// cause is why work ended: an error of the interrupted work says less than the
// interruption.
func cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
