package diagnose

import (
	"maps"
	"math"
)

// Metrics are an assessment's figures under the names by which a model tells them of
// itself, whoever trained it: counts beside what they were counted of.
func (a Assessment) Metrics() map[string]float64 {
	if a.Windows == 0 {
		return nil
	}
	return map[string]float64{"log_loss": a.LogLoss, "calibration_error": a.CalibrationError, "windows": float64(a.Windows),
		"first_right": float64(a.First), "incidents": float64(a.Incidents), "alarms": float64(a.Alarms), "quiet": float64(a.Quiet)}
}

// formerly are shares that models of the lab told by other names, each beside the name of
// what it was a share of, with the names of the two counts now.
var formerly = []struct{ share, of, count, all string }{
	{"first_at_60s", "first_at_60s_n", "first_right", "incidents"},
	{"quiet_alarms", "quiet_n", "alarms", "quiet"},
	{"compounds", "compounds_n", "compounds_right", "compounds"},
}

// Scores are the model's figures under the names of Metrics. What an artefact says stays
// as it stands, since its digest covers it.
func (a About) Scores() map[string]float64 {
	out := maps.Clone(a.Metrics)
	for _, f := range formerly {
		n, old := out[f.of]
		if !old {
			continue
		}
		share := out[f.share]
		delete(out, f.share)
		delete(out, f.of)
		out[f.count], out[f.all] = math.Round(share*n), n
	}
	if n, old := out["calibration_n"]; old {
		delete(out, "calibration_n")
		out["windows"] = n
	}
	return out
}
