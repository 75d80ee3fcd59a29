package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/diagnose"
	"github.com/dhalion-go/dhalion/internal/store"
	"github.com/dhalion-go/dhalion/plan/planfile"
)

func (a *app) modelsCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "models",
		Short: "Look after trained models: list, compare, promote, take back",
		Long: `Look after trained models. The active one is what the rules' answers are combined with, unless
--model or the policy say otherwise: the one that was promoted last, or where none was, the
one that comes with the program (default).`,
		Example: `  dhalion models list
  dhalion models compare default 3f2a
  dhalion models promote 3f2a --note "tried for a week"`,
	}
	c.AddCommand(a.modelsList(), a.modelsShow(), a.modelsCompare(), a.modelsPromote(), a.modelsRollback(), a.modelsExport(), a.modelsImport())
	return c
}

func (a *app) modelsList() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List the models, the newest first, and the one that comes with the program",
		Example: "  dhalion models list\n  dhalion models list -o json",
		Args:    none,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withStore(cmd.Context(), func(ctx context.Context, st *store.Store) error {
				all, err := st.Models(ctx)
				if err != nil {
					return err
				}
				own, err := ownModel()
				if err != nil {
					return err
				}
				about, err := json.Marshal(own.About)
				if err != nil {
					return fmt.Errorf("models: %w", err)
				}
				// Promoted once, it is in the registry, too.
				if !slices.ContainsFunc(all, func(m store.ModelRow) bool { return m.ID == own.ID }) {
					all = append(all, store.ModelRow{ID: own.ID, About: about, Schema: diagnose.Schema(), Person: "built in", Bytes: len(builtInModel)})
				}
				if !slices.ContainsFunc(all, func(m store.ModelRow) bool { return m.Active }) {
					all[slices.IndexFunc(all, func(m store.ModelRow) bool { return m.ID == own.ID })].Active = true
				}
				abouts := make([]diagnose.About, len(all))
				for i, m := range all {
					if err := json.Unmarshal(m.About, &abouts[i]); err != nil {
						return fmt.Errorf("models: %s: %w", m.ID, err)
					}
					abouts[i] = told(abouts[i])
					if all[i].About, err = json.Marshal(abouts[i]); err != nil {
						return fmt.Errorf("models: %s: %w", m.ID, err)
					}
				}
				if a.json() {
					return a.writeJSON(struct {
						Models []store.ModelRow `json:"models"`
					}{all})
				}
				t := &table{head: []string{"model", "active", "made", "by", "learner", "incidents", "log loss", "schema", "note"}, wide: 8}
				for i, m := range all {
					about := abouts[i]
					active, made, loss := "", "", "–"
					if m.Active {
						active = "active"
					}
					if !m.CreatedAt.IsZero() {
						made = when(m.CreatedAt)
					}
					if v, ok := about.Metrics["log_loss"]; ok {
						loss = fmt.Sprintf("%.4f", v)
					}
					t.add(m.ID, active, made, m.Person, about.Learner, fmt.Sprint(about.Incidents), loss, cmp.Or(fmt.Sprintf("%.12s", m.Schema), "–"), m.Note)
				}
				a.table("", t)
				return nil
			})
		},
	}
}

// model finds a model by what a flag or argument says: none (nil), default, active,
// an id or its beginning, or a file.
func (a *app) model(ctx context.Context, st *store.Store, ref string) (*diagnose.Learned, error) {
	if ref == "active" {
		id, err := st.ActiveModel(ctx)
		if err != nil {
			return nil, err
		}
		if id == "" {
			return ownModel()
		}
		ref = id
	}
	if isModelID(ref) {
		_, artefact, err := st.Artefact(ctx, ref)
		if err != nil {
			return nil, hinted(err, "dhalion models list")
		}
		return diagnose.Decode(artefact)
	}
	return loadModel(ref)
}

// isModelID says that a text may be the beginning of a model's id; what is a file is
// written with a dot or a slash.
func isModelID(ref string) bool {
	return len(ref) > 0 && len(ref) <= 12 && strings.Trim(ref, "0123456789abcdef") == ""
}

