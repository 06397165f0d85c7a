package awsconf

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"millrace/uploader"
)

// answer builds an error as the SDK returns it.
func answer(status int, code string, header http.Header) error {
	resp := &http.Response{StatusCode: status, Header: header}
	return &smithy.OperationError{ServiceID: "SQS", OperationName: "SendMessageBatch", Err: &smithyhttp.ResponseError{
		Response: &smithyhttp.Response{Response: resp}, Err: &smithy.GenericAPIError{Code: code, Message: "why.\nindeed"}}}
}

func TestWrap(t *testing.T) {
	for _, c := range []struct {
		err  error
		want uploader.Class
		hint string // a part of it
	}{
		{answer(400, "ThrottlingException", nil), uploader.Throttled, ""},
		{answer(400, "KmsThrottled", nil), uploader.Throttled, ""},
		{answer(400, "KMS.ThrottlingException", nil), uploader.Throttled, ""},
		{answer(429, "SomethingNew", nil), uploader.Throttled, ""},
		{answer(503, "ServiceUnavailable", http.Header{"Retry-After": {"3"}}), uploader.Throttled, ""},
		{answer(503, "ServiceUnavailable", nil), uploader.Transient, ""},
		{answer(500, "SomethingNew", nil), uploader.Transient, ""},
		{answer(400, "AWS.SimpleQueueService.NonExistentQueue", nil), uploader.Hold, "create the queue"},
		{answer(400, "ResourceNotFoundException", nil), uploader.Hold, "create_tables"},
		{answer(403, "SomethingNew", nil), uploader.Hold, "IAM"},
		{answer(400, "ExpiredTokenException", nil), uploader.Hold, "renew"},
		{answer(400, "InvalidSignatureException", nil), uploader.Hold, "clock"},
		{answer(400, "KmsDisabled", nil), uploader.Hold, "KMS key"},
		{answer(400, "KMS.NotFoundException", nil), uploader.Hold, "KMS key"},
		{answer(400, "InvalidParameterValue", nil), uploader.Permanent, ""},
		{answer(400, "ValidationException", nil), uploader.Permanent, ""},
		{answer(400, "SomethingNew", nil), uploader.Hold, "proxy"},
		{answer(400, "UnknownError", nil), uploader.Hold, "proxy"}, // a page of a proxy's
		{answer(407, "UnknownError", nil), uploader.Hold, "proxy"},
		{answer(413, "UnknownError", nil), uploader.Hold, "proxy"},
		{answer(408, "UnknownError", nil), uploader.Transient, ""},
		{answer(302, "UnknownError", nil), uploader.Transient, ""},
		{fmt.Errorf("deep: %w", &credentialsError{errors.New("none")}), uploader.Hold, "credentials"},
		{&smithyhttp.RequestSendError{Err: errors.New("connection refused")}, uploader.Transient, "network"},
		{fmt.Errorf("deep: %w", context.DeadlineExceeded), uploader.Transient, ""},
		{&smithy.CanceledError{Err: context.Canceled}, uploader.Shutdown, ""},
		{errors.New("AccessDenied ThrottlingException"), uploader.Transient, ""}, // never by text
	} {
		got := Wrap("send to", "object", c.err)
		if got.Class != c.want || !strings.Contains(got.Hint, c.hint) {
			t.Errorf("%v is %s (%s), want %s (%s)", c.err, got.Class, got.Hint, c.want, c.hint)
		}
		if !errors.Is(got, c.err) && !errors.Is(c.err, got.Err) && !strings.Contains(c.err.Error(), errors.Unwrap(got).Error()) {
			t.Errorf("%v lost its cause: %v", c.err, got)
		}
	}
	if got, want := Wrap("send to", "q", answer(400, "AccessDenied", nil)).Error(), "send to q: AccessDenied: why. indeed; "+hintDenied; got != want {
		t.Errorf("the message is %q, want %q", got, want)
	}
}

