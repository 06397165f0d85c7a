package modbussim

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"
)

// client speaks raw frames, so that the server is not tested against the
// client that it tests.
type client struct {
	t *testing.T
	net.Conn
}

func dial(t *testing.T, s *Server) client {
	t.Helper()
	c, err := net.Dial("tcp", s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return client{t, c}
}

// ask sends a PDU to slave 1 and returns the next frame.
func (c client) ask(id uint16, pdu string) (frame []byte, err error) {
	c.t.Helper()
	request := binary.BigEndian.AppendUint16(nil, id)
	request = binary.BigEndian.AppendUint32(request, uint32(1+len(pdu)))
	request = append(append(request, 1), pdu...)
	if _, err := c.Write(request); err != nil {
		return nil, err
	}
	return c.next(200 * time.Millisecond)
}

func (c client) next(wait time.Duration) ([]byte, error) {
	if err := c.SetReadDeadline(time.Now().Add(wait)); err != nil {
		return nil, err
	}
	header := make([]byte, 6)
	if _, err := io.ReadFull(c, header); err != nil {
		return nil, err
	}
	body := make([]byte, binary.BigEndian.Uint16(header[4:]))
	_, err := io.ReadFull(c, body)
	return append(header, body...), err
}

func start(t *testing.T, o Options) *Server {
	t.Helper()
	s, err := Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func fill(_ uint8, t Table, address uint16, values []uint16) Exception {
	for i := range values {
		values[i] = address + uint16(i)
		if t == Coil || t == Discrete {
			values[i] &= 1
		}
	}
	return 0
}

// TestFrames compares with the examples' form in V1.1b3, section 6.
func TestFrames(t *testing.T) {
	var mu sync.Mutex
	var written []uint16
	var replies []Reply
	s := start(t, Options{Read: fill,
		Write: func(_ uint8, _ Table, a uint16, v []uint16) Exception {
			mu.Lock()
			defer mu.Unlock()
			written = append(append(written, a), v...)
			return 0
		},
		OnReply: func(r Reply) {
			mu.Lock()
			defer mu.Unlock()
			r.Values = append([]uint16(nil), r.Values...)
			replies = append(replies, r)
		}})
	c := dial(t, s)
	for i, x := range []struct{ pdu, want string }{
		{"\x03\x00\x6B\x00\x03", "\x03\x06\x00\x6B\x00\x6C\x00\x6D"},
		{"\x04\x00\x08\x00\x01", "\x04\x02\x00\x08"},
		{"\x01\x00\x13\x00\x0A", "\x01\x02\x55\x01"},
		{"\x02\x00\x04\x00\x03", "\x02\x01\x02"},
		{"\x05\x00\xAC\xFF\x00", "\x05\x00\xAC\xFF\x00"},
		{"\x06\x00\x01\x00\x03", "\x06\x00\x01\x00\x03"},
		{"\x0F\x00\x13\x00\x0A\x02\xCD\x01", "\x0F\x00\x13\x00\x0A"},
		{"\x10\x00\x01\x00\x02\x04\x00\x0A\x01\x02", "\x10\x00\x01\x00\x02"},
		{"\x2B\x0E\x01\x00\x00", "\xAB\x01"},
		{"\x03\x00\x00\x00\x7E", "\x83\x03"},
		{"\x03\x00\x00\x00\x00", "\x83\x03"},
		{"\x03\xFF\xFF\x00\x02", "\x83\x02"},
		{"\x05\x00\xAC\x12\x34", "\x85\x03"},
		{"\x10\x00\x01\x00\x02\x03\x00\x0A\x01", "\x90\x03"},
	} {
		frame, err := c.ask(uint16(i), x.pdu)
		if err != nil || string(frame[7:]) != x.want || int(frame[1]) != i || frame[6] != 1 {
			t.Errorf("% x: got % x, %v; want % x", x.pdu, frame, err, x.want)
		}
	}
	s.Stop() // the last reply is reported by then
	want := []uint16{0xAC, 1, 1, 3, 0x13, 1, 0, 1, 1, 0, 0, 1, 1, 1, 0, 1, 10, 258}
	mu.Lock()
	defer mu.Unlock()
	if len(written) != len(want) {
		t.Fatalf("written: %v", written)
	}
	for i := range want {
		if written[i] != want[i] {
			t.Errorf("written[%d] is %d, want %d", i, written[i], want[i])
		}
	}
	if len(replies) != 14 || replies[0].Address != 0x6B || replies[0].Values[2] != 0x6D || replies[0].Table != Holding ||
		replies[0].Written.Before(replies[0].Arrived) || replies[9].Exception != IllegalDataValue || len(replies[9].Values) != 0 {
		t.Errorf("reported: %+v", replies)
	}
}

func TestFaultsAreWhatTheySay(t *testing.T) {
	var mu sync.Mutex
	var faults []string
	s := start(t, Options{Read: fill, OnReply: func(r Reply) {
		mu.Lock()
		defer mu.Unlock()
		faults = append(faults, r.Fault)
	}})
	read := "\x03\x00\x07\x00\x01"
	c := dial(t, s)

	s.SetFaults(Faults{WrongTransaction: 1})
	if f, err := c.ask(1, read); err != nil || f[1] == 1 {
		t.Errorf("wrong transaction id: % x, %v", f, err)
	}
	s.SetFaults(Faults{Drop: 1})
	if f, err := c.ask(2, read); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("dropped: % x, %v", f, err)
	}
	s.SetFaults(Faults{Late: 1})
	if f, err := c.ask(3, read); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("late: % x, %v", f, err)
	}
	if f, err := c.ask(4, read); err != nil || f[1] != 3 {
		t.Errorf("the late reply: % x, %v", f, err)
	}
	if f, err := c.next(time.Second); err != nil || f[1] != 4 {
		t.Errorf("the reply behind it: % x, %v", f, err)
	}
	s.SetFaults(Faults{Split: true})
	if f, err := c.ask(5, read); err != nil || string(f[7:]) != "\x03\x02\x00\x07" {
		t.Errorf("split: % x, %v", f, err)
	}
	s.SetFaults(Faults{Delay: 30 * time.Millisecond})
	begin := time.Now()
	if _, err := c.ask(6, read); err != nil || time.Since(begin) < 30*time.Millisecond {
		t.Errorf("delayed: %s, %v", time.Since(begin), err)
	}
	s.SetFaults(Faults{Truncate: 1})
	if f, err := c.ask(7, read); !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("truncated: % x, %v", f, err)
	}
	s.Stop()
	mu.Lock()
	defer mu.Unlock()
	want := []string{FaultTransaction, FaultLate, "", "", ""}
	if len(faults) != len(want) {
		t.Fatalf("reported %q, want %q", faults, want)
	}
	for i := range want {
		if faults[i] != want[i] {
			t.Errorf("reply %d reported as %q, want %q", i, faults[i], want[i])
		}
	}
}

