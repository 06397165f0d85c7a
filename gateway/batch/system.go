package batch

import (
	"encoding/json"
	"hash/fnv"

	"millrace/sample"
	"millrace/sample/ledger"
	"millrace/spool"
)

// declareLosses turns the spool's losses that are due into gap records in the
// system stream, and returns their ids for the commit that carries them.
func (b *Batcher) declareLosses() []uint64 {
	var ids []uint64
	for _, l := range b.store.DueLosses() {
		ids = append(ids, l.ID)
		g := GapOf(&l, b.epochText())
		b.mu.Lock()
		if int(l.Stream) < len(b.streams) && !l.Earlier {
			s := b.streams[l.Stream]
			s.nameSources(&g)
			if !l.Unknown {
				s.lost += l.Count
				if l.FromSeq == 0 { // never sealed, so never counted as produced
					s.produced += l.Count
				}
				b.newMeta = append(b.newMeta, s.meta())
			}
		}
		b.o.Log.Warn("samples lost from the spool; a gap record goes up", gapFields(&g)...)
		b.addGap(&g, b.keep.time())
		b.mu.Unlock()
	}
	return ids
}

// catalogue sends up what a tag is, once and whenever it changes. Callers hold
// b.mu.
func (b *Batcher) catalogue(p *Port, t *TagInfo) {
	text, err := json.Marshal(ledger.CatalogueEntry{
		Tag: t.Name, Stream: b.entries[t.Name].stream.name, Source: p.info.Name,
		Type: t.Type, Unit: t.Unit, Description: t.Description, Counter: t.Counter, CounterMax: t.CounterMax,
	})
	if err != nil {
		panic("BUG: a catalogue record does not encode: " + err.Error())
	}
	sum := fnv.New64a()
	sum.Write(text)
	if b.known[t.Name] == sum.Sum64() {
		return
	}
	b.known[t.Name] = sum.Sum64()
	b.newMeta = append(b.newMeta, spool.KV{Key: "cat/" + t.Name, Value: sum.Sum(nil)})
	b.addSystem(&sample.Sample{
		Tag: ledger.CatalogueTag(b.o.Site, b.o.Gateway), Value: sample.StringValue(string(text)),
	})
}

// addSystem appends a sample of the gateway's own, taken now, to the system
// stream. Callers hold b.mu.
func (b *Batcher) addSystem(v *sample.Sample) {
	s := b.streams[systemStream]
	offset := b.keep.offset
	if s.w.Count() > 0 {
		offset = s.w.Clock().Mono // a part is stamped by one clock
	}
	v.Time = floor(int64(b.keep.tl.SinceBoot()) + offset)
	at, ok := b.slots[v.Tag]
	if !ok {
		at = slot{stream: systemStream, index: uint16(len(s.tags))}
		s.tags = append(s.tags, v.Tag)
		b.slots[v.Tag] = at
		b.newMeta = append(b.newMeta, tagMeta(v.Tag, at))
	}
	b.openBytes += b.add(s, int(at.index), v)
}
