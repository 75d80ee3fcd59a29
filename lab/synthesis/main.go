// Command synthesis measures what simulated hypotheses say alone, without rules and
// models, on the labelled corpus.
//
//	go run ./lab/synthesis [-shapes wordcount,chain,windows] [-at 60s] [-misses] lab/corpus
//
// For every incident of causes that are synthesised it asks so long after the fault
// began: whether the first pair, among these causes, is the labelled one (a compound:
// whether every labelled pair is more likely than not); and every minute without a
// fault, whether any pair is; so of other faults. Nothing is trained. The noise scales were chosen on the
// shapes wordcount, chain and windows; the others are held out.
package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/dhalion-go/dhalion"
	"github.com/dhalion-go/dhalion/diagnose"
	"github.com/dhalion-go/dhalion/features"
	"github.com/dhalion-go/dhalion/lab/recorded"
	"github.com/dhalion-go/dhalion/models"
	"github.com/dhalion-go/dhalion/plan/policy"
)

// chosen are the shapes that the scales were chosen on.
var chosen = []string{"wordcount", "chain", "windows"}

var synthesised = []dhalion.Cause{
	dhalion.Underprovisioned, dhalion.SlowInstance, dhalion.SlowWorker, dhalion.DataSkew, dhalion.SinkLimited, dhalion.SourceLimited,
}

func main() {
	shapes := flag.String("shapes", "", "shapes to ask about, with commas between (default: all)")
	after := flag.Duration("at", time.Minute, "how long after a fault began it is asked for; not after its end")
	misses := flag.Bool("misses", false, "print what was not found, and false alarms")
	flag.Parse()
	if flag.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "usage: synthesis [flags] CORPUS")
		os.Exit(64)
	}
	var only []string
	if *shapes != "" {
		only = strings.Split(*shapes, ",")
	}
	total, err := measure(context.Background(), flag.Arg(0), only, *after)
	if err != nil {
		fmt.Fprintln(os.Stderr, "synthesis:", err)
		os.Exit(1)
	}
	total.print()
	if *misses {
		fmt.Println(strings.Join(total.misses, "\n"))
	}
}

type tally struct{ right, all int }

type counts map[string]*tally

func (c counts) add(key string, right bool) {
	if c[key] == nil {
		c[key] = &tally{}
	}
	c[key].all++
	if right {
		c[key].right++
	}
}

// answer is what some runs came to, by split.
type answer struct {
	counts map[string]counts
	misses []string
	asked  int
	took   time.Duration
}

// measure asks about every run of some shapes, or of all where none is named.
func measure(ctx context.Context, corpus string, shapes []string, after time.Duration) (answer, error) {
	total := answer{counts: map[string]counts{}}
	runs, err := recorded.Read(ctx, corpus)
	if err != nil {
		return total, err
	}
	p, err := policy.Load("default", os.ReadFile, features.Known, nil)
	if err != nil {
		return total, err
	}
	if len(shapes) > 0 {
		runs = slices.DeleteFunc(runs, func(r recorded.Run) bool { return !slices.Contains(shapes, r.Shape) })
	}
	answers := make([]answer, len(runs))
	next := make(chan int)
	var group sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		group.Go(func() {
			for i := range next {
				answers[i] = ask(runs[i], p, after)
			}
		})
	}
	for i := range runs {
		next <- i
	}
	close(next)
	group.Wait()
	for _, a := range answers {
		for split, c := range a.counts {
			if total.counts[split] == nil {
				total.counts[split] = counts{}
			}
			for key, t := range c {
				if total.counts[split][key] == nil {
					total.counts[split][key] = &tally{}
				}
				total.counts[split][key].right += t.right
				total.counts[split][key].all += t.all
			}
		}
		total.misses = append(total.misses, a.misses...)
		total.asked += a.asked
		total.took += a.took
	}
	return total, nil
}

func (total answer) print() {
	for _, split := range slices.Sorted(maps.Keys(total.counts)) {
		fmt.Printf("%s\n", split)
		for _, key := range slices.Sorted(maps.Keys(total.counts[split])) {
			t := total.counts[split][key]
			low, high := models.Wilson(t.right, t.all)
			fmt.Printf("  %-44s %d/%d %.3f (%.2f–%.2f)\n", key, t.right, t.all, float64(t.right)/float64(t.all), low, high)
		}
	}
	fmt.Printf("%d windows, %s each\n", total.asked, (total.took / time.Duration(max(1, total.asked))).Round(10*time.Microsecond))
}

// verdict is a pair with what was said of it.
type verdict struct {
	dhalion.Pair
	diagnose.Synthesis
}

func (v verdict) String() string {
	return fmt.Sprintf("%s at %s %+.1f (%.2f)", v.Cause, v.Target, v.LogOdds, v.Magnitude)
}

