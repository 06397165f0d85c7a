package batch

import (
	"errors"
	"fmt"
	"time"

	"millrace/sample"
	"millrace/sample/block"
	"millrace/spool"
)

// maxBlockBytes is the size beyond which a batch is split in two, whatever its
// configured size: a block in base64 with its attributes fits an SQS message.
const maxBlockBytes = 700 << 10

const day = int64(24 * time.Hour)

// packer is what sealing works with, kept from batch to batch.
type packer struct {
	buf  []byte
	days []int64
}

// seal packs a stream's open batch into blocks, one per UTC day of its
// samples' primary time, and adds them to the commit.
func (b *Batcher) seal(w *work, t *taken) error {
	s := t.s
	parts := s.parts
	if t.has {
		parts = append(parts[:len(parts):len(parts)], t.part)
	}
	rows, rowBytes := 0, 0
	for _, p := range parts {
		rows += p.count
		rowBytes += len(p.data)
	}
	packed := 0
	for _, d := range b.days(parts) {
		n, err := b.sealRows(w, t, parts, d, 0, rows)
		if err != nil {
			return fmt.Errorf("BUG: the open batch of stream %s does not pack: %w", s.name, err)
		}
		packed += n
	}
	if rowBytes > 0 {
		t.ratio = float64(packed) / float64(rowBytes)
	}
	w.c.Meta = append(w.c.Meta, s.meta())
	return nil
}

// days lists the UTC days of the parts' samples, in order of appearance.
func (b *Batcher) days(parts []openPart) []int64 {
	days := b.pack.days[:0]
	add := func(d int64) {
		for _, known := range days {
			if known == d {
				return
			}
		}
		days = append(days, d)
	}
	for _, p := range parts {
		if dayOf(p.first) == dayOf(p.last) {
			add(dayOf(p.first))
			continue
		}
		// An unreadable part is reported by the pass that packs it.
		_ = block.ReadPart(p.data, func(_ int, v *sample.Sample) error {
			add(dayOf(v.PrimaryTime()))
			return nil
		})
	}
	b.pack.days = days
	return days
}

func dayOf(ns int64) int64 {
	if ns < 0 {
		return (ns+1)/day - 1
	}
	return ns / day
}

// sealRows packs the rows from..to that fall on one day, in two blocks or more
// where one would be too large, and returns the packed size.
func (b *Batcher) sealRows(w *work, t *taken, parts []openPart, onDay int64, from, to int) (int, error) {
	s, enc := t.s, b.encoder
	enc.Reset(t.tags)
	i := 0
	for _, p := range parts {
		err := block.ReadPart(p.data, func(tag int, v *sample.Sample) error {
			if i >= from && i < to && dayOf(v.PrimaryTime()) == onDay {
				enc.Add(tag, v)
			}
			i++
			return nil
		})
		if err != nil {
			return 0, err
		}
	}
	if enc.Len() == 0 {
		return 0, nil
	}
	h := block.Header{
		Site: b.o.Site, Gateway: b.o.Gateway, Stream: s.name, Epoch: b.epoch, Seq: s.seq + 1,
		Produced: s.produced + uint64(enc.Len()), Lost: s.lost, Boot: b.boot, Mono: monoOffset(), Clock: clockState(),
	}
	if t.recovered {
		h.Boot, h.Mono, h.Clock = b.lastBoot, 0, block.ClockUnknown
	}
	packed, err := enc.Encode(b.pack.buf[:0], h)
	tooLarge := errors.Is(err, block.ErrTooLarge)
	if err != nil && !tooLarge {
		return 0, err
	}
	if !tooLarge {
		b.pack.buf = packed
	}
	if (tooLarge || len(packed) > maxBlockBytes) && to-from > 1 {
		half := from + (to-from)/2
		first, err := b.sealRows(w, t, parts, onDay, from, half)
		if err != nil {
			return 0, err
		}
		second, err := b.sealRows(w, t, parts, onDay, half, to)
		return first + second, err
	}
	if tooLarge {
		return 0, err
	}
	full, err := block.ReadHeader(packed)
	if err != nil {
		return 0, err
	}
	s.seq = h.Seq
	s.produced = h.Produced
	w.c.Blocks = append(w.c.Blocks, spool.Block{
		Stream: s.id, Seq: full.Seq, Count: uint32(full.Count), First: full.First, Last: full.Last,
		Data: append([]byte(nil), packed...),
	})
	return len(packed), nil
}
