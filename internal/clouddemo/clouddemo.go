// Package clouddemo runs the whole loop on one machine: a simulated plant, a
// gateway in a process of its own, simulated queues and tables, and the cloud
// half's own parts from the queue onwards. At the end each stage is held against
// what the plant's devices put on the wire, value by value.
package clouddemo

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/sqs"

	"millrace/cloud/analysis"
	"millrace/cloud/objects"
	"millrace/cloud/warehouse"
	"millrace/internal/backoff"
	"millrace/internal/sim/awssim"
	"millrace/internal/sim/plant"
	"millrace/internal/sim/truth"
	"millrace/sample/result"
)

// Site and Gateway name the demo's gateway.
const (
	Site    = "demo"
	Gateway = "gw1"
)

const (
	// MinDuration is the least that the plant may run: blocks are sealed after
	// 2 s, and one worker is killed in between.
	MinDuration = 6 * time.Second
	// settle is how long the plant is still before the gateway is stopped, so
	// that what is on its way by subscription arrives.
	settle = 1500 * time.Millisecond
)

// The stages after which Options.Between is called.
const (
	AfterTables  = "tables"
	AfterArchive = "archive"
	AfterResults = "results"
)

// Options of a demo.
type Options struct {
	Duration time.Duration // how long the plant runs, MinDuration at least
	// Millrace is the gateway's program. Where it is empty it is built from the
	// sources in the present folder.
	Millrace string
	// Keep is the folder in which archive, results and logs stay; where it is
	// empty they are removed at the end. It is made, and must be empty.
	Keep string
	Out  io.Writer // what happens, line by line
	// Engine computes the results.
	Engine analysis.Local
	// Results are the names of those that it computes; nil for all.
	Results []string
	// Warehouse is loaded too, in schema Schema; nil for none.
	Warehouse warehouse.Database
	// Between breaks the flow after a stage, in tests of the accounting.
	Between func(ctx context.Context, after string, p *Parts) error
}

// Parts are what a test may break.
type Parts struct {
	DB      *dynamodb.Client
	Archive objects.Place
}

var errInterrupted = errors.New("interrupted")

// world is what runs in the demo.
type world struct {
	o       Options
	began   time.Time
	dir     string
	truth   *truth.Log
	plant   *plant.Plant
	aws     *awssim.Server
	queues  *sqs.Client
	db      *dynamodb.Client
	gateway *process
	crew    *crew
	// accepted is what the queue has accepted.
	accepted *collector
	// archive is a folder, in the place of a bucket.
	archive objects.Place
	exports objects.Place // likewise
	logger  *logger
	// The key by which results are signed, and the one by which the site knows them.
	private ed25519.PrivateKey
	public  ed25519.PublicKey

	mu        sync.Mutex
	published []*result.Result // what the results queue has accepted
	refused   []string         // what it should not have

	log    *slog.Logger
	report *Report
}

// Run runs the demo and returns its account.
func Run(ctx context.Context, o Options) (*Report, error) {
	if o.Duration < MinDuration {
		return nil, fmt.Errorf("--duration %s is too short, the least is %s", o.Duration, MinDuration)
	}
	dir, err := folder(o.Keep)
	if err != nil {
		return nil, err
	}
	// The simulated OPC UA server's library prints to the standard logger.
	previous := log.Writer()
	log.SetOutput(io.Discard)
	defer log.SetOutput(previous)
	w := &world{o: o}
	w.prepare(dir)
	err = w.run(ctx)
	if ctx.Err() != nil && err != nil {
		err = errInterrupted
	}
	return w.report, errors.Join(err, w.close())
}

// prepare readies a world to run in a folder.
func (w *world) prepare(dir string) {
	w.dir, w.began, w.truth, w.report = dir, time.Now(), truth.NewLog(), &Report{}
}

// folder makes the demo's folder.
func folder(keep string) (string, error) {
	if keep == "" {
		return os.MkdirTemp("", "millrace-cloud-demo-")
	}
	if err := os.MkdirAll(keep, 0o750); err != nil {
		return "", err
	}
	there, err := os.ReadDir(keep)
	if err != nil {
		return "", err
	}
	if len(there) > 0 {
		return "", fmt.Errorf("folder %s is not empty: name one that is, or a new one", keep)
	}
	return filepath.Abs(keep)
}

