package health

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// Notifier tells the service manager how the daemon fares: sd_notify(3) over
// the datagram socket that NOTIFY_SOCKET names. Where the daemon was not
// started by a service manager all its methods do nothing. It is safe for
// concurrent use.
//
// A message that cannot be sent is dropped: the manager is then gone or
// restarting, the log could not reach it either, and the next one follows
// within seconds.
type Notifier struct {
	addr     *net.UnixAddr // nil where there is no service manager
	watchdog time.Duration
}

// maxStatus bounds the status line, in bytes; systemd takes 4 KiB a message.
const maxStatus = 1024

// NewNotifier reads NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID with getenv
// and leaves them set. A socket that is neither an absolute path nor an
// abstract name ("@..."), or a watchdog time that is no positive number of
// microseconds, is an error; that no variable is set is none.
func NewNotifier(getenv func(string) string) (*Notifier, error) {
	n := new(Notifier)
	name := getenv("NOTIFY_SOCKET")
	if name == "" {
		return n, nil
	}
	// net.Dial takes a leading @ for the abstract name space itself.
	if name[0] != '/' && name[0] != '@' {
		return nil, fmt.Errorf("NOTIFY_SOCKET=%s: not an absolute path and not an abstract name; unset it where millrace is not run by systemd", name)
	}
	n.addr = &net.UnixAddr{Name: name, Net: "unixgram"}
	watchdog, err := watchdogTime(getenv)
	if err != nil {
		return nil, err
	}
	n.watchdog = watchdog
	return n, nil
}

// watchdogTime is 0 where the watchdog is off or meant for another process
// (sd_watchdog_enabled(3)).
func watchdogTime(getenv func(string) string) (time.Duration, error) {
	text := getenv("WATCHDOG_USEC")
	if text == "" {
		return 0, nil
	}
	if pid := getenv("WATCHDOG_PID"); pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return 0, nil
	}
	us, err := strconv.ParseInt(text, 10, 64)
	if err != nil || us <= 0 || us > int64(24*365*time.Hour/time.Microsecond) {
		return 0, fmt.Errorf("WATCHDOG_USEC=%s: not a number of microseconds between 1 and a year; set WatchdogSec= in the unit", text)
	}
	return time.Duration(us) * time.Microsecond, nil
}

// WatchdogInterval returns after how long without Watchdog the service manager
// restarts the daemon; 0 where it does not watch.
func (n *Notifier) WatchdogInterval() time.Duration { return n.watchdog }

// Ready says that the start is over.
func (n *Notifier) Ready(status string) { n.send("READY=1\nSTATUS=" + oneLine(status)) }

// Status sets the line that `systemctl status` shows.
func (n *Notifier) Status(line string) { n.send("STATUS=" + oneLine(line)) }

// Watchdog says that the daemon lives.
func (n *Notifier) Watchdog() {
	if n.watchdog > 0 {
		n.send("WATCHDOG=1")
	}
}

// Stopping says that an orderly stop has begun.
func (n *Notifier) Stopping(status string) { n.send("STOPPING=1\nSTATUS=" + oneLine(status)) }

// send dials anew each time, so that it goes on after the manager re-executed
// itself and nothing has to be closed. It does not block: a full queue drops
// the message when the deadline has passed.
func (n *Notifier) send(message string) {
	if n.addr == nil {
		return
	}
	conn, err := net.DialUnix("unixgram", nil, n.addr)
	if err != nil {
		return
	}
	defer conn.Close()
	if err := conn.SetWriteDeadline(time.Now().Add(time.Second)); err != nil {
		return
	}
	_, _ = conn.Write([]byte(message))
}

// oneLine keeps a status from ending its line, after which systemd would read
// the rest as another variable.
func oneLine(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s)
	if len(s) > maxStatus {
		s = strings.ToValidUTF8(s[:maxStatus], "")
	}
	return s
}
