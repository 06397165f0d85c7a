package faults

import (
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	awsddb "github.com/aws/aws-sdk-go-v2/service/dynamodb"
	awssqs "github.com/aws/aws-sdk-go-v2/service/sqs"

	"millrace/gateway"
	"millrace/gateway/config"
	"millrace/internal/bytesize"
	"millrace/internal/clock"
	"millrace/internal/sim/awssim"
	"millrace/internal/sim/netsim"
	"millrace/protocols"
	"millrace/sample"
	"millrace/sample/block"
	"millrace/sample/ledger"
	uploaderall "millrace/uploader/all"
)

// TestOutageTrial is one trial of the outage row. It runs where the row starts
// it, in a process of its own.
func TestOutageTrial(t *testing.T) {
	dir := os.Getenv(outageEnv)
	if dir == "" {
		t.Skip("it is run by the outage row: make faults ROW=outage")
	}
	seed, err := strconv.ParseUint(os.Getenv(seedEnv), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		o := &outage{T: t, dir: dir, rnd: rand.New(rand.NewPCG(seed, 0)), seed: seed}
		o.run()
	})
}

// kindsOfOutage are the ways in which a cloud is away for days.
var kindsOfOutage = []string{"refused", "dark", "down", "expired", "denied", "skewed", "throttled", "failing", "missing"}

// outage is one gateway and its cloud in a bubble of fake time.
type outage struct {
	*testing.T
	dir  string
	rnd  *rand.Rand
	seed uint64

	kind    string
	lasts   time.Duration
	delay   time.Duration // that a throttling cloud asks for
	service string
	tags    int
	max     int64
	maxAge  time.Duration
	policy  string // when_full of the source
	ledger  *Ledger
	cloud   *awssim.Server
	nets    map[string]*netsim.Memory
	clock   *clock.Fake
	gateway *gateway.Gateway
	logs    countedLog

	mu       sync.Mutex
	arrived  time.Time
	scanned  time.Time  // the last scan
	probe    int        // of order, when the first request after the outage was answered
	requests [][]uint64 // sequences of the scans' stream, as they arrived, by request
}

// countedLog counts the lines of a log by the hour, and keeps the last ones.
type countedLog struct {
	mu    sync.Mutex
	hours map[int64]map[string]int // by what the line says
	lines []string
	// refusing says that the line stood there by which the spool refuses, also
	// where it is not kept any more.
	refusing  bool
	evictions map[int64]int // lines of an hour that say what is evicted
}

// Write implements io.Writer; slog writes one line at a time.
func (l *countedLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.hours == nil {
		l.hours, l.evictions = map[int64]map[string]int{}, map[int64]int{}
	}
	line := strings.TrimSpace(string(p))
	hour := time.Now().Unix() / 3600
	if strings.Contains(line, "the oldest data leaves the spool and is declared lost") {
		l.evictions[hour]++
		return len(p), nil
	}
	if l.hours[hour] == nil {
		l.hours[hour] = map[string]int{}
	}
	_, msg, _ := strings.Cut(line, "msg=")
	l.hours[hour][msg[:min(len(msg), 40)]]++
	l.refusing = l.refusing || strings.Contains(line, "nothing more is taken")
	l.lines = append(l.lines, line)
	if len(l.lines) > 2000 {
		l.lines = append(l.lines[:200], l.lines[1000:]...) // the beginning says what it is about
	}
	return len(p), nil
}

// refused reports whether the log has ever said that the spool refuses.
func (l *countedLog) refused() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.refusing
}

func (l *countedLog) has(text string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range l.lines {
		if strings.Contains(line, text) {
			return line
		}
	}
	return ""
}

func (o *outage) run() {
	o.plan()
	o.open()
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- o.gateway.Run(ctx) }()
	time.Sleep(time.Duration(30+o.rnd.IntN(90)) * time.Minute)
	if o.ledgerArrived() == 0 {
		o.Errorf("nothing arrived before the outage: %v", o.logs.lines)
	}
	end := o.begin()
	o.watch()
	o.mu.Lock()
	o.probe = len(o.requests) + 1
	o.mu.Unlock()
	end()
	o.recover(time.Now())
	left := o.pending()
	stop()
	if err := <-ended; err != nil {
		o.Errorf("the gateway ended with %v", err)
	}
	o.check(left)
	for _, n := range o.nets {
		_ = n.Close() // some are closed by the cloud's end already
	}
	_ = o.cloud.Close() // its listeners are closed
	synctest.Wait()
}

