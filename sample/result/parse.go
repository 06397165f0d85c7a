package result

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"slices"
	"strconv"
	"strings"
	"time"

	"millrace/sample"
)

// fieldNames are all that a message may have, in the order in which they are
// checked. All but unit and signature must be there.
func fieldNames() []string {
	return []string{
		"schema", "id", "site", "target", "version", "type", "value", "unit", "quality", "computed_at", "valid_from",
		"valid_until", "run", "signature",
	}
}

// Parse reads one message. Its error is an *Error: the message as a whole first
// (size, JSON, schema, the set of fields), then field by field. It keeps
// nothing of body.
func Parse(body []byte) (*Result, error) {
	if len(body) > MaxBytes {
		return nil, refuse(TooLarge, "", "more than %d bytes", MaxBytes)
	}
	all, err := members(body)
	if err != nil {
		return nil, refuse(NotJSON, "", "%v", err)
	}
	r := &Result{}
	if e := r.parse(all); e != nil {
		e.ID, e.Target, e.Version = known(all)
		return nil, e
	}
	return r, nil
}

func (r *Result) parse(all []member) *Error {
	if i := slices.IndexFunc(all, func(m member) bool { return m.name == "schema" }); i >= 0 {
		if got, e := parseText("schema", all[i].raw); e != nil {
			return e
		} else if got != Schema {
			return refuse(UnknownSchema, "schema", "%.60q is not %q", got, Schema)
		}
	}
	names := fieldNames()
	raw := make(map[string][]byte, len(names))
	for _, m := range all {
		if !slices.Contains(names, m.name) {
			return refuse(UnknownField, shown(m.name), "the schema %s has no such field", Schema)
		}
		if raw[m.name] != nil {
			return refuse(DuplicateField, m.name, "stands there twice")
		}
		raw[m.name] = m.raw
	}
	for _, name := range names {
		if raw[name] == nil && name != "unit" && name != "signature" {
			return refuse(MissingField, name, "is not there")
		}
	}
	for _, name := range names {
		text := raw[name]
		if text == nil {
			continue
		}
		if isOdd(text) {
			return refuse(NotANumber, name, "%s is no number", text)
		}
		if e := r.field(name, text, raw["type"]); e != nil {
			return e
		}
	}
	return r.check()
}

// shown is a field's name in an error: short, and on one line.
func shown(name string) string {
	if len(name) > 40 {
		name = name[:40]
	}
	quoted := strconv.Quote(name)
	return quoted[1 : len(quoted)-1]
}

// field reads one field into r.
func (r *Result) field(name string, raw, kind []byte) (e *Error) {
	switch name {
	case "id":
		r.ID, e = parseText(name, raw)
	case "site":
		r.Site, e = parseText(name, raw)
	case "target":
		r.Target, e = parseText(name, raw)
	case "version":
		r.Version, e = parseVersion(raw)
	case "type":
		e = parseKind(raw)
	case "value":
		r.Value, e = parseValue(raw, unquote(kind))
	case "unit":
		r.Unit, e = parseText(name, raw)
	case "quality":
		r.Quality, e = parseQuality(raw)
	case "computed_at":
		r.ComputedAt, e = parseTime(name, raw)
	case "valid_from":
		r.ValidFrom, e = parseTime(name, raw)
	case "valid_until":
		r.ValidUntil, e = parseTime(name, raw)
	case "run":
		r.Run, e = parseText(name, raw)
	case "signature":
		r.Signature, e = parseSignature(raw)
	}
	return e
}

func parseText(field string, raw []byte) (string, *Error) {
	if raw[0] != '"' {
		return "", refuse(WrongType, field, "%.40s is not a string", raw)
	}
	return unquote(raw), nil
}

func parseVersion(raw []byte) (uint64, *Error) {
	n, err := strconv.ParseInt(string(raw), 10, 64)
	if err != nil || n < 1 {
		return 0, refuse(WrongType, "version", "%.40s is not a whole number from 1 to 9223372036854775807", raw)
	}
	return uint64(n), nil
}

func parseKind(raw []byte) *Error {
	text, e := parseText("type", raw)
	if e != nil {
		return e
	}
	switch text {
	case sample.Float64.String(), sample.Int64.String(), sample.Bool.String(), sample.String.String():
		return nil
	}
	return refuse(BadName, "type", "%.40q is not float64, int64, bool or string", text)
}

