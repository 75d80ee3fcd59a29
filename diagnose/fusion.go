package diagnose

import (
	"errors"
	"math"
	"slices"

	"gonum.org/v1/gonum/mat"

	dhalion "github.com/dhalion-go/dhalion"
)

// A fusion is the log-linear combination of what rules, classifier and synthesis
// say of a pair: a logistic regression on their log-odds. Where one is silent its
// log-odds count as nothing, and an indicator has a weight of its own.

// voice is one of those that speak.
type voice int

const (
	byRules voice = iota
	byClassifier
	bySynthesis
	voices
)

var voiceNames = [voices]string{"rules", "classifier", "synthesis"}

// loudest bounds what a voice may say, in log-odds: of what is surer there are no
// examples enough.
const loudest = 4

// heard is what is heard of a voice: nearly all of little, at most loudest of much, and
// always more of more, so that of two that are sure the surer stays first.
func heard(x float64) float64 { return loudest * math.Tanh(x/loudest) }

// spoken is what the voices say of one pair, in log-odds; NaN is silence.
type spoken [voices]float64

// Fusion weighs the voices, with a bias per cause.
type Fusion struct {
	Bias   map[dhalion.Cause]float64 `json:"bias"`
	Weight [voices]float64           `json:"weight"`
	Silent [voices]float64           `json:"silent"`
}

// logOdds is the combination, and what each voice adds to it.
func (f *Fusion) logOdds(c dhalion.Cause, said spoken) (sum float64, parts [voices]float64) {
	sum = f.Bias[c]
	for v, x := range said {
		parts[v] = f.Silent[v]
		if !math.IsNaN(x) {
			parts[v] = f.Weight[v] * heard(x)
		}
		sum += parts[v]
	}
	return sum, parts
}

// said is a pair of which it is known whether it holds.
type said struct {
	cause  dhalion.Cause
	spoken spoken
	holds  float64 // 0 or 1
	weight float64
}

// Penalties on the squared coefficients: what is learned per cause is held to what
// all causes share, and weights to an even say of the voices.
const (
	biasPenalty   = 2
	weightPenalty = 1
)

// fitFusion is the fusion of least penalised log loss, by Newton's method
// (iteratively reweighted least squares). A voice that is silent throughout gets no
// weight, one that would have to be taken as the opposite of what it says none
// either.
func fitFusion(all []said) (*Fusion, error) {
	if len(all) == 0 {
		return nil, errors.New("diagnose: fuse: no examples")
	}
	mute := [voices]bool{}
	for v := range mute {
		mute[v] = !slices.ContainsFunc(all, func(s said) bool { return !math.IsNaN(s.spoken[v]) })
	}
	for {
		f, err := newton(all, mute)
		if err != nil {
			return nil, err
		}
		against := slices.IndexFunc(f.Weight[:], func(w float64) bool { return w < 0 })
		if against < 0 {
			return f, nil
		}
		mute[against] = true
	}
}

// newton fits intercept, bias per cause, weights and silences. The intercept is
// not penalised.
func newton(all []said, mute [voices]bool) (*Fusion, error) {
	causes := len(dhalion.Causes)
	n := 1 + causes + 2*int(voices)
	prior, penalty := make([]float64, n), make([]float64, n)
	speak := 0.0
	for v := range mute {
		if !mute[v] {
			speak++
		}
	}
	for i := range n {
		switch {
		case i == 0:
			penalty[i] = 1e-6
		case i <= causes:
			penalty[i] = biasPenalty
		case i <= causes+int(voices):
			penalty[i], prior[i] = weightPenalty, 1/speak
		default:
			penalty[i] = weightPenalty
		}
	}
	row := func(s said, x []float64) {
		clear(x)
		x[0] = 1
		x[1+slices.Index(dhalion.Causes, s.cause)] = 1
		for v, y := range s.spoken {
			switch {
			case mute[v]:
			case math.IsNaN(y):
				x[1+causes+int(voices)+v] = 1
			default:
				x[1+causes+v] = heard(y)
			}
		}
	}
	beta := slices.Clone(prior)
	x := make([]float64, n)
	for range 50 {
		gradient, hessian := mat.NewVecDense(n, nil), mat.NewSymDense(n, nil)
		for i := range n {
			gradient.SetVec(i, penalty[i]*(beta[i]-prior[i]))
			hessian.SetSym(i, i, penalty[i])
		}
		for _, s := range all {
			row(s, x)
			z := 0.0
			for i, v := range x {
				z += v * beta[i]
			}
			p := logistic(z)
			g, h := s.weight*(p-s.holds), s.weight*math.Max(p*(1-p), 1e-9)
			for i, a := range x {
				if a == 0 {
					continue
				}
				gradient.SetVec(i, gradient.AtVec(i)+g*a)
				for j := i; j < n; j++ {
					if x[j] != 0 {
						hessian.SetSym(i, j, hessian.At(i, j)+h*a*x[j])
					}
				}
			}
		}
		var chol mat.Cholesky
		if !chol.Factorize(hessian) {
			return nil, errors.New("diagnose: fuse: the examples leave the weights open")
		}
		var step mat.VecDense
		if err := chol.SolveVecTo(&step, gradient); err != nil {
			return nil, errors.New("diagnose: fuse: the examples leave the weights open")
		}
		moved := 0.0
		for i := range n {
			d := math.Max(-2, math.Min(2, step.AtVec(i)))
			beta[i] -= d
			moved = math.Max(moved, math.Abs(d))
		}
		if moved < 1e-9 {
			break
		}
	}
	f := &Fusion{Bias: map[dhalion.Cause]float64{}}
	for i, c := range dhalion.Causes {
		f.Bias[c] = beta[0] + beta[1+i]
	}
	for v := range mute {
		if !mute[v] {
			f.Weight[v], f.Silent[v] = beta[1+causes+v], beta[1+causes+int(voices)+v]
		}
	}
	return f, nil
}
