package batch

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"millrace/sample"
	"millrace/sample/ledger"
	"millrace/spool"
)

const (
	// burstQuiet ends a burst of a server's overflows: so long no value of the
	// tag was marked. burstMost ends one that goes on.
	burstQuiet = 30 * time.Second
	burstMost  = 10 * time.Minute

	keyNextGap = "gap"
	keyCarries = "streamsources/" // sorts behind "stream/"
)

// declare sends up a gap that the gateway itself saw, under the next number.
// Number and record are stored by the same transaction, so that one that a
// crash took away comes again as the same record. Callers hold b.mu.
func (b *Batcher) declare(g *ledger.Gap, now time.Time) {
	b.nextGap++
	b.newMeta = append(b.newMeta, spool.KV{Key: keyNextGap, Value: binary.BigEndian.AppendUint64(nil, b.nextGap)})
	g.ID, g.Origin, g.Epoch = b.nextGap, ledger.FromGateway, b.epochText()
	b.addGap(g, now)
}

// addGap puts a gap record into the system stream. Callers hold b.mu.
func (b *Batcher) addGap(g *ledger.Gap, now time.Time) {
	b.countGap(g)
	g.At = now.UTC()
	v, err := g.Sample(ledger.GapTag(b.o.Site, b.o.Gateway), now)
	if err != nil {
		panic("BUG: a gap record does not encode: " + err.Error())
	}
	b.addSystem(&v)
}

func (b *Batcher) epochText() string { return fmt.Sprintf("%016x", b.epoch) }

// GapOf is the record of a loss that the spool saw, in a spool of an epoch.
func GapOf(l *spool.Loss, epoch string) ledger.Gap {
	g := ledger.Gap{
		ID: l.ID, Epoch: epoch, Sinks: l.Sinks, FromSeq: l.FromSeq, ToSeq: l.ToSeq,
		Cause: ledger.Cause(l.Cause), At: l.At,
	}
	if l.First != 0 || l.Last != 0 {
		g.From, g.To = time.Unix(0, l.First).UTC(), time.Unix(0, l.Last).UTC()
	}
	if l.Stream != spool.NoStream {
		g.Stream = StreamName(l.Stream)
	}
	if l.Earlier && l.Stream != spool.NoStream {
		g.SeqEpoch = ledger.UnknownEpoch
	}
	if !l.Unknown {
		n := l.Count
		g.Count = &n
	}
	return g
}

// gapFields says of a gap what is known.
func gapFields(g *ledger.Gap) []any {
	fields := []any{"cause", g.Cause, "count", "unknown"}
	if g.Count != nil {
		fields[3] = *g.Count
	}
	if g.Stream != "" {
		fields = append(fields, "stream", g.Stream)
	}
	if g.Source != "" {
		fields = append(fields, "source", g.Source)
	}
	if !g.From.IsZero() {
		fields = append(fields, "from", g.From, "to", g.To)
	}
	if len(g.Sinks) > 0 {
		fields = append(fields, "sinks", g.Sinks)
	}
	return fields
}

// burst is a run of values that a server marked: others were dropped before.
type burst struct {
	from, to    int64 // primary times, ns
	began, seen int64 // monotonic clock, ns
}

// overflowed notes a value that says that its server dropped others before it.
// They lie between the tag's last value and this one. Callers hold b.mu.
func (b *Batcher) overflowed(e *entry, s *sample.Sample) {
	at := s.PrimaryTime()
	now := int64(b.keep.tl.SinceBoot())
	u := b.bursts[e]
	if u == nil {
		u = &burst{from: at, began: now}
		if e.last != 0 {
			u.from = min(e.last, at)
		}
		b.bursts[e] = u
	}
	u.to, u.seen = max(at, u.to, u.from), now
}

// endBursts declares the bursts that are over, or all of them.
func (b *Batcher) endBursts(all bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	mono := int64(b.keep.tl.SinceBoot())
	for e, u := range b.bursts {
		quiet, lasts := mono-u.seen, mono-u.began
		if !all && quiet < int64(burstQuiet) && lasts < int64(burstMost) {
			continue
		}
		delete(b.bursts, e)
		b.declare(&ledger.Gap{
			Source: e.port.info.Name, Tag: e.stream.tags[e.index], Cause: ledger.Overflow,
			From: time.Unix(0, u.from).UTC(), To: time.Unix(0, u.to).UTC(),
		}, b.keep.time())
	}
}

// nameSources says in a gap whose samples its stream carries.
func (s *stream) nameSources(g *ledger.Gap) {
	if len(s.sources) == 1 {
		g.Source = s.sources[0]
		return
	}
	g.Sources = slices.Clone(s.sources)
}

// carries notes that a source has a tag in the stream, and returns the state to
// store where that is new.
func (s *stream) carries(source string) (kv spool.KV, isNew bool) {
	at, known := slices.BinarySearch(s.sources, source)
	if known {
		return kv, false
	}
	s.sources = slices.Insert(s.sources, at, source)
	text, err := json.Marshal(s.sources)
	if err != nil {
		panic("BUG: a list of sources does not encode: " + err.Error())
	}
	return spool.KV{Key: fmt.Sprintf("%s%08x", keyCarries, s.id), Value: text}, true
}

// restoreCarries takes up which sources a stream carries.
func (b *Batcher) restoreCarries(kv spool.KV) error {
	id, err := strconv.ParseUint(strings.TrimPrefix(kv.Key, keyCarries), 16, 32)
	if err == nil && id >= uint64(len(b.streams)) {
		err = fmt.Errorf("stream %d is not listed", id)
	}
	if err == nil {
		err = json.Unmarshal(kv.Value, &b.streams[id].sources)
	}
	if err != nil {
		return fmt.Errorf("spool state %s: %w", kv.Key, err)
	}
	return nil
}
