package format

import (
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"

	"millrace/cloud/analysis/result"
	"millrace/sample"
)

// Records takes the rows of a result. Values are in the order of its columns: nil,
// string, time.Time, float64 or int64.
type Records interface {
	Row(values []any) error
	// Close ends the form and writes what is left.
	Close() error
}

// NewRecords makes a writer of a result as CSV, JSON Lines or SenML.
func NewRecords(k Kind, w io.Writer, r result.Result, o Options) (Records, error) {
	switch k {
	case CSV:
		var names []string
		for _, c := range r.Columns {
			names = append(names, c.Name)
		}
		out := &csvRecords{csvWriter{w: w, header: strings.Join(names, ",")}}
		if o.BOM {
			out.header = bom + out.header
		}
		return out, nil
	case JSON:
		return &jsonRecords{w: w, r: r}, nil
	case SenML:
		return newSenMLRecords(w, r), nil
	case Table, Parquet:
	}
	return nil, fmt.Errorf("results are not written as %s", k)
}

type csvRecords struct{ csvWriter }

// Row implements Records.
func (c *csvRecords) Row(values []any) error {
	c.buf = c.buf[:0]
	c.begin()
	for i, v := range values {
		if i > 0 {
			c.buf = append(c.buf, ',')
		}
		switch v := v.(type) {
		case string:
			c.field(harmless(v))
		case time.Time:
			c.buf = v.UTC().AppendFormat(c.buf, time.RFC3339Nano)
		case float64:
			c.buf = appendFloat(c.buf, v)
		case int64:
			c.buf = strconv.AppendInt(c.buf, v, 10)
		}
	}
	return c.flush()
}

type jsonRecords struct {
	w   io.Writer
	r   result.Result
	buf []byte
}

// Row implements Records.
func (j *jsonRecords) Row(values []any) error {
	j.buf = append(j.buf[:0], '{')
	for i, v := range values {
		if i > 0 {
			j.buf = append(j.buf, ',')
		}
		j.buf = append(strconv.AppendQuote(j.buf, j.r.Columns[i].Name), ':')
		switch v := v.(type) {
		case string:
			j.buf = sample.AppendJSONText(j.buf, v)
		case time.Time:
			j.buf = append(v.UTC().AppendFormat(append(j.buf, '"'), time.RFC3339Nano), '"')
		case float64:
			j.buf = sample.AppendJSONFloat(j.buf, v)
		case int64:
			j.buf = sample.AppendJSONInt(j.buf, v)
		default:
			j.buf = append(j.buf, "null"...)
		}
	}
	j.buf = append(j.buf, "}\n"...)
	_, err := j.w.Write(j.buf)
	return err
}

// Close implements Records.
func (*jsonRecords) Close() error { return nil }

// senmlRecords makes of each number of a row one record, named
// <tag or device>:<result>:<column>, at the start of its hour or day. A unit
// column is that of the numbers named used.
type senmlRecords struct {
	w    io.Writer
	r    result.Result
	pack pack
	key  int
	time int
	unit int // -1: none
}

func newSenMLRecords(w io.Writer, r result.Result) *senmlRecords {
	s := &senmlRecords{w: w, r: r, unit: -1}
	for i, c := range r.Columns {
		switch c.Name {
		case r.Key[0]:
			s.key = i
		case r.Time():
			s.time = i
		case "unit":
			s.unit = i
		}
	}
	return s
}

// Row implements Records.
func (s *senmlRecords) Row(values []any) error {
	name, _ := values[s.key].(string)
	at, ok := values[s.time].(time.Time)
	if name == "" || !ok {
		return fmt.Errorf("a row of %s has no %s or no %s", s.r.Name, s.r.Key[0], s.r.Time())
	}
	if at.Unix() < relativeBelow {
		return fmt.Errorf("a row of %s is of %s, which SenML takes for relative", s.r.Name, at.Format(time.RFC3339))
	}
	unit := senmlUnit{}
	if s.unit >= 0 {
		text, _ := values[s.unit].(string)
		unit = senmlUnits[text]
	}
	s.pack.buf = s.pack.buf[:0]
	base := SenMLName(name) + ":" + s.r.Name + ":"
	for i, c := range s.r.Columns {
		u := senmlUnit{}
		if c.Name == "used" {
			u = unit
		}
		f, isFloat := values[i].(float64)
		n, isInt := values[i].(int64)
		converted := u.convert(f)
		if isFloat && math.IsInf(converted, 0) {
			u, converted = senmlUnit{}, f
		}
		if !isInt && (!isFloat || math.IsNaN(converted) || math.IsInf(converted, 0)) {
			continue
		}
		s.pack.begin(base, c.Name, at.UnixNano())
		if u.name != "" {
			s.pack.buf = append(append(append(s.pack.buf, `,"u":"`...), u.name...), '"')
		}
		s.pack.buf = append(s.pack.buf, `,"v":`...)
		if isInt {
			s.pack.buf = strconv.AppendInt(s.pack.buf, n, 10)
		} else {
			s.pack.buf = sample.AppendJSONFloat(s.pack.buf, converted)
		}
		s.pack.end()
	}
	_, err := s.w.Write(s.pack.buf)
	return err
}

// Close implements Records.
func (s *senmlRecords) Close() error {
	_, err := io.WriteString(s.w, s.pack.close())
	return err
}