func (a *app) modelsShow() *cobra.Command {
	return &cobra.Command{
		Use:     "show MODEL",
		Short:   "Show what a model says of itself",
		Example: "  dhalion models show default\n  dhalion models show 3f2a -o json",
		Args:    one("MODEL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withStore(cmd.Context(), func(ctx context.Context, st *store.Store) error {
				m, err := a.model(ctx, st, args[0])
				if err != nil {
					return err
				}
				if m == nil {
					return fmt.Errorf("models: %s is no model: the rules answer alone", args[0])
				}
				promotions, err := st.Promotions(ctx)
				if err != nil {
					return err
				}
				promotions = slices.DeleteFunc(promotions, func(p store.Promotion) bool { return p.Model != m.ID })
				if a.json() {
					return a.writeJSON(struct {
						ID         string            `json:"id"`
						Schema     string            `json:"schema"`
						About      diagnose.About    `json:"about"`
						Judges     []string          `json:"judges"`
						Promotions []store.Promotion `json:"promotions"`
					}{m.ID, diagnose.Schema(), told(m.About), list(m.Judges()), list(promotions)})
				}
				a.printf("Model %s, a %s (seed %d), of %d incidents and %d windows of %s.\n", m.ID, m.About.Learner, m.About.Seed, m.About.Incidents, m.About.Windows, strings.Join(m.About.Families, ", "))
				judges := "It has learned no cause."
				if of := m.Judges(); len(of) > 0 {
					judges = "It judges " + strings.Join(of, ", ") + "."
				}
				a.printf("Data %.12s, vectors of schema %.12s. %s\n", m.About.Data, diagnose.Schema(), judges)
				a.sideBySide([]string{m.ID}, []diagnose.About{told(m.About)})
				for _, p := range promotions {
					a.printf("%s  made active by %s %s\n", when(p.At), plain(p.Person), plain(p.Note))
				}
				return nil
			})
		},
	}
}

// told is what a model says of itself, its scores under the names of this program.
func told(about diagnose.About) diagnose.About {
	about.Metrics = about.Scores()
	return about
}

func (a *app) sideBySide(names []string, abouts []diagnose.About) {
	t := &table{head: append([]string{""}, names...), wide: 0}
	row := func(name string, cell func(m map[string]float64) (text string, ok bool)) {
		line, known := []string{name}, false
		for _, about := range abouts {
			text, ok := cell(about.Metrics)
			if !ok {
				text = "–"
			}
			line, known = append(line, text), known || ok
		}
		if known {
			t.add(line...)
		}
	}
	number := func(key string) func(map[string]float64) (string, bool) {
		return func(m map[string]float64) (string, bool) {
			v, ok := m[key]
			return planfile.Quantity(v), ok
		}
	}
	// of is a count beside that of all: models are rarely scored on equally many.
	of := func(key, all string) func(map[string]float64) (string, bool) {
		return func(m map[string]float64) (string, bool) {
			v, ok := m[key]
			return fmt.Sprintf("%.0f/%.0f", v, m[all]), ok && m[all] > 0
		}
	}
	row("log loss", number("log_loss"))
	row("calibration error", number("calibration_error"))
	row("first is right", of("first_right", "incidents"))
	row("compounds are right", of("compounds_right", "compounds"))
	row("false alarms", of("alarms", "quiet"))
	row("windows", number("windows"))
	if len(t.rows) == 0 {
		return
	}
	a.printf("\n")
	a.table("  ", t)
}

