package flink

import (
	"encoding/json"
	"net/url"
	"strings"
	"time"
)

// Answer is one request and what came of it.
type Answer struct {
	Time    time.Time // when it was answered, UTC
	Method  string
	Path    string // with the query
	Status  int    // of HTTP; 0 when there was no answer
	Body    json.RawMessage
	Request json.RawMessage // what a PUT sent
	Error   string          // why there was no answer
}

// OK reports whether the request was answered as asked.
func (a Answer) OK() bool { return a.Status == 200 || a.Status == 202 }

// Kind is what a request asks for.
type Kind int

// The kinds of request that are understood; the rest is KindOther.
const (
	KindOther Kind = iota
	KindConfig
	KindOverview
	KindJobs
	KindJob
	KindPlan
	KindVertex
	KindVertexMetrics
	KindCheckpoints
	KindCheckpointConfig
	KindExceptions
	KindRequirements
	KindTaskManagers
	KindTaskManagerMetrics
)

// Resource is what a path names.
type Resource struct {
	Kind        Kind
	Job         string // the run's id
	Vertex      string // id
	TaskManager string // id
}

// Resource reads the path.
func (a Answer) Resource() Resource {
	path, _, _ := strings.Cut(a.Path, "?")
	parts := strings.Split(strings.Trim(path, "/"), "/")
	if parts[0] == "v1" {
		parts = parts[1:]
	}
	for i, p := range parts {
		if plain, err := url.PathUnescape(p); err == nil {
			parts[i] = plain
		}
	}
	at := func(i int) string {
		if i < len(parts) {
			return parts[i]
		}
		return ""
	}
	r := Resource{}
	switch at(0) {
	case "config":
		r.Kind = only(KindConfig, len(parts) == 1)
	case "overview":
		r.Kind = only(KindOverview, len(parts) == 1)
	case "taskmanagers":
		switch {
		case len(parts) == 1:
			r.Kind = KindTaskManagers
		case len(parts) == 3 && at(2) == "metrics":
			r.Kind, r.TaskManager = KindTaskManagerMetrics, at(1)
		}
	case "jobs":
		if len(parts) == 2 && at(1) == "overview" {
			r.Kind = KindJobs
			return r
		}
		r.Job = at(1)
		switch what := at(2); {
		case r.Job == "":
		case len(parts) == 2:
			r.Kind = KindJob
		case what == "vertices":
			r.Vertex = at(3)
			switch {
			case r.Vertex == "":
			case len(parts) == 4:
				r.Kind = KindVertex
			case len(parts) == 5 && at(4) == "metrics":
				r.Kind = KindVertexMetrics
			}
		case what == "checkpoints" && len(parts) == 4 && at(3) == "config":
			r.Kind = KindCheckpointConfig
		case len(parts) == 3:
			r.Kind = map[string]Kind{
				"plan": KindPlan, "checkpoints": KindCheckpoints, "exceptions": KindExceptions,
				"resource-requirements": KindRequirements,
			}[what]
		}
	}
	if r.Kind == KindOther {
		return Resource{}
	}
	return r
}

func only(k Kind, when bool) Kind {
	if when {
		return k
	}
	return KindOther
}
