// Package worker moves blocks from the queue into the week tables. Each message
// is one block, and becomes one item whose keys are a function of the block: a
// message that comes twice, late, or again after a crash at any point, makes the
// same item. So workers need no coordination and keep no state.
package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"millrace/cloud/catalogue"
	"millrace/cloud/connect"
	"millrace/cloud/objects"
	"millrace/internal/backoff"
	"millrace/internal/clock"
	"millrace/sample/weektable"
)

// Queue is what the worker asks of SQS.
type Queue interface {
	ReceiveMessage(context.Context, *sqs.ReceiveMessageInput, ...func(*sqs.Options)) (*sqs.ReceiveMessageOutput, error)
	DeleteMessageBatch(context.Context, *sqs.DeleteMessageBatchInput, ...func(*sqs.Options)) (*sqs.DeleteMessageBatchOutput, error)
	ChangeMessageVisibilityBatch(context.Context, *sqs.ChangeMessageVisibilityBatchInput, ...func(*sqs.Options)) (*sqs.ChangeMessageVisibilityBatchOutput, error)
	SendMessageBatch(context.Context, *sqs.SendMessageBatchInput, ...func(*sqs.Options)) (*sqs.SendMessageBatchOutput, error)
}

// Tables is what the worker asks of DynamoDB.
type Tables interface {
	BatchWriteItem(context.Context, *dynamodb.BatchWriteItemInput, ...func(*dynamodb.Options)) (*dynamodb.BatchWriteItemOutput, error)
}

// The bounds of Options.Concurrency.
const (
	MinConcurrency = 1
	MaxConcurrency = 16
)

// Options are a worker's settings. NewOptions has the defaults.
type Options struct {
	QueueURL string
	// DeadLetterURL is the queue to which poison goes; where it is empty, poison
	// is left to the queue's own redrive policy.
	DeadLetterURL string
	Prefix        string   // of the tables' names
	Sites         []string // whose blocks are taken; none is all
	// Retention is how old a block may be to go to its week's table. It is that
	// of the gateways' sinks and of `tables retire`. 0 is no bound.
	Retention time.Duration
	// Late is where blocks go whose week's table is gone. Where it is nil they go
	// to the table of blocks that cannot be placed.
	Late objects.Place
	// Retired tells whether a week's table was retired; may be nil. It is asked
	// only when a table is missing.
	Retired func(ctx context.Context, table string) (bool, error)
	// Records is where the records of system streams go, and the newest readings
	// that it is set to keep, before a block's message is deleted; may be nil.
	Records     *catalogue.Store
	Concurrency int           // batches under way at once
	Visibility  time.Duration // for how long a batch is ours; extended while it is under way
	Wait        time.Duration // of a receive for a first message, at most 20 s
	Hold        time.Duration // for how long messages are put aside whose table is missing; up to 15 times as long where they come often
	Patience    time.Duration // for how long a batch is tried before it is given back
	Grace       time.Duration // after a stop, for what is under way
	Backoff     backoff.Policy
	Spot        *Spot // watched for a notice; nil for none
	Clock       clock.Clock
	Log         *slog.Logger
}

// NewOptions returns the defaults.
func NewOptions() Options {
	return Options{Prefix: "millrace", Retention: 53 * 7 * 24 * time.Hour, Concurrency: 4, Visibility: 2 * time.Minute, Wait: 20 * time.Second,
		Hold: time.Minute, Patience: 15 * time.Minute, Grace: 80 * time.Second, Backoff: backoff.Policy{Base: 100 * time.Millisecond, Max: 20 * time.Second},
		Clock: clock.System{}, Log: slog.New(slog.DiscardHandler)}
}

const (
	callTimeout = 30 * time.Second // of one request
	lastTimeout = 8 * time.Second  // of giving back what was not finished
	statusEvery = time.Minute
)

// ErrSpot says that the instance is about to be taken away.
var ErrSpot = errors.New("spot notice")

// Worker is one worker. Many may run at once.
type Worker struct {
	o      Options
	queue  Queue
	tables Tables
	sites  map[string]bool
	say    *minutely
	sizes  sizer
	counts counters

	mu       sync.Mutex
	accepted map[string]time.Time // when a table last took an item
	slow     map[string]time.Time // when blocks of a table were last put aside for the others' sake
}

// New makes a worker.
func New(o Options, queue Queue, tables Tables) (*Worker, error) {
	if err := weektable.CheckPrefix(o.Prefix); err != nil {
		return nil, err
	}
	if err := connect.CheckQueueURL(o.QueueURL); err != nil {
		return nil, err
	}
	if o.DeadLetterURL != "" {
		if err := connect.CheckQueueURL(o.DeadLetterURL); err != nil {
			return nil, fmt.Errorf("dead-letter queue: %w", err)
		}
		if o.DeadLetterURL == o.QueueURL {
			return nil, errors.New("the dead-letter queue is the queue itself: poison would come back for ever")
		}
	}
	if o.Concurrency < MinConcurrency || o.Concurrency > MaxConcurrency {
		return nil, fmt.Errorf("concurrency %d is out of range: %d to %d", o.Concurrency, MinConcurrency, MaxConcurrency)
	}
	if o.Visibility < time.Second || o.Visibility > 12*time.Hour || o.Hold < 0 || o.Hold > 12*time.Hour {
		return nil, fmt.Errorf("visibility %v and hold %v: SQS has 1 s to 12 h", o.Visibility, o.Hold)
	}
	w := &Worker{o: o, queue: queue, tables: tables, sites: map[string]bool{}, say: newMinutely(o.Clock), accepted: map[string]time.Time{}, slow: map[string]time.Time{}}
	w.sizes.share = bodyBudget / int64(o.Concurrency)
	w.sizes.seen.Store(maxBody)
	for _, s := range o.Sites {
		w.sites[s] = true
	}
	return w, nil
}

