//go:build interop

package interop

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsddb "github.com/aws/aws-sdk-go-v2/service/dynamodb"
	ddbtypes "github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	awssqs "github.com/aws/aws-sdk-go-v2/service/sqs"

	"millrace/feeds"
	"millrace/feeds/dynamodb"
	"millrace/feeds/feedtest"
	"millrace/feeds/sqs"
	"millrace/feeds/weektable"
	"millrace/internal/clock"
	"millrace/protocols/protocolstest"
	"millrace/sample/result"
	"millrace/uploader"
	sink "millrace/uploader/dynamodb"
	"millrace/uploader/sinktest"
)

// TestFeedSQS takes results from ElasticMQ: each once, and what is not deleted
// again.
func TestFeedSQS(t *testing.T) {
	endpoint := elasticMQ(t)
	client := sqsClient(t, endpoint)
	queue, err := client.CreateQueue(t.Context(), &awssqs.CreateQueueInput{QueueName: aws.String("north-results")})
	if err != nil {
		t.Fatal(err)
	}
	conf := sqs.Kind{}.NewConfig().(*sqs.Config)
	conf.QueueURL, conf.Region, conf.Endpoint, conf.Visibility = *queue.QueueUrl, region, endpoint, 10*time.Second
	f := feedtest.Open(t, &feedtest.Endpoint{Config: conf}, "")
	if err := f.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	const n = 23
	want := map[string]bool{}
	for i := range n {
		body := fmt.Sprintf(`{"n":%d,"text":"é"}`, i)
		want[body] = true
		if _, err := client.SendMessage(t.Context(), &awssqs.SendMessageInput{QueueUrl: queue.QueueUrl, MessageBody: &body}); err != nil {
			t.Fatal(err)
		}
	}
	got := feedtest.Receive(t, f, n)
	for _, m := range got {
		if !want[string(m.Body)] {
			t.Errorf("got %q twice, or it was never sent", m.Body)
		}
		delete(want, string(m.Body))
	}
	if err := f.Done(t.Context(), got[1:]); err != nil {
		t.Fatal(err)
	}
	// The one that is left comes again once its time is over.
	left := feedtest.ReceiveWithin(t, f, 1, 40*time.Second)
	if len(left) != 1 || string(left[0].Body) != string(got[0].Body) {
		t.Errorf("got %d messages again, want the one that was not done", len(left))
	}
	if err := f.Done(t.Context(), left); err != nil {
		t.Error(err)
	}
}

// TestFeedDynamoDB takes results from a table of DynamoDB Local.
func TestFeedDynamoDB(t *testing.T) {
	endpoint := dynamoDBLocal(t)
	client := awsddb.New(awsddb.Options{Region: region, BaseEndpoint: &endpoint, Credentials: keys(t)})
	table := "plant-results"
	_, err := client.CreateTable(t.Context(), &awsddb.CreateTableInput{TableName: &table, BillingMode: ddbtypes.BillingModePayPerRequest,
		AttributeDefinitions: []ddbtypes.AttributeDefinition{
			{AttributeName: aws.String(dynamodb.AttrSite), AttributeType: ddbtypes.ScalarAttributeTypeS},
			{AttributeName: aws.String(dynamodb.AttrPublished), AttributeType: ddbtypes.ScalarAttributeTypeS},
		},
		KeySchema: []ddbtypes.KeySchemaElement{
			{AttributeName: aws.String(dynamodb.AttrSite), KeyType: ddbtypes.KeyTypeHash}, {AttributeName: aws.String(dynamodb.AttrPublished), KeyType: ddbtypes.KeyTypeRange},
		}})
	if err != nil {
		t.Fatal(err)
	}
	conf := dynamodb.Kind{}.NewConfig().(*dynamodb.Config)
	conf.Table, conf.Region, conf.Endpoint, conf.Interval = table, region, endpoint, 100*time.Millisecond
	f := feedtest.Open(t, &feedtest.Endpoint{Config: conf}, "")
	if err := f.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	text := func(s string) ddbtypes.AttributeValue { return &ddbtypes.AttributeValueMemberS{Value: s} }
	const n = 250 // several pages
	last := ""
	for i := range n {
		last = time.Now().UTC().Format(dynamodb.PublishedLayout) + fmt.Sprintf("#r%03d", i)
		item := map[string]ddbtypes.AttributeValue{dynamodb.AttrSite: text("north"), dynamodb.AttrPublished: text(last), dynamodb.AttrResult: text(strconv.Itoa(i))}
		if _, err := client.PutItem(t.Context(), &awsddb.PutItemInput{TableName: &table, Item: item}); err != nil {
			t.Fatal(err)
		}
	}
	got := feedtest.Receive(t, f, n)
	for i, m := range got {
		if string(m.Body) != strconv.Itoa(i) {
			t.Fatalf("message %d is %q: they are to come in the order of their keys, each once", i, m.Body)
		}
	}
	if got[n-1].Cursor != last {
		t.Errorf("the cursor is %s, want %s", got[n-1].Cursor, last)
	}
}

// TestFeedWeekTable reads a tag back from the week tables that the sink has
// written to DynamoDB Local.
func TestFeedWeekTable(t *testing.T) {
	endpoint := dynamoDBLocal(t)
	keys(t)
	to := sink.Kind{}.NewConfig().(*sink.Config)
	to.TablePrefix, to.CreateTables, to.Region, to.Endpoint = "plant", true, region, endpoint
	b := sinktest.Packed(7) // 20 samples of one tag, an hour ago
	deliver(t, open(t, to), []uploader.Block{b})
	site, _, _ := strings.Cut(sinktest.PackedTag(7), "/")
	conf := weektable.Kind{}.NewConfig().(*weektable.Config)
	conf.TablePrefix, conf.Region, conf.Endpoint = "plant", region, endpoint
	conf.Tag, conf.Gateway, conf.Stream, conf.Unit, conf.Target, conf.ValidFor = sinktest.PackedTag(7), b.Header.Gateway, b.Header.Stream, "kW", "sp1", 3*time.Hour
	f, err := conf.Open(feeds.Settings{Name: "neighbour", Site: site, Gateway: "gw1", Log: protocolstest.Settings().Log, Clock: clock.System{}})
	if err != nil {
		t.Fatal(err)
	}
	m := feedtest.Receive(t, f, 1)
	r, err := result.Parse(m[0].Body)
	if err != nil {
		t.Fatal(err)
	}
	if want := 7 + 19.0/8; r.Value.Float() != want || r.Version != uint64(b.Header.Last) {
		t.Errorf("%+v, want %v of %d", r, want, b.Header.Last)
	}
}
