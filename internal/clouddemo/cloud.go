package clouddemo

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"millrace/cloud/connect"
	"millrace/cloud/tables"
	"millrace/internal/backoff"
	"millrace/internal/sim/awssim"
)

const (
	region      = "eu-central-1"
	prefix      = "demo" // of the tables' names
	samplesName = "demo-samples"
	resultsName = "demo-results"
	// drainWithin bounds the wait until the workers have emptied the queue.
	drainWithin = 30 * time.Second
)

// openCloud starts the endpoints, and makes the queues and the week tables.
func (w *world) openCloud(ctx context.Context) (err error) {
	if w.aws, err = awssim.Start(awssim.Options{Region: region}); err != nil {
		return err
	}
	cfg := aws.Config{Region: region, Credentials: credentials.NewStaticCredentialsProvider("demo", "demo", "")}
	w.queues = connect.SQS(cfg, w.aws.QueueURL(samplesName))
	w.db = connect.DynamoDB(cfg, connect.Settings{Endpoint: w.aws.URL(awssim.ServiceDynamoDB)})
	for _, name := range []string{samplesName, resultsName} {
		if _, err := w.queues.CreateQueue(ctx, &sqs.CreateQueueInput{QueueName: &name}); err != nil {
			return fmt.Errorf("simulated queue %s: %w", name, err)
		}
	}
	m := tables.Manager{DB: w.db, Prefix: prefix, Now: w.logger.readings[0].at, Sleep: backoff.Sleep}
	if _, err := m.Ensure(ctx, tables.Settings{}, 1); err != nil {
		return err
	}
	if w.accepted, err = newCollector(); err != nil {
		return err
	}
	w.aws.OnAccept(func(a awssim.Accepted) {
		switch a.Place {
		case samplesName:
			w.accepted.takeBody(a.Body)
		case resultsName:
			w.takeResult(a.Body)
		}
	})
	return nil
}

// drained waits until the workers have emptied the queue.
func (w *world) drained(ctx context.Context) error {
	end := time.Now().Add(drainWithin)
	for {
		out, err := w.queues.GetQueueAttributes(ctx, &sqs.GetQueueAttributesInput{QueueUrl: aws.String(w.aws.QueueURL(samplesName)),
			AttributeNames: []types.QueueAttributeName{types.QueueAttributeNameAll}})
		if err != nil {
			return fmt.Errorf("ask how long the queue is: %w", err)
		}
		left := 0
		for _, name := range []types.QueueAttributeName{types.QueueAttributeNameApproximateNumberOfMessages, types.QueueAttributeNameApproximateNumberOfMessagesNotVisible} {
			n, err := strconv.Atoi(out.Attributes[string(name)])
			if err != nil {
				return fmt.Errorf("ask how long the queue is: %w", err)
			}
			left += n
		}
		if left == 0 {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("%d messages are still in the queue after %s", left, drainWithin)
		}
		if !backoff.Sleep(ctx, 100*time.Millisecond) {
			return errInterrupted
		}
	}
}

// yaml is the gateway's configuration. Blocks are sealed at 2 s.
func (w *world) yaml() (string, error) {
	secret := filepath.Join(w.dir, "secret")
	if err := os.WriteFile(secret, []byte("demo\n"), 0o600); err != nil {
		return "", err
	}
	keys := fmt.Sprintf("credentials: {access_key_id: demo, secret_access_key: %q}", "file:"+secret)
	return fmt.Sprintf(`gateway: {site: %s, id: %s}
clock: {sync: ignore}
spool: {dir: %q, commit_interval: 250ms}
control: {socket: %q}
sources:
%ssinks:
  - name: cloud
    type: sqs
    queue_url: %q
    region: %s
    endpoint: %q
    %s
%s`, Site, Gateway, filepath.Join(w.dir, "spool"), w.socket(), w.plant.YAML("2s")+w.logger.yaml(),
		w.aws.QueueURL(samplesName), region, w.aws.URL(awssim.ServiceSQS), keys, w.mirrorYAML(keys)), nil
}

func (w *world) socket() string { return filepath.Join(w.dir, "control.sock") }