// plan draws what the trial is like.
func (o *outage) plan() {
	o.kind = kindsOfOutage[o.rnd.IntN(len(kindsOfOutage))]
	o.lasts = 72 * time.Hour
	switch long := o.rnd.IntN(3) == 0; {
	case testing.Short():
		o.lasts = 24 * time.Hour
	case long:
		o.lasts = 30 * 24 * time.Hour
	}
	o.service = []string{awssim.ServiceSQS, awssim.ServiceDynamoDB}[o.rnd.IntN(2)]
	o.delay = time.Duration(o.rnd.IntN(3)) * 5 * time.Second
	o.tags = 5 + o.rnd.IntN(30)
	o.maxAge = []time.Duration{time.Minute, 3 * time.Minute, 10 * time.Minute}[o.rnd.IntN(3)]
	o.max = int64(1+o.rnd.IntN(3)) << 20
	o.policy = []string{config.DropOldest, config.Refuse}[o.rnd.IntN(2)]
	if o.policy == config.Refuse { // less leaves no room beside what the others are left
		o.max = max(o.max, 2<<20)
	}
	o.Logf("log: %s for %s, %s, %d tags, bound %d MiB, %s", o.kind, o.lasts, o.service, o.tags, o.max>>20, o.policy)
}

func (o *outage) open() {
	var err error
	sink := map[string]string{awssim.ServiceSQS: queueSink, awssim.ServiceDynamoDB: tableSink}[o.service]
	if o.ledger, err = NewLedger(sink); err != nil {
		o.Fatal(err)
	}
	o.nets = map[string]*netsim.Memory{awssim.ServiceSQS: netsim.NewMemory(), awssim.ServiceDynamoDB: netsim.NewMemory()}
	o.cloud, err = awssim.Start(awssim.Options{Seed: o.seed, Listen: func(service string) (net.Listener, error) { return o.nets[service], nil }})
	if err != nil {
		o.Fatal(err)
	}
	o.cloud.OnAccept(o.accept)
	o.operator(true)
	text := fmt.Sprintf("gateway: {site: plant, id: gw1}\nspool: {dir: %q, commit_interval: 10s}\ncontrol: {socket: %q}\nsources: [{name: in, type: scan, scan_rate: 1m, when_full: %s, batch: {max_age: %s}}]\nsinks: [{name: %s, concurrency: 1, region: eu-central-1, endpoint: \"http://%s\", credentials: {access_key_id: test, secret_access_key: %q}, %s}]\n",
		filepath.Join(o.dir, "spool"), filepath.Join(o.dir, "none", "socket"), o.policy, o.maxAge, sink, o.service, "file:"+filepath.Join(o.dir, "secret"),
		map[string]string{
			awssim.ServiceSQS:      fmt.Sprintf("type: sqs, queue_url: %q", o.cloud.QueueURL(queueSink)),
			awssim.ServiceDynamoDB: fmt.Sprintf("type: dynamodb, table_prefix: %s, create_tables: false", tablePrefix),
		}[o.service])
	// A local socket's listener would wait for the machine, and fake time with
	// it: a file in its place keeps it from being served.
	for name, what := range map[string]string{"secret": "test", "none": ""} {
		if err := os.WriteFile(filepath.Join(o.dir, name), []byte(what), 0o600); err != nil {
			o.Fatal(err)
		}
	}
	cfg, err := config.Parse("outage", []byte(text), config.Registry{Protocols: []protocols.Protocol{scanProtocol{o}}, Sinks: uploaderall.List()})
	if err != nil {
		o.Fatal(err)
	}
	cfg.Spool.MaxSize, cfg.Spool.SegmentSize = bytesize.Size(o.max), segmentSize
	o.clock = clock.NewRunningFake(time.Now())
	o.gateway, err = gateway.New(context.Background(), gateway.Options{
		Config: cfg, Version: "faults", Log: slog.New(slog.NewTextHandler(&o.logs, nil)), Clock: o.clock, Notify: nobody{}, StateDir: o.dir,
		SyncInterval: 20 * time.Second, Dial: o.dial,
	})
	if err != nil {
		o.Fatal(err)
	}
}

