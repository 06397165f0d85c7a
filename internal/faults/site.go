package faults

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	awsddb "github.com/aws/aws-sdk-go-v2/service/dynamodb"
	awssqs "github.com/aws/aws-sdk-go-v2/service/sqs"

	"millrace/gateway"
	"millrace/gateway/config"
	"millrace/internal/backoff"
	"millrace/internal/bytesize"
	"millrace/internal/clock"
	"millrace/internal/sim/awssim"
	"millrace/internal/sim/mqttsim"
	"millrace/internal/sim/netsim"
	protocolsall "millrace/protocols/all"
	"millrace/sample"
	"millrace/spool"
	uploaderall "millrace/uploader/all"
)

// The sinks of a site, and the places where their blocks go.
const (
	queueSink = "queue" // a standard SQS queue
	fifoSink  = "fifo"  // a FIFO queue
	tableSink = "table" // week tables in DynamoDB

	fifoName    = "fifo.fifo"
	tablePrefix = "site"
)

// The legs of a site's network.
const (
	legSQS  = "sqs"
	legDDB  = "dynamodb"
	legHTTP = "http"
	legMQTT = "mqtt"
)

// siteOptions say what a site is made of.
type siteOptions struct {
	Sinks []string
	// Broker adds an MQTT source.
	Broker bool
	// Tables are made beforehand, and not by the sink.
	Tables bool
	// MaxBytes is the size at which blocks are sealed; 180 KiB where 0.
	MaxBytes int
}

// site is a whole gateway in this process, with producers that reach it and a
// cloud that it reaches over a network with faults. Its times are a hundredth of
// those of a plant, so that an outage and its end take a second.
type site struct {
	t       *Trial
	o       siteOptions
	ledger  *Ledger
	aws     *awssim.Server
	broker  *mqttsim.Broker
	names   *netsim.Names
	listen  *netsim.Port
	proxies map[string]*netsim.Proxy
	sqs     *awssqs.Client // past the network's faults
	ddb     *awsddb.Client
	logs    syncBuffer

	gateway *gateway.Gateway
	cancel  context.CancelFunc
	ended   chan error

	producing sync.WaitGroup
	quit      context.CancelFunc
	mu        sync.Mutex
	next      map[string]uint64
	inFlight  map[uint16][]byte // MQTT messages by packet identifier
	published int64
	portal    string // where the sinks' connections lead; "" for where they should
}

// The site's times.
const (
	siteTimeout = 400 * time.Millisecond // of a sink's request
	siteCommit  = 20 * time.Millisecond
	siteAge     = 50 * time.Millisecond
)

func siteBackoff() backoff.Policy {
	return backoff.Policy{Base: 5 * time.Millisecond, Max: 150 * time.Millisecond}
}

// syncBuffer is a log that is read while it is written.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write implements io.Writer.
func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// tail is the end of the log, for a failure's message.
func (b *syncBuffer) tail() string {
	text := b.String()
	return strings.ReplaceAll(text[max(0, len(text)-1500):], "\n", " | ")
}

