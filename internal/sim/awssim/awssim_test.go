package awssim_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	ddbtypes "github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/smithy-go"

	"millrace/internal/sim/awssim"
	"millrace/internal/sim/awssim/conformance"
)

const keyID, secret = "AKIDCONFORMANCE", "secret"

func start(t *testing.T, o awssim.Options) *awssim.Server {
	t.Helper()
	s, err := awssim.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestConformance(t *testing.T) {
	s := start(t, awssim.Options{Keys: map[string]string{keyID: secret}, TableDelay: 20 * time.Millisecond})
	t.Run("sqs", func(t *testing.T) {
		conformance.SQS(t, conformance.Endpoint{URL: s.URL(awssim.ServiceSQS), KeyID: keyID, Secret: secret})
	})
	t.Run("dynamodb", func(t *testing.T) {
		conformance.DynamoDB(t, conformance.Endpoint{URL: s.URL(awssim.ServiceDynamoDB), KeyID: keyID, Secret: secret})
	})
}

func sqsClient(s *awssim.Server, id, key string) *sqs.Client {
	return sqs.New(sqs.Options{Region: "eu-central-1", BaseEndpoint: aws.String(s.URL(awssim.ServiceSQS)), Retryer: aws.NopRetryer{},
		Credentials: credentials.NewStaticCredentialsProvider(id, key, "")})
}

func ddbClient(s *awssim.Server) *dynamodb.Client {
	return dynamodb.New(dynamodb.Options{Region: "eu-central-1", BaseEndpoint: aws.String(s.URL(awssim.ServiceDynamoDB)), Retryer: aws.NopRetryer{},
		Credentials: credentials.NewStaticCredentialsProvider(keyID, secret, "")})
}

func queue(t *testing.T, c *sqs.Client) *string {
	t.Helper()
	out, err := c.CreateQueue(t.Context(), &sqs.CreateQueueInput{QueueName: aws.String("q")})
	if err != nil {
		t.Fatal(err)
	}
	return out.QueueUrl
}

func code(err error) string {
	var api smithy.APIError
	if errors.As(err, &api) {
		return api.ErrorCode()
	}
	return ""
}

func TestSignatures(t *testing.T) {
	s := start(t, awssim.Options{Keys: map[string]string{keyID: secret}})
	list := func(c *sqs.Client) error {
		_, err := c.ListQueues(t.Context(), &sqs.ListQueuesInput{})
		return err
	}
	if err := list(sqsClient(s, keyID, secret)); err != nil {
		t.Errorf("a good signature: %v", err)
	}
	if got := code(list(sqsClient(s, keyID, "other"))); got != "InvalidSignatureException" {
		t.Errorf("a wrong secret gives %q", got)
	}
	if got := code(list(sqsClient(s, "AKIDOTHER", secret))); got != "InvalidClientTokenId" {
		t.Errorf("an unknown key gives %q", got)
	}
	resp, err := http.Post(s.URL(awssim.ServiceSQS), "application/x-amz-json-1.0", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusForbidden {
		t.Errorf("no signature gives %s", resp.Status)
	}
	// A body that was changed on its way is not what was signed.
	changed := sqsClient(s, keyID, secret)
	_, err = changed.ListQueues(t.Context(), &sqs.ListQueuesInput{QueueNamePrefix: aws.String("aaaa")}, func(o *sqs.Options) {
		o.HTTPClient = tamper{}
	})
	if got := code(err); got != "InvalidSignatureException" {
		t.Errorf("a changed body gives %q (%v)", got, err)
	}
}

// tamper changes a request after it was signed.
type tamper struct{}

func (tamper) Do(r *http.Request) (*http.Response, error) {
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	r.Body = io.NopCloser(strings.NewReader(strings.ReplaceAll(string(b), "aaaa", "bbbb")))
	return http.DefaultClient.Do(r)
}

func TestFaults(t *testing.T) {
	s := start(t, awssim.Options{})
	c, d := sqsClient(s, keyID, secret), ddbClient(s)
	ask := map[string]func() error{
		awssim.ServiceSQS:      func() error { _, err := c.ListQueues(t.Context(), &sqs.ListQueuesInput{}); return err },
		awssim.ServiceDynamoDB: func() error { _, err := d.ListTables(t.Context(), &dynamodb.ListTablesInput{}); return err },
	}
	for _, f := range []struct {
		name     string
		faults   awssim.Faults
		sqs, ddb string
	}{
		{"down", awssim.Faults{Down: true}, "", ""},
		{"throttled", awssim.Faults{Throttled: 1}, "RequestThrottled", "ThrottlingException"},
		{"failing", awssim.Faults{Failing: 1}, "InternalFailure", "InternalServerError"},
		{"unavailable", awssim.Faults{Unavailable: 1}, "ServiceUnavailable", "ServiceUnavailable"},
		{"denied", awssim.Faults{Denied: true}, "AccessDenied", "AccessDeniedException"},
		{"expired", awssim.Faults{Expired: true}, "ExpiredToken", "ExpiredTokenException"},
		{"skewed", awssim.Faults{Skewed: true}, "InvalidSignatureException", "InvalidSignatureException"},
		{"clock", awssim.Faults{Clock: -time.Hour}, "InvalidSignatureException", "InvalidSignatureException"},
		{"answer lost", awssim.Faults{AnswerLost: 1}, "", ""},
	} {
		for service, want := range map[string]string{awssim.ServiceSQS: f.sqs, awssim.ServiceDynamoDB: f.ddb} {
			other := awssim.ServiceSQS
			if service == other {
				other = awssim.ServiceDynamoDB
			}
			s.SetFaults(service, f.faults)
			if err := ask[service](); err == nil || code(err) != want {
				t.Errorf("%s: %s answers %v, want code %q", f.name, service, err, want)
			}
			if err := ask[other](); err != nil {
				t.Errorf("%s at %s: %s answers %v", f.name, service, other, err)
			}
			s.SetFaults(service, awssim.Faults{})
			for range 2 { // the SDK heals its clock with the first answer
				if err := ask[service](); err == nil {
					break
				} else if f.faults.Clock == 0 {
					t.Errorf("after %s: %s answers %v", f.name, service, err)
				}
			}
		}
	}
}

func TestSlow(t *testing.T) {
	s := start(t, awssim.Options{})
	s.SetFaults(awssim.ServiceSQS, awssim.Faults{Slow: time.Minute})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := sqsClient(s, keyID, secret).ListQueues(ctx, &sqs.ListQueuesInput{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a slow service answers %v", err)
	}
}

func TestAcceptedIsWhatWasStored(t *testing.T) {
	s := start(t, awssim.Options{})
	var mu sync.Mutex
	var got []awssim.Accepted
	s.OnAccept(func(a awssim.Accepted) { mu.Lock(); got = append(got, a); mu.Unlock() })
	c, d := sqsClient(s, keyID, secret), ddbClient(s)
	url := queue(t, c)
	s.SetFaults(awssim.ServiceSQS, awssim.Faults{AnswerLost: 1})
	if _, err := c.SendMessage(t.Context(), &sqs.SendMessageInput{QueueUrl: url, MessageBody: aws.String("lost answer")}); err == nil {
		t.Error("the answer came")
	}
	s.SetFaults(awssim.ServiceSQS, awssim.Faults{Throttled: 1})
	if _, err := c.SendMessage(t.Context(), &sqs.SendMessageInput{QueueUrl: url, MessageBody: aws.String("refused")}); err == nil {
		t.Error("it was taken")
	}
	_, err := d.CreateTable(t.Context(), &dynamodb.CreateTableInput{TableName: aws.String("table"), BillingMode: ddbtypes.BillingModePayPerRequest,
		KeySchema:            []ddbtypes.KeySchemaElement{{AttributeName: aws.String("k"), KeyType: ddbtypes.KeyTypeHash}},
		AttributeDefinitions: []ddbtypes.AttributeDefinition{{AttributeName: aws.String("k"), AttributeType: ddbtypes.ScalarAttributeTypeS}}})
	if err != nil {
		t.Fatal(err)
	}
	it := map[string]ddbtypes.AttributeValue{"k": &ddbtypes.AttributeValueMemberS{Value: "key"}, "data": &ddbtypes.AttributeValueMemberB{Value: []byte{0, 255}}}
	if _, err := d.PutItem(t.Context(), &dynamodb.PutItemInput{TableName: aws.String("table"), Item: it}); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(got) != 2 || string(got[0].Body) != "lost answer" || got[0].Place != "q" || got[1].Place != "table" || got[0].WireBytes < 200 {
		t.Fatalf("accepted %+v", got)
	}
	if data, err := awssim.ItemBinary(got[1].Body, "data"); err != nil || string(data) != "\x00\xff" {
		t.Errorf("the item's binary is %q, %v", data, err)
	}
	var key map[string]map[string]string
	if err := json.Unmarshal(got[1].Key, &key); err != nil || key["k"]["S"] != "key" {
		t.Errorf("the item's key is %s", got[1].Key)
	}
	if st := s.Stats(awssim.ServiceSQS); st.Requests != 3 || st.Accepted != 1 || st.WireBytes < uint64(got[0].WireBytes) {
		t.Errorf("Stats are %+v", st)
	}
}

// What is counted on the wire is what the client wrote, to the byte.
func TestWireBytes(t *testing.T) {
	s := start(t, awssim.Options{})
	total := 0
	for i := range 3 {
		body := strings.Repeat("x", 1000*(i+1))
		head := "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: " + map[int]string{0: "1000", 1: "2000", 2: "3000"}[i] + "\r\n\r\n"
		total += len(head) + len(body)
		raw(t, s.URL(awssim.ServiceSQS), head+body)
	}
	if got := s.Stats(awssim.ServiceSQS).WireBytes; got != uint64(total) {
		t.Errorf("%d bytes were counted, and %d were sent", got, total)
	}
}

// raw sends a request as it stands and waits for the answer's first line.
func raw(t *testing.T, url, request string) {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(conn).ReadString('\n'); err != nil || !strings.HasPrefix(line, "HTTP/1.1 403") {
		t.Fatalf("the answer is %q, %v", line, err)
	}
}

func TestRateHitsAboutThatShare(t *testing.T) {
	s := start(t, awssim.Options{Seed: 11})
	c := sqsClient(s, keyID, secret)
	s.SetFaults(awssim.ServiceSQS, awssim.Faults{Throttled: 0.3})
	n := 0
	for range 200 {
		if _, err := c.ListQueues(t.Context(), &sqs.ListQueuesInput{}); err != nil {
			n++
		}
	}
	if n < 35 || n > 90 {
		t.Errorf("%d of 200 requests were throttled at a rate of 0.3", n)
	}
}
