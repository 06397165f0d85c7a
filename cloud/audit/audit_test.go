package audit

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"millrace/internal/sim/awssim"
	"millrace/sample"
	"millrace/sample/block"
	"millrace/sample/ledger"
	"millrace/sample/ledger/audit"
	"millrace/sample/weektable"
	"millrace/uploader"
	"millrace/uploader/awsconf"
	sink "millrace/uploader/dynamodb"
)

const epoch = 0xfeed

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// plant makes blocks as a gateway does.
type plant struct {
	t        *testing.T
	enc      *block.Encoder
	gateway  string
	produced map[string]uint64
	seq      map[string]uint64
	sent     []uploader.Block
}

func newPlant(t *testing.T, gateway string) *plant {
	enc, err := block.NewEncoder()
	must(t, err)
	return &plant{t: t, enc: enc, gateway: gateway, produced: map[string]uint64{}, seq: map[string]uint64{}}
}

func (p *plant) block(stream string, samples ...sample.Sample) uploader.Block {
	p.t.Helper()
	var tags []string
	for i := range samples {
		if !slices.Contains(tags, samples[i].Tag) {
			tags = append(tags, samples[i].Tag)
		}
	}
	p.enc.Reset(tags)
	for i := range samples {
		p.enc.Add(slices.Index(tags, samples[i].Tag), &samples[i])
	}
	p.seq[stream]++
	p.produced[stream] += uint64(len(samples))
	data, err := p.enc.Encode(nil, block.Header{Site: "north", Gateway: p.gateway, Stream: stream, Epoch: epoch, Seq: p.seq[stream], Produced: p.produced[stream]})
	must(p.t, err)
	h, err := block.ReadHeader(data)
	must(p.t, err)
	b := uploader.Block{Number: uint64(len(p.sent) + 1), Header: h, Data: data}
	p.sent = append(p.sent, b)
	return b
}

// values are n samples, one a second.
func values(at time.Time, n int) (out []sample.Sample) {
	for i := range n {
		out = append(out, sample.Sample{Tag: "north/meter/power", Value: sample.IntValue(int64(i)), Time: at.Add(time.Duration(i) * time.Second).UnixNano()})
	}
	return out
}

type bench struct {
	server *awssim.Server
	client *dynamodb.Client
}

func start(t *testing.T) *bench {
	t.Parallel()
	server, err := awssim.Start(awssim.Options{Keys: map[string]string{"AK": "secret"}})
	must(t, err)
	t.Cleanup(func() { must(t, server.Close()) })
	return &bench{server, dynamodb.New(dynamodb.Options{
		Region: "eu-central-1", BaseEndpoint: aws.String(server.URL(awssim.ServiceDynamoDB)), HTTPClient: awsconf.Steady(http.DefaultClient),
		Credentials: credentials.NewStaticCredentialsProvider("AK", "secret", ""),
	})}
}

