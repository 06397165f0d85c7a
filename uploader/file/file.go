// Package file delivers blocks to files in a directory, which are rotated by
// size and age. docs/file-sink.md specifies the files.
package file

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"millrace/internal/bytesize"
	"millrace/internal/clock"
	"millrace/sample/block"
	"millrace/uploader"
)

// The formats of a file.
const (
	FormatBlock = "block" // the blocks' bytes, each with length and checksum
	FormatJSONL = "jsonl" // one JSON object a line for each sample
)

const (
	maxBlocks = 64      // of one Send, which costs one fsync
	maxBytes  = 1 << 20 // of one Send
)

// Kind is the kind of sink `type: file`.
type Kind struct{}

// Type implements uploader.Kind.
func (Kind) Type() string { return "file" }

// NewConfig implements uploader.Kind.
func (Kind) NewConfig() uploader.Config {
	return &Config{Format: FormatBlock, RotateSize: 64 * bytesize.MiB, RotateAge: time.Hour}
}

// Config is a sink's settings.
type Config struct {
	// Dir is where the files go; it is created. A relative one starts at the
	// gateway's state directory.
	Dir string `yaml:"dir"`
	// Format is block (the default) or jsonl.
	Format string `yaml:"format"`
	// RotateSize and RotateAge end a file, whichever comes first. The age is
	// looked at when something is written.
	RotateSize bytesize.Size `yaml:"rotate_size"`
	RotateAge  time.Duration `yaml:"rotate_age"`
	// MaxFiles is how many finished files are kept; the oldest are deleted. 0,
	// the default, keeps all.
	MaxFiles int `yaml:"max_files"`
}

// Validate implements uploader.Config.
func (c *Config) Validate() []uploader.Fault {
	var faults []uploader.Fault
	if c.Dir == "" {
		faults = append(faults, uploader.Fault{Path: "dir", Problem: "it is missing", Hint: "name a directory, for example out"})
	}
	if c.Format != FormatBlock && c.Format != FormatJSONL {
		faults = append(faults, uploader.Fault{Path: "format", Problem: fmt.Sprintf("%q is no format", c.Format), Hint: "write block or jsonl"})
	}
	if c.RotateSize < 64*bytesize.KiB || c.RotateSize > 16*bytesize.GiB {
		faults = append(faults, uploader.Fault{Path: "rotate_size", Problem: fmt.Sprintf("%s is out of range", c.RotateSize), Hint: "write 64KiB to 16GiB"})
	}
	if c.RotateAge < time.Second {
		faults = append(faults, uploader.Fault{Path: "rotate_age", Problem: fmt.Sprintf("%s is too short", c.RotateAge), Hint: "write 1s or more, for example 1h"})
	}
	if c.MaxFiles < 0 {
		faults = append(faults, uploader.Fault{Path: "max_files", Problem: fmt.Sprintf("%d is negative", c.MaxFiles), Hint: "write 0 to keep every file"})
	}
	return faults
}

// Open implements uploader.Config. The directory is opened by the first Send or
// Check, so that one that is missing or not mounted yet is held.
func (c *Config) Open(s uploader.Settings) (uploader.Sink, error) {
	out := &sink{conf: *c, dir: c.Dir, clock: s.Clock, log: s.Log, fs: osFS{}}
	if !filepath.IsAbs(out.dir) {
		out.dir = filepath.Join(s.StateDir, out.dir)
	}
	if out.clock == nil {
		out.clock = clock.System{}
	}
	if out.log == nil {
		out.log = slog.Default()
	}
	return out, nil
}

// sink writes one file at a time. After a failed write or fsync the file is cut
// back to what is known to be on the disk, and the next Send starts afresh.
type sink struct {
	conf  Config
	dir   string
	clock clock.Clock
	log   *slog.Logger
	fs    fileSystem

	mu      sync.Mutex
	closed  bool
	lock    lockFile
	cur     *part  // the file that is being written, nil where there is none
	seq     uint64 // of the last file
	buf     []byte
	decoder *block.Decoder // for JSON Lines
}

// Limits implements uploader.Sink.
func (s *sink) Limits() uploader.Limits {
	return uploader.Limits{MaxBlocks: maxBlocks, MaxBytes: maxBytes, Concurrency: 1, OnePlace: true,
		Size: func(b *uploader.Block) int { return len(b.Data) + recordHeader }}
}

// Send implements uploader.Sink. All blocks are written, then made durable by
// one fsync, then confirmed.
func (s *sink) Send(ctx context.Context, blocks []uploader.Block) []error {
	s.mu.Lock()
	defer s.mu.Unlock()
	outcomes := make([]error, len(blocks))
	err := ctx.Err()
	if err == nil {
		err = s.prepare()
	}
	if err != nil {
		return s.all(outcomes, err)
	}
	for i := range blocks {
		if fault := s.write(blocks[i].Data); fault == nil {
			continue
		} else if fault.refused {
			outcomes[i] = &uploader.SendError{Class: uploader.Permanent, Op: "write block", Object: blocks[i].Header.Identity(), Err: fault.err}
		} else {
			s.abandon()
			return s.all(outcomes, fault.err)
		}
	}
	if err := s.cur.commit(); err != nil {
		s.abandon()
		return s.all(outcomes, err)
	}
	if s.cur.size >= int64(s.conf.RotateSize) {
		s.rotate()
	}
	return outcomes
}

// all gives every block that has no outcome yet the same one.
func (s *sink) all(outcomes []error, err error) []error {
	whole := s.fault(err)
	for i := range outcomes {
		if outcomes[i] == nil {
			outcomes[i] = whole
		}
	}
	return outcomes
}

// fault classifies an error of the file system.
func (s *sink) fault(err error) error {
	out := &uploader.SendError{Op: "write to", Object: s.dir, Err: err, Class: uploader.Hold}
	var locked *lockedError
	switch {
	case errors.Is(err, context.Canceled):
		out.Class = uploader.Shutdown
	case errors.Is(err, context.DeadlineExceeded):
		out.Class = uploader.Transient
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		out.Hint = "make room on the disk, or set max_files"
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		out.Hint = "give the daemon's user the right to write there; the systemd unit needs ReadWritePaths= for it too"
	case errors.Is(err, syscall.EROFS):
		out.Hint = "mount the file system writable; the systemd unit needs ReadWritePaths= for it too"
	case errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.EEXIST):
		out.Hint = "name a directory that is not a file"
	case errors.As(err, &locked):
		out.Hint = "give each sink a directory of its own, and run one daemon"
	case errors.Is(err, errClosed):
		out.Class = uploader.Shutdown
	default:
		out.Class, out.Hint = uploader.Transient, "look at the kernel's messages on the disk (dmesg)"
	}
	return out
}

// Check implements uploader.Sink: it opens the directory as Send would.
func (s *sink) Check(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return s.fault(err)
	}
	if err := s.prepare(); err != nil {
		return s.fault(err)
	}
	return nil
}

// Close implements uploader.Sink. The file that is being written gets its final
// name.
func (s *sink) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	var err error
	if s.cur != nil {
		err = s.cur.finish()
		s.cur = nil
	}
	if s.lock != nil {
		err = errors.Join(err, s.lock.Close())
	}
	if err != nil {
		return fmt.Errorf("close %s: %w", s.dir, err)
	}
	return nil
}

var errClosed = errors.New("the sink is closed")
