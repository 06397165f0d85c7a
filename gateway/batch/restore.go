package batch

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"sort"
	"strings"
	"time"

	"millrace/sample"
	"millrace/sample/block"
	"millrace/spool"
)

// restore takes up what the spool holds: streams and their counts, the tags
// assigned to them, and the parts of batches that were open at the last stop.
func (b *Batcher) restore(st *spool.State) error {
	if err := b.restoreStreams(st); err != nil {
		return err
	}
	b.keep.start()
	if err := b.lastSigns(st); err != nil {
		return fmt.Errorf("open batches: %w", err)
	}
	if len(b.streams) == 0 {
		b.streams = append(b.streams, newStream(systemStream, Class{MaxAge: time.Second, MaxBytes: 180 << 10}))
		b.newMeta = append(b.newMeta, b.streams[0].meta())
	}
	for _, s := range b.streams {
		s.policy = st.Policies[s.id]
	}
	b.give(b.streams[systemStream], spool.Reserved)
	for _, p := range st.Parts {
		if int(p.Stream) >= len(b.streams) {
			return fmt.Errorf("the spool holds samples of stream %d, which it does not list: move the spool aside and report this", p.Stream)
		}
		s := b.streams[p.Stream]
		n := 0
		by, err := block.ReadPartClock(p.Data)
		if err != nil {
			return fmt.Errorf("open batch of stream %s: %w", s.name, err)
		}
		oldest := int64(math.MaxInt64)
		err = block.ReadPart(p.Data, func(tag int, v *sample.Sample) error {
			if tag >= len(s.tags) {
				return fmt.Errorf("tag %d of stream %s is not assigned", tag, s.name)
			}
			n++
			oldest = min(oldest, v.Time-by.Mono)
			return nil
		})
		if err != nil {
			return fmt.Errorf("open batch of stream %s: %w", s.name, err)
		}
		s.parts = append(s.parts, openPart{data: p.Data, count: n, first: p.First, last: p.Last, clock: by})
		if s.rows == 0 || oldest < s.opened {
			s.opened, s.oldest = oldest, oldest
		}
		s.foreign = s.foreign || !by.Stated || by.Boot != b.keep.boot
		s.rows += n
		s.bytes += len(p.Data)
		b.openBytes += len(p.Data)
	}
	return nil
}

func (b *Batcher) restoreStreams(st *spool.State) error {
	meta := append([]spool.KV(nil), st.Meta...)
	sort.Slice(meta, func(i, j int) bool { return meta[i].Key < meta[j].Key })
	for _, kv := range meta { // "stream/" sorts before what refers to streams, and by id
		switch {
		case kv.Key == "boot" && len(kv.Value) == len(b.lastBoot):
			copy(b.lastBoot[:], kv.Value)
		case kv.Key == keyNextGap && len(kv.Value) == 8:
			b.nextGap = binary.BigEndian.Uint64(kv.Value)
		case strings.HasPrefix(kv.Key, keyPolled):
			b.polled[strings.TrimPrefix(kv.Key, keyPolled)] = true
		case strings.HasPrefix(kv.Key, keyRefused):
			b.restoreRefused(kv)
		case kv.Key == clockKey:
			if err := b.keep.restore(kv.Value); err != nil {
				return err
			}
		case strings.HasPrefix(kv.Key, "cat/") && len(kv.Value) == 8:
			b.known[strings.TrimPrefix(kv.Key, "cat/")] = binary.BigEndian.Uint64(kv.Value)
		case strings.HasPrefix(kv.Key, "stream/"):
			var m streamMeta
			if err := json.Unmarshal(kv.Value, &m); err != nil {
				return fmt.Errorf("spool state %s: %w", kv.Key, err)
			}
			s := newStream(uint32(len(b.streams)), m.Class)
			s.seq, s.produced, s.lost = max(m.Seq, st.LastSeq[s.id]), m.Produced, m.Lost
			s.thinned, s.replaced = m.Thinned, m.Replaced
			b.streams = append(b.streams, s)
		case strings.HasPrefix(kv.Key, keyCarries):
			if err := b.restoreCarries(kv); err != nil {
				return err
			}
		case strings.HasPrefix(kv.Key, "tag/"):
			if len(kv.Value) != 6 {
				return fmt.Errorf("spool state %s: %d bytes, want 6", kv.Key, len(kv.Value))
			}
			name := strings.TrimPrefix(kv.Key, "tag/")
			at := slot{stream: binary.BigEndian.Uint32(kv.Value), index: binary.BigEndian.Uint16(kv.Value[4:])}
			if int(at.stream) >= len(b.streams) {
				return fmt.Errorf("spool state %s: stream %d is not listed", kv.Key, at.stream)
			}
			s := b.streams[at.stream]
			for len(s.tags) <= int(at.index) {
				s.tags = append(s.tags, "")
			}
			s.tags[at.index] = name
			b.slots[name] = at
		}
	}
	return nil
}
