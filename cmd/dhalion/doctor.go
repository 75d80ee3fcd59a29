package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/dhalion-go/dhalion/internal/config"
	"github.com/dhalion-go/dhalion/internal/engine/flink"
	"github.com/dhalion-go/dhalion/internal/pgserver"
	"github.com/dhalion-go/dhalion/internal/store"
)

const (
	// databasePatience is how long doctor waits for a database.
	databasePatience = 20 * time.Second

	// The free bytes below which the disk of a private server is a warning, and a
	// problem: PostgreSQL stops when it can write no log, and its log is up to 1 GB.
	lowDisk, fullDisk = 2_000_000_000, 200_000_000

	// The difference of clocks from which on it is a warning, and a problem. A plan
	// is stale after 15 min by ours.
	oddClock, wrongClock = 2 * time.Second, time.Minute
)

func (a *app) doctorCommand() *cobra.Command {
	var f *engineFlags
	c := &cobra.Command{
		Use:   "doctor [ENGINE|URL…]",
		Short: "Look at the surroundings, and say what is wrong and what to do about it",
		Long: `Look at the configuration, the database, the disk, the clocks, and the engines that are
named, or else all that dhalion.yaml has; and say what is wrong and what to do about it.
For every running job: whether its parallelism can be set while it runs, how far it could
grow, which metrics are unknown and what to switch on. Nothing is changed; a private
server that there is already is started as by any other command.

Ends with exit code 1 when there is a problem; warnings do not.`,
		Example: `  dhalion doctor
  dhalion doctor prod
  dhalion doctor http://127.0.0.1:8081 -o json`,
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return a.engineNames(), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			d := doctor{app: a, jobs: []capability{}}
			engines, err := d.engines(args, f)
			if err != nil {
				return err
			}
			d.configuration()
			d.database(cmd.Context())
			for _, e := range engines {
				d.engine(cmd.Context(), e)
			}
			if err := cmd.Context().Err(); err != nil {
				return context.Cause(cmd.Context())
			}
			return d.report()
		},
	}
	f = a.engineFlags(c)
	return c
}

// doctor is one look at the surroundings.
type doctor struct {
	app      *app
	findings findings
	jobs     []capability
}

// asked is an engine that doctor looks at; err is why it cannot be.
type asked struct {
	name, address string
	options       flink.Options
	err           error
}

// engines are those of the arguments, which must be right, or else all that are
// configured, of which each may be wrong.
func (d *doctor) engines(args []string, f *engineFlags) ([]asked, error) {
	var all []asked
	if len(args) == 0 {
		c, err := d.app.config()
		if err != nil {
			return nil, nil // configuration says so
		}
		for _, name := range c.Names() {
			e := asked{name: name, address: c.Engines[name].URL}
			_, _, e.options, e.err = d.app.engine(name, f)
			all = append(all, e)
		}
		return all, nil
	}
	for _, arg := range args {
		name, address, options, err := d.app.engine(arg, f)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(all, func(e asked) bool { return e.name == name }) {
			return nil, usagef("two engines are called %s: ask one after the other, with --engine NAME", name)
		}
		all = append(all, asked{name: name, address: address, options: options})
	}
	return all, nil
}

func (d *doctor) configuration() {
	const about = "configuration"
	file, by := config.Find(d.app.file, d.app.getenv)
	if file == "" {
		d.findings.add(levelOK, about, "", "there is no dhalion.yaml, and none is needed")
		return
	}
	l, err := lintConfig(file)
	if err != nil {
		d.findings.add(levelProblem, about, "", "%v", err)
		return
	}
	for _, p := range l.Errors {
		d.findings.add(levelProblem, about, "", "%s", p)
	}
	for _, p := range l.Warnings {
		d.findings.add(levelWarning, about, "", "%s", p)
	}
	if len(l.Errors) == 0 {
		d.findings.add(levelOK, about, "", "%s, found by %s: %s, %s, %s of jobs", file, by, plural(l.Engines, "engine"), plural(l.Hooks, "hook"), plural(l.Jobs, "pattern"))
	}
}

