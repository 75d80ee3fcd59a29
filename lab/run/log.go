package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/dhalion-go/dhalion/lab/scenario"
)

// runLog is what the runner knows of a run: with the recording it is all that the
// labels are made from.
type runLog struct {
	Scenario  scenarioJSON   `json:"scenario"`
	Shape     scenario.Shape `json:"shape"`
	Flink     string         `json:"flink"`
	JobID     string         `json:"job_id"`
	Attempt   int            `json:"attempt"`
	Begin     time.Time      `json:"begin"`
	End       time.Time      `json:"end"`
	Incidents []incidentLog  `json:"incidents"`
	Outages   []time.Time    `json:"outages"` // as the engine's exceptions have them; null: it did not say
	Machine   machineLog     `json:"machine"`
	Why       string         `json:"why,omitempty"` // a run that is not used
}

// machineLog are the samples: one a second, in thousandths.
type machineLog struct {
	From time.Time `json:"from"`
	Idle []int     `json:"idle"`
	Nice []int     `json:"nice"`
}

type incidentLog struct {
	Name        string             `json:"name"`
	Magnitude   string             `json:"magnitude"`
	Settle      string             `json:"settle"`
	Note        string             `json:"note,omitempty"`
	Load        float64            `json:"load"` // the run's own at the incident's start
	Faults      []faultLog         `json:"faults"`
	Start       time.Time          `json:"start"`
	End         time.Time          `json:"end"`         // the last knob went back
	Backlog     *float64           `json:"backlog"`     // records, at the end; null: Flink did not say
	Drained     time.Time          `json:"drained"`     // zero: not in the time given
	Placement   scenario.Placement `json:"placement"`   // at the start
	Checkpoints [2]*float64        `json:"checkpoints"` // failed so far, at the start and at the end; null: Flink did not say
}

type faultLog struct {
	Fault  scenario.Fault   `json:"fault"`
	On     string           `json:"on,omitempty"`
	Hosted map[string][]int `json:"hosted,omitempty"`
	Start  time.Time        `json:"start"`
	End    time.Time        `json:"end"`
}

// scenarioJSON writes a scenario as the text that it is read from.
type scenarioJSON struct{ scenario.Scenario }

func (s scenarioJSON) MarshalJSON() ([]byte, error) {
	text, err := s.Marshal()
	if err != nil {
		return nil, err
	}
	return json.Marshal(string(text))
}

// UnmarshalJSON reads that text. It does not check it against the shapes of today.
func (s *scenarioJSON) UnmarshalJSON(data []byte) error {
	var text string
	if err := json.Unmarshal(data, &text); err != nil {
		return err
	}
	return yaml.Unmarshal([]byte(text), &s.Scenario)
}

func (l *runLog) setMachine(samples []sample) {
	l.Machine = machineLog{Idle: []int{}, Nice: []int{}}
	for i, s := range samples {
		if i == 0 {
			l.Machine.From = s.at
		}
		l.Machine.Idle = append(l.Machine.Idle, int(1000*s.idle+.5))
		l.Machine.Nice = append(l.Machine.Nice, int(1000*s.nice+.5))
	}
}

func (m machineLog) samples() []sample {
	var all []sample
	for i := range m.Idle {
		all = append(all, sample{m.From.Add(time.Duration(i) * time.Second), float64(m.Idle[i]) / 1000, float64(m.Nice[i]) / 1000})
	}
	return all
}

// writeFile writes a file whole or not at all.
func writeFile(path string, data []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	if _, err := tmp.Write(data); err != nil {
		tmp.Close()
		return err
	}
	if err := tmp.Chmod(0o644); err != nil {
		tmp.Close()
		return err
	}
	if err := tmp.Close(); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}

func (l runLog) write(path string) error {
	data, err := json.Marshal(l)
	if err != nil {
		return err
	}
	return writeFile(path, append(data, '\n'))
}

// readLog reads a run's log. Its scenario was checked when it was recorded.
func readLog(path string) (runLog, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return runLog{}, err
	}
	var l runLog
	return l, json.Unmarshal(data, &l)
}