func parseValue(raw []byte, kind string) (sample.Value, *Error) {
	c := raw[0]
	number := c == '-' || c >= '0' && c <= '9'
	switch {
	case kind == sample.Float64.String() && number:
		f, err := strconv.ParseFloat(string(raw), 64)
		if err != nil {
			return sample.Value{}, refuse(NotANumber, "value", "%.40s is beyond a float64", raw)
		}
		return sample.FloatValue(f), nil
	case kind == sample.Int64.String() && number && !bytes.ContainsAny(raw, ".eE"):
		i, err := strconv.ParseInt(string(raw), 10, 64)
		if err != nil {
			return sample.Value{}, refuse(NotANumber, "value", "%.40s is beyond an int64", raw)
		}
		return sample.IntValue(i), nil
	case kind == sample.Bool.String() && (c == 't' || c == 'f'):
		return sample.BoolValue(c == 't'), nil
	case kind == sample.String.String() && c == '"':
		return sample.StringValue(unquote(raw)), nil
	}
	return sample.Value{}, refuse(WrongType, "value", "%.40s is not of the type %s", raw, kind)
}

func parseQuality(raw []byte) (sample.Quality, *Error) {
	text, e := parseText("quality", raw)
	if e != nil {
		return 0, e
	}
	q, err := sample.ParseQuality(text)
	if err != nil {
		return 0, refuse(BadName, "quality", "%v", err)
	}
	return q, nil
}

// parseTime reads RFC 3339 with up to nine digits after the point.
func parseTime(field string, raw []byte) (time.Time, *Error) {
	text, e := parseText(field, raw)
	if e != nil {
		return time.Time{}, e
	}
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil || !isInstant(text) {
		return time.Time{}, refuse(BadTime, field, "%.40q is not an instant such as 2026-11-28T12:00:00.25Z (RFC 3339, at most nine digits after the point)", text)
	}
	return t.UTC(), nil
}

// isInstant reports whether text has the form of RFC 3339. time.Parse also
// takes a comma, hours of one digit, and digits that it ignores.
func isInstant(text string) bool {
	shape := strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' {
			return '0'
		}
		return r
	}, text)
	rest, ok := strings.CutPrefix(shape, "0000-00-00T00:00:00")
	if fraction, found := strings.CutPrefix(rest, "."); found {
		rest = strings.TrimLeft(fraction, "0")
		digits := len(fraction) - len(rest)
		ok = ok && digits >= 1 && digits <= 9
	}
	return ok && (rest == "Z" || rest == "+00:00" || rest == "-00:00")
}

func parseSignature(raw []byte) (Signature, *Error) {
	if raw[0] != '{' {
		return Signature{}, refuse(WrongType, "signature", "%.40s is not an object", raw)
	}
	all, err := members(raw)
	if err != nil {
		return Signature{}, refuse(NotJSON, "signature", "%v", err)
	}
	var s Signature
	var sum string
	seen := map[string]bool{}
	for _, m := range all {
		name := "signature." + m.name
		if seen[m.name] {
			return Signature{}, refuse(DuplicateField, "signature."+shown(m.name), "stands there twice")
		}
		seen[m.name] = true
		var e *Error
		switch m.name {
		case "key":
			s.Key, e = parseText(name, m.raw)
		case "ed25519":
			sum, e = parseText(name, m.raw)
		default:
			e = refuse(UnknownField, "signature."+shown(m.name), "a signature has no such field")
		}
		if e != nil {
			return Signature{}, e
		}
	}
	for _, name := range []string{"key", "ed25519"} {
		if !seen[name] {
			return Signature{}, refuse(MissingField, "signature."+name, "is not there")
		}
	}
	if s.Sum, err = base64.StdEncoding.Strict().DecodeString(sum); err != nil || strings.ContainsAny(sum, "\r\n") {
		return Signature{}, refuse(WrongType, "signature.ed25519", "not base64 with padding (RFC 4648, section 4)")
	}
	return s, nil
}

func checkSum(sum []byte) *Error {
	if len(sum) != ed25519.SignatureSize {
		return refuse(WrongType, "signature.ed25519", "%d bytes, an Ed25519 signature has %d", len(sum), ed25519.SignatureSize)
	}
	return nil
}

// known reads what a refused message still says of itself.
func known(all []member) (id, target string, version uint64) {
	for _, m := range all {
		switch {
		case m.name == "id" && m.raw[0] == '"':
			if text := unquote(m.raw); id == "" && checkText("id", text) == nil {
				id = text
			}
		case m.name == "target" && m.raw[0] == '"':
			if text := unquote(m.raw); target == "" && checkName("target", text) == nil {
				target = text
			}
		case m.name == "version":
			if n, e := parseVersion(m.raw); version == 0 && e == nil {
				version = n
			}
		}
	}
	return id, target, version
}