func (o *outage) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	service, _, _ := strings.Cut(addr, ":")
	return o.nets[service].Dial(ctx, network, addr)
}

// accept notes what the cloud stored, and in which order.
func (o *outage) accept(a awssim.Accepted) {
	sink, data, err := blockOf(a)
	if err != nil {
		o.Error(err)
		return
	}
	o.ledger.Arrive(sink, data)
	o.mu.Lock()
	defer o.mu.Unlock()
	first := a.WireBytes > 0
	o.arrived = time.Now()
	if h, err := block.ReadHeader(data); err == nil && h.Stream == "s0001" {
		if first || len(o.requests) == 0 {
			o.requests = append(o.requests, nil)
		}
		last := &o.requests[len(o.requests)-1]
		*last = append(*last, h.Seq)
	}
}

func (o *outage) ledgerArrived() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.requests)
}

// operator makes, or removes, queue and tables.
func (o *outage) operator(there bool) {
	ctx := context.Background()
	// No connection is kept: none must outlive the bubble.
	over := &http.Client{Transport: &http.Transport{DialContext: o.dial, DisableKeepAlives: true}}
	keys := credentials.NewStaticCredentialsProvider("test", "test", "")
	queues := awssqs.New(awssqs.Options{Region: "eu-central-1", BaseEndpoint: aws.String("http://" + awssim.ServiceSQS), Credentials: keys, HTTPClient: over})
	tables := awsddb.New(awsddb.Options{Region: "eu-central-1", BaseEndpoint: aws.String("http://" + awssim.ServiceDynamoDB), Credentials: keys, HTTPClient: over})
	var err error
	switch {
	case there && o.service == awssim.ServiceSQS:
		_, err = queues.CreateQueue(ctx, &awssqs.CreateQueueInput{QueueName: aws.String(queueSink)})
	case o.service == awssim.ServiceSQS:
		_, err = queues.DeleteQueue(ctx, &awssqs.DeleteQueueInput{QueueUrl: aws.String(o.cloud.QueueURL(queueSink))})
	case there:
		// Those of an outage of a month as well: blocks of its weeks wait.
		err = createTables(ctx, tables, time.Now().AddDate(0, 0, -35), 12)
	default:
		err = dropTables(ctx, tables)
	}
	if err != nil {
		o.Fatal(err)
	}
}

// begin begins the outage and returns what ends it.
func (o *outage) begin() (end func()) {
	faults := map[string]awssim.Faults{
		"down": {Down: true}, "expired": {Expired: true}, "denied": {Denied: true}, "skewed": {Skewed: true},
		"throttled": {Throttled: 1, RetryAfter: o.delay}, "failing": {Failing: 1},
	}
	switch o.kind {
	case "refused":
		o.nets[o.service].Set(netsim.Refused)
		return func() { o.nets[o.service].Set(netsim.Up) }
	case "dark":
		o.nets[o.service].Set(netsim.Dark)
		return func() { o.nets[o.service].Set(netsim.Up) }
	case "missing":
		o.operator(false)
		return func() { o.operator(true) }
	}
	o.cloud.SetFaults(o.service, faults[o.kind])
	return func() { o.cloud.SetFaults(o.service, awssim.Faults{}) }
}

// tries counts what the gateway tried at the cloud.
func (o *outage) tries() int {
	return max(o.nets[o.service].Dials(), int(o.cloud.Stats(o.service).Requests))
}

// segmentSize is small, so that a bound of MiBs has several.
const segmentSize = 256 << 10

// mostTries is how many requests an hour are few: the back-off waits 13.75 s on
// average once it has grown, and each week's table takes a request of its own.
const mostTries = 2 * 3600 / 10

// mostLines is how many lines an hour are few: one a minute while a delivery is
// held, and what the forecast says. Besides these there is one whenever a segment
// gives up something.
const mostLines = 70

