//go:build interop

package interop

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/parquet-go/parquet-go"

	"millrace/cloud/analysis/result"
	"millrace/cloud/connect"
	"millrace/cloud/objects"
	"millrace/cloud/pipeline"
	"millrace/cloud/results"
	"millrace/cloud/state"
	"millrace/internal/backoff"
	"millrace/sample"
)

// collector is a queue that keeps what is sent.
type collector struct{ bodies []string }

func (c *collector) SendMessage(_ context.Context, in *sqs.SendMessageInput, _ ...func(*sqs.Options)) (*sqs.SendMessageOutput, error) {
	c.bodies = append(c.bodies, *in.MessageBody)
	return &sqs.SendMessageOutput{}, nil
}

// availability is a row of that result, in its columns' order.
type availability struct {
	Site string    `parquet:"site,optional"`
	Tag  string    `parquet:"tag,optional"`
	Hour time.Time `parquet:"hour,optional,timestamp(microsecond)"`
	Good float64   `parquet:"good_seconds,optional"`
	Bad  float64   `parquet:"bad_seconds,optional"`
	Gap  float64   `parquet:"gap_seconds,optional"`
	Of1  float64   `parquet:"availability,optional"`
}

// TestCloudPipeline runs the lock, the runs' records and the memory of results by
// the conditions of each stand-in of DynamoDB.
func TestCloudPipeline(t *testing.T) {
	for name, start := range map[string]func(*testing.T) string{"DynamoDB Local": dynamoDBLocal, "dynalite": dynalite, "moto": moto} {
		t.Run(name, func(t *testing.T) {
			keys(t)
			s := connect.Settings{Region: region, Endpoint: start(t)}
			cfg, err := connect.Load(t.Context(), s)
			if err != nil {
				t.Fatal(err)
			}
			log := slog.New(slog.DiscardHandler)
			store := pipeline.NewStore(connect.DynamoDB(cfg, s), "plant", time.Now, backoff.Sleep)
			fail := errors.New("not yet")
			ran := ""
			options := func(owner string) pipeline.Options {
				return pipeline.Options{Store: store, Scheduled: time.Date(2026, 11, 28, 2, 0, 0, 0, time.UTC), Owner: owner, Lease: pipeline.MinLease, Log: log, Stages: []pipeline.Stage{
					{Name: "a", Run: func(context.Context) (string, error) { ran += "a"; return "", nil }},
					{Name: "b", Run: func(ctx context.Context) (string, error) {
						ran += "b"
						if fail == nil { // while it runs, another one is refused
							o := pipeline.Options{Store: store, Scheduled: time.Date(2026, 11, 29, 2, 0, 0, 0, time.UTC), Owner: "second", Lease: pipeline.MinLease, Log: log}
							if _, err := pipeline.Run(ctx, o); !errors.Is(err, pipeline.ErrBusy) {
								t.Errorf("a second run: %v", err)
							}
						}
						return "", fail
					}},
				}}
			}
			var stage *pipeline.StageError
			if _, err := pipeline.Run(t.Context(), options("first")); !errors.As(err, &stage) {
				t.Fatal(err)
			}
			fail = nil
			if r, err := pipeline.Run(t.Context(), options("first")); err != nil || r.State != pipeline.Done {
				t.Fatalf("%+v, %v", r, err)
			}
			if _, err := pipeline.Run(t.Context(), options("first")); !errors.Is(err, pipeline.ErrDone) || ran != "abb" {
				t.Errorf("ran %s, %v", ran, err)
			}
			if last, err := store.Last(t.Context(), 5); err != nil || len(last) != 1 || last[0].Stages[1].Tries != 2 {
				t.Errorf("%+v, %v", last, err)
			}

			place, err := objects.Parse(t.TempDir(), nil)
			if err != nil {
				t.Fatal(err)
			}
			hour := time.Now().UTC().Truncate(time.Hour).Add(-time.Hour)
			put := func(value float64) {
				t.Helper()
				var b bytes.Buffer
				if err := parquet.Write(&b, []availability{{"north", "north/m1/power", hour, 3600 * value, 0, 3600 * (1 - value), value}}); err != nil {
					t.Fatal(err)
				}
				if err := place.Put(t.Context(), result.Key("availability", hour, 0), b.Bytes()); err != nil {
					t.Fatal(err)
				}
			}
			queue := &collector{}
			for i, c := range []struct {
				value float64
				want  results.What
			}{{0.5, results.Published}, {0.5, results.Unchanged}, {0.75, results.Published}, {0.75, results.Unchanged}} {
				put(c.value)
				out, err := results.Publish(t.Context(), results.Options{Place: place, Table: state.Table{DB: connect.DynamoDB(cfg, s), Name: results.TableName("plant"), Sleep: backoff.Sleep},
					Queue: func(string) results.Queue { return queue }, Now: time.Now, Log: log, Dir: t.TempDir(), Rules: []results.Rule{{Site: "north", Target: "a", Queue: "q",
						Result: "availability", Of: "north/m1/power", Column: "availability", Type: sample.Float64, Scale: 100, Unit: "%", Validity: 3 * time.Hour}}})
				if err != nil || len(out) != 1 || out[0].What != c.want {
					t.Errorf("%d: %+v, %v", i, out, err)
				}
			}
			if len(queue.bodies) != 2 {
				t.Errorf("%q", queue.bodies)
			}
		})
	}
}
