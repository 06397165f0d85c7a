package worker

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"millrace/cloud/connect"
)

// ReasonAttribute is the message attribute that says, on the dead-letter queue,
// why a message is there.
const ReasonAttribute = "millrace_reason"

const (
	maxAttributes = 10  // of a message; SQS Developer Guide, "Message attributes"
	maxReason     = 500 // bytes, so that a message of nearly 1 MiB seldom outgrows it
	deleteTries   = 4
)

// lease keeps messages ours while they are under way.
type lease struct {
	done chan struct{}
	wait sync.WaitGroup

	mu      sync.Mutex
	handles map[string]string // message id → receipt handle
}

// lease extends the visibility of messages until each is dropped or the lease
// ends.
func (w *Worker) lease(work context.Context, list []types.Message) *lease {
	l := &lease{done: make(chan struct{}), handles: map[string]string{}}
	for i := range list {
		l.handles[aws.ToString(list[i].MessageId)] = aws.ToString(list[i].ReceiptHandle)
	}
	l.wait.Go(func() {
		t := time.NewTicker(w.o.Visibility / 2)
		defer t.Stop()
		for {
			select {
			case <-l.done:
				return
			case <-t.C:
				ctx, cancel := call(work)
				w.change(ctx, l.all(w.o.Visibility))
				cancel()
			}
		}
	})
	return l
}

func (l *lease) end() {
	close(l.done)
	l.wait.Wait()
}

func (l *lease) all(after time.Duration) (list []aside) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, handle := range l.handles {
		list = append(list, aside{handle, after})
	}
	return list
}

// drop returns a message's receipt handle, and extends it no longer.
func (l *lease) drop(m *types.Message) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.handles, aws.ToString(m.MessageId))
	return aws.ToString(m.ReceiptHandle)
}

// change sets the visibility of at most ten messages. One that fails comes back
// by itself, and is then put a second time under the same keys.
func (w *Worker) change(ctx context.Context, list []aside) {
	if len(list) == 0 {
		return
	}
	in := &sqs.ChangeMessageVisibilityBatchInput{QueueUrl: &w.o.QueueURL}
	for i := range list {
		in.Entries = append(in.Entries, types.ChangeMessageVisibilityBatchRequestEntry{
			Id: aws.String(strconv.Itoa(i)), ReceiptHandle: &list[i].handle, VisibilityTimeout: seconds(list[i].after)})
	}
	if _, err := w.queue.ChangeMessageVisibilityBatch(ctx, in); err != nil && ctx.Err() == nil && w.say.now("visibility") {
		w.o.Log.Warn("messages cannot be kept or given back; they come again by themselves", "queue", w.o.QueueURL, "error", connect.Brief(err))
	}
}

// putAside notes messages that are to come again after a time, and later where
// they have come often.
func (b *batch) putAside(left map[string][]*parcel, after time.Duration) {
	for _, same := range left {
		for _, p := range same {
			b.back = append(b.back, aside{b.ours.drop(p.message), b.w.longer(after, p.message)})
		}
	}
}

// longer stretches the time for which a message is put aside, up to fifteen times.
// A redrive policy moves a message to the dead letters after 1000 receives at the
// most: once a minute that is less than a day, and so it is more than a week. SQS
// API Reference, SetQueueAttributes, maxReceiveCount.
func (w *Worker) longer(after time.Duration, m *types.Message) time.Duration {
	const often, most = 30, 15
	// Where a stand-in does not count, each receive is as the first.
	n, _ := strconv.Atoi(m.Attributes[string(types.MessageSystemAttributeNameApproximateReceiveCount)])
	return min(after*time.Duration(min(max(n/often, 1), most)), 12*time.Hour)
}

// giveBack has the messages put aside come again. It works after the end of
// everything else, too.
func (b *batch) giveBack() {
	b.w.counts.returned.Add(uint64(len(b.back)))
	ctx, cancel := context.WithTimeout(context.Background(), lastTimeout)
	defer cancel()
	b.w.change(ctx, b.back)
}

