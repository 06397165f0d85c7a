package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	cloudaudit "millrace/cloud/audit"
	"millrace/internal/command"
	"millrace/internal/sim/awssim"
	"millrace/sample"
	"millrace/sample/block"
	"millrace/sample/weektable"
	"millrace/uploader"
	sink "millrace/uploader/dynamodb"
)

// invokeAll runs a command line and returns its exit code and what it printed.
func invokeAll(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(t.Context(), args, &out, &errs)
	return code, out.String(), errs.String()
}

func TestCommandLine(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "AK")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	for name, c := range map[string]struct {
		args   []string
		code   int
		stdout string
		stderr string
	}{
		"nothing":         {nil, command.ExitUsage, "", "Usage: millrace-cloud COMMAND"},
		"help":            {[]string{"help"}, command.ExitOK, "audit ", ""},
		"help of one":     {[]string{"help", "audit"}, command.ExitOK, "Examples:", ""},
		"-h":              {[]string{"audit", "-h"}, command.ExitOK, "-patience", ""},
		"version":         {[]string{"version"}, command.ExitOK, "millrace-cloud devel go1", ""},
		"unknown":         {[]string{"fly"}, command.ExitUsage, "", `there is no command "fly"`},
		"unknown flag":    {[]string{"audit", "--port", "3"}, command.ExitUsage, "", "flag provided but not defined: -port; see `millrace-cloud help audit`"},
		"argument":        {[]string{"audit", "north"}, command.ExitUsage, "", `"north" is no flag`},
		"no time":         {[]string{"audit", "--from", "yesterday"}, command.ExitUsage, "", `--from "yesterday" is neither a day`},
		"backwards":       {[]string{"audit", "--from", "2026-11-02", "--to", "2026-11-01"}, command.ExitUsage, "", "--to is before --from"},
		"a wrong prefix":  {[]string{"audit", "--prefix", "a b", "--region", "eu-central-1"}, command.ExitFailed, "", "table prefix"},
		"no region":       {[]string{"tables", "list", "--region", "eu central"}, command.ExitUsage, "", `--region: "eu central" is no AWS region: write it as in eu-central-1; see`},
		"no scheme":       {[]string{"tables", "list", "--region", "eu-central-1", "--endpoint", "127.0.0.1:8123"}, command.ExitUsage, "", `--endpoint: "127.0.0.1:8123" is no URL: write it as in http://127.0.0.1:8000`},
		"no scheme of S3": {[]string{"archive", "--all-ended", "--region", "eu-central-1", "--archive", "s3://plant", "--s3-endpoint", "127.0.0.1:8123"}, command.ExitUsage, "", "--s3-endpoint: "},
		"no scheme, load": {[]string{"warehouse", "load", "--region", "eu-central-1", "--archive", "a", "--workgroup", "plant", "--database", "plant", "--redshift-endpoint", "127.0.0.1:1"}, command.ExitUsage, "", "--redshift-endpoint: "},
		"no scheme, job":  {[]string{"analyze", "--region", "eu-central-1", "--archive", "s3://a", "--engine", "spark", "--application", "00abc", "--job-role", "arn", "--emr-endpoint", "127.0.0.1:1"}, command.ExitUsage, "", "--emr-endpoint: "},
		"nobody listens":  {[]string{"tables", "list", "--region", "eu-central-1", "--endpoint", "http://127.0.0.1:1"}, command.ExitFailed, "", "connection refused; nothing listens there: start it, or correct the endpoint"},
		"audit of nobody": {[]string{"audit", "--region", "eu-central-1", "--endpoint", "http://127.0.0.1:1"}, command.ExitFailed, "", "list tables: Post \"http://127.0.0.1:1/\": dial tcp 127.0.0.1:1: connect: connection refused; nothing listens there"},
		"version and so":  {[]string{"version", "--loud"}, command.ExitUsage, "", "-loud"},
		"help of unknown": {[]string{"help", "fly"}, command.ExitUsage, "", `there is no command "fly"`},
	} {
		code, stdout, stderr := invokeAll(t, c.args...)
		if code != c.code || !strings.Contains(stdout, c.stdout) || !strings.Contains(stderr, c.stderr) || strings.Count(stderr, "\n") > 1 && name != "nothing" {
			t.Errorf("%s: code %d\n%s%s", name, code, stdout, stderr)
		}
	}
}

// TestPipelineSaysWhyItStops, where it runs at its own times.
func TestPipelineSaysWhyItStops(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "AK")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	config := filepath.Join(t.TempDir(), "plant.yaml")
	if err := os.WriteFile(config, fmt.Appendf(nil, "prefix: plant\nregion: eu-central-1\narchive: {place: %q}\nanalyze: {engine: none}\n", t.TempDir()), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancelCause(t.Context())
	stop(errors.New("interrupt signal received"))
	var out, errs bytes.Buffer
	code := run(ctx, []string{"pipeline", "run", "--config", config, "--every", "24h"}, &out, &errs)
	if code != command.ExitOK || !regexp.MustCompile(`msg="stopped; start it again to go on: [^"]+" cause="interrupt signal received"\n$`).MatchString(errs.String()) {
		t.Errorf("code %d\n%s%s", code, &out, &errs)
	}
}

