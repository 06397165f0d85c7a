package results

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/parquet-go/parquet-go"

	"millrace/cloud/analysis/result"
	"millrace/cloud/objects"
	"millrace/cloud/state"
	"millrace/internal/sim/awssim"
	"millrace/sample"
	message "millrace/sample/result"
)

const powerTag = "north/m1/power"

// ten is 10:00 of the day of the tests.
var ten = time.Date(2026, 11, 28, 10, 0, 0, 0, time.UTC)

// cells are a row's values by column.
type cells map[string]any

// rig is an archive in a folder, a table and a queue, and a site that reads the
// queue as the mirror does.
type rig struct {
	t      *testing.T
	place  objects.Place
	server *awssim.Server
	db     *dynamodb.Client
	sqs    *sqs.Client
	queue  string
	public ed25519.PublicKey
	o      Options

	mu  sync.Mutex
	now time.Time
}

func newRig(t *testing.T) *rig {
	t.Helper()
	server, err := awssim.Start(awssim.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	place, err := objects.Parse(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	keys := credentials.NewStaticCredentialsProvider("AK", "secret", "")
	r := &rig{t: t, place: place, server: server, now: ten.Add(70 * time.Minute),
		db: dynamodb.New(dynamodb.Options{Region: "eu-central-1", BaseEndpoint: aws.String(server.URL(awssim.ServiceDynamoDB)), Credentials: keys}),
		sqs: sqs.New(sqs.Options{Region: "eu-central-1", BaseEndpoint: aws.String(server.URL(awssim.ServiceSQS)), Credentials: keys,
			Retryer: aws.NopRetryer{}})}
	q, err := r.sqs.CreateQueue(t.Context(), &sqs.CreateQueueInput{QueueName: aws.String("north-results")})
	if err != nil {
		t.Fatal(err)
	}
	r.queue = *q.QueueUrl
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	r.public = public
	r.o = Options{Place: place, Table: r.table(r.db), Queue: func(string) Queue { return r.sqs }, Key: "cloud", Private: private,
		Now: r.time, Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler),
		Rules: []Rule{{Site: "north", Target: "sp1", Queue: r.queue, Result: "hourly", Of: powerTag, Column: "mean", Type: sample.Float64, Unit: "kW",
			Scale: 0.001, Validity: 3 * time.Hour, AtLeast: map[string]float64{"good": 3000}}}}
	return r
}

func (r *rig) table(db state.DB) state.Table {
	return state.Table{DB: db, Name: TableName("plant"), Sleep: func(ctx context.Context, _ time.Duration) bool { return ctx.Err() == nil }}
}

func (r *rig) time() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.now
}

func (r *rig) set(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now = now
}

// hourly is a row of the hour that begins at at.
func hourly(tag string, at time.Time, mean float64, good int64) cells {
	return cells{"site": "north", "tag": tag, "hour": at, "samples": good + 5, "good": good, "uncertain": int64(5), "bad": int64(0),
		"minimum": mean - 1, "maximum": mean + 1, "mean": mean, "first": mean, "last": mean}
}

// write puts a day's file of a result, whose rows are sorted by their key.
func (r *rig) write(name string, day time.Time, rows ...cells) {
	r.t.Helper()
	data, err := file(name, rows)
	if err != nil {
		r.t.Fatal(err)
	}
	if err := r.place.Put(r.t.Context(), result.Key(name, day, 0), data); err != nil {
		r.t.Fatal(err)
	}
}

func file(name string, rows []cells) ([]byte, error) {
	res, err := result.Named(name)
	if err != nil {
		return nil, err
	}
	types := map[result.Type]any{result.Text: (*string)(nil), result.Timestamp: (*time.Time)(nil), result.Double: (*float64)(nil), result.Integer: (*int64)(nil)}
	var fields []reflect.StructField
	for _, c := range res.Columns {
		tag := fmt.Sprintf(`parquet:"%s,optional"`, c.Name)
		if c.Type == result.Timestamp {
			tag = fmt.Sprintf(`parquet:"%s,optional,timestamp(microsecond)"`, c.Name)
		}
		fields = append(fields, reflect.StructField{Name: strings.ToUpper(c.Name), Type: reflect.TypeOf(types[c.Type]), Tag: reflect.StructTag(tag)})
	}
	typ := reflect.StructOf(fields)
	var b bytes.Buffer
	w := parquet.NewWriter(&b, parquet.SchemaOf(reflect.New(typ).Interface()))
	for _, cells := range rows {
		row := reflect.New(typ).Elem()
		for i, c := range res.Columns {
			if v, ok := cells[c.Name]; ok {
				p := reflect.New(reflect.TypeOf(v))
				p.Elem().Set(reflect.ValueOf(v))
				row.Field(i).Set(p)
			}
		}
		if err := w.Write(row.Addr().Interface()); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// publish runs once and returns the outcome of the only rule.
func (r *rig) publish() Outcome {
	r.t.Helper()
	out, err := Publish(r.t.Context(), r.o)
	if err != nil || len(out) != 1 {
		r.t.Fatalf("%+v, %v", out, err)
	}
	return out[0]
}

// expect publishes, and compares the outcome.
func (r *rig) expect(want What) Outcome {
	r.t.Helper()
	out := r.publish()
	if out.What != want {
		r.t.Fatalf("%+v, want %s", out, want)
	}
	return out
}

// arrive takes all messages from the queue, read and verified as the site does.
func (r *rig) arrive() (bodies []string, all []*message.Result) {
	r.t.Helper()
	for {
		out, err := r.sqs.ReceiveMessage(context.Background(), &sqs.ReceiveMessageInput{QueueUrl: &r.queue, MaxNumberOfMessages: 10})
		if err != nil {
			r.t.Fatal(err)
		}
		if len(out.Messages) == 0 {
			return bodies, all
		}
		for _, m := range out.Messages {
			res, problem := message.Parse([]byte(*m.Body))
			if problem != nil {
				r.t.Fatal(problem)
			}
			if err := res.Verify(map[string]ed25519.PublicKey{"cloud": r.public}); err != nil {
				r.t.Error(err)
			}
			bodies, all = append(bodies, *m.Body), append(all, res)
			if _, err := r.sqs.DeleteMessage(context.Background(), &sqs.DeleteMessageInput{QueueUrl: &r.queue, ReceiptHandle: m.ReceiptHandle}); err != nil {
				r.t.Fatal(err)
			}
		}
	}
}
