package protocols

import (
	"context"
	"errors"
	"fmt"
	"time"

	"millrace/sample"
)

// Writable is implemented by the configurations of protocols that the mirror
// can write to. Their connections implement TargetOpener.
type Writable interface {
	// NewTarget returns the settings of one target, filled with defaults, as a
	// pointer to a struct with yaml tags. The gateway decodes `write:` of the
	// target into it, strictly, without the key `to`.
	NewTarget() TargetConfig
}

// TargetConfig is what `write:` of a mirror target holds beside `to`. It has no
// runtime fields.
type TargetConfig interface {
	// Validate reports every fault at once, with paths relative to `write:`.
	// kind is that of the target's values.
	Validate(kind sample.Kind) []Fault
	// Places names all that is written, within the link, so that no two targets
	// write the same: "1/holding:100", one for each register, node or topic.
	Places() []string
}

// Located is implemented by configurations whose LinkKey also tells settings
// apart, so that two links can lead to one device.
type Located interface {
	// Location names the device, whatever the settings: what two targets write at
	// the same Place of one Location is the same.
	Location() string
}

// Described is implemented by target settings that show what the target is, as
// a server of the gateway's own does. The gateway calls Describe once it has
// decoded them, before Validate.
type Described interface {
	Describe(info TargetInfo)
}

// TargetInfo is what the mirror's configuration says of a target.
type TargetInfo struct {
	Name string // unique in the gateway
	Kind sample.Kind
	Unit string // may be empty
}

// TargetOpener is implemented by connections whose configuration is Writable.
type TargetOpener interface {
	// OpenTarget prepares writing, without dialling. t came from NewTarget of
	// the connection's own configuration and was validated.
	OpenTarget(t TargetConfig, h Health) (Target, error)
}

// Target is one place that the mirror writes to. It is used by one goroutine
// at a time. Its errors are or wrap *WriteError where a write is concerned.
type Target interface {
	// Prepare returns v as the device will hold it: rounded to a float32, say.
	// It reads the type and the access rights first where the device tells them,
	// and writes nothing. A value that does not fit is Unsuited.
	Prepare(ctx context.Context, v sample.Value) (sample.Value, error)
	// Write returns once the device has confirmed. It is never repeated by the
	// target itself once anything may have been carried out.
	Write(ctx context.Context, c Command) error
	// Read returns what stands there now.
	Read(ctx context.Context) (Reading, error)
	// Tell writes what stands beside the value, where the target has a place for
	// it: whether the value may be used, and the heartbeat. It leaves the value.
	Tell(ctx context.Context, s State) error
	Close() error
}

// Restorer is implemented by targets that live in the gateway itself, such as
// a register of its own Modbus server, and so are empty after a restart.
type Restorer interface {
	// Restore shows again what was last written, while it is valid.
	Restore(c Command)
}

// Command is a value on its way to a target, with what belongs to it.
type Command struct {
	Value   sample.Value
	Quality sample.Quality
	// Time is when the value was computed.
	Time time.Time
	// Version only rises, for one target.
	Version uint64
	// ValidUntil is when the value must not be used any more.
	ValidUntil time.Time
}

// State is what the SCADA side is told beside the value.
type State struct {
	// Valid says that the value may be used. While it is false the target reads
	// as Bad, or its validity as 0.
	Valid bool
	// Heartbeat counts up, and from 65535 to 0, while the mirror lives.
	Heartbeat uint16
}

// Reading is what stands at a place now.
type Reading struct {
	Value   sample.Value
	Quality sample.Quality
	// Time is when it was read or taken, SourceTime the device's own or zero.
	Time       time.Time
	SourceTime time.Time
	// Version is that of the last Command, where the target keeps it; else 0.
	Version uint64
}

// WriteOutcome says what is known of a write that failed.
type WriteOutcome uint8

// The outcomes of a write that failed.
const (
	// Unknown: it may have been carried out, and must be read back.
	Unknown WriteOutcome = iota
	// Unsuited: refused before the wire, since type, range or rights at the
	// device do not take it. Trying again is useless.
	Unsuited
	// Unsent: the device could not be reached, and nothing was sent.
	Unsent
	// Rejected: the device has answered that it did not carry it out.
	Rejected
)

// String names the outcome in one word.
func (o WriteOutcome) String() string {
	switch o {
	case Unsuited:
		return "unsuited"
	case Unsent:
		return "unsent"
	case Rejected:
		return "rejected"
	case Unknown:
	}
	return "unknown"
}

// WriteError is a failed write, with what is known of it.
type WriteError struct {
	Outcome WriteOutcome
	Err     error // what failed, on which object, why, and what to do next
}

// Error implements error.
func (e *WriteError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *WriteError) Unwrap() error { return e.Err }

// OutcomeOf returns what is known of a write that failed with err: Unknown
// where the error does not say it.
func OutcomeOf(err error) WriteOutcome {
	var w *WriteError
	if errors.As(err, &w) {
		return w.Outcome
	}
	return Unknown
}

// Unsuitedf makes an Unsuited error.
func Unsuitedf(format string, args ...any) error {
	return &WriteError{Outcome: Unsuited, Err: fmt.Errorf(format, args...)}
}

// Server is implemented by connections that are servers of the gateway's own:
// what SCADA systems read from. Their targets are what the server shows.
type Server interface {
	Connection
	TargetOpener
	// Show has the server show live tags beside its targets: tags as configured
	// and validated, each with its address on the server. latest returns the
	// newest reading of a tag, already Bad where it is too old, and false before
	// the first; it is cheap and safe for concurrent use. Show is called once,
	// before Serve.
	Show(tags []Tag, latest func(tag string) (Reading, bool)) error
	// Serve listens until ctx is done and then returns nil, with every
	// connection closed. An address that is taken is an error.
	Serve(ctx context.Context, h Health) error
}

// Sourceless is implemented by the configurations of protocols that have no
// source: their connections return ErrNoSource. They stand under
// `mirror.devices:` and never under `sources:`.
type Sourceless interface {
	// Serves says that the connections are Servers, which show live tags too.
	Serves() bool
}

// ErrNoSource is returned by OpenSource of protocols that only serve or write.
var ErrNoSource = errors.New("this protocol has no source")
