// Command dhalion reads a stream-processing job's metric history, says what is
// wrong with the job and how sure that is, and writes a plan that a person can
// review, approve and dry-run.
//
// Its commands, flags, JSON keys and exit codes are a contract with the programs
// that call it; docs/architecture.md has the codes.
package main

import (
	"bytes"
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/dhalion-go/dhalion/apply"
	"github.com/dhalion-go/dhalion/internal/config"
)

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }

// run is the program without the process around it; it returns the exit code.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// The first signal ends the work in good order, the second ends the process.
	context.AfterFunc(ctx, stop)
	a := &app{in: stdin, stdout: stdout, err: stderr, getenv: os.Getenv, now: time.Now}
	return a.run(ctx, args)
}

// app is what every command works with: no command reads a stream, an
// environment variable or the clock from anywhere else.
type app struct {
	in     io.Reader
	out    bytes.Buffer // what the command says; written to stdout when it has ended
	stdout io.Writer
	err    io.Writer
	getenv func(string) string
	now    func() time.Time

	output  string // of the flag --output: text or json
	file    string // of the flag --config
	loaded  *config.Config
	command string // that was called, with those above it
	started bool   // its arguments were understood

	observe func(apply.Point) // is told the steps of an apply; nil: nobody is
}

// run executes one command line. What the command says reaches stdout only at
// its end, after a private server was released: a reader that goes away ("| head")
// would kill this process in the middle, and leave the server behind.
func (a *app) run(ctx context.Context, args []string) int {
	root := a.root()
	root.SetArgs(args)
	root.SetIn(a.in)
	root.SetOut(&a.out)
	root.SetErr(a.err)
	cmd, err := root.ExecuteContextC(ctx)
	a.command = cmd.CommandPath()
	if _, werr := a.stdout.Write(a.out.Bytes()); werr != nil && err == nil {
		err = werr
	}
	return a.report(ctx, err)
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "dhalion",
		Short: "Find out what is wrong with a stream-processing job, and plan what to do",
		Long: `Dhalion reads the metric history of a stream-processing job, says what is wrong
and how sure it is, and writes a plan that a person can review like a code change.

A database is where histories and plans are kept: the PostgreSQL that DATABASE_URL
or dhalion.yaml names, or else a private one in DHALION_HOME that is started when it is
needed.

Exit codes: 0 done or nothing to do, 1 failure, 2 changes proposed, 3 stale,
4 not approved, 5 edited, 6 expired, 7 another plan holds the job, 64 usage.`,
		Example: `  dhalion ingest recording.jsonl.gz
  dhalion jobs
  dhalion diagnose wordcount
  dhalion plan wordcount --out plan.json
  dhalion approve plan.json
  dhalion apply plan.json --dry-run`,
		Version:       Version,
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			a.command = cmd.CommandPath()
			if a.output != "text" && a.output != "json" {
				return usagef("--output is text or json, not %q", a.output)
			}
			a.started = true
			return nil
		},
	}
	root.SetVersionTemplate("dhalion {{.Version}}\n")
	root.PersistentFlags().StringVarP(&a.output, "output", "o", "text", "text for people or json for programs")
	a.complete(root, "output", "text", "json")
	root.PersistentFlags().StringVar(&a.file, "config", "", "the configuration `FILE` (default: DHALION_CONFIG, ./dhalion.yaml, or that of the XDG directory)")
	root.AddGroup(
		&cobra.Group{ID: "history", Title: "Histories:"},
		&cobra.Group{ID: "judge", Title: "Judging a job:"},
		&cobra.Group{ID: "plan", Title: "Plans:"},
		&cobra.Group{ID: "other", Title: "Around it:"},
	)
	add := func(group string, commands ...*cobra.Command) {
		for _, c := range commands {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	add("history", a.ingestCommand(), a.recordCommand(), a.jobsCommand(), a.historyCommand(), a.exportCommand(), a.forgetCommand(), a.metricsCommand())
	add("judge", a.detectCommand(), a.diagnoseCommand(), a.explainCommand(), a.runCommand(), a.policyCommand(), a.incidentsCommand(), a.trainCommand(), a.modelsCommand(), a.evaluateModelCommand())
	add("plan", a.planCommand(), a.showCommand(), a.approveCommand(), a.discardCommand(), a.applyCommand(), a.outcomesCommand(), a.rollbackCommand(), a.logCommand())
	add("other", a.doctorCommand(), a.dbCommand(), a.configCommand(), a.versionCommand())
	root.SetHelpCommandGroupID("other")
	root.SetCompletionCommandGroupID("other")
	return root
}

// The arguments that commands take, refused in words.

func none(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usagef("%s takes no argument, and there is %q", cmd.CommandPath(), args[0])
	}
	return nil
}

func one(what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == 1 {
			return nil
		}
		return usagef("%s takes one %s, and there are %d", cmd.CommandPath(), what, len(args))
	}
}

func some(what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return nil
		}
		return usagef("%s takes at least one %s", cmd.CommandPath(), what)
	}
}

func atMostOne(cmd *cobra.Command, args []string) error {
	if len(args) <= 1 {
		return nil
	}
	return usagef("%s takes at most one argument, and there are %d", cmd.CommandPath(), len(args))
}

// group is a command that only has others below it.
func group(c *cobra.Command, below ...*cobra.Command) *cobra.Command {
	c.AddCommand(below...)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return usagef("%s has no subcommand %q", cmd.CommandPath(), args[0])
		}
		return usagef("%s needs a subcommand", cmd.CommandPath())
	}
	return c
}
