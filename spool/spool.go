// Package spool stores opaque records durably in a directory of bbolt files
// (segments): parts of open batches, then the sealed blocks that replace them,
// until every sink has acknowledged them. It never looks into a record.
package spool

import "time"

// Part is one stream's share of one commit to the open tier.
type Part struct {
	Stream uint32
	Count  uint32 // samples in Data
	First  int64  // time of the first sample, ns since the Unix epoch
	Last   int64  // time of the last
	Data   []byte
}

// Block is one stream's sealed batch. A block committed supersedes every part
// of its stream from earlier commits; parts in the same commit come after it.
type Block struct {
	Number uint64 // given by Commit: rising over all streams, gapless, from 1
	Stream uint32
	Seq    uint64 // of the stream, set by the caller
	Count  uint32
	First  int64
	Last   int64
	Data   []byte
}

// KV is a small piece of the caller's own state, kept with the records and
// replaced by key. A nil Value deletes the key.
type KV struct {
	Key   string
	Value []byte
}

// Commit is what one transaction makes durable, all or nothing.
type Commit struct {
	Parts  []Part
	Blocks []Block // Number is filled in
	Meta   []KV
	// Policies are those of streams that are new or have another one now.
	Policies []StreamPolicy
	// Settle names losses whose gap records are in this commit.
	Settle []uint64
	// Rotate starts a new segment after the commit. Every stream that has open
	// parts must be sealed in this commit or before, and Parts must be empty.
	Rotate bool
}

// Cause says why samples were lost.
type Cause string

// The causes of a loss that the spool itself can see.
const (
	CauseEvicted  Cause = "evicted" // the size bound, policy drop_oldest
	CauseCorrupt  Cause = "corrupt"
	CauseRejected Cause = "rejected" // a dead letter that an operator dropped
)

// Loss is one declared loss. It stays in the spool until a commit settles it.
type Loss struct {
	ID     uint64
	Stream uint32
	// Sinks that had not acknowledged; empty where it was lost to all.
	Sinks   []string
	FromSeq uint64 // sequences of the sealed blocks lost; 0, 0 for open parts
	ToSeq   uint64
	First   int64 // times of the first and last sample lost, ns; 0 where unknown
	Last    int64
	Count   uint64 // samples; meaningless where Unknown
	Unknown bool
	// Earlier says that the samples are of an epoch before the spool's: FromSeq
	// and ToSeq do not count in this one.
	Earlier bool `json:",omitempty"`
	Cause   Cause
	At      time.Time
}