func (a *app) modelsCompare() *cobra.Command {
	return &cobra.Command{
		Use:   "compare MODEL MODEL",
		Short: "Show the scores of two models side by side",
		Long: `Show the scores of two models side by side, each as it was when it was trained: what train
keeps is asked at the end of each incident, the program's own was asked a minute into
moderate and strong ones of one cause. On the same incidents they are compared by
evaluate-model.`,
		Example: "  dhalion models compare default 3f2a",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 2 {
				return usagef("%s takes two models", cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withStore(cmd.Context(), func(ctx context.Context, st *store.Store) error {
				var abouts []diagnose.About
				var ids []string
				for _, ref := range args {
					m, err := a.model(ctx, st, ref)
					if err != nil {
						return err
					}
					if m == nil {
						return fmt.Errorf("models: %s is no model: the rules answer alone", ref)
					}
					abouts, ids = append(abouts, told(m.About)), append(ids, m.ID)
				}
				if a.json() {
					type row struct {
						ID    string         `json:"id"`
						About diagnose.About `json:"about"`
					}
					return a.writeJSON(map[string][]row{"models": {{ids[0], abouts[0]}, {ids[1], abouts[1]}}})
				}
				a.sideBySide(ids, abouts)
				return nil
			})
		},
	}
}

func (a *app) modelsPromote() *cobra.Command {
	note, as := "", ""
	c := &cobra.Command{
		Use:     "promote MODEL",
		Short:   "Make a model the active one",
		Example: "  dhalion models promote 3f2a --note 'tried for a week'",
		Args:    one("MODEL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withStore(cmd.Context(), func(ctx context.Context, st *store.Store) error {
				if args[0] == "default" {
					if err := a.keepBuiltIn(ctx, st, as); err != nil {
						return err
					}
				}
				m, err := a.model(ctx, st, args[0])
				if err != nil {
					return err
				}
				if m == nil {
					return usagef("%s is no model; models rollback takes a promotion back", args[0])
				}
				id, changed, err := st.Promote(ctx, m.ID, a.named(as), note, a.now())
				if err != nil {
					return err
				}
				if !changed && !a.json() {
					a.printf("Model %s is active already.\n", id)
					return nil
				}
				return a.nowActive(id)
			})
		},
	}
	c.Flags().StringVar(&note, "note", "", "why")
	c.Flags().StringVar(&as, "as", "", "`person` who promotes it (default: the user)")
	return c
}

// keepBuiltIn puts the program's own model into the registry, so that it is still
// the active one when another program brings another.
func (a *app) keepBuiltIn(ctx context.Context, st *store.Store, as string) error {
	own, err := ownModel()
	if err != nil {
		return err
	}
	_, err = st.SaveModel(ctx, own.ID, builtInModel, own.About, diagnose.Schema(), a.named(as), "it came with the program", a.now())
	return err
}

func (a *app) nowActive(id string) error {
	if a.json() {
		return a.writeJSON(map[string]string{"active": id})
	}
	if id == "" {
		a.printf("No model is promoted: the one that comes with the program is active.\n")
		return nil
	}
	a.printf("Model %s is active: what is judged from now on is combined with it.\n", id)
	return nil
}

func (a *app) modelsRollback() *cobra.Command {
	note, as := "", ""
	c := &cobra.Command{
		Use:     "rollback",
		Short:   "Take the newest promotion back: the model from before it is active again",
		Example: "  dhalion models rollback --note 'too many alarms'",
		Args:    none,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withStore(cmd.Context(), func(ctx context.Context, st *store.Store) error {
				id, err := st.TakeBack(ctx, a.named(as), note, a.now())
				if err != nil {
					return err
				}
				return a.nowActive(id)
			})
		},
	}
	c.Flags().StringVar(&note, "note", "", "why")
	c.Flags().StringVar(&as, "as", "", "`person` who takes it back (default: the user)")
	return c
}

func (a *app) modelsExport() *cobra.Command {
	out := ""
	c := &cobra.Command{
		Use:     "export MODEL --out FILE",
		Short:   "Write a model's artefact to a file",
		Example: "  dhalion models export 3f2a --out june.model",
		Args:    one("MODEL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if out == "" {
				return usagef("--out says where to write it")
			}
			return a.withStore(cmd.Context(), func(ctx context.Context, st *store.Store) error {
				m, err := a.model(ctx, st, args[0])
				if err != nil {
					return err
				}
				if m == nil {
					return fmt.Errorf("models: %s is no model: the rules answer alone", args[0])
				}
				artefact, err := m.Encode()
				if err != nil {
					return err
				}
				return planfile.WriteFile(out, artefact)
			})
		},
	}
	c.Flags().StringVar(&out, "out", "", "the `file`")
	return c
}

