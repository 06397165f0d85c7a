package connect

import (
	"context"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"strings"
	"syscall"

	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

// Class says what an error of AWS asks for.
type Class int

// The classes.
const (
	// Transient errors pass by themselves: no connection, a timeout, HTTP 500.
	Transient Class = iota
	// Throttled: slower.
	Throttled
	// Held errors need somebody: denied access, expired credentials, a clock that
	// is off. What nobody has classified is one of them.
	Held
	// Missing: the queue, table or bucket does not exist.
	Missing
	// Refused: the request's own contents are at fault.
	Refused
)

var classes = map[string]Class{
	"Throttling": Throttled, "ThrottlingException": Throttled, "ThrottledException": Throttled, "RequestThrottled": Throttled,
	"RequestThrottledException": Throttled, "RequestLimitExceeded": Throttled, "TooManyRequestsException": Throttled, "SlowDown": Throttled,
	"LimitExceededException": Throttled, "ProvisionedThroughputExceededException": Throttled, "OverLimit": Throttled, "KmsThrottled": Throttled,
	"ActiveStatementsExceededException": Throttled, "ActiveSessionsExceededException": Throttled,

	"QueueDoesNotExist": Missing, "ResourceNotFoundException": Missing,
	"TableNotFoundException": Missing, "NoSuchBucket": Missing, "NoSuchKey": Missing, "NotFound": Missing,

	"ValidationException": Refused, "ValidationError": Refused, "SerializationException": Refused, "ItemCollectionSizeLimitExceededException": Refused,
	"InvalidMessageContents": Refused, "InvalidParameterValue": Refused, "InvalidAttributeValue": Refused, "BatchRequestTooLong": Refused,

	"InternalError": Transient, "InternalFailure": Transient, "InternalServerError": Transient, "InternalServerException": Transient, "DatabaseConnectionException": Transient, "ServiceUnavailable": Transient,
	"RequestTimeout": Transient, "RequestTimeoutException": Transient, "ResourceInUseException": Transient,
}

// hints say what an operator does next, by the code.
var hints = map[string]string{
	"AccessDenied":                "allow the action to these credentials (docs/cloud.md lists the actions)",
	"AccessDeniedException":       "allow the action to these credentials (docs/cloud.md lists the actions)",
	"InvalidClientTokenId":        "check the access key",
	"UnrecognizedClientException": "check the access key",
	"ExpiredToken":                "renew the session token",
	"ExpiredTokenException":       "renew the session token",
	"InvalidSignatureException":   "check the secret access key, and this machine's clock",
	"SignatureDoesNotMatch":       "check the secret access key, and this machine's clock",
	"QueueDoesNotExist":           "create the queue, or correct its URL",
	"ResourceNotFoundException":   "make the table (`millrace-cloud tables ensure`), or correct --prefix and --region",
	"NoSuchBucket":                "create the bucket, or correct its name",
}

// Code returns the bare code of an answer of AWS, "" where err is none.
func Code(err error) string {
	var api smithy.APIError
	if !errors.As(err, &api) {
		return ""
	}
	return bare(api.ErrorCode())
}

// bare takes the prefixes from a code: those of SQS's older query protocol
// ("AWS.SimpleQueueService.NonExistentQueue") and of a shape's full name
// ("com.amazonaws.sqs#QueueDoesNotExist").
func bare(code string) string {
	code = code[strings.LastIndexByte(code, '#')+1:]
	code = strings.TrimPrefix(code, "AWS.SimpleQueueService.")
	if code == "NonExistentQueue" {
		return "QueueDoesNotExist"
	}
	return code
}

// ClassOf classifies an error by its code and its HTTP status, never by text.
func ClassOf(err error) Class {
	if c, known := classes[Code(err)]; known {
		return c
	}
	var answer *smithyhttp.ResponseError
	if errors.As(err, &answer) && answer.Response != nil {
		switch status := answer.HTTPStatusCode(); {
		case status == http.StatusTooManyRequests:
			return Throttled
		case status >= 400 && status < 500 && status != http.StatusRequestTimeout:
			return Held
		}
		return Transient
	}
	if Code(err) != "" {
		return Held
	}
	return Transient
}

// unreached says what an operator does about a request that was not answered.
func unreached(err error) string {
	var name *net.DNSError
	var unknown x509.UnknownAuthorityError
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "nothing listens there: start it, or correct the endpoint"
	case errors.As(err, &name):
		return "check region and endpoint, and this machine's DNS"
	case errors.As(err, &unknown):
		return "add the authority of that certificate to this machine's, or correct the endpoint"
	}
	return "check the network between this machine and AWS, and the endpoint where one is given"
}

// Brief is an error without the SDK's own words about it, which hold a request's
// number and so differ each time, and with what to do next.
func Brief(err error) string {
	var api smithy.APIError
	if errors.As(err, &api) {
		text := Code(err) + ": " + api.ErrorMessage()
		if hint := hints[Code(err)]; hint != "" {
			text += "; " + hint
		}
		return text
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return "no answer in time; check the network between this machine and AWS"
	}
	var send *smithyhttp.RequestSendError
	if errors.As(err, &send) {
		return send.Err.Error() + "; " + unreached(send.Err)
	}
	var op, role *smithy.OperationError
	if errors.As(err, &op) {
		// The instance's role, by package imds, is the last that is asked for credentials.
		if errors.As(op.Err, &role) && role.ServiceID == "ec2imds" {
			return "there are no AWS credentials here; give AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment, a profile in ~/.aws, or the machine a role (the last one asked said: " + role.Err.Error() + ")"
		}
		return op.Err.Error()
	}
	return err.Error()
}
