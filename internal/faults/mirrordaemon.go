package faults

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	awssqs "github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"millrace/gateway/mirror/audit"
	"millrace/internal/sim/awssim"
	"millrace/internal/sim/modbussim"
	"millrace/sample"
	"millrace/sample/result"
	"millrace/uploader/awsconf"
)

func mirrorDaemonRow() Row {
	return Row{
		Name: "mirror-daemon", What: "kill -9 of the millrace binary while it mirrors results from SQS to a Modbus device: no version twice or out of order, nothing that was not allowed, each result has an end in the log",
		Short: 1, Medium: 20, Full: 300, Parallel: 2, Run: runMirrorDaemon,
	}
}

// plcWrite is what the device was told.
type plcWrite struct {
	value   float32
	version uint32
}

// mirrorDaemon is the millrace binary between a queue of results and a device.
type mirrorDaemon struct {
	t       *Trial
	aws     *awssim.Server
	plc     *modbussim.Server
	client  *awssqs.Client
	url     string
	private ed25519.PrivateKey
	program string
	config  string
	dir     string // of the audit log
	cmd     *exec.Cmd
	logs    syncBuffer
	rand    *rand.Rand // the sender's own

	mu      sync.Mutex
	regs    [8]uint16
	writes  []plcWrite
	sent    map[string]sentResult // by message id
	version uint64
}

// sentResult is one message, and why it is refused: "" where it may be written.
type sentResult struct {
	version uint64
	value   float64
	reason  string
}

// runMirrorDaemon kills the daemon some times while results come.
func runMirrorDaemon(ctx context.Context, t *Trial) (n int, err error) {
	d := &mirrorDaemon{t: t, sent: map[string]sentResult{}}
	if d.program, err = t.daemon(); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, d.close()) }()
	if err := d.open(ctx); err != nil {
		return 0, err
	}
	sending, quit := context.WithCancel(ctx)
	defer quit()
	var sender sync.WaitGroup
	var sendErr error
	d.rand = rand.New(rand.NewPCG(t.Rand.Uint64(), 0))
	sender.Go(func() { sendErr = d.send(sending) })
	for range min(1+t.Rand.IntN(4), t.Left) {
		if err := d.start(); err != nil {
			return n, err
		}
		// The mirror is up after some hundred milliseconds.
		pause(ctx, time.Duration(t.Rand.IntN(1_500_000))*time.Microsecond)
		n++
		if err := errors.Join(d.kill(), d.verify()); err != nil {
			return n, err
		}
	}
	if err := d.start(); err != nil {
		return n, err
	}
	pause(ctx, 300*time.Millisecond)
	quit()
	sender.Wait()
	if sendErr != nil {
		return n, sendErr
	}
	if err := d.drain(ctx); err != nil {
		return n, err
	}
	return n, d.check()
}

func (d *mirrorDaemon) open(ctx context.Context) (err error) {
	if _, d.private, err = ed25519.GenerateKey(nil); err != nil {
		return err
	}
	if d.plc, err = modbussim.Start(modbussim.Options{Read: d.read, Write: d.write}); err != nil {
		return err
	}
	if d.aws, err = awssim.Start(awssim.Options{Seed: d.t.Seed}); err != nil {
		return err
	}
	d.client = awssqs.New(awssqs.Options{
		Region: "eu-central-1", BaseEndpoint: aws.String(d.aws.URL(awssim.ServiceSQS)),
		Credentials: credentials.NewStaticCredentialsProvider("test", "test", ""), HTTPClient: awsconf.Steady(http.DefaultClient),
	})
	out, err := d.client.CreateQueue(ctx, &awssqs.CreateQueueInput{QueueName: aws.String("results")})
	if err != nil {
		return err
	}
	d.url, d.dir, d.config = aws.ToString(out.QueueUrl), filepath.Join(d.t.Dir, "mirror"), filepath.Join(d.t.Dir, "millrace.yaml")
	text := fmt.Sprintf(`gateway: {site: plant, id: gw1}
clock: {sync: ignore}
spool: {dir: %q, commit_interval: 100ms, max_size: 64MiB, segment_size: 1MiB}
control: {socket: %q}
sources:
  - {name: plc, type: modbus, scan_rate: 1s, connection: {url: %q}, tags: [{name: v, address: "holding:6", type: uint16}]}
sinks:
  - {name: out, type: file, dir: %q}
mirror:
  enabled: true
  dir: %q
  keys: [{name: cloud, ed25519: %q}]
  feeds:
    - {name: results, type: sqs, queue_url: %q, region: eu-central-1, endpoint: %q, visibility: 10s, credentials: {access_key_id: test, secret_access_key: "env:TEST_SECRET"}}
  targets:
    - name: sp1
      mode: armed
      feeds: [results]
      type: float64
      unit: kW
      min: 0
      max: 1000
      max_step: 1000
      min_interval: 100ms
      max_age: 10m
      verify_within: 500ms
      write: {to: plc, address: "holding:0", type: float32, version_address: "holding:2", validity_address: "holding:4", heartbeat_address: "holding:5"}
`, filepath.Join(d.t.Dir, "spool"), filepath.Join(d.t.Dir, "c.sock"), d.plc.URL(), filepath.Join(d.t.Dir, "out"), d.dir,
		base64.StdEncoding.EncodeToString(d.private.Public().(ed25519.PublicKey)), d.url, d.aws.URL(awssim.ServiceSQS))
	return os.WriteFile(d.config, []byte(text), 0o600)
}

