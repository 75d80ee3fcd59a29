package diagnose

import "github.com/dhalion-go/dhalion/models"

// Learners are those that a diagnoser can be made of, by name, with settings for some
// hundred incidents: small trees, strong penalties.
func Learners() map[string]models.Learner {
	return map[string]models.Learner{
		"booster":  &models.Booster{Rounds: 80, Rate: .1, Leaves: 8, Depth: 3, Least: 10, L2: 5, Rows: .7, Columns: .5},
		"forest":   &models.Forest{Trees: 100, Least: 3},
		"logistic": &models.Logistic{L2: 10},
	}
}

// Baselines are golearn's own learners, which are tried and not kept.
func Baselines() map[string]models.Learner {
	return map[string]models.Learner{"cart": &models.CART{}, "naive-bayes": models.NaiveBayes{}}
}
