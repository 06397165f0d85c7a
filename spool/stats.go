package spool

import (
	"fmt"
	"time"
)

// Stats is what a spool says of itself, as of now. Counters start at zero when
// it is opened.
type Stats struct {
	Epoch string `json:"epoch"` // 16 hexadecimal digits
	// DiskBytes is the size of all Files together, MaxBytes their bound.
	DiskBytes int64 `json:"disk_bytes"`
	MaxBytes  int64 `json:"max_bytes"`
	Files     int   `json:"files"`
	Segments  int   `json:"segments"`
	// CorruptFiles are those that did not read and were put aside.
	CorruptFiles int `json:"corrupt_files"`
	// OpenParts and OpenSamples wait for a block.
	OpenParts   int    `json:"open_parts"`
	OpenSamples uint64 `json:"open_samples"`
	NextNumber  uint64 `json:"next_number"` // of the next block
	// Commits counts transactions, BytesWritten the pages that they wrote.
	Commits      uint64 `json:"commits"`
	BytesWritten uint64 `json:"bytes_written"`
	// StoredDisk is what the blocks stored since the opening take on the disk,
	// and RoomBytes how much more may wait before the bound evicts. Both are
	// estimates, for a forecast.
	StoredDisk uint64 `json:"stored_disk_bytes"`
	RoomBytes  int64  `json:"room_bytes"`
	// Evicted counts segments that went whole, Rewritten those that were written
	// anew with what was to be kept, Corrupt blocks and segments.
	Evicted uint64 `json:"evicted"`
	// Replaced counts blocks that thinned ones replaced.
	Replaced  uint64 `json:"replaced"`
	Rewritten uint64 `json:"rewritten"`
	Corrupt   uint64 `json:"corrupt"`
	// Salvaged counts files that were damaged and rebuilt from what reads.
	Salvaged uint64 `json:"salvaged"`
	// Mended counts failures of the disk that were overcome.
	Mended      uint64 `json:"mended"`
	Losses      int    `json:"losses"` // unsettled
	DeadLetters int    `json:"dead_letters"`
	DeadBytes   int64  `json:"dead_bytes"`
	// Broken says why nothing more is stored; empty where all is well.
	Broken string               `json:"broken,omitempty"`
	Sinks  map[string]SinkStats `json:"sinks"`
}

// SinkStats is what one sink has and lacks.
type SinkStats struct {
	PendingBlocks  int   `json:"pending_blocks"`
	PendingSamples int64 `json:"pending_samples"`
	PendingBytes   int64 `json:"pending_bytes"`
	// PendingDisk is what they take on the disk, an estimate.
	PendingDisk int64 `json:"pending_disk_bytes"`
	// Oldest is the time of the first sample of the oldest pending block, to
	// the second; zero where nothing is pending.
	Oldest time.Time `json:"oldest,omitzero"`
	// AckedTo is the number up to which the sink lacks nothing.
	AckedTo uint64 `json:"acked_to"`
	// Configured is false for a sink that the configuration no longer names:
	// its data stays until it is forgotten.
	Configured bool `json:"configured"`
}

type openTotals struct {
	parts   int
	samples uint64
}

func totalsOf(records []openRecord) (t openTotals) {
	for _, r := range records {
		t.parts += len(r.parts)
		for _, p := range r.parts {
			t.samples += uint64(p.count)
		}
	}
	return t
}

// Stats never waits for the disk.
func (s *Spool) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := Stats{
		Epoch: formatEpoch(s.counters.epoch), DiskBytes: s.diskBytes(), MaxBytes: s.o.MaxBytes,
		Segments: len(s.segs), CorruptFiles: len(s.aside), Files: len(s.segs) + len(s.aside),
		OpenParts: s.open.parts, OpenSamples: s.open.samples, NextNumber: s.counters.next,
		Commits: s.stats.commits, BytesWritten: s.stats.bytesWritten, StoredDisk: s.stats.stored, RoomBytes: s.room(),
		Evicted: s.stats.evicted, Replaced: s.stats.replaced, Rewritten: s.stats.rewritten, Corrupt: s.stats.corrupt, Salvaged: s.stats.salvaged, Mended: s.stats.mended,
		Losses: len(s.losses), DeadLetters: s.dead.count, DeadBytes: s.dead.used,
		Sinks: make(map[string]SinkStats, len(s.sinks)),
	}
	if s.dead.size > 0 {
		st.Files++
	}
	if s.reserve > 0 {
		st.Files++
	}
	if s.broken != nil {
		st.Broken = s.broken.Error()
	}
	for name, k := range s.sinks {
		st.Sinks[name] = SinkStats{
			PendingBlocks: k.pendingBlocks, PendingSamples: k.pendingSamples, PendingBytes: k.pendingBytes, PendingDisk: k.pendingDisk,
			Oldest: s.oldest(k), AckedTo: k.acked.free(s.counters.floor+1) - 1, Configured: k.configured,
		}
	}
	return st
}

// Next returns the number that the next block will get.
func (s *Spool) Next() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counters.next
}

// oldest is the time of a sink's oldest pending block.
func (s *Spool) oldest(k *sink) time.Time {
	if k.pendingBlocks == 0 {
		return time.Time{}
	}
	for _, g := range s.segs {
		for n := k.acked.free(g.first); n < g.next; n = k.acked.free(n + 1) {
			if e, ok := g.entry(n); ok {
				return time.Unix(int64(e.first), 0).UTC()
			}
		}
	}
	return time.Time{}
}

// diskCost estimates what a block of so many bytes takes in a segment: small
// ones share pages with their neighbours, others have pages of their own
// besides their name.
func diskCost(bytes int64) int64 {
	const name = 160 // its key and the headers of its bucket
	if bytes < pageSize/4-name {
		return (bytes + name) * 2 // measured: pages in between stay free
	}
	return pages(bytes) + name
}

// room estimates how many bytes more on the disk may wait. Where nothing
// leaves, the files as they are tell it; else what leaves with the next
// segments counts too, but for what one segment of each end wastes.
func (s *Spool) room() int64 {
	waiting := int64(0)
	for _, k := range s.sinks {
		waiting = max(waiting, k.pendingDisk)
	}
	bound := s.limit(ordinary) - s.o.growthStep()
	used := s.diskBytes()
	if n := len(s.segs); n > 0 {
		used -= max(s.segs[n-1].size-s.usage.high, 0) + s.usage.free
	}
	return max(bound-used, bound-s.dead.size-s.reserve-waiting-s.o.SegmentBytes, 0)
}

func formatEpoch(epoch uint64) string { return fmt.Sprintf("%016x", epoch) }
