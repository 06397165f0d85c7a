package netsim

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// echo is a server that answers what it is told, and closes when it is closed.
func echo(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(c, c); c.Close() }()
		}
	}()
	return l.Addr().String()
}

// talk sends a text through the proxy and reads what comes back until the
// connection ends or the time is over.
func talk(t *testing.T, p *Proxy, text string, most time.Duration) (string, error) {
	t.Helper()
	c, err := net.Dial("tcp", p.Addr())
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(most)); err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = io.WriteString(c, text) }()
	got := make([]byte, len(text))
	n, err := io.ReadFull(c, got)
	return string(got[:n]), err
}

func TestProxy(t *testing.T) {
	p, err := StartProxy(echo(t), 1)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	text := strings.Repeat("0123456789", 10_000)
	fair := func() {
		t.Helper()
		if err := p.Set(Weather{}); err != nil {
			t.Fatal(err)
		}
		if got, err := talk(t, p, text, 30*time.Second); err != nil || got != text {
			t.Errorf("in fair weather %d bytes and %v came back", len(got), err)
		}
	}
	fair()
	for kind, want := range map[Kind]func(err error) bool{
		Reset:     func(err error) bool { return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, io.ErrUnexpectedEOF) },
		Cut:       func(err error) bool { return err != nil },
		Deaf:      timeout,
		Frozen:    timeout,
		HalfClose: func(err error) bool { return errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) },
	} {
		if err := p.Set(Weather{Kinds: []Kind{kind}, Share: 1}); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			got, err := talk(t, p, text, 200*time.Millisecond)
			if len(got) == len(text) || !want(err) && !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("%s: %d bytes and %v came back", kind, len(got), err)
			}
			if !strings.HasPrefix(text, got) {
				t.Errorf("%s: other bytes came back", kind)
			}
		}
		if p.Struck()[kind] == 0 {
			t.Errorf("%s struck nothing", kind)
		}
		fair()
	}
	if err := p.Set(Weather{Kinds: []Kind{Slow}, Share: 1}); err != nil {
		t.Fatal(err)
	}
	if got, _ := talk(t, p, text, 200*time.Millisecond); got == text || p.Struck()[Slow] == 0 {
		t.Errorf("a slow connection carried %d bytes in 0.2 s", len(got))
	}
	for range 2 {
		if err := p.Set(Weather{Refuse: true}); err != nil {
			t.Fatal(err)
		}
		if _, err := talk(t, p, text, 200*time.Millisecond); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("refusing, the proxy says %v", err)
		}
		fair()
	}
}

func timeout(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}

// Open connections are hit too, where that is wanted.
func TestProxyHitsLiveConnections(t *testing.T) {
	p, err := StartProxy(echo(t), 7)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	c, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ask := func() error {
		if _, err := io.WriteString(c, strings.Repeat("x", 1<<16)); err != nil {
			return err
		}
		_, err := io.ReadFull(c, make([]byte, 1<<16))
		return err
	}
	if err := ask(); err != nil {
		t.Fatal(err)
	}
	if err := p.Set(Weather{Kinds: []Kind{Cut}, Share: 1, Live: true}); err != nil {
		t.Fatal(err)
	}
	if err := ask(); err == nil {
		t.Error("the connection still answers")
	}
}

func TestNames(t *testing.T) {
	n, err := StartNames("cloud.test")
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	lookup := func(name string) ([]string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		return n.Resolver().LookupHost(ctx, name)
	}
	if got, err := lookup("cloud.test"); err != nil || len(got) != 1 || got[0] != "127.0.0.1" {
		t.Errorf("cloud.test is %v, %v", got, err)
	}
	var dns *net.DNSError
	if _, err := lookup("other.test"); !errors.As(err, &dns) || !dns.IsNotFound {
		t.Errorf("a name that is not there: %v", err)
	}
	for a, want := range map[Answer]func(*net.DNSError) bool{
		ServFail: func(e *net.DNSError) bool { return e.IsTemporary && !e.IsNotFound },
		NoName:   func(e *net.DNSError) bool { return e.IsNotFound },
		Silent:   func(e *net.DNSError) bool { return e.IsTimeout },
	} {
		n.Set(a)
		if _, err := lookup("cloud.test"); !errors.As(err, &dns) || !want(dns) {
			t.Errorf("answer %d: %v", a, err)
		}
	}
}

func TestMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewMemory()
		go func() {
			for {
				c, err := m.Accept()
				if err != nil {
					return
				}
				go func() { _, _ = io.Copy(c, c); c.Close() }()
			}
		}()
		dial := func() (net.Conn, error) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			defer cancel()
			return m.Dial(ctx, "tcp", "cloud:80")
		}
		ask := func(c net.Conn) error {
			if _, err := c.Write([]byte("ping")); err != nil {
				return err
			}
			_, err := io.ReadFull(c, make([]byte, 4))
			return err
		}
		a, err := dial()
		if err != nil {
			t.Fatal(err)
		}
		if err := ask(a); err != nil {
			t.Error(err)
		}
		m.Set(Refused)
		if err := ask(a); err == nil {
			t.Error("a cut connection answers")
		}
		if _, err := dial(); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("refused, the network says %v", err)
		}
		m.Set(Up)
		b, err := dial()
		if err != nil {
			t.Fatal(err)
		}
		m.Set(Dark)
		began := time.Now()
		if _, err := dial(); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != dialTimeout {
			t.Errorf("in the dark a dial ends with %v after %s", err, time.Since(began))
		}
		m.Set(Up)
		answered := make(chan error, 1)
		go func() { answered <- ask(b) }()
		select {
		case err := <-answered:
			t.Errorf("a connection that saw the dark says %v", err)
		case <-time.After(time.Hour):
		}
		b.Close()
		<-answered
		if c, err := dial(); err != nil || ask(c) != nil {
			t.Errorf("after the outage: %v", err)
		}
		m.Close()
		if m.Dials() != 5 {
			t.Errorf("%d dials", m.Dials())
		}
	})
}
