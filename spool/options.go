package spool

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os/exec"
	"time"
)

// Sizes of segments, in bytes.
const (
	DefaultSegmentBytes = 64 << 20
	// MinSegmentBytes keeps a segment larger than what a transaction writes
	// besides data.
	MinSegmentBytes = 256 << 10
	// segmentShare is how many segments the bound must have room for: the
	// oldest is evicted whole, and the tail may grow to twice its size.
	segmentShare = 4
	// DefaultMaxBytes is the bound over all files.
	DefaultMaxBytes = 1 << 30
)

// NoStream is the stream of a loss whose stream is not known.
const NoStream = 1<<31 - 1

// Clock tells the time.
type Clock interface {
	Now() time.Time
}

// Options say how a spool is opened.
type Options struct {
	// Dir is the spool's directory. It is created where it does not exist.
	Dir string
	// MaxBytes bounds the sizes of all files together; DefaultMaxBytes where 0.
	MaxBytes int64
	// SegmentBytes is the size at which the tail asks for rotation; where 0,
	// DefaultSegmentBytes. It is lowered to a quarter of MaxBytes, so that the
	// bound holds while a tail grows to its largest.
	SegmentBytes int64
	// Sinks names who must acknowledge a block before it may leave.
	Sinks []string
	Log   *slog.Logger
	Clock Clock
	// Probe makes the command that runs ProbeMain with args in a process of its
	// own, which looks at a file before this one maps it. The command must end
	// when ctx does. Where it is nil, files are looked at in this process.
	Probe func(ctx context.Context, args ...string) *exec.Cmd
}

func (o *Options) complete() error {
	if o.Dir == "" {
		return errors.New("spool: no directory is given")
	}
	if o.Log == nil || o.Clock == nil {
		return errors.New("spool: a logger and a clock are needed")
	}
	if len(o.Sinks) == 0 {
		return fmt.Errorf("spool %s: no sink is named: a block would never leave", o.Dir)
	}
	if o.MaxBytes == 0 {
		o.MaxBytes = DefaultMaxBytes
	}
	if least := int64(segmentShare * MinSegmentBytes); o.MaxBytes < least {
		return fmt.Errorf("spool %s: a bound of %d bytes is too small: give it %d or more", o.Dir, o.MaxBytes, least)
	}
	if o.SegmentBytes == 0 {
		o.SegmentBytes = DefaultSegmentBytes
	}
	if o.SegmentBytes < MinSegmentBytes {
		return fmt.Errorf("spool %s: a segment of %d bytes is too small: give it %d or more", o.Dir, o.SegmentBytes, MinSegmentBytes)
	}
	o.SegmentBytes = min(o.SegmentBytes, o.MaxBytes/segmentShare)
	return nil
}

// largestCommit is what one transaction may take, in bytes: one and a half times
// the largest segment that the bound allows, however small segments are. The
// tail grows as far as such a commit takes it.
func (o *Options) largestCommit() int64 {
	return min(o.MaxBytes/segmentShare*3/2, maxFile/2)
}

// tailLimit is how far the tail grows with ordinary commits, in bytes.
func (o *Options) tailLimit() int64 { return min(2*o.SegmentBytes, maxFile) }

// growthStep is by how much the tail's file grows at once, in bytes: large
// enough that few commits pay for a growth, small beside the bound.
func (o *Options) growthStep() int64 {
	return min(max(o.SegmentBytes/32, 64<<10), 1<<20)
}

// State is what a spool held when it was opened.
type State struct {
	Epoch uint64
	// Created is set where the epoch is new: the spool was empty, or its state
	// was beyond reading. Meta, Parts and LastSeq are empty then.
	Created bool
	Meta    []KV
	// Parts are those that no block has superseded, in the order of their
	// commits. Their Data is the caller's.
	Parts []Part
	// LastSeq is the highest sequence of each stream's blocks in this epoch.
	LastSeq map[uint32]uint64
	Losses  []Loss // unsettled, by rising ID
	// Policies are those of the streams that have another one than DropOldest.
	Policies map[uint32]Policy
}
