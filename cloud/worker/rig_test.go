package worker

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	ddbtypes "github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"millrace/internal/weekitem"
	"millrace/sample"
	"millrace/sample/block"
)

const (
	queueURL = "http://127.0.0.1:1/000000000000/plant"
	deadURL  = "http://127.0.0.1:1/000000000000/dead"
)

// blockOf makes a block of n samples, a millisecond apart.
func blockOf(t testing.TB, h block.Header, at time.Time, n int) []byte {
	t.Helper()
	enc, err := block.NewEncoder()
	if err != nil {
		t.Fatal(err)
	}
	tag := h.Site + "/meter/" + h.Stream
	enc.Reset([]string{tag})
	for i := range n {
		enc.Add(0, &sample.Sample{Tag: tag, Value: sample.IntValue(int64(i)), Time: at.UnixNano() + int64(i)*int64(time.Millisecond)})
	}
	data, err := enc.Encode(nil, h)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// header is that of the seq-th block of a stream.
func header(seq uint64) block.Header {
	return block.Header{Site: "north", Gateway: "gw1", Stream: "s0001", Epoch: 7, Seq: seq, Produced: seq * 10}
}

// messageOf is a block's message, as docs/sinks.md has it. The attributes stand
// in words here, so that a change of the gateway's sink is seen.
func messageOf(t testing.TB, data []byte) types.Message {
	t.Helper()
	h, err := block.ReadHeader(data)
	if err != nil {
		t.Fatal(err)
	}
	m := types.Message{Body: aws.String(base64.StdEncoding.EncodeToString(data)), MessageAttributes: map[string]types.MessageAttributeValue{}}
	set(&m, "schema", "String", fmt.Sprintf("millrace.block.v%d", h.Version()))
	set(&m, "site", "String", h.Site)
	set(&m, "gateway", "String", h.Gateway)
	set(&m, "stream", "String", h.Stream)
	set(&m, "epoch", "String", fmt.Sprintf("%016x", h.Epoch))
	set(&m, "seq", "Number", strconv.FormatUint(h.Seq, 10))
	set(&m, "first", "Number", strconv.FormatInt(h.First, 10))
	set(&m, "last", "Number", strconv.FormatInt(h.Last, 10))
	set(&m, "count", "Number", strconv.Itoa(h.Count))
	return m
}

func set(m *types.Message, name, kind, value string) {
	m.MessageAttributes[name] = types.MessageAttributeValue{DataType: &kind, StringValue: &value}
}

// memory is a queue, its dead letters and tables in memory, in the time of a
// synctest bubble. Fields may be set before the worker starts.
type memory struct {
	delay time.Duration // of every call
	write func(ctx context.Context, table string, keys []string) (unprocessed []string, err error)
	bury  func(n int) (refusal string, err error) // the n-th message to the dead letters, from 1

	mu       sync.Mutex
	messages []*held
	dead     []types.SendMessageBatchRequestEntry
	items    map[string]string // table and keys → block
	burials  int
	receives int
	changes  []int32 // visibilities that were set
	seen     map[string]int
}

type held struct {
	types.Message
	visible time.Time
}

func newMemory(t testing.TB, blocks ...[]byte) *memory {
	m := &memory{items: map[string]string{}, seen: map[string]int{}}
	for _, b := range blocks {
		m.add(messageOf(t, b))
	}
	return m
}

func (m *memory) add(msg types.Message) {
	m.mu.Lock()
	defer m.mu.Unlock()
	msg.MessageId = aws.String("m" + strconv.Itoa(len(m.messages)))
	m.messages = append(m.messages, &held{Message: msg})
}

func (m *memory) pause(ctx context.Context) error {
	if m.delay > 0 {
		t := time.NewTimer(m.delay)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
		}
	}
	return ctx.Err()
}

func (m *memory) ReceiveMessage(ctx context.Context, in *sqs.ReceiveMessageInput, _ ...func(*sqs.Options)) (*sqs.ReceiveMessageOutput, error) {
	if err := m.pause(ctx); err != nil {
		return nil, err
	}
	deadline := time.Now().Add(time.Duration(in.WaitTimeSeconds) * time.Second)
	for {
		m.mu.Lock()
		m.receives++
		out := &sqs.ReceiveMessageOutput{}
		for _, h := range m.messages {
			if h != nil && !h.visible.After(time.Now()) && len(out.Messages) < int(in.MaxNumberOfMessages) {
				h.visible = time.Now().Add(time.Duration(in.VisibilityTimeout) * time.Second)
				m.seen[*h.MessageId]++
				h.ReceiptHandle = aws.String(*h.MessageId + "." + strconv.Itoa(m.seen[*h.MessageId]))
				message := h.Message
				message.Attributes = maps.Clone(message.Attributes)
				if message.Attributes == nil {
					message.Attributes = map[string]string{}
				}
				message.Attributes["ApproximateReceiveCount"] = strconv.Itoa(m.seen[*h.MessageId])
				out.Messages = append(out.Messages, message)
			}
		}
		m.mu.Unlock()
		if len(out.Messages) > 0 || !time.Now().Before(deadline) {
			return out, nil
		}
		t := time.NewTimer(100 * time.Millisecond)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil, ctx.Err()
		}
	}
}

