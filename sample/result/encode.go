package result

import (
	"encoding/base64"
	"strconv"
	"time"

	"millrace/sample"
)

// Encode returns r as one line of JSON without a line end, fields in the order
// of the document. Its error is an *Error, for what Parse would refuse.
func (r *Result) Encode() ([]byte, error) {
	if e := r.check(); e != nil {
		return nil, e
	}
	b := make([]byte, 0, 512)
	text := func(name, s string) {
		b = append(b, `,"`+name+`":`...)
		b = sample.AppendJSONText(b, s)
	}
	instant := func(name string, t time.Time) { text(name, t.UTC().Format(time.RFC3339Nano)) }
	b = append(b, `{"schema":"`+Schema+`"`...)
	text("id", r.ID)
	text("site", r.Site)
	text("target", r.Target)
	b = strconv.AppendUint(append(b, `,"version":`...), r.Version, 10)
	b = append(b, `,"value":`...)
	switch r.Value.Kind() {
	case sample.Float64:
		b = sample.AppendJSONFloat(b, r.Value.Float())
	case sample.Int64:
		b = strconv.AppendInt(b, r.Value.Int(), 10)
	case sample.Bool:
		b = strconv.AppendBool(b, r.Value.Bool())
	case sample.String, sample.Null:
		b = sample.AppendJSONText(b, r.Value.Str())
	}
	text("type", r.Value.Kind().String())
	if r.Unit != "" {
		text("unit", r.Unit)
	}
	text("quality", r.Quality.String())
	instant("computed_at", r.ComputedAt)
	instant("valid_from", r.ValidFrom)
	instant("valid_until", r.ValidUntil)
	text("run", r.Run)
	if r.Signature.Key != "" {
		b = append(b, `,"signature":{"key":`...)
		b = sample.AppendJSONText(b, r.Signature.Key)
		b = append(b, `,"ed25519":"`...)
		b = base64.StdEncoding.AppendEncode(b, r.Signature.Sum)
		b = append(b, `"}`...)
	}
	b = append(b, '}')
	if len(b) > MaxBytes {
		return nil, refuse(TooLarge, "", "%d bytes, the most is %d", len(b), MaxBytes)
	}
	return b, nil
}
