//go:build interop

package interop

import (
	"fmt"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb"

	"millrace/cloud/catalogue"
	"millrace/cloud/connect"
	"millrace/cloud/tables"
	"millrace/internal/backoff"
	"millrace/internal/weekitem"
	"millrace/sample"
	"millrace/sample/block"
	"millrace/sample/ledger"
	"millrace/sample/weektable"
)

// systemBlock is the seq-th block of a gateway's system stream: a catalogue
// record of a tag, whose unit it is that changes, and a gap record.
func systemBlock(t *testing.T, seq uint64, at time.Time) (block.Header, []byte) {
	t.Helper()
	enc, err := block.NewEncoder()
	if err != nil {
		t.Fatal(err)
	}
	gap, err := (&ledger.Gap{ID: seq, Epoch: "0000000000000007", Source: "meters", Cause: ledger.GatewayDown, From: at.Add(-time.Second), To: at, At: at}).Sample(ledger.GapTag("north", "gw1"), at)
	if err != nil {
		t.Fatal(err)
	}
	name := ledger.CatalogueTag("north", "gw1")
	enc.Reset([]string{name, gap.Tag})
	enc.Add(0, &sample.Sample{Tag: name, Time: at.UnixNano(),
		Value: sample.StringValue(fmt.Sprintf(`{"tag":"north/meter/power","stream":"s0001","source":"meters","unit":"u%d","counter":true,"counter_max":65535}`, seq))})
	enc.Add(1, &gap)
	data, err := enc.Encode(nil, block.Header{Site: "north", Gateway: "gw1", Stream: ledger.SystemStream, Epoch: 7, Seq: seq, Produced: 2 * seq})
	if err != nil {
		t.Fatal(err)
	}
	h, err := block.ReadHeader(data)
	if err != nil {
		t.Fatal(err)
	}
	return h, data
}

// TestCloudCatalogue fills the small tables from blocks in a wrong order, and
// again from the week tables, on each stand-in of DynamoDB.
func TestCloudCatalogue(t *testing.T) {
	for name, start := range map[string]func(*testing.T) string{"DynamoDB Local": dynamoDBLocal, "dynalite": dynalite, "moto": moto} {
		t.Run(name, func(t *testing.T) {
			keys(t)
			s := connect.Settings{Region: region, Endpoint: start(t), Connections: 8}
			cfg, err := connect.Load(t.Context(), s)
			if err != nil {
				t.Fatal(err)
			}
			db, now := connect.DynamoDB(cfg, s), time.Now()
			ensure := func(prefix string) {
				m := &tables.Manager{DB: db, Prefix: prefix, Now: now, Sleep: backoff.Sleep}
				if _, err := m.Ensure(t.Context(), tables.Settings{}, 1); err != nil {
					t.Fatal(err)
				}
			}
			ensure("queue")
			ensure("direct")
			store := &catalogue.Store{DB: db, Prefix: "queue", LatestOf: []string{"*"}}
			for _, seq := range []uint64{2, 3, 1, 3} {
				_, data := systemBlock(t, seq, now.Add(time.Duration(seq)*time.Second))
				if err := store.Take(t.Context(), data); err != nil {
					t.Fatal(err)
				}
			}
			list := realBlocks(t, 5, now)
			for _, i := range []int{4, 0, 2} {
				if err := (&catalogue.Store{DB: db, Prefix: "queue", LatestOf: []string{"*"}}).Take(t.Context(), list[i].Data); err != nil {
					t.Fatal(err)
				}
			}
			newest, err := store.Latest(t.Context(), "north/meter/power")
			if want := now.UnixNano() + 4*int64(time.Second) + 99; err != nil || len(newest) != 1 || newest[0].Time != want || newest[0].Value != sample.IntValue(99) {
				t.Errorf("newest reading %+v, %v", newest, err)
			}

			put := func(h *block.Header, data []byte) {
				item, _ := weekitem.New(h, data)
				table := weektable.Place("direct", h.First, now, 0)
				if _, err := db.PutItem(t.Context(), &dynamodb.PutItemInput{TableName: &table, Item: item}); err != nil {
					t.Fatal(err)
				}
			}
			for seq := range uint64(3) {
				h, data := systemBlock(t, seq+1, now.Add(time.Duration(seq+1)*time.Second))
				put(&h, data)
			}
			for i := range list {
				put(&list[i].Header, list[i].Data)
			}
			direct := &catalogue.Store{DB: db, Prefix: "direct"}
			done, err := direct.Rebuild(t.Context(), db, catalogue.Rebuild{Tries: 3})
			if err != nil || done.Blocks != 3 || done.Gateways < 1 || done.Count != 0 {
				t.Fatalf("%+v, %v", done, err)
			}
			for _, s := range []*catalogue.Store{store, direct} {
				entries, err := s.Lookup(t.Context(), "north/meter/power")
				if err != nil || len(entries) != 1 || entries[0].Unit != "u3" || entries[0].CounterMax != 65535 {
					t.Errorf("%s: entries %+v, %v", s.Prefix, entries, err)
				}
				gaps := 0
				if err := s.Gaps(t.Context(), "north", now.Add(1500*time.Millisecond), now.Add(time.Hour), func(*catalogue.Gap) error { gaps++; return nil }); err != nil || gaps != 2 {
					t.Errorf("%s: %d gaps, %v", s.Prefix, gaps, err)
				}
			}
		})
	}
}
