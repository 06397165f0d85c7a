package main

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"millrace/gateway/mirror/audit"
	"millrace/internal/sim/awssim"
	"millrace/internal/sim/modbussim"
	"millrace/sample"
	"millrace/sample/result"
)

const (
	mirrorResults = 500 // that are timed, one after the other
	floodTargets  = 10
	floodRate     = 1000 // results a second, over all targets
	floodInterval = time.Second
	// readHolding is the function by which the mirror reads back: MODBUS
	// Application Protocol V1.1b3, 6.3.
	readHolding = 3
)

// scada is the world of a mirror: a queue of results and a PLC.
type scada struct {
	aws     *awssim.Server
	plc     *modbussim.Server
	client  *sqs.Client
	url     string
	private ed25519.PrivateKey
	targets int

	mu       sync.Mutex
	regs     [16 * floodTargets]uint16
	writes   []int // values written, by target
	queued   time.Time
	want     float32
	verified chan time.Time // told when the wanted value was read back from the first target
}

func newScada(ctx context.Context, targets int) (s *scada, err error) {
	s = &scada{targets: targets, writes: make([]int, targets), verified: make(chan time.Time, 1)}
	if _, s.private, err = ed25519.GenerateKey(nil); err != nil {
		return nil, err
	}
	if s.plc, err = modbussim.Start(modbussim.Options{Read: s.read, Write: s.write, OnReply: s.replied}); err != nil {
		return nil, err
	}
	if s.aws, err = awssim.Start(awssim.Options{}); err != nil {
		return nil, errors.Join(err, s.close())
	}
	s.aws.OnAccept(func(awssim.Accepted) {
		now := time.Now()
		s.mu.Lock()
		defer s.mu.Unlock()
		s.queued = now
	})
	s.client = sqs.New(sqs.Options{
		Region: "eu-central-1", BaseEndpoint: aws.String(s.aws.URL(awssim.ServiceSQS)), HTTPClient: http.DefaultClient,
		Credentials: credentials.NewStaticCredentialsProvider("bench", "bench", ""),
	})
	out, err := s.client.CreateQueue(ctx, &sqs.CreateQueueInput{QueueName: aws.String("results")})
	if err != nil {
		return nil, errors.Join(err, s.close())
	}
	s.url = aws.ToString(out.QueueUrl)
	return s, nil
}

func (s *scada) close() error {
	err := s.plc.Close()
	if s.aws != nil {
		err = errors.Join(err, s.aws.Close())
	}
	return err
}

func (s *scada) read(_ uint8, _ modbussim.Table, address uint16, values []uint16) modbussim.Exception {
	s.mu.Lock()
	defer s.mu.Unlock()
	copy(values, s.regs[min(int(address), len(s.regs)):])
	return 0
}

// write takes a block: a float32, its version, its validity and a heartbeat.
func (s *scada) write(_ uint8, _ modbussim.Table, address uint16, values []uint16) modbussim.Exception {
	s.mu.Lock()
	defer s.mu.Unlock()
	if int(address)+len(values) > len(s.regs) {
		return modbussim.IllegalDataAddress
	}
	copy(s.regs[address:], values)
	if address%16 == 0 && len(values) >= 4 {
		s.writes[address/16]++
	}
	return 0
}

// replied notes the moment when the device has told the mirror what stands
// there, and that is what was wanted.
func (s *scada) replied(r modbussim.Reply) {
	if r.Function != readHolding || r.Address != 0 || len(r.Values) < 2 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if v := math.Float32frombits(uint32(r.Values[0])<<16 | uint32(r.Values[1])); s.want != 0 && v == s.want {
		s.want = 0
		s.verified <- r.Written
	}
}

