//go:build interop

package interop

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	awssqs "github.com/aws/aws-sdk-go-v2/service/sqs"

	"millrace/cloud/archive"
	cloudaudit "millrace/cloud/audit"
	"millrace/cloud/catalogue"
	"millrace/cloud/connect"
	"millrace/cloud/format"
	"millrace/cloud/objects"
	"millrace/cloud/query"
	"millrace/cloud/tables"
	"millrace/cloud/worker"
	"millrace/internal/backoff"
	"millrace/internal/clock"
	"millrace/sample"
	"millrace/sample/block"
	"millrace/sample/ledger"
	"millrace/sample/ledger/audit"
	"millrace/sample/weektable"
	"millrace/uploader"
	"millrace/uploader/sqs"
)

// realBlocks are n blocks of one stream, a second apart, of a hundred samples each.
func realBlocks(t *testing.T, n int, from time.Time) (out []uploader.Block) {
	t.Helper()
	enc, err := block.NewEncoder()
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		enc.Reset([]string{"north/meter/power"})
		for k := range 100 {
			enc.Add(0, &sample.Sample{Tag: "north/meter/power", Value: sample.IntValue(int64(k)), Time: from.UnixNano() + int64(i)*int64(time.Second) + int64(k)})
		}
		data, err := enc.Encode(nil, block.Header{Site: "north", Gateway: "gw1", Stream: "s0001", Epoch: 7, Seq: uint64(i + 1), Produced: uint64(100*i + 100)})
		if err != nil {
			t.Fatal(err)
		}
		h, err := block.ReadHeader(data)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, uploader.Block{Number: uint64(i), Header: h, Data: data})
	}
	return out
}

// record is the block in which the gateway says what the tag of realBlocks is.
func record(t *testing.T, at time.Time) uploader.Block {
	t.Helper()
	enc, err := block.NewEncoder()
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(ledger.CatalogueEntry{Tag: "north/meter/power", Stream: "s0001", Source: "meters", Unit: "kW"})
	if err != nil {
		t.Fatal(err)
	}
	tag := ledger.CatalogueTag("north", "gw1")
	enc.Reset([]string{tag})
	enc.Add(0, &sample.Sample{Tag: tag, Value: sample.StringValue(string(text)), Time: at.UnixNano()})
	data, err := enc.Encode(nil, block.Header{Site: "north", Gateway: "gw1", Stream: ledger.SystemStream, Epoch: 7, Seq: 1, Produced: 1})
	if err != nil {
		t.Fatal(err)
	}
	h, err := block.ReadHeader(data)
	if err != nil {
		t.Fatal(err)
	}
	return uploader.Block{Number: 1000, Header: h, Data: data}
}

// TestCloudWorkerTablesAudit runs the cloud half on servers that no one here
// wrote, each stand-in of SQS and each of DynamoDB at least once: tables are
// made, blocks go through the queue into them, what the gateway says of its tag into
// the catalogue, the newest reading into its table, poison to the dead letters, the
// audit balances, query finds each sample, the week is archived to Parquet, and
// its table is retired once that is proved; query finds the same then.
func TestCloudWorkerTablesAudit(t *testing.T) {
	folder := func(t *testing.T) objects.Place {
		place, err := objects.Parse(t.TempDir(), func() (*s3.Client, error) { return nil, errors.New("no S3") })
		if err != nil {
			t.Fatal(err)
		}
		return place
	}
	bucket := func(t *testing.T) objects.Place { return bucketOn(t, moto(t), "plant-archive") }
	for _, c := range []struct {
		name       string
		broker, db func(*testing.T) string
		place      func(*testing.T) objects.Place
	}{
		{"ElasticMQ to DynamoDB Local", elasticMQ, dynamoDBLocal, folder},
		{"ElasticMQ to dynalite", elasticMQ, dynalite, folder},
		{"fauxqs to dynalite", fauxqs, dynalite, folder},
		{"fauxqs to moto", fauxqs, moto, folder},
		{"moto to DynamoDB Local, S3 by moto", moto, dynamoDBLocal, bucket},
		{"moto to moto, S3 by moto", moto, moto, bucket},
	} {
		t.Run(c.name, func(t *testing.T) { cloudHalf(t, c.broker(t), c.db(t), c.place(t)) })
	}
}

