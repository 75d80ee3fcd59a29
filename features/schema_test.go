package features

import (
	"crypto/sha256"
	"encoding/hex"
	"testing"

	dhalion "github.com/dhalion-go/dhalion"
)

func TestADefinitionThatChangesUnderItsNameChangesTheDigest(t *testing.T) {
	names := []string{"slow_factor", "share"}
	sum := sha256.Sum256([]byte("worker\nslow_factor\nshare"))
	first := digest(dhalion.KindWorker, names, 1)
	if first != hex.EncodeToString(sum[:]) {
		t.Errorf("the first definitions have %s: models that know no number are refused", first)
	}
	second, third := digest(dhalion.KindWorker, names, 2), digest(dhalion.KindWorker, names, 3)
	if first == second || second == third {
		t.Errorf("%s, %s, %s", first, second, third)
	}
	if s := JudgingSchema(dhalion.KindWorker); s.Digest != digest(s.Kind, s.Names, Definitions) {
		t.Errorf("vectors of a worker have %s", s.Digest)
	}
}
