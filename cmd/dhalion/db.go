package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/dhalion-go/dhalion/internal/pgserver"
	"github.com/dhalion-go/dhalion/internal/store"
)

func (a *app) dbCommand() *cobra.Command {
	return group(&cobra.Command{
		Use:   "db",
		Short: "Look after the database",
		Long: `Look after the database: the PostgreSQL that DATABASE_URL or dhalion.yaml names, or
else a private server in DHALION_HOME that is started when a command needs it and
stopped by the last one that uses it.`,
		Example: "  dhalion db status\n  dhalion db start",
	}, a.dbStart(), a.dbStop(), a.dbStatus(), a.dbPsql(), a.dbURL(), a.dbMigrate(), a.dbBackup(), a.dbRestore(), a.dbCompact(), a.dbRetain())
}

// private is the home of the private server, or an error when another is named:
// that is not ours to start or stop.
func (a *app) private(verb string) (string, error) {
	switch url, by, err := a.database(); {
	case err != nil:
		return "", err
	case url != "" && by == "DATABASE_URL":
		return "", hinted(fmt.Errorf("db %s: DATABASE_URL is set, and its server is not dhalion's to %s", verb, verb), "unset DATABASE_URL to use the private server")
	case url != "":
		return "", hinted(fmt.Errorf("db %s: %s names a database, and its server is not dhalion's to %s", verb, by, verb), "without the key database in %s the private server is used", by)
	}
	return pgserver.Home(a.getenv)
}

func (a *app) dbStart() *cobra.Command {
	return &cobra.Command{
		Use:     "start",
		Short:   "Start the private server and keep it running",
		Example: "  dhalion db start",
		Args:    none,
		RunE: func(cmd *cobra.Command, _ []string) error {
			home, err := a.private("start")
			if err != nil {
				return err
			}
			lease, err := pgserver.Acquire(cmd.Context(), a.server(home))
			if err != nil {
				return err
			}
			err = pgserver.Keep(home, true)
			if err == nil {
				err = prepare(cmd.Context(), lease.URL())
			}
			if err = errors.Join(err, lease.Release()); err != nil {
				return err
			}
			if a.json() {
				return a.dbState(cmd.Context())
			}
			verb := "was running"
			if lease.Started() {
				verb = "runs"
			}
			a.printf("PostgreSQL %s in %s and stays until `dhalion db stop`.\n", verb, home)
			return nil
		},
	}
}

// prepare makes the private server's schema, so that a first command does not
// have to.
func prepare(ctx context.Context, url string) error {
	st, err := store.Open(ctx, url, store.Options{Migrate: true})
	if err != nil {
		return err
	}
	st.Close()
	return nil
}

func (a *app) dbStop() *cobra.Command {
	var force bool
	c := &cobra.Command{
		Use:     "stop",
		Short:   "Stop the private server",
		Example: "  dhalion db stop\n  dhalion db stop --force",
		Args:    none,
		RunE: func(cmd *cobra.Command, _ []string) error {
			home, err := a.private("stop")
			if err != nil {
				return err
			}
			before, err := pgserver.GetStatus(home)
			if err != nil {
				return err
			}
			err = pgserver.Stop(cmd.Context(), home, force)
			var used *pgserver.InUseError
			if errors.As(err, &used) {
				return hinted(err, "wait for them, or end them: dhalion db stop --force")
			}
			if err != nil {
				return err
			}
			switch {
			case a.json():
				return a.dbState(cmd.Context())
			case before.PID == 0:
				a.printf("PostgreSQL was not running in %s.\n", home)
			default:
				a.printf("PostgreSQL in %s is stopped.\n", home)
			}
			return nil
		},
	}
	c.Flags().BoolVar(&force, "force", false, "also when other commands use it")
	return c
}

func (a *app) dbStatus() *cobra.Command {
	return &cobra.Command{
		Use:     "status",
		Short:   "Say where the database is and whether it runs",
		Example: "  dhalion db status -o json",
		Args:    none,
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.dbState(cmd.Context()) },
	}
}

