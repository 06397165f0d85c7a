package demo

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"os"
	"path/filepath"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/sqs"

	"millrace/internal/sim/awssim"
	"millrace/uploader/awsconf"
)

const (
	queueName   = "demo-samples"
	tablePrefix = "demo"
	region      = "eu-central-1"
)

// openCloud makes the queues and listens to what the endpoints accept. The
// week tables are made by the sink.
func (w *world) openCloud(ctx context.Context) (err error) {
	if w.queue, err = newCollector(queueName); err != nil {
		return err
	}
	if w.table, err = newCollector(tablePrefix + "-"); err != nil {
		return err
	}
	w.aws.OnAccept(func(a awssim.Accepted) {
		if a.Service == awssim.ServiceSQS {
			w.queue.accept(a)
		} else {
			w.table.accept(a)
		}
	})
	client := sqs.New(sqs.Options{
		Region: region, BaseEndpoint: aws.String(w.aws.URL(awssim.ServiceSQS)),
		Credentials: credentials.NewStaticCredentialsProvider("demo", "demo", ""),
		HTTPClient:  awsconf.Steady(http.DefaultClient), RetryMaxAttempts: 1,
	})
	for _, name := range []string{queueName, resultsQueue} {
		if _, err := client.CreateQueue(ctx, &sqs.CreateQueueInput{QueueName: aws.String(name)}); err != nil {
			return fmt.Errorf("simulated queue %s: %w", name, err)
		}
	}
	if w.optimiser, err = newOptimiser(client, w.aws.QueueURL(resultsQueue), w.truth.Now); err != nil {
		return err
	}
	w.queue.look = w.optimiser.look
	return os.WriteFile(filepath.Join(w.dir, "secret"), []byte("demo\n"), 0o600)
}

// yaml is the gateway's configuration. Blocks are sealed at 2 s.
func (w *world) yaml() string {
	keys := fmt.Sprintf("credentials: {access_key_id: demo, secret_access_key: %q}", "file:"+filepath.Join(w.dir, "secret"))
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
  - name: table
    type: dynamodb
    table_prefix: %s
    create_tables: true
    region: %s
    endpoint: %q
    %s
%s`, Site, Gateway, filepath.Join(w.dir, "spool"), filepath.Join(w.dir, "control.sock"), w.plant.YAML("2s"),
		w.aws.QueueURL(queueName), region, w.aws.URL(awssim.ServiceSQS), keys,
		tablePrefix, region, w.aws.URL(awssim.ServiceDynamoDB), keys, w.mirrorYAML(keys))
}

func (w *world) sqsURL() string { return w.aws.URL(awssim.ServiceSQS) }

func (w *world) auditDir() string { return filepath.Join(w.dir, "mirror") }

func base64Of(b []byte) string { return base64.StdEncoding.EncodeToString(b) }
