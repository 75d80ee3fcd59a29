package plan

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/plan/policy"
)

// settings are the parts of a policy that planning uses, checked once.
type settings struct {
	name     string
	fourEyes bool

	target   float64       // busy share at which a component is sized
	actAbove float64       // least probability of a diagnosis that is acted upon
	price    float64       // of doubling the job's instances, as a share of the offered load
	catchUp  time.Duration // within which the present backlog should drain
	restart  time.Duration // for which a touched instance stands still
	validFor time.Duration
	patience time.Duration

	minParallelism, maxParallelism int                  // 0: none
	maxJobs                        int                  // 0: no bound
	maxTouched                     float64              // 0: no bound
	actions                        []dhalion.ActionKind // none: all
	knobs                          []policy.Knob
	quiet                          policy.QuietHours

	sizing policy.Sizing
	paper  paperSettings
	ds2    ds2Settings
	scaler autoscalerSettings
}

// settingsOf reads what planning needs. A parameter that the policy does not
// have takes the default that the default policy writes down.
func settingsOf(p *policy.Policy) (settings, error) {
	if p == nil {
		return settings{}, fmt.Errorf("no policy")
	}
	s := settings{
		name:           p.Name,
		fourEyes:       p.Approve.FourEyes,
		target:         number(p, "target_utilisation", 0.8),
		actAbove:       number(p, "act_above", 0.5),
		price:          number(p, "instance_price", 0.1),
		catchUp:        duration(p, "catch_up", 10*time.Minute),
		restart:        duration(p, "restart_time", 30*time.Second),
		validFor:       duration(p, "valid_for", time.Hour),
		patience:       duration(p, "patience", 2*time.Minute),
		minParallelism: p.Limits.MinParallelism,
		maxParallelism: p.Limits.MaxParallelism,
		maxJobs:        p.Limits.MaxJobsTouched,
		maxTouched:     p.Limits.MaxInstancesTouched,
		actions:        p.Limits.Actions,
		knobs:          p.Knobs,
		quiet:          p.Limits.QuietHours,
		sizing:         p.Sizing,
	}
	if err := s.check(); err != nil {
		return s, err
	}
	var err error
	switch p.Sizing {
	case policy.SizingPaper:
		s.paper, err = paperSettingsOf(p)
	case policy.SizingDS2:
		s.ds2, err = ds2SettingsOf(p)
	case policy.SizingAutoscaler:
		s.scaler, err = autoscalerSettingsOf(p)
	}
	return s, err
}

// published reports whether the sizes come from a published method and not ours.
func (s settings) published() bool {
	return s.sizing != "" && s.sizing != policy.SizingUtilisation
}

func number(p *policy.Policy, name string, otherwise float64) float64 {
	if v, ok := p.Number(name); ok {
		return v
	}
	return otherwise
}

func duration(p *policy.Policy, name string, otherwise time.Duration) time.Duration {
	if v, ok := p.Parameters.Duration(name); ok {
		return v
	}
	return otherwise
}

// check refuses settings with which no size or utility is a number.
func (s settings) check() error {
	switch {
	case !(s.target > 0 && s.target <= 1):
		return fmt.Errorf("policy %s: target_utilisation %v is not above 0 and at most 1", s.name, s.target)
	case !(s.actAbove >= 0 && s.actAbove <= 1):
		return fmt.Errorf("policy %s: act_above %v is not within 0 and 1", s.name, s.actAbove)
	case !(s.price >= 0) || math.IsInf(s.price, 0):
		return fmt.Errorf("policy %s: instance_price %v is not a number from 0", s.name, s.price)
	case s.validFor <= 0:
		return fmt.Errorf("policy %s: valid_for %s is not above 0", s.name, s.validFor)
	case s.catchUp < 0 || s.restart < 0 || s.patience < 0:
		return fmt.Errorf("policy %s: catch_up, restart_time or patience is negative", s.name)
	case !(s.maxTouched >= 0):
		return fmt.Errorf("policy %s: max_instances_touched %v is negative", s.name, s.maxTouched)
	}
	return nil
}

func (s settings) allows(kind dhalion.ActionKind) bool {
	return len(s.actions) == 0 || slices.Contains(s.actions, kind)
}

// pick is the least value by which the hottest instance would no longer be hot,
// if that value tells over how many instances a hot key is spread: 4 spreads a
// threefold share to 0.75. With no number among the values, or no share, it is
// the second one: the first is what the job most likely has.
func pick(k policy.Knob, share float64) dhalion.Setting {
	last := dhalion.Setting{}
	for _, v := range k.Values {
		n, ok := v.Number()
		if !ok || !(share > 1) {
			return k.Values[min(1, len(k.Values)-1)]
		}
		if n > 0 && share/n < slowdown {
			return v
		}
		if was, _ := last.Number(); last.IsZero() || n > was {
			last = v
		}
	}
	return last
}