// databaseState is what db status tells. It holds no password.
type databaseState struct {
	Kind    string `json:"kind"` // "private" or "url"
	Running bool   `json:"running"`
	Kept    bool   `json:"kept"`
	PID     int    `json:"pid,omitempty"`
	Major   string `json:"postgres,omitempty"`
	Home    string `json:"home,omitempty"`
	Socket  string `json:"socket,omitempty"`
	Log     string `json:"log,omitempty"`
	Address string `json:"address,omitempty"`
	From    string `json:"from,omitempty"` // what names the URL: DATABASE_URL or a file
	Schema  *int64 `json:"schema"`         // null: not asked, because it does not run
	Program int64  `json:"schema_of_program,omitempty"`
}

func (a *app) dbState(ctx context.Context) error {
	state := databaseState{Kind: "url"}
	ask, by, err := a.database()
	if err != nil {
		return err
	}
	if ask != "" {
		state.Address, state.From, state.Running = redacted(ask), by, true
	} else {
		home, err := pgserver.Home(a.getenv)
		if err != nil {
			return err
		}
		st, err := pgserver.GetStatus(home)
		if err != nil {
			return err
		}
		state = databaseState{Kind: "private", Running: st.Running, Kept: st.Kept, PID: st.PID, Major: st.Version, Home: st.Home, Socket: st.Socket, Log: st.Log}
	}
	if state.Running {
		// Not withStore: to look must not migrate.
		err := a.withURL(ctx, func(ctx context.Context, url string, _ bool) error {
			v, err := store.Version(ctx, url)
			state.Schema, state.Program = &v.Database, v.Program
			return err
		})
		if err != nil {
			return err
		}
	}
	if a.json() {
		return a.writeJSON(state)
	}
	t := &table{head: []string{"", ""}, wide: 1}
	if state.Kind == "url" {
		t.add("database", "the one that "+state.From+" names")
		t.add("address", state.Address)
	} else {
		how := "not running; a command that needs it starts it"
		switch {
		case state.Running && state.Kept:
			how = fmt.Sprintf("running (process %d), until `dhalion db stop`", state.PID)
		case state.Running:
			how = fmt.Sprintf("running (process %d), until the last command that uses it ends", state.PID)
		case state.PID != 0:
			how = fmt.Sprintf("starting or stopping (process %d)", state.PID)
		}
		t.add("database", "private server, "+how)
		t.add("home", state.Home)
		if state.Major != "" {
			t.add("postgresql", state.Major)
		}
		t.add("socket", state.Socket)
		t.add("log", state.Log)
	}
	if state.Schema != nil {
		schema := fmt.Sprintf("version %d", *state.Schema)
		switch {
		case *state.Schema == 0:
			schema = "none yet; the first command makes it"
		case *state.Schema < state.Program:
			schema += fmt.Sprintf(", this program needs %d: dhalion db migrate", state.Program)
		case *state.Schema > state.Program:
			schema += fmt.Sprintf(", newer than this program's %d", state.Program)
		}
		t.add("schema", schema)
	}
	a.table("", t)
	return nil
}

// redacted is a database URL without its password.
func redacted(s string) string {
	u, err := url.Parse(s)
	if err != nil || u.Scheme == "" {
		return "(key=value pairs)"
	}
	bare, _ := splitPassword(s)
	return bare
}

func (a *app) dbURL() *cobra.Command {
	return &cobra.Command{
		Use:   "url",
		Short: "Print the database's URL, with its password",
		Long: `Print the database's URL for other programs. It holds the password: do not put it
where others can read it. The private server must be kept running for it: dhalion db start.`,
		Example: `  dhalion db start && export DATABASE_URL="$(dhalion db url)"`,
		Args:    none,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withURL(cmd.Context(), func(_ context.Context, url string, private bool) error {
				if private {
					if home, err := pgserver.Home(a.getenv); err == nil {
						if st, err := pgserver.GetStatus(home); err == nil && !st.Kept {
							fmt.Fprintln(a.err, "hint: the server stops when this command ends; keep it: dhalion db start")
						}
					}
				}
				if a.json() {
					return a.writeJSON(struct {
						URL string `json:"url"`
					}{url})
				}
				a.printf("%s\n", url)
				return nil
			})
		},
	}
}

