// Package feeds is the contract between the mirror and the places where
// results of the cloud wait for it. A feed only ever calls out; nothing
// listens. Implementations are one folder each and are listed in feeds/all.
package feeds

import (
	"context"
	"log/slog"

	"millrace/internal/clock"
	"millrace/uploader"
)

// Kind describes one kind of feed to the gateway. Implementations hold no state.
type Kind interface {
	// Type is the word that stands under `type:` of a feed.
	Type() string
	// NewConfig returns the feed's settings, filled with defaults, as a pointer
	// to a struct with yaml tags; the feed's other keys (everything but name and
	// type) are decoded into it, strictly.
	NewConfig() Config
}

// Config is a feed's settings. It has no runtime fields.
type Config interface {
	// Validate reports every fault at once, with paths relative to the feed.
	Validate() []uploader.Fault
	// Open builds the feed. It does not touch the network.
	Open(s Settings) (Feed, error)
}

// Aimed is implemented by the settings of feeds whose results the gateway itself
// makes, for one target, of what the plant's own configuration names. Nobody
// signs them: their messages are Local.
type Aimed interface {
	// Aim names the target.
	Aim() string
}

// Settings come from code, not from YAML.
type Settings struct {
	Name    string // the feed's name, unique in the gateway
	Site    string
	Gateway string
	Log     *slog.Logger
	// Clock shows the right time as far as the gateway knows it.
	Clock clock.Clock
	// Dial connects to the endpoint; a net.Dialer does where it is nil.
	Dial uploader.Dial
	// Cursor is the greatest Message.Cursor of this feed whose outcome is
	// durable, in byte order; empty at first. A feed without cursors ignores it.
	Cursor string
}

// Message is one result as it came, not yet looked at.
type Message struct {
	// Key names the message for people and for the audit log: an SQS message
	// id, a table's sort key. At most 256 bytes.
	Key string
	// Body is the result's JSON text. One that is larger than result.MaxBytes is
	// cut off there plus one byte, so that it is refused as too large and takes
	// no memory.
	Body []byte
	// Cursor is where the feed goes on after a restart once this message's
	// outcome is durable; empty where the service itself remembers.
	Cursor string
	// Local says that the gateway itself made the result, of a tag that the
	// plant's own configuration names, so that nobody signed it.
	Local bool
	// Handle is the feed's own.
	Handle any
}

// Feed brings results. Receive and Done are called from one goroutine.
type Feed interface {
	// Receive waits for messages, within a long poll of at most 20 s, and
	// returns at most 10. None is no error. An error is of a class that
	// uploader.Classify tells; the caller spaces the tries.
	Receive(ctx context.Context) ([]Message, error)
	// Done says that the outcomes of these messages are durable, so that the
	// service need not keep them. What it fails on comes again, and is known
	// then by its version.
	Done(ctx context.Context, messages []Message) error
	// Check looks whether the endpoint can be reached, exists and lets us in,
	// without taking anything.
	Check(ctx context.Context) error
	Close() error
}
