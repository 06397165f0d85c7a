package faults

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	awssqs "github.com/aws/aws-sdk-go-v2/service/sqs"

	"millrace/gateway"
	"millrace/gateway/control"
	"millrace/internal/sim/awssim"
	"millrace/internal/sim/mqttsim"
	"millrace/sample"
	"millrace/uploader/awsconf"
)

func killDaemonRow() Row {
	return Row{
		Name: "kill-daemon", What: "kill -9 of the millrace binary itself, fed by HTTP and MQTT, delivering to SQS",
		Short: 2, Medium: 20, Full: 1000, Run: runKillDaemon,
	}
}

// daemon is the millrace binary between producers and a simulated cloud.
type daemon struct {
	t       *Trial
	ledger  *Ledger
	aws     *awssim.Server
	broker  *mqttsim.Broker
	program string
	config  string
	socket  string
	url     string
	cmd     *exec.Cmd
	logs    bytes.Buffer

	mu       sync.Mutex
	inFlight map[uint16][]byte // MQTT messages by packet identifier
}

// runKillDaemon kills the daemon some times under load, and then lets it drain.
func runKillDaemon(ctx context.Context, t *Trial) (n int, err error) {
	d := &daemon{t: t, inFlight: map[uint16][]byte{}}
	if d.program, err = t.daemon(); err != nil {
		return 0, err
	}
	if d.ledger, err = NewLedger("cloud"); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, d.close()) }()
	if err := d.open(ctx); err != nil {
		return 0, err
	}
	producing, quit := context.WithCancel(ctx)
	defer quit()
	var producers sync.WaitGroup
	for i := range 3 {
		producers.Go(func() { d.post(producing, fmt.Sprintf("p%d", i)) })
	}
	producers.Go(func() { d.publish(producing) })
	kills := min(1+t.Rand.IntN(4), t.Left)
	for range kills {
		if err := d.start(); err != nil {
			return n, err
		}
		pause(ctx, time.Duration(t.Rand.IntN(600_000))*time.Microsecond)
		d.kill()
		n++
	}
	if err := d.start(); err != nil {
		return n, err
	}
	if err := d.fresh(ctx); err != nil {
		return n, err
	}
	quit()
	producers.Wait()
	if err := d.drain(ctx); err != nil {
		return n, err
	}
	t.Logf("%d kills, %d samples acknowledged", n, d.ledger.Acked())
	return n, d.ledger.Check(NoLoss)
}

func (d *daemon) open(ctx context.Context) (err error) {
	if d.aws, err = awssim.Start(awssim.Options{Seed: d.t.Seed}); err != nil {
		return err
	}
	d.aws.OnAccept(func(a awssim.Accepted) {
		_, data, err := blockOf(a)
		if err != nil {
			data = nil // the ledger says that it does not decode
		}
		d.ledger.Arrive("cloud", data)
	})
	client := awssqs.New(awssqs.Options{
		Region: "eu-central-1", BaseEndpoint: aws.String(d.aws.URL(awssim.ServiceSQS)),
		Credentials: credentials.NewStaticCredentialsProvider("test", "test", ""), HTTPClient: awsconf.Steady(http.DefaultClient),
	})
	if _, err := client.CreateQueue(ctx, &awssqs.CreateQueueInput{QueueName: aws.String("cloud")}); err != nil {
		return err
	}
	if d.broker, err = mqttsim.Start(mqttsim.Options{OnSent: d.sent, OnAck: d.confirmed}); err != nil {
		return err
	}
	port, err := freePort()
	if err != nil {
		return err
	}
	d.url = fmt.Sprintf("http://127.0.0.1:%d/v1/samples", port)
	d.socket, d.config = filepath.Join(d.t.Dir, "c.sock"), filepath.Join(d.t.Dir, "millrace.yaml")
	text := fmt.Sprintf(`gateway: {site: plant, id: gw1}
spool: {dir: %q, commit_interval: 100ms, max_size: 64MiB, segment_size: 1MiB}
control: {socket: %q}
sources:
  - {name: in, type: http, batch: {max_age: 300ms}, connection: {listen: "127.0.0.1:%d"}}
  - {name: mq, type: mqtt, batch: {max_age: 300ms}, connection: {url: %q, topics: [{filter: "mq/#"}]}}
sinks:
  - {name: cloud, type: sqs, queue_url: %q, region: eu-central-1, endpoint: %q, credentials: {access_key_id: test, secret_access_key: "env:TEST_SECRET"}}
`, filepath.Join(d.t.Dir, "spool"), d.socket, port, d.broker.URL(), d.aws.QueueURL("cloud"), d.aws.URL(awssim.ServiceSQS))
	return os.WriteFile(d.config, []byte(text), 0o600)
}

func (d *daemon) close() error {
	d.kill()
	var errs []error
	if d.broker != nil {
		errs = append(errs, d.broker.Close())
	}
	if d.aws != nil {
		errs = append(errs, d.aws.Close())
	}
	return errors.Join(errs...)
}

func (d *daemon) start() error {
	d.logs.Reset()
	d.cmd = exec.Command(d.program, "run", "--config", d.config)
	d.cmd.Env = append(os.Environ(), "TEST_SECRET=test")
	d.cmd.Stderr = &d.logs
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return d.cmd.Start()
}

