// Package progress says how far a long command has come: in place on a
// terminal, one line a minute elsewhere.
package progress

import (
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/term"

	"millrace/internal/bytesize"
	"millrace/internal/clock"
)

const (
	redraw = 500 * time.Millisecond
	line   = time.Minute
)

// Meter counts bytes. It is not safe for concurrent use.
type Meter struct {
	out     io.Writer
	what    string
	total   int64
	inPlace bool
	clock   clock.Clock

	done    int64
	began   time.Time
	said    time.Time
	started bool // something stands in the line
}

// New makes a meter for total bytes, 0 where that is not known. what names the
// command in its lines.
func New(out io.Writer, what string, total int64, c clock.Clock) *Meter {
	f, ok := out.(*os.File)
	now := c.Now()
	return &Meter{out: out, what: what, total: total, clock: c, began: now, said: now,
		inPlace: ok && term.IsTerminal(int(f.Fd()))}
}

// Add counts n bytes more, and says so where it is time.
func (m *Meter) Add(n int64) {
	m.done += n
	now := m.clock.Now()
	every := line
	if m.inPlace {
		every = redraw
	}
	if now.Sub(m.said) < every {
		return
	}
	m.said = now
	if m.inPlace {
		m.started = true
		fmt.Fprintf(m.out, "\r\x1b[K%s", m.text(now)) // erase in line: ECMA-48, 8.3.41
		return
	}
	fmt.Fprintln(m.out, m.text(now))
}

// text is the state in one line: share, rate, time left.
func (m *Meter) text(now time.Time) string {
	rate := float64(m.done) / max(now.Sub(m.began).Seconds(), 1e-3)
	head := fmt.Sprintf("%s: %s read", m.what, bytesize.Size(m.done))
	if m.total > 0 {
		head = fmt.Sprintf("%s: %.0f %% of %s read", m.what, min(100, 100*float64(m.done)/float64(m.total)), bytesize.Size(m.total))
	}
	head += fmt.Sprintf(", %s/s", bytesize.Size(rate))
	if left := m.total - m.done; m.total > 0 && left > 0 && rate > 0 {
		head += fmt.Sprintf(", %s left", time.Duration(float64(left)/rate*float64(time.Second)).Round(time.Second))
	}
	return head
}

// Done clears the line.
func (m *Meter) Done() {
	if m.started {
		fmt.Fprint(m.out, "\r\x1b[K")
		m.started = false
	}
}
