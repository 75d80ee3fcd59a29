// Package planfile reads and writes the plan document: the thing that a person
// reviews, approves and hands to apply.
//
// A document is one JSON object: "id" and "digest", then the keys of
// [dhalion.Plan], the body. The digest is the SHA-256, in hex, of the canonical
// body: the keys in the order of the struct, no whitespace between tokens, no
// HTML escapes, numbers with 12 significant digits, times in RFC 3339 UTC with
// microseconds at most, empty lists as []. The id is the digest's first 12 hex
// digits. On disk the document is indented by two spaces. Whitespace and the way
// in which a string is escaped may change without harm; anything else that
// changes is an edit, and Decode refuses it with an [*EditedError].
//
// The document holds no wall clock: when it was proposed, and who approved it,
// stands in the store. [Meta] carries that to the renderings for people, [Text]
// and [Markdown], which never steer apply.
package planfile

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/dhalion-go/dhalion"
)

// Version is the version of the document that this program writes, and the only
// one that it reads.
const Version = 1

// MaxBytes is the size of the largest document that is read. A plan for ten
// thousand instances with their placement takes about one MiB.
const MaxBytes = 64 << 20

// IDLength is the number of hex digits of an id.
const IDLength = 12

// maxDepth bounds the nesting of a document; a plan needs eight levels.
const maxDepth = 32

// maxCount bounds numbers of instances: above it an integer no longer survives
// being written with 12 significant digits.
const maxCount = 1_000_000_000

// EditedError says that a document's content is not what its digest, Want,
// stands for. Got is the digest of the content as it is.
type EditedError struct {
	Name string
	Want string
	Got  string
}

// Error names the document.
func (e *EditedError) Error() string {
	return fmt.Sprintf("planfile: decode %s: digest does not match body", e.Name)
}

// Expires is the time from which a plan that was proposed at the given time is
// no longer applied.
func Expires(p dhalion.Plan, proposedAt time.Time) time.Time {
	// Seconds to nanoseconds in float64: a plan valid for over 292 years would
	// overflow a Duration.
	ns := p.ValidForSeconds * float64(time.Second)
	if ns >= math.MaxInt64 {
		return proposedAt.Add(math.MaxInt64)
	}
	return proposedAt.Add(time.Duration(ns))
}

// Encode writes the document of a plan and returns it with its id and digest.
// Equal plans give equal bytes; nil and empty lists are equal, and so are
// topologies that differ in order only. A number that is not finite is an error,
// and so is a plan that Decode would refuse.
func Encode(p dhalion.Plan) (doc []byte, id, digest string, err error) {
	body, err := canonical(p)
	if err != nil {
		return nil, "", "", fmt.Errorf("planfile: encode plan of %s: %w", p.Job, err)
	}
	digest = digestOf(body)
	id = digest[:IDLength]
	compact := fmt.Appendf(nil, `{"id":%q,"digest":%q,`, id, digest)
	compact = append(compact, body[1:]...)
	var out bytes.Buffer
	if err := json.Indent(&out, compact, "", "  "); err != nil {
		return nil, "", "", fmt.Errorf("planfile: encode plan of %s: %w", p.Job, err)
	}
	out.WriteByte('\n')
	if out.Len() > MaxBytes {
		return nil, "", "", fmt.Errorf("planfile: encode plan of %s: %d bytes are over the bound of %d", p.Job, out.Len(), MaxBytes)
	}
	return out.Bytes(), id, digest, nil
}

// Decode reads a document. Unknown or repeated keys, data after the object,
// another version, values of the wrong type and documents over MaxBytes are
// refused; content that does not match the digest is an *EditedError. Name is
// what errors call the document.
func Decode(data []byte, name string) (p dhalion.Plan, id, digest string, err error) {
	p, id, digest, err = decode(data)
	if err == nil {
		return p, id, digest, nil
	}
	var edited *EditedError
	if errors.As(err, &edited) {
		edited.Name = name
		return dhalion.Plan{}, "", "", edited
	}
	return dhalion.Plan{}, "", "", fmt.Errorf("planfile: decode %s: %w", name, err)
}

