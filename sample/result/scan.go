package result

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"unicode/utf8"
)

// maxDepth is how deep a value that is refused anyway may be nested.
const maxDepth = 16

// member is one name and value of an object, the value as it stands there.
type member struct {
	name string
	raw  []byte
}

// scanner reads JSON (RFC 8259) strictly: encoding/json keeps the last of two
// members of one name and replaces what is not UTF-8 or half a surrogate pair.
type scanner struct {
	data  []byte
	pos   int
	depth int
}

func (s *scanner) fail(problem string) error { return fmt.Errorf("byte %d: %s", s.pos, problem) }

// members reads one object and nothing after it.
func members(data []byte) ([]member, error) {
	s := &scanner{data: data}
	if !utf8.Valid(data) {
		return nil, s.fail("the text is not UTF-8")
	}
	all, err := s.object()
	if err == nil && s.next() != 0 {
		err = s.fail("something follows the object")
	}
	return all, err
}

// next skips white space and returns the byte that follows, or 0 at the end.
func (s *scanner) next() byte {
	for ; s.pos < len(s.data); s.pos++ {
		switch c := s.data[s.pos]; c {
		case ' ', '\t', '\n', '\r':
		case 0: // no JSON text has it, so that 0 is left to mean the end
			return 0xFF
		default:
			return c
		}
	}
	return 0
}

// take skips c where it comes next.
func (s *scanner) take(c byte) bool {
	if s.next() != c {
		return false
	}
	s.pos++
	return true
}

func (s *scanner) object() ([]member, error) {
	if !s.take('{') {
		return nil, s.fail("an object is expected")
	}
	var all []member
	if s.take('}') {
		return nil, nil
	}
	for {
		if s.next() != '"' {
			return nil, s.fail("a name in quotes is expected")
		}
		raw, err := s.value()
		if err != nil {
			return nil, err
		}
		if !s.take(':') {
			return nil, s.fail("a colon is expected")
		}
		m := member{name: unquote(raw)}
		if m.raw, err = s.value(); err != nil {
			return nil, err
		}
		all = append(all, m)
		if s.take('}') {
			return all, nil
		}
		if !s.take(',') {
			return nil, s.fail("a comma or a closing brace is expected")
		}
	}
}

func (s *scanner) array() error {
	s.pos++ // '['
	if s.take(']') {
		return nil
	}
	for {
		if _, err := s.value(); err != nil {
			return err
		}
		if s.take(']') {
			return nil
		}
		if !s.take(',') {
			return s.fail("a comma or a closing bracket is expected")
		}
	}
}

// value reads one value and returns its text.
func (s *scanner) value() (raw []byte, err error) {
	c := s.next()
	from := s.pos
	if s.depth++; s.depth > maxDepth {
		return nil, s.fail(fmt.Sprintf("nested deeper than %d", maxDepth))
	}
	switch {
	case c == '{':
		_, err = s.object()
	case c == '[':
		err = s.array()
	case c == '"':
		err = s.text()
	default:
		err = s.word()
	}
	s.depth--
	return s.data[from:s.pos], err
}

// text goes past a string.
func (s *scanner) text() error {
	for s.pos++; s.pos < len(s.data); s.pos++ {
		switch c := s.data[s.pos]; {
		case c == '"':
			s.pos++
			return nil
		case c < ' ':
			return s.fail("a control character within a string")
		case c == '\\':
			if err := s.escape(); err != nil {
				return err
			}
		}
	}
	return s.fail("the text ends within a string")
}

// escape goes to the last byte of an escape sequence, or of two that make one
// character.
func (s *scanner) escape() error {
	s.pos++
	if s.pos >= len(s.data) {
		return s.fail("the text ends within a string")
	}
	if c := s.data[s.pos]; c != 'u' {
		if bytes.IndexByte([]byte(`"\/bfnrt`), c) < 0 {
			return s.fail("an unknown escape sequence")
		}
		return nil
	}
	unit := s.hex(s.pos + 1)
	if unit < 0 {
		return s.fail(`\u without four hexadecimal digits`)
	}
	s.pos += 4
	if unit < 0xD800 || unit > 0xDFFF {
		return nil
	}
	rest := s.data[s.pos+1:]
	low := s.hex(s.pos + 3)
	if unit > 0xDBFF || len(rest) < 6 || rest[0] != '\\' || rest[1] != 'u' || low < 0xDC00 || low > 0xDFFF {
		return s.fail("half a surrogate pair")
	}
	s.pos += 6
	return nil
}

// hex reads four hexadecimal digits, or returns -1.
func (s *scanner) hex(at int) int64 {
	if at+4 > len(s.data) {
		return -1
	}
	for _, c := range s.data[at : at+4] {
		if !bytes.ContainsRune([]byte("0123456789abcdefABCDEF"), rune(c)) {
			return -1
		}
	}
	unit, err := strconv.ParseInt(string(s.data[at:at+4]), 16, 64)
	if err != nil {
		return -1
	}
	return unit
}

// word goes past a number or a literal. NaN and the infinities, which many
// libraries write though JSON does not have them, are taken as values of the
// outer object's members, so that they can be refused by their name.
func (s *scanner) word() error {
	from := s.pos
	for s.pos < len(s.data) && bytes.IndexByte([]byte(" \t\n\r,:{}[]\"\\"), s.data[s.pos]) < 0 {
		s.pos++
	}
	switch word := s.data[from:s.pos]; {
	case isOdd(word) && s.depth == 1:
		return nil
	case len(word) > 0 && json.Valid(word):
		return nil
	}
	s.pos = from
	return s.fail("no JSON value")
}

func isOdd(word []byte) bool {
	switch string(word) {
	case "NaN", "Infinity", "-Infinity":
		return true
	}
	return false
}

// unquote returns the text of a string that value went past.
func unquote(raw []byte) string {
	var text string
	if err := json.Unmarshal(raw, &text); err != nil {
		panic(fmt.Sprintf("BUG: %.40q was read as a JSON string: %v", raw, err))
	}
	return text
}
