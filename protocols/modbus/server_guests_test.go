package modbus

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	mb "github.com/goburrow/modbus"

	"millrace/protocols"
	"millrace/protocols/protocolstest"
	"millrace/sample"
)

// What goburrow's client reads is what was written, and values of several
// registers are never torn while they change.
func TestServerIsReadByAClient(t *testing.T) {
	x := newServer(t, nil)
	target := x.target(t, sample.Int64, func(c *ServerTargetConfig) {
		c.Address, c.Type, c.VersionAddress = "holding:0", "uint32", "holding:2"
	})
	until := x.clock.Now().Add(time.Hour)
	write := func(n int64) {
		// Both halves, and the version, say the same number.
		if err := target.Write(t.Context(), protocols.Command{Value: sample.IntValue(n<<16 | n), Version: uint64(n<<16 | n), ValidUntil: until}); err != nil {
			t.Error(err)
		}
	}
	write(1)
	address := x.serve(t)
	handler := mb.NewTCPClientHandler(address)
	handler.SlaveId = 1
	handler.Timeout = 5 * time.Second
	defer handler.Close()
	client := mb.NewClient(handler)
	stop := make(chan struct{})
	var writer sync.WaitGroup
	writer.Go(func() {
		for n := int64(1); ; n = n%60000 + 1 {
			select {
			case <-stop:
				return
			default:
				write(n)
			}
		}
	})
	for range 500 {
		data, err := client.ReadHoldingRegisters(0, 4)
		if err != nil {
			t.Fatal(err)
		}
		if a := data[:2]; !bytes.Equal(a, data[2:4]) || !bytes.Equal(a, data[4:6]) || !bytes.Equal(a, data[6:8]) {
			t.Fatalf("torn: % X", data)
		}
	}
	close(stop)
	writer.Wait()
	if _, err := client.WriteMultipleRegisters(0, 1, []byte{0, 1}); exceptionOf(err) != mb.ExceptionCodeIllegalFunction {
		t.Errorf("a write: %v", err)
	}
	if _, err := client.ReadCoils(0, 1); exceptionOf(err) != mb.ExceptionCodeIllegalDataAddress {
		t.Errorf("a coil: %v", err)
	}
}

