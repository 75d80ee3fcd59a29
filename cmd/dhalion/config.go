package main

import (
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/dhalion-go/dhalion/internal/config"
	"github.com/dhalion-go/dhalion/internal/pgserver"
)

// config is the configuration in force, read once; without a file it is empty. A
// broken one stops every command that needs something of it.
func (a *app) config() (*config.Config, error) {
	if a.loaded != nil {
		return a.loaded, nil
	}
	file, _ := config.Find(a.file, a.getenv)
	if file == "" {
		a.loaded = &config.Config{}
		return a.loaded, nil
	}
	c, err := config.Load(file)
	if err != nil {
		return nil, hinted(err, "%s", command("config", "lint", file))
	}
	a.loaded = c
	return c, nil
}

func (a *app) configCommand() *cobra.Command {
	return group(&cobra.Command{
		Use:   "config",
		Short: "Check and show the configuration, dhalion.yaml",
		Long: `Check and show the configuration: the engines and how to reach them, hooks, which policy
and mode a job has, the database. It is the file that --config or DHALION_CONFIG names,
else dhalion.yaml here, else that in the XDG configuration directory.`,
		Example: `  dhalion config lint
  dhalion config show`,
	}, a.configLint(), a.configShow())
}

// origin is one value of the configuration in effect.
type origin struct {
	Key   string `json:"key"`
	Value string `json:"value"`
	From  string `json:"from"`
}

func (a *app) configShow() *cobra.Command {
	return &cobra.Command{
		Use:   "show",
		Short: "Print the configuration in effect, without secrets, and where each value comes from",
		Example: `  dhalion config show
  dhalion config show --config other.yaml -o json`,
		Args: none,
		RunE: func(*cobra.Command, []string) error {
			c, err := a.config()
			if err != nil {
				return err
			}
			values, err := a.origins(c)
			if err != nil {
				return err
			}
			_, by := config.Find(a.file, a.getenv)
			if a.json() {
				return a.writeJSON(struct {
					File   string   `json:"file"`
					By     string   `json:"found_by"`
					Values []origin `json:"values"`
				}{c.File, by, values})
			}
			if c.File == "" {
				a.printf("There is no dhalion.yaml; this is in effect without one.\n\n")
			} else {
				a.printf("%s, found by %s.\n\n", plain(c.File), by)
			}
			t := &table{head: []string{"key", "value", "from"}, wide: 1}
			for _, v := range values {
				t.add(v.Key, v.Value, v.From)
			}
			a.table("", t)
			return nil
		},
	}
}

// origins lists what is in effect, section by section.
func (a *app) origins(c *config.Config) ([]origin, error) {
	var all []origin
	add := func(key, value, from string) { all = append(all, origin{key, value, from}) }
	// what is said in the file, else what holds without it
	said := func(value string, path ...string) {
		from := "default"
		if line := c.Line(path...); line > 0 {
			from = fmt.Sprintf("%s:%d", c.File, line)
		}
		if value != "" {
			add(strings.Join(path, "."), value, from)
		}
	}
	switch url, by, err := a.database(); {
	case err != nil:
		return nil, err
	case url == "":
		home, err := pgserver.Home(a.getenv)
		if err != nil {
			return nil, err
		}
		from := "default"
		if a.getenv("DHALION_HOME") != "" {
			from = "DHALION_HOME"
		}
		add("database", "private server in "+home, from)
	case by == c.File:
		said(redacted(url), "database")
	default:
		add("database", redacted(url), by)
	}
	if c.Retention > 0 {
		said(c.Retention.String(), "retention")
	}
	for _, name := range c.Names() {
		e := c.Engines[name]
		key := func(k, value string) { said(value, "engines", name, k) }
		key("kind", e.Kind)
		key("url", e.URL)
		key("token_file", e.TokenFile)
		key("basic_file", e.BasicFile)
		key("ca_file", e.CAFile)
		if e.Timeout > 0 {
			key("timeout", e.Timeout.String())
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.Hooks)) {
		h := c.Hooks[name]
		said(strings.Join(h.Argv, " "), "hooks", name, "argv")
		said(h.Timeout.String(), "hooks", name, "timeout")
		said(string(h.Does), "hooks", name, "does")
		said(h.Match, "hooks", name, "match")
	}
	for i, j := range c.Jobs {
		at := fmt.Sprint(i)
		said(j.Match, "jobs", at, "match")
		said(j.Policy, "jobs", at, "policy")
		said(j.Mode, "jobs", at, "mode")
		said(j.Every.String(), "jobs", at, "every")
		if j.Start != nil {
			said(j.Start.Jar, "jobs", at, "start", "jar")
			said(j.Start.Class, "jobs", at, "start", "class")
			said(strings.Join(j.Start.Arguments, " "), "jobs", at, "start", "arguments")
			said(j.Start.Savepoints, "jobs", at, "start", "savepoints")
		}
	}
	return all, nil
}

// The files that hold secrets. No error shows what is in them.

// readToken reads a file that holds one bearer token.
func readToken(name string) (string, error) {
	data, err := readSmall(name)
	if err != nil {
		return "", err
	}
	token := strings.TrimSpace(string(data))
	if token == "" || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", errors.New("it is not one token")
	}
	return token, nil
}

// readBasic reads a file that holds USER:PASSWORD.
func readBasic(name string) (user, password string, err error) {
	data, err := readSmall(name)
	if err != nil {
		return "", "", err
	}
	user, password, ok := strings.Cut(strings.TrimSpace(string(data)), ":")
	if !ok || user == "" || strings.ContainsAny(user+password, "\r\n") {
		return "", "", errors.New("it is not USER:PASSWORD")
	}
	return user, password, nil
}

// readCA reads a file of PEM certificates.
func readCA(name string) ([]byte, error) {
	data, err := readSmall(name)
	if err == nil && !x509.NewCertPool().AppendCertsFromPEM(data) {
		err = errors.New("it holds no PEM certificate")
	}
	return data, err
}
