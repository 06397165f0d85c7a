// Package codec measures the packed block: bytes and time a sample, beside JSON
// and Parquet with zstd on the same samples in the same run.
package codec

import (
	"fmt"
	"runtime"
	"time"

	"millrace/sample"
	"millrace/sample/block"
)

// Result is one figure. A Bar of 0 is none; else Measured is to be at most Bar.
type Result struct {
	Name     string
	Measured float64
	Unit     string
	Bar      float64
	Note     string
}

// The bars of the block format.
const (
	barLarge  = 0.50 // B a sample of plant data, 12,000 samples a block
	barSmall  = 1.25 // 1,000 samples a block
	barNoisy  = 1.70 // B a sample of noisy values, 12,000 samples a block
	barEncode = 60.0 // ns a sample
	barDecode = 25.0

	largeBlock = 12_000
	smallBlock = 1_000
	// repeats is how often a time is measured; the least counts.
	repeats = 7
)

// where the sample files lie, if they are there, from the root of the checkout.
const (
	plantFile = "../shared/data/plant200-1h.csv.gz"
	noisyFile = "../shared/data/skab-anomaly-free.csv"
)

// Run measures on generated data, and on the sample files where it finds them
// beside the checkout. It takes some seconds.
func Run() ([]Result, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var out []Result
	generated := generate(3600)
	results, err := plant("generated plant", generated)
	if err != nil {
		return nil, err
	}
	out = append(out, results...)
	if t, err := load(plantFile, ','); err != nil {
		return nil, err
	} else if t != nil {
		if results, err = plant("plant200", t); err != nil {
			return nil, err
		}
		out = append(out, results...)
	}
	if t, err := load(noisyFile, ';'); err != nil {
		return nil, err
	} else if t != nil {
		if results, err = noisy("pump bench", t); err != nil {
			return nil, err
		}
		out = append(out, results...)
	}
	return out, nil
}

// plant measures what the format promises of a plant that is polled once a
// second.
func plant(name string, t *table) ([]Result, error) {
	rows := t.rows()
	large, err := measure(t.tags, rows, largeBlock)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	small, err := measure(t.tags, rows, smallBlock)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	out := []Result{
		{name + ", blocks of 12,000", large.bytes, "B/sample", barLarge, ""},
		{name + ", blocks of 1,000", small.bytes, "B/sample", barSmall, ""},
		{name + ", encode", large.encode, "ns/sample", barEncode, "blocks of 12,000, Add included"},
		{name + ", decode", large.decode, "ns/sample", barDecode, "blocks of 12,000"},
		{name + ", encode, blocks of 1,000", small.encode, "ns/sample", 0, ""},
		{name + ", decode, blocks of 1,000", small.decode, "ns/sample", 0, ""},
	}
	peers, err := compareWith(name, t.tags, rows, largeBlock)
	if err != nil {
		return nil, err
	}
	out = append(out, peers.results...)

	sparse := deadband(t)
	events, err := measure(t.tags, sparse, largeBlock)
	if err != nil {
		return nil, fmt.Errorf("%s, deadband: %w", name, err)
	}
	name += " through a 1 % deadband"
	if peers, err = compareWith(name, t.tags, sparse, largeBlock); err != nil {
		return nil, err
	}
	note := fmt.Sprintf("%d of %d samples; the bar is Parquet's best", len(sparse), len(rows))
	out = append(out, Result{name, events.bytes, "B/sample", peers.parquet, note})
	return append(out, peers.results...), nil
}

func noisy(name string, t *table) ([]Result, error) {
	rows := t.rows()
	m, err := measure(t.tags, rows, largeBlock)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	peers, err := compareWith(name, t.tags, rows, largeBlock)
	if err != nil {
		return nil, err
	}
	return append([]Result{
		{name + ", blocks of 12,000", m.bytes, "B/sample", barNoisy, ""},
		{name + ", encode", m.encode, "ns/sample", barEncode, "blocks of 12,000, Add included"},
		{name + ", decode", m.decode, "ns/sample", barDecode, "blocks of 12,000"},
	}, peers.results...), nil
}

// measured is what samples cost in blocks of one size.
type measured struct{ bytes, encode, decode float64 }

// measure packs rows into blocks of n samples, header and checksum counted, and
// checks what comes back.
func measure(tags []string, rows []row, n int) (measured, error) {
	enc, err := block.NewEncoder()
	if err != nil {
		return measured{}, err
	}
	dec, err := block.NewDecoder()
	if err != nil {
		return measured{}, err
	}
	var m measured
	buf := make([]byte, 0, 1<<20)
	for k := range repeats {
		var encode, decode time.Duration
		size := 0
		for from := 0; from < len(rows); from += n {
			part := rows[from:min(from+n, len(rows))]
			start := time.Now()
			enc.Reset(tags)
			for i := range part {
				enc.Add(part[i].tag, &part[i].s)
			}
			if buf, err = enc.Encode(buf[:0], header(from)); err != nil {
				return m, err
			}
			encode += time.Since(start)
			size += len(buf)
			start = time.Now()
			b, err := dec.Decode(buf)
			if err != nil {
				return m, err
			}
			decode += time.Since(start)
			if k == 0 {
				if err := check(b, part); err != nil {
					return m, err
				}
			}
		}
		count := float64(len(rows))
		m.bytes = float64(size) / count
		if e := float64(encode.Nanoseconds()) / count; k == 0 || e < m.encode {
			m.encode = e
		}
		if d := float64(decode.Nanoseconds()) / count; k == 0 || d < m.decode {
			m.decode = d
		}
	}
	return m, nil
}

// header is as a gateway would fill it in: nothing in it is small or zero that
// would not be.
func header(from int) block.Header {
	return block.Header{
		Site: "plant1", Gateway: "gateway1", Stream: "s0001", Epoch: 0x9B1DEB4D3B7D4BAD, Seq: uint64(from)/smallBlock + 5000,
		Produced: uint64(from) + 50_000_000, Boot: [16]byte{0x3F, 0x25, 4, 0xE0, 0x4F, 0x89, 0x41, 0xD3, 0x9A, 0xC, 3, 5, 0xE8, 0x2C, 0x33, 1},
		Mono: 1767000000123456789, Clock: block.ClockSynced,
	}
}

// check fails where a block does not hold what was packed.
func check(b *block.Block, part []row) error {
	next := make(map[string][]*sample.Sample, len(b.Columns))
	for i := range part {
		s := &part[i].s
		next[s.Tag] = append(next[s.Tag], s)
	}
	n := 0
	for got := range b.All() {
		list := next[got.Tag]
		if len(list) == 0 || got != *list[0] {
			return fmt.Errorf("a sample of %s came back otherwise", got.Tag)
		}
		next[got.Tag] = list[1:]
		n++
	}
	if n != len(part) {
		return fmt.Errorf("%d samples came back of %d", n, len(part))
	}
	return nil
}
