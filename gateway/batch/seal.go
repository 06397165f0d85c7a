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
	rowBytes := 0
	for _, p := range parts {
		rowBytes += len(p.data)
	}
	packed := 0
	groups := b.groups(parts, &w.time)
	for i := range groups {
		n, err := b.sealGroup(w, t, &groups[i])
		if err != nil {
			return fmt.Errorf("BUG: the open batch of stream %s does not pack: %w", s.name, err)
		}
		packed += n
	}
	if rowBytes > 0 {
		t.ratio = float64(packed) / float64(rowBytes)
	}
	t.sealed = true
	if t.reserved {
		w.own = append(w.own, s.meta())
	} else {
		w.rest = append(w.rest, s.meta())
	}
	return nil
}

// sealGroup packs rows of one clock, and returns the packed size.
func (b *Batcher) sealGroup(w *work, t *taken, g *group) (packed int, err error) {
	if g.own && g.state == block.ClockFree {
		b.noteFree(w, t.oldest)
	}
	for _, d := range b.days(g) {
		// A batch that waited for the clock may be many times one that did not.
		for from := 0; from < g.rows; from += maxOpenRows {
			n, err := b.sealRows(w, t, g, d, from, min(from+maxOpenRows, g.rows))
			if err != nil {
				return packed, err
			}
			packed += n
		}
	}
	return packed, nil
}

// noteFree remembers, in the same transaction, from which reading of the
// monotonic clock on samples went up with a clock that ran free.
func (b *Batcher) noteFree(w *work, from int64) {
	from = max(1, from)
	b.mu.Lock()
	defer b.mu.Unlock()
	if c := &b.keep.saved; c.FreeFrom == 0 || from < c.FreeFrom {
		c.FreeFrom = from
		w.rest = append(w.rest, c.meta())
	}
}

// days lists the UTC days of the rows, in order of appearance.
func (b *Batcher) days(g *group) []int64 {
	days := b.pack.days[:0]
	add := func(d int64) {
		for _, known := range days {
			if known == d {
				return
			}
		}
		days = append(days, d)
	}
	for i := range g.parts {
		p := &g.parts[i]
		if g.moves(p) == 0 && !g.judges(p) && dayOf(p.first) == dayOf(p.last) {
			add(dayOf(p.first))
			continue
		}
		one := *g
		one.parts = g.parts[i : i+1]
		// An unreadable part is reported by the pass that packs it.
		_ = one.each(func(_ int, v *sample.Sample) { add(dayOf(v.PrimaryTime())) })
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
func (b *Batcher) sealRows(w *work, t *taken, g *group, onDay int64, from, to int) (int, error) {
	s, enc := t.s, b.encoder
	enc.Reset(t.tags)
	i := 0
	err := g.each(func(tag int, v *sample.Sample) {
		if i >= from && i < to && dayOf(v.PrimaryTime()) == onDay {
			enc.Add(tag, v)
		}
		i++
	})
	if err != nil {
		return 0, err
	}
	if enc.Len() == 0 {
		return 0, nil
	}
	h := block.Header{
		Site: b.o.Site, Gateway: b.o.Gateway, Stream: s.name, Epoch: b.epoch, Seq: s.seq + 1,
		Produced: s.produced + uint64(enc.Len()), Lost: s.lost, Thinned: s.thinned, Boot: g.boot, Mono: g.mono, Clock: g.state,
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
		first, err := b.sealRows(w, t, g, onDay, from, half)
		if err != nil {
			return 0, err
		}
		second, err := b.sealRows(w, t, g, onDay, half, to)
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