// deliver sends blocks through the sink that the gateway has.
func (b *bench) deliver(t *testing.T, blocks []uploader.Block) {
	t.Helper()
	c := sink.Kind{}.NewConfig().(*sink.Config)
	c.TablePrefix, c.Region, c.Endpoint, c.CreateTables = "plant", "eu-central-1", b.server.URL(awssim.ServiceDynamoDB), true
	file := filepath.Join(t.TempDir(), "secret")
	must(t, os.WriteFile(file, []byte("secret"), 0o600))
	c.Credentials.AccessKeyID = "AK"
	must(t, c.Credentials.SecretAccessKey.UnmarshalText([]byte("file:"+file)))
	s, err := c.Open(uploader.Settings{Name: "table", Site: "north", Gateway: "gw1", Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	must(t, err)
	for len(blocks) > 0 {
		n := min(len(blocks), 25)
		for _, err := range s.Send(t.Context(), blocks[:n]) {
			must(t, err)
		}
		blocks = blocks[n:]
	}
	must(t, s.Close())
}

// story is a gateway's two weeks: thirty blocks of data over the turn of a
// week, of which 4 was evicted and declared, a heartbeat, and one down time.
func story(t *testing.T, p *plant, at time.Time) {
	for i := range 30 {
		p.block("s0001", values(at.Add(time.Duration(i)*8*time.Hour), 10)...)
	}
	ten := uint64(10)
	g := ledger.Gap{ID: 1, Epoch: "000000000000feed", Stream: "s0001", Source: "meter", FromSeq: 4, ToSeq: 4, Count: &ten, Cause: ledger.Evicted, At: at.Add(96 * time.Hour)}
	v, err := g.Sample(ledger.GapTag("north", p.gateway), at.Add(96*time.Hour))
	must(t, err)
	p.block(ledger.SystemStream, v)
	h := ledger.Heartbeat{At: at.Add(240 * time.Hour), Kind: ledger.AtStop, Epoch: "000000000000feed", Streams: []ledger.StreamCounts{
		{Stream: ledger.SystemStream, Seq: 1, Produced: 1}, {Stream: "s0001", Seq: 30, Produced: 300, Lost: 10},
	}}
	w, err := h.Sample(ledger.HeartbeatTag("north", p.gateway))
	must(t, err)
	p.block(ledger.SystemStream, w)
}

func (p *plant) without(seqs ...uint64) []uploader.Block {
	return slices.DeleteFunc(slices.Clone(p.sent), func(b uploader.Block) bool {
		return b.Header.Stream != ledger.SystemStream && slices.Contains(seqs, b.Header.Seq)
	})
}

func (b *bench) audit(t *testing.T, o Options, j audit.Options) (lines []string, result *Result) {
	t.Helper()
	l := audit.New(0)
	o.Prefix = "plant"
	result, err := Read(t.Context(), b.client, o, l)
	must(t, err)
	j.Now = time.Now()
	r := l.Report(j)
	for i := range r.Streams {
		lines = append(lines, r.Streams[i].Line())
	}
	return lines, result
}

// begin is the Thursday of the week before, so that the blocks lie in tables of
// two weeks.
func begin() time.Time {
	year, week := time.Now().UTC().ISOWeek()
	day := time.Date(year, 1, 4, 0, 0, 0, 0, time.UTC)
	monday := day.AddDate(0, 0, -(int(day.Weekday())+6)%7+7*(week-1))
	return monday.AddDate(0, 0, -14+3)
}

func contains(t *testing.T, line, want string) {
	t.Helper()
	if !strings.Contains(line, want) {
		t.Errorf("got  %s\nwant %s", line, want)
	}
}

func TestTables(t *testing.T) {
	b := start(t)
	p := newPlant(t, "gw1")
	story(t, p, begin())
	b.deliver(t, p.without(4))
	b.deliver(t, p.without(4)[:7]) // the answer was lost: the same again
	for name, o := range map[string]Options{
		"scan": {}, "site": {Site: "north"}, "gateway": {Gateway: "gw1"}, "query": {Site: "north", Gateway: "gw1"},
		"scan, keys": {KeysOnly: true}, "query, keys": {Site: "north", Gateway: "gw1", KeysOnly: true},
	} {
		lines, result := b.audit(t, o, audit.Options{})
		if len(lines) != 2 || result.UnreadCount != 0 || result.Items != 31 {
			t.Fatalf("%s: %d items, %q, %q", name, result.Items, lines, result.Unread)
		}
		contains(t, lines[0], "north/gw1 s0001 000000000000feed: balanced: block 4 (10 samples) declared lost: evicted; 29 blocks here of 1 to 30, 290 samples; produced 300, lost 10, thinned 0")
		contains(t, lines[1], "north/gw1 sys 000000000000feed: balanced: 2 blocks here of 1 to 2, 2 samples")
		if len(result.Tables) != 2 {
			t.Errorf("%s: tables %v, want two weeks", name, result.Tables)
		}
	}
	if lines, _ := b.audit(t, Options{Site: "south"}, audit.Options{}); len(lines) != 0 {
		t.Errorf("another site has %q", lines)
	}
}

func TestWhatIsMissingIsNamed(t *testing.T) {
	b := start(t)
	p := newPlant(t, "gw1")
	story(t, p, begin())
	b.deliver(t, p.without(4, 29, 30))
	// An item goes: somebody has deleted it.
	gone := p.sent[16].Header
	pk, sk := weektable.Keys(&gone, weektable.Checksum(p.sent[16].Data))
	_, err := b.client.DeleteItem(t.Context(), &dynamodb.DeleteItemInput{TableName: aws.String(weektable.Table("plant", time.Unix(0, gone.First))),
		Key: map[string]types.AttributeValue{weektable.AttrPartition: text(pk), weektable.AttrSort: text(sk)}})
	must(t, err)
	lines, _ := b.audit(t, Options{}, audit.Options{})
	contains(t, lines[0], "MISSING: block 17 (10 samples) missing, undeclared, between ")
	contains(t, lines[0], "; blocks 29 to 30 (20 samples) missing, undeclared, after ")
	contains(t, lines[0], ", known from the heartbeat of ")
	contains(t, lines[0], "; block 4 (10 samples) declared lost: evicted; 26 blocks here of 1 to 30, 260 samples; produced 300")
	contains(t, lines[1], "balanced")
	// What may be on its way is not missing yet.
	lines, _ = b.audit(t, Options{Site: "north", Gateway: "gw1"}, audit.Options{Patience: 1000 * time.Hour})
	contains(t, lines[0], "waiting: block 17 (10 samples) not arrived yet")
}

func TestAnotherBlockOfTheSameIdentity(t *testing.T) {
	b := start(t)
	p := newPlant(t, "gw1")
	story(t, p, begin())
	other := newPlant(t, "gw1") // as after a restored backup: the same sequences once more
	other.block("s0001", values(begin(), 11)...)
	b.deliver(t, append(p.without(4), other.sent...))
	lines, _ := b.audit(t, Options{}, audit.Options{})
	contains(t, lines[0], "MISSING: ERROR: block 1 came twice with different bytes")
}

func TestItemsThatAreNoBlocks(t *testing.T) {
	b := start(t)
	p := newPlant(t, "gw1")
	story(t, p, begin())
	b.deliver(t, p.without(4))
	at := p.sent[0].Header
	table := aws.String(weektable.Table("plant", time.Unix(0, at.First)))
	put := func(pk, sk string, data []byte) {
		_, err := b.client.PutItem(t.Context(), &dynamodb.PutItemInput{TableName: table, Item: map[string]types.AttributeValue{
			weektable.AttrPartition: text(pk), weektable.AttrSort: text(sk), weektable.AttrBlock: &types.AttributeValueMemberB{Value: data}}})
		must(t, err)
	}
	put("north#gw1#s0001", "nonsense", []byte("x"))
	pk, sk := weektable.Keys(&at, 7)
	put(pk, sk, p.sent[0].Data) // under another checksum
	at.Seq = 99
	pk, sk = weektable.Keys(&at, weektable.Checksum(p.sent[0].Data))
	put(pk, sk, p.sent[0].Data) // under another sequence
	damaged := slices.Clone(p.sent[1].Data)
	damaged[len(damaged)/2]++
	pk, sk = weektable.Keys(&p.sent[1].Header, weektable.Checksum(p.sent[1].Data))
	put(pk, sk, damaged)
	lines, result := b.audit(t, Options{}, audit.Options{})
	if result.UnreadCount != 4 {
		t.Errorf("unread: %q", result.Unread)
	}
	contains(t, lines[0], "MISSING: block 2 (10 samples) missing, undeclared")
}

func TestAPartOfTheTime(t *testing.T) {
	b := start(t)
	p := newPlant(t, "gw1")
	story(t, p, begin())
	b.deliver(t, p.without(4))
	second := begin().AddDate(0, 0, 4) // Monday of the second week
	lines, result := b.audit(t, Options{From: second.Add(time.Hour), To: second.AddDate(0, 0, 3)}, audit.Options{FromFirst: true, ToLast: true})
	if len(result.Tables) != 1 {
		t.Errorf("tables %v", result.Tables)
	}
	contains(t, lines[0], "north/gw1 s0001 000000000000feed: balanced: 18 blocks here of 13 to ")
}

func TestErrorsSayWhatToDo(t *testing.T) {
	b := start(t)
	l := audit.New(0)
	_, err := Read(t.Context(), b.client, Options{Prefix: "plant"}, l)
	if err == nil || !strings.Contains(err.Error(), "there is no table plant-samples-") {
		t.Errorf("no table: %v", err)
	}
	b.server.SetFaults(awssim.ServiceDynamoDB, awssim.Faults{Denied: true})
	_, err = Read(t.Context(), b.client, Options{Prefix: "plant"}, l)
	if err == nil || !strings.Contains(err.Error(), "allow dynamodb:ListTables") {
		t.Errorf("denied: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err = Read(ctx, b.client, Options{Prefix: "plant"}, l); err == nil {
		t.Error("a cancelled audit succeeds")
	}
}
