package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"millrace/cloud/archive/manifest"
	"millrace/cloud/catalogue"
	"millrace/cloud/lake"
	"millrace/cloud/tables"
	"millrace/internal/backoff"
	"millrace/internal/weekitem"
	"millrace/sample"
	"millrace/sample/ledger"
	"millrace/sample/weektable"
)

// TestUnreadableItems: each is named, and there is no manifest that would not
// say so.
func TestUnreadableItems(t *testing.T) {
	for name, c := range map[string]struct {
		change func(item map[string]types.AttributeValue)
		want   string
	}{
		"damaged": {func(item map[string]types.AttributeValue) {
			data := bytes.Clone(item[weektable.AttrBlock].(*types.AttributeValueMemberB).Value)
			data[len(data)/2] ^= 1
			item[weektable.AttrBlock] = &types.AttributeValueMemberB{Value: data}
		}, "corrupt block"},
		"newer": {func(item map[string]types.AttributeValue) {
			data := bytes.Clone(item[weektable.AttrBlock].(*types.AttributeValueMemberB).Value)
			data[2] = 99
			item[weektable.AttrBlock] = &types.AttributeValueMemberB{Value: data}
		}, "a newer millrace-cloud reads it"},
		"no block": {func(item map[string]types.AttributeValue) { delete(item, weektable.AttrBlock) }, "it is no block"},
		"another's keys": {func(item map[string]types.AttributeValue) {
			item[weektable.AttrPartition] = &types.AttributeValueMemberS{Value: "north#gw9#s0001"}
		}, "its keys are not those of its block"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.put("north", "gw1", "s0001", 1, polled(1, time.Hour, 2)...)
			h, data := r.pack("north", "gw1", "s0001", 2, polled(1, 2*time.Hour, 2)...)
			item, _ := weekitem.New(&h, data)
			c.change(item)
			r.putItem(item)
			_, err := r.run()
			var unreadable *UnreadableError
			if !errors.As(err, &unreadable) || unreadable.Count != 1 || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "#s0001 2026-09-28T02:00:00") || strings.Contains(err.Error(), "\n") {
				t.Errorf("%v", err)
			}
			if n := strings.Count(r.log.String(), "unreadable; the week is not archived"); n != 1 {
				t.Errorf("%d lines in the log:\n%s", n, r.log.String())
			}
			r.noManifest()
			// When it was looked at and taken away, the rest is archived.
			name := table
			if _, err := r.db.DeleteItem(t.Context(), &dynamodb.DeleteItemInput{TableName: &name,
				Key: map[string]types.AttributeValue{weektable.AttrPartition: item[weektable.AttrPartition], weektable.AttrSort: item[weektable.AttrSort]}}); err != nil {
				t.Fatal(err)
			}
			r.must()
		})
	}
}

// TestRefusals: one line each, and nothing is touched.
func TestRefusals(t *testing.T) {
	fewer := func(r *rig) { // another table of the same name
		r.drop()
		r.create(table)
		r.want = nil
		r.put("north", "gw1", "s0001", 1, polled(1, 0, 6)...)
	}
	put := func(key, text string) func(r *rig) {
		return func(r *rig) {
			if err := r.place.Put(r.t.Context(), key, []byte(text)); err != nil {
				r.t.Fatal(err)
			}
		}
	}
	for name, c := range map[string]struct {
		prepare func(r *rig)
		want    string
	}{
		"it holds less":    {fewer, "it holds less than its archive does: stream north#gw1#s0001 has 1 items, and 28 are archived"},
		"newer manifest":   {put(manifest.Key(table), `{"version": 2, "verzion": 3}`), "was written by a newer millrace-cloud"},
		"gone and damaged": {func(r *rig) { r.drop(); put(manifest.Key(table), `{"version": 1`)(r) }, "restore an earlier version of the manifest: nothing was touched"},
		"late expired": {func(r *rig) {
			key := r.late("north", "gw1", "s0001", 99, polled(1, 0, 6)...)
			r.must()
			if err := r.place.Delete(r.t.Context(), key); err != nil {
				r.t.Fatal(err)
			}
		}, "is archived and was deleted from"},
		"gone and a file altered": {func(r *rig) {
			r.drop()
			put("samples/site=north/date=2026-09-28/part-00000.parquet", "altered")(r)
			r.late("north", "gw1", "s0001", 99, polled(1, 0, 6)...)
		}, "it is not the one that the manifest names, and the table is gone; restore it"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.fill()
			r.must()
			c.prepare(r)
			before := r.contents()
			_, err := r.run()
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "table "+table) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%v", err)
			}
			r.same(before)
		})
	}
}

