package worker

import (
	"context"
	"encoding/base64"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	ddbtypes "github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"

	"millrace/cloud/catalogue"
	"millrace/cloud/connect"
	"millrace/cloud/objects"
	"millrace/internal/backoff"
	"millrace/internal/sim/awssim"
	"millrace/internal/weekitem"
	"millrace/sample/block"
	"millrace/sample/weektable"
	"millrace/uploader"
	ddbsink "millrace/uploader/dynamodb"
	sqssink "millrace/uploader/sqs"
)

var (
	ledgerSamples = flag.Int("ledger.samples", 120_000, "samples of the ledger test")
	ledgerBlock   = flag.Int("ledger.block", 1_000, "samples of each of its blocks")
)

// cloud is simulated AWS with a queue, its dead letters, and clients.
type cloud struct {
	*awssim.Server
	queue *sqs.Client
	db    *dynamodb.Client
	url   string
	dead  string
}

func newCloud(t testing.TB) *cloud {
	t.Helper()
	server, err := awssim.Start(awssim.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	t.Setenv("AWS_ACCESS_KEY_ID", "AK")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	s := connect.Settings{Region: "eu-central-1", Endpoint: server.URL(awssim.ServiceDynamoDB), OneTry: true, Connections: 16}
	cfg, err := connect.Load(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	c := &cloud{Server: server, db: connect.DynamoDB(cfg, s), url: server.QueueURL("plant"), dead: server.QueueURL("dead")}
	c.queue = connect.SQS(cfg, c.url)
	for _, name := range []string{"plant", "dead"} {
		if _, err := c.queue.CreateQueue(t.Context(), &sqs.CreateQueueInput{QueueName: &name}); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

func (c *cloud) table(t testing.TB, name string) {
	t.Helper()
	keys, attributes := weekitem.Keys()
	if _, err := c.db.CreateTable(t.Context(), &dynamodb.CreateTableInput{TableName: &name, KeySchema: keys, AttributeDefinitions: attributes,
		BillingMode: ddbtypes.BillingModePayPerRequest}); err != nil {
		t.Fatal(err)
	}
}

func (c *cloud) send(t testing.TB, messages ...types.Message) {
	t.Helper()
	for _, m := range messages {
		if _, err := c.queue.SendMessage(t.Context(), &sqs.SendMessageInput{QueueUrl: &c.url, MessageBody: m.Body, MessageAttributes: m.MessageAttributes}); err != nil {
			t.Fatal(err)
		}
	}
}

func (c *cloud) items(t testing.TB, table string) (out []map[string]ddbtypes.AttributeValue) {
	t.Helper()
	pages := dynamodb.NewScanPaginator(c.db, &dynamodb.ScanInput{TableName: &table})
	for pages.HasMorePages() {
		page, err := pages.NextPage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, page.Items...)
	}
	return out
}

// backlog counts the messages of a queue, those under way too.
func (c *cloud) backlog(t testing.TB, url string) (n int) {
	t.Helper()
	out, err := c.queue.GetQueueAttributes(context.WithoutCancel(t.Context()), &sqs.GetQueueAttributesInput{QueueUrl: &url, AttributeNames: []types.QueueAttributeName{"All"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"} {
		var one int
		if _, err := fmt.Sscan(out.Attributes[name], &one); err != nil {
			t.Fatal(err)
		}
		n += one
	}
	return n
}

// drain runs a worker until the queue is empty.
func (c *cloud) drain(t testing.TB, change func(*Options)) *Worker {
	t.Helper()
	o := options(&book{})
	o.QueueURL, o.DeadLetterURL = c.url, c.dead
	if change != nil {
		change(&o)
	}
	w, err := New(o, c.queue, c.db)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	for c.backlog(t, c.url) > 0 {
		backoff.Sleep(t.Context(), 10*time.Millisecond)
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return w
}

// TestSameItemsAsTheGatewaysOwn: what goes by the gateway's SQS sink and the
// worker makes the very items that the gateway's DynamoDB sink makes; the JSON
// form, which has no bytes to keep, is poison.
func TestSameItemsAsTheGatewaysOwn(t *testing.T) {
	c := newCloud(t)
	now := time.Now()
	var list []uploader.Block
	thinned := header(4)
	thinned.Thinned = 3
	for i, h := range []block.Header{header(1), header(2), header(3), thinned} {
		data := blockOf(t, h, now.Add(time.Duration(i)*time.Second-time.Minute), 100)
		h, err := block.ReadHeader(data)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, uploader.Block{Number: uint64(i), Header: h, Data: data})
	}
	deliver := func(conf uploader.Config) {
		s, err := conf.Open(uploader.Settings{Name: "s", Site: "north", Gateway: "gw1"})
		if err != nil {
			t.Fatal(err)
		}
		for _, err := range s.Send(t.Context(), list) {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	direct := ddbsink.Kind{}.NewConfig().(*ddbsink.Config)
	direct.TablePrefix, direct.Region, direct.Endpoint, direct.CreateTables = "direct", "eu-central-1", c.URL(awssim.ServiceDynamoDB), true
	deliver(direct)
	queue := sqssink.Kind{}.NewConfig().(*sqssink.Config)
	queue.QueueURL, queue.Region = c.url, "eu-central-1"
	deliver(queue)
	for i := range list {
		c.tableOf(t, "plant", list[i].Header.First)
	}
	w := c.drain(t, nil)
	if n := w.Counts(); n.Stored != 4 || n.Poison != 0 {
		t.Fatalf("%+v", n)
	}
	for i := range list {
		first := time.Unix(0, list[i].Header.First)
		want, got := c.items(t, weektable.Table("direct", first)), c.items(t, weektable.Table("plant", first))
		if len(got) == 0 || fmt.Sprint(texts(want)) != fmt.Sprint(texts(got)) {
			t.Errorf("the sink makes\n%v\nthe worker\n%v", texts(want), texts(got))
		}
	}
	queue.Format = sqssink.FormatJSON
	deliver(queue)
	if w := c.drain(t, nil); w.Counts().Poison != 4 || c.backlog(t, c.dead) != 4 {
		t.Errorf("JSON: %+v, %d dead", w.Counts(), c.backlog(t, c.dead))
	}
	out, err := c.queue.ReceiveMessage(t.Context(), &sqs.ReceiveMessageInput{QueueUrl: &c.dead, MessageAttributeNames: []string{"All"}})
	if err != nil || len(out.Messages) != 1 || !strings.Contains(*out.Messages[0].MessageAttributes[ReasonAttribute].StringValue, "the JSON form") ||
		*out.Messages[0].MessageAttributes["site"].StringValue != "north" {
		t.Errorf("%v, %+v", err, out)
	}
}

func (c *cloud) tableOf(t testing.TB, prefix string, first int64) {
	name := weektable.Table(prefix, time.Unix(0, first))
	if _, err := c.db.DescribeTable(t.Context(), &dynamodb.DescribeTableInput{TableName: &name}); err != nil {
		c.table(t, name)
	}
}

// texts are items in a form that can be compared.
func texts(items []map[string]ddbtypes.AttributeValue) (out []string) {
	for _, it := range items {
		text := ""
		for _, name := range []string{"pk", "sk", "first", "last", "count", "version", "codec", "block"} {
			switch v := it[name].(type) {
			case *ddbtypes.AttributeValueMemberS:
				text += " " + name + "=" + v.Value
			case *ddbtypes.AttributeValueMemberN:
				text += " " + name + ":" + v.Value
			case *ddbtypes.AttributeValueMemberB:
				text += " " + name + "/" + base64.StdEncoding.EncodeToString(v.Value)
			}
		}
		out = append(out, fmt.Sprintf("%d%s", len(it), text))
	}
	return out
}

// TestLateBlocks: what is older than the retention, and what is of a week that
// was retired, becomes an object of S3 under a key of its identity.
func TestLateBlocks(t *testing.T) {
	c := newCloud(t)
	fake := httptest.NewServer(gofakes3.New(s3mem.New()).Server())
	defer fake.Close()
	s := connect.Settings{Region: "eu-central-1", S3Endpoint: fake.URL, OneTry: true}
	cfg, err := connect.Load(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	client := connect.S3(cfg, s)
	if _, err := client.CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: aws.String("archive")}); err != nil {
		t.Fatal(err)
	}
	place, err := objects.Parse("s3://archive/plant", func() (*s3.Client, error) { return client, nil })
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	old := blockOf(t, header(1), now.AddDate(-2, 0, 0), 20)
	gone := blockOf(t, header(2), now.AddDate(0, 0, -30), 20)
	c.send(t, messageOf(t, old), messageOf(t, gone), messageOf(t, old))
	w := c.drain(t, func(o *Options) {
		o.Late = place
		o.Retired = func(_ context.Context, table string) (bool, error) {
			return table == weektable.Table("plant", now.AddDate(0, 0, -30)), nil
		}
	})
	if n := w.Counts(); n.Late != 3 || n.Stored != 0 || n.Held != 0 {
		t.Errorf("%+v", n)
	}
	list, err := client.ListObjectsV2(t.Context(), &s3.ListObjectsV2Input{Bucket: aws.String("archive")})
	if err != nil || len(list.Contents) != 2 {
		t.Fatalf("%v, %+v", err, list)
	}
	for _, data := range [][]byte{old, gone} {
		h, err := block.ReadHeader(data)
		if err != nil {
			t.Fatal(err)
		}
		r, err := place.Get(t.Context(), weektable.LateKey("plant", &h, weektable.Checksum(data)))
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(data)+1)
		if n, _ := r.Read(got); string(got[:n]) != string(data) {
			t.Errorf("the object has %d bytes, the block %d", n, len(data))
		}
		r.Close()
	}
	if _, err := place.Get(t.Context(), "late/none"); !errors.Is(err, objects.ErrNone) {
		t.Errorf("no object: %v", err)
	}
}

// errKilled is what every call answers once a worker is dead.
var errKilled = errors.New("killed")

// mortal kills a worker at one of its calls, before or after it is carried out.
type mortal struct {
	*sqs.Client
	db    *dynamodb.Client
	calls atomic.Int64 // until death
	kill  context.CancelFunc
}

// strike carries a call out, unless the worker dies before it.
func strike[T any](m *mortal, do func() (*T, error)) (*T, error) {
	n := m.calls.Add(-1)
	if n < 0 || n == 0 && rand.IntN(2) == 0 {
		m.kill()
		return nil, errKilled
	}
	out, err := do()
	if n == 0 {
		m.kill()
		return nil, errKilled
	}
	return out, err
}

func (m *mortal) ReceiveMessage(ctx context.Context, in *sqs.ReceiveMessageInput, o ...func(*sqs.Options)) (*sqs.ReceiveMessageOutput, error) {
	return strike(m, func() (*sqs.ReceiveMessageOutput, error) { return m.Client.ReceiveMessage(ctx, in, o...) })
}

func (m *mortal) DeleteMessageBatch(ctx context.Context, in *sqs.DeleteMessageBatchInput, o ...func(*sqs.Options)) (*sqs.DeleteMessageBatchOutput, error) {
	return strike(m, func() (*sqs.DeleteMessageBatchOutput, error) { return m.Client.DeleteMessageBatch(ctx, in, o...) })
}

func (m *mortal) ChangeMessageVisibilityBatch(ctx context.Context, in *sqs.ChangeMessageVisibilityBatchInput, o ...func(*sqs.Options)) (*sqs.ChangeMessageVisibilityBatchOutput, error) {
	return strike(m, func() (*sqs.ChangeMessageVisibilityBatchOutput, error) {
		return m.Client.ChangeMessageVisibilityBatch(ctx, in, o...)
	})
}

func (m *mortal) SendMessageBatch(ctx context.Context, in *sqs.SendMessageBatchInput, o ...func(*sqs.Options)) (*sqs.SendMessageBatchOutput, error) {
	return strike(m, func() (*sqs.SendMessageBatchOutput, error) { return m.Client.SendMessageBatch(ctx, in, o...) })
}

func (m *mortal) BatchWriteItem(ctx context.Context, in *dynamodb.BatchWriteItemInput, o ...func(*dynamodb.Options)) (*dynamodb.BatchWriteItemOutput, error) {
	return strike(m, func() (*dynamodb.BatchWriteItemOutput, error) { return m.db.BatchWriteItem(ctx, in, o...) })
}

func (m *mortal) PutItem(ctx context.Context, in *dynamodb.PutItemInput, o ...func(*dynamodb.Options)) (*dynamodb.PutItemOutput, error) {
	return strike(m, func() (*dynamodb.PutItemOutput, error) { return m.db.PutItem(ctx, in, o...) })
}

func (m *mortal) BatchGetItem(ctx context.Context, in *dynamodb.BatchGetItemInput, o ...func(*dynamodb.Options)) (*dynamodb.BatchGetItemOutput, error) {
	return m.db.BatchGetItem(ctx, in, o...)
}

func (m *mortal) Query(ctx context.Context, in *dynamodb.QueryInput, o ...func(*dynamodb.Options)) (*dynamodb.QueryOutput, error) {
	return m.db.Query(ctx, in, o...)
}

func (m *mortal) Scan(ctx context.Context, in *dynamodb.ScanInput, o ...func(*dynamodb.Options)) (*dynamodb.ScanOutput, error) {
	return m.db.Scan(ctx, in, o...)
}

// TestLedger: with duplicates, any order, workers that die at any call, answers
// that are lost, throttling and items that are left over, every sample is once
// in the tables and none is missing, and so are the records in theirs. The archive
// of the tables has their counts and hashes, and its rows are what was issued.
func TestLedger(t *testing.T) {
	c := newCloud(t)
	for _, name := range catalogue.Tables("plant") {
		c.table(t, name)
	}
	now := time.Now().Truncate(time.Minute) // no block holds two days
	const streams = 5
	const reports = 12 // blocks of the system stream
	total := (*ledgerSamples + *ledgerBlock - 1) / *ledgerBlock
	sent := map[string]string{} // identity → bytes
	var messages []types.Message
	tr := newTruth()
	for i := range reports {
		at := now.Add(-time.Duration(i) * 20 * time.Hour)
		data := sysBlock(t, uint64(i+1), at)
		h, err := block.ReadHeader(data)
		if err != nil {
			t.Fatal(err)
		}
		sent[h.Identity()] = string(data)
		c.tableOf(t, "plant", h.First)
		messages = append(messages, messageOf(t, data), messageOf(t, data))
		tr.expect(t, data)
	}
	for i := range total {
		h := header(uint64(i/streams + 1))
		h.Stream = fmt.Sprintf("s%04d", i%streams)
		h.Produced = uint64((i/streams + 1) * *ledgerBlock)
		at := now.Add(-time.Duration(i%3) * 7 * 24 * time.Hour).Add(-time.Duration(i) * time.Minute)
		data := blockOf(t, h, at, *ledgerBlock)
		sent[h.Identity()] = string(data)
		tr.issue(h.Site+"/meter/"+h.Stream, at, *ledgerBlock)
		c.tableOf(t, "plant", at.UnixNano())
		m := messageOf(t, data)
		messages = append(messages, m)
		if i%7 == 0 {
			messages = append(messages, m)
		}
	}
	rand.Shuffle(len(messages), func(i, j int) { messages[i], messages[j] = messages[j], messages[i] })
	c.send(t, messages...)
	c.SetFaults(awssim.ServiceDynamoDB, awssim.Faults{Throttled: 0.1, Failing: 0.03, Partial: 0.1, AnswerLost: 0.05})
	c.SetFaults(awssim.ServiceSQS, awssim.Faults{Throttled: 0.03, Failing: 0.03, Partial: 0.03, AnswerLost: 0.03})

	began := time.Now()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	const crew = 3
	var deaths atomic.Int64
	done := make(chan error, crew)
	for range crew {
		go func() {
			for ctx.Err() == nil {
				life, kill := context.WithCancel(ctx)
				m := &mortal{Client: c.queue, db: c.db, kill: kill}
				m.calls.Store(5 + rand.Int64N(60))
				o := options(&book{})
				o.QueueURL, o.DeadLetterURL, o.Concurrency = c.url, c.dead, 2
				o.Visibility, o.Backoff = time.Second, backoff.Policy{Base: 5 * time.Millisecond, Max: 50 * time.Millisecond}
				o.Records = &catalogue.Store{DB: m, Prefix: "plant"}
				w, err := New(o, m, m)
				if err != nil {
					done <- err
					kill()
					return
				}
				if err := w.Run(life); err != nil {
					done <- err
					kill()
					return
				}
				if m.calls.Load() <= 0 {
					deaths.Add(1)
				}
				kill()
			}
			done <- nil
		}()
	}
	c.await(t, 2*time.Minute)
	cancel()
	for range crew {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	took := time.Since(began)
	c.SetFaults(awssim.ServiceDynamoDB, awssim.Faults{})
	c.SetFaults(awssim.ServiceSQS, awssim.Faults{})

	samples, blocks := 0, 0
	dec, err := block.NewDecoder()
	if err != nil {
		t.Fatal(err)
	}
	names, err := c.db.ListTables(t.Context(), &dynamodb.ListTablesInput{})
	if err != nil {
		t.Fatal(err)
	}
	tr.again()
	weeks := slices.DeleteFunc(names.TableNames, func(name string) bool { _, _, ok := weektable.ParseTable(name); return !ok })
	for _, table := range weeks {
		for _, it := range c.items(t, table) {
			data := it[weektable.AttrBlock].(*ddbtypes.AttributeValueMemberB).Value
			b, err := dec.Decode(data)
			if err != nil {
				t.Fatal(err)
			}
			if sent[b.Identity()] != string(data) || weektable.Table("plant", time.Unix(0, b.First)) != table {
				t.Fatalf("%s in %s is not what was sent, or was there twice", b.Identity(), table)
			}
			delete(sent, b.Identity())
			blocks++
			for s := range b.All() {
				if err := tr.see(&s); err != nil {
					t.Fatal(err)
				}
				samples++
			}
		}
	}
	all := total**ledgerBlock + 2*reports
	if len(sent) != 0 || blocks != total+reports || samples != all || tr.seen != all {
		t.Errorf("%d blocks missing; %d blocks and %d samples in the tables, %d of them as issued", len(sent), blocks, samples, tr.seen)
	}
	store := &catalogue.Store{DB: c.db, Prefix: "plant"}
	entries, gaps := 0, 0
	if err := errors.Join(store.Entries(t.Context(), "north", func(*catalogue.Entry) error { entries++; return nil }),
		store.Gaps(t.Context(), "north", time.Time{}, time.Time{}, func(*catalogue.Gap) error { gaps++; return nil })); err != nil || entries != reports || gaps != reports {
		t.Errorf("%d entries and %d gaps of %d each; %v", entries, gaps, reports, err)
	}
	if deaths.Load() < 2 || c.backlog(t, c.dead) != 0 {
		t.Errorf("%d workers died, %d dead letters", deaths.Load(), c.backlog(t, c.dead))
	}
	t.Logf("%d samples in %d blocks, sent as %d messages: every one once in %d tables after %v; %d workers killed",
		samples, blocks, len(messages), len(weeks), took.Round(time.Millisecond), deaths.Load())
	c.archived(t, store, tr, all, reports)
}

// await waits until the queue is empty, faults or not.
func (c *cloud) await(t *testing.T, most time.Duration) {
	t.Helper()
	for deadline := time.Now().Add(most); ; {
		out, err := c.queue.GetQueueAttributes(t.Context(), &sqs.GetQueueAttributesInput{QueueUrl: &c.url, AttributeNames: []types.QueueAttributeName{"All"}})
		if err == nil && out.Attributes["ApproximateNumberOfMessages"] == "0" && out.Attributes["ApproximateNumberOfMessagesNotVisible"] == "0" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the queue did not get empty")
		}
		backoff.Sleep(t.Context(), 20*time.Millisecond)
	}
}
