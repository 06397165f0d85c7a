package block

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"

	"millrace/sample"
)

const jsonFormat = "millrace.block"

// AppendJSON appends a block's JSON form, for consumers that want nothing but a
// JSON parser. docs/block-format.md describes it. It is columnar; times are ns
// from "first_ns"; integers beyond 2^53 are strings of their digits.
func AppendJSON(dst []byte, b *Block) []byte {
	dst = fmt.Appendf(dst, `{"format":"`+jsonFormat+`","version":%d,"site":`, b.Version())
	dst = sample.AppendJSONText(dst, b.Site)
	dst = append(dst, `,"gateway":`...)
	dst = sample.AppendJSONText(dst, b.Gateway)
	dst = append(dst, `,"stream":`...)
	dst = sample.AppendJSONText(dst, b.Stream)
	dst = fmt.Appendf(dst, `,"epoch":"%016x","seq":`, b.Epoch)
	dst = sample.AppendJSONUint(dst, b.Seq)
	dst = fmt.Appendf(dst, `,"count":%d,"first_ns":"%d","last_ns":"%d","produced":`, b.Count, b.First, b.Last)
	dst = sample.AppendJSONUint(dst, b.Produced)
	dst = append(dst, `,"lost":`...)
	dst = sample.AppendJSONUint(dst, b.Lost)
	if b.Version() == versionThinned {
		dst = append(dst, `,"thinned":`...)
		dst = sample.AppendJSONUint(dst, b.Thinned)
		if b.ReplacesFrom > 0 {
			dst = append(dst, `,"replaces":`...)
			dst = appendArray(dst, []uint64{b.ReplacesFrom, b.ReplacesTo}, sample.AppendJSONUint)
		}
	}
	dst = fmt.Appendf(dst, `,"boot":"%x","mono_ns":`, b.Boot)
	dst = sample.AppendJSONInt(dst, b.Mono)
	dst = fmt.Appendf(dst, `,"clock":%d,"columns":[`, b.Clock)
	for i := range b.Columns {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendJSONColumn(dst, &b.Columns[i], b.First)
	}
	return append(dst, "]}"...)
}

func appendJSONColumn(dst []byte, c *Column, first int64) []byte {
	dst = append(dst, `{"tag":`...)
	dst = sample.AppendJSONText(dst, c.Tag)
	dst = append(dst, `,"kind":`...)
	uniform := true
	for _, k := range c.Kinds {
		uniform = uniform && k == c.Kinds[0]
	}
	if uniform && c.N > 0 {
		dst = fmt.Appendf(dst, "%q", c.Kinds[0])
	} else {
		dst = appendArray(dst, c.Kinds, func(dst []byte, k sample.Kind) []byte { return strconv.AppendQuote(dst, k.String()) })
	}
	relative := func(dst []byte, t int64) []byte { return sample.AppendJSONInt(dst, t-first) }
	dst = append(dst, `,"time":`...)
	dst = appendArray(dst, c.Times, relative)
	if c.SourceTimes != nil {
		dst = append(dst, `,"source_time":`...)
		dst = appendArray(dst, c.SourceTimes, func(dst []byte, t int64) []byte {
			if t == 0 {
				return append(dst, "null"...)
			}
			return relative(dst, t)
		})
	}
	dst = append(dst, `,"value":[`...)
	for i := range c.N {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendJSONValue(dst, c, i)
	}
	dst = append(dst, ']')
	if c.Quality != nil {
		dst = append(dst, `,"quality":`...)
		dst = appendArray(dst, c.Quality, func(dst []byte, q sample.Quality) []byte { return strconv.AppendUint(dst, uint64(q), 10) })
	}
	if c.Producers != nil {
		dst = append(dst, `,"producer":`...)
		dst = appendArray(dst, c.Producers, sample.AppendJSONText)
		dst = append(dst, `,"seq":`...)
		dst = appendArray(dst, c.Seqs, sample.AppendJSONUint)
	}
	return append(dst, '}')
}

func appendArray[T any](dst []byte, list []T, one func([]byte, T) []byte) []byte {
	dst = append(dst, '[')
	for i, v := range list {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = one(dst, v)
	}
	return append(dst, ']')
}

