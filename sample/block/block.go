// Package block is the packed batch: one stream's samples in the bytes that
// are spooled, sent, stored and archived. docs/block-format.md specifies it.
package block

import (
	"iter"
	"math"

	"millrace/sample"
)

// Block is a decoded block. Its columns are in the order of the dictionary,
// which is that of the encoder's tags.
type Block struct {
	Header
	Columns []Column
}

// All yields the samples column by column, each in its tag's order.
func (b *Block) All() iter.Seq[sample.Sample] {
	return func(yield func(sample.Sample) bool) {
		for c := range b.Columns {
			col := &b.Columns[c]
			for i := range col.N {
				if !yield(col.Sample(i)) {
					return
				}
			}
		}
	}
}

// Value returns the i-th value, i from 0 to N-1.
func (c *Column) Value(i int) sample.Value {
	switch c.Kinds[i] {
	case sample.Float64:
		return sample.FloatValue(math.Float64frombits(c.Bits[i]))
	case sample.Int64:
		return sample.IntValue(int64(c.Bits[i]))
	case sample.Bool:
		return sample.BoolValue(c.Bits[i] != 0)
	case sample.String:
		return sample.StringValue(c.Strs[i])
	case sample.Null:
	}
	return sample.Value{}
}

// Sample returns the i-th sample, i from 0 to N-1.
func (c *Column) Sample(i int) sample.Sample {
	s := sample.Sample{Tag: c.Tag, Value: c.Value(i), Time: c.Times[i]}
	if c.Quality != nil {
		s.Quality = c.Quality[i]
	}
	if c.SourceTimes != nil {
		s.SourceTime = c.SourceTimes[i]
	}
	if c.Producers != nil {
		s.Producer, s.Seq = c.Producers[i], c.Seqs[i]
	}
	return s
}
