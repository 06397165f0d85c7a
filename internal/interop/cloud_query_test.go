//go:build interop

package interop

import (
	"fmt"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"millrace/cloud/catalogue"
	"millrace/cloud/connect"
	"millrace/cloud/format"
	"millrace/cloud/query"
	"millrace/internal/bench/codec"
	"millrace/internal/weekitem"
	"millrace/sample"
	"millrace/sample/block"
	"millrace/sample/ledger"
	"millrace/sample/weektable"
)

// TestCloudQueryDay asks for one tag of 200 over a day of blocks of a minute, by
// name and as a pattern, and compares each value. It logs how long that took.
func TestCloudQueryDay(t *testing.T) {
	keys(t)
	s := connect.Settings{Region: region, Endpoint: dynamoDBLocal(t)}
	cfg, err := connect.Load(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	db := connect.DynamoDB(cfg, s)
	day := time.Date(2026, 11, 25, 0, 0, 0, 0, time.UTC)
	table := weektable.Table("day", day)
	schema, attributes := weekitem.Keys()
	for _, name := range append(catalogue.Tables("day"), table) {
		_, err := db.CreateTable(t.Context(), &dynamodb.CreateTableInput{TableName: &name, KeySchema: schema, AttributeDefinitions: attributes, BillingMode: types.BillingModePayPerRequest})
		if err != nil {
			t.Fatal(err)
		}
	}
	const hour = 3600
	names, samples := codec.Plant(hour)
	tag := names[len(names)/2]
	enc, err := block.NewEncoder()
	if err != nil {
		t.Fatal(err)
	}
	h := block.Header{Site: catalogue.SiteOf(tag), Gateway: "gw1", Stream: "s0001", Epoch: 1}
	store := &catalogue.Store{DB: db, Prefix: "day"}
	own := ledger.CatalogueTag(h.Site, h.Gateway)
	enc.Reset([]string{own})
	for _, name := range names {
		enc.Add(0, &sample.Sample{Tag: own, Time: day.UnixNano(), Value: sample.StringValue(fmt.Sprintf(`{"tag":%q,"stream":"s0001","source":"plc"}`, name))})
	}
	data, err := enc.Encode(nil, block.Header{Site: h.Site, Gateway: "gw1", Stream: ledger.SystemStream, Epoch: 1, Seq: 1})
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Take(t.Context(), data); err != nil {
		t.Fatal(err)
	}
	var batch []types.WriteRequest
	for minute := range 24 * 60 {
		enc.Reset(names)
		for k := range 60 {
			for i := range names {
				v := samples[(minute*60+k)%hour][i]
				v.Time = day.Add(time.Duration(minute*60+k) * time.Second).UnixNano()
				enc.Add(i, &v)
			}
		}
		h.Seq = uint64(minute + 1)
		data, err := enc.Encode(nil, h)
		if err != nil {
			t.Fatal(err)
		}
		full, err := block.ReadHeader(data)
		if err != nil {
			t.Fatal(err)
		}
		item, _ := weekitem.New(&full, data)
		batch = append(batch, types.WriteRequest{PutRequest: &types.PutRequest{Item: item}})
		if len(batch) < weekitem.MaxItems && minute < 24*60-1 {
			continue
		}
		out, err := db.BatchWriteItem(t.Context(), &dynamodb.BatchWriteItemInput{RequestItems: map[string][]types.WriteRequest{table: batch}})
		if err != nil || len(out.UnprocessedItems) > 0 {
			t.Fatalf("%v, %d tables unprocessed", err, len(out.UnprocessedItems))
		}
		batch = nil
	}
	for _, asked := range []string{tag, tag, "*" + tag[len(h.Site):]} {
		start, n := time.Now(), 0
		report, err := query.Run(t.Context(), query.Store{Tables: db, Prefix: "day", Catalogue: store}, query.Request{Tags: []string{asked}, From: day, To: day.AddDate(0, 0, 1),
			Problem: func(line string) { t.Error(line) },
			Sample: func(r *format.Row) error {
				if want := samples[n%hour][len(names)/2]; r.Value != want.Value || r.Time != day.Add(time.Duration(n)*time.Second).UnixNano() {
					return fmt.Errorf("sample %d is %v at %d, want %v", n, r.Value, r.Time, want.Value)
				}
				n++
				return nil
			}})
		if err != nil || n != 86400 {
			t.Fatalf("%d samples, %v", n, err)
		}
		t.Logf("%s: %d samples from %d blocks, %.1f MB, in %s", asked, n, report.Blocks, float64(report.Bytes)/1e6, time.Since(start).Round(time.Millisecond))
	}
}
