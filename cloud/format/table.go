package format

import (
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"millrace/sample"
)

// headRows is how many lines are looked at to find the width of the columns.
const headRows = 500

// Columns of the table.
const (
	colTime = iota
	colTag
	colValue
	colUnit
	colQuality
	columns
)

// table writes lines for people: the columns aligned, numbers by their right
// edge. The widths come from the first lines and only grow, so that memory does
// not depend on how many there are.
type table struct {
	w     io.Writer
	zone  *time.Location
	show  [columns]bool
	width [columns]int
	head  []tableLine
	begun bool
	// digits of the fraction of a second: 0, 3, 6 or 9.
	digits int
	buf    []byte
}

// tableLine is a line that waits for the widths.
type tableLine struct {
	cells [columns]string
	right bool // the value is a number
	time  int64
	gap   string
}

func newTable(w io.Writer, o Options) *table {
	t := &table{w: w, zone: o.Zone, digits: 0}
	if t.zone == nil {
		t.zone = time.UTC
	}
	t.show = [columns]bool{colTime: true, colTag: o.Tags != 1, colValue: true, colUnit: true, colQuality: true}
	return t
}

// Sample implements Writer.
func (t *table) Sample(r *Row) error {
	l := tableLine{time: r.PrimaryTime(), cells: [columns]string{colTag: plain(r.Tag), colValue: shown(r.Value), colUnit: plain(r.Unit), colQuality: r.Quality.String()}}
	switch r.Value.Kind() {
	case sample.Float64, sample.Int64:
		l.right = true
	case sample.Null, sample.Bool, sample.String:
	}
	return t.add(l)
}

// Gap implements Writer.
func (t *table) Gap(g *Gap) error { return t.add(tableLine{gap: t.describe(g)}) }

// Close implements Writer.
func (t *table) Close() error {
	if t.begun {
		return nil
	}
	return t.begin()
}

func (t *table) add(l tableLine) error {
	if t.begun {
		return t.line(&l)
	}
	t.head = append(t.head, l)
	if len(t.head) < headRows {
		return nil
	}
	return t.begin()
}

// begin writes the heading and the lines that waited.
func (t *table) begin() error {
	t.begun = true
	unit := false
	samples := 0
	for i := range t.head {
		l := &t.head[i]
		if l.gap != "" {
			continue
		}
		samples++
		unit = unit || l.cells[colUnit] != ""
		t.digits = max(t.digits, digitsOf(l.time))
	}
	t.show[colUnit] = unit
	if samples == 0 && len(t.head) == 0 {
		return nil
	}
	title := [columns]string{"TIME " + t.zoneName(), "TAG", "VALUE", "UNIT", "QUALITY"}
	for k, text := range title {
		t.width[k] = utf8.RuneCountInString(text)
	}
	for i := range t.head {
		if l := &t.head[i]; l.gap == "" {
			l.cells[colTime] = t.clock(l.time)
			t.fit(l)
		}
	}
	right := false
	for i := range t.head {
		right = right || t.head[i].right
	}
	if err := t.put(&tableLine{cells: title, right: right}); err != nil {
		return err
	}
	for i := range t.head {
		if err := t.line(&t.head[i]); err != nil {
			return err
		}
	}
	t.head = nil
	return nil
}

// fit widens the columns for a line.
func (t *table) fit(l *tableLine) {
	for k, text := range l.cells {
		t.width[k] = max(t.width[k], utf8.RuneCountInString(text))
	}
}

func (t *table) line(l *tableLine) error {
	if l.gap != "" {
		_, err := fmt.Fprintln(t.w, l.gap)
		return err
	}
	if l.cells[colTime] == "" {
		l.cells[colTime] = t.clock(l.time)
	}
	t.fit(l)
	return t.put(l)
}

func (t *table) put(l *tableLine) error {
	t.buf = t.buf[:0]
	for k, text := range l.cells {
		if !t.show[k] {
			continue
		}
		pad := strings.Repeat(" ", t.width[k]-utf8.RuneCountInString(text))
		if k == colValue && l.right {
			t.buf = append(append(t.buf, pad...), text...)
		} else {
			t.buf = append(append(t.buf, text...), pad...)
		}
		t.buf = append(t.buf, "  "...)
	}
	_, err := fmt.Fprintln(t.w, strings.TrimRight(string(t.buf), " "))
	return err
}

// describe is the line of a gap.
func (t *table) describe(g *Gap) string {
	from, to := g.From, g.To
	text := "--- gap: " + string(g.Cause)
	switch {
	case from.IsZero() && to.IsZero():
		text += ", at an unknown time, declared " + t.clock(g.At.UnixNano())
	default:
		text += ", " + t.clock(from.UnixNano()) + " to " + t.clock(to.UnixNano()) + " (" + to.Sub(from).Round(time.Millisecond).String() + ")"
	}
	if g.Count != nil {
		text += fmt.Sprintf(", %d samples", *g.Count)
	} else {
		text += ", count unknown"
	}
	who := g.Source
	switch {
	case g.Tag != "":
		who = g.Tag
	case who == "" && len(g.Sources) > 0:
		who = strings.Join(g.Sources, ", ")
	case who == "" && g.Stream != "":
		who = "stream " + g.Stream
	}
	if who != "" {
		text += ": " + plain(who)
	}
	if g.Gateway != "" {
		text += " at " + plain(g.Gateway)
	}
	if len(g.Sinks) > 0 {
		text += ", lost to " + plain(strings.Join(g.Sinks, ", ")) + " only"
	}
	return text + " ---"
}

// zoneName says in what the times are.
func (t *table) zoneName() string {
	if t.zone == time.UTC {
		return "(UTC)"
	}
	if t.zone == time.Local {
		return "(local)"
	}
	return "(" + t.zone.String() + ")"
}

// clock is a time in the table's zone. Outside of UTC it has its offset, since an
// hour comes twice when daylight saving ends.
func (t *table) clock(ns int64) string {
	layout := "2006-01-02 15:04:05"
	if n := max(t.digits, digitsOf(ns)); n > 0 {
		layout += "." + strings.Repeat("0", n)
	}
	if t.zone != time.UTC {
		layout += " -07:00"
	}
	return time.Unix(0, ns).In(t.zone).Format(layout)
}

// digitsOf is how many digits of a second's fraction a time needs, in threes.
func digitsOf(ns int64) int {
	switch {
	case ns%1e9 == 0:
		return 0
	case ns%1e6 == 0:
		return 3
	case ns%1e3 == 0:
		return 6
	}
	return 9
}

// shown is a value for people. Text has quotes only where it needs them.
func shown(v sample.Value) string {
	switch v.Kind() {
	case sample.Null:
		return "-"
	case sample.String:
		return plain(v.Str())
	case sample.Float64:
		return shownFloat(v.Float())
	case sample.Int64, sample.Bool:
	}
	return v.String()
}

// shownFloat is a number for people: without the digits that are there only since
// a float64 has no exact 183.58. The other forms have all of them.
func shownFloat(f float64) string {
	digits := 10
	if math.Abs(f) >= 1e9 {
		digits = 15 // a counter has its units, too
	}
	return strconv.FormatFloat(f, 'g', digits, 64)
}

// plain is a text that does nothing to a terminal: quoted where it holds what
// cannot be printed.
func plain(s string) string {
	if !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return strconv.Quote(s)
	}
	return s
}
