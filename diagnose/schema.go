package diagnose

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"

	dhalion "github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/features"
)

// Schema is the SHA-256, hex, over the schemas of the vectors that this program's
// classifiers judge, of all kinds of target. It is that of every model that Decode lets
// through and Train makes.
func Schema() string {
	var text strings.Builder
	for _, kind := range dhalion.TargetKinds {
		text.WriteString(string(kind) + " " + features.JudgingSchema(kind).Digest + "\n")
	}
	sum := sha256.Sum256([]byte(text.String()))
	return hex.EncodeToString(sum[:])
}
