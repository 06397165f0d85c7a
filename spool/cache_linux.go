//go:build linux && !386 && !mips && !mipsle

package spool

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
	"unsafe"
)

const (
	dropTries = 20
	dropWait  = 10 * time.Millisecond // the kernel drops in its own time
	inMemory  = 1                     // the bit of mincore(2) that says so
)

// dropCache makes the kernel forget what it holds of a file that nobody maps,
// and fails where it does not: after a failed sync the page cache may show what
// the disk never got.
func dropCache(path string) (err error) {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	// Dirty pages are not dropped. Whether they arrive shows when they are read.
	_ = f.Sync()
	for range dropTries {
		if err := forget(f); err != nil {
			return fmt.Errorf("drop the page cache of %s: %w", path, err)
		}
		n, err := resident(f)
		if err != nil {
			return fmt.Errorf("look at the page cache of %s: %w", path, err)
		}
		if n == 0 {
			return nil
		}
		time.Sleep(dropWait)
	}
	return fmt.Errorf("the page cache of %s cannot be dropped, so that nobody can tell what the disk has", path)
}

// resident counts the pages of a file that are in memory.
func resident(f *os.File) (n int, err error) {
	info, err := f.Stat()
	if err != nil || info.Size() == 0 {
		return 0, err
	}
	m, err := syscall.Mmap(int(f.Fd()), 0, int(info.Size()), syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, syscall.Munmap(m)) }()
	pages := make([]byte, (len(m)+os.Getpagesize()-1)/os.Getpagesize())
	_, _, errno := syscall.Syscall(syscall.SYS_MINCORE, uintptr(unsafe.Pointer(&m[0])), uintptr(len(m)), uintptr(unsafe.Pointer(&pages[0])))
	if errno != 0 {
		return 0, errno
	}
	for _, p := range pages {
		n += int(p & inMemory)
	}
	return n, nil
}
