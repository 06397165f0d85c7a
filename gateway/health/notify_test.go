package health

import (
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// manager is the service manager's end of the socket.
func manager(t *testing.T, name string) *net.UnixConn {
	t.Helper()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func receive(t *testing.T, conn *net.UnixConn) string {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 8192)
	n, err := conn.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return string(buf[:n])
}

func env(pairs ...string) func(string) string {
	return func(key string) string {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == key {
				return pairs[i+1]
			}
		}
		return ""
	}
}

func TestNotifierSpeaksToTheManager(t *testing.T) {
	for kind, name := range map[string]string{
		"path":     filepath.Join(t.TempDir(), "notify"),
		"abstract": "@millrace-test-" + strconv.Itoa(os.Getpid()),
	} {
		t.Run(kind, func(t *testing.T) {
			conn := manager(t, name)
			n, err := NewNotifier(env("NOTIFY_SOCKET", name, "WATCHDOG_USEC", "120000000", "WATCHDOG_PID", strconv.Itoa(os.Getpid())))
			if err != nil {
				t.Fatal(err)
			}
			if d := n.WatchdogInterval(); d != 2*time.Minute {
				t.Errorf("the watchdog's time is %s", d)
			}
			n.Ready("2 of 2 sources up")
			n.Status("backlog 0")
			n.Watchdog()
			n.Stopping("stopping")
			for _, want := range []string{"READY=1\nSTATUS=2 of 2 sources up", "STATUS=backlog 0", "WATCHDOG=1", "STOPPING=1\nSTATUS=stopping"} {
				if got := receive(t, conn); got != want {
					t.Errorf("got %q, want %q", got, want)
				}
			}
		})
	}
}

// A device's error text in the status must not become a variable of its own.
func TestStatusStaysOneLine(t *testing.T) {
	name := filepath.Join(t.TempDir(), "notify")
	conn := manager(t, name)
	n, err := NewNotifier(env("NOTIFY_SOCKET", name))
	if err != nil {
		t.Fatal(err)
	}
	n.Status("down: no\nSTOPPING=1\r" + strings.Repeat("ü", 2000))
	got := receive(t, conn)
	if strings.ContainsAny(got, "\n\r") {
		t.Errorf("the message has more than one line: %q", got)
	}
	if len(got) > len("STATUS=")+maxStatus || !strings.HasSuffix(got, "ü") {
		t.Errorf("%d bytes, ending in %q", len(got), got[len(got)-4:])
	}
}

func TestNotifierOutsideSystemd(t *testing.T) {
	n, err := NewNotifier(env("WATCHDOG_USEC", "1000"))
	if err != nil {
		t.Fatal(err)
	}
	n.Ready("x")
	n.Status("x")
	n.Watchdog()
	n.Stopping("x")
	if n.WatchdogInterval() != 0 {
		t.Errorf("a watchdog of %s without a manager", n.WatchdogInterval())
	}
}

func TestWatchdogOfAnotherProcess(t *testing.T) {
	name := filepath.Join(t.TempDir(), "notify")
	conn := manager(t, name)
	n, err := NewNotifier(env("NOTIFY_SOCKET", name, "WATCHDOG_USEC", "1000", "WATCHDOG_PID", "1"))
	if err != nil {
		t.Fatal(err)
	}
	n.Watchdog()
	n.Status("after")
	if got := receive(t, conn); got != "STATUS=after" || n.WatchdogInterval() != 0 {
		t.Errorf("got %q, interval %s", got, n.WatchdogInterval())
	}
}

// A manager that is gone does not fail the daemon, which finds it again.
func TestManagerGone(t *testing.T) {
	name := filepath.Join(t.TempDir(), "notify")
	n, err := NewNotifier(env("NOTIFY_SOCKET", name))
	if err != nil {
		t.Fatal(err)
	}
	n.Status("nobody listens")
	conn := manager(t, name)
	n.Status("here")
	if got := receive(t, conn); got != "STATUS=here" {
		t.Errorf("got %q", got)
	}
}

// A manager that does not read holds the daemon up for a second at most.
func TestManagerDoesNotRead(t *testing.T) {
	name := filepath.Join(t.TempDir(), "notify")
	manager(t, name)
	n, err := NewNotifier(env("NOTIFY_SOCKET", name))
	if err != nil {
		t.Fatal(err)
	}
	for range 10_000 { // the kernel's queue holds ten to some hundred
		start := time.Now()
		n.Status("unread")
		if d := time.Since(start); d > 5*time.Second {
			t.Fatalf("a message took %s", d)
		} else if d > 500*time.Millisecond {
			return
		}
	}
	t.Fatal("the queue never filled, so this test tested nothing")
}

func TestNotifierRefusesNonsense(t *testing.T) {
	for _, tt := range []struct{ socket, watchdog, want string }{
		{"notify", "", "not an absolute path"},
		{"/run/notify", "soon", "not a number of microseconds"},
		{"/run/notify", "-5", "not a number of microseconds"},
		{"/run/notify", "9223372036854775807", "not a number of microseconds"},
	} {
		_, err := NewNotifier(env("NOTIFY_SOCKET", tt.socket, "WATCHDOG_USEC", tt.watchdog))
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("socket %q, watchdog %q: %v", tt.socket, tt.watchdog, err)
		}
	}
}
