//go:build interop

package interop

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	awsddb "github.com/aws/aws-sdk-go-v2/service/dynamodb"
	ddbtypes "github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	awssqs "github.com/aws/aws-sdk-go-v2/service/sqs"
	sqstypes "github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"millrace/internal/clock"
	"millrace/protocols/protocolstest"
	"millrace/sample/block"
	"millrace/sample/weektable"
	"millrace/uploader"
	"millrace/uploader/dynamodb"
	"millrace/uploader/sqs"
)

const region = "eu-central-1"

// keys are what both stand-ins take: any.
func keys(t *testing.T) aws.CredentialsProvider {
	t.Setenv("AWS_ACCESS_KEY_ID", "interop")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "interop")
	return credentials.NewStaticCredentialsProvider("interop", "interop", "")
}

// elasticMQ starts ElasticMQ and returns its endpoint.
func elasticMQ(t *testing.T) string {
	t.Helper()
	port := freePort(t)
	jars := installed(t, "ELASTICMQ")
	start(t, port, nil, nil, "java", "-Xmx256m",
		"-Drest-sqs.bind-hostname=127.0.0.1", fmt.Sprintf("-Drest-sqs.bind-port=%d", port),
		"-Dnode-address.host=127.0.0.1", fmt.Sprintf("-Dnode-address.port=%d", port),
		"-Drest-stats.enabled=false", // it would listen on all interfaces
		"-cp", filepath.Join(jars, "*"), "org.elasticmq.server.Main")
	return "http://" + address(port)
}

// dynamoDBLocal starts DynamoDB Local and returns its endpoint.
func dynamoDBLocal(t *testing.T) string {
	t.Helper()
	port := freePort(t)
	jars := installed(t, "DYNAMODB")
	start(t, port, nil, []string{"DDB_LOCAL_TELEMETRY=0"}, "java", "-Xmx512m",
		"-Djava.library.path="+jars, "-Dsqlite4java.library.path="+jars,
		"-cp", filepath.Join(jars, "*"), script(t, "LoopbackDynamoDB.java"),
		"-inMemory", "-disableTelemetry", "-port", fmt.Sprint(port))
	return "http://" + address(port)
}

// blocks returns blocks as the spool would hand them to a sink: of each size
// in bytes one, of the week of first.
func blocks(first time.Time, sizes ...int) []uploader.Block {
	out := make([]uploader.Block, len(sizes))
	for i, size := range sizes {
		start := first.Add(time.Duration(i) * time.Minute).UnixNano()
		out[i] = uploader.Block{
			Number: uint64(i + 1),
			Header: block.Header{
				Site: "Werk Süd", Gateway: "gw-1", Stream: fmt.Sprintf("s%04d", i%3), Epoch: 0xfeedfacecafebeef, Seq: uint64(i/3 + 1),
				Count: 100, First: start, Last: start + int64(time.Minute), Produced: 100,
			},
			Data: bytes.Repeat([]byte{byte(i), 0xff, 0x00, '"'}, size/4+1)[:size],
		}
	}
	return out
}

func settings() uploader.Settings {
	return uploader.Settings{Name: "cloud", Site: "Werk Süd", Gateway: "gw-1", Log: protocolstest.Settings().Log, Clock: clock.System{}}
}

// open opens a sink and checks its endpoint.
func open(t *testing.T, cfg uploader.Config) uploader.Sink {
	t.Helper()
	for _, f := range cfg.Validate() {
		t.Fatalf("%s: %s; %s", f.Path, f.Problem, f.Hint)
	}
	sink, err := cfg.Open(settings())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := sink.Close(); err != nil {
			t.Errorf("close the sink: %v", err)
		}
	})
	return sink
}

// deliver sends all blocks, each of which must be confirmed.
func deliver(t *testing.T, sink uploader.Sink, list []uploader.Block) {
	t.Helper()
	limits := sink.Limits()
	for len(list) > 0 {
		n, size := 0, 0
		for n < len(list) && n < limits.MaxBlocks && (n == 0 || size+limits.Size(&list[n]) <= limits.MaxBytes) {
			size += limits.Size(&list[n])
			n++
		}
		ctx, cancel := context.WithTimeout(t.Context(), uploader.DefaultTimeout)
		for i, err := range sink.Send(ctx, list[:n]) {
			if err != nil {
				t.Errorf("block %s: %v", list[i].Header.Identity(), err)
			}
		}
		cancel()
		list = list[n:]
	}
}

func sqsClient(t *testing.T, endpoint string) *awssqs.Client {
	return awssqs.New(awssqs.Options{Region: region, BaseEndpoint: &endpoint, Credentials: keys(t)})
}

