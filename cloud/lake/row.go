package lake

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"unicode/utf8"

	"millrace/sample"
)

// Row is one sample of the archive, with the gateway and the stream that
// delivered it.
type Row struct {
	sample.Sample
	Gateway, Stream string
}

// kindBytes stands in the column kind for a string that is not UTF-8: its text
// is the string's bytes in base64 (RFC 4648, 4). Every other kind is
// sample.Kind's number.
const kindBytes = -int32(sample.String)

// maxExact is the largest magnitude up to which each integer is a float64.
const maxExact = 1 << 53

// record is a row as the file has it.
type record struct {
	Tag          string   `parquet:"tag,dict"`
	Time         int64    `parquet:"time,timestamp(microsecond)"`
	TimeNanos    int32    `parquet:"time_nanos,dict"`
	GatewayTime  *int64   `parquet:"gateway_time,optional,timestamp(microsecond)"`
	GatewayNanos *int32   `parquet:"gateway_nanos,optional,dict"`
	Kind         int32    `parquet:"kind,dict"`
	Value        *float64 `parquet:"value,optional"`
	Integer      *int64   `parquet:"integer,optional"`
	Text         *string  `parquet:"text,optional"`
	Quality      int64    `parquet:"quality,dict"`
	Gateway      string   `parquet:"gateway,dict"`
	Stream       string   `parquet:"stream,dict"`
	Producer     *string  `parquet:"producer,optional,dict"`
	Seq          *int64   `parquet:"seq,optional"`
}

// cells is what the pointers of a record point to.
type cells struct {
	gatewayTime, integer, seq int64
	gatewayNanos              int32
	value                     float64
	text, producer            string
}

// split is an instant in ns as whole µs, rounded down, and the rest.
func split(ns int64) (micros int64, nanos int32) {
	micros, nanos = ns/1000, int32(ns%1000)
	if nanos < 0 {
		micros, nanos = micros-1, nanos+1000
	}
	return micros, nanos
}

// put sets r from a row. Its pointers are into c.
func (r *record) put(row *Row, c *cells) error {
	for _, name := range [...]struct{ what, text string }{{"tag", row.Tag}, {"gateway", row.Gateway}, {"stream", row.Stream}, {"producer", row.Producer}} {
		if !utf8.ValidString(name.text) {
			return fmt.Errorf("sample of %q: its %s %q is not UTF-8, which no column of a name can hold", row.Tag, name.what, name.text)
		}
	}
	*r = record{Tag: row.Tag, Kind: int32(row.Value.Kind()), Quality: int64(row.Quality), Gateway: row.Gateway, Stream: row.Stream}
	r.Time, r.TimeNanos = split(row.PrimaryTime())
	if row.SourceTime != 0 {
		c.gatewayTime, c.gatewayNanos = split(row.Time)
		r.GatewayTime, r.GatewayNanos = &c.gatewayTime, &c.gatewayNanos
	}
	if v, ok := row.Value.Number(); ok {
		c.value = v
		r.Value = &c.value
	}
	switch row.Value.Kind() {
	case sample.Int64:
		if i := row.Value.Int(); i > maxExact || i < -maxExact {
			c.integer = i
			r.Integer = &c.integer
		}
	case sample.String:
		c.text = row.Value.Str()
		if !utf8.ValidString(c.text) {
			r.Kind, c.text = kindBytes, base64.StdEncoding.EncodeToString([]byte(c.text))
		}
		r.Text = &c.text
	case sample.Null, sample.Float64, sample.Bool:
	}
	if row.Producer != "" {
		c.producer = row.Producer
		r.Producer = &c.producer
	}
	if row.Producer != "" || row.Seq != 0 {
		c.seq = int64(row.Seq)
		r.Seq = &c.seq
	}
	return nil
}

// get sets a row from r.
func (r *record) get(row *Row) error {
	*row = Row{Sample: sample.Sample{Tag: r.Tag, Quality: sample.Quality(r.Quality)}, Gateway: r.Gateway, Stream: r.Stream}
	primary := r.Time*1000 + int64(r.TimeNanos)
	row.Time = primary
	if r.GatewayTime != nil {
		row.SourceTime, row.Time = primary, *r.GatewayTime*1000
		if r.GatewayNanos != nil {
			row.Time += int64(*r.GatewayNanos)
		}
	}
	if r.Producer != nil {
		row.Producer = *r.Producer
	}
	if r.Seq != nil {
		row.Seq = uint64(*r.Seq)
	}
	value, err := r.of()
	row.Value = value
	return err
}

// of is the value of r.
func (r *record) of() (sample.Value, error) {
	var number float64
	if r.Value != nil {
		number = *r.Value
	}
	text := ""
	if r.Text != nil {
		text = *r.Text
	}
	switch r.Kind {
	case int32(sample.Null):
		return sample.Value{}, nil
	case int32(sample.Float64):
		return sample.FloatValue(number), nil
	case int32(sample.Int64):
		if r.Integer != nil {
			return sample.IntValue(*r.Integer), nil
		}
		return sample.IntValue(int64(number)), nil
	case int32(sample.Bool):
		return sample.BoolValue(number != 0), nil
	case int32(sample.String):
		return sample.StringValue(text), nil
	case kindBytes:
		raw, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			return sample.Value{}, fmt.Errorf("sample of %s: its text is not base64, as its kind says: %w", r.Tag, err)
		}
		return sample.StringValue(string(raw)), nil
	}
	return sample.Value{}, fmt.Errorf("sample of %s: its kind is %d, which this program does not know; a newer one may", r.Tag, r.Kind)
}

// Identity appends what a sample is de-duplicated by: tag, producer and sequence
// where it has a producer; else tag, source time, value and quality where it has
// a source time. It returns nil where a sample has neither: two such are two.
func Identity(dst []byte, s *sample.Sample) []byte {
	switch {
	case s.Producer != "":
		dst = append(dst, 'p')
		dst = appendText(dst, s.Tag)
		dst = appendText(dst, s.Producer)
		return binary.BigEndian.AppendUint64(dst, s.Seq)
	case s.SourceTime != 0:
		dst = append(dst, 's')
		dst = appendText(dst, s.Tag)
		dst = binary.BigEndian.AppendUint64(dst, uint64(s.SourceTime))
		dst = binary.BigEndian.AppendUint32(dst, uint32(s.Quality))
		dst = append(dst, byte(s.Value.Kind()))
		dst = binary.BigEndian.AppendUint64(dst, s.Value.Bits())
		return append(dst, s.Value.Str()...)
	}
	return nil
}

func appendText(dst []byte, text string) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(text)))
	return append(dst, text...)
}