// config is the source and the mirror in YAML.
func (s *scada) config(dir string, interval time.Duration) (source, mirror string, err error) {
	secret := filepath.Join(dir, "secret")
	if err := os.WriteFile(secret, []byte("bench\n"), 0o600); err != nil {
		return "", "", err
	}
	var b strings.Builder
	fmt.Fprintf(&b, `clock: {sync: ignore}
mirror:
  enabled: true
  dir: %q
  keys: [{name: bench, ed25519: %q}]
  feeds:
    - {name: results, type: sqs, queue_url: %q, region: eu-central-1, endpoint: %q, credentials: {access_key_id: bench, secret_access_key: "file:%s"}}
  targets:
`, filepath.Join(dir, "mirror"), base64.StdEncoding.EncodeToString(s.private.Public().(ed25519.PublicKey)), s.url, s.aws.URL(awssim.ServiceSQS), secret)
	for i := range s.targets {
		at := 16 * i
		fmt.Fprintf(&b, `    - {name: sp%d, mode: armed, feeds: [results], type: float64, min: 0, max: 1000000, max_step: 1000000, min_interval: %s, max_age: 1m,
       write: {to: plc, address: "holding:%d", type: float32, version_address: "holding:%d", validity_address: "holding:%d", heartbeat_address: "holding:%d"}}
`, i, interval, at, at+2, at+4, at+5)
	}
	source = fmt.Sprintf("  - {name: plc, type: modbus, scan_rate: 1s, connection: {url: %q}, tags: [{name: v, address: \"holding:8\", type: uint16}]}\n", s.plc.URL())
	return source, b.String(), nil
}

// body is one result in JSON.
func (s *scada) body(target int, version uint64, value float64) (string, error) {
	now := time.Now().UTC()
	r := result.Result{
		ID: fmt.Sprintf("sp%d-%d", target, version), Site: "bench", Target: fmt.Sprintf("sp%d", target), Version: version, Value: sample.FloatValue(value),
		ComputedAt: now, ValidFrom: now, ValidUntil: now.Add(time.Minute), Run: "bench",
	}
	r.Sign("bench", s.private)
	text, err := r.Encode()
	return string(text), err
}

// mirror: how long a result takes from the queue to the read-back, and what
// flooding costs.
func (b *bench) mirror() ([]figure, error) {
	latency, err := b.mirrorLatency()
	if err != nil {
		return nil, err
	}
	flood, err := b.mirrorFlood()
	return append(latency, flood...), err
}

// startMirror runs a gateway between a queue and a PLC.
func (b *bench) startMirror(name string, s *scada, interval time.Duration) (*daemon, string, error) {
	dir := filepath.Join(b.dir, name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, "", err
	}
	source, mirror, err := s.config(dir, interval)
	if err != nil {
		return nil, "", err
	}
	d, err := b.start(setup{name: name, sources: source, more: mirror})
	return d, filepath.Join(dir, "mirror"), err
}

// mirrorLatency sends results one after the other.
func (b *bench) mirrorLatency() ([]figure, error) {
	s, err := newScada(b.ctx, 1)
	if err != nil {
		return nil, err
	}
	defer func() { _ = s.close() }() // the measurement is over
	d, _, err := b.startMirror("mirror", s, 0)
	if err != nil {
		return nil, err
	}
	defer d.stop()
	var took []float64
	for i := range uint64(mirrorResults) {
		value := float64(1000 + i)
		body, err := s.body(0, i+1, value)
		if err != nil {
			return nil, err
		}
		s.mu.Lock()
		s.want = float32(value)
		s.mu.Unlock()
		if _, err := s.client.SendMessage(b.ctx, &sqs.SendMessageInput{QueueUrl: &s.url, MessageBody: &body}); err != nil {
			return nil, err
		}
		select {
		case at := <-s.verified:
			s.mu.Lock()
			took = append(took, float64(at.Sub(s.queued))/1e6)
			s.mu.Unlock()
		case <-time.After(10 * time.Second):
			return nil, fmt.Errorf("result %d was not written: %s", i+1, tail(d.log))
		case <-b.ctx.Done():
			return nil, b.ctx.Err()
		}
		pause(b.ctx, 10*time.Millisecond)
	}
	slices.Sort(took)
	note := fmt.Sprintf("%d results, local endpoints, signed; accepted, intended and written are durable, each by itself", len(took))
	return []figure{
		{name: "message in the queue to verified write, median", measured: took[len(took)/2], unit: "ms", bar: 50, note: note},
		{name: "the same, 99 of 100", measured: took[len(took)*99/100], unit: "ms"},
	}, nil
}

