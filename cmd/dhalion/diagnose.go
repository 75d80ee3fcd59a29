package main

import (
	"context"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/internal/store"
	"github.com/dhalion-go/dhalion/plan/planfile"
)

// diagnosisJSON is the answer of diagnose; model is null where the rules answer alone.
type diagnosisJSON struct {
	Job       dhalion.JobID       `json:"job"`
	At        time.Time           `json:"at"`
	Window    dhalion.Window      `json:"window"`
	Diagnoses []dhalion.Diagnosis `json:"diagnoses"`
	Unknown   []dhalion.Unknown   `json:"unknown"`
	Model     *string             `json:"model"`
	Beside    *besideJSON         `json:"beside,omitempty"`
}

// besideJSON is what another policy says of the same time.
type besideJSON struct {
	Policy    string              `json:"policy"`
	Window    dhalion.Window      `json:"window"`
	Diagnoses []dhalion.Diagnosis `json:"diagnoses"`
	Unknown   []dhalion.Unknown   `json:"unknown"`
}

func (a *app) diagnoseCommand() *cobra.Command {
	var f judgeFlags
	var beside string
	c := &cobra.Command{
		Use:   "diagnose JOB",
		Short: "Say what is wrong with a job, where, and how sure that is",
		Example: `  dhalion diagnose wordcount
  dhalion diagnose wordcount --at 2026-11-22T08:40:16.879Z --window 60s
  dhalion diagnose wordcount --policy mine.yaml --param slow=1.5 -o json
  dhalion diagnose wordcount --beside paper
  dhalion diagnose wordcount --model default`,
		Args:              one("JOB"),
		ValidArgsFunction: a.completeJob(),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.check(); err != nil {
				return err
			}
			other := judgeFlags{at: f.at, window: f.window, policy: beside}
			if beside != "" {
				if err := other.check(); err != nil {
					return err
				}
			}
			return a.withStore(cmd.Context(), func(ctx context.Context, st *store.Store) error {
				e, err := a.evaluate(ctx, st, args[0], f)
				if err != nil {
					return err
				}
				var second *evaluation
				if beside != "" {
					other.at = e.at.UTC().Format(time.RFC3339Nano)
					if second, err = a.evaluate(ctx, st, string(e.job), other); err != nil {
						return err
					}
				}
				if a.json() {
					answer := e.json()
					if second != nil {
						x := second.json()
						answer.Beside = &besideJSON{second.policy.Name, x.Window, x.Diagnoses, x.Unknown}
					}
					return a.writeJSON(answer)
				}
				a.head(e, e.result.Window)
				a.printf("\n")
				a.verdict(ctx, st, e)
				a.unknown(e.result.Unknown)
				if second != nil {
					a.title("Beside it, by policy " + plain(second.policy.Name))
					if s := second.result.Window.Span(); s > 0 && s != e.result.Window.Span() {
						a.printf("%s\n", a.style(dim, "from the "+planfile.Duration(s)+" before"))
					}
					a.verdict(ctx, st, second)
					a.unknown(second.result.Unknown)
				}
				a.next(
					[2]string{command("explain", string(e.job), "--at", stamp(e.at)), "see how that came about"},
					[2]string{command("plan", string(e.job), "--at", stamp(e.at)), "see what to do"},
				)
				return nil
			})
		},
	}
	a.judgeFlags(c, &f)
	a.modelFlag(c, &f)
	c.Flags().StringVar(&beside, "beside", "", "show beside it what another `policy` says, such as paper")
	return c
}

func (e *evaluation) json() diagnosisJSON {
	w := e.result.Window
	w.Start, w.End = w.Start.UTC(), w.End.UTC()
	answer := diagnosisJSON{Job: e.job, At: e.at.UTC(), Window: w, Diagnoses: evidenced(e.result.Diagnoses), Unknown: list(e.result.Unknown)}
	if e.model != nil {
		answer.Model = &e.model.ID
	}
	return answer
}

// evidenced makes lists of evidence that are there, be they empty.
func evidenced(l []dhalion.Diagnosis) []dhalion.Diagnosis {
	out := make([]dhalion.Diagnosis, len(l))
	for i, d := range l {
		d.Evidence = list(d.Evidence)
		out[i] = d
	}
	return out
}

// barWidth is the width of a probability's bar; one cell is 10 %.
const barWidth = 10

func bar(p float64) string {
	n := int(math.Round(p * barWidth))
	return strings.Repeat("█", n) + strings.Repeat("░", barWidth-n)
}

// verdict says what is wrong, or why that cannot be said.
func (a *app) verdict(ctx context.Context, st *store.Store, e *evaluation) {
	if len(e.result.Diagnoses) == 0 {
		if note := a.outside(ctx, st, e); note != "" {
			a.printf("%s\n", note)
			return
		}
		for _, u := range e.result.Unknown {
			if u.Cause == "" && u.Target.Kind == dhalion.KindJob && e.result.Snapshot.Polls < e.policy.Minimum.Polls {
				a.printf("There is too little data to judge.\n")
				return
			}
			// A yes-or-no policy names the component at which it could not decide.
			if u.Cause != "" && u.Target.Kind == dhalion.KindComponent {
				a.printf("What is wrong cannot be said: what decides it is unknown.\n")
				return
			}
		}
	}
	a.diagnoses(e.result.Diagnoses)
}

// diagnoses lists what is wrong, likeliest first, with the main evidence of what
// is more likely than not.
func (a *app) diagnoses(diagnoses []dhalion.Diagnosis) {
	if len(diagnoses) == 0 {
		a.printf("Nothing is wrong, as far as can be judged.\n")
		return
	}
	width := 0
	for _, d := range diagnoses {
		width = max(width, columns(words(d.Cause)))
	}
	for _, d := range diagnoses {
		line := fmt.Sprintf("%s  %s  %s  %s", padLeft(planfile.Percent(d.Probability), 6), bar(d.Probability), pad(words(d.Cause), width), planfile.Where(d.Target))
		if d.Probability >= 0.5 {
			line = a.style(bold, line)
		}
		a.printf("%s\n", line)
		const indent = "                    "
		if d.ExplainedBy != nil {
			a.printf("%swhat is left beside %s at %s\n", indent, words(d.ExplainedBy.Cause), planfile.Where(d.ExplainedBy.Target))
		}
		if d.Probability < 0.5 {
			continue
		}
		shown := 0
		for _, e := range d.Evidence {
			if shown == 3 || e.Weight == 0 {
				break
			}
			a.printf("%s%s  %s\n", indent, weight(e.Weight), plain(evidence(e)))
			shown++
		}
	}
}

// weight is log-odds as people read them: "+4.2", "−0.5".
func weight(w float64) string {
	sign := "+"
	if w < 0 {
		sign = "−"
	}
	return fmt.Sprintf("%s%.1f", sign, math.Abs(w))
}

// evidence is a voice in words: "load above capacity (1.35)".
func evidence(e dhalion.Evidence) string {
	text := strings.ReplaceAll(e.Name, "-", " ")
	if !math.IsNaN(e.Value) {
		text += " (" + planfile.Quantity(e.Value) + ")"
	}
	return text
}