func decode(data []byte) (p dhalion.Plan, id, digest string, err error) {
	if len(data) > MaxBytes {
		return p, "", "", fmt.Errorf("%d bytes are over the bound of %d", len(data), MaxBytes)
	}
	if !utf8.Valid(data) {
		return p, "", "", errors.New("not UTF-8")
	}
	if err := shallow(data); err != nil {
		return p, "", "", err
	}
	if !json.Valid(data) {
		return p, "", "", syntaxError(data)
	}
	// The document as it was written, without whitespace and with one way of
	// escaping strings; numbers stay as they are, for they are digested as written.
	written, err := rewrite(data, func(n json.Number) (string, error) { return n.String(), nil })
	if err != nil {
		return p, "", "", err
	}
	if written[0] != '{' {
		return p, "", "", errors.New("not a plan: not an object")
	}
	head, body, err := split(written)
	if err != nil {
		return p, "", "", err
	}
	// The version first: another one may be digested in another way.
	if head.Version != Version {
		return p, "", "", fmt.Errorf("version %d: this program reads version %d", head.Version, Version)
	}
	if got := digestOf(body); got != head.Digest {
		return p, "", "", &EditedError{Want: head.Digest, Got: got}
	}
	if head.ID != head.Digest[:IDLength] {
		return p, "", "", &EditedError{Want: head.ID, Got: head.Digest[:IDLength]}
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&p); err != nil {
		return p, "", "", err
	}
	// A forger who also mended the digest gets this far. What encoding/json lets
	// pass (a key in other letters, a key missing or null, a number with more
	// digits than count) is content that Encode would not have written.
	again, err := canonical(p)
	if err != nil {
		return p, "", "", err
	}
	if !bytes.Equal(again, body) {
		return p, "", "", &EditedError{Want: head.Digest, Got: digestOf(again)}
	}
	return p, head.ID, head.Digest, nil
}

// WriteFile writes a document so that a reader sees the old file or the new one
// and never a part: a temporary file beside it, synced, renamed over it. Only
// its owner may read it (mode 0600): names of components can be confidential.
func WriteFile(path string, doc []byte) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("planfile: write %s: %w", path, err)
		}
	}()
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".plan-*.tmp") // CreateTemp makes it 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
		}
	}()
	if _, err := f.Write(doc); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync folder: %w", err)
	}
	syncErr := d.Sync()
	return errors.Join(syncErr, d.Close())
}

// ReadFile reads and decodes the document at path; errors are those of Decode
// and of reading.
func ReadFile(path string) (p dhalion.Plan, id, digest string, err error) {
	data, err := readBounded(path)
	if err != nil {
		return dhalion.Plan{}, "", "", fmt.Errorf("planfile: read %s: %w", path, err)
	}
	return Decode(data, path)
}

func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	// One byte more than is allowed, so that Decode sees that it is too much.
	return io.ReadAll(io.LimitReader(f, MaxBytes+1))
}

func digestOf(body []byte) string {
	sum := sha256.Sum256(body)
	return hex.EncodeToString(sum[:])
}

// header is what is read before the body is trusted.
type header struct {
	ID      string
	Digest  string
	Version int
}

// split takes id and digest out of a rewritten document and gives back the rest
// in its order.
func split(written []byte) (header, []byte, error) {
	var h header
	dec := json.NewDecoder(bytes.NewReader(written))
	if _, err := dec.Token(); err != nil {
		return h, nil, err
	}
	body := []byte{'{'}
	for dec.More() {
		tok, err := dec.Token()
		if err != nil {
			return h, nil, err
		}
		key := tok.(string) // an object's odd tokens are strings, and the syntax was checked
		var raw json.RawMessage
		if err := dec.Decode(&raw); err != nil {
			return h, nil, err
		}
		var into any
		switch key {
		case "id":
			into = &h.ID
		case "digest":
			into = &h.Digest
		case "version":
			into = &h.Version
		}
		if into != nil {
			if err := json.Unmarshal(raw, into); err != nil {
				return h, nil, fmt.Errorf("%s: %w", key, err)
			}
		}
		if key == "id" || key == "digest" {
			continue
		}
		if len(body) > 1 {
			body = append(body, ',')
		}
		body = appendString(body, key)
		body = append(body, ':')
		body = append(body, raw...)
	}
	switch {
	case h.Version == 0:
		return h, nil, errors.New("not a plan: no version")
	case len(h.Digest) != 2*sha256.Size || len(h.ID) != IDLength:
		return h, nil, errors.New("not a plan: no id and digest of the right length")
	}
	return h, append(body, '}'), nil
}

