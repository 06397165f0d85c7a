package sample

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// maxExact is the largest integer up to which every integer is a float64, and
// so safe with any JSON parser.
const maxExact = 1 << 53

// AppendJSONLine appends a sample as one JSON object, without a line end:
//
//	{"tag":"site/dev/name","value":20.5,"time":"2026-01-01T00:00:00.25Z"}
//
// and where they are there: "source_time", "quality" (a name of OPC UA, absent
// when Good), "producer" and "seq". The form of the value says its kind: null,
// true or false, a string, a number without point and exponent for an int64,
// with one for a float64 ("21.0"). What JSON has no form for is an object:
// {"float64":"NaN"}, with its bits in hexadecimal after a colon where they are
// not the usual ones, {"float64":"Infinity"}, {"int64":"9007199254740993"}
// beyond 2^53, {"base64":"…"} for text that is not UTF-8.
func AppendJSONLine(dst []byte, s *Sample) []byte {
	dst = append(dst, `{"tag":`...)
	dst = AppendJSONText(dst, s.Tag)
	dst = append(dst, `,"value":`...)
	dst = appendValue(dst, s.Value)
	dst = append(dst, `,"time":"`...)
	dst = appendTime(dst, s.Time)
	if s.SourceTime != 0 {
		dst = append(dst, `","source_time":"`...)
		dst = appendTime(dst, s.SourceTime)
	}
	dst = append(dst, '"')
	if s.Quality != Good {
		dst = append(dst, `,"quality":"`...)
		dst = append(dst, s.Quality.String()...)
		dst = append(dst, '"')
	}
	if s.Producer != "" || s.Seq != 0 {
		dst = append(dst, `,"producer":`...)
		dst = AppendJSONText(dst, s.Producer)
		dst = append(dst, `,"seq":`...)
		dst = AppendJSONUint(dst, s.Seq)
	}
	return append(dst, '}')
}

func appendTime(dst []byte, ns int64) []byte {
	return time.Unix(0, ns).UTC().AppendFormat(dst, time.RFC3339Nano)
}

func appendValue(dst []byte, v Value) []byte {
	switch v.kind {
	case Float64:
		f := v.Float()
		if math.IsNaN(f) || math.IsInf(f, 0) {
			dst = append(dst, `{"float64":"`...)
			return append(appendOddFloat(dst, f), `"}`...)
		}
		at := len(dst)
		dst = strconv.AppendFloat(dst, f, 'g', -1, 64)
		if !bytes.ContainsAny(dst[at:], ".e") {
			dst = append(dst, ".0"...)
		}
		return dst
	case Int64:
		if i := v.Int(); i > maxExact || i < -maxExact {
			dst = append(dst, `{"int64":"`...)
			return append(strconv.AppendInt(dst, i, 10), `"}`...)
		}
		return strconv.AppendInt(dst, v.Int(), 10)
	case Bool:
		return strconv.AppendBool(dst, v.Bool())
	case String:
		return AppendJSONText(dst, v.str)
	case Null:
	}
	return append(dst, "null"...)
}

// appendOddFloat appends a float that JSON has no number for.
func appendOddFloat(dst []byte, f float64) []byte {
	switch {
	case math.IsInf(f, 1):
		return append(dst, "Infinity"...)
	case math.IsInf(f, -1):
		return append(dst, "-Infinity"...)
	}
	dst = append(dst, "NaN"...)
	if bits := math.Float64bits(f); bits != math.Float64bits(math.NaN()) {
		dst = fmt.Appendf(dst, ":%016x", bits)
	}
	return dst
}

// AppendJSONFloat appends a float64 as a JSON number, or as one of the strings
// "NaN", "NaN:7ff8000000000000" (the bits, where they are not the usual ones),
// "Infinity" and "-Infinity". Minus zero is -0.0.
func AppendJSONFloat(dst []byte, f float64) []byte {
	switch {
	case math.IsNaN(f) || math.IsInf(f, 0):
		return append(appendOddFloat(append(dst, '"'), f), '"')
	case f == 0 && math.Signbit(f):
		return append(dst, "-0.0"...)
	}
	return strconv.AppendFloat(dst, f, 'g', -1, 64)
}

