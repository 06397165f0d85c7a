package awsconf

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"millrace/uploader"
)

// What an operator does next.
const (
	hintDenied  = "allow the action in the IAM policy of these credentials (docs/sinks.md lists the actions)"
	hintKey     = "check the access key, and that it is active and belongs to this account and region"
	hintExpired = "renew the session token, or use credentials that renew themselves"
	hintClock   = "check the secret access key, and the gateway's clock: it must be within 15 minutes of the true time (timedatectl)"
	hintQueue   = "create the queue, or correct queue_url and region"
	hintTable   = "create the table, or set create_tables: true; or correct table_prefix and region"
	hintKMS     = "check the state and the policy of the KMS key that encrypts the queue"
	hintAddress = "correct the endpoint or the queue_url"
	hintPortal  = "look for a proxy, a firewall or a login page between the gateway and AWS"
	hintUnknown = "the code is not known to millrace: look it up in the service's API reference; if AWS does not use it, " + hintPortal
	hintSetting = "correct the sink's settings; the endpoint refuses the request as such"
)

type meaning struct {
	class uploader.Class
	hint  string
}

// codes are the error codes of SQS and DynamoDB that are no fault of a single
// block: the common errors and those of each action in the API references. Codes
// of SQS's older query protocol stand beside the newer ones.
var codes = map[string]meaning{
	"Throttling":                             {uploader.Throttled, ""},
	"ThrottlingException":                    {uploader.Throttled, ""},
	"ThrottledException":                     {uploader.Throttled, ""},
	"RequestThrottled":                       {uploader.Throttled, ""},
	"RequestThrottledException":              {uploader.Throttled, ""},
	"RequestLimitExceeded":                   {uploader.Throttled, ""},
	"TooManyRequestsException":               {uploader.Throttled, ""},
	"SlowDown":                               {uploader.Throttled, ""},
	"LimitExceededException":                 {uploader.Throttled, ""},
	"ProvisionedThroughputExceededException": {uploader.Throttled, ""},
	"OverLimit":                              {uploader.Throttled, ""},
	"KmsThrottled":                           {uploader.Throttled, ""},

	"AccessDenied":          {uploader.Hold, hintDenied},
	"AccessDeniedException": {uploader.Hold, hintDenied},
	"NotAuthorized":         {uploader.Hold, hintDenied},
	"UnauthorizedOperation": {uploader.Hold, hintDenied},
	"OptInRequired":         {uploader.Hold, hintDenied},
	"InvalidSecurity":       {uploader.Hold, hintDenied},

	"InvalidClientTokenId":                {uploader.Hold, hintKey},
	"InvalidAccessKeyId":                  {uploader.Hold, hintKey},
	"UnrecognizedClientException":         {uploader.Hold, hintKey},
	"MissingAuthenticationToken":          {uploader.Hold, hintKey},
	"MissingAuthenticationTokenException": {uploader.Hold, hintKey},
	"IncompleteSignature":                 {uploader.Hold, hintKey},
	"IncompleteSignatureException":        {uploader.Hold, hintKey},
	"AuthFailure":                         {uploader.Hold, hintKey},
	"ExpiredToken":                        {uploader.Hold, hintExpired},
	"ExpiredTokenException":               {uploader.Hold, hintExpired},
	"InvalidSignatureException":           {uploader.Hold, hintClock},
	"SignatureDoesNotMatch":               {uploader.Hold, hintClock},
	"RequestExpired":                      {uploader.Hold, hintClock},
	"RequestTimeTooSkewed":                {uploader.Hold, hintClock},

	"QueueDoesNotExist":         {uploader.Hold, hintQueue},
	"QueueDeletedRecently":      {uploader.Hold, hintQueue},
	"ResourceNotFoundException": {uploader.Hold, hintTable},
	"TableNotFoundException":    {uploader.Hold, hintTable},
	"InvalidAddress":            {uploader.Hold, hintAddress},
	"InvalidEndpointException":  {uploader.Hold, hintAddress},
	"UnsupportedOperation":      {uploader.Hold, hintSetting},
	"UnknownOperationException": {uploader.Hold, hintAddress},

	"KmsAccessDenied":    {uploader.Hold, hintKMS},
	"KmsDisabled":        {uploader.Hold, hintKMS},
	"KmsInvalidKeyUsage": {uploader.Hold, hintKMS},
	"KmsInvalidState":    {uploader.Hold, hintKMS},
	"KmsNotFound":        {uploader.Hold, hintKMS},
	"KmsOptInRequired":   {uploader.Hold, hintKMS},

	// The request's own contents. It is then for the caller to tell whether a
	// block is at fault or the settings.
	"ValidationException":                      {uploader.Permanent, ""},
	"ValidationError":                          {uploader.Permanent, ""},
	"SerializationException":                   {uploader.Permanent, ""},
	"ItemCollectionSizeLimitExceededException": {uploader.Permanent, ""},
	"InvalidMessageContents":                   {uploader.Permanent, ""},
	"InvalidParameterValue":                    {uploader.Permanent, ""},
	"InvalidParameterCombination":              {uploader.Permanent, ""},
	"InvalidAttributeName":                     {uploader.Permanent, ""},
	"InvalidAttributeValue":                    {uploader.Permanent, ""},
	"MissingParameter":                         {uploader.Permanent, ""},
	"BatchRequestTooLong":                      {uploader.Permanent, ""},
	"BatchEntryIdsNotDistinct":                 {uploader.Permanent, ""},
	"InvalidBatchEntryId":                      {uploader.Permanent, ""},
	"EmptyBatchRequest":                        {uploader.Permanent, ""},
	"TooManyEntriesInBatchRequest":             {uploader.Permanent, ""},

	"RequestTimeout":                   {uploader.Transient, ""},
	"RequestTimeoutException":          {uploader.Transient, ""},
	"InternalError":                    {uploader.Transient, ""},
	"InternalFailure":                  {uploader.Transient, ""},
	"InternalServerError":              {uploader.Transient, ""},
	"ServiceUnavailable":               {uploader.Transient, ""},
	"ResourceInUseException":           {uploader.Transient, ""},
	"TransactionInProgressException":   {uploader.Transient, ""},
	"ReplicatedWriteConflictException": {uploader.Transient, ""},
}

