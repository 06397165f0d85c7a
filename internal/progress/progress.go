// Package progress says how far a long command has come: in place on a
// terminal, one line a minute elsewhere.
package progress

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/term"

	"millrace/internal/bytesize"
	"millrace/internal/clock"
)

const (
	redraw = 500 * time.Millisecond
	line   = time.Minute
)

// Meter counts bytes, or what else there is. It may be used from any goroutine.
type Meter struct {
	out     io.Writer
	what    string
	inPlace bool
	clock   clock.Clock

	mu      sync.Mutex
	phase   string // what is done to them
	unit    string // "" for bytes
	total   int64
	done    int64
	began   time.Time
	said    time.Time
	started bool // something stands in the line
}

// New makes a meter for total bytes that are read, 0 where that is not known.
// what names the command in its lines.
func New(out io.Writer, what string, total int64, c clock.Clock) *Meter {
	now := c.Now()
	return &Meter{out: out, what: what, phase: "read", total: total, clock: c, began: now, said: now, inPlace: Terminal(out)}
}

// Terminal reports whether what is written is seen on a terminal.
func Terminal(out io.Writer) bool {
	f, ok := out.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// Phase begins to count anew: total of a unit, as in "samples", or bytes where
// that is empty; 0 where the total is not known. done is what is done to them,
// as in "read".
func (m *Meter) Phase(done, unit string, total int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.phase, m.unit, m.total, m.done, m.began = done, unit, total, 0, m.clock.Now()
}

// Add counts n more, and says so where it is time.
func (m *Meter) Add(n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
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
	head := fmt.Sprintf("%s: %s %s", m.what, m.amount(m.done), m.phase)
	if m.total > 0 {
		head = fmt.Sprintf("%s: %.0f %% of %s %s", m.what, min(100, 100*float64(m.done)/float64(m.total)), m.amount(m.total), m.phase)
	}
	if m.unit == "" {
		head += fmt.Sprintf(", %s/s", bytesize.Size(rate))
	} else {
		head += fmt.Sprintf(", %.*f/s", decimals(rate), rate)
	}
	if left := m.total - m.done; m.total > 0 && left > 0 && rate > 0 {
		head += fmt.Sprintf(", %s left", time.Duration(float64(left)/rate*float64(time.Second)).Round(time.Second))
	}
	return head
}

// decimals is how many make a rate readable.
func decimals(rate float64) int {
	if rate < 100 {
		return 1
	}
	return 0
}

// amount is n with its unit.
func (m *Meter) amount(n int64) string {
	if m.unit == "" {
		return bytesize.Size(n).String()
	}
	return fmt.Sprintf("%d %s", n, m.unit)
}

// Done clears the line.
func (m *Meter) Done() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.started {
		fmt.Fprint(m.out, "\r\x1b[K")
		m.started = false
	}
}
