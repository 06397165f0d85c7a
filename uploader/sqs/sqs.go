// Package sqs delivers blocks to an Amazon SQS queue, one block a message.
// docs/sinks.md describes the messages and the settings.
package sqs

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awssqs "github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"millrace/uploader"
	"millrace/uploader/awsconf"
)

// The limits of SendMessageBatch. SQS API Reference, SendMessageBatch.
const (
	maxEntries = 10
	maxBytes   = 1 << 20 // of a message and of a request, attributes counted
)

// The formats of a message.
const (
	FormatBlock = "block" // base64 of the block
	FormatJSON  = "json"  // base64 of the gzipped JSON form
)

// Kind is the kind of sink `type: sqs`.
type Kind struct{}

// Type implements uploader.Kind.
func (Kind) Type() string { return "sqs" }

// NewConfig implements uploader.Kind.
func (Kind) NewConfig() uploader.Config { return &Config{Format: FormatBlock, Concurrency: 2} }

// Config is a sink's settings.
type Config struct {
	// QueueURL is the queue's address: https://sqs.eu-central-1.amazonaws.com/123456789012/plant
	QueueURL string `yaml:"queue_url"`
	// Format is block (the default) or json.
	Format string `yaml:"format"`
	// Concurrency is how many requests may be under way at once, 1 to 32. A FIFO
	// queue has one request at a time whatever stands here.
	Concurrency    int `yaml:"concurrency"`
	awsconf.Config `yaml:",inline"`
}

// Validate implements uploader.Config.
func (c *Config) Validate() []uploader.Fault {
	faults := c.Config.Validate()
	faults = append(faults, awsconf.CheckQueueURL(c.QueueURL)...)
	if c.Format != FormatBlock && c.Format != FormatJSON {
		faults = append(faults, uploader.Fault{Path: "format", Problem: fmt.Sprintf("%q is no format", c.Format), Hint: "write block or json"})
	}
	if c.Concurrency < 1 || c.Concurrency > 32 {
		faults = append(faults, uploader.Fault{Path: "concurrency", Problem: fmt.Sprintf("%d is out of range", c.Concurrency), Hint: "write 1 to 32"})
	}
	return faults
}

// Open implements uploader.Config.
func (c *Config) Open(s uploader.Settings) (uploader.Sink, error) {
	cfg, err := c.LoadForQueue(c.QueueURL, c.Concurrency, s.Dial)
	if err != nil {
		return nil, fmt.Errorf("sink %s: %w", s.Name, err)
	}
	out := &sink{
		client:   awssqs.NewFromConfig(cfg, func(o *awssqs.Options) { o.HTTPSignerV4 = awsconf.Signer{} }),
		queue:    c.QueueURL,
		fifo:     strings.HasSuffix(c.QueueURL, ".fifo"),
		lanes:    c.Concurrency,
		pack:     blockBody,
		bodySize: blockBodySize,
		schema:   SchemaBlock,
	}
	if out.fifo {
		out.lanes = 1
	}
	if c.Format == FormatJSON {
		enc, err := newJSONBodies(maxEntries * (out.lanes + 1))
		if err != nil {
			return nil, fmt.Errorf("sink %s: %w", s.Name, err)
		}
		out.pack, out.bodySize, out.schema, out.forget = enc.body, enc.size, SchemaJSON, enc.forget
	}
	out.limit.Store(maxBytes)
	return out, nil
}

type sink struct {
	client   *awssqs.Client
	queue    string
	fifo     bool
	lanes    int
	schema   string
	pack     func(b *uploader.Block) (string, error)
	bodySize func(b *uploader.Block) int
	forget   func(number uint64) // of a cached body; may be nil

	limit    atomic.Int64 // bytes of one message
	ask      sync.Mutex
	asked    bool
	askAfter time.Time   // the queue did not answer when it was last asked
	accepted atomic.Bool // the queue has taken a message since we started
}

// Limits implements uploader.Sink.
func (s *sink) Limits() uploader.Limits {
	return uploader.Limits{MaxBlocks: maxEntries, MaxBytes: maxBytes, Concurrency: s.lanes, OnePlace: true,
		Size: func(b *uploader.Block) int { return s.bodySize(b) + s.attributesSize(b) }}
}

// Send implements uploader.Sink.
func (s *sink) Send(ctx context.Context, blocks []uploader.Block) []error {
	outcomes := make([]error, len(blocks))
	s.learnLimit(ctx)
	in := &awssqs.SendMessageBatchInput{QueueUrl: &s.queue}
	at := map[string]int{} // entry id → place in blocks
	for i := range blocks {
		b := &blocks[i]
		body, err := s.pack(b)
		if err != nil {
			outcomes[i] = s.fault(uploader.Permanent, "", fmt.Errorf("block %s: %w", b.Header.Identity(), err))
			continue
		}
		if n := len(body) + s.attributesSize(b); int64(n) > s.limit.Load() {
			outcomes[i] = s.tooLong(b, n)
			continue
		}
		e := types.SendMessageBatchRequestEntry{Id: aws.String(strconv.Itoa(i)), MessageBody: &body, MessageAttributes: s.attributes(b)}
		if s.fifo {
			e.MessageGroupId = aws.String(groupID(&b.Header))
			e.MessageDeduplicationId = aws.String(dedupID(b))
		} else {
			e.MessageGroupId = aws.String(tenant(b.Header.Site))
		}
		at[*e.Id] = i
		in.Entries = append(in.Entries, e)
	}
	if len(in.Entries) == 0 {
		return outcomes
	}
	out, err := s.client.SendMessageBatch(ctx, in)
	if err != nil {
		whole := s.wholeFault(err, len(in.Entries))
		for _, i := range at {
			outcomes[i] = whole
		}
		return outcomes
	}
	s.settle(blocks, outcomes, at, out)
	return outcomes
}

