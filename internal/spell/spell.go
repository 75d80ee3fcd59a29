// Package spell finds the name that a misspelt one may have meant.
package spell

import "fmt"

// DidYouMean is a clause for the end of an error that names the nearest of some
// names, when one is near: at most a third of the letters and one more to change.
// Empty when none is.
func DidYouMean(name string, names []string) string {
	best, least := "", 2+len(name)/3
	for _, other := range names {
		if d := Distance(name, other); d < least {
			best, least = other, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean %s?", best)
}

// Distance is how many bytes it takes to change, add or take away to make one text
// another (Levenshtein).
func Distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
