// Package demo runs a whole plant in one process: simulated devices, a real
// gateway on a temporary spool, and simulated AWS endpoints. It cuts the cloud
// off, stops a device, drains, and then holds what the devices said on the
// wire against what the endpoints accepted. A stand-in for the cloud half sends
// setpoints back, which the gateway's mirror writes to a device, and those are
// held against what the device was told.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	feedsall "millrace/feeds/all"
	"millrace/gateway"
	"millrace/gateway/config"
	"millrace/internal/sim/awssim"
	"millrace/internal/sim/plant"
	"millrace/internal/sim/truth"
	"millrace/protocols"
	protocolsall "millrace/protocols/all"
	"millrace/sample/ledger/audit"
	"millrace/spool"
	uploaderall "millrace/uploader/all"
)

// Site and Gateway name the demo's gateway.
const (
	Site    = "demo"
	Gateway = "gw1"
)

const (
	minDuration  = 8 * time.Second
	cloudOutage  = 10 * time.Second
	deviceOutage = 5 * time.Second
	// settle is how long the plant is still before the gateway is stopped, so
	// that what is on its way by subscription arrives.
	settle = 1500 * time.Millisecond
)

// Options of a demo.
type Options struct {
	Duration time.Duration
	Out      io.Writer
	// Redraw says that Out is a terminal, on which the table is drawn in place.
	Redraw bool
	// Quiet leaves out the table.
	Quiet bool
	// WrapEmit breaks the data flow, in tests of the accounting.
	WrapEmit func(source string, emit protocols.Emit) protocols.Emit
}

// Result is the ledger, in samples. Its JSON keys are a contract.
type Result struct {
	Produced       int     `json:"produced"`
	Delivered      int     `json:"delivered"`
	Pending        int     `json:"pending"`
	Lost           int     `json:"lost"`
	DeclaredLost   uint64  `json:"-"`
	Duplicates     int     `json:"duplicates"`
	Wrong          int     `json:"wrong"`
	Bad            int     `json:"bad"`
	BytesPerSample float64 `json:"bytes_per_sample"`
	Requests       uint64  `json:"requests"`
	Seconds        float64 `json:"seconds"`

	// Audit is the account of sequences and counts, in one line; Balanced that
	// it balances at both endpoints.
	Audit    string `json:"audit"`
	Balanced bool   `json:"balanced"`

	// Sent counts the results that the cloud side sent, Mirrored those that stand
	// or stood in the PLC, Refused those that the mirror did not write,
	// Superseded those that a newer one overtook, and Unverified those that could
	// not be read back, since the meters stopped. MirrorBalanced says that the
	// cloud side, the outcomes that came up, the PLC and the audit log agree.
	Sent           int  `json:"sent"`
	Mirrored       int  `json:"mirrored"`
	Refused        int  `json:"refused"`
	Superseded     int  `json:"superseded"`
	Unverified     int  `json:"unverified"`
	MirrorBalanced bool `json:"mirror_balanced"`

	Findings []string `json:"-"`
}

// Exact reports whether the ledger is: nothing lost, wrong or double, and the
// gateway's own account balances, and that of the mirror.
func (r *Result) Exact() bool {
	return r.Balanced && r.MirrorBalanced && r.Lost == 0 && r.Wrong == 0 && r.Duplicates == 0 && r.DeclaredLost == 0 && r.Produced > 0
}

// world is what runs in the demo.
type world struct {
	o       Options
	dir     string
	truth   *truth.Log
	plant   *plant.Plant
	aws     *awssim.Server
	queue   *collector
	table   *collector
	gateway *gateway.Gateway
	cfg     *config.Config
	events  []string // what was done to the plant, for the table
	// optimiser is the cloud side of the mirror.
	optimiser *optimiser
}

// Run runs the demo and returns its ledger.
func Run(ctx context.Context, o Options) (*Result, error) {
	if o.Duration < minDuration {
		return nil, fmt.Errorf("--duration %s is too short for the outages, the least is %s", o.Duration, minDuration)
	}
	dir, err := os.MkdirTemp("", "millrace-demo-")
	if err != nil {
		return nil, err
	}
	// The simulated OPC UA server's library prints to the standard logger.
	previous := log.Writer()
	log.SetOutput(io.Discard)
	defer log.SetOutput(previous)
	w := &world{o: o, dir: dir, truth: truth.NewLog()}
	result, err := w.run(ctx)
	return result, errors.Join(err, w.close())
}

func (w *world) run(ctx context.Context) (*Result, error) {
	began := time.Now()
	if err := w.open(ctx); err != nil {
		return nil, err
	}
	gctx, stopGateway := context.WithCancel(context.Background())
	defer stopGateway()
	ended := make(chan error, 1)
	go func() { ended <- w.gateway.Run(gctx) }()
	pctx, stopPlant := context.WithCancel(context.Background())
	defer stopPlant()
	plantDone := make(chan struct{})
	go func() { defer close(plantDone); w.plant.Run(pctx) }()
	octx, stopOptimiser := context.WithCancel(context.Background())
	defer stopOptimiser()
	optimiserDone := make(chan struct{})
	go func() { defer close(optimiserDone); w.optimiser.run(octx) }()

	err := w.story(ctx)
	stopOptimiser()
	<-optimiserDone
	stopPlant()
	<-plantDone
	w.handled(ctx)
	time.Sleep(settle)
	w.say("stopping the gateway; it delivers what is left")
	stopGateway()
	if stopped := <-ended; err == nil {
		err = stopped
	}
	w.gateway = nil
	if err != nil {
		return nil, err
	}
	return w.ledger(time.Since(began))
}

