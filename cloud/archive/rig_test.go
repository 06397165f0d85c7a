package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"millrace/cloud/archive/manifest"
	"millrace/cloud/connect"
	"millrace/cloud/lake"
	"millrace/cloud/objects"
	"millrace/cloud/tables"
	"millrace/internal/backoff"
	"millrace/internal/clock"
	"millrace/internal/sim/awssim"
	"millrace/internal/weekitem"
	"millrace/sample"
	"millrace/sample/block"
	"millrace/sample/weektable"
)

const (
	week  = "2026-w40"
	table = "plant-samples-2026-w40"
)

var monday = time.Date(2026, 9, 28, 0, 0, 0, 0, time.UTC)

// shelf is a place in memory.
type shelf struct {
	mu      sync.Mutex
	objects map[string][]byte
}

func (s *shelf) String() string { return "the shelf" }

func (s *shelf) Put(_ context.Context, key string, data []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.objects[key] = bytes.Clone(data)
	return nil
}

func (s *shelf) PutFile(ctx context.Context, key, path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return s.Put(ctx, key, data)
}

func (s *shelf) Get(_ context.Context, key string) (io.ReadCloser, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	data, ok := s.objects[key]
	if !ok {
		return nil, fmt.Errorf("%s: %w", key, objects.ErrNone)
	}
	return io.NopCloser(bytes.NewReader(data)), nil
}

func (s *shelf) List(_ context.Context, prefix string, fn func(key string, size int64) error) error {
	s.mu.Lock()
	sizes := map[string]int64{}
	for key, data := range s.objects {
		sizes[key] = int64(len(data))
	}
	s.mu.Unlock()
	for _, key := range slices.Sorted(maps.Keys(sizes)) {
		if !strings.HasPrefix(key, prefix) {
			continue
		}
		if err := fn(key, sizes[key]); err != nil {
			return err
		}
	}
	return nil
}

func (s *shelf) Delete(_ context.Context, key string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.objects, key)
	return nil
}

// rig is simulated DynamoDB with a week's table, and a place in memory in that
// of the archive's bucket.
type rig struct {
	t      *testing.T
	server *awssim.Server
	db     *dynamodb.Client
	place  objects.Place
	dir    string
	log    bytes.Buffer
	logger *slog.Logger
	enc    *block.Encoder
	want   []lake.Row // that were put, late ones too
	blocks map[string][]byte
}

