package query

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"millrace/cloud/catalogue"
	"millrace/cloud/connect"
	"millrace/cloud/format"
	"millrace/internal/sim/awssim"
	"millrace/internal/weekitem"
	"millrace/sample"
	"millrace/sample/block"
	"millrace/sample/ledger"
	"millrace/sample/weektable"
	"millrace/uploader"
	"millrace/uploader/file"
)

// Sunday evening to Monday: two weeks meet at midnight.
var (
	sunday = time.Date(2026, 11, 22, 22, 0, 0, 0, time.UTC)
	monday = time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)
)

const prefix = "plant"

// rig is a DynamoDB to fill with blocks.
type rig struct {
	*testing.T
	server *awssim.Server
	db     *dynamodb.Client
	enc    *block.Encoder
	seq    map[string]uint64
	blocks []uploader.Block
}

func newRig(t *testing.T, o awssim.Options) *rig {
	t.Helper()
	server, err := awssim.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	cfg := aws.Config{Region: "eu-central-1", Credentials: credentials.NewStaticCredentialsProvider("AK", "secret", "")}
	enc, err := block.NewEncoder()
	if err != nil {
		t.Fatal(err)
	}
	return &rig{T: t, server: server, db: connect.DynamoDB(cfg, connect.Settings{Endpoint: server.URL(awssim.ServiceDynamoDB)}), enc: enc, seq: map[string]uint64{}}
}

func (r *rig) table(name string) {
	r.Helper()
	keys, attributes := weekitem.Keys()
	_, err := r.db.CreateTable(context.Background(), &dynamodb.CreateTableInput{TableName: &name, KeySchema: keys, AttributeDefinitions: attributes, BillingMode: types.BillingModePayPerRequest})
	if err != nil && !strings.Contains(err.Error(), "ResourceInUse") {
		r.Fatal(err)
	}
}

func (r *rig) weeks(times ...time.Time) {
	for _, t := range times {
		r.table(weektable.Table(prefix, t))
	}
}

func (r *rig) catalogue() *catalogue.Store {
	for _, name := range catalogue.Tables(prefix) {
		r.table(name)
	}
	return &catalogue.Store{DB: r.db, Prefix: prefix}
}

// pack makes a block of samples; h says what is special in its header.
func (r *rig) pack(stream string, h block.Header, list ...sample.Sample) uploader.Block {
	r.Helper()
	var tags []string
	for _, s := range list {
		if !slices.Contains(tags, s.Tag) {
			tags = append(tags, s.Tag)
		}
	}
	r.enc.Reset(tags)
	for i := range list {
		r.enc.Add(slices.Index(tags, list[i].Tag), &list[i])
	}
	if h.Gateway == "" {
		h.Gateway = "gw1"
	}
	h.Site, h.Stream, h.Epoch = "north", stream, 7
	r.seq[h.Gateway+stream]++
	h.Seq = r.seq[h.Gateway+stream]
	data, err := r.enc.Encode(nil, h)
	if err != nil {
		r.Fatal(err)
	}
	if h, err = block.ReadHeader(data); err != nil {
		r.Fatal(err)
	}
	b := uploader.Block{Number: uint64(len(r.blocks) + 1), Header: h, Data: data}
	r.blocks = append(r.blocks, b)
	return b
}

// put puts a block into the table of its week.
func (r *rig) put(b uploader.Block) {
	r.Helper()
	r.putInto(weektable.Table(prefix, time.Unix(0, b.Header.First)), b)
}

func (r *rig) putInto(table string, b uploader.Block) {
	r.Helper()
	item, _ := weekitem.New(&b.Header, b.Data)
	if _, err := r.db.PutItem(context.Background(), &dynamodb.PutItemInput{TableName: &table, Item: item}); err != nil {
		r.Fatal(err)
	}
}

// told has the catalogue say of tags which stream of gw1 carries them.
func (r *rig) told(c *catalogue.Store, stream, source, unit string, tags ...string) {
	r.Helper()
	var list []sample.Sample
	for _, tag := range tags {
		e := ledger.CatalogueEntry{Tag: tag, Stream: stream, Source: source, Unit: unit, Description: "of " + tag}
		list = append(list, entrySample(r.T, &e))
	}
	b := r.pack(ledger.SystemStream, block.Header{}, list...)
	r.put(b)
	if c != nil {
		if err := c.Take(context.Background(), b.Data); err != nil {
			r.Fatal(err)
		}
	}
}

func entrySample(t *testing.T, e *ledger.CatalogueEntry) sample.Sample {
	t.Helper()
	text, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	return sample.Sample{Tag: ledger.CatalogueTag("north", "gw1"), Value: sample.StringValue(string(text)), Time: sunday.UnixNano()}
}

// files stores all blocks so far by the gateway's own file sink.
func (r *rig) files() string {
	r.Helper()
	dir := r.TempDir()
	c := file.Kind{}.NewConfig().(*file.Config)
	c.Dir = dir
	s, err := c.Open(uploader.Settings{Name: "disk", Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		r.Fatal(err)
	}
	for i := range r.blocks {
		for _, err := range s.Send(context.Background(), r.blocks[i:i+1]) {
			if err != nil {
				r.Fatal(err)
			}
		}
	}
	if err := s.Close(); err != nil {
		r.Fatal(err)
	}
	return dir
}

// answer is what a request brought.
type answer struct {
	*Report
	rows     []format.Row
	gaps     []format.Gap
	problems []string
	notes    []string
}

func (a *answer) times() (out []string) {
	for _, r := range a.rows {
		out = append(out, fmt.Sprintf("%s %s %s", time.Unix(0, r.PrimaryTime()).UTC().Format("15:04:05.999999999"), r.Tag[len("north/"):], r.Value))
	}
	return out
}

func ask(t *testing.T, s Store, q Request) *answer {
	t.Helper()
	a, err := tryAsk(t.Context(), s, q)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func tryAsk(ctx context.Context, s Store, q Request) (*answer, error) {
	a := &answer{}
	q.Sample = func(r *format.Row) error { a.rows = append(a.rows, *r); return nil }
	q.Gap = func(g *format.Gap) error { a.gaps = append(a.gaps, *g); return nil }
	q.Problem = func(line string) { a.problems = append(a.problems, line) }
	q.Note = func(line string) { a.notes = append(a.notes, line) }
	var err error
	a.Report, err = Run(ctx, s, q)
	return a, err
}

const power, flow = "north/boiler/power", "north/boiler/flow"

func reading(tag string, at time.Time, v float64) sample.Sample {
	return sample.Sample{Tag: tag, Time: at.UnixNano(), Value: sample.FloatValue(v)}
}

func expect(t *testing.T, a *answer, want ...string) {
	t.Helper()
	if got := a.times(); !slices.Equal(got, want) {
		t.Errorf("got\n  %s\nwant\n  %s\nproblems %q", strings.Join(got, "\n  "), strings.Join(want, "\n  "), a.problems)
	}
}