// Run works until ctx is done or Options.Spot gives notice. Then it receives no
// more, finishes the requests under way, gives back what it could not finish,
// and returns within Options.Grace and ten seconds: nil after ctx, else an error
// that wraps ErrSpot.
func (w *Worker) Run(ctx context.Context) error {
	stop, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	// work outlives stop, for what is under way.
	work, abandon := context.WithCancel(context.WithoutCancel(ctx))
	defer abandon()
	var lanes, others sync.WaitGroup
	if w.o.Spot != nil {
		others.Go(func() {
			if notice, ok := w.o.Spot.Watch(stop, w.o.Log); ok {
				cancel(fmt.Errorf("%w: %s", ErrSpot, notice))
			}
		})
	}
	done := make(chan struct{})
	others.Go(func() {
		defer abandon()
		select {
		case <-done:
			return
		case <-stop.Done():
		}
		w.o.Log.Info("stopping: finish what is under way", "cause", context.Cause(stop).Error())
		t := time.NewTimer(w.o.Grace)
		defer t.Stop()
		select {
		case <-done:
		case <-t.C:
		}
	})
	others.Go(func() { w.report(done) })
	for range w.o.Concurrency {
		lanes.Go(func() { w.lane(stop, work) })
	}
	lanes.Wait()
	close(done)
	cause := context.Cause(stop)
	others.Wait()
	w.o.Log.Info("stopped", w.status(w.counts.read(), Counts{}, 0)...)
	if errors.Is(cause, ErrSpot) {
		return cause
	}
	return nil
}

// lane receives and handles one batch after the other.
func (w *Worker) lane(stop, work context.Context) {
	failed, slow := 0, 0
	for stop.Err() == nil {
		// Where the tables throttle, less is asked of the queue.
		if slow > 0 && !backoff.Sleep(stop, w.o.Backoff.Wait(slow-1)) {
			return
		}
		list, err := w.receive(stop)
		if stop.Err() != nil && len(list) == 0 {
			return
		}
		if err != nil {
			if w.say.now("receive") {
				w.o.Log.Warn("the queue cannot be read; trying on", "queue", w.o.QueueURL, "error", connect.Brief(err))
			}
			if !backoff.Sleep(stop, w.o.Backoff.Wait(failed)) {
				return
			}
			failed++
			continue
		}
		failed = 0
		if len(list) == 0 {
			slow = 0
			continue
		}
		if w.handle(stop, work, list) {
			slow++
		} else {
			slow = 0
		}
	}
}

// receive takes up to ten messages, fewer where they are large.
func (w *Worker) receive(ctx context.Context) ([]types.Message, error) {
	ctx, cancel := context.WithTimeout(ctx, w.o.Wait+callTimeout)
	defer cancel()
	out, err := w.queue.ReceiveMessage(ctx, &sqs.ReceiveMessageInput{
		QueueUrl: &w.o.QueueURL, MaxNumberOfMessages: w.sizes.ask(), WaitTimeSeconds: seconds(w.o.Wait), VisibilityTimeout: seconds(w.o.Visibility),
		MessageAttributeNames: []string{"All"},
		MessageSystemAttributeNames: []types.MessageSystemAttributeName{
			types.MessageSystemAttributeNameMessageGroupId, types.MessageSystemAttributeNameApproximateReceiveCount,
		},
	})
	if err != nil {
		return nil, err
	}
	largest := 0
	for i := range out.Messages {
		if b := out.Messages[i].Body; b != nil {
			largest = max(largest, len(*b))
		}
	}
	if len(out.Messages) > 0 {
		w.sizes.note(largest)
		w.counts.received.Add(uint64(len(out.Messages)))
	}
	return out.Messages, nil
}

func seconds(d time.Duration) int32 { return int32(d / time.Second) }

const (
	maxBody    = 1 << 20 // of a message; SQS API Reference, SendMessage
	maxReceive = 10      // messages; SQS API Reference, ReceiveMessage
	// bodyBudget bounds the bodies in memory, in bytes. Each takes about six times
	// its size on its way: as answer, text, block and request.
	bodyBudget = 6 << 20
)

// sizer asks for as many messages as there is room for, by the sizes of those
// that came before.
type sizer struct {
	share int64 // bytes of bodies for one batch
	seen  atomic.Int64
}

func (s *sizer) ask() int32 { return int32(min(max(s.share/s.seen.Load(), 1), maxReceive)) }

// note takes a larger size at once, and forgets it slowly.
func (s *sizer) note(largest int) {
	old := s.seen.Load()
	s.seen.Store(max(int64(largest), old-old/8, 1))
}
