package tables

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/sqs"

	"millrace/cloud/archive/manifest"
	"millrace/cloud/connect"
	"millrace/cloud/objects"
	"millrace/internal/sim/awssim"
	"millrace/internal/weekitem"
	"millrace/sample"
	"millrace/sample/block"
	"millrace/sample/weektable"
)

var now = time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC) // Saturday of 2026-w48

// rig is simulated AWS and a manager of its tables.
type rig struct {
	*Manager
	server *awssim.Server
	db     *dynamodb.Client
	queue  *sqs.Client
	waits  []time.Duration
	onWait func()
}

func newRig(t *testing.T, delay time.Duration) *rig {
	t.Helper()
	server, err := awssim.Start(awssim.Options{TableDelay: delay})
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
	r := &rig{server: server, db: connect.DynamoDB(cfg, s), queue: connect.SQS(cfg, server.QueueURL("plant"))}
	r.Manager = &Manager{DB: r.db, Prefix: "plant", Now: now, Sleep: func(ctx context.Context, d time.Duration) bool {
		r.waits = append(r.waits, d)
		if r.onWait != nil {
			r.onWait()
		}
		time.Sleep(min(d, delay/4)) // of the simulator's real time
		return ctx.Err() == nil
	}}
	return r
}

func (r *rig) describeTable(t *testing.T, name string) *types.TableDescription {
	t.Helper()
	out, err := r.db.DescribeTable(t.Context(), &dynamodb.DescribeTableInput{TableName: &name})
	if err != nil {
		t.Fatal(err)
	}
	return out.Table
}

func TestEnsure(t *testing.T) {
	r := newRig(t, 20*time.Millisecond)
	s := Settings{WarmWrite: 8000, Infrequent: true, Protected: true, Tags: map[string]string{"plant": "north"}}
	made, err := r.Ensure(t.Context(), s, 1)
	if err != nil || fmt.Sprint(made) != "[{plant-samples-unplaced true false} {plant-samples-2026-w48 true false} {plant-samples-2026-w49 true false} {plant-catalogue true false} {plant-gaps true false} {plant-latest true false}]" {
		t.Fatal(made, err)
	}
	if len(r.waits) == 0 {
		t.Error("it did not wait for a table in CREATING")
	}
	d := r.describeTable(t, "plant-samples-2026-w49")
	if d.TableStatus != types.TableStatusActive || d.BillingModeSummary.BillingMode != types.BillingModePayPerRequest || d.WarmThroughput == nil ||
		aws.ToInt64(d.WarmThroughput.WriteUnitsPerSecond) != 8000 || d.WarmThroughput.ReadUnitsPerSecond != nil ||
		d.TableClassSummary.TableClass != types.TableClassStandardInfrequentAccess || !aws.ToBool(d.DeletionProtectionEnabled) {
		t.Errorf("%+v", d)
	}
	tags, err := r.db.ListTagsOfResource(t.Context(), &dynamodb.ListTagsOfResourceInput{ResourceArn: d.TableArn})
	if err != nil || len(tags.Tags) != 1 || *tags.Tags[0].Key != "plant" || *tags.Tags[0].Value != "north" {
		t.Errorf("%v, %+v", err, tags)
	}
	// Again, a week later, with other settings: what is there stays as it is.
	r.Now = now.Add(week)
	made, err = r.Ensure(t.Context(), Settings{Provisioned: true, Read: 5, Write: 50}, 1)
	if err != nil || fmt.Sprint(made) != "[{plant-samples-unplaced false false} {plant-samples-2026-w49 false false} {plant-samples-2026-w50 true false} {plant-catalogue false false} {plant-gaps false false} {plant-latest false false}]" {
		t.Fatal(made, err)
	}
	if d := r.describeTable(t, "plant-samples-2026-w50"); aws.ToInt64(d.ProvisionedThroughput.WriteCapacityUnits) != 50 || d.BillingModeSummary != nil {
		t.Errorf("%+v", d)
	}
	rows, err := r.List(t.Context())
	if err != nil || len(rows) != 7 {
		t.Fatal(rows, err)
	}
	if rows[0].Table != "plant-catalogue" || rows[0].Age != 0 || rows[0].Billing != "on_demand" || rows[0].Class != "standard" || !rows[0].Protected || rows[2].Table != "plant-latest" {
		t.Errorf("%+v", rows)
	}
	if rows = rows[3:]; rows[0].Table != "plant-samples-2026-w48" || rows[0].Age != 5*24*time.Hour+12*time.Hour || rows[0].Billing != "on_demand" || rows[0].Class != "infrequent" || !rows[0].Protected ||
		rows[2].Billing != "provisioned" || rows[2].WriteUnits != 50 || rows[2].Age > 0 || rows[3].Table != "plant-samples-unplaced" || rows[3].Age != 0 {
		t.Errorf("%+v", rows)
	}
}

