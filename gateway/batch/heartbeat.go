package batch

import (
	"encoding/hex"

	"millrace/sample/ledger"
)

// records sends up what is due besides samples, before a commit: with the
// first one the account of the time when the gateway was down, and heartbeats.
func (b *Batcher) records(stop bool) {
	first := b.firstCommit == 0
	if first {
		b.firstCommit = max(1, b.keep.tl.SinceBoot())
	}
	// How long the gateway was down can be told once the time is known.
	if !b.begun && !b.keep.holding {
		b.begin()
	}
	b.endBursts(stop)
	switch {
	case first:
		b.heartbeat(ledger.AtStart)
	case b.keep.tl.SinceBoot()-b.lastBeat >= ledger.HeartbeatEvery:
		b.heartbeat(ledger.Hourly)
	}
}

// heartbeat sends up what every stream has come to. Only the goroutine that
// commits may call it.
func (b *Batcher) heartbeat(kind ledger.HeartbeatKind) {
	b.lastBeat = b.keep.tl.SinceBoot()
	h := ledger.Heartbeat{
		At: b.keep.time().UTC(), Kind: kind, Epoch: b.epochText(), Boot: hex.EncodeToString(b.keep.boot[:]), Version: b.o.Version,
	}
	if b.o.Backlog != nil {
		h.Backlog = b.o.Backlog()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range b.streams {
		h.Streams = append(h.Streams, s.counts())
	}
	v, err := h.Sample(ledger.HeartbeatTag(b.o.Site, b.o.Gateway))
	if err != nil {
		panic("BUG: a heartbeat does not encode: " + err.Error())
	}
	b.addSystem(&v)
}

// counts are the stream's as of its last block.
func (s *stream) counts() ledger.StreamCounts {
	return ledger.StreamCounts{Stream: s.name, Seq: s.seq, Produced: s.produced, Lost: s.lost, Thinned: s.thinned, Replaced: s.replaced}
}
