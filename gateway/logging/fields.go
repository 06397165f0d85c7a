package logging

import (
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// field is one attribute, flattened: groups stand before the key with dots.
type field struct{ key, value string }

// fields are the attributes that a handler was given so far.
type fields struct {
	prefix string // "group." for attributes to come
	list   []field
}

// with returns f with more attributes. The result shares nothing that a later
// with could write to.
func (f fields) with(attrs []slog.Attr) fields {
	f.list = f.list[:len(f.list):len(f.list)]
	for _, a := range attrs {
		f.list = flatten(f.list, f.prefix, a)
	}
	return f
}

// in returns f with attributes to come inside a group.
func (f fields) in(group string) fields {
	if group != "" {
		f.prefix += group + "."
	}
	return f
}

// of returns f with a record's attributes.
func (f fields) of(r *slog.Record) []field {
	list := f.list[:len(f.list):len(f.list)]
	r.Attrs(func(a slog.Attr) bool {
		list = flatten(list, f.prefix, a)
		return true
	})
	return list
}

func flatten(list []field, prefix string, a slog.Attr) []field {
	v := a.Value.Resolve()
	if v.Kind() == slog.KindGroup {
		if a.Key != "" {
			prefix += a.Key + "."
		}
		for _, sub := range v.Group() {
			list = flatten(list, prefix, sub)
		}
		return list
	}
	if a.Equal(slog.Attr{}) {
		return list
	}
	return append(list, field{prefix + a.Key, text(v)})
}

func text(v slog.Value) string {
	switch v.Kind() {
	case slog.KindTime:
		return v.Time().Format(time.RFC3339Nano)
	case slog.KindAny:
		// fmt survives an Error or String method that panics on nil.
		return fmt.Sprintf("%+v", v.Any())
	}
	return v.String()
}

// appendPairs writes " key=value" for each field, quoted where needed.
func appendPairs(b []byte, list []field) []byte {
	for _, f := range list {
		b = append(b, ' ')
		b = appendWord(b, f.key)
		b = append(b, '=')
		b = appendWord(b, f.value)
	}
	return b
}

func appendWord(b []byte, s string) []byte {
	plain := s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return r == '"' || r == '=' || r == unicode.ReplacementChar || unicode.IsSpace(r) || !unicode.IsPrint(r)
	})
	if plain {
		return append(b, s...)
	}
	return strconv.AppendQuote(b, s)
}

// appendLine writes a message so that it stays on its line and cannot steer a
// terminal.
func appendLine(b []byte, s string) []byte {
	for _, r := range s {
		if unicode.IsPrint(r) {
			b = utf8.AppendRune(b, r)
			continue
		}
		q := strconv.QuoteRune(r)
		b = append(b, q[1:len(q)-1]...)
	}
	return b
}
