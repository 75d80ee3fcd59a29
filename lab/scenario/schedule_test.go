package scenario

import (
	"bytes"
	"os"
	"slices"
	"strings"
	"testing"
)

func realShapes(t *testing.T) Shapes {
	t.Helper()
	data, err := os.ReadFile("../jobs/shapes.yaml")
	if err != nil {
		t.Fatal(err)
	}
	shapes, err := ReadShapes("shapes.yaml", data)
	if err != nil {
		t.Fatal(err)
	}
	return shapes
}

func bytesOf(t *testing.T, seed uint64) []byte {
	t.Helper()
	all, err := Generate(realShapes(t), seed)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	for _, s := range all {
		data, err := s.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		out.WriteString("--- " + s.Name + "\n")
		out.Write(data)
	}
	return out.Bytes()
}

func TestTheSameSeedGivesTheSameSchedule(t *testing.T) {
	for seed := range uint64(20) {
		if !bytes.Equal(bytesOf(t, seed), bytesOf(t, seed)) {
			t.Fatalf("seed %d gives two schedules", seed)
		}
	}
	if bytes.Equal(bytesOf(t, 1), bytesOf(t, 2)) {
		t.Error("seeds 1 and 2 give one schedule")
	}
}

func TestAScheduleReadsBackAsItWasWritten(t *testing.T) {
	shapes := realShapes(t)
	all, err := Generate(shapes, 1)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range all {
		data, err := s.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		back, err := Parse(s.Name+".yaml", data, shapes)
		if err != nil {
			t.Fatal(err)
		}
		again, err := back.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(data, again) {
			t.Errorf("%s is not what it was:\n%s\n%s", s.Name, data, again)
		}
	}
}

// placed puts instance i of every component on worker i modulo 4, as a balanced
// placement does.
func placed(shape Shape) Placement {
	p := Placement{}
	for name, c := range shape.Components {
		p[name] = map[int]string{}
		for i := range c.Parallelism {
			p[name][i] = []string{"tm-1", "tm-2", "tm-3", "tm-4"}[i%4]
		}
	}
	return p
}

// hold is an incident as it would happen, with a hot key at instance 0.
func hold(t *testing.T, shape Shape, in Incident, seed uint64) Held {
	t.Helper()
	h := Held{Load: 1, Settle: in.Settle, Shares: map[string][]float64{}}
	for _, f := range in.Faults {
		r := Resolved{Fault: f}
		if f.Worker != nil {
			if r.On = f.Worker.Choose(placed(shape), shape, seed, ""); r.On == "" {
				t.Fatalf("%s: no worker fits", in.Name)
			}
		}
		if f.Kind == Hot {
			p := shape.Components[f.Component].Parallelism
			list := make([]float64, p)
			for i := range list {
				list[i] = (1 - f.Share) / float64(p)
			}
			list[0] += f.Share
			h.Shares[f.Component] = list
		}
		h.Faults = append(h.Faults, HeldFault{Resolved: r, Hosted: placed(shape).On(r.On, shape)})
	}
	return h
}

func TestEveryIncidentOfAScheduleHasTheCausesThatItIsNamedAfter(t *testing.T) {
	shapes := realShapes(t)
	for seed := range uint64(10) {
		all, err := Generate(shapes, seed)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range all {
			shape, err := s.ShapeOf(shapes)
			if err != nil {
				t.Fatal(err)
			}
			for _, in := range s.Incidents {
				var found []string
				for _, r := range Causes(shape, hold(t, shape, in, s.Seed)) {
					found = append(found, r.Cause)
				}
				name := in.Name[3:]
				for word, cause := range map[string]string{"cheap": "overprovisioned", "lost": "transient", "rescale": "none", "noise": "none"} {
					name = strings.ReplaceAll(name, word, cause)
				}
				if name == "cost" || name == "load" {
					name = "none"
				}
				for _, cause := range found {
					// One instance more can be twice what a stage of three needs.
					if name == "none" && cause == "overprovisioned" && in.Faults[0].Kind == Rescale {
						continue
					}
					if !strings.Contains(name, strings.ReplaceAll(cause, "_", "-")) {
						t.Errorf("seed %d %s %s: %s holds, which its name does not say", seed, s.Name, in.Name, cause)
					}
				}
				distinct := slices.Compact(slices.Sorted(slices.Values(found)))
				if faults := len(in.Faults); len(distinct) != faults {
					t.Errorf("seed %d %s %s: %d faults and the causes %v", seed, s.Name, in.Name, faults, distinct)
				}
			}
		}
	}
}

func TestAScheduleHasEveryCauseShapeAndClass(t *testing.T) {
	shapes := realShapes(t)
	all, err := Generate(shapes, 1)
	if err != nil {
		t.Fatal(err)
	}
	classes, causes, perShape := map[string]int{}, map[string]int{}, map[string]map[string]bool{}
	incidents, compounds, burnt, burnable := 0, map[int]int{}, 0, 0
	for _, s := range all {
		shape, err := s.ShapeOf(shapes)
		if err != nil {
			t.Fatal(err)
		}
		if perShape[s.Shape] == nil {
			perShape[s.Shape] = map[string]bool{}
		}
		for _, in := range s.Incidents {
			distinct := map[string]bool{}
			for _, r := range Causes(shape, hold(t, shape, in, s.Seed)) {
				distinct[r.Cause] = true
			}
			if distinct["none"] {
				continue
			}
			incidents++
			compounds[len(distinct)]++
			if in.Magnitude != "" {
				classes[in.Magnitude]++
			}
			for cause := range distinct {
				causes[cause]++
				perShape[s.Shape][cause] = true
			}
			if len(distinct) == 1 && (distinct["slow_instance"] || distinct["slow_worker"] || distinct["underprovisioned"]) {
				burnable++
				if len(s.Base.Burn) > 0 {
					burnt++
				}
			}
		}
	}
	if incidents < 130 {
		t.Errorf("%d incidents, not 130", incidents)
	}
	for _, cause := range []string{"underprovisioned", "overprovisioned", "slow_instance", "slow_worker", "data_skew", "sink_limited", "source_limited", "memory_pressure", "checkpoint_failing", "failing", "transient"} {
		if causes[cause] < 7 {
			t.Errorf("%s: %d incidents", cause, causes[cause])
		}
		for shape, has := range perShape {
			if !has[cause] && cause != "memory_pressure" {
				t.Errorf("%s never has %s", shape, cause)
			}
		}
	}
	if compounds[2] < 8 || compounds[3] < 4 {
		t.Errorf("compounds: %v", compounds)
	}
	// A quarter, two fifths, a bit over a third.
	n := classes["mild"] + classes["moderate"] + classes["strong"]
	for class, share := range map[string]float64{"mild": .25, "moderate": .4, "strong": .35} {
		if got := float64(classes[class]) / float64(n); got < share-.07 || got > share+.07 {
			t.Errorf("%s: %.2f of %d, not about %.2f", class, got, n, share)
		}
	}
	if 4*burnt < burnable {
		t.Errorf("%d of %d slow and underprovisioned incidents burn CPU", burnt, burnable)
	}
}
