package catalogue

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"millrace/cloud/connect"
	"millrace/internal/clock"
	"millrace/internal/sim/awssim"
	"millrace/internal/weekitem"
	"millrace/sample"
	"millrace/sample/block"
	"millrace/sample/ledger"
)

var noon = time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)

// rig is a store on simulated DynamoDB.
type rig struct {
	*Store
	db     *dynamodb.Client
	server *awssim.Server
}

func newRig(t *testing.T, tables ...string) *rig {
	t.Helper()
	server, err := awssim.Start(awssim.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	t.Setenv("AWS_ACCESS_KEY_ID", "AK")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	s := connect.Settings{Region: "eu-central-1", Endpoint: server.URL(awssim.ServiceDynamoDB), OneTry: true, Connections: 2 * atOnce}
	cfg, err := connect.Load(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{db: connect.DynamoDB(cfg, s), server: server}
	r.Store = r.another()
	if len(tables) == 0 {
		tables = Tables("plant")
	}
	for _, name := range tables {
		k, attributes := weekitem.Keys()
		if _, err := r.db.CreateTable(t.Context(), &dynamodb.CreateTableInput{TableName: &name, KeySchema: k, AttributeDefinitions: attributes,
			BillingMode: types.BillingModePayPerRequest}); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

// another is a store that knows nothing of what the first one wrote.
func (r *rig) another() *Store {
	return &Store{DB: r.db, Prefix: "plant", Clock: clock.NewFake(noon)}
}

// contents are all items of the tables, as text.
func (r *rig) contents(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, name := range Tables("plant") {
		page, err := r.db.Scan(t.Context(), &dynamodb.ScanInput{TableName: &name})
		if err != nil || page.LastEvaluatedKey != nil {
			t.Fatal(err, page)
		}
		for _, item := range page.Items {
			attributes := map[string]string{}
			for k, v := range item {
				attributes[k] = fmt.Sprint(v)
				if text, err := json.Marshal(v); err == nil {
					attributes[k] = string(text)
				}
			}
			out[name+" "+weekitem.KeyOf(item)] = fmt.Sprint(attributes)
		}
	}
	return out
}

// blockOf packs samples into the seq-th block of a stream.
func blockOf(t testing.TB, stream string, seq uint64, samples ...sample.Sample) []byte {
	t.Helper()
	enc, err := block.NewEncoder()
	if err != nil {
		t.Fatal(err)
	}
	var tags []string
	index := map[string]int{}
	for _, v := range samples {
		if _, ok := index[v.Tag]; !ok {
			index[v.Tag] = len(tags)
			tags = append(tags, v.Tag)
		}
	}
	enc.Reset(tags)
	for _, v := range samples {
		enc.Add(index[v.Tag], &v)
	}
	data, err := enc.Encode(nil, block.Header{Site: "north", Gateway: "gw1", Stream: stream, Epoch: 7, Seq: seq, Produced: 1000})
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func record(t testing.TB, at time.Time, e ledger.CatalogueEntry) sample.Sample {
	t.Helper()
	text, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	return sample.Sample{Tag: ledger.CatalogueTag("north", "gw1"), Value: sample.StringValue(string(text)), Time: at.UnixNano()}
}

func loss(t testing.TB, g ledger.Gap) sample.Sample {
	t.Helper()
	v, err := g.Sample(ledger.GapTag("north", "gw1"), g.At)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

const energy, power = "north/m1/energy", "north/m1/power"

func value(tag string, at time.Time, v sample.Value) sample.Sample {
	return sample.Sample{Tag: tag, Value: v, Time: at.UnixNano()}
}

func count(n uint64) *uint64 { return &n }

// someBlocks are blocks that say several things of the same, in their order.
func someBlocks(t testing.TB) [][]byte {
	return [][]byte{
		blockOf(t, "sys", 1, record(t, noon.Add(-time.Hour), ledger.CatalogueEntry{Tag: energy, Stream: "s0001", Source: "meters", Unit: "Wh"}),
			record(t, noon.Add(-time.Hour), ledger.CatalogueEntry{Tag: power, Stream: "s0001", Source: "meters", Unit: "W"})),
		blockOf(t, "s0001", 1, value(energy, noon.Add(-time.Minute), sample.IntValue(1<<60)), value(power, noon.Add(-time.Minute), sample.FloatValue(1.5)),
			value(power, noon.Add(-30*time.Second), sample.FloatValue(2.5))),
		blockOf(t, "sys", 2, loss(t, ledger.Gap{ID: 1, Epoch: "0000000000000007", Stream: "s0001", Source: "meters", FromSeq: 3, ToSeq: 5, Count: count(30),
			From: noon.Add(-2 * time.Hour), To: noon.Add(-time.Hour), Cause: ledger.Evicted, At: noon}),
			loss(t, ledger.Gap{ID: 1, Epoch: "0000000000000007", Origin: ledger.FromGateway, Source: "meters", Cause: ledger.GatewayDown, At: noon}),
			// Twice in one commit, by the same clock: the later one counts.
			record(t, noon, ledger.CatalogueEntry{Tag: energy, Stream: "s0001", Source: "meters", Unit: "kWh"}),
			record(t, noon, ledger.CatalogueEntry{Tag: energy, Stream: "s0001", Source: "meters", Unit: "kWh", Counter: true, CounterMax: 999999})),
		blockOf(t, "s0001", 2, value(power, noon, sample.FloatValue(3.5)), value(power, noon.Add(-10*time.Second), sample.FloatValue(9))),
		blockOf(t, "sys", 3, record(t, noon.Add(time.Second), ledger.CatalogueEntry{Tag: power, Stream: "s0002", Source: "meters", Unit: "W"})),
		blockOf(t, "s0002", 1, value(power, noon.Add(time.Second), sample.Value{})),
	}
}

func TestTake(t *testing.T) {
	r := newRig(t)
	r.LatestOf = []string{"*"}
	for _, data := range someBlocks(t) {
		if err := r.Take(t.Context(), data); err != nil {
			t.Fatal(err)
		}
	}
	got, err := r.Lookup(t.Context(), power)
	want := []Entry{
		{"north", "gw1", ledger.CatalogueEntry{Tag: power, Stream: "s0002", Source: "meters", Unit: "W"}, noon.Add(time.Second)},
		{"north", "gw1", ledger.CatalogueEntry{Tag: power, Stream: "s0001", Source: "meters", Unit: "W"}, noon.Add(-time.Hour)},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := r.Lookup(t.Context(), "north/m1/powe"); err != nil || len(got) != 0 {
		t.Errorf("a tag that begins another: %+v, %v", got, err)
	}
	for _, site := range []string{"north", ""} {
		var tags []string
		if err := r.Entries(t.Context(), site, func(e *Entry) error {
			tags = append(tags, fmt.Sprint(e.Tag, " ", e.Stream, " ", e.CounterMax))
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if fmt.Sprint(tags) != "[north/m1/energy s0001 999999 north/m1/power s0001 0 north/m1/power s0002 0]" {
			t.Errorf("site %q: %v", site, tags)
		}
	}
	latest, err := r.Latest(t.Context(), power, "north/m1/none", energy)
	if err != nil || len(latest) != 2 || latest[0].Tag != power || latest[0].Value != (sample.Value{}) || latest[0].Time != noon.Add(time.Second).UnixNano() || latest[0].Stream != "s0002" ||
		latest[1].Value != sample.IntValue(1<<60) || latest[1].Gateway != "gw1" {
		t.Errorf("%+v, %v", latest, err)
	}
}

func TestGaps(t *testing.T) {
	r := newRig(t)
	for _, data := range someBlocks(t) {
		if err := r.Take(t.Context(), data); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		from, to time.Time
		want     string
	}{
		{time.Time{}, time.Time{}, "[spool/0000000000000007/1 gateway/0000000000000007/1]"},
		{noon.Add(-90 * time.Minute), noon, "[spool/0000000000000007/1]"},
		{noon.Add(-59 * time.Minute), time.Time{}, "[gateway/0000000000000007/1]"},
		{time.Time{}, noon.Add(-2 * time.Hour), "[]"},
		{noon, noon.Add(1), "[gateway/0000000000000007/1]"},
	} {
		got := []string{}
		if err := r.Gaps(t.Context(), "north", c.from, c.to, func(g *Gap) error { got = append(got, g.Identity()); return nil }); err != nil || fmt.Sprint(got) != c.want {
			t.Errorf("%v to %v: %v, %v; want %s", c.from, c.to, got, err, c.want)
		}
	}
	if err := r.Gaps(t.Context(), "south", time.Time{}, time.Time{}, func(*Gap) error { return errors.New("one") }); err != nil {
		t.Errorf("a site without gaps: %v", err)
	}
}

// Any order, copies and lost answers make the same tables.
func TestConverges(t *testing.T) {
	first := newRig(t)
	first.LatestOf = []string{"*"}
	blocks := someBlocks(t)
	for _, data := range blocks {
		if err := first.Take(t.Context(), data); err != nil {
			t.Fatal(err)
		}
	}
	want := first.contents(t)
	if len(want) != 3+2+1+2 {
		t.Fatalf("%d items: %v", len(want), want)
	}
	for seed := range uint64(6) {
		r := newRig(t)
		random := rand.New(rand.NewPCG(seed, 1))
		list := append(append([][]byte{}, blocks...), blocks...)
		random.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
		s := r.another()
		for i, data := range list {
			if i%4 == 0 { // another worker
				s = r.another()
				s.LatestOf = []string{"*"}
			}
			r.server.SetFaults(awssim.ServiceDynamoDB, awssim.Faults{Throttled: 0.2, AnswerLost: 0.2, Partial: 0.2, Failing: 0.1})
			b := s.NewBatch()
			h, err := block.ReadHeader(data)
			if err != nil {
				t.Fatal(err)
			}
			if err := b.Add(&h, data); err != nil {
				t.Fatal(err)
			}
			for tries := 0; ; tries++ {
				if err = b.Write(t.Context()); err == nil {
					break
				}
				if tries == 200 {
					t.Fatal(err)
				}
			}
			if b.Len() != 0 {
				t.Fatalf("%d left after a write", b.Len())
			}
		}
		r.server.SetFaults(awssim.ServiceDynamoDB, awssim.Faults{})
		if got := r.contents(t); !reflect.DeepEqual(got, want) {
			t.Fatalf("seed %d:\n%v\nwant\n%v", seed, got, want)
		}
	}
}

// A record from a clock that is off yields to every other, and such readings are
// not the newest for ever.
func TestUnbelievableClocks(t *testing.T) {
	r := newRig(t)
	r.LatestOf = []string{"*"}
	far := noon.Add(30 * 365 * 24 * time.Hour)
	for seq, data := range [][]byte{
		blockOf(t, "sys", 9, record(t, far, ledger.CatalogueEntry{Tag: energy, Stream: "s0001", Unit: "old"}), record(t, far, ledger.CatalogueEntry{Tag: power, Stream: "s0001", Unit: "only"})),
		blockOf(t, "sys", 10, record(t, noon, ledger.CatalogueEntry{Tag: energy, Stream: "s0001", Unit: "kWh"})),
		blockOf(t, "s0001", 1, value(power, far, sample.IntValue(1))),
		blockOf(t, "s0001", 2, value(power, noon, sample.IntValue(2)), value(power, far, sample.IntValue(3))),
	} {
		if err := r.Take(t.Context(), data); err != nil {
			t.Fatal(seq, err)
		}
	}
	for tag, want := range map[string]Entry{energy: {CatalogueEntry: ledger.CatalogueEntry{Unit: "kWh"}, Since: noon}, power: {CatalogueEntry: ledger.CatalogueEntry{Unit: "only"}}} {
		if got, err := r.Lookup(t.Context(), tag); err != nil || len(got) != 1 || got[0].Unit != want.Unit || !got[0].Since.Equal(want.Since) {
			t.Errorf("%+v, %v", got, err)
		}
	}
	if got, err := r.Latest(t.Context(), power); err != nil || len(got) != 1 || got[0].Value != sample.IntValue(2) {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestValuesOfLatest(t *testing.T) {
	r := newRig(t)
	r.LatestOf = []string{"north/*"}
	long := strings.Repeat("é", maxText)
	for i, v := range []sample.Value{
		{}, sample.FloatValue(0.1), sample.FloatValue(1e300), sample.FloatValue(5e-324), sample.FloatValue(-1e125), sample.FloatValue(math.Inf(1)), sample.IntValue(math.MinInt64),
		sample.BoolValue(true), sample.BoolValue(false), sample.StringValue(""), sample.StringValue(long),
	} {
		in := value(power, noon.Add(time.Duration(i)), v)
		in.Quality = 0x80000000
		if i%2 == 0 {
			in.SourceTime, in.Time = in.Time, in.Time+5
		}
		if err := r.Take(t.Context(), blockOf(t, "s0001", uint64(i+1), in)); err != nil {
			t.Fatal(err)
		}
		want := in
		if v.Str() == long {
			want.Value = sample.StringValue(long[:maxText])
		}
		if got, err := r.Latest(t.Context(), power); err != nil || len(got) != 1 || got[0].Sample != want {
			t.Errorf("%v: %+v, %v", v, got, err)
		}
	}
}

// Nothing is asked of the table for what is known to be older, and patterns
// choose the tags.
func TestLatestCostsOneWritePerTag(t *testing.T) {
	r := newRig(t)
	r.LatestOf = []string{"*/power"}
	writes := func() uint64 { return r.server.Stats(awssim.ServiceDynamoDB).Requests }
	before := writes()
	b := r.NewBatch()
	for seq := range uint64(10) {
		data := blockOf(t, "s0001", seq+1, value(power, noon.Add(time.Duration(seq)), sample.IntValue(int64(seq))), value(energy, noon, sample.IntValue(1)))
		h, err := block.ReadHeader(data)
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Add(&h, data); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Write(t.Context()); err != nil || writes()-before != 1 {
		t.Fatalf("%d writes, %v", writes()-before, err)
	}
	if err := r.Take(t.Context(), blockOf(t, "s0001", 3, value(power, noon.Add(2), sample.IntValue(2)))); err != nil || writes()-before != 1 {
		t.Errorf("a copy costs a write: %d, %v", writes()-before, err)
	}
}

// What another worker has written is learnt from the refusal.
func TestLatestLearnsFromOthers(t *testing.T) {
	r := newRig(t)
	other := r.another()
	r.LatestOf, other.LatestOf = []string{"*"}, []string{"*"}
	if err := r.Take(t.Context(), blockOf(t, "s0001", 9, value(power, noon, sample.IntValue(9)))); err != nil {
		t.Fatal(err)
	}
	before := r.server.Stats(awssim.ServiceDynamoDB).Requests
	for seq := range uint64(8) {
		if err := other.Take(t.Context(), blockOf(t, "s0001", seq+1, value(power, noon.Add(time.Duration(seq)-time.Minute), sample.IntValue(1)))); err != nil {
			t.Fatal(err)
		}
	}
	if n := r.server.Stats(awssim.ServiceDynamoDB).Requests - before; n != 1 {
		t.Errorf("%d writes of readings that are older than the one there", n)
	}
	if got, err := r.Latest(t.Context(), power); err != nil || len(got) != 1 || got[0].Value != sample.IntValue(9) {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestUnreadable(t *testing.T) {
	r := newRig(t)
	bad := func(v string) sample.Sample {
		return sample.Sample{Tag: ledger.CatalogueTag("north", "gw1"), Value: sample.StringValue(v), Time: noon.UnixNano()}
	}
	data := blockOf(t, "sys", 1, bad("{"), bad(`{"tag":"south/m1/power","stream":"s0001"}`), bad(`{"tag":"north/m1","stream":"s0001"}`), bad(`{"tag":"north/m1/power","stream":"a#b"}`),
		bad(`{"tag":"north/m1/power","stream":"s0001","description":"`+strings.Repeat("x", maxRecord)+`"}`),
		sample.Sample{Tag: ledger.GapTag("north", "gw1"), Value: sample.IntValue(1), Time: noon.UnixNano()},
		sample.Sample{Tag: ledger.GapTag("north", "gw1"), Value: sample.StringValue(`{"id":1,"epoch":"#"}`), Time: noon.UnixNano()},
		record(t, noon, ledger.CatalogueEntry{Tag: power, Stream: "s0001"}))
	err := r.Take(t.Context(), data)
	var unreadable *UnreadableError
	if !errors.As(err, &unreadable) || unreadable.Count != 7 || len(unreadable.What) != maxSkipped || !strings.Contains(err.Error(), "north#gw1#sys") {
		t.Errorf("%v", err)
	}
	if got, err := r.Lookup(t.Context(), power); err != nil || len(got) != 1 {
		t.Errorf("what was readable was not taken: %v, %v", got, err)
	}
	if err := r.Take(t.Context(), []byte("no block")); !errors.As(err, &unreadable) {
		t.Errorf("%v", err)
	}
}

// A table that is missing holds, and says what to do.
func TestMissingTables(t *testing.T) {
	r := newRig(t, GapsTable("plant"))
	if err := r.Take(t.Context(), someBlocks(t)[0]); connect.ClassOf(err) != connect.Missing {
		t.Errorf("%v", err)
	}
	for _, err := range []error{
		func() error { _, err := r.Lookup(t.Context(), power); return err }(),
		r.Entries(t.Context(), "", func(*Entry) error { return nil }),
		func() error { _, err := r.Latest(t.Context(), power); return err }(),
	} {
		if connect.ClassOf(err) != connect.Missing || !strings.Contains(err.Error(), "tables ensure") {
			t.Errorf("%v", err)
		}
	}
	// What was written before the failure is not written again.
	b := r.NewBatch()
	data := someBlocks(t)[2]
	h, err := block.ReadHeader(data)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Add(&h, data); err != nil || b.Len() != 4 {
		t.Fatal(b.Len(), err)
	}
	if err := b.Write(t.Context()); err == nil || b.Len() != 1 {
		t.Errorf("%d left, %v", b.Len(), err)
	}
}

func TestMatch(t *testing.T) {
	for _, c := range []struct {
		pattern, tag string
		want         bool
	}{
		{power, power, true}, {"north/m1/powe", power, false}, {"*", power, true}, {"north/*", power, true}, {"south/*", power, false}, {"*/power", power, true}, {"*power", power, true},
		{"n*m1*r", power, true}, {"n*m2*r", power, false}, {"north/m1/power*", power, true}, {"*1*1*", power, false}, {"**", power, true}, {"north/m1/*wer", "north/m1/er", false},
		{"", power, false}, {"a*a", "a", false},
	} {
		if got := Match(c.pattern, c.tag); got != c.want {
			t.Errorf("%q, %q: %v", c.pattern, c.tag, got)
		}
	}
	for pattern, ok := range map[string]bool{"*": true, "north/*": true, "": false, "a#b": false, "a\nb": false} {
		if err := CheckPattern(pattern); (err == nil) != ok {
			t.Errorf("%q: %v", pattern, err)
		}
	}
}
