package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	awssqs "github.com/aws/aws-sdk-go-v2/service/sqs"

	"millrace/gateway"
	"millrace/gateway/control"
	"millrace/internal/sim/awssim"
	"millrace/internal/sim/mqttsim"
	"millrace/sample/block"
	"millrace/uploader/awsconf"
)

// kills is how often the daemon is killed: at 50 random moments.
const kills = 50

// buildBinary builds the daemon as it is shipped.
func buildBinary(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "millrace")
	cmd := exec.Command("go", "build", "-o", path, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return path
}

// freePort returns a loopback port that was free a moment ago.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// ackedKey is a sample as its producer knows it.
type ackedKey struct {
	tag string
	seq uint64
}

// producers post samples until they are stopped and keep what was confirmed.
type producers struct {
	url  string
	wg   sync.WaitGroup
	stop chan struct{}

	mu    sync.Mutex
	acked map[ackedKey]float64
}

func (p *producers) run(n int) {
	for id := range n {
		p.wg.Go(func() {
			client := &http.Client{Timeout: 3 * time.Second}
			tag := fmt.Sprintf("p%d/v", id)
			for seq := uint64(1); ; seq += 3 {
				select {
				case <-p.stop:
					return
				default:
				}
				type entry struct {
					Tag   string  `json:"tag"`
					Value float64 `json:"value"`
					Seq   uint64  `json:"seq"`
				}
				var list []entry
				for i := range uint64(3) {
					list = append(list, entry{tag, float64(id)*1e7 + float64(seq+i), seq + i})
				}
				body, err := json.Marshal(map[string]any{"producer": "p" + strconv.Itoa(id), "samples": list})
				if err != nil {
					panic(err)
				}
				for !p.post(client, body) { // again with the same sequences
					select {
					case <-p.stop:
						return
					case <-time.After(10 * time.Millisecond):
					}
				}
				p.mu.Lock()
				for _, e := range list {
					p.acked[ackedKey{"plant/" + e.Tag, e.Seq}] = e.Value
				}
				p.mu.Unlock()
			}
		})
	}
}

