package spool

import (
	"syscall"

	bolt "go.etcd.io/bbolt"
)

// releaseMapped gives up the resident pages of tx's file. They stay in the
// page cache, where they do not count as this process's memory. The mapping
// cannot go away while tx is open.
func releaseMapped(tx *bolt.Tx) {
	info := tx.DB().Info()
	// It is advice: where the kernel refuses it, nothing but memory is lost.
	_, _, _ = syscall.Syscall(syscall.SYS_MADVISE, info.Data, uintptr(tx.Size()), syscall.MADV_DONTNEED)
}