func (d *doctor) database(ctx context.Context) {
	const about = "database"
	url, by, err := d.app.database()
	if err != nil {
		d.findings.add(levelProblem, about, "mend the configuration", "which one to use is not known")
		return
	}
	where := fmt.Sprintf("%s (%s)", redacted(url), by)
	if url == "" {
		home, err := pgserver.Home(d.app.getenv)
		if err != nil {
			d.findings.add(levelProblem, about, "set DHALION_HOME", "%v", err)
			return
		}
		d.disk(home)
		st, err := pgserver.GetStatus(home)
		switch {
		case err != nil:
			d.findings.add(levelProblem, about, "", "%v", err)
			return
		case st.Version == "" && !st.Running:
			d.findings.add(levelOK, about, "", "none yet; the first command that needs one makes a private server in %s", home)
			return
		}
		where = "private server in " + home
	}
	ctx, stop := context.WithTimeoutCause(ctx, databasePatience, fmt.Errorf("no answer within %s", databasePatience))
	defer stop()
	var in store.Inspection
	err = d.app.withURL(ctx, func(ctx context.Context, url string, _ bool) (err error) {
		in, err = store.Inspect(ctx, url, d.app.now)
		return err
	})
	if err != nil {
		advice := "see that it runs and that the address is right"
		if url == "" {
			advice = "see its log: dhalion db status"
		}
		d.findings.add(levelProblem, about, advice, "%s: %v", where, firstLine(cause(ctx, err)))
		return
	}
	d.schema(in.Versions, url == "", fmt.Sprintf("%s: PostgreSQL %s, %s", where, in.Server, size(in.Size)))
	for _, name := range store.Durable {
		if in.Settings[name] == "off" {
			d.findings.add(levelWarning, about, "set "+name+" = on", "%s is off: a crash of its machine can lose what was stored", name)
		}
	}
	d.clock("the database's", off(in.Asked, in.Answered, in.Clock))
	if in.Versions.Database != in.Versions.Program {
		return
	}
	if err := d.app.withStore(ctx, d.models); err != nil {
		d.findings.add(levelWarning, "models", "", "whether they have drifted is not known: %v", firstLine(cause(ctx, err)))
	}
}

func (d *doctor) schema(v store.Versions, private bool, where string) {
	const about = "database"
	switch {
	case v.Database > v.Program:
		d.findings.add(levelProblem, about, "use the newer dhalion", "%s; a newer dhalion made its schema (%d, and this one knows %d)", where, v.Database, v.Program)
	case v.Database == 0:
		d.findings.add(levelOK, about, "", "%s; it has no schema yet, the first command makes it", where)
	case v.Database < v.Program && !private:
		d.findings.add(levelProblem, about, "make a backup, then dhalion db migrate", "%s; its schema has version %d, and this program needs %d", where, v.Database, v.Program)
	case v.Database < v.Program:
		d.findings.add(levelOK, about, "", "%s; the next command brings its schema from version %d to %d", where, v.Database, v.Program)
	default:
		d.findings.add(levelOK, about, "", "%s; schema version %d, nothing to migrate", where, v.Database)
	}
}