func (p *producers) post(client *http.Client, body []byte) bool {
	resp, err := client.Post(p.url, "application/json", bytes.NewReader(body))
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// sensor publishes by MQTT, QoS 1, and keeps what the gateway confirmed: the
// values by the device's time, which keys them.
type sensor struct {
	broker *mqttsim.Broker

	mu    sync.Mutex
	sent  map[uint16][]byte // by packet identifier
	acked map[int64]float64
}

type sensorMessage struct {
	Value float64   `json:"value"`
	Time  time.Time `json:"time"`
}

func startSensor(t *testing.T) *sensor {
	t.Helper()
	s := &sensor{sent: map[uint16][]byte{}, acked: map[int64]float64{}}
	broker, err := mqttsim.Start(mqttsim.Options{
		OnSent: func(m mqttsim.Sent) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.sent[m.ID] = m.Payload
		},
		OnAck: func(a mqttsim.Ack) {
			s.mu.Lock()
			defer s.mu.Unlock()
			payload, ok := s.sent[a.ID]
			if !ok {
				return // confirmed before the broker told of it; not counted
			}
			delete(s.sent, a.ID)
			var m sensorMessage
			if err := json.Unmarshal(payload, &m); err != nil {
				t.Errorf("acknowledged %d: %v", a.ID, err)
			}
			s.acked[m.Time.UnixNano()] = m.Value
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	s.broker = broker
	return s
}

// run publishes until stop is closed.
func (s *sensor) run(stop <-chan struct{}) {
	at := time.Now().UTC().Truncate(time.Second)
	for i := 1; ; i++ {
		select {
		case <-stop:
			return
		case <-time.After(time.Millisecond):
		}
		text, err := json.Marshal(sensorMessage{float64(i) + 0.5, at.Add(time.Duration(i) * time.Millisecond)})
		if err != nil {
			panic(err)
		}
		_ = s.broker.Publish("mq/x", text, 1, false) // what the broker refuses is not acknowledged either
	}
}

// arrivals decode what the queue accepted.
type arrivals struct {
	t      *testing.T
	mu     sync.Mutex
	dec    *block.Decoder
	blocks map[string][]byte
	values map[ackedKey]float64
	sensed map[int64]float64                  // of the sensor, by the device's time
	seqs   map[string]map[uint64]block.Header // stream and epoch to the blocks
}

func (a *arrivals) accept(m awssim.Accepted) {
	a.mu.Lock()
	defer a.mu.Unlock()
	data, err := base64.StdEncoding.DecodeString(string(m.Body))
	if err != nil {
		a.t.Errorf("message body: %v", err)
		return
	}
	b, err := a.dec.Decode(data)
	if err != nil {
		a.t.Errorf("block: %v", err)
		return
	}
	id := b.Header.Identity()
	if before, ok := a.blocks[id]; ok {
		if !bytes.Equal(before, data) {
			a.t.Errorf("block %s was sent with two different contents", id)
		}
		return
	}
	a.blocks[id] = data
	stream := fmt.Sprintf("%s/%x", b.Header.Stream, b.Header.Epoch)
	if a.seqs[stream] == nil {
		a.seqs[stream] = map[uint64]block.Header{}
	}
	a.seqs[stream][b.Header.Seq] = b.Header
	for s := range b.All() {
		got, _ := s.Value.Number()
		if s.Tag == "plant/mq/x" && s.Quality.IsGood() {
			if v, ok := a.sensed[s.SourceTime]; ok && v != got {
				a.t.Errorf("the sensor's value of %d is both %v and %v", s.SourceTime, v, got)
			}
			a.sensed[s.SourceTime] = got
		}
		if s.Producer == "" {
			continue
		}
		key := ackedKey{s.Tag, s.Seq}
		if v, ok := a.values[key]; ok && v != got {
			a.t.Errorf("%s sequence %d is both %v and %v", s.Tag, s.Seq, v, got)
		}
		a.values[key] = got
	}
}

// checkSequences sees that every stream's blocks are there without a hole and
// that their counts add up to what the headers say was produced.
func (a *arrivals) checkSequences() {
	for stream, blocks := range a.seqs {
		var sum uint64
		for seq := uint64(1); seq <= uint64(len(blocks)); seq++ {
			h, ok := blocks[seq]
			if !ok {
				a.t.Errorf("stream %s has %d blocks, but none with sequence %d", stream, len(blocks), seq)
				break
			}
			sum += uint64(h.Count)
			if h.Produced != sum || h.Lost != 0 {
				a.t.Errorf("stream %s block %d: header says %d produced and %d lost, its blocks hold %d", stream, seq, h.Produced, h.Lost, sum)
				break
			}
		}
	}
}

// TestKill kills the daemon with SIGKILL at random moments under load. Every
// sample that was confirmed to its producer must arrive, and once.
func TestKill(t *testing.T) {
	binary := buildBinary(t)
	cloud, err := awssim.Start(awssim.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer cloud.Close()
	client := awssqs.New(awssqs.Options{Region: "eu-central-1", BaseEndpoint: aws.String(cloud.URL(awssim.ServiceSQS)),
		Credentials: credentials.NewStaticCredentialsProvider("test", "test", ""), HTTPClient: awsconf.Steady(http.DefaultClient)})
	if _, err := client.CreateQueue(t.Context(), &awssqs.CreateQueueInput{QueueName: aws.String("q")}); err != nil {
		t.Fatal(err)
	}
	dec, err := block.NewDecoder()
	if err != nil {
		t.Fatal(err)
	}
	got := &arrivals{t: t, dec: dec, blocks: map[string][]byte{}, values: map[ackedKey]float64{}, sensed: map[int64]float64{}, seqs: map[string]map[uint64]block.Header{}}
	cloud.OnAccept(got.accept)

	mq := startSensor(t)
	defer mq.broker.Close()
	dir := t.TempDir()
	port := freePort(t)
	socket := filepath.Join(dir, "c.sock")
	config := filepath.Join(dir, "millrace.yaml")
	text := fmt.Sprintf(`gateway: {site: plant, id: gw1}
spool: {dir: %q, commit_interval: 200ms}
control: {socket: %q}
sources:
  - {name: in, type: http, batch: {max_age: 300ms}, connection: {listen: "127.0.0.1:%d"}}
  - {name: mq, type: mqtt, batch: {max_age: 300ms}, connection: {url: %q, topics: [{filter: "mq/#"}]}}
sinks:
  - {name: cloud, type: sqs, queue_url: %q, region: eu-central-1, endpoint: %q, credentials: {access_key_id: test, secret_access_key: "env:TEST_SECRET"}}
`, filepath.Join(dir, "spool"), socket, port, mq.broker.URL(), cloud.QueueURL("q"), cloud.URL(awssim.ServiceSQS))
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	start := func() (*exec.Cmd, *bytes.Buffer) {
		cmd := exec.Command(binary, "run", "--config", config)
		cmd.Env = append(os.Environ(), "TEST_SECRET=test")
		var log bytes.Buffer
		cmd.Stderr = &log
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd, &log
	}

	p := &producers{url: fmt.Sprintf("http://127.0.0.1:%d/v1/samples", port), stop: make(chan struct{}), acked: map[ackedKey]float64{}}
	p.run(4)
	p.wg.Go(func() { mq.run(p.stop) })
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for range kills {
		cmd, _ := start()
		time.Sleep(time.Duration(random.IntN(700)) * time.Millisecond)
		if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // it was killed
	}

	cmd, log := start()
	time.Sleep(500 * time.Millisecond)
	close(p.stop)
	p.wg.Wait()
	drained := waitDrained(t.Context(), socket, 30*time.Second)
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("the daemon ended with %v\n%s", err, log)
	}
	if drained != nil {
		t.Fatalf("%v\n%s", drained, log)
	}
	if len(p.acked) == 0 {
		t.Fatal("nothing was acknowledged, so nothing was tested")
	}
	missing := 0
	for key, value := range p.acked {
		if v, ok := got.values[key]; !ok {
			missing++
			if missing <= 5 {
				t.Errorf("%s sequence %d was acknowledged and did not arrive", key.tag, key.seq)
			}
		} else if v != value {
			t.Errorf("%s sequence %d arrived as %v, %v was sent", key.tag, key.seq, v, value)
		}
	}
	mq.mu.Lock()
	defer mq.mu.Unlock()
	if len(mq.acked) == 0 {
		t.Error("no message was acknowledged")
	}
	for at, value := range mq.acked {
		if v, ok := got.sensed[at]; !ok || v != value {
			missing++
			t.Errorf("the message of %d with %v was acknowledged; arrived: %v, %v", at, value, ok, v)
		}
	}
	got.checkSequences()
	t.Logf("%d kills; acknowledged: %d samples by HTTP, %d messages; arrived after keying: %d and %d in %d blocks; %d missing",
		kills, len(p.acked), len(mq.acked), len(got.values), len(got.sensed), len(got.blocks), missing)
}

// waitDrained waits until the daemon on a socket has nothing left.
func waitDrained(ctx context.Context, socket string, most time.Duration) error {
	deadline := time.Now().Add(most)
	for {
		var st gateway.Status
		err := control.Call(ctx, socket, "/v1/status", nil, &st)
		if err == nil {
			left := int(st.Spool.OpenSamples)
			for _, s := range st.Spool.Sinks {
				left += s.PendingBlocks
			}
			if left == 0 {
				return nil
			}
			err = fmt.Errorf("%d open samples and blocks are left: %s", left, st.Line)
		}
		if time.Now().After(deadline) {
			return err
		}
		time.Sleep(50 * time.Millisecond)
	}
}
