package batch

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"time"

	"millrace/sample"
	"millrace/sample/ledger"
	"millrace/spool"
)

// declareLosses turns the spool's unsettled losses into gap records in the
// system stream, and returns their ids for the commit that carries them.
func (b *Batcher) declareLosses() []uint64 {
	var ids []uint64
	for _, l := range b.store.Losses() {
		if l.ID <= b.settled {
			continue
		}
		ids = append(ids, l.ID)
		g := ledger.Gap{
			ID: l.ID, Epoch: fmt.Sprintf("%016x", b.epoch), Sinks: l.Sinks, FromSeq: l.FromSeq, ToSeq: l.ToSeq,
			From: time.Unix(0, l.First).UTC(), To: time.Unix(0, l.Last).UTC(), Cause: ledger.Cause(l.Cause),
		}
		b.mu.Lock()
		if int(l.Stream) < len(b.streams) {
			s := b.streams[l.Stream]
			g.Stream = s.name
			if !l.Unknown {
				s.lost += l.Count
				if l.FromSeq == 0 { // never sealed, so never counted as produced
					s.produced += l.Count
				}
				b.newMeta = append(b.newMeta, s.meta())
			}
		}
		if !l.Unknown {
			g.Count = &l.Count
		}
		b.o.Log.Warn("samples lost from the spool; a gap record goes up",
			"stream", g.Stream, "cause", g.Cause, "count", l.Count, "unknown", l.Unknown, "from", g.From, "to", g.To, "sinks", l.Sinks)
		gap, err := g.Sample(ledger.GapTag(b.o.Site, b.o.Gateway), b.o.Clock.Now())
		if err != nil {
			panic("BUG: a gap record does not encode: " + err.Error())
		}
		b.addSystem(&gap)
		b.mu.Unlock()
	}
	return ids
}

// catalogue sends up what a tag is, once and whenever it changes. Callers hold
// b.mu.
func (b *Batcher) catalogue(p *Port, t *TagInfo) {
	text, err := json.Marshal(ledger.CatalogueEntry{
		Tag: t.Name, Stream: b.entries[t.Name].stream.name, Source: p.info.Name,
		Type: t.Type, Unit: t.Unit, Description: t.Description,
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
		Tag: ledger.CatalogueTag(b.o.Site, b.o.Gateway), Value: sample.StringValue(string(text)), Time: b.o.Clock.Now().UnixNano(),
	})
}

// addSystem appends a sample of the gateway's own to the system stream.
// Callers hold b.mu.
func (b *Batcher) addSystem(v *sample.Sample) {
	s := b.streams[systemStream]
	at, ok := b.slots[v.Tag]
	if !ok {
		at = slot{stream: systemStream, index: uint16(len(s.tags))}
		s.tags = append(s.tags, v.Tag)
		b.slots[v.Tag] = at
		b.newMeta = append(b.newMeta, tagMeta(v.Tag, at))
	}
	b.openBytes += s.add(int(at.index), v)
}
