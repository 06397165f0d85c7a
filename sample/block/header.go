package block

import (
	"fmt"

	"millrace/sample"
)

// ClockState says how far the gateway's wall clock could be trusted while a
// block's samples were taken.
type ClockState uint8

// The states of the gateway's clock. The numbers are part of the format.
const (
	ClockUnknown  ClockState = iota // the kernel does not say
	ClockSynced                     // disciplined by NTP, PTP or the like
	ClockFree                       // never disciplined since the boot, or not trusted to have been
	ClockHoldover                   // was disciplined since the boot; the monotonic clock carries that on
)

// String names the state in one word.
func (c ClockState) String() string {
	switch c {
	case ClockUnknown:
		return "unknown"
	case ClockSynced:
		return "synchronised"
	case ClockFree:
		return "free"
	case ClockHoldover:
		return "holdover"
	}
	return fmt.Sprintf("clock(%d)", uint8(c))
}

// Header is what a block says of itself. Site, Gateway, Stream, Epoch and Seq
// are its identity: two blocks with the same identity have the same bytes.
type Header struct {
	Site    string
	Gateway string
	Stream  string // the stream's name, for example "s0001"
	Epoch   uint64 // 64 random bits, redrawn when a spool is created, salvaged or restored
	Seq     uint64 // of the stream in this epoch, from 1, gapless

	Count int   // samples in the block
	First int64 // earliest primary time of its samples, ns since the Unix epoch
	Last  int64 // latest primary time

	// Produced and Lost count the stream's samples in this epoch: all that the
	// pipeline let through up to and including this block, and those of them
	// that were declared lost.
	Produced uint64
	Lost     uint64

	// Thinned counts those of Produced that were thinned out for want of room:
	// other samples of their tag and window stand for them. So in a stream and
	// epoch, Produced = samples in blocks + Lost + Thinned.
	Thinned uint64
	// ReplacesFrom and ReplacesTo are the sequences of the same stream and epoch,
	// both ends included, that this block stands for and that never come; 0, 0
	// where there are none. They are below Seq.
	ReplacesFrom, ReplacesTo uint64

	Boot  [16]byte   // kernel boot id while the samples were taken
	Mono  int64      // a sample's Time less the monotonic clock (CLOCK_BOOTTIME) when it was taken, ns
	Clock ClockState // trust in the wall clock
}

// Identity is the block's identity in one line, for logs and keys.
func (h *Header) Identity() string {
	return fmt.Sprintf("%s#%s#%s#%016x#%d", h.Site, h.Gateway, h.Stream, h.Epoch, h.Seq)
}

// Version is the format version whose header has room for what h says: 1, or 2
// where it speaks of thinning.
func (h *Header) Version() byte {
	if h.Thinned != 0 || h.ReplacesFrom != 0 || h.ReplacesTo != 0 {
		return versionThinned
	}
	return version
}

// checkReplaced says what is wrong with the sequences that a block replaces.
func (h *Header) checkReplaced() error {
	from, to := h.ReplacesFrom, h.ReplacesTo
	if from == 0 && to == 0 || from > 0 && from <= to && to < h.Seq {
		return nil
	}
	return fmt.Errorf("a block of sequence %d cannot replace %d to %d", h.Seq, from, to)
}

// MaxDictionary bounds the distinct tags of one block.
const MaxDictionary = 1 << 16

// Column holds one tag's samples in the order in which they were taken. All
// slices are N long unless they are nil: a nil SourceTimes means that there
// was no device time, nil Strs no string, nil Quality all Good, nil Producers
// and Seqs no producer. Slices belong to the decoder and are overwritten by its
// next Decode; strings may be kept.
type Column struct {
	Tag         string
	N           int
	Times       []int64 // gateway's clock, ns
	SourceTimes []int64 // device's clock, ns, 0 where it gave none
	Kinds       []sample.Kind
	Bits        []uint64 // sample.Value.Bits of each value
	Strs        []string
	Quality     []sample.Quality
	Producers   []string
	Seqs        []uint64
}
