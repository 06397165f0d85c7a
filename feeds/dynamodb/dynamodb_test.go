package dynamodb

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsddb "github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"millrace/feeds/feedtest"
	"millrace/internal/sim/awssim"
	"millrace/uploader/awsconf"
)

const table = "millrace-results"

// bench is a simulated DynamoDB with a results table.
type bench struct {
	*feedtest.AWS
	client *awsddb.Client
	conf   *Config
}

func newBench(t *testing.T) *bench {
	a := feedtest.StartAWS(t, awssim.ServiceDynamoDB)
	endpoint, keys := a.Client()
	conf := Kind{}.NewConfig().(*Config)
	conf.Table, conf.Interval, conf.Config = table, 100*time.Millisecond, a.Conf
	b := &bench{AWS: a, conf: conf, client: awsddb.New(awsddb.Options{
		Region: a.Conf.Region, BaseEndpoint: endpoint, Credentials: keys, HTTPClient: awsconf.Steady(http.DefaultClient),
	})}
	b.create(t)
	return b
}

func (b *bench) create(t *testing.T) {
	t.Helper()
	_, err := b.client.CreateTable(t.Context(), &awsddb.CreateTableInput{
		TableName: aws.String(table), BillingMode: types.BillingModePayPerRequest,
		KeySchema: []types.KeySchemaElement{
			{AttributeName: aws.String(AttrSite), KeyType: types.KeyTypeHash}, {AttributeName: aws.String(AttrPublished), KeyType: types.KeyTypeRange},
		},
		AttributeDefinitions: []types.AttributeDefinition{
			{AttributeName: aws.String(AttrSite), AttributeType: types.ScalarAttributeTypeS}, {AttributeName: aws.String(AttrPublished), AttributeType: types.ScalarAttributeTypeS},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (b *bench) publish(t *testing.T, at time.Time, id, body string) {
	t.Helper()
	text := func(s string) types.AttributeValue { return &types.AttributeValueMemberS{Value: s} }
	for _, site := range []string{"north", "south"} { // the other site's is none of ours
		item := map[string]types.AttributeValue{AttrSite: text(site), AttrPublished: text(at.UTC().Format(PublishedLayout) + "#" + id), AttrResult: text(body)}
		if site == "south" {
			item[AttrResult] = text("for somebody else")
		}
		if _, err := b.client.PutItem(t.Context(), &awsddb.PutItemInput{TableName: aws.String(table), Item: item}); err != nil {
			t.Fatal(err)
		}
	}
}

func start(t *testing.T) *feedtest.Endpoint {
	b := newBench(t)
	return &feedtest.Endpoint{
		Config: b.conf, Forgets: true,
		Publish: func(t *testing.T, key, body string) { b.publish(t, time.Now(), key, body) },
		Set: b.Faults(func(on bool) {
			if !on {
				b.create(t)
				return
			}
			if _, err := b.client.DeleteTable(t.Context(), &awsddb.DeleteTableInput{TableName: aws.String(table)}); err != nil {
				t.Fatal(err)
			}
		}),
	}
}

func TestSuite(t *testing.T) { feedtest.Run(t, start) }

// TestWhatBecomesVisibleLate: within the overlap nothing is missed, and nothing
// comes twice.
func TestWhatBecomesVisibleLate(t *testing.T) {
	b := newBench(t)
	f := feedtest.Open(t, &feedtest.Endpoint{Config: b.conf}, "")
	now := time.Now()
	b.publish(t, now, "a", "first")
	if m := feedtest.Receive(t, f, 1); string(m[0].Body) != "first" {
		t.Fatalf("%q", m[0].Body)
	}
	b.publish(t, now.Add(-time.Minute), "b", "late")
	b.publish(t, now, "c", "in the same millisecond")
	b.publish(t, now.Add(-time.Hour), "d", "too late")
	got := feedtest.Receive(t, f, 2)
	if len(got) != 2 || string(got[0].Body) != "late" || string(got[1].Body) != "in the same millisecond" {
		t.Errorf("%+v", got)
	}
	b.publish(t, now.Add(time.Second), "e", "last")
	if m := feedtest.Receive(t, f, 1); len(m) != 1 || string(m[0].Body) != "last" {
		t.Errorf("%+v", m)
	}
	// The cursor is the greatest key, and a restart begins the overlap before it.
	cursor := now.Add(-30 * time.Minute)
	again := feedtest.Open(t, &feedtest.Endpoint{Config: b.conf}, cursor.UTC().Format(PublishedLayout)+"#z")
	b.publish(t, cursor.Add(-b.conf.Overlap/2), "f", "within the overlap before the restart")
	if m := feedtest.Receive(t, again, 5); len(m) != 5 || string(m[0].Body) != "within the overlap before the restart" || string(m[4].Body) != "last" {
		t.Errorf("%+v", m)
	}
}

// TestKeysFromTheFuture: one item whose key is far ahead, or no time at all, does
// not keep those of now away, over a restart neither.
func TestKeysFromTheFuture(t *testing.T) {
	b := newBench(t)
	f := feedtest.Open(t, &feedtest.Endpoint{Config: b.conf}, "")
	now := time.Now()
	b.publish(t, now.AddDate(1000, 0, 0), "a", "of the year 3026")
	m := feedtest.Receive(t, f, 1)
	if len(m) != 1 || m[0].Cursor > now.Add(b.conf.Overlap+time.Minute).UTC().Format(PublishedLayout) {
		t.Fatalf("%+v", m)
	}
	b.publish(t, now, "b", "of now")
	if m := feedtest.Receive(t, f, 1); len(m) != 1 || string(m[0].Body) != "of now" {
		t.Errorf("%+v", m)
	}
	again := feedtest.Open(t, &feedtest.Endpoint{Config: b.conf}, now.AddDate(1000, 0, 0).UTC().Format(PublishedLayout)+"#a")
	if m := feedtest.Receive(t, again, 2); len(m) != 2 || string(m[0].Body) != "of now" {
		t.Errorf("after a restart that remembers such a key: %+v", m)
	}
}

// TestAnItemWithoutText is handed over, so that it is refused and recorded.
func TestAnItemWithoutText(t *testing.T) {
	b := newBench(t)
	key := time.Now().UTC().Format(PublishedLayout) + "#x"
	_, err := b.client.PutItem(t.Context(), &awsddb.PutItemInput{TableName: aws.String(table), Item: map[string]types.AttributeValue{
		AttrSite: &types.AttributeValueMemberS{Value: "north"}, AttrPublished: &types.AttributeValueMemberS{Value: key}, AttrResult: &types.AttributeValueMemberN{Value: "1"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	f := feedtest.Open(t, &feedtest.Endpoint{Config: b.conf}, "")
	if m := feedtest.Receive(t, f, 1); len(m[0].Body) != 0 || m[0].Key != key {
		t.Errorf("%+v", m[0])
	}
}

// TestMemoryIsBounded: what is remembered of the overlap has an end.
func TestMemoryIsBounded(t *testing.T) {
	f := &feed{seen: map[string]bool{}}
	for i := range maxSeen + 500 {
		f.seen[fmt.Sprintf("2026-11-28T%08d", i)] = true
	}
	f.forget("2026-11-28T00000100")
	if len(f.seen) != maxSeen || f.seen["2026-11-28T00000499"] || !f.seen["2026-11-28T00000500"] {
		t.Errorf("%d are remembered", len(f.seen))
	}
}

func TestPollsAreSpaced(t *testing.T) {
	b := newBench(t)
	b.conf.Interval = 300 * time.Millisecond
	f := feedtest.Open(t, &feedtest.Endpoint{Config: b.conf}, "")
	before := b.Server.Stats(awssim.ServiceDynamoDB).Requests
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	for ctx.Err() == nil {
		if _, err := f.Receive(ctx); err != nil && ctx.Err() == nil {
			t.Fatal(err)
		}
	}
	if n := b.Server.Stats(awssim.ServiceDynamoDB).Requests - before; n < 2 || n > 4 {
		t.Errorf("%d requests in a second, want one each 300 ms", n)
	}
}

func TestValidate(t *testing.T) {
	c := &Config{}
	var paths []string
	for _, f := range c.Validate() {
		paths = append(paths, f.Path)
		if f.Problem == "" || f.Hint == "" {
			t.Errorf("%+v lacks a problem or a hint", f)
		}
	}
	if got := strings.Join(paths, " "); got != "table interval overlap" {
		t.Errorf("faults at %s", got)
	}
}
