package main

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	ddbtypes "github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/rogpeppe/go-internal/testscript"

	"millrace/cloud/catalogue"
	"millrace/internal/weekitem"
	"millrace/sample"
	"millrace/sample/block"
	"millrace/sample/ledger"
)

// told has the catalogue of a prefix say what the delivered blocks carry.
func told(ts *testscript.TestScript, prefix string) {
	_, db := clients(ts)
	keys, attributes := weekitem.Keys()
	for _, name := range catalogue.Tables(prefix) {
		_, err := db.CreateTable(context.Background(), &dynamodb.CreateTableInput{TableName: &name, KeySchema: keys, AttributeDefinitions: attributes,
			BillingMode: ddbtypes.BillingModePayPerRequest})
		var there *ddbtypes.ResourceInUseException
		if !errors.As(err, &there) {
			ts.Check(err)
		}
	}
	enc, err := block.NewEncoder()
	ts.Check(err)
	tag := ledger.CatalogueTag("north", "gw1")
	enc.Reset([]string{tag})
	enc.Add(0, &sample.Sample{Tag: tag, Time: time.Now().UnixNano(),
		Value: sample.StringValue(`{"tag":"north/meter/power","stream":"s0001","source":"plc","type":"int64","unit":"kW","description":"active power"}`)})
	data, err := enc.Encode(nil, block.Header{Site: "north", Gateway: "gw1", Stream: ledger.SystemStream, Epoch: 7, Seq: 1, Produced: 1})
	ts.Check(err)
	ts.Check((&catalogue.Store{DB: db, Prefix: prefix}).Take(context.Background(), data))
}

func TestInstants(t *testing.T) {
	now := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	berlin := time.FixedZone("CET", 3600)
	for text, want := range map[string]string{
		"now": "2026-11-28T12:00:00Z", "-2h": "2026-11-28T10:00:00Z", "-90m": "2026-11-28T10:30:00Z",
		"2026-11-28": "2026-11-27T23:00:00Z", "2026-11-28T08:00": "2026-11-28T07:00:00Z", "2026-11-28 08:00:05": "2026-11-28T07:00:05Z",
		"2026-11-28T08:00:00Z": "2026-11-28T08:00:00Z", "2026-11-28T08:00:00+02:00": "2026-11-28T06:00:00Z",
	} {
		if got, err := instant("--from", text, berlin, now); err != nil || got.UTC().Format(time.RFC3339) != want {
			t.Errorf("%s: %s, %v, want %s", text, got, err, want)
		}
	}
	for _, text := range []string{"yesterday", "2h", "-2", "28.11.2026", "2026-11-28T25:00"} {
		if got, err := instant("--from", text, berlin, now); err == nil {
			t.Errorf("%s: %s", text, got)
		}
	}
}
