package clouddemo

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/sqs"

	"millrace/cloud/catalogue"
	"millrace/cloud/worker"
)

// visibility is for how long a message belongs to the worker that received it:
// those of the killed one come back after it.
const visibility = 3 * time.Second

// crew is two workers side by side, of which the first is killed.
type crew struct {
	workers []*worker.Worker
	victim  *mortal
	stops   []context.CancelFunc
	wait    sync.WaitGroup
	failed  []error // one for each worker; read after wait
}

func (w *world) startCrew(log *slog.Logger) (*crew, error) {
	c := &crew{failed: make([]error, 2)}
	for i := range c.failed {
		o := worker.NewOptions()
		o.QueueURL, o.Prefix, o.Concurrency, o.Visibility, o.Wait = w.aws.QueueURL(samplesName), prefix, 2, visibility, time.Second
		o.Records = &catalogue.Store{DB: w.db, Prefix: prefix}
		o.Log = log.With("worker", i+1)
		m := &mortal{queue: w.queues, tables: w.db, first: c.victim, dead: make(chan struct{})}
		if i == 0 {
			c.victim, o.Grace = m, 0
		}
		one, err := worker.New(o, m, m)
		if err != nil {
			return nil, err
		}
		ctx, stop := context.WithCancel(context.Background())
		c.workers, c.stops = append(c.workers, one), append(c.stops, stop)
		c.wait.Go(func() { c.failed[i] = one.Run(ctx) })
		if i == 0 {
			c.wait.Go(func() { // nothing of it goes on once it is killed
				select {
				case <-m.dead:
					stop()
				case <-ctx.Done():
				}
			})
		}
	}
	return c, nil
}

// received counts messages, those that came again too.
func (c *crew) received() (n int) {
	for _, w := range c.workers {
		n += int(w.Counts().Received)
	}
	return n
}

// stop lets the workers finish what is under way.
func (c *crew) stop() error {
	for _, stop := range c.stops {
		stop()
	}
	c.wait.Wait()
	return errors.Join(c.failed...)
}

// mortal is a worker's way to the cloud, which ends when the worker is killed:
// in the moment when the tables have acknowledged a block and its message is not
// deleted yet.
type mortal struct {
	queue  worker.Queue
	tables worker.Tables
	// first is the one that is to be killed, if that is another: while it is to die,
	// the messages are left to it.
	first *mortal

	doomed atomic.Bool // dies at the next delete
	once   sync.Once
	dead   chan struct{}
}

var errKilled = errors.New("the worker was killed")

func (m *mortal) killed() error {
	select {
	case <-m.dead:
		return errKilled
	default:
		return nil
	}
}

// ReceiveMessage implements worker.Queue.
func (m *mortal) ReceiveMessage(ctx context.Context, in *sqs.ReceiveMessageInput, o ...func(*sqs.Options)) (*sqs.ReceiveMessageOutput, error) {
	if m.first != nil && m.first.doomed.Load() {
		select {
		case <-m.first.dead:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if err := m.killed(); err != nil {
		return nil, err
	}
	return m.queue.ReceiveMessage(ctx, in, o...)
}

// DeleteMessageBatch implements worker.Queue.
func (m *mortal) DeleteMessageBatch(ctx context.Context, in *sqs.DeleteMessageBatchInput, o ...func(*sqs.Options)) (*sqs.DeleteMessageBatchOutput, error) {
	if m.doomed.Load() {
		m.once.Do(func() { close(m.dead) })
	}
	if err := m.killed(); err != nil {
		return nil, err
	}
	return m.queue.DeleteMessageBatch(ctx, in, o...)
}

// ChangeMessageVisibilityBatch implements worker.Queue.
func (m *mortal) ChangeMessageVisibilityBatch(ctx context.Context, in *sqs.ChangeMessageVisibilityBatchInput, o ...func(*sqs.Options)) (*sqs.ChangeMessageVisibilityBatchOutput, error) {
	if err := m.killed(); err != nil {
		return nil, err
	}
	return m.queue.ChangeMessageVisibilityBatch(ctx, in, o...)
}

// SendMessageBatch implements worker.Queue.
func (m *mortal) SendMessageBatch(ctx context.Context, in *sqs.SendMessageBatchInput, o ...func(*sqs.Options)) (*sqs.SendMessageBatchOutput, error) {
	if err := m.killed(); err != nil {
		return nil, err
	}
	return m.queue.SendMessageBatch(ctx, in, o...)
}

// BatchWriteItem implements worker.Tables.
func (m *mortal) BatchWriteItem(ctx context.Context, in *dynamodb.BatchWriteItemInput, o ...func(*dynamodb.Options)) (*dynamodb.BatchWriteItemOutput, error) {
	if err := m.killed(); err != nil {
		return nil, err
	}
	return m.tables.BatchWriteItem(ctx, in, o...)
}