func cloudHalf(t *testing.T, broker, db string, place objects.Place) {
	keys(t)
	client := sqsClient(t, broker)
	url := map[string]string{"plant": queueOn(t, client, "plant"), "dead": queueOn(t, client, "dead")}
	s := connect.Settings{Region: region, Endpoint: db, OneTry: true}
	cfg, err := connect.Load(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now().Add(-time.Minute)
	m := &tables.Manager{DB: connect.DynamoDB(cfg, s), Prefix: "plant", Now: began, Sleep: backoff.Sleep}
	if _, err := m.Ensure(t.Context(), tables.Settings{Protected: true, Tags: map[string]string{"plant": "north"}}, 1); err != nil {
		t.Fatal(err)
	}

	conf := sqs.Kind{}.NewConfig().(*sqs.Config)
	conf.QueueURL, conf.Region = url["plant"], region
	sink := open(t, conf)
	list := realBlocks(t, 25, began)
	deliver(t, sink, append(list, record(t, began)))
	deliver(t, sink, list[:5]) // again
	if _, err := client.SendMessage(t.Context(), &awssqs.SendMessageInput{QueueUrl: aws.String(url["plant"]), MessageBody: aws.String("hello")}); err != nil {
		t.Fatal(err)
	}

	o := worker.NewOptions()
	o.QueueURL, o.DeadLetterURL, o.Prefix, o.Wait, o.Log = url["plant"], url["dead"], "plant", time.Second, slog.New(slog.NewTextHandler(t.Output(), nil))
	store := &catalogue.Store{DB: connect.DynamoDB(cfg, s), Prefix: "plant", LatestOf: []string{"north/*"}}
	o.Records = store
	w, err := worker.New(o, connect.SQS(cfg, url["plant"]), connect.DynamoDB(cfg, s))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	deadline := time.Now().Add(patience)
	for c := w.Counts(); (c.Stored < 26 || c.Poison < 1) && time.Now().Before(deadline); c = w.Counts() {
		backoff.Sleep(ctx, 50*time.Millisecond)
	}
	backoff.Sleep(ctx, 2*time.Second) // what was sent twice
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if c := w.Counts(); c.Received != 32 || c.Poison != 1 || c.Held != 0 || waiting(t, client, url["plant"]) != 0 {
		t.Errorf("%+v, %d messages left", c, waiting(t, client, url["plant"]))
	}
	dead := receive(t, client, url["dead"], 1)
	if len(dead) != 1 || dead[0].body != "hello" || dead[0].attrs[worker.ReasonAttribute] == "" {
		t.Errorf("dead letters: %+v", dead)
	}

	account := audit.New(0)
	result, err := cloudaudit.Read(t.Context(), connect.DynamoDB(cfg, s), cloudaudit.Options{Prefix: "plant"}, account)
	if err != nil || result.Items != 26 || result.UnreadCount != 0 {
		t.Fatalf("audit: %+v, %v", result, err)
	}
	if report := account.Report(audit.Options{Now: time.Now(), Patience: time.Minute}); !report.Complete() {
		t.Errorf("%+v", report)
	}

	known, err := store.Lookup(t.Context(), "north/meter/power")
	if err != nil || len(known) != 1 || known[0].Unit != "kW" || known[0].Stream != "s0001" {
		t.Errorf("catalogue: %+v, %v", known, err)
	}
	newest, err := store.Latest(t.Context(), "north/meter/power")
	if err != nil || len(newest) != 1 || newest[0].Time != list[24].Header.Last || newest[0].Value != sample.IntValue(99) {
		t.Errorf("newest reading: %+v, %v", newest, err)
	}
	inTables := samplesOf(t, query.Store{Prefix: "plant", Tables: connect.DynamoDB(cfg, s), Catalogue: store}, list)
	if inTables != 2500 {
		t.Errorf("query finds %d samples of 2500 in the tables", inTables)
	}

	// Archived, and a year on retired; what was sent is in the archive then.
	name := weektable.Table("plant", began)
	week := strings.TrimPrefix(name, "plant-samples-")
	report, err := archive.Run(t.Context(), archive.Options{DB: connect.DynamoDB(cfg, s), Place: place, Prefix: "plant", Week: week, Dir: t.TempDir(),
		Catalogue: store, Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Clock: clock.System{}, Sleep: backoff.Sleep})
	if err != nil {
		t.Fatal(err)
	}
	ofWeek := int64(0)
	for i := range list {
		if weektable.Table("plant", time.Unix(0, list[i].Header.First)) == name {
			ofWeek += int64(list[i].Header.Count)
		}
	}
	// The gateway's record is a sample too.
	if report.Samples != ofWeek+1 || report.Rows != ofWeek+1 || report.Duplicates != 0 {
		t.Errorf("%d samples in the week: %+v", ofWeek+1, report)
	}
	m.Now = began.AddDate(1, 0, 0)
	const retention = 4 * 7 * 24 * time.Hour
	proof, err := m.Retire(t.Context(), place, week, retention, false, nil)
	if err != nil || !proof.Deleted {
		t.Fatalf("%+v, %v", proof, err)
	}
	rows, err := m.List(t.Context())
	if err != nil || slices.ContainsFunc(rows, func(r tables.Row) bool { return r.Table == name }) || len(rows) == 0 {
		t.Errorf("%s is retired: %+v, %v", name, rows, err)
	}
	if n := samplesOf(t, query.Store{Prefix: "plant", Archive: place}, list); n != ofWeek {
		t.Errorf("query finds %d samples of %d in the archive", n, ofWeek)
	}
}

// samplesOf asks for all samples that the blocks hold and counts them; each has
// to have its value.
func samplesOf(t *testing.T, store query.Store, list []uploader.Block) (n int64) {
	t.Helper()
	first, last := list[0].Header.First, list[len(list)-1].Header.Last
	_, err := query.Run(t.Context(), store, query.Request{Tags: []string{"north/meter/power"}, From: time.Unix(0, first), To: time.Unix(0, last+1),
		Problem: func(line string) { t.Error(line) },
		Sample: func(r *format.Row) error {
			if v, _ := r.Value.Number(); v != float64(n%100) {
				t.Errorf("sample %d is %v", n, v)
			}
			n++
			return nil
		}})
	if err != nil {
		t.Error(err)
	}
	return n
}