func TestEnsurePastWeeks(t *testing.T) {
	r := newRig(t, 0)
	made, err := r.Ensure(t.Context(), Settings{Behind: 2}, 0)
	if err != nil || fmt.Sprint(made[1:4]) != "[{plant-samples-2026-w46 true false} {plant-samples-2026-w47 true false} {plant-samples-2026-w48 true false}]" {
		t.Fatal(made, err)
	}
}

// A week that was retired gets no table again, and where that cannot be told,
// none is made either.
func TestEnsureLeavesRetired(t *testing.T) {
	r := newRig(t, 0)
	place, err := objects.Parse(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	const table = "plant-samples-2026-w46"
	if _, err := r.Ensure(t.Context(), Settings{Behind: 2}, 0); err != nil {
		t.Fatal(err)
	}
	r.put(t, table, 1, now.Add(-2*week), nil)
	r.archive(t, place, table)
	// While its table is there, it is as the others are.
	s := Settings{Behind: 3, Archive: place}
	made, err := r.Ensure(t.Context(), s, 0)
	if err != nil || fmt.Sprint(made[1:3]) != "[{plant-samples-2026-w45 true false} {plant-samples-2026-w46 false false}]" {
		t.Fatal(made, err)
	}
	if err := r.drop(t.Context(), table, false); err != nil {
		t.Fatal(err)
	}
	made, err = r.Ensure(t.Context(), s, 0)
	if err != nil || fmt.Sprint(made[1:4]) != "[{plant-samples-2026-w45 false false} {plant-samples-2026-w46 false true} {plant-samples-2026-w47 false false}]" {
		t.Fatal(made, err)
	}
	if err := place.Put(t.Context(), manifest.Key(table), []byte("no manifest")); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Ensure(t.Context(), s, 0); err == nil || !strings.Contains(err.Error(), "table "+table+" is not made: ") || !strings.Contains(err.Error(), "it is no manifest") {
		t.Errorf("manifest that does not read: %v", err)
	}
	if _, err := r.db.DescribeTable(t.Context(), &dynamodb.DescribeTableInput{TableName: aws.String(table)}); connect.ClassOf(err) != connect.Missing {
		t.Errorf("it was made: %v", err)
	}
}

func TestEnsureFails(t *testing.T) {
	r := newRig(t, time.Hour)
	ctx, cancel := context.WithCancel(t.Context())
	r.onWait = cancel
	if _, err := r.Ensure(ctx, Settings{}, 0); err == nil || err.Error() != "interrupted" {
		t.Errorf("interrupted: %v", err)
	}
	r.Sleep = func(context.Context, time.Duration) bool { return true }
	if _, err := r.Ensure(t.Context(), Settings{}, 0); err == nil || !strings.Contains(err.Error(), "is still CREATING after 15m0s") {
		t.Errorf("for ever in CREATING: %v", err)
	}
	r.server.SetFaults(awssim.ServiceDynamoDB, awssim.Faults{Denied: true})
	if _, err := r.Ensure(t.Context(), Settings{}, 0); err == nil || !strings.Contains(err.Error(), "AccessDeniedException") || !strings.Contains(err.Error(), "docs/cloud.md") {
		t.Errorf("denied: %v", err)
	}
	r = newRig(t, 0)
	_, err := r.db.CreateTable(t.Context(), &dynamodb.CreateTableInput{TableName: aws.String("plant-samples-2026-w48"), BillingMode: types.BillingModePayPerRequest,
		KeySchema:            []types.KeySchemaElement{{AttributeName: aws.String("id"), KeyType: types.KeyTypeHash}},
		AttributeDefinitions: []types.AttributeDefinition{{AttributeName: aws.String("id"), AttributeType: types.ScalarAttributeTypeS}}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Ensure(t.Context(), Settings{}, 0); err == nil || !strings.Contains(err.Error(), "its keys are not pk and sk") {
		t.Errorf("other keys: %v", err)
	}
}

func TestDial(t *testing.T) {
	r := newRig(t, 0)
	if _, err := r.queue.CreateQueue(t.Context(), &sqs.CreateQueueInput{QueueName: aws.String("plant")}); err != nil {
		t.Fatal(err)
	}
	url := r.server.QueueURL("plant")
	for i, s := range []Settings{{Provisioned: true, Read: 7, Write: 100}, {}, {Provisioned: true, Read: 7, Write: 100}} {
		r.Now = now.Add(time.Duration(i-2) * week) // w46, w47 on demand, w48
		if _, err := r.Ensure(t.Context(), s, 0); err != nil {
			t.Fatal(err)
		}
	}
	send := func() {
		if _, err := r.queue.SendMessage(t.Context(), &sqs.SendMessageInput{QueueUrl: &url, MessageBody: aws.String("x")}); err != nil {
			t.Fatal(err)
		}
	}
	units := func(name string) int64 {
		return aws.ToInt64(r.describeTable(t, name).ProvisionedThroughput.WriteCapacityUnits)
	}
	send()
	if d, err := r.Dial(t.Context(), r.queue, url, 5); !errors.Is(err, ErrBacklog) || d != nil || len(r.waits) != 0 {
		t.Errorf("a message waits: %v, %v", d, err)
	}
	receive := func() {
		if _, err := r.queue.ReceiveMessage(t.Context(), &sqs.ReceiveMessageInput{QueueUrl: &url, VisibilityTimeout: 100}); err != nil {
			t.Fatal(err)
		}
	}
	receive()
	if d, err := r.Dial(t.Context(), r.queue, url, 5); !errors.Is(err, ErrBacklog) || d != nil {
		t.Errorf("a message is under way: %v, %v", d, err)
	}
	if _, err := r.queue.PurgeQueue(t.Context(), &sqs.PurgeQueueInput{QueueUrl: &url}); err != nil {
		t.Fatal(err)
	}
	r.onWait = send // between the two questions
	if d, err := r.Dial(t.Context(), r.queue, url, 5); !errors.Is(err, ErrBacklog) || d != nil || units("plant-samples-2026-w46") != 100 {
		t.Errorf("a message came in between: %v, %v", d, err)
	}
	r.onWait = nil
	r.waits = nil
	empty := r.server.QueueURL("empty")
	if _, err := r.queue.CreateQueue(t.Context(), &sqs.CreateQueueInput{QueueName: aws.String("empty")}); err != nil {
		t.Fatal(err)
	}
	d, err := r.Dial(t.Context(), r.queue, empty, 5)
	if err != nil || fmt.Sprint(d) != "[plant-samples-2026-w46]" || fmt.Sprint(r.waits) != "[1m0s]" {
		t.Errorf("clear: %v, %v, waited %v", d, err, r.waits)
	}
	if units("plant-samples-2026-w46") != 5 || units("plant-samples-2026-w48") != 100 {
		t.Errorf("w46 %d, w48 %d units", units("plant-samples-2026-w46"), units("plant-samples-2026-w48"))
	}
	if got := aws.ToInt64(r.describeTable(t, "plant-samples-2026-w46").ProvisionedThroughput.ReadCapacityUnits); got != 7 {
		t.Errorf("the reads are %d units", got)
	}
	if d, err := r.Dial(t.Context(), r.queue, empty, 5); err != nil || d != nil {
		t.Errorf("again: %v, %v", d, err)
	}
	if _, err := r.Dial(t.Context(), r.queue, r.server.QueueURL("none"), 1); err == nil || !strings.Contains(err.Error(), "QueueDoesNotExist") {
		t.Errorf("no queue: %v", err)
	}
}

// put stores a block's item.
func (r *rig) put(t *testing.T, table string, seq uint64, at time.Time, change func(map[string]types.AttributeValue)) {
	t.Helper()
	enc, err := block.NewEncoder()
	if err != nil {
		t.Fatal(err)
	}
	enc.Reset([]string{"north/meter/power"})
	for i := range 10 {
		enc.Add(0, &sample.Sample{Tag: "north/meter/power", Value: sample.IntValue(int64(i)), Time: at.UnixNano() + int64(i)})
	}
	data, err := enc.Encode(nil, block.Header{Site: "north", Gateway: "gw1", Stream: fmt.Sprintf("s%04d", seq%3), Epoch: 7, Seq: seq, Produced: 10})
	if err != nil {
		t.Fatal(err)
	}
	h, err := block.ReadHeader(data)
	if err != nil {
		t.Fatal(err)
	}
	item, _ := weekitem.New(&h, data)
	if change != nil {
		change(item)
	}
	if _, err := r.db.PutItem(t.Context(), &dynamodb.PutItemInput{TableName: &table, Item: item}); err != nil {
		t.Fatal(err)
	}
}

// archive writes the manifest of what a table holds, and a file of it.
func (r *rig) archive(t *testing.T, place objects.Place, table string) {
	t.Helper()
	s := manifest.NewSum()
	if err := r.sum(t.Context(), table, s, nil); err != nil {
		t.Fatal(err)
	}
	data := []byte("all of it")
	hash := sha256.Sum256(data)
	if err := place.Put(t.Context(), "samples/part-0.parquet", data); err != nil {
		t.Fatal(err)
	}
	m := manifest.New(table, now, s, []manifest.File{{Key: "samples/part-0.parquet", Bytes: int64(len(data)), SHA256: hex.EncodeToString(hash[:])}}, nil)
	if err := manifest.Write(t.Context(), place, m); err != nil {
		t.Fatal(err)
	}
}

const retention = 4 * week

// TestRetire: nothing but the proof deletes a table.
func TestRetire(t *testing.T) {
	const name = "plant-samples-2026-w40"
	start := time.Date(2026, 9, 28, 0, 0, 0, 0, time.UTC)
	for label, c := range map[string]struct {
		prepare func(t *testing.T, r *rig, place objects.Place)
		refusal string // "" where it is deleted
	}{
		"archived":       {func(t *testing.T, r *rig, p objects.Place) { r.archive(t, p, name) }, ""},
		"never archived": {func(*testing.T, *rig, objects.Place) {}, "it was not archived: there is no manifests/plant-samples-2026-w40.json"},
		"one more item":  {func(t *testing.T, r *rig, p objects.Place) { r.archive(t, p, name); r.put(t, name, 99, start, nil) }, "the archive does not hold it: stream north#gw1#s0000 has"},
		"a file is not there": {func(t *testing.T, r *rig, p objects.Place) {
			r.archive(t, p, name)
			if err := p.Put(t.Context(), "samples/part-0.parquet", []byte("all of It")); err != nil {
				t.Fatal(err)
			}
		}, "file samples/part-0.parquet of the archive: it has 9 bytes"},
		"half a manifest": {func(t *testing.T, _ *rig, p objects.Place) {
			if err := p.Put(t.Context(), manifest.Key(name), []byte(`{"version": 1, "table": "`)); err != nil {
				t.Fatal(err)
			}
		}, "it is no manifest"},
		"a damaged block": {func(t *testing.T, r *rig, p objects.Place) {
			r.archive(t, p, name)
			r.put(t, name, 50, start, func(it map[string]types.AttributeValue) {
				b := it[weektable.AttrBlock].(*types.AttributeValueMemberB).Value
				b[len(b)/2] ^= 1
			})
		}, "corrupt block"},
		"keys of another": {func(t *testing.T, r *rig, p objects.Place) {
			r.put(t, name, 51, start, func(it map[string]types.AttributeValue) {
				it[weektable.AttrSort] = &types.AttributeValueMemberS{Value: "zzz"}
			})
		}, "it was not archived"},
		"an item without a block": {func(t *testing.T, r *rig, p objects.Place) {
			r.archive(t, p, name)
			r.put(t, name, 52, start, func(it map[string]types.AttributeValue) { delete(it, weektable.AttrBlock) })
		}, "holds an item that is no block"},
	} {
		t.Run(label, func(t *testing.T) {
			r := newRig(t, 0)
			r.Now = start
			if _, err := r.Ensure(t.Context(), Settings{Protected: true}, 0); err != nil {
				t.Fatal(err)
			}
			r.Now = now
			for seq := range uint64(7) {
				r.put(t, name, seq+1, start.Add(time.Duration(seq)*time.Hour), nil)
			}
			place, err := objects.Parse(t.TempDir(), func() (*s3.Client, error) { return nil, errors.New("no S3") })
			if err != nil {
				t.Fatal(err)
			}
			c.prepare(t, r, place)
			proof, err := r.Retire(t.Context(), place, "2026-w40", retention, true, nil)
			if c.refusal == "" && (err != nil || proof.Deleted || proof.Items != 7 || proof.Samples != 70 || proof.Files != 1) {
				t.Fatalf("dry: %+v, %v", proof, err)
			}
			r.describeTable(t, name) // it is there
			proof, err = r.Retire(t.Context(), place, "2026-W40", retention, false, nil)
			if c.refusal != "" {
				if err == nil || !strings.Contains(err.Error(), c.refusal) {
					t.Errorf("%+v, %v; want %q", proof, err, c.refusal)
				}
				r.describeTable(t, name)
				return
			}
			if err != nil || !proof.Deleted {
				t.Fatalf("%+v, %v", proof, err)
			}
			if _, err := r.Retire(t.Context(), place, "2026-w40", retention, false, nil); err == nil || !strings.Contains(err.Error(), "it may be retired already") {
				t.Errorf("again: %v", err)
			}
		})
	}
}

// TestRetireTooEarly: while blocks may still be written to the table, no archive
// proves anything.
func TestRetireTooEarly(t *testing.T) {
	r := newRig(t, 0)
	place, err := objects.Parse(t.TempDir(), func() (*s3.Client, error) { return nil, errors.New("no S3") })
	if err != nil {
		t.Fatal(err)
	}
	end := time.Date(2026, 10, 5, 0, 0, 0, 0, time.UTC) // of w40
	for _, c := range []struct {
		now  time.Time
		keep time.Duration
		want string
	}{
		{end.Add(-time.Hour), retention, "can be retired from 2026-11-03 on"},
		{end.Add(retention + margin - time.Second), retention, "can be retired from 2026-11-03 on"},
		{end.Add(retention + margin), retention, "there is none; it may be retired already"},
		{end.Add(retention + margin), 0, "without a retention"},
	} {
		r.Now = c.now
		if _, err := r.Retire(t.Context(), place, "2026-w40", c.keep, false, nil); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v, want %q", c.now, err, c.want)
		}
	}
	if _, err := r.Retire(t.Context(), place, "2026-w54", retention, false, nil); err == nil || !strings.Contains(err.Error(), "is no week") {
		t.Errorf("%v", err)
	}
}

// TestThrottledReads: a table that throttles its readers is read to the end all
// the same; one that answers nothing is not proved.
func TestThrottledReads(t *testing.T) {
	r := newRig(t, 0)
	if _, err := r.Ensure(t.Context(), Settings{}, 0); err != nil {
		t.Fatal(err)
	}
	name := weektable.Table("plant", now)
	for seq := range uint64(5) {
		r.put(t, name, seq+1, now, nil)
	}
	left := 3
	r.onWait = func() {
		if left--; left == 0 {
			r.server.SetFaults(awssim.ServiceDynamoDB, awssim.Faults{})
		}
	}
	r.server.SetFaults(awssim.ServiceDynamoDB, awssim.Faults{Throttled: 1})
	s := manifest.NewSum()
	if err := r.sum(t.Context(), name, s, nil); err != nil || left != 0 {
		t.Fatal(err, left)
	}
	items := int64(0)
	for _, one := range s.Streams() {
		items += one.Items
	}
	if items != 5 {
		t.Errorf("%d items", items)
	}
	r.server.SetFaults(awssim.ServiceDynamoDB, awssim.Faults{Down: true})
	if err := r.sum(t.Context(), name, manifest.NewSum(), nil); err == nil || !strings.HasPrefix(err.Error(), "read table "+name) {
		t.Errorf("down: %v", err)
	}
}
