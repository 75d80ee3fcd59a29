// Package flinkautoscaler reads what Flink's autoscaler keeps of its jobs in a
// database: the metrics of its window, the rescales it made, the parallelism it
// ordered. Its JDBC state store writes plain JSON, vertices by their id; this
// package decodes the texts and does not know where they came from.
package flinkautoscaler

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dhalion-go/dhalion/ingest"
)

// MaxValue is the most bytes that a state may have, decompressed: 1,000 vertices
// over a window of 15 polls have a third of it.
const MaxValue = 16 << 20

// Far above what a job has: the autoscaler keeps three rescales a vertex for a
// day unless told otherwise.
const (
	maxVertices = 2_000
	maxScalings = 10_000
)

// The types of state that are read.
const (
	CollectedMetrics     = "collectedMetrics"
	ScalingHistory       = "scalingHistory"
	ParallelismOverrides = "parallelismOverrides"
)

// Ignored are the types of state that hold nothing of a job's history: what the
// autoscaler remembers for itself.
var Ignored = []string{"scalingTracking", "configOverrides", "delayedScaleDown"}

// Poll is what the autoscaler collected at one time: by vertex, by its name of
// the metric. NaN is unknown.
type Poll struct {
	At       time.Time
	Vertices map[string]map[string]float64
}

// Scaling is a change of one vertex's parallelism that the autoscaler made.
type Scaling struct {
	At             time.Time
	Vertex         string
	From, To       int
	MaxParallelism int // 0: unknown
}

// number is a double as Jackson writes it: the values that JSON lacks are texts.
type number float64

func (n *number) UnmarshalJSON(data []byte) error {
	switch text := string(data); text {
	case `"NaN"`, "null":
		*n = number(math.NaN())
	case `"Infinity"`:
		*n = number(math.Inf(1))
	case `"-Infinity"`:
		*n = number(math.Inf(-1))
	default:
		v, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return fmt.Errorf("%.40s is no number", text)
		}
		*n = number(v)
	}
	return nil
}

// DecodeMetrics reads a state of type CollectedMetrics: polls, by time. Metrics of
// the cluster as a whole are left out: they are maxima over TaskManagers.
func DecodeMetrics(value string) ([]Poll, error) {
	var state map[string]struct {
		Vertices map[string]map[string]number `json:"vertexMetrics"`
	}
	if err := decode(value, &state); err != nil {
		return nil, err
	}
	polls, all := make([]Poll, 0, len(state)), map[string]bool{}
	for key, one := range state {
		at, err := instant(key)
		if err != nil {
			return nil, err
		}
		p := Poll{At: at, Vertices: make(map[string]map[string]float64, len(one.Vertices))}
		for id, metrics := range one.Vertices {
			if err := vertex(id); err != nil {
				return nil, err
			}
			all[id] = true
			values := make(map[string]float64, len(metrics))
			for name, v := range metrics {
				values[name] = float64(v)
			}
			p.Vertices[id] = values
		}
		polls = append(polls, p)
	}
	if err := few(len(all), maxVertices, "vertices"); err != nil {
		return nil, err
	}
	slices.SortFunc(polls, func(a, b Poll) int { return a.At.Compare(b.At) })
	for i := 1; i < len(polls); i++ {
		if polls[i].At.Equal(polls[i-1].At) {
			return nil, fmt.Errorf("the time %s is there twice", polls[i].At.Format(time.RFC3339Nano))
		}
	}
	return polls, nil
}

// DecodeScalings reads a state of type ScalingHistory: the rescales of all
// vertices, by time, then vertex.
func DecodeScalings(value string) ([]Scaling, error) {
	var state map[string]map[string]struct {
		From    int `json:"currentParallelism"`
		To      int `json:"newParallelism"`
		Metrics map[string]struct {
			Current number `json:"current"`
		} `json:"metrics"`
	}
	if err := decode(value, &state); err != nil {
		return nil, err
	}
	var list []Scaling
	for id, byTime := range state {
		if err := vertex(id); err != nil {
			return nil, err
		}
		for key, one := range byTime {
			at, err := instant(key)
			if err != nil {
				return nil, err
			}
			s := Scaling{At: at, Vertex: id, From: one.From, To: one.To}
			for _, p := range []int{s.From, s.To} {
				if p < 1 || p > ingest.MaxInstance+1 {
					return nil, fmt.Errorf("the parallelism %d of %s is not between 1 and %d", p, id, ingest.MaxInstance+1)
				}
			}
			if m, ok := one.Metrics["MAX_PARALLELISM"]; ok {
				if v := float64(m.Current); v >= float64(max(s.From, s.To)) && v <= ingest.MaxInstance+1 {
					s.MaxParallelism = int(v)
				}
			}
			list = append(list, s)
		}
	}
	if err := few(len(state), maxVertices, "vertices"); err != nil {
		return nil, err
	}
	if err := few(len(list), maxScalings, "rescales"); err != nil {
		return nil, err
	}
	slices.SortFunc(list, func(a, b Scaling) int { return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.Vertex, b.Vertex)) })
	return list, nil
}

