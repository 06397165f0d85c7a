package format

import (
	"encoding/base64"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"millrace/sample"
)

// relativeBelow is where SenML's absolute times begin, in seconds: what is less
// counts from now. RFC 8428, 4.5.3.
const relativeBelow = 1 << 28

// senml writes one SenML pack in JSON (RFC 8428, 5): an array of records with
// base names and one base time.
//
// SenML has no quality. A sample that is Good is one record. One that is
// Uncertain has a second record, named <tag>:quality, with the name of its status
// as text. One that is Bad has that record alone: a reader who does not look at
// it must not take the value for one.
type senml struct {
	w    io.Writer
	o    Options
	pack pack
	// What could not be said, to be told at the end.
	early   int64 // samples before relativeBelow
	unknown []string
}

func newSenML(w io.Writer, o Options) *senml { return &senml{w: w, o: o} }

// Sample implements Writer.
func (s *senml) Sample(r *Row) error {
	at := r.PrimaryTime()
	if floorSeconds(at) < relativeBelow {
		s.early++
		return nil
	}
	status := r.Quality
	v := r.Value
	if f := v.Float(); math.IsNaN(f) || math.IsInf(f, 0) {
		// JSON has no number for it.
		v = sample.Value{}
		if status.IsGood() {
			status = sample.BadOutOfRange
		}
	}
	s.pack.buf = s.pack.buf[:0]
	base, name := splitName(SenMLName(r.Tag))
	if !status.IsBad() && v.Kind() != sample.Null {
		s.pack.begin(base, name, at)
		s.value(v, r.Unit)
		s.pack.end()
	}
	if !status.IsGood() || v.Kind() == sample.Null {
		s.pack.begin(base, name+":quality", at)
		s.pack.buf = append(s.pack.buf, `,"vs":"`...)
		s.pack.buf = append(append(s.pack.buf, status.String()...), '"')
		s.pack.end()
	}
	_, err := s.w.Write(s.pack.buf)
	return err
}

// value appends the one field that holds a value. RFC 8428, 4.2.
func (s *senml) value(v sample.Value, unit string) {
	u, known := senmlUnits[unit]
	if !known && unit != "" && !slices.Contains(s.unknown, unit) && len(s.unknown) < 20 {
		s.unknown = append(s.unknown, unit)
	}
	b := s.pack.buf
	switch v.Kind() {
	case sample.Float64, sample.Int64:
		f, _ := v.Number()
		converted := u.convert(f)
		if math.IsInf(converted, 0) {
			u, converted = senmlUnit{}, f // beyond a float64: as it is, and of no unit
		}
		if u.name != "" {
			b = append(append(append(b, `,"u":"`...), u.name...), '"')
		}
		b = append(b, `,"v":`...)
		if v.Kind() == sample.Int64 && u.scale == 1 || u.name == "" && v.Kind() == sample.Int64 {
			b = strconv.AppendInt(b, v.Int(), 10)
			break
		}
		b = sample.AppendJSONFloat(b, converted)
	case sample.Bool:
		b = strconv.AppendBool(append(b, `,"vb":`...), v.Bool())
	case sample.String:
		if utf8.ValidString(v.Str()) {
			b = sample.AppendJSONText(append(b, `,"vs":`...), v.Str())
		} else {
			// Base64 with the URL's alphabet and without padding. RFC 8428, 5.
			b = base64.RawURLEncoding.AppendEncode(append(b, `,"vd":"`...), []byte(v.Str()))
			b = append(b, '"')
		}
	case sample.Null:
	}
	s.pack.buf = b
}

// Gap implements Writer; SenML has no word for it.
func (s *senml) Gap(*Gap) error { return nil }

// Close implements Writer.
func (s *senml) Close() error {
	if s.o.Note != nil {
		if s.early > 0 {
			s.o.Note(fmt.Sprintf("SenML takes times before 1978-07-04 as relative, so %d samples are left out", s.early))
		}
		if len(s.unknown) > 0 {
			s.o.Note("the SenML registry has no unit for " + strings.Join(s.unknown, ", ") + ", so those values have none")
		}
	}
	_, err := io.WriteString(s.w, s.pack.close())
	return err
}

// pack writes the records of a SenML pack.
type pack struct {
	buf  []byte
	some bool
	base string // base name in force
	time int64  // base time in force, s
}

// begin opens a record at a time, ns since the Unix epoch.
func (p *pack) begin(base, name string, at int64) {
	open := ",\n{"
	if !p.some {
		open = "[\n{"
	}
	p.buf = append(p.buf, open...)
	first := true
	field := func(label string) {
		if !first {
			p.buf = append(p.buf, ',')
		}
		first = false
		p.buf = append(append(append(p.buf, '"'), label...), `":`...)
	}
	if !p.some || base != p.base {
		field("bn")
		p.buf = append(append(append(p.buf, '"'), base...), '"')
	}
	sec := floorSeconds(at)
	if !p.some {
		p.time = sec
		field("bt")
		p.buf = strconv.AppendInt(p.buf, sec, 10)
	}
	p.some, p.base = true, base
	field("n")
	p.buf = append(append(append(p.buf, '"'), name...), '"')
	if frac := at - sec*1e9; sec != p.time || frac != 0 {
		field("t")
		p.buf = appendSeconds(p.buf, sec-p.time, frac)
	}
}

func (p *pack) end() { p.buf = append(p.buf, '}') }

// close is the end of the pack.
func (p *pack) close() string {
	if !p.some {
		return "[]\n"
	}
	return "\n]\n"
}

func floorSeconds(ns int64) int64 {
	sec := ns / 1e9
	if ns%1e9 < 0 {
		sec--
	}
	return sec
}

// appendSeconds appends sec + frac/10^9 as a decimal number. frac is at least 0.
func appendSeconds(dst []byte, sec, frac int64) []byte {
	if sec < 0 && frac > 0 {
		sec, frac = sec+1, 1e9-frac
		if sec == 0 {
			dst = append(dst, '-')
		}
	}
	dst = strconv.AppendInt(dst, sec, 10)
	if frac == 0 {
		return dst
	}
	digits := strconv.FormatInt(frac+1e9, 10)[1:]
	return append(append(dst, '.'), strings.TrimRight(digits, "0")...)
}

// SenMLName is a tag's name as SenML takes it. Names there have letters, digits
// and - : . / _ alone, and begin with a letter or a digit (RFC 8428, 4.5.1). Each
// other byte, and ':' itself, becomes ':' and its two hexadecimal digits in upper
// case, so that no two tags get one name; a name that begins otherwise gets "0:"
// before it. Where ':' is followed by a small letter the text behind is not of
// the tag.
func SenMLName(tag string) string {
	var b strings.Builder
	for i := range len(tag) {
		switch c := tag[i]; {
		case alphanumeric(c), c == '-', c == '.', c == '/', c == '_':
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, ":%02X", c)
		}
	}
	name := b.String()
	if name == "" || !alphanumeric(name[0]) {
		return "0:" + name
	}
	return name
}

func alphanumeric(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

// splitName parts a name behind its last slash: a device's tags share the base.
func splitName(name string) (base, rest string) {
	at := strings.LastIndexByte(name, '/') + 1
	return name[:at], name[at:]
}
