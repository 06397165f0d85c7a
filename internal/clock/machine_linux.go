package clock

import (
	"encoding/hex"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// machine is the system's clocks, as the kernel keeps them.
type machine struct {
	System
	boot  [16]byte
	start time.Time
	// gap is CLOCK_BOOTTIME at start, and what the machine has slept since. The
	// Go runtime's monotonic clock, which needs no system call, stops asleep.
	gap    atomic.Int64 // ns
	asleep int64        // CLOCK_BOOTTIME less CLOCK_MONOTONIC at start, ns
	origin int64        // CLOCK_BOOTTIME at start, ns
}

func newMachine() Source {
	m := &machine{boot: bootID(), start: time.Now()}
	up, asleep, ok := readBoot()
	if !ok {
		// Readings count from the start of this process, and are of no boot.
		m.boot = randomBoot()
		return m
	}
	m.origin, m.asleep = up, asleep
	m.gap.Store(up)
	return m
}

// SinceBoot implements Source.
func (m *machine) SinceBoot() time.Duration { return time.Duration(m.gap.Load()) + time.Since(m.start) }

// Boot implements Source.
func (m *machine) Boot() [16]byte { return m.boot }

// Sync implements Source by adjtimex(2), which needs no privilege to read. Where
// a sandbox denies it, the state is unknown.
func (m *machine) Sync() Sync {
	m.notice()
	var tx unix.Timex
	if _, err := unix.Adjtimex(&tx); err != nil {
		return SyncUnknown
	}
	if tx.Status&unix.STA_UNSYNC != 0 {
		return Unsynchronised
	}
	return Synchronised
}

// notice adds what the machine has slept.
func (m *machine) notice() {
	if _, asleep, ok := readBoot(); ok && asleep > m.asleep+int64(time.Millisecond) {
		m.gap.Store(m.origin + asleep - m.asleep)
	}
}

// readBoot reads CLOCK_BOOTTIME and how far it is ahead of CLOCK_MONOTONIC, in ns.
func readBoot() (up, asleep int64, ok bool) {
	var b, m unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &b) != nil || unix.ClockGettime(unix.CLOCK_MONOTONIC, &m) != nil {
		return 0, 0, false
	}
	return b.Nano(), b.Nano() - m.Nano(), true
}

// bootID reads the kernel's boot id; where there is none (a container without
// /proc), one that is good for this process.
func bootID() (id [16]byte) {
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return randomBoot()
	}
	raw, err := hex.DecodeString(strings.ReplaceAll(strings.TrimSpace(string(text)), "-", ""))
	if err != nil || len(raw) != len(id) {
		return randomBoot()
	}
	copy(id[:], raw)
	return id
}