// lookup finds a code's meaning, with or without the prefixes of SQS's query
// protocol ("AWS.SimpleQueueService.NonExistentQueue", "KMS.DisabledException")
// and of a shape's full name ("com.amazonaws.sqs#QueueDoesNotExist").
func lookup(code string) (meaning, bool) {
	code = code[strings.LastIndexByte(code, '#')+1:]
	if m, ok := codes[code]; ok {
		return m, true
	}
	if bare, ok := strings.CutPrefix(code, "AWS.SimpleQueueService."); ok {
		if bare == "NonExistentQueue" {
			bare = "QueueDoesNotExist"
		}
		m, ok := codes[bare]
		return m, ok
	}
	if strings.HasPrefix(code, "KMS.") {
		if code == "KMS.ThrottlingException" {
			return meaning{uploader.Throttled, ""}, true
		}
		return meaning{uploader.Hold, hintKMS}, true
	}
	return meaning{}, false
}

// CodeClass classifies the error code of one entry of a batch. An unknown code
// is Permanent where the sender is at fault, else Transient.
func CodeClass(code string, senderFault bool) (class uploader.Class, hint string) {
	if m, ok := lookup(code); ok {
		return m.class, m.hint
	}
	if senderFault {
		return uploader.Permanent, ""
	}
	return uploader.Transient, ""
}

// apiFault is an answer of AWS, shortened: the SDK's own text repeats the
// request's number, which differs each time and means nothing to an operator.
type apiFault struct {
	code, message string
	err           error
}