// described is DynamoDB whose table is in a state.
type described struct {
	API
	status types.TableStatus
	keys   []types.KeySchemaElement
}

func (d *described) DescribeTable(ctx context.Context, in *dynamodb.DescribeTableInput, o ...func(*dynamodb.Options)) (*dynamodb.DescribeTableOutput, error) {
	out, err := d.API.DescribeTable(ctx, in, o...)
	if err == nil {
		out.Table.TableStatus = d.status
		if d.keys != nil {
			out.Table.KeySchema = d.keys
		}
	}
	return out, err
}

func TestTablesThatCannotBeRead(t *testing.T) {
	r := newRig(t)
	r.fill()
	o := r.options()
	for _, status := range []types.TableStatus{types.TableStatusCreating, types.TableStatusDeleting, types.TableStatusArchived} {
		o.DB = &described{API: r.db, status: status}
		if _, err := runWith(t.Context(), o, small); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("table %s is %s; archive it when it is ACTIVE", table, status)) {
			t.Errorf("%s: %v", status, err)
		}
	}
	o.DB = &described{API: r.db, status: types.TableStatusActive, keys: []types.KeySchemaElement{}}
	if _, err := runWith(t.Context(), o, small); err == nil || !strings.Contains(err.Error(), "it is no week table") {
		t.Errorf("%v", err)
	}
	o.DB, o.Week = r.db, "2026-w41"
	if _, err := runWith(t.Context(), o, small); err == nil || !strings.Contains(err.Error(), "there is no such table, no archive of it in the shelf, and no late block") {
		t.Errorf("%v", err)
	}
	o.Week = "2026-w60"
	if _, err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "is no week") {
		t.Errorf("%v", err)
	}
	o.Week, o.Segments = week, MaxSegments+1
	if _, err := Run(t.Context(), o); err == nil {
		t.Error("too many segments are taken")
	}
	// A table without an item, and a manifest that cannot be read.
	if err := r.place.Put(t.Context(), manifest.Key(table), []byte("{")); err != nil {
		t.Fatal(err)
	}
	r.must()
	if !strings.Contains(r.log.String(), "the manifest cannot be read; the week is archived anew") {
		t.Error(r.log.String())
	}
}

func TestEmptyTable(t *testing.T) {
	r := newRig(t)
	if report := r.must(); report.Rows != 0 || report.Files != 0 {
		t.Errorf("%+v", report)
	}
}

// records are gap records and a catalogue.
type records struct {
	entries []catalogue.Entry
	gaps    []catalogue.Gap
	err     error
}

func (c *records) Entries(_ context.Context, _ string, fn func(*catalogue.Entry) error) error {
	for i := range c.entries {
		if err := fn(&c.entries[i]); err != nil {
			return err
		}
	}
	return c.err
}

func (c *records) Gaps(_ context.Context, site string, _, _ time.Time, fn func(*catalogue.Gap) error) error {
	for i := range c.gaps {
		if c.gaps[i].Site == site {
			if err := fn(&c.gaps[i]); err != nil {
				return err
			}
		}
	}
	return c.err
}

