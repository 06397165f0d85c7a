package worker

import (
	"context"
	"crypto/md5"
	"encoding/hex"
	"encoding/json"
	"hash/crc32"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"millrace/cloud/catalogue"
	"millrace/cloud/connect"
	"millrace/internal/bench/codec"
	"millrace/internal/weekitem"
	"millrace/sample"
	"millrace/sample/block"
)

// plantBlock is a block of the generated plant: its first tags, each at every
// step-th second of ticks.
func plantBlock(t testing.TB, ticks, step, tags int) []byte {
	t.Helper()
	names, samples := codec.Plant(ticks)
	enc, err := block.NewEncoder()
	if err != nil {
		t.Fatal(err)
	}
	enc.Reset(names[:tags])
	shift := time.Now().Add(-time.Hour).UnixNano() - samples[0][0].Time
	for k := 0; k < ticks; k += step {
		for i := range tags {
			s := samples[k][i]
			s.Time += shift
			enc.Add(i, &s)
		}
	}
	data, err := enc.Encode(nil, block.Header{Site: "plant1", Gateway: "gw1", Stream: "s0001", Epoch: 1 << 60, Seq: 1, Produced: 12000})
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestWriteUnits: what a million samples cost in write units, by the size of
// their items.
func TestWriteUnits(t *testing.T) {
	perMillion := func(data []byte) (cost float64, units, count int) {
		h, err := block.ReadHeader(data)
		if err != nil {
			t.Fatal(err)
		}
		units = weekitem.WriteUnits(weekitem.Size(&h, len(data)))
		return float64(units) / float64(h.Count) * 1e6, units, h.Count
	}
	cost, units, count := perMillion(plantBlock(t, 60, 1, 200))
	t.Logf("200 tags at 1 s in 60 s blocks: %d units a block of %d samples, %.0f units a million samples", units, count, cost)
	if count != 12000 || cost > 600 {
		t.Errorf("%.0f write units a million samples of 200 tags at 1 s, %d in a block; at most 600", cost, count)
	}
	// 50 meters of 10 tags at 10 s are 500 tags of one scan rate: two streams of
	// 200 tags and one of 100, six samples of each tag in a block.
	large, _, n1 := perMillion(plantBlock(t, 60, 10, 200))
	small, _, n2 := perMillion(plantBlock(t, 60, 10, 100))
	both := (large*float64(2*n1) + small*float64(n2)) / float64(2*n1+n2)
	t.Logf("50 meters of 10 tags at 10 s in 60 s blocks of shared streams: %.0f units a million samples", both)
	alone, units, count := perMillion(plantBlock(t, 60, 10, 10))
	t.Logf("the same with a stream for each meter: %d unit a block of %d samples, %.0f units a million samples", units, count, alone)
	if both > 3000 || alone < both {
		t.Errorf("%.0f write units a million samples in shared streams, %.0f in a stream for each meter", both, alone)
	}
}

// instant is an endpoint of SQS and DynamoDB that always has ten messages and
// takes everything, at once or after a delay.
type instant struct {
	*httptest.Server
	answers [11][]byte // by the number of messages
	delay   time.Duration
	blocks  atomic.Int64 // that were deleted
	enough  int64
	done    chan struct{}
}

func newInstant(t testing.TB, data []byte, blocks int, delay time.Duration) *instant {
	t.Helper()
	m := messageOf(t, data)
	type attribute struct{ DataType, StringValue string }
	type message struct {
		ID                             string `json:"MessageId"`
		ReceiptHandle, Body, MD5OfBody string
		MessageAttributes              map[string]attribute
	}
	attributes := map[string]attribute{}
	for name, v := range m.MessageAttributes {
		attributes[name] = attribute{*v.DataType, *v.StringValue}
	}
	e := &instant{delay: delay, enough: int64(blocks), done: make(chan struct{})}
	var list struct{ Messages []message }
	for i := range maxReceive {
		id := string(rune('a' + i))
		list.Messages = append(list.Messages, message{id, id, *m.Body, md5Hex(*m.Body), attributes})
		text, err := json.Marshal(list)
		if err != nil {
			t.Fatal(err)
		}
		e.answers[i+1] = text
	}
	e.Server = httptest.NewServer(e)
	return e
}

type entry struct {
	ID string `json:"Id"`
}

func (e *instant) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_, action, _ := strings.Cut(r.Header.Get("X-Amz-Target"), ".")
	var body []byte
	if action == "BatchWriteItem" { // large, and not looked at
		_, _ = io.Copy(io.Discard, r.Body)
	} else {
		body, _ = io.ReadAll(r.Body)
	}
	if e.delay > 0 {
		time.Sleep(e.delay)
	}
	w.Header().Set("Content-Type", "application/x-amz-json-1.0")
	switch action {
	case "ReceiveMessage":
		var in struct{ MaxNumberOfMessages int }
		_ = json.Unmarshal(body, &in)
		_, _ = w.Write(e.answers[in.MaxNumberOfMessages])
	case "BatchWriteItem":
		const answer = `{"UnprocessedItems":{}}`
		w.Header().Set("X-Amz-Crc32", strconv.FormatUint(uint64(crc32.ChecksumIEEE([]byte(answer))), 10))
		_, _ = w.Write([]byte(answer))
	case "DeleteMessageBatch":
		var in struct{ Entries []entry }
		_ = json.Unmarshal(body, &in)
		out, _ := json.Marshal(map[string]any{"Successful": in.Entries, "Failed": []string{}})
		_, _ = w.Write(out)
		if n := e.blocks.Add(int64(len(in.Entries))); n >= e.enough && n-int64(len(in.Entries)) < e.enough {
			close(e.done)
		}
	default:
		_, _ = w.Write([]byte(`{}`))
	}
}

