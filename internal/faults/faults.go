// Package faults is the battery of injected faults: `make faults`. Each row is
// one kind of fault. A trial makes a gateway's life hard in a way that its seed
// decides, and then holds what an external ledger saw going in against what
// arrived: see Ledger.Check.
//
// The gateway under test is always a process of its own, which may be killed:
// either the real millrace binary (Daemon), or, where tens of thousands of
// trials are wanted, a small child that runs the whole of package gateway with
// a source and a sink that talk to the parent over a socket (Child).
package faults

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"
)

// Form says how many trials are wanted.
type Form int

// The forms: the tests' own, a few minutes of them, and the issue's.
const (
	Short Form = iota
	Medium
	Full
)

// ParseForm reads a form's name: short, medium or full.
func ParseForm(name string) (Form, error) {
	for f, known := range []string{"short", "medium", "full"} {
		if name == known {
			return Form(f), nil
		}
	}
	return 0, fmt.Errorf("form %q is not short, medium or full", name)
}

// Row is one kind of fault.
type Row struct {
	Name string // one word, for ROW=
	What string // what is done and what must hold, on one line
	// Trials of each form.
	Short, Medium, Full int
	// Parallel is how many seeds may run at the same time; 1 where 0. It is for
	// rows that wait more than they compute.
	Parallel int
	// Needs lists what the machine must have; without it the row is skipped.
	Needs []Need
	// Run runs one trial, or several that share a seed, and returns how many
	// those were. An error is a failure of the gateway or of the harness.
	Run func(ctx context.Context, t *Trial) (int, error)
}

func (r *Row) trials(f Form) int { return [...]int{r.Short, r.Medium, r.Full}[f] }

// Rows lists the battery. The order is that of the table.
func Rows() []Row {
	return append([]Row{
		killRow(),
		killDaemonRow(),
		failpointRow(),
		powerCutRow(),
		corruptRow(),
		nthCallRow(),
		stallRow(),
		diskFullRow(),
		refusalRow(),
		clockRow(),
		mirrorRow(),
		mirrorDaemonRow(),
	}, cloudRows()...)
}

// Trial is one seed's run of a row.
type Trial struct {
	Seed uint64
	// Rand is drawn from the seed alone.
	Rand *rand.Rand
	// Dir is an empty directory of the trial's own, removed after it.
	Dir string
	// Left is how many trials are wanted still: a row that makes many of one
	// seed, such as states of one recording, need not make more.
	Left int
	Form Form
	// Until is when the row's time is over; zero where it has all the time.
	Until time.Time
	*Bench
	log func(format string, args ...any)
}

// Logf adds a line to what is printed should the trial fail.
func (t *Trial) Logf(format string, args ...any) { t.log(format, args...) }

// over reports whether a row that makes many trials of one seed is to end.
func (t *Trial) over(ctx context.Context) bool {
	return ctx.Err() != nil || !t.Until.IsZero() && time.Now().After(t.Until)
}

// Sub makes a directory within the trial's.
func (t *Trial) Sub(name string) (string, error) {
	dir := filepath.Join(t.Dir, name)
	return dir, os.MkdirAll(dir, 0o700)
}

// Need is something that a row needs of the machine.
type Need struct {
	Name string
	// Missing says why it is not there, or "".
	Missing func() string
}

// needRoot is for mounts and for other users' files.
func needRoot() Need {
	return Need{"root", func() string {
		if os.Geteuid() != 0 {
			return "it must run as root"
		}
		return ""
	}}
}

// needFUSE is for the recording file system.
func needFUSE() Need {
	return Need{"FUSE", func() string {
		f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
		if err != nil {
			return err.Error()
		}
		_ = f.Close() // it was only tried
		return ""
	}}
}
