package gateway

import (
	"context"
	"fmt"
	"net/url"
	"strconv"

	"millrace/gateway/batch"
	"millrace/gateway/control"
	"millrace/sample/block"
	"millrace/sample/ledger"
	"millrace/sample/ledger/audit"
	"millrace/sample/weektable"
	"millrace/spool"
)

// The most of one chunk.
const (
	auditBlocks = 1000
	auditBytes  = 16 << 20
)

// AuditSource is a spool, running or read from its files.
type AuditSource interface {
	Held(after uint64, maxBlocks, maxBytes int) ([]spool.Block, uint64, error)
	Losses() []spool.Loss
	Dead() ([]spool.DeadLetter, error)
	PeekDead(id uint64) (spool.Block, error)
	Stats() spool.Stats
}

// AuditChunk are blocks that a spool holds, for `millrace audit`.
type AuditChunk struct {
	Blocks []AuditBlock `json:"blocks"`
	Next   uint64       `json:"next"`  // number to go on after; 0 where this is all
	Bytes  int64        `json:"bytes"` // that were read
}

// AuditBlock is a block's header. Blocks of the system stream come with their
// bytes, since gap records and heartbeats are in them.
type AuditBlock struct {
	audit.Block
	Data []byte `json:"data,omitempty"`
	// Fault says why the block does not read; the header is empty then.
	Fault string `json:"fault,omitempty"`
}

// AuditState is what a spool knows besides blocks.
type AuditState struct {
	Bytes  int64        `json:"bytes"`  // in all files
	Losses []ledger.Gap `json:"losses"` // whose gap records are not in a block yet
	Dead   []AuditBlock `json:"dead"`   // the dead letters
}

// AuditChunkOf reads the next blocks of a spool.
func AuditChunkOf(s AuditSource, after uint64) (AuditChunk, error) {
	var out AuditChunk
	blocks, next, err := s.Held(after, auditBlocks, auditBytes)
	if err != nil && next == 0 {
		return out, err
	}
	if err != nil { // one file that does not read; the others do
		out.Blocks = append(out.Blocks, AuditBlock{Fault: err.Error()})
	}
	out.Next = next
	for i := range blocks {
		out.Bytes += int64(len(blocks[i].Data))
		out.Blocks = append(out.Blocks, auditBlock(&blocks[i]))
	}
	return out, nil
}

func auditBlock(b *spool.Block) AuditBlock {
	h, err := block.ReadHeader(b.Data)
	if err != nil {
		return AuditBlock{Fault: fmt.Sprintf("block number %d, stream %s sequence %d: %v", b.Number, batch.StreamName(b.Stream), b.Seq, err)}
	}
	out := AuditBlock{Block: audit.Of(&h, weektable.Checksum(b.Data))}
	if h.Stream == ledger.SystemStream {
		out.Data = b.Data
	}
	return out
}

// AuditStateOf reads the rest.
func AuditStateOf(s AuditSource) (AuditState, error) {
	st := s.Stats()
	out := AuditState{Bytes: st.DiskBytes}
	for _, l := range s.Losses() {
		out.Losses = append(out.Losses, batch.GapOf(&l, st.Epoch))
	}
	letters, err := s.Dead()
	if err != nil {
		return out, err
	}
	for i := range letters {
		b, err := s.PeekDead(letters[i].ID)
		if err != nil {
			out.Dead = append(out.Dead, AuditBlock{Fault: err.Error()})
			continue
		}
		out.Dead = append(out.Dead, auditBlock(&b))
	}
	return out, nil
}

// auditHandlers are the paths of the local socket that `millrace audit` asks.
func auditHandlers(s AuditSource) map[string]control.Handler {
	return map[string]control.Handler{
		"/v1/audit/blocks": func(_ context.Context, args url.Values) (any, error) {
			after, err := strconv.ParseUint(args.Get("after"), 10, 64)
			if err != nil {
				return nil, fmt.Errorf("after=%q is not a block's number", args.Get("after"))
			}
			return AuditChunkOf(s, after)
		},
		"/v1/audit/state": func(context.Context, url.Values) (any, error) { return AuditStateOf(s) },
	}
}
