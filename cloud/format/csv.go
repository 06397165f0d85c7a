package format

import (
	"io"
	"math"
	"strconv"
	"strings"

	"millrace/sample"
)

// csvHeader names the columns of samples. A column is only ever added at the end.
const csvHeader = "time,tag,value,unit,quality,status,kind,gateway_time,gateway,stream,producer,seq"

const bom = "\ufeff"

// csvWriter writes CSV as RFC 4180 has it: CRLF, fields in quotes where they
// hold a comma, a quote or a line end, quotes doubled. encoding/csv is not used
// since it alters line ends within a field when it writes CRLF.
type csvWriter struct {
	w      io.Writer
	buf    []byte
	header string
}

func newCSV(w io.Writer, o Options) *csvWriter {
	c := &csvWriter{w: w, header: csvHeader}
	if o.BOM {
		c.header = bom + csvHeader
	}
	return c
}

// Sample implements Writer.
func (c *csvWriter) Sample(r *Row) error {
	c.buf = c.buf[:0]
	c.begin()
	c.buf = stamp(c.buf, r.PrimaryTime())
	c.text(r.Tag)
	c.buf = append(c.buf, ',')
	c.value(r.Value)
	c.text(r.Unit)
	c.word(Severity(r.Quality))
	c.word(r.Quality.String())
	c.word(r.Value.Kind().String())
	c.buf = append(c.buf, ',')
	if r.SourceTime != 0 {
		c.buf = stamp(c.buf, r.Time)
	}
	c.text(r.Gateway)
	c.text(r.Stream)
	c.text(r.Producer)
	c.buf = append(c.buf, ',')
	if r.Producer != "" || r.Seq != 0 {
		c.buf = strconv.AppendUint(c.buf, r.Seq, 10)
	}
	return c.flush()
}

// Gap implements Writer; CSV has one shape of rows.
func (c *csvWriter) Gap(*Gap) error { return nil }

// Close implements Writer. A file without rows has its header.
func (c *csvWriter) Close() error {
	c.buf = c.buf[:0]
	c.begin()
	if len(c.buf) == 0 {
		return nil
	}
	_, err := c.w.Write(c.buf)
	return err
}

// begin writes the header before the first row.
func (c *csvWriter) begin() {
	if c.header != "" {
		c.buf = append(append(c.buf, c.header...), "\r\n"...)
		c.header = ""
	}
}

func (c *csvWriter) flush() error {
	c.buf = append(c.buf, "\r\n"...)
	_, err := c.w.Write(c.buf)
	return err
}

// value appends a value; null is an empty field, and an empty text is "".
func (c *csvWriter) value(v sample.Value) {
	switch v.Kind() {
	case sample.Float64:
		c.buf = appendFloat(c.buf, v.Float())
	case sample.Int64:
		c.buf = strconv.AppendInt(c.buf, v.Int(), 10)
	case sample.Bool:
		c.buf = strconv.AppendBool(c.buf, v.Bool())
	case sample.String:
		if v.Str() == "" {
			c.buf = append(c.buf, `""`...)
			return
		}
		c.field(harmless(v.Str()))
	case sample.Null:
	}
}

// appendFloat appends a float64 so that it reads back the same. RFC 4180 says
// nothing of numbers; NaN, Infinity and -Infinity are as most readers have them.
func appendFloat(dst []byte, f float64) []byte {
	switch {
	case math.IsNaN(f):
		return append(dst, "NaN"...)
	case math.IsInf(f, 1):
		return append(dst, "Infinity"...)
	case math.IsInf(f, -1):
		return append(dst, "-Infinity"...)
	}
	return strconv.AppendFloat(dst, f, 'g', -1, 64)
}

// text appends a comma and a text that came from outside.
func (c *csvWriter) text(s string) {
	c.buf = append(c.buf, ',')
	c.field(harmless(s))
}

// word appends a comma and a word of ours.
func (c *csvWriter) word(s string) { c.buf = append(append(c.buf, ','), s...) }

// field appends a field, in quotes where it must be. RFC 4180, 2.
func (c *csvWriter) field(s string) {
	if !strings.ContainsAny(s, ",\"\r\n") {
		c.buf = append(c.buf, s...)
		return
	}
	c.buf = append(c.buf, '"')
	for i := range len(s) {
		if s[i] == '"' {
			c.buf = append(c.buf, '"')
		}
		c.buf = append(c.buf, s[i])
	}
	c.buf = append(c.buf, '"')
}

// harmless puts an apostrophe before a text that a spreadsheet would take for a
// formula: one that begins with =, +, -, @, a tab or a line end, also behind
// blanks or in full width. One that begins with an apostrophe gets another, so
// that a reader who takes one away has the text. Numbers never come here.
func harmless(s string) string {
	first := strings.TrimLeft(s, " \u00a0\ufeff")
	if first == "" {
		return s
	}
	switch r := []rune(first[:min(len(first), 4)])[0]; r {
	case '=', '+', '-', '@', '\t', '\r', '\n', '\'', '＝', '＋', '－', '＠':
		return "'" + s
	}
	return s
}
