package diagnose

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	dhalion "github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/features"
	"github.com/dhalion-go/dhalion/models"
)

// The artefact of a model is a gzip stream of one JSON document: format, version,
// the SHA-256 of the body as it stands, and the body.
const (
	artefactFormat  = "dhalion-model"
	artefactVersion = 2
	// mostArtefact bounds what is unpacked, in bytes; parsed it takes some thirty
	// times as much at the worst.
	mostArtefact = 8 << 20
)

// About is what a model says of itself.
type About struct {
	Learner   string             `json:"learner"`
	Seed      uint64             `json:"seed"`
	Data      string             `json:"data"` // SHA-256 of what it was trained on
	Families  []string           `json:"families"`
	Incidents int                `json:"incidents"`
	Windows   int                `json:"windows"`
	Metrics   map[string]float64 `json:"metrics,omitempty"`
}

type envelope struct {
	Format  string          `json:"format"`
	Version int             `json:"version"`
	Digest  string          `json:"digest"`
	Body    json.RawMessage `json:"body"`
}

type body struct {
	About       About                                    `json:"about"`
	Schemas     map[dhalion.TargetKind]string            `json:"schemas"`
	Features    map[dhalion.TargetKind][]string          `json:"features"`
	Classifiers []codedSeat                              `json:"classifiers"`
	Familiar    map[dhalion.TargetKind]*codedFamiliar    `json:"familiar"`
	Fused       *Fusion                                  `json:"fused"`
	Alone       *Fusion                                  `json:"alone"`
	Calibration models.Calibration                       `json:"calibration"`
	References  map[dhalion.TargetKind]*models.Reference `json:"references"`
	Exemplars   []codedExemplar                          `json:"exemplars"`
}

type codedSeat struct {
	Cause dhalion.Cause      `json:"cause"`
	Kind  dhalion.TargetKind `json:"kind"`
	Model models.Coded       `json:"model"`
}

// codedFamiliar has null where a feature was never known: JSON has no NaN.
type codedFamiliar struct {
	Low   []*float64 `json:"low"`
	High  []*float64 `json:"high"`
	Limit float64    `json:"limit"`
}

type codedExemplar struct {
	Exemplar
	Values []*float64 `json:"values"`
}

// Encode writes the model; its ID, which is set, is the first 12 hex digits of the
// body's digest. Equal models give equal bytes.
func (m *Learned) Encode() ([]byte, error) {
	b := body{About: m.About, Schemas: map[dhalion.TargetKind]string{}, Features: map[dhalion.TargetKind][]string{}, Familiar: map[dhalion.TargetKind]*codedFamiliar{},
		Fused: m.Fused, Alone: m.Alone, Calibration: m.Calibration, References: m.References, Exemplars: []codedExemplar{}}
	for _, e := range m.Exemplars {
		b.Exemplars = append(b.Exemplars, codedExemplar{e, pointers(e.Values)})
	}
	for _, kind := range dhalion.TargetKinds {
		schema := features.JudgingSchema(kind)
		b.Schemas[kind] = schema.Digest
		for _, i := range m.columns[kind] {
			b.Features[kind] = append(b.Features[kind], schema.Names[i])
		}
		if f := m.Familiar[kind]; f != nil {
			b.Familiar[kind] = &codedFamiliar{pointers(f.Low), pointers(f.High), f.Limit}
		}
	}
	for _, s := range seats() {
		c := m.Classifiers[s]
		if c == nil {
			continue
		}
		coded, err := models.Encode(c)
		if err != nil {
			return nil, fmt.Errorf("diagnose: encode model: %w", err)
		}
		b.Classifiers = append(b.Classifiers, codedSeat{s.Cause, s.Kind, coded})
	}
	text, err := json.Marshal(b)
	if err != nil {
		return nil, fmt.Errorf("diagnose: encode model: %w", err)
	}
	sum := sha256.Sum256(text)
	m.ID = hex.EncodeToString(sum[:])[:12]
	whole, err := json.Marshal(envelope{artefactFormat, artefactVersion, hex.EncodeToString(sum[:]), text})
	if err != nil {
		return nil, fmt.Errorf("diagnose: encode model: %w", err)
	}
	var out bytes.Buffer
	z, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err == nil {
		_, err = z.Write(whole)
	}
	if err := cmp.Or(err, z.Close()); err != nil {
		return nil, fmt.Errorf("diagnose: encode model: %w", err)
	}
	return out.Bytes(), nil
}

// Decode reads an artefact. It refuses what is not one, another version, a body that
// does not match its digest, and models of vectors that this program does not make.
func Decode(artefact []byte) (*Learned, error) {
	m, err := decode(artefact)
	if err != nil {
		return nil, fmt.Errorf("diagnose: decode model: %w", err)
	}
	return m, nil
}

