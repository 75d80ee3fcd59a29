package main

import (
	"errors"
	"os"

	"github.com/spf13/cobra"

	"github.com/dhalion-go/dhalion/features"
	"github.com/dhalion-go/dhalion/internal/config"
	"github.com/dhalion-go/dhalion/plan/policy"
)

// linted is what config lint says of a file.
type linted struct {
	File     string          `json:"file"`
	Engines  int             `json:"engines"`
	Hooks    int             `json:"hooks"`
	Jobs     int             `json:"jobs"`
	Errors   config.Problems `json:"errors"`
	Warnings config.Problems `json:"warnings"`
}

func (a *app) configLint() *cobra.Command {
	return &cobra.Command{
		Use:   "lint [FILE]",
		Short: "Check a configuration: errors with file and line, and what looks like a mistake",
		Long: `Check a configuration, by default the one in force, and what it names: policies that do
not parse, token files that are missing or that others can read, patterns that match no
engine. No engine and no database is asked; dhalion doctor does that.

An error, which would stop commands, ends with exit code 1; warnings do not.`,
		Example: `  dhalion config lint
  dhalion config lint deploy/dhalion.yaml -o json`,
		Args: atMostOne,
		RunE: func(_ *cobra.Command, args []string) error {
			file, _ := config.Find(a.file, a.getenv)
			if len(args) > 0 {
				file = args[0]
			}
			if file == "" {
				return hinted(errors.New("config lint: there is no dhalion.yaml, here or in the XDG configuration directory"), "name it: dhalion config lint FILE")
			}
			l, err := lintConfig(file)
			if err != nil {
				return err
			}
			if a.json() {
				if err := a.writeJSON(l); err != nil {
					return err
				}
			} else {
				a.printf("%s: %s, %s, %s\n", plain(file), plural(l.Engines, "engine"), plural(l.Hooks, "hook"), plural(l.Jobs, "pattern")+" of jobs")
				for _, w := range l.Warnings {
					a.printf("  - %s\n", wrap(plain(w.String()), a.width()-4, "    "))
				}
			}
			switch {
			case len(l.Errors) == 0:
				return nil
			case a.json():
				return errFailed
			}
			return l.Errors
		},
	}
}

// lintConfig checks a file and what it names. An error is only that it cannot be
// read.
func lintConfig(file string) (linted, error) {
	l := linted{File: file, Errors: config.Problems{}, Warnings: config.Problems{}}
	data, err := config.Read(file)
	if err != nil {
		return l, err
	}
	c, err := config.Parse(file, data)
	var problems config.Problems
	if err != nil && !errors.As(err, &problems) {
		return l, err
	}
	l.Engines, l.Hooks, l.Jobs = len(c.Engines), len(c.Hooks), len(c.Jobs)
	errs, warnings := c.Lint(config.Surroundings{
		Stat: os.Stat,
		Secret: func(name string, basic bool) error {
			if basic {
				_, _, err := readBasic(name)
				return err
			}
			_, err := readToken(name)
			return err
		},
		CA: func(name string) error {
			_, err := readCA(name)
			return err
		},
		Policy: func(name string) error {
			_, err := policy.Load(name, os.ReadFile, features.Known, nil)
			return err
		},
	})
	l.Errors = append(append(l.Errors, problems...), errs...)
	l.Errors.Sort()
	l.Warnings = append(l.Warnings, warnings...)
	return l, nil
}