func newRig(t *testing.T) *rig {
	t.Helper()
	server, err := awssim.Start(awssim.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	t.Setenv("AWS_ACCESS_KEY_ID", "AK")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	s := connect.Settings{Region: "eu-central-1", Endpoint: server.URL(awssim.ServiceDynamoDB), OneTry: true}
	cfg, err := connect.Load(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, server: server, db: connect.DynamoDB(cfg, s), dir: t.TempDir(), blocks: map[string][]byte{}}
	r.place = &shelf{objects: map[string][]byte{}}
	r.logger = slog.New(slog.NewTextHandler(&r.log, nil))
	if r.enc, err = block.NewEncoder(); err != nil {
		t.Fatal(err)
	}
	r.create(table)
	return r
}

func (r *rig) create(name string) {
	r.t.Helper()
	keys, attributes := weekitem.Keys()
	if _, err := r.db.CreateTable(r.t.Context(), &dynamodb.CreateTableInput{TableName: &name, KeySchema: keys, AttributeDefinitions: attributes,
		BillingMode: types.BillingModePayPerRequest}); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) options() Options {
	return Options{DB: r.db, Place: r.place, Prefix: "plant", Week: week, Dir: r.dir, Log: r.logger,
		Clock: clock.NewFake(monday.AddDate(0, 2, 0)), Sleep: func(ctx context.Context, _ time.Duration) bool { return ctx.Err() == nil }}
}

// small limits, so that a few samples go through every path.
var small = limits{rows: 50, textBytes: 1 << 20, fanIn: 3, groupRows: 1 << 20, partBytes: 512 << 20, seen: 1 << 10}

// run archives with small limits.
func (r *rig) run() (*Report, error) { return runWith(r.t.Context(), r.options(), small) }

func runWith(ctx context.Context, o Options, l limits) (*Report, error) {
	one, err := begin(o)
	if err != nil {
		return nil, err
	}
	one.limits = l
	return one.all(ctx)
}

// must archives, and proves by `tables retire` and by what comes back that the
// archive holds all that was put.
func (r *rig) must() *Report {
	r.t.Helper()
	report, err := r.run()
	if err != nil {
		r.t.Fatalf("archive: %v\n%s", err, r.log.String())
	}
	r.check()
	if !report.Dropped {
		r.provable()
	}
	return report
}

func (r *rig) provable() {
	r.t.Helper()
	m := &tables.Manager{DB: r.db, Prefix: "plant", Now: monday.AddDate(0, 3, 0), Sleep: backoff.Sleep}
	if _, err := m.Retire(r.t.Context(), r.place, week, 7*24*time.Hour, true, nil); err != nil {
		r.t.Errorf("the table cannot be retired: %v", err)
	}
}

// pack makes a block of a stream of samples, the seq-th.
func (r *rig) pack(site, gateway, stream string, seq uint64, samples ...sample.Sample) (block.Header, []byte) {
	r.t.Helper()
	var tags []string
	for i := range samples {
		if !slices.Contains(tags, samples[i].Tag) {
			tags = append(tags, samples[i].Tag)
		}
	}
	r.enc.Reset(tags)
	for i := range samples {
		r.enc.Add(slices.Index(tags, samples[i].Tag), &samples[i])
	}
	data, err := r.enc.Encode(nil, block.Header{Site: site, Gateway: gateway, Stream: stream, Epoch: 7, Seq: seq})
	if err != nil {
		r.t.Fatal(err)
	}
	h, err := block.ReadHeader(data)
	if err != nil {
		r.t.Fatal(err)
	}
	return h, data
}

func (r *rig) expect(gateway, stream string, samples []sample.Sample) {
	for _, s := range samples {
		r.want = append(r.want, lake.Row{Sample: s, Gateway: gateway, Stream: stream})
	}
}

// put puts samples into the table, as one block.
func (r *rig) put(site, gateway, stream string, seq uint64, samples ...sample.Sample) {
	r.t.Helper()
	h, data := r.pack(site, gateway, stream, seq, samples...)
	item, _ := weekitem.New(&h, data)
	r.putItem(item)
	r.expect(gateway, stream, samples)
}

func (r *rig) putItem(item map[string]types.AttributeValue) {
	r.t.Helper()
	name := table
	if _, err := r.db.PutItem(r.t.Context(), &dynamodb.PutItemInput{TableName: &name, Item: item}); err != nil {
		r.t.Fatal(err)
	}
}

// late puts samples beside the archive, as a worker does when the table is gone.
func (r *rig) late(site, gateway, stream string, seq uint64, samples ...sample.Sample) string {
	r.t.Helper()
	h, data := r.pack(site, gateway, stream, seq, samples...)
	key := weektable.LateKey("plant", &h, weektable.Checksum(data))
	if err := r.place.Put(r.t.Context(), key, data); err != nil {
		r.t.Fatal(err)
	}
	r.expect(gateway, stream, samples)
	return key
}

func (r *rig) drop() {
	r.t.Helper()
	name := table
	if _, err := r.db.DeleteTable(r.t.Context(), &dynamodb.DeleteTableInput{TableName: &name}); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) get(key string) []byte {
	r.t.Helper()
	in, err := r.place.Get(r.t.Context(), key)
	if err != nil {
		r.t.Fatal(err)
	}
	data, err := io.ReadAll(in)
	if err = errors.Join(err, in.Close()); err != nil {
		r.t.Fatal(err)
	}
	return data
}

// list lists keys.
func (r *rig) list(prefix string) (keys []string) {
	r.t.Helper()
	if err := r.place.List(r.t.Context(), prefix, func(key string, _ int64) error { keys = append(keys, key); return nil }); err != nil {
		r.t.Fatal(err)
	}
	return keys
}

// contents are the archive's files and their bytes.
func (r *rig) contents() map[string]string {
	r.t.Helper()
	out := map[string]string{}
	for _, prefix := range []string{"samples/", "gaps/", "catalogue/", "manifests/"} {
		for _, key := range r.list(prefix) {
			out[key] = string(r.get(key))
		}
	}
	return out
}

// once are the rows that were put, each identity once.
func (r *rig) once() (out []lake.Row) {
	sorted := slices.Clone(r.want)
	slices.SortStableFunc(sorted, func(a, b lake.Row) int { return compareRows(&a, &b) })
	seen := map[string]bool{}
	for i := range sorted {
		id := string(lake.Identity(nil, &sorted[i].Sample))
		if id != "" {
			// A site's day is what duplicates are looked for in.
			id += lake.Day(sorted[i].PrimaryTime()).String()
			if seen[id] {
				continue
			}
			seen[id] = true
		}
		out = append(out, sorted[i])
	}
	return out
}

// read are all rows of the archive, and checks that each lies where it should,
// in order.
func (r *rig) read() (out []lake.Row) {
	r.t.Helper()
	for _, key := range r.list("samples/") {
		k, ok := lake.ParseKey(key)
		if !ok {
			r.t.Fatalf("%s is no key", key)
		}
		data := r.get(key)
		var last lake.Row
		err := lake.Read(bytes.NewReader(data), int64(len(data)), lake.Filter{}, func(row *lake.Row) error {
			if day := lake.Day(row.PrimaryTime()); !day.Equal(k.Day) {
				r.t.Errorf("%s holds a sample of %s", key, day)
			}
			if last.Tag != "" && compareRows(&last, row) > 0 {
				r.t.Errorf("%s is not in order: %v before %v", key, last, *row)
			}
			last = *row
			out = append(out, *row)
			return nil
		})
		if err != nil {
			r.t.Fatalf("%s: %v", key, err)
		}
	}
	return out
}

// check holds the archive against what was put.
func (r *rig) check() {
	r.t.Helper()
	have, want := r.read(), r.once()
	order := func(a, b lake.Row) int { return compareRows(&a, &b) }
	slices.SortFunc(have, order)
	slices.SortFunc(want, order)
	if len(have) != len(want) {
		r.t.Errorf("the archive has %d rows, want %d", len(have), len(want))
	}
	for i := range min(len(have), len(want)) {
		if have[i] != want[i] {
			r.t.Fatalf("row %d is %+v, want %+v", i, have[i], want[i])
		}
	}
	m := r.manifest()
	rows, duplicates := int64(0), int64(0)
	for _, d := range m.Days {
		rows, duplicates = rows+d.Rows, duplicates+d.Duplicates
	}
	if rows != int64(len(want)) {
		r.t.Errorf("the manifest counts %d rows, want %d", rows, len(want))
	}
	named := map[string]bool{}
	for _, f := range m.Files {
		named[f.Key] = true
	}
	for _, key := range append(r.list("samples/"), r.list("gaps/")...) {
		if !named[key] {
			r.t.Errorf("%s is in the archive, and not in the manifest", key)
		}
	}
	if err := m.CheckFiles(r.t.Context(), r.place, nil); err != nil {
		r.t.Error(err)
	}
}

func (r *rig) manifest() *manifest.Manifest {
	r.t.Helper()
	m, err := manifest.Read(r.t.Context(), r.place, table)
	if err != nil {
		r.t.Fatal(err)
	}
	return m
}

func (r *rig) noManifest() {
	r.t.Helper()
	if _, err := manifest.Read(r.t.Context(), r.place, table); !errors.Is(err, objects.ErrNone) {
		r.t.Errorf("there is a manifest: %v", err)
	}
}

func at(d time.Duration) int64 { return monday.Add(d).UnixNano() }

// polled are samples of a meter, every ten seconds from a time on.
func polled(meter int, from time.Duration, n int) (out []sample.Sample) {
	for i := range n {
		for reg := range 3 {
			out = append(out, sample.Sample{Tag: fmt.Sprintf("north/m%02d/r%d", meter, reg), Time: at(from + time.Duration(i)*10*time.Second),
				Value: sample.FloatValue(float64(i*reg) / 10)})
		}
	}
	return out
}

// fill puts some blocks of all days of the week, of two sites.
func (r *rig) fill() {
	r.t.Helper()
	for day := range 7 {
		for i := range 4 {
			from := time.Duration(day)*24*time.Hour + time.Duration(i)*time.Minute
			r.put("north", "gw1", "s0001", uint64(day*10+i+1), polled(1, from, 6)...)
			r.put("north", "gw1", "s0002", uint64(day*10+i+1), polled(2, from, 6)...)
		}
	}
	r.put("south", "gw2", "s0001", 1, sample.Sample{Tag: "south/m/r", Time: at(3 * 24 * time.Hour), Value: sample.BoolValue(true)})
}

// What fill makes.
const (
	filledItems = 57
	filledDays  = 8
)

// every is a sample of every kind there is, of one day.
func every() (out []sample.Sample) {
	values := []sample.Value{
		{}, sample.FloatValue(math.Copysign(0, -1)), sample.FloatValue(math.NaN()), sample.FloatValue(math.Float64frombits(0x7ff8dead0000beef)), sample.FloatValue(math.Inf(1)),
		sample.IntValue(1 << 53), sample.IntValue(1<<53 + 1), sample.IntValue(math.MinInt64), sample.IntValue(math.MaxInt64),
		sample.BoolValue(true), sample.BoolValue(false), sample.StringValue(""), sample.StringValue("Grüße"), sample.StringValue("\xff\xfe not UTF-8"), sample.StringValue(strings.Repeat("long ", 5000)),
	}
	for i, v := range values {
		s := sample.Sample{Tag: fmt.Sprintf("north/m1/v%02d", i), Time: at(time.Hour) + int64(i)*1001 + 7, Value: v}
		out = append(out, s)
		s.Time, s.SourceTime, s.Quality = at(2*time.Hour), at(time.Hour)+int64(i)*999_999, sample.BadOutOfRange
		out = append(out, s)
		s.SourceTime, s.Producer, s.Seq = 0, "scada", math.MaxUint64-uint64(i)
		out = append(out, s)
	}
	return out
}
