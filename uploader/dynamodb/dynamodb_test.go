package dynamodb

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	awsddb "github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"millrace/internal/secret"
	"millrace/internal/sim/awssim"
	"millrace/sample/weektable"
	"millrace/uploader"
	"millrace/uploader/awsconf"
	"millrace/uploader/sinktest"
)

const keyID, secretKey = "AKIDEXAMPLE", "correct-horse"

// bench is a simulated DynamoDB with the tables of this week and the next ones.
type bench struct {
	server *awssim.Server
	client *awsddb.Client
}

func startBench(t *testing.T, o awssim.Options) *bench {
	t.Helper()
	o.Keys, o.Seed = map[string]string{keyID: secretKey}, 3
	server, err := awssim.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	return &bench{server, awsddb.New(awsddb.Options{Region: "eu-central-1", HTTPClient: awsconf.Steady(http.DefaultClient), BaseEndpoint: aws.String(server.URL(awssim.ServiceDynamoDB)),
		Credentials: credentials.NewStaticCredentialsProvider(keyID, secretKey, "")})}
}

// week is the table of the suite's blocks. The hour before now may be in
// another week than now, so the test follows the block.
func week() string { return weektable.Table("plant", time.Unix(0, sinktest.Opaque(1).Header.First)) }

func (b *bench) create(t *testing.T, name string) {
	t.Helper()
	s := &sink{client: b.client, conf: Config{Billing: BillingOnDemand}}
	if err := s.create(context.Background(), name); err != nil {
		t.Fatal(err)
	}
}

func (b *bench) config(t *testing.T) *Config {
	t.Setenv("MILLRACE_TEST_KEY", secretKey)
	c := Kind{}.NewConfig().(*Config)
	c.TablePrefix, c.Region, c.Endpoint = "plant", "eu-central-1", b.server.URL(awssim.ServiceDynamoDB)
	var ref secret.Ref
	if err := ref.UnmarshalText([]byte("env:MILLRACE_TEST_KEY")); err != nil {
		t.Fatal(err)
	}
	c.Credentials = awsconf.Credentials{AccessKeyID: keyID, SecretAccessKey: ref}
	return c
}

// stored reads all items of a table.
func (b *bench) stored(t *testing.T, table string) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	pages := awsddb.NewScanPaginator(b.client, &awsddb.ScanInput{TableName: &table})
	for pages.HasMorePages() {
		page, err := pages.NextPage(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		for _, it := range page.Items {
			pk, sk := it[weektable.AttrPartition].(*types.AttributeValueMemberS).Value, it[weektable.AttrSort].(*types.AttributeValueMemberS).Value
			k, err := weektable.ParseKeys(pk, sk)
			if err != nil {
				t.Fatal(err)
			}
			data := it[weektable.AttrBlock].(*types.AttributeValueMemberB).Value
			if weektable.Checksum(data) != k.CRC {
				t.Errorf("item %s has a block of another checksum", sk)
			}
			out[pk+" "+sk] = data
		}
	}
	return out
}

func blockKey(b *uploader.Block) string {
	pk, sk := weektable.Keys(&b.Header, weektable.Checksum(b.Data))
	return pk + " " + sk
}

