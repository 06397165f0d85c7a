// Package conformance holds what any SQS and any DynamoDB must do, as far as
// millrace relies on it. It is written against Amazon's API references and
// developer guides, and runs on the simulator and on the stand-ins of others.
// It asks for documented behaviour only, and of an error for no more than its
// code and its side.
package conformance

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/smithy-go"
)

// Endpoint is the service under test.
type Endpoint struct {
	URL    string // http://127.0.0.1:9324
	Region string // eu-central-1 where empty
	// KeyID and Secret are what requests are signed with; any where empty.
	KeyID, Secret string
	// Lacks names the tests that this peer is known not to pass, with the
	// reason; they are reported as skipped.
	Lacks map[string]string
	// Codes are codes of the peer's own, each with the documented ones that
	// stand for the same.
	Codes map[string][]string
}

func (e Endpoint) config() aws.Config {
	region, id, secret := e.Region, e.KeyID, e.Secret
	if region == "" {
		region = "eu-central-1"
	}
	if id == "" {
		id, secret = "AKIDCONFORMANCE", "secret"
	}
	return aws.Config{Region: region, BaseEndpoint: aws.String(e.URL), Retryer: func() aws.Retryer { return aws.NopRetryer{} },
		Credentials: credentials.NewStaticCredentialsProvider(id, secret, ""), HTTPClient: steady{}}
}

// steady hides the WriteTo of a request's body from the transport, which takes
// its answer for a failure where the SDK has closed the body already.
type steady struct{}

// Do implements aws.HTTPClient.
func (steady) Do(r *http.Request) (*http.Response, error) {
	out := r.WithContext(r.Context())
	if r.Body != nil && r.Body != http.NoBody {
		out.Body = struct{ io.ReadCloser }{r.Body}
	}
	return http.DefaultClient.Do(out)
}

// run runs a test unless the peer is known to lack it.
func (e Endpoint) run(t *testing.T, name string, f func(t *testing.T)) {
	t.Run(name, func(t *testing.T) {
		if why, lacks := e.Lacks[name]; lacks {
			t.Skip(why)
		}
		f(t)
	})
}

// mustFail checks the code of an API error. Several codes are given where the
// older query protocol has a name of its own for the same error.
func mustFail(t *testing.T, what string, err error, codes ...string) {
	t.Helper()
	var api smithy.APIError
	if !errors.As(err, &api) {
		t.Errorf("%s: %v, want %s", what, err, codes)
		return
	}
	// Some servers give a shape's full name: com.amazonaws.sqs#QueueDoesNotExist.
	code := api.ErrorCode()
	if !slices.Contains(codes, code[strings.LastIndexByte(code, '#')+1:]) {
		t.Errorf("%s: %s (%s), want %s", what, api.ErrorCode(), api.ErrorMessage(), codes)
	}
}

func must[T any](t *testing.T) func(out T, err error) T {
	return func(out T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
}

// unique returns a name that no earlier run has used.
func unique(prefix string) string { return fmt.Sprintf("%s-%d", prefix, time.Now().UnixNano()) }