// DecodeOverrides reads a state of type ParallelismOverrides: what parallelism
// the autoscaler ordered, of every vertex. Flink writes such a map as a:1,b:2, and
// since it writes its configuration as YAML as {a: '1', b: '2'}.
func DecodeOverrides(value string) (map[string]int, error) {
	text, err := plain(value)
	if err != nil {
		return nil, err
	}
	text = strings.TrimSpace(text)
	if inner, ok := strings.CutPrefix(text, "{"); ok {
		if text, ok = strings.CutSuffix(inner, "}"); !ok {
			return nil, errors.New("it begins with { and does not end with }")
		}
	}
	out := map[string]int{}
	if strings.TrimSpace(text) == "" {
		return out, nil
	}
	for part := range strings.SplitSeq(text, ",") {
		key, number, _ := strings.Cut(part, ":")
		id := strings.Trim(key, " \t\r\n'\"")
		if err := vertex(id); err != nil {
			return nil, err
		}
		p, err := strconv.Atoi(strings.Trim(number, " \t\r\n'\""))
		if err != nil || p < 1 || p > ingest.MaxInstance+1 {
			return nil, fmt.Errorf("the parallelism of %s is no number between 1 and %d", id, ingest.MaxInstance+1)
		}
		if _, twice := out[id]; twice {
			return nil, fmt.Errorf("%s is there twice", id)
		}
		out[id] = p
	}
	return out, few(len(out), maxVertices, "vertices")
}

func few(n, most int, what string) error {
	if n > most {
		return fmt.Errorf("it has %d %s, more than %d", n, what, most)
	}
	return nil
}

func decode(value string, into any) error {
	text, err := plain(value)
	if err != nil {
		return err
	}
	if !strings.HasPrefix(strings.TrimSpace(text), "{") {
		return errors.New("it is no JSON object")
	}
	in := json.NewDecoder(strings.NewReader(text))
	if err := in.Decode(into); err != nil {
		return fmt.Errorf("it is not the JSON that the autoscaler writes: %w", err)
	}
	if _, err := in.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the JSON object")
	}
	return nil
}

// plain undoes gzip in base64, which the operator uses where it keeps its state in
// ConfigMaps. Its YAML is not read.
func plain(value string) (string, error) {
	if len(value) > MaxValue {
		return "", fmt.Errorf("it has more than %d MiB", MaxValue>>20)
	}
	value = strings.TrimSpace(value)
	if !strings.HasPrefix(value, "H4sI") { // 1f 8b 08: gzip
		return value, nil
	}
	packed, err := base64.StdEncoding.DecodeString(value)
	if err != nil {
		return "", errors.New("it looks like gzip in base64 and is not")
	}
	in, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return "", fmt.Errorf("it looks like gzip in base64: %w", err)
	}
	var out strings.Builder
	n, err := io.Copy(&out, io.LimitReader(in, MaxValue+1))
	switch {
	case err != nil:
		return "", fmt.Errorf("decompress: %w", err)
	case n > MaxValue:
		return "", fmt.Errorf("it has more than %d MiB decompressed", MaxValue>>20)
	case strings.HasPrefix(out.String(), "---"):
		return "", errors.New("it is compressed YAML, as the operator keeps it in ConfigMaps")
	}
	return out.String(), nil
}

// instant reads a time as Java's Instant writes it.
func instant(key string) (time.Time, error) {
	at, err := time.Parse(time.RFC3339Nano, key)
	if err != nil || at.Year() < 1 || at.Year() > 9999 {
		return time.Time{}, fmt.Errorf("the key %.40q is no time", key)
	}
	return at.UTC().Truncate(time.Microsecond), nil
}

// vertex checks the id of a vertex: 32 hexadecimal digits.
func vertex(id string) error {
	if len(id) == 32 && strings.Trim(id, "0123456789abcdef") == "" {
		return nil
	}
	return fmt.Errorf("the key %.40q is no id of a vertex", id)
}
