package flink

import (
	"cmp"
	"strings"
	"unicode"
)

// maxName is the longest name, in bytes, that the store takes, less room for
// what tells two of one name apart.
const maxName = 1000

// Name makes a name of Flink's fit to be one of ours: trimmed, on one line. Of a
// longer one, as SQL makes them, the beginning and the id stay.
func Name(name, id string) string {
	name = cmp.Or(OneLine(name), OneLine(id), "?")
	if len(name) > maxName {
		name = OneLine(name[:maxName]) + " [" + First8(id) + "]"
	}
	return name
}

// First8 is the beginning of an id of Flink's, 32 hexadecimal digits: what tells
// two of one name apart.
func First8(id string) string { return OneLine(id[:min(8, len(id))]) }

// OneLine is a text of Flink's without control characters and outer spaces.
func OneLine(name string) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(name, "")))
}

// ComponentNames are the names of a job's components, by vertex id: the names of
// the vertices, with the beginning of the id behind those that occur twice.
func ComponentNames(vertices []Vertex) map[string]string {
	names, uses := map[string]string{}, map[string]int{}
	for _, v := range vertices {
		if _, twice := names[v.ID]; v.ID == "" || twice {
			continue
		}
		names[v.ID] = Name(v.Name, v.ID)
		uses[names[v.ID]]++
	}
	for id, name := range names {
		if uses[name] > 1 {
			names[id] = name + " [" + First8(id) + "]"
		}
	}
	return names
}

// Operators is how many operators run in one task of a vertex: Flink joins the names
// of those that it chains by an arrow.
func Operators(vertexName string) int { return 1 + strings.Count(vertexName, " -> ") }

// Chained says that a vertex is several operators.
func Chained(vertexName string) bool { return Operators(vertexName) > 1 }
