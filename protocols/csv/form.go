package csv

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"millrace/internal/strictjson"
	"millrace/protocols"
	"millrace/sample"
)

// The columns that a file may have.
const (
	columnTarget     = "target"
	columnValue      = "value"
	columnUnit       = "unit"
	columnQuality    = "quality"
	columnTime       = "time"
	columnVersion    = "version"
	columnValidUntil = "valid_until"
)

func allColumns() []string {
	return []string{columnTarget, columnValue, columnUnit, columnQuality, columnTime, columnVersion, columnValidUntil}
}

// form is how a folder's files are written: RFC 4180, with the marks that the
// reader's country uses.
type form struct {
	delimiter rune
	decimal   string
	bom       bool
}

// row is what one file says.
type row struct {
	target     string
	value      sample.Value
	unit       string
	quality    sample.Quality
	time       time.Time
	version    uint64
	validUntil time.Time
}

const bom = "\xef\xbb\xbf" // U+FEFF in UTF-8

// encode returns a file of two lines: the columns' names and the row.
func (f form) encode(columns []string, r row) ([]byte, error) {
	fields := make([]string, len(columns))
	for i, c := range columns {
		switch c {
		case columnTarget:
			fields[i] = guard(r.target)
		case columnValue:
			fields[i] = f.text(r.value)
		case columnUnit:
			fields[i] = guard(r.unit)
		case columnQuality:
			fields[i] = r.quality.String()
		case columnTime:
			fields[i] = stamp(r.time)
		case columnVersion:
			fields[i] = strconv.FormatUint(r.version, 10)
		case columnValidUntil:
			fields[i] = stamp(r.validUntil)
		}
	}
	return f.lines(columns, fields)
}

func (f form) lines(rows ...[]string) ([]byte, error) {
	var b bytes.Buffer
	if f.bom {
		b.WriteString(bom)
	}
	w := csv.NewWriter(&b)
	w.Comma, w.UseCRLF = f.delimiter, true // RFC 4180, 2.1
	if err := w.WriteAll(rows); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

// text writes a value.
func (f form) text(v sample.Value) string {
	text := string(protocols.AppendPlain(nil, v))
	switch v.Kind() {
	case sample.String:
		return guard(text)
	case sample.Float64:
		return strings.Replace(text, ".", f.decimal, 1)
	}
	return text
}

// guard keeps a spreadsheet from taking a text for a formula: what begins like
// one, in the wide forms of East Asian keyboards too, gets an apostrophe before
// it. A text that begins with an apostrophe gets
// one too, so that unguard is exact.
func guard(s string) string {
	if first, size := utf8.DecodeRuneInString(s); size > 0 && strings.ContainsRune("=+-@'＝＋－＠", first) {
		return "'" + s
	}
	return s
}

func unguard(s string) string { return strings.TrimPrefix(s, "'") }

// fit returns a value as one of the kind, exactly.
func fit(v sample.Value, kind sample.Kind) (sample.Value, error) {
	v, err := protocols.Exactly(v, kind)
	switch {
	case err != nil:
		return v, err
	case strings.ContainsFunc(v.Str(), unicode.IsControl):
		return v, errors.New("the text holds control characters, such as a line end")
	case len(v.Str()) > maxText:
		return v, fmt.Errorf("a text of %d bytes is longer than %d", len(v.Str()), maxText)
	}
	return v, nil
}

const (
	maxText = 16 << 10
	maxFile = 64 << 10
)

// decode reads a file as encode writes it; the value is of the kind.
func (f form) decode(data []byte, columns []string, kind sample.Kind) (row, error) {
	data = bytes.TrimPrefix(data, []byte(bom))
	r := csv.NewReader(bytes.NewReader(data))
	r.Comma, r.FieldsPerRecord = f.delimiter, len(columns)
	lines, err := r.ReadAll()
	switch {
	case err != nil:
		return row{}, err
	case len(lines) != 2:
		return row{}, fmt.Errorf("it has %d lines and not a header and one line", len(lines))
	}
	var out row
	for i, c := range columns {
		text := lines[1][i]
		if lines[0][i] != c {
			return row{}, fmt.Errorf("column %d is %.40q and not %s", i+1, lines[0][i], c)
		}
		switch c {
		case columnTarget:
			out.target = unguard(text)
		case columnValue:
			out.value, err = f.value(text, kind)
		case columnUnit:
			out.unit = unguard(text)
		case columnQuality:
			out.quality, err = protocols.QualityOfName([]byte(text))
		case columnTime:
			out.time, err = readTime(text)
		case columnVersion:
			out.version, err = strconv.ParseUint(text, 10, 64)
		case columnValidUntil:
			out.validUntil, err = readTime(text)
		}
		if err != nil {
			return row{}, fmt.Errorf("column %s: %w", c, err)
		}
	}
	return out, nil
}

func readTime(text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	ns, err := strictjson.Time([]byte(text))
	return time.Unix(0, ns).UTC(), err
}

// value reads a field as a value of the kind; where that is Null, as what it
// looks like.
func (f form) value(text string, kind sample.Kind) (sample.Value, error) {
	number := text
	if f.decimal != "." {
		if strings.Contains(text, ".") && (kind == sample.Float64 || kind == sample.Int64) {
			return sample.Value{}, fmt.Errorf("%.40q has a point where decimal is %q", text, f.decimal)
		}
		number = strings.Replace(text, f.decimal, ".", 1)
	}
	isNumber := strictjson.IsNumber([]byte(number))
	switch kind {
	case sample.Float64:
		x, err := strconv.ParseFloat(number, 64)
		if err != nil || !isNumber {
			return sample.Value{}, fmt.Errorf("%.40q is not a number", text)
		}
		return sample.FloatValue(x), nil
	case sample.Int64:
		i, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return sample.Value{}, fmt.Errorf("%.40q is not an integer", text)
		}
		return sample.IntValue(i), nil
	case sample.Bool:
		if text != "true" && text != "false" {
			return sample.Value{}, fmt.Errorf("%.40q is not true or false", text)
		}
		return sample.BoolValue(text == "true"), nil
	case sample.String:
		return sample.StringValue(unguard(text)), nil
	case sample.Null:
	}
	switch {
	case text == "true", text == "false":
		return sample.BoolValue(text == "true"), nil
	case isNumber:
		return protocols.NumberOf([]byte(number))
	}
	return sample.StringValue(unguard(text)), nil
}
