package weektable

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsddb "github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"millrace/feeds"
	"millrace/feeds/feedtest"
	"millrace/internal/sim/awssim"
	"millrace/sample"
	"millrace/sample/block"
	"millrace/sample/ledger"
	"millrace/sample/result"
	"millrace/sample/weektable"
	"millrace/uploader"
	"millrace/uploader/awsconf"
)

const (
	tag   = "south/boiler/temp"
	other = "south/boiler/flow"
)

// monday is a moment after the change of the week.
var monday = time.Date(2026, 11, 23, 0, 1, 0, 0, time.UTC)

// hands is a clock that the test sets.
type hands struct{ now time.Time }

func (h *hands) Now() time.Time { return h.now }

type bench struct {
	t *testing.T
	*feedtest.AWS
	client *awsddb.Client
	conf   *Config
	clock  *hands
	log    strings.Builder
	seq    map[string]uint64
}

func newBench(t *testing.T) *bench {
	a := feedtest.StartAWS(t, awssim.ServiceDynamoDB)
	endpoint, keys := a.Client()
	conf := Kind{}.NewConfig().(*Config)
	conf.TablePrefix, conf.Tag, conf.Gateway, conf.Target, conf.Config = "plant", tag, "gw7", "sp1", a.Conf
	return &bench{t: t, AWS: a, conf: conf, clock: &hands{monday}, seq: map[string]uint64{}, client: awsddb.New(awsddb.Options{
		Region: a.Conf.Region, BaseEndpoint: endpoint, Credentials: keys, HTTPClient: awsconf.Steady(http.DefaultClient),
	})}
}

// open opens the feed. Its polls are not spaced.
func (b *bench) open() *feed {
	b.t.Helper()
	if faults := b.conf.Validate(); len(faults) > 0 {
		b.t.Fatalf("%+v", faults)
	}
	f, err := b.conf.Open(feeds.Settings{Name: "neighbour", Site: "north", Gateway: "gw1", Log: slog.New(slog.NewTextHandler(&b.log, nil)), Clock: b.clock})
	if err != nil {
		b.t.Fatal(err)
	}
	f.(*feed).poll = feeds.Poll{}
	return f.(*feed)
}

// store puts a block of one stream into the table of its week.
func (b *bench) store(stream string, samples ...sample.Sample) {
	b.t.Helper()
	enc, err := block.NewEncoder()
	if err != nil {
		b.t.Fatal(err)
	}
	var tags []string
	at := map[string]int{}
	h := block.Header{Site: "south", Gateway: "gw7", Stream: stream, Epoch: 1}
	for i := range samples {
		if _, ok := at[samples[i].Tag]; !ok {
			at[samples[i].Tag] = len(tags)
			tags = append(tags, samples[i].Tag)
		}
	}
	enc.Reset(tags)
	for i := range samples {
		enc.Add(at[samples[i].Tag], &samples[i])
	}
	b.seq[stream]++
	h.Seq, h.Produced = b.seq[stream], uint64(len(samples))
	data, err := enc.Encode(nil, h)
	if err != nil {
		b.t.Fatal(err)
	}
	if h, err = block.ReadHeader(data); err != nil {
		b.t.Fatal(err)
	}
	b.put(&h, data)
}

func (b *bench) put(h *block.Header, data []byte) {
	b.t.Helper()
	pk, sk := weektable.Keys(h, weektable.Checksum(data))
	name := weektable.Table("plant", time.Unix(0, h.First))
	item := map[string]types.AttributeValue{
		weektable.AttrPartition: &types.AttributeValueMemberS{Value: pk}, weektable.AttrSort: &types.AttributeValueMemberS{Value: sk},
		weektable.AttrBlock: &types.AttributeValueMemberB{Value: data}, weektable.AttrLast: &types.AttributeValueMemberN{Value: strconv.FormatInt(h.Last, 10)},
	}
	_, err := b.client.CreateTable(b.t.Context(), &awsddb.CreateTableInput{TableName: &name, BillingMode: types.BillingModePayPerRequest,
		KeySchema: []types.KeySchemaElement{
			{AttributeName: aws.String(weektable.AttrPartition), KeyType: types.KeyTypeHash}, {AttributeName: aws.String(weektable.AttrSort), KeyType: types.KeyTypeRange},
		},
		AttributeDefinitions: []types.AttributeDefinition{
			{AttributeName: aws.String(weektable.AttrPartition), AttributeType: types.ScalarAttributeTypeS}, {AttributeName: aws.String(weektable.AttrSort), AttributeType: types.ScalarAttributeTypeS},
		}})
	if err != nil && !strings.Contains(err.Error(), "ResourceInUse") {
		b.t.Fatal(err)
	}
	if _, err := b.client.PutItem(b.t.Context(), &awsddb.PutItemInput{TableName: &name, Item: item}); err != nil {
		b.t.Fatal(err)
	}
}