// message is one message of a queue.
type message struct {
	body  string
	attrs map[string]string
}

// receive takes messages off a queue until it has want of them or more, or
// nothing has come for a minute.
func receive(t *testing.T, client *awssqs.Client, queue string, want int) []message {
	t.Helper()
	var got []message
	for deadline := time.Now().Add(patience); len(got) < want && time.Now().Before(deadline); {
		out, err := client.ReceiveMessage(t.Context(), &awssqs.ReceiveMessageInput{
			QueueUrl: &queue, MaxNumberOfMessages: 10, WaitTimeSeconds: 1, MessageAttributeNames: []string{"All"}})
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range out.Messages {
			attrs := map[string]string{}
			for name, v := range m.MessageAttributes {
				attrs[name] = aws.ToString(v.StringValue)
			}
			got = append(got, message{*m.Body, attrs})
			if _, err := client.DeleteMessage(t.Context(), &awssqs.DeleteMessageInput{QueueUrl: &queue, ReceiptHandle: m.ReceiptHandle}); err != nil {
				t.Fatal(err)
			}
		}
	}
	return got
}

// waiting returns how many messages a queue holds.
func waiting(t *testing.T, client *awssqs.Client, queue string) int {
	t.Helper()
	const name = sqstypes.QueueAttributeNameApproximateNumberOfMessages
	out, err := client.GetQueueAttributes(t.Context(), &awssqs.GetQueueAttributesInput{QueueUrl: &queue, AttributeNames: []sqstypes.QueueAttributeName{name}})
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(out.Attributes[string(name)])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestBlocksGoThroughElasticMQ(t *testing.T) {
	client := sqsClient(t, elasticMQ(t))
	for kind, create := range map[string]*awssqs.CreateQueueInput{
		"standard": {QueueName: aws.String("plant")},
		"fifo":     {QueueName: aws.String("plant.fifo"), Attributes: map[string]string{"FifoQueue": "true"}},
	} {
		t.Run(kind, func(t *testing.T) {
			made, err := client.CreateQueue(t.Context(), create)
			if err != nil {
				t.Fatal(err)
			}
			cfg := sqs.Kind{}.NewConfig().(*sqs.Config)
			cfg.QueueURL, cfg.Region = *made.QueueUrl, region
			sink := open(t, cfg)
			if err := sink.Check(t.Context()); err != nil {
				t.Errorf("check: %v", err)
			}
			list := blocks(time.Now(), 1, 100, 1000, 10_000, 60_000, 180<<10, 5, 6, 7, 8, 9, 10, 11, 12, 13)
			deliver(t, sink, list)
			arrived := receive(t, client, *made.QueueUrl, len(list))
			got := map[string]map[string]string{}
			for _, m := range arrived {
				got[m.body] = m.attrs
			}
			for i := range list {
				h := &list[i].Header
				attrs := got[base64.StdEncoding.EncodeToString(list[i].Data)]
				if attrs == nil {
					t.Errorf("block %d did not arrive", list[i].Number)
					continue
				}
				for name, want := range map[string]string{
					sqs.AttrSchema: sqs.SchemaBlock, sqs.AttrSite: h.Site, sqs.AttrGateway: h.Gateway, sqs.AttrStream: h.Stream,
					sqs.AttrEpoch: fmt.Sprintf("%016x", h.Epoch), sqs.AttrSeq: fmt.Sprint(h.Seq),
					sqs.AttrFirst: fmt.Sprint(h.First), sqs.AttrLast: fmt.Sprint(h.Last), sqs.AttrCount: fmt.Sprint(h.Count),
				} {
					if attrs[name] != want {
						t.Errorf("block %d: attribute %s is %q, want %q", list[i].Number, name, attrs[name], want)
					}
				}
			}
			if len(arrived) != len(list) {
				t.Errorf("%d messages of %d blocks", len(arrived), len(list))
			}
		})
	}
}

// A queue that is not there is an operator's matter: held, and never dropped.
func TestElasticMQWithoutTheQueue(t *testing.T) {
	endpoint := elasticMQ(t)
	keys(t)
	cfg := sqs.Kind{}.NewConfig().(*sqs.Config)
	cfg.QueueURL, cfg.Region = endpoint+"/000000000000/nowhere", region
	sink := open(t, cfg)
	if err := sink.Check(t.Context()); uploader.Classify(err) != uploader.Hold {
		t.Errorf("check: %v (%s)", err, uploader.Classify(err))
	}
	for _, err := range sink.Send(t.Context(), blocks(time.Now(), 100, 200)) {
		if uploader.Classify(err) != uploader.Hold {
			t.Errorf("send: %v (%s)", err, uploader.Classify(err))
		}
	}
}

func TestBlocksGoIntoDynamoDBLocal(t *testing.T) {
	endpoint := dynamoDBLocal(t)
	client := awsddb.New(awsddb.Options{Region: region, BaseEndpoint: &endpoint, Credentials: keys(t)})
	cfg := dynamodb.Kind{}.NewConfig().(*dynamodb.Config)
	cfg.Endpoint, cfg.Region, cfg.CreateTables = endpoint, region, true
	sink := open(t, cfg)
	now := time.Now().UTC()
	list := blocks(now.Add(-time.Hour), 1, 100, 1000, 10_000, 60_000, 180<<10, 390<<10)
	for i, b := range blocks(now.AddDate(0, 0, -21), 1, 2, 3) { // an older week's table
		b.Number, b.Header.Seq = uint64(len(list)+i+1), 1000
		list = append(list, b)
	}
	far := blocks(now.AddDate(1, 0, 0), 50)[0] // a clock that nobody believes
	far.Number, far.Header.Seq = uint64(len(list)+1), 2000
	list = append(list, far)

	deliver(t, sink, list)
	deliver(t, sink, list) // sent again: the same items, so nothing doubles

	names, err := client.ListTables(t.Context(), &awsddb.ListTablesInput{})
	if err != nil {
		t.Fatal(err)
	}
	items := 0
	for _, table := range names.TableNames {
		if _, _, ok := weektable.ParseTable(table); !ok && table != weektable.Unplaced(cfg.TablePrefix) {
			t.Errorf("table %s is nobody's", table)
		}
		pages := awsddb.NewScanPaginator(client, &awsddb.ScanInput{TableName: &table})
		for pages.HasMorePages() {
			page, err := pages.NextPage(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			items += len(page.Items)
		}
	}
	if items != len(list) {
		t.Errorf("%d items of %d", items, len(list))
	}
	for i := range list {
		h := &list[i].Header
		table := weektable.Place(cfg.TablePrefix, h.First, now, time.Duration(cfg.RetentionWeeks)*7*24*time.Hour)
		pk, sk := weektable.Keys(h, weektable.Checksum(list[i].Data))
		out, err := client.GetItem(t.Context(), &awsddb.GetItemInput{TableName: &table, ConsistentRead: aws.Bool(true), Key: map[string]ddbtypes.AttributeValue{
			weektable.AttrPartition: &ddbtypes.AttributeValueMemberS{Value: pk}, weektable.AttrSort: &ddbtypes.AttributeValueMemberS{Value: sk}}})
		if err != nil {
			t.Errorf("block %d: %v", list[i].Number, err)
			continue
		}
		data, ok := out.Item[weektable.AttrBlock].(*ddbtypes.AttributeValueMemberB)
		if !ok || !bytes.Equal(data.Value, list[i].Data) {
			t.Errorf("block %d in %s is not what was sent", list[i].Number, table)
		}
	}
}

// Without leave to create tables the blocks are held until somebody does.
func TestDynamoDBLocalWithoutTheTable(t *testing.T) {
	endpoint := dynamoDBLocal(t)
	keys(t)
	cfg := dynamodb.Kind{}.NewConfig().(*dynamodb.Config)
	cfg.Endpoint, cfg.Region = endpoint, region
	sink := open(t, cfg)
	for _, err := range sink.Send(t.Context(), blocks(time.Now(), 100, 200)) {
		if uploader.Classify(err) != uploader.Hold {
			t.Errorf("send: %v (%s)", err, uploader.Classify(err))
		}
	}
}

// The stand-ins are reachable from this machine alone.
func TestServersListenOnLoopbackOnly(t *testing.T) {
	for name, endpoint := range map[string]string{"ElasticMQ": elasticMQ(t), "DynamoDB Local": dynamoDBLocal(t)} {
		_, port, _ := strings.Cut(strings.TrimPrefix(endpoint, "http://"), ":")
		t.Log(name)
		refuses(t, port)
	}
}

// refuses holds that nothing answers on a port but on the loopback interface.
func refuses(t *testing.T, port string) {
	t.Helper()
	for _, ip := range otherAddresses(t) {
		resp, err := (&http.Client{Timeout: 2 * time.Second}).Get("http://" + ip + ":" + port)
		if err == nil {
			_, _ = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			t.Errorf("it answers on %s", ip)
		}
	}
}
