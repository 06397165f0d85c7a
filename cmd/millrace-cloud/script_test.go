package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	ddbtypes "github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/rogpeppe/go-internal/testscript"

	"millrace/cloud/archive/manifest"
	"millrace/cloud/connect"
	"millrace/cloud/objects"
	"millrace/internal/command"
	"millrace/internal/sim/awssim"
	"millrace/internal/sim/redshiftsim"
	"millrace/internal/weekitem"
	"millrace/sample"
	"millrace/sample/block"
	"millrace/sample/weektable"
	"millrace/uploader"
	sqssink "millrace/uploader/sqs"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"millrace-cloud": func() { command.Main(run) },
	})
}

// TestScripts drives the command line as a user does, each script on simulated
// AWS of its own.
func TestScripts(t *testing.T) {
	server, err := awssim.Start(awssim.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	redshift, err := redshiftsim.Start(redshiftsim.Options{Steps: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { redshift.Close() })
	thisWeek, _ := strings.CutPrefix(weektable.Table("p", time.Now()), "p-samples-")
	old := time.Now().AddDate(0, 0, -400)
	_, monday, _ := weektable.ParseTable(weektable.Table("p", time.Now()))
	oldWeek, _ := strings.CutPrefix(weektable.Table("p", old), "p-samples-")
	lastWeek, _ := strings.CutPrefix(weektable.Table("p", monday.AddDate(0, 0, -1)), "p-samples-")
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script", RequireExplicitExec: true, RequireUniqueNames: true,
		Setup: func(e *testscript.Env) error {
			for name, value := range map[string]string{
				"AWS_ACCESS_KEY_ID": "AK", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "eu-central-1", "AWS_EC2_METADATA_DISABLED": "true",
				"DB": server.URL(awssim.ServiceDynamoDB), "QUEUES": server.QueueURL(""), "REDSHIFT": redshift.URL(), "WEEK": thisWeek, "OLD": oldWeek, "LAST": lastWeek,
				"MONDAY": monday.Format(time.DateOnly),
			} {
				e.Setenv(name, value)
			}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"expand": func(ts *testscript.TestScript, _ bool, args []string) { // variables in a file
				ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(os.Expand(ts.ReadFile(args[0]), ts.Getenv)), 0o600))
			},
			"queue": func(ts *testscript.TestScript, _ bool, args []string) { makeQueue(ts, args[0]) },
			"deliver": func(ts *testscript.TestScript, _ bool, args []string) {
				n, err := strconv.Atoi(args[1])
				ts.Check(err)
				deliverToQueue(ts, args[0], n)
			},
			"foreign": func(ts *testscript.TestScript, _ bool, args []string) {
				_, err := queues(ts).SendMessage(context.Background(), &sqs.SendMessageInput{QueueUrl: aws.String(ts.Getenv("QUEUES") + args[0]), MessageBody: aws.String("hello")})
				ts.Check(err)
			},
			"waitempty": func(ts *testscript.TestScript, _ bool, args []string) { waitCount(ts, args[0], 0) },
			"oldtable":  func(ts *testscript.TestScript, _ bool, args []string) { oldTable(ts, args[0], old) },
			"told":      func(ts *testscript.TestScript, _ bool, args []string) { told(ts, args[0]) },
			"droptable": func(ts *testscript.TestScript, _ bool, args []string) {
				_, db := clients(ts)
				_, err := db.DeleteTable(context.Background(), &dynamodb.DeleteTableInput{TableName: &args[0]})
				ts.Check(err)
			},
			"archivedas": func(ts *testscript.TestScript, _ bool, args []string) { archivedAs(ts, args[0], args[1]) },
		},
		UpdateScripts: os.Getenv("UPDATE_SCRIPTS") != "",
	})
}

func clients(ts *testscript.TestScript) (*sqs.Client, *dynamodb.Client) {
	s := connect.Settings{Region: "eu-central-1", Endpoint: ts.Getenv("DB")}
	cfg, err := connect.Load(context.Background(), s)
	ts.Check(err)
	cfg.Credentials = aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
		return aws.Credentials{AccessKeyID: "AK", SecretAccessKey: "secret"}, nil
	})
	return connect.SQS(cfg, ts.Getenv("QUEUES")+"x"), connect.DynamoDB(cfg, s)
}

func queues(ts *testscript.TestScript) *sqs.Client {
	q, _ := clients(ts)
	return q
}

func makeQueue(ts *testscript.TestScript, name string) {
	_, err := queues(ts).CreateQueue(context.Background(), &sqs.CreateQueueInput{QueueName: &name})
	ts.Check(err)
}

