package uploader

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Class says what the loop does after a failed delivery.
type Class uint8

// The classes of errors.
const (
	// Transient is what may pass by itself: the network, a server's own fault,
	// and everything that nobody has classified. Tried again with a back-off.
	Transient Class = iota
	// Throttled means that the endpoint asks for fewer requests. Nothing is
	// sent before RetryAfter, or a back-off where that is 0.
	Throttled
	// Hold is what an operator has to mend: a missing queue or table, denied
	// access, bad credentials, a skewed clock, a full disk. Everything is kept
	// and tried again at most a minute apart.
	Hold
	// Permanent means that this block will never be taken. It is buried.
	Permanent
	// Shutdown means that we stopped waiting for the answer.
	Shutdown
)

// String returns the class's name in lower case.
func (c Class) String() string {
	switch c {
	case Transient:
		return "transient"
	case Throttled:
		return "throttled"
	case Hold:
		return "hold"
	case Permanent:
		return "permanent"
	case Shutdown:
		return "shutdown"
	}
	return fmt.Sprintf("class(%d)", uint8(c))
}

// SendError is a failed delivery, classified by the sink.
type SendError struct {
	Class  Class
	Op     string // "send to queue"
	Object string // "https://sqs.eu-central-1.amazonaws.com/1/plant"
	Hint   string // what the operator does next; may be empty
	// RetryAfter is how long the endpoint asked us to wait; 0 where it did not.
	RetryAfter time.Duration
	Err        error // the cause
}

// Error puts operation, object, cause and hint on one line.
func (e *SendError) Error() string {
	var b strings.Builder
	b.WriteString(e.Op)
	if e.Object != "" {
		b.WriteString(" " + e.Object)
	}
	if e.Err != nil {
		b.WriteString(": " + strings.TrimSuffix(strings.Join(strings.Fields(e.Err.Error()), " "), "."))
	}
	if e.Hint != "" {
		b.WriteString("; " + e.Hint)
	}
	return b.String()
}

// Unwrap returns the cause.
func (e *SendError) Unwrap() error { return e.Err }

// Classify tells the class of an error that Send or Check returned. An error
// without a class of its own is Shutdown where a context was cancelled, else
// Transient: what is not known to be hopeless is kept.
func Classify(err error) Class {
	var se *SendError
	if errors.As(err, &se) {
		return se.Class
	}
	if errors.Is(err, context.Canceled) {
		return Shutdown
	}
	return Transient
}

// retryAfter returns the delay that the endpoint asked for, or 0.
func retryAfter(err error) time.Duration {
	var se *SendError
	if errors.As(err, &se) {
		return se.RetryAfter
	}
	return 0
}