// watch lets the outage last.
func (o *outage) watch() {
	began := time.Now()
	tries := o.tries()
	most := 0
	for hour := 0; time.Since(began) < o.lasts; hour++ {
		for range 60 {
			time.Sleep(time.Minute)
			if st := o.gateway.Status().Spool; st.DiskBytes > o.max {
				o.Fatalf("the spool says that it has %d bytes on disk, the bound is %d", st.DiskBytes, o.max)
			}
		}
		if n := o.onDisk(); n > o.max {
			o.Fatalf("after %s the spool's files have %d bytes, the bound is %d", time.Since(began), n, o.max)
		}
		now := o.tries()
		if hour > 0 { // in the first, the back-off grows
			most = max(most, now-tries)
		}
		tries = now
	}
	few := mostTries
	if o.delay > 0 { // the server asks for a try that soon
		few = max(few, int(2*time.Hour/o.delay))
	}
	if most > few {
		o.Errorf("%d tries in one hour, at most %d are few", most, few)
	}
	o.logs.mu.Lock()
	defer o.logs.mu.Unlock()
	lines := 0
	var worst map[string]int
	for _, hour := range o.logs.hours {
		n := 0
		for _, of := range hour {
			n += of
		}
		if n > lines {
			lines, worst = n, hour
		}
	}
	if lines > mostLines {
		o.Errorf("%d lines in one hour, at most %d are few: %v", lines, mostLines, worst)
	}
	evictions, segments := 0, int(o.max/segmentSize)
	for _, n := range o.logs.evictions {
		evictions = max(evictions, n)
	}
	if evictions > 3*segments {
		o.Errorf("%d lines in one hour say that something is evicted, of %d segments", evictions, segments)
	}
	o.Logf("log: at most %d tries, %d lines and %d evictions an hour: %v", most, lines, evictions, worst)
}

func (o *outage) onDisk() (n int64) {
	err := filepath.WalkDir(filepath.Join(o.dir, "spool"), func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			n += info.Size()
		}
		return nil // a segment may leave meanwhile
	})
	if err != nil {
		o.Error(err)
	}
	return n
}

// recover sees how it goes on once the outage is over.
func (o *outage) recover(over time.Time) {
	for o.lastArrival().Before(over) && time.Since(over) < time.Hour {
		time.Sleep(time.Second)
	}
	took := o.lastArrival().Sub(over)
	if took < 0 || took > freshWithin {
		o.Errorf("the first block arrives %s after the outage's end", took)
	}
	// A scan of after the end arrives once its block is sealed.
	fresh := o.lastScan()
	for !o.lastScan().After(fresh) {
		time.Sleep(time.Second)
	}
	s := o.scan(o.lastScan())[0]
	scanned := time.Now()
	for {
		if ok, _ := o.ledger.Arrived(&s); ok {
			break
		}
		if time.Since(scanned) > o.maxAge+10*time.Second+freshWithin {
			o.Errorf("a fresh sample does not arrive within %s: %v", time.Since(scanned), o.logs.lines[max(0, len(o.logs.lines)-5):])
			break
		}
		time.Sleep(time.Second)
	}
	o.Logf("log: the first block arrived %s after the end, a fresh sample %s after its scan", took.Round(time.Second), time.Since(scanned).Round(time.Second))
	for began := time.Now(); o.pending() > 1; time.Sleep(time.Second) {
		if time.Since(began) > 24*time.Hour {
			o.Errorf("the backlog does not drain: %d blocks are left", o.pending())
			break
		}
	}
	o.Logf("log: the backlog was gone %s after the end", time.Since(over).Round(time.Second))
	time.Sleep(15 * time.Minute) // gap records go up like samples
}

func (o *outage) pending() (n int) {
	for _, k := range o.gateway.Status().Spool.Sinks {
		n += k.PendingBlocks
	}
	return n
}

func (o *outage) lastArrival() time.Time {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.arrived
}