func appendJSONValue(dst []byte, c *Column, i int) []byte {
	switch c.Kinds[i] {
	case sample.Float64:
		return sample.AppendJSONFloat(dst, math.Float64frombits(c.Bits[i]))
	case sample.Int64:
		return sample.AppendJSONInt(dst, int64(c.Bits[i]))
	case sample.Bool:
		return strconv.AppendBool(dst, c.Bits[i] != 0)
	case sample.String:
		return sample.AppendJSONText(dst, c.Strs[i])
	case sample.Null:
	}
	return append(dst, "null"...)
}

// jsonBlock and jsonColumn are what ParseJSON reads into.
type jsonBlock struct {
	Format   string            `json:"format"`
	Version  int               `json:"version"`
	Site     sample.JSONText   `json:"site"`
	Gateway  sample.JSONText   `json:"gateway"`
	Stream   sample.JSONText   `json:"stream"`
	Epoch    string            `json:"epoch"`
	Seq      sample.JSONUint   `json:"seq"`
	Count    int               `json:"count"`
	First    sample.JSONInt    `json:"first_ns"`
	Last     sample.JSONInt    `json:"last_ns"`
	Produced sample.JSONUint   `json:"produced"`
	Lost     sample.JSONUint   `json:"lost"`
	Thinned  sample.JSONUint   `json:"thinned"`
	Replaces []sample.JSONUint `json:"replaces"`
	Boot     string            `json:"boot"`
	Mono     sample.JSONInt    `json:"mono_ns"`
	Clock    ClockState        `json:"clock"`
	Columns  []jsonColumn      `json:"columns"`
}

type jsonColumn struct {
	Tag      sample.JSONText   `json:"tag"`
	Kind     json.RawMessage   `json:"kind"`
	Time     []sample.JSONInt  `json:"time"`
	Source   []*sample.JSONInt `json:"source_time"`
	Value    []json.RawMessage `json:"value"`
	Quality  []sample.Quality  `json:"quality"`
	Producer []sample.JSONText `json:"producer"`
	Seq      []sample.JSONUint `json:"seq"`
}

// ParseJSON reads a block's JSON form, bit for bit. Its memory is a small
// multiple of the size of data. Errors wrap ErrCorrupt or ErrVersion.
func ParseJSON(data []byte) (*Block, error) {
	var in jsonBlock
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&in); err != nil {
		return nil, fmt.Errorf("%w: JSON form: %w", ErrCorrupt, err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: JSON form: something follows the block", ErrCorrupt)
	}
	if in.Format != jsonFormat {
		return nil, fmt.Errorf("%w: JSON form: format is %.40q, not %q", ErrCorrupt, in.Format, jsonFormat)
	}
	if in.Version != version && in.Version != versionThinned {
		return nil, fmt.Errorf("%w: JSON form of version %d, this program reads %d and %d", ErrVersion, in.Version, version, versionThinned)
	}
	out := &Block{Header: Header{
		Site: string(in.Site), Gateway: string(in.Gateway), Stream: string(in.Stream), Seq: uint64(in.Seq), Count: in.Count,
		First: int64(in.First), Last: int64(in.Last), Produced: uint64(in.Produced), Lost: uint64(in.Lost), Thinned: uint64(in.Thinned),
		Mono: int64(in.Mono), Clock: in.Clock,
	}}
	if err := in.replaces(&out.Header); err != nil {
		return nil, fmt.Errorf("%w: JSON form: %w", ErrCorrupt, err)
	}
	var err error
	if out.Epoch, err = strconv.ParseUint(in.Epoch, 16, 64); err != nil || len(in.Epoch) != 16 {
		return nil, fmt.Errorf("%w: JSON form: epoch %.40q is not 16 hexadecimal digits", ErrCorrupt, in.Epoch)
	}
	if boot, err := hex.DecodeString(in.Boot); err != nil || copy(out.Boot[:], boot) != len(out.Boot) || len(boot) != len(out.Boot) {
		return nil, fmt.Errorf("%w: JSON form: boot %.40q is not 32 hexadecimal digits", ErrCorrupt, in.Boot)
	}
	total := 0
	for i := range in.Columns {
		c, err := in.Columns[i].column(out.First)
		if err != nil {
			return nil, fmt.Errorf("%w: JSON form: column %d (%s): %w", ErrCorrupt, i, in.Columns[i].Tag, err)
		}
		total += c.N
		out.Columns = append(out.Columns, c)
	}
	if total != in.Count {
		return nil, fmt.Errorf("%w: JSON form: %d samples, count says %d", ErrCorrupt, total, in.Count)
	}
	return out, nil
}