func (w *world) run(ctx context.Context) error {
	if err := w.open(ctx); err != nil {
		return err
	}
	started := time.Now()
	stopPlant := w.runPlant()
	defer stopPlant()
	w.say("the plant runs for %s: devices, gateway, queue, two workers, week tables", w.o.Duration)
	if err := w.deliver(ctx); err != nil {
		return err
	}
	w.say("a data logger has delivered %d readings since %s", len(w.logger.readings), w.logger.readings[0].at.Format("15:04 MST"))
	if err := w.wait(ctx, w.o.Duration/4); err != nil {
		return err
	}
	if err := w.killWorker(ctx); err != nil {
		return err
	}
	if err := w.loop(ctx); err != nil {
		return err
	}
	if err := w.wait(ctx, w.o.Duration-time.Since(started)); err != nil {
		return err
	}
	stopPlant()
	w.say("the plant stands still")
	if err := w.wait(ctx, settle); err != nil {
		return err
	}
	w.say("stopping the gateway; it delivers what is left")
	if err := w.gateway.stop(); err != nil {
		return err
	}
	w.gateway = nil
	if err := w.drained(ctx); err != nil {
		return err
	}
	if err := w.crew.stop(); err != nil {
		return err
	}
	if err := w.between(ctx, AfterTables); err != nil {
		return err
	}
	if err := w.archiveWeeks(ctx); err != nil {
		return err
	}
	if err := w.between(ctx, AfterArchive); err != nil {
		return err
	}
	if err := w.analyse(ctx); err != nil {
		return err
	}
	if err := w.export(ctx); err != nil {
		return err
	}
	if err := w.load(ctx); err != nil {
		return err
	}
	for _, account := range []func(context.Context) error{w.tablesAccount, w.archiveAccount, w.catalogueAccount, w.resultsAccount, w.exportAccount, w.warehouseAccount, w.mirrorAccount} {
		if err := account(ctx); err != nil {
			return err
		}
	}
	w.report.Seconds = w.since().Seconds()
	return nil
}

// open starts the devices, the cloud, the workers and the gateway.
func (w *world) open(ctx context.Context) (err error) {
	path := w.o.Millrace
	if path == "" {
		w.say("building millrace")
		if path, err = build(ctx, w.dir); err != nil {
			return err
		}
	}
	if w.public, w.private, err = ed25519.GenerateKey(nil); err != nil {
		return err
	}
	if w.logger, err = newLogger(w.truth.Now()); err != nil {
		return err
	}
	if w.archive, err = objects.Parse(filepath.Join(w.dir, "archive"), nil); err != nil {
		return err
	}
	if w.exports, err = objects.Parse(w.dir, nil); err != nil {
		return err
	}
	if w.plant, err = plant.Start(Site, w.truth); err != nil {
		return err
	}
	if err := w.openCloud(ctx); err != nil {
		return err
	}
	out, err := os.Create(filepath.Join(w.dir, "cloud.log"))
	if err != nil {
		return err
	}
	w.log = slog.New(slog.NewTextHandler(out, nil))
	if w.crew, err = w.startCrew(w.log); err != nil {
		return err
	}
	text, err := w.yaml()
	if err != nil {
		return err
	}
	config := filepath.Join(w.dir, "millrace.yaml")
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return err
	}
	w.gateway, err = start(path, config, w.socket(), filepath.Join(w.dir, "gateway.log"))
	return err
}

// deliver has the logger deliver, unless the gateway ends meanwhile.
func (w *world) deliver(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-w.gateway.ended:
			cancel()
		case <-ctx.Done():
		}
	}()
	err := w.logger.deliver(ctx, w.truth)
	select {
	case <-w.gateway.ended:
		return w.gateway.failure()
	default:
		return err
	}
}

// runPlant moves the plant until the function that it returns is called.
func (w *world) runPlant() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); w.plant.Run(ctx) }()
	return func() { cancel(); <-done }
}

// wait lets time pass, and notices a gateway that ended.
func (w *world) wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return errInterrupted
	case <-w.gateway.ended:
		return w.gateway.failure()
	}
}

// killWorker kills the first worker at its next delete.
func (w *world) killWorker(ctx context.Context) error {
	w.crew.victim.doomed.Store(true)
	for end := time.Now().Add(visibility + 10*time.Second); w.crew.victim.killed() == nil; {
		if time.Now().After(end) {
			return errors.New("the first worker received nothing that it could be killed over")
		}
		if !backoff.Sleep(ctx, 20*time.Millisecond) {
			return errInterrupted
		}
	}
	w.say("worker 1 is killed: its blocks are stored, their messages are not deleted and come again to worker 2")
	return nil
}

func (w *world) between(ctx context.Context, after string) error {
	if w.o.Between == nil {
		return nil
	}
	return w.o.Between(ctx, after, &Parts{DB: w.db, Archive: w.archive})
}

func (w *world) since() time.Duration { return time.Since(w.began) }

func (w *world) close() error {
	if w.gateway != nil {
		w.gateway.kill()
	}
	var errs []error
	if w.crew != nil {
		errs = append(errs, w.crew.stop())
	}
	if w.plant != nil {
		errs = append(errs, w.plant.Close())
	}
	if w.aws != nil {
		errs = append(errs, w.aws.Close())
	}
	if w.o.Keep == "" {
		errs = append(errs, os.RemoveAll(w.dir))
	}
	return errors.Join(errs...)
}
