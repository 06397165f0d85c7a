package sqs

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	awssqs "github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"millrace/internal/secret"
	"millrace/internal/sim/awssim"
	"millrace/sample/block"
	"millrace/uploader"
	"millrace/uploader/awsconf"
	"millrace/uploader/sinktest"
)

const keyID, secretKey = "AKIDEXAMPLE", "correct-horse"

// bench is a simulated SQS with one queue.
type bench struct {
	server *awssim.Server
	client *awssqs.Client
	url    string
	stored map[string][]byte
	last   map[string]map[string]types.MessageAttributeValue
}

func startBench(t *testing.T, queue string, attrs map[string]string) *bench {
	t.Helper()
	server, err := awssim.Start(awssim.Options{Keys: map[string]string{keyID: secretKey}, Seed: 7})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	b := &bench{server: server, stored: map[string][]byte{}, last: map[string]map[string]types.MessageAttributeValue{}}
	b.client = awssqs.New(awssqs.Options{Region: "eu-central-1", HTTPClient: awsconf.Steady(http.DefaultClient), BaseEndpoint: aws.String(server.URL(awssim.ServiceSQS)),
		Credentials: credentials.NewStaticCredentialsProvider(keyID, secretKey, "")})
	b.url = b.create(t, queue, attrs)
	return b
}

func (b *bench) create(t *testing.T, queue string, attrs map[string]string) string {
	t.Helper()
	out, err := b.client.CreateQueue(t.Context(), &awssqs.CreateQueueInput{QueueName: &queue, Attributes: attrs})
	if err != nil {
		t.Fatal(err)
	}
	return *out.QueueUrl
}

func (b *bench) config(t *testing.T) *Config {
	t.Setenv("MILLRACE_TEST_KEY", secretKey)
	c := Kind{}.NewConfig().(*Config)
	c.QueueURL, c.Region, c.Endpoint = b.url, "eu-central-1", b.server.URL(awssim.ServiceSQS)
	var ref secret.Ref
	if err := ref.UnmarshalText([]byte("env:MILLRACE_TEST_KEY")); err != nil {
		t.Fatal(err)
	}
	c.Credentials = awsconf.Credentials{AccessKeyID: keyID, SecretAccessKey: ref}
	return c
}

// receive empties the queue into b.stored.
func (b *bench) receive(t *testing.T) map[string][]byte {
	t.Helper()
	b.server.SetFaults(awssim.ServiceSQS, awssim.Faults{})
	for {
		out, err := b.client.ReceiveMessage(context.WithoutCancel(t.Context()), &awssqs.ReceiveMessageInput{QueueUrl: &b.url, MaxNumberOfMessages: 10,
			MessageAttributeNames: []string{"All"}})
		if err != nil {
			t.Fatal(err)
		}
		if len(out.Messages) == 0 {
			break
		}
		for _, m := range out.Messages {
			data, err := base64.StdEncoding.DecodeString(*m.Body)
			if err != nil {
				t.Fatalf("body: %v", err)
			}
			key := ""
			for _, n := range []string{AttrSite, AttrGateway, AttrStream, AttrEpoch, AttrSeq} {
				key += *m.MessageAttributes[n].StringValue + "#"
			}
			b.stored[key], b.last[key] = data, m.MessageAttributes
			if _, err := b.client.DeleteMessage(context.WithoutCancel(t.Context()), &awssqs.DeleteMessageInput{QueueUrl: &b.url, ReceiptHandle: m.ReceiptHandle}); err != nil {
				t.Fatal(err)
			}
		}
	}
	out := map[string][]byte{}
	for k, v := range b.stored {
		out[k] = v
	}
	return out
}

func blockKey(b *uploader.Block) string { return b.Header.Identity() + "#" }

func (b *bench) fault(f awssim.Faults) func(bool) {
	return func(on bool) {
		if !on {
			f = awssim.Faults{}
		}
		b.server.SetFaults(awssim.ServiceSQS, f)
	}
}

// endpoint makes the bench known to the suite. Reading back heals the faults,
// so those that outlast it are set again.
func (b *bench) endpoint(c *Config) *sinktest.Endpoint {
	partial := false
	return &sinktest.Endpoint{Config: c, Key: blockKey,
		Stored: func(t *testing.T) map[string][]byte {
			out := b.receive(t)
			if partial {
				b.server.SetFaults(awssim.ServiceSQS, awssim.Faults{Partial: 0.5})
			}
			return out
		},
		Set: map[sinktest.Fault]func(bool){
			sinktest.Down:       b.fault(awssim.Faults{Down: true}),
			sinktest.Slow:       b.fault(awssim.Faults{Slow: time.Minute}),
			sinktest.Throttled:  b.fault(awssim.Faults{Throttled: 1, RetryAfter: 200 * time.Millisecond}),
			sinktest.AnswerLost: b.fault(awssim.Faults{AnswerLost: 1}),
			sinktest.Denied:     b.fault(awssim.Faults{Denied: true}),
			sinktest.Expired:    b.fault(awssim.Faults{Expired: true}),
			sinktest.Skewed:     b.fault(awssim.Faults{Skewed: true}),
			sinktest.Partial: func(on bool) {
				partial = on
				b.fault(awssim.Faults{Partial: 0.5})(on)
			},
			sinktest.Missing: func(on bool) {
				ctx := context.Background()
				if on {
					b.client.DeleteQueue(ctx, &awssqs.DeleteQueueInput{QueueUrl: &b.url})
				} else {
					b.client.CreateQueue(ctx, &awssqs.CreateQueueInput{QueueName: aws.String("plant")})
				}
			},
		}}
}

