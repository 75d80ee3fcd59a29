package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"

	"github.com/dhalion-go/dhalion/internal/pgserver"
	"github.com/dhalion-go/dhalion/internal/store"
)

// withURL calls f with the URL of the database: the one that is named, or that of
// the private server, which it holds for so long and starts when needed.
func (a *app) withURL(ctx context.Context, f func(ctx context.Context, url string, private bool) error) (err error) {
	url, _, err := a.database()
	if err != nil {
		return err
	}
	if url != "" {
		return f(ctx, url, false)
	}
	home, err := pgserver.Home(a.getenv)
	if err != nil {
		return err
	}
	lease, err := pgserver.Acquire(ctx, a.server(home))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lease.Release()) }()
	return f(ctx, lease.URL(), true)
}

// database is the URL of the database and what names it: DATABASE_URL before the
// configuration. Both are empty when the private server is to be used.
func (a *app) database() (url, by string, err error) {
	if url := a.getenv("DATABASE_URL"); url != "" {
		return url, "DATABASE_URL", nil
	}
	c, err := a.config()
	if err != nil || c.Database == "" {
		return "", "", err
	}
	return c.Database, c.File, nil
}

func (a *app) server(home string) pgserver.Options {
	return pgserver.Options{
		Home: home, Binaries: a.getenv("DHALION_POSTGRES"),
		Notify: func(s string) { fmt.Fprintf(a.err, "dhalion: %s\n", s) },
	}
}

// withStore is withURL with the store opened. The private server's schema is
// ours to bring up to date; another database is its owner's, who is told.
func (a *app) withStore(ctx context.Context, f func(ctx context.Context, st *store.Store) error) error {
	return a.withURL(ctx, func(ctx context.Context, url string, private bool) error {
		st, err := store.Open(ctx, url, store.Options{Migrate: private})
		if err != nil {
			return err
		}
		defer st.Close()
		return f(ctx, st)
	})
}

// atHand reports whether a database can be had without starting or making one.
func (a *app) atHand() bool {
	if url, _, err := a.database(); err != nil || url != "" {
		return err == nil
	}
	home, err := pgserver.Home(a.getenv)
	if err != nil {
		return false
	}
	st, err := pgserver.GetStatus(home)
	return err == nil && st.Running
}

// person is who sits at the keyboard, as far as the system tells.
func (a *app) person() string {
	for _, name := range []string{"USER", "LOGNAME"} {
		if v := a.getenv(name); v != "" {
			return v
		}
	}
	if u, err := user.Current(); err == nil && u.Username != "" {
		return u.Username
	}
	return fmt.Sprintf("uid-%d", os.Getuid())
}