// The source of this package reads the server as it does a device.
func TestServerIsReadByASource(t *testing.T) {
	x := newServer(t, func(c *ServerConfig) { c.Slaves = []int{255} })
	target := x.target(t, sample.Float64, func(c *ServerTargetConfig) { c.Address, c.Type, c.Order = "input:5", "float64", "DCBA" })
	if err := target.Write(t.Context(), protocols.Command{Value: sample.FloatValue(0.1), ValidUntil: x.clock.Now().Add(time.Hour)}); err != nil {
		t.Fatal(err)
	}
	cfg := Protocol{}.NewConfig().(*Config)
	cfg.URL, cfg.Slave = "tcp://"+x.serve(t), 255
	conn, err := cfg.Open(protocolstest.Settings())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	source, err := conn.OpenSource(&protocols.SourceConfig{Name: "m", ScanRate: 10 * time.Millisecond,
		Tags: []protocols.Tag{{Name: "p/m/v", Address: "input:5", Type: "float64", Order: "DCBA"}}}, &protocolstest.HealthRecorder{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var got protocolstest.Collector
	ended := make(chan error)
	go func() { ended <- source.Run(ctx, got.Emit) }()
	found := func(q sample.Quality) bool {
		return got.Wait(10*time.Second, func(list []sample.Sample) bool {
			return slices.ContainsFunc(list, func(s sample.Sample) bool { return s.Quality == q })
		})
	}
	if !found(sample.Good) || got.Samples()[0].Value != sample.FloatValue(0.1) {
		t.Errorf("read %+v", got.Samples())
	}
	x.clock.Advance(2 * time.Hour)
	if !found(sample.BadDeviceFailure) {
		t.Error("a value past its validity is not Bad")
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestServerPortInUse(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	x := newServer(t, func(c *ServerConfig) { c.Listen = l.Addr().String() })
	if err := x.Serve(t.Context(), &protocolstest.HealthRecorder{}); err == nil || !strings.Contains(err.Error(), "another program has this port") {
		t.Errorf("got %v", err)
	}
}

// ask reads holding register 0, which holds a value.
func ask(c net.Conn) error {
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	if _, err := io.WriteString(c, "\x00\x01\x00\x00\x00\x06\x01\x03\x00\x00\x00\x01"); err != nil {
		return err
	}
	var buf [11]byte
	_, err := io.ReadFull(c, buf[:])
	return err
}

// More clients than may be connected are turned away, however many come, with
// one line in the log; those that are connected go on.
func TestServerBoundsItsClients(t *testing.T) {
	x := newServer(t, func(c *ServerConfig) { c.MaxConnections = 3 })
	target := x.target(t, sample.Int64, func(c *ServerTargetConfig) { c.Address = "holding:0" })
	if err := target.Write(t.Context(), protocols.Command{Value: sample.IntValue(5), ValidUntil: x.clock.Now().Add(time.Hour)}); err != nil {
		t.Fatal(err)
	}
	address := x.serve(t)
	try := func() (net.Conn, error) {
		c, err := net.Dial("tcp", address)
		if err != nil {
			return nil, err // turned away before it knew that it was connected
		}
		t.Cleanup(func() { c.Close() })
		return c, ask(c)
	}
	var inside []net.Conn
	for range 3 {
		c, err := try()
		if err != nil {
			t.Fatal(err)
		}
		inside = append(inside, c)
	}
	for range 300 {
		if _, err := try(); err == nil {
			t.Fatal("a fourth client is answered")
		}
	}
	for _, c := range inside {
		if err := ask(c); err != nil {
			t.Errorf("a client that was there before is not answered: %v", err)
		}
	}
	if lines := x.logs.lines(); len(lines) != 1 || !strings.Contains(lines[0], "max_connections=3") {
		t.Errorf("logged %d lines: %.2q", len(lines), lines)
	}
	inside[0].Close()
	for deadline := time.Now().Add(10 * time.Second); ; {
		if _, err := try(); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the place of a client that left is not given again")
		}
	}
}

// One address cannot keep the others out by opening all connections.
func TestServerSharesItsConnectionsOut(t *testing.T) {
	x := newServer(t, func(c *ServerConfig) { c.MaxConnections = 4 })
	target := x.target(t, sample.Int64, func(c *ServerTargetConfig) { c.Address = "holding:0" })
	if err := target.Write(t.Context(), protocols.Command{Value: sample.IntValue(5), ValidUntil: x.clock.Now().Add(time.Hour)}); err != nil {
		t.Fatal(err)
	}
	address := x.serve(t)
	asks := func(from string) (net.Conn, error) {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		c, err := d.Dial("tcp", address)
		if err != nil {
			return nil, err
		}
		t.Cleanup(func() { c.Close() })
		return c, ask(c)
	}
	var greedy []net.Conn
	for range 4 {
		c, err := asks("127.0.0.1")
		if err != nil {
			t.Fatal(err)
		}
		greedy = append(greedy, c)
	}
	if _, err := asks("127.0.0.2"); err != nil {
		t.Fatalf("a second address is kept out: %v", err)
	}
	if err := ask(greedy[0]); err == nil {
		t.Error("the first of the address that has most is still served")
	}
	for _, c := range greedy[1:] {
		if err := ask(c); err != nil {
			t.Errorf("another one of it: %v", err)
		}
	}
	if _, err := asks("127.0.0.1"); err == nil {
		t.Error("the address that has most gets one more")
	}
}

func TestServerAnswersThoseAllowedOnly(t *testing.T) {
	x := newServer(t, func(c *ServerConfig) { c.Allow = []string{"192.0.2.0/24"} })
	address := x.serve(t)
	for range 20 {
		c, err := net.Dial("tcp", address)
		if err != nil {
			continue // turned away before it knew that it was connected
		}
		c.SetDeadline(time.Now().Add(10 * time.Second))
		c.Write([]byte("\x00\x01\x00\x00\x00\x06\x01\x03\x00\x00\x00\x01"))
		if n, err := c.Read(make([]byte, 20)); err == nil {
			t.Errorf("a client that is not allowed gets %d bytes", n)
		}
		c.Close()
	}
	if lines := x.logs.lines(); len(lines) != 1 || !strings.Contains(lines[0], "client=127.0.0.1") {
		t.Errorf("logged %q", lines)
	}
	x = newServer(t, func(c *ServerConfig) { c.Allow = []string{"10.0.0.0/8", "127.0.0.1"} })
	for a, want := range map[string]bool{"127.0.0.1": true, "127.0.0.2": false, "10.255.0.1": true, "11.0.0.1": false, "::1": false} {
		ip := net.ParseIP(a)
		if got := x.allowed(remoteOf(addressed{at: &net.TCPAddr{IP: ip, Port: 9}})); got != want {
			t.Errorf("%s: allowed %v", a, got)
		}
	}
}

// addressed is a connection from somewhere.
type addressed struct {
	net.Conn
	at net.Addr
}

func (a addressed) RemoteAddr() net.Addr { return a.at }

// Clients that send nothing, a piece of a request, too much, or nonsense, or do
// not take their answers: each is disconnected in its time.
func TestServerClosesHostileClients(t *testing.T) {
	const ask = "\x00\x01\x00\x00\x00\x06\x01\x03\x00\x64\x00\x02"
	for _, c := range []struct {
		name   string
		send   func(c net.Conn)
		want   error
		within time.Duration
		takes  int // bytes of the answers that the client takes
	}{
		{"nothing", func(net.Conn) {}, errIdle, time.Minute, 0},
		{"a piece", func(c net.Conn) { io.WriteString(c, ask[:9]) }, errSlow, frameTime, 0},
		{"byte by byte", func(c net.Conn) {
			for i := range len(ask) {
				time.Sleep(time.Second)
				if _, err := io.WriteString(c, ask[i:i+1]); err != nil {
					return
				}
			}
		}, errSlow, time.Second + frameTime, 0},
		{"another protocol", func(c net.Conn) { io.WriteString(c, "GET / HTTP/1.1\r\n") }, errNotModbus, 0, 0},
		{"a length of 0", func(c net.Conn) { io.WriteString(c, "\x00\x01\x00\x00\x00\x00\x01\x03\x00\x64\x00\x02") }, errNotModbus, 0, 0},
		{"a length of 1", func(c net.Conn) { io.WriteString(c, "\x00\x01\x00\x00\x00\x01\x01\x03\x00\x64\x00\x02") }, errNotModbus, 0, 0},
		{"a length beyond the frame", func(c net.Conn) { io.WriteString(c, "\x00\x01\x00\x00\x00\xFF\x01\x03\x00\x64\x00\x02") }, errNotModbus, 0, 0},
		{"answers not taken", func(c net.Conn) { io.WriteString(c, ask+ask) }, errSlow, frameTime, 3},
		{"requests ahead, then nothing", func(c net.Conn) { io.WriteString(c, strings.Repeat(ask, 20)) }, errIdle, time.Minute, 20 * 9},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				x := newServer(t, nil)
				x.target(t, sample.Float64, block)
				ours, theirs := net.Pipe()
				sent := make(chan struct{})
				go func() {
					c.send(theirs)
					close(sent)
				}()
				go io.CopyN(io.Discard, theirs, int64(c.takes))
				start := time.Now()
				err := x.converse(ours)
				if !errors.Is(err, c.want) || time.Since(start) != c.within {
					t.Errorf("ended with %v after %s, want %v after %s", err, time.Since(start), c.want, c.within)
				}
				ours.Close()
				theirs.Close()
				<-sent
			})
		})
	}
}