// tooLong is a message beyond the limit: AWS's, which is final, or the queue's
// own, which an operator can raise.
func (s *sink) tooLong(b *uploader.Block, n int) error {
	limit := s.limit.Load()
	err := fmt.Errorf("block %s makes a message of %d bytes, and the queue takes %d", b.Header.Identity(), n, limit)
	if n > maxBytes {
		return s.fault(uploader.Permanent, "lower batch.max_bytes of the source", err)
	}
	s.ask.Lock()
	s.asked = false
	s.ask.Unlock()
	return s.fault(uploader.Hold, "raise the queue's MaximumMessageSize, and lower batch.max_bytes of the source", err)
}

// settle maps the entries of an answer to the blocks. What the answer does not
// name was not confirmed, and is kept.
func (s *sink) settle(blocks []uploader.Block, outcomes []error, at map[string]int, out *awssqs.SendMessageBatchOutput) {
	for _, ok := range out.Successful {
		i, known := at[aws.ToString(ok.Id)]
		if !known {
			continue
		}
		delete(at, *ok.Id)
		s.accepted.Store(true)
		if s.forget != nil {
			s.forget(blocks[i].Number)
		}
	}
	for _, f := range out.Failed {
		i, known := at[aws.ToString(f.Id)]
		if !known {
			continue
		}
		delete(at, *f.Id)
		class, hint := awsconf.CodeClass(aws.ToString(f.Code), f.SenderFault)
		class = s.final(class)
		outcomes[i] = s.fault(class, hint, fmt.Errorf("block %s: %s: %s", blocks[i].Header.Identity(), aws.ToString(f.Code), aws.ToString(f.Message)))
	}
	for _, i := range at {
		outcomes[i] = s.fault(uploader.Transient, "", fmt.Errorf("block %s: the answer does not name it", blocks[i].Header.Identity()))
	}
}

// wholeFault classifies the failure of a request. One that blames the request
// is Permanent only where the queue is known to work: else the settings are as
// likely to be at fault, and every block would be buried.
func (s *sink) wholeFault(err error, entries int) *uploader.SendError {
	out := awsconf.Wrap("send to queue", s.queue, err)
	out.Class = s.final(out.Class)
	if out.Class == uploader.Permanent && entries == 1 && !s.accepted.Load() {
		out.Class, out.Hint = uploader.Hold, "check queue_url and the queue's settings; it has not taken any message since the gateway started"
	}
	return out
}

// final keeps a block from being buried while the queue's own limit is not
// known: it may be within the reach of an operator. The next try asks first.
func (s *sink) final(class uploader.Class) uploader.Class {
	if class != uploader.Permanent {
		return class
	}
	s.ask.Lock()
	defer s.ask.Unlock()
	if s.asked {
		return class
	}
	s.askAfter = time.Time{}
	return uploader.Transient
}

func (s *sink) fault(class uploader.Class, hint string, err error) *uploader.SendError {
	return &uploader.SendError{Class: class, Op: "send to queue", Object: s.queue, Hint: hint, Err: err}
}

// askEvery bounds how often a queue that does not answer is asked for its
// limit: while it throttles, each question is a request more.
const askEvery = time.Minute

// learnLimit asks once for the queue's own MaximumMessageSize. Where that is
// denied, AWS's limit is assumed, and a refused entry tells.
func (s *sink) learnLimit(ctx context.Context) {
	s.ask.Lock()
	defer s.ask.Unlock()
	now := time.Now()
	if s.asked || now.Before(s.askAfter) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := s.fetchLimit(ctx); err != nil {
		// Down or throttled: ask again, later. Any other answer is the answer.
		class := awsconf.Wrap("", "", err).Class
		s.asked = class == uploader.Hold || class == uploader.Permanent
		s.askAfter = now.Add(askEvery)
		return
	}
	s.asked = true
}

func (s *sink) fetchLimit(ctx context.Context) error {
	out, err := s.client.GetQueueAttributes(ctx, &awssqs.GetQueueAttributesInput{QueueUrl: &s.queue,
		AttributeNames: []types.QueueAttributeName{types.QueueAttributeNameMaximumMessageSize}})
	if err != nil {
		return err
	}
	n, err := strconv.ParseInt(out.Attributes[string(types.QueueAttributeNameMaximumMessageSize)], 10, 64)
	if err == nil && n > 0 {
		s.limit.Store(min(n, maxBytes))
	}
	return nil
}

// Check implements uploader.Sink. It needs sqs:GetQueueAttributes.
func (s *sink) Check(ctx context.Context) error {
	if err := s.fetchLimit(ctx); err != nil {
		return awsconf.Wrap("look at queue", s.queue, err)
	}
	return nil
}

// Close implements uploader.Sink.
func (s *sink) Close() error { return nil }