func decode(artefact []byte) (*Learned, error) {
	z, err := gzip.NewReader(bytes.NewReader(artefact))
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(z, mostArtefact+1))
	if err != nil {
		return nil, err
	}
	if len(text) > mostArtefact {
		return nil, fmt.Errorf("it has more than %d bytes", mostArtefact)
	}
	var e envelope
	if err := models.Strict(text, &e); err != nil {
		return nil, err
	}
	switch {
	case e.Format != artefactFormat:
		return nil, fmt.Errorf("it is a %q, not a %q", e.Format, artefactFormat)
	case e.Version < artefactVersion:
		return nil, fmt.Errorf("it has version %d of the format, and this program reads version %d: train it anew", e.Version, artefactVersion)
	case e.Version > artefactVersion:
		return nil, fmt.Errorf("it has version %d of the format, and this program reads version %d: use the newer dhalion", e.Version, artefactVersion)
	}
	sum := sha256.Sum256(e.Body)
	if hex.EncodeToString(sum[:]) != e.Digest {
		return nil, errors.New("its digest does not match its body")
	}
	var b body
	if err := models.Strict(e.Body, &b); err != nil {
		return nil, err
	}
	m := newLearned()
	m.ID, m.About, m.Fused, m.Alone, m.Calibration = e.Digest[:12], b.About, b.Fused, b.Alone, b.Calibration
	if b.Fused == nil || b.Alone == nil {
		return nil, errors.New("it does not say how its voices are combined")
	}
	if err := checkCalibration(b.Calibration); err != nil {
		return nil, err
	}
	for _, kind := range dhalion.TargetKinds {
		schema := features.JudgingSchema(kind)
		if b.Schemas[kind] != schema.Digest {
			return nil, fmt.Errorf("it was trained on other vectors of a %s (schema %.12s, and this program has %.12s): train it anew", kind, b.Schemas[kind], schema.Digest)
		}
		for _, name := range b.Features[kind] {
			i, ok := schema.Index(name)
			if !ok || slices.Contains(m.columns[kind], i) {
				return nil, fmt.Errorf("feature %q of a %s is unknown or there twice", name, kind)
			}
			m.columns[kind] = append(m.columns[kind], i)
		}
		f := b.Familiar[kind]
		if f == nil || len(f.Low) != len(m.columns[kind]) || len(f.High) != len(f.Low) {
			return nil, fmt.Errorf("it does not say what it has seen of a %s", kind)
		}
		m.Familiar[kind] = &Familiar{Kind: kind, Low: values(f.Low), High: values(f.High), Limit: f.Limit, columns: m.columns[kind]}
	}
	for _, c := range b.Classifiers {
		s := seat{c.Cause, c.Kind}
		if !slices.Contains(seats(), s) || m.Classifiers[s] != nil {
			return nil, fmt.Errorf("it has a classifier too many, of %q at a %q", c.Cause, c.Kind)
		}
		if m.Classifiers[s], err = models.Decode(c.Model, len(m.columns[c.Kind]), 2); err != nil {
			return nil, err
		}
	}
	for kind, r := range b.References {
		if m.columns[kind] == nil || r == nil {
			return nil, fmt.Errorf("it says how vectors of a %q lie", kind)
		}
		if err := r.Check(len(m.columns[kind]) + 1); err != nil {
			return nil, err
		}
		m.References[kind] = r
	}
	m.remember()
	for _, c := range b.Exemplars {
		if n := len(m.columns[c.Target.Kind]); n == 0 || len(c.Values) != n {
			return nil, fmt.Errorf("it has an exemplar of %d features at a %q", len(c.Values), c.Target.Kind)
		}
		c.Exemplar.Values = values(c.Values)
		m.Exemplars = append(m.Exemplars, c.Exemplar)
	}
	return m, nil
}

// checkCalibration says what would send probabilities astray.
func checkCalibration(c models.Calibration) error {
	switch c.Kind {
	case "", "temperature", "platt":
		return nil
	case "isotonic":
		if len(c.From) > 0 && len(c.From) == len(c.To) && slices.IsSorted(c.From) && slices.IsSorted(c.To) && c.To[0] >= 0 && c.To[len(c.To)-1] <= 1 {
			return nil
		}
	}
	return fmt.Errorf("its calibration, %q of %d and %d corners, is none", c.Kind, len(c.From), len(c.To))
}

func pointers(v []float64) []*float64 {
	out := make([]*float64, len(v))
	for i := range v {
		if v[i] == v[i] { // not NaN
			out[i] = &v[i]
		}
	}
	return out
}

func values(p []*float64) []float64 {
	out := make([]float64, len(p))
	for i, v := range p {
		out[i] = nan
		if v != nil {
			out[i] = *v
		}
	}
	return out
}