// open starts the devices and the cloud, and builds the gateway.
func (w *world) open(ctx context.Context) (err error) {
	if w.plant, err = plant.Start(Site, w.truth); err != nil {
		return err
	}
	if w.aws, err = awssim.Start(awssim.Options{}); err != nil {
		return err
	}
	if err := w.openCloud(ctx); err != nil {
		return err
	}
	path := filepath.Join(w.dir, "millrace.yaml")
	if err := os.WriteFile(path, []byte(w.yaml()), 0o600); err != nil {
		return err
	}
	w.cfg, err = config.Load(path, config.Registry{Protocols: protocolsall.List(), Sinks: uploaderall.List(), Feeds: feedsall.List()})
	if err != nil {
		return err
	}
	logFile, err := os.Create(filepath.Join(w.dir, "log"))
	if err != nil {
		return err
	}
	w.gateway, err = gateway.New(ctx, gateway.Options{
		// The truth's clock: a step of the machine's is no matter of the demo.
		Config: w.cfg, Version: "demo", Log: slog.New(slog.NewTextHandler(logFile, nil)), Clock: w.truth,
		Notify: nobody{}, StateDir: w.dir, DeliveryGrace: 30 * time.Second, WrapEmit: w.o.WrapEmit,
	})
	return err
}

func (w *world) close() error {
	var errs []error
	if w.plant != nil {
		errs = append(errs, w.plant.Close())
	}
	if w.aws != nil {
		errs = append(errs, w.aws.Close())
	}
	return errors.Join(append(errs, os.RemoveAll(w.dir))...)
}

// story is what happens while the plant runs: the cloud is cut off in the
// middle, and a device stops later.
func (w *world) story(ctx context.Context) error {
	d := w.o.Duration
	cloud, device := min(cloudOutage, d/4), min(deviceOutage, d/8)
	start := time.Now()
	steps := []struct {
		at   time.Duration
		what string
		do   func() error
	}{
		{d * 30 / 100, fmt.Sprintf("the cloud is cut off for %s", cloud), func() error { w.cut(true); return nil }},
		{d*30/100 + cloud, "the cloud is back", func() error { w.cut(false); return nil }},
		{d * 70 / 100, fmt.Sprintf("the meters are stopped for %s", device), func() error { w.plant.StopMeters(); return nil }},
		{d*70/100 + device, "the meters are back", w.plant.ResumeMeters},
		{d, "the plant stands still", func() error { return nil }},
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for _, s := range steps {
		due := time.NewTimer(time.Until(start.Add(s.at)))
		for waiting := true; waiting; {
			select {
			case <-ctx.Done():
				due.Stop()
				return errors.New("interrupted")
			case <-tick.C:
				w.draw(time.Since(start))
			case <-due.C:
				waiting = false
			}
		}
		w.say(s.what)
		if err := s.do(); err != nil {
			return err
		}
	}
	return nil
}

func (w *world) cut(down bool) {
	for _, service := range []string{awssim.ServiceSQS, awssim.ServiceDynamoDB} {
		w.aws.SetFaults(service, awssim.Faults{Down: down})
	}
}

// ledger compares, for each sink, and adds up.
func (w *world) ledger(took time.Duration) (*Result, error) {
	files, err := spool.OpenReadOnly(w.cfg.Spool.Dir)
	if err != nil {
		return nil, err
	}
	stats := files.Stats()
	if err := files.Close(); err != nil {
		return nil, err
	}
	r := &Result{Seconds: took.Seconds(), Requests: w.aws.Stats(awssim.ServiceSQS).Requests + w.aws.Stats(awssim.ServiceDynamoDB).Requests}
	for i, c := range []*collector{w.queue, w.table} {
		got := w.truth.Compare(c.samples())
		if i == 0 {
			r.Produced, r.Delivered, r.Bad = got.Produced, got.Delivered, got.Bad
			r.BytesPerSample = float64(c.wire) / float64(max(1, c.count))
		}
		// A sink that lacks something must not hide behind one that has it.
		r.Delivered = min(r.Delivered, got.Delivered)
		r.DeclaredLost = max(r.DeclaredLost, c.lost)
		r.Duplicates += got.Duplicates
		r.Wrong += got.Wrong + len(c.faults)
		r.Findings = append(append(r.Findings, got.Findings...), c.faults...)
	}
	for _, s := range stats.Sinks {
		r.Pending = max(r.Pending, int(s.PendingSamples))
	}
	r.Lost = max(0, r.Produced-r.Delivered-r.Pending)
	r.audit(w.queue.account(), w.table.account())
	stands, told := w.plant.Setpoint()
	r.mirrored(w.optimiser.results(), w.queue.outcomes(), stands, told)
	return r, r.checkAudit(w.auditDir(), w.queue.outcomes())
}

// audit takes in what sequences and counts say of the queue and the tables.
func (r *Result) audit(queue, table *audit.Report) {
	r.Balanced = true
	for _, report := range []*audit.Report{queue, table} {
		for i := range report.Streams {
			if s := &report.Streams[i]; s.Verdict != audit.Balanced {
				r.Balanced = false
				r.Findings = append(r.Findings, s.Line())
			}
		}
		// No stream at all would balance, and prove nothing.
		r.Balanced = r.Balanced && report.Complete() && len(report.Streams) > 1
	}
	r.Audit = fmt.Sprintf("queue %s; tables %s", queue.Summary.Line(), table.Summary.Line())
}

// nobody is the service manager of a demo.
type nobody struct{}

func (nobody) Ready(string)                    {}
func (nobody) Status(string)                   {}
func (nobody) Watchdog()                       {}
func (nobody) Stopping(string)                 {}
func (nobody) WatchdogInterval() time.Duration { return 0 }
