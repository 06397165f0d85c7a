package query

import (
	"context"
	"sort"
	"strings"

	"millrace/cloud/catalogue"
)

// maxNear is how many names are suggested.
const maxNear = 3

// entries is what near asks of a catalogue.
type entries interface {
	Entries(ctx context.Context, site string, fn func(*catalogue.Entry) error) error
}

// near finds the names that are most like a tag or pattern, in its site, or in
// all where the site has none. An error suggests nothing.
func near(ctx context.Context, c entries, tag string) []string {
	wanted := strings.ReplaceAll(tag, "*", "")
	type candidate struct {
		name string
		far  int
	}
	var best []candidate
	look := func(site string) error {
		return c.Entries(ctx, site, func(e *catalogue.Entry) error {
			far := distance(wanted, e.Tag)
			if strings.Contains(tag, "*") {
				far = max(0, far-(len(e.Tag)-len(wanted))) // what a star may stand for
			}
			for i := range best {
				if best[i].name == e.Tag {
					return nil
				}
			}
			best = append(best, candidate{e.Tag, far})
			sort.Slice(best, func(i, j int) bool {
				if best[i].far != best[j].far {
					return best[i].far < best[j].far
				}
				return best[i].name < best[j].name
			})
			best = best[:min(len(best), maxNear)]
			return nil
		})
	}
	err := look(catalogue.SiteOf(tag))
	if err == nil && len(best) == 0 {
		err = look("")
	}
	if err != nil {
		return nil
	}
	var out []string
	for _, b := range best {
		// What shares less than half is no misspelling, nor is what is much further
		// off than the best.
		if b.far*2 <= len(tag) && b.far <= 2*best[0].far+1 {
			out = append(out, b.name)
		}
	}
	return out
}

// distance is how many letters must be put in, taken out or changed to make a
// text from another: the edit distance of Levenshtein, without regard to case.
func distance(a, b string) int {
	x, y := []rune(strings.ToLower(a)), []rune(strings.ToLower(b))
	row := make([]int, len(y)+1)
	for j := range row {
		row[j] = j
	}
	for i, r := range x {
		corner := row[0]
		row[0] = i + 1
		for j, s := range y {
			change := corner
			if r != s {
				change++
			}
			corner = row[j+1]
			row[j+1] = min(change, row[j]+1, corner+1)
		}
	}
	return row[len(y)]
}
