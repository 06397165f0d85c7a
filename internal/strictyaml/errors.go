package strictyaml

import (
	"fmt"
	"regexp"
	"sort"
	"strconv"
	"strings"
)

// Error is one thing that is wrong with a file.
type Error struct {
	File    string
	Line    int // from 1; 0 where the whole file is meant
	Column  int
	Path    string // YAML path: sources[0].connection.url
	Problem string
	Hint    string // what to do next
}

// Error prints the error on one line: file:line:column: path: problem; hint.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	if e.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", e.Line, e.Column)
	}
	b.WriteString(": ")
	if e.Path != "" {
		b.WriteString(e.Path + ": ")
	}
	b.WriteString(e.Problem)
	if e.Hint != "" {
		b.WriteString("; " + e.Hint)
	}
	return b.String()
}

// Errors are all that is wrong, by line.
type Errors []*Error

// Error prints one error per line.
func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i := range e {
		lines[i] = e[i].Error()
	}
	return strings.Join(lines, "\n")
}

// Sort puts them in the order of the file.
func (e Errors) Sort() {
	sort.SliceStable(e, func(i, j int) bool {
		if e[i].Line != e[j].Line {
			return e[i].Line < e[j].Line
		}
		return e[i].Column < e[j].Column
	})
}

// Quoted is a value in a message: on one line and not too long.
func Quoted(value string) string {
	if r := []rune(value); len(r) > 60 {
		value = string(r[:60]) + "…"
	}
	return strconv.Quote(value)
}

// userInfo finds a password in a URL, or in what was meant as one.
var userInfo = regexp.MustCompile(`(://[^/\s:@"]*):[^/\s"]*@`)

// oneLine makes a text fit for a message: without line breaks, and without the
// password of a URL in it.
func oneLine(text string) string {
	return userInfo.ReplaceAllString(lineBreaks.Replace(text), "$1:***@")
}

var lineBreaks = strings.NewReplacer("\r\n", " ", "\n", " ", "\r", " ")

// Nearest returns the known word that was probably meant, or "": the one that
// differs only in case, hyphens and underscores, or else by the fewest edits,
// at most one for words of three letters, two for longer ones, and a third of
// the length for those above eight.
func Nearest(word string, known []string) string {
	plain := func(s string) string { return separators.Replace(strings.ToLower(s)) }
	limit := max(2, len(word)/3)
	if len(word) <= 3 {
		limit = 1
	}
	best, least := "", limit+1
	for _, k := range known {
		if d := distance(plain(word), plain(k)); d < least && d < len(k) {
			best, least = k, d
		}
	}
	return best
}

var separators = strings.NewReplacer("-", "", "_", "", " ", "")

// distance is the Levenshtein distance.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diagonal := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			diagonal, row[j] = row[j], min(row[j]+1, row[j-1]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}
