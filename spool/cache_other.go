//go:build !linux || 386 || mips || mipsle

package spool

import "errors"

// dropCache cannot be done here, so that a failed write ends the process.
func dropCache(string) error {
	return errors.New("the page cache of a file cannot be dropped on this system")
}