// kill ends the process where it runs.
func (d *daemon) kill() {
	if d.cmd == nil {
		return
	}
	_ = d.cmd.Process.Kill() // it may have ended
	_ = d.cmd.Wait()         // killed, as it should be
	d.cmd = nil
}

// post sends batches until ctx is done, each again under the same sequences
// until it is acknowledged.
func (d *daemon) post(ctx context.Context, producer string) {
	client := &http.Client{Timeout: 3 * time.Second}
	defer client.CloseIdleConnections()
	for seq := uint64(1); ctx.Err() == nil; seq += 3 {
		batch := make([]sample.Sample, 3)
		for i := range batch {
			batch[i] = sample.Sample{Tag: "plant/" + producer + "/v", Producer: producer, Seq: seq + uint64(i), Value: sample.FloatValue(float64(seq) + float64(i)/4)}
		}
		for ctx.Err() == nil && !d.sendBatch(ctx, client, batch) {
			pause(ctx, 10*time.Millisecond)
		}
	}
}

// sendBatch tries once.
func (d *daemon) sendBatch(ctx context.Context, client *http.Client, batch []sample.Sample) bool {
	type entry struct {
		Tag   string  `json:"tag"`
		Value float64 `json:"value"`
		Seq   uint64  `json:"seq"`
	}
	var list []entry
	for i := range batch {
		d.ledger.Issue(&batch[i])
		list = append(list, entry{batch[i].Tag[len("plant/"):], batch[i].Value.Float(), batch[i].Seq})
	}
	text, err := json.Marshal(map[string]any{"producer": batch[0].Producer, "samples": list})
	if err != nil {
		panic("BUG: a batch does not encode: " + err.Error())
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, d.url, bytes.NewReader(text))
	if err != nil {
		return false
	}
	r.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(r)
	if err != nil {
		return false
	}
	_ = resp.Body.Close() // its head is the acknowledgement
	if resp.StatusCode != http.StatusOK {
		return false
	}
	for i := range batch {
		d.ledger.Ack(&batch[i])
	}
	return true
}

// publish sends messages of QoS 1, which the broker repeats until they are
// acknowledged.
func (d *daemon) publish(ctx context.Context) {
	at := time.Now().UTC().Truncate(time.Second)
	for i := 1; ctx.Err() == nil; i++ {
		pause(ctx, 2*time.Millisecond)
		m := reading{Value: float64(i) + 0.5, Time: at.Add(time.Duration(i) * time.Millisecond)}
		text, err := json.Marshal(m)
		if err != nil {
			panic("BUG: a reading does not encode: " + err.Error())
		}
		s := m.sample("mq/x")
		d.ledger.Issue(&s)
		_ = d.broker.Publish("mq/x", text, 1, false) // what the broker refuses nobody acknowledges
	}
}

// sent notes a message on its way: each time that it is sent counts.
func (d *daemon) sent(m mqttsim.Sent) {
	var r reading
	if json.Unmarshal(m.Payload, &r) != nil {
		return
	}
	s := r.sample("mq/x")
	d.ledger.Issue(&s)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.inFlight[m.ID] = m.Payload
}

func (d *daemon) confirmed(a mqttsim.Ack) {
	d.mu.Lock()
	text, ok := d.inFlight[a.ID]
	delete(d.inFlight, a.ID)
	d.mu.Unlock()
	var r reading
	if !ok || json.Unmarshal(text, &r) != nil {
		return // confirmed before the broker told of it; not counted
	}
	s := r.sample("mq/x")
	d.ledger.Ack(&s)
}

// fresh posts one sample until it is acknowledged, and waits for its arrival.
func (d *daemon) fresh(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, freshWithin, fmt.Errorf("no fresh sample flows within %s of the last kill", freshWithin))
	defer cancel()
	client := &http.Client{Timeout: 3 * time.Second}
	defer client.CloseIdleConnections()
	batch := []sample.Sample{{Tag: "plant/fresh/v", Producer: "fresh", Seq: 1, Value: sample.FloatValue(1)}}
	for !d.sendBatch(ctx, client, batch) {
		if ctx.Err() != nil {
			return d.gaveUp(context.Cause(ctx))
		}
		pause(ctx, 10*time.Millisecond)
	}
	for {
		ok, changed := d.ledger.Arrived(&batch[0])
		if ok {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return d.gaveUp(context.Cause(ctx))
		}
	}
}

// gaveUp is err with the end of the daemon's log, which is ended for it.
func (d *daemon) gaveUp(err error) error {
	d.kill()
	return fmt.Errorf("%w: %s", err, crashLine(d.logs.String()))
}

// drain waits until nothing is left in the spool, and stops the daemon.
func (d *daemon) drain(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, freshWithin, errors.New("the backlog does not drain"))
	defer cancel()
	for {
		var st gateway.Status
		left := 0
		err := control.Call(ctx, d.socket, "/v1/status", nil, &st)
		if err == nil {
			left = int(st.Spool.OpenSamples)
			for _, s := range st.Spool.Sinks {
				left += s.PendingBlocks
			}
			if left == 0 {
				break
			}
		}
		if ctx.Err() != nil {
			return d.gaveUp(fmt.Errorf("%w: %d samples and blocks are left: %w", context.Cause(ctx), left, err))
		}
		pause(ctx, 20*time.Millisecond)
	}
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	err := d.cmd.Wait()
	d.cmd = nil
	if err != nil {
		return fmt.Errorf("the daemon ended with %w: %s", err, crashLine(d.logs.String()))
	}
	return nil
}
