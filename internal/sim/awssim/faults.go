package awssim

import (
	"net/http"
	"strconv"
	"time"
)

// Faults are what goes wrong at a service. Rates are between 0 and 1, of the
// requests, or of the entries for Partial.
type Faults struct {
	// Down resets every connection, those that are open too.
	Down bool
	// Slow delays every answer; the request is carried out after the delay.
	Slow time.Duration
	// Throttled is the rate of requests refused because there are too many.
	Throttled float64
	// Unavailable is the rate of requests answered with HTTP 503.
	Unavailable float64
	// RetryAfter goes with a throttled answer, as x-amz-retry-after, and with one
	// of 503, as Retry-After in whole seconds.
	RetryAfter time.Duration
	// Failing is the rate of requests answered with HTTP 500.
	Failing float64
	// Partial is the rate of entries of a batch that fail: an SQS entry with
	// InternalError, a DynamoDB item as unprocessed.
	Partial float64
	// Refuse, where set, is asked for each message or item that could be stored,
	// and has it refused for good where it reports true: an SQS entry as its
	// sender's fault, a DynamoDB request, which names no item, as a whole.
	Refuse func(Accepted) bool
	// AnswerLost is the rate of requests that are carried out, and whose
	// connection is then cut instead of an answer.
	AnswerLost float64
	// Denied, Expired and Skewed refuse every request as one whose sender lacks
	// the right, whose session token has run out, or whose date is off.
	Denied, Expired, Skewed bool
	// Clock is how far the service's clock is ahead of ours. Beyond 15 minutes
	// it refuses our signatures, until the sender corrects its date by the
	// Date header of the answers.
	Clock time.Duration
}

// apiError is an answer that reports a failure.
type apiError struct {
	status  int
	code    string // shape name, as in "QueueDoesNotExist"
	query   string // SQS: the code of the older query protocol, where it differs
	message string
	header  http.Header
	item    item // DynamoDB: what is there where a condition does not hold, if it was asked for
}

func badRequest(code, message string) *apiError {
	return &apiError{status: http.StatusBadRequest, code: code, message: message}
}

// refusal returns the answer that a fault gives before the request is looked
// at, or nil. The codes are those of the common errors of each API reference.
func (e *endpoint) refusal(f *Faults, date string) *apiError {
	sqs := e.service == ServiceSQS
	switch {
	case f.Skewed && sqs:
		return &apiError{status: http.StatusForbidden, code: "InvalidSignatureException",
			message: "Signature expired: " + date + " is now earlier than the server's time less 15 min."}
	case f.Skewed:
		return badRequest("InvalidSignatureException", "Signature expired: "+date+" is now earlier than the server's time less 15 min.")
	case f.Expired && sqs:
		return &apiError{status: http.StatusForbidden, code: "ExpiredToken", message: "The security token included in the request is expired"}
	case f.Expired:
		return badRequest("ExpiredTokenException", "The security token included in the request is expired")
	case f.Denied && sqs:
		return &apiError{status: http.StatusForbidden, code: "AccessDenied",
			message: "User: arn:aws:iam::000000000000:user/sim is not authorized to perform the action because no identity-based policy allows it"}
	case f.Denied:
		return badRequest("AccessDeniedException", "User: arn:aws:iam::000000000000:user/sim is not authorized to perform the action because no identity-based policy allows it")
	case e.hit(f.Throttled):
		err := badRequest("ThrottlingException", "Rate of requests exceeds the allowed throughput.")
		if sqs {
			err = badRequest("RequestThrottled", "The request was denied due to request throttling.")
		}
		if f.RetryAfter > 0 {
			err.header = http.Header{"X-Amz-Retry-After": {formatMillis(f.RetryAfter)}}
		}
		return err
	case e.hit(f.Unavailable):
		err := &apiError{status: http.StatusServiceUnavailable, code: "ServiceUnavailable", message: "The request failed due to a temporary failure of the server."}
		if f.RetryAfter > 0 {
			err.header = http.Header{"Retry-After": {strconv.Itoa(int((f.RetryAfter + time.Second - 1) / time.Second))}}
		}
		return err
	case sqs && e.hit(f.Failing):
		return &apiError{status: http.StatusInternalServerError, code: "InternalFailure", message: "The request processing has failed because of an unknown error."}
	case e.hit(f.Failing):
		return &apiError{status: http.StatusInternalServerError, code: "InternalServerError", message: "Internal server error"}
	}
	return nil
}