func TestGapsAndCatalogueBesideTheSamples(t *testing.T) {
	r := newRig(t)
	r.fill()
	n := uint64(30)
	c := &records{
		entries: []catalogue.Entry{
			{Site: "north", Gateway: "gw1", CatalogueEntry: ledger.CatalogueEntry{Tag: "north/m1/r", Stream: "s0001", Unit: "kWh", Counter: true, CounterMax: 65535}, Since: monday},
			{Site: "north", Gateway: "gw1", CatalogueEntry: ledger.CatalogueEntry{Tag: "north/m0/r", Stream: "s0001"}},
			{Site: "west", Gateway: "gw9", CatalogueEntry: ledger.CatalogueEntry{Tag: "west/m0/r", Stream: "s0001"}},
		},
		gaps: []catalogue.Gap{
			{Site: "north", Gateway: "gw1", Gap: ledger.Gap{ID: 1, Epoch: "7", Cause: ledger.Evicted, Stream: "s0001", FromSeq: 3, ToSeq: 5, Count: &n, From: monday.Add(25 * time.Hour), To: monday.Add(26 * time.Hour), At: monday.Add(200 * time.Hour)}},
			{Site: "north", Gateway: "gw1", Gap: ledger.Gap{ID: 2, Epoch: "7", Cause: ledger.GatewayDown, From: monday.Add(-time.Hour), To: monday.Add(time.Hour)}}, // the week's before
			{Site: "west", Gateway: "gw9", Gap: ledger.Gap{ID: 1, Epoch: "8", Cause: ledger.GatewayDown, From: monday.Add(time.Hour), To: monday.Add(500 * time.Hour), Sources: []string{"a", "b"}, Sinks: []string{"files", "sqs"}}},
		},
	}
	o := r.options()
	o.Catalogue = c
	if _, err := runWith(t.Context(), o, small); err != nil {
		t.Fatal(err)
	}
	r.check()
	want := []string{"gaps/site=north/date=2026-09-29/part-00000.parquet", "gaps/site=west/date=2026-09-28/part-00000.parquet"}
	if got := r.list("gaps/"); !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
	var gap lake.Gap
	data := r.get(want[1])
	if err := lake.ReadGaps(bytes.NewReader(data), int64(len(data)), func(g *lake.Gap) error { gap = *g; return nil }); err != nil || gap.ID != "spool/8/1" || gap.Sources != "a,b" || gap.Sinks != "files,sqs" || gap.Count != nil || !gap.To.Equal(monday.Add(500*time.Hour)) {
		t.Errorf("%+v, %v", gap, err)
	}
	var tags []string
	data = r.get(lake.CatalogueKey("north", 0))
	if err := lake.ReadCatalogue(bytes.NewReader(data), int64(len(data)), func(e *lake.Entry) error { tags = append(tags, fmt.Sprint(e.Tag, e.CounterMax)); return nil }); err != nil || fmt.Sprint(tags) != "[north/m0/r0 north/m1/r65535]" {
		t.Errorf("%v, %v", tags, err)
	}
	before := r.contents()
	report, err := runWith(t.Context(), o, small)
	if err != nil || !report.Unchanged {
		t.Errorf("again: %+v, %v", report, err)
	}
	r.same(before)
	// A gap that is declared later, and a run that knows of none.
	c.gaps = append(c.gaps, catalogue.Gap{Site: "north", Gateway: "gw1", Gap: ledger.Gap{ID: 3, Epoch: "7", Cause: ledger.Corrupt, At: monday.Add(30 * time.Hour)}})
	if report, err = runWith(t.Context(), o, small); err != nil || report.WrittenFiles != 1 || report.Days != 0 {
		t.Errorf("%+v, %v", report, err)
	}
	if report = r.must(); !report.SkippedWeekly || len(r.list("gaps/")) != 2 {
		t.Errorf("%+v", report)
	}
	c.err = errors.New("no such table")
	if _, err := runWith(t.Context(), o, small); err == nil {
		t.Error("a catalogue that cannot be read is passed over")
	}
}

func TestDue(t *testing.T) {
	r := newRig(t)
	m := &tables.Manager{DB: r.db, Prefix: "plant", Now: monday.AddDate(0, 0, 21), Sleep: backoff.Sleep}
	due := func(want ...string) {
		t.Helper()
		got, err := Due(t.Context(), m, r.place)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%v, %v, want %v", got, err, want)
		}
	}
	r.create("plant-samples-2026-w41")
	r.create("plant-samples-2026-w43") // lasts
	r.create("other-samples-2026-w40")
	r.create("plant-samples-unplaced")
	r.fill()
	due("2026-w40", "2026-w41")
	r.must()
	due("2026-w41")
	r.put("north", "gw1", "s0001", 500, polled(1, time.Hour, 1)...)
	due("2026-w40", "2026-w41")
	r.must()
	r.late("north", "gw1", "s0001", 501, polled(1, time.Hour, 1)...)
	h, data := r.pack("north", "gw1", "s0001", 1, sample.Sample{Tag: "north/m/r", Time: monday.AddDate(-2, 0, 0).UnixNano()})
	if err := r.place.Put(t.Context(), weektable.LateKey("plant", &h, weektable.Checksum(data)), data); err != nil {
		t.Fatal(err)
	}
	due("2024-w39", "2026-w40", "2026-w41")
	r.must()
	due("2024-w39", "2026-w41")
	if err := r.place.Put(t.Context(), manifest.Key("plant-samples-2026-w41"), []byte("{")); err != nil {
		t.Fatal(err)
	}
	due("2024-w39", "2026-w41")
}
