package diagnose

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	dhalion "github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/features"
	"github.com/dhalion-go/dhalion/models"
)

const learnedJob = dhalion.JobID("file/made")

// made is examples in which slow_instance holds where slow_factor is above 1.5, and
// rules say so, except that of every tenth that holds they say nothing of use. Each
// family has incidents and quiet windows.
func made(families int, seed uint64) []Example {
	random := rand.New(rand.NewPCG(seed, 1))
	schema := features.JudgingSchema(dhalion.KindInstance)
	slow, _ := schema.Index("slow_factor")
	var out []Example
	for f := range families {
		for n := range 40 {
			e := Example{Family: fmt.Sprint("shape", f), Run: fmt.Sprint("run", f), Incident: fmt.Sprintf("%d/%d", f, n), At: time.Unix(int64(1000*f+60*n), 0).UTC(), Certainty: 1}
			sick := -1
			if n%2 == 0 {
				sick = random.IntN(4)
			}
			for i := range 4 {
				v := dhalion.Vector{Target: dhalion.InstanceTarget(learnedJob, "work", i), Schema: schema.Digest, Values: make([]float64, len(schema.Names))}
				for k := range v.Values {
					v.Values[k] = random.Float64()
				}
				factor, holds := 1+.3*random.Float64(), 0.0
				if i == sick {
					factor, holds = 1.8+random.Float64(), 1
				}
				v.Values[slow] = factor
				rules := 16 * math.Log(factor/1.5)
				if holds == 1 && n%20 == 0 {
					rules = -.5
				}
				e.Cases = append(e.Cases, Case{Pair: dhalion.Pair{Target: v.Target, Cause: dhalion.SlowInstance}, Vector: v, Rules: rules, Synthesis: math.NaN()})
				e.Holds = append(e.Holds, holds)
			}
			out = append(out, e)
		}
	}
	return out
}