// ParseJSONFloat reads what AppendJSONFloat writes, bit for bit.
func ParseJSONFloat(data []byte) (float64, error) {
	if len(data) > 1 && data[0] == '"' {
		return parseOddFloat(string(data[1 : len(data)-1]))
	}
	f, err := strconv.ParseFloat(string(data), 64)
	if err != nil {
		return 0, fmt.Errorf("%.40q is not a float64", data)
	}
	return f, nil
}

func parseOddFloat(text string) (float64, error) {
	switch text {
	case "NaN":
		return math.NaN(), nil
	case "Infinity":
		return math.Inf(1), nil
	case "-Infinity":
		return math.Inf(-1), nil
	}
	if digits, ok := strings.CutPrefix(text, "NaN:"); ok && len(digits) == 16 {
		bits, err := strconv.ParseUint(digits, 16, 64)
		if f := math.Float64frombits(bits); err == nil && math.IsNaN(f) {
			return f, nil
		}
	}
	return 0, fmt.Errorf("%.40q is not a float64", text)
}

// AppendJSONInt appends an integer: a JSON number up to 2^53 in magnitude, a
// string of its digits beyond.
func AppendJSONInt(dst []byte, i int64) []byte {
	if i > maxExact || i < -maxExact {
		return append(strconv.AppendInt(append(dst, '"'), i, 10), '"')
	}
	return strconv.AppendInt(dst, i, 10)
}

// AppendJSONUint is AppendJSONInt for uint64.
func AppendJSONUint(dst []byte, i uint64) []byte {
	if i > maxExact {
		return append(strconv.AppendUint(append(dst, '"'), i, 10), '"')
	}
	return strconv.AppendUint(dst, i, 10)
}

// AppendJSONText appends a JSON string, or {"base64":"…"} where s is not UTF-8.
func AppendJSONText(dst []byte, s string) []byte {
	if !utf8.ValidString(s) {
		dst = append(dst, `{"base64":"`...)
		dst = base64.StdEncoding.AppendEncode(dst, []byte(s))
		return append(dst, `"}`...)
	}
	dst = append(dst, '"')
	from := 0
	for i := range len(s) {
		c := s[i]
		if c >= ' ' && c != '"' && c != '\\' {
			continue
		}
		dst = append(dst, s[from:i]...)
		from = i + 1
		if c == '"' || c == '\\' {
			dst = append(dst, '\\', c)
		} else {
			dst = fmt.Appendf(dst, `\u%04x`, c)
		}
	}
	return append(append(dst, s[from:]...), '"')
}

// JSONText reads what AppendJSONText writes.
type JSONText string

// UnmarshalJSON implements json.Unmarshaler.
func (t *JSONText) UnmarshalJSON(data []byte) error {
	if data[0] == '"' {
		return json.Unmarshal(data, (*string)(t))
	}
	var o struct {
		Base64 *[]byte `json:"base64"`
	}
	if err := strict(data, &o); err != nil || o.Base64 == nil {
		return fmt.Errorf(`%.40q is neither a string nor {"base64":…}`, data)
	}
	*t = JSONText(*o.Base64)
	return nil
}

// JSONUint reads what AppendJSONUint writes.
type JSONUint uint64

// UnmarshalJSON implements json.Unmarshaler.
func (u *JSONUint) UnmarshalJSON(data []byte) error {
	v, err := strconv.ParseUint(unquote(data), 10, 64)
	if err != nil {
		return fmt.Errorf("%.40q is not a uint64", data)
	}
	*u = JSONUint(v)
	return nil
}

// JSONInt reads what AppendJSONInt writes.
type JSONInt int64

// UnmarshalJSON implements json.Unmarshaler.
func (i *JSONInt) UnmarshalJSON(data []byte) error {
	v, err := strconv.ParseInt(unquote(data), 10, 64)
	if err != nil {
		return fmt.Errorf("%.40q is not an int64", data)
	}
	*i = JSONInt(v)
	return nil
}

// unquote takes the quotes off a string of digits.
func unquote(data []byte) string {
	if n := len(data); n > 1 && data[0] == '"' {
		return string(data[1 : n-1])
	}
	return string(data)
}

// strict decodes one JSON value, and nothing after it, without unknown keys.
func strict(data []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the JSON value")
	}
	return nil
}

