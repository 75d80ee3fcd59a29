package main

import (
	"bufio"
	"context"
	"fmt"
	"math"
	"os"
	"strings"
	"sync"
	"time"
)

// sample is what the machine's processors did in one second, as shares of all of
// them: idle (waiting for a disk is idle too) and busy with niced work, which
// gives way to the lab.
type sample struct {
	at         time.Time
	idle, nice float64
}

func (s sample) free() float64 { return s.idle + s.nice }

const (
	// Less than leastFree for noisySeconds in a row makes a run useless: parked
	// time stretches when a thread that wakes up has to wait for a processor.
	leastFree    = 0.10
	noisySeconds = 5
)

// machine looks at /proc/stat once a second.
type machine struct {
	mu      sync.Mutex
	samples []sample
}

func watchMachine(ctx context.Context) *machine {
	m := &machine{}
	go func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		before, err := readStat("/proc/stat")
		for err == nil {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			var now [8]float64
			if now, err = readStat("/proc/stat"); err == nil {
				m.add(between(before, now, time.Now().UTC()))
				before = now
			}
		}
		fmt.Fprintln(os.Stderr, "run: the machine is not watched:", err)
	}()
	return m
}

// readStat reads user, nice, system, idle, iowait, irq, softirq, steal.
func readStat(path string) (v [8]float64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return v, err
	}
	defer f.Close()
	line, err := bufio.NewReader(f).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "cpu ") {
		return v, fmt.Errorf("%s does not begin with a line cpu", path)
	}
	_, err = fmt.Sscan(line[4:], &v[0], &v[1], &v[2], &v[3], &v[4], &v[5], &v[6], &v[7])
	return v, err
}

func between(a, b [8]float64, at time.Time) sample {
	total := 0.0
	for i := range a {
		total += b[i] - a[i]
	}
	if total <= 0 {
		return sample{at: at, idle: 1}
	}
	round := func(v float64) float64 { return math.Round(1000*v/total) / 1000 }
	return sample{at, round(b[3] - a[3] + b[4] - a[4]), round(b[1] - a[1])}
}

func (m *machine) add(s sample) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.samples = append(m.samples, s)
	if len(m.samples) > 8*3600 {
		m.samples = m.samples[3600:]
	}
}

// since is what was seen after a time.
func (m *machine) since(t time.Time) []sample {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, s := range m.samples {
		if s.at.After(t) {
			return append([]sample(nil), m.samples[i:]...)
		}
	}
	return nil
}

// noisy says why the run is of no use from a time on; the reason is empty when it
// is of use.
func noisy(samples []sample, least float64) (from time.Time, reason string) {
	row := 0
	for i, s := range samples {
		if s.free() >= least {
			row = 0
			continue
		}
		if row++; row >= noisySeconds {
			return samples[i+1-row].at, fmt.Sprintf("less than %.0f %% of the processors free for %d s before %s", 100*least, noisySeconds, s.at.Format(time.RFC3339))
		}
	}
	return time.Time{}, ""
}

// freeShares are the least and the mean of the free shares.
func freeShares(samples []sample) (least, mean float64) {
	if len(samples) == 0 {
		return math.NaN(), math.NaN()
	}
	least = 1
	for _, s := range samples {
		least = math.Min(least, s.free())
		mean += s.free()
	}
	return least, mean / float64(len(samples))
}