func TestSuite(t *testing.T) {
	sinktest.Run(t, sinktest.Harness{
		Kind: Kind{},
		Start: func(t *testing.T) *sinktest.Endpoint {
			b := startBench(t, "plant", nil)
			return b.endpoint(b.config(t))
		},
		TooLarge: func(n uint64) uploader.Block { return sinktest.OpaqueOf(n, maxBytes*3/4) },
	})
}

func TestSuiteOnFIFOQueue(t *testing.T) {
	sinktest.Run(t, sinktest.Harness{
		Kind: Kind{},
		Start: func(t *testing.T) *sinktest.Endpoint {
			b := startBench(t, "plant.fifo", map[string]string{"FifoQueue": "true"})
			e := b.endpoint(b.config(t))
			delete(e.Set, sinktest.Missing)
			return e
		},
	})
}

// gunzip undoes the packing of the JSON form.
func gunzip(t *testing.T, packed []byte) []byte {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestSuiteInJSON(t *testing.T) {
	sinktest.Run(t, sinktest.Harness{
		Kind: Kind{},
		Start: func(t *testing.T) *sinktest.Endpoint {
			b := startBench(t, "plant", nil)
			c := b.config(t)
			c.Format = FormatJSON
			e := b.endpoint(c)
			received := e.Stored
			e.Stored = func(t *testing.T) map[string][]byte {
				out := received(t)
				for key, packed := range out {
					out[key] = gunzip(t, packed)
				}
				return out
			}
			e.Bytes = func(bl *uploader.Block) []byte {
				d, err := block.NewDecoder()
				if err != nil {
					t.Fatal(err)
				}
				decoded, err := d.Decode(bl.Data)
				if err != nil {
					t.Fatal(err)
				}
				return block.AppendJSON(nil, decoded)
			}
			return e
		},
		Block: sinktest.Packed,
		// What is no block has no JSON form.
		TooLarge: sinktest.Opaque,
	})
}

func TestJSONMessageSaysSo(t *testing.T) {
	b := startBench(t, "plant", nil)
	c := b.config(t)
	c.Format = FormatJSON
	s := open(t, c)
	bl := sinktest.Packed(3)
	if err := s.Send(t.Context(), []uploader.Block{bl})[0]; err != nil {
		t.Fatal(err)
	}
	packed := b.receive(t)[blockKey(&bl)]
	parsed, err := block.ParseJSON(gunzip(t, packed))
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for one := range parsed.All() {
		if one.Tag != sinktest.PackedTag(3) || one.Value.Float() != 3+float64(n)/8 {
			t.Errorf("sample %d is %+v", n, one)
		}
		n++
	}
	if n != 20 || parsed.Header != bl.Header {
		t.Errorf("%d samples, header %+v", n, parsed.Header)
	}
	if got := aws.ToString(b.last[blockKey(&bl)][AttrSchema].StringValue); got != SchemaJSON {
		t.Errorf("schema is %q", got)
	}
	if size := s.Limits().Size(&bl); size != base64.StdEncoding.EncodedLen(len(packed))+s.attributesSize(&bl) {
		t.Errorf("the size is counted as %d", size)
	}
}

func open(t *testing.T, c *Config) *sink {
	t.Helper()
	s, err := c.Open(uploader.Settings{Name: "cloud", Site: "plant", Gateway: "gw1", Log: sinktest.Log()})
	if err != nil {
		t.Fatal(err)
	}
	return s.(*sink)
}

func TestFIFOQueueTakesABlockOnceAfterALostAnswer(t *testing.T) {
	b := startBench(t, "plant.fifo", map[string]string{"FifoQueue": "true"})
	accepted := 0
	b.server.OnAccept(func(awssim.Accepted) { accepted++ })
	s := open(t, b.config(t))
	blocks := []uploader.Block{sinktest.Opaque(1), sinktest.Opaque(2)}
	b.server.SetFaults(awssim.ServiceSQS, awssim.Faults{AnswerLost: 1})
	for _, err := range s.Send(t.Context(), blocks) {
		if err == nil {
			t.Fatal("a lost answer counts as delivered")
		}
	}
	b.server.SetFaults(awssim.ServiceSQS, awssim.Faults{})
	for _, err := range s.Send(t.Context(), blocks) {
		if err != nil {
			t.Fatal(err)
		}
	}
	if accepted != 2 {
		t.Errorf("the queue took %d messages, want 2", accepted)
	}
}

// The size that we count must be the one that SQS counts: the queue takes a
// message of exactly its limit, and refuses one of a byte more.
func TestSizeIsWhatTheQueueCounts(t *testing.T) {
	b := startBench(t, "plant", map[string]string{"MaximumMessageSize": "4096"})
	s := open(t, b.config(t))
	fits := uploader.Block{}
	for n := 16; ; n++ {
		next := sinktest.OpaqueOf(1, n)
		if s.Limits().Size(&next) > 4096 {
			break
		}
		fits = next
	}
	tooLong := sinktest.OpaqueOf(2, len(fits.Data)+3)
	outcomes := s.Send(t.Context(), []uploader.Block{fits, tooLong})
	if outcomes[0] != nil {
		t.Errorf("a message of %d bytes is refused: %v", s.Limits().Size(&fits), outcomes[0])
	}
	if uploader.Classify(outcomes[1]) != uploader.Hold {
		t.Errorf("a message beyond the queue's own limit has outcome %v, want a hold", outcomes[1])
	}
	// The queue itself is of the same opinion.
	s.limit.Store(maxBytes)
	s.asked = true
	if err := s.Send(t.Context(), []uploader.Block{tooLong})[0]; err == nil {
		t.Errorf("the queue takes a message of %d bytes", s.Limits().Size(&tooLong))
	}
	// The operator raises the limit.
	if _, err := b.client.SetQueueAttributes(t.Context(), &awssqs.SetQueueAttributesInput{QueueUrl: &b.url, Attributes: map[string]string{"MaximumMessageSize": "8192"}}); err != nil {
		t.Fatal(err)
	}
	s.asked = false
	if err := s.Send(t.Context(), []uploader.Block{tooLong})[0]; err != nil {
		t.Errorf("after the limit was raised: %v", err)
	}
}

func TestAttributes(t *testing.T) {
	b := startBench(t, "plant", nil)
	s := open(t, b.config(t))
	bl := sinktest.Opaque(9)
	if err := s.Send(t.Context(), []uploader.Block{bl})[0]; err != nil {
		t.Fatal(err)
	}
	b.receive(t)
	got := b.last[blockKey(&bl)]
	h := bl.Header
	for name, want := range map[string]string{
		AttrSchema: "millrace.block.v1", AttrSite: "plant", AttrGateway: "gw1", AttrStream: "s0001", AttrEpoch: "0123456789abcdef",
		AttrSeq: "9", AttrFirst: fmt.Sprint(h.First), AttrLast: fmt.Sprint(h.Last), AttrCount: "100",
	} {
		if v := aws.ToString(got[name].StringValue); v != want {
			t.Errorf("attribute %s is %q, want %q", name, v, want)
		}
	}
	if len(got) != 9 {
		t.Errorf("there are %d attributes; SQS takes 10", len(got))
	}
}

// On a standard queue the group is the site, in what SQS takes as a group.
func TestTheGroupIsTheSite(t *testing.T) {
	long := strings.Repeat("x", 128)
	sites := map[string]string{"north": "north", "a!~z": "a!~z", long: long,
		long + "x": "site-", "Werk Süd": "site-", "two words": "site-"}
	seen := map[string]bool{}
	for site, want := range sites {
		got := tenant(site)
		if got != want && (want != "site-" || !strings.HasPrefix(got, want)) || seen[got] || len(got) > 128 {
			t.Errorf("site %q has the group %q, want %q", site, got, want)
		}
		seen[got] = true
	}
	b := startBench(t, "plant", nil)
	s := open(t, b.config(t))
	for i, site := range []string{"north", "Werk Süd"} {
		bl := sinktest.Opaque(uint64(i + 1))
		bl.Header.Site = site
		if err := s.Send(t.Context(), []uploader.Block{bl})[0]; err != nil {
			t.Fatal(err)
		}
		out, err := b.client.ReceiveMessage(t.Context(), &awssqs.ReceiveMessageInput{QueueUrl: &b.url,
			MessageSystemAttributeNames: []types.MessageSystemAttributeName{types.MessageSystemAttributeNameMessageGroupId}})
		if err != nil || len(out.Messages) != 1 || out.Messages[0].Attributes["MessageGroupId"] != tenant(site) {
			t.Errorf("site %q: %+v, %v", site, out, err)
		}
	}
}

// An answer is mapped by its ids, in whatever order they come.
func TestAnswerIsMappedById(t *testing.T) {
	s := &sink{queue: "q", asked: true}
	blocks := []uploader.Block{sinktest.Opaque(1), sinktest.Opaque(2), sinktest.Opaque(3), sinktest.Opaque(4), sinktest.Opaque(5), sinktest.Opaque(6)}
	outcomes := make([]error, len(blocks))
	at := map[string]int{"0": 0, "1": 1, "2": 2, "3": 3, "4": 4, "5": 5}
	failed := func(id, code string, sender bool) types.BatchResultErrorEntry {
		return types.BatchResultErrorEntry{Id: &id, Code: &code, SenderFault: sender}
	}
	s.settle(blocks, outcomes, at, &awssqs.SendMessageBatchOutput{
		Successful: []types.SendMessageBatchResultEntry{{Id: aws.String("4")}, {Id: aws.String("99")}},
		Failed: []types.BatchResultErrorEntry{
			failed("3", "InvalidMessageContents", true),
			failed("1", "InternalError", false),
			failed("0", "RequestThrottled", true),
			failed("5", "KMS.DisabledException", true),
		},
	})
	want := []uploader.Class{uploader.Throttled, uploader.Transient, uploader.Transient /* not named */, uploader.Permanent, 0, uploader.Hold}
	for i, err := range outcomes {
		if i == 4 {
			if err != nil {
				t.Errorf("the block that was confirmed has outcome %v", err)
			}
			continue
		}
		if err == nil || uploader.Classify(err) != want[i] {
			t.Errorf("block %d has outcome %v, want class %s", i, err, want[i])
		}
	}
}

func TestUnknownKeyIsHeldAndNotShown(t *testing.T) {
	b := startBench(t, "plant", nil)
	for name, change := range map[string]func(*Config){
		"unknown id":   func(c *Config) { c.Credentials.AccessKeyID = "AKIDOTHER" },
		"wrong secret": func(*Config) { t.Setenv("MILLRACE_TEST_KEY", "battery-staple") },
		"no secret": func(c *Config) {
			if err := c.Credentials.SecretAccessKey.UnmarshalText([]byte("file:/no/such/file")); err != nil {
				t.Fatal(err)
			}
		},
	} {
		c := b.config(t)
		change(c)
		err := open(t, c).Send(t.Context(), []uploader.Block{sinktest.Opaque(1)})[0]
		if uploader.Classify(err) != uploader.Hold {
			t.Errorf("%s: %v, want a hold", name, err)
		}
		t.Log(err)
	}
}

func TestRetryAfterComesFromTheServer(t *testing.T) {
	b := startBench(t, "plant", nil)
	s := open(t, b.config(t))
	b.server.SetFaults(awssim.ServiceSQS, awssim.Faults{Throttled: 1, RetryAfter: 7 * time.Second})
	err := s.Send(t.Context(), []uploader.Block{sinktest.Opaque(1)})[0]
	var se *uploader.SendError
	if !errors.As(err, &se) || se.RetryAfter != 7*time.Second {
		t.Errorf("outcome %+v, want one with a delay of 7s", err)
	}
}

// The SDK corrects its clock by the answers: one refused request, then it works.
func TestGatewayClockThatIsOffHeals(t *testing.T) {
	b := startBench(t, "plant", nil)
	s := open(t, b.config(t))
	b.server.SetFaults(awssim.ServiceSQS, awssim.Faults{Clock: 3 * time.Hour})
	var err error
	for range 3 {
		if err = s.Send(t.Context(), []uploader.Block{sinktest.Opaque(1)})[0]; err == nil {
			return
		}
		if uploader.Classify(err) != uploader.Hold {
			t.Fatalf("a clock that is off gives %v, want a hold", err)
		}
	}
	t.Errorf("the clock was not corrected: %v", err)
}

func TestValidate(t *testing.T) {
	if n := len((Kind{}.NewConfig().Validate())); n != 1 {
		t.Errorf("the defaults have %d faults, want 1: queue_url is missing", n)
	}
	for text, want := range map[string]string{
		"https://sqs.eu-central-1.amazonaws.com/1/q":       "",
		"https://sqs.cn-north-1.amazonaws.com.cn/1/q.fifo": "",
		"http://127.0.0.1:9324/000000000000/q":             "",
		"arn:aws:sqs:eu-central-1:1:q":                     "queue_url",
		"https://sqs.eu-central-1.amazonaws.com":           "queue_url",
		"sqs.eu-central-1.amazonaws.com/1/q":               "queue_url",
	} {
		c := Kind{}.NewConfig().(*Config)
		c.QueueURL = text
		got := ""
		for _, f := range c.Validate() {
			got += f.Path
		}
		if got != want {
			t.Errorf("queue_url %s has faults %q, want %q", text, got, want)
		}
	}
}
