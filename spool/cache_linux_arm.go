package spool

import (
	"os"
	"syscall"
)

// forget asks the kernel to drop a file's pages (posix_fadvise, DONTNEED). Here
// the advice comes before the offset and the length, of two words each.
func forget(f *os.File) error {
	const (
		arm64And64 = 270 // arm_fadvise64_64 in arch/arm/tools/syscall.tbl
		dontNeed   = 4
	)
	if _, _, errno := syscall.Syscall6(arm64And64, f.Fd(), dontNeed, 0, 0, 0, 0); errno != 0 {
		return errno
	}
	return nil
}