func (d *mirrorDaemon) close() error {
	errs := []error{d.kill()}
	if d.plc != nil {
		errs = append(errs, d.plc.Close())
	}
	if d.aws != nil {
		errs = append(errs, d.aws.Close())
	}
	return errors.Join(errs...)
}

func (d *mirrorDaemon) read(_ uint8, _ modbussim.Table, address uint16, values []uint16) modbussim.Exception {
	d.mu.Lock()
	defer d.mu.Unlock()
	copy(values, d.regs[min(int(address), len(d.regs)):])
	return 0
}

func (d *mirrorDaemon) write(_ uint8, _ modbussim.Table, address uint16, values []uint16) modbussim.Exception {
	d.mu.Lock()
	defer d.mu.Unlock()
	if int(address)+len(values) > len(d.regs) {
		return modbussim.IllegalDataAddress
	}
	copy(d.regs[address:], values)
	if address < 4 {
		r := &d.regs
		d.writes = append(d.writes, plcWrite{math.Float32frombits(uint32(r[0])<<16 | uint32(r[1])), uint32(r[2])<<16 | uint32(r[3])})
	}
	return 0
}

func (d *mirrorDaemon) start() error {
	d.cmd = exec.Command(d.program, "run", "--config", d.config)
	d.cmd.Env = append(os.Environ(), "TEST_SECRET=test")
	d.cmd.Stderr = &d.logs
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return d.cmd.Start()
}

// kill ends the process where it runs. That it had ended by itself is an error.
func (d *mirrorDaemon) kill() error {
	if d.cmd == nil {
		return nil
	}
	_ = d.cmd.Process.Kill() // it may have ended, which is told next
	_ = d.cmd.Wait()         // killed, as it should be
	status, ok := d.cmd.ProcessState.Sys().(syscall.WaitStatus)
	d.cmd = nil
	if ok && !status.Signaled() {
		return fmt.Errorf("the daemon ended by itself: %s", d.logs.tail())
	}
	return nil
}

// send sends results until ctx is done, a third of them spoilt.
func (d *mirrorDaemon) send(ctx context.Context) error {
	for ctx.Err() == nil {
		d.mu.Lock()
		body, s, err := d.next()
		d.mu.Unlock()
		if err != nil {
			return err
		}
		out, err := d.client.SendMessage(context.WithoutCancel(ctx), &awssqs.SendMessageInput{QueueUrl: &d.url, MessageBody: &body})
		if err != nil {
			return err
		}
		d.mu.Lock()
		d.sent[aws.ToString(out.MessageId)] = s
		d.mu.Unlock()
		pause(ctx, time.Duration(d.rand.IntN(30_000))*time.Microsecond)
	}
	return nil
}

// next makes a result. The caller holds mu.
func (d *mirrorDaemon) next() (body string, s sentResult, err error) {
	d.version++
	now := time.Now().UTC()
	r := result.Result{
		ID: fmt.Sprintf("r%d", d.version), Site: "plant", Target: "sp1", Version: d.version, Value: sample.FloatValue(float64(d.rand.IntN(4000)) / 4),
		Unit: "kW", ComputedAt: now, ValidFrom: now, ValidUntil: now.Add(10 * time.Minute), Run: "battery",
	}
	sign := true
	switch d.rand.IntN(18) {
	case 0:
		r.Value, s.reason = sample.FloatValue(1001), "above_max"
	case 1:
		r.Site, s.reason = "elsewhere", "wrong_site"
	case 2:
		r.ValidUntil, s.reason = now, "expired"
		r.ValidFrom, r.ComputedAt = now.Add(-time.Minute), now.Add(-time.Minute)
	case 3:
		sign, s.reason = false, "unsigned"
	case 4:
		r.Unit, s.reason = "MW", "wrong_unit"
	case 5:
		r.Target, s.reason = "sp9", "unknown_target"
	}
	s.version, s.value = r.Version, r.Value.Float()
	if sign {
		r.Sign("cloud", d.private)
	}
	text, err := r.Encode()
	if err == nil && d.rand.IntN(18) == 0 {
		text, s.reason = text[:len(text)-1], "not_json"
	}
	return string(text), s, err
}