// mirrorFlood sends more than is ever written, for the bench's time.
func (b *bench) mirrorFlood() ([]figure, error) {
	s, err := newScada(b.ctx, floodTargets)
	if err != nil {
		return nil, err
	}
	defer func() { _ = s.close() }() // the measurement is over
	d, dir, err := b.startMirror("flood", s, floodInterval)
	if err != nil {
		return nil, err
	}
	stopped := false
	defer func() {
		if !stopped {
			d.stop()
		}
	}()
	before, _, err := d.memory()
	if err != nil {
		return nil, err
	}
	began := time.Now()
	sent, most, err := s.flood(b.ctx, d, b.d/2)
	if err != nil {
		return nil, err
	}
	took := time.Since(began)
	if err := s.drained(b.ctx); err != nil {
		return nil, fmt.Errorf("%w: %s", err, tail(d.log))
	}
	pause(b.ctx, 2*floodInterval) // the last ones wait for their turn
	over := time.Since(began)
	d.stop()
	stopped = true
	ends, err := endsIn(dir)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	fastest := slices.Max(s.writes)
	s.mu.Unlock()
	return []figure{
		{name: "flood: results sent to 10 targets", measured: float64(sent) / took.Seconds(), unit: "/s", note: fmt.Sprintf("%d in %.0f s", sent, took.Seconds())},
		{name: "flood: memory above that before, peak", measured: most - before, unit: "MB", bar: 30, note: "anonymous"},
		{name: "flood: writes a second to the busiest target", measured: float64(fastest-1) / over.Seconds(), unit: "/s", bar: 1 / floodInterval.Seconds(), note: "min_interval 1s"},
		{name: "flood: results with an end in the audit log", measured: 100 * float64(ends) / float64(sent), unit: "%", bar: 100, atLeast: true},
	}, nil
}

// flood sends floodRate results a second, in batches of ten, one for each
// target, and returns how many, and the gateway's most memory meanwhile, in MB.
func (s *scada) flood(ctx context.Context, d *daemon, over time.Duration) (sent int, most float64, err error) {
	tick := time.NewTicker(time.Second * floodTargets / floodRate)
	defer tick.Stop()
	end := time.Now().Add(over)
	for version := uint64(1); time.Now().Before(end) && ctx.Err() == nil; version++ {
		<-tick.C
		var entries []types.SendMessageBatchRequestEntry
		for i := range s.targets {
			body, err := s.body(i, version, float64(version))
			if err != nil {
				return sent, most, err
			}
			entries = append(entries, types.SendMessageBatchRequestEntry{Id: aws.String(fmt.Sprint(i)), MessageBody: &body})
		}
		out, err := s.client.SendMessageBatch(ctx, &sqs.SendMessageBatchInput{QueueUrl: &s.url, Entries: entries})
		if err != nil {
			return sent, most, err
		}
		sent += len(out.Successful)
		if version%100 == 0 {
			now, _, err := d.memory()
			if err != nil {
				return sent, most, err
			}
			most = max(most, now)
		}
	}
	return sent, most, ctx.Err()
}

// drained waits until the queue is empty.
func (s *scada) drained(ctx context.Context) error {
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); pause(ctx, 200*time.Millisecond) {
		out, err := s.client.GetQueueAttributes(ctx, &sqs.GetQueueAttributesInput{QueueUrl: &s.url, AttributeNames: []types.QueueAttributeName{
			types.QueueAttributeNameApproximateNumberOfMessages, types.QueueAttributeNameApproximateNumberOfMessagesNotVisible,
		}})
		if err != nil {
			return err
		}
		left := 0
		for _, n := range out.Attributes {
			if n != "0" {
				left++
			}
		}
		if left == 0 {
			return nil
		}
	}
	return errors.New("the queue of results does not drain")
}

// endsIn counts the results that have an outcome that ends them.
func endsIn(dir string) (int, error) {
	ended := map[string]bool{}
	err := audit.Show(dir, audit.Filter{}, func(r *audit.Record) error {
		if r.Kind == "outcome" && r.Outcome != "unsent" {
			ended[r.ID] = true
		}
		return nil
	})
	return len(ended), err
}
