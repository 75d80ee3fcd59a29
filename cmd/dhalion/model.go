package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/spf13/cobra"

	"github.com/dhalion-go/dhalion/diagnose"
	"github.com/dhalion-go/dhalion/internal/store"
	"github.com/dhalion-go/dhalion/plan/policy"
)

// ownModel is the model that comes with the program, trained on the lab's corpus:
// docs/model-card.md. `go run ./lab/learn -out cmd/dhalion/default.model lab/corpus`
// makes it anew.
//
//go:embed default.model
var builtInModel []byte

// noModel stands in a plan's basis where the rules answered alone.
const noModel = string(policy.ModelNone)

// ownModel is the program's own model, decoded once.
var ownModel = sync.OnceValues(func() (*diagnose.Learned, error) { return diagnose.Decode(builtInModel) })

// modelFlag lets a command name the model that the rules are combined with.
func (a *app) modelFlag(c *cobra.Command, f *judgeFlags) {
	c.Flags().StringVar(&f.model, "model", "", "combine the rules with a `model`: active (the promoted one, else the program's own), default (the program's own), an id, a file, or none (default: as the policy says)")
	a.complete(c, "model", string(policy.ModelActive), string(policy.ModelDefault), noModel)
}

// modelSource is --model as it is noted with a plan: a file by its full path.
func (f *judgeFlags) modelSource() (string, error) {
	switch {
	case f.model == "" || f.model == noModel || f.model == string(policy.ModelActive) || f.model == string(policy.ModelDefault) || isModelID(f.model):
		return f.model, nil
	}
	path, err := filepath.Abs(f.model)
	if err != nil {
		return "", fmt.Errorf("--model %s: %w", f.model, err)
	}
	return path, nil
}

// modelFor is the model that a policy's answers are combined with, or the one named
// in its place; nil for none.
func (a *app) modelFor(ctx context.Context, st *store.Store, p *policy.Policy, named string) (*diagnose.Learned, error) {
	// A policy that decides yes or no leaves nothing to be combined.
	if p.Decisions == policy.DecideBinary {
		return nil, nil
	}
	if named == "" {
		named = string(p.Model)
	}
	return a.model(ctx, st, named)
}

// idOf is a model's id as it stands in a plan's basis.
func idOf(m *diagnose.Learned) string {
	if m == nil {
		return noModel
	}
	return m.ID
}

// loadModel is the model that a flag or argument names, nil for none.
func loadModel(name string) (*diagnose.Learned, error) {
	switch name {
	case "", noModel:
		return nil, nil
	case string(policy.ModelDefault):
		return ownModel()
	}
	data, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, hinted(fmt.Errorf("there is no model %q: it is no file, no id or its beginning, and none of default, active, none", name), "dhalion models list")
	}
	if err != nil {
		return nil, fmt.Errorf("model: %w", err)
	}
	m, err := diagnose.Decode(data)
	if err != nil {
		return nil, fmt.Errorf("model %s: %w", name, err)
	}
	return m, nil
}