// ParseJSONLine reads one object as AppendJSONLine writes it, bit for bit. A
// quality may also be the number of its code.
func ParseJSONLine(data []byte) (Sample, error) {
	var o struct {
		Tag        *JSONText       `json:"tag"`
		Value      json.RawMessage `json:"value"`
		Time       *time.Time      `json:"time"`
		SourceTime *time.Time      `json:"source_time"`
		Quality    json.RawMessage `json:"quality"`
		Producer   JSONText        `json:"producer"`
		Seq        JSONUint        `json:"seq"`
	}
	if err := strict(data, &o); err != nil {
		return Sample{}, fmt.Errorf("sample line: %w", err)
	}
	if o.Tag == nil || o.Time == nil || o.Value == nil {
		return Sample{}, errors.New("sample line: tag, value and time must be there")
	}
	s := Sample{Tag: string(*o.Tag), Producer: string(o.Producer), Seq: uint64(o.Seq)}
	var err error
	if s.Value, err = parseValue(o.Value); err != nil {
		return Sample{}, fmt.Errorf("sample line of %q: value: %w", s.Tag, err)
	}
	if s.Time, err = nanoseconds(*o.Time); err != nil {
		return Sample{}, fmt.Errorf("sample line of %q: %w", s.Tag, err)
	}
	if o.SourceTime != nil {
		if s.SourceTime, err = nanoseconds(*o.SourceTime); err != nil {
			return Sample{}, fmt.Errorf("sample line of %q: %w", s.Tag, err)
		}
	}
	if o.Quality != nil {
		if s.Quality, err = ParseQuality(unquote(o.Quality)); err != nil {
			return Sample{}, fmt.Errorf("sample line of %q: %w", s.Tag, err)
		}
	}
	return s, nil
}

func nanoseconds(t time.Time) (int64, error) {
	ns := t.UnixNano()
	if !time.Unix(0, ns).Equal(t) {
		return 0, fmt.Errorf("the time %s is not in the years 1678 to 2261", t.Format(time.RFC3339))
	}
	return ns, nil
}

func parseValue(data []byte) (Value, error) {
	switch c := data[0]; {
	case c == 'n':
		return Value{}, nil
	case c == 't' || c == 'f':
		return BoolValue(c == 't'), nil
	case c == '"':
		var s string
		err := json.Unmarshal(data, &s)
		return StringValue(s), err
	case c == '{':
		return parseOddValue(data)
	case bytes.ContainsAny(data, ".eE"):
		f, err := strconv.ParseFloat(string(data), 64)
		if err != nil {
			return Value{}, fmt.Errorf("%.40q is beyond a float64", data)
		}
		return FloatValue(f), nil
	}
	i, err := strconv.ParseInt(string(data), 10, 64)
	if err != nil {
		return Value{}, fmt.Errorf("%.40q is neither an int64 nor null, a bool, a string or a float64", data)
	}
	return IntValue(i), nil
}

// parseOddValue reads the objects that stand for what JSON has no form for.
func parseOddValue(data []byte) (Value, error) {
	var o struct {
		Float64 *string `json:"float64"`
		Int64   *string `json:"int64"`
		Base64  *[]byte `json:"base64"`
	}
	if err := strict(data, &o); err != nil {
		return Value{}, err
	}
	switch {
	case o.Float64 != nil && o.Int64 == nil && o.Base64 == nil:
		f, err := parseOddFloat(*o.Float64)
		return FloatValue(f), err
	case o.Int64 != nil && o.Float64 == nil && o.Base64 == nil:
		i, err := strconv.ParseInt(*o.Int64, 10, 64)
		if err != nil {
			return Value{}, fmt.Errorf("%.40q is not an int64", *o.Int64)
		}
		return IntValue(i), nil
	case o.Base64 != nil && o.Float64 == nil && o.Int64 == nil:
		return StringValue(string(*o.Base64)), nil
	}
	return Value{}, errors.New("the object needs one of float64, int64 and base64")
}

// ParseQuality reads what Quality.String writes, or the number of a code.
func ParseQuality(text string) (Quality, error) {
	for q, name := range qualityNames {
		if name == text {
			return q, nil
		}
	}
	digits := text
	if at := strings.IndexByte(text, '('); at >= 0 && strings.HasSuffix(text, ")") {
		digits = text[at+1 : len(text)-1]
	}
	n, err := strconv.ParseUint(digits, 0, 32)
	if q := Quality(n); err == nil && (digits == text || q.String() == text) {
		return q, nil
	}
	return 0, fmt.Errorf("%.60q is not a quality", text)
}