// replaces reads what only version 2 has.
func (in *jsonBlock) replaces(h *Header) error {
	switch len(in.Replaces) {
	case 0:
	case 2:
		h.ReplacesFrom, h.ReplacesTo = uint64(in.Replaces[0]), uint64(in.Replaces[1])
	default:
		return fmt.Errorf("replaces has %d numbers, not 2", len(in.Replaces))
	}
	if int(h.Version()) != in.Version {
		return fmt.Errorf("version is %d, and what it says of thinning takes %d", in.Version, h.Version())
	}
	return h.checkReplaced()
}

func (in *jsonColumn) column(first int64) (Column, error) {
	n := len(in.Value)
	c := Column{Tag: string(in.Tag), N: n, Kinds: make([]sample.Kind, n), Bits: make([]uint64, n), Times: make([]int64, len(in.Time))}
	same := func(what string, got int, optional bool) error {
		if got == n || optional && got == 0 {
			return nil
		}
		return fmt.Errorf("%d of %s, %d values", got, what, n)
	}
	for _, err := range []error{
		same("time", len(in.Time), false), same("source_time", len(in.Source), true), same("quality", len(in.Quality), true),
		same("producer", len(in.Producer), true), same("seq", len(in.Seq), true),
	} {
		if err != nil {
			return c, err
		}
	}
	if (len(in.Producer) == 0) != (len(in.Seq) == 0) {
		return c, fmt.Errorf("producer and seq go together")
	}
	if err := in.kinds(c.Kinds); err != nil {
		return c, err
	}
	for i, t := range in.Time {
		c.Times[i] = first + int64(t)
	}
	if len(in.Source) > 0 {
		c.SourceTimes = make([]int64, n)
		for i, t := range in.Source {
			if t != nil {
				c.SourceTimes[i] = first + int64(*t)
			}
		}
	}
	if len(in.Quality) > 0 {
		c.Quality = in.Quality
	}
	for i := range in.Producer {
		c.Producers, c.Seqs = append(c.Producers, string(in.Producer[i])), append(c.Seqs, uint64(in.Seq[i]))
	}
	for i, raw := range in.Value {
		if err := c.parseJSONValue(i, raw); err != nil {
			return c, fmt.Errorf("value %d: %w", i, err)
		}
	}
	return c, nil
}

// kinds reads one kind for all, or one for each.
func (in *jsonColumn) kinds(kinds []sample.Kind) error {
	var names []string
	var one string
	if json.Unmarshal(in.Kind, &one) == nil {
		k, err := kindNamed(one)
		for i := range kinds {
			kinds[i] = k
		}
		return err
	}
	if err := json.Unmarshal(in.Kind, &names); err != nil || len(names) != len(kinds) {
		return fmt.Errorf("kind is neither a name nor %d names", len(kinds))
	}
	for i, name := range names {
		k, err := kindNamed(name)
		if err != nil {
			return err
		}
		kinds[i] = k
	}
	return nil
}

func kindNamed(name string) (sample.Kind, error) {
	for k := sample.Null; k <= sample.String; k++ {
		if k.String() == name {
			return k, nil
		}
	}
	return 0, fmt.Errorf("%.40q is no kind", name)
}

func (c *Column) parseJSONValue(i int, raw []byte) error {
	switch c.Kinds[i] {
	case sample.Float64:
		f, err := sample.ParseJSONFloat(raw)
		c.Bits[i] = math.Float64bits(f)
		return err
	case sample.Int64:
		var v sample.JSONInt
		err := json.Unmarshal(raw, &v)
		c.Bits[i] = uint64(v)
		return err
	case sample.Bool:
		var v *bool
		if err := json.Unmarshal(raw, &v); err != nil || v == nil {
			return fmt.Errorf("%.40q is no bool", raw)
		}
		if *v {
			c.Bits[i] = 1
		}
	case sample.String:
		if c.Strs == nil {
			c.Strs = make([]string, c.N)
		}
		return (*sample.JSONText)(&c.Strs[i]).UnmarshalJSON(raw)
	case sample.Null:
		if string(raw) != "null" {
			return fmt.Errorf("%.40q is not null", raw)
		}
	}
	return nil
}