func (m *memory) byHandle(handle *string) int {
	for i, h := range m.messages {
		if h != nil && aws.ToString(h.ReceiptHandle) == *handle {
			return i
		}
	}
	return -1
}

func (m *memory) DeleteMessageBatch(ctx context.Context, in *sqs.DeleteMessageBatchInput, _ ...func(*sqs.Options)) (*sqs.DeleteMessageBatchOutput, error) {
	if err := m.pause(ctx); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	out := &sqs.DeleteMessageBatchOutput{}
	for _, e := range in.Entries {
		if i := m.byHandle(e.ReceiptHandle); i >= 0 {
			m.messages[i] = nil
		}
		out.Successful = append(out.Successful, types.DeleteMessageBatchResultEntry{Id: e.Id})
	}
	return out, nil
}

func (m *memory) ChangeMessageVisibilityBatch(ctx context.Context, in *sqs.ChangeMessageVisibilityBatchInput, _ ...func(*sqs.Options)) (*sqs.ChangeMessageVisibilityBatchOutput, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range in.Entries {
		m.changes = append(m.changes, e.VisibilityTimeout)
		if i := m.byHandle(e.ReceiptHandle); i >= 0 {
			m.messages[i].visible = time.Now().Add(time.Duration(e.VisibilityTimeout) * time.Second)
		}
	}
	return &sqs.ChangeMessageVisibilityBatchOutput{}, nil
}

func (m *memory) SendMessageBatch(_ context.Context, in *sqs.SendMessageBatchInput, _ ...func(*sqs.Options)) (*sqs.SendMessageBatchOutput, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := &sqs.SendMessageBatchOutput{}
	for _, e := range in.Entries {
		if len(e.MessageAttributes) > 10 {
			return nil, errors.New("more than ten attributes")
		}
		m.burials++
		if m.bury != nil {
			refusal, err := m.bury(m.burials)
			if err != nil {
				return nil, err
			}
			if refusal != "" {
				out.Failed = append(out.Failed, types.BatchResultErrorEntry{Id: e.Id, Code: &refusal})
				continue
			}
		}
		m.dead = append(m.dead, e)
		out.Successful = append(out.Successful, types.SendMessageBatchResultEntry{Id: e.Id})
	}
	return out, nil
}

func (m *memory) BatchWriteItem(ctx context.Context, in *dynamodb.BatchWriteItemInput, _ ...func(*dynamodb.Options)) (*dynamodb.BatchWriteItemOutput, error) {
	if err := m.pause(ctx); err != nil {
		return nil, err
	}
	out := &dynamodb.BatchWriteItemOutput{}
	for table, list := range in.RequestItems {
		byKey := map[string]ddbtypes.WriteRequest{}
		var keys []string
		for _, w := range list {
			key := weekitem.KeyOf(w.PutRequest.Item)
			keys, byKey[key] = append(keys, key), w
		}
		var left []string
		if m.write != nil {
			var err error
			if left, err = m.write(ctx, table, keys); err != nil {
				return nil, err
			}
		}
		for _, key := range left {
			w, known := byKey[key]
			if !known {
				w = ddbtypes.WriteRequest{PutRequest: &ddbtypes.PutRequest{Item: map[string]ddbtypes.AttributeValue{}}}
			}
			if out.UnprocessedItems == nil {
				out.UnprocessedItems = map[string][]ddbtypes.WriteRequest{}
			}
			out.UnprocessedItems[table] = append(out.UnprocessedItems[table], w)
			delete(byKey, key)
		}
		m.mu.Lock()
		for key, w := range byKey {
			m.items[table+"\x00"+key] = string(w.PutRequest.Item["block"].(*ddbtypes.AttributeValueMemberB).Value)
		}
		m.mu.Unlock()
	}
	return out, nil
}

// left counts the messages that are not deleted.
func (m *memory) left() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := 0
	for _, h := range m.messages {
		if h != nil {
			n++
		}
	}
	return n
}

// received is how often a message was handed out.
func (m *memory) received(id string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.seen[id]
}

func (m *memory) stored() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.items)
}

func (m *memory) reasons() (out []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, d := range m.dead {
		out = append(out, *d.MessageAttributes[ReasonAttribute].StringValue)
	}
	return out
}

// book is a log that is read by a test.
type book struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *book) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *book) count(words string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Count(b.text.String(), words)
}

// options are a test's, with its log.
func options(log *book) Options {
	o := NewOptions()
	o.QueueURL, o.DeadLetterURL, o.Prefix = queueURL, deadURL, "plant"
	o.Log = slog.New(slog.NewTextHandler(log, nil))
	return o
}

// start runs a worker on m until stop is called, which returns what Run did.
func start(t testing.TB, o Options, m *memory) (w *Worker, stop func() error) {
	t.Helper()
	w, err := New(o, m, m)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	return w, func() error {
		cancel()
		return <-done
	}
}