func trained(t *testing.T, examples []Example) *Learned {
	t.Helper()
	m, err := Train(t.Context(), examples, TrainOptions{Learner: &models.Booster{Rounds: 30, Leaves: 4, Least: 5}, Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestAFusionFindsWhatItsRulesMissAndIsSurerThanThey(t *testing.T) {
	m := trained(t, made(3, 1))
	var loss, rulesLoss float64
	missed := 0
	for _, e := range made(2, 99) {
		for i, p := range m.Probabilities(e.Cases) {
			holds := e.Holds[i] == 1
			loss += models.LossOf(p, holds)
			rulesLoss += models.LossOf(logistic(e.Cases[i].Rules), holds)
			if holds != (p > .5) {
				missed++
			}
		}
	}
	if missed > 0 || !(loss < rulesLoss/2) {
		t.Errorf("%d of 320 on the wrong side of a half; log loss %.2f, the rules' %.2f", missed, loss, rulesLoss)
	}
}

func TestAModelThatIsWrittenAndReadSaysTheSame(t *testing.T) {
	examples := made(3, 1)
	m := trained(t, examples)
	first, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	again, err := Decode(first)
	if err != nil {
		t.Fatal(err)
	}
	second, err := again.Encode()
	if err != nil || !bytes.Equal(first, second) || again.ID != m.ID || len(m.ID) != 12 {
		t.Errorf("written twice it differs: %d and %d bytes, %s and %s, %v", len(first), len(second), m.ID, again.ID, err)
	}
	for _, e := range examples {
		if a, b := m.Probabilities(e.Cases), again.Probabilities(e.Cases); !slices.Equal(a, b) {
			t.Fatalf("%v and %v", a, b)
		}
	}
	if other, err := trained(t, examples).Encode(); err != nil || !bytes.Equal(first, other) {
		t.Error("trained again on the same it is another: ", err)
	}
	if other, err := trained(t, examples[1:]).Encode(); err != nil || bytes.Equal(first, other) {
		t.Error("trained on other data it is the same: ", err)
	}
}

func TestArtefactsThatCannotBeTrustedAreRefused(t *testing.T) {
	m := trained(t, made(2, 1))
	good, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		bytes []byte
		why   string
	}{
		"nothing":       {nil, "EOF"},
		"no gzip":       {[]byte("hello, I am a model"), "gzip"},
		"cut off":       {good[:len(good)/2], "EOF"},
		"a bit flipped": {flipped(good), ""},
	} {
		if _, err := Decode(c.bytes); err == nil || !strings.Contains(err.Error(), c.why) || !strings.HasPrefix(err.Error(), "diagnose: decode model: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func flipped(b []byte) []byte {
	b = slices.Clone(b)
	b[len(b)/2] ^= 4
	return b
}

func TestACaseUnlikeAnySeenIsNotAskedOfTheClassifier(t *testing.T) {
	examples := made(3, 1)
	m := trained(t, examples)
	c := examples[0].Cases[0]
	if o := m.judge(c, nil); o.strange != nil || math.IsNaN(o.said[byClassifier]) {
		t.Errorf("one seen in training is strange: %v", o.strange)
	}
	// Values are at most 1 in training: all at 50 is another world.
	c.Vector.Values = slices.Repeat([]float64{50}, len(c.Vector.Values))
	o := m.judge(c, nil)
	if len(o.strange) != 3 || !math.IsNaN(o.said[byClassifier]) {
		t.Errorf("it is asked of %v, strange are %v", o.said, o.strange)
	}
	z, _ := m.Alone.logOdds(c.Cause, spoken{c.Rules, math.NaN(), math.NaN()})
	if want := logistic(z); o.probability != want {
		t.Errorf("without the classifier it is %.3f, not %.3f", o.probability, want)
	}
}

func TestWithoutIncidentsOfACauseTheRulesAnswerForItAlone(t *testing.T) {
	m := trained(t, made(3, 1))
	c := made(1, 5)[0].Cases[0]
	c.Cause = dhalion.DataSkew
	if o := m.judge(c, nil); !o.silent || !math.IsNaN(o.said[byClassifier]) {
		t.Errorf("a classifier speaks of what it has never seen: %+v", o)
	}
}

func TestJudgedOutcomesAreNoMeasureOfWhatWasLearned(t *testing.T) {
	examples := made(3, 1)
	for i := range examples {
		examples[i].Certainty = .7
	}
	if _, err := Train(t.Context(), examples, TrainOptions{Learner: &models.Booster{Rounds: 5}, Seed: 1}); err == nil {
		t.Error("the voices are weighed by outcomes alone")
	}
}

// FuzzDecode reads bodies of artefacts, whole and under their right digest, so that
// what lies behind the check is reached: what is read can be asked and written again.
func FuzzDecode(f *testing.F) {
	examples := made(2, 1)
	m, err := Train(f.Context(), examples, TrainOptions{Learner: &models.Booster{Rounds: 2, Leaves: 3, Least: 5}, Seed: 1})
	if err != nil {
		f.Fatal(err)
	}
	good, err := m.Encode()
	if err != nil {
		f.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(good))
	if err != nil {
		f.Fatal(err)
	}
	var e envelope
	if err := json.NewDecoder(z).Decode(&e); err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(e.Body))
	f.Add([]byte(`{"fused":{},"alone":{}}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, body []byte) {
		if !json.Valid(body) {
			return
		}
		var packed bytes.Buffer
		w := gzip.NewWriter(&packed)
		sum := sha256.Sum256(compact(t, body))
		if err := json.NewEncoder(w).Encode(envelope{artefactFormat, artefactVersion, hex.EncodeToString(sum[:]), body}); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		m, err := Decode(packed.Bytes())
		if err != nil {
			return
		}
		for _, p := range m.Probabilities(examples[0].Cases) {
			if !(p >= 0 && p <= 1) {
				t.Errorf("a probability is %v", p)
			}
		}
		m.MostLike(examples[0].Cases[0], 3)
		again, err := m.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Decode(again); err != nil {
			t.Error("what was read cannot be written: ", err)
		}
	})
}

// compact is a document as it stands in another that was encoded.
func compact(t *testing.T, body []byte) []byte {
	t.Helper()
	text, err := json.Marshal(json.RawMessage(body))
	if err != nil {
		t.Fatal(err)
	}
	return text
}