// disk looks at the disk that a home is on, or will be.
func (d *doctor) disk(home string) {
	const about = "disk"
	at := home
	for !isDir(at) && filepath.Dir(at) != at {
		at = filepath.Dir(at)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(at, &st); err != nil {
		d.findings.add(levelProblem, about, "set DHALION_HOME to a directory of your own", "%s: %v", at, err)
		return
	}
	free := int64(st.Bavail) * int64(st.Bsize)
	level, advice := levelOK, ""
	switch {
	case free < fullDisk:
		level = levelProblem
	case free < lowDisk:
		level = levelWarning
	}
	if level != levelOK {
		advice = "make room, dhalion db retain --keep 30d, or set DHALION_HOME to a larger disk"
	}
	d.findings.add(level, about, advice, "%s free for %s", size(free), home)
}

func isDir(name string) bool {
	info, err := os.Stat(name)
	return err == nil && info.IsDir()
}

// off is how far another clock, read at a moment from asked to answered, is ahead
// of ours: 0 when it lies between.
func off(asked, answered, theirs time.Time) time.Duration {
	switch {
	case theirs.Before(asked):
		return theirs.Sub(asked)
	case theirs.After(answered):
		return theirs.Sub(answered)
	}
	return 0
}

func (d *doctor) clock(whose string, ahead time.Duration) {
	const about = "clock"
	word := "ahead of"
	if ahead < 0 {
		word = "behind"
	}
	switch apart := ahead.Abs(); {
	case apart >= wrongClock:
		d.findings.add(levelProblem, about, "set both by NTP", "%s is %s %s this machine's", whose, apart.Round(time.Second), word)
	case apart >= oddClock:
		d.findings.add(levelWarning, about, "set both by NTP", "%s is %s %s this machine's", whose, apart.Round(100*time.Millisecond), word)
	default:
		d.findings.add(levelOK, about, "", "%s agrees with this machine's", whose)
	}
}

func (d *doctor) engine(ctx context.Context, e asked) {
	about := "engine " + e.name
	client := (*flink.Client)(nil)
	if e.err == nil {
		client, e.err = flink.NewClient(e.address, e.options)
	}
	if e.err != nil {
		d.findings.add(levelProblem, about, "", "%v", e.err)
		return
	}
	defer client.Close()
	answers, err := prober{client.Get, d.app.now, wait}.cluster(ctx)
	if err != nil {
		d.findings.add(levelProblem, about, unreachable(err), "%s: %v", e.address, err)
		return
	}
	jobs, found := assess(e.name, answers)
	d.findings = append(d.findings, found...)
	for _, j := range answers.jobs {
		if theirs, ok := j.detail.Now.Time(); ok {
			d.clock("that of engine "+e.name, off(j.asked, j.answered, theirs))
			break
		}
	}
	if c, err := d.app.config(); err == nil {
		for i := range jobs {
			if n, ok := c.JobFor(jobs[i].Job); ok {
				jobs[i].Policy, jobs[i].Mode = c.Jobs[n].Policy, c.Jobs[n].Mode
			}
		}
	}
	d.jobs = append(d.jobs, jobs...)
}

// wait ends early, with an error, when ctx does.
func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

// unreachable is what to do about an engine that did not answer.
func unreachable(err error) string {
	text := err.Error()
	switch {
	case strings.Contains(text, "certificate signed by unknown authority"):
		return "name its certificate authority: ca_file, or --ca-file"
	case strings.Contains(text, "server gave HTTP response to HTTPS client"):
		return "its url begins with http://"
	case strings.Contains(text, "credentials"):
		return "see its token_file or basic_file, or --token-file or --basic-file"
	}
	return "see that its JobManager runs and that the address is right"
}

func firstLine(err error) error {
	first, _, more := strings.Cut(err.Error(), "\n")
	if !more {
		return err
	}
	return errors.New(first)
}

// report writes what was found; a problem is a failure.
func (d *doctor) report() error {
	a := d.app
	counts := map[string]int{}
	for _, f := range d.findings {
		counts[f.Level]++
	}
	if a.json() {
		if err := a.writeJSON(struct {
			OK       int          `json:"ok"`
			Warnings int          `json:"warnings"`
			Problems int          `json:"problems"`
			Findings findings     `json:"findings"`
			Jobs     []capability `json:"jobs"`
		}{counts[levelOK], counts[levelWarning], counts[levelProblem], d.findings, d.jobs}); err != nil {
			return err
		}
	} else {
		t := &table{head: []string{"", "", ""}, wide: 2}
		for _, f := range d.findings {
			text := f.Message
			if f.Advice != "" {
				text += " → " + f.Advice
			}
			t.add(f.Level, f.About, text)
		}
		a.table("", t)
		for _, j := range d.jobs {
			d.printJob(j)
		}
	}
	if counts[levelProblem] > 0 {
		return errFailed
	}
	return nil
}

func (d *doctor) printJob(j capability) {
	a := d.app
	a.title(plain(string(j.Job)))
	words := []string{"run " + j.Run}
	if j.Scheduler != nil {
		words = append(words, "scheduler "+strings.ToLower(*j.Scheduler))
	}
	if j.Free != nil {
		words = append(words, fmt.Sprintf("%d of %s free", *j.Free, plural(*j.Slots, "slot")))
	}
	switch {
	case j.Checkpoint == nil:
	case *j.Checkpoint == 0:
		words = append(words, "no checkpoints")
	default:
		words = append(words, "a checkpoint every "+strconv.FormatFloat(*j.Checkpoint, 'f', -1, 64)+" s")
	}
	if j.Mode != "" {
		words = append(words, "policy "+j.Policy, "mode "+j.Mode)
	}
	a.printf("  %s\n", wrap(plain(strings.Join(words, ", ")), a.width()-2, "  "))
	t := &table{head: []string{"component", ">instances", ">room for", ">maximum", ">partitions", "unknown"}, wide: 0}
	for _, c := range j.Components {
		partitions := ""
		if c.Source {
			partitions = orUnknown(c.Partitions)
		}
		var lack []string
		for _, u := range j.Unknown {
			if slices.Contains(u.Components, c.Name) {
				lack = append(lack, string(u.Metric))
			}
		}
		t.add(c.Name, orUnknown(c.Parallelism), orUnknown(c.Most), orUnknown(c.MaxParallelism), partitions, joined(lack))
	}
	a.table("  ", t)
	for _, u := range j.Unknown {
		if len(u.Components) == 0 {
			a.printf("  %s\n", wrap(fmt.Sprintf("%s is unknown: %s", u.Metric, u.Advice), a.width()-2, "  "))
		}
	}
}

func orUnknown(n *int) string {
	if n == nil {
		return "?"
	}
	return count(*n)
}
