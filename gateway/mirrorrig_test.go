package gateway_test

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	feeds "millrace/feeds/all"
	"millrace/gateway"
	"millrace/gateway/config"
	"millrace/gateway/mirror"
	"millrace/internal/clock"
	"millrace/internal/sim/awssim"
	protocols "millrace/protocols/all"
	"millrace/sample"
	"millrace/sample/result"
	"millrace/uploader/all"
	"millrace/uploader/awsconf"
)

// resultsQueue is a simulated queue of results.
type resultsQueue struct {
	client *sqs.Client
	url    string
	feed   string // its entry under mirror.feeds
}

func startResults(t *testing.T, dir string) *resultsQueue {
	t.Helper()
	cloud, err := awssim.Start(awssim.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cloud.Close(); err != nil {
			t.Error(err)
		}
	})
	endpoint := cloud.URL(awssim.ServiceSQS)
	q := &resultsQueue{url: cloud.QueueURL("results"), client: sqs.New(sqs.Options{
		Region: "eu-central-1", BaseEndpoint: aws.String(endpoint),
		Credentials: credentials.NewStaticCredentialsProvider("AKIATEST", "secret", ""), HTTPClient: awsconf.Steady(http.DefaultClient),
	})}
	if _, err := q.client.CreateQueue(t.Context(), &sqs.CreateQueueInput{QueueName: aws.String("results")}); err != nil {
		t.Fatal(err)
	}
	secret := filepath.Join(dir, "secret")
	if err := os.WriteFile(secret, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	q.feed = fmt.Sprintf(`{name: results, type: sqs, queue_url: "%s", region: eu-central-1, endpoint: "%s", credentials: {access_key_id: AKIATEST, secret_access_key: "file:%s"}}`, q.url, endpoint, secret)
	return q
}

// fresh is a Good result that was computed now and is valid for a time.
func fresh(target string, version uint64, v sample.Value, valid time.Duration) result.Result {
	now := time.Now().UTC()
	return result.Result{
		ID: fmt.Sprintf("%s-%d", target, version), Site: "north", Target: target, Version: version, Value: v, Quality: sample.Good,
		ComputedAt: now, ValidFrom: now, ValidUntil: now.Add(valid), Run: "test",
	}
}

// send puts a result into the queue, signed where there is a key.
func (q *resultsQueue) send(t *testing.T, r result.Result, with ed25519.PrivateKey) {
	t.Helper()
	if with != nil {
		r.Sign("cloud", with)
	}
	body, err := r.Encode()
	if err == nil {
		_, err = q.client.SendMessage(t.Context(), &sqs.SendMessageInput{QueueUrl: &q.url, MessageBody: aws.String(string(body))})
	}
	if err != nil {
		t.Fatal(err)
	}
}

// empty reports whether nothing is in the queue, nor handed out.
func (q *resultsQueue) empty(ctx context.Context) bool {
	out, err := q.client.GetQueueAttributes(ctx, &sqs.GetQueueAttributesInput{QueueUrl: &q.url, AttributeNames: []types.QueueAttributeName{types.QueueAttributeNameAll}})
	return err == nil && out.Attributes["ApproximateNumberOfMessages"] == "0" && out.Attributes["ApproximateNumberOfMessagesNotVisible"] == "0"
}

// parseAll parses a configuration of everything that there is.
func parseAll(t *testing.T, yaml string) *config.Config {
	t.Helper()
	cfg, err := config.Parse("millrace.yaml", []byte(yaml), config.Registry{Protocols: protocols.List(), Sinks: all.List(), Feeds: feeds.List()})
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// running is a gateway that runs until stop.
type running struct {
	*gateway.Gateway
	cancel context.CancelFunc
	ended  chan error
}

func runGateway(t *testing.T, cfg *config.Config, dir string) *running {
	t.Helper()
	g, err := gateway.New(t.Context(), gateway.Options{
		Config: cfg, Log: slog.New(slog.DiscardHandler), Clock: clock.System{}, Notify: quiet{make(chan string, 10)}, StateDir: dir,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	r := &running{g, cancel, make(chan error, 1)}
	go func() { r.ended <- g.Run(ctx) }()
	return r
}

// stop stops it.
func (r *running) stop(t *testing.T) {
	t.Helper()
	r.cancel()
	if err := <-r.ended; err != nil {
		t.Fatal(err)
	}
}

// until waits for something to happen.
func (r *running) until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(15 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			st := r.Status()
			t.Fatalf("%s: never; %+v; %+v", what, st.Mirror, st.Components)
		}
	}
}

// outcomes counts what became of the results of a target.
func (r *running) outcomes(target int) (outcomes, refused map[string]uint64) {
	s := r.Status().Mirror
	if s == nil {
		return nil, nil
	}
	return s.Targets[target].Outcomes, s.Targets[target].Refused
}

// had reports that so many results of a target had an outcome.
func (r *running) had(target int, what mirror.Outcome, n uint64) func() bool {
	return func() bool {
		o, _ := r.outcomes(target)
		return o[string(what)] == n
	}
}

// refused reports that one result of a target was refused for a reason.
func (r *running) refused(target int, reason string) func() bool {
	return func() bool {
		_, refused := r.outcomes(target)
		return refused[reason] == 1
	}
}
