package spool

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// DirError says that a directory cannot be used as a spool. Nothing in it was
// changed.
type DirError struct {
	Dir  string
	Why  string
	Hint string // what the operator does next
	Err  error  // may be nil
}

func (e *DirError) Error() string { return fmt.Sprintf("spool %s: %s: %s", e.Dir, e.Why, e.Hint) }

func (e *DirError) Unwrap() error { return e.Err }

// Access modes of access(2).
const (
	accessRead   = 4
	accessWrite  = 2
	accessSearch = 1
)

// checkDir looks at a directory, or at where it is to be made, and changes
// nothing. It fails with *DirError where the spool could not be kept there.
func checkDir(dir string) error {
	info, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return checkAbove(dir, filepath.Dir(dir))
	}
	if err != nil {
		return unusable(dir, err)
	}
	if !info.IsDir() {
		return &DirError{Dir: dir, Why: "it is a file, not a directory", Hint: "move the file away, or name another directory in spool.dir"}
	}
	if err := checkAccess(dir, dir, accessRead|accessWrite|accessSearch); err != nil {
		return err
	}
	// What root writes here, the owner cannot open later.
	if owner, ok := uidOf(info); ok && os.Geteuid() == 0 && owner != 0 {
		return wrongOwner(dir, "it", owner)
	}
	list, err := os.ReadDir(dir)
	if err != nil {
		return unusable(dir, err)
	}
	for _, e := range list {
		if err := checkFile(dir, e); err != nil {
			return err
		}
	}
	return nil
}

// checkFile looks at one of the spool's own files.
func checkFile(dir string, e fs.DirEntry) error {
	_, isSegment := segmentID(e.Name())
	if !isSegment && e.Name() != deadName && e.Name() != lockName && !strings.HasSuffix(e.Name(), indexSuffix) {
		return nil
	}
	info, err := e.Info()
	if errors.Is(err, fs.ErrNotExist) {
		return nil // a gateway that runs removes files
	}
	if err != nil {
		return unusable(dir, err)
	}
	if owner, ok := uidOf(info); ok && owner != os.Geteuid() {
		return wrongOwner(dir, "its file "+e.Name(), owner)
	}
	if !info.Mode().IsRegular() {
		return &DirError{Dir: dir, Why: "its " + e.Name() + " is no file", Hint: "name another directory in spool.dir"}
	}
	return checkAccess(dir, filepath.Join(dir, e.Name()), accessRead|accessWrite)
}

// checkAbove looks at the folder in which a spool's directory is to be made.
func checkAbove(dir, above string) error {
	info, err := os.Stat(above)
	if (errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)) && above != filepath.Dir(above) {
		return checkAbove(dir, filepath.Dir(above))
	}
	if err != nil {
		return unusable(dir, err)
	}
	if !info.IsDir() {
		return &DirError{Dir: dir, Why: above + " is a file, not a directory", Hint: "name another directory in spool.dir"}
	}
	return checkAccess(dir, above, accessWrite|accessSearch)
}

func checkAccess(dir, path string, mode uint32) error {
	err := syscall.Access(path, mode)
	if errors.Is(err, syscall.ENOENT) && path != dir {
		return nil // a gateway that runs removes files
	}
	if err != nil {
		return unusable(dir, &fs.PathError{Op: "access", Path: path, Err: err})
	}
	return nil
}

// unusable types an error of the file system.
func unusable(dir string, err error) error {
	e := &DirError{Dir: dir, Why: err.Error(), Hint: "see that user " + userName(os.Geteuid()) + " can use it, or name another directory in spool.dir", Err: err}
	var path *fs.PathError
	what := "it"
	if errors.As(err, &path) && path.Path != dir {
		what = path.Path
	}
	switch {
	case errors.Is(err, syscall.EROFS):
		e.Why, e.Hint = what+" is on a read-only file system", "mount it writable (the kernel may have stopped writing to a failing disk: journalctl -k), or name another directory in spool.dir"
	case errors.Is(err, fs.ErrPermission):
		name := userName(os.Geteuid())
		e.Why = fmt.Sprintf("user %s may not write to %s", name, what)
		e.Hint = fmt.Sprintf("chown -R %s %s, or name another directory in spool.dir", name, dir)
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		e.Why, e.Hint = "the disk is full", "free some space there (df -h), or name a directory on another disk in spool.dir"
	}
	return e
}

func wrongOwner(dir, what string, owner int) error {
	me, them := userName(os.Geteuid()), userName(owner)
	return &DirError{
		Dir: dir, Why: fmt.Sprintf("%s belongs to user %s, and millrace runs as user %s", what, them, me),
		Hint: fmt.Sprintf("run millrace as %s (systemctl start millrace), or chown -R %s %s", them, me, dir),
	}
}

func uidOf(info fs.FileInfo) (uid int, ok bool) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return int(st.Uid), true
}

// userName is a user's name, or number where there is none.
func userName(uid int) string {
	text := strconv.Itoa(uid)
	if u, err := user.LookupId(text); err == nil {
		return u.Username
	}
	return text
}
