package models

import (
	"math"
	"math/rand/v2"
	"slices"
)

// sureness bounds the probabilities that a log loss is taken of.
const sureness = 1e-6

// LogLoss is the weighted mean of −ln of the probability that was given to what
// came, probabilities of one class against the rest; NaN of no rows. Nil weights are
// all one.
func LogLoss(p []float64, holds []bool, weight []float64) float64 {
	return weighted(p, holds, weight, LossOf)
}

// LossOf is the log loss of one row.
func LossOf(p float64, holds bool) float64 {
	if !holds {
		p = 1 - p
	}
	return -math.Log(math.Min(1-sureness, math.Max(sureness, p)))
}

// Brier is the weighted mean squared error of probabilities (G. Brier, Monthly
// Weather Review 78, 1950).
func Brier(p []float64, holds []bool, weight []float64) float64 {
	return weighted(p, holds, weight, func(p float64, holds bool) float64 {
		if holds {
			p = 1 - p
		}
		return p * p
	})
}

func weighted(p []float64, holds []bool, weight []float64, loss func(float64, bool) float64) float64 {
	sum, all := 0.0, 0.0
	for i, v := range p {
		w := 1.0
		if weight != nil {
			w = weight[i]
		}
		sum += w * loss(v, holds[i])
		all += w
	}
	return sum / all
}

// AUC is the probability that a row that holds has a greater p than one that does
// not, ties counted half (the area under the ROC curve); NaN where all are alike.
func AUC(p []float64, holds []bool) float64 {
	order := ascending(p)
	var rank, positive float64
	for i := 0; i < len(order); {
		j := i
		for j < len(order) && p[order[j]] == p[order[i]] {
			j++
		}
		for _, k := range order[i:j] {
			if holds[k] {
				rank += float64(i+j+1) / 2 // the mean of the ranks i+1 to j
				positive++
			}
		}
		i = j
	}
	negative := float64(len(p)) - positive
	return (rank - positive*(positive+1)/2) / (positive * negative)
}

// CalibrationError is the expected calibration error over bins of equal mass: the
// mean of |mean p − share that holds|. It is above zero even of perfect
// probabilities, by chance; debiased is what remains after its mean under perfect
// calibration, found by redrawing what holds from p as often as resamples says, and
// not below 0. NaN of no rows.
func CalibrationError(p []float64, holds []bool, bins, resamples int, seed uint64) (raw, debiased float64) {
	if len(p) == 0 || bins < 1 {
		return math.NaN(), math.NaN()
	}
	order := ascending(p)
	drawn := make([]bool, len(p))
	for i, k := range order {
		drawn[i] = holds[k]
	}
	sorted := make([]float64, len(p))
	for i, k := range order {
		sorted[i] = p[k]
	}
	raw = binError(sorted, drawn, bins)
	random := rand.New(rand.NewPCG(seed, 0xca11b7a7e))
	chance := 0.0
	for range resamples {
		for i, v := range sorted {
			drawn[i] = random.Float64() < v
		}
		chance += binError(sorted, drawn, bins) / float64(resamples)
	}
	return raw, math.Max(0, raw-chance)
}

func binError(sorted []float64, holds []bool, bins int) float64 {
	sum := 0.0
	for b := range bins {
		lo, hi := b*len(sorted)/bins, (b+1)*len(sorted)/bins
		mean, share := 0.0, 0.0
		for i := lo; i < hi; i++ {
			mean += sorted[i]
			if holds[i] {
				share++
			}
		}
		sum += math.Abs(mean - share)
	}
	return sum / float64(len(sorted))
}

func ascending(p []float64) []int {
	order := make([]int, len(p))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		switch {
		case p[a] < p[b]:
			return -1
		case p[a] > p[b]:
			return 1
		}
		return 0
	})
	return order
}

// Wilson is the 95 % interval of a share: E. B. Wilson, Probable inference, the law
// of succession, and statistical inference, JASA 22 (1927).
func Wilson(right, all int) (low, high float64) {
	if all == 0 {
		return 0, 1
	}
	const z = 1.959964
	n, p := float64(all), float64(right)/float64(all)
	middle := p + z*z/(2*n)
	half := z * math.Sqrt(p*(1-p)/n+z*z/(4*n*n))
	return max(0, (middle-half)/(1+z*z/n)), min(1, (middle+half)/(1+z*z/n))
}

// PairedBootstrap is the 95 % interval of the mean of differences whose rows come in
// groups (a window's, an incident's), by drawing whole groups with replacement (B.
// Efron, R. Tibshirani, An introduction to the bootstrap, 1993).
func PairedBootstrap(difference []float64, group []string, resamples int, seed uint64) (mean, low, high float64) {
	sums, counts := map[string]float64{}, map[string]float64{}
	var names []string
	for i, d := range difference {
		if counts[group[i]] == 0 {
			names = append(names, group[i])
		}
		sums[group[i]] += d
		counts[group[i]]++
		mean += d
	}
	if len(names) == 0 {
		return math.NaN(), math.NaN(), math.NaN()
	}
	slices.Sort(names)
	mean /= float64(len(difference))
	random := rand.New(rand.NewPCG(seed, 0xb007))
	means := make([]float64, resamples)
	for r := range means {
		sum, count := 0.0, 0.0
		for range names {
			g := names[random.IntN(len(names))]
			sum += sums[g]
			count += counts[g]
		}
		means[r] = sum / count
	}
	slices.Sort(means)
	return mean, means[int(.025*float64(resamples))], means[min(resamples-1, int(.975*float64(resamples)))]
}
