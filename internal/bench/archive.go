package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"millrace/cloud/archive/manifest"
	"millrace/cloud/objects"
	"millrace/internal/bench/codec"
	"millrace/internal/sim/awssim"
	"millrace/internal/weekitem"
	"millrace/sample"
	"millrace/sample/block"
)

const (
	archiveTicks = 50_000 // of 200 tags: 10 million samples
	archiveWeek  = "2026-w01"
	archiveTable = "bench-samples-" + archiveWeek
	// archiveShift brings half of them into the next day, so that two days are
	// sorted at once.
	archiveShift = 17 * time.Hour
	// archiveBlock is how many samples a block has: a minute of the plant.
	archiveBlock = 12_000
)

// archive measures `millrace-cloud archive` of 10 million samples of the
// generated plant, from a local endpoint in this process to a folder, and the
// analysis of them.
func (b *bench) archive() ([]figure, error) {
	binary := filepath.Join(b.dir, "millrace-cloud")
	build := exec.CommandContext(b.ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", binary, "./cmd/millrace-cloud")
	build.Env, build.Stderr = append(os.Environ(), "CGO_ENABLED=0"), os.Stderr
	if err := build.Run(); err != nil {
		return nil, fmt.Errorf("build: %w", err)
	}
	server, err := awssim.Start(awssim.Options{})
	if err != nil {
		return nil, err
	}
	defer server.Close()
	endpoint := server.URL(awssim.ServiceDynamoDB)
	samples, packed, err := b.fillTable(endpoint)
	if err != nil {
		return nil, err
	}
	out := filepath.Join(b.dir, "archive")
	cmd := exec.CommandContext(b.ctx, binary, "archive", archiveWeek, "--prefix", "bench", "--endpoint", endpoint, "--archive", out,
		"--scratch", filepath.Join(b.dir, "archive-scratch"), "--without-catalogue")
	cmd.Env = append(os.Environ(), "GOMAXPROCS=2", "AWS_ACCESS_KEY_ID=AK", "AWS_SECRET_ACCESS_KEY=secret", "AWS_REGION=eu-central-1")
	var text bytes.Buffer
	cmd.Stdout, cmd.Stderr = &text, &text
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	memory := watchPeak(cmd.Process.Pid)
	if err := cmd.Wait(); err != nil {
		return nil, fmt.Errorf("%w: %s", err, text.String())
	}
	took := time.Since(began)
	place, err := objects.Parse(out, func() (*s3.Client, error) { return nil, errors.New("the archive is a folder") })
	if err != nil {
		return nil, err
	}
	m, err := manifest.Read(b.ctx, place, archiveTable)
	if err != nil {
		return nil, err
	}
	size, rows := int64(0), int64(0)
	for _, f := range m.Files {
		size, rows = size+f.Bytes, rows+f.Rows
	}
	if rows != samples || m.Samples != samples {
		return nil, fmt.Errorf("%d rows of %d samples, and the manifest says %d", rows, samples, m.Samples)
	}
	results, err := b.analyze(out)
	if err != nil {
		return nil, fmt.Errorf("analyze: %w", err)
	}
	return append([]figure{
		{name: "10 million samples to Parquet", measured: took.Seconds(), unit: "s", bar: 60,
			note: fmt.Sprintf("GOMAXPROCS=2, local endpoint and folder; CPU %.1f s", (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds())},
		{name: "  resident memory", measured: memory(), unit: "MB", bar: 500, note: "peak"},
		{name: "  Parquet", measured: float64(size) / float64(rows), unit: "B/sample", bar: 1.5, note: "all 14 columns, Zstandard"},
		{name: "  the blocks in the table", measured: float64(packed) / float64(samples), unit: "B/sample"},
	}, results...), os.RemoveAll(out)
}

// watchPeak follows a process's peak of resident memory until it has ended, and
// returns what hands that over, in MB. The rusage of a process that Go starts
// will not do: the peak in it is not below the starter's own.
func watchPeak(pid int) func() float64 {
	peak := make(chan float64, 1)
	go func() {
		last := 0.0
		for {
			text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
			_, rest, found := strings.Cut(string(text), "VmHWM:")
			if err != nil || !found { // it has ended
				peak <- last
				return
			}
			line, _, _ := strings.Cut(rest, "kB")
			if kb, err := strconv.ParseFloat(strings.TrimSpace(line), 64); err == nil {
				last = kb * 1024 / 1e6
			}
			time.Sleep(20 * time.Millisecond)
		}
	}()
	return func() float64 { return <-peak }
}

// fillTable makes the week's table and puts the plant's blocks into it.
func (b *bench) fillTable(endpoint string) (samples, packed int64, err error) {
	db := dynamodb.New(dynamodb.Options{Region: "eu-central-1", BaseEndpoint: &endpoint, Credentials: credentials.NewStaticCredentialsProvider("AK", "secret", "")})
	keys, attributes := weekitem.Keys()
	if _, err := db.CreateTable(b.ctx, &dynamodb.CreateTableInput{TableName: aws.String(archiveTable), KeySchema: keys, AttributeDefinitions: attributes,
		BillingMode: types.BillingModePayPerRequest}); err != nil {
		return 0, 0, err
	}
	enc, err := block.NewEncoder()
	if err != nil {
		return 0, 0, err
	}
	seq := uint64(0)
	put := func() error {
		seq++
		n := enc.Len()
		data, err := enc.Encode(nil, block.Header{Site: "plant1", Gateway: "gateway1", Stream: "s0001", Epoch: 7, Seq: seq, Produced: uint64(samples)})
		if err != nil {
			return err
		}
		h, err := block.ReadHeader(data)
		if err != nil {
			return err
		}
		item, _ := weekitem.New(&h, data)
		samples, packed = samples+int64(n), packed+int64(len(data))
		_, err = db.PutItem(b.ctx, &dynamodb.PutItemInput{TableName: aws.String(archiveTable), Item: item})
		return err
	}
	begun := false
	err = codec.Ticks(archiveTicks, func(tags []string, tick []sample.Sample) error {
		if !begun {
			enc.Reset(tags)
			begun = true
		}
		for i := range tick {
			tick[i].Time += int64(archiveShift)
			enc.Add(i, &tick[i])
		}
		if enc.Len() < archiveBlock {
			return nil
		}
		begun = false
		return put()
	})
	if err == nil && begun {
		err = put()
	}
	return samples, packed, err
}