// TestAudit runs the command on simulated tables, whole and with a block gone.
func TestAudit(t *testing.T) {
	server, err := awssim.Start(awssim.Options{Keys: map[string]string{"AK": "secret"}})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	t.Setenv("AWS_ACCESS_KEY_ID", "AK")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	endpoint := server.URL(awssim.ServiceDynamoDB)
	flags := []string{"audit", "--prefix", "plant", "--region", "eu-central-1", "--endpoint", endpoint}

	code, _, stderr := invokeAll(t, flags...)
	if code != command.ExitFailed || !strings.Contains(stderr, "there is no table plant-samples-") {
		t.Errorf("no table: code %d, %s", code, stderr)
	}
	blocks := deliver(t, endpoint)
	code, stdout, stderr := invokeAll(t, flags...)
	want := regexp.MustCompile(`^north/gw1 s0001 0000000000000007: balanced: 3 blocks here of 1 to 3, 3 samples; produced 3, lost 0, thinned 0\n1 stream: 1 balanced; 3 blocks, 3 samples here, 0 declared lost\n$`)
	if code != command.ExitOK || !want.MatchString(stdout) || stderr != "" {
		t.Errorf("code %d\n%s%s", code, stdout, stderr)
	}

	code, _, stderr = invokeAll(t, append(flags, "--site", "south")...)
	if code != command.ExitFailed || !strings.Contains(stderr, "no block of that site and gateway is in the tables looked at (1)") {
		t.Errorf("another site: code %d, %s", code, stderr)
	}
	// No heartbeat names the gateway's streams, so the tables are scanned.
	code, stdout, _ = invokeAll(t, append(flags, "--site", "north", "--gateway", "gw1")...)
	if code != command.ExitOK || !strings.Contains(stdout, "1 stream: 1 balanced") {
		t.Errorf("the gateway: code %d\n%s", code, stdout)
	}

	db, err := cloudaudit.Connect(t.Context(), "eu-central-1", endpoint)
	if err != nil {
		t.Fatal(err)
	}
	remove(t, db, &blocks[1])
	code, stdout, stderr = invokeAll(t, flags...)
	if code != command.ExitFailed || !strings.Contains(stdout, "MISSING: block 2 (1 sample) missing, undeclared, between ") || !strings.Contains(stderr, "something is missing undeclared") {
		t.Errorf("code %d\n%s%s", code, stdout, stderr)
	}
	code, stdout, _ = invokeAll(t, append(flags, "--json", "--keys-only")...)
	if code != command.ExitFailed || !strings.Contains(stdout, `"verdict": "missing"`) {
		t.Errorf("code %d\n%s", code, stdout)
	}
}

// deliver sends three blocks of yesterday through the gateway's own sink.
func deliver(t *testing.T, endpoint string) (blocks []uploader.Block) {
	enc, err := block.NewEncoder()
	if err != nil {
		t.Fatal(err)
	}
	at := time.Now().Add(-24 * time.Hour)
	for i := uint64(1); i <= 3; i++ {
		enc.Reset([]string{"north/meter/power"})
		enc.Add(0, &sample.Sample{Tag: "north/meter/power", Value: sample.IntValue(int64(i)), Time: at.UnixNano() + int64(i)})
		data, err := enc.Encode(nil, block.Header{Site: "north", Gateway: "gw1", Stream: "s0001", Epoch: 7, Seq: i, Produced: i})
		if err != nil {
			t.Fatal(err)
		}
		h, err := block.ReadHeader(data)
		if err != nil {
			t.Fatal(err)
		}
		blocks = append(blocks, uploader.Block{Number: i, Header: h, Data: data})
	}
	c := sink.Kind{}.NewConfig().(*sink.Config)
	c.TablePrefix, c.Region, c.Endpoint, c.CreateTables = "plant", "eu-central-1", endpoint, true
	s, err := c.Open(uploader.Settings{Name: "table", Site: "north", Gateway: "gw1", Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range s.Send(t.Context(), blocks) {
		if err != nil {
			t.Fatal(err)
		}
	}
	return blocks
}

func remove(t *testing.T, db *dynamodb.Client, b *uploader.Block) {
	t.Helper()
	pk, sk := weektable.Keys(&b.Header, weektable.Checksum(b.Data))
	_, err := db.DeleteItem(context.Background(), &dynamodb.DeleteItemInput{
		TableName: aws.String(weektable.Table("plant", time.Unix(0, b.Header.First))),
		Key: map[string]types.AttributeValue{
			weektable.AttrPartition: &types.AttributeValueMemberS{Value: pk}, weektable.AttrSort: &types.AttributeValueMemberS{Value: sk},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
}

// The archive of a week that is not over is not the last word.
func TestUnfinishedWeek(t *testing.T) {
	monday := time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC) // of 2026-w48
	for at, want := range map[time.Time]string{
		monday.AddDate(0, 0, -1):        "this week has not begun: archive it again once it is over, from 2026-11-30 on",
		monday:                          "this week is not over, and more will come: archive it again from 2026-11-30 on",
		monday.AddDate(0, 0, 7).Add(-1): "this week is not over, and more will come: archive it again from 2026-11-30 on",
		monday.AddDate(0, 0, 7):         "",
		monday.AddDate(1, 0, 0):         "",
	} {
		if got := unfinished("plant", "2026-w48", at); got != want {
			t.Errorf("%s: %q, want %q", at, got, want)
		}
	}
}