func ask(run recorded.Run, p *policy.Policy, after time.Duration) answer {
	a := answer{counts: map[string]counts{}}
	splits := []string{"chosen on: " + run.Shape, "chosen on", "all"}
	if !slices.Contains(chosen, run.Shape) {
		splits = []string{"held out: " + run.Shape, "held out", "all"}
	}
	count := func(key string, right bool) {
		for _, split := range splits {
			if a.counts[split] == nil {
				a.counts[split] = counts{}
			}
			a.counts[split].add(key, right)
		}
	}
	judge := func(at time.Time) []verdict {
		r := features.NewReader(run.History, at, diagnose.FeatureOptions(p))
		snap, past := r.At(at), r.Healthy()
		if snap.Polls < p.Minimum.Polls {
			return nil
		}
		start := time.Now()
		all := diagnose.Synthesise(snap, past, p)
		a.took += time.Since(start)
		a.asked++
		var out []verdict
		for pair, s := range all {
			if slices.Contains(synthesised, pair.Cause) {
				out = append(out, verdict{pair, s})
			}
		}
		slices.SortFunc(out, func(a, b verdict) int {
			return cmp.Or(cmp.Compare(b.LogOdds, a.LogOdds), a.Target.Compare(b.Target), cmp.Compare(a.Cause, b.Cause))
		})
		return out
	}
	for _, in := range run.Incidents {
		held := slices.DeleteFunc(slices.Clone(in.Held), func(h dhalion.Incident) bool { return !slices.Contains(synthesised, h.Cause) })
		at := in.Start.Add(after)
		if at.After(in.End) {
			at = in.End
		}
		said := judge(at)
		if len(held) == 0 {
			if len(in.Held) > 0 {
				quiet := len(said) == 0 || said[0].LogOdds <= 0
				count("other: "+string(in.Held[0].Cause)+" without an alarm", quiet)
				if !quiet {
					a.misses = append(a.misses, fmt.Sprintf("ALARM %s: %s", in.Name, said[0]))
				}
			}
			continue
		}
		is := func(v verdict) bool {
			return slices.ContainsFunc(held, func(h dhalion.Incident) bool { return h.Cause == v.Cause && h.Target == v.Target })
		}
		causes := map[dhalion.Cause]bool{}
		for _, h := range held {
			causes[h.Cause] = false
		}
		top, heading := len(said) > 0 && is(said[0]), ""
		if len(causes) == 1 {
			heading = "first: " + string(held[0].Cause)
			count(heading, top)
			count("first", top)
			if in.Magnitude != "mild" {
				count("first, moderate and strong", top)
			}
			count("first and more likely than not, "+cmp.Or(in.Magnitude, "no class"), top && said[0].LogOdds > 0)
		} else {
			for _, v := range said {
				if v.LogOdds > 0 && is(v) {
					causes[v.Cause] = true
				}
			}
			top = !slices.Contains(slices.Collect(maps.Values(causes)), false)
			heading = "compound"
			count("compounds, every part more likely than not", top)
		}
		alarm := slices.IndexFunc(said, func(v verdict) bool {
			_, ok := causes[v.Cause]
			return v.LogOdds > 0 && !ok
		})
		count("faults without an alarm of another cause", alarm < 0)
		if !top || alarm >= 0 || said[0].LogOdds <= 0 {
			text := fmt.Sprintf("%s %s %s:", map[bool]string{true: "ok  ", false: "MISS"}[top], in.Name, in.Magnitude)
			for _, h := range held {
				text += fmt.Sprintf(" [%s at %s]", h.Cause, h.Target)
			}
			text += " →"
			for n, v := range said {
				if n < 4 || is(v) {
					text += " " + v.String() + ";"
				}
			}
			a.misses = append(a.misses, text)
		}
	}
	last := time.Time{}
	for at := run.First.Add(time.Minute); !at.After(run.Last); at = at.Add(15 * time.Second) {
		if disturbed(run, at) || at.Before(last.Add(time.Minute)) {
			continue
		}
		last = at
		said := judge(at)
		quiet := len(said) == 0 || said[0].LogOdds <= 0
		count("quiet minutes without an alarm", quiet)
		if !quiet {
			a.misses = append(a.misses, fmt.Sprintf("ALARM %s %s: %s", run.Name, at.Format("15:04:05"), said[0]))
		}
	}
	return a
}

// disturbed says that a window shows a fault, or what is left of one.
func disturbed(run recorded.Run, at time.Time) bool {
	for _, in := range run.Incidents {
		if in.Quiet() {
			continue
		}
		after := time.Duration(0)
		for _, h := range in.Held {
			after = max(after, diagnose.Lingers(h.Cause))
		}
		if at.After(in.Start) && at.Before(in.Last.Add(after)) {
			return true
		}
	}
	return false
}