func (e *apiFault) Error() string { return e.code + ": " + e.message }
func (e *apiFault) Unwrap() error { return e.err }

// Wrap classifies the failure of a whole request. An answer that blames the
// request's contents, with a code that SQS or DynamoDB have for that, is
// Permanent: it is then for the caller to tell whether a block is at fault or
// the settings. A refusal with any other code is a Hold.
func Wrap(op, object string, err error) *uploader.SendError {
	out := &uploader.SendError{Op: op, Object: object, Err: err}
	var creds *credentialsError
	var api smithy.APIError
	var answer *smithyhttp.ResponseError
	var syntax *json.SyntaxError
	status := 0
	if errors.As(err, &answer) && answer.Response != nil {
		status = answer.HTTPStatusCode()
		out.RetryAfter = retryAfter(answer.Response.Header)
	}
	switch {
	case errors.As(err, &creds):
		out.Class, out.Err = uploader.Hold, creds
		out.Hint = "configure credentials, or give the machine a role; see docs/sinks.md"
	case errors.As(err, &api):
		out.Err = &apiFault{api.ErrorCode(), api.ErrorMessage(), err}
		m, known := lookup(api.ErrorCode())
		switch {
		case known:
			out.Class, out.Hint = m.class, m.hint
		case status == http.StatusTooManyRequests:
			out.Class = uploader.Throttled
		case status == http.StatusForbidden || status == http.StatusUnauthorized:
			out.Class, out.Hint = uploader.Hold, hintDenied
		case status == http.StatusRequestTimeout:
			out.Class = uploader.Transient
		case status >= 400 && status < 500:
			// What nobody has classified must cost no block.
			out.Class, out.Hint = uploader.Hold, hintUnknown
		}
	case errors.Is(err, context.Canceled):
		out.Class = uploader.Shutdown
	case status >= 300 || status > 0 && errors.As(err, &syntax):
		// An answer without a code of AWS's: a page, most likely.
		out.Err, out.Hint = fmt.Errorf("the answer, HTTP %d, is not one of AWS's", status), hintPortal
		if status >= 400 && status < 500 && status != http.StatusRequestTimeout {
			out.Class = uploader.Hold
		}
	case status == 0:
		// No answer. The innermost error says most: "connection refused".
		out.Err, out.Hint = innermost(err), "check the network, the name server and the proxy between the gateway and AWS"
	}
	if out.Class == uploader.Transient && out.RetryAfter > 0 && status == http.StatusServiceUnavailable {
		out.Class = uploader.Throttled
	}
	return out
}

// innermost returns the cause at the end of the chain; a deadline that has
// passed is named as such.
func innermost(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return context.DeadlineExceeded
	}
	var op *smithy.OperationError
	if errors.As(err, &op) {
		err = op.Err
	}
	var send *smithyhttp.RequestSendError
	if errors.As(err, &send) {
		return send.Err
	}
	return err
}

// retryAfter reads the delay that an answer asks for: x-amz-retry-after in
// milliseconds, or Retry-After in seconds (RFC 9110, section 10.2.3).
func retryAfter(h http.Header) time.Duration {
	const most = 5 * time.Minute
	if ms, err := strconv.ParseInt(h.Get("X-Amz-Retry-After"), 10, 64); err == nil && ms > 0 {
		return min(time.Duration(min(ms, 1<<30))*time.Millisecond, most)
	}
	if s, err := strconv.ParseInt(h.Get("Retry-After"), 10, 64); err == nil && s > 0 {
		return min(time.Duration(min(s, 1<<20))*time.Second, most)
	}
	// A proxy may name a moment instead. RFC 9110, section 10.2.3. The server's
	// own date is what it is to be held against.
	if at, err := http.ParseTime(h.Get("Retry-After")); err == nil {
		now, err := http.ParseTime(h.Get("Date"))
		if err != nil {
			now = time.Now()
		}
		return min(max(at.Sub(now), 0), most)
	}
	return 0
}
