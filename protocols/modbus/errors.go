package modbus

import (
	"context"
	"errors"
	"fmt"
	"strings"

	mb "github.com/goburrow/modbus"

	"millrace/sample"
)

// exceptionOf returns the exception code of err, 0 where it is none.
func exceptionOf(err error) byte {
	var e *mb.ModbusError
	if errors.As(err, &e) {
		return e.ExceptionCode
	}
	return 0
}

// unitAway reports whether err is a gateway's word that the unit behind it
// does not answer.
func unitAway(err error) bool {
	code := exceptionOf(err)
	return code == mb.ExceptionCodeGatewayPathUnavailable || code == mb.ExceptionCodeGatewayTargetDeviceFailedToRespond
}

// isAway reports whether err means that the device could not be reached, as
// opposed to an answer that is no value.
func isAway(err error) bool {
	var (
		timeout *timeoutError
		lost    *lostError
	)
	return errors.As(err, &timeout) || errors.As(err, &lost) || unitAway(err)
}

// splits reports whether err may be the fault of one register among those
// that were read together.
func splits(err error) bool {
	code := exceptionOf(err)
	return code == mb.ExceptionCodeIllegalDataAddress || code == mb.ExceptionCodeIllegalDataValue
}

// qualityOf maps a failed read to the quality of its samples.
func qualityOf(err error) sample.Quality {
	var timeout *timeoutError
	switch code := exceptionOf(err); {
	case code == mb.ExceptionCodeIllegalFunction, code == mb.ExceptionCodeIllegalDataAddress, code == mb.ExceptionCodeIllegalDataValue:
		return sample.BadConfigurationError
	case unitAway(err):
		return sample.BadNoCommunication
	case code != 0:
		return sample.BadDeviceFailure
	case errors.As(err, &timeout):
		return sample.BadTimeout
	}
	return sample.BadCommunicationError
}

// explain says what failed and what to do next: object is what was read or
// written, such as "read slave 1 holding 0..19".
func explain(link, object string, err error) error {
	text, hint := err.Error(), ""
	var (
		timeout *timeoutError
		lost    *lostError
		reply   *replyError
	)
	switch code := exceptionOf(err); {
	case code != 0:
		text, hint = exceptionText(code)
	case errors.As(err, &timeout):
		hint = "check that the device is powered and its slave number, then raise connection.timeout"
	case errors.As(err, &lost):
		text = strings.Replace(text, lost.Error(), lossText(lost.cause), 1)
		hint = "check the device, its address and port, the network, and whether it allows another connection"
	case errors.As(err, &reply):
		hint = "the device breaks the protocol: try a smaller connection.max_registers"
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		hint = "it was stopped before the device answered"
	}
	msg := fmt.Sprintf("%s: %s: %s", link, object, text)
	if hint != "" {
		msg += "; " + hint
	}
	return &explained{msg, err}
}

// explained is an operator's message that keeps its cause.
type explained struct {
	msg   string
	cause error
}

func (e *explained) Error() string { return e.msg }
func (e *explained) Unwrap() error { return e.cause }

// exceptionText words an exception code (V1.1b3, 7).
func exceptionText(code byte) (text, hint string) {
	switch code {
	case mb.ExceptionCodeIllegalFunction:
		return "exception 1, the device does not have this table or function", "check the table in the device's manual: holding and input are often mixed up"
	case mb.ExceptionCodeIllegalDataAddress:
		return "exception 2, the device has no such address", "check the offset and connection.address_base against the device's register list"
	case mb.ExceptionCodeIllegalDataValue:
		return "exception 3, the device refuses this number of registers or this value", "check the type, or lower connection.max_registers"
	case mb.ExceptionCodeServerDeviceFailure:
		return "exception 4, the device failed", "look at the device's own fault display"
	case mb.ExceptionCodeAcknowledge:
		return "exception 5, the device needs longer", "lower the scan rate"
	case mb.ExceptionCodeServerDeviceBusy:
		return "exception 6, the device is busy", "set connection.pause or lower the scan rate"
	case mb.ExceptionCodeMemoryParityError:
		return "exception 8, the device reports a memory fault", "have the device serviced"
	case mb.ExceptionCodeGatewayPathUnavailable:
		return "exception 10, the gateway has no path to this slave", "check the slave number and the gateway's routing"
	case mb.ExceptionCodeGatewayTargetDeviceFailedToRespond:
		return "exception 11, the slave behind the gateway does not answer", "check the slave number, its power and the serial wiring"
	}
	return fmt.Sprintf("exception %d", code), "look it up in the device's manual"
}