func (t *Trial) newSite(o siteOptions) (*site, error) {
	ledger, err := NewLedger(o.Sinks...)
	if err != nil {
		return nil, err
	}
	s := &site{t: t, o: o, ledger: ledger, proxies: map[string]*netsim.Proxy{}, next: map[string]uint64{}, inFlight: map[uint16][]byte{}}
	if err := s.open(); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

func (s *site) open() (err error) {
	if s.aws, err = awssim.Start(awssim.Options{Seed: s.t.Seed}); err != nil {
		return err
	}
	s.aws.OnAccept(s.accept)
	keys := credentials.NewStaticCredentialsProvider("test", "test", "")
	s.sqs = awssqs.New(awssqs.Options{Region: "eu-central-1", BaseEndpoint: aws.String(s.aws.URL(awssim.ServiceSQS)), Credentials: keys})
	s.ddb = awsddb.New(awsddb.Options{Region: "eu-central-1", BaseEndpoint: aws.String(s.aws.URL(awssim.ServiceDynamoDB)), Credentials: keys})
	if err := s.createQueues(context.Background()); err != nil {
		return err
	}
	if s.o.Tables {
		if err := s.createTables(context.Background()); err != nil {
			return err
		}
	}
	if s.names, err = netsim.StartNames(legSQS+".cloud.test", legDDB+".cloud.test"); err != nil {
		return err
	}
	if s.listen, err = netsim.Reserve(); err != nil {
		return err
	}
	targets := map[string]string{
		legSQS:  strings.TrimPrefix(s.aws.URL(awssim.ServiceSQS), "http://"),
		legDDB:  strings.TrimPrefix(s.aws.URL(awssim.ServiceDynamoDB), "http://"),
		legHTTP: s.listen.Addr(),
	}
	if s.o.Broker {
		if s.broker, err = mqttsim.Start(mqttsim.Options{OnSent: s.sent, OnAck: s.confirmed}); err != nil {
			return err
		}
		targets[legMQTT] = strings.TrimPrefix(s.broker.URL(), "tcp://")
	}
	for i, leg := range []string{legSQS, legDDB, legHTTP, legMQTT} {
		if targets[leg] == "" {
			continue
		}
		if s.proxies[leg], err = netsim.StartProxy(targets[leg], s.t.Seed+uint64(i)<<48); err != nil {
			return err
		}
	}
	return os.WriteFile(s.t.Dir+"/secret", []byte("test"), 0o600)
}

func (s *site) createQueues(ctx context.Context) error {
	for _, sink := range s.o.Sinks {
		in := &awssqs.CreateQueueInput{QueueName: aws.String(sink)}
		switch sink {
		case tableSink:
			continue
		case fifoSink:
			in.QueueName, in.Attributes = aws.String(fifoName), map[string]string{"FifoQueue": "true"}
		}
		if _, err := s.sqs.CreateQueue(ctx, in); err != nil {
			return err
		}
	}
	return nil
}

// close ends everything. What a trial checks of the stop it does itself.
func (s *site) close() error {
	var errs []error
	s.quiet()
	if s.gateway != nil {
		errs = append(errs, s.stop())
	}
	for _, p := range s.proxies {
		errs = append(errs, p.Close())
	}
	if s.listen != nil {
		errs = append(errs, s.listen.Close())
	}
	if s.names != nil {
		errs = append(errs, s.names.Close())
	}
	if s.broker != nil {
		errs = append(errs, s.broker.Close())
	}
	if s.aws != nil {
		errs = append(errs, s.aws.Close())
	}
	return errors.Join(errs...)
}

// accept notes what the cloud has stored.
func (s *site) accept(a awssim.Accepted) {
	sink, data, err := blockOf(a)
	if err != nil {
		s.ledger.mu.Lock()
		s.ledger.find("%s: %v", a.Place, err)
		s.ledger.mu.Unlock()
		return
	}
	s.ledger.Arrive(sink, data)
}

// blockOf returns the block of a message or item, and its sink.
func blockOf(a awssim.Accepted) (sink string, data []byte, err error) {
	if a.Service == awssim.ServiceDynamoDB {
		data, err = awssim.ItemBinary(a.Body, "block")
		return tableSink, data, err
	}
	data, err = base64.StdEncoding.DecodeString(string(a.Body))
	return strings.TrimSuffix(a.Place, ".fifo"), data, err
}

func (s *site) yaml() string {
	var b strings.Builder
	fmt.Fprintf(&b, "gateway: {site: plant, id: gw1}\nspool: {dir: %q, max_size: 64MiB}\ncontrol: {socket: %q}\nsources:\n",
		filepath.Join(s.t.Dir, "spool"), filepath.Join(s.t.Dir, "c.sock"))
	fmt.Fprintf(&b, "  - {name: in, type: http, connection: {listen: %q, max_body: 4MiB, read_timeout: 500ms, commit_timeout: 5s, idle_timeout: 2s}}\n", s.listen.Addr())
	if s.broker != nil {
		fmt.Fprintf(&b, "  - {name: mq, type: mqtt, connection: {url: \"tcp://%s\", connect_timeout: 300ms, keep_alive: 5s, topics: [{filter: \"mq/#\"}]}}\n", s.proxies[legMQTT].Addr())
	}
	b.WriteString("sinks:\n")
	for _, sink := range s.o.Sinks {
		leg, kind := legSQS, fmt.Sprintf("type: sqs, queue_url: %q", s.aws.QueueURL(map[string]string{queueSink: queueSink, fifoSink: fifoName}[sink]))
		if sink == tableSink {
			leg, kind = legDDB, fmt.Sprintf("type: dynamodb, table_prefix: %s, create_tables: %v", tablePrefix, !s.o.Tables)
		}
		_, port, _ := net.SplitHostPort(s.proxies[leg].Addr())
		fmt.Fprintf(&b, "  - {name: %s, %s, region: eu-central-1, endpoint: \"http://%s.cloud.test:%s\", credentials: {access_key_id: test, secret_access_key: %q}}\n",
			sink, kind, leg, port, "file:"+s.t.Dir+"/secret")
	}
	return b.String()
}

func (s *site) log() *slog.Logger { return slog.New(slog.NewTextHandler(&s.logs, nil)) }

// start runs the gateway.
func (s *site) start() error {
	began := time.Now()
	cfg, err := config.Parse("site", []byte(s.yaml()), config.Registry{Protocols: protocolsall.List(), Sinks: uploaderall.List()})
	if err != nil {
		return err
	}
	// Shorter than a configuration may say.
	cfg.Spool.CommitInterval = siteCommit
	for i := range cfg.Sources {
		cfg.Sources[i].Batch.MaxAge = siteAge
		if s.o.MaxBytes > 0 {
			cfg.Sources[i].Batch.MaxBytes = bytesize.Size(s.o.MaxBytes)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	g, err := gateway.New(ctx, gateway.Options{
		Config: cfg, Version: "faults", Log: s.log(), Clock: clock.System{}, Notify: nobody{}, StateDir: s.t.Dir,
		SyncInterval: 50 * time.Millisecond, DeliveryGrace: 500 * time.Millisecond, SendTimeout: siteTimeout, Backoff: siteBackoff(), Dial: s.dial,
	})
	if err != nil {
		cancel()
		return err
	}
	s.gateway, s.cancel, s.ended = g, cancel, make(chan error, 1)
	go func() { s.ended <- g.Run(ctx) }()
	// A broker keeps what is published for sessions that it has.
	for s.broker != nil && len(s.broker.Subscriptions("millrace-plant-mq")) == 0 {
		if time.Since(began) > freshWithin {
			return fmt.Errorf("the gateway does not subscribe: %s", s.logs.tail())
		}
		time.Sleep(2 * time.Millisecond)
	}
	return nil
}

// dial connects a sink, to where its endpoint's name says or to a portal.
func (s *site) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	s.mu.Lock()
	portal := s.portal
	s.mu.Unlock()
	if portal != "" {
		addr = portal
	}
	return s.names.Dial(ctx, network, addr)
}

// stop stops the gateway and waits for it.
func (s *site) stop() error {
	s.cancel()
	select {
	case err := <-s.ended:
		s.gateway = nil
		return err
	case <-time.After(time.Minute):
		return fmt.Errorf("the gateway does not stop: %s", s.logs.tail())
	}
}

// fresh sends a sample by each way in, and waits until they have arrived.
func (s *site) fresh(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, freshWithin, fmt.Errorf("no fresh sample flows within %s of the fault's end", freshWithin))
	defer cancel()
	client := s.client()
	defer client.CloseIdleConnections()
	batch := s.batch("fresh", 1)
	if err := s.deliver(ctx, client, batch); err != nil {
		return fmt.Errorf("post: %w: %s", err, s.logs.tail())
	}
	want := batch
	if s.broker != nil {
		want = append(want, s.publish("fresh"))
	}
	for i := range want {
		if err := s.arrived(ctx, &want[i]); err != nil {
			return err
		}
	}
	return nil
}

// arrived waits until a sample is at every sink.
func (s *site) arrived(ctx context.Context, w *sample.Sample) error {
	for {
		ok, changed := s.ledger.Arrived(w)
		if ok {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("%w: %s did not arrive: %s", context.Cause(ctx), w.Tag, s.logs.tail())
		}
	}
}

// drained waits until the spool holds nothing that some sink lacks.
func (s *site) drained(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, freshWithin, errors.New("the backlog does not drain"))
	defer cancel()
	for {
		st := s.gateway.Status()
		left := int(st.Spool.OpenSamples)
		for _, k := range st.Spool.Sinks {
			left += k.PendingBlocks
		}
		if left == 0 {
			return nil
		}
		if !backoff.Sleep(ctx, 5*time.Millisecond) {
			return fmt.Errorf("%w: %d samples and blocks are left: %s", context.Cause(ctx), left, s.logs.tail())
		}
	}
}