// check holds the ledger against what arrived, when all is delivered.
func (o *outage) check(left int) {
	if left > 1 { // the block of the last minutes may be on its way
		o.Errorf("%d blocks are left", left)
	}
	if line := o.logs.has("stuck"); line != "" {
		o.Errorf("an outage is not a hang: %s", line)
	}
	if held := map[string]bool{"expired": true, "denied": true, "skewed": true, "missing": true}[o.kind]; held && o.logs.has("delivery is held") == "" {
		o.Error("no line reminds of what is held")
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	missing, declared, err := o.ledger.losses("s0001")
	if err != nil {
		o.Error(err)
	}
	if err := o.ledger.Check(DeclaredLoss); err != nil {
		o.Error(err)
	}
	if missing != declared || o.policy == config.Refuse && missing > 0 {
		o.Errorf("%d samples are missing and %d are declared lost", missing, declared)
	}
	// A record has reserved room. Where that is full too, its loss is declared.
	refused, lost := o.ledger.refused(), o.ledger.lost(ledger.SystemStream)
	if full := o.logs.refused(); full != refused && (refused || !lost) {
		o.Errorf("the spool refused: %v, a gap record says so: %v, records declared lost: %v", full, refused, lost)
	}
	// The request that finds the cloud back is made of what was due for a try;
	// from then on each lane is in order. Within a request there is none.
	var order []uint64
	for _, r := range o.requests[min(o.probe, len(o.requests)):] {
		slices.Sort(r)
		order = append(order, r...)
	}
	lanes := lanesOf(order)
	if lanes > 2 {
		o.Errorf("blocks arrived in %d orders, there are two lanes: %v", lanes, order)
	}
	o.Logf("log: %d samples issued, %d missing, %d declared lost, %d blocks in %d lanes", o.ledger.Acked(), missing, declared, len(order), lanes)
}

// lanesOf is the least number of rising sequences that make up a list.
func lanesOf(list []uint64) int {
	var last []uint64 // of each lane, falling
next:
	for _, n := range list {
		for i := range last {
			if last[i] < n {
				last[i] = n
				continue next
			}
		}
		last = append(last, n)
	}
	return len(last)
}

// scanProtocol is a source that scans once a minute.
type scanProtocol struct{ o *outage }

func (p scanProtocol) Type() string                { return "scan" }
func (p scanProtocol) NewConfig() protocols.Config { return &scanConfig{p.o} }

type scanConfig struct{ o *outage }

func (c *scanConfig) Validate(*protocols.SourceConfig) []protocols.Fault { return nil }
func (c *scanConfig) LinkKey() string                                    { return "scan" }
func (c *scanConfig) Open(protocols.Settings) (protocols.Connection, error) {
	return &scanSource{o: c.o}, nil
}

type scanSource struct {
	o *outage
	h protocols.Health
}

func (s *scanSource) OpenSource(_ *protocols.SourceConfig, h protocols.Health) (protocols.Source, error) {
	s.h = h
	return s, nil
}
func (s *scanSource) Close() error { return nil }

// scan is what the plant shows at an instant.
func (o *outage) scan(at time.Time) []sample.Sample {
	rnd := rand.New(rand.NewPCG(o.seed, uint64(at.Unix())))
	out := make([]sample.Sample, o.tags)
	for i := range out {
		out[i] = sample.Sample{Tag: fmt.Sprintf("plant/in/t%d", i), Value: sample.FloatValue(rnd.NormFloat64() * 100), Time: at.UnixNano(), SourceTime: at.UnixNano()}
	}
	return out
}

func (o *outage) lastScan() time.Time {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.scanned
}

// Run implements protocols.Source. What the gateway takes counts as promised:
// nothing kills this gateway.
func (s *scanSource) Run(ctx context.Context, emit protocols.Emit) error {
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	s.h.Up()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		s.h.Beat()
		at := s.o.clock.Now().Truncate(time.Second)
		batch := s.o.scan(at)
		for i := range batch {
			s.o.ledger.Issue(&batch[i])
		}
		if err := emit(ctx, batch, nil); err != nil {
			s.o.Errorf("emit: %v", err)
			continue
		}
		for i := range batch {
			s.o.ledger.Ack(&batch[i])
		}
		s.o.mu.Lock()
		s.o.scanned = at
		s.o.mu.Unlock()
	}
}
