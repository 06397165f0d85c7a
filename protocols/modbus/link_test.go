package modbus

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"millrace/internal/clock"
	"millrace/internal/sim/modbussim"
	"millrace/sample"
)

// testLink is a link to sim that is closed with the test.
func testLink(t testing.TB, cfg *Config) *link {
	t.Helper()
	host, err := cfg.hostPort()
	if err != nil {
		t.Fatal(err)
	}
	l := newLink(*cfg, host, clock.System{})
	t.Cleanup(l.close)
	return l
}

// readWord reads one holding register of slave 1.
func readWord(l *link, at uint16) (uint16, error) {
	var buf [maxADU]byte
	data, _, err := l.read(context.Background(), 1, holding, at, 1, buf[:])
	if err != nil {
		return 0, err
	}
	return binary.BigEndian.Uint16(data), nil
}

// numbered is a device whose register n holds n.
func numbered(_ uint8, _ modbussim.Table, address uint16, values []uint16) modbussim.Exception {
	for i := range values {
		values[i] = address + uint16(i)
	}
	return 0
}

func TestForeignAnswersAreNotTaken(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		faults modbussim.Faults
	}{
		{"wrong transaction id", modbussim.Faults{WrongTransaction: 1}},
		{"late answer", modbussim.Faults{Late: 1}},
		{"no answer", modbussim.Faults{Drop: 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var useless atomic.Int32
			sim := startSim(t, modbussim.Options{Read: numbered, OnReply: func(r modbussim.Reply) {
				if r.Fault != "" {
					useless.Add(1)
				}
			}})
			cfg := testConfig(sim)
			cfg.Timeout = 200 * time.Millisecond
			l := testLink(t, cfg)
			sim.SetFaults(c.faults)
			_, err := readWord(l, 11)
			var timeout *timeoutError
			if !errors.As(err, &timeout) {
				t.Fatalf("first read: %v, want a timeout", err)
			}
			if c.faults.WrongTransaction > 0 && timeout.foreign != 1 {
				t.Errorf("the timeout counts %d discarded answers, want 1", timeout.foreign)
			}
			for at := uint16(20); at < 24; at++ {
				if got, err := readWord(l, at); err != nil || got != at {
					t.Fatalf("register %d reads %d, %v", at, got, err)
				}
			}
			if c.faults.Drop == 0 && useless.Load() != 1 {
				t.Errorf("the device sent %d useless answers, want 1", useless.Load())
			}
			if n := sim.Connections(); n != 1 {
				t.Errorf("%d connections, want the first one still", n)
			}
		})
	}
}

func TestAnswerSlowerThanTheTimeout(t *testing.T) {
	t.Parallel()
	sim := startSim(t, modbussim.Options{Read: numbered})
	cfg := testConfig(sim)
	cfg.Timeout = 200 * time.Millisecond
	l := testLink(t, cfg)
	sim.SetFaults(modbussim.Faults{Delay: 250 * time.Millisecond})
	if _, err := readWord(l, 1); err == nil {
		t.Fatal("the first read did not time out")
	}
	sim.SetFaults(modbussim.Faults{})
	// The answer to register 1 comes first now.
	if got, err := readWord(l, 2); err != nil || got != 2 {
		t.Errorf("register 2 reads %d, %v", got, err)
	}
}

func TestSplitSegments(t *testing.T) {
	sim := startSim(t, modbussim.Options{Read: numbered})
	sim.SetFaults(modbussim.Faults{Split: true})
	l := testLink(t, testConfig(sim))
	var buf [maxADU]byte
	data, _, err := l.read(context.Background(), 1, holding, 100, 20, buf[:])
	if err != nil || len(data) != 40 || binary.BigEndian.Uint16(data[38:]) != 119 {
		t.Errorf("got % x, %v", data, err)
	}
}