func TestRetryAfter(t *testing.T) {
	for want, h := range map[time.Duration]http.Header{
		0:                       {"Retry-After": {"soon"}},
		3 * time.Second:         {"Retry-After": {"3"}},
		1500 * time.Millisecond: {"X-Amz-Retry-After": {"1500"}, "Retry-After": {"9"}},
		5 * time.Minute:         {"Retry-After": {"99999999999"}},
		90 * time.Second:        {"Retry-After": {"Sat, 01 Jan 2000 00:01:30 GMT"}, "Date": {"Sat, 01 Jan 2000 00:00:00 GMT"}},
	} {
		if got := retryAfter(h); got != want {
			t.Errorf("%v asks for %s, want %s", h, got, want)
		}
	}
}

func TestCodeClass(t *testing.T) {
	for _, c := range []struct {
		code   string
		sender bool
		want   uploader.Class
	}{
		{"InvalidMessageContents", true, uploader.Permanent},
		{"SomethingNew", true, uploader.Permanent},
		{"SomethingNew", false, uploader.Transient},
		{"InternalError", true, uploader.Transient},
		{"KmsAccessDenied", true, uploader.Hold},
		{"AccessDenied", true, uploader.Hold},
		{"RequestThrottled", true, uploader.Throttled},
	} {
		if got, _ := CodeClass(c.code, c.sender); got != c.want {
			t.Errorf("%s, sender's fault %v, is %s, want %s", c.code, c.sender, got, c.want)
		}
	}
}

func TestWithoutCredentialsItHolds(t *testing.T) {
	for _, name := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_FULL_URI"} {
		t.Setenv(name, "")
	}
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	t.Setenv("AWS_CONFIG_FILE", "/no/such/file")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", "/no/such/file")
	c := Config{Endpoint: "http://127.0.0.1:1"}
	cfg, err := c.Load("eu-central-1", 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = sqs.NewFromConfig(cfg).ListQueues(t.Context(), &sqs.ListQueuesInput{})
	if got := Wrap("list", "queues", err); got.Class != uploader.Hold || !strings.Contains(got.Error(), "no usable credentials") {
		t.Errorf("without credentials: %v, of class %s", got, got.Class)
	}
}

func TestRegionMustBeKnown(t *testing.T) {
	t.Setenv("AWS_REGION", "")
	t.Setenv("AWS_DEFAULT_REGION", "")
	t.Setenv("AWS_CONFIG_FILE", "/no/such/file")
	c := Config{}
	if _, err := c.Load("", 1, nil); err == nil || !strings.Contains(err.Error(), "set region") {
		t.Errorf("without a region: %v", err)
	}
	t.Setenv("AWS_REGION", "eu-west-1")
	for want, c := range map[string]Config{"eu-west-1": {}, "us-east-2": {Region: "us-east-2"}} {
		if cfg, err := c.Load("", 1, nil); err != nil || cfg.Region != want {
			t.Errorf("region %q, %v; want %s", cfg.Region, err, want)
		}
	}
}

// late is a client that looks at the body again when it has answered already, as
// net/http may do.
type late struct{ after chan error }

func (l late) Do(r *http.Request) (*http.Response, error) {
	if _, err := io.Copy(io.Discard, io.LimitReader(r.Body, r.ContentLength)); err != nil {
		return nil, err
	}
	body := r.Body
	go func() {
		if _, ok := body.(io.WriterTo); ok {
			l.after <- errors.New("the transport can see WriteTo")
			return
		}
		n, err := io.Copy(io.Discard, body)
		if n != 0 || err != nil {
			err = fmt.Errorf("read %d bytes after the end: %w", n, err)
		}
		l.after <- err
	}()
	return &http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader("{}")), Header: http.Header{}}, nil
}

func TestSteadyHidesTheClosedBody(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "id")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	c := Config{}
	cfg, err := c.Load("eu-central-1", 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	l := late{make(chan error, 1)}
	if got, want := fmt.Sprintf("%T", cfg.HTTPClient), fmt.Sprintf("%T", Steady(l)); got != want {
		t.Errorf("the client is a %s, want a %s", got, want)
	}
	cfg.HTTPClient = Steady(l)
	if _, err := sqs.NewFromConfig(cfg).ListQueues(t.Context(), &sqs.ListQueuesInput{}); err != nil {
		t.Fatal(err)
	}
	if err := <-l.after; err != nil {
		t.Error(err)
	}
}
