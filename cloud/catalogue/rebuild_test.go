package catalogue

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"millrace/internal/backoff"
	"millrace/internal/sim/awssim"
	"millrace/internal/weekitem"
	"millrace/sample"
	"millrace/sample/block"
	"millrace/sample/ledger"
	"millrace/sample/weektable"
)

// direct puts blocks into the week tables as a gateway does.
func (r *rig) direct(t *testing.T, blocks ...[]byte) {
	t.Helper()
	for _, data := range blocks {
		h, err := block.ReadHeader(data)
		if err != nil {
			t.Fatal(err)
		}
		item, _ := weekitem.New(&h, data)
		table := weektable.Place("plant", h.First, noon, 0)
		if _, err := r.db.PutItem(t.Context(), &dynamodb.PutItemInput{TableName: &table, Item: item}); err != nil {
			t.Fatal(err)
		}
	}
}

func weekRig(t *testing.T) *rig {
	return newRig(t, append(Tables("plant"), weektable.Table("plant", noon), weektable.Table("plant", noon.AddDate(0, 0, -7)), weektable.Unplaced("plant"), weektable.Table("plant", noon.AddDate(0, 0, 7)), "other-samples-2026-w48")...)
}

var quick = Rebuild{Pace: backoff.Policy{Base: time.Microsecond, Max: time.Microsecond}, Tries: 50}

// What a rebuild makes of the week tables is what a worker would have made.
func TestRebuild(t *testing.T) {
	want := newRig(t)
	r := weekRig(t)
	blocks := someBlocks(t)
	old := blockOf(t, "sys", 1, record(t, noon.AddDate(0, 0, -6), ledger.CatalogueEntry{Tag: power, Stream: "s0001", Unit: "kW"}))
	far := blockOf(t, "sys", 9, record(t, noon.AddDate(30, 0, 0), ledger.CatalogueEntry{Tag: power, Stream: "s0001", Unit: "far"}))
	for _, data := range append(blocks, old, far) {
		if err := want.Take(t.Context(), data); err != nil {
			t.Fatal(err)
		}
		r.direct(t, data)
	}
	r.server.SetFaults(awssim.ServiceDynamoDB, awssim.Faults{Partial: 0.3})
	for range 2 { // again, it changes nothing
		got, err := r.Rebuild(t.Context(), r.db, quick)
		if err != nil || got.Tables != 4 || got.Gateways != 3 || got.Blocks != 5 || got.Done != 0 || got.Count != 0 {
			t.Fatalf("%+v, %v", got, err)
		}
	}
	some := quick
	some.Weeks = 1
	if got, err := r.Rebuild(t.Context(), r.db, some); err != nil || got.Tables != 3 || got.Blocks != 4 {
		t.Errorf("of the newest week: %+v, %v", got, err)
	}
	if got, want := r.contents(t), want.contents(t); !reflect.DeepEqual(got, want) || len(got) == 0 {
		t.Errorf("%v\nwant\n%v", got, want)
	}
}

// cut is DynamoDB that ends a run at a query of a week's table.
type cut struct {
	WeekTables
	table   string
	queries []string
}

func (c *cut) Query(ctx context.Context, in *dynamodb.QueryInput, o ...func(*dynamodb.Options)) (*dynamodb.QueryOutput, error) {
	if strings.Contains(*in.TableName, "-samples-") {
		c.queries = append(c.queries, *in.TableName)
	}
	if *in.TableName == c.table {
		return nil, context.Canceled
	}
	return c.WeekTables.Query(ctx, in, o...)
}

// An interrupted run goes on with the table at which it was; what was read more
// than a day ago is read again.
func TestRebuildGoesOn(t *testing.T) {
	r := weekRig(t)
	r.direct(t, someBlocks(t)...)
	r.direct(t, blockOf(t, "sys", 1, record(t, noon.AddDate(0, 0, -6), ledger.CatalogueEntry{Tag: power, Stream: "s0001", Unit: "kW"})))
	broken := &cut{WeekTables: r.db, table: weektable.Table("plant", noon)}
	if _, err := r.Rebuild(t.Context(), broken, quick); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	whole := &cut{WeekTables: r.db}
	got, err := r.Rebuild(t.Context(), whole, quick)
	if err != nil || got.Done != 1 || fmt.Sprint(whole.queries) != "[plant-samples-2026-w48]" {
		t.Errorf("%+v, %v, read %v", got, err, whole.queries)
	}
	// The run ended, so the next one reads all.
	if got, err := r.Rebuild(t.Context(), r.db, quick); err != nil || got.Done != 0 || got.Blocks != 4 {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := r.Rebuild(t.Context(), broken, quick); err == nil {
		t.Fatal("it was not cut")
	}
	later := r.another()
	later.Clock = at{noon.Add(25 * time.Hour)}
	if got, err := later.Rebuild(t.Context(), r.db, quick); err != nil || got.Done != 0 {
		t.Errorf("%+v, %v", got, err)
	}
}

type at struct{ time.Time }

func (a at) Now() time.Time { return a.Time }

func TestRebuildFails(t *testing.T) {
	if _, err := newRig(t).Rebuild(t.Context(), newRig(t).db, quick); err == nil || !strings.Contains(err.Error(), "look at --prefix") {
		t.Errorf("without week tables: %v", err)
	}
	r := newRig(t, weektable.Table("plant", noon))
	r.direct(t, someBlocks(t)[0])
	if _, err := r.Rebuild(t.Context(), r.db, quick); err == nil || !strings.Contains(err.Error(), "tables ensure") {
		t.Errorf("without its own tables: %v", err)
	}
	w := weekRig(t)
	table := weektable.Table("plant", noon)
	bad := keys("north#gw1#sys", "2026")
	bad[weektable.AttrBlock] = &types.AttributeValueMemberB{Value: []byte("no block")}
	if _, err := w.db.PutItem(t.Context(), &dynamodb.PutItemInput{TableName: &table, Item: bad}); err != nil {
		t.Fatal(err)
	}
	w.direct(t, someBlocks(t)[0])
	got, err := w.Rebuild(t.Context(), w.db, quick)
	if err != nil || got.Count != 1 || got.Items != 2 || len(got.Unreadable) != 1 || !strings.Contains(got.Unreadable[0], "north#gw1#sys") {
		t.Errorf("with an item that is no block: %+v, %v", got, err)
	}
	w.server.SetFaults(awssim.ServiceDynamoDB, awssim.Faults{Partial: 1})
	if _, err := w.Rebuild(t.Context(), w.db, Rebuild{Tries: 2}); err == nil {
		t.Error("tables that take nothing: no error")
	}
}

// One item of each partition is read to find the system streams.
func TestSystemStreamsAreFoundByFewReads(t *testing.T) {
	r := weekRig(t)
	for _, stream := range []string{"s0001", "s0002", "sys"} {
		for seq := range uint64(20) {
			r.direct(t, blockOf(t, stream, seq+1, value(power, noon.Add(time.Duration(seq)*time.Minute), sample.IntValue(1))))
		}
	}
	before := r.server.Stats(awssim.ServiceDynamoDB).Requests
	got, err := systemStreams(t.Context(), r.db, weektable.Table("plant", noon))
	if n := r.server.Stats(awssim.ServiceDynamoDB).Requests - before; err != nil || fmt.Sprint(got) != "[north#gw1#sys]" || n > 4 {
		t.Errorf("%v by %d reads, %v", got, n, err)
	}
}
