package batch

import (
	"encoding/hex"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"millrace/sample/block"
)

// bootID reads the kernel's boot id; zero where there is none (a container
// without /proc), which readers take as unknown.
func bootID() (id [16]byte) {
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return id
	}
	raw, err := hex.DecodeString(strings.ReplaceAll(strings.TrimSpace(string(text)), "-", ""))
	if err == nil {
		copy(id[:], raw)
	}
	return id
}

// monoOffset is the wall clock minus CLOCK_BOOTTIME, in ns.
func monoOffset() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0
	}
	return time.Now().UnixNano() - ts.Nano()
}

// clockState asks the kernel whether the wall clock is disciplined: adjtimex(2),
// STA_UNSYNC.
func clockState() block.ClockState {
	var tx unix.Timex
	if _, err := unix.Adjtimex(&tx); err != nil {
		return block.ClockUnknown
	}
	if tx.Status&unix.STA_UNSYNC != 0 {
		return block.ClockFree
	}
	return block.ClockSynced
}