func TestNotesAreBounded(t *testing.T) {
	var l notes
	start := time.Now()
	if n := (note{cause: "full"}); !l.due(n, start) || l.due(n, start.Add(noteEvery-1)) || !l.due(n, start.Add(noteEvery)) {
		t.Error("it is not said once an hour")
	}
	for i := range 1000 {
		a := addressed{at: &net.TCPAddr{IP: net.IPv4(10, 0, byte(i>>8), byte(i))}}
		l.due(note{remoteOf(a), "slow"}, start.Add(noteEvery))
	}
	if len(l) != maxNotes {
		t.Errorf("%d are remembered", len(l))
	}
	if !l.due(note{cause: "new"}, start.Add(3*noteEvery)) || len(l) != 1 {
		t.Errorf("old ones are not forgotten: %d", len(l))
	}
}

func FuzzServerFrames(f *testing.F) {
	for _, s := range []string{
		"\x00\x01\x00\x00\x00\x06\x01\x03\x00\x64\x00\x02",
		"\x00\x01\x00\x00\x00\x06\x01\x01\x00\x00\x07\xD0",
		"\x00\x01\x00\x00\x00\x02\x01\x10",
		"\xFF\xFF\x00\x00\x00\x06\x01\x04\xFF\xFF\x00\x7D\x00\x01",
	} {
		f.Add([]byte(s))
	}
	x := newServer(f, nil)
	target := x.target(f, sample.Float64, block)
	if err := target.Write(f.Context(), protocols.Command{Value: sample.FloatValue(1), ValidUntil: x.clock.Now().Add(time.Hour)}); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bytes.NewReader(data)
		var in [maxADU]byte
		for {
			n, err := readFrame(r, in[:])
			if err != nil {
				return
			}
			out := x.reply(in[:n], make([]byte, 0, maxADU))
			if len(out) > maxADU || len(out) < headerLen+2 || int(binary.BigEndian.Uint16(out[4:])) != len(out)-6 {
				t.Fatalf("% X is answered by % X", in[:n], out)
			}
			if pdu := out[headerLen:]; pdu[0]&0x80 == 0 && (pdu[0] < 1 || pdu[0] > 4 || int(pdu[1]) != len(pdu)-2) {
				t.Fatalf("% X is answered by % X", in[:n], out)
			}
		}
	})
}