// canonical is the body as it is digested.
func canonical(p dhalion.Plan) ([]byte, error) {
	p = normal(p)
	if err := validate(p); err != nil {
		return nil, err
	}
	data, err := json.Marshal(p)
	if err != nil {
		return nil, err
	}
	return rewrite(data, func(n json.Number) (string, error) {
		v, err := n.Float64()
		if err != nil {
			return "", err
		}
		if v == 0 {
			v = 0 // minus zero equals zero and must be written like it
		}
		return strconv.FormatFloat(v, 'g', 12, 64), nil
	})
}

// shallow refuses deep nesting before any recursive reader sees the data.
func shallow(data []byte) error {
	depth, text := 0, false
	for i := 0; i < len(data); i++ {
		switch c := data[i]; {
		case text && c == '\\':
			i++
		case c == '"':
			text = !text
		case text:
		case c == '{' || c == '[':
			if depth++; depth > maxDepth {
				return fmt.Errorf("nested over %d levels deep", maxDepth)
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	return nil
}

func syntaxError(data []byte) error {
	var v json.RawMessage
	err := json.Unmarshal(data, &v)
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		line := 1 + bytes.Count(data[:min(int(syntax.Offset), len(data))], []byte{'\n'})
		return fmt.Errorf("line %d: %w", line, err)
	}
	return err
}

// rewrite gives valid JSON without whitespace, with one way of escaping strings
// and numbers as the given function writes them. An object with a repeated key
// is an error.
func rewrite(data []byte, number func(json.Number) (string, error)) ([]byte, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	w := rewriter{dec: dec, number: number, out: make([]byte, 0, len(data))}
	if err := w.value(); err != nil {
		return nil, err
	}
	return w.out, nil
}

type rewriter struct {
	dec    *json.Decoder
	number func(json.Number) (string, error)
	out    []byte
}

func (w *rewriter) value() error {
	tok, err := w.dec.Token()
	if err != nil {
		return err
	}
	switch tok := tok.(type) {
	case json.Delim:
		w.out = append(w.out, byte(tok))
		if tok == '{' {
			err = w.object()
		} else {
			err = w.array()
		}
		if err != nil {
			return err
		}
		end, err := w.dec.Token()
		if err != nil {
			return err
		}
		w.out = append(w.out, byte(end.(json.Delim)))
	case json.Number:
		s, err := w.number(tok)
		if err != nil {
			return err
		}
		w.out = append(w.out, s...)
	case string:
		w.out = appendString(w.out, tok)
	case bool:
		w.out = strconv.AppendBool(w.out, tok)
	case nil:
		w.out = append(w.out, "null"...)
	}
	return nil
}

func (w *rewriter) object() error {
	seen := map[string]bool{}
	for w.dec.More() {
		tok, err := w.dec.Token()
		if err != nil {
			return err
		}
		key, ok := tok.(string)
		if !ok {
			return fmt.Errorf("key %v is not a string", tok)
		}
		if seen[key] {
			return fmt.Errorf("key %q is repeated", key)
		}
		if len(seen) > 0 {
			w.out = append(w.out, ',')
		}
		seen[key] = true
		w.out = appendString(w.out, key)
		w.out = append(w.out, ':')
		if err := w.value(); err != nil {
			return err
		}
	}
	return nil
}

func (w *rewriter) array() error {
	for first := true; w.dec.More(); first = false {
		if !first {
			w.out = append(w.out, ',')
		}
		if err := w.value(); err != nil {
			return err
		}
	}
	return nil
}

// appendString writes s as a JSON string without the HTML escapes of
// json.Marshal, so that "<", ">" and "&" stay legible.
func appendString(out []byte, s string) []byte {
	// Nearly every string of a plan needs no escape, and an encoder costs a microsecond.
	simple := true
	for i := 0; i < len(s) && simple; i++ {
		simple = s[i] >= ' ' && s[i] < 0x7f && s[i] != '"' && s[i] != '\\'
	}
	if simple {
		return append(append(append(out, '"'), s...), '"')
	}
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(s); err != nil {
		return append(out, `""`...) // a string always encodes into memory
	}
	return append(out, bytes.TrimSuffix(buf.Bytes(), []byte{'\n'})...)
}

// normal is the plan in the one form in which it is written: lists never nil,
// times in UTC with microseconds, topology sorted. It shares no list with p that
// it changes.
func normal(p dhalion.Plan) dhalion.Plan {
	p.AsOf = utc(p.AsOf)
	p.Window = dhalion.Window{Start: utc(p.Window.Start), End: utc(p.Window.End)}

	p.Topology.From = utc(p.Topology.From)
	p.Topology.Components = list(p.Topology.Components)
	p.Topology.Edges = list(p.Topology.Edges)
	p.Topology.Placement = list(p.Topology.Placement)
	p.Topology.Normalize()

	p.Findings.Symptoms = list(p.Findings.Symptoms)
	for i := range p.Findings.Symptoms {
		p.Findings.Symptoms[i].Since = utc(p.Findings.Symptoms[i].Since)
	}
	p.Findings.Diagnoses = list(p.Findings.Diagnoses)
	for i := range p.Findings.Diagnoses {
		p.Findings.Diagnoses[i].Evidence = list(p.Findings.Diagnoses[i].Evidence)
	}
	p.Findings.Unknown = list(p.Findings.Unknown)

	p.Sizing = list(p.Sizing)
	for i := range p.Sizing {
		p.Sizing[i].Figures = slices.Clone(p.Sizing[i].Figures)
	}
	p.Actions = list(p.Actions)
	for i := range p.Actions {
		p.Actions[i] = normalAction(p.Actions[i])
	}
	p.Alternatives = list(p.Alternatives)
	for i := range p.Alternatives {
		p.Alternatives[i].Action = normalAction(p.Alternatives[i].Action)
	}
	p.Warnings = list(p.Warnings)
	return p
}

func normalAction(a dhalion.Action) dhalion.Action {
	a.Because = list(a.Because)
	a.Expect.Checks = list(a.Expect.Checks)
	a.Affects = list(a.Affects)
	a.Before = slices.Clone(a.Before)
	return a
}

// utc drops what is below PostgreSQL's resolution.
func utc(t time.Time) time.Time { return t.UTC().Truncate(time.Microsecond) }

func list[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return slices.Clone(s)
}

// validate refuses what no plan can say. The encoder is as strict as the
// decoder: what was written can be read.
func validate(p dhalion.Plan) error {
	if p.Version != Version {
		return fmt.Errorf("version %d: this program knows version %d", p.Version, Version)
	}
	if p.Job == "" {
		return errors.New("no job")
	}
	if !(p.ValidForSeconds >= 0) {
		return fmt.Errorf("valid_for_seconds %v is negative", p.ValidForSeconds)
	}
	// Sorting a topology that lists a component twice has no one result.
	if err := p.Topology.Validate(); err != nil {
		return err
	}
	for _, c := range p.Topology.Components {
		if err := counts("component "+c.Name, c.Parallelism, c.MaxParallelism); err != nil {
			return err
		}
	}
	for _, pl := range p.Topology.Placement {
		if err := counts("placement of "+pl.Component, pl.Instance); err != nil {
			return err
		}
	}
	for _, s := range p.Findings.Symptoms {
		if err := errors.Join(probability("symptom "+s.Kind, s.Probability), target(s.Target)); err != nil {
			return err
		}
	}
	for _, d := range p.Findings.Diagnoses {
		err := errors.Join(pair(dhalion.Pair{Target: d.Target, Cause: d.Cause}), probability("diagnosis "+string(d.Cause), d.Probability))
		if d.ExplainedBy != nil {
			err = errors.Join(err, pair(*d.ExplainedBy))
		}
		if err != nil {
			return err
		}
	}
	for _, u := range p.Findings.Unknown {
		if err := target(u.Target); err != nil {
			return err
		}
		if u.Cause != "" && !u.Cause.Valid() {
			return fmt.Errorf("unknown cause %q", u.Cause)
		}
	}
	for _, s := range p.Sizing {
		if err := errors.Join(counts("sizing of "+s.Component, s.From, s.To), figures(s)); err != nil {
			return err
		}
	}
	for i, a := range p.Actions {
		if err := action(a); err != nil {
			return fmt.Errorf("action %d: %w", i, err)
		}
	}
	for i, a := range p.Alternatives {
		if err := action(a.Action); err != nil {
			return fmt.Errorf("alternative %d: %w", i, err)
		}
	}
	return nil
}

// figures refuses those that have no name, or one that came before. What is not
// finite fails as a number.
func figures(s dhalion.Sizing) error {
	seen := map[string]bool{}
	for _, f := range s.Figures {
		if f.Name == "" || seen[f.Name] {
			return fmt.Errorf("sizing of %s: a figure has no name, or that of another: %q", s.Component, f.Name)
		}
		seen[f.Name] = true
	}
	return nil
}

func action(a dhalion.Action) error {
	if !a.Kind.Valid() {
		return fmt.Errorf("unknown kind %q", a.Kind)
	}
	err := errors.Join(target(a.Target), probability(string(a.Kind), a.Probability))
	for _, b := range a.Because {
		err = errors.Join(err, pair(b))
	}
	for _, c := range a.Expect.Checks {
		if c.Compare != "at_least" && c.Compare != "at_most" {
			err = errors.Join(err, fmt.Errorf("check of %s: unknown comparison %q", c.Metric, c.Compare))
		}
		err = errors.Join(err, target(c.Target))
		if !c.Metric.Valid() {
			err = errors.Join(err, fmt.Errorf("unknown metric %q", c.Metric))
		}
	}
	if a.Reverse != nil {
		if !a.Reverse.Kind.Valid() {
			err = errors.Join(err, fmt.Errorf("unknown kind %q of reversal", a.Reverse.Kind))
		}
		err = errors.Join(err, target(a.Reverse.Target))
	}
	for _, b := range a.Before {
		err = errors.Join(err, before(b))
	}
	for _, t := range a.Affects {
		err = errors.Join(err, counts("affects "+string(t.Job), t.Instances, t.Of))
	}
	return err
}

func before(b dhalion.Before) error {
	what := "before, against " + string(b.Cause)
	err := errors.Join(counts(what, b.Met, b.Unmet), probability(what, b.Probability))
	switch {
	case !b.Cause.Valid():
		return fmt.Errorf("unknown cause %q", b.Cause)
	case !(b.Weight >= 0) || !(b.Factor >= 0):
		return fmt.Errorf("%s: weight %v or factor %v is negative", what, b.Weight, b.Factor)
	}
	return err
}

func pair(p dhalion.Pair) error {
	if !p.Cause.Valid() {
		return fmt.Errorf("unknown cause %q", p.Cause)
	}
	return target(p.Target)
}

// target refuses what dhalion.Target's own decoder refuses, by asking it.
func target(t dhalion.Target) error {
	if t.Instance > maxCount {
		return fmt.Errorf("instance %d is out of range", t.Instance)
	}
	data, err := t.MarshalJSON()
	if err != nil {
		return err
	}
	var again dhalion.Target
	return again.UnmarshalJSON(data)
}

func probability(what string, p float64) error {
	if !(p >= 0 && p <= 1) {
		return fmt.Errorf("%s: probability %v is not within 0 and 1", what, p)
	}
	return nil
}

func counts(what string, values ...int) error {
	for _, v := range values {
		if v < 0 || v > maxCount {
			return fmt.Errorf("%s: %d is out of range", what, v)
		}
	}
	return nil
}
