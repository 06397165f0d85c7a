// Package protocols is the contract between the gateway and the field
// protocols: how a protocol's configuration is made and checked, how a
// connection is opened, and how its sources hand samples over.
//
// A Connection owns one physical link. Everything that uses the link, sources
// and targets alike, is opened from that one object, which serialises the
// traffic as the link needs it.
package protocols

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"millrace/internal/clock"
	"millrace/sample"
)

// Protocol describes one protocol to the gateway. Implementations are listed
// in protocols/all; they hold no state.
type Protocol interface {
	// Type is the word that stands under `type:` of a source.
	Type() string
	// NewConfig returns the settings of a connection, filled with defaults,
	// as a pointer to a struct with yaml tags. The gateway decodes
	// `connection:` into it, strictly.
	NewConfig() Config
}

// Config is what `connection:` holds. It has no runtime fields.
type Config interface {
	// Validate reports every fault of the connection's settings and of the
	// source's tags at once. Paths are relative to the source:
	// "connection.url", "tags[3].address".
	Validate(src *SourceConfig) []Fault
	// LinkKey names the physical link, for example "modbus tcp://10.0.0.5:502".
	// Sources with the same key share one Connection.
	LinkKey() string
	// Open builds the connection object. It does not dial: a device that is
	// away is not a failure to start.
	Open(s Settings) (Connection, error)
}

// Fault is one thing that is wrong with a configuration.
type Fault struct {
	Path    string // where, relative to the source or sink: "tags[3].address"
	Problem string // what is wrong: `address "40001x": not a number`
	Hint    string // what to do next: "write table:offset, for example holding:0"
}

// Settings come from code, not from YAML.
type Settings struct {
	Site string
	Log  *slog.Logger // carries the connection's name already
	// Clock stamps samples. It is never stepped, and so may differ from the wall
	// clock, which clock.WallOf tells; the gateway puts the samples' times right.
	Clock clock.Clock
}

// SourceConfig is what the gateway knows of one source. It is read-only for
// the protocol and outlives the source.
type SourceConfig struct {
	Name     string        // unique in the gateway
	Device   string        // default device part of the tag names
	ScanRate time.Duration // poll period, or publishing interval
	Tags     []Tag
	// MaxTags bounds the dynamic tags of a listening source.
	MaxTags int
}

// Tag is one configured tag of a source.
type Tag struct {
	Name    string // full name, site/device/name
	Address string // in the protocol's own syntax
	Type    string // the type on the device, in the protocol's own words; may be empty
	Length  int    // of a string, in the protocol's units; 0 where it has no meaning
	Order   string // byte and word order of a register value; empty is the connection's
	// ScanRate is the tag's own poll period, 0 for the source's.
	ScanRate time.Duration
	// Scaled is true where the pipeline turns the value into a float64.
	Scaled bool
	// Unit and Description are what the configuration says of it; may be empty.
	Unit        string
	Description string
}

// Spanned is implemented by configurations that know how wide a tag's values are
// on the device.
type Spanned interface {
	// Highest returns the largest reading that a tag's type can hold, before any
	// scaling; 0 where the type is no whole number, or is not known.
	Highest(t *Tag) float64
}

// Connection owns one physical link and is safe for concurrent use. Close ends
// what is still running on it; it is called after every source has returned.
type Connection interface {
	// OpenSource prepares src without dialling. Health is told of the source's
	// state and heartbeat from its Run.
	OpenSource(src *SourceConfig, h Health) (Source, error)
	Close() error
}

// Checker is implemented by connections that can be tried beforehand, by
// `millrace check --connect`: it dials, verifies that every address of src can
// be read, and returns one error per thing that cannot.
type Checker interface {
	Check(ctx context.Context, src *SourceConfig) []error
}

// Source reads from a device until it is told to stop.
type Source interface {
	// Run emits samples until ctx is done, then returns nil. It finishes a
	// request that is on the wire, within the request's own time limit, and
	// emits what it brought: a value that left the device is not thrown away.
	// Emitting goes on to work after ctx is done for that purpose.
	//
	// An unreachable device is no reason to return: Run reports it to Health,
	// emits Bad samples and tries again with a bounded back-off, calling
	// Health.Beat meanwhile. Run returns an error only for what it cannot
	// mend by itself; the gateway then starts it again with a back-off.
	Run(ctx context.Context, emit Emit) error
}

// Emit hands a batch of samples to the gateway. The slice belongs to the
// source again when Emit returns; the gateway keeps no reference to it.
//
// With done == nil (polled sources) Emit returns when the samples are in the
// open batch; what a power cut can take then is bounded by the commit
// interval. It blocks while the spool cannot take more.
//
// With done != nil (acknowledged sources) Emit likewise returns early, and
// done is called exactly once, from another goroutine: with nil once all
// samples of the batch are durable, or with an error that is or wraps
// *RefusedError when none of them was taken. done must not block.
//
// Emit itself returns an error, and then done is not called, only when the
// whole batch was refused at once (*RefusedError), or when waiting ended
// because ctx did.
type Emit func(ctx context.Context, batch []sample.Sample, done func(error)) error

// RefusedError says that a batch was not taken, so that an acknowledged source
// must not acknowledge it.
type RefusedError struct {
	Reason string
	// RetryAfter is when to try again; 0 means that trying again is useless
	// (a bad tag name, too many tags).
	RetryAfter time.Duration
}

// Error implements error.
func (e *RefusedError) Error() string {
	if e.RetryAfter > 0 {
		return fmt.Sprintf("samples refused: %s; try again in %s", e.Reason, e.RetryAfter)
	}
	return "samples refused: " + e.Reason
}

// Health is told how a source or target fares. Its methods are cheap and safe
// for concurrent use; calling Up or Down again with no change logs nothing.
type Health interface {
	// Beat says that the loop iterates or waits within a bounded back-off. A
	// loop that has not beaten for a minute beyond its scan rate is stuck, and
	// the watchdog restarts the daemon.
	Beat()
	// Up says that the device answers.
	Up()
	// Down says that it does not, with an operator's error: what failed, on
	// which object, why, and what to do next, on one line. Some of a device's
	// tags failing is Down too, named "partly".
	Down(err error)
}