func (a *app) modelsImport() *cobra.Command {
	note, as := "", ""
	c := &cobra.Command{
		Use:     "import FILE",
		Short:   "Take a model in that was exported",
		Example: "  dhalion models import june.model",
		Args:    one("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			artefact, err := os.ReadFile(args[0])
			if err != nil {
				return err
			}
			m, err := diagnose.Decode(artefact)
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			return a.withStore(cmd.Context(), func(ctx context.Context, st *store.Store) error {
				added, err := st.SaveModel(ctx, m.ID, artefact, m.About, diagnose.Schema(), a.named(as), note, a.now())
				if err != nil {
					return err
				}
				if a.json() {
					return a.writeJSON(struct {
						Model string `json:"model"`
						Added bool   `json:"added"`
					}{m.ID, added})
				}
				if !added {
					a.printf("Model %s is known already.\n", m.ID)
					return nil
				}
				a.printf("Model %s is taken in.\n", m.ID)
				a.next([2]string{command("models", "promote", m.ID), "make it the active one"})
				return nil
			})
		},
	}
	c.Flags().StringVar(&note, "note", "", "what to remember about it")
	c.Flags().StringVar(&as, "as", "", "`person` who takes it in (default: the user)")
	return c
}

func (a *app) evaluateModelCommand() *cobra.Command {
	var f judgeFlags
	family, file, engine := "", "", "file"
	c := &cobra.Command{
		Use:   "evaluate-model MODEL",
		Short: "Score a model on labelled incidents, beside the rules alone",
		Long: `Score a model on the labelled incidents, beside the rules alone. With --incidents a file of
labels is taken in their place, in the formats that incidents import reads; nothing of it is
kept, and the jobs' histories must be known. Labels that are not sure are left out, as are those
that nothing is judged by, or that are too short, which are listed. Of quiet windows those
count that are a window's length apart. Of incidents that it was trained on the score says
little: leave a family out of train (--holdout) and score it on that, or on labels that train
has not seen.`,
		Example: `  dhalion evaluate-model active
  dhalion evaluate-model 3f2a --incidents july.csv
  dhalion evaluate-model 3f2a --family orders -o json`,
		Args: one("MODEL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.check(); err != nil {
				return err
			}
			return a.withStore(cmd.Context(), func(ctx context.Context, st *store.Store) error {
				m, err := a.model(ctx, st, args[0])
				if err != nil {
					return err
				}
				if m == nil {
					return fmt.Errorf("models: %s is no model: the rules answer alone", args[0])
				}
				var incidents []store.Incident
				if file == "" {
					if incidents, err = labels(ctx, st, true); err != nil {
						return fmt.Errorf("evaluate-model: %w", err)
					}
				} else {
					if incidents, err = (labelReader{engine: engine, certainty: 1, name: file, remark: a.remark, ctx: ctx, st: st}).file(); err != nil {
						return fmt.Errorf("evaluate-model: %w", err)
					}
					// The order of a file's rows shall not change what is asked, nor what is summed.
					slices.SortStableFunc(incidents, func(a, b store.Incident) int {
						return cmp.Or(a.Start.Compare(b.Start), a.End.Compare(b.End), cmp.Compare(a.Cause, b.Cause))
					})
				}
				examples, left, err := a.examples(ctx, st, f, incidents)
				if err != nil {
					return fmt.Errorf("evaluate-model: %w", err)
				}
				if family != "" {
					of, some, err := partOf(incidents, "--family", family)
					if err != nil {
						return err
					}
					examples = slices.DeleteFunc(examples, func(e diagnose.Example) bool { return !of(dhalion.JobID(e.Run)) })
					if left = lefts(left, of); len(examples) == 0 {
						return fmt.Errorf("evaluate-model: --family %q: %w", family, untaught(some, left))
					}
				}
				if examples = sure(examples); len(examples) == 0 {
					return errors.New("evaluate-model: none of the labels is sure, and the others are no measure")
				}
				scores := map[string]diagnose.Assessment{
					"rules": diagnose.Assess(examples, each(examples, diagnose.ByRules)),
					m.ID:    diagnose.Assess(examples, each(examples, m.Probabilities)),
				}
				if a.json() {
					return a.writeJSON(struct {
						Model  string                         `json:"model"`
						Scores map[string]diagnose.Assessment `json:"scores"`
						Left   []leftOut                      `json:"left_out"`
					}{m.ID, scores, list(left)})
				}
				a.assessments(scores)
				a.leftOut(left)
				return nil
			})
		},
	}
	a.policyFlags(c, &f)
	c.Flags().StringVar(&family, "family", "", "only this `family`, or job, by its id or bare name")
	c.Flags().StringVar(&file, "incidents", "", "the labels of this `file`, CSV or JSON, in place of those that are kept")
	c.Flags().StringVar(&engine, "engine", engine, "first part of the ids of jobs that the file names without one")
	return c
}