func TestTruncatedFrame(t *testing.T) {
	t.Parallel()
	sim := startSim(t, modbussim.Options{Read: numbered})
	l := testLink(t, testConfig(sim))
	if _, err := readWord(l, 1); err != nil {
		t.Fatal(err)
	}
	sim.SetFaults(modbussim.Faults{Truncate: -1})
	_, err := readWord(l, 2)
	if qualityOf(err) != sample.BadCommunicationError {
		t.Errorf("got %v, want a lost connection", err)
	}
	sim.SetFaults(modbussim.Faults{})
	time.Sleep(l.retry.Base) // the back-off's longest first wait
	if got, err := readWord(l, 3); err != nil || got != 3 {
		t.Errorf("register 3 reads %d, %v", got, err)
	}
}

func TestConnectionClosedWhileIdle(t *testing.T) {
	sim := startSim(t, modbussim.Options{Read: numbered, Write: func(uint8, modbussim.Table, uint16, []uint16) modbussim.Exception { return 0 }})
	l := testLink(t, testConfig(sim))
	for at := uint16(1); at < 5; at++ {
		if got, err := readWord(l, at); err != nil || got != at {
			t.Fatalf("register %d reads %d, %v", at, got, err)
		}
		sim.Disconnect()
	}
}

func TestDialsOncePerBackOff(t *testing.T) {
	l := newLink(*Protocol{}.NewConfig().(*Config), "192.0.2.1:502", clock.System{})
	dials := 0
	l.dial = func(context.Context, string) (net.Conn, error) {
		dials++
		return nil, errors.New("no route to host")
	}
	for range 50 {
		_, err := readWord(l, 1)
		if qualityOf(err) != sample.BadCommunicationError || !strings.Contains(err.Error(), "no route to host") {
			t.Fatalf("got %v", err)
		}
	}
	if dials != 1 {
		t.Errorf("%d dials for 50 reads within one back-off, want 1", dials)
	}
}

func TestDialHearsCancellation(t *testing.T) {
	l := newLink(*Protocol{}.NewConfig().(*Config), "192.0.2.1:502", clock.System{})
	ctx, cancel := context.WithCancel(context.Background())
	l.dial = func(ctx context.Context, _ string) (net.Conn, error) {
		cancel()
		<-ctx.Done()
		return nil, ctx.Err()
	}
	var buf [maxADU]byte
	if _, _, err := l.read(ctx, 1, holding, 0, 1, buf[:]); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if l.attempts != 0 {
		t.Error("a cancelled dial counts as a failed one")
	}
}

func TestSilentUnitLeavesTimeToOthers(t *testing.T) {
	t.Parallel()
	sim := startSim(t, modbussim.Options{Read: numbered})
	sim.SetFaults(modbussim.Faults{Silent: map[uint8]bool{9: true}})
	cfg := testConfig(sim)
	cfg.Timeout = 150 * time.Millisecond
	l := testLink(t, cfg)
	l.retry.Base, l.retry.Max = time.Hour, 2*time.Hour
	var buf [maxADU]byte
	for i := range 10 {
		_, _, err := l.read(context.Background(), 9, holding, 0, 1, buf[:])
		if qualityOf(err) != sample.BadTimeout {
			t.Fatalf("slave 9, read %d: %v", i, err)
		}
		if got, err := readWord(l, 5); err != nil || got != 5 {
			t.Fatalf("slave 1, read %d: %d, %v", i, got, err)
		}
	}
	if n := sim.Requests(); n != 10+2 {
		t.Errorf("%d requests, want 10 to slave 1 and 2 to slave 9", n)
	}
}

func TestIdleReconnectAndPause(t *testing.T) {
	sim := startSim(t, modbussim.Options{Read: numbered})
	cfg := testConfig(sim)
	cfg.IdleReconnect = 20 * time.Millisecond
	cfg.Pause = 40 * time.Millisecond
	l := testLink(t, cfg)
	dials := 0
	inner := l.dial
	l.dial = func(ctx context.Context, host string) (net.Conn, error) { dials++; return inner(ctx, host) }
	start := time.Now()
	for range 3 {
		if _, err := readWord(l, 1); err != nil {
			t.Fatal(err)
		}
	}
	if d := time.Since(start); d < 2*cfg.Pause {
		t.Errorf("three requests took %s, with pauses of %s", d, cfg.Pause)
	}
	if dials != 3 {
		t.Errorf("%d dials, want one after each idle time", dials)
	}
}

