//go:build duckdb

package main

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/sqs"

	"millrace/cloud/connect"
	"millrace/internal/sim/awssim"
	"millrace/internal/weekitem"
	"millrace/sample"
	"millrace/sample/block"
	"millrace/sample/result"
	"millrace/sample/weektable"
)

// TestPipelineToTheSite runs the stages of a configuration on a week table with
// one tag, and reads what the site's queue has then: the mean of the last hour
// that was over, signed, and of the hour under way nothing.
func TestPipelineToTheSite(t *testing.T) {
	server, err := awssim.Start(awssim.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	for name, value := range map[string]string{"AWS_ACCESS_KEY_ID": "AK", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_EC2_METADATA_DISABLED": "true"} {
		t.Setenv(name, value)
	}
	dir := t.TempDir()
	seed := strings.Repeat("k", ed25519.SeedSize)
	private := ed25519.NewKeyFromSeed([]byte(seed))
	if err := os.WriteFile(filepath.Join(dir, "key"), []byte(base64.StdEncoding.EncodeToString([]byte(seed))), 0o600); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(dir, "plant.yaml")
	if err := os.WriteFile(config, fmt.Appendf(nil, `
prefix: plant
region: eu-central-1
endpoints: {dynamodb: %q}
archive: {place: %q, dir: %q}
analyze: {memory: 256MiB, threads: 1, dir: %q}
export: [{name: reports, what: [hourly], to: %q, days: 3}]
results:
  settle: 0s
  key: cloud
  private_key: %q
  queues: {north: %q}
  targets: [{site: north, target: sp1, result: hourly, of: north/meter/power, column: mean, unit: kW, scale: 0.5, validity: 3h, at_least: {good: 3600}}]
`, server.URL(awssim.ServiceDynamoDB), filepath.Join(dir, "archive"), filepath.Join(dir, "scratch"), filepath.Join(dir, "work"), filepath.Join(dir, "exports"),
		"file:"+filepath.Join(dir, "key"), server.QueueURL("north-results")), 0o600); err != nil {
		t.Fatal(err)
	}
	s := connect.Settings{Region: "eu-central-1", Endpoint: server.URL(awssim.ServiceDynamoDB)}
	cfg, err := connect.Load(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	queue := connect.SQS(cfg, server.QueueURL("north-results"))
	if _, err := queue.CreateQueue(t.Context(), &sqs.CreateQueueInput{QueueName: aws.String("north-results")}); err != nil {
		t.Fatal(err)
	}
	only := []string{"pipeline", "run", "--config", config, "--only"}
	if code, stdout, stderr := invokeAll(t, append(only, "tables")...); code != 0 {
		t.Fatalf("%s%s", stdout, stderr)
	}
	// The hour before the present one is whole; of the present one there is as much,
	// in its first second, of another value.
	now := time.Now().UTC().Truncate(time.Hour)
	for hour, value := range map[time.Time]float64{now.Add(-time.Hour): 83, now: 999} {
		step := time.Second
		if hour.Equal(now) {
			step = 100 * time.Microsecond
		}
		putHour(t, connect.DynamoDB(cfg, s), hour, step, value)
	}
	code, stdout, stderr := invokeAll(t, "pipeline", "run", "--config", config, "--from-stage", "archive")
	if code != 0 || !strings.Contains(stdout, "published 1\n") {
		t.Fatalf("code %d\n%s%s", code, stdout, stderr)
	}
	out, err := queue.ReceiveMessage(t.Context(), &sqs.ReceiveMessageInput{QueueUrl: aws.String(server.QueueURL("north-results")), MaxNumberOfMessages: 10})
	if err != nil || len(out.Messages) != 1 {
		t.Fatalf("%+v, %v", out, err)
	}
	m, problem := result.Parse([]byte(*out.Messages[0].Body))
	if problem != nil {
		t.Fatal(problem)
	}
	if err := m.Verify(map[string]ed25519.PublicKey{"cloud": private.Public().(ed25519.PublicKey)}); err != nil {
		t.Error(err)
	}
	// A test that runs over the full hour finds that hour over.
	if m.Value != sample.FloatValue(41.5) && time.Now().UTC().Truncate(time.Hour).Equal(now) || m.Target != "sp1" {
		t.Errorf("%+v", m)
	}
	code, stdout, stderr = invokeAll(t, "pipeline", "run", "--config", config)
	if code != 0 || !strings.Contains(stdout, "unchanged 1\n") && time.Now().UTC().Truncate(time.Hour).Equal(now) {
		t.Errorf("code %d\n%s%s", code, stdout, stderr)
	}
}

// putHour puts a block of 3,600 samples into its week's table, which it makes
// where the hour is of another week than the present one.
func putHour(t *testing.T, db *dynamodb.Client, hour time.Time, step time.Duration, value float64) {
	t.Helper()
	const tag = "north/meter/power"
	enc, err := block.NewEncoder()
	if err != nil {
		t.Fatal(err)
	}
	enc.Reset([]string{tag})
	for i := range 3600 {
		enc.Add(0, &sample.Sample{Tag: tag, Value: sample.FloatValue(value), Time: hour.UnixNano() + int64(i)*int64(step)})
	}
	data, err := enc.Encode(nil, block.Header{Site: "north", Gateway: "gw1", Stream: "s0001", Epoch: 7, Seq: uint64(hour.Unix()), Produced: 3600})
	if err != nil {
		t.Fatal(err)
	}
	h, err := block.ReadHeader(data)
	if err != nil {
		t.Fatal(err)
	}
	table := weektable.Table("plant", hour)
	if _, err := db.DescribeTable(context.Background(), &dynamodb.DescribeTableInput{TableName: &table}); err != nil {
		keys, attributes := weekitem.Keys()
		if _, err := db.CreateTable(context.Background(), &dynamodb.CreateTableInput{TableName: &table, KeySchema: keys, AttributeDefinitions: attributes, BillingMode: "PAY_PER_REQUEST"}); err != nil {
			t.Fatal(err)
		}
	}
	item, _ := weekitem.New(&h, data)
	if _, err := db.PutItem(context.Background(), &dynamodb.PutItemInput{TableName: &table, Item: item}); err != nil {
		t.Fatal(err)
	}
}