func (a *app) dbPsql() *cobra.Command {
	return &cobra.Command{
		Use:     "psql [-- ARGUMENT…]",
		Short:   "Open PostgreSQL's prompt in the database",
		Example: "  dhalion db psql\n  dhalion db psql -- -c 'select id, state from plans'",
		RunE: func(cmd *cobra.Command, args []string) error {
			psql, err := a.findPsql()
			if err != nil {
				return err
			}
			return a.withURL(cmd.Context(), func(_ context.Context, database string, _ bool) error {
				address, password := splitPassword(database)
				run := exec.Command(psql, append([]string{"--dbname", address}, args...)...)
				run.Env = os.Environ()
				if password != "" {
					// Not as an argument: every user of the machine sees those.
					run.Env = append(run.Env, "PGPASSWORD="+password)
				}
				run.Stdin, run.Stdout, run.Stderr = a.in, a.stdout, a.err
				if _, ok := a.stdout.(*os.File); !ok {
					run.Stdout = io.Writer(&a.out)
				}
				// An interrupt is psql's to answer: it ends a query there. Caught, and
				// not ignored: what is ignored here would be ignored by psql, too.
				caught := make(chan os.Signal, 1)
				signal.Notify(caught, os.Interrupt)
				defer signal.Stop(caught)
				err := run.Run()
				var exit *exec.ExitError
				if errors.As(err, &exit) {
					return &failure{code: exitFailure}
				}
				return err
			})
		},
	}
}

// findPsql looks beside the server's binaries, then in the path.
func (a *app) findPsql() (string, error) {
	if dir := a.getenv("DHALION_POSTGRES"); dir != "" {
		for _, name := range []string{filepath.Join(dir, "psql"), filepath.Join(dir, "bin", "psql")} {
			if path, err := exec.LookPath(name); err == nil {
				return path, nil
			}
		}
	}
	path, err := exec.LookPath("psql")
	if err != nil {
		return "", hinted(errors.New("db psql: there is no program psql"), "install PostgreSQL's client, or give another one the address: dhalion db url")
	}
	return path, nil
}

// splitPassword takes the password out of a database URL.
func splitPassword(s string) (address, password string) {
	u, err := url.Parse(s)
	if err != nil || u.Scheme == "" {
		return s, ""
	}
	if u.User != nil {
		if p, ok := u.User.Password(); ok {
			password = p
			u.User = url.User(u.User.Username())
		}
	}
	q := u.Query()
	if p := q.Get("password"); p != "" {
		password = p
		q.Del("password")
		u.RawQuery = strings.ReplaceAll(q.Encode(), "+", "%20")
	}
	return u.String(), password
}

func (a *app) dbMigrate() *cobra.Command {
	to := int64(-1)
	yes := false
	c := &cobra.Command{
		Use:   "migrate",
		Short: "Bring the database's schema to this program's version",
		Long: `Bring the database's schema to this program's version, or to another one with --to.
Going down destroys what the older schema has no place for, and version 0 destroys
everything: that needs --yes. Make a backup first.`,
		Example: "  dhalion db migrate",
		Args:    none,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Changed("to") && to < 0 {
				return usagef("--to %d: versions begin at 0", to)
			}
			return a.withURL(cmd.Context(), func(ctx context.Context, url string, _ bool) error {
				v, err := store.Version(ctx, url)
				if err != nil {
					return err
				}
				if to >= 0 && to < v.Database && !yes {
					return hinted(fmt.Errorf("db migrate: going from version %d down to %d destroys data", v.Database, to), "make a backup, then add --yes")
				}
				before, after, err := int64(0), int64(0), error(nil)
				if to < 0 {
					before, after, err = store.Migrate(ctx, url)
				} else {
					before, after, err = store.MigrateTo(ctx, url, to)
				}
				if err != nil {
					return err
				}
				if a.json() {
					return a.writeJSON(struct {
						Before int64 `json:"before"`
						After  int64 `json:"after"`
					}{before, after})
				}
				if before == after {
					a.printf("The schema has version %d already.\n", after)
				} else {
					a.printf("The schema went from version %d to %d.\n", before, after)
				}
				return nil
			})
		},
	}
	c.Flags().Int64Var(&to, "to", -1, "the `version` to go to (default: this program's)")
	c.Flags().BoolVar(&yes, "yes", false, "destroy data where going down does")
	return c
}