func TestSuite(t *testing.T) {
	sinktest.Run(t, sinktest.Harness{
		Kind: Kind{},
		Start: func(t *testing.T) *sinktest.Endpoint {
			b := startBench(t, awssim.Options{})
			table := week()
			b.create(t, table)
			if now := weektable.Table("plant", time.Now()); now != table {
				b.create(t, now) // Check looks at it
			}
			var on awssim.Faults
			set := func(f awssim.Faults) func(bool) {
				return func(active bool) {
					if on = (awssim.Faults{}); active {
						on = f
					}
					b.server.SetFaults(awssim.ServiceDynamoDB, on)
				}
			}
			return &sinktest.Endpoint{Config: b.config(t), Key: blockKey,
				Stored: func(t *testing.T) map[string][]byte {
					b.server.SetFaults(awssim.ServiceDynamoDB, awssim.Faults{})
					defer b.server.SetFaults(awssim.ServiceDynamoDB, on)
					return b.stored(t, table)
				},
				Set: map[sinktest.Fault]func(bool){
					sinktest.Down:       set(awssim.Faults{Down: true}),
					sinktest.Slow:       set(awssim.Faults{Slow: time.Minute}),
					sinktest.Throttled:  set(awssim.Faults{Throttled: 1}),
					sinktest.Partial:    set(awssim.Faults{Partial: 0.5}),
					sinktest.AnswerLost: set(awssim.Faults{AnswerLost: 1}),
					sinktest.Denied:     set(awssim.Faults{Denied: true}),
					sinktest.Expired:    set(awssim.Faults{Expired: true}),
					sinktest.Skewed:     set(awssim.Faults{Skewed: true}),
					sinktest.Missing: func(missing bool) {
						for _, name := range []string{table, weektable.Table("plant", time.Now())} {
							if missing {
								b.client.DeleteTable(context.Background(), &awsddb.DeleteTableInput{TableName: &name})
							} else {
								b.create(t, name)
							}
						}
					},
				}}
		},
		TooLarge: func(n uint64) uploader.Block { return sinktest.OpaqueOf(n, maxItemBytes) },
	})
}

func open(t *testing.T, c *Config) *sink {
	t.Helper()
	s, err := c.Open(uploader.Settings{Name: "cloud", Site: "plant", Gateway: "gw1", Log: sinktest.Log()})
	if err != nil {
		t.Fatal(err)
	}
	return s.(*sink)
}

// at moves a block in time.
func at(n uint64, t time.Time) uploader.Block {
	b := sinktest.Opaque(n)
	b.Header.First, b.Header.Last = t.UnixNano(), t.Add(time.Second).UnixNano()
	return b
}

func TestTablesAreCreatedAndAwaited(t *testing.T) {
	b := startBench(t, awssim.Options{TableDelay: 700 * time.Millisecond})
	c := b.config(t)
	c.CreateTables, c.Billing, c.ReadCapacity, c.WriteCapacity = true, BillingProvisioned, 3, 200
	s := open(t, c)
	if err := s.Check(t.Context()); err != nil {
		t.Errorf("Check before the table is created: %v", err)
	}
	now := time.Now()
	blocks := []uploader.Block{at(1, now.Add(-time.Hour)), at(2, now.Add(-15*24*time.Hour)), at(3, now.Add(48*time.Hour)), at(4, now.Add(-60*7*24*time.Hour))}
	for i, err := range s.Send(t.Context(), blocks) {
		if err != nil {
			t.Errorf("block %d: %v", i, err)
		}
	}
	for i, table := range []string{weektable.Table("plant", now.Add(-time.Hour)), weektable.Table("plant", now.Add(-15*24*time.Hour)), "plant-samples-unplaced", "plant-samples-unplaced"} {
		if _, ok := b.stored(t, table)[blockKey(&blocks[i])]; !ok {
			t.Errorf("block %d is not in %s", i, table)
		}
	}
	out, err := b.client.DescribeTable(t.Context(), &awsddb.DescribeTableInput{TableName: aws.String("plant-samples-unplaced")})
	if err != nil {
		t.Fatal(err)
	}
	if p := out.Table.ProvisionedThroughput; *p.ReadCapacityUnits != 3 || *p.WriteCapacityUnits != 200 {
		t.Errorf("the table was created with %d and %d units", *p.ReadCapacityUnits, *p.WriteCapacityUnits)
	}
}

func TestWaitForATableHearsTheDeadline(t *testing.T) {
	b := startBench(t, awssim.Options{TableDelay: time.Hour})
	c := b.config(t)
	c.CreateTables = true
	ctx, cancel := context.WithTimeout(t.Context(), 800*time.Millisecond)
	defer cancel()
	err := open(t, c).Send(ctx, []uploader.Block{sinktest.Opaque(1)})[0]
	if err == nil || uploader.Classify(err) != uploader.Transient || !strings.Contains(err.Error(), "plant-samples-") {
		t.Errorf("a table that stays CREATING gives %v", err)
	}
}