// TestStopLeavesNoHalfReply stops the device under load again and again: what
// clients got and what was reported must be the same.
func TestStopLeavesNoHalfReply(t *testing.T) {
	var mu sync.Mutex
	reported := 0
	s := start(t, Options{Read: fill, OnReply: func(Reply) {
		mu.Lock()
		defer mu.Unlock()
		reported++
	}})
	got := 0
	for range 15 {
		var wg sync.WaitGroup
		for range 3 {
			c := dial(t, s)
			wg.Go(func() {
				for id := uint16(0); ; id++ {
					if _, err := c.ask(id, "\x03\x00\x00\x00\x7D"); err != nil {
						if errors.Is(err, io.ErrUnexpectedEOF) {
							t.Error("a reply was cut")
						}
						return
					}
					mu.Lock()
					got++
					mu.Unlock()
				}
			})
		}
		time.Sleep(5 * time.Millisecond)
		s.Stop()
		wg.Wait()
		if _, err := net.Dial("tcp", s.Addr()); err == nil {
			t.Fatal("a stopped device takes connections")
		}
		if n := s.Connections(); n != 0 {
			t.Fatalf("%d connections to a stopped device", n)
		}
		if err := s.Resume(); err != nil {
			t.Fatal(err)
		}
	}
	if got != reported || got == 0 {
		t.Errorf("clients got %d replies, %d were reported", got, reported)
	}
}
