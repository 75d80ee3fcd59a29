package diagnose

// Classifier judges cases: for each cause that may hold at a target, the target's
// vector and what the rules and simulated hypotheses say (Result.Cases).
type Classifier interface {
	// Probabilities gives the calibrated probability of each case, 0 to 1, in their
	// order. Several may call it at once.
	Probabilities(cases []Case) []float64
}

// ClassifierFunc is a Classifier made of a function; ClassifierFunc(ByRules) is the
// rules alone.
type ClassifierFunc func(cases []Case) []float64

// Probabilities calls f.
func (f ClassifierFunc) Probabilities(cases []Case) []float64 { return f(cases) }

var _ Classifier = (*Learned)(nil)
