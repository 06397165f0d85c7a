// Package audit is the mirror's audit log: an append-only file of one JSON
// object a line, each of which holds the hash of the one before. It is at the
// same time the mirror's journal: what the mirror has to know after a restart
// is in it, so that the log and the state cannot disagree.
//
// README.md says what it promises, how a line is made, and what a start does
// after each kind of crash.
package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"

	"millrace/sample"
)

// The kinds of records that the log itself writes.
const (
	KindCheckpoint = "checkpoint" // the first of each file: the whole state
	KindRecovered  = "recovered"  // an incomplete end was cut off at a start
)

// Record is one decision, in the order in which its fields stand in the line.
// Append sets N, First, Last, Prev and Hash, and At where it is zero.
type Record struct {
	N  uint64    `json:"n"`  // from 1, without a gap
	At time.Time `json:"at"` // UTC
	// First and Last are the numbers of the records that were appended together,
	// all or none of which count; 0 where the record was appended alone.
	First uint64 `json:"first,omitempty"`
	Last  uint64 `json:"last,omitempty"`

	Kind    string `json:"kind"`
	Target  string `json:"target,omitempty"`
	Feed    string `json:"feed,omitempty"`
	Message string `json:"message,omitempty"` // the feed's name of the message
	Cursor  string `json:"cursor,omitempty"`
	ID      string `json:"id,omitempty"` // of the result
	Version uint64 `json:"version,omitempty"`
	Outcome string `json:"outcome,omitempty"`
	Reason  string `json:"reason,omitempty"`
	Detail  string `json:"detail,omitempty"` // for people
	Old     *Value `json:"old,omitempty"`
	New     *Value `json:"new,omitempty"`
	Who     string `json:"who,omitempty"`
	// State is the whole state in a checkpoint, else what the record changes of
	// it. The log does not look into it.
	State json.RawMessage `json:"state,omitempty"`

	Prev string `json:"prev"` // Hash of the record before, 64 hexadecimal digits; empty in the first of all
	Hash string `json:"-"`    // SHA-256 of the line before `,"hash":`
}

const (
	hashField = `,"hash":"`
	// hashBytes is how much of a line its hash takes: the field, 64 digits, and
	// what closes the string and the object.
	hashBytes = len(hashField) + 2*sha256.Size + len(`"}`)
	// maxLine bounds a line: a checkpoint holds a result for each target.
	maxLine = 16 << 20
)

// line encodes the record, sets its Hash, and ends with a newline.
func (r *Record) line() ([]byte, error) {
	text, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encode audit record: %w", err)
	}
	text = text[:len(text)-1] // the object goes on
	if len(text)+hashBytes > maxLine {
		return nil, fmt.Errorf("audit record of %d bytes, the most is %d", len(text), maxLine)
	}
	sum := sha256.Sum256(text)
	r.Hash = hex.EncodeToString(sum[:])
	text = append(text, hashField...)
	text = append(text, r.Hash...)
	return append(text, `"}`+"\n"...), nil
}

// parse reads a line, without its newline, and checks its own hash.
func parse(line []byte) (*Record, error) {
	body, hash, ok := split(line)
	if !ok {
		return nil, errors.New("it does not end with its hash")
	}
	if sum := sha256.Sum256(body); hex.EncodeToString(sum[:]) != string(hash) {
		return nil, errors.New("its hash is not that of what it says: it was changed, or is damaged")
	}
	r := &Record{Hash: string(hash)}
	d := json.NewDecoder(bytes.NewReader(append(bytes.Clone(body), '}')))
	d.DisallowUnknownFields()
	if err := d.Decode(r); err != nil {
		return nil, fmt.Errorf("it does not read, although its hash fits: %w; a newer millrace may have written it", err)
	}
	return r, nil
}

// split cuts a line into what is hashed and the hash.
func split(line []byte) (body, hash []byte, ok bool) {
	cut := len(line) - hashBytes
	if cut < 2 || line[0] != '{' || string(line[cut:cut+len(hashField)]) != hashField || string(line[len(line)-2:]) != `"}` {
		return nil, nil, false
	}
	return line[:cut], line[cut+len(hashField) : len(line)-2], true
}

// batch returns the number of the first record that was appended together with
// this one, and of the last.
func (r *Record) batch() (first, last uint64) {
	if r.First == 0 {
		return r.N, r.N
	}
	return r.First, r.Last
}

// Value is a sample's value as it stands in a record: {"float64":41.5}, with
// the kind's name and an int64 to its last digit.
type Value struct{ sample.Value }

// ValueOf returns v for a record; nil for null.
func ValueOf(v sample.Value) *Value {
	if v.Kind() == sample.Null {
		return nil
	}
	return &Value{v}
}

// MarshalJSON implements json.Marshaler.
func (v Value) MarshalJSON() ([]byte, error) {
	var text []byte
	switch v.Kind() {
	case sample.Float64:
		f := v.Float()
		text = strconv.AppendFloat(nil, f, 'g', -1, 64)
		if math.IsNaN(f) || math.IsInf(f, 0) { // which JSON has no number for
			text = strconv.AppendQuote(nil, string(text))
		}
	case sample.Int64:
		text = strconv.AppendInt(nil, v.Int(), 10)
	case sample.Bool:
		text = strconv.AppendBool(nil, v.Bool())
	case sample.String:
		var err error
		if text, err = json.Marshal(v.Str()); err != nil {
			return nil, err
		}
	case sample.Null:
		return []byte("null"), nil
	}
	return fmt.Appendf(nil, `{"%s":%s}`, v.Kind(), text), nil
}

// UnmarshalJSON implements json.Unmarshaler.
func (v *Value) UnmarshalJSON(text []byte) error {
	var m map[string]json.RawMessage
	if err := json.Unmarshal(text, &m); err != nil {
		return err
	}
	for kind, raw := range m {
		if len(m) != 1 {
			break
		}
		switch kind {
		case sample.Float64.String():
			f, err := strconv.ParseFloat(string(bytes.Trim(raw, `"`)), 64)
			v.Value = sample.FloatValue(f)
			return err
		case sample.Int64.String():
			i, err := strconv.ParseInt(string(raw), 10, 64)
			v.Value = sample.IntValue(i)
			return err
		case sample.Bool.String():
			b, err := strconv.ParseBool(string(raw))
			v.Value = sample.BoolValue(b)
			return err
		case sample.String.String():
			var s string
			err := json.Unmarshal(raw, &s)
			v.Value = sample.StringValue(s)
			return err
		}
	}
	return fmt.Errorf("%.60s is not a value such as {\"float64\":41.5}", text)
}
