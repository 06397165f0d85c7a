package batch

import (
	"encoding/hex"
	"math"
	"time"

	"millrace/sample"
	"millrace/sample/block"
	"millrace/sample/ledger"
)

// sealTime is the keeper's word on the samples that a commit seals.
type sealTime struct {
	boot      [16]byte
	offset    int64
	state     block.ClockState
	uncertain bool // they go up as Uncertain
	requires  bool // so would those of another boot whose clock ran free
	before    *savedClock
}

func (k *keeper) sealTime() sealTime {
	return sealTime{
		boot: k.boot, offset: k.offset, state: k.state, uncertain: k.uncertain,
		requires: k.requires(k.now()), before: k.before,
	}
}

// knows reports whether c has the right offset of a boot.
func (c *savedClock) knows(boot [16]byte) bool {
	return c != nil && c.Synced && c.Boot == hex.EncodeToString(boot[:])
}

// keepTime reads the clock and sends up the correction record that is due.
// Callers hold b.mu.
func (b *Batcher) keepTime() {
	k := &b.keep
	if c := k.update(); c != nil {
		c.Epoch = b.epochText()
		v, err := c.Sample(ledger.ClockTag(b.o.Site, b.o.Gateway), k.time())
		if err != nil {
			panic("BUG: a correction record does not encode: " + err.Error())
		}
		b.addSystem(&v)
	}
	// What was known of the boot before stays stored until its parts are sealed.
	if k.dirty && k.before == nil {
		// Goes into the transaction of the record.
		k.dirty = false
		b.newMeta = append(b.newMeta, k.saved.meta())
	}
}

// group is what of an open batch may go into one block: rows by one clock.
type group struct {
	parts     []openPart
	rows      int
	boot      [16]byte
	mono      int64
	state     block.ClockState
	uncertain bool
	// again says that the rows are stamped again with mono, and own that they
	// are of this boot.
	again, own bool
}

// groups splits the parts of an open batch by their clocks, in their order.
// Those of this boot are one group, whatever was done to the wall clock.
func (b *Batcher) groups(parts []openPart, t *sealTime) []group {
	var out []group
	for _, p := range parts {
		g := group{boot: p.clock.Boot, mono: p.clock.Mono, state: p.clock.Clock}
		switch {
		case !p.clock.Stated:
			g.boot, g.state = b.lastBoot, block.ClockUnknown
		case p.clock.Boot == t.boot:
			g.own, g.again, g.mono, g.state, g.uncertain = true, true, t.offset, t.state, t.uncertain
		case g.state == block.ClockFree && t.before.knows(p.clock.Boot):
			// It was synchronised after these were taken, and ended before they
			// were sealed.
			g.again, g.mono, g.state = true, t.before.Mono, block.ClockHoldover
		default:
			g.uncertain = g.state == block.ClockFree && t.requires
		}
		if n := len(out) - 1; n < 0 || out[n].boot != g.boot || out[n].mono != g.mono || out[n].state != g.state {
			out = append(out, g)
		}
		last := &out[len(out)-1]
		last.parts = append(last.parts, p)
		last.rows += p.count
	}
	return out
}

// moves returns by how much the times of a part are to be moved, in ns. What is
// below the resolution is the noise of reading two clocks.
func (g *group) moves(p *openPart) int64 {
	if !g.again {
		return 0
	}
	d := g.mono - p.clock.Mono
	if d > -timeResolution && d < timeResolution {
		return 0
	}
	return d
}

// judges reports whether the device's times of a part are to be judged at the
// seal, since they could not be when they came.
func (g *group) judges(p *openPart) bool {
	return g.again && g.state != block.ClockFree && p.clock.Clock == block.ClockFree
}

// each calls fn for each row, stamped and marked as it goes into a block.
func (g *group) each(fn func(tag int, v *sample.Sample)) error {
	for i := range g.parts {
		p := &g.parts[i]
		d := g.moves(p)
		// A device's time that could not be judged before can be now.
		judge := g.judges(p)
		err := block.ReadPart(p.data, func(tag int, v *sample.Sample) error {
			if d != 0 {
				v.Time = floor(plus(v.Time, d))
			}
			if judge && v.SourceTime != 0 && farOff(v.SourceTime, v.Time) {
				v.SourceTime = 0
			}
			if g.uncertain {
				v.Quality = v.Quality.Doubt(sample.Uncertain)
			}
			fn(tag, v)
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// plus adds without leaving int64.
func plus(a, b int64) int64 {
	switch s := a + b; {
	case b > 0 && s < a:
		return math.MaxInt64
	case b < 0 && s > a:
		return math.MinInt64
	default:
		return s
	}
}

// floor cuts a time to the resolution, downwards on both sides of 1970.
func floor(ns int64) int64 {
	r := ns % timeResolution
	if r < 0 {
		r += timeResolution
	}
	if ns < math.MinInt64+r {
		return ns
	}
	return ns - r
}

// time is now, as a time.
func (k *keeper) time() time.Time { return time.Unix(0, k.now()) }
