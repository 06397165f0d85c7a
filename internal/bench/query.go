package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"millrace/cloud/catalogue"
	"millrace/cloud/format"
	"millrace/cloud/query"
	"millrace/internal/bench/codec"
	"millrace/internal/sim/awssim"
	"millrace/internal/weekitem"
	"millrace/sample"
	"millrace/sample/block"
	"millrace/sample/ledger"
	"millrace/sample/weektable"
)

const (
	dayMinutes = 24 * 60
	queryRuns  = 5
)

// queryDay: one tag over a day, out of 200 at 1 s in blocks of 60 s, from week
// tables. DynamoDB is simulated in this process, so its work is in the figure.
func (b *bench) queryDay() (out []figure, err error) {
	server, err := awssim.Start(awssim.Options{})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, server.Close()) }()
	db := dynamodb.New(dynamodb.Options{Region: "eu-central-1", BaseEndpoint: aws.String(server.URL(awssim.ServiceDynamoDB)),
		HTTPClient: http.DefaultClient, Credentials: credentials.NewStaticCredentialsProvider("bench", "bench", "")})
	day := time.Date(2026, 11, 25, 0, 0, 0, 0, time.UTC)
	tag, bytes, err := fillDay(b.ctx, db, day)
	if err != nil {
		return nil, err
	}
	store := query.Store{Tables: db, Prefix: "bench", Catalogue: &catalogue.Store{DB: db, Prefix: "bench"}}
	var took []time.Duration
	for range queryRuns {
		start := time.Now()
		r, err := query.Run(b.ctx, store, query.Request{Tags: []string{tag}, From: day, To: day.AddDate(0, 0, 1),
			Sample: func(*format.Row) error { return nil }})
		if err != nil {
			return nil, err
		}
		if r.Samples != dayMinutes*60 || r.Problems > 0 {
			return nil, fmt.Errorf("the query has %d samples of the tag, and %d problems", r.Samples, r.Problems)
		}
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	return []figure{{name: "one tag over a day from week tables", measured: took[queryRuns/2].Seconds(), unit: "s", bar: 1,
		note: fmt.Sprintf("200 tags at 1 s: %d blocks, %.1f MB; the middle of %d runs, the slowest %.2f s", dayMinutes, float64(bytes)/1e6, queryRuns, took[queryRuns-1].Seconds())}}, nil
}

// fillDay stores a day of the generated plant and its catalogue. It returns the
// name of a tag in the middle, and the blocks' bytes.
func fillDay(ctx context.Context, db *dynamodb.Client, day time.Time) (tag string, size int, err error) {
	keys, attributes := weekitem.Keys()
	table := weektable.Table("bench", day)
	for _, name := range append(catalogue.Tables("bench"), table) {
		_, err := db.CreateTable(ctx, &dynamodb.CreateTableInput{TableName: &name, KeySchema: keys, AttributeDefinitions: attributes, BillingMode: types.BillingModePayPerRequest})
		if err != nil {
			return "", 0, err
		}
	}
	const hour = 3600 // of ticks; the day is made of one hour again and again
	names, samples := codec.Plant(hour)
	tag = names[len(names)/2]
	enc, err := block.NewEncoder()
	if err != nil {
		return "", 0, err
	}
	h := block.Header{Site: catalogue.SiteOf(tag), Gateway: "gw1", Stream: "s0001", Epoch: 1}
	store := &catalogue.Store{DB: db, Prefix: "bench"}
	if err := tell(ctx, store, enc, h, day, names); err != nil {
		return "", 0, err
	}
	var batch []types.WriteRequest
	for minute := range dayMinutes {
		enc.Reset(names)
		for k := range 60 {
			at := day.Add(time.Duration(minute*60+k) * time.Second).UnixNano()
			for i := range names {
				s := samples[(minute*60+k)%hour][i]
				s.Time = at
				enc.Add(i, &s)
			}
		}
		h.Seq, h.Produced = uint64(minute+1), uint64((minute+1)*60*len(names))
		data, err := enc.Encode(nil, h)
		if err != nil {
			return "", 0, err
		}
		size += len(data)
		full, err := block.ReadHeader(data)
		if err != nil {
			return "", 0, err
		}
		item, _ := weekitem.New(&full, data)
		batch = append(batch, types.WriteRequest{PutRequest: &types.PutRequest{Item: item}})
		if len(batch) == weekitem.MaxItems || minute == dayMinutes-1 {
			if _, err := db.BatchWriteItem(ctx, &dynamodb.BatchWriteItemInput{RequestItems: map[string][]types.WriteRequest{table: batch}}); err != nil {
				return "", 0, err
			}
			batch = nil
		}
	}
	return tag, size, nil
}

// tell has the catalogue say which stream carries the tags.
func tell(ctx context.Context, store *catalogue.Store, enc *block.Encoder, h block.Header, at time.Time, names []string) error {
	own := ledger.CatalogueTag(h.Site, h.Gateway)
	enc.Reset([]string{own})
	for _, name := range names {
		text := fmt.Sprintf(`{"tag":%q,"stream":%q,"source":"plc"}`, name, h.Stream)
		enc.Add(0, &sample.Sample{Tag: own, Time: at.UnixNano(), Value: sample.StringValue(text)})
	}
	h.Stream, h.Seq = ledger.SystemStream, 1
	data, err := enc.Encode(nil, h)
	if err != nil {
		return err
	}
	return store.Take(ctx, data)
}