// A table that is missing holds its own blocks and no others.
func TestMissingTableHoldsItsBlocksOnly(t *testing.T) {
	b := startBench(t, awssim.Options{})
	now := time.Now()
	b.create(t, weektable.Table("plant", now))
	s := open(t, b.config(t))
	outcomes := s.Send(t.Context(), []uploader.Block{at(1, now), at(2, now.Add(-21*24*time.Hour)), at(3, now)})
	if outcomes[0] != nil || outcomes[2] != nil {
		t.Errorf("blocks of a table that is there: %v, %v", outcomes[0], outcomes[2])
	}
	if uploader.Classify(outcomes[1]) != uploader.Hold || !strings.Contains(outcomes[1].Error(), weektable.Table("plant", now.Add(-21*24*time.Hour))) {
		t.Errorf("the block of a missing table: %v, want a hold that names it", outcomes[1])
	}
}

// A table with other keys refuses every item. That is no fault of the blocks.
func TestTableWithOtherKeysIsHeld(t *testing.T) {
	b := startBench(t, awssim.Options{})
	tables := map[string]bool{week(): true, weektable.Table("plant", time.Now()): true}
	for table := range tables {
		_, err := b.client.CreateTable(t.Context(), &awsddb.CreateTableInput{TableName: &table, BillingMode: types.BillingModePayPerRequest,
			KeySchema:            []types.KeySchemaElement{{AttributeName: aws.String("id"), KeyType: types.KeyTypeHash}},
			AttributeDefinitions: []types.AttributeDefinition{{AttributeName: aws.String("id"), AttributeType: types.ScalarAttributeTypeS}}})
		if err != nil {
			t.Fatal(err)
		}
	}
	s := open(t, b.config(t))
	if err := s.Send(t.Context(), []uploader.Block{sinktest.Opaque(1)})[0]; uploader.Classify(err) != uploader.Hold {
		t.Errorf("Send: %v, want a hold", err)
	}
	if err := s.Check(t.Context()); uploader.Classify(err) != uploader.Hold {
		t.Errorf("Check: %v, want a hold", err)
	}
}

// Our count of an item's size must not be below DynamoDB's, and close to it.
func TestItemOfTheLargestSizeIsTaken(t *testing.T) {
	b := startBench(t, awssim.Options{})
	b.create(t, week())
	s := open(t, b.config(t))
	low, high := 16, maxItemBytes
	for high-low > 1 {
		mid := (low + high) / 2
		if bl := sinktest.OpaqueOf(1, mid); s.Limits().Size(&bl) <= maxItemBytes {
			low = mid
		} else {
			high = mid
		}
	}
	if err := s.Send(t.Context(), []uploader.Block{sinktest.OpaqueOf(1, low)})[0]; err != nil {
		t.Errorf("a block of %d bytes: %v", low, err)
	}
	if low < maxItemBytes-512 {
		t.Errorf("the largest block that we send has %d bytes, of %d", low, maxItemBytes)
	}
}

func TestValidate(t *testing.T) {
	if f := (Kind{}.NewConfig().Validate()); len(f) != 0 {
		t.Errorf("the defaults have faults: %+v", f)
	}
	for want, change := range map[string]func(*Config){
		"table_prefix":    func(c *Config) { c.TablePrefix = "a b" },
		"billing":         func(c *Config) { c.Billing = "free" },
		"write_capacity":  func(c *Config) { c.Billing = BillingProvisioned },
		"read_capacity":   func(c *Config) { c.ReadCapacity = 1 },
		"retention_weeks": func(c *Config) { c.RetentionWeeks = -1 },
		"concurrency":     func(c *Config) { c.Concurrency = 0 },
		"region":          func(c *Config) { c.Region = "Frankfurt" },
		"endpoint":        func(c *Config) { c.Endpoint = "localhost:8000" },
		"credentials":     func(c *Config) { c.Credentials.AccessKeyID = "AKID" },
	} {
		c := Kind{}.NewConfig().(*Config)
		change(c)
		faults := c.Validate()
		if len(faults) != 1 || faults[0].Path != want || faults[0].Hint == "" {
			t.Errorf("faults are %+v, want one at %s with a hint", faults, want)
		}
	}
}
