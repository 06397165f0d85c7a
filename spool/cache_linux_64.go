//go:build linux && !386 && !arm && !mips && !mipsle

package spool

import (
	"os"
	"syscall"
)

// forget asks the kernel to drop a file's pages (posix_fadvise, DONTNEED).
func forget(f *os.File) error {
	const dontNeed = 4
	if _, _, errno := syscall.Syscall6(syscall.SYS_FADVISE64, f.Fd(), 0, 0, dontNeed, 0, 0); errno != 0 {
		return errno
	}
	return nil
}
