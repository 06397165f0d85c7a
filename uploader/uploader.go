// Package uploader is the contract between the gateway and the places that
// blocks are delivered to (sinks), and the loop that delivers them.
package uploader

import (
	"context"
	"log/slog"
	"net"
	"time"

	"millrace/internal/clock"
	"millrace/sample/block"
)

// Kind describes one kind of sink to the gateway. Implementations are listed
// in uploader/all; they hold no state.
type Kind interface {
	// Type is the word that stands under `type:` of a sink.
	Type() string
	// NewConfig returns the sink's settings, filled with defaults, as a pointer
	// to a struct with yaml tags; the sink's other keys (everything but name
	// and type) are decoded into it, strictly.
	NewConfig() Config
}

// Config is a sink's settings. It has no runtime fields.
type Config interface {
	// Validate reports every fault at once, with paths relative to the sink.
	Validate() []Fault
	// Open builds the sink. It does not touch the network: an endpoint that is
	// away, denied or missing is found by sending, and held.
	Open(s Settings) (Sink, error)
}

// Fault is one thing that is wrong with a configuration.
type Fault struct {
	Path    string // where, relative to the sink: "queue_url"
	Problem string
	Hint    string // what to do next
}

// Settings come from code, not from YAML.
type Settings struct {
	Name    string // the sink's name, unique in the gateway
	Site    string
	Gateway string
	// StateDir is where a relative path of the sink's settings starts.
	StateDir string
	Log      *slog.Logger
	Clock    clock.Clock
	// SampleClock shows the time that samples get, which is right also while the
	// wall clock is not; Clock where it is nil.
	SampleClock clock.Clock
	// Dial connects a sink to its endpoint; a net.Dialer does where it is nil.
	Dial Dial
}

// Dial is net.Dialer's DialContext, or what stands in for it.
type Dial func(ctx context.Context, network, address string) (net.Conn, error)

// Block is one sealed block on its way to a sink. Data never changes.
type Block struct {
	Number uint64 // the spool's number, rising, unique in one spool
	Header block.Header
	Data   []byte
}

// Limits bound one request of a sink.
type Limits struct {
	MaxBlocks int // per request, at least 1
	MaxBytes  int // sum of the blocks' sizes as this sink counts them
	// Size returns how many bytes of MaxBytes a block takes up, encoding and
	// attributes counted.
	Size func(b *Block) int
	// Concurrency is how many requests may be under way at once, at least 1.
	Concurrency int
	// OnePlace says that all blocks go to the same place, so that what holds one
	// holds all. Otherwise a hold may concern one table of several.
	OnePlace bool
}

// Sink delivers blocks to one place. Send may be called from as many
// goroutines as Limits.Concurrency says.
type Sink interface {
	Limits() Limits
	// Send tries once, without retries of its own, within ctx's deadline. It
	// returns one outcome per block, in their order: nil only where the
	// endpoint has positively confirmed that it holds the block; else an error,
	// which Classify can tell the class of. A failure of the whole request is
	// the same error for every block.
	Send(ctx context.Context, blocks []Block) []error
	// Check looks whether the endpoint can be reached, exists and lets us in,
	// without delivering anything.
	Check(ctx context.Context) error
	Close() error
}

// Health is told how a sink fares; see protocols.Health.
type Health interface {
	Beat()
	Up()
	Down(err error)
}

// Queue is where the blocks come from: the spool, seen from one sink.
type Queue interface {
	// Read returns blocks that this sink has not yet acknowledged, with numbers
	// above after, in rising order, at most maxBlocks and, beyond the first,
	// at most maxBytes of data. An empty result means that there is none now.
	Read(after uint64, maxBlocks, maxBytes int) ([]Block, error)
	// Ack says that the sink holds these blocks. It does not block on the disk.
	Ack(numbers ...uint64)
	// Bury moves a block that the sink refused for good to the dead letters.
	Bury(number uint64, reason string) error
	// Next returns the number that the next block will have.
	Next() uint64
	// Ready returns a channel that is closed when blocks are added after this call.
	Ready() <-chan struct{}
}

// DefaultTimeout bounds one request.
const DefaultTimeout = 30 * time.Second
