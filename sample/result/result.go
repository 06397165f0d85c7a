// Package result is the message by which the cloud sends a computed value to
// one target of a site's mirror: parsing, encoding, signing and verifying.
// docs/result.md describes it for those who send it, docs/result.schema.json
// for their tools. Whether a result may be applied is not decided here.
package result

import (
	"fmt"
	"math"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"millrace/sample"
)

// Schema is the version of the message that this package reads and writes.
const Schema = "millrace/result/1"

// The bounds of a message.
const (
	MaxBytes      = 16 << 10 // of the JSON text, in bytes
	MaxNameBytes  = 128      // of id, site, target, unit, run and a key's name, in bytes
	MaxValueBytes = 4 << 10  // of a string value, in bytes of UTF-8
)

// Result is one value for one target.
type Result struct {
	// ID names the message to people and in the audit log. It decides nothing.
	ID string
	// Site and Target say where the value goes.
	Site, Target string
	// Version only rises, for one target; from 1 to 2^63-1.
	Version uint64
	// Value is a finite float64, an int64, a bool or a string.
	Value sample.Value
	// Unit is that of the value; empty for none.
	Unit string
	// Quality is what the sender thinks of the value.
	Quality sample.Quality
	// ComputedAt is when the value was computed. From ValidFrom on, and until
	// ValidUntil, which is later, it may be used. All are UTC, to the nanosecond.
	ComputedAt, ValidFrom, ValidUntil time.Time
	// Run names what computed the value.
	Run string
	// Signature is empty where the result was not signed.
	Signature Signature
}

// Signature is an Ed25519 signature (RFC 8032) of a result.
type Signature struct {
	Key string // the name under which the site knows the public key
	Sum []byte // 64 bytes
}

// The reasons for which Parse and Encode refuse a message. They stand in audit
// logs, so they do not change.
const (
	TooLarge       = "too_large"       // more than MaxBytes, or a text beyond its own bound
	NotJSON        = "not_json"        // not one JSON object in UTF-8 and nothing else
	UnknownSchema  = "unknown_schema"  // schema is not Schema
	MissingField   = "missing_field"   // a required field is not there
	UnknownField   = "unknown_field"   // a field that the schema does not have
	DuplicateField = "duplicate_field" // the same field twice
	WrongType      = "wrong_type"      // not of the field's type, or a whole number out of its range
	NotANumber     = "not_a_number"    // NaN, an infinity, or beyond what value's type holds
	BadTime        = "bad_time"        // not RFC 3339, not in 1678 to 2261, or valid_until not after valid_from
	BadName        = "bad_name"        // empty, with forbidden characters, or no known type or quality
)

// Error is why a message was refused. It is the error of Parse and Encode.
type Error struct {
	// Reason is one of the constants above.
	Reason string
	// Field is the field at fault, "signature.key" for one within another;
	// empty where it is the message as a whole.
	Field string
	// Problem says in words what is wrong.
	Problem string
	// ID, Target and Version are what the message says where that could still be
	// read and is well-formed; else zero.
	ID, Target string
	Version    uint64
}

// Error implements error.
func (e *Error) Error() string { return fmt.Sprintf("result refused (%s): %s", e.Reason, e.What()) }

// What says what is wrong, without the reason's word.
func (e *Error) What() string {
	if e.Field == "" {
		return e.Problem
	}
	return e.Field + ": " + e.Problem
}

func refuse(reason, field, format string, args ...any) *Error {
	return &Error{Reason: reason, Field: field, Problem: fmt.Sprintf(format, args...)}
}

// checkText reports why text cannot stand in a field such as id.
func checkText(field, text string) *Error {
	switch {
	case len(text) > MaxNameBytes:
		return refuse(TooLarge, field, "%d bytes, the most is %d", len(text), MaxNameBytes)
	case !utf8.ValidString(text):
		return refuse(BadName, field, "not valid UTF-8")
	case strings.ContainsFunc(text, unicode.IsControl):
		return refuse(BadName, field, "%q holds a control character", text)
	case text == "" && field != "unit":
		return refuse(BadName, field, "empty")
	}
	return nil
}

// checkName is checkText for the parts of a tag's name.
func checkName(field, name string) *Error {
	if e := checkText(field, name); e != nil {
		return e
	}
	if err := sample.CheckName(name); err != nil {
		return refuse(BadName, field, "%v", err)
	}
	return nil
}

// check reports the first thing for which Parse would refuse r.
func (r *Result) check() *Error {
	for _, e := range []*Error{
		checkText("id", r.ID), checkName("site", r.Site), checkName("target", r.Target), r.checkVersion(), r.checkValue(),
		checkText("unit", r.Unit), checkTime("computed_at", r.ComputedAt), checkTime("valid_from", r.ValidFrom),
		checkTime("valid_until", r.ValidUntil), r.checkOrder(), checkText("run", r.Run), r.checkSignature(),
	} {
		if e != nil {
			return e
		}
	}
	return nil
}

func (r *Result) checkVersion() *Error {
	if r.Version == 0 || r.Version > math.MaxInt64 {
		return refuse(WrongType, "version", "%d is not a whole number from 1 to 9223372036854775807", r.Version)
	}
	return nil
}

func (r *Result) checkValue() *Error {
	switch r.Value.Kind() {
	case sample.Float64:
		if f := r.Value.Float(); math.IsNaN(f) || math.IsInf(f, 0) {
			return refuse(NotANumber, "value", "%g is no number", f)
		}
	case sample.String:
		if n := len(r.Value.Str()); n > MaxValueBytes {
			return refuse(TooLarge, "value", "%d bytes, the most is %d", n, MaxValueBytes)
		}
		if !utf8.ValidString(r.Value.Str()) {
			return refuse(WrongType, "value", "not valid UTF-8")
		}
	case sample.Int64, sample.Bool:
	case sample.Null:
		return refuse(WrongType, "value", "null is no value for a target")
	}
	return nil
}

func checkTime(field string, t time.Time) *Error {
	if !time.Unix(0, t.UnixNano()).Equal(t) {
		return refuse(BadTime, field, "the year %d is not in 1678 to 2261", t.Year())
	}
	return nil
}

func (r *Result) checkOrder() *Error {
	if !r.ValidUntil.After(r.ValidFrom) {
		return refuse(BadTime, "valid_until", "%s is not after valid_from", r.ValidUntil.UTC().Format(time.RFC3339Nano))
	}
	return nil
}

func (r *Result) checkSignature() *Error {
	if r.Signature.Key == "" && r.Signature.Sum == nil {
		return nil
	}
	if e := checkText("signature.key", r.Signature.Key); e != nil {
		return e
	}
	return checkSum(r.Signature.Sum)
}
