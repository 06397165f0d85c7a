package connect

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
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