// delete removes messages whose blocks are where they belong. What cannot be
// removed comes again and does no harm.
func (b *batch) delete(work context.Context, list []*parcel) {
	b.settled += len(list)
	left := map[string]string{}
	for i, p := range list {
		left[strconv.Itoa(i)] = b.ours.drop(p.message)
	}
	for attempt := 0; len(left) > 0 && attempt < deleteTries; attempt++ {
		if attempt > 0 {
			t := time.NewTimer(b.w.o.Backoff.Wait(attempt - 1))
			select {
			case <-t.C:
			case <-work.Done():
			}
			t.Stop()
		}
		in := &sqs.DeleteMessageBatchInput{QueueUrl: &b.w.o.QueueURL}
		for id, handle := range left {
			in.Entries = append(in.Entries, types.DeleteMessageBatchRequestEntry{Id: &id, ReceiptHandle: &handle})
		}
		ctx, cancel := call(work)
		out, err := b.w.queue.DeleteMessageBatch(ctx, in)
		cancel()
		if err != nil {
			if work.Err() == nil && b.w.say.now("delete") {
				b.w.o.Log.Warn("messages cannot be deleted; they come again and are put under the same keys", "queue", b.w.o.QueueURL, "error", connect.Brief(err))
			}
			continue
		}
		for _, ok := range out.Successful {
			delete(left, aws.ToString(ok.Id))
		}
	}
}

// bury sends poison to the dead-letter queue, with the reason, and deletes what
// that queue has taken. Everything else stays where it is.
func (b *batch) bury(work context.Context, list []*parcel) {
	w := b.w
	if len(list) == 0 {
		return
	}
	w.counts.poison.Add(uint64(len(list)))
	if w.o.DeadLetterURL == "" {
		for _, p := range list {
			b.ours.drop(p.message)
		}
		if w.say.now("poison") {
			w.o.Log.Error("poison is left to the queue's redrive policy, since there is no --dead-letter-queue",
				"messages", len(list), "message", aws.ToString(list[0].message.MessageId), "reason", list[0].reason)
		}
		return
	}
	if w.say.now("poison") {
		w.o.Log.Error("poison goes to the dead-letter queue", "messages", len(list), "message", aws.ToString(list[0].message.MessageId), "reason", list[0].reason)
	}
	// One at a time: two of them may be more than a request takes.
	var buried []*parcel
	for _, p := range list {
		if err := b.sendPoison(work, p); err != nil {
			b.ours.drop(p.message)
			if work.Err() == nil && w.say.now("bury") {
				w.o.Log.Error("poison cannot be sent to the dead-letter queue; it stays in the queue, left to the redrive policy",
					"queue", w.o.DeadLetterURL, "message", aws.ToString(p.message.MessageId), "error", connect.Brief(err))
			}
			continue
		}
		buried = append(buried, p)
	}
	b.delete(work, buried)
}

func (b *batch) sendPoison(work context.Context, p *parcel) error {
	attributes := map[string]types.MessageAttributeValue{}
	reason := p.reason
	var dropped []string
	for _, name := range slices.Sorted(maps.Keys(p.message.MessageAttributes)) {
		if name == ReasonAttribute {
			continue // of an earlier burial
		}
		if len(attributes) == maxAttributes-1 {
			dropped = append(dropped, name)
			continue
		}
		v := p.message.MessageAttributes[name]
		attributes[name] = types.MessageAttributeValue{DataType: v.DataType, StringValue: v.StringValue, BinaryValue: v.BinaryValue}
	}
	if len(dropped) > 0 {
		reason += fmt.Sprintf("; attributes left out to make room for this one: %s", strings.Join(dropped, ", "))
	}
	attributes[ReasonAttribute] = types.MessageAttributeValue{DataType: aws.String("String"), StringValue: aws.String(plain(reason))}
	e := types.SendMessageBatchRequestEntry{Id: aws.String("0"), MessageBody: p.message.Body, MessageAttributes: attributes}
	if strings.HasSuffix(b.w.o.DeadLetterURL, ".fifo") {
		group := p.message.Attributes[string(types.MessageSystemAttributeNameMessageGroupId)]
		if group == "" {
			group = "poison"
		}
		e.MessageGroupId, e.MessageDeduplicationId = &group, p.message.MessageId
	}
	ctx, cancel := call(work)
	defer cancel()
	out, err := b.w.queue.SendMessageBatch(ctx, &sqs.SendMessageBatchInput{QueueUrl: &b.w.o.DeadLetterURL, Entries: []types.SendMessageBatchRequestEntry{e}})
	if err != nil {
		return err
	}
	if len(out.Failed) > 0 {
		return fmt.Errorf("%s: %s", aws.ToString(out.Failed[0].Code), aws.ToString(out.Failed[0].Message))
	}
	if len(out.Successful) != 1 {
		return fmt.Errorf("the answer does not name it")
	}
	return nil
}

// plain keeps a reason within what SQS takes in an attribute. SQS API Reference,
// SendMessage.
func plain(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0xFFFE || r == 0xFFFF {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	if len(s) > maxReason {
		s = strings.ToValidUTF8(s[:maxReason], "")
	}
	return s
}
