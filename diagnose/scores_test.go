package diagnose

import (
	"maps"
	"slices"
	"testing"
)

func TestOldNamesOfScoresAreReadAsTheNewOnes(t *testing.T) {
	// 21 of 22 compounds, 97 of 98 first, 3 alarms in 307 quiet windows.
	old := About{Metrics: map[string]float64{"log_loss": .002, "calibration_error": .001, "calibration_n": 484, "compounds": 21. / 22, "compounds_n": 22,
		"first_at_60s": 97. / 98, "first_at_60s_n": 98, "quiet_alarms": 3. / 307, "quiet_n": 307}}
	before := maps.Clone(old.Metrics)
	want := map[string]float64{"log_loss": .002, "calibration_error": .001, "windows": 484, "compounds_right": 21, "compounds": 22,
		"first_right": 97, "incidents": 98, "alarms": 3, "quiet": 307}
	if got := old.Scores(); !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if !maps.Equal(old.Metrics, before) {
		t.Errorf("the artefact's own words are changed: %v", old.Metrics)
	}
	if got := (About{Metrics: want}).Scores(); !maps.Equal(got, want) {
		t.Errorf("new names became %v", got)
	}
	if got := (About{}).Scores(); len(got) != 0 {
		t.Errorf("of nothing: %v", got)
	}
}

func TestEveryTrainerTellsItsScoresByTheSameNames(t *testing.T) {
	a := Assessment{LogLoss: .1, CalibrationError: .01, Windows: 9, First: 3, Incidents: 4, Alarms: 1, Quiet: 5}
	m := a.Metrics()
	if got := (About{Metrics: m}).Scores(); !maps.Equal(got, m) {
		t.Errorf("%v, read as %v", m, got)
	}
	names := slices.Sorted(maps.Keys(m))
	if want := []string{"alarms", "calibration_error", "first_right", "incidents", "log_loss", "quiet", "windows"}; !slices.Equal(names, want) {
		t.Errorf("names %v, want %v", names, want)
	}
}
