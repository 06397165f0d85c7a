package gateway_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/sqs"

	feeds "millrace/feeds/all"
	"millrace/gateway"
	"millrace/gateway/config"
	"millrace/gateway/mirror"
	"millrace/internal/clock"
	"millrace/internal/sim/awssim"
	"millrace/internal/sim/mqttsim"
	"millrace/internal/sim/opcuasim"
	protocols "millrace/protocols/all"
	"millrace/sample"
	"millrace/sample/result"
	"millrace/uploader/all"
	"millrace/uploader/awsconf"
)

// TestAResultReachesEachKindOfTarget with real parts: an OPC UA node, an MQTT
// topic and a file get the value, are called stale when its validity ends, and
// get nothing that expired while they were away.
func TestAResultReachesEachKindOfTarget(t *testing.T) {
	dir := t.TempDir()
	cloud, err := awssim.Start(awssim.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer cloud.Close()
	server, err := opcuasim.Start(opcuasim.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	node, err := server.AddNode(opcuasim.Node{Name: "setpoint", Value: uint16(0), Access: opcuasim.Writable | opcuasim.WriteStatus | opcuasim.WriteTime})
	if err != nil {
		t.Fatal(err)
	}
	broker, err := mqttsim.Start(mqttsim.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer broker.Close()
	drop := filepath.Join(dir, "drop")
	if err := os.Mkdir(drop, 0o700); err != nil {
		t.Fatal(err)
	}
	client := sqs.New(sqs.Options{
		Region: "eu-central-1", BaseEndpoint: aws.String(cloud.URL(awssim.ServiceSQS)),
		Credentials: credentials.NewStaticCredentialsProvider("AKIATEST", "secret", ""), HTTPClient: awsconf.Steady(http.DefaultClient),
	})
	if _, err := client.CreateQueue(t.Context(), &sqs.CreateQueueInput{QueueName: aws.String("results")}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "secret"), []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Parse("millrace.yaml", fmt.Appendf(nil, `
gateway: {site: north, id: gw1}
clock: {sync: ignore}
spool: {dir: %[1]s/spool}
control: {socket: %[1]s/c.sock}
sources: [{name: press, type: opcua, scan_rate: 100ms, connection: {url: "%[2]s", security: None}, tags: [{name: setpoint, address: "%[3]s"}]}]
sinks: [{name: out, type: file, dir: %[1]s/out}]
mirror:
  enabled: true
  dir: %[1]s/mirror
  signature: optional
  feeds: [{name: results, type: sqs, queue_url: "%[4]s", region: eu-central-1, endpoint: "%[5]s", credentials: {access_key_id: AKIATEST, secret_access_key: "file:%[1]s/secret"}}]
  devices:
    - {name: hall, type: mqtt, connection: {url: "%[6]s"}}
    - {name: drop, type: csv, connection: {dir: %[1]s/drop, delimiter: ";", decimal: ","}}
  targets:
    - {name: node, mode: armed, feeds: [results], type: int64, min_interval: 0s, write: {to: press, address: "%[3]s"}}
    - {name: topic, mode: armed, feeds: [results], type: float64, min_interval: 0s, write: {to: hall, topic: plant/sp, heartbeat_topic: plant/beat}}
    - {name: file, mode: armed, feeds: [results], type: float64, min_interval: 0s, write: {to: drop}}
`, dir, server.URL(), node, cloud.QueueURL("results"), cloud.URL(awssim.ServiceSQS), broker.URL()),
		config.Registry{Protocols: protocols.List(), Sinks: all.List(), Feeds: feeds.List()})
	if err != nil {
		t.Fatal(err)
	}
	g, err := gateway.New(t.Context(), gateway.Options{
		Config: cfg, Log: slog.New(slog.DiscardHandler), Clock: clock.System{}, Notify: quiet{make(chan string, 10)}, StateDir: dir,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- g.Run(ctx) }()
	until := func(what string, ok func() bool) {
		t.Helper()
		for deadline := time.Now().Add(15 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
			if time.Now().After(deadline) {
				st := g.Status()
				t.Fatalf("%s: never; %+v; %+v", what, st.Mirror, st.Components)
			}
		}
	}
	send := func(target string, version uint64, v sample.Value, valid time.Duration) {
		t.Helper()
		now := time.Now().UTC()
		r := result.Result{
			ID: fmt.Sprint(target, version), Site: "north", Target: target, Version: version, Value: v, Quality: sample.Good,
			ComputedAt: now, ValidFrom: now, ValidUntil: now.Add(valid), Run: "test",
		}
		body, err := r.Encode()
		if err == nil {
			_, err = client.SendMessage(t.Context(), &sqs.SendMessageInput{QueueUrl: aws.String(cloud.QueueURL("results")), MessageBody: aws.String(string(body))})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	outcome := func(i int, what mirror.Outcome, n uint64) func() bool {
		return func() bool { return g.Status().Mirror.Targets[i].Outcomes[string(what)] == n }
	}
	retained := func(piece string) func() bool {
		return func() bool {
			payload, _ := broker.Retained("plant/sp")
			return strings.Contains(string(payload), piece)
		}
	}
	line := func(piece string) func() bool {
		return func() bool {
			data, err := os.ReadFile(filepath.Join(drop, "file.csv"))
			return err == nil && strings.Contains(string(data), piece)
		}
	}

	const valid = 1500 * time.Millisecond
	send("node", 1, sample.IntValue(415), valid)
	send("topic", 1, sample.FloatValue(41.5), valid)
	send("file", 1, sample.FloatValue(41.5), valid)
	for i := range 3 {
		until("the write", outcome(i, mirror.Written, 1))
	}
	if v := server.Value("setpoint"); v.Value.Value() != uint16(415) || v.Status != 0 {
		t.Errorf("the node holds %v, %v", v.Value.Value(), v.Status)
	}
	if !retained(`{"value":41.5,"valid":true,"quality":"Good",`)() || !line("\r\nfile;41,5;;Good;")() {
		t.Error("the topic or the file does not show the value")
	}
	until("the node is called stale", func() bool {
		v := server.Value("setpoint")
		return v.Status == 0x808D0000 && v.Value.Value() == uint16(415)
	})
	until("the topic is called stale", retained(`{"value":41.5,"valid":false,"quality":"Bad",`))
	until("the file is called stale", line("\r\nfile;41,5;;Bad;"))

	send("node", 2, sample.IntValue(70000), time.Hour)
	until("it does not fit", outcome(0, mirror.Unsuited, 1))
	if v := server.Value("setpoint"); v.Value.Value() != uint16(415) {
		t.Errorf("the node holds %v", v.Value.Value())
	}

	broker.Stop()
	if err := os.Rename(drop, drop+".away"); err != nil {
		t.Fatal(err)
	}
	send("topic", 2, sample.FloatValue(99), valid)
	send("file", 2, sample.FloatValue(99), valid)
	until("the topic's result expires", outcome(1, mirror.ExpiredHeld, 1))
	until("the file's result expires", outcome(2, mirror.ExpiredHeld, 1))
	if err := broker.Resume(); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(drop+".away", drop); err != nil {
		t.Fatal(err)
	}
	send("topic", 3, sample.FloatValue(7), time.Hour)
	send("file", 3, sample.FloatValue(7), time.Hour)
	until("the next write", outcome(1, mirror.Written, 2))
	until("the next write", outcome(2, mirror.Written, 2))
	if !retained(`{"value":7,"valid":true,`)() || !line("\r\nfile;7;;Good;")() {
		t.Error("the topic or the file does not show the next value")
	}
	for _, p := range broker.Published() {
		if strings.Contains(string(p.Payload), `"value":99`) {
			t.Errorf("what expired was published: %s", p.Payload)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
}