// work runs workers on e until it has had enough, and returns the time it took.
func (e *instant) work(t testing.TB, workers, concurrency int) time.Duration {
	t.Helper()
	t.Setenv("AWS_ACCESS_KEY_ID", "AK")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	s := connect.Settings{Region: "eu-central-1", Endpoint: e.URL, OneTry: true, Connections: 2 * concurrency}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	began := time.Now()
	done := make(chan error, workers)
	for range workers {
		cfg, err := connect.Load(ctx, s)
		if err != nil {
			t.Fatal(err)
		}
		o := options(&book{})
		o.QueueURL, o.DeadLetterURL, o.Concurrency = e.URL+"/000000000000/plant", "", concurrency
		o.Records = &catalogue.Store{DB: connect.DynamoDB(cfg, s), Prefix: o.Prefix}
		w, err := New(o, connect.SQS(cfg, o.QueueURL), connect.DynamoDB(cfg, s))
		if err != nil {
			t.Fatal(err)
		}
		go func() { done <- w.Run(ctx) }()
	}
	<-e.done
	took := time.Since(began)
	cancel()
	for range workers {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	return took
}

// BenchmarkOneCore is a worker and the endpoint, which answers at once, together
// on one core.
func BenchmarkOneCore(b *testing.B) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	data := plantBlock(b, 60, 1, 200)
	b.SetBytes(int64(len(data)))
	e := newInstant(b, data, b.N, 0)
	defer e.Close()
	b.ResetTimer()
	took := e.work(b, 1, NewOptions().Concurrency)
	b.ReportMetric(float64(b.N)*12000/took.Seconds()/1e6, "Msamples/s")
}

// BenchmarkSlowEndpoint is one worker, and two, on an endpoint that takes 50 ms
// for each answer.
func BenchmarkSlowEndpoint(b *testing.B) {
	data := plantBlock(b, 60, 1, 200)
	for name, workers := range map[string]int{"one worker": 1, "two workers": 2} {
		b.Run(name, func(b *testing.B) {
			e := newInstant(b, data, b.N, 50*time.Millisecond)
			defer e.Close()
			b.ResetTimer()
			took := e.work(b, workers, 4)
			b.ReportMetric(float64(b.N)*12000/took.Seconds()/1e6, "Msamples/s")
		})
	}
}

// BenchmarkMemory is the most memory that the process has while it moves blocks
// of 180 KiB, the largest by default, at the highest concurrency; the endpoint's
// is in it.
func BenchmarkMemory(b *testing.B) {
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(72 << 20))
	data := noisyBlock(b, 180<<10)
	e := newInstant(b, data, b.N, 0)
	defer e.Close()
	stop, most := make(chan struct{}), make(chan uint64)
	go func() {
		highest := uint64(0)
		t := time.NewTicker(5 * time.Millisecond)
		defer t.Stop()
		read := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
		for {
			select {
			case <-stop:
				most <- highest
				return
			case <-t.C:
				metrics.Read(read)
				highest = max(highest, read[0].Value.Uint64()-read[1].Value.Uint64())
			}
		}
	}()
	b.ResetTimer()
	e.work(b, 1, MaxConcurrency)
	close(stop)
	b.ReportMetric(float64(<-most)/(1<<20), "MiB")
}

// noisyBlock is a block of about n bytes that do not compress.
func noisyBlock(t testing.TB, n int) []byte {
	t.Helper()
	enc, err := block.NewEncoder()
	if err != nil {
		t.Fatal(err)
	}
	enc.Reset([]string{"north/meter/noise"})
	at, x := time.Now().Add(-time.Hour).UnixNano(), uint64(1)
	for i := range n / 8 {
		x = x*6364136223846793005 + 1442695040888963407
		enc.Add(0, &sample.Sample{Tag: "north/meter/noise", Value: sample.IntValue(int64(x)), Time: at + int64(i)})
	}
	data, err := enc.Encode(nil, header(1))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func md5Hex(s string) string {
	sum := md5.Sum([]byte(s))
	return hex.EncodeToString(sum[:])
}