func TestCheckReply(t *testing.T) {
	readTwo := "\x00\x01\x00\x00\x00\x06\x01\x03\x00\x00\x00\x02"
	readNineCoils := "\x00\x01\x00\x00\x00\x06\x01\x01\x00\x00\x00\x09"
	writeOne := "\x00\x01\x00\x00\x00\x06\x01\x06\x00\x07\x00\x2A"
	for _, c := range []struct {
		name, request, reply string
		ok                   bool
	}{
		{"registers", readTwo, "\x00\x01\x00\x00\x00\x07\x01\x03\x04abcd", true},
		{"one register for two", readTwo, "\x00\x01\x00\x00\x00\x05\x01\x03\x02ab", false},
		{"a count beyond the frame", readTwo, "\x00\x01\x00\x00\x00\x05\x01\x03\x04ab", false},
		{"bytes behind the count", readTwo, "\x00\x01\x00\x00\x00\x08\x01\x03\x04abcde", false},
		{"nothing", readTwo, "\x00\x01\x00\x00\x00\x03\x01\x03\x00", false},
		{"bits", readNineCoils, "\x00\x01\x00\x00\x00\x05\x01\x01\x02ab", true},
		{"too few bits", readNineCoils, "\x00\x01\x00\x00\x00\x04\x01\x01\x01a", false},
		{"exception", readTwo, "\x00\x01\x00\x00\x00\x03\x01\x83\x02", true},
		{"long exception", readTwo, "\x00\x01\x00\x00\x00\x04\x01\x83\x02\x00", false},
		{"echo", writeOne, "\x00\x01\x00\x00\x00\x06\x01\x06\x00\x07\x00\x2A", true},
		{"echo of another value", writeOne, "\x00\x01\x00\x00\x00\x06\x01\x06\x00\x07\x00\x2B", false},
		{"short echo", writeOne, "\x00\x01\x00\x00\x00\x04\x01\x06\x00\x07", false},
	} {
		if err := checkReply([]byte(c.request), []byte(c.reply)); (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	for _, other := range []string{
		"\x00\x02\x00\x00\x00\x07\x01\x03\x04abcd",
		"\x00\x01\x00\x00\x00\x07\x02\x03\x04abcd",
		"\x00\x01\x00\x00\x00\x07\x01\x04\x04abcd",
	} {
		if answers([]byte(readTwo), []byte(other)) {
			t.Errorf("% x is taken for the answer", other)
		}
	}
}

// FuzzAnswer feeds hostile bytes to a client: it must end with a value of the
// right length or an error, and never panic.
func FuzzAnswer(f *testing.F) {
	f.Add([]byte("\x00\x01\x00\x00\x00\x07\x01\x03\x04abcd"))
	f.Add([]byte("\x00\x01\x00\x00\x00\x03\x01\x83\x02"))
	f.Add([]byte("\x00\x02\x00\x00\x00\x03\x01\x83\x02\x00\x01\x00\x00\x00\x07\x01\x03\x04abcd"))
	f.Add([]byte("\x00\x01\x00\x00\xFF\xFF\x01\x03"))
	f.Fuzz(func(t *testing.T, answer []byte) {
		l := newLink(*Protocol{}.NewConfig().(*Config), "", clock.System{})
		l.dial = func(context.Context, string) (net.Conn, error) { return &scripted{answer: answer}, nil }
		var buf [maxADU]byte
		data, _, err := l.read(context.Background(), 1, holding, 0, 2, buf[:])
		if err == nil && len(data) != 4 {
			t.Errorf("two registers came as % x", data)
		}
	})
}

// scripted is a connection that answers with fixed bytes and then ends.
type scripted struct {
	net.Conn
	answer []byte
}

func (c *scripted) Write(b []byte) (int, error) { return len(b), nil }
func (c *scripted) SetDeadline(time.Time) error { return nil }
func (c *scripted) Close() error                { return nil }
func (c *scripted) Read(b []byte) (n int, e error) {
	if len(c.answer) == 0 {
		return 0, net.ErrClosed
	}
	n = copy(b, c.answer)
	c.answer = c.answer[n:]
	return n, nil
}
