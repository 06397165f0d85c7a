// Package strictjson reads JSON (RFC 8259) that others wrote, value by value
// and without allocating: integers keep all their digits, and what the RFC
// does not allow is an error, with its place in the text.
package strictjson

import (
	"fmt"
	"unicode/utf16"
	"unicode/utf8"
)

// maxDepth is how deep arrays and objects may be nested.
const maxDepth = 64

// Kind is what the next value is.
type Kind uint8

// The kinds of value. None is the end of the text, or what is no value.
const (
	None Kind = iota
	Null
	Bool
	Number
	String
	Array
	Object
)

// String returns the kind with its article, for messages.
func (k Kind) String() string {
	return [...]string{"nothing", "null", "a boolean", "a number", "a string", "an array", "an object"}[k]
}

// Error is a fault of the text itself.
type Error struct {
	Offset  int // in bytes, from 0
	Problem string
}

// Error implements error.
func (e *Error) Error() string {
	return fmt.Sprintf("not JSON: byte %d: %s", e.Offset, e.Problem)
}

// Reader reads one text. Every value must be read or skipped before the next
// member or element is asked for. After an error the Reader is of no more use.
type Reader struct {
	data    []byte
	pos     int
	depth   int
	first   bool // a container was just opened
	scratch []byte
}

// Reset starts with a new text, which must not change while it is read.
func (r *Reader) Reset(data []byte) {
	r.data, r.pos, r.depth, r.first = data, 0, 0, false
}

// Offset is where the reader stands, in bytes.
func (r *Reader) Offset() int { return r.pos }

func (r *Reader) fail(format string, args ...any) error {
	return &Error{Offset: r.pos, Problem: fmt.Sprintf(format, args...)}
}

func (r *Reader) space() {
	for r.pos < len(r.data) {
		switch r.data[r.pos] {
		case ' ', '\t', '\n', '\r':
			r.pos++
		default:
			return
		}
	}
}

// Kind returns the kind of the next value without reading it.
func (r *Reader) Kind() Kind {
	r.space()
	if r.pos >= len(r.data) {
		return None
	}
	switch c := r.data[r.pos]; {
	case c == '{':
		return Object
	case c == '[':
		return Array
	case c == '"':
		return String
	case c == 't', c == 'f':
		return Bool
	case c == 'n':
		return Null
	case c == '-', c >= '0' && c <= '9':
		return Number
	}
	return None
}

// OpenObject reads the start of an object.
func (r *Reader) OpenObject() error { return r.open('{', Object) }

// OpenArray reads the start of an array.
func (r *Reader) OpenArray() error { return r.open('[', Array) }

func (r *Reader) open(c byte, k Kind) error {
	if got := r.Kind(); got != k {
		return r.fail("%s where %s is expected", got, k)
	}
	if r.depth++; r.depth > maxDepth {
		return r.fail("nested deeper than %d", maxDepth)
	}
	r.pos++ // c
	r.first = true
	return nil
}

// Member reads the name of the object's next member. The bytes are good until
// the next call. It returns false at the object's end.
func (r *Reader) Member() ([]byte, bool, error) {
	if more, err := r.next('}'); !more {
		return nil, false, err
	}
	if r.pos >= len(r.data) || r.data[r.pos] != '"' {
		return nil, false, r.fail("a member's name in quotes is expected")
	}
	name, err := r.Text()
	if err != nil {
		return nil, false, err
	}
	r.space()
	if r.pos >= len(r.data) || r.data[r.pos] != ':' {
		return nil, false, r.fail("a colon is expected")
	}
	r.pos++
	return name, true, nil
}

// Element goes to the array's next element, and returns false at its end.
func (r *Reader) Element() (bool, error) { return r.next(']') }

// next goes past the comma before the next item, or past the end of the
// container.
func (r *Reader) next(end byte) (bool, error) {
	first := r.first
	r.first = false
	r.space()
	if r.pos >= len(r.data) {
		return false, r.fail("the text ends within an array or object")
	}
	switch c := r.data[r.pos]; {
	case c == end:
		r.pos++
		r.depth--
		return false, nil
	case first:
		return true, nil
	case c == ',':
		r.pos++
		r.space()
		if r.pos < len(r.data) && r.data[r.pos] == end {
			return false, r.fail("a comma before the end of an array or object")
		}
		return true, nil
	}
	return false, r.fail("a comma or %q is expected", end)
}

// Null reads a null.
func (r *Reader) Null() error { return r.word("null") }

// Bool reads true or false.
func (r *Reader) Bool() (bool, error) {
	if r.Kind() == Bool && r.data[r.pos] == 't' {
		return true, r.word("true")
	}
	return false, r.word("false")
}

func (r *Reader) word(w string) error {
	r.space()
	if len(r.data)-r.pos < len(w) || string(r.data[r.pos:r.pos+len(w)]) != w {
		return r.fail("%s is expected", w)
	}
	r.pos += len(w)
	return nil
}

// Number reads a number and returns its literal, which is part of the text.
func (r *Reader) Number() ([]byte, error) {
	r.space()
	n := numberLen(r.data[r.pos:])
	if n == 0 {
		return nil, r.fail("a number is expected")
	}
	lit := r.data[r.pos : r.pos+n]
	r.pos += n
	return lit, nil
}

