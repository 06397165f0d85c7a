package connect

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

func status(code int, err error) error {
	return &smithy.OperationError{ServiceID: "SQS", OperationName: "ReceiveMessage", Err: &smithyhttp.ResponseError{
		Response: &smithyhttp.Response{Response: &http.Response{StatusCode: code}}, Err: err}}
}

func api(code string) error { return &smithy.GenericAPIError{Code: code, Message: "words"} }

func TestClasses(t *testing.T) {
	for _, c := range []struct {
		err   error
		class Class
		brief string
	}{
		{api("ProvisionedThroughputExceededException"), Throttled, "ProvisionedThroughputExceededException: words"},
		{status(400, api("com.amazonaws.sqs#RequestThrottled")), Throttled, "RequestThrottled: words"},
		{status(400, api("AWS.SimpleQueueService.NonExistentQueue")), Missing, "QueueDoesNotExist: words; create the queue"},
		{status(400, api("ResourceNotFoundException")), Missing, "tables ensure"},
		{status(400, api("ValidationException")), Refused, "ValidationException: words"},
		{status(400, api("AccessDeniedException")), Held, "docs/cloud.md"},
		{status(400, api("NobodyKnows")), Held, "NobodyKnows: words"},
		{status(429, api("NobodyKnows")), Throttled, "NobodyKnows"},
		{status(500, api("InternalServerError")), Transient, "InternalServerError"},
		{status(503, errors.New("a page")), Transient, "a page"},
		{status(403, errors.New("a page")), Held, "a page"},
		{&smithy.OperationError{Err: &smithyhttp.RequestSendError{Err: errors.New("connection refused")}}, Transient, "connection refused"},
		{fmt.Errorf("send: %w", context.DeadlineExceeded), Transient, "no answer in time"},
		{errors.New("the answer names nothing"), Transient, "the answer names nothing"},
	} {
		if got := ClassOf(c.err); got != c.class {
			t.Errorf("%v: class %d, want %d", c.err, got, c.class)
		}
		if got := Brief(c.err); !strings.Contains(got, c.brief) || strings.Contains(got, "RequestID") {
			t.Errorf("%v: %q, want %q", c.err, got, c.brief)
		}
	}
}

func TestUnreached(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{&net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}, "connection refused; nothing listens there: start it, or correct the endpoint"},
		{&net.DNSError{Err: "no such host", Name: "dynamodb.nowhere"}, "no such host; check region and endpoint, and this machine's DNS"},
		{x509.UnknownAuthorityError{}, "unknown authority; add the authority"},
		{errors.New("EOF"), "EOF; check the network between this machine and AWS"},
	} {
		err := &smithy.OperationError{ServiceID: "DynamoDB", OperationName: "ListTables", Err: &smithyhttp.RequestSendError{
			Err: &url.Error{Op: "Post", URL: "http://127.0.0.1:1/", Err: c.err}}}
		if got := Brief(err); !strings.Contains(got, c.want) || !strings.Contains(got, "127.0.0.1:1") || strings.Contains(got, "\n") {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}

func TestSettings(t *testing.T) {
	for _, c := range []struct {
		s    Settings
		want string // "": good
	}{
		{Settings{Region: "eu-central-1", Endpoint: "http://127.0.0.1:8000", S3Endpoint: "https://minio.plant:9000"}, ""},
		{Settings{Region: "us-gov-west-1"}, ""},
		{Settings{Region: "eu central"}, `--region: "eu central" is no AWS region: write it as in eu-central-1`},
		{Settings{Region: "https://a"}, "--region: "},
		{Settings{Region: "eu-"}, "--region: "},
		{Settings{Region: "eu-central-1", Endpoint: "127.0.0.1:8123"}, `--endpoint: "127.0.0.1:8123" is no URL: write it as in http://127.0.0.1:8000, or leave it out for AWS's own`},
		{Settings{Region: "eu-central-1", Endpoint: "localhost:8123"}, "--endpoint: "},
		{Settings{Region: "eu-central-1", S3Endpoint: "ftp://a"}, "--s3-endpoint: "},
	} {
		_, err := Load(t.Context(), c.s)
		var wrong *SettingError
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%+v: %v", c.s, err)
		case c.want != "" && (!errors.As(err, &wrong) || !strings.HasPrefix(err.Error(), c.want)):
			t.Errorf("%+v: %v, want %s", c.s, err, c.want)
		}
	}
	t.Setenv("AWS_REGION", "eu central")
	if _, err := Load(t.Context(), Settings{}); err == nil || !strings.Contains(err.Error(), `AWS region "eu central" of the environment or ~/.aws/config is none`) {
		t.Error(err)
	}
}

func TestQueueURLs(t *testing.T) {
	for url, want := range map[string]string{
		"https://sqs.eu-central-1.amazonaws.com/123456789012/plant":     "eu-central-1",
		"https://sqs.cn-north-1.amazonaws.com.cn/123456789012/plant":    "cn-north-1",
		"https://sqs-fips.us-east-1.amazonaws.com/123456789012/plant":   "us-east-1",
		"http://127.0.0.1:9324/000000000000/plant":                      "",
		"https://vpce-1.sqs.eu-west-1.vpce.amazonaws.com/1234567/plant": "",
	} {
		if got := RegionOf(url); got != want || CheckQueueURL(url) != nil {
			t.Errorf("%s: %q, want %q; %v", url, got, want, CheckQueueURL(url))
		}
	}
	for _, url := range []string{"", "plant", "arn:aws:sqs:eu-central-1:123456789012:plant", "https://sqs.eu-central-1.amazonaws.com", "ftp://a/b", "https://%zz"} {
		if CheckQueueURL(url) == nil {
			t.Errorf("%q is taken for a queue's URL", url)
		}
	}
}

func TestNoCredentials(t *testing.T) {
	err := &smithy.OperationError{ServiceID: "DynamoDB", OperationName: "ListTables", Err: fmt.Errorf("get identity: %w",
		&smithy.OperationError{ServiceID: "ec2imds", OperationName: "GetMetadata", Err: errors.New("request to EC2 IMDS failed")})}
	if got := Brief(err); !strings.HasPrefix(got, "there are no AWS credentials here; give AWS_ACCESS_KEY_ID") || !strings.Contains(got, "IMDS failed") {
		t.Error(got)
	}
}