// madeBlocks makes n blocks of ten samples from a time on.
func madeBlocks(ts *testscript.TestScript, n int, at time.Time) (out []uploader.Block) {
	enc, err := block.NewEncoder()
	ts.Check(err)
	for i := range n {
		enc.Reset([]string{"north/meter/power"})
		for k := range 10 {
			enc.Add(0, &sample.Sample{Tag: "north/meter/power", Value: sample.IntValue(int64(k)), Time: at.UnixNano() + int64(i*10+k)})
		}
		data, err := enc.Encode(nil, block.Header{Site: "north", Gateway: "gw1", Stream: "s0001", Epoch: 7, Seq: uint64(i + 1), Produced: uint64(10*i + 10)})
		ts.Check(err)
		h, err := block.ReadHeader(data)
		ts.Check(err)
		out = append(out, uploader.Block{Number: uint64(i), Header: h, Data: data})
	}
	return out
}

// deliverToQueue sends blocks through the gateway's own sink.
func deliverToQueue(ts *testscript.TestScript, queue string, n int) {
	c := sqssink.Kind{}.NewConfig().(*sqssink.Config)
	c.QueueURL, c.Region = ts.Getenv("QUEUES")+queue, "eu-central-1"
	ts.Check(os.Setenv("AWS_ACCESS_KEY_ID", "AK"))
	ts.Check(os.Setenv("AWS_SECRET_ACCESS_KEY", "secret"))
	s, err := c.Open(uploader.Settings{Name: "cloud"})
	ts.Check(err)
	for _, err := range s.Send(context.Background(), madeBlocks(ts, n, time.Now().Add(-time.Second))) {
		ts.Check(err)
	}
}

// waitCount waits until a queue has n messages, those under way too.
func waitCount(ts *testscript.TestScript, queue string, n int) {
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		out, err := queues(ts).GetQueueAttributes(context.Background(), &sqs.GetQueueAttributesInput{QueueUrl: aws.String(ts.Getenv("QUEUES") + queue),
			AttributeNames: []types.QueueAttributeName{types.QueueAttributeNameAll}})
		ts.Check(err)
		waiting, err1 := strconv.Atoi(out.Attributes["ApproximateNumberOfMessages"])
		flying, err2 := strconv.Atoi(out.Attributes["ApproximateNumberOfMessagesNotVisible"])
		ts.Check(errors.Join(err1, err2))
		if waiting+flying == n {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("queue %s has %d messages, not %d", queue, waiting+flying, n)
		}
	}
}

// oldTable makes a week's table with three blocks.
func oldTable(ts *testscript.TestScript, prefix string, at time.Time) {
	_, db := clients(ts)
	name := weektable.Table(prefix, at)
	keys, attributes := weekitem.Keys()
	_, err := db.CreateTable(context.Background(), &dynamodb.CreateTableInput{TableName: &name, KeySchema: keys, AttributeDefinitions: attributes,
		BillingMode: ddbtypes.BillingModePayPerRequest})
	ts.Check(err)
	for _, b := range madeBlocks(ts, 3, at) {
		item, _ := weekitem.New(&b.Header, b.Data)
		_, err := db.PutItem(context.Background(), &dynamodb.PutItemInput{TableName: &name, Item: item})
		ts.Check(err)
	}
}

// archivedAs writes the manifest of a table into a folder, and one file.
func archivedAs(ts *testscript.TestScript, table, dir string) {
	_, db := clients(ts)
	place, err := objects.Parse(ts.MkAbs(dir), func() (*s3.Client, error) { return nil, errors.New("no S3") })
	ts.Check(err)
	out, err := db.Scan(context.Background(), &dynamodb.ScanInput{TableName: &table})
	ts.Check(err)
	sum := manifest.NewSum()
	for _, it := range out.Items {
		data := it[weektable.AttrBlock].(*ddbtypes.AttributeValueMemberB).Value
		h, err := block.ReadHeader(data)
		ts.Check(err)
		crc := weektable.Checksum(data)
		pk, sk := weektable.Keys(&h, crc)
		sum.Add(pk, sk, crc, h.Count)
	}
	hash := sha256.Sum256([]byte("rows"))
	ts.Check(place.Put(context.Background(), "samples/part-0.parquet", []byte("rows")))
	ts.Check(manifest.Write(context.Background(), place, manifest.New(table, time.Now(), sum,
		[]manifest.File{{Key: "samples/part-0.parquet", Bytes: 4, SHA256: hex.EncodeToString(hash[:])}}, nil)))
}
