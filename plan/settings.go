package plan

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
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

	memory memory

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
	if s.memory, err = memoryOf(p); err != nil {
		return s, err
	}
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

// present is what a knob is set to by the arguments of the present run: "--salt 4"
// or "--salt=4", the last one counts; null where they are not known or do not say.
func present(k policy.Knob, arguments []string) dhalion.Setting {
	now := dhalion.Setting{}
	read := func(text string) {
		for _, v := range k.Values {
			if v.String() == text {
				now = v
				return
			}
		}
		if n, err := strconv.ParseFloat(text, 64); err == nil && !math.IsNaN(n) && !math.IsInf(n, 0) {
			now = dhalion.NumberSetting(n)
			return
		}
		now = dhalion.TextSetting(text)
	}
	for i, x := range arguments {
		if value, ok := strings.CutPrefix(x, k.Argument+"="); ok {
			read(value)
		} else if x == k.Argument && i+1 < len(arguments) {
			read(arguments[i+1])
		}
	}
	return now
}

// spreadEnough is the share of a spread key's instance that is proposed: below what
// is hot by definition, by the noise of a fifth.
const spreadEnough = slowdown / 1.2

// pick is the least value by which the hottest of n instances would no longer be
// hot, if that value tells over how many instances a hot key is spread. Of its share
// s, (n − s)/(n − 1) is what the others have and stays; the rest is divided by the
// value. A share that is seen with the knob at 2 is of keys that are spread over two
// already: its rest counts twice. Where none is large enough it is the largest. With
// no number among the values, or no share, it is the one behind the present one, or
// the second: the first is what the job most likely has. It is null when there is no
// value but the present one left.
func pick(k policy.Knob, now dhalion.Setting, share float64, n int) dhalion.Setting {
	spread, numbered := 1.0, share > 1
	if v, ok := now.Number(); ok && v > 0 {
		spread = v
	}
	rest := 0.0
	if n > 1 {
		rest = math.Max(0, (float64(n)-share)/float64(n-1))
	}
	for _, v := range k.Values {
		if _, ok := v.Number(); !ok {
			numbered = false
		}
	}
	if !numbered {
		at := slices.Index(k.Values, now)
		switch {
		case at >= 0 && at+1 < len(k.Values):
			return k.Values[at+1]
		case at >= 0:
			return dhalion.Setting{}
		case now.IsZero():
			return k.Values[min(1, len(k.Values)-1)]
		}
		return k.Values[0]
	}
	best, most := dhalion.Setting{}, spread
	if now.IsZero() {
		most = 0
	}
	for _, v := range k.Values {
		value, _ := v.Number()
		if value <= most {
			continue
		}
		if best, most = v, value; rest+(share-rest)*spread/value < spreadEnough {
			return best
		}
	}
	return best
}