// settle ends a trial whose faults are over: a fresh sample flows, everything
// drains, the gateway stops, and the ledger balances with nothing lost and
// nothing buried.
func (s *site) settle(ctx context.Context) error {
	if err := s.fresh(ctx); err != nil {
		return err
	}
	s.quiet()
	if err := s.drained(ctx); err != nil {
		return err
	}
	if err := s.stop(); err != nil {
		return err
	}
	dead, err := s.dead()
	if err != nil {
		return err
	}
	for _, l := range dead {
		return fmt.Errorf("block %d was buried at %s: %s", l.Number, l.Sink, l.Reason)
	}
	s.t.Logf("%d samples acknowledged", s.ledger.Acked())
	return s.ledger.Check(NoLoss)
}

// letter is a dead letter with its block.
type letter struct {
	spool.DeadLetter
	data []byte
}

// dead reads the dead letters of a gateway that is stopped.
func (s *site) dead() (out []letter, err error) {
	r, err := spool.OpenReadOnly(filepath.Join(s.t.Dir, "spool"))
	if err != nil {
		return nil, err
	}
	defer r.Close()
	list, err := r.Dead()
	if err != nil {
		return nil, err
	}
	for _, l := range list {
		b, err := r.PeekDead(l.ID)
		if err != nil {
			return nil, err
		}
		out = append(out, letter{l, b.Data})
	}
	return out, nil
}

// nobody is the service manager of a site.
type nobody struct{}

func (nobody) Ready(string)                    {}
func (nobody) Status(string)                   {}
func (nobody) Watchdog()                       {}
func (nobody) Stopping(string)                 {}
func (nobody) WatchdogInterval() time.Duration { return 0 }
