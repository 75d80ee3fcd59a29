package main

import (
	_ "embed"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/dhalion-go/dhalion/diagnose"
)

// builtIn is the model that comes with the program, trained on the lab's corpus:
// docs/model-card.md. `go run ./lab/learn -out cmd/dhalion/default.model lab/corpus`
// makes it anew.
//
//go:embed default.model
var builtInModel []byte

// modelFlag lets a command combine the rules with a model.
func (a *app) modelFlag(c *cobra.Command, f *judgeFlags) {
	c.Flags().StringVar(&f.model, "model", noModel, "combine the rules with a `model`: default (it comes with the program), active, an id, a file, or none")
	a.complete(c, "model", noModel, "default", "active")
}

// loadModel is the model that a flag names, nil for none.
func loadModel(name string) (*diagnose.Learned, error) {
	artefact := builtInModel
	switch name {
	case "", noModel:
		return nil, nil
	case "default":
	default:
		data, err := os.ReadFile(name)
		if err != nil {
			return nil, hinted(fmt.Errorf("--model: %w", err), "--model default takes the one that comes with the program")
		}
		artefact = data
	}
	m, err := diagnose.Decode(artefact)
	if err != nil {
		return nil, fmt.Errorf("--model %s: %w", name, err)
	}
	return m, nil
}