// verify is `millrace mirror audit verify`. Before the first start there is
// nothing, and a line that a kill cut off is no fault.
func (d *mirrorDaemon) verify() error {
	if files, err := filepath.Glob(filepath.Join(d.dir, "audit-*.jsonl")); err != nil || len(files) == 0 {
		return err
	}
	rep, err := audit.Verify(d.dir, nil, nil)
	if err != nil {
		return err
	}
	if !rep.Whole() {
		return fmt.Errorf("the audit log does not verify: %q", rep.Faults)
	}
	return nil
}

// drain waits until the queue is empty, and stops the daemon.
func (d *mirrorDaemon) drain(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, freshWithin, errors.New("the queue of results does not drain"))
	defer cancel()
	for {
		out, err := d.client.GetQueueAttributes(ctx, &awssqs.GetQueueAttributesInput{QueueUrl: &d.url, AttributeNames: []types.QueueAttributeName{
			types.QueueAttributeNameApproximateNumberOfMessages, types.QueueAttributeNameApproximateNumberOfMessagesNotVisible,
		}})
		if err == nil && out.Attributes["ApproximateNumberOfMessages"] == "0" && out.Attributes["ApproximateNumberOfMessagesNotVisible"] == "0" {
			break
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%w: %w: %s", context.Cause(ctx), err, d.logs.tail())
		}
		pause(ctx, 50*time.Millisecond)
	}
	pause(ctx, time.Second) // the last one that waits has its turn
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	err := d.cmd.Wait()
	d.cmd = nil
	if err != nil {
		return fmt.Errorf("the daemon ended with %w: %s", err, crashLine(d.logs.String()))
	}
	return d.verify()
}

// check holds device and log to what was sent.
func (d *mirrorDaemon) check() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	allowed := map[uint64]float64{}
	for _, s := range d.sent {
		if s.reason == "" {
			allowed[s.version] = s.value
		}
	}
	last := uint32(0)
	for _, w := range d.writes {
		if value, ok := allowed[uint64(w.version)]; !ok || float32(value) != w.value {
			fault("version %d, %g, was written, and that was not allowed", w.version, w.value)
		}
		if w.version <= last {
			fault("version %d was written after version %d", w.version, last)
		}
		last = w.version
	}
	ends := map[string][]string{}
	intents := map[uint64]bool{}
	// A message that a killed gateway had received comes again later: then a newer
	// version may have been accepted, which is asked first.
	overtaken := map[string]bool{}
	newest := uint64(0)
	err := audit.Show(d.dir, audit.Filter{}, func(r *audit.Record) error {
		if r.Kind == "held" {
			newest = max(newest, r.Version)
		}
		if r.Reason == "not_newer" && r.Version <= newest {
			overtaken[r.Message] = true
		}
		switch {
		case r.Kind == "intent":
			intents[r.Version] = true
		case r.Kind == "outcome" && r.Reason != "":
			ends[r.Message] = append(ends[r.Message], r.Reason)
		case r.Kind == "outcome":
			ends[r.Message] = append(ends[r.Message], r.Outcome)
		}
		return nil
	})
	for id, s := range d.sent {
		switch {
		case len(ends[id]) == 0:
			fault("version %d was sent, and the log has no end of it", s.version)
		case s.reason != "" && !slices.Contains(ends[id], s.reason) && !overtaken[id]:
			fault("version %d is to be refused for %s, and was %q", s.version, s.reason, ends[id])
		}
	}
	for _, w := range d.writes {
		if !intents[uint64(w.version)] {
			fault("version %d was written without an intent in the log", w.version)
		}
	}
	if len(d.writes) == 0 {
		fault("nothing was written: %s", d.logs.tail())
	}
	d.t.Logf("%d results sent, %d written", len(d.sent), len(d.writes))
	return errors.Join(append(faults[:min(len(faults), 10)], err)...)
}
