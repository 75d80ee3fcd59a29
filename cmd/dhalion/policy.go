package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/features"
	"github.com/dhalion-go/dhalion/plan/policy"
)

func (a *app) policyCommand() *cobra.Command {
	return group(&cobra.Command{
		Use:   "policy",
		Short: "List, show and check policies: how jobs are judged and what may be done",
		Example: `  dhalion policy list
  dhalion policy show default > mine.yaml
  dhalion policy lint mine.yaml`,
	}, a.policyList(), a.policyShow(), a.policyLint())
}

type policyJSON struct {
	Name      string            `json:"name"`
	Digest    string            `json:"digest"`
	Detectors int               `json:"detectors"`
	Rules     int               `json:"rules"`
	YAML      string            `json:"yaml,omitempty"`
	Warnings  []dhalion.Warning `json:"warnings,omitempty"`
}

func (a *app) policyList() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List the built-in policies",
		Example: "  dhalion policy list",
		Args:    none,
		RunE: func(*cobra.Command, []string) error {
			policies := []policyJSON{}
			for _, name := range policy.Builtins() {
				p, err := policy.Load(name, os.ReadFile, features.Known, nil)
				if err != nil {
					return err
				}
				policies = append(policies, policyJSON{Name: name, Digest: p.Digest, Detectors: len(p.Detectors), Rules: len(p.Rules)})
			}
			if a.json() {
				return a.writeJSON(struct {
					Policies []policyJSON `json:"policies"`
				}{policies})
			}
			t := &table{head: []string{"policy", ">detectors", ">rules", "digest"}}
			for _, p := range policies {
				t.add(p.Name, fmt.Sprint(p.Detectors), fmt.Sprint(p.Rules), p.Digest[:min(12, len(p.Digest))])
			}
			a.table("", t)
			a.next([2]string{"dhalion policy show default > mine.yaml", "start one of your own"})
			return nil
		},
	}
}

func (a *app) policyShow() *cobra.Command {
	var effective bool
	var f judgeFlags
	c := &cobra.Command{
		Use:   "show [NAME|FILE]",
		Short: "Print a policy",
		Long: `Print a policy: a built-in one as it was written, with its comments, or a file's as it
comes out together with what it extends. --effective prints that for a built-in one, too.`,
		Example: `  dhalion policy show default > mine.yaml
  dhalion policy show mine.yaml --param slow=1.5`,
		Args:              atMostOne,
		ValidArgsFunction: cobra.FixedCompletions(policy.Builtins(), cobra.ShellCompDirectiveDefault),
		RunE: func(_ *cobra.Command, args []string) error {
			f.policy = "default"
			if len(args) > 0 {
				f.policy = args[0]
			}
			if err := f.check(); err != nil {
				return err
			}
			p, err := f.loadPolicy()
			if err != nil {
				return err
			}
			text := p.YAML()
			if source, ok := policy.Source(f.policy); ok && !effective && len(f.params) == 0 {
				text = source
			}
			if a.json() {
				return a.writeJSON(policyJSON{Name: p.Name, Digest: p.Digest, Detectors: len(p.Detectors), Rules: len(p.Rules), YAML: string(text)})
			}
			a.out.Write(text)
			return nil
		},
	}
	c.Flags().BoolVar(&effective, "effective", false, "with what it extends and the parameters given")
	c.Flags().StringArrayVar(&f.params, "param", nil, "set a parameter, `KEY=VALUE`; may be repeated")
	return c
}

func (a *app) policyLint() *cobra.Command {
	return &cobra.Command{
		Use:   "lint FILE…",
		Short: "Check policies: errors with file and line, and what looks like a mistake",
		Long: `Check policies. An error, which would stop every command that uses the policy, ends
with exit code 1; warnings about what looks like a mistake do not.`,
		Example: "  dhalion policy lint mine.yaml",
		Args:    some("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			checked := []policyJSON{}
			failed := false
			for _, name := range args {
				p, err := policy.Load(name, os.ReadFile, features.Known, nil)
				if err != nil {
					failed = true
					a.report(cmd.Context(), err)
					continue
				}
				r := policyJSON{Name: p.Name, Digest: p.Digest, Detectors: len(p.Detectors), Rules: len(p.Rules), Warnings: p.Lint()}
				checked = append(checked, r)
				if a.json() {
					continue
				}
				a.printf("%s: policy %s, %s, %s\n", plain(name), plain(p.Name), plural(r.Detectors, "detector"), plural(r.Rules, "rule"))
				for _, w := range r.Warnings {
					a.printf("  - %s\n", wrap(plain(w.Message+" ["+w.Code+"]"), a.width()-4, "    "))
				}
			}
			if a.json() {
				if err := a.writeJSON(struct {
					Policies []policyJSON `json:"policies"`
				}{checked}); err != nil {
					return err
				}
			}
			if failed {
				return errFailed
			}
			return nil
		},
	}
}
