// Package sqs takes results from an Amazon SQS queue, by long polls.
// docs/feeds.md describes the queue and the settings.
package sqs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awssqs "github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"millrace/feeds"
	"millrace/sample/result"
	"millrace/uploader"
	"millrace/uploader/awsconf"
)

const (
	// maxMessages is the most that one request brings or deletes. SQS API
	// Reference, ReceiveMessage and DeleteMessageBatch.
	maxMessages = 10
	// longPoll is the longest that SQS waits for a message. SQS API Reference,
	// ReceiveMessage, WaitTimeSeconds.
	longPoll = 20 * time.Second
	// maxVisibility is SQS's own bound.
	maxVisibility = 12 * time.Hour
	// beyond is how much longer than its poll a request may take.
	beyond = 15 * time.Second
	// deleteTimeout bounds a request that deletes.
	deleteTimeout = 15 * time.Second
)

// Kind is the kind of feed `type: sqs`.
type Kind struct{}

// Type implements feeds.Kind.
func (Kind) Type() string { return "sqs" }

// NewConfig implements feeds.Kind.
func (Kind) NewConfig() feeds.Config { return &Config{Visibility: 30 * time.Second} }

// Config is a feed's settings.
type Config struct {
	// QueueURL is the queue's address: https://sqs.eu-central-1.amazonaws.com/123456789012/north-results
	QueueURL string `yaml:"queue_url"`
	// Visibility is how long the queue keeps a message from others, and from
	// us, until its outcome is durable; 10 s to 12 h.
	Visibility     time.Duration `yaml:"visibility"`
	awsconf.Config `yaml:",inline"`
}

// Validate implements feeds.Config.
func (c *Config) Validate() []uploader.Fault {
	faults := append(c.Config.Validate(), awsconf.CheckQueueURL(c.QueueURL)...)
	if c.Visibility < 10*time.Second || c.Visibility > maxVisibility || c.Visibility%time.Second != 0 {
		faults = append(faults, uploader.Fault{Path: "visibility", Problem: fmt.Sprintf("%s is not between 10s and 12h in whole seconds", c.Visibility),
			Hint: "30s is good: a message that was not dealt with comes again after that"})
	}
	return faults
}

// Open implements feeds.Config.
func (c *Config) Open(s feeds.Settings) (feeds.Feed, error) {
	cfg, err := c.LoadForQueue(c.QueueURL, 2, s.Dial)
	if err != nil {
		return nil, fmt.Errorf("feed %s: %w", s.Name, err)
	}
	return &feed{
		client: awssqs.NewFromConfig(cfg, func(o *awssqs.Options) { o.HTTPSignerV4 = awsconf.Signer{} }),
		conf:   *c, log: s.Log, poll: longPoll,
	}, nil
}

type feed struct {
	client *awssqs.Client
	conf   Config
	log    *slog.Logger
	poll   time.Duration
	// refused says that the queue did not let us delete, so that it is said once.
	refused bool
}

// Receive implements feeds.Feed.
func (f *feed) Receive(ctx context.Context) ([]feeds.Message, error) {
	limited, cancel := context.WithTimeout(ctx, f.poll+beyond)
	defer cancel()
	out, err := f.client.ReceiveMessage(limited, &awssqs.ReceiveMessageInput{
		QueueUrl: &f.conf.QueueURL, MaxNumberOfMessages: maxMessages,
		WaitTimeSeconds: int32(f.poll / time.Second), VisibilityTimeout: int32(f.conf.Visibility / time.Second),
	})
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err() // the long poll was ended by us
		}
		return nil, f.explain("receive from queue", err)
	}
	messages := make([]feeds.Message, 0, len(out.Messages))
	for i := range out.Messages {
		m := &out.Messages[i]
		// The SDK has the whole message in memory, of 1 MiB at most; from here on
		// only what can be a result is.
		body := aws.ToString(m.Body)
		if len(body) > result.MaxBytes {
			body = body[:result.MaxBytes+1]
		}
		messages = append(messages, feeds.Message{Key: aws.ToString(m.MessageId), Body: []byte(body), Handle: aws.ToString(m.ReceiptHandle)})
	}
	return messages, nil
}

// Done implements feeds.Feed.
func (f *feed) Done(ctx context.Context, messages []feeds.Message) error {
	var failed error
	for len(messages) > 0 {
		n := min(len(messages), maxMessages)
		failed = errors.Join(failed, f.remove(ctx, messages[:n]))
		messages = messages[n:]
	}
	if failed == nil && f.refused {
		f.log.Info("the queue deletes results again")
	}
	f.refused = failed != nil
	return failed
}

// remove deletes up to maxMessages.
func (f *feed) remove(ctx context.Context, messages []feeds.Message) error {
	limited, cancel := context.WithTimeout(ctx, deleteTimeout)
	defer cancel()
	in := &awssqs.DeleteMessageBatchInput{QueueUrl: &f.conf.QueueURL}
	for i := range messages {
		handle, ok := messages[i].Handle.(string)
		if !ok {
			panic("BUG: a message without SQS's receipt handle")
		}
		in.Entries = append(in.Entries, types.DeleteMessageBatchRequestEntry{Id: aws.String(strconv.Itoa(i)), ReceiptHandle: &handle})
	}
	out, err := f.client.DeleteMessageBatch(limited, in)
	if err != nil {
		return f.explain("delete from queue", err)
	}
	if len(out.Failed) > 0 {
		// One stands for all: they come again, and are known by their versions.
		e := &out.Failed[0]
		class, hint := awsconf.CodeClass(aws.ToString(e.Code), e.SenderFault)
		return &uploader.SendError{Class: class, Op: "delete from queue", Object: f.conf.QueueURL, Hint: hint,
			Err: fmt.Errorf("%d of %d messages: %s: %s", len(out.Failed), len(messages), aws.ToString(e.Code), aws.ToString(e.Message))}
	}
	return nil
}

// explain classifies an error. What blames the request blames the settings
// here, since nothing of it comes from a block.
func (f *feed) explain(op string, err error) error {
	out := awsconf.Wrap(op, f.conf.QueueURL, err)
	if out.Class == uploader.Permanent {
		out.Class, out.Hint = uploader.Hold, "check queue_url and visibility of the feed"
	}
	return out
}

// Check implements feeds.Feed.
func (f *feed) Check(ctx context.Context) error {
	// What is needed is receiving and deleting; asking for an attribute would
	// need one right more. The SDK leaves out a visibility of 0, and the queue's
	// own would hide the message for long.
	_, err := f.client.ReceiveMessage(ctx, &awssqs.ReceiveMessageInput{QueueUrl: &f.conf.QueueURL, MaxNumberOfMessages: 1, VisibilityTimeout: 1})
	if err != nil {
		return f.explain("receive from queue", err)
	}
	return nil
}

// Close implements feeds.Feed.
func (f *feed) Close() error { return nil }