// catalogue stores what the gateway says of its tags.
func (b *bench) catalogue(at time.Time, entries ...ledger.CatalogueEntry) {
	b.t.Helper()
	var samples []sample.Sample
	for i, e := range entries {
		text, err := json.Marshal(e)
		if err != nil {
			b.t.Fatal(err)
		}
		samples = append(samples, sample.Sample{Tag: ledger.CatalogueTag("south", "gw7"), Value: sample.StringValue(string(text)), Time: at.UnixNano() + int64(i)})
	}
	b.store(ledger.SystemStream, samples...)
}

func temp(at time.Time, v float64) sample.Sample {
	return sample.Sample{Tag: tag, Value: sample.FloatValue(v), Time: at.UnixNano()}
}

// receive polls once and parses the result that comes, or returns nil.
func (b *bench) receive(f *feed) *result.Result {
	b.t.Helper()
	got, err := f.Receive(b.t.Context())
	if err != nil {
		b.t.Fatal(err)
	}
	if len(got) == 0 {
		return nil
	}
	if len(got) != 1 || !got[0].Local || got[0].Cursor == "" || got[0].Key == "" {
		b.t.Fatalf("%+v", got)
	}
	r, err := result.Parse(got[0].Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return r
}

// TestTheNewestValueIsMirrored: across the change of the week, whatever the
// order of the blocks, each value once.
func TestTheNewestValueIsMirrored(t *testing.T) {
	b := newBench(t)
	b.catalogue(monday.Add(-5*week),
		ledger.CatalogueEntry{Tag: tag, Stream: "s0009", Unit: "K"}, ledger.CatalogueEntry{Tag: other, Stream: "s0003"}, ledger.CatalogueEntry{Tag: tag, Stream: "s0003", Unit: "degC"})
	b.store("s0003", temp(monday.Add(-90*time.Second), 80), temp(monday.Add(-70*time.Second), 81.5),
		sample.Sample{Tag: other, Value: sample.FloatValue(1), Time: monday.Add(-65 * time.Second).UnixNano()})
	f := b.open()
	r := b.receive(f)
	at := monday.Add(-70 * time.Second)
	if r == nil || r.Value != sample.FloatValue(81.5) || r.Unit != "degC" || r.Site != "north" || r.Target != "sp1" || r.Version != uint64(at.UnixNano()) ||
		!r.ComputedAt.Equal(at) || !r.ValidUntil.Equal(at.Add(3*time.Minute)) || !r.Quality.IsGood() {
		t.Fatalf("%+v", r)
	}
	if r := b.receive(f); r != nil {
		t.Errorf("it comes again: %+v", r)
	}
	b.store("s0003", sample.Sample{Tag: other, Value: sample.FloatValue(2), Time: monday.UnixNano()}) // the newest block has nothing of the tag
	if r := b.receive(f); r != nil {
		t.Errorf("it comes again: %+v", r)
	}
	b.store("s0003", temp(monday.Add(-10*time.Second), 82))
	if r := b.receive(f); r == nil || r.Value != sample.FloatValue(82) {
		t.Errorf("%+v", r)
	}
	b.store("s0003", temp(monday.Add(-50*time.Second), 70)) // an older one comes late
	if r := b.receive(f); r != nil {
		t.Errorf("an older one comes: %+v", r)
	}
	b.clock.now = monday.Add(time.Hour)
	if r := b.receive(f); r != nil {
		t.Errorf("one that is too old comes: %+v", r)
	}
	if n := strings.Count(b.log.String(), "younger than valid_for"); n != 1 {
		t.Errorf("it is said %d times", n)
	}
	// After a restart the cursor stands for what was mirrored.
	b.clock.now = monday
	again := b.open()
	again.cursor = f.cursor
	if r := b.receive(again); r != nil {
		t.Errorf("it comes again after a restart: %+v", r)
	}
}

// TestValuesFromTheFuture: one value with a time that is to come, by a wrong clock
// or on purpose, does not keep those of now away.
func TestValuesFromTheFuture(t *testing.T) {
	b := newBench(t)
	b.conf.Stream, b.conf.Unit = "s0003", "degC"
	b.store("s0003", temp(monday.Add(-20*time.Second), 80), temp(monday.Add(30*time.Minute), 99))
	f := b.open()
	if r := b.receive(f); r == nil || r.Value != sample.FloatValue(80) {
		t.Errorf("%+v", r)
	}
	b.store("s0003", temp(monday.Add(-10*time.Second), 81), temp(monday.Add(30*time.Minute), 99))
	if r := b.receive(f); r == nil || r.Value != sample.FloatValue(81) {
		t.Errorf("%+v", r)
	}
	if n := strings.Count(b.log.String(), "passed over"); n != 1 {
		t.Errorf("it is said %d times: %s", n, b.log.String())
	}
	b.clock.now = monday.Add(30 * time.Minute)
	if r := b.receive(f); r == nil || r.Value != sample.FloatValue(99) {
		t.Errorf("once its time has come: %+v", r)
	}
}

// TestWhatCannotBeMirrored: Bad values and those of another type give nothing,
// and one line.
func TestWhatCannotBeMirrored(t *testing.T) {
	b := newBench(t)
	b.conf.Stream, b.conf.Unit, b.conf.Type = "s0003", "degC", "int64"
	f := b.open()
	step := 0
	for _, c := range []struct {
		s    sample.Sample
		want sample.Value
		says string
	}{
		{sample.Sample{Value: sample.FloatValue(80)}, sample.IntValue(80), ""},
		{sample.Sample{Value: sample.FloatValue(80.5)}, sample.Value{}, "no whole number"},
		{sample.Sample{Quality: sample.BadTimeout}, sample.Value{}, "BadTimeout"},
		{sample.Sample{Quality: sample.BadTimeout}, sample.Value{}, ""},
		{sample.Sample{Value: sample.IntValue(7), Quality: sample.UncertainLastUsableValue}, sample.IntValue(7), "again"},
	} {
		step++
		c.s.Tag, c.s.Time = tag, monday.Add(time.Duration(step-20)*time.Second).UnixNano()
		b.store("s0003", c.s)
		before := b.log.Len()
		r := b.receive(f)
		if (r == nil) != (c.want.Kind() == sample.Null) || r != nil && (r.Value != c.want || r.Quality != c.s.Quality) {
			t.Errorf("step %d: %+v", step, r)
		}
		said := b.log.String()[before:]
		if (said == "") != (c.says == "") || !strings.Contains(said, c.says) {
			t.Errorf("step %d: it says %q", step, said)
		}
	}
}

// TestABlockThatDoesNotReadIsPassedOver once with a line.
func TestABlockThatDoesNotReadIsPassedOver(t *testing.T) {
	b := newBench(t)
	b.conf.Stream, b.conf.Unit = "s0003", "degC"
	b.store("s0003", temp(monday.Add(-20*time.Second), 80))
	b.put(&block.Header{Site: "south", Gateway: "gw7", Stream: "s0003", Epoch: 1, Seq: 9, First: monday.Add(-5 * time.Second).UnixNano(), Last: monday.UnixNano()}, []byte("no block"))
	f := b.open()
	if r := b.receive(f); r == nil || r.Value != sample.FloatValue(80) {
		t.Errorf("%+v", r)
	}
	b.receive(f)
	if n := strings.Count(b.log.String(), "passed over"); n != 1 {
		t.Errorf("it is said %d times: %s", n, b.log.String())
	}
}

func TestFaults(t *testing.T) {
	b := newBench(t)
	f := b.open()
	err := f.Check(t.Context())
	if uploader.Classify(err) != uploader.Hold || !strings.Contains(err.Error(), "no catalogue record") || !strings.Contains(err.Error(), "; correct tag") {
		t.Errorf("without tables: %v", err)
	}
	b.Server.SetFaults(awssim.ServiceDynamoDB, awssim.Faults{Denied: true})
	if _, err := f.Receive(t.Context()); uploader.Classify(err) != uploader.Hold {
		t.Errorf("denied: %v", err)
	}
	b.Server.SetFaults(awssim.ServiceDynamoDB, awssim.Faults{})
	b.catalogue(monday.Add(-time.Hour), ledger.CatalogueEntry{Tag: tag, Stream: "s0003", Unit: "degC"})
	b.store("s0003", temp(monday, 80))
	if err := f.Check(t.Context()); err != nil {
		t.Error(err)
	}
	if r := b.receive(f); r == nil {
		t.Error("nothing comes once all is there")
	}
}

func TestValidate(t *testing.T) {
	c := &Config{Type: "bool"}
	var paths []string
	for _, f := range c.Validate() {
		paths = append(paths, f.Path)
		if f.Problem == "" || f.Hint == "" {
			t.Errorf("%+v lacks a problem or a hint", f)
		}
	}
	if got := strings.Join(paths, " "); got != "table_prefix tag gateway target value_type interval valid_for catalogue_weeks" {
		t.Errorf("faults at %s", got)
	}
}
