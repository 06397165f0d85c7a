//go:build interop

package interop

import (
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsddb "github.com/aws/aws-sdk-go-v2/service/dynamodb"
	ddbtypes "github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	awssqs "github.com/aws/aws-sdk-go-v2/service/sqs"

	"millrace/sample"
	"millrace/sample/block"
	"millrace/sample/weektable"
)

// daemon is millrace itself, built and run as a user runs it.
type daemon struct {
	t      *testing.T
	binary string
	config string
	cmd    *exec.Cmd
	out    *output
}

func build(t *testing.T) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "millrace")
	if out, err := exec.Command("go", "build", "-o", binary, "millrace/cmd/millrace").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return binary
}

func (d *daemon) start() {
	d.t.Helper()
	d.cmd = exec.Command(d.binary, "run", "--config", d.config)
	d.cmd.Stdout, d.cmd.Stderr = d.out, d.out
	if err := d.cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
}

// kill is a power cut, as far as a process can have one.
func (d *daemon) kill() {
	_ = d.cmd.Process.Kill()
	_ = d.cmd.Wait()
}

// stop ends the daemon as systemd does; it must end well.
func (d *daemon) stop() {
	d.t.Helper()
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		d.t.Fatal(err)
	}
	if err := d.cmd.Wait(); err != nil {
		d.t.Errorf("millrace ended with: %v", err)
	}
}

// ledgerOf is what blocks say, by tag.
type ledgerOf struct {
	t       *testing.T
	decoder *block.Decoder
	seen    map[string]bool                    // identities
	values  map[string]map[sample.Value]uint64 // Good ones, with their number
}

func newLedger(t *testing.T) *ledgerOf {
	t.Helper()
	d, err := block.NewDecoder()
	if err != nil {
		t.Fatal(err)
	}
	return &ledgerOf{t: t, decoder: d, seen: map[string]bool{}, values: map[string]map[sample.Value]uint64{}}
}

// add takes a block's samples, once.
func (l *ledgerOf) add(data []byte) {
	l.t.Helper()
	b, err := l.decoder.Decode(data)
	if err != nil {
		l.t.Errorf("a block does not decode: %v", err)
		return
	}
	id := b.Header.Identity()
	if l.seen[id] {
		return // sent again after an answer that was lost with the kill
	}
	l.seen[id] = true
	for v := range b.All() {
		if !v.Quality.IsGood() {
			continue
		}
		if l.values[v.Tag] == nil {
			l.values[v.Tag] = map[sample.Value]uint64{}
		}
		l.values[v.Tag][v.Value]++
	}
}

// missing lists which of the numbers 1 to n are not there.
func (l *ledgerOf) missing(tag string, n int) (out []int) {
	for i := 1; i <= n; i++ {
		if l.values[tag][sample.IntValue(int64(i))] == 0 {
			out = append(out, i)
		}
	}
	return out
}

// The whole way on servers of others: a Modbus device and a broker on one side,
// a queue and week tables on the other, with a kill -9 in the middle. No
// message that was acknowledged is missing, no value is wrong.
func TestGatewayOnRealServers(t *testing.T) {
	points, values := plan()
	points, values = points[:30], values[:30]
	_, modbusPort := python(t, "modbus_device.py", points)
	b := startBroker(t, "allow_anonymous true")
	queueURL := elasticMQ(t)
	tables := dynamoDBLocal(t)
	client := sqsClient(t, queueURL)
	queue, err := client.CreateQueue(t.Context(), &awssqs.CreateQueueInput{QueueName: aws.String("plant")})
	if err != nil {
		t.Fatal(err)
	}
	var tags strings.Builder
	for i, p := range points {
		fmt.Fprintf(&tags, "      - {name: p%03d, address: %q, type: %s", i, fmt.Sprintf("%d/%s:%d", p.Slave, p.Table, p.Address), p.Type)
		if p.Order != "" {
			fmt.Fprintf(&tags, ", order: %s", p.Order)
		}
		tags.WriteString("}\n")
	}
	dir := t.TempDir()
	d := &daemon{t: t, binary: build(t), out: new(output), config: write(t, "millrace.yaml", `
gateway: {site: plant, id: gw1}
spool: {dir: %s/spool, max_size: 256MiB, commit_interval: 200ms}
control: {socket: %s/control.sock}
sources:
  - name: plc
    type: modbus
    device: device
    scan_rate: 250ms
    batch: {max_age: 2s}
    connection: {url: "tcp://127.0.0.1:%d"}
    tags:
%s
  - name: broker
    type: mqtt
    device: d
    batch: {max_age: 2s}
    connection: {url: "%s"}
    tags:
      - {name: n, address: d/n, type: int}
sinks:
  - {name: queue, type: sqs, region: %s, queue_url: "%s"}
  - {name: tables, type: dynamodb, region: %s, endpoint: "%s", create_tables: true}
`, dir, dir, modbusPort, tags.String(), b.url("tcp"), region, *queue.QueueUrl, region, tables)}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("millrace printed:\n%s", d.out)
		}
	})
	if out, err := exec.Command(d.binary, "check", "--connect", d.config).CombinedOutput(); err != nil {
		t.Fatalf("check: %v\n%s", err, out)
	}
	d.start()
	defer d.kill()

	socket := filepath.Join(dir, "control.sock")
	up := func() bool {
		return exec.Command(d.binary, "status", "--socket", socket).Run() == nil
	}
	ready(t, "status says that all is up", up)
	const messages = 300
	device := publish(t, b.url("tcp"))
	for n := 1; n <= messages; n++ {
		device.send("d/n", 1, fmt.Sprint(n))
		if n == messages/2 {
			d.kill()
			d.start()
		}
	}
	got := newLedger(t)
	take := func(want int) int {
		list := receive(t, client, *queue.QueueUrl, want)
		for _, m := range list {
			data, err := base64.StdEncoding.DecodeString(m.body)
			if err != nil {
				t.Fatalf("a message's body is not base64: %v", err)
			}
			got.add(data)
		}
		return len(list)
	}
	ready(t, "every message and a value of each point is in the queue", func() bool {
		take(1)
		return len(got.missing("plant/d/n", messages)) == 0 && len(got.values) >= 1+len(points)
	})
	d.stop()
	for waiting(t, client, *queue.QueueUrl) > 0 {
		take(1) // the blocks that were sealed at the stop
	}
	if _, err := os.Stat(socket); err == nil {
		t.Error("the local socket is left behind")
	}

	stored := newLedger(t)
	db := awsddb.New(awsddb.Options{Region: region, BaseEndpoint: &tables, Credentials: keys(t)})
	table := weektable.Table("millrace", time.Now())
	pages := awsddb.NewScanPaginator(db, &awsddb.ScanInput{TableName: &table})
	for pages.HasMorePages() {
		page, err := pages.NextPage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, item := range page.Items {
			stored.add(item[weektable.AttrBlock].(*ddbtypes.AttributeValueMemberB).Value)
		}
	}
	for where, l := range map[string]*ledgerOf{"the queue": got, "the tables": stored} {
		if gone := l.missing("plant/d/n", messages); len(gone) > 0 {
			t.Errorf("in %s messages are missing: %v", where, gone)
		}
		for i, want := range values {
			all := l.values[modbusTag(i)]
			if len(all) != 1 || all[want] == 0 {
				t.Errorf("in %s %s has the values %v, want %s alone", where, modbusTag(i), all, want)
			}
		}
	}
}
