package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"millrace/internal/sim/modbussim"
	"millrace/internal/sim/mqttsim"
)

// slaves starts n Modbus devices that answer with slowly moving floats.
func slaves(n int) ([]*modbussim.Server, error) {
	var out []*modbussim.Server
	for i := range n {
		var step atomic.Uint32
		s, err := modbussim.Start(modbussim.Options{Read: func(_ uint8, _ modbussim.Table, address uint16, values []uint16) modbussim.Exception {
			k := step.Add(1)
			for j := 0; j+1 < len(values); j += 2 {
				v := float32(math.Round(10*(200+20*math.Sin(float64(k)/900+float64(int(address)+i*40+j)))) / 10)
				bits := math.Float32bits(v)
				values[j], values[j+1] = uint16(bits>>16), uint16(bits)
			}
			return 0
		}})
		if err != nil {
			closeAll(out)
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

func closeAll(servers []*modbussim.Server) {
	for _, s := range servers {
		// The measurement is over.
		_ = s.Close()
	}
}

// meterConfig is a Modbus source of n float32 tags.
func meterConfig(name, url, scanRate string, n int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "  - name: %s\n    type: modbus\n    scan_rate: %s\n    connection: {url: %q}\n    tags:\n", name, scanRate, url)
	for i := range n {
		fmt.Fprintf(&b, "      - {name: r%03d, address: \"holding:%d\", type: float32}\n", i, 2*i)
	}
	return b.String()
}

// modbus: 10 slaves of 20 float32 at 100 Hz, the gateway alone in its process.
func (b *bench) modbus() ([]figure, error) {
	servers, err := slaves(10)
	if err != nil {
		return nil, err
	}
	defer closeAll(servers)
	var sources strings.Builder
	var addresses []string
	for i, s := range servers {
		sources.WriteString(meterConfig(fmt.Sprintf("m%02d", i), s.URL(), "10ms", 20))
		addresses = append(addresses, s.Addr())
	}
	bare, err := floor(b.ctx, addresses, b.d/2)
	if err != nil {
		return nil, err
	}
	d, err := b.start(setup{name: "modbus", sources: sources.String()})
	if err != nil {
		return nil, err
	}
	defer d.stop()
	us, rate, err := d.perSample(b.ctx, b.d)
	if err != nil {
		return nil, err
	}
	rss, err := d.peakRSS()
	if err != nil {
		return nil, err
	}
	return []figure{
		{name: "10 slaves × 20 float32 at 100 Hz, CPU", measured: us, unit: "µs/sample", bar: 2, note: fmt.Sprintf("%.0f samples/s over %s", rate, b.d)},
		{name: "  the same requests by a bare loop", measured: bare, unit: "µs/sample", note: "what the system takes of it: a write, a read and a wake-up each"},
		{name: "  peak resident memory", measured: rss, unit: "MB"},
	}, nil
}

// memory: resident set with 200 tags and with 10,000, at 1 s.
func (b *bench) memory() ([]figure, error) {
	var out []figure
	for _, m := range []struct{ slaves, each, bar int }{{2, 100, 30}, {100, 100, 100}} {
		servers, err := slaves(m.slaves)
		if err != nil {
			return nil, err
		}
		var sources strings.Builder
		for i, s := range servers {
			sources.WriteString(meterConfig(fmt.Sprintf("m%02d", i), s.URL(), "1s", m.each))
		}
		d, err := b.start(setup{name: fmt.Sprintf("memory%d", m.slaves), sources: sources.String()})
		if err != nil {
			closeAll(servers)
			return nil, err
		}
		// Past the first seal, at 60 s, with every buffer in use.
		pause(b.ctx, max(b.d, 75*time.Second))
		rss, err := d.peakRSS()
		d.stop()
		closeAll(servers)
		if err != nil {
			return nil, err
		}
		out = append(out, figure{name: fmt.Sprintf("%d tags at 1 s, peak resident memory", m.slaves*m.each), measured: rss, unit: "MB", bar: float64(m.bar)})
	}
	return out, nil
}

func sensorConfig(url string) string {
	return fmt.Sprintf("  - name: sensors\n    type: mqtt\n    connection: {url: %q, qos: 1, topics: [{filter: \"load/#\"}]}\n", url)
}

// mqtt: 10,000 messages/s at QoS 1 from several clients, and as fast as one
// client of Mosquitto can with its default of 20 messages in flight.
func (b *bench) mqtt() ([]figure, error) {
	broker, err := mqttsim.Start(mqttsim.Options{})
	if err != nil {
		return nil, err
	}
	defer broker.Close()
	d, err := b.start(setup{name: "mqtt", sources: sensorConfig(broker.URL())})
	if err != nil {
		return nil, err
	}
	load, stop := context.WithCancel(b.ctx)
	var clients sync.WaitGroup
	failed := make(chan error, 8)
	for i := range 8 {
		clients.Go(func() { failed <- publish(load, broker.URL(), fmt.Sprintf("load/c%d/v", i), 1250) })
	}
	us, rate, err := d.perSample(b.ctx, b.d)
	stop()
	clients.Wait()
	d.stop()
	if err != nil {
		return nil, err
	}
	for range 8 {
		if err := <-failed; err != nil {
			return nil, err
		}
	}
	out := []figure{
		{name: "MQTT QoS 1, 8 clients, durable, CPU", measured: us, unit: "µs/message", bar: 20},
		{name: "  rate", measured: rate, unit: "messages/s", bar: 9900, atLeast: true, note: "10,000/s are sent"},
	}
	one, err := b.mosquitto()
	if err != nil {
		return nil, err
	}
	return append(out, one), nil
}

// publish sends rate messages/s in bursts of a hundredth of a second.
func publish(ctx context.Context, url, topic string, rate int) error {
	c := mqtt.NewClient(mqtt.NewClientOptions().AddBroker(url).SetClientID(topic).SetOrderMatters(false))
	if t := c.Connect(); t.Wait() && t.Error() != nil {
		return fmt.Errorf("publisher: %w", t.Error())
	}
	defer c.Disconnect(250)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	start, sent := time.Now(), 0
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		for due := int(time.Since(start).Seconds() * float64(rate)); sent < due; sent++ {
			c.Publish(topic, 1, false, fmt.Sprintf("%d.5", sent))
		}
	}
}

// mosquitto measures one publisher through the real broker. The bar is a rate,
// so the publisher sends as fast as the broker's acknowledgements let it.
func (b *bench) mosquitto() (figure, error) {
	f := figure{name: "one publisher through Mosquitto, 20 in flight", unit: "messages/s", bar: 2000, atLeast: true}
	path, err := exec.LookPath("mosquitto")
	if err != nil {
		for _, p := range []string{"/usr/sbin/mosquitto"} {
			if path, err = exec.LookPath(p); err == nil {
				break
			}
		}
	}
	if err != nil {
		f.missing = "mosquitto is not installed"
		return f, nil
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return f, err
	}
	port := l.Addr().(*net.TCPAddr).Port
	if err := l.Close(); err != nil {
		return f, err
	}
	// The in-flight window stays at its default of 20; only the queue behind it
	// is unbounded, since the publisher is faster and the broker drops the rest.
	conf := filepath.Join(b.dir, "mosquitto.conf")
	text := fmt.Sprintf("listener %d 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\n", port)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return f, err
	}
	cmd := exec.CommandContext(b.ctx, path, "-c", conf)
	if err := cmd.Start(); err != nil {
		return f, err
	}
	defer func() {
		// It is killed; how it ends says nothing.
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	url := fmt.Sprintf("tcp://127.0.0.1:%d", port)
	pause(b.ctx, time.Second)
	d, err := b.start(setup{name: "mosquitto", sources: sensorConfig(url)})
	if err != nil {
		return f, err
	}
	defer d.stop()
	c := mqtt.NewClient(mqtt.NewClientOptions().AddBroker(url).SetClientID("pub").SetOrderMatters(false))
	if t := c.Connect(); t.Wait() && t.Error() != nil {
		return f, fmt.Errorf("publisher: %w", t.Error())
	}
	defer c.Disconnect(250)
	first, err := d.status(b.ctx)
	if err != nil {
		return f, err
	}
	before := first.Sources["sensors"].In
	const total = 20_000
	ahead := make(chan struct{}, 200)
	began := time.Now()
	for i := range total {
		ahead <- struct{}{}
		t := c.Publish("load/one/v", 1, false, fmt.Sprintf("%d.5", i))
		go func() { t.Wait(); <-ahead }()
	}
	for {
		now, err := d.status(b.ctx)
		if err != nil {
			return f, err
		}
		if now.Sources["sensors"].In-before >= total {
			f.note = fmt.Sprintf("%d commits", now.Spool.Commits-first.Spool.Commits)
			break
		}
		if time.Since(began) > time.Minute {
			return f, errors.New("messages did not arrive within a minute")
		}
		pause(b.ctx, 5*time.Millisecond)
	}
	f.measured = total / time.Since(began).Seconds()
	return f, nil
}
