package main

import (
	"github.com/spf13/cobra"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/features"
	"github.com/dhalion-go/dhalion/ingest/flink"
)

func (a *app) metricsCommand() *cobra.Command {
	return group(&cobra.Command{
		Use:     "metrics",
		Short:   "Print which metrics there are and where they come from",
		Example: "  dhalion metrics flink\n  dhalion metrics csv\n  dhalion metrics features",
	}, a.metricsFlink(), a.metricsCSV(), a.metricsFeatures(), a.metricsPrometheus(), a.metricsAutoscaler())
}

func derived(d bool) string {
	if d {
		return "derived"
	}
	return ""
}

func (a *app) metricsFlink() *cobra.Command {
	return &cobra.Command{
		Use:     "flink",
		Short:   "Print how Flink's REST answers map to metrics",
		Example: "  dhalion metrics flink -o json",
		Args:    none,
		RunE: func(*cobra.Command, []string) error {
			mapping := flink.Mapping()
			if a.json() {
				return a.writeJSON(struct {
					Engine  string                `json:"engine"`
					Metrics []flink.MetricMapping `json:"metrics"`
				}{"flink", mapping})
			}
			kind := dhalion.TargetKind("")
			for _, m := range mapping {
				if m.Target != kind {
					kind = m.Target
					a.title("Of each " + string(kind))
				}
				unit := ""
				if info, ok := m.Metric.Info(); ok {
					unit = " [" + info.Unit + "]"
				}
				line := string(m.Metric) + unit
				if m.Derived {
					line += ", derived"
				}
				a.printf("  %s\n", a.style(bold, line))
				a.printf("      %s\n", wrap("from "+m.From, a.width()-6, "      "))
				if m.Help != "" {
					a.printf("      %s\n", wrap(m.Help, a.width()-6, "      "))
				}
			}
			return nil
		},
	}
}

func (a *app) metricsCSV() *cobra.Command {
	return &cobra.Command{
		Use:   "csv",
		Short: "Print the metrics that canonical CSV may hold",
		Long: `Print the metrics that canonical CSV may hold: in the column metric, or as columns of
the wide form. A metric that is not measured has no rows, or an empty cell: it is
unknown, never zero.`,
		Example: "  dhalion metrics csv",
		Args:    none,
		RunE: func(*cobra.Command, []string) error {
			if a.json() {
				return a.writeJSON(struct {
					Engine  string               `json:"engine"`
					Metrics []dhalion.MetricInfo `json:"metrics"`
				}{"csv", dhalion.Metrics})
			}
			t := &table{head: []string{"metric", "unit", "", "what"}, wide: 3}
			for _, m := range dhalion.Metrics {
				t.add(string(m.Name), m.Unit, derived(m.Derived), m.Help)
			}
			a.table("", t)
			return nil
		},
	}
}

type featureJSON struct {
	Name string             `json:"name"`
	Kind dhalion.TargetKind `json:"target"`
	Unit string             `json:"unit"`
	Help string             `json:"help"`
}

func (a *app) metricsFeatures() *cobra.Command {
	return &cobra.Command{
		Use:   "features",
		Short: "Print the derived numbers that a policy's rules can ask for",
		Long: `Print the derived numbers that a policy's rules can ask for, by kind of target. Beside
them every metric of a target is there by its name, the mean over the window.`,
		Example: "  dhalion metrics features",
		Args:    none,
		RunE: func(*cobra.Command, []string) error {
			if a.json() {
				out := []featureJSON{}
				for _, d := range features.DerivedFeatures {
					out = append(out, featureJSON{d.Name, d.Kind, d.Unit, d.Help})
				}
				return a.writeJSON(struct {
					Features []featureJSON `json:"features"`
				}{out})
			}
			for _, kind := range dhalion.TargetKinds {
				a.title("Of each " + string(kind))
				for _, d := range features.DerivedFeatures {
					if d.Kind != kind {
						continue
					}
					a.printf("  %s  %s\n", pad(d.Name, 26), wrap(d.Help+" ["+d.Unit+"]", a.width()-30, "                              "))
				}
			}
			return nil
		},
	}
}
