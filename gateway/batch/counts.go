package batch

import "millrace/sample/ledger"

// GapCount counts gap records of one cause since the start.
type GapCount struct {
	Records uint64 `json:"records"`
	// Samples are those lost, of records that know their count.
	Samples uint64 `json:"samples"`
}

// countGap counts a gap record. Callers hold b.mu.
func (b *Batcher) countGap(g *ledger.Gap) {
	c := b.gaps[g.Cause]
	c.Records++
	if g.Count != nil {
		c.Samples += *g.Count
	}
	if b.gaps == nil {
		b.gaps = map[ledger.Cause]GapCount{}
	}
	b.gaps[g.Cause] = c
}

// Gaps returns the gap records since the start, by cause. Each cause that there
// is stands in it, so that a counter is there before it first counts.
func (b *Batcher) Gaps() map[string]GapCount {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := map[string]GapCount{}
	for _, c := range []ledger.Cause{ledger.Evicted, ledger.Corrupt, ledger.GatewayDown, ledger.Overflow, ledger.Rejected, ledger.Refused} {
		out[string(c)] = b.gaps[c]
	}
	for c, n := range b.gaps {
		out[string(c)] = n
	}
	return out
}