// numberLen returns how long the number at the start of b is (RFC 8259,
// section 6), 0 where there is none.
func numberLen(b []byte) int {
	i := 0
	digits := func() bool {
		from := i
		for i < len(b) && b[i] >= '0' && b[i] <= '9' {
			i++
		}
		return i > from
	}
	if i < len(b) && b[i] == '-' {
		i++
	}
	if i < len(b) && b[i] == '0' {
		i++
		if i < len(b) && b[i] >= '0' && b[i] <= '9' {
			return 0
		}
	} else if !digits() {
		return 0
	}
	if i < len(b) && b[i] == '.' {
		i++
		if !digits() {
			return 0
		}
	}
	if i < len(b) && (b[i] == 'e' || b[i] == 'E') {
		i++
		if i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		if !digits() {
			return 0
		}
	}
	return i
}

// Text reads a string. The bytes are UTF-8 and good until the next call.
func (r *Reader) Text() ([]byte, error) {
	if r.Kind() != String {
		return nil, r.fail("a string is expected")
	}
	r.pos++
	from := r.pos
	for r.pos < len(r.data) {
		switch c := r.data[r.pos]; {
		case c == '"':
			r.pos++
			return r.data[from : r.pos-1], nil
		case c == '\\':
			return r.escaped(from)
		case c < 0x20:
			return nil, r.fail("a control character in a string")
		case c < utf8.RuneSelf:
			r.pos++
		default:
			if err := r.rune(); err != nil {
				return nil, err
			}
		}
	}
	return nil, r.fail("the text ends within a string")
}

// rune goes past one character beyond ASCII.
func (r *Reader) rune() error {
	c, n := utf8.DecodeRune(r.data[r.pos:])
	if c == utf8.RuneError && n == 1 {
		return r.fail("not UTF-8")
	}
	r.pos += n
	return nil
}

// escaped reads a string from its first backslash on.
func (r *Reader) escaped(from int) ([]byte, error) {
	r.scratch = append(r.scratch[:0], r.data[from:r.pos]...)
	for r.pos < len(r.data) {
		switch c := r.data[r.pos]; {
		case c == '"':
			r.pos++
			return r.scratch, nil
		case c == '\\':
			if err := r.escape(); err != nil {
				return nil, err
			}
		case c < 0x20:
			return nil, r.fail("a control character in a string")
		case c < utf8.RuneSelf:
			r.scratch = append(r.scratch, c)
			r.pos++
		default:
			at := r.pos
			if err := r.rune(); err != nil {
				return nil, err
			}
			r.scratch = append(r.scratch, r.data[at:r.pos]...)
		}
	}
	return nil, r.fail("the text ends within a string")
}

func (r *Reader) escape() error {
	if r.pos+1 >= len(r.data) {
		return r.fail("the text ends within a string")
	}
	const from, to = `"\/bfnrt`, "\"\\/\b\f\n\r\t"
	c := r.data[r.pos+1]
	for i := range len(from) {
		if from[i] == c {
			r.scratch = append(r.scratch, to[i])
			r.pos += 2
			return nil
		}
	}
	if c != 'u' {
		return r.fail("an escape that JSON does not have")
	}
	u, ok := r.hex()
	if ok && utf16.IsSurrogate(u) {
		low, second := r.hex()
		u = utf16.DecodeRune(u, low)
		ok = second && u != utf8.RuneError
	}
	if !ok {
		return r.fail(`a \u escape that is no character`)
	}
	r.scratch = utf8.AppendRune(r.scratch, u)
	return nil
}

// hex reads \uXXXX.
func (r *Reader) hex() (rune, bool) {
	if r.pos+6 > len(r.data) || r.data[r.pos] != '\\' || r.data[r.pos+1] != 'u' {
		return 0, false
	}
	var u rune
	for _, c := range r.data[r.pos+2 : r.pos+6] {
		switch {
		case c >= '0' && c <= '9':
			u = u<<4 | rune(c-'0')
		case c|0x20 >= 'a' && c|0x20 <= 'f':
			u = u<<4 | rune(c|0x20-'a'+10)
		default:
			return 0, false
		}
	}
	r.pos += 6
	return u, true
}

// Skip reads the next value, whatever it is.
func (r *Reader) Skip() error {
	switch r.Kind() {
	case Null:
		return r.Null()
	case Bool:
		_, err := r.Bool()
		return err
	case Number:
		_, err := r.Number()
		return err
	case String:
		_, err := r.Text()
		return err
	case Array:
		if err := r.OpenArray(); err != nil {
			return err
		}
		for {
			if more, err := r.Element(); !more {
				return err
			}
			if err := r.Skip(); err != nil {
				return err
			}
		}
	case Object:
		if err := r.OpenObject(); err != nil {
			return err
		}
		for {
			if _, more, err := r.Member(); !more {
				return err
			}
			if err := r.Skip(); err != nil {
				return err
			}
		}
	}
	return r.fail("a value is expected")
}

// End reports an error when anything but white space is left.
func (r *Reader) End() error {
	if r.space(); r.pos < len(r.data) {
		return r.fail("more after the end of the value")
	}
	return nil
}
