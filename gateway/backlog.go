package gateway

import (
	"millrace/sample/ledger"
	"millrace/spool"
)

// backlogOf tells, for heartbeats, what the sink that is furthest behind lacks.
func backlogOf(st spool.Stats) ledger.Backlog {
	out := ledger.Backlog{DeadLetters: st.DeadLetters}
	for name, s := range st.Sinks {
		if s.PendingBlocks > out.Blocks || s.PendingBlocks == out.Blocks && s.PendingBlocks > 0 && name < out.Sink {
			out.Sink, out.Blocks, out.Samples, out.Bytes = name, s.PendingBlocks, s.PendingSamples, s.PendingBytes
		}
		if !s.Oldest.IsZero() && (out.Oldest.IsZero() || s.Oldest.Before(out.Oldest)) {
			out.Oldest = s.Oldest
		}
	}
	return out
}
